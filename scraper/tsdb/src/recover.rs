//! Reading back what was written before the process ended, however it ended.
//!
//! First the groups' tables, then the log from its first record. A row that does not fit the rows before it in its
//! window tells of a missing or damaged record: that group's rows are left out up to its next key row, counted, and
//! the log says so.

use std::sync::atomic::Ordering;

use crate::TsdbError;
use crate::db::Family;
use crate::group::Group;
use crate::record::{self, GroupPart, GroupTable, Record, SideSample};
use crate::series::Home;
use crate::store::Inner;

/// The id that the next new series gets, at least.
pub const NEXT_SERIES_KEY: &[u8] = b"next-series";

pub(crate) fn recover(inner: &Inner) -> Result<(), TsdbError> {
    let (last_group, newest) = inner.directory.load(&inner.db)?;
    inner.next_seq.fetch_max(newest + 1, Ordering::Relaxed);
    *inner.tombstones.write() = crate::delete::load(&inner.db)?;
    load_groups(inner)?;
    {
        // Numbers of groups that have blocks are not given out again.
        let mut groups = inner.groups.write();
        let least = last_group.map_or(0, |g| g as usize + 1);
        if groups.list.len() < least {
            groups.list.resize(least, None);
        }
    }
    let ends = inner.directory.stretches.read().values().flatten().map(|s| s.end).max();
    inner.max_time.fetch_max(ends.unwrap_or(i64::MIN), Ordering::Relaxed);
    replay(inner)?;
    for cell in inner.groups.read().list.iter().flatten() {
        let group = cell.lock();
        if !group.closing.is_empty() {
            inner.maintenance.request(group.id);
        }
    }
    Ok(())
}

fn load_groups(inner: &Inner) -> Result<(), TsdbError> {
    let (mut groups, mut registry) = (inner.groups.write(), inner.registry.write());
    let mut current: Option<Group> = None;
    let mut damaged = 0u64;
    let (mut next_series, mut next_seq) = (1, 1);
    inner.db.scan(Family::Series, &[], None, |key, value| {
        let Some((id, part)) = record::parse_group_key(key) else {
            damaged += 1;
            return true;
        };
        let table = match part {
            GroupPart::Table => {
                let Some(table) = GroupTable::decode(value) else {
                    damaged += 1;
                    return true;
                };
                if let Some(done) = current.take() {
                    groups.insert(done);
                }
                current = Some(Group::new(id, table.key.into()));
                table.series
            }
            GroupPart::Added => value,
            GroupPart::Start => {
                match (record::decode_start(value), current.as_mut().filter(|g| g.id == id)) {
                    (Some((seq, end)), Some(group)) => {
                        group.window.start_seq = seq;
                        (group.last_time, group.floor) = (end, end);
                        next_seq = next_seq.max(seq);
                    }
                    _ => damaged += 1,
                }
                return true;
            }
        };
        let Some(group) = current.as_mut().filter(|g| g.id == id) else {
            damaged += 1;
            return true;
        };
        if part == GroupPart::Added {
            // The number of the record is the end of its key.
            let seq = key.last_chunk::<8>().map_or(0, |n| u64::from_be_bytes(*n));
            next_seq = next_seq.max(seq + 1);
        }
        let read = record::read_table(table, |entry| {
            next_series = next_series.max(entry.id + 1);
            let home = Home { group: id, column: entry.column };
            let id = match registry.find(&entry.labels) {
                Some(id) => {
                    registry.add_home(id, home);
                    id
                }
                None => {
                    registry.insert(&entry.labels, entry.id, home, entry.first_minute);
                    entry.id
                }
            };
            group.set_column(entry.column, id);
            if part == GroupPart::Added {
                group.fresh.insert(entry.column);
            }
        });
        damaged += u64::from(read.is_none());
        true
    })?;
    if let Some(done) = current {
        groups.insert(done);
    }
    for group in groups.list.iter().flatten() {
        let mut group = group.lock();
        group.free =
            (0..group.columns.len() as u32).filter(|c| group.columns[*c as usize] == crate::group::NO_SERIES).collect();
    }
    inner.next_series.fetch_max(next_series, Ordering::Relaxed);
    if let Some(value) = inner.db.get(Family::Meta, NEXT_SERIES_KEY)? {
        let next = crate::wire::Reader::new(&value).u32().unwrap_or_default();
        inner.next_series.fetch_max(next, Ordering::Relaxed);
    }
    inner.next_seq.fetch_max(next_seq, Ordering::Relaxed);
    if damaged > 0 {
        inner.figures.corruptions.fetch_add(damaged, Ordering::Relaxed);
        tracing::error!(
            records = damaged,
            "damaged group tables: their series are missing until they are scraped again"
        );
    }
    Ok(())
}

fn replay(inner: &Inner) -> Result<(), TsdbError> {
    let groups = inner.groups.read();
    let mut side = inner.side.lock();
    let (mut rows, mut skipped, mut newest) = (0u64, 0u64, i64::MIN);
    let mut next_seq = 1;
    let side_start = inner.db.get(Family::Meta, crate::close::SIDE_START_KEY)?;
    let side_start = side_start.and_then(|v| crate::wire::Reader::new(&v).u64()).unwrap_or_default();
    inner.db.scan(Family::Head, &[], None, |key, value| {
        let Some(seq) = record::head_seq(key) else {
            skipped += 1;
            return true;
        };
        next_seq = seq + 1;
        match record::decode(value) {
            Some(Record::Row(id, row)) => {
                let Some(group) = groups.get(id) else {
                    skipped += 1;
                    return true;
                };
                let mut group = group.lock();
                if seq < group.window.start_seq {
                    return true;
                }
                let (number, timestamp) = (row.number, row.timestamp);
                let restored = row
                    .parts(group.columns.len())
                    .and_then(|(layout, stale, code)| group.restore(seq, number, timestamp, layout, stale, code));
                match restored {
                    Some(()) => {
                        rows += 1;
                        newest = newest.max(timestamp);
                    }
                    None => skipped += 1,
                }
            }
            Some(Record::Side(_)) if seq < side_start => {}
            Some(Record::Side(samples)) => {
                side.start_seq.get_or_insert(seq);
                for sample in &samples {
                    newest = newest.max(sample.timestamp);
                    restore_side(&groups, &mut side, sample);
                }
            }
            None => skipped += 1,
        }
        true
    })?;
    inner.next_seq.fetch_max(next_seq.max(side_start), Ordering::Relaxed);
    inner.max_time.fetch_max(newest, Ordering::Relaxed);
    let damage = inner.db.recovery.corruptions.load(Ordering::Relaxed);
    inner.figures.corruptions.fetch_add(skipped + damage, Ordering::Relaxed);
    if skipped > 0 {
        tracing::error!(records = skipped, "log records do not fit what came before them and were left out");
    }
    tracing::info!(rows, groups = groups.by_key.len(), series = inner.registry.read().len(), "read the log");
    Ok(())
}

fn restore_side(groups: &crate::store::Groups, side: &mut crate::side::Side, sample: &SideSample) {
    let Some(group) = groups.get(sample.group) else { return };
    let mut group = group.lock();
    let Some(id) = group.columns.get(sample.column as usize).copied().filter(|p| *p != crate::group::NO_SERIES) else {
        return;
    };
    crate::append::take_side(&mut group, side, id, sample);
}
