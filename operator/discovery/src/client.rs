//! The HTTP client of discoverers: a thin layer over `narthex-http`, one connection per request, since what discovery
//! asks comes minutes apart.

use std::path::PathBuf;
use std::time::Duration;

use ::http::header::HeaderMap;
use narthex_config::HttpClientConfig;
use narthex_http::{Answer, Ask, Client, Connections};
use serde::{Deserialize, Deserializer};
use url::Url;

/// Longest answer in bytes.
pub(crate) const MAX_BODY: usize = 256 << 20;

pub(crate) const USER_AGENT: &str = concat!("Narthex/", env!("CARGO_PKG_VERSION"));

/// A client with the settings of one discovery section.
pub(crate) struct HttpClient {
    client: Client,
    /// Connect here, whatever the URL says.
    socket: Option<String>,
}

impl HttpClient {
    /// `dialer` is the name under which connections are counted.
    pub fn new(config: HttpClientConfig, dialer: &str) -> HttpClient {
        HttpClient { client: Client::plain(config, USER_AGENT).dialing_as(dialer), socket: None }
    }

    /// A client that speaks over a Unix socket.
    pub fn over_socket(socket: PathBuf, dialer: &str) -> HttpClient {
        HttpClient {
            socket: Some(socket.to_string_lossy().into_owned()),
            ..HttpClient::new(HttpClientConfig::default(), dialer)
        }
    }

    /// Asks for a page; `limit` bounds the body's bytes, `timeout` everything.
    ///
    /// # Errors
    /// What went wrong, without secrets. Any status is an answer.
    pub async fn get(&self, url: &Url, headers: HeaderMap, timeout: Duration, limit: usize) -> Result<Answer, String> {
        let ask = Ask { headers, unix_socket: self.socket.as_deref(), ..Ask::get(url, timeout, limit as u64) };
        self.client.ask(ask, &mut Connections::default()).await
    }
}

/// For lists, maps and objects of answers: those who answer are written in Go, where an empty one may be null.
pub(crate) fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}
