//! Asking one peer over HTTP.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use narthex_storage::{HeldBytes, Meter, StorageError};
use parking_lot::RwLock;

/// Most bytes of a reason.
const MAX_REASON: usize = 1 << 10;

/// Another shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub name: String,
    /// `http://host:port`, without a path.
    pub url: String,
}

/// How peers are asked.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long an answer may take, the connection included.
    pub timeout: Duration,
    /// The largest answer of one peer, in bytes.
    pub max_answer: usize,
    /// What peers ask for as a bearer token.
    pub token: Option<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options { timeout: super::DEFAULT_TIMEOUT, max_answer: 1 << 30, token: None }
    }
}

/// Why a peer's part is missing.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    #[error("its address is not valid")]
    Address(#[source] http::Error),
    #[error("it cannot be reached")]
    Connect(#[source] hyper_util::client::legacy::Error),
    #[error("it broke off its answer")]
    Read(#[source] hyper::Error),
    #[error("it did not answer within {0:?}")]
    Timeout(Duration),
    #[error("it answered with status {0}")]
    Status(StatusCode),
    #[error("its answer is larger than {0} bytes")]
    TooLarge(usize),
    /// It said that this is over one of its limits.
    #[error("{0}")]
    Refused(String),
    /// Its answer is over a limit of who asks.
    #[error("{0}")]
    Limit(#[source] StorageError),
    #[error("its answer does not decode: {0}")]
    Corrupt(&'static str),
}

pub(super) struct Client {
    http: HttpClient<HttpConnector, Full<Bytes>>,
    timeout: Duration,
    max_answer: usize,
    token: RwLock<Option<String>>,
}

impl Client {
    pub(super) fn new(options: Options) -> Client {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(options.timeout.min(Duration::from_secs(2))));
        connector.set_nodelay(true);
        let http = HttpClient::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .pool_max_idle_per_host(8)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Client { http, timeout: options.timeout, max_answer: options.max_answer, token: RwLock::new(options.token) }
    }

    pub(super) fn set_token(&self, token: Option<String>) {
        *self.token.write() = token;
    }

    /// The whole answer, and what the meter knows of it.
    pub(super) async fn ask(
        &self,
        peer: &Peer,
        path: &str,
        body: Bytes,
        meter: &Meter,
    ) -> Result<(Bytes, HeldBytes), PeerError> {
        // Reading into a buffer and sending are cancel-safe: a dropped request closes its connection.
        tokio::time::timeout(self.timeout, self.ask_untimed(peer, path, body, meter))
            .await
            .unwrap_or(Err(PeerError::Timeout(self.timeout)))
    }

    async fn ask_untimed(
        &self,
        peer: &Peer,
        path: &str,
        body: Bytes,
        meter: &Meter,
    ) -> Result<(Bytes, HeldBytes), PeerError> {
        let mut request = Request::builder().method(Method::POST).uri(format!("{}{path}", peer.url));
        if let Some(token) = &*self.token.read() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body)).map_err(PeerError::Address)?;
        let response = self.http.request(request).await.map_err(PeerError::Connect)?;
        let status = response.status();
        let mut body = response.into_body();
        let mut out = BytesMut::new();
        if status == StatusCode::UNPROCESSABLE_ENTITY {
            while out.len() < MAX_REASON
                && let Some(Ok(frame)) = body.frame().await
            {
                out.extend_from_slice(frame.data_ref().map_or(&[], |d| d));
            }
            out.truncate(MAX_REASON);
            return Err(PeerError::Refused(String::from_utf8_lossy(&out).into_owned()));
        }
        if status != StatusCode::OK {
            return Err(PeerError::Status(status));
        }
        let mut held = meter.hold_nothing();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.map_err(PeerError::Read)?.into_data() {
                if out.len() + data.len() > self.max_answer {
                    return Err(PeerError::TooLarge(self.max_answer));
                }
                held.add(data.len()).map_err(PeerError::Limit)?;
                out.extend_from_slice(&data);
            }
        }
        Ok((out.freeze(), held))
    }
}
