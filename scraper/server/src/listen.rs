//! Accepts connections and serves them, within limits: how many, how long for headers, how long for a body or a
//! reader that does not move.
//!
//! As Go's server it speaks HTTP/2 over TLS only.

mod h1;
mod patient;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use base64::Engine;
use http::{HeaderValue, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use narthex_runtime::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, Sleep};
use tower::ServiceExt;
use tracing::{debug, error, info, warn};

use self::h1::{Headers, Http1};
use self::patient::Patient;
use crate::answer::plain_error;
use crate::metrics::Connections;
use crate::web_config::{Live, Login, WebConfig};

/// Limits of the listeners.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// Connections at once; more wait in the backlog.
    pub max_connections: usize,
    /// Longest time between requests, for a request's body, and that a client may lag behind in taking an answer.
    pub read_timeout: Duration,
    /// Longest time for the headers of a request, and for a TLS handshake.
    pub header_timeout: Duration,
    /// Most bytes of a request's headers.
    pub max_header_bytes: usize,
}

impl Default for ListenOptions {
    fn default() -> Self {
        ListenOptions {
            max_connections: 512,
            read_timeout: Duration::from_secs(300),
            header_timeout: Duration::from_secs(30),
            // As in Go.
            max_header_bytes: (1 << 20) + 4096,
        }
    }
}

/// Serves until the shutdown is requested, then lets open requests end (30 s at most). The listeners must not block.
pub async fn serve(
    listeners: Vec<std::net::TcpListener>,
    router: Router,
    options: ListenOptions,
    web_config: Option<Arc<Live>>,
    connections: Connections,
    shutdown: Shutdown,
) {
    let slots = Arc::new(Semaphore::new(options.max_connections.max(1)));
    let beat = tokio::spawn(beat());
    let loops = listeners.into_iter().map(|listener| {
        let (router, options, web_config) = (router.clone(), options.clone(), web_config.clone());
        let accepting = Accepting { options, web_config, slots: slots.clone(), connections: connections.clone() };
        tokio::spawn(accept(listener, router, accepting, shutdown.clone()))
    });
    for task in loops.collect::<Vec<_>>() {
        let _ = task.await;
    }
    beat.abort();
}

/// Keeps a timer running that ends before those of new connections do: one that is the first to end has the runtime
/// wake itself up with two system calls, and each request starts two.
async fn beat() {
    let mut beat = tokio::time::interval(Duration::from_secs(10));
    loop {
        beat.tick().await;
    }
}

/// What a listener's connections get.
struct Accepting {
    options: ListenOptions,
    web_config: Option<Arc<Live>>,
    slots: Arc<Semaphore>,
    connections: Connections,
}

async fn accept(listener: std::net::TcpListener, router: Router, accepting: Accepting, shutdown: Shutdown) {
    let Accepting { options, web_config, slots, connections } = accepting;
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(e) => return error!(err = %e, "a listener cannot be used"),
    };
    if let Ok(address) = listener.local_addr() {
        let tls = web_config.as_ref().is_some_and(|w| w.with_tls);
        info!(address = %address, tls, "listening");
    }
    let graceful = Arc::new(GracefulShutdown::new());
    loop {
        let slot = tokio::select! {
            slot = slots.clone().acquire_owned() => slot,
            () = shutdown.requested() => break,
        };
        let Ok(slot) = slot else { break };
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(e) => {
                    // Out of descriptors, most likely: take a breath.
                    warn!(err = %e, "accepting a connection failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = shutdown.requested() => break,
        };
        let (router, options, web_config) = (router.clone(), options.clone(), web_config.clone());
        let watcher = graceful.watcher();
        let connections = connections.clone();
        connections.accepted.inc();
        tokio::spawn(async move {
            let _slot = slot;
            if let Err(e) = connection(stream, peer, router, options, web_config, watcher).await {
                debug!(client = %peer, err = %e, "connection ended");
            }
            connections.closed.inc();
        });
    }
    drop(listener);
    if let Some(graceful) = Arc::into_inner(graceful) {
        let _ = tokio::time::timeout(Duration::from_secs(30), graceful.shutdown()).await;
    }
}

/// Most header lines of a request. Go has no limit of its own for them.
const MAX_HEADERS: usize = 1000;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    options: ListenOptions,
    web_config: Option<Arc<Live>>,
    watcher: Watcher,
) -> Result<(), BoxError> {
    stream.set_nodelay(true)?;
    let Some(live) = web_config.as_ref().filter(|w| w.with_tls) else {
        let stream = Patient::new(stream, options.read_timeout);
        return http1(stream, peer, router, &options, web_config, watcher).await;
    };
    let handshake = async {
        if speaks_http(&stream).await? {
            let mut stream = stream;
            let text = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
            stream.write_all(text).await?;
            stream.shutdown().await?;
            return Err("an HTTP request to an HTTPS server".into());
        }
        let Some(tls) = live.current().and_then(|(_, tls)| tls) else {
            return Err("no TLS without a good web configuration".into());
        };
        let stream = Patient::new(stream, options.read_timeout);
        Ok::<_, BoxError>(tokio_rustls::TlsAcceptor::from(tls).accept(stream).await?)
    };
    let stream = tokio::time::timeout(options.header_timeout.min(Duration::from_secs(10)), handshake).await??;
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        http2(stream, peer, router, &options, web_config, watcher).await
    } else {
        http1(stream, peer, router, &options, web_config, watcher).await
    }
}

/// Whether what a client of a TLS port sends first looks like plain HTTP.
async fn speaks_http(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; 5];
    // TLS begins with 22; anything shorter that does not is no TLS either.
    let n = stream.peek(&mut first).await?;
    Ok([&b"GET /"[..], b"HEAD ", b"POST ", b"PUT /", b"OPTIO"].contains(&&first[..n]))
}

async fn http1<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    peer: SocketAddr,
    router: Router,
    options: &ListenOptions,
    web_config: Option<Arc<Live>>,
    watcher: Watcher,
) -> Result<(), BoxError> {
    let headers = Headers::default();
    let stream = Http1::new(stream, options.header_timeout, headers.clone());
    let body_limit = options.read_timeout;
    let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
        headers.complete();
        let (router, web_config) = (router.clone(), web_config.clone());
        async move { Ok::<_, std::convert::Infallible>(guarded(router, web_config, peer, request, body_limit).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        // Until the next request begins; from then on it is the header timeout's turn.
        .header_read_timeout(options.read_timeout)
        .max_headers(MAX_HEADERS)
        .max_buf_size(options.max_header_bytes.max(8192))
        // As Go writes names: scripts look for them with grep.
        .title_case_headers(true)
        .keep_alive(true)
        .serve_connection(TokioIo::new(stream), service);
    Ok(watcher.watch(connection).await?)
}

async fn http2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    peer: SocketAddr,
    router: Router,
    options: &ListenOptions,
    web_config: Option<Arc<Live>>,
    watcher: Watcher,
) -> Result<(), BoxError> {
    let limit = options.read_timeout;
    let streams = Arc::new(Streams::default());
    let counted = streams.clone();
    let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
        let (router, web_config, stream) = (router.clone(), web_config.clone(), Streams::begin(&counted));
        async move {
            let response = guarded(router, web_config, peer, request, limit).await;
            let with_stream = |body| axum::body::Body::new(Held { body, _held: stream });
            Ok::<_, std::convert::Infallible>(response.map(with_stream))
        }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(options.max_header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(100)
        .max_send_buf_size(64 << 10)
        // Finds out who is gone without a word.
        .keep_alive_interval(Duration::from_secs(60))
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        done = watcher.watch(connection) => Ok(done?),
        () = streams.idle(limit) => Ok(()),
    }
}

/// The streams of an HTTP/2 connection that are open.
#[derive(Default)]
struct Streams(watch::Sender<usize>);

/// One of them.
struct Stream(Arc<Streams>);

impl Streams {
    fn begin(streams: &Arc<Streams>) -> Stream {
        streams.0.send_modify(|n| *n += 1);
        Stream(streams.clone())
    }

    /// Resolves when none was open for that long.
    async fn idle(&self, limit: Duration) {
        let mut open = self.0.subscribe();
        loop {
            if *open.borrow_and_update() > 0 {
                let _ = open.changed().await;
            } else if tokio::time::timeout(limit, open.changed()).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.0.send_modify(|n| *n -= 1);
    }
}

/// A body that keeps its stream counted until it is through.
struct Held {
    body: axum::body::Body,
    _held: Stream,
}

impl http_body::Body for Held {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// The rate limit, extra headers and authentication, then the router.
async fn guarded(
    router: Router,
    web_config: Option<Arc<Live>>,
    peer: SocketAddr,
    request: http::Request<Incoming>,
    body_limit: Duration,
) -> Response<axum::body::Body> {
    let Some(live) = web_config else { return route(router, peer, request, body_limit).await };
    let Some((config, _)) = live.current() else {
        return plain_error(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error").map(axum::body::Body::new);
    };
    if !live.admit(std::time::Instant::now()) {
        return plain_error(StatusCode::TOO_MANY_REQUESTS, "Too Many Requests").map(axum::body::Body::new);
    }
    let login =
        if config.basic_auth_users.is_empty() { Login::Right } else { login(&live, &config, request.headers()).await };
    let mut response = match login {
        Login::Right => route(router, peer, request, body_limit).await,
        Login::Wrong => {
            let mut response = plain_error(StatusCode::UNAUTHORIZED, "Unauthorized");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic"));
            response.map(axum::body::Body::new)
        }
        Login::Busy => plain_error(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable").map(axum::body::Body::new),
    };
    for (name, value) in &config.http_server_config.headers {
        if let (Ok(name), Ok(value)) = (header::HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            response.headers_mut().entry(name).or_insert(value);
        }
    }
    response
}

async fn login(live: &Live, config: &WebConfig, headers: &http::HeaderMap) -> Login {
    match credentials(headers) {
        Some((user, password)) => live.check(config, &user, &password).await,
        None => Login::Wrong,
    }
}

/// Go's `Request.BasicAuth`.
fn credentials(headers: &http::HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
    let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

async fn route(
    router: Router,
    peer: SocketAddr,
    mut request: http::Request<Incoming>,
    body_limit: Duration,
) -> Response<axum::body::Body> {
    // Before the router looks at it.
    if let Some(uri) = crate::router::paths::unescaped(request.uri()) {
        *request.uri_mut() = uri;
    }
    let mut request: Request = request.map(|body| axum::body::Body::new(Timed::new(body, body_limit)));
    request.extensions_mut().insert(ConnectInfo(peer));
    match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// A request's body that has to be through in time.
struct Timed {
    body: Incoming,
    end: Instant,
    /// Set when the body has to be waited for.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Timed {
    fn new(body: Incoming, limit: Duration) -> Timed {
        Timed { body, end: Instant::now() + limit, timer: None }
    }
}

impl http_body::Body for Timed {
    type Data = bytes::Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, BoxError>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(frame.map(|f| f.map_err(BoxError::from))),
            Poll::Pending => {
                let end = self.end;
                let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
                std::task::ready!(timer.as_mut().poll(cx));
                Poll::Ready(Some(Err("reading the request's body took too long".into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
