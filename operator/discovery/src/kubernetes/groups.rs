//! Target groups of Kubernetes objects, with the labels that Prometheus's `discovery/kubernetes` gives them.
//!
//! `narthex-plan` computes two of these roles for monitors from the full API types, and endpoints from slices; here all
//! six follow Prometheus object by object, the Endpoints API included.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use narthex_config::{KubernetesAttachMetadata, TargetGroup};
use narthex_model::{Labels, LabelsBuilder};

use super::objects::{
    Bare, Container, ContainerPort, Endpoint, EndpointAddress, EndpointPort, EndpointSlice, Endpoints, Ingress, Kind,
    Meta, Node, Object, Owner, Pod, Reference, Service,
};
use crate::refresh::join_host_port;

const META: &str = "__meta_kubernetes_";

/// The label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// An object's kind and `namespace/name` (the name alone where it has no namespace).
pub(super) type Key = (Kind, String);

pub(super) fn name_in(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

/// All objects, and what the group that is being made asked for.
#[derive(Default)]
pub(super) struct World {
    pub objects: HashMap<Key, Object>,
    asked: RefCell<Vec<Key>>,
}

impl World {
    /// What was asked for since the last call, there or not.
    pub fn take_asked(&self) -> Vec<Key> {
        self.asked.take()
    }

    fn find(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Object> {
        let key = (kind, name_in(namespace, name));
        let found = self.objects.get(&key);
        self.asked.borrow_mut().push(key);
        found
    }

    fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        match self.find(Kind::Pod, namespace, name) {
            Some(Object::Pod(o)) => Some(o),
            _ => None,
        }
    }

    fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        match self.find(Kind::Service, namespace, name) {
            Some(Object::Service(o)) => Some(o),
            _ => None,
        }
    }

    fn node(&self, name: &str) -> Option<&Node> {
        match self.find(Kind::Node, "", name) {
            Some(Object::Node(o)) => Some(o),
            _ => None,
        }
    }

    fn bare(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Bare> {
        match self.find(kind, namespace, name) {
            Some(Object::Bare(o)) => Some(o),
            _ => None,
        }
    }
}

/// The source of an object's group.
pub(super) fn source(key: &Key) -> String {
    let role = match key.0 {
        Kind::Service => "svc",
        Kind::Node => "node",
        Kind::Pod => "pod",
        Kind::Endpoints => "endpoints",
        Kind::EndpointSlice => "endpointslice",
        _ => "ingress",
    };
    format!("{role}/{}", key.1)
}

/// The group of an object of the role's own kind; without targets where it gives none.
pub(super) fn group(key: &Key, world: &World, attach: &KubernetesAttachMetadata) -> TargetGroup {
    let mut group = TargetGroup { source: source(key), ..TargetGroup::default() };
    let Some(object) = world.objects.get(key) else { return group };
    let mut labels = LabelsBuilder::new();
    let maker = Maker { world, attach };
    let targets = match object {
        Object::Node(o) => node(o, &mut labels),
        Object::Pod(o) => maker.pod(o, &mut labels),
        Object::Service(o) => service(o, &mut labels),
        Object::Endpoints(o) => maker.endpoints(o, &mut labels),
        Object::EndpointSlice(o) => maker.slice(o, &mut labels),
        Object::Ingress(o) => ingress(o, &mut labels),
        Object::Bare(_) => Vec::new(),
    };
    let namespace = &object.metadata().namespace;
    if attach.namespace
        && !namespace.is_empty()
        && let Some(n) = world.bare(Kind::Namespace, "", namespace)
    {
        annotations_and_labels(&mut labels, &n.metadata, "namespace");
    }
    group.labels = labels.build();
    group.targets = targets;
    group
}

fn set(labels: &mut LabelsBuilder, name: &str, value: impl AsRef<str>) {
    labels.set(format!("{META}{name}"), value.as_ref());
}

/// What may not stand in an old label name becomes `_`.
fn sanitize(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
}

fn object_labels(labels: &mut LabelsBuilder, meta: &Meta, object: &str) {
    set(labels, &format!("{object}_name"), &meta.name);
    annotations_and_labels(labels, meta, object);
}

fn annotations_and_labels(labels: &mut LabelsBuilder, meta: &Meta, object: &str) {
    for (kind, map) in [("label", &meta.labels), ("annotation", &meta.annotations)] {
        for (name, value) in map {
            let name = sanitize(name);
            set(labels, &format!("{object}_{kind}_{name}"), value);
            set(labels, &format!("{object}_{kind}present_{name}"), "true");
        }
    }
}

fn node(node: &Node, labels: &mut LabelsBuilder) -> Vec<Labels> {
    set(labels, "node_provider_id", &node.spec.provider_id);
    for condition in &node.status.conditions {
        let name = sanitize(&condition.kind.to_lowercase());
        set(labels, &format!("node_condition_{name}"), condition.status.to_lowercase());
    }
    object_labels(labels, &node.metadata, "node");
    let first = |kind: &str| node.status.addresses.iter().find(|a| a.kind == kind);
    let order = ["InternalIP", "InternalDNS", "ExternalIP", "ExternalDNS", "LegacyHostIP", "Hostname"];
    let Some(address) = order.into_iter().find_map(first) else { return Vec::new() };
    let mut target = LabelsBuilder::new();
    target.set("__address__", join_host_port(&address.address, node.status.daemon_endpoints.kubelet_endpoint.port));
    target.set("instance", node.metadata.name.as_str());
    for (i, a) in node.status.addresses.iter().enumerate() {
        if !node.status.addresses.iter().take(i).any(|b| b.kind == a.kind) {
            set(&mut target, &format!("node_address_{}", sanitize(&a.kind)), &a.address);
        }
    }
    vec![target.build()]
}

fn service_labels(labels: &mut LabelsBuilder, service: &Service) {
    set(labels, "namespace", &service.metadata.namespace);
    object_labels(labels, &service.metadata, "service");
}

fn service(service: &Service, labels: &mut LabelsBuilder) -> Vec<Labels> {
    service_labels(labels, service);
    let (meta, spec) = (&service.metadata, &service.spec);
    let target = |port: &super::objects::ServicePort| {
        let mut target = LabelsBuilder::new();
        target.set("__address__", join_host_port(&format!("{}.{}.svc", meta.name, meta.namespace), port.port));
        set(&mut target, "service_port_name", &port.name);
        set(&mut target, "service_port_number", port.port.to_string());
        set(&mut target, "service_port_protocol", &port.protocol);
        set(&mut target, "service_type", &spec.kind);
        if spec.kind == "ExternalName" {
            set(&mut target, "service_external_name", &spec.external_name);
        } else {
            set(&mut target, "service_cluster_ip", &spec.cluster_ip);
        }
        if spec.kind == "LoadBalancer" {
            set(&mut target, "service_loadbalancer_ip", &spec.load_balancer_ip);
        }
        target.build()
    };
    spec.ports.iter().map(target).collect()
}

fn ingress(ingress: &Ingress, labels: &mut LabelsBuilder) -> Vec<Labels> {
    set(labels, "namespace", &ingress.metadata.namespace);
    if let Some(class) = &ingress.spec.ingress_class_name {
        set(labels, "ingress_class_name", class);
    }
    object_labels(labels, &ingress.metadata, "ingress");
    let mut targets = Vec::new();
    for rule in &ingress.spec.rules {
        let secured = ingress.spec.tls.iter().flat_map(|t| &t.hosts).any(|pattern| host_matches(pattern, &rule.host));
        let paths: Vec<&str> = match &rule.http {
            None => vec!["/"],
            Some(http) => http.paths.iter().map(|p| if p.path.is_empty() { "/" } else { &p.path }).collect(),
        };
        for path in paths {
            let mut target = LabelsBuilder::new();
            target.set("__address__", rule.host.as_str());
            set(&mut target, "ingress_scheme", if secured { "https" } else { "http" });
            set(&mut target, "ingress_host", &rule.host);
            set(&mut target, "ingress_path", path);
            targets.push(target.build());
        }
    }
    targets
}

/// Whether a host of `tls` covers one of a rule: itself, or a `*` for its first part.
fn host_matches(pattern: &str, host: &str) -> bool {
    let rest = |text: &str| text.split_once('.').map(|(_, rest)| rest.to_owned());
    pattern == host || pattern.starts_with("*.") && rest(pattern) == rest(host) || pattern == "*" && !host.contains('.')
}

/// Containers, then init containers, each with whether it is one of the latter.
fn containers(pod: &Pod) -> impl Iterator<Item = (&Container, bool)> {
    pod.spec.containers.iter().map(|c| (c, false)).chain(pod.spec.init_containers.iter().map(|c| (c, true)))
}

fn container_labels(target: &mut LabelsBuilder, container: &Container, init: bool) {
    set(target, "pod_container_name", &container.name);
    set(target, "pod_container_image", &container.image);
    set(target, "pod_container_init", init.to_string());
}

fn port_labels(target: &mut LabelsBuilder, port: &ContainerPort, protocol: &str) {
    set(target, "pod_container_port_name", &port.name);
    set(target, "pod_container_port_number", port.container_port.to_string());
    set(target, "pod_container_port_protocol", protocol);
}

fn controller(meta: &Meta) -> Option<&Owner> {
    meta.owner_references.iter().find(|o| o.controller)
}

/// The pods that endpoints lead to, in order of name, with the ports that are covered.
type Seen<'a> = BTreeMap<String, (&'a Pod, Vec<i32>)>;

struct Maker<'a> {
    world: &'a World,
    attach: &'a KubernetesAttachMetadata,
}

impl<'a> Maker<'a> {
    fn pod_labels(&self, labels: &mut LabelsBuilder, pod: &Pod) {
        let ready = pod.status.conditions.iter().find(|c| c.kind == "Ready");
        set(labels, "pod_ip", &pod.status.pod_ip);
        set(labels, "pod_ready", ready.map_or("unknown".to_owned(), |c| c.status.to_lowercase()));
        set(labels, "pod_phase", &pod.status.phase);
        set(labels, "pod_node_name", &pod.spec.node_name);
        set(labels, "pod_host_ip", &pod.status.host_ip);
        set(labels, "pod_uid", &pod.metadata.uid);
        object_labels(labels, &pod.metadata, "pod");
        let Some(owner) = controller(&pod.metadata) else { return };
        set(labels, "pod_controller_kind", &owner.kind);
        set(labels, "pod_controller_name", &owner.name);
        let owner_of = |kind: Kind, wanted: &str| {
            let object = self.world.bare(kind, &pod.metadata.namespace, &owner.name)?;
            controller(&object.metadata).filter(|o| o.kind == wanted)
        };
        match owner.kind.as_str() {
            "ReplicaSet" if self.attach.deployment => {
                if let Some(deployment) = owner_of(Kind::ReplicaSet, "Deployment") {
                    set(labels, "pod_deployment_name", &deployment.name);
                }
            }
            "Job" => {
                if self.attach.job {
                    set(labels, "pod_job_name", &owner.name);
                }
                if self.attach.cronjob
                    && let Some(cron) = owner_of(Kind::Job, "CronJob")
                {
                    set(labels, "pod_cronjob_name", &cron.name);
                }
            }
            _ => {}
        }
    }

    fn node_labels(&self, labels: &mut LabelsBuilder, node: Option<&str>) {
        if let Some(node) = node.and_then(|n| self.world.node(n)) {
            object_labels(labels, &node.metadata, "node");
        }
    }

    fn pod(&self, pod: &Pod, labels: &mut LabelsBuilder) -> Vec<Labels> {
        let address = &pod.status.pod_ip;
        if address.is_empty() || self.attach.node && self.world.node(&pod.spec.node_name).is_none() {
            return Vec::new();
        }
        self.pod_labels(labels, pod);
        set(labels, "namespace", &pod.metadata.namespace);
        if self.attach.node {
            self.node_labels(labels, Some(&pod.spec.node_name));
        }
        let mut targets = Vec::new();
        for (container, init) in containers(pod) {
            let status = &pod.status;
            let statuses = if init { &status.init_container_statuses } else { &status.container_statuses };
            let id = statuses.iter().find(|s| s.name == container.name).map_or("", |s| &s.container_id);
            let mut base = LabelsBuilder::new();
            container_labels(&mut base, container, init);
            set(&mut base, "pod_container_id", id);
            if container.ports.is_empty() {
                base.set("__address__", address.as_str());
                targets.push(base.build());
                continue;
            }
            for port in &container.ports {
                let mut target = base.clone();
                target.set("__address__", join_host_port(address, port.container_port));
                port_labels(&mut target, port, &port.protocol);
                targets.push(target.build());
            }
        }
        targets
    }

    fn referenced_pod(&self, reference: Option<&Reference>) -> Option<&'a Pod> {
        let reference = reference.filter(|r| r.kind == "Pod")?;
        self.world.pod(&reference.namespace, &reference.name)
    }

    /// A target that leads to a pod: the pod's labels, and those of the container that declares the port.
    fn lead_to_pod(
        &self,
        target: &mut LabelsBuilder,
        pod: &'a Pod,
        port: Option<i32>,
        protocol: &str,
        seen: &mut Seen<'a>,
    ) {
        self.pod_labels(target, pod);
        for (container, init) in containers(pod) {
            if let Some(declared) = container.ports.iter().find(|p| Some(p.container_port) == port) {
                container_labels(target, container, init);
                port_labels(target, declared, protocol);
            }
        }
        let key = name_in(&pod.metadata.namespace, &pod.metadata.name);
        seen.entry(key).or_insert((pod, Vec::new())).1.extend(port);
    }

    /// Targets of ports that pods declare and no endpoint covers.
    fn uncovered(&self, seen: Seen<'a>, targets: &mut Vec<Labels>) {
        for (pod, covered) in seen.into_values().filter(|(p, _)| !p.status.pod_ip.is_empty()) {
            for (container, init) in containers(pod) {
                for port in container.ports.iter().filter(|p| !covered.contains(&p.container_port)) {
                    let mut target = LabelsBuilder::new();
                    target.set("__address__", join_host_port(&pod.status.pod_ip, port.container_port));
                    container_labels(&mut target, container, init);
                    port_labels(&mut target, port, &port.protocol);
                    self.pod_labels(&mut target, pod);
                    targets.push(target.build());
                }
            }
        }
    }

    fn endpoints(&self, endpoints: &Endpoints, labels: &mut LabelsBuilder) -> Vec<Labels> {
        let meta = &endpoints.metadata;
        if let Some(service) = self.world.service(&meta.namespace, &meta.name) {
            service_labels(labels, service);
        }
        set(labels, "namespace", &meta.namespace);
        object_labels(labels, meta, "endpoints");
        let (mut targets, mut seen) = (Vec::new(), Seen::new());
        for subset in &endpoints.subsets {
            for port in &subset.ports {
                let ready = subset.addresses.iter().map(|a| (a, "true"));
                for (address, ready) in ready.chain(subset.not_ready_addresses.iter().map(|a| (a, "false"))) {
                    let mut target = self.endpoint(address, port, ready);
                    if let Some(pod) = self.referenced_pod(address.target_ref.as_ref()) {
                        self.lead_to_pod(&mut target, pod, Some(port.port), &port.protocol, &mut seen);
                    }
                    targets.push(target.build());
                }
            }
        }
        self.uncovered(seen, &mut targets);
        targets
    }

    fn endpoint(&self, address: &EndpointAddress, port: &super::objects::ServicePort, ready: &str) -> LabelsBuilder {
        let mut target = LabelsBuilder::new();
        target.set("__address__", join_host_port(&address.ip, port.port));
        set(&mut target, "endpoint_port_name", &port.name);
        set(&mut target, "endpoint_port_protocol", &port.protocol);
        set(&mut target, "endpoint_ready", ready);
        if let Some(reference) = &address.target_ref {
            set(&mut target, "endpoint_address_target_kind", &reference.kind);
            set(&mut target, "endpoint_address_target_name", &reference.name);
        }
        if let Some(node) = &address.node_name {
            set(&mut target, "endpoint_node_name", node);
        }
        set(&mut target, "endpoint_hostname", &address.hostname);
        if self.attach.node {
            let reference = address.target_ref.as_ref().filter(|r| r.kind == "Node").map(|r| r.name.as_str());
            self.node_labels(&mut target, address.node_name.as_deref().or(reference));
        }
        target
    }

    fn slice(&self, slice: &EndpointSlice, labels: &mut LabelsBuilder) -> Vec<Labels> {
        let meta = &slice.metadata;
        set(labels, "namespace", &meta.namespace);
        set(labels, "endpointslice_address_type", &slice.address_type);
        object_labels(labels, meta, "endpointslice");
        let service = meta.labels.get(SERVICE_NAME).and_then(|name| self.world.service(&meta.namespace, name));
        if let Some(service) = service {
            service_labels(labels, service);
            let spec = &service.spec;
            let dual = matches!(spec.ip_family_policy.as_str(), "PreferDualStack" | "RequireDualStack");
            if dual && spec.ip_families.first().is_some_and(|f| *f != slice.address_type) {
                // The second family leads to the same pods.
                return Vec::new();
            }
        }
        let (mut targets, mut seen) = (Vec::new(), Seen::new());
        for endpoint in &slice.endpoints {
            for port in &slice.ports {
                for address in &endpoint.addresses {
                    let mut target = self.slice_endpoint(address, endpoint, port);
                    if let Some(pod) = self.referenced_pod(endpoint.target_ref.as_ref()) {
                        let protocol = port.protocol.as_deref().unwrap_or_default();
                        self.lead_to_pod(&mut target, pod, port.port, protocol, &mut seen);
                    }
                    targets.push(target.build());
                }
            }
        }
        self.uncovered(seen, &mut targets);
        targets
    }

    fn slice_endpoint(&self, address: &str, endpoint: &Endpoint, port: &EndpointPort) -> LabelsBuilder {
        let mut target = LabelsBuilder::new();
        target.set("__address__", port.port.map_or_else(|| address.to_owned(), |p| join_host_port(address, p)));
        let number = port.port.map(|p| p.to_string());
        let text = |b: Option<bool>| b.map(|b| b.to_string());
        let conditions = &endpoint.conditions;
        for (name, value) in [
            ("port_name", port.name.as_deref()),
            ("port_protocol", port.protocol.as_deref()),
            ("port", number.as_deref()),
            ("port_app_protocol", port.app_protocol.as_deref()),
            ("endpoint_conditions_ready", text(conditions.ready).as_deref()),
            ("endpoint_conditions_serving", text(conditions.serving).as_deref()),
            ("endpoint_conditions_terminating", text(conditions.terminating).as_deref()),
            ("endpoint_hostname", endpoint.hostname.as_deref()),
            ("address_target_kind", endpoint.target_ref.as_ref().map(|r| r.kind.as_str())),
            ("address_target_name", endpoint.target_ref.as_ref().map(|r| r.name.as_str())),
            ("endpoint_node_name", endpoint.node_name.as_deref()),
            ("endpoint_zone", endpoint.zone.as_deref()),
        ] {
            if let Some(value) = value {
                set(&mut target, &format!("endpointslice_{name}"), value);
            }
        }
        for (name, value) in &endpoint.deprecated_topology {
            let name = sanitize(name);
            set(&mut target, &format!("endpointslice_endpoint_topology_{name}"), value);
            set(&mut target, &format!("endpointslice_endpoint_topology_present_{name}"), "true");
        }
        if self.attach.node {
            let reference = endpoint.target_ref.as_ref().filter(|r| r.kind == "Node").map(|r| r.name.as_str());
            self.node_labels(&mut target, reference.or(endpoint.node_name.as_deref()));
        }
        target
    }
}
