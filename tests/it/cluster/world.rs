//! Processes, and the network that they live in.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

/// The first three numbers of all addresses. EndpointSlices refuse loopback ones.
pub const NET: &str = "10.200.0";

/// A veth pair with both ends inside, and addresses for everyone.
pub fn network() -> anyhow::Result<()> {
    let ip = |args: &str| -> anyhow::Result<()> {
        let status = Command::new("ip").args(args.split(' ')).status()?;
        anyhow::ensure!(status.success(), "ip {args}");
        Ok(())
    };
    ip("link set lo up")?;
    ip("link add eth0 type veth peer name eth0p")?;
    ip("link set eth0p up")?;
    ip("link set eth0 up")?;
    for host in (1..=20).chain(30..=40) {
        ip(&format!("addr add {NET}.{host}/24 dev eth0"))?;
    }
    Ok(())
}

/// A process whose output goes to a file; killed when dropped.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    pub fn start(name: &str, folder: &Path, command: &mut Command) -> anyhow::Result<Process> {
        let log = folder.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        command.stdout(file.try_clone()?).stderr(file).stdin(Stdio::null());
        let child = command.spawn().with_context(|| format!("starting {name}"))?;
        Ok(Process { name: name.to_owned(), child, log })
    }

    /// The end of what it printed.
    pub fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!("--- {} ---\n{}", self.name, lines[lines.len().saturating_sub(40)..].join("\n"))
    }

    /// Kills it without warning.
    pub fn kill(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// # Errors
    /// When it has ended.
    pub fn alive(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended with {status}\n{}", self.name, self.tail());
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Asks until `question` gives an answer, for as long as `limit`.
pub async fn eventually<T, F>(what: &str, limit: Duration, mut question: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let start = Instant::now();
    loop {
        match question().await {
            Ok(answer) => return Ok(answer),
            Err(error) if start.elapsed() > limit => {
                return Err(error.context(format!("{what}: not within {limit:?}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// The JSON that a URL answers with.
pub async fn get(url: &str) -> anyhow::Result<serde_json::Value> {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let answer = tokio::time::timeout(Duration::from_secs(20), client.get(url.parse()?)).await??;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    anyhow::ensure!(status.is_success(), "{url}: {status} {}", String::from_utf8_lossy(&body));
    Ok(serde_json::from_slice(&body)?)
}
