//! What the process tells of itself under Prometheus's names, so that stock dashboards and alerts work: the store's
//! figures, the build, and what follows from them.

use std::collections::BTreeMap;
use std::sync::Arc;

use narthex_runtime::Registry;
use narthex_runtime::metrics::{Family, Gauge, Kind};
use narthex_scrape::Manager;
use narthex_tsdb::{Store, StoreOptions};

use crate::late::Late;
use crate::version;

/// Facts about how the store was opened.
#[derive(Clone)]
pub struct Opening {
    replay: Gauge,
    clean: Gauge,
    retention_seconds: Gauge,
    retention_bytes: Gauge,
    max_exemplars: Gauge,
}

impl Opening {
    fn new(r: &Registry) -> Opening {
        let clean = r.gauge(
            "prometheus_tsdb_clean_start",
            "-1: lockfile is disabled. 0: a lockfile from a previous execution was replaced. 1: lockfile creation was clean",
        );
        clean.set(-1.0);
        Opening {
            clean,
            replay: r.gauge("prometheus_tsdb_data_replay_duration_seconds", "Time taken to replay the data on disk."),
            retention_seconds: r
                .gauge("prometheus_tsdb_retention_limit_seconds", "How long to retain samples in storage."),
            retention_bytes: r.gauge(
                "prometheus_tsdb_retention_limit_bytes",
                "Max number of bytes to be retained in the tsdb blocks, configured 0 means disabled",
            ),
            max_exemplars: r.gauge(
                "prometheus_tsdb_exemplar_max_exemplars",
                "Total number of exemplars the exemplar storage can store, resizeable.",
            ),
        }
    }

    pub fn limits(&self, o: &StoreOptions) {
        self.retention_seconds.set(o.retention.as_secs_f64());
        self.retention_bytes.set(o.retention_size as f64);
        self.max_exemplars.set(o.max_exemplars as f64);
    }

    /// The store is open after so many seconds; `clean` says whether it was closed well before.
    pub fn done(&self, seconds: f64, clean: bool) {
        self.replay.set(seconds);
        self.clean.set(f64::from(u8::from(clean)));
    }
}

/// Registers everything but what other parts register themselves.
pub fn register(registry: &Registry, store: &Late, manager: &Arc<Manager>) -> Opening {
    registry.register(narthex_runtime::process::collect);
    registry.register(|out| {
        let b = version::build_info();
        let labels = [
            ("branch", b.branch.as_str()),
            ("goarch", std::env::consts::ARCH),
            ("goos", std::env::consts::OS),
            ("goversion", ""),
            ("revision", &b.revision),
            ("tags", ""),
            ("version", &b.version),
        ];
        let help = "A metric with a constant '1' value labeled by version, revision, branch, goversion from which prometheus was built, and the goos and goarch for the build.";
        out.push(Family::new("prometheus_build_info", help, Kind::Gauge).with(&labels, 1.0));
    });
    let figures = store.clone();
    registry.register(move |out| {
        let figures = figures.get().map(Store::figures).unwrap_or_default();
        for (figure, value) in figures.iter().map(|(f, v)| (f.as_str(), *v)).chain(derived(&figures)) {
            // `name{label="value"}` or a bare name.
            let (name, label) = figure.trim_end_matches('}').split_once('{').unwrap_or((figure, ""));
            let kind = if name.ends_with("_total") { Kind::Counter } else { Kind::Gauge };
            let labels: Vec<(&str, &str)> =
                label.split_once('=').map(|(n, v)| (n, v.trim_matches('"'))).into_iter().collect();
            out.push(Family::new(name, &help_of(name), kind).with(&labels, value));
        }
    });
    let manager = Arc::downgrade(manager);
    registry.register(move |_| {
        if let Some(manager) = manager.upgrade() {
            manager.refresh_metrics();
        }
    });
    for (name, help, kind, value) in CONSTANTS {
        registry.register(move |out| out.push(Family::single(name, help, kind, value)));
    }
    Opening::new(registry)
}

/// What Prometheus counts and the store's figures say in other words.
fn derived<'a>(figures: &'a BTreeMap<String, f64>) -> impl Iterator<Item = (&'a str, f64)> + 'a {
    const SAME: [(&str, &str, f64); 10] = [
        ("prometheus_tsdb_head_max_time_seconds", "prometheus_tsdb_head_max_time", 1000.0),
        ("prometheus_tsdb_head_min_time_seconds", "prometheus_tsdb_head_min_time", 1000.0),
        ("prometheus_remote_storage_highest_timestamp_in_seconds", "prometheus_tsdb_head_max_time", 1000.0),
        ("prometheus_tsdb_symbol_table_size_bytes", "narthex_tsdb_memory_bytes{part=\"symbols\"}", 1.0),
        ("prometheus_tsdb_head_truncations_total", "narthex_tsdb_windows_closed_total", 1.0),
        ("prometheus_tsdb_compactions_triggered_total", "prometheus_tsdb_compactions_total", 1.0),
        ("prometheus_tsdb_wal_page_flushes_total", "narthex_tsdb_log_batches_total", 1.0),
        (
            "prometheus_remote_storage_samples_in_total",
            "prometheus_tsdb_head_samples_appended_total{type=\"float\"}",
            1.0,
        ),
        (
            "prometheus_remote_storage_histograms_in_total",
            "prometheus_tsdb_head_samples_appended_total{type=\"histogram\"}",
            1.0,
        ),
        ("prometheus_tsdb_wal_record_parts_bytes_written_total", "narthex_tsdb_log_bytes_total", 1.0),
    ];
    // By column family, where it has labels.
    let tables = figures.iter().filter(|(name, _)| name.starts_with("narthex_rocksdb_live_sst_bytes"));
    let bytes = tables.map(|(_, v)| v).copied().reduce(|a, b| a + b);
    let same = SAME.into_iter().filter_map(|(name, from, by)| figures.get(from).map(|v| (name, v / by)));
    same.chain(bytes.map(|b| ("prometheus_tsdb_storage_blocks_bytes", b)))
}

/// Metrics of parts that are not there, under the names that stock dashboards and alerts read.
const CONSTANTS: [(&str, &str, Kind, f64); 5] = [
    (
        "prometheus_notifications_alertmanagers_discovered",
        "The number of alertmanagers discovered and active.",
        Kind::Gauge,
        0.0,
    ),
    (
        "prometheus_notifications_queue_capacity",
        "The capacity of the alert notifications queue.",
        Kind::Gauge,
        10_000.0,
    ),
    (
        "prometheus_tsdb_reloads_failures_total",
        "Number of times the database failed to reloadBlocks block data from disk.",
        Kind::Counter,
        0.0,
    ),
    (
        "prometheus_tsdb_mmap_chunk_corruptions_total",
        "Total number of memory-mapped chunk corruptions.",
        Kind::Counter,
        0.0,
    ),
    (
        "prometheus_tsdb_wal_segment_current",
        "Write log segment index that TSDB is currently writing to.",
        Kind::Gauge,
        0.0,
    ),
];

/// Help texts of the store's figures, where Prometheus has the same.
fn help_of(name: &str) -> String {
    match name {
        "prometheus_tsdb_head_samples_appended_total" => "Total number of appended samples.",
        "prometheus_tsdb_head_series" => "Total number of series in the head block.",
        "prometheus_tsdb_head_chunks" => "Total number of chunks in the head block.",
        "prometheus_tsdb_head_series_created_total" => "Total number of series created in the head",
        "prometheus_tsdb_head_series_removed_total" => "Total number of series removed in the head",
        "prometheus_tsdb_head_max_time" => "Maximum timestamp of the head block. The unit is decided by the library consumer.",
        "prometheus_tsdb_head_min_time" => "Minimum time bound of the head block. The unit is decided by the library consumer.",
        "prometheus_tsdb_head_max_time_seconds" => "Maximum timestamp of the head block.",
        "prometheus_tsdb_head_min_time_seconds" => "Minimum time bound of the head block.",
        "prometheus_tsdb_storage_blocks_bytes" => "The number of bytes that are currently used for local storage by all blocks.",
        "prometheus_tsdb_symbol_table_size_bytes" => "Size of symbol table in memory for loaded blocks",
        "prometheus_tsdb_head_truncations_total" => "Total number of head truncations attempted.",
        "prometheus_tsdb_compactions_triggered_total" => "Total number of triggered compactions for the partition.",
        "prometheus_tsdb_wal_page_flushes_total" => "Total number of page flushes.",
        "prometheus_tsdb_wal_record_parts_bytes_written_total" => "Total number of record part bytes written before flushing them to pages, including CRC and compression headers.",
        "prometheus_tsdb_wal_corruptions_total" => "Total number of WAL corruptions.",
        "prometheus_tsdb_compactions_total" => "Total number of compactions that were executed for the partition.",
        "prometheus_tsdb_compactions_failed_total" => "Total number of compactions that failed for the partition.",
        "prometheus_tsdb_out_of_order_samples_total" => "Total number of out of order samples ingestion failed attempts due to out of order being disabled.",
        "prometheus_tsdb_too_old_samples_total" => "Total number of out of order samples ingestion failed attempts with out of support enabled, but sample outside of time window.",
        "prometheus_remote_storage_samples_in_total" => "Samples in to remote storage, compare to samples out for queue managers.",
        "prometheus_remote_storage_histograms_in_total" => "HistogramSamples in to remote storage, compare to histograms out for queue managers.",
        "prometheus_remote_storage_highest_timestamp_in_seconds" => "Highest timestamp that has come into the remote storage via the Appender interface, in seconds since epoch. Initialized to 0 when no data has been received yet.",
        other => return other.trim_start_matches("narthex_").replace('_', " "),
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_told_under_prometheus_names() {
        let figures = BTreeMap::from([
            ("prometheus_tsdb_head_max_time".to_owned(), 5500.0),
            ("prometheus_tsdb_head_samples_appended_total{type=\"float\"}".to_owned(), 7.0),
        ]);
        let got: BTreeMap<&str, f64> = derived(&figures).collect();
        assert_eq!(got["prometheus_tsdb_head_max_time_seconds"], 5.5);
        assert_eq!(got["prometheus_remote_storage_samples_in_total"], 7.0);
        assert!(!got.contains_key("prometheus_tsdb_storage_blocks_bytes"));
    }
}
