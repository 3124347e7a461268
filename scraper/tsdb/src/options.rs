use std::path::PathBuf;
use std::time::Duration;

/// What the store tells the length of, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Took {
    /// Syncing the log to the device.
    LogSync,
    /// Dropping what of the log is not needed any more.
    LogTrim,
    /// Writing a window to blocks, and forgetting the series that ended before it.
    WindowClose,
    /// Merging windows of a group into a longer one.
    Merge,
    /// Taking deleted samples out of all blocks.
    TombstoneCleanup,
    /// By how much a sample was older than the newest of its series; no duration of anything the store did.
    Lateness,
}

/// Who is told how long things took.
#[derive(Clone, Default)]
pub struct Observer(Option<std::sync::Arc<dyn Fn(Took, f64) + Send + Sync>>);

impl Observer {
    pub fn new(tell: impl Fn(Took, f64) + Send + Sync + 'static) -> Observer {
        Observer(Some(std::sync::Arc::new(tell)))
    }

    pub(crate) fn tell(&self, what: Took, seconds: f64) {
        if let Some(tell) = &self.0 {
            tell(what, seconds);
        }
    }

    /// Runs and tells how long it took.
    pub(crate) fn time<T>(&self, what: Took, work: impl FnOnce() -> T) -> T {
        let start = std::time::Instant::now();
        let done = work();
        self.tell(what, start.elapsed().as_secs_f64());
        done
    }
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Observer" } else { "no observer" })
    }
}

/// How a store is set up. What is not given keeps its default.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The data folder; made where it is missing.
    pub path: PathBuf,
    /// How often the log is synced to the device: what a power cut may cost. 1 s.
    pub sync_interval: Duration,
    /// How much older than the newest sample of the store a sample may be and still be taken (Prometheus's
    /// `out_of_order_time_window`). 0: samples must come in order.
    pub out_of_order_time_window: Duration,
    /// Samples older than this against the newest go. Zero: kept for ever.
    pub retention: Duration,
    /// The oldest samples go when the folder holds more bytes than this. 0: no bound.
    pub retention_size: u64,
    /// The same in percent of the file system that holds the folder; prevails over `retention_size`. 0: no bound.
    pub retention_percentage: f64,
    /// New series are refused when so many are in memory. 0: no bound.
    pub max_series: usize,
    /// The same for one group (a target). 0: no bound.
    pub max_series_per_group: usize,
    /// The same for the groups whose keys are the same up to the last slash (a job or monitor). 0: no bound.
    pub max_series_per_pool: usize,
    /// Bytes of memory that the process may take; new series are refused before it is reached. 0: no bound.
    pub memory_budget: u64,
    /// How many scrapes a group's window in memory holds, at most; 240.
    pub window_rows: usize,
    /// How many bytes its rows take for each series, about; 96. Where most values change by much, a window has fewer
    /// rows, but not less than an eighth.
    pub window_bytes: usize,
    /// How much time it spans, at most; 2 h.
    pub window_span: Duration,
    /// To how many rows windows on disk are merged, about; 1,440. Two thirds of it are enough.
    pub merged_rows: usize,
    /// How many exemplars are kept, the newest.
    pub max_exemplars: usize,
    /// RocksDB's block cache in bytes; half as much again is kept of what queries read from it.
    pub block_cache_bytes: usize,
    /// Bytes of decoded columns that are kept for queries that ask for them again.
    pub decoded_cache_bytes: usize,
    /// RocksDB's buffer for log records in bytes.
    pub head_buffer_bytes: usize,
    /// Whether tables are read past the system's cache, and whether flushes and compactions write past it. Both false.
    pub direct_reads: bool,
    pub direct_writes: bool,
    /// RocksDB's threads for flushes and compactions; 0: as many as there are cores, at most 4.
    pub background_jobs: usize,
    pub observer: Observer,
}

impl StoreOptions {
    /// Sizes what is kept in memory for a budget of so many bytes, 0 for none: a small machine gets by with little, a
    /// large one reads less from the disk. What series take, which is most of it, is bounded by refusing new ones.
    pub fn fit_memory(&mut self, budget: u64) {
        self.memory_budget = budget;
        if budget > 0 {
            let part = |of: u64, least: u64, most: u64| (budget / of).clamp(least << 20, most << 20) as usize;
            // No more than that however large the machine: the system's own cache holds files too, and gives way.
            self.block_cache_bytes = part(64, 4, 32);
            self.decoded_cache_bytes = part(128, 4, 64);
            self.head_buffer_bytes = part(256, 2, 8);
        }
    }

    pub fn new(path: impl Into<PathBuf>) -> StoreOptions {
        StoreOptions {
            path: path.into(),
            sync_interval: Duration::from_secs(1),
            out_of_order_time_window: Duration::ZERO,
            retention: Duration::ZERO,
            retention_size: 0,
            retention_percentage: 0.0,
            max_series: 0,
            max_series_per_group: 0,
            max_series_per_pool: 0,
            memory_budget: 0,
            window_rows: 240,
            window_bytes: 96,
            window_span: Duration::from_secs(2 * 3600),
            merged_rows: 1440,
            max_exemplars: 100_000,
            block_cache_bytes: 16 << 20,
            decoded_cache_bytes: 32 << 20,
            head_buffer_bytes: 8 << 20,
            direct_reads: false,
            direct_writes: false,
            background_jobs: 0,
            observer: Observer::default(),
        }
    }
}
