//! `narthex server`: one process that discovers, scrapes, stores and answers.

mod reload;
pub(crate) mod settings;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use narthex_config::{Assignment, Config, ScrapeConfig};
use narthex_discovery::{DiscoveryManager, SdMetrics, Snapshot};
use narthex_runtime::metrics::{Family, Gauge, Kind};
use narthex_runtime::trace::{Telemetry, TraceOptions};
use narthex_runtime::{CpuPool, Registry, Shutdown, Stages};
use narthex_scrape::Manager;
use narthex_server::listen::ListenOptions;
use narthex_server::notifications;
use narthex_server::web_config::Live;
use narthex_server::{App, ConfigView, DroppedTargets, Health, Parts, Readiness, ReloadRequest, Sources, TargetStatus};
use narthex_tsdb::Store;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use self::settings::Settings;
use crate::flags::Flags;
use crate::version;

/// An error with what lies below it.
pub fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        let below = e.to_string();
        if !text.ends_with(&below) {
            text = format!("{text}: {below}");
        }
        source = e.source();
    }
    text
}

/// Runs until a signal or `/-/quit`.
///
/// # Errors
/// When the server cannot start; what goes wrong later is logged.
pub fn run(flags: Flags) -> anyhow::Result<()> {
    let mut settings =
        Settings::of(&flags).map_err(|e| anyhow::anyhow!("error parsing command line arguments: {e}"))?;
    let telemetry = narthex_runtime::trace::init(settings.log_level, settings.log_format)?;
    info!(version = version::text(), "starting Narthex Server");
    for name in flags.without_effect() {
        warn!(flag = name, "this flag has no effect here");
    }
    for note in &settings.notes {
        warn!(note, "feature flags");
    }
    // Fails only if one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async move {
        let config = load(&mut settings)?;
        serve(settings, config, telemetry).await
    })
}

/// A configuration and its jobs.
struct Loaded {
    config: Config,
    jobs: Vec<Arc<ScrapeConfig>>,
}

fn read(settings: &Settings) -> Result<Loaded, String> {
    let config = match &settings.config_file {
        Some(file) => Config::load_file(file),
        None => Config::parse(&settings.default_config, Path::new("(built-in)"), &|_| None),
    };
    let loaded = config.and_then(|config| config.jobs().map(|jobs| Loaded { jobs, config }));
    loaded.map_err(|e| {
        let file = settings.config_file.as_ref().map_or("(built-in)".into(), |f| f.display().to_string());
        format!("couldn't load configuration (--config.file={file:?}): {}", with_sources(&e))
    })
}

fn load(settings: &mut Settings) -> anyhow::Result<Loaded> {
    if settings.config_file.is_none() {
        settings.find_default_config();
    }
    match &settings.config_file {
        Some(file) => info!(file = %file.display(), "loading configuration file"),
        None => info!("no configuration file: scraping this server, and a node_exporter where one answers"),
    }
    read(settings).map_err(anyhow::Error::msg)
}

/// Metrics about the configuration.
struct ConfigMetrics {
    success: Gauge,
    success_time: Gauge,
}

impl ConfigMetrics {
    fn new(r: &Registry) -> ConfigMetrics {
        ConfigMetrics {
            success: r.gauge(
                "prometheus_config_last_reload_successful",
                "Whether the last configuration reload attempt was successful.",
            ),
            success_time: r.gauge(
                "prometheus_config_last_reload_success_timestamp_seconds",
                "Timestamp of the last successful configuration reload.",
            ),
        }
    }

    fn loaded(&self, ok: bool) {
        self.success.set(f64::from(u8::from(ok)));
        if ok {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
            self.success_time.set(now);
        }
    }
}

pub(crate) fn register_own(registry: &Registry, store: &Store, manager: &Arc<Manager>) {
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
    let store = store.clone();
    registry.register(move |out| {
        for (figure, value) in store.figures() {
            // `name{label="value"}` or a bare name.
            let (name, label) = figure.trim_end_matches('}').split_once('{').unwrap_or((&figure, ""));
            let kind = if name.ends_with("_total") { Kind::Counter } else { Kind::Gauge };
            let labels: Vec<(&str, &str)> =
                label.split_once('=').map(|(n, v)| (n, v.trim_matches('"'))).into_iter().collect();
            out.push(Family::new(name, &settings::help_of(name), kind).with(&labels, value));
        }
    });
    let manager = Arc::downgrade(manager);
    registry.register(move |_| {
        if let Some(manager) = manager.upgrade() {
            manager.refresh_metrics();
        }
    });
    // What rules, alerts and remote storage would count; the stock dashboards and alerts read these names.
    for (name, help, kind, value) in settings::CONSTANTS {
        registry.register(move |out| out.push(Family::single(name, help, kind, value)));
    }
}

pub(crate) fn sources(manager: &Arc<Manager>, counts: watch::Receiver<Arc<DroppedTargets>>) -> Sources {
    let targets = manager.clone();
    let pools = manager.clone();
    let metadata = manager.clone();
    Sources {
        targets: Arc::new(move || {
            let status = |s: narthex_scrape::TargetStatus| TargetStatus {
                health: match s.health {
                    narthex_scrape::Health::Unknown => Health::Unknown,
                    narthex_scrape::Health::Up => Health::Up,
                    narthex_scrape::Health::Down => Health::Down,
                },
                last_error: s.last_error,
                last_scrape: (s.last_scrape != 0).then_some(s.last_scrape),
                last_duration: s.last_duration,
                target: s.target,
                shard: None,
            };
            targets.targets().into_iter().map(status).collect()
        }),
        dropped: Arc::new(move || DroppedTargets::clone(&counts.borrow())),
        scrape_pools: Arc::new(move || pools.pools().iter().map(|p| p.to_string()).collect()),
        target_metadata: Arc::new(move || metadata.metadata()),
        ..Sources::default()
    }
}

/// Everything that a new configuration or new targets have to reach.
struct Control {
    settings: Settings,
    app: Arc<App>,
    manager: Arc<Manager>,
    discovery: DiscoveryManager,
    telemetry: Arc<Telemetry>,
    metrics: ConfigMetrics,
    jobs: Vec<Arc<ScrapeConfig>>,
    generation: u64,
    dropped: watch::Sender<Arc<DroppedTargets>>,
}

impl Control {
    /// Brings a configuration into force.
    fn apply(&mut self, loaded: Loaded) {
        let Loaded { config, jobs } = loaded;
        let pools = jobs.iter().map(|j| (j.job_name.clone(), settings::job_yaml(j))).collect();
        self.app.set_view(ConfigView {
            yaml: config.to_yaml(),
            external_labels: config.global.external_labels.clone(),
            relabel: jobs.iter().map(|j| (j.job_name.clone(), j.relabel_configs.clone())).collect(),
            pools,
            retention: self.settings.retention_text(&config),
        });
        let tracing = config.tracing.as_ref().filter(|t| !t.endpoint.is_empty());
        let endpoint = tracing.map(settings::trace_endpoint).or_else(narthex_runtime::trace::endpoint_from_env);
        let options = endpoint.map(|endpoint| TraceOptions {
            endpoint,
            service_name: std::env::var("OTEL_SERVICE_NAME").unwrap_or_else(|_| "narthex".into()),
            service_version: version::text(),
            sampling: tracing.map_or(1.0, |t| t.sampling_fraction),
            timeout: tracing.map(|t| t.timeout).filter(|t| !t.is_zero()).unwrap_or(Duration::from_secs(10)),
            headers: tracing.into_iter().flat_map(|t| t.headers.clone()).collect(),
        });
        if let Err(e) = self.telemetry.traces(options) {
            error!(err = %e, "traces are not exported");
        }
        for note in settings::unsupported(&config) {
            warn!(note, "configuration");
        }
        self.discovery.apply(&jobs);
        self.jobs = jobs;
        self.metrics.loaded(true);
    }

    /// Assigns all targets to this process.
    fn assign(&mut self, snapshot: &Snapshot) {
        self.generation += 1;
        let mut assignment = Assignment { generation: self.generation, shard: "local".into(), ..Assignment::default() };
        let mut dropped = DroppedTargets::default();
        for job in &self.jobs {
            let groups = snapshot.get(&job.job_name).map(Vec::as_slice).unwrap_or_default();
            let outcome = narthex_plan::targets::build_all(job, groups.iter().map(|g| &**g));
            for message in &outcome.errors {
                error!(scrape_pool = job.job_name, err = message, "creating a target failed");
            }
            let limit = usize::try_from(job.keep_dropped_targets).ok().filter(|n| *n > 0).unwrap_or(usize::MAX);
            dropped.counts.insert(job.job_name.clone(), outcome.dropped.len() as u64);
            let kept = outcome.dropped.into_iter().take(limit);
            dropped.targets.extend(kept.map(|labels| (job.job_name.clone(), labels)));
            assignment.targets.extend(outcome.targets.into_iter().map(Arc::new));
        }
        assignment.dropped =
            dropped.targets.iter().map(|(pool, labels)| (Arc::from(pool.as_str()), labels.clone())).collect();
        info!(targets = assignment.targets.len(), dropped = dropped.targets.len(), "targets updated");
        self.dropped.send_replace(Arc::new(dropped));
        self.manager.apply(&self.jobs, &assignment);
    }

    /// Loads the file again; a bad one leaves everything as it is.
    fn reload(&mut self) -> Result<(), String> {
        let file = self.settings.config_file.as_ref().map_or("(built-in)".into(), |f| f.display().to_string());
        info!(file, "loading configuration file");
        match read(&self.settings) {
            Ok(loaded) => {
                self.apply(loaded);
                let snapshot = self.discovery.subscribe().borrow().clone();
                self.assign(&snapshot);
                self.app.notifications.remove(notifications::CONFIG_FAILED);
                info!(file, "completed loading of configuration file");
                Ok(())
            }
            Err(text) => {
                error!(err = text, "error reloading config");
                self.metrics.loaded(false);
                self.app.notifications.add(notifications::CONFIG_FAILED);
                Err(text)
            }
        }
    }

    /// Follows discovery, signals and requests until the end is asked for.
    async fn run(mut self, mut requests: mpsc::Receiver<ReloadRequest>, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut snapshots = self.discovery.subscribe();
        // What was found before this subscription counts, too.
        snapshots.mark_changed();
        let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
        let mut watched = reload::Watched::of(&self.settings);
        let mut tick = tokio::time::interval(self.settings.auto_reload.unwrap_or(Duration::from_secs(3600)));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let snapshot = snapshots.borrow_and_update().clone();
                    self.assign(&snapshot);
                }
                Some(request) = requests.recv() => {
                    let _ = request.send(self.reload());
                }
                _ = hangup.recv() => {
                    let _ = self.reload();
                }
                _ = tick.tick(), if self.settings.auto_reload.is_some() => {
                    let now = reload::Watched::of(&self.settings);
                    if now != watched {
                        watched = now;
                        warn!("configuration file change detected, reloading the configuration");
                        let _ = self.reload();
                    }
                }
                () = shutdown.requested() => return Ok(()),
            }
        }
    }
}

pub(crate) async fn listeners(settings: &Settings) -> anyhow::Result<Vec<TcpListener>> {
    let mut out = Vec::new();
    for address in &settings.listen {
        let bind = if address.starts_with(':') { format!("0.0.0.0{address}") } else { address.clone() };
        out.push(
            TcpListener::bind(&bind).await.with_context(|| format!("unable to start listener: listen {address}"))?,
        );
    }
    Ok(out)
}

async fn serve(settings: Settings, loaded: Loaded, telemetry: Telemetry) -> anyhow::Result<()> {
    let shutdown = Shutdown::new();
    shutdown.on_signals()?;
    let registry = Registry::new();
    let web_config = match &settings.web_config {
        Some(file) => Some(Arc::new(Live::open(file).with_context(|| "unable to validate web configuration file")?)),
        None => None,
    };
    let listeners = listeners(&settings).await?;

    let options = settings.store_options(&loaded.config);
    info!(path = %options.path.display(), retention = ?options.retention, "opening the store");
    let opened = std::time::Instant::now();
    let store = tokio::task::spawn_blocking(move || Store::open(options)).await?.context("opening storage failed")?;
    info!(seconds = opened.elapsed().as_secs_f64(), "the store is open");

    let scrape = narthex_scrape::Options { registry: registry.clone(), ..narthex_scrape::Options::default() };
    let manager = Arc::new(Manager::new(Arc::new(store.clone()), scrape)?);
    register_own(&registry, &store, &manager);
    let discovery = DiscoveryManager::new("scrape", SdMetrics::register(&registry));
    let (dropped, dropped_now) = watch::channel(Arc::new(DroppedTargets::default()));
    let (reload, requests) = mpsc::channel(4);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let app = App::new(Parts {
        options: settings.web_options(),
        storage: Arc::new(store.clone()),
        appendable: Arc::new(store.clone()),
        admin: Some(Arc::new(store.clone())),
        queries: CpuPool::new("query", cores, settings.max_concurrency.max(cores) * 2)?,
        ingest: CpuPool::new("ingest", cores, 256)?,
        registry: registry.clone(),
        sources: sources(&manager, dropped_now),
        reload,
        shutdown: shutdown.clone(),
    });
    let telemetry = Arc::new(telemetry);
    let listen = ListenOptions {
        max_connections: settings.max_connections,
        read_timeout: settings.read_timeout,
        ..ListenOptions::default()
    };
    let http_end = Shutdown::new();
    let router = narthex_server::router::router(app.clone());
    let http = tokio::spawn(narthex_server::listen::serve(listeners, router, listen, web_config, http_end.clone()));

    let mut control = Control {
        metrics: ConfigMetrics::new(&registry),
        settings,
        app: app.clone(),
        manager: manager.clone(),
        discovery,
        telemetry: telemetry.clone(),
        jobs: Vec::new(),
        generation: 0,
        dropped,
    };
    control.apply(loaded);
    app.set_readiness(Readiness::Ready);
    info!("server is ready to receive web requests");
    let ended = control.run(requests, shutdown.clone()).await;

    info!("shutting down");
    app.set_readiness(Readiness::Stopping);
    app.notifications.add(notifications::STOPPING);
    let closing = store.clone();
    Stages::new()
        .then("scraping", async move { manager.shutdown().await })
        .then("requests", async move {
            http_end.request();
            let _ = http.await;
        })
        .then("storage", async move {
            match tokio::task::spawn_blocking(move || closing.close()).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => error!(err = with_sources(&e), "closing the store failed"),
                Err(e) => error!(err = %e, "closing the store failed"),
            }
        })
        .then("telemetry", async move {
            let _ = tokio::task::spawn_blocking(move || telemetry.flush()).await;
        })
        .run()
        .await;
    info!("see you next time!");
    ended
}
