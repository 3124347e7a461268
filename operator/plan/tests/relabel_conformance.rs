//! Target labels before and after relabelling, as the real promtool printed them.

use std::collections::BTreeMap;
use std::path::Path;

use narthex_config::{Config, DiscoveryConfig};
use narthex_model::{Labels, relabel};
use narthex_plan::targets;
use serde_json::Value;

type Map = BTreeMap<String, String>;

fn map(labels: &Labels, keep: impl Fn(&str) -> bool) -> Map {
    labels.iter().filter(|(n, _)| keep(n)).map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}

/// Labels that newer versions than the one that made the fixtures add.
fn is_newer(name: &str) -> bool {
    matches!(
        name,
        "__convert_classic_histograms_to_nhcb__"
            | "__always_scrape_classic_histograms__"
            | "__scrape_native_histograms__"
    )
}

#[test]
fn as_promtool_prints() {
    let mut fixtures = 0;
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/relabel-conformance")).unwrap()
    {
        let dir = entry.unwrap().path();
        if !dir.is_dir() {
            continue;
        }
        fixtures += 1;
        let golden: Value = serde_json::from_str(&std::fs::read_to_string(dir.join("golden.json")).unwrap()).unwrap();
        let expected: Vec<(Map, Map)> = golden
            .as_array()
            .unwrap()
            .iter()
            .map(|t| {
                let get =
                    |key: &str| serde_json::from_value::<Option<Map>>(t[key].clone()).unwrap().unwrap_or_default();
                (get("discoveredLabels"), get("labels"))
            })
            .collect();
        let config = Config::load_file(&dir.join("prometheus.yaml")).unwrap();
        let mut found = Vec::new();
        for job in config.jobs().unwrap() {
            for discovery in job.service_discovery.iter() {
                let DiscoveryConfig::Static(groups) = discovery else { panic!("only static targets") };
                let outcome = targets::build_all(&job, groups);
                assert!(outcome.errors.is_empty(), "{}: {:?}", dir.display(), outcome.errors);
                for group in groups {
                    for own in &group.targets {
                        let mut builder = targets::discovered_labels(&job, own, &group.labels);
                        let discovered = builder.build();
                        if !relabel::process(&job.relabel_configs, &mut builder) {
                            assert!(outcome.dropped.contains(&discovered));
                            found.push((map(&discovered, |n| !is_newer(n)), Map::new()));
                            continue;
                        }
                        // The target that this became may have been met before under other discovered labels.
                        let target = targets::build(
                            &job,
                            &narthex_config::TargetGroup {
                                source: String::new(),
                                targets: vec![own.clone()],
                                labels: group.labels.clone(),
                            },
                        )
                        .targets
                        .remove(0);
                        assert!(outcome.targets.iter().any(|t| t.labels == target.labels && t.url() == target.url()));
                        let mut labels =
                            map(&builder.build(), |n| n.starts_with("__") && !n.starts_with("__meta_") && !is_newer(n));
                        assert_eq!(labels["__address__"], target.address);
                        assert_eq!(labels["__metrics_path__"], target.path);
                        labels.extend(map(&target.labels, |_| true));
                        found.push((map(&discovered, |n| !is_newer(n)), labels));
                    }
                }
            }
        }
        let sort = |mut list: Vec<(Map, Map)>| {
            list.sort();
            list
        };
        assert_eq!(sort(found), sort(expected), "{}", dir.display());
    }
    assert_eq!(fixtures, 19);
}
