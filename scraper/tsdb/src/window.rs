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
pub const SEAL_ROWS: usize = 32;

pub struct TailRow {
    pub layout: Arc<Layout>,
    /// As [`row::encode`] wrote it.
    pub code: Box<[u8]>,
    /// Columns that get a staleness marker; not in the layout.
    pub stale: Box<[u32]>,
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
    /// The state before the first row of the tail.
    base: Arc<RowState>,
    /// The layout before the first row of the tail, and what went stale with it.
    base_layout: Option<Arc<Layout>>,
    base_stale: Arc<[u32]>,
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

    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// Of the last row; of the epoch where there is none.
    pub fn end(&self) -> i64 {
        self.times.last().copied().unwrap_or_default()
    }

    /// Bytes on the heap, about.
    pub fn heap_bytes(&self) -> usize {
        self.heap + self.times.capacity() * 8 + self.base.heap_bytes()
    }

    /// Appends a row that brought the group to `state`; the group has as many columns as `state`.
    pub fn push(&mut self, timestamp: i64, row: TailRow, state: &RowState) {
        self.columns = self.columns.max(state.last.len());
        self.heap += row.code.len() + row.stale.len() * 4 + 64;
        self.times.push(timestamp);
        self.tail.push(Arc::new(row));
        if self.tail.len() == SEAL_ROWS {
            self.seal(state);
        }
    }

    fn seal(&mut self, state: &RowState) {
        let rows = self.tail.len();
        let mut matrix = vec![absent(); self.columns * rows];
        self.replay(|r, c, v| matrix[c as usize * rows + r] = v);
        let segment = Segment::seal(&matrix, rows, &self.carried(), &state.exp);
        self.heap -= self.tail.iter().map(|t| t.code.len() + t.stale.len() * 4 + 64).sum::<usize>();
        self.heap += segment.heap_bytes() + 96;
        self.segments.push(Arc::new(segment));
        if let Some(last) = self.tail.pop() {
            self.base_layout = Some(last.layout.clone());
            self.base_stale = last.stale[..].into();
        }
        self.tail.clear();
        self.base = Arc::new(state.clone());
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

    /// Calls `each(row, column, value)` for the samples of the tail, row by row.
    fn replay(&self, mut each: impl FnMut(usize, u32, f64)) {
        let mut state = (*self.base).clone();
        state.resize(self.columns);
        let mut layout = self.base_layout.clone();
        for (r, row) in self.tail.iter().enumerate() {
            if let Some(previous) = layout.take().filter(|l| !Arc::ptr_eq(l, &row.layout)) {
                state.relayout(&previous, &row.layout);
            }
            layout = Some(row.layout.clone());
            if row::decode(&row.layout, &row.code, &mut state).is_none() {
                debug_assert!(false, "a row in memory does not decode");
                return;
            }
            for c in &*row.layout {
                each(r, *c, state.last[*c as usize]);
            }
            for c in &*row.stale {
                each(r, *c, stale_nan());
            }
        }
    }

    /// The cells of `columns` in the rows of `range`, in the order asked for.
    pub fn read(&self, columns: &[u32], range: Range<usize>) -> Vec<Cells> {
        let range = range.start.min(self.rows())..range.end.min(self.rows());
        let sealed = self.segments.iter().map(|s| s.rows()).sum::<usize>();
        let mut tail: Vec<Vec<f64>> = Vec::new();
        if range.end > sealed {
            tail = vec![vec![absent(); self.tail.len()]; columns.len()];
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
                    state.relayout(&layout, &next);
                    layout = next.into();
                }
                state.resize(columns);
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
                expected.push(all);
                window.push(r, TailRow { layout: layout.clone(), code: code.into(), stale: stale.into() }, &state);
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
