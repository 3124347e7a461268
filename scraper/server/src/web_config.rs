//! `--web.config.file`: TLS, basic authentication and headers, with the keys and faults of Prometheus's exporter
//! toolkit. The file is read again when it has changed; so are certificates.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde::Deserialize;

#[derive(Debug, thiserror::Error)]
pub enum WebConfigError {
    #[error("reading {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{0}")]
    Yaml(String),
    #[error("{0}")]
    Invalid(String),
    #[error("failed to load X509KeyPair: {0}")]
    Tls(#[from] rustls::Error),
}

fn invalid(text: impl Into<String>) -> WebConfigError {
    WebConfigError::Invalid(text.into())
}

/// The file as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebConfig {
    pub tls_server_config: TlsConfig,
    pub http_server_config: HttpConfig,
    pub rate_limit: RateLimit,
    /// bcrypt hashes by name.
    pub basic_auth_users: BTreeMap<String, String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    pub cert: String,
    pub key: String,
    pub client_ca: String,
    pub cert_file: String,
    pub key_file: String,
    pub client_auth_type: String,
    pub client_ca_file: String,
    pub cipher_suites: Vec<String>,
    pub curve_preferences: Vec<String>,
    pub min_version: String,
    pub max_version: String,
    /// Without effect, as in Go since 1.18.
    pub prefer_server_cipher_suites: Option<bool>,
    pub client_allowed_sans: Vec<String>,
}

impl std::fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsConfig").field("cert_file", &self.cert_file).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    pub http2: bool,
    pub headers: BTreeMap<String, String>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        HttpConfig { http2: true, headers: BTreeMap::new() }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimit {
    pub burst: u32,
    /// A Go duration.
    pub interval: String,
}

/// Headers that may be set, and the values they may have.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
    ("Content-Security-Policy", &[]),
];

impl WebConfig {
    /// Reads and checks the file; relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// See [`WebConfigError`].
    pub fn load(path: &Path) -> Result<WebConfig, WebConfigError> {
        let text = read(path)?;
        let text = String::from_utf8(text).map_err(|e| WebConfigError::Yaml(e.to_string()))?;
        let mut config: WebConfig = if text.trim().is_empty() {
            WebConfig::default()
        } else {
            serde_saphyr::from_str(&text).map_err(|e| WebConfigError::Yaml(e.to_string()))?
        };
        let folder = path.parent().unwrap_or(Path::new("."));
        let tls = &mut config.tls_server_config;
        for file in [&mut tls.cert_file, &mut tls.key_file, &mut tls.client_ca_file] {
            if !file.is_empty() && Path::new(file.as_str()).is_relative() {
                *file = folder.join(&*file).display().to_string();
            }
        }
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), WebConfigError> {
        for (name, value) in &self.http_server_config.headers {
            let Some((_, allowed)) = HEADERS.iter().find(|(n, _)| n == name) else {
                return Err(invalid(format!("HTTP header {name:?} can not be configured")));
            };
            if !allowed.is_empty() && !allowed.contains(&value.as_str()) {
                let list = allowed.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>().join(" ");
                return Err(invalid(format!(
                    "invalid value for {name}. Expected one of: [{list}], but got: {value:?}"
                )));
            }
            if http::HeaderValue::from_str(value).is_err() {
                return Err(invalid(format!("invalid value for {name}")));
            }
        }
        for hash in self.basic_auth_users.values() {
            let well_formed = hash.len() == 60 && hash.starts_with("$2") && hash.split('$').count() == 4;
            if !well_formed {
                return Err(invalid("crypto/bcrypt: hashedSecret too short to be a bcrypted password"));
            }
        }
        Ok(())
    }

    /// The TLS side, or none where the file has none.
    ///
    /// # Errors
    /// See [`WebConfigError`].
    pub fn tls(&self) -> Result<Option<ServerConfig>, WebConfigError> {
        let t = &self.tls_server_config;
        let none = [&t.cert, &t.cert_file, &t.key, &t.key_file, &t.client_ca, &t.client_ca_file, &t.client_auth_type];
        if none.iter().all(|s| s.is_empty()) {
            return Ok(None);
        }
        if t.cert.is_empty() && t.cert_file.is_empty() {
            return Err(invalid("missing one of cert or cert_file"));
        }
        if t.key.is_empty() && t.key_file.is_empty() {
            return Err(invalid("missing one of key or key_file"));
        }
        let versions = versions(t)?;
        let mut provider = rustls::crypto::ring::default_provider();
        if !t.cipher_suites.is_empty() {
            for name in &t.cipher_suites {
                if !provider.cipher_suites.iter().any(|s| suite_name(s.suite()) == *name) && !is_go_suite(name) {
                    return Err(invalid(format!("unknown cipher: {name}")));
                }
            }
            // Go has no choice among the suites of TLS 1.3.
            provider
                .cipher_suites
                .retain(|s| s.tls13().is_some() || t.cipher_suites.iter().any(|n| *n == suite_name(s.suite())));
        }
        if !t.curve_preferences.is_empty() {
            let wanted = |name: &str| match name {
                "CurveP256" => Ok(rustls::NamedGroup::secp256r1),
                "CurveP384" => Ok(rustls::NamedGroup::secp384r1),
                "CurveP521" => Ok(rustls::NamedGroup::secp521r1),
                "X25519" => Ok(rustls::NamedGroup::X25519),
                other => Err(invalid(format!("unknown curve: {other}"))),
            };
            let groups = t.curve_preferences.iter().map(|n| wanted(n)).collect::<Result<Vec<_>, _>>()?;
            provider.kx_groups.retain(|g| groups.contains(&g.name()));
        }
        let cert = if t.cert_file.is_empty() { t.cert.clone().into_bytes() } else { named(&t.cert_file, "cert_file")? };
        let key = if t.key_file.is_empty() { t.key.clone().into_bytes() } else { named(&t.key_file, "key_file")? };
        let certs = certificates(&cert)?;
        let key: PrivateKeyDer<'static> = rustls_pemfile::private_key(&mut &key[..])
            .ok()
            .flatten()
            .ok_or_else(|| invalid("failed to load X509KeyPair: tls: failed to find any PEM data in key input"))?;
        let builder =
            ServerConfig::builder_with_provider(Arc::new(provider.clone())).with_protocol_versions(&versions)?;
        let builder = match self.client_auth(Arc::new(provider))? {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(certs, key)?;
        config.alpn_protocols = if self.http_server_config.http2 {
            vec![b"h2".to_vec(), b"http/1.1".to_vec()]
        } else {
            vec![b"http/1.1".to_vec()]
        };
        Ok(Some(config))
    }

    fn client_auth(
        &self,
        provider: Arc<rustls::crypto::CryptoProvider>,
    ) -> Result<Option<Arc<dyn rustls::server::danger::ClientCertVerifier>>, WebConfigError> {
        let t = &self.tls_server_config;
        let mut roots = RootCertStore::empty();
        let ca = if t.client_ca_file.is_empty() {
            t.client_ca.clone().into_bytes()
        } else {
            read(Path::new(&t.client_ca_file))?
        };
        for cert in rustls_pemfile::certs(&mut &ca[..]).flatten() {
            roots.add(cert)?;
        }
        let optional = match t.client_auth_type.as_str() {
            "" | "NoClientCert" => {
                if !ca.is_empty() {
                    return Err(invalid("client CA's have been configured without a Client Auth Policy"));
                }
                return Ok(None);
            }
            // A certificate that nobody verifies proves nothing: asking for one is not worth the handshake's failure.
            "RequestClientCert" => return Ok(None),
            "RequireAnyClientCert" | "RequireClientCert" if roots.is_empty() => {
                return Err(invalid(
                    "client_auth_type RequireAnyClientCert needs client_ca_file: unverified certificates are not supported",
                ));
            }
            "RequireAnyClientCert" | "RequireClientCert" | "RequireAndVerifyClientCert" => false,
            "VerifyClientCertIfGiven" => true,
            other => return Err(invalid(format!("invalid ClientAuth: {other}"))),
        };
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let builder = if optional { builder.allow_unauthenticated() } else { builder };
        builder.build().map(Some).map_err(|e| invalid(e.to_string()))
    }
}

fn versions(t: &TlsConfig) -> Result<Vec<&'static rustls::SupportedProtocolVersion>, WebConfigError> {
    let number = |name: &str, default: u8| match name {
        "" => Ok(default),
        "TLS13" => Ok(13),
        "TLS12" => Ok(12),
        "TLS11" => Ok(11),
        "TLS10" => Ok(10),
        other => Err(invalid(format!("unknown TLS version: {other}"))),
    };
    let (min, max) = (number(&t.min_version, 12)?, number(&t.max_version, 13)?);
    let all = [(12, &rustls::version::TLS12), (13, &rustls::version::TLS13)];
    let chosen: Vec<_> = all.into_iter().filter(|(v, _)| (min..=max).contains(v)).map(|(_, v)| v).collect();
    if chosen.is_empty() { Err(invalid("no TLS version from 1.2 on is allowed")) } else { Ok(chosen) }
}

fn suite_name(suite: rustls::CipherSuite) -> String {
    format!("{suite:?}").replace("TLS13_", "TLS_")
}

/// Suites that Go has and rustls has not: they are accepted and never chosen.
fn is_go_suite(name: &str) -> bool {
    name.starts_with("TLS_RSA_WITH_")
        || name.starts_with("TLS_ECDHE_") && name.ends_with("_SHA")
        || name.starts_with("TLS_ECDHE_") && name.ends_with("_SHA256")
}

fn read(path: &Path) -> Result<Vec<u8>, WebConfigError> {
    std::fs::read(path).map_err(|source| WebConfigError::Read { path: path.to_owned(), source })
}

fn named(path: &str, key: &str) -> Result<Vec<u8>, WebConfigError> {
    std::fs::read(path).map_err(|e| invalid(format!("failed to read {key} ({path}): {e}")))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, WebConfigError> {
    let certs: Vec<_> = rustls_pemfile::certs(&mut &pem[..]).flatten().collect();
    if certs.is_empty() {
        return Err(invalid("failed to load X509KeyPair: tls: failed to find any PEM data in certificate input"));
    }
    Ok(certs)
}

/// What is in force, read again when a file behind it has changed.
pub struct Live {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    stamps: Vec<(PathBuf, Option<SystemTime>)>,
    config: Arc<WebConfig>,
    tls: Option<Arc<ServerConfig>>,
    /// Outcomes of comparing passwords, by a hash of user, bcrypt hash and password: bcrypt is slow on purpose.
    checked: std::collections::HashMap<u64, bool>,
}

fn stamp(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|m| m.modified()).ok()
}

/// Most outcomes that are remembered.
const MAX_CHECKED: usize = 100;

impl Live {
    /// # Errors
    /// See [`WebConfigError`].
    pub fn open(path: &Path) -> Result<Live, WebConfigError> {
        Ok(Live { path: path.to_owned(), state: Mutex::new(State::load(path)?) })
    }

    /// The configuration now. A file that became bad leaves the old one in force.
    pub fn current(&self) -> (Arc<WebConfig>, Option<Arc<ServerConfig>>) {
        let mut state = self.state.lock();
        if state.stamps.iter().any(|(path, at)| stamp(path) != *at) {
            match State::load(&self.path) {
                Ok(new) => *state = new,
                Err(e) => {
                    tracing::error!(err = %e, "unable to parse the web configuration, keeping the old one");
                    state.stamps.iter_mut().for_each(|(path, at)| *at = stamp(path));
                }
            }
        }
        (state.config.clone(), state.tls.clone())
    }

    /// Whether a password is right, if that was worked out before.
    fn remembered(&self, key: u64) -> Option<bool> {
        self.state.lock().checked.get(&key).copied()
    }

    fn remember(&self, key: u64, ok: bool) {
        let checked = &mut self.state.lock().checked;
        if checked.len() >= MAX_CHECKED {
            checked.clear();
        }
        checked.insert(key, ok);
    }

    /// Whether `user` has that password. Takes a while the first time, by bcrypt's nature.
    pub async fn check(self: &Arc<Self>, config: &WebConfig, user: &str, password: &str) -> bool {
        // Unknown users cost as much time as known ones.
        const NOBODY: &str = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";
        let known = config.basic_auth_users.get(user);
        let hash = known.map_or(NOBODY, String::as_str).to_owned();
        let key = {
            use std::hash::BuildHasher;
            static SEED: std::sync::OnceLock<foldhash::fast::RandomState> = std::sync::OnceLock::new();
            SEED.get_or_init(Default::default).hash_one((user, &hash, password))
        };
        if let Some(ok) = self.remembered(key) {
            return ok;
        }
        let (is_known, password) = (known.is_some(), password.to_owned());
        let check = move || is_known & bcrypt::verify(password, &hash).unwrap_or(false);
        let ok = tokio::task::spawn_blocking(check).await.unwrap_or(false);
        self.remember(key, ok);
        ok
    }
}

impl State {
    fn load(path: &Path) -> Result<State, WebConfigError> {
        let config = WebConfig::load(path)?;
        let tls = config.tls()?.map(Arc::new);
        let t = &config.tls_server_config;
        let files = [&t.cert_file, &t.key_file, &t.client_ca_file];
        let files = files.into_iter().filter(|f| !f.is_empty()).map(PathBuf::from).chain([path.to_owned()]);
        let stamps = files.map(|f| (f.clone(), stamp(&f))).collect();
        Ok(State { stamps, config: Arc::new(config), tls, checked: Default::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(yaml: &str, expected: Result<(), &str>) {
        let folder = std::env::temp_dir().join(format!(
            "narthex-web-{}-{:x}",
            std::process::id(),
            xxhash_rust::xxh3::xxh3_64(yaml.as_bytes())
        ));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("web.yml");
        std::fs::write(&path, yaml).unwrap();
        let got = WebConfig::load(&path).and_then(|c| c.tls().map(|_| ())).map_err(|e| e.to_string());
        std::fs::remove_dir_all(&folder).unwrap();
        match expected {
            Ok(()) => assert_eq!(got, Ok(()), "{yaml}"),
            Err(part) => assert!(got.as_ref().is_err_and(|e| e.contains(part)), "{yaml}: {got:?}"),
        }
    }

    #[test]
    fn files() {
        check("", Ok(()));
        check("basic_auth_users:\n  alice: $2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi\n", Ok(()));
        check("basic_auth_users:\n  alice: plain\n", Err("too short to be a bcrypted password"));
        check("http_server_config:\n  headers:\n    X-Frame-Options: deny\n", Ok(()));
        check(
            "http_server_config:\n  headers:\n    X-Frame-Options: maybe\n",
            Err("Expected one of: [\"deny\" \"sameorigin\"]"),
        );
        check("http_server_config:\n  headers:\n    X-Other: a\n", Err("can not be configured"));
        check("tls_server_config:\n  cert_file: missing.pem\n", Err("missing one of key or key_file"));
        check("tls_server_config:\n  cert_file: a.pem\n  key_file: b.pem\n", Err("failed to read cert_file"));
        check("tls_server_confg: {}\n", Err("tls_server_confg"));
    }
}
