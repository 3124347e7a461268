//! What queries read again and again: blocks whose checksum was found right, the timestamps that they share, decoded, and
//! columns of blocks that were asked for more than once, decoded as well ([`crate::decoded`]). Bounded by bytes; what was
//! not asked for in a while goes.
//!
//! What lies under a key never changes, but when deleted samples are taken out of blocks for good: then all is
//! forgotten ([`ReadCache::forget`]), and whoever was reading just then keeps what was read to itself.

use std::sync::Arc;

use narthex_model::generations::Generations;
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
    /// Most bytes of decoded columns.
    decoded_capacity: usize,
    state: Mutex<State>,
}

type Recent<K, V> = Generations<K, V, foldhash::fast::FixedState>;

struct State {
    /// How often all was forgotten.
    epoch: u64,
    times: Recent<(u32, u64), Arc<StoredTimes>>,
    blocks: Recent<Box<[u8]>, Arc<[u8]>>,
    decoded: Recent<Box<[u8]>, Arc<DecodedBlock>>,
}

/// A verified block.
pub struct Cached {
    pub bytes: Arc<[u8]>,
    /// Where columns are kept decoded: of blocks that were asked for before, unless they are too large.
    pub decoded: Option<Arc<DecodedBlock>>,
}

impl ReadCache {
    /// One that holds `capacity` bytes at most, and `decoded` bytes of decoded columns.
    pub fn new(capacity: usize, decoded: usize) -> ReadCache {
        let half = capacity / 2;
        let state =
            State { epoch: 0, times: Recent::new(half), blocks: Recent::new(half), decoded: Recent::new(decoded) };
        ReadCache { decoded_capacity: decoded, state: Mutex::new(state) }
    }

    /// To be asked before something is read that is then to be kept.
    pub fn epoch(&self) -> u64 {
        self.state.lock().epoch
    }

    pub fn times(&self, group: u32, number: u64) -> Option<Arc<StoredTimes>> {
        self.state.lock().times.get(&(group, number))
    }

    pub fn put_times(&self, epoch: u64, group: u32, number: u64, times: &Arc<StoredTimes>) {
        let ReadStretch { times: stamps, metrics, whole } = &times.read;
        let bytes = stamps.len() * 8 + metrics.len() * 4 + whole.heap_bytes() + OVERHEAD;
        let mut state = self.state.lock();
        if state.epoch == epoch {
            state.times.insert((group, number), times.clone(), bytes);
        }
    }

    /// To be called when what a window was said to have is not there.
    pub fn forget_times(&self, group: u32, number: u64) {
        self.state.lock().times.remove(&(group, number));
    }

    pub fn block(&self, key: &[u8]) -> Option<Cached> {
        let (epoch, bytes) = {
            let mut state = self.state.lock();
            let bytes = state.blocks.get(key)?;
            if let Some(decoded) = state.decoded.get(key) {
                return Some(Cached { bytes, decoded: Some(decoded) });
            }
            (state.epoch, bytes)
        };
        // Asked for again: worth decoding. One block takes an eighth of all at most.
        let limit = self.decoded_capacity / 16;
        let decoded = if bytes.len() < limit { DecodedBlock::new(&bytes, limit) } else { None };
        let Some(decoded) = decoded.filter(|d| d.base_bytes() < limit).map(Arc::new) else {
            return Some(Cached { bytes, decoded: None });
        };
        let mut state = self.state.lock();
        if state.epoch == epoch {
            // Another query may have been faster.
            if let Some(known) = state.decoded.get(key) {
                return Some(Cached { bytes, decoded: Some(known) });
            }
            state.decoded.insert(key.into(), decoded.clone(), decoded.base_bytes() + OVERHEAD);
        }
        Some(Cached { bytes, decoded: Some(decoded) })
    }

    /// To be called when more columns of a block are kept.
    pub fn decoded_more(&self, key: &[u8], bytes: usize) {
        self.state.lock().decoded.grew(key, bytes);
    }

    /// `block` was verified.
    pub fn put_block(&self, epoch: u64, key: &[u8], block: &Arc<[u8]>) {
        let mut state = self.state.lock();
        if state.epoch == epoch {
            state.blocks.insert(key.into(), block.clone(), block.len() + OVERHEAD);
        }
    }

    /// The bytes of all that is kept.
    pub fn bytes(&self) -> usize {
        let state = self.state.lock();
        state.times.weight() + state.blocks.weight() + state.decoded.weight()
    }

    /// Forgets all. To be called when what lay under some key was written anew.
    pub fn forget(&self) {
        let mut state = self.state.lock();
        state.epoch += 1;
        state.times.clear();
        state.blocks.clear();
        state.decoded.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::{ColumnData, encode_rows};
    use crate::codec::Effort;
    use crate::window::Cells;

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
        assert!(cache.bytes() <= 8 * (1000 + OVERHEAD));
        assert!(cache.block(&key(50)).is_none() && cache.block(&key(99)).is_some());
        let large: Arc<[u8]> = vec![7; 10_000].into();
        cache.put_block(0, &key(1000), &large);
        assert!(cache.block(&key(1000)).is_none());
    }

    #[test]
    fn bytes_count_once_whether_decoded_or_not() {
        let cache = ReadCache::new(1 << 20, 1 << 20);
        let times: Vec<i64> = (0..400).collect();
        // Which cannot be packed.
        let value = |t: &i64| f64::from_bits((*t as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 2);
        let cells = Cells::Dense(times.iter().map(value).collect());
        let columns = [ColumnData { id: 1, cells, starts: Vec::new() }];
        let block: Arc<[u8]> = encode_rows(&times, &columns, Effort::Best).expect("a block").into();
        cache.put_block(cache.epoch(), b"a", &block);
        let before = cache.bytes();
        let cached = cache.block(b"a").expect("known");
        assert!(cached.decoded.is_some());
        assert!(cache.bytes() - before < block.len(), "{} and {}", cache.bytes(), block.len());
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
        assert_eq!(cache.bytes(), 0);
    }
}
