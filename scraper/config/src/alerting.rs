//! `alerting`: which Alertmanagers get alerts, and how.

use std::time::Duration;

use narthex_model::{RelabelConfig, ValidationScheme};

use crate::Secret;
use crate::http_client::HttpClientConfig;
use crate::scrape::{no_null_rule, validate_rules};
use crate::sd::DiscoveryConfigs;
use crate::yaml::{Check, Invalid, Node, section};

section! {
    /// `alerting`.
    checked pub struct AlertingConfig = "config.AlertingConfig" {
        omit "alert_relabel_configs" alert_relabel_configs: Vec<RelabelConfig>,
        omit "alertmanagers" alertmanagers: Vec<AlertmanagerConfig>,
    }
}

impl Check for AlertingConfig {
    fn check(&mut self, node: &Node) -> Result<(), Invalid> {
        no_null_rule(node, "alert_relabel_configs", "empty or null alert relabeling rule")?;
        no_null_rule(node, "alertmanagers", "empty or null Alertmanager section")
    }
}

impl AlertingConfig {
    pub(crate) fn validate(&mut self, names: ValidationScheme) -> Result<(), Invalid> {
        validate_rules(&mut self.alert_relabel_configs, names, "alert_relabel_configs")?;
        for (i, manager) in self.alertmanagers.iter_mut().enumerate() {
            let below = |e: Invalid| e.below(&format!("alertmanagers[{i}]"));
            validate_rules(&mut manager.alert_relabel_configs, names, "alert_relabel_configs").map_err(below)?;
            validate_rules(&mut manager.relabel_configs, names, "relabel_configs").map_err(below)?;
        }
        Ok(())
    }
}

section! {
    /// Signing with AWS's Signature Version 4.
    checked pub struct SigV4Config = "sigv4.SigV4Config" {
        omit "region" region: String,
        omit "access_key" access_key: String,
        omit "secret_key" secret_key: Secret,
        omit "profile" profile: String,
        omit "role_arn" role_arn: String,
        omit "external_id" external_id: String,
        omit "use_fips_sts_endpoint" use_fips_sts_endpoint: bool,
        omit "service_name" service_name: String,
    }
}

impl Check for SigV4Config {
    fn check(&mut self, _: &Node) -> Result<(), Invalid> {
        if self.access_key.is_empty() != self.secret_key.is_empty() {
            return Err("must provide a AWS SigV4 Access key and Secret Key if credentials are specified in the \
                        SigV4 config"
                .into());
        }
        if !self.external_id.is_empty() && self.role_arn.is_empty() {
            return Err("external_id can only be used with role_arn".into());
        }
        Ok(())
    }
}

/// `api_version` of an Alertmanager: there is only `v2`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AlertmanagerApiV2;

impl crate::yaml::Yaml for AlertmanagerApiV2 {
    const GO_TYPE: &'static str = "config.AlertmanagerAPIVersion";

    fn zero() -> Self {
        AlertmanagerApiV2
    }

    fn is_zero(&self) -> bool {
        false
    }

    fn decode(node: &Node, cx: &mut crate::yaml::Context) -> Result<Self, crate::yaml::decode::Fault> {
        let text = String::decode(node, cx)?;
        if text != "v2" {
            return Err(cx.fault(node, format!("expected Alertmanager api version to be one of [v2] but got {text}")));
        }
        Ok(AlertmanagerApiV2)
    }

    fn print(&self) -> crate::yaml::Out {
        crate::yaml::Out::Text("v2".into())
    }
}

section! {
    /// One set of Alertmanagers.
    checked pub struct AlertmanagerConfig = "config.AlertmanagerConfig" {
        inline "" http: HttpClientConfig,
        omit "sigv4" sigv4: Option<SigV4Config>,
        omit "scheme" scheme: String = "http".into(),
        omit "path_prefix" path_prefix: String,
        omit "timeout" timeout: Duration = Duration::from_secs(10),
        keep "api_version" api_version: AlertmanagerApiV2,
        omit "relabel_configs" relabel_configs: Vec<RelabelConfig>,
        omit "alert_relabel_configs" alert_relabel_configs: Vec<RelabelConfig>,
        inline "" service_discovery: DiscoveryConfigs,
    }
}

impl Check for AlertmanagerConfig {
    fn check(&mut self, node: &Node) -> Result<(), Invalid> {
        self.http.validate()?;
        if self.http.has_credentials() && self.sigv4.is_some() {
            return Err("at most one of basic_auth, authorization, oauth2, & sigv4 must be configured".into());
        }
        if self.relabel_configs.is_empty() {
            self.service_discovery.check_static_addresses()?;
        }
        no_null_rule(node, "relabel_configs", "empty or null Alertmanager target relabeling rule")?;
        no_null_rule(node, "alert_relabel_configs", "empty or null Alertmanager alert relabeling rule")
    }
}
