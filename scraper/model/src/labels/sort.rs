//! Sorting by label sets.
//!
//! Comparing texts again and again is most of the cost of sorting them. There are far fewer different pairs of name and
//! value than there are pairs, so each different pair gets its rank among all, and sets are compared by the ranks of
//! their pairs, of which mostly all are in one 128-bit key.

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
    let mut order: Vec<usize> = (0..sets.len()).collect();
    match (sets.len() >= FEW).then(|| Ranked::new(sets)).flatten() {
        Some(ranked) => ranked.sort(&mut order),
        None => order.sort_by(|a, b| sets[*a].cmp(sets[*b])),
    }
    order
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
    /// `None` where ranks do not pay: nearly all pairs differ.
    fn new(sets: &[&Labels]) -> Option<Ranked> {
        let text = |set: &Labels| set.0.len();
        let first = sets.first()?.0.as_bytes();
        // Neighbours in the input are alike: those far off first.
        let mut same = common_prefix(first, sets.last()?.0.as_bytes());
        for set in sets {
            same = common_prefix(&first[..same], set.0.as_bytes());
        }
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
            if different.len() > 2 * sets.len() + 1 {
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

    fn sort(&self, order: &mut [usize]) {
        let bits = usize::BITS - self.pairs.leading_zeros();
        let in_key = (u128::BITS / bits.max(1)) as usize;
        let key = |set: usize| {
            let ranks = self.of(set);
            // The end of a set is less than any pair.
            let missing = in_key.saturating_sub(ranks.len()) as u32;
            let packed = ranks.iter().take(in_key).fold(0u128, |key, rank| key << bits | u128::from(*rank));
            packed.checked_shl(missing * bits).unwrap_or(0)
        };
        let mut keyed: Vec<(u128, usize)> = order.iter().map(|set| (key(*set), *set)).collect();
        keyed.sort_unstable_by(|a, b| {
            let rest = |set: usize| self.of(set).get(in_key..).unwrap_or_default();
            a.0.cmp(&b.0).then_with(|| rest(a.1).cmp(rest(b.1))).then(a.1.cmp(&b.1))
        });
        order.iter_mut().zip(keyed).for_each(|(place, (_, set))| *place = set);
    }
}
