//! The text formats 0.0.4 and OpenMetrics 1.0.

use super::{Family, Kind, Metric, Value};

pub const TEXT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
pub const OPENMETRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores";

/// As Go's `strconv.FormatFloat(v, 'g', -1, 64)` (not `%v`): an exponent below 1e-4 and from 1e6 on.
pub fn float(v: f64) -> String {
    if v.is_nan() {
        return "NaN".into();
    }
    if v.is_infinite() {
        return if v > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let digits = format!("{v:e}");
    let (mantissa, exponent) = digits.split_once('e').unwrap_or((&digits, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if v != 0.0 && !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    format!("{v}")
}

/// OpenMetrics floats hold a point or an exponent.
fn om_float(v: f64) -> String {
    let mut text = float(v);
    if v.is_finite() && !text.contains(['.', 'e']) {
        text.push_str(".0");
    }
    text
}

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

fn line(out: &mut String, name: &str, suffix: &str, metric: &Metric, extra: Option<(&str, &str)>, value: &str) {
    out.push_str(name);
    out.push_str(suffix);
    let own = metric.labels.iter().map(|(n, v)| (n.as_str(), v.as_str()));
    for (i, (label, text)) in own.chain(extra).enumerate() {
        out.push(if i == 0 { '{' } else { ',' });
        out.push_str(label);
        out.push_str("=\"");
        escape(out, text, true);
        out.push('"');
    }
    if !metric.labels.is_empty() || extra.is_some() {
        out.push('}');
    }
    out.push(' ');
    out.push_str(value);
    out.push('\n');
}

fn header(out: &mut String, word: &str, name: &str) {
    out.push_str(word);
    out.push_str(name);
    out.push(' ');
}

/// Appends families in text format 0.0.4.
pub fn write_text(out: &mut String, families: &[Family]) {
    for f in families {
        header(out, "# HELP ", &f.name);
        escape(out, &f.help, false);
        out.push('\n');
        header(out, "# TYPE ", &f.name);
        out.push_str(match f.kind {
            Kind::Counter => "counter\n",
            Kind::Gauge => "gauge\n",
            Kind::Histogram => "histogram\n",
            Kind::Summary => "summary\n",
            Kind::Untyped => "untyped\n",
        });
        for m in &f.metrics {
            sample(out, &f.name, "", m, float, float);
        }
    }
}

/// Appends families as OpenMetrics 1.0, `# EOF` included.
pub fn write_openmetrics(out: &mut String, families: &[Family]) {
    for f in families {
        let (name, suffix) = match f.kind {
            Kind::Counter => (f.name.strip_suffix("_total").unwrap_or(&f.name), "_total"),
            _ => (f.name.as_str(), ""),
        };
        header(out, "# HELP ", name);
        escape(out, &f.help, true);
        out.push('\n');
        header(out, "# TYPE ", name);
        out.push_str(match f.kind {
            Kind::Counter => "counter\n",
            Kind::Gauge => "gauge\n",
            Kind::Histogram => "histogram\n",
            Kind::Summary => "summary\n",
            Kind::Untyped => "unknown\n",
        });
        for m in &f.metrics {
            sample(out, name, suffix, m, om_float, om_float);
        }
    }
    out.push_str("# EOF\n");
}

fn sample(
    out: &mut String,
    name: &str,
    suffix: &str,
    m: &Metric,
    value: impl Fn(f64) -> String,
    bound: impl Fn(f64) -> String,
) {
    match &m.value {
        Value::Single(v) => line(out, name, suffix, m, None, &value(*v)),
        Value::Histogram { count, sum, buckets } => {
            for (le, n) in buckets {
                line(out, name, "_bucket", m, Some(("le", &bound(*le))), &n.to_string());
            }
            line(out, name, "_bucket", m, Some(("le", "+Inf")), &count.to_string());
            line(out, name, "_sum", m, None, &value(*sum));
            line(out, name, "_count", m, None, &count.to_string());
        }
        Value::Summary { count, sum, quantiles } => {
            for (q, v) in quantiles {
                line(out, name, "", m, Some(("quantile", &bound(*q))), &value(*v));
            }
            line(out, name, "_sum", m, None, &value(*sum));
            line(out, name, "_count", m, None, &count.to_string());
        }
    }
}
