//! What an administrator may do: delete, snapshot, look.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use narthex_model::Matcher;
use narthex_storage::{Backfilled, StorageAdmin, StorageError, TsdbStats, WriteBatch};

use crate::db::{FAMILIES, Family, Op};
use crate::record::head_key;
use crate::{Store, Took, TsdbError, dead, delete};

impl StorageAdmin for Store {
    fn delete_series(&self, selectors: &[Vec<Matcher>], mint: i64, maxt: i64) -> Result<(), StorageError> {
        let inner = &self.inner;
        let _turn = inner.maintenance.turn();
        // What is appended later is not meant, even if its time lies in the range (as Prometheus clamps it).
        let maxt = maxt.min(inner.max_time.load(Ordering::Relaxed));
        if mint > maxt {
            return Ok(());
        }
        let mut ids = BTreeSet::new();
        for matchers in selectors {
            ids.extend(inner.registry.read().select(matchers));
            let metric = |name: &str| inner.directory.metric(name);
            dead::select(&inner.db, &inner.dead_days, metric, matchers, mint, maxt, |found| {
                ids.insert(found.id);
            })?;
        }
        let mut tombstones = inner.tombstones.write();
        let mut next = tombstones.clone();
        let ops: Vec<Op> = ids
            .into_iter()
            .map(|id| {
                let ranges = next.entry(id).or_default();
                delete::add(ranges, (mint, maxt));
                delete::put(id, ranges)
            })
            .collect();
        inner.db.write(&ops)?;
        *tombstones = next;
        Ok(())
    }

    fn clean_tombstones(&self) -> Result<(), StorageError> {
        let _turn = self.inner.maintenance.turn();
        self.inner.close_all()?;
        Ok(self.inner.observer.time(Took::TombstoneCleanup, || self.inner.clean())?)
    }

    fn snapshot(&self, skip_head: bool) -> Result<String, StorageError> {
        let inner = &self.inner;
        let folder = inner.options.read().path.join("snapshots");
        std::fs::create_dir_all(&folder).map_err(|source| TsdbError::CreateFolder { path: folder.clone(), source })?;
        let _turn = inner.maintenance.turn();
        if !skip_head {
            inner.close_all()?;
        }
        // In final form, as Prometheus's snapshot puts its head into blocks: with windows left as they lie, a copy of six
        // hours takes three times the space.
        let groups: Vec<u32> = inner.directory.stretches.read().keys().copied().collect();
        for group in groups {
            inner.merge_group(group, true)?;
        }
        {
            let (needed, _trimming) = inner.needed_of_log();
            inner.db.write(&[Op::DeleteRange(Family::Head, head_key(0), head_key(needed))])?;
        }
        for family in FAMILIES {
            inner.db.compact(family)?;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Two of one second have to differ.
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), now);
        let name = format!("{}-{random:016x}", timestamp(now.as_secs()));
        inner.db.checkpoint(&folder.join(&name))?;
        Ok(name)
    }

    fn backfill(&self, batch: WriteBatch, latest: i64) -> Result<Backfilled, StorageError> {
        crate::backfill::backfill(self, batch, latest)
    }

    fn stats(&self, limit: usize) -> TsdbStats {
        let figures = self.inner.figure_map();
        let figure = |name: &str| figures.get(name).copied().unwrap_or_default();
        let stats = self.inner.registry.read().index.stats(limit);
        TsdbStats {
            num_series: stats.series,
            num_label_pairs: stats.label_pairs,
            chunk_count: figure("prometheus_tsdb_head_chunks") as u64,
            min_time: figure("prometheus_tsdb_head_min_time") as i64,
            max_time: self.inner.max_time.load(Ordering::Relaxed).max(0),
            series_count_by_metric_name: stats.series_by_metric_name,
            label_value_count_by_label_name: stats.values_by_label_name,
            memory_in_bytes_by_label_name: stats.memory_by_label_name,
            series_count_by_label_value_pair: stats.series_by_pair,
        }
    }

    fn status(&self) -> BTreeMap<String, String> {
        let o = self.inner.options.read();
        let mut status = BTreeMap::new();
        let mut put = |name: &str, value: String| {
            status.insert(name.to_owned(), value);
        };
        put("folder", o.path.display().to_string());
        put("retention time", format!("{} s", o.retention.as_secs()));
        put("retention size", o.retention_size.to_string());
        put("series in memory", self.inner.registry.read().len().to_string());
        put("blocks", format!("{} bytes", self.inner.stored_bytes()));
        put("damaged blocks", self.inner.directory.quarantine.read().len().to_string());
        let limits = self.inner.budgets.messages();
        put("series limits", if limits.is_empty() { "ok".into() } else { limits.join("; ") });
        if o.memory_budget > 0 {
            put("memory", format!("{} of {} bytes", self.inner.budgets.memory_used(), o.memory_budget));
        }
        let damage = self.inner.damage(i64::MIN);
        put("damage", if damage.is_empty() { "none".into() } else { damage.join("; ") });
        put("writing", self.inner.writer.reason().map_or("ok".into(), |r| r.to_string()));
        status
    }
}

/// Seconds since the epoch as Prometheus's snapshots are named: `20060102T150405Z`.
fn timestamp(secs: u64) -> String {
    let time = jiff::Timestamp::from_second(secs.cast_signed()).unwrap_or_default();
    time.strftime("%Y%m%dT%H%M%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        assert_eq!([0, 1_795_433_785].map(timestamp), ["19700101T000000Z", "20261123T113625Z"]);
    }
}
