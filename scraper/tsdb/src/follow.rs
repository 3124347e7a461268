//! Who follows the store: gives what was appended to those who pass it on ([`narthex_storage::Followable`]).
//!
//! The log has everything that is appended, in order; a [`reader`] reads it from its place on, so that nothing is
//! queued for it anywhere and appending does not know of it. Three things are kept so that this works however far
//! behind a tail is:
//! * *What is written* ([`Flow`]): records get their numbers under the locks of groups, and are written in another
//!   order. Nobody reads past a number that is not written yet.
//! * *Points* ([`points`]): rows are differences to rows before them, so a tail at a place needs the log from an earlier
//!   one on. Each time the log is trimmed, it is noted what of it those at its end will need.
//! * *Columns given up* ([`gone`]): which series a column was until when.
//!
//! What goes to blocks without the log (backfill, the bulk of an import) is not given: it is history that was elsewhere
//! before, and those who follow could not take it in any order.

pub mod gone;
mod lane;
pub mod points;
mod reader;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::executor::block_on;
use narthex_storage::{ErrorKind, Followable, StorageError, Tail};
use parking_lot::{Condvar, Mutex};

use crate::db::{Db, Family, Op};
use crate::record::head_seq;
use crate::store::Inner;
use crate::wire::{Reader, put_u64};
use crate::{Store, TsdbError};
use gone::Gone;
use points::{Point, Points};
use reader::LogTail;

const PLACE_PREFIX: &[u8] = b"tail/";
const PLACE_END: &[u8] = b"tail0";
const POINTS_KEY: &[u8] = b"tail-points";
/// Places are written no more often than this.
const SETTLE_EVERY: Duration = Duration::from_millis(100);

/// Which log records are written.
#[derive(Default)]
pub struct Flow {
    /// Numbers of records that were given out, in ascending order, and whether they are written; the first is not.
    unwritten: VecDeque<(u64, bool)>,
    /// Of all records ever written, about.
    pub bytes: f64,
    waiting: usize,
}

/// A tail, whether it is open or not.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// Records before it need not be given again.
    pub settled: u64,
    /// The same, as it is written for sure.
    written: u64,
    /// Has changed since it was handed to the writer.
    dirty: bool,
    handed: Option<Instant>,
    /// Of whoever has it open, counted up; those before have lost it.
    handle: u64,
    /// Where that one is, and up to which of the columns that were given up it has looked; `None`: nobody has it open.
    at: u64,
    seen: Option<u64>,
    /// What that one takes of memory, about.
    heap_bytes: usize,
    /// What is before this number is not there any more.
    lost: u64,
    /// Records that were lost and not told of yet, and all of them since the store was opened.
    missed: u64,
    missed_ever: u64,
}

impl Place {
    fn put(&self, name: &str) -> Op {
        let mut value = Vec::new();
        put_u64(&mut value, self.settled);
        put_u64(&mut value, self.missed);
        Op::Put(Family::Meta, [PLACE_PREFIX, name.as_bytes()].concat(), value)
    }

    /// From which position on it needs the log.
    fn holds(&self) -> u64 {
        self.written.max(self.lost)
    }
}

#[derive(Default)]
pub struct Places {
    by_name: BTreeMap<String, Place>,
    points: Points,
    opened: u64,
    /// What the store itself needed of the log when that was last looked at.
    natural: u64,
}

impl Places {
    fn needed(&self) -> Option<u64> {
        self.by_name.values().map(|place| self.points.needs(place.holds())).min()
    }
}

/// Locks are taken in this order: `trimming`, `settling`, a group, `places` or `gone`, `flow`. Nothing is read or
/// written under the last three, but for [`Gone::load`].
#[derive(Default)]
pub struct Follow {
    flow: Mutex<Flow>,
    changed: Condvar,
    /// Whether there are tails.
    some: AtomicBool,
    places: Mutex<Places>,
    pub gone: Mutex<Gone>,
    /// Held while it is found out what the log is needed for, until what is not needed is dropped.
    trimming: Mutex<()>,
    /// Held while places are handed to the writer, so that they get there in their order.
    settling: Mutex<()>,
}

impl Follow {
    pub fn is_followed(&self) -> bool {
        self.some.load(Ordering::SeqCst)
    }

    /// Notes what was written.
    pub fn note_written<'a>(&self, ops: impl Iterator<Item = &'a Op> + Clone) {
        let mut flow = self.flow.lock();
        let before = flow.unwritten.len();
        for op in ops.clone() {
            let Op::Put(Family::Head, key, value) = op else { continue };
            flow.bytes += (key.len() + value.len()) as f64;
            if let Some(i) = head_seq(key).and_then(|seq| flow.unwritten.binary_search_by_key(&seq, |u| u.0).ok()) {
                flow.unwritten[i].1 = true;
            }
        }
        while flow.unwritten.front().is_some_and(|u| u.1) {
            flow.unwritten.pop_front();
        }
        if flow.waiting > 0 && flow.unwritten.len() < before {
            self.changed.notify_all();
        }
        drop(flow);
        if !self.is_followed() {
            return;
        }
        for op in ops {
            let Op::Put(Family::Meta, key, value) = op else { continue };
            let name = key.strip_prefix(PLACE_PREFIX).and_then(|name| std::str::from_utf8(name).ok());
            if let (Some(name), Some(settled)) = (name, Reader::new(value).u64())
                && let Some(place) = self.places.lock().by_name.get_mut(name)
            {
                place.written = place.written.max(settled);
            }
        }
    }

    /// Makes those that wait look again.
    pub fn wake(&self) {
        let _flow = self.flow.lock();
        self.changed.notify_all();
    }

    /// What there is of tails in the database. The number from which on the log has to be read, and the least number of
    /// the next record.
    pub fn load(&self, db: &Db) -> Result<(u64, u64), TsdbError> {
        let mut places = self.places.lock();
        let mut next = 0;
        db.scan(Family::Meta, PLACE_PREFIX, Some(PLACE_END), |key, value| {
            let mut r = Reader::new(value);
            let name = std::str::from_utf8(&key[PLACE_PREFIX.len()..]).ok();
            if let (Some(name), Some(settled), Some(missed)) = (name, r.u64(), r.u64()) {
                let place = Place { settled, written: settled, missed, ..Place::default() };
                next = next.max(settled);
                places.by_name.insert(name.into(), place);
            }
            true
        })?;
        if let Some(value) = db.get(Family::Meta, POINTS_KEY)? {
            places.points = Points::decode(&value);
        }
        self.some.store(!places.by_name.is_empty(), Ordering::SeqCst);
        self.gone.lock().some = places.points.last().is_some();
        let Some(last) = places.points.last() else { return Ok((0, next)) };
        self.flow.lock().bytes = last.bytes;
        Ok((last.needs, next.max(last.head)))
    }
}

impl Inner {
    /// The number of a record that is going to the log.
    pub fn log_seq(&self) -> u64 {
        let mut flow = self.follow.flow.lock();
        let seq = self.seq();
        flow.unwritten.push_back((seq, false));
        seq
    }

    fn below(&self, flow: &Flow) -> u64 {
        flow.unwritten.front().map_or_else(|| self.next_seq.load(Ordering::SeqCst), |u| u.0)
    }

    /// All log records with lower numbers are written.
    fn written_below(&self) -> u64 {
        self.below(&self.follow.flow.lock())
    }

    /// Waits until records from `at` on are written; `false`: it took too long, or something else changed.
    fn wait_for_records(&self, at: u64, until: Instant) -> bool {
        let mut flow = self.follow.flow.lock();
        if self.below(&flow) <= at {
            flow.waiting += 1;
            self.follow.changed.wait_until(&mut flow, until);
            flow.waiting -= 1;
        }
        self.below(&flow) > at
    }

    /// After what was in the log is in memory: what follows needs of it.
    pub fn begin_following(&self) {
        let natural = self.first_needed_seq();
        let head = self.next_seq.load(Ordering::SeqCst);
        self.note_point(head, natural);
    }

    /// Notes that the store itself needs the log from `natural` on, and so do those at its end, which was `head` before
    /// that was found out.
    fn note_point(&self, head: u64, natural: u64) -> Option<Op> {
        let time = self.max_time.load(Ordering::Relaxed);
        let mut places = self.follow.places.lock();
        places.natural = places.natural.max(natural);
        if places.by_name.is_empty() {
            let before = std::mem::take(&mut places.points);
            return before.last().map(|_| Op::Delete(Family::Meta, POINTS_KEY.into()));
        }
        let bytes = self.follow.flow.lock().bytes;
        let least = places.by_name.values().map(Place::holds).min().unwrap_or(head);
        let changed = places.points.note(Point { head, needs: natural, time, bytes }, least);
        changed.then(|| Op::Put(Family::Meta, POINTS_KEY.into(), places.points.encode()))
    }

    /// From which number on the log is needed, by the store or by tails. Only where windows are not being closed. What
    /// is before it may be dropped as long as the guard is held.
    pub fn needed_of_log(&self) -> (u64, parking_lot::MutexGuard<'_, ()>) {
        let guard = self.follow.trimming.lock();
        self.settle_tails();
        let head = self.next_seq.load(Ordering::SeqCst);
        let natural = self.first_needed_seq();
        if let Some(op) = self.note_point(head, natural) {
            drop(self.writer.submit(vec![op]));
        }
        let needed = self.follow.places.lock().needed();
        (needed.map_or(natural, |n| n.min(natural)), guard)
    }

    /// The same after everything went to blocks and the writer has ended. Nothing is needed by the store itself then.
    pub fn needed_when_closed(&self) -> (Option<u64>, Option<Op>) {
        let head = self.next_seq.load(Ordering::SeqCst);
        let op = self.note_point(head, head);
        (self.follow.places.lock().needed(), op)
    }

    /// Forgets of columns that were given up what no tail needs.
    pub fn trim_gone(&self) -> Result<(), TsdbError> {
        let (least, seen) = {
            let places = self.follow.places.lock();
            // Who lost something begins anew, and has not seen any.
            let reads = |place: &&Place| place.lost <= place.at;
            let seen = places.by_name.values().filter(reads).filter_map(|place| place.seen).min();
            (places.by_name.values().map(Place::holds).min(), seen.unwrap_or(u64::MAX))
        };
        let op = self.follow.gone.lock().trim(least, seen);
        op.map_or(Ok(()), |op| self.db.write(&[op]))
    }

    /// Hands the places of tails that have changed to the writer.
    pub fn settle_tails(&self) {
        if self.follow.is_followed() && self.writer.refusal().is_none() {
            let _turn = self.follow.settling.lock();
            let mut ops = Vec::new();
            for (name, place) in &mut self.follow.places.lock().by_name {
                if std::mem::take(&mut place.dirty) {
                    place.handed = Some(Instant::now());
                    ops.push(place.put(name));
                }
            }
            if !ops.is_empty() {
                drop(self.writer.submit(ops));
            }
        }
    }

    /// Lets tails go on to a later place: what was appended while the newest sample was older than `cutoff`, and
    /// so much of the log that `excess` bytes become free, if so much is held. `true`: something was given up.
    pub fn shed_tails(&self, cutoff: i64, excess: u64) -> Result<bool, TsdbError> {
        let (behind, to) = {
            let mut places = self.follow.places.lock();
            let Some(needed) = places.needed().filter(|needed| *needed < places.natural) else { return Ok(false) };
            let (bytes, seq) = (self.follow.flow.lock().bytes, self.next_seq.load(Ordering::SeqCst));
            let Some(to) = places.points.shed(needed, cutoff, excess as f64, (seq, bytes)) else { return Ok(false) };
            let mut behind = Vec::new();
            for (name, place) in &mut places.by_name {
                if place.holds() < to {
                    behind.push((name.clone(), place.at.max(place.settled)));
                    place.lost = to;
                    place.settled = place.settled.max(to);
                    place.dirty = true;
                }
            }
            (behind, to)
        };
        for (name, from) in &behind {
            // Counted before they are dropped.
            let mut missed = 0u64;
            if *from < to {
                let (from, to) = (crate::record::head_key(*from), crate::record::head_key(to));
                self.db.scan(Family::Head, &from, Some(&to), |_, _| {
                    missed += 1;
                    true
                })?;
            }
            if let Some(place) = self.follow.places.lock().by_name.get_mut(name) {
                place.missed += missed;
                place.missed_ever += missed;
            }
            tracing::warn!(
                tail = name,
                records = missed,
                "what was kept for a tail takes too much room: it was dropped"
            );
        }
        self.settle_tails();
        self.follow.wake();
        Ok(!behind.is_empty())
    }

    /// Bytes of the log that are kept for a tail and for nothing else, about.
    fn held_bytes(&self, places: &Places, name: &str) -> u64 {
        let Some(place) = places.by_name.get(name) else { return 0 };
        let others = places.by_name.iter().filter(|p| p.0 != name);
        let others = others.map(|p| places.points.needs(p.1.holds())).min().unwrap_or(u64::MAX);
        let now = (self.next_seq.load(Ordering::SeqCst), self.follow.flow.lock().bytes);
        let at = |seq| places.points.bytes_at(seq, now);
        (at(others.min(places.natural)) - at(places.points.needs(place.holds()))).max(0.0) as u64
    }

    /// What those who have tails open take of memory, about.
    pub fn tail_memory(&self) -> usize {
        let gone = self.follow.gone.lock().heap_bytes();
        let places = self.follow.places.lock();
        gone + places.by_name.values().filter(|p| p.seen.is_some()).map(|p| p.heap_bytes).sum::<usize>()
    }

    /// Of each tail the bytes that are held for it, the records that it has not settled (about), and those that it lost.
    pub fn tail_figures(&self) -> Vec<(String, [u64; 3])> {
        let next = self.next_seq.load(Ordering::SeqCst);
        let places = self.follow.places.lock();
        let figures = |(name, place): (&String, &Place)| {
            let behind = next.saturating_sub(place.settled);
            (name.clone(), [self.held_bytes(&places, name), behind, place.missed_ever])
        };
        places.by_name.iter().map(figures).collect()
    }
}

impl Store {
    fn open_tail(&self, name: &str) -> Result<LogTail, StorageError> {
        let inner = &self.inner;
        inner.check_open()?;
        let follow = &inner.follow;
        let _trimming = follow.trimming.lock();
        let known = follow.places.lock().by_name.contains_key(name);
        if !known {
            let _turn = follow.settling.lock();
            follow.some.store(true, Ordering::SeqCst);
            let head = inner.next_seq.load(Ordering::SeqCst);
            let time = inner.max_time.load(Ordering::Relaxed);
            let ops = {
                let bytes = follow.flow.lock().bytes;
                let mut places = follow.places.lock();
                let place = Place { settled: head, written: head, ..Place::default() };
                let put = place.put(name);
                places.by_name.insert(name.into(), place);
                let (needs, least) = (places.natural, places.by_name.values().map(Place::holds).min());
                places.points.note(Point { head, needs, time, bytes }, least.unwrap_or(head));
                vec![put, Op::Put(Family::Meta, POINTS_KEY.into(), places.points.encode())]
            };
            if let Err(e) = inner.writer.submit(ops).and_then(block_on) {
                // Where it is written later after all, it is an old tail then.
                let mut places = follow.places.lock();
                places.by_name.remove(name);
                follow.some.store(!places.by_name.is_empty(), Ordering::SeqCst);
                return Err(e);
            }
        }
        let (at, handle) = {
            let mut places = follow.places.lock();
            places.opened += 1;
            let handle = places.opened;
            let Some(place) = places.by_name.get_mut(name) else { return Err(lost(name)) };
            (place.handle, place.at, place.seen) = (handle, place.settled, Some(0));
            (place.settled, handle)
        };
        // Whoever has it looks and finds that it is taken.
        follow.wake();
        follow.gone.lock().load(&inner.db)?;
        Ok(LogTail::new(inner.clone(), name.into(), handle, at))
    }
}

impl Followable for Store {
    fn tail(&self, name: &str) -> Result<Box<dyn Tail>, StorageError> {
        Ok(Box::new(self.open_tail(name)?))
    }

    fn tails(&self) -> Vec<String> {
        self.inner.follow.places.lock().by_name.keys().cloned().collect()
    }

    fn forget_tail(&self, name: &str) -> Result<(), StorageError> {
        let follow = &self.inner.follow;
        self.inner.check_open()?;
        let turn = follow.settling.lock();
        {
            let mut places = follow.places.lock();
            if places.by_name.remove(name).is_none() {
                return Ok(());
            }
            follow.some.store(!places.by_name.is_empty(), Ordering::SeqCst);
        }
        let key = [PLACE_PREFIX, name.as_bytes()].concat();
        let gone = self.inner.writer.submit(vec![Op::Delete(Family::Meta, key)])?;
        drop(turn);
        follow.wake();
        block_on(gone)
    }
}

fn lost(name: &str) -> StorageError {
    StorageError::new(ErrorKind::Unavailable, format!("tail {name:?} was taken over or forgotten"))
}
