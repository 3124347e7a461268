//! Remote-write intake from the packed request to the log: `cargo bench -p narthex-scraper --bench remote_write`.
//!
//! A request is one target's 1,000 series at one time, as in a sender that forwards scrapes; `cut` cuts the same
//! stream every 700 samples, as Prometheus's queues do. `decoded` recognises nothing: what every sample would cost
//! without [`narthex_server::write::known`].

#[path = "../tests/remote_write/push.rs"]
mod push;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use narthex_server::write::known::{Known, MAX_KNOWN};
use narthex_server::write::{V1, V2, intake};
use narthex_tsdb::{Store, StoreOptions};
use push::Push;

#[global_allocator]
static ALLOC: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const SERIES: usize = 1000;
const TARGETS: usize = 8;

fn main() {
    divan::main();
}

fn page(target: usize, step: usize) -> Vec<Push> {
    let pair = |n: &str, v: String| (n.to_owned(), v);
    let series = |i: usize| Push {
        labels: vec![
            pair("__name__", format!("node_some_subsystem_metric_{}_total", i / 20)),
            pair("cluster", "eu-central-1-production".into()),
            pair("device", format!("nvme{}n1", i % 20)),
            pair("instance", format!("10.0.{target}.1:9100")),
            pair("job", "node-exporter".into()),
            pair("namespace", "monitoring".into()),
            pair("pod", format!("node-exporter-{target}-7f9c6d")),
        ],
        samples: vec![(
            1_700_000_000_000 + step as i64 * 15_000 + target as i64,
            (i * (step / (1 + i % 4))) as f64 / 8.0,
        )],
        ..Push::default()
    };
    (0..SERIES).map(series).collect()
}

/// Feeds requests of ever later steps; each is `samples` long.
fn feed(bencher: Bencher, max: usize, message: &'static str, samples: usize) {
    let folder = tempfile::tempdir().expect("folder");
    let store = Store::open(StoreOptions::new(folder.path())).expect("store");
    let known = Known::new(max);
    let mut step = 0;
    let mut waiting: Vec<Push> = Vec::new();
    let mut next = || {
        while waiting.len() < samples {
            waiting.extend(page(step % TARGETS, step / TARGETS));
            step += 1;
        }
        let part: Vec<Push> = waiting.drain(..samples).collect();
        if message == V1 { push::v1(&part) } else { push::v2(&part, 0) }
    };
    let take = |body: Vec<u8>| {
        let taken = intake(&store, &known, &body, message, i64::MAX).expect("a request");
        assert_eq!(taken.outcome.expect("stored").appended, samples as u64);
    };
    (0..4 * TARGETS).for_each(|_| take(next()));
    let bytes = snap::raw::decompress_len(&next()).unwrap_or(0);
    bencher
        .counter(ItemsCount::new(samples))
        .counter(BytesCount::new(bytes))
        .with_inputs(next)
        .bench_local_values(take);
}

#[divan::bench(sample_count = 400, sample_size = 1)]
fn v1(bencher: Bencher) {
    feed(bencher, MAX_KNOWN, V1, SERIES);
}

#[divan::bench(sample_count = 400, sample_size = 1)]
fn v1_cut(bencher: Bencher) {
    feed(bencher, MAX_KNOWN, V1, 700);
}

#[divan::bench(sample_count = 400, sample_size = 1)]
fn v1_decoded(bencher: Bencher) {
    feed(bencher, 0, V1, SERIES);
}

#[divan::bench(sample_count = 400, sample_size = 1)]
fn v2(bencher: Bencher) {
    feed(bencher, MAX_KNOWN, V2, SERIES);
}

#[divan::bench(sample_count = 400, sample_size = 1)]
fn v2_decoded(bencher: Bencher) {
    feed(bencher, 0, V2, SERIES);
}
