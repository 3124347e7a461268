//! What `tool tsdb import` sends of a Prometheus's write-ahead log.
//!
//! A log has its samples in the order of time, the server wants them target by target: so the log is read once for the
//! series, and then as often as it takes to have some targets' samples in memory at once.

use std::collections::HashMap;

use narthex_model::{Labels, Matcher};

use super::import::{Progress, selectors_match};
use super::send::Sender;
use crate::tool::blocks::{Decoded, Log, Record};

/// So many samples are in memory at once, about.
const TOGETHER: u64 = 8_000_000;
/// What a histogram counts for.
const HISTOGRAM: u64 = 16;

/// What of a log is wanted.
pub struct Wanted<'a> {
    pub mint: i64,
    pub maxt: i64,
    pub selectors: &'a [Vec<Matcher>],
}

/// A series of the log.
struct Series {
    labels: Labels,
    /// In which pass it is sent, by a hash of its target.
    hash: u64,
    deleted: Vec<(i64, i64)>,
}

impl Wanted<'_> {
    fn has(&self, series: &Series, t: i64) -> bool {
        t >= self.mint && t <= self.maxt && !series.deleted.iter().any(|d| (d.0..=d.1).contains(&t))
    }
}

/// Sends what is wanted of a log in two parts: what came in order, and what came late, whose series the first names.
///
/// # Errors
/// When the server does not take it. Damage is told to `progress`.
pub fn send(
    logs: [&Log; 2],
    wanted: [Wanted<'_>; 2],
    sender: &mut Sender<'_>,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let mut series: HashMap<u64, Series> = HashMap::new();
    let mut samples = 0;
    for log in logs {
        log.each(
            |record| {
                match record {
                    Record::Series(all) => {
                        for (number, labels) in all.into_iter().filter(|s| selectors_match(wanted[0].selectors, &s.1)) {
                            let hash = labels.keep(&["job", "instance"]).stable_hash();
                            series.insert(number, Series { labels, hash, deleted: Vec::new() });
                        }
                    }
                    Record::Floats(all) => samples += all.len() as u64,
                    Record::Histograms(all) => samples += all.len() as u64 * HISTOGRAM,
                    Record::Deleted(all) => {
                        for (number, from, to) in all {
                            if let Some(series) = series.get_mut(&number) {
                                series.deleted.push((from, to));
                            }
                        }
                    }
                }
                Ok(())
            },
            |e| progress.damage(&e),
        )?;
    }
    let passes = samples.div_ceil(TOGETHER).max(1);
    let mut order: Vec<u64> = series.keys().copied().collect();
    let target = |labels: &Labels| (labels.value("job").to_owned(), labels.value("instance").to_owned());
    order.sort_by_cached_key(|number| series.get(number).map(|s| (target(&s.labels), s.labels.clone())));
    for pass in 0..passes {
        let mut found: HashMap<u64, Decoded> = HashMap::new();
        for (log, wanted) in logs.iter().zip(&wanted) {
            let here = |number: &u64| series.get(number).filter(|s| s.hash % passes == pass);
            log.each(
                |record| {
                    match record {
                        Record::Floats(all) => {
                            for (number, t, v, start) in all {
                                if here(&number).is_some_and(|s| wanted.has(s, t)) {
                                    found.entry(number).or_default().floats.push((t, v, start));
                                }
                            }
                        }
                        Record::Histograms(all) => {
                            for (number, sample) in all {
                                if here(&number).is_some_and(|s| wanted.has(s, sample.time)) {
                                    found.entry(number).or_default().histograms.push(sample);
                                }
                            }
                        }
                        Record::Series(_) | Record::Deleted(_) => {}
                    }
                    Ok(())
                },
                // Told the first time.
                |_| {},
            )?;
        }
        let mut before: Option<(&str, &str)> = None;
        for number in &order {
            let (Some(series), Some(mut samples)) = (series.get(number), found.remove(number)) else { continue };
            let target = (series.labels.value("job"), series.labels.value("instance"));
            if before.replace(target).is_some_and(|before| before != target) {
                sender.target_done()?;
            }
            samples.settle();
            sender.add(&series.labels, &samples)?;
        }
        sender.flush()?;
    }
    Ok(())
}
