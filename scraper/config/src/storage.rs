//! `storage`, `tracing`, `otlp` and `runtime`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::http_client::TlsConfig;
use crate::remote::check_headers;
use crate::size::ByteSize;
use crate::yaml::{Check, Choice, Invalid, Node, section};

section! {
    /// `storage`.
    plain pub struct StorageConfig = "config.StorageConfig" {
        /// Always set after a file was loaded.
        omit "tsdb" tsdb: Option<TsdbConfig>,
        omit "exemplars" exemplars: Option<ExemplarsConfig>,
    }
}

section! {
    /// `storage.tsdb.retention`; zero values are not set.
    checked pub struct RetentionConfig = "config.TSDBRetentionConfig" {
        omit "time" time: Duration,
        omit "size" size: ByteSize,
        /// Of the disk, 0 to 100.
        omit "percentage" percentage: f64,
    }
}

impl Check for RetentionConfig {
    fn check(&mut self, _: &Node) -> Result<(), Invalid> {
        if self.size.0 < 0 {
            return Err(Invalid::at(
                "size",
                format!("'storage.tsdb.retention.size' must be greater than or equal to 0, got {}", self.size),
            ));
        }
        if self.percentage.is_nan() || !(0.0..=100.0).contains(&self.percentage) {
            return Err(Invalid::at(
                "percentage",
                format!(
                    "'storage.tsdb.retention.percentage' must be in the range [0, 100], got {}",
                    narthex_model::number::format_g(self.percentage)
                ),
            ));
        }
        Ok(())
    }
}

section! {
    /// `storage.tsdb.chunk_encoding`: read and checked, without effect on the group store.
    plain pub struct ChunkEncodingConfig = "config.ChunkEncodingConfig" {
        omit "floats" floats: String,
    }
}

section! {
    /// `storage.tsdb`.
    checked pub struct TsdbConfig = "config.TSDBConfig" {
        /// The window below in milliseconds, as Prometheus shows it.
        keep "outofordertimewindow" out_of_order_time_window_ms: i64,
        /// How far behind the newest sample of its series a sample may be.
        omit "out_of_order_time_window" out_of_order_time_window: Duration,
        omit "stale_series_compaction_threshold" stale_series_compaction_threshold: f64,
        omit "chunk_encoding" chunk_encoding: ChunkEncodingConfig,
        /// Always set after the section was read.
        omit "retention" retention: Option<RetentionConfig>,
    }
}

impl Check for TsdbConfig {
    fn check(&mut self, _: &Node) -> Result<(), Invalid> {
        self.out_of_order_time_window_ms = i64::try_from(self.out_of_order_time_window.as_millis()).unwrap_or(i64::MAX);
        if !matches!(self.chunk_encoding.floats.as_str(), "" | "xor" | "xor2") {
            return Err(Invalid::at(
                "chunk_encoding.floats",
                format!(
                    "'storage.tsdb.chunk_encoding.floats' must be 'xor' or 'xor2', or the field must be omitted \
                     entirely, got {}",
                    narthex_model::labels::quote(&self.chunk_encoding.floats)
                ),
            ));
        }
        self.retention.get_or_insert_default();
        Ok(())
    }
}

section! {
    /// `storage.exemplars`.
    plain pub struct ExemplarsConfig = "config.ExemplarsConfig" {
        /// How many are kept; 0 or less for none.
        omit "max_exemplars" max_exemplars: i64,
    }
}

/// How traces are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TracingClient {
    Http,
    Grpc,
}

impl Choice for TracingClient {
    const TYPE: &'static str = "config.TracingClientType";
    const ALL: &'static [Self] = &[TracingClient::Http, TracingClient::Grpc];
    const ZERO: Self = TracingClient::Grpc;

    fn name(self) -> &'static str {
        match self {
            TracingClient::Http => "http",
            TracingClient::Grpc => "grpc",
        }
    }

    fn unknown(text: &str) -> String {
        format!("expected tracing client type to be to be http or grpc, but got {text}")
    }
}

section! {
    /// `tracing`: where spans go by OTLP.
    checked pub struct TracingConfig = "config.TracingConfig" {
        omit "client_type" client_type: Option<TracingClient> = Some(TracingClient::Grpc),
        omit "endpoint" endpoint: String,
        omit "sampling_fraction" sampling_fraction: f64,
        omit "insecure" insecure: bool,
        omit "tls_config" tls_config: TlsConfig,
        omit "headers" headers: BTreeMap<String, String>,
        omit "compression" compression: String,
        omit "timeout" timeout: Duration,
    }
}

impl Check for TracingConfig {
    fn check(&mut self, _: &Node) -> Result<(), Invalid> {
        check_headers(&self.headers, "custom authorization header configuration is not yet supported")?;
        if self.endpoint.is_empty() {
            return Err("tracing endpoint must be set".into());
        }
        if !matches!(self.compression.as_str(), "" | "gzip") {
            return Err(Invalid::at(
                "compression",
                format!("invalid compression type {} provided, valid options: gzip", self.compression),
            ));
        }
        Ok(())
    }
}

/// `translation_strategy`: how OTLP names become metric names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TranslationStrategy {
    /// Explicitly empty.
    Unset,
    #[default]
    UnderscoreEscapingWithSuffixes,
    UnderscoreEscapingWithoutSuffixes,
    NoUtf8EscapingWithSuffixes,
    NoTranslation,
}

impl TranslationStrategy {
    pub fn as_str(self) -> &'static str {
        match self {
            TranslationStrategy::Unset => "",
            TranslationStrategy::UnderscoreEscapingWithSuffixes => "UnderscoreEscapingWithSuffixes",
            TranslationStrategy::UnderscoreEscapingWithoutSuffixes => "UnderscoreEscapingWithoutSuffixes",
            TranslationStrategy::NoUtf8EscapingWithSuffixes => "NoUTF8EscapingWithSuffixes",
            TranslationStrategy::NoTranslation => "NoTranslation",
        }
    }
}

impl Choice for TranslationStrategy {
    const TYPE: &'static str = "otlptranslator.TranslationStrategyOption";
    const ALL: &'static [Self] = &[
        TranslationStrategy::Unset,
        TranslationStrategy::UnderscoreEscapingWithSuffixes,
        TranslationStrategy::UnderscoreEscapingWithoutSuffixes,
        TranslationStrategy::NoUtf8EscapingWithSuffixes,
        TranslationStrategy::NoTranslation,
    ];
    const ZERO: Self = TranslationStrategy::Unset;

    fn name(self) -> &'static str {
        self.as_str()
    }

    fn unknown(text: &str) -> String {
        format!("unsupported OTLP translation strategy {}", narthex_model::labels::quote(text))
    }
}

section! {
    /// `otlp`: how what comes in by OTLP is translated.
    checked pub struct OtlpConfig = "config.OTLPConfig" {
        omit "promote_all_resource_attributes" promote_all_resource_attributes: bool,
        omit "promote_resource_attributes" promote_resource_attributes: Vec<String>,
        omit "ignore_resource_attributes" ignore_resource_attributes: Vec<String>,
        omit "translation_strategy" translation_strategy: TranslationStrategy,
        omit "keep_identifying_resource_attributes" keep_identifying_resource_attributes: bool,
        omit "convert_histograms_to_nhcb" convert_histograms_to_nhcb: bool,
        omit "promote_scope_metadata" promote_scope_metadata: bool,
        omit "label_name_underscore_sanitization" label_name_underscore_sanitization: bool = true,
        omit "label_name_preserve_multiple_underscores" label_name_preserve_multiple_underscores: bool = true,
    }
}

/// Trims the attributes; all that are empty or double go into one message.
fn sanitize(attributes: &mut [String], adjective: &str) -> Result<(), String> {
    let mut seen = std::collections::HashSet::new();
    let mut faults = Vec::new();
    for attribute in attributes {
        let trimmed = attribute.trim().to_owned();
        if trimmed.is_empty() {
            faults.push(format!("empty {adjective} OTel resource attribute"));
        } else if !seen.insert(trimmed.clone()) {
            faults.push(format!(
                "duplicated {adjective} OTel resource attribute {}",
                narthex_model::labels::quote(&trimmed)
            ));
        } else {
            *attribute = trimmed;
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

impl Check for OtlpConfig {
    fn check(&mut self, _: &Node) -> Result<(), Invalid> {
        if self.promote_all_resource_attributes {
            if !self.promote_resource_attributes.is_empty() {
                return Err(
                    "'promote_all_resource_attributes' and 'promote_resource_attributes' cannot be configured \
                            simultaneously"
                        .into(),
                );
            }
            sanitize(&mut self.ignore_resource_attributes, "ignored").map_err(|m| {
                Invalid::at("ignore_resource_attributes", format!("invalid 'ignore_resource_attributes': {m}"))
            })
        } else {
            if !self.ignore_resource_attributes.is_empty() {
                return Err("'ignore_resource_attributes' cannot be configured unless \
                            'promote_all_resource_attributes' is true"
                    .into());
            }
            sanitize(&mut self.promote_resource_attributes, "promoted").map_err(|m| {
                Invalid::at("promote_resource_attributes", format!("invalid 'promote_resource_attributes': {m}"))
            })
        }
    }
}

section! {
    /// `runtime`: read for compatibility; there is no garbage collector to set.
    plain pub struct RuntimeConfig = "config.RuntimeConfig" {
        omit "gogc" gogc: i64 = default_gogc(),
    }
}

/// What Prometheus would run with, so that both show the same.
fn default_gogc() -> i64 {
    match std::env::var("GOGC") {
        Ok(text) if text.eq_ignore_ascii_case("off") => -1,
        Ok(text) => text.parse().unwrap_or(75),
        Err(_) => 75,
    }
}
