//! `tool tsdb dump` and `dump-openmetrics`: all samples as text, series by series.
//!
//! As promtool prints them, but that nothing is missing: promtool loses samples where a series turns from floats to
//! histograms, and the first one or two of a series of histograms.

use std::io::{BufWriter, Write};

use clap::ArgMatches;
use narthex_model::histogram::Bucket;
use narthex_model::labels::quote;
use narthex_model::number::{format_g, format_value};
use narthex_model::{Histogram, Labels, Matcher};

use super::import::selectors_match;
use super::{Outcome, data_folder, online, selectors, times};
use crate::tool::blocks::{Block, DataFolder, Decoded, Series};
use crate::tool::text;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Prom,
    /// Labels alone.
    Json,
    OpenMetrics,
}

pub fn run(m: &ArgMatches, form: Form) -> Outcome {
    let (mint, maxt) = times(m)?;
    let selectors = selectors(m)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut print = |labels: &Labels, samples: &Decoded| Ok(print(&mut out, form, labels, samples)?);
    let done = if text(m, "url").is_some() {
        online::each_series(m, &selectors, (mint, maxt), &mut print)
    } else {
        let folder = data_folder(m)?;
        let done = each_series(&folder, &selectors, (mint, maxt), &mut print);
        if let Some(text) = folder.left_out() {
            eprintln!("{text}");
        }
        done
    };
    match done.and_then(|()| {
        if form == Form::OpenMetrics {
            out.write_all(b"# EOF\n")?;
        }
        Ok(out.flush()?)
    }) {
        // Whoever reads has enough.
        Err(e) if e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) => {
            Ok(())
        }
        done => done,
    }
}

/// Calls `each` with the series that match and have samples in the range, sorted by labels, those of all blocks joined.
fn each_series(
    folder: &DataFolder,
    selectors: &[Vec<Matcher>],
    (mint, maxt): (i64, i64),
    each: &mut dyn FnMut(&Labels, &Decoded) -> Outcome,
) -> Outcome {
    let inside = folder.blocks.iter().filter(|b| b.1.min_time <= maxt && b.1.max_time >= mint);
    let blocks = inside.map(Block::open).collect::<anyhow::Result<Vec<Block>>>()?;
    let mut walks: Vec<_> = blocks.iter().map(|b| b.index.walk()).collect();
    let mut heads: Vec<Option<(Labels, Series)>> = Vec::new();
    let next = |walk: &mut crate::tool::blocks::Walk<'_>, block: &Block| -> anyhow::Result<_> {
        walk.next()?.map(|series| Ok((block.labels(&series)?, series))).transpose()
    };
    for (walk, block) in walks.iter_mut().zip(&blocks) {
        heads.push(next(walk, block)?);
    }
    let mut samples = Decoded::default();
    while let Some(labels) = heads.iter().flatten().map(|h| &h.0).min().cloned() {
        samples.clear();
        let wanted = selectors_match(selectors, &labels);
        for ((head, walk), block) in heads.iter_mut().zip(&mut walks).zip(&blocks) {
            let Some((_, series)) = head.take_if(|h| h.0 == labels) else { continue };
            if wanted {
                block.samples(&series, mint, maxt, &mut samples)?;
            }
            *head = next(walk, block)?;
        }
        samples.settle();
        if !samples.is_empty() {
            each(&labels, &samples)?;
        }
    }
    Ok(())
}

fn print(out: &mut impl Write, form: Form, labels: &Labels, samples: &Decoded) -> std::io::Result<()> {
    match form {
        Form::Prom => {
            // One order of time for both kinds.
            let mut histograms = samples.histograms.iter().peekable();
            let mut before = |out: &mut dyn Write, t: Option<i64>| {
                while let Some(h) = histograms.next_if(|h| t.is_none_or(|t| h.time < t)) {
                    writeln!(out, "{labels} {} {}", histogram(&h.histogram, h.integer), h.time)?;
                }
                std::io::Result::Ok(())
            };
            for (t, v, _) in &samples.floats {
                before(out, Some(*t))?;
                writeln!(out, "{labels} {} {t}", format_g(*v))?;
            }
            before(out, None)
        }
        Form::Json => {
            let pairs: Vec<String> = labels.iter().map(|(n, v)| format!("{}:{}", json(n), json(v))).collect();
            writeln!(out, "{{{}}}", pairs.join(","))
        }
        Form::OpenMetrics => {
            let rest = labels.iter().filter(|l| l.0 != narthex_model::METRIC_NAME);
            let rest: Vec<String> = rest.map(|(n, v)| format!("{n}={}", quote(v))).collect();
            let series = format!("{}{{{}}}", labels.metric_name(), rest.join(","));
            for (t, v, _) in &samples.floats {
                let sign = if *t < 0 { "-" } else { "" };
                let ms = t.unsigned_abs();
                writeln!(out, "{series} {} {sign}{}.{:03}", format_g(*v), ms / 1000, ms % 1000)?;
            }
            Ok(())
        }
    }
}

/// A text as Go's JSON has it.
fn json(text: &str) -> String {
    crate::tool::query::go_json(&text.into())
}

/// A histogram as Go prints it; `integer` ones have whole numbers.
fn histogram(h: &Histogram, integer: bool) -> String {
    let count = |v: f64| if integer { format!("{v:.0}") } else { format_g(v) };
    let of_bucket = |v: f64| match integer {
        true => format!("{v:.0}"),
        // Go takes exponents later where it was not told how to print.
        false if v.abs() < 1e21 && (v == 0.0 || v.abs() >= 1e-4) => format_value(v),
        false => format_g(v),
    };
    let bucket = |b: &Bucket| {
        let (open, close) = (if b.lower_inclusive { '[' } else { '(' }, if b.upper_inclusive { ']' } else { ')' });
        format!(", {open}{},{}{close}:{}", format_g(b.lower), format_g(b.upper), of_bucket(b.count))
    };
    let mut negative: Vec<Bucket> = h.negative().filter(|b| b.count != 0.0).collect();
    negative.reverse();
    let zero = (h.zero_count != 0.0).then(|| h.zero_bucket());
    let positive = h.positive().filter(|b| b.count != 0.0);
    let buckets: Vec<String> = negative.into_iter().chain(zero).chain(positive).map(|b| bucket(&b)).collect();
    format!("{{count:{}, sum:{}{}}}", count(h.count), format_g(h.sum), buckets.concat())
}
