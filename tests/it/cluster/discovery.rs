//! `kubernetes_sd_configs` in local mode: Narthex and a real Prometheus watch the same API server by the same
//! configuration, and must have found the same targets.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};

use super::Programs;
use super::control_plane::ControlPlane;
use super::world::{Process, eventually, get};

const NARTHEX: u16 = 9090;
const PROMETHEUS: u16 = 9091;

fn objects() -> Vec<Value> {
    let owner = |api: &str, kind: &str, name: &str| json!([{"apiVersion": api, "kind": kind, "name": name, "uid": "0f7a2f3e-0000-4000-8000-000000000000", "controller": true}]);
    let template = json!({"metadata": {"labels": {"app": "web"}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "none"}]}});
    let long_template = json!({"metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "main", "image": "none"}]}});
    let ports = |n: u16| json!([{"name": "http", "port": n, "protocol": "TCP"}, {"port": 9443, "protocol": "TCP", "name": "s"}]);
    let pod = |name: &str, kind: &str, owner_name: &str, api: &str| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "apps", "ownerReferences": owner(api, kind, owner_name),
                "labels": {"app": "web", "app.kubernetes.io/part-of": "x"}, "annotations": {"prometheus.io/scrape": "true"}},
            "spec": {"nodeName": "n1", "containers": [
                {"name": "main", "image": "none:1", "ports": [{"name": "http", "containerPort": 8080}, {"containerPort": 8081},
                    {"name": "dns", "containerPort": 5353, "protocol": "UDP"}, {"name": "dns-tcp", "containerPort": 5353, "protocol": "TCP"}]},
                {"name": "side", "image": "side:2"}],
                "initContainers": [{"name": "setup", "image": "init:3", "ports": [{"name": "boot", "containerPort": 9000, "protocol": "UDP"}]}]}})
    };
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "apps", "labels": {"team": "a"}, "annotations": {"note/x": "y"}}}),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}}),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z1"}},
            "spec": {"providerID": "test://n1"}}),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n2", "labels": {"role": "edge"}}}),
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web-5d", "namespace": "apps",
            "ownerReferences": owner("apps/v1", "Deployment", "web")},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "web"}}, "template": long_template}}),
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "night-1", "namespace": "apps",
            "ownerReferences": owner("batch/v1", "CronJob", "night")}, "spec": {"template": template}}),
        pod("web-0", "ReplicaSet", "web-5d", "apps/v1"),
        pod("night-1-x", "Job", "night-1", "batch/v1"),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lonely", "namespace": "other"},
            "spec": {"containers": [{"name": "main", "image": "none"}]}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "apps", "labels": {"app": "web"},
            "annotations": {"a.b/c": "d"}}, "spec": {"ports": ports(80)}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "far", "namespace": "other"},
            "spec": {"type": "ExternalName", "externalName": "far.example.com", "ports": [{"port": 443}]}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "front", "namespace": "other"},
            "spec": {"type": "LoadBalancer", "loadBalancerIP": "10.0.0.9", "ports": [{"port": 443}]}}),
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "web", "namespace": "apps", "labels": {"e": "1"}},
            "subsets": [{"addresses": [
                    {"ip": "10.200.0.5", "nodeName": "n1", "targetRef": {"kind": "Pod", "namespace": "apps", "name": "web-0"}},
                    {"ip": "10.200.0.6", "hostname": "h6"}],
                "notReadyAddresses": [{"ip": "10.200.0.7", "targetRef": {"kind": "Node", "name": "n2"}}],
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns-tcp", "port": 5353, "protocol": "TCP"}]}]}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "web-4", "namespace": "apps", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.200.0.5"], "nodeName": "n1", "zone": "z1", "conditions": {"ready": true, "serving": true, "terminating": false},
                    "targetRef": {"kind": "Pod", "namespace": "apps", "name": "web-0"}},
                {"addresses": ["10.200.0.8"], "hostname": "h8", "conditions": {"ready": false}}],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP", "appProtocol": "example.com/h2"},
                {"name": "dns-tcp", "port": 5353, "protocol": "TCP"}]}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "web-6", "namespace": "apps", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv6",
            "endpoints": [{"addresses": ["fd00::5"], "targetRef": {"kind": "Node", "name": "n2"}}], "ports": [{"port": 9100}]}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "bare", "namespace": "other"}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.200.0.9"]}], "ports": []}),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "in", "namespace": "apps", "labels": {"i": "1"}},
            "spec": {"ingressClassName": "nginx", "tls": [{"hosts": ["*.example.com", "x.test"]}], "rules": [
                {"host": "a.example.com", "http": {"paths": [
                    {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}},
                    {"path": "/deep", "pathType": "Exact", "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}},
                {"host": "plain.test", "http": {"paths": [{"pathType": "ImplementationSpecific", "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}},
                {"host": "a.b.example.com", "http": {"paths": [{"path": "/y", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}}]}}),
    ]
}

fn statuses() -> Vec<(&'static str, &'static str, Option<&'static str>, Value)> {
    let pod = json!({"status": {"podIP": "10.200.0.5", "podIPs": [{"ip": "10.200.0.5"}], "hostIP": "10.200.0.1", "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        "containerStatuses": [{"name": "main", "containerID": "containerd://abc", "image": "none:1", "imageID": "i", "ready": true, "restartCount": 0}],
        "initContainerStatuses": [{"name": "setup", "containerID": "containerd://def", "image": "init:3", "imageID": "i", "ready": true, "restartCount": 0}]}});
    let job = json!({"status": {"podIP": "10.200.0.15", "hostIP": "10.200.0.1", "phase": "Pending"}});
    let node = json!({"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "addresses": [{"type": "Hostname", "address": "n1.test"}, {"type": "InternalIP", "address": "10.200.0.1"}, {"type": "InternalIP", "address": "fd00::1"}],
        "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": null, "lastTransitionTime": null}]}});
    let edge = json!({"status": {"addresses": [{"type": "ExternalIP", "address": "fd00::2"}]}});
    vec![
        ("pod", "web-0", Some("apps"), pod),
        ("pod", "night-1-x", Some("apps"), job),
        ("node", "n1", None, node),
        ("node", "n2", None, edge),
    ]
}

fn configuration(plane: &ControlPlane) -> String {
    let kubeconfig = plane.kubeconfig.display();
    let folder = plane.folder.path().display();
    let mut out = "global: {scrape_interval: 1h}\nscrape_configs:\n".to_owned();
    for role in ["node", "pod", "service", "endpoints", "endpointslice", "ingress"] {
        out.push_str(&format!(
            "- job_name: {role}\n  kubernetes_sd_configs:\n  - {{role: {role}, kubeconfig_file: '{kubeconfig}'}}\n\
             - job_name: {role}-attached\n  kubernetes_sd_configs:\n  - role: {role}\n    api_server: https://127.0.0.1:6443\n    \
             attach_metadata: {{node: true, namespace: true, deployment: true, job: true, cronjob: true}}\n    \
             tls_config: {{ca_file: '{folder}/ca.crt', cert_file: '{folder}/admin.crt', key_file: '{folder}/admin.key'}}\n\
             - job_name: {role}-some\n  kubernetes_sd_configs:\n  - {{role: {role}, kubeconfig_file: '{kubeconfig}', \
             namespaces: {{names: [other]}}}}\n"
        ));
    }
    for (role, selector) in [
        ("pod", "{role: pod, label: 'app=web,app.kubernetes.io/part-of in (x,y)', field: spec.nodeName=n1}"),
        ("node", "{role: node, label: '!role'}"),
        ("endpoints", "{role: pod, label: none=such}"),
        ("service", "{role: service, field: metadata.name!=kubernetes}"),
    ] {
        out.push_str(&format!(
            "- job_name: {role}-selected\n  kubernetes_sd_configs:\n  - {{role: {role}, kubeconfig_file: '{kubeconfig}', \
             selectors: [{selector}]}}\n"
        ));
    }
    out
}

/// What a server has discovered: pool and labels of each target.
async fn found(port: u16) -> anyhow::Result<BTreeSet<String>> {
    let answer = get(&format!("http://127.0.0.1:{port}/api/v1/targets?state=any")).await?;
    let data = &answer["data"];
    let active = data["activeTargets"].as_array().into_iter().flatten();
    let dropped = data["droppedTargets"].as_array().into_iter().flatten();
    let text = |t: &Value| format!("{} {} {}", t["scrapePool"], t["discoveredLabels"], t["labels"]);
    Ok(active
        .map(text)
        .chain(dropped.map(|t| format!("dropped {} {}", t["scrapePool"], t["discoveredLabels"])))
        .collect())
}

/// Waits until both have found the same, and something that contains `sign`.
async fn agree(sign: &str, absent: &str) -> anyhow::Result<usize> {
    eventually("both find the same targets", Duration::from_secs(60), || async {
        let (ours, theirs) = (found(NARTHEX).await?, found(PROMETHEUS).await?);
        ensure!(theirs.iter().any(|t| t.contains(sign)), "Prometheus has not found {sign}");
        ensure!(absent.is_empty() || !theirs.iter().any(|t| t.contains(absent)), "Prometheus still has {absent}");
        let more: Vec<_> = ours.difference(&theirs).take(5).collect();
        let fewer: Vec<_> = theirs.difference(&ours).take(5).collect();
        ensure!(more.is_empty() && fewer.is_empty(), "only Narthex: {more:#?}\nonly Prometheus: {fewer:#?}");
        Ok(theirs.len())
    })
    .await
}

pub async fn all_roles(programs: Programs) -> anyhow::Result<()> {
    let Some(prometheus) = crate::process::prometheus() else {
        println!("skipped: no Prometheus");
        return Ok(());
    };
    let plane = ControlPlane::start(&programs).await?;
    plane.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects()}).to_string())?;
    for (kind, name, namespace, status) in statuses() {
        let status = status.to_string();
        let mut args = vec!["patch", kind, name, "--subresource=status", "--type=merge", "-p", &status];
        if let Some(namespace) = namespace {
            args.extend(["-n", namespace]);
        }
        plane.kubectl(&args, None)?;
    }
    let folder = plane.folder.path();
    let config = folder.join("prometheus.yml");
    std::fs::write(&config, configuration(&plane))?;
    let flags = |port: u16, data: &str| {
        [
            format!("--config.file={}", config.display()),
            format!("--web.listen-address=127.0.0.1:{port}"),
            format!("--storage.tsdb.path={}", folder.join(data).display()),
        ]
    };
    let mut command = Command::new(&programs.scraper);
    let narthex = Process::start("narthex", folder, command.arg("server").args(flags(NARTHEX, "narthex")))?;
    let mut command = Command::new(prometheus);
    let _prometheus = Process::start("prometheus", folder, command.args(flags(PROMETHEUS, "tsdb")))?;
    let context = || narthex.tail();
    let first = agree("night-1-x", "").await.map_err(|e| e.context(context()))?;
    // What the answers depend on changes: a pod goes, a node and a namespace get labels, a Service another port.
    plane.kubectl(&["delete", "pod", "night-1-x", "-n", "apps", "--grace-period=0", "--force"], None)?;
    plane.kubectl(&["label", "node", "n1", "fresh=yes"], None)?;
    plane.kubectl(&["label", "namespace", "apps", "team=b", "--overwrite"], None)?;
    plane.kubectl(&["annotate", "service", "web", "-n", "apps", "new=one"], None)?;
    let second = agree("fresh", "night-1-x").await.map_err(|e| e.context(context()))?;
    agree("annotation_new", "night-1-x").await.map_err(|e| e.context(context()))?;
    println!("{first} targets alike, {second} after changes");
    Ok(())
}
