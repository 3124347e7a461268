//! The parts of Kubernetes objects that labels are made of. What is not read here is not kept, so that a large
//! cluster's pods take little memory.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// An API object may say `null` where it has nothing.
fn nullable<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(d: D) -> Result<T, D::Error> {
    Option::deserialize(d).map(Option::unwrap_or_default)
}

macro_rules! objects {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub(super) struct $name {
            $($(#[$field_meta])* #[serde(deserialize_with = "nullable")] pub $field: $type,)*
        }
    )*};
}

objects! {
    Meta {
        name: String,
        namespace: String,
        uid: String,
        resource_version: String,
        labels: BTreeMap<String, String>,
        annotations: BTreeMap<String, String>,
        owner_references: Vec<Owner>,
    }
    Owner { kind: String, name: String, controller: bool }
    Node { metadata: Meta, spec: NodeSpec, status: NodeStatus }
    NodeSpec { #[serde(rename = "providerID")] provider_id: String }
    NodeStatus { addresses: Vec<NodeAddress>, conditions: Vec<Condition>, daemon_endpoints: DaemonEndpoints }
    NodeAddress { #[serde(rename = "type")] kind: String, address: String }
    DaemonEndpoints { kubelet_endpoint: KubeletEndpoint }
    KubeletEndpoint { #[serde(rename = "Port")] port: i32 }
    Condition { #[serde(rename = "type")] kind: String, status: String }
    Pod { metadata: Meta, spec: PodSpec, status: PodStatus }
    PodSpec { node_name: String, containers: Vec<Container>, init_containers: Vec<Container> }
    Container { name: String, image: String, ports: Vec<ContainerPort> }
    ContainerPort { name: String, container_port: i32, protocol: String }
    PodStatus {
        #[serde(rename = "podIP")]
        pod_ip: String,
        #[serde(rename = "hostIP")]
        host_ip: String,
        phase: String,
        conditions: Vec<Condition>,
        container_statuses: Vec<ContainerStatus>,
        init_container_statuses: Vec<ContainerStatus>,
    }
    ContainerStatus { name: String, #[serde(rename = "containerID")] container_id: String }
    Service { metadata: Meta, spec: ServiceSpec }
    ServiceSpec {
        #[serde(rename = "type")]
        kind: String,
        #[serde(rename = "clusterIP")]
        cluster_ip: String,
        external_name: String,
        #[serde(rename = "loadBalancerIP")]
        load_balancer_ip: String,
        ip_family_policy: String,
        ip_families: Vec<String>,
        ports: Vec<ServicePort>,
    }
    ServicePort { name: String, port: i32, protocol: String }
    Endpoints { metadata: Meta, subsets: Vec<Subset> }
    Subset {
        addresses: Vec<EndpointAddress>,
        not_ready_addresses: Vec<EndpointAddress>,
        ports: Vec<ServicePort>,
    }
    EndpointAddress { ip: String, hostname: String, node_name: Option<String>, target_ref: Option<Reference> }
    Reference { kind: String, namespace: String, name: String }
    EndpointSlice { metadata: Meta, address_type: String, endpoints: Vec<Endpoint>, ports: Vec<EndpointPort> }
    Endpoint {
        addresses: Vec<String>,
        conditions: EndpointConditions,
        hostname: Option<String>,
        target_ref: Option<Reference>,
        deprecated_topology: BTreeMap<String, String>,
        node_name: Option<String>,
        zone: Option<String>,
    }
    EndpointConditions { ready: Option<bool>, serving: Option<bool>, terminating: Option<bool> }
    EndpointPort { name: Option<String>, protocol: Option<String>, port: Option<i32>, app_protocol: Option<String> }
    Ingress { metadata: Meta, spec: IngressSpec }
    IngressSpec { ingress_class_name: Option<String>, rules: Vec<IngressRule>, tls: Vec<IngressTls> }
    IngressRule { host: String, http: Option<IngressHttp> }
    IngressHttp { paths: Vec<IngressPath> }
    IngressPath { path: String }
    IngressTls { hosts: Vec<String> }
    /// A namespace, a ReplicaSet, a Job: only what stands in their metadata matters.
    Bare { metadata: Meta }
}

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    Node,
    Pod,
    Service,
    Endpoints,
    EndpointSlice,
    Ingress,
    Namespace,
    ReplicaSet,
    Job,
}

impl Kind {
    /// The API's folder and the resource's name in it.
    pub fn resource(self) -> (&'static str, &'static str) {
        match self {
            Kind::Node => ("/api/v1", "nodes"),
            Kind::Pod => ("/api/v1", "pods"),
            Kind::Service => ("/api/v1", "services"),
            Kind::Endpoints => ("/api/v1", "endpoints"),
            Kind::EndpointSlice => ("/apis/discovery.k8s.io/v1", "endpointslices"),
            Kind::Ingress => ("/apis/networking.k8s.io/v1", "ingresses"),
            Kind::Namespace => ("/api/v1", "namespaces"),
            Kind::ReplicaSet => ("/apis/apps/v1", "replicasets"),
            Kind::Job => ("/apis/batch/v1", "jobs"),
        }
    }
}

/// An object of any kind.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Object {
    Node(Node),
    Pod(Pod),
    Service(Service),
    Endpoints(Endpoints),
    EndpointSlice(EndpointSlice),
    Ingress(Ingress),
    Bare(Bare),
}

impl Object {
    pub fn metadata(&self) -> &Meta {
        match self {
            Object::Node(o) => &o.metadata,
            Object::Pod(o) => &o.metadata,
            Object::Service(o) => &o.metadata,
            Object::Endpoints(o) => &o.metadata,
            Object::EndpointSlice(o) => &o.metadata,
            Object::Ingress(o) => &o.metadata,
            Object::Bare(o) => &o.metadata,
        }
    }
}

/// One page of a list.
pub(super) struct Page {
    pub objects: Vec<Object>,
    pub resource_version: String,
    /// Where the list goes on; empty at its end.
    pub next: String,
}

#[derive(Deserialize)]
struct List<T> {
    metadata: ListMeta,
    items: Option<Vec<T>>,
}

objects! {
    ListMeta { resource_version: String, #[serde(rename = "continue")] next: String }
}

fn page<T: serde::de::DeserializeOwned>(text: &[u8], wrap: fn(T) -> Object) -> Result<Page, serde_json::Error> {
    let list: List<T> = serde_json::from_slice(text)?;
    let objects = list.items.unwrap_or_default().into_iter().map(wrap).collect();
    Ok(Page { objects, resource_version: list.metadata.resource_version, next: list.metadata.next })
}

impl Page {
    pub fn read(kind: Kind, text: &[u8]) -> Result<Page, serde_json::Error> {
        match kind {
            Kind::Node => page(text, Object::Node),
            Kind::Pod => page(text, Object::Pod),
            Kind::Service => page(text, Object::Service),
            Kind::Endpoints => page(text, Object::Endpoints),
            Kind::EndpointSlice => page(text, Object::EndpointSlice),
            Kind::Ingress => page(text, Object::Ingress),
            Kind::Namespace | Kind::ReplicaSet | Kind::Job => page(text, Object::Bare),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum EventKind {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

/// An event's kind without its object, or with what an error says.
#[derive(Deserialize)]
pub(super) struct EventHead {
    #[serde(rename = "type")]
    pub kind: EventKind,
    #[serde(default)]
    pub object: ErrorStatus,
}

objects! {
    ErrorStatus { code: i32, message: String, metadata: Meta }
}

#[derive(Deserialize)]
struct Event<T> {
    object: T,
}

/// The object of an event.
pub(super) fn event_object(kind: Kind, line: &[u8]) -> Result<Object, serde_json::Error> {
    fn of<T: serde::de::DeserializeOwned>(line: &[u8], wrap: fn(T) -> Object) -> Result<Object, serde_json::Error> {
        serde_json::from_slice::<Event<T>>(line).map(|e| wrap(e.object))
    }
    match kind {
        Kind::Node => of(line, Object::Node),
        Kind::Pod => of(line, Object::Pod),
        Kind::Service => of(line, Object::Service),
        Kind::Endpoints => of(line, Object::Endpoints),
        Kind::EndpointSlice => of(line, Object::EndpointSlice),
        Kind::Ingress => of(line, Object::Ingress),
        Kind::Namespace | Kind::ReplicaSet | Kind::Job => of(line, Object::Bare),
    }
}
