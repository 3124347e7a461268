//! Setting up connections: names, sockets, proxies, TLS, the HTTP handshake.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use bytes::Bytes;
use http::header::HeaderValue;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use narthex_config::ProxyConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use url::Url;

use super::answers::Answers;
use super::dials::{Attempt, Dials, Established};
use super::proxy;
use super::tls::TlsCache;

/// The read buffer of a connection, and so the longest header. Left to itself hyper would keep up to 400 kB.
pub(crate) const READ_BUFFER: usize = 16 << 10;

/// The longest answer to CONNECT.
const MAX_CONNECT_ANSWER: usize = 8 << 10;

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

type BoxIo = Box<dyn Io>;

/// What a connection leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub host: String,
    pub port: u16,
    pub tls: bool,
    pub proxy: Option<Url>,
    pub socket: Option<String>,
}

impl Endpoint {
    pub fn of(url: &Url, socket: Option<&str>, proxy: &ProxyConfig) -> Result<Endpoint, String> {
        let host = url.host_str().ok_or("http: no Host in request URL")?;
        let port = url.port_or_known_default().ok_or("unsupported protocol scheme")?;
        let proxy = if socket.is_some() { None } else { proxy::choose(proxy, url)? };
        Ok(Endpoint {
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port,
            tls: url.scheme() == "https",
            proxy,
            socket: socket.map(str::to_owned),
        })
    }
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// An open connection. Nothing happens on it unless one of its methods is awaited.
pub(crate) struct Conn {
    pub endpoint: Endpoint,
    /// The state of the TLS files when it was set up.
    pub stamp: u64,
    sender: Sender,
    /// Set when an answer is to come next.
    expecting: Arc<AtomicBool>,
    driver: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    _counted: Established,
}

impl Conn {
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
        self.expecting.store(true, Ordering::Relaxed);
        match &mut self.sender {
            Sender::Http1(s) => drive(&mut self.driver, s.send_request(request)).await,
            Sender::Http2(s) => drive(&mut self.driver, s.send_request(request)).await,
        }
    }

    /// The next part of an answer's body.
    pub async fn frame(&mut self, body: &mut Incoming) -> Option<Result<Frame<Bytes>, hyper::Error>> {
        drive(&mut self.driver, body.frame()).await
    }

    pub fn is_reusable(&self) -> bool {
        self.driver.is_some()
            && match &self.sender {
                Sender::Http1(s) => !s.is_closed(),
                Sender::Http2(s) => !s.is_closed(),
            }
    }
}

/// Polls the connection while it waits for something that the connection brings.
async fn drive<F: Future>(driver: &mut Option<Pin<Box<dyn Future<Output = ()> + Send>>>, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        if let Poll::Ready(value) = future.as_mut().poll(cx) {
            return Poll::Ready(value);
        }
        let finished = driver.as_mut().is_some_and(|connection| connection.as_mut().poll(cx).is_ready());
        if finished {
            *driver = None;
        }
        future.as_mut().poll(cx)
    })
    .await
}

/// An I/O error as Go prints it.
pub(crate) fn io_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionReset => "read: connection reset by peer".to_owned(),
        io::ErrorKind::BrokenPipe => "write: broken pipe".to_owned(),
        io::ErrorKind::UnexpectedEof => "unexpected EOF".to_owned(),
        _ => error.to_string(),
    }
}

fn dial_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        io::ErrorKind::NotFound => "connect: no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "connect: permission denied".to_owned(),
        _ => format!("connect: {error}"),
    }
}

/// `any`: begins with any of the host's addresses, not with the first.
async fn dial(host: &str, port: u16, any: bool) -> Result<BoxIo, String> {
    let found = lookup_host((host, port)).await.map_err(|_| format!("dial tcp: lookup {host}: no such host"))?;
    let mut addresses: Vec<_> = found.collect();
    if any && !addresses.is_empty() {
        let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.subsec_micros());
        let first = now as usize % addresses.len();
        addresses.rotate_left(first);
    }
    let mut last = format!("dial tcp: lookup {host}: no such host");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                return Ok(Box::new(stream));
            }
            Err(e) => last = format!("dial tcp {address}: {}", dial_text(&e)),
        }
    }
    Err(last)
}

/// Opens a connection.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    proxy_config: &ProxyConfig,
    tls: &TlsCache,
    stamp: u64,
    dials: &Arc<Dials>,
    any_address: bool,
) -> Result<Conn, String> {
    let attempt = Attempt::begin(dials);
    let dialed: Result<BoxIo, String> = match (&endpoint.socket, &endpoint.proxy) {
        (Some(path), _) => match UnixStream::connect(path).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(e) => Err(format!("dial unix {path}: {}", dial_text(&e))),
        },
        (None, Some(proxy)) => through_proxy(endpoint, proxy, proxy_config, tls).await,
        (None, None) => dial(&endpoint.host, endpoint.port, any_address).await,
    };
    let (mut io, counted) = match dialed {
        Ok(io) => (io, attempt.succeeded()),
        Err(e) => {
            attempt.failed(&e);
            return Err(e);
        }
    };
    let mut http2 = false;
    if endpoint.tls {
        let stream = tls.handshake(&endpoint.host, io).await?;
        http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        io = Box::new(stream);
    }
    let expecting = Arc::new(AtomicBool::new(false));
    let (sender, driver): (_, Pin<Box<dyn Future<Output = ()> + Send>>) = if http2 {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .max_header_list_size(READ_BUFFER as u32)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|e| e.to_string())?;
        (Sender::Http2(sender), Box::pin(async move { drop(connection.await) }))
    } else {
        let (sender, connection) = http1::Builder::new()
            .read_buf_exact_size(Some(READ_BUFFER))
            .ignore_invalid_headers_in_responses(true)
            .handshake(TokioIo::new(Answers::new(io, expecting.clone())))
            .await
            .map_err(|e| e.to_string())?;
        (Sender::Http1(sender), Box::pin(async move { drop(connection.await) }))
    };
    Ok(Conn { endpoint: endpoint.clone(), stamp, sender, expecting, driver: Some(driver), _counted: counted })
}

/// A stream to the proxy, by CONNECT on to the target where that speaks TLS.
async fn through_proxy(
    endpoint: &Endpoint,
    proxy: &Url,
    config: &ProxyConfig,
    tls: &TlsCache,
) -> Result<BoxIo, String> {
    let host = proxy.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let default = match proxy.scheme() {
        "http" => 80,
        "https" => 443,
        "socks5" | "socks5h" => 1080,
        other => return Err(format!("proxyconnect tcp: unsupported proxy scheme {other:?}")),
    };
    let port = proxy.port().unwrap_or(default);
    let mut io = dial(host, port, false).await.map_err(|e| format!("proxyconnect tcp: {e}"))?;
    match proxy.scheme() {
        "https" => io = Box::new(tls.handshake(host, io).await.map_err(|e| format!("proxyconnect tcp: {e}"))?),
        "http" => {}
        _ => return proxy::socks(io, proxy, &endpoint.host, endpoint.port).await,
    }
    if !endpoint.tls {
        return Ok(io);
    }
    let host = if endpoint.host.contains(':') { format!("[{}]", endpoint.host) } else { endpoint.host.clone() };
    let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n", port = endpoint.port);
    let mut header = |name: &str, value: &[u8]| {
        if HeaderValue::from_bytes(value).is_ok() {
            request.push_str(&format!("{name}: {}\r\n", String::from_utf8_lossy(value)));
        }
    };
    if let Some(value) = proxy::authorization(proxy) {
        header("Proxy-Authorization", value.as_bytes());
    }
    for (name, values) in &config.proxy_connect_header {
        if http::header::HeaderName::from_bytes(name.as_bytes()).is_ok() {
            values.iter().for_each(|v| header(name, v.expose().as_bytes()));
        }
    }
    request.push_str("\r\n");
    io.write_all(request.as_bytes()).await.map_err(|e| format!("proxyconnect tcp: {}", io_text(&e)))?;
    // Byte by byte, so that nothing of what follows the answer is lost.
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let byte = io.read_u8().await.map_err(|e| format!("proxyconnect tcp: {}", io_text(&e)))?;
        answer.push(byte);
        if answer.len() > MAX_CONNECT_ANSWER {
            return Err("proxyconnect tcp: the proxy's answer is too long".to_owned());
        }
    }
    let text = String::from_utf8_lossy(&answer);
    let status = text.lines().next().unwrap_or_default().split_once(' ').map_or("", |(_, s)| s).trim().to_owned();
    if !status.starts_with("200") {
        return Err(status.split_once(' ').map_or(status.clone(), |(_, reason)| reason.to_owned()));
    }
    Ok(io)
}
