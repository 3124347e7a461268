//! All that handlers share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use narthex_config::Target;
use narthex_model::Labels;
use narthex_model::relabel::RelabelConfig;
use narthex_promql::ParserOptions;
use narthex_runtime::{CpuPool, Registry, Shutdown};
use narthex_scrape::Health;
use narthex_scrape::session::MetricMetadata;
use narthex_storage::{Appendable, Queryable, StorageAdmin};
use tokio::sync::{mpsc, oneshot};
use url::Url;

use crate::active::ActiveQueries;
use crate::metrics::HttpMetrics;
use crate::notifications::Notifications;
use crate::rules::RuleGroup;

/// What stays as it is while the process runs.
#[derive(Clone, Debug)]
pub struct Options {
    pub external_url: Url,
    /// `/`, or a path without a slash at its end.
    pub route_prefix: String,
    /// The first address that is listened on, `host:port`.
    pub listen_address: String,
    /// Nothing is asked: questions are answered as Prometheus's agent mode answers them.
    pub agent: bool,
    pub enable_lifecycle: bool,
    pub enable_admin: bool,
    pub enable_remote_write: bool,
    pub enable_otlp: bool,
    /// What pushes are taken; none: none are.
    pub push: Option<crate::push::PushOptions>,
    /// OTLP's delta temporality is stored as it is.
    pub otlp_native_delta: bool,
    /// OTLP's delta temporality is made cumulative.
    pub otlp_delta_to_cumulative: bool,
    pub remote_read: crate::read::ReadOptions,
    /// Remote-write messages that are accepted, by their protobuf names.
    pub accepted_messages: Vec<String>,
    /// Anchored; `.*` allows every origin.
    pub cors_origin: regex::Regex,
    pub page_title: String,
    pub lookback_delta: Duration,
    /// Limits of questions, by class.
    pub query: crate::class::QueryOptions,
    /// Queries that take longer are logged; zero logs none.
    pub slow_query: Duration,
    /// Flags by name, for `/status/flags`.
    pub flags: BTreeMap<String, String>,
    pub parser: ParserOptions,
    pub per_step_stats: bool,
    pub delayed_name_removal: bool,
    /// Queries look at `__type__` for whether a metric is a counter.
    pub type_and_unit_labels: bool,
    /// Queries find resets by start timestamps, too.
    pub start_timestamps: bool,
    /// Whether what is pushed with starts gets samples of 0 there.
    pub start_zeros: bool,
    /// Whether `/search/…` answers.
    pub enable_search: bool,
    /// Whether the starts of counters are kept beside their samples.
    pub start_storage: bool,
    /// What `/features` lists, by category and name.
    pub features: BTreeMap<String, BTreeMap<String, bool>>,
    pub build: BuildInfo,
    /// Most that may listen to notifications at once.
    pub max_notification_listeners: usize,
}

/// What was built, for `/status/buildinfo`, `/version` and `prometheus_build_info`.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildInfo {
    pub version: String,
    pub revision: String,
    pub branch: String,
    pub build_user: String,
    pub build_date: String,
    pub go_version: String,
}

/// What a reload changes.
#[derive(Clone, Debug, Default)]
pub struct ConfigView {
    /// The file as it is in force, secrets hidden.
    pub yaml: String,
    pub external_labels: Labels,
    /// How OTLP is translated.
    pub otlp: narthex_config::OtlpConfig,
    /// The relabelling of targets, by scrape pool.
    pub relabel: BTreeMap<String, Vec<RelabelConfig>>,
    /// The configuration of each scrape pool as YAML, secrets hidden.
    pub pools: BTreeMap<String, String>,
    /// `15d`, `512MB`, or both joined by " or ".
    pub retention: String,
    /// How often targets are scraped that say nothing else, and pushed groups appended; zero where that is not known.
    pub scrape_interval: Duration,
}

/// A target and its last scrape.
#[derive(Clone, Debug)]
pub struct TargetStatus {
    pub target: Arc<Target>,
    pub health: Health,
    /// Empty when there was none.
    pub last_error: String,
    /// Milliseconds since the epoch; none before the first scrape.
    pub last_scrape: Option<i64>,
    pub last_duration: Duration,
    /// The shard that scrapes it, in a fleet.
    pub shard: Option<String>,
}

/// Targets that relabelling dropped.
#[derive(Clone, Debug, Default)]
pub struct DroppedTargets {
    /// Scrape pool and discovered labels; only as many as the configuration keeps.
    pub targets: Vec<(String, Labels)>,
    /// All of them, counted by scrape pool.
    pub counts: BTreeMap<String, u64>,
}

type Source<T> = Arc<dyn Fn() -> T + Send + Sync>;

/// Where handlers ask for what other parts know. Each is called per request and has to be quick.
#[derive(Clone)]
pub struct Sources {
    pub targets: Source<Vec<TargetStatus>>,
    pub dropped: Source<DroppedTargets>,
    /// Names, in any order.
    pub scrape_pools: Source<Vec<String>>,
    /// What the targets' pages say of their metrics.
    pub target_metadata: Source<Vec<(Arc<Target>, Vec<Arc<MetricMetadata>>)>>,
    pub rules: Source<Vec<RuleGroup>>,
    /// URLs of active and of dropped Alertmanagers.
    pub alertmanagers: Source<(Vec<String>, Vec<String>)>,
}

impl Default for Sources {
    fn default() -> Sources {
        Sources {
            targets: Arc::new(Vec::new),
            dropped: Arc::new(DroppedTargets::default),
            scrape_pools: Arc::new(Vec::new),
            target_metadata: Arc::new(Vec::new),
            rules: Arc::new(Vec::new),
            alertmanagers: Arc::new(|| (Vec::new(), Vec::new())),
        }
    }
}

/// Whether requests are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    NotReady,
    Ready,
    Stopping,
}

/// One reload of the configuration, answered by its outcome in words.
pub type ReloadRequest = oneshot::Sender<Result<(), String>>;

/// The parts of a server.
pub struct Parts {
    pub options: Options,
    pub storage: Arc<dyn Queryable>,
    /// Where remote write goes.
    pub appendable: Arc<dyn Appendable>,
    pub admin: Option<Arc<dyn StorageAdmin>>,
    /// Evaluates queries.
    pub queries: CpuPool,
    /// Decodes and appends what is pushed.
    pub ingest: CpuPool,
    pub registry: Registry,
    pub sources: Sources,
    pub reload: mpsc::Sender<ReloadRequest>,
    pub shutdown: Shutdown,
}

/// What every handler gets.
pub struct App {
    pub options: Options,
    pub storage: Arc<dyn Queryable>,
    pub appendable: Arc<dyn Appendable>,
    pub admin: Option<Arc<dyn StorageAdmin>>,
    pub queries: CpuPool,
    pub ingest: CpuPool,
    pub registry: Registry,
    pub sources: Sources,
    pub view: ArcSwap<ConfigView>,
    pub reload: mpsc::Sender<ReloadRequest>,
    pub shutdown: Shutdown,
    pub metrics: HttpMetrics,
    pub active: ActiveQueries,
    pub classes: crate::class::Classes,
    /// What queries took of late.
    pub top: crate::top::TopQueries,
    pub notifications: Notifications,
    pub engine: crate::engine::QueryEngine,
    pub(crate) quick: crate::quick::Quick,
    pub write_metrics: crate::write::WriteMetrics,
    pub remote_read: crate::read::RemoteRead,
    /// Series that remote write brought.
    pub known: crate::write::known::Known,
    pub otlp_metrics: crate::otlp::OtlpMetrics,
    pub(crate) otlp_sums: crate::otlp::delta::Sums,
    /// What is pushed, once the store is open.
    pub push: OnceLock<Arc<crate::push::Push>>,
    readiness: AtomicU8,
}

impl App {
    pub fn new(parts: Parts) -> Arc<App> {
        let metrics = HttpMetrics::new(&parts.registry);
        let engine = crate::engine::QueryEngine::new(&parts.options, &parts.registry);
        let active = ActiveQueries::default();
        let classes = crate::class::Classes::new(&parts.options.query, &parts.registry);
        let mut known = crate::write::known::Known::new(crate::write::known::MAX_KNOWN);
        known.rules = crate::write::decode::Rules {
            zeros: parts.options.start_zeros,
            type_and_unit: parts.options.type_and_unit_labels,
        };
        let write_metrics = crate::write::WriteMetrics::new(&parts.registry);
        let remote_read = crate::read::RemoteRead::new(parts.options.remote_read, &parts.registry);
        let otlp_metrics = crate::otlp::OtlpMetrics::new(&parts.registry);
        let notifications = Notifications::new(&parts.registry, parts.options.max_notification_listeners);
        Arc::new(App {
            storage: parts.storage,
            appendable: parts.appendable,
            admin: parts.admin,
            queries: parts.queries,
            ingest: parts.ingest,
            registry: parts.registry,
            sources: parts.sources,
            view: ArcSwap::default(),
            reload: parts.reload,
            shutdown: parts.shutdown,
            metrics,
            active,
            classes,
            top: Default::default(),
            notifications,
            engine,
            quick: Default::default(),
            write_metrics,
            remote_read,
            known,
            otlp_metrics,
            otlp_sums: Default::default(),
            push: OnceLock::new(),
            options: parts.options,
            readiness: AtomicU8::new(0),
        })
    }

    pub fn readiness(&self) -> Readiness {
        match self.readiness.load(Ordering::Acquire) {
            0 => Readiness::NotReady,
            1 => Readiness::Ready,
            _ => Readiness::Stopping,
        }
    }

    pub fn set_readiness(&self, to: Readiness) {
        let (code, gauge) = match to {
            Readiness::NotReady => (0, 0.0),
            Readiness::Ready => (1, 1.0),
            Readiness::Stopping => (2, 0.0),
        };
        self.readiness.store(code, Ordering::Release);
        self.metrics.ready.set(gauge);
    }

    /// Takes pushes from here on, if the options ask for it; groups are kept in `folder`.
    ///
    /// # Errors
    /// When the folder can't be used.
    pub fn open_push(&self, folder: &std::path::Path) -> std::io::Result<()> {
        if let Some(options) = &self.options.push {
            let push = crate::push::Push::open(options, folder, self.appendable.clone(), &self.registry)?;
            let _ = self.push.set(Arc::new(push));
        }
        Ok(())
    }

    /// Takes a new configuration into force, as far as it concerns handlers.
    pub fn set_view(&self, view: ConfigView) {
        self.view.store(Arc::new(view));
    }
}
