//! `narthex server`: one process that discovers, scrapes, stores and answers.

mod reload;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use narthex_config::{Assignment, Config, ScrapeConfig};
use narthex_discovery::{DiscoveryManager, SdMetrics, Snapshot};
use narthex_remote::Remote;
use narthex_runtime::metrics::Gauge;
use narthex_runtime::trace::{Telemetry, TraceOptions};
use narthex_runtime::{Registry, Shutdown};
use narthex_scrape::Manager;
use narthex_server::Router;
use narthex_server::notifications;
use narthex_server::{App, ConfigView, DroppedTargets, ReloadRequest};
use narthex_storage::Queryable;
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use crate::agent::Unasked;
use crate::flags::Flags;
use crate::late::Late;
use crate::own_metrics::Opening;
use crate::settings::{self, Settings};
use crate::start::{self, Running, with_sources};
use crate::version;

/// Runs until a signal or `/-/quit`.
///
/// # Errors
/// When the server cannot start; what goes wrong later is logged.
pub fn run(flags: Flags) -> anyhow::Result<()> {
    let mut settings =
        Settings::of(&flags).map_err(|e| anyhow::anyhow!("error parsing command line arguments: {e}"))?;
    let what = if settings.agent { "Agent" } else { "Server" };
    let telemetry = start::begin(what, &flags, &settings, &[])?;
    let runtime = start::runtime()?;
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
    let loaded = config.and_then(|mut config| {
        if settings.agent {
            config.check_agent()?;
        } else {
            config.set_default_retention(settings.default_retention());
        }
        config.jobs().map(|jobs| Loaded { jobs, config })
    });
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
    store: Late,
    opening: Opening,
    remote: Arc<Remote>,
}

impl Control {
    fn file(&self) -> String {
        self.settings.config_file.as_ref().map_or("(built-in)".into(), |f| f.display().to_string())
    }

    /// Brings a configuration into force.
    ///
    /// # Errors
    /// When some of it could not be: the rest is in force then, as with Prometheus.
    fn apply(&mut self, loaded: Loaded) -> Result<(), String> {
        let mut ok = true;
        let Loaded { config, jobs } = loaded;
        let pools = jobs.iter().map(|j| (j.job_name.clone(), settings::job_yaml(j))).collect();
        self.app.set_view(ConfigView {
            yaml: config.to_yaml(),
            external_labels: config.global.external_labels.labels(),
            otlp: config.otlp.clone(),
            relabel: jobs.iter().map(|j| (j.job_name.clone(), j.relabel_configs.clone())).collect(),
            pools,
            retention: self.settings.retention_text(&config),
            scrape_interval: config.global.scrape_interval,
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
            error!(err = %e, "failed to apply configuration: traces are not exported");
            ok = false;
        }
        let log = &config.global.query_log_file;
        if let Err(e) = self.app.engine.log.apply(Some(log)) {
            error!(file = %log.display(), err = %e, "failed to apply configuration: the query log cannot be opened");
            ok = false;
        }
        for note in settings::unsupported(&config) {
            warn!(note, "configuration");
        }
        if let Some(store) = self.store.get() {
            let options = self.settings.store_options(&config);
            store.configure(&options);
            self.opening.limits(&options);
        }
        if let Err(e) = self.remote.apply(&config) {
            error!(err = with_sources(&e), "failed to apply configuration: remote_write stays as it was");
            ok = false;
        }
        self.discovery.apply(&jobs);
        self.jobs = jobs;
        self.metrics.loaded(ok);
        let file = self.file();
        let failed =
            || format!("one or more errors occurred while applying the new configuration (--config.file={file:?})");
        ok.then_some(()).ok_or_else(failed)
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
        let file = self.file();
        info!(file, "loading configuration file");
        let applied = read(&self.settings).and_then(|loaded| {
            let applied = self.apply(loaded);
            let snapshot = self.discovery.subscribe().borrow().clone();
            self.assign(&snapshot);
            applied
        });
        match applied {
            Ok(()) => {
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

async fn serve(settings: Settings, loaded: Loaded, telemetry: Telemetry) -> anyhow::Result<()> {
    let (registry, store) = (Registry::new(), Late::default());
    let metrics = ConfigMetrics::new(&registry);
    let storage: Arc<dyn Queryable> =
        if settings.agent { Arc::new(Unasked(store.clone())) } else { Arc::new(store.clone()) };
    let mut running = Running::start(&settings, registry, store.clone(), storage, |_| Router::new()).await?;
    running.open(settings.store_options(&loaded.config)).await?;
    let telemetry = Arc::new(telemetry);
    let (_, none) = mpsc::channel(1);
    let requests = std::mem::replace(&mut running.reloads, none);
    let mut control = Control {
        metrics,
        settings,
        app: running.app.clone(),
        manager: running.manager.clone(),
        discovery: DiscoveryManager::new("scrape", SdMetrics::register(&running.registry)),
        telemetry: telemetry.clone(),
        jobs: Vec::new(),
        generation: 0,
        dropped: running.dropped.clone(),
        store,
        opening: running.opening.clone(),
        remote: running.remote.clone(),
    };
    let ended = match control.apply(loaded) {
        Ok(()) => {
            running.ready();
            control.run(requests, running.shutdown.clone()).await
        }
        Err(e) => Err(anyhow::anyhow!("error loading config from {:?}: {e}", control.file())),
    };
    running.stopping();
    running.end().await;
    let _ = tokio::task::spawn_blocking(move || telemetry.flush()).await;
    info!("see you next time!");
    ended
}
