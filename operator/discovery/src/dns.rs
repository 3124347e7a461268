//! `dns_sd_configs`: one target per record of a name.

use std::sync::Arc;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::ResolverConfig;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use narthex_config::sd::join_host_port;
use narthex_config::{DnsSdConfig, TargetGroup};
use narthex_model::Labels;

use crate::metrics::SdMetrics;
use crate::refresh::{BoxFuture, Refresh};

pub(crate) struct DnsDiscovery {
    names: Vec<String>,
    kind: RecordType,
    port: i64,
    /// None: the system's servers, read anew for each refresh.
    servers: Option<ResolverConfig>,
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
        Ok(DnsDiscovery { names: config.names.clone(), kind, port: config.port, servers: None, metrics })
    }

    fn resolver(&self) -> Result<TokioResolver, String> {
        let builder = match &self.servers {
            Some(servers) => TokioResolver::builder_with_config(servers.clone(), TokioRuntimeProvider::default()),
            None => TokioResolver::builder_tokio().map_err(|e| format!("could not load resolv.conf: {e}"))?,
        };
        let mut builder = builder;
        // Each refresh asks anew: the interval says how old an answer may be.
        builder.options_mut().cache_size = 0;
        builder.build().map_err(|e| e.to_string())
    }

    /// The targets of one name; an empty list when the name does not exist or has no such records.
    async fn one(&self, resolver: &TokioResolver, name: &str) -> Result<TargetGroup, String> {
        self.metrics.dns_lookups.inc();
        let answers = match resolver.lookup(name, self.kind).await {
            Ok(lookup) => lookup.answers().iter().map(|r| r.data.clone()).collect(),
            Err(e) if is_no_records(&e) => Vec::new(),
            Err(e) => return Err(format!("could not resolve {name:?}: {e}")),
        };
        let targets = answers.iter().filter_map(|data| self.target(name, data)).collect();
        Ok(TargetGroup { source: name.to_owned(), targets, labels: Labels::empty() })
    }

    fn target(&self, name: &str, data: &RData) -> Option<Labels> {
        let bare = |name: &str| name.trim_end_matches('.').to_owned();
        let mut labels = vec![("__meta_dns_name", name.to_owned())];
        let address = match data {
            RData::SRV(srv) => {
                let host = srv.target.to_string();
                labels.push(("__meta_dns_srv_record_target", host.clone()));
                labels.push(("__meta_dns_srv_record_port", srv.port.to_string()));
                join_host_port(&bare(&host), srv.port)
            }
            RData::MX(mx) => {
                let host = mx.exchange.to_string();
                labels.push(("__meta_dns_mx_record_target", host.clone()));
                join_host_port(&bare(&host), self.port)
            }
            RData::NS(ns) => {
                let host = ns.0.to_string();
                labels.push(("__meta_dns_ns_record_target", host.clone()));
                join_host_port(&bare(&host), self.port)
            }
            RData::A(a) => join_host_port(&a.0.to_string(), self.port),
            RData::AAAA(a) => join_host_port(&a.0.to_string(), self.port),
            // An alias on the way to the address.
            _ => return None,
        };
        labels.push(("__address__", address));
        Some(Labels::from_pairs(labels))
    }
}

/// Whether the servers said that there is nothing, rather than that they don't know.
fn is_no_records(error: &NetError) -> bool {
    error.is_no_records_found()
}

impl Refresh for DnsDiscovery {
    fn refresh(&mut self) -> BoxFuture<'_, Result<Vec<TargetGroup>, String>> {
        Box::pin(async move {
            let resolver = self.resolver()?;
            let lookups = self.names.iter().map(|name| self.one(&resolver, name));
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
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use hickory_resolver::config::{ConnectionConfig, NameServerConfig};
    use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
    use hickory_resolver::proto::rr::rdata::{A, MX, NS, SRV};
    use hickory_resolver::proto::rr::{Name, Record};
    use narthex_runtime::metrics::Registry;
    use tokio::net::UdpSocket;

    use super::*;

    /// A name server that knows `ok.test.`, denies `none.test.` and fails for all else.
    async fn name_server() -> u16 {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
                let Ok(question) = Message::from_vec(&buffer[..len]) else { continue };
                let Some(query) = question.queries.first().cloned() else { continue };
                let mut answer = question.clone();
                answer.metadata.message_type = MessageType::Response;
                answer.metadata.recursion_available = true;
                let name = query.name().to_lowercase();
                match name.to_string().as_str() {
                    "ok.test." => {
                        let host = |s: &str| Name::from_ascii(s).unwrap();
                        let data = match query.query_type() {
                            RecordType::A => {
                                vec![RData::A(A(Ipv4Addr::new(10, 0, 0, 1))), RData::A(A(Ipv4Addr::new(10, 0, 0, 2)))]
                            }
                            RecordType::SRV => vec![RData::SRV(SRV::new(1, 2, 9100, host("db1.test.")))],
                            RecordType::MX => vec![RData::MX(MX::new(1, host("mail.test.")))],
                            RecordType::NS => vec![RData::NS(NS(host("ns.test.")))],
                            _ => vec![],
                        };
                        answer.answers = data.into_iter().map(|d| Record::from_rdata(name.clone(), 60, d)).collect();
                    }
                    "none.test." => answer.metadata.response_code = ResponseCode::NXDomain,
                    _ => answer.metadata.response_code = ResponseCode::ServFail,
                }
                let _ = socket.send_to(&answer.to_vec().unwrap(), from).await;
            }
        });
        port
    }

    #[tokio::test]
    async fn records() {
        let port = name_server().await;
        let mut connection = ConnectionConfig::udp();
        connection.port = port;
        let server = NameServerConfig::new(IpAddr::V4(Ipv4Addr::LOCALHOST), true, vec![connection]);
        for (kind, expected) in [
            (
                "a",
                &[
                    r#"{__address__="10.0.0.1:80", __meta_dns_name="ok.test."}"#,
                    r#"{__address__="10.0.0.2:80", __meta_dns_name="ok.test."}"#,
                ][..],
            ),
            (
                "SRV",
                &[
                    r#"{__address__="db1.test:9100", __meta_dns_name="ok.test.", __meta_dns_srv_record_port="9100", __meta_dns_srv_record_target="db1.test."}"#,
                ],
            ),
            (
                "MX",
                &[
                    r#"{__address__="mail.test:80", __meta_dns_mx_record_target="mail.test.", __meta_dns_name="ok.test."}"#,
                ],
            ),
            (
                "NS",
                &[r#"{__address__="ns.test:80", __meta_dns_name="ok.test.", __meta_dns_ns_record_target="ns.test."}"#],
            ),
            ("AAAA", &[]),
        ] {
            let registry = Registry::new();
            let config = DnsSdConfig {
                names: vec!["ok.test.".into(), "none.test.".into(), "broken.test.".into()],
                kind: kind.into(),
                port: 80,
                ..DnsSdConfig::default()
            };
            let mut discovery = DnsDiscovery::new(&config, SdMetrics::register(&registry)).unwrap();
            discovery.servers = Some(ResolverConfig::from_parts(None, vec![], vec![server.clone()]));
            let groups = discovery.refresh().await.unwrap();
            // The name that could not be resolved keeps what it had: there is no group for it.
            let sources: Vec<&str> = groups.iter().map(|g| g.source.as_str()).collect();
            assert_eq!(sources, ["ok.test.", "none.test."], "{kind}");
            let mut found: Vec<String> = groups[0].targets.iter().map(|t| t.to_string()).collect();
            found.sort();
            assert_eq!(found, expected, "{kind}");
            assert!(groups[1].targets.is_empty());
            assert_eq!(registry.value("prometheus_sd_dns_lookups_total"), Some(3.0));
            assert_eq!(registry.value("prometheus_sd_dns_lookup_failures_total"), Some(1.0));
        }
    }
}
