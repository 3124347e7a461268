//! One group as far as a tail has read it: rows are differences to the rows before them.

use std::sync::Arc;

use hashbrown::HashMap;
use narthex_model::stale_nan;
use smallvec::SmallVec;

use crate::record::{ReadRow, SideValue};
use crate::row::{self, Layout, RowState};
use crate::series::minute;

/// A column without a number.
pub const NO_NUMBER: u32 = u32::MAX;
/// No group has as many columns; whatever says so is damaged, and must not make us ask for the memory.
const MOST_COLUMNS: usize = 1 << 24;
/// So many changes of a series' start timestamp are remembered, for samples that come late.
const STARTS: usize = 4;

#[derive(Default)]
pub struct Lane {
    state: RowState,
    /// The layouts of the newest row; none where the next row cannot be told by it.
    layouts: SmallVec<[Arc<Layout>; 1]>,
    /// Rows of the window that is being read.
    rows: u32,
    time: i64,
    /// The number of each column's series; those behind the last have none.
    pub numbers: Vec<u32>,
    /// How many of them are given.
    pub given: u32,
    starts: HashMap<u32, SmallVec<[(i64, i64); 1]>, foldhash::fast::FixedState>,
}

/// A row, decoded.
pub struct Row {
    pub timestamp: i64,
    pub layout: Arc<Layout>,
    pub stale: Vec<u32>,
}

impl Lane {
    /// Reads the next row. `None`: it does not fit what was read before it.
    pub fn read(&mut self, row: ReadRow<'_>) -> Option<Row> {
        let read = self.read_fitting(row);
        if read.is_none() {
            self.layouts.clear();
        }
        read
    }

    fn read_fitting(&mut self, row: ReadRow<'_>) -> Option<Row> {
        let (number, timestamp, continues) = (row.number, row.timestamp, row.continues());
        let (layout, stale, code) = row.parts(MOST_COLUMNS)?;
        let layout = layout.map(Arc::<Layout>::from);
        if let Some(last) = layout.iter().flat_map(|l| l.iter()).chain(&stale).max() {
            self.state.resize(*last as usize + 1);
        }
        if continues {
            if self.layouts.is_empty() || number + 1 != self.rows || timestamp != self.time {
                return None;
            }
            self.layouts.push(layout?);
        } else if number == 0 {
            self.state.reset();
            self.layouts.clear();
            self.layouts.push(layout?);
        } else {
            if number != self.rows {
                return None;
            }
            match (layout, &self.layouts[..]) {
                (_, []) => return None,
                (None, [_]) => {}
                (None, _) => return None,
                (Some(layout), before) => {
                    self.state.relayout(before, &layout);
                    self.layouts.clear();
                    self.layouts.push(layout);
                }
            }
        }
        (self.rows, self.time) = (number + 1, timestamp);
        let layout = self.layouts.last()?.clone();
        row::decode(&layout, code, &mut self.state)?;
        Some(Row { timestamp, layout, stale })
    }

    /// The number of a column's series.
    #[inline]
    pub fn number(&self, column: u32) -> u32 {
        self.numbers.get(column as usize).copied().unwrap_or(NO_NUMBER)
    }

    /// Gives a column's series a number. What came before its first sample was of a series that had the column before it.
    pub fn set_number(&mut self, column: u32, number: u32, first_minute: i32) {
        if let Some(starts) = self.starts.get_mut(&column) {
            starts.retain(|s| minute(s.0) >= first_minute);
        }
        let c = column as usize;
        if self.numbers.len() <= c {
            self.numbers.resize(c + 1, NO_NUMBER);
        }
        self.numbers[c] = number;
        self.given += 1;
    }

    /// Forgets the series of a column; its number.
    pub fn give_up(&mut self, column: u32) -> Option<u32> {
        self.starts.remove(&column);
        let number = self.numbers.get_mut(column as usize)?;
        let number = Some(std::mem::replace(number, NO_NUMBER)).filter(|n| *n != NO_NUMBER)?;
        self.given -= 1;
        Some(number)
    }

    /// Column, value and start timestamp of each sample of the row that was read last; markers come last.
    #[inline]
    pub fn samples<'a>(&'a self, row: &'a Row) -> impl Iterator<Item = (u32, f64, i64)> + 'a {
        let values = row.layout.iter().map(|c| {
            let start = if self.starts.is_empty() { 0 } else { self.start(*c, row.timestamp) };
            (*c, self.state.last[*c as usize], start)
        });
        values.chain(row.stale.iter().map(|c| (*c, stale_nan(), 0)))
    }

    /// The start timestamp that a column's samples have at `t`; 0 where it is not known.
    pub fn start(&self, column: u32, t: i64) -> i64 {
        let starts = self.starts.get(&column);
        starts.and_then(|all| all.iter().rev().find(|s| s.0 <= t)).map_or(0, |s| s.1)
    }

    /// Takes in from when on a column's samples have a start timestamp; nothing, where `value` is something else.
    pub fn note_start(&mut self, column: u32, t: i64, value: &SideValue) {
        let SideValue::Start(start) = value else { return };
        let all = self.starts.entry(column).or_default();
        let at = all.partition_point(|s| s.0 < t);
        match all.get_mut(at) {
            Some(known) if known.0 == t => known.1 = *start,
            _ => all.insert(at, (t, *start)),
        }
        if all.len() > STARTS {
            all.remove(0);
        }
    }

    /// Bytes, layouts that groups share not counted.
    pub fn heap_bytes(&self) -> usize {
        self.state.heap_bytes()
            + self.numbers.capacity() * 4
            + self.layouts.iter().map(|l| l.len() * 4).sum::<usize>()
            + self.starts.allocation_size()
    }
}
