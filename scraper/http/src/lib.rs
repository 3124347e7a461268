//! The HTTP client of scraping, discovery and whatever else asks other servers: TLS with client certificates that
//! rotate, every kind of credentials, proxies, Unix sockets, redirects; bounded in memory and time whatever the other
//! side does.
//!
//! A connection has no task of its own: it is driven by the request that uses it, and rests between requests with a
//! small read buffer. Bodies are counted as they arrive. Files with credentials and certificates are
//! read anew when they are used, so that they can rotate.

mod answers;
mod auth;
mod body;
mod connect;
pub mod dials;
mod gzip_fault;
mod inflate;
mod jwt;
mod proxy;
#[cfg(test)]
mod tests;
mod tls;

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, LOCATION, REFERER,
    USER_AGENT,
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

/// The message of an answer whose body was too long.
const BODY_LIMIT: &str = "body size limit exceeded";

/// Why there is no answer, in words close to those of Prometheus; without secrets.
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

/// Asks servers with one set of HTTP settings. Holds what its requests share: credentials, TLS settings, proxies,
/// tokens.
pub struct Client {
    config: HttpClientConfig,
    headers: HeaderMap,
    body_limit: u64,
    tls: TlsCache,
    token: TokenCache,
    dials: std::sync::Arc<dials::Dials>,
    /// Why nothing can be asked with these settings.
    fault: Option<&'static str>,
    /// Connect to any of a name's addresses rather than to the first.
    any_address: bool,
}

/// A page to fetch.
#[derive(Clone, Debug)]
pub struct Page {
    pub url: String,
    /// `host:port` as configured, for the Host header.
    pub host: String,
    pub timeout: Duration,
    /// Connect to this socket instead.
    pub unix_socket: Option<String>,
}

/// A request whose answer is taken whole, whatever its status.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    pub method: Method,
    pub url: &'a Url,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// For everything: connecting, redirects, the body.
    pub timeout: Duration,
    /// Longest body in bytes.
    pub limit: u64,
    /// Connect to this socket instead.
    pub unix_socket: Option<&'a str>,
}

impl<'a> Ask<'a> {
    /// A GET without further headers.
    pub fn get(url: &'a Url, timeout: Duration, limit: u64) -> Ask<'a> {
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        Ask { method: Method::GET, url, headers, body, timeout, limit, unix_socket: None }
    }
}

/// What a server answered, decompressed.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value; empty where it is missing or no text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("")
    }

    /// The body as JSON, of an answer that is a success.
    ///
    /// # Errors
    /// Another status, or no such JSON.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, String> {
        if !self.status.is_success() {
            let text: String = String::from_utf8_lossy(&self.body).chars().take(200).collect();
            return Err(format!("unexpected response code: {} ({})", self.status.as_u16(), text.trim()));
        }
        serde_json::from_slice(&self.body).map_err(|e| format!("cannot parse the answer: {e}"))
    }
}

/// The kept connections of one target: its own and, where it redirects, the other one.
#[derive(Default)]
pub struct Connections(Vec<Conn>);

/// An answer whose body has not been read yet.
struct Reply {
    response: Response<Incoming>,
    conn: Conn,
}

/// A streaming answer: an endless body that is read as it comes.
pub struct Stream {
    body: Incoming,
    conn: Conn,
}

impl Stream {
    /// The next part of the body; `None` at its end.
    ///
    /// # Errors
    /// A broken connection.
    pub async fn next(&mut self) -> Result<Option<Bytes>, String> {
        while let Some(frame) = self.conn.frame(&mut self.body).await {
            if let Ok(data) = frame.map_err(|e| describe(&e, "unexpected EOF"))?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

impl Client {
    /// # Errors
    /// Header values that HTTP cannot carry.
    pub fn new(config: HttpClientConfig, options: ClientOptions) -> Result<Client, FetchError> {
        let mut headers = HeaderMap::new();
        let value = |text: &str| HeaderValue::from_str(text).map_err(|e| failed(format!("{text:?}: {e}")));
        headers.insert(ACCEPT, value(&options.accept)?);
        headers.insert(ACCEPT_ENCODING, value(if options.compression { "gzip" } else { "identity" })?);
        headers.insert(USER_AGENT, value(&options.user_agent)?);
        if let Some(fault) = unknown_secrets(&config) {
            return Err(failed(fault));
        }
        Ok(Client { body_limit: options.body_limit, ..Client::with_headers(config, headers) })
    }

    /// A client that sends no Accept headers of its own.
    pub fn plain(config: HttpClientConfig, user_agent: &'static str) -> Client {
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static(user_agent));
        Client::with_headers(config, headers)
    }

    fn with_headers(config: HttpClientConfig, headers: HeaderMap) -> Client {
        let tls = TlsCache::new(config.tls_config.clone(), config.enable_http2);
        let token = TokenCache::new(config.oauth2.clone());
        let fault = unknown_secrets(&config);
        Client {
            config,
            headers,
            body_limit: u64::MAX,
            tls,
            token,
            dials: dials::of("default"),
            fault,
            any_address: false,
        }
    }

    /// Counts connections under this name ([`dials`]) instead of `default`.
    #[must_use]
    pub fn dialing_as(self, name: &str) -> Client {
        Client { dials: dials::of(name), ..self }
    }

    /// Connects to any of the addresses that a name has, another one each time (`round_robin_dns`).
    #[must_use]
    pub fn any_address(self, any_address: bool) -> Client {
        Client { any_address, ..self }
    }

    /// Fetches a page and appends its decompressed body to `out`; returns the Content-Type.
    ///
    /// # Errors
    /// Everything that Prometheus would show as the target's last error, other statuses than 200 among it. `out` may
    /// then hold a part of the body.
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
        let url = Url::parse(&page.url).map_err(|e| failed(format!("parse {:?}: {e}", page.url)))?;
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(&page.timeout.as_secs_f64().to_string()) {
            headers.insert("x-prometheus-scrape-timeout-seconds", value);
        }
        let ask =
            Ask { headers, unix_socket: page.unix_socket.as_deref(), ..Ask::get(&url, page.timeout, self.body_limit) };
        let Reply { response, mut conn } = self.follow(&ask, Some(&page.host), connections).await?;
        let status = response.status();
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
            return Err(failed(text));
        }
        *in_body = true;
        let head = read_body(response, conn, connections, self.body_limit, out).await?;
        Ok(head
            .headers
            .get(CONTENT_TYPE)
            .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
            .unwrap_or_default())
    }

    /// Asks, and takes the whole answer; any status is one. The connection is kept for the next call.
    ///
    /// # Errors
    /// What went wrong, without secrets.
    pub async fn ask(&self, ask: Ask<'_>, connections: &mut Connections) -> Result<Answer, String> {
        let work = async {
            let reply = self.follow(&ask, None, connections).await?;
            let status = reply.response.status();
            let mut body = Vec::new();
            let head = read_body(reply.response, reply.conn, connections, ask.limit, &mut body).await?;
            Ok(Answer { status, headers: head.headers, body })
        };
        let result = tokio::time::timeout(ask.timeout, work).await;
        match result {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(FetchError::BodyLimit)) => Err(format!(
                "{} {:?}: the answer is longer than {} bytes",
                verb(&ask.method),
                shown(ask.url),
                ask.limit
            )),
            Ok(Err(FetchError::Failed(e))) => Err(e),
            Err(_) => {
                connections.0.clear();
                Err(format!("{} {:?}: context deadline exceeded", verb(&ask.method), shown(ask.url)))
            }
        }
    }

    /// Asks where the status matters most: of the body no more than the request's limit is kept, undecoded, and that it
    /// is longer, breaks off or does not end in time is no error.
    ///
    /// # Errors
    /// What went wrong before there was a status, without secrets.
    pub async fn tell(&self, ask: Ask<'_>, connections: &mut Connections) -> Result<Answer, String> {
        let deadline = tokio::time::Instant::now() + ask.timeout;
        let Reply { response, mut conn } =
            match tokio::time::timeout_at(deadline, self.follow(&ask, None, connections)).await {
                Ok(Ok(reply)) => reply,
                Ok(Err(e)) => return Err(e.to_string()),
                Err(_) => {
                    connections.0.clear();
                    return Err(format!("{} {:?}: context deadline exceeded", verb(&ask.method), shown(ask.url)));
                }
            };
        let (head, mut incoming) = response.into_parts();
        let mut body = Vec::new();
        let limit = usize::try_from(ask.limit).unwrap_or(usize::MAX);
        let reading = async {
            let mut left = limit.saturating_add(MAX_ERROR_BODY);
            loop {
                match conn.frame(&mut incoming).await {
                    None => return true,
                    Some(Err(_)) => return false,
                    Some(Ok(frame)) => {
                        let Ok(data) = frame.into_data() else { continue };
                        let room = limit - body.len();
                        body.extend_from_slice(data.get(..room.min(data.len())).unwrap_or_default());
                        match left.checked_sub(data.len()) {
                            Some(rest) => left = rest,
                            None => return false,
                        }
                    }
                }
            }
        };
        if tokio::time::timeout_at(deadline, reading).await.unwrap_or(false) {
            connections.keep(conn);
        }
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    /// Asks, and hands the body over as it comes, undecoded; any status is an answer. The timeout holds for the head
    /// only.
    ///
    /// # Errors
    /// What went wrong, without secrets.
    pub async fn open(&self, ask: Ask<'_>) -> Result<(StatusCode, Stream), String> {
        let mut connections = Connections::default();
        match tokio::time::timeout(ask.timeout, self.follow(&ask, None, &mut connections)).await {
            Ok(Ok(Reply { response, conn })) => Ok((response.status(), Stream { body: response.into_body(), conn })),
            Ok(Err(e)) => Err(e.to_string()),
            Err(_) => Err(format!("{} {:?}: context deadline exceeded", verb(&ask.method), shown(ask.url))),
        }
    }

    /// Sends a request, and again where redirects lead; `host` is the first Host header, where it is not the URL's.
    async fn follow(
        &self,
        ask: &Ask<'_>,
        host: Option<&str>,
        connections: &mut Connections,
    ) -> Result<Reply, FetchError> {
        if let Some(fault) = self.fault {
            return Err(failed(fault));
        }
        let first = ask.url;
        let mut url = first.clone();
        let (mut method, mut body) = (ask.method.clone(), ask.body.clone());
        // Where a redirect came from, without who was asked for it.
        let mut from: Option<Url> = None;
        for hop in 0.. {
            let same_host = url.host_str() == first.host_str()
                && url.port_or_known_default() == first.port_or_known_default()
                && (url.scheme() == first.scheme() || url.scheme() == "https");
            let mut headers = self.headers.clone();
            for (name, value) in &ask.headers {
                // What is secret is for the server that was asked.
                if same_host || !value.is_sensitive() {
                    headers.insert(name, value.clone());
                }
            }
            let host = host.filter(|_| hop == 0).map_or_else(|| host_header(&url), str::to_owned);
            headers.insert(HOST, HeaderValue::from_str(&host).map_err(failed)?);
            if let Some(from) = from.take()
                && !(from.scheme() == "https" && url.scheme() == "http")
                && let Ok(referer) = HeaderValue::from_str(from.as_str())
            {
                headers.entry(REFERER).or_insert(referer);
            }
            if same_host {
                auth::custom_headers(&self.config.http_headers, &mut headers).await?;
                auth::authorize(&self.config, &self.token, first, &mut headers).await?;
            }
            let socket = ask.unix_socket.filter(|_| same_host);
            let (response, mut conn) = self
                .exchange(&method, &url, socket, headers, body.clone(), connections)
                .await
                .map_err(|e| failed(format!("{} {:?}: {e}", verb(&method), shown(&url))))?;
            let Some(next) = self.redirect(&url, &response)? else { return Ok(Reply { response, conn }) };
            if hop + 1 >= MAX_REDIRECTS {
                let location = response.headers().get(LOCATION).map(|l| String::from_utf8_lossy(l.as_bytes()));
                let location = location.unwrap_or_default();
                return Err(failed(format!("{} {location:?}: stopped after {MAX_REDIRECTS} redirects", verb(&method))));
            }
            if !matches!(response.status().as_u16(), 307 | 308) && method != Method::HEAD {
                (method, body) = (Method::GET, Bytes::new());
            }
            let mut last = std::mem::replace(&mut url, next);
            if last.set_username("").is_ok() && last.set_password(None).is_ok() {
                from = Some(last);
            }
            if drain(response.into_body(), &mut conn).await {
                connections.keep(conn);
            }
        }
        Err(failed("no redirect was followed"))
    }

    /// Where a redirect leads, if it is one that is followed.
    fn redirect(&self, url: &Url, response: &Response<Incoming>) -> Result<Option<Url>, FetchError> {
        if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(None);
        }
        let Some(location) = response.headers().get(LOCATION).filter(|l| !l.is_empty()) else { return Ok(None) };
        let text = String::from_utf8_lossy(location.as_bytes()).into_owned();
        let path = text.split(['?', '#']).next().unwrap_or_default();
        if let Some(escape) = bad_escape(path) {
            return Err(failed(format!(
                "Get {:?}: failed to parse Location header {text:?}: parse {text:?}: invalid URL escape {escape:?}",
                shown(url)
            )));
        }
        let lower = text.to_ascii_lowercase();
        if let Some(rest) = lower.strip_prefix("http:").or_else(|| lower.strip_prefix("https:"))
            && !rest.starts_with("//")
            && self.config.follow_redirects
        {
            return Err(failed(format!("Get {text:?}: http: no Host in request URL")));
        }
        // An authority without a host is none: the host stays.
        let target = match text.strip_prefix("//") {
            Some(rest) if rest.is_empty() || rest.starts_with(['/', '?', '#']) => rest,
            _ => &text,
        };
        // Whether it is followed or not, it has to be an address.
        match url.join(target) {
            Ok(_) if !self.config.follow_redirects => Ok(None),
            Ok(next) if matches!(next.scheme(), "http" | "https") => Ok(Some(next)),
            Ok(next) => Err(failed(format!("Get {:?}: unsupported protocol scheme {:?}", shown(&next), next.scheme()))),
            Err(url::ParseError::InvalidPort) if !self.config.follow_redirects => Ok(None),
            Err(url::ParseError::InvalidPort) => {
                let port = text.split("://").nth(1).and_then(|r| r.split(['/', '?', '#']).next()?.rsplit(':').next());
                Err(failed(format!("Get {text:?}: dial tcp: address {}: invalid port", port.unwrap_or_default())))
            }
            Err(e) => {
                let open = text.contains('[') && !text.contains(']');
                let reason = if open { "missing ']' in host".to_owned() } else { e.to_string() };
                Err(failed(format!(
                    "Get {:?}: failed to parse Location header {text:?}: parse {text:?}: {reason}",
                    shown(url)
                )))
            }
        }
    }

    /// Sends a request over a kept connection or a new one; a kept one that turns out dead is replaced once.
    async fn exchange(
        &self,
        method: &Method,
        url: &Url,
        socket: Option<&str>,
        headers: HeaderMap,
        body: Bytes,
        connections: &mut Connections,
    ) -> Result<(Response<Incoming>, Conn), String> {
        let endpoint = Endpoint::of(url, socket, &self.config.proxy)?;
        let stamp = self.tls.stamp();
        if let Some(mut conn) = connections.take(&endpoint, stamp)
            && let Ok(response) =
                conn.send(request(url, &endpoint, method.clone(), headers.clone(), body.clone())?).await
        {
            return Ok((response, conn));
        }
        let mut conn =
            connect::connect(&endpoint, &self.config.proxy, &self.tls, stamp, &self.dials, self.any_address).await?;
        let request = request(url, &endpoint, method.clone(), headers, body)?;
        let response = conn.send(request).await.map_err(|e| describe(&e, "EOF"))?;
        Ok((response, conn))
    }
}

/// Secrets may be named for a secret manager; there is none, so that such settings are refused.
fn unknown_secrets(config: &HttpClientConfig) -> Option<&'static str> {
    let tls =
        |tls: &narthex_config::TlsConfig| [&tls.ca_ref, &tls.cert_ref, &tls.key_ref].iter().any(|r| !r.is_empty());
    let basic = config.basic_auth.as_ref().is_some_and(|a| !a.username_ref.is_empty() || !a.password_ref.is_empty());
    let authorization = config.authorization.as_ref().is_some_and(|a| !a.credentials_ref.is_empty());
    let oauth2 = config.oauth2.as_ref().is_some_and(|o| {
        !o.client_secret_ref.is_empty() || !o.client_certificate_key_ref.is_empty() || tls(&o.tls_config)
    });
    (tls(&config.tls_config) || basic || authorization || oauth2).then_some("cannot use secret ref without manager")
}

/// Reads a body to its end, decompressed and bounded, and keeps its connection.
async fn read_body(
    response: Response<Incoming>,
    mut conn: Conn,
    connections: &mut Connections,
    limit: u64,
    out: &mut Vec<u8>,
) -> Result<http::response::Parts, FetchError> {
    let (head, mut body) = response.into_parts();
    let gzip = head.headers.get(CONTENT_ENCODING).is_some_and(|v| v.as_bytes() == b"gzip");
    let mut sink = BodySink::new(out, gzip, limit);
    let fault = |e| match e {
        BodyError::TooLong => FetchError::BodyLimit,
        BodyError::Broken(text) => failed(text),
    };
    loop {
        match conn.frame(&mut body).await {
            None => break,
            Some(Err(_)) if sink.is_too_long() => return Err(FetchError::BodyLimit),
            Some(Err(e)) => return Err(failed(describe(&e, "unexpected EOF"))),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    sink.push(&data).map_err(fault)?;
                }
            }
        }
    }
    sink.finish().map_err(fault)?;
    connections.keep(conn);
    Ok(head)
}

/// A method as Go writes it in its errors: `Get`.
fn verb(method: &Method) -> String {
    let text = method.as_str();
    text.split_at_checked(1).map_or_else(String::new, |(first, rest)| format!("{first}{}", rest.to_lowercase()))
}

/// The first `%` of a text that two hexadecimal digits do not follow, with what does.
fn bad_escape(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    let at = (0..bytes.len()).find(|&i| bytes[i] == b'%' && !(is_digit(i + 1) && is_digit(i + 2)))?;
    Some(String::from_utf8_lossy(&bytes[at..bytes.len().min(at + 3)]).into_owned())
}

/// A URL without its password.
fn shown(url: &Url) -> String {
    if url.password().is_none() {
        return url.to_string();
    }
    let mut url = url.clone();
    let _ = url.set_password(Some("xxxxx"));
    url.to_string()
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
    // A proxy that speaks HTTP itself, and is not asked for a tunnel; one for SOCKS passes bytes on to the target.
    let proxy = endpoint.proxy.as_ref().filter(|p| !endpoint.tls && matches!(p.scheme(), "http" | "https"));
    let target = match proxy {
        // It wants the whole URL.
        Some(_) => {
            let mut url = url.clone();
            url.set_fragment(None);
            let _ = url.set_username("");
            let _ = url.set_password(None);
            url.to_string()
        }
        None => match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        },
    };
    let uri: Uri = target.parse().map_err(|e| format!("{e}"))?;
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    if let Some(value) = proxy.and_then(proxy::authorization) {
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
    let mut conn = connect::connect(&endpoint, proxy, tls, tls.stamp(), &dials::of("oauth2"), false).await?;
    let mut headers = headers;
    headers.insert(HOST, HeaderValue::from_str(&host_header(url)).map_err(|e| e.to_string())?);
    let response =
        conn.send(request(url, &endpoint, Method::POST, headers, body)?).await.map_err(|e| describe(&e, "EOF"))?;
    let status = response.status();
    let mut body = response.into_body();
    let mut out = Vec::new();
    while let Some(frame) = conn.frame(&mut body).await {
        if let Ok(data) = frame.map_err(|e| describe(&e, "unexpected EOF"))?.into_data() {
            if out.len() + data.len() > 1 << 20 {
                return Err("the answer is too long".to_owned());
            }
            out.extend_from_slice(&data);
        }
    }
    Ok((status, out))
}

/// An error of the connection, in Go's words where they are well known; `end` is what an early end is called there.
fn describe(error: &hyper::Error, end: &str) -> String {
    use std::error::Error;
    if error.is_incomplete_message() {
        return end.to_owned();
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
