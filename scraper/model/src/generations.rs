//! A bounded map of what was asked for lately.

use std::hash::Hash;

use hashbrown::{DefaultHashBuilder, Equivalent, HashMap};

/// Entries in two generations: what is found in the old one moves to the young one, and when that is full, it becomes the
/// old one. Capacity and weights are in whatever the caller counts by.
pub struct Generations<K, V, S = DefaultHashBuilder> {
    young: HashMap<K, (V, usize), S>,
    old: HashMap<K, (V, usize), S>,
    /// Of the young ones.
    weight: usize,
    capacity: usize,
}

impl<K: Hash + Eq, V: Clone, S: std::hash::BuildHasher + Default> Generations<K, V, S> {
    /// One whose entries weigh `capacity` together at most.
    pub fn new(capacity: usize) -> Self {
        Generations { young: HashMap::default(), old: HashMap::default(), weight: 0, capacity }
    }

    pub fn get<Q: ?Sized + Hash + Equivalent<K>>(&mut self, key: &Q) -> Option<V> {
        if let Some((value, _)) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, (value, weight)) = self.old.remove_entry(key)?;
        self.insert(key, value.clone(), weight);
        Some(value)
    }

    /// One that would drive out all others is not kept.
    pub fn insert(&mut self, key: K, value: V, weight: usize) {
        let half = self.capacity / 2;
        if weight > half / 2 {
            return;
        }
        if self.weight + weight > half {
            self.turn();
        }
        if let Some((_, before)) = self.young.insert(key, (value, weight)) {
            self.weight -= before;
        }
        self.weight += weight;
    }

    /// To be called when an entry has grown.
    pub fn grew<Q: ?Sized + Hash + Equivalent<K>>(&mut self, key: &Q, by: usize) {
        if let Some((_, weight)) = self.old.get_mut(key) {
            *weight += by;
        } else if let Some((_, weight)) = self.young.get_mut(key) {
            *weight += by;
            self.weight += by;
            if self.weight > self.capacity / 2 {
                self.turn();
            }
        }
    }

    pub fn remove<Q: ?Sized + Hash + Equivalent<K>>(&mut self, key: &Q) {
        self.old.remove(key);
        self.weight -= self.young.remove(key).map_or(0, |entry| entry.1);
    }

    pub fn clear(&mut self) {
        self.turn();
        self.old.clear();
    }

    /// What all entries weigh.
    pub fn weight(&self) -> usize {
        self.young.values().chain(self.old.values()).map(|entry| entry.1).sum()
    }

    fn turn(&mut self) {
        self.old = std::mem::take(&mut self.young);
        self.weight = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_weights_are_bounded() {
        let mut recent: Generations<usize, usize> = Generations::new(16);
        for i in 0..100 {
            recent.insert(i, i, 1);
            // Asked for all the time.
            assert!(recent.get(&0).is_some() && recent.weight() <= 16, "{i}");
        }
        assert!(recent.get(&50).is_none() && recent.get(&99).is_some());
        recent.insert(1000, 0, 5);
        assert!(recent.get(&1000).is_none(), "too heavy");
        recent.grew(&99, 2);
        recent.remove(&0);
        assert!(recent.get(&99).is_some() && recent.get(&0).is_none());
        recent.clear();
        assert_eq!((recent.get(&99), recent.weight()), (None, 0));
    }
}
