//! The Pushgateway's paths: `PUT`, `POST` and `DELETE` of groups below `/metrics/job/`, and how they are read.
//!
//! A push becomes a [`groups::Group`], is written to a file ([`disk`]), and its samples go straight to the store
//! ([`sink`]), at once and then at every scrape interval as long as the group is there: nothing scrapes the gateway, and
//! queries see what they would see if something did with `honor_labels`. What ends gets staleness markers. Who wants to
//! scrape it finds all groups at `/metrics/pushed`; `/metrics` is the server's own.
//!
//! One push at a time changes groups, and it blocks on the disk, so it runs on a thread that may; few do at once.
//!
//! Deliberately absent: replication to other shards (a group lives where it was pushed), exemplars, UTF-8 names in paths
//! and text, a switch that leaves out the check of consistency.

pub mod disk;
mod expose;
pub mod groups;
pub mod key;
mod own;
pub mod proto;
mod sink;
mod text;

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::extract::Request;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use narthex_model::{Metadata, MetricType};
use narthex_runtime::Registry;
use narthex_runtime::metrics::{Counter, Gauge, Labelled, Summary};
use narthex_storage::{Appendable, Durable, StorageError};
use parking_lot::Mutex;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::sync::Semaphore;
use tracing::{info, warn};

use self::disk::Disk;
use self::groups::{Group, Groups, Limits};
use self::key::Key;
use self::proto::MetricFamily;
use self::sink::{Samples, Sink};
use crate::answer::{Answer, ApiError, ApiResult, Body, ErrorType, compressed_text, plain, plain_error};
use crate::api::{Req, admin};
use crate::params::Time;
use crate::state::App;

/// Most bytes of a body, packed and unpacked.
pub const MAX_BODY: usize = 16 << 20;

/// Bodies that are longer wait for one of a few places.
const SMALL_BODY: usize = 256 << 10;
const LARGE_BODIES: usize = 4;

/// How long a large body waits for its place.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pushes that are worked on at once.
const WORKERS: usize = 2;

/// Families, metrics, labels, buckets and quantiles of a body, together: each takes some hundred bytes of memory.
const MOST_PARTS: usize = 1 << 20;

/// Bytes of all groups together, as they are on disk; several times that in memory.
const MOST_BYTES: usize = 256 << 20;

/// The header that says how long a group stays without another push.
pub const TTL_HEADER: &str = "narthex-push-ttl";

/// What pushes are taken.
#[derive(Clone, Debug)]
pub struct PushOptions {
    pub max_groups: usize,
    pub max_series: usize,
    /// How long a group stays without another push that says nothing of it; none: for ever.
    pub ttl: Option<Duration>,
}

impl Default for PushOptions {
    fn default() -> PushOptions {
        PushOptions { max_groups: 10_000, max_series: 200_000, ttl: None }
    }
}

/// Why a push is refused.
#[derive(Debug, Error)]
pub enum Refused {
    /// It does not read.
    #[error("{0}")]
    Body(String),
    #[error("the body has more than {0} families, metrics, labels and buckets")]
    Parts(usize),
    #[error("the body, unpacked, exceeds the {MAX_BODY} bytes limit")]
    TooLong,
    /// The group notes that a push failed.
    #[error("pushed metrics are invalid or inconsistent with existing metrics: {0}")]
    Inconsistent(String),
    #[error("the push would exceed the limit of {limit} {name}")]
    Limit { name: &'static str, limit: usize },
    #[error("storing the group failed: {0}")]
    Disk(#[source] std::io::Error),
}

impl Refused {
    fn status(&self) -> StatusCode {
        match self {
            Refused::Body(_) | Refused::Inconsistent(_) => StatusCode::BAD_REQUEST,
            Refused::Parts(_) | Refused::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Refused::Limit { .. } => StatusCode::TOO_MANY_REQUESTS,
            Refused::Disk(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

struct PushMetrics {
    requests: Labelled<Counter>,
    size: Labelled<Summary>,
    duration: Labelled<Summary>,
    groups: Gauge,
    series: Gauge,
    expired: Counter,
    refused: Gauge,
}

impl PushMetrics {
    fn new(r: &Registry) -> PushMetrics {
        const QUANTILES: &[f64] = &[0.1, 0.5, 0.9];
        PushMetrics {
            requests: r.counters(
                "pushgateway_http_requests_total",
                "Total HTTP requests processed by the Pushgateway, excluding scrapes.",
                &["handler", "code", "method"],
            ),
            size: r.summaries(
                "pushgateway_http_push_size_bytes",
                "HTTP request size for pushes to the Pushgateway.",
                &["method"],
                QUANTILES,
            ),
            duration: r.summaries(
                "pushgateway_http_push_duration_seconds",
                "HTTP request duration for pushes to the Pushgateway.",
                &["method"],
                QUANTILES,
            ),
            groups: r.gauge("narthex_push_groups", "Groups of pushed metrics."),
            series: r.gauge("narthex_push_series", "Series of pushed groups."),
            expired: r.counter("narthex_push_expired_groups_total", "Groups that went at the end of their time."),
            refused: r.gauge("narthex_push_refused_series", "Series of pushed groups that the store does not take."),
        }
    }
}

/// What changes under the lock.
struct State {
    groups: Groups,
    sinks: HashMap<Key, Sink>,
}

/// The gateway.
pub struct Push {
    state: Mutex<State>,
    disk: Disk,
    store: Arc<dyn Appendable>,
    ttl: Option<Duration>,
    metrics: PushMetrics,
    workers: Semaphore,
    large: Semaphore,
    started: Time,
    /// When the log last told that the store failed, in seconds since the start.
    told: AtomicU64,
    begun: Instant,
}

fn now_ns() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

impl Push {
    /// Reads what groups there are in `folder`; they go to the store when [`run`] begins.
    ///
    /// # Errors
    /// When the folder can't be used.
    pub fn open(
        options: &PushOptions,
        folder: &Path,
        store: Arc<dyn Appendable>,
        registry: &Registry,
    ) -> std::io::Result<Push> {
        let disk = Disk::open(folder)?;
        let limits = Limits { groups: options.max_groups, series: options.max_series, bytes: MOST_BYTES };
        let mut groups = Groups::new(limits);
        // What is there was acknowledged: limits are for what comes.
        disk.load()?.into_iter().for_each(|g| groups.put(g));
        let metrics = PushMetrics::new(registry);
        metrics.groups.set(groups.count() as f64);
        metrics.series.set(groups.series() as f64);
        if groups.count() > 0 {
            info!(groups = groups.count(), series = groups.series(), "pushed groups are back");
        }
        Ok(Push {
            state: Mutex::new(State { groups, sinks: HashMap::new() }),
            disk,
            store,
            ttl: options.ttl,
            metrics,
            workers: Semaphore::new(WORKERS),
            large: Semaphore::new(LARGE_BODIES),
            started: Time::now(),
            told: AtomicU64::new(u64::MAX),
            begun: Instant::now(),
        })
    }

    /// Tells that the store failed, once a minute at most.
    fn store_failed(&self, e: &StorageError) {
        let now = self.begun.elapsed().as_secs();
        let told = self.told.load(Ordering::Relaxed);
        if told == u64::MAX || now >= told + 60 {
            self.told.store(now, Ordering::Relaxed);
            warn!(err = %e, "appending pushed metrics failed: the next interval tries again");
        }
    }

    /// Appends a group's row; `samples` where they changed.
    fn append(&self, state: &mut State, key: &Key, samples: Option<&Samples>, now: i64) -> Option<Durable> {
        let appended = (|| {
            let sink = match state.sinks.get_mut(key) {
                Some(sink) => {
                    match samples {
                        Some(samples) => sink.set(samples),
                        // There may be room by now.
                        None if sink.refused > 0 => {
                            if let Some(Ok(samples)) = state.groups.get(key).map(sink::samples) {
                                sink.set(&samples);
                            }
                        }
                        None => {}
                    }
                    sink
                }
                None => {
                    let mut sink = Sink::open(&*self.store, key)?;
                    match samples {
                        Some(samples) => sink.set(samples),
                        // What a restart found.
                        None => {
                            if let Some(Ok(samples)) = state.groups.get(key).map(sink::samples) {
                                sink.set(&samples);
                            }
                        }
                    }
                    state.sinks.entry(key.clone()).or_insert(sink)
                }
            };
            sink.append(now / 1_000_000)
        })();
        match appended {
            Ok(outcome) => outcome.durable,
            Err(e) => {
                self.store_failed(&e);
                None
            }
        }
    }

    fn count(&self, state: &State) {
        self.metrics.groups.set(state.groups.count() as f64);
        self.metrics.series.set(state.groups.series() as f64);
        self.metrics.refused.set(state.sinks.values().map(|s| s.refused).sum::<usize>() as f64);
    }

    /// Takes a group in place of the one with its key: on disk, in memory, in the store.
    fn put(&self, state: &mut State, group: Group, samples: &Samples, now: i64) -> Result<Option<Durable>, Refused> {
        self.disk.write(&group).map_err(Refused::Disk)?;
        let key = group.key.clone();
        state.groups.put(group);
        let durable = self.append(state, &key, Some(samples), now);
        self.count(state);
        Ok(durable)
    }

    /// A push. What it brought is on disk and in the store when the future in the answer is through.
    fn push(
        &self,
        key: &Key,
        families: BTreeMap<String, MetricFamily>,
        replace: bool,
        ttl: Option<Duration>,
    ) -> Result<Option<Durable>, Refused> {
        let now = now_ns();
        let mut state = self.state.lock();
        let pushed = state.groups.pushed(key, families, replace, now).and_then(|mut group| {
            group.ttl = ttl;
            let samples = sink::samples(&group).map_err(Refused::Inconsistent)?;
            Ok((group, samples))
        });
        match pushed {
            Ok((group, samples)) => {
                let metadata = metadata(&group);
                let durable = self.put(&mut state, group, &samples, now)?;
                self.store.put_metadata(&metadata);
                Ok(durable)
            }
            Err(Refused::Inconsistent(text)) => {
                let mut group = state.groups.failed(key, now)?;
                // A group that is only there because of that goes as others do.
                group.ttl = state.groups.get(key).map_or(ttl, |g| g.ttl);
                if let Ok(samples) = sink::samples(&group) {
                    self.put(&mut state, group, &samples, now)?;
                }
                Err(Refused::Inconsistent(text))
            }
            Err(e) => Err(e),
        }
    }

    fn delete(&self, key: &Key) -> Result<Option<Durable>, Refused> {
        let mut state = self.state.lock();
        self.remove(&mut state, key, now_ns())
    }

    fn remove(&self, state: &mut State, key: &Key, now: i64) -> Result<Option<Durable>, Refused> {
        let Some(group) = state.groups.get(key) else { return Ok(None) };
        let sink = match state.sinks.remove(key) {
            Some(sink) => Ok(sink),
            None => Sink::open(&*self.store, key).map(|mut sink| {
                if let Ok(samples) = sink::samples(group) {
                    sink.set(&samples);
                }
                sink
            }),
        };
        self.disk.remove(key).map_err(Refused::Disk)?;
        state.groups.remove(key);
        let ended = sink.and_then(|sink| sink.end(now / 1_000_000));
        self.count(state);
        match ended {
            Ok(outcome) => Ok(outcome.durable),
            Err(e) => {
                self.store_failed(&e);
                Ok(None)
            }
        }
    }

    fn wipe(&self) -> Result<Vec<Durable>, Refused> {
        let mut state = self.state.lock();
        let keys: Vec<Key> = state.groups.all().map(|g| g.key.clone()).collect();
        let now = now_ns();
        let mut all = Vec::new();
        for key in &keys {
            all.extend(self.remove(&mut state, key, now)?);
        }
        Ok(all)
    }

    /// Appends all groups once more, and ends those whose time is over. It blocks.
    pub fn tick(&self) {
        let keys: Vec<Key> = self.state.lock().groups.all().map(|g| g.key.clone()).collect();
        for keys in keys.chunks(64) {
            let mut state = self.state.lock();
            let now = now_ns();
            for key in keys {
                let Some(over) = state.groups.get(key).map(|g| g.is_over(now)) else { continue };
                if !over {
                    self.append(&mut state, key, None, now);
                    continue;
                }
                match self.remove(&mut state, key, now) {
                    Ok(_) => self.metrics.expired.inc(),
                    Err(e) => warn!(err = %e, "a pushed group is over and can't be removed"),
                }
            }
        }
    }

    /// All groups as text.
    pub fn text(&self) -> String {
        expose::text(self.groups().iter())
    }

    fn groups(&self) -> Vec<Group> {
        self.state.lock().groups.all().cloned().collect()
    }
}

fn metadata(group: &Group) -> Vec<(String, Metadata)> {
    let one = |f: &groups::Stored| {
        let metric_type = match f.family.kind {
            proto::COUNTER => MetricType::Counter,
            proto::GAUGE => MetricType::Gauge,
            proto::SUMMARY => MetricType::Summary,
            proto::HISTOGRAM => MetricType::Histogram,
            proto::GAUGE_HISTOGRAM => MetricType::GaugeHistogram,
            _ => MetricType::Unknown,
        };
        let help = f.family.help.clone().unwrap_or_default();
        (f.family.name.clone(), Metadata { metric_type, help, unit: f.family.unit.clone() })
    };
    group.families.values().map(one).collect()
}

/// Appends all groups at every scrape interval, until the server ends. Does nothing where pushes are not taken.
pub async fn run(app: Arc<App>) {
    let Some(push) = app.push.get().cloned() else { return };
    loop {
        let begun = tokio::time::Instant::now();
        let ticking = push.clone();
        let _ = tokio::task::spawn_blocking(move || ticking.tick()).await;
        let interval = Some(app.view.load().scrape_interval).filter(|i| !i.is_zero()).unwrap_or(DEFAULT_INTERVAL);
        tokio::select! {
            () = tokio::time::sleep_until(begun + interval) => {}
            () = app.shutdown.requested() => return,
        }
    }
}

/// Where the configuration has none, as on a shard without an assignment.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(15);

/// Whether a request is about a group; what its path names, decoded.
pub(crate) fn claims(prefix: &str, method: &Method, uri: &Uri) -> Option<Vec<u8>> {
    if !matches!(*method, Method::PUT | Method::POST | Method::DELETE) {
        return None;
    }
    let rest = uri.path().strip_prefix(prefix)?.strip_prefix("/metrics/")?;
    let path = crate::router::paths::decode(rest)?;
    (key::is_group(&path) && crate::router::paths::clean(uri.path()).is_none()).then_some(path)
}

const OFF: &str = "pushes need to be enabled with --web.enable-push";

fn open(app: &App) -> Option<&Arc<Push>> {
    app.push.get()
}

/// Reads a body. A long one waits for a place as soon as it is known to be long.
async fn read(push: &Push, body: axum::body::Body) -> Result<Bytes, Response<Body>> {
    let mut body = body;
    let mut out = BytesMut::new();
    let mut place = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| plain_error(StatusCode::BAD_REQUEST, &e.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        if out.len() + data.len() > MAX_BODY {
            let text = format!("request body exceeds the {MAX_BODY} bytes limit");
            return Err(plain_error(StatusCode::PAYLOAD_TOO_LARGE, &text));
        }
        if place.is_none() && out.len() + data.len() > SMALL_BODY {
            let Ok(Ok(permit)) = tokio::time::timeout(PATIENCE, push.large.acquire()).await else {
                let text = "too many large pushes at once, try again";
                return Err(plain_error(StatusCode::SERVICE_UNAVAILABLE, text));
            };
            place = Some(permit);
        }
        out.extend_from_slice(&data);
    }
    Ok(out.freeze())
}

fn unpack(mut from: impl Read) -> Result<Vec<u8>, Refused> {
    let mut out = Vec::new();
    let limit = MAX_BODY as u64 + 1;
    from.by_ref().take(limit).read_to_end(&mut out).map_err(|e| Refused::Body(e.to_string()))?;
    if out.len() > MAX_BODY { Err(Refused::TooLong) } else { Ok(out) }
}

/// Whether a content type is that of delimited families, exactly.
fn is_protobuf(content_type: &str) -> bool {
    let mut parts = content_type.split(';').map(str::trim);
    let is = parts.next().is_some_and(|m| m.eq_ignore_ascii_case("application/vnd.google.protobuf"));
    let parameters: Vec<(String, &str)> = parts
        .filter_map(|p| p.split_once('='))
        .map(|(n, v)| (n.trim().to_ascii_lowercase(), v.trim().trim_matches('"')))
        .collect();
    let has = |name: &str, value: &str| parameters.iter().any(|(n, v)| n == name && *v == value);
    is && has("encoding", "delimited") && has("proto", "io.prometheus.client.MetricFamily")
}

/// The families of a body.
fn decode(headers: &HeaderMap, body: &[u8]) -> Result<BTreeMap<String, MetricFamily>, Refused> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("");
    let unpacked = match text(header::CONTENT_ENCODING).to_ascii_lowercase().as_str() {
        "gzip" => Some(unpack(flate2::read::MultiGzDecoder::new(body))?),
        "snappy" => Some(unpack(snap::read::FrameDecoder::new(body))?),
        _ => None,
    };
    let body = unpacked.as_deref().unwrap_or(body);
    match is_protobuf(text(header::CONTENT_TYPE)) {
        true => proto::delimited(body, MOST_PARTS),
        false => text::parse(body, MOST_PARTS),
    }
}

/// How long a group stays, by the header of a push.
fn ttl_of(headers: &HeaderMap, default: Option<Duration>) -> Result<Option<Duration>, String> {
    let Some(value) = headers.get(TTL_HEADER) else { return Ok(default) };
    let text = value.to_str().unwrap_or("");
    let ttl = narthex_model::duration::parse(text).map_err(|e| format!("header {TTL_HEADER}: {e}"))?;
    Ok(Some(ttl).filter(|t| !t.is_zero()))
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// Answers a push or a deletion; `path` as [`claims`] gave it.
pub(crate) async fn handle(app: Arc<App>, request: Request, path: Vec<u8>) -> Response<Body> {
    let Some(push) = open(&app).cloned() else { return plain_error(StatusCode::NOT_FOUND, OFF) };
    let begun = Instant::now();
    let method = request.method().clone();
    let is_delete = method == Method::DELETE;
    let response = if is_delete { delete(&push, &path).await } else { take(&push, request, &path).await };
    let (handler, method) = (if is_delete { "delete" } else { "push" }, method.as_str().to_ascii_lowercase());
    push.metrics.requests.with(&[handler, response.status().as_str(), &method]).inc();
    if !is_delete {
        push.metrics.duration.with(&[&method]).observe(begun.elapsed().as_secs_f64());
    }
    response
}

async fn take(push: &Arc<Push>, request: Request, path: &[u8]) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let bad = |text: &str| plain_error(StatusCode::BAD_REQUEST, text);
    let key = match key::parse(path) {
        Ok(key) => key,
        Err(text) => return bad(&text),
    };
    let ttl = match ttl_of(&parts.headers, push.ttl) {
        Ok(ttl) => ttl,
        Err(text) => return bad(&text),
    };
    let body = match read(push, body).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    push.metrics.size.with(&[&parts.method.as_str().to_ascii_lowercase()]).observe(body.len() as f64);
    let replace = parts.method == Method::PUT;
    let outcome = work(push, move |push| {
        let families = decode(&parts.headers, &body)?;
        drop(body);
        push.push(&key, families, replace, ttl)
    });
    finish(outcome.await, StatusCode::OK).await
}

async fn delete(push: &Arc<Push>, path: &[u8]) -> Response<Body> {
    match key::parse(path) {
        Ok(key) => finish(work(push, move |push| push.delete(&key)).await, StatusCode::ACCEPTED).await,
        Err(text) => plain_error(StatusCode::BAD_REQUEST, &text),
    }
}

/// Runs what blocks, when it is its turn.
async fn work<T: Send + 'static>(
    push: &Arc<Push>,
    work: impl FnOnce(&Push) -> Result<T, Refused> + Send + 'static,
) -> Result<T, Refused> {
    let _turn = push.workers.acquire().await;
    let push = push.clone();
    let done = tokio::task::spawn_blocking(move || work(&push)).await;
    done.unwrap_or_else(|e| Err(Refused::Disk(std::io::Error::other(e))))
}

async fn finish(outcome: Result<Option<Durable>, Refused>, status: StatusCode) -> Response<Body> {
    match outcome {
        Ok(durable) => {
            if let Some(durable) = durable
                && let Err(e) = durable.await
            {
                // The group is on disk, and the next interval appends it again.
                warn!(err = %e, "pushed metrics are not in the store's log yet");
            }
            empty(status)
        }
        Err(e) => {
            if !matches!(e, Refused::Body(_)) {
                warn!(err = %e, "a push was refused");
            }
            plain_error(e.status(), &e.to_string())
        }
    }
}

/// `/metrics/pushed`: all groups, to be scraped with `honor_labels`.
pub(crate) async fn exposition(app: Arc<App>, request: Request) -> Response<Body> {
    let Some(push) = open(&app).cloned() else { return plain_error(StatusCode::NOT_FOUND, OFF) };
    let text = tokio::task::spawn_blocking(move || push.text()).await.unwrap_or_default();
    let content_type = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
    compressed_text(request.headers(), StatusCode::OK, content_type, text.into_bytes())
}

fn api_open(app: &App) -> Result<&Arc<Push>, ApiError> {
    open(app).ok_or_else(|| ApiError::new(ErrorType::NotFound, OFF))
}

/// `/api/v1/metrics`, the Pushgateway's.
pub(crate) async fn metrics(app: Arc<App>, _: Req) -> ApiResult {
    let push = api_open(&app)?.clone();
    let list = tokio::task::spawn_blocking(move || push.groups().iter().map(expose::json).collect::<Vec<Value>>());
    Answer::json(&list.await.map_err(|e| ApiError::new(ErrorType::Internal, e.to_string()))?)
}

/// `/api/v1/status`, the Pushgateway's.
pub(crate) async fn status(app: Arc<App>, _: Req) -> ApiResult {
    let push = api_open(&app)?;
    let start = jiff::Timestamp::from_millisecond(push.started.ms()).map(|t| t.to_string()).unwrap_or_default();
    let build = &app.options.build;
    Answer::json(&json!({"build_information": build, "flags": app.options.flags, "start_time": start}))
}

/// `/api/v1/admin/wipe`: all groups go.
pub(crate) async fn wipe(app: Arc<App>, _: Request) -> Response<Body> {
    let Some(push) = open(&app) else { return plain_error(StatusCode::NOT_FOUND, OFF) };
    if let Err(e) = admin::enabled(&app) {
        return plain(e.kind.status(), e.message);
    }
    info!("removing all pushed groups");
    let wiped = work(push, Push::wipe).await;
    let (outcome, rest) = match wiped {
        Ok(mut all) => (Ok(all.pop()), all),
        Err(e) => (Err(e), Vec::new()),
    };
    for durable in rest {
        let _ = durable.await;
    }
    let response = finish(outcome, StatusCode::ACCEPTED).await;
    push.metrics.requests.with(&["wipe", response.status().as_str(), "put"]).inc();
    response
}
