//! Finding series by their texts on a page that is not quite the old one.
//!
//! Where a few lines came or went this costs far less than a map of the page, which is made only for a text that is
//! neither near by nor ruled out.

use hashbrown::HashMap;
use hashbrown::hash_map::Entry as MapEntry;
use narthex_storage::Slot;

use super::shape::{DUPLICATE, Line, SPELLED};

type Texts = HashMap<u64, Known, foldhash::fast::RandomState>;

/// A series that was on the old page or earlier on this one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// Its line on the old page; `u32::MAX` for one that is new on this page.
    pub index: u32,
    pub slot: Slot,
    pub flags: u16,
}

impl Known {
    /// The `index`th line of the old page.
    #[inline]
    pub fn at(index: usize, line: &Line) -> Known {
        Known { index: index as u32, slot: line.slot, flags: line.flags }
    }
}

/// So many lines of the old page are looked at for one that does not come next.
const AHEAD: usize = 8;

/// Which texts may be on a page: two of at least 16 bits for each line. Keys are hashes already.
#[derive(Debug)]
struct Filter {
    bits: Vec<u64>,
    mask: u64,
}

impl Filter {
    fn of(lines: &[Line]) -> Filter {
        let words = (lines.len() / 4 + 1).next_power_of_two();
        let mut filter = Filter { bits: vec![0; words], mask: words as u64 - 1 };
        for line in lines {
            let (word, bits) = filter.place(line.key);
            if let Some(w) = filter.bits.get_mut(word) {
                *w |= bits;
            }
        }
        filter
    }

    /// Both bits lie in one word.
    fn place(&self, key: u64) -> (usize, u64) {
        ((key >> 12 & self.mask) as usize, 1 << (key & 63) | 1 << (key >> 6 & 63))
    }

    fn may_hold(&self, key: u64) -> bool {
        let (word, bits) = self.place(key);
        self.bits.get(word).is_some_and(|w| w & bits == bits)
    }
}

/// The texts that are known besides the next one of the old page.
#[derive(Default)]
pub(super) struct Finder {
    /// Tells of most texts that are not on the old page that they are not.
    filter: Option<Filter>,
    /// The texts that are new on this page.
    fresh: Texts,
    /// All texts of the old page, for those that the filter lets pass.
    known: Option<Texts>,
}

impl Finder {
    /// The series with that text, which is not the one at `cursor` of the old lines.
    pub fn find(&mut self, old: &[Line], cursor: usize, key: u64) -> Option<Known> {
        if let Some(known) = self.fresh.get(&key) {
            return Some(*known);
        }
        // Lines that have gone: the page goes on a little further. The first line of its series only, as in the map.
        for (i, line) in old.iter().enumerate().skip(cursor + 1).take(AHEAD) {
            if line.key == key && line.flags & (DUPLICATE | SPELLED) == 0 {
                return Some(Known::at(i, line));
            }
        }
        let filter = self.filter.get_or_insert_with(|| Filter::of(old));
        if !filter.may_hold(key) {
            return None;
        }
        let map = self.known.get_or_insert_with(|| {
            let mut map = Texts::with_capacity_and_hasher(old.len(), foldhash::fast::RandomState::default());
            for (i, line) in old.iter().enumerate() {
                if let MapEntry::Vacant(vacant) = map.entry(line.key) {
                    vacant.insert(Known::at(i, line));
                }
            }
            map
        });
        map.get(&key).copied()
    }

    /// Notes what a text that was not on the old page turned out to be.
    pub fn note(&mut self, key: u64, known: Known) {
        if self.known.as_ref().is_none_or(|map| !map.contains_key(&key)) {
            self.fresh.entry(key).or_insert(known);
        }
    }
}
