//! What queries read again and again: blocks whose checksum was found right, the timestamps that they share, decoded, and
//! columns of blocks that were asked for more than once, decoded as well ([`crate::decoded`]). Bounded by bytes; what was
//! not asked for in a while goes.
//!
//! What lies under a key never changes, but when deleted samples are taken out of blocks for good: then all is
//! forgotten ([`ReadCache::forget`]), and whoever was reading just then keeps what was read to itself.

use std::hash::Hash;
use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::block::times_hash;
use crate::blocks::ReadStretch;
use crate::decoded::DecodedBlock;

/// What a window has.
pub struct StoredTimes {
    pub read: ReadStretch,
    /// Of the timestamps, as blocks know it.
    pub hash: u16,
}

impl StoredTimes {
    pub fn new(read: ReadStretch) -> StoredTimes {
        StoredTimes { hash: times_hash(&read.times), read }
    }
}

/// Bytes of an entry beside what it holds.
const OVERHEAD: usize = 128;

pub struct ReadCache {
    /// Most bytes of blocks, and most of timestamps.
    capacity: usize,
    /// Most bytes of decoded columns.
    decoded_capacity: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How often all was forgotten.
    epoch: u64,
    times: Generations<(u32, u64), Arc<StoredTimes>>,
    blocks: Generations<Box<[u8]>, Arc<[u8]>>,
    decoded: Generations<Box<[u8]>, Arc<DecodedBlock>>,
}

/// A block that was asked for before.
pub enum Cached {
    /// And cannot be kept decoded.
    Bytes(Arc<[u8]>),
    Decoded(Arc<DecodedBlock>),
}

/// Entries in two generations: what is found in the old one moves to the young one, and when that is full, it becomes
/// the old one.
struct Generations<K, V> {
    young: HashMap<K, (V, usize), foldhash::fast::FixedState>,
    old: HashMap<K, (V, usize), foldhash::fast::FixedState>,
    /// Of the young ones.
    bytes: usize,
}

impl<K, V> Default for Generations<K, V> {
    fn default() -> Self {
        Generations { young: HashMap::default(), old: HashMap::default(), bytes: 0 }
    }
}

impl<K: Hash + Eq, V: Clone> Generations<K, V> {
    fn get<Q: ?Sized + Hash + hashbrown::Equivalent<K>>(&mut self, key: &Q, capacity: usize) -> Option<V> {
        if let Some((value, _)) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, (value, bytes)) = self.old.remove_entry(key)?;
        self.insert(key, value.clone(), bytes, capacity);
        Some(value)
    }

    fn insert(&mut self, key: K, value: V, bytes: usize, capacity: usize) {
        let half = capacity / 2;
        // One that would drive out all others is not kept.
        if bytes > half / 2 {
            return;
        }
        if self.bytes + bytes > half {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
        if let Some((_, before)) = self.young.insert(key, (value, bytes)) {
            self.bytes -= before;
        }
        self.bytes += bytes;
    }

    fn all_bytes(&self) -> usize {
        self.young.values().chain(self.old.values()).map(|entry| entry.1).sum()
    }

    /// To be called when an entry has grown.
    fn grew<Q: ?Sized + Hash + hashbrown::Equivalent<K>>(&mut self, key: &Q, by: usize, capacity: usize) {
        if let Some((_, bytes)) = self.old.get_mut(key) {
            *bytes += by;
        } else if let Some((_, bytes)) = self.young.get_mut(key) {
            *bytes += by;
            self.bytes += by;
            if self.bytes > capacity / 2 {
                self.old = std::mem::take(&mut self.young);
                self.bytes = 0;
            }
        }
    }
}

impl ReadCache {
    /// One that holds `capacity` bytes at most, and `decoded` bytes of decoded columns.
    pub fn new(capacity: usize, decoded: usize) -> ReadCache {
        ReadCache { capacity: capacity / 2, decoded_capacity: decoded, state: Mutex::default() }
    }

    /// To be asked before something is read that is then to be kept.
    pub fn epoch(&self) -> u64 {
        self.state.lock().epoch
    }

    pub fn times(&self, group: u32, number: u64) -> Option<Arc<StoredTimes>> {
        self.state.lock().times.get(&(group, number), self.capacity)
    }

    pub fn put_times(&self, epoch: u64, group: u32, number: u64, times: &Arc<StoredTimes>) {
        let ReadStretch { times: stamps, metrics, whole } = &times.read;
        let bytes = stamps.len() * 8 + metrics.len() * 4 + whole.heap_bytes() + OVERHEAD;
        let mut state = self.state.lock();
        if state.epoch == epoch {
            state.times.insert((group, number), times.clone(), bytes, self.capacity);
        }
    }

    /// To be called when what a window was said to have is not there.
    pub fn forget_times(&self, group: u32, number: u64) {
        let mut state = self.state.lock();
        let (young, old) = (state.times.young.remove(&(group, number)), state.times.old.remove(&(group, number)));
        state.times.bytes -= young.map_or(0, |entry| entry.1);
        drop(old);
    }

    pub fn block(&self, key: &[u8]) -> Option<Cached> {
        let mut state = self.state.lock();
        if let Some(decoded) = state.decoded.get(key, self.decoded_capacity) {
            return Some(Cached::Decoded(decoded));
        }
        let bytes = state.blocks.get(key, self.capacity)?;
        // Asked for again: worth decoding. One block takes an eighth of all at most.
        let limit = self.decoded_capacity / 8;
        let decoded = if bytes.len() < limit / 2 { DecodedBlock::new(bytes.clone(), limit / 2) } else { None };
        let Some(decoded) = decoded.map(Arc::new) else { return Some(Cached::Bytes(bytes)) };
        state.decoded.insert(key.into(), decoded.clone(), decoded.base_bytes() + OVERHEAD, self.decoded_capacity);
        Some(Cached::Decoded(decoded))
    }

    /// To be called when more columns of a block are kept.
    pub fn decoded_more(&self, key: &[u8], bytes: usize) {
        self.state.lock().decoded.grew(key, bytes, self.decoded_capacity);
    }

    /// `block` was verified.
    pub fn put_block(&self, epoch: u64, key: &[u8], block: &Arc<[u8]>) {
        let mut state = self.state.lock();
        if state.epoch == epoch {
            state.blocks.insert(key.into(), block.clone(), block.len() + OVERHEAD, self.capacity);
        }
    }

    /// The bytes of all that is kept.
    pub fn bytes(&self) -> usize {
        let state = self.state.lock();
        state.times.all_bytes() + state.blocks.all_bytes() + state.decoded.all_bytes()
    }

    /// Forgets all. To be called when what lay under some key was written anew.
    pub fn forget(&self) {
        let mut state = self.state.lock();
        *state = State { epoch: state.epoch + 1, ..State::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_bytes_are_bounded() {
        let cache = ReadCache::new(2 * 8 * (1000 + OVERHEAD), 0);
        let block: Arc<[u8]> = vec![7; 1000].into();
        let key = |i: u32| i.to_be_bytes();
        for i in 0..100 {
            cache.put_block(0, &key(i), &block);
            // Asked for all the time.
            assert!(cache.block(&key(0)).is_some(), "{i}");
        }
        let state = cache.state.lock();
        let bytes = |entries: &HashMap<Box<[u8]>, (Arc<[u8]>, usize), foldhash::fast::FixedState>| {
            entries.values().map(|entry| entry.1).sum::<usize>()
        };
        assert_eq!(bytes(&state.blocks.young), state.blocks.bytes);
        assert!(bytes(&state.blocks.young) + bytes(&state.blocks.old) <= 8 * (1000 + OVERHEAD));
        drop(state);
        assert!(cache.block(&key(50)).is_none() && cache.block(&key(99)).is_some());
        let large: Arc<[u8]> = vec![7; 10_000].into();
        cache.put_block(0, &key(1000), &large);
        assert!(cache.block(&key(1000)).is_none());
    }

    #[test]
    fn what_was_read_before_all_was_forgotten_is_not_kept() {
        let cache = ReadCache::new(1 << 20, 1 << 20);
        let read = ReadStretch { times: Arc::from([1, 2]), metrics: vec![3], whole: Default::default() };
        let times = Arc::new(StoredTimes::new(read));
        let epoch = cache.epoch();
        cache.put_times(epoch, 1, 2, &times);
        assert!(cache.times(1, 2).is_some() && cache.times(2, 2).is_none());
        cache.forget();
        cache.put_times(epoch, 1, 2, &times);
        assert!(cache.times(1, 2).is_none());
        cache.put_times(cache.epoch(), 1, 2, &times);
        cache.forget_times(1, 2);
        assert!(cache.times(1, 2).is_none());
        assert_eq!(cache.state.lock().times.bytes, 0);
    }
}
