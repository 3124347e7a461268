//! Series that have left memory: on disk only, one partition a day.
//!
//! A series that is in memory answers for all its days itself. One that leaves is written to the partition of each day
//! that it lived in, which has two parts:
//! * *tables*, by metric: the series with their labels. What a selector with a metric's name wants lies together, as
//!   the metric's blocks do.
//! * *pairs* ([`partition`]): each label pair with the metrics and the groups that have a series with it. They answer
//!   for label names and values alone, and tell a selector which tables to read.
//!
//! So a query reads of the dead only the days that it is about, and of those only the tables of metrics and groups that
//! can match. Pairs lead to tables and not to series, for such a set stays small however many series come and go, and
//! the series of a table are tested at some million a second and more ([`Tested`]).

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashSet;
use narthex_model::{Labels, METRIC_NAME, Matcher};
use parking_lot::RwLock;
use roaring::RoaringBitmap;

use crate::TsdbError;
use crate::db::{Db, Family, Op};
use crate::index::partition::{self, PartitionBuilder};
use crate::index::{Ids, IndexError, Postings, Visit, label_names, label_values};
use crate::record::{TableReader, TableWriter};
use crate::series::{SeriesId, minute};

const PREFIX: u8 = b'd';
const DAY_MINUTES: i32 = 24 * 60;
/// So many tables of a day are sought one by one; of more, all of their metrics are walked through.
const FEW_TABLES: u64 = 500;

/// A series, and the group that has its blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct Dead {
    pub id: SeriesId,
    pub group: u32,
    pub labels: Labels,
}

/// The number of a day; in the order of time.
fn day(minute: i32) -> u32 {
    (minute.div_euclid(DAY_MINUTES) as u32) ^ (1 << 31)
}

/// A table's key; `number` tells apart those of one group.
fn key(day: u32, metric: u32, group: u32, number: u64) -> Vec<u8> {
    let mut key = vec![PREFIX];
    for part in [day, metric, group] {
        key.extend_from_slice(&part.to_be_bytes());
    }
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn end_of(day: u32) -> Vec<u8> {
    day.checked_add(1).map_or(vec![PREFIX + 1], |next| key(next, 0, 0, 0))
}

/// Metric and group of a table's key.
fn parse_key(key: &[u8]) -> Option<(u32, u32)> {
    let part = |from: usize| Some(u32::from_be_bytes(key.get(from..from + 4)?.try_into().ok()?));
    Some((part(5)?, part(9)?))
}

/// Metrics and groups of a pair lie in one set: of metrics twice the number, of groups one more than that. Neither
/// comes near 2^31.
fn of_metric(metric: u32) -> u32 {
    metric.wrapping_mul(2)
}

fn of_group(group: u32) -> u32 {
    group.wrapping_mul(2) | 1
}

/// Collects series of one group that leave memory together.
pub struct Batch {
    group: u32,
    tables: BTreeMap<(u32, u32), TableWriter>,
    pairs: BTreeMap<u32, PartitionBuilder>,
}

impl Batch {
    pub fn new(group: u32) -> Batch {
        Batch { group, tables: BTreeMap::new(), pairs: BTreeMap::new() }
    }

    /// Adds a series to the days from its first minute to its last. One whose metric has no number has nothing in
    /// blocks and is left out. `labels` are in the order of names.
    pub fn add<'l>(
        &mut self,
        id: SeriesId,
        metric: Option<u32>,
        first_minute: i32,
        last_minute: i32,
        labels: impl Iterator<Item = (&'l str, &'l str)> + Clone,
    ) {
        let Some(metric) = metric.filter(|_| first_minute != i32::MAX) else { return };
        let last_minute = last_minute.max(first_minute);
        for day in day(first_minute)..=day(last_minute) {
            let table = self.tables.entry((day, metric)).or_default();
            // The key has the group; where tables of series in memory have the column, these have the last minute.
            table.add_pairs(last_minute as u32, id, first_minute, labels.clone());
            let pairs = self.pairs.entry(day).or_default();
            pairs.add(of_metric(metric), labels.clone());
            pairs.add(of_group(self.group), labels.clone());
        }
    }

    /// What is to be written; `number` was never used before.
    pub fn finish(self, number: u64) -> Vec<Op> {
        let mut ops = Vec::new();
        for ((day, metric), table) in self.tables {
            ops.push(Op::Put(Family::Postings, key(day, metric, self.group, number), table.finish()));
        }
        for (day, pairs) in self.pairs {
            ops.extend(pairs.entries(day).map(|(key, metrics)| Op::Merge(Family::Postings, key, metrics)));
        }
        ops
    }
}

/// The pairs of a day as they lie on disk; ids are those of [`of_metric`] and [`of_group`].
struct Pairs<'a> {
    db: &'a Db,
    day: u32,
}

impl From<IndexError> for TsdbError {
    fn from(e: IndexError) -> TsdbError {
        TsdbError::Corrupt(format!("label pairs of a day: {e}"))
    }
}

impl Postings for Pairs<'_> {
    type Error = TsdbError;

    fn all(&self) -> Result<RoaringBitmap, TsdbError> {
        let all = self.db.get(Family::Postings, &partition::all_key(self.day))?;
        Ok(all.map_or(Ok(RoaringBitmap::new()), |bytes| partition::decode_ids(&bytes))?)
    }

    fn ids(&self, name: &str, value: &str) -> Result<Option<Ids<'_>>, TsdbError> {
        let found = self.db.get(Family::Postings, &partition::pair_key(self.day, name, value))?;
        Ok(found.map(Ids::Bytes))
    }

    fn each_value(&self, name: &str, prefix: &str, visit: &mut Visit<'_, TsdbError>) -> Result<(), TsdbError> {
        let range = partition::values_range(self.day, name, prefix);
        let mut failed = None;
        self.db.scan(Family::Postings, &range.start, Some(&range.end), |key, metrics| {
            let Some((_, _, value)) = partition::parse_key(key) else { return true };
            match visit(value, Ids::Encoded(metrics)) {
                Ok(more) => more,
                Err(e) => {
                    failed = Some(e);
                    false
                }
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    fn names(&self) -> Result<Vec<String>, TsdbError> {
        let mut names = Vec::new();
        let end = partition::days_range(self.day, self.day).end;
        // From each name to the one after it.
        let mut from = partition::next_name(self.day, "");
        loop {
            let mut found = None;
            self.db.scan(Family::Postings, &from, Some(&end), |key, _| {
                found = partition::parse_key(key).map(|(_, name, _)| name.into_owned());
                false
            })?;
            let Some(name) = found else { return Ok(names) };
            from = partition::next_name(self.day, &name);
            names.push(name);
        }
    }
}

/// The days that have dead series: read once, and noted when there are more. A day of which nothing is left does no
/// harm.
#[derive(Default)]
pub struct Days {
    state: RwLock<(bool, BTreeSet<u32>)>,
}

impl Days {
    /// Notes the days of a batch; to be called before it is written.
    pub fn note(&self, batch: &Batch) {
        self.state.write().1.extend(batch.pairs.keys());
    }

    /// Forgets the days before one, which are deleted.
    pub fn forget_before(&self, day: u32) {
        let days = &mut self.state.write().1;
        *days = days.split_off(&day);
    }

    /// Those of `[mint, maxt]`.
    fn within(&self, db: &Db, mint: i64, maxt: i64) -> Result<Vec<u32>, TsdbError> {
        let range = day(minute(mint))..=day(minute(maxt));
        {
            let state = self.state.read();
            if state.0 {
                return Ok(state.1.range(range).copied().collect());
            }
        }
        // Nobody notes a day meanwhile.
        let mut state = self.state.write();
        let mut next = Some(0);
        while let Some(from) = next {
            let mut found = None;
            db.scan(Family::Postings, &key(from, 0, 0, 0), Some(&end_of(u32::MAX)), |key, _| {
                found = key.get(1..5).and_then(|d| Some(u32::from_be_bytes(d.try_into().ok()?)));
                false
            })?;
            state.1.extend(found);
            next = found.and_then(|d| d.checked_add(1));
        }
        state.0 = true;
        Ok(state.1.range(range).copied().collect())
    }
}

/// Matchers over a table: each is tested once per label pair, and a series' pairs only have their results joined.
struct Tested<'m> {
    matchers: &'m [Matcher],
    /// Matchers that hold for series without their label.
    empty: u64,
    /// By pair: the matchers on its name, and those of them that hold.
    pairs: Vec<(u64, u64)>,
}

impl<'m> Tested<'m> {
    fn new(matchers: &'m [Matcher]) -> Tested<'m> {
        let empty = matchers.iter().take(64).enumerate().filter(|m| m.1.matches_empty());
        Tested { matchers, empty: empty.fold(0, |bits, (i, _)| bits | 1 << i), pairs: Vec::new() }
    }

    fn matches(&mut self, table: &TableReader<'_>) -> bool {
        for (name, value) in &table.pairs[self.pairs.len()..] {
            let (mut about, mut hold) = (0, 0);
            for (i, m) in self.matchers.iter().take(64).enumerate().filter(|m| *m.1.name == **name) {
                about |= 1 << i;
                hold |= u64::from(m.matches(value)) << i;
            }
            self.pairs.push((about, hold));
        }
        let (mut about, mut hold) = (0, 0);
        for pair in table.list.iter().filter_map(|pair| self.pairs.get(*pair as usize)) {
            about |= pair.0;
            hold |= pair.1;
        }
        let all = u64::MAX >> (64 - self.matchers.len().clamp(1, 64));
        let all = if self.matchers.is_empty() { 0 } else { all };
        let few = (hold | self.empty & !about) & all == all;
        few && (self.matchers.len() <= 64 || {
            let labels = Labels::from_sorted(table.texts());
            Matcher::all_match(&self.matchers[64..], &labels)
        })
    }
}

/// Whether the series of a table's current entry lived at a time of `[mint, maxt]`, to the minute.
pub fn lived(table: &TableReader<'_>, (mint, maxt): (i64, i64)) -> bool {
    // Tables of the first stores have the group in place of the last minute.
    let last = Some(table.column as i32).filter(|last| *last >= table.first_minute);
    table.first_minute <= minute(maxt) && last.is_none_or(|last| last >= minute(mint))
}

/// Calls `each` with the group and every dead series that lived on a day of `[mint, maxt]` and satisfies the matchers, as
/// the current entry of its table; one that lived on several days comes several times.
///
/// # Errors
/// When the disk cannot be read. Damaged entries are left out and counted in what is returned.
pub fn scan(
    db: &Db,
    days: &Days,
    metric_of: impl Fn(&str) -> Option<u32>,
    matchers: &[Matcher],
    (mint, maxt): (i64, i64),
    mut each: impl FnMut(u32, &TableReader<'_>),
) -> Result<u64, TsdbError> {
    let positive = || matchers.iter().filter(|m| !m.matches_empty());
    let is_name = |m: &&Matcher| *m.name == *METRIC_NAME;
    let names = positive().find(|m| is_name(m) && m.set_matches().is_some());
    let named: Option<RoaringBitmap> =
        names.and_then(Matcher::set_matches).map(|names| names.into_iter().filter_map(metric_of).collect());
    // With a name, a look at the pair of another label can save reading the table; testing all values of a label
    // costs more than the table.
    let narrowing: Vec<Matcher> =
        positive().filter(|m| named.is_none() || !is_name(m) && m.set_matches().is_some()).cloned().collect();
    let mut damaged = 0;
    let mut visit = |group: u32, table: &[u8]| {
        let mut reader = TableReader::new(table);
        let mut tested = Tested::new(matchers);
        loop {
            match reader.advance() {
                Some(true) if tested.matches(&reader) => each(group, &reader),
                Some(true) => {}
                Some(false) => break,
                None => {
                    damaged += 1;
                    break;
                }
            }
        }
        true
    };
    if named.as_ref().is_some_and(RoaringBitmap::is_empty) {
        return Ok(0);
    }
    let mut unreadable = 0;
    for day in days.within(db, mint, maxt)? {
        let mut metrics = named.clone();
        let mut groups = None;
        if !narrowing.is_empty() {
            match crate::index::select(&Pairs { db, day }, &narrowing) {
                Ok(found) => {
                    let of = |bit: u32| found.iter().filter(move |n| n & 1 == bit).map(|n| n >> 1);
                    let of_pairs: RoaringBitmap = of(0).collect();
                    metrics = Some(metrics.map_or_else(|| of_pairs.clone(), |named| named & &of_pairs));
                    groups = Some(of(1).collect::<RoaringBitmap>());
                }
                // The tables know better than pairs that cannot be read.
                Err(TsdbError::Corrupt(_)) => unreadable += 1,
                Err(e) => return Err(e),
            }
        }
        if let (Some(metrics), Some(groups)) = (&metrics, &groups)
            && metrics.len() * groups.len() <= FEW_TABLES
        {
            for (metric, group) in metrics.iter().flat_map(|m| groups.iter().map(move |g| (m, g))) {
                let (from, to) = (key(day, metric, group, 0), key(day, metric, group, u64::MAX));
                db.scan(Family::Postings, &from, Some(&to), |_, table| visit(group, table))?;
            }
            continue;
        }
        let mut visit =
            |group: u32, table: &[u8]| groups.as_ref().is_some_and(|g| !g.contains(group)) || visit(group, table);
        // One reader walks along; it seeks where the next table is of a metric that is not wanted.
        let mut wanted = metrics.as_ref().map(|metrics| metrics.iter().peekable());
        let mut from = 0;
        loop {
            if let Some(wanted) = &mut wanted {
                match wanted.next() {
                    Some(next) => from = next,
                    None => break,
                }
            }
            db.scan(Family::Postings, &key(day, from, 0, 0), Some(&end_of(day)), |key, table| {
                let Some((metric, group)) = parse_key(key) else { return true };
                match &mut wanted {
                    Some(wanted) if metric != from => {
                        if wanted.next_if_eq(&metric).is_none() {
                            return false;
                        }
                        from = metric;
                    }
                    _ => {}
                }
                visit(group, table)
            })?;
            if wanted.is_none() {
                break;
            }
        }
    }
    Ok(damaged + unreadable)
}

/// Calls `each` once with every dead series that lived on a day of `[mint, maxt]` and satisfies the matchers.
///
/// # Errors
/// As [`scan`].
pub fn select(
    db: &Db,
    days: &Days,
    metric_of: impl Fn(&str) -> Option<u32>,
    matchers: &[Matcher],
    mint: i64,
    maxt: i64,
    mut each: impl FnMut(Dead),
) -> Result<u64, TsdbError> {
    let mut seen: HashSet<(SeriesId, u32), foldhash::fast::FixedState> = HashSet::default();
    scan(db, days, metric_of, matchers, (mint, maxt), |group, table| {
        if seen.insert((table.id, group)) {
            each(Dead { id: table.id, group, labels: Labels::from_sorted(table.texts()) });
        }
    })
}

/// Calls `each` with the sorted label names of all dead series of each day of `[mint, maxt]`, or with the values of
/// the label `name`; at most `limit` a day (0: all).
///
/// # Errors
/// When the disk cannot be read. Days with damage are left out and counted in what is returned.
pub fn each_day(
    db: &Db,
    days: &Days,
    name: Option<&str>,
    (mint, maxt): (i64, i64),
    limit: usize,
    mut each: impl FnMut(Vec<String>),
) -> Result<u64, TsdbError> {
    let mut damaged = 0;
    for day in days.within(db, mint, maxt)? {
        let pairs = Pairs { db, day };
        let found = match name {
            Some(name) => label_values(&pairs, name, None, limit),
            None => label_names(&pairs, None, limit),
        };
        match found {
            Ok((found, _)) => each(found),
            Err(TsdbError::Corrupt(_)) => damaged += 1,
            Err(e) => return Err(e),
        }
    }
    Ok(damaged)
}

/// The names of the labels, or the values of one, of the series that [`scan`] gives; each only once a table.
pub struct Collected<'n> {
    name: Option<&'n str>,
    pub found: BTreeSet<String>,
}

impl<'n> Collected<'n> {
    pub fn new(name: Option<&'n str>) -> Collected<'n> {
        Collected { name, found: BTreeSet::new() }
    }

    pub fn add<'l>(&mut self, labels: impl Iterator<Item = (&'l str, &'l str)>) {
        for (name, value) in labels {
            let text = match self.name {
                None => name,
                Some(wanted) if wanted == name => value,
                Some(_) => continue,
            };
            if !self.found.contains(text) {
                self.found.insert(text.to_owned());
            }
        }
    }
}

/// The day of a timestamp, for [`forget_before`].
pub fn day_of(t: i64) -> u32 {
    day(minute(t))
}

/// Deletes the partitions of the days before one.
pub fn forget_before(day: u32) -> [Op; 2] {
    let pairs = partition::days_before(day);
    [
        Op::DeleteRange(Family::Postings, key(0, 0, 0, 0), key(day, 0, 0, 0)),
        Op::DeleteRange(Family::Postings, pairs.start, pairs.end),
    ]
}
