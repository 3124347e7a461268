//! The parts of Kubernetes objects that labels are made of. What is not read here is not kept, so that a large
//! cluster's pods take little memory, and no Kubernetes library has to be built to read them.

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
        pub struct $name {
            $($(#[$field_meta])* #[serde(deserialize_with = "nullable")] pub $field: $type,)*
        }
    )*};
}

objects! {
    Meta {
        name: String,
        namespace: String,
        uid: String,
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
pub enum Kind {
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

/// An object of any kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
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
