//! From a job and its groups to targets: the border between jobs as they travel (JSON) and as they run.

use std::sync::Arc;
use std::time::Duration;

use narthex_config::{Target, TargetGroup};
use narthex_model::{Action, Labels, RelabelConfig, RelabelRegex, ValidationScheme, relabel};
use serde_json::Value;

/// The first `n` relabelling rules of a job; none if they are not valid (the whole job then says why).
pub fn leading_rules(job: &Value, n: usize) -> Vec<RelabelConfig> {
    let mut rules = rules(job).unwrap_or_default();
    rules.truncate(n);
    rules
}

/// Whether rules on the labels of a whole group keep it.
pub fn keeps(rules: &[RelabelConfig], labels: &Labels) -> bool {
    relabel::process(rules, &mut labels.to_builder())
}

fn rules(job: &Value) -> Result<Vec<RelabelConfig>, String> {
    let rules = job.get("relabel_configs").and_then(Value::as_array);
    rules.into_iter().flatten().map(rule).collect()
}

fn rule(value: &Value) -> Result<RelabelConfig, String> {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let mut rule = RelabelConfig::default();
    let sources = value.get("source_labels").and_then(Value::as_array);
    rule.source_labels = sources.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    if let Some(s) = text("separator") {
        rule.separator = s.to_owned();
    }
    if let Some(r) = text("regex") {
        rule.regex = RelabelRegex::new(r)?;
    }
    rule.modulus = value.get("modulus").and_then(Value::as_u64).unwrap_or(0);
    rule.target_label = text("target_label").unwrap_or_default().to_owned();
    if let Some(r) = text("replacement") {
        rule.replacement = r.to_owned();
    }
    if let Some(a) = text("action") {
        rule.action = Some(Action::from_name(a).ok_or_else(|| format!("unknown relabel action {a:?}"))?);
    }
    rule.validate(ValidationScheme::Utf8)?;
    Ok(rule)
}

/// The targets of a job, without duplicates. What relabelling drops and what has no valid address is left out.
///
/// # Errors
/// When the job is not valid, in words.
pub fn of_job(job: &Value, global: &Value, groups: &[Arc<TargetGroup>]) -> Result<Vec<Target>, String> {
    let text = |key: &str| job.get(key).and_then(Value::as_str).filter(|s| !s.is_empty());
    let rules = rules(job)?;
    let pool: Arc<str> = Arc::from(text("job_name").unwrap_or_default());
    let default = |key: &str, or: &str| -> String {
        let of_global = global.get(key).and_then(Value::as_str);
        text(key).or(of_global).unwrap_or(or).to_owned()
    };
    let interval = default("scrape_interval", "1m");
    let mut timeout = default("scrape_timeout", "10s");
    let ms = |text: &str| narthex_plan::check::duration_ms(text).filter(|ms| *ms > 0);
    if text("scrape_timeout").is_none() && ms(&timeout) > ms(&interval) {
        timeout.clone_from(&interval);
    }
    let mut out = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for group in groups {
        for target in &group.targets {
            let mut builder = group.labels.to_builder();
            for (name, value) in target.iter() {
                builder.set(name, value);
            }
            let defaults = [
                ("job", &*pool),
                ("__scrape_interval__", &interval),
                ("__scrape_timeout__", &timeout),
                ("__metrics_path__", text("metrics_path").unwrap_or("/metrics")),
                ("__scheme__", text("scheme").unwrap_or("http")),
            ];
            for (name, value) in defaults {
                if builder.get(name).is_none() {
                    builder.set(name, value);
                }
            }
            for (name, values) in job.get("params").and_then(Value::as_object).into_iter().flatten() {
                if let Some(first) = values.get(0).and_then(Value::as_str)
                    && builder.get(&format!("__param_{name}")).is_none()
                {
                    builder.set(format!("__param_{name}"), first);
                }
            }
            let discovered = builder.build();
            if !relabel::process(&rules, &mut builder) {
                continue;
            }
            let take = |name: &str| builder.get(name).unwrap_or_default().to_owned();
            let address = take("__address__");
            let (Some(interval), Some(timeout)) = (ms(&take("__scrape_interval__")), ms(&take("__scrape_timeout__")))
            else {
                continue;
            };
            if address.is_empty() || address.contains('/') || timeout > interval {
                continue;
            }
            let mut params: Vec<(String, String)> = Vec::new();
            for (name, values) in job.get("params").and_then(Value::as_object).into_iter().flatten() {
                let rest = values.as_array().into_iter().flatten().skip(1).filter_map(Value::as_str);
                params.extend(rest.map(|v| (name.clone(), v.to_owned())));
            }
            for (name, value) in builder.iter().filter_map(|(n, v)| Some((n.strip_prefix("__param_")?, v))) {
                let at = params.iter().position(|(n, _)| n == name).unwrap_or(params.len());
                params.insert(at, (name.to_owned(), value.to_owned()));
            }
            let (scheme, path) = (take("__scheme__"), take("__metrics_path__"));
            builder.retain(|name, _| !name.starts_with("__"));
            if builder.get("instance").is_none() {
                builder.set("instance", address.as_str());
            }
            let target = Target {
                pool: pool.clone(),
                labels: builder.build(),
                discovered,
                scheme,
                address,
                path,
                params,
                interval: Duration::from_millis(interval),
                timeout: Duration::from_millis(timeout),
            };
            if seen.insert(target.identity()) {
                out.push(target);
            }
        }
    }
    Ok(out)
}
