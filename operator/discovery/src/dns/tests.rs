use std::net::Ipv4Addr;
use std::path::Path;

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, NS, SRV};
use hickory_proto::rr::{Name, Record};
use narthex_runtime::metrics::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::*;

fn host(name: &str) -> Name {
    Name::from_ascii(name).unwrap()
}

/// What the name server knows: `None` for a name that it fails at.
fn records(name: &str, kind: RecordType) -> Option<Result<Vec<(Name, RData)>, ResponseCode>> {
    let own = Name::from_labels(name.trim_end_matches('.').split('.').map(str::as_bytes)).unwrap();
    let a = |last: u8| RData::A(A(Ipv4Addr::new(10, 0, 0, last)));
    let srv = |port, target: &str| RData::SRV(SRV::new(1, 2, port, host(target)));
    let data: Vec<RData> = match (name, kind) {
        ("ok.test.", RecordType::A) => vec![a(1), a(2)],
        ("ok.test.", RecordType::AAAA) => {
            vec![
                RData::AAAA(AAAA("2001:db8::1".parse().unwrap())),
                RData::AAAA(AAAA("::ffff:1.2.3.4".parse().unwrap())),
            ]
        }
        ("ok.test.", RecordType::SRV) => vec![srv(9100, "DB1.test."), srv(0, ".")],
        ("ok.test.", RecordType::MX) => vec![RData::MX(MX::new(1, host("mail.test.")))],
        ("ok.test.", RecordType::NS) => vec![RData::NS(NS(host("ns.test.")))],
        ("ok.test.", _) => vec![],
        // Docker's names of services may have underscores.
        ("under_score.test." | "localhost." | "x.onion.", RecordType::A) => vec![a(3)],
        ("alias.test.", RecordType::SRV) => {
            let alias = (own, RData::CNAME(CNAME(host("real.test."))));
            return Some(Ok(vec![alias, (host("real.test."), srv(7, "x.test."))]));
        }
        ("big.test.", RecordType::A) => (0..250).map(a).collect(),
        ("empty.one.test.", _) => vec![],
        ("empty.two.test." | "second.two.test." | "after.two.test.", RecordType::A) => vec![a(4)],
        ("after.one.test." | "half.two.test." | "fail.test.", _) => return None,
        ("refused.test.", _) => return Some(Err(ResponseCode::Refused)),
        _ => return Some(Err(ResponseCode::NXDomain)),
    };
    Some(Ok(data.into_iter().map(|d| (own.clone(), d)).collect()))
}

fn answer(bytes: &[u8], most: usize) -> Option<Vec<u8>> {
    let question = Message::from_vec(bytes).ok()?;
    let query: Query = question.queries.first()?.clone();
    let mut answer = question;
    answer.metadata.message_type = MessageType::Response;
    answer.edns = None;
    match records(&query.name().to_ascii().to_lowercase(), query.query_type()) {
        Some(Ok(found)) => answer.answers = found.into_iter().map(|(n, d)| Record::from_rdata(n, 60, d)).collect(),
        Some(Err(code)) => answer.metadata.response_code = code,
        None => answer.metadata.response_code = ResponseCode::ServFail,
    }
    let whole = answer.to_vec().ok()?;
    if whole.len() <= most {
        return Some(whole);
    }
    answer.answers.clear();
    answer.metadata.truncation = true;
    answer.to_vec().ok()
}

/// A name server, by UDP up to 512 bytes, and by TCP.
async fn name_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let socket = UdpSocket::bind(("127.0.0.1", port)).await.unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            // Somebody else's answer comes first.
            let mut forged = answer(&buffer[..length], 512).unwrap();
            let true_one = forged.clone();
            forged[0] ^= 1;
            let _ = socket.send_to(&forged, from).await;
            let _ = socket.send_to(&true_one, from).await;
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut question = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut question).await.unwrap();
            let answer = answer(&question, 65_535).unwrap();
            stream.write_u16(answer.len() as u16).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    });
    port
}

fn discovery(file: &Path, port: u16, kind: &str, names: &[&str], registry: &Registry) -> DnsDiscovery {
    let names = names.iter().map(|n| (*n).to_owned()).collect();
    let config = DnsSdConfig { names, kind: kind.into(), port: 80, ..DnsSdConfig::default() };
    let mut discovery = DnsDiscovery::new(&config, SdMetrics::register(registry)).unwrap();
    discovery.resolver = Resolver { file: file.to_owned(), port };
    discovery
}

/// As a real Prometheus found for the same server, file and names.
#[tokio::test]
async fn records_as_prometheus_finds_them() {
    let port = name_server().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resolv.conf");
    std::fs::write(&file, "nameserver 127.0.0.1\nsearch one.test two.test\n").unwrap();
    for (kind, name, expected) in [
        ("a", "ok.test", Some(&["10.0.0.1:80", "10.0.0.2:80"][..])),
        ("A", "OK.test.", Some(&["10.0.0.1:80", "10.0.0.2:80"])),
        ("AAAA", "ok.test.", Some(&["1.2.3.4:80", "[2001:db8::1]:80"])),
        ("SRV", "ok.test.", Some(&[":0 . 0", "DB1.test:9100 DB1.test. 9100"])),
        ("MX", "ok.test.", Some(&["mail.test:80 mail.test."])),
        ("NS", "ok.test.", Some(&["ns.test:80 ns.test."])),
        ("NS", "under_score.test.", Some(&[])),
        ("A", "under_score.test", Some(&["10.0.0.3:80"])),
        ("A", "localhost.", Some(&["10.0.0.3:80"])),
        ("A", "x.onion", Some(&["10.0.0.3:80"])),
        ("SRV", "alias.test", Some(&["x.test:7 x.test. 7"])),
        ("A", "none.test", Some(&[])),
        // It exists, if without such records.
        ("A", "empty", Some(&[])),
        ("A", "second", Some(&["10.0.0.4:80"])),
        ("A", "after", Some(&["10.0.0.4:80"])),
        // Nobody knows whether it does.
        ("A", "half", None),
        ("A", "fail.test", None),
        ("A", "refused.test.", None),
        ("A", "a..b", None),
    ] {
        let registry = Registry::new();
        let mut discovery = discovery(&file, port, kind, &[name], &registry);
        let groups = discovery.refresh().await.unwrap();
        let found = groups.first().map(|group| {
            let labels = ["__address__", "__meta_dns_srv_record_target", "__meta_dns_mx_record_target"];
            let labels = labels.iter().chain(&["__meta_dns_ns_record_target", "__meta_dns_srv_record_port"]);
            let text = |t: &Labels| -> Vec<String> {
                labels.clone().map(|l| t.value(l).to_owned()).filter(|v| !v.is_empty()).collect()
            };
            assert!(group.targets.iter().all(|t| t.value("__meta_dns_name") == name) && group.source == name);
            let mut found: Vec<String> = group.targets.iter().map(|t| text(t).join(" ")).collect();
            found.sort();
            found
        });
        let expected = expected.map(|list| list.iter().map(|e| (*e).to_owned()).collect::<Vec<_>>());
        assert_eq!(found, expected, "{kind} {name}");
        assert_eq!(registry.value("prometheus_sd_dns_lookups_total"), Some(1.0));
        let failed = if expected.is_none() { 1.0 } else { 0.0 };
        assert_eq!(registry.value("prometheus_sd_dns_lookup_failures_total"), Some(failed), "{kind} {name}");
    }
}

#[tokio::test]
async fn long_answers_and_dead_servers() {
    let port = name_server().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resolv.conf");
    // Nobody listens at the first.
    std::fs::write(&file, "nameserver 127.0.0.2\nnameserver 127.0.0.1\n").unwrap();
    let mut discovery = discovery(&file, port, "A", &["big.test.", "ok.test"], &Registry::new());
    let counts: Vec<usize> = discovery.refresh().await.unwrap().iter().map(|g| g.targets.len()).collect();
    assert_eq!(counts, [250, 2]);
    std::fs::remove_file(&file).unwrap();
    assert!(discovery.refresh().await.unwrap().is_empty());
}
