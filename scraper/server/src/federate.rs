//! `/federate`: the newest sample of each selected series, in an exposition format.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use narthex_config::EscapingScheme;
use narthex_model::labels::{is_legacy_metric_name, is_legacy_name, quote};
use narthex_model::{CounterResetHint, Histogram, Labels, is_stale, protobuf, varint};
use narthex_storage::{ErrorKind, SelectRequest, Series, StorageError};

use crate::answer::{Body, Fill, PIECE, compressed, compressed_text};
use crate::api::{Req, refused, selector};
use crate::params::Time;
use crate::state::App;

/// How samples are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Text,
    /// `MetricFamily` messages, each behind its length.
    Protobuf,
}

impl Format {
    fn as_str(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }
}

/// What an `Accept` header asks for (client_golang's `expfmt.Negotiate`): clauses by quality, the first known one
/// counts, with the last escaping that is named until then.
fn negotiate(headers: &HeaderMap) -> (Format, EscapingScheme) {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let mut clauses: Vec<(f64, &str, Vec<(&str, &str)>)> = Vec::new();
    for clause in accept.split(',') {
        let mut parts = clause.split(';').map(str::trim);
        let media = parts.next().unwrap_or("");
        let parameters: Vec<(&str, &str)> = parts.filter_map(|p| p.split_once('=')).collect();
        let quality = parameters.iter().find(|(n, _)| *n == "q").and_then(|(_, q)| q.parse().ok()).unwrap_or(1.0);
        clauses.push((quality, media, parameters));
    }
    clauses.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut escaping = EscapingScheme::Underscores;
    for (_, media, parameters) in &clauses {
        let parameter =
            |name: &str| parameters.iter().find(|(n, _)| *n == name).map_or("", |(_, v)| v.trim_matches('"'));
        let all =
            [EscapingScheme::Underscores, EscapingScheme::Dots, EscapingScheme::Values, EscapingScheme::AllowUtf8];
        if let Some(named) = all.into_iter().find(|e| e.as_str() == parameter("escaping")) {
            escaping = named;
        }
        let family = parameter("proto") == "io.prometheus.client.MetricFamily" && parameter("encoding") == "delimited";
        match *media {
            "application/vnd.google.protobuf" if family => return (Format::Protobuf, escaping),
            "text/plain" if matches!(parameter("version"), "" | "0.0.4") => return (Format::Text, escaping),
            _ => {}
        }
    }
    (Format::Text, escaping)
}

/// The Content-Type of a page of text with no names that need escapes.
pub fn text_type(headers: &HeaderMap) -> String {
    format!("{}; escaping={}", Format::Text.as_str(), negotiate(headers).1.as_str())
}

fn escape_name(name: &str, how: EscapingScheme, metric: bool) -> String {
    let legacy = if metric { is_legacy_metric_name(name) } else { is_legacy_name(name) };
    let allowed =
        |i: usize, c: char| c == '_' || c.is_ascii_alphabetic() || c == ':' && metric || c.is_ascii_digit() && i > 0;
    match how {
        EscapingScheme::AllowUtf8 | EscapingScheme::Unset => name.to_owned(),
        // Families are escaped where they need it, whatever the scheme says of names by themselves.
        _ if legacy => name.to_owned(),
        EscapingScheme::Underscores => {
            name.chars().enumerate().map(|(i, c)| if allowed(i, c) { c } else { '_' }).collect()
        }
        EscapingScheme::Dots => {
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
        EscapingScheme::Values => {
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

/// A number as client_golang writes it: zero has no sign.
fn float(v: f64) -> String {
    if v == 0.0 { "0".to_owned() } else { narthex_runtime::metrics::float(v) }
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

/// The type of a family, as the formats name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Untyped,
    Histogram,
    GaugeHistogram,
}

impl Kind {
    fn of(value: &Newest) -> Kind {
        match value {
            Newest::Float(_) => Kind::Untyped,
            Newest::Histogram(h) if h.counter_reset_hint == CounterResetHint::Gauge => Kind::GaugeHistogram,
            Newest::Histogram(_) => Kind::Histogram,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Kind::Untyped => "untyped",
            Kind::Histogram => "histogram",
            Kind::GaugeHistogram => "gaugehistogram",
        }
    }

    /// `io.prometheus.client.MetricType`.
    fn number(self) -> u64 {
        match self {
            Kind::Untyped => 3,
            Kind::Histogram => 4,
            Kind::GaugeHistogram => 5,
        }
    }
}

/// Writes samples that are sorted by metric name.
struct Page {
    samples: std::iter::Peekable<std::vec::IntoIter<Sample>>,
    format: Format,
    /// Sorted; `instance` is always there, empty if need be.
    external: Vec<(String, String)>,
    escaping: EscapingScheme,
    last: Option<(String, Kind)>,
}

impl Page {
    fn line(&self, out: &mut Vec<u8>, s: &Sample, name: &str, extra: Option<(&str, &str)>, value: &str) {
        let quoted = self.escaping == EscapingScheme::AllowUtf8 && !is_legacy_metric_name(name);
        let mut first = true;
        if quoted {
            out.extend_from_slice(b"{\"");
            escape_value(out, name);
            out.push(b'"');
            first = false;
        } else {
            out.extend_from_slice(name.as_bytes());
        }
        let extra = extra.map(|(n, v)| (n.to_owned(), v));
        for (label, value) in self.labels(s).chain(extra) {
            out.push(if std::mem::replace(&mut first, false) { b'{' } else { b',' });
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
        for (le, cumulative) in classic_buckets(h) {
            self.line(out, s, &format!("{name}_bucket"), Some(("le", &float(le))), &float(cumulative));
        }
        self.line(out, s, &format!("{name}_bucket"), Some(("le", "+Inf")), &float(h.count));
        self.line(out, s, &format!("{name}_sum"), None, &float(h.sum));
        self.line(out, s, &format!("{name}_count"), None, &float(h.count));
    }
}

/// Bytes of a family's message after which another one of the same name begins.
const MAX_FAMILY: usize = 1 << 20;

impl Page {
    /// The labels of a sample, escaped, with the external ones that it does not have itself.
    fn labels<'a>(&'a self, s: &'a Sample) -> impl Iterator<Item = (String, &'a str)> + 'a {
        let own = s.labels.iter().filter(|(n, _)| *n != narthex_model::METRIC_NAME);
        let added = self.external.iter().filter(|(n, _)| s.labels.get(n).is_none());
        let all = own.chain(added.map(|(n, v)| (n.as_str(), v.as_str())));
        all.map(|(n, v)| (escape_name(n, self.escaping, false), v))
    }

    /// The next family as a message behind its length.
    fn family(&mut self, out: &mut Vec<u8>) {
        let Some(first) = self.samples.next() else { return };
        let (name, kind) = (first.labels.metric_name().to_owned(), Kind::of(&first.value));
        let mut message = Vec::new();
        protobuf::bytes_field(&mut message, 1, escape_name(&name, self.escaping, true).as_bytes());
        protobuf::varint_field(&mut message, 3, kind.number());
        let mut next = Some(first);
        while let Some(s) = next {
            protobuf::message(&mut message, 4, |out| self.metric(out, &s));
            let same = |s: &Sample| s.labels.metric_name() == name && Kind::of(&s.value) == kind;
            next = if message.len() < MAX_FAMILY { self.samples.next_if(same) } else { None };
        }
        varint::put(out, message.len() as u64);
        out.extend_from_slice(&message);
    }

    /// `io.prometheus.client.Metric`. Fields that are set are written, zeros too.
    fn metric(&self, out: &mut Vec<u8>, s: &Sample) {
        for (name, value) in self.labels(s) {
            protobuf::message(out, 1, |out| {
                protobuf::bytes_field(out, 1, name.as_bytes());
                protobuf::bytes_field(out, 2, value.as_bytes());
            });
        }
        if let Newest::Float(v) = &s.value {
            protobuf::message(out, 5, |out| protobuf::double(out, 1, *v));
        }
        protobuf::varint_field(out, 6, s.timestamp as u64);
        if let Newest::Histogram(h) = &s.value {
            protobuf::message(out, 7, |out| proto_histogram(out, h));
        }
    }
}

/// `io.prometheus.client.Histogram`, classic for listed bounds, else native.
fn proto_histogram(out: &mut Vec<u8>, h: &Histogram) {
    protobuf::double(out, 2, h.sum);
    if h.uses_custom_buckets() {
        for (le, cumulative) in classic_buckets(h) {
            protobuf::message(out, 3, |out| {
                protobuf::double(out, 2, le);
                protobuf::double(out, 4, cumulative);
            });
        }
        return protobuf::double(out, 4, h.count);
    }
    protobuf::double(out, 4, h.count);
    protobuf::signed(out, 5, i64::from(h.schema));
    protobuf::double(out, 6, h.zero_threshold);
    protobuf::double(out, 8, h.zero_count);
    for (spans, counts, number) in
        [(&h.negative_spans, &h.negative_buckets, 9), (&h.positive_spans, &h.positive_buckets, 12)]
    {
        for span in spans {
            protobuf::message(out, number, |out| {
                protobuf::signed(out, 1, i64::from(span.offset));
                protobuf::varint_field(out, 2, u64::from(span.length));
            });
        }
        counts.iter().for_each(|c| protobuf::double(out, number + 2, *c));
    }
}

/// Upper bounds and cumulative counts of a histogram with listed bounds, without +Inf.
fn classic_buckets(h: &Histogram) -> Vec<(f64, f64)> {
    let mut counts: Vec<f64> = vec![0.0; h.custom_values.len()];
    for bucket in h.positive() {
        if let Some(i) = h.custom_values.iter().position(|le| *le == bucket.upper) {
            counts[i] = bucket.count;
        }
    }
    let mut cumulative = 0.0;
    let sum = counts.into_iter().map(|c| {
        cumulative += c;
        cumulative
    });
    h.custom_values.iter().copied().zip(sum).collect()
}

impl Fill for Page {
    fn fill(&mut self, out: &mut Vec<u8>) -> bool {
        let end = out.len() + PIECE;
        while out.len() < end {
            if self.format == Format::Protobuf {
                if self.samples.peek().is_none() {
                    return false;
                }
                self.family(out);
                continue;
            }
            let Some(s) = self.samples.next() else { return false };
            let name = escape_name(s.labels.metric_name(), self.escaping, true);
            let kind = Kind::of(&s.value);
            if self.last.as_ref().is_none_or(|(n, k)| *n != name || *k != kind) {
                let shown = if is_legacy_metric_name(&name) { name.clone() } else { quote(&name) };
                out.extend_from_slice(format!("# TYPE {shown} {}\n", kind.as_str()).as_bytes());
                self.last = Some((name.clone(), kind));
            }
            match &s.value {
                Newest::Float(v) => self.line(out, &s, &name, None, &float(*v)),
                Newest::Histogram(h) => self.classic(out, &s, &name, h),
            }
        }
        true
    }
}

/// An error as Go's `http.Error` sends it, compressed as the request allows.
fn error(req: &Req, status: StatusCode, message: &str) -> Response<Body> {
    let text = format!("{message}\n").into_bytes();
    let mut response = compressed_text(&req.headers, status, "text/plain; charset=utf-8", text);
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

pub async fn federate(app: Arc<App>, req: Req) -> Response<Body> {
    if let Some(fault) = &req.form.fault {
        return error(&req, StatusCode::BAD_REQUEST, &format!("error parsing form values: {fault}"));
    }
    let sets = match req.form.all("match[]").map(selector).collect::<Result<Vec<_>, _>>() {
        Ok(sets) => sets,
        Err(e) => return error(&req, StatusCode::BAD_REQUEST, &e),
    };
    let maxt = Time::now().ms();
    let mint = maxt - app.options.lookback_delta.as_millis() as i64;
    let asking = match req.asking(&app) {
        Ok(asking) => asking,
        Err(e) => return error(&req, e.kind.status(), &e.message),
    };
    let mut held = asking.meter.hold_nothing();
    let mut by_labels: BTreeMap<Labels, Sample> = BTreeMap::new();
    // Without any matcher nothing is selected.
    for matchers in sets.into_iter().filter(|matchers| !matchers.is_empty()) {
        let mut request = SelectRequest::new(matchers, mint, maxt);
        request.hints.latest_only = true;
        request.hints.meter = asking.meter.clone();
        let selected: Result<Vec<Series>, StorageError> = async {
            let set = app.storage.select(request).await?;
            if !set.warnings.is_empty() {
                app.metrics.federation_warnings.add(set.warnings.len() as f64);
            }
            let mut found = Vec::new();
            for batch in set.batches {
                let batch = batch?;
                held.add(batch.bytes())?;
                found.extend(batch.series);
            }
            Ok(found)
        }
        .await;
        match selected {
            Ok(series) => by_labels.extend(series.into_iter().filter_map(newest).map(|s| (s.labels.clone(), s))),
            Err(e) => {
                app.metrics.federation_errors.inc();
                let status = match e.kind {
                    ErrorKind::Unavailable | ErrorKind::Timeout => StatusCode::SERVICE_UNAVAILABLE,
                    ErrorKind::Limit => StatusCode::UNPROCESSABLE_ENTITY,
                    _ => StatusCode::INTERNAL_SERVER_ERROR,
                };
                return error(&req, status, &refused(&app, &asking, &e).message);
            }
        }
    }
    let (format, escaping) = negotiate(&req.headers);
    // The text format has no native histograms with exponential buckets; series without a name have no line.
    let shown = |s: &Sample| match &s.value {
        Newest::Histogram(h) if !h.uses_custom_buckets() && format == Format::Text => false,
        _ => !s.labels.metric_name().is_empty(),
    };
    let mut samples: Vec<Sample> = by_labels.into_values().filter(shown).collect();
    samples.sort_by(|a, b| a.labels.metric_name().cmp(b.labels.metric_name()));
    let view = app.view.load();
    let mut external: BTreeMap<String, String> =
        view.external_labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    external.entry("instance".into()).or_default();
    let (samples, external) = (samples.into_iter().peekable(), external.into_iter().collect());
    let page = Page { samples, format, external, escaping, last: None };
    let content_type = format!("{}; escaping={}", format.as_str(), escaping.as_str());
    compressed(&req.headers, StatusCode::OK, &content_type, Box::new(page)).map(|body| body.hold(held))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped() {
        for (how, name, expected) in [
            (EscapingScheme::Underscores, "a.b", "a_b"),
            (EscapingScheme::Dots, "a.b_c", "a_dot_b__c"),
            (EscapingScheme::Dots, "plain_name", "plain_name"),
            (EscapingScheme::Values, "a.b_c", "U__a_2e_b__c"),
            (EscapingScheme::Values, "plain_name", "plain_name"),
            (EscapingScheme::AllowUtf8, "a.b", "a.b"),
        ] {
            assert_eq!(escape_name(name, how, true), expected);
        }
    }

    #[test]
    fn formats_are_negotiated() {
        use {EscapingScheme::*, Format::*};
        const FAMILY: &str =
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        for (accept, expected) in [
            (String::new(), (Text, Underscores)),
            ("*/*".into(), (Text, Underscores)),
            (FAMILY.into(), (Protobuf, Underscores)),
            (format!("{FAMILY};q=0.5,text/plain"), (Text, Underscores)),
            (format!("text/plain;q=0.1,{FAMILY};q=0.9;escaping=allow-utf-8"), (Protobuf, AllowUtf8)),
            ("text/plain;version=1.0.0;escaping=allow-utf-8".into(), (Text, AllowUtf8)),
            ("application/openmetrics-text;escaping=dots,text/plain".into(), (Text, Dots)),
            ("application/vnd.google.protobuf;proto=other;encoding=delimited".into(), (Text, Underscores)),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            assert_eq!(negotiate(&headers), expected, "{accept}");
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
        let escaping = EscapingScheme::Underscores;
        let samples = samples.into_iter().peekable();
        let mut page = Page { samples, format: Format::Text, external, escaping, last: None };
        let mut out = Vec::new();
        assert!(!page.fill(&mut out));
        let expected = "# TYPE a untyped\na{instance=\"i\",x=\"q\\\"\\n\",zone=\"eu\"} 1e+07 1000\n\
            a{zone=\"own\",instance=\"\"} NaN 1000\n# TYPE b untyped\nb{instance=\"\",zone=\"eu\"} 1.5 1000\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
