//! One cluster-wide watch per kind, each feeding the controller. A watch that fails backs off and starts anew; an object
//! that does not decode is an entry that says so, never the end of a watch.

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use narthex_crds::{Fleet, PodMonitor, ServiceMonitor};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tracing::warn;

use crate::index::{Change, slim_pod};

/// Changes wait here for the controller; a watch that finds it full waits, and the API server buffers.
pub const QUEUE: usize = 4096;

/// Starts all watches. They end when the receiver is dropped.
pub fn start(client: &Client, nodes: bool) -> mpsc::Receiver<Change> {
    let (to, changes) = mpsc::channel(QUEUE);
    follow(client, &to, "fleets", |_| {}, Change::Fleet);
    follow(client, &to, "servicemonitors", |_| {}, Change::ServiceMonitor);
    follow(client, &to, "podmonitors", |_| {}, Change::PodMonitor);
    follow(client, &to, "services", slim::<Service>, Change::Service);
    follow(client, &to, "endpointslices", slim::<EndpointSlice>, Change::Slice);
    follow(client, &to, "pods", slim_pod, Change::Pod);
    follow(client, &to, "namespaces", slim::<Namespace>, Change::Namespace);
    if nodes {
        follow(client, &to, "nodes", slim_node, Change::Node);
    }
    changes
}

fn slim<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

fn slim_node(node: &mut Node) {
    slim(node);
    node.status = None;
}

fn follow<K>(
    client: &Client,
    to: &mpsc::Sender<Change>,
    what: &'static str,
    trim: fn(&mut K),
    wrap: fn(Event<K>) -> Change,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let api: Api<K> = Api::all(client.clone());
    let to = to.clone();
    let stream = watcher::watcher(api, watcher::Config::default()).default_backoff().modify(trim);
    tokio::spawn(async move {
        let mut stream = std::pin::pin!(stream);
        let mut failures: u32 = 0;
        while let Some(event) = stream.next().await {
            match event {
                Ok(event) => {
                    failures = 0;
                    if to.send(wrap(event)).await.is_err() {
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

/// Monitors and fleets decode into guards.
const _: fn() = || {
    fn is_resource<K: Resource<DynamicType = ()>>() {}
    is_resource::<DeserializeGuard<Fleet>>();
    is_resource::<DeserializeGuard<ServiceMonitor>>();
    is_resource::<DeserializeGuard<PodMonitor>>();
};
