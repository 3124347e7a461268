//! How the tool asks servers: addresses, credentials from `--http.config.file`, the API's errors in promtool's words.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use narthex_config::HttpClientConfig;
use narthex_http::{Answer, Ask, Client, Connections};
use serde_json::Value;
use url::Url;

/// For an answer.
const LIMIT: u64 = 1 << 30;

/// A server to ask.
pub struct Server {
    client: Client,
    base: Url,
    headers: HeaderMap,
    runtime: tokio::runtime::Runtime,
    timeout: Duration,
}

/// The URL of a server; without a scheme it is one of http.
pub fn address(text: &str) -> anyhow::Result<Url> {
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&full).with_context(|| format!("{text:?} is no URL"))?;
    if !url.has_host() {
        bail!("{text:?} is no URL of a server");
    }
    Ok(url)
}

impl Server {
    /// `headers` as `name=value`.
    ///
    /// # Errors
    /// A URL, a file or a header that is none.
    pub fn new(url: &str, config_file: Option<&str>, headers: &[&str], timeout: Duration) -> anyhow::Result<Server> {
        let base = address(url)?;
        let config = match config_file {
            Some(_) if !base.username().is_empty() => {
                bail!("Cannot set base auth in the server URL and use a http.config.file at the same time")
            }
            Some(file) => {
                let text = std::fs::read_to_string(file)
                    .with_context(|| format!("Failed to load HTTP config file: {file}"))?;
                let config = HttpClientConfig::parse(&text, Path::new(file));
                config.map_err(|e| {
                    anyhow::anyhow!("Failed to load HTTP config file: {}", crate::start::with_sources(&e))
                })?
            }
            None => HttpClientConfig::default(),
        };
        let mut all = HeaderMap::new();
        for header in headers {
            let (name, value) = header.split_once('=').with_context(|| format!("expected KEY=VALUE got {header:?}"))?;
            all.append(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(value)?);
        }
        let client = Client::plain(config, concat!("narthex-tool/", env!("CARGO_PKG_VERSION")));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Server { client, base, headers: all, runtime, timeout })
    }

    /// The URL of a path below the server's.
    pub fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        url
    }

    /// # Errors
    /// When there is no answer.
    pub fn send(&self, method: Method, url: &Url, headers: HeaderMap, body: Bytes) -> anyhow::Result<Answer> {
        let mut all = self.headers.clone();
        all.extend(headers);
        let ask = Ask { method, headers: all, body, ..Ask::get(url, self.timeout, LIMIT) };
        let work = async { self.client.ask(ask, &mut Connections::default()).await };
        self.runtime.block_on(work).map_err(anyhow::Error::msg)
    }

    /// Lets some time pass.
    pub fn wait(&self, time: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }

    /// # Errors
    /// When there is no answer.
    pub fn get(&self, url: &Url) -> anyhow::Result<Answer> {
        self.send(Method::GET, url, HeaderMap::new(), Bytes::new())
    }

    /// `data` of an API call's answer. Tried by POST first, as Prometheus's client does; `only_get` is for endpoints that
    /// have nothing else. Warnings go to the error output where `warn` says so.
    ///
    /// # Errors
    /// As promtool prints them, behind "query error: ".
    pub fn api(&self, path: &str, form: &[(&str, String)], only_get: bool, warn: bool) -> anyhow::Result<Value> {
        let mut encoded = url::form_urlencoded::Serializer::new(String::new());
        encoded.extend_pairs(form);
        let encoded = encoded.finish();
        let mut url = self.url(&format!("/api/v1/{path}"));
        let mut answer = None;
        if !only_get {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
            let posted = self.send(Method::POST, &url, headers, encoded.clone().into())?;
            let refused = [StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_IMPLEMENTED].contains(&posted.status);
            answer = (!refused).then_some(posted);
        }
        let answer = match answer {
            Some(answer) => answer,
            None => {
                url.set_query(Some(&encoded));
                self.get(&url)?
            }
        };
        let status = answer.status.as_u16();
        if !answer.status.is_success() && ![400, 422].contains(&status) {
            let (kind, text) = match status {
                400..500 => ("client_error", "client error"),
                500..600 => ("server_error", "server error"),
                _ => ("bad_response", "bad response code"),
            };
            let detail = String::from_utf8_lossy(&answer.body).trim().to_owned();
            let detail = if detail.is_empty() { detail } else { format!(" (detail: {detail})") };
            bail!("{kind}: {text}: {status}{detail}");
        }
        let parsed: Value = serde_json::from_slice(&answer.body).map_err(|e| anyhow::anyhow!("bad_response: {e}"))?;
        if parsed["status"] != "success" {
            let part = |name: &str| parsed[name].as_str().unwrap_or_default().to_owned();
            bail!("{}: {}", part("errorType"), part("error"));
        }
        for text in parsed["warnings"].as_array().into_iter().flatten().filter(|_| warn) {
            eprintln!("query warning: {}", text.as_str().unwrap_or_default());
        }
        Ok(parsed["data"].clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_between_attempts() {
        let server = Server::new("localhost:1", None, &[], Duration::from_secs(1)).unwrap();
        let begun = std::time::Instant::now();
        server.wait(Duration::from_millis(2));
        assert!(begun.elapsed() >= Duration::from_millis(2));
    }
}
