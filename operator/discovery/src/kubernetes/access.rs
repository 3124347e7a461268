//! Where the API server is, and how it is spoken to: from the section, from a kubeconfig, or from inside a pod.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use narthex_config::{Authorization, BasicAuth, HttpClientConfig, KubernetesSdConfig, Secret, WebUrl};
use serde::Deserialize;

/// What a pod's service account is given.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

pub(super) struct Access {
    pub base: String,
    pub http: HttpClientConfig,
    /// The pod's own namespace, where the section asks for it.
    pub own_namespace: Option<String>,
}

/// # Errors
/// When none of the three says enough.
pub(super) fn of(config: &KubernetesSdConfig) -> Result<Access, String> {
    if !config.kubeconfig_file.as_os_str().is_empty() {
        let (base, http) = kubeconfig(&config.kubeconfig_file)?;
        return Ok(Access { base, http, own_namespace: None });
    }
    if let Some(server) = &config.api_server {
        return Ok(Access { base: server.as_str().to_owned(), http: config.http.clone(), own_namespace: None });
    }
    in_cluster(Path::new(ACCOUNT), |name| std::env::var(name).ok(), config.namespaces.own_namespace)
}

fn in_cluster(
    account: &Path,
    environment: impl Fn(&str) -> Option<String>,
    own_namespace: bool,
) -> Result<Access, String> {
    let variable = |name: &str| environment(name).filter(|v| !v.is_empty());
    let (Some(host), Some(port)) = (variable("KUBERNETES_SERVICE_HOST"), variable("KUBERNETES_SERVICE_PORT")) else {
        return Err("unable to load in-cluster configuration, KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT \
                    must be defined"
            .into());
    };
    let token = account.join("token");
    std::fs::metadata(&token)
        .map_err(|e| format!("unable to load in-cluster configuration: {}: {e}", token.display()))?;
    let authorization = Authorization { kind: "Bearer".into(), credentials_file: token, ..Authorization::default() };
    let mut http = HttpClientConfig { authorization: Some(authorization), ..HttpClientConfig::default() };
    http.tls_config.ca_file = account.join("ca.crt");
    let own_namespace = if own_namespace {
        let text = std::fs::read_to_string(account.join("namespace"))
            .map_err(|e| format!("could not determine the pod's namespace: {e}"))?;
        if text.is_empty() {
            return Err("could not read own namespace name (empty file)".into());
        }
        Some(text)
    } else {
        None
    };
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    Ok(Access { base: format!("https://{host}:{port}"), http, own_namespace })
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Kubeconfig {
    current_context: String,
    clusters: Option<Vec<NamedCluster>>,
    users: Option<Vec<NamedUser>>,
    contexts: Option<Vec<NamedContext>>,
}

// Each list has its own type: read without one, a name such as `n` would be a boolean of old YAML.
#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    #[serde(default)]
    cluster: ClusterEntry,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: UserEntry,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    #[serde(default)]
    context: ContextEntry,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct ClusterEntry {
    server: String,
    certificate_authority: PathBuf,
    certificate_authority_data: String,
    insecure_skip_tls_verify: bool,
    tls_server_name: String,
    proxy_url: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct UserEntry {
    token: String,
    #[serde(alias = "tokenFile")]
    token_file: PathBuf,
    username: String,
    password: String,
    client_certificate: PathBuf,
    client_certificate_data: String,
    client_key: PathBuf,
    client_key_data: String,
    exec: Option<serde_json::Value>,
    auth_provider: Option<serde_json::Value>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ContextEntry {
    cluster: String,
    user: String,
}

/// The API server's address and the HTTP settings of a kubeconfig's current context.
fn kubeconfig(file: &Path) -> Result<(String, HttpClientConfig), String> {
    let named = |message: String| format!("kubeconfig {}: {message}", file.display());
    let text = std::fs::read_to_string(file).map_err(|e| named(e.to_string()))?;
    let config: Kubeconfig = serde_saphyr::from_str(&text).map_err(|e| named(e.to_string()))?;
    let missing = |what: &str, name: &str| named(format!("there is no {what} {name:?}"));
    let current = config.current_context.as_str();
    let context = config.contexts.into_iter().flatten().find(|c| c.name == current);
    let context = context.ok_or_else(|| missing("context", current))?.context;
    let cluster = config.clusters.into_iter().flatten().find(|c| c.name == context.cluster);
    let cluster = cluster.ok_or_else(|| missing("cluster", &context.cluster))?.cluster;
    let user = match context.user.as_str() {
        "" => UserEntry::default(),
        name => {
            let user = config.users.into_iter().flatten().find(|u| u.name == name);
            user.ok_or_else(|| missing("user", name))?.user
        }
    };
    if user.exec.is_some() || user.auth_provider.is_some() {
        return Err(named("credentials by exec or auth-provider are not supported".into()));
    }
    let folder = file.parent().unwrap_or(Path::new(""));
    let beside = |path: &PathBuf| if path.as_os_str().is_empty() { PathBuf::new() } else { folder.join(path) };
    let decoded = |what: &str, data: &str| -> Result<String, String> {
        let bytes = STANDARD.decode(data.trim()).map_err(|e| named(format!("{what}: {e}")))?;
        String::from_utf8(bytes).map_err(|e| named(format!("{what}: {e}")))
    };
    let mut http = HttpClientConfig::default();
    let tls = &mut http.tls_config;
    // What stands in the file goes before files that it names.
    if cluster.certificate_authority_data.is_empty() {
        tls.ca_file = beside(&cluster.certificate_authority);
    } else {
        tls.ca = decoded("certificate-authority-data", &cluster.certificate_authority_data)?;
    }
    if user.client_certificate_data.is_empty() {
        tls.cert_file = beside(&user.client_certificate);
    } else {
        tls.cert = decoded("client-certificate-data", &user.client_certificate_data)?;
    }
    if user.client_key_data.is_empty() {
        tls.key_file = beside(&user.client_key);
    } else {
        tls.key = Secret::new(decoded("client-key-data", &user.client_key_data)?);
    }
    tls.insecure_skip_verify = cluster.insecure_skip_tls_verify;
    tls.server_name = cluster.tls_server_name;
    if !cluster.proxy_url.is_empty() {
        http.proxy.proxy_url = Some(WebUrl::parse(&cluster.proxy_url).map_err(|e| named(e.to_string()))?);
    }
    if !user.token_file.as_os_str().is_empty() || !user.token.is_empty() {
        http.authorization = Some(Authorization {
            kind: "Bearer".into(),
            credentials: Secret::new(if user.token_file.as_os_str().is_empty() { user.token } else { String::new() }),
            credentials_file: beside(&user.token_file),
            ..Authorization::default()
        });
    } else if !user.username.is_empty() {
        http.basic_auth =
            Some(BasicAuth { username: user.username, password: Secret::new(user.password), ..BasicAuth::default() });
    }
    let server = if cluster.server.contains("://") { cluster.server } else { format!("https://{}", cluster.server) };
    Ok((server, http))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubeconfigs() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        let write = |user: &str, cluster: &str| {
            let text = format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts:\n- name: c\n  context: {{cluster: k, user: u, \
                 namespace: x}}\n- name: other\n  context: {{cluster: z, user: z}}\nclusters:\n- name: k\n  cluster: \
                 {cluster}\nusers:\n- name: u\n  user: {user}\npreferences: {{}}\n"
            );
            std::fs::write(&file, text).unwrap();
            kubeconfig(&file)
        };
        let (base, http) = write(
            "{client-certificate: a.crt, client-key-data: a2V5}",
            "{server: 'https://k:6443', certificate-authority-data: Y2E=}",
        )
        .unwrap();
        assert_eq!((base.as_str(), http.tls_config.ca.as_str()), ("https://k:6443", "ca"));
        assert_eq!((http.tls_config.cert_file, http.tls_config.key.expose()), (folder.path().join("a.crt"), "key"));
        let (base, http) =
            write("{token: t}", "{server: k, insecure-skip-tls-verify: true, tls-server-name: n}").unwrap();
        assert_eq!((base.as_str(), http.authorization.unwrap().credentials.expose()), ("https://k", "t"));
        assert!(http.tls_config.insecure_skip_verify && http.tls_config.server_name == "n");
        let (_, http) = write("{tokenFile: t, token: x}", "{server: k}").unwrap();
        assert_eq!(http.authorization.unwrap().credentials_file, folder.path().join("t"));
        let error = |user: &str, cluster: &str| write(user, cluster).map(|_| ()).unwrap_err();
        assert!(error("{exec: {command: x}}", "{server: k}").contains("exec or auth-provider"));
        assert!(error("{client-key-data: '!'}", "{server: k}").contains("client-key-data"));
        assert!(kubeconfig(&folder.path().join("none")).is_err());
        std::fs::write(&file, "current-context: gone\n").unwrap();
        assert!(kubeconfig(&file).unwrap_err().contains("no context \"gone\""));
    }

    #[test]
    fn inside_a_pod() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("token", "t"), ("namespace", "mine")] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let environment = |name: &str| Some(if name.ends_with("HOST") { "fd00::1" } else { "443" }.to_owned());
        let access = in_cluster(folder.path(), environment, true).unwrap();
        assert_eq!((access.base.as_str(), access.own_namespace.as_deref()), ("https://[fd00::1]:443", Some("mine")));
        assert_eq!(access.http.authorization.unwrap().credentials_file, folder.path().join("token"));
        assert!(in_cluster(folder.path(), |_| None, false).is_err_and(|e| e.contains("KUBERNETES_SERVICE_HOST")));
        assert!(in_cluster(&folder.path().join("none"), environment, false).is_err());
    }
}
