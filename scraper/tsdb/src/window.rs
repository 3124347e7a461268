//! The rows of one group that are not in blocks yet.
//!
//! The newest rows lie as they were logged; every [`SEAL_ROWS`] of them are sealed into a [`Segment`]. Timestamps are
//! kept once. Columns are numbered by the group; a column may begin, pause and end anywhere ([`absent`] values).

use std::ops::Range;
use std::sync::Arc;

use narthex_model::stale_nan;

use crate::row::{self, Layout, RowState, absent};
use crate::segment::Segment;

/// How many rows become a segment. At most 256.
const SEAL_ROWS: usize = 32;

pub struct TailRow {
    /// It adds columns to the row before it.
    pub continues: bool,
    pub layout: Arc<Layout>,
    /// As [`row::encode`] wrote it.
    pub code: Box<[u8]>,
    /// Columns that get a staleness marker; not in the layout.
    pub stale: Box<[u32]>,
}

impl TailRow {
    fn heap_bytes(&self) -> usize {
        self.code.len() + self.stale.len() * 4 + 64 + if self.continues { self.layout.len() * 4 } else { 0 }
    }
}

/// Cloning shares all but the timestamps.
#[derive(Clone, Default)]
pub struct Window {
    /// The sequence number of the first row's log record.
    pub start_seq: u64,
    pub times: Vec<i64>,
    columns: usize,
    segments: Vec<Arc<Segment>>,
    tail: Vec<Arc<TailRow>>,
    tail_rows: usize,
    /// The state before the first row of the tail.
    base: Arc<RowState>,
    /// The layouts of the row before the tail, and what went stale with it.
    base_layouts: Vec<Arc<Layout>>,
    base_stale: Arc<[u32]>,
    /// One bit a column: whether any row has it.
    touched: Vec<u64>,
    heap: usize,
}

/// What a window holds of one column, absent values included.
#[derive(Clone, Debug)]
pub enum Cells {
    Constant(f64),
    Dense(Vec<f64>),
}

impl Window {
    pub fn rows(&self) -> usize {
        self.times.len()
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// Of the last row; of the epoch where there is none.
    pub fn end(&self) -> i64 {
        self.times.last().copied().unwrap_or_default()
    }

    /// Bytes of the rows, without what each window has.
    pub fn row_bytes(&self) -> usize {
        self.heap
    }

    /// Bytes on the heap, about.
    pub fn heap_bytes(&self) -> usize {
        self.heap + (self.times.capacity() + self.touched.capacity()) * 8 + self.base.heap_bytes()
    }

    /// Appends a row; the group has so many columns. To be called after [`Window::make_room`].
    pub fn push(&mut self, timestamp: i64, row: TailRow, columns: usize) {
        self.times.push(timestamp);
        self.tail_rows += 1;
        self.add(row, columns);
    }

    /// Adds columns to the newest row.
    pub fn extend(&mut self, row: TailRow, columns: usize) {
        debug_assert!(row.continues && self.tail_rows > 0);
        self.add(row, columns);
    }

    fn add(&mut self, row: TailRow, columns: usize) {
        self.columns = self.columns.max(columns);
        self.heap += row.heap_bytes();
        let known = self.tail.last().is_some_and(|l| Arc::ptr_eq(&l.layout, &row.layout));
        let layout: &[u32] = if known { &[] } else { &row.layout };
        self.touched.resize(self.touched.len().max(columns.div_ceil(64)), 0);
        for c in layout.iter().chain(&*row.stale) {
            if let Some(word) = self.touched.get_mut(*c as usize / 64) {
                *word |= 1 << (c % 64);
            }
        }
        self.tail.push(Arc::new(row));
    }

    /// Seals the tail if it is long enough. `state` is the one to which the newest row brought the group. Done before
    /// a row is added and not after it, as columns may come to a row later.
    pub fn make_room(&mut self, state: &RowState) {
        if self.tail_rows >= SEAL_ROWS {
            self.seal(state);
        }
    }

    fn seal(&mut self, state: &RowState) {
        let rows = self.tail_rows;
        let mut matrix = vec![absent(); self.columns * rows];
        let whole = self.replay(|r, c, v| matrix[c as usize * rows + r] = v).1;
        debug_assert_eq!(whole, self.tail.len(), "a row in memory does not decode");
        self.seal_matrix(&matrix, state);
    }

    /// [`Window::make_room`] where rows came from the log and were not decoded yet. Returns how many of them do not
    /// decode, and with those that follow them were left out.
    pub fn make_room_restored(&mut self) -> usize {
        if self.tail_rows < SEAL_ROWS {
            return 0;
        }
        let rows = self.tail_rows;
        let mut matrix = vec![absent(); self.columns * rows];
        let (state, whole) = self.replay(|r, c, v| matrix[c as usize * rows + r] = v);
        if whole == self.tail.len() {
            self.seal_matrix(&matrix, &state);
            return 0;
        }
        self.cut_tail(whole)
    }

    /// Decodes the tail of rows that came from the log: the state after the newest, and how many had to be left out.
    pub fn check_restored(&mut self) -> (RowState, usize) {
        let (state, whole) = self.replay(|_, _, _| {});
        if whole == self.tail.len() {
            return (state, 0);
        }
        let cut = self.cut_tail(whole);
        (self.replay(|_, _, _| {}).0, cut)
    }

    fn cut_tail(&mut self, whole: usize) -> usize {
        let cut = self.tail.split_off(whole);
        self.heap -= cut.iter().map(|t| t.heap_bytes()).sum::<usize>();
        let rows = cut.iter().filter(|r| !r.continues).count();
        self.tail_rows -= rows;
        self.times.truncate(self.times.len() - rows);
        cut.len()
    }

    fn seal_matrix(&mut self, matrix: &[f64], state: &RowState) {
        let rows = self.tail_rows;
        let segment = Segment::seal(matrix, rows, &self.carried(), &state.exp);
        self.heap -= self.tail.iter().map(|t| t.heap_bytes()).sum::<usize>();
        self.heap += segment.heap_bytes() + 96;
        self.segments.push(Arc::new(segment));
        let newest = self.tail.iter().rposition(|r| !r.continues).unwrap_or(0);
        self.base_layouts = self.tail[newest..].iter().map(|r| r.layout.clone()).collect();
        self.base_stale = self.newest_stale().into();
        self.tail.clear();
        self.tail_rows = 0;
        self.base = Arc::new(state.clone());
    }

    /// Whether any row has something of the column.
    pub fn touches(&self, column: u32) -> bool {
        self.touched.get(column as usize / 64).is_some_and(|w| w >> (column % 64) & 1 == 1)
    }

    /// The columns with a staleness marker in the newest row, in ascending order.
    pub fn newest_stale(&self) -> Vec<u32> {
        let newest = self.tail.iter().rposition(|r| !r.continues).unwrap_or(0);
        let mut stale: Vec<u32> = self.tail[newest..].iter().flat_map(|r| r.stale.iter().copied()).collect();
        stale.sort_unstable();
        stale
    }

    /// What a reader carries into the next segment: each column's value in the last sealed row.
    fn carried(&self) -> Vec<f64> {
        let mut carried = vec![absent(); self.columns];
        if !self.segments.is_empty() {
            let n = self.base.last.len().min(self.columns);
            carried[..n].copy_from_slice(&self.base.last[..n]);
            // The state calls a column absent once it went stale; a reader of the segment saw the marker.
            for c in &*self.base_stale {
                carried[*c as usize] = stale_nan();
            }
        }
        carried
    }

    /// Calls `each(row, column, value)` for the samples of the tail, row by row. Returns the state after the last row,
    /// and how many parts of rows could be decoded: all, unless what came from the log is damaged.
    fn replay(&self, mut each: impl FnMut(usize, u32, f64)) -> (RowState, usize) {
        let mut state = (*self.base).clone();
        state.resize(self.columns);
        let mut layouts = self.base_layouts.clone();
        let mut rows = 0;
        for (i, row) in self.tail.iter().enumerate() {
            if !row.continues {
                rows += 1;
                if layouts.len() != 1 || !Arc::ptr_eq(&layouts[0], &row.layout) {
                    state.relayout(&layouts, &row.layout);
                }
                layouts.clear();
            }
            let Some(r) = usize::checked_sub(rows, 1) else { return (state, i) };
            layouts.push(row.layout.clone());
            if row::decode(&row.layout, &row.code, &mut state).is_none() {
                return (state, i);
            }
            for c in &*row.layout {
                each(r, *c, state.last[*c as usize]);
            }
            for c in &*row.stale {
                each(r, *c, stale_nan());
            }
        }
        (state, self.tail.len())
    }

    /// The cells of `columns` in the rows of `range`, in the order asked for.
    pub fn read(&self, columns: &[u32], range: Range<usize>) -> Vec<Cells> {
        let range = range.start.min(self.rows())..range.end.min(self.rows());
        let sealed = self.segments.iter().map(|s| s.rows()).sum::<usize>();
        let mut tail: Vec<Vec<f64>> = Vec::new();
        if range.end > sealed {
            tail = vec![vec![absent(); self.tail_rows]; columns.len()];
            let mut place = vec![u32::MAX; self.columns];
            for (i, c) in columns.iter().enumerate() {
                if let Some(p) = place.get_mut(*c as usize) {
                    *p = i as u32;
                }
            }
            self.replay(|r, c, v| {
                if let Some(column) = tail.get_mut(place[c as usize] as usize) {
                    column[r] = v;
                }
            });
        }
        let mut scratch = Vec::new();
        columns
            .iter()
            .enumerate()
            .map(|(i, c)| {
                let mut cells = Run::default();
                let mut at = 0;
                let mut carried = None;
                for (s, segment) in self.segments.iter().enumerate() {
                    let rows = at..at + segment.rows();
                    at = rows.end;
                    if rows.end <= range.start || rows.start >= range.end {
                        continue;
                    }
                    let (from, to) = (range.start.max(rows.start) - rows.start, range.end.min(rows.end) - rows.start);
                    scratch.clear();
                    if segment.read(*c, &mut scratch) {
                        carried = scratch.last().copied();
                        cells.extend(&scratch[from..to]);
                    } else {
                        let v = *carried.get_or_insert_with(|| self.value_before(s, *c));
                        cells.repeat(v, to - from);
                    }
                }
                if let Some(tail) = tail.get(i) {
                    cells.extend(&tail[range.start.max(sealed) - sealed..range.end - sealed]);
                }
                cells.done()
            })
            .collect()
    }

    /// The value that column `c` had in the last row before segment `s`.
    fn value_before(&self, s: usize, c: u32) -> f64 {
        let mut scratch = Vec::new();
        for segment in self.segments[..s].iter().rev() {
            if segment.read(c, &mut scratch) {
                return scratch.last().copied().unwrap_or(absent());
            }
        }
        absent()
    }
}

/// Values as long as they are all the same, then cells.
#[derive(Default)]
struct Run {
    first: Option<f64>,
    count: usize,
    dense: Vec<f64>,
}

impl Run {
    fn repeat(&mut self, v: f64, n: usize) {
        if n == 0 {
            return;
        }
        let first = *self.first.get_or_insert(v);
        if self.dense.is_empty() && first.to_bits() == v.to_bits() {
            self.count += n;
            return;
        }
        self.spill(first);
        self.dense.resize(self.dense.len() + n, v);
    }

    fn extend(&mut self, values: &[f64]) {
        let Some(v) = values.first() else { return };
        let first = *self.first.get_or_insert(*v);
        if self.dense.is_empty() && values.iter().all(|v| v.to_bits() == first.to_bits()) {
            self.count += values.len();
            return;
        }
        self.spill(first);
        self.dense.extend_from_slice(values);
    }

    fn spill(&mut self, first: f64) {
        if self.dense.is_empty() {
            self.dense.resize(self.count, first);
        }
    }

    fn done(self) -> Cells {
        if self.dense.is_empty() { Cells::Constant(self.first.unwrap_or(absent())) } else { Cells::Dense(self.dense) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn cell(cells: &Cells, i: usize) -> u64 {
        match cells {
            Cells::Constant(v) => v.to_bits(),
            Cells::Dense(v) => v[i].to_bits(),
        }
    }

    #[test]
    fn rows_come_back_whatever_the_layouts() {
        for seed in 0..20 {
            let mut rng = StdRng::seed_from_u64(seed);
            let (mut window, mut state) = (Window::default(), RowState::default());
            let mut expected: Vec<Vec<u64>> = Vec::new();
            let mut columns = 5usize;
            let mut layout: Arc<Layout> = (0..5u32).collect::<Vec<_>>().into();
            let mut joined: Arc<Layout> = Arc::default();
            let mut values = vec![0.0; 100];
            for r in 0..150 {
                let mut stale = Vec::new();
                if rng.random_bool(0.1) {
                    columns = (columns + rng.random_range(0..3)).min(100);
                    let mut next: Vec<u32> = (0..columns as u32).filter(|_| rng.random_bool(0.8)).collect();
                    if rng.random_bool(0.3) {
                        next.reverse();
                    }
                    stale = layout.iter().copied().filter(|c| !next.contains(c)).collect();
                    if rng.random_bool(0.3) {
                        stale.clear();
                    }
                    state.resize(columns);
                    window.make_room(&state);
                    state.relayout(&[layout.clone(), joined.clone()], &next);
                    layout = next.into();
                } else if !joined.is_empty() {
                    state.resize(columns);
                    window.make_room(&state);
                    state.relayout(&[layout.clone(), joined.clone()], &layout);
                }
                joined = Arc::default();
                state.resize(columns);
                window.make_room(&state);
                for v in &mut values {
                    if rng.random_bool(0.3) {
                        *v += f64::from(rng.random_range(0..1000)) / 8.0;
                    }
                }
                let row: Vec<f64> = layout.iter().map(|c| values[*c as usize]).collect();
                let mut code = Vec::new();
                row::encode(&layout, &row, &mut state, &mut code);
                let mut all = vec![row::ABSENT_BITS; 100];
                layout.iter().for_each(|c| all[*c as usize] = values[*c as usize].to_bits());
                stale.iter().for_each(|c| all[*c as usize] = stale_nan().to_bits());
                let late: Vec<u32> =
                    (0..columns as u32).filter(|c| !layout.contains(c) && !stale.contains(c)).collect();
                let row = |continues, layout: &Arc<Layout>, code: Vec<u8>, stale: Vec<u32>| TailRow {
                    continues,
                    layout: layout.clone(),
                    code: code.into(),
                    stale: stale.into(),
                };
                window.push(r, row(false, &layout, code, stale), columns);
                // The others come later, or are marked stale later.
                if rng.random_bool(0.2) {
                    let (values_of, stale): (Vec<u32>, Vec<u32>) = late.into_iter().partition(|c| c % 3 != 0);
                    joined = values_of.into();
                    let mut code = Vec::new();
                    let row_values: Vec<f64> = joined.iter().map(|c| values[*c as usize]).collect();
                    row::encode(&joined, &row_values, &mut state, &mut code);
                    joined.iter().for_each(|c| all[*c as usize] = values[*c as usize].to_bits());
                    stale.iter().for_each(|c| all[*c as usize] = stale_nan().to_bits());
                    window.extend(row(true, &joined, code, stale), columns);
                }
                expected.push(all);
            }
            for c in 0..100 {
                let some = expected.iter().any(|row| row[c as usize] != row::ABSENT_BITS);
                assert_eq!(window.touches(c), some, "seed {seed} column {c}");
            }
            let wanted: Vec<u32> = (0..100).rev().collect();
            for range in [0..150, 40..41, 31..97, 149..150, 60..60, 0..32] {
                let got = window.read(&wanted, range.clone());
                for (c, cells) in wanted.iter().zip(&got) {
                    for (i, r) in range.clone().enumerate() {
                        assert_eq!(cell(cells, i), expected[r][*c as usize], "seed {seed} row {r} column {c}");
                    }
                }
            }
        }
    }
}
