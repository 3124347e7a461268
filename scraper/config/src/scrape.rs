//! The `global` section and scrape jobs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use narthex_model::{Labels, RelabelConfig, ValidationScheme};

use crate::http_client::HttpClientConfig;
use crate::sd::DiscoveryConfigs;
use crate::size::ByteSize;
use crate::yaml::decode::{Fault, label_pairs};
use crate::yaml::node::Kind;
use crate::yaml::{Check, Choice, Context, Invalid, Node, Out, Yaml, section};

/// A format that a target may answer in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScrapeProtocol {
    PrometheusProto,
    PrometheusText0_0_4,
    PrometheusText1_0_0,
    OpenMetricsText0_0_1,
    OpenMetricsText1_0_0,
}

impl ScrapeProtocol {
    /// In the order in which messages list them.
    pub const ALL: [ScrapeProtocol; 5] = [
        ScrapeProtocol::OpenMetricsText0_0_1,
        ScrapeProtocol::OpenMetricsText1_0_0,
        ScrapeProtocol::PrometheusProto,
        ScrapeProtocol::PrometheusText0_0_4,
        ScrapeProtocol::PrometheusText1_0_0,
    ];

    /// What is asked for when nothing is configured, the most wanted first.
    pub const DEFAULT: [ScrapeProtocol; 4] = [
        ScrapeProtocol::OpenMetricsText1_0_0,
        ScrapeProtocol::OpenMetricsText0_0_1,
        ScrapeProtocol::PrometheusText1_0_0,
        ScrapeProtocol::PrometheusText0_0_4,
    ];

    /// The same for jobs with native histograms.
    pub const PROTO_FIRST: [ScrapeProtocol; 5] = [
        ScrapeProtocol::PrometheusProto,
        ScrapeProtocol::OpenMetricsText1_0_0,
        ScrapeProtocol::OpenMetricsText0_0_1,
        ScrapeProtocol::PrometheusText1_0_0,
        ScrapeProtocol::PrometheusText0_0_4,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            ScrapeProtocol::PrometheusProto => "PrometheusProto",
            ScrapeProtocol::PrometheusText0_0_4 => "PrometheusText0.0.4",
            ScrapeProtocol::PrometheusText1_0_0 => "PrometheusText1.0.0",
            ScrapeProtocol::OpenMetricsText0_0_1 => "OpenMetricsText0.0.1",
            ScrapeProtocol::OpenMetricsText1_0_0 => "OpenMetricsText1.0.0",
        }
    }

    /// What stands for it in an `Accept` header.
    pub fn header(self) -> &'static str {
        match self {
            ScrapeProtocol::PrometheusProto => {
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
            }
            ScrapeProtocol::PrometheusText0_0_4 => "text/plain;version=0.0.4",
            ScrapeProtocol::PrometheusText1_0_0 => "text/plain;version=1.0.0",
            ScrapeProtocol::OpenMetricsText0_0_1 => "application/openmetrics-text;version=0.0.1",
            ScrapeProtocol::OpenMetricsText1_0_0 => "application/openmetrics-text;version=1.0.0",
        }
    }

    fn from_name(name: &str) -> Result<ScrapeProtocol, String> {
        ScrapeProtocol::ALL.into_iter().find(|p| p.as_str() == name).ok_or_else(|| {
            let all: Vec<_> = ScrapeProtocol::ALL.iter().map(|p| p.as_str()).collect();
            format!("unknown scrape protocol {name}, supported: [{}]", all.join(" "))
        })
    }
}

impl fmt::Display for ScrapeProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Yaml for ScrapeProtocol {
    const GO_TYPE: &'static str = "config.ScrapeProtocol";

    fn is_nothing(text: &str) -> bool {
        text.is_empty()
    }

    fn zero() -> Self {
        ScrapeProtocol::PrometheusText0_0_4
    }

    fn is_zero(&self) -> bool {
        false
    }

    fn decode(node: &Node, cx: &mut Context) -> Result<Self, Fault> {
        let Kind::Scalar(scalar) = &node.kind else {
            cx.mismatch(node, Self::GO_TYPE);
            return Ok(Self::zero());
        };
        ScrapeProtocol::from_name(&scalar.text).map_err(|message| cx.fault(node, message))
    }

    fn print(&self) -> Out {
        Out::Text(self.as_str().into())
    }
}

/// `metric_name_escaping_scheme`: what is asked of a target whose names are not plain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EscapingScheme {
    /// Follows the name rules.
    #[default]
    Unset,
    AllowUtf8,
    Underscores,
    Dots,
    Values,
}

impl EscapingScheme {
    /// As configurations and the `escaping` parameter of `Accept` spell it; empty for `Unset`.
    pub fn as_str(self) -> &'static str {
        match self {
            EscapingScheme::Unset => "",
            EscapingScheme::AllowUtf8 => "allow-utf-8",
            EscapingScheme::Underscores => "underscores",
            EscapingScheme::Dots => "dots",
            EscapingScheme::Values => "values",
        }
    }
}

impl Choice for EscapingScheme {
    const TYPE: &'static str = "string";
    const ALL: &'static [Self] = &[
        EscapingScheme::Unset,
        EscapingScheme::AllowUtf8,
        EscapingScheme::Underscores,
        EscapingScheme::Dots,
        EscapingScheme::Values,
    ];
    const ZERO: Self = EscapingScheme::Unset;

    fn name(self) -> &'static str {
        self.as_str()
    }

    fn unknown(text: &str) -> String {
        format!(
            "unknown scrape config name escaping method specified, must be one of 'allow-utf-8', 'underscores', \
             'dots', or 'values', got {}",
            quote(text)
        )
    }
}

impl Choice for ValidationScheme {
    const TYPE: &'static str = "model.ValidationScheme";
    const ALL: &'static [Self] = &[ValidationScheme::Unset, ValidationScheme::Legacy, ValidationScheme::Utf8];
    const ZERO: Self = ValidationScheme::Unset;

    fn name(self) -> &'static str {
        self.as_str()
    }

    fn unknown(text: &str) -> String {
        format!("unrecognized ValidationScheme: {}", quote(text))
    }
}

section! {
    /// `global`: what jobs inherit. Limits of 0 are none.
    checked pub struct GlobalConfig = "config.GlobalConfig" {
        omit "scrape_interval" scrape_interval: Duration = Duration::from_secs(60),
        omit "scrape_timeout" scrape_timeout: Duration = Duration::from_secs(10),
        /// Empty: each job's own default.
        omit "scrape_protocols" scrape_protocols: Vec<ScrapeProtocol> = crate::features::default_protocols(),
        omit "evaluation_interval" evaluation_interval: Duration = Duration::from_secs(60),
        omit "rule_query_offset" rule_query_offset: Duration,
        omit "query_log_file" query_log_file: PathBuf,
        omit "scrape_failure_log_file" scrape_failure_log_file: PathBuf,
        omit "external_labels" external_labels: ExternalLabels,
        omit "body_size_limit" body_size_limit: ByteSize,
        omit "sample_limit" sample_limit: u64,
        omit "target_limit" target_limit: u64,
        omit "label_limit" label_limit: u64,
        omit "label_name_length_limit" label_name_length_limit: u64,
        omit "label_value_length_limit" label_value_length_limit: u64,
        omit "keep_dropped_targets" keep_dropped_targets: u64,
        omit "series_limit" series_limit: u64,
        omit "job_series_limit" job_series_limit: u64,
        omit "metric_name_validation_scheme" metric_name_validation_scheme: ValidationScheme = ValidationScheme::Utf8,
        omit "metric_name_escaping_scheme" metric_name_escaping_scheme: EscapingScheme = EscapingScheme::AllowUtf8,
        omit "scrape_native_histograms" scrape_native_histograms: Option<bool> = Some(false),
        omit "convert_classic_histograms_to_nhcb" convert_classic_histograms_to_nhcb: bool,
        omit "always_scrape_classic_histograms" always_scrape_classic_histograms: bool,
        omit "extra_scrape_metrics" extra_scrape_metrics: Option<bool> = Some(crate::features::extra_scrape_metrics()),
    }
}

fn quote(text: &str) -> String {
    narthex_model::labels::quote(text)
}

/// `external_labels` as the file has them, but with environment variables filled in. Those with empty values are shown
/// where the configuration is, and mean nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExternalLabels(pub(crate) BTreeMap<String, String>);

impl ExternalLabels {
    /// Those that have values.
    pub fn labels(&self) -> Labels {
        Labels::from_pairs(&self.0)
    }
}

impl Yaml for ExternalLabels {
    const GO_TYPE: &'static str = Labels::GO_TYPE;

    fn zero() -> Self {
        ExternalLabels::default()
    }

    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    fn decode(node: &Node, cx: &mut Context) -> Result<Self, Fault> {
        label_pairs(node, cx).map(ExternalLabels)
    }

    fn print(&self) -> Out {
        self.0.print()
    }
}

/// # Errors
/// When protocols repeat.
fn check_protocols(protocols: &[ScrapeProtocol]) -> Result<(), String> {
    for (i, protocol) in protocols.iter().enumerate() {
        if protocols[..i].contains(protocol) {
            let names: Vec<_> = protocols.iter().map(|p| p.as_str()).collect();
            return Err(format!("duplicated protocol in scrape_protocols, got [{}]", names.join(" ")));
        }
    }
    Ok(())
}

impl Check for GlobalConfig {
    /// Fills what the section leaves out: a section that is there does not start from the defaults, as
    /// `scrape_timeout` then follows `scrape_interval`.
    fn check(&mut self, node: &Node) -> Result<(), Invalid> {
        let given = |key: &str| node.get(key).is_some_and(|n| !n.is_null());
        let default = GlobalConfig::default();
        if self.metric_name_validation_scheme == ValidationScheme::Unset {
            self.metric_name_validation_scheme = ValidationScheme::Utf8;
        }
        if !given("metric_name_escaping_scheme") {
            self.metric_name_escaping_scheme = EscapingScheme::Unset;
        }
        for name in self.external_labels.0.keys() {
            if !self.metric_name_validation_scheme.is_valid_label_name(name) {
                return Err(Invalid::at("external_labels", format!("{} is not a valid label name", quote(name))));
            }
        }
        if self.scrape_interval.is_zero() {
            self.scrape_interval = default.scrape_interval;
        }
        if !given("scrape_timeout") {
            self.scrape_timeout = Duration::ZERO;
        }
        if self.scrape_timeout > self.scrape_interval {
            return Err(Invalid::at("scrape_timeout", "global scrape timeout greater than scrape interval"));
        }
        if self.scrape_timeout.is_zero() {
            self.scrape_timeout = default.scrape_timeout.min(self.scrape_interval);
        }
        if self.evaluation_interval.is_zero() {
            self.evaluation_interval = default.evaluation_interval;
        }
        self.scrape_native_histograms.get_or_insert(false);
        self.extra_scrape_metrics.get_or_insert_with(crate::features::extra_scrape_metrics);
        if given("scrape_protocols") && self.scrape_protocols.is_empty() {
            return Err(Invalid::at("scrape_protocols", "scrape_protocols cannot be empty for global config"));
        }
        if self.scrape_protocols.is_empty() {
            self.scrape_protocols = crate::features::default_protocols();
        }
        check_protocols(&self.scrape_protocols)
            .map_err(|m| Invalid::at("scrape_protocols", format!("{m} for global config")))
    }
}

section! {
    /// One entry of `scrape_configs`.
    ///
    /// What is left at its zero value (intervals, limits, protocols, options that are `None`) is filled from
    /// `global` by [`ScrapeConfig::validate`]; loading a file does that. Limits of 0 are none.
    checked pub struct ScrapeConfig = "config.ScrapeConfig" {
        keep "job_name" job_name: String,
        omit "honor_labels" honor_labels: bool,
        keep "honor_timestamps" honor_timestamps: bool = true,
        keep "track_timestamps_staleness" track_timestamps_staleness: bool,
        omit "params" params: BTreeMap<String, Vec<String>>,
        omit "scrape_interval" scrape_interval: Duration,
        omit "scrape_timeout" scrape_timeout: Duration,
        /// The most wanted first; never empty after validation.
        omit "scrape_protocols" scrape_protocols: Vec<ScrapeProtocol>,
        omit "fallback_scrape_protocol" fallback_scrape_protocol: Option<ScrapeProtocol>,
        omit "scrape_native_histograms" scrape_native_histograms: Option<bool>,
        omit "always_scrape_classic_histograms" always_scrape_classic_histograms: Option<bool>,
        omit "convert_classic_histograms_to_nhcb" convert_classic_histograms_to_nhcb: Option<bool>,
        omit "scrape_failure_log_file" scrape_failure_log_file: PathBuf,
        omit "metrics_path" metrics_path: String = "/metrics".into(),
        omit "scheme" scheme: String = "http".into(),
        keep "enable_compression" enable_compression: bool = true,
        omit "body_size_limit" body_size_limit: ByteSize,
        omit "sample_limit" sample_limit: u64,
        omit "target_limit" target_limit: u64,
        omit "label_limit" label_limit: u64,
        omit "label_name_length_limit" label_name_length_limit: u64,
        omit "label_value_length_limit" label_value_length_limit: u64,
        omit "native_histogram_bucket_limit" native_histogram_bucket_limit: u64,
        omit "native_histogram_min_bucket_factor" native_histogram_min_bucket_factor: f64,
        /// How many targets that relabelling dropped are remembered for the targets page; 0 for all.
        omit "keep_dropped_targets" keep_dropped_targets: u64,
        /// How many series one target may have; beyond it new ones are refused, those that are there go on. Narthex's own.
        omit "series_limit" series_limit: u64,
        /// The same for all targets of the job that a server or shard has, and of other jobs of its `series_limit_owner`.
        omit "job_series_limit" job_series_limit: u64,
        /// A beginning of the job's name, up to a slash, that jobs share which share the limit; the name itself where empty.
        omit "series_limit_owner" series_limit_owner: String,
        omit "metric_name_validation_scheme" metric_name_validation_scheme: ValidationScheme,
        omit "metric_name_escaping_scheme" metric_name_escaping_scheme: EscapingScheme,
        omit "extra_scrape_metrics" extra_scrape_metrics: Option<bool>,
        inline "" http: HttpClientConfig,
        omit "relabel_configs" relabel_configs: Vec<RelabelConfig>,
        omit "metric_relabel_configs" metric_relabel_configs: Vec<RelabelConfig>,
        inline "" service_discovery: DiscoveryConfigs,
    }
}

impl Check for ScrapeConfig {
    fn check(&mut self, node: &Node) -> Result<(), Invalid> {
        if self.job_name.is_empty() {
            return Err("job_name is empty".into());
        }
        if !self.owned_by(self.series_owner()) {
            let message = format!("series_limit_owner is not a beginning of the job's name {}", quote(&self.job_name));
            return Err(Invalid::at("series_limit_owner", message));
        }
        self.http.validate()?;
        if self.relabel_configs.is_empty() {
            self.service_discovery.check_static_addresses()?;
        }
        no_null_rule(node, "relabel_configs", "empty or null target relabeling rule in scrape config")?;
        no_null_rule(node, "metric_relabel_configs", "empty or null metric relabeling rule in scrape config")?;
        if node.get("scrape_protocols").is_some_and(|n| !n.is_null()) && self.scrape_protocols.is_empty() {
            return Err(Invalid::at(
                "scrape_protocols",
                format!("scrape_protocols cannot be empty for scrape config with job name {}", quote(&self.job_name)),
            ));
        }
        Ok(())
    }
}

/// Refuses an empty list item in place of a rule.
pub(crate) fn no_null_rule(node: &Node, key: &str, message: &str) -> Result<(), Invalid> {
    match node.null_item(key) {
        Some(i) => Err(Invalid::at(format!("{key}[{i}]"), message)),
        None => Ok(()),
    }
}

/// Validates the rules of a list; `key` is where they stand.
pub(crate) fn validate_rules(rules: &mut [RelabelConfig], names: ValidationScheme, key: &str) -> Result<(), Invalid> {
    for (i, rule) in rules.iter_mut().enumerate() {
        rule.validate(names).map_err(|message| Invalid::at(format!("{key}[{i}]"), message))?;
    }
    Ok(())
}

impl ScrapeConfig {
    /// Whose the job's budget of series is: its own, or of what it is a part of.
    pub fn series_owner(&self) -> &str {
        if self.series_limit_owner.is_empty() { &self.job_name } else { &self.series_limit_owner }
    }

    fn owned_by(&self, owner: &str) -> bool {
        self.job_name.strip_prefix(owner).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Fills what is unset from `global` and checks the whole, as Prometheus does.
    ///
    /// # Errors
    /// The text is Prometheus's; `at` says which key.
    pub fn validate(&mut self, global: &GlobalConfig) -> Result<(), Invalid> {
        let job = quote(&self.job_name);
        if self.scrape_interval.is_zero() {
            self.scrape_interval = global.scrape_interval;
        }
        if self.scrape_timeout > self.scrape_interval {
            return Err(Invalid::at(
                "scrape_timeout",
                format!("scrape timeout greater than scrape interval for scrape config with job name {job}"),
            ));
        }
        if self.scrape_timeout.is_zero() {
            self.scrape_timeout = global.scrape_timeout.min(self.scrape_interval);
        }
        if self.body_size_limit.0 == 0 {
            self.body_size_limit = global.body_size_limit;
        }
        for (limit, inherited) in [
            (&mut self.sample_limit, global.sample_limit),
            (&mut self.target_limit, global.target_limit),
            (&mut self.label_limit, global.label_limit),
            (&mut self.label_name_length_limit, global.label_name_length_limit),
            (&mut self.label_value_length_limit, global.label_value_length_limit),
            (&mut self.keep_dropped_targets, global.keep_dropped_targets),
            (&mut self.series_limit, global.series_limit),
            (&mut self.job_series_limit, global.job_series_limit),
        ] {
            if *limit == 0 {
                *limit = inherited;
            }
        }
        if self.scrape_failure_log_file.as_os_str().is_empty() {
            self.scrape_failure_log_file = global.scrape_failure_log_file.clone();
        }
        self.scrape_native_histograms = self.scrape_native_histograms.or(global.scrape_native_histograms);
        self.extra_scrape_metrics = self.extra_scrape_metrics.or(global.extra_scrape_metrics);
        if self.scrape_protocols.is_empty() {
            self.scrape_protocols = if !global.scrape_protocols.is_empty() {
                global.scrape_protocols.clone()
            } else if self.native_histograms() {
                ScrapeProtocol::PROTO_FIRST.to_vec()
            } else {
                ScrapeProtocol::DEFAULT.to_vec()
            };
        }
        check_protocols(&self.scrape_protocols)
            .map_err(|m| Invalid::at("scrape_protocols", format!("{m} for scrape config with job name {job}")))?;
        self.validate_names(global)?;
        self.convert_classic_histograms_to_nhcb.get_or_insert(global.convert_classic_histograms_to_nhcb);
        self.always_scrape_classic_histograms.get_or_insert(global.always_scrape_classic_histograms);
        let names = self.metric_name_validation_scheme;
        validate_rules(&mut self.relabel_configs, names, "relabel_configs")?;
        validate_rules(&mut self.metric_relabel_configs, names, "metric_relabel_configs")
    }

    /// The name rules, and from them how names are escaped.
    fn validate_names(&mut self, global: &GlobalConfig) -> Result<(), Invalid> {
        let follow = |names: ValidationScheme| match names {
            ValidationScheme::Legacy => EscapingScheme::Underscores,
            _ => EscapingScheme::AllowUtf8,
        };
        let inherited = self.metric_name_validation_scheme == ValidationScheme::Unset;
        if inherited {
            self.metric_name_validation_scheme = global.metric_name_validation_scheme;
        }
        if self.metric_name_escaping_scheme == EscapingScheme::Unset {
            self.metric_name_escaping_scheme = match global.metric_name_escaping_scheme {
                EscapingScheme::Unset if inherited => follow(global.metric_name_validation_scheme),
                scheme if inherited => scheme,
                _ => follow(self.metric_name_validation_scheme),
            };
        }
        if self.metric_name_escaping_scheme == EscapingScheme::AllowUtf8
            && self.metric_name_validation_scheme == ValidationScheme::Legacy
        {
            return Err(Invalid::at(
                "metric_name_escaping_scheme",
                "utf8 metric names requested but validation scheme is not set to UTF8",
            ));
        }
        Ok(())
    }

    /// Whether native histograms are scraped.
    pub fn native_histograms(&self) -> bool {
        self.scrape_native_histograms.unwrap_or(false)
    }

    /// Whether a classic histogram is kept beside its native form.
    pub fn classic_histograms(&self) -> bool {
        self.always_scrape_classic_histograms.unwrap_or(false)
    }

    /// Whether classic histograms become native ones with custom buckets.
    pub fn convert_to_nhcb(&self) -> bool {
        self.convert_classic_histograms_to_nhcb.unwrap_or(false)
    }

    /// Whether `scrape_timeout_seconds`, `scrape_sample_limit` and `scrape_body_size_bytes` are stored.
    pub fn extra_metrics(&self) -> bool {
        self.extra_scrape_metrics.unwrap_or(false)
    }
}
