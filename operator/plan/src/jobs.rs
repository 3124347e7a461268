//! Monitors become scrape jobs: the entries of `scrape_configs` that prometheus-operator 0.93 writes for a
//! Prometheus 3.x, relabelling rules in its order (`pkg/prometheus/promcfg.go`), without its sharding rules.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use narthex_config::KubernetesRole;
use narthex_crds::monitoring::{
    AttachMetadata, Authorization, Endpoint, KeySelector, MonitorCommon, NamespaceSelector, OAuth2, PodMonitor,
    ProxyConfig, RelabelConfig, SERIES_LIMIT, ScrapeClass, ScrapeSettings, SecretOrConfigMap, ServiceMonitor,
    TARGET_SERIES_LIMIT, TlsConfig, series_limit,
};
use narthex_model::names::sanitize_label_name;
use serde_json::{Map, Value, json};

use crate::select;

/// A key of a Secret or ConfigMap, with its namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyRef {
    pub config_map: bool,
    pub namespace: String,
    pub name: String,
    pub key: String,
}

impl KeyRef {
    /// A text that stands for the value where the value itself must not be: in snapshots, on disk, in logs.
    pub fn placeholder(&self) -> String {
        let kind = if self.config_map { "configmap" } else { "secret" };
        format!("$({kind}:{}/{}/{})", self.namespace, self.name, self.key)
    }
}

/// How jobs hold what Secrets and ConfigMaps hold.
pub trait Values {
    /// The text that a job has in place of the key: its value, or a placeholder. `None` leaves the field out.
    fn text(&self, key: &KeyRef) -> Option<String>;

    /// Where a TLS file of that key is, if TLS material is mounted as files; otherwise it is put into the job.
    fn file(&self, key: &KeyRef) -> Option<String> {
        let _ = key;
        None
    }
}

/// Placeholders for everything: the shard puts the values in.
pub struct Placeholders;

impl Values for Placeholders {
    fn text(&self, key: &KeyRef) -> Option<String> {
        Some(key.placeholder())
    }
}

/// A scrape job of one endpoint of one monitor.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// `serviceMonitor/NAMESPACE/NAME/INDEX` or `podMonitor/…`.
    pub name: String,
    /// `Endpoints` (read from EndpointSlices), `EndpointSlice` or `Pod`.
    pub role: KubernetesRole,
    /// Where its objects are; `None`: in any namespace.
    pub namespaces: Option<Vec<String>>,
    /// With `selectorMechanism: RoleSelector`, what Services (and their slices) or Pods must match.
    pub selector: Option<LabelSelector>,
    pub attach_node: bool,
    /// An entry of `scrape_configs` without its `kubernetes_sd_configs`.
    pub config: Value,
    /// How many of the first relabelling rules look only at what all targets of a group share (the object's labels):
    /// a group that they drop has no target.
    pub group_rules: usize,
}

impl Job {
    /// The whole entry, as prometheus-operator prints it.
    pub fn export(&self) -> Value {
        let mut sd = json!({"role": self.role.as_str()});
        if let Some(names) = &self.namespaces {
            sd["namespaces"] = json!({"names": names});
        }
        if let Some(selector) = &self.selector {
            let label = select::text(selector);
            sd["selectors"] = match self.role {
                KubernetesRole::Pod => json!([{"role": "pod", "label": label}]),
                role => json!([{"role": role.as_str(), "label": label}, {"role": "service", "label": label}]),
            };
        }
        if self.attach_node {
            sd["attach_metadata"] = json!({"node": true});
        }
        let mut config = self.config.clone();
        config["kubernetes_sd_configs"] = json!([sd]);
        config
    }
}

/// Turns monitors into jobs under one fleet's settings.
pub struct Generator<'a> {
    pub settings: &'a ScrapeSettings,
    pub values: &'a dyn Values,
}

/// What a monitor is, for the parts that both kinds share.
struct Monitor<'a> {
    namespace: &'a str,
    name: &'a str,
    resource: &'static str,
    class: ScrapeClass,
    common: &'a MonitorCommon,
    /// Most series of it, and of each of its targets.
    series_limit: Option<i64>,
    target_series_limit: Option<i64>,
}

impl Generator<'_> {
    /// One job per endpoint.
    pub fn service_monitor(&self, monitor: &ServiceMonitor) -> Vec<Job> {
        let spec = &monitor.spec;
        let m = self.monitor(&monitor.metadata, "servicemonitors", &spec.common);
        let role = match spec.service_discovery_role.as_ref().or(self.settings.service_discovery_role.as_ref()) {
            Some(role) if role == "EndpointSlice" => KubernetesRole::EndpointSlice,
            _ => KubernetesRole::Endpoints,
        };
        let by_role = spec.selector_mechanism.as_deref() == Some("RoleSelector");
        let jobs = spec.endpoints.iter().enumerate().map(|(i, ep)| {
            let mut rules = vec![init_rule()];
            if !by_role {
                selector_rules(&mut rules, "service", &spec.selector);
            }
            let group_rules = rules.len();
            let port = ep.port.as_deref().unwrap_or_default();
            let kind = if role == KubernetesRole::EndpointSlice { "endpointslice" } else { "endpoint" };
            if port.is_empty() {
                target_port_rule(&mut rules, ep.target_port.as_ref());
            } else {
                rules.push(keep(&[&format!("__meta_kubernetes_{kind}_port_name")], port));
            }
            let address = [
                format!("__meta_kubernetes_{kind}_address_target_kind"),
                format!("__meta_kubernetes_{kind}_address_target_name"),
            ];
            for (object, label) in [("Node", "node"), ("Pod", "pod")] {
                rules.push(json!({"source_labels": address, "separator": ";", "regex": format!("{object};(.*)"),
                    "replacement": "${1}", "target_label": label}));
            }
            rules.push(copy("__meta_kubernetes_namespace", "namespace"));
            rules.push(copy("__meta_kubernetes_service_name", "service"));
            rules.push(copy("__meta_kubernetes_pod_name", "pod"));
            rules.push(copy("__meta_kubernetes_pod_container_name", "container"));
            if ep.filter_running != Some(false) {
                rules.push(running_filter());
            }
            for label in &spec.target_labels {
                rules.push(copy_nonempty("service", label, &sanitize_label_name(label)));
            }
            for label in spec.pod_target_labels.iter().chain(&self.settings.pod_target_labels) {
                rules.push(copy_nonempty("pod", label, &sanitize_label_name(label)));
            }
            rules.push(json!({"source_labels": ["__meta_kubernetes_service_name"], "target_label": "job",
                "replacement": "${1}"}));
            if !spec.job_label.is_empty() {
                rules.push(copy_nonempty("service", &spec.job_label, "job"));
            }
            endpoint_rule(&mut rules, port, ep.target_port.as_ref());
            let mut config = self.job(&m, format!("serviceMonitor/{}/{}/{i}", m.namespace, m.name), ep, rules);
            self.put_tls(&mut config, m.namespace, merge_tls(ep.tls_config.as_ref(), &m.class));
            self.finish(&m, config, role, &spec.namespace_selector, by_role.then(|| spec.selector.clone()), group_rules)
        });
        jobs.collect()
    }

    /// One job per endpoint.
    pub fn pod_monitor(&self, monitor: &PodMonitor) -> Vec<Job> {
        let spec = &monitor.spec;
        let m = self.monitor(&monitor.metadata, "podmonitors", &spec.common);
        let by_role = spec.selector_mechanism.as_deref() == Some("RoleSelector");
        let jobs = spec.pod_metrics_endpoints.iter().enumerate().map(|(i, ep)| {
            let mut rules = vec![init_rule()];
            if ep.filter_running != Some(false) {
                rules.push(running_filter());
            }
            if !by_role {
                selector_rules(&mut rules, "pod", &spec.selector);
            }
            let group_rules = rules.len();
            let port = ep.port.as_deref().unwrap_or_default();
            match ep.port_number {
                _ if !port.is_empty() => rules.push(keep(&["__meta_kubernetes_pod_container_port_name"], port)),
                Some(n) if n != 0 => {
                    rules.push(keep(&["__meta_kubernetes_pod_container_port_number"], &n.to_string()));
                }
                _ => target_port_rule(&mut rules, ep.target_port.as_ref()),
            }
            rules.push(copy("__meta_kubernetes_namespace", "namespace"));
            rules.push(copy("__meta_kubernetes_pod_container_name", "container"));
            rules.push(copy("__meta_kubernetes_pod_name", "pod"));
            for label in spec.pod_target_labels.iter().chain(&self.settings.pod_target_labels) {
                rules.push(copy_nonempty("pod", label, &sanitize_label_name(label)));
            }
            rules.push(json!({"target_label": "job", "replacement": format!("{}/{}", m.namespace, m.name)}));
            if !spec.job_label.is_empty() {
                rules.push(copy_nonempty("pod", &spec.job_label, "job"));
            }
            endpoint_rule(&mut rules, port, ep.target_port.as_ref());
            let mut config = self.job(&m, format!("podMonitor/{}/{}/{i}", m.namespace, m.name), ep, rules);
            // A PodMonitor's empty tlsConfig counts as none; a ServiceMonitor's does not.
            let tls = ep.tls_config.as_ref().filter(|t| **t != TlsConfig::default());
            self.put_tls(&mut config, m.namespace, merge_tls(tls, &m.class));
            let selector = by_role.then(|| spec.selector.clone());
            self.finish(&m, config, KubernetesRole::Pod, &spec.namespace_selector, selector, group_rules)
        });
        jobs.collect()
    }

    fn monitor<'m>(&self, metadata: &'m ObjectMeta, resource: &'static str, common: &'m MonitorCommon) -> Monitor<'m> {
        let classes = &self.settings.scrape_classes;
        let named = common.scrape_class.as_ref().and_then(|n| classes.iter().find(|c| c.name == *n));
        let class = named.or_else(|| classes.iter().find(|c| c.is_default == Some(true))).cloned().unwrap_or_default();
        // What is not a number was refused by the checker.
        let budget = |annotation| series_limit(metadata, annotation).ok().flatten();
        Monitor {
            namespace: metadata.namespace.as_deref().unwrap_or_default(),
            name: metadata.name.as_deref().unwrap_or_default(),
            resource,
            class,
            common,
            series_limit: budget(SERIES_LIMIT),
            target_series_limit: budget(TARGET_SERIES_LIMIT),
        }
    }

    /// What both kinds have alike; `rules` are those before the scrape class's.
    fn job(&self, m: &Monitor<'_>, name: String, ep: &Endpoint, mut rules: Vec<Value>) -> Map<String, Value> {
        let s = self.settings;
        let mut c = Map::new();
        let owner = name.rsplit_once('/').map(|n| n.0.to_owned());
        put(&mut c, "job_name", name);
        put(&mut c, "honor_labels", ep.honor_labels && !s.override_honor_labels);
        if ep.honor_timestamps.is_some() || s.override_honor_timestamps {
            put(&mut c, "honor_timestamps", ep.honor_timestamps == Some(true) && !s.override_honor_timestamps);
        }
        put_some(&mut c, "track_timestamps_staleness", ep.track_timestamps_staleness);
        put_text(&mut c, "scrape_interval", &ep.interval);
        put_text(&mut c, "scrape_timeout", &ep.scrape_timeout);
        put_text(&mut c, "metrics_path", &ep.path);
        if !ep.params.is_empty() {
            put(&mut c, "params", json!(ep.params));
        }
        // The API writes schemes in either case.
        put_some(&mut c, "scheme", ep.scheme.as_ref().filter(|s| !s.is_empty()).map(|s| s.to_lowercase()));
        put_some(&mut c, "follow_redirects", ep.follow_redirects);
        put_some(&mut c, "enable_http2", ep.enable_http2);
        self.put_proxy(&mut c, m.namespace, &ep.proxy);
        self.put_oauth2(&mut c, m.namespace, ep.oauth2.as_ref());
        put_text(&mut c, "bearer_token_file", &ep.bearer_token_file);
        if let Some(secret) = ep.bearer_token_secret.as_ref().filter(|s| !s.name.is_empty()) {
            put_some(&mut c, "bearer_token", self.secret(m.namespace, secret));
        }
        if let Some(auth) = &ep.basic_auth {
            let username = self.secret(m.namespace, &auth.username).unwrap_or_default();
            let password = self.secret(m.namespace, &auth.password).unwrap_or_default();
            put(&mut c, "basic_auth", json!({"username": username, "password": password}));
        }
        self.put_authorization(&mut c, m.namespace, merge_authorization(ep.authorization.as_ref(), &m.class));

        let enforced = self.enforced_namespace_rule(m);
        rules.extend(m.class.relabelings.iter().chain(&ep.relabelings).map(rule));
        rules.extend(enforced.clone());
        put(&mut c, "relabel_configs", rules);

        let limits = [
            ("sample_limit", m.common.sample_limit, s.enforced_sample_limit),
            ("target_limit", m.common.target_limit, s.enforced_target_limit),
            ("label_limit", m.common.label_limit, s.enforced_label_limit),
            ("label_name_length_limit", m.common.label_name_length_limit, s.enforced_label_name_length_limit),
            ("label_value_length_limit", m.common.label_value_length_limit, s.enforced_label_value_length_limit),
            ("keep_dropped_targets", m.common.keep_dropped_targets, s.enforced_keep_dropped_targets),
            ("series_limit", m.target_series_limit, s.enforced_target_series_limit),
            ("job_series_limit", m.series_limit, s.enforced_series_limit),
        ];
        if m.series_limit.or(s.enforced_series_limit).is_some_and(|l| l > 0) {
            // All endpoints of the monitor share it.
            put_some(&mut c, "series_limit_owner", owner);
        }
        for (key, user, enforced) in limits {
            put_some(&mut c, key, limit(user, enforced));
        }
        put_some(&mut c, "scrape_native_histograms", m.common.scrape_native_histograms);
        put_some(&mut c, "native_histogram_bucket_limit", m.common.native_histogram_bucket_limit);
        let factor = m.common.native_histogram_min_bucket_factor.as_ref().and_then(quantity);
        put_some(&mut c, "native_histogram_min_bucket_factor", factor);
        put_some(&mut c, "always_scrape_classic_histograms", m.common.scrape_classic_histograms);
        put_some(&mut c, "convert_classic_histograms_to_nhcb", m.common.convert_classic_histograms_to_nhcb);
        if !m.common.scrape_protocols.is_empty() {
            put(&mut c, "scrape_protocols", json!(m.common.scrape_protocols));
        }
        let fallback = m.common.fallback_scrape_protocol.as_ref().or(m.class.fallback_scrape_protocol.as_ref());
        put_some(&mut c, "fallback_scrape_protocol", fallback.cloned());
        put_some(
            &mut c,
            "body_size_limit",
            lower_size(m.common.body_size_limit.as_deref(), &s.enforced_body_size_limit),
        );

        let mut metric: Vec<Value> =
            m.class.metric_relabelings.iter().chain(&ep.metric_relabelings).map(rule).collect();
        metric.extend(enforced);
        if !metric.is_empty() {
            put(&mut c, "metric_relabel_configs", metric);
        }
        c
    }

    fn finish(
        &self,
        m: &Monitor<'_>,
        config: Map<String, Value>,
        role: KubernetesRole,
        namespaces: &NamespaceSelector,
        selector: Option<LabelSelector>,
        group_rules: usize,
    ) -> Job {
        let own = || Some(vec![m.namespace.to_owned()]);
        let namespaces = match namespaces {
            _ if self.settings.ignore_namespace_selectors => own(),
            n if n.any => None,
            n if n.match_names.is_empty() => own(),
            n => Some(n.match_names.clone()),
        };
        let attach = m.common.attach_metadata.as_ref().or(m.class.attach_metadata.as_ref());
        Job {
            name: config.get("job_name").and_then(Value::as_str).unwrap_or_default().to_owned(),
            role,
            namespaces,
            selector,
            attach_node: attach.and_then(|a: &AttachMetadata| a.node).unwrap_or(false),
            config: Value::Object(config),
            group_rules,
        }
    }

    fn enforced_namespace_rule(&self, m: &Monitor<'_>) -> Option<Value> {
        let label = &self.settings.enforced_namespace_label;
        let excluded = self.settings.excluded_from_enforcement.iter().any(|r| {
            (r.group.is_empty() || r.group == narthex_crds::monitoring::GROUP)
                && r.resource == m.resource
                && r.namespace == m.namespace
                && (r.name.is_empty() || r.name == m.name)
        });
        (!label.is_empty() && !excluded).then(|| json!({"target_label": label, "replacement": m.namespace}))
    }

    fn secret(&self, namespace: &str, key: &KeySelector) -> Option<String> {
        self.values.text(&key_ref(namespace, key, false))
    }

    fn put_authorization(&self, c: &mut Map<String, Value>, namespace: &str, auth: Option<Authorization>) {
        let Some(auth) = auth else { return };
        let scheme = auth.scheme.trim();
        let mut out = Map::new();
        put(&mut out, "type", if scheme.is_empty() { "Bearer" } else { scheme });
        if let Some(key) = &auth.credentials {
            put_some(&mut out, "credentials", self.secret(namespace, key));
        }
        put_text(&mut out, "credentials_file", &auth.credentials_file);
        put(c, "authorization", out);
    }

    fn put_proxy(&self, c: &mut Map<String, Value>, namespace: &str, proxy: &ProxyConfig) {
        put_some(c, "proxy_url", proxy.proxy_url.clone());
        put_some(c, "no_proxy", proxy.no_proxy.clone());
        put_some(c, "proxy_from_environment", proxy.proxy_from_environment);
        if let Some(headers) = &proxy.proxy_connect_header {
            let headers: BTreeMap<&str, Vec<String>> = headers
                .iter()
                .map(|(k, keys)| {
                    (k.as_str(), keys.iter().map(|s| self.secret(namespace, s).unwrap_or_default()).collect())
                })
                .collect();
            put(c, "proxy_connect_header", json!(headers));
        }
    }

    fn put_oauth2(&self, c: &mut Map<String, Value>, namespace: &str, oauth2: Option<&OAuth2>) {
        let Some(o) = oauth2 else { return };
        let id = key_of(namespace, &o.client_id).and_then(|k| self.values.text(&k));
        let (Some(id), Some(secret)) = (id, self.secret(namespace, &o.client_secret)) else { return };
        let mut out = Map::new();
        put(&mut out, "client_id", id);
        put(&mut out, "client_secret", secret);
        put(&mut out, "token_url", o.token_url.as_str());
        if !o.scopes.is_empty() {
            put(&mut out, "scopes", json!(o.scopes));
        }
        if !o.endpoint_params.is_empty() {
            put(&mut out, "endpoint_params", json!(o.endpoint_params));
        }
        self.put_proxy(&mut out, namespace, &o.proxy);
        self.put_tls(&mut out, namespace, o.tls_config.clone());
        put(c, "oauth2", out);
    }

    fn put_tls(&self, c: &mut Map<String, Value>, namespace: &str, tls: Option<TlsConfig>) {
        let Some(tls) = tls else { return };
        let mut out = Map::new();
        put_some(&mut out, "insecure_skip_verify", tls.insecure_skip_verify);
        let secret = tls.key_secret.as_ref().map(|k| key_ref(namespace, k, false));
        for (name, key) in [("ca", key_of(namespace, &tls.ca)), ("cert", key_of(namespace, &tls.cert)), ("key", secret)]
        {
            let Some(key) = key else { continue };
            match self.values.file(&key) {
                Some(file) => put(&mut out, &format!("{name}_file"), file),
                None => put_some(&mut out, name, self.values.text(&key)),
            }
        }
        put_some(&mut out, "server_name", tls.server_name.filter(|s| !s.is_empty()));
        put_some(&mut out, "min_version", tls.min_version);
        put_some(&mut out, "max_version", tls.max_version);
        put_text(&mut out, "ca_file", &tls.ca_file);
        put_text(&mut out, "cert_file", &tls.cert_file);
        put_text(&mut out, "key_file", &tls.key_file);
        put(c, "tls_config", out);
    }
}

/// All keys that an endpoint refers to, in the monitor's namespace.
pub fn references(namespace: &str, ep: &Endpoint) -> Vec<KeyRef> {
    /// Notes what is asked for.
    struct Seen(std::cell::RefCell<Vec<KeyRef>>);
    impl Values for Seen {
        fn text(&self, key: &KeyRef) -> Option<String> {
            self.0.borrow_mut().push(key.clone());
            Some(String::new())
        }
    }
    let seen = Seen(Default::default());
    let generator = Generator { settings: &ScrapeSettings::default(), values: &seen };
    let common = MonitorCommon::default();
    let metadata = ObjectMeta { namespace: Some(namespace.to_owned()), ..ObjectMeta::default() };
    let m = generator.monitor(&metadata, "", &common);
    let mut config = generator.job(&m, String::new(), ep, Vec::new());
    generator.put_tls(&mut config, namespace, ep.tls_config.clone());
    let mut keys = seen.0.into_inner();
    keys.retain(|k| !k.name.is_empty());
    keys.sort();
    keys.dedup();
    keys
}

fn key_ref(namespace: &str, key: &KeySelector, config_map: bool) -> KeyRef {
    KeyRef { config_map, namespace: namespace.to_owned(), name: key.name.clone(), key: key.key.clone() }
}

pub(crate) fn key_of(namespace: &str, from: &SecretOrConfigMap) -> Option<KeyRef> {
    match (&from.secret, &from.config_map) {
        (Some(s), _) => Some(key_ref(namespace, s, false)),
        (None, Some(c)) => Some(key_ref(namespace, c, true)),
        (None, None) => None,
    }
}

fn put(c: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    c.insert(key.to_owned(), value.into());
}

fn put_some<T: Into<Value>>(c: &mut Map<String, Value>, key: &str, value: Option<T>) {
    if let Some(value) = value {
        put(c, key, value);
    }
}

fn put_text(c: &mut Map<String, Value>, key: &str, value: &str) {
    if !value.is_empty() {
        put(c, key, value);
    }
}

fn init_rule() -> Value {
    copy("job", "__tmp_prometheus_job_name")
}

fn keep(labels: &[&str], regex: &str) -> Value {
    json!({"action": "keep", "source_labels": labels, "regex": regex})
}

fn copy(from: &str, to: &str) -> Value {
    json!({"source_labels": [from], "target_label": to})
}

fn copy_nonempty(object: &str, label: &str, to: &str) -> Value {
    json!({"source_labels": [format!("__meta_kubernetes_{object}_label_{}", sanitize_label_name(label))], "target_label": to,
        "regex": "(.+)", "replacement": "${1}"})
}

fn running_filter() -> Value {
    json!({"action": "drop", "source_labels": ["__meta_kubernetes_pod_phase"], "regex": "(Failed|Succeeded)"})
}

fn selector_rules(rules: &mut Vec<Value>, object: &str, selector: &LabelSelector) {
    let label = |k: &str| format!("__meta_kubernetes_{object}_label_{}", sanitize_label_name(k));
    let present = |k: &str| format!("__meta_kubernetes_{object}_labelpresent_{}", sanitize_label_name(k));
    for (k, v) in selector.match_labels.iter().flatten() {
        rules.push(keep(&[&label(k), &present(k)], &format!("({v});true")));
    }
    for e in selector.match_expressions.iter().flatten() {
        let action = if matches!(e.operator.as_str(), "In" | "Exists") { "keep" } else { "drop" };
        rules.push(match e.operator.as_str() {
            "In" | "NotIn" => {
                let values = e.values.as_deref().unwrap_or_default().join("|");
                json!({"action": action, "source_labels": [label(&e.key), present(&e.key)],
                    "regex": format!("({values});true")})
            }
            _ => json!({"action": action, "source_labels": [present(&e.key)], "regex": "true"}),
        });
    }
}

fn target_port_rule(rules: &mut Vec<Value>, port: Option<&IntOrString>) {
    match port {
        Some(IntOrString::String(s)) if !s.is_empty() => {
            rules.push(keep(&["__meta_kubernetes_pod_container_port_name"], s));
        }
        Some(IntOrString::Int(n)) if *n != 0 => {
            rules.push(keep(&["__meta_kubernetes_pod_container_port_number"], &n.to_string()));
        }
        _ => {}
    }
}

fn endpoint_rule(rules: &mut Vec<Value>, port: &str, target_port: Option<&IntOrString>) {
    let text = match target_port {
        _ if !port.is_empty() => port.to_owned(),
        Some(IntOrString::String(s)) => s.clone(),
        Some(IntOrString::Int(n)) => n.to_string(),
        None => return,
    };
    if !text.is_empty() {
        rules.push(json!({"target_label": "endpoint", "replacement": text}));
    }
}

fn rule(r: &RelabelConfig) -> Value {
    let mut out = Map::new();
    if !r.source_labels.is_empty() {
        put(&mut out, "source_labels", json!(r.source_labels));
    }
    put_some(&mut out, "separator", r.separator.clone());
    put_text(&mut out, "target_label", &r.target_label);
    put_text(&mut out, "regex", &r.regex);
    if r.modulus != 0 {
        put(&mut out, "modulus", r.modulus);
    }
    put_some(&mut out, "replacement", r.replacement.clone());
    put_text(&mut out, "action", &r.action.to_lowercase());
    Value::Object(out)
}

/// The smaller of both; an enforced limit on a monitor without one comes from the global section.
fn limit(user: Option<i64>, enforced: Option<i64>) -> Option<i64> {
    match (user, enforced.unwrap_or(0)) {
        (user, 0) => user,
        (None | Some(0), _) => None,
        (Some(user), enforced) => Some(user.min(enforced)),
    }
}

fn lower_size(user: Option<&str>, enforced: &str) -> Option<String> {
    let user = user.filter(|u| !u.is_empty());
    match (user, enforced) {
        (user, "") => user.map(str::to_owned),
        (None, enforced) => Some(enforced.to_owned()),
        (Some(user), enforced) => {
            let smaller = if size(user) > size(enforced) { enforced } else { user };
            Some(smaller.to_owned())
        }
    }
}

/// Bytes of a size such as `10MB` (base 2, as Prometheus reads sizes); 0 where it is none.
fn size(text: &str) -> u64 {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let power = match unit.chars().next() {
        Some('K' | 'k') => 1,
        Some('M') => 2,
        Some('G') => 3,
        Some('T') => 4,
        Some('P') => 5,
        Some('E') => 6,
        _ => 0,
    };
    number.parse::<f64>().map_or(0, |n| (n * 1024f64.powi(power)) as u64)
}

/// A Kubernetes quantity as a number.
fn quantity(value: &Value) -> Option<f64> {
    if let Some(n) = value.as_f64() {
        return Some(n);
    }
    let text = value.as_str()?;
    let scales = [
        ("Ki", 1024.0),
        ("Mi", 1048576.0),
        ("Gi", 1073741824.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
    ];
    for (suffix, scale) in scales {
        if let Some(number) = text.strip_suffix(suffix) {
            return number.parse::<f64>().ok().map(|n| n * scale);
        }
    }
    text.parse().ok()
}

fn merge_authorization(auth: Option<&Authorization>, class: &ScrapeClass) -> Option<Authorization> {
    let Some(auth) = auth.filter(|a| **a != Authorization::default()) else { return class.authorization.clone() };
    let mut auth = auth.clone();
    if let Some(from) = &class.authorization {
        if auth.credentials.is_none() {
            auth.credentials = from.credentials.clone();
        }
        if auth.credentials.is_none() && auth.credentials_file.is_empty() {
            auth.credentials_file = from.credentials_file.clone();
        }
    }
    Some(auth)
}

fn merge_tls(tls: Option<&TlsConfig>, class: &ScrapeClass) -> Option<TlsConfig> {
    let Some(tls) = tls else { return class.tls_config.clone() };
    let mut tls = tls.clone();
    if let Some(from) = &class.tls_config {
        if tls.ca_file.is_empty() && tls.ca == SecretOrConfigMap::default() {
            tls.ca_file = from.ca_file.clone();
        }
        if tls.cert_file.is_empty() && tls.cert == SecretOrConfigMap::default() {
            tls.cert_file = from.cert_file.clone();
        }
        if tls.key_file.is_empty() && tls.key_secret.is_none() {
            tls.key_file = from.key_file.clone();
        }
    }
    Some(tls)
}
