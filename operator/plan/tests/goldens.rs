//! Monitors become the jobs that prometheus-operator writes: its own test inputs and outputs, recorded.
//!
//! Deviations by design, for all cases:
//! * the sharding rules at the end of `relabel_configs` (and `attach_metadata` for topology sharding) are not written:
//!   targets are placed after relabelling;
//! * scalars are compared as text, so `regex: 8080` equals `regex: "8080"`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use narthex_crds::monitoring::ScrapeSettings;
use narthex_crds::{PodMonitor, ServiceMonitor};
use narthex_plan::check::Checker;
use narthex_plan::jobs::{Generator, KeyRef, Values};
use serde_json::{Value, json};

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/prometheus-operator");

/// Cases that differ, by name of the golden file, and why.
const DEVIATIONS: [(&str, &str); 4] = [
    ("PromAgentDaemonSetPodMonitorConfig", "an agent on each node, which this operator does not run"),
    ("NativeHistogramConfig-2", "scrape_native_histograms is written whatever the server's version (3.7)"),
    ("NativeHistogramConfigAlwaysScrapeClassicHistograms", "written for release candidates of 3.0, too"),
    ("TopologySharding_", "attach_metadata of topology sharding"),
];

/// The files of a folder, in order.
fn files(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(Path::new(DATA).join(folder)).unwrap();
    let mut files: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

fn yaml(path: &std::path::Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Secrets and ConfigMaps of a case, TLS files where the upstream operator mounts them.
struct Store {
    values: BTreeMap<(String, String, String), String>,
    files: bool,
}

impl Store {
    fn of(case: &Value) -> Store {
        let mut values = BTreeMap::new();
        for object in case["store"].as_array().into_iter().flatten() {
            let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
            for (k, v) in object["values"].as_object().into_iter().flatten() {
                // The recorder wrote this ConfigMap's value as if it were base64.
                let v = if text(v).contains('\u{fffd}') { &json!("test_client_id") } else { v };
                values.insert((text(&object["namespace"]), text(&object["name"]), k.clone()), text(v));
            }
        }
        Store { values, files: case["generator"]["inlineTLSConfig"] != true }
    }

    fn get(&self, key: &KeyRef) -> Option<String> {
        self.values.get(&(key.namespace.clone(), key.name.clone(), key.key.clone())).cloned()
    }
}

impl Values for Store {
    fn text(&self, key: &KeyRef) -> Option<String> {
        self.get(key)
    }

    fn file(&self, key: &KeyRef) -> Option<String> {
        let kind = if key.config_map { 1 } else { 0 };
        self.files.then(|| format!("/etc/prometheus/certs/{kind}_{}_{}_{}", key.namespace, key.name, key.key))
    }
}

/// An object as the API would give it: the cases leave out types, and write unset fields as empty ones.
fn object<T: serde::de::DeserializeOwned>(value: &Value, kind: &str) -> T {
    let mut value = value.clone();
    value["apiVersion"] = json!("monitoring.coreos.com/v1");
    value["kind"] = json!(kind);
    serde_json::from_value(value).unwrap_or_else(|e| panic!("{kind}: {e}"))
}

fn settings(case: &Value) -> ScrapeSettings {
    let mut spec = case["prometheus"]["spec"].clone();
    if spec.is_null() {
        spec = json!({});
    }
    let deny = spec["arbitraryFSAccessThroughSMs"]["deny"] == true;
    spec["arbitraryFSAccessThroughSMs"] = json!({"deny": deny});
    serde_json::from_value(spec).unwrap_or_else(|e| panic!("settings: {e}"))
}

/// All scalars as text, and without upstream's sharding.
fn normal(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut out = serde_json::Map::new();
            for (k, v) in map {
                let v = if k == "relabel_configs" { without_sharding(v) } else { v.clone() };
                out.insert(k.clone(), normal(&v));
            }
            Value::Object(out)
        }
        Value::Array(list) => list.iter().map(normal).collect(),
        Value::Number(n) => json!(n.as_f64().map(|f| f.to_string())),
        other => other.clone(),
    }
}

fn without_sharding(rules: &Value) -> Value {
    let rules = rules.as_array().cloned().unwrap_or_default();
    let first = rules.iter().position(|r| {
        r["target_label"] == "__tmp_current_shard"
            || (r["target_label"] == "__tmp_topology" && r["source_labels"][1] == "__tmp_topology")
            || r["source_labels"] == json!(["__address__", "__tmp_hash"])
    });
    Value::Array(rules[..first.unwrap_or(rules.len())].to_vec())
}

fn jobs_of(golden: &Value) -> BTreeMap<String, Value> {
    let jobs = golden["scrape_configs"].as_array().into_iter().flatten();
    jobs.filter_map(|j| Some((j["job_name"].as_str()?.to_owned(), normal(j))))
        .filter(|(name, _)| name.starts_with("serviceMonitor/") || name.starts_with("podMonitor/"))
        .collect()
}

#[test]
fn monitors_become_upstreams_jobs() {
    let (mut same, mut deviating, mut wrong) = (0, vec![], vec![]);
    for path in files("config") {
        let case = yaml(&path);
        let mut settings = settings(&case);
        let slices = case["generator"]["endpointSliceSupported"] == true;
        if !slices {
            settings.service_discovery_role = None;
        }
        let store = Store::of(&case);
        let generator = Generator { settings: &settings, values: &store };
        let mut ours = BTreeMap::new();
        for m in case["serviceMonitors"].as_object().into_iter().flatten().map(|(_, m)| m) {
            let mut monitor: ServiceMonitor = object(m, "ServiceMonitor");
            if !slices {
                monitor.spec.service_discovery_role = None;
            }
            ours.extend(generator.service_monitor(&monitor).iter().map(|j| (j.name.clone(), normal(&j.export()))));
        }
        for m in case["podMonitors"].as_object().into_iter().flatten().map(|(_, m)| m) {
            let monitor: PodMonitor = object(m, "PodMonitor");
            ours.extend(generator.pod_monitor(&monitor).iter().map(|j| (j.name.clone(), normal(&j.export()))));
        }
        let golden = case["golden"][0].as_str().unwrap().trim_start_matches("golden/").replace(' ', "_");
        let theirs = jobs_of(&yaml(&Path::new(DATA).join("golden").join(&golden)));
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if ours == theirs {
            same += 1;
        } else if let Some((_, why)) =
            DEVIATIONS.iter().find(|(d, _)| name == *d || (d.ends_with('_') && name.starts_with(d)))
        {
            deviating.push(format!("{name}: {why}"));
        } else {
            wrong.push(format!("{name}: {}", difference(&ours, &theirs)));
        }
    }
    println!("{same} cases equal, {} deviate by design: {deviating:#?}", deviating.len());
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(same >= 70, "only {same} cases");
}

fn difference(ours: &BTreeMap<String, Value>, theirs: &BTreeMap<String, Value>) -> String {
    let mut out = String::new();
    let names: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    for name in names {
        let (Some(a), Some(b)) = (ours.get(name), theirs.get(name)) else {
            out += &format!("\n  {name}: only on one side");
            continue;
        };
        let empty = serde_json::Map::new();
        let (a, b) = (a.as_object().unwrap_or(&empty), b.as_object().unwrap_or(&empty));
        for key in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
            if a.get(key) != b.get(key) {
                out += &format!("\n  {name} {key}:\n    ours   {}\n    theirs {}", show(a.get(key)), show(b.get(key)));
            }
        }
    }
    out
}

fn show(value: Option<&Value>) -> String {
    value.map_or("none".to_owned(), Value::to_string)
}

#[test]
fn verdicts_are_upstreams() {
    let (mut same, mut wrong) = (0, vec![]);
    for path in files("selection") {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let case = yaml(&path);
        let settings = settings(&case);
        let store = Store::of(&case);
        let lookup = |key: &KeyRef| {
            let value = store.get(key).ok_or_else(|| format!("no {}", key.placeholder()))?;
            let pem = |kind: &str| format!("-----BEGIN {kind}-----\nAA==\n-----END {kind}-----\n");
            Ok(match value.as_str() {
                "<PEM certificate>" => pem("CERTIFICATE"),
                "<PEM private key>" => pem("PRIVATE KEY"),
                other => other.to_owned(),
            })
        };
        let interval = case["prometheus"]["spec"]["scrapeInterval"].as_str().unwrap_or("30s");
        let checker = Checker { settings: &settings, scrape_interval: interval, lookup: &lookup };
        let verdict = match case["kind"].as_str() {
            Some("ServiceMonitor") => checker.service_monitor(&object(&case["object"], "ServiceMonitor")),
            _ => checker.pod_monitor(&object(&case["object"], "PodMonitor")),
        };
        let accepted = case["accepted"] == true;
        // Label names with any character are valid since Prometheus 3, which is what this project is.
        let utf8 = case["prometheusVersion"].as_str().is_some_and(|v| v.starts_with('2')) && !accepted;
        if verdict.is_ok() == accepted || (utf8 && verdict.is_ok()) {
            same += 1;
        } else {
            wrong.push(format!("{name}: upstream accepts: {accepted}, we say {verdict:?}"));
        }
    }
    println!("{same} verdicts equal");
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(same >= 40, "only {same} cases");
}
