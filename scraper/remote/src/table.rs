//! The series that a queue knows: labels as they are sent (external labels added, relabelled), each pair of name and
//! value once, a series as a list of numbers of pairs. A pair lies as the bytes of 1.0's label message, so that a
//! sample's labels are copied, not encoded.
//!
//! Numbers of the tail are told again to other series once they are gone, while samples of the old one may still wait to
//! be encoded: a slot is therefore a number of its own, freed when nobody waits any more ([`SeriesTable::release`]).

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use hashbrown::{HashMap, HashTable};
use narthex_model::varint;
use narthex_model::{Labels, Metadata};

use crate::family::family_of;

/// A series that is not sent: relabelling dropped it.
const DROPPED: u32 = u32::MAX;

/// No slot.
const NONE: u32 = u32::MAX;

/// A series as it is sent.
#[derive(Default)]
struct Slot {
    pairs: Box<[u32]>,
    /// By it a series always goes the same way.
    hash: u32,
    /// Its metric's description, or [`DROPPED`].
    family: u32,
}

/// A label.
struct Pair {
    /// 1.0's `labels` field: tag, length, name, value.
    bytes: Box<[u8]>,
    name_len: u32,
    value_len: u32,
    uses: u32,
}

impl Pair {
    fn new(name: &str, value: &str) -> Pair {
        let part = |len: usize| 1 + varint::len(len as u64) + len;
        let inner = part(name.len()) + part(value.len());
        let mut bytes = Vec::with_capacity(part(inner));
        bytes.push(0x0a);
        varint::put(&mut bytes, inner as u64);
        for (tag, text) in [(0x0a, name), (0x12, value)] {
            bytes.push(tag);
            varint::put(&mut bytes, text.len() as u64);
            bytes.extend_from_slice(text.as_bytes());
        }
        Pair { bytes: bytes.into(), name_len: name.len() as u32, value_len: value.len() as u32, uses: 0 }
    }

    fn value(&self) -> &[u8] {
        let from = self.bytes.len() - self.value_len as usize;
        &self.bytes[from..]
    }

    fn name(&self) -> &[u8] {
        let value = 1 + varint::len(u64::from(self.value_len)) + self.value_len as usize;
        let end = self.bytes.len() - value;
        &self.bytes[end - self.name_len as usize..end]
    }
}

/// A metric's name, with what is known of it.
struct Family {
    name: Box<str>,
    metadata: Option<Arc<Metadata>>,
    uses: u32,
}

/// All series of a queue.
pub struct SeriesTable {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Slots by the tail's numbers.
    by_number: Vec<u32>,
    /// Slots whose series are gone, and when they went.
    gone: VecDeque<(u64, u32)>,
    pairs: Vec<Pair>,
    free_pairs: Vec<u32>,
    known_pairs: HashTable<u32>,
    families: Vec<Family>,
    free_families: Vec<u32>,
    known_families: HashMap<Box<str>, u32, foldhash::fast::RandomState>,
    hasher: foldhash::fast::RandomState,
    /// Bytes of lists and pairs.
    own_bytes: usize,
}

fn hash_pair(hasher: &foldhash::fast::RandomState, name: &[u8], value: &[u8]) -> u64 {
    let mut h = hasher.build_hasher();
    h.write(name);
    h.write_u8(0xff);
    h.write(value);
    h.finish()
}

impl Default for SeriesTable {
    fn default() -> SeriesTable {
        SeriesTable {
            slots: Vec::new(),
            free: Vec::new(),
            by_number: Vec::new(),
            gone: VecDeque::new(),
            pairs: Vec::new(),
            free_pairs: Vec::new(),
            known_pairs: HashTable::new(),
            families: Vec::new(),
            free_families: Vec::new(),
            known_families: HashMap::default(),
            hasher: foldhash::fast::RandomState::default(),
            own_bytes: 0,
        }
    }
}

/// What the table knows of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Slot, and the hash that says by which lane.
    Kept(u32, u32),
    Dropped,
    Unknown,
}

impl SeriesTable {
    /// A series and its number; `sent` are the labels under which it is sent, none if it is not. `describe` asks for
    /// the description of a metric that is new here.
    pub fn tell(&mut self, number: u32, own: &Labels, sent: Option<&Labels>, families: bool) {
        // Told again without having gone: the newer counts.
        self.forget(number, 0);
        let slot = match sent {
            None => Slot { family: DROPPED, ..Slot::default() },
            Some(labels) => {
                let pairs: Box<[u32]> = labels.iter().map(|(n, v)| self.pair(n, v)).collect();
                self.own_bytes += allocated(size_of_val(&*pairs));
                let family = if families { self.family(own.metric_name()) } else { 0 };
                Slot { pairs, hash: labels.stable_hash() as u32, family }
            }
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = slot;
                at
            }
            None => {
                self.slots.push(slot);
                self.slots.len() as u32 - 1
            }
        };
        let number = number as usize;
        if number >= self.by_number.len() {
            self.by_number.resize(number + 1, NONE);
        }
        self.by_number[number] = at;
    }

    pub fn find(&self, number: u32) -> Found {
        match self.by_number.get(number as usize) {
            None | Some(&NONE) => Found::Unknown,
            Some(&at) => match &self.slots[at as usize] {
                slot if slot.family == DROPPED => Found::Dropped,
                slot => Found::Kept(at, slot.hash),
            },
        }
    }

    /// A series whose number will not come any more. Its slot stays until [`SeriesTable::release`].
    pub fn forget(&mut self, number: u32, now: u64) {
        if let Some(at) = self.by_number.get_mut(number as usize).filter(|at| **at != NONE) {
            self.gone.push_back((now, std::mem::replace(at, NONE)));
        }
    }

    /// Frees the slots of what went before `oldest`, when the oldest sample came that still waits to be encoded.
    pub fn release(&mut self, oldest: u64) {
        while let Some((_, at)) = self.gone.front().copied().filter(|(when, _)| *when < oldest) {
            self.gone.pop_front();
            let slot = std::mem::take(&mut self.slots[at as usize]);
            self.own_bytes -= allocated(size_of_val(&*slot.pairs));
            for pair in &slot.pairs {
                self.drop_pair(*pair);
            }
            if let Some(family) = self.families.get_mut(slot.family as usize) {
                family.uses -= 1;
                if family.uses == 0 {
                    self.known_families.remove(&family.name);
                    *family = Family { name: "".into(), metadata: None, uses: 0 };
                    self.free_families.push(slot.family);
                }
            }
            self.free.push(at);
        }
    }

    fn pair(&mut self, name: &str, value: &str) -> u32 {
        let (name_bytes, value_bytes) = (name.as_bytes(), value.as_bytes());
        let hash = hash_pair(&self.hasher, name_bytes, value_bytes);
        let pairs = &self.pairs;
        let same = |at: &u32| {
            let p = &pairs[*at as usize];
            p.name() == name_bytes && p.value() == value_bytes
        };
        let at = match self.known_pairs.find(hash, same) {
            Some(at) => *at,
            None => {
                let pair = Pair::new(name, value);
                self.own_bytes += allocated(pair.bytes.len());
                let at = match self.free_pairs.pop() {
                    Some(at) => {
                        self.pairs[at as usize] = pair;
                        at
                    }
                    None => {
                        self.pairs.push(pair);
                        self.pairs.len() as u32 - 1
                    }
                };
                let (pairs, hasher) = (&self.pairs, &self.hasher);
                self.known_pairs.insert_unique(hash, at, |at| {
                    let p = &pairs[*at as usize];
                    hash_pair(hasher, p.name(), p.value())
                });
                at
            }
        };
        self.pairs[at as usize].uses += 1;
        at
    }

    fn drop_pair(&mut self, at: u32) {
        let pair = &mut self.pairs[at as usize];
        pair.uses -= 1;
        if pair.uses > 0 {
            return;
        }
        let hash = hash_pair(&self.hasher, pair.name(), pair.value());
        if let Ok(entry) = self.known_pairs.find_entry(hash, |known| *known == at) {
            entry.remove();
        }
        self.own_bytes -= allocated(pair.bytes.len());
        pair.bytes = Box::default();
        (pair.name_len, pair.value_len) = (0, 0);
        self.free_pairs.push(at);
    }

    fn family(&mut self, name: &str) -> u32 {
        let at = match self.known_families.get(name) {
            Some(at) => *at,
            None => {
                let family = Family { name: name.into(), metadata: None, uses: 0 };
                let at = match self.free_families.pop() {
                    Some(at) => {
                        self.families[at as usize] = family;
                        at
                    }
                    None => {
                        self.families.push(family);
                        self.families.len() as u32 - 1
                    }
                };
                self.known_families.insert(name.into(), at);
                at
            }
        };
        self.families[at as usize].uses += 1;
        at
    }

    /// Takes over what is known of metrics; whether nothing is missing of what is needed.
    pub fn describe(&mut self, all: &std::collections::HashMap<String, Arc<Metadata>>) -> bool {
        let mut complete = true;
        for family in self.families.iter_mut().filter(|f| f.uses > 0) {
            if let Some(found) = family_of(&family.name, all) {
                family.metadata = Some(found.clone());
            }
            complete &= family.metadata.is_some();
        }
        complete
    }

    /// The numbers of a series' labels, in the order of their names.
    pub fn pairs_of(&self, slot: u32) -> &[u32] {
        &self.slots[slot as usize].pairs
    }

    /// A label as 1.0 sends it.
    pub fn pair_bytes(&self, pair: u32) -> &[u8] {
        &self.pairs[pair as usize].bytes
    }

    pub fn name_and_value(&self, pair: u32) -> (&[u8], &[u8]) {
        let pair = &self.pairs[pair as usize];
        (pair.name(), pair.value())
    }

    pub fn metadata_of(&self, slot: u32) -> Option<&Metadata> {
        let family = self.slots[slot as usize].family;
        self.families.get(family as usize)?.metadata.as_deref()
    }

    /// The largest number of a pair, and one.
    pub fn pair_numbers(&self) -> usize {
        self.pairs.len()
    }

    /// How many series are known, those that are dropped included.
    pub fn series(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Bytes that the table holds, more or less.
    pub fn bytes_about(&self) -> usize {
        self.own_bytes
            + self.slots.capacity() * size_of::<Slot>()
            + self.by_number.capacity() * 4
            + self.pairs.capacity() * size_of::<Pair>()
            + self.known_pairs.capacity() * 5
            + self.families.capacity() * (size_of::<Family>() + 48)
    }
}

/// What an allocation of so many bytes takes, about.
fn allocated(len: usize) -> usize {
    len.next_multiple_of(16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use narthex_model::METRIC_NAME;

    fn labels(n: usize) -> Labels {
        let (name, a) = (format!("metric_{}", n % 50), format!("value-{n}"));
        Labels::from_pairs([(METRIC_NAME, name.as_str()), ("instance", "host:9100"), ("job", "node"), ("a", &a)])
    }

    #[test]
    fn labels_come_back_and_slots_are_freed_late() {
        let mut table = SeriesTable::default();
        for n in 0..1000 {
            let labels = labels(n);
            table.tell(n as u32, &labels, (n % 7 != 3).then_some(&labels), true);
        }
        for n in 0..1000 {
            match table.find(n as u32) {
                Found::Kept(slot, hash) => {
                    let expected = labels(n);
                    assert_eq!(hash, expected.stable_hash() as u32);
                    let text = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
                    let pairs = table.pairs_of(slot).iter().map(|p| table.name_and_value(*p));
                    assert_eq!(Labels::from_pairs(pairs.map(|(n, v)| (text(n), text(v)))), expected);
                }
                Found::Dropped => assert_eq!(n % 7, 3),
                Found::Unknown => panic!("{n}"),
            }
        }
        let Found::Kept(slot, _) = table.find(5) else { panic!() };
        table.forget(5, 10);
        assert_eq!(table.find(5), Found::Unknown);
        table.release(10);
        assert_eq!(table.series(), 1000, "somebody may wait to be encoded");
        table.tell(5, &labels(2000), Some(&labels(2000)), true);
        assert_ne!(table.find(5), Found::Kept(slot, labels(2000).stable_hash() as u32));
        table.release(11);
        assert_eq!(table.series(), 1000);
        for n in 0..1000 {
            table.forget(n, 20);
        }
        table.release(21);
        assert_eq!((table.series(), table.known_pairs.len(), table.known_families.len()), (0, 0, 0));
        assert_eq!(table.own_bytes, 0);
        assert!(table.pairs.iter().all(|p| p.bytes.is_empty()));
    }

    #[test]
    fn a_series_takes_little() {
        let mut table = SeriesTable::default();
        for n in 0..100_000usize {
            let (name, cpu, mode) =
                (format!("metric_{}", n % 500), format!("{}", n / 4000), format!("m{}", n / 500 % 8));
            let host = format!("node-{}.example.org:9100", n % 200);
            let all = [
                (METRIC_NAME, name.as_str()),
                ("cpu", &cpu),
                ("mode", &mode),
                ("instance", &host),
                ("job", "node"),
                ("namespace", "monitoring"),
                ("pod", "node-exporter-xxxxx"),
                ("cluster", "eu-1"),
                ("replica", "a"),
                ("container", "exporter"),
            ];
            let labels = Labels::from_pairs(all);
            table.tell(n as u32, &labels, Some(&labels), true);
        }
        let each = table.bytes_about() / 100_000;
        println!("{each} bytes a series of ten labels");
        assert!(each < 120, "{each}");
    }
}
