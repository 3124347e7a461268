//! Series that were pushed before, recognised by the bytes of their labels.
//!
//! A sender pushes the same series again and again. The label bytes of a series in a request (1.0), or the hashes of
//! the symbols that it names (2.0), are hashed under a secret seed, and the hash leads to the place where the store
//! keeps the series: no label is decoded, checked, sorted or looked up. Each series remembers which one followed it
//! last time, so that mostly not even the hash is looked up, and in 1.0 not even the end of the labels is searched.
//!
//! Invariants: a series is learnt only after the plain path took it with these very bytes as all of its labels, so
//! they are valid. The store checks each place; a series that is not there any more goes the plain way again.
//!
//! Deliberately absent: native histograms, exemplars, samples from the future, new metadata and new start timestamps.
//! A series with any of these goes the plain way ([`super::decode`]).

use std::sync::atomic::{AtomicU32, Ordering};

use hashbrown::HashTable;
use narthex_storage::{Place, PlacedSample};
use parking_lot::RwLock;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::decode::Rules;
use super::wire::{Field, Fields, WireError, varint};

/// So many series are remembered; about 80 bytes each.
pub const MAX_KNOWN: usize = 4 << 20;
/// Up to so many, none is forgotten.
const FEW: usize = 1 << 16;
const NONE: u32 = u32::MAX;
/// More references than this in a series of 2.0 go the plain way.
const MAX_REFS: usize = 128;
const TAG_LABEL: u8 = 0x0a;
const TAG_SAMPLE: u8 = 0x12;
const TAG_METADATA: u8 = 0x2a;

#[derive(Debug)]
struct Entry {
    key: u64,
    place: Place,
    /// Bytes of the labels in 1.0; 0 in 2.0.
    len: u32,
    /// What came after it last time.
    next: AtomicU32,
    /// The sweep before which it was last used.
    used: AtomicU32,
    extras: Extras,
}

/// What 2.0 says of a series besides its samples: the last that the plain path stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    metadata: u64,
    start: i64,
}

#[derive(Debug, Default)]
struct Table {
    entries: Vec<Entry>,
    by_key: HashTable<u32>,
    sweep: u32,
    sweep_at: usize,
}

/// The series that are known. Shared by all requests.
#[derive(Debug)]
pub struct Known {
    seed: u64,
    max: usize,
    table: RwLock<Table>,
    /// For what is not known yet.
    pub rules: Rules,
}

/// A series that was not found, to be learnt when the plain path has stored it.
#[derive(Clone, Copy, Debug)]
pub struct Lesson {
    pub key: u64,
    len: u32,
    extras: Extras,
}

/// What was found of a series.
pub enum Found {
    /// All of its samples were added.
    Known,
    /// To be taken the plain way, and learnt afterwards if there is a lesson.
    Unknown(Option<Lesson>),
}

/// Where a series lies in a request, and what it is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct From {
    pub offset: u32,
    pub len: u32,
    /// Bytes of its labels, as in [`Entry`].
    pub labels: u32,
    pub key: u64,
}

/// The known samples of a request.
#[derive(Debug, Default)]
pub struct Samples {
    pub samples: Vec<PlacedSample>,
    /// Where each sample's series lies in the request.
    pub from: Vec<From>,
    /// Whether some of them came with metadata.
    pub with_metadata: bool,
}

impl Samples {
    pub fn clear(&mut self) {
        self.samples.clear();
        self.from.clear();
        self.with_metadata = false;
    }
}

impl Known {
    /// Remembers at most `max` series; with 0 all go the plain way.
    pub fn new(max: usize) -> Known {
        use std::hash::BuildHasher;
        let seed = std::hash::RandomState::new().hash_one(0);
        let table = RwLock::new(Table { sweep_at: FEW, ..Table::default() });
        Known { seed, max, table, rules: Rules::default() }
    }

    /// A walk over the series of one request.
    pub fn walk<'a>(&self, table: &'a Guard<'_>, latest: i64) -> Walk<'a> {
        Walk { table: &table.0, seed: self.seed, off: self.max == 0, at: NONE, latest, symbols: Vec::new() }
    }

    /// Keeps the table as it is for a walk.
    pub fn lock(&self) -> Guard<'_> {
        Guard(self.table.read())
    }

    /// Learns where the store keeps series.
    pub fn learn(&self, lessons: impl IntoIterator<Item = (Lesson, Place)>) {
        let mut table = self.table.write();
        for (Lesson { key, len, extras }, place) in lessons {
            let found = table.find(key, len).map(|(at, _)| at);
            if let Some(entry) = found.and_then(|at| table.entries.get_mut(at as usize)) {
                (entry.place, entry.extras) = (place, extras);
                continue;
            }
            if table.entries.len() >= table.sweep_at.min(self.max) {
                table.forget(self.max);
            }
            let at = table.entries.len() as u32;
            let used = AtomicU32::new(table.sweep);
            table.entries.push(Entry { key, place, len, next: AtomicU32::new(at + 1), used, extras });
            table.index(at);
        }
    }

    /// Notes that series, known by key and length of labels, are not where they were: they are learnt anew.
    pub fn lose(&self, lost: impl IntoIterator<Item = (u64, u32)>) {
        let nowhere = Place { group: NONE, column: NONE, series: NONE };
        self.relearn(lost.into_iter().map(|(key, len)| (key, len, nowhere)));
    }

    /// Notes the new places of series that are known by key and length of labels.
    pub fn relearn(&self, moved: impl IntoIterator<Item = (u64, u32, Place)>) {
        let mut table = self.table.write();
        for (key, len, place) in moved {
            let found = table.find(key, len).map(|(at, _)| at);
            if let Some(entry) = found.and_then(|at| table.entries.get_mut(at as usize)) {
                entry.place = place;
            }
        }
    }
}

/// The table, locked for reading.
pub struct Guard<'a>(parking_lot::RwLockReadGuard<'a, Table>);

impl Table {
    fn find(&self, key: u64, len: u32) -> Option<(u32, &Entry)> {
        let same = |at: &u32| self.entries.get(*at as usize).is_some_and(|e| e.key == key && e.len == len);
        let at = *self.by_key.find(key, same)?;
        Some((at, self.entries.get(at as usize)?))
    }

    fn index(&mut self, at: u32) {
        let Table { entries, by_key, .. } = self;
        if let Some(entry) = entries.get(at as usize) {
            by_key.insert_unique(entry.key, at, |at| entries.get(*at as usize).map_or(0, |e| e.key));
        }
    }

    /// Forgets what was not used since the last time; everything, where that would leave too much.
    fn forget(&mut self, max: usize) {
        let sweep = self.sweep;
        self.entries.retain(|e| e.used.load(Ordering::Relaxed) == sweep);
        if self.entries.len() >= max {
            self.entries.clear();
        }
        self.entries.shrink_to_fit();
        self.by_key = HashTable::with_capacity(self.entries.len());
        for at in 0..self.entries.len() as u32 {
            if let Some(entry) = self.entries.get_mut(at as usize) {
                entry.next = AtomicU32::new(at + 1);
            }
            self.index(at);
        }
        self.sweep = sweep.wrapping_add(1);
        self.sweep_at = FEW.max(2 * self.entries.len());
    }
}

/// Goes through the series of a request in their order.
pub struct Walk<'a> {
    table: &'a Table,
    seed: u64,
    off: bool,
    /// The series before.
    at: u32,
    latest: i64,
    /// Hashes of 2.0's symbols.
    symbols: Vec<u64>,
}

impl<'a> Walk<'a> {
    fn expected(&self) -> Option<(u32, &'a Entry)> {
        let at = match self.table.entries.get(self.at as usize) {
            Some(before) => before.next.load(Ordering::Relaxed),
            None => return None,
        };
        Some((at, self.table.entries.get(at as usize)?))
    }

    fn step(&mut self, at: u32, entry: &Entry) {
        if let Some(before) = self.table.entries.get(self.at as usize)
            && before.next.load(Ordering::Relaxed) != at
        {
            before.next.store(at, Ordering::Relaxed);
        }
        self.at = at;
        if entry.used.load(Ordering::Relaxed) != self.table.sweep {
            entry.used.store(self.table.sweep, Ordering::Relaxed);
        }
    }

    /// A series of 1.0, `body` being its message and `offset` where that lies in the request.
    #[inline]
    pub fn v1(&mut self, body: &[u8], offset: usize, out: &mut Samples) -> Found {
        if self.off {
            return Found::Unknown(None);
        }
        let hash = |labels: &[u8]| xxh3_64_with_seed(labels, self.seed);
        let expected = self.expected().filter(|(_, e)| {
            let len = e.len as usize;
            // No label comes after these.
            len > 0 && body.get(len) == Some(&TAG_SAMPLE) && body.get(..len).is_some_and(|l| hash(l) == e.key)
        });
        let (found, lesson) = match expected {
            Some((at, entry)) => (Some((at, entry)), Lesson { key: entry.key, len: entry.len, extras: entry.extras }),
            None => {
                let Some(len) = labels_len(body) else { return Found::Unknown(None) };
                let Some(labels) = body.get(..len) else { return Found::Unknown(None) };
                let (key, len) = (hash(labels), len as u32);
                (self.table.find(key, len), Lesson { key, len, extras: Extras::default() })
            }
        };
        let found = found.filter(|(_, e)| e.place.group != NONE);
        let Some(rest) = body.get(lesson.len as usize..) else { return Found::Unknown(None) };
        let place = found.map(|f| f.1.place);
        // Requests are bounded to far less than 4 GiB.
        let from = From { offset: offset as u32, len: body.len() as u32, labels: lesson.len, key: lesson.key };
        let Some((extras, _)) = self.samples(rest, place, Extras::default(), from, out) else {
            return Found::Unknown(None);
        };
        debug_assert_eq!(extras, Extras::default());
        match found {
            Some((at, entry)) => {
                self.step(at, entry);
                Found::Known
            }
            None => Found::Unknown(Some(lesson)),
        }
    }

    /// Begins a request of 2.0.
    pub fn symbols<'b>(&mut self, symbols: impl Iterator<Item = &'b str>) {
        if !self.off {
            self.symbols.extend(symbols.map(|s| xxh3_64_with_seed(s.as_bytes(), self.seed)));
        }
    }

    /// A series of 2.0 likewise.
    pub fn v2(&mut self, body: &[u8], offset: usize, out: &mut Samples) -> Found {
        if self.off {
            return Found::Unknown(None);
        }
        match self.v2_key(body) {
            Some((key, rest)) => {
                let from = From { offset: offset as u32, len: body.len() as u32, labels: 0, key };
                self.v2_samples(key, rest, from, out)
            }
            None => Found::Unknown(None),
        }
    }

    /// The key of a series whose labels come first, and what comes after them.
    fn v2_key<'b>(&self, body: &'b [u8]) -> Option<(u64, &'b [u8])> {
        let mut rest = body.strip_prefix(&[TAG_LABEL])?;
        let len = usize::try_from(varint(&mut rest).ok()?).ok()?;
        let (mut refs, rest) = rest.split_at_checked(len)?;
        let (mut hashes, mut n) = ([0u8; MAX_REFS * 8], 0);
        while !refs.is_empty() {
            let symbol = self.symbols.get(usize::try_from(varint(&mut refs).ok()?).ok()?)?;
            hashes.get_mut(n..n + 8)?.copy_from_slice(&symbol.to_le_bytes());
            n += 8;
        }
        // Another seed than that of 1.0's labels.
        Some((xxh3_64_with_seed(hashes.get(..n)?, !self.seed), rest))
    }

    fn v2_samples(&mut self, key: u64, rest: &[u8], from: From, out: &mut Samples) -> Found {
        let found = self.expected().filter(|(_, e)| e.key == key && e.len == 0).or_else(|| self.table.find(key, 0));
        let found = found.filter(|(_, e)| e.place.group != NONE);
        let (place, before) = match found {
            Some((_, entry)) => (Some(entry.place), entry.extras),
            None => (None, Extras::default()),
        };
        let Some((extras, with_metadata)) = self.samples(rest, place, before, from, out) else {
            return Found::Unknown(None);
        };
        match found {
            Some((at, entry)) if extras == entry.extras => {
                out.with_metadata |= with_metadata;
                self.step(at, entry);
                Found::Known
            }
            _ => Found::Unknown(Some(Lesson { key, len: 0, extras })),
        }
    }

    /// Adds the samples of a series in `place`; only reads them where there is no place, or where other extras than
    /// those `before` come with them. `None`: there is something else than samples, or none, or one from the future.
    #[inline]
    fn samples(
        &self,
        mut rest: &[u8],
        place: Option<Place>,
        before: Extras,
        from: From,
        out: &mut Samples,
    ) -> Option<(Extras, bool)> {
        let first = out.samples.len();
        let mut extras = before;
        let mut with_metadata = false;
        let mut some = false;
        let whole = loop {
            let Some((tag, after)) = rest.split_first() else { break some };
            let mut after = after;
            if *tag != TAG_SAMPLE && *tag != TAG_METADATA {
                break false;
            }
            let Some(message) = message(&mut after) else { break false };
            rest = after;
            if *tag == TAG_METADATA {
                match self.metadata(message) {
                    Ok(metadata) if self.is_v2() => (extras.metadata, with_metadata) = (metadata, metadata != 0),
                    _ => break false,
                }
                continue;
            }
            let Some((timestamp, value, start)) = sample(message) else { break false };
            if timestamp > self.latest || start != 0 && !self.is_v2() {
                break false;
            }
            if start != 0 {
                extras.start = start;
            }
            some = true;
            if let Some(place) = place {
                out.samples.push(PlacedSample { place, timestamp, value });
                out.from.push(from);
            }
        };
        if !whole || extras != before {
            out.samples.truncate(first);
            out.from.truncate(first);
        }
        whole.then_some((extras, with_metadata))
    }

    fn is_v2(&self) -> bool {
        !self.symbols.is_empty()
    }

    /// A hash of 2.0's metadata; 0 where it says nothing.
    fn metadata(&self, message: &[u8]) -> Result<u64, WireError> {
        let (mut kind, mut help, mut unit) = (0, 0, 0);
        let mut fields = Fields(message);
        while let Some((number, field)) = fields.next()? {
            match (number, field) {
                (1, Field::Varint(n)) => kind = n,
                (3, Field::Varint(n)) => help = n,
                (4, Field::Varint(n)) => unit = n,
                _ => {}
            }
        }
        if (kind, help, unit) == (0, 0, 0) {
            return Ok(0);
        }
        let symbol = |r: u64| usize::try_from(r).ok().and_then(|r| self.symbols.get(r)).copied().unwrap_or_default();
        let text = [kind, symbol(help), symbol(unit)].map(u64::to_le_bytes);
        Ok(xxh3_64_with_seed(text.as_flattened(), self.seed).max(1))
    }
}

/// The bytes of the labels at the front of a series; `None` where there are none.
fn labels_len(body: &[u8]) -> Option<usize> {
    let mut rest = body;
    while let Some(mut after) = rest.strip_prefix(&[TAG_LABEL]) {
        message(&mut after)?;
        rest = after;
    }
    Some(body.len() - rest.len()).filter(|n| *n > 0)
}

/// A length and so many bytes from the front.
#[inline]
fn message<'b>(bytes: &mut &'b [u8]) -> Option<&'b [u8]> {
    let (first, rest) = bytes.split_first()?;
    let len = if *first < 0x80 {
        *bytes = rest;
        usize::from(*first)
    } else {
        usize::try_from(varint(bytes).ok()?).ok()?
    };
    let (message, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(message)
}

/// Timestamp, value and start timestamp of a sample that has no other fields.
#[inline]
fn sample(mut message: &[u8]) -> Option<(i64, f64, i64)> {
    let (mut t, mut v, mut start) = (0, 0.0, 0);
    while let Some((tag, rest)) = message.split_first() {
        message = rest;
        match *tag {
            0x09 => {
                let (bytes, rest) = message.split_first_chunk::<8>()?;
                v = f64::from_le_bytes(*bytes);
                message = rest;
            }
            0x10 => t = varint(&mut message).ok()? as i64,
            0x18 => start = varint(&mut message).ok()? as i64,
            _ => return None,
        }
    }
    Some((t, v, start))
}
