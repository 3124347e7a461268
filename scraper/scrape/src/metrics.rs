//! What scraping says of itself, under Prometheus's names.

use narthex_runtime::Registry;
use narthex_runtime::metrics::{Counter, Gauge, Histogram, Labelled, Summary};

const QUANTILES: [f64; 5] = [0.01, 0.05, 0.5, 0.9, 0.99];
const LENGTHS: [f64; 9] = [0.01, 0.1, 1.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0];
const SYNC_LENGTHS: [f64; 4] = [0.01, 0.1, 1.0, 10.0];
const SCRAPE_LENGTHS: [f64; 11] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0];

pub(crate) struct Metrics {
    pub pools: Counter,
    pub pools_failed: Counter,
    pub reloads: Counter,
    pub reloads_failed: Counter,
    pub reload_length: Labelled<Summary>,
    pub pool_syncs: Labelled<Counter>,
    pub pool_targets: Labelled<Gauge>,
    pub pool_target_limit: Labelled<Gauge>,
    pub sync_length: Labelled<Summary>,
    pub sync_length_histogram: Labelled<Histogram>,
    /// Never counted here: making targets can fail where they are discovered.
    pub sync_failed: Labelled<Counter>,
    pub interval_length: Labelled<Summary>,
    pub interval_length_histogram: Labelled<Histogram>,
    pub scrape_duration: Histogram,
    pub target_limit: Counter,
    pub body_limit: Counter,
    pub sample_limit: Counter,
    pub bucket_limit: Counter,
    pub label_limits: Counter,
    pub duplicates: Counter,
    pub out_of_order: Counter,
    pub out_of_bounds: Counter,
    pub exemplars_out_of_order: Counter,
    pub refused: Counter,
    pub metadata_entries: Labelled<Gauge>,
    pub metadata_bytes: Labelled<Gauge>,
    pub cache_bytes: Gauge,
}

impl Metrics {
    pub fn new(r: &Registry) -> Metrics {
        // A page that fails leaves nothing in the cache, so it never has to be flushed; dashboards ask for it.
        r.counter(
            "prometheus_target_scrapes_cache_flush_forced_total",
            "How many times a scrape cache was flushed due to getting big while scrapes are failing.",
        );
        Metrics {
            pools: r.counter("prometheus_target_scrape_pools_total", "Total number of scrape pool creation attempts."),
            pools_failed: r.counter(
                "prometheus_target_scrape_pools_failed_total",
                "Total number of scrape pool creations that failed.",
            ),
            reloads: r.counter("prometheus_target_scrape_pool_reloads_total", "Total number of scrape pool reloads."),
            reloads_failed: r.counter(
                "prometheus_target_scrape_pool_reloads_failed_total",
                "Total number of failed scrape pool reloads.",
            ),
            reload_length: r.summaries(
                "prometheus_target_reload_length_seconds",
                "Actual interval to reload the scrape pool with a given configuration.",
                &["interval"],
                &QUANTILES,
            ),
            pool_syncs: r.counters(
                "prometheus_target_scrape_pool_sync_total",
                "Total number of syncs that were executed on a scrape pool.",
                &["scrape_job"],
            ),
            pool_targets: r.gauges(
                "prometheus_target_scrape_pool_targets",
                "Current number of targets in this scrape pool.",
                &["scrape_job"],
            ),
            pool_target_limit: r.gauges(
                "prometheus_target_scrape_pool_target_limit",
                "Maximum number of targets allowed in this scrape pool.",
                &["scrape_job"],
            ),
            sync_length: r.summaries(
                "prometheus_target_sync_length_seconds",
                "Actual interval to sync the scrape pool.",
                &["scrape_job"],
                &QUANTILES,
            ),
            sync_length_histogram: r.histograms(
                "prometheus_target_sync_length_histogram_seconds",
                "Actual interval to sync the scrape pool.",
                &["scrape_job"],
                &SYNC_LENGTHS,
            ),
            sync_failed: r.counters(
                "prometheus_target_sync_failed_total",
                "Total number of target sync failures.",
                &["scrape_job"],
            ),
            interval_length: r.summaries(
                "prometheus_target_interval_length_seconds",
                "Actual intervals between scrapes.",
                &["interval"],
                &QUANTILES,
            ),
            interval_length_histogram: r.histograms(
                "prometheus_target_interval_length_histogram_seconds",
                "Actual intervals between scrapes.",
                &["interval"],
                &LENGTHS,
            ),
            scrape_duration: r.histogram(
                "prometheus_target_scrape_duration_seconds",
                "Total duration of the scrape from start to commit completion in seconds.",
                &SCRAPE_LENGTHS,
            ),
            target_limit: r.counter(
                "prometheus_target_scrape_pool_exceeded_target_limit_total",
                "Total number of times scrape pools hit the target limit, during sync or config reload.",
            ),
            body_limit: r.counter(
                "prometheus_target_scrapes_exceeded_body_size_limit_total",
                "Total number of scrapes that hit the body size limit",
            ),
            sample_limit: r.counter(
                "prometheus_target_scrapes_exceeded_sample_limit_total",
                "Total number of scrapes that hit the sample limit and were rejected.",
            ),
            bucket_limit: r.counter(
                "prometheus_target_scrapes_exceeded_native_histogram_bucket_limit_total",
                "Total number of scrapes that hit the native histogram bucket limit and were rejected.",
            ),
            label_limits: r.counter(
                "prometheus_target_scrape_pool_exceeded_label_limits_total",
                "Total number of times scrape pools hit the label limits, during sync or config reload.",
            ),
            duplicates: r.counter(
                "prometheus_target_scrapes_sample_duplicate_timestamp_total",
                "Total number of samples rejected due to duplicate timestamps but different values.",
            ),
            out_of_order: r.counter(
                "prometheus_target_scrapes_sample_out_of_order_total",
                "Total number of samples rejected due to not being out of the expected order.",
            ),
            out_of_bounds: r.counter(
                "prometheus_target_scrapes_sample_out_of_bounds_total",
                "Total number of samples rejected due to timestamp falling outside of the time bounds.",
            ),
            exemplars_out_of_order: r.counter(
                "prometheus_target_scrapes_exemplar_out_of_order_total",
                "Total number of exemplar rejected due to not being out of the expected order.",
            ),
            refused: r.counter(
                "narthex_target_scrapes_series_refused_total",
                "Total number of samples left out because the store had no room for their series.",
            ),
            metadata_entries: r.gauges(
                "prometheus_target_metadata_cache_entries",
                "Total number of metric metadata entries in the cache",
                &["scrape_job"],
            ),
            metadata_bytes: r.gauges(
                "prometheus_target_metadata_cache_bytes",
                "The number of bytes that are currently used for storing metric metadata in the cache",
                &["scrape_job"],
            ),
            cache_bytes: r.gauge("narthex_target_line_cache_bytes", "Bytes held by the line caches of all targets."),
        }
    }
}
