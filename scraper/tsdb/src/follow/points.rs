//! From where on the log is needed by whoever is at a place of it.

use crate::wire::{Reader, put_f64, put_i64, put_u64};

/// So many are kept; of more, every other of the older ones goes.
const MOST: usize = 512;

/// All that has this number and later ones can be read by who has read the log from an earlier number on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub head: u64,
    pub needs: u64,
    /// The store's newest sample then.
    pub time: i64,
    /// Bytes that were ever written to the log by then, about.
    pub bytes: f64,
}

/// Points, in ascending order of both numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Points(Vec<Point>);

impl Points {
    pub fn last(&self) -> Option<&Point> {
        self.0.last()
    }

    /// The first number that is needed to read on from `position`.
    pub fn needs(&self, position: u64) -> u64 {
        let i = self.0.partition_point(|p| p.head <= position);
        i.checked_sub(1).and_then(|i| self.0.get(i)).map_or(0, |p| p.needs)
    }

    /// Adds a point, and forgets those that nobody at `least` or behind it needs. `true`: there was something to add.
    pub fn note(&mut self, point: Point, least: u64) -> bool {
        let unneeded = self.0.partition_point(|p| p.head <= least).saturating_sub(1);
        self.0.drain(..unneeded);
        if self.0.last().is_some_and(|last| last.needs >= point.needs || last.head > point.head) {
            return false;
        }
        self.0.push(point);
        if self.0.len() > MOST {
            let recent = self.0.len() - MOST / 4;
            let mut i = 0;
            self.0.retain(|_| {
                i += 1;
                i == 1 || i > recent || i % 2 == 0
            });
        }
        true
    }

    /// Where those have to go on that hold the log from `needed` on, so that what was appended before `cutoff` need not
    /// be kept, and so many bytes neither.
    pub fn shed(&self, needed: u64, cutoff: i64, excess: f64, now: (u64, f64)) -> Option<u64> {
        let old = self.0.iter().rev().find(|p| p.time < cutoff);
        let held = self.bytes_at(needed, now);
        let frees = |p: &&Point| p.needs > needed && self.bytes_at(p.needs, now) - held >= excess;
        let heavy = if excess > 0.0 { self.0.iter().find(frees).or(self.0.last()) } else { None };
        old.into_iter().chain(heavy).filter(|p| p.needs > needed).map(|p| p.head).max()
    }

    /// How many bytes the log had brought when it had come to `seq`, about; it is at `now` at present.
    pub fn bytes_at(&self, seq: u64, now: (u64, f64)) -> f64 {
        let Some(first) = self.0.first() else { return now.1 };
        let i = self.0.partition_point(|p| p.head <= seq);
        let at = |i: usize| self.0.get(i).map_or(now, |p| (p.head, p.bytes));
        // Before the first as fast as after it.
        let (from, to) = if i == 0 { ((first.head, first.bytes), now) } else { (at(i - 1), at(i)) };
        let rate = if to.0 > from.0 { (to.1 - from.1) / (to.0 - from.0) as f64 } else { 0.0 };
        from.1 + (seq as f64 - from.0 as f64) * rate
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let (mut head, mut needs, mut time) = (0, 0, 0);
        for p in &self.0 {
            put_u64(&mut out, p.head - head);
            put_u64(&mut out, p.needs - needs);
            put_i64(&mut out, p.time.wrapping_sub(time));
            put_f64(&mut out, p.bytes);
            (head, needs, time) = (p.head, p.needs, p.time);
        }
        out
    }

    /// Those that can be read: of fewer points more of the log is kept and read.
    pub fn decode(bytes: &[u8]) -> Points {
        let mut r = Reader::new(bytes);
        let mut points: Vec<Point> = Vec::new();
        while !r.is_empty() {
            let last = points.last().copied().unwrap_or(Point { head: 0, needs: 0, time: 0, bytes: 0.0 });
            let mut next = || {
                let (head, needs) = (last.head.checked_add(r.u64()?)?, last.needs.checked_add(r.u64()?)?);
                Some(Point { head, needs, time: last.time.wrapping_add(r.i64()?), bytes: r.f64()? })
            };
            let Some(point) = next() else { break };
            points.push(point);
        }
        Points(points)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(i: u64) -> Point {
        Point { head: i * 100, needs: i * 100 - 50, time: i as i64, bytes: (i * 1000) as f64 }
    }

    #[test]
    fn each_place_has_its_point() {
        let mut points = Points::default();
        assert_eq!(points.needs(7), 0);
        assert!((1..=5).all(|i| points.note(point(i), 0)));
        assert!(!points.note(Point { head: 600, ..point(5) }, 0), "needs no more than before");
        for (position, needs) in [(99, 0), (100, 50), (199, 50), (500, 450), (9999, 450)] {
            assert_eq!(points.needs(position), needs, "{position}");
        }
        assert_eq!(Points::decode(&points.encode()), points);
        let now = (700, 7000.0);
        for (seq, bytes) in [(50, 500.0), (100, 1000.0), (350, 3500.0), (600, 6000.0)] {
            assert_eq!(points.bytes_at(seq, now), bytes, "{seq}");
        }
        assert_eq!(points.shed(50, 0, 0.0, now), None);
        assert_eq!(points.shed(50, 0, 1500.0, now), Some(300));
        assert_eq!(points.shed(50, 0, 1e9, now), Some(500), "all that there is");
        assert_eq!(points.shed(50, 4, 1.0, now), Some(300));
        assert_eq!(points.shed(450, 9, 1e9, now), None, "nothing is held");
        points.note(point(6), 350);
        assert_eq!((points.needs(299), points.needs(350)), (0, 250));
    }

    #[test]
    fn there_are_not_more_and_more() {
        let mut points = Points::default();
        (1..5000).for_each(|i| assert!(points.note(point(i), 100)));
        assert!(points.0.len() <= MOST);
        assert_eq!((points.needs(100), points.needs(1_000_000)), (50, 499_850));
        let all = points.encode();
        (0..all.len()).for_each(|cut| assert!(Points::decode(&all[..cut]).0.len() < points.0.len()));
    }
}
