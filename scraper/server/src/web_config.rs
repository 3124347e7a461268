//! `--web.config.file`: TLS, basic authentication, headers and a limit of requests, with the keys and faults of
//! Prometheus's exporter toolkit. The file is read again when it has changed; so are certificates.

mod live;
mod tls;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};

pub use live::{Live, Login};

#[derive(Debug, thiserror::Error)]
pub enum WebConfigError {
    #[error("open {path}: {}", io_text(source))]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{0}")]
    Yaml(String),
    #[error("{0}")]
    Invalid(String),
    #[error("failed to load X509KeyPair: {0}")]
    Tls(#[from] rustls::Error),
}

/// An I/O error without its number, as Go has it.
fn io_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

fn invalid(text: impl Into<String>) -> WebConfigError {
    WebConfigError::Invalid(text.into())
}

/// A key without a value is as good as none.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(d).map(Option::unwrap_or_default)
}

/// The name of a TLS version, which is not empty where the key is there.
fn version<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    match Option::<String>::deserialize(d)? {
        Some(name) if name.is_empty() => Err(serde::de::Error::custom("unknown TLS version: ")),
        name => Ok(name.unwrap_or_default()),
    }
}

/// The file as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebConfig {
    #[serde(deserialize_with = "or_default")]
    pub tls_server_config: TlsConfig,
    #[serde(deserialize_with = "or_default")]
    pub http_server_config: HttpConfig,
    #[serde(deserialize_with = "or_default")]
    pub rate_limit: RateLimit,
    /// bcrypt hashes by name.
    #[serde(deserialize_with = "or_default")]
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
    #[serde(deserialize_with = "or_default")]
    pub client_auth_type: String,
    #[serde(deserialize_with = "or_default")]
    pub client_ca_file: String,
    #[serde(deserialize_with = "or_default")]
    pub cipher_suites: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub curve_preferences: Vec<String>,
    #[serde(deserialize_with = "version")]
    pub min_version: String,
    #[serde(deserialize_with = "version")]
    pub max_version: String,
    /// Without effect, as in Go since 1.18.
    pub prefer_server_cipher_suites: Option<bool>,
    /// Where there are any, a client's certificate has to carry one of these names.
    pub client_allowed_sans: Option<Vec<String>>,
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
    #[serde(deserialize_with = "or_default")]
    pub headers: BTreeMap<String, String>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        HttpConfig { http2: true, headers: BTreeMap::new() }
    }
}

/// One request per `interval`, and up to `burst` at once; no interval: no limit.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimit {
    pub burst: i64,
    #[serde(deserialize_with = "go_duration")]
    pub interval: Duration,
}

/// A Go duration, `1.5s` or `2m3s`, or a number of nanoseconds.
fn go_duration<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        Number(i64),
        Text(String),
    }
    let nanos = match Option::<Given>::deserialize(d)? {
        None => 0.0,
        Some(Given::Number(n)) => n as f64,
        Some(Given::Text(text)) => parse_go_duration(&text)
            .ok_or_else(|| serde::de::Error::custom(format!("time: invalid duration {text:?}")))?,
    };
    // A negative interval allows everything, as none does.
    Ok(Duration::from_nanos(nanos.max(0.0) as u64))
}

/// In nanoseconds.
fn parse_go_duration(text: &str) -> Option<f64> {
    const UNITS: [(&str, f64); 8] =
        [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0.0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let amount: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += amount * UNITS.iter().find(|(name, _)| *name == &rest[..letters])?.1;
        rest = &rest[letters..];
    }
    Some(sign * total)
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
        // A file of nothing but comments and blanks is empty.
        let empty = text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#'));
        let mut config: WebConfig = if empty {
            WebConfig::default()
        } else {
            // Only the first line: the rest quotes the file, and there may be keys and hashes.
            serde_saphyr::from_str::<Option<WebConfig>>(&text)
                .map_err(|e| WebConfigError::Yaml(format!("yaml: {}", e.to_string().lines().next().unwrap_or(""))))?
                .unwrap_or_default()
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

    /// Reads and checks the file and all that it names.
    ///
    /// # Errors
    /// See [`WebConfigError`].
    pub fn validate(path: &Path) -> Result<(), WebConfigError> {
        WebConfig::load(path)?.tls().map(|_| ())
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
        self.basic_auth_users.values().try_for_each(|hash| check_hash(hash))
    }
}

/// A bcrypt hash, `$2y$10$` and 53 letters. What is wrong with it is said without it.
fn check_hash(hash: &str) -> Result<(), WebConfigError> {
    if hash.len() < 60 {
        return Err(invalid("crypto/bcrypt: hashedSecret too short to be a bcrypted password"));
    }
    let parts: Vec<&str> = hash.split('$').collect();
    let cost = parts.get(2).and_then(|c| c.parse::<u32>().ok());
    let well_formed = hash.len() == 60 && parts.len() == 4 && parts[0].is_empty() && parts[1].starts_with('2');
    match cost {
        Some(4..=31) if well_formed => Ok(()),
        Some(cost) if well_formed => {
            Err(invalid(format!("crypto/bcrypt: cost {cost} is outside allowed inclusive range 4..31")))
        }
        _ => Err(invalid("crypto/bcrypt: not a bcrypt hash")),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, WebConfigError> {
    std::fs::read(path).map_err(|source| WebConfigError::Read { path: path.to_owned(), source })
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
    fn faults_do_not_quote_secrets() {
        let folder = std::env::temp_dir().join(format!("narthex-web-fault-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("web.yml");
        std::fs::write(&path, "basic_auth_users:\n  alice: planted-hash\ntls_server_confg: {}\n").unwrap();
        let fault = WebConfig::load(&path).unwrap_err().to_string();
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(fault.contains("line 3") && !fault.contains("planted"), "{fault}");
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
        check("null\n", Ok(()));
        check("tls_server_config: {min_version: ''}\n", Err("unknown TLS version: "));
        check(
            "tls_server_config:\n  cert_file: none.pem\n  key_file: b.pem\n",
            Err("none.pem: no such file or directory"),
        );
        check(
            "basic_auth_users:\n  alice: $2y$03$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi\n",
            Err("cost 3 is outside allowed inclusive range 4..31"),
        );
    }
}
