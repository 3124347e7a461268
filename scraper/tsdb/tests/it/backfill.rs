//! History from elsewhere: what is sent once, twice and in part is there once, beside what was scraped, and after
//! restarts.

use std::sync::Arc;
use std::time::Duration;

use futures::executor::block_on;
use narthex_model::{Histogram, Labels, Matcher, Span, stale_nan};
use narthex_storage::memory::MemoryStore;
use narthex_storage::{
    Appendable, Backfilled, GroupKey, LabelQuery, Queryable, ScrapeRow, SeriesSpec, StorageAdmin, WriteBatch,
    WriteSeries,
};
use narthex_tsdb::{Store, StoreOptions};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::model::compare;

const HOUR: i64 = 3_600_000;
const NOW: i64 = 100 * 24 * HOUR;

fn labels(target: usize, i: usize) -> Labels {
    Labels::from_pairs([
        ("__name__", format!("metric_{}", i % 7)),
        ("instance", format!("i{target}")),
        ("job", "j".into()),
        ("n", i.to_string()),
    ])
}

fn histogram(n: u64) -> Arc<Histogram> {
    Arc::new(Histogram {
        schema: 1,
        count: (n + 2) as f64,
        sum: n as f64 / 2.0,
        zero_threshold: 1e-128,
        zero_count: 2.0,
        positive_spans: vec![Span { offset: 0, length: 1 }],
        positive_buckets: vec![n as f64],
        ..Histogram::default()
    })
}

/// Some hours of some targets, as an importer cuts them.
fn batches(rng: &mut StdRng) -> Vec<WriteBatch> {
    let mut all = Vec::new();
    for start in [NOW - 200 * HOUR, NOW - 50 * HOUR, NOW - 49 * HOUR, NOW - 3 * HOUR] {
        let mut batch = WriteBatch::default();
        for target in 0..3 {
            let step = [15_000, 60_000, 1000][target];
            let offset = rng.random_range(0..step);
            let times: Vec<i64> = (0..rng.random_range(50..400)).map(|i| start + offset + i * step).collect();
            for i in 0..12 {
                let mut series = WriteSeries { labels: labels(target, i), ..WriteSeries::default() };
                for (row, t) in times.iter().enumerate() {
                    let jitter = if i == 11 { (row % 5) as i64 } else { 0 };
                    match i {
                        0 => series.samples.push((*t, 7.0)),
                        1 if row % 3 == 0 => {}
                        2 if row + 1 == times.len() => series.samples.push((*t, stale_nan())),
                        9 if row % 2 == 0 => series.histograms.push((t + 1, histogram(row as u64))),
                        10 => series.histograms.push((*t, histogram(row as u64))),
                        _ => series.samples.push((t + jitter, (row * i) as f64 / 8.0)),
                    }
                }
                if i == 3 && target != 0 {
                    series.start_timestamps = series.samples.iter().map(|s| s.0 - s.0 % (10 * step)).collect();
                }
                batch.series.push(series);
            }
        }
        all.push(batch);
    }
    all
}

fn send(store: &Store, batch: &WriteBatch) -> Backfilled {
    store.backfill(batch.clone(), NOW + 10 * HOUR).unwrap()
}

fn samples(batch: &WriteBatch) -> u64 {
    batch.series.iter().map(|s| (s.samples.len() + s.histograms.len()) as u64).sum()
}

fn same(store: &Store, plain: &MemoryStore, what: &str) {
    compare(store, plain, &[], i64::MIN, i64::MAX, what);
    compare(store, plain, &[Matcher::equal("__name__", "metric_3")], NOW - 50 * HOUR, NOW - 49 * HOUR, what);
    compare(store, plain, &[Matcher::equal("instance", "i1")], NOW - 3 * HOUR, NOW - 3 * HOUR + 600_000, what);
    let names = |q: &dyn Queryable| {
        let query = LabelQuery { mint: NOW - 300 * HOUR, maxt: NOW, ..LabelQuery::default() };
        block_on(q.label_values("n", query)).unwrap().values
    };
    assert_eq!(names(store), names(plain), "{what}");
}

#[test]
fn history_is_there_once() {
    let folder = tempfile::tempdir().unwrap();
    let options = || StoreOptions { window_rows: 20, ..StoreOptions::new(folder.path()) };
    let mut rng = StdRng::seed_from_u64(3);
    let plain = MemoryStore::new();
    let mut store = Store::open(options()).unwrap();
    // One target is scraped, too: later than what comes from elsewhere, and at the same time.
    let scrape = |store: &Store, rows: std::ops::Range<i64>| {
        let mut group = store.group(&GroupKey("scraped".into())).unwrap();
        let all: Vec<Labels> = (0..6).map(|i| labels(0, i)).collect();
        let slots: Vec<u32> = all.iter().map(|l| group.register(SeriesSpec::new(l)).unwrap()).collect();
        for row in rows {
            let t = NOW - 3 * HOUR + row * 15_000 + 7;
            let values: Vec<f64> = (0..6).map(|i| (row + i) as f64).collect();
            group.commit(&ScrapeRow { timestamp: t, slots: &slots, values: &values, ..ScrapeRow::default() }).unwrap();
            all.iter().zip(&values).for_each(|(l, v)| plain.put(l, t, *v, 0));
        }
    };
    scrape(&store, 0..100);
    let all = batches(&mut rng);
    for i in 0..all.len() {
        // In an order that is not that of time.
        let batch = &all[(i * 3 + 1) % all.len()];
        let mut half = batch.clone();
        half.series.iter_mut().for_each(|s| s.samples.truncate(s.samples.len() / 2));
        half.series.iter_mut().for_each(|s| s.start_timestamps.truncate(s.samples.len()));
        plain.write(batch).unwrap();
        let first = Backfilled { taken: samples(&half), ..Backfilled::default() };
        assert_eq!(send(&store, &half), first, "half of batch {i}");
        let rest =
            Backfilled { taken: samples(batch) - samples(&half), known: samples(&half), ..Backfilled::default() };
        assert_eq!(send(&store, batch), rest, "batch {i}");
    }
    same(&store, &plain, "taken");
    scrape(&store, 100..200);
    for restart in ["again", "after a restart"] {
        for batch in &all {
            let known = Backfilled { known: samples(batch), ..Backfilled::default() };
            assert_eq!(send(&store, batch), known, "{restart}");
        }
        same(&store, &plain, restart);
        store.close().unwrap();
        drop(store);
        store = Store::open(options()).unwrap();
    }
    store.snapshot(false).unwrap();
    same(&store, &plain, "merged");
}

#[test]
fn limits_of_time_and_contradictions_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions { retention: Duration::from_secs(30 * 24 * 3600), ..StoreOptions::new(folder.path()) };
    let store = Store::open(options).unwrap();
    let one = |samples: &[(i64, f64)]| {
        let series = WriteSeries { labels: labels(0, 0), samples: samples.to_vec(), ..WriteSeries::default() };
        WriteBatch { series: vec![series] }
    };
    let old = NOW - 31 * 24 * HOUR;
    let done = send(&store, &one(&[(old, 1.0), (NOW - HOUR, 2.0), (NOW - HOUR, 3.0), (NOW + 11 * HOUR, 4.0)]));
    assert_eq!(done, Backfilled { taken: 1, duplicate: 1, too_old: 1, too_new: 1, known: 0 });
    assert_eq!(send(&store, &one(&[(NOW - HOUR, 5.0)])), Backfilled { duplicate: 1, ..Backfilled::default() });
    // What was deleted can come again, with a tombstone still there.
    store.delete_series(&[vec![Matcher::equal("n", "0")]], i64::MIN, i64::MAX).unwrap();
    let plain = MemoryStore::new();
    compare(&store, &plain, &[], i64::MIN, i64::MAX, "deleted");
    assert_eq!(send(&store, &one(&[(NOW - HOUR, 6.0)])).taken, 1);
    plain.put(&labels(0, 0), NOW - HOUR, 6.0, 0);
    compare(&store, &plain, &[], i64::MIN, i64::MAX, "again");
    store.clean_tombstones().unwrap();
    compare(&store, &plain, &[], i64::MIN, i64::MAX, "cleaned");
}
