//! Connections: TCP or Unix socket, through a proxy or not, with TLS or not.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use narthex_config::{Secret, TlsConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use url::Url;

use super::tls;

pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Longest answer to CONNECT.
const MAX_CONNECT_ANSWER: usize = 16 << 10;

pub(super) async fn connect(
    url: &Url,
    socket: Option<&Path>,
    proxy: Option<&Url>,
    tls: &TlsConfig,
    proxy_headers: &BTreeMap<String, Vec<Secret>>,
) -> Result<Box<dyn Io>, String> {
    let https = url.scheme() == "https";
    let host = url.host_str().ok_or("http: no Host in request URL")?;
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    if let Some(socket) = socket {
        let stream = UnixStream::connect(socket).await;
        return Ok(Box::new(stream.map_err(|e| format!("dial unix {}: {e}", socket.display()))?));
    }
    let port = url.port_or_known_default().ok_or("unsupported protocol scheme")?;
    let mut io: Box<dyn Io> = match proxy {
        None => Box::new(dial(plain, port).await?),
        Some(proxy) => {
            let proxy_host = proxy.host_str().ok_or("proxy URL without host")?;
            let proxy_host = proxy_host.trim_start_matches('[').trim_end_matches(']');
            let stream = dial(proxy_host, proxy.port_or_known_default().ok_or("unsupported proxy scheme")?).await?;
            let mut io: Box<dyn Io> = match proxy.scheme() {
                "http" => Box::new(stream),
                "https" => Box::new(tls::handshake(tls, proxy_host, stream).await?),
                other => return Err(format!("proxy scheme {other:?} is not supported")),
            };
            if https {
                tunnel(&mut io, &format!("{host}:{port}"), proxy, proxy_headers).await?;
            }
            io
        }
    };
    if https {
        io = Box::new(tls::handshake(tls, plain, io).await?);
    }
    Ok(io)
}

async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    let stream = TcpStream::connect((host, port)).await.map_err(|e| format!("dial tcp {host}:{port}: {e}"))?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Asks a proxy for a tunnel to `authority`.
async fn tunnel(
    io: &mut Box<dyn Io>,
    authority: &str,
    proxy: &Url,
    headers: &BTreeMap<String, Vec<Secret>>,
) -> Result<(), String> {
    let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
    if !proxy.username().is_empty() {
        let pair = super::proxy::user_pair(proxy);
        let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
        request.push_str(&format!("Proxy-Authorization: Basic {encoded}\r\n"));
    }
    for (name, values) in headers {
        for value in values {
            let valid = |s: &str| !s.contains(['\r', '\n']);
            if !valid(name) || !valid(value.expose()) {
                return Err(format!("invalid proxy header {name:?}"));
            }
            request.push_str(&format!("{name}: {}\r\n", value.expose()));
        }
    }
    request.push_str("\r\n");
    io.write_all(request.as_bytes()).await.map_err(|e| format!("proxy: {e}"))?;
    let mut answer = Vec::new();
    // Byte by byte: what follows the head belongs to the tunnel.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= MAX_CONNECT_ANSWER {
            return Err("proxy: the answer to CONNECT is too long".into());
        }
        answer.push(io.read_u8().await.map_err(|e| format!("proxy: {e}"))?);
    }
    let head = String::from_utf8_lossy(&answer);
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    if status != "200" {
        return Err(format!("proxy: CONNECT was answered with status {status}"));
    }
    Ok(())
}
