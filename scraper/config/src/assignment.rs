//! Targets, and which shard scrapes them.

use std::sync::Arc;
use std::time::Duration;

use narthex_model::Labels;
use serde::{Deserialize, Serialize};

/// What a discovery mechanism found in one place (a file, a Service, an entry of `static_configs`): targets that
/// share labels. A later group with the same `source` replaces the earlier one; one without targets deletes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetGroup {
    pub source: String,
    /// Each with at least `__address__`.
    pub targets: Vec<Labels>,
    pub labels: Labels,
}

/// A target after relabelling: immutable, and all that a scrape loop needs to know besides its job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The `job_name` of the scrape pool that it belongs to (not the `job` label).
    pub pool: Arc<str>,
    /// The labels that its series get: no `__*` labels but none, `job` and `instance` included.
    pub labels: Labels,
    /// As discovered, before relabelling, for the targets page.
    pub discovered: Labels,
    /// `http` or `https`.
    pub scheme: String,
    /// `host:port`, `__address__` after relabelling.
    pub address: String,
    /// `/metrics` and the like, as in the configuration or `__metrics_path__`.
    pub path: String,
    /// Query parameters in order (`__param_*`).
    pub params: Vec<(String, String)>,
    pub interval: Duration,
    pub timeout: Duration,
    /// What relabelling set differently from the job.
    pub histograms: HistogramOverrides,
}

/// How a target's histograms are treated, where not as its job says (`__scrape_native_histograms__`,
/// `__always_scrape_classic_histograms__`, `__convert_classic_histograms_to_nhcb__`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HistogramOverrides {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub native: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classic: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub convert_to_nhcb: Option<bool>,
}

impl HistogramOverrides {
    /// Whether all is as the job says.
    pub fn is_none(&self) -> bool {
        *self == HistogramOverrides::default()
    }
}

impl Target {
    /// Identity across restarts and shards: a 64-bit hash of labels, URL and interval that every process computes
    /// alike. The scrape's offset within its interval comes from it.
    pub fn identity(&self) -> u64 {
        let mut builder = self.labels.to_builder();
        builder.set("\u{1}url", self.url());
        builder.set("\u{1}pool", &*self.pool);
        builder.build().stable_hash()
    }

    /// The URL that is scraped, written as Go writes one.
    pub fn url(&self) -> String {
        let mut out = format!("{}://", self.scheme);
        escape(&mut out, &self.address, b"-_.~!$&'()*+,;=:[]<>\"");
        out + &self.path_and_query()
    }

    /// The path, escaped as Go escapes it, and the query: what stands in the request line.
    pub fn path_and_query(&self) -> String {
        let mut out = String::new();
        if !self.path.is_empty() && !self.path.starts_with('/') {
            out.push('/');
        }
        escape(&mut out, &self.path, b"-_.~$&+,/:;=@");
        if !self.params.is_empty() {
            out.push('?');
            let pairs = self.params.iter().map(|(k, v)| (k.as_str(), v.as_str()));
            out.push_str(&url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish());
        }
        out
    }
}

/// Appends a text in which all but letters, digits and `plain` is escaped.
fn escape(out: &mut String, text: &str, plain: &[u8]) {
    use std::fmt::Write;
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || plain.contains(&byte) {
            out.push(byte as char);
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// What one shard is to scrape. A newer generation replaces the whole.
#[derive(Clone, Debug, Default)]
pub struct Assignment {
    pub generation: u64,
    pub shard: String,
    pub targets: Vec<Arc<Target>>,
    /// Dropped by relabelling, for the targets page (at most `keep_dropped_targets` per pool), by pool.
    pub dropped: Vec<(Arc<str>, Labels)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (path, params, expected) in [
            ("/metrics", &[][..], "http://h:1/metrics"),
            ("metrics", &[], "http://h:1/metrics"),
            ("", &[], "http://h:1"),
            ("/a b?c%", &[], "http://h:1/a%20b%3Fc%25"),
            ("/ü", &[("x", "1 &"), ("y", "")], "http://h:1/%C3%BC?x=1+%26&y="),
        ] {
            let target = Target {
                pool: "p".into(),
                labels: Labels::empty(),
                discovered: Labels::empty(),
                scheme: "http".into(),
                address: "h:1".into(),
                path: path.into(),
                params: params.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
                interval: Duration::from_secs(1),
                timeout: Duration::from_secs(1),
                histograms: HistogramOverrides::default(),
            };
            assert_eq!(target.url(), expected);
        }
    }
}
