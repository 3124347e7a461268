//! The groups and what a push makes of them: replaced or merged by family, consistent with each other or refused.
//!
//! Invariants: no series is in two groups, a name has one type in all of them, and no name is what text makes of a
//! histogram or summary of another. So a push is compared with an index of series and of names, not with all groups.
//! What is in here is what the files on disk have, too: a change is written before it is made.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use narthex_model::labels::quote;
use prost::Message;

use super::Refused;
use super::key::Key;
use super::own;
use super::proto::{HISTOGRAM, LabelPair, Metric, MetricFamily, SUMMARY, kind_name};

pub const PUSHED: &str = "push_time_seconds";
pub const FAILED: &str = "push_failure_time_seconds";
const PUSHED_HELP: &str = "Last Unix time when changing this group in the Pushgateway succeeded.";
const FAILED_HELP: &str = "Last Unix time when changing this group in the Pushgateway failed.";

/// A family and when it came, in ns since the epoch.
#[derive(Clone, Debug)]
pub struct Stored {
    pub time: i64,
    pub family: Arc<MetricFamily>,
}

/// What was pushed under one key.
#[derive(Clone, Debug, Default)]
pub struct Group {
    pub key: Key,
    /// By name.
    pub families: BTreeMap<String, Stored>,
    /// How long it stays without a push; none: for ever.
    pub ttl: Option<Duration>,
}

impl Group {
    fn time_of(&self, name: &str) -> f64 {
        self.families.get(name).and_then(|f| f.family.metric.first()).map_or(0.0, Metric::single)
    }

    pub fn last_push_successful(&self) -> bool {
        self.time_of(FAILED) <= self.time_of(PUSHED)
    }

    /// Whether it outlived its time at `now`, in ns.
    pub fn is_over(&self, now: i64) -> bool {
        let Some(ttl) = self.ttl else { return false };
        let newest = self.families.get(PUSHED).map_or(0, |f| f.time);
        now.saturating_sub(newest) as i128 > ttl.as_nanos() as i128
    }

    fn put_time(&mut self, name: &str, help: &str, at: Option<i64>, now: i64) {
        let mut family = MetricFamily::gauge(name, help, at.map_or(0.0, |ns| ns as f64 / 1e9));
        family.metric.iter_mut().for_each(|m| sanitize(m, &self.key));
        self.families.insert(name.to_owned(), Stored { time: now, family: Arc::new(family) });
    }

    /// Series, and bytes as they are on disk.
    fn size(&self) -> (usize, usize) {
        let series = self.families.values().flat_map(|f| &f.family.metric).map(Metric::series).sum();
        (series, self.families.values().map(|f| f.family.encoded_len()).sum())
    }
}

/// What groups may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub groups: usize,
    /// Series of all groups together, as they are when they are scraped.
    pub series: usize,
    /// Bytes of all groups together, as they are on disk.
    pub bytes: usize,
}

/// All groups.
#[derive(Debug)]
pub struct Groups {
    limits: Limits,
    groups: BTreeMap<Key, Group>,
    /// Hashes of names and labels.
    series: HashSet<u128>,
    /// The type of each name, and how many groups have it.
    names: HashMap<String, (i32, usize)>,
    size: (usize, usize),
}

/// The labels of a metric that is stored: those of the key win, `instance` is there, sorted by name.
fn sanitize(metric: &mut Metric, key: &Key) {
    for (name, value) in key {
        let mut found = false;
        for label in metric.label.iter_mut().filter(|l| l.name == *name) {
            // A second label of that name stays as it is, and is found to be one too many.
            if !found {
                label.value.clone_from(value);
            }
            found = true;
        }
        if !found {
            metric.label.push(LabelPair { name: name.clone(), value: value.clone() });
        }
    }
    if !metric.label.iter().any(|l| l.name == "instance") {
        metric.label.push(LabelPair { name: "instance".to_owned(), value: String::new() });
    }
    metric.label.sort_by(|a, b| a.name.cmp(&b.name));
}

fn hash(family: &MetricFamily, metric: &Metric) -> u128 {
    let mut h = xxhash_rust::xxh3::Xxh3::new();
    let mut part = |text: &str| {
        h.update(&(text.len() as u64).to_le_bytes());
        h.update(text.as_bytes());
    };
    part(&family.name);
    for label in &metric.label {
        part(&label.name);
        part(&label.value);
    }
    h.digest128()
}

/// What is wrong with a push, in the words of Prometheus's client library; bounded.
#[derive(Default)]
struct Faults {
    n: usize,
    texts: Vec<String>,
}

const MOST_FAULTS: usize = 20;

impl Faults {
    fn add(&mut self, text: impl FnOnce() -> String) {
        self.n += 1;
        if self.texts.len() < MOST_FAULTS {
            self.texts.push(text());
        }
    }

    fn into_result(self) -> Result<(), Refused> {
        match self.texts.as_slice() {
            [] => Ok(()),
            [one] if self.n == 1 => Err(Refused::Inconsistent(one.clone())),
            texts => {
                let mut all = format!("{} error(s) occurred:", self.n);
                texts.iter().for_each(|t| _ = write!(all, "\n* {t}"));
                Err(Refused::Inconsistent(all))
            }
        }
    }
}

impl Groups {
    pub fn new(limits: Limits) -> Groups {
        Groups { limits, groups: BTreeMap::new(), series: HashSet::new(), names: HashMap::new(), size: (0, 0) }
    }

    pub fn all(&self) -> impl Iterator<Item = &Group> {
        self.groups.values()
    }

    pub fn get(&self, key: &Key) -> Option<&Group> {
        self.groups.get(key)
    }

    pub fn count(&self) -> usize {
        self.groups.len()
    }

    /// Series of all groups.
    pub fn series(&self) -> usize {
        self.size.0
    }

    /// What a group would be after a push at `now` (ns).
    ///
    /// # Errors
    /// What the Pushgateway refuses, and what goes beyond limits.
    pub fn pushed(
        &self,
        key: &Key,
        mut families: BTreeMap<String, MetricFamily>,
        replace: bool,
        now: i64,
    ) -> Result<Group, Refused> {
        if families.values().flat_map(|f| &f.metric).any(|m| m.timestamp_ms.is_some()) {
            return Err(Refused::Inconsistent("pushed metrics must not have timestamps".to_owned()));
        }
        families.remove(PUSHED);
        families.remove(FAILED);
        families.values_mut().flat_map(|f| &mut f.metric).for_each(|m| sanitize(m, key));
        let old = self.groups.get(key);
        self.check(&families, old, replace)?;
        let mut group = old.cloned().unwrap_or_else(|| Group { key: key.clone(), ..Group::default() });
        if replace {
            group.families.retain(|name, _| name == PUSHED || name == FAILED);
        }
        for (name, family) in families {
            // One without metrics, as protobuf may bring it, leaves none.
            if family.metric.is_empty() {
                group.families.remove(&name);
            } else {
                group.families.insert(name, Stored { time: now, family: Arc::new(family) });
            }
        }
        group.put_time(PUSHED, PUSHED_HELP, Some(now), now);
        if !group.families.contains_key(FAILED) {
            group.put_time(FAILED, FAILED_HELP, None, now);
        }
        self.fits(old, &group)?;
        Ok(group)
    }

    /// What a group would be after a push that was refused.
    ///
    /// # Errors
    /// When it would be one too many.
    pub fn failed(&self, key: &Key, now: i64) -> Result<Group, Refused> {
        let old = self.groups.get(key);
        let mut group = old.cloned().unwrap_or_else(|| Group { key: key.clone(), ..Group::default() });
        group.put_time(FAILED, FAILED_HELP, Some(now), now);
        if !group.families.contains_key(PUSHED) {
            group.put_time(PUSHED, PUSHED_HELP, None, now);
        }
        self.fits(old, &group)?;
        Ok(group)
    }

    fn fits(&self, old: Option<&Group>, group: &Group) -> Result<(), Refused> {
        let (old_size, new_size) = (old.map_or((0, 0), Group::size), group.size());
        let limit = |name, limit| Err(Refused::Limit { name, limit });
        if old.is_none() && self.groups.len() >= self.limits.groups {
            return limit("groups (--push.max-groups)", self.limits.groups);
        }
        if new_size.0 > old_size.0 && self.size.0 - old_size.0 + new_size.0 > self.limits.series {
            return limit("series (--push.max-series)", self.limits.series);
        }
        if new_size.1 > old_size.1 && self.size.1 - old_size.1 + new_size.1 > self.limits.bytes {
            return limit("bytes of all groups", self.limits.bytes);
        }
        Ok(())
    }

    /// The type that a name has beside what is pushed: in other groups, in what stays of this one, or by the gateway.
    fn kind_beside(&self, name: &str, old: Option<&Group>, replace: bool) -> Option<i32> {
        if let Some(kind) = own::kind(name) {
            return Some(kind);
        }
        let here = old.is_some_and(|g| g.families.contains_key(name));
        let (kind, groups) = self.names.get(name).copied()?;
        let stays = !replace || name == PUSHED || name == FAILED;
        (groups > usize::from(here) || (here && stays)).then_some(kind)
    }

    fn check(
        &self,
        pushed: &BTreeMap<String, MetricFamily>,
        old: Option<&Group>,
        replace: bool,
    ) -> Result<(), Refused> {
        let mut faults = Faults::default();
        let gone: HashSet<u128> = old
            .into_iter()
            .flat_map(|g| g.families.values())
            .filter(|f| replace || pushed.contains_key(&f.family.name))
            .flat_map(|f| f.family.metric.iter().map(|m| hash(&f.family, m)))
            .collect();
        let mut seen = HashSet::new();
        for family in pushed.values() {
            let name = family.name.as_str();
            if let Some(kind) = own::kind(name).filter(|k| *k != family.kind) {
                faults.add(|| {
                    let (is, should) = (kind_name(family.kind), kind_name(kind));
                    format!("gathered metric family {name} has type {is} but should have {should}")
                });
                continue;
            }
            // A type that only this push replaces does not count.
            let others = self.kind_beside(name, old, true);
            let beside = |name: &str| pushed.get(name).map(|f| f.kind).or_else(|| self.kind_beside(name, old, replace));
            if let Some(text) = collision(family, beside) {
                faults.add(|| text);
                continue;
            }
            for metric in &family.metric {
                if let Some(text) = inconsistent(family.kind, others, metric) {
                    faults.add(|| format!("collected metric {} {{ {}}} {text}", quote(name), metric.text()));
                    continue;
                }
                let hash = hash(family, metric);
                if (self.series.contains(&hash) && !gone.contains(&hash)) || !seen.insert(hash) {
                    let text = "was collected before with the same name and label values";
                    faults.add(|| format!("collected metric {} {{ {}}} {text}", quote(name), metric.text()));
                }
            }
        }
        faults.into_result()
    }

    /// Puts a group in place of what has its key.
    pub fn put(&mut self, group: Group) {
        self.remove(&group.key);
        for stored in group.families.values() {
            let family = &stored.family;
            self.names.entry(family.name.clone()).or_insert((family.kind, 0)).1 += 1;
            self.series.extend(family.metric.iter().map(|m| hash(family, m)));
        }
        let (series, bytes) = group.size();
        self.size = (self.size.0 + series, self.size.1 + bytes);
        self.groups.insert(group.key.clone(), group);
    }

    /// Takes a group away.
    pub fn remove(&mut self, key: &Key) -> Option<Group> {
        let group = self.groups.remove(key)?;
        for stored in group.families.values() {
            let family = &stored.family;
            if let Some((_, n)) = self.names.get_mut(&family.name) {
                *n = n.saturating_sub(1);
                if *n == 0 {
                    self.names.remove(&family.name);
                }
            }
            for metric in &family.metric {
                self.series.remove(&hash(family, metric));
            }
        }
        let (series, bytes) = group.size();
        self.size = (self.size.0.saturating_sub(series), self.size.1.saturating_sub(bytes));
        Some(group)
    }
}

/// What of a metric does not go together, with itself or with the type that its name has in other groups. Histograms and
/// gauge histograms do, as for a Pushgateway.
fn inconsistent(kind: i32, others: Option<i32>, metric: &Metric) -> Option<String> {
    if let Some(kind) = [Some(kind), others].into_iter().flatten().find(|k| !metric.is(*k)) {
        return Some(format!("is not a {}", kind_name(kind)));
    }
    let mut previous = "";
    for label in &metric.label {
        let name = label.name.as_str();
        if name == previous {
            return Some(format!("has two or more labels with the same name: {name}"));
        }
        if name.starts_with("__") || name.is_empty() {
            return Some(format!("has a label with an invalid name: {name}"));
        }
        if metric.summary.is_some() && name == "quantile" {
            return Some("must not have an explicit \"quantile\" label".to_owned());
        }
        previous = name;
    }
    None
}

/// Whether text would write two families under one name.
fn collision(family: &MetricFamily, beside: impl Fn(&str) -> Option<i32>) -> Option<String> {
    let name = family.name.as_str();
    for suffix in ["_count", "_sum", "_bucket"] {
        let Some(base) = name.strip_suffix(suffix).filter(|b| !b.is_empty()) else { continue };
        let kind = match beside(base) {
            Some(SUMMARY) if suffix != "_bucket" => "summary",
            Some(HISTOGRAM) => "histogram",
            _ => continue,
        };
        return Some(format!(
            "collected metric named {} collides with previously collected {kind} named {}",
            quote(name),
            quote(base)
        ));
    }
    let (what, suffixes): (_, &[&str]) = match family.kind {
        SUMMARY => ("histogram or summary", &["_count", "_sum"]),
        HISTOGRAM => ("histogram or summary", &["_count", "_sum", "_bucket"]),
        _ => return None,
    };
    let other = suffixes.iter().map(|s| format!("{name}{s}")).find(|other| beside(other).is_some())?;
    let what = if other.ends_with("_bucket") { "histogram" } else { what };
    Some(format!(
        "collected {what} named {} collides with previously collected metric named {}",
        quote(name),
        quote(&other)
    ))
}
