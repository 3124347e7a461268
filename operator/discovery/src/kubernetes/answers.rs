//! What an API server answers to lists and watches.

use narthex_plan::kubernetes::objects::{Kind, Object};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// The API's folder of a kind, and the resource's name in it.
pub(super) fn resource(kind: Kind) -> (&'static str, &'static str) {
    match kind {
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

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    next: String,
}

fn page<T: DeserializeOwned>(text: &[u8], wrap: fn(T) -> Object) -> Result<Page, serde_json::Error> {
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
    pub object: Status,
}

/// What is wrong, when something is; of other objects where in the history they are.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub code: i32,
    pub message: String,
    pub metadata: Place,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Place {
    pub resource_version: String,
}

#[derive(Deserialize)]
struct Event<T> {
    object: T,
}

/// The object of an event.
pub(super) fn event_object(kind: Kind, line: &[u8]) -> Result<Object, serde_json::Error> {
    fn of<T: DeserializeOwned>(line: &[u8], wrap: fn(T) -> Object) -> Result<Object, serde_json::Error> {
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
