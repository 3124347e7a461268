//! `nomad_sd_configs`: services that are registered with Nomad itself.

use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderMap;
use narthex_config::sd::join_host_port;
use narthex_config::{NomadSdConfig, TargetGroup};
use narthex_model::{Labels, LabelsBuilder};
use serde::Deserialize;
use url::Url;

use crate::client::{HttpClient, MAX_BODY, nullable};
use crate::metrics::SdMetrics;
use crate::refresh::{BoxFuture, Refresh};

/// One answer of the API may take this long.
const TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) struct NomadDiscovery {
    client: HttpClient,
    base: Url,
    config: NomadSdConfig,
    metrics: Arc<SdMetrics>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Stub {
    #[serde(default, deserialize_with = "nullable")]
    services: Vec<StubService>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StubService {
    service_name: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Instance {
    #[serde(rename = "ID")]
    id: String,
    service_name: String,
    namespace: String,
    #[serde(rename = "NodeID")]
    node_id: String,
    datacenter: String,
    #[serde(deserialize_with = "nullable")]
    tags: Vec<String>,
    address: String,
    port: i64,
}

impl NomadDiscovery {
    pub fn new(config: &NomadSdConfig, metrics: Arc<SdMetrics>) -> Result<NomadDiscovery, String> {
        let base = Url::parse(config.server.trim()).map_err(|e| format!("nomad server {:?}: {e}", config.server))?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(format!("nomad server {:?}: unsupported scheme", config.server));
        }
        Ok(NomadDiscovery {
            client: HttpClient::new(config.http.clone(), "nomad_sd"),
            base,
            config: config.clone(),
            metrics,
        })
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, path: &[&str]) -> Result<T, String> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        {
            let mut query = url.query_pairs_mut();
            for (name, value) in [("region", &self.config.region), ("namespace", &self.config.namespace)] {
                if !value.is_empty() {
                    query.append_pair(name, value);
                }
            }
            if self.config.allow_stale {
                query.append_pair("stale", "");
            }
        }
        self.client.get(&url, HeaderMap::new(), TIMEOUT, MAX_BODY).await?.json()
    }

    async fn group(&self) -> Result<TargetGroup, String> {
        let stubs: Vec<Stub> = self.ask(&["v1", "services"]).await?;
        let mut targets = Vec::new();
        for service in stubs.iter().flat_map(|s| &s.services) {
            let instances: Vec<Instance> = self
                .ask(&["v1", "service", &service.service_name])
                .await
                .map_err(|e| format!("failed to fetch services: {e}"))?;
            targets.extend(instances.iter().map(|i| target(i, &self.config.tag_separator)));
        }
        Ok(TargetGroup { source: "Nomad".into(), targets, labels: Labels::empty() })
    }
}

fn target(instance: &Instance, separator: &str) -> Labels {
    let mut labels = LabelsBuilder::new();
    labels
        .set("__address__", join_host_port(&instance.address, instance.port))
        .set("__meta_nomad_address", instance.address.as_str())
        .set("__meta_nomad_dc", instance.datacenter.as_str())
        .set("__meta_nomad_node_id", instance.node_id.as_str())
        .set("__meta_nomad_namespace", instance.namespace.as_str())
        .set("__meta_nomad_service", instance.service_name.as_str())
        .set("__meta_nomad_service_address", instance.address.as_str())
        .set("__meta_nomad_service_id", instance.id.as_str())
        .set("__meta_nomad_service_port", instance.port.to_string());
    let tags = &instance.tags;
    if !tags.is_empty() {
        labels.set("__meta_nomad_tags", format!("{separator}{}{separator}", tags.join(separator)));
    }
    labels.build()
}

impl Refresh for NomadDiscovery {
    fn refresh(&mut self) -> BoxFuture<'_, Result<Vec<TargetGroup>, String>> {
        Box::pin(async move {
            let group = self.group().await;
            if group.is_err() {
                self.metrics.nomad_failures.inc();
            }
            Ok(vec![group?])
        })
    }
}
