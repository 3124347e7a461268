//! Deleting samples: hidden from queries at once by tombstones, taken out of blocks by
//! [`Inner::clean`](crate::store::Inner::clean).

use hashbrown::HashMap;
use narthex_storage::{FloatColumn, HistogramColumn, Values};

use crate::TsdbError;
use crate::block::Block;
use crate::blocks::{BesideBuilder, ColumnData, Stored, decode_block, encode_rows};
use crate::codec::Effort;
use crate::db::{Db, Family, Op};
use crate::merge::blank;
use crate::series::SeriesId;
use crate::wire::{Reader, put_i64};

const PREFIX: &[u8] = b"tombstone/";
const END: &[u8] = b"tombstone0";

/// Deleted ranges of a series, closed.
pub type Ranges = Vec<(i64, i64)>;
pub type Tombstones = HashMap<SeriesId, Ranges, foldhash::fast::FixedState>;

pub fn key(id: SeriesId) -> Vec<u8> {
    [PREFIX, &id.to_be_bytes()[..]].concat()
}

/// Deletes the records of all tombstones.
pub fn forget_all() -> Op {
    Op::DeleteRange(Family::Meta, PREFIX.into(), END.into())
}

pub fn put(id: SeriesId, ranges: &Ranges) -> Op {
    let mut value = Vec::new();
    for (from, to) in ranges {
        put_i64(&mut value, *from);
        put_i64(&mut value, *to);
    }
    Op::Put(Family::Meta, key(id), value)
}

pub fn load(db: &Db) -> Result<Tombstones, TsdbError> {
    let mut all = Tombstones::default();
    db.scan(Family::Meta, PREFIX, Some(END), |key, value| {
        let id = key.get(PREFIX.len()..).and_then(|id| Some(u32::from_be_bytes(id.try_into().ok()?)));
        let mut r = Reader::new(value);
        let mut ranges = Ranges::new();
        while let (Some(from), Some(to)) = (r.i64(), r.i64()) {
            ranges.push((from, to));
        }
        if let Some(id) = id {
            all.insert(id, ranges);
        }
        true
    })?;
    Ok(all)
}

/// Adds a range, joined with those that it touches.
pub fn add(ranges: &mut Ranges, range: (i64, i64)) {
    let (mut from, mut to) = range;
    ranges.retain(|r| {
        let touches = r.0 <= to.saturating_add(1) && from <= r.1.saturating_add(1);
        if touches {
            (from, to) = (from.min(r.0), to.max(r.1));
        }
        !touches
    });
    ranges.push((from, to));
    ranges.sort_unstable();
}

pub fn is_deleted(ranges: &Ranges, t: i64) -> bool {
    ranges.iter().any(|r| r.0 <= t && t <= r.1)
}

/// Takes deleted samples out.
pub fn hide(ranges: &Ranges, floats: &mut FloatColumn, histograms: &mut HistogramColumn) {
    if floats.timestamps.iter().any(|t| is_deleted(ranges, *t)) {
        let kept: Vec<usize> =
            (0..floats.timestamps.len()).filter(|i| !is_deleted(ranges, floats.timestamps[*i])).collect();
        if let Values::Dense(values) = &mut floats.values {
            *values = kept.iter().map(|i| values[*i]).collect();
        }
        let pick = |all: &[i64]| kept.iter().map(|i| all[*i]).collect();
        floats.start_timestamps = floats.start_timestamps.as_deref().map(pick);
        floats.timestamps = pick(&floats.timestamps);
    }
    let mut kept = histograms.timestamps.iter().map(|t| !is_deleted(ranges, *t)).collect::<Vec<_>>().into_iter();
    histograms.values.retain(|_| kept.next().unwrap_or(true));
    if !histograms.start_timestamps.is_empty() {
        let mut kept = histograms.timestamps.iter().map(|t| !is_deleted(ranges, *t));
        histograms.start_timestamps.retain(|_| kept.next().unwrap_or(true));
    }
    histograms.timestamps.retain(|t| !is_deleted(ranges, *t));
}

/// A block without deleted samples: `None` where it has none, `Some(None)` where nothing is left of it.
///
/// # Errors
/// What is wrong with the bytes, in words.
pub fn without_deleted(
    bytes: &[u8],
    times: &[i64],
    tombstones: &Tombstones,
) -> Result<Option<Option<Vec<u8>>>, String> {
    let known = Block::parse(bytes).map_err(|e| e.to_string())?;
    let deleted = |series: u64| SeriesId::try_from(series).ok().and_then(|id| tombstones.get(&id));
    if !known.columns().iter().any(|c| deleted(c.series).is_some()) {
        return Ok(None);
    }
    let (mut rows, mut beside, mut changed) = (Vec::new(), BesideBuilder::new(), false);
    let nothing = Ranges::new();
    decode_block(
        bytes,
        times,
        |_| true,
        |column| match column {
            Stored::Rows(id, mut cells, starts) => {
                changed |= tombstones.get(&id).is_some_and(|ranges| blank(&mut cells, times, ranges));
                rows.push(ColumnData { id, cells, starts });
            }
            Stored::Floats(id, mut samples, starts) => {
                let ranges = tombstones.get(&id).unwrap_or(&nothing);
                let before = samples.len();
                samples.retain(|s| !is_deleted(ranges, s.0));
                changed |= samples.len() != before;
                beside.floats(id, &samples, &starts);
            }
            Stored::Histograms(id, mut samples, starts) => {
                let ranges = tombstones.get(&id).unwrap_or(&nothing);
                let before = samples.len();
                samples.retain(|s| !is_deleted(ranges, s.0));
                changed |= samples.len() != before;
                beside.histograms(id, &samples, &starts);
            }
        },
    )?;
    if !changed {
        return Ok(None);
    }
    // A block holds either rows or samples with own timestamps, never both.
    Ok(Some(if known.rows() > 0 { encode_rows(times, &rows, Effort::Best) } else { beside.finish() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join() {
        let mut ranges = Ranges::new();
        for range in [(10, 20), (30, 40), (21, 25), (i64::MIN, 5), (27, 29)] {
            add(&mut ranges, range);
        }
        assert_eq!(ranges, [(i64::MIN, 5), (10, 25), (27, 40)]);
        assert!(is_deleted(&ranges, 25) && !is_deleted(&ranges, 26));
    }

    #[test]
    fn deleted_samples_vanish() {
        let mut floats = FloatColumn::new(vec![1, 2, 3, 4], vec![1.0, 2.0, 3.0, 4.0]);
        let mut histograms = HistogramColumn::default();
        hide(&vec![(2, 3)], &mut floats, &mut histograms);
        assert_eq!(floats.iter().collect::<Vec<_>>(), [(1, 1.0), (4, 4.0)]);
    }
}
