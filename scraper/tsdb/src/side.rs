//! Samples beside the rows: with timestamps of their own, out of order, native histograms, start timestamps.
//!
//! Kept by series, sorted by time, until they are written to blocks.

use std::sync::Arc;

use hashbrown::HashMap;
use narthex_model::Histogram;

use crate::record::{SideSample, SideValue};
use crate::series::Pos;

#[derive(Clone, Debug, Default)]
pub struct SideSeries {
    pub group: u32,
    pub column: u32,
    pub floats: Vec<(i64, f64)>,
    pub histograms: Vec<(i64, Arc<Histogram>)>,
    /// From which sample's timestamp on which start timestamp holds.
    pub starts: Vec<(i64, i64)>,
    /// The newest sample taken in order: its time, and its bits if it is a float.
    pub last: Option<(i64, Option<u64>)>,
}

#[derive(Default)]
pub struct Side {
    pub series: HashMap<Pos, SideSeries, foldhash::fast::FixedState>,
    /// The sequence number of the first record that is in memory.
    pub start_seq: Option<u64>,
    pub samples: usize,
}

/// Inserts by time; `false` where that time is taken.
fn insert<T>(list: &mut Vec<(i64, T)>, t: i64, value: T) -> bool {
    match list.last() {
        Some((last, _)) if *last >= t => match list.binary_search_by_key(&t, |e| e.0) {
            Ok(_) => return false,
            Err(i) => list.insert(i, (t, value)),
        },
        _ => list.push((t, value)),
    }
    true
}

impl Side {
    /// Adds a sample; `false` where the series has one of that kind and time.
    pub fn insert(&mut self, pos: Pos, sample: &SideSample) -> bool {
        let series = self.series.entry(pos).or_default();
        (series.group, series.column) = (sample.group, sample.column);
        let t = sample.timestamp;
        let taken = match &sample.value {
            SideValue::Float(v) => insert(&mut series.floats, t, *v),
            SideValue::Histogram(h) => insert(&mut series.histograms, t, h.clone()),
            SideValue::Start(start) => insert(&mut series.starts, t, *start),
        };
        self.samples += usize::from(taken);
        taken
    }

    /// Notes the newest sample in order.
    pub fn advance(&mut self, pos: Pos, t: i64, bits: Option<u64>) {
        self.series.entry(pos).or_default().last = Some((t, bits));
    }
}

impl SideSeries {
    /// The start timestamp that holds at `t`, 0 where none is known.
    pub fn start_at(&self, t: i64) -> i64 {
        let i = self.starts.partition_point(|s| s.0 <= t);
        i.checked_sub(1).map_or(0, |i| self.starts[i].1)
    }
}
