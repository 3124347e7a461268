//! Columns of a block that queries asked for more than once, decoded.
//!
//! Whoever looks at a dashboard asks for the same hours again every few seconds. Copying a decoded column costs a tenth of
//! decoding it, so of blocks that are asked for again the wanted columns are decoded whole and kept, as long as there is
//! room ([`crate::cached`]). Columns of histograms, with start timestamps or with timestamps of their own are not.

use std::ops::Range;

use parking_lot::RwLock;

use crate::block::{Block, Need};
use crate::blocks::{SharedTimes, Stored, decode_rows};
use crate::series::SeriesId;
use crate::window::Cells;

/// What is decoded of a block.
pub struct DecodedBlock {
    columns: RwLock<Columns>,
    /// Most bytes of columns that are kept.
    limit: usize,
}

struct Columns {
    /// In the order of the block.
    all: Box<[(SeriesId, Kept)]>,
    bytes: usize,
}

enum Kept {
    NotYet,
    Constant(f64),
    Dense(Box<[f64]>),
    /// More than cells, or what there is no room for.
    Never,
}

impl DecodedBlock {
    /// `None` when the block's directory is damaged, which whoever decodes it will say. At most `limit` bytes of columns
    /// will be kept.
    pub fn new(bytes: &[u8], limit: usize) -> Option<DecodedBlock> {
        let block = Block::parse_verified(bytes).ok()?;
        let ids = block.columns().iter().map(|c| SeriesId::try_from(c.series).unwrap_or(SeriesId::MAX));
        let all: Box<[_]> = ids.map(|id| (id, Kept::NotYet)).collect();
        Some(DecodedBlock { columns: RwLock::new(Columns { all, bytes: 0 }), limit })
    }

    /// What it takes without decoded columns.
    pub fn base_bytes(&self) -> usize {
        size_of_val(&*self.columns.read().all)
    }

    /// As [`decode_rows`], of the bytes that it was made from. Returns how many bytes more are kept than before.
    ///
    /// # Errors
    /// What is wrong with the bytes, in words.
    #[allow(clippy::too_many_arguments)]
    pub fn read(
        &self,
        bytes: &[u8],
        shared: &SharedTimes<'_>,
        rows: Range<usize>,
        need: Need,
        room: usize,
        wanted: impl Fn(SeriesId) -> bool,
        mut each: impl FnMut(Stored),
    ) -> Result<usize, String> {
        let cut = |cells: &[f64]| {
            let mut out = Vec::with_capacity(rows.len().max(room));
            out.extend_from_slice(cells.get(rows.clone()).unwrap_or_default());
            Cells::Dense(out)
        };
        let (mut new, mut others) = (Vec::new(), Vec::new());
        let columns = self.columns.read();
        for (id, column) in &columns.all {
            if !wanted(*id) {
                continue;
            }
            let cells = match column {
                Kept::NotYet => {
                    new.push(*id);
                    continue;
                }
                Kept::Never => {
                    others.push(*id);
                    continue;
                }
                Kept::Constant(v) => Cells::Constant(*v),
                Kept::Dense(cells) => cut(cells),
            };
            each(Stored::Rows(*id, cells, Vec::new()));
        }
        let kept = columns.bytes;
        drop(columns);
        let room_left = self.limit.saturating_sub(kept) / (shared.times.len() * size_of::<f64>()).max(1);
        if need == Need::Presence || new.len() > room_left {
            others.append(&mut new);
        }
        if !others.is_empty() {
            others.sort_unstable();
            let among = |id: SeriesId| others.binary_search(&id).is_ok();
            decode_rows(bytes, shared, rows.clone(), need, room, among, &mut each)?;
        }
        if new.is_empty() {
            return Ok(0);
        }
        new.sort_unstable();
        let among = |id: SeriesId| new.binary_search(&id).is_ok();
        let mut found: Vec<(SeriesId, Kept)> = Vec::with_capacity(new.len());
        decode_rows(bytes, shared, 0..shared.times.len(), Need::Values, 0, among, |stored| match stored {
            Stored::Rows(id, Cells::Constant(v), starts) if starts.is_empty() => {
                each(Stored::Rows(id, Cells::Constant(v), starts));
                found.push((id, Kept::Constant(v)));
            }
            Stored::Rows(id, Cells::Dense(cells), starts) => {
                let keep = starts.is_empty();
                each(Stored::Rows(id, cut(&cells), starts));
                found.push((id, if keep { Kept::Dense(cells.into_boxed_slice()) } else { Kept::Never }));
            }
            other => {
                found.push((other.id(), Kept::Never));
                each(other);
            }
        })?;
        Ok(self.keep(found))
    }

    fn keep(&self, found: Vec<(SeriesId, Kept)>) -> usize {
        let mut columns = self.columns.write();
        let before = columns.bytes;
        let mut found = found.into_iter().peekable();
        // Both are in the order of the block.
        let Columns { all, bytes } = &mut *columns;
        for (id, column) in all {
            let Some((_, new)) = found.next_if(|f| f.0 == *id) else { continue };
            // Another query may have been faster.
            if matches!(column, Kept::NotYet) {
                *bytes += if let Kept::Dense(cells) = &new { size_of_val(&**cells) } else { 0 };
                *column = new;
            }
        }
        columns.bytes - before
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::blocks::{ColumnData, encode_rows};
    use crate::codec::Effort;
    use crate::row::{absent, is_absent};

    const ROWS: usize = 700;

    /// Columns of all kinds, of which the third is relative to the second.
    fn block() -> (Vec<i64>, Arc<[u8]>) {
        let times: Vec<i64> = (0..ROWS as i64).map(|i| i * 15_000).collect();
        let noise = |i: usize| ((i * 7919) % 1009) as f64;
        let column = |id, cells: Vec<f64>| ColumnData { id, cells: Cells::Dense(cells), starts: Vec::new() };
        let mut columns = vec![
            ColumnData { id: 3, cells: Cells::Constant(4.5), starts: Vec::new() },
            column(4, (0..ROWS).map(|i| i as f64 * 100.0 + noise(i)).collect()),
            column(5, (0..ROWS).map(|i| i as f64 * 100.0 + noise(i) + 2.0).collect()),
            column(9, (0..ROWS).map(|i| if i % 50 < 20 { absent() } else { noise(i) }).collect()),
            column(2, (0..ROWS).map(|i| if i < 600 { absent() } else { 0.1 * noise(i) }).collect()),
            column(7, (0..ROWS).map(|i| f64::from_bits(noise(i).to_bits() ^ 0x5a5a_1234 << (i % 20))).collect()),
        ];
        columns.push(column(8, (0..ROWS).map(noise).collect()));
        columns[6].starts = vec![(0, 0), (1_500_000, 1_400_000)];
        let bytes = encode_rows(&times, &columns, Effort::Best).expect("a block");
        (times, bytes.into())
    }

    type Cell = (SeriesId, usize, u64);

    /// The cells that are there, by series and row, and from when on which start timestamp holds.
    fn cells(rows: &Range<usize>, found: Vec<Stored>) -> (Vec<Cell>, BTreeMap<SeriesId, Vec<(i64, i64)>>) {
        let (mut all, mut all_starts) = (Vec::new(), BTreeMap::new());
        for stored in found {
            let Stored::Rows(id, cells, starts) = stored else { panic!("not rows") };
            if !starts.is_empty() {
                all_starts.insert(id, starts);
            }
            let at = |row: usize| match &cells {
                Cells::Constant(v) => *v,
                Cells::Dense(cells) => cells[row - rows.start],
            };
            all.extend(rows.clone().filter(|r| !is_absent(at(*r))).map(|r| (id, r, at(r).to_bits())));
        }
        all.sort_unstable();
        (all, all_starts)
    }

    proptest! {
        /// Whatever was asked for before, and however much is kept, it answers as decoding does.
        #[test]
        fn answers_as_decoding_does(
            limit in prop_oneof![Just(0), Just(2 * ROWS * 8), Just(1 << 20)],
            questions in prop::collection::vec((0..=ROWS, 0..=ROWS, any::<u16>(), prop::bool::weighted(0.2)), 1..8),
        ) {
            let (times, bytes) = block();
            let shared = SharedTimes::new(&times);
            let decoded = DecodedBlock::new(&bytes, limit).expect("a block");
            let mut kept = 0;
            for (a, b, wanted, presence) in questions {
                let rows = a.min(b)..a.max(b);
                let wanted = |id: SeriesId| wanted >> id & 1 == 1;
                let need = if presence { Need::Presence } else { Need::Values };
                let (mut expected, mut got) = (Vec::new(), Vec::new());
                decode_rows(&bytes, &shared, rows.clone(), need, 0, wanted, |s| expected.push(s)).expect("decodes");
                kept += decoded.read(&bytes, &shared, rows.clone(), need, 5, wanted, |s| got.push(s)).expect("reads");
                prop_assert!(kept <= limit);
                let ((mut expected, starts), (mut got, got_starts)) = (cells(&rows, expected), cells(&rows, got));
                if presence {
                    expected.iter_mut().chain(&mut got).for_each(|cell| cell.2 = 0);
                }
                prop_assert_eq!(&expected, &got);
                // Start timestamps of columns without samples in these rows mean nothing.
                prop_assert!(starts.iter().all(|(id, s)| got_starts.get(id) == Some(s)));
            }
        }
    }

    #[test]
    fn columns_are_kept_once_asked_for() {
        let (times, bytes) = block();
        let shared = SharedTimes::new(&times);
        let decoded = DecodedBlock::new(&bytes, 1 << 20).expect("a block");
        let read = |id: SeriesId, rows| {
            decoded.read(&bytes, &shared, rows, Need::Values, 0, |i| i == id, |_| ()).expect("reads")
        };
        assert_eq!((read(4, 0..1), read(4, 5..ROWS), read(3, 0..9), read(5, 0..9)), (ROWS * 8, 0, 0, ROWS * 8));
        // With start timestamps.
        assert_eq!(read(8, 0..9), 0);
    }
}
