//! Putting the pieces of a series together: windows in memory, blocks, samples beside the rows, columns in several
//! groups. What pieces of several series have in common, above all timestamps, is shared among them.

use std::sync::Arc;

use hashbrown::HashMap;
use narthex_storage::{FloatColumn, Values};
use smallvec::SmallVec;

use crate::row::is_absent;
use crate::window::Cells;

/// A stretch of the shared timestamps of a group, in the order of time within one group.
pub type PartId = usize;

/// Pieces of one series' floats.
#[derive(Default)]
pub struct Pieces {
    /// By part, in the order of the parts.
    shared: SmallVec<[(PartId, Cells); 1]>,
    /// Some cells of these may be absent.
    gaps: bool,
    /// Sorted by time.
    pub own: Vec<(i64, f64)>,
    /// From which timestamp on which start timestamp holds, sorted.
    pub starts: Vec<(i64, i64)>,
}

impl Pieces {
    /// Adds the cells of a part, which comes after those that are there.
    pub fn push(&mut self, part: PartId, cells: Cells) {
        // Now, while they are in the processor's cache.
        self.gaps |= match &cells {
            Cells::Constant(v) => is_absent(*v),
            Cells::Dense(v) => any_absent(v),
        };
        self.shared.push((part, cells));
    }
}

narthex_model::wide! {
    /// Looks at all of them: branches cost more.
    fn any_absent(values: &[f64]) -> bool {
        values.iter().fold(false, |any, v| any | is_absent(*v))
    }
}

/// The shared timestamps of a batch of series.
#[derive(Default)]
pub struct Assembler {
    parts: Vec<Arc<[i64]>>,
    joined: HashMap<Vec<PartId>, Option<Arc<[i64]>>, foldhash::fast::FixedState>,
    /// Of `joined` what was asked for last: series mostly come in the same parts.
    last: Option<(SmallVec<[PartId; 4]>, Option<Arc<[i64]>>)>,
    previous: Option<Arc<[i64]>>,
    known: KnownTimes,
}

/// Timestamps of batches before: of equal ones there is one, so that who evaluates them finds windows once.
pub type KnownTimes = Vec<Arc<[i64]>>;

/// So many timestamps are known at most.
const KNOWN: usize = 8;

impl Assembler {
    pub fn new(known: KnownTimes) -> Assembler {
        Assembler { known, ..Assembler::default() }
    }

    pub fn into_known(self) -> KnownTimes {
        self.known
    }

    pub fn add_part(&mut self, times: &[i64], whole: Option<&Arc<[i64]>>) -> PartId {
        let times = self.share(times, whole);
        self.parts.push(times);
        self.parts.len() - 1
    }

    /// The timestamps as they are known; `whole` is where they lie, if that is nothing but they.
    fn share(&mut self, times: &[i64], whole: Option<&Arc<[i64]>>) -> Arc<[i64]> {
        if let Some(known) = self.known.iter().rfind(|known| ***known == *times) {
            return known.clone();
        }
        let times = whole.map_or_else(|| times.into(), Arc::clone);
        if self.known.len() >= KNOWN {
            self.known.remove(0);
        }
        self.known.push(times.clone());
        times
    }

    /// The timestamps of these parts one after the other; `None` where they overlap.
    fn join(&mut self, parts: &[PartId]) -> Option<Arc<[i64]>> {
        if let [one] = parts {
            return Some(self.parts[*one].clone());
        }
        if let Some((_, known)) = self.last.as_ref().filter(|(last, _)| last[..] == *parts) {
            return known.clone();
        }
        let joined = self.join_anew(parts);
        self.last = Some((parts.into(), joined.clone()));
        joined
    }

    fn join_anew(&mut self, parts: &[PartId]) -> Option<Arc<[i64]>> {
        if let Some(known) = self.joined.get(parts) {
            return known.clone();
        }
        let times: Vec<i64> = parts.iter().flat_map(|p| self.parts[*p].iter().copied()).collect();
        let joined = times.is_sorted_by(|a, b| a < b).then(|| self.share(&times, None));
        self.joined.insert(parts.to_vec(), joined.clone());
        joined
    }

    /// One column of all pieces; empty where there is nothing.
    pub fn floats(&mut self, mut pieces: Pieces) -> FloatColumn {
        let (parts, times) = (&self.parts, |p: &PartId| self.parts[*p].len());
        let gaps = pieces.gaps;
        // Mostly there is one piece, without gaps.
        if !gaps
            && let ([(p, cells)], []) = (&mut pieces.shared[..], &pieces.own[..])
            && times(p) > 0
        {
            let values = match cells {
                Cells::Constant(v) => constant(*v, times(p)),
                Cells::Dense(v) => Values::Dense(std::mem::take(v)),
            };
            let timestamps = parts[*p].clone();
            let start_timestamps = if pieces.starts.is_empty() { None } else { starts(&pieces.starts, &timestamps) };
            return FloatColumn { timestamps, values, start_timestamps };
        }
        pieces.shared.retain(|(p, cells)| {
            !parts[*p].is_empty()
                && match cells {
                    Cells::Constant(v) => !is_absent(*v),
                    Cells::Dense(v) => !gaps || v.iter().any(|v| !is_absent(*v)),
                }
        });
        if pieces.shared.is_empty() && pieces.own.is_empty() {
            return FloatColumn::default();
        }
        let has_gaps = |cells: &Cells| matches!(cells, Cells::Dense(v) if any_absent(v));
        let full = pieces.own.is_empty() && !(gaps && pieces.shared.iter().any(|(_, cells)| has_gaps(cells)));
        let mut column = None;
        if full {
            let lengths: SmallVec<[usize; 4]> = pieces.shared.iter().map(|(p, _)| times(p)).collect();
            let ids: SmallVec<[PartId; 4]> = pieces.shared.iter().map(|p| p.0).collect();
            if let Some(times) = self.join(&ids) {
                let cells = std::mem::take(&mut pieces.shared).into_iter().map(|p| p.1).zip(lengths);
                column = Some(FloatColumn { timestamps: times, values: values(cells), start_timestamps: None });
            }
        }
        let mut column = column.unwrap_or_else(|| self.merge(&pieces));
        if !pieces.starts.is_empty() {
            column.start_timestamps = starts(&pieces.starts, &column.timestamps);
        }
        column
    }

    /// The slow way: sample by sample, of equal timestamps the first piece's.
    fn merge(&mut self, pieces: &Pieces) -> FloatColumn {
        let mut samples: Vec<(i64, f64)> = Vec::new();
        for (p, cells) in &pieces.shared {
            let times = &self.parts[*p];
            match cells {
                Cells::Constant(v) => samples.extend(times.iter().map(|t| (*t, *v))),
                Cells::Dense(values) => {
                    samples.extend(times.iter().copied().zip(values.iter().copied()).filter(|s| !is_absent(s.1)));
                }
            }
        }
        samples.extend_from_slice(&pieces.own);
        if !samples.is_sorted_by(|a, b| a.0 < b.0) {
            samples.sort_by_key(|s| s.0);
            samples.dedup_by_key(|s| s.0);
        }
        let same =
            |times: &Arc<[i64]>| times.len() == samples.len() && times.iter().zip(&samples).all(|(t, s)| *t == s.0);
        let times = match self.previous.take().filter(same) {
            Some(times) => times,
            None => samples.iter().map(|s| s.0).collect(),
        };
        self.previous = Some(times.clone());
        FloatColumn {
            timestamps: times,
            values: Values::Dense(samples.into_iter().map(|s| s.1).collect()),
            start_timestamps: None,
        }
    }
}

/// `len` times the same value.
fn constant(v: f64, len: usize) -> Values {
    if narthex_model::is_stale(v) { Values::Dense(vec![v; len]) } else { Values::Constant(v) }
}

fn values(mut cells: impl Iterator<Item = (Cells, usize)>) -> Values {
    let mut dense = match cells.next() {
        None => return Values::Dense(Vec::new()),
        Some((Cells::Dense(v), _)) => v,
        Some((Cells::Constant(first), n)) => {
            let mut count = n;
            loop {
                match cells.next() {
                    None => return constant(first, count),
                    Some((Cells::Constant(v), n)) if v.to_bits() == first.to_bits() => count += n,
                    Some((next, n)) => {
                        let mut dense = vec![first; count];
                        push(&mut dense, next, n);
                        break dense;
                    }
                }
            }
        }
    };
    for (cells, n) in cells {
        push(&mut dense, cells, n);
    }
    Values::Dense(dense)
}

fn push(dense: &mut Vec<f64>, cells: Cells, n: usize) {
    match cells {
        Cells::Constant(v) => dense.resize(dense.len() + n, v),
        Cells::Dense(v) => dense.extend(v),
    }
}

fn starts(changes: &[(i64, i64)], times: &[i64]) -> Option<Arc<[i64]>> {
    let mut current = 0;
    let mut changes = changes.iter().peekable();
    let starts: Vec<i64> = times
        .iter()
        .map(|t| {
            while let Some((_, start)) = changes.next_if(|c| c.0 <= *t) {
                current = *start;
            }
            current
        })
        .collect();
    starts.iter().any(|s| *s != 0).then(|| starts.into())
}
