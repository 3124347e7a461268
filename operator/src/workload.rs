//! The objects that a fleet owns, as server-side apply wants them. Pods satisfy the `restricted` pod security standard
//! and hold no API credentials.

use narthex_crds::Fleet;
use serde_json::{Value, json};

/// What the operator knows besides the fleet's spec.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The scraper's image where the fleet names none.
    pub image: String,
    /// Where shards reach the operator.
    pub operator_url: String,
    /// Shards that must run.
    pub replicas: usize,
}

/// The port of a shard's API.
pub const PORT: u16 = 9090;

/// The name of the Secret that holds the token by which shards and operator know each other.
pub fn token_secret(fleet: &str) -> String {
    format!("{fleet}-fleet-token")
}

/// Labels by which the fleet's pods are selected.
pub fn selector(fleet: &str) -> Value {
    json!({"app.kubernetes.io/name": "narthex", "app.kubernetes.io/component": "shard", "narthex.dev/fleet": fleet})
}

/// The same as text.
pub fn selector_text(fleet: &str) -> String {
    format!("app.kubernetes.io/component=shard,app.kubernetes.io/name=narthex,narthex.dev/fleet={fleet}")
}

fn metadata(fleet: &Fleet, name: &str) -> Value {
    let own = fleet.metadata.name.as_deref().unwrap_or_default();
    let mut labels = selector(own);
    labels["app.kubernetes.io/managed-by"] = json!("narthex-operator");
    json!({
        "name": name,
        "namespace": fleet.metadata.namespace,
        "labels": labels,
        "ownerReferences": [{"apiVersion": "narthex.dev/v1alpha1", "kind": "Fleet", "name": own,
            "uid": fleet.metadata.uid, "controller": true, "blockOwnerDeletion": true}],
    })
}

/// The headless Service, the Service that answers queries, the disruption budget and the StatefulSet, in that order.
pub fn objects(fleet: &Fleet, with: &Surroundings) -> Vec<Value> {
    let name = fleet.metadata.name.clone().unwrap_or_default();
    let shards = format!("{name}-shards");
    let port = |headless: bool| {
        let mut spec = json!({"selector": selector(&name),
            "ports": [{"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP"}]});
        if headless {
            spec["clusterIP"] = json!("None");
            spec["publishNotReadyAddresses"] = json!(true);
        } else {
            spec["type"] = json!("ClusterIP");
        }
        spec
    };
    let service = |n: &str, headless| json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata(fleet, n), "spec": port(headless)});
    vec![
        service(&shards, true),
        service(&name, false),
        json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata(fleet, &name),
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector(&name)}}}),
        stateful_set(fleet, with, &name, &shards),
    ]
}

fn stateful_set(fleet: &Fleet, with: &Surroundings, name: &str, service: &str) -> Value {
    let spec = &fleet.spec;
    let namespace = fleet.metadata.namespace.clone().unwrap_or_default();
    let mut args = vec![
        "shard".to_owned(),
        format!("--fleet={namespace}/{name}"),
        "--shard.name=$(POD_NAME)".to_owned(),
        format!("--shard.url=http://$(POD_NAME).{service}.{namespace}.svc:{PORT}"),
        format!("--operator.url={}", with.operator_url),
        "--token.file=/etc/narthex/token/token".to_owned(),
        "--storage.tsdb.path=/data".to_owned(),
        format!("--storage.tsdb.retention.time={}", spec.retention),
        format!("--web.listen-address=0.0.0.0:{PORT}"),
    ];
    if let Some(size) = &spec.retention_size {
        args.push(format!("--storage.tsdb.retention.size={size}"));
    }
    if let Some(level) = &spec.log_level {
        args.push(format!("--log.level={level}"));
    }
    let probe = |path: &str, failures: u32| json!({"httpGet": {"path": path, "port": "http"}, "periodSeconds": 5, "failureThreshold": failures});
    let mut container = json!({
        "name": "narthex",
        "image": spec.image.clone().unwrap_or_else(|| with.image.clone()),
        // Whatever the image's entry point is.
        "command": ["narthex"],
        "args": args,
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "startupProbe": probe("/-/ready", 60),
        "readinessProbe": probe("/-/ready", 3),
        "livenessProbe": probe("/-/healthy", 6),
        "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "runAsNonRoot": true,
            "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "data", "mountPath": "/data"},
            {"name": "token", "mountPath": "/etc/narthex/token", "readOnly": true},
            {"name": "tmp", "mountPath": "/tmp"}],
    });
    if let Some(policy) = &spec.image_pull_policy {
        container["imagePullPolicy"] = json!(policy);
    }
    if let Some(resources) = &spec.resources {
        container["resources"] = json!(resources);
    }
    let mut volumes = vec![
        json!({"name": "token", "secret": {"secretName": token_secret(name), "defaultMode": 0o440}}),
        json!({"name": "tmp", "emptyDir": {}}),
    ];
    if spec.storage.is_none() {
        volumes.push(json!({"name": "data", "emptyDir": {}}));
    }
    let anti = json!({"podAffinityTerm": {"topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": selector(name)}}, "weight": 100});
    let mut pod = json!({
        "automountServiceAccountToken": false,
        "terminationGracePeriodSeconds": 60,
        "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
            "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"}},
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [anti]}},
        "containers": [container],
        "volumes": volumes,
    });
    if !spec.node_selector.is_empty() {
        pod["nodeSelector"] = json!(spec.node_selector);
    }
    if !spec.tolerations.is_empty() {
        pod["tolerations"] = json!(spec.tolerations);
    }
    if let Some(class) = &spec.priority_class_name {
        pod["priorityClassName"] = json!(class);
    }
    if !spec.image_pull_secrets.is_empty() {
        pod["imagePullSecrets"] = spec.image_pull_secrets.iter().map(|n| json!({"name": n})).collect();
    }
    let mut set = json!({
        "serviceName": service,
        "replicas": with.replicas,
        // A shard neither waits for another to start nor to stop.
        "podManagementPolicy": "Parallel",
        "selector": {"matchLabels": selector(name)},
        "template": {"metadata": {"labels": selector(name)}, "spec": pod},
    });
    if let Some(storage) = &spec.storage {
        let mut claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": storage.size}}});
        if let Some(class) = &storage.storage_class_name {
            claim["storageClassName"] = json!(class);
        }
        set["volumeClaimTemplates"] =
            json!([{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": claim}]);
        let scaled = if storage.delete_when_scaled { "Delete" } else { "Retain" };
        set["persistentVolumeClaimRetentionPolicy"] = json!({"whenDeleted": "Retain", "whenScaled": scaled});
    }
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata(fleet, name), "spec": set})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(spec: Value) -> Fleet {
        serde_json::from_value(json!({"apiVersion": "narthex.dev/v1alpha1", "kind": "Fleet",
            "metadata": {"name": "main", "namespace": "obs", "uid": "u"}, "spec": spec}))
        .unwrap()
    }

    #[test]
    fn pods_are_restricted_and_know_where_to_go() {
        let with = Surroundings { image: "narthex:1".into(), operator_url: "http://op:9443".into(), replicas: 3 };
        let objects = objects(&fleet(json!({"shards": 2, "storage": {"size": "5Gi"}})), &with);
        let set = &objects[3]["spec"];
        let pod = &set["template"]["spec"];
        let container = &pod["containers"][0];
        assert_eq!(set["replicas"], 3, "as many as must run, not as many as are asked for");
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(container["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(container["command"], json!(["narthex"]));
        let args: Vec<_> = container["args"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect();
        assert!(args.contains(&"--fleet=obs/main") && args.contains(&"--operator.url=http://op:9443"), "{args:?}");
        assert_eq!(set["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"], "5Gi");
        assert_eq!(set["persistentVolumeClaimRetentionPolicy"]["whenScaled"], "Retain");
        assert_eq!(objects[0]["spec"]["clusterIP"], "None");
        for object in &objects {
            assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "u");
        }
    }

    #[test]
    fn without_storage_data_lives_as_long_as_the_pod() {
        let with = Surroundings { image: "i".into(), operator_url: String::new(), replicas: 1 };
        let objects = objects(&fleet(json!({"image": "own:2"})), &with);
        let pod = &objects[3]["spec"]["template"]["spec"];
        assert_eq!(pod["containers"][0]["image"], "own:2");
        assert!(pod["volumes"].as_array().unwrap().contains(&json!({"name": "data", "emptyDir": {}})));
        assert!(objects[3]["spec"].get("volumeClaimTemplates").is_none());
    }
}
