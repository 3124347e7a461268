use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use narthex_model::{Exemplar, Histogram, Labels, Matcher, Metadata};

use crate::{Meter, StorageError, Trace, WriteBatch};

/// Where samples come from: the local store, a peer shard, or the whole fleet. All ranges are closed.
///
/// Matchers of one selector are joined by "and". A selector without matchers selects everything.
pub trait Queryable: Send + Sync {
    /// The samples of the selected series in `[mint, maxt]`.
    ///
    /// # Errors
    /// `Limit`, `Timeout`, `Cancelled`, `Unavailable`, `Corrupt`. What is only partly missing (a peer, a corrupt
    /// block) is no error but a warning in the answer.
    fn select(&self, request: SelectRequest) -> BoxFuture<'_, Result<SeriesSet, StorageError>>;

    /// The label sets of the series that match any of the query's selectors and have samples (to the resolution of
    /// the index, at worst a day) in the range. Sorted, unique.
    fn series(&self, query: LabelQuery) -> BoxFuture<'_, Result<LabelResult<Labels>, StorageError>>;

    /// The label names of those series. Sorted, unique.
    fn label_names(&self, query: LabelQuery) -> BoxFuture<'_, Result<LabelResult<String>, StorageError>>;

    /// The values of one label among those series. Sorted, unique, never empty strings.
    fn label_values(&self, name: &str, query: LabelQuery) -> BoxFuture<'_, Result<LabelResult<String>, StorageError>>;

    /// Exemplars of the series that match any selector, in `[mint, maxt]`: series sorted by labels, each with its
    /// exemplars by time.
    fn exemplars(&self, query: LabelQuery) -> BoxFuture<'_, Result<Vec<(Labels, Vec<Exemplar>)>, StorageError>>;

    /// Type, help and unit by metric name; of one name when given. A name may have several (targets may disagree).
    fn metadata(&self, metric: Option<&str>) -> BoxFuture<'_, Result<Vec<MetadataEntry>, StorageError>>;
}

/// What is known of one metric name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataEntry {
    pub metric: String,
    pub metadata: Metadata,
}

/// What to select.
#[derive(Clone, Debug)]
pub struct SelectRequest {
    pub matchers: Vec<Matcher>,
    pub mint: i64,
    pub maxt: i64,
    pub hints: SelectHints,
}

impl SelectRequest {
    pub fn new(matchers: Vec<Matcher>, mint: i64, maxt: i64) -> SelectRequest {
        SelectRequest { matchers, mint, maxt, hints: SelectHints::default() }
    }
}

/// What the caller will do with the samples: an implementation may use it to read or send less, never must.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SelectHints {
    /// Only the newest sample of each series in the range is needed (an instant selector).
    pub latest_only: bool,
    /// Step of the query in ms, 0 for an instant query.
    pub step: i64,
    /// Range of a range selector in ms, 0 for an instant selector.
    pub range: i64,
    /// The function or aggregation directly around the selector.
    pub func: Option<String>,
    /// Labels of the aggregation around it, and whether they are kept (`by`) or dropped (`without`).
    pub grouping: Vec<String>,
    pub by: bool,
    /// At most this many series are needed; 0: all.
    pub limit: usize,
    /// Only whether there is a sample, and not its value, is needed: an implementation may put any value that is no
    /// staleness marker in place of one that is none.
    pub no_samples: bool,
    /// Only these labels are needed: an implementation may leave out others, so that several series of the answer may
    /// have the same labels. Whoever merges series by their labels must take it out before asking further.
    pub only_labels: Option<Vec<String>>,
    /// Counts what is found and held. It does not cross the network.
    pub meter: Meter,
    /// The step that selecting is. It does not cross the network.
    pub trace: Trace,
}

/// Selected series, in batches. Iterating decodes; it is synchronous and may be dropped at any time.
pub struct SeriesSet {
    /// In no particular order; each series comes once.
    pub batches: Box<dyn Iterator<Item = Result<Batch, StorageError>> + Send>,
    /// What is missing from the answer (a peer that did not answer, a corrupt block), in words.
    pub warnings: Vec<String>,
}

impl SeriesSet {
    pub fn empty() -> SeriesSet {
        SeriesSet { batches: Box::new(std::iter::empty()), warnings: Vec::new() }
    }

    pub fn from_series(series: Vec<Series>) -> SeriesSet {
        SeriesSet { batches: Box::new(std::iter::once(Ok(Batch { series }))), warnings: Vec::new() }
    }

    /// All series, sorted by labels.
    ///
    /// # Errors
    /// The first that a batch gives.
    pub fn collect_sorted(self) -> Result<Vec<Series>, StorageError> {
        let mut all = Vec::new();
        for batch in self.batches {
            all.append(&mut batch?.series);
        }
        all.sort_by(|a, b| a.labels.cmp(&b.labels));
        Ok(all)
    }
}

/// Series that belong together, usually of one scrape group: most share their timestamps.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub series: Vec<Series>,
}

/// One series with its samples in the range. A timestamp is in at most one of the two columns.
#[derive(Clone, Debug, Default)]
pub struct Series {
    pub labels: Labels,
    /// Staleness markers included.
    pub floats: FloatColumn,
    pub histograms: HistogramColumn,
    /// Where it is in the order in which the store first saw its series, in which Prometheus answers what its head has;
    /// 0 where an answer goes by labels: from blocks, or from several stores. Among the series of one answer either none
    /// or all have one.
    pub order: u32,
}

impl Series {
    /// Bytes that it takes in memory, but for timestamps, which others share.
    pub fn bytes(&self) -> usize {
        let floats = match &self.floats.values {
            Values::Dense(values) => 8 * values.len(),
            Values::Constant(_) => 8,
        };
        let histograms: usize = self.histograms.values.iter().map(|h| 8 * h.weight() + 64).sum();
        floats + histograms + self.labels.heap_bytes() + size_of::<Series>()
    }
}

impl Batch {
    /// Samples of its series.
    pub fn samples(&self) -> usize {
        self.series.iter().map(|s| s.floats.len() + s.histograms.timestamps.len()).sum()
    }

    /// Bytes of its series, see [`Series::bytes`].
    pub fn bytes(&self) -> usize {
        self.series.iter().map(Series::bytes).sum()
    }
}

/// Float samples, ascending in time, timestamps unique.
#[derive(Clone, Debug)]
pub struct FloatColumn {
    /// Series of one group point to the very same allocation (`Arc::ptr_eq`), so that a reader can find the window
    /// boundaries once for all of them.
    pub timestamps: Arc<[i64]>,
    pub values: Values,
    /// Start timestamps parallel to `timestamps`, 0 where unknown; `None` where none is known.
    pub start_timestamps: Option<Arc<[i64]>>,
}

impl Default for FloatColumn {
    fn default() -> Self {
        FloatColumn { timestamps: Arc::from([]), values: Values::Dense(Vec::new()), start_timestamps: None }
    }
}

impl FloatColumn {
    pub fn new(timestamps: impl Into<Arc<[i64]>>, values: Vec<f64>) -> FloatColumn {
        FloatColumn { timestamps: timestamps.into(), values: Values::Dense(values), start_timestamps: None }
    }

    pub fn len(&self) -> usize {
        self.timestamps.len()
    }

    pub fn is_empty(&self) -> bool {
        self.timestamps.is_empty()
    }

    /// `(timestamp, value)` in time order.
    pub fn iter(&self) -> impl Iterator<Item = (i64, f64)> + '_ {
        self.timestamps.iter().enumerate().map(|(i, t)| (*t, self.values.at(i)))
    }
}

/// The values of a column.
#[derive(Clone, Debug)]
pub enum Values {
    /// All samples have these very bits; never a staleness marker.
    Constant(f64),
    /// As long as the timestamps.
    Dense(Vec<f64>),
}

impl Values {
    pub fn at(&self, i: usize) -> f64 {
        match self {
            Values::Constant(v) => *v,
            Values::Dense(values) => values[i],
        }
    }
}

/// Native histogram samples, ascending in time. Stale ones have a stale sum.
#[derive(Clone, Debug, Default)]
pub struct HistogramColumn {
    pub timestamps: Vec<i64>,
    pub values: Vec<Arc<Histogram>>,
    /// Start timestamps parallel to `timestamps`, or empty where none is known.
    pub start_timestamps: Vec<i64>,
}

/// Selectors (joined by "or"; none selects everything), a range and a limit for questions about labels.
#[derive(Clone, Debug, Default)]
pub struct LabelQuery {
    pub selectors: Vec<Vec<Matcher>>,
    pub mint: i64,
    pub maxt: i64,
    /// At most this many entries; 0: all.
    pub limit: usize,
    /// Counts what is found and held. It does not cross the network.
    pub meter: Meter,
    /// The step that the question is. It does not cross the network.
    pub trace: Trace,
}

/// Sorted unique entries.
#[derive(Clone, Debug, Default)]
pub struct LabelResult<T> {
    pub values: Vec<T>,
    /// The limit cut the list.
    pub truncated: bool,
    /// What is missing from the answer, in words.
    pub warnings: Vec<String>,
}

/// What `/api/v1/status/tsdb` shows.
#[derive(Clone, Debug, Default)]
pub struct TsdbStats {
    pub num_series: u64,
    pub num_label_pairs: u64,
    pub chunk_count: u64,
    pub min_time: i64,
    pub max_time: i64,
    /// Largest first, at most the asked number each.
    pub series_count_by_metric_name: Vec<(String, u64)>,
    pub label_value_count_by_label_name: Vec<(String, u64)>,
    pub memory_in_bytes_by_label_name: Vec<(String, u64)>,
    pub series_count_by_label_value_pair: Vec<(String, u64)>,
}

/// What became of the samples of a backfill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backfilled {
    pub taken: u64,
    /// The very same sample is there.
    pub known: u64,
    /// Another value is there at that time, and stays.
    pub duplicate: u64,
    /// Older than retention allows.
    pub too_old: u64,
    /// Later than allowed.
    pub too_new: u64,
}

/// What an administrator may do with a store. All of it blocks: call it from a thread that may.
pub trait StorageAdmin: Send + Sync {
    /// Deletes the samples of matching series in `[mint, maxt]`: at once for queries, on disk at the next
    /// [`StorageAdmin::clean_tombstones`] or compaction.
    fn delete_series(&self, selectors: &[Vec<Matcher>], mint: i64, maxt: i64) -> Result<(), StorageError>;

    fn clean_tombstones(&self) -> Result<(), StorageError>;

    /// A consistent copy (hard links) below the data folder's `snapshots`; returns its folder's name.
    fn snapshot(&self, skip_head: bool) -> Result<String, StorageError>;

    /// Takes samples of any age that retention allows, whatever their series have since; those later than `latest` are
    /// left out. What is there already is not stored again. When it returns without an error all is on the device.
    ///
    /// # Errors
    /// `Unavailable` when the disk takes nothing: then a part of the batch may be stored, and it can be sent again.
    fn backfill(&self, batch: WriteBatch, latest: i64) -> Result<Backfilled, StorageError>;

    fn stats(&self, limit: usize) -> TsdbStats;

    /// Facts for status pages (sizes, retention, folder), name to text.
    fn status(&self) -> BTreeMap<String, String>;
}
