//! What an administrator may do: delete, snapshot, look.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use hashbrown::HashMap;
use narthex_model::Matcher;
use narthex_storage::{ErrorKind, StorageAdmin, StorageError, TsdbStats};

use crate::{Store, TsdbError};

impl StorageAdmin for Store {
    fn delete_series(&self, _selectors: &[Vec<Matcher>], _mint: i64, _maxt: i64) -> Result<(), StorageError> {
        Err(StorageError::new(ErrorKind::Unavailable, "deleting is not implemented yet"))
    }

    fn clean_tombstones(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn snapshot(&self, _skip_head: bool) -> Result<String, StorageError> {
        let folder = self.inner.options.path.join("snapshots");
        std::fs::create_dir_all(&folder).map_err(|source| TsdbError::CreateFolder { path: folder.clone(), source })?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!("{}-{:09}", now.as_secs(), now.subsec_nanos());
        self.inner.db.checkpoint(&folder.join(&name))?;
        Ok(name)
    }

    fn stats(&self, limit: usize) -> TsdbStats {
        let figures = self.inner.figure_map();
        let registry = self.inner.registry.read();
        let mut by_metric: HashMap<&str, u64> = HashMap::new();
        let mut values: HashMap<&str, HashMap<&str, u64>> = HashMap::new();
        for (_, entry) in registry.iter() {
            for (name, value) in entry.labels.iter() {
                *values.entry(name).or_default().entry(value).or_default() += 1;
                if name == narthex_model::METRIC_NAME {
                    *by_metric.entry(value).or_default() += 1;
                }
            }
        }
        let top = |all: Vec<(String, u64)>| {
            let mut all = all;
            all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            all.truncate(limit);
            all
        };
        let bytes = |name: &str, v: &HashMap<&str, u64>| v.keys().map(|k| (k.len() + name.len()) as u64).sum();
        let pairs = values.iter().flat_map(|(n, v)| v.iter().map(move |(v, c)| (format!("{n}={v}"), *c)));
        let figure = |name: &str| figures.get(name).copied().unwrap_or_default();
        TsdbStats {
            num_series: registry.len() as u64,
            num_label_pairs: values.values().map(|v| v.len() as u64).sum(),
            chunk_count: figure("prometheus_tsdb_head_chunks") as u64,
            min_time: figure("prometheus_tsdb_head_min_time") as i64,
            max_time: self.inner.max_time.load(Ordering::Relaxed),
            series_count_by_metric_name: top(by_metric.iter().map(|(n, c)| ((*n).to_owned(), *c)).collect()),
            label_value_count_by_label_name: top(values
                .iter()
                .map(|(n, v)| ((*n).to_owned(), v.len() as u64))
                .collect()),
            memory_in_bytes_by_label_name: top(values.iter().map(|(n, v)| ((*n).to_owned(), bytes(n, v))).collect()),
            series_count_by_label_value_pair: top(pairs.collect()),
        }
    }

    fn status(&self) -> BTreeMap<String, String> {
        let o = &self.inner.options;
        let mut status = BTreeMap::new();
        let mut put = |name: &str, value: String| {
            status.insert(name.to_owned(), value);
        };
        put("folder", o.path.display().to_string());
        put("retention time", format!("{} s", o.retention.as_secs()));
        put("retention size", o.retention_size.to_string());
        put("series in memory", self.inner.registry.read().len().to_string());
        put("writing", self.inner.writer.reason().map_or("ok".into(), |r| r.to_string()));
        status
    }
}
