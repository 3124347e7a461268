//! How many series there may be: of one group (a target), of one pool (the groups of a scrape job), of the groups of one
//! owner (a monitor), of the store, and as many as there is memory for.
//!
//! Only series that are new are refused; those that are there go on. What was refused is remembered by label names, so
//! that it can be said which label has exploded.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hashbrown::{HashMap, HashSet};
use narthex_model::Labels;
use narthex_storage::{Budget, ErrorKind, StorageError};
use parking_lot::Mutex;

use crate::StoreOptions;
use crate::store::Inner;

/// Of so many label values the store remembers that it has seen them, for each label name and scope.
const VALUES: usize = 10_000;
const NAMES: usize = 64;
const SCOPES: usize = 1000;
/// A scope is taken for recovered when nothing was refused for so long. Longer than scrapes wait until they try what
/// was refused again, for intervals up to that.
const QUIET: Duration = Duration::from_secs(900);
/// New series are refused above this part of the memory, until usage falls below the other.
const FULL: f64 = 0.85;
const ROOM: f64 = 0.80;

/// What a limit is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    Store,
    Memory,
    Pool(String),
    Group(String),
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Scope::Store => write!(f, "the store"),
            Scope::Memory => write!(f, "the memory budget"),
            Scope::Pool(pool) => write!(f, "job {pool}"),
            Scope::Group(key) => write!(f, "target {key}"),
        }
    }
}

/// What was refused in one scope.
struct Refused {
    limit: u64,
    series: u64,
    last: Instant,
    values: BTreeMap<String, HashSet<u64, foldhash::fast::FixedState>>,
    /// Whether the log has it.
    told: bool,
}

impl Refused {
    fn note(&mut self, labels: &Labels) {
        self.series += 1;
        self.last = Instant::now();
        for (name, value) in labels.iter() {
            if !self.values.contains_key(name) {
                if self.values.len() >= NAMES {
                    continue;
                }
                self.values.insert(name.to_owned(), HashSet::default());
            }
            if let Some(seen) = self.values.get_mut(name)
                && seen.len() < VALUES
            {
                seen.insert(xxhash_rust::xxh3::xxh3_64(value.as_bytes()));
            }
        }
    }

    fn message(&self, scope: &Scope) -> String {
        let unit = if *scope == Scope::Memory { "bytes" } else { "series" };
        let mut text = format!("{scope} is at its limit of {} {unit}: {} new series refused", self.limit, self.series);
        let most = self.values.iter().max_by_key(|(_, values)| values.len());
        if let Some((name, values)) = most.filter(|m| m.1.len() > 1) {
            let least = if values.len() >= VALUES { "at least " } else { "" };
            text += &format!(", which have {least}{} values of the label {name:?}", values.len());
        }
        text
    }
}

/// A series that may be new.
pub struct Asked<'a> {
    /// The group's.
    pub key: &'a str,
    pub labels: &'a Labels,
    pub budget: Budget<'a>,
    /// Whether it is new to the store, not only to the group.
    pub new: bool,
    pub in_store: usize,
    pub in_group: usize,
}

/// How many series pools and owners have, and what was refused.
#[derive(Default)]
pub struct Budgets {
    /// By the beginnings of group keys, up to a slash.
    pools: Mutex<HashMap<String, u64, foldhash::fast::FixedState>>,
    refused: Mutex<BTreeMap<Scope, Refused>>,
    memory_full: AtomicBool,
    memory_used: AtomicU64,
}

/// The pool of a group: its key up to the last slash.
fn pool_of(key: &str) -> &str {
    key.rsplit_once('/').map_or(key, |k| k.0)
}

/// So many beginnings of a key are counted, the longest: `serviceMonitor/namespace/name/endpoint` and less.
const OWNERS: usize = 8;

/// The beginnings of a group's key, its pool first.
fn owners_of(key: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(pool_of(key)), |k| k.rsplit_once('/').map(|k| k.0)).take(OWNERS)
}

/// The lower of two limits of which 0 is none.
fn lower(a: u64, b: u64) -> u64 {
    if a == 0 || b == 0 { a.max(b) } else { a.min(b) }
}

impl Budgets {
    /// Counts series that a group got.
    pub fn add(&self, key: &str, series: u64) {
        let mut pools = self.pools.lock();
        for owner in owners_of(key) {
            match pools.get_mut(owner) {
                Some(count) => *count += series,
                None => {
                    pools.insert(owner.to_owned(), series);
                }
            }
        }
    }

    /// Counts series that a group lost.
    pub fn remove(&self, key: &str, series: u64) {
        let mut pools = self.pools.lock();
        for owner in owners_of(key) {
            if let Some(count) = pools.get_mut(owner) {
                *count = count.saturating_sub(series);
                if *count == 0 {
                    pools.remove(owner);
                }
            }
        }
    }

    /// Whether one more series fits.
    ///
    /// # Errors
    /// `Limit`, in words.
    pub fn check(&self, o: &StoreOptions, asked: &Asked<'_>) -> Result<(), StorageError> {
        let Asked { key, labels, budget, new, in_store, in_group } = *asked;
        if budget.exempt {
            return Ok(());
        }
        let pool = pool_of(key);
        let of = |owner: &str| self.pools.lock().get(owner).copied().unwrap_or_default();
        let group_limit = lower(o.max_series_per_group as u64, budget.group);
        let pool_limit = o.max_series_per_pool as u64;
        let (scope, limit) = if group_limit > 0 && in_group as u64 >= group_limit {
            (Scope::Group(key.to_owned()), group_limit)
        } else if budget.shared > 0 && of(budget.owner) >= budget.shared {
            (Scope::Pool(budget.owner.to_owned()), budget.shared)
        } else if pool_limit > 0 && of(pool) >= pool_limit {
            (Scope::Pool(pool.to_owned()), pool_limit)
        } else if new && o.max_series > 0 && in_store >= o.max_series {
            (Scope::Store, o.max_series as u64)
        } else if new && self.memory_full.load(Ordering::Relaxed) {
            (Scope::Memory, o.memory_budget)
        } else {
            return Ok(());
        };
        let text = format!("{scope} is at its limit of {limit}");
        let mut all = self.refused.lock();
        if all.len() < SCOPES || all.contains_key(&scope) {
            let refused = all.entry(scope).or_insert_with(|| Refused {
                limit,
                series: 0,
                last: Instant::now(),
                values: BTreeMap::new(),
                told: false,
            });
            refused.limit = limit;
            refused.note(labels);
        }
        Err(StorageError::new(ErrorKind::Limit, text))
    }

    /// What is refused at present, in words.
    pub fn messages(&self) -> Vec<String> {
        self.refused.lock().iter().map(|(scope, refused)| refused.message(scope)).collect()
    }

    /// The pools and owners of which series are refused at present, each with the reason in words.
    pub fn pools_over(&self) -> BTreeMap<String, String> {
        let all = self.refused.lock();
        let pool = |(scope, refused): (&Scope, &Refused)| match scope {
            Scope::Pool(pool) => Some((pool.clone(), refused.message(scope))),
            // Of what a target may not have its job has too much as well.
            Scope::Group(key) => Some((pool_of(key).to_owned(), refused.message(scope))),
            Scope::Store | Scope::Memory => None,
        };
        all.iter().rev().filter_map(pool).collect()
    }

    /// Refused series by scope, in words.
    pub fn counts(&self) -> Vec<(String, u64)> {
        self.refused.lock().iter().map(|(scope, refused)| (scope.to_string(), refused.series)).collect()
    }

    pub fn memory_used(&self) -> u64 {
        self.memory_used.load(Ordering::Relaxed)
    }

    /// Tells the log of what changed. Done every few seconds, so that it can say which label it was.
    pub fn tell(&self) {
        self.refused.lock().retain(|scope, refused| {
            if !refused.told {
                refused.told = true;
                tracing::error!(reason = refused.message(scope), "new series are refused");
            }
            let over = refused.last.elapsed() >= QUIET;
            if over {
                tracing::info!(reason = scope.to_string(), "new series are taken again");
            }
            !over
        });
    }

    /// Looks at how much memory the process takes.
    pub fn look_at_memory(&self, budget: u64) {
        let used = resident();
        self.memory_used.store(used, Ordering::Relaxed);
        let part = used as f64 / budget.max(1) as f64;
        let was = self.memory_full.load(Ordering::Relaxed);
        let full = budget > 0 && part >= if was { ROOM } else { FULL };
        if full != was {
            self.memory_full.store(full, Ordering::Relaxed);
            if full {
                tracing::error!(used, budget, "memory is nearly used up: refusing new series");
            } else {
                tracing::info!(used, budget, "memory suffices again");
            }
        }
    }
}

/// What the process keeps in memory, in bytes; 0 where that cannot be told.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let anonymous = text.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    anonymous.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or_default() * 1024
}

impl Inner {
    /// Counts what the groups hold after a start.
    pub fn count_pools(&self) {
        for cell in self.groups.read().list.iter().flatten() {
            let group = cell.lock();
            self.budgets.add(&group.key, (group.columns.len() - group.free.len()) as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_over_a_limit_is_refused_and_the_label_is_named() {
        let budgets = Budgets::default();
        let o = StoreOptions {
            max_series: 100,
            max_series_per_pool: 20,
            max_series_per_group: 10,
            ..StoreOptions::new("")
        };
        let labels = |i: u32| Labels::from_pairs([("__name__", "m".into()), ("id", i.to_string())]);
        let ask = |key: &str, budget, new, in_store, in_group| {
            let labels = labels(in_group as u32);
            let asked = Asked { key, labels: &labels, budget, new, in_store, in_group };
            budgets.check(&o, &asked).map_err(|e| e.message)
        };
        let check = |key: &str, new, store, group| ask(key, Budget::default(), new, store, group);
        assert_eq!(check("job/a", true, 99, 9), Ok(()));
        assert_eq!(check("job/a", false, 100, 9), Ok(()), "known to the store");
        assert_eq!(check("job/a", true, 100, 9).unwrap_err(), "the store is at its limit of 100");
        for i in 10..15 {
            assert_eq!(check("job/a", true, 50, i).unwrap_err(), "target job/a is at its limit of 10");
        }
        budgets.add("job/a", 10);
        budgets.add("job/b", 10);
        assert_eq!(check("job/c", true, 20, 0).unwrap_err(), "job job is at its limit of 20");
        budgets.remove("job/b", 1);
        assert_eq!(check("job/c", true, 19, 0), Ok(()));
        assert_eq!(
            budgets.messages()[2],
            "target job/a is at its limit of 10 series: 5 new series refused, which have 5 values of the label \"id\""
        );
        // A monitor's endpoints share its budget; what is lower holds.
        let monitor = Budget { group: 4, shared: 12, owner: "serviceMonitor/ns/m", ..Budget::default() };
        budgets.add("serviceMonitor/ns/m/0/a", 4);
        budgets.add("serviceMonitor/ns/m/1/b", 7);
        budgets.add("serviceMonitor/ns/mm/0/c", 9);
        assert_eq!(ask("serviceMonitor/ns/m/0/a", monitor, true, 20, 3), Ok(()));
        assert_eq!(
            ask("serviceMonitor/ns/m/0/a", monitor, true, 20, 4).unwrap_err(),
            "target serviceMonitor/ns/m/0/a is at its limit of 4"
        );
        budgets.add("serviceMonitor/ns/m/1/b", 1);
        assert_eq!(
            ask("serviceMonitor/ns/m/0/a", monitor, true, 20, 3).unwrap_err(),
            "job serviceMonitor/ns/m is at its limit of 12"
        );
        let exempt = Budget { exempt: true, ..monitor };
        assert_eq!(ask("serviceMonitor/ns/m/0/a", exempt, true, 1000, 1000), Ok(()));
        budgets.look_at_memory(1);
        assert_eq!(check("job/c", true, 19, 0).unwrap_err(), "the memory budget is at its limit of 0");
        assert_eq!(check("job/c", false, 19, 0), Ok(()));
        assert_eq!(ask("job/c", exempt, true, 19, 0), Ok(()));
        budgets.look_at_memory(u64::MAX);
        assert_eq!(check("job/c", true, 19, 0), Ok(()));
    }
}
