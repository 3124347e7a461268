//! The series that are in memory: labels, and where their columns are.
//!
//! A series has a position (`Pos`), by which memory refers to it and which is used again once the series is gone, and
//! an id, by which blocks and index partitions refer to it and which never is. Labels that come back after their
//! series left memory get a new id; readers merge by labels.

use hashbrown::{HashMap, HashTable};
use narthex_model::{Labels, Matcher};

/// Where a series is in memory.
pub type Pos = u32;
/// The lasting name of a series.
pub type SeriesId = u32;

/// A column of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Home {
    pub group: u32,
    pub column: u32,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub id: SeriesId,
    pub labels: Labels,
    /// The group that brought the series. Other groups may have it too (two targets with the same labels).
    pub home: Home,
}

#[derive(Default)]
pub struct Registry {
    entries: Vec<Option<Entry>>,
    free: Vec<Pos>,
    by_labels: HashTable<Pos>,
    /// Further columns of a series.
    extra: HashMap<Pos, Vec<Home>, foldhash::fast::FixedState>,
    by_name: HashMap<String, Vec<Pos>, foldhash::fast::FixedState>,
}

impl Registry {
    pub fn len(&self) -> usize {
        self.by_labels.len()
    }

    pub fn find(&self, labels: &Labels) -> Option<Pos> {
        let same = |pos: &Pos| self.get(*pos).is_some_and(|e| e.labels == *labels);
        self.by_labels.find(labels.stable_hash(), same).copied()
    }

    pub fn get(&self, pos: Pos) -> Option<&Entry> {
        self.entries.get(pos as usize)?.as_ref()
    }

    /// All columns of a series.
    pub fn homes(&self, pos: Pos) -> impl Iterator<Item = Home> + '_ {
        let first = self.get(pos).map(|e| e.home);
        first.into_iter().chain(self.extra.get(&pos).into_iter().flatten().copied())
    }

    /// Adds a series that is not there yet.
    pub fn insert(&mut self, labels: Labels, id: SeriesId, home: Home) -> Pos {
        let hash = labels.stable_hash();
        let name = labels.metric_name();
        let pos = self.free.pop().unwrap_or(self.entries.len() as Pos);
        match self.by_name.get_mut(name) {
            Some(all) => all.push(pos),
            None => drop(self.by_name.insert(name.to_owned(), vec![pos])),
        }
        let entry = Some(Entry { id, labels, home });
        match self.entries.get_mut(pos as usize) {
            Some(place) => *place = entry,
            None => self.entries.push(entry),
        }
        let entries = &self.entries;
        let rehash = |p: &Pos| entries[*p as usize].as_ref().map_or(0, |e| e.labels.stable_hash());
        self.by_labels.insert_unique(hash, pos, rehash);
        pos
    }

    /// Adds a column to a series.
    pub fn add_home(&mut self, pos: Pos, home: Home) {
        if !self.homes(pos).any(|h| h == home) {
            self.extra.entry(pos).or_default().push(home);
        }
    }

    /// Takes a column away; a series without columns leaves. `true`: it left.
    pub fn remove_home(&mut self, pos: Pos, home: Home) -> bool {
        let Some(entry) = self.entries.get_mut(pos as usize).and_then(Option::as_mut) else { return false };
        let extra = self.extra.get_mut(&pos);
        if let Some(extra) = extra {
            if entry.home == home {
                entry.home = extra.swap_remove(0);
            } else {
                extra.retain(|h| *h != home);
            }
            if extra.is_empty() {
                self.extra.remove(&pos);
            }
            return false;
        }
        if entry.home != home {
            return false;
        }
        let hash = entry.labels.stable_hash();
        if let Ok(found) = self.by_labels.find_entry(hash, |p| *p == pos) {
            found.remove();
        }
        if let Some(entry) = self.entries[pos as usize].take() {
            let name = entry.labels.metric_name();
            if let Some(all) = self.by_name.get_mut(name) {
                all.retain(|p| *p != pos);
                if all.is_empty() {
                    self.by_name.remove(name);
                }
            }
        }
        self.free.push(pos);
        true
    }

    /// The series that satisfy all matchers, in no order.
    pub fn select(&self, matchers: &[Matcher]) -> Vec<Pos> {
        let names = matchers
            .iter()
            .find(|m| &*m.name == narthex_model::METRIC_NAME && !m.matches_empty())
            .and_then(Matcher::set_matches);
        let holds = |pos: &Pos| self.get(*pos).is_some_and(|e| Matcher::all_match(matchers, &e.labels));
        match names {
            Some(names) => {
                let mut names = names;
                names.sort_unstable();
                names.dedup();
                names.iter().filter_map(|n| self.by_name.get(*n)).flatten().copied().filter(holds).collect()
            }
            None => (0..self.entries.len() as Pos).filter(holds).collect(),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (Pos, &Entry)> {
        self.entries.iter().enumerate().filter_map(|(p, e)| Some((p as Pos, e.as_ref()?)))
    }

    pub fn heap_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Option<Entry>>() + self.by_labels.capacity() * 5
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
            assert_eq!(r.insert(labels("m", i), i as u32, home(i)), i as u32);
        }
        let other = Home { group: 2, column: 0 };
        r.add_home(7, other);
        assert!(!r.remove_home(7, home(7)), "another group still has it");
        assert_eq!(r.homes(7).collect::<Vec<_>>(), [other]);
        assert!(r.remove_home(7, other) && r.find(&labels("m", 7)).is_none());
        assert_eq!(r.insert(labels("n", 7), 1000, home(7)), 7);
        let m = Matcher::equal("__name__", "m");
        assert_eq!((r.select(&[m.clone()]).len(), r.select(&[]).len(), r.len()), (99, 100, 100));
        assert_eq!(r.select(&[m, Matcher::equal("i", "9")]), [9]);
    }
}
