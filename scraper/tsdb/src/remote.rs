//! Batches from remote write. A sender's request usually is a whole target's page at one timestamp: series that come
//! together at the same time form a group of their own, and are stored as scrapes are.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use hashbrown::{HashMap, HashSet};
use narthex_model::{Labels, is_stale};
use narthex_storage::{AppendOutcome, Place, PlacedSample, SeriesSpec, StorageError, WriteBatch, WriteSeries};

use crate::append::Intake;
use crate::group::Group;
use crate::record::SideValue;
use crate::series::{Home, Registry, SeriesId};
use crate::store::{Groups, Inner};

/// What the keys of such groups begin with.
const PREFIX: &str = "remote-write/";
/// Fewer new series than this at one timestamp make no group of their own.
const SMALL: usize = 4;
/// Where those go.
const MIXED: &str = "remote-write/mixed";

/// The samples of a batch that go to one group, with their series' columns; or why one has none.
type Part<'a> = Vec<(Result<(u32, SeriesId), StorageError>, &'a WriteSeries)>;
/// What new series have in common that form a group: the time of the first sample, and the target.
type Origin<'a> = (i64, &'a str, &'a str);

fn origin(series: &WriteSeries) -> Origin<'_> {
    (first_time(series), series.labels.value("job"), series.labels.value("instance"))
}

/// The column that remote write uses for a series.
fn home_of(registry: &Registry, groups: &Groups, labels: &Labels) -> Option<(SeriesId, Home)> {
    let (id, first) = registry.find_home(labels)?;
    let remote = |h: &Home| groups.remote.contains(&h.group);
    let home = if remote(&first) { Some(first) } else { registry.homes(id).find(remote) };
    home.map(|home| (id, home))
}

/// [`home_of`] for each series of a batch.
pub(crate) fn homes(inner: &Inner, batch: &WriteBatch) -> Vec<Option<(SeriesId, Home)>> {
    let groups = inner.groups.read();
    let registry = inner.registry.read();
    batch.series.iter().map(|s| home_of(&registry, &groups, &s.labels)).collect()
}

pub(crate) fn places(inner: &Inner, labels: &[&Labels]) -> Vec<Option<Place>> {
    let groups = inner.groups.read();
    let registry = inner.registry.read();
    let place = |(series, home): (SeriesId, Home)| {
        let mixed = groups.by_key.get(MIXED) == Some(&home.group);
        (!mixed).then_some(Place { group: home.group, column: home.column, series })
    };
    labels.iter().map(|l| home_of(&registry, &groups, l).and_then(place)).collect()
}

pub(crate) fn write(inner: &Inner, batch: &WriteBatch) -> Result<AppendOutcome, StorageError> {
    let mut parts: BTreeMap<u32, Part<'_>> = BTreeMap::new();
    let mut new: Vec<&WriteSeries> = Vec::new();
    // Which group has series of the same origin in this batch.
    let mut neighbours: HashMap<Origin<'_>, u32> = HashMap::new();
    let mut outcome = AppendOutcome::default();
    let newest_before = inner.max_time.load(Ordering::Relaxed);
    let homes = homes(inner, batch);
    let mut new_labels: HashSet<&Labels> = HashSet::new();
    let some_new = homes.iter().any(|h| h.is_none());
    for (series, home) in batch.series.iter().zip(homes) {
        let Some((id, home)) = home else {
            let bare = series.samples.is_empty() && series.histograms.is_empty();
            if bare && !new_labels.contains(&series.labels) {
                // Exemplars alone make no series.
                outcome.exemplars_refused += series.exemplars.len() as u64;
            } else {
                new_labels.insert(&series.labels);
                new.push(series);
            }
            continue;
        };
        parts.entry(home.group).or_default().push((Ok((home.column, id)), series));
        if some_new {
            neighbours.entry(origin(series)).or_insert(home.group);
        }
    }
    let mut origins: BTreeMap<Origin<'_>, usize> = BTreeMap::new();
    let mut origin_of: HashMap<&Labels, Origin<'_>> = HashMap::new();
    for series in &new {
        // Of a series that comes several times the first decides.
        let origin = *origin_of.entry(&series.labels).or_insert_with(|| origin(series));
        *origins.entry(origin).or_default() += 1;
    }
    for (origin, count) in origins {
        let group = match neighbours.get(&origin) {
            Some(_) => continue,
            None if count < SMALL => open(inner, MIXED)?,
            None => {
                let number = inner.groups.read().remote.len();
                let mut key = format!("{PREFIX}{number}");
                // Numbers are used again when groups go.
                for further in 0.. {
                    if !inner.groups.read().by_key.contains_key(key.as_str()) {
                        break;
                    }
                    key = format!("{PREFIX}{number}-{further}");
                }
                open(inner, &key)?
            }
        };
        neighbours.insert(origin, group);
    }
    // Series get their numbers in the order in which they come, whichever their groups.
    for series in new {
        let Some(number) = neighbours.get(&origin_of[&series.labels]) else { continue };
        let Some(group) = inner.group(*number) else { continue };
        let opened = open_column(inner, &mut group.lock(), series);
        parts.entry(*number).or_default().push((opened, series));
    }
    for (group, part) in parts {
        outcome.absorb(append(inner, newest_before, group, part)?);
    }
    Ok(outcome)
}

pub(crate) fn write_placed(
    inner: &Inner,
    samples: &[PlacedSample],
    lost: &mut Vec<usize>,
) -> Result<AppendOutcome, StorageError> {
    let mut order: Vec<u32> = (0..samples.len() as u32).collect();
    let group_of = |i: &u32| samples[*i as usize].place.group;
    if !order.is_sorted_by_key(group_of) {
        order.sort_by_key(group_of);
    }
    let newest_before = inner.max_time.load(Ordering::Relaxed);
    let mut outcome = AppendOutcome::default();
    let mut row = Vec::new();
    for part in order.chunk_by(|a, b| group_of(a) == group_of(b)) {
        let Some(group) = inner.group(group_of(&part[0])) else {
            lost.extend(part.iter().map(|i| *i as usize));
            continue;
        };
        let mut group = group.lock();
        let group = &mut *group;
        let mut intake = Intake::new(inner);
        intake.newest_before = newest_before;
        row.clear();
        for i in part {
            let PlacedSample { place, timestamp, value } = samples[*i as usize];
            if group.columns.get(place.column as usize) == Some(&place.series) {
                row.push(Cell { column: place.column, timestamp, value });
            } else {
                lost.push(*i as usize);
            }
        }
        intake.cells(group, &mut row);
        intake.log()?;
        outcome.absorb(intake.finish());
    }
    lost.sort_unstable();
    Ok(outcome)
}

pub(crate) fn is_remote(key: &str) -> bool {
    key.starts_with(PREFIX)
}

fn open(inner: &Inner, key: &str) -> Result<u32, StorageError> {
    Ok(inner.open_group(key)?.lock().id)
}

fn first_time(series: &WriteSeries) -> i64 {
    let floats = series.samples.first().map(|s| s.0);
    floats.or(series.histograms.first().map(|h| h.0)).unwrap_or(i64::MIN)
}

fn open_column(inner: &Inner, group: &mut Group, series: &WriteSeries) -> Result<(u32, SeriesId), StorageError> {
    let column = inner.open_column(group, SeriesSpec::new(&series.labels))?;
    Ok((column, group.columns[column as usize]))
}

fn append(inner: &Inner, newest_before: i64, id: u32, part: Part<'_>) -> Result<AppendOutcome, StorageError> {
    let Some(group) = inner.group(id) else { return Ok(AppendOutcome::default()) };
    let mut group = group.lock();
    let group = &mut *group;
    let mut intake = Intake::new(inner);
    intake.newest_before = newest_before;
    let beside = &*group.key == MIXED;
    let mut columns: Vec<(u32, &WriteSeries)> = Vec::with_capacity(part.len());
    for (found, series) in part {
        let found = match found {
            // The column may have been given away since it was found.
            Ok((column, id)) if group.columns.get(column as usize) != Some(&id) => open_column(inner, group, series),
            found => found,
        };
        match found {
            Ok((column, _)) => columns.push((column, series)),
            Err(e) => intake.refuse_series(&e),
        }
    }
    starts(&mut intake, group, &columns);
    // Floats and histograms of one series are judged in the order in which they come.
    let mixed = if beside { Vec::new() } else { columns_alone(&columns) };
    let alone = |column: &u32| beside || mixed.binary_search(column).is_ok();
    if !beside {
        let cell = |column: u32| move |s: &(i64, f64)| Cell { column, timestamp: s.0, value: s.1 };
        let in_rows = columns.iter().filter(|(c, _)| !alone(c));
        let mut cells: Vec<Cell> = in_rows.flat_map(|(c, s)| s.samples.iter().map(cell(*c))).collect();
        intake.cells(group, &mut cells);
    }
    let mut newest: HashMap<u32, i64> = HashMap::new();
    for (column, series) in &columns {
        let before = if alone(column) || !series.histograms.is_empty() {
            *newest.entry(*column).or_insert_with(|| intake.newest_of(group, *column))
        } else {
            i64::MAX
        };
        if alone(column) {
            for (i, (t, v)) in series.samples.iter().enumerate() {
                if series.zeros
                    && let Some(start) = series.start_timestamps.get(i).filter(|s| **s != 0)
                {
                    intake.zero(group, *column, *start, *t, None, before);
                }
                intake.offer_after(group, *column, *t, SideValue::Float(*v), before);
            }
        }
        for (i, (t, h)) in series.histograms.iter().enumerate() {
            if series.zeros
                && let Some(start) = series.histogram_starts.get(i).filter(|s| **s != 0)
            {
                intake.zero(group, *column, *start, *t, Some(h), before);
            }
            intake.offer_after(group, *column, *t, SideValue::Histogram(h.clone()), before);
        }
        for exemplar in &series.exemplars {
            intake.exemplar(group, *column, exemplar);
        }
    }
    intake.log()?;
    Ok(intake.finish())
}

/// Notes start timestamps: before the samples in the log, so that who reads it knows them when these come.
fn starts(intake: &mut Intake<'_>, group: &mut Group, columns: &[(u32, &WriteSeries)]) {
    let mut all: Vec<(u32, i64, i64)> = Vec::new();
    for (column, series) in columns {
        let floats = series.samples.iter().map(|s| s.0).zip(&series.start_timestamps);
        let histograms = series.histograms.iter().map(|h| h.0).zip(&series.histogram_starts);
        all.extend(floats.chain(histograms).filter(|s| *s.1 != 0).map(|(t, start)| (*column, t, *start)));
    }
    if all.is_empty() {
        return;
    }
    // They make new series known, which may have earlier samples.
    let times = |s: &WriteSeries| s.samples.iter().map(|s| s.0).chain(s.histograms.iter().map(|h| h.0)).min();
    intake.begins = columns.iter().filter_map(|(_, s)| times(s)).min().unwrap_or(i64::MAX);
    for (column, t, start) in all {
        intake.start(group, column, t, start);
    }
}

/// The columns whose samples are judged one by one, in ascending order: those that get both floats and histograms, and
/// those with samples at their starts.
fn columns_alone(columns: &[(u32, &WriteSeries)]) -> Vec<u32> {
    let with = |some: fn(&WriteSeries) -> bool| columns.iter().filter(move |c| some(c.1)).map(|c| c.0);
    let mut mixed: Vec<u32> = with(|s| !s.histograms.is_empty()).collect();
    if !mixed.is_empty() {
        let floats: hashbrown::HashSet<u32> = with(|s| !s.samples.is_empty()).collect();
        mixed.retain(|c| floats.contains(c));
    }
    mixed.extend(with(|s| s.zeros && !s.start_timestamps.is_empty()));
    mixed.sort_unstable();
    mixed.dedup();
    mixed
}

/// A sample of a column.
#[derive(Clone, Copy)]
struct Cell {
    column: u32,
    timestamp: i64,
    value: f64,
}

impl Intake<'_> {
    /// Samples of one group, each column's in the order in which they are judged.
    fn cells(&mut self, group: &mut Group, cells: &mut Vec<Cell>) {
        let mut late = Vec::new();
        if !cells.is_sorted_by_key(|c| c.timestamp) {
            // Rows are made in order of time; a column's sample that is older than the one before it is not in order.
            let mut newest = vec![i64::MIN; group.columns.len()];
            cells.retain(|c| {
                let newest = &mut newest[c.column as usize];
                let in_order = c.timestamp >= *newest;
                if in_order {
                    *newest = c.timestamp;
                } else {
                    late.push(*c);
                }
                in_order
            });
            cells.sort_by_key(|c| c.timestamp);
        }
        let late: Vec<(Cell, i64)> = late.into_iter().map(|c| (c, self.newest_of(group, c.column))).collect();
        for row in cells.chunk_by(|a, b| a.timestamp == b.timestamp) {
            self.unsorted_row(group, row);
        }
        for (c, before) in late {
            self.offer_after(group, c.column, c.timestamp, SideValue::Float(c.value), before);
        }
    }

    /// A row of columns in any order; one that comes twice keeps its first value here, the others are judged alone.
    fn unsorted_row(&mut self, group: &mut Group, row: &[Cell]) {
        let Some(t) = row.first().map(|c| c.timestamp) else { return };
        let (mut columns, mut values) = (Vec::with_capacity(row.len()), Vec::with_capacity(row.len()));
        let (mut stale, mut again) = (Vec::new(), Vec::new());
        let mut seen = vec![0u64; group.columns.len().div_ceil(64)];
        for Cell { column: c, value: v, .. } in row.iter().copied() {
            let word = &mut seen[c as usize / 64];
            if *word >> (c % 64) & 1 == 1 {
                again.push((c, v, self.newest_of(group, c)));
                continue;
            }
            *word |= 1 << (c % 64);
            if v.is_nan() && is_stale(v) {
                stale.push(c);
            } else {
                columns.push(c);
                values.push(v);
            }
        }
        self.row(group, t, Some(columns), &values, stale);
        for (c, v, before) in again {
            self.offer_after(group, c, t, SideValue::Float(v), before);
        }
    }
}
