//! Discovery beside a real Prometheus. One server plays Consul, Docker and Nomad for each, and both must find the same
//! labels and ask the same questions; and both must make the same of odd groups in files and from HTTP discovery.

mod groups;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::net::{self, Reply};
use crate::process::{Server, eventually, prometheus, start_narthex, start_prometheus};

/// Answers by path; what stands before `/containers` or `/networks` (Docker's version of the API) does not count.
/// There are two states, of which the second one has other services.
const ANSWERS: &[(&str, &str, &str)] = &[
    ("/v1/agent/self", include_str!("testdata/discovery/agent.json"), ""),
    ("/v1/catalog/services", include_str!("testdata/discovery/services.json"), r#"{"web":["a"],"late":["a","b"]}"#),
    ("/v1/health/service/web", include_str!("testdata/discovery/web.json"), "[]"),
    ("/v1/health/service/odd name", include_str!("testdata/discovery/odd.json"), ""),
    ("/v1/health/service/late", "[]", include_str!("testdata/discovery/odd.json")),
    ("/containers/json", include_str!("testdata/discovery/containers.json"), ""),
    ("/networks", include_str!("testdata/discovery/networks.json"), ""),
    (
        "/v1/services",
        include_str!("testdata/discovery/nomad.json"),
        r#"[{"Namespace":"default","Services":[{"ServiceName":"one","Tags":[]}]}]"#,
    ),
    ("/v1/service/hello world", include_str!("testdata/discovery/nomad_hello.json"), ""),
    ("/v1/service/one", include_str!("testdata/discovery/nomad_one.json"), ""),
];

/// Jobs: name and the settings of its discovery, `ADDRESS` being the server's.
const JOBS: &[(&str, &str)] = &[
    ("consul", "consul_sd_configs: [{server: 'ADDRESS'}]"),
    ("consul-tags", "consul_sd_configs: [{server: 'ADDRESS', tags: [b, a], tag_separator: ';', allow_stale: false}]"),
    ("consul-named", "consul_sd_configs: [{server: 'ADDRESS', services: [web], datacenter: there}]"),
    (
        "consul-all",
        "consul_sd_configs: [{server: 'http://ADDRESS', datacenter: dc9, namespace: n, partition: p, token: t, \
         node_meta: {rack: r1, zone: z}, filter: 'Service.Tags contains \"x\"', health_filter: 'Checks.Status == y', \
         path_prefix: /pre}]",
    ),
    ("docker", "docker_sd_configs: [{host: 'tcp://ADDRESS'}]"),
    (
        "docker-http",
        "docker_sd_configs: [{host: 'http://ADDRESS', match_first_network: false, port: 99, host_networking_host: me}]",
    ),
    (
        "docker-filters",
        "docker_sd_configs: [{host: 'http://ADDRESS', filters: [{name: status, values: [running, paused]}, \
         {name: label, values: [a=b]}]}]",
    ),
    ("nomad", "nomad_sd_configs: [{server: 'http://ADDRESS', refresh_interval: 1s}]"),
    (
        "nomad-all",
        "nomad_sd_configs: [{server: 'http://ADDRESS', region: here, namespace: '*', allow_stale: false, tag_separator: '|'}]",
    ),
];

/// What one of the two asks.
struct Service {
    address: SocketAddr,
    /// In which state it is, and Consul's index.
    state: Arc<AtomicU64>,
    asked: Arc<Mutex<BTreeSet<String>>>,
}

/// Undoes what need not be escaped, or may be so in two ways.
fn unescape(text: &str) -> String {
    text.replace("%20", " ").replace('+', " ").replace("%2A", "*")
}

fn service() -> Result<Service> {
    let state = Arc::new(AtomicU64::new(1));
    let asked = Arc::new(Mutex::new(BTreeSet::new()));
    let (now, log) = (state.clone(), asked.clone());
    let address = net::answering(move |target, _| {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = unescape(path.strip_prefix("/pre").unwrap_or(path));
        let path = match path.find("/containers").or_else(|| path.find("/networks")) {
            Some(at) => &path[at..],
            None => &path,
        };
        let mut parts: Vec<&str> = query.split('&').filter(|p| !p.starts_with("index=")).collect();
        parts.sort_unstable();
        let question = format!("{path} {}", unescape(&parts.join(" ")));
        log.lock().unwrap_or_else(PoisonError::into_inner).insert(question);
        let state = now.load(Ordering::SeqCst);
        // Consul holds back what is known.
        if query.split('&').any(|p| p == format!("index={state}")) {
            std::thread::sleep(Duration::from_millis(300));
        }
        let found = ANSWERS.iter().find(|a| a.0 == path).map(|a| if state > 1 && !a.2.is_empty() { a.2 } else { a.1 });
        let headers = format!("Content-Type: application/json\r\nX-Consul-Index: {state}\r\nApi-Version: 1.47\r\n");
        match found {
            Some(body) => Reply { status: 200, headers, body: body.into() },
            None if path == "/_ping" => Reply { status: 200, headers, body: b"OK".into() },
            None => Reply { status: 404, headers: String::new(), body: b"{\"message\":\"no such page\"}".into() },
        }
    })?;
    Ok(Service { address, state, asked })
}

/// What was discovered for each job, and what would be scraped.
fn found(server: &Server) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let targets = server.json("/api/v1/targets?state=active")?;
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for target in targets["data"]["activeTargets"].as_array().into_iter().flatten() {
        let pool = target["scrapePool"].as_str().unwrap_or_default().to_owned();
        all.entry(pool).or_default().insert(format!("{} {}", target["discoveredLabels"], target["scrapeUrl"]));
    }
    Ok(all)
}

fn configure(folder: &Path, address: SocketAddr) -> Result<String> {
    let mut text = "global: {scrape_interval: 1h}\nscrape_configs:\n".to_owned();
    for (name, discovery) in JOBS {
        text.push_str(&format!("- job_name: {name}\n  {}\n", discovery.replace("ADDRESS", &address.to_string())));
    }
    let file = folder.join(format!("{}.yml", address.port()));
    std::fs::write(&file, text)?;
    Ok(format!("--config.file={}", file.display()))
}

/// Waits until both have found the same for at least so many jobs, and shows the last differences if they don't.
fn agree(ours: &Server, theirs: &Server, jobs: usize) -> Result<()> {
    let mut last = (BTreeMap::new(), BTreeMap::new());
    let same = eventually(60, "the same targets", || {
        let now = (found(ours)?, found(theirs)?);
        let settled = now == last && now.1.len() >= jobs && now.0 == now.1;
        last = now;
        // Twice the same, and a Prometheus takes five seconds to pass on what it discovered.
        std::thread::sleep(Duration::from_secs(6));
        Ok(settled.then_some(()))
    });
    let names: BTreeSet<&String> = last.0.keys().chain(last.1.keys()).collect();
    let none = BTreeSet::new();
    for name in names {
        let (ours, theirs) = (last.0.get(name).unwrap_or(&none), last.1.get(name).unwrap_or(&none));
        for labels in ours.difference(theirs) {
            println!("{name}: narthex    {labels}");
        }
        for labels in theirs.difference(ours) {
            println!("{name}: prometheus {labels}");
        }
    }
    println!("{} jobs, {} targets", last.1.len(), last.1.values().map(BTreeSet::len).sum::<usize>());
    same
}

#[test]
fn groups_of_files_and_http_as_prometheus() -> Result<()> {
    let Some(binary) = prometheus() else {
        println!("skipped: no Prometheus to compare with");
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let address = net::answering(|target, _| {
        let case = target.rsplit('/').next().and_then(|n| groups::HTTP.get(n.parse::<usize>().ok()?));
        let (kind, body) = case.copied().unwrap_or_default();
        let headers = if kind.is_empty() { String::new() } else { format!("Content-Type: {kind}\r\n") };
        Reply { status: 200, headers, body: body.into() }
    })?;
    let mut text = "global: {scrape_interval: 1h}\nscrape_configs:\n".to_owned();
    for i in 0..groups::HTTP.len() {
        text.push_str(&format!("- job_name: http{i}\n  http_sd_configs: [{{url: 'http://{address}/{i}'}}]\n"));
    }
    for (i, (extension, content)) in groups::FILES.iter().enumerate() {
        let file = folder.path().join(format!("{i}.{extension}"));
        std::fs::write(&file, content)?;
        text.push_str(&format!("- job_name: file{i}\n  file_sd_configs: [{{files: ['{}']}}]\n", file.display()));
    }
    let file = folder.path().join("config");
    std::fs::write(&file, text)?;
    let config = format!("--config.file={}", file.display());
    let ours = start_narthex(folder.path(), net::free_port()?, &[&config])?;
    let theirs = start_prometheus(&binary, folder.path(), net::free_port()?, &[&config])?;
    agree(&ours, &theirs, 40)
}

#[test]
fn consul_docker_and_nomad_as_prometheus() -> Result<()> {
    let Some(binary) = prometheus() else {
        println!("skipped: no Prometheus to compare with");
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let (for_ours, for_theirs) = (service()?, service()?);
    let ours = start_narthex(folder.path(), net::free_port()?, &[&configure(folder.path(), for_ours.address)?])?;
    let theirs =
        start_prometheus(&binary, folder.path(), net::free_port()?, &[&configure(folder.path(), for_theirs.address)?])?;
    for (state, jobs) in [(1, JOBS.len()), (2, JOBS.len() - 1)] {
        for service in [&for_ours, &for_theirs] {
            service.state.store(state, Ordering::SeqCst);
        }
        agree(&ours, &theirs, jobs)?;
    }
    let asked = |s: &Service| s.asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (ours, theirs) = (asked(&for_ours), asked(&for_theirs));
    // Docker's client asks for the version first; ours speaks to any.
    let theirs: BTreeSet<String> = theirs.into_iter().filter(|a| !a.starts_with("/_ping")).collect();
    ensure!(
        ours == theirs,
        "asked otherwise: narthex {:#?}, prometheus {:#?}",
        ours.difference(&theirs).collect::<Vec<_>>(),
        theirs.difference(&ours).collect::<Vec<_>>()
    );
    Ok(())
}
