//! `tool tsdb import`: the blocks and the log of a Prometheus, sent to a running server.
//!
//! Block by block, of a block some hours at a time, of those target by target: so the server gets what was scraped
//! together at once, and neither side holds more than a request.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::ArgMatches;
use narthex_model::Matcher;

use super::head::{self, Wanted};
use super::send::{Counts, Sender};
use super::{Outcome, data_folder, selectors, server, times};
use crate::tool::blocks::{Block, Decoded, Index, Log, utc};

/// How much time of a block is sent at once: with a scrape every 15 seconds as many rows as the server's windows have.
const SLICE: i64 = 6 * 3_600_000;
const TELL_EVERY: Duration = Duration::from_secs(2);

/// A series of a block, in the order in which they are sent: by target, then by labels. The targets' labels are by
/// their symbols.
type Place = (u32, u32, u64);

pub struct Progress {
    begun: Instant,
    told: Instant,
    quiet: bool,
    terminal: bool,
    /// Parts that could not be read.
    damaged: u64,
}

impl Progress {
    pub fn damage(&mut self, e: &anyhow::Error) {
        self.damaged += 1;
        eprintln!("damaged, left out: {e:#}");
    }

    fn tell(&mut self, block: &str, until: i64, counts: &Counts) {
        if self.quiet || !self.terminal || self.told.elapsed() < TELL_EVERY {
            return;
        }
        self.told = Instant::now();
        eprint!("\r{block}: {} samples sent, at {}   ", counts.sent, utc(until));
    }
}

pub fn run(m: &ArgMatches) -> Outcome {
    let folder = data_folder(m)?;
    let server = server(m)?;
    let (mint, maxt) = times(m)?;
    let selectors = selectors(m)?;
    let blocks: Vec<_> = folder.blocks.iter().filter(|b| b.1.min_time <= maxt && b.1.max_time > mint).collect();
    let now = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    let mut progress = Progress { begun: now, told: now, quiet: m.get_flag("quiet"), terminal, damaged: 0 };
    let mut sender = Sender::new(&server);
    for (i, block) in blocks.iter().enumerate() {
        let meta = &block.1;
        let before = sender.counts;
        match Block::open(block) {
            Ok(opened) => send_block(&opened, (mint, maxt), &selectors, &mut sender, &mut progress)
                .with_context(|| format!("block {}", meta.ulid))?,
            Err(e) => progress.damage(&e.context(format!("block {}", meta.ulid))),
        }
        if !progress.quiet {
            let end = if progress.terminal { "\r" } else { "" };
            let done = difference(&sender.counts, &before);
            let (from, to) = (utc(meta.min_time), utc(meta.max_time));
            eprint!("{end}");
            println!("{} of {}: {} from {from} to {to}, {}", i + 1, blocks.len(), meta.ulid, done.text());
        }
    }
    let logs = ["wal", "wbl"].map(|name| Log::open(&folder.path.join(name)));
    let with_log = !m.get_flag("no-wal") && !logs.iter().all(Log::is_empty);
    if with_log {
        let before = sender.counts;
        // Of the log Prometheus itself takes only what is not in blocks; late samples may be from any time.
        let wanted = [mint.max(folder.in_order_end()), mint];
        let wanted = wanted.map(|mint| Wanted { mint, maxt, selectors: &selectors });
        head::send([&logs[0], &logs[1]], wanted, &mut sender, &mut progress).context("write-ahead log")?;
        if !progress.quiet {
            println!("write-ahead log: {}", difference(&sender.counts, &before).text());
        }
    }
    let seconds = progress.begun.elapsed().as_secs_f64();
    if !progress.quiet {
        let rate = sender.counts.sent as f64 / seconds.max(0.001);
        println!("{} in {seconds:.1} s ({rate:.0} a second)", sender.counts.text());
    }
    if let Some(text) = folder.left_out().filter(|_| m.get_flag("no-wal")) {
        eprintln!("{text}");
    }
    if blocks.is_empty() && !with_log {
        bail!("no blocks in {} in that time", folder.path.display());
    }
    if progress.damaged > 0 {
        bail!("{} damaged parts were left out", progress.damaged);
    }
    Ok(())
}

fn difference(a: &Counts, b: &Counts) -> Counts {
    Counts {
        sent: a.sent - b.sent,
        taken: a.taken - b.taken,
        known: a.known - b.known,
        duplicate: a.duplicate - b.duplicate,
        too_old: a.too_old - b.too_old,
        too_new: a.too_new - b.too_new,
        invalid: a.invalid - b.invalid,
    }
}

/// The series of a block that match, by target.
fn by_target(index: &Index, selectors: &[Vec<Matcher>]) -> anyhow::Result<Vec<Place>> {
    let (job, instance) = (index.number("job")?, index.number("instance")?);
    let all = selectors.iter().any(Vec::is_empty);
    let mut places = Vec::new();
    index.each(|series| {
        if all || selectors_match(selectors, &index.labels(&series)?) {
            let value = |name: Option<u32>| series.labels.iter().find(|l| Some(l.0) == name).map_or(u32::MAX, |l| l.1);
            places.push((value(job), value(instance), series.reference));
        }
        Ok(())
    })?;
    places.sort_unstable();
    Ok(places)
}

pub fn selectors_match(selectors: &[Vec<Matcher>], labels: &narthex_model::Labels) -> bool {
    selectors.iter().any(|s| Matcher::all_match(s, labels))
}

fn send_block(
    block: &Block,
    (mint, maxt): (i64, i64),
    selectors: &[Vec<Matcher>],
    sender: &mut Sender<'_>,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let places = match by_target(&block.index, selectors) {
        Ok(places) => places,
        Err(e) => {
            progress.damage(&e);
            return Ok(());
        }
    };
    let (from, to) = (block.meta.min_time.max(mint), block.meta.max_time.min(maxt));
    let mut samples = Decoded::default();
    let mut start = from;
    while start <= to {
        let end = start.div_euclid(SLICE).saturating_add(1).saturating_mul(SLICE) - 1;
        let end = end.min(to).max(start);
        for (i, place) in places.iter().enumerate() {
            if i > 0 && (places[i - 1].0, places[i - 1].1) != (place.0, place.1) {
                sender.target_done()?;
            }
            samples.clear();
            let read = block.index.get(place.2).and_then(|series| {
                if !series.chunks.iter().any(|c| c.min_time <= end && c.max_time >= start) {
                    return Ok(None);
                }
                let labels = block.labels(&series)?;
                if let Err(e) = block.samples(&series, start, end, &mut samples) {
                    progress.damage(&e.context(labels.to_string()));
                }
                Ok(Some(labels))
            });
            match read {
                Ok(Some(labels)) if !samples.is_empty() => sender.add(&labels, &samples)?,
                Ok(_) => {}
                Err(e) => progress.damage(&e),
            }
            progress.tell(&block.meta.ulid, start, &sender.counts);
        }
        sender.target_done()?;
        start = end.saturating_add(1);
    }
    sender.flush()
}
