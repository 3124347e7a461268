//! One cluster-wide watch per kind, each feeding the controller. A watch that fails backs off and starts anew; a monitor
//! or fleet that does not decode is an entry that says so, never the end of a watch.

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tracing::warn;

use crate::index::Change;

/// Changes wait here for the controller; a watch that finds it full waits, and the API server buffers.
pub const QUEUE: usize = 4096;

/// Starts all watches. They end when the receiver is dropped.
pub fn start(client: &Client, nodes: bool) -> mpsc::Receiver<Change> {
    let (to, changes) = mpsc::channel(QUEUE);
    follow(Api::all(client.clone()), &to, "fleets", Some, Change::Fleet);
    follow(Api::all(client.clone()), &to, "servicemonitors", Some, Change::ServiceMonitor);
    follow(Api::all(client.clone()), &to, "podmonitors", Some, Change::PodMonitor);
    follow(all::<Service>(client), &to, "services", lean, Change::Service);
    follow(all::<EndpointSlice>(client), &to, "endpointslices", lean, Change::Slice);
    follow(all::<Pod>(client), &to, "pods", lean, Change::Pod);
    follow(all::<Namespace>(client), &to, "namespaces", lean, Change::Namespace);
    if nodes {
        follow(all::<Node>(client), &to, "nodes", lean, Change::Node);
    }
    changes
}

/// The objects of a kind, not yet decoded but for their metadata.
fn all<K: Resource<DynamicType = ()>>(client: &Client) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &ApiResource::erase::<K>(&()))
}

/// What is kept of an object. A whole manifest in an annotation is not: it would go to the shards as a label.
fn lean<T: DeserializeOwned>(mut object: DynamicObject) -> Option<T> {
    object.managed_fields_mut().clear();
    object.annotations_mut().remove("kubectl.kubernetes.io/last-applied-configuration");
    let DynamicObject { types, metadata, mut data } = object;
    let decoded = serde_json::to_value(&metadata).and_then(|own| {
        data["metadata"] = own;
        serde_json::from_value(data)
    });
    match decoded {
        Ok(kept) => Some(kept),
        Err(error) => {
            let kind = types.map(|t| t.kind);
            let (namespace, name) = (metadata.namespace, metadata.name);
            warn!(kind, namespace, name, %error, "an object does not decode");
            None
        }
    }
}

/// The event about what is kept of its object, if that is anything.
fn kept<K, T>(event: Event<K>, keep: fn(K) -> Option<T>) -> Option<Event<T>> {
    Some(match event {
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(keep(object)?),
        Event::InitDone => Event::InitDone,
        Event::Apply(object) => Event::Apply(keep(object)?),
        Event::Delete(object) => Event::Delete(keep(object)?),
    })
}

fn follow<K, T>(
    api: Api<K>,
    to: &mpsc::Sender<Change>,
    what: &'static str,
    keep: fn(K) -> Option<T>,
    wrap: fn(Event<T>) -> Change,
) where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
    T: Send + 'static,
{
    let to = to.clone();
    let stream = watcher::watcher(api, watcher::Config::default()).default_backoff();
    tokio::spawn(async move {
        let mut stream = std::pin::pin!(stream);
        let mut failures: u32 = 0;
        while let Some(event) = stream.next().await {
            match event {
                Ok(event) => {
                    failures = 0;
                    if let Some(event) = kept(event, keep)
                        && to.send(wrap(event)).await.is_err()
                    {
                        return;
                    }
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    // A kind that the cluster doesn't know fails for good: say it now and then.
                    if failures.is_power_of_two() {
                        warn!(kind = what, failures, error = %error, "a watch failed");
                    }
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use narthex_plan::kubernetes::objects;

    use super::*;

    #[test]
    fn what_is_kept_of_an_object() {
        let pod = serde_json::from_value(
            serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n",
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "a": "b"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"containerPort": 80}]}]},
            "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}}),
        )
        .unwrap();
        let kept: objects::Pod = lean(pod).unwrap();
        assert_eq!((kept.metadata.name.as_str(), kept.metadata.namespace.as_str()), ("p", "n"));
        assert_eq!(kept.metadata.annotations.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!((kept.spec.node_name.as_str(), kept.spec.containers[0].ports[0].container_port), ("n1", 80));
        assert_eq!((kept.status.pod_ip.as_str(), kept.status.conditions[0].kind.as_str()), ("10.0.0.1", "Ready"));
    }
}
