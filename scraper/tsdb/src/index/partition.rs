//! The label pairs of a day as keys and values.
//!
//! ```text
//! key   := 'p' day:u32 (big-endian) name (0x00 as 0x00 0xff) 0x00 0x01 value
//! value := a set of numbers: what has the pair on that day, see encode_ids
//! ```
//! Keys sort by day, then name, then value, so that the values of a label, and those with a prefix, are a range. The
//! pair of empty name and empty value holds all numbers of the day.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use roaring::RoaringBitmap;

pub use super::ids::{decode_ids, encode_ids};

const PREFIX: u8 = b'p';

fn start_of(day: u32) -> Vec<u8> {
    let mut key = vec![PREFIX];
    key.extend_from_slice(&day.to_be_bytes());
    key
}

fn push_name(out: &mut Vec<u8>, name: &str) {
    for byte in name.bytes() {
        out.push(byte);
        if byte == 0 {
            out.push(0xff);
        }
    }
}

/// The key of a label pair.
pub fn pair_key(day: u32, name: &str, value: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(7 + name.len() + value.len());
    key.push(PREFIX);
    key.extend_from_slice(&day.to_be_bytes());
    push_name(&mut key, name);
    key.extend_from_slice(&[0, 1]);
    key.extend_from_slice(value.as_bytes());
    key
}

/// The key of the set of all series.
pub fn all_key(day: u32) -> Vec<u8> {
    pair_key(day, "", "")
}

/// The keys of the pairs of `name` whose values start with `prefix`.
pub fn values_range(day: u32, name: &str, prefix: &str) -> Range<Vec<u8>> {
    let start = pair_key(day, name, prefix);
    let end = after_prefix(&start);
    start..end
}

/// The first key of the next label name after `name`: where to go on when listing names.
pub fn next_name(day: u32, name: &str) -> Vec<u8> {
    after_prefix(&pair_key(day, name, ""))
}

/// All keys of some days.
pub fn days_range(first: u32, last: u32) -> Range<Vec<u8>> {
    start_of(first)..last.checked_add(1).map_or(vec![PREFIX + 1], start_of)
}

/// All keys of the days before one.
pub fn days_before(day: u32) -> Range<Vec<u8>> {
    start_of(0)..start_of(day)
}

/// The least key above all that start with `prefix`, which has a byte below 0xff.
fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// Day, name and value of a key; `None` when it is none.
pub fn parse_key(key: &[u8]) -> Option<(u32, Cow<'_, str>, &str)> {
    let (day, rest) = key.strip_prefix(&[PREFIX])?.split_first_chunk::<4>()?;
    let mut at = 0;
    let mut escaped = false;
    let end = loop {
        at += rest.get(at..)?.iter().position(|b| *b == 0)?;
        match rest.get(at + 1)? {
            1 => break at,
            0xff => escaped = true,
            _ => return None,
        }
        at += 2;
    };
    let value = std::str::from_utf8(rest.get(end + 2..)?).ok()?;
    let name = rest.get(..end)?;
    let name = if escaped {
        let mut plain = Vec::with_capacity(name.len());
        let mut bytes = name.iter();
        while let Some(byte) = bytes.next() {
            plain.push(*byte);
            if *byte == 0 {
                bytes.next();
            }
        }
        Cow::Owned(String::from_utf8(plain).ok()?)
    } else {
        Cow::Borrowed(std::str::from_utf8(name).ok()?)
    };
    Some((u32::from_be_bytes(*day), name, value))
}

/// The union of a stored set and others, as a merge operator needs it. What does not decode is left out.
pub fn merge_ids<'a>(sets: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let sets = sets.into_iter().filter_map(|set| decode_ids(set).ok());
    encode_ids(&sets.reduce(|a, b| a | b).unwrap_or_default())
}

/// Collects what is added to a day's partition.
#[derive(Default)]
pub struct PartitionBuilder {
    all: RoaringBitmap,
    pairs: BTreeMap<String, BTreeMap<String, RoaringBitmap>>,
}

impl PartitionBuilder {
    pub fn add<'l>(&mut self, number: u32, labels: impl Iterator<Item = (&'l str, &'l str)>) {
        self.all.insert(number);
        for (name, value) in labels {
            if !self.pairs.contains_key(name) {
                self.pairs.insert(name.to_owned(), BTreeMap::new());
            }
            let Some(values) = self.pairs.get_mut(name) else { continue };
            match values.get_mut(value) {
                Some(ids) => {
                    ids.insert(number);
                }
                None => {
                    values.insert(value.to_owned(), std::iter::once(number).collect());
                }
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Keys and values in the order of keys. To be merged with what is stored ([`merge_ids`]).
    pub fn entries(&self, day: u32) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + '_ {
        let all = (!self.all.is_empty()).then(|| (all_key(day), encode_ids(&self.all)));
        let pairs = self.pairs.iter().flat_map(move |(name, values)| {
            values.iter().map(move |(value, ids)| (pair_key(day, name, value), encode_ids(ids)))
        });
        all.into_iter().chain(pairs)
    }
}
