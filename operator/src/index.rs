//! What the operator knows of the cluster: plain maps that watch events change. No client, no I/O.

use std::collections::BTreeMap;

use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use narthex_crds::{Fleet, PodMonitor, ServiceMonitor};
use narthex_plan::kubernetes::Objects;
use narthex_plan::kubernetes::objects::{Bare, EndpointSlice, Kind, Node, Pod, Service};

/// Namespace (empty for what has none) and name.
pub type Key = (String, String);

/// Objects of one kind. While a new list comes in, the old content stays.
#[derive(Debug)]
pub struct Table<K> {
    items: BTreeMap<Key, K>,
    coming: Option<BTreeMap<Key, K>>,
    /// A list was complete once.
    pub ready: bool,
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Table { items: BTreeMap::new(), coming: None, ready: false }
    }
}

/// What is kept in a [`Table`].
pub trait Keyed {
    fn key(&self) -> Key;
}

impl<K> Keyed for DeserializeGuard<K>
where
    DeserializeGuard<K>: Resource,
{
    fn key(&self) -> Key {
        (self.namespace().unwrap_or_default(), self.name_any())
    }
}

macro_rules! keyed {
    ($($kind:ty)*) => {$(
        impl Keyed for $kind {
            fn key(&self) -> Key {
                (self.metadata.namespace.clone(), self.metadata.name.clone())
            }
        }
    )*};
}

keyed! { Service EndpointSlice Pod Node Bare }

impl<K: Keyed> Table<K> {
    /// Takes in a watch event. Whether readers may see a difference.
    pub fn take(&mut self, event: Event<K>) -> bool {
        match event {
            Event::Init => {
                self.coming = Some(BTreeMap::new());
                false
            }
            Event::InitApply(object) => {
                self.coming.get_or_insert_default().insert(object.key(), object);
                false
            }
            Event::InitDone => {
                self.items = self.coming.take().unwrap_or_default();
                self.ready = true;
                true
            }
            Event::Apply(object) => {
                self.items.insert(object.key(), object);
                true
            }
            Event::Delete(object) => self.items.remove(&object.key()).is_some(),
        }
    }
}

impl<K> Table<K> {
    pub fn get(&self, namespace: &str, name: &str) -> Option<&K> {
        // Look-ups are by owned keys; they are short.
        self.items.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// In order of namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &K)> {
        self.items.iter()
    }
}

/// A change of something that is watched.
#[derive(Debug)]
// Each is moved twice, through a bounded queue: boxing would cost more than it saves.
#[allow(clippy::large_enum_variant)]
pub enum Change {
    Fleet(Event<DeserializeGuard<Fleet>>),
    ServiceMonitor(Event<DeserializeGuard<ServiceMonitor>>),
    PodMonitor(Event<DeserializeGuard<PodMonitor>>),
    Service(Event<Service>),
    Slice(Event<EndpointSlice>),
    Pod(Event<Pod>),
    Node(Event<Node>),
    Namespace(Event<Bare>),
}

/// All tables.
#[derive(Debug, Default)]
pub struct World {
    pub fleets: Table<DeserializeGuard<Fleet>>,
    pub service_monitors: Table<DeserializeGuard<ServiceMonitor>>,
    pub pod_monitors: Table<DeserializeGuard<PodMonitor>>,
    pub services: Table<Service>,
    pub slices: Table<EndpointSlice>,
    pub pods: Table<Pod>,
    pub nodes: Table<Node>,
    pub namespaces: Table<Bare>,
}

impl World {
    /// Whether readers may see a difference.
    pub fn take(&mut self, change: Change) -> bool {
        match change {
            Change::Fleet(e) => self.fleets.take(e),
            Change::ServiceMonitor(e) => self.service_monitors.take(e),
            Change::PodMonitor(e) => self.pod_monitors.take(e),
            Change::Service(e) => self.services.take(e),
            Change::Slice(e) => self.slices.take(e),
            Change::Pod(e) => self.pods.take(e),
            Change::Node(e) => self.nodes.take(e),
            Change::Namespace(e) => self.namespaces.take(e),
        }
    }

    /// Whether all that targets are made of was listed. Monitors of a kind that the cluster does not know are not
    /// waited for.
    pub fn ready(&self) -> bool {
        self.fleets.ready && self.services.ready && self.slices.ready && self.pods.ready && self.namespaces.ready
    }

    /// The labels of a namespace; `None` while it is unknown.
    pub fn namespace_labels(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        Some(&self.namespaces.get("", name)?.metadata.labels)
    }
}

impl Objects for World {
    fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.services.get(namespace, name)
    }

    fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        self.pods.get(namespace, name)
    }

    fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get("", name)
    }

    fn bare(&self, kind: Kind, _: &str, name: &str) -> Option<&Bare> {
        // Owners of pods are not watched: monitors ask for nothing of them.
        if kind == Kind::Namespace { self.namespaces.get("", name) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"name": name, "namespace": "n"}})).unwrap()
    }

    fn names(table: &Table<Pod>) -> Vec<&str> {
        table.iter().map(|(k, _)| k.1.as_str()).collect()
    }

    #[test]
    fn a_new_list_replaces_the_old_at_its_end() {
        let mut table = Table::default();
        for event in [Event::Init, Event::InitApply(pod("a")), Event::InitApply(pod("b"))] {
            assert!(!table.take(event));
        }
        assert!(!table.ready && names(&table).is_empty());
        assert!(table.take(Event::InitDone) && table.ready);
        assert_eq!(names(&table), ["a", "b"]);
        assert!(table.take(Event::Apply(pod("c"))) && table.take(Event::Delete(pod("a"))));
        assert!(!table.take(Event::Delete(pod("a"))), "it is gone already");
        table.take(Event::Init);
        table.take(Event::InitApply(pod("z")));
        assert_eq!(names(&table), ["b", "c"], "the old content stays while the list comes in");
        table.take(Event::InitDone);
        assert_eq!(names(&table), ["z"]);
    }

    #[test]
    fn an_object_that_does_not_decode_is_an_entry_like_others() {
        let bad = serde_json::json!({"apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor",
            "metadata": {"name": "bad", "namespace": "n"}, "spec": {"endpoints": "none"}});
        let guard: DeserializeGuard<ServiceMonitor> = serde_json::from_value(bad).unwrap();
        let mut world = World::default();
        assert!(world.take(Change::ServiceMonitor(Event::Apply(guard))));
        let (key, entry) = world.service_monitors.iter().next().unwrap();
        assert_eq!(key.1, "bad");
        assert!(entry.0.as_ref().is_err_and(|e| e.error.contains("endpoints") || !e.error.is_empty()));
    }
}
