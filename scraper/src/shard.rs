//! `narthex shard`: one of a fleet. It scrapes what the operator assigns, keeps it, and answers for the whole fleet.
//!
//! It starts from the assignment that it stored, so it needs neither the operator nor the API server; and it answers for
//! what it has when its peers are away.

mod link;
mod store;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Arg, ArgMatches, Command};
use narthex_config::wire::{Snapshot, TargetReport, resolve};
use narthex_config::{Assignment, Config, GlobalConfig, ScrapeConfig, Target};
use narthex_remote::Remote;
use narthex_runtime::Registry;
use narthex_scrape::Manager;
use narthex_server::fanout::{self, Fanout, Peer};
use narthex_server::{App, ConfigView};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{error, info, warn};

use self::link::Link;
use self::store::AssignmentStore;
use crate::flags::Flags;
use crate::late::Late;
use crate::settings::{self, Settings};
use crate::start::{self, Running, with_sources};

/// Flags of a server that do nothing for a shard: the operator configures it.
const IDLE: [&str; 4] = ["config.file", "config.expand-env", "config.auto-reload", "config.auto-reload-interval"];

/// Adds the flags that only a shard has to those of a server.
pub fn add(command: Command) -> Command {
    let value = |name: &'static str, help: &'static str| Arg::new(name).long(name).value_name("VALUE").help(help);
    let command = IDLE.into_iter().fold(command, |c, name| c.mut_arg(name, |a| a.hide(true)));
    command
        .arg(value("fleet", "The fleet, NAMESPACE/NAME.").required(true))
        .arg(value("shard.name", "The shard's name: the fleet's, a dash and its ordinal.").required(true))
        .arg(value("shard.url", "Where peers reach this shard, http://host:port.").required(true))
        .arg(
            value("operator.url", "Where the operator delivers assignments, http://host:port.")
                .default_value("")
                .hide_default_value(true),
        )
        .arg(
            value("token.file", "File with the fleet's token, which operator and peers ask for.")
                .default_value("")
                .hide_default_value(true),
        )
        .arg(
            value("peer", "A peer, NAME=http://host:port. Can be repeated. An assignment's peers replace them.")
                .action(clap::ArgAction::Append),
        )
        .arg(
            value(
                "remote-write.file",
                "File whose remote_write section says where samples are sent on. Read again on SIGHUP and with each assignment, whose external labels are added.",
            )
            .default_value("")
            .hide_default_value(true),
        )
        .arg(value("peer.timeout", "How long peers may take to answer.").default_value("10s"))
}

struct ShardSettings {
    link: Option<link::Options>,
    remote_write: Option<PathBuf>,
    name: String,
    peers: Vec<Peer>,
    fanout: fanout::Options,
    token: Option<String>,
}

impl ShardSettings {
    fn of(matches: &ArgMatches) -> anyhow::Result<ShardSettings> {
        let text = |name: &str| matches.get_one::<String>(name).cloned().unwrap_or_default();
        let token = match text("token.file") {
            file if file.is_empty() => None,
            file => Some(std::fs::read_to_string(&file).with_context(|| format!("reading --token.file={file}"))?),
        };
        let token = token.map(|t| t.trim().to_owned());
        let timeout = text("peer.timeout");
        let timeout = narthex_model::duration::parse(&timeout).map_err(|e| anyhow::anyhow!("--peer.timeout: {e}"))?;
        let peers = matches.get_many::<String>("peer").into_iter().flatten().map(|p| {
            let (name, url) = p.split_once('=').with_context(|| format!("--peer={p}: not NAME=URL"))?;
            Ok(Peer { name: name.to_owned(), url: url.to_owned() })
        });
        let link = link::Options {
            operator: text("operator.url"),
            fleet: text("fleet"),
            shard: text("shard.name"),
            url: text("shard.url"),
            token: token.clone().unwrap_or_default(),
        };
        Ok(ShardSettings {
            name: text("shard.name"),
            peers: peers.collect::<anyhow::Result<_>>()?,
            fanout: fanout::Options { timeout, token: token.clone(), ..fanout::Options::default() },
            link: Some(link).filter(|l| !l.operator.is_empty()),
            remote_write: Some(text("remote-write.file")).filter(|f| !f.is_empty()).map(PathBuf::from),
            token,
        })
    }
}

/// Runs until a signal.
///
/// # Errors
/// When the shard cannot start; what goes wrong later is logged.
pub fn run(flags: Flags, matches: &ArgMatches) -> anyhow::Result<()> {
    if flags.switch("agent") {
        anyhow::bail!("error parsing command line arguments: --agent: a shard answers for its fleet, and is no agent");
    }
    let settings = Settings::of(&flags).map_err(|e| anyhow::anyhow!("error parsing command line arguments: {e}"))?;
    let shard = ShardSettings::of(matches)?;
    let telemetry = start::begin("Shard", &flags, &settings, &IDLE)?;
    info!(shard = shard.name, "this shard's name");
    let runtime = start::runtime()?;
    let outcome = runtime.block_on(serve(settings, shard));
    telemetry.flush();
    outcome
}

/// What a new assignment has to reach.
struct Assigned {
    settings: Settings,
    name: String,
    app: Arc<App>,
    manager: Arc<Manager>,
    fanout: Fanout,
    remote: Arc<Remote>,
    remote_write: Option<PathBuf>,
    /// The `global` section of the last assignment.
    global: Mutex<GlobalConfig>,
}

impl Assigned {
    /// Brings the file into force that says where samples are sent on. A bad one leaves everything as it is.
    fn send_on(&self) {
        let Some(file) = &self.remote_write else { return };
        let applied = Config::load_file(file).map_err(|e| with_sources(&e)).and_then(|own| {
            let global = self.global.lock().clone();
            let config = Config { remote_write: own.remote_write, global, ..Config::default() };
            self.remote.apply(&config).map_err(|e| with_sources(&e))
        });
        if let Err(e) = applied {
            error!(file = %file.display(), err = e, "remote_write stays as it was");
        }
    }

    fn apply(&self, snapshot: &Snapshot) {
        // First of all: who moved must not be ended with markers by the assignment that lacks them.
        self.manager.hand_off(&snapshot.moved);
        let (config, jobs) = jobs_of(snapshot);
        let targets = snapshot.targets.iter().cloned().map(|t| Arc::new(Target::from(t))).collect();
        let assignment = Assignment {
            generation: snapshot.generation,
            shard: snapshot.shard.clone(),
            targets,
            ..Assignment::default()
        };
        *self.global.lock() = config.global.clone();
        self.send_on();
        self.manager.apply(&jobs, &assignment);
        let others = snapshot.peers.iter().filter(|p| p.name != self.name);
        self.fanout.set_peers(others.map(|p| Peer { name: p.name.clone(), url: p.url.clone() }).collect());
        self.app.set_view(ConfigView {
            yaml: config.to_yaml(),
            external_labels: config.global.external_labels.labels(),
            otlp: config.otlp.clone(),
            relabel: jobs.iter().map(|j| (j.job_name.clone(), j.relabel_configs.clone())).collect(),
            pools: jobs.iter().map(|j| (j.job_name.clone(), settings::job_yaml(j))).collect(),
            retention: self.settings.retention_text(&config),
            scrape_interval: config.global.scrape_interval,
        });
        info!(
            generation = snapshot.generation,
            targets = assignment.targets.len(),
            jobs = jobs.len(),
            peers = snapshot.peers.len(),
            "assignment in force"
        );
    }
}

/// The jobs of an assignment with their secrets. One that is not valid is left out, and its targets with it.
fn jobs_of(snapshot: &Snapshot) -> (Config, Vec<Arc<ScrapeConfig>>) {
    let mut jobs = snapshot.jobs.clone();
    jobs.iter_mut().for_each(|j| resolve(j, &snapshot.secrets));
    let parse = |jobs: &[Value]| {
        let text = json!({"global": snapshot.global, "scrape_configs": jobs}).to_string();
        Config::parse(&text, Path::new("assignment"), &|_| None)
    };
    let config = parse(&jobs).or_else(|_| {
        jobs.retain(|job| match parse(std::slice::from_ref(job)) {
            Ok(_) => true,
            Err(e) => {
                warn!(job = job["job_name"].as_str(), err = with_sources(&e), "a job is not valid: left out");
                false
            }
        });
        parse(&jobs)
    });
    let config = config.unwrap_or_else(|e| {
        error!(err = with_sources(&e), "the assignment's jobs are not valid");
        Config::default()
    });
    let jobs = config.scrape_configs.iter().cloned().map(Arc::new).collect();
    (config, jobs)
}

async fn serve(settings: Settings, shard: ShardSettings) -> anyhow::Result<()> {
    let (registry, store) = (Registry::new(), Late::default());
    let fanout = Fanout::new(Arc::new(store.clone()), shard.fanout);
    fanout.set_peers(shard.peers);
    let local = Arc::new(store.clone());
    let token = shard.token;
    let internal = move |app: &Arc<App>| {
        let app = app.clone();
        fanout::routes::routes(local, token, move || app.classes.peer())
    };
    let storage = Arc::new(fanout.clone());
    let opened = store.clone();
    let mut running = Running::start(&settings, registry, store, storage, internal).await?;
    let options = settings.store_options(&Config::default());
    let folder = options.path.join("fleet");
    running.open(options).await?;

    let (app, manager) = (running.app.clone(), running.manager.clone());
    let assigned = Assigned {
        settings,
        name: shard.name,
        app,
        manager: manager.clone(),
        fanout,
        remote: running.remote.clone(),
        remote_write: shard.remote_write,
        global: Mutex::default(),
    };
    let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
    let mut tasks = Vec::new();
    let mut news = None;
    if let Some(options) = shard.link {
        let link = Link::new(options, AssignmentStore::open(&folder).context("the folder for assignments")?);
        let (scraped, budgets) = (Arc::downgrade(&manager), opened);
        link.set_reports(Arc::new(move || {
            let over = budgets.get().map(narthex_tsdb::Store::over_budget).unwrap_or_default();
            (scraped.upgrade().map(|m| reports(&m)).unwrap_or_default(), over)
        }));
        let mut assignments = link.assigned();
        if let Some(stored) = assignments.borrow_and_update().clone() {
            info!(generation = stored.generation, "starting from the stored assignment");
            assigned.apply(&stored);
        }
        tasks.push(tokio::spawn(link.clone().follow(running.shutdown.clone())));
        tasks.push(tokio::spawn(link.report_on(running.shutdown.clone())));
        news = Some(assignments);
    }
    if news.is_none() {
        assigned.send_on();
    }
    running.ready();
    loop {
        tokio::select! {
            Some(()) = next(&mut news) => {
                let current = news.as_mut().and_then(|n| n.borrow_and_update().clone());
                if let Some(snapshot) = current {
                    assigned.apply(&snapshot);
                }
            }
            // Assignments replace the configuration file: there is nothing to reload.
            Some(request) = running.reloads.recv() => {
                let _ = request.send(Err("a shard's configuration comes from the operator".to_owned()));
            }
            _ = hangup.recv() => assigned.send_on(),
            () = running.shutdown.requested() => break,
        }
    }
    running.stopping();
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    running.end().await;
    info!("see you next time!");
    Ok(())
}

/// The next change of the assignment; never, without an operator.
async fn next(news: &mut Option<watch::Receiver<Option<Arc<Snapshot>>>>) -> Option<()> {
    match news {
        Some(news) => news.changed().await.ok(),
        None => std::future::pending().await,
    }
}

fn reports(manager: &Manager) -> Vec<TargetReport> {
    let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let one = |s: narthex_scrape::TargetStatus| TargetReport {
        id: s.identity,
        scraped: s.last_scrape != 0,
        up: s.health == narthex_scrape::Health::Up,
        samples: s.samples,
        duration_ms: ms(s.last_duration),
    };
    manager.targets().into_iter().map(one).collect()
}
