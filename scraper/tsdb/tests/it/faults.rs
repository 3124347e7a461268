//! Disks that are full, that refuse writes and that come back: nothing that was reported as written is lost, queries
//! go on meanwhile, and appending goes on afterwards by itself.
//!
//! Each scenario runs in a process of its own (this test binary again), inside a user and mount namespace where it
//! needs a file system of a certain size.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::executor::block_on;
use narthex_model::Labels;
use narthex_storage::{
    AppendOutcome, Appendable, ErrorKind, Followable, GroupAppender, GroupKey, Queryable, ScrapeRow, SelectRequest,
    SeriesSpec, StorageAdmin, StorageError, Tail,
};
use narthex_tsdb::{Store, StoreOptions};

const CHILD: &str = "NARTHEX_TSDB_FAULT_CHILD";
const SERIES: usize = 300;
/// Long enough for a busy machine; what is waited for comes within seconds.
const PATIENCE: Duration = Duration::from_secs(120);

fn labels(series: usize) -> Labels {
    Labels::from_pairs([("__name__", format!("m{}", series % 7)), ("s", series.to_string())])
}

fn value(series: usize, t: i64) -> f64 {
    // Hard to compress, so that disks fill up.
    let bits = (t as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (series as u64).wrapping_mul(0xd1b5_4a32_d192_ed03);
    if series.is_multiple_of(3) { series as f64 } else { (bits >> 12) as f64 * 1.000_000_1 }
}

fn options(path: &Path) -> StoreOptions {
    StoreOptions { window_rows: 30, head_buffer_bytes: 1 << 20, ..StoreOptions::new(path) }
}

/// A group that remembers which of its rows were reported as written.
struct Writer {
    group: Box<dyn GroupAppender>,
    slots: Vec<u32>,
    next: i64,
    written: Vec<i64>,
}

impl Writer {
    fn new(store: &Store, next: i64) -> Writer {
        let mut group = store.group(&GroupKey("g".into())).unwrap();
        let slots = (0..SERIES).map(|s| group.register(SeriesSpec::new(&labels(s))).unwrap()).collect();
        Writer { group, slots, next, written: Vec::new() }
    }

    fn row(&mut self) -> Result<AppendOutcome, StorageError> {
        let t = self.next;
        let values: Vec<f64> = (0..SERIES).map(|s| value(s, t)).collect();
        let row = ScrapeRow { timestamp: t, layout: 1, slots: &self.slots, values: &values, ..ScrapeRow::default() };
        self.next += 1;
        self.group.commit(&row)
    }

    /// Appends a row; whether it was taken and written.
    fn append(&mut self) -> Result<(), StorageError> {
        let outcome = self.row()?;
        if let Some(durable) = outcome.durable {
            block_on(durable)?;
        }
        self.written.push(self.next - 1);
        Ok(())
    }

    /// Appends until it fails.
    fn until_refused(&mut self) -> StorageError {
        let start = Instant::now();
        loop {
            if let Err(e) = self.append() {
                return e;
            }
            assert!(start.elapsed() < PATIENCE, "the disk never fills");
        }
    }

    /// Tries until rows are taken again.
    fn until_taken(&mut self) {
        let start = Instant::now();
        while let Err(e) = self.append() {
            assert!(start.elapsed() < PATIENCE, "still refused: {e}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// All samples are right, and those of the written rows are there.
fn check(store: &Store, written: &[i64], what: &str) {
    let set = block_on(store.select(SelectRequest::new(Vec::new(), i64::MIN, i64::MAX)));
    let set = set.unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(set.warnings, Vec::<String>::new(), "{what}");
    let all = set.collect_sorted().unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(all.len(), SERIES, "{what}");
    for series in all {
        let s: usize = series.labels.value("s").parse().unwrap();
        let samples: BTreeMap<i64, f64> = series.floats.iter().collect();
        for (t, v) in &samples {
            assert_eq!(v.to_bits(), value(s, *t).to_bits(), "{what}: {} at {t}", series.labels);
        }
        let missing: Vec<_> = written.iter().filter(|t| !samples.contains_key(*t)).collect();
        assert!(missing.is_empty(), "{what}: {} lacks {missing:?} of {}", series.labels, written.len());
    }
}

/// Reads on, and adds the times of the rows that come.
fn follow(tail: &mut dyn Tail, rows: &mut Vec<i64>) {
    loop {
        let batch = tail.next(10_000, Duration::from_millis(50)).unwrap();
        assert_eq!(batch.missed, 0);
        if batch.samples.is_empty() {
            return;
        }
        rows.extend(batch.samples.iter().map(|s| s.timestamp));
        rows.dedup();
        tail.settle(batch.position);
    }
}

fn in_trouble(store: &Store) -> bool {
    store.status()["writing"] != "ok" && store.figures()["narthex_tsdb_write_failing"] == 1.0
}

fn trouble(store: &Store, expected: bool, what: &str) {
    let start = Instant::now();
    loop {
        let (status, failing) = (store.status()["writing"].clone(), store.figures()["narthex_tsdb_write_failing"]);
        if (status != "ok") == expected && (failing == 1.0) == expected {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: status {status:?}, failing {failing}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs `name` of this file in a process of its own; `None` where namespaces are not to be had.
fn run_child(name: &str, in_namespace: bool) -> Option<()> {
    let folder = tempfile::tempdir().unwrap();
    let exe = std::env::current_exe().unwrap();
    let test = format!("faults::{name}");
    let mut command = if in_namespace {
        let works = Command::new("unshare")
            .args(["-rm", "mount", "-t", "tmpfs", "tmpfs"])
            .arg(folder.path())
            .stderr(Stdio::null())
            .status();
        if !works.is_ok_and(|s| s.success()) {
            println!("skipped: no mount namespace");
            return None;
        }
        let mut command = Command::new("unshare");
        command.arg("-rm").arg(exe);
        command
    } else {
        Command::new(exe)
    };
    let out =
        command.args([&test, "--exact", "--nocapture", "--test-threads=1"]).env(CHILD, folder.path()).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && text.contains("1 passed"), "{test}: {text}");
    Some(())
}

fn child_folder() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

fn mount(folder: &Path, options: &str) {
    let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder).status().unwrap();
    assert!(status.success(), "mount {options}");
}

/// The disk fills up, gets room again, and fills up once more; in the end the process is as good as killed.
#[test]
fn child_full() {
    let Some(folder) = child_folder() else { return };
    mount(&folder, "size=20m");
    let (data, ballast) = (folder.join("data"), folder.join("ballast"));
    std::fs::write(&ballast, vec![1u8; 8 << 20]).unwrap();
    let store = Store::open(options(&data)).unwrap();
    let mut writer = Writer::new(&store, 1);
    let (mut tail, mut followed) = (store.tail("t").unwrap(), Vec::new());
    for round in 0..2 {
        // A refusal can free what was half written, and that makes room for a few rows more.
        let start = Instant::now();
        loop {
            let refused = writer.until_refused();
            assert_eq!(refused.kind, ErrorKind::Unavailable, "{refused}");
            assert!(refused.to_string().to_lowercase().contains("no space"), "{refused}");
            if in_trouble(&store) {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "the trouble is shown nowhere");
        }
        check(&store, &writer.written, "full");
        follow(&mut *tail, &mut followed);
        // It stays so, although a few rows more may find room.
        writer.until_refused();
        if round == 0 {
            std::fs::remove_file(&ballast).unwrap();
        } else {
            let status = Command::new("mount").args(["-o", "remount,size=64m"]).arg(&folder).status().unwrap();
            assert!(status.success());
        }
        writer.until_taken();
        trouble(&store, false, "room again");
        check(&store, &writer.written, "room again");
        follow(&mut *tail, &mut followed);
    }
    for _ in 0..100 {
        writer.append().unwrap();
    }
    check(&store, &writer.written, "after both");
    follow(&mut *tail, &mut followed);
    assert!(followed.is_sorted_by(|a, b| a < b), "each row once");
    let missing = writer.written.iter().filter(|t| followed.binary_search(t).is_err()).count();
    assert_eq!(missing, 0, "of {}", writer.written.len());
    drop(tail);
    // As kill -9 leaves it: the folder is copied while the store is open.
    let copy = folder.join("copy");
    assert!(Command::new("cp").arg("-r").arg(&data).arg(&copy).status().unwrap().success());
    let _ = std::fs::remove_file(copy.join("LOCK"));
    let killed = Store::open(options(&copy)).unwrap();
    check(&killed, &writer.written, "killed after both");
    store.close().unwrap();
    drop(writer.group);
    drop(store);
    check(&Store::open(options(&data)).unwrap(), &writer.written, "closed after both");
}

#[test]
fn a_full_disk_loses_nothing() {
    run_child("child_full", true);
}

fn remount(folder: &Path, options: &str) {
    let status = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(folder).status().unwrap();
    assert!(status.success(), "remount {options}");
}

/// The file system is read-only when the store opens, as after an error of the device, and becomes writable while it
/// is open. (It cannot become read-only under open files here: the kernel refuses that.)
#[test]
fn child_read_only() {
    let Some(folder) = child_folder() else { return };
    mount(&folder, "size=64m");
    let data = folder.join("data");
    let mut written = Vec::new();
    for round in 0..3 {
        let store = Store::open(options(&data)).unwrap();
        let mut writer = Writer::new(&store, written.last().copied().unwrap_or(0) + 1);
        writer.written = std::mem::take(&mut written);
        for _ in 0..70 {
            writer.append().unwrap();
        }
        if round == 1 {
            store.close().unwrap();
        }
        let mut next = writer.next;
        written = writer.written;
        drop((writer.group, store));
        remount(&folder, "ro");
        let store = Store::open(options(&data)).unwrap();
        check(&store, &written, "read-only");
        trouble(&store, true, "read-only");
        let refused = match store.group(&GroupKey("g".into())) {
            Err(e) => e,
            Ok(_) => {
                let refused = Writer::new(&store, next).until_refused();
                next += 1000;
                refused
            }
        };
        assert_eq!(refused.kind, ErrorKind::Unavailable, "{refused}");
        check(&store, &written, "still read-only");
        remount(&folder, "rw");
        trouble(&store, false, "writable again");
        let mut writer = Writer::new(&store, next);
        writer.until_taken();
        written.extend(&writer.written);
        check(&store, &written, "writable again");
        drop((writer.group, store));
    }
    check(&Store::open(options(&data)).unwrap(), &written, "in the end");
}

#[test]
fn a_read_only_disk_is_read_and_written_when_it_can_be() {
    run_child("child_read_only", true);
}

/// Writes fail with an error that is not about space, as on a disk that was remounted read-only.
fn limit_files(bytes: libc::rlim_t) {
    // SAFETY: plain calls on this process, whose only test this is.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        assert_eq!(libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit), 0);
        limit.rlim_cur = bytes.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
    }
}

#[test]
fn child_refused() {
    let Some(folder) = child_folder() else { return };
    let store = Store::open(options(&folder)).unwrap();
    let mut writer = Writer::new(&store, 1);
    for round in 0..3 {
        for _ in 0..70 {
            writer.append().unwrap();
        }
        limit_files(round * 4096);
        let refused = writer.until_refused();
        assert_eq!(refused.kind, ErrorKind::Unavailable, "{refused}");
        trouble(&store, true, "refused");
        check(&store, &writer.written, "refused");
        limit_files(libc::RLIM_INFINITY);
        writer.until_taken();
        trouble(&store, false, "writable again");
        check(&store, &writer.written, "writable again");
    }
    store.close().unwrap();
    drop(writer.group);
    drop(store);
    check(&Store::open(options(&folder)).unwrap(), &writer.written, "closed");
}

#[test]
fn a_disk_that_refuses_writes_loses_nothing() {
    run_child("child_refused", false);
}
