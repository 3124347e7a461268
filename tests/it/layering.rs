//! Arrows between packages point one way (ARCHITECTURE.md, "Packages"), heavy dependencies stay where they belong, and
//! every dependency comes from the registry.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Package, and the packages of the workspace that it may use.
const ALLOWED: &[(&str, &[&str])] = &[
    ("narthex-model", &[]),
    ("narthex-config", &["model"]),
    ("narthex-storage", &["model"]),
    ("narthex-tsdb", &["model", "storage"]),
    ("narthex-promql", &["model", "storage"]),
    ("narthex-runtime", &[]),
    ("narthex-http", &["config"]),
    ("narthex-scrape", &["model", "config", "storage", "runtime", "http"]),
    ("narthex-remote", &["model", "config", "storage", "runtime", "http"]),
    ("narthex-server", &["model", "config", "storage", "runtime", "http", "scrape", "promql"]),
    ("narthex-crds", &[]),
    ("narthex-plan", &["model", "config", "crds"]),
    ("narthex-discovery", &["model", "config", "runtime", "http", "plan"]),
    (
        "narthex-scraper",
        &[
            "model",
            "config",
            "storage",
            "tsdb",
            "promql",
            "runtime",
            "http",
            "scrape",
            "remote",
            "server",
            "discovery",
            "plan",
            "crds",
        ],
    ),
    ("narthex-operator", &["crds", "plan", "config", "model", "runtime"]),
    ("narthex-tests", &["crds"]),
];

/// A dependency that must not leak, and the only packages of ours that may name it.
const CONFINED: &[(&str, &[&str])] = &[
    ("rocksdb", &["narthex-tsdb"]),
    ("kube", &["narthex-crds", "narthex-operator", "narthex-tests"]),
    ("axum", &["narthex-server", "narthex-operator"]),
];

/// Packages that are synchronous and know no runtime.
const SYNCHRONOUS: &[&str] =
    &["narthex-model", "narthex-config", "narthex-storage", "narthex-tsdb", "narthex-promql", "narthex-plan"];

fn metadata() -> Metadata {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    MetadataCommand::new()
        .manifest_path(manifest)
        .other_options(["--offline".to_owned()])
        .exec()
        .expect("cargo metadata")
}

/// Normal and build dependencies of each package of the workspace, by name.
fn edges(metadata: &Metadata) -> BTreeMap<String, BTreeSet<String>> {
    metadata
        .workspace_packages()
        .iter()
        .map(|p| {
            let used = p.dependencies.iter().filter(|d| d.kind != DependencyKind::Development);
            (p.name.to_string(), used.map(|d| d.name.clone()).collect())
        })
        .collect()
}

#[test]
fn arrows_point_one_way() {
    let mut faults = Vec::new();
    for (package, uses) in edges(&metadata()) {
        let Some((_, allowed)) = ALLOWED.iter().find(|(p, _)| *p == package) else {
            faults.push(format!("{package}: no row in ALLOWED"));
            continue;
        };
        for used in uses.iter().filter_map(|u| u.strip_prefix("narthex-")) {
            if !allowed.contains(&used) {
                faults.push(format!("{package} must not use narthex-{used}"));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn heavy_dependencies_stay_at_home() {
    let edges = edges(&metadata());
    let mut faults = Vec::new();
    for (dependency, homes) in CONFINED {
        for (package, uses) in &edges {
            if uses.contains(*dependency) && !homes.contains(&package.as_str()) {
                faults.push(format!("{package} must not use {dependency}"));
            }
        }
    }
    for package in SYNCHRONOUS {
        if edges[*package].contains("tokio") {
            faults.push(format!("{package} is synchronous and must not use tokio"));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn crates_come_from_the_registry() {
    for package in &metadata().packages {
        if let Some(source) = &package.source {
            assert!(source.repr.starts_with("registry+"), "{} comes from {}", package.name, source.repr);
        }
    }
}
