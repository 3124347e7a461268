//! The index in memory at a million series: `cargo bench -p narthex-tsdb --bench postings`.
//!
//! Prints the bytes it takes first. 500 metric names on 2,000 pods of 40 namespaces; `id` has a value of its own for
//! every series.

use std::sync::LazyLock;

use divan::Bencher;
use narthex_model::{Labels, MatchType, Matcher};
use narthex_tsdb::index::{ActiveIndex, SeriesId, partition};

const METRICS: u32 = 500;
const PODS: u32 = 2000;

fn labels(id: SeriesId) -> Labels {
    let (metric, pod) = (id % METRICS, id / METRICS);
    Labels::from_pairs([
        ("__name__", format!("metric_{metric}_total")),
        ("container", format!("c{}", metric % 7)),
        ("id", format!("{id:08x}")),
        ("instance", format!("10.0.{}.{}:9100", pod / 250, pod % 250)),
        ("job", format!("job-{}", pod % 25)),
        ("namespace", format!("ns-{}", pod % 40)),
        ("pod", format!("app-{}-{:05}", pod % 40, pod)),
    ])
}

static INDEX: LazyLock<ActiveIndex> = LazyLock::new(|| {
    let mut index = ActiveIndex::new();
    for id in 0..METRICS * PODS {
        index.insert(id, &labels(id));
    }
    index
});

const QUERIES: [&[(&str, MatchType, &str)]; 11] = [
    &[("__name__", MatchType::Equal, "metric_7_total")],
    &[("__name__", MatchType::Equal, "metric_7_total"), ("namespace", MatchType::Equal, "ns-3")],
    &[
        ("namespace", MatchType::Equal, "ns-3"),
        ("job", MatchType::Equal, "job-3"),
        ("container", MatchType::Equal, "c1"),
    ],
    &[("__name__", MatchType::Equal, "metric_7_total"), ("pod", MatchType::Regexp, "app-3-.*")],
    &[("__name__", MatchType::Equal, "metric_7_total"), ("namespace", MatchType::Regexp, "ns-1|ns-2|ns-3")],
    &[("__name__", MatchType::Equal, "metric_7_total"), ("namespace", MatchType::NotEqual, "ns-3")],
    &[("__name__", MatchType::Equal, "metric_7_total"), ("id", MatchType::Regexp, ".*ff.*")],
    &[("pod", MatchType::Regexp, ".*-0001.")],
    &[("id", MatchType::Regexp, "000f.*")],
    &[("id", MatchType::Regexp, ".*[0-4]ff")],
    &[("pod", MatchType::NotRegexp, "app-.*")],
];

#[divan::bench(args = 0..QUERIES.len(), max_time = 3)]
fn select(bencher: Bencher, query: usize) {
    let matchers: Vec<Matcher> = QUERIES[query]
        .iter()
        .map(|(name, kind, value)| Matcher::new(*kind, *name, *value).expect("a matcher"))
        .collect();
    let index = &*INDEX;
    bencher.bench_local(|| index.select(&matchers).len());
}

#[divan::bench]
fn label_values_of_a_metric(bencher: Bencher) {
    let index = &*INDEX;
    let among = index.select(&[Matcher::equal("__name__", "metric_7_total")]);
    bencher.bench_local(|| index.label_values("pod", Some(&among), 0).0.len());
}

#[divan::bench]
fn look_up_labels(bencher: Bencher) {
    let index = &*INDEX;
    let wanted: Vec<Labels> = (0..1000).map(|i| labels(i * 977)).collect();
    bencher
        .counter(divan::counter::ItemsCount::new(wanted.len()))
        .bench_local(|| wanted.iter().filter(|l| index.get(l).is_some()).count());
}

#[divan::bench]
fn labels_of_series(bencher: Bencher) {
    let index = &*INDEX;
    bencher
        .counter(divan::counter::ItemsCount::new(1000usize))
        .bench_local(|| (0..1000u32).filter_map(|i| index.labels(i * 977)).count());
}

#[divan::bench(args = [1, 2000, 25_000, 1_000_000])]
fn decode_ids(bencher: Bencher, count: u32) {
    let bytes = partition::encode_ids(&(0..count).map(|i| i * (METRICS * PODS / count)).collect());
    bencher.bench_local(|| partition::decode_ids(&bytes).expect("ids").len());
}

fn main() {
    let started = std::time::Instant::now();
    let (index, memory) = (&*INDEX, INDEX.memory());
    let each = |bytes: usize| bytes as f64 / index.len() as f64;
    println!(
        "{} series of 7 labels, one of them unique, inserted in {:.1} s; bytes a series: symbols {:.0}, postings {:.0}, \
         series {:.0}, tables {:.0}",
        index.len(),
        started.elapsed().as_secs_f64(),
        each(memory.symbols),
        each(memory.postings),
        each(memory.series),
        each(memory.tables),
    );
    for (i, query) in QUERIES.iter().enumerate() {
        let text: Vec<String> = query.iter().map(|(n, t, v)| format!("{n}{}\"{v}\"", t.as_str())).collect();
        println!("select {i}: {{{}}}", text.join(","));
    }
    divan::main();
}
