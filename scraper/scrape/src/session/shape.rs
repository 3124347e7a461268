//! The shape of a target's page as of last time: one small record per line, in page order.
//!
//! A record keeps a seeded 64-bit hash of the series text instead of the text. A hash that another text shares by
//! chance (1 in 2^64 per compared line) or by intent (the seed is secret to the process) would store a value under the
//! wrong series; nothing else relies on it.

use std::hash::BuildHasher;
use std::sync::OnceLock;

use narthex_model::MetricType;
use narthex_storage::Slot;

/// A comment block stands before the line.
pub(super) const COMMENT: u16 = 1;
/// The sample came with a timestamp of its own.
pub(super) const OWN: u16 = 2;
/// The series was there before on the same page: the first one wins.
pub(super) const DUPLICATE: u16 = 4;
/// Relabelling dropped the series; it has no slot.
pub(super) const DROPPED: u16 = 8;
/// The store has no room for the series; it has no slot.
pub(super) const REFUSED: u16 = 16;
/// The sample's own timestamp was too far ahead.
pub(super) const TOO_NEW: u16 = 32;
/// A native histogram.
pub(super) const HISTOGRAM: u16 = 64;

/// A duplicate in other words: another text with the same labels.
pub(super) const SPELLED: u16 = 128;

/// The store refuses the sample's own timestamp: another sample is newer, or it is too old.
pub(super) const LATE: u16 = 256;
/// No sample of the series was ever taken, so that it is new once one is.
pub(super) const UNKNOWN: u16 = 512;

/// The next page is to be written down anew from here on.
pub(super) const AGAIN: u16 = 1024;

/// The first sample of a series whose start is made up: it is not stored.
pub(super) const HELD: u16 = 2048;
/// The series' start is made up: it is watched for staleness even at times of its own.
pub(super) const FOLLOWED: u16 = 4096;

/// No slot.
pub(super) const NO_SLOT: Slot = Slot::MAX;

/// One line of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Hash of the series text.
    pub key: u64,
    pub slot: Slot,
    /// Length of the series text; 0 where it is not text or too long to be matched in place.
    pub len: u16,
    pub flags: u16,
}

impl Line {
    /// A float at the scrape's own time, the usual case.
    pub fn is_plain(&self) -> bool {
        self.flags & !(COMMENT | FOLLOWED) == 0
    }

    /// Whether the series gets a staleness marker when it vanishes.
    pub fn is_tracked(&self, own_too: bool) -> bool {
        let own_too = own_too || self.flags & FOLLOWED != 0;
        let ignored = DUPLICATE | DROPPED | REFUSED | TOO_NEW | LATE | HELD | if own_too { 0 } else { OWN };
        self.flags & ignored == 0
    }
}

/// What stands between two lines: comments, metadata, blank lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// The line that it stands before; the number of lines for what follows the last one.
    pub line: u32,
    pub len: u32,
    pub hash: u64,
    /// The metric type that applies behind it.
    pub after: MetricType,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Shape {
    pub lines: Vec<Line>,
    /// In order of `line`; one for each line that has [`COMMENT`], and possibly one for the page's end.
    pub blocks: Vec<Block>,
    /// Slots of the plain lines in page order, then those of the report series.
    pub slots: Vec<Slot>,
}

impl Shape {
    /// Bytes on the heap.
    pub fn bytes(&self) -> usize {
        self.lines.capacity() * size_of::<Line>()
            + self.blocks.capacity() * size_of::<Block>()
            + self.slots.capacity() * size_of::<Slot>()
    }
}

/// The hash of series texts and comment blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct TextHasher([u64; 4]);

#[inline(always)]
fn mix(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> u64 {
    // The callers' length checks make this infallible; the compiler sees them once it is inlined.
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

impl TextHasher {
    /// Seeded once per process.
    pub fn new() -> TextHasher {
        static SEEDS: OnceLock<[u64; 4]> = OnceLock::new();
        TextHasher(*SEEDS.get_or_init(|| {
            let state = std::hash::RandomState::new();
            // Odd, so that no seed cancels a multiplication.
            std::array::from_fn(|i| state.hash_one(i) | 1)
        }))
    }

    #[inline(always)]
    pub fn hash(&self, text: &[u8]) -> u64 {
        let [s0, s1, s2, s3] = self.0;
        let len = text.len();
        let (mut a, mut b) = (s0 ^ len as u64, s1);
        if len >= 32 {
            for chunk in text.chunks_exact(32) {
                a = mix(word(chunk, 0) ^ s2, word(chunk, 8) ^ a);
                b = mix(word(chunk, 16) ^ s3, word(chunk, 24) ^ b);
            }
            let tail = &text[len - 32..];
            a = mix(word(tail, 0) ^ s2, word(tail, 8) ^ a);
            b = mix(word(tail, 16) ^ s3, word(tail, 24) ^ b);
        } else if len >= 16 {
            a = mix(word(text, 0) ^ s2, word(text, 8) ^ a);
            b = mix(word(text, len - 16) ^ s3, word(text, len - 8) ^ b);
        } else if len >= 8 {
            a = mix(word(text, 0) ^ s2, word(text, len - 8) ^ a);
        } else {
            let packed = text.iter().fold(0u64, |x, c| x << 8 | *c as u64);
            a = mix(packed ^ s2, a ^ s3);
        }
        mix(a ^ s1, b ^ s0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_byte_and_length_counts() {
        let hasher = TextHasher::new();
        let mut seen = HashSet::new();
        let mut texts = 0;
        for len in 0..200usize {
            let text: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            assert_eq!(hasher.hash(&text), TextHasher::new().hash(&text));
            seen.insert(hasher.hash(&text));
            texts += 1;
            for i in 0..len {
                let mut other = text.clone();
                other[i] ^= 0x20;
                seen.insert(hasher.hash(&other));
                texts += 1;
            }
        }
        assert_eq!(seen.len(), texts);
        assert_eq!(size_of::<Line>(), 16);
        assert_eq!(size_of::<Block>(), 24);
    }
}
