//! Groups for those who read them: as text 0.0.4, as a Pushgateway's `/metrics` shows them, and as its query API does.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use narthex_model::labels::{is_legacy_metric_name, is_legacy_name, quote};
use narthex_model::number::format_g;
use serde_json::{Map, Value, json};

use super::groups::{Group, Stored};
use super::proto::{COUNTER, GAUGE, GAUGE_HISTOGRAM, HISTOGRAM, Metric, MetricFamily, SUMMARY, kind_name};

fn escape(out: &mut String, text: &str, quotes: bool) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            c => out.push(c),
        }
    }
}

fn name_text(name: &str) -> String {
    if is_legacy_metric_name(name) { name.to_owned() } else { quote(name) }
}

fn line(out: &mut String, name: &str, suffix: &str, metric: &Metric, extra: Option<(&str, f64)>, value: f64) {
    let name = format!("{name}{suffix}");
    let legacy = is_legacy_metric_name(&name);
    out.push_str(if legacy { &name } else { "{" });
    let mut separator = if legacy { '{' } else { ',' };
    if !legacy {
        out.push_str(&quote(&name));
    }
    let mut label = |out: &mut String, name: &str, value: &str| {
        out.push(separator);
        separator = ',';
        if is_legacy_name(name) {
            out.push_str(name)
        } else {
            out.push_str(&quote(name))
        }
        out.push_str("=\"");
        escape(out, value, true);
        out.push('"');
    };
    metric.label.iter().for_each(|l| label(out, &l.name, &l.value));
    if let Some((name, bound)) = extra {
        label(out, name, &format_g(bound));
    }
    if separator == ',' {
        out.push('}');
    }
    out.push(' ');
    // Zero has no sign on a page, as there.
    out.push_str(&format_g(if value == 0.0 { 0.0 } else { value }));
    out.push('\n');
}

fn metric_lines(out: &mut String, name: &str, kind: i32, metric: &Metric) {
    match (kind, &metric.summary, &metric.histogram) {
        (SUMMARY, Some(s), _) => {
            for q in &s.quantile {
                let quantile = q.quantile.unwrap_or(0.0);
                line(out, name, "", metric, Some(("quantile", quantile)), q.value.unwrap_or(0.0));
            }
            line(out, name, "_sum", metric, None, s.sample_sum.unwrap_or(0.0));
            line(out, name, "_count", metric, None, s.sample_count.unwrap_or(0) as f64);
        }
        (HISTOGRAM | GAUGE_HISTOGRAM, _, Some(h)) => {
            for b in &h.bucket {
                line(out, name, "_bucket", metric, Some(("le", b.upper_bound.unwrap_or(0.0))), b.count());
            }
            if !h.bucket.iter().any(|b| b.upper_bound == Some(f64::INFINITY)) {
                line(out, name, "_bucket", metric, Some(("le", f64::INFINITY)), h.count());
            }
            line(out, name, "_sum", metric, None, h.sample_sum.unwrap_or(0.0));
            line(out, name, "_count", metric, None, h.count());
        }
        _ => line(out, name, "", metric, None, metric.single()),
    }
}

/// All families of all groups, by name; of the helps of one name the first group's.
pub fn text<'a>(groups: impl Iterator<Item = &'a Group>) -> String {
    let mut families: BTreeMap<&str, Vec<&Arc<MetricFamily>>> = BTreeMap::new();
    for stored in groups.flat_map(|g| g.families.values()) {
        families.entry(&stored.family.name).or_default().push(&stored.family);
    }
    let mut out = String::new();
    for (name, parts) in families {
        let Some(first) = parts.first() else { continue };
        let shown = name_text(name);
        if let Some(help) = &first.help {
            out.push_str(&format!("# HELP {shown} "));
            escape(&mut out, help, false);
            out.push('\n');
        }
        let kind = match first.kind {
            COUNTER => "counter",
            GAUGE => "gauge",
            SUMMARY => "summary",
            HISTOGRAM | GAUGE_HISTOGRAM => "histogram",
            _ => "untyped",
        };
        out.push_str(&format!("# TYPE {shown} {kind}\n"));
        let mut metrics: Vec<&Metric> = parts.iter().flat_map(|f| &f.metric).collect();
        metrics.sort_by(|a, b| {
            let values = |m: &Metric| m.label.iter().map(|l| l.value.clone()).collect::<Vec<_>>();
            a.label.len().cmp(&b.label.len()).then_with(|| values(a).cmp(&values(b)))
        });
        metrics.iter().for_each(|m| metric_lines(&mut out, name, first.kind, m));
    }
    out
}

fn metric_json(metric: &Metric, kind: i32) -> Value {
    let labels: Map<String, Value> = metric.label.iter().map(|l| (l.name.clone(), json!(l.value))).collect();
    match (kind, &metric.summary, &metric.histogram) {
        (SUMMARY, Some(s), _) => {
            let quantile = |q: &super::proto::Quantile| {
                (format_g(q.quantile.unwrap_or(0.0)), json!(format_g(q.value.unwrap_or(0.0))))
            };
            let quantiles: Map<String, Value> = s.quantile.iter().map(quantile).collect();
            let sum = format_g(s.sample_sum.unwrap_or(0.0));
            json!({"labels": labels, "quantiles": quantiles, "count": s.sample_count.unwrap_or(0).to_string(), "sum": sum})
        }
        (HISTOGRAM, _, Some(h)) => {
            let count = |float: Option<f64>, integer: Option<u64>| match float {
                Some(v) if v > 0.0 => format_g(v),
                _ => integer.unwrap_or(0).to_string(),
            };
            let buckets = h.bucket.iter().map(|b| {
                let bound = format_g(b.upper_bound.unwrap_or(0.0));
                (bound, json!(count(b.cumulative_count_float, b.cumulative_count)))
            });
            let buckets: Map<String, Value> = buckets.collect();
            let (count, sum) = (count(h.sample_count_float, h.sample_count), format_g(h.sample_sum.unwrap_or(0.0)));
            json!({"labels": labels, "buckets": buckets, "count": count, "sum": sum})
        }
        _ => json!({"labels": labels, "value": format_g(metric.single())}),
    }
}

fn family_json(stored: &Stored) -> Value {
    let time = Timestamp::from_nanosecond(stored.time.into()).map(|t| t.to_string()).unwrap_or_default();
    let family = &stored.family;
    let metrics: Vec<Value> = family.metric.iter().map(|m| metric_json(m, family.kind)).collect();
    let mut out = json!({"time_stamp": time, "type": kind_name(family.kind), "metrics": metrics});
    if let (Some(help), Some(out)) = (family.help.as_ref().filter(|h| !h.is_empty()), out.as_object_mut()) {
        out.insert("help".to_owned(), json!(help));
    }
    out
}

/// A group as the query API shows it.
pub fn json(group: &Group) -> Value {
    let mut out = Map::new();
    for (name, stored) in &group.families {
        out.insert(name.clone(), family_json(stored));
    }
    let labels: Map<String, Value> = group.key.iter().map(|(n, v)| (n.clone(), json!(v))).collect();
    out.entry("labels").or_insert(Value::Object(labels));
    out.entry("last_push_successful").or_insert(json!(group.last_push_successful()));
    Value::Object(out)
}
