//! What the operator and its shards say to each other, as JSON.
//!
//! The operator sends [`Message`]s, one per line, for as long as the shard listens; a newer snapshot replaces the one
//! before. The shard sends [`Report`]s. Snapshots hold no secret: where a job needs one stands a placeholder, and the
//! values come beside it in [`Snapshot::secrets`], which is stored apart from it.
//!
//! Readers ignore fields that they don't know, so that an operator and shards one version apart understand each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use narthex_model::Labels;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::assignment::{HistogramOverrides, Target};

/// The path of the stream of [`Message`]s: `GET PATH?fleet=NAMESPACE/NAME&shard=NAME`.
pub const STREAM_PATH: &str = "/fleet/v1/stream";
/// The path that [`Report`]s are posted to.
pub const REPORT_PATH: &str = "/fleet/v1/report";
/// How often the operator sends a sign of life, and shards report at least.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// The longest line that a shard accepts.
pub const MAX_LINE: usize = 512 << 20;

/// One line of the operator's stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum Message {
    Snapshot(Box<Snapshot>),
    /// A sign of life.
    Ping {
        generation: u64,
    },
}

/// All that a shard is to do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Snapshot {
    /// Counts up. A shard refuses an older one than it has.
    pub generation: u64,
    /// `NAMESPACE/NAME`.
    pub fleet: String,
    pub shard: String,
    /// The `global` section of the configuration.
    pub global: Value,
    /// Entries of `scrape_configs` without discovery, sorted by name.
    pub jobs: Vec<Value>,
    pub targets: Vec<WireTarget>,
    /// Identities of targets that this shard loses to another: it stops them without staleness markers.
    pub moved: Vec<u64>,
    /// All shards, this one included, sorted by name.
    pub peers: Vec<Peer>,
    /// Placeholder to value.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
}

/// A shard that answers questions of others.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Peer {
    pub name: String,
    /// `http://host:port`.
    pub url: String,
}

/// A target; its pool is the job's name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WireTarget {
    pub pool: String,
    pub labels: BTreeMap<String, String>,
    pub discovered: BTreeMap<String, String>,
    pub scheme: String,
    pub address: String,
    pub path: String,
    pub params: Vec<(String, String)>,
    pub interval_ms: u64,
    pub timeout_ms: u64,
    #[serde(default, skip_serializing_if = "HistogramOverrides::is_none")]
    pub histograms: HistogramOverrides,
}

/// What a shard tells the operator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    pub fleet: String,
    pub shard: String,
    /// The generation in force; 0 for none.
    pub generation: u64,
    /// Where peers reach it, `http://host:port`.
    pub url: String,
    /// All targets that it scrapes.
    pub targets: Vec<TargetReport>,
    /// Jobs (or the monitors that have them) whose budget of series is used up, with the reason in words.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub over_budget: BTreeMap<String, String>,
}

/// A target's last scrape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TargetReport {
    /// [`Target::identity`].
    pub id: u64,
    /// Whether this shard has scraped it at all.
    pub scraped: bool,
    pub up: bool,
    /// Samples of the last scrape.
    pub samples: u64,
    pub duration_ms: u64,
}

fn map(labels: &Labels) -> BTreeMap<String, String> {
    labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}

impl From<&Target> for WireTarget {
    fn from(t: &Target) -> WireTarget {
        WireTarget {
            pool: t.pool.to_string(),
            labels: map(&t.labels),
            discovered: map(&t.discovered),
            scheme: t.scheme.clone(),
            address: t.address.clone(),
            path: t.path.clone(),
            params: t.params.clone(),
            interval_ms: t.interval.as_millis() as u64,
            timeout_ms: t.timeout.as_millis() as u64,
            histograms: t.histograms,
        }
    }
}

impl From<WireTarget> for Target {
    fn from(t: WireTarget) -> Target {
        Target {
            pool: Arc::from(t.pool),
            labels: Labels::from_pairs(t.labels),
            discovered: Labels::from_pairs(t.discovered),
            scheme: t.scheme,
            address: t.address,
            path: t.path,
            params: t.params,
            interval: Duration::from_millis(t.interval_ms.max(1)),
            timeout: Duration::from_millis(t.timeout_ms.max(1)),
            histograms: t.histograms,
        }
    }
}

/// Jobs are a handful of levels deep; deeper than this nothing of ours can be.
const MAX_DEPTH: usize = 16;

/// Puts secrets in the place of their placeholders: texts that are a placeholder as a whole. What is missing becomes
/// empty, so that a scrape is refused by its target rather than sent a placeholder.
pub fn resolve(value: &mut Value, secrets: &BTreeMap<String, String>) {
    fn walk(value: &mut Value, secrets: &BTreeMap<String, String>, depth: usize) {
        match value {
            Value::String(s) if is_placeholder(s) => *s = secrets.get(s.as_str()).cloned().unwrap_or_default(),
            Value::Array(list) if depth < MAX_DEPTH => list.iter_mut().for_each(|v| walk(v, secrets, depth + 1)),
            Value::Object(map) if depth < MAX_DEPTH => map.values_mut().for_each(|v| walk(v, secrets, depth + 1)),
            _ => {}
        }
    }
    walk(value, secrets, 0);
}

/// A text that [`resolve`] would replace. In what a user wrote it is a forgery: a shard has the secrets of all
/// namespaces whose monitors it serves.
pub fn placeholder_in(value: &Value) -> Option<&str> {
    fn walk(value: &Value, depth: usize) -> Option<&str> {
        match value {
            Value::String(s) if is_placeholder(s) => Some(s),
            Value::Array(list) if depth < MAX_DEPTH => list.iter().find_map(|v| walk(v, depth + 1)),
            Value::Object(map) if depth < MAX_DEPTH => map.values().find_map(|v| walk(v, depth + 1)),
            _ => None,
        }
    }
    walk(value, 0)
}

fn is_placeholder(text: &str) -> bool {
    (text.starts_with("$(secret:") || text.starts_with("$(configmap:")) && text.ends_with(')')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_target_survives_the_way() {
        let target = Target {
            pool: "p".into(),
            labels: Labels::from_pairs([("job", "j"), ("instance", "h:1")]),
            discovered: Labels::from_pairs([("__address__", "h:1")]),
            scheme: "http".into(),
            address: "h:1".into(),
            path: "/metrics".into(),
            params: vec![("a".into(), "b".into())],
            interval: Duration::from_secs(15),
            timeout: Duration::from_secs(10),
            histograms: HistogramOverrides { native: Some(true), ..HistogramOverrides::default() },
        };
        let text = serde_json::to_string(&WireTarget::from(&target)).unwrap();
        let back: Target = serde_json::from_str::<WireTarget>(&text).unwrap().into();
        assert_eq!(back, target);
        assert_eq!(back.identity(), target.identity());
    }

    #[test]
    fn secrets_take_their_places() {
        let mut job = json!({"a": {"password": "$(secret:n/s/k)", "other": "$(secret:x"}, "l": ["$(configmap:n/c/k)"]});
        resolve(&mut job, &BTreeMap::from([("$(secret:n/s/k)".to_owned(), "p".to_owned())]));
        assert_eq!(job, json!({"a": {"password": "p", "other": "$(secret:x"}, "l": [""]}));
        assert_eq!(placeholder_in(&job), None);
        assert_eq!(placeholder_in(&json!([{"a": ["x", "$(configmap:n/c/k)"]}])), Some("$(configmap:n/c/k)"));
    }

    #[test]
    fn messages_are_told_apart_by_type() {
        let text = serde_json::to_string(&Message::Snapshot(Box::default())).unwrap();
        assert!(text.starts_with(r#"{"type":"snapshot","#), "{text}");
        let ping: Message = serde_json::from_str(r#"{"type":"ping","generation":3,"later":true}"#).unwrap();
        assert!(matches!(ping, Message::Ping { generation: 3 }));
    }
}
