//! `/rules` and `/alerts`: filters and pages over what the rule manager knows. While there is none, both are empty.

use std::sync::Arc;

use narthex_model::{Labels, Matcher};
use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::answer::{Answer, ApiError, ApiResult};
use crate::api::targets::rfc3339;
use crate::api::{Req, selectors};
use crate::json::{self, LabelsJson};
use crate::params::parse_bool;
use crate::state::App;

/// A group of rules as it stands.
#[derive(Clone, Debug, Default)]
pub struct RuleGroup {
    pub name: String,
    pub file: String,
    pub rules: Vec<Rule>,
    /// Seconds.
    pub interval: f64,
    pub limit: u64,
    /// Seconds that the last evaluation took.
    pub evaluation_time: f64,
    /// Milliseconds since the epoch.
    pub last_evaluation: Option<i64>,
}

/// A rule as it stands.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    pub name: String,
    pub query: String,
    pub labels: Labels,
    /// `ok`, `err` or `unknown`.
    pub health: String,
    pub last_error: String,
    pub evaluation_time: f64,
    pub last_evaluation: Option<i64>,
    /// What only alerting rules have.
    pub alerting: Option<Alerting>,
}

#[derive(Clone, Debug, Default)]
pub struct Alerting {
    /// `inactive`, `pending`, `firing` or `unknown`.
    pub state: String,
    /// Seconds.
    pub duration: f64,
    /// Seconds.
    pub keep_firing_for: f64,
    pub annotations: Labels,
    pub alerts: Vec<Alert>,
}

#[derive(Clone, Debug, Default)]
pub struct Alert {
    pub labels: Labels,
    pub annotations: Labels,
    pub state: String,
    pub active_at: Option<i64>,
    pub keep_firing_since: Option<i64>,
    pub value: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AlertJson<'a> {
    labels: LabelsJson<'a>,
    annotations: LabelsJson<'a>,
    state: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    active_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_firing_since: Option<String>,
    value: String,
}

/// Go's `strconv.FormatFloat(v, 'e', -1, 64)`.
fn exponential(v: f64) -> String {
    if !v.is_finite() {
        let mut out = Vec::new();
        json::float(&mut out, v);
        return String::from_utf8_lossy(&out).into_owned();
    }
    let digits = format!("{v:e}");
    let (mantissa, exponent) = digits.split_once('e').unwrap_or((&digits, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

impl<'a> AlertJson<'a> {
    fn of(a: &'a Alert) -> AlertJson<'a> {
        AlertJson {
            labels: LabelsJson(&a.labels),
            annotations: LabelsJson(&a.annotations),
            state: &a.state,
            active_at: a.active_at.map(|t| rfc3339(Some(t))),
            keep_firing_since: a.keep_firing_since.map(|t| rfc3339(Some(t))),
            value: exponential(a.value),
        }
    }
}

fn rule_json(r: &Rule, with_alerts: bool) -> Json {
    let mut out = json!({
        "name": r.name,
        "query": r.query,
        "labels": LabelsJson(&r.labels),
        "health": r.health,
        "evaluationTime": r.evaluation_time,
        "lastEvaluation": rfc3339(r.last_evaluation),
        "type": if r.alerting.is_some() { "alerting" } else { "recording" },
    });
    if !r.last_error.is_empty() {
        out["lastError"] = json!(r.last_error);
    }
    if let Some(a) = &r.alerting {
        out["state"] = json!(a.state);
        out["duration"] = json!(a.duration);
        out["keepFiringFor"] = json!(a.keep_firing_for);
        out["annotations"] = json!(LabelsJson(&a.annotations));
        out["alerts"] = match with_alerts {
            true => json!(a.alerts.iter().map(AlertJson::of).collect::<Vec<_>>()),
            false => Json::Null,
        };
    }
    out
}

/// The token of a group: SHA-256 of its file and name, as in Prometheus, in hex.
fn token(group: &RuleGroup) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(format!("{};{}", group.file, group.name));
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

/// How many groups a page may hold (none: all), and the token of the first.
fn page(req: &Req) -> Result<(Option<usize>, &str), ApiError> {
    let (limit, next) = (req.url.get("group_limit"), req.url.get("group_next_token"));
    if limit.is_empty() {
        if !next.is_empty() {
            let text = "group_limit needs to be present in order to paginate over the groups";
            return Err(ApiError::parameter("group_next_token", text));
        }
        return Ok((None, ""));
    }
    let number: i32 = limit.parse().map_err(|_| {
        let digits = limit.strip_prefix(['+', '-']).unwrap_or(limit);
        let number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let what = if number { "value out of range" } else { "invalid syntax" };
        let quoted = narthex_model::labels::quote(limit);
        let text = format!("group_limit needs to be a valid number: strconv.ParseInt: parsing {quoted}: {what}");
        ApiError::parameter("group_limit", text)
    })?;
    if number <= 0 {
        return Err(ApiError::parameter("group_limit", "group_limit needs to be greater than 0"));
    }
    Ok((Some(number as usize), next))
}

pub async fn rules(app: Arc<App>, req: Req) -> ApiResult {
    req.parsed_form()?;
    let sets = selectors(req.form.all("match[]")).map_err(ApiError::bad_data)?;
    let kind = req.url.get("type").to_lowercase();
    if !matches!(kind.as_str(), "" | "alert" | "record") {
        return Err(ApiError::parameter("type", format!("not supported value {kind:?}")));
    }
    let exclude = match req.url.get("exclude_alerts").to_lowercase().as_str() {
        "" => false,
        text => parse_bool(text)
            .map_err(|e| ApiError::parameter("exclude_alerts", format!("error converting exclude_alerts: {e}")))?,
    };
    let (limit, next) = page(&req)?;
    let listed = |name: &str, value: &str| !req.form.has(name) || req.form.all(name).any(|v| v == value);
    let wanted = |r: &Rule| {
        (sets.is_empty() || sets.iter().any(|set| Matcher::all_match(set, &r.labels)))
            && listed("rule_name[]", &r.name)
            && (kind.is_empty() || (kind == "alert") == r.alerting.is_some())
    };
    let mut groups = Vec::new();
    let mut next_token = None;
    let mut found = next.is_empty();
    for group in &(app.sources.rules)() {
        if limit.is_some() && !found {
            if token(group) != next {
                continue;
            }
            found = true;
        }
        if !listed("rule_group[]", &group.name) || !listed("file[]", &group.file) {
            continue;
        }
        let rules: Vec<Json> = group.rules.iter().filter(|r| wanted(r)).map(|r| rule_json(r, !exclude)).collect();
        if rules.is_empty() {
            continue;
        }
        if limit.is_some_and(|n| groups.len() == n) {
            next_token = Some(token(group));
            break;
        }
        groups.push(json!({
            "name": group.name,
            "file": group.file,
            "rules": rules,
            "interval": group.interval,
            "limit": group.limit,
            "evaluationTime": group.evaluation_time,
            "lastEvaluation": rfc3339(group.last_evaluation),
        }));
    }
    if limit.is_some() && !found {
        let text = format!("invalid group_next_token '{next}'. were rule groups changed?");
        return Err(ApiError::parameter("group_next_token", text));
    }
    let mut out = json!({"groups": groups});
    if let Some(token) = next_token {
        out["groupNextToken"] = json!(token);
    }
    Answer::json(&out)
}

pub async fn alerts(app: Arc<App>, _: Req) -> ApiResult {
    let groups = (app.sources.rules)();
    let rules = groups.iter().flat_map(|g| &g.rules).filter_map(|r| r.alerting.as_ref());
    let alerts: Vec<AlertJson<'_>> = rules.flat_map(|a| &a.alerts).map(AlertJson::of).collect();
    Answer::json(&json!({"alerts": alerts}))
}
