//! `tool push metrics`: pages in the text format, sent by remote write.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use narthex_model::MetricType;
use narthex_model::number::format_g;
use narthex_model::{protobuf as wire, varint};
use narthex_server::write::{V1, V2};

use super::ask::Server;
use super::families::{self, Family, Kind, Metric};
use super::{text, texts};

type Labels = BTreeMap<String, String>;

/// One sample of one series.
struct Series {
    labels: Labels,
    value: f64,
    timestamp: i64,
    kind: Kind,
    help: String,
}

/// As promtool says it: gauge histograms have no number there.
fn metadata_type(kind: Kind) -> u64 {
    MetricType::from_name(kind.name()).unwrap_or_default().code()
}

/// The series of all families. Metrics without a time of their own are of `now`.
fn series(all: &[Family], extra: &Labels, now: i64) -> Vec<Series> {
    let mut out = Vec::new();
    for family in all {
        for metric in &family.metrics {
            of_metric(family, metric, extra, now, &mut out);
        }
    }
    out
}

fn of_metric(family: &Family, metric: &Metric, extra: &Labels, now: i64, out: &mut Vec<Series>) {
    let mut labels = extra.clone();
    for (name, value) in &metric.labels {
        let name = if name == "job" { "exported_job".to_owned() } else { name.clone() };
        labels.insert(name, value.clone());
    }
    let mut push = |suffix: &str, bound: Option<(&str, String)>, value: f64| {
        let mut labels = labels.clone();
        labels.insert("__name__".into(), format!("{}{suffix}", family.name));
        labels.extend(bound.map(|(name, value)| (name.to_owned(), value)));
        let timestamp = if metric.timestamp == 0 { now } else { metric.timestamp };
        let help = family.help.clone().unwrap_or_default();
        out.push(Series { labels, value, timestamp, kind: family.kind, help });
    };
    match family.kind {
        Kind::Summary => metric.parts.iter().for_each(|(q, v)| push("", Some(("quantile", format_g(*q))), *v)),
        Kind::Histogram | Kind::GaugeHistogram => {
            metric.parts.iter().for_each(|(le, v)| push("_bucket", Some(("le", format_g(*le))), *v));
            if !metric.parts.iter().any(|p| p.0 == f64::INFINITY) {
                push("_bucket", Some(("le", "+Inf".into())), metric.count);
            }
        }
        _ => return push("", None, metric.value),
    }
    push("_sum", None, metric.sum);
    push("_count", None, metric.count);
}

fn sample(series: &Series) -> Vec<u8> {
    let mut out = Vec::new();
    wire::double_field(&mut out, 1, series.value);
    wire::varint_field(&mut out, 2, series.timestamp as u64);
    out
}

fn version_1(all: &[Series], families: &[Family]) -> Vec<u8> {
    let mut out = Vec::new();
    for series in all {
        let mut message = Vec::new();
        for (name, value) in &series.labels {
            let mut label = Vec::new();
            wire::bytes_field(&mut label, 1, name.as_bytes());
            wire::bytes_field(&mut label, 2, value.as_bytes());
            wire::bytes_field(&mut message, 1, &label);
        }
        wire::bytes_field(&mut message, 2, &sample(series));
        wire::bytes_field(&mut out, 1, &message);
    }
    for family in families {
        let mut message = Vec::new();
        wire::varint_field(&mut message, 1, metadata_type(family.kind));
        wire::bytes_field(&mut message, 2, family.name.as_bytes());
        wire::bytes_field(&mut message, 4, family.help.as_deref().unwrap_or_default().as_bytes());
        wire::bytes_field(&mut out, 3, &message);
    }
    out
}

fn version_2(all: &[Series]) -> Vec<u8> {
    let mut symbols: Vec<String> = vec![String::new()];
    let mut known: BTreeMap<String, u64> = BTreeMap::from([(String::new(), 0)]);
    let mut symbol = |text: &str| {
        *known.entry(text.to_owned()).or_insert_with(|| {
            symbols.push(text.to_owned());
            symbols.len() as u64 - 1
        })
    };
    let mut messages = Vec::new();
    for series in all {
        let (mut message, mut refs, mut metadata) = (Vec::new(), Vec::new(), Vec::new());
        for text in series.labels.iter().flat_map(|(n, v)| [n, v]) {
            varint::put(&mut refs, symbol(text));
        }
        wire::bytes_field(&mut message, 1, &refs);
        wire::bytes_field(&mut message, 2, &sample(series));
        wire::varint_field(&mut metadata, 1, metadata_type(series.kind));
        wire::varint_field(&mut metadata, 3, symbol(&series.help));
        wire::bytes_field(&mut message, 5, &metadata);
        messages.push(message);
    }
    let mut out = Vec::new();
    symbols.iter().for_each(|s| wire::bytes_field(&mut out, 4, s.as_bytes()));
    messages.iter().for_each(|m| wire::bytes_field(&mut out, 5, m));
    out
}

fn push(server: &Server, path: &str, protocol: &str, page: &[u8], extra: &Labels) -> Result<(), String> {
    let page = std::str::from_utf8(page).map_err(|e| e.to_string())?;
    let families = families::parse(page)?;
    let all = series(&families, extra, narthex_server::params::Time::now().ms());
    let body = if protocol == V2 { version_2(&all) } else { version_1(&all, &families) };
    let body = snap::raw::Encoder::new().compress_vec(&body).map_err(|e| e.to_string())?;
    let mut headers = HeaderMap::new();
    let kind = if protocol == V2 {
        "application/x-protobuf;proto=io.prometheus.write.v2.Request"
    } else {
        "application/x-protobuf;proto=prometheus.WriteRequest"
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("snappy"));
    let version = if protocol == V2 { "2.0.0" } else { "0.1.0" };
    headers.insert("x-prometheus-remote-write-version", HeaderValue::from_static(version));
    let answer =
        server.send(Method::POST, &server.url(path), headers, Bytes::from(body)).map_err(|e| format!("{e:#}"))?;
    if answer.status.is_success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&answer.body);
    Err(format!("server returned HTTP status {}: {}", answer.status, text.trim()))
}

pub fn run(m: &clap::ArgMatches) -> ExitCode {
    let failed = |e: &dyn std::fmt::Display| {
        eprintln!("  FAILED: {e}");
        ExitCode::FAILURE
    };
    let timeout = text(m, "timeout").unwrap_or("30s");
    let timeout = match narthex_model::duration::parse(timeout) {
        Ok(timeout) => timeout.max(Duration::from_millis(1)),
        Err(e) => return failed(&format!("--timeout: {e}")),
    };
    let headers = texts(m, "header");
    let server = Server::new(text(m, "url").unwrap_or_default(), text(m, "http.config.file"), &headers, timeout);
    let server = match server {
        Ok(server) => server,
        Err(e) => return failed(&format!("{e:#}")),
    };
    let protocol = text(m, "protobuf_message").unwrap_or(V1);
    if ![V1, V2].contains(&protocol) {
        return failed(&format!("invalid protobuf message {protocol:?}, must be {V1} or {V2}"));
    }
    let mut extra = Labels::new();
    for label in texts(m, "label") {
        match label.split_once('=') {
            Some((name, value)) => extra.insert(name.to_owned(), value.to_owned()),
            None => return failed(&format!("expected KEY=VALUE got '{label}'")),
        };
    }
    let path = format!("/{}", text(m, "remote-write.path").unwrap_or("/api/v1/write").trim_start_matches('/'));
    let files = texts(m, "files");
    if files.is_empty() {
        let mut page = Vec::new();
        if let Err(e) = std::io::stdin().lock().read_to_end(&mut page) {
            return failed(&e);
        }
        println!("Parsing standard input");
        return match push(&server, &path, protocol, &page, &extra) {
            Ok(()) => {
                println!("  SUCCESS: metrics pushed to remote write.");
                ExitCode::SUCCESS
            }
            Err(e) => failed(&e),
        };
    }
    let mut code = ExitCode::SUCCESS;
    for file in files {
        let page = match std::fs::read(file) {
            Ok(page) => page,
            Err(e) => {
                code = failed(&format!("open {file}: {e}"));
                continue;
            }
        };
        println!("Parsing metrics file {file}");
        match push(&server, &path, protocol, &page, &extra) {
            Ok(()) => println!("  SUCCESS: metrics file {file} pushed to remote write."),
            Err(e) => code = failed(&e),
        }
    }
    code
}
