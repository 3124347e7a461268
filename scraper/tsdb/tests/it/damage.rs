//! Files of a store that was killed, cut and with flipped bits at random places. Whatever was done to them: the store
//! opens or says why not, no sample is ever wrong, and where samples are missing, that was counted and queries warn or
//! the log's end was cut.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use futures::executor::block_on;
use narthex_model::Labels;
use narthex_storage::{Appendable, GroupAppender, GroupKey, Queryable, ScrapeRow, SelectRequest, SeriesSpec};
use narthex_tsdb::{Store, StoreOptions};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const GROUPS: usize = 3;
const SERIES: usize = 60;
const ROWS: i64 = 500;

fn labels(group: usize, series: usize) -> Labels {
    Labels::from_pairs([("__name__", format!("m{}", series % 5)), ("g", group.to_string()), ("s", series.to_string())])
}

fn value(group: usize, series: usize, t: i64) -> f64 {
    match series % 4 {
        0 => series as f64,
        1 => (t * (series as i64 + group as i64)) as f64 / 8.0,
        2 => ((t / 7) % 5) as f64,
        _ => ((t as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) as f64 * 0.001,
    }
}

fn options(path: &Path) -> StoreOptions {
    StoreOptions { window_rows: 40, head_buffer_bytes: 256 << 10, ..StoreOptions::new(path) }
}

fn time(row: i64) -> i64 {
    row * 15_000
}

/// A group with its slots.
type Open = (Box<dyn GroupAppender>, Vec<u32>);

fn open_groups(store: &Store) -> Vec<Open> {
    let open = |g| {
        let mut group = store.group(&GroupKey(format!("g{g}").into())).unwrap();
        let slots = (0..SERIES).map(|s| group.register(SeriesSpec::new(&labels(g, s))).unwrap()).collect();
        (group, slots)
    };
    (0..GROUPS).map(open).collect()
}

fn append(groups: &mut [Open], row: i64) {
    for (g, (group, slots)) in groups.iter_mut().enumerate() {
        let values: Vec<f64> = (0..SERIES).map(|s| value(g, s, time(row))).collect();
        let row = ScrapeRow { timestamp: time(row), layout: 1, slots, values: &values, ..ScrapeRow::default() };
        block_on(group.commit(&row).unwrap().durable.unwrap()).unwrap();
    }
}

/// A folder as `kill -9` leaves it: with blocks, table files of all families and log files.
fn killed(folder: &Path) -> PathBuf {
    let (live, dead) = (folder.join("live"), folder.join("dead"));
    let store = Store::open(options(&live)).unwrap();
    let mut groups = open_groups(&store);
    for row in 1..ROWS - 120 {
        append(&mut groups, row);
    }
    drop(groups);
    store.close().unwrap();
    drop(store);
    let store = Store::open(options(&live)).unwrap();
    let mut groups = open_groups(&store);
    for row in ROWS - 120..ROWS {
        append(&mut groups, row);
    }
    // Windows are being closed by another thread: once that is done nothing changes the files.
    let closed = |store: &Store| store.figures()["narthex_tsdb_windows_closed_total"];
    let mut before = -1.0;
    while closed(&store) != before {
        before = closed(&store);
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    copy(&live, &dead);
    dead
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let name = entry.file_name();
        if entry.file_type().unwrap().is_file() && name != "LOCK" {
            std::fs::copy(entry.path(), to.join(name)).unwrap();
        }
    }
}

fn files(folder: &Path, kind: &str) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().flatten().map(|e| e.path()).collect();
    all.retain(|p| {
        let name = p.file_name().unwrap().to_string_lossy();
        name.contains(kind) && std::fs::metadata(p).unwrap().len() > 0
    });
    all.sort();
    all
}

/// What a damaged store did.
#[derive(Debug, Default)]
struct Seen {
    refused: Option<String>,
    missing: usize,
    warnings: Vec<String>,
    counted: f64,
}

/// Opens it, checks every sample, appends more, and opens it once more.
fn look(folder: &Path, what: &str) -> Seen {
    let mut seen = Seen::default();
    let store = match Store::open(options(folder)) {
        Ok(store) => store,
        Err(e) => {
            let e: &dyn std::error::Error = &e;
            seen.refused = Some(format!("{e}: {}", e.source().map(|s| s.to_string()).unwrap_or_default()));
            return seen;
        }
    };
    let read = |store: &Store, seen: &mut Seen| -> BTreeMap<(usize, usize), BTreeMap<i64, f64>> {
        let set = block_on(store.select(SelectRequest::new(vec![], i64::MIN, i64::MAX)))
            .unwrap_or_else(|e| panic!("{what}: a query fails: {e}"));
        seen.warnings.extend(set.warnings.iter().cloned());
        let mut all = BTreeMap::new();
        for series in set.collect_sorted().unwrap_or_else(|e| panic!("{what}: a query fails: {e}")) {
            let number = |name| series.labels.value(name).parse::<usize>().unwrap();
            let (g, s) = (number("g"), number("s"));
            assert_eq!(series.labels, labels(g, s), "{what}");
            let samples: BTreeMap<i64, f64> = series.floats.iter().collect();
            for (t, v) in &samples {
                assert_eq!(v.to_bits(), value(g, s, *t).to_bits(), "{what}: {} at {t}", series.labels);
            }
            all.insert((g, s), samples);
        }
        all
    };
    let first = read(&store, &mut seen);
    let figures = store.figures();
    seen.counted = figures["prometheus_tsdb_wal_corruptions_total"] + figures["narthex_tsdb_blocks_quarantined_total"];
    let all = |g: usize, s: usize| first.get(&(g, s)).map_or(0, BTreeMap::len);
    seen.missing =
        (0..GROUPS).flat_map(|g| (0..SERIES).map(move |s| (g, s))).map(|(g, s)| (ROWS - 1) as usize - all(g, s)).sum();
    let gone: Vec<i64> =
        (1..ROWS).filter(|row| first.values().any(|samples| !samples.contains_key(&time(*row)))).collect();
    println!("{what}: {} rows are not whole, from {:?} to {:?}", gone.len(), gone.first(), gone.last());
    // It goes on.
    let mut groups = open_groups(&store);
    for row in ROWS..ROWS + 50 {
        append(&mut groups, row);
    }
    drop(groups);
    drop(store);
    let store = Store::open(options(folder)).unwrap_or_else(|e| panic!("{what}: not a second time: {e:?}"));
    let second = read(&store, &mut seen);
    for (series, samples) in &second {
        let new = (ROWS..ROWS + 50).filter(|row| samples.contains_key(&time(*row))).count();
        assert_eq!(new, 50, "{what}: {series:?}");
    }
    assert_eq!(second.len(), GROUPS * SERIES, "{what}");
    for (series, samples) in &first {
        let lost: Vec<_> = samples.keys().filter(|t| !second[series].contains_key(t)).collect();
        assert!(lost.is_empty(), "{what}: {series:?} loses {lost:?} at the second start");
    }
    seen
}

fn flip(path: &Path, rng: &mut StdRng) -> String {
    let mut bytes = std::fs::read(path).unwrap();
    let at = rng.random_range(0..bytes.len());
    let n = rng.random_range(1..=16).min(bytes.len() - at);
    for b in &mut bytes[at..at + n] {
        *b ^= rng.random_range(1..=255u8);
    }
    std::fs::write(path, &bytes).unwrap();
    format!("{n} bytes at {at} of {}", bytes.len())
}

fn cut(path: &Path, rng: &mut StdRng) -> String {
    let len = std::fs::metadata(path).unwrap().len();
    let to = rng.random_range(0..len);
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(to).unwrap();
    format!("cut to {to} of {len}")
}

#[test]
fn damaged_files_cost_only_what_they_held() {
    let rounds: u64 = std::env::var("NARTHEX_DAMAGE_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(10);
    let first: u64 = std::env::var("NARTHEX_DAMAGE_SEED").ok().and_then(|r| r.parse().ok()).unwrap_or(0);
    let base = tempfile::tempdir().unwrap();
    let dead = killed(base.path());
    let whole = look(&copied(&dead, base.path(), "whole"), "untouched");
    assert!(whole.missing == 0 && whole.warnings.is_empty() && whole.refused.is_none(), "{whole:?}");
    for seed in first..first + rounds {
        let mut rng = StdRng::seed_from_u64(seed);
        let folder = copied(&dead, base.path(), "damaged");
        let kind = [".log", ".log", ".sst", ".sst", ".sst", ".sst", "MANIFEST", "CURRENT"][rng.random_range(0..8)];
        let all = files(&folder, kind);
        let path = all[rng.random_range(0..all.len())].clone();
        let done = if rng.random_bool(0.4) { cut(&path, &mut rng) } else { flip(&path, &mut rng) };
        let what = format!("seed {seed}: {}, {done}", path.file_name().unwrap().to_string_lossy());
        let seen = look(&folder, &what);
        println!("{what}: {seen:?}");
        assert_eq!(seen.refused, None, "{what}");
        // All but the samples there are two of.
        let samples = files(&dead, ".sst").into_iter().max_by_key(|p| std::fs::metadata(p).unwrap().len());
        let blocks = samples.is_some_and(|p| p.file_name() == path.file_name());
        let most = match (kind, blocks) {
            (".log", _) => GROUPS * SERIES * 120,
            (_, true) if done.starts_with("cut") => usize::MAX,
            // A few of RocksDB's blocks.
            (_, true) => GROUPS * SERIES * ROWS as usize / 5,
            _ => 0,
        };
        assert!(seen.missing <= most, "{what}: {seen:?}");
        if seen.missing > 0 {
            // A log that is cut between two records cannot be told from one that ends there.
            let told = !seen.warnings.is_empty() || seen.counted > 0.0;
            assert!(told || kind == ".log" && done.starts_with("cut"), "{what}: {seen:?}");
        }
    }
}

fn copied(from: &Path, base: &Path, name: &str) -> PathBuf {
    let to = base.join(name);
    let _ = std::fs::remove_dir_all(&to);
    copy(from, &to);
    to
}
