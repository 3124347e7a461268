//! One who reads the log from a place on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use narthex_storage::{StorageError, Tail, TailLag, TailSample, TailValue, Tailed};

use super::gone::{self, Event};
use super::lane::{Lane, NO_NUMBER, Row};
use super::{Place, SETTLE_EVERY, lost};
use crate::db::Family;
use crate::record::{self, Record, SideSample, SideValue};
use crate::store::Inner;

/// Bytes of the log that are read at once.
const FETCH: usize = 256 << 10;
/// So many columns are looked up under a group's lock at once.
const LOOK_UP: usize = 2000;
/// After a failure to read, so long passes before the next attempt.
const RETRY: Duration = Duration::from_millis(250);
/// Every so many reads of the log groups that have gone are looked for, and what is in memory is counted.
const SWEEP: u32 = 256;

pub struct LogTail {
    inner: Arc<Inner>,
    name: String,
    handle: u64,
    /// The number of the next record to be looked at.
    at: u64,
    /// Records before this one are read to understand those that follow, and not given.
    from: u64,
    fetched: Fetched,
    lanes: HashMap<u32, Lane, foldhash::fast::FixedState>,
    /// Columns that were given up, by when; those that were not come to yet.
    events: BTreeMap<(u64, u32), Arc<Event>>,
    /// Up to which number the store's events were looked at.
    seen: u64,
    numbers: Numbers,
    /// What is left of a record that was too much for one batch, and that record's number.
    pub(super) rest: Vec<TailSample>,
    rest_of: u64,
    /// Behind the last batch that was given.
    given: u64,
    fetches: u32,
}

/// Records that were read and not looked at yet.
#[derive(Default)]
struct Fetched {
    bytes: Vec<u8>,
    /// Their numbers, and where each ends in `bytes`.
    records: Vec<(u64, usize)>,
    next: usize,
    /// All records before this number were in it.
    until: u64,
}

impl Fetched {
    /// The number of the next record and its bytes.
    fn take(&mut self) -> Option<(u64, std::ops::Range<usize>)> {
        let (seq, end) = *self.records.get(self.next)?;
        let start = self.next.checked_sub(1).map_or(0, |before| self.records[before].1);
        self.next += 1;
        Some((seq, start..end))
    }

    fn is_empty(&self) -> bool {
        self.next >= self.records.len()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.records.clear();
        (self.next, self.until) = (0, 0);
    }
}

/// Numbers of series.
#[derive(Default)]
struct Numbers {
    free: Vec<u32>,
    next: u32,
}

impl Numbers {
    fn new_one(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }
}

impl LogTail {
    /// One that gives what comes from `from` on.
    pub fn new(inner: Arc<Inner>, name: String, handle: u64, from: u64) -> LogTail {
        let at = inner.follow.places.lock().points.needs(from).min(from);
        LogTail {
            inner,
            name,
            handle,
            at,
            from,
            fetched: Fetched::default(),
            lanes: HashMap::default(),
            events: BTreeMap::new(),
            seen: 0,
            numbers: Numbers::default(),
            rest: Vec::new(),
            rest_of: 0,
            given: from,
            fetches: 0,
        }
    }

    fn with_place<T>(&self, f: impl FnOnce(&mut Place) -> T) -> Option<T> {
        let mut places = self.inner.follow.places.lock();
        places.by_name.get_mut(&self.name).filter(|place| place.handle == self.handle).map(f)
    }

    /// Looks whether it may go on, and what was lost meanwhile.
    fn check(&mut self, batch: &mut Tailed) -> Result<(), StorageError> {
        if self.inner.closed.load(Ordering::Acquire) {
            return Err(StorageError::new(narthex_storage::ErrorKind::Unavailable, "the store is closed"));
        }
        let at = self.position();
        let place = self.with_place(|place| {
            place.at = at;
            let missed = std::mem::take(&mut place.missed);
            place.dirty |= missed > 0;
            (place.lost, missed)
        });
        let (lost_before, missed) = place.ok_or_else(|| lost(&self.name))?;
        batch.missed += missed;
        if lost_before > at {
            self.from = lost_before;
            self.at = self.inner.follow.places.lock().points.needs(lost_before).min(lost_before);
            // What was given up meanwhile is not known any more.
            for (_, mut lane) in self.lanes.drain() {
                batch.gone.extend((0..lane.numbers.len() as u32).filter_map(|c| lane.give_up(c)));
            }
            self.events.clear();
            self.seen = 0;
            self.fetched.clear();
            self.rest.clear();
        }
        Ok(())
    }

    /// Behind what was given.
    fn position(&self) -> u64 {
        if self.rest.is_empty() { self.at.max(self.from) } else { self.rest_of }
    }

    /// Reads what is written by now. `false`: there is nothing, or it cannot be read now.
    fn fetch(&mut self) -> Result<bool, crate::TsdbError> {
        let below = self.inner.written_below();
        if self.at >= below {
            return Ok(false);
        }
        // After it is known how far the log may be read: whatever was given up before that is among them.
        let gone = self.inner.follow.gone.lock();
        self.events.extend(gone.since(&mut self.seen).map(|e| ((e.until, e.group), e)));
        drop(gone);
        let seen = self.seen;
        let heap_bytes = self.fetches.is_multiple_of(SWEEP).then(|| self.heap_bytes());
        self.with_place(|place| {
            place.seen = Some(seen);
            place.heap_bytes = heap_bytes.unwrap_or(place.heap_bytes);
        });
        let fetched = &mut self.fetched;
        fetched.clear();
        let mut until = below;
        let (from, to) = (record::head_key(self.at), record::head_key(below));
        self.inner.db.scan(Family::Head, &from, Some(&to), |key, value| {
            let Some(seq) = record::head_seq(key) else { return true };
            if fetched.bytes.len() >= FETCH {
                until = seq;
                return false;
            }
            fetched.bytes.extend_from_slice(value);
            fetched.records.push((seq, fetched.bytes.len()));
            true
        })?;
        fetched.until = until;
        self.fetches += 1;
        if self.fetches.is_multiple_of(SWEEP) {
            let inner = &self.inner;
            self.lanes.retain(|group, lane| lane.given > 0 || inner.group(*group).is_some());
        }
        Ok(true)
    }

    /// Brings what columns were given up before the record `seq`.
    fn pass_events(&mut self, seq: u64, batch: &mut Tailed) {
        while let Some(event) = self.events.first_entry().filter(|e| e.key().0 <= seq).map(|e| e.remove()) {
            if let Some(lane) = self.lanes.get_mut(&event.group) {
                batch.gone.extend(event.columns.iter().filter_map(|c| lane.give_up(*c)));
            }
        }
    }

    /// Takes the next records in until there is enough, or all that was fetched is.
    fn take_in(&mut self, most: usize, batch: &mut Tailed) {
        while batch.samples.len() < most
            && let Some((seq, bytes)) = self.fetched.take()
        {
            self.pass_events(seq, batch);
            self.at = seq + 1;
            let before = batch.samples.len();
            // Out of the way, to be read while all else may change.
            let all = std::mem::take(&mut self.fetched.bytes);
            self.take_record(seq, &all[bytes], batch);
            self.fetched.bytes = all;
            if batch.samples.len() > most {
                // What came together stays together, unless it alone is more.
                self.rest = batch.samples.split_off(if before > 0 { before } else { most });
                self.rest_of = seq;
                return;
            }
        }
        if self.fetched.is_empty() {
            self.at = self.at.max(self.fetched.until);
        }
    }

    fn take_record(&mut self, seq: u64, bytes: &[u8], batch: &mut Tailed) {
        let silent = seq < self.from;
        match (record::group_of(bytes), record::decode(bytes)) {
            (Some(group), Some(Record::Row(row))) => {
                let lane = self.lanes.entry(group).or_default();
                let Some(row) = lane.read(row) else {
                    batch.missed += u64::from(!silent);
                    return;
                };
                if silent {
                    return;
                }
                let wanted = row.layout.iter().chain(&row.stale).copied();
                let unknown: Vec<u32> = wanted.filter(|c| lane.number(*c) == NO_NUMBER).collect();
                if !unknown.is_empty() {
                    self.tell(seq, group, unknown, batch);
                }
                self.give_row(group, &row, batch);
            }
            (_, Some(Record::Side(samples))) => {
                for s in &samples {
                    self.lanes.entry(s.group).or_default().note_start(s.column, s.timestamp, &s.value);
                }
                if !silent {
                    self.give_side(seq, samples, batch);
                }
            }
            (_, Some(Record::Exemplars(_))) if silent => {}
            (_, Some(Record::Exemplars(exemplars))) => {
                for (group, column, exemplar) in exemplars {
                    if let Some(number) = self.number(seq, group, column, batch) {
                        batch.exemplars.push((number, exemplar));
                    }
                }
            }
            _ => batch.missed += u64::from(!silent),
        }
    }

    fn give_row(&mut self, group: u32, row: &Row, batch: &mut Tailed) {
        let Some(lane) = self.lanes.get(&group) else { return };
        let timestamp = row.timestamp;
        batch.samples.reserve(row.layout.len() + row.stale.len());
        for (column, value, start) in lane.samples(row) {
            let series = lane.number(column);
            if series == NO_NUMBER {
                continue;
            }
            batch.samples.push(TailSample { series, timestamp, start, value: TailValue::Float(value) });
        }
    }

    fn give_side(&mut self, seq: u64, samples: Vec<SideSample>, batch: &mut Tailed) {
        for s in samples {
            let value = match s.value {
                SideValue::Float(v) => TailValue::Float(v),
                SideValue::Histogram(h) => TailValue::Histogram(h),
                SideValue::Start(_) => continue,
            };
            let Some(series) = self.number(seq, s.group, s.column, batch) else { continue };
            let marker = matches!(value, TailValue::Float(v) if narthex_model::is_stale(v));
            let lane = self.lanes.get(&s.group).filter(|_| !marker);
            let start = lane.map_or(0, |lane| lane.start(s.column, s.timestamp));
            batch.samples.push(TailSample { series, timestamp: s.timestamp, start, value });
        }
    }

    /// The number of a column's series, which is told if need be.
    fn number(&mut self, seq: u64, group: u32, column: u32, batch: &mut Tailed) -> Option<u32> {
        let known = |tail: &LogTail| tail.lanes.get(&group).map(|l| l.number(column)).filter(|n| *n != NO_NUMBER);
        known(self).or_else(|| {
            self.tell(seq, group, vec![column], batch);
            known(self)
        })
    }

    /// Tells the series of columns as they were at the record `seq`.
    fn tell(&mut self, seq: u64, group: u32, columns: Vec<u32>, batch: &mut Tailed) {
        let lane = self.lanes.entry(group).or_default();
        let mut found = 0;
        for part in columns.chunks(LOOK_UP) {
            for (column, labels, first_minute) in look_up(&self.inner, seq, group, part) {
                let number = self.numbers.new_one();
                lane.set_number(column, number, first_minute);
                batch.series.push((number, labels));
                found += 1;
            }
        }
        // Its samples are left out.
        batch.missed += u64::from(found < columns.len());
    }

    fn hand_over(&self) {
        let due = |place: &mut Place| place.dirty && place.handed.is_none_or(|t| t.elapsed() >= SETTLE_EVERY);
        if self.with_place(due) == Some(true) {
            self.inner.settle_tails();
        }
    }

    /// Bytes on the heap, about.
    fn heap_bytes(&self) -> usize {
        let lanes: usize = self.lanes.values().map(Lane::heap_bytes).sum();
        let events: usize = self.events.values().map(|e| e.columns.len() * 4 + 64).sum();
        lanes + events + self.lanes.allocation_size() + self.fetched.bytes.capacity() + self.numbers.free.capacity() * 4
    }
}

/// The series that these columns were at the record `seq`, as far as they are known.
fn look_up(inner: &Inner, seq: u64, group: u32, columns: &[u32]) -> Vec<gone::Found> {
    let (mut found, mut before): (Vec<_>, BTreeMap<u64, Vec<u32>>) = (Vec::new(), BTreeMap::new());
    {
        // Under its lock no column is given up.
        let cell = inner.group(group);
        let guard = cell.as_ref().map(|cell| cell.lock());
        let gone = inner.follow.gone.lock();
        let registry = inner.registry.read();
        for c in columns {
            match (gone.next_of(group, *c, seq), &guard) {
                (Some(until), _) => before.entry(until).or_default().push(*c),
                (None, Some(group)) => {
                    let series = group.series(*c).and_then(|id| registry.labels_and_start(id));
                    found.extend(series.map(|(labels, first_minute, _)| (*c, labels, first_minute)));
                }
                (None, None) => {}
            }
        }
    }
    for (until, columns) in before {
        found.extend(gone::labels(&inner.db, until, group, &columns).unwrap_or_default());
    }
    found
}

impl Tail for LogTail {
    fn next(&mut self, most: usize, wait: Duration) -> Result<Tailed, StorageError> {
        let until = Instant::now() + wait;
        let most = most.max(1);
        let mut batch = Tailed::default();
        loop {
            self.check(&mut batch)?;
            self.hand_over();
            if !self.rest.is_empty() {
                let more = self.rest.split_off(self.rest.len().min(most));
                batch.samples = std::mem::replace(&mut self.rest, more);
                break;
            }
            // Numbers that are free after this batch are given again only in the next.
            self.take_in(most, &mut batch);
            if batch.samples.len() >= most || !self.rest.is_empty() {
                break;
            }
            if !self.fetched.is_empty() {
                continue;
            }
            match self.fetch() {
                Ok(true) if batch.samples.is_empty() && Instant::now() > until + RETRY => {
                    // A long way through what is read only to understand the rest.
                    break;
                }
                Ok(true) => continue,
                Ok(false) if !batch.samples.is_empty() || !batch.exemplars.is_empty() => break,
                Ok(false) => {
                    // What was settled is not to wait for what comes.
                    let dirty = self.with_place(|place| place.dirty) == Some(true);
                    let pause = if dirty { until.min(Instant::now() + SETTLE_EVERY) } else { until };
                    if !self.inner.wait_for_records(self.at, pause) && Instant::now() >= until {
                        break;
                    }
                }
                Err(e) => {
                    tracing::debug!(error = crate::writer::chain(&e), "the log cannot be read now");
                    self.inner.wait_for_records(u64::MAX, Instant::now() + RETRY);
                    if Instant::now() >= until {
                        break;
                    }
                }
            }
        }
        self.numbers.free.extend(&batch.gone);
        batch.position = self.position();
        self.given = self.given.max(batch.position);
        Ok(batch)
    }

    fn settle(&mut self, position: u64) {
        let position = position.min(self.given);
        self.with_place(|place| {
            if position > place.settled {
                place.settled = position;
                place.dirty = true;
            }
        });
        self.hand_over();
    }

    fn lag(&self) -> TailLag {
        let records = self.inner.written_below().saturating_sub(self.position());
        let places = self.inner.follow.places.lock();
        TailLag { records, bytes: self.inner.held_bytes(&places, &self.name) }
    }
}

impl Drop for LogTail {
    fn drop(&mut self) {
        let dirty = self.with_place(|place| {
            (place.at, place.seen) = (place.settled, None);
            place.dirty
        });
        if dirty == Some(true) && !self.inner.closed.load(Ordering::Acquire) {
            self.inner.settle_tails();
        }
    }
}
