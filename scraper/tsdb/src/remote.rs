//! Batches from remote write. A sender's request usually is a whole target's page at one timestamp: series that come
//! together at the same time form a group of their own, and are stored as scrapes are.

use hashbrown::HashMap;
use narthex_model::is_stale;
use narthex_storage::{AppendOutcome, StorageError, WriteBatch, WriteSeries};

use crate::append::Intake;
use crate::record::SideValue;
use crate::store::Inner;

/// What the keys of such groups begin with.
const PREFIX: &str = "remote-write/";
/// Fewer new series than this at one timestamp make no group of their own.
const SMALL: usize = 4;
/// Where those go.
const MIXED: &str = "remote-write/mixed";

/// The samples of a batch that go to one group.
type Part<'a> = Vec<(Option<u32>, &'a WriteSeries)>;

pub(crate) fn write(inner: &Inner, batch: &WriteBatch) -> Result<AppendOutcome, StorageError> {
    let mut known: HashMap<u32, Part<'_>, foldhash::fast::FixedState> = HashMap::default();
    // New series by their first timestamp, with the group of the known series before them, if that has the same time.
    let mut new: HashMap<i64, (Option<u32>, Part<'_>), foldhash::fast::FixedState> = HashMap::default();
    {
        let registry = inner.registry.read();
        let groups = inner.groups.read();
        let mut before: Option<(u32, i64)> = None;
        for series in &batch.series {
            let first = first_time(series);
            let home = registry.find_home(&series.labels).and_then(|(id, first)| {
                let remote = |h: &crate::series::Home| groups.remote.contains(&h.group);
                if remote(&first) { Some(first) } else { registry.homes(id).find(remote) }
            });
            match home {
                Some(home) => {
                    known.entry(home.group).or_default().push((Some(home.column), series));
                    before = Some((home.group, first));
                }
                None => {
                    let entry = new.entry(first).or_default();
                    entry.0 = entry.0.or(before.filter(|b| b.1 == first).map(|b| b.0));
                    entry.1.push((None, series));
                }
            }
        }
    }
    let mut outcome = AppendOutcome::default();
    for (_, (neighbour, part)) in new {
        let group = match neighbour {
            Some(group) => group,
            None if part.len() < SMALL => open(inner, MIXED)?,
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
        known.entry(group).or_default().extend(part);
    }
    for (group, part) in known {
        merge(&mut outcome, append(inner, group, part)?);
    }
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

fn append(inner: &Inner, id: u32, part: Part<'_>) -> Result<AppendOutcome, StorageError> {
    let Some(group) = inner.group(id) else { return Ok(AppendOutcome::default()) };
    let mut group = group.lock();
    let group = &mut *group;
    let mut intake = Intake::new(inner);
    let beside = &*group.key == MIXED;
    let mut columns: Vec<(u32, &WriteSeries)> = Vec::with_capacity(part.len());
    for (column, series) in part {
        match column.map_or_else(|| inner.open_column(group, &series.labels), Ok) {
            Ok(column) => columns.push((column, series)),
            Err(e) => intake.refuse_series(&e),
        }
    }
    let one_time = columns.first().map(|(_, s)| first_time(s)).unwrap_or_default();
    let simple = |s: &WriteSeries| s.samples.len() == 1 && s.samples[0].0 == one_time && s.histograms.is_empty();
    if beside {
        for (column, series) in &columns {
            let mut samples = series.samples.clone();
            samples.sort_by_key(|s| s.0);
            samples.iter().for_each(|(t, v)| intake.offer(group, *column, *t, SideValue::Float(*v)));
        }
    } else if columns.iter().all(|(_, s)| simple(s)) {
        let row = columns.iter().map(|(c, s)| (*c, s.samples[0].1));
        intake.unsorted_row(group, one_time, row);
    } else {
        let mut rows: std::collections::BTreeMap<i64, Vec<(u32, f64)>> = Default::default();
        for (column, series) in &columns {
            for (t, v) in &series.samples {
                rows.entry(*t).or_default().push((*column, *v));
            }
        }
        for (t, row) in rows {
            intake.unsorted_row(group, t, row.into_iter());
        }
    }
    for (column, series) in &columns {
        for (t, h) in &series.histograms {
            intake.offer(group, *column, *t, SideValue::Histogram(h.clone()));
        }
        for (i, start) in series.start_timestamps.iter().enumerate().filter(|s| *s.1 != 0) {
            if let Some((t, _)) = series.samples.get(i) {
                intake.start(group, *column, *t, *start);
            }
        }
        for exemplar in &series.exemplars {
            intake.exemplar(group.columns[*column as usize], exemplar);
        }
    }
    intake.log()?;
    Ok(intake.finish())
}

impl Intake<'_> {
    /// A row of columns in any order; one that comes twice keeps its first value here, the others are judged alone.
    fn unsorted_row(
        &mut self,
        group: &mut crate::group::Group,
        t: i64,
        row: impl ExactSizeIterator<Item = (u32, f64)>,
    ) {
        let (mut columns, mut values) = (Vec::with_capacity(row.len()), Vec::with_capacity(row.len()));
        let (mut stale, mut again) = (Vec::new(), Vec::new());
        let mut seen = vec![0u64; group.columns.len().div_ceil(64)];
        for (c, v) in row {
            let word = &mut seen[c as usize / 64];
            if *word >> (c % 64) & 1 == 1 {
                again.push((c, v));
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
        for (c, v) in again {
            self.offer(group, c, t, SideValue::Float(v));
        }
    }
}

fn merge(all: &mut AppendOutcome, one: AppendOutcome) {
    all.appended += one.appended;
    all.out_of_order += one.out_of_order;
    all.duplicate += one.duplicate;
    all.too_old += one.too_old;
    all.too_new += one.too_new;
    all.exemplars += one.exemplars;
    all.exemplars_refused += one.exemplars_refused;
    all.first_refusal = all.first_refusal.take().or(one.first_refusal);
    all.durable = match (all.durable.take(), one.durable) {
        (Some(a), Some(b)) => Some(Box::pin(async move { a.await.and(b.await) })),
        (a, b) => a.or(b),
    };
}
