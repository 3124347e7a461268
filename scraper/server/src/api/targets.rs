//! `/targets`, `/targets/metadata`, `/targets/relabel_steps`, `/scrape_pools`, `/alertmanagers`.

use std::collections::BTreeMap;
use std::sync::Arc;

use narthex_model::labels::quote;
use narthex_model::relabel::RelabelConfig;
use narthex_model::{Labels, Matcher, duration};
use serde::Serialize;
use serde_json::Value as Json;

use super::{Req, selector};
use crate::answer::{Answer, ApiError, ApiResult, ErrorType};
use crate::json::LabelsJson;
use crate::params::atoi;
use crate::state::{App, TargetStatus};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Discovery<'a> {
    active_targets: Vec<ActiveTarget<'a>>,
    dropped_targets: Vec<DroppedTarget<'a>>,
    dropped_target_counts: Option<&'a BTreeMap<String, u64>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ActiveTarget<'a> {
    discovered_labels: LabelsJson<'a>,
    labels: LabelsJson<'a>,
    scrape_pool: &'a str,
    scrape_url: String,
    global_url: String,
    last_error: &'a str,
    last_scrape: String,
    last_scrape_duration: serde_json::Number,
    health: &'a str,
    scrape_interval: String,
    scrape_timeout: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DroppedTarget<'a> {
    discovered_labels: LabelsJson<'a>,
    scrape_pool: &'a str,
}

/// A time in ms as Go's `time.Time` is written; none is Go's zero time.
pub fn rfc3339(ms: Option<i64>) -> String {
    let time = ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| "0001-01-01T00:00:00Z".into(), |t| t.to_string())
}

/// The URL at which others reach a target that this machine knows as `localhost`.
fn global_url(app: &App, target: &TargetStatus) -> String {
    let url = target.target.url();
    let Ok(mut parsed) = url::Url::parse(&url) else { return url };
    let host = parsed.host_str().unwrap_or("").trim_matches(['[', ']']).to_owned();
    if !matches!(host.as_str(), "127.0.0.1" | "localhost" | "::1") {
        return url;
    }
    let external = &app.options.external_url;
    let own_port = app.options.listen_address.rsplit(':').next().unwrap_or("");
    let port = parsed.port_or_known_default().map(|p| p.to_string()).unwrap_or_default();
    if port == own_port {
        let _ = parsed.set_scheme(external.scheme());
        let _ = parsed.set_port(external.port());
    }
    let _ = parsed.set_host(external.host_str());
    parsed.to_string()
}

pub async fn targets(app: Arc<App>, req: Req) -> ApiResult {
    let pool = req.url.get("scrapePool");
    let state = req.url.get("state").to_lowercase();
    let show = |kind: &str| matches!(state.as_str(), "" | "any") || state == kind;
    let mut active = if show("active") { (app.sources.targets)() } else { Vec::new() };
    active.retain(|t| pool.is_empty() || *t.target.pool == *pool);
    active.sort_by(|a, b| (&a.target.pool, &a.target.labels).cmp(&(&b.target.pool, &b.target.labels)));
    let mut dropped = if show("dropped") { (app.sources.dropped)() } else { Default::default() };
    dropped.targets.retain(|(p, _)| pool.is_empty() || p == pool);
    dropped.targets.sort();
    Answer::json(&Discovery {
        active_targets: active
            .iter()
            .map(|t| ActiveTarget {
                discovered_labels: LabelsJson(&t.target.discovered),
                labels: LabelsJson(&t.target.labels),
                scrape_pool: &t.target.pool,
                scrape_url: t.target.url(),
                global_url: global_url(&app, t),
                last_error: &t.last_error,
                last_scrape: rfc3339(t.last_scrape),
                last_scrape_duration: seconds(t.last_duration),
                health: t.health.as_str(),
                scrape_interval: duration::format(t.target.interval),
                scrape_timeout: duration::format(t.target.timeout),
                shard: t.shard.as_deref(),
            })
            .collect(),
        dropped_targets: dropped
            .targets
            .iter()
            .map(|(pool, labels)| DroppedTarget { discovered_labels: LabelsJson(labels), scrape_pool: pool })
            .collect(),
        dropped_target_counts: show("dropped").then_some(&dropped.counts),
    })
}

#[derive(Serialize)]
struct MetricMetadata<'a> {
    target: LabelsJson<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    metric: &'a str,
    #[serde(rename = "type")]
    metric_type: &'a str,
    help: &'a str,
    unit: &'a str,
}

pub async fn metadata(app: Arc<App>, req: Req) -> ApiResult {
    let limit = match req.get("limit") {
        "" => usize::MAX,
        text => {
            let limit = atoi(text).map_err(|_| ApiError::bad_data("limit must be a number"))?;
            usize::try_from(limit).unwrap_or(usize::MAX)
        }
    };
    let matchers = match req.get("match_target") {
        "" => Vec::new(),
        text => selector(text).map_err(|e| ApiError::parameter("match_target", e))?,
    };
    let metric = req.get("metric");
    let targets = (app.sources.target_metadata)();
    let mut out = Vec::new();
    for (target, entries) in targets.iter().filter(|(t, _)| Matcher::all_match(&matchers, &t.labels)) {
        if out.len() >= limit {
            break;
        }
        for entry in entries.iter().filter(|e| metric.is_empty() || e.metric == metric) {
            out.push(MetricMetadata {
                target: LabelsJson(&target.labels),
                metric: if metric.is_empty() { &entry.metric } else { "" },
                metric_type: entry.metadata.metric_type.as_str(),
                help: &entry.metadata.help,
                unit: &entry.metadata.unit,
            });
        }
    }
    Answer::json(&out)
}

#[derive(Serialize)]
struct Step<'a> {
    rule: Rule<'a>,
    output: BTreeMap<String, String>,
    keep: bool,
}

#[derive(Serialize)]
struct Rule<'a> {
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    source_labels: &'a [String],
    separator: &'a str,
    regex: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    modulus: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    target_label: &'a str,
    replacement: &'a str,
    action: &'a str,
}

/// Seconds as Go writes them: whole ones without a fraction.
fn seconds(d: std::time::Duration) -> serde_json::Number {
    match serde_json::Number::from_f64(d.as_secs_f64()) {
        Some(n) if d.subsec_nanos() > 0 => n,
        _ => d.as_secs().into(),
    }
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn rule(c: &RelabelConfig) -> Rule<'_> {
    Rule {
        source_labels: &c.source_labels,
        separator: &c.separator,
        regex: c.regex.as_str(),
        modulus: c.modulus,
        target_label: &c.target_label,
        replacement: &c.replacement,
        action: c.action.map_or("", |a| a.as_str()),
    }
}

/// Names and values from JSON.
///
/// # Errors
/// In the words of Go's `encoding/json`.
fn string_map(text: &str) -> Result<BTreeMap<String, String>, String> {
    let value: Json = serde_json::from_str(text).map_err(|e| {
        if e.is_eof() {
            return "unexpected end of JSON input".to_owned();
        }
        let at = text.split_inclusive('\n').take(e.line().saturating_sub(1)).map(str::len).sum::<usize>();
        let found = text.get(at + e.column().saturating_sub(1)..).and_then(|rest| rest.chars().next()).unwrap_or(' ');
        let place = match () {
            () if e.to_string().starts_with("trailing characters") => "after top-level value",
            () if e.to_string().starts_with("key must be a string") => "looking for beginning of object key string",
            () => "looking for beginning of value",
        };
        format!("invalid character {found:?} {place}")
    })?;
    let kind = |v: &Json| match v {
        Json::Bool(_) => "bool",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        _ => "object",
    };
    let map = match value {
        Json::Null => return Ok(BTreeMap::new()),
        Json::Object(map) => map,
        other => {
            return Err(format!("json: cannot unmarshal {} into Go value of type map[string]string", kind(&other)));
        }
    };
    let pairs = map.into_iter().map(|(name, value)| match value {
        Json::String(value) => Ok((name, value)),
        Json::Null => Ok((name, String::new())),
        other => Err(format!("json: cannot unmarshal {} into Go value of type string", kind(&other))),
    });
    pairs.collect()
}

pub async fn relabel_steps(app: Arc<App>, req: Req) -> ApiResult {
    let pool = req.get("scrapePool");
    if pool.is_empty() {
        return Err(ApiError::bad_data("no scrapePool parameter provided"));
    }
    let labels = req.get("labels");
    if labels.is_empty() {
        return Err(ApiError::bad_data("no labels parameter provided"));
    }
    let labels = string_map(labels).map_err(|e| ApiError::bad_data(format!("error parsing labels: {e}")))?;
    let view = app.view.load();
    let Some(rules) = view.relabel.get(pool) else {
        let text = format!("error retrieving scrape config: scrape pool {} not found", quote(pool));
        return Err(ApiError::bad_data(text));
    };
    let mut builder = Labels::from_pairs(labels).to_builder();
    let mut keep = true;
    let mut steps = Vec::with_capacity(rules.len());
    for config in rules {
        keep = keep && config.apply(&mut builder);
        let labels = if keep { builder.build() } else { Labels::empty() };
        let output = labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        steps.push(Step { rule: rule(config), output, keep });
    }
    Answer::json(&BTreeMap::from([("steps", steps)]))
}

pub async fn scrape_pools(app: Arc<App>, _: Req) -> ApiResult {
    let mut names = (app.sources.scrape_pools)();
    names.sort();
    Answer::json(&BTreeMap::from([("scrapePools", names)]))
}

/// One pool's configuration, secrets hidden.
pub async fn scrape_pool_config(app: Arc<App>, req: Req) -> ApiResult {
    let pool = req.get("scrapePool");
    if pool.is_empty() {
        return Err(ApiError::bad_data("no scrapePool parameter provided"));
    }
    match app.view.load().pools.get(pool) {
        Some(yaml) => Answer::json(&BTreeMap::from([("yaml", yaml)])),
        None => Err(ApiError::new(ErrorType::NotFound, format!("scrape pool {} not found", quote(pool)))),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Alertmanagers {
    active_alertmanagers: Vec<BTreeMap<&'static str, String>>,
    dropped_alertmanagers: Vec<BTreeMap<&'static str, String>>,
}

pub async fn alertmanagers(app: Arc<App>, _: Req) -> ApiResult {
    let (active, dropped) = (app.sources.alertmanagers)();
    let urls = |urls: Vec<String>| urls.into_iter().map(|url| BTreeMap::from([("url", url)])).collect();
    Answer::json(&Alertmanagers { active_alertmanagers: urls(active), dropped_alertmanagers: urls(dropped) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn durations_are_written_as_by_go() {
        let text = |ns: u64| seconds(Duration::from_nanos(ns)).to_string();
        assert_eq!([0, 1_500_000, 2_000_000_000].map(text), ["0", "0.0015", "2"]);
    }
}
