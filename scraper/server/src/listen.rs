//! Accepts connections and serves them, within limits: how many, how long for headers, how long for a body or a
//! reader that does not move.

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
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use narthex_runtime::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};
use tower::ServiceExt;
use tracing::{debug, info, warn};

use crate::answer::{Body, plain_error};
use crate::web_config::Live;

/// Limits of the listeners.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// Connections at once; more wait in the backlog.
    pub max_connections: usize,
    /// Longest time without a byte read or written, and for a request's headers.
    pub read_timeout: Duration,
    /// Most bytes of a request's headers.
    pub max_header_bytes: usize,
}

impl Default for ListenOptions {
    fn default() -> Self {
        ListenOptions { max_connections: 512, read_timeout: Duration::from_secs(300), max_header_bytes: 1 << 20 }
    }
}

/// Serves until the shutdown is requested, then lets open requests end (30 s at most).
pub async fn serve(
    listeners: Vec<TcpListener>,
    router: Router,
    options: ListenOptions,
    web_config: Option<Arc<Live>>,
    shutdown: Shutdown,
) {
    let slots = Arc::new(Semaphore::new(options.max_connections.max(1)));
    let loops = listeners.into_iter().map(|listener| {
        let (router, options, web_config) = (router.clone(), options.clone(), web_config.clone());
        tokio::spawn(accept(listener, router, options, web_config, slots.clone(), shutdown.clone()))
    });
    for task in loops.collect::<Vec<_>>() {
        let _ = task.await;
    }
}

async fn accept(
    listener: TcpListener,
    router: Router,
    options: ListenOptions,
    web_config: Option<Arc<Live>>,
    slots: Arc<Semaphore>,
    shutdown: Shutdown,
) {
    if let Ok(address) = listener.local_addr() {
        let tls = web_config.as_ref().is_some_and(|w| w.current().1.is_some());
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
        tokio::spawn(async move {
            let _slot = slot;
            if let Err(e) = connection(stream, peer, router, options, web_config, watcher).await {
                debug!(client = %peer, err = %e, "connection ended");
            }
        });
    }
    drop(listener);
    if let Some(graceful) = Arc::into_inner(graceful) {
        let _ = tokio::time::timeout(Duration::from_secs(30), graceful.shutdown()).await;
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    options: ListenOptions,
    web_config: Option<Arc<Live>>,
    watcher: hyper_util::server::graceful::Watcher,
) -> Result<(), BoxError> {
    stream.set_nodelay(true)?;
    let tls = web_config.as_ref().and_then(|w| w.current().1);
    let stream = Idle::new(stream, options.read_timeout);
    let Some(tls) = tls else {
        return speak(stream, peer, router, &options, web_config, watcher).await;
    };
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    let stream = tokio::time::timeout(Duration::from_secs(10), acceptor.accept(stream)).await??;
    speak(stream, peer, router, &options, web_config, watcher).await
}

async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    peer: SocketAddr,
    router: Router,
    options: &ListenOptions,
    web_config: Option<Arc<Live>>,
    watcher: hyper_util::server::graceful::Watcher,
) -> Result<(), BoxError> {
    let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
        let (router, web_config) = (router.clone(), web_config.clone());
        async move { Ok::<_, std::convert::Infallible>(guarded(router, web_config, peer, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.read_timeout.min(Duration::from_secs(60)))
        .max_buf_size(options.max_header_bytes.max(8192))
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(options.max_header_bytes as u32)
        .max_concurrent_streams(100)
        .keep_alive_interval(Duration::from_secs(60));
    let connection = builder.serve_connection(TokioIo::new(Lenient::new(stream)), service).into_owned();
    watcher.watch(connection).await
}

/// Authentication and extra headers, then the router.
async fn guarded(
    router: Router,
    web_config: Option<Arc<Live>>,
    peer: SocketAddr,
    request: http::Request<Incoming>,
) -> Response<axum::body::Body> {
    let config = web_config.as_ref().map(|w| w.current().0);
    let mut response = match (&web_config, &config) {
        (Some(live), Some(config)) if !config.basic_auth_users.is_empty() => {
            if authorized(live, config, &request).await { route(router, peer, request).await } else { unauthorized() }
        }
        _ => route(router, peer, request).await,
    };
    for (name, value) in config.iter().flat_map(|c| &c.http_server_config.headers) {
        if let (Ok(name), Ok(value)) = (header::HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn unauthorized() -> Response<axum::body::Body> {
    let mut response: Response<Body> = plain_error(StatusCode::UNAUTHORIZED, "Unauthorized");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic"));
    response.map(axum::body::Body::new)
}

async fn authorized<B>(live: &Arc<Live>, config: &crate::web_config::WebConfig, request: &http::Request<B>) -> bool {
    let value = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or("");
    let Some((scheme, encoded)) = value.split_once(' ') else { return false };
    if !scheme.eq_ignore_ascii_case("basic") {
        return false;
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok();
    let Some(decoded) = decoded.and_then(|d| String::from_utf8(d).ok()) else { return false };
    match decoded.split_once(':') {
        Some((user, password)) => live.check(config, user, password).await,
        None => false,
    }
}

async fn route(router: Router, peer: SocketAddr, request: http::Request<Incoming>) -> Response<axum::body::Body> {
    let mut request: Request = request.map(axum::body::Body::new);
    request.extensions_mut().insert(ConnectInfo(peer));
    match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// A stream that fails when nothing moves for too long: a client that neither sends nor takes does not keep a
/// connection, nor the answer that waits for it.
struct Idle<S> {
    stream: S,
    limit: Duration,
    timer: Pin<Box<Sleep>>,
}

impl<S> Idle<S> {
    fn new(stream: S, limit: Duration) -> Idle<S> {
        Idle { stream, limit, timer: Box::pin(tokio::time::sleep(limit)) }
    }

    fn moved<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match poll {
            Poll::Ready(done) => {
                self.timer.as_mut().reset(Instant::now() + self.limit);
                Poll::Ready(done)
            }
            Poll::Pending => match self.timer.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                Poll::Pending => Poll::Pending,
            },
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Idle<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.moved(cx, poll)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Idle<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.moved(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.moved(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(cx);
        self.moved(cx, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Escapes `"`, `<` and `>` in request lines. They may not stand there as they are, but people type selectors into
/// curl, and Go's server takes them.
struct Lenient<S> {
    stream: S,
    /// Whether what comes next begins a request, or goes on with its first line.
    state: Line,
    /// Read and not yet handed on.
    pending: Vec<u8>,
    at: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    Begins,
    Inside,
    Over,
}

/// Longest part of a request that is looked at for its first line's end.
const PEEK: usize = 16 << 10;

const METHODS: [&[u8]; 6] = [b"GET /", b"POST /", b"HEAD /", b"PUT /", b"OPTIONS /", b"DELETE /"];

impl<S> Lenient<S> {
    fn new(stream: S) -> Lenient<S> {
        Lenient { stream, state: Line::Begins, pending: Vec::new(), at: 0 }
    }

    fn take(&mut self, bytes: &[u8]) {
        if self.state == Line::Begins {
            let request = METHODS.iter().any(|m| bytes.starts_with(m));
            self.state = if request { Line::Inside } else { Line::Over };
        }
        for (i, b) in bytes.iter().enumerate() {
            if self.state != Line::Inside {
                self.pending.extend_from_slice(&bytes[i..]);
                return;
            }
            match b {
                b'"' => self.pending.extend_from_slice(b"%22"),
                b'<' => self.pending.extend_from_slice(b"%3C"),
                b'>' => self.pending.extend_from_slice(b"%3E"),
                b => self.pending.push(*b),
            }
            if *b == b'\n' {
                self.state = Line::Over;
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lenient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.at == self.pending.len() {
            if self.state == Line::Over {
                return Pin::new(&mut self.stream).poll_read(cx, buf);
            }
            let mut space = [0u8; PEEK];
            let mut part = ReadBuf::new(&mut space);
            std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
            self.pending.clear();
            self.at = 0;
            let filled = part.filled();
            self.take(filled);
        }
        let n = buf.remaining().min(self.pending.len() - self.at);
        let (from, to) = (self.at, self.at + n);
        buf.put_slice(&self.pending[from..to]);
        self.at = to;
        if self.at == self.pending.len() && self.pending.capacity() > 2 * PEEK {
            self.pending = Vec::new();
            self.at = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lenient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        // Who has been answered asks anew: bodies never begin like a request does.
        self.state = Line::Begins;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.state = Line::Begins;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_request_lines_are_escaped() {
        let mut l = Lenient::new(());
        l.take(b"GET /q?query=up{a=\"b\"}>1");
        l.take(b"<2 HTTP/1.1\r\nX: \"<>\"\r\n\r\n\"body\"");
        let expected = "GET /q?query=up{a=%22b%22}%3E1%3C2 HTTP/1.1\r\nX: \"<>\"\r\n\r\n\"body\"";
        assert_eq!(String::from_utf8_lossy(&l.pending), expected);
        let mut l = Lenient::new(());
        l.take(b"PRI * HTTP/2.0\r\n\"");
        assert_eq!(l.pending, b"PRI * HTTP/2.0\r\n\"");
    }
}
