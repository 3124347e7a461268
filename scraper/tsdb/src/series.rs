//! The series that are in memory: labels, where their columns are, and when they began.
//!
//! A series that leaves memory and comes back gets a new id; readers merge by labels.
//!
//! Everything but further columns lies in the index, in the head of each series' list.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use narthex_model::{Labels, Matcher};
use roaring::RoaringBitmap;

pub use crate::index::SeriesId;
use crate::index::{ActiveIndex, Data};

/// A column of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Home {
    pub group: u32,
    pub column: u32,
}

pub struct Registry {
    pub index: ActiveIndex,
    /// Further columns of a series: other groups may have it too (two targets with the same labels).
    extra: HashMap<SeriesId, Vec<Home>, foldhash::fast::FixedState>,
    /// The series by the day of their first sample; those without one are not in it.
    by_day: BTreeMap<i32, RoaringBitmap>,
    /// Series in one column that had no sample in the last rows of the last window that was closed with any: the minute
    /// of their last one there. They may have come back since.
    ended: HashMap<SeriesId, i32, foldhash::fast::FixedState>,
    /// The minute of the first sample of all; `i32::MAX` before there is one.
    oldest: i32,
}

pub fn minute(t: i64) -> i32 {
    t.div_euclid(60_000).clamp(i64::from(i32::MIN), i64::from(i32::MAX) - 1) as i32
}

fn day(minute: i32) -> i32 {
    minute.div_euclid(24 * 60)
}

/// First minute and first column, as the index keeps them.
pub fn pack(first_minute: i32, home: Home) -> Data {
    [first_minute as u32, home.group, home.column]
}

fn unpack(data: Data) -> (i32, Home) {
    (data[0] as i32, Home { group: data[1], column: data[2] })
}

impl Registry {
    /// One over an index that was filled in bulk.
    pub fn of(index: ActiveIndex) -> Registry {
        let mut by_day: BTreeMap<i32, RoaringBitmap> = BTreeMap::new();
        let mut oldest = i32::MAX;
        for id in index.series() {
            let first = index.data(id).map_or(i32::MAX, |data| unpack(data).0);
            if first != i32::MAX {
                oldest = oldest.min(first);
                by_day.entry(day(first)).or_default().insert(id);
            }
        }
        Registry { index, by_day, extra: HashMap::default(), ended: HashMap::default(), oldest }
    }

    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Labels are compared.
    pub fn find(&self, labels: &Labels) -> Option<SeriesId> {
        self.index.find(labels).map(|found| found.0)
    }

    /// A series with its first column; labels are told by their hash (see [`ActiveIndex::find_quick`]).
    pub fn find_home(&self, labels: &Labels) -> Option<(SeriesId, Home)> {
        self.index.find_quick(labels).map(|(id, data)| (id, unpack(data).1))
    }

    /// When the series began, and its first column.
    pub fn start(&self, id: SeriesId) -> Option<(i32, Home)> {
        self.index.data(id).map(unpack)
    }

    pub fn labels(&self, id: SeriesId) -> Option<Labels> {
        self.index.labels(id)
    }

    /// The value of the label `__name__`; empty where the series has none.
    pub fn metric_name(&self, id: SeriesId) -> Option<&str> {
        let name = self.index.label_texts(id)?.find(|label| label.0 == narthex_model::METRIC_NAME);
        Some(name.map_or("", |label| label.1))
    }

    /// [`Registry::labels`] and [`Registry::start`].
    pub fn labels_and_start(&self, id: SeriesId) -> Option<(Labels, i32, Home)> {
        let (labels, data) = self.index.labels_and_data(id)?;
        let (first_minute, home) = unpack(data);
        Some((labels, first_minute, home))
    }

    /// The minute of its first sample; `i32::MAX` while there is none.
    pub fn first_minute(&self, id: SeriesId) -> i32 {
        self.start(id).map_or(i32::MAX, |s| s.0)
    }

    /// The minute of the first sample that any series had, since the store was opened; `i32::MAX` where there is none.
    pub fn oldest(&self) -> i32 {
        self.oldest
    }

    /// Notes that the series has a sample at `t`.
    pub fn note_time(&mut self, id: SeriesId, t: i64) {
        let Some((first, home)) = self.start(id) else { return };
        let t = minute(t);
        if t < first {
            self.oldest = self.oldest.min(t);
            self.index.set_data(id, pack(t, home));
            self.leave_day(id, first);
            self.by_day.entry(day(t)).or_default().insert(id);
        }
    }

    fn leave_day(&mut self, id: SeriesId, first_minute: i32) {
        if let Some(ids) = self.by_day.get_mut(&day(first_minute)) {
            ids.remove(id);
            if ids.is_empty() {
                self.by_day.remove(&day(first_minute));
            }
        }
    }

    /// Notes which series ended within a window that was closed, with the minute of their last sample in it, and which
    /// of those noted before went on in it.
    pub fn note_ends(&mut self, ended: &[(SeriesId, i32)], went_on: &[SeriesId]) {
        for id in went_on {
            self.ended.remove(id);
        }
        for (id, last) in ended {
            if self.further_homes(*id).next().is_none() {
                self.ended.insert(*id, *last);
            }
        }
    }

    /// The minute in which the series ended, if it did not come back since: see [`Registry::note_ends`].
    pub fn end(&self, id: SeriesId) -> Option<i32> {
        self.ended.get(&id).copied()
    }

    /// Those of `ids` that had ended before a minute, by their homes.
    pub fn ended_before(&self, ids: &RoaringBitmap, before: i32) -> Vec<(SeriesId, Home)> {
        let ended = self.ended.iter().filter(|(id, last)| **last < before && ids.contains(**id));
        ended.filter_map(|(id, _)| Some((*id, self.start(*id)?.1))).collect()
    }

    /// Takes out the series that began on a later day than that of `maxt`.
    pub fn without_later(&self, ids: &mut RoaringBitmap, maxt: i64) {
        use std::ops::Bound::{Excluded, Unbounded};
        for later in self.by_day.range((Excluded(day(minute(maxt))), Unbounded)) {
            *ids -= later.1;
        }
    }

    /// Takes out the series that began on the day of `maxt`, in a later minute.
    pub fn without_later_that_day(&self, ids: &mut RoaringBitmap, maxt: i64) {
        let minute = minute(maxt);
        let Some(that_day) = self.by_day.get(&day(minute)) else { return };
        let later: RoaringBitmap = (that_day & &*ids).iter().filter(|id| self.first_minute(*id) > minute).collect();
        *ids -= later;
    }

    /// The columns of a series beside its first one.
    pub fn further_homes(&self, id: SeriesId) -> impl Iterator<Item = Home> + '_ {
        let further = if self.extra.is_empty() { None } else { self.extra.get(&id) };
        further.into_iter().flatten().copied()
    }

    /// All columns of a series.
    pub fn homes(&self, id: SeriesId) -> impl Iterator<Item = Home> + '_ {
        let first = self.start(id).map(|s| s.1);
        first.into_iter().chain(self.further_homes(id))
    }

    /// Adds a series that is not there yet.
    pub fn insert(&mut self, labels: &Labels, id: SeriesId, home: Home, first_minute: i32) {
        self.index.add(id, labels, pack(first_minute, home));
        if first_minute != i32::MAX {
            self.by_day.entry(day(first_minute)).or_default().insert(id);
        }
    }

    /// Adds a column to a series.
    pub fn add_home(&mut self, id: SeriesId, home: Home) {
        self.ended.remove(&id);
        if !self.homes(id).any(|h| h == home) {
            self.extra.entry(id).or_default().push(home);
        }
    }

    /// Takes a column away. `true`: it was the last, and the series has to be forgotten ([`Registry::forget`]).
    pub fn remove_home(&mut self, id: SeriesId, home: Home) -> bool {
        let Some((minute, first)) = self.start(id) else { return false };
        let Some(extra) = self.extra.get_mut(&id) else { return first == home };
        if first == home {
            let next = extra.swap_remove(0);
            self.index.set_data(id, pack(minute, next));
        } else {
            extra.retain(|h| *h != home);
        }
        if extra.is_empty() {
            self.extra.remove(&id);
        }
        false
    }

    /// Forgets series.
    pub fn forget(&mut self, gone: &RoaringBitmap) {
        self.index.remove(gone);
        self.ended.retain(|id, _| !gone.contains(*id));
        self.by_day.retain(|_, ids| {
            *ids -= gone;
            !ids.is_empty()
        });
    }

    /// The series that satisfy all matchers.
    pub fn select(&self, matchers: &[Matcher]) -> RoaringBitmap {
        self.index.select(matchers)
    }

    /// Bytes beside those of the index.
    pub fn heap_bytes(&self) -> usize {
        let days: usize = self.by_day.values().map(RoaringBitmap::serialized_size).sum();
        days + self.extra.allocation_size()
            + self.ended.allocation_size()
            + self.extra.values().map(|h| h.capacity() * size_of::<Home>()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(name: &str, i: usize) -> Labels {
        Labels::from_pairs([("__name__", name.to_owned()), ("i", i.to_string())])
    }

    #[test]
    fn series_come_and_go() {
        let mut r = Registry::of(ActiveIndex::default());
        let home = |i: usize| Home { group: 1, column: i as u32 };
        for i in 0..100 {
            r.insert(&labels("m", i), i as u32, home(i), 5);
        }
        let other = Home { group: 2, column: 0 };
        r.add_home(7, other);
        assert!(!r.remove_home(7, home(7)), "another group still has it");
        assert_eq!(r.homes(7).collect::<Vec<_>>(), [other]);
        assert!(r.remove_home(7, other));
        r.forget(&[7].into());
        assert!(r.find(&labels("m", 7)).is_none());
        r.insert(&labels("n", 7), 1000, home(7), i32::MAX);
        r.note_time(1000, -1);
        assert_eq!((r.find(&labels("n", 7)), r.first_minute(1000)), (Some(1000), -1));
        let m = Matcher::equal("__name__", "m");
        assert_eq!((r.select(std::slice::from_ref(&m)).len(), r.select(&[]).len(), r.len()), (99, 100, 100));
        assert_eq!(r.select(&[m, Matcher::equal("i", "9")]).into_iter().collect::<Vec<_>>(), [9]);
        let mut all = r.select(&[]);
        r.without_later(&mut all, 5 * 60_000);
        assert_eq!(all.len(), 100);
        r.without_later(&mut all, -2);
        assert_eq!(all.into_iter().collect::<Vec<_>>(), [1000], "the others began on the day after");
    }
}
