//! Runs discoverers and gathers what they find.
//!
//! Equal sections share one discoverer, whatever jobs they stand in, and one that stays in the configuration goes on
//! through a reload. The first change after a quiet time is passed on at once; then changes are collected, for 100 ms
//! at first and for up to 5 s when they go on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use narthex_config::{DiscoveryConfig, ScrapeConfig, TargetGroup};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::metrics::SdMetrics;
use crate::refresh::Refreshing;
use crate::{Discoverer, consul, dns, docker, file, http, kubernetes, nomad};

/// All groups by job; a job without targets is there, with none.
pub type Snapshot = BTreeMap<String, Vec<Arc<TargetGroup>>>;

/// Updates of one discoverer that may wait.
const QUEUE: usize = 16;
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LAST_DELAY: Duration = Duration::from_secs(5);

/// A discovery section that cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot create {kind} service discovery of {set}: {message}")]
pub struct DiscoveryFault {
    /// The job.
    pub set: String,
    pub kind: &'static str,
    pub message: String,
}

/// See the module. Dropping it stops all discoverers.
pub struct DiscoveryManager {
    shared: Arc<Shared>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    sender: AbortHandle,
}

struct Shared {
    /// Which manager, in metrics: `scrape` or `notify`.
    name: &'static str,
    metrics: Arc<SdMetrics>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// All jobs, also those without a discoverer.
    sets: BTreeSet<String>,
    providers: Vec<Provider>,
    last_id: u64,
}

struct Provider {
    id: u64,
    config: DiscoveryConfig,
    sets: BTreeSet<String>,
    groups: BTreeMap<String, Arc<TargetGroup>>,
    /// None for static targets.
    task: Option<AbortHandle>,
}

impl Drop for Provider {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Drop for DiscoveryManager {
    fn drop(&mut self) {
        self.sender.abort();
        self.shared.state.lock().providers.clear();
    }
}

impl DiscoveryManager {
    /// Must be called within a tokio runtime. `name` tells managers of one process apart in metrics.
    pub fn new(name: &'static str, metrics: Arc<SdMetrics>) -> DiscoveryManager {
        let (snapshot, snapshots) = watch::channel(Arc::new(Snapshot::new()));
        // A watch channel never makes an update wait: the counter is there for dashboards.
        metrics.delayed_updates.with(&[name]);
        let shared = Arc::new(Shared { name, metrics, state: Mutex::default(), changed: Notify::new() });
        let sender = tokio::spawn(send(shared.clone(), snapshot)).abort_handle();
        DiscoveryManager { shared, snapshots, sender }
    }

    /// Snapshots of all groups; a new one follows each [`DiscoveryManager::apply`] and each change.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// Runs what these jobs want and stops the rest. Must be called within a tokio runtime.
    ///
    /// Returns the sections that could not be started; all others run.
    pub fn apply(&self, jobs: &[Arc<ScrapeConfig>]) -> Vec<DiscoveryFault> {
        let mut wanted: Vec<(DiscoveryConfig, BTreeSet<String>)> = Vec::new();
        let mut names = BTreeSet::new();
        for job in jobs {
            let set = &job.job_name;
            names.insert(set.clone());
            for config in job.service_discovery.iter() {
                match wanted.iter_mut().find(|(c, _)| c == config) {
                    Some((_, sets)) => drop(sets.insert(set.clone())),
                    None => wanted.push((config.clone(), BTreeSet::from([set.clone()]))),
                }
            }
        }
        let mut faults = Vec::new();
        let mut state = self.shared.state.lock();
        let mut old = std::mem::take(&mut state.providers);
        for (config, sets) in wanted {
            if let Some(at) = old.iter().position(|p| p.config == config) {
                let mut provider = old.swap_remove(at);
                provider.sets = sets;
                state.providers.push(provider);
                continue;
            }
            let first = sets.first().cloned().unwrap_or_default();
            state.last_id += 1;
            let id = state.last_id;
            let mut provider = Provider { id, config, sets, groups: BTreeMap::new(), task: None };
            if let DiscoveryConfig::Static(groups) = &provider.config {
                let groups = groups.iter().filter(|g| !g.targets.is_empty());
                provider.groups = groups.map(|g| (g.source.clone(), Arc::new(g.clone()))).collect();
            } else {
                match discoverer(&provider.config, &first, &self.shared.metrics) {
                    Ok(discoverer) => provider.task = Some(self.start(id, discoverer)),
                    Err(message) => {
                        let kind = provider.config.kind();
                        for set in &provider.sets {
                            tracing::error!(discovery = kind, config = %set, message, "cannot create service discovery");
                            faults.push(DiscoveryFault { set: set.clone(), kind, message: message.clone() });
                        }
                        continue;
                    }
                }
            }
            state.providers.push(provider);
        }
        let (name, metrics) = (self.shared.name, &self.shared.metrics);
        metrics.failed_configs.with(&[name]).set(faults.len() as f64);
        for gone in state.sets.difference(&names) {
            metrics.discovered_targets.remove(&[name, gone]);
            metrics.last_updated.remove(&[name, gone]);
        }
        state.sets = names;
        drop(state);
        // Obsolete discoverers stop here.
        drop(old);
        self.shared.changed.notify_one();
        faults
    }

    fn start(&self, id: u64, discoverer: Box<dyn Discoverer>) -> AbortHandle {
        let shared = self.shared.clone();
        let task = async move {
            let (updates, mut received) = mpsc::channel::<Vec<TargetGroup>>(QUEUE);
            let run = discoverer.run(updates);
            let gather = async {
                while let Some(groups) = received.recv().await {
                    shared.update(id, groups);
                }
            };
            tokio::join!(run, gather);
        };
        tokio::spawn(task).abort_handle()
    }
}

impl Shared {
    fn update(&self, id: u64, groups: Vec<TargetGroup>) {
        self.metrics.received_updates.with(&[self.name]).inc();
        let mut state = self.state.lock();
        let Some(provider) = state.providers.iter_mut().find(|p| p.id == id) else { return };
        for group in groups {
            if group.targets.is_empty() {
                provider.groups.remove(&group.source);
            } else {
                provider.groups.insert(group.source.clone(), Arc::new(group));
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    fn snapshot(&self) -> Snapshot {
        let state = self.state.lock();
        let mut snapshot: Snapshot = state.sets.iter().map(|set| (set.clone(), Vec::new())).collect();
        for provider in &state.providers {
            for set in &provider.sets {
                if let Some(groups) = snapshot.get_mut(set) {
                    groups.extend(provider.groups.values().cloned());
                }
            }
        }
        drop(state);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        for (set, groups) in &snapshot {
            let targets: usize = groups.iter().map(|g| g.targets.len()).sum();
            self.metrics.discovered_targets.with(&[self.name, set]).set(targets as f64);
            self.metrics.last_updated.with(&[self.name, set]).set(now);
        }
        snapshot
    }
}

async fn send(shared: Arc<Shared>, snapshots: watch::Sender<Arc<Snapshot>>) {
    let mut delay = FIRST_DELAY;
    let mut last_sent = Instant::now();
    loop {
        shared.changed.notified().await;
        if last_sent.elapsed() > LAST_DELAY {
            delay = FIRST_DELAY;
        }
        // A receiver that has not looked at the last snapshot sees only this one.
        snapshots.send_replace(Arc::new(shared.snapshot()));
        shared.metrics.sent_updates.with(&[shared.name]).inc();
        last_sent = Instant::now();
        tokio::time::sleep(delay).await;
        delay = delay.mul_f64(1.5).min(LAST_DELAY);
    }
}

/// # Errors
/// When the section cannot be run here.
fn discoverer(config: &DiscoveryConfig, set: &str, metrics: &Arc<SdMetrics>) -> Result<Box<dyn Discoverer>, String> {
    let set = set.to_owned();
    let metrics = metrics.clone();
    Ok(match config {
        DiscoveryConfig::Static(_) => return Err("static targets need no discoverer".into()),
        DiscoveryConfig::File(c) => Box::new(file::FileDiscovery::new(c, metrics)),
        DiscoveryConfig::Http(c) => Box::new(Refreshing {
            kind: "http",
            set,
            interval: c.refresh_interval,
            refresh: http::HttpDiscovery::new(c, metrics.clone())?,
            metrics,
        }),
        DiscoveryConfig::Dns(c) => Box::new(Refreshing {
            kind: "dns",
            set,
            interval: c.refresh_interval,
            refresh: dns::DnsDiscovery::new(c, metrics.clone())?,
            metrics,
        }),
        DiscoveryConfig::Consul(c) => Box::new(consul::ConsulDiscovery::new(c, metrics)?),
        DiscoveryConfig::Docker(c) => Box::new(Refreshing {
            kind: "docker",
            set,
            interval: c.refresh_interval,
            refresh: docker::DockerDiscovery::new(c)?,
            metrics,
        }),
        DiscoveryConfig::Nomad(c) => Box::new(Refreshing {
            kind: "nomad",
            set,
            interval: c.refresh_interval,
            refresh: nomad::NomadDiscovery::new(c, metrics.clone())?,
            metrics,
        }),
        DiscoveryConfig::Kubernetes(c) => Box::new(kubernetes::KubernetesDiscovery::new(c, metrics)?),
    })
}
