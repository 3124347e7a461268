//! `tool query analyze`: how many buckets of histograms are populated, as promtool counts them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use clap::ArgMatches;
use narthex_model::labels::quote;
use serde_json::Value;

use super::ask::Server;
use super::query::{now, parse_time, seconds};
use super::{Outcome, text, texts};

const HEADER: &str = "Bucket stats for each histogram series over time
------------------------------------------------
First the min, avg, and max number of populated buckets, followed by the total
number of buckets (only if different from the max number of populated buckets
which is typical for classic but not native histograms).
";
const FOOTER: &str = "
Aggregated bucket stats
-----------------------
Each line shows min/avg/max over the series above.";

/// Of one histogram, over time.
struct Stats {
    least: usize,
    average: f64,
    most: usize,
    total: usize,
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:.3}/{}", self.least, self.average, self.most)?;
        if self.most == self.total { Ok(()) } else { write!(f, "/{}", self.total) }
    }
}

/// Of `populated` buckets at each time.
fn stats(populated: &[usize], total: Option<usize>) -> Stats {
    let most = populated.iter().copied().max().unwrap_or_default();
    Stats {
        least: populated.iter().copied().min().unwrap_or_default(),
        average: populated.iter().sum::<usize>() as f64 / populated.len().max(1) as f64,
        most,
        total: total.unwrap_or(most),
    }
}

/// Over several histograms.
#[derive(Clone, Copy, PartialEq)]
struct Spread {
    least: usize,
    most: usize,
    count: usize,
    average: f64,
}

impl Spread {
    fn add(&mut self, n: usize) {
        self.least = self.least.min(n);
        self.most = self.most.max(n);
        self.count += 1;
        let count = self.count as f64;
        self.average += n as f64 / count - self.average / count;
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:.3}/{}", self.least, self.average, self.most)
    }
}

/// Least, average, most and total.
struct All([Spread; 4]);

impl All {
    fn new() -> All {
        All([Spread { least: usize::MAX, most: 0, count: 0, average: 0.0 }; 4])
    }

    fn add(&mut self, s: &Stats) {
        for (spread, n) in self.0.iter_mut().zip([s.least, s.average as usize, s.most, s.total]) {
            spread.add(n);
        }
    }

    fn print(&self, kind: &str) {
        let [least, average, most, total] = &self.0;
        if least.count == 0 {
            return;
        }
        println!("\n{kind} histogram series ({} in total):", least.count);
        println!("- min populated: {least}\n- avg populated: {average}\n- max populated: {most}");
        if most != total {
            println!("- total: {total}");
        }
    }
}

pub fn run(m: &ArgMatches) -> Outcome {
    let kind = text(m, "type").unwrap_or_default();
    if kind != "histogram" {
        return Err(format!("analyze type is {kind}, must be 'histogram'"));
    }
    let server = text(m, "server").unwrap_or_default();
    let server = Server::new(server, text(m, "http.config.file"), &[], Duration::from_secs(120));
    let server = server.map_err(|e| format!("error creating API client: {e:#}"))?;
    let time = match text(m, "time") {
        Some(text) => parse_time(text).map_err(|e| format!("error parsing time '{text}': {e}"))?,
        None => now(),
    };
    let duration = text(m, "duration").unwrap_or("1h");
    let duration = narthex_model::duration::parse(duration).map_err(|e| format!("--duration: {e}"))?;
    println!("{HEADER}");
    let (mut native, mut classic) = (All::new(), All::new());
    for selector in texts(m, "match") {
        let query = format!("{selector}[{}]", narthex_model::duration::format(duration));
        let form = [("query", query), ("time", seconds(time))];
        let data = server.api("query", &form, false, false).map_err(|e| format!("{e:#}"))?;
        if data["resultType"] != "matrix" {
            return Err("query of buckets resulted in non-Matrix".into());
        }
        let mut histograms: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
        for series in data["result"].as_array().into_iter().flatten() {
            if list(&series["values"]).is_empty() {
                if let Some(stats) = native_stats(series) {
                    println!("- {} (native): {stats}", super::query::metric_text(&series["metric"]));
                    native.add(&stats);
                }
                continue;
            }
            let metric = &series["metric"];
            let name = metric["__name__"].as_str().unwrap_or_default();
            if metric["le"].is_null() || !name.ends_with("_bucket") {
                continue;
            }
            let labels = metric.as_object().into_iter().flatten();
            let labels: BTreeMap<&String, &Value> = labels.filter(|l| l.0 != "le" && l.0 != "__name__").collect();
            let labels = labels.into_iter().map(|(n, v)| format!("{n}={}", quote(v.as_str().unwrap_or_default())));
            let key = format!("{name}{{{}}}", labels.collect::<Vec<_>>().join(", "));
            histograms.entry(key).or_default().push(series);
        }
        for (key, buckets) in histograms {
            if let Some(stats) = classic_stats(buckets)? {
                println!("- {key} (classic): {stats}");
                classic.add(&stats);
            }
        }
    }
    println!("{FOOTER}");
    native.print("Native");
    classic.print("Classic");
    Ok(())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// `None` where there are too few samples.
fn native_stats(series: &Value) -> Option<Stats> {
    let samples = list(&series["histograms"]);
    if samples.len() < 2 {
        return None;
    }
    let mut all = BTreeSet::new();
    let mut populated = Vec::new();
    for sample in samples {
        let buckets = list(&sample[1]["buckets"]);
        all.extend(buckets.iter().map(|b| (b[0].to_string(), b[1].to_string(), b[2].to_string())));
        populated.push(buckets.len());
    }
    Some(stats(&populated, Some(all.len())))
}

fn number(value: &Value) -> f64 {
    narthex_scrape::exposition::parse_go_float(value.as_str().unwrap_or_default().as_bytes()).unwrap_or(f64::NAN)
}

/// `None` where there are too few samples.
fn classic_stats(mut buckets: Vec<&Value>) -> Result<Option<Stats>, String> {
    let samples = buckets.first().map_or(0, |b| list(&b["values"]).len());
    if samples < 2 {
        return Ok(None);
    }
    buckets.sort_by(|a, b| number(&a["metric"]["le"]).total_cmp(&number(&b["metric"]["le"])));
    let mut populated = Vec::new();
    for at in 0..samples {
        let mut counts = vec![0i64; buckets.len()];
        let mut before: Option<(&Value, f64)> = None;
        for (bucket, count) in buckets.iter().zip(&mut counts) {
            // What is missing counts nothing, nor does what comes behind it.
            let Some(sample) = list(&bucket["values"]).get(at) else { break };
            let value = number(&sample[1]);
            let lower = match before {
                Some((time, _)) if *time != sample[0] => return Err("matrix result is not time aligned".into()),
                Some((_, lower)) => lower,
                None => 0.0,
            };
            *count = (value - lower) as i64;
            before = Some((&sample[0], value));
        }
        populated.push(counts.iter().filter(|c| **c != 0).count());
    }
    Ok(Some(stats(&populated, Some(buckets.len()))))
}
