//! Series that come and go for days, in memory and on disk, under random matchers and over random times, with restarts
//! in between; against the plain store in memory.

use std::collections::{BTreeMap, BTreeSet};

use futures::executor::block_on;
use narthex_model::{Labels, MatchType, Matcher};
use narthex_storage::memory::MemoryStore;
use narthex_storage::{
    Appendable, GroupAppender, GroupKey, LabelQuery, LabelResult, Queryable, ScrapeRow, SelectRequest, Series,
    SeriesSpec, Slot, StorageAdmin,
};
use narthex_tsdb::{Store, StoreOptions};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::model::{compare, compare_newest};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const START: i64 = 19_700 * DAY;
/// Between two scrapes of a target; targets are a second apart.
const STEP: i64 = 47 * 60_000;

fn options(path: &std::path::Path) -> StoreOptions {
    StoreOptions { window_rows: 6, ..StoreOptions::new(path) }
}

/// Some labels, often none or one that others have too.
fn labels(rng: &mut StdRng) -> Labels {
    let mut pairs = vec![("__name__", format!("m{}", rng.random_range(0..5)))];
    if rng.random_bool(0.02) {
        pairs.clear();
    }
    for (name, values, odds) in [("job", 3, 0.9), ("pod", 40, 0.7), ("zone", 2, 0.3), ("ü\0x", 2, 0.1)] {
        if rng.random_bool(odds) {
            let first = name.chars().next().unwrap();
            pairs.push((name, format!("{first}{}", rng.random_range(0..values))));
        }
    }
    pairs.push(("n", rng.random_range(0..200).to_string()));
    Labels::from_pairs(pairs)
}

fn matcher(rng: &mut StdRng) -> Matcher {
    let names = ["__name__", "job", "pod", "zone", "n", "nosuch"];
    let values = [
        "",
        "m1",
        "j1",
        "p7",
        "z0",
        "13",
        "m1|m2",
        "j0|j2|nosuch",
        "p1.*",
        "p.+",
        ".*",
        ".+",
        "(m1|)",
        "p[0-9]",
        "[jz]1?",
        ".*3",
        "m1|",
        "z.?",
    ];
    let kinds = [MatchType::Equal, MatchType::NotEqual, MatchType::Regexp, MatchType::NotRegexp];
    let (name, value) = (*names.choose(rng).unwrap(), *values.choose(rng).unwrap());
    Matcher::new(*kinds.choose(rng).unwrap(), name, value).unwrap()
}

/// Random ones; often with what some series of `known` has.
fn matchers(rng: &mut StdRng, known: &[Labels]) -> Vec<Matcher> {
    if let Some(labels) = known.choose(rng).filter(|_| rng.random_bool(0.5)) {
        let of_series = |(name, value): (&str, &str)| match rng.random_range(0..6) {
            0..3 => Some(Matcher::equal(name, value)),
            3 => Some(Matcher::new(MatchType::Regexp, name, format!("{value}|other")).unwrap()),
            4 => Some(Matcher::new(MatchType::Regexp, name, format!("{value}.*")).unwrap()),
            _ => None,
        };
        return labels.iter().filter_map(of_series).collect();
    }
    let mut all: Vec<Matcher> = (0..rng.random_range(0..4)).map(|_| matcher(rng)).collect();
    if rng.random_bool(0.3) {
        all.push(Matcher::equal("__name__", format!("m{}", rng.random_range(0..6))));
    }
    all
}

struct Target {
    number: i64,
    appenders: Option<(Box<dyn GroupAppender>, Box<dyn GroupAppender>)>,
    /// What it exposes, with the slots in both stores.
    series: BTreeMap<Labels, (Slot, Slot)>,
}

impl Target {
    fn scrape(&mut self, store: &Store, plain: &MemoryStore, t: i64, rng: &mut StdRng) {
        if self.appenders.is_none() {
            let key = GroupKey(format!("t{}", self.number).into());
            let known: Vec<Labels> = std::mem::take(&mut self.series).into_keys().collect();
            let mut both = (store.group(&key).unwrap(), plain.group(&key).unwrap());
            for labels in known {
                let slots = register(&mut both, &labels);
                self.series.insert(labels, slots);
            }
            self.appenders = Some(both);
        }
        let both = self.appenders.as_mut().unwrap();
        let mut gone = Vec::new();
        self.series.retain(|_, slots| {
            let stays = rng.random_bool(0.96);
            if !stays {
                gone.push(*slots);
            }
            stays
        });
        while self.series.len() < 25 {
            let labels = labels(rng);
            let slots = register(both, &labels);
            // One that has just gone and comes back at once never went.
            gone.retain(|s| s.0 != slots.0);
            self.series.insert(labels, slots);
        }
        let values: Vec<f64> = (0..self.series.len()).map(|i| (t / STEP * i as i64 % 17) as f64).collect();
        let t = t + self.number * 1000;
        let row = |appender: &mut Box<dyn GroupAppender>, pick: fn(&(Slot, Slot)) -> Slot| {
            let (slots, stale): (Vec<Slot>, Vec<Slot>) =
                (self.series.values().map(pick).collect(), gone.iter().map(pick).collect());
            let row = ScrapeRow { timestamp: t, slots: &slots, values: &values, stale: &stale, ..ScrapeRow::default() };
            let outcome = appender.commit(&row).unwrap();
            assert_eq!(outcome.first_refusal, None);
            appender.retire(&stale);
        };
        row(&mut both.0, |s| s.0);
        row(&mut both.1, |s| s.1);
    }
}

fn register(both: &mut (Box<dyn GroupAppender>, Box<dyn GroupAppender>), labels: &Labels) -> (Slot, Slot) {
    (both.0.register(SeriesSpec::new(labels)).unwrap(), both.1.register(SeriesSpec::new(labels)).unwrap())
}

/// When each series began and ended, to the minute.
struct Lives(Vec<(Labels, i64, i64)>);

impl Lives {
    fn of(plain: &MemoryStore) -> Lives {
        let all = block_on(plain.select(SelectRequest::new(vec![], i64::MIN, i64::MAX))).unwrap();
        let life = |s: Series| {
            let times = &s.floats.timestamps;
            (s.labels, times[0] / MINUTE * MINUTE, times[times.len() - 1] / MINUTE * MINUTE + MINUTE - 1 + 12 * STEP)
        };
        Lives(all.collect_sorted().unwrap().into_iter().map(life).collect())
    }

    fn within<'a>(&'a self, matchers: &'a [Matcher], mint: i64, maxt: i64) -> impl Iterator<Item = &'a Labels> {
        let lived = self.0.iter().filter(move |s| s.1 <= maxt && s.2 >= mint && Matcher::all_match(matchers, &s.0));
        lived.map(|s| &s.0)
    }
}

/// The answers about labels lie between what has samples in the range and what began before the end of its last day;
/// with `lives`, those of matchers name nothing that ended before the range, which is as wide as the blocks and the head
/// that a Prometheus would have of these samples.
fn check_labels(
    store: &Store,
    plain: &MemoryStore,
    matchers: &[Matcher],
    (mint, maxt): (i64, i64),
    lives: Option<&Lives>,
    what: &str,
) {
    let query = |mint, maxt, limit| {
        let selectors = if matchers.is_empty() { vec![] } else { vec![matchers.to_vec()] };
        LabelQuery { selectors, mint, maxt, limit, ..LabelQuery::default() }
    };
    let newest = store.stats(0).max_time;
    let head = (newest - 3 * HOUR + 2 * HOUR - 1).div_euclid(2 * HOUR) * 2 * HOUR;
    let end_of_day = maxt.div_euclid(DAY) * DAY + DAY - 1;
    let late = if maxt >= head { i64::MAX } else { end_of_day };
    let lives = lives.filter(|_| !matchers.is_empty());
    let block = |t: i64| t.div_euclid(2 * HOUR) * 2 * HOUR;
    let from = if maxt >= head { block(mint).min(head) } else { block(mint) };
    let labels_of: Option<Vec<&Labels>> = lives.map(|l| l.within(matchers, from, late.max(maxt)).collect());
    let what = format!("{what} [{mint}, {maxt}] {matchers:?}");
    fn between<T: Ord + std::fmt::Debug>(must: Vec<T>, got: &[T], may: Vec<T>, what: &str) {
        assert!(got.is_sorted_by(|a, b| a < b), "{what}: sorted and unique");
        let (set, may): (BTreeSet<&T>, BTreeSet<&T>) = (got.iter().collect(), may.iter().collect());
        let missing: Vec<&T> = must.iter().filter(|v| !set.contains(v)).collect();
        let more: Vec<&T> = got.iter().filter(|v| !may.contains(v)).collect();
        assert!(missing.is_empty() && more.is_empty(), "{what}: missing {missing:?}, too many {more:?}");
    }
    let series = |q: &dyn Queryable, mint, maxt, limit| block_on(q.series(query(mint, maxt, limit))).unwrap();
    // Windows close beside the test, and what ended is answered for by whole days: of two answers the second may hold less.
    fn with_first<T: PartialEq>(ask: impl Fn(usize) -> LabelResult<T>, limit: usize) -> (Vec<T>, LabelResult<T>) {
        for _ in 0..50 {
            let (all, first) = (ask(0).values, ask(limit));
            if ask(0).values == all {
                return (all, first);
            }
        }
        panic!("the answer about labels never rests");
    }
    let (all, first) = with_first(|limit| series(store, mint, maxt, limit), 3);
    let may = match lives {
        Some(lives) => lives.within(matchers, mint.min(head), maxt).cloned().collect(),
        None => series(plain, i64::MIN, end_of_day, 0).values,
    };
    between(series(plain, mint, maxt, 0).values, &all, may, &format!("series {what}"));
    assert_eq!(first.values, all[..all.len().min(3)], "{what}: the first three");
    assert_eq!(first.truncated, all.len() > 3);
    let names = |q: &dyn Queryable, mint, maxt, limit| block_on(q.label_names(query(mint, maxt, limit))).unwrap();
    let (all, first) = with_first(|limit| names(store, mint, maxt, limit), 2);
    between(names(plain, mint, maxt, 0).values, &all, names(plain, i64::MIN, late, 0).values, &what);
    assert_eq!(first.values, all[..all.len().min(2)], "{what}: the first two");
    for name in ["__name__", "pod", "ü\0x", "nosuch"] {
        let values =
            |q: &dyn Queryable, mint, maxt, limit| block_on(q.label_values(name, query(mint, maxt, limit))).unwrap();
        let (all, first) = with_first(|limit| values(store, mint, maxt, limit), 4);
        let may = match &labels_of {
            Some(all) => all.iter().filter_map(|l| l.get(name)).map(str::to_owned).collect(),
            None => values(plain, i64::MIN, late, 0).values,
        };
        between(values(plain, mint, maxt, 0).values, &all, may, &format!("values of {name:?} {what}"));
        assert_eq!(first.values, all[..all.len().min(4)]);
        assert_eq!(first.truncated, all.len() > 4);
    }
}

fn run(seed: u64, rounds: i64) {
    let folder = tempfile::tempdir().unwrap();
    let mut rng = StdRng::seed_from_u64(seed);
    let plain = MemoryStore::new();
    let mut store = Store::open(options(folder.path())).unwrap();
    let mut targets: Vec<Target> =
        (0..3).map(|number| Target { number, appenders: None, series: BTreeMap::new() }).collect();
    let mut t = START;
    let mut most = 0.0f64;
    for round in 0..rounds {
        t += STEP;
        targets.iter_mut().for_each(|target| target.scrape(&store, &plain, t, &mut rng));
        let what = format!("seed {seed} round {round}");
        if rng.random_bool(0.1) {
            store.clean_tombstones().unwrap();
        }
        if rng.random_bool(0.04) {
            targets.iter_mut().for_each(|target| target.appenders = None);
            if rng.random_bool(0.5) {
                store.close().unwrap();
            }
            drop(store);
            store = Store::open(options(folder.path())).unwrap();
        }
        most = most.max(store.figures()["prometheus_tsdb_head_series"]);
        if rng.random_bool(0.3) {
            let mint = START - DAY + rng.random_range(0..t - START + 2 * DAY);
            let maxt = mint + [0, STEP, DAY / 3, DAY, 3 * DAY, 100 * DAY].choose(&mut rng).unwrap();
            let matchers = matchers(&mut rng, &series_in(&plain, i64::MIN, i64::MAX));
            compare(&store, &plain, &matchers, mint, maxt, &what);
            compare_newest(&store, &plain, &matchers, (mint, maxt), &what);
            check_labels(&store, &plain, &matchers, (mint, maxt), None, &what);
        }
    }
    let every = series_in(&plain, i64::MIN, i64::MAX);
    assert!((most as usize) < every.len(), "of {} series {most} were in memory at once", every.len());
    // Once all have ended and left, only their days know them.
    for target in &mut targets {
        let both = target.appenders.take();
        drop(both);
    }
    store.close().unwrap();
    drop(store);
    store = Store::open(options(folder.path())).unwrap();
    for _ in 0..3 {
        t += STEP;
        for number in 0..3 {
            let mut appender = store.group(&GroupKey(format!("t{number}").into())).unwrap();
            let last = Labels::from_pairs([("__name__", "last".to_owned()), ("i", number.to_string())]);
            let slot = appender.register(SeriesSpec::new(&last)).unwrap();
            plain.put(&last, t + number * 1000, 1.0, 0);
            let row =
                ScrapeRow { timestamp: t + number * 1000, slots: &[slot], values: &[1.0], ..ScrapeRow::default() };
            appender.commit(&row).unwrap();
        }
        store.clean_tombstones().unwrap();
    }
    assert_eq!(store.figures()["prometheus_tsdb_head_series"], 3.0, "all others left memory");
    let what = format!("seed {seed} at the end");
    compare(&store, &plain, &[], i64::MIN, i64::MAX, &what);
    let lives = Lives::of(&plain);
    for day in -1..=(t - START) / DAY + 2 {
        let (mint, maxt) = (START + day * DAY, START + (day + 1) * DAY - 1);
        check_labels(&store, &plain, &[], (mint, maxt), None, &what);
        for _ in 0..5 {
            let matchers = matchers(&mut rng, &every);
            check_labels(&store, &plain, &matchers, (mint, maxt), Some(&lives), &what);
            let some = mint + rng.random_range(0..DAY);
            let some = (some, some + rng.random_range(0..DAY));
            check_labels(&store, &plain, &matchers, some, Some(&lives), &what);
            compare(&store, &plain, &matchers, mint, maxt, &what);
        }
        compare(&store, &plain, &[Matcher::equal("job", "j1")], mint, maxt, &what);
    }
    // Those of the first day that ended then are not of the last one.
    let (first, last) = ((START, START + DAY - 1), (t - DAY, t));
    let old: BTreeSet<Labels> = series_in(&plain, first.0, first.1).into_iter().collect();
    let old: BTreeSet<Labels> = &old - &series_in(&plain, first.1 + 1, i64::MAX).into_iter().collect();
    let query = LabelQuery { mint: last.0, maxt: last.1, ..LabelQuery::default() };
    let new = block_on(store.series(query)).unwrap().values;
    assert!(!old.is_empty() && new.iter().all(|l| !old.contains(l)));
}

fn series_in(plain: &MemoryStore, mint: i64, maxt: i64) -> Vec<Labels> {
    block_on(plain.series(LabelQuery { mint, maxt, ..LabelQuery::default() })).unwrap().values
}

#[test]
fn ended_series_are_found_by_their_days() {
    let only = std::env::var("SEED").ok().and_then(|s| s.parse().ok());
    for seed in only.map_or(0..3, |s| s..s + 1) {
        run(seed, 150);
    }
}

#[test]
fn two_groups_with_the_same_labels_are_one_series() {
    let folder = tempfile::tempdir().unwrap();
    let labels = Labels::from_pairs([("__name__", "twice"), ("x", "1")]);
    let plain = MemoryStore::new();
    let mut store = Store::open(options(folder.path())).unwrap();
    for round in 0..3 {
        for group in 0..2 {
            let mut appender = store.group(&GroupKey(format!("g{group}").into())).unwrap();
            let slot = appender.register(SeriesSpec::new(&labels)).unwrap();
            for row in 0..10 {
                let t = START + (round * 10 + row) * STEP + group * 1000;
                plain.put(&labels, t, row as f64, 0);
                let row = ScrapeRow { timestamp: t, slots: &[slot], values: &[row as f64], ..ScrapeRow::default() };
                appender.commit(&row).unwrap();
            }
        }
        compare(&store, &plain, &[], i64::MIN, i64::MAX, "two groups");
        assert_eq!(store.figures()["prometheus_tsdb_head_series"], 1.0);
        if round == 1 {
            store.close().unwrap();
        }
        drop(store);
        store = Store::open(options(folder.path())).unwrap();
        compare(&store, &plain, &[Matcher::equal("x", "1")], i64::MIN, i64::MAX, "two groups, restarted");
    }
}

/// Between the look for a metric's number and the look at its group, its first window may go to blocks.
#[test]
fn readers_miss_nothing_while_first_windows_close() {
    use std::sync::atomic::{AtomicI64, Ordering};
    const ROWS: i64 = 12;
    const GROUPS: usize = 150;
    for _ in 0..4 {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(options(folder.path())).unwrap();
        let mut groups = Vec::new();
        for i in 0..GROUPS {
            let mut appender = store.group(&GroupKey(format!("g{i}").into())).unwrap();
            let labels = Labels::from_pairs([("__name__", format!("m{i:03}"))]);
            let slot = appender.register(SeriesSpec::new(&labels)).unwrap();
            groups.push((appender, slot));
        }
        let committed: Vec<AtomicI64> = (0..GROUPS).map(|_| AtomicI64::new(0)).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for row in 1..=ROWS {
                    for ((appender, slot), committed) in groups.iter_mut().zip(&committed) {
                        let t = START + row * 1000;
                        let slots = [*slot];
                        let values = ScrapeRow { timestamp: t, slots: &slots, values: &[1.0], ..ScrapeRow::default() };
                        appender.commit(&values).unwrap();
                        committed.store(row, Ordering::Release);
                    }
                }
            });
            loop {
                let rows: Vec<i64> = committed.iter().map(|c| c.load(Ordering::Acquire)).collect();
                let request = SelectRequest::new(
                    vec![Matcher::new(MatchType::NotEqual, "__name__", "").unwrap()],
                    i64::MIN,
                    i64::MAX,
                );
                let found = block_on(store.select(request)).unwrap().collect_sorted().unwrap();
                for (i, rows) in rows.iter().enumerate().filter(|r| *r.1 > 0) {
                    let name = format!("m{i:03}");
                    let of = found.binary_search_by(|s| s.labels.metric_name().cmp(&name)).unwrap();
                    let seen = found[of].floats.timestamps.len();
                    assert!(seen as i64 >= *rows, "{name} has {seen} of {rows} rows");
                }
                if rows.iter().all(|r| *r == ROWS) {
                    break;
                }
            }
        });
    }
}

/// What a Prometheus with the same samples answers: names and values by whole blocks of two hours and by the head, series
/// by their own times but for those in the head, which are taken to go on as long as anything does.
#[test]
fn answers_about_labels_cover_the_blocks_of_a_prometheus() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(StoreOptions { window_rows: 10, ..StoreOptions::new(folder.path()) }).unwrap();
    let mut appender = store.group(&GroupKey("g".into())).unwrap();
    // A series each half hour, that lives for half an hour; 24 hours, a row each five minutes.
    let labels = |i: i64| Labels::from_pairs([("__name__", "m".to_owned()), ("i", format!("{i:02}"))]);
    for i in 0..48 {
        let slot = appender.register(SeriesSpec::new(&labels(i))).unwrap();
        for row in 0..6 {
            let t = START + i * HOUR / 2 + row * 5 * MINUTE;
            let row = ScrapeRow { timestamp: t, slots: &[slot], values: &[1.0], ..ScrapeRow::default() };
            appender.commit(&row).unwrap();
            appender.retire(&[slot]);
        }
    }
    store.clean_tombstones().unwrap();
    let answer = |from: i64, to: i64| {
        let (mint, maxt) = (START + from * MINUTE, START + to * MINUTE);
        let query = || LabelQuery {
            selectors: vec![vec![Matcher::equal("__name__", "m")]],
            mint,
            maxt,
            ..LabelQuery::default()
        };
        let values = block_on(store.label_values("i", query())).unwrap().values;
        let series = block_on(store.series(query())).unwrap().values;
        (values, series.iter().map(|l| l.value("i").to_owned()).collect::<Vec<_>>())
    };
    let range = |of: std::ops::Range<i64>| of.map(|i| format!("{i:02}")).collect::<Vec<_>>();
    // The newest sample is at 23:55, the head begins at 22:00.
    for (from, to, values, series) in [
        (12 * 60, 12 * 60, 24..28, 24..25),
        (13 * 60 + 40, 14 * 60 + 10, 24..32, 27..29),
        (21 * 60 + 10, 21 * 60 + 50, 40..44, 42..44),
        (21 * 60 + 10, 22 * 60 + 10, 40..48, 42..45),
        (23 * 60 + 40, 23 * 60 + 50, 44..48, 44..48),
        // Behind the newest sample its head names nothing.
        (25 * 60, 26 * 60, 0..0, 0..0),
    ] {
        assert_eq!(answer(from, to), (range(values), range(series)), "[{from}, {to}]");
    }
}

/// Series that ended are still in memory for a while; a store that is opened again, killed or not, knows when they did.
#[test]
fn a_restart_knows_when_series_ended() {
    for killed in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let options = || StoreOptions { window_rows: 10, ..StoreOptions::new(folder.path()) };
        let mut store = Store::open(options()).unwrap();
        let labels = |i: i64| Labels::from_pairs([("__name__", "m".to_owned()), ("i", i.to_string())]);
        let answer = |store: &Store, from: i64| {
            let selectors = vec![vec![Matcher::equal("__name__", "m")]];
            let query = LabelQuery { selectors, mint: START + from * MINUTE, maxt: i64::MAX, ..LabelQuery::default() };
            let values = block_on(store.label_values("i", query)).unwrap().values;
            values.concat()
        };
        // Six series, each of which ends an hour before the next; the slots stay, so that they stay in memory.
        let mut appender = store.group(&GroupKey("g".into())).unwrap();
        let slots: Vec<Slot> = (0..6).map(|i| appender.register(SeriesSpec::new(&labels(i))).unwrap()).collect();
        for row in 0..72 {
            let (t, slots) = (START + row * 5 * MINUTE, &slots[row as usize / 12..]);
            let values = vec![row as f64; slots.len()];
            appender.commit(&ScrapeRow { timestamp: t, slots, values: &values, ..ScrapeRow::default() }).unwrap();
            while store.figures()["narthex_tsdb_windows_waiting"] > 0.0 {
                std::thread::yield_now();
            }
        }
        assert_eq!(store.figures()["prometheus_tsdb_head_series"], 6.0);
        let ranges = [0, 60, 130, 180, 245, 300, 359];
        let before: Vec<String> = ranges.iter().map(|from| answer(&store, *from)).collect();
        assert!(before[0] == "012345" && before[6] != before[0], "{before:?}");
        if !killed {
            store.close().unwrap();
        }
        drop((appender, store));
        store = Store::open(options()).unwrap();
        assert_eq!(store.figures()["prometheus_tsdb_head_series"], 6.0, "they are in memory again");
        let after: Vec<String> = ranges.iter().map(|from| answer(&store, *from)).collect();
        assert_eq!(after, before, "killed: {killed}");
    }
}
