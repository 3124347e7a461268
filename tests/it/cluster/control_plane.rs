//! A real etcd and kube-apiserver, with certificates made here.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use tempfile::TempDir;

use super::Programs;
use super::world::{Process, eventually};

const PORT: u16 = 6443;
const ETCD: u16 = 2379;

/// The control plane, up until dropped.
pub struct ControlPlane {
    pub client: Client,
    pub kubeconfig: PathBuf,
    kubectl: PathBuf,
    // Ended before the folder goes.
    _api_server: Process,
    _etcd: Process,
    pub folder: TempDir,
}

fn certificate(
    folder: &Path,
    name: &str,
    subject: (&str, &str),
    hosts: &[&str],
    issuer: &Issuer<'_, KeyPair>,
) -> anyhow::Result<()> {
    let mut params = CertificateParams::new(hosts.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>())?;
    params.distinguished_name.push(DnType::CommonName, subject.0);
    params.distinguished_name.push(DnType::OrganizationName, subject.1);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    std::fs::write(folder.join(format!("{name}.crt")), certificate.pem())?;
    std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?;
    Ok(())
}

impl ControlPlane {
    pub async fn start(programs: &Programs) -> anyhow::Result<ControlPlane> {
        let folder = tempfile::tempdir()?;
        let dir = folder.path();
        let mut ca = CertificateParams::new(Vec::new())?;
        ca.distinguished_name.push(DnType::CommonName, "test authority");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_key = KeyPair::generate()?;
        std::fs::write(dir.join("ca.crt"), ca.self_signed(&ca_key)?.pem())?;
        let issuer = Issuer::new(ca, ca_key);
        let hosts =
            ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "127.0.0.1", "10.96.0.1"];
        certificate(dir, "server", ("kube-apiserver", "kubernetes"), &hosts, &issuer)?;
        certificate(dir, "admin", ("admin", "system:masters"), &[], &issuer)?;
        let accounts = KeyPair::generate()?;
        std::fs::write(dir.join("sa.key"), accounts.serialize_pem())?;
        std::fs::write(dir.join("sa.pub"), accounts.public_key_pem())?;

        let etcd_url = format!("http://127.0.0.1:{ETCD}");
        let peer_url = format!("http://127.0.0.1:{}", ETCD + 1);
        let mut command = Command::new(&programs.etcd);
        command.arg("--data-dir").arg(dir.join("etcd")).args([
            &format!("--listen-client-urls={etcd_url}"),
            &format!("--advertise-client-urls={etcd_url}"),
            &format!("--listen-peer-urls={peer_url}"),
            &format!("--initial-advertise-peer-urls={peer_url}"),
            &format!("--initial-cluster=default={peer_url}"),
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]);
        let etcd = Process::start("etcd", dir, &mut command)?;

        let file = |name: &str| dir.join(name).display().to_string();
        let mut command = Command::new(&programs.api_server);
        command.args([
            format!("--etcd-servers={etcd_url}"),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--secure-port={PORT}"),
            "--endpoint-reconciler-type=none".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--tls-cert-file={}", file("server.crt")),
            format!("--tls-private-key-file={}", file("server.key")),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            format!("--service-account-signing-key-file={}", file("sa.key")),
            format!("--service-account-key-file={}", file("sa.pub")),
            "--authorization-mode=RBAC".to_owned(),
            "--allow-privileged".to_owned(),
            // No controller makes the accounts that it asks for.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            "--profiling=false".to_owned(),
        ]);
        let mut api_server = Process::start("kube-apiserver", dir, &mut command)?;

        let config = serde_json::json!({"apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("https://127.0.0.1:{PORT}"),
                "certificate-authority": file("ca.crt")}}],
            "users": [{"name": "admin", "user": {"client-certificate": file("admin.crt"), "client-key": file("admin.key")}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin", "namespace": "default"}}]});
        let kubeconfig = dir.join("kubeconfig");
        std::fs::write(&kubeconfig, config.to_string())?;
        let parsed = Kubeconfig::read_from(&kubeconfig)?;
        let config = Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        eventually("the API server is ready", Duration::from_secs(90), || async {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            anyhow::ensure!(client.request_text(request).await? == "ok");
            Ok(())
        })
        .await
        .with_context(|| format!("{}\n{}", etcd.tail(), api_server.tail()))?;
        api_server.alive()?;
        let kubectl = programs.kubectl.clone();
        Ok(ControlPlane { client, kubeconfig, kubectl, _api_server: api_server, _etcd: etcd, folder })
    }

    /// Runs kubectl; what it printed.
    pub fn kubectl(&self, args: &[&str], input: Option<&str>) -> anyhow::Result<String> {
        let mut command = Command::new(&self.kubectl);
        command.args(args).env("KUBECONFIG", &self.kubeconfig).env("HOME", self.folder.path());
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            std::io::Write::write_all(&mut stdin, input.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "kubectl {args:?}: {errors}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Applies a manifest (JSON or YAML).
    pub fn apply(&self, manifest: &str) -> anyhow::Result<String> {
        self.kubectl(&["apply", "--server-side", "-f", "-"], Some(manifest))
    }
}
