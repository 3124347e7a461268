//! What a fleet has to live through.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::{Event, Pod, Secret};
use kube::api::{Api, ListParams, PostParams};
use narthex_crds::Fleet;
use serde_json::{Value, json};

use super::Programs;
use super::control_plane::ControlPlane;
use super::world::{NET, Process, eventually, get};

const MINUTE: Duration = Duration::from_secs(60);
const DELIVERY: u16 = 9443;
const EXPORTERS: usize = 6;
/// The chart asks for a version of the cluster; helm without one has an old default.
const KUBERNETES: &[&str] = &["--kube-version", "1.34.4"];

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The definitions of upstream's monitors, as committed.
fn monitor_definitions() -> anyhow::Result<Vec<String>> {
    ["servicemonitors", "podmonitors"]
        .iter()
        .map(|plural| {
            let file = root().join(format!("crds/upstream/monitoring.coreos.com_{plural}.yaml"));
            std::fs::read_to_string(&file).with_context(|| file.display().to_string())
        })
        .collect()
}

fn define(plane: &ControlPlane) -> anyhow::Result<()> {
    plane.apply(narthex_crds::FLEET_CRD)?;
    for definition in monitor_definitions()? {
        plane.apply(&definition)?;
    }
    plane.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"], None)?;
    Ok(())
}

/// A list that kubectl applies as a whole.
fn list(items: Vec<Value>) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

fn host(n: usize) -> String {
    format!("{NET}.{n}")
}

/// Namespaces, a Service with the addresses of exporters, a Pod, and their monitors.
fn objects() -> Vec<Value> {
    let restricted = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let endpoints: Vec<Value> = (0..EXPORTERS).map(|i| json!({"addresses": [host(2 + i)]})).collect();
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "obs", "labels": restricted}}),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "apps"}}),
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "node", "namespace": "apps", "labels": {"app": "node", "tier": "infra"}},
            "spec": {"clusterIP": "None", "ports": [{"name": "metrics", "port": 9100}]}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "node-1", "namespace": "apps", "labels": {"kubernetes.io/service-name": "node"}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "metrics", "port": 9100, "protocol": "TCP"}]}),
        json!({"apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor",
            "metadata": {"name": "node", "namespace": "apps"},
            "spec": {"selector": {"matchLabels": {"app": "node"}}, "targetLabels": ["tier"],
                "endpoints": [{"port": "metrics", "interval": "2s", "scrapeTimeout": "2s"}]}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-0", "namespace": "apps", "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "main", "image": "none", "ports": [{"name": "metrics", "containerPort": 9100}]}]}}),
        json!({"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor",
            "metadata": {"name": "web", "namespace": "apps"},
            "spec": {"selector": {"matchLabels": {"app": "web"}},
                "podMetricsEndpoints": [{"port": "metrics", "interval": "2s", "scrapeTimeout": "2s"}]}}),
        json!({"apiVersion": "narthex.dev/v1alpha1", "kind": "Fleet", "metadata": {"name": "main", "namespace": "obs"},
            "spec": {"shards": 2, "scrapeInterval": "5s", "retention": "1d"}}),
    ]
}

/// Helm's answer about the chart.
fn helm(programs: &Programs, plane: &ControlPlane, args: &[&str]) -> anyhow::Result<String> {
    let chart = root().join("helm/narthex");
    let output = Command::new(&programs.helm).args(args).arg(&chart).env("HOME", plane.folder.path()).output()?;
    let (errors, printed) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    anyhow::ensure!(output.status.success(), "helm {args:?}: {errors}\n{printed}");
    Ok(printed.into_owned())
}

/// The rights that the chart gives the operator, and a kubeconfig with these and no others.
fn operator_account(programs: &Programs, plane: &ControlPlane) -> anyhow::Result<PathBuf> {
    let only = ["--namespace", "obs", "--show-only", "templates/rbac.yaml"];
    plane.apply(&helm(programs, plane, &[&["template", "narthex"], KUBERNETES, &only].concat())?)?;
    let token = plane.kubectl(&["-n", "obs", "create", "token", "narthex-operator"], None)?;
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&plane.kubeconfig)?)?;
    config["users"] = json!([{"name": "admin", "user": {"token": token.trim()}}]);
    let file = plane.folder.path().join("operator.kubeconfig");
    std::fs::write(&file, config.to_string())?;
    Ok(file)
}

fn start_operator(programs: &Programs, plane: &ControlPlane, account: &Path) -> anyhow::Result<Process> {
    let mut command = Command::new(&programs.operator);
    command.env("KUBECONFIG", account).env("POD_NAMESPACE", "obs").args([
        "--leader-elect.name=narthex-operator".to_owned(),
        format!("--delivery.listen-address={}:{DELIVERY}", host(1)),
        format!("--web.listen-address={}:8080", host(1)),
        format!("--delivery.url=http://{}:{DELIVERY}", host(1)),
    ]);
    Process::start("operator", plane.folder.path(), &mut command)
}

/// The address of a shard's API.
fn shard_url(ordinal: usize) -> String {
    format!("http://{}:9090", host(30 + ordinal))
}

fn start_shard(programs: &Programs, folder: &Path, ordinal: usize) -> anyhow::Result<Process> {
    let name = format!("main-{ordinal}");
    let mut command = Command::new(&programs.scraper);
    command.current_dir(folder).args([
        "shard".to_owned(),
        "--fleet=obs/main".to_owned(),
        format!("--shard.name={name}"),
        format!("--shard.url={}", shard_url(ordinal)),
        format!("--operator.url=http://{}:{DELIVERY}", host(1)),
        format!("--token.file={}", folder.join("token").display()),
        format!("--storage.tsdb.path={}", folder.join(&name).display()),
        "--storage.tsdb.retention.time=1d".to_owned(),
        format!("--web.listen-address={}:9090", host(30 + ordinal)),
    ]);
    Process::start(&name, folder, &mut command)
}

/// Instances that a shard itself scrapes, with their health.
async fn scraped_by(ordinal: usize) -> anyhow::Result<BTreeMap<String, String>> {
    let answer = get(&format!("{}/api/v1/targets?state=active", shard_url(ordinal))).await?;
    let targets = answer["data"]["activeTargets"].as_array().cloned().unwrap_or_default();
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    Ok(targets.iter().map(|t| (text(&t["labels"]["instance"]), text(&t["health"]))).collect())
}

/// An instant query to a shard: label sets with values, and warnings.
async fn query(ordinal: usize, expression: &str) -> anyhow::Result<(Vec<(Value, f64)>, Vec<String>)> {
    let encoded: String = expression.bytes().map(|b| format!("%{b:02X}")).collect();
    let answer = get(&format!("{}/api/v1/query?query={encoded}", shard_url(ordinal))).await?;
    let rows = answer["data"]["result"].as_array().cloned().unwrap_or_default();
    let value = |r: &Value| r["value"][1].as_str().and_then(|v| v.parse().ok()).unwrap_or(f64::NAN);
    let warnings = answer["warnings"].as_array().into_iter().flatten();
    let warnings = warnings.filter_map(|w| w.as_str().map(str::to_owned)).collect();
    Ok((rows.iter().map(|r| (r["metric"].clone(), value(r))).collect(), warnings))
}

async fn single(ordinal: usize, expression: &str) -> anyhow::Result<f64> {
    let (rows, _) = query(ordinal, expression).await?;
    rows.first().map(|r| r.1).with_context(|| format!("{expression} has no answer"))
}

/// Each of the shards has some targets, no two the same one, all are up and there are `total`.
async fn shared_out(shards: usize, total: usize) -> anyhow::Result<Vec<usize>> {
    let (mut all, mut counts) = (BTreeSet::new(), Vec::new());
    for ordinal in 0..shards {
        let targets = scraped_by(ordinal).await?;
        anyhow::ensure!(!targets.is_empty(), "shard {ordinal} has no target");
        anyhow::ensure!(targets.values().all(|h| h == "up"), "{targets:?}");
        counts.push(targets.len());
        for instance in targets.into_keys() {
            anyhow::ensure!(all.insert(instance.clone()), "{instance} is scraped twice");
        }
    }
    anyhow::ensure!(all.len() == total, "{} of {total} targets: {all:?}", all.len());
    Ok(counts)
}

async fn status(plane: &ControlPlane) -> anyhow::Result<narthex_crds::FleetStatus> {
    let fleets: Api<Fleet> = Api::namespaced(plane.client.clone(), "obs");
    fleets.get("main").await?.status.context("the fleet has no status")
}

pub async fn fleet(programs: Programs) -> anyhow::Result<()> {
    let plane = ControlPlane::start(&programs).await?;
    let mut processes = Vec::new();
    let outcome = live(&programs, &plane, &mut processes).await;
    if outcome.is_err() {
        for process in &processes {
            eprintln!("{}", process.tail());
        }
    }
    outcome
}

/// Processes are left in `processes`: 0 the operator, then the shards by ordinal.
async fn live(programs: &Programs, plane: &ControlPlane, processes: &mut Vec<Process>) -> anyhow::Result<()> {
    let folder = plane.folder.path();
    define(plane)?;
    plane.apply(&list(objects()))?;
    let ip = host(2 + EXPORTERS);
    let running = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}}).to_string();
    plane.kubectl(
        &["-n", "apps", "patch", "pod", "web-0", "--subresource=status", "--type=merge", "-p", &running],
        None,
    )?;
    let mut exporters = Vec::new();
    for i in 0..=EXPORTERS {
        let listen = format!("--web.listen-address={}:9100", host(2 + i));
        let quick = ["--collector.disable-defaults", "--collector.cpu", "--collector.meminfo", "--collector.loadavg"];
        let mut command = Command::new(&programs.exporter);
        exporters.push(Process::start(&format!("exporter-{i}"), folder, command.arg(listen).args(quick))?);
    }
    let total = EXPORTERS + 1;

    let account = operator_account(programs, plane)?;
    processes.push(start_operator(programs, plane, &account)?);
    let secrets: Api<Secret> = Api::namespaced(plane.client.clone(), "obs");
    let token = eventually("the operator makes the fleet's token", MINUTE, || async {
        let secret = secrets.get("main-fleet-token").await?;
        Ok(secret.data.and_then(|mut d| d.remove("token")).context("no token")?.0)
    })
    .await?;
    std::fs::write(folder.join("token"), token)?;
    for ordinal in 0..2 {
        processes.push(start_shard(programs, folder, ordinal)?);
    }

    println!("both shards scrape their share of real exporters");
    let counts = eventually("targets are shared out", MINUTE, || shared_out(2, total)).await?;
    println!("  shares: {counts:?}");
    let seen = eventually("the fleet's status says so", MINUTE, || async {
        let s = status(plane).await?;
        anyhow::ensure!(s.ready_shards == 2 && s.targets == total as i64 && s.targets_up == s.targets, "{s:?}");
        Ok(s)
    })
    .await?;
    println!("  status: {} shards, {} targets up, {} series", seen.ready_shards, seen.targets_up, seen.series);

    println!("targets have the labels that prometheus-operator gives them");
    let (rows, _) = query(0, "up{job=\"node\"}").await?;
    let labels = rows.iter().map(|r| &r.0).find(|l| l["instance"] == format!("{}:9100", host(2)));
    let expected = json!({"__name__": "up", "job": "node", "instance": format!("{}:9100", host(2)), "namespace": "apps",
        "service": "node", "endpoint": "metrics", "tier": "infra"});
    anyhow::ensure!(labels == Some(&expected), "{labels:?}");
    let (rows, _) = query(1, "up{job=\"apps/web\"}").await?;
    let expected = json!({"__name__": "up", "job": "apps/web", "instance": format!("{ip}:9100"), "namespace": "apps",
        "pod": "web-0", "container": "main", "endpoint": "metrics"});
    anyhow::ensure!(rows.first().map(|r| &r.0) == Some(&expected), "{rows:?}");

    println!("any shard answers for the fleet");
    for ordinal in 0..2 {
        eventually("a federated count", MINUTE, || async {
            let n = single(ordinal, "count(up == 1)").await?;
            anyhow::ensure!(n == total as f64, "{n}");
            Ok(())
        })
        .await?;
        let (rows, warnings) = query(ordinal, "count by (instance) (node_cpu_seconds_total)").await?;
        anyhow::ensure!(rows.len() == total && warnings.is_empty(), "{rows:?} {warnings:?}");
    }

    println!("monitors that match nothing or make no sense say so");
    let monitor = |name: &str, endpoint: Value| {
        json!({"apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor",
            "metadata": {"name": name, "namespace": "apps"},
            "spec": {"selector": {"matchLabels": {"app": name}}, "endpoints": [endpoint]}})
    };
    let bad =
        monitor("bad", json!({"port": "x", "relabelings": [{"action": "keep", "regex": "(", "sourceLabels": ["a"]}]}));
    plane.apply(&list(vec![monitor("nobody", json!({"port": "x"})), bad]))?;
    let events: Api<Event> = Api::namespaced(plane.client.clone(), "apps");
    eventually("Events and status name them", MINUTE, || async {
        let s = status(plane).await?;
        let named: Vec<_> = s.monitor_problems.iter().map(|p| (p.name.as_str(), p.reason.as_str())).collect();
        anyhow::ensure!(named == [("bad", "Rejected"), ("nobody", "NoTargets")], "{named:?}");
        let of: BTreeSet<_> = events
            .list(&ListParams::default())
            .await?
            .into_iter()
            .filter_map(|e| Some((e.involved_object.name?, e.reason?)))
            .collect();
        for (name, reason) in named {
            anyhow::ensure!(of.contains(&(name.to_owned(), reason.to_owned())), "{of:?}");
        }
        anyhow::ensure!(s.targets_up == total as i64, "the others go on");
        Ok(())
    })
    .await?;
    plane.kubectl(&["-n", "apps", "delete", "servicemonitor", "bad", "nobody"], None)?;

    println!("the pods that it asks for satisfy the restricted standard");
    let set = plane.kubectl(&["-n", "obs", "get", "statefulset", "main", "-o", "json"], None)?;
    let set: Value = serde_json::from_str(&set)?;
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe"}, "spec": set["spec"]["template"]["spec"]});
    let pods: Api<Pod> = Api::namespaced(plane.client.clone(), "obs");
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    pods.create(&dry, &serde_json::from_value(pod.clone())?)
        .await
        .context("the restricted namespace refuses the pod")?;
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = json!(true);
    let refused = pods.create(&dry, &serde_json::from_value(pod)?).await;
    anyhow::ensure!(refused.is_err(), "the check itself must be able to fail");

    println!("targets move when a shard joins, without a gap");
    plane.kubectl(&["-n", "obs", "scale", "fleet", "main", "--replicas=3"], None)?;
    processes.push(start_shard(programs, folder, 2)?);
    let counts = eventually("targets move to the new shard", MINUTE, || shared_out(3, total)).await?;
    println!("  shares: {counts:?}");
    tokio::time::sleep(Duration::from_secs(12)).await;
    // A staleness marker or a flap would leave fewer steps than these eleven…
    let (rows, _) = query(2, "count_over_time((up == 1)[20s:2s])").await?;
    anyhow::ensure!(rows.len() == total && rows.iter().all(|r| r.1 >= 10.0), "a flap: {rows:?}");
    // …and a gap fewer samples than these ten; a scrape may be late on a busy machine.
    let (rows, _) = query(2, "count_over_time(up[20s])").await?;
    anyhow::ensure!(rows.len() == total && rows.iter().all(|r| r.1 >= 8.0), "a gap: {rows:?}");

    println!("shards go on while the operator is down, restarts included");
    processes[0].kill();
    processes[1].kill();
    processes[1] = start_shard(programs, folder, 0)?;
    let counts = eventually("the restarted shard scrapes again", MINUTE, || shared_out(3, total)).await?;
    println!("  shares: {counts:?}");
    eventually("all samples are fresh", MINUTE, || async {
        let age = single(0, "max(time() - timestamp(up))").await?;
        anyhow::ensure!(age < 6.0, "{age}");
        let n = single(0, "count(up == 1)").await?;
        anyhow::ensure!(n == total as f64, "{n}");
        Ok(())
    })
    .await?;

    println!("a dead shard leaves a partial answer that names it");
    processes[3].kill();
    let (rows, warnings) = query(0, "count by (instance) (up)").await?;
    anyhow::ensure!(!rows.is_empty(), "no answer at all");
    anyhow::ensure!(warnings.iter().any(|w| w.contains("main-2")), "{warnings:?}");

    println!("a new operator takes over, and the others take the dead shard's targets");
    processes[0] = start_operator(programs, plane, &account)?;
    let counts = eventually("the dead shard's targets are taken over", MINUTE, || shared_out(2, total)).await?;
    println!("  shares: {counts:?}");
    for process in processes.iter_mut().take(3) {
        process.alive()?;
    }
    Ok(())
}

/// Chart and kustomize folders pass a real API server's checks.
pub async fn manifests(programs: Programs) -> anyhow::Result<()> {
    let plane = ControlPlane::start(&programs).await?;
    define(&plane)?;
    for namespace in ["narthex-system", "apps"] {
        plane.kubectl(&["create", "namespace", namespace], None)?;
    }
    let release = [&["template", "narthex", "--namespace", "narthex-system", "--no-hooks"], KUBERNETES].concat();
    let all = [
        &[][..],
        &["--set", "operator.replicas=1,networkPolicy.enabled=true,operator.watchNodes=false"],
        &["--set", "rbac.secretNamespaces={apps},fleet.spec.storage.size=5Gi,fleet.spec.shards=3"],
        &["--set", "fleet.enabled=false,grafana.datasource.enabled=false,selfMonitoring.enabled=false"],
    ];
    for values in all {
        helm(&programs, &plane, &[&["lint", "--strict"], values].concat())?;
        let rendered = helm(&programs, &plane, &[&release, values].concat())?;
        let accepted = plane.kubectl(&["apply", "--dry-run=server", "-f", "-"], Some(&rendered))?;
        println!("{values:?}:\n{accepted}");
    }
    // The whole of the chart by default: its promises in NOTES.txt and the README.
    let rendered = helm(&programs, &plane, &release)?;
    anyhow::ensure!(rendered.contains("grafana_datasource: \"1\""), "no data source for Grafana");
    let kustomize = root().join("kustomize");
    let mut folders = vec![kustomize.join("base")];
    folders.extend(
        std::fs::read_dir(kustomize.join("overlays")).into_iter().flatten().filter_map(|e| Some(e.ok()?.path())),
    );
    for folder in folders.iter().filter(|f| f.join("kustomization.yaml").exists()) {
        let text = folder.display().to_string();
        let rendered = plane.kubectl(&["kustomize", &text], None)?;
        let namespaces: BTreeSet<&str> =
            rendered.lines().filter_map(|l| l.strip_prefix("  namespace: ")).map(str::trim).collect();
        for namespace in namespaces {
            // It may exist.
            let _ = plane.kubectl(&["create", "namespace", namespace], None);
        }
        let accepted =
            plane.kubectl(&["apply", "--dry-run=server", "-f", "-"], Some(&rendered)).context(text.clone())?;
        println!("{text}:\n{accepted}");
    }
    Ok(())
}
