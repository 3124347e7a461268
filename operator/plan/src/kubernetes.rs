//! Kubernetes objects become target groups, with the labels that Prometheus's `discovery/kubernetes` gives them, object
//! by object: for monitors, and for `kubernetes_sd_configs` in local mode.
//!
//! Parity that is easy to lose, each with a case in the tests: a pod's container ports that no endpoint covers are
//! targets too (init containers included); where several containers declare an endpoint's port, the last one's labels
//! stay, and its protocol is the container's for slices, the endpoint's for Endpoints; slices of a dual-stack Service's
//! second family give nothing; a pod without declared ports is one target with a bare address; readiness filters
//! nothing.

pub mod objects;

use std::collections::BTreeMap;

use narthex_config::sd::join_host_port;
use narthex_config::{KubernetesAttachMetadata, TargetGroup};
use narthex_model::names::sanitize_label_name;
use narthex_model::{Labels, LabelsBuilder};

use self::objects::{
    Bare, Container, ContainerPort, Endpoint, EndpointAddress, EndpointPort, EndpointSlice, Endpoints, Ingress, Kind,
    Meta, Node, Object, Owner, Pod, Reference, Service, ServicePort, Subset,
};

const META: &str = "__meta_kubernetes_";

/// The label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Where groups find the objects that theirs refer to.
pub trait Objects {
    fn service(&self, namespace: &str, name: &str) -> Option<&Service>;
    fn pod(&self, namespace: &str, name: &str) -> Option<&Pod>;
    fn node(&self, name: &str) -> Option<&Node>;
    /// A Namespace (which is in none), ReplicaSet or Job.
    fn bare(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Bare>;
}

/// The Service that a slice is of.
pub fn service_of<'a>(slice: &EndpointSlice, objects: &'a dyn Objects) -> Option<&'a Service> {
    objects.service(&slice.metadata.namespace, slice.metadata.labels.get(SERVICE_NAME)?)
}

/// The name of an object in its namespace: `namespace/name`, or the name alone where it is in none.
pub fn name_in(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

/// The source of the group of an object, from its kind and [`name_in`] its namespace.
pub fn source(kind: Kind, name: &str) -> String {
    let role = match kind {
        Kind::Service => "svc",
        Kind::Node => "node",
        Kind::Pod => "pod",
        Kind::Endpoints => "endpoints",
        Kind::EndpointSlice => "endpointslice",
        _ => "ingress",
    };
    format!("{role}/{name}")
}

fn set(labels: &mut LabelsBuilder, name: &str, value: impl AsRef<str>) {
    labels.set(format!("{META}{name}"), value.as_ref());
}

fn object_labels(labels: &mut LabelsBuilder, meta: &Meta, object: &str) {
    set(labels, &format!("{object}_name"), &meta.name);
    annotations_and_labels(labels, meta, object);
}

fn annotations_and_labels(labels: &mut LabelsBuilder, meta: &Meta, object: &str) {
    for (kind, map) in [("label", &meta.labels), ("annotation", &meta.annotations)] {
        for (name, value) in map {
            let name = sanitize_label_name(name);
            set(labels, &format!("{object}_{kind}_{name}"), value);
            set(labels, &format!("{object}_{kind}present_{name}"), "true");
        }
    }
}

fn node(node: &Node, labels: &mut LabelsBuilder) -> Vec<Labels> {
    set(labels, "node_provider_id", &node.spec.provider_id);
    for condition in &node.status.conditions {
        let name = sanitize_label_name(&condition.kind.to_lowercase());
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
            set(&mut target, &format!("node_address_{}", sanitize_label_name(&a.kind)), &a.address);
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
    let target = |port: &ServicePort| {
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

/// Whether a slice is of a Service's second IP family, which leads to the same pods.
fn is_second_family(slice: &EndpointSlice, service: Option<&Service>) -> bool {
    service.is_some_and(|s| {
        let dual = matches!(s.spec.ip_family_policy.as_str(), "PreferDualStack" | "RequireDualStack");
        dual && s.spec.ip_families.first().is_some_and(|f| *f != slice.address_type)
    })
}

/// An endpoint as the Endpoints object lists it: ready unless its condition says otherwise, and by numbered ports only.
fn subset(endpoint: &Endpoint, ports: &[EndpointPort]) -> Subset {
    let address = |ip: &String| EndpointAddress {
        ip: ip.clone(),
        hostname: endpoint.hostname.clone().unwrap_or_default(),
        node_name: endpoint.node_name.clone(),
        target_ref: endpoint.target_ref.clone(),
    };
    let addresses: Vec<_> = endpoint.addresses.iter().map(address).collect();
    let (addresses, not_ready_addresses) =
        if endpoint.conditions.ready == Some(false) { (Vec::new(), addresses) } else { (addresses, Vec::new()) };
    let port = |p: &EndpointPort| {
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        Some(ServicePort { name: text(&p.name), port: p.port?, protocol: text(&p.protocol) })
    };
    Subset { addresses, not_ready_addresses, ports: ports.iter().filter_map(port).collect() }
}

/// The pods that endpoints lead to, in order of name, with the ports that are covered.
type Seen<'a> = BTreeMap<String, (&'a Pod, Vec<i32>)>;

/// Makes groups of objects.
pub struct Grouper<'a> {
    pub objects: &'a dyn Objects,
    /// What groups get of objects that theirs belong to.
    pub attach: &'a KubernetesAttachMetadata,
}

impl<'a> Grouper<'a> {
    /// The group of an object; without targets where it gives none.
    pub fn group(&self, object: &Object) -> TargetGroup {
        match object {
            Object::Node(o) => self.finish(Kind::Node, &o.metadata, |labels| node(o, labels)),
            Object::Pod(o) => self.pod_group(o),
            Object::Service(o) => self.finish(Kind::Service, &o.metadata, |labels| service(o, labels)),
            Object::Endpoints(o) => self.finish(Kind::Endpoints, &o.metadata, |labels| self.endpoints(o, labels)),
            Object::EndpointSlice(o) => self.slice_group(o),
            Object::Ingress(o) => self.finish(Kind::Ingress, &o.metadata, |labels| ingress(o, labels)),
            Object::Bare(_) => TargetGroup::default(),
        }
    }

    /// The group of a pod: one target per declared container port, or one with the bare address per container without
    /// any. Without targets while the pod has no address, or when node labels are asked for and its node is unknown.
    pub fn pod_group(&self, pod: &Pod) -> TargetGroup {
        self.finish(Kind::Pod, &pod.metadata, |labels| self.pod(pod, labels))
    }

    /// The group of a slice. Without targets for one of a Service's second IP family.
    pub fn slice_group(&self, slice: &EndpointSlice) -> TargetGroup {
        self.finish(Kind::EndpointSlice, &slice.metadata, |labels| self.slice(slice, labels))
    }

    /// The group that a slice's part of the Endpoints object would give: that API is deprecated, and cuts off at 1,000
    /// addresses. Labels and annotations of the Endpoints object are those of the Service, which the endpoints
    /// controller copies.
    pub fn endpoints_group_of(&self, slice: &EndpointSlice) -> TargetGroup {
        let meta = &slice.metadata;
        let mut endpoints = Endpoints::default();
        endpoints.metadata.namespace.clone_from(&meta.namespace);
        endpoints.metadata.name.clone_from(meta.labels.get(SERVICE_NAME).unwrap_or(&meta.name));
        let service = service_of(slice, self.objects);
        if let Some(service) = service {
            endpoints.metadata.labels.clone_from(&service.metadata.labels);
            endpoints.metadata.annotations.clone_from(&service.metadata.annotations);
        }
        if !is_second_family(slice, service) {
            endpoints.subsets = slice.endpoints.iter().map(|e| subset(e, &slice.ports)).collect();
        }
        self.finish(Kind::Endpoints, meta, |labels| self.endpoints(&endpoints, labels))
    }

    /// `meta` names the group's source.
    fn finish(&self, kind: Kind, meta: &Meta, make: impl FnOnce(&mut LabelsBuilder) -> Vec<Labels>) -> TargetGroup {
        let mut labels = LabelsBuilder::new();
        let targets = make(&mut labels);
        if self.attach.namespace
            && !meta.namespace.is_empty()
            && let Some(n) = self.objects.bare(Kind::Namespace, "", &meta.namespace)
        {
            annotations_and_labels(&mut labels, &n.metadata, "namespace");
        }
        TargetGroup { source: source(kind, &name_in(&meta.namespace, &meta.name)), labels: labels.build(), targets }
    }

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
            let object = self.objects.bare(kind, &pod.metadata.namespace, &owner.name)?;
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
        if let Some(node) = node.and_then(|n| self.objects.node(n)) {
            object_labels(labels, &node.metadata, "node");
        }
    }

    fn pod(&self, pod: &Pod, labels: &mut LabelsBuilder) -> Vec<Labels> {
        let address = &pod.status.pod_ip;
        if address.is_empty() || self.attach.node && self.objects.node(&pod.spec.node_name).is_none() {
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
        self.objects.pod(&reference.namespace, &reference.name)
    }

    /// A target that leads to a pod: the pod's labels, and those of the container that declares the port, with its
    /// protocol unless another is given.
    fn lead_to_pod(
        &self,
        target: &mut LabelsBuilder,
        pod: &'a Pod,
        port: Option<i32>,
        protocol: Option<&str>,
        seen: &mut Seen<'a>,
    ) {
        self.pod_labels(target, pod);
        for (container, init) in containers(pod) {
            if let Some(declared) = container.ports.iter().find(|p| Some(p.container_port) == port) {
                container_labels(target, container, init);
                port_labels(target, declared, protocol.unwrap_or(&declared.protocol));
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
        if let Some(service) = self.objects.service(&meta.namespace, &meta.name) {
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
                        self.lead_to_pod(&mut target, pod, Some(port.port), Some(&port.protocol), &mut seen);
                    }
                    targets.push(target.build());
                }
            }
        }
        self.uncovered(seen, &mut targets);
        targets
    }

    fn endpoint(&self, address: &EndpointAddress, port: &ServicePort, ready: &str) -> LabelsBuilder {
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
        let service = service_of(slice, self.objects);
        if let Some(service) = service {
            service_labels(labels, service);
        }
        if is_second_family(slice, service) {
            return Vec::new();
        }
        let (mut targets, mut seen) = (Vec::new(), Seen::new());
        for endpoint in &slice.endpoints {
            for port in &slice.ports {
                for address in &endpoint.addresses {
                    let mut target = self.slice_endpoint(address, endpoint, port);
                    if let Some(pod) = self.referenced_pod(endpoint.target_ref.as_ref()) {
                        self.lead_to_pod(&mut target, pod, port.port, None, &mut seen);
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
            let name = sanitize_label_name(name);
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

#[cfg(test)]
mod tests;
