//! Prometheus's `prometheus_sd_*`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use narthex_config::KubernetesRole;
use narthex_runtime::metrics::{Counter, Family, Gauge, Histogram, Kind, Labelled, Registry, Summary};
use parking_lot::Mutex;

const QUANTILES: &[f64] = &[0.5, 0.9, 0.99];

/// What discovery exposes of itself; one for all managers of a process.
pub struct SdMetrics {
    pub(crate) failed_configs: Labelled<Gauge>,
    pub(crate) discovered_targets: Labelled<Gauge>,
    pub(crate) received_updates: Labelled<Counter>,
    pub(crate) delayed_updates: Labelled<Counter>,
    pub(crate) sent_updates: Labelled<Counter>,
    pub(crate) last_updated: Labelled<Gauge>,
    pub(crate) refresh_failures: Labelled<Counter>,
    pub(crate) refresh_duration: Labelled<Summary>,
    pub(crate) refresh_histogram: Labelled<Histogram>,
    pub(crate) http_failures: Counter,
    pub(crate) dns_lookups: Counter,
    pub(crate) dns_failures: Counter,
    pub(crate) consul_failures: Counter,
    pub(crate) consul_duration: Labelled<Summary>,
    pub(crate) nomad_failures: Counter,
    pub(crate) kubernetes_failures: Counter,
    pub(crate) kubernetes_events: Labelled<Counter>,
    pub(crate) file_read_errors: Counter,
    pub(crate) file_scan_duration: Summary,
    pub(crate) file_watcher_errors: Counter,
    /// When each file was last changed, in seconds since the epoch.
    pub(crate) file_mtimes: Arc<Mutex<BTreeMap<PathBuf, f64>>>,
}

impl SdMetrics {
    /// Adds them to the registry.
    pub fn register(registry: &Registry) -> Arc<SdMetrics> {
        let of_manager = &["name"];
        let of_set = &["name", "config"];
        let of_refresh = &["mechanism", "config"];
        let file_mtimes: Arc<Mutex<BTreeMap<PathBuf, f64>>> = Arc::default();
        let mtimes = file_mtimes.clone();
        registry.register(move |out| {
            let mut family = Family::new(
                "prometheus_sd_file_mtime_seconds",
                "Timestamp (mtime) of files read by FileSD. Timestamp is set at read time.",
                Kind::Gauge,
            );
            for (file, time) in mtimes.lock().iter() {
                family.push(&[("filename", &file.to_string_lossy())], *time);
            }
            out.push(family);
        });
        let all = SdMetrics {
            failed_configs: registry.gauges(
                "prometheus_sd_failed_configs",
                "Current number of service discovery configurations that failed to load.",
                of_manager,
            ),
            discovered_targets: registry.gauges(
                "prometheus_sd_discovered_targets",
                "Current number of discovered targets.",
                of_set,
            ),
            received_updates: registry.counters(
                "prometheus_sd_received_updates_total",
                "Total number of update events received from the SD providers.",
                of_manager,
            ),
            delayed_updates: registry.counters(
                "prometheus_sd_updates_delayed_total",
                "Total number of update events that couldn't be sent immediately.",
                of_manager,
            ),
            sent_updates: registry.counters(
                "prometheus_sd_updates_total",
                "Total number of update events sent to the SD consumers.",
                of_manager,
            ),
            last_updated: registry.gauges(
                "prometheus_sd_last_update_timestamp_seconds",
                "Timestamp of the last update sent to the SD consumers.",
                of_set,
            ),
            refresh_failures: registry.counters(
                "prometheus_sd_refresh_failures_total",
                "Number of refresh failures for the given SD mechanism.",
                of_refresh,
            ),
            refresh_duration: registry.summaries(
                "prometheus_sd_refresh_duration_seconds",
                "The duration of a refresh in seconds for the given SD mechanism.",
                of_refresh,
                QUANTILES,
            ),
            refresh_histogram: registry.histograms(
                "prometheus_sd_refresh_duration_histogram_seconds",
                "The duration of a refresh for the given SD mechanism.",
                &["mechanism"],
                &[0.01, 0.1, 1.0, 10.0],
            ),
            http_failures: registry
                .counter("prometheus_sd_http_failures_total", "Number of HTTP service discovery refresh failures."),
            dns_lookups: registry.counter("prometheus_sd_dns_lookups_total", "The number of DNS-SD lookups."),
            dns_failures: registry
                .counter("prometheus_sd_dns_lookup_failures_total", "The number of DNS-SD lookup failures."),
            consul_failures: registry
                .counter("prometheus_sd_consul_rpc_failures_total", "The number of Consul RPC call failures."),
            consul_duration: registry.summaries(
                "prometheus_sd_consul_rpc_duration_seconds",
                "The duration of a Consul RPC call in seconds.",
                &["endpoint", "call"],
                QUANTILES,
            ),
            nomad_failures: registry
                .counter("prometheus_sd_nomad_failures_total", "Number of nomad service discovery refresh failures."),
            kubernetes_failures: registry
                .counter("prometheus_sd_kubernetes_failures_total", "The number of failed WATCH/LIST requests."),
            kubernetes_events: registry.counters(
                "prometheus_sd_kubernetes_events_total",
                "The number of Kubernetes events handled.",
                &["role", "event"],
            ),
            file_read_errors: registry
                .counter("prometheus_sd_file_read_errors_total", "The number of File-SD read errors."),
            file_scan_duration: registry.summary(
                "prometheus_sd_file_scan_duration_seconds",
                "The duration of the File-SD scan in seconds.",
                QUANTILES,
            ),
            file_watcher_errors: registry.counter(
                "prometheus_sd_file_watcher_errors_total",
                "The number of File-SD errors caused by filesystem watch failures.",
            ),
            file_mtimes,
        };
        for call in ["service", "services"] {
            all.consul_duration.with(&["catalog", call]);
        }
        for role in KubernetesRole::ALL {
            for event in ["add", "delete", "update"] {
                all.kubernetes_events.with(&[role.as_str(), event]);
            }
        }
        Arc::new(all)
    }
}
