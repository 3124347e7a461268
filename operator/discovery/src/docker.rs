//! `docker_sd_configs`: the containers of one Docker daemon.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use ::http::HeaderMap;
use narthex_config::sd::join_host_port;
use narthex_config::{DockerSdConfig, TargetGroup};
use narthex_model::LabelsBuilder;
use narthex_model::names::sanitize_label_name;
use serde::Deserialize;
use url::Url;

use crate::client::{HttpClient, MAX_BODY, nullable};
use crate::refresh::{BoxFuture, Refresh};

pub(crate) struct DockerDiscovery {
    client: HttpClient,
    base: Url,
    /// As the API wants them: name to values.
    filters: BTreeMap<String, BTreeMap<String, bool>>,
    port: i64,
    host_networking_host: String,
    match_first_network: bool,
    timeout: Duration,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Container {
    id: String,
    #[serde(deserialize_with = "nullable")]
    names: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    ports: Vec<Port>,
    #[serde(deserialize_with = "nullable")]
    host_config: HostConfig,
    #[serde(deserialize_with = "nullable")]
    network_settings: NetworkSettings,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct HostConfig {
    network_mode: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct NetworkSettings {
    #[serde(deserialize_with = "nullable")]
    networks: BTreeMap<String, Option<Endpoint>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Endpoint {
    #[serde(rename = "NetworkID")]
    network_id: String,
    #[serde(rename = "IPAddress")]
    ip: String,
    #[serde(rename = "GlobalIPv6Address")]
    ipv6: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Port {
    #[serde(rename = "IP")]
    ip: String,
    private_port: u16,
    public_port: u16,
    r#type: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Network {
    id: String,
    name: String,
    scope: String,
    internal: bool,
    ingress: bool,
    #[serde(deserialize_with = "nullable")]
    labels: BTreeMap<String, String>,
}

impl DockerDiscovery {
    pub fn new(config: &DockerSdConfig) -> Result<DockerDiscovery, String> {
        let (client, base) = match config.host.split_once("://") {
            Some(("unix", path)) => {
                (HttpClient::over_socket(PathBuf::from(path), "docker_sd"), "http://docker/".to_owned())
            }
            Some(("tcp", rest)) => (HttpClient::new(config.http.clone(), "docker_sd"), format!("http://{rest}")),
            Some(("http" | "https", _)) => (HttpClient::new(config.http.clone(), "docker_sd"), config.host.clone()),
            _ => return Err(format!("error setting up docker client: unable to parse docker host {:?}", config.host)),
        };
        let mut filters: BTreeMap<String, BTreeMap<String, bool>> = BTreeMap::new();
        for filter in &config.filters {
            let values = filters.entry(filter.name.clone()).or_default();
            values.extend(filter.values.iter().map(|v| (v.clone(), true)));
        }
        Ok(DockerDiscovery {
            client,
            base: Url::parse(&base).map_err(|e| format!("docker host: {e}"))?,
            filters,
            port: config.port,
            host_networking_host: config.host_networking_host.clone(),
            match_first_network: config.match_first_network,
            timeout: config.refresh_interval,
        })
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, path: &[&str], query: &[(&str, &str)]) -> Result<T, String> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.client.get(&url, HeaderMap::new(), self.timeout, MAX_BODY).await?.json()
    }

    fn targets(&self, containers: &[Container], networks: &[Network]) -> TargetGroup {
        let by_id: HashMap<&str, &Container> = containers.iter().map(|c| (c.id.as_str(), c)).collect();
        let networks: HashMap<&str, &Network> = networks.iter().map(|n| (n.id.as_str(), n)).collect();
        let mut group = TargetGroup { source: "Docker".into(), ..TargetGroup::default() };
        for container in containers {
            let Some(name) = container.names.first() else { continue };
            let mut common = LabelsBuilder::new();
            common
                .set("__meta_docker_container_id", container.id.as_str())
                .set("__meta_docker_container_name", name.as_str())
                .set("__meta_docker_container_network_mode", container.host_config.network_mode.as_str());
            for (key, value) in &container.labels {
                common.set(format!("__meta_docker_container_label_{}", sanitize_label_name(key)), value.as_str());
            }
            let mut endpoints: Vec<&Endpoint> = endpoints(container, &by_id);
            if self.match_first_network {
                endpoints.truncate(1);
            }
            for endpoint in endpoints {
                let ip = if endpoint.ip.is_empty() { &endpoint.ipv6 } else { &endpoint.ip };
                let mut on_network = common.clone();
                on_network.set("__meta_docker_network_ip", ip.as_str());
                if let Some(network) = networks.get(endpoint.network_id.as_str()) {
                    on_network
                        .set("__meta_docker_network_id", network.id.as_str())
                        .set("__meta_docker_network_name", network.name.as_str())
                        .set("__meta_docker_network_scope", network.scope.as_str())
                        .set("__meta_docker_network_internal", network.internal.to_string())
                        .set("__meta_docker_network_ingress", network.ingress.to_string());
                    for (key, value) in &network.labels {
                        on_network
                            .set(format!("__meta_docker_network_label_{}", sanitize_label_name(key)), value.as_str());
                    }
                }
                let before = group.targets.len();
                for port in container.ports.iter().filter(|p| p.r#type == "tcp") {
                    let mut labels = on_network.clone();
                    labels.set("__meta_docker_port_private", port.private_port.to_string());
                    if port.public_port > 0 {
                        labels
                            .set("__meta_docker_port_public", port.public_port.to_string())
                            .set("__meta_docker_port_public_ip", port.ip.as_str());
                    }
                    labels.set("__address__", join_host_port(ip, port.private_port));
                    group.targets.push(labels.build());
                }
                if group.targets.len() == before {
                    // No TCP port is exposed, as always with the host's network.
                    let address = match container.host_config.network_mode.as_str() {
                        "host" => self.host_networking_host.clone(),
                        _ => join_host_port(ip, self.port),
                    };
                    on_network.set("__address__", address);
                    group.targets.push(on_network.build());
                }
            }
        }
        group
    }
}

/// A container's networks by name, or those of the container whose network it shares.
fn endpoints<'a>(container: &'a Container, by_id: &HashMap<&str, &'a Container>) -> Vec<&'a Endpoint> {
    let mut container = container;
    // As many steps as there are containers: they may name each other.
    for _ in 0..=by_id.len() {
        let networks = &container.network_settings.networks;
        if !networks.is_empty() {
            return networks.values().flatten().collect();
        }
        let other = container.host_config.network_mode.strip_prefix("container:");
        match other.and_then(|id| by_id.get(id)) {
            Some(next) => container = next,
            None => break,
        }
    }
    Vec::new()
}

impl Refresh for DockerDiscovery {
    fn refresh(&mut self) -> BoxFuture<'_, Result<Vec<TargetGroup>, String>> {
        Box::pin(async move {
            let filters = serde_json::to_string(&self.filters).map_err(|e| e.to_string())?;
            let query: &[(&str, &str)] = if self.filters.is_empty() { &[] } else { &[("filters", &filters)] };
            let containers: Vec<Container> = self
                .ask(&["containers", "json"], query)
                .await
                .map_err(|e| format!("error while listing containers: {e}"))?;
            let networks: Vec<Network> =
                self.ask(&["networks"], &[]).await.map_err(|e| format!("error while computing network labels: {e}"))?;
            Ok(vec![self.targets(&containers, &networks)])
        })
    }
}
