//! Remote write: sends what the store takes to other servers (Prometheus `storage/remote`, 1.0 and 2.0).
//!
//! Each entry of `remote_write` is a queue: a thread that follows the store ([`narthex_storage::Followable`]) and encodes
//! requests, and as many senders as its shards. The place up to which all was acknowledged survives restarts, under a
//! name that is the entry's `name`, or goes by its URL. Nothing is lost while a receiver is away: the store keeps what a
//! queue has not settled, and the queue reads no further than it can send.
//!
//! Absent: `azuread` and `google_iam`, profiles and roles of `sigv4`; they are refused by name.

mod client;
mod encode;
mod family;
mod lanes;
mod metadata;
mod metrics;
mod queue;
mod quiet;
mod rates;
mod rewrite;
mod send;
mod sigv4;
mod table;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use md5::{Digest, Md5};
use narthex_config::remote::WriteMessage;
use narthex_config::{Config, RemoteWriteConfig};
use narthex_model::{Labels, Metadata};
use narthex_runtime::Registry;
use narthex_storage::{Followable, StorageError, Tail};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use client::{Destination, now_ms};
use metrics::{AllMetrics, QueueMetrics};
use queue::{Moved, QuietLines, Reader, Shared, Stop};
use rates::{Ewma, Limits, Rates, TICK, desired};

/// Asks what is known of metrics, by name.
pub type Descriptions = Arc<dyn Fn() -> Vec<(String, Metadata)> + Send + Sync>;

/// What the store has taken so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Received {
    pub samples: f64,
    /// Timestamp of the newest sample in ms; 0 for none.
    pub newest: i64,
}

/// Why a configuration cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("remote_write to {url}: {what} is not supported: nothing would be sent")]
    Unsupported { url: String, what: &'static str },
    #[error("remote_write to {url}: {why}")]
    Invalid { url: String, why: String },
    #[error("duplicate remote write configs are not allowed, found duplicate for URL: {url}")]
    Duplicate { url: String },
    #[error("remote_write to {url}: the store cannot be followed")]
    Store {
        url: String,
        #[source]
        source: StorageError,
    },
}

/// What sending needs from around it.
#[derive(Clone)]
pub struct Parts {
    pub store: Arc<dyn Followable>,
    /// Of all metrics that targets expose: 1.0 sends them from time to time.
    pub target_metadata: Descriptions,
    /// Of all metrics in the store: 2.0 sends them with each series.
    pub stored_metadata: Descriptions,
    /// What the store takes, for the number of shards.
    pub received: Arc<dyn Fn() -> Received + Send + Sync>,
    pub registry: Registry,
    /// How long the end may be held up by what is to be sent yet.
    pub flush_deadline: Duration,
    pub user_agent: &'static str,
}

/// Names of tails begin so; others are not touched.
const TAILS: &str = "remote-write/";

/// One entry of the configuration, checked.
#[derive(Clone)]
struct Wanted {
    config: RemoteWriteConfig,
    external: Labels,
    /// The hash of all but secrets, as Prometheus builds it.
    hash: String,
    /// As metrics and logs call it.
    name: String,
    tail: String,
    destination: Arc<Destination>,
}

/// What is to run.
#[derive(Clone, Default)]
struct Plan {
    entries: Vec<Wanted>,
    /// The process ends.
    end: bool,
}

/// All queues. They follow [`Remote::apply`].
pub struct Remote {
    parts: Parts,
    plan: watch::Sender<Plan>,
    /// Tails that were opened when their entry came, so that they miss nothing from then on.
    tails: Arc<Mutex<HashMap<String, Box<dyn Tail>>>>,
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

fn hex_md5(text: &str) -> String {
    Md5::digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

/// The hash that names a queue in Prometheus: of the entry as it prints it, secrets hidden.
fn config_hash(config: &RemoteWriteConfig) -> String {
    let whole = Config { remote_write: vec![config.clone()], ..Config::default() }.to_yaml();
    let lines = whole.lines().skip_while(|l| *l != "remote_write:").skip(1);
    let entry = lines.take_while(|l| l.starts_with(['-', ' ']));
    let text: String = entry.map(|l| format!("{}\n", l.get(2..).unwrap_or_default())).collect();
    hex_md5(&text)
}

fn wanted(config: &Config, user_agent: &'static str) -> Result<Vec<Wanted>, RemoteError> {
    let external = config.global.external_labels.labels();
    let mut all: Vec<Wanted> = Vec::new();
    for entry in &config.remote_write {
        let hash = config_hash(entry);
        let url = entry.url.as_ref().map(|u| u.redacted()).unwrap_or_default();
        if all.iter().any(|w| w.hash == hash) {
            return Err(RemoteError::Duplicate { url });
        }
        let name = if entry.name.is_empty() { hash.get(..6).unwrap_or_default() } else { &entry.name };
        let by_name = || format!("{TAILS}name/{}", entry.name);
        let by_url = format!("{TAILS}url/{}", hex_md5(&url));
        let tail = match entry.name.is_empty() {
            false => by_name(),
            // A second one to the same address goes by all that it is.
            true if all.iter().any(|w| w.tail == by_url) => format!("{by_url}/{hash}"),
            true => by_url,
        };
        all.push(Wanted {
            destination: Arc::new(Destination::new(entry, user_agent)?),
            config: entry.clone(),
            external: external.clone(),
            name: name.to_owned(),
            hash,
            tail,
        });
    }
    Ok(all)
}

impl Remote {
    /// Starts without queues, on the current runtime.
    pub fn start(parts: Parts) -> Remote {
        let (plan, plans) = watch::channel(Plan::default());
        let tails = Arc::default();
        let metrics = AllMetrics::register(&parts.registry);
        let (end, ended) = oneshot::channel();
        let manager = Manager { parts: parts.clone(), metrics, tails: Arc::clone(&tails), queues: BTreeMap::new() };
        tokio::spawn(async move {
            manager.run(plans).await;
            let _ = end.send(());
        });
        Remote { parts, plan, tails, ended: Mutex::new(Some(ended)) }
    }

    /// Brings a configuration into force: queues of unchanged entries go on undisturbed, changed ones go on at their
    /// place, and the places of those that are gone are forgotten. Blocks on the store where an entry is new.
    ///
    /// # Errors
    /// When an entry cannot be followed; then nothing changes.
    pub fn apply(&self, config: &Config) -> Result<(), RemoteError> {
        let entries = wanted(config, self.parts.user_agent)?;
        let known = self.parts.store.tails();
        for entry in entries.iter().filter(|e| !known.contains(&e.tail)) {
            let url = entry.config.url.as_ref().map(|u| u.redacted()).unwrap_or_default();
            let tail = self.parts.store.tail(&entry.tail).map_err(|source| RemoteError::Store { url, source })?;
            self.tails.lock().insert(entry.tail.clone(), tail);
        }
        self.plan.send_modify(|plan| plan.entries = entries);
        Ok(())
    }

    /// Ends all queues: what is stored is sent, as far as the flush deadline allows.
    pub async fn shutdown(&self) {
        self.plan.send_modify(|plan| plan.end = true);
        let ended = self.ended.lock().take();
        if let Some(ended) = ended {
            let _ = ended.await;
        }
    }
}

/// A queue that runs.
struct Queue {
    wanted: Wanted,
    shared: Arc<Shared>,
    ended: oneshot::Receiver<()>,
}

impl Queue {
    fn start(
        wanted: Wanted,
        tail: Option<Box<dyn Tail>>,
        parts: &Parts,
        metrics: &AllMetrics,
    ) -> std::io::Result<Queue> {
        let url = wanted.config.url.as_ref().map(|u| u.redacted()).unwrap_or_default();
        let queue = &wanted.config.queue_config;
        let own = Arc::new(QueueMetrics::new(&wanted.name, &url));
        own.capacity.set(queue.capacity as f64);
        own.shards_max.set(queue.max_shards as f64);
        own.shards_min.set(queue.min_shards as f64);
        own.shards_desired.set(queue.min_shards as f64);
        own.max_samples_per_send.set(queue.max_samples_per_send as f64);
        metrics.add(&own);
        let shared = Arc::new(Shared {
            config: wanted.config.clone(),
            external: wanted.external.clone(),
            destination: ArcSwap::new(wanted.destination.clone()),
            lanes: lanes::Lanes::default(),
            metrics: own,
            rates: Moved::default(),
            quiet: QuietLines::default(),
            hard: CancellationToken::new(),
            wanted: AtomicUsize::new(usize::try_from(queue.min_shards).unwrap_or(1).max(1)),
            last_sent: AtomicI64::new(0),
            no_reshard_until: AtomicI64::new(0),
            stop: Mutex::new(None),
            started: now_ms(),
        });
        info!(remote_name = wanted.name, url, "starting remote write");
        let runtime = tokio::runtime::Handle::current();
        let (end, ended) = oneshot::channel();
        let descriptions = parts.stored_metadata.clone();
        let reader = Reader::new(shared.clone(), parts.store.clone(), wanted.tail.clone(), tail, runtime, descriptions);
        std::thread::Builder::new().name("remote-write".to_owned()).spawn(move || {
            reader.run();
            let _ = end.send(());
        })?;
        tokio::spawn(watch_rates(shared.clone(), parts.received.clone()));
        if wanted.config.protobuf_message == WriteMessage::V1 {
            tokio::spawn(metadata::serve(shared.clone(), parts.target_metadata.clone()));
        } else if wanted.config.metadata_config.send {
            warn!(
                remote_name = wanted.name,
                "usage of 'metadata_config.send' is redundant when using remote write v2 (or higher) as metadata will always be included for every series within each write request"
            );
        }
        Ok(Queue { wanted, shared, ended })
    }

    /// Ends it; with `drain` everything that is stored is sent first.
    async fn end(self, deadline: Duration, drain: bool) {
        *self.shared.stop.lock() = Some(Stop { deadline: Instant::now() + deadline, drain });
        self.shared.lanes.nudge();
        let _ = self.ended.await;
        info!(remote_name = self.wanted.name, "remote write stopped");
    }
}

/// Runs what is planned.
struct Manager {
    parts: Parts,
    metrics: AllMetrics,
    tails: Arc<Mutex<HashMap<String, Box<dyn Tail>>>>,
    /// By hash.
    queues: BTreeMap<String, Queue>,
}

impl Manager {
    async fn run(mut self, mut plans: watch::Receiver<Plan>) {
        // Nothing is forgotten before there was a configuration.
        while plans.changed().await.is_ok() {
            let plan = plans.borrow_and_update().clone();
            if plan.end {
                break;
            }
            self.follow(plan.entries).await;
        }
        let deadline = self.parts.flush_deadline;
        let queues = std::mem::take(&mut self.queues).into_values();
        futures::future::join_all(queues.map(|q| q.end(deadline, true))).await;
    }

    async fn follow(&mut self, entries: Vec<Wanted>) {
        let same = |q: &Queue| {
            entries
                .iter()
                .find(|e| e.hash == q.wanted.hash && e.external == q.wanted.external && e.tail == q.wanted.tail)
        };
        let (kept, ending): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.queues).into_iter().partition(|(_, q)| same(q).is_some());
        self.queues = kept;
        for queue in self.queues.values_mut() {
            // Secrets are no part of the hash.
            if let Some(entry) = entries.iter().find(|e| e.hash == queue.wanted.hash)
                && entry.config != queue.wanted.config
            {
                queue.shared.destination.store(entry.destination.clone());
                queue.wanted = entry.clone();
            }
        }
        // Whoever goes on where another ends has to wait for it.
        let busy: Vec<String> = ending.values().map(|q| q.wanted.tail.clone()).collect();
        let (after, now): (Vec<&Wanted>, Vec<&Wanted>) = entries.iter().partition(|e| busy.contains(&e.tail));
        self.start(&now);
        let deadline = self.parts.flush_deadline;
        futures::future::join_all(ending.into_values().map(|q| q.end(deadline, false))).await;
        self.start(&after);
        self.tails.lock().retain(|name, _| entries.iter().any(|e| e.tail == *name));
        self.forget(&entries).await;
    }

    /// Starts those that do not run.
    fn start(&mut self, entries: &[&Wanted]) {
        for entry in entries.iter().copied() {
            if self.queues.contains_key(&entry.hash) {
                continue;
            }
            let tail = self.tails.lock().remove(&entry.tail);
            match Queue::start(entry.clone(), tail, &self.parts, &self.metrics) {
                Ok(queue) => {
                    self.queues.insert(entry.hash.clone(), queue);
                }
                Err(e) => error!(remote_name = entry.name, err = %e, "remote write does not start"),
            }
        }
    }

    /// Places of entries that are gone.
    async fn forget(&self, entries: &[Wanted]) {
        let store = self.parts.store.clone();
        let keep: Vec<String> = entries.iter().map(|e| e.tail.clone()).collect();
        let forgotten = tokio::task::spawn_blocking(move || {
            let gone = store.tails().into_iter().filter(|t| t.starts_with(TAILS) && !keep.contains(t));
            gone.map(|name| store.forget_tail(&name).map_err(|e| (name, e))).filter_map(Result::err).collect::<Vec<_>>()
        });
        for (tail, e) in forgotten.await.unwrap_or_default() {
            warn!(tail, err = %e, "the place of a queue that is gone cannot be forgotten");
        }
    }
}

/// Looks every ten seconds how many shards a queue needs.
async fn watch_rates(shared: Arc<Shared>, received: Arc<dyn Fn() -> Received + Send + Sync>) {
    let queue = &shared.config.queue_config;
    let size = |n: i64| usize::try_from(n).unwrap_or(1).max(1);
    let limits = Limits { min: size(queue.min_shards), max: size(queue.max_shards) };
    let [mut incoming, mut dropped, mut sent, mut nanos]: [Ewma; 4] = Default::default();
    let mut before = received().samples;
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + TICK, TICK);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shared.hard.cancelled() => return,
        }
        let now = received();
        incoming.add((now.samples - before).max(0.0) as u64);
        before = now.samples;
        dropped.add(shared.rates.dropped.swap(0, Ordering::Relaxed));
        sent.add(shared.rates.sent.swap(0, Ordering::Relaxed));
        nanos.add(shared.rates.nanos.swap(0, Ordering::Relaxed));
        [&mut incoming, &mut dropped, &mut sent, &mut nanos].into_iter().for_each(Ewma::tick);
        let rates = Rates {
            incoming: incoming.rate(),
            dropped: dropped.rate(),
            sent: sent.rate(),
            sending: nanos.rate() / 1e9,
            delay: now.newest as f64 / 1000.0 - shared.metrics.highest_sent.seconds(),
        };
        let current = shared.wanted.load(Ordering::Relaxed);
        let (shards, wish) = desired(&rates, current, limits);
        if let Some(wish) = wish {
            shared.metrics.shards_desired.set(wish);
        }
        let time = now_ms();
        let tick_ms = i64::try_from(TICK.as_millis()).unwrap_or(0);
        let idle = shared.last_sent.load(Ordering::Relaxed) < time - tick_ms;
        let waiting = shared.no_reshard_until.load(Ordering::Relaxed) > time;
        if shards != current && !idle && !waiting {
            shared.wanted.store(shards, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
