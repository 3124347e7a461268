//! Scrape pools: which targets are scraped, how, and what became of it.
//!
//! [`Manager::apply`] takes the jobs and the assignment as they are to be, and changes what differs: loops of targets
//! that stay go on undisturbed. A target that vanishes gets staleness markers two intervals later; one that another
//! shard has taken over ([`Manager::hand_off`]) just stops.

mod target_loop;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use narthex_config::{Assignment, EscapingScheme, ScrapeConfig, Target, ValidationScheme};
use narthex_model::Labels;
use narthex_runtime::{CpuPool, Registry, Shutdown};
use narthex_storage::Appendable;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tracing::error;

use crate::exposition::{accept_header, protocol_format};
use crate::failure_log::FailureLog;
use crate::histogram::schema_for_factor;
use crate::metrics::Metrics;
use crate::session::{MetadataTable, MetricMetadata, SampleRules, Scratch};
use crate::store_log::StoreLog;
use narthex_http::{Client, ClientOptions};
use target_loop::{Order, Plan, TargetLoop};

/// What does not change while the process runs.
#[derive(Clone)]
pub struct Options {
    pub registry: Registry,
    /// Threads that read large pages.
    pub threads: usize,
    /// Longest decompressed body where a job sets no `body_size_limit`.
    pub max_body_bytes: u64,
    pub user_agent: String,
    /// Scrapes start at multiples of this (at most a tenth of the interval), so that the process wakes less often.
    pub grid: Duration,
    /// Series get labels for their types and units.
    pub type_and_unit_labels: bool,
    /// Samples of 0 are stored where counters say that they started; what says so is no series of its own.
    pub start_zeros: bool,
    /// The starts of counters are kept beside their samples.
    pub start_storage: bool,
    /// Counters that do not say when they started do so when they are first scraped.
    pub start_synthesis: bool,
    /// Milliseconds since the epoch; tests set another clock.
    pub now: Arc<dyn Fn() -> i64 + Send + Sync>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            registry: Registry::new(),
            threads: std::thread::available_parallelism().map_or(1, |n| n.get()).min(8),
            max_body_bytes: 256 << 20,
            user_agent: concat!("Narthex/", env!("CARGO_PKG_VERSION")).to_owned(),
            grid: Duration::from_millis(50),
            type_and_unit_labels: false,
            start_zeros: false,
            start_storage: false,
            start_synthesis: false,
            now: Arc::new(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)),
        }
    }
}

/// The health of a target by its last scrape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    #[default]
    Unknown,
    Up,
    Down,
}

impl Health {
    /// As `/api/v1/targets` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Health::Unknown => "unknown",
            Health::Up => "up",
            Health::Down => "down",
        }
    }
}

/// What is known of a target.
#[derive(Clone, Debug)]
pub struct TargetStatus {
    pub identity: u64,
    pub target: Arc<Target>,
    pub scrape_url: String,
    pub health: Health,
    /// When the last scrape began, in ms; 0 before the first one.
    pub last_scrape: i64,
    pub last_duration: Duration,
    /// Empty where the last scrape was good.
    pub last_error: String,
    /// Samples on the last page.
    pub samples: u64,
    /// Lines of the last good page.
    pub series: usize,
}

/// Buffers that are used again, a bounded number of a bounded size.
pub(crate) struct Reuse<T> {
    spare: Mutex<Vec<T>>,
    most: usize,
}

impl<T: Default> Reuse<T> {
    fn new(most: usize) -> Reuse<T> {
        Reuse { spare: Mutex::default(), most }
    }
}

/// A spare buffer larger than this is let go.
const LARGEST_SPARE: usize = 4 << 20;

impl Reuse<Vec<u8>> {
    /// A buffer for about `size` bytes.
    fn take(&self, size: usize) -> Vec<u8> {
        let mut spare = self.spare.lock();
        match spare.iter().position(|b| b.capacity() >= size) {
            Some(at) => spare.swap_remove(at),
            None => Vec::with_capacity(if size == 0 { 0 } else { size + size / 16 + 64 }),
        }
    }

    fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut spare = self.spare.lock();
        if spare.len() < self.most && (1..=LARGEST_SPARE).contains(&buffer.capacity()) {
            spare.push(buffer);
        }
    }
}

impl Reuse<Scratch> {
    fn take(&self) -> Scratch {
        self.spare.lock().pop().unwrap_or_default()
    }

    fn give(&self, scratch: Scratch) {
        let mut spare = self.spare.lock();
        if spare.len() < self.most {
            spare.push(scratch);
        }
    }
}

/// What all loops share.
pub(crate) struct Shared {
    store: Arc<dyn Appendable>,
    metrics: Metrics,
    cpu: CpuPool,
    /// As many as the pool's queue is long, so that it is never full.
    permits: Semaphore,
    buffers: Reuse<Vec<u8>>,
    scratches: Reuse<Scratch>,
    table: Arc<MetadataTable>,
    store_log: StoreLog,
    grid: i64,
    now: Arc<dyn Fn() -> i64 + Send + Sync>,
    /// Set when everything is to end: scrapes that are under way are given up.
    stopping: Shutdown,
    /// The same, for those who compute.
    stop: Arc<AtomicBool>,
}

impl Shared {
    fn now(&self) -> i64 {
        (self.now)()
    }
}

struct Pool {
    config: Arc<ScrapeConfig>,
    client: Result<Arc<Client>, Arc<str>>,
    failure_log: Option<Arc<FailureLog>>,
}

struct Running {
    target_loop: Arc<TargetLoop>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    pools: HashMap<Arc<str>, Pool>,
    loops: HashMap<u64, Running>,
    dropped: Vec<(Arc<str>, Labels)>,
    stopped: bool,
}

/// Scrapes what it is assigned.
pub struct Manager {
    shared: Arc<Shared>,
    options: Options,
    handle: Handle,
    state: Mutex<State>,
}

impl Manager {
    /// A manager without targets. Call it within a tokio runtime, which its loops then run on.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn new(store: Arc<dyn Appendable>, options: Options) -> std::io::Result<Manager> {
        const QUEUE: usize = 256;
        let shared = Arc::new(Shared {
            store,
            metrics: Metrics::new(&options.registry),
            cpu: CpuPool::new("scrape", options.threads, QUEUE)?,
            permits: Semaphore::new(QUEUE),
            buffers: Reuse::new(32),
            scratches: Reuse::new(options.threads + 2),
            table: Arc::default(),
            store_log: StoreLog::default(),
            grid: options.grid.as_millis().max(1) as i64,
            now: options.now.clone(),
            stopping: Shutdown::new(),
            stop: Arc::default(),
        });
        Ok(Manager { shared, options, handle: Handle::current(), state: Mutex::default() })
    }

    /// Scrapes the targets of the assignment by their jobs, and nothing else. Targets whose job is missing are left
    /// out. Returns at once; what has to stop or start does so on its own.
    pub fn apply(&self, jobs: &[Arc<ScrapeConfig>], assignment: &Assignment) {
        let begun = Instant::now();
        let mut state = self.state.lock();
        if state.stopped {
            return;
        }
        let metrics = &self.shared.metrics;
        let mut reloaded = Vec::new();
        let mut pools = HashMap::new();
        for config in jobs {
            let name: Arc<str> = config.job_name.as_str().into();
            let pool = match state.pools.remove(&name) {
                Some(pool) if pool.config == *config => pool,
                Some(_) => {
                    metrics.reloads.inc();
                    let pool = self.pool(config);
                    if pool.client.is_err() {
                        metrics.reloads_failed.inc();
                    }
                    reloaded.push(name.clone());
                    pool
                }
                None => {
                    metrics.pools.inc();
                    let pool = self.pool(config);
                    if pool.client.is_err() {
                        metrics.pools_failed.inc();
                    }
                    pool
                }
            };
            pools.insert(name, pool);
        }
        for name in state.pools.keys() {
            metrics.pool_syncs.remove(&[name]);
            metrics.pool_targets.remove(&[name]);
            metrics.pool_target_limit.remove(&[name]);
            metrics.sync_length.remove(&[name]);
            metrics.sync_length_histogram.remove(&[name]);
            metrics.metadata_bytes.remove(&[name]);
            metrics.sync_failed.remove(&[name]);
            metrics.metadata_entries.remove(&[name]);
        }
        state.pools = pools;
        state.dropped.clone_from(&assignment.dropped);
        state.loops.retain(|_, running| !running.task.is_finished());

        let mut wanted: HashMap<u64, &Arc<Target>> = HashMap::new();
        let mut sizes: HashMap<Arc<str>, usize> = state.pools.keys().map(|n| (n.clone(), 0)).collect();
        for target in &assignment.targets {
            if let Some(size) = sizes.get_mut(&target.pool)
                && wanted.insert(target.identity(), target).is_none()
            {
                *size += 1;
            }
        }
        for (identity, running) in &state.loops {
            if !wanted.contains_key(identity) && running.target_loop.current_order() == Order::Run {
                running.target_loop.order(Order::End);
            }
        }
        let State { pools, loops, .. } = &mut *state;
        let forced: HashMap<Arc<str>, Arc<str>> = pools
            .iter()
            .filter_map(|(name, pool)| {
                let (count, limit) = (sizes.get(name).copied().unwrap_or(0), pool.config.target_limit);
                (limit > 0 && count as u64 > limit).then(|| {
                    metrics.target_limit.inc();
                    let text = format!("target_limit exceeded (number of targets: {count}, limit: {limit})");
                    (name.clone(), text.into())
                })
            })
            .collect();
        for (identity, target) in wanted {
            let Some(pool) = pools.get(&target.pool) else { continue };
            let forced_error = forced.get(&target.pool).cloned();
            if let Some(running) = loops.get(&identity) {
                let old = running.target_loop.plan();
                let same = old.order == Order::Run
                    && old.target == *target
                    && old.forced_error == forced_error
                    && !reloaded.contains(&target.pool);
                if same {
                    continue;
                }
                let mut plan = self.plan(pool, target, forced_error.clone());
                if old.target == *target && old.config == plan.config {
                    plan.rules = old.rules;
                }
                if running.target_loop.set_plan(plan) {
                    continue;
                }
            }
            let target_loop = Arc::new(TargetLoop::new(identity, self.plan(pool, target, forced_error)));
            let task = self.handle.spawn(target_loop.clone().run(self.shared.clone()));
            loops.insert(identity, Running { target_loop, task });
        }
        for (name, pool) in pools.iter() {
            metrics.pool_syncs.with(&[name]).inc();
            metrics.pool_targets.with(&[name]).set(sizes.get(name).copied().unwrap_or(0) as f64);
            metrics.pool_target_limit.with(&[name]).set(pool.config.target_limit as f64);
            metrics.sync_length.with(&[name]).observe(begun.elapsed().as_secs_f64());
            metrics.sync_length_histogram.with(&[name]).observe(begun.elapsed().as_secs_f64());
            metrics.sync_failed.with(&[name]).add(0.0);
            if reloaded.contains(name) {
                let interval = narthex_model::duration::format(pool.config.scrape_interval);
                metrics.reload_length.with(&[&interval]).observe(begun.elapsed().as_secs_f64());
            }
        }
    }

    /// Stops these targets at once and without staleness markers: another shard scrapes them now. They must also be
    /// missing from the next assignment.
    pub fn hand_off(&self, identities: &[u64]) {
        let state = self.state.lock();
        for identity in identities {
            if let Some(running) = state.loops.get(identity) {
                running.target_loop.order(Order::Stop);
            }
        }
    }

    /// Stops everything without staleness markers. Scrapes that are under way are given up, as in Prometheus: a page
    /// may take long to come or to be read.
    pub async fn shutdown(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.stopping.request();
        let running: Vec<Running> = {
            let mut state = self.state.lock();
            state.stopped = true;
            state.loops.drain().map(|(_, r)| r).collect()
        };
        for r in &running {
            r.target_loop.order(Order::Stop);
        }
        for r in running {
            let _ = r.task.await;
        }
    }

    fn running(&self) -> Vec<Arc<TargetLoop>> {
        let state = self.state.lock();
        let alive = state.loops.values().filter(|r| r.target_loop.current_order() == Order::Run);
        alive.map(|r| r.target_loop.clone()).collect()
    }

    /// The targets that are scraped, by pool and then by labels.
    pub fn targets(&self) -> Vec<TargetStatus> {
        let mut all: Vec<TargetStatus> = self.running().iter().map(|l| l.status()).collect();
        all.sort_by(|a, b| {
            (&a.target.pool, &a.target.labels, &a.scrape_url).cmp(&(&b.target.pool, &b.target.labels, &b.scrape_url))
        });
        all
    }

    /// The targets that relabelling dropped, with their pools, as the last assignment had them.
    pub fn dropped_targets(&self) -> Vec<(Arc<str>, Labels)> {
        self.state.lock().dropped.clone()
    }

    /// The names of the pools, sorted.
    pub fn pools(&self) -> Vec<Arc<str>> {
        let mut names: Vec<_> = self.state.lock().pools.keys().cloned().collect();
        names.sort();
        names
    }

    /// What the targets' pages say of their metrics: each target with its descriptions, sorted by metric name.
    pub fn metadata(&self) -> Vec<(Arc<Target>, Vec<Arc<MetricMetadata>>)> {
        self.running().iter().map(|l| (l.plan().target, l.metadata().lock().clone())).collect()
    }

    /// Brings the gauges that are costly to keep up to date; call it before metrics are gathered.
    pub fn refresh_metrics(&self) {
        // Pools without targets are shown, too.
        let mut entries: HashMap<Arc<str>, (usize, usize)> =
            self.pools().into_iter().map(|name| (name, (0, 0))).collect();
        let mut bytes = 0;
        for l in self.running() {
            let metadata = l.metadata();
            let metadata = metadata.lock();
            let (count, size) = entries.entry(l.plan().target.pool.clone()).or_default();
            *count += metadata.len();
            let text = |m: &MetricMetadata| m.metric.len() + m.metadata.help.len() + m.metadata.unit.len();
            *size += metadata.iter().map(|m| text(m)).sum::<usize>();
            bytes += l.cache_bytes();
        }
        for (pool, (count, size)) in entries {
            self.shared.metrics.metadata_entries.with(&[&pool]).set(count as f64);
            self.shared.metrics.metadata_bytes.with(&[&pool]).set(size as f64);
        }
        self.shared.metrics.cache_bytes.set(bytes as f64);
    }

    fn pool(&self, config: &Arc<ScrapeConfig>) -> Pool {
        let escaping = match (config.metric_name_escaping_scheme, config.metric_name_validation_scheme) {
            (EscapingScheme::Unset, ValidationScheme::Legacy) => EscapingScheme::Underscores,
            (EscapingScheme::Unset, _) => EscapingScheme::AllowUtf8,
            (given, _) => given,
        };
        let protocols = match config.scrape_protocols.as_slice() {
            [] if config.native_histograms() => &narthex_config::ScrapeProtocol::PROTO_FIRST[..],
            [] => &narthex_config::ScrapeProtocol::DEFAULT[..],
            some => some,
        };
        let client = Client::new(
            config.http.clone(),
            ClientOptions {
                accept: accept_header(protocols, escaping),
                compression: config.enable_compression,
                user_agent: self.options.user_agent.clone(),
                body_limit: config.body_size_limit.limit().unwrap_or(self.options.max_body_bytes),
            },
        );
        let client = client.map(|c| Arc::new(c.dialing_as(&config.job_name))).map_err(|e| {
            error!(scrape_pool = config.job_name, error = %e, "error creating new scrape pool");
            Arc::from(format!("error creating HTTP client: {e}"))
        });
        let path = &config.scrape_failure_log_file;
        let failure_log = (!path.as_os_str().is_empty()).then(|| FailureLog::open(path)).and_then(|opened| {
            let opened = opened.inspect_err(|e| {
                error!(path = %path.display(), error = %e, "cannot open the scrape failure log");
            });
            opened.ok().map(Arc::new)
        });
        Pool { config: config.clone(), client, failure_log }
    }

    fn plan(&self, pool: &Pool, target: &Arc<Target>, forced_error: Option<Arc<str>>) -> Plan {
        Plan {
            target: target.clone(),
            config: pool.config.clone(),
            rules: Arc::new(SampleRules {
                type_and_unit: self.options.type_and_unit_labels,
                start_zeros: self.options.start_zeros,
                start_storage: self.options.start_storage,
                start_synthesis: self.options.start_synthesis,
                ..rules(&pool.config, target)
            }),
            client: pool.client.clone(),
            failure_log: pool.failure_log.clone(),
            forced_error,
            order: Order::Run,
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        for running in self.state.lock().loops.values() {
            running.target_loop.order(Order::Stop);
        }
    }
}

/// What a job says of the samples of one of its targets; a target's own labels may override three settings.
fn rules(config: &ScrapeConfig, target: &Target) -> SampleRules {
    let own = target.histograms;
    SampleRules {
        target_labels: target.labels.clone(),
        honor_labels: config.honor_labels,
        honor_timestamps: config.honor_timestamps,
        track_timestamps_staleness: config.track_timestamps_staleness,
        relabel: config.metric_relabel_configs.clone().into(),
        names: match config.metric_name_validation_scheme {
            ValidationScheme::Unset => ValidationScheme::Utf8,
            other => other,
        },
        sample_limit: config.sample_limit,
        label_limit: config.label_limit,
        label_name_length_limit: config.label_name_length_limit,
        label_value_length_limit: config.label_value_length_limit,
        bucket_limit: config.native_histogram_bucket_limit,
        series_limit: config.series_limit,
        shared_series_limit: config.job_series_limit,
        series_owner: config.series_owner().into(),
        max_schema: schema_for_factor(config.native_histogram_min_bucket_factor),
        native_histograms: own.native.unwrap_or(config.native_histograms()),
        keep_classic_histograms: own.classic.unwrap_or(config.classic_histograms()),
        convert_classic_histograms: own.convert_to_nhcb.unwrap_or(config.convert_to_nhcb()),
        fallback: config.fallback_scrape_protocol.map(protocol_format),
        extra_metrics: config.extra_metrics(),
        type_and_unit: false,
        start_zeros: false,
        start_storage: false,
        start_synthesis: false,
        timeout_seconds: target.timeout.as_secs_f64(),
    }
}
