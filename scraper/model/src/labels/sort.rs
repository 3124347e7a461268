//! Sorting by label sets.
//!
//! Comparing texts again and again is most of the cost of sorting them. Mostly there are far fewer different pairs of name
//! and value than there are sets: then each different pair gets its rank among all, and the ranks of a set's pairs, with
//! its place, make a number to sort by. Where pairs are as different as sets (pods, addresses), sets are sorted by sixteen
//! bytes of text behind what all have in common, and those of equal bytes by what follows.

use hashbrown::HashMap;

use super::{Iter, Labels, common_prefix, pairs_within, part_at};

/// Sorts by labels; of equal ones the order stays.
pub fn sort_by_labels<T>(all: &mut [T], labels: impl Fn(&T) -> &Labels) {
    if all.is_sorted_by(|a, b| labels(a) <= labels(b)) {
        return;
    }
    let order = order(&all.iter().map(&labels).collect::<Vec<_>>());
    // Where each goes, cycle by cycle.
    let mut to = vec![0; all.len()];
    order.iter().enumerate().for_each(|(place, from)| to[*from] = place);
    for i in 0..all.len() {
        while to[i] != i {
            let place = to[i];
            all.swap(i, place);
            to.swap(i, place);
        }
    }
}

/// Below so many, labels are compared as they are.
const FEW: usize = 8;

/// The places of the sets in the order of the sets.
fn order(sets: &[&Labels]) -> Vec<usize> {
    if sets.len() >= FEW
        && let Some(order) = Ranked::new(sets).and_then(|ranked| ranked.order())
    {
        return order;
    }
    let mut keyed: Vec<Keyed> = (0..sets.len()).map(|at| Keyed { key: 0, at }).collect();
    sort_keyed(&mut keyed, sets, (0, 0), 0);
    keyed.iter().map(|k| k.at).collect()
}

/// Sets as the ranks of their pairs, from 1 on, without the pairs that all begin with.
struct Ranked {
    /// Of all sets one after the other.
    ranks: Vec<u32>,
    /// Where each set's ranks end.
    ends: Vec<usize>,
    /// How many different pairs there are.
    pairs: usize,
}

impl Ranked {
    /// `None` where ranks do not pay: too many pairs differ.
    fn new(sets: &[&Labels]) -> Option<Ranked> {
        let text = |set: &Labels| set.0.len();
        let first = sets.first()?.0.as_bytes();
        let same = common_start(sets.iter().map(|set| set.0.as_bytes()), 0);
        let from = pairs_within(first, 0, same);
        let (mut numbers, mut different): (HashMap<&str, u32>, Vec<&str>) = (HashMap::new(), Vec::new());
        let mut ranks = Vec::with_capacity(sets.len() * 4);
        let mut ends: Vec<usize> = Vec::with_capacity(sets.len());
        // The pairs of the set before: mostly some of them come again.
        let mut before = 0;
        for set in sets {
            let begins = ranks.len();
            let mut at = from;
            while at < text(set) {
                let bytes = set.0.as_bytes();
                let (_, name_end) = part_at(bytes, at)?;
                let (_, end) = part_at(bytes, name_end)?;
                let pair = &set.0[at..end];
                at = end;
                let again = ranks[before..begins].get(ranks.len() - begins).copied();
                let number = match again.filter(|n| different[*n as usize] == pair) {
                    Some(number) => number,
                    None => *numbers.entry(pair).or_insert_with(|| {
                        different.push(pair);
                        different.len() as u32 - 1
                    }),
                };
                ranks.push(number);
            }
            if different.len() > sets.len() / 2 {
                return None;
            }
            before = begins;
            ends.push(ranks.len());
        }
        let mut by_text: Vec<u32> = (0..different.len() as u32).collect();
        let parts = |n: &u32| Iter { text: different[*n as usize], at: 0 }.next();
        by_text.sort_unstable_by(|a, b| parts(a).cmp(&parts(b)));
        let mut rank_of = vec![0; different.len()];
        by_text.iter().zip(1..).for_each(|(number, rank)| rank_of[*number as usize] = rank);
        ranks.iter_mut().for_each(|number| *number = rank_of[*number as usize]);
        Some(Ranked { ranks, ends, pairs: different.len() })
    }

    fn of(&self, set: usize) -> &[u32] {
        let from = set.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.ranks[from..self.ends[set]]
    }

    /// `None` where the ranks of a set, and its place, have no room in 128 bits.
    fn order(&self) -> Option<Vec<usize>> {
        let bits = |n: usize| usize::BITS - n.leading_zeros();
        let (rank_bits, place_bits) = (bits(self.pairs), bits(self.ends.len()));
        let longest = (0..self.ends.len()).map(|set| self.of(set).len()).max()? as u32;
        let all = longest.checked_mul(rank_bits)?.checked_add(place_bits).filter(|all| *all <= u128::BITS)?;
        let key = |set: usize| {
            let ranks = self.of(set);
            let packed = ranks.iter().fold(0u128, |key, rank| key << rank_bits | u128::from(*rank));
            // The end of a set is less than any pair.
            let missing = (longest - ranks.len() as u32) * rank_bits;
            packed << missing << place_bits | set as u128
        };
        let place = (1u128 << place_bits) - 1;
        let sets = 0..self.ends.len();
        // Sorting words is much faster.
        Some(if all <= u64::BITS {
            let mut keys: Vec<u64> = sets.map(|set| key(set) as u64).collect();
            keys.sort_unstable();
            keys.into_iter().map(|key| (key & place as u64) as usize).collect()
        } else {
            let mut keys: Vec<u128> = sets.map(key).collect();
            keys.sort_unstable();
            keys.into_iter().map(|key| (key & place) as usize).collect()
        })
    }
}

/// An entry to be sorted, with what its labels go on with behind what all have in common.
#[derive(Clone, Copy)]
struct Keyed {
    key: u128,
    at: usize,
}

/// After so many rounds labels are compared as they are.
const ROUNDS: usize = 64;

/// How many bytes all of these begin with, that have `from` bytes in common.
fn common_start<'a>(texts: impl DoubleEndedIterator<Item = &'a [u8]> + Clone, from: usize) -> usize {
    let mut all = texts.clone();
    let Some(first) = all.next() else { return from };
    // Neighbours are alike: those far off first.
    texts.rev().fold(first.len(), |same, text| from + common_prefix(&first[from..same], &text[from..]))
}

/// Sorts `keyed` by keys, and those with equal keys again by what follows. Their labels have all pairs before `from` in
/// common, and behind that so many bytes of parts as [`key_of`] counts them.
fn sort_keyed(keyed: &mut [Keyed], texts: &[&Labels], (from, known): (usize, usize), round: usize) {
    let text = |k: &Keyed| texts[k.at].0.as_bytes();
    let plain = |keyed: &mut [Keyed]| {
        keyed.sort_unstable_by(|a, b| texts[a.at].cmp(texts[b.at]).then(a.at.cmp(&b.at)));
    };
    let Some(first) = keyed.first().map(text) else { return };
    if keyed.len() < FEW || round == ROUNDS {
        return plain(keyed);
    }
    let same = common_start(keyed.iter().map(text), from);
    if same == first.len() && keyed.iter().all(|k| text(k).len() == same) {
        return keyed.sort_unstable_by_key(|k| k.at);
    }
    let pairs = pairs_within(first, from, same);
    let known = common_parts(first, pairs, same).max(if pairs == from { known } else { 0 });
    let from = pairs;
    for k in keyed.iter_mut() {
        match key_of(text(k), from, known) {
            Some(key) => k.key = key,
            None => return plain(keyed),
        }
    }
    keyed.sort_unstable_by_key(|k| (k.key, k.at));
    let mut rest = keyed;
    while let Some(first) = rest.first() {
        let key = first.key;
        let run = rest.iter().take_while(|k| k.key == key).count();
        let (equal, others) = rest.split_at_mut(run);
        if run > 1 {
            sort_keyed(equal, texts, (from, known + KEY), round + 1);
        }
        rest = others;
    }
}

/// Bytes of a key.
const KEY: usize = size_of::<u128>();

/// How many bytes of parts from `from` on, each with a zero behind it, lie before `end`.
fn common_parts(text: &[u8], from: usize, end: usize) -> usize {
    let (mut count, mut at) = (0, from);
    while let Some((start, next)) = part_at(text, at).filter(|part| part.0 <= end) {
        if next > end {
            return count + (end - start);
        }
        count += next - start + 1;
        at = next;
    }
    count
}

/// Bytes in whose order sets are that have the pairs before `from` in common and, behind that, the first `known` bytes
/// of names and values, each with a zero behind it. `None` where one of them holds a zero.
fn key_of(text: &[u8], from: usize, known: usize) -> Option<u128> {
    let mut key = [0u8; KEY];
    let (mut len, mut at, mut skip) = (0, from, known);
    while len < KEY
        && let Some((start, end)) = part_at(text, at)
    {
        at = end;
        let part = text.get(start..end)?;
        if skip > part.len() {
            skip -= part.len() + 1;
            continue;
        }
        let part = &part[std::mem::take(&mut skip)..];
        let taken = part.len().min(KEY - len);
        if part[..taken].contains(&0) {
            return None;
        }
        key[len..len + taken].copy_from_slice(&part[..taken]);
        len += taken + 1;
    }
    Some(u128::from_be_bytes(key))
}
