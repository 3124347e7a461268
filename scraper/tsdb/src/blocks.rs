//! Blocks in RocksDB: their keys, the list of what each group has, writing windows as blocks and reading them back.
//!
//! A block's key is `(partition, metric, group, number)`: a partition is a fixed stretch of time, so that a query for
//! one metric over some time reads a few contiguous ranges, and retention drops whole ranges. The number is that of the
//! log record with which the window began, or with which samples beside the rows were flushed; it never comes again.
//! For each group and number there is one [`Stretch`], in memory and in the family `postings`, which says when its
//! samples are and holds the timestamps that its blocks share.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hashbrown::{HashMap, HashSet};
use parking_lot::RwLock;

use crate::TsdbError;
use crate::block::{Block, BlockBuilder, ColumnSpec, Need, Rows, Samples, decode_times, encode_times, times_hash};
use crate::codec::{Effort, MAX_COLUMN};
use crate::db::{Db, Family, Op};
use crate::row::{absent, is_absent};
use crate::series::SeriesId;
use crate::store::Inner;
use crate::window::Cells;
use crate::wire::{Reader, put_i64, put_u64};

/// How much time a partition spans.
pub const PARTITION_MS: i64 = 2 * 3600 * 1000;
pub const STRETCH_PREFIX: u8 = b'w';
const METRIC_PREFIX: &[u8] = b"metric/";
const METRIC_END: &[u8] = b"metric0";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StretchKind {
    /// A window's rows.
    Rows,
    /// Samples with timestamps of their own.
    Beside,
}

/// What a group has in blocks under one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    pub number: u64,
    pub kind: StretchKind,
    pub start: i64,
    pub end: i64,
    /// How many timestamps are shared.
    pub rows: u32,
    /// Encoded for good.
    pub is_final: bool,
}

impl Stretch {
    pub fn partition(&self) -> u32 {
        partition_of(self.start)
    }

    pub fn overlaps(&self, mint: i64, maxt: i64) -> bool {
        self.start <= maxt && self.end >= mint
    }

    /// The record of it; `times` are the shared timestamps, `metrics` the metrics that have a block, ascending, and
    /// `whole` the series that are known to be whole in it.
    pub fn put(&self, group: u32, times: &[i64], metrics: &[u32], whole: &Whole) -> Op {
        let kind = match self.kind {
            StretchKind::Rows => 0,
            StretchKind::Beside => 1,
        };
        let with_whole = if whole.runs.is_empty() { 0 } else { WITH_WHOLE };
        let mut value = vec![kind | u8::from(self.is_final) << 1 | with_whole];
        put_i64(&mut value, self.start);
        put_u64(&mut value, (self.end - self.start) as u64);
        put_u64(&mut value, u64::from(self.rows));
        put_u64(&mut value, metrics.len() as u64);
        let mut next = 0;
        for m in metrics {
            put_u64(&mut value, u64::from(m - next));
            next = m + 1;
        }
        if with_whole != 0 {
            whole.encode(&mut value);
        }
        if self.kind == StretchKind::Rows {
            value.extend_from_slice(&encode_times(times));
        }
        Op::Put(Family::Postings, stretch_key(group, self.number), value)
    }

    /// The stretch, its metrics, the series that are whole in it, and its encoded timestamps.
    fn parse(number: u64, value: &[u8]) -> Option<(Stretch, Vec<u32>, Whole, &[u8])> {
        let mut r = Reader::new(value);
        let flags = r.u8()?;
        if flags > 1 | 2 | WITH_WHOLE {
            return None;
        }
        let kind = if flags & 1 == 0 { StretchKind::Rows } else { StretchKind::Beside };
        let start = r.i64()?;
        let end = start.checked_add(i64::try_from(r.u64()?).ok()?)?;
        let stretch = Stretch { number, kind, start, end, rows: r.u32()?, is_final: flags & 2 != 0 };
        let (mut metrics, mut next) = (Vec::new(), 0u32);
        for _ in 0..r.count()? {
            let metric = next.checked_add(r.u32()?)?;
            metrics.push(metric);
            next = metric.checked_add(1)?;
        }
        let whole = if flags & WITH_WHOLE != 0 { Whole::parse(&mut r)? } else { Whole::default() };
        Some((stretch, metrics, whole, r.rest()))
    }
}

/// The flag of records that say which series are whole.
const WITH_WHOLE: u8 = 4;

/// Series that have a float in each row of a window, none of them a staleness marker: who asks for no more than that
/// need not read their blocks. What is not listed may be whole nevertheless.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whole {
    /// First and last, ascending, with gaps between them. Series of a target mostly come one after the other.
    runs: Vec<(SeriesId, SeriesId)>,
}

impl Whole {
    pub fn new(mut ids: Vec<SeriesId>) -> Whole {
        ids.sort_unstable();
        let mut runs: Vec<(SeriesId, SeriesId)> = Vec::new();
        for id in ids {
            match runs.last_mut() {
                Some((_, last)) if id - *last <= 1 => *last = id,
                _ => runs.push((id, id)),
            }
        }
        Whole { runs }
    }

    pub fn heap_bytes(&self) -> usize {
        self.runs.capacity() * size_of::<(SeriesId, SeriesId)>()
    }

    pub fn contains(&self, id: SeriesId) -> bool {
        let after = self.runs.partition_point(|run| run.0 <= id);
        after.checked_sub(1).is_some_and(|i| id <= self.runs[i].1)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.runs.len() as u64);
        let mut end = 0;
        for (first, last) in &self.runs {
            put_u64(out, u64::from(first - end));
            put_u64(out, u64::from(last - first));
            end = *last;
        }
    }

    fn parse(r: &mut Reader<'_>) -> Option<Whole> {
        let (mut runs, mut end) = (Vec::new(), 0u32);
        for _ in 0..r.count()? {
            let first = end.checked_add(r.u32()?)?;
            end = first.checked_add(r.u32()?)?;
            runs.push((first, end));
        }
        Some(Whole { runs })
    }
}

/// A stretch as it was read.
pub struct ReadStretch {
    /// The shared timestamps.
    pub times: Arc<[i64]>,
    /// The metrics that have a block in it, ascending.
    pub metrics: Vec<u32>,
    pub whole: Whole,
}

/// The partition that holds what begins at `t`.
pub fn partition_of(t: i64) -> u32 {
    let p = t.div_euclid(PARTITION_MS).clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32;
    // In the order of time as an unsigned key.
    (p as u32) ^ (1 << 31)
}

pub fn block_key(partition: u32, metric: u32, group: u32, number: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(20);
    key.extend_from_slice(&partition.to_be_bytes());
    key.extend_from_slice(&metric.to_be_bytes());
    key.extend_from_slice(&group.to_be_bytes());
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// Partition, metric, group and number of a block's key.
pub fn parse_block_key(key: &[u8]) -> Option<(u32, u32, u32, u64)> {
    let (partition, rest) = key.split_first_chunk::<4>()?;
    let (metric, rest) = rest.split_first_chunk::<4>()?;
    let (group, number) = rest.split_first_chunk::<4>()?;
    let be = |b: &[u8; 4]| u32::from_be_bytes(*b);
    Some((be(partition), be(metric), be(group), u64::from_be_bytes(number.try_into().ok()?)))
}

pub fn stretch_key(group: u32, number: u64) -> Vec<u8> {
    let mut key = vec![STRETCH_PREFIX];
    key.extend_from_slice(&group.to_be_bytes());
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// The stretches of all groups, and the numbers of metric names.
#[derive(Default)]
pub struct Directory {
    pub stretches: RwLock<HashMap<u32, Vec<Stretch>, foldhash::fast::FixedState>>,
    metrics: RwLock<Metrics>,
    /// Blocks that cannot be read, by key, and why.
    pub quarantine: RwLock<BTreeMap<Vec<u8>, String>>,
}

#[derive(Default)]
struct Metrics {
    numbers: HashMap<String, u32, foldhash::fast::FixedState>,
    next: u32,
    /// Whose records are not known to be written.
    unwritten: HashSet<String, foldhash::fast::FixedState>,
}

impl Directory {
    /// Reads the directory, and returns the largest group and record number in it.
    pub fn load(&self, db: &Db) -> Result<(Option<u32>, u64), TsdbError> {
        let (mut newest, mut last_group, mut damaged) = (0, None, 0u64);
        let mut stretches = self.stretches.write();
        db.scan(Family::Postings, &[STRETCH_PREFIX], Some(&[STRETCH_PREFIX + 1]), |key, value| {
            let number = key.get(5..).and_then(|n| Some(u64::from_be_bytes(n.try_into().ok()?)));
            let group = key.get(1..5).and_then(|g| Some(u32::from_be_bytes(g.try_into().ok()?)));
            match (group, number.and_then(|n| Stretch::parse(n, value))) {
                (Some(group), Some((stretch, ..))) => {
                    stretches.entry(group).or_default().push(stretch);
                    newest = newest.max(stretch.number);
                    last_group = Some(group);
                }
                _ => damaged += 1,
            }
            true
        })?;
        if damaged > 0 {
            tracing::error!(records = damaged, "damaged records of stored windows: their samples cannot be found");
        }
        let mut metrics = self.metrics.write();
        db.scan(Family::Meta, METRIC_PREFIX, Some(METRIC_END), |key, value| {
            if let (Ok(name), Some(number)) =
                (std::str::from_utf8(&key[METRIC_PREFIX.len()..]), Reader::new(value).u32())
            {
                metrics.numbers.insert(name.to_owned(), number);
                metrics.next = metrics.next.max(number + 1);
            }
            true
        })?;
        Ok((last_group, newest))
    }

    /// The number of a metric's name, if anything of it is in blocks.
    pub fn metric(&self, name: &str) -> Option<u32> {
        self.metrics.read().numbers.get(name).copied()
    }

    /// How many metrics have numbers: they only grow in number.
    pub fn metric_count(&self) -> usize {
        self.metrics.read().numbers.len()
    }

    /// As [`Directory::metric`], giving one out where there is none: `ops` then holds the record of it.
    pub fn metric_or_new(&self, name: &str, ops: &mut Vec<Op>) -> u32 {
        let known = {
            let metrics = self.metrics.read();
            metrics.numbers.get(name).copied().filter(|_| !metrics.unwritten.contains(name))
        };
        if let Some(number) = known {
            return number;
        }
        let mut metrics = self.metrics.write();
        let next = metrics.next;
        let number = *metrics.numbers.entry(name.to_owned()).or_insert(next);
        if number == next {
            metrics.next += 1;
            metrics.unwritten.insert(name.to_owned());
        }
        // With each block until it is known to be there: what it was written with may have failed.
        if metrics.unwritten.contains(name) {
            let mut value = Vec::new();
            put_u64(&mut value, u64::from(number));
            ops.push(Op::Put(Family::Meta, [METRIC_PREFIX, name.as_bytes()].concat(), value));
        }
        number
    }

    /// Notes that these have been written.
    pub fn confirm(&self, ops: &[Op]) {
        for op in ops {
            if let Op::Put(Family::Meta, key, _) = op
                && let Some(name) = key.strip_prefix(METRIC_PREFIX)
                && let Ok(name) = std::str::from_utf8(name)
            {
                self.metrics.write().unwritten.remove(name);
            }
        }
    }

    /// The windows of a group that have damaged blocks, by number.
    pub fn damaged_windows(&self, group: u32) -> Vec<u64> {
        let quarantine = self.quarantine.read();
        quarantine.keys().filter_map(|k| parse_block_key(k)).filter(|k| k.2 == group).map(|k| k.3).collect()
    }
}

/// A column to be written.
pub struct ColumnData {
    pub id: SeriesId,
    pub cells: Cells,
    /// From which timestamp on which start timestamp holds.
    pub starts: Vec<(i64, i64)>,
}

impl ColumnData {
    /// Whether the series has a float in each row, none of them a staleness marker, and nothing more is known of it.
    pub fn is_whole(&self) -> bool {
        let there = |v: f64| !is_absent(v) && !narthex_model::is_stale(v);
        self.starts.is_empty()
            && match &self.cells {
                Cells::Constant(v) => there(*v),
                Cells::Dense(cells) => cells.iter().all(|v| there(*v)),
            }
    }
}

/// Encodes one metric's columns over shared timestamps; `None` where none has a sample.
pub fn encode_rows(times: &[i64], columns: &[ColumnData], effort: Effort) -> Option<Vec<u8>> {
    let mut builder = BlockBuilder::new(times, effort);
    let (mut presence, mut values, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    for column in columns {
        values.clear();
        let rows = match &column.cells {
            Cells::Constant(v) if is_absent(*v) => continue,
            Cells::Constant(v) => {
                values.resize(times.len(), *v);
                Rows::All
            }
            Cells::Dense(cells) => {
                presence.clear();
                presence.extend(cells.iter().map(|v| !is_absent(*v)));
                values.extend(cells.iter().copied().filter(|v| !is_absent(*v)));
                match Rows::from_presence(&presence) {
                    Some(rows) => rows,
                    None => continue,
                }
            }
        };
        let mut spec = ColumnSpec::new(u64::from(column.id), rows.clone());
        if !column.starts.is_empty() {
            starts.clear();
            starts.extend(rows.runs(times.len()).flatten().map(|r| start_at(&column.starts, times[r])));
            if starts.iter().any(|s| *s != 0) {
                spec.start_timestamps = &starts;
            }
        }
        builder.push_floats(&spec, &values);
    }
    (builder.columns() > 0).then(|| builder.finish())
}

pub fn start_at(starts: &[(i64, i64)], t: i64) -> i64 {
    let i = starts.partition_point(|s| s.0 <= t);
    i.checked_sub(1).map_or(0, |i| starts[i].1)
}

/// Encodes samples with timestamps of their own.
pub struct BesideBuilder(BlockBuilder);

impl BesideBuilder {
    pub fn new() -> BesideBuilder {
        BesideBuilder(BlockBuilder::new(&[], Effort::Best))
    }

    pub fn floats(&mut self, id: SeriesId, samples: &[(i64, f64)], starts: &[(i64, i64)]) {
        for chunk in samples.chunks(MAX_COLUMN) {
            let times: Vec<i64> = chunk.iter().map(|s| s.0).collect();
            let values: Vec<f64> = chunk.iter().map(|s| s.1).collect();
            let starts = starts_of(starts, &times);
            self.0.push_floats(
                &ColumnSpec { start_timestamps: &starts, ..ColumnSpec::own(u64::from(id), &times) },
                &values,
            );
        }
    }

    pub fn histograms(
        &mut self,
        id: SeriesId,
        samples: &[(i64, Arc<narthex_model::Histogram>)],
        starts: &[(i64, i64)],
    ) {
        for chunk in samples.chunks(MAX_COLUMN) {
            let times: Vec<i64> = chunk.iter().map(|s| s.0).collect();
            let values: Vec<_> = chunk.iter().map(|s| s.1.clone()).collect();
            let starts = starts_of(starts, &times);
            self.0.push_histograms(
                &ColumnSpec { start_timestamps: &starts, ..ColumnSpec::own(u64::from(id), &times) },
                &values,
            );
        }
    }

    /// `None` where nothing was added.
    pub fn finish(self) -> Option<Vec<u8>> {
        (self.0.columns() > 0).then(|| self.0.finish())
    }
}

fn starts_of(starts: &[(i64, i64)], times: &[i64]) -> Vec<i64> {
    let all: Vec<i64> = times.iter().map(|t| start_at(starts, *t)).collect();
    if all.iter().any(|s| *s != 0) { all } else { Vec::new() }
}

/// A column as it was read: over the shared timestamps, or with its own.
pub enum Stored {
    Rows(SeriesId, Cells, Vec<(i64, i64)>),
    Floats(SeriesId, Vec<(i64, f64)>, Vec<(i64, i64)>),
    Histograms(SeriesId, Vec<(i64, Arc<narthex_model::Histogram>)>, Vec<(i64, i64)>),
}

impl Stored {
    pub fn id(&self) -> SeriesId {
        match self {
            Stored::Rows(id, ..) | Stored::Floats(id, ..) | Stored::Histograms(id, ..) => *id,
        }
    }
}

/// The shared timestamps of a block, with their hash.
pub struct SharedTimes<'a> {
    pub times: &'a [i64],
    pub hash: u16,
}

impl<'a> SharedTimes<'a> {
    pub fn new(times: &'a [i64]) -> SharedTimes<'a> {
        SharedTimes { times, hash: times_hash(times) }
    }
}

/// Decodes the wanted columns of a block, which is verified.
///
/// # Errors
/// What is wrong with the bytes, in words.
pub fn decode_block(
    bytes: &[u8],
    times: &[i64],
    wanted: impl FnMut(SeriesId) -> bool,
    each: impl FnMut(Stored),
) -> Result<(), String> {
    crate::block::verify(bytes).map_err(|e| e.to_string())?;
    decode_rows(bytes, &SharedTimes::new(times), 0..times.len(), Need::Values, 0, wanted, each)
}

/// The same of a block that was verified before, and only for some of the rows: cells are those of `rows`. Dense cells
/// come with room for `room` in all, where they are not fewer anyway.
///
/// # Errors
/// What is wrong with the bytes, in words.
pub fn decode_rows(
    bytes: &[u8],
    shared: &SharedTimes<'_>,
    wanted_rows: Range<usize>,
    need: Need,
    room: usize,
    mut wanted: impl FnMut(SeriesId) -> bool,
    mut each: impl FnMut(Stored),
) -> Result<(), String> {
    let times = shared.times;
    let block = Block::parse_verified(bytes).map_err(|e| e.to_string())?;
    if block.rows() > 0 {
        block.check_hash(times.len(), shared.hash).map_err(|e| e.to_string())?;
    }
    let id = |series: u64| SeriesId::try_from(series).unwrap_or(SeriesId::MAX);
    let within = wanted_rows.clone();
    let read = block.read_rows(
        wanted_rows,
        need,
        room,
        |series| wanted(id(series)),
        |column| {
            let id = id(column.series);
            let at: Vec<i64> = match column.rows {
                Some(_) if column.start_timestamps.is_empty() && !matches!(column.samples, Samples::Histograms(_)) => {
                    Vec::new()
                }
                Some(rows) => rows.runs(times.len()).flatten().map(|r| times[r]).collect(),
                None => column.own_timestamps,
            };
            let mut starts: Vec<(i64, i64)> = at.iter().copied().zip(column.start_timestamps).collect();
            starts.dedup_by_key(|s| s.1);
            each(match (column.rows, column.samples) {
                (Some(Rows::All), Samples::Constant(v)) => Stored::Rows(id, Cells::Constant(v), starts),
                (Some(Rows::All), Samples::Floats(v)) => Stored::Rows(id, Cells::Dense(v), starts),
                (Some(rows), samples @ (Samples::Constant(_) | Samples::Floats(_))) => {
                    let mut cells = vec![absent(); within.len()];
                    let inside = rows.runs(times.len()).flatten().filter(|row| within.contains(row));
                    for (i, row) in inside.enumerate() {
                        cells[row - within.start] = match &samples {
                            Samples::Constant(v) => *v,
                            Samples::Floats(v) => v[i],
                            Samples::Histograms(_) => absent(),
                        };
                    }
                    Stored::Rows(id, Cells::Dense(cells), starts)
                }
                (None, Samples::Constant(v)) => Stored::Floats(id, at.iter().map(|t| (*t, v)).collect(), starts),
                (None, Samples::Floats(v)) => Stored::Floats(id, at.into_iter().zip(v).collect(), starts),
                (_, Samples::Histograms(h)) => Stored::Histograms(id, at.into_iter().zip(h).collect(), starts),
            });
        },
    );
    read.map_err(|e| e.to_string())
}

impl Inner {
    /// What the record of a stretch says.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged; `Ok(None)` when the stretch is gone.
    pub fn read_stretch(&self, group: u32, number: u64) -> Result<Option<ReadStretch>, TsdbError> {
        let Some(value) = self.db.get(Family::Postings, &stretch_key(group, number))? else { return Ok(None) };
        let damaged = |e: String| TsdbError::Corrupt(format!("timestamps of group {group}, window {number}: {e}"));
        let (stretch, metrics, whole, times) = Stretch::parse(number, &value).ok_or_else(|| damaged("cut".into()))?;
        let times = match stretch.kind {
            StretchKind::Beside => Arc::from([]),
            StretchKind::Rows => decode_times(times).map_err(|e| damaged(e.to_string()))?.into(),
        };
        Ok(Some(ReadStretch { times, metrics, whole }))
    }

    /// Remembers that a block cannot be read: it is left alone from now on, and queries say so.
    pub fn quarantine(&self, key: &[u8], why: &str) {
        if self.directory.quarantine.write().insert(key.to_vec(), why.to_owned()).is_none() {
            self.figures.quarantined.fetch_add(1, Ordering::Relaxed);
            let (partition, metric, group, number) = parse_block_key(key).unwrap_or_default();
            tracing::error!(
                partition,
                metric,
                group,
                number,
                why,
                "a stored block is damaged and was put in quarantine"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_come_back() {
        let times: Vec<i64> = (0..20).map(|i| i * 15_000).collect();
        for (kind, is_final) in [(StretchKind::Rows, false), (StretchKind::Rows, true), (StretchKind::Beside, true)] {
            for ids in [vec![], vec![7], vec![3, 1, 2, 2, 9, 10, u32::MAX], (0..1000).collect()] {
                let stretch = Stretch { number: 5, kind, start: 0, end: 285_000, rows: 20, is_final };
                let whole = Whole::new(ids.clone());
                let Op::Put(_, _, value) = stretch.put(1, &times, &[1, 2, 900], &whole) else { panic!("a record") };
                let (found, metrics, found_whole, rest) = Stretch::parse(5, &value).expect("a stretch");
                assert_eq!((found, &metrics[..], &found_whole), (stretch, &[1, 2, 900][..], &whole));
                assert!(kind == StretchKind::Beside || decode_times(rest).is_ok_and(|found| found == times));
                for id in [0, 1, 2, 3, 4, 7, 8, 9, 10, 11, 999, 1000, u32::MAX - 1, u32::MAX] {
                    assert_eq!(whole.contains(id), ids.contains(&id), "{id} of {ids:?}");
                }
                let head = value.len() - rest.len();
                assert!((0..head).all(|cut| Stretch::parse(5, &value[..cut]).is_none()), "cut");
                let mut newer = value.clone();
                newer[0] |= 8;
                assert!(Stretch::parse(5, &newer).is_none(), "what is not known is refused");
            }
        }
    }

    /// As versions up to 0.1 wrote them.
    #[test]
    fn records_without_whole_series_are_read() {
        let times = [0, 15_000];
        let mut value = vec![2];
        put_i64(&mut value, 0);
        [15_000, 2, 1, 4].into_iter().for_each(|n| put_u64(&mut value, n));
        value.extend_from_slice(&encode_times(&times));
        let (stretch, metrics, whole, rest) = Stretch::parse(9, &value).expect("a stretch");
        assert!(stretch.is_final && stretch.end == 15_000 && metrics == [4] && whole == Whole::default());
        assert_eq!(decode_times(rest).expect("times"), times);
    }
}
