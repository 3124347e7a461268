//! What the store counts of itself, under Prometheus's names where the same thing exists there.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::Inner;
use crate::window::Window;

#[derive(Debug, Default)]
pub struct Figures {
    pub samples: AtomicU64,
    pub histogram_samples: AtomicU64,
    pub out_of_order: AtomicU64,
    pub histograms_out_of_order: AtomicU64,
    pub duplicates: AtomicU64,
    pub too_old: AtomicU64,
    pub histograms_too_old: AtomicU64,
    /// Taken although older than the newest of their series.
    pub late: AtomicU64,
    pub late_histograms: AtomicU64,
    pub exemplars: AtomicU64,
    pub exemplars_refused: AtomicU64,
    /// Appends that are running.
    pub appending: AtomicU64,
    /// A series' samples in one window are what Prometheus calls a chunk: those that left memory, and all that there
    /// ever were.
    pub chunks_removed: AtomicU64,
    pub chunks_created: AtomicU64,
    pub closings_failed: AtomicU64,
    pub log_trims: AtomicU64,
    pub log_trims_failed: AtomicU64,
    pub size_retentions: AtomicU64,
    pub series_created: AtomicU64,
    pub series_removed: AtomicU64,
    pub series_refused: AtomicU64,
    pub corruptions: AtomicU64,
    pub windows_closed: AtomicU64,
    pub compactions: AtomicU64,
    pub compactions_failed: AtomicU64,
    pub blocks_written: AtomicU64,
    /// By queries.
    pub blocks_read: AtomicU64,
    pub block_bytes_written: AtomicU64,
    pub quarantined: AtomicU64,
    /// Samples that went straight to blocks.
    pub backfilled: AtomicU64,
    pub retention_deletions: AtomicU64,
    /// What opening took until the files were open, until the index was full, and until the log was read.
    pub open_files_micros: AtomicU64,
    pub open_index_micros: AtomicU64,
    pub open_log_micros: AtomicU64,
}

impl Inner {
    pub(crate) fn figure_map(&self) -> BTreeMap<String, f64> {
        let f = &self.figures;
        let w = self.writer.figures();
        let mut map = self.db.figures();
        let mut put = |name: &str, v: f64| {
            map.insert(name.to_owned(), v);
        };
        let recovery = &self.db.recovery;
        for (scope, series) in self.budgets.counts() {
            put(&format!("narthex_tsdb_limit_refused_series{{scope=\"{scope}\"}}"), series as f64);
        }
        put("narthex_tsdb_memory_used_bytes", self.budgets.memory_used() as f64);
        put("narthex_tsdb_memory_budget_bytes", self.options.read().memory_budget as f64);
        for (name, counter) in [
            ("prometheus_tsdb_head_samples_appended_total{type=\"float\"}", &f.samples),
            ("prometheus_tsdb_head_samples_appended_total{type=\"histogram\"}", &f.histogram_samples),
            ("prometheus_tsdb_out_of_order_samples_total{type=\"float\"}", &f.out_of_order),
            ("prometheus_tsdb_out_of_order_samples_total{type=\"histogram\"}", &f.histograms_out_of_order),
            ("prometheus_tsdb_too_old_samples_total{type=\"float\"}", &f.too_old),
            ("prometheus_tsdb_too_old_samples_total{type=\"histogram\"}", &f.histograms_too_old),
            ("prometheus_tsdb_head_out_of_order_samples_appended_total{type=\"float\"}", &f.late),
            ("prometheus_tsdb_head_out_of_order_samples_appended_total{type=\"histogram\"}", &f.late_histograms),
            ("narthex_tsdb_backfilled_samples_total", &f.backfilled),
            ("prometheus_tsdb_exemplar_exemplars_appended_total", &f.exemplars),
            ("prometheus_tsdb_exemplar_out_of_order_exemplars_total", &f.exemplars_refused),
            ("prometheus_tsdb_head_active_appenders", &f.appending),
            ("prometheus_tsdb_head_truncations_failed_total", &f.closings_failed),
            ("prometheus_tsdb_wal_truncations_total", &f.log_trims),
            ("prometheus_tsdb_wal_truncations_failed_total", &f.log_trims_failed),
            ("prometheus_tsdb_size_retentions_total", &f.size_retentions),
            ("prometheus_tsdb_reloads_failures_total", &recovery.not_reopened),
            ("narthex_tsdb_duplicate_samples_total", &f.duplicates),
            ("prometheus_tsdb_head_series_created_total", &f.series_created),
            ("prometheus_tsdb_head_series_removed_total", &f.series_removed),
            ("narthex_tsdb_series_refused_total", &f.series_refused),
            ("prometheus_tsdb_wal_corruptions_total", &f.corruptions),
            ("prometheus_tsdb_wal_writes_failed_total", &w.failures),
            ("narthex_tsdb_log_batches_total", &w.batches),
            ("narthex_tsdb_log_records_total", &w.records),
            ("narthex_tsdb_log_bytes_total", &w.bytes),
            ("narthex_tsdb_log_syncs_total", &w.syncs),
            ("narthex_tsdb_log_sync_failures_total", &w.sync_failures),
            ("narthex_tsdb_windows_closed_total", &f.windows_closed),
            ("prometheus_tsdb_compactions_total", &f.compactions),
            ("prometheus_tsdb_compactions_failed_total", &f.compactions_failed),
            ("narthex_tsdb_blocks_written_total", &f.blocks_written),
            ("narthex_tsdb_blocks_read_total", &f.blocks_read),
            ("narthex_tsdb_block_bytes_written_total", &f.block_bytes_written),
            ("narthex_tsdb_blocks_quarantined_total", &f.quarantined),
            ("prometheus_tsdb_time_retentions_total", &f.retention_deletions),
            ("narthex_tsdb_damaged_files_total", &recovery.damaged_files),
            ("narthex_tsdb_log_dropped_bytes_total", &recovery.dropped_bytes),
            ("narthex_tsdb_reopened_total", &recovery.reopened),
        ] {
            put(name, counter.load(Ordering::Relaxed) as f64);
        }
        for (part, micros) in
            [("files", &f.open_files_micros), ("index", &f.open_index_micros), ("log", &f.open_log_micros)]
        {
            put(&format!("narthex_tsdb_open_seconds{{part=\"{part}\"}}"), micros.load(Ordering::Relaxed) as f64 / 1e6);
        }
        // Of what "files" says.
        put("narthex_tsdb_open_seconds{part=\"second copy\"}", self.db.checked_in.as_secs_f64());
        put("prometheus_tsdb_head_max_time", self.max_time.load(Ordering::Relaxed).max(0) as f64);
        {
            let exemplars = self.exemplars.lock();
            let oldest = exemplars.iter().next().map_or(0, |e| e.1.timestamp);
            put("prometheus_tsdb_exemplar_exemplars_in_storage", exemplars.len() as f64);
            put("prometheus_tsdb_exemplar_series_with_exemplars_in_storage", exemplars.series() as f64);
            put("prometheus_tsdb_exemplar_last_exemplars_timestamp_seconds", oldest as f64 / 1000.0);
        }
        for (tail, [held, behind, missed]) in self.tail_figures() {
            put(&format!("narthex_tsdb_tail_held_bytes{{tail={tail:?}}}"), held as f64);
            put(&format!("narthex_tsdb_tail_unsettled_records{{tail={tail:?}}}"), behind as f64);
            put(&format!("narthex_tsdb_tail_missed_records_total{{tail={tail:?}}}"), missed as f64);
        }
        put("narthex_tsdb_memory_bytes{part=\"tails\"}", self.tail_memory() as f64);
        put("narthex_tsdb_side_samples", self.side.lock().samples as f64);
        put("narthex_tsdb_write_failing", f64::from(u8::from(self.writer.reason().is_some())));
        {
            let registry = self.registry.read();
            put("prometheus_tsdb_head_series", registry.len() as f64);
            put("narthex_tsdb_memory_bytes{part=\"series\"}", registry.heap_bytes() as f64);
            let index = registry.index.memory();
            for (part, bytes) in [
                ("symbols", index.symbols),
                ("postings", index.postings),
                ("labels", index.series),
                ("index tables", index.tables),
            ] {
                put(&format!("narthex_tsdb_memory_bytes{{part=\"{part}\"}}"), bytes as f64);
            }
        }
        // Before those that are there: a window that closes meanwhile must not count twice.
        let removed = f.chunks_removed.load(Ordering::Relaxed);
        let groups = self.groups.read().list.clone();
        let (mut bytes, mut chunks, mut count, mut min, mut waiting) = (0, 0, 0, i64::MAX, 0);
        for group in groups.into_iter().flatten() {
            let group = group.lock();
            bytes += group.heap_bytes();
            chunks += group.windows().map(Window::columns).sum::<usize>();
            waiting += group.closing.len();
            count += 1;
            min = group.windows().filter_map(|w| w.times.first()).fold(min, |min, t| min.min(*t));
        }
        put("narthex_tsdb_memory_bytes{part=\"rows\"}", bytes as f64);
        put("narthex_tsdb_windows_waiting", waiting as f64);
        put("narthex_tsdb_memory_bytes{part=\"beside rows\"}", self.side.lock().heap_bytes() as f64);
        put("narthex_tsdb_memory_bytes{part=\"read again\"}", self.cached.bytes() as f64);
        put("narthex_tsdb_memory_bytes{part=\"series of several groups\"}", self.doubles.heap_bytes() as f64);
        let (mut places, mut windows, mut oldest) = (0, 0, i64::MAX);
        for stretches in self.directory.stretches.read().values() {
            places += stretches.capacity();
            windows += stretches.len();
            oldest = stretches.iter().fold(oldest, |oldest, s| oldest.min(s.start));
        }
        put("prometheus_tsdb_blocks_loaded", windows as f64);
        let bytes = places * size_of::<crate::blocks::Stretch>();
        put("narthex_tsdb_memory_bytes{part=\"windows on disk\"}", bytes as f64);
        put("prometheus_tsdb_head_chunks", chunks as f64);
        put("prometheus_tsdb_head_chunks_removed_total", removed as f64);
        let created = removed + chunks as u64;
        let created = f.chunks_created.fetch_max(created, Ordering::Relaxed).max(created);
        put("prometheus_tsdb_head_chunks_created_total", created as f64);
        let lowest = oldest.min(min);
        put("prometheus_tsdb_lowest_timestamp", if lowest == i64::MAX { 0.0 } else { lowest as f64 });
        put("narthex_tsdb_head_groups", f64::from(count));
        put("prometheus_tsdb_head_min_time", if min == i64::MAX { 0.0 } else { min as f64 });
        map
    }
}
