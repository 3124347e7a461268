//! Kubernetes objects become target groups, with the labels that Prometheus's `discovery/kubernetes` gives them.
//!
//! Parity that is easy to lose, each with a case in the tests: a pod's container ports that no endpoint covers are
//! targets too (init containers included); `container` is the first container that declares the port; slices of a
//! dual-stack Service's second family give nothing; a pod without declared ports is one target with a bare address;
//! readiness filters nothing.
//!
//! The `endpoints` role is derived from EndpointSlices (one group per slice): the Endpoints API is deprecated and cuts
//! off at 1,000 addresses. Labels and annotations of the Endpoints object are those of the Service, which the endpoints
//! controller copies.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use narthex_config::TargetGroup;
use narthex_model::{Labels, LabelsBuilder};

use crate::jobs::{Role, sanitize};

const META: &str = "__meta_kubernetes_";

/// The label of an EndpointSlice that names its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Where groups find the objects that theirs refer to.
pub trait Objects {
    fn service(&self, namespace: &str, name: &str) -> Option<&Service>;
    fn pod(&self, namespace: &str, name: &str) -> Option<&Pod>;
    fn node(&self, name: &str) -> Option<&Node>;
}

/// The group of an EndpointSlice in either role of Services. Without targets for a slice of a secondary IP family.
pub fn slice_group(slice: &EndpointSlice, objects: &dyn Objects, role: Role, attach_node: bool) -> TargetGroup {
    let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
    let name = slice.metadata.name.as_deref().unwrap_or_default();
    let service_name = slice.metadata.labels.as_ref().and_then(|l| l.get(SERVICE_NAME));
    let service = service_name.and_then(|s| objects.service(namespace, s));
    let mut labels = LabelsBuilder::new();
    labels.set(format!("{META}namespace"), namespace);
    if role == Role::EndpointSlice {
        labels.set(format!("{META}endpointslice_address_type"), slice.address_type.as_str());
        object_labels(&mut labels, &slice.metadata, "endpointslice");
    } else {
        labels.set(format!("{META}endpoints_name"), service_name.map_or(name, String::as_str));
        if let Some(service) = service {
            annotations_and_labels(&mut labels, &service.metadata, "endpoints");
        }
    }
    if let Some(service) = service {
        object_labels(&mut labels, &service.metadata, "service");
    }
    let mut group =
        TargetGroup { source: format!("{}/{namespace}/{name}", role.name()), labels: labels.build(), targets: vec![] };
    if secondary_family(service, &slice.address_type) {
        return group;
    }
    // In slice order; the endpoints that lead to a pod mark which of its ports are covered.
    let mut seen: BTreeMap<String, (&Pod, Vec<i32>)> = BTreeMap::new();
    for endpoint in &slice.endpoints {
        for port in slice.ports.iter().flatten() {
            for address in &endpoint.addresses {
                let mut target = match role {
                    Role::EndpointSlice => slice_labels(address, endpoint, port),
                    _ => endpoint_labels(address, endpoint, port),
                };
                if attach_node {
                    let reference = endpoint.target_ref.as_ref().filter(|r| r.kind.as_deref() == Some("Node"));
                    let node = reference.and_then(|r| r.name.as_deref()).or(endpoint.node_name.as_deref());
                    if let Some(node) = node.and_then(|n| objects.node(n)) {
                        object_labels(&mut target, &node.metadata, "node");
                    }
                }
                if let Some(pod) = pod_of(endpoint.target_ref.as_ref(), objects) {
                    pod_labels(&mut target, pod);
                    container_labels(&mut target, pod, port.port);
                    let key = pod.metadata.name.clone().unwrap_or_default();
                    seen.entry(key).or_insert((pod, vec![])).1.extend(port.port);
                }
                group.targets.push(target.build());
            }
        }
    }
    for (pod, covered) in seen.into_values() {
        uncovered_ports(&mut group.targets, pod, &covered);
    }
    group
}

/// The group of a pod: one target per declared container port, or one with the bare address per container without
/// any. Without targets while the pod has no address, or when node labels are asked for and its node is unknown.
pub fn pod_group(pod: &Pod, objects: &dyn Objects, attach_node: bool) -> TargetGroup {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let mut group = TargetGroup { source: format!("pod/{namespace}/{name}"), ..TargetGroup::default() };
    let address = pod_ip(pod);
    if address.is_empty() {
        return group;
    }
    let mut labels = LabelsBuilder::new();
    labels.set(format!("{META}namespace"), namespace);
    pod_labels(&mut labels, pod);
    if attach_node {
        let Some(node) = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).and_then(|n| objects.node(n)) else {
            return group;
        };
        object_labels(&mut labels, &node.metadata, "node");
    }
    group.labels = labels.build();
    for (container, init) in containers(pod) {
        let mut base = LabelsBuilder::new();
        base.set(format!("{META}pod_container_name"), container.name.as_str());
        base.set(format!("{META}pod_container_image"), container.image.as_deref().unwrap_or_default());
        base.set(format!("{META}pod_container_init"), init.to_string());
        base.set(format!("{META}pod_container_id"), container_id(pod, &container.name, init));
        let ports = container.ports.as_deref().unwrap_or_default();
        if ports.is_empty() {
            base.set("__address__", address);
            group.targets.push(base.build());
        }
        for port in ports {
            let mut target = base.clone();
            target.set("__address__", join(address, Some(port.container_port)));
            port_labels(&mut target, port);
            group.targets.push(target.build());
        }
    }
    group
}

fn slice_labels(address: &str, endpoint: &Endpoint, port: &EndpointPort) -> LabelsBuilder {
    let mut target = LabelsBuilder::new();
    let mut set = |name: &str, value: Option<&str>| {
        target.set(format!("{META}endpointslice_{name}"), value.unwrap_or_default());
    };
    set("port_name", port.name.as_deref());
    set("port_protocol", port.protocol.as_deref());
    set("port", port.port.map(|p| p.to_string()).as_deref());
    set("port_app_protocol", port.app_protocol.as_deref());
    if let Some(conditions) = &endpoint.conditions {
        let text = |b: Option<bool>| b.map(|b| b.to_string());
        set("endpoint_conditions_ready", text(conditions.ready).as_deref());
        set("endpoint_conditions_serving", text(conditions.serving).as_deref());
        set("endpoint_conditions_terminating", text(conditions.terminating).as_deref());
    }
    set("endpoint_hostname", endpoint.hostname.as_deref());
    set("endpoint_node_name", endpoint.node_name.as_deref());
    set("endpoint_zone", endpoint.zone.as_deref());
    if let Some(reference) = &endpoint.target_ref {
        set("address_target_kind", reference.kind.as_deref());
        set("address_target_name", reference.name.as_deref());
    }
    for (k, v) in endpoint.deprecated_topology.iter().flatten() {
        set(&format!("endpoint_topology_{}", sanitize(k)), Some(v));
        set(&format!("endpoint_topology_present_{}", sanitize(k)), Some("true"));
    }
    target.set("__address__", join(address, port.port));
    target
}

fn endpoint_labels(address: &str, endpoint: &Endpoint, port: &EndpointPort) -> LabelsBuilder {
    let mut target = LabelsBuilder::new();
    let mut set = |name: &str, value: Option<&str>| {
        target.set(format!("{META}endpoint_{name}"), value.unwrap_or_default());
    };
    set("port_name", port.name.as_deref());
    set("port_protocol", port.protocol.as_deref());
    // The Endpoints object lists an address as ready unless its condition says otherwise.
    let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
    set("ready", Some(if ready { "true" } else { "false" }));
    if let Some(reference) = &endpoint.target_ref {
        set("address_target_kind", reference.kind.as_deref());
        set("address_target_name", reference.name.as_deref());
    }
    set("node_name", endpoint.node_name.as_deref());
    set("hostname", endpoint.hostname.as_deref());
    target.set("__address__", join(address, port.port));
    target
}

/// The target of a container's declared port that no endpoint covers.
fn uncovered_ports(targets: &mut Vec<Labels>, pod: &Pod, covered: &[i32]) {
    let address = pod_ip(pod);
    if address.is_empty() {
        return;
    }
    for (container, init) in containers(pod) {
        for port in container.ports.iter().flatten().filter(|p| !covered.contains(&p.container_port)) {
            let mut target = LabelsBuilder::new();
            target.set("__address__", join(address, Some(port.container_port)));
            target.set(format!("{META}pod_container_name"), container.name.as_str());
            target.set(format!("{META}pod_container_image"), container.image.as_deref().unwrap_or_default());
            target.set(format!("{META}pod_container_init"), init.to_string());
            port_labels(&mut target, port);
            pod_labels(&mut target, pod);
            targets.push(target.build());
        }
    }
}

fn port_labels(target: &mut LabelsBuilder, port: &k8s_openapi::api::core::v1::ContainerPort) {
    target.set(format!("{META}pod_container_port_name"), port.name.as_deref().unwrap_or_default());
    target.set(format!("{META}pod_container_port_number"), port.container_port.to_string());
    target.set(format!("{META}pod_container_port_protocol"), port.protocol.as_deref().unwrap_or_default());
}

/// Labels of the container that declares `port`. Prometheus stops at the first port within a container, but a later
/// container that declares the same port overwrites an earlier one.
fn container_labels(target: &mut LabelsBuilder, pod: &Pod, port: Option<i32>) {
    for (container, init) in containers(pod) {
        let Some(found) = container.ports.iter().flatten().find(|p| Some(p.container_port) == port) else { continue };
        target.set(format!("{META}pod_container_name"), container.name.as_str());
        target.set(format!("{META}pod_container_image"), container.image.as_deref().unwrap_or_default());
        target.set(format!("{META}pod_container_init"), init.to_string());
        port_labels(target, found);
    }
}

fn pod_labels(labels: &mut LabelsBuilder, pod: &Pod) {
    let status = pod.status.as_ref();
    let spec = pod.spec.as_ref();
    let ready = status
        .and_then(|s| s.conditions.as_ref())
        .and_then(|c| c.iter().find(|c| c.type_ == "Ready"))
        .map_or("unknown".to_owned(), |c| c.status.to_lowercase());
    let mut set = |name: &str, value: &str| {
        labels.set(format!("{META}pod_{name}"), value);
    };
    set("ip", pod_ip(pod));
    set("ready", &ready);
    set("phase", status.and_then(|s| s.phase.as_deref()).unwrap_or_default());
    set("node_name", spec.and_then(|s| s.node_name.as_deref()).unwrap_or_default());
    set("host_ip", status.and_then(|s| s.host_ip.as_deref()).unwrap_or_default());
    set("uid", pod.metadata.uid.as_deref().unwrap_or_default());
    if let Some(owner) = pod.metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true)) {
        set("controller_kind", &owner.kind);
        set("controller_name", &owner.name);
    }
    object_labels(labels, &pod.metadata, "pod");
}

fn object_labels(labels: &mut LabelsBuilder, meta: &ObjectMeta, object: &str) {
    labels.set(format!("{META}{object}_name"), meta.name.as_deref().unwrap_or_default());
    annotations_and_labels(labels, meta, object);
}

fn annotations_and_labels(labels: &mut LabelsBuilder, meta: &ObjectMeta, object: &str) {
    for (kind, map) in [("label", &meta.labels), ("annotation", &meta.annotations)] {
        for (k, v) in map.iter().flatten() {
            let name = sanitize(k);
            labels.set(format!("{META}{object}_{kind}_{name}"), v.as_str());
            labels.set(format!("{META}{object}_{kind}present_{name}"), "true");
        }
    }
}

/// Containers, then init containers, each with whether it is one of the latter.
fn containers(pod: &Pod) -> impl Iterator<Item = (&k8s_openapi::api::core::v1::Container, bool)> {
    pod.spec.iter().flat_map(|s| {
        let init = s.init_containers.iter().flatten().map(|c| (c, true));
        s.containers.iter().map(|c| (c, false)).chain(init)
    })
}

fn container_id(pod: &Pod, name: &str, init: bool) -> String {
    let Some(status) = &pod.status else { return String::new() };
    let statuses = if init { &status.init_container_statuses } else { &status.container_statuses };
    let found = statuses.iter().flatten().find(|s| s.name == name);
    found.and_then(|s| s.container_id.clone()).unwrap_or_default()
}

fn pod_ip(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.pod_ip.as_deref()).unwrap_or_default()
}

fn pod_of<'a>(reference: Option<&ObjectReference>, objects: &'a dyn Objects) -> Option<&'a Pod> {
    let reference = reference.filter(|r| r.kind.as_deref() == Some("Pod"))?;
    objects.pod(reference.namespace.as_deref()?, reference.name.as_deref()?)
}

fn secondary_family(service: Option<&Service>, address_type: &str) -> bool {
    let Some(spec) = service.and_then(|s| s.spec.as_ref()) else { return false };
    let dual = matches!(spec.ip_family_policy.as_deref(), Some("PreferDualStack" | "RequireDualStack"));
    dual && spec.ip_families.iter().flatten().next().is_some_and(|first| first != address_type)
}

/// Go's `net.JoinHostPort`; the bare address where there is no port.
fn join(address: &str, port: Option<i32>) -> String {
    match port {
        Some(port) if address.contains(':') => format!("[{address}]:{port}"),
        Some(port) => format!("{address}:{port}"),
        None => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[derive(Default)]
    struct World {
        services: Vec<Service>,
        pods: Vec<Pod>,
        nodes: Vec<Node>,
    }

    impl Objects for World {
        fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
            self.services.iter().find(|s| {
                s.metadata.name.as_deref() == Some(name) && s.metadata.namespace.as_deref() == Some(namespace)
            })
        }
        fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
            self.pods.iter().find(|s| {
                s.metadata.name.as_deref() == Some(name) && s.metadata.namespace.as_deref() == Some(namespace)
            })
        }
        fn node(&self, name: &str) -> Option<&Node> {
            self.nodes.iter().find(|n| n.metadata.name.as_deref() == Some(name))
        }
    }

    fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn pod() -> Pod {
        from(json!({
            "metadata": {"name": "web-0", "namespace": "ns", "uid": "u1", "labels": {"app.kubernetes.io/name": "web"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "x", "controller": true}]},
            "spec": {"nodeName": "n1",
                "containers": [
                    {"name": "main", "image": "i", "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"},
                        {"name": "admin", "containerPort": 8081, "protocol": "TCP"}]},
                    {"name": "side", "image": "s"}],
                "initContainers": [{"name": "init", "image": "n", "ports": [{"name": "boot", "containerPort": 9000}]}]},
            "status": {"podIP": "10.0.0.7", "hostIP": "192.168.0.1", "phase": "Running",
                "conditions": [{"type": "Ready", "status": "False"}],
                "containerStatuses": [{"name": "main", "containerID": "c://1", "image": "i", "imageID": "", "ready": true, "restartCount": 0}]}
        }))
    }

    fn slice(kind: &str) -> EndpointSlice {
        from(json!({
            "metadata": {"name": "web-x", "namespace": "ns", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": kind,
            "endpoints": [{"addresses": ["10.0.0.7"], "conditions": {"ready": true}, "nodeName": "n1", "zone": "a",
                "targetRef": {"kind": "Pod", "name": "web-0", "namespace": "ns"}},
                {"addresses": ["fd00::1"]}],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]
        }))
    }

    fn world() -> World {
        World {
            services: vec![from(json!({"metadata": {"name": "web", "namespace": "ns", "labels": {"app": "web"}},
                "spec": {"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv6"]}}))],
            pods: vec![pod()],
            nodes: vec![from(json!({"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "a"}}}))],
        }
    }

    fn check(labels: &Labels, expected: &[(&str, &str)]) {
        for (name, value) in expected {
            let name = if name.starts_with("__") { (*name).to_owned() } else { format!("{META}{name}") };
            assert_eq!(labels.value(&name), *value, "{name} of {labels}");
        }
    }

    #[test]
    fn a_slice_gives_its_endpoints_and_its_pods_other_ports() {
        let group = slice_group(&slice("IPv4"), &world(), Role::EndpointSlice, true);
        assert_eq!(group.source, "endpointslice/ns/web-x");
        let shared = [
            ("namespace", "ns"),
            ("service_name", "web"),
            ("service_label_app", "web"),
            ("service_labelpresent_app", "true"),
            ("endpointslice_address_type", "IPv4"),
            ("endpointslice_name", "web-x"),
            ("endpointslice_label_kubernetes_io_service_name", "web"),
        ];
        check(&group.labels, &shared);
        let addresses: Vec<_> = group.targets.iter().map(|t| t.value("__address__")).collect();
        assert_eq!(addresses, ["10.0.0.7:8080", "[fd00::1]:8080", "10.0.0.7:8081", "10.0.0.7:9000"]);
        let first = [
            ("endpointslice_port_name", "http"),
            ("endpointslice_port", "8080"),
            ("endpointslice_endpoint_conditions_ready", "true"),
            ("endpointslice_endpoint_zone", "a"),
            ("endpointslice_address_target_kind", "Pod"),
            ("endpointslice_address_target_name", "web-0"),
            ("pod_name", "web-0"),
            ("pod_ready", "false"),
            ("pod_controller_kind", "StatefulSet"),
            ("pod_label_app_kubernetes_io_name", "web"),
            ("pod_container_name", "main"),
            ("pod_container_port_number", "8080"),
            ("node_label_topology_kubernetes_io_zone", "a"),
        ];
        check(&group.targets[0], &first);
        check(&group.targets[1], &[("pod_name", ""), ("pod_container_name", "")]);
        check(&group.targets[2], &[("pod_container_port_name", "admin"), ("endpointslice_port_name", "")]);
        check(&group.targets[3], &[("pod_container_init", "true"), ("pod_container_name", "init")]);
    }

    #[test]
    fn the_endpoints_role_names_its_labels_otherwise() {
        let group = slice_group(&slice("IPv4"), &world(), Role::Endpoints, false);
        check(&group.labels, &[("endpoints_name", "web"), ("endpoints_label_app", "web"), ("service_name", "web")]);
        check(&group.targets[0], &[("endpoint_port_name", "http"), ("endpoint_address_target_kind", "Pod")]);
        check(&group.targets[0], &[("endpoint_ready", "true"), ("endpoint_node_name", "n1"), ("node_name", "")]);
    }

    #[test]
    fn the_second_family_of_a_dual_stack_service_gives_nothing() {
        assert!(slice_group(&slice("IPv6"), &world(), Role::EndpointSlice, false).targets.is_empty());
    }

    #[test]
    fn a_pod_gives_a_target_per_port_or_a_bare_address() {
        let group = pod_group(&pod(), &world(), true);
        let addresses: Vec<_> = group.targets.iter().map(|t| t.value("__address__")).collect();
        assert_eq!(addresses, ["10.0.0.7:8080", "10.0.0.7:8081", "10.0.0.7", "10.0.0.7:9000"]);
        check(&group.labels, &[("pod_ip", "10.0.0.7"), ("pod_node_name", "n1"), ("node_name", "n1")]);
        check(&group.targets[0], &[("pod_container_id", "c://1"), ("pod_container_init", "false")]);
        assert!(pod_group(&pod(), &World::default(), true).targets.is_empty(), "its node is unknown");
        let mut starting = pod();
        starting.status = None;
        assert!(pod_group(&starting, &world(), false).targets.is_empty());
    }
}
