//! `/federate`: the newest sample of each selected series, in an exposition format.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderMap, Response, StatusCode, header};
use narthex_model::labels::{is_legacy_metric_name, is_legacy_name, quote};
use narthex_model::{Histogram, Labels, is_stale};
use narthex_runtime::metrics::float;
use narthex_storage::{ErrorKind, SelectRequest, Series};

use crate::answer::{Body, Fill, PIECE, compressed, plain_error};
use crate::api::{Req, selector};
use crate::params::Time;
use crate::state::App;

/// How names that are not legacy ones are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escaping {
    Underscores,
    Dots,
    Values,
    AllowUtf8,
}

impl Escaping {
    fn as_str(self) -> &'static str {
        match self {
            Escaping::Underscores => "underscores",
            Escaping::Dots => "dots",
            Escaping::Values => "values",
            Escaping::AllowUtf8 => "allow-utf-8",
        }
    }
}

/// The escaping that an `Accept` header asks for along with text format 0.0.4.
fn negotiate(headers: &HeaderMap) -> Escaping {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    for clause in accept.split(',') {
        let mut parts = clause.split(';').map(str::trim);
        if !matches!(parts.next(), Some("text/plain" | "*/*" | "text/*")) {
            continue;
        }
        for parameter in parts {
            match parameter.split_once('=') {
                Some(("escaping", "allow-utf-8")) => return Escaping::AllowUtf8,
                Some(("escaping", "dots")) => return Escaping::Dots,
                Some(("escaping", "values")) => return Escaping::Values,
                _ => {}
            }
        }
    }
    Escaping::Underscores
}

fn escape_name(name: &str, how: Escaping, metric: bool) -> String {
    let legacy = if metric { is_legacy_metric_name(name) } else { is_legacy_name(name) };
    let allowed =
        |i: usize, c: char| c == '_' || c.is_ascii_alphabetic() || c == ':' && metric || c.is_ascii_digit() && i > 0;
    match how {
        Escaping::AllowUtf8 => name.to_owned(),
        Escaping::Underscores | Escaping::Values if legacy => name.to_owned(),
        Escaping::Underscores => name.chars().enumerate().map(|(i, c)| if allowed(i, c) { c } else { '_' }).collect(),
        Escaping::Dots => {
            let mut out = String::new();
            for (i, c) in name.chars().enumerate() {
                match c {
                    '_' => out.push_str("__"),
                    '.' => out.push_str("_dot_"),
                    c if allowed(i, c) => out.push(c),
                    _ => out.push_str("__"),
                }
            }
            out
        }
        Escaping::Values => {
            let mut out = String::from("U__");
            for (i, c) in name.chars().enumerate() {
                match c {
                    '_' => out.push_str("__"),
                    c if allowed(i, c) => out.push(c),
                    c => out.push_str(&format!("_{:x}_", c as u32)),
                }
            }
            out
        }
    }
}

fn escape_value(out: &mut Vec<u8>, value: &str) {
    for b in value.bytes() {
        match b {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'"' => out.extend_from_slice(b"\\\""),
            b => out.push(b),
        }
    }
}

enum Newest {
    Float(f64),
    Histogram(Arc<Histogram>),
}

struct Sample {
    labels: Labels,
    timestamp: i64,
    value: Newest,
}

fn newest(series: Series) -> Option<Sample> {
    let float = series.floats.timestamps.last().map(|t| (*t, series.floats.values.at(series.floats.len() - 1)));
    let histogram = series.histograms.timestamps.last().copied().zip(series.histograms.values.last().cloned());
    let (timestamp, value) = match (float, histogram) {
        (Some((t, _)), Some((th, h))) if th > t => (th, Newest::Histogram(h)),
        (Some((t, v)), _) => (t, Newest::Float(v)),
        (None, Some((t, h))) => (t, Newest::Histogram(h)),
        (None, None) => return None,
    };
    let stale = match &value {
        Newest::Float(v) => is_stale(*v),
        Newest::Histogram(h) => h.is_stale(),
    };
    (!stale).then_some(Sample { labels: series.labels, timestamp, value })
}

/// Writes samples that are sorted by metric name.
struct Page {
    samples: std::vec::IntoIter<Sample>,
    /// Sorted; `instance` is always there, empty if need be.
    external: Vec<(String, String)>,
    escaping: Escaping,
    last: Option<(String, bool)>,
}

impl Page {
    fn line(&self, out: &mut Vec<u8>, s: &Sample, name: &str, extra: Option<(&str, &str)>, value: &str) {
        let quoted = self.escaping == Escaping::AllowUtf8 && !is_legacy_metric_name(name);
        let mut first = true;
        if quoted {
            out.extend_from_slice(b"{\"");
            escape_value(out, name);
            out.push(b'"');
            first = false;
        } else {
            out.extend_from_slice(name.as_bytes());
        }
        let own = s.labels.iter().filter(|(n, _)| *n != narthex_model::METRIC_NAME);
        let added = self.external.iter().filter(|(n, _)| s.labels.get(n).is_none());
        for (label, value) in own.chain(added.map(|(n, v)| (n.as_str(), v.as_str()))).chain(extra) {
            out.push(if std::mem::replace(&mut first, false) { b'{' } else { b',' });
            let label = escape_name(label, self.escaping, false);
            if is_legacy_name(&label) {
                out.extend_from_slice(label.as_bytes());
            } else {
                out.extend_from_slice(quote(&label).as_bytes());
            }
            out.extend_from_slice(b"=\"");
            escape_value(out, value);
            out.push(b'"');
        }
        if !first {
            out.push(b'}');
        }
        out.push(b' ');
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(format!(" {}\n", s.timestamp).as_bytes());
    }

    /// A histogram with listed bounds becomes a classic one.
    fn classic(&self, out: &mut Vec<u8>, s: &Sample, name: &str, h: &Histogram) {
        let mut counts: Vec<f64> = vec![0.0; h.custom_values.len()];
        for bucket in h.positive() {
            if let Some(i) = h.custom_values.iter().position(|le| *le == bucket.upper) {
                counts[i] = bucket.count;
            }
        }
        let mut cumulative = 0.0;
        for (le, count) in h.custom_values.iter().zip(counts) {
            cumulative += count;
            self.line(out, s, &format!("{name}_bucket"), Some(("le", &float(*le))), &float(cumulative));
        }
        self.line(out, s, &format!("{name}_bucket"), Some(("le", "+Inf")), &float(h.count));
        self.line(out, s, &format!("{name}_sum"), None, &float(h.sum));
        self.line(out, s, &format!("{name}_count"), None, &float(h.count));
    }
}

impl Fill for Page {
    fn fill(&mut self, out: &mut Vec<u8>) -> bool {
        let end = out.len() + PIECE;
        while out.len() < end {
            let Some(s) = self.samples.next() else { return false };
            let name = escape_name(s.labels.metric_name(), self.escaping, true);
            let histogram = matches!(s.value, Newest::Histogram(_));
            if self.last.as_ref().is_none_or(|(n, h)| *n != name || *h != histogram) {
                let shown = if is_legacy_metric_name(&name) { name.clone() } else { quote(&name) };
                let kind = match &s.value {
                    Newest::Float(_) => "untyped",
                    Newest::Histogram(h) if h.counter_reset_hint == narthex_model::CounterResetHint::Gauge => {
                        "gaugehistogram"
                    }
                    Newest::Histogram(_) => "histogram",
                };
                out.extend_from_slice(format!("# TYPE {shown} {kind}\n").as_bytes());
                self.last = Some((name.clone(), histogram));
            }
            match &s.value {
                Newest::Float(v) => self.line(out, &s, &name, None, &float(*v)),
                Newest::Histogram(h) => self.classic(out, &s, &name, h),
            }
        }
        true
    }
}

pub async fn federate(app: Arc<App>, req: Req) -> Response<Body> {
    if let Some(fault) = &req.form.fault {
        return plain_error(StatusCode::BAD_REQUEST, &format!("error parsing form values: {fault}"));
    }
    let sets = match req.form.all("match[]").map(selector).collect::<Result<Vec<_>, _>>() {
        Ok(sets) => sets,
        Err(e) => return plain_error(StatusCode::BAD_REQUEST, &e),
    };
    let maxt = Time::now().ms();
    let mint = maxt - app.options.lookback_delta.as_millis() as i64;
    let mut by_labels: BTreeMap<Labels, Sample> = BTreeMap::new();
    for matchers in sets {
        let mut request = SelectRequest::new(matchers, mint, maxt);
        request.hints.latest_only = true;
        let selected = async {
            let set = app.storage.select(request).await?;
            if !set.warnings.is_empty() {
                app.metrics.federation_warnings.add(set.warnings.len() as f64);
            }
            set.collect_sorted()
        };
        match selected.await {
            Ok(series) => by_labels.extend(series.into_iter().filter_map(newest).map(|s| (s.labels.clone(), s))),
            Err(e) => {
                app.metrics.federation_errors.inc();
                let status = match e.kind {
                    ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
                    _ => StatusCode::INTERNAL_SERVER_ERROR,
                };
                return plain_error(status, &e.to_string());
            }
        }
    }
    // The text formats have no native histograms with exponential buckets; series without a name have no line.
    let shown = |s: &Sample| match &s.value {
        Newest::Histogram(h) if !h.uses_custom_buckets() => false,
        _ => !s.labels.metric_name().is_empty(),
    };
    let mut samples: Vec<Sample> = by_labels.into_values().filter(shown).collect();
    samples.sort_by(|a, b| a.labels.metric_name().cmp(b.labels.metric_name()));
    let view = app.view.load();
    let mut external: BTreeMap<String, String> =
        view.external_labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    external.entry("instance".into()).or_default();
    let escaping = negotiate(&req.headers);
    let page = Page { samples: samples.into_iter(), external: external.into_iter().collect(), escaping, last: None };
    let content_type = format!("text/plain; version=0.0.4; charset=utf-8; escaping={}", escaping.as_str());
    compressed(&req.headers, StatusCode::OK, &content_type, Box::new(page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped() {
        for (how, name, expected) in [
            (Escaping::Underscores, "a.b", "a_b"),
            (Escaping::Dots, "a.b_c", "a_dot_b__c"),
            (Escaping::Values, "a.b_c", "U__a_2e_b__c"),
            (Escaping::Values, "plain_name", "plain_name"),
            (Escaping::AllowUtf8, "a.b", "a.b"),
        ] {
            assert_eq!(escape_name(name, how, true), expected);
        }
    }

    #[test]
    fn a_page_has_types_external_labels_and_stamps() {
        let sample = |pairs: &[(&str, &str)], value| Sample {
            labels: Labels::from_pairs(pairs.iter().copied()),
            timestamp: 1000,
            value: Newest::Float(value),
        };
        let samples = vec![
            sample(&[("__name__", "a"), ("instance", "i"), ("x", "q\"\n")], 1e7),
            sample(&[("__name__", "a"), ("zone", "own")], f64::NAN),
            sample(&[("__name__", "b")], 1.5),
        ];
        let external = vec![("instance".to_owned(), String::new()), ("zone".to_owned(), "eu".to_owned())];
        let mut page = Page { samples: samples.into_iter(), external, escaping: Escaping::Underscores, last: None };
        let mut out = Vec::new();
        assert!(!page.fill(&mut out));
        let expected = "# TYPE a untyped\na{instance=\"i\",x=\"q\\\"\\n\",zone=\"eu\"} 1e+07 1000\n\
            a{zone=\"own\",instance=\"\"} NaN 1000\n# TYPE b untyped\nb{instance=\"\",zone=\"eu\"} 1.5 1000\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
