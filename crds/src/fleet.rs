//! The own kind: a fleet of scraper shards behind one query endpoint.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::monitoring::ScrapeSettings;

/// The most shards that a fleet can have.
pub const MAX_SHARDS: i32 = 1000;

/// A fleet of scraper shards: which monitors it serves, how many shards share the targets, what they keep.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "narthex.dev",
    version = "v1alpha1",
    kind = "Fleet",
    plural = "fleets",
    shortname = "nfl",
    category = "narthex",
    category = "monitoring",
    namespaced,
    status = "FleetStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A fleet of scraper shards behind one query endpoint.",
    scale(
        spec_replicas_path = ".spec.shards",
        status_replicas_path = ".status.shards",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Shards", type_ = "integer", json_path = ".spec.shards"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyShards"),
    printcolumn(name = "Monitors", type_ = "integer", json_path = ".status.monitors"),
    printcolumn(name = "Targets", type_ = "integer", json_path = ".status.targets"),
    printcolumn(name = "Up", type_ = "integer", json_path = ".status.targetsUp"),
    printcolumn(name = "Series", type_ = "integer", json_path = ".status.series"),
    printcolumn(name = "Imbalance", type_ = "string", json_path = ".status.imbalance", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 46").message("the name may have 46 characters at most: pods append to it")
)]
#[x_kube(
    validation = Rule::new("!has(self.shards) || !has(self.replication) || self.replication <= self.shards")
        .message("replication needs at least as many shards")
)]
#[serde(rename_all = "camelCase")]
pub struct FleetSpec {
    /// How many shards share the targets. The scale subresource sets it, so an autoscaler may.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = MAX_SHARDS))]
    pub shards: i32,
    /// On how many shards each target is scraped.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 5))]
    pub replication: i32,
    /// How long samples are kept, such as `15d`.
    #[serde(default = "fifteen_days")]
    #[schemars(regex(
        pattern = r"^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)$"
    ))]
    pub retention: String,
    /// How many bytes a shard keeps at most, such as `50GB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_size: Option<String>,
    /// The volume of each shard; without it, samples live as long as the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    /// Requests and limits of each shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// The scraper's image; the operator's `--scraper.image` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// `Always`, `IfNotPresent` or `Never`; Kubernetes' default where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<String>,
    /// Names of Secrets with credentials for the registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<String>,
    /// Which ServiceMonitors are served; all where absent or empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_monitor_selector: Option<LabelSelector>,
    /// In which namespaces ServiceMonitors are served, by the namespaces' labels; all where absent or empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_monitor_namespace_selector: Option<LabelSelector>,
    /// Which PodMonitors are served; all where absent or empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_monitor_selector: Option<LabelSelector>,
    /// In which namespaces PodMonitors are served, by the namespaces' labels; all where absent or empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_monitor_namespace_selector: Option<LabelSelector>,
    /// The interval of monitors that set none.
    #[serde(default = "thirty_seconds")]
    pub scrape_interval: String,
    /// The timeout of monitors that set none; ten seconds or the interval, whichever is shorter, where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrape_timeout: Option<String>,
    /// Labels that leave the fleet with every series (federation, remote write).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub external_labels: BTreeMap<String, String>,
    /// `debug`, `info`, `warn` or `error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
    /// Labels of the Nodes that shards may run on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of Nodes that shards put up with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// The priority class of the shards' pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// What is done to monitors on their way to targets.
    #[serde(default)]
    pub scraping: ScrapeSettings,
}

/// A shard's volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Such as `50Gi`.
    pub size: String,
    /// The cluster's default class where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
    /// Whether volumes go when shards do. They are kept unless this says so.
    #[serde(default)]
    pub delete_when_scaled: bool,
}

/// What the operator saw last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FleetStatus {
    /// The fleet's generation that this speaks of.
    pub observed_generation: i64,
    /// Shards that the fleet has now.
    pub shards: i32,
    /// Shards that are connected to the operator.
    pub ready_shards: i32,
    /// The label selector of the shards' pods, for the scale subresource.
    pub selector: String,
    /// Monitors that were accepted.
    pub monitors: i32,
    /// Monitors that were refused.
    pub monitors_rejected: i32,
    /// Targets found.
    pub targets: i64,
    /// Targets whose last scrape went well.
    pub targets_up: i64,
    /// Series that the last scrapes exposed, each target counted once.
    pub series: i64,
    /// The heaviest shard's weight over the mean, such as `1.02`.
    pub imbalance: String,
    /// The generation of the assignment that shards get.
    pub assignment_generation: i64,
    /// Monitors that were refused, match nothing or have too many series, at most fifty, with the reason.
    pub monitor_problems: Vec<MonitorProblem>,
    /// `Available` (all shards are connected) and `MonitorsAccepted` (none was refused).
    pub conditions: Vec<Condition>,
}

/// Why a monitor gives no targets, or not all of their series.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct MonitorProblem {
    /// `ServiceMonitor` or `PodMonitor`.
    pub kind: String,
    pub namespace: String,
    pub name: String,
    /// `Rejected`, `NoTargets` or `SeriesLimit` (new series are refused).
    pub reason: String,
    pub message: String,
}

fn one() -> i32 {
    1
}

fn fifteen_days() -> String {
    "15d".to_owned()
}

fn thirty_seconds() -> String {
    "30s".to_owned()
}
