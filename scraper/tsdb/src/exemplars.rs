//! The newest exemplars, in a ring (as Prometheus's `CircularExemplarStorage`): each new one pushes the oldest out. What
//! is in the ring is in the database too, under numbers that count up, written with the log record of its scrape.

use std::cmp::Ordering;
use std::collections::VecDeque;

use hashbrown::HashMap;
use narthex_model::{Exemplar, Labels};

use crate::TsdbError;
use crate::db::{Db, Family, Op};
use crate::wire::{Reader, put_bytes, put_f64, put_i64, put_u64};

pub struct Exemplars {
    ring: VecDeque<(Labels, Exemplar)>,
    max: usize,
    /// Of each series in the ring the newest, and how many it has.
    newest: HashMap<Labels, (Exemplar, usize), foldhash::fast::RandomState>,
    /// The number of the first in the ring, and of the first whose record is still there.
    first: u64,
    written: u64,
}

/// What became of an exemplar.
#[derive(Debug)]
pub enum Added {
    /// To be written.
    New(Op),
    /// The page shows the last one until there is another: not new, and no fault either.
    Known,
    /// Older than the newest of its series, or there is no room for any.
    Refused,
}

fn key(number: u64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

fn put_labels(labels: &Labels, out: &mut Vec<u8>) {
    put_u64(out, labels.len() as u64);
    for (name, value) in labels.iter() {
        put_bytes(out, name.as_bytes());
        put_bytes(out, value.as_bytes());
    }
}

fn get_labels(r: &mut Reader<'_>) -> Option<Labels> {
    let mut pairs = Vec::new();
    for _ in 0..r.count()? {
        let name = std::str::from_utf8(r.bytes()?).ok()?.to_owned();
        pairs.push((name, std::str::from_utf8(r.bytes()?).ok()?.to_owned()));
    }
    Some(Labels::from_pairs(pairs))
}

/// Writes an exemplar without its series.
pub fn put(e: &Exemplar, out: &mut Vec<u8>) {
    out.push(u8::from(e.has_timestamp));
    put_i64(out, e.timestamp);
    put_f64(out, e.value);
    put_labels(&e.labels, out);
}

/// Reads what [`put`] wrote.
pub fn get(r: &mut Reader<'_>) -> Option<Exemplar> {
    let (flag, timestamp, value) = (r.u8()?, r.i64()?, r.f64()?);
    Some(Exemplar { labels: get_labels(r)?, value, timestamp, has_timestamp: flag != 0 })
}

fn encode(series: &Labels, e: &Exemplar) -> Vec<u8> {
    let mut out = vec![u8::from(e.has_timestamp)];
    put_i64(&mut out, e.timestamp);
    put_f64(&mut out, e.value);
    put_labels(series, &mut out);
    put_labels(&e.labels, &mut out);
    out
}

fn decode(bytes: &[u8]) -> Option<(Labels, Exemplar)> {
    let mut r = Reader::new(bytes);
    let (flag, timestamp, value) = (r.u8()?, r.i64()?, r.f64()?);
    let series = get_labels(&mut r)?;
    let labels = get_labels(&mut r)?;
    r.is_empty().then_some((series, Exemplar { labels, value, timestamp, has_timestamp: flag != 0 }))
}

impl Exemplars {
    pub fn new(max: usize) -> Exemplars {
        Exemplars { ring: VecDeque::new(), max, newest: HashMap::default(), first: 0, written: 0 }
    }

    /// Reads back what was written.
    ///
    /// # Errors
    /// When the disk fails. Records that do not decode are left out.
    pub fn load(db: &Db, max: usize) -> Result<Exemplars, TsdbError> {
        let mut all = Exemplars::new(max);
        let mut damaged = 0u64;
        let mut first = None;
        db.scan(Family::Exemplars, &[], None, |key, value| {
            let number = key.try_into().map(u64::from_be_bytes).unwrap_or_default();
            match decode(value) {
                Some((series, exemplar)) => {
                    first.get_or_insert(number);
                    // A gap in the numbers would make later ones wrong.
                    all.first = number - all.ring.len() as u64;
                    all.push(&series, &exemplar);
                }
                None => damaged += 1,
            }
            true
        })?;
        all.written = first.unwrap_or_default();
        if damaged > 0 {
            tracing::error!(records = damaged, "stored exemplars are damaged and left out");
        }
        Ok(all)
    }

    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// How many series have some.
    pub fn series(&self) -> usize {
        self.newest.len()
    }

    /// Changes how many there may be.
    pub fn resize(&mut self, max: usize) {
        self.max = max;
        self.shrink();
    }

    pub fn add(&mut self, series: &Labels, exemplar: &Exemplar) -> Added {
        if self.max == 0 {
            return Added::Refused;
        }
        match self.newest.get(series) {
            Some((last, _)) if same(last, exemplar) => return Added::Known,
            Some((last, _)) if late(last, exemplar) => return Added::Refused,
            _ => {}
        }
        let number = self.first + self.ring.len() as u64;
        self.push(series, exemplar);
        Added::New(Op::Put(Family::Exemplars, key(number), encode(series, exemplar)))
    }

    /// Whether an exemplar is older than the newest of its series.
    pub fn is_late(&self, series: &Labels, exemplar: &Exemplar) -> bool {
        self.max > 0 && self.newest.get(series).is_some_and(|(last, _)| !same(last, exemplar) && late(last, exemplar))
    }

    fn push(&mut self, series: &Labels, exemplar: &Exemplar) {
        let count = self.newest.get(series).map_or(0, |n| n.1);
        self.newest.insert(series.clone(), (exemplar.clone(), count + 1));
        self.ring.push_back((series.clone(), exemplar.clone()));
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.ring.len() > self.max
            && let Some((old, _)) = self.ring.pop_front()
        {
            self.first += 1;
            if let Some((_, count)) = self.newest.get_mut(&old) {
                *count -= 1;
                if *count == 0 {
                    self.newest.remove(&old);
                }
            }
        }
    }

    /// Deletes the records of what is not in the ring any more, if there are any.
    pub fn forget(&mut self) -> Option<Op> {
        let from = std::mem::replace(&mut self.written, self.first);
        (from < self.first).then(|| Op::DeleteRange(Family::Exemplars, key(0), key(self.first)))
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &(Labels, Exemplar)> {
        self.ring.iter()
    }
}

/// Those of one time, of the buckets of a native histogram, come in the order of their values, and of one value in that of
/// Prometheus's hash of their labels.
fn late(last: &Exemplar, new: &Exemplar) -> bool {
    let hash = |e: &Exemplar| e.labels.prometheus_hash();
    match new.timestamp.cmp(&last.timestamp) {
        Ordering::Equal => new.value < last.value || new.value == last.value && hash(new) < hash(last),
        order => order == Ordering::Less,
    }
}

fn same(a: &Exemplar, b: &Exemplar) -> bool {
    // Without a timestamp on the page each scrape would make it a new one. No number is no number's equal.
    a.value == b.value && a.labels == b.labels && (a.timestamp == b.timestamp || !(a.has_timestamp || b.has_timestamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay() {
        let mut ring = Exemplars::new(3);
        let series = |i: usize| Labels::from_pairs([("i", i.to_string())]);
        let one = |t: i64, v: f64| Exemplar { labels: series(7), value: v, timestamp: t, has_timestamp: true };
        let mut written = Vec::new();
        let mut add = |ring: &mut Exemplars, i: usize, e: Exemplar| match ring.add(&series(i), &e) {
            Added::New(Op::Put(_, key, value)) => {
                assert_eq!(decode(&value), Some((series(i), e)));
                (0..value.len()).for_each(|cut| assert_eq!(decode(&value[..cut]), None));
                written.push(u64::from_be_bytes(key.try_into().unwrap()));
                true
            }
            Added::Known => true,
            _ => false,
        };
        assert!(add(&mut ring, 1, one(10, 1.0)));
        assert!(add(&mut ring, 1, one(10, 1.0)), "the same again");
        assert!(!add(&mut ring, 1, one(10, 0.5)) && !add(&mut ring, 1, one(9, 2.0)));
        assert!(!add(&mut ring, 1, one(9, f64::NAN)), "earlier");
        for i in 2..6 {
            assert!(add(&mut ring, i, one(10, 1.0)));
        }
        assert_eq!(ring.iter().map(|e| e.0.clone()).collect::<Vec<_>>(), [series(3), series(4), series(5)]);
        assert!(matches!(ring.forget(), Some(Op::DeleteRange(_, _, to)) if to == key(2)));
        assert!(ring.forget().is_none());
        assert!(add(&mut ring, 1, one(5, 1.0)), "forgotten with its exemplars");
        ring.resize(1);
        assert_eq!(ring.iter().map(|e| e.0.clone()).collect::<Vec<_>>(), [series(1)]);
        assert_eq!(written, [0, 1, 2, 3, 4, 5]);
    }
}
