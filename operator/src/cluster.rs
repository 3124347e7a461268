//! What the operator writes to the cluster: a fleet's objects by server-side apply, its token, its status, and Events on
//! monitors that give nothing. Nothing is written that is there already. And what it reads there one by one: keys of
//! Secrets and ConfigMaps.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{GroupVersionKind, TypeMeta};
use kube::discovery::ApiResource;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource, ResourceExt};
use narthex_crds::{Fleet, FleetStatus};
use narthex_plan::jobs::KeyRef;
use parking_lot::RwLock;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tracing::warn;

use crate::compile::{Problem, Secrets};
use crate::workload;

/// The field manager of all that is applied.
const MANAGER: &str = "narthex-operator";

/// What the cluster is to hold for one fleet.
#[derive(Clone, Debug)]
pub struct Desired {
    pub fleet: Fleet,
    pub objects: Vec<Value>,
    pub status: FleetStatus,
    pub problems: Vec<Problem>,
}

/// Tokens by fleet, `NAMESPACE/NAME`.
pub type Tokens = Arc<RwLock<HashMap<String, String>>>;

/// How often what was applied is applied anew, in case somebody else changed it.
const REFRESH: Duration = Duration::from_secs(300);
/// Between writings: the status of a busy fleet changes with every report, and once in a while is enough.
const PAUSE: Duration = Duration::from_secs(1);

/// Writes what is desired to the cluster, for as long as there is a controller. Fleets' tokens go to `tokens`.
pub async fn write(client: Client, mut desired: watch::Receiver<Vec<Desired>>, tokens: Tokens) {
    let mut writer = Writer::new(client);
    let mut written = Written::default();
    let mut refreshed = Instant::now();
    while desired.changed().await.is_ok() {
        if refreshed.elapsed() > REFRESH {
            writer.forget();
            refreshed = Instant::now();
        }
        let all = desired.borrow_and_update().clone();
        written.keep(all.iter().map(|d| (id_of(&d.fleet), d.fleet.uid().unwrap_or_default())).collect(), &tokens);
        for d in &all {
            let id = id_of(&d.fleet);
            if !tokens.read().contains_key(&id) {
                match writer.token(&d.fleet).await {
                    Ok(token) => {
                        tokens.write().insert(id.clone(), token);
                    }
                    Err(error) => warn!(fleet = id, error = %error, "the fleet's token can't be read or made"),
                }
            }
            if let Err(error) = writer.apply(d.objects.clone()).await {
                warn!(fleet = id, error = %error, "the fleet's objects can't be applied");
            }
            if written.status(&id).is_none_or(|old| differs(old, &d.status)) {
                match writer.status(&d.fleet, &d.status).await {
                    Ok(()) => written.set_status(&id, &d.status),
                    Err(error) => warn!(fleet = id, error = %error, "the fleet's status can't be written"),
                }
            }
            writer.events(&id, &d.problems).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// `NAMESPACE/NAME`.
fn id_of(fleet: &Fleet) -> String {
    format!("{}/{}", fleet.namespace().unwrap_or_default(), fleet.name_any())
}

/// What fleets were told last, for as long as they are the same objects.
#[derive(Default)]
struct Written(HashMap<String, (String, Option<FleetStatus>)>);

impl Written {
    /// Forgets fleets that are gone, and those that were made anew (another UID): nothing that belonged to the old one
    /// is there any more, its token's Secret included.
    fn keep(&mut self, uids: HashMap<String, String>, tokens: &Tokens) {
        self.0.retain(|id, (uid, _)| uids.get(id) == Some(uid));
        tokens.write().retain(|id, _| self.0.contains_key(id));
        for (id, uid) in uids {
            self.0.entry(id).or_insert((uid, None));
        }
    }

    fn status(&self, id: &str) -> Option<&FleetStatus> {
        self.0.get(id)?.1.as_ref()
    }

    fn set_status(&mut self, id: &str, status: &FleetStatus) {
        if let Some((_, written)) = self.0.get_mut(id) {
            *written = Some(status.clone());
        }
    }
}

/// Whether a status is worth writing: times of conditions alone are not.
fn differs(old: &FleetStatus, new: &FleetStatus) -> bool {
    let bare = |s: &FleetStatus| {
        let mut s = s.clone();
        s.conditions.iter_mut().for_each(|c| c.last_transition_time = Time(jiff::Timestamp::UNIX_EPOCH));
        s
    };
    bare(old) != bare(new)
}

/// Applies and remembers what was applied.
struct Writer {
    client: Client,
    recorder: Recorder,
    applied: HashMap<String, Value>,
    events: HashMap<(String, String), String>,
}

/// The kinds of `workload::objects`, by their plural names.
fn plural(kind: &str) -> &'static str {
    match kind {
        "Service" => "services",
        "StatefulSet" => "statefulsets",
        _ => "poddisruptionbudgets",
    }
}

impl Writer {
    fn new(client: Client) -> Writer {
        let recorder = Recorder::new(client.clone(), Reporter { controller: MANAGER.to_owned(), instance: None });
        Writer { client, recorder, applied: HashMap::new(), events: HashMap::new() }
    }

    /// Applies objects that differ from what was applied last. Another manager's fields are taken over: these objects
    /// are ours.
    ///
    /// # Errors
    /// The first that the API server gives; what was applied before it stays.
    async fn apply(&mut self, objects: Vec<Value>) -> Result<(), kube::Error> {
        for object in objects {
            let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
            let (kind, namespace, name) = (text("/kind"), text("/metadata/namespace"), text("/metadata/name"));
            let id = format!("{kind}/{namespace}/{name}");
            if self.applied.get(&id) == Some(&object) {
                continue;
            }
            let types = TypeMeta { api_version: text("/apiVersion"), kind: kind.clone() };
            let gvk = GroupVersionKind::try_from(types).map_err(|e| kube::Error::Service(e.to_string().into()))?;
            let resource = ApiResource::from_gvk_with_plural(&gvk, plural(&kind));
            let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &namespace, &resource);
            api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&object)).await?;
            self.applied.insert(id, object);
        }
        Ok(())
    }

    /// Lets everything be applied anew, in case somebody else changed it.
    fn forget(&mut self) {
        self.applied.clear();
    }

    /// The fleet's token, made if there is none.
    ///
    /// # Errors
    /// What the API server gives.
    async fn token(&self, fleet: &Fleet) -> Result<String, kube::Error> {
        let namespace = fleet.namespace().unwrap_or_default();
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &namespace);
        let name = workload::token_secret(&fleet.name_any());
        let token = |s: &Secret| {
            let bytes = s.data.as_ref().and_then(|d| d.get("token"));
            bytes.and_then(|b| String::from_utf8(b.0.clone()).ok()).filter(|t| !t.is_empty())
        };
        if let Some(found) = api.get_opt(&name).await?.as_ref().and_then(token) {
            return Ok(found);
        }
        let mut random = [0u8; 32];
        ring_random(&mut random)?;
        let text: String = random.iter().map(|b| format!("{b:02x}")).collect();
        let secret: Secret = Secret {
            metadata: kube::api::ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace),
                owner_references: Some(fleet.controller_owner_ref(&()).into_iter().collect()),
                ..Default::default()
            },
            string_data: Some(BTreeMap::from([("token".to_owned(), text.clone())])),
            type_: Some("Opaque".to_owned()),
            ..Default::default()
        };
        match api.create(&PostParams::default(), &secret).await {
            Ok(_) => Ok(text),
            // Another leader was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let found = api.get(&name).await?;
                token(&found).ok_or_else(|| kube::Error::Service(format!("secret {name} has no token").into()))
            }
            Err(error) => Err(error),
        }
    }

    /// Writes a fleet's status.
    ///
    /// # Errors
    /// What the API server gives.
    async fn status(&self, fleet: &Fleet, status: &FleetStatus) -> Result<(), kube::Error> {
        let api: Api<Fleet> = Api::namespaced(self.client.clone(), &fleet.namespace().unwrap_or_default());
        let patch = json!({"status": status});
        api.patch_status(&fleet.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await?;
        Ok(())
    }

    /// Records an Event for each problem that is new.
    async fn events(&mut self, fleet: &str, problems: &[Problem]) {
        let mut now = HashMap::new();
        for problem in problems {
            let p = &problem.entry;
            let key = (fleet.to_owned(), format!("{}/{}/{}", p.kind, p.namespace, p.name));
            let note = format!("fleet {fleet}: {}", p.message);
            if self.events.get(&key) != Some(&note) {
                let reference = ObjectReference {
                    api_version: Some("monitoring.coreos.com/v1".to_owned()),
                    kind: Some(p.kind.clone()),
                    namespace: Some(p.namespace.clone()),
                    name: Some(p.name.clone()),
                    uid: Some(problem.uid.clone()),
                    ..Default::default()
                };
                let event = Event {
                    type_: EventType::Warning,
                    reason: p.reason.clone(),
                    note: Some(note.chars().take(1000).collect()),
                    action: "Translate".to_owned(),
                    secondary: None,
                };
                if let Err(error) = self.recorder.publish(&event, &reference).await {
                    warn!(monitor = key.1, error = %error, "an Event can't be written");
                    continue;
                }
            }
            now.insert(key, note);
        }
        self.events.retain(|k, _| k.0 != fleet);
        self.events.extend(now);
    }
}

fn ring_random(out: &mut [u8]) -> Result<(), kube::Error> {
    let failed = |_| kube::Error::Service("no random numbers".into());
    rustls::crypto::ring::default_provider().secure_random.fill(out).map_err(failed)
}

/// The value of a key that a monitor refers to.
async fn read_key(client: &Client, key: &KeyRef) -> Result<String, String> {
    let missing = |what: &str| format!("{what} {}/{} has no key {:?}", key.namespace, key.name, key.key);
    let failed = |what: &str, e: kube::Error| match e {
        kube::Error::Api(status) if status.code == 404 => {
            format!("{what} {}/{} does not exist", key.namespace, key.name)
        }
        e => format!("{what} {}/{} can't be read: {e}", key.namespace, key.name),
    };
    if key.config_map {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), &key.namespace);
        let found = api.get(&key.name).await.map_err(|e| failed("configmap", e))?;
        found.data.and_then(|mut d| d.remove(&key.key)).ok_or_else(|| missing("configmap"))
    } else {
        let api: Api<Secret> = Api::namespaced(client.clone(), &key.namespace);
        let found = api.get(&key.name).await.map_err(|e| failed("secret", e))?;
        let bytes = found.data.and_then(|mut d| d.remove(&key.key)).ok_or_else(|| missing("secret"))?;
        String::from_utf8(bytes.0).map_err(|_| format!("{} is not text", missing("secret")))
    }
}

/// Reads the values of `wanted` that are not known yet, one after the other, and sends all there are to `found`.
pub async fn read_all(client: Client, wanted: BTreeSet<KeyRef>, mut known: Secrets, found: mpsc::Sender<Secrets>) {
    known.retain(|k, _| wanted.contains(k));
    for key in wanted {
        if let Entry::Vacant(slot) = known.entry(key) {
            let value = read_key(&client, slot.key()).await;
            slot.insert(value);
        }
    }
    // The controller ends before this only when everything does.
    let _ = found.send(known).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_that_was_made_anew_is_told_everything_anew() {
        let tokens = Tokens::default();
        let mut written = Written::default();
        let now = |uid: &str| HashMap::from([("n/f".to_owned(), uid.to_owned())]);
        written.keep(now("1"), &tokens);
        written.set_status("n/f", &FleetStatus::default());
        tokens.write().insert("n/f".to_owned(), "t".to_owned());
        written.keep(now("1"), &tokens);
        assert!(written.status("n/f").is_some() && tokens.read().contains_key("n/f"), "it is the same");
        written.keep(now("2"), &tokens);
        assert!(written.status("n/f").is_none() && tokens.read().is_empty(), "another of the same name");
        written.keep(HashMap::new(), &tokens);
        assert!(written.0.is_empty());
    }
}
