//! `remote_write` and `remote_read`.

use std::collections::BTreeMap;
use std::time::Duration;

use narthex_model::{Labels, RelabelConfig, ValidationScheme};

use crate::Secret;
use crate::alerting::SigV4Config;
use crate::http_client::{HttpClientConfig, RESERVED};
use crate::scrape::{no_null_rule, validate_rules};
use crate::weburl::WebUrl;
use crate::yaml::{Check, Choice, Invalid, Node, section};

/// `protobuf_message`: which message a receiver gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteMessage {
    #[default]
    V1,
    V2,
}

impl WriteMessage {
    pub fn as_str(self) -> &'static str {
        match self {
            WriteMessage::V1 => "prometheus.WriteRequest",
            WriteMessage::V2 => "io.prometheus.write.v2.Request",
        }
    }
}

impl Choice for WriteMessage {
    const TYPE: &'static str = "remote.WriteMessageType";
    const ALL: &'static [Self] = &[WriteMessage::V1, WriteMessage::V2];
    const ZERO: Self = WriteMessage::V1;

    fn name(self) -> &'static str {
        self.as_str()
    }

    fn unknown(text: &str) -> String {
        format!(
            "invalid protobuf_message value: unknown type for remote write protobuf message {text}, supported: \
             prometheus.WriteRequest, io.prometheus.write.v2.Request"
        )
    }
}

section! {
    /// `queue_config` of a remote write.
    plain pub struct QueueConfig = "config.QueueConfig" {
        omit "capacity" capacity: i64 = 10_000,
        omit "max_shards" max_shards: i64 = 50,
        omit "min_shards" min_shards: i64 = 1,
        omit "max_samples_per_send" max_samples_per_send: i64 = 2000,
        omit "batch_send_deadline" batch_send_deadline: Duration = Duration::from_secs(5),
        omit "min_backoff" min_backoff: Duration = Duration::from_millis(30),
        omit "max_backoff" max_backoff: Duration = Duration::from_secs(5),
        omit "retry_on_http_429" retry_on_http_429: bool,
        omit "sample_age_limit" sample_age_limit: Duration,
    }
}

impl QueueConfig {
    fn validate(&self) -> Result<(), Invalid> {
        let fail = |what: &str| Err(Invalid::at("queue_config", format!("remote write queue {what}")));
        if self.max_shards <= 0 {
            return fail("max_shards must be positive");
        }
        if self.min_shards <= 0 {
            return fail("min_shards must be positive");
        }
        if self.min_shards > self.max_shards {
            return fail("min_shards must not be greater than max_shards");
        }
        if self.max_samples_per_send <= 0 {
            return fail("max_samples_per_send must be positive");
        }
        if self.capacity <= 0 {
            return fail("capacity must be positive");
        }
        if self.max_backoff < self.min_backoff {
            return fail("max_backoff must not be less than min_backoff");
        }
        Ok(())
    }
}

section! {
    /// `metadata_config` of a remote write.
    plain pub struct MetadataConfig = "config.MetadataConfig" {
        keep "send" send: bool = true,
        keep "send_interval" send_interval: Duration = Duration::from_secs(60),
        omit "max_samples_per_send" max_samples_per_send: i64 = 2000,
    }
}

section! {
    plain pub struct AzureManagedIdentity = "azuread.ManagedIdentityConfig" {
        omit "client_id" client_id: String,
    }
}

section! {
    plain pub struct AzureWorkloadIdentity = "azuread.WorkloadIdentityConfig" {
        omit "client_id" client_id: String,
        omit "tenant_id" tenant_id: String,
        omit "token_file_path" token_file_path: String,
    }
}

section! {
    plain pub struct AzureOAuth = "azuread.OAuthConfig" {
        omit "client_id" client_id: String,
        omit "client_secret" client_secret: Secret,
        omit "tenant_id" tenant_id: String,
    }
}

section! {
    plain pub struct AzureSdk = "azuread.SDKConfig" {
        omit "tenant_id" tenant_id: String,
    }
}

section! {
    plain pub struct AzureCertificate = "azuread.CertificateConfig" {
        omit "client_id" client_id: String,
        omit "tenant_id" tenant_id: String,
        omit "certificate_path" certificate_path: String,
        omit "certificate_key_path" certificate_key_path: String,
        omit "certificate_password" certificate_password: Secret,
        omit "send_certificate_chain" send_certificate_chain: bool,
    }
}

section! {
    /// `azuread`: a token of Microsoft Entra.
    checked pub struct AzureAdConfig = "azuread.AzureADConfig" {
        omit "managed_identity" managed_identity: Option<AzureManagedIdentity>,
        omit "workload_identity" workload_identity: Option<AzureWorkloadIdentity>,
        omit "oauth" oauth: Option<AzureOAuth>,
        omit "sdk" sdk: Option<AzureSdk>,
        omit "certificate" certificate: Option<AzureCertificate>,
        omit "cloud" cloud: String,
        omit "scope" scope: String,
    }
}

/// The forms of a UUID that Go's uuid package takes.
fn is_uuid(text: &str) -> bool {
    let inner = text.strip_prefix("urn:uuid:").unwrap_or(text);
    let inner = inner.strip_prefix('{').and_then(|s| s.strip_suffix('}')).unwrap_or(inner);
    let dashed = inner.len() == 36
        && inner.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        });
    dashed || inner.len() == 32 && inner.bytes().all(|b| b.is_ascii_hexdigit())
}

impl Check for AzureAdConfig {
    fn check(&mut self, _: &Node) -> Result<(), Invalid> {
        if self.cloud.is_empty() {
            self.cloud = "AzurePublic".into();
        }
        if !matches!(self.cloud.as_str(), "AzureChina" | "AzureGovernment" | "AzurePublic") {
            return Err("must provide a cloud in the Azure AD config".into());
        }
        let methods = [
            self.managed_identity.is_some(),
            self.workload_identity.is_some(),
            self.oauth.is_some(),
            self.sdk.is_some(),
            self.certificate.is_some(),
        ];
        match methods.iter().filter(|m| **m).count() {
            0 => {
                return Err("must provide an Azure Managed Identity, Azure Workload Identity, Azure OAuth, Azure \
                            Certificate or Azure SDK in the Azure AD config"
                    .into());
            }
            1 => {}
            _ => return Err("cannot provide multiple authentication methods in the Azure AD config".into()),
        }
        let missing = |what: &str| Err(Invalid::from(format!("must provide an Azure {what} in the Azure AD config")));
        let bad = |what: &str| Err(Invalid::from(format!("the provided Azure {what} is invalid")));
        if let Some(c) = &self.managed_identity
            && !c.client_id.is_empty()
            && !is_uuid(&c.client_id)
        {
            return bad("Managed Identity client_id");
        }
        if let Some(c) = &mut self.workload_identity {
            if c.client_id.is_empty() {
                return missing("Workload Identity client_id");
            }
            if c.tenant_id.is_empty() {
                return missing("Workload Identity tenant_id");
            }
            if !is_uuid(&c.client_id) {
                return bad("Workload Identity client_id");
            }
            if !is_uuid(&c.tenant_id) {
                return bad("Workload Identity tenant_id");
            }
            if c.token_file_path.is_empty() {
                c.token_file_path = std::env::var("AZURE_FEDERATED_TOKEN_FILE")
                    .ok()
                    .filter(|f| !f.is_empty())
                    .unwrap_or_else(|| "/var/run/secrets/azure/tokens/azure-identity-token".into());
            }
        }
        if let Some(c) = &self.oauth {
            if c.client_id.is_empty() {
                return missing("OAuth client_id");
            }
            if c.client_secret.is_empty() {
                return missing("OAuth client_secret");
            }
            if c.tenant_id.is_empty() {
                return missing("OAuth tenant_id");
            }
            if !is_uuid(&c.client_id) {
                return bad("OAuth client_id");
            }
        }
        if let Some(c) = &self.certificate {
            if c.client_id.is_empty() {
                return missing("Certificate client_id");
            }
            if c.tenant_id.is_empty() {
                return missing("Certificate tenant_id");
            }
            if c.certificate_path.is_empty() {
                return missing("Certificate certificate_path");
            }
            if !is_uuid(&c.client_id) {
                return bad("Certificate client_id");
            }
        }
        let scope_char = |c: char| c.is_ascii_alphanumeric() || c.is_ascii_whitespace() || "_:/.-".contains(c);
        if !self.scope.chars().all(scope_char) {
            return Err("the provided scope contains invalid characters".into());
        }
        Ok(())
    }
}

section! {
    /// `google_iam`.
    plain pub struct GoogleIamConfig = "googleiam.Config" {
        omit "credentials_file" credentials_file: String,
    }
}

section! {
    /// One entry of `remote_write`.
    checked pub struct RemoteWriteConfig = "config.RemoteWriteConfig" {
        /// Always set after the section was read.
        keep "url" url: Option<WebUrl>,
        omit "remote_timeout" remote_timeout: Duration = Duration::from_secs(30),
        omit "headers" headers: BTreeMap<String, String>,
        omit "write_relabel_configs" write_relabel_configs: Vec<RelabelConfig>,
        omit "name" name: String,
        omit "send_exemplars" send_exemplars: bool,
        omit "send_native_histograms" send_native_histograms: bool,
        omit "round_robin_dns" round_robin_dns: bool,
        omit "protobuf_message" protobuf_message: WriteMessage,
        inline "" http: HttpClientConfig = HttpClientConfig { enable_http2: false, ..HttpClientConfig::default() },
        omit "queue_config" queue_config: QueueConfig,
        omit "metadata_config" metadata_config: MetadataConfig,
        omit "sigv4" sigv4: Option<SigV4Config>,
        omit "azuread" azuread: Option<AzureAdConfig>,
        omit "google_iam" google_iam: Option<GoogleIamConfig>,
    }
}

/// Refuses headers that the protocol or the credentials set; `authorization` is what to say of that one.
pub(crate) fn check_headers(headers: &BTreeMap<String, String>, authorization: &str) -> Result<(), Invalid> {
    for header in headers.keys() {
        let lower = header.to_lowercase();
        if lower == "authorization" {
            return Err(Invalid::at("headers", authorization));
        }
        if RESERVED.contains(&lower.as_str()) {
            return Err(Invalid::at("headers", format!("{header} is a reserved header. It must not be changed")));
        }
    }
    Ok(())
}

const AUTHORIZATION_HEADER: &str = "authorization header must be changed via the basic_auth, authorization, oauth2, \
                                    sigv4, azuread or google_iam parameter";

impl Check for RemoteWriteConfig {
    fn check(&mut self, node: &Node) -> Result<(), Invalid> {
        if self.url.is_none() {
            return Err("url for remote_write is empty".into());
        }
        no_null_rule(node, "write_relabel_configs", "empty or null relabeling rule in remote write config")?;
        check_headers(&self.headers, AUTHORIZATION_HEADER)?;
        self.http.validate()?;
        self.queue_config.validate()?;
        let configured: Vec<&str> = [
            (self.http.basic_auth.is_some(), "basic_auth"),
            (self.http.authorization.is_some(), "authorization"),
            (self.http.oauth2.is_some(), "oauth2"),
            (self.sigv4.is_some(), "sigv4"),
            (self.azuread.is_some(), "azuread"),
            (self.google_iam.is_some(), "google_iam"),
        ]
        .into_iter()
        .filter_map(|(set, name)| set.then_some(name))
        .collect();
        if configured.len() > 1 {
            return Err(format!(
                "at most one of basic_auth, authorization, oauth2, sigv4, azuread or google_iam must be configured. \
                 Currently configured: [{}]",
                configured.join(" ")
            )
            .into());
        }
        Ok(())
    }
}

impl RemoteWriteConfig {
    pub(crate) fn validate(&mut self, names: ValidationScheme) -> Result<(), Invalid> {
        validate_rules(&mut self.write_relabel_configs, names, "write_relabel_configs")
    }
}

section! {
    /// One entry of `remote_read`.
    checked pub struct RemoteReadConfig = "config.RemoteReadConfig" {
        /// Always set after the section was read.
        keep "url" url: Option<WebUrl>,
        omit "remote_timeout" remote_timeout: Duration = Duration::from_secs(60),
        omit "chunked_read_limit" chunked_read_limit: u64 = 50_000_000,
        omit "headers" headers: BTreeMap<String, String>,
        omit "read_recent" read_recent: bool,
        omit "name" name: String,
        inline "" http: HttpClientConfig,
        omit "required_matchers" required_matchers: Labels,
        omit "filter_external_labels" filter_external_labels: bool = true,
    }
}

impl Check for RemoteReadConfig {
    fn check(&mut self, _: &Node) -> Result<(), Invalid> {
        if self.url.is_none() {
            return Err("url for remote_read is empty".into());
        }
        check_headers(&self.headers, AUTHORIZATION_HEADER)?;
        self.http.validate()
    }
}
