//! The engine against a real Prometheus: the same random series in both, the same random queries, the same answers,
//! annotations and errors.
//!
//! Needs the Prometheus that `.ci/prometheus.sh` builds into the cache (or `NARTHEX_PROMETHEUS`, the path of another
//! one); says that it was skipped without. `NARTHEX_DIFF_SEED`, `NARTHEX_DIFF_QUERIES` and `NARTHEX_DIFF_MODE` go further
//! than the default; `NARTHEX_DIFF_DIGITS=1` prints where only last digits differ, `NARTHEX_DIFF_SHOW=text` both answers
//! to queries that contain it. `NARTHEX_DIFF_BINARY` names a server to be asked instead of the engine.

#[path = "differential/compare.rs"]
mod compare;
#[path = "differential/data.rs"]
mod data;
#[path = "differential/queries.rs"]
mod queries;
#[path = "differential/reply.rs"]
mod reply;
#[path = "differential/server.rs"]
mod server;
#[path = "differential/wide.rs"]
mod wide;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use futures::executor::block_on;
use narthex_promql::{Engine, EngineOptions, InstantQuery, ParserOptions, RangeQuery};
use narthex_storage::Queryable;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The switches under which both are compared, by name (`NARTHEX_DIFF_MODE`).
const MODES: [(&str, &str); 5] = [
    ("experimental", "promql-experimental-functions,promql-extended-range-selectors,promql-binop-fill-modifiers"),
    ("stock", ""),
    // Nothing but texts broken at random.
    ("broken", "promql-experimental-functions,promql-extended-range-selectors,promql-binop-fill-modifiers"),
    (
        "delayed",
        "promql-experimental-functions,promql-extended-range-selectors,promql-binop-fill-modifiers,\
         promql-delayed-name-removal",
    ),
    (
        "typed",
        "promql-experimental-functions,promql-extended-range-selectors,promql-binop-fill-modifiers,type-and-unit-labels",
    ),
];

fn options(mode: &str) -> EngineOptions {
    let parser = if mode == "stock" { ParserOptions::default() } else { ParserOptions::all() };
    EngineOptions {
        parser,
        delayed_name_removal: mode == "delayed",
        type_and_unit_labels: mode == "typed",
        ..EngineOptions::default()
    }
}

/// The Prometheus to compare with, if there is one. What is named has to be there.
fn prometheus() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("NARTHEX_PROMETHEUS") {
        assert!(Path::new(&path).is_file(), "NARTHEX_PROMETHEUS={path:?} is no file");
        return Some(path.into());
    }
    let cache = match std::env::var_os("NARTHEX_CACHE") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".cache/narthex"),
    };
    let folders = std::fs::read_dir(cache).ok()?.flatten().map(|e| e.path());
    let built = folders.filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("prometheus-")));
    built.map(|folder| folder.join("prometheus")).find(|p| p.is_file())
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[test]
fn random_queries_are_answered_alike() -> Result<()> {
    let Some(binary) = prometheus() else {
        println!("skipped: no Prometheus (.ci/prometheus.sh builds it)");
        return Ok(());
    };
    let seed = number("NARTHEX_DIFF_SEED", 1);
    match std::env::var("NARTHEX_DIFF_MODE") {
        Ok(mode) => compare(&binary, &mode, seed, number("NARTHEX_DIFF_QUERIES", 500)),
        Err(_) => {
            compare(&binary, "experimental", seed, number("NARTHEX_DIFF_QUERIES", 400))?;
            compare(&binary, "stock", seed, number("NARTHEX_DIFF_QUERIES", 100))
        }
    }
}

/// Compares the answers to so many random queries.
fn compare(binary: &Path, mode: &str, seed: u64, count: u64) -> Result<()> {
    let (_, features) = MODES.iter().find(|(name, _)| *name == mode).context("no such mode")?;
    // Recent, so that no server thinks the samples too old, and at full hours, so that seeds give the same queries.
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() as i64;
    let start = (now / 3600 - 3) * 3_600_000;
    let series = data::generate(seed, start);

    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("prometheus.yml"), "global: {}\n")?;
    let features = format!("--enable-feature={features}");
    let args = [
        "--config.file={dir}/prometheus.yml",
        "--storage.tsdb.path={dir}/data",
        "--web.listen-address={address}",
        "--web.enable-remote-write-receiver",
        &features,
    ];
    let server = server::Server::start(binary, &args, dir.path())?;
    server.load(&series, 600_000)?;
    // A whole server instead of the engine alone, if one is named.
    let own_dir = tempfile::tempdir()?;
    let own = match std::env::var_os("NARTHEX_DIFF_BINARY") {
        Some(narthex) => {
            std::fs::write(own_dir.path().join("prometheus.yml"), "global: {}\n")?;
            let args = [&["server"][..], &args].concat();
            let own = server::Server::start(Path::new(&narthex), &args, own_dir.path())?;
            own.load(&series, 600_000)?;
            Some(own)
        }
        None => None,
    };
    let store: Arc<dyn Queryable> = Arc::new(reply::store(&series));
    let engine = Engine::new(options(mode));

    let mut rng = StdRng::seed_from_u64(seed ^ 0xabcd);
    let (first, last) = (start / 1000, data::end(start) / 1000);
    let mut faults = Vec::new();
    let mut rounded = Vec::new();
    let mut succeeded = 0;
    for _ in 0..count {
        let mut queries = queries::Queries::new(&mut rng, (first, last));
        let query = if mode == "broken" {
            queries.broken(2)
        } else if queries.chance(50) {
            queries.wide()
        } else {
            queries.query()
        };
        // Milliseconds.
        let mut time = rng.random_range(first - 60..last + 400) * 1000;
        if rng.random_bool(0.2) {
            time += rng.random_range(0..1000);
        }
        let range = rng.random_bool(0.5);
        let step = [15_000, 37_000, 60_000, 300_000, 12_345, 3_600_000][rng.random_range(0..6)];
        let end = time + step * rng.random_range(0..40) + if rng.random_bool(0.2) { 777 } else { 0 };
        let lookback = rng.random_bool(0.1).then(|| [1_000, 60_000, 3_600_000][rng.random_range(0..3)]);
        let seconds = |ms: i64| format!("{}.{:03}", ms / 1000, ms % 1000);
        let mut form = vec![("query", query.clone())];
        form.extend(lookback.map(|l| ("lookback_delta", seconds(l))));
        let lookback = lookback.map(|l| Duration::from_millis(l as u64));
        let (endpoint, ours) = if range {
            form.extend([("start", seconds(time)), ("end", seconds(end)), ("step", seconds(step))]);
            let range = RangeQuery { expr: query.clone(), start: time, end, step, lookback, ..Default::default() };
            ("query_range", block_on(engine.range(store.clone(), range)))
        } else {
            form.push(("time", seconds(time)));
            let instant = InstantQuery { expr: query.clone(), time, lookback, ..Default::default() };
            ("query", block_on(engine.instant(store.clone(), instant)))
        };
        let form: Vec<(&str, &str)> = form.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let theirs = server.ask(endpoint, &form)?;
        let ours = match &own {
            Some(own) => own.ask(endpoint, &form)?,
            None => reply::reply(&query, ours),
        };
        succeeded += u64::from(theirs["data"]["result"].as_array().is_some_and(|r| !r.is_empty()));
        let when = || {
            let lookback = lookback.map(|l| format!(" looking back {l:?}")).unwrap_or_default();
            if range { format!("from {time} to {end} by {step}{lookback}") } else { format!("at {time}{lookback}") }
        };
        if std::env::var("NARTHEX_DIFF_SHOW").is_ok_and(|text| query.contains(&text)) {
            println!("{query}\n  {}\n  ours {ours}\n  theirs {theirs}", when());
        }
        if let Some(fault) = compare::difference(&query, &ours, &theirs, compare::TOLERANCE) {
            faults.push(format!("{query}\n  {}: {fault}", when()));
        } else if let Some(fault) = compare::difference(&query, &ours, &theirs, 0.0) {
            rounded.push(format!("{query}\n  {}: {fault}", when()));
        }
    }
    let texts = syntax(&server, &options(mode).parser, &mut rng, (first, last), count / 4)?;
    faults.extend(texts);
    println!(
        "{mode}, seed {seed}: {count} queries, {succeeded} with results, {} differ, {} only in last digits",
        faults.len(),
        rounded.len()
    );
    if std::env::var_os("NARTHEX_DIFF_DIGITS").is_some() {
        rounded.iter().for_each(|r| println!("{r}"));
    }
    ensure!(
        faults.is_empty(),
        "{mode}, seed {seed}, data from {start}: {} of {count} differ:\n{}",
        faults.len(),
        faults.join("\n")
    );
    Ok(())
}

/// Compares formatted texts and syntax trees of so many random queries; says where they differ.
fn syntax(
    server: &server::Server,
    parser: &ParserOptions,
    rng: &mut StdRng,
    times: (i64, i64),
    count: u64,
) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for _ in 0..count {
        let mut queries = queries::Queries::new(rng, times);
        let query = if queries.chance(50) { queries.wide() } else { queries.query() };
        let Ok(expr) = narthex_promql::parse(&query, parser) else { continue };
        let formatted = server.ask("format_query", &[("query", &query)])?;
        // As in `compare::difference`.
        if formatted["error"].as_str().is_some_and(|e| e.contains("unexpected colon before duration")) {
            continue;
        }
        let ours = narthex_promql::printer::pretty(&expr);
        if formatted["data"] != ours.as_str() {
            faults.push(format!("{query}\n  formatted: {ours} instead of {formatted}"));
        }
        // Of infinite numbers Prometheus's reply is no JSON.
        let Ok(tree) = server.ask("parse_query", &[("query", &query)]) else { continue };
        let ours = serde_json::to_value(narthex_promql::ast_json::to_json(&expr))?;
        if tree["data"] != ours {
            faults.push(format!("{query}\n  tree: {ours} instead of {tree}"));
        }
    }
    Ok(faults)
}
