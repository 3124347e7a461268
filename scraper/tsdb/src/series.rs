//! The series that are in memory: labels, where their columns are, and when they began.
//!
//! A series that leaves memory and comes back gets a new id; readers merge by labels.
//!
//! Series are found by a 128-bit hash of their labels under a seed that is drawn anew in each process: remote write
//! looks every sample's series up, and comparing label texts, which are not kept, would cost several times as much.

use std::hash::{BuildHasher, RandomState};

use hashbrown::{HashMap, HashTable};
use narthex_model::{Labels, Matcher};
use roaring::RoaringBitmap;

use crate::index::ActiveIndex;
pub use crate::index::SeriesId;

/// A column of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Home {
    pub group: u32,
    pub column: u32,
}

/// What is known of a series besides its labels.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    id: SeriesId,
    /// The minute of its first sample; `i32::MAX` while there is none.
    pub first_minute: i32,
    /// The group that brought the series. Other groups may have it too (two targets with the same labels).
    home: Home,
    /// Half of the labels' hash; the other half is where the entry is found.
    hash: u64,
}

pub struct Registry {
    pub index: ActiveIndex,
    entries: Vec<Entry>,
    free: Vec<u32>,
    by_id: HashTable<u32>,
    by_hash: HashTable<u32>,
    /// Further columns of a series.
    extra: HashMap<SeriesId, Vec<Home>, foldhash::fast::FixedState>,
    seed: u64,
}

impl Default for Registry {
    fn default() -> Registry {
        Registry {
            index: ActiveIndex::new(),
            entries: Vec::new(),
            free: Vec::new(),
            by_id: HashTable::new(),
            by_hash: HashTable::new(),
            extra: HashMap::default(),
            seed: RandomState::new().hash_one(0),
        }
    }
}

pub fn minute(t: i64) -> i32 {
    t.div_euclid(60_000).clamp(i64::from(i32::MIN), i64::from(i32::MAX) - 1) as i32
}

fn id_hash(id: SeriesId) -> u64 {
    u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Where an entry lies in the table, of its stored half.
fn spread(hash: u64) -> u64 {
    hash.rotate_left(32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Registry {
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    fn hash(&self, labels: &Labels) -> u64 {
        // Folding the halves loses nothing that matters: 64 bits are compared, under a secret seed.
        let hash = labels.long_hash(self.seed);
        hash as u64 ^ (hash >> 64) as u64
    }

    pub fn find(&self, labels: &Labels) -> Option<SeriesId> {
        self.find_entry(labels).map(|e| e.id)
    }

    /// A series with its first column.
    pub fn find_home(&self, labels: &Labels) -> Option<(SeriesId, Home)> {
        self.find_entry(labels).map(|e| (e.id, e.home))
    }

    fn find_entry(&self, labels: &Labels) -> Option<&Entry> {
        let hash = self.hash(labels);
        let place = self.by_hash.find(spread(hash), |p| self.entries[*p as usize].hash == hash)?;
        Some(&self.entries[*place as usize])
    }

    fn place(&self, id: SeriesId) -> Option<u32> {
        self.by_id.find(id_hash(id), |p| self.entries[*p as usize].id == id).copied()
    }

    fn entry(&self, id: SeriesId) -> Option<&Entry> {
        Some(&self.entries[self.place(id)? as usize])
    }

    pub fn labels(&self, id: SeriesId) -> Option<Labels> {
        self.index.labels(id)
    }

    pub fn first_minute(&self, id: SeriesId) -> i32 {
        self.entry(id).map_or(i32::MAX, |e| e.first_minute)
    }

    /// Notes that the series has a sample at `t`.
    pub fn note_time(&mut self, id: SeriesId, t: i64) {
        if let Some(place) = self.place(id) {
            let entry = &mut self.entries[place as usize];
            entry.first_minute = entry.first_minute.min(minute(t));
        }
    }

    /// All columns of a series.
    pub fn homes(&self, id: SeriesId) -> impl Iterator<Item = Home> + '_ {
        let first = self.entry(id).map(|e| e.home);
        first.into_iter().chain(self.extra.get(&id).into_iter().flatten().copied())
    }

    /// Adds a series that is not there yet.
    pub fn insert(&mut self, labels: &Labels, id: SeriesId, home: Home, first_minute: i32) {
        let hash = self.hash(labels);
        let entry = Entry { id, first_minute, home, hash };
        let place = match self.free.pop() {
            Some(place) => {
                self.entries[place as usize] = entry;
                place
            }
            None => {
                self.entries.push(entry);
                self.entries.len() as u32 - 1
            }
        };
        let entries = &self.entries;
        self.by_id.insert_unique(id_hash(id), place, |p| id_hash(entries[*p as usize].id));
        self.by_hash.insert_unique(spread(hash), place, |p| spread(entries[*p as usize].hash));
        self.index.insert(id, labels);
    }

    /// Adds a column to a series.
    pub fn add_home(&mut self, id: SeriesId, home: Home) {
        if !self.homes(id).any(|h| h == home) {
            self.extra.entry(id).or_default().push(home);
        }
    }

    /// Takes a column away; a series without columns leaves. `true`: it left; its labels stay in the index until
    /// [`Registry::forget`].
    pub fn remove_home(&mut self, id: SeriesId, home: Home) -> bool {
        let Some(place) = self.place(id) else { return false };
        let entry = &mut self.entries[place as usize];
        if let Some(extra) = self.extra.get_mut(&id) {
            if entry.home == home {
                entry.home = extra.swap_remove(0);
            } else {
                extra.retain(|h| *h != home);
            }
            if extra.is_empty() {
                self.extra.remove(&id);
            }
            return false;
        }
        if entry.home != home {
            return false;
        }
        let hash = entry.hash;
        for (table, hash) in [(&mut self.by_id, id_hash(id)), (&mut self.by_hash, spread(hash))] {
            if let Ok(found) = table.find_entry(hash, |p| *p == place) {
                found.remove();
            }
        }
        self.free.push(place);
        true
    }

    /// Takes the labels of series that left out of the index.
    pub fn forget(&mut self, gone: &RoaringBitmap) {
        self.index.remove(gone);
    }

    /// The series that satisfy all matchers.
    pub fn select(&self, matchers: &[Matcher]) -> RoaringBitmap {
        self.index.select(matchers)
    }

    pub fn heap_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>() + self.by_hash.allocation_size() + self.by_id.allocation_size()
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
        let mut r = Registry::default();
        let home = |i: usize| Home { group: 1, column: i as u32 };
        for i in 0..100 {
            r.insert(&labels("m", i), i as u32, home(i), 5);
        }
        let other = Home { group: 2, column: 0 };
        r.add_home(7, other);
        assert!(!r.remove_home(7, home(7)), "another group still has it");
        assert_eq!(r.homes(7).collect::<Vec<_>>(), [other]);
        assert!(r.remove_home(7, other) && r.find(&labels("m", 7)).is_none());
        r.forget(&[7].into());
        r.insert(&labels("n", 7), 1000, home(7), i32::MAX);
        r.note_time(1000, -1);
        assert_eq!((r.find(&labels("n", 7)), r.first_minute(1000)), (Some(1000), -1));
        let m = Matcher::equal("__name__", "m");
        assert_eq!((r.select(std::slice::from_ref(&m)).len(), r.select(&[]).len(), r.len()), (99, 100, 100));
        assert_eq!(r.select(&[m, Matcher::equal("i", "9")]).into_iter().collect::<Vec<_>>(), [9]);
    }
}
