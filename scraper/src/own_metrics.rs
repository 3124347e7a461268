//! What the process tells of itself under Prometheus's names, so that stock dashboards and alerts work: the store's
//! figures, the build, and what follows from them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use narthex_runtime::Registry;
use narthex_runtime::metrics::{Family, Gauge, Histogram, Kind, Summary};
use narthex_scrape::Manager;
use narthex_tsdb::{Observer, Store, StoreOptions, Took};

use crate::late::Late;
use crate::version;

/// Facts about how the store was opened.
#[derive(Clone)]
pub struct Opening {
    replay: Gauge,
    clean: Gauge,
    retention_seconds: Gauge,
    retention_bytes: Gauge,
    retention_percentage: Gauge,
    max_exemplars: Gauge,
    times: Times,
}

/// How long the store's own work takes.
#[derive(Clone)]
struct Times {
    log_sync: Summary,
    log_trim: Summary,
    window_close: Summary,
    merge: Histogram,
    cleanup: Histogram,
    lateness: Histogram,
}

impl Times {
    fn new(r: &Registry) -> Times {
        let doubling = |count: i32| (0..count).map(|i| 2f64.powi(i)).collect::<Vec<f64>>();
        Times {
            log_sync: r.summary(
                "prometheus_tsdb_wal_fsync_duration_seconds",
                "Duration of write log fsync.",
                &[0.5, 0.9, 0.99],
            ),
            log_trim: r.summary("prometheus_tsdb_wal_truncate_duration_seconds", "Duration of WAL truncation.", &[]),
            window_close: r.summary(
                "prometheus_tsdb_head_gc_duration_seconds",
                "Runtime of garbage collection in the head block.",
                &[],
            ),
            merge: r.histogram(
                "prometheus_tsdb_compaction_duration_seconds",
                "Duration of compaction runs",
                &doubling(14),
            ),
            cleanup: r.histogram(
                "prometheus_tsdb_tombstone_cleanup_seconds",
                "The time taken to recompact blocks to remove tombstones.",
                &[],
            ),
            lateness: r.histogram(
                "prometheus_tsdb_sample_ooo_delta",
                "Delta in seconds by which a sample is considered out of order (reported regardless of OOO time window and whether sample is accepted or not).",
                &[600.0, 1800.0, 3600.0, 7200.0, 10_800.0, 21_600.0, 43_200.0],
            ),
        }
    }
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
            retention_percentage: r.gauge(
                "prometheus_tsdb_retention_limit_percentage",
                "Max percentage of total storage space to be retained in the tsdb blocks, configured 0 means disabled",
            ),
            max_exemplars: r.gauge(
                "prometheus_tsdb_exemplar_max_exemplars",
                "Total number of exemplars the exemplar storage can store, resizeable.",
            ),
            times: Times::new(r),
        }
    }

    pub fn limits(&self, o: &StoreOptions) {
        self.retention_seconds.set(o.retention.as_secs_f64());
        self.retention_bytes.set(o.retention_size as f64);
        self.retention_percentage.set(o.retention_percentage);
        self.max_exemplars.set(o.max_exemplars as f64);
    }

    /// Takes what the store tells of the length of its work.
    pub fn observer(&self) -> Observer {
        let times = self.times.clone();
        Observer::new(move |what, seconds| match what {
            Took::LogSync => times.log_sync.observe(seconds),
            Took::LogTrim => times.log_trim.observe(seconds),
            Took::WindowClose => times.window_close.observe(seconds),
            Took::Merge => times.merge.observe(seconds),
            Took::TombstoneCleanup => times.cleanup.observe(seconds),
            Took::Lateness => times.lateness.observe(seconds),
        })
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
    registry.register(dials);
    // Alerts are sent to nobody yet, and the stock alert on that should fire.
    registry.register(|out| {
        let help = "The number of alertmanagers discovered and active.";
        out.push(Family::single("prometheus_notifications_alertmanagers_discovered", help, Kind::Gauge, 0.0));
    });
    let manager = Arc::downgrade(manager);
    registry.register(move |_| {
        if let Some(manager) = manager.upgrade() {
            manager.refresh_metrics();
        }
    });
    Opening::new(registry)
}

/// What an agent tells beside it, under the names of Prometheus's agent.
pub fn agent(registry: &Registry, store: &Late) {
    let figures = store.clone();
    registry.register(move |out| {
        let figures = figures.get().map(Store::figures).unwrap_or_default();
        let of = |name: &str| figures.get(name).copied().unwrap_or(0.0);
        let kinds = |name: &str, help: &str, from: &str| {
            ["float", "histogram"].iter().fold(Family::new(name, help, Kind::Counter), |family, kind| {
                family.with(&[("type", kind)], of(&format!("{from}{{type=\"{kind}\"}}")))
            })
        };
        out.push(Family::single(
            "prometheus_agent_active_series",
            "Number of active series being tracked by the WAL storage",
            Kind::Gauge,
            of("prometheus_tsdb_head_series"),
        ));
        out.push(kinds(
            "prometheus_agent_samples_appended_total",
            "Total number of samples appended to the storage",
            "prometheus_tsdb_head_samples_appended_total",
        ));
        out.push(Family::single(
            "prometheus_agent_exemplars_appended_total",
            "Total number of exemplars appended to the storage",
            Kind::Counter,
            of("prometheus_tsdb_exemplar_exemplars_appended_total"),
        ));
        out.push(Family::single(
            "prometheus_agent_out_of_order_samples_total",
            "Total number of out of order samples ingestion failed attempts.",
            Kind::Counter,
            of("prometheus_tsdb_out_of_order_samples_total{type=\"float\"}")
                + of("prometheus_tsdb_out_of_order_samples_total{type=\"histogram\"}"),
        ));
    });
}

/// Connections to targets and to what discovery asks.
fn dials(out: &mut Vec<Family>) {
    let counter =
        |what: &str, help: &str| Family::new(&format!("net_conntrack_dialer_conn_{what}_total"), help, Kind::Counter);
    let mut attempted = counter("attempted", "Total number of connections attempted by the given dialer a given name.");
    let mut established = counter(
        "established",
        "Total number of connections successfully established by the given dialer a given name.",
    );
    let mut closed =
        counter("closed", "Total number of connections closed which originated from the dialer of a given name.");
    let mut failed = counter("failed", "Total number of connections failed to dial by the dialer a given name.");
    for (name, dials) in narthex_http::dials::all() {
        let count = |cell: &AtomicU64| cell.load(Ordering::Relaxed) as f64;
        let label = ("dialer_name", name.as_str());
        attempted.push(&[label], count(&dials.attempted));
        established.push(&[label], count(&dials.established));
        closed.push(&[label], count(&dials.closed));
        for (reason, cell) in narthex_http::dials::REASONS.into_iter().zip(&dials.failed) {
            failed.push(&[label, ("reason", reason)], count(cell));
        }
    }
    out.extend([attempted, established, closed, failed]);
}

/// What Prometheus counts and the store's figures say in other words.
fn derived<'a>(figures: &'a BTreeMap<String, f64>) -> impl Iterator<Item = (&'a str, f64)> + 'a {
    const SAME: [(&str, &str, f64); 14] = [
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
        ("prometheus_tsdb_wal_record_part_writes_total", "narthex_tsdb_log_records_total", 1.0),
        ("prometheus_tsdb_lowest_timestamp_seconds", "prometheus_tsdb_lowest_timestamp", 1000.0),
        ("prometheus_tsdb_reloads_total", "narthex_tsdb_reopened_total", 1.0),
        ("prometheus_remote_storage_exemplars_in_total", "prometheus_tsdb_exemplar_exemplars_appended_total", 1.0),
    ];
    // By column family, where it has labels.
    let tables = figures.iter().filter(|(name, _)| name.starts_with("narthex_rocksdb_live_sst_bytes"));
    let bytes = tables.map(|(_, v)| v).copied().reduce(|a, b| a + b);
    let same = SAME.into_iter().filter_map(|(name, from, by)| figures.get(from).map(|v| (name, v / by)));
    same.chain(bytes.map(|b| ("prometheus_tsdb_storage_blocks_bytes", b)))
}

/// Help texts of the store's figures, where Prometheus has the same.
fn help_of(name: &str) -> String {
    match name {
        "prometheus_remote_storage_exemplars_in_total" => "Exemplars in to remote storage, compare to exemplars out for queue managers. Deprecated, check prometheus_wal_watcher_records_read_total and prometheus_remote_storage_exemplars_dropped_total",
        "prometheus_remote_storage_highest_timestamp_in_seconds" => "Highest timestamp that has come into the remote storage via the Appender interface, in seconds since epoch. Initialized to 0 when no data has been received yet. Deprecated, check prometheus_remote_storage_queue_highest_timestamp_seconds which is more accurate.",
        "prometheus_remote_storage_histograms_in_total" => "HistogramSamples in to remote storage, compare to histograms out for queue managers. Deprecated, check prometheus_wal_watcher_records_read_total and prometheus_remote_storage_histograms_dropped_total",
        "prometheus_remote_storage_samples_in_total" => "Samples in to remote storage, compare to samples out for queue managers. Deprecated, check prometheus_wal_watcher_records_read_total and prometheus_remote_storage_samples_dropped_total",
        "prometheus_tsdb_blocks_loaded" => "Number of currently loaded data blocks",
        "prometheus_tsdb_compactions_failed_total" => "Total number of compactions that failed for the partition.",
        "prometheus_tsdb_compactions_total" => "Total number of compactions that were executed for the partition.",
        "prometheus_tsdb_compactions_triggered_total" => "Total number of triggered compactions for the partition.",
        "prometheus_tsdb_exemplar_exemplars_appended_total" => "Total number of appended exemplars.",
        "prometheus_tsdb_exemplar_exemplars_in_storage" => "Number of exemplars currently in circular storage.",
        "prometheus_tsdb_exemplar_last_exemplars_timestamp_seconds" => "The timestamp of the oldest exemplar stored in circular storage. Useful to check for what timerange the current exemplar buffer limit allows. This usually means the last timestampfor all exemplars for a typical setup. This is not true though if one of the series timestamp is in future compared to rest series.",
        "prometheus_tsdb_exemplar_out_of_order_exemplars_total" => "Total number of out of order exemplar ingestion failed attempts.",
        "prometheus_tsdb_exemplar_series_with_exemplars_in_storage" => "Number of series with exemplars currently in circular storage.",
        "prometheus_tsdb_head_active_appenders" => "Number of currently active appender transactions",
        "prometheus_tsdb_head_chunks" => "Total number of chunks in the head block.",
        "prometheus_tsdb_head_chunks_created_total" => "Total number of chunks created in the head",
        "prometheus_tsdb_head_chunks_removed_total" => "Total number of chunks removed in the head",
        "prometheus_tsdb_head_max_time" => "Maximum timestamp of the head block. The unit is decided by the library consumer.",
        "prometheus_tsdb_head_max_time_seconds" => "Maximum timestamp of the head block.",
        "prometheus_tsdb_head_min_time" => "Minimum time bound of the head block. The unit is decided by the library consumer.",
        "prometheus_tsdb_head_min_time_seconds" => "Minimum time bound of the head block.",
        "prometheus_tsdb_head_out_of_order_samples_appended_total" => "Total number of appended out of order samples.",
        "prometheus_tsdb_head_samples_appended_total" => "Total number of appended samples.",
        "prometheus_tsdb_head_series" => "Total number of series in the head block.",
        "prometheus_tsdb_head_series_created_total" => "Total number of series created in the head",
        "prometheus_tsdb_head_series_removed_total" => "Total number of series removed in the head",
        "prometheus_tsdb_head_truncations_failed_total" => "Total number of head truncations that failed.",
        "prometheus_tsdb_head_truncations_total" => "Total number of head truncations attempted.",
        "prometheus_tsdb_lowest_timestamp" => "Lowest timestamp value stored in the database. The unit is decided by the library consumer.",
        "prometheus_tsdb_lowest_timestamp_seconds" => "Lowest timestamp value stored in the database.",
        "prometheus_tsdb_out_of_order_samples_total" => "Total number of out of order samples ingestion failed attempts due to out of order being disabled.",
        "prometheus_tsdb_reloads_failures_total" => "Number of times the database failed to reloadBlocks block data from disk.",
        "prometheus_tsdb_reloads_total" => "Number of times the database reloaded block data from disk.",
        "prometheus_tsdb_size_retentions_total" => "The number of times that blocks were deleted because the maximum number of bytes was exceeded.",
        "prometheus_tsdb_storage_blocks_bytes" => "The number of bytes that are currently used for local storage by all blocks.",
        "prometheus_tsdb_symbol_table_size_bytes" => "Size of symbol table in memory for loaded blocks",
        "prometheus_tsdb_time_retentions_total" => "The number of times that blocks were deleted because the maximum time limit was exceeded.",
        "prometheus_tsdb_too_old_samples_total" => "Total number of out of order samples ingestion failed attempts with out of support enabled, but sample outside of time window.",
        "prometheus_tsdb_wal_corruptions_total" => "Total number of WAL corruptions.",
        "prometheus_tsdb_wal_page_flushes_total" => "Total number of page flushes.",
        "prometheus_tsdb_wal_record_part_writes_total" => "Total number of record parts written before flushing.",
        "prometheus_tsdb_wal_record_parts_bytes_written_total" => "Total number of record part bytes written before flushing, including CRC and compression headers.",
        "prometheus_tsdb_wal_segment_current" => "Write log segment index that TSDB is currently writing to.",
        "prometheus_tsdb_wal_storage_size_bytes" => "Size of the write log directory.",
        "prometheus_tsdb_wal_truncations_failed_total" => "Total number of write log truncations that failed.",
        "prometheus_tsdb_wal_truncations_total" => "Total number of write log truncations attempted.",
        "prometheus_tsdb_wal_writes_failed_total" => "Total number of write log writes that failed.",
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
