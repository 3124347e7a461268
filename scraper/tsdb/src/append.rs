//! Taking samples: scrapes of groups, and batches of series with timestamps of their own.
//!
//! A row later than all rows of its group goes the fast way, and so do further columns of the newest row. Everything else (a row at an older time, samples with
//! own timestamps, histograms) is judged sample by sample as Prometheus does (`memSeries.appendable`) and goes beside
//! the rows ([`crate::side`]).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use narthex_model::{Labels, is_stale, stale_nan};
use narthex_storage::{
    AppendOutcome, Appendable, Budget, ErrorKind, GroupAppender, GroupKey, OwnSample, Place, PlacedSample, Refusal,
    ScrapeRow, SeriesSpec, Slot, StorageError, Why, WriteBatch,
};
use parking_lot::Mutex;

use crate::Store;
use crate::budget::Asked;
use crate::codec::MAX_COLUMN;
use crate::db::{Family, Op};
use crate::exemplars::Added;
use crate::group::{Group, NO_COLUMN};
use crate::judge::Standing;
use crate::record::{self, GroupPart, GroupTable, SideSample, SideValue, TableWriter};
use crate::row::ABSENT_BITS;
use crate::series::{Home, SeriesId, minute};
use crate::side::Side;
use crate::store::Inner;

/// So many closed windows of a group may wait to be written.
const MAX_CLOSING: usize = 2;

/// Prometheus's head takes no samples that are older than this against the newest one of all, unless late ones are
/// allowed. So counters' starts that are older are not stored as samples of 0, and pages are told.
const MAX_LATENESS_MS: i64 = 3_600_000;

/// What became of one sample that was judged by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Taken,
    /// The very same sample is there: accepted, not stored.
    Known,
    OutOfOrder,
    Duplicate,
    TooOld,
}

/// One in a count of what runs, for as long as this lives.
struct Running<'a>(&'a std::sync::atomic::AtomicU64);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What an append brought, and what the log has to hold of it.
pub(crate) struct Intake<'a> {
    _running: Running<'a>,
    inner: &'a Inner,
    outcome: AppendOutcome,
    ops: Vec<Op>,
    side: Vec<SideSample>,
    /// With groups and columns; only where somebody follows.
    exemplars: Vec<(u32, u32, narthex_model::Exemplar)>,
    newest: i64,
    /// New series begin no later than this: some of what is appended has a time of its own, and may come first.
    pub begins: i64,
    /// The time of the newest sample of all before this append, or before the request that it is a part of.
    pub newest_before: i64,
    stored: u64,
    /// Of them histograms.
    histograms: u64,
}

impl<'a> Intake<'a> {
    pub fn new(inner: &'a Inner) -> Intake<'a> {
        inner.figures.appending.fetch_add(1, Ordering::Relaxed);
        Intake {
            _running: Running(&inner.figures.appending),
            inner,
            outcome: AppendOutcome::default(),
            ops: Vec::new(),
            side: Vec::new(),
            exemplars: Vec::new(),
            newest: i64::MIN,
            begins: i64::MAX,
            newest_before: inner.max_time.load(Ordering::Relaxed),
            stored: 0,
            histograms: 0,
        }
    }

    /// Appends what is in `group`'s columns at one time. `columns` as in [`Group::append`].
    pub fn row(&mut self, group: &mut Group, t: i64, columns: Option<Vec<u32>>, values: &[f64], stale: Vec<u32>) {
        let special = |v: &f64| v.is_nan() && (is_stale(*v) || v.to_bits() == ABSENT_BITS);
        if t == group.last_time && !group.window.is_empty() {
            return self.more_columns(group, columns, values, stale);
        }
        let late = t <= group.last_time || group.ahead.values().any(|ahead| t <= *ahead);
        if late || values.iter().any(special) {
            return self.mixed_row(group, t, columns, values, stale);
        }
        if values.is_empty() && stale.is_empty() {
            return;
        }
        self.outcome.appended += values.len() as u64;
        self.push_row(group, t, columns, values, stale);
    }

    fn push_row(&mut self, group: &mut Group, t: i64, columns: Option<Vec<u32>>, values: &[f64], stale: Vec<u32>) {
        self.log_new_series(group, t);
        self.inner.rotate_if_full(group, t);
        self.before_row();
        let seq = self.inner.log_seq();
        self.stored += values.len() as u64;
        let bytes = group.append(seq, t, columns, values, stale);
        self.count_doubles(group, t, values);
        self.newest = self.newest.max(t);
        self.ops.push(Op::Put(Family::Head, record::head_key(seq), bytes));
    }

    /// Counts what another group has otherwise. Both are stored, and one of them is answered.
    fn count_doubles(&mut self, group: &mut Group, t: i64, values: &[f64]) {
        let doubles = self.inner.doubles.count(group, t, values);
        if doubles > 0 {
            self.outcome.appended = self.outcome.appended.saturating_sub(doubles);
            self.outcome.duplicate += doubles;
            self.inner.figures.duplicates.fetch_add(doubles, Ordering::Relaxed);
        }
    }

    /// Samples at the time of the newest row: a sender may cut a page anywhere.
    #[inline(never)]
    fn more_columns(&mut self, group: &mut Group, columns: Option<Vec<u32>>, values: &[f64], stale: Vec<u32>) {
        let columns = columns.or_else(|| group.layout().map(|l| l.to_vec())).unwrap_or_default();
        let stale_there = group.window.newest_stale();
        let (mut new_columns, mut new_values, mut new_stale) = (Vec::new(), Vec::new(), Vec::new());
        let mut others = Vec::new();
        let markers = stale.into_iter().map(|c| (c, stale_nan()));
        for (c, v) in columns.into_iter().zip(values.iter().copied()).chain(markers) {
            if v.to_bits() == ABSENT_BITS || !group.may_join(c, &stale_there) {
                others.push((c, v));
            } else if is_stale(v) {
                new_stale.push(c);
            } else {
                new_columns.push(c);
                new_values.push(v);
            }
        }
        let t = group.last_time;
        if !new_columns.is_empty() || !new_stale.is_empty() {
            self.outcome.appended += new_values.len() as u64;
            self.log_new_series(group, t);
            self.before_row();
            let seq = self.inner.log_seq();
            self.stored += new_values.len() as u64;
            let bytes = group.extend(new_columns, &new_values, new_stale);
            self.ops.push(Op::Put(Family::Head, record::head_key(seq), bytes));
        }
        for (c, v) in others {
            self.offer(group, c, t, SideValue::Float(v));
        }
    }

    /// A row of which some or all samples cannot go with the rows.
    #[inline(never)]
    fn mixed_row(&mut self, group: &mut Group, t: i64, columns: Option<Vec<u32>>, values: &[f64], stale: Vec<u32>) {
        let columns = columns.or_else(|| group.layout().map(|l| l.to_vec())).unwrap_or_default();
        let (mut plain_columns, mut plain, mut plain_stale) = (Vec::new(), Vec::new(), Vec::new());
        let markers = stale.iter().map(|c| (*c, stale_nan()));
        for (c, v) in columns.iter().copied().zip(values.iter().copied()).chain(markers) {
            let late = t <= group.last_time || group.ahead.get(&c).is_some_and(|ahead| t <= *ahead);
            if !late {
                group.ahead.remove(&c);
            }
            if late || v.to_bits() == ABSENT_BITS {
                self.offer(group, c, t, SideValue::Float(v));
            } else if is_stale(v) {
                plain_stale.push(c);
            } else {
                plain_columns.push(c);
                plain.push(v);
            }
        }
        if !plain.is_empty() || !plain_stale.is_empty() {
            self.outcome.appended += plain.len() as u64;
            self.push_row(group, t, Some(plain_columns), &plain, plain_stale);
        }
    }

    /// Judges one sample and stores it beside the rows.
    pub fn offer(&mut self, group: &mut Group, column: u32, t: i64, value: SideValue) {
        self.offer_after(group, column, t, value, i64::MAX);
    }

    /// The same of a request's sample, when `before` is the time of the newest one that the series had before the
    /// request. What is later than that and contradicts only the request itself is left out without telling whoever
    /// sent it, as Prometheus does, which looks at it twice and the second time only counts.
    pub fn offer_after(&mut self, group: &mut Group, column: u32, t: i64, value: SideValue, before: i64) {
        let Some(id) = group.columns.get(column as usize).copied() else { return };
        let marker = matches!(&value, SideValue::Float(v) if is_stale(*v));
        let is_histogram = matches!(&value, SideValue::Histogram(_));
        let sample = SideSample { group: group.id, column, timestamp: t, value };
        let verdict = self.judge(group, id, &sample);
        let outcome = &mut self.outcome;
        match verdict {
            Verdict::Taken | Verdict::Known => outcome.appended += u64::from(!marker),
            // Markers that come too late are left out quietly, as Prometheus does.
            _ if marker || t > before => {}
            Verdict::OutOfOrder => outcome.out_of_order += 1,
            Verdict::Duplicate => outcome.duplicate += 1,
            Verdict::TooOld => outcome.too_old += 1,
        }
        match verdict {
            Verdict::Taken => {
                self.log_new_series(group, t);
                self.note_early(group, id, t);
                group.last_append = std::time::Instant::now();
                self.newest = self.newest.max(t);
                self.stored += u64::from(!marker);
                self.histograms += u64::from(is_histogram);
                take_side(group, &mut self.inner.side.lock(), id, &sample);
                self.side.push(sample);
            }
            Verdict::Known => {}
            _ if marker => {}
            refused => self.refuse(id, t, refused, is_histogram, t <= before),
        }
    }

    /// The time of the newest sample that the column's series has in order; the least where it has none.
    pub fn newest_of(&self, group: &Group, column: u32) -> i64 {
        self.inner.newest_of(group, column)
    }

    fn refuse(&mut self, id: SeriesId, t: i64, verdict: Verdict, is_histogram: bool, told: bool) {
        let figures = &self.inner.figures;
        let (counter, what) = match (verdict, is_histogram) {
            (Verdict::Duplicate, _) => (&figures.duplicates, "duplicate sample for timestamp"),
            (Verdict::TooOld, false) => (&figures.too_old, "too old sample"),
            (Verdict::TooOld, true) => (&figures.histograms_too_old, "too old sample"),
            (_, false) => (&figures.out_of_order, "out of order sample"),
            (_, true) => (&figures.histograms_out_of_order, "out of order sample"),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if told && self.outcome.first_refusal.is_none() {
            let labels = self.inner.registry.read().labels(id).map(|l| l.to_string()).unwrap_or_default();
            self.outcome.first_refusal = Some(format!("{what}: series {labels}, timestamp {t}"));
        }
    }

    /// Notes that a new series was refused.
    pub fn refuse_series(&mut self, why: &StorageError) {
        if self.outcome.first_refusal.is_none() {
            self.outcome.first_refusal = Some(why.to_string());
        }
    }

    fn judge(&self, group: &Group, id: SeriesId, sample: &SideSample) -> Verdict {
        let t = sample.timestamp;
        let newest = match self.inner.standing(group, id, sample.column, t, &sample.value) {
            // To store what blocks have twice does no harm, to refuse it does.
            Standing::New | Standing::Unknown => return Verdict::Taken,
            Standing::Same => return Verdict::Known,
            Standing::Other(_) => return Verdict::Duplicate,
            Standing::Late(newest) => newest,
        };
        self.inner.observer.tell(crate::Took::Lateness, newest.saturating_sub(t) as f64 / 1000.0);
        match self.inner.lateness(t, self.newest_before) {
            Some(Why::TooOld) => Verdict::TooOld,
            Some(_) => Verdict::OutOfOrder,
            None => {
                let figures = &self.inner.figures;
                let is_histogram = matches!(&sample.value, SideValue::Histogram(_));
                let late = if is_histogram { &figures.late_histograms } else { &figures.late };
                late.fetch_add(1, Ordering::Relaxed);
                Verdict::Taken
            }
        }
    }

    /// Series are in the log before their first sample, which is at `t`.
    fn log_new_series(&mut self, group: &mut Group, t: i64) {
        if group.unlogged.is_empty() {
            return;
        }
        let mut registry = self.inner.registry.write();
        let mut table = TableWriter::default();
        group.table_changed = true;
        for c in group.unlogged.drain(..) {
            let id = group.columns[c as usize];
            registry.note_time(id, t.min(self.begins));
            if let Some(labels) = registry.index.label_texts(id) {
                table.add_pairs(c, id, registry.first_minute(id), labels);
            }
        }
        drop(registry);
        let key = record::group_key(group.id, GroupPart::Added, self.inner.seq());
        self.ops.push(Op::Put(Family::Series, key, table.finish()));
        let mut next = Vec::new();
        crate::wire::put_u64(&mut next, u64::from(self.inner.next_series.load(Ordering::Relaxed)));
        self.ops.push(Op::Put(Family::Meta, crate::recover::NEXT_SERIES_KEY.into(), next));
    }

    /// Notes that a series has a sample from before its beginning, as far as that was known.
    fn note_early(&self, group: &mut Group, id: SeriesId, t: i64) {
        if minute(t) < self.inner.registry.read().first_minute(id) {
            self.inner.registry.write().note_time(id, t);
            group.note_begins();
        }
    }

    /// Before a row: for those who follow, what of a series comes first is first in the log.
    fn before_row(&mut self) {
        if self.inner.follow.is_followed() {
            self.end_side();
        }
    }

    fn end_side(&mut self) {
        if !self.side.is_empty() {
            let seq = {
                let mut side = self.inner.side.lock();
                let seq = self.inner.log_seq();
                side.start_seq.get_or_insert(seq);
                seq
            };
            self.ops.push(Op::Put(Family::Head, record::head_key(seq), record::encode_side(&self.side)));
            self.side.clear();
        }
    }

    /// Hands what is to be logged to the writer. To be called under the lock of the group that it concerns.
    pub fn log(&mut self) -> Result<(), StorageError> {
        self.end_side();
        if !self.exemplars.is_empty() {
            let key = record::head_key(self.inner.log_seq());
            self.ops.push(Op::Put(Family::Head, key, record::encode_exemplars(&self.exemplars)));
            self.exemplars.clear();
        }
        if self.ops.is_empty() {
            return Ok(());
        }
        let durable = self.inner.writer.submit(std::mem::take(&mut self.ops))?;
        self.outcome.durable = Some(match self.outcome.durable.take() {
            None => durable,
            // The writer keeps the order, so the later one is done last; but an earlier failure must be told.
            Some(before) => Box::pin(async move { before.await.and(durable.await) }),
        });
        Ok(())
    }

    pub fn finish(mut self) -> AppendOutcome {
        self.inner.max_time.fetch_max(self.newest, Ordering::Relaxed);
        self.inner.figures.samples.fetch_add(self.stored - self.histograms, Ordering::Relaxed);
        self.inner.figures.histogram_samples.fetch_add(self.histograms, Ordering::Relaxed);
        std::mem::take(&mut self.outcome)
    }
}

impl Drop for Intake<'_> {
    /// What was taken before something failed is in memory, and rows that follow are told by the difference to it.
    fn drop(&mut self) {
        if !(self.ops.is_empty() && self.side.is_empty() && self.exemplars.is_empty()) {
            drop(self.log());
        }
    }
}

/// Puts a sample beside the rows.
pub(crate) fn take_side(group: &mut Group, side: &mut Side, id: SeriesId, sample: &SideSample) {
    side.insert(id, sample);
    let bits = match &sample.value {
        SideValue::Float(v) => Some(v.to_bits()),
        SideValue::Histogram(_) => None,
        SideValue::Start(_) => return,
    };
    let t = sample.timestamp;
    let in_rows = group.last_sample(sample.column).map(|l| l.0);
    let beside = side.series.get(&id).and_then(|s| s.last).map(|l| l.0);
    if in_rows.into_iter().chain(beside).all(|last| t > last) {
        side.advance(id, t, bits);
        group.ahead.insert(sample.column, t);
    }
}

impl Inner {
    /// Ends the group's window when it is full, or when a row at `t` would make it too long.
    fn rotate_if_full(&self, group: &mut Group, t: i64) {
        let rows = group.window.rows();
        if rows == 0 {
            return;
        }
        let (full, bytes, span) = {
            let options = self.options.read();
            (options.window_rows.clamp(2, MAX_COLUMN), options.window_bytes, options.window_span.as_millis() as i64)
        };
        // The first window of a group ends early, each group's at another time over the whole length of a window, so
        // that at any time as many are nearly full as nearly empty.
        let is_first = group.floor == i64::MIN && group.closing.is_empty();
        let limit = match is_first {
            true => (1 + (group.id as usize).wrapping_mul(0x9e37_79b1) % full).max(full / 8),
            false => full,
        };
        let long = group.window.times.first().is_some_and(|first| t.saturating_sub(*first) >= span);
        let heavy = rows >= full / 8 && group.is_heavy(bytes);
        if rows < limit && !long && !heavy {
            return;
        }
        // While closing lags behind (a full disk, say), windows grow instead of becoming more.
        if group.closing.len() < MAX_CLOSING || rows >= MAX_COLUMN {
            group.rotate();
            self.maintenance.request(group.id);
        }
    }

    pub(crate) fn check_open(&self) -> Result<(), StorageError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StorageError::new(ErrorKind::Unavailable, "the store is closed"));
        }
        self.writer.refusal().map_or(Ok(()), Err)
    }

    /// The group of that key, made where there is none.
    pub(crate) fn open_group(&self, key: &str) -> Result<Arc<Mutex<Group>>, StorageError> {
        let find = |groups: &crate::store::Groups| groups.by_key.get(key).and_then(|id| groups.get(*id));
        if let Some(group) = find(&self.groups.read()) {
            return Ok(group);
        }
        let mut groups = self.groups.write();
        if let Some(group) = find(&groups) {
            return Ok(group);
        }
        // Numbers are not used again: blocks may hold them.
        let id = groups.list.len() as u32;
        let table = GroupTable { key, series: &[] }.encode();
        drop(self.writer.submit(vec![Op::Put(Family::Series, record::group_key(id, GroupPart::Table, 0), table)])?);
        Ok(groups.insert(Group::new(id, key.into())))
    }

    /// The column of a series in a group, made where there is none.
    pub(crate) fn open_column(&self, group: &mut Group, spec: SeriesSpec<'_>) -> Result<u32, StorageError> {
        let SeriesSpec { labels, budget } = spec;
        let column_here = |r: &crate::series::Registry, id| r.homes(id).find(|h| h.group == group.id);
        {
            let registry = self.registry.read();
            if let Some(home) = registry.find(labels).and_then(|id| column_here(&registry, id)) {
                return Ok(home.column);
            }
        }
        let mut registry = self.registry.write();
        let found = registry.find(labels);
        if let Some(home) = found.and_then(|id| column_here(&registry, id)) {
            return Ok(home.column);
        }
        let in_group = group.columns.len() - group.free.len();
        let (new, in_store) = (found.is_none(), registry.len());
        let asked = Asked { key: &group.key, labels, budget, new, in_store, in_group };
        if let Err(e) = self.budgets.check(&self.options.read(), &asked) {
            self.figures.series_refused.fetch_add(1, Ordering::Relaxed);
            return Err(e);
        }
        self.budgets.add(&group.key, 1);
        let column = group.add_column(crate::group::NO_SERIES);
        let home = Home { group: group.id, column };
        let id = match found {
            Some(id) => {
                registry.add_home(id, home);
                self.doubles.add(id);
                id
            }
            None => {
                let id = self.next_series.fetch_add(1, Ordering::Relaxed);
                self.figures.series_created.fetch_add(1, Ordering::Relaxed);
                registry.insert(labels, id, home, i32::MAX);
                id
            }
        };
        group.set_column(column, id);
        group.unlogged.push(column);
        Ok(column)
    }
}

impl Appendable for Store {
    fn group(&self, key: &GroupKey) -> Result<Box<dyn GroupAppender>, StorageError> {
        self.inner.check_open()?;
        let group = self.inner.open_group(&key.0)?;
        let owner = {
            let mut group = group.lock();
            group.owner += 1;
            group.slots = Vec::new();
            group.retired = Default::default();
            group.parked = Default::default();
            group.caller_layout = 0;
            group.owner
        };
        Ok(Box::new(Appender { inner: self.inner.clone(), group, owner, slot_of: Vec::new() }))
    }

    fn write(&self, batch: &WriteBatch) -> Result<AppendOutcome, StorageError> {
        self.inner.check_open()?;
        crate::remote::write(&self.inner, batch)
    }

    fn places(&self, labels: &[&Labels]) -> Vec<Option<Place>> {
        crate::remote::places(&self.inner, labels)
    }

    fn write_placed(&self, samples: &[PlacedSample], lost: &mut Vec<usize>) -> Result<AppendOutcome, StorageError> {
        self.inner.check_open()?;
        crate::remote::write_placed(&self.inner, samples, lost)
    }

    fn would_take(&self, placed: &[PlacedSample], lost: &mut Vec<usize>) -> bool {
        crate::judge::would_take(&self.inner, placed, lost)
    }

    fn judge(&self, batch: &WriteBatch, exemplars: bool, most: usize) -> Vec<Refusal> {
        crate::judge::judge(&self.inner, batch, exemplars, most)
    }

    fn count_refused(&self, refused: &[Refusal]) {
        crate::judge::count(&self.inner, refused);
    }

    fn put_metadata(&self, entries: &[(String, narthex_model::Metadata)]) {
        if let Some(op) = self.inner.metadata.put(entries) {
            // Metadata that cannot be written is still served, and written with its next change.
            drop(self.inner.writer.submit(op));
        }
    }
}

struct Appender {
    inner: Arc<Inner>,
    group: Arc<Mutex<Group>>,
    owner: u64,
    /// The slot of each column, or `NO_COLUMN`.
    slot_of: Vec<u32>,
}

impl Appender {
    /// Gives columns back to slots that are appended to although their series were taken for ended.
    fn wake(&mut self, group: &mut Group, row: &ScrapeRow<'_>) -> Result<(), StorageError> {
        let own = row.own.iter().map(|o| &o.slot);
        // Those of a layout that was appended before were looked at then; retiring slots ends the layout.
        let known = row.layout != 0 && row.layout == group.caller_layout;
        let slots = if known { &[] } else { row.slots };
        let all = slots.iter().chain(row.stale).chain(row.histograms.iter().map(|h| &h.0)).chain(own);
        for slot in all {
            group.retired.remove(slot);
            if let Some(labels) = group.parked.remove(*slot) {
                // It was taken before: budgets are for what is new.
                let budget = Budget { exempt: true, ..Budget::default() };
                let column = self.inner.open_column(group, SeriesSpec { labels: &labels, budget })?;
                group.slots[*slot as usize] = column;
                if self.slot_of.len() <= column as usize {
                    self.slot_of.resize(column as usize + 1, NO_COLUMN);
                }
                self.slot_of[column as usize] = *slot;
                group.caller_layout = 0;
            }
        }
        Ok(())
    }

    /// Stores samples at times of their own, in their order.
    fn own_samples(
        &self,
        intake: &mut Intake<'_>,
        group: &mut Group,
        samples: &[OwnSample],
    ) -> Result<(), StorageError> {
        let mut before = std::collections::HashMap::new();
        let with_zeros = samples.iter().any(|own| own.zero != 0);
        for own in samples {
            let c = Appender::column(&group.slots, own.slot)?;
            if with_zeros {
                let before = *before.entry(c).or_insert_with(|| intake.newest_of(group, c));
                if own.zero != 0 {
                    intake.zero(group, c, own.zero, own.timestamp, own.histogram.as_deref(), before);
                }
            }
            let value = match &own.histogram {
                Some(h) => SideValue::Histogram(h.clone()),
                None => SideValue::Float(own.value),
            };
            // The start of a late sample would be that of those behind it, too.
            let newest = if own.start == 0 { i64::MAX } else { intake.newest_of(group, c) };
            intake.offer(group, c, own.timestamp, value);
            if own.timestamp > newest {
                intake.start(group, c, own.timestamp, own.start);
            }
        }
        Ok(())
    }

    fn column(slots: &[u32], slot: Slot) -> Result<u32, StorageError> {
        slots.get(slot as usize).copied().filter(|c| *c != NO_COLUMN).ok_or_else(|| {
            StorageError::new(ErrorKind::BadRequest, "a slot that was never given out, or retired long ago")
        })
    }

    fn taken_over() -> StorageError {
        StorageError::new(ErrorKind::Unavailable, "another appender took the group over")
    }
}

impl GroupAppender for Appender {
    fn register(&mut self, spec: SeriesSpec<'_>) -> Result<Slot, StorageError> {
        let mut group = self.group.lock();
        if group.owner != self.owner {
            return Err(Appender::taken_over());
        }
        let column = self.inner.open_column(&mut group, spec)?;
        if self.slot_of.len() <= column as usize {
            self.slot_of.resize(column as usize + 1, NO_COLUMN);
        }
        // A column that was given away may have come back with another series.
        let slot = self.slot_of[column as usize];
        if group.slots.get(slot as usize) == Some(&column) {
            // Whatever closes before its samples come is not to give its column away.
            group.retired.remove(&slot);
            return Ok(slot);
        }
        if let Some(slot) = group.parked.remove_labels(spec.labels) {
            group.slots[slot as usize] = column;
            self.slot_of[column as usize] = slot;
            return Ok(slot);
        }
        let slot = group.slots.len() as u32;
        group.slots.push(column);
        self.slot_of[column as usize] = slot;
        Ok(slot)
    }

    fn commit(&mut self, row: &ScrapeRow<'_>) -> Result<AppendOutcome, StorageError> {
        self.inner.check_open()?;
        let (inner, cell) = (self.inner.clone(), self.group.clone());
        let mut group = cell.lock();
        if group.owner != self.owner {
            return Err(Appender::taken_over());
        }
        let group = &mut *group;
        let mut intake = Intake::new(&inner);
        intake.begins = row.timestamp;
        if !group.parked.is_empty() || !group.retired.is_empty() {
            self.wake(group, row)?;
        }
        let column = |slots: &[u32], slot: &Slot| Appender::column(slots, *slot);
        let same = row.layout != 0
            && row.layout == group.caller_layout
            && group.layout().is_some_and(|l| l.len() == row.slots.len());
        let columns = if same {
            None
        } else {
            Some(row.slots.iter().map(|s| column(&group.slots, s)).collect::<Result<Vec<u32>, _>>()?)
        };
        if row.values.len() != row.slots.len() {
            return Err(StorageError::new(ErrorKind::BadRequest, "a row with more slots than values"));
        }
        let mut stale = row.stale.iter().map(|s| column(&group.slots, s)).collect::<Result<Vec<u32>, _>>()?;
        if !stale.is_empty() {
            stale.retain(|c| !row.slots.iter().any(|s| group.slots[*s as usize] == *c));
        }
        for zero in row.zeros {
            let c = column(&group.slots, &zero.slot)?;
            let before = intake.newest_of(group, c);
            intake.zero(group, c, zero.start, row.timestamp, zero.like.as_deref(), before);
        }
        let (first, own) = row.own.split_at(row.own_first.min(row.own.len()));
        self.own_samples(&mut intake, group, first)?;
        // Before the row in the log, so that who reads it knows them when the row comes.
        for (slot, start) in row.start_timestamps {
            let c = column(&group.slots, slot)?;
            intake.start(group, c, row.timestamp, *start);
        }
        let before = group.last_time;
        intake.row(group, row.timestamp, columns, row.values, stale);
        // Only a row that went in as it is leaves the layout that the caller named.
        let whole = group.last_time > before && group.layout().is_some_and(|l| l.len() == row.slots.len());
        group.caller_layout = if whole { row.layout } else { 0 };
        for (slot, histogram) in row.histograms {
            let c = column(&group.slots, slot)?;
            intake.offer(group, c, row.timestamp, SideValue::Histogram(histogram.clone()));
        }
        self.own_samples(&mut intake, group, own)?;
        for (slot, exemplar) in row.exemplars {
            let c = column(&group.slots, slot)?;
            intake.exemplar(group, c, exemplar);
        }
        intake.log()?;
        Ok(intake.finish())
    }

    fn takes(&self, sample: &OwnSample) -> bool {
        let (t, newest_of_all) = (sample.timestamp, self.inner.max_time.load(Ordering::Relaxed));
        let is_late = self.inner.lateness(t, newest_of_all).is_some();
        if is_late && t < newest_of_all.saturating_sub(MAX_LATENESS_MS) {
            return false;
        }
        let group = self.group.lock();
        let column = group.slots.get(sample.slot as usize).copied().filter(|c| *c != NO_COLUMN);
        let Some((column, id)) = column.and_then(|c| Some((c, *group.columns.get(c as usize)?))) else { return true };
        let value = match &sample.histogram {
            Some(h) => SideValue::Histogram(h.clone()),
            None => SideValue::Float(sample.value),
        };
        match self.inner.standing(&group, id, column, t, &value) {
            Standing::New | Standing::Unknown | Standing::Same => true,
            Standing::Other(_) => false,
            Standing::Late(_) => !is_late,
        }
    }

    fn retire(&mut self, slots: &[Slot]) {
        // Their columns are given away when a window closes in which they have no samples.
        let mut group = self.group.lock();
        if group.owner == self.owner {
            let known = group.slots.len();
            group.caller_layout = 0;
            group.retired.extend(slots.iter().filter(|s| (**s as usize) < known));
        }
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        let mut group = self.group.lock();
        if group.owner == self.owner {
            group.slots = Vec::new();
            group.retired = Default::default();
            group.parked = Default::default();
        }
    }
}

impl Intake<'_> {
    /// Puts 0 where a counter started, if that is later than what the series had `before`. `like` is the sample at `t`,
    /// where it is a histogram.
    pub fn zero(
        &mut self,
        group: &mut Group,
        column: u32,
        start: i64,
        t: i64,
        like: Option<&narthex_model::Histogram>,
        before: i64,
    ) {
        let newest_of_all = self.inner.max_time.load(Ordering::Relaxed).max(self.newest);
        let newest_of_all = if newest_of_all == i64::MIN { t } else { newest_of_all };
        let early = start < newest_of_all.saturating_sub(MAX_LATENESS_MS);
        if start >= t || early || start <= before {
            return;
        }
        let value = match like {
            Some(h) => SideValue::Histogram(Arc::new(h.zero_like())),
            None => SideValue::Float(0.0),
        };
        self.offer_after(group, column, start, value, before);
    }

    pub fn start(&mut self, group: &mut Group, column: u32, t: i64, start: i64) {
        let Some(id) = group.columns.get(column as usize).copied() else { return };
        let mut side = self.inner.side.lock();
        if side.series.get(&id).map_or(0, |s| s.start_at(t)) == start {
            return;
        }
        let sample = SideSample { group: group.id, column, timestamp: t, value: SideValue::Start(start) };
        take_side(group, &mut side, id, &sample);
        drop(side);
        self.log_new_series(group, t);
        self.side.push(sample);
    }

    pub fn exemplar(&mut self, group: &mut Group, column: u32, exemplar: &narthex_model::Exemplar) {
        let Some(id) = group.series(column) else { return };
        let Some(labels) = self.inner.registry.read().labels(id) else { return };
        match self.inner.exemplars.lock().add(&labels, exemplar) {
            Added::New(op) => {
                self.inner.figures.exemplars.fetch_add(1, Ordering::Relaxed);
                self.outcome.exemplars += 1;
                self.ops.push(op);
                // A series without samples yet is not in the log.
                if self.inner.follow.is_followed() && !group.unlogged.contains(&column) {
                    self.exemplars.push((group.id, column, exemplar.clone()));
                }
            }
            Added::Known => self.outcome.exemplars += 1,
            Added::Refused => {
                self.inner.figures.exemplars_refused.fetch_add(1, Ordering::Relaxed);
                self.outcome.exemplars_refused += 1;
            }
        }
    }
}
