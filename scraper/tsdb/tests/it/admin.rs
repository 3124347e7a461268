//! Deleting, snapshots, retention and damaged blocks, each across a restart.

use futures::executor::block_on;
use narthex_model::{Labels, Matcher};
use narthex_storage::{
    Appendable, Budget, GroupAppender, GroupKey, OwnSample, Queryable, ScrapeRow, SelectRequest, SeriesSpec,
    StorageAdmin, WriteBatch, WriteSeries, memory::MemoryStore,
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
        let slots: Vec<u32> = labels.iter().map(|l| group.register(SeriesSpec::new(l)).unwrap()).collect();
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
    // Closed as they fill: on a busy machine windows would grow longer than a partition.
    for from in (1..16 * 120).step_by(60) {
        fill(&store, &plain, from, (from + 60).min(16 * 120), keep);
        store.clean_tombstones().unwrap();
    }
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

fn exemplar(i: i64) -> narthex_model::Exemplar {
    let labels = Labels::from_pairs([("trace_id", i.to_string())]);
    narthex_model::Exemplar { labels, value: i as f64 / 8.0, timestamp: i * 1000, has_timestamp: true }
}

/// The exemplars that the store has, by their time.
fn exemplars(store: &Store) -> Vec<narthex_model::Exemplar> {
    let query = narthex_storage::LabelQuery { selectors: vec![vec![]], maxt: i64::MAX, ..Default::default() };
    let mut all: Vec<_> = block_on(store.exemplars(query)).unwrap().into_iter().flat_map(|e| e.1).collect();
    all.sort_by_key(|e| e.timestamp);
    all
}

#[test]
fn exemplars_survive_as_long_as_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let open = |max| Store::open(StoreOptions { max_exemplars: max, ..options(folder.path()) }).unwrap();
    let expected = |range: std::ops::Range<i64>| range.map(exemplar).collect::<Vec<_>>();
    let append = |store: &Store, range: std::ops::Range<i64>| {
        let mut group = store.group(&GroupKey("g/1".into())).unwrap();
        let labels = |i: i64| Labels::from_pairs([("__name__", "m".into()), ("i", (i % 3).to_string())]);
        for i in range {
            let slot = group.register(SeriesSpec::new(&labels(i))).unwrap();
            let (slots, exemplars) = ([slot], [(slot, exemplar(i))]);
            let row = ScrapeRow {
                timestamp: i * 1000,
                slots: &slots,
                values: &[i as f64],
                exemplars: &exemplars,
                ..ScrapeRow::default()
            };
            let outcome = group.commit(&row).unwrap();
            assert_eq!((outcome.exemplars, outcome.exemplars_refused), (1, 0));
            block_on(outcome.durable.unwrap()).unwrap();
        }
    };
    let mut store = open(20);
    append(&store, 1..50);
    assert_eq!(exemplars(&store), expected(30..50));
    // Not closed, as if it had been killed.
    drop(store);
    store = open(20);
    assert_eq!(exemplars(&store), expected(30..50), "killed");
    append(&store, 50..55);
    store.close().unwrap();
    drop(store);
    store = open(20);
    assert_eq!(exemplars(&store), expected(35..55), "closed");
    store.configure(&StoreOptions { max_exemplars: 5, ..options(folder.path()) });
    assert_eq!(exemplars(&store), expected(50..55), "fewer");
    store.configure(&StoreOptions { max_exemplars: 0, ..options(folder.path()) });
    assert_eq!(exemplars(&store), [], "none");
}

#[test]
fn histograms_keep_their_start_timestamps() {
    let folder = tempfile::tempdir().unwrap();
    let histogram = |i: i64| {
        std::sync::Arc::new(narthex_model::Histogram {
            count: i as f64,
            sum: i as f64 / 2.0,
            positive_spans: [narthex_model::Span { offset: 0, length: 1 }].into(),
            positive_buckets: vec![i as f64],
            ..Default::default()
        })
    };
    let start = |i: i64| if i < 30 { 500 } else { 29_500 };
    let mut store = Store::open(options(folder.path())).unwrap();
    let mut group = store.group(&GroupKey("g/1".into())).unwrap();
    let labels = Labels::from_pairs([("__name__", "h")]);
    let slot = group.register(SeriesSpec::new(&labels)).unwrap();
    let last = 60;
    for i in 1..last {
        let (histograms, starts) = ([(slot, histogram(i))], [(slot, start(i))]);
        let row = ScrapeRow {
            timestamp: i * 1000,
            histograms: &histograms,
            start_timestamps: &starts,
            ..ScrapeRow::default()
        };
        let outcome = group.commit(&row).unwrap();
        assert_eq!(outcome.appended, 1);
        block_on(outcome.durable.unwrap()).unwrap();
    }
    drop(group);
    let check = |store: &Store, what: &str| {
        let set = block_on(store.select(SelectRequest::new(vec![], i64::MIN, i64::MAX))).unwrap();
        let found = set.collect_sorted().unwrap().remove(0).histograms;
        assert_eq!(found.timestamps, (1..last).map(|i| i * 1000).collect::<Vec<_>>(), "{what}");
        assert_eq!(found.start_timestamps, (1..last).map(start).collect::<Vec<_>>(), "{what}");
        let hints: Vec<_> = found.values.iter().map(|h| h.counter_reset_hint).collect();
        assert_eq!(hints[0], narthex_model::CounterResetHint::Unknown, "{what}");
        assert!(hints[1..].iter().all(|h| *h == narthex_model::CounterResetHint::NotCounterReset), "{what}");
    };
    check(&store, "in memory");
    drop(store);
    store = Store::open(options(folder.path())).unwrap();
    check(&store, "from the log");
    store.close().unwrap();
    drop(store);
    check(&Store::open(options(folder.path())).unwrap(), "from blocks");
}

#[test]
fn what_may_change_changes_while_the_store_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(options(folder.path())).unwrap();
    let mut group = store.group(&GroupKey("job/1".into())).unwrap();
    let labels = |i: i64| Labels::from_pairs([("__name__", "m".into()), ("id", i.to_string())]);
    let slot = group.register(SeriesSpec::new(&labels(0))).unwrap();
    let mut append = |t: i64| {
        let row = ScrapeRow { timestamp: t, slots: &[slot], values: &[t as f64], ..ScrapeRow::default() };
        let outcome = group.commit(&row).unwrap();
        (outcome.appended, outcome.out_of_order, outcome.too_old)
    };
    assert_eq!(append(1_000_000), (1, 0, 0));
    assert_eq!(append(999_000), (0, 1, 0));
    let wide = StoreOptions { out_of_order_time_window: Duration::from_secs(60), ..options(folder.path()) };
    store.configure(&wide);
    assert_eq!(append(999_000), (1, 0, 0));
    assert_eq!(append(900_000), (0, 0, 1));
    store.configure(&options(folder.path()));
    assert_eq!(append(998_000), (0, 1, 0));

    store.configure(&StoreOptions { max_series_per_pool: 5, ..options(folder.path()) });
    for (key, first, taken) in [("job/1", 1000, 4), ("job/2", 2000, 0), ("other/1", 3000, 5)] {
        let mut group = store.group(&GroupKey(key.into())).unwrap();
        let register = |i: &i64| group.register(SeriesSpec::new(&labels(*i))).is_ok();
        assert_eq!((first..first + 10).filter(register).count(), taken, "{key}");
    }
    let text = store.status()["series limits"].clone();
    assert!(text.contains("job job is at its limit of 5 series") && text.contains("label \"id\""), "{text}");
    assert!(store.figures()["narthex_tsdb_limit_refused_series{scope=\"job job\"}"] > 0.0);
    store.configure(&options(folder.path()));
    let mut group = store.group(&GroupKey("job/1".into())).unwrap();
    assert!(group.register(SeriesSpec::new(&labels(7777))).is_ok(), "the limit is lifted");
}

#[test]
fn what_is_exempt_is_taken_by_a_full_store() {
    let folder = tempfile::tempdir().unwrap();
    let full = StoreOptions { max_series: 5, max_series_per_group: 5, window_rows: 4, ..options(folder.path()) };
    let store = Store::open(full.clone()).unwrap();
    let labels = |name: &str, i: i64| Labels::from_pairs([("__name__", name.to_owned()), ("id", i.to_string())]);
    let exempt = Budget { exempt: true, ..Budget::default() };
    let mut group = store.group(&GroupKey("job/1".into())).unwrap();
    let page: Vec<u32> = (0..5).map(|i| group.register(SeriesSpec::new(&labels("m", i))).unwrap()).collect();
    assert!(group.register(SeriesSpec::new(&labels("m", 10))).is_err());
    let up = group.register(SeriesSpec { labels: &labels("up", 0), budget: exempt }).unwrap();
    let mut other = store.group(&GroupKey("job/2".into())).unwrap();
    assert!(other.register(SeriesSpec::new(&labels("m", 11))).is_err());
    assert!(other.register(SeriesSpec { labels: &labels("up", 1), budget: exempt }).is_ok());
    // A slot whose series has left memory is taken back although another series has its place.
    let commit = |group: &mut Box<dyn GroupAppender>, t: i64, slots: &[u32]| {
        let values = vec![t as f64; slots.len()];
        group.commit(&ScrapeRow { timestamp: t, slots, values: &values, ..ScrapeRow::default() }).unwrap();
    };
    commit(&mut group, 1, &[&page[..], &[up]].concat());
    group.retire(&page[2..]);
    for t in 2..40 {
        commit(&mut group, t, &[page[0], page[1], up]);
    }
    let start = std::time::Instant::now();
    let added = loop {
        // Windows close in the background.
        if let Ok(slot) = group.register(SeriesSpec::new(&labels("m", 12))) {
            break slot;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "the place is never free");
        std::thread::sleep(Duration::from_millis(10));
    };
    commit(&mut group, 50, &[&page[..], &[up, added]].concat());
    drop((group, other));
    store.close().unwrap();
    drop(store);
    let store = Store::open(full).unwrap();
    let request = SelectRequest::new(vec![Matcher::equal("id", "2")], i64::MIN, i64::MAX);
    let found = block_on(store.select(request)).unwrap().collect_sorted().unwrap();
    assert_eq!(found[0].floats.iter().collect::<Vec<_>>(), [(1, 1.0), (50, 50.0)]);
}

#[test]
fn samples_that_two_groups_have_otherwise_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let labels = |i: i64| Labels::from_pairs([("__name__", "m".into()), ("id", i.to_string())]);
    let commit = |store: &Store, key: &str, ids: std::ops::Range<i64>, t: i64, v: f64| {
        let mut group = store.group(&GroupKey(key.into())).unwrap();
        let slots: Vec<u32> = ids.map(|i| group.register(SeriesSpec::new(&labels(i))).unwrap()).collect();
        let values = vec![v; slots.len()];
        let row = ScrapeRow { timestamp: t, slots: &slots, values: &values, ..ScrapeRow::default() };
        let outcome = group.commit(&row).unwrap();
        (outcome.appended, outcome.duplicate)
    };
    for (restart, t) in [(false, 1000), (true, 2000)] {
        let store = Store::open(options(folder.path())).unwrap();
        assert_eq!(commit(&store, "a", 0..10, t, 1.0), (10, 0), "{restart}");
        // What differs in value, what does not, and what is at another time.
        let first = if restart { (7, 3) } else { (10, 0) };
        assert_eq!(commit(&store, "b", 7..17, t, 2.0), first, "{restart}");
        assert_eq!(commit(&store, "a", 0..10, t + 1, 1.0), (10, 0), "{restart}");
        assert_eq!(commit(&store, "b", 7..17, t + 1, 2.0), (7, 3), "{restart}");
        assert_eq!(commit(&store, "a", 0..10, t + 2, 5.0), (10, 0), "{restart}");
        assert_eq!(commit(&store, "b", 7..17, t + 2, 5.0), (10, 0), "{restart}");
        assert_eq!(commit(&store, "b", 7..17, t + 3, 6.0), (10, 0), "{restart}");
        let counted = store.figures()["narthex_tsdb_duplicate_samples_total"];
        assert_eq!(counted, if restart { 6.0 } else { 3.0 });
    }
}

#[test]
fn owners_have_budgets_across_their_groups() {
    let folder = tempfile::tempdir().unwrap();
    let labels = |i: i64| Labels::from_pairs([("__name__", "m".into()), ("id", i.to_string())]);
    let budget = Budget { group: 6, shared: 8, owner: "serviceMonitor/ns/m", ..Budget::default() };
    for restart in [false, true] {
        let store = Store::open(options(folder.path())).unwrap();
        let mut now = 0;
        let mut taken = |key: &str, first: i64| {
            let mut group = store.group(&GroupKey(key.into())).unwrap();
            let register = |i: i64| group.register(SeriesSpec { labels: &labels(i), budget }).ok();
            let slots: Vec<u32> = (first..first + 10).filter_map(register).collect();
            now += 1;
            let values = vec![1.0; slots.len()];
            let row = ScrapeRow {
                timestamp: now + i64::from(restart) * 1000,
                slots: &slots,
                values: &values,
                ..ScrapeRow::default()
            };
            group.commit(&row).unwrap();
            slots.len()
        };
        assert_eq!((taken("serviceMonitor/ns/m/0/a", 0), taken("serviceMonitor/ns/m/1/b", 100)), (6, 2), "{restart}");
        if restart {
            assert_eq!(taken("serviceMonitor/ns/m/0/c", 200), 0, "what was there before counts");
        }
        let text = store.status()["series limits"].clone();
        assert!(text.contains("job serviceMonitor/ns/m is at its limit of 8 series"), "{text}");
        assert!(text.contains("values of the label \"id\""), "{text}");
    }
}

#[test]
fn retention_by_size_holds_across_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let plain = MemoryStore::new();
    let store = Store::open(options(folder.path())).unwrap();
    for day in 0..10 {
        fill(&store, &plain, day * 600 + 1, day * 600 + 601, |_, _| true);
    }
    store.close().unwrap();
    drop(store);
    let bytes = |store: &Store| -> f64 {
        let figures = store.figures();
        figures.iter().filter(|f| f.0.starts_with("narthex_rocksdb_live_sst_bytes")).map(|f| f.1).sum()
    };
    let oldest = |store: &Store| {
        let set = block_on(store.select(SelectRequest::new(vec![], i64::MIN, i64::MAX))).unwrap();
        set.collect_sorted().unwrap().iter().filter_map(|s| s.floats.timestamps.first().copied()).min().unwrap()
    };
    let store = Store::open(options(folder.path())).unwrap();
    assert_eq!(oldest(&store), STEP);
    // About half of the samples; the rest of the files is as large for these few.
    let limit = bytes(&store) as u64 - 7000;
    let small = StoreOptions { retention_size: limit, ..options(folder.path()) };
    store.configure(&small);
    store.apply_retention().unwrap();
    let bytes_kept = bytes(&store);
    // Not any more by itself, whenever that happens here.
    store.configure(&options(folder.path()));
    let kept = oldest(&store);
    assert!(kept > STEP && bytes_kept <= limit as f64, "from {kept}, {bytes_kept} of {limit}");
    drop(store);
    let store = Store::open(options(folder.path())).unwrap();
    assert_eq!(oldest(&store), kept);
    let newest = 6000 * STEP;
    assert!(kept < newest - 1000 * STEP, "kept from {kept}");
    // Partitions go as a whole, and groups begin theirs at different times.
    compare(&store, &plain, &[], kept + 4 * 3_600_000, i64::MAX, "what is kept");
}

/// A window may go to blocks between two parts of a page, and a page may be sent again after that.
#[test]
fn the_rest_of_a_page_is_taken_when_its_beginning_is_in_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(options(folder.path())).unwrap();
    let page = |series: std::ops::Range<i64>, t: i64| WriteBatch {
        series: series
            .map(|i| WriteSeries {
                labels: Labels::from_pairs([("__name__", "m".to_owned()), ("i", i.to_string())]),
                samples: vec![(t, (t + i) as f64)],
                ..WriteSeries::default()
            })
            .collect(),
    };
    for t in 1..5 {
        store.write(&page(0..20, t * 1000)).unwrap();
    }
    let counts = |batch| {
        let outcome = store.write(&batch).unwrap();
        (outcome.appended, outcome.duplicate, outcome.first_refusal)
    };
    assert_eq!(counts(page(0..10, 5000)), (10, 0, None));
    store.clean_tombstones().unwrap();
    assert_eq!(counts(page(10..20, 5000)), (10, 0, None));
    store.clean_tombstones().unwrap();
    assert_eq!(counts(page(0..20, 5000)).2, None, "the same again");
    let all = block_on(store.select(SelectRequest::new(vec![], i64::MIN, i64::MAX))).unwrap().collect_sorted().unwrap();
    assert_eq!(all.len(), 20);
    for series in all {
        let i: i64 = series.labels.value("i").parse().unwrap();
        let want: Vec<(i64, f64)> = (1..6).map(|k| (k * 1000, (k * 1000 + i) as f64)).collect();
        assert_eq!(series.floats.iter().collect::<Vec<_>>(), want, "{}", series.labels);
    }
}

#[test]
fn series_are_found_at_all_times_that_they_have_samples() {
    let folder = tempfile::tempdir().unwrap();
    let wide = StoreOptions { out_of_order_time_window: Duration::from_secs(7200), ..options(folder.path()) };
    let mut store = Store::open(wide.clone()).unwrap();
    let labels = |name: &str| Labels::from_pairs([("__name__", name)]);
    let (now, hour) = (10_000_000_000, 3_600_000);
    {
        // A sample ahead of the page's time, stored before the page is: the others begin with the page.
        let mut group = store.group(&GroupKey("job/1".into())).unwrap();
        let slots = ["a", "b", "ahead"].map(|name| group.register(SeriesSpec::new(&labels(name))).unwrap());
        let own = [OwnSample { slot: slots[2], timestamp: now + hour, value: 3.0, ..OwnSample::default() }];
        let row = ScrapeRow {
            timestamp: now,
            slots: &slots[..2],
            values: &[1.0, 2.0],
            own: &own,
            own_first: 1,
            ..ScrapeRow::default()
        };
        let outcome = group.commit(&row).unwrap();
        assert_eq!(outcome.appended, 3);
        // One that comes late, from before its series was known to begin.
        let late = OwnSample { slot: slots[1], timestamp: now - hour, value: 4.0, ..OwnSample::default() };
        let row = ScrapeRow { timestamp: now + 15_000, own: &[late], ..ScrapeRow::default() };
        let outcome = group.commit(&row).unwrap();
        assert_eq!(outcome.appended, 1);
        futures::executor::block_on(outcome.durable.unwrap()).unwrap();
    }
    for opened in 0..2 {
        let found = |at: i64| {
            let matcher = Matcher::new(narthex_model::MatchType::Regexp, "__name__", ".+").unwrap();
            let request = SelectRequest::new(vec![matcher], at - 1000, at);
            let set = futures::executor::block_on(store.select(request)).unwrap().collect_sorted().unwrap();
            set.iter().map(|s| s.labels.metric_name().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(found(now - hour), ["b"], "opened {opened} times again");
        assert_eq!(found(now), ["a", "b"], "opened {opened} times again");
        assert_eq!(found(now + hour), ["ahead"], "opened {opened} times again");
        if opened == 0 {
            drop(store);
            store = Store::open(wide.clone()).unwrap();
        }
    }
}
