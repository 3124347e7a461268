//! The newest exemplars, in a ring (as Prometheus's `CircularExemplarStorage`): each new one pushes the oldest out.

use std::collections::VecDeque;

use hashbrown::HashMap;
use narthex_model::{Exemplar, Labels};

pub struct Exemplars {
    ring: VecDeque<(Labels, Exemplar)>,
    max: usize,
    /// Of each series in the ring the newest, and how many it has.
    newest: HashMap<Labels, (Exemplar, usize), foldhash::fast::RandomState>,
}

impl Exemplars {
    pub fn new(max: usize) -> Exemplars {
        Exemplars { ring: VecDeque::new(), max, newest: HashMap::default() }
    }

    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// `false` for one that is no later than the newest of its series, or that there is no room for.
    pub fn add(&mut self, series: &Labels, exemplar: &Exemplar) -> bool {
        if self.max == 0 {
            return false;
        }
        let count = match self.newest.get(series) {
            // The page shows the last exemplar until there is another: not new, and no fault either.
            Some((last, _)) if same(last, exemplar) => return true,
            Some((last, _)) if exemplar.timestamp <= last.timestamp => return false,
            Some((_, count)) => *count,
            None => 0,
        };
        self.newest.insert(series.clone(), (exemplar.clone(), count + 1));
        self.ring.push_back((series.clone(), exemplar.clone()));
        if self.ring.len() > self.max
            && let Some((old, _)) = self.ring.pop_front()
            && let Some((_, count)) = self.newest.get_mut(&old)
        {
            *count -= 1;
            if *count == 0 {
                self.newest.remove(&old);
            }
        }
        true
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &(Labels, Exemplar)> {
        self.ring.iter()
    }
}

fn same(a: &Exemplar, b: &Exemplar) -> bool {
    let value = a.value.to_bits() == b.value.to_bits();
    // Without a timestamp on the page each scrape would make it a new one.
    value && a.labels == b.labels && (a.timestamp == b.timestamp || !(a.has_timestamp && b.has_timestamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay() {
        let mut ring = Exemplars::new(3);
        let series = |i: usize| Labels::from_pairs([("i", i.to_string())]);
        let one = |t: i64, v: f64| Exemplar { labels: Labels::empty(), value: v, timestamp: t, has_timestamp: true };
        assert!(ring.add(&series(1), &one(10, 1.0)));
        assert!(ring.add(&series(1), &one(10, 1.0)), "the same again");
        assert!(!ring.add(&series(1), &one(10, 2.0)) && !ring.add(&series(1), &one(9, 2.0)));
        for i in 2..6 {
            assert!(ring.add(&series(i), &one(10, 1.0)));
        }
        assert_eq!(ring.iter().map(|e| e.0.clone()).collect::<Vec<_>>(), [series(3), series(4), series(5)]);
        assert!(ring.add(&series(1), &one(5, 1.0)), "forgotten with its exemplars");
    }
}
