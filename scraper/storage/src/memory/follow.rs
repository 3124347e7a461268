//! Tails of the store in memory. What is appended is kept, in order, while there are tails that need it. Places survive
//! as long as the store does: dropping a tail and taking it again is what a restart is elsewhere.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use narthex_model::{Exemplar, Labels};
use parking_lot::{Condvar, Mutex};

use super::MemoryStore;
use crate::{ErrorKind, Followable, StorageError, Tail, TailLag, TailSample, TailValue, Tailed};

/// What an append brought, one by one.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Sample {
        labels: Labels,
        timestamp: i64,
        start: i64,
        value: TailValue,
    },
    Exemplar(Labels, Exemplar),
    /// The series is told anew if it comes back.
    Retired(Labels),
}

#[derive(Default)]
struct State {
    /// With the number of the append.
    events: VecDeque<(u64, Event)>,
    /// Of the first of `events`.
    first: u64,
    appends: u64,
    tails: BTreeMap<String, Place>,
    opened: u64,
}

struct Place {
    /// Events before it are settled.
    settled: u64,
    /// Of the handle that has it; handles before it have lost it.
    handle: u64,
}

impl State {
    fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    fn trim(&mut self) {
        let end = self.end();
        let needed = self.tails.values().map(|t| t.settled).min().unwrap_or(end);
        while self.first < needed && self.events.pop_front().is_some() {
            self.first += 1;
        }
    }
}

#[derive(Default)]
pub(super) struct Followed {
    state: Mutex<State>,
    changed: Condvar,
}

impl Followed {
    /// Notes what one append brought.
    pub fn append(&self, events: Vec<Event>) {
        let mut state = self.state.lock();
        if state.tails.is_empty() || events.is_empty() {
            return;
        }
        state.appends += 1;
        let append = state.appends;
        state.events.extend(events.into_iter().map(|e| (append, e)));
        drop(state);
        self.changed.notify_all();
    }
}

impl MemoryStore {
    /// Forgets the oldest `count` of what is kept for tails, as a store does that reaches its limits: samples,
    /// exemplars and series retired count one each.
    pub fn lose(&self, count: usize) {
        let mut state = self.followed.state.lock();
        let count = count.min(state.events.len());
        state.events.drain(..count);
        state.first += count as u64;
    }
}

impl Followable for MemoryStore {
    fn tail(&self, name: &str) -> Result<Box<dyn Tail>, StorageError> {
        let mut state = self.followed.state.lock();
        state.opened += 1;
        let (handle, end) = (state.opened, state.end());
        let place = state.tails.entry(name.to_owned()).or_insert(Place { settled: end, handle });
        place.handle = handle;
        let (next, name) = (place.settled, name.to_owned());
        drop(state);
        self.followed.changed.notify_all();
        let numbers = Numbers::default();
        Ok(Box::new(MemoryTail { followed: self.followed.clone(), name, handle, next, numbers }))
    }

    fn tails(&self) -> Vec<String> {
        self.followed.state.lock().tails.keys().cloned().collect()
    }

    fn forget_tail(&self, name: &str) -> Result<(), StorageError> {
        let mut state = self.followed.state.lock();
        state.tails.remove(name);
        state.trim();
        drop(state);
        self.followed.changed.notify_all();
        Ok(())
    }
}

/// Numbers of series that were told.
#[derive(Default)]
struct Numbers {
    of: HashMap<Labels, u32>,
    free: Vec<u32>,
    told: u32,
}

impl Numbers {
    fn tell(&mut self, labels: Labels, batch: &mut Tailed) -> u32 {
        if let Some(known) = self.of.get(&labels) {
            return *known;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.told += 1;
            self.told - 1
        });
        batch.series.push((number, labels.clone()));
        self.of.insert(labels, number);
        number
    }
}

struct MemoryTail {
    followed: Arc<Followed>,
    name: String,
    handle: u64,
    /// The number of the next event.
    next: u64,
    numbers: Numbers,
}

impl Tail for MemoryTail {
    fn next(&mut self, most: usize, wait: Duration) -> Result<Tailed, StorageError> {
        let until = Instant::now() + wait;
        let mut state = self.followed.state.lock();
        loop {
            if state.tails.get(&self.name).is_none_or(|place| place.handle != self.handle) {
                let why = format!("tail {:?} was taken over or forgotten", self.name);
                return Err(StorageError::new(ErrorKind::Unavailable, why));
            }
            if self.next < state.end() || self.followed.changed.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        let mut batch = Tailed { missed: state.first.saturating_sub(self.next), ..Tailed::default() };
        self.next = self.next.max(state.first);
        let mut append = None;
        for (number, event) in state.events.range((self.next - state.first) as usize..) {
            // Appends stay together, but for one that alone is more than is asked for.
            let another = append.is_some_and(|a| a != *number);
            let whole = state.events.iter().skip((self.next - state.first) as usize);
            let rest = || whole.take_while(|e| e.0 == *number).count();
            if batch.samples.len() >= most || another && batch.samples.len() + rest() > most {
                break;
            }
            match event {
                Event::Sample { labels, timestamp, start, value } => {
                    let series = self.numbers.tell(labels.clone(), &mut batch);
                    let (timestamp, start, value) = (*timestamp, *start, value.clone());
                    batch.samples.push(TailSample { series, timestamp, start, value });
                }
                Event::Exemplar(labels, exemplar) => {
                    let series = self.numbers.tell(labels.clone(), &mut batch);
                    batch.exemplars.push((series, exemplar.clone()));
                }
                Event::Retired(labels) => batch.gone.extend(self.numbers.of.remove(labels)),
            }
            append = Some(*number);
            self.next += 1;
        }
        // Only for batches after this one.
        self.numbers.free.extend(&batch.gone);
        batch.position = self.next;
        Ok(batch)
    }

    fn settle(&mut self, position: u64) {
        let mut state = self.followed.state.lock();
        let end = state.end();
        if let Some(place) = state.tails.get_mut(&self.name).filter(|place| place.handle == self.handle) {
            place.settled = place.settled.max(position.min(end));
            state.trim();
        }
    }

    fn lag(&self) -> TailLag {
        let state = self.followed.state.lock();
        let records = state.end().saturating_sub(self.next);
        let others = state.tails.iter().filter(|t| *t.0 != self.name).map(|t| t.1.settled).min();
        let alone = others.unwrap_or(state.end()).saturating_sub(state.first);
        TailLag { records, bytes: alone * size_of::<(u64, Event)>() as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Appendable, GroupKey, OwnSample, ScrapeRow, SeriesSpec};

    fn shown(batch: &Tailed, names: &mut HashMap<u32, String>) -> Vec<(String, i64, f64)> {
        for (number, labels) in &batch.series {
            assert_eq!(names.insert(*number, labels.get("__name__").unwrap().to_owned()), None);
        }
        let value = |v: &TailValue| if let TailValue::Float(v) = v { *v } else { f64::INFINITY };
        let shown = batch.samples.iter().map(|s| (names[&s.series].clone(), s.timestamp, value(&s.value))).collect();
        for number in &batch.gone {
            names.remove(number);
        }
        shown
    }

    #[test]
    fn what_is_appended_comes_in_its_order() {
        let store = MemoryStore::new();
        let mut group = store.group(&GroupKey("t".into())).unwrap();
        let labels = |name: &str| Labels::from_pairs([("__name__", name)]);
        let slots = ["a", "b"].map(|n| group.register(SeriesSpec::new(&labels(n))).unwrap());
        let mut commit = |t: i64, stale: &[u32], own: &[OwnSample]| {
            let row = ScrapeRow { timestamp: t, stale, own, ..ScrapeRow::default() };
            let row = if stale.is_empty() { ScrapeRow { slots: &slots, values: &[1.0, 2.0], ..row } } else { row };
            group.commit(&row).unwrap();
        };
        commit(10, &[], &[]);
        let mut tail = store.tail("x").unwrap();
        let now = Duration::ZERO;
        assert!(tail.next(10, now).unwrap().samples.is_empty(), "begins with what comes");
        commit(20, &[], &[OwnSample { slot: slots[1], timestamp: 15, value: 9.0, ..OwnSample::default() }]);
        commit(30, &[], &[]);
        let mut names = HashMap::new();
        let first = tail.next(4, now).unwrap();
        assert_eq!(shown(&first, &mut names), [("a".into(), 20, 1.0), ("b".into(), 20, 2.0), ("b".into(), 15, 9.0)]);
        let rest = tail.next(1, now).unwrap();
        assert_eq!(shown(&rest, &mut names), [("a".into(), 30, 1.0)], "one append is more");
        assert_eq!(tail.lag().records, 1);
        tail.settle(first.position);

        let mut again = store.tail("x").unwrap();
        assert_eq!(tail.next(1, now).unwrap_err().kind, ErrorKind::Unavailable);
        tail.settle(rest.position);
        names.clear();
        assert_eq!(shown(&again.next(9, now).unwrap(), &mut names), [("a".into(), 30, 1.0), ("b".into(), 30, 2.0)]);
        assert_eq!((store.tails(), again.lag().records), (vec!["x".to_owned()], 0));

        group.retire(&slots[..1]);
        let batch = again.next(9, now).unwrap();
        assert_eq!((batch.samples.len(), batch.gone.len()), (0, 1));
        shown(&batch, &mut names);
        let slot = group.register(SeriesSpec::new(&labels("a"))).unwrap();
        for t in [40, 50, 60] {
            group.commit(&ScrapeRow { timestamp: t, slots: &[slot], values: &[0.0], ..ScrapeRow::default() }).unwrap();
        }
        store.lose(4);
        let batch = again.next(9, now).unwrap();
        assert_eq!((shown(&batch, &mut names), batch.missed), (vec![("a".into(), 50, 0.0), ("a".into(), 60, 0.0)], 1));
        store.forget_tail("x").unwrap();
        assert_eq!(again.next(1, now).unwrap_err().kind, ErrorKind::Unavailable);
        assert!(store.tails().is_empty());
    }
}
