//! The one task that knows everything: changes of the cluster and reports of shards come in, assignments go out to the
//! shards' channels, and what is to be written to the cluster goes to [`cluster::write`], which works apart so that a
//! slow API server delays no assignment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::Client;
use narthex_crds::fleet::MonitorProblem;
use narthex_crds::{Fleet, FleetStatus};
use narthex_runtime::Registry;
use narthex_runtime::metrics::{Counter, Gauge, Histogram, Labelled};
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

use crate::cluster::{self, Desired};
use crate::compile::{self, JobCache, Problem, Secrets};
use crate::delivery::Input;
use crate::fleet::{FleetState, Policy};
use crate::index::{Change, World};
use crate::workload::{self, Surroundings};

/// How long changes are gathered before targets are made anew.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// How often time is given to fleets.
const TICK: Duration = Duration::from_secs(1);
/// How long what Secrets hold is believed.
const SECRETS_AGE: Duration = Duration::from_secs(60);
/// How many problems a status lists.
const MAX_PROBLEMS: usize = 50;

/// What is set at start.
#[derive(Clone, Debug)]
pub struct Settings {
    pub policy: Policy,
    pub image: String,
    pub operator_url: String,
    /// Objects of fleets are written; false where only assignments are wanted (tests).
    pub manage_workloads: bool,
}

/// Own metrics.
struct Metrics {
    targets: Labelled<Gauge>,
    up: Labelled<Gauge>,
    series: Labelled<Gauge>,
    shards: Labelled<Gauge>,
    imbalance: Labelled<Gauge>,
    generation: Labelled<Gauge>,
    handoffs: Labelled<Gauge>,
    moves: Labelled<Gauge>,
    leader: Gauge,
    passes: Counter,
    duration: Histogram,
}

impl Metrics {
    fn new(r: &Registry) -> Metrics {
        let by_fleet = &["fleet"];
        Metrics {
            targets: r.gauges("narthex_fleet_targets", "Targets of a fleet.", by_fleet),
            up: r.gauges("narthex_fleet_targets_up", "Targets whose last scrape went well.", by_fleet),
            series: r.gauges("narthex_fleet_series", "Samples of the targets' last scrapes.", by_fleet),
            shards: r.gauges("narthex_fleet_shards_ready", "Shards that are connected.", by_fleet),
            imbalance: r.gauges("narthex_fleet_imbalance", "The heaviest shard's load over the mean.", by_fleet),
            generation: r.gauges("narthex_fleet_assignment_generation", "Generation of the assignment.", by_fleet),
            handoffs: r.gauges("narthex_fleet_handoffs", "Targets that are changing shards.", by_fleet),
            moves: r.gauges("narthex_fleet_moves", "Targets moved to even loads out, so far.", by_fleet),
            leader: r.gauge("narthex_operator_leader", "Whether this process leads."),
            passes: r.counter("narthex_operator_passes_total", "How often targets were made anew."),
            duration: r.histogram(
                "narthex_operator_pass_duration_seconds",
                "How long making targets anew took.",
                &[0.001, 0.01, 0.1, 1.0, 10.0],
            ),
        }
    }
}

/// The task's state.
pub struct Controller {
    client: Client,
    settings: Settings,
    world: World,
    fleets: BTreeMap<String, FleetState>,
    jobs: JobCache,
    secrets: Secrets,
    secrets_read: Option<Instant>,
    dirty: Option<Instant>,
    metrics: Metrics,
    desired: watch::Sender<Vec<Desired>>,
    problems: BTreeMap<String, (Vec<Problem>, usize, usize)>,
    leads: watch::Receiver<bool>,
    ready: watch::Sender<bool>,
}

impl Controller {
    pub fn new(
        client: Client,
        settings: Settings,
        registry: &Registry,
        leads: watch::Receiver<bool>,
        ready: watch::Sender<bool>,
    ) -> Controller {
        Controller {
            client,
            settings,
            world: World::default(),
            fleets: BTreeMap::new(),
            jobs: JobCache::default(),
            secrets: Secrets::new(),
            secrets_read: None,
            dirty: None,
            metrics: Metrics::new(registry),
            desired: watch::Sender::new(Vec::new()),
            problems: BTreeMap::new(),
            leads,
            ready,
        }
    }

    pub fn desired(&self) -> watch::Receiver<Vec<Desired>> {
        self.desired.subscribe()
    }

    /// Runs until `stop` is true or the watches end.
    pub async fn run(
        mut self,
        mut changes: mpsc::Receiver<Change>,
        mut inputs: mpsc::Receiver<Input>,
        mut stop: watch::Receiver<bool>,
    ) {
        // Values come back from a task of their own: one reading at a time.
        let (found, mut values) = mpsc::channel::<Secrets>(1);
        let mut reading = false;
        loop {
            let wait = match self.dirty {
                Some(since) => DEBOUNCE.saturating_sub(since.elapsed()),
                None => TICK,
            };
            tokio::select! {
                change = changes.recv() => {
                    let Some(change) = change else { return };
                    if self.world.take(change) {
                        self.dirty.get_or_insert_with(Instant::now);
                    }
                    continue;
                }
                input = inputs.recv() => {
                    let Some(input) = input else { return };
                    self.input(input);
                    if self.dirty.is_some() {
                        continue;
                    }
                }
                Some(values) = values.recv() => {
                    reading = false;
                    if values != self.secrets {
                        self.secrets = values;
                        self.dirty.get_or_insert_with(Instant::now);
                    }
                }
                () = tokio::time::sleep(wait) => {}
                _ = stop.wait_for(|s| *s) => return,
            }
            if !self.world.ready() {
                continue;
            }
            self.ready.send_if_modified(|r| !std::mem::replace(r, true));
            let leads = *self.leads.borrow();
            self.metrics.leader.set(f64::from(u8::from(leads)));
            if !leads {
                // A later term begins with what shards say, not with what was so before.
                if !self.fleets.is_empty() {
                    self.fleets.clear();
                    self.desired.send_replace(Vec::new());
                }
                self.dirty.get_or_insert_with(Instant::now);
                tokio::time::sleep(DEBOUNCE).await;
                continue;
            }
            let due = self.dirty.is_some_and(|d| d.elapsed() >= DEBOUNCE);
            let stale = self.secrets_read.is_none_or(|r| r.elapsed() > SECRETS_AGE);
            if !reading && (due || stale) {
                let wanted = compile::wanted_keys(&self.world);
                if stale || wanted.iter().any(|k| !self.secrets.contains_key(k)) {
                    reading = true;
                    self.secrets_read = Some(Instant::now());
                    let known = if stale { Secrets::new() } else { self.secrets.clone() };
                    tokio::spawn(cluster::read_all(self.client.clone(), wanted, known, found.clone()));
                }
            }
            if due {
                self.dirty = None;
                self.pass();
            }
            self.step();
        }
    }

    fn input(&mut self, input: Input) {
        let now = Instant::now();
        match input {
            Input::Connect { fleet, shard, reply } => {
                let lines = self.fleets.get_mut(&fleet).and_then(|f| f.connect(&shard, now));
                info!(fleet, shard, known = lines.is_some(), "a shard connects");
                // The shard may have gone meanwhile; its stream's end is then told as well.
                let _ = reply.send(lines);
            }
            Input::Disconnect { fleet, shard } => {
                info!(fleet, shard, "a shard's stream ended");
                if let Some(f) = self.fleets.get_mut(&fleet) {
                    f.disconnect(&shard, now);
                }
            }
            Input::Report(report) => {
                debug!(fleet = report.fleet, shard = report.shard, generation = report.generation, "report");
                if let Some(f) = self.fleets.get_mut(&report.fleet) {
                    f.report(*report, now);
                }
            }
        }
    }

    /// Makes the targets of all fleets anew.
    fn pass(&mut self) {
        let start = Instant::now();
        let mut seen = BTreeSet::new();
        for ((namespace, name), guard) in self.world.fleets.iter() {
            let id = format!("{namespace}/{name}");
            seen.insert(id.clone());
            let Ok(fleet) = &guard.0 else {
                // What it was before stays in force.
                warn!(fleet = id, error = guard.0.as_ref().err().map(|e| e.error.as_str()), "a fleet does not decode");
                continue;
            };
            let compiled = compile::compile(&self.world, fleet, &self.secrets, &mut self.jobs);
            let counts = (compiled.problems.clone(), compiled.monitors, compiled.rejected);
            self.problems.insert(id.clone(), counts);
            let state =
                self.fleets.entry(id.clone()).or_insert_with(|| FleetState::new(&id, self.settings.policy, start));
            let count = |n: i32| usize::try_from(n).unwrap_or(1);
            state.set_spec(count(fleet.spec.shards), count(fleet.spec.replication));
            state.set_compiled(Arc::new(compiled));
            let ready = self.world.pods.iter().filter(|(k, p)| k.0 == *namespace && pod_ready(p));
            state.set_pods(&ready.map(|(k, _)| k.1.clone()).collect());
        }
        self.jobs.sweep();
        self.fleets.retain(|id, _| seen.contains(id));
        self.problems.retain(|id, _| seen.contains(id));
        self.metrics.passes.inc();
        self.metrics.duration.observe(start.elapsed().as_secs_f64());
    }

    /// Lets fleets go on, and says what the cluster is to hold.
    fn step(&mut self) {
        let now = Instant::now();
        let mut all = Vec::new();
        for (id, state) in &mut self.fleets {
            state.step(now);
            let summary = state.summary();
            let m = &self.metrics;
            let of = &[id.as_str()];
            m.targets.with(of).set(summary.targets as f64);
            m.up.with(of).set(summary.up as f64);
            m.series.with(of).set(summary.series as f64);
            m.shards.with(of).set(summary.ready as f64);
            m.imbalance.with(of).set(summary.imbalance);
            m.generation.with(of).set(summary.generation as f64);
            m.handoffs.with(of).set(summary.handoffs as f64);
            m.moves.with(of).set(state.moves as f64);
            let Some((namespace, name)) = id.split_once('/') else { continue };
            let Some(Ok(fleet)) = self.world.fleets.get(namespace, name).map(|g| &g.0) else { continue };
            let (problems, monitors, rejected) = self.problems.get(id).cloned().unwrap_or_default();
            let mut listed: Vec<MonitorProblem> = problems.iter().map(|p| p.entry.clone()).collect();
            listed.extend(state.over_budget().into_iter().filter_map(|(owner, why)| over_budget(owner, why)));
            listed.dedup();
            listed.truncate(MAX_PROBLEMS);
            let status = FleetStatus {
                observed_generation: fleet.metadata.generation.unwrap_or_default(),
                shards: summary.running as i32,
                ready_shards: summary.ready as i32,
                selector: workload::selector_text(name),
                monitors: monitors as i32,
                monitors_rejected: rejected as i32,
                targets: summary.targets as i64,
                targets_up: summary.up as i64,
                series: i64::try_from(summary.series).unwrap_or(i64::MAX),
                imbalance: format!("{:.2}", summary.imbalance),
                assignment_generation: summary.generation as i64,
                monitor_problems: listed,
                conditions: conditions(fleet, summary.ready, rejected),
            };
            let with = Surroundings {
                image: self.settings.image.clone(),
                operator_url: self.settings.operator_url.clone(),
                replicas: summary.running,
            };
            let objects = if self.settings.manage_workloads { workload::objects(fleet, &with) } else { Vec::new() };
            all.push(Desired { fleet: fleet.clone(), objects, status, problems });
        }
        self.desired.send_replace(all);
    }
}

/// What a status says of a monitor of which series are refused. `owner` is its job's name or a beginning of it.
fn over_budget(owner: &str, message: String) -> Option<MonitorProblem> {
    let mut parts = owner.split('/');
    let kind = match parts.next()? {
        "serviceMonitor" => "ServiceMonitor",
        "podMonitor" => "PodMonitor",
        _ => return None,
    };
    let (namespace, name) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    Some(MonitorProblem { kind: kind.to_owned(), namespace, name, reason: "SeriesLimit".to_owned(), message })
}

fn pod_ready(pod: &narthex_plan::kubernetes::objects::Pod) -> bool {
    pod.status.conditions.iter().any(|c| c.kind == "Ready" && c.status == "True")
}

/// The conditions, their times kept where nothing changed.
fn conditions(fleet: &Fleet, ready: usize, rejected: usize) -> Vec<Condition> {
    let wanted = usize::try_from(fleet.spec.shards).unwrap_or(1);
    let available = match ready {
        n if n >= wanted => ("True", "AllShardsConnected", String::new()),
        0 => ("False", "NoShardConnected", format!("0 of {wanted} shards are connected")),
        n => ("False", "ShardsMissing", format!("{n} of {wanted} shards are connected")),
    };
    let accepted = match rejected {
        0 => ("True", "AllMonitorsAccepted", String::new()),
        n => ("False", "MonitorsRejected", format!("{n} monitors are refused: see monitorProblems and their Events")),
    };
    let old = fleet.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    [("Available", available), ("MonitorsAccepted", accepted)]
        .into_iter()
        .map(|(kind, (status, reason, message))| {
            let before = old.iter().find(|c| c.type_ == kind && c.status == status);
            Condition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: reason.to_owned(),
                message,
                observed_generation: fleet.metadata.generation,
                last_transition_time: before
                    .map_or_else(|| Time(jiff::Timestamp::now()), |c| c.last_transition_time.clone()),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_names_the_monitor_of_which_series_are_refused() {
        for (owner, expected) in [
            ("serviceMonitor/ns/m", Some(("ServiceMonitor", "ns", "m"))),
            ("podMonitor/ns/m/0", Some(("PodMonitor", "ns", "m"))),
            ("job", None),
            ("serviceMonitor/ns", None),
        ] {
            let problem = over_budget(owner, "f-0: why".to_owned());
            let found = problem.as_ref().map(|p| (p.kind.as_str(), p.namespace.as_str(), p.name.as_str()));
            assert_eq!(found, expected, "{owner}");
            assert!(problem.is_none_or(|p| p.reason == "SeriesLimit" && p.message == "f-0: why"));
        }
    }
}
