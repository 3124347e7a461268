//! Servers under test: the `narthex` of this workspace, and a real Prometheus to compare with.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::net;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The binary: in `NARTHEX_BIN_DIR`, or built once per test run.
pub fn narthex() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let build = || -> Result<PathBuf> {
        if let Some(folder) = std::env::var_os("NARTHEX_BIN_DIR") {
            return Ok(Path::new(&folder).join("narthex"));
        }
        let metadata = cargo_metadata::MetadataCommand::new()
            .manifest_path(root().join("Cargo.toml"))
            .other_options(["--offline".to_owned()])
            .exec()?;
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--offline", "--locked", "-p", "narthex-scraper"])
            .current_dir(root())
            .status()?;
        if !status.success() {
            bail!("building narthex failed");
        }
        Ok(metadata.target_directory.join("debug/narthex").into())
    };
    BUILT.get_or_init(|| build().map_err(|e| format!("{e:#}"))).clone().map_err(anyhow::Error::msg)
}

/// A real Prometheus, if one is there: named by `NARTHEX_PROMETHEUS`, or built by `.ci/prometheus.sh`.
pub fn prometheus() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            if let Some(path) = std::env::var_os("NARTHEX_PROMETHEUS") {
                return Some(path.into());
            }
            let out = Command::new(root().join(".ci/prometheus.sh")).stderr(Stdio::inherit()).output().ok()?;
            let folder = String::from_utf8(out.stdout).ok()?;
            let path = Path::new(folder.trim()).join("prometheus");
            path.is_file().then_some(path)
        })
        .clone()
}

/// The node_exporter of the system, if it is installed.
pub fn node_exporter() -> Option<PathBuf> {
    let path = PathBuf::from("/usr/bin/prometheus-node-exporter");
    path.is_file().then_some(path)
}

/// A running server; killed when dropped.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    pub log: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts `binary args…` with its output in `log`, and waits until `ready` answers 200.
    pub fn start(binary: &Path, args: &[String], port: u16, log: &Path, ready: &str) -> Result<Server> {
        Server::start_with(binary, args, &[], port, log, ready)
    }

    /// The same, with these variables in its environment.
    pub fn start_with(
        binary: &Path,
        args: &[String],
        environment: &[(&str, &str)],
        port: u16,
        log: &Path,
        ready: &str,
    ) -> Result<Server> {
        let out = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = Command::new(binary);
        command.args(args).envs(environment.iter().copied());
        let child = command.stdout(out.try_clone()?).stderr(out).spawn()?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut server = Server { child, address, log: log.to_owned() };
        let began = Instant::now();
        loop {
            if let Some(status) = server.child.try_wait()? {
                bail!("{} ended with {status}:\n{}", binary.display(), server.log_text());
            }
            if net::get(address, ready).is_ok_and(|a| a.status == 200) {
                return Ok(server);
            }
            if began.elapsed() > Duration::from_secs(60) {
                bail!("{} did not get ready:\n{}", binary.display(), server.log_text());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal by name: `HUP`, `TERM`.
    pub fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status()?;
        if status.success() { Ok(()) } else { bail!("kill -{name} failed") }
    }

    /// Kills without warning.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks the server to end, and waits.
    pub fn stop(mut self) -> Result<()> {
        self.signal("TERM")?;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(30) {
            if let Some(status) = self.child.try_wait()? {
                if status.success() {
                    return Ok(());
                }
                bail!("ended with {status}:\n{}", self.log_text());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("did not stop:\n{}", self.log_text())
    }

    pub fn json(&self, path: &str) -> Result<serde_json::Value> {
        net::get(self.address, path)?.json()
    }

    /// The values of an instant query, by the text of their labels.
    pub fn query(&self, expr: &str) -> Result<Vec<(String, String)>> {
        let answer = self.json(&format!("/api/v1/query?query={}", net::encode(expr)))?;
        let result = answer["data"]["result"].as_array().with_context(|| answer.to_string())?;
        let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
        Ok(result.iter().map(|s| (s["metric"].to_string(), text(&s["value"][1]))).collect())
    }
}

/// `narthex server` with these flags, on a folder of its own.
pub fn start_narthex(folder: &Path, port: u16, flags: &[&str]) -> Result<Server> {
    let mut args = vec![
        "server".to_owned(),
        format!("--web.listen-address=127.0.0.1:{port}"),
        format!("--storage.tsdb.path={}", folder.join("data").display()),
    ];
    args.extend(flags.iter().map(|f| (*f).to_owned()));
    Server::start(&narthex()?, &args, port, &folder.join("narthex.log"), "/-/ready")
}

/// A real Prometheus likewise.
pub fn start_prometheus(binary: &Path, folder: &Path, port: u16, flags: &[&str]) -> Result<Server> {
    let mut args = vec![
        format!("--web.listen-address=127.0.0.1:{port}"),
        format!("--storage.tsdb.path={}", folder.join("prometheus").display()),
    ];
    args.extend(flags.iter().map(|f| (*f).to_owned()));
    Server::start(binary, &args, port, &folder.join("prometheus.log"), "/-/ready")
}

/// Tries until `check` gives something, for at most `seconds`.
pub fn eventually<T>(seconds: u64, what: &str, mut check: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let began = Instant::now();
    let mut last = String::new();
    while began.elapsed() < Duration::from_secs(seconds) {
        match check() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(e) => last = format!(": {e:#}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("{what}: not within {seconds} s{last}")
}
