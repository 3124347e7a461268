//! Samples of any age, straight to blocks: history that comes from another store.
//!
//! What comes this way does not pass the log and the head: a batch becomes final blocks in one write, which is all or
//! nothing. Its series are noted as those are that have left memory ([`crate::dead`]), so that any number of them costs
//! disk only; a series that is in memory at the same time is joined with them by whoever reads.
//!
//! The series of a target (of the same `job` and `instance`) form a group, and those that share timestamps lie as rows,
//! as they would had they been scraped. What the store has already is looked for first and left out, so that a batch may
//! be sent again. Batches are taken one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hashbrown::HashMap;
use narthex_model::{Histogram, Labels, METRIC_NAME, MatchType, Matcher};
use narthex_storage::{Backfilled, SelectRequest, StorageAdmin, StorageError, WriteBatch};

use crate::Store;
use crate::blocks::{BesideBuilder, ColumnData, Stretch, StretchKind, Whole, block_key, encode_rows};
use crate::codec::{Effort, MAX_COLUMN};
use crate::db::{Family, Op};
use crate::dead;
use crate::row::{ABSENT_BITS, absent};
use crate::series::{SeriesId, minute};
use crate::store::Inner;
use crate::window::Cells;

/// What a window spans at most, in ms.
const MAX_SPAN: i64 = 24 * 3600 * 1000;
/// Series that share timestamps lie as rows if there are so many of them.
const SMALL: usize = 4;
/// So many different lists of timestamps are looked for in a target.
const LAYOUTS: usize = 64;
/// So many series and targets are remembered from batch to batch; then all are forgotten. 32 bytes each.
const REMEMBERED: usize = 1 << 20;
/// So many metrics are looked for by their names.
const NAMED: usize = 200;

/// Which numbers were given to targets and series, by hashes of 128 bits. Forgetting them does no harm: then the same
/// labels have several numbers, and readers join them.
#[derive(Default)]
pub(crate) struct Numbers {
    targets: HashMap<u128, u32, foldhash::fast::FixedState>,
    series: HashMap<u128, SeriesId, foldhash::fast::FixedState>,
}

/// A value with its timestamp and its start timestamp, 0 where that is not known.
type Sample<T> = (i64, T, i64);

/// What a batch brings of a series.
#[derive(Default)]
struct Column {
    floats: Vec<Sample<f64>>,
    histograms: Vec<Sample<Arc<Histogram>>>,
}

type Columns = BTreeMap<Labels, Column>;

/// Rows of the same timestamps, and the columns that have nothing but those, by index.
struct Rows {
    times: Vec<i64>,
    columns: Vec<usize>,
}

/// What is to be written of a target.
struct Writing {
    group: u32,
    ops: Vec<Op>,
    stretches: Vec<Stretch>,
    dead: dead::Batch,
}

pub(crate) fn backfill(store: &Store, batch: WriteBatch, latest: i64) -> Result<Backfilled, StorageError> {
    let inner = &store.inner;
    inner.check_open()?;
    let mut numbers = inner.backfill.lock();
    if !inner.tombstones.read().is_empty() {
        // They are about what was there when they were made, and would hide what comes now.
        store.clean_tombstones()?;
    }
    let mut done = Backfilled::default();
    let oldest = inner.oldest_kept(latest);
    let mut targets: BTreeMap<(String, String), Columns> = BTreeMap::new();
    for series in batch.series {
        let target = (series.labels.value("job").to_owned(), series.labels.value("instance").to_owned());
        let mut fits = |t: i64| {
            done.too_new += u64::from(t > latest);
            done.too_old += u64::from(t < oldest);
            t <= latest && t >= oldest
        };
        let start = |starts: &[i64], i: usize| starts.get(i).copied().unwrap_or(0);
        let (floats, histograms) = (series.samples.into_iter().enumerate(), series.histograms.into_iter().enumerate());
        let floats = floats.filter(|s| fits(s.1.0)).map(|(i, (t, v))| (t, v, start(&series.start_timestamps, i)));
        let floats: Vec<_> = floats.collect();
        let histograms =
            histograms.filter(|s| fits(s.1.0)).map(|(i, (t, h))| (t, h, start(&series.histogram_starts, i)));
        let histograms: Vec<_> = histograms.collect();
        if floats.is_empty() && histograms.is_empty() {
            continue;
        }
        let column = targets.entry(target).or_default().entry(series.labels).or_default();
        column.floats.extend(floats);
        column.histograms.extend(histograms);
    }
    for (target, mut columns) in targets {
        columns.values_mut().for_each(|column| column.settle(&mut done));
        without_known(store, &target, &mut columns, &mut done)?;
        columns.retain(|_, c| !c.floats.is_empty() || !c.histograms.is_empty());
        if !columns.is_empty() {
            inner.write_target(&target, columns, &mut numbers, &mut done)?;
        }
    }
    if done.taken > 0 {
        inner.db.sync()?;
    }
    Ok(done)
}

impl Column {
    /// Brings the samples in order; of the same time the first stays.
    fn settle(&mut self, done: &mut Backfilled) {
        let mut count = |same: bool| if same { done.known += 1 } else { done.duplicate += 1 };
        self.floats.sort_by_key(|s| s.0);
        self.floats.dedup_by(|next, first| {
            let twice = next.0 == first.0;
            if twice {
                count(next.1.to_bits() == first.1.to_bits());
            }
            twice
        });
        self.histograms.sort_by_key(|s| s.0);
        let floats = &self.floats;
        self.histograms.dedup_by(|next, first| {
            let twice = next.0 == first.0;
            if twice {
                count(next.1.same_data(&first.1));
            }
            twice
        });
        self.histograms.retain(|h| {
            let other = floats.binary_search_by_key(&h.0, |s| s.0).is_ok();
            if other {
                count(false);
            }
            !other
        });
    }

    fn times(&self) -> impl Iterator<Item = i64> {
        self.floats.iter().map(|s| s.0).chain(self.histograms.iter().map(|s| s.0))
    }
}

/// Takes out the samples that the store has.
fn without_known(
    store: &Store,
    (job, instance): &(String, String),
    columns: &mut Columns,
    done: &mut Backfilled,
) -> Result<(), StorageError> {
    let (mut mint, mut maxt) = (i64::MAX, i64::MIN);
    for t in columns.values().flat_map(Column::times) {
        (mint, maxt) = (mint.min(t), maxt.max(t));
    }
    if mint > maxt {
        return Ok(());
    }
    let mut matchers = vec![Matcher::equal("job", job.as_str()), Matcher::equal("instance", instance.as_str())];
    let names: BTreeSet<&str> = columns.keys().map(Labels::metric_name).collect();
    let plain = |name: &&str| name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b':');
    if names.len() <= NAMED && names.iter().all(plain) {
        let names: Vec<&str> = names.into_iter().collect();
        // Of nothing but letters and digits: it compiles.
        matchers.extend(Matcher::new(MatchType::Regexp, METRIC_NAME, names.join("|")));
    }
    for batch in store.selected(SelectRequest::new(matchers, mint, maxt))?.batches {
        for there in batch?.series {
            let Some(column) = columns.get_mut(&there.labels) else { continue };
            let float = |t: i64| there.floats.timestamps.binary_search(&t).ok().map(|i| there.floats.values.at(i));
            let histogram = |t: i64| {
                let i = there.histograms.timestamps.binary_search(&t).ok()?;
                there.histograms.values.get(i)
            };
            let mut count = |known: bool| if known { done.known += 1 } else { done.duplicate += 1 };
            column.floats.retain(|(t, v, _)| {
                let found = float(*t).map(|there| there.to_bits() == v.to_bits());
                let found = found.or_else(|| histogram(*t).map(|_| false));
                found.map(&mut count).is_none()
            });
            column.histograms.retain(|(t, h, _)| {
                let found = histogram(*t).map(|there| there.same_data(h));
                let found = found.or_else(|| float(*t).map(|_| false));
                found.map(&mut count).is_none()
            });
        }
    }
    Ok(())
}

/// Puts columns together that share timestamps; those that share none with enough others are left over.
fn share(columns: &[(Labels, Column)]) -> (Vec<Rows>, Vec<usize>) {
    let mut order: Vec<usize> = (0..columns.len()).filter(|i| !columns[*i].1.floats.is_empty()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(columns[*i].1.floats.len()));
    let (mut all, mut alone): (Vec<Rows>, Vec<usize>) = (Vec::new(), Vec::new());
    for i in order {
        let floats = &columns[i].1.floats;
        if floats.iter().any(|s| s.1.to_bits() == ABSENT_BITS) {
            alone.push(i);
            continue;
        }
        match all.iter().position(|rows| is_part(floats, &rows.times)) {
            Some(at) => all[at].columns.push(i),
            None if all.len() < LAYOUTS => {
                all.push(Rows { times: floats.iter().map(|s| s.0).collect(), columns: vec![i] });
            }
            None => alone.push(i),
        }
    }
    all.retain_mut(|rows| {
        let many = rows.columns.len() >= SMALL;
        if !many {
            alone.append(&mut rows.columns);
        }
        rows.columns.sort_unstable();
        many
    });
    alone.sort_unstable();
    (all, alone)
}

/// Whether all samples are at some of the times; both in order.
fn is_part(samples: &[Sample<f64>], times: &[i64]) -> bool {
    if samples.len() == times.len() {
        return samples.iter().zip(times).all(|(s, t)| s.0 == *t);
    }
    let mut rest = times.iter();
    samples.iter().all(|s| rest.by_ref().find(|t| **t >= s.0) == Some(&s.0))
}

/// Times in parts of about equal length, of so many at most and no longer than a window may be.
fn parts(times: &[i64], most: usize) -> Vec<std::ops::Range<usize>> {
    let size = times.len().div_ceil(times.len().div_ceil(most.max(1)).max(1));
    let mut parts = Vec::new();
    let mut from = 0;
    for i in 1..=times.len() {
        if i == times.len() || i - from >= size || times[i].saturating_sub(times[from]) > MAX_SPAN {
            parts.push(from..i);
            from = i;
        }
    }
    parts
}

/// From which timestamp on which start timestamp holds.
fn starts_of<T>(samples: &[Sample<T>]) -> Vec<(i64, i64)> {
    if samples.iter().all(|s| s.2 == 0) {
        return Vec::new();
    }
    let mut starts: Vec<(i64, i64)> = samples.iter().map(|s| (s.0, s.2)).collect();
    starts.dedup_by_key(|s| s.1);
    starts
}

impl Inner {
    /// What is older than this is not kept. `latest` stands for the newest sample where there is none.
    fn oldest_kept(&self, latest: i64) -> i64 {
        let retention = self.options.read().retention.as_millis() as i64;
        let newest = Some(self.max_time.load(Ordering::Relaxed)).filter(|t| *t != i64::MIN).unwrap_or(latest);
        if retention > 0 { newest.saturating_sub(retention) } else { i64::MIN }
    }

    fn number_of_target(&self, (job, instance): &(String, String), numbers: &mut Numbers) -> u32 {
        let labels = Labels::from_pairs([("job", job.as_str()), ("instance", instance.as_str())]);
        if numbers.targets.len() >= REMEMBERED {
            numbers.targets.clear();
        }
        *numbers.targets.entry(labels.long_hash(0)).or_insert_with(|| {
            // Nothing of the group is in memory: only its number is taken. One without blocks is given out again after a
            // restart.
            let mut groups = self.groups.write();
            groups.list.push(None);
            groups.list.len() as u32 - 1
        })
    }

    fn number_of_series(&self, labels: &Labels, numbers: &mut Numbers) -> SeriesId {
        let hash = labels.long_hash(0);
        let known = numbers.series.get(&hash).copied().or_else(|| self.registry.read().find(labels));
        let id = known.unwrap_or_else(|| self.next_series.fetch_add(1, Ordering::Relaxed));
        if numbers.series.len() >= REMEMBERED {
            numbers.series.clear();
        }
        numbers.series.insert(hash, id);
        id
    }

    fn write_target(
        &self,
        target: &(String, String),
        columns: Columns,
        numbers: &mut Numbers,
        done: &mut Backfilled,
    ) -> Result<(), StorageError> {
        let columns: Vec<(Labels, Column)> = columns.into_iter().collect();
        let ids: Vec<SeriesId> = columns.iter().map(|c| self.number_of_series(&c.0, numbers)).collect();
        let group = self.number_of_target(target, numbers);
        let mut writing = Writing { group, ops: Vec::new(), stretches: Vec::new(), dead: dead::Batch::new(group) };
        let mut next = Vec::new();
        crate::wire::put_u64(&mut next, u64::from(self.next_series.load(Ordering::Relaxed)));
        writing.ops.push(Op::Put(Family::Meta, crate::recover::NEXT_SERIES_KEY.into(), next));
        let (rows, alone) = share(&columns);
        for rows in &rows {
            self.encode_shared(rows, &columns, &ids, &mut writing);
        }
        self.encode_alone(&alone, &columns, &ids, &mut writing);
        let (mut taken, mut newest) = (0, i64::MIN);
        for ((labels, column), id) in columns.iter().zip(&ids) {
            let (mut first, mut last) = (i64::MAX, i64::MIN);
            for t in column.times() {
                (first, last) = (first.min(t), last.max(t));
                taken += 1;
            }
            newest = newest.max(last);
            let metric = self.directory.metric(labels.metric_name());
            writing.dead.add(*id, metric, minute(first), minute(last), labels.iter());
        }
        let Writing { mut ops, stretches, dead, .. } = writing;
        {
            // Nobody drops old windows between the write and their being listed.
            let _turn = self.maintenance.turn();
            self.dead_days.note(&dead);
            ops.extend(dead.finish(self.seq()));
            self.db.write(&ops)?;
            self.directory.confirm(&ops);
            self.directory.stretches.write().entry(group).or_default().extend(stretches);
        }
        self.max_time.fetch_max(newest, Ordering::Relaxed);
        self.figures.backfilled.fetch_add(taken, Ordering::Relaxed);
        done.taken += taken;
        Ok(())
    }

    /// Adds the blocks of one stretch, by metric.
    fn put_blocks(
        &self,
        mut stretch: Stretch,
        times: &[i64],
        whole: Vec<SeriesId>,
        blocks: Vec<(&str, Vec<u8>)>,
        writing: &mut Writing,
    ) {
        let mut metrics = Vec::new();
        stretch.number = self.seq();
        for (name, block) in blocks {
            let metric = self.directory.metric_or_new(name, &mut writing.ops);
            let key = block_key(stretch.partition(), metric, writing.group, stretch.number);
            self.figures.block_bytes_written.fetch_add((key.len() + block.len()) as u64, Ordering::Relaxed);
            writing.ops.push(Op::Put(Family::Blocks, key, block));
            metrics.push(metric);
        }
        self.figures.blocks_written.fetch_add(metrics.len() as u64, Ordering::Relaxed);
        if !metrics.is_empty() {
            metrics.sort_unstable();
            writing.ops.push(stretch.put(writing.group, times, &metrics, &Whole::new(whole)));
            writing.stretches.push(stretch);
        }
    }

    fn encode_shared(&self, rows: &Rows, columns: &[(Labels, Column)], ids: &[SeriesId], writing: &mut Writing) {
        let most = self.options.read().merged_rows.clamp(2, MAX_COLUMN);
        for part in parts(&rows.times, most) {
            let times = &rows.times[part];
            let (Some(start), Some(end)) = (times.first().copied(), times.last().copied()) else { continue };
            let mut by_metric: BTreeMap<&str, Vec<ColumnData>> = BTreeMap::new();
            for i in &rows.columns {
                let (labels, column) = &columns[*i];
                let from = column.floats.partition_point(|s| s.0 < start);
                let to = column.floats.partition_point(|s| s.0 <= end);
                let Some(floats) = column.floats.get(from..to).filter(|f| !f.is_empty()) else { continue };
                let mut cells = vec![absent(); times.len()];
                let mut row = 0;
                for (t, v, _) in floats {
                    while times.get(row).is_some_and(|time| time < t) {
                        row += 1;
                    }
                    if let Some(cell) = cells.get_mut(row) {
                        *cell = *v;
                    }
                }
                let data = ColumnData { id: ids[*i], cells: Cells::Dense(cells), starts: starts_of(floats) };
                by_metric.entry(labels.metric_name()).or_default().push(data);
            }
            let whole = by_metric.values().flatten().filter(|c| c.is_whole()).map(|c| c.id).collect();
            let blocks = by_metric
                .into_iter()
                .filter_map(|(name, mut columns)| {
                    columns.sort_by_key(|c| c.id);
                    Some((name, encode_rows(times, &columns, Effort::Best)?))
                })
                .collect();
            let rows = times.len() as u32;
            let stretch = Stretch { number: 0, kind: StretchKind::Rows, start, end, rows, is_final: true };
            self.put_blocks(stretch, times, whole, blocks, writing);
        }
    }

    /// Histograms, and what shares its timestamps with few others, by days.
    fn encode_alone(&self, alone: &[usize], columns: &[(Labels, Column)], ids: &[SeriesId], writing: &mut Writing) {
        type Part<'a> = (SeriesId, &'a [Sample<f64>], &'a [Sample<Arc<Histogram>>]);
        let mut days: BTreeMap<i64, BTreeMap<&str, Vec<Part<'_>>>> = BTreeMap::new();
        let day = |t: i64| t.div_euclid(MAX_SPAN);
        for (i, (labels, column)) in columns.iter().enumerate() {
            let name = labels.metric_name();
            if alone.binary_search(&i).is_ok() {
                for part in column.floats.chunk_by(|a, b| day(a.0) == day(b.0)) {
                    let metrics = days.entry(day(part[0].0)).or_default();
                    metrics.entry(name).or_default().push((ids[i], part, &[]));
                }
            }
            for part in column.histograms.chunk_by(|a, b| day(a.0) == day(b.0)) {
                let metrics = days.entry(day(part[0].0)).or_default();
                metrics.entry(name).or_default().push((ids[i], &[], part));
            }
        }
        for metrics in days.into_values() {
            let (mut start, mut end, mut blocks) = (i64::MAX, i64::MIN, Vec::new());
            for (name, mut parts) in metrics {
                parts.sort_by_key(|p| p.0);
                let mut block = BesideBuilder::new();
                for (id, floats, histograms) in parts {
                    for t in floats.iter().map(|s| s.0).chain(histograms.iter().map(|s| s.0)) {
                        (start, end) = (start.min(t), end.max(t));
                    }
                    let samples: Vec<(i64, f64)> = floats.iter().map(|s| (s.0, s.1)).collect();
                    block.floats(id, &samples, &starts_of(floats));
                    let samples: Vec<_> = histograms.iter().map(|s| (s.0, s.1.clone())).collect();
                    block.histograms(id, &samples, &starts_of(histograms));
                }
                blocks.extend(block.finish().map(|block| (name, block)));
            }
            let stretch = Stretch { number: 0, kind: StretchKind::Beside, start, end, rows: 0, is_final: false };
            self.put_blocks(stretch, &[], Vec::new(), blocks, writing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_cut_evenly() {
        for (len, step, most, expected) in [
            (0, 1, 10, &[][..]),
            (10, 1, 10, &[(0, 10)]),
            (11, 1, 10, &[(0, 6), (6, 11)]),
            (3, MAX_SPAN, 10, &[(0, 2), (2, 3)]),
            (3, MAX_SPAN + 1, 10, &[(0, 1), (1, 2), (2, 3)]),
        ] {
            let times: Vec<i64> = (0..len).map(|i| i * step).collect();
            let cut: Vec<(usize, usize)> = parts(&times, most).into_iter().map(|p| (p.start, p.end)).collect();
            assert_eq!(cut, expected, "{len} {step}");
        }
    }

    #[test]
    fn columns_share_what_they_can() {
        let column = |times: &[i64]| {
            let floats = times.iter().map(|t| (*t, 1.0, 0)).collect();
            (Labels::empty(), Column { floats, histograms: Vec::new() })
        };
        let scraped: Vec<&[i64]> =
            vec![&[1, 2, 3], &[1, 2, 3, 4], &[2], &[5], &[1, 2, 3, 4], &[1, 9], &[1, 2, 3, 4, 5, 6]];
        let columns: Vec<_> = scraped.into_iter().map(column).collect();
        let (rows, alone) = share(&columns);
        assert_eq!(
            rows.iter().map(|r| (r.times.len(), r.columns.clone())).collect::<Vec<_>>(),
            [(6, vec![0, 1, 2, 3, 4, 6])]
        );
        assert_eq!(alone, [5]);
    }
}
