//! Filling the index at start: series come in bulk, as numbers of pairs that were interned once per table, and the sets
//! of all pairs are built at the end, in one pass.

use roaring::RoaringBitmap;

use super::SeriesId;
use super::active::{ActiveIndex, Data, HEAD, PairId};
use super::ids::{IdSet, bitmap_of};

/// What became of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    New,
    /// The labels are there, under this id.
    Known(SeriesId),
    /// The id is there, with other labels.
    Conflict,
}

/// An index that is being filled. Nothing finds a series by label before [`Bulk::finish`].
pub struct Bulk {
    index: ActiveIndex,
    ids: Vec<SeriesId>,
    list: Vec<u32>,
}

impl Bulk {
    /// # Panics
    /// When the index is not empty: that is a mistake of the caller.
    pub fn new(index: ActiveIndex) -> Bulk {
        assert!(index.is_empty(), "filling an index that has series");
        Bulk { index, ids: Vec::new(), list: Vec::new() }
    }

    /// Room for so many more series.
    pub fn reserve(&mut self, series: usize) {
        self.index.reserve(series);
        self.ids.reserve(series);
    }

    /// The number of a label pair.
    pub fn intern(&mut self, name: &str, value: &str) -> PairId {
        self.index.intern(name, value)
    }

    /// Adds a series. `pairs` are its labels in the order of names, `hash` is `Labels::hash_of_text` of them.
    pub fn add(&mut self, id: SeriesId, hash: u128, pairs: impl Iterator<Item = PairId>, data: Data) -> Added {
        let hash = self.index.fold(hash);
        self.list.clear();
        self.list.extend_from_slice(&[id, 0, hash as u32, (hash >> 32) as u32]);
        self.list.extend_from_slice(&data);
        self.list.extend(pairs);
        if let Some(known) = self.index.find_list(hash, &self.list[HEAD..]) {
            return Added::Known(known);
        }
        if self.index.data(id).is_some() {
            return Added::Conflict;
        }
        self.index.push(&mut self.list, hash);
        self.ids.push(id);
        Added::New
    }

    /// Under which labels are hashed for [`Bulk::add`].
    pub fn seed(&self) -> u64 {
        self.index.seed()
    }

    /// The index, with the series of every pair.
    pub fn finish(mut self) -> ActiveIndex {
        // By counting: where the ids of each pair begin in one list, then the ids.
        let mut ends = vec![0usize; self.index.pair_slots() + 1];
        self.index.each_list(|_, pairs| {
            for pair in pairs {
                ends[*pair as usize + 1] += 1;
            }
        });
        let mut total = 0;
        for end in &mut ends {
            total += *end;
            *end = total;
        }
        let mut ids: Vec<SeriesId> = vec![0; total];
        let mut next = ends.clone();
        self.index.each_list(|id, pairs| {
            for pair in pairs {
                let at = &mut next[*pair as usize];
                ids[*at] = id;
                *at += 1;
            }
        });
        drop(next);
        // Where each pair's part of the list ends; cut into two halves of the same work, one for each thread.
        let slots = self.index.pair_slots();
        let middle = ends.partition_point(|end| *end < total / 2).min(slots);
        let (low, high) = ids.split_at_mut(ends[middle]);
        let build = |from: usize, to: usize, ids: &mut [SeriesId]| -> Vec<IdSet> {
            (from..to)
                .map(|pair| {
                    let of_pair = &mut ids[ends[pair] - ends[from]..ends[pair + 1] - ends[from]];
                    if !of_pair.is_sorted() {
                        of_pair.sort_unstable();
                    }
                    IdSet::from_sorted(of_pair)
                })
                .collect()
        };
        let (first, second) = std::thread::scope(|scope| {
            let second = std::thread::Builder::new().spawn_scoped(scope, || build(middle, slots, &mut high[..]));
            let first = build(0, middle, &mut *low);
            let second = second.ok().and_then(|thread| thread.join().ok());
            (first, second)
        });
        let second = second.unwrap_or_else(|| build(middle, slots, &mut *high));
        self.index.set_sets(first.into_iter().chain(second));
        self.ids.sort_unstable();
        let all: RoaringBitmap = bitmap_of(&self.ids);
        self.index.set_all(all);
        self.index
    }
}
