//! How long evaluation takes, from columns in memory to the result; parsing, planning and selecting are left out.
//!
//! The first is the query that the design promises 12 to 13 ms of CPU for: 1,536 series, 6 hours at 15 s.

use std::sync::Arc;

use divan::Bencher;
use narthex_model::{Labels, Matcher};
use narthex_promql::{Engine, EngineOptions, Prepared, RangeQuery};
use narthex_storage::memory::SelectOnly;
use narthex_storage::{Batch, FloatColumn, Queryable, SelectRequest, Series, SeriesSet, Values};

fn main() {
    if std::env::var_os("CPU").is_some() {
        return cpu();
    }
    divan::main();
}

/// Prints the least CPU time of some runs of each query, which a busy machine disturbs less than wall time.
fn cpu() {
    // Nanoseconds on a CPU come first there (Linux only).
    let spent = || -> u64 {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        text.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    let data = columns();
    for (expr, step) in QUERIES {
        let best = (0..7)
            .map(|_| {
                let prepared = prepare(&data, expr, *step);
                let before = spent();
                let result = prepared.evaluate().expect("a result");
                let after = spent();
                drop(result);
                after - before
            })
            .min()
            .unwrap_or(0);
        println!("{:8.1} ms CPU  {expr} at {} s", best as f64 / 1e6, step / 1000);
    }
}

const STEP: i64 = 15_000;
const SCRAPES: usize = 6 * 240 + 21;
const INSTANCES: usize = 48;
const MODES: usize = 32;

/// Series of 48 targets, which share their timestamps target by target.
fn columns() -> Arc<dyn Queryable> {
    let mut seed = 7u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as f64 / (1u64 << 31) as f64
    };
    let batches = (0..INSTANCES)
        .map(|instance| {
            let times: Arc<[i64]> = (0..SCRAPES).map(|i| i as i64 * STEP + instance as i64 * 311).collect();
            let series = (0..MODES).map(|mode| {
                let mut value = 1e5 * random();
                let values = times.iter().map(|_| {
                    value += (random() * 1500.0).round() / 100.0;
                    value
                });
                let instance = format!("node-{instance:04}:9100");
                Series {
                    labels: Labels::from_pairs([
                        ("__name__", "node_cpu_seconds_total"),
                        ("cpu", &(mode / 8).to_string()),
                        ("instance", &instance),
                        ("job", "node"),
                        ("mode", &format!("mode{}", mode % 8)),
                    ]),
                    floats: FloatColumn {
                        timestamps: times.clone(),
                        values: Values::Dense(values.collect()),
                        start_timestamps: None,
                    },
                    ..Series::default()
                }
            });
            series.collect::<Vec<_>>()
        })
        .collect::<Vec<_>>();
    Arc::new(SelectOnly(move |request: &SelectRequest| {
        let fitting = |b: &Vec<Series>| {
            let fits = b.iter().filter(|s| Matcher::all_match(&request.matchers, &s.labels));
            Ok(Batch { series: fits.cloned().collect() })
        };
        let batches: Vec<_> = batches.iter().map(fitting).collect();
        SeriesSet { batches: Box::new(batches.into_iter()), warnings: Vec::new() }
    }))
}

fn prepare(data: &Arc<dyn Queryable>, expr: &str, step: i64) -> Prepared {
    let query = RangeQuery {
        expr: expr.into(),
        start: 20 * STEP,
        end: (SCRAPES as i64 - 1) * STEP,
        step,
        ..RangeQuery::default()
    };
    let engine = Engine::new(EngineOptions::default());
    futures::executor::block_on(engine.prepare_range(data.clone(), query)).expect("a good query")
}

const QUERIES: &[(&str, i64)] = &[
    ("sum by (mode) (rate(node_cpu_seconds_total[5m]))", 15_000),
    ("sum by (mode) (rate(node_cpu_seconds_total[5m]))", 60_000),
    ("rate(node_cpu_seconds_total[5m])", 15_000),
    ("sum by (mode) (node_cpu_seconds_total)", 15_000),
    ("max by (mode) (node_cpu_seconds_total)", 15_000),
    ("avg by (instance) (node_cpu_seconds_total)", 15_000),
    ("max_over_time(node_cpu_seconds_total[10m])", 60_000),
    ("avg_over_time(node_cpu_seconds_total[5m])", 60_000),
    ("node_cpu_seconds_total / node_cpu_seconds_total", 15_000),
    ("1 - node_cpu_seconds_total", 15_000),
    ("topk(5, sum by (instance) (rate(node_cpu_seconds_total[5m])))", 30_000),
    ("predict_linear(node_cpu_seconds_total[1h], 3600)", 300_000),
];

#[divan::bench(args = 0..QUERIES.len(), sample_count = 20, sample_size = 1)]
fn evaluate(bencher: Bencher<'_, '_>, query: usize) {
    let data = columns();
    let (expr, step) = QUERIES[query];
    bencher.with_inputs(|| prepare(&data, expr, step)).bench_values(|p| p.evaluate().expect("a result"));
}
