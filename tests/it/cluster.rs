//! A fleet on a real control plane: etcd and kube-apiserver, the operator and its shards as processes, node_exporters as
//! targets. All of it in network and process namespaces of its own, so nothing is left behind and no port is taken.
//!
//! Needs root (namespaces), the control plane of `.ci/controlplane.sh`, `ip` and `prometheus-node-exporter`; where
//! something is missing the tests say so and are skipped.

mod control_plane;
mod discovery;
mod scenario;
mod world;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Context;

/// Set in the process that runs inside the namespaces.
const INSIDE: &str = "NARTHEX_CLUSTER_INSIDE";

/// The programs that a cluster test runs.
pub struct Programs {
    pub etcd: PathBuf,
    pub api_server: PathBuf,
    pub kubectl: PathBuf,
    pub helm: PathBuf,
    pub exporter: PathBuf,
    pub operator: PathBuf,
    pub scraper: PathBuf,
}

/// What is needed, or what is missing.
fn programs() -> Result<Programs, String> {
    if std::fs::read_to_string("/proc/self/status").is_ok_and(|s| !s.contains("\nUid:\t0\t")) {
        return Err("network namespaces need root".to_owned());
    }
    let cache = std::env::var_os("NARTHEX_CACHE").map(PathBuf::from).or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"))).map(|c| c.join("narthex"))
    });
    let folders = cache.and_then(|c| std::fs::read_dir(c).ok()).into_iter().flatten().filter_map(Result::ok);
    let built = folders.map(|e| e.path()).find(|p| {
        p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("controlplane-")) && p.join("helm").exists()
    });
    let plane = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from).or(built);
    let plane = plane.ok_or("no control plane: .ci/controlplane.sh builds it")?;
    let system = |name: &str| {
        let folders = ["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin"];
        folders.iter().map(|f| PathBuf::from(f).join(name)).find(|p| p.exists()).ok_or(format!("no {name}"))
    };
    system("ip")?;
    system("unshare")?;
    let folder = own_programs()?;
    let own =
        |name: &str| Some(folder.join(name)).filter(|p| p.exists()).ok_or(format!("no {name} in {}", folder.display()));
    Ok(Programs {
        etcd: plane.join("etcd"),
        api_server: plane.join("kube-apiserver"),
        kubectl: plane.join("kubectl"),
        helm: plane.join("helm"),
        exporter: system("prometheus-node-exporter")?,
        operator: own("narthex-operator")?,
        scraper: own("narthex")?,
    })
}

/// The folder of the project's own programs, which are built unless `NARTHEX_BIN_DIR` says where they are.
fn own_programs() -> Result<PathBuf, String> {
    static BUILT: std::sync::OnceLock<Result<PathBuf, String>> = std::sync::OnceLock::new();
    if let Some(folder) = std::env::var_os("NARTHEX_BIN_DIR") {
        return Ok(PathBuf::from(folder));
    }
    let build = || {
        // The test is in target/PROFILE/deps, the programs beside that folder.
        let test = std::env::current_exe().map_err(|e| e.to_string())?;
        let folder = test.parent().and_then(|p| p.parent()).ok_or("no target folder")?.to_owned();
        let packages = ["build", "--locked", "-p", "narthex-operator", "-p", "narthex-scraper"];
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(packages);
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status();
        match status {
            Ok(status) if status.success() => Ok(folder),
            _ => Err("the project's own programs can't be built".to_owned()),
        }
    };
    BUILT.get_or_init(build).clone()
}

/// Runs the test of that name inside namespaces, or says why not.
fn inside(test: &str) {
    let programs = match programs() {
        Ok(programs) => programs,
        Err(missing) => {
            println!("skipped: {missing}");
            return;
        }
    };
    let can =
        Command::new("unshare").args(["--net", "--mount", "--pid", "--fork", "true"]).stderr(Stdio::null()).status();
    if !can.is_ok_and(|s| s.success()) {
        println!("skipped: namespaces can't be made here");
        return;
    }
    let this = std::env::current_exe().expect("a test knows its own file");
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(this)
        .args([test, "--exact", "--ignored", "--nocapture"])
        .env(INSIDE, "1")
        .env("NARTHEX_BIN_DIR", programs.operator.parent().unwrap_or(&programs.operator))
        .status()
        .expect("unshare starts");
    assert!(status.success(), "{test} failed: its output is above");
}

fn run_inside<F: Future<Output = anyhow::Result<()>>>(scenario: impl FnOnce(Programs) -> F) {
    if std::env::var_os(INSIDE).is_none() {
        println!("skipped: runs only inside namespaces");
        return;
    }
    let programs = programs().expect("checked before");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let outcome = runtime.block_on(async {
        world::network().context("the network")?;
        scenario(programs).await
    });
    if let Err(error) = outcome {
        panic!("{error:?}");
    }
}

#[test]
fn a_fleet_scrapes_moves_survives_and_answers_as_one() {
    inside("cluster::inside_a_fleet");
}

#[test]
#[ignore = "started by the test above, inside namespaces"]
fn inside_a_fleet() {
    run_inside(scenario::fleet);
}

#[test]
fn local_discovery_finds_what_a_real_prometheus_finds() {
    inside("cluster::inside_discovery");
}

#[test]
#[ignore = "started by the test above, inside namespaces"]
fn inside_discovery() {
    run_inside(discovery::all_roles);
}

#[test]
fn manifests_are_accepted_by_a_real_api_server() {
    inside("cluster::inside_manifests");
}

#[test]
#[ignore = "started by the test above, inside namespaces"]
fn inside_manifests() {
    run_inside(scenario::manifests);
}
