//! ServiceMonitor and PodMonitor (`monitoring.coreos.com/v1`, fields as of prometheus-operator 0.93), and the types
//! that they share with the fleet.
//!
//! Everything is optional: upstream treats an empty string, zero and a missing field alike, and what is wrong with an
//! object is for the plan to say, not for a decoder.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The API group of the monitors.
pub const GROUP: &str = "monitoring.coreos.com";

/// Which Services to scrape, and how.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "monitoring.coreos.com",
    version = "v1",
    kind = "ServiceMonitor",
    plural = "servicemonitors",
    shortname = "smon",
    namespaced,
    schema = "disabled",
    status = "MonitorStatus",
    derive = "PartialEq",
    derive = "Default"
)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceMonitorSpec {
    pub job_label: String,
    pub target_labels: Vec<String>,
    pub pod_target_labels: Vec<String>,
    pub endpoints: Vec<Endpoint>,
    pub selector: LabelSelector,
    pub selector_mechanism: Option<String>,
    pub namespace_selector: NamespaceSelector,
    pub service_discovery_role: Option<String>,
    #[serde(flatten)]
    pub common: MonitorCommon,
}

/// Which Pods to scrape, and how.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "monitoring.coreos.com",
    version = "v1",
    kind = "PodMonitor",
    plural = "podmonitors",
    shortname = "pmon",
    namespaced,
    schema = "disabled",
    status = "MonitorStatus",
    derive = "PartialEq",
    derive = "Default"
)]
#[serde(rename_all = "camelCase", default)]
pub struct PodMonitorSpec {
    pub job_label: String,
    pub pod_target_labels: Vec<String>,
    pub pod_metrics_endpoints: Vec<Endpoint>,
    pub selector: LabelSelector,
    pub selector_mechanism: Option<String>,
    pub namespace_selector: NamespaceSelector,
    #[serde(flatten)]
    pub common: MonitorCommon,
}

/// The annotation of a monitor that says how many series its targets may have on each shard, all of its endpoints
/// together. An annotation, as the upstream kinds have no such field and API servers drop fields they do not know.
pub const SERIES_LIMIT: &str = "narthex.dev/series-limit";
/// The same for each of its targets.
pub const TARGET_SERIES_LIMIT: &str = "narthex.dev/target-series-limit";

/// What such an annotation says; `None` where it is absent.
///
/// # Errors
/// When it is not a whole number that is not negative, in words.
pub fn series_limit(metadata: &ObjectMeta, annotation: &str) -> Result<Option<i64>, String> {
    let Some(text) = metadata.annotations.as_ref().and_then(|a| a.get(annotation)) else { return Ok(None) };
    match text.trim().parse::<i64>() {
        Ok(limit) if limit >= 0 => Ok(Some(limit)),
        _ => Err(format!("annotation {annotation}: {text:?} is not a number of series")),
    }
}

/// What both monitors have besides their endpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MonitorCommon {
    pub sample_limit: Option<i64>,
    pub target_limit: Option<i64>,
    pub label_limit: Option<i64>,
    pub label_name_length_limit: Option<i64>,
    pub label_value_length_limit: Option<i64>,
    pub keep_dropped_targets: Option<i64>,
    pub body_size_limit: Option<String>,
    pub scrape_protocols: Vec<String>,
    pub fallback_scrape_protocol: Option<String>,
    pub scrape_native_histograms: Option<bool>,
    pub scrape_classic_histograms: Option<bool>,
    pub native_histogram_bucket_limit: Option<i64>,
    /// A quantity: text or a number.
    pub native_histogram_min_bucket_factor: Option<serde_json::Value>,
    #[serde(rename = "convertClassicHistogramsToNHCB")]
    pub convert_classic_histograms_to_nhcb: Option<bool>,
    pub attach_metadata: Option<AttachMetadata>,
    pub scrape_class: Option<String>,
}

/// Status of a monitor: upstream allows bindings of its own kinds only, so it is read and never written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MonitorStatus {
    pub bindings: Vec<serde_json::Value>,
}

/// One endpoint of a monitor. `target_port` and the file fields are the ServiceMonitor's, `port_number` the
/// PodMonitor's (which has a deprecated `target_port` as well).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    pub port: Option<String>,
    pub port_number: Option<i32>,
    pub target_port: Option<IntOrString>,
    pub path: String,
    pub scheme: Option<String>,
    pub params: BTreeMap<String, Vec<String>>,
    pub interval: String,
    pub scrape_timeout: String,
    pub tls_config: Option<TlsConfig>,
    pub bearer_token_file: String,
    pub bearer_token_secret: Option<KeySelector>,
    pub authorization: Option<Authorization>,
    pub honor_labels: bool,
    pub honor_timestamps: Option<bool>,
    pub track_timestamps_staleness: Option<bool>,
    pub basic_auth: Option<BasicAuth>,
    pub oauth2: Option<OAuth2>,
    pub metric_relabelings: Vec<RelabelConfig>,
    pub relabelings: Vec<RelabelConfig>,
    pub follow_redirects: Option<bool>,
    pub enable_http2: Option<bool>,
    pub filter_running: Option<bool>,
    #[serde(flatten)]
    pub proxy: ProxyConfig,
}

/// Which namespaces a monitor selects objects from: any, those named, or (neither) its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NamespaceSelector {
    pub any: bool,
    pub match_names: Vec<String>,
}

/// A key of a Secret or ConfigMap in the monitor's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct KeySelector {
    pub name: String,
    pub key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// Either a Secret's or a ConfigMap's key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SecretOrConfigMap {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<KeySelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_map: Option<KeySelector>,
}

/// TLS towards targets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsConfig {
    pub ca: SecretOrConfigMap,
    pub cert: SecretOrConfigMap,
    pub key_secret: Option<KeySelector>,
    pub server_name: Option<String>,
    pub insecure_skip_verify: Option<bool>,
    pub min_version: Option<String>,
    pub max_version: Option<String>,
    pub ca_file: String,
    pub cert_file: String,
    pub key_file: String,
}

/// An Authorization header.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Authorization {
    /// The scheme, `Bearer` where empty.
    #[serde(rename = "type")]
    pub scheme: String,
    pub credentials: Option<KeySelector>,
    pub credentials_file: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BasicAuth {
    pub username: KeySelector,
    pub password: KeySelector,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OAuth2 {
    pub client_id: SecretOrConfigMap,
    pub client_secret: KeySelector,
    pub token_url: String,
    pub scopes: Vec<String>,
    pub endpoint_params: BTreeMap<String, String>,
    pub tls_config: Option<TlsConfig>,
    #[serde(flatten)]
    pub proxy: ProxyConfig,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyConfig {
    pub proxy_url: Option<String>,
    pub no_proxy: Option<String>,
    pub proxy_from_environment: Option<bool>,
    pub proxy_connect_header: Option<BTreeMap<String, Vec<KeySelector>>>,
}

/// A relabelling rule in the monitors' spelling.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RelabelConfig {
    pub source_labels: Vec<String>,
    pub separator: Option<String>,
    pub target_label: String,
    pub regex: String,
    pub modulus: u64,
    pub replacement: Option<String>,
    pub action: String,
}

/// Which labels of other objects targets get.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct AttachMetadata {
    /// Labels of the Node that it runs on.
    pub node: Option<bool>,
}

/// Settings that monitors refer to by name (`scrapeClass`), or that all get which name none (`default`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ScrapeClass {
    /// What monitors call it by.
    pub name: String,
    /// The class of monitors that name none. At most one class may be the default.
    #[serde(rename = "default")]
    pub is_default: Option<bool>,
    /// Fills in what a monitor's own leaves out.
    pub tls_config: Option<TlsConfig>,
    /// Fills in what a monitor's own leaves out.
    pub authorization: Option<Authorization>,
    /// Rules on targets, before those of the monitor.
    pub relabelings: Vec<RelabelConfig>,
    /// Rules on series, before those of the monitor.
    pub metric_relabelings: Vec<RelabelConfig>,
    /// Which labels of other objects targets get, where the monitor does not say.
    pub attach_metadata: Option<AttachMetadata>,
    /// How a page without a usable Content-Type is read, where the monitor does not say.
    pub fallback_scrape_protocol: Option<String>,
}

/// Names objects that a rule does not apply to: all of a namespace and resource when `name` is empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ObjectReference {
    /// `monitoring.coreos.com` where empty.
    pub group: String,
    /// `servicemonitors` or `podmonitors`.
    pub resource: String,
    pub namespace: String,
    pub name: String,
}

/// Settings of a fleet (or of an upstream `Prometheus`) that change what monitors become.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ScrapeSettings {
    /// Named scrape settings that monitors refer to.
    pub scrape_classes: Vec<ScrapeClass>,
    /// Pod labels that every target gets.
    pub pod_target_labels: Vec<String>,
    /// A label that always holds the monitor's namespace, whatever targets and relabelling say.
    pub enforced_namespace_label: String,
    /// Monitors to which the enforced namespace label does not apply.
    pub excluded_from_enforcement: Vec<ObjectReference>,
    /// Monitors select only in their own namespaces.
    pub ignore_namespace_selectors: bool,
    /// `honorLabels` of monitors has no effect.
    pub override_honor_labels: bool,
    /// `honorTimestamps` of monitors has no effect.
    pub override_honor_timestamps: bool,
    /// Labels of Services' targets are named after `Endpoints` (the default, as upstream) or `EndpointSlice`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_discovery_role: Option<String>,
    /// Most samples of one scrape: beyond it the scrape fails. Limits of monitors may be lower, as for all of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforced_sample_limit: Option<i64>,
    /// Most targets of one monitor endpoint: beyond it none of them is scraped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforced_target_limit: Option<i64>,
    /// Most labels of a sample: beyond it the scrape fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforced_label_limit: Option<i64>,
    /// The longest name of a label, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforced_label_name_length_limit: Option<i64>,
    /// The longest value of a label, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforced_label_value_length_limit: Option<i64>,
    /// Most targets of an endpoint that are kept, for display, after relabelling dropped them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforced_keep_dropped_targets: Option<i64>,
    /// Most series of one monitor on each shard, whatever its own annotation says: beyond it new ones are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforced_series_limit: Option<i64>,
    /// The same for each target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforced_target_series_limit: Option<i64>,
    /// The longest page of a target, unpacked, such as `10MB`: beyond it the scrape fails.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub enforced_body_size_limit: String,
    /// Monitors may not name files of the scraper's machine (tokens, certificates).
    #[serde(rename = "arbitraryFSAccessThroughSMs")]
    pub arbitrary_fs_access_through_sms: FsAccess,
}

/// Whether monitors may name files of the scraper's machine. Denied unless allowed here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FsAccess {
    /// False allows it: a monitor's files are then read in the shards' pods.
    pub deny: bool,
}

impl Default for FsAccess {
    fn default() -> Self {
        FsAccess { deny: true }
    }
}
