//! Series that have left memory: by day and metric, on disk only.
//!
//! A series that is in memory answers for all its days itself. One that leaves is written to each day that it lived
//! in, so that a query reads of the dead only those of the days and the metric that it is about.

use narthex_model::{Labels, Matcher};

use crate::TsdbError;
use crate::db::{Db, Family, Op};
use crate::record::{self, TableWriter};
use crate::series::{SeriesId, minute};

const PREFIX: u8 = b'd';
const DAY_MINUTES: i32 = 24 * 60;

/// A series, and the group that has its blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct Dead {
    pub id: SeriesId,
    pub group: u32,
    pub labels: Labels,
}

fn day(minute: i32) -> u32 {
    (minute.div_euclid(DAY_MINUTES) as u32) ^ (1 << 31)
}

fn key(day: u32, metric: u32, id: SeriesId, group: u32) -> Vec<u8> {
    let mut key = vec![PREFIX];
    for part in [day, metric, id, group] {
        key.extend_from_slice(&part.to_be_bytes());
    }
    key
}

/// Writes a series to the days from its first minute to `end`. One whose metric has no number has nothing in blocks.
pub fn put(dead: &Dead, metric: Option<u32>, first_minute: i32, end: i64, ops: &mut Vec<Op>) {
    let Some(metric) = metric.filter(|_| first_minute != i32::MAX) else { return };
    let mut table = TableWriter::default();
    table.add(dead.group, dead.id, first_minute, &dead.labels);
    let value = table.finish();
    for day in day(first_minute)..=day(minute(end)) {
        ops.push(Op::Put(Family::Postings, key(day, metric, dead.id, dead.group), value.clone()));
    }
}

/// Calls `each` with the dead series that lived on a day of `[mint, maxt]` and satisfy the matchers; one that lived on
/// several comes several times.
///
/// # Errors
/// When the disk cannot be read. Damaged entries are left out and counted in what is returned.
pub fn select(
    db: &Db,
    metric_of: impl Fn(&str) -> Option<u32>,
    matchers: &[Matcher],
    mint: i64,
    maxt: i64,
    mut each: impl FnMut(Dead),
) -> Result<u64, TsdbError> {
    let names = matchers
        .iter()
        .find(|m| &*m.name == narthex_model::METRIC_NAME && !m.matches_empty())
        .and_then(Matcher::set_matches);
    let metrics: Option<Vec<u32>> = names.map(|names| {
        let mut metrics: Vec<u32> = names.into_iter().filter_map(metric_of).collect();
        metrics.sort_unstable();
        metrics.dedup();
        metrics
    });
    let mut damaged = 0;
    let mut visit = |value: &[u8]| {
        let read = record::read_table(value, |entry| {
            if Matcher::all_match(matchers, &entry.labels) {
                each(Dead { id: entry.id, group: entry.column, labels: entry.labels });
            }
        });
        damaged += u64::from(read.is_none());
        true
    };
    let (first, last) = (day(minute(mint)), day(minute(maxt)));
    match metrics {
        None => {
            let end = last.checked_add(1).map_or(vec![PREFIX + 1], |d| key(d, 0, 0, 0));
            db.scan(Family::Postings, &key(first, 0, 0, 0), Some(&end), |_, value| visit(value))?;
        }
        // Days without dead are skipped: the next key tells which day to look at.
        Some(metrics) if !metrics.is_empty() => {
            let mut next = Some(first);
            while let Some(from) = next.filter(|d| *d <= last) {
                let mut found = None;
                db.scan(Family::Postings, &key(from, 0, 0, 0), Some(&[PREFIX + 1]), |key, _| {
                    found = key.get(1..5).and_then(|d| Some(u32::from_be_bytes(d.try_into().ok()?)));
                    false
                })?;
                let Some(day) = found.filter(|d| *d <= last) else { break };
                for metric in &metrics {
                    let end = key(day, metric.saturating_add(1), 0, 0);
                    db.scan(Family::Postings, &key(day, *metric, 0, 0), Some(&end), |_, value| visit(value))?;
                }
                next = day.checked_add(1);
            }
        }
        Some(_) => {}
    }
    Ok(damaged)
}

/// Deletes the entries of the days before that of `t`.
pub fn forget_before(t: i64) -> Op {
    Op::DeleteRange(Family::Postings, key(0, 0, 0, 0), key(day(minute(t)), 0, 0, 0))
}
