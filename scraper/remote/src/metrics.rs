//! What queues tell of themselves, under Prometheus's names (`prometheus_remote_storage_*`, `prometheus_wal_watcher_*`).
//! A queue's figures are there for as long as it is.

use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering};

use narthex_runtime::Registry;
use narthex_runtime::metrics::{Cell, Counter, Family, Gauge, Histogram, Kind, Metric};
use parking_lot::Mutex;

use crate::encode::Counts;

/// Bounds of the durations of requests.
const DURATIONS: [f64; 15] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 120.0, 300.0];

/// Why something was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    TooOld,
    Dropped,
    Unknown,
    CustomBuckets,
}

impl Reason {
    const ALL: [(Reason, &'static str); 4] = [
        (Reason::TooOld, "too_old"),
        (Reason::Dropped, "dropped_series"),
        (Reason::Unknown, "unintentionally_dropped_series"),
        (Reason::CustomBuckets, "nhcb_in_rw1_not_supported"),
    ];
}

/// Counts of samples, exemplars and histograms that were dropped, by reason.
#[derive(Debug, Default)]
pub struct DroppedCounts {
    samples: [AtomicU64; 4],
    exemplars: [AtomicU64; 4],
    histograms: [AtomicU64; 4],
}

impl DroppedCounts {
    pub fn add(&self, reason: Reason, n: Counts) {
        let i = reason as usize;
        for (cells, n) in [(&self.samples, n.samples), (&self.exemplars, n.exemplars), (&self.histograms, n.histograms)]
        {
            cells[i].fetch_add(n, Ordering::Relaxed);
        }
    }
}

/// A time in seconds that only grows.
#[derive(Debug, Default)]
pub struct Highest(AtomicU64);

impl Highest {
    pub fn see_ms(&self, timestamp: i64) {
        self.0.fetch_max(u64::try_from(timestamp / 1000).unwrap_or(0), Ordering::Relaxed);
    }

    pub fn seconds(&self) -> f64 {
        self.0.load(Ordering::Relaxed) as f64
    }
}

/// Samples, histograms, exemplars and descriptions.
#[derive(Debug, Default)]
pub struct PerKind {
    pub samples: Counter,
    pub histograms: Counter,
    pub exemplars: Counter,
    pub metadata: Counter,
}

impl PerKind {
    pub fn add(&self, n: Counts) {
        self.samples.add(n.samples as f64);
        self.histograms.add(n.histograms as f64);
        self.exemplars.add(n.exemplars as f64);
        self.metadata.add(n.metadata as f64);
    }
}

/// One queue's figures.
#[derive(Debug)]
pub struct QueueMetrics {
    pub name: String,
    pub url: String,
    pub sent: PerKind,
    pub failed: PerKind,
    pub retried: PerKind,
    pub dropped: DroppedCounts,
    pub enqueue_retries: Counter,
    pub duration: Histogram,
    pub highest: Highest,
    pub highest_sent: Highest,
    pub pending_samples: Gauge,
    pub pending_histograms: Gauge,
    pub pending_exemplars: Gauge,
    pub capacity: Gauge,
    pub shards: Gauge,
    pub shards_max: Gauge,
    pub shards_min: Gauge,
    pub shards_desired: Gauge,
    pub bytes: Counter,
    pub metadata_bytes: Counter,
    pub max_samples_per_send: Gauge,
    /// Read from the store: series told, samples, histograms, exemplars.
    pub read: [Counter; 4],
    /// Log records that could not be read.
    pub missed: Counter,
    /// Samples read before the queue had caught up with the store for the first time.
    pub read_before_tailing: Counter,
    /// Log records and bytes that wait.
    pub lag_records: Gauge,
    pub lag_bytes: Gauge,
    /// Bytes of the table of series, and how many there are.
    pub table_bytes: Gauge,
    pub series: Gauge,
}

impl QueueMetrics {
    pub fn new(name: &str, url: &str) -> QueueMetrics {
        QueueMetrics {
            name: name.to_owned(),
            url: url.to_owned(),
            duration: Histogram::new(&DURATIONS),
            sent: PerKind::default(),
            failed: PerKind::default(),
            retried: PerKind::default(),
            dropped: DroppedCounts::default(),
            enqueue_retries: Counter::default(),
            highest: Highest::default(),
            highest_sent: Highest::default(),
            pending_samples: Gauge::default(),
            pending_histograms: Gauge::default(),
            pending_exemplars: Gauge::default(),
            capacity: Gauge::default(),
            shards: Gauge::default(),
            shards_max: Gauge::default(),
            shards_min: Gauge::default(),
            shards_desired: Gauge::default(),
            bytes: Counter::default(),
            metadata_bytes: Counter::default(),
            max_samples_per_send: Gauge::default(),
            read: Default::default(),
            missed: Counter::default(),
            read_before_tailing: Counter::default(),
            lag_records: Gauge::default(),
            lag_bytes: Gauge::default(),
            table_bytes: Gauge::default(),
            series: Gauge::default(),
        }
    }

    /// More (or, negative, fewer) wait to be sent.
    pub fn pending(&self, n: Counts, sign: f64) {
        self.pending_samples.add(sign * n.samples as f64);
        self.pending_histograms.add(sign * n.histograms as f64);
        self.pending_exemplars.add(sign * n.exemplars as f64);
    }

    fn collect(&self, out: &mut Vec<Family>) {
        let queue = [("remote_name", self.name.as_str()), ("url", self.url.as_str())];
        let mut push = |name: &str, help: &str, kind: Kind, labels: &[(&str, &str)], value| {
            let mut family = Family::new(name, help, kind);
            let labels = labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            family.metrics.push(Metric { labels, value });
            out.push(family);
        };
        let single = |v: f64| narthex_runtime::metrics::Value::Single(v);
        for (kind, noun) in [
            ("samples", "samples"),
            ("exemplars", "exemplars"),
            ("histograms", "histograms"),
            ("metadata", "metadata entries"),
        ] {
            let of = |k: &PerKind| {
                match kind {
                    "samples" => &k.samples,
                    "exemplars" => &k.exemplars,
                    "histograms" => &k.histograms,
                    _ => &k.metadata,
                }
                .get()
            };
            for (what, help, cells) in [
                ("", format!("Total number of {noun} sent to remote storage."), &self.sent),
                (
                    "_failed",
                    format!("Total number of {noun} which failed on send to remote storage, non-recoverable errors."),
                    &self.failed,
                ),
                (
                    "_retried",
                    format!(
                        "Total number of {noun} which failed on send to remote storage but were retried because the send error was recoverable."
                    ),
                    &self.retried,
                ),
            ] {
                let name = format!("prometheus_remote_storage_{kind}{what}_total");
                push(&name, &help, Kind::Counter, &queue, single(of(cells)));
            }
        }
        for (kind, cells) in [
            ("samples", &self.dropped.samples),
            ("exemplars", &self.dropped.exemplars),
            ("histograms", &self.dropped.histograms),
        ] {
            for (reason, text) in Reason::ALL {
                let n = cells[reason as usize].load(Ordering::Relaxed);
                // Only what has happened is shown.
                if n > 0 {
                    let name = format!("prometheus_remote_storage_{kind}_dropped_total");
                    let help = format!(
                        "Total number of {kind} which were dropped after being read from the WAL before being sent via remote write, either via relabelling, due to being too old or unintentionally because of an unknown reference ID."
                    );
                    let labels = [queue[0], queue[1], ("reason", text)];
                    push(&name, &help, Kind::Counter, &labels, single(n as f64));
                }
            }
        }
        push(
            "prometheus_remote_storage_sent_batch_duration_seconds",
            "Duration of send calls to the remote storage.",
            Kind::Histogram,
            &queue,
            self.duration.read(),
        );
        let counters: [(&str, &str, &Counter); 3] = [
            (
                "enqueue_retries_total",
                "Total number of times enqueue has failed because a shards queue was full.",
                &self.enqueue_retries,
            ),
            (
                "bytes_total",
                "The total number of bytes of data (not metadata) sent by the queue after compression. Note that when exemplars over remote write is enabled the exemplars included in a remote write request count towards this metric.",
                &self.bytes,
            ),
            (
                "metadata_bytes_total",
                "The total number of bytes of metadata sent by the queue after compression.",
                &self.metadata_bytes,
            ),
        ];
        for (name, help, cell) in counters {
            push(&format!("prometheus_remote_storage_{name}"), help, Kind::Counter, &queue, single(cell.get()));
        }
        let pending =
            |kind| format!("The number of {kind} pending in the queues shards to be sent to the remote storage.");
        let gauges: [(&str, &str, f64); 11] = [
            (
                "queue_highest_timestamp_seconds",
                "Highest timestamp that was enqueued, in seconds since epoch. Initialized to 0 when no data has been received yet.",
                self.highest.seconds(),
            ),
            (
                "queue_highest_sent_timestamp_seconds",
                "Highest timestamp successfully sent by this queue, in seconds since epoch. Initialized to 0 when no data has been sent yet.",
                self.highest_sent.seconds(),
            ),
            ("samples_pending", &pending("samples"), self.pending_samples.get()),
            ("exemplars_pending", &pending("exemplars"), self.pending_exemplars.get()),
            ("histograms_pending", &pending("histograms"), self.pending_histograms.get()),
            (
                "shard_capacity",
                "The capacity of each shard of the queue used for parallel sending to the remote storage.",
                self.capacity.get(),
            ),
            ("shards", "The number of shards used for parallel sending to the remote storage.", self.shards.get()),
            ("shards_max", "The maximum number of shards that the queue is allowed to run.", self.shards_max.get()),
            ("shards_min", "The minimum number of shards that the queue is allowed to run.", self.shards_min.get()),
            (
                "shards_desired",
                "The number of shards that the queues shard calculation wants to run based on the rate of samples in vs. samples out.",
                self.shards_desired.get(),
            ),
            (
                "max_samples_per_send",
                "The maximum number of samples to be sent, in a single request, to the remote storage. Note that, when sending of exemplars over remote write is enabled, exemplars count towards this limit.",
                self.max_samples_per_send.get(),
            ),
        ];
        for (name, help, v) in gauges {
            push(&format!("prometheus_remote_storage_{name}"), help, Kind::Gauge, &queue, single(v));
        }
        for (kind, cell) in ["series", "samples", "histogram_samples", "exemplars"].into_iter().zip(&self.read) {
            push(
                "prometheus_wal_watcher_records_read_total",
                "Number of records read by the WAL watcher from the WAL.",
                Kind::Counter,
                &[("consumer", &self.name), ("type", kind)],
                single(cell.get()),
            );
        }
        let consumer = [("consumer", self.name.as_str())];
        push(
            "prometheus_wal_watcher_record_decode_failures_total",
            "Number of records read by the WAL watcher that resulted in an error when decoding.",
            Kind::Counter,
            &consumer,
            single(self.missed.get()),
        );
        push(
            "prometheus_wal_watcher_samples_sent_pre_tailing_total",
            "Number of sample records read by the WAL watcher and sent to remote write during replay of existing WAL.",
            Kind::Counter,
            &consumer,
            single(self.read_before_tailing.get()),
        );
        for (name, help, gauge) in [
            (
                "narthex_remote_lag_records",
                "Records of the log that a queue of remote write has not read yet.",
                &self.lag_records,
            ),
            (
                "narthex_remote_lag_bytes",
                "Bytes of the log that are kept for a queue of remote write and for nothing else.",
                &self.lag_bytes,
            ),
            ("narthex_remote_series", "Series that a queue of remote write knows.", &self.series),
            (
                "narthex_remote_series_bytes",
                "Bytes that the labels of the series take that a queue of remote write knows.",
                &self.table_bytes,
            ),
        ] {
            push(name, help, Kind::Gauge, &queue, single(gauge.get()));
        }
    }
}

/// The figures of all queues that run.
#[derive(Clone, Default)]
pub struct AllMetrics(Arc<Mutex<Vec<Weak<QueueMetrics>>>>);

impl AllMetrics {
    pub fn register(registry: &Registry) -> AllMetrics {
        let all = AllMetrics::default();
        let read = all.clone();
        registry.register(move |out| {
            let queues: Vec<_> = read.0.lock().iter().filter_map(Weak::upgrade).collect();
            queues.iter().for_each(|q| q.collect(out));
        });
        all
    }

    pub fn add(&self, queue: &Arc<QueueMetrics>) {
        let mut all = self.0.lock();
        all.retain(|q| q.strong_count() > 0);
        all.push(Arc::downgrade(queue));
    }
}
