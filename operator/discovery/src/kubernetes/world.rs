//! The objects that are known, and what the group that is being made asked for.

use std::cell::RefCell;
use std::collections::HashMap;

use narthex_config::{KubernetesAttachMetadata, TargetGroup};
use narthex_plan::kubernetes::objects::{Bare, Kind, Node, Object, Pod, Service};
use narthex_plan::kubernetes::{Grouper, Objects, name_in, source};

/// An object's kind, and its name in its namespace ([`name_in`]).
pub(super) type Key = (Kind, String);

#[derive(Default)]
pub(super) struct World {
    pub objects: HashMap<Key, Object>,
    asked: RefCell<Vec<Key>>,
}

impl World {
    /// The group of an object of the role's own kind, without targets where it is gone or gives none; and the other
    /// objects that it depends on, there or not, sorted.
    pub fn group(&self, key: &Key, attach: &KubernetesAttachMetadata) -> (TargetGroup, Vec<Key>) {
        let group = match self.objects.get(key) {
            Some(object) => Grouper { objects: self, attach }.group(object),
            None => TargetGroup { source: source(key.0, &key.1), ..TargetGroup::default() },
        };
        let mut asked = self.asked.take();
        asked.sort_unstable();
        asked.dedup();
        (group, asked)
    }

    fn find(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Object> {
        let key = (kind, name_in(namespace, name));
        let found = self.objects.get(&key);
        self.asked.borrow_mut().push(key);
        found
    }
}

impl Objects for World {
    fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        match self.find(Kind::Service, namespace, name) {
            Some(Object::Service(o)) => Some(o),
            _ => None,
        }
    }

    fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        match self.find(Kind::Pod, namespace, name) {
            Some(Object::Pod(o)) => Some(o),
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
