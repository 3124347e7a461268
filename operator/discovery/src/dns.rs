//! `dns_sd_configs`: one target per record of a name.

use std::sync::Arc;

use hickory_proto::rr::{Name, RData, RecordType};
use narthex_config::sd::join_host_port;
use narthex_config::{DnsSdConfig, TargetGroup};
use narthex_model::Labels;

use crate::metrics::SdMetrics;
use crate::refresh::{BoxFuture, Refresh};

mod lookup;

use lookup::Resolver;

pub(crate) struct DnsDiscovery {
    names: Vec<String>,
    kind: RecordType,
    port: i64,
    resolver: Resolver,
    metrics: Arc<SdMetrics>,
}

impl DnsDiscovery {
    pub fn new(config: &DnsSdConfig, metrics: Arc<SdMetrics>) -> Result<DnsDiscovery, String> {
        let kind = match config.kind.to_uppercase().as_str() {
            "A" => RecordType::A,
            "AAAA" => RecordType::AAAA,
            "SRV" => RecordType::SRV,
            "MX" => RecordType::MX,
            "NS" => RecordType::NS,
            other => return Err(format!("invalid DNS-SD records type {other}")),
        };
        Ok(DnsDiscovery {
            names: config.names.clone(),
            kind,
            port: config.port,
            resolver: Resolver::default(),
            metrics,
        })
    }

    /// The targets of one name; an empty list when the name does not exist or has no such records.
    async fn one(&self, name: &str) -> Result<TargetGroup, String> {
        self.metrics.dns_lookups.inc();
        let answers = self.resolver.lookup(name, self.kind).await?;
        let targets = answers.iter().filter_map(|data| self.target(name, data)).collect();
        Ok(TargetGroup { source: name.to_owned(), targets, labels: Labels::empty() })
    }

    fn target(&self, name: &str, data: &RData) -> Option<Labels> {
        let bare = |name: &str| name.trim_end_matches('.').to_owned();
        let text = |name: &Name| name.to_ascii();
        let mut labels = vec![("__meta_dns_name", name.to_owned())];
        let address = match data {
            RData::SRV(srv) => {
                let host = text(&srv.target);
                labels.push(("__meta_dns_srv_record_target", host.clone()));
                labels.push(("__meta_dns_srv_record_port", srv.port.to_string()));
                join_host_port(&bare(&host), srv.port)
            }
            RData::MX(mx) => {
                let host = text(&mx.exchange);
                labels.push(("__meta_dns_mx_record_target", host.clone()));
                join_host_port(&bare(&host), self.port)
            }
            RData::NS(ns) => {
                let host = text(&ns.0);
                labels.push(("__meta_dns_ns_record_target", host.clone()));
                join_host_port(&bare(&host), self.port)
            }
            RData::A(a) => join_host_port(&a.0.to_string(), self.port),
            // Go shows an IPv4 address as one, whatever it came as.
            RData::AAAA(a) => join_host_port(&a.0.to_canonical().to_string(), self.port),
            // An alias on the way to the address.
            _ => return None,
        };
        labels.push(("__address__", address));
        Some(Labels::from_pairs(labels))
    }
}

impl Refresh for DnsDiscovery {
    fn refresh(&mut self) -> BoxFuture<'_, Result<Vec<TargetGroup>, String>> {
        Box::pin(async move {
            let lookups = self.names.iter().map(|name| self.one(name));
            let mut groups = Vec::new();
            for result in futures::future::join_all(lookups).await {
                match result {
                    Ok(group) => groups.push(group),
                    // The other names go on, and this one keeps its targets.
                    Err(error) => {
                        self.metrics.dns_failures.inc();
                        tracing::error!(error, "error refreshing DNS targets");
                    }
                }
            }
            Ok(groups)
        })
    }
}

#[cfg(test)]
mod tests;
