//! Merging what a group has beside its rows: each flush makes blocks of its own, which are small.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use narthex_model::Histogram;

use super::Merged;
use crate::TsdbError;
use crate::blocks::{
    BesideBuilder, ReadStretch, Stored, Stretch, StretchKind, Whole, block_key, decode_block, partition_of, start_at,
    stretch_key,
};
use crate::db::{Family, Op};
use crate::series::SeriesId;
use crate::store::Inner;

/// So many flushes of one partition are merged at once.
const MANY: usize = 8;
/// Once its time is over, a partition's are merged when there are so many and none were merged before.
const SOME: usize = 2;

/// A sample with the start timestamp that holds for it, 0 where none is known.
type Started<T> = (i64, T, i64);

#[derive(Default)]
struct Column {
    floats: Vec<Started<f64>>,
    histograms: Vec<Started<Arc<Histogram>>>,
}

impl Inner {
    /// Merges what all groups have beside their rows, as far as it is worth it.
    ///
    /// # Errors
    /// When the disk fails; what was there stays.
    pub fn merge_beside(&self) -> Result<(), TsdbError> {
        let several = |all: &[Stretch]| all.iter().filter(|s| s.kind == StretchKind::Beside).count() >= SOME;
        let groups: Vec<u32> = self.directory.stretches.read().iter().filter(|g| several(g.1)).map(|g| *g.0).collect();
        groups.into_iter().try_for_each(|group| self.merge_group_beside(group, false))
    }

    /// The same of one group. With `all`, whatever can be merged.
    ///
    /// # Errors
    /// As [`Inner::merge_beside`].
    pub fn merge_group_beside(&self, group: u32, all: bool) -> Result<(), TsdbError> {
        let mut partitions: BTreeMap<u32, Vec<Stretch>> = BTreeMap::new();
        {
            let damaged = self.directory.damaged_windows(group);
            let directory = self.directory.stretches.read();
            let beside = directory.get(&group).into_iter().flatten().filter(|s| s.kind == StretchKind::Beside);
            for s in beside.filter(|s| !damaged.contains(&s.number)) {
                partitions.entry(s.partition()).or_default().push(*s);
            }
        }
        let now = partition_of(self.max_time.load(Ordering::Relaxed));
        for (partition, mut stretches) in partitions {
            let fresh = stretches.iter().filter(|s| !s.is_final).count();
            let over = partition.saturating_add(1) < now && fresh == stretches.len();
            if stretches.len() < SOME || !(all || over || fresh >= MANY) {
                continue;
            }
            // In the order in which readers see them.
            stretches.sort_by_key(|s| (s.start, s.number));
            match self.merge_stretches(group, &stretches) {
                Ok(merged) => self.replace(group, merged)?,
                // A damaged block keeps its neighbours from being merged, nothing else.
                Err(e) if e.is_damage() => {}
                Err(e) => {
                    self.figures.compactions_failed.fetch_add(1, Ordering::Relaxed);
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    fn merge_stretches(&self, group: u32, parts: &[Stretch]) -> Result<Merged, TsdbError> {
        let mut metrics: BTreeMap<u32, Vec<&Stretch>> = BTreeMap::new();
        for s in parts {
            let Some(ReadStretch { metrics: has, .. }) = self.read_stretch(group, s.number)? else { continue };
            has.into_iter().for_each(|metric| metrics.entry(metric).or_default().push(s));
        }
        let number = self.seq();
        let (mut ops, mut written) = (Vec::new(), Vec::new());
        let (start, end) = parts.iter().fold((i64::MAX, i64::MIN), |(a, b), s| (a.min(s.start), b.max(s.end)));
        let stretch = Stretch { number, kind: StretchKind::Beside, start, end, rows: 0, is_final: true };
        for (metric, of) in metrics {
            let mut columns: BTreeMap<SeriesId, Column> = BTreeMap::new();
            for s in of {
                let key = block_key(s.partition(), metric, group, s.number);
                let bytes = self.block(&key)?;
                let read = decode_block(&bytes, &[], |_| true, |stored| take(&mut columns, stored));
                read.map_err(|why| self.bad_block(&key, &why))?;
                ops.push(Op::Delete(Family::Blocks, key));
            }
            let mut block = BesideBuilder::new();
            for (id, column) in columns {
                let (floats, starts) = in_order(column.floats);
                block.floats(id, &floats, &starts);
                let (histograms, starts) = in_order(column.histograms);
                block.histograms(id, &histograms, &starts);
            }
            if let Some(block) = block.finish() {
                let key = block_key(stretch.partition(), metric, group, number);
                self.figures.block_bytes_written.fetch_add((key.len() + block.len()) as u64, Ordering::Relaxed);
                ops.push(Op::Put(Family::Blocks, key, block));
                written.push(metric);
            }
        }
        self.figures.blocks_written.fetch_add(written.len() as u64, Ordering::Relaxed);
        ops.extend(parts.iter().map(|s| Op::Delete(Family::Postings, stretch_key(group, s.number))));
        ops.push(stretch.put(group, &[], &written, &Whole::default()));
        Ok(Merged { stretch, ops, old: parts.iter().map(|s| s.number).collect() })
    }
}

fn take(columns: &mut BTreeMap<SeriesId, Column>, stored: Stored) {
    match stored {
        Stored::Floats(id, samples, starts) => {
            let samples = samples.into_iter().map(|(t, v)| (t, v, start_at(&starts, t)));
            columns.entry(id).or_default().floats.extend(samples);
        }
        Stored::Histograms(id, samples, starts) => {
            let samples = samples.into_iter().map(|(t, h)| (t, h, start_at(&starts, t)));
            columns.entry(id).or_default().histograms.extend(samples);
        }
        // Blocks of that kind hold none.
        Stored::Rows(..) => {}
    }
}

/// By time, of equal times the first, and from when on which start timestamp holds.
fn in_order<T>(mut samples: Vec<Started<T>>) -> (Vec<(i64, T)>, Vec<(i64, i64)>) {
    samples.sort_by_key(|s| s.0);
    samples.dedup_by_key(|s| s.0);
    let mut starts: Vec<(i64, i64)> = samples.iter().map(|s| (s.0, s.2)).collect();
    starts.dedup_by_key(|s| s.1);
    (samples.into_iter().map(|(t, v, _)| (t, v)).collect(), starts)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::executor::block_on;
    use narthex_model::Labels;
    use narthex_storage::{
        Appendable, GroupKey, OwnSample, Queryable, ScrapeRow, SelectRequest, Series, SeriesSpec, StorageAdmin,
    };

    use super::*;
    use crate::blocks::PARTITION_MS;
    use crate::{Store, StoreOptions};

    /// Floats, and histograms with their start timestamps.
    type All = Vec<(String, Vec<(i64, u64)>, Vec<(i64, Arc<Histogram>)>, Vec<i64>)>;

    fn all(store: &Store) -> All {
        let request = SelectRequest::new(Vec::new(), i64::MIN, i64::MAX);
        let all = block_on(store.select(request)).unwrap().collect_sorted().unwrap();
        let one = |s: Series| {
            let floats = s.floats.iter().map(|(t, v)| (t, v.to_bits())).collect();
            let histograms = s.histograms.timestamps.iter().copied().zip(s.histograms.values).collect();
            (s.labels.to_string(), floats, histograms, s.histograms.start_timestamps)
        };
        all.into_iter().map(one).collect()
    }

    fn beside(store: &Store) -> Vec<(u32, bool)> {
        let directory = store.inner.directory.stretches.read();
        let all = directory.values().flatten().filter(|s| s.kind == StretchKind::Beside);
        let mut all: Vec<_> = all.map(|s| (s.partition(), s.is_final)).collect();
        all.sort_unstable();
        all
    }

    fn histogram(n: u64) -> Arc<Histogram> {
        Arc::new(Histogram { count: n as f64, zero_count: n as f64, zero_threshold: 1e-128, ..Histogram::default() })
    }

    #[test]
    fn flushes_become_one_block_with_the_same_samples() {
        let folder = tempfile::tempdir().unwrap();
        let options = || StoreOptions {
            out_of_order_time_window: Duration::from_secs(24 * 3600),
            ..StoreOptions::new(folder.path())
        };
        let store = Store::open(options()).unwrap();
        let mut group = store.group(&GroupKey("g".into())).unwrap();
        let labels: Vec<Labels> =
            (0..4).map(|i| Labels::from_pairs([("__name__", format!("m{}", i % 2)), ("i", i.to_string())])).collect();
        let slots: Vec<u32> = labels.iter().map(|l| group.register(SeriesSpec::new(l)).unwrap()).collect();
        let base = 100 * PARTITION_MS;
        let mut flush = |round: i64, partition: i64| {
            let mut own = Vec::new();
            for k in 0..30i64 {
                // Out of order, now and then at a time that another flush had, with another value.
                let t = base + partition * PARTITION_MS + (k * 37 + round * 11) % 500 * 1000;
                let slot = slots[(k % 3) as usize];
                let value = (round * 1000 + k) as f64;
                own.push(OwnSample { slot, timestamp: t, value, ..OwnSample::default() });
            }
            let t = base + partition * PARTITION_MS + round * 10_000;
            let histogram = Some(histogram(round as u64 + 1));
            own.push(OwnSample { slot: slots[3], timestamp: t, histogram, ..OwnSample::default() });
            let starts = [(slots[3], t - 5)];
            let row = ScrapeRow { timestamp: t, own: &own, start_timestamps: &starts, ..ScrapeRow::default() };
            group.commit(&row).unwrap();
            store.inner.flush_side().unwrap();
        };
        for round in 0..MANY as i64 - 1 {
            flush(round, 0);
        }
        store.inner.merge_beside().unwrap();
        assert_eq!(beside(&store).len(), MANY - 1, "not worth it yet");
        flush(7, 0);
        let before = all(&store);
        assert!(before.iter().map(|s| s.1.len()).sum::<usize>() > 150);
        assert!(before.iter().any(|s| s.2.len() == 8 && s.3.iter().all(|start| *start > 0)), "{before:?}");
        store.inner.merge_beside().unwrap();
        let partition = partition_of(base);
        assert_eq!(beside(&store), [(partition, true)]);
        assert_eq!(all(&store), before, "merged");
        // Few of a partition whose time is over are merged once.
        flush(8, 1);
        flush(9, 1);
        flush(10, 4);
        let before = all(&store);
        store.inner.merge_beside().unwrap();
        let next = [(partition, true), (partition + 1, true), (partition + 4, false)];
        assert_eq!(beside(&store), next);
        flush(11, 1);
        store.inner.merge_beside().unwrap();
        assert_eq!(beside(&store).len(), 4, "a straggler waits for others");
        assert_ne!(all(&store), before);
        let before = all(&store);
        store.snapshot(false).unwrap();
        assert_eq!(beside(&store).len(), 3, "in final form");
        assert_eq!(all(&store), before);
        drop(group);
        store.close().unwrap();
        drop(store);
        assert_eq!(all(&Store::open(options()).unwrap()), before, "after a restart");
    }
}
