//! `tool tsdb analyze`: which labels make most series and most churn, of a block; or of what a server has in memory.

use std::collections::{BTreeMap, HashMap};

use anyhow::Context;
use clap::ArgMatches;
use narthex_model::Matcher;

use super::{Outcome, block, data_folder, server};
use crate::tool::blocks::{Block, Decoded, Series};
use crate::tool::text;

/// Prints the largest, equal ones by name.
fn list(title: &str, mut all: Vec<(String, u64)>, limit: usize) {
    println!("\n{title}:");
    all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    all.iter().take(limit).for_each(|(key, n)| println!("{n} {key}"));
}

/// What is counted of a name or a pair.
#[derive(Clone, Copy, Default)]
struct Count {
    series: u64,
    /// Time of the block that its series do not cover, in ms.
    uncovered: u64,
}

pub fn run(m: &ArgMatches) -> Outcome {
    let limit = m.get_one::<usize>("limit").copied().unwrap_or(20);
    if text(m, "url").is_some() {
        return online(m, limit);
    }
    let folder = data_folder(m)?;
    let found = block(&folder, text(m, "block"))?;
    let block = Block::open(&found)?;
    let selector = text(m, "match").filter(|s| !s.is_empty());
    let matchers = match selector {
        Some(text) => narthex_promql::parse_selector(text).map_err(|e| anyhow::anyhow!("{e}"))?,
        None => Vec::new(),
    };
    let matched = matching(&block, &matchers)?;
    let meta = &block.meta;
    let span = meta.max_time.abs_diff(meta.min_time).max(1);
    println!("Block ID: {}", meta.ulid);
    println!("Duration: {}", narthex_model::duration::format_go(meta.max_time.saturating_sub(meta.min_time)));
    println!("Total Series: {}", meta.series);
    if let Some(text) = selector {
        println!("Matcher: {text}");
    }
    // By symbols; texts are needed only of what is printed.
    let mut pairs: HashMap<(u32, u32), Count> = HashMap::new();
    let mut entries = 0u64;
    for series in &matched {
        let covered = match (series.chunks.first(), series.chunks.last()) {
            (Some(first), Some(last)) => last.max_time.abs_diff(first.min_time),
            _ => 0,
        };
        for pair in &series.labels {
            let count = pairs.entry(*pair).or_default();
            count.series += 1;
            count.uncovered = count.uncovered.wrapping_add(span.wrapping_sub(covered));
            entries += 1;
        }
    }
    let text_of = |symbol: u32| block.index.symbol(symbol).map(str::to_owned);
    // Uncovered time, lengths and numbers of values by name.
    let mut names: BTreeMap<u32, (u64, u64, u64)> = BTreeMap::new();
    for ((name, value), count) in &pairs {
        let of_name = names.entry(*name).or_default();
        of_name.0 = of_name.0.wrapping_add(count.uncovered);
        of_name.1 += block.index.symbol(*value)?.len() as u64;
        of_name.2 += 1;
    }
    println!("Label names: {}", names.len());
    if selector.is_some() {
        println!("Matched series: {}", matched.len());
    }
    println!("Postings (unique label pairs): {}", pairs.len());
    println!("Postings entries (total label pairs): {entries}");
    let series_of = |uncovered: u64| (uncovered as f64 / span as f64) as u64;
    let of_pairs = |of: &dyn Fn(&Count) -> u64| -> anyhow::Result<Vec<(String, u64)>> {
        let text = |pair: &(u32, u32)| anyhow::Ok(format!("{}={}", text_of(pair.0)?, text_of(pair.1)?));
        pairs.iter().map(|(pair, count)| Ok((text(pair)?, of(count)))).collect()
    };
    let of_names = |of: &dyn Fn(&(u64, u64, u64)) -> u64| -> anyhow::Result<Vec<(String, u64)>> {
        names.iter().map(|(name, figures)| Ok((text_of(*name)?, of(figures)))).collect()
    };
    list("Label pairs most involved in churning", of_pairs(&|c| series_of(c.uncovered))?, limit);
    list("Label names most involved in churning", of_names(&|f| series_of(f.0))?, limit);
    list("Most common label pairs", of_pairs(&|c| c.series)?, limit);
    list("Label names with highest cumulative label value length", of_names(&|f| f.1)?, limit);
    list("Highest cardinality labels", of_names(&|f| f.2)?, limit);
    let metric = block.index.number(narthex_model::METRIC_NAME)?;
    let metrics = pairs.iter().filter(|(pair, _)| Some(pair.0) == metric);
    let metrics = metrics.map(|(pair, count)| Ok((text_of(pair.1)?, count.series)));
    list("Highest cardinality metric names", metrics.collect::<anyhow::Result<_>>()?, limit);
    if m.get_flag("extended") { chunks(&block, &matched) } else { Ok(()) }
}

fn matching(block: &Block, matchers: &[Matcher]) -> anyhow::Result<Vec<Series>> {
    let mut matched = Vec::new();
    block.index.each(|series| {
        if matchers.is_empty() || Matcher::all_match(matchers, &block.labels(&series)?) {
            matched.push(series);
        }
        Ok(())
    })?;
    Ok(matched)
}

fn chunks(block: &Block, all: &[Series]) -> Outcome {
    let (mut samples, mut bytes, mut histogram_samples, mut histogram_bytes, mut buckets) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut total = 0;
    for meta in all.iter().flat_map(|s| &s.chunks) {
        let chunk = block.chunks.get(meta.reference)?;
        total += 1;
        if chunk.encoding.is_float() {
            samples.push(chunk.samples() as u64);
            bytes.push(chunk.data.len() as u64);
        } else {
            histogram_samples.push(chunk.samples() as u64);
            histogram_bytes.push(chunk.data.len() as u64);
            let mut decoded = Decoded::default();
            chunk.decode(&mut decoded)?;
            let count = |h: &narthex_model::Histogram| h.positive_buckets.len() + h.negative_buckets.len();
            buckets.push(decoded.histograms.iter().map(|h| count(&h.histogram) as u64).sum());
        }
    }
    println!("\nCompaction analysis:\n");
    for (what, figures) in [
        ("samples per float chunk", samples),
        ("bytes per float chunk", bytes),
        ("samples per histogram chunk", histogram_samples),
        ("bytes per histogram chunk", histogram_bytes),
        ("buckets per histogram chunk", buckets),
    ] {
        distribution(what, figures, total);
    }
    Ok(())
}

/// Draws how figures are spread, in lines of the same width.
fn distribution(what: &str, mut figures: Vec<u64>, total: u64) {
    figures.sort_unstable();
    let (Some(least), Some(most)) = (figures.first().copied(), figures.last().copied()) else {
        println!("{what}: N/A\n");
        return;
    };
    let tenth = (most - least) / 10;
    let mut step = 10;
    while step < tenth && step <= 10_000 {
        step *= 10;
    }
    let (start, end) = (least - least % step, most - most % step + step);
    let mut counts = vec![0u64; ((end - start) / step + 1) as usize];
    for n in &figures {
        counts[((n - start) / step) as usize] += 1;
    }
    let average = figures.iter().sum::<u64>() / figures.len() as u64;
    println!("{what} (min/avg/max): {least}/{average}/{most}");
    let digits = |n: u64| n.to_string().len();
    let (left, right) = (digits(end), digits(end + step));
    let wide = digits(counts.iter().copied().max().unwrap_or_default());
    for (i, n) in counts.iter().enumerate() {
        let from = i as u64 * step + start;
        let bar = "#".repeat((100 * n / total.max(1)) as usize);
        println!("[{:left$}, {:right$}]: {n:wide$} {bar}", from + 1, from + step);
    }
    println!();
}

/// The same of a server, as far as its API tells.
fn online(m: &ArgMatches, limit: usize) -> Outcome {
    let server = server(m)?;
    let data = server.api("status/tsdb", &[("limit", limit.to_string())], true, true)?;
    let head = &data["headStats"];
    let number = |name: &str| head[name].as_i64().unwrap_or_default();
    println!("Duration: {}", narthex_model::duration::format_go(number("maxTime").saturating_sub(number("minTime"))));
    println!("Total Series: {}", number("numSeries"));
    println!("Postings (unique label pairs): {}", number("numLabelPairs"));
    for (title, name) in [
        ("Most common label pairs", "seriesCountByLabelValuePair"),
        ("Label names with highest cumulative label value length", "memoryInBytesByLabelName"),
        ("Highest cardinality labels", "labelValueCountByLabelName"),
        ("Highest cardinality metric names", "seriesCountByMetricName"),
    ] {
        let rows = data[name].as_array().with_context(|| format!("the answer has no {name}"))?;
        let row = |row: &serde_json::Value| Some((row["name"].as_str()?.to_owned(), row["value"].as_u64()?));
        list(title, rows.iter().filter_map(row).collect(), limit);
    }
    Ok(())
}
