use std::collections::HashMap;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

#[derive(Default)]
struct World(HashMap<(Kind, String), Object>);

macro_rules! find {
    ($self:ident, $kind:expr, $namespace:expr, $name:expr, $variant:ident) => {
        match $self.0.get(&($kind, name_in($namespace, $name))) {
            Some(Object::$variant(o)) => Some(o),
            _ => None,
        }
    };
}

impl Objects for World {
    fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        find!(self, Kind::Service, namespace, name, Service)
    }
    fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        find!(self, Kind::Pod, namespace, name, Pod)
    }
    fn node(&self, name: &str) -> Option<&Node> {
        find!(self, Kind::Node, "", name, Node)
    }
    fn bare(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Bare> {
        find!(self, kind, namespace, name, Bare)
    }
}

fn from<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn world() -> World {
    let objects = [
        (
            Kind::Pod,
            Object::Pod(from(json!({
                "metadata": {"name": "web-0", "namespace": "ns", "uid": "u1", "labels": {"app.kubernetes.io/name": "web"},
                    "ownerReferences": [{"kind": "ReplicaSet", "name": "web-1", "controller": true}]},
                "spec": {"nodeName": "n1",
                    "containers": [
                        {"name": "main", "image": "i", "ports": [
                            {"name": "http", "containerPort": 8080, "protocol": "UDP"},
                            {"name": "admin", "containerPort": 8081, "protocol": "TCP"}]},
                        {"name": "side", "image": "s", "ports": null}],
                    "initContainers": [{"name": "init", "image": "n", "ports": [{"name": "boot", "containerPort": 9000}]}]},
                "status": {"podIP": "10.0.0.7", "hostIP": "192.168.0.1", "phase": "Running",
                    "conditions": [{"type": "Ready", "status": "False"}],
                    "containerStatuses": [{"name": "main", "containerID": "c://1"}]}}))),
        ),
        (Kind::Pod, Object::Pod(from(json!({"metadata": {"name": "starting", "namespace": "ns"}})))),
        (
            Kind::Node,
            Object::Node(from(
                json!({"metadata": {"name": "n1", "labels": {"zone": "a"}}, "spec": {"providerID": "p"},
                "status": {"addresses": [{"type": "Hostname", "address": "n1.x"}, {"type": "InternalIP", "address": "fd00::1"},
                    {"type": "InternalIP", "address": "10.9.9.9"}],
                    "conditions": [{"type": "DiskPressure", "status": "False"}],
                    "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}}}),
            )),
        ),
        (
            Kind::Service,
            Object::Service(from(json!({"metadata": {"name": "web", "namespace": "ns", "labels": {"app": "web"},
                    "annotations": {"a/b": "c"}},
                "spec": {"type": "LoadBalancer", "clusterIP": "10.1.1.1", "loadBalancerIP": "1.2.3.4",
                    "ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv6"],
                    "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}}))),
        ),
        (
            Kind::Endpoints,
            Object::Endpoints(from(
                json!({"metadata": {"name": "web", "namespace": "ns", "labels": {"e": "f"}}, "subsets": [{
                "addresses": [{"ip": "10.0.0.7", "nodeName": "n1", "targetRef": {"kind": "Pod", "namespace": "ns", "name": "web-0"}}],
                "notReadyAddresses": [{"ip": "10.0.0.8", "hostname": "h"}],
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]}]}),
            )),
        ),
        (
            Kind::EndpointSlice,
            Object::EndpointSlice(from(
                json!({"metadata": {"name": "web-x", "namespace": "ns", "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": "IPv4",
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP", "appProtocol": "h2"}, {"name": "any"}],
                "endpoints": [{"addresses": ["10.0.0.7"], "conditions": {"ready": true}, "nodeName": "n1", "zone": "a",
                        "targetRef": {"kind": "Pod", "namespace": "ns", "name": "web-0"}},
                    {"addresses": ["fd00::7"], "conditions": {"ready": false}, "hostname": "h"}]}),
            )),
        ),
        (
            Kind::EndpointSlice,
            Object::EndpointSlice(from(
                json!({"metadata": {"name": "web-6", "namespace": "ns", "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": "IPv6", "ports": [{"port": 1}], "endpoints": [{"addresses": ["fd00::1"]}]}),
            )),
        ),
        (
            Kind::Ingress,
            Object::Ingress(from(
                json!({"metadata": {"name": "in", "namespace": "ns"}, "spec": {"ingressClassName": "nginx",
                "tls": [{"hosts": ["*.example.com"]}],
                "rules": [{"host": "a.example.com", "http": {"paths": [{"path": ""}, {"path": "/x"}]}},
                    {"host": "a.b.example.com"}]}}),
            )),
        ),
        (Kind::Namespace, Object::Bare(from(json!({"metadata": {"name": "ns", "labels": {"team": "t"}}})))),
        (
            Kind::ReplicaSet,
            Object::Bare(from(json!({"metadata": {"name": "web-1", "namespace": "ns",
                "ownerReferences": [{"kind": "Deployment", "name": "web", "controller": true}]}}))),
        ),
    ];
    let key = |kind: Kind, o: &Object| (kind, name_in(&o.metadata().namespace, &o.metadata().name));
    World(objects.into_iter().map(|(kind, o)| (key(kind, &o), o)).collect())
}

const NONE: KubernetesAttachMetadata =
    KubernetesAttachMetadata { node: false, namespace: false, deployment: false, job: false, cronjob: false };
const ALL: KubernetesAttachMetadata =
    KubernetesAttachMetadata { node: true, namespace: true, deployment: true, job: true, cronjob: true };

fn made(kind: Kind, name: &str, attach: &KubernetesAttachMetadata) -> TargetGroup {
    let world = world();
    Grouper { objects: &world, attach }.group(&world.0[&(kind, name.to_owned())])
}

fn check(labels: &Labels, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        let name = if *name == "instance" { (*name).to_owned() } else { format!("{META}{name}") };
        assert_eq!(labels.value(&name), *value, "{name} of {labels}");
    }
}

fn addresses(group: &TargetGroup) -> Vec<&str> {
    group.targets.iter().map(|t| t.value("__address__")).collect()
}

#[test]
fn nodes() {
    let group = made(Kind::Node, "n1", &NONE);
    assert_eq!((group.source.as_str(), addresses(&group)), ("node/n1", vec!["[fd00::1]:10250"]));
    check(&group.labels, &[("node_name", "n1"), ("node_provider_id", "p"), ("node_condition_diskpressure", "false")]);
    check(
        &group.targets[0],
        &[("instance", "n1"), ("node_address_InternalIP", "fd00::1"), ("node_address_Hostname", "n1.x")],
    );
}

#[test]
fn a_pod_gives_a_target_per_port_or_a_bare_address() {
    let group = made(Kind::Pod, "ns/web-0", &ALL);
    assert_eq!(group.source, "pod/ns/web-0");
    assert_eq!(addresses(&group), ["10.0.0.7:8080", "10.0.0.7:8081", "10.0.0.7", "10.0.0.7:9000"]);
    check(
        &group.labels,
        &[
            ("pod_name", "web-0"),
            ("pod_ip", "10.0.0.7"),
            ("pod_ready", "false"),
            ("pod_controller_kind", "ReplicaSet"),
            ("pod_deployment_name", "web"),
            ("node_label_zone", "a"),
            ("namespace_label_team", "t"),
            ("pod_label_app_kubernetes_io_name", "web"),
        ],
    );
    check(
        &group.targets[0],
        &[
            ("pod_container_id", "c://1"),
            ("pod_container_init", "false"),
            ("pod_container_port_name", "http"),
            ("pod_container_port_protocol", "UDP"),
        ],
    );
    check(&group.targets[3], &[("pod_container_init", "true")]);
    check(&made(Kind::Pod, "ns/web-0", &NONE).labels, &[("pod_deployment_name", ""), ("node_name", "")]);
    assert!(made(Kind::Pod, "ns/starting", &NONE).targets.is_empty(), "it has no address");
    let World(mut objects) = world();
    objects.remove(&(Kind::Node, "n1".to_owned()));
    let pod = objects[&(Kind::Pod, "ns/web-0".to_owned())].clone();
    let world = World(objects);
    assert!(Grouper { objects: &world, attach: &ALL }.group(&pod).targets.is_empty(), "its node is unknown");
}

#[test]
fn services() {
    let group = made(Kind::Service, "ns/web", &NONE);
    assert_eq!((group.source.as_str(), addresses(&group)), ("svc/ns/web", vec!["web.ns.svc:80"]));
    check(&group.labels, &[("service_annotation_a_b", "c"), ("service_annotationpresent_a_b", "true")]);
    check(
        &group.targets[0],
        &[("service_cluster_ip", "10.1.1.1"), ("service_loadbalancer_ip", "1.2.3.4"), ("service_type", "LoadBalancer")],
    );
}

#[test]
fn endpoints_give_their_addresses_and_their_pods_other_ports() {
    let group = made(Kind::Endpoints, "ns/web", &ALL);
    assert_eq!(group.source, "endpoints/ns/web");
    assert_eq!(addresses(&group), ["10.0.0.7:8080", "10.0.0.8:8080", "10.0.0.7:8081", "10.0.0.7:9000"]);
    check(&group.labels, &[("endpoints_name", "web"), ("endpoints_label_e", "f"), ("service_name", "web")]);
    check(&group.targets[0], &[("endpoint_ready", "true"), ("pod_name", "web-0"), ("node_name", "n1")]);
    check(&group.targets[0], &[("pod_container_name", "main"), ("pod_container_port_protocol", "TCP")]);
    check(&group.targets[1], &[("endpoint_ready", "false"), ("endpoint_hostname", "h"), ("pod_name", "")]);
    check(&group.targets[3], &[("pod_container_init", "true"), ("endpoint_port_name", "")]);
}

#[test]
fn slices_give_their_addresses_and_their_pods_other_ports() {
    let group = made(Kind::EndpointSlice, "ns/web-x", &ALL);
    assert_eq!(group.source, "endpointslice/ns/web-x");
    assert_eq!(
        addresses(&group),
        ["10.0.0.7:8080", "10.0.0.7", "[fd00::7]:8080", "fd00::7", "10.0.0.7:8081", "10.0.0.7:9000"]
    );
    check(
        &group.labels,
        &[
            ("endpointslice_address_type", "IPv4"),
            ("endpointslice_name", "web-x"),
            ("endpointslice_label_kubernetes_io_service_name", "web"),
            ("service_name", "web"),
            ("service_label_app", "web"),
            ("service_labelpresent_app", "true"),
            ("namespace", "ns"),
        ],
    );
    check(
        &group.targets[0],
        &[
            ("endpointslice_port", "8080"),
            ("endpointslice_port_name", "http"),
            ("endpointslice_port_app_protocol", "h2"),
            ("endpointslice_endpoint_conditions_ready", "true"),
            ("endpointslice_endpoint_zone", "a"),
            ("endpointslice_address_target_kind", "Pod"),
            ("endpointslice_address_target_name", "web-0"),
            ("pod_name", "web-0"),
            ("pod_container_name", "main"),
            ("pod_container_port_number", "8080"),
            ("pod_container_port_protocol", "UDP"),
            ("node_label_zone", "a"),
        ],
    );
    check(&group.targets[2], &[("pod_name", ""), ("pod_container_name", "")]);
    check(&group.targets[4], &[("pod_container_port_name", "admin"), ("endpointslice_port_name", "")]);
    assert!(made(Kind::EndpointSlice, "ns/web-6", &NONE).targets.is_empty(), "the second family");
}

#[test]
fn slices_are_read_as_the_endpoints_that_they_belong_to() {
    let world = world();
    let group = |name: &str| match &world.0[&(Kind::EndpointSlice, format!("ns/{name}"))] {
        Object::EndpointSlice(slice) => Grouper { objects: &world, attach: &NONE }.endpoints_group_of(slice),
        _ => unreachable!(),
    };
    let (read, listed) = (group("web-x"), made(Kind::Endpoints, "ns/web", &NONE));
    assert_eq!(read.source, "endpoints/ns/web-x", "each slice has a group");
    check(&read.labels, &[("endpoints_name", "web"), ("endpoints_label_app", "web"), ("service_name", "web")]);
    assert_eq!(read.targets[0], listed.targets[0], "as the Endpoints object gives it");
    assert_eq!(addresses(&read), ["10.0.0.7:8080", "[fd00::7]:8080", "10.0.0.7:8081", "10.0.0.7:9000"]);
    check(&read.targets[1], &[("endpoint_ready", "false"), ("endpoint_hostname", "h")]);
    assert!(group("web-6").targets.is_empty(), "the second family");
}

#[test]
fn ingresses() {
    let group = made(Kind::Ingress, "ns/in", &NONE);
    assert_eq!(addresses(&group), ["a.example.com", "a.example.com", "a.b.example.com"]);
    check(&group.labels, &[("ingress_class_name", "nginx"), ("ingress_name", "in")]);
    check(&group.targets[0], &[("ingress_scheme", "https"), ("ingress_path", "/")]);
    check(&group.targets[1], &[("ingress_path", "/x")]);
    check(&group.targets[2], &[("ingress_scheme", "http"), ("ingress_path", "/")]);
}
