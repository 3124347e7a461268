//! `kill -9` at random instants: no row is missing whose commit was reported as written, and what is there is right.
//! Windows are short and merged after few rows, so that the end comes while blocks are written, merged and compacted.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use futures::executor::block_on;
use narthex_model::{Labels, Matcher};
use narthex_storage::{
    Appendable, Followable, GroupKey, OwnSample, Queryable, ScrapeRow, SelectRequest, SeriesSpec, StorageAdmin, Tailed,
};
use narthex_tsdb::{Store, StoreOptions};
use rand::Rng;

const CHILD: &str = "NARTHEX_TSDB_KILL_CHILD";
const SERIES: usize = 200;
const GROUPS: usize = 3;
/// One more series of each group has samples at times of its own, so many ms before those of the rows.
const BEFORE: i64 = 500;
/// Between two rows.
const STEP: i64 = 10_000;

fn options(path: &std::path::Path) -> StoreOptions {
    StoreOptions { window_rows: 8, merged_rows: 36, head_buffer_bytes: 1 << 20, ..StoreOptions::new(path) }
}

fn value(group: usize, series: usize, t: i64) -> f64 {
    match series % 3 {
        0 => series as f64,
        1 => (t * (series as i64 + group as i64)) as f64 / 8.0,
        _ => ((t / 7) % 5) as f64,
    }
}

fn labels(group: usize, series: usize) -> Labels {
    Labels::from_pairs([("__name__", "m".into()), ("g", group.to_string()), ("s", series.to_string())])
}

/// The groups and times of the rows in a batch; `first` has the numbers of each group's first series.
fn given(first: &mut std::collections::BTreeMap<u32, usize>, batch: &Tailed) -> Vec<(usize, i64)> {
    assert_eq!(batch.missed, 0);
    for (number, labels) in &batch.series {
        if labels.value("s") == "0" {
            first.insert(*number, labels.value("g").parse().unwrap());
        }
    }
    let rows = batch.samples.iter().filter_map(|s| Some((*first.get(&s.series)?, s.timestamp))).collect();
    first.retain(|number, _| !batch.gone.contains(number));
    rows
}

/// What the killed process does: appends as fast as it can, and says which rows are written.
#[test]
fn child_that_gets_killed() {
    let Ok(folder) = std::env::var(CHILD) else { return };
    let store = Store::open(options(folder.as_ref())).unwrap();
    let mut appenders: Vec<_> = (0..GROUPS)
        .map(|g| {
            let mut appender = store.group(&GroupKey(format!("g{g}").into())).unwrap();
            let register = |s| appender.register(SeriesSpec::new(&labels(g, s))).unwrap();
            let slots: Vec<u32> = (0..=SERIES).map(register).collect();
            (appender, slots)
        })
        .collect();
    let newest = |g: usize| {
        let matchers = vec![Matcher::equal("g", g.to_string())];
        let set = block_on(store.select(SelectRequest::new(matchers, i64::MIN, i64::MAX))).unwrap();
        let all = set.collect_sorted().unwrap();
        all.first().and_then(|s| s.floats.timestamps.last().copied()).unwrap_or(0)
    };
    let start = (0..GROUPS).map(newest).max().unwrap_or(0) / STEP;
    // Snapshots merge everything, samples beside the rows too, and compact files.
    let merging = store.clone();
    let snapshots = folder.clone();
    std::thread::spawn(move || {
        for round in 0.. {
            std::thread::sleep(Duration::from_millis(40 * (round % 5)));
            let name = merging.snapshot(false).unwrap();
            std::fs::remove_dir_all(std::path::Path::new(&snapshots).join("snapshots").join(name)).unwrap();
        }
    });
    let mut tail = store.tail("t").unwrap();
    std::thread::spawn(move || {
        let mut first = std::collections::BTreeMap::new();
        loop {
            let batch = tail.next(5000, Duration::from_secs(1)).unwrap();
            given(&mut first, &batch).into_iter().for_each(|(g, t)| println!("given {g} {t}"));
            // It is given: settled or not, it has not been missed.
            tail.settle(batch.position);
        }
    });
    let mut merged = 0.0;
    for t in (start + 1..).map(|n| n * STEP) {
        let durable: Vec<_> = appenders
            .iter_mut()
            .enumerate()
            .map(|(g, (appender, slots))| {
                let values: Vec<f64> = (0..SERIES).map(|s| value(g, s, t)).collect();
                let (own, slots) = slots.split_last().unwrap();
                let (timestamp, value) = (t - BEFORE, value(g, SERIES, t - BEFORE));
                let own = OwnSample { slot: *own, timestamp, value, ..OwnSample::default() };
                let row =
                    ScrapeRow { timestamp: t, layout: 1, slots, values: &values, own: &[own], ..ScrapeRow::default() };
                let outcome = appender.commit(&row).unwrap();
                assert_eq!(outcome.appended, SERIES as u64 + 1);
                outcome.durable.unwrap()
            })
            .collect();
        for d in durable {
            block_on(d).unwrap();
        }
        println!("written {t}");
        let merges = store.figures()["prometheus_tsdb_compactions_total"];
        if merges > merged {
            println!("merged {}", merges - merged);
            merged = merges;
        }
    }
}

#[test]
fn no_written_row_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let mut rng = rand::rng();
    let mut written = Vec::new();
    let mut followed = std::collections::BTreeSet::new();
    let row_of = |line: &str| {
        let (g, t) = line.rsplit_once("given ")?.1.split_once(' ')?;
        Some((g.parse::<usize>().ok()?, t.parse::<i64>().ok()?))
    };
    let mut merged = 0;
    for round in 0..8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["kill::child_that_gets_killed", "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let enough = rng.random_range(1..200);
        let mut seen = 0;
        while seen < enough {
            let Some(Ok(line)) = lines.next() else { break };
            seen += usize::from(line.contains("written"));
            merged += usize::from(line.contains("merged"));
            written.extend(line.rsplit_once("written ").and_then(|w| w.1.parse::<i64>().ok()));
            followed.extend(row_of(&line));
        }
        std::thread::sleep(Duration::from_micros(rng.random_range(0..5000)));
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said between the last line read and its end counts too.
        for line in lines.map_while(Result::ok) {
            written.extend(line.rsplit_once("written ").and_then(|w| w.1.parse::<i64>().ok()));
            followed.extend(row_of(&line));
        }
        assert!(seen > 0, "the child wrote nothing");
        let store = Store::open(options(folder.path())).unwrap();
        // Whoever follows gets what it has not got.
        let (mut tail, mut first) = (store.tail("t").unwrap(), Default::default());
        let mut again = 0;
        while tail.lag().records > 0 {
            let batch = tail.next(5000, Duration::from_secs(1)).unwrap();
            let rows = given(&mut first, &batch);
            again += rows.iter().filter(|row| followed.contains(*row)).count();
            followed.extend(rows);
        }
        drop(tail);
        println!("{again} rows twice");
        for g in 0..GROUPS {
            let missed: Vec<_> = written.iter().filter(|t| !followed.contains(&(g, **t))).collect();
            assert!(missed.is_empty(), "round {round}: the tail missed {missed:?} of {} in {g}", written.len());
        }
        let all = block_on(store.select(SelectRequest::new(vec![], i64::MIN, i64::MAX)));
        let all = all.unwrap().collect_sorted().unwrap();
        assert_eq!(all.len(), (SERIES + 1) * GROUPS);
        for series in all {
            let number = |name| series.labels.value(name).parse::<usize>().unwrap();
            let (g, s) = (number("g"), number("s"));
            let times: std::collections::BTreeSet<i64> = series.floats.timestamps.iter().copied().collect();
            let before = if s == SERIES { BEFORE } else { 0 };
            let missing: Vec<_> = written.iter().filter(|t| !times.contains(&(**t - before))).collect();
            assert!(missing.is_empty(), "round {round}: {} lacks {missing:?}", series.labels);
            for (t, v) in series.floats.iter() {
                assert_eq!(v.to_bits(), value(g, s, t).to_bits(), "{} at {t}", series.labels);
            }
        }
    }
    assert!(merged > 0, "nothing was merged in {} rows", written.len());
}
