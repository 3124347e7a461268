//! One request to a receiver, and what its answer means (Prometheus `storage/remote.Client.Store`).

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Method, StatusCode};
use narthex_config::RemoteWriteConfig;
use narthex_config::remote::WriteMessage;
use narthex_http::{Answer, Ask, Client, Connections};
use url::Url;

use crate::RemoteError;
use crate::sigv4::SigV4;

/// Bytes of an error's text that are read.
const MAX_ERROR: u64 = 1024;

/// The longest wait that a receiver may ask for.
const MAX_WAIT: Duration = Duration::from_secs(3600);

/// Where a queue sends to, and how.
pub struct Destination {
    client: Client,
    url: Url,
    headers: HeaderMap,
    timeout: Duration,
    retry_429: bool,
    sigv4: Option<SigV4>,
}

/// How much a receiver says that it has written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub samples: u64,
    pub histograms: u64,
    pub exemplars: u64,
    /// It said so, and thus speaks 2.0.
    pub confirmed: bool,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done(Written),
    /// To be sent again, after that time where the receiver named one.
    Again {
        error: String,
        wait: Option<Duration>,
        /// There was no answer: it may have arrived all the same.
        unknown: bool,
    },
    Refused {
        status: u16,
        error: String,
        written: Written,
    },
}

impl Destination {
    /// # Errors
    /// What cannot be used, or is not supported.
    pub fn new(config: &RemoteWriteConfig, user_agent: &'static str) -> Result<Destination, RemoteError> {
        let shown = config.url.as_ref().map(|u| u.redacted()).unwrap_or_default();
        let unsupported = |what| RemoteError::Unsupported { url: shown.clone(), what };
        if config.azuread.is_some() {
            return Err(unsupported("azuread"));
        }
        if config.google_iam.is_some() {
            return Err(unsupported("google_iam"));
        }
        let invalid = |why: String| RemoteError::Invalid { url: shown.clone(), why };
        let text = config.url.as_ref().map(|u| u.as_str()).unwrap_or_default();
        let url = Url::parse(text).map_err(|e| invalid(e.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(invalid(format!("unsupported protocol scheme {:?}", url.scheme())));
        }
        let mut headers = HeaderMap::new();
        let (kind, version) = match config.protobuf_message {
            WriteMessage::V1 => ("application/x-protobuf", "0.1.0"),
            WriteMessage::V2 => ("application/x-protobuf;proto=io.prometheus.write.v2.Request", "2.0.0"),
        };
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("snappy"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert("x-prometheus-remote-write-version", HeaderValue::from_static(version));
        for (name, value) in &config.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|e| invalid(format!("header {name:?}: {e}")))?;
            let mut value = HeaderValue::from_str(value).map_err(|e| invalid(format!("header {name}: {e}")))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let sigv4 = match &config.sigv4 {
            Some(sigv4) => Some(SigV4::new(sigv4, |name| std::env::var(name).ok()).map_err(invalid)?),
            None => None,
        };
        let client = Client::plain(config.http.clone(), user_agent)
            .dialing_as("remote_storage_write_client")
            .any_address(config.round_robin_dns);
        let timeout = config.remote_timeout;
        Ok(Destination { client, url, headers, timeout, retry_429: config.queue_config.retry_on_http_429, sigv4 })
    }

    /// Sends a body for the `attempt`th time, from 0.
    pub async fn store(&self, body: Bytes, attempt: u32, connections: &mut Connections) -> Outcome {
        let mut headers = self.headers.clone();
        if attempt > 0 {
            headers.insert("retry-attempt", HeaderValue::from(attempt));
        }
        if let Some(sigv4) = &self.sigv4 {
            sigv4.sign(&self.url, &mut headers, &body, now_ms() / 1000);
        }
        let ask = Ask {
            method: Method::POST,
            url: &self.url,
            headers,
            body,
            timeout: self.timeout,
            limit: MAX_ERROR,
            unix_socket: None,
        };
        match self.client.tell(ask, connections).await {
            Ok(answer) => judge(&answer, self.retry_429),
            Err(error) => Outcome::Again { error, wait: None, unknown: true },
        }
    }
}

/// Milliseconds since the epoch.
pub fn now_ms() -> i64 {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

fn judge(answer: &Answer, retry_429: bool) -> Outcome {
    let mut written = Written::default();
    let mut count = |name: &str| {
        let text = answer.header(name);
        written.confirmed |= !text.is_empty();
        text.parse::<u64>().unwrap_or(0)
    };
    let samples = count("x-prometheus-remote-write-samples-written");
    let histograms = count("x-prometheus-remote-write-histograms-written");
    let exemplars = count("x-prometheus-remote-write-exemplars-written");
    written = Written { samples, histograms, exemplars, ..written };
    if answer.status.is_success() {
        return Outcome::Done(written);
    }
    let text = String::from_utf8_lossy(&answer.body);
    let error = format!("server returned HTTP status {}: {}", status_text(answer.status), text.trim_end());
    let again = answer.status.is_server_error() || (retry_429 && answer.status == StatusCode::TOO_MANY_REQUESTS);
    if again {
        let wait = answer.headers.get(RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(|t| wait(t, now_ms()));
        return Outcome::Again { error, wait, unknown: false };
    }
    Outcome::Refused { status: answer.status.as_u16(), error, written }
}

fn status_text(status: StatusCode) -> String {
    format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default()).trim_end().to_owned()
}

/// The time that a `Retry-After` asks for, in seconds or as a date; none for what is neither, or past.
fn wait(text: &str, now: i64) -> Option<Duration> {
    let text = text.trim();
    let seconds = match text.parse::<i64>() {
        Ok(seconds) => seconds,
        Err(_) => jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_second() - now / 1000,
    };
    let seconds = u64::try_from(seconds).ok().filter(|s| *s > 0)?;
    Some(Duration::from_secs(seconds).min(MAX_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &'static str)]) -> Answer {
        let headers = headers.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect();
        Answer { status: StatusCode::from_u16(status).unwrap(), headers, body: b"why\n".to_vec() }
    }

    #[test]
    fn what_answers_mean() {
        let wrote =
            [("x-prometheus-remote-write-samples-written", "3"), ("x-prometheus-remote-write-histograms-written", "x")];
        let three = Written { samples: 3, confirmed: true, ..Written::default() };
        assert_eq!(judge(&answer(204, &wrote), false), Outcome::Done(three));
        assert_eq!(judge(&answer(200, &[]), false), Outcome::Done(Written::default()));
        let refused = |status, text: &str, written| Outcome::Refused {
            status,
            error: format!("server returned HTTP status {text}: why"),
            written,
        };
        assert_eq!(judge(&answer(400, &wrote), false), refused(400, "400 Bad Request", three));
        assert_eq!(judge(&answer(429, &[]), false), refused(429, "429 Too Many Requests", Written::default()));
        assert_eq!(judge(&answer(302, &[]), false), refused(302, "302 Found", Written::default()));
        for (status, header, expected) in
            [(429, "7", Some(7)), (503, "x", None), (500, "-1", None), (599, "99999", Some(3600))]
        {
            match judge(&answer(status, &[("retry-after", header)]), true) {
                Outcome::Again { wait, unknown: false, .. } => {
                    assert_eq!(wait, expected.map(Duration::from_secs), "{header}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn dates_of_retry_after() {
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_772_000), Some(Duration::from_secs(5)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_779_000), None);
        assert_eq!(wait("soon", 0), None);
    }
}
