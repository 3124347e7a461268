//! What the operator writes to the cluster: a fleet's objects by server-side apply, its token, its status, and Events on
//! monitors that give nothing. Nothing is written that is there already.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Secret};
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{GroupVersionKind, TypeMeta};
use kube::discovery::ApiResource;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource, ResourceExt};
use narthex_crds::{Fleet, FleetStatus};
use narthex_plan::jobs::KeyRef;
use serde_json::{Value, json};
use tracing::warn;

use crate::compile::Problem;
use crate::workload;

/// The field manager of all that is applied.
pub const MANAGER: &str = "narthex-operator";

/// Applies and remembers what was applied.
pub struct Writer {
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
    pub fn new(client: Client) -> Writer {
        let recorder = Recorder::new(client.clone(), Reporter { controller: MANAGER.to_owned(), instance: None });
        Writer { client, recorder, applied: HashMap::new(), events: HashMap::new() }
    }

    /// Applies objects that differ from what was applied last. Another manager's fields are taken over: these objects
    /// are ours.
    ///
    /// # Errors
    /// The first that the API server gives; what was applied before it stays.
    pub async fn apply(&mut self, objects: Vec<Value>) -> Result<(), kube::Error> {
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
    pub fn forget(&mut self) {
        self.applied.clear();
    }

    /// The fleet's token, made if there is none.
    ///
    /// # Errors
    /// What the API server gives.
    pub async fn token(&self, fleet: &Fleet) -> Result<String, kube::Error> {
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
    pub async fn status(&self, fleet: &Fleet, status: &FleetStatus) -> Result<(), kube::Error> {
        let api: Api<Fleet> = Api::namespaced(self.client.clone(), &fleet.namespace().unwrap_or_default());
        let patch = json!({"status": status});
        api.patch_status(&fleet.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await?;
        Ok(())
    }

    /// Records an Event for each problem that is new.
    pub async fn events(&mut self, fleet: &str, problems: &[Problem]) {
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
pub async fn read_key(client: &Client, key: &KeyRef) -> Result<String, String> {
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
