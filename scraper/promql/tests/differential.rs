//! The engine against a real Prometheus: the same random series in both, the same random queries, the same answers,
//! annotations and errors.
//!
//! Needs the Prometheus that `.ci/prometheus.sh` builds into the cache (or `NARTHEX_PROMETHEUS`, the folder of another
//! one); says that it was skipped without. `NARTHEX_DIFF_SEED` and `NARTHEX_DIFF_QUERIES` go further than the default.

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

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use futures::executor::block_on;
use narthex_promql::{Engine, EngineOptions, InstantQuery, ParserOptions, RangeQuery};
use narthex_storage::Queryable;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const FEATURES: &str =
    "--enable-feature=promql-experimental-functions,promql-extended-range-selectors,promql-binop-fill-modifiers";

/// The Prometheus to compare with, if there is one.
fn prometheus() -> Option<PathBuf> {
    let binary = |folder: PathBuf| Some(folder.join("prometheus")).filter(|p| p.is_file());
    if let Some(folder) = std::env::var_os("NARTHEX_PROMETHEUS") {
        return binary(folder.into());
    }
    let cache = match std::env::var_os("NARTHEX_CACHE") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".cache/narthex"),
    };
    let folders = std::fs::read_dir(cache).ok()?.flatten().map(|e| e.path());
    folders.filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("prometheus-"))).find_map(binary)
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
    let count = number("NARTHEX_DIFF_QUERIES", 500);
    // Recent, so that no server thinks the samples too old, and at full hours, so that seeds give the same queries.
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() as i64;
    let start = (now / 3600 - 3) * 3_600_000;
    let series = data::generate(seed, start);

    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("prometheus.yml"), "global: {}\n")?;
    let args = [
        "--config.file={dir}/prometheus.yml",
        "--storage.tsdb.path={dir}/data",
        "--web.listen-address={address}",
        "--web.enable-remote-write-receiver",
        FEATURES,
    ];
    let server = server::Server::start(&binary, &args, dir.path())?;
    server.load(&series)?;
    let store: Arc<dyn Queryable> = Arc::new(reply::store(&series));
    let engine = Engine::new(EngineOptions { parser: ParserOptions::all(), ..EngineOptions::default() });

    let mut rng = StdRng::seed_from_u64(seed ^ 0xabcd);
    let (first, last) = (start / 1000, data::end(start) / 1000);
    let mut faults = Vec::new();
    for _ in 0..count {
        let query = queries::Queries::new(&mut rng, (first, last)).query();
        let time = rng.random_range(first - 60..last + 400);
        let (range, step, steps) =
            (rng.random_bool(0.5), [15, 37, 60, 300][rng.random_range(0..4)], rng.random_range(0..40));
        let end = time + step * steps;
        let (theirs, ours) = if range {
            let (start, end, step) = (time, end, step);
            let form = [("start", start.to_string()), ("end", end.to_string()), ("step", step.to_string())];
            let mut form: Vec<(&str, &str)> = form.iter().map(|(k, v)| (*k, v.as_str())).collect();
            form.push(("query", &query));
            let range = RangeQuery {
                expr: query.clone(),
                start: start * 1000,
                end: end * 1000,
                step: step * 1000,
                ..Default::default()
            };
            (server.ask("query_range", &form)?, block_on(engine.range(store.clone(), range)))
        } else {
            let form = [("query", query.as_str()), ("time", &time.to_string())];
            let instant = InstantQuery { expr: query.clone(), time: time * 1000, ..Default::default() };
            (server.ask("query", &form)?, block_on(engine.instant(store.clone(), instant)))
        };
        if let Some(fault) = compare::difference(&query, &reply::reply(&query, ours), &theirs) {
            let when = if range { format!("from {time} to {end} by {step}") } else { format!("at {time}") };
            faults.push(format!("{query}\n  {when}: {fault}"));
        }
    }
    assert!(
        faults.is_empty(),
        "seed {seed}, data from {start}: {} of {count} differ:\n{}",
        faults.len(),
        faults.join("\n")
    );
    Ok(())
}
