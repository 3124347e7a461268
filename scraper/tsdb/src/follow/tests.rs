//! Tails against what was appended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use narthex_model::{Exemplar, Histogram, Labels, stale_nan};
use narthex_storage::{
    Appendable, ErrorKind, Followable, GroupAppender, GroupKey, OwnSample, ScrapeRow, SeriesSpec, Slot, Tail,
    TailValue, Tailed, WriteBatch, WriteSeries,
};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::reader::LogTail;
use crate::{Store, StoreOptions};

const STEP: i64 = 15_000;

#[derive(Clone, Debug, PartialEq)]
struct Sample {
    timestamp: i64,
    /// `None`: it was late, and what its start is depends.
    start: Option<i64>,
    value: Result<u64, Histogram>,
}

impl Sample {
    fn is(&self, other: &Sample) -> bool {
        let start = self.start.is_none() || other.start.is_none() || self.start == other.start;
        start && self.timestamp == other.timestamp && self.value == other.value
    }
}

/// What was appended, or what came of it, by labels.
#[derive(Clone, Default)]
struct All {
    series: BTreeMap<String, Vec<Sample>>,
    exemplars: Vec<(String, i64)>,
}

impl All {
    fn push(&mut self, labels: &Labels, timestamp: i64, start: Option<i64>, value: Result<u64, Histogram>) {
        self.series.entry(labels.to_string()).or_default().push(Sample { timestamp, start, value });
    }

    fn counts(&self) -> (BTreeMap<String, usize>, usize) {
        (self.series.iter().map(|(l, s)| (l.clone(), s.len())).collect(), self.exemplars.len())
    }
}

/// One who follows, and what it got. Batches are kept until they are settled: after a restart they come again.
struct Follower {
    name: String,
    tail: Option<LogTail>,
    names: BTreeMap<u32, String>,
    got: All,
    batches: Vec<(u64, All)>,
    settled: u64,
    /// What was there before it.
    before: (BTreeMap<String, usize>, usize),
}

impl Follower {
    fn new(store: &Store, name: &str, appended: &All) -> Follower {
        let tail = store.open_tail(name).unwrap();
        Follower {
            name: name.into(),
            tail: Some(tail),
            names: BTreeMap::new(),
            got: All::default(),
            batches: Vec::new(),
            settled: 0,
            before: appended.counts(),
        }
    }

    fn read(&mut self, most: usize) -> usize {
        let tail = self.tail.as_mut().unwrap();
        let batch = tail.next(most, Duration::ZERO).unwrap();
        assert!(batch.samples.len() <= most.max(1), "{}", batch.samples.len());
        assert_eq!(batch.missed, 0, "{} missed some", self.name);
        let whole = tail.rest.is_empty();
        let count = batch.samples.len();
        let position = batch.position;
        let all = take(&mut self.names, batch);
        match self.batches.last_mut() {
            // What is left of a record belongs to what came of it.
            Some((at, last)) if *at == 0 => {
                for (labels, samples) in all.series {
                    last.series.entry(labels).or_default().extend(samples);
                }
                last.exemplars.extend(all.exemplars);
                *at = if whole { position } else { 0 };
            }
            _ => self.batches.push((if whole { position } else { 0 }, all)),
        }
        count
    }

    fn read_all(&mut self) {
        for _ in 0..100_000 {
            self.read(1000);
            let tail = self.tail.as_ref().unwrap();
            if tail.rest.is_empty() && tail.lag().records == 0 {
                return;
            }
        }
        panic!("no end");
    }

    fn settle(&mut self, count: usize) {
        for (position, all) in self.batches.drain(..count) {
            assert!(position >= self.settled, "positions grow");
            self.settled = position;
            for (labels, samples) in all.series {
                self.got.series.entry(labels).or_default().extend(samples);
            }
            self.got.exemplars.extend(all.exemplars);
        }
        self.tail.as_mut().unwrap().settle(self.settled);
    }

    fn settleable(&self) -> usize {
        self.batches.iter().filter(|b| b.0 > 0).count()
    }

    fn reopen(&mut self, store: &Store) {
        self.names.clear();
        self.batches.clear();
        self.tail = Some(store.open_tail(&self.name).unwrap());
    }

    /// All that was appended since it began has come, in order.
    fn check(&mut self, appended: &All, what: &str) {
        self.read_all();
        self.settle(self.batches.len());
        let mut left = self.got.series.clone();
        for (labels, samples) in &appended.series {
            let expected = &samples[self.before.0.get(labels).copied().unwrap_or(0)..];
            let got = left.remove(labels).unwrap_or_default();
            let differs = got.iter().zip(expected).position(|(a, b)| !a.is(b));
            let at = differs.unwrap_or(got.len().min(expected.len()));
            assert!(
                differs.is_none() && got.len() == expected.len(),
                "{what}: {} {labels} sample {at}: {} and not {}\n{:?}\n{:?}",
                self.name,
                got.len(),
                expected.len(),
                got.get(at),
                expected.get(at)
            );
        }
        assert!(left.is_empty(), "{what}: {} unknown {left:?}", self.name);
        assert_eq!(self.got.exemplars, appended.exemplars[self.before.1..], "{what}: {}", self.name);
    }
}

fn take(names: &mut BTreeMap<u32, String>, batch: Tailed) -> All {
    for (number, labels) in &batch.series {
        assert_eq!(names.insert(*number, labels.to_string()), None, "number {number} is taken");
    }
    let mut all = All::default();
    for s in batch.samples {
        let value = match s.value {
            TailValue::Float(v) => Ok(v.to_bits()),
            TailValue::Histogram(h) => Err((*h).clone()),
        };
        let sample = Sample { timestamp: s.timestamp, start: Some(s.start), value };
        all.series.entry(names[&s.series].clone()).or_default().push(sample);
    }
    all.exemplars.extend(batch.exemplars.iter().map(|(s, e)| (names[s].clone(), e.timestamp)));
    for number in batch.gone {
        assert!(names.remove(&number).is_some(), "{number} was not told");
    }
    all
}

fn options(path: &std::path::Path) -> StoreOptions {
    let out_of_order_time_window = Duration::from_secs(3600);
    StoreOptions {
        window_rows: 8,
        merged_rows: 24,
        out_of_order_time_window,
        head_buffer_bytes: 256 << 10,
        ..StoreOptions::new(path)
    }
}

/// What the store does by itself now and then.
fn trim(store: &Store) {
    let _turn = store.inner.maintenance.turn();
    store.inner.trim_log().unwrap();
    store.inner.retain().unwrap();
}

/// Waits until what was appended is in the log.
fn sync(store: &Store) {
    store.inner.writer.submit(Vec::new()).map(futures::executor::block_on).unwrap().unwrap();
}

struct Target {
    key: String,
    appender: Option<Box<dyn GroupAppender>>,
    series: BTreeMap<Labels, Slot>,
    next: usize,
    last: i64,
}

impl Target {
    fn new(key: String) -> Target {
        Target { key, appender: None, series: BTreeMap::new(), next: 0, last: 0 }
    }

    fn scrape(&mut self, store: &Store, t: i64, rng: &mut StdRng, all: &mut All) {
        let appender = self.appender.get_or_insert_with(|| {
            let mut appender = store.group(&GroupKey(self.key.as_str().into())).unwrap();
            for (labels, slot) in &mut self.series {
                *slot = appender.register(SeriesSpec::new(labels)).unwrap();
            }
            appender
        });
        let mut gone: Vec<(Labels, Slot)> = Vec::new();
        let leave = if rng.random_bool(0.3) { 0.4 } else { 0.02 };
        self.series.retain(|labels, slot| {
            let stays = !rng.random_bool(leave);
            if !stays {
                gone.push((labels.clone(), *slot));
            }
            stays
        });
        while self.series.len() < 12 {
            self.next += 1;
            // Some come back.
            let n = if rng.random_bool(0.2) { rng.random_range(0..self.next) } else { self.next };
            let labels = Labels::from_pairs([
                ("__name__", format!("m{}", n % 3)),
                ("n", n.to_string()),
                ("t", self.key.clone()),
            ]);
            if !gone.iter().any(|g| g.0 == labels) {
                let slot = appender.register(SeriesSpec::new(&labels)).unwrap();
                self.series.insert(labels, slot);
            }
        }
        let mut row = (Vec::new(), Vec::new());
        let (mut histograms, mut own, mut starts, mut exemplars) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut after = Vec::new();
        for (i, (labels, slot)) in self.series.iter().enumerate() {
            let n: usize = labels.value("n").parse().unwrap();
            let value = f64::from(rng.random_range(0..50)) / 4.0;
            let start = if n.is_multiple_of(4) { t / (STEP * 20) * STEP * 20 - 1 } else { 0 };
            match n % 7 {
                // At times of their own, and some late.
                5 if rng.random_bool(0.2) => {
                    let timestamp = t - 2 * STEP - 100 - 100 * i as i64;
                    own.push(OwnSample { slot: *slot, timestamp, value, ..OwnSample::default() });
                    after.push((labels, timestamp, None, Ok(value.to_bits())));
                }
                5 => {
                    let timestamp = t - 7;
                    own.push(OwnSample { slot: *slot, timestamp, value, start, ..OwnSample::default() });
                    after.push((labels, timestamp, Some(start), Ok(value.to_bits())));
                }
                6 => {
                    let histogram = Histogram { count: value, sum: t as f64, ..Histogram::default() };
                    histograms.push((*slot, Arc::new(histogram.clone())));
                    starts.push((*slot, start));
                    after.push((labels, t, Some(start), Err(histogram)));
                }
                // Pauses without a marker.
                4 if rng.random_bool(0.1) => {}
                _ => {
                    row.0.push(*slot);
                    row.1.push(value);
                    starts.push((*slot, start));
                    all.push(labels, t, Some(start), Ok(value.to_bits()));
                    if rng.random_bool(0.02) {
                        let e = Exemplar { labels: Labels::default(), value, timestamp: t, has_timestamp: true };
                        exemplars.push((*slot, e));
                        all.exemplars.push((labels.to_string(), t));
                    }
                }
            }
        }
        let stale: Vec<Slot> = gone.iter().map(|g| g.1).collect();
        let outcome = appender.commit(&ScrapeRow {
            timestamp: t,
            slots: &row.0,
            values: &row.1,
            stale: &stale,
            histograms: &histograms,
            own: &own,
            start_timestamps: &starts,
            exemplars: &exemplars,
            ..ScrapeRow::default()
        });
        assert_eq!(outcome.unwrap().first_refusal, None);
        after.into_iter().for_each(|(labels, t, start, value)| all.push(labels, t, start, value));
        for (labels, _) in &gone {
            all.push(labels, t, Some(0), Ok(stale_nan().to_bits()));
        }
        appender.retire(&stale);
        self.last = t;
    }
}

/// Series of one page whose samples come in several requests and rows.
fn remote(store: &Store, t: i64, rng: &mut StdRng, all: &mut All) {
    let mut batch = WriteBatch::default();
    let first = rng.random_range(0..20);
    for n in first..first + 6 {
        let labels = Labels::from_pairs([("__name__", "r".into()), ("n", n.to_string()), ("job", "remote".into())]);
        let mut series = WriteSeries { labels, ..WriteSeries::default() };
        for k in 0..rng.random_range(1..4) {
            let (t, value) = (t + k, rng.random_range(0..100));
            series.samples.push((t, f64::from(value)));
            let start = if n % 2 == 0 { t / (STEP * 30) * STEP * 30 } else { 0 };
            series.start_timestamps.push(start);
            all.push(&series.labels, t, Some(start), Ok(f64::from(value).to_bits()));
        }
        batch.series.push(series);
    }
    assert_eq!(store.write(&batch).unwrap().first_refusal, None);
}

fn run(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(options(folder.path())).unwrap();
    let mut all = All::default();
    let mut targets: Vec<Target> = (0..4).map(|i| Target::new(format!("t{i}"))).collect();
    let mut followers: Vec<Follower> = Vec::new();
    let mut now = 1_700_000_000_000;
    for step in 0..300 {
        now += STEP;
        let what = format!("seed {seed} step {step}");
        for (i, target) in targets.iter_mut().enumerate() {
            if rng.random_bool(0.8) {
                target.scrape(&store, now + i as i64, &mut rng, &mut all);
            }
        }
        if rng.random_bool(0.3) {
            remote(&store, now, &mut rng, &mut all);
        }
        if followers.len() < 3 && rng.random_bool(0.05) {
            let name = format!("f{}", followers.len());
            followers.push(Follower::new(&store, &name, &all));
        }
        for (i, f) in followers.iter_mut().enumerate() {
            // The first keeps up, the others less and less.
            if rng.random_bool(0.9 / (1 + 4 * i) as f64) {
                let most = *[1, 7, 100, 5000].choose(&mut rng).unwrap();
                for _ in 0..rng.random_range(1..20) {
                    f.read(most);
                }
            }
            let count = f.settleable();
            if count > 0 && rng.random_bool(0.5) {
                f.settle(rng.random_range(1..=count));
            }
            if rng.random_bool(0.02) {
                let mut before = f.tail.take().unwrap();
                f.reopen(&store);
                assert_eq!(before.next(1, Duration::ZERO).unwrap_err().kind, ErrorKind::Unavailable);
            }
        }
        match rng.random_range(0..40) {
            0..6 => trim(&store),
            6 => {
                let _turn = store.inner.maintenance.turn();
                store.inner.flush_side().unwrap();
            }
            7 => {
                let _turn = store.inner.maintenance.turn();
                store.inner.close_all().unwrap();
            }
            8 => {
                // A target vanishes with its group.
                let i = rng.random_range(0..targets.len());
                let key = std::mem::replace(&mut targets[i], Target::new(format!("t{i}x{step}"))).key;
                let _turn = store.inner.maintenance.turn();
                store.inner.close_all().unwrap();
                let id = store.inner.groups.read().by_key.get(key.as_str()).copied();
                if let Some(cell) = id.and_then(|id| store.inner.group(id)) {
                    store.inner.end_idle(&cell);
                    assert!(store.inner.group(id.unwrap()).is_none(), "{what}");
                }
            }
            9 => {
                // The process ends, one way or another.
                let clean = rng.random_bool(0.3);
                if clean {
                    store.close().unwrap();
                }
                targets.iter_mut().for_each(|t| t.appender = None);
                followers.iter_mut().for_each(|f| f.tail = None);
                drop(store);
                store = Store::open(options(folder.path())).unwrap();
                assert_eq!(store.inner.figures.corruptions.load(Ordering::Relaxed), 0, "{what}");
                followers.iter_mut().for_each(|f| f.reopen(&store));
            }
            10 => {
                sync(&store);
                followers.iter_mut().for_each(|f| f.check(&all, &what));
            }
            _ => {}
        }
    }
    sync(&store);
    followers.iter_mut().for_each(|f| f.check(&all, &format!("seed {seed}, the end")));
}

#[test]
fn a_tail_gives_what_was_appended() {
    (0..5).for_each(run);
}

/// Groups of a few series, each with its own appender.
struct Pages {
    groups: Vec<(Box<dyn GroupAppender>, Vec<Slot>)>,
    next: i64,
}

impl Pages {
    fn new(store: &Store, groups: usize, series: usize) -> Pages {
        let group = |g: usize| {
            let mut appender = store.group(&GroupKey(format!("g{g}").into())).unwrap();
            let labels =
                |s: usize| Labels::from_pairs([("__name__", "m".into()), ("g", g.to_string()), ("s", s.to_string())]);
            let slots = (0..series).map(|s| appender.register(SeriesSpec::new(&labels(s))).unwrap()).collect();
            (appender, slots)
        };
        Pages { groups: (0..groups).map(group).collect(), next: 1_700_000_000_000 }
    }

    /// Rows that are hard to compress, or always the same.
    fn scrape(&mut self, rows: usize, varied: bool) {
        for _ in 0..rows {
            self.next += STEP;
            let t = self.next;
            for (group, slots) in &mut self.groups {
                let value = |s: usize| if varied { (t as f64 * 1.1 + s as f64).sin() } else { s as f64 };
                let values: Vec<f64> = (0..slots.len()).map(value).collect();
                group.commit(&ScrapeRow { timestamp: t, slots, values: &values, ..ScrapeRow::default() }).unwrap();
            }
        }
    }
}

/// What comes, until there is no more; what was missed, and how many records, all but rows being none.
fn drain(store: &Store, tail: &mut dyn Tail) -> (Vec<(String, i64, f64)>, u64) {
    sync(store);
    let (mut names, mut all, mut missed) = (BTreeMap::new(), Vec::new(), 0);
    loop {
        let batch = tail.next(1000, Duration::ZERO).unwrap();
        names.extend(batch.series.iter().map(|(n, labels)| (*n, labels.value("s").to_owned())));
        missed += batch.missed;
        for s in &batch.samples {
            let TailValue::Float(v) = s.value else { panic!() };
            all.push((names[&s.series].clone(), s.timestamp, v));
        }
        tail.settle(batch.position);
        if tail.lag().records == 0 && batch.samples.is_empty() {
            return (all, missed);
        }
    }
}

fn head_files(store: &Store) -> u64 {
    store.inner.db.property(crate::db::Family::Head, "rocksdb.live-sst-files-size").unwrap()
}

/// As after a long time: windows are in blocks, the log is in files, and what of it is not needed goes.
fn settle_down(store: &Store) {
    let _turn = store.inner.maintenance.turn();
    store.inner.close_all().unwrap();
    sync(store);
    store.inner.db.flush(&[crate::db::Family::Head]).unwrap();
    store.inner.trim_log().unwrap();
}

#[test]
fn a_new_tail_gives_what_comes_then() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(options(folder.path())).unwrap();
    let mut pages = Pages::new(&store, 2, 3);
    // In the middle of a window, with values that the log does not repeat.
    pages.scrape(3, false);
    let mut tail = store.tail("x").unwrap();
    assert!(drain(&store, &mut *tail).0.is_empty());
    pages.scrape(1, false);
    let t = pages.next;
    let row = || ["0", "1", "2"].into_iter().zip(0..).map(move |(s, v)| (s.to_owned(), t, f64::from(v)));
    assert_eq!(drain(&store, &mut *tail).0, row().chain(row()).collect::<Vec<_>>());
    pages.scrape(1, false);
    drop((tail, pages, store));
    store = Store::open(options(folder.path())).unwrap();
    let all = drain(&store, &mut *store.tail("x").unwrap());
    assert_eq!((all.0.len(), all.1), (6, 0));
    assert!(all.0.iter().all(|s| s.1 == t + STEP && s.2.to_string() == s.0));
}

#[test]
fn one_has_a_tail_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(options(folder.path())).unwrap();
    let mut pages = Pages::new(&store, 1, 4);
    let mut first = store.tail("x").unwrap();
    pages.scrape(2, true);
    sync(&store);
    let batch = first.next(5, Duration::ZERO).unwrap();
    assert_eq!(batch.samples.len(), 4, "rows are not cut");
    assert_eq!(first.next(1, Duration::ZERO).unwrap().samples.len(), 1, "but for one that is more than is asked for");
    let mut second = store.tail("x").unwrap();
    first.settle(batch.position);
    assert_eq!(first.next(1, Duration::ZERO).unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(drain(&store, &mut *second).0.len(), 8, "nothing was settled");
    // It waits for what comes.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| second.next(100, Duration::from_secs(60)).unwrap().samples.len());
        pages.scrape(1, true);
        assert_eq!(waiting.join().unwrap(), 4);
    });
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| second.next(100, Duration::from_secs(60)).unwrap_err().kind);
        store.close().unwrap();
        assert_eq!(waiting.join().unwrap(), ErrorKind::Unavailable);
    });
}

#[test]
fn what_nobody_needs_of_the_log_goes() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(options(folder.path())).unwrap();
    let mut pages = Pages::new(&store, 3, 50);
    drop(store.tail("x").unwrap());
    let mut reader = store.tail("y").unwrap();
    pages.scrape(100, true);
    settle_down(&store);
    let held = head_files(&store);
    assert!(held > 100_000, "{held}");
    // Whoever has settled holds nothing; nor does anybody else hold it for him.
    assert_eq!(drain(&store, &mut *reader).0.len(), 3 * 50 * 100);
    assert_eq!(reader.lag().bytes, 0);
    drop((reader, pages));
    settle_down(&store);
    assert_eq!(head_files(&store), held);
    let figures = store.figures();
    let bytes = |tail: &str| figures[&format!("narthex_tsdb_tail_held_bytes{{tail=\"{tail}\"}}")];
    assert!(bytes("x") > held as f64 / 2.0 && bytes("y") == 0.0, "{} {}", bytes("x"), bytes("y"));
    store.close().unwrap();
    drop(store);
    // What is held is not read at start.
    store = Store::open(options(folder.path())).unwrap();
    assert_eq!(store.tails(), ["x", "y"]);
    assert!(store.inner.groups.read().list.iter().flatten().all(|g| g.lock().window.is_empty()));
    let mut first = None;
    let mut note = |key: &[u8], _: &[u8]| {
        first = crate::record::head_seq(key);
        false
    };
    store.inner.db.scan(crate::db::Family::Head, &[], None, &mut note).unwrap();
    let (start, _) = store.inner.follow.load(&store.inner.db).unwrap();
    assert!(start > first.unwrap() + 300, "{start} {first:?}");
    store.forget_tail("x").unwrap();
    store.forget_tail("nobody").unwrap();
    settle_down(&store);
    assert_eq!((head_files(&store), store.tails()), (0, vec!["y".to_owned()]));
    store.forget_tail("y").unwrap();
    drop(store);
    assert!(Store::open(options(folder.path())).unwrap().tails().is_empty());
}

/// A tail that is too far behind loses the oldest of what it has not got, is told of it, and goes on.
#[test]
fn what_is_held_is_bounded() {
    for by_size in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(options(folder.path())).unwrap();
        let mut pages = Pages::new(&store, 3, 50);
        let mut open = store.tail("open").unwrap();
        drop(store.tail("closed").unwrap());
        sync(&store);
        let _ = open.next(1, Duration::ZERO).unwrap();
        for _ in 0..20 {
            pages.scrape(10, true);
            settle_down(&store);
        }
        let held = head_files(&store);
        let limit = store.inner.stored_bytes() - held / 2;
        let bounded = if by_size {
            StoreOptions { retention_size: limit, head_buffer_bytes: 1000, ..options(folder.path()) }
        } else {
            StoreOptions { retention: Duration::from_millis(90 * STEP as u64), ..options(folder.path()) }
        };
        store.inner.options.write().head_buffer_bytes = bounded.head_buffer_bytes;
        store.configure(&bounded);
        store.apply_retention().unwrap();
        assert!(head_files(&store) < held * 2 / 3, "{} of {held}", head_files(&store));
        let partitions = store.inner.directory.stretches.read().len();
        assert!(partitions > 0, "what is stored is not lost before");
        pages.scrape(1, true);
        let (got, missed) = drain(&store, &mut *open);
        let rows = got.len() as u64 / 50;
        assert!(missed > 100 && rows > 100, "by size {by_size}: {missed} missed, {rows} rows");
        assert_eq!(rows + missed, 603, "by size {by_size}");
        assert!(got.iter().all(|s| s.2 == (s.1 as f64 * 1.1 + s.0.parse::<f64>().unwrap()).sin()));
        drop((open, pages));
        store.close().unwrap();
        drop(store);
        // The other one learns of it later.
        store = Store::open(options(folder.path())).unwrap();
        let (got, missed) = drain(&store, &mut *store.tail("closed").unwrap());
        assert_eq!(got.len() as u64 / 50 + missed, 603, "by size {by_size}");
        assert!(missed > 100, "{missed}");
    }
}

/// Columns are given to other series, and groups go, while a tail is behind, and while nobody has it open.
#[test]
fn a_tail_knows_the_series_of_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(options(folder.path())).unwrap();
    drop(store.tail("x").unwrap());
    let mut expected = Vec::new();
    let mut columns = 0;
    for generation in 0..5 {
        let mut appender = store.group(&GroupKey("g".into())).unwrap();
        let labels = |s: usize| Labels::from_pairs([("__name__", "m".to_owned()), ("s", format!("{generation}/{s}"))]);
        let slots: Vec<Slot> = (0..5).map(|s| appender.register(SeriesSpec::new(&labels(s))).unwrap()).collect();
        for row in 0..20 {
            let timestamp = (generation * 20 + row + 1) * STEP;
            let values: Vec<f64> = (0..5).map(|s| f64::from(s) + (row / 7) as f64).collect();
            appender.commit(&ScrapeRow { timestamp, slots: &slots, values: &values, ..ScrapeRow::default() }).unwrap();
            expected.extend(values.iter().enumerate().map(|(s, v)| (format!("{generation}/{s}"), timestamp, *v)));
        }
        drop(appender);
        let id = store.inner.groups.read().by_key["g"];
        let cell = store.inner.group(id).unwrap();
        // What is given up is the window before.
        settle_down(&store);
        if generation == 2 {
            store.inner.end_idle(&cell);
            assert!(store.inner.group(id).is_none());
        } else {
            let mut group = cell.lock();
            let all: Vec<u32> = (0..group.columns.len() as u32).collect();
            store.inner.forget_ended(&mut group, &all, i64::MAX, 0);
            columns = columns.max(group.columns.len());
        }
        drop(cell);
        if generation % 2 == 1 {
            drop(store);
            store = Store::open(options(folder.path())).unwrap();
        }
    }
    assert_eq!(columns, 5, "they are used again");
    assert_eq!(store.inner.registry.read().len(), 0);
    let mut tail = store.tail("x").unwrap();
    assert_eq!(drain(&store, &mut *tail), (expected, 0));
    // Nothing of it is kept once it is settled.
    drop(tail);
    settle_down(&store);
    settle_down(&store);
    let mut left = 0;
    let count = |_: &[u8], _: &[u8]| {
        left += 1;
        true
    };
    store.inner.db.scan(crate::db::Family::Postings, b"t", Some(b"u"), count).unwrap();
    assert_eq!(left, 0);
}
