//! Deleting, snapshots, retention and damaged blocks, each across a restart.

use futures::executor::block_on;
use narthex_model::{Labels, Matcher};
use narthex_storage::{
    Appendable, GroupKey, Queryable, ScrapeRow, SelectRequest, SeriesSpec, StorageAdmin, memory::MemoryStore,
};
use narthex_tsdb::{Store, StoreOptions};
use std::time::Duration;

use super::model::compare;

const STEP: i64 = 60_000;

/// Appends rows `from..to` of two groups with six series each to both stores; of deleted ones nothing to `plain`.
fn fill(store: &Store, plain: &MemoryStore, from: i64, to: i64, keep: impl Fn(&Labels, i64) -> bool) {
    for g in 0..2 {
        let key = GroupKey(format!("g{g}").into());
        let mut group = store.group(&key).unwrap();
        let labels: Vec<Labels> = (0..6)
            .map(|i| {
                let name = format!("metric_{}", i / 2);
                Labels::from_pairs([("__name__", name), ("g", g.to_string()), ("i", i.to_string())])
            })
            .collect();
        let slots: Vec<u32> = labels.iter().map(|l| group.register(SeriesSpec { labels: l }).unwrap()).collect();
        for row in from..to {
            let t = row * STEP;
            let values: Vec<f64> = (0..6).map(|i| (row * (i + g)) as f64 / 4.0).collect();
            group.commit(&ScrapeRow { timestamp: t, slots: &slots, values: &values, ..ScrapeRow::default() }).unwrap();
            for (labels, v) in labels.iter().zip(&values).filter(|l| keep(l.0, t)) {
                plain.put(labels, t, *v, 0);
            }
        }
    }
}

fn options(path: &std::path::Path) -> StoreOptions {
    StoreOptions { window_rows: 20, ..StoreOptions::new(path) }
}

fn same(store: &Store, plain: &MemoryStore, what: &str) {
    compare(store, plain, &[], i64::MIN, i64::MAX, what);
    compare(store, plain, &[Matcher::equal("__name__", "metric_1")], 30 * STEP, 70 * STEP, what);
}

#[test]
fn deleted_samples_stay_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let plain = MemoryStore::new();
    let deleted = |labels: &Labels, t: i64| labels.value("i") == "2" && (10 * STEP..=90 * STEP).contains(&t);
    let mut store = Store::open(options(folder.path())).unwrap();
    fill(&store, &plain, 1, 100, |l, t| !deleted(l, t));
    store.delete_series(&[vec![Matcher::equal("i", "2")]], 10 * STEP, 90 * STEP).unwrap();
    same(&store, &plain, "deleted");
    store.close().unwrap();
    drop(store);
    store = Store::open(options(folder.path())).unwrap();
    same(&store, &plain, "deleted, restarted");
    store.clean_tombstones().unwrap();
    same(&store, &plain, "cleaned");
    drop(store);
    store = Store::open(options(folder.path())).unwrap();
    same(&store, &plain, "cleaned, restarted");
    fill(&store, &plain, 100, 130, |_, _| true);
    same(&store, &plain, "appended after");
}

#[test]
fn a_snapshot_is_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let plain = MemoryStore::new();
    let store = Store::open(options(folder.path())).unwrap();
    fill(&store, &plain, 1, 100, |_, _| true);
    let name = store.snapshot(false).unwrap();
    same(&store, &plain, "after the snapshot");
    let more = MemoryStore::new();
    fill(&store, &more, 100, 110, |_, _| true);
    let copy = Store::open(options(&folder.path().join("snapshots").join(name))).unwrap();
    same(&copy, &plain, "the snapshot");
}

#[test]
fn retention_drops_what_is_old() {
    let folder = tempfile::tempdir().unwrap();
    let plain = MemoryStore::new();
    let keep = |_: &Labels, t: i64| t >= 10 * 120 * STEP;
    let with_retention = || StoreOptions {
        retention: Duration::from_secs(4 * 3600),
        window_rows: 60,
        ..StoreOptions::new(folder.path())
    };
    let store = Store::open(with_retention()).unwrap();
    fill(&store, &plain, 1, 16 * 120, keep);
    store.close().unwrap();
    drop(store);
    let store = Store::open(with_retention()).unwrap();
    store.clean_tombstones().unwrap();
    store.apply_retention().unwrap();
    let oldest = |store: &Store| {
        let set = block_on(store.select(SelectRequest::new(vec![], i64::MIN, i64::MAX))).unwrap();
        set.collect_sorted().unwrap().iter().filter_map(|s| s.floats.timestamps.first().copied()).min().unwrap()
    };
    let newest = (16 * 120 - 1) * STEP;
    let (age, limit) = (newest - oldest(&store), 4 * 3600 * 1000);
    assert!(age >= limit && age <= limit + 4 * 3600 * 1000, "kept {age} ms");
    drop(store);
    let store = Store::open(with_retention()).unwrap();
    assert_eq!(newest - oldest(&store), age, "after a restart");
    compare(&store, &plain, &[], newest - limit, i64::MAX, "what is kept");
}

#[test]
fn another_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(Store::open(options(folder.path())).unwrap());
    {
        let mut o = rocksdb::Options::default();
        o.create_if_missing(false);
        let names = rocksdb::DB::list_cf(&o, folder.path()).unwrap();
        let db = rocksdb::DB::open_cf(&o, folder.path(), names).unwrap();
        db.put_cf(&db.cf_handle("meta").unwrap(), "format", "99").unwrap();
    }
    let refused = Store::open(options(folder.path())).err().expect("refused").to_string();
    assert!(refused.contains("version 99"), "{refused}");
}

#[test]
fn a_damaged_block_is_left_out_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let plain = MemoryStore::new();
    let store = Store::open(options(folder.path())).unwrap();
    fill(&store, &plain, 1, 50, |_, _| true);
    store.close().unwrap();
    drop(store);
    {
        let o = rocksdb::Options::default();
        let names = rocksdb::DB::list_cf(&o, folder.path()).unwrap();
        let db = rocksdb::DB::open_cf(&o, folder.path(), names).unwrap();
        let blocks = db.cf_handle("blocks").unwrap();
        let first = db.iterator_cf(&blocks, rocksdb::IteratorMode::Start).next().unwrap().unwrap();
        let mut value = first.1.to_vec();
        let middle = value.len() / 2;
        value[middle] ^= 0x10;
        db.put_cf(&blocks, &first.0, value).unwrap();
    }
    let store = Store::open(options(folder.path())).unwrap();
    for _ in 0..2 {
        let set = block_on(store.select(SelectRequest::new(vec![], i64::MIN, i64::MAX))).unwrap();
        assert!(set.warnings.iter().any(|w| w.contains("damaged")), "{:?}", set.warnings);
        assert_eq!(set.collect_sorted().unwrap().len(), 12, "the others are there");
    }
}
