//! The same data in Narthex and in a real Prometheus, the same requests to both, the answers compared: status, error
//! type and text, warnings, data.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use prost::Message;
use serde_json::Value;

mod data;
mod expressions;
mod random;
mod requests;

use self::data::WriteRequest;
use crate::net::{self, Answer, encode};
use crate::process::{Server, prometheus, start_narthex, start_prometheus};

fn push(server: &Server, request: &WriteRequest) -> Result<()> {
    let body = snap::raw::Encoder::new().compress_vec(&request.encode_to_vec())?;
    let headers = [
        ("Content-Encoding", "snappy"),
        ("Content-Type", "application/x-protobuf"),
        ("X-Prometheus-Remote-Write-Version", "0.1.0"),
    ];
    let answer = net::send(server.address, "POST", "/api/v1/write", &headers, &body)?;
    ensure!(answer.status == 204, "{} {}", answer.status, answer.text());
    Ok(())
}

fn ask(server: &Server, request: &str) -> Result<Answer> {
    let (method, rest) = request.split_once(' ').unwrap_or(("GET", request));
    let (path, body) = rest.split_once(" | ").unwrap_or((rest, ""));
    // Only what must not stand in a request line is encoded: escapes, right or wrong, are part of the test.
    let path: String = path
        .chars()
        .map(|c| if " \"{}<>\\^`|".contains(c) || !c.is_ascii() { encode(&c.to_string()) } else { c.to_string() })
        .collect();
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let headers = if method == "POST" || method == "PUT" { &form[..] } else { &[] };
    net::send(server.address, method, &path, headers, body.as_bytes())
}

/// Brings what may differ into one form: the order of vectors and matrices where the language leaves it open.
fn normal(mut v: Value, ordered: bool) -> Value {
    if !ordered && let Some(list) = v["data"]["result"].as_array_mut() {
        list.sort_by_key(|s| s["metric"].to_string());
    }
    // Which of several duplicates are named, and in which order, goes by 3.14's storage; later versions sort them.
    if let Some(error) = v["error"].as_str()
        && let Some((duplicates, _)) = error.split_once(": [{")
        && duplicates.starts_with("found duplicate series")
    {
        v["error"] = duplicates.into();
    }
    // Times differ, and so does what an engine holds at once; which samples it looked at and read does not.
    if let Some(stats) = v.pointer_mut("/data/stats").and_then(Value::as_object_mut) {
        stats.remove("timings");
        if let Some(samples) = stats.get_mut("samples").and_then(Value::as_object_mut) {
            samples.remove("peakSamples");
        }
    }
    if let Some(list) = v["data"].as_array_mut()
        && list.first().is_some_and(|first| first.is_object() && first.get("__name__").is_none())
    {
        list.sort_by_key(ToString::to_string);
    }
    v
}

fn differences(ours: &Answer, theirs: &Answer, ordered: bool) -> Option<String> {
    if ours.status != theirs.status {
        return Some(format!("status {} instead of {}: {}", ours.status, theirs.status, ours.text()));
    }
    for name in HEADERS {
        if ours.header(name) != theirs.header(name) {
            return Some(format!("{name}: {:?} instead of {:?}", ours.header(name), theirs.header(name)));
        }
    }
    match (ours.json(), theirs.json()) {
        (Ok(a), Ok(b)) => {
            let (a, b) = (normal(a, ordered), normal(b, ordered));
            (a != b).then(|| format!("{a}\n   instead of\n{b}"))
        }
        _ => {
            let (a, b) = (ours.text(), theirs.text());
            (a != b).then(|| format!("{a:?}\n   instead of\n{b:?}"))
        }
    }
}

/// What Prometheus answers in an order that is another each time: that of a map.
const ANY_ORDER: &[&str] = &["histogram_quantile", "histogram_fraction", "info(", "count_values", "(up + up)["];

/// Where the answers differ on purpose.
fn differs(request: &str) -> bool {
    // The WAL has no segments to count.
    request == "GET /api/v1/status/walreplay"
        // Exemplars need no switch.
        || request.contains("query_exemplars?query=traced_total")
        || request.contains("query_exemplars?query=rate(traced_total")
        || request.contains("query_exemplars | query=traced_total")
}

/// Headers that have to be the same.
const HEADERS: &[&str] = &[
    "content-type",
    "access-control-allow-origin",
    "access-control-allow-methods",
    "access-control-allow-headers",
    "access-control-expose-headers",
    "allow",
    "location",
];

/// Both servers with the same data, and what of their answers differed.
struct Pair {
    ours: Server,
    theirs: Server,
    /// The newest sample's time in seconds.
    end: i64,
    asked: usize,
    differ: usize,
    wrong: String,
    _folder: tempfile::TempDir,
}

impl Pair {
    /// None where there is no Prometheus to compare with.
    fn start(more: &[&str]) -> Result<Option<Pair>> {
        let Some(binary) = prometheus() else {
            println!("skipped: no Prometheus to compare with");
            return Ok(None);
        };
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("prometheus.yml");
        std::fs::write(&config, "global: {scrape_interval: 15s}\n")?;
        let config = format!("--config.file={}", config.display());
        let flags = [&[config.as_str(), "--web.enable-remote-write-receiver"], more].concat();
        let theirs = start_prometheus(&binary, folder.path(), net::free_port()?, &flags)?;
        let ours = start_narthex(folder.path(), net::free_port()?, &flags)?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() as i64;
        let end = now / 15 * 15 - 30;
        let request = data::data(end * 1000);
        push(&ours, &request)?;
        push(&theirs, &request)?;
        Ok(Some(Pair { ours, theirs, end, asked: 0, differ: 0, wrong: String::new(), _folder: folder }))
    }

    fn compare(&mut self, request: &str, ordered: bool) -> Result<()> {
        let (a, b) = (ask(&self.ours, request)?, ask(&self.theirs, request)?);
        self.note(request, differences(&a, &b, ordered));
        Ok(())
    }

    fn note(&mut self, request: &str, difference: Option<String>) {
        self.asked += 1;
        if let Some(difference) = difference {
            self.differ += 1;
            let _ = writeln!(self.wrong, "-- {request}\n{difference}");
        }
    }

    /// Asks at one time, over a range, and for the syntax tree and the formatted text.
    fn expression(&mut self, expr: &str) -> Result<()> {
        let (end, query) = (self.end, encode(expr));
        self.compare(
            &format!("GET /api/v1/query?time={end}&query={query}&stats=all"),
            !ANY_ORDER.iter().any(|f| expr.contains(f)),
        )?;
        let start = end - 900;
        self.compare(
            &format!("POST /api/v1/query_range | start={start}&end={end}&step=60&stats=all&query={query}"),
            true,
        )?;
        self.compare(&format!("GET /api/v1/parse_query?query={query}"), true)?;
        self.compare(&format!("GET /api/v1/format_query?query={query}"), true)
    }

    fn finish(self) -> Result<()> {
        let Pair { ours, asked, differ, wrong, .. } = self;
        println!("{asked} requests, {differ} answered differently");
        ensure!(wrong.is_empty(), "{differ} of {asked} requests:\n{wrong}");
        ours.stop()
    }
}

#[test]
fn answers_as_prometheus_does() -> Result<()> {
    let Some(mut pair) = Pair::start(&[])? else { return Ok(()) };
    for expr in expressions::EXPRESSIONS.iter().chain(expressions::MORE_EXPRESSIONS) {
        pair.expression(expr)?;
    }
    for request in requests::REQUESTS.iter().chain(requests::MORE_REQUESTS).filter(|r| !differs(r)) {
        let request = request.replace("=T", &format!("={}", pair.end));
        pair.compare(&request, true)?;
    }
    for (content_type, path, body) in requests::IN_PARTS {
        let headers = [("Content-Type", *content_type)];
        let body = body.replace("=T", &pair.end.to_string()).replace('\n', "\r\n");
        let ask = |s: &Server| net::send(s.address, "POST", path, &headers, body.as_bytes());
        let (a, b) = (ask(&pair.ours)?, ask(&pair.theirs)?);
        pair.note(&format!("{path} {body}"), differences(&a, &b, true));
    }
    pair.finish()
}

#[test]
fn random_requests_are_answered_as_prometheus_does() -> Result<()> {
    let Some(mut pair) = Pair::start(&["--web.cors.origin=https://a[.]test"])? else { return Ok(()) };
    for request in random::requests(pair.end) {
        let ask =
            |s: &Server| net::send(s.address, request.method, &request.path, &request.headers, request.body.as_bytes());
        let (a, b) = (ask(&pair.ours)?, ask(&pair.theirs)?);
        // Where nobody is asked for a time, each has its own.
        let label_values = request.path.contains("/label/");
        let form = request.headers.contains(&("Content-Type", "application/x-www-form-urlencoded"));
        let given = format!("{}&{}", request.path, if form { request.body.as_str() } else { "" });
        let mut times = given.split(['?', '&']).filter_map(|p| p.strip_prefix("time="));
        let by_clock =
            request.path.starts_with("/api/v1/query") && (times.clone().next().is_none() || times.any(str::is_empty));
        let vary = a.header("vary") != b.header("vary");
        let mut difference = differences(&a, &b, true).filter(|d| !by_clock || d.starts_with("status"));
        if difference.is_none() && vary {
            difference = Some(format!("vary: {:?} instead of {:?}", a.header("vary"), b.header("vary")));
        }
        // Which methods they have is another matter here: Grafana posts to them.
        let difference = difference.filter(|d| !(label_values && d.starts_with("allow")));
        pair.note(&format!("{request:?}"), difference.map(|d| d.chars().take(600).collect()));
    }
    pair.finish()
}

#[test]
fn answers_as_prometheus_does_with_experimental_features() -> Result<()> {
    let features = "--enable-feature=promql-experimental-functions,promql-extended-range-selectors,\
                    promql-binop-fill-modifiers,promql-per-step-stats,exemplar-storage";
    let Some(mut pair) = Pair::start(&[features])? else { return Ok(()) };
    for expr in expressions::EXPERIMENTAL {
        pair.expression(expr)?;
    }
    pair.compare("GET /api/v1/status/config", true)?;
    for request in requests::REQUESTS.iter().chain(requests::MORE_REQUESTS).filter(|r| r.contains("exemplars")) {
        let request = request.replace("=T", &format!("={}", pair.end));
        pair.compare(&request, true)?;
    }
    pair.finish()
}

/// The shape of an answer: types all the way down, of lists the first element's.
fn shape(v: &Value) -> Value {
    match v {
        Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), shape(v))).collect(),
        Value::Array(list) => Value::Array(list.first().map(shape).into_iter().collect()),
        Value::String(_) => "string".into(),
        Value::Number(_) => "number".into(),
        Value::Bool(_) => "boolean".into(),
        Value::Null => Value::Null,
    }
}

/// What Grafana's data source asks, recorded.
const SESSION: &str = include_str!("testdata/grafana/requests.txt");

/// The recorded session of Grafana's data source: what Prometheus answers well, Narthex answers with the same shape.
#[test]
fn grafana_session() -> Result<()> {
    let Some(binary) = prometheus() else {
        println!("skipped: no Prometheus to compare with");
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let (port, other) = (net::free_port()?, net::free_port()?);
    // Both scrape Prometheus, so that both have what the session asks for.
    let config = folder.path().join("prometheus.yml");
    std::fs::write(
        &config,
        format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: prometheus\n  static_configs:\n  - targets: ['127.0.0.1:{port}']\n"
        ),
    )?;
    let config = format!("--config.file={}", config.display());
    let theirs = start_prometheus(&binary, folder.path(), port, &[&config])?;
    let ours = start_narthex(folder.path(), other, &[&config])?;
    for server in [&ours, &theirs] {
        crate::process::eventually(30, "scrapes", || {
            // As long ago as the oldest time that the session asks for.
            let rate = server.query("rate(prometheus_http_requests_total[4s] offset 5s)")?;
            Ok((!rate.is_empty()).then_some(()))
        })?;
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() as i64;
    let mut wrong = String::new();
    let mut asked = 0;
    for line in SESSION.lines().filter(|l| l.starts_with("GET ") || l.starts_with("POST ")) {
        // Times of the recording become times around now.
        let mut request = line.to_owned();
        for (old, new) in
            [("179535201", now - 1), ("179535202", now - 1), ("179535171", now - 60), ("179535172", now - 60)]
        {
            while let Some(at) = request.find(old) {
                request.replace_range(at..at + 10, &new.to_string());
            }
        }
        let (method, rest) = request.split_once(' ').unwrap_or(("GET", ""));
        let (path, body) = rest.split_once(" | body: ").unwrap_or((rest, ""));
        let part = |text: &str| {
            text.split('&')
                .map(|pair| match pair.split_once('=') {
                    Some((k, v)) => {
                        format!("{k}={}", encode(&if method == "GET" { v.replace('+', " ") } else { v.to_owned() }))
                    }
                    None => pair.to_owned(),
                })
                .collect::<Vec<_>>()
                .join("&")
        };
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let uri = if query.is_empty() { path.to_owned() } else { format!("{path}?{}", part(query)) };
        let form = [("Content-Type", "application/x-www-form-urlencoded")];
        let headers = if method == "POST" { &form[..] } else { &[] };
        let body = part(body);
        let ask = |s: &Server| net::send(s.address, method, &uri, headers, body.as_bytes());
        let (a, b) = (ask(&ours)?, ask(&theirs)?);
        asked += 1;
        if b.status == 405 {
            // Grafana's suggestions post to label values, which Prometheus refuses.
            if a.status != 200 {
                let _ = writeln!(wrong, "-- {line}\n{} {}", a.status, a.text());
            }
            continue;
        }
        let same = a.status == b.status
            && match (a.json(), b.json()) {
                // Help texts, flags and metric names differ from server to server.
                (Ok(a), Ok(_)) if path.ends_with("metadata") => a["data"].is_object(),
                (Ok(a), Ok(b)) if a["status"] == "error" => {
                    a["error"] == b["error"] && a["errorType"] == b["errorType"]
                }
                (Ok(a), Ok(b)) if a["data"]["resultType"].is_string() => {
                    a["data"]["resultType"] == b["data"]["resultType"]
                        && a["data"]["result"].as_array().is_some_and(|l| l.is_empty())
                            == b["data"]["result"].as_array().is_some_and(|l| l.is_empty())
                        && shape(&a["data"]["result"][0]["value"]) == shape(&b["data"]["result"][0]["value"])
                        && shape(&a["data"]["result"][0]["values"]) == shape(&b["data"]["result"][0]["values"])
                }
                (Ok(a), Ok(b)) if a["data"].is_array() && path.ends_with("series") => b["data"].is_array(),
                (Ok(a), Ok(b)) => shape(&a) == shape(&b),
                _ => false,
            };
        if !same {
            let short = |a: &Answer| a.text().chars().take(300).collect::<String>();
            let _ = writeln!(wrong, "-- {line}\n{} {}\n   instead of\n{} {}", a.status, short(&a), b.status, short(&b));
        }
    }
    println!("{asked} requests replayed");
    ensure!(asked > 50 && wrong.is_empty(), "of {asked} requests:\n{wrong}");
    ours.stop()
}
