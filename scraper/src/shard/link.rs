//! The line to the operator: assignments come down a stream for as long as it stays open, reports go up.
//!
//! The operator may be away for as long as it likes; what was assigned last stays in force.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use narthex_config::wire::{HEARTBEAT, MAX_LINE, Message, REPORT_PATH, Report, STREAM_PATH, Snapshot, TargetReport};
use narthex_runtime::Shutdown;
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::store::AssignmentStore;

/// How a shard reaches its operator.
#[derive(Clone, Debug)]
pub struct Options {
    /// `http://host:port`.
    pub operator: String,
    /// `NAMESPACE/NAME`.
    pub fleet: String,
    pub shard: String,
    /// Where peers reach this shard.
    pub url: String,
    pub token: String,
}

/// What the last scrapes of all targets came to, and what is over its budget of series.
pub type Reports = Arc<dyn Fn() -> (Vec<TargetReport>, BTreeMap<String, String>) + Send + Sync>;

/// The longest that a report may take.
const REPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// How soon is reported again while something is under way.
const SOON: Duration = Duration::from_secs(1);

/// Both directions. Dropping the tasks ends them.
pub struct Link {
    options: Options,
    http: Client<HttpConnector, Full<Bytes>>,
    store: AssignmentStore,
    assigned: watch::Sender<Option<Arc<Snapshot>>>,
    reports: Mutex<Option<Reports>>,
}

/// Why the line broke.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("the operator's address is not valid")]
    Address(#[source] http::Error),
    #[error("the operator cannot be reached")]
    Connect(#[source] hyper_util::client::legacy::Error),
    #[error("the operator answered with status {0}")]
    Status(StatusCode),
    #[error("the stream broke off")]
    Read(#[source] hyper::Error),
    #[error("the stream ended")]
    Ended,
    #[error("no sign of life for {0:?}")]
    Silent(Duration),
    #[error("a line is longer than {0} bytes")]
    TooLong(usize),
    #[error("a message does not decode")]
    Decode(#[source] serde_json::Error),
    #[error("a report can't be written")]
    Encode(#[source] serde_json::Error),
}

impl Link {
    /// Starts from what the store holds.
    pub fn new(options: Options, store: AssignmentStore) -> Arc<Link> {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(Duration::from_secs(3)));
        connector.set_nodelay(true);
        let http = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_timer(TokioTimer::new())
            .build(connector);
        let stored = match store.load() {
            Ok(Some(s)) if s.fleet == options.fleet && s.shard == options.shard => Some(Arc::new(s)),
            Ok(Some(s)) => {
                warn!(fleet = s.fleet, shard = s.shard, "the stored assignment is another shard's: ignored");
                None
            }
            Ok(None) => None,
            Err(error) => {
                warn!(%error, "the stored assignment can't be read: waiting for the operator");
                None
            }
        };
        Arc::new(Link { options, http, store, assigned: watch::Sender::new(stored), reports: Mutex::default() })
    }

    /// The assignment in force; `None` before the first.
    pub fn assigned(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.assigned.subscribe()
    }

    /// From now on reports say this.
    pub fn set_reports(&self, reports: Reports) {
        *self.reports.lock() = Some(reports);
    }

    /// Follows the operator's stream until the end of the process.
    pub async fn follow(self: Arc<Self>, shutdown: Shutdown) {
        let mut pause = Duration::from_millis(250);
        while !shutdown.is_requested() {
            // A new leader learns from the report what this shard has, before it decides anything.
            if let Err(error) = self.report().await {
                debug!(%error, "report");
            }
            let outcome = tokio::select! {
                outcome = self.listen(&mut pause) => outcome,
                () = shutdown.requested() => return,
            };
            if let Err(error) = outcome {
                warn!(
                    operator = self.options.operator,
                    error = &error as &dyn std::error::Error,
                    "no line to the operator"
                );
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.requested() => return,
            }
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    /// Reports until the end of the process: now and then, and soon after each assignment and while targets wait for
    /// their first scrape.
    pub async fn report_on(self: Arc<Self>, shutdown: Shutdown) {
        let mut assigned = self.assigned.subscribe();
        loop {
            let news = tokio::select! {
                changed = assigned.changed() => changed.is_ok(),
                () = tokio::time::sleep(HEARTBEAT) => false,
                () = shutdown.requested() => return,
            };
            // Give the first scrapes half a minute to come in.
            for _ in 0..if news { 30 } else { 1 } {
                let waiting = match self.report().await {
                    Ok(waiting) => waiting,
                    Err(error) => {
                        debug!(%error, "report");
                        false
                    }
                };
                if !waiting || assigned.has_changed().unwrap_or(false) {
                    break;
                }
                tokio::select! {
                    () = tokio::time::sleep(SOON) => {}
                    () = shutdown.requested() => return,
                }
            }
        }
    }

    fn request(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Request<Full<Bytes>>, LinkError> {
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.options.operator.trim_end_matches('/')))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.options.token))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(LinkError::Address)
    }

    /// Sends one report; whether targets still wait for their first scrape.
    async fn report(&self) -> Result<bool, LinkError> {
        let generation = self.assigned.borrow().as_ref().map_or(0, |s| s.generation);
        let (targets, over_budget) = self.reports.lock().clone().map(|r| r()).unwrap_or_default();
        let waiting = targets.iter().any(|t| !t.scraped);
        let report = Report {
            fleet: self.options.fleet.clone(),
            shard: self.options.shard.clone(),
            generation,
            url: self.options.url.clone(),
            targets,
            over_budget,
        };
        let body = serde_json::to_vec(&report).map_err(LinkError::Encode)?;
        let request = self.request(Method::POST, REPORT_PATH, body)?;
        let response = tokio::time::timeout(REPORT_TIMEOUT, self.http.request(request))
            .await
            .map_err(|_| LinkError::Silent(REPORT_TIMEOUT))?
            .map_err(LinkError::Connect)?;
        match response.status() {
            s if s.is_success() => Ok(waiting),
            s => Err(LinkError::Status(s)),
        }
    }

    /// Reads one stream to its end.
    async fn listen(&self, pause: &mut Duration) -> Result<(), LinkError> {
        let query: String = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("fleet", &self.options.fleet)
            .append_pair("shard", &self.options.shard)
            .finish();
        let request = self.request(Method::GET, &format!("{STREAM_PATH}?{query}"), Vec::new())?;
        let silence = HEARTBEAT * 3;
        let response = tokio::time::timeout(silence, self.http.request(request))
            .await
            .map_err(|_| LinkError::Silent(silence))?
            .map_err(LinkError::Connect)?;
        if response.status() != StatusCode::OK {
            return Err(LinkError::Status(response.status()));
        }
        info!(operator = self.options.operator, "the operator's stream is open");
        *pause = Duration::from_millis(250);
        let mut body = response.into_body();
        let mut buffer = BytesMut::new();
        loop {
            let frame = tokio::time::timeout(silence, body.frame()).await.map_err(|_| LinkError::Silent(silence))?;
            let frame = frame.ok_or(LinkError::Ended)?.map_err(LinkError::Read)?;
            let Ok(data) = frame.into_data() else { continue };
            let mut searched = buffer.len();
            buffer.extend_from_slice(&data);
            while let Some(end) = buffer.iter().skip(searched).position(|b| *b == b'\n') {
                let line = buffer.split_to(searched + end + 1);
                searched = 0;
                if let Message::Snapshot(snapshot) = serde_json::from_slice(&line).map_err(LinkError::Decode)? {
                    self.take(*snapshot).await;
                }
            }
            if buffer.len() > MAX_LINE {
                return Err(LinkError::TooLong(MAX_LINE));
            }
        }
    }

    /// Stores a newer assignment and puts it in force.
    async fn take(&self, snapshot: Snapshot) {
        let current = self.assigned.borrow().as_ref().map_or(0, |s| s.generation);
        if snapshot.fleet != self.options.fleet || snapshot.shard != self.options.shard {
            warn!(fleet = snapshot.fleet, shard = snapshot.shard, "an assignment for another shard: ignored");
            return;
        }
        if snapshot.generation <= current {
            debug!(generation = snapshot.generation, current, "an assignment that is not newer: ignored");
            return;
        }
        info!(
            generation = snapshot.generation,
            targets = snapshot.targets.len(),
            moved = snapshot.moved.len(),
            "assignment"
        );
        let snapshot = Arc::new(snapshot);
        let (store, copy) = (self.store.clone(), snapshot.clone());
        // In force even when the disk refuses: scraping goes on, and a restart starts from an older one.
        match tokio::task::spawn_blocking(move || store.save(&copy)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "the assignment can't be stored"),
            Err(error) => warn!(%error, "storing the assignment failed"),
        }
        self.assigned.send_replace(Some(snapshot));
    }
}
