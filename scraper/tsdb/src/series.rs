//! The series that are in memory: labels, where their columns are, and when they began.
//!
//! A series that leaves memory and comes back gets a new id; readers merge by labels.

use hashbrown::{HashMap, HashTable};
use narthex_model::{Labels, Matcher};

/// The lasting name of a series: dense, never used again.
pub type SeriesId = u32;

/// A column of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Home {
    pub group: u32,
    pub column: u32,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub labels: Labels,
    /// The group that brought the series. Other groups may have it too (two targets with the same labels).
    pub home: Home,
    /// The minute of its first sample; `i32::MAX` while there is none.
    pub first_minute: i32,
}

#[derive(Default)]
pub struct Registry {
    entries: HashMap<SeriesId, Entry, foldhash::fast::FixedState>,
    by_labels: HashTable<SeriesId>,
    /// Further columns of a series.
    extra: HashMap<SeriesId, Vec<Home>, foldhash::fast::FixedState>,
    by_name: HashMap<String, Vec<SeriesId>, foldhash::fast::FixedState>,
}

pub fn minute(t: i64) -> i32 {
    t.div_euclid(60_000).clamp(i64::from(i32::MIN), i64::from(i32::MAX) - 1) as i32
}

impl Registry {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn find(&self, labels: &Labels) -> Option<SeriesId> {
        let same = |id: &SeriesId| self.entries.get(id).is_some_and(|e| e.labels == *labels);
        self.by_labels.find(labels.stable_hash(), same).copied()
    }

    pub fn labels(&self, id: SeriesId) -> Option<Labels> {
        self.entries.get(&id).map(|e| e.labels.clone())
    }

    pub fn first_minute(&self, id: SeriesId) -> i32 {
        self.entries.get(&id).map_or(i32::MAX, |e| e.first_minute)
    }

    /// Notes that the series has a sample at `t`.
    pub fn note_time(&mut self, id: SeriesId, t: i64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.first_minute = entry.first_minute.min(minute(t));
        }
    }

    pub fn home(&self, id: SeriesId) -> Option<Home> {
        self.entries.get(&id).map(|e| e.home)
    }

    /// All columns of a series.
    pub fn homes(&self, id: SeriesId) -> impl Iterator<Item = Home> + '_ {
        self.home(id).into_iter().chain(self.extra.get(&id).into_iter().flatten().copied())
    }

    /// Adds a series that is not there yet.
    pub fn insert(&mut self, labels: Labels, id: SeriesId, home: Home, first_minute: i32) {
        let hash = labels.stable_hash();
        let name = labels.metric_name();
        match self.by_name.get_mut(name) {
            Some(all) => all.push(id),
            None => {
                self.by_name.insert(name.to_owned(), vec![id]);
            }
        }
        self.entries.insert(id, Entry { labels, home, first_minute });
        let entries = &self.entries;
        self.by_labels.insert_unique(hash, id, |id| entries.get(id).map_or(0, |e| e.labels.stable_hash()));
    }

    /// Adds a column to a series.
    pub fn add_home(&mut self, id: SeriesId, home: Home) {
        if !self.homes(id).any(|h| h == home) {
            self.extra.entry(id).or_default().push(home);
        }
    }

    /// Takes a column away; a series without columns leaves, with what was known of it.
    pub fn remove_home(&mut self, id: SeriesId, home: Home) -> Option<Entry> {
        let entry = self.entries.get_mut(&id)?;
        if let Some(extra) = self.extra.get_mut(&id) {
            if entry.home == home {
                entry.home = extra.swap_remove(0);
            } else {
                extra.retain(|h| *h != home);
            }
            if extra.is_empty() {
                self.extra.remove(&id);
            }
            return None;
        }
        if entry.home != home {
            return None;
        }
        if let Ok(found) = self.by_labels.find_entry(entry.labels.stable_hash(), |i| *i == id) {
            found.remove();
        }
        let entry = self.entries.remove(&id)?;
        let name = entry.labels.metric_name();
        if let Some(all) = self.by_name.get_mut(name) {
            all.retain(|i| *i != id);
            if all.is_empty() {
                self.by_name.remove(name);
            }
        }
        Some(entry)
    }

    /// The series that satisfy all matchers, in no order.
    pub fn select(&self, matchers: &[Matcher]) -> Vec<SeriesId> {
        let names = matchers
            .iter()
            .find(|m| &*m.name == narthex_model::METRIC_NAME && !m.matches_empty())
            .and_then(Matcher::set_matches);
        let holds = |id: &SeriesId| self.entries.get(id).is_some_and(|e| Matcher::all_match(matchers, &e.labels));
        match names {
            Some(mut names) => {
                names.sort_unstable();
                names.dedup();
                names.iter().filter_map(|n| self.by_name.get(*n)).flatten().copied().filter(holds).collect()
            }
            None => self.entries.keys().copied().filter(holds).collect(),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (SeriesId, &Entry)> {
        self.entries.iter().map(|(id, e)| (*id, e))
    }

    pub fn heap_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<(SeriesId, Entry)>() + self.by_labels.capacity() * 5
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
            r.insert(labels("m", i), i as u32, home(i), 5);
        }
        let other = Home { group: 2, column: 0 };
        r.add_home(7, other);
        assert!(r.remove_home(7, home(7)).is_none(), "another group still has it");
        assert_eq!(r.homes(7).collect::<Vec<_>>(), [other]);
        assert!(r.remove_home(7, other).is_some() && r.find(&labels("m", 7)).is_none());
        r.insert(labels("n", 7), 1000, home(7), i32::MAX);
        r.note_time(1000, -1);
        assert_eq!((r.find(&labels("n", 7)), r.first_minute(1000)), (Some(1000), -1));
        let m = Matcher::equal("__name__", "m");
        assert_eq!((r.select(std::slice::from_ref(&m)).len(), r.select(&[]).len(), r.len()), (99, 100, 100));
        assert_eq!(r.select(&[m, Matcher::equal("i", "9")]), [9]);
    }
}
