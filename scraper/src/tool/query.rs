//! `tool query`: runs queries and prints what promtool prints.

use std::cmp::Ordering;
use std::time::Duration;

use narthex_model::labels::quote;
use narthex_model::number::{format_g, format_value};
use serde_json::{Map, Value};

use super::ask::Server;
use super::{Format, Outcome, text, texts};

/// Nanoseconds since the epoch.
pub fn parse_time(text: &str) -> Result<i128, String> {
    let time = narthex_server::params::parse_time(text);
    let time = time.map_err(|_| format!("cannot parse {} to a valid timestamp", quote(text)))?;
    Ok(i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos))
}

pub fn now() -> i128 {
    let now = narthex_server::params::Time::now();
    i128::from(now.secs) * 1_000_000_000 + i128::from(now.nanos)
}

/// Seconds as Prometheus's client sends them.
pub fn seconds(nanos: i128) -> String {
    format_value(nanos as f64 / 1e9)
}

fn time_of(m: &clap::ArgMatches, name: &str, what: &str) -> Result<Option<i128>, String> {
    text(m, name).map(parse_time).transpose().map_err(|e| format!("error parsing {what} time: {e}"))
}

/// Runs one of the subcommands.
pub fn run(kind: &str, m: &clap::ArgMatches) -> Outcome {
    let format = if text(m, "format") == Some("json") { Format::Json } else { Format::Promql };
    let headers = texts(m, "header");
    let server = text(m, "server").unwrap_or_default();
    let server = Server::new(server, text(m, "http.config.file"), &headers, Duration::from_secs(120));
    let server = server.map_err(|e| format!("error creating API client: {e:#}"))?;
    let matches = || texts(m, "match").into_iter().map(|s| ("match[]", s.to_owned()));
    let failed = |e: anyhow::Error| format!("query error: {e:#}");
    match kind {
        "instant" => {
            let time = time_of(m, "time", "evaluation")?.unwrap_or_else(now);
            let form = [("query", text(m, "expr").unwrap_or_default().to_owned()), ("time", seconds(time))];
            print_value(&server.api("query", &form, false, false).map_err(failed)?, format);
        }
        "range" => {
            let end = time_of(m, "end", "end")?.unwrap_or_else(now);
            let start = time_of(m, "start", "start")?.unwrap_or(end - 300_000_000_000);
            if start >= end {
                return Err("start time is not before end time".into());
            }
            let step = match text(m, "step") {
                Some(step) => {
                    let step = narthex_model::duration::parse(step);
                    step.map_err(|e| format!("--step: {e}"))?.as_secs_f64()
                }
                None => 0.0,
            };
            let step = if step > 0.0 { step } else { ((end - start) as f64 / 1e9 / 250.0).floor().max(1.0) };
            let form = [
                ("query", text(m, "expr").unwrap_or_default().to_owned()),
                ("start", seconds(start)),
                ("end", seconds(end)),
                ("step", format_value(step)),
            ];
            print_value(&server.api("query_range", &form, false, false).map_err(failed)?, format);
        }
        kind => {
            const FAR: i128 = 9999 * 3600 * 1_000_000_000;
            let start = time_of(m, "start", "start")?.unwrap_or_else(|| now() - FAR);
            let end = time_of(m, "end", "end")?.unwrap_or_else(|| now() + FAR);
            let form: Vec<_> =
                [("start", seconds(start)), ("end", seconds(end))].into_iter().chain(matches()).collect();
            if kind == "series" {
                print_series(&server.api("series", &form, false, false).map_err(failed)?, format);
            } else {
                let name = text(m, "name").unwrap_or_default();
                let path = format!("label/{name}/values");
                print_labels(&server.api(&path, &form, true, true).map_err(failed)?, format);
            }
        }
    }
    Ok(())
}

/// JSON as Go's encoder writes it: what HTML could take for markup is escaped.
pub fn go_json(value: &Value) -> String {
    let text = value.to_string();
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out
}

/// A series of a result, its parts in the order of Go's structs.
fn sample_json(sample: &Value) -> String {
    let ordered = |of: &Value, names: &[&str], each: &dyn Fn(&Value) -> String| {
        let there = names.iter().filter(|name| !of[**name].is_null());
        let parts: Vec<String> = there.map(|name| format!("\"{name}\":{}", each(&of[*name]))).collect();
        format!("{{{}}}", parts.join(","))
    };
    let point = |point: &Value| match &point[1] {
        histogram @ Value::Object(_) => {
            let parts = ordered(histogram, &["count", "sum", "buckets"], &go_json);
            format!("[{},{parts}]", go_json(&point[0]))
        }
        _ => go_json(point),
    };
    let points = |part: &Value| match part {
        Value::Array(all) if all.first().is_some_and(Value::is_array) => {
            format!("[{}]", all.iter().map(point).collect::<Vec<_>>().join(","))
        }
        Value::Array(_) => point(part),
        labels => go_json(labels),
    };
    ordered(sample, &["metric", "value", "histogram", "values", "histograms"], &points)
}

fn labels(metric: &Map<String, Value>) -> Vec<String> {
    let mut all: Vec<(&String, &str)> =
        metric.iter().map(|(name, value)| (name, value.as_str().unwrap_or_default())).collect();
    all.sort();
    all.into_iter().map(|(name, value)| format!("{name}={}", quote(value))).collect()
}

/// A metric as Go's `model.Metric` prints itself.
pub fn metric_text(metric: &Value) -> String {
    let mut rest = metric.as_object().cloned().unwrap_or_default();
    let name = rest.remove("__name__");
    let name = name.as_ref().and_then(Value::as_str);
    match (rest.is_empty(), name) {
        (true, Some(name)) => name.to_owned(),
        (true, None) => "{}".to_owned(),
        (false, name) => {
            let mut labels = labels(&rest);
            labels.sort();
            format!("{}{{{}}}", name.unwrap_or_default(), labels.join(", "))
        }
    }
}

fn number(value: &Value) -> f64 {
    let text = value.as_str().unwrap_or_default();
    text.trim_start_matches('+').parse().unwrap_or(f64::NAN)
}

/// `%f`: six decimals.
fn fixed(v: f64) -> String {
    if v.is_finite() { format!("{v:.6}") } else { format_value(v) }
}

fn pair(pair: &Value) -> String {
    let time = match &pair[0] {
        Value::Number(n) => format_value(n.as_f64().unwrap_or(f64::NAN)),
        other => other.to_string(),
    };
    let value = match &pair[1] {
        Value::Object(h) => {
            let bucket = |b: &Value| {
                let sides = b[0].as_i64().unwrap_or_default();
                let open = if sides == 1 || sides == 3 { '[' } else { '(' };
                let close = if sides == 0 || sides == 3 { ']' } else { ')' };
                let [lower, upper, count] = [number(&b[1]), number(&b[2]), number(&b[3])];
                format!("{open}{},{}{close}:{}", format_g(lower), format_g(upper), format_value(count))
            };
            let buckets = h.get("buckets").and_then(Value::as_array).into_iter().flatten();
            let buckets: Vec<String> = buckets.map(bucket).collect();
            let of = |name: &str| h.get(name).map_or(f64::NAN, number);
            format!("Count: {}, Sum: {}, Buckets: [{}]", fixed(of("count")), fixed(of("sum")), buckets.join(" "))
        }
        value => value.as_str().unwrap_or_default().to_owned(),
    };
    format!("{value} @[{time}]")
}

/// The order of Go's `model.Metric`: by the number of labels, then by name and value; who lacks a name comes first.
fn before(a: &Value, b: &Value) -> Ordering {
    let none = Map::new();
    let (a, b) = (a.as_object().unwrap_or(&none), b.as_object().unwrap_or(&none));
    let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
    names.sort();
    let text = |of: &Map<String, Value>, name: &str| of.get(name).and_then(Value::as_str).map(str::to_owned);
    let by_label = names.into_iter().map(|name| text(a, name).cmp(&text(b, name)));
    a.len().cmp(&b.len()).then_with(|| by_label.fold(Ordering::Equal, Ordering::then))
}

fn print_value(data: &Value, format: Format) {
    let result = &data["result"];
    if format == Format::Json {
        let mut out = String::new();
        let samples = matches!(data["resultType"].as_str(), Some("vector" | "matrix"));
        if let Some(all) = result.as_array().filter(|_| samples) {
            let all: Vec<String> = all.iter().map(sample_json).collect();
            out.push_str(&format!("[{}]", all.join(",")));
        } else {
            out.push_str(&go_json(result));
        }
        println!("{out}");
        return;
    }
    let list = || result.as_array().into_iter().flatten();
    let lines: Vec<String> = match data["resultType"].as_str() {
        Some("vector") => list()
            .map(|s| {
                let sample = if s["histogram"].is_null() { &s["value"] } else { &s["histogram"] };
                format!("{} => {}", metric_text(&s["metric"]), pair(sample))
            })
            .collect(),
        Some("matrix") => {
            let mut series: Vec<&Value> = list().collect();
            series.sort_by(|a, b| before(&a["metric"], &b["metric"]));
            series
                .into_iter()
                .map(|s| {
                    let points =
                        ["values", "histograms"].into_iter().flat_map(|k| s[k].as_array().into_iter().flatten());
                    let points: Vec<String> = points.map(pair).collect();
                    format!("{} =>\n{}", metric_text(&s["metric"]), points.join("\n"))
                })
                .collect()
        }
        Some("scalar") => vec![format!("scalar: {}", pair(result))],
        _ => vec![result[1].as_str().unwrap_or_default().to_owned()],
    };
    println!("{}", lines.join("\n"));
}

fn print_series(data: &Value, format: Format) {
    if format == Format::Json {
        println!("{}", go_json(data));
        return;
    }
    for series in data.as_array().into_iter().flatten() {
        println!("{{{}}}", labels(series.as_object().unwrap_or(&Map::new())).join(", "));
    }
}

fn print_labels(data: &Value, format: Format) {
    if format == Format::Json {
        println!("{}", go_json(data));
        return;
    }
    for value in data.as_array().into_iter().flatten() {
        println!("{}", value.as_str().unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_as_go_prints_them() {
        let metric: Value = serde_json::from_str(r#"{"__name__":"m","b":"2","a":"x\"<"}"#).unwrap();
        assert_eq!(metric_text(&metric), r#"m{a="x\"<", b="2"}"#);
        assert_eq!(metric_text(&serde_json::json!({})), "{}");
        assert_eq!(go_json(&metric), r#"{"__name__":"m","a":"x\"\u003c","b":"2"}"#);
        assert_eq!(pair(&serde_json::json!([1.5, "2"])), "2 @[1.5]");
        let histogram = serde_json::json!([2, {"count": "3", "sum": "1.5", "buckets": [[0, "1", "2", "3"]]}]);
        assert_eq!(pair(&histogram), "Count: 3.000000, Sum: 1.500000, Buckets: [(1,2]:3] @[2]");
    }
}
