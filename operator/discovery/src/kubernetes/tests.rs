//! Objects and their groups, and following an API server that misbehaves.

use narthex_config::{KubernetesAttachMetadata, WebUrl};
use narthex_model::Labels;
use narthex_runtime::metrics::Registry;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

fn read(kind: Kind, value: &Value) -> Object {
    objects::event_object(kind, json!({"type": "ADDED", "object": value}).to_string().as_bytes()).unwrap()
}

fn world(objects: &[(Kind, Value)]) -> World {
    let mut world = World::default();
    for (kind, value) in objects {
        let object = read(*kind, value);
        let meta = object.metadata();
        world.objects.insert((*kind, name_in(&meta.namespace, &meta.name)), object);
    }
    world
}

fn pod() -> Value {
    json!({
        "metadata": {"name": "web-0", "namespace": "ns", "uid": "u1", "labels": {"app.kubernetes.io/name": "web"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web-1", "controller": true}]},
        "spec": {"nodeName": "n1",
            "containers": [
                {"name": "main", "image": "i", "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"},
                    {"name": "admin", "containerPort": 8081, "protocol": "TCP"}]},
                {"name": "side", "image": "s", "ports": null}],
            "initContainers": [{"name": "init", "image": "n", "ports": [{"name": "boot", "containerPort": 9000}]}]},
        "status": {"podIP": "10.0.0.7", "hostIP": "192.168.0.1", "phase": "Running",
            "conditions": [{"type": "Ready", "status": "False"}],
            "containerStatuses": [{"name": "main", "containerID": "c://1"}]}
    })
}

fn objects() -> Vec<(Kind, Value)> {
    vec![
        (Kind::Pod, pod()),
        (
            Kind::Node,
            json!({"metadata": {"name": "n1", "labels": {"zone": "a"}}, "spec": {"providerID": "p"},
                "status": {"addresses": [{"type": "Hostname", "address": "n1.x"}, {"type": "InternalIP", "address": "fd00::1"},
                    {"type": "InternalIP", "address": "10.9.9.9"}],
                    "conditions": [{"type": "DiskPressure", "status": "False"}],
                    "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}}}),
        ),
        (
            Kind::Service,
            json!({"metadata": {"name": "web", "namespace": "ns", "annotations": {"a/b": "c"}},
                "spec": {"type": "LoadBalancer", "clusterIP": "10.1.1.1", "loadBalancerIP": "1.2.3.4",
                    "ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv6"],
                    "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}}),
        ),
        (
            Kind::Endpoints,
            json!({"metadata": {"name": "web", "namespace": "ns", "labels": {"e": "f"}}, "subsets": [{
                "addresses": [{"ip": "10.0.0.7", "nodeName": "n1", "targetRef": {"kind": "Pod", "namespace": "ns", "name": "web-0"}}],
                "notReadyAddresses": [{"ip": "10.0.0.8", "hostname": "h"}],
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]}]}),
        ),
        (
            Kind::EndpointSlice,
            json!({"metadata": {"name": "web-x", "namespace": "ns", "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP", "appProtocol": "h2"}],
                "endpoints": [{"addresses": ["10.0.0.7"], "conditions": {"ready": true}, "nodeName": "n1", "zone": "a",
                    "targetRef": {"kind": "Pod", "namespace": "ns", "name": "web-0"}}]}),
        ),
        (
            Kind::EndpointSlice,
            json!({"metadata": {"name": "web-6", "namespace": "ns", "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": "IPv6", "ports": null, "endpoints": null}),
        ),
        (
            Kind::Ingress,
            json!({"metadata": {"name": "in", "namespace": "ns"}, "spec": {"ingressClassName": "nginx",
                "tls": [{"hosts": ["*.example.com"]}],
                "rules": [{"host": "a.example.com", "http": {"paths": [{"path": ""}, {"path": "/x"}]}},
                    {"host": "a.b.example.com"}]}}),
        ),
        (Kind::Namespace, json!({"metadata": {"name": "ns", "labels": {"team": "t"}}})),
        (
            Kind::ReplicaSet,
            json!({"metadata": {"name": "web-1", "namespace": "ns",
                "ownerReferences": [{"kind": "Deployment", "name": "web", "controller": true}]}}),
        ),
    ]
}

fn check(labels: &Labels, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        let meta = format!("__meta_kubernetes_{name}");
        let name = if name.starts_with("__") || *name == "instance" { (*name).to_owned() } else { meta };
        assert_eq!(labels.value(&name), *value, "{name} of {labels}");
    }
}

fn made(kind: Kind, name: &str, attach: &KubernetesAttachMetadata) -> TargetGroup {
    groups::group(&(kind, name.to_owned()), &world(&objects()), attach)
}

fn addresses(group: &TargetGroup) -> Vec<&str> {
    group.targets.iter().map(|t| t.value("__address__")).collect()
}

#[test]
fn groups_of_every_role() {
    let none = KubernetesAttachMetadata::default();
    let all = KubernetesAttachMetadata { node: true, namespace: true, deployment: true, job: true, cronjob: true };

    let group = made(Kind::Node, "n1", &none);
    assert_eq!(addresses(&group), ["[fd00::1]:10250"]);
    check(&group.labels, &[("node_name", "n1"), ("node_provider_id", "p"), ("node_condition_diskpressure", "false")]);
    check(
        &group.targets[0],
        &[("instance", "n1"), ("node_address_InternalIP", "fd00::1"), ("node_address_Hostname", "n1.x")],
    );

    let group = made(Kind::Pod, "ns/web-0", &all);
    assert_eq!(addresses(&group), ["10.0.0.7:8080", "10.0.0.7:8081", "10.0.0.7", "10.0.0.7:9000"]);
    check(
        &group.labels,
        &[
            ("pod_name", "web-0"),
            ("pod_ready", "false"),
            ("pod_controller_kind", "ReplicaSet"),
            ("pod_deployment_name", "web"),
            ("node_label_zone", "a"),
            ("namespace_label_team", "t"),
            ("pod_label_app_kubernetes_io_name", "web"),
        ],
    );
    check(&group.targets[0], &[("pod_container_id", "c://1"), ("pod_container_port_name", "http")]);
    check(&made(Kind::Pod, "ns/web-0", &none).labels, &[("pod_deployment_name", ""), ("node_name", "")]);

    let group = made(Kind::Service, "ns/web", &none);
    assert_eq!(addresses(&group), ["web.ns.svc:80"]);
    check(&group.labels, &[("service_annotation_a_b", "c"), ("service_annotationpresent_a_b", "true")]);
    check(
        &group.targets[0],
        &[("service_cluster_ip", "10.1.1.1"), ("service_loadbalancer_ip", "1.2.3.4"), ("service_type", "LoadBalancer")],
    );

    let group = made(Kind::Endpoints, "ns/web", &all);
    assert_eq!(addresses(&group), ["10.0.0.7:8080", "10.0.0.8:8080", "10.0.0.7:8081", "10.0.0.7:9000"]);
    check(&group.labels, &[("endpoints_name", "web"), ("endpoints_label_e", "f"), ("service_name", "web")]);
    check(&group.targets[0], &[("endpoint_ready", "true"), ("pod_name", "web-0"), ("node_name", "n1")]);
    check(&group.targets[1], &[("endpoint_ready", "false"), ("endpoint_hostname", "h"), ("pod_name", "")]);
    check(&group.targets[3], &[("pod_container_init", "true"), ("endpoint_port_name", "")]);

    let group = made(Kind::EndpointSlice, "ns/web-x", &all);
    assert_eq!(addresses(&group), ["10.0.0.7:8080", "10.0.0.7:8081", "10.0.0.7:9000"]);
    check(&group.labels, &[("endpointslice_address_type", "IPv4"), ("service_name", "web"), ("namespace", "ns")]);
    check(
        &group.targets[0],
        &[
            ("endpointslice_port_app_protocol", "h2"),
            ("endpointslice_endpoint_zone", "a"),
            ("endpointslice_address_target_name", "web-0"),
            ("pod_container_name", "main"),
        ],
    );
    assert!(made(Kind::EndpointSlice, "ns/web-6", &none).targets.is_empty(), "the second family");

    let group = made(Kind::Ingress, "ns/in", &none);
    assert_eq!(addresses(&group), ["a.example.com", "a.example.com", "a.b.example.com"]);
    check(&group.labels, &[("ingress_class_name", "nginx"), ("ingress_name", "in")]);
    check(&group.targets[0], &[("ingress_scheme", "https"), ("ingress_path", "/")]);
    check(&group.targets[1], &[("ingress_path", "/x")]);
    check(&group.targets[2], &[("ingress_scheme", "http"), ("ingress_path", "/")]);
    assert!(made(Kind::Pod, "ns/gone", &none).targets.is_empty());
}

#[test]
fn a_group_is_made_anew_when_what_it_asked_for_changes() {
    let metrics = SdMetrics::register(&Registry::default());
    let feed = |kind| Feed { kind, namespace: None, label: String::new(), field: String::new() };
    let mut state = Groups {
        kind: Kind::EndpointSlice,
        role: "endpointslice",
        feeds: vec![feed(Kind::EndpointSlice), feed(Kind::Service), feed(Kind::Pod)],
        ..Groups::default()
    };
    let mut waiting = HashSet::new();
    let of = |kind: Kind| {
        let objects = objects();
        objects.iter().filter(|(k, _)| *k == kind).map(|(k, v)| read(*k, v)).collect::<Vec<_>>()
    };
    let mut take = |state: &mut Groups, event: Event| {
        state.take(event, &mut waiting, &metrics);
        let mut changed: Vec<String> =
            state.changed().iter().map(|g| format!("{} {}", g.source, g.targets.len())).collect();
        changed.sort();
        changed
    };
    assert_eq!(
        take(&mut state, Event::Reset(0, of(Kind::EndpointSlice))),
        ["endpointslice/ns/web-6 0", "endpointslice/ns/web-x 1"]
    );
    assert_eq!(take(&mut state, Event::Reset(2, of(Kind::Pod))), ["endpointslice/ns/web-x 3"]);
    assert_eq!(take(&mut state, Event::Reset(2, of(Kind::Pod))), [""; 0], "nothing changed");
    assert_eq!(take(&mut state, Event::Reset(1, of(Kind::Service))).len(), 2);
    let pod = of(Kind::Pod).remove(0);
    assert_eq!(take(&mut state, Event::Delete(2, pod.clone())), ["endpointslice/ns/web-x 1"]);
    assert_eq!(take(&mut state, Event::Apply(2, pod.clone())), ["endpointslice/ns/web-x 3"]);
    assert_eq!(take(&mut state, Event::Apply(2, pod)), [""; 0]);
    let slices = of(Kind::EndpointSlice);
    assert_eq!(take(&mut state, Event::Reset(0, slices[..1].to_vec())), ["endpointslice/ns/web-6 0"]);
    assert_eq!(take(&mut state, Event::Reset(0, vec![])), ["endpointslice/ns/web-x 0"]);
    assert!(state.asked_by.is_empty() && state.sent.is_empty(), "nothing stays behind");
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// An API server that gives each request the next answer; the last one is not answered at all.
async fn api_server(answers: Vec<String>) -> (String, Arc<parking_lot::Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/base", listener.local_addr().unwrap());
    let requests: Arc<parking_lot::Mutex<Vec<String>>> = Arc::default();
    let (seen, answers) = (requests.clone(), Arc::new(answers));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (seen, answers) = (seen.clone(), answers.clone());
            tokio::spawn(async move {
                loop {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read_u8().await {
                            Ok(b) => head.push(b),
                            Err(_) => return,
                        }
                    }
                    let text = String::from_utf8_lossy(&head).into_owned();
                    let n = {
                        let mut seen = seen.lock();
                        seen.push(text.split(' ').nth(1).unwrap_or_default().to_owned());
                        seen.len() - 1
                    };
                    let Some(answer) = answers.get(n) else { std::future::pending().await };
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (base, requests)
}

#[tokio::test]
async fn pages_watches_and_lost_places() {
    let service = |name: &str, version: &str| {
        json!({"metadata": {"name": name, "namespace": "ns", "resourceVersion": version},
            "spec": {"ports": [{"port": 1}]}})
    };
    let list = |items: Value, version: &str, next: &str| {
        answer(
            "200 OK",
            &json!({"metadata": {"resourceVersion": version, "continue": next}, "items": items}).to_string(),
        )
    };
    let event = |kind: &str, object: Value| format!("{}\n", json!({"type": kind, "object": object}));
    let first_watch = event("ADDED", service("c", "11"))
        + &event("DELETED", service("a", "12"))
        + &event("BOOKMARK", json!({"metadata": {"resourceVersion": "20"}}));
    let (base, requests) = api_server(vec![
        answer("500 Internal Server Error", "{\"message\": \"not yet\"}"),
        list(json!([service("a", "1")]), "10", "more"),
        list(json!([service("b", "2")]), "10", ""),
        answer("200 OK", &first_watch),
        answer("200 OK", &event("ERROR", json!({"kind": "Status", "code": 410, "message": "too old"}))),
        list(json!([service("b", "2"), service("d", "30")]), "30", ""),
    ])
    .await;
    let config = KubernetesSdConfig {
        role: Some(KubernetesRole::Service),
        api_server: Some(WebUrl::parse(&base).unwrap()),
        ..KubernetesSdConfig::default()
    };
    let metrics = SdMetrics::register(&Registry::default());
    let discovery = Box::new(KubernetesDiscovery::new(&config, metrics).unwrap());
    let (updates, mut received) = mpsc::channel(16);
    let task = tokio::spawn(discovery.run(updates));
    let mut there: BTreeSet<String> = BTreeSet::new();
    let expected = ["svc/ns/b", "svc/ns/d"];
    while there.iter().map(String::as_str).collect::<Vec<_>>() != expected {
        let groups = tokio::time::timeout(Duration::from_secs(20), received.recv()).await.unwrap().unwrap();
        for group in groups {
            if group.targets.is_empty() {
                there.remove(&group.source)
            } else {
                there.insert(group.source)
            };
        }
    }
    task.abort();
    let requests = requests.lock().clone();
    assert!(requests[2].contains("limit=500&continue=more"), "{requests:?}");
    assert!(requests[3].starts_with("/base/api/v1/services?watch=true"), "{requests:?}");
    assert!(requests[3].contains("resourceVersion=10&"), "{requests:?}");
    assert!(requests[4].contains("resourceVersion=20&"), "after the bookmark: {requests:?}");
    assert!(!requests[5].contains("watch"), "listed anew: {requests:?}");
}

#[test]
fn what_is_watched() {
    let mut config = KubernetesSdConfig { role: Some(KubernetesRole::Endpoints), ..KubernetesSdConfig::default() };
    config.namespaces.names = vec!["b".into(), "a".into(), "b".into()];
    config.attach_metadata = KubernetesAttachMetadata { node: true, cronjob: true, ..Default::default() };
    let feeds = feeds(&config, KubernetesRole::Endpoints, None);
    let text: Vec<String> =
        feeds.iter().map(|f| format!("{:?}/{}", f.kind, f.namespace.as_deref().unwrap_or("*"))).collect();
    assert_eq!(
        text,
        ["Node/*", "Endpoints/a", "Endpoints/b", "Service/a", "Service/b", "Pod/a", "Pod/b", "Job/a", "Job/b"]
    );
}
