//! Whether a monitor is acceptable, with the verdicts of prometheus-operator's resource selector for Prometheus 3.x.
//! A monitor that is not is left out as a whole, and nothing else is.
//!
//! Not checked: whether a certificate belongs to its key.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use narthex_config::wire;
use narthex_crds::monitoring::{
    Endpoint, OAuth2, PodMonitor, ProxyConfig, RelabelConfig, SERIES_LIMIT, ScrapeSettings, SecretOrConfigMap,
    ServiceMonitor, TARGET_SERIES_LIMIT, TlsConfig, series_limit,
};
use narthex_model::duration;
use regex::Regex;

use crate::jobs::{Generator, Job, KeyRef, Values, key_of, references};
use crate::select;

/// What monitors are checked against.
pub struct Checker<'a> {
    pub settings: &'a ScrapeSettings,
    /// The interval of endpoints that set none.
    pub scrape_interval: &'a str,
    /// The value of a key; `Err` says why there is none, in words.
    pub lookup: &'a dyn Fn(&KeyRef) -> Result<String, String>,
}

impl Checker<'_> {
    /// # Errors
    /// Why the monitor is refused, naming the endpoint and the field.
    pub fn service_monitor(&self, monitor: &ServiceMonitor) -> Result<(), String> {
        let spec = &monitor.spec;
        let namespace = monitor.metadata.namespace.as_deref().unwrap_or_default();
        select::invalid(&spec.selector).map_or(Ok(()), Err)?;
        for (i, ep) in spec.endpoints.iter().enumerate() {
            self.endpoint(namespace, ep, false).map_err(|e| format!("endpoints[{i}]: {e}"))?;
        }
        self.no_forgery(|g| g.service_monitor(monitor))?;
        budgets(&monitor.metadata)?;
        self.class(spec.common.scrape_class.as_deref())
    }

    /// # Errors
    /// As [`Checker::service_monitor`].
    pub fn pod_monitor(&self, monitor: &PodMonitor) -> Result<(), String> {
        let spec = &monitor.spec;
        let namespace = monitor.metadata.namespace.as_deref().unwrap_or_default();
        select::invalid(&spec.selector).map_or(Ok(()), Err)?;
        for (i, ep) in spec.pod_metrics_endpoints.iter().enumerate() {
            self.endpoint(namespace, ep, true).map_err(|e| format!("podMetricsEndpoints[{i}]: {e}"))?;
        }
        self.no_forgery(|g| g.pod_monitor(monitor))?;
        budgets(&monitor.metadata)?;
        self.class(spec.common.scrape_class.as_deref())
    }

    /// What jobs hold besides references must not look like one: the shard would put in what another namespace's
    /// monitor refers to.
    fn no_forgery(&self, jobs: impl FnOnce(&Generator<'_>) -> Vec<Job>) -> Result<(), String> {
        struct Blank;
        impl Values for Blank {
            fn text(&self, _: &KeyRef) -> Option<String> {
                Some(String::new())
            }
        }
        let jobs = jobs(&Generator { settings: self.settings, values: &Blank });
        match jobs.iter().find_map(|j| wire::placeholder_in(&j.config)) {
            Some(text) => Err(format!("{text:?} would be taken for a reference to a Secret or ConfigMap")),
            None => Ok(()),
        }
    }

    fn class(&self, class: Option<&str>) -> Result<(), String> {
        match class {
            Some(name) if !name.is_empty() && !self.settings.scrape_classes.iter().any(|c| c.name == name) => {
                Err(format!("scrapeClass {name:?} not found in the fleet's scrapeClasses"))
            }
            _ => Ok(()),
        }
    }

    fn endpoint(&self, namespace: &str, ep: &Endpoint, safe: bool) -> Result<(), String> {
        if self.settings.arbitrary_fs_access_through_sms.deny {
            deny_files(ep)?;
        }
        one_credential(ep)?;
        if let Some(auth) = &ep.authorization
            && auth.scheme.trim().eq_ignore_ascii_case("basic")
        {
            return Err("authorization: type cannot be Basic, use basicAuth instead".to_owned());
        }
        if let Some(o) = &ep.oauth2 {
            oauth2(o).map_err(|e| format!("oauth2: {e}"))?;
        }
        if let Some(t) = &ep.tls_config {
            tls(t, safe).map_err(|e| format!("tlsConfig: {e}"))?;
        }
        proxy(&ep.proxy)?;
        for key in references(namespace, ep) {
            (self.lookup)(&key)?;
        }
        if let Some(t) = &ep.tls_config {
            self.pem(namespace, t).map_err(|e| format!("tlsConfig: {e}"))?;
        }
        if !ep.scrape_timeout.is_empty() {
            let interval = if ep.interval.is_empty() { self.scrape_interval } else { &ep.interval };
            let i = duration::parse(interval).map_err(|_| format!("invalid scrapeInterval {interval:?}"))?;
            let t = duration::parse(&ep.scrape_timeout)
                .map_err(|_| format!("invalid scrapeTimeout {:?}", ep.scrape_timeout))?;
            if t > i {
                return Err(format!("scrapeTimeout {:?} greater than scrapeInterval {interval:?}", ep.scrape_timeout));
            }
        }
        if !ep.interval.is_empty() && duration::parse(&ep.interval).is_err() {
            return Err(format!("invalid interval {:?}", ep.interval));
        }
        relabel(&ep.relabelings).map_err(|e| format!("relabelings{e}"))?;
        relabel(&ep.metric_relabelings).map_err(|e| format!("metricRelabelings{e}"))
    }

    /// Certificates and keys must look like PEM.
    fn pem(&self, namespace: &str, t: &TlsConfig) -> Result<(), String> {
        let secret = t.key_secret.as_ref().map(|k| SecretOrConfigMap { secret: Some(k.clone()), config_map: None });
        for from in [Some(&t.ca), Some(&t.cert), secret.as_ref()].into_iter().flatten() {
            if let Some(key) = key_of(namespace, from) {
                let text = (self.lookup)(&key)?;
                // A fleet that only knows references can't look inside.
                if text != key.placeholder() && !text.contains("-----BEGIN ") {
                    return Err(format!("{} of {}/{} is not PEM", key.key, key.namespace, key.name));
                }
            }
        }
        Ok(())
    }
}

fn budgets(metadata: &ObjectMeta) -> Result<(), String> {
    [SERIES_LIMIT, TARGET_SERIES_LIMIT].iter().try_for_each(|a| series_limit(metadata, a).map(drop))
}

/// A shard's files are the fleet's: its token, and the credentials of other namespaces' monitors.
fn deny_files(ep: &Endpoint) -> Result<(), String> {
    let of_tls = |tls: Option<&TlsConfig>| {
        tls.is_some_and(|t| [&t.ca_file, &t.cert_file, &t.key_file].iter().any(|f| !f.is_empty()))
    };
    let by = [
        ("bearerTokenFile", !ep.bearer_token_file.is_empty()),
        ("tlsConfig", of_tls(ep.tls_config.as_ref())),
        ("authorization", ep.authorization.as_ref().is_some_and(|a| !a.credentials_file.is_empty())),
        ("oauth2", of_tls(ep.oauth2.as_ref().and_then(|o| o.tls_config.as_ref()))),
    ];
    match by.iter().find(|(_, files)| *files) {
        Some((field, _)) => Err(format!("it accesses the file system via {field}, which the fleet prohibits")),
        None => Ok(()),
    }
}

fn one_credential(ep: &Endpoint) -> Result<(), String> {
    let given: Vec<&str> = [
        ("authorization", ep.authorization.is_some()),
        ("basicAuth", ep.basic_auth.is_some()),
        ("bearerTokenSecret", ep.bearer_token_secret.as_ref().is_some_and(|b| !b.name.is_empty() || !b.key.is_empty())),
        ("oauth2", ep.oauth2.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, given)| given.then_some(name))
    .collect();
    match given[..] {
        [a, b, ..] => Err(format!("{a} and {b} cannot be configured at the same time")),
        _ => Ok(()),
    }
}

fn oauth2(o: &OAuth2) -> Result<(), String> {
    if o.token_url.is_empty() {
        return Err("tokenUrl must be specified".to_owned());
    }
    if o.client_id == SecretOrConfigMap::default() {
        return Err("clientId must be specified".to_owned());
    }
    either(&o.client_id).map_err(|e| format!("clientId: {e}"))?;
    if let Some(t) = &o.tls_config {
        tls(t, true).map_err(|e| format!("tlsConfig: {e}"))?;
    }
    proxy(&o.proxy)
}

fn either(from: &SecretOrConfigMap) -> Result<(), String> {
    if from.secret.is_some() && from.config_map.is_some() {
        return Err("cannot specify both secret and configMap".to_owned());
    }
    Ok(())
}

fn tls(t: &TlsConfig, safe: bool) -> Result<(), String> {
    either(&t.ca).map_err(|e| format!("ca: {e}"))?;
    either(&t.cert).map_err(|e| format!("cert: {e}"))?;
    if let (Some(min), Some(max)) = (&t.min_version, &t.max_version)
        && max < min
    {
        return Err("maxVersion must be at least minVersion".to_owned());
    }
    let set = |from: &SecretOrConfigMap| *from != SecretOrConfigMap::default();
    if !safe {
        for (name, both) in [
            ("ca", set(&t.ca) && !t.ca_file.is_empty()),
            ("cert", set(&t.cert) && !t.cert_file.is_empty()),
            ("key", t.key_secret.is_some() && !t.key_file.is_empty()),
        ] {
            if both {
                return Err(format!("{name} and {name}File cannot be configured at the same time"));
            }
        }
    }
    let cert = set(&t.cert) || (!safe && !t.cert_file.is_empty());
    let key = t.key_secret.is_some() || (!safe && !t.key_file.is_empty());
    match (cert, key) {
        (true, false) => Err("client certificate without client key".to_owned()),
        (false, true) => Err("client key without client certificate".to_owned()),
        _ => Ok(()),
    }
}

fn proxy(p: &ProxyConfig) -> Result<(), String> {
    let environment = p.proxy_from_environment == Some(true);
    let url = p.proxy_url.as_deref().is_some_and(|u| !u.is_empty());
    let no_proxy = p.no_proxy.as_deref().is_some_and(|n| !n.is_empty());
    let headers = p.proxy_connect_header.iter().flatten();
    if headers.clone().next().is_some() && !environment && !url {
        return Err("proxyConnectHeader needs proxyUrl or proxyFromEnvironment".to_owned());
    }
    if environment && url {
        return Err("proxyFromEnvironment and proxyUrl cannot be configured at the same time".to_owned());
    }
    if environment && no_proxy {
        return Err("proxyFromEnvironment and noProxy cannot be configured at the same time".to_owned());
    }
    if !url && no_proxy {
        return Err("noProxy needs proxyUrl".to_owned());
    }
    for (name, keys) in headers {
        if keys.is_empty() || keys.iter().any(|k| k.name.is_empty() && k.key.is_empty()) {
            return Err(format!("proxyConnectHeader[{name}]: selector must not be empty"));
        }
    }
    match p.proxy_url.as_deref() {
        Some(url) if url.contains(|c: char| c.is_control() || " \"<>\\^`{|}".contains(c)) => {
            Err(format!("proxyUrl {url:?} is not a URL"))
        }
        _ => Ok(()),
    }
}

/// # Errors
/// `[INDEX]: why` of the first rule that Prometheus 3.x would refuse.
pub fn relabel(rules: &[RelabelConfig]) -> Result<(), String> {
    for (i, r) in rules.iter().enumerate() {
        one_rule(r).map_err(|e| format!("[{i}]: {e}"))?;
    }
    Ok(())
}

fn one_rule(r: &RelabelConfig) -> Result<(), String> {
    let action = if r.action.is_empty() { "replace".to_owned() } else { r.action.to_lowercase() };
    let action = action.as_str();
    let known = [
        "replace",
        "keep",
        "drop",
        "hashmod",
        "labelmap",
        "labeldrop",
        "labelkeep",
        "lowercase",
        "uppercase",
        "keepequal",
        "dropequal",
    ];
    if !known.contains(&action) {
        return Err(format!("unknown relabel action {:?}", r.action));
    }
    if let Err(error) = Regex::new(&format!("^(?s:{})$", r.regex)) {
        return Err(format!("invalid regex {:?}: {error}", r.regex));
    }
    if action == "hashmod" && r.modulus == 0 {
        return Err("hashmod requires a non-zero modulus".to_owned());
    }
    let equal = matches!(action, "keepequal" | "dropequal");
    let case = matches!(action, "lowercase" | "uppercase");
    if (matches!(action, "replace" | "hashmod") || equal || case) && r.target_label.is_empty() {
        return Err(format!("{action} needs targetLabel"));
    }
    let custom = r.replacement.as_deref().is_some_and(|x| x != "$1");
    if (equal || case) && custom {
        return Err(format!("replacement can not be set for {action}"));
    }
    // Prometheus 3 takes any UTF-8 text but the empty one as a label name.
    if action == "labelmap" && r.replacement.as_deref() == Some("") {
        return Err("\"\" is an invalid replacement for labelmap".to_owned());
    }
    let separator = r.separator.as_deref().is_some_and(|s| s != ";");
    if equal && ((!r.regex.is_empty() && r.regex != "(.*)") || r.modulus != 0 || separator || custom) {
        return Err(format!("{action} takes only sourceLabels and targetLabel"));
    }
    if matches!(action, "labeldrop" | "labelkeep")
        && (!r.source_labels.is_empty() || !r.target_label.is_empty() || r.modulus != 0 || separator || custom)
    {
        return Err(format!("{action} takes only regex"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What is said of a monitor of either kind with this endpoint; `Ok` where both are accepted.
    fn verdict(settings: &ScrapeSettings, endpoint: &Value) -> Result<(), String> {
        let lookup = |key: &KeyRef| match key.key.as_str() {
            "missing" => Err("no such key".to_owned()),
            "pem" => Ok("-----BEGIN CERTIFICATE-----".to_owned()),
            _ => Ok("text".to_owned()),
        };
        let checker = Checker { settings, scrape_interval: "30s", lookup: &lookup };
        let object = |kind: &str, endpoints: &str| {
            json!({"apiVersion": "monitoring.coreos.com/v1", "kind": kind, "metadata": {"name": "m", "namespace": "n"},
                "spec": {"selector": {}, endpoints: [endpoint]}})
        };
        let service = serde_json::from_value(object("ServiceMonitor", "endpoints")).unwrap();
        let pod = serde_json::from_value(object("PodMonitor", "podMetricsEndpoints")).unwrap();
        checker.service_monitor(&service)?;
        checker.pod_monitor(&pod)
    }

    #[test]
    fn endpoints() {
        let key = |name: &str| json!({"name": "s", "key": name});
        for (endpoint, expected) in [
            (json!({"port": "web", "interval": "1m30s", "scrapeTimeout": "30s"}), None),
            (json!({"basicAuth": {"username": key("u"), "password": key("p")}}), None),
            (json!({"basicAuth": {"username": key("u"), "password": key("missing")}}), Some("no such key")),
            (
                json!({"basicAuth": {"username": key("u"), "password": key("p")}, "authorization": {}}),
                Some("authorization and basicAuth cannot be configured at the same time"),
            ),
            (json!({"authorization": {"type": "Basic"}}), Some("use basicAuth instead")),
            (json!({"oauth2": {"clientId": {"secret": key("i")}}}), Some("tokenUrl must be specified")),
            (json!({"tlsConfig": {"ca": {"secret": key("pem")}}}), None),
            (json!({"tlsConfig": {"ca": {"secret": key("ca")}}}), Some("ca of n/s is not PEM")),
            (json!({"tlsConfig": {"keySecret": key("pem")}}), Some("client key without client certificate")),
            (json!({"scrapeTimeout": "31s"}), Some("greater than scrapeInterval \"30s\"")),
            (json!({"interval": "1m1h"}), Some("invalid interval")),
            (json!({"noProxy": "x"}), Some("noProxy needs proxyUrl")),
            (json!({"relabelings": [{"action": "Replace", "targetLabel": "a"}]}), None),
            (json!({"relabelings": [{"action": "replace"}]}), Some("relabelings[0]: replace needs targetLabel")),
            (json!({"metricRelabelings": [{"action": "keep", "regex": "("}]}), Some("invalid regex")),
        ] {
            let found = verdict(&ScrapeSettings::default(), &endpoint).err();
            assert_eq!(found.is_some(), expected.is_some(), "{endpoint}: {found:?}");
            assert!(found.is_none_or(|f| f.contains(expected.unwrap_or_default())), "{endpoint}");
        }
    }

    #[test]
    fn a_shard_s_files_are_not_for_monitors_unless_the_fleet_says_so() {
        let secret = json!({"name": "s", "key": "pem"});
        for endpoint in [
            json!({"bearerTokenFile": "/data/fleet/secrets.json"}),
            json!({"authorization": {"credentialsFile": "/etc/narthex/token/token"}}),
            json!({"tlsConfig": {"caFile": "/x"}}),
            json!({"oauth2": {"clientId": {"secret": secret}, "clientSecret": secret, "tokenUrl": "http://t",
                "tlsConfig": {"caFile": "/x"}}}),
        ] {
            let refused = verdict(&ScrapeSettings::default(), &endpoint).unwrap_err();
            assert!(refused.contains("accesses the file system via"), "{endpoint}: {refused}");
            let mut open = ScrapeSettings::default();
            open.arbitrary_fs_access_through_sms.deny = false;
            assert_eq!(verdict(&open, &endpoint), Ok(()), "{endpoint}");
        }
    }
}
