//! Puts the answers of several shards together. It happens when the answer is read, on the thread that evaluates.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use narthex_model::Labels;
use narthex_storage::{
    Batch, ErrorKind, FloatColumn, HeldBytes, HistogramColumn, Meter, Series, SeriesSet, StorageError, Values,
};

use super::codec::Stream;

/// The union; series that occur more than once are merged, the others stay in the batches that they came in.
pub(super) fn merge(local: SeriesSet, streams: Vec<(Stream, HeldBytes)>, meter: Meter) -> SeriesSet {
    let warnings = local.warnings;
    SeriesSet { batches: Box::new(Merged::Waiting(local.batches, streams, meter)), warnings }
}

type Batches = Box<dyn Iterator<Item = Result<Batch, StorageError>> + Send>;

enum Merged {
    Waiting(Batches, Vec<(Stream, HeldBytes)>, Meter),
    Running(std::vec::IntoIter<Batch>, HeldBytes),
}

impl Iterator for Merged {
    type Item = Result<Batch, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Merged::Waiting(local, streams, meter) = self {
            let local = std::mem::replace(local, Box::new(std::iter::empty()));
            let mut held = meter.hold_nothing();
            match collect(local, std::mem::take(streams), meter, &mut held) {
                Ok(batches) => *self = Merged::Running(batches.into_iter(), held),
                Err(error) => {
                    *self = Merged::Running(Vec::new().into_iter(), held);
                    return Some(Err(error));
                }
            }
        }
        match self {
            Merged::Running(batches, held) => batches.next().map(|batch| {
                // From here on whoever reads it counts it.
                held.sub(batch.bytes());
                Ok(batch)
            }),
            Merged::Waiting(..) => None,
        }
    }
}

/// All batches, held; series of streams are counted, those of the local store are.
fn collect(
    local: Batches,
    streams: Vec<(Stream, HeldBytes)>,
    meter: &Meter,
    held: &mut HeldBytes,
) -> Result<Vec<Batch>, StorageError> {
    let mut batches: Vec<Batch> = Vec::new();
    for batch in local {
        let batch = batch?;
        held.add(batch.bytes())?;
        batches.push(batch);
    }
    batches.iter_mut().flat_map(|b| &mut b.series).for_each(|s| s.order = 0);
    for (stream, _bytes) in streams {
        for batch in stream {
            let broken = |e: super::PeerError| {
                StorageError::new(ErrorKind::Corrupt, "a shard's answer does not decode").with_source(e)
            };
            let batch = batch.map_err(broken)?;
            meter.series(batch.series.len())?;
            held.add(batch.bytes())?;
            batches.push(batch);
        }
    }
    let (mut seen, mut twice) = (HashSet::new(), HashSet::new());
    for series in batches.iter().flat_map(|b| &b.series) {
        if !seen.insert(series.labels.clone()) {
            twice.insert(series.labels.clone());
        }
    }
    if twice.is_empty() {
        return Ok(batches);
    }
    let mut merged: HashMap<Labels, Series> = HashMap::with_capacity(twice.len());
    for batch in &mut batches {
        for series in batch.series.extract_if(.., |s| twice.contains(&s.labels)) {
            match merged.get_mut(&series.labels) {
                Some(first) => *first = merge_two(std::mem::take(first), series),
                None => {
                    merged.insert(series.labels.clone(), series);
                }
            }
        }
    }
    batches.retain(|b| !b.series.is_empty());
    batches.push(Batch { series: merged.into_values().collect() });
    Ok(batches)
}

/// The samples of both, `first` where both have one at a time.
fn merge_two(first: Series, second: Series) -> Series {
    let floats = merge_floats(&first.floats, &second.floats);
    let histograms = merge_histograms(first.histograms, second.histograms);
    let mut out = Series { labels: first.labels, floats, histograms, order: 0 };
    // A timestamp is in one of the two columns: the histogram gives way.
    if !out.histograms.timestamps.is_empty() && !out.floats.is_empty() {
        let taken: HashSet<i64> = out.floats.timestamps.iter().copied().collect();
        let keep: Vec<bool> = out.histograms.timestamps.iter().map(|t| !taken.contains(t)).collect();
        let h = &mut out.histograms;
        let mut i = 0..;
        h.values.retain(|_| keep.get(i.next().unwrap_or(0)).copied().unwrap_or(true));
        if !h.start_timestamps.is_empty() {
            let mut i = 0..;
            h.start_timestamps.retain(|_| keep.get(i.next().unwrap_or(0)).copied().unwrap_or(true));
        }
        h.timestamps.retain(|t| !taken.contains(t));
    }
    out
}

fn merge_floats(a: &FloatColumn, b: &FloatColumn) -> FloatColumn {
    if b.is_empty() {
        return a.clone();
    }
    if a.is_empty() {
        return b.clone();
    }
    let starts = a.start_timestamps.is_some() || b.start_timestamps.is_some();
    let n = a.len() + b.len();
    let (mut times, mut values, mut start_times) = (Vec::with_capacity(n), Vec::with_capacity(n), Vec::new());
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        let of_a = match (a.timestamps.get(i), b.timestamps.get(j)) {
            (Some(x), Some(y)) => x <= y,
            (x, _) => x.is_some(),
        };
        let (column, at) = if of_a { (a, i) } else { (b, j) };
        let time = column.timestamps[at];
        times.push(time);
        values.push(column.values.at(at));
        if starts {
            start_times.push(column.start_timestamps.as_ref().map_or(0, |s| s[at]));
        }
        i += usize::from(a.timestamps.get(i) == Some(&time));
        j += usize::from(b.timestamps.get(j) == Some(&time));
    }
    FloatColumn {
        timestamps: Arc::from(times),
        values: Values::Dense(values),
        start_timestamps: starts.then(|| Arc::from(start_times)),
    }
}

fn merge_histograms(a: HistogramColumn, b: HistogramColumn) -> HistogramColumn {
    if b.timestamps.is_empty() {
        return a;
    }
    if a.timestamps.is_empty() {
        return b;
    }
    let starts = !a.start_timestamps.is_empty() || !b.start_timestamps.is_empty();
    let rows = |c: HistogramColumn| {
        let starts = c.start_timestamps.into_iter().chain(std::iter::repeat(0));
        c.timestamps.into_iter().zip(c.values).zip(starts).collect::<Vec<_>>()
    };
    let mut all = rows(a);
    all.extend(rows(b));
    // Stable, so that of equal times the first column's stays.
    all.sort_by_key(|((t, _), _)| *t);
    all.dedup_by_key(|((t, _), _)| *t);
    let mut out = HistogramColumn::default();
    for ((time, value), start) in all {
        out.timestamps.push(time);
        out.values.push(value);
        if starts {
            out.start_timestamps.push(start);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, samples: &[(i64, f64)]) -> Series {
        let (times, values): (Vec<i64>, Vec<f64>) = samples.iter().copied().unzip();
        Series {
            labels: Labels::from_pairs([("__name__", name)]),
            floats: FloatColumn::new(times, values),
            ..Series::default()
        }
    }

    #[test]
    fn a_series_of_two_shards_is_one_with_the_samples_of_both() {
        let a = series("m", &[(1, 1.0), (2, 2.0), (5, 5.0)]);
        let b = series("m", &[(2, 9.0), (3, 3.0), (7, 7.0)]);
        let merged = merge_two(a, b);
        let samples: Vec<_> = merged.floats.iter().collect();
        assert_eq!(samples, [(1, 1.0), (2, 2.0), (3, 3.0), (5, 5.0), (7, 7.0)]);
    }

    #[test]
    fn others_stay_in_their_batches_with_shared_timestamps() {
        let times: Arc<[i64]> = Arc::from([1, 2]);
        let shared = |name: &str| Series {
            labels: Labels::from_pairs([("__name__", name)]),
            floats: FloatColumn { timestamps: times.clone(), values: Values::Constant(1.0), start_timestamps: None },
            ..Series::default()
        };
        let local = SeriesSet::from_series(vec![shared("a"), shared("b"), series("m", &[(1, 1.0)])]);
        let bytes = super::super::codec::tests::stream(vec![Batch { series: vec![series("m", &[(2, 2.0)])] }], &[]);
        let stream = Stream::check(&bytes).unwrap();
        let batches: Vec<Batch> = merge(local, vec![(stream, Meter::default().hold_nothing())], Meter::default())
            .batches
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(batches.len(), 2);
        assert!(Arc::ptr_eq(&batches[0].series[0].floats.timestamps, &batches[0].series[1].floats.timestamps));
        assert_eq!(batches[1].series[0].floats.len(), 2);
    }
}
