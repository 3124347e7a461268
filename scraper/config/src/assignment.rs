//! Targets, and which shard scrapes them.

use std::sync::Arc;
use std::time::Duration;

use narthex_model::Labels;

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
}

impl Target {
    /// Identity across restarts and shards: a 64-bit hash of labels, URL and interval that every process computes
    /// alike. The scrape's offset within its interval comes from it.
    pub fn identity(&self) -> u64 {
        let builder = self.labels.to_builder();
        let mut builder = builder;
        builder.set("\u{1}url", self.url());
        builder.set("\u{1}pool", &*self.pool);
        builder.build().stable_hash()
    }

    /// The URL that is scraped.
    pub fn url(&self) -> String {
        let mut url = format!("{}://{}{}", self.scheme, self.address, self.path);
        if !self.params.is_empty() {
            let query: String = url::form_urlencoded::Serializer::new(String::new())
                .extend_pairs(self.params.iter().map(|(k, v)| (k.as_str(), v.as_str())))
                .finish();
            url.push(if self.path.contains('?') { '&' } else { '?' });
            url.push_str(&query);
        }
        url
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
