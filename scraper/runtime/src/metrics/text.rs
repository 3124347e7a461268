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

/// Reads what [`write_openmetrics`] or the `prometheus-client` crate wrote. Lines that are neither are left out: this
/// is no reader for pages of strangers.
pub fn parse_openmetrics(page: &str) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    for text in page.lines() {
        if let Some(rest) = text.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            let help = unescape(help);
            match families.last_mut().filter(|f| f.name == name) {
                Some(f) => f.help = help,
                None => families.push(Family::new(name, &help, Kind::Untyped)),
            }
        } else if let Some(rest) = text.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, ""));
            if families.last().is_none_or(|f| f.name != name) {
                families.push(Family::new(name, "", Kind::Untyped));
            }
            if let Some(f) = families.last_mut() {
                f.kind = match kind {
                    "counter" => Kind::Counter,
                    "gauge" => Kind::Gauge,
                    "histogram" => Kind::Histogram,
                    "summary" => Kind::Summary,
                    _ => Kind::Untyped,
                };
            }
        } else if !text.starts_with('#')
            && let (Some(f), Some((name, labels, value))) = (families.last_mut(), parse_line(text))
        {
            let suffix = name.strip_prefix(f.name.as_str()).unwrap_or("").to_owned();
            take(f, &suffix, labels, value);
        }
    }
    for f in &mut families {
        if f.kind == Kind::Counter && !f.name.ends_with("_total") {
            f.name.push_str("_total");
        }
    }
    families
}

fn take(f: &mut Family, suffix: &str, mut labels: Vec<(String, String)>, value: f64) {
    let special = match f.kind {
        Kind::Histogram => "le",
        Kind::Summary => "quantile",
        _ => {
            f.metrics.push(Metric { labels, value: Value::Single(value) });
            return;
        }
    };
    let at = labels.iter().position(|(n, _)| n == special).map(|i| labels.remove(i).1);
    if f.metrics.last().is_none_or(|m| m.labels != labels) {
        let value = if f.kind == Kind::Histogram {
            Value::Histogram { count: 0, sum: 0.0, buckets: Vec::new() }
        } else {
            Value::Summary { count: 0, sum: 0.0, quantiles: Vec::new() }
        };
        f.metrics.push(Metric { labels, value });
    }
    let at = at.and_then(|a| a.trim_start_matches('+').parse::<f64>().ok());
    match (f.metrics.last_mut().map(|m| &mut m.value), suffix, at) {
        (Some(Value::Histogram { buckets, .. }), "_bucket", Some(le)) if le.is_finite() => {
            buckets.push((le, value as u64));
        }
        (Some(Value::Summary { quantiles, .. }), "", Some(q)) => quantiles.push((q, value)),
        (Some(Value::Histogram { sum, .. } | Value::Summary { sum, .. }), "_sum", _) => *sum = value,
        (Some(Value::Histogram { count, .. } | Value::Summary { count, .. }), "_count", _) => *count = value as u64,
        _ => {}
    }
}

type Line<'a> = (&'a str, Vec<(String, String)>, f64);

fn parse_line(text: &str) -> Option<Line<'_>> {
    let end = text.find(['{', ' '])?;
    let name = &text[..end];
    let mut rest = &text[end..];
    let mut labels = Vec::new();
    if let Some(mut inner) = rest.strip_prefix('{') {
        loop {
            inner = inner.trim_start_matches(',');
            if let Some(after) = inner.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, after) = inner.split_once("=\"")?;
            let mut value = String::new();
            let mut chars = after.char_indices();
            let close = loop {
                match chars.next()? {
                    (i, '"') => break i,
                    (_, '\\') => match chars.next()?.1 {
                        'n' => value.push('\n'),
                        c => value.push(c),
                    },
                    (_, c) => value.push(c),
                }
            };
            labels.push((label.to_owned(), value));
            inner = &after[close + 1..];
        }
    }
    let number = rest.split_whitespace().next()?;
    Some((name, labels, number.trim_start_matches('+').parse().ok()?))
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some(c) => out.push(c),
                None => out.push('\\'),
            },
            c => out.push(c),
        }
    }
    out
}
