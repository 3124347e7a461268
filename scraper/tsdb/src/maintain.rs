//! The thread that closes windows, merges blocks, applies retention and forgets what has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::blocks::{block_key, stretch_key};
use crate::db::{FAMILIES, Family, Op};
use crate::store::Inner;
use crate::writer::chain;
use crate::{StoreOptions, Took, TsdbError};

/// Groups without appends for so long have their windows closed, and then leave memory.
const IDLE: Duration = Duration::from_secs(15 * 60);
/// Samples beside the rows are written to blocks when there are so many, or after so long.
const SIDE_SAMPLES: usize = 200_000;
const SIDE_AGE: Duration = Duration::from_secs(15 * 60);
const TICK: Duration = Duration::from_secs(5);

#[derive(Default)]
struct State {
    /// Groups with windows to close.
    wanted: BTreeSet<u32>,
    stop: bool,
}

#[derive(Default)]
pub struct Maintenance {
    state: Mutex<State>,
    wake: Condvar,
    /// Held by whoever closes, merges or deletes.
    turn: Mutex<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Maintenance {
    /// Asks for a group's windows to be closed soon.
    pub fn request(&self, group: u32) {
        if self.state.lock().wanted.insert(group) {
            self.wake.notify_one();
        }
    }

    /// Waits for its turn: one closes, merges or deletes at a time.
    pub fn turn(&self) -> parking_lot::MutexGuard<'_, ()> {
        self.turn.lock()
    }

    pub fn start(inner: &Arc<Inner>) -> Result<(), TsdbError> {
        let (weak, maintenance) = (Arc::downgrade(inner), inner.maintenance.clone());
        let thread = std::thread::Builder::new()
            .name("tsdb-maintain".into())
            .spawn(move || run(&weak, &maintenance))
            .map_err(TsdbError::Thread)?;
        *inner.maintenance.thread.lock() = Some(thread);
        Ok(())
    }

    pub fn stop(&self) {
        self.state.lock().stop = true;
        self.wake.notify_all();
        let thread = self.thread.lock().take();
        if thread.is_some_and(|t| t.join().is_err()) {
            tracing::error!("the maintenance thread panicked");
        }
    }
}

fn run(weak: &Weak<Inner>, maintenance: &Maintenance) {
    let mut next_tick = Instant::now() + TICK;
    let mut side_flushed = Instant::now();
    loop {
        let wanted = {
            let mut state = maintenance.state.lock();
            if state.wanted.is_empty() && !state.stop {
                maintenance.wake.wait_for(&mut state, Duration::from_secs(1));
            }
            if state.stop {
                return;
            }
            std::mem::take(&mut state.wanted)
        };
        let Some(inner) = weak.upgrade() else { return };
        inner.settle_tails();
        let _turn = inner.maintenance.turn();
        for group in wanted {
            log_failure(inner.close_group(group), "windows could not be written to blocks");
        }
        if Instant::now() >= next_tick {
            next_tick = Instant::now() + TICK;
            // Puts on record what was noticed.
            inner.damage(i64::MAX);
            inner.budgets.look_at_memory(inner.options.read().memory_budget);
            inner.budgets.tell();
            let gone = inner.exemplars.lock().forget();
            log_failure(gone.map_or(Ok(()), |op| inner.db.write(&[op])), "old exemplars could not be deleted");
            let many = inner.side.lock().samples >= SIDE_SAMPLES;
            if many || side_flushed.elapsed() >= SIDE_AGE {
                side_flushed = Instant::now();
                log_failure(inner.flush_side(), "samples beside the rows could not be written to blocks");
                log_failure(inner.merge_beside(), "blocks beside the rows could not be merged");
            }
            log_failure(inner.close_idle(), "idle groups could not be written to blocks");
            log_failure(inner.trim_log_counted(), "the log could not be trimmed");
            log_failure(inner.retain(), "retention could not be applied");
        }
    }
}

/// Logs a failure when it is not the one of last time.
fn log_failure(result: Result<(), TsdbError>, what: &'static str) {
    static LAST: Mutex<BTreeMap<&'static str, String>> = Mutex::new(BTreeMap::new());
    let mut last = LAST.lock();
    match result.map_err(|e| chain(&e)) {
        Ok(()) => {
            last.remove(what);
        }
        Err(why) => {
            if last.get(what) != Some(&why) {
                tracing::warn!(error = why, "{what}; trying again until it works");
                last.insert(what, why);
            }
        }
    }
}

/// How many bytes the folder may hold; 0: no bound.
fn allowed_bytes(o: &StoreOptions) -> u64 {
    if o.retention_percentage <= 0.0 {
        return o.retention_size;
    }
    match file_system_bytes(&o.path) {
        Some(bytes) => ((bytes as f64 * o.retention_percentage / 100.0) as u64).max(1),
        None => o.retention_size,
    }
}

/// The size of the file system that holds a folder.
fn file_system_bytes(folder: &Path) -> Option<u64> {
    let path = std::ffi::CString::new(folder.as_os_str().as_encoded_bytes()).ok()?;
    let mut about = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path ends with a zero byte, and `about` has room for what the call fills in.
    let done = unsafe { libc::statvfs(path.as_ptr(), about.as_mut_ptr()) };
    // SAFETY: all zeroes, which it was before the call, are a value of this plain struct, too.
    let about = unsafe { about.assume_init() };
    (done == 0 && about.f_blocks > 0).then(|| about.f_blocks.saturating_mul(about.f_frsize))
}

impl Inner {
    /// Closes a group's finished windows, and merges them when there are enough.
    fn close_group(&self, id: u32) -> Result<(), TsdbError> {
        if let Some(cell) = self.group(id) {
            while self.close_window(&cell)? {}
        }
        self.merge_group(id, false)
    }

    /// Closes the windows of groups that had no appends for long, and lets groups without series go.
    fn close_idle(&self) -> Result<(), TsdbError> {
        let groups = self.groups.read().list.clone();
        for cell in groups.into_iter().flatten() {
            let (closing, idle) = {
                let mut group = cell.lock();
                let idle = group.last_append.elapsed() >= IDLE;
                if idle {
                    group.rotate();
                }
                (!group.closing.is_empty(), idle)
            };
            if closing {
                while self.close_window(&cell)? {}
            } else if idle {
                self.end_idle(&cell);
            }
        }
        Ok(())
    }

    /// Forgets the series of a group that has nothing in memory; then the group itself, if nobody holds it.
    pub(crate) fn end_idle(&self, cell: &Arc<Mutex<crate::group::Group>>) {
        let mut groups = self.groups.write();
        let mut group = cell.lock();
        if group.window.is_empty() && group.closing.is_empty() {
            let all: Vec<u32> = (0..group.columns.len() as u32).collect();
            let end = group.floor;
            self.forget_ended(&mut group, &all, i64::MAX, end);
        }
        let empty = group.free.len() == group.columns.len() && group.first_seq().is_none();
        // The list and the caller hold one each; an appender would be a third.
        if empty && Arc::strong_count(cell) <= 2 {
            let (id, key) = (group.id, group.key.clone());
            drop(group);
            groups.by_key.remove(&key);
            groups.remote.remove(&id);
            if let Some(place) = groups.list.get_mut(id as usize) {
                *place = None;
            }
            let range = Op::DeleteRange(Family::Series, id.to_be_bytes().into(), (id + 1).to_be_bytes().into());
            drop(self.writer.submit(vec![range]));
        }
    }

    fn trim_log_counted(&self) -> Result<(), TsdbError> {
        let done = self.observer.time(Took::LogTrim, || self.trim_log());
        self.figures.log_trims.fetch_add(1, Ordering::Relaxed);
        self.figures.log_trims_failed.fetch_add(u64::from(done.is_err()), Ordering::Relaxed);
        done
    }

    /// Drops log records that are not needed any more, as far as they fill whole files.
    pub fn trim_log(&self) -> Result<(), TsdbError> {
        let (needed, _trimming) = self.needed_of_log();
        self.db.drop_files(Family::Head, &0u64.to_be_bytes(), &needed.to_be_bytes())?;
        self.trim_gone()
    }

    /// Deletes partitions that are older than retention allows, or that are too much.
    pub fn retain(&self) -> Result<(), TsdbError> {
        let (retention, size) = {
            let o = self.options.read();
            (o.retention.as_millis() as i64, allowed_bytes(&o))
        };
        let newest = self.max_time.load(Ordering::Relaxed);
        let bounded = retention > 0 && newest != i64::MIN;
        let cutoff = if bounded { newest.saturating_sub(retention) } else { i64::MIN };
        if self.follow.is_followed() {
            self.retain_for_tails(cutoff, size)?;
        }
        if bounded {
            for (partition, end) in self.partitions() {
                if end < cutoff {
                    self.drop_partition(partition)?;
                    self.figures.retention_deletions.fetch_add(1, Ordering::Relaxed);
                }
            }
            let day = crate::dead::day_of(cutoff);
            if self.dead_from.fetch_max(day, Ordering::Relaxed) < day {
                self.db.write(&crate::dead::forget_before(day))?;
                self.dead_days.forget_before(day);
            }
            self.db.forget_damage(cutoff)?;
        }
        if size > 0 {
            let partitions = self.partitions();
            // The newest stays: what else there is may alone be more than is allowed.
            for partition in partitions.keys().copied().take(partitions.len().saturating_sub(1)) {
                if self.stored_bytes() <= size {
                    break;
                }
                self.drop_partition(partition)?;
                self.figures.size_retentions.fetch_add(1, Ordering::Relaxed);
                self.db.compact_below(Family::Blocks, &block_key(partition.saturating_add(1), 0, 0, 0))?;
            }
        }
        Ok(())
    }

    /// Keeps of the log for tails no more than may be kept: they lose before what is stored does.
    fn retain_for_tails(&self, cutoff: i64, size: u64) -> Result<(), TsdbError> {
        let stored = if size > 0 { self.stored_bytes() } else { 0 };
        let excess = match stored.checked_sub(size) {
            // The log goes by whole files.
            Some(over) if size > 0 && over > 0 => over + self.options.read().head_buffer_bytes as u64,
            _ => 0,
        };
        if self.shed_tails(cutoff, excess)? {
            self.trim_log()?;
        }
        Ok(())
    }

    /// Partitions with the newest time of each, oldest first.
    fn partitions(&self) -> BTreeMap<u32, i64> {
        let mut ends: BTreeMap<u32, i64> = BTreeMap::new();
        for stretch in self.directory.stretches.read().values().flatten() {
            let end = ends.entry(stretch.partition()).or_insert(i64::MIN);
            *end = (*end).max(stretch.end);
        }
        ends
    }

    /// What the data folder holds, about.
    pub fn stored_bytes(&self) -> u64 {
        FAMILIES.iter().filter_map(|f| self.db.property(*f, "rocksdb.live-sst-files-size")).sum()
    }

    fn drop_partition(&self, partition: u32) -> Result<(), TsdbError> {
        let (from, to) = (block_key(partition, 0, 0, 0), block_key(partition.saturating_add(1), 0, 0, 0));
        let mut ops = vec![Op::DeleteRange(Family::Blocks, from.clone(), to.clone())];
        let stretches = self.directory.stretches.read();
        for (group, all) in stretches.iter() {
            let of_partition = all.iter().filter(|s| s.partition() == partition);
            ops.extend(of_partition.map(|s| Op::Delete(Family::Postings, stretch_key(*group, s.number))));
        }
        drop(stretches);
        self.db.write(&ops)?;
        let mut stretches = self.directory.stretches.write();
        stretches.retain(|_, all| {
            all.retain(|s| s.partition() != partition);
            !all.is_empty()
        });
        drop(stretches);
        self.db.drop_files(Family::Blocks, &from, &to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_of_the_file_system_prevails() {
        let folder = tempfile::tempdir().unwrap();
        let all = file_system_bytes(folder.path()).unwrap();
        assert!(all > 1 << 20, "{all}");
        assert_eq!(file_system_bytes(&folder.path().join("nowhere")), None);
        let mut o = StoreOptions { retention_size: 7, ..StoreOptions::new(folder.path()) };
        assert_eq!(allowed_bytes(&o), 7);
        o.retention_percentage = 50.0;
        assert_eq!(allowed_bytes(&o), all / 2);
        o.path = folder.path().join("nowhere");
        assert_eq!(allowed_bytes(&o), 7);
    }
}
