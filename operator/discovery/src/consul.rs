//! `consul_sd_configs`: instances of services, followed by blocking queries.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderMap;
use ::http::header::{HeaderName, HeaderValue};
use narthex_config::sd::join_host_port;
use narthex_config::{ConsulSdConfig, TargetGroup};
use narthex_model::names::sanitize_label_name;
use narthex_model::{Labels, LabelsBuilder};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use url::Url;

use crate::client::{HttpClient, MAX_BODY, nullable};
use crate::metrics::SdMetrics;
use crate::{Discoverer, Updates};

/// How long Consul may hold a query back.
const WATCH: Duration = Duration::from_secs(120);
const RETRY: Duration = Duration::from_secs(15);

pub(crate) struct ConsulDiscovery(Arc<Consul>);

struct Consul {
    config: ConsulSdConfig,
    base: Url,
    client: HttpClient,
    metrics: Arc<SdMetrics>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Entry {
    #[serde(deserialize_with = "nullable")]
    node: Node,
    #[serde(deserialize_with = "nullable")]
    service: Service,
    #[serde(deserialize_with = "nullable")]
    checks: Vec<Check>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Node {
    node: String,
    address: String,
    #[serde(deserialize_with = "nullable")]
    meta: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    tagged_addresses: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Service {
    #[serde(rename = "ID")]
    id: String,
    #[serde(deserialize_with = "nullable")]
    tags: Vec<String>,
    address: String,
    port: i64,
    #[serde(deserialize_with = "nullable")]
    meta: BTreeMap<String, String>,
    namespace: String,
    partition: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Check {
    #[serde(rename = "CheckID")]
    check_id: String,
    status: String,
}

/// The worst state of a service's checks.
fn health(checks: &[Check]) -> &'static str {
    let has = |f: &dyn Fn(&Check) -> bool| checks.iter().any(f);
    let maintains = |c: &Check| c.check_id == "_node_maintenance" || c.check_id.starts_with("_service_maintenance:");
    if has(&|c| !maintains(c) && !matches!(c.status.as_str(), "passing" | "warning" | "critical")) {
        ""
    } else if has(&maintains) {
        "maintenance"
    } else if has(&|c| c.status == "critical") {
        "critical"
    } else if has(&|c| c.status == "warning") {
        "warning"
    } else {
        "passing"
    }
}

fn add_all(labels: &mut LabelsBuilder, prefix: &str, values: &BTreeMap<String, String>) {
    for (key, value) in values {
        labels.set(format!("{prefix}{}", sanitize_label_name(key)), value.as_str());
    }
}

fn target(entry: &Entry, separator: &str) -> Labels {
    let (node, service) = (&entry.node, &entry.service);
    let host = if service.address.is_empty() { &node.address } else { &service.address };
    let tags = service.tags.join(separator);
    let mut labels = LabelsBuilder::new();
    labels
        .set("__address__", join_host_port(host, service.port))
        .set("__meta_consul_address", node.address.as_str())
        .set("__meta_consul_node", node.node.as_str())
        .set("__meta_consul_namespace", service.namespace.as_str())
        .set("__meta_consul_partition", service.partition.as_str())
        .set("__meta_consul_tags", format!("{separator}{tags}{separator}"))
        .set("__meta_consul_service_address", service.address.as_str())
        .set("__meta_consul_service_port", service.port.to_string())
        .set("__meta_consul_service_id", service.id.as_str())
        .set("__meta_consul_health", health(&entry.checks));
    add_all(&mut labels, "__meta_consul_metadata_", &node.meta);
    add_all(&mut labels, "__meta_consul_service_metadata_", &service.meta);
    add_all(&mut labels, "__meta_consul_tagged_address_", &node.tagged_addresses);
    labels.build()
}

impl ConsulDiscovery {
    pub fn new(config: &ConsulSdConfig, metrics: Arc<SdMetrics>) -> Result<ConsulDiscovery, String> {
        let server = config.server.trim();
        let text = match server.split_once("://") {
            Some(("unix", _)) => return Err("unix sockets are not supported for Consul".into()),
            Some(_) => server.to_owned(),
            None => format!("{}://{server}", config.scheme),
        };
        let prefix = config.path_prefix.trim_matches('/');
        let slash = if prefix.is_empty() { "" } else { "/" };
        let base = Url::parse(&format!("{}/{prefix}{slash}", text.trim_end_matches('/')))
            .map_err(|e| format!("consul server {server:?}: {e}"))?;
        let client = HttpClient::new(config.http.clone(), "consul_sd");
        Ok(ConsulDiscovery(Arc::new(Consul { config: config.clone(), base, client, metrics })))
    }
}

impl Discoverer for ConsulDiscovery {
    fn run(self: Box<Self>, updates: Updates) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            let consul = self.0;
            let datacenter: Arc<str> = consul.datacenter().await.into();
            // The tasks go with this set when the future is dropped.
            let mut watches = JoinSet::new();
            let config = &consul.config;
            if !config.services.is_empty() && config.tags.is_empty() && config.filter.is_empty() {
                for name in &config.services {
                    watches.spawn(consul.clone().watch_service(name.clone(), datacenter.clone(), updates.clone()));
                }
                while watches.join_next().await.is_some() {}
                return;
            }
            let mut watched = HashMap::new();
            let mut index = 0;
            let mut ticks = ticker(config.refresh_interval);
            loop {
                ticks.tick().await;
                let (services, new_index) = match consul.services(index).await {
                    Ok(answer) => answer,
                    Err(error) => {
                        consul.metrics.consul_failures.inc();
                        tracing::error!(error, "error refreshing service list");
                        tokio::time::sleep(RETRY).await;
                        continue;
                    }
                };
                if new_index == index {
                    continue;
                }
                index = new_index;
                for (name, tags) in &services {
                    if consul.wants(name, tags.as_deref().unwrap_or_default()) && !watched.contains_key(name) {
                        let watch = consul.clone().watch_service(name.clone(), datacenter.clone(), updates.clone());
                        watched.insert(name.clone(), watches.spawn(watch));
                    }
                }
                let gone: Vec<String> = watched.keys().filter(|n| !services.contains_key(*n)).cloned().collect();
                for name in gone {
                    if let Some(watch) = watched.remove(&name) {
                        watch.abort();
                    }
                    let empty = TargetGroup { source: name, ..TargetGroup::default() };
                    if updates.send(vec![empty]).await.is_err() {
                        return;
                    }
                }
                while watches.try_join_next().is_some() {}
            }
        })
    }
}

fn ticker(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval(every.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

impl Consul {
    fn wants(&self, name: &str, tags: &[String]) -> bool {
        (self.config.services.is_empty() || self.config.services.iter().any(|s| s == name))
            && self.config.tags.iter().all(|t| tags.contains(t))
    }

    /// The configured data centre, or the agent's own, asked for until it answers.
    async fn datacenter(&self) -> String {
        if !self.config.datacenter.is_empty() {
            return self.config.datacenter.clone();
        }
        loop {
            let result = self.ask::<serde_json::Value>(&["v1", "agent", "self"], &[], None, "agent", "self").await;
            match result.map(|(info, _)| info["Config"]["Datacenter"].as_str().map(str::to_owned)) {
                Ok(Some(datacenter)) => return datacenter,
                Ok(None) => tracing::error!("invalid value for Config.Datacenter"),
                Err(error) => {
                    self.metrics.consul_failures.inc();
                    tracing::error!(error, "error retrieving datacenter name");
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn services(&self, index: u64) -> Result<(BTreeMap<String, Option<Vec<String>>>, u64), String> {
        let filter = [("filter", self.config.filter.as_str())];
        self.ask(&["v1", "catalog", "services"], &filter, Some(index), "catalog", "services").await
    }

    async fn watch_service(self: Arc<Self>, name: String, datacenter: Arc<str>, updates: Updates) {
        let mut index = 0;
        let mut ticks = ticker(self.config.refresh_interval);
        loop {
            ticks.tick().await;
            let mut parameters: Vec<(&str, &str)> = self.config.tags.iter().map(|t| ("tag", t.as_str())).collect();
            parameters.push(("filter", &self.config.health_filter));
            let path = ["v1", "health", "service", name.as_str()];
            let (entries, new_index) =
                match self.ask::<Vec<Entry>>(&path, &parameters, Some(index), "catalog", "service").await {
                    Ok(answer) => answer,
                    Err(error) => {
                        self.metrics.consul_failures.inc();
                        tracing::error!(service = name, error, "error refreshing service");
                        tokio::time::sleep(RETRY).await;
                        continue;
                    }
                };
            // The watch timed out without a change.
            if new_index == index {
                continue;
            }
            index = new_index;
            let group = TargetGroup {
                source: name.clone(),
                targets: entries.iter().map(|e| target(e, &self.config.tag_separator)).collect(),
                labels: Labels::from_pairs([
                    ("__meta_consul_service", name.as_str()),
                    ("__meta_consul_dc", &datacenter),
                ]),
            };
            if updates.send(vec![group]).await.is_err() {
                return;
            }
        }
    }

    /// One query; with the index of the answer.
    async fn ask<T: DeserializeOwned>(
        &self,
        path: &[&str],
        parameters: &[(&str, &str)],
        index: Option<u64>,
        endpoint: &str,
        call: &str,
    ) -> Result<(T, u64), String> {
        let config = &self.config;
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        {
            let mut query = url.query_pairs_mut();
            for (name, value) in
                [("dc", config.datacenter.as_str()), ("ns", &config.namespace), ("partition", &config.partition)]
                    .into_iter()
                    .chain(parameters.iter().copied())
            {
                if !value.is_empty() {
                    query.append_pair(name, value);
                }
            }
            if let Some(index) = index {
                if config.allow_stale {
                    query.append_pair("stale", "");
                }
                if index > 0 {
                    query.append_pair("index", &index.to_string());
                }
                query.append_pair("wait", &format!("{}ms", WATCH.as_millis()));
                for (key, value) in &config.node_meta {
                    query.append_pair("node-meta", &format!("{key}:{value}"));
                }
            }
        }
        if url.query() == Some("") {
            url.set_query(None);
        }
        let mut headers = HeaderMap::new();
        if !config.token.is_empty() {
            let mut token = HeaderValue::from_str(config.token.expose()).map_err(|_| "invalid token")?;
            token.set_sensitive(true);
            headers.insert(HeaderName::from_static("x-consul-token"), token);
        }
        let started = Instant::now();
        let answer = self.client.get(&url, headers, WATCH + Duration::from_secs(15), MAX_BODY).await;
        self.metrics.consul_duration.with(&[endpoint, call]).observe(started.elapsed().as_secs_f64());
        let answer = answer?;
        let value = answer.json()?;
        Ok((value, answer.header("x-consul-index").parse().unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aggregated_health() {
        let check = |id: &str, status: &str| Check { check_id: id.into(), status: status.into() };
        for (checks, expected) in [
            (vec![], "passing"),
            (vec![check("a", "passing"), check("b", "warning")], "warning"),
            (vec![check("a", "warning"), check("b", "critical")], "critical"),
            (vec![check("a", "critical"), check("_node_maintenance", "critical")], "maintenance"),
            (vec![check("_service_maintenance:x", "critical")], "maintenance"),
            (vec![check("a", "odd")], ""),
            (vec![check("_service_maintenance:x", "odd")], "maintenance"),
            (vec![check("_node_maintenance", "critical"), check("a", "odd")], ""),
        ] {
            assert_eq!(health(&checks), expected);
        }
    }
}
