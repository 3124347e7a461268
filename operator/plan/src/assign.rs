//! Weighted targets are placed on shards: sticky, with bounded loads and few moves.
//!
//! A pure function of its input: the same targets, weights, shards and present owners give the same placement, so a
//! new leader that learns the owners from the shards changes nothing. What moves:
//! * targets without an owner (new, or their shard has gone) go to the lightest shard that does not have them;
//! * targets of shards that drain go likewise;
//! * and when a shard's load is outside the band around the mean (on both sides: a shard that joins is far below it,
//!   and a goal for the maximum alone would leave it empty), targets move from the heaviest to the lightest, those
//!   first whose weight comes nearest to what is missing.

use std::collections::BTreeMap;

/// A target to place.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Unique.
    pub id: u64,
    /// What it costs a shard: samples per 30 s, say. At least 1.
    pub weight: u64,
    /// Where it is now, the primary first; shards that are not in the list of shards count as gone.
    pub owners: Vec<String>,
    /// It stays with owners that are there, however uneven that is (it moved a moment ago).
    pub pinned: bool,
}

/// A shard that can take targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    pub name: String,
    /// It keeps nothing: its targets move to the others.
    pub draining: bool,
}

/// How far loads may stray.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// On how many shards each target is.
    pub replication: usize,
    /// Rebalancing starts when a load is further than this part of the mean from it…
    pub trigger: f64,
    /// …and goes on until all are within this part, or no move helps.
    pub aim: f64,
    /// At most this many voluntary moves at a time.
    pub max_moves: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { replication: 1, trigger: 0.05, aim: 0.02, max_moves: 100_000 }
    }
}

/// Where targets are to be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Placement {
    /// By target: its shards, the primary first. Empty only when there are no shards.
    pub owners: BTreeMap<u64, Vec<String>>,
    /// By shard: the sum of weights.
    pub loads: BTreeMap<String, u64>,
    /// How many placements moved although their shard was there.
    pub voluntary_moves: usize,
}

impl Placement {
    /// The heaviest shard's load over the mean; 1 where nothing is placed.
    pub fn imbalance(&self) -> f64 {
        let total: u64 = self.loads.values().sum();
        let max = self.loads.values().copied().max().unwrap_or(0);
        if total == 0 { 1.0 } else { max as f64 * self.loads.len() as f64 / total as f64 }
    }
}

/// A weight rounded to an eighth of an octave, so that noise moves nothing.
pub fn quantise(weight: f64) -> u64 {
    let weight = weight.max(1.0);
    let step = (weight.log2() * 8.0).round() / 8.0;
    step.exp2().round() as u64
}

/// Places `items` on `shards`. Shards are told apart by name; draining ones take part only when there are no others.
pub fn place(items: &[Item], shards: &[Shard], options: &Options) -> Placement {
    let mut names: Vec<&str> = shards.iter().filter(|s| !s.draining).map(|s| s.name.as_str()).collect();
    if names.is_empty() {
        names = shards.iter().map(|s| s.name.as_str()).collect();
    }
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Placement { owners: items.iter().map(|i| (i.id, vec![])).collect(), ..Placement::default() };
    }
    let mut board = Board::new(&names, items, options.replication.clamp(1, names.len()));
    board.keep();
    board.fill();
    let moves = board.balance(options);
    let loads = names.iter().zip(&board.loads).map(|(n, l)| ((*n).to_owned(), *l)).collect();
    let named = |owners: &[usize]| owners.iter().map(|s| names[*s].to_owned()).collect();
    let owners = board.order.iter().zip(&board.owners).map(|(i, o)| (i.id, named(o))).collect();
    Placement { owners, loads, voluntary_moves: moves }
}

/// The state while placing; shards are indices into the sorted names.
struct Board<'a> {
    names: &'a [&'a str],
    /// Heaviest first, then by id.
    order: Vec<&'a Item>,
    replication: usize,
    owners: Vec<Vec<usize>>,
    loads: Vec<u64>,
}

impl<'a> Board<'a> {
    fn new(names: &'a [&'a str], items: &'a [Item], replication: usize) -> Board<'a> {
        let mut order: Vec<&Item> = items.iter().collect();
        order.sort_by(|a, b| b.weight.cmp(&a.weight).then(a.id.cmp(&b.id)));
        order.dedup_by_key(|i| i.id);
        Board { names, replication, owners: vec![vec![]; order.len()], order, loads: vec![0; names.len()] }
    }

    fn put(&mut self, item: usize, shard: usize) {
        self.owners[item].push(shard);
        self.loads[shard] += self.order[item].weight.max(1);
    }

    /// What is where it may stay.
    fn keep(&mut self) {
        for i in 0..self.order.len() {
            for owner in &self.order[i].owners {
                if let Ok(shard) = self.names.binary_search(&owner.as_str())
                    && self.owners[i].len() < self.replication
                    && !self.owners[i].contains(&shard)
                {
                    self.put(i, shard);
                }
            }
        }
    }

    /// What has too few shards, heaviest first, each to the lightest that lacks it.
    fn fill(&mut self) {
        for i in 0..self.order.len() {
            while self.owners[i].len() < self.replication {
                let free = (0..self.names.len()).filter(|s| !self.owners[i].contains(s));
                // Ties go by a hash of both, so that equal targets spread instead of piling up on the first name.
                let Some(shard) = free.min_by_key(|s| (self.loads[*s], rank(self.order[i].id, self.names[*s]))) else {
                    break;
                };
                self.put(i, shard);
            }
        }
    }

    /// Moves from the heaviest shard to the lightest until all are within the band. Returns how many.
    fn balance(&mut self, options: &Options) -> usize {
        let count = self.names.len();
        let total: u64 = self.loads.iter().sum();
        let mean = total as f64 / count as f64;
        let outside = |load: u64, part: f64| (load as f64 - mean).abs() > part * mean;
        if count < 2 || total == 0 || !self.loads.iter().any(|l| outside(*l, options.trigger)) {
            return 0;
        }
        // Placements by shard, lightest last, so that the best fit is found by binary search.
        let mut held: Vec<Vec<usize>> = vec![vec![]; count];
        for (i, owners) in self.owners.iter().enumerate() {
            if !self.order[i].pinned {
                owners.iter().for_each(|s| held[*s].push(i));
            }
        }
        let mut moves = 0;
        // Every move makes the sum of squares smaller, so this ends by itself; the budget ends it earlier.
        while moves < options.max_moves {
            let low = (0..count).min_by_key(|s| (self.loads[*s], *s)).unwrap_or(0);
            let high = (0..count).max_by_key(|s| (self.loads[*s], count - *s)).unwrap_or(0);
            if !outside(self.loads[low], options.aim) && !outside(self.loads[high], options.aim) {
                break;
            }
            // What brings one of the two to the mean: more would have to move back.
            let want = (self.loads[high] as f64 - mean).min(mean - self.loads[low] as f64);
            let Some(at) = self.best(&held[high], low, want, self.loads[high] - self.loads[low]) else { break };
            let item = held[high].remove(at);
            let place = held[low].partition_point(|i| *i < item);
            held[low].insert(place, item);
            if let Some(owner) = self.owners[item].iter_mut().find(|s| **s == high) {
                *owner = low;
            }
            let weight = self.order[item].weight.max(1);
            self.loads[high] -= weight;
            self.loads[low] += weight;
            moves += 1;
        }
        moves
    }

    /// The position in `held` of the heaviest target up to `want`, or else of the lightest above it: of those that
    /// `low` lacks and whose move makes the difference between the two shards smaller.
    fn best(&self, held: &[usize], low: usize, want: f64, difference: u64) -> Option<usize> {
        let weight = |at: usize| self.order[held[at]].weight.max(1);
        let fits = |at: &usize| weight(*at) < difference && !self.owners[held[*at]].contains(&low);
        let split = held.partition_point(|i| self.order[*i].weight.max(1) as f64 > want);
        (split..held.len()).find(fits).or_else(|| (0..split).rev().find(fits))
    }
}

fn rank(id: u64, shard: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(shard.as_bytes(), id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shards(n: usize) -> Vec<Shard> {
        (0..n).map(|i| Shard { name: format!("f-{i}"), draining: false }).collect()
    }

    fn items(weights: &[u64]) -> Vec<Item> {
        let id = |i: usize| xxhash_rust::xxh3::xxh3_64(&i.to_le_bytes());
        weights.iter().enumerate().map(|(i, w)| Item { id: id(i), weight: *w, owners: vec![], pinned: false }).collect()
    }

    /// The same items, owned as placed.
    fn settled(items: &[Item], placement: &Placement) -> Vec<Item> {
        items.iter().map(|i| Item { owners: placement.owners[&i.id].clone(), ..i.clone() }).collect()
    }

    fn moved(items: &[Item], before: &Placement, after: &Placement) -> u64 {
        let gained = |i: &Item| after.owners[&i.id].iter().filter(|o| !before.owners[&i.id].contains(o)).count() as u64;
        items.iter().map(|i| gained(i) * i.weight).sum()
    }

    /// Many ordinary targets, some big ones.
    fn weights(n: usize) -> Vec<u64> {
        (0..n).map(|i| 100 + (i as u64 * 7919) % 900 + if i % 97 == 0 { 20_000 } else { 0 }).collect()
    }

    #[test]
    fn growing_moves_the_newcomers_share_and_no_more() {
        for (n, replication) in [(1, 1), (2, 1), (3, 1), (10, 1), (30, 1), (3, 2), (10, 2)] {
            let items = items(&weights(5000));
            let options = Options { replication, ..Options::default() };
            let before = place(&items, &shards(n), &options);
            let after = place(&settled(&items, &before), &shards(n + 1), &options);
            let total: u64 = after.loads.values().sum();
            let part = moved(&items, &before, &after) as f64 / total as f64;
            assert!(part <= 1.1 / (n + 1) as f64, "{n}: {part}");
            assert!(part >= 0.9 / (n + 1) as f64, "{n}: {part}");
            assert!(after.imbalance() <= 1.05, "{n}: {}", after.imbalance());
            let least = after.loads.values().min().copied().unwrap_or(0) as f64 * (n + 1) as f64 / total as f64;
            assert!(least >= 0.95, "{n}: {least}");
        }
    }

    #[test]
    fn losing_a_shard_moves_its_share_and_nothing_else() {
        let items = items(&weights(5000));
        let before = place(&items, &shards(10), &Options::default());
        let after = place(&settled(&items, &before), &shards(9), &Options::default());
        for i in &items {
            if before.owners[&i.id] != ["f-9"] {
                assert_eq!(before.owners[&i.id], after.owners[&i.id]);
            }
        }
        assert!(after.imbalance() < 1.02);
    }

    #[test]
    fn a_draining_shard_gives_all_away() {
        let items = items(&weights(500));
        let before = place(&items, &shards(3), &Options::default());
        let mut with = shards(3);
        with[2].draining = true;
        let after = place(&settled(&items, &before), &with, &Options::default());
        assert!(after.owners.values().all(|o| o.len() == 1 && o[0] != "f-2"));
        let alone = [Shard { name: "f-2".into(), draining: true }];
        assert!(place(&items, &alone, &Options::default()).owners.values().all(|o| o == &["f-2"]));
    }

    #[test]
    fn without_shards_nothing_is_anywhere() {
        let items = items(&[5, 5]);
        let placement = place(&items, &[], &Options::default());
        assert!(items.iter().all(|i| placement.owners[&i.id].is_empty()));
    }

    #[test]
    fn noise_in_weights_is_rounded_away() {
        assert_eq!(quantise(0.0), 1);
        assert_eq!(quantise(500.0), quantise(510.0));
        assert_ne!(quantise(500.0), quantise(600.0));
    }

    proptest! {
        /// Each target is on as many distinct shards as asked for, the same input gives the same output in any order,
        /// and what is settled stays.
        #[test]
        fn each_target_once(weights in proptest::collection::vec(1u64..5000, 0..200), n in 1usize..8, replication in 1usize..4) {
            let options = Options { replication, ..Options::default() };
            let items = items(&weights);
            let placement = place(&items, &shards(n), &options);
            for i in &items {
                let mut owners = placement.owners[&i.id].clone();
                prop_assert_eq!(owners.len(), replication.min(n));
                owners.sort();
                owners.dedup();
                prop_assert_eq!(owners.len(), replication.min(n));
            }
            let mut reversed = items.clone();
            reversed.reverse();
            let mut names = shards(n);
            names.reverse();
            prop_assert_eq!(&place(&reversed, &names, &options), &placement);
            let again = place(&settled(&items, &placement), &shards(n), &options);
            prop_assert_eq!(again.voluntary_moves, 0);
            prop_assert_eq!(&again.loads, &placement.loads);
            let sum: u64 = weights.iter().sum();
            prop_assert_eq!(placement.loads.values().sum::<u64>(), sum * replication.min(n) as u64);
        }
    }
}
