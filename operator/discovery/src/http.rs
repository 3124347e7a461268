//! `http_sd_configs`: groups as JSON from a URL.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderMap;
use ::http::header::{ACCEPT, HeaderName, HeaderValue};
use narthex_config::{HttpSdConfig, TargetGroup};
use narthex_model::Labels;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::client::{HttpClient, MAX_BODY};
use crate::metrics::SdMetrics;
use crate::refresh::{BoxFuture, Refresh};

pub(crate) struct HttpDiscovery {
    client: HttpClient,
    url: url::Url,
    /// As configured, without the password.
    shown: String,
    interval: Duration,
    last_len: usize,
    metrics: Arc<SdMetrics>,
}

/// A group as Go reads it: keys in any case, the last of a kind counts, what is null is empty.
#[derive(Default)]
struct JsonGroup {
    targets: Vec<String>,
    labels: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for JsonGroup {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<JsonGroup, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = JsonGroup;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a target group")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<JsonGroup, A::Error> {
                let mut group = JsonGroup::default();
                while let Some(key) = members.next_key::<String>()? {
                    if key.eq_ignore_ascii_case("targets") {
                        let targets: Option<Vec<Option<String>>> = members.next_value()?;
                        group.targets = targets.into_iter().flatten().map(Option::unwrap_or_default).collect();
                    } else if key.eq_ignore_ascii_case("labels") {
                        let labels: Option<BTreeMap<String, Option<String>>> = members.next_value()?;
                        group.labels = labels.into_iter().flatten().map(|(k, v)| (k, v.unwrap_or_default())).collect();
                    } else {
                        return Err(Error::custom(format_args!("json: unknown field {key:?}")));
                    }
                }
                Ok(group)
            }
        }
        from.deserialize_map(Members)
    }
}

/// Groups as JSON.
///
/// # Errors
/// When the text is no list of groups, or has other keys than `targets` and `labels`.
pub(crate) fn parse_json(text: &str) -> Result<Vec<TargetGroup>, String> {
    let groups: Option<Vec<Option<JsonGroup>>> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    groups
        .unwrap_or_default()
        .into_iter()
        .map(|group| {
            let JsonGroup { targets, labels } = group.ok_or("nil target group item found")?;
            if labels.contains_key("") {
                return Err("\"\" is not a valid label name".to_owned());
            }
            Ok(TargetGroup {
                source: String::new(),
                targets: targets.into_iter().map(|t| Labels::from_pairs([("__address__", t)])).collect(),
                labels: Labels::from_pairs(labels),
            })
        })
        .collect()
}

/// `application/json`, perhaps with `charset=utf-8`.
fn is_json(content_type: &str) -> bool {
    let lower = content_type.trim().to_ascii_lowercase();
    match lower.split_once(';') {
        None => lower == "application/json",
        Some((kind, rest)) => {
            kind == "application/json" && matches!(rest.trim_start(), "charset=utf-8" | "charset=\"utf-8\"")
        }
    }
}

impl HttpDiscovery {
    pub fn new(config: &HttpSdConfig, metrics: Arc<SdMetrics>) -> Result<HttpDiscovery, String> {
        Ok(HttpDiscovery {
            client: HttpClient::new(config.http.clone(), "http"),
            url: config.url.as_str().parse().map_err(|e| format!("parse {:?}: {e}", config.url.redacted()))?,
            shown: config.url.redacted(),
            interval: config.refresh_interval,
            last_len: 0,
            metrics,
        })
    }

    async fn ask(&mut self) -> Result<Vec<TargetGroup>, String> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let seconds = HeaderValue::from_str(&self.interval.as_secs_f64().to_string()).map_err(|e| e.to_string())?;
        headers.insert(HeaderName::from_static("x-prometheus-refresh-interval-seconds"), seconds);
        let answer = self.client.get(&self.url, headers, self.interval, MAX_BODY).await?;
        if answer.status.as_u16() != 200 {
            return Err(format!("server returned HTTP status {}", answer.status));
        }
        let content_type = answer.header("content-type");
        if !is_json(content_type) {
            return Err(format!("unsupported content type {content_type:?}"));
        }
        let mut groups = parse_json(&String::from_utf8_lossy(&answer.body))?;
        for (i, group) in groups.iter_mut().enumerate() {
            group.source = format!("{}:{i}", self.shown);
            let mut labels = group.labels.to_builder();
            labels.set("__meta_url", self.shown.as_str());
            group.labels = labels.build();
        }
        let len = groups.len();
        groups.extend(
            (len..self.last_len)
                .map(|i| TargetGroup { source: format!("{}:{i}", self.shown), ..TargetGroup::default() }),
        );
        self.last_len = len;
        Ok(groups)
    }
}

impl Refresh for HttpDiscovery {
    fn refresh(&mut self) -> BoxFuture<'_, Result<Vec<TargetGroup>, String>> {
        Box::pin(async move {
            let result = self.ask().await;
            if result.is_err() {
                self.metrics.http_failures.inc();
            }
            result
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types() {
        for (text, expected) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/json;charset=\"UTF-8\"", true),
            ("application/json; charset=latin1", false),
            ("text/plain", false),
            ("", false),
        ] {
            assert_eq!(is_json(text), expected, "{text}");
        }
    }

    #[test]
    fn groups() {
        let groups = parse_json(r#"[{"targets":["a:1","b"],"labels":{"x":"y"}},{"labels":null}]"#).unwrap();
        assert_eq!((groups.len(), groups[0].targets.len(), groups[0].labels.value("x")), (2, 2, "y"));
        assert!(groups[1].targets.is_empty());
        assert!(parse_json("null").unwrap().is_empty());
        for bad in ["{}", "[null]", r#"[{"target":[]}]"#, r#"[{"labels":{"a":1}}]"#, r#"[{"targets":[1]}]"#] {
            assert!(parse_json(bad).is_err(), "{bad}");
        }
    }
}
