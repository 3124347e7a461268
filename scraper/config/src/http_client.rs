//! How to speak HTTP to others: credentials, TLS, proxies, headers. The same keys in every section that has a client.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::Secret;
use crate::weburl::WebUrl;
use crate::yaml::{Check, Choice, Invalid, Node, section};

/// A lowest or highest version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    Tls10,
    Tls11,
    Tls12,
    Tls13,
}

impl TlsVersion {
    pub fn as_str(self) -> &'static str {
        match self {
            TlsVersion::Tls10 => "TLS10",
            TlsVersion::Tls11 => "TLS11",
            TlsVersion::Tls12 => "TLS12",
            TlsVersion::Tls13 => "TLS13",
        }
    }
}

impl Choice for TlsVersion {
    const TYPE: &'static str = "config.TLSVersion";
    const ALL: &'static [Self] = &[TlsVersion::Tls10, TlsVersion::Tls11, TlsVersion::Tls12, TlsVersion::Tls13];
    const ZERO: Self = TlsVersion::Tls12;

    fn name(self) -> &'static str {
        self.as_str()
    }

    fn unknown(text: &str) -> String {
        format!("unknown TLS version: {text}")
    }
}

section! {
    /// `tls_config`. Files are read anew for each connection that is set up, so that certificates can rotate.
    checked pub struct TlsConfig = "config.TLSConfig" {
        /// The text of a certificate bundle.
        omit "ca" ca: String,
        omit "cert" cert: String,
        omit "key" key: Secret,
        omit "ca_file" ca_file: PathBuf,
        omit "cert_file" cert_file: PathBuf,
        omit "key_file" key_file: PathBuf,
        omit "ca_ref" ca_ref: String,
        omit "cert_ref" cert_ref: String,
        omit "key_ref" key_ref: String,
        /// The name that the other side's certificate must have; its host where empty.
        omit "server_name" server_name: String,
        keep "insecure_skip_verify" insecure_skip_verify: bool,
        omit "min_version" min_version: Option<TlsVersion>,
        omit "max_version" max_version: Option<TlsVersion>,
    }
}

fn more_than_one(set: &[bool]) -> bool {
    set.iter().filter(|s| **s).count() > 1
}

impl Check for TlsConfig {
    fn check(&mut self, _: &Node) -> Result<(), Invalid> {
        let set = |file: &PathBuf| !file.as_os_str().is_empty();
        if more_than_one(&[!self.ca.is_empty(), set(&self.ca_file), !self.ca_ref.is_empty()]) {
            return Err("at most one of ca, ca_file & ca_ref must be configured".into());
        }
        let cert = [!self.cert.is_empty(), set(&self.cert_file), !self.cert_ref.is_empty()];
        if more_than_one(&cert) {
            return Err("at most one of cert, cert_file & cert_ref must be configured".into());
        }
        let key = [!self.key.is_empty(), set(&self.key_file), !self.key_ref.is_empty()];
        if more_than_one(&key) {
            return Err("at most one of key and key_file must be configured".into());
        }
        match (cert.contains(&true), key.contains(&true)) {
            (true, false) => {
                Err("exactly one of key or key_file must be configured when a client certificate is configured".into())
            }
            (false, true) => {
                Err("exactly one of cert or cert_file must be configured when a client key is configured".into())
            }
            _ => Ok(()),
        }
    }
}

section! {
    /// `basic_auth`.
    plain pub struct BasicAuth = "config.BasicAuth" {
        omit "username" username: String,
        omit "username_file" username_file: PathBuf,
        omit "username_ref" username_ref: String,
        omit "password" password: Secret,
        omit "password_file" password_file: PathBuf,
        omit "password_ref" password_ref: String,
    }
}

section! {
    /// `authorization`: a header `TYPE CREDENTIALS`.
    plain pub struct Authorization = "config.Authorization" {
        /// `Bearer` where it is not set (after [`HttpClientConfig::validate`]).
        omit "type" kind: String,
        omit "credentials" credentials: Secret,
        omit "credentials_file" credentials_file: PathBuf,
        omit "credentials_ref" credentials_ref: String,
    }
}

section! {
    /// `oauth2`: client credentials or a signed JWT for a token.
    plain pub struct OAuth2 = "config.OAuth2" {
        omit "client_id" client_id: String,
        omit "client_secret" client_secret: Secret,
        omit "client_secret_file" client_secret_file: PathBuf,
        omit "client_secret_ref" client_secret_ref: String,
        omit "client_certificate_key_id" client_certificate_key_id: String,
        omit "client_certificate_key" client_certificate_key: Secret,
        omit "client_certificate_key_file" client_certificate_key_file: String,
        omit "client_certificate_key_ref" client_certificate_key_ref: String,
        omit "grant_type" grant_type: String,
        omit "signature_algorithm" signature_algorithm: String,
        omit "iss" iss: String,
        omit "audience" audience: String,
        omit "claims" claims: BTreeMap<String, serde_json::Value>,
        omit "scopes" scopes: Vec<String>,
        omit "token_url" token_url: String,
        omit "endpoint_params" endpoint_params: BTreeMap<String, String>,
        omit "tls_config" tls_config: TlsConfig,
        inline "" proxy: ProxyConfig,
    }
}

/// The grant type of RFC 7523.
pub const GRANT_JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

section! {
    /// Through which proxy requests go.
    plain pub struct ProxyConfig = "config.ProxyConfig" {
        omit "proxy_url" proxy_url: Option<WebUrl>,
        /// Hosts, addresses and networks that are asked directly, separated by commas.
        omit "no_proxy" no_proxy: String,
        omit "proxy_from_environment" proxy_from_environment: bool,
        omit "proxy_connect_header" proxy_connect_header: BTreeMap<String, Vec<Secret>>,
    }
}

impl ProxyConfig {
    fn validate(&self) -> Result<(), Invalid> {
        let url = self.proxy_url.as_ref().is_some_and(|u| !u.as_str().is_empty());
        if !self.proxy_connect_header.is_empty() && !self.proxy_from_environment && !url {
            return Err(
                "if proxy_connect_header is configured, proxy_url or proxy_from_environment must also be configured"
                    .into(),
            );
        }
        if self.proxy_from_environment && url {
            return Err("if proxy_from_environment is configured, proxy_url must not be configured".into());
        }
        if self.proxy_from_environment && !self.no_proxy.is_empty() {
            return Err("if proxy_from_environment is configured, no_proxy must not be configured".into());
        }
        if self.proxy_url.is_none() && !self.no_proxy.is_empty() {
            return Err("if no_proxy is configured, proxy_url must also be configured".into());
        }
        Ok(())
    }
}

section! {
    /// One of `http_headers`: all values are sent.
    plain pub struct Header = "config.Header" {
        omit "values" values: Vec<String>,
        omit "secrets" secrets: Vec<Secret>,
        omit "files" files: Vec<PathBuf>,
    }
}

section! {
    /// A client: what stands in a scrape job, a discovery, an Alertmanager or a remote endpoint alike.
    checked pub struct HttpClientConfig = "config.HTTPClientConfig" {
        omit "basic_auth" basic_auth: Option<BasicAuth>,
        omit "authorization" authorization: Option<Authorization>,
        omit "oauth2" oauth2: Option<OAuth2>,
        /// Empty after [`HttpClientConfig::validate`], which moves it to `authorization`.
        omit "bearer_token" bearer_token: Secret,
        /// As `bearer_token`.
        omit "bearer_token_file" bearer_token_file: PathBuf,
        omit "tls_config" tls_config: TlsConfig,
        keep "follow_redirects" follow_redirects: bool = true,
        keep "enable_http2" enable_http2: bool = true,
        inline "" proxy: ProxyConfig,
        omit "http_headers" http_headers: BTreeMap<String, Header>,
    }
}

/// Headers that neither `http_headers` nor the `headers` of remote write and read can set, in lower case.
pub(crate) const RESERVED: [&str; 16] = [
    "host",
    "content-encoding",
    "content-length",
    "content-type",
    "user-agent",
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "www-authenticate",
    "accept-encoding",
    "x-prometheus-remote-write-version",
    "x-prometheus-remote-read-version",
    "x-amz-date",
    "x-amz-security-token",
    "x-amz-content-sha256",
];

/// `Www-Authenticate` of `www-authenticate`.
fn canonical_header(name: &str) -> String {
    name.split('-')
        .map(|part| {
            let mut chars = part.chars();
            chars.next().map_or_else(String::new, |first| {
                first.to_ascii_uppercase().to_string() + &chars.as_str().to_ascii_lowercase()
            })
        })
        .collect::<Vec<_>>()
        .join("-")
}

impl HttpClientConfig {
    /// Checks that the credentials don't contradict each other, and turns the old bearer token keys into
    /// `authorization`.
    ///
    /// # Errors
    /// The text is Prometheus's.
    pub fn validate(&mut self) -> Result<(), Invalid> {
        let file = |f: &PathBuf| !f.as_os_str().is_empty();
        let bearer = !self.bearer_token.is_empty();
        let bearer_file = file(&self.bearer_token_file);
        if bearer && bearer_file {
            return Err("at most one of bearer_token & bearer_token_file must be configured".into());
        }
        if (self.basic_auth.is_some() || self.oauth2.is_some()) && (bearer || bearer_file) {
            return Err("at most one of basic_auth, oauth2, bearer_token & bearer_token_file must be configured".into());
        }
        if let Some(a) = &self.basic_auth {
            if more_than_one(&[!a.username.is_empty(), file(&a.username_file), !a.username_ref.is_empty()]) {
                return Err(Invalid::at(
                    "basic_auth",
                    "at most one of basic_auth username, username_file & username_ref must be configured",
                ));
            }
            if more_than_one(&[!a.password.is_empty(), file(&a.password_file), !a.password_ref.is_empty()]) {
                return Err(Invalid::at(
                    "basic_auth",
                    "at most one of basic_auth password, password_file & password_ref must be configured",
                ));
            }
        }
        if let Some(a) = &mut self.authorization {
            if bearer || bearer_file {
                return Err("authorization is not compatible with bearer_token & bearer_token_file".into());
            }
            if more_than_one(&[!a.credentials.is_empty(), file(&a.credentials_file), !a.credentials_ref.is_empty()]) {
                return Err(Invalid::at(
                    "authorization",
                    "at most one of authorization credentials & credentials_file must be configured",
                ));
            }
            a.kind = a.kind.trim().to_owned();
            if a.kind.is_empty() {
                a.kind = "Bearer".into();
            }
            if a.kind.to_lowercase() == "basic" {
                return Err(Invalid::at(
                    "authorization.type",
                    r#"authorization type cannot be set to "basic", use "basic_auth" instead"#,
                ));
            }
            if self.basic_auth.is_some() || self.oauth2.is_some() {
                return Err("at most one of basic_auth, oauth2 & authorization must be configured".into());
            }
        } else if bearer || bearer_file {
            self.authorization = Some(Authorization {
                kind: "Bearer".into(),
                credentials: std::mem::take(&mut self.bearer_token),
                credentials_file: std::mem::take(&mut self.bearer_token_file),
                credentials_ref: String::new(),
            });
        }
        if let Some(o) = &self.oauth2 {
            if self.basic_auth.is_some() {
                return Err("at most one of basic_auth, oauth2 & authorization must be configured".into());
            }
            let invalid = |message: &str| Err(Invalid::at("oauth2", message));
            if o.client_id.is_empty() {
                return invalid("oauth2 client_id must be configured");
            }
            if o.token_url.is_empty() {
                return invalid("oauth2 token_url must be configured");
            }
            if o.grant_type == GRANT_JWT_BEARER {
                if more_than_one(&[
                    !o.client_certificate_key.is_empty(),
                    !o.client_certificate_key_file.is_empty(),
                    !o.client_certificate_key_ref.is_empty(),
                ]) {
                    return invalid(
                        "at most one of oauth2 client_certificate_key, client_certificate_key_file & \
                         client_certificate_key_ref must be configured using \
                         grant-type=urn:ietf:params:oauth:grant-type:jwt-bearer",
                    );
                }
                if !matches!(o.signature_algorithm.as_str(), "" | "RS256" | "RS384" | "RS512") {
                    return invalid("valid signature algorithms are RS256, RS384 and RS512");
                }
            } else if more_than_one(&[
                !o.client_secret.is_empty(),
                file(&o.client_secret_file),
                !o.client_secret_ref.is_empty(),
            ]) {
                return invalid(
                    "at most one of oauth2 client_secret, client_secret_file & client_secret_ref must be configured \
                     using grant-type=client_credentials",
                );
            }
        }
        if let Some(o) = &self.oauth2 {
            o.proxy.validate()?;
        }
        self.proxy.validate()?;
        for name in self.http_headers.keys() {
            let lower = name.to_ascii_lowercase();
            if RESERVED.contains(&&*lower) || matches!(&*lower, "authorization" | "x-prometheus-scrape-timeout-seconds")
            {
                return Err(Invalid::at(
                    "http_headers",
                    format!("setting header {} is not allowed", narthex_model::labels::quote(&canonical_header(name))),
                ));
            }
        }
        Ok(())
    }

    /// Whether any credentials are configured.
    pub fn has_credentials(&self) -> bool {
        self.basic_auth.is_some() || self.authorization.is_some() || self.oauth2.is_some()
    }
}

impl Check for HttpClientConfig {
    fn check(&mut self, _: &Node) -> Result<(), Invalid> {
        self.validate()
    }
}
