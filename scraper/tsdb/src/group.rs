//! One scrape group in memory: its columns, and the rows that are not in blocks yet.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use narthex_model::Labels;

use crate::record::RowRecord;
use crate::row::{self, Layout, RowState, absent, is_absent};
use crate::series::SeriesId;
use crate::window::{Cells, TailRow, Window};

/// A column that belongs to no series.
pub const NO_SERIES: SeriesId = SeriesId::MAX;
/// A slot whose column was given away.
pub const NO_COLUMN: u32 = u32::MAX;

pub struct Group {
    pub id: u32,
    pub key: Arc<str>,
    /// The series of each column.
    pub columns: Vec<SeriesId>,
    pub free: Vec<u32>,
    /// Columns whose series is not in the log yet.
    pub unlogged: Vec<u32>,
    /// Columns that got their series since the last window was closed: nothing of them is in blocks.
    pub fresh: HashSet<u32, foldhash::fast::FixedState>,
    /// The series are not those of the group's table record.
    pub table_changed: bool,
    /// Series have begun earlier than the group's table record and those after it say, by samples beside the rows.
    pub begins_changed: bool,
    /// Columns with newer samples beside the rows than in them, and how new.
    pub ahead: HashMap<u32, i64, foldhash::fast::FixedState>,
    pub state: RowState,
    layout: Option<Arc<Layout>>,
    /// The columns that came to the newest row later.
    more: Vec<Arc<Layout>>,
    pub window: Window,
    /// Windows that are being written to blocks, oldest first.
    pub closing: Vec<Arc<Window>>,
    /// Of the newest row ever, in blocks or not.
    pub last_time: i64,
    /// Of the newest row that is in blocks.
    pub floor: i64,
    /// Counts the appenders that took the group: only the last one may append.
    pub owner: u64,
    /// The column of each slot of that appender.
    pub slots: Vec<u32>,
    /// Slots whose series the appender does not expect to see again soon.
    pub retired: HashSet<u32, foldhash::fast::FixedState>,
    /// Slots whose columns were given away.
    pub parked: Parked,
    pub last_append: std::time::Instant,
    /// What the caller called the layout of the last row.
    pub caller_layout: u64,
    /// Columns whose series other groups have, too.
    pub doubles: crate::doubles::Places,
}

/// Slots with the labels of their series, found either way.
#[derive(Default)]
pub struct Parked {
    labels: HashMap<u32, Labels, foldhash::fast::FixedState>,
    slots: HashMap<Labels, u32, foldhash::fast::FixedState>,
}

impl Parked {
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Bytes, labels included.
    pub fn heap_bytes(&self) -> usize {
        let labels: usize = self.labels.values().map(Labels::heap_bytes).sum();
        labels + self.labels.allocation_size() + self.slots.allocation_size()
    }

    pub fn insert(&mut self, slot: u32, labels: Labels) {
        if let Some(before) = self.slots.insert(labels.clone(), slot) {
            self.labels.remove(&before);
        }
        self.labels.insert(slot, labels);
    }

    pub fn remove(&mut self, slot: u32) -> Option<Labels> {
        let labels = self.labels.remove(&slot)?;
        self.slots.remove(&labels);
        Some(labels)
    }

    pub fn remove_labels(&mut self, labels: &Labels) -> Option<u32> {
        let slot = self.slots.remove(labels)?;
        self.labels.remove(&slot);
        Some(slot)
    }
}

impl Group {
    pub fn new(id: u32, key: Arc<str>) -> Group {
        Group {
            id,
            key,
            columns: Vec::new(),
            free: Vec::new(),
            unlogged: Vec::new(),
            fresh: HashSet::default(),
            table_changed: false,
            begins_changed: false,
            ahead: HashMap::default(),
            state: RowState::default(),
            layout: None,
            more: Vec::new(),
            window: Window::default(),
            closing: Vec::new(),
            last_time: i64::MIN,
            floor: i64::MIN,
            owner: 0,
            slots: Vec::new(),
            retired: HashSet::default(),
            parked: Parked::default(),
            last_append: std::time::Instant::now(),
            caller_layout: 0,
            doubles: Default::default(),
        }
    }

    /// Notes that a series begins earlier than the group's table says.
    pub fn note_begins(&mut self) {
        (self.table_changed, self.begins_changed) = (true, true);
    }

    /// A column for a series, the number of it.
    pub fn add_column(&mut self, id: SeriesId) -> u32 {
        let column = self.free.pop().unwrap_or(self.columns.len() as u32);
        self.set_column(column, id);
        self.fresh.insert(column);
        column
    }

    /// Puts a series in a certain column.
    pub fn set_column(&mut self, column: u32, id: SeriesId) {
        let c = column as usize;
        if self.columns.len() <= c {
            self.columns.resize(c + 1, NO_SERIES);
            self.state.resize(c + 1);
        }
        self.columns[c] = id;
    }

    pub fn layout(&self) -> Option<&Arc<Layout>> {
        self.layout.as_ref()
    }

    /// The windows in memory, oldest first: those that are being written to blocks, and the open one.
    pub fn windows(&self) -> impl DoubleEndedIterator<Item = &Window> {
        self.closing.iter().map(|w| &**w).chain(std::iter::once(&self.window))
    }

    /// The series of a column, where it has one.
    pub fn series(&self, column: u32) -> Option<SeriesId> {
        self.columns.get(column as usize).copied().filter(|id| *id != NO_SERIES)
    }

    /// Ends the open window; what is appended from now on belongs to the next one.
    pub fn rotate(&mut self) {
        if !self.window.is_empty() {
            self.closing.push(Arc::new(std::mem::take(&mut self.window)));
        }
    }

    /// The sequence number of the first record that is needed to restore what is in memory.
    pub fn first_seq(&self) -> Option<u64> {
        self.windows().find(|w| !w.is_empty()).map(|w| w.start_seq)
    }

    /// Appends a row later than all before, and returns its log record. `columns` are distinct and `values` present;
    /// `columns` may be left out where they are those of the last row. `stale` are columns not among them.
    pub fn append(
        &mut self,
        seq: u64,
        timestamp: i64,
        columns: Option<Vec<u32>>,
        values: &[f64],
        mut stale: Vec<u32>,
    ) -> Vec<u8> {
        debug_assert!(timestamp > self.last_time);
        let number = self.window.rows() as u32;
        self.window.make_room(&self.state);
        if number == 0 {
            self.window.start_seq = seq;
            self.state.reset();
        }
        let changed = columns.filter(|c| self.layout.as_ref().is_none_or(|l| **l != **c)).map(Arc::<Layout>::from);
        let relaid = number == 0 || changed.is_some() || !self.more.is_empty();
        let layout = self.relay(changed);
        stale.sort_unstable();
        let mut code = Vec::with_capacity(layout.len() * 2 + 16);
        row::encode(&layout, values, &mut self.state, &mut code);
        let record = RowRecord {
            group: self.id,
            number,
            timestamp,
            continues: false,
            layout: relaid.then_some(&*layout),
            stale: &stale,
            code: &code,
        }
        .encode();
        let row = TailRow { continues: false, layout, code: code.into(), stale: stale.into() };
        self.window.push(timestamp, row, self.state.last.len());
        self.last_time = timestamp;
        self.last_append = std::time::Instant::now();
        record
    }

    /// The layout of a new row, the one before it where it is not `changed`; columns that it has not become absent.
    fn relay(&mut self, changed: Option<Arc<Layout>>) -> Arc<Layout> {
        let layout = changed.or_else(|| self.layout.clone()).unwrap_or_default();
        let same = self.more.is_empty() && self.layout.as_ref().is_none_or(|l| Arc::ptr_eq(l, &layout));
        if !same {
            self.more.extend(self.layout.take());
            self.state.relayout(&self.more, &layout);
            self.more.clear();
        }
        self.layout = Some(layout.clone());
        layout
    }

    /// Adds columns to the newest row, which is in the open window, and returns the log record. The columns are
    /// distinct, and neither among those of the row nor stale in it; `values` are present.
    pub fn extend(&mut self, columns: Vec<u32>, values: &[f64], mut stale: Vec<u32>) -> Vec<u8> {
        debug_assert!(!self.window.is_empty());
        let layout = Arc::<Layout>::from(columns);
        stale.sort_unstable();
        let mut code = Vec::with_capacity(layout.len() * 2 + 16);
        row::encode(&layout, values, &mut self.state, &mut code);
        let record = RowRecord {
            group: self.id,
            number: self.window.rows() as u32 - 1,
            timestamp: self.last_time,
            continues: true,
            layout: Some(&*layout),
            stale: &stale,
            code: &code,
        }
        .encode();
        self.more.push(layout.clone());
        self.caller_layout = 0;
        let row = TailRow { continues: true, layout, code: code.into(), stale: stale.into() };
        self.window.extend(row, self.state.last.len());
        self.last_append = std::time::Instant::now();
        record
    }

    /// Whether a column may come to the newest row: it has nothing there, nor anything later. `stale` are the columns
    /// that are stale in that row.
    pub fn may_join(&self, column: u32, stale: &[u32]) -> bool {
        self.state.last.get(column as usize).is_some_and(|v| is_absent(*v))
            && self.ahead.get(&column).is_none_or(|t| *t < self.last_time)
            && stale.binary_search(&column).is_err()
    }

    /// Adds columns to the newest row from the log. `None`: they do not fit what came before.
    pub fn restore_more(
        &mut self,
        number: u32,
        timestamp: i64,
        layout: Vec<u32>,
        stale: Vec<u32>,
        code: &[u8],
    ) -> Option<()> {
        if number as usize + 1 != self.window.rows() || timestamp != self.last_time {
            return None;
        }
        let layout = Arc::<Layout>::from(layout);
        self.more.push(layout.clone());
        let row = TailRow { continues: true, layout, code: code.into(), stale: stale.into() };
        self.window.extend(row, self.columns.len());
        Some(())
    }

    /// Appends a row from the log; once there are no more, [`Group::restored`] has to follow. `None`: it does not fit
    /// what came before. Otherwise how many of the rows before it had to be left out, because they do not decode:
    /// rows are decoded when they are sealed, and then it may not fit either.
    pub fn restore(
        &mut self,
        seq: u64,
        number: u32,
        timestamp: i64,
        layout: Option<Vec<u32>>,
        stale: Vec<u32>,
        code: &[u8],
    ) -> Option<usize> {
        let mut left_out = 0;
        if number == 0 {
            // The window before was being closed, or was closed early, when the process ended.
            left_out += self.restored();
            self.rotate();
        } else {
            left_out += self.window.make_room_restored();
        }
        if left_out > 0 {
            self.cut_short();
        }
        if number as usize != self.window.rows() || timestamp <= self.last_time {
            return (left_out > 0).then_some(left_out + 1);
        }
        if number == 0 {
            if layout.is_none() {
                return (left_out > 0).then_some(left_out + 1);
            }
            self.window.start_seq = seq;
        }
        // Columns that a row no longer has become absent when it is decoded.
        let changed = layout.filter(|c| self.layout.as_ref().is_none_or(|l| **l != **c)).map(Arc::<Layout>::from);
        let layout = changed.or_else(|| self.layout.clone())?;
        self.more.clear();
        self.layout = Some(layout.clone());
        let row = TailRow { continues: false, layout, code: code.into(), stale: stale.into() };
        self.window.push(timestamp, row, self.columns.len());
        self.last_time = timestamp;
        Some(left_out)
    }

    /// Brings the state to that of the newest row from the log. Returns how many rows do not decode and were left out.
    pub fn restored(&mut self) -> usize {
        if self.window.is_empty() {
            return 0;
        }
        let (state, left_out) = self.window.check_restored();
        self.state = state;
        self.state.resize(self.columns.len());
        if left_out > 0 {
            self.cut_short();
        }
        left_out
    }

    /// Rows were left out: what follows begins anew, as it cannot be told by the difference to them.
    fn cut_short(&mut self) {
        self.last_time = self.newest_time();
        self.rotate();
        self.layout = None;
        self.more.clear();
    }

    /// Of the newest row, in memory or in blocks.
    fn newest_time(&self) -> i64 {
        self.windows().filter_map(|w| w.times.last().copied()).max().unwrap_or(i64::MIN).max(self.floor)
    }

    /// Whether the column has a sample (not a staleness marker) in the newest row.
    fn is_current(&self, column: u32) -> bool {
        !self.window.is_empty() && self.state.last.get(column as usize).is_some_and(|v| !is_absent(*v))
    }

    /// The newest sample of a column in the rows that are in memory.
    pub fn last_sample(&self, column: u32) -> Option<(i64, f64)> {
        if self.is_current(column) {
            return Some((self.last_time, self.state.last[column as usize]));
        }
        // Reading a column means decoding the newest rows: not for series that are never in rows.
        for window in self.windows().rev().filter(|w| w.touches(column)) {
            let found = match window.read(&[column], 0..window.rows()).pop() {
                Some(Cells::Dense(v)) => v.iter().rposition(|v| !is_absent(*v)).map(|i| (window.times[i], v[i])),
                Some(Cells::Constant(v)) if !is_absent(v) => window.times.last().map(|t| (*t, v)),
                _ => None,
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// The sample of a column in the newest row, which may have gone to blocks already.
    pub fn newest_row_sample(&self, column: u32) -> Option<(i64, f64)> {
        let last = self.state.last.get(column as usize).filter(|v| !is_absent(**v));
        last.filter(|_| self.last_time > i64::MIN).map(|v| (self.last_time, *v))
    }

    /// Those of `columns` that may be given away: they have no rows in memory, and nothing since `since` beside them.
    pub fn idle(&self, mut columns: Vec<u32>, since: i64) -> Vec<u32> {
        columns.retain(|c| !self.is_current(*c) && self.ahead.get(c).is_none_or(|t| *t < since));
        for window in self.windows() {
            if window.is_empty() || columns.is_empty() {
                continue;
            }
            // All at once: whatever is asked, the newest rows are read from their beginning.
            let cells = window.read(&columns, 0..window.rows());
            let absent = |cells: &Cells| match cells {
                Cells::Constant(v) => is_absent(*v),
                Cells::Dense(values) => values.iter().all(|v| is_absent(*v)),
            };
            let mut cells = cells.iter();
            columns.retain(|_| cells.next().is_none_or(absent));
        }
        columns
    }

    pub fn heap_bytes(&self) -> usize {
        self.windows().map(Window::heap_bytes).sum::<usize>()
            + self.state.heap_bytes()
            + (self.columns.capacity() + self.slots.capacity() + self.free.capacity() + self.unlogged.capacity()) * 4
            + self.layout.as_ref().map_or(0, |l| l.len() * 4)
            + self.fresh.allocation_size()
            + self.ahead.allocation_size()
            + self.retired.allocation_size()
            + self.parked.heap_bytes()
    }

    /// Whether the rows of the open window take more than so many bytes a series.
    pub fn is_heavy(&self, bytes: usize) -> bool {
        // Rows of a few series take something each. A row may have come in pieces.
        let series = self.layout.iter().chain(&self.more).map(|l| l.len()).sum::<usize>() + 64;
        self.window.row_bytes() > series.saturating_mul(bytes)
    }

    /// The values of the newest row by column, absent ones left out.
    pub fn newest(&self, column: u32) -> f64 {
        self.state.last.get(column as usize).copied().unwrap_or(absent())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{self, Record};

    const COLUMNS: u32 = 20;

    fn group() -> Group {
        let mut group = Group::new(1, "g".into());
        (0..COLUMNS).for_each(|c| group.set_column(c, c + 100));
        group
    }

    /// Appends row `r`; some rows have other columns than the row before, or get columns later. The records.
    fn append(group: &mut Group, r: usize) -> Vec<Vec<u8>> {
        let value = |c: u32| (r * 7 + c as usize * r % 11) as f64 / 4.0;
        let skipped = |c: &u32| (*c as usize + r / 10).is_multiple_of(7);
        let columns: Vec<u32> = (0..COLUMNS).filter(|c| !skipped(c)).collect();
        let values: Vec<f64> = columns.iter().map(|c| value(*c)).collect();
        let mut records = vec![group.append(r as u64 + 1, r as i64 * 1000, Some(columns), &values, Vec::new())];
        if r % 5 == 2 {
            let late: Vec<u32> = (0..COLUMNS).filter(skipped).collect();
            let values: Vec<f64> = late.iter().map(|c| value(*c)).collect();
            records.push(group.extend(late, &values, Vec::new()));
        }
        if r % 70 == 69 {
            group.rotate();
        }
        records
    }

    /// Rows that were taken, and rows that were left out.
    fn restore(group: &mut Group, seq: u64, bytes: &[u8], damaged: bool) -> (usize, usize) {
        let Some(Record::Row(row)) = record::decode(bytes) else { panic!("a record that does not decode") };
        let (number, timestamp, continues) = (row.number, row.timestamp, row.continues());
        let (layout, stale, code) = row.parts(group.columns.len()).unwrap();
        let code = if damaged { &code[..code.len() / 2] } else { code };
        let restored = match continues {
            true => group.restore_more(number, timestamp, layout.unwrap(), stale, code).map(|()| 0),
            false => group.restore(seq, number, timestamp, layout, stale, code),
        };
        restored.map_or((0, 1), |left_out| (1, left_out))
    }

    fn cells(group: &Group) -> Vec<Vec<u64>> {
        let all: Vec<u32> = (0..COLUMNS).collect();
        let mut columns = vec![Vec::new(); COLUMNS as usize];
        for window in group.windows() {
            for (column, cells) in columns.iter_mut().zip(window.read(&all, 0..window.rows())) {
                match cells {
                    Cells::Constant(v) => column.resize(column.len() + window.rows(), v.to_bits()),
                    Cells::Dense(v) => column.extend(v.iter().map(|v| v.to_bits())),
                }
            }
        }
        columns
    }

    #[test]
    fn what_is_heavy_is_so_by_all_series_of_a_row() {
        let mut group = Group::new(1, "g".into());
        (0..2000).for_each(|c| group.set_column(c, c + 100));
        for r in 0..20 {
            let values: Vec<f64> = (0..1000).map(|c| f64::from(r * c)).collect();
            group.append(r as u64 + 1, i64::from(r), Some((0..1000).collect()), &values, Vec::new());
            group.extend((1000..2000).collect(), &values, Vec::new());
        }
        let bytes = group.window.row_bytes() / 2000;
        assert!(group.is_heavy(bytes * 9 / 10) && !group.is_heavy(bytes + 1), "{bytes} bytes a series");
    }

    #[test]
    fn rows_from_the_log_give_the_same_group() {
        for rows in [1, 5, 32, 33, 69, 70, 71, 150] {
            let (mut first, mut second) = (group(), group());
            for r in 0..rows {
                for record in append(&mut first, r) {
                    assert_eq!(restore(&mut second, r as u64 + 1, &record, false), (1, 0), "{rows} rows, row {r}");
                }
            }
            assert_eq!(second.restored(), 0);
            assert_eq!(cells(&first), cells(&second), "{rows} rows");
            // A window that was full is ended by whoever appends.
            if rows % 70 != 0 {
                assert_eq!(append(&mut first, rows), append(&mut second, rows), "what comes after {rows} rows");
            }
        }
    }

    #[test]
    fn a_row_that_does_not_decode_ends_its_window() {
        for damaged in [0, 3, 31, 32, 40, 68] {
            let (mut first, mut second) = (group(), group());
            let (mut taken, mut left_out) = (0, 0);
            for r in 0..100 {
                for (i, record) in append(&mut first, r).iter().enumerate() {
                    let (some, others) = restore(&mut second, r as u64 + 1, record, r == damaged && i == 0);
                    taken += some;
                    left_out += others;
                }
            }
            left_out += second.restored();
            assert!(left_out >= 70 - damaged && left_out < 100, "row {damaged}: {taken} taken, {left_out} left out");
            let (whole, rest) = (cells(&first), cells(&second));
            for (all, found) in whole.iter().zip(&rest) {
                assert_eq!(found[..damaged], all[..damaged], "before row {damaged}");
                assert_eq!(found[damaged..], all[70..], "the next window");
            }
            assert_eq!((second.last_time, second.window.rows()), (99_000, 30));
            append(&mut second, 100);
        }
    }
}
