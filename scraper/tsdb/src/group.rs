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
    /// Number of the row after which the window is closed.
    pub window_limit: usize,
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
            window_limit: 0,
            last_append: std::time::Instant::now(),
            caller_layout: 0,
            doubles: Default::default(),
        }
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

    /// Ends the open window; what is appended from now on belongs to the next one.
    pub fn rotate(&mut self) {
        if !self.window.is_empty() {
            self.closing.push(Arc::new(std::mem::take(&mut self.window)));
        }
    }

    /// The sequence number of the first record that is needed to restore what is in memory.
    pub fn first_seq(&self) -> Option<u64> {
        let open = (!self.window.is_empty()).then_some(self.window.start_seq);
        self.closing.first().map(|w| w.start_seq).or(open)
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
        self.state.resize(self.columns.len());
        let layout = Arc::<Layout>::from(layout);
        row::decode(&layout, code, &mut self.state)?;
        self.more.push(layout.clone());
        let row = TailRow { continues: true, layout, code: code.into(), stale: stale.into() };
        self.window.extend(row, self.state.last.len());
        Some(())
    }

    /// Appends a row from the log. `None`: it does not fit what came before.
    pub fn restore(
        &mut self,
        seq: u64,
        number: u32,
        timestamp: i64,
        layout: Option<Vec<u32>>,
        stale: Vec<u32>,
        code: &[u8],
    ) -> Option<()> {
        if number == 0 {
            // The window before was being closed, or was closed early, when the process ended.
            self.rotate();
        }
        if number as usize != self.window.rows() || timestamp <= self.last_time {
            return None;
        }
        self.window.make_room(&self.state);
        if number == 0 {
            layout.as_ref()?;
            self.window.start_seq = seq;
            self.state.reset();
        }
        self.state.resize(self.columns.len());
        if layout.is_none() && self.layout.is_none() {
            return None;
        }
        let changed = layout.filter(|c| self.layout.as_ref().is_none_or(|l| **l != **c)).map(Arc::<Layout>::from);
        let layout = self.relay(changed);
        row::decode(&layout, code, &mut self.state)?;
        let row = TailRow { continues: false, layout, code: code.into(), stale: stale.into() };
        self.window.push(timestamp, row, self.state.last.len());
        self.last_time = timestamp;
        Some(())
    }

    /// Whether the column has a sample (not a staleness marker) in the newest row.
    pub fn is_current(&self, column: u32) -> bool {
        !self.window.is_empty() && self.state.last.get(column as usize).is_some_and(|v| !is_absent(*v))
    }

    /// The newest sample of a column in the rows that are in memory.
    pub fn last_sample(&self, column: u32) -> Option<(i64, f64)> {
        if self.is_current(column) {
            return Some((self.last_time, self.state.last[column as usize]));
        }
        let newest_first = std::iter::once(&self.window).chain(self.closing.iter().rev().map(|w| &**w));
        // Reading a column means decoding the newest rows: not for series that are never in rows.
        for window in newest_first.filter(|w| w.touches(column)) {
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

    /// Those of `columns` that may be given away: they have no rows in memory, and nothing since `since` beside them.
    pub fn idle(&self, mut columns: Vec<u32>, since: i64) -> Vec<u32> {
        columns.retain(|c| !self.is_current(*c) && self.ahead.get(c).is_none_or(|t| *t < since));
        for window in self.closing.iter().map(|w| &**w).chain(std::iter::once(&self.window)) {
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
        self.window.heap_bytes()
            + self.closing.iter().map(|w| w.heap_bytes()).sum::<usize>()
            + self.state.heap_bytes()
            + (self.columns.capacity() + self.slots.capacity() + self.free.capacity() + self.unlogged.capacity()) * 4
            + self.layout.as_ref().map_or(0, |l| l.len() * 4)
            + self.fresh.allocation_size()
            + self.ahead.allocation_size()
            + self.retired.allocation_size()
            + self.parked.heap_bytes()
    }

    /// The values of the newest row by column, absent ones left out.
    pub fn newest(&self, column: u32) -> f64 {
        self.state.last.get(column as usize).copied().unwrap_or(absent())
    }
}
