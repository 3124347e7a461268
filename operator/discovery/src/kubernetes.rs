//! `kubernetes_sd_configs`: objects that an API server tells of become targets, in all six roles.
//!
//! Every kind of object that a role needs is listed in pages, then watched; a watch that ends goes on where it was,
//! and one whose place is too old (410) lists anew. What is kept of objects is what labels are made of, which
//! `narthex-plan` does. A group is made anew when its own object changes, or one that it asked for when it was made, and
//! is sent when it differs.
//!
//! The API server is asked over `narthex-http` with plain JSON: a Kubernetes client library would cost `narthex`
//! minutes of building. Deliberately absent: credentials of a kubeconfig that need a program to be run (`exec`,
//! `auth-provider`), which are refused by name.

mod access;
mod answers;
mod world;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ::http::StatusCode;
use ::http::header::{ACCEPT, ACCEPT_ENCODING, HeaderMap, HeaderValue};
use futures::stream::{FuturesUnordered, StreamExt};
use narthex_config::{KubernetesAttachMetadata, KubernetesRole, KubernetesSdConfig, TargetGroup};
use narthex_http::{Ask, Client, Connections};
use narthex_plan::kubernetes::name_in;
use narthex_plan::kubernetes::objects::{Kind, Object};
use tokio::sync::mpsc;
use tokio::time::Instant;
use url::Url;

use crate::metrics::SdMetrics;
use crate::{Discoverer, Updates};
use access::Access;
use answers::{EventHead, EventKind, Page, resource};
use world::{Key, World};

/// Objects of one page of a list.
const PAGE: usize = 500;
/// The longest page of a list, and the longest event, in bytes. etcd takes no object beyond 1.5 MiB or so.
const PAGE_LIMIT: u64 = 256 << 20;
const EVENT_LIMIT: usize = 16 << 20;
/// How long an answer to a list, or the head of one to a watch, may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The API server ends watches after this long; silence beyond that and [`TIMEOUT`] is a dead connection.
const WATCH: Duration = Duration::from_secs(300);
/// Between attempts after failures.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// Changes are collected for this long.
const SETTLE: Duration = Duration::from_millis(50);
/// Events that may wait; a full queue makes the watches wait.
const QUEUE: usize = 256;

/// A kind of object in a namespace, or in all of them.
#[derive(Clone, Debug)]
struct Feed {
    kind: Kind,
    namespace: Option<String>,
    label: String,
    field: String,
}

/// What a feed tells.
enum Event {
    /// All objects that there are.
    Reset(usize, Vec<Object>),
    Apply(usize, Object),
    Delete(usize, Object),
}

pub(crate) struct KubernetesDiscovery {
    api: Arc<Api>,
    feeds: Vec<Feed>,
    attach: KubernetesAttachMetadata,
    role: KubernetesRole,
    metrics: Arc<SdMetrics>,
}

struct Api {
    client: Client,
    base: Url,
    metrics: Arc<SdMetrics>,
}

fn kind_of(role: KubernetesRole) -> Kind {
    match role {
        KubernetesRole::Node => Kind::Node,
        KubernetesRole::Pod => Kind::Pod,
        KubernetesRole::Service => Kind::Service,
        KubernetesRole::Endpoints => Kind::Endpoints,
        KubernetesRole::EndpointSlice => Kind::EndpointSlice,
        KubernetesRole::Ingress => Kind::Ingress,
    }
}

/// What has to be watched for a section.
fn feeds(config: &KubernetesSdConfig, role: KubernetesRole, own_namespace: Option<String>) -> Vec<Feed> {
    let mut namespaces: BTreeSet<Option<String>> = config.namespaces.names.iter().cloned().map(Some).collect();
    namespaces.extend(own_namespace.map(Some));
    if namespaces.is_empty() {
        namespaces.insert(None);
    }
    let selector = |kind: Kind| {
        let found = config.selectors.iter().find(|s| s.role.map(kind_of) == Some(kind));
        found.map(|s| (s.label.clone(), s.field.clone())).unwrap_or_default()
    };
    let attach = &config.attach_metadata;
    let has_pods = matches!(role, KubernetesRole::Pod | KubernetesRole::Endpoints | KubernetesRole::EndpointSlice);
    let mut kinds = vec![kind_of(role)];
    if matches!(role, KubernetesRole::Endpoints | KubernetesRole::EndpointSlice) {
        kinds.extend([Kind::Service, Kind::Pod]);
    }
    if has_pods && attach.deployment {
        kinds.push(Kind::ReplicaSet);
    }
    if has_pods && (attach.job || attach.cronjob) {
        kinds.push(Kind::Job);
    }
    let mut all = Vec::new();
    let mut cluster_wide: Vec<Kind> = Vec::new();
    if role == KubernetesRole::Node || has_pods && attach.node {
        cluster_wide.push(Kind::Node);
    }
    if role != KubernetesRole::Node && attach.namespace {
        cluster_wide.push(Kind::Namespace);
    }
    for kind in cluster_wide {
        let (label, field) = selector(kind);
        all.push(Feed { kind, namespace: None, label, field });
    }
    for kind in kinds.into_iter().filter(|k| *k != Kind::Node) {
        for namespace in &namespaces {
            let (label, field) = selector(kind);
            all.push(Feed { kind, namespace: namespace.clone(), label, field });
        }
    }
    all
}

impl KubernetesDiscovery {
    /// # Errors
    /// An API server that is not told where to find, or a kubeconfig that cannot be used.
    pub fn new(config: &KubernetesSdConfig, metrics: Arc<SdMetrics>) -> Result<KubernetesDiscovery, String> {
        let role = config.role.ok_or("role missing")?;
        let Access { base, http, own_namespace } = access::of(config)?;
        let base = Url::parse(&base).map_err(|e| format!("API server {base:?}: {e}"))?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(format!("API server {:?}: unsupported scheme", base.as_str()));
        }
        let feeds = feeds(config, role, own_namespace);
        let client = Client::plain(http, crate::client::USER_AGENT).dialing_as("kubernetes_sd");
        let api = Arc::new(Api { client, base, metrics: metrics.clone() });
        Ok(KubernetesDiscovery { api, feeds, attach: config.attach_metadata.clone(), role, metrics })
    }
}

impl Discoverer for KubernetesDiscovery {
    fn run(self: Box<Self>, updates: Updates) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            let (events, received) = mpsc::channel(QUEUE);
            let mut watches: FuturesUnordered<_> =
                self.feeds.iter().enumerate().map(|(i, feed)| follow(&self.api, feed, i, events.clone())).collect();
            drop(events);
            let watching = async { while watches.next().await.is_some() {} };
            let gathering = gather(&self, received, updates);
            tokio::select! {
                () = watching => {}
                () = gathering => {}
            }
        })
    }
}

/// Keeps the objects, and sends the groups that changed.
async fn gather(discovery: &KubernetesDiscovery, mut received: mpsc::Receiver<Event>, updates: Updates) {
    let mut state = Groups::new(discovery.role, discovery.feeds.clone(), discovery.attach.clone());
    let mut waiting: HashSet<usize> = (0..discovery.feeds.len()).collect();
    while let Some(event) = received.recv().await {
        state.take(event, &mut waiting, &discovery.metrics);
        let settled = Instant::now() + SETTLE;
        while let Ok(Some(event)) = tokio::time::timeout_at(settled, received.recv()).await {
            state.take(event, &mut waiting, &discovery.metrics);
        }
        // Half of the objects would make groups without the labels of the rest.
        if !waiting.is_empty() {
            continue;
        }
        let changed = state.changed();
        if !changed.is_empty() && updates.send(changed).await.is_err() {
            return;
        }
    }
}

/// The objects, which groups depend on which, and what was sent.
struct Groups {
    kind: Kind,
    role: &'static str,
    feeds: Vec<Feed>,
    attach: KubernetesAttachMetadata,
    world: World,
    dirty: HashSet<Key>,
    /// By object: the groups that asked for it.
    asked_by: HashMap<Key, HashSet<Key>>,
    /// By group: what it asked for, and the hash of what was sent.
    sent: HashMap<Key, (Vec<Key>, u64)>,
    hasher: RandomState,
}

impl Groups {
    fn new(role: KubernetesRole, feeds: Vec<Feed>, attach: KubernetesAttachMetadata) -> Groups {
        Groups {
            kind: kind_of(role),
            role: role.as_str(),
            feeds,
            attach,
            world: World::default(),
            dirty: HashSet::new(),
            asked_by: HashMap::new(),
            sent: HashMap::new(),
            hasher: RandomState::new(),
        }
    }

    fn take(&mut self, event: Event, waiting: &mut HashSet<usize>, metrics: &SdMetrics) {
        let key = |kind: Kind, object: &Object| {
            let meta = object.metadata();
            (kind, name_in(&meta.namespace, &meta.name))
        };
        let (own, role) = (self.kind, self.role);
        let count = |kind: Kind, event: &str| {
            if kind == own {
                metrics.kubernetes_events.with(&[role, event]).inc();
            }
        };
        match event {
            Event::Reset(feed, objects) => {
                waiting.remove(&feed);
                let Some(Feed { kind, namespace, .. }) = self.feeds.get(feed).cloned() else { return };
                let mut there: HashSet<Key> = HashSet::with_capacity(objects.len());
                for object in objects {
                    let key = key(kind, &object);
                    there.insert(key.clone());
                    if self.world.objects.get(&key) != Some(&object) {
                        count(kind, "add");
                        self.touch(&key);
                        self.world.objects.insert(key, object);
                    }
                }
                let within = |key: &Key, object: &Object| {
                    key.0 == kind && namespace.as_ref().is_none_or(|n| *n == object.metadata().namespace)
                };
                let objects = self.world.objects.iter();
                let gone = objects.filter(|(k, o)| within(k, o) && !there.contains(*k)).map(|(k, _)| k.clone());
                for key in gone.collect::<Vec<_>>() {
                    self.world.objects.remove(&key);
                    self.touch(&key);
                }
            }
            Event::Apply(feed, object) => {
                let Some(kind) = self.feeds.get(feed).map(|f| f.kind) else { return };
                let key = key(kind, &object);
                let old = self.world.objects.get(&key);
                count(kind, if old.is_some() { "update" } else { "add" });
                if old != Some(&object) {
                    self.touch(&key);
                    self.world.objects.insert(key, object);
                }
            }
            Event::Delete(feed, object) => {
                let Some(kind) = self.feeds.get(feed).map(|f| f.kind) else { return };
                count(kind, "delete");
                let key = key(kind, &object);
                self.world.objects.remove(&key);
                self.touch(&key);
            }
        }
    }

    /// Marks the groups that an object is part of.
    fn touch(&mut self, key: &Key) {
        if key.0 == self.kind {
            self.dirty.insert(key.clone());
        }
        if let Some(groups) = self.asked_by.get(key) {
            self.dirty.extend(groups.iter().cloned());
        }
    }

    /// The groups that are other than when they were sent.
    fn changed(&mut self) -> Vec<TargetGroup> {
        let mut changed = Vec::new();
        for key in std::mem::take(&mut self.dirty) {
            let (group, asked) = self.world.group(&key, &self.attach);
            let exists = self.world.objects.contains_key(&key);
            let (before, hash_before) = self.sent.remove(&key).unwrap_or_default();
            for other in before.iter().filter(|o| !exists || asked.binary_search(o).is_err()) {
                if let Some(groups) = self.asked_by.get_mut(other) {
                    groups.remove(&key);
                    if groups.is_empty() {
                        self.asked_by.remove(other);
                    }
                }
            }
            let hash = self.hasher.hash_one(format!("{:?} {:?}", group.labels, group.targets));
            if exists {
                for other in &asked {
                    self.asked_by.entry(other.clone()).or_default().insert(key.clone());
                }
                self.sent.insert(key, (asked, hash));
            }
            if hash != hash_before || !exists {
                changed.push(group);
            }
        }
        changed
    }
}

/// Why a feed has to start anew.
enum Fault {
    /// The place in the history is gone: list at once.
    Expired,
    Failed(String),
}

/// Lists and watches for as long as it is polled; ends when nobody listens.
async fn follow(api: &Api, feed: &Feed, index: usize, events: mpsc::Sender<Event>) {
    let mut pause = FIRST_PAUSE;
    let mut place: Option<String> = None;
    let mut connections = Connections::default();
    loop {
        let began = Instant::now();
        let result = match &place {
            None => match api.list(feed, &mut connections).await {
                Ok((objects, version)) => {
                    if events.send(Event::Reset(index, objects)).await.is_err() {
                        return;
                    }
                    place = Some(version);
                    pause = FIRST_PAUSE;
                    continue;
                }
                Err(fault) => Err(fault),
            },
            Some(version) => {
                let mut version = version.clone();
                let result = api.watch(feed, &mut version, index, &events).await;
                place = Some(version);
                result
            }
        };
        if events.is_closed() {
            return;
        }
        match result {
            // A watch that lived for a while has ended as it should.
            Ok(()) if began.elapsed() > FIRST_PAUSE => {
                pause = FIRST_PAUSE;
                continue;
            }
            Ok(()) => {}
            Err(Fault::Expired) => place = None,
            Err(Fault::Failed(error)) => {
                api.metrics.kubernetes_failures.inc();
                let resource = resource(feed.kind).1;
                tracing::warn!(
                    discovery = "kubernetes",
                    resource,
                    namespace = feed.namespace,
                    error,
                    "failed to list or watch"
                );
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

impl Api {
    fn url(&self, feed: &Feed, parameters: &[(&str, &str)]) -> Url {
        let mut url = self.base.clone();
        let (folder, resource) = resource(feed.kind);
        let base = url.path().trim_end_matches('/').to_owned();
        let path = match &feed.namespace {
            Some(namespace) => format!("{base}{folder}/namespaces/{namespace}/{resource}"),
            None => format!("{base}{folder}/{resource}"),
        };
        url.set_path(&path);
        let selectors = [("labelSelector", feed.label.as_str()), ("fieldSelector", feed.field.as_str())];
        url.query_pairs_mut().extend_pairs(selectors.iter().chain(parameters).filter(|(_, value)| !value.is_empty()));
        url
    }

    fn fault(&self, status: StatusCode, body: &[u8]) -> Fault {
        if status == StatusCode::GONE {
            return Fault::Expired;
        }
        let said: answers::Status = serde_json::from_slice(body).unwrap_or_default();
        let message: String = said.message.chars().take(500).collect();
        Fault::Failed(format!("the API server answered {status}: {message}"))
    }

    /// All objects, and the version that a watch goes on from.
    async fn list(&self, feed: &Feed, connections: &mut Connections) -> Result<(Vec<Object>, String), Fault> {
        let mut all: Vec<Object> = Vec::new();
        let mut next = String::new();
        loop {
            let url = self.url(feed, &[("limit", &PAGE.to_string()), ("continue", &next)]);
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
            let ask = Ask { headers, ..Ask::get(&url, TIMEOUT, PAGE_LIMIT) };
            let answer = self.client.ask(ask, connections).await.map_err(Fault::Failed)?;
            if !answer.status.is_success() {
                return Err(self.fault(answer.status, &answer.body));
            }
            let page = Page::read(feed.kind, &answer.body)
                .map_err(|e| Fault::Failed(format!("cannot read a list of {}: {e}", resource(feed.kind).1)))?;
            all.extend(page.objects);
            next = page.next;
            if next.is_empty() {
                return Ok((all, page.resource_version));
            }
        }
    }

    /// Sends what changes after `version`, which it moves on, until the API server ends the watch.
    async fn watch(
        &self,
        feed: &Feed,
        version: &mut String,
        index: usize,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), Fault> {
        let url = self.url(
            feed,
            &[
                ("watch", "true"),
                ("allowWatchBookmarks", "true"),
                ("resourceVersion", version),
                ("timeoutSeconds", &WATCH.as_secs().to_string()),
            ],
        );
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let ask = Ask { headers, ..Ask::get(&url, TIMEOUT, PAGE_LIMIT) };
        let (status, mut stream) = self.client.open(ask).await.map_err(Fault::Failed)?;
        let mut buffer: Vec<u8> = Vec::new();
        loop {
            let part = tokio::time::timeout(WATCH + TIMEOUT, stream.next()).await;
            let part = part.map_err(|_| Fault::Failed("the watch fell silent".into()))?;
            let Some(part) = part.map_err(Fault::Failed)? else {
                return if status.is_success() { Ok(()) } else { Err(self.fault(status, &buffer)) };
            };
            if buffer.len() + part.len() > EVENT_LIMIT {
                return Err(Fault::Failed(format!("an event is longer than {EVENT_LIMIT} bytes")));
            }
            let searched = buffer.len();
            buffer.extend_from_slice(&part);
            if !status.is_success() {
                continue;
            }
            let mut from = 0;
            let mut search = searched;
            while let Some(end) = buffer[search..].iter().position(|b| *b == b'\n').map(|n| search + n) {
                if let Some(event) = read_event(feed.kind, &buffer[from..end], version, index)?
                    && events.send(event).await.is_err()
                {
                    return Ok(());
                }
                from = end + 1;
                search = from;
            }
            buffer.drain(..from);
        }
    }
}

/// One line of a watch. A bookmark only moves the version on.
fn read_event(kind: Kind, line: &[u8], version: &mut String, index: usize) -> Result<Option<Event>, Fault> {
    if line.trim_ascii().is_empty() {
        return Ok(None);
    }
    let unreadable = |e| Fault::Failed(format!("cannot read an event: {e}"));
    let head: EventHead = serde_json::from_slice(line).map_err(unreadable)?;
    if matches!(head.kind, EventKind::Error) {
        return Err(match head.object.code {
            410 => Fault::Expired,
            code => Fault::Failed(format!("the watch failed with {code}: {}", head.object.message)),
        });
    }
    if !head.object.metadata.resource_version.is_empty() {
        version.clone_from(&head.object.metadata.resource_version);
    }
    Ok(match head.kind {
        EventKind::Added | EventKind::Modified => {
            Some(Event::Apply(index, answers::event_object(kind, line).map_err(unreadable)?))
        }
        EventKind::Deleted => Some(Event::Delete(index, answers::event_object(kind, line).map_err(unreadable)?)),
        EventKind::Bookmark | EventKind::Error => None,
    })
}

#[cfg(test)]
mod tests;
