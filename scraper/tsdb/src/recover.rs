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

pub(crate) fn recover(inner: &Inner) -> Result<(), TsdbError> {
    load_groups(inner)?;
    replay(inner)
}

fn load_groups(inner: &Inner) -> Result<(), TsdbError> {
    let (mut groups, mut registry) = (inner.groups.write(), inner.registry.write());
    let mut current: Option<Group> = None;
    let mut damaged = 0u64;
    let mut next_series = 1;
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
                let mut group = Group::new(id, table.key.into());
                group.window.start_seq = table.start_seq;
                (group.last_time, group.floor) = (table.last_time, table.last_time);
                current = Some(group);
                table.series
            }
            GroupPart::Added => value,
        };
        let Some(group) = current.as_mut().filter(|g| g.id == id) else {
            damaged += 1;
            return true;
        };
        let read = record::read_table(table, |entry| {
            next_series = next_series.max(entry.id + 1);
            let home = Home { group: id, column: entry.column };
            let pos = match registry.find(&entry.labels) {
                Some(pos) => {
                    registry.add_home(pos, home);
                    pos
                }
                None => registry.insert(entry.labels, entry.id, home),
            };
            group.set_column(entry.column, pos);
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
    inner.next_seq.store(next_seq, Ordering::Relaxed);
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
    let Some(pos) = group.columns.get(sample.column as usize).copied().filter(|p| *p != crate::group::NO_SERIES) else {
        return;
    };
    crate::append::take_side(&mut group, side, pos, sample);
}
