//! The HTTP client of discoverers: one request, one connection, bounded answers.
//!
//! Reads credential and certificate files anew for each request, so that they can rotate. HTTP/1.1 only: what
//! discovery asks comes minutes apart, so nothing is gained by keeping connections or by HTTP/2.

mod auth;
mod connect;
mod proxy;
mod tls;

use std::time::Duration;

use ::http::header::{AUTHORIZATION, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use ::http::{Method, Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use narthex_config::{HttpClientConfig, ProxyConfig, TlsConfig};
use url::Url;

/// Longest answer in bytes.
pub(crate) const MAX_BODY: usize = 256 << 20;

const MAX_REDIRECTS: usize = 10;

/// What a server answered.
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// A header's value; empty where it is missing or no text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("")
    }

    /// The body as JSON, of an answer that is a success.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, String> {
        if !self.status.is_success() {
            let text: String = String::from_utf8_lossy(&self.body).chars().take(200).collect();
            return Err(format!("unexpected response code: {} ({})", self.status.as_u16(), text.trim()));
        }
        serde_json::from_slice(&self.body).map_err(|e| format!("cannot parse the answer: {e}"))
    }
}

/// A client with the settings of one discovery section.
pub(crate) struct HttpClient {
    config: HttpClientConfig,
    tokens: auth::Tokens,
    /// Connect here, whatever the URL says.
    socket: Option<std::path::PathBuf>,
}

impl HttpClient {
    pub fn new(config: HttpClientConfig) -> HttpClient {
        HttpClient { config, tokens: auth::Tokens::default(), socket: None }
    }

    /// A client that speaks over a Unix socket.
    pub fn over_socket(socket: std::path::PathBuf) -> HttpClient {
        HttpClient { socket: Some(socket), ..HttpClient::new(HttpClientConfig::default()) }
    }

    /// Asks for a page; `limit` bounds the body's bytes, `timeout` everything.
    ///
    /// # Errors
    /// What went wrong, without secrets. Any status is an answer.
    pub async fn get(&self, url: &Url, headers: HeaderMap, timeout: Duration, limit: usize) -> Result<Answer, String> {
        tokio::time::timeout(timeout, self.follow(url, headers, limit))
            .await
            .unwrap_or_else(|_| Err("timeout exceeded while awaiting the answer".into()))
            .map_err(|e| format!("Get {:?}: {e}", shown(url)))
    }

    async fn follow(&self, url: &Url, mut headers: HeaderMap, limit: usize) -> Result<Answer, String> {
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT_TEXT));
        auth::custom_headers(&self.config.http_headers, &mut headers).await?;
        let mut url = url.clone();
        let first = url.origin();
        for _ in 0..=MAX_REDIRECTS {
            let mut sent = headers.clone();
            if url.origin() == first {
                auth::authorize(&self.config, &self.tokens, &url, &mut sent).await?;
            } else {
                // Credentials are for the configured server alone.
                sent.remove(AUTHORIZATION);
                sent.remove(COOKIE);
            }
            let request = Exchange {
                method: Method::GET,
                url: &url,
                headers: sent,
                body: Bytes::new(),
                tls: &self.config.tls_config,
                proxy: &self.config.proxy,
                socket: self.socket.as_deref(),
                limit,
            };
            let answer = exchange(request).await?;
            let location = answer.headers.get(LOCATION).and_then(|l| l.to_str().ok());
            match (answer.status.as_u16(), location) {
                (301 | 302 | 303 | 307 | 308, Some(location)) if self.config.follow_redirects => {
                    url = url.join(location).map_err(|e| format!("failed to parse Location header: {e}"))?;
                    if !matches!(url.scheme(), "http" | "https") {
                        return Err(format!("unsupported protocol scheme {:?}", url.scheme()));
                    }
                }
                _ => return Ok(answer),
            }
        }
        Err(format!("stopped after {MAX_REDIRECTS} redirects"))
    }
}

const USER_AGENT_TEXT: &str = concat!("narthex/", env!("CARGO_PKG_VERSION"));

/// A URL without its password.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    if url.password().is_some() {
        let _ = url.set_password(Some("xxxxx"));
    }
    url.to_string()
}

struct Exchange<'a> {
    method: Method,
    url: &'a Url,
    headers: HeaderMap,
    body: Bytes,
    tls: &'a TlsConfig,
    proxy: &'a ProxyConfig,
    socket: Option<&'a std::path::Path>,
    limit: usize,
}

/// One request on a connection of its own.
async fn exchange(x: Exchange<'_>) -> Result<Answer, String> {
    let proxy = if x.socket.is_some() { None } else { proxy::choose(x.proxy, x.url)? };
    let https = x.url.scheme() == "https";
    let io = connect::connect(x.url, x.socket, proxy.as_ref(), x.tls, &x.proxy.proxy_connect_header).await?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(64 << 10)
        .handshake::<_, Full<Bytes>>(hyper_util::rt::TokioIo::new(io))
        .await
        .map_err(|e| e.to_string())?;
    let path = match x.url.query() {
        Some(query) => format!("{}?{query}", x.url.path()),
        None => x.url.path().to_owned(),
    };
    let host = x.url.host_str().unwrap_or("localhost");
    let authority = x.url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let absolute = proxy.is_some() && !https;
    let target = if absolute { format!("http://{authority}{path}") } else { path };
    let mut request = Request::builder().method(x.method).uri(target).header(HOST, &authority);
    if let Some(headers) = request.headers_mut() {
        headers.extend(x.headers);
        if let Some(proxy) = proxy.as_ref().filter(|_| absolute)
            && let Some(credentials) = proxy::credentials(proxy)
        {
            headers.insert(HeaderName::from_static("proxy-authorization"), credentials);
        }
    }
    let request = request.body(Full::new(x.body)).map_err(|e| e.to_string())?;
    let ask = async {
        let answer = sender.send_request(request).await.map_err(|e| cause(&e))?;
        let (parts, mut incoming) = answer.into_parts();
        let mut body = bytes::BytesMut::new();
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|e| cause(&e))?;
            if let Some(data) = frame.data_ref() {
                if body.len() + data.len() > x.limit {
                    return Err(format!("the answer is longer than {} bytes", x.limit));
                }
                body.extend_from_slice(data);
            }
        }
        Ok(Answer { status: parts.status, headers: parts.headers, body: body.freeze() })
    };
    // The connection is driven here and goes with this future, so that nothing stays behind when it is dropped.
    tokio::pin!(ask);
    tokio::pin!(connection);
    tokio::select! {
        biased;
        answer = &mut ask => answer,
        ended = &mut connection => match ended {
            Ok(()) => ask.await,
            Err(e) => Err(cause(&e)),
        },
    }
}

/// An error with what is behind it.
fn cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}
