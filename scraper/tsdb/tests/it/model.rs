//! Random operations on the store and on the plain store in memory: both must answer alike, to the bit, at any time
//! and after any restart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::executor::block_on;
use narthex_model::{Histogram, Labels, Matcher, is_stale};
use narthex_storage::memory::MemoryStore;
use narthex_storage::{
    AppendOutcome, Appendable, GroupAppender, GroupKey, LabelQuery, OwnSample, PlacedSample, Queryable, ScrapeRow,
    SelectHints, SelectRequest, Series, SeriesSpec, Slot, WriteBatch, WriteSeries,
};
use narthex_tsdb::{Store, StoreOptions};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub fn options(path: &std::path::Path) -> StoreOptions {
    StoreOptions { out_of_order_time_window: Duration::from_secs(3600), window_rows: 40, ..StoreOptions::new(path) }
}

/// A series as comparable text: labels, then each sample's time and bits.
fn text(series: &Series) -> String {
    let mut out = format!("{}", series.labels);
    for (i, (t, v)) in series.floats.iter().enumerate() {
        let start = series.floats.start_timestamps.as_ref().map_or(0, |s| s[i]);
        out += &format!(" {t}:{:x}:{start}", v.to_bits());
    }
    for (t, h) in series.histograms.timestamps.iter().zip(&series.histograms.values) {
        // Hints depend on what is stored in between.
        let h = Histogram { counter_reset_hint: Default::default(), ..Histogram::clone(h) };
        out += &format!(" {t}:{h:?}");
    }
    out
}

pub fn compare(a: &dyn Queryable, b: &dyn Queryable, matchers: &[Matcher], mint: i64, maxt: i64, what: &str) {
    let read = |q: &dyn Queryable| {
        let set = block_on(q.select(SelectRequest::new(matchers.to_vec(), mint, maxt))).unwrap();
        assert!(set.warnings.is_empty(), "{:?}", set.warnings);
        set.collect_sorted().unwrap().iter().map(text).collect::<Vec<_>>()
    };
    let (a, b) = (read(a), read(b));
    for (x, y) in a.iter().zip(&b) {
        if x != y {
            let (a, b): (Vec<_>, Vec<_>) = (x.split(' ').collect(), y.split(' ').collect());
            let more: Vec<_> = a.iter().filter(|s| !b.contains(s)).collect();
            let missing: Vec<_> = b.iter().filter(|s| !a.contains(s)).collect();
            panic!(
                "{what} [{mint}, {maxt}] {matchers:?}: {} of {}: missing {missing:?}, too many {more:?}",
                &x[..x.len().min(90)],
                a.len()
            );
        }
    }
    assert_eq!(a.len(), b.len(), "{what} [{mint}, {maxt}] {matchers:?}");
}

/// The same for those who ask for less.
pub fn compare_newest(a: &dyn Queryable, b: &dyn Queryable, matchers: &[Matcher], range: (i64, i64), what: &str) {
    let expected = newest(b, matchers, range, SelectHints::default());
    for no_samples in [false, true] {
        let hints = SelectHints { latest_only: true, no_samples, ..SelectHints::default() };
        assert_eq!(newest(a, matchers, range, hints), expected, "{what} {range:?} {matchers:?}");
    }
}

/// Of each series the time of its newest sample, and whether that is a staleness marker: what a count needs.
fn newest(q: &dyn Queryable, matchers: &[Matcher], (mint, maxt): (i64, i64), hints: SelectHints) -> Vec<String> {
    let request = SelectRequest { hints, ..SelectRequest::new(matchers.to_vec(), mint, maxt) };
    let all = block_on(q.select(request)).unwrap().collect_sorted().unwrap();
    let line = |s: &Series| {
        let float = s.floats.iter().last().map(|(t, v)| (t, is_stale(v)));
        let histogram = s.histograms.timestamps.iter().zip(&s.histograms.values).next_back();
        let newest = float.max(histogram.map(|(t, h)| (*t, is_stale(h.sum))));
        format!("{} {newest:?}", s.labels)
    };
    all.iter().map(line).collect()
}

struct Target {
    key: GroupKey,
    labels: Vec<Labels>,
    values: Vec<f64>,
    alive: Vec<bool>,
    next_time: i64,
    appenders: Option<(Box<dyn GroupAppender>, Box<dyn GroupAppender>)>,
    slots: BTreeMap<usize, Slot>,
    layout: u64,
}

impl Target {
    fn new(number: usize, series: usize) -> Target {
        let labels = (0..series)
            .map(|i| {
                Labels::from_pairs([
                    ("__name__", format!("metric_{}", i / 4)),
                    ("instance", format!("i{number}")),
                    ("part", (i % 4).to_string()),
                ])
            })
            .collect();
        Target {
            key: GroupKey(format!("target-{number}").into()),
            labels,
            values: (0..series).map(|i| i as f64).collect(),
            alive: vec![true; series],
            next_time: 1_000_000 + number as i64,
            appenders: None,
            slots: BTreeMap::new(),
            layout: 1,
        }
    }

    fn scrape(&mut self, store: &Store, memory: &MemoryStore, rng: &mut StdRng) {
        if self.appenders.is_none() {
            self.appenders = Some((store.group(&self.key).unwrap(), memory.group(&self.key).unwrap()));
            self.slots.clear();
        }
        let Some((a, b)) = &mut self.appenders else { unreachable!() };
        let mut went = Vec::new();
        for i in 0..self.labels.len() {
            if rng.random_bool(0.01) {
                self.alive[i] = !self.alive[i];
                self.layout += 1;
                if !self.alive[i] && self.slots.contains_key(&i) {
                    went.push(i);
                }
            }
            self.values[i] = match rng.random_range(0..10) {
                0..6 => self.values[i],
                6..9 => self.values[i] + f64::from(rng.random_range(0..500)) / 4.0,
                _ => [0.1 + 0.2, -0.0, f64::NAN, f64::INFINITY, 5e-324, 1e300][rng.random_range(0..6)],
            };
        }
        let order: Vec<usize> = (0..self.labels.len()).filter(|i| self.alive[*i]).collect();
        let slots: Vec<(Slot, Slot)> = order
            .iter()
            .chain(&went)
            .map(|i| {
                let spec = SeriesSpec::new(&self.labels[*i]);
                let slot = a.register(spec).unwrap();
                assert_eq!(*self.slots.entry(*i).or_insert(slot), slot, "the same labels, the same slot");
                (slot, b.register(spec).unwrap())
            })
            .collect();
        let values: Vec<f64> = order.iter().map(|i| self.values[*i]).collect();
        let t = self.next_time;
        self.next_time += 15_000;
        let histogram = Arc::new(Histogram { count: t as f64, sum: 0.5, ..Histogram::default() });
        let own = rng.random_bool(0.1) && order.len() > 3;
        // Out of order, within the window, at a time that nothing else has.
        let own_time = t - 7_000 - 15_000 * rng.random_range(0..20);
        let with_histogram = rng.random_bool(0.1) && order.len() > 3;
        let row = |appender: &mut Box<dyn GroupAppender>, pick: fn(&(Slot, Slot)) -> Slot| {
            let all: Vec<Slot> = slots.iter().map(pick).collect();
            let (slots, stale) = all.split_at(order.len());
            let own = if own {
                vec![OwnSample { slot: slots[0], timestamp: own_time, value: 7.5, ..OwnSample::default() }]
            } else {
                vec![]
            };
            let histograms = if with_histogram { vec![(slots[1], histogram.clone())] } else { vec![] };
            // A series has one sample at a time: the histogram, where it has one.
            let keep = |i: usize| !(with_histogram && i == 1);
            let slots: Vec<Slot> = slots.iter().enumerate().filter(|s| keep(s.0)).map(|s| *s.1).collect();
            let values: Vec<f64> = values.iter().enumerate().filter(|s| keep(s.0)).map(|s| *s.1).collect();
            let row = ScrapeRow {
                timestamp: t,
                layout: if with_histogram { 0 } else { self.layout },
                slots: &slots,
                values: &values,
                stale,
                histograms: &histograms,
                own: &own,
                ..ScrapeRow::default()
            };
            let outcome = appender.commit(&row).unwrap();
            assert_eq!((outcome.out_of_order, outcome.duplicate, outcome.too_old), (0, 0, 0));
            assert_eq!(outcome.first_refusal, None);
        };
        row(a, |s| s.0);
        row(b, |s| s.1);
    }
}

/// A page by remote write: all series at one time, or some with several samples.
fn remote(store: &Store, memory: &MemoryStore, page: &mut (i64, Vec<f64>), rng: &mut StdRng) {
    let mut batch = WriteBatch::default();
    page.0 += 15_000;
    let several = rng.random_bool(0.2);
    for (i, v) in page.1.iter_mut().enumerate() {
        if rng.random_bool(0.05) {
            continue;
        }
        *v += f64::from(rng.random_range(0..3u8));
        let labels = Labels::from_pairs([("__name__", "pushed".to_owned()), ("i", i.to_string())]);
        let mut samples = vec![(page.0, *v)];
        if several && i % 3 == 0 {
            samples.insert(0, (page.0 - 5_000, *v - 1.0));
        }
        batch.series.push(WriteSeries { labels, samples, ..WriteSeries::default() });
    }
    memory.write(&batch).unwrap();
    // The page may come in any pieces, of series that are known or not.
    let check = |outcome: AppendOutcome| {
        assert_eq!((outcome.out_of_order, outcome.duplicate, outcome.first_refusal), (0, 0, None));
    };
    while !batch.series.is_empty() {
        let n = if rng.random_bool(0.5) { batch.series.len() } else { rng.random_range(1..=batch.series.len()) };
        let mut part = WriteBatch { series: batch.series.drain(..n).collect() };
        if rng.random_bool(0.5) {
            let labels: Vec<&Labels> = part.series.iter().map(|s| &s.labels).collect();
            let places = store.places(&labels);
            let placed: Vec<PlacedSample> = part
                .series
                .iter()
                .zip(&places)
                .flat_map(|(s, place)| s.samples.iter().filter_map(move |(t, v)| Some((place.as_ref()?, *t, *v))))
                .map(|(place, timestamp, value)| PlacedSample { place: *place, timestamp, value })
                .collect();
            let mut lost = Vec::new();
            check(store.write_placed(&placed, &mut lost).unwrap());
            assert!(lost.is_empty());
            let mut it = places.iter();
            part.series.retain(|_| it.next().is_some_and(|p| p.is_none()));
        }
        check(store.write(&part).unwrap());
    }
}

fn run(seed: u64, steps: usize) {
    let folder = tempfile::tempdir().unwrap();
    let mut rng = StdRng::seed_from_u64(seed);
    let memory = MemoryStore::new();
    let mut store = Store::open(options(folder.path())).unwrap();
    let mut targets: Vec<Target> = (0..4).map(|i| Target::new(i, 12 + 30 * i)).collect();
    let mut page = (1_000_000, vec![0.0; 20]);
    for step in 0..steps {
        let what = format!("seed {seed} step {step}");
        match rng.random_range(0..100) {
            0..75 => {
                let i = rng.random_range(0..targets.len());
                targets[i].scrape(&store, &memory, &mut rng);
            }
            75..90 => remote(&store, &memory, &mut page, &mut rng),
            90..92 => {
                // With or without a clean end.
                targets.iter_mut().for_each(|t| t.appenders = None);
                if rng.random_bool(0.5) {
                    store.close().unwrap();
                }
                drop(store);
                store = Store::open(options(folder.path())).unwrap();
                compare(&store, &memory, &[], i64::MIN, i64::MAX, &what);
            }
            92..93 => {
                let i = rng.random_range(0..targets.len());
                targets[i].appenders = None;
            }
            _ => {
                let from = 1_000_000 + rng.random_range(0..3_000_000);
                let to = from + rng.random_range(0..2_000_000);
                let matchers = match rng.random_range(0..4) {
                    0 => vec![],
                    1 => vec![Matcher::equal("__name__", "metric_1")],
                    2 => vec![Matcher::equal("instance", "i2")],
                    _ => vec![Matcher::equal("__name__", "pushed")],
                };
                compare(&store, &memory, &matchers, from, to, &what);
                compare_newest(&store, &memory, &matchers, (from, to), &what);
                let query = LabelQuery { selectors: vec![matchers], mint: 0, maxt: i64::MAX, ..LabelQuery::default() };
                let (a, b) = (block_on(store.series(query.clone())), block_on(memory.series(query)));
                let (a, b) = (a.unwrap().values, b.unwrap().values);
                let missing: Vec<_> = b.iter().filter(|l| !a.contains(l)).collect();
                let more: Vec<_> = a.iter().filter(|l| !b.contains(l)).collect();
                assert!(missing.is_empty() && more.is_empty(), "{what}: missing {missing:?}, too many {more:?}");
            }
        }
    }
    compare(&store, &memory, &[], i64::MIN, i64::MAX, &format!("seed {seed} at the end"));
}

#[test]
fn answers_as_the_plain_store_does() {
    let only = std::env::var("SEED").ok().and_then(|s| s.parse().ok());
    for seed in only.map_or(0..8, |s| s..s + 1) {
        run(seed, 300);
    }
}
