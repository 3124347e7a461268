//! The committed manifest is the generated one, and upstream objects decode.

use kube::CustomResourceExt;
use narthex_crds::{Fleet, PodMonitor, ServiceMonitor};

#[test]
fn the_committed_manifest_is_the_generated_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/yaml/narthex.dev_fleets.yaml");
    let text = format!(
        "# Generated from crds/src/fleet.rs; NARTHEX_UPDATE=1 cargo test -p narthex-crds writes it anew.\n{}",
        serde_saphyr::to_string(&Fleet::crd()).expect("the definition is plain data")
    );
    if std::env::var_os("NARTHEX_UPDATE").is_some() {
        std::fs::write(path, &text).expect("the manifest can be written");
    }
    assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), text, "run with NARTHEX_UPDATE=1");
    assert!(text.len() < 200_000, "{} bytes: a plain kubectl apply needs less than 262,144", text.len());
}

#[test]
fn the_manifest_has_what_users_rely_on() {
    let crd = serde_json::to_value(Fleet::crd()).unwrap();
    let version = &crd["spec"]["versions"][0];
    assert_eq!(version["subresources"]["scale"]["specReplicasPath"], ".spec.shards");
    let columns: Vec<_> = version["additionalPrinterColumns"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert_eq!(columns, ["Shards", "Ready", "Monitors", "Targets", "Up", "Series", "Imbalance", "Age"]);
    let spec = &version["schema"]["openAPIV3Schema"]["properties"]["spec"];
    assert_eq!(spec["properties"]["shards"]["default"], 1);
    assert_eq!(spec["x-kubernetes-validations"][0]["message"], "replication needs at least as many shards");
}

#[test]
fn a_monitor_with_fields_from_the_future_decodes() {
    let text = r#"{"apiVersion":"monitoring.coreos.com/v1","kind":"ServiceMonitor","metadata":{"name":"a","namespace":"b"},
        "spec":{"selector":{"matchLabels":{"a":"b"}},"novelty":{"x":1},"sampleLimit":5,
        "endpoints":[{"port":"web","targetPort":8080,"proxyUrl":"http://p","hyper":true,"params":{"a":["b"]}}]}}"#;
    let monitor: ServiceMonitor = serde_json::from_str(text).unwrap();
    assert_eq!(monitor.spec.common.sample_limit, Some(5));
    assert_eq!(monitor.spec.endpoints[0].proxy.proxy_url.as_deref(), Some("http://p"));
    let pod: PodMonitor = serde_json::from_str(r#"{"metadata":{"name":"a"},"spec":{"selector":{}}}"#).unwrap();
    assert!(pod.spec.pod_metrics_endpoints.is_empty());
}
