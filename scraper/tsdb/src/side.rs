//! Samples beside the rows: with timestamps of their own, out of order, native histograms, start timestamps.
//!
//! Kept by series, sorted by time, until they are written to blocks.

use std::sync::Arc;

use hashbrown::HashMap;
use narthex_model::Histogram;

use crate::record::{SideSample, SideValue};
use crate::series::SeriesId;

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
    pub series: HashMap<SeriesId, SideSeries, foldhash::fast::FixedState>,
    /// What is being written to blocks.
    pub flushing: Arc<HashMap<SeriesId, SideSeries, foldhash::fast::FixedState>>,
    /// The sequence number of the first record of what is in `series`.
    pub start_seq: Option<u64>,
    /// The same of what is in `flushing`, and the first number after it.
    pub kept_seq: u64,
    pub flush_seq: u64,
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
    pub fn insert(&mut self, id: SeriesId, sample: &SideSample) -> bool {
        let series = self.series.entry(id).or_default();
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

    /// Takes all samples out, into `flushing`, where readers still find them. What remains of a series is its newest
    /// sample's time and its last start timestamp, which are returned to be logged anew.
    pub fn begin_flush(&mut self) -> Vec<SideSample> {
        let mut flushing = HashMap::default();
        let mut starts = Vec::new();
        for (id, series) in &mut self.series {
            if let Some((timestamp, start)) = series.starts.last().copied() {
                let value = SideValue::Start(start);
                starts.push(SideSample { group: series.group, column: series.column, timestamp, value });
            }
            if series.floats.is_empty() && series.histograms.is_empty() {
                let done = series.starts.len().saturating_sub(1);
                series.starts.drain(..done);
                continue;
            }
            flushing.insert(*id, series.clone());
            let starts = series.starts.pop().into_iter().collect();
            let SideSeries { group, column, last, .. } = *series;
            *series = SideSeries { group, column, last, starts, ..SideSeries::default() };
        }
        self.flushing = Arc::new(flushing);
        self.samples = 0;
        self.kept_seq = self.start_seq.take().unwrap_or_default();
        starts
    }

    /// Bytes on the heap, about: buckets of histograms are not counted.
    pub fn heap_bytes(&self) -> usize {
        let series = self.series.values().chain(self.flushing.values());
        let samples = series.map(|s| (s.floats.capacity() + s.starts.capacity()) * 16 + s.histograms.capacity() * 200);
        samples.sum::<usize>() + self.series.allocation_size() + self.flushing.allocation_size()
    }

    /// Whether there are samples of the series.
    pub fn has_samples(&self, id: SeriesId) -> bool {
        let some = |s: &SideSeries| !s.floats.is_empty() || !s.histograms.is_empty();
        self.series.get(&id).is_some_and(some) || self.flushing.contains_key(&id)
    }

    /// Notes the newest sample in order.
    pub fn advance(&mut self, id: SeriesId, t: i64, bits: Option<u64>) {
        self.series.entry(id).or_default().last = Some((t, bits));
    }
}

impl SideSeries {
    /// The start timestamp that holds at `t`, 0 where none is known.
    pub fn start_at(&self, t: i64) -> i64 {
        crate::blocks::start_at(&self.starts, t)
    }
}
