//! Writing what is in memory to blocks, and forgetting series that have ended.
//!
//! All of it runs under [`Inner::maintenance`], one at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::executor::block_on;
use hashbrown::HashMap;
use narthex_storage::StorageError;
use parking_lot::Mutex;
use roaring::RoaringBitmap;

use crate::blocks::{BesideBuilder, ColumnData, Stretch, StretchKind, Whole, block_key, encode_rows, partition_of};
use crate::codec::Effort;
use crate::db::{Family, Op};
use crate::dead;
use crate::group::{Group, NO_COLUMN, NO_SERIES};
use crate::record::{self, GroupPart, GroupStart, GroupTable, SideValue, TableWriter};
use crate::row::is_absent;
use crate::series::{Home, SeriesId, minute};
use crate::side::SideSeries;
use crate::store::Inner;
use crate::window::{Cells, Window};
use crate::{Took, TsdbError};

/// So many labels of given-away slots are remembered for a group: some hundred bytes each, for slots that hardly ever
/// come back.
const PARKED: usize = 32;

/// What a window becomes.
struct Closed {
    stretch: Option<Stretch>,
    ops: Vec<Op>,
    /// The columns that have no sample in it.
    idle: Vec<u32>,
    /// Series that have samples but not in the last row, with the minute of their last one.
    ended: Vec<(SeriesId, i32)>,
    /// Series in the last row that had ended in an earlier window.
    went_on: Vec<SeriesId>,
}

/// Where the log begins for samples beside the rows.
pub const SIDE_START_KEY: &[u8] = b"side-start";

impl Inner {
    /// Writes the group's oldest closed window to blocks. `false`: there is none.
    ///
    /// # Errors
    /// When it could not be written; it stays in memory, and in the log.
    pub fn close_window(&self, cell: &Mutex<Group>) -> Result<bool, TsdbError> {
        if cell.lock().closing.is_empty() {
            return Ok(false);
        }
        let done = self.observer.time(Took::WindowClose, || self.close_oldest(cell));
        self.figures.closings_failed.fetch_add(u64::from(done.is_err()), Ordering::Relaxed);
        done
    }

    fn close_oldest(&self, cell: &Mutex<Group>) -> Result<bool, TsdbError> {
        let (id, window, columns, next, following) = {
            let group = cell.lock();
            let Some(window) = group.closing.first().cloned() else { return Ok(false) };
            let after = group.windows().skip(1).find(|w| !w.is_empty());
            let next = after.map_or_else(|| self.seq(), |w| w.start_seq);
            (group.id, window, group.columns.clone(), next, after.cloned())
        };
        let Closed { stretch, ops, idle, ended, went_on } =
            self.encode_window(id, &window, &columns, next, following.as_ref());
        let bytes = ops.iter().map(|op| if let Op::Put(Family::Blocks, k, v) = op { k.len() + v.len() } else { 0 });
        self.figures.block_bytes_written.fetch_add(bytes.sum::<usize>() as u64, Ordering::Relaxed);
        self.db.write(&ops)?;
        self.directory.confirm(&ops);
        self.figures.windows_closed.fetch_add(1, Ordering::Relaxed);
        let mut group = cell.lock();
        group.closing.remove(0);
        self.figures.chunks_removed.fetch_add(window.columns() as u64, Ordering::Relaxed);
        group.floor = group.floor.max(window.end());
        if let Some(stretch) = stretch {
            self.directory.stretches.write().entry(id).or_default().push(stretch);
        }
        let written = &idle;
        group.fresh.retain(|c| written.contains(c));
        if !ended.is_empty() || !went_on.is_empty() {
            self.registry.write().note_ends(&ended, &went_on);
        }
        let start = window.times.first().copied().unwrap_or(i64::MIN);
        self.forget_ended(&mut group, &idle, start, start.saturating_sub(1));
        Ok(true)
    }

    /// `following`: the rows that came after it so far, if any did.
    fn encode_window(
        &self,
        group: u32,
        window: &Window,
        columns: &[SeriesId],
        next_seq: u64,
        following: Option<&Window>,
    ) -> Closed {
        let all: Vec<u32> = (0..window.columns() as u32).collect();
        let cells = window.read(&all, 0..window.rows());
        let mut by_metric: BTreeMap<String, Vec<ColumnData>> = BTreeMap::new();
        let mut idle: Vec<u32> = (window.columns() as u32..columns.len() as u32).collect();
        let (mut ended, mut went_on, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        {
            let side = self.side.lock();
            let registry = self.registry.read();
            for (c, cells) in cells.into_iter().enumerate() {
                let empty = match &cells {
                    Cells::Constant(v) => is_absent(*v),
                    Cells::Dense(_) => false,
                };
                let Some(id) = columns.get(c).copied().filter(|id| *id != NO_SERIES) else { continue };
                if empty {
                    idle.push(c as u32);
                    ends.extend(registry.end(id).map(|end| (c as u32, end)));
                    continue;
                }
                let is_end = |v: &f64| is_absent(*v) || narthex_model::is_stale(*v);
                let last = match &cells {
                    Cells::Dense(values) if values.last().is_some_and(is_end) => {
                        values.iter().rposition(|v| !is_absent(*v)).and_then(|row| window.times.get(row)).copied()
                    }
                    // It ended with the window, or pauses.
                    _ => following.is_some_and(|w| !w.touches(c as u32)).then(|| window.end()),
                };
                if let Some(t) = last {
                    ended.push((id, minute(t)));
                    ends.push((c as u32, minute(t)));
                } else if registry.end(id).is_some() {
                    went_on.push(id);
                }
                let starts = side.series.get(&id).map(|s| s.starts.clone()).unwrap_or_default();
                let Some(name) = registry.metric_name(id) else { continue };
                let column = ColumnData { id, cells, starts };
                match by_metric.get_mut(name) {
                    Some(columns) => columns.push(column),
                    None => {
                        by_metric.insert(name.to_owned(), vec![column]);
                    }
                }
            }
            // Columns without any row in the window.
            for (c, id) in columns.iter().enumerate().skip(window.columns()).filter(|c| *c.1 != NO_SERIES) {
                ends.extend(registry.end(*id).map(|end| (c as u32, end)));
            }
        }
        let start = window.times.first().copied().unwrap_or_default();
        let stretch = Stretch {
            number: window.start_seq,
            kind: StretchKind::Rows,
            start,
            end: window.end(),
            rows: window.rows() as u32,
            is_final: false,
        };
        let (mut ops, mut metrics) = (Vec::new(), Vec::new());
        let whole = by_metric.values().flatten().filter(|c| c.is_whole()).map(|c| c.id).collect();
        for (name, columns) in &by_metric {
            let metric = self.directory.metric_or_new(name, &mut ops);
            if let Some(block) = encode_rows(&window.times, columns, Effort::Fast) {
                let key = block_key(stretch.partition(), metric, group, stretch.number);
                ops.push(Op::Put(Family::Blocks, key, block));
                metrics.push(metric);
            }
        }
        self.figures.blocks_written.fetch_add(metrics.len() as u64, Ordering::Relaxed);
        metrics.sort_unstable();
        let stretch = (!metrics.is_empty()).then_some(stretch);
        if let Some(stretch) = stretch {
            ops.push(stretch.put(group, &window.times, &metrics, &Whole::new(whole)));
        }
        let start = GroupStart { seq: next_seq, last_time: window.end(), ends };
        ops.push(Op::Put(Family::Series, record::group_key(group, GroupPart::Start, 0), start.encode()));
        Closed { stretch, ops, idle, ended, went_on }
    }

    /// Gives away columns (of those in `idle`) whose series have ended before `start`, and brings the group's table
    /// record up to date. None has a sample after `latest`. To be called under the group's lock.
    pub fn forget_ended(&self, group: &mut Group, idle: &[u32], start: i64, latest: i64) {
        if idle.is_empty() && !group.table_changed {
            return;
        }
        let mut slot_of: HashMap<u32, u32> = HashMap::new();
        for (slot, c) in group.slots.iter().enumerate().filter(|s| *s.1 != NO_COLUMN) {
            slot_of.insert(*c, slot as u32);
        }
        let gone: Vec<u32> = {
            let side = self.side.lock();
            let held = |c: &u32| slot_of.get(c).is_some_and(|slot| !group.retired.contains(slot));
            let candidates = idle.iter().filter(|c| !held(c) && !group.unlogged.contains(c));
            let ended = |c: &&u32| group.series(**c).is_some_and(|id| !side.has_samples(id));
            group.idle(candidates.filter(ended).copied().collect(), start)
        };
        if !gone.is_empty() && self.record_dead(group, &gone, latest) {
            let mut side = self.side.lock();
            let mut registry = self.registry.write();
            let mut left = RoaringBitmap::new();
            for c in &gone {
                let id = std::mem::replace(&mut group.columns[*c as usize], NO_SERIES);
                group.free.push(*c);
                group.fresh.remove(c);
                group.ahead.remove(c);
                if let Some(slot) = slot_of.get(c) {
                    group.slots[*slot as usize] = NO_COLUMN;
                    group.retired.remove(slot);
                    if group.parked.len() < PARKED {
                        group.parked.insert(*slot, registry.labels(id).unwrap_or_default());
                    }
                }
                if registry.remove_home(id, Home { group: group.id, column: *c }) {
                    left.insert(id);
                    side.series.remove(&id);
                    self.figures.series_removed.fetch_add(1, Ordering::Relaxed);
                }
                if registry.further_homes(id).next().is_none() {
                    self.doubles.remove(id);
                }
            }
            registry.forget(&left);
            self.budgets.remove(&group.key, gone.len() as u64);
            group.table_changed = true;
        }
        if group.table_changed {
            drop(self.writer.submit(self.table(group)));
        }
    }

    /// The group's table as it is to be written.
    fn table(&self, group: &mut Group) -> Vec<Op> {
        let registry = self.registry.read();
        let mut table = TableWriter::default();
        for (c, id) in group.columns.iter().enumerate() {
            if *id != NO_SERIES
                && !group.unlogged.contains(&(c as u32))
                && let Some(labels) = registry.index.label_texts(*id)
            {
                table.add_pairs(c as u32, *id, registry.first_minute(*id), labels);
            }
        }
        (group.table_changed, group.begins_changed) = (false, false);
        let added = |seq| record::group_key(group.id, GroupPart::Added, seq);
        let table = GroupTable { key: &group.key, series: &table.finish() }.encode();
        vec![
            Op::DeleteRange(Family::Series, added(0), added(self.seq())),
            Op::Put(Family::Series, record::group_key(group.id, GroupPart::Table, 0), table),
        ]
    }

    /// Writes the tables of groups with series that begin earlier than their tables say. The log says so, too, as long
    /// as it has the samples beside the rows that came so early.
    fn write_begins(&self) -> Result<(), StorageError> {
        let groups = self.groups.read().list.clone();
        let mut written = Vec::new();
        for cell in groups.iter().flatten() {
            let mut group = cell.lock();
            if group.begins_changed {
                // By the writer, as older tables of the group may be on their way.
                written.push((cell, self.writer.submit(self.table(&mut group))?));
            }
        }
        for (cell, durable) in written {
            block_on(durable).inspect_err(|_| cell.lock().note_begins())?;
        }
        Ok(())
    }

    /// Writes down which series of these columns have blocks in the group; before they leave memory, so that they can
    /// be found at any moment. `false`: that failed, and they have to stay.
    fn record_dead(&self, group: &Group, gone: &[u32], latest: i64) -> bool {
        let mut batch = dead::Batch::new(group.id);
        {
            let registry = self.registry.read();
            for c in gone {
                let id = group.columns[*c as usize];
                let Some(labels) = registry.index.label_texts(id) else { continue };
                let metric = self.directory.metric(registry.metric_name(id).unwrap_or_default());
                let last = registry.end(id).unwrap_or(minute(latest));
                let last = last.max(group.ahead.get(c).map_or(i32::MIN, |t| minute(*t)));
                batch.add(id, metric, registry.first_minute(id), last, labels);
            }
        }
        self.dead_days.note(&batch);
        let mut ops = batch.finish(self.seq());
        // Before another series gets a column: who follows may be behind.
        let until = self.follow.is_followed().then(|| self.seq());
        if let Some(until) = until {
            let registry = self.registry.read();
            let mut table = TableWriter::default();
            for c in gone {
                let id = group.columns[*c as usize];
                let Some(labels) = registry.index.label_texts(id) else { continue };
                table.add_pairs(*c, id, registry.first_minute(id), labels);
            }
            ops.push(crate::follow::gone::put(until, group.id, table));
        }
        let written = self.db.write(&ops).is_ok();
        if let Some(until) = until.filter(|_| written) {
            self.follow.gone.lock().note(until, group.id, gone);
        }
        written
    }

    /// Writes the samples beside the rows to blocks.
    ///
    /// # Errors
    /// When they could not be written; they stay in memory, and in the log.
    pub fn flush_side(&self) -> Result<(), TsdbError> {
        let (flushing, starts, next) = {
            let mut side = self.side.lock();
            if side.flushing.is_empty() {
                if side.samples == 0 {
                    return Ok(());
                }
                let starts = side.begin_flush();
                let next = if starts.is_empty() { self.seq() } else { self.log_seq() };
                if !starts.is_empty() {
                    side.start_seq = Some(next);
                }
                side.flush_seq = next;
                (side.flushing.clone(), starts, next)
            } else {
                // The last attempt failed.
                (side.flushing.clone(), Vec::new(), side.flush_seq)
            }
        };
        if !starts.is_empty() {
            // Start timestamps outlive the log's beginning.
            drop(self.writer.submit(vec![Op::Put(Family::Head, record::head_key(next), record::encode_side(&starts))]));
        }
        self.write_begins().map_err(|e| TsdbError::Begins(e.to_string()))?;
        let (stretches, mut ops) = self.encode_side(&flushing);
        let mut value = Vec::new();
        crate::wire::put_u64(&mut value, next);
        ops.push(Op::Put(Family::Meta, SIDE_START_KEY.into(), value));
        self.db.write(&ops)?;
        self.directory.confirm(&ops);
        let mut side = self.side.lock();
        let mut directory = self.directory.stretches.write();
        for (group, stretch) in stretches {
            directory.entry(group).or_default().push(stretch);
        }
        side.flushing = Arc::default();
        Ok(())
    }

    fn encode_side(
        &self,
        flushing: &HashMap<SeriesId, SideSeries, foldhash::fast::FixedState>,
    ) -> (Vec<(u32, Stretch)>, Vec<Op>) {
        // Group, partition, metric, series: a block each of the first three.
        type Samples = BTreeMap<SeriesId, SideSeries>;
        let mut sorted: BTreeMap<(u32, u32), BTreeMap<String, Samples>> = BTreeMap::new();
        {
            let registry = self.registry.read();
            for (id, series) in flushing {
                let Some(name) = registry.metric_name(*id) else { continue };
                let mut place = |t: i64, value: SideValue| {
                    let partition = sorted.entry((series.group, partition_of(t))).or_default();
                    let samples = match partition.get_mut(name) {
                        Some(samples) => samples,
                        None => partition.entry(name.to_owned()).or_default(),
                    };
                    let part = samples.entry(*id).or_default();
                    match value {
                        SideValue::Float(v) => part.floats.push((t, v)),
                        SideValue::Histogram(h) => part.histograms.push((t, h)),
                        SideValue::Start(_) => {}
                    }
                };
                series.floats.iter().for_each(|(t, v)| place(*t, SideValue::Float(*v)));
                series.histograms.iter().for_each(|(t, h)| place(*t, SideValue::Histogram(h.clone())));
            }
        }
        let (mut stretches, mut ops) = (Vec::new(), Vec::new());
        for ((group, partition), metrics) in sorted {
            let number = self.seq();
            let (mut start, mut end, mut written) = (i64::MAX, i64::MIN, Vec::new());
            for (name, series) in metrics {
                let metric = self.directory.metric_or_new(&name, &mut ops);
                let mut block = BesideBuilder::new();
                for (id, part) in series {
                    let starts = flushing.get(&id).map(|s| &s.starts[..]).unwrap_or_default();
                    block.floats(id, &part.floats, starts);
                    block.histograms(id, &part.histograms, starts);
                    let times = part.floats.iter().map(|s| s.0).chain(part.histograms.iter().map(|s| s.0));
                    for t in times {
                        (start, end) = (start.min(t), end.max(t));
                    }
                }
                if let Some(block) = block.finish() {
                    ops.push(Op::Put(Family::Blocks, block_key(partition, metric, group, number), block));
                    written.push(metric);
                }
            }
            if !written.is_empty() {
                written.sort_unstable();
                let stretch = Stretch { number, kind: StretchKind::Beside, start, end, rows: 0, is_final: false };
                ops.push(stretch.put(group, &[], &written, &Whole::default()));
                stretches.push((group, stretch));
            }
        }
        (stretches, ops)
    }

    /// Writes everything that is in memory to blocks.
    ///
    /// # Errors
    /// When something could not be written; it stays in memory, and in the log.
    pub fn close_all(&self) -> Result<(), TsdbError> {
        let groups = self.groups.read().list.clone();
        for cell in groups.into_iter().flatten() {
            cell.lock().rotate();
            while self.close_window(&cell)? {}
        }
        // Twice where the last flush had failed and new samples came since.
        self.flush_side()?;
        self.flush_side()
    }

    /// The first log record that is still needed.
    pub fn first_needed_seq(&self) -> u64 {
        let limit = self.next_seq.load(Ordering::Relaxed);
        let groups = self.groups.read().list.clone();
        let in_rows = groups.into_iter().flatten().filter_map(|g| g.lock().first_seq()).min().unwrap_or(limit);
        let side = self.side.lock();
        let beside = if side.flushing.is_empty() { side.start_seq } else { Some(side.kept_seq) };
        limit.min(in_rows).min(beside.unwrap_or(limit))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use narthex_model::{Labels, Matcher};
    use narthex_storage::{Appendable, GroupKey, OwnSample, Queryable, ScrapeRow, SelectRequest, SeriesSpec};

    use crate::{Store, StoreOptions};

    /// The sample that a series begins with comes late, and goes to blocks while the group's window stays open.
    #[test]
    fn when_a_series_begins_outlives_the_log() {
        for restarts_before in [0, 1] {
            let folder = tempfile::tempdir().unwrap();
            let out_of_order_time_window = Duration::from_secs(7200);
            let options = || StoreOptions { out_of_order_time_window, ..StoreOptions::new(folder.path()) };
            let (now, hour) = (10_000_000_000, 3_600_000);
            let mut store = Store::open(options()).unwrap();
            {
                let mut group = store.group(&GroupKey("g".into())).unwrap();
                let slot = group.register(SeriesSpec::new(&Labels::from_pairs([("__name__", "m")]))).unwrap();
                let row = ScrapeRow { timestamp: now, slots: &[slot], values: &[1.0], ..ScrapeRow::default() };
                group.commit(&row).unwrap();
                let late = OwnSample { slot, timestamp: now - hour, value: 4.0, ..OwnSample::default() };
                group.commit(&ScrapeRow { timestamp: now + 1000, own: &[late], ..ScrapeRow::default() }).unwrap();
            }
            for _ in 0..restarts_before {
                drop(store);
                store = Store::open(options()).unwrap();
            }
            store.inner.flush_side().unwrap();
            drop(store);
            let store = Store::open(options()).unwrap();
            let request = SelectRequest::new(vec![Matcher::equal("__name__", "m")], now - 2 * hour, now - hour / 2);
            let found = futures::executor::block_on(store.select(request)).unwrap().collect_sorted().unwrap();
            assert_eq!(found.len(), 1, "{restarts_before} restarts before");
        }
    }
}
