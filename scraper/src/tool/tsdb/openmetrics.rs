//! `tool tsdb create-blocks-from openmetrics`: the samples of a file, sent to a running server.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::ArgMatches;
use narthex_model::Labels;
use narthex_scrape::exposition::{Entry, OpenMetricsParser, PageParser, RawLabels};

use super::send::Sender;
use super::{Outcome, server};
use crate::tool::blocks::{Decoded, utc};
use crate::tool::{text, texts};

/// So many samples are brought in order before they are sent.
const TOGETHER: usize = 400_000;

/// Calls `each` with the samples of a page: labels, time, value.
fn each_sample(page: &[u8], mut each: impl FnMut(&RawLabels, i64, f64) -> Outcome) -> Outcome {
    let mut parser = OpenMetricsParser::new(page);
    let mut labels = RawLabels::default();
    while let Some(entry) = parser.next().map_err(|e| anyhow::anyhow!("next: {e}"))? {
        if entry != Entry::Series {
            continue;
        }
        let Some(t) = parser.timestamp() else { bail!("expected timestamp for series got none") };
        parser.labels(&mut labels).map_err(|e| anyhow::anyhow!("parse: {e}"))?;
        each(&labels, t, parser.value())?;
    }
    Ok(())
}

pub fn run(m: &ArgMatches) -> Outcome {
    let file = text(m, "file").unwrap_or_default();
    let page = std::fs::read(file).with_context(|| format!("open {file}"))?;
    let mut extra = BTreeMap::new();
    for label in texts(m, "label") {
        let (name, value) = label.split_once('=').with_context(|| format!("expected KEY=VALUE got '{label}'"))?;
        extra.insert(name.to_owned(), value.to_owned());
    }
    if let Some(folder) = text(m, "output") {
        eprintln!("{folder} is not written to: samples go to the server of --url");
    }
    let quiet = m.get_flag("quiet");
    let begun = Instant::now();
    // All of the file is right before anything of it is sent.
    let (mut mint, mut maxt) = (i64::MAX, i64::MIN);
    each_sample(&page, |_, t, _| {
        (mint, maxt) = (mint.min(t), maxt.max(t));
        Ok(())
    })
    .context("getting min and max timestamp")?;
    let server = server(m)?;
    let mut sender = Sender::new(&server);
    let mut waiting: BTreeMap<(String, String), BTreeMap<Labels, Decoded>> = BTreeMap::new();
    let mut count = 0;
    each_sample(&page, |raw, t, v| {
        let mut labels: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, value) in &raw.0 {
            labels.entry(name).or_insert(value);
        }
        labels.extend(extra.iter().map(|(n, v)| (n.as_str(), v.as_str())));
        labels.retain(|_, value| !value.is_empty());
        let labels = Labels::from_sorted(labels);
        let target = (labels.value("job").to_owned(), labels.value("instance").to_owned());
        let samples = waiting.entry(target).or_default().entry(labels).or_default();
        samples.floats.push((t, v, 0));
        count += 1;
        if count >= TOGETHER {
            count = 0;
            send(&mut sender, &mut waiting)?;
        }
        Ok(())
    })?;
    send(&mut sender, &mut waiting)?;
    sender.flush()?;
    if !quiet {
        let seconds = begun.elapsed().as_secs_f64();
        let range = if mint <= maxt { format!(" from {} to {}", utc(mint), utc(maxt)) } else { String::new() };
        println!("{file}:{range} {} in {seconds:.1} s", sender.counts.text());
    }
    Ok(())
}

fn send(sender: &mut Sender<'_>, waiting: &mut BTreeMap<(String, String), BTreeMap<Labels, Decoded>>) -> Outcome {
    for target in std::mem::take(waiting).into_values() {
        for (labels, samples) in target {
            sender.add(&labels, &samples)?;
        }
        sender.target_done()?;
    }
    Ok(())
}
