//! Fetching pages over HTTP: one kept connection per target, bounded in memory and time whatever the other side does.
//!
//! A connection has no task of its own: it is driven by the fetch that uses it, and rests between scrapes with a small
//! read buffer. Bodies are decompressed and counted as they arrive.

mod auth;
mod body;
mod connect;
mod proxy;
#[cfg(test)]
mod tests;
mod tls;

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, LOCATION, USER_AGENT,
};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use narthex_config::HttpClientConfig;
use thiserror::Error;
use url::Url;

use auth::TokenCache;
use body::{BodyError, BodySink};
use connect::{Conn, Endpoint};
use tls::TlsCache;

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 10;

/// Bytes of an error answer's body that are read so that the connection can be kept.
const MAX_ERROR_BODY: usize = 64 << 10;

/// The message of a scrape whose body was too long.
pub(crate) const BODY_LIMIT: &str = "body size limit exceeded";

/// Why there is no page, in words close to those of Prometheus.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FetchError {
    #[error("{0}")]
    Failed(String),
    #[error("{BODY_LIMIT}")]
    BodyLimit,
}

fn failed(message: impl ToString) -> FetchError {
    FetchError::Failed(message.to_string())
}

/// How a pool's targets are asked.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    pub accept: String,
    /// Ask for gzip.
    pub compression: bool,
    pub user_agent: String,
    /// Longest decompressed body in bytes: one as long is refused.
    pub body_limit: u64,
}

/// Asks the targets of one pool. Holds what they share: credentials, TLS settings, proxies, tokens.
pub struct Client {
    config: HttpClientConfig,
    headers: HeaderMap,
    body_limit: u64,
    tls: TlsCache,
    token: TokenCache,
}

/// What to ask for.
#[derive(Clone, Debug)]
pub struct Page {
    pub url: String,
    /// `host:port` as configured, for the Host header.
    pub host: String,
    pub timeout: Duration,
    /// Connect to this socket instead.
    pub unix_socket: Option<String>,
}

/// The kept connections of one target: its own and, where it redirects, the other one.
#[derive(Default)]
pub struct Connections(Vec<Conn>);

impl Client {
    /// # Errors
    /// Header values that HTTP cannot carry.
    pub fn new(config: HttpClientConfig, options: ClientOptions) -> Result<Client, FetchError> {
        let mut headers = HeaderMap::new();
        let value = |text: &str| HeaderValue::from_str(text).map_err(|e| failed(format!("{text:?}: {e}")));
        headers.insert(ACCEPT, value(&options.accept)?);
        headers.insert(ACCEPT_ENCODING, value(if options.compression { "gzip" } else { "identity" })?);
        headers.insert(USER_AGENT, value(&options.user_agent)?);
        let tls = TlsCache::new(config.tls_config.clone(), config.enable_http2);
        let token = TokenCache::new(config.oauth2.clone());
        Ok(Client { config, headers, body_limit: options.body_limit, tls, token })
    }

    /// Fetches a page and appends its decompressed body to `out`; returns the Content-Type.
    ///
    /// # Errors
    /// Everything that Prometheus would show as the target's last error. `out` may then hold a part of the body.
    pub async fn fetch(
        &self,
        page: &Page,
        connections: &mut Connections,
        out: &mut Vec<u8>,
    ) -> Result<String, FetchError> {
        let mut in_body = false;
        match tokio::time::timeout(page.timeout, self.fetch_unbounded(page, connections, out, &mut in_body)).await {
            Ok(result) => result,
            Err(_) => {
                connections.0.clear();
                Err(failed(if in_body {
                    "context deadline exceeded".to_owned()
                } else {
                    format!("Get {:?}: context deadline exceeded", page.url)
                }))
            }
        }
    }

    async fn fetch_unbounded(
        &self,
        page: &Page,
        connections: &mut Connections,
        out: &mut Vec<u8>,
        in_body: &mut bool,
    ) -> Result<String, FetchError> {
        let first = Url::parse(&page.url).map_err(|e| failed(format!("parse {:?}: {e}", page.url)))?;
        let timeout = page.timeout.as_secs_f64().to_string();
        let mut url = first.clone();
        for hop in 0.. {
            let same_host = url.host_str() == first.host_str()
                && url.port_or_known_default() == first.port_or_known_default()
                && (url.scheme() == first.scheme() || url.scheme() == "https");
            let mut headers = self.headers.clone();
            if let Ok(value) = HeaderValue::from_str(&timeout) {
                headers.insert("x-prometheus-scrape-timeout-seconds", value);
            }
            let host = if hop == 0 { page.host.clone() } else { host_header(&url) };
            headers.insert(HOST, HeaderValue::from_str(&host).map_err(failed)?);
            if same_host {
                auth::custom_headers(&self.config.http_headers, &mut headers).await?;
                auth::authorize(&self.config, &self.token, &first, &mut headers).await?;
            }
            let socket = page.unix_socket.as_deref().filter(|_| same_host);
            let (response, mut conn) = self
                .exchange(&url, socket, headers, connections)
                .await
                .map_err(|e| failed(format!("Get {:?}: {e}", url.as_str())))?;
            let status = response.status();
            if let Some(next) = self.redirect(&url, &response)? {
                if hop >= MAX_REDIRECTS {
                    return Err(failed(format!(
                        "Get {next:?}: stopped after {MAX_REDIRECTS} redirects",
                        next = next.as_str()
                    )));
                }
                url = next;
                if drain(response.into_body(), &mut conn).await {
                    connections.keep(conn);
                }
                continue;
            }
            if status != StatusCode::OK {
                let reason = response
                    .extensions()
                    .get::<hyper::ext::ReasonPhrase>()
                    .map(|r| String::from_utf8_lossy(r.as_bytes()).into_owned())
                    .or_else(|| status.canonical_reason().map(str::to_owned))
                    .unwrap_or_default();
                if drain(response.into_body(), &mut conn).await {
                    connections.keep(conn);
                }
                let text = format!("server returned HTTP status {} {reason}", status.as_u16());
                return Err(failed(text.trim_end()));
            }
            *in_body = true;
            return self.read_body(response, conn, connections, out).await;
        }
        Err(failed("no redirect was followed"))
    }

    /// Where a redirect leads, if it is one that is followed.
    fn redirect(&self, url: &Url, response: &Response<Incoming>) -> Result<Option<Url>, FetchError> {
        if !self.config.follow_redirects || !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(None);
        }
        let Some(location) = response.headers().get(LOCATION) else { return Ok(None) };
        let next = location.to_str().ok().and_then(|l| url.join(l).ok());
        match next {
            Some(next) if matches!(next.scheme(), "http" | "https") => Ok(Some(next)),
            Some(next) => {
                Err(failed(format!("Get {:?}: unsupported protocol scheme {:?}", next.as_str(), next.scheme())))
            }
            None => Err(failed(format!(
                "Get {:?}: failed to parse Location header {:?}",
                url.as_str(),
                String::from_utf8_lossy(location.as_bytes())
            ))),
        }
    }

    /// Sends a GET over a kept connection or a new one; a kept one that turns out dead is replaced once.
    async fn exchange(
        &self,
        url: &Url,
        socket: Option<&str>,
        headers: HeaderMap,
        connections: &mut Connections,
    ) -> Result<(Response<Incoming>, Conn), String> {
        let endpoint = Endpoint::of(url, socket, &self.config.proxy)?;
        let stamp = self.tls.stamp();
        if let Some(mut conn) = connections.take(&endpoint, stamp)
            && let Ok(response) = conn.send(request(url, &endpoint, Method::GET, headers.clone(), Bytes::new())?).await
        {
            return Ok((response, conn));
        }
        let mut conn = connect::connect(&endpoint, &self.config.proxy, &self.tls, stamp).await?;
        let response =
            conn.send(request(url, &endpoint, Method::GET, headers, Bytes::new())?).await.map_err(|e| describe(&e))?;
        Ok((response, conn))
    }

    async fn read_body(
        &self,
        response: Response<Incoming>,
        mut conn: Conn,
        connections: &mut Connections,
        out: &mut Vec<u8>,
    ) -> Result<String, FetchError> {
        let (head, mut body) = response.into_parts();
        let gzip = head.headers.get(CONTENT_ENCODING).is_some_and(|v| v.as_bytes() == b"gzip");
        let mut sink = BodySink::new(out, gzip, self.body_limit);
        loop {
            match conn.frame(&mut body).await {
                None => break,
                Some(Err(e)) => return Err(failed(describe(&e))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        sink.push(&data).map_err(|e| match e {
                            BodyError::TooLong => FetchError::BodyLimit,
                            BodyError::Broken(text) => failed(text),
                        })?;
                    }
                }
            }
        }
        sink.finish().map_err(|e| match e {
            BodyError::TooLong => FetchError::BodyLimit,
            BodyError::Broken(text) => failed(text),
        })?;
        connections.keep(conn);
        Ok(head
            .headers
            .get(CONTENT_TYPE)
            .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
            .unwrap_or_default())
    }
}

impl Connections {
    fn take(&mut self, endpoint: &Endpoint, stamp: u64) -> Option<Conn> {
        let at = self.0.iter().position(|c| c.endpoint == *endpoint)?;
        let conn = self.0.remove(at);
        // Certificates that changed since then are to be used.
        (conn.stamp == stamp).then_some(conn)
    }

    fn keep(&mut self, conn: Conn) {
        if !conn.is_reusable() {
            return;
        }
        if self.0.len() >= 2 {
            self.0.remove(0);
        }
        self.0.push(conn);
    }

    /// Closes them all.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// Reads the rest of a short body; whether the connection can be used again.
async fn drain(mut body: Incoming, conn: &mut Conn) -> bool {
    let mut left = MAX_ERROR_BODY;
    loop {
        match conn.frame(&mut body).await {
            None => return true,
            Some(Err(_)) => return false,
            Some(Ok(frame)) => match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(rest) => left = rest,
                None => return false,
            },
        }
    }
}

fn host_header(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn request(
    url: &Url,
    endpoint: &Endpoint,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, String> {
    let target = match endpoint {
        // A proxy for plain HTTP wants the whole URL.
        Endpoint { proxy: Some(_), tls: false, .. } => {
            let mut url = url.clone();
            url.set_fragment(None);
            let _ = url.set_username("");
            let _ = url.set_password(None);
            url.to_string()
        }
        _ => match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        },
    };
    let uri: Uri = target.parse().map_err(|e| format!("{e}"))?;
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    if let Some(proxy) = endpoint.proxy.as_ref().filter(|_| !endpoint.tls)
        && let Some(value) = proxy::authorization(proxy)
    {
        request.headers_mut().insert("proxy-authorization", value);
    }
    Ok(request)
}

/// A small request of another kind (a token): status and body.
async fn round_trip(
    url: &Url,
    proxy: &narthex_config::ProxyConfig,
    tls: &TlsCache,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Vec<u8>), String> {
    let endpoint = Endpoint::of(url, None, proxy)?;
    let mut conn = connect::connect(&endpoint, proxy, tls, tls.stamp()).await?;
    let mut headers = headers;
    headers.insert(HOST, HeaderValue::from_str(&host_header(url)).map_err(|e| e.to_string())?);
    let response = conn.send(request(url, &endpoint, Method::POST, headers, body)?).await.map_err(|e| describe(&e))?;
    let status = response.status();
    let mut body = response.into_body();
    let mut out = Vec::new();
    while let Some(frame) = conn.frame(&mut body).await {
        if let Ok(data) = frame.map_err(|e| describe(&e))?.into_data() {
            if out.len() + data.len() > 1 << 20 {
                return Err("the answer is too long".to_owned());
            }
            out.extend_from_slice(&data);
        }
    }
    Ok((status, out))
}

/// An error of the connection, in Go's words where they are well known.
fn describe(error: &hyper::Error) -> String {
    use std::error::Error;
    if error.is_incomplete_message() {
        return "unexpected EOF".to_owned();
    }
    if error.is_parse_too_large() {
        return "server response headers exceeded the limit; aborted".to_owned();
    }
    let mut source = error.source();
    while let Some(e) = source {
        if let Some(io) = e.downcast_ref::<std::io::Error>() {
            return connect::io_text(io);
        }
        source = e.source();
    }
    if error.is_closed() || error.is_canceled() {
        return "EOF".to_owned();
    }
    error.to_string()
}
