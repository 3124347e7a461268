//! What the server says of itself, beside what a real Prometheus says of itself: dashboards and alerts go by the names.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use crate::net;
use crate::process::{Server, eventually, prometheus, start_narthex, start_prometheus};

/// Names that stock dashboards, alerts and people read, and that have to be there with these kinds.
const NAMES: &str = "
net_conntrack_dialer_conn_attempted_total counter
net_conntrack_dialer_conn_closed_total counter
net_conntrack_dialer_conn_established_total counter
net_conntrack_dialer_conn_failed_total counter
net_conntrack_listener_conn_accepted_total counter
process_cpu_seconds_total counter
process_resident_memory_bytes gauge
process_start_time_seconds gauge
prometheus_build_info gauge
prometheus_config_last_reload_success_timestamp_seconds gauge
prometheus_config_last_reload_successful gauge
prometheus_engine_queries gauge
prometheus_engine_queries_concurrent_max gauge
prometheus_engine_query_duration_histogram_seconds histogram
prometheus_engine_query_duration_seconds summary
prometheus_engine_query_log_enabled gauge
prometheus_engine_query_samples_total counter
prometheus_http_request_duration_seconds histogram
prometheus_http_requests_total counter
prometheus_http_response_size_bytes histogram
prometheus_notifications_alertmanagers_discovered gauge
prometheus_ready gauge
prometheus_remote_storage_bytes_total counter
prometheus_remote_storage_enqueue_retries_total counter
prometheus_remote_storage_exemplars_in_total counter
prometheus_remote_storage_exemplars_total counter
prometheus_remote_storage_max_samples_per_send gauge
prometheus_remote_storage_metadata_total counter
prometheus_remote_storage_queue_highest_sent_timestamp_seconds gauge
prometheus_remote_storage_queue_highest_timestamp_seconds gauge
prometheus_remote_storage_samples_dropped_total counter
prometheus_remote_storage_samples_failed_total counter
prometheus_remote_storage_samples_pending gauge
prometheus_remote_storage_samples_retried_total counter
prometheus_remote_storage_samples_total counter
prometheus_remote_storage_sent_batch_duration_seconds histogram
prometheus_remote_storage_shard_capacity gauge
prometheus_remote_storage_shards gauge
prometheus_remote_storage_shards_desired gauge
prometheus_remote_storage_shards_max gauge
prometheus_remote_storage_shards_min gauge
prometheus_wal_watcher_records_read_total counter
prometheus_remote_storage_highest_timestamp_in_seconds gauge
prometheus_remote_storage_samples_in_total counter
prometheus_sd_discovered_targets gauge
prometheus_sd_kubernetes_events_total counter
prometheus_sd_kubernetes_failures_total counter
prometheus_sd_refresh_failures_total counter
prometheus_target_interval_length_seconds summary
prometheus_target_metadata_cache_bytes gauge
prometheus_target_metadata_cache_entries gauge
prometheus_target_scrape_pool_exceeded_label_limits_total counter
prometheus_target_scrape_pool_exceeded_target_limit_total counter
prometheus_target_scrape_pool_targets gauge
prometheus_target_scrapes_exceeded_body_size_limit_total counter
prometheus_target_scrapes_exceeded_sample_limit_total counter
prometheus_target_scrapes_sample_duplicate_timestamp_total counter
prometheus_target_scrapes_sample_out_of_bounds_total counter
prometheus_target_scrapes_sample_out_of_order_total counter
prometheus_target_sync_failed_total counter
prometheus_target_sync_length_seconds summary
prometheus_tsdb_blocks_loaded gauge
prometheus_tsdb_clean_start gauge
prometheus_tsdb_compaction_duration_seconds histogram
prometheus_tsdb_compactions_failed_total counter
prometheus_tsdb_compactions_total counter
prometheus_tsdb_exemplar_exemplars_appended_total counter
prometheus_tsdb_exemplar_exemplars_in_storage gauge
prometheus_tsdb_exemplar_last_exemplars_timestamp_seconds gauge
prometheus_tsdb_exemplar_out_of_order_exemplars_total counter
prometheus_tsdb_exemplar_series_with_exemplars_in_storage gauge
prometheus_tsdb_head_active_appenders gauge
prometheus_tsdb_head_chunks gauge
prometheus_tsdb_head_chunks_created_total counter
prometheus_tsdb_head_chunks_removed_total counter
prometheus_tsdb_head_gc_duration_seconds summary
prometheus_tsdb_head_max_time gauge
prometheus_tsdb_head_min_time gauge
prometheus_tsdb_head_out_of_order_samples_appended_total counter
prometheus_tsdb_head_samples_appended_total counter
prometheus_tsdb_head_series gauge
prometheus_tsdb_head_series_created_total counter
prometheus_tsdb_head_series_removed_total counter
prometheus_tsdb_head_truncations_failed_total counter
prometheus_tsdb_head_truncations_total counter
prometheus_tsdb_lowest_timestamp gauge
prometheus_tsdb_out_of_order_samples_total counter
prometheus_tsdb_reloads_failures_total counter
prometheus_tsdb_reloads_total counter
prometheus_tsdb_retention_limit_bytes gauge
prometheus_tsdb_retention_limit_seconds gauge
prometheus_tsdb_sample_ooo_delta histogram
prometheus_tsdb_size_retentions_total counter
prometheus_tsdb_storage_blocks_bytes gauge
prometheus_tsdb_symbol_table_size_bytes gauge
prometheus_tsdb_time_retentions_total counter
prometheus_tsdb_tombstone_cleanup_seconds histogram
prometheus_tsdb_too_old_samples_total counter
prometheus_tsdb_wal_corruptions_total counter
prometheus_tsdb_wal_fsync_duration_seconds summary
prometheus_tsdb_wal_segment_current gauge
prometheus_tsdb_wal_storage_size_bytes gauge
prometheus_tsdb_wal_truncate_duration_seconds summary
prometheus_tsdb_wal_truncations_failed_total counter
prometheus_tsdb_wal_writes_failed_total counter
promhttp_metric_handler_requests_total counter
";

/// Of Prometheus's own, those whose subject does not exist here (by the beginning of their names), as ARCHITECTURE.md
/// says. Everything else has to be there.
const ABSENT: [&str; 28] = [
    // The Go runtime.
    "go_",
    // Rules and alerts.
    "prometheus_rule_",
    "prometheus_template_",
    "prometheus_notifications_",
    // Queues of the Kubernetes client; Narthex has none.
    "prometheus_sd_kubernetes_workqueue_",
    "prometheus_sd_kubernetes_http_request_total",
    // Interned strings of pools and of remote write: labels lie once, in the store.
    "prometheus_target_scrape_pool_symboltable_items",
    "prometheus_remote_storage_string_interner_",
    // Segments of the log: those who send samples on read it record by record, and wait for it.
    "prometheus_wal_watcher_current_segment",
    "prometheus_wal_watcher_notifications_skipped_total",
    // Everything pushed comes with metadata or is not asked for it.
    "prometheus_api_otlp_appended_samples_without_metadata_total",
    // Checkpoints of the log, pages and compressed records: RocksDB's log has none.
    "prometheus_tsdb_checkpoint_",
    "prometheus_tsdb_wal_completed_pages_total",
    "prometheus_tsdb_wal_record_bytes_saved_total",
    // Chunks in mapped files, and what becomes of them in compaction.
    "prometheus_tsdb_mmap_",
    "prometheus_tsdb_compaction_chunk_",
    "prometheus_tsdb_compaction_populating_block",
    "prometheus_tsdb_compactions_skipped_total",
    "prometheus_tsdb_head_chunks_storage_size_bytes",
    "prometheus_tsdb_vertical_compactions_total",
    "prometheus_tsdb_selected_series_compaction",
    "prometheus_tsdb_stale_series_compaction",
    "prometheus_tsdb_snapshot_replay_error_total",
    // Readers are not isolated by numbers of appends.
    "prometheus_tsdb_isolation_",
    // Not counted.
    "prometheus_tsdb_head_native_histogram_",
    "prometheus_tsdb_head_stale_series",
    "prometheus_tsdb_head_series_not_found_total",
    "prometheus_tsdb_out_of_bound_samples_total",
];

type Families = BTreeMap<String, (String, String)>;

/// Type and help of each family.
fn families(server: &Server) -> Result<Families> {
    let page = net::get(server.address, "/metrics")?.text();
    let mut all = Families::new();
    for line in page.lines() {
        let mut parts = line.splitn(4, ' ');
        if let (Some("#"), Some(what), Some(name), Some(rest)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        {
            let family = all.entry(name.to_owned()).or_default();
            *(if what == "TYPE" { &mut family.0 } else { &mut family.1 }) = rest.to_owned();
        }
    }
    Ok(all)
}

/// The value of a sample, by all that stands before the blank.
fn value(server: &Server, sample: &str) -> Result<f64> {
    let page = net::get(server.address, "/metrics")?.text();
    let line = page.lines().find_map(|l| l.strip_prefix(sample)?.strip_prefix(' '));
    Ok(line.unwrap_or("NaN").parse()?)
}

#[test]
fn names_kinds_and_helps_are_those_of_prometheus() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let page = "# TYPE c counter\nc_total{a=\"b\"} 1 # {trace_id=\"x\"} 0.5\n# EOF\n";
    let target = net::exporter(move |_| page.to_owned())?;
    let sink = net::answering(|_, _| net::Reply { status: 204, headers: String::new(), body: Vec::new() })?;
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nstorage: {{tsdb: {{retention: {{time: 1d, percentage: 99.5}}}}}}\nscrape_configs:\n\
         - job_name: a\n  static_configs: [{{targets: ['{target}']}}]\n\
         - job_name: refused\n  static_configs: [{{targets: ['127.0.0.1:1']}}]\n\
         - job_name: f\n  file_sd_configs: [{{files: ['{f}/*.json']}}]\n\
         - job_name: h\n  http_sd_configs: [{{url: 'http://127.0.0.1:1/'}}]\n\
         - job_name: k\n  kubernetes_sd_configs: [{{role: pod, api_server: 'http://127.0.0.1:1/'}}]\n\
         - job_name: d\n  dns_sd_configs: [{{names: ['nowhere.invalid']}}]\n\
         remote_write:\n- url: http://user:hunter2@{sink}/w\n  queue_config: {{batch_send_deadline: 100ms}}\n  \
         write_relabel_configs: [{{source_labels: [__name__], regex: up, action: drop}}]\n",
        f = folder.path().display()
    );
    let file = folder.path().join("prometheus.yml");
    std::fs::write(&file, config)?;
    let flags = [
        &format!("--config.file={}", file.display()),
        "--enable-feature=exemplar-storage",
        "--web.enable-remote-write-receiver",
        "--web.enable-otlp-receiver",
    ];
    let ours = start_narthex(folder.path(), net::free_port()?, &flags)?;
    let theirs = prometheus().map(|p| start_prometheus(&p, folder.path(), net::free_port()?, &flags)).transpose()?;
    // What counts by itself does count.
    for sample in [
        "net_conntrack_dialer_conn_established_total{dialer_name=\"a\"}",
        "net_conntrack_dialer_conn_failed_total{dialer_name=\"refused\",reason=\"refused\"}",
        "net_conntrack_dialer_conn_failed_total{dialer_name=\"kubernetes_sd\",reason=\"refused\"}",
        "prometheus_sd_kubernetes_failures_total",
        "prometheus_target_metadata_cache_bytes{scrape_job=\"a\"}",
        "prometheus_tsdb_exemplar_exemplars_appended_total",
        "prometheus_tsdb_exemplar_last_exemplars_timestamp_seconds",
        "prometheus_tsdb_head_chunks_created_total",
        "prometheus_tsdb_lowest_timestamp_seconds",
        "net_conntrack_dialer_conn_established_total{dialer_name=\"remote_storage_write_client\"}",
        "prometheus_tsdb_wal_fsync_duration_seconds_count",
        "prometheus_tsdb_wal_storage_size_bytes",
        "prometheus_tsdb_wal_segment_current",
        "prometheus_target_interval_length_seconds_count{interval=\"1s\"}",
    ] {
        eventually(30, sample, || Ok((value(&ours, sample)? > 0.0).then_some(())))?;
    }
    let mine = families(&ours)?;
    for line in NAMES.lines().filter(|l| !l.is_empty()) {
        let (name, kind) = line.split_once(' ').unwrap_or_default();
        ensure!(mine.get(name).is_some_and(|f| f.0 == kind), "{name}: {:?} instead of {kind}", mine.get(name));
    }
    let Some(theirs) = theirs else {
        println!("skipped: no Prometheus to compare with");
        return ours.stop();
    };
    let other = eventually(30, "what Prometheus says of Kubernetes", || {
        let all = families(&theirs)?;
        Ok((all.len() > 200 && all.contains_key("prometheus_target_interval_length_seconds")).then_some(all))
    })?;
    for (name, family) in &other {
        let absent = ABSENT.iter().any(|a| name.starts_with(a));
        match mine.get(name) {
            Some(own) => ensure!(own == family, "{name}: {own:?} instead of {family:?}"),
            None => ensure!(absent, "{name} is missing"),
        }
    }
    // A queue has the same name and address, its password hidden.
    let queue = |server: &Server| -> Result<Vec<String>> {
        let page = net::get(server.address, "/metrics")?.text();
        let lines = page.lines().filter(|l| l.starts_with("prometheus_remote_storage_shards{"));
        Ok(lines.map(str::to_owned).collect())
    };
    let (own, real) = (queue(&ours)?, queue(&theirs)?);
    ensure!(own == real && own.len() == 1, "{own:?} instead of {real:?}");
    let retention = "prometheus_tsdb_retention_limit_percentage";
    ensure!(value(&ours, retention)? == 99.5 && value(&theirs, retention)? == 99.5);
    let shown = |server: &Server| -> Result<_> {
        Ok(server.json("/api/v1/status/runtimeinfo")?["data"]["storageRetention"].clone())
    };
    ensure!(shown(&ours)? == "1d or 99.5%" && shown(&theirs)? == shown(&ours)?, "{}", shown(&theirs)?);
    ours.stop()
}
