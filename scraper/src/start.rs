//! What `server` and `shard` share: the parts around the store, and the order in which they start and end.
//!
//! The listeners answer from the first moment on (`/-/healthy`, `/metrics`, pages; 503 where the store is needed), then
//! the store opens, then whoever called brings targets, and only then is the server ready.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use narthex_remote::Remote;
use narthex_runtime::trace::Telemetry;
use narthex_runtime::{CpuPool, Registry, Shutdown, Stages};
use narthex_scrape::Manager;
use narthex_server::Router;
use narthex_server::listen::ListenOptions;
use narthex_server::web_config::Live;
use narthex_server::{App, DroppedTargets, Parts, Readiness, ReloadRequest, Sources, TargetStatus, notifications};
use narthex_storage::Queryable;
use narthex_tsdb::{Store, StoreOptions};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

use crate::flags::Flags;
use crate::late::Late;
use crate::own_metrics::{self, Opening};
use crate::sending;
use crate::settings::Settings;
use crate::version;

/// The first of all: logs, and in them what starts and which flags do nothing; `idle` are flags that do nothing for it.
///
/// # Errors
/// When logging can't be set up.
pub fn begin(what: &str, flags: &Flags, settings: &Settings, idle: &[&'static str]) -> anyhow::Result<Telemetry> {
    let telemetry = narthex_runtime::trace::init(settings.log_level, settings.log_format)?;
    info!(version = version::text(), "starting Narthex {what}");
    let given = idle.iter().copied().filter(|name| flags.was_given(name));
    for name in flags.without_effect().into_iter().chain(given) {
        warn!(flag = name, "this flag has no effect here");
    }
    for note in &settings.notes {
        warn!(note, "feature flags");
    }
    Ok(telemetry)
}

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

/// A process that listens.
pub struct Running {
    pub registry: Registry,
    pub shutdown: Shutdown,
    pub app: Arc<App>,
    pub manager: Arc<Manager>,
    /// Where the targets that relabelling dropped are told.
    pub dropped: watch::Sender<Arc<DroppedTargets>>,
    /// Reloads that somebody asked for over HTTP.
    pub reloads: mpsc::Receiver<ReloadRequest>,
    store: Late,
    pub opening: Opening,
    /// What is sent on by remote write.
    pub remote: Arc<Remote>,
    lock: Option<PathBuf>,
    http: oneshot::Receiver<()>,
    http_end: Shutdown,
}

impl Running {
    /// Listens. `storage` is what queries ask: `store` itself, or a fleet with it. `internal` gives routes of its own.
    ///
    /// # Errors
    /// When an address is taken or the web configuration is not valid.
    pub async fn start(
        settings: &Settings,
        registry: Registry,
        store: Late,
        storage: Arc<dyn Queryable>,
        internal: impl FnOnce(&Arc<App>) -> Router,
    ) -> anyhow::Result<Running> {
        let shutdown = Shutdown::new();
        shutdown.on_signals()?;
        let web_config = match &settings.web_config {
            Some(file) => Some(Arc::new(Live::open(file).context("unable to validate web configuration file")?)),
            None => None,
        };
        let listeners = listeners(settings)?;
        let options = settings.web_options();
        let scrape = narthex_scrape::Options {
            registry: registry.clone(),
            type_and_unit_labels: options.type_and_unit_labels,
            start_zeros: options.start_zeros,
            start_storage: options.start_storage,
            start_synthesis: settings.start_synthesis,
            ..narthex_scrape::Options::default()
        };
        let manager = Arc::new(Manager::new(Arc::new(store.clone()), scrape)?);
        let opening = own_metrics::register(&registry, &store, &manager);
        if settings.agent {
            own_metrics::agent(&registry, &store);
        }
        let remote = sending::start(&store, &manager, &registry, settings.flush_deadline);
        let (dropped, dropped_now) = watch::channel(Arc::new(DroppedTargets::default()));
        let (reload, reloads) = mpsc::channel(4);
        let cores = cores();
        let app = App::new(Parts {
            options,
            storage,
            appendable: Arc::new(store.clone()),
            admin: Some(Arc::new(store.clone())),
            // More than there are cores, so that a small query does not wait for large ones, and questions about labels for
            // no query. Whoever listens lets so many ask.
            queries: CpuPool::new("query", settings.max_concurrency.max(cores) + 4, settings.max_connections)?,
            ingest: CpuPool::new("ingest", cores, 256)?,
            registry: registry.clone(),
            sources: sources(&manager, dropped_now),
            reload,
            shutdown: shutdown.clone(),
        });
        app.notifications.add(notifications::STARTING);
        let listen = ListenOptions {
            max_connections: settings.max_connections,
            read_timeout: settings.read_timeout,
            ..ListenOptions::default()
        };
        let http_end = Shutdown::new();
        let internal = narthex_server::router::computed_routes(app.clone(), internal(&app));
        let router = narthex_server::router::router(app.clone()).merge(internal);
        let counts = app.metrics.connections.clone();
        let http = {
            let end = http_end.clone();
            apart(|| narthex_server::listen::serve(listeners, router, listen, web_config, counts, end))?
        };
        Ok(Running {
            registry,
            shutdown,
            app,
            manager,
            dropped,
            reloads,
            store,
            opening,
            remote,
            lock: None,
            http,
            http_end,
        })
    }

    /// Opens the store.
    ///
    /// # Errors
    /// When it does not open.
    pub async fn open(&mut self, options: StoreOptions) -> anyhow::Result<()> {
        let lock = options.path.join("narthex.lock");
        let clean = !lock.exists();
        let options = StoreOptions { observer: self.opening.observer(), ..options };
        self.opening.limits(&options);
        let folder = options.path.join("push");
        info!(path = %options.path.display(), retention = ?options.retention, "opening the store");
        let start = Instant::now();
        let store = tokio::task::spawn_blocking(move || Store::open(options)).await?;
        self.store.opened(store.context("opening storage failed")?);
        let seconds = start.elapsed().as_secs_f64();
        self.opening.done(seconds, clean);
        let app = self.app.clone();
        let opened = tokio::task::spawn_blocking(move || app.open_push(&folder)).await?;
        opened.context("opening the folder of pushed groups failed")?;
        // Stays where the process does not end as it should; the store has a lock of its own against two at once.
        match std::fs::write(&lock, std::process::id().to_string()) {
            Ok(()) => self.lock = Some(lock),
            Err(e) => warn!(file = %lock.display(), err = %e, "a clean end will not be noticed"),
        }
        info!(seconds, clean, "the store is open");
        Ok(())
    }

    /// From here on requests are served.
    pub fn ready(&self) {
        self.app.notifications.remove(notifications::STARTING);
        self.app.set_readiness(Readiness::Ready);
        tokio::spawn(narthex_server::push::run(self.app.clone()));
        info!("server is ready to receive web requests");
    }

    /// What ends is said.
    pub fn stopping(&self) {
        info!("shutting down");
        self.app.set_readiness(Readiness::Stopping);
        self.app.notifications.add(notifications::STOPPING);
    }

    /// Ends all parts, intake first; what is appended is stored.
    pub async fn end(self) {
        let Running { manager, http, http_end, store, lock, remote, .. } = self;
        Stages::new()
            .then("scraping", async move { manager.shutdown().await })
            .then("requests", async move {
                http_end.request();
                let _ = http.await;
            })
            .then("remote write", async move { remote.shutdown().await })
            .then("storage", async move {
                let Some(store) = store.get().cloned() else { return };
                match tokio::task::spawn_blocking(move || store.close()).await {
                    Ok(Ok(())) => {
                        lock.map(std::fs::remove_file);
                    }
                    Ok(Err(e)) => error!(err = with_sources(&e), "closing the store failed"),
                    Err(e) => error!(err = %e, "closing the store failed"),
                }
            })
            .run()
            .await;
    }
}

fn listeners(settings: &Settings) -> anyhow::Result<Vec<std::net::TcpListener>> {
    let bound = settings.listen.iter().map(|address| {
        let bind = if address.starts_with(':') { format!("0.0.0.0{address}") } else { address.clone() };
        let listener = std::net::TcpListener::bind(&bind)
            .with_context(|| format!("unable to start listener: listen {address}"))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.collect()
}

/// The runtime of everything but requests. It has half as many threads as there are cores: long pages are read and queries
/// evaluated by pools, and a thread that wakes only to find that nothing is left costs an eighth of a small page's scrape.
///
/// # Errors
/// When the system gives no threads.
pub fn runtime() -> std::io::Result<Runtime> {
    threads("scrapes", cores().div_ceil(2))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Threads with as much stack as those of a pool: small queries are evaluated on those for requests.
fn threads(name: &str, workers: usize) -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name(name)
        .thread_stack_size(narthex_runtime::pool::STACK)
        .enable_all()
        .build()
}

/// Runs `serve` on a runtime of its own, and says when it has ended.
///
/// Requests share no threads with scrapes, so that neither waits for the other, and they have few: evaluation and intake
/// have pools, and what is left of most requests is done sooner than a second thread wakes up to help.
fn apart<F: Future<Output = ()>>(serve: impl FnOnce() -> F + Send + 'static) -> anyhow::Result<oneshot::Receiver<()>> {
    let runtime = threads("http", cores().div_ceil(4))?;
    let (ended, end) = oneshot::channel();
    std::thread::Builder::new().name("http-main".to_owned()).spawn(move || {
        runtime.block_on(serve());
        let _ = ended.send(());
    })?;
    Ok(end)
}

fn sources(manager: &Arc<Manager>, counts: watch::Receiver<Arc<DroppedTargets>>) -> Sources {
    let targets = manager.clone();
    let pools = manager.clone();
    let metadata = manager.clone();
    Sources {
        targets: Arc::new(move || {
            let status = |s: narthex_scrape::TargetStatus| TargetStatus {
                health: s.health,
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
