//! Discovery sections: where targets come from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use narthex_model::Labels;

use crate::Secret;
use crate::assignment::TargetGroup;
use crate::http_client::{BasicAuth, HttpClientConfig};
use crate::weburl::WebUrl;
use crate::yaml::decode::{self, Fault};
use crate::yaml::{Check, Choice, Context, Invalid, Node, Out, Yaml, section};

/// One discovery mechanism of a job.
#[derive(Clone, Debug, PartialEq)]
pub enum DiscoveryConfig {
    /// All `static_configs` of the job; the source of each is its index.
    Static(Vec<TargetGroup>),
    File(FileSdConfig),
    Http(Box<HttpSdConfig>),
    Dns(DnsSdConfig),
    Consul(Box<ConsulSdConfig>),
    Docker(Box<DockerSdConfig>),
    Nomad(Box<NomadSdConfig>),
    Kubernetes(Box<KubernetesSdConfig>),
}

impl DiscoveryConfig {
    /// `static`, `file`, …
    pub fn kind(&self) -> &'static str {
        match self {
            DiscoveryConfig::Static(_) => "static",
            DiscoveryConfig::File(_) => "file",
            DiscoveryConfig::Http(_) => "http",
            DiscoveryConfig::Dns(_) => "dns",
            DiscoveryConfig::Consul(_) => "consul",
            DiscoveryConfig::Docker(_) => "docker",
            DiscoveryConfig::Nomad(_) => "nomad",
            DiscoveryConfig::Kubernetes(_) => "kubernetes",
        }
    }
}

/// All kinds, as their sections are called (`…_sd_configs`; `static_configs`).
pub const KINDS: [&str; 8] = ["consul", "dns", "docker", "file", "http", "kubernetes", "nomad", "static"];

/// Discoveries that Prometheus knows and Narthex does not: their sections are refused by name.
const UNSUPPORTED: &[&str] = &[
    "aws",
    "azure",
    "digitalocean",
    "dockerswarm",
    "ec2",
    "ecs",
    "elasticache",
    "eureka",
    "gce",
    "hetzner",
    "ionos",
    "kuma",
    "lightsail",
    "linode",
    "marathon",
    "msk",
    "nerve",
    "oci",
    "openstack",
    "outscale",
    "ovhcloud",
    "puppetdb",
    "rds",
    "scaleway",
    "serverset",
    "stackit",
    "triton",
    "uyuni",
    "vultr",
];

/// What the message about a discovery that Narthex lacks says after its name.
pub const UNSUPPORTED_MESSAGE: &str = "is a service discovery that Narthex does not have";

/// The discovery mechanisms of a job, by kind in alphabetical order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DiscoveryConfigs(pub Vec<DiscoveryConfig>);

impl std::ops::Deref for DiscoveryConfigs {
    type Target = Vec<DiscoveryConfig>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DiscoveryConfigs {
    /// Refuses URLs in the place of addresses, for jobs that have no rules to mend them.
    pub(crate) fn check_static_addresses(&self) -> Result<(), Invalid> {
        for config in &self.0 {
            let DiscoveryConfig::Static(groups) = config else { continue };
            for (i, group) in groups.iter().enumerate() {
                for (j, target) in group.targets.iter().enumerate() {
                    check_address(target.value("__address__"))
                        .map_err(|message| Invalid::at(format!("static_configs[{i}].targets[{j}]"), message))?;
                }
            }
        }
        Ok(())
    }

    fn push<T: Yaml>(
        &mut self,
        key: &str,
        node: &Node,
        cx: &mut Context,
        wrap: impl Fn(T) -> DiscoveryConfig,
    ) -> Result<(), Fault> {
        for (i, item) in node.items().iter().enumerate() {
            if item.is_null() {
                return Err(
                    cx.within(&format!("[{i}]"), |cx| cx.fault(item, format!("empty or null section in {key}")))
                );
            }
        }
        let configs: Vec<T> = decode::value(node, cx)?.unwrap_or_default();
        self.0.extend(configs.into_iter().map(wrap));
        Ok(())
    }
}

/// Whether a text can be a target's address: a host and perhaps a port, not a URL.
///
/// # Errors
/// The text is Prometheus's.
pub fn check_address(address: &str) -> Result<(), String> {
    if address.contains('/') {
        return Err(format!("{} is not a valid hostname", narthex_model::labels::quote(address)));
    }
    Ok(())
}

/// `host:port`, with brackets around an IPv6 address (Go's `net.JoinHostPort`).
pub fn join_host_port(host: &str, port: impl std::fmt::Display) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

impl Yaml for DiscoveryConfigs {
    const GO_TYPE: &'static str = "discovery.Configs";

    fn zero() -> Self {
        DiscoveryConfigs::default()
    }

    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    fn decode(node: &Node, cx: &mut Context) -> Result<Self, Fault> {
        decode::section(node, cx)
    }

    fn print(&self) -> Out {
        let mut out = Vec::new();
        decode::Section::write(self, &mut out);
        Out::Map(out)
    }

    fn relocate(&mut self, dir: &Path) {
        for config in &mut self.0 {
            match config {
                DiscoveryConfig::Static(_) => {}
                DiscoveryConfig::File(c) => c.relocate(dir),
                DiscoveryConfig::Http(c) => c.relocate(dir),
                DiscoveryConfig::Dns(c) => c.relocate(dir),
                DiscoveryConfig::Consul(c) => c.relocate(dir),
                DiscoveryConfig::Docker(c) => c.relocate(dir),
                DiscoveryConfig::Nomad(c) => c.relocate(dir),
                DiscoveryConfig::Kubernetes(c) => c.relocate(dir),
            }
        }
    }
}

impl Check for DiscoveryConfigs {}

impl decode::Section for DiscoveryConfigs {
    const GO_TYPE: &'static str = "discovery.Configs";

    fn field(&mut self, key: &str, node: &Node, cx: &mut Context) -> Result<bool, Fault> {
        match key {
            "static_configs" => {
                let mut statics = DiscoveryConfigs::default();
                statics.push(key, node, cx, |group: TargetGroup| DiscoveryConfig::Static(vec![group]))?;
                let mut groups = Vec::new();
                for config in statics.0 {
                    if let DiscoveryConfig::Static(group) = config {
                        groups.extend(group);
                    }
                }
                for (i, group) in groups.iter_mut().enumerate() {
                    group.source = i.to_string();
                }
                if !groups.is_empty() {
                    self.0.push(DiscoveryConfig::Static(groups));
                }
            }
            "file_sd_configs" => self.push(key, node, cx, DiscoveryConfig::File)?,
            "http_sd_configs" => self.push(key, node, cx, |c| DiscoveryConfig::Http(Box::new(c)))?,
            "dns_sd_configs" => self.push(key, node, cx, DiscoveryConfig::Dns)?,
            "consul_sd_configs" => self.push(key, node, cx, |c| DiscoveryConfig::Consul(Box::new(c)))?,
            "docker_sd_configs" => self.push(key, node, cx, |c| DiscoveryConfig::Docker(Box::new(c)))?,
            "nomad_sd_configs" => self.push(key, node, cx, |c| DiscoveryConfig::Nomad(Box::new(c)))?,
            "kubernetes_sd_configs" => self.push(key, node, cx, |c| DiscoveryConfig::Kubernetes(Box::new(c)))?,
            _ => match key.strip_suffix("_sd_configs") {
                Some(kind) if UNSUPPORTED.contains(&kind) => {
                    cx.note(node, format!("{key} {UNSUPPORTED_MESSAGE}"));
                }
                _ => return Ok(false),
            },
        }
        // The kinds come in any order in the file, and one order here.
        self.0.sort_by_key(|c| c.kind());
        Ok(true)
    }

    fn write(&self, out: &mut Vec<(String, Out)>) {
        let mut lists: BTreeMap<String, Vec<Out>> = BTreeMap::new();
        for config in &self.0 {
            let key = match config {
                DiscoveryConfig::Static(_) => "static_configs".to_owned(),
                other => format!("{}_sd_configs", other.kind()),
            };
            let list = lists.entry(key).or_default();
            match config {
                DiscoveryConfig::Static(groups) => list.extend(groups.iter().map(Yaml::print)),
                DiscoveryConfig::File(c) => list.push(c.print()),
                DiscoveryConfig::Http(c) => list.push(c.print()),
                DiscoveryConfig::Dns(c) => list.push(c.print()),
                DiscoveryConfig::Consul(c) => list.push(c.print()),
                DiscoveryConfig::Docker(c) => list.push(c.print()),
                DiscoveryConfig::Nomad(c) => list.push(c.print()),
                DiscoveryConfig::Kubernetes(c) => list.push(c.print()),
            }
        }
        out.extend(lists.into_iter().map(|(key, list)| (key, Out::Seq(list))));
    }
}

section! {
    /// A group as files and `static_configs` write it.
    plain pub struct RawGroup = "targetgroup.Group" {
        keep "targets" targets: Vec<String>,
        omit "labels" labels: Labels,
    }
}

impl Yaml for TargetGroup {
    const GO_TYPE: &'static str = "targetgroup.Group";

    fn zero() -> Self {
        TargetGroup::default()
    }

    fn is_zero(&self) -> bool {
        *self == TargetGroup::default()
    }

    fn decode(node: &Node, cx: &mut Context) -> Result<Self, Fault> {
        Ok(RawGroup::decode(node, cx)?.into())
    }

    fn print(&self) -> Out {
        RawGroup {
            targets: self.targets.iter().map(|t| t.value("__address__").to_owned()).collect(),
            labels: self.labels.clone(),
        }
        .print()
    }
}

impl From<RawGroup> for TargetGroup {
    fn from(raw: RawGroup) -> TargetGroup {
        TargetGroup {
            source: String::new(),
            targets: raw.targets.into_iter().map(|address| Labels::from_pairs([("__address__", address)])).collect(),
            labels: raw.labels,
        }
    }
}

section! {
    /// `file_sd_configs`: target groups in files, read anew when they change.
    checked pub struct FileSdConfig = "file.SDConfig" {
        /// Patterns; only the last part of the path may hold `*`.
        keep "files" files: Vec<PathBuf>,
        omit "refresh_interval" refresh_interval: Duration = Duration::from_secs(300),
    }
}

impl Check for FileSdConfig {
    fn check(&mut self, _: &Node) -> Result<(), Invalid> {
        if self.files.is_empty() {
            return Err("file service discovery config must contain at least one path name".into());
        }
        for (i, file) in self.files.iter().enumerate() {
            let text = file.to_string_lossy();
            if !is_file_sd_pattern(&text) {
                let message =
                    format!("path name {} is not valid for file discovery", narthex_model::labels::quote(&text));
                return Err(Invalid::at(format!("files[{i}]"), message));
            }
        }
        Ok(())
    }
}

/// `^[^*]*(\*[^/]*)?\.(json|yml|yaml|JSON|YML|YAML)$`
fn is_file_sd_pattern(text: &str) -> bool {
    let Some((stem, extension)) = text.rsplit_once('.') else { return false };
    matches!(extension, "json" | "yml" | "yaml" | "JSON" | "YML" | "YAML")
        && stem.find('*').is_none_or(|star| !stem[star..].contains('/'))
}

section! {
    /// `http_sd_configs`: target groups as JSON from a URL.
    checked pub struct HttpSdConfig = "http.SDConfig" {
        inline "" http: HttpClientConfig,
        omit "refresh_interval" refresh_interval: Duration = Duration::from_secs(60),
        /// Shown without its password, which Prometheus shows.
        keep "url" url: WebUrl,
    }
}

impl Check for HttpSdConfig {
    fn check(&mut self, _: &Node) -> Result<(), Invalid> {
        if self.url.as_str().is_empty() {
            return Err("URL is missing".into());
        }
        if !matches!(self.url.scheme(), "http" | "https") {
            return Err(Invalid::at("url", "URL scheme must be 'http' or 'https'"));
        }
        if self.url.host().is_empty() {
            return Err(Invalid::at("url", "host is missing in URL"));
        }
        self.http.validate()
    }
}

section! {
    /// `dns_sd_configs`: one target per record.
    checked pub struct DnsSdConfig = "dns.SDConfig" {
        keep "names" names: Vec<String>,
        omit "refresh_interval" refresh_interval: Duration = Duration::from_secs(30),
        /// `SRV`, `A`, `AAAA`, `MX` or `NS` in any letter case.
        keep "type" kind: String = "SRV".into(),
        /// The targets' port; SRV records have their own.
        keep "port" port: i64,
    }
}

impl Check for DnsSdConfig {
    fn check(&mut self, _: &Node) -> Result<(), Invalid> {
        if self.names.is_empty() {
            return Err("DNS-SD config must contain at least one SRV record name".into());
        }
        match self.kind.to_uppercase().as_str() {
            "SRV" => Ok(()),
            "A" | "AAAA" | "MX" | "NS" if self.port != 0 => Ok(()),
            "A" | "AAAA" | "MX" | "NS" => {
                Err("a port is required in DNS-SD configs for all record types except SRV".into())
            }
            _ => Err(Invalid::at("type", format!("invalid DNS-SD records type {}", self.kind))),
        }
    }
}

section! {
    /// `consul_sd_configs`: instances of services from a Consul catalogue.
    checked pub struct ConsulSdConfig = "consul.SDConfig" {
        omit "server" server: String = "localhost:8500".into(),
        omit "path_prefix" path_prefix: String,
        omit "token" token: Secret,
        omit "datacenter" datacenter: String,
        omit "namespace" namespace: String,
        omit "partition" partition: String,
        omit "tag_separator" tag_separator: String = ",".into(),
        omit "scheme" scheme: String = "http".into(),
        omit "username" username: String,
        omit "password" password: Secret,
        keep "allow_stale" allow_stale: bool = true,
        omit "refresh_interval" refresh_interval: Duration = Duration::from_secs(30),
        /// Which services; all where empty.
        omit "services" services: Vec<String>,
        omit "tags" tags: Vec<String>,
        omit "node_meta" node_meta: BTreeMap<String, String>,
        omit "filter" filter: String,
        omit "health_filter" health_filter: String,
        inline "" http: HttpClientConfig,
    }
}

impl Check for ConsulSdConfig {
    fn check(&mut self, _: &Node) -> Result<(), Invalid> {
        if self.server.trim().is_empty() {
            return Err("consul SD configuration requires a server address".into());
        }
        if !self.username.is_empty() || !self.password.is_empty() {
            if self.http.basic_auth.is_some() {
                return Err(
                    "at most one of consul SD configuration username and password and basic auth can be configured"
                        .into(),
                );
            }
            self.http.basic_auth = Some(BasicAuth {
                username: self.username.clone(),
                password: self.password.clone(),
                ..BasicAuth::default()
            });
        }
        if !self.token.is_empty() && (self.http.authorization.is_some() || self.http.oauth2.is_some()) {
            return Err("at most one of consul SD token, authorization, or oauth2 can be configured".into());
        }
        self.http.validate()
    }
}

section! {
    /// A filter of the Docker API.
    plain pub struct DockerFilter = "moby.Filter" {
        keep "name" name: String,
        keep "values" values: Vec<String>,
    }
}

section! {
    /// `docker_sd_configs`: containers of one Docker daemon.
    checked pub struct DockerSdConfig = "moby.DockerSDConfig" {
        inline "" http: HttpClientConfig,
        /// `unix:///var/run/docker.sock`, `tcp://…`, `http://…`
        keep "host" host: String,
        keep "port" port: i64 = 80,
        keep "filters" filters: Vec<DockerFilter>,
        keep "host_networking_host" host_networking_host: String = "localhost".into(),
        keep "refresh_interval" refresh_interval: Duration = Duration::from_secs(60),
        keep "match_first_network" match_first_network: bool = true,
    }
}

impl Check for DockerSdConfig {
    fn check(&mut self, _: &Node) -> Result<(), Invalid> {
        if self.host.is_empty() {
            return Err("host missing".into());
        }
        WebUrl::parse(&self.host).map_err(|m| Invalid::at("host", m))?;
        self.http.validate()
    }
}

section! {
    /// `nomad_sd_configs`: services registered with Nomad.
    checked pub struct NomadSdConfig = "nomad.SDConfig" {
        keep "allow_stale" allow_stale: bool = true,
        inline "" http: HttpClientConfig,
        keep "namespace" namespace: String = "default".into(),
        keep "refresh_interval" refresh_interval: Duration = Duration::from_secs(60),
        keep "region" region: String = "global".into(),
        keep "server" server: String = "http://localhost:4646".into(),
        omit "tag_separator" tag_separator: String = ",".into(),
    }
}

impl Check for NomadSdConfig {
    fn check(&mut self, _: &Node) -> Result<(), Invalid> {
        if self.server.trim().is_empty() {
            return Err("nomad SD configuration requires a server address".into());
        }
        self.http.validate()
    }
}

/// What kind of object a Kubernetes discovery makes targets of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KubernetesRole {
    Node,
    Pod,
    Service,
    Endpoints,
    EndpointSlice,
    Ingress,
}

impl KubernetesRole {
    pub const ALL: [KubernetesRole; 6] = [
        KubernetesRole::Node,
        KubernetesRole::Pod,
        KubernetesRole::Service,
        KubernetesRole::Endpoints,
        KubernetesRole::EndpointSlice,
        KubernetesRole::Ingress,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            KubernetesRole::Node => "node",
            KubernetesRole::Pod => "pod",
            KubernetesRole::Service => "service",
            KubernetesRole::Endpoints => "endpoints",
            KubernetesRole::EndpointSlice => "endpointslice",
            KubernetesRole::Ingress => "ingress",
        }
    }

    /// The roles that selectors may name besides.
    fn selectors(self) -> &'static [&'static str] {
        match self {
            KubernetesRole::Pod => &["pod", "node"],
            KubernetesRole::Service => &["service"],
            KubernetesRole::EndpointSlice => &["pod", "service", "endpointslice"],
            KubernetesRole::Endpoints => &["pod", "service", "endpoints"],
            KubernetesRole::Node => &["node"],
            KubernetesRole::Ingress => &["ingress"],
        }
    }
}

impl Choice for KubernetesRole {
    const TYPE: &'static str = "kubernetes.Role";
    const ALL: &'static [Self] = &KubernetesRole::ALL;
    const ZERO: Self = KubernetesRole::Node;

    fn name(self) -> &'static str {
        self.as_str()
    }

    fn unknown(text: &str) -> String {
        format!("unknown Kubernetes SD role {}", narthex_model::labels::quote(text))
    }
}

section! {
    /// Narrows what is watched.
    plain pub struct KubernetesSelector = "kubernetes.SelectorConfig" {
        omit "role" role: Option<KubernetesRole>,
        omit "label" label: String,
        omit "field" field: String,
    }
}

section! {
    /// Which namespaces are watched; all where none is named.
    plain pub struct KubernetesNamespaces = "kubernetes.NamespaceDiscovery" {
        keep "own_namespace" own_namespace: bool,
        keep "names" names: Vec<String>,
    }
}

section! {
    /// Which further objects give labels.
    plain pub struct KubernetesAttachMetadata = "kubernetes.AttachMetadataConfig" {
        keep "node" node: bool,
        keep "namespace" namespace: bool,
        keep "deployment" deployment: bool,
        keep "job" job: bool,
        keep "cronjob" cronjob: bool,
    }
}

section! {
    /// `kubernetes_sd_configs`.
    checked pub struct KubernetesSdConfig = "kubernetes.SDConfig" {
        omit "api_server" api_server: Option<WebUrl>,
        /// Always set after the section was read.
        keep "role" role: Option<KubernetesRole>,
        keep "kubeconfig_file" kubeconfig_file: PathBuf,
        inline "" http: HttpClientConfig,
        omit "namespaces" namespaces: KubernetesNamespaces,
        omit "selectors" selectors: Vec<KubernetesSelector>,
        omit "attach_metadata" attach_metadata: KubernetesAttachMetadata,
    }
}

impl Check for KubernetesSdConfig {
    fn check(&mut self, _: &Node) -> Result<(), Invalid> {
        let Some(role) = self.role else {
            return Err("role missing (one of: pod, service, endpoints, endpointslice, node, ingress)".into());
        };
        self.http.validate()?;
        let kubeconfig = !self.kubeconfig_file.as_os_str().is_empty();
        let custom_http = self.http != HttpClientConfig::default();
        if self.api_server.is_some() && kubeconfig {
            return Err("cannot use 'kubeconfig_file' and 'api_server' simultaneously".into());
        }
        if kubeconfig && custom_http {
            return Err("cannot use a custom HTTP client configuration together with 'kubeconfig_file'".into());
        }
        if self.api_server.is_none() && custom_http {
            return Err("to use custom HTTP client configuration please provide the 'api_server' URL explicitly".into());
        }
        if self.api_server.is_some() && self.namespaces.own_namespace {
            return Err("cannot use 'api_server' and 'namespaces.own_namespace' simultaneously".into());
        }
        if kubeconfig && self.namespaces.own_namespace {
            return Err("cannot use 'kubeconfig_file' and 'namespaces.own_namespace' simultaneously".into());
        }
        let mut seen = Vec::new();
        for (i, selector) in self.selectors.iter().enumerate() {
            let name = selector.role.map_or("", KubernetesRole::as_str);
            let invalid = |message: String| Err(Invalid::at(format!("selectors[{i}]"), message));
            if seen.contains(&name) {
                return invalid(format!("duplicated selector role: {name}"));
            }
            seen.push(name);
            let allowed = role.selectors();
            if !allowed.contains(&name) {
                return invalid(format!("{} role supports only {} selectors", role.as_str(), allowed.join(", ")));
            }
            if let Err(message) = check_field_selector(&selector.field) {
                return invalid(message);
            }
            if let Err(message) = check_label_selector(&selector.label) {
                return invalid(message);
            }
        }
        Ok(())
    }
}

/// `a=b,c!=d`
fn check_field_selector(text: &str) -> Result<(), String> {
    for term in text.split(',').filter(|t| !t.is_empty()) {
        if !term.contains('=') {
            return Err(format!("invalid selector: '{text}'; can't understand '{term}'"));
        }
    }
    Ok(())
}

/// `a=b,c!=d,e in (x,y),!f,g>1`: that the text has this form; the API server has the last word.
fn check_label_selector(text: &str) -> Result<(), String> {
    let mut depth = 0i32;
    let mut terms = vec![String::new()];
    for c in text.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                terms.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = terms.last_mut() {
            last.push(c);
        }
    }
    let fail = |why: &str| Err(format!("unable to parse requirement: {why} in {}", narthex_model::labels::quote(text)));
    if depth != 0 {
        return fail("unbalanced parenthesis");
    }
    let name = |s: &str| {
        let s = s.trim();
        let name = s.rsplit_once('/').map_or(s, |(_, n)| n);
        let edge = |c: char| c.is_ascii_alphanumeric();
        !name.is_empty()
            && name.len() <= 63
            && name.starts_with(edge)
            && name.ends_with(edge)
            && name.chars().all(|c| edge(c) || matches!(c, '-' | '_' | '.'))
    };
    let value = |s: &str| s.trim().is_empty() || name(s) && !s.contains('/');
    for term in terms.iter().map(|t| t.trim()).filter(|t| !t.is_empty() || terms.len() > 1) {
        let words: Vec<&str> = term.split_whitespace().collect();
        let valid = if let Some(rest) = term.strip_prefix('!') {
            name(rest)
        } else if let Some(open) = term.find('(') {
            let head: Vec<&str> = term[..open].split_whitespace().collect();
            let list = term[open + 1..].trim_end().trim_end_matches(')');
            matches!(head.as_slice(), [key, "in" | "notin"] if name(key)) && list.split(',').all(value)
        } else if let Some((key, text)) = term.split_once("!=").or_else(|| term.split_once("==")) {
            name(key) && value(text)
        } else if let Some((key, text)) = term.split_once('=') {
            name(key) && value(text)
        } else if let Some((key, number)) = term.split_once(['<', '>']) {
            name(key) && number.trim().parse::<i64>().is_ok()
        } else {
            words.len() == 1 && name(term)
        };
        if !valid {
            return fail(&format!("invalid term '{term}'"));
        }
    }
    Ok(())
}
