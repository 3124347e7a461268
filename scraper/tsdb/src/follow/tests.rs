//! Tails against what was appended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use narthex_model::{Exemplar, Histogram, Labels, stale_nan};
use narthex_storage::{
    Appendable, ErrorKind, GroupAppender, GroupKey, OwnSample, ScrapeRow, SeriesSpec, Slot, Tail, TailValue, Tailed,
    WriteBatch, WriteSeries,
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
