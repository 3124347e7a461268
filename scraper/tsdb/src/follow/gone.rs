//! Which series columns were that belong to another now, or to none: for those who read of the log what was written
//! while they still had it. Noted while there are tails, and forgotten with the log.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;
use narthex_model::Labels;
use smallvec::SmallVec;

use crate::TsdbError;
use crate::db::{Db, Family, Op};
use crate::record::{TableReader, TableWriter};

const PREFIX: u8 = b't';

/// Columns of a group that were given up together. Records with lower numbers mean the series that they had before.
#[derive(Debug)]
pub struct Event {
    pub until: u64,
    pub group: u32,
    pub columns: Box<[u32]>,
}

/// The events in the database without their labels; nothing before they are first asked for.
#[derive(Default)]
pub struct Gone {
    loaded: bool,
    /// Something may be in the database.
    pub some: bool,
    /// The number of the first of `events`.
    first: u64,
    events: VecDeque<Arc<Event>>,
    /// Of each column when it was given up, in ascending order.
    of: HashMap<(u32, u32), SmallVec<[u64; 2]>, foldhash::fast::FixedState>,
}

fn key(until: u64, group: u32) -> Vec<u8> {
    let mut key = vec![PREFIX];
    key.extend_from_slice(&until.to_be_bytes());
    key.extend_from_slice(&group.to_be_bytes());
    key
}

/// The record of columns that are given up.
pub fn put(until: u64, group: u32, table: TableWriter) -> Op {
    Op::Put(Family::Postings, key(until, group), table.finish())
}

/// A column, the labels of its series, and the minute of that one's first sample.
pub type Found = (u32, Labels, i32);

/// The series of those of `columns` that are in the record.
pub fn labels(db: &Db, until: u64, group: u32, columns: &[u32]) -> Result<Vec<Found>, TsdbError> {
    let mut found = Vec::new();
    let Some(table) = db.get(Family::Postings, &key(until, group))? else { return Ok(found) };
    let mut reader = TableReader::new(&table);
    while reader.advance() == Some(true) {
        if columns.contains(&reader.column) {
            found.push((reader.column, Labels::from_sorted(reader.texts()), reader.first_minute));
        }
    }
    Ok(found)
}

impl Gone {
    /// Reads what is in the database.
    pub fn load(&mut self, db: &Db) -> Result<(), TsdbError> {
        if self.loaded {
            return Ok(());
        }
        let mut found = Vec::new();
        db.scan(Family::Postings, &[PREFIX], Some(&[PREFIX + 1]), |key, table| {
            let until = key.get(1..9).and_then(|b| Some(u64::from_be_bytes(b.try_into().ok()?)));
            let group = key.get(9..13).and_then(|b| Some(u32::from_be_bytes(b.try_into().ok()?)));
            if let (Some(until), Some(group)) = (until, group) {
                let (mut reader, mut columns) = (TableReader::new(table), Vec::new());
                while reader.advance() == Some(true) {
                    columns.push(reader.column);
                }
                found.push((until, group, columns));
            }
            true
        })?;
        (self.loaded, self.some) = (true, self.some || !found.is_empty());
        found.into_iter().for_each(|(until, group, columns)| self.note(until, group, &columns));
        Ok(())
    }

    /// Notes an event that is in the database.
    pub fn note(&mut self, until: u64, group: u32, columns: &[u32]) {
        self.some = true;
        let known = columns.first().and_then(|c| self.of.get(&(group, *c))).is_some_and(|all| all.contains(&until));
        if !self.loaded || known {
            return;
        }
        for c in columns {
            let all = self.of.entry((group, *c)).or_default();
            let at = all.partition_point(|u| *u < until);
            all.insert(at, until);
        }
        self.events.push_back(Arc::new(Event { until, group, columns: columns.into() }));
    }

    /// When a column was given up next after the record `seq`, if it was.
    pub fn next_of(&self, group: u32, column: u32, seq: u64) -> Option<u64> {
        self.of.get(&(group, column))?.iter().copied().find(|until| *until > seq)
    }

    /// The events from the number `seen` on, which is brought to behind the last.
    pub fn since<'a>(&'a self, seen: &mut u64) -> impl Iterator<Item = Arc<Event>> + use<'a> {
        let from = seen.saturating_sub(self.first) as usize;
        *seen = self.first + self.events.len() as u64;
        self.events.iter().skip(from).cloned()
    }

    /// Bytes, about.
    pub fn heap_bytes(&self) -> usize {
        let events: usize = self.events.iter().map(|e| e.columns.len() * 4 + 48).sum();
        events + self.of.allocation_size()
    }

    /// Forgets what nobody needs who is at `least` or behind; all, where there is nobody. Those who read have looked at
    /// the events up to the number `seen`: they have to look at all.
    pub fn trim(&mut self, least: Option<u64>, seen: u64) -> Option<Op> {
        let Some(least) = least else {
            let (some, first) = (self.some, self.first + self.events.len() as u64);
            *self = Gone { loaded: self.loaded, first, ..Gone::default() };
            return some.then(|| Op::DeleteRange(Family::Postings, vec![PREFIX], vec![PREFIX + 1]));
        };
        let mut trimmed = false;
        while self.first < seen
            && self.events.front().is_some_and(|e| e.until <= least)
            && let Some(event) = self.events.pop_front()
        {
            self.first += 1;
            trimmed = true;
            for c in &event.columns {
                if let Some(all) = self.of.get_mut(&(event.group, *c)) {
                    all.retain(|until| *until != event.until);
                    if all.is_empty() {
                        self.of.remove(&(event.group, *c));
                    }
                }
            }
        }
        trimmed.then(|| Op::DeleteRange(Family::Postings, key(0, 0), key(least, u32::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_forgotten_that_was_not_seen() {
        let mut gone = Gone { loaded: true, ..Gone::default() };
        gone.note(10, 1, &[4, 5]);
        gone.note(20, 1, &[4]);
        assert_eq!(
            [0, 9, 10, 19, 20].map(|seq| gone.next_of(1, 4, seq)),
            [Some(10), Some(10), Some(20), Some(20), None]
        );
        let mut seen = 0;
        assert_eq!(gone.since(&mut seen).count(), 2);
        // Given up before the place that was settled, but found out later.
        gone.note(15, 2, &[0]);
        assert!(gone.trim(Some(20), seen).is_some());
        assert_eq!(gone.since(&mut seen).map(|e| (e.until, e.group)).collect::<Vec<_>>(), [(15, 2)]);
        assert!(gone.trim(Some(20), seen).is_some() && gone.trim(Some(20), seen).is_none());
        assert!(gone.events.is_empty() && gone.of.is_empty());
        assert!(gone.trim(None, 0).is_some() && gone.trim(None, 0).is_none());
    }
}
