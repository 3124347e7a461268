//! Reading back what was written before the process ended, however it ended.
//!
//! First the groups' tables, then the log from its first record. A row that does not fit the rows before it in its
//! window tells of a missing or damaged record: that group's rows are left out up to its next key row, counted, and
//! the log says so.
//!
//! This is what a restart waits for, so it uses all cores: one thread fills the index with the series of tables that
//! another reads, and rows are replayed by several, each with groups of its own. Neither waits for the other: rows only
//! need to know how many columns their group has.

use std::sync::atomic::Ordering;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use narthex_model::Labels;

use crate::TsdbError;
use crate::db::Family;
use crate::group::Group;
use crate::index::{ActiveIndex, Added, Bulk};
use crate::record::{self, GroupPart, GroupStart, GroupTable, Record, SideSample, TableReader};
use crate::series::{Home, Registry, SeriesId, pack};
use crate::store::{Groups, Inner};

/// The id that the next new series gets, at least.
pub const NEXT_SERIES_KEY: &[u8] = b"next-series";

/// So many tables may wait to be put into the index, and so many batches of rows for each thread that replays.
const WAITING: usize = 16;
/// No group has as many columns; whatever says so is damaged, and must not make us ask for the memory.
const MOST_COLUMNS: u32 = 1 << 24;
/// Bytes of rows that go to a thread at once.
const BATCH: usize = 128 << 10;

pub(crate) fn recover(inner: &Inner) -> Result<(), TsdbError> {
    let started = Instant::now();
    let (last_group, newest) = inner.directory.load(&inner.db)?;
    inner.next_seq.fetch_max(newest + 1, Ordering::Relaxed);
    // What tails hold is longer than what is needed here.
    let (log_start, next) = inner.follow.load(&inner.db)?;
    inner.next_seq.fetch_max(next, Ordering::Relaxed);
    *inner.tombstones.write() = crate::delete::load(&inner.db)?;
    let index = std::mem::take(&mut inner.registry.write().index);
    let seed = index.seed();
    let (tables, waiting) = bounded(WAITING);
    let side = std::thread::scope(|scope| {
        let indexing = std::thread::Builder::new()
            .name("tsdb-index".into())
            .spawn_scoped(scope, || {
                let built = fill(Bulk::new(index), &waiting);
                (built, started.elapsed())
            })
            .map_err(TsdbError::Thread)?;
        let ends = load_groups(inner, seed, tables)?;
        let side = replay(inner, log_start)?;
        inner.figures.open_log_micros.store(started.elapsed().as_micros() as u64, Ordering::Relaxed);
        // A thread that panicked has said so; without its series there is nothing to go on with.
        let (built, took) = indexing.join().map_err(|_| TsdbError::Corrupt("filling the index failed".into()))?;
        inner.figures.open_index_micros.store(took.as_micros() as u64, Ordering::Relaxed);
        settle(inner, built);
        let groups = inner.groups.read();
        let series = |(group, column, end)| Some((groups.get(group)?.lock().series(column)?, end));
        let ends: Vec<(SeriesId, i32)> = ends.into_iter().filter_map(series).collect();
        inner.registry.write().note_ends(&ends, &[]);
        Ok::<_, TsdbError>(side)
    })?;
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
    replay_side(inner, &side);
    // What could not be read so far is not newer than what was.
    inner.damage(i64::MIN);
    inner.begin_following();
    for cell in inner.groups.read().list.iter().flatten() {
        let group = cell.lock();
        if !group.closing.is_empty() {
            inner.maintenance.request(group.id);
        }
    }
    Ok(())
}

/// The series of one table, as they go from the thread that reads to the one that fills the index.
struct Read {
    group: u32,
    /// The table's bytes: `pairs` point into them.
    bytes: Vec<u8>,
    /// Column, id, first minute, hash of the labels and how many there are of each series.
    series: Vec<(u32, SeriesId, i32, u128, u32)>,
    /// The labels of all of them, one after the other, as numbers of the table's pairs.
    lists: Vec<u32>,
}

/// What the thread that filled the index found.
struct Filled {
    index: ActiveIndex,
    /// Columns of series that have another column already, and the id that they have there.
    further: Vec<(Home, SeriesId)>,
    damaged: u64,
}

/// Puts the series of all tables that come into the index.
fn fill(mut bulk: Bulk, tables: &Receiver<Read>) -> Filled {
    let (mut further, mut damaged, mut numbers) = (Vec::new(), 0, Vec::new());
    for table in tables {
        bulk.reserve(table.series.len());
        let mut reader = TableReader::new(&table.bytes);
        // The pairs are complete once all entries were read; that they can be is known.
        while reader.advance() == Some(true) {}
        numbers.clear();
        numbers.extend(reader.pairs.iter().map(|(name, value)| bulk.intern(name, value)));
        let mut lists = &table.lists[..];
        for (column, id, first_minute, hash, count) in table.series {
            let (list, rest) = lists.split_at(count as usize);
            lists = rest;
            let home = Home { group: table.group, column };
            let pairs = list.iter().filter_map(|pair| numbers.get(*pair as usize).copied());
            match bulk.add(id, hash, pairs, pack(first_minute, home)) {
                Added::New => {}
                Added::Known(id) => further.push((home, id)),
                Added::Conflict => damaged += 1,
            }
        }
    }
    Filled { index: bulk.finish(), further, damaged }
}

/// Puts the filled index in its place.
fn settle(inner: &Inner, filled: Filled) {
    let mut registry = Registry::of(filled.index);
    let groups = inner.groups.read();
    for (home, id) in filled.further {
        registry.add_home(id, home);
        inner.doubles.add(id);
        if let Some(group) = groups.get(home.group) {
            group.lock().set_column(home.column, id);
        }
    }
    *inner.registry.write() = registry;
    complain(inner, filled.damaged);
}

fn complain(inner: &Inner, damaged: u64) {
    if damaged > 0 {
        inner.figures.corruptions.fetch_add(damaged, Ordering::Relaxed);
        tracing::error!(
            records = damaged,
            "damaged group tables: their series are missing until they are scraped again"
        );
    }
}

/// Which series had ended in the rows that are in blocks, by group and column, with the minute.
fn load_groups(inner: &Inner, seed: u64, tables: Sender<Read>) -> Result<Vec<(u32, u32, i32)>, TsdbError> {
    let mut groups = inner.groups.write();
    let mut current: Option<Group> = None;
    let (mut damaged, mut ends) = (0u64, Vec::new());
    let (mut next_series, mut next_seq) = (1, 1);
    // The texts of a table's pairs as they are hashed, and where each ends.
    let (mut texts, mut text_ends, mut text) = (String::new(), Vec::new(), String::new());
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
                match (GroupStart::decode(value), current.as_mut().filter(|g| g.id == id)) {
                    (Some(start), Some(group)) => {
                        group.window.start_seq = start.seq;
                        (group.last_time, group.floor) = (start.last_time, start.last_time);
                        next_seq = next_seq.max(start.seq);
                        ends.extend(start.ends.iter().map(|(column, end)| (id, *column, *end)));
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
        if table.is_empty() {
            return true;
        }
        texts.clear();
        text_ends.clear();
        let (mut series, mut lists) = (Vec::new(), Vec::new());
        let mut reader = TableReader::new(table);
        let whole = loop {
            match reader.advance() {
                Some(true) if reader.column < MOST_COLUMNS => {}
                Some(false) => break true,
                _ => break false,
            }
            for (name, value) in &reader.pairs[text_ends.len()..] {
                Labels::push_text(&mut texts, name, value);
                text_ends.push(texts.len());
            }
            text.clear();
            for pair in &reader.list {
                let pair = *pair as usize;
                let from = pair.checked_sub(1).map_or(0, |before| text_ends[before]);
                text.push_str(&texts[from..text_ends[pair]]);
            }
            let hash = Labels::hash_of_text(&text, seed);
            next_series = next_series.max(reader.id.saturating_add(1));
            group.set_column(reader.column, reader.id);
            if part == GroupPart::Added {
                group.fresh.insert(reader.column);
            }
            series.push((reader.column, reader.id, reader.first_minute, hash, reader.list.len() as u32));
            lists.extend_from_slice(&reader.list);
        };
        damaged += u64::from(!whole);
        // The other end only goes away with a panic, which its join reports.
        let _ = tables.send(Read { group: id, bytes: table.to_vec(), series, lists });
        true
    })?;
    drop(tables);
    if let Some(done) = current {
        groups.insert(done);
    }
    for group in groups.list.iter().flatten() {
        let mut group = group.lock();
        group.free = (0..group.columns.len() as u32).filter(|c| group.series(*c).is_none()).collect();
    }
    inner.next_series.fetch_max(next_series, Ordering::Relaxed);
    if let Some(value) = inner.db.get(Family::Meta, NEXT_SERIES_KEY)? {
        let next = crate::wire::Reader::new(&value).u32().unwrap_or_default();
        inner.next_series.fetch_max(next, Ordering::Relaxed);
    }
    inner.next_seq.fetch_max(next_seq, Ordering::Relaxed);
    complain(inner, damaged);
    Ok(ends)
}

/// Rows of the log on their way to the thread that replays them.
#[derive(Default)]
struct Rows {
    bytes: Vec<u8>,
    /// Sequence number, group, and where the record ends in `bytes`.
    records: Vec<(u64, u32, usize)>,
}

/// What was replayed.
struct Replayed {
    rows: u64,
    skipped: u64,
    newest: i64,
}

/// Replays what comes in `batches`, rows of each `share`th group from the `first` on.
fn replay_rows(groups: &Groups, batches: &Receiver<Rows>, (first, share): (usize, usize)) -> Replayed {
    let mut done = Replayed { rows: 0, skipped: 0, newest: i64::MIN };
    for batch in batches {
        let mut from = 0;
        for (seq, id, end) in batch.records {
            let bytes = &batch.bytes[from..end];
            from = end;
            // One that is not there has gone: the log is longer than its life. Damaged tables were complained of.
            let Some(group) = groups.get(id) else { continue };
            let Some(Record::Row(row)) = record::decode(bytes) else {
                done.skipped += 1;
                continue;
            };
            let mut group = group.lock();
            if seq < group.window.start_seq {
                continue;
            }
            let (number, timestamp, continues) = (row.number, row.timestamp, row.continues());
            let restored = row.parts(group.columns.len()).and_then(|(layout, stale, code)| match continues {
                true => group.restore_more(number, timestamp, layout?, stale, code).map(|()| 0),
                false => group.restore(seq, number, timestamp, layout, stale, code),
            });
            match restored {
                Some(left_out) => {
                    done.rows += 1;
                    done.skipped += left_out as u64;
                    done.newest = done.newest.max(timestamp);
                }
                None => done.skipped += 1,
            }
        }
    }
    for group in groups.list.iter().skip(first).step_by(share).flatten() {
        done.skipped += group.lock().restored() as u64;
    }
    done
}

/// Replays the rows of the log from the record `start` on; returns its other records, with their sequence numbers.
fn replay(inner: &Inner, start: u64) -> Result<Vec<(u64, Vec<u8>)>, TsdbError> {
    let groups = &*inner.groups.read();
    let cores = std::thread::available_parallelism().map_or(2, |n| n.get()).clamp(1, 16);
    let (mut side, mut skipped, mut next_seq) = (Vec::new(), 0u64, 1);
    let replayed = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for i in 0..cores {
            let (sender, batches) = bounded::<Rows>(WAITING);
            let thread = std::thread::Builder::new()
                .name(format!("tsdb-replay-{i}"))
                .spawn_scoped(scope, move || replay_rows(groups, &batches, (i, cores)))
                .map_err(TsdbError::Thread)?;
            threads.push((sender, Rows::default(), thread));
        }
        inner.db.scan(Family::Head, &record::head_key(start), None, |key, value| {
            let Some(seq) = record::head_seq(key) else {
                skipped += 1;
                return true;
            };
            next_seq = seq + 1;
            match record::group_of(value) {
                Some(group) => {
                    let (sender, batch, _) = &mut threads[group as usize % cores];
                    batch.bytes.extend_from_slice(value);
                    batch.records.push((seq, group, batch.bytes.len()));
                    if batch.bytes.len() >= BATCH {
                        let _ = sender.send(std::mem::take(batch));
                    }
                }
                None => side.push((seq, value.to_vec())),
            }
            true
        })?;
        let mut all = Replayed { rows: 0, skipped, newest: i64::MIN };
        let finish = |(sender, batch, thread): (Sender<Rows>, Rows, _)| {
            let _ = sender.send(batch);
            thread
        };
        let threads: Vec<std::thread::ScopedJoinHandle<'_, Replayed>> = threads.into_iter().map(finish).collect();
        for thread in threads {
            let done = thread.join().map_err(|_| TsdbError::Corrupt("replaying the log failed".into()))?;
            all.rows += done.rows;
            all.skipped += done.skipped;
            all.newest = all.newest.max(done.newest);
        }
        Ok::<_, TsdbError>(all)
    })?;
    inner.next_seq.fetch_max(next_seq, Ordering::Relaxed);
    inner.max_time.fetch_max(replayed.newest, Ordering::Relaxed);
    let damage = inner.db.recovery.corruptions.load(Ordering::Relaxed);
    inner.figures.corruptions.fetch_add(replayed.skipped + damage, Ordering::Relaxed);
    if replayed.skipped > 0 {
        tracing::error!(records = replayed.skipped, "log records do not fit what came before them and were left out");
    }
    tracing::info!(rows = replayed.rows, groups = groups.by_key.len(), "read the log");
    Ok(side)
}

/// Brings back the samples beside the rows, once all rows are there.
fn replay_side(inner: &Inner, records: &[(u64, Vec<u8>)]) {
    let start = inner.db.get(Family::Meta, crate::close::SIDE_START_KEY).ok().flatten();
    let start = start.and_then(|v| crate::wire::Reader::new(&v).u64()).unwrap_or_default();
    inner.next_seq.fetch_max(start, Ordering::Relaxed);
    let groups = inner.groups.read();
    let mut side = inner.side.lock();
    let mut registry = inner.registry.write();
    let (mut newest, mut skipped) = (i64::MIN, 0);
    for (seq, bytes) in records.iter().filter(|r| r.0 >= start) {
        match record::decode(bytes) {
            Some(Record::Side(samples)) => {
                side.start_seq.get_or_insert(*seq);
                for sample in &samples {
                    newest = newest.max(sample.timestamp);
                    restore_side(&groups, &mut side, &mut registry, sample);
                }
            }
            Some(Record::Exemplars(_)) => {}
            _ => skipped += 1,
        }
    }
    inner.max_time.fetch_max(newest, Ordering::Relaxed);
    if skipped > 0 {
        inner.figures.corruptions.fetch_add(skipped, Ordering::Relaxed);
        tracing::error!(records = skipped, "damaged log records were left out");
    }
}

fn restore_side(groups: &Groups, side: &mut crate::side::Side, registry: &mut Registry, sample: &SideSample) {
    let Some(group) = groups.get(sample.group) else { return };
    let mut group = group.lock();
    let Some(id) = group.series(sample.column) else { return };
    // A start timestamp from before the series' first sample is that of a series that had the column before.
    let earlier = crate::series::minute(sample.timestamp) < registry.first_minute(id);
    if earlier && matches!(sample.value, record::SideValue::Start(_)) {
        return;
    }
    if earlier {
        registry.note_time(id, sample.timestamp);
        group.note_begins();
    }
    crate::append::take_side(&mut group, side, id, sample);
}
