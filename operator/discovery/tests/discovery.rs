//! Discoverers against small real servers and files, through the manager.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use narthex_config::{GlobalConfig, ScrapeConfig};
use narthex_discovery::{DiscoveryManager, SdMetrics, Snapshot};
use narthex_runtime::metrics::Registry;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

fn job(name: &str, discovery: &str) -> Arc<ScrapeConfig> {
    let mut job = ScrapeConfig::parse(&format!("job_name: {name}\n{discovery}")).unwrap_or_else(|e| panic!("{e:?}"));
    job.validate(&GlobalConfig::default()).unwrap();
    Arc::new(job)
}

fn manager() -> (DiscoveryManager, watch::Receiver<Arc<Snapshot>>, Registry) {
    let registry = Registry::new();
    let manager = DiscoveryManager::new("scrape", SdMetrics::register(&registry));
    let snapshots = manager.subscribe();
    (manager, snapshots, registry)
}

/// Every target of a job with its group's labels, as text.
fn targets(snapshot: &Snapshot, job: &str) -> BTreeSet<String> {
    let groups = snapshot.get(job).into_iter().flatten();
    groups
        .flat_map(|g| {
            g.targets.iter().map(|t| {
                let mut labels = g.labels.to_builder();
                for (name, value) in t.iter() {
                    labels.set(name, value);
                }
                labels.build().to_string()
            })
        })
        .collect()
}

/// Waits until a job has these targets.
async fn expect(snapshots: &mut watch::Receiver<Arc<Snapshot>>, job: &str, expected: &[&str]) {
    let expected: BTreeSet<String> = expected.iter().map(|s| (*s).to_owned()).collect();
    let wait = snapshots.wait_for(|s| s.contains_key(job) && targets(s, job) == expected);
    let found = tokio::time::timeout(Duration::from_secs(20), wait).await.is_ok();
    assert!(found, "expected {expected:#?}, have {:#?}", targets(&snapshots.borrow(), job));
}

#[derive(Clone, Debug)]
struct Asked {
    /// Path and query.
    target: String,
    /// In lower case.
    head: String,
}

type Answers = Arc<dyn Fn(&Asked) -> (u16, &'static str, String) + Send + Sync>;

/// Answers one request on a connection.
async fn serve(mut io: impl AsyncRead + AsyncWrite + Unpin, answers: Answers, log: Arc<Mutex<Vec<Asked>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match io.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.split(' ').nth(1).unwrap().to_owned();
    let asked = Asked { target, head: head.to_lowercase() };
    log.lock().push(asked.clone());
    let (status, headers, body) = answers(&asked);
    let answer =
        format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    let _ = io.write_all(answer.as_bytes()).await;
    let _ = io.shutdown().await;
}

/// A server on a port of its own; gives `host:port` and what it is asked.
async fn server(
    answers: impl Fn(&Asked) -> (u16, &'static str, String) + Send + Sync + 'static,
) -> (String, Arc<Mutex<Vec<Asked>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let log = Arc::new(Mutex::new(Vec::new()));
    let (answers, seen): (Answers, _) = (Arc::new(answers), log.clone());
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            tokio::spawn(serve(io, answers.clone(), seen.clone()));
        }
    });
    (address, log)
}

const JSON: &str = "content-type: application/json\r\n";

#[tokio::test]
async fn static_targets_and_reload() {
    let (manager, mut snapshots, registry) = manager();
    let one = "static_configs: [{targets: ['a:1', 'b:1'], labels: {x: y}}, {targets: []}]";
    assert!(manager.apply(&[job("one", one), job("two", one), job("none", "")]).is_empty());
    let both = [r#"{__address__="a:1", x="y"}"#, r#"{__address__="b:1", x="y"}"#];
    expect(&mut snapshots, "one", &both).await;
    expect(&mut snapshots, "two", &both).await;
    expect(&mut snapshots, "none", &[]).await;
    assert!(manager.apply(&[job("two", "static_configs: [{targets: ['c:1']}]")]).is_empty());
    expect(&mut snapshots, "two", &[r#"{__address__="c:1"}"#]).await;
    assert!(!snapshots.borrow().contains_key("one"));
    let mut text = String::new();
    narthex_runtime::metrics::write_text(&mut text, &registry.gather());
    assert!(text.contains("prometheus_sd_discovered_targets{name=\"scrape\",config=\"two\"} 1\n"), "{text}");
    assert!(!text.contains("config=\"one\""), "{text}");
    assert!(text.contains("prometheus_sd_failed_configs{name=\"scrape\"} 0\n"), "{text}");
}

#[tokio::test]
async fn kubernetes_needs_an_api_server() {
    let (manager, mut snapshots, registry) = manager();
    let faults = manager
        .apply(&[job("k", "kubernetes_sd_configs: [{role: pod}]"), job("s", "static_configs: [{targets: [a]}]")]);
    let faults: Vec<String> = faults.iter().map(|f| f.to_string()).collect();
    assert_eq!(
        faults,
        [
            "cannot create kubernetes service discovery of k: unable to load in-cluster configuration, KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be defined"
        ]
    );
    expect(&mut snapshots, "s", &[r#"{__address__="a"}"#]).await;
    expect(&mut snapshots, "k", &[]).await;
    assert_eq!(registry.value("prometheus_sd_failed_configs"), Some(1.0));
}

#[tokio::test]
async fn files() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let shown = dir.path().display().to_string();
    std::fs::write(path("a.yml"), "- targets: ['a:1']\n  labels: {n: 1, b: true}\n- targets: ['a:2']\n").unwrap();
    std::fs::write(path("ignored.txt"), "x").unwrap();
    let (manager, mut snapshots, registry) = manager();
    let discovery = format!("file_sd_configs: [{{files: ['{shown}/*.yml', '{shown}/*.json'], refresh_interval: 1h}}]");
    assert!(manager.apply(&[job("f", &discovery)]).is_empty());
    let a1 = format!(r#"{{__address__="a:1", __meta_filepath="{shown}/a.yml", b="true", n="1"}}"#);
    let a2 = format!(r#"{{__address__="a:2", __meta_filepath="{shown}/a.yml"}}"#);
    let b1 = format!(r#"{{__address__="b:1", __meta_filepath="{shown}/b.json", x="y"}}"#);
    expect(&mut snapshots, "f", &[&a1, &a2]).await;
    // A new file, seen through the watch alone.
    std::fs::write(path("b.json"), r#"[{"targets": ["b:1"], "labels": {"x": "y"}}]"#).unwrap();
    expect(&mut snapshots, "f", &[&a1, &a2, &b1]).await;
    // A faulty file keeps what it gave; another one shrinks.
    std::fs::write(path("b.json"), "[{").unwrap();
    std::fs::write(path("a.yml"), "- targets: ['a:1']\n  labels: {n: 1, b: true}\n").unwrap();
    expect(&mut snapshots, "f", &[&a1, &b1]).await;
    assert!(registry.value("prometheus_sd_file_read_errors_total").unwrap() >= 1.0);
    // Replaced by a rename, as editors and ConfigMaps do.
    std::fs::write(path("tmp"), "- targets: ['a:2']\n").unwrap();
    std::fs::rename(path("tmp"), path("a.yml")).unwrap();
    expect(&mut snapshots, "f", &[&a2, &b1]).await;
    std::fs::remove_file(path("b.json")).unwrap();
    expect(&mut snapshots, "f", &[&a2]).await;
    let mut text = String::new();
    narthex_runtime::metrics::write_text(&mut text, &registry.gather());
    assert!(text.contains(&format!("prometheus_sd_file_mtime_seconds{{filename=\"{shown}/a.yml\"}}")), "{text}");
    assert!(!text.contains("b.json"), "{text}");
}

#[tokio::test]
async fn http() {
    let state = Arc::new(Mutex::new((200, JSON, r#"[{"targets":["a:1"],"labels":{"x":"y"}},{"targets":["a:2"]}]"#)));
    let answers = state.clone();
    let (address, log) = server(move |_| {
        let (status, headers, body) = *answers.lock();
        (status, headers, body.to_owned())
    })
    .await;
    let (manager, mut snapshots, registry) = manager();
    let url = format!("http://{address}/sd?x=1");
    let discovery = format!(
        "http_sd_configs: [{{url: '{url}', refresh_interval: 50ms, basic_auth: {{username: u, password: p}}, \
         http_headers: {{X-Own: {{values: [v]}}}}}}]"
    );
    assert!(manager.apply(&[job("h", &discovery)]).is_empty());
    let a1 = format!(r#"{{__address__="a:1", __meta_url="{url}", x="y"}}"#);
    let a2 = format!(r#"{{__address__="a:2", __meta_url="{url}"}}"#);
    expect(&mut snapshots, "h", &[&a1, &a2]).await;
    let asked = log.lock()[0].clone();
    assert_eq!(asked.target, "/sd?x=1");
    for header in [
        "accept: application/json\r\n",
        "authorization: basic dtpw\r\n",
        "x-prometheus-refresh-interval-seconds: 0.05\r\n",
        "x-own: v\r\n",
    ] {
        assert!(asked.head.contains(header), "{header:?} in {}", asked.head);
    }
    *state.lock() = (200, JSON, r#"[{"targets":["a:1"],"labels":{"x":"y"}}]"#);
    expect(&mut snapshots, "h", &[&a1]).await;
    // Faults change nothing, and are counted.
    for fault in [(500, JSON, "[]"), (200, "content-type: text/plain\r\n", "[]"), (200, JSON, "[null]")] {
        let before = registry.value("prometheus_sd_http_failures_total").unwrap();
        *state.lock() = fault;
        for _ in 0..400 {
            if registry.value("prometheus_sd_http_failures_total").unwrap() > before + 1.0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        assert!(registry.value("prometheus_sd_http_failures_total").unwrap() > before + 1.0);
        assert_eq!(targets(&snapshots.borrow(), "h").len(), 1);
    }
    *state.lock() = (200, JSON, "[]");
    expect(&mut snapshots, "h", &[]).await;
    // Stopped discoverers ask no more.
    manager.apply(&[]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let asked = log.lock().len();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(log.lock().len(), asked);
}

#[tokio::test]
async fn redirects_and_oauth2() {
    let (other, other_log) = server(|_| (200, JSON, r#"[{"targets":["r:1"]}]"#.to_owned())).await;
    let location: &'static str = Box::leak(format!("location: http://{other}/there\r\n").into_boxed_str());
    let (address, log) = server(move |asked| match asked.target.as_str() {
        "/token" if asked.head.contains("basic") => (401, "", String::new()),
        "/token" => {
            (200, JSON, r#"{"access_token":"secret-token","token_type":"bearer","expires_in":3600}"#.to_owned())
        }
        _ => (302, location, String::new()),
    })
    .await;
    let (manager, mut snapshots, _) = manager();
    let discovery = format!(
        "http_sd_configs: [{{url: 'http://{address}/sd', oauth2: {{client_id: i, client_secret: s, token_url: \
         'http://{address}/token'}}}}]"
    );
    assert!(manager.apply(&[job("h", &discovery)]).is_empty());
    expect(&mut snapshots, "h", &[&format!(r#"{{__address__="r:1", __meta_url="http://{address}/sd"}}"#)]).await;
    assert!(log.lock().iter().any(|a| a.head.contains("authorization: bearer secret-token")));
    // The token is not for others.
    assert!(!other_log.lock()[0].head.contains("authorization"));
}

#[tokio::test]
async fn consul() {
    const INDEX: &str = "content-type: application/json\r\nx-consul-index: 7\r\n";
    let (address, log) = server(|asked| {
        let path = asked.target.split('?').next().unwrap();
        match path {
            "/v1/agent/self" => (200, JSON, r#"{"Config":{"Datacenter":"dc1"}}"#.to_owned()),
            "/v1/catalog/services" => (200, INDEX, r#"{"web":["a","b"],"other":["b"]}"#.to_owned()),
            "/v1/health/service/web" => (
                200,
                INDEX,
                r#"[{"Node":{"Node":"n1","Address":"1.1.1.1","Meta":{"rack-id":"r1"},"TaggedAddresses":{"lan":"1.1.1.1"}},
                     "Service":{"ID":"web-1","Service":"web","Tags":["a","b"],"Address":"","Port":80,"Meta":{"v":"2"}},
                     "Checks":[{"CheckID":"x","Status":"warning"}]},
                    {"Node":{"Node":"n2","Address":"1.1.1.2","Meta":null,"TaggedAddresses":null},
                     "Service":{"ID":"web-2","Service":"web","Tags":null,"Address":"fd00::1","Port":81,"Meta":null},
                     "Checks":[]}]"#
                    .to_owned(),
            ),
            _ => (404, "", "no such page".to_owned()),
        }
    })
    .await;
    let (manager, mut snapshots, _) = manager();
    let discovery =
        format!("consul_sd_configs: [{{server: '{address}', token: t0k, tags: [a], refresh_interval: 50ms}}]");
    assert!(manager.apply(&[job("c", &discovery)]).is_empty());
    expect(
        &mut snapshots,
        "c",
        &[
            r#"{__address__="1.1.1.1:80", __meta_consul_address="1.1.1.1", __meta_consul_dc="dc1", __meta_consul_health="warning", __meta_consul_metadata_rack_id="r1", __meta_consul_node="n1", __meta_consul_service="web", __meta_consul_service_id="web-1", __meta_consul_service_metadata_v="2", __meta_consul_service_port="80", __meta_consul_tagged_address_lan="1.1.1.1", __meta_consul_tags=",a,b,"}"#,
            r#"{__address__="[fd00::1]:81", __meta_consul_address="1.1.1.2", __meta_consul_dc="dc1", __meta_consul_health="passing", __meta_consul_node="n2", __meta_consul_service="web", __meta_consul_service_address="fd00::1", __meta_consul_service_id="web-2", __meta_consul_service_port="81", __meta_consul_tags=",,"}"#,
        ],
    )
    .await;
    let log = log.lock().clone();
    assert!(log.iter().all(|a| a.head.contains("x-consul-token: t0k")));
    assert!(log.iter().all(|a| !a.target.contains("other")), "services without the tag are not watched");
    assert!(log.iter().any(|a| a.target == "/v1/catalog/services?stale=&wait=120000ms"), "{log:?}");
    assert!(log.iter().any(|a| a.target == "/v1/health/service/web?tag=a&stale=&wait=120000ms"), "{log:?}");
}

#[tokio::test]
async fn docker_over_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("docker.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let log = Arc::new(Mutex::new(Vec::new()));
    let answers: Answers = Arc::new(|asked| match asked.target.split('?').next().unwrap() {
        "/containers/json" => (
            200,
            JSON,
            r#"[{"Id":"c1","Names":["/web"],"Labels":{"com.x/y":"z"},"HostConfig":{"NetworkMode":"net"},
                 "Ports":[{"IP":"0.0.0.0","PrivatePort":80,"PublicPort":8080,"Type":"tcp"},
                          {"PrivatePort":81,"Type":"tcp"},{"PrivatePort":53,"Type":"udp"}],
                 "NetworkSettings":{"Networks":{"net":{"NetworkID":"n1","IPAddress":"172.20.0.2"},
                                                "other":{"NetworkID":"n2","IPAddress":"172.21.0.2"}}}},
                {"Id":"c2","Names":["/side"],"Labels":{},"HostConfig":{"NetworkMode":"container:c1"},"Ports":[],
                 "NetworkSettings":{"Networks":{}}},
                {"Id":"c3","Names":["/host"],"HostConfig":{"NetworkMode":"host"},"Ports":[],
                 "NetworkSettings":{"Networks":{"host":{"NetworkID":"n3","IPAddress":""}}}},
                {"Id":"c4","Names":["/loop"],"HostConfig":{"NetworkMode":"container:c4"},"Ports":[]}]"#
                .to_owned(),
        ),
        "/networks" => (
            200,
            JSON,
            r#"[{"Id":"n1","Name":"net","Scope":"local","Internal":false,"Ingress":false,"Labels":{"a-b":"c"}}]"#
                .to_owned(),
        ),
        _ => (404, "", String::new()),
    });
    let seen = log.clone();
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            tokio::spawn(serve(io, answers.clone(), seen.clone()));
        }
    });
    let (manager, mut snapshots, _) = manager();
    let discovery = format!(
        "docker_sd_configs: [{{host: 'unix://{}', port: 9, filters: [{{name: status, values: [running]}}]}}]",
        socket.display()
    );
    assert!(manager.apply(&[job("d", &discovery)]).is_empty());
    let web = r#"__meta_docker_container_id="c1", __meta_docker_container_label_com_x_y="z", __meta_docker_container_name="/web", __meta_docker_container_network_mode="net", __meta_docker_network_id="n1", __meta_docker_network_ingress="false", __meta_docker_network_internal="false", __meta_docker_network_ip="172.20.0.2", __meta_docker_network_label_a_b="c", __meta_docker_network_name="net", __meta_docker_network_scope="local""#;
    let network = r#"__meta_docker_network_id="n1", __meta_docker_network_ingress="false", __meta_docker_network_internal="false", __meta_docker_network_ip="172.20.0.2", __meta_docker_network_label_a_b="c", __meta_docker_network_name="net", __meta_docker_network_scope="local""#;
    expect(
        &mut snapshots,
        "d",
        &[
            &format!(r#"{{__address__="172.20.0.2:80", {web}, __meta_docker_port_private="80", __meta_docker_port_public="8080", __meta_docker_port_public_ip="0.0.0.0"}}"#),
            &format!(r#"{{__address__="172.20.0.2:81", {web}, __meta_docker_port_private="81"}}"#),
            &format!(r#"{{__address__="172.20.0.2:9", __meta_docker_container_id="c2", __meta_docker_container_name="/side", __meta_docker_container_network_mode="container:c1", {network}}}"#),
            r#"{__address__="localhost", __meta_docker_container_id="c3", __meta_docker_container_name="/host", __meta_docker_container_network_mode="host"}"#,
        ],
    )
    .await;
    let filters = "/containers/json?filters=%7B%22status%22%3A%7B%22running%22%3Atrue%7D%7D";
    assert!(log.lock().iter().any(|a| a.target == filters), "{log:?}");
}

#[tokio::test]
async fn nomad() {
    let (address, log) = server(|asked| match asked.target.split('?').next().unwrap() {
        "/v1/services" => (
            200,
            JSON,
            r#"[{"Namespace":"default","Services":[{"ServiceName":"hello world","Tags":["m"]}]}]"#.to_owned(),
        ),
        "/v1/service/hello%20world" => (
            200,
            JSON,
            r#"[{"ID":"_1","ServiceName":"hello world","Namespace":"default","NodeID":"node","Datacenter":"dc1","JobID":"j",
                 "AllocID":"a","Tags":["m","n"],"Address":"127.0.0.1","Port":30456}]"#
                .to_owned(),
        ),
        _ => (404, "", String::new()),
    })
    .await;
    let (manager, mut snapshots, _) = manager();
    assert!(manager.apply(&[job("n", &format!("nomad_sd_configs: [{{server: 'http://{address}'}}]"))]).is_empty());
    expect(
        &mut snapshots,
        "n",
        &[r#"{__address__="127.0.0.1:30456", __meta_nomad_address="127.0.0.1", __meta_nomad_dc="dc1", __meta_nomad_namespace="default", __meta_nomad_node_id="node", __meta_nomad_service="hello world", __meta_nomad_service_address="127.0.0.1", __meta_nomad_service_id="_1", __meta_nomad_service_port="30456", __meta_nomad_tags=",m,n,"}"#],
    )
    .await;
    assert!(log.lock().iter().all(|a| a.target.ends_with("?region=global&namespace=default&stale=")));
}
