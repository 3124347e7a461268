//! Reading one metric's blocks over a window: `cargo bench -p narthex-tsdb --bench reads`.
//!
//! `keys` asks which order of keys and which kind of read finds them soonest: 100 groups of 40 metrics, a block of eight
//! columns each, as they lie in one partition of a database with the store's options for blocks. `select` is the store's
//! own answer, from the request to columns of floats: one metric of 50 groups over all of a window of 960 rows, over its
//! last hour, and over its last five minutes; and how many of them are there, for all metrics.

use std::hint::black_box;
use std::sync::LazyLock;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use futures::executor::block_on;
use narthex_model::{Labels, Matcher};
use narthex_storage::{
    Appendable, GroupKey, Queryable, ScrapeRow, SelectHints, SelectRequest, SeriesSpec, StorageAdmin,
};
use narthex_tsdb::block::{BlockBuilder, ColumnSpec, Rows};
use narthex_tsdb::codec::Effort;
use narthex_tsdb::{Store, StoreOptions};
use rocksdb::{BlockBasedOptions, DB, DBCompressionType, IteratorMode, Options, ReadOptions};
use tempfile::TempDir;

const GROUPS: u32 = 100;
const METRICS: u32 = 40;
const COLUMNS: u64 = 8;
const ROWS: usize = 480;
const STEP: i64 = 15_000;

struct Noise(u64);

impl Noise {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Counters that move by a few hundredths.
fn block(noise: &mut Noise) -> Vec<u8> {
    let times: Vec<i64> = (0..ROWS as i64).map(|i| i * STEP).collect();
    let mut builder = BlockBuilder::new(&times, Effort::Best);
    for series in 0..COLUMNS {
        let mut at = noise.below(1_000_000);
        let values: Vec<f64> = times
            .iter()
            .map(|_| {
                at += noise.below(1500);
                at as f64 / 100.0
            })
            .collect();
        builder.push_floats(&ColumnSpec::new(series, Rows::All), &values);
    }
    builder.finish()
}

#[derive(Clone, Copy, Debug)]
enum Order {
    MetricGroup,
    GroupMetric,
}

fn key(order: Order, metric: u32, group: u32) -> Vec<u8> {
    let (a, b) = match order {
        Order::MetricGroup => (metric, group),
        Order::GroupMetric => (group, metric),
    };
    [&7u32.to_be_bytes()[..], &a.to_be_bytes(), &b.to_be_bytes(), &99u64.to_be_bytes()].concat()
}

struct Keys {
    _folder: TempDir,
    db: DB,
    /// Of the blocks of one metric.
    bytes: usize,
}

fn keys(order: Order) -> &'static Keys {
    static ALL: [LazyLock<Keys>; 2] =
        [LazyLock::new(|| fill(Order::MetricGroup)), LazyLock::new(|| fill(Order::GroupMetric))];
    &ALL[order as usize]
}

fn fill(order: Order) -> Keys {
    let folder = tempfile::tempdir().expect("a folder");
    let mut table = BlockBasedOptions::default();
    table.set_block_size(16 << 10);
    table.set_format_version(5);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_compression_type(DBCompressionType::None);
    options.set_block_based_table_factory(&table);
    let db = DB::open(&options, folder.path()).expect("a database");
    let mut noise = Noise(1);
    let mut bytes = 0;
    for metric in 0..METRICS {
        for group in 0..GROUPS {
            let block = block(&mut noise);
            bytes += block.len();
            db.put(key(order, metric, group), block).expect("written");
        }
    }
    db.flush().expect("flushed");
    db.compact_range::<&[u8], &[u8]>(None, None);
    Keys { _folder: folder, db, bytes: bytes / METRICS as usize }
}

const METRIC: u32 = 17;

/// A read per block, copied.
#[divan::bench(args = [Order::MetricGroup, Order::GroupMetric])]
fn keys_point_reads(bencher: Bencher, order: Order) {
    let keys = keys(order);
    bencher.counter(BytesCount::new(keys.bytes)).bench_local(|| {
        (0..GROUPS)
            .map(|group| keys.db.get(key(order, METRIC, group)).expect("read").expect("there").len())
            .sum::<usize>()
    });
}

/// The same, looked at where they lie in the cache.
#[divan::bench(args = [Order::MetricGroup, Order::GroupMetric])]
fn keys_pinned_point_reads(bencher: Bencher, order: Order) {
    let keys = keys(order);
    bencher.counter(BytesCount::new(keys.bytes)).bench_local(|| {
        let read = |group| keys.db.get_pinned(key(order, METRIC, group)).expect("read").expect("there").len();
        (0..GROUPS).map(read).sum::<usize>()
    });
}

/// All in one call.
#[divan::bench(args = [Order::MetricGroup, Order::GroupMetric])]
fn keys_one_call(bencher: Bencher, order: Order) {
    let keys = keys(order);
    bencher.counter(BytesCount::new(keys.bytes)).bench_local(|| {
        let all = (0..GROUPS).map(|group| key(order, METRIC, group));
        keys.db.multi_get(all).into_iter().map(|v| v.expect("read").expect("there").len()).sum::<usize>()
    });
}

/// One iterator over the metric, whose blocks lie side by side in the first order; copied, as they outlive it.
#[divan::bench]
fn keys_iterator(bencher: Bencher) {
    let keys = keys(Order::MetricGroup);
    bencher.counter(BytesCount::new(keys.bytes)).bench_local(|| {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(key(Order::MetricGroup, METRIC + 1, 0));
        let from = key(Order::MetricGroup, METRIC, 0);
        let mode = IteratorMode::From(&from, rocksdb::Direction::Forward);
        keys.db.iterator_opt(mode, options).map(|entry| entry.expect("read").1.len()).sum::<usize>()
    });
}

const STORE_GROUPS: usize = 50;
const STORE_METRICS: usize = 20;
const STORE_ROWS: i64 = 960;

struct Filled {
    _folder: TempDir,
    store: Store,
}

static STORE: LazyLock<Filled> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(StoreOptions::new(folder.path())).expect("a store");
    let mut noise = Noise(2);
    for g in 0..STORE_GROUPS {
        let mut group = store.group(&GroupKey(format!("g{g}").into())).expect("a group");
        let columns = STORE_METRICS * COLUMNS as usize;
        let slots: Vec<u32> = (0..columns)
            .map(|i| {
                let labels = Labels::from_pairs([
                    ("__name__", format!("metric_{}_total", i / COLUMNS as usize)),
                    ("instance", format!("10.0.0.{g}:9100")),
                    ("mode", (i % COLUMNS as usize).to_string()),
                ]);
                group.register(SeriesSpec::new(&labels)).expect("a slot")
            })
            .collect();
        let mut totals = vec![0u64; columns];
        for row in 1..=STORE_ROWS {
            totals.iter_mut().for_each(|t| *t += noise.below(1500));
            let values: Vec<f64> = totals.iter().map(|t| *t as f64 / 100.0).collect();
            let row = ScrapeRow { timestamp: row * STEP, slots: &slots, values: &values, ..ScrapeRow::default() };
            group.commit(&row).expect("a row");
        }
    }
    // All in final form.
    store.snapshot(false).expect("a snapshot");
    Filled { _folder: folder, store }
});

fn select(matchers: Vec<Matcher>, mint: i64, no_samples: bool) -> usize {
    let request = SelectRequest {
        hints: SelectHints { no_samples, ..SelectHints::default() },
        ..SelectRequest::new(matchers, mint, STORE_ROWS * STEP)
    };
    let set = block_on(STORE.store.select(request)).expect("an answer");
    set.batches.map(|b| b.expect("a batch").series.iter().map(|s| black_box(&s.floats).len()).sum::<usize>()).sum()
}

#[divan::bench(args = [960, 240, 20])]
fn select_metric_rows(bencher: Bencher, rows: i64) {
    let run = || select(vec![Matcher::equal("__name__", "metric_7_total")], (STORE_ROWS - rows + 1) * STEP, false);
    let samples = run();
    assert_eq!(samples, STORE_GROUPS * COLUMNS as usize * rows as usize);
    bencher.counter(ItemsCount::new(samples)).bench_local(run);
}

#[divan::bench(args = [false, true])]
fn select_all_newest(bencher: Bencher, no_samples: bool) {
    let run = || select(Vec::new(), (STORE_ROWS - 19) * STEP, no_samples);
    bencher.counter(ItemsCount::new(run())).bench_local(run);
}

fn main() {
    divan::main();
}
