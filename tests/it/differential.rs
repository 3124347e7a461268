//! The same data in Narthex and in a real Prometheus, the same requests to both, the answers compared: status, error
//! type and text, warnings, data.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use prost::Message;
use serde_json::Value;

use crate::net::{self, Answer, encode};
use crate::process::{Server, prometheus, start_narthex, start_prometheus};

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, Message)]
struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
}

/// Half an hour of counters, gauges, histograms and odd values, ending at `end` (ms), every 15 s.
fn data(end: i64) -> WriteRequest {
    let mut timeseries = Vec::new();
    let mut add = |pairs: &[(&str, &str)], value: &dyn Fn(i64) -> f64| {
        let mut labels: Vec<Label> =
            pairs.iter().map(|(n, v)| Label { name: (*n).into(), value: (*v).into() }).collect();
        labels.sort_by(|a, b| a.name.cmp(&b.name));
        let samples = (0..=120).map(|i| Sample { value: value(i), timestamp: end - (120 - i) * 15_000 }).collect();
        timeseries.push(TimeSeries { labels, samples });
    };
    for (instance, k) in [("a:1", 1.0), ("b:1", 2.5), ("c:1", -0.5)] {
        add(&[("__name__", "up"), ("job", "j"), ("instance", instance)], &|_| f64::from(u8::from(k > 0.0)));
        for mode in ["user", "system", "idle"] {
            let step = k * (mode.len() as f64 + f64::from(mode.as_bytes()[0]) / 100.0);
            let name = [("__name__", "cpu_seconds_total"), ("job", "j"), ("instance", instance), ("mode", mode)];
            add(&name, &|i| if i > 60 { (i - 60) as f64 * step } else { i as f64 * step });
        }
        for (le, share) in [("0.1", 0.2), ("0.5", 0.6), ("1", 0.9), ("+Inf", 1.0)] {
            let name = [("__name__", "latency_seconds_bucket"), ("job", "j"), ("instance", instance), ("le", le)];
            add(&name, &|i| (i as f64 * share * 10.0 * (1.0 + k)).floor());
        }
    }
    add(&[("__name__", "odd"), ("kind", "nan")], &|_| f64::NAN);
    add(&[("__name__", "odd"), ("kind", "inf")], &|_| f64::INFINITY);
    add(&[("__name__", "odd"), ("kind", "small")], &|i| 1e-9 * i as f64);
    add(&[("__name__", "odd"), ("kind", "large")], &|i| 1e21 * (i + 1) as f64);
    add(&[("__name__", "odd"), ("kind", "<tag> & \"quote\" \\ \u{2028}")], &|i| i as f64);
    add(&[("__name__", "with.dots"), ("host.name", "ü"), ("plain", "1")], &|i| i as f64);
    WriteRequest { timeseries }
}

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

const EXPRESSIONS: &[&str] = &[
    "1",
    "1+1",
    "-1",
    "1/0",
    "0/0",
    "\"str\"",
    "time()",
    "vector(1)",
    "pi()",
    "1e21",
    "1e-7",
    "5m",
    "0x10",
    "1_000",
    "up",
    "up{instance=\"a:1\"}",
    "up{instance!=\"a:1\"}",
    "up{instance=~\"a.*|b.*\"}",
    "up{instance!~\"a.*\"}",
    "{__name__=~\"up|odd\"}",
    "{\"with.dots\"}",
    "{\"with.dots\", \"host.name\"=\"ü\"}",
    "nope",
    "up offset 5m",
    "up offset -5m",
    "up @ 0",
    "up @ start()",
    "up @ end()",
    "up[1m]",
    "up[1m:15s]",
    "cpu_seconds_total[45s] offset 1m",
    "odd",
    "odd == 0",
    "odd != odd",
    "odd > bool 1",
    "-odd",
    "odd + 1",
    "odd ^ 2",
    "odd % 3",
    "up atan2 2",
    "rate(cpu_seconds_total[5m])",
    "irate(cpu_seconds_total[5m])",
    "increase(cpu_seconds_total[10m])",
    "delta(up[5m])",
    "idelta(up[5m])",
    "deriv(cpu_seconds_total[5m])",
    "resets(cpu_seconds_total[20m])",
    "changes(up[5m])",
    "predict_linear(cpu_seconds_total[5m], 60)",
    "sum(up)",
    "sum by (mode) (cpu_seconds_total)",
    "sum without (instance, job) (cpu_seconds_total)",
    "avg(cpu_seconds_total)",
    "min by (instance) (cpu_seconds_total)",
    "max(cpu_seconds_total)",
    "count(up)",
    "group(up)",
    "stddev(cpu_seconds_total)",
    "stdvar(cpu_seconds_total)",
    "topk(2, cpu_seconds_total)",
    "bottomk(1, cpu_seconds_total) by (mode)",
    "quantile(0.5, cpu_seconds_total)",
    "quantile(1.5, up)",
    "count_values(\"v\", up)",
    "sort(cpu_seconds_total)",
    "sort_desc(cpu_seconds_total)",
    "histogram_quantile(0.9, sum by (le) (rate(latency_seconds_bucket[5m])))",
    "histogram_quantile(0.5, latency_seconds_bucket)",
    "histogram_quantile(2, latency_seconds_bucket)",
    "cpu_seconds_total / on (instance) group_left () up",
    "cpu_seconds_total * ignoring (mode) group_left () up",
    "up and up{instance=\"a:1\"}",
    "up or odd",
    "up unless up{instance=\"a:1\"}",
    "up == bool 1",
    "up > 0",
    "absent(nope)",
    "absent(up)",
    "absent_over_time(nope{a=\"b\"}[5m])",
    "avg_over_time(up[5m])",
    "sum_over_time(cpu_seconds_total[5m])",
    "max_over_time(odd[5m])",
    "quantile_over_time(0.3, cpu_seconds_total[5m])",
    "stddev_over_time(cpu_seconds_total[5m])",
    "last_over_time(up[5m])",
    "present_over_time(up[5m])",
    "count_over_time(up[5m])",
    "label_replace(up, \"x\", \"$1\", \"instance\", \"(.):.*\")",
    "label_join(up, \"x\", \"-\", \"job\", \"instance\")",
    "clamp(cpu_seconds_total, 1, 5)",
    "round(odd, 0.5)",
    "abs(-up)",
    "ceil(cpu_seconds_total / 7)",
    "exp(up)",
    "ln(up)",
    "sqrt(cpu_seconds_total)",
    "hour()",
    "minute()",
    "day_of_week(vector(1e9))",
    "timestamp(up)",
    "scalar(up)",
    "scalar(up{instance=\"a:1\"})",
    "max_over_time(rate(cpu_seconds_total[1m])[5m:30s])",
    "sum(rate(cpu_seconds_total{mode!=\"idle\"}[5m])) by (instance)",
    // refused
    "",
    "1 +",
    "up{300s}[",
    "up{",
    "up{job=~\"(\"}",
    "sum(",
    "rate(up)",
    "rate(up[5m]",
    "up[5m",
    "foo bar",
    "up[5m] + 1",
    "sum by (up",
    "up offset",
    "up @",
    "nope()",
    "rate(1)",
    "label_replace(up)",
    "\"unterminated",
    "{}",
    "{a=\"\"}",
    "up{a=b}",
    "sum(up) by",
    "up ** 2",
    "1 == 1",
    "up and 1",
    "up[0s]",
    "topk(up)",
    "count_values(1, up)",
    "label_replace(up, \"a\", \"b\", \"c\", \"(\")",
    "sort_by_label(up, \"job\")",
    "up smoothed",
    "info(up)",
    "🦀",
];

/// Requests besides queries. `T` stands for the newest sample's time in seconds.
const REQUESTS: &[&str] = &[
    "GET /api/v1/query",
    "GET /api/v1/query?query=up&time=abc",
    "GET /api/v1/query?query=up&time=T&limit=2",
    "GET /api/v1/query?query=up&time=T&limit=0",
    "GET /api/v1/query?query=up&time=T&limit=-1",
    "GET /api/v1/query?query=up&time=T&limit=x",
    "GET /api/v1/query?query=up&time=T&timeout=x",
    "GET /api/v1/query?query=up&time=T&timeout=10s",
    "GET /api/v1/query?query=up&time=T&lookback_delta=x",
    "GET /api/v1/query?query=up&time=T.4741561",
    "GET /api/v1/query?query=up&time=T&lookback_delta=1s",
    "GET /api/v1/query?query=1&time=2015-07-01T20:10:51.781Z",
    "GET /api/v1/query?query=1&time=2015-07-01T20:10:51%2B02:00",
    "GET /api/v1/query?query=1&time=-1.5",
    "GET /api/v1/query?query=1&time=1e3",
    "GET /api/v1/query?query=%zz",
    "GET /api/v1/query?query=1;time=3",
    "POST /api/v1/query | query=up&time=T",
    "POST /api/v1/query?time=4 | query=vector(1)&time=5",
    "POST /api/v1/query?query=vector(3)&time=4 | ",
    "PUT /api/v1/query",
    "DELETE /api/v1/query",
    "GET /api/v1/query_range?query=up",
    "GET /api/v1/query_range?query=up&start=T&end=T",
    "GET /api/v1/query_range?query=up&start=T&end=T&step=0",
    "GET /api/v1/query_range?query=up&start=T&end=T&step=-1",
    "GET /api/v1/query_range?query=up&start=T&end=T&step=x",
    "GET /api/v1/query_range?query=up&start=T&end=1&step=1",
    "GET /api/v1/query_range?query=up&start=0&end=T&step=1",
    "GET /api/v1/query_range?query=1&start=0&end=10&step=1e30",
    "GET /api/v1/query_range?query=1&start=0&end=10&step=5s",
    "GET /api/v1/query_range?query=1&start=0&end=10&step=2.5",
    "GET /api/v1/query_range?query=up[1m]&start=0&end=10&step=5s",
    "GET /api/v1/query_range?query=1+&start=0&end=1&step=1",
    "GET /api/v1/query_range?query=sort(up)&start=T&end=T&step=1",
    "GET /api/v1/query_range?query=up&start=T&end=T&step=15&limit=1",
    "GET /api/v1/query_range?query=\"a\"&start=0&end=1&step=1",
    "GET /api/v1/labels",
    "GET /api/v1/labels?limit=2",
    "GET /api/v1/labels?limit=x",
    "POST /api/v1/labels | match[]=up",
    "GET /api/v1/labels?match[]=up&match[]=odd",
    "GET /api/v1/labels?match[]={}",
    "GET /api/v1/labels?match[]=up{",
    "GET /api/v1/labels?start=x",
    "GET /api/v1/labels?start=1&end=2",
    "GET /api/v1/labels?match[]=nope",
    "GET /api/v1/labels?match[]={job=\"\"}",
    "GET /api/v1/labels?start=T&end=1",
    "GET /api/v1/label/job/values",
    "GET /api/v1/label/instance/values?match[]=up",
    "GET /api/v1/label/instance/values?limit=1",
    "GET /api/v1/label/__name__/values",
    "GET /api/v1/label/U__host_2e_name/values",
    "GET /api/v1/label/nope/values",
    "GET /api/v1/label/kind/values",
    "GET /api/v1/label/U__bad_zz_/values",
    "GET /api/v1/label/host.name/values",
    "GET /api/v1/label/instance/values?match[]=up{",
    "GET /api/v1/label/job/values?match[]=up&match[]=cpu_seconds_total",
    "GET /api/v1/series",
    "GET /api/v1/series?match[]=up",
    "GET /api/v1/series?match[]=up&limit=1",
    "GET /api/v1/series?match[]=up&match[]=odd",
    "GET /api/v1/series?match[]={}",
    "GET /api/v1/series?match[]=up{",
    "GET /api/v1/series?match[]=up&start=1&end=2",
    "GET /api/v1/series?match[]=up&start=x",
    "POST /api/v1/series | match[]=up",
    "GET /api/v1/series?match[]={__name__!=\"\"}",
    "GET /api/v1/series?match[]=%zz",
    "GET /api/v1/series?match[]={\"with.dots\"}",
    "GET /api/v1/series?match[]=1",
    "GET /api/v1/series?match[]=sum(up)",
    "GET /api/v1/query_exemplars?query=test&start=1795350219474&end=1795352019474",
    "GET /api/v1/query_exemplars?query=up",
    "GET /api/v1/query_exemplars?query=1",
    "GET /api/v1/query_exemplars",
    "GET /api/v1/query_exemplars?query=up&start=2&end=1",
    "GET /api/v1/format_query?query=sum(up)by(job)%2B1",
    "GET /api/v1/format_query?query=1+",
    "GET /api/v1/format_query",
    "POST /api/v1/format_query | query=foo/bar",
    "GET /api/v1/parse_query?query=sum(rate(up{a=\"b\"}[5m]))%2B1",
    "GET /api/v1/parse_query?query=1+",
    "GET /api/v1/metadata",
    "GET /api/v1/metadata?limit=x",
    "GET /api/v1/metadata?limit_per_metric=x",
    "GET /api/v1/metadata?metric=up",
    "GET /api/v1/targets",
    "GET /api/v1/targets?state=dropped",
    "GET /api/v1/targets?state=active",
    "GET /api/v1/targets?state=x",
    "GET /api/v1/scrape_pools",
    "GET /api/v1/targets/metadata",
    "GET /api/v1/targets/metadata?limit=x",
    "GET /api/v1/targets/metadata?match_target={",
    "GET /api/v1/targets/relabel_steps",
    "GET /api/v1/targets/relabel_steps?scrapePool=x",
    "GET /api/v1/targets/relabel_steps?scrapePool=x&labels={}",
    "GET /api/v1/rules",
    "GET /api/v1/rules?type=alert",
    "GET /api/v1/rules?type=x",
    "GET /api/v1/rules?exclude_alerts=x",
    "GET /api/v1/rules?group_limit=0",
    "GET /api/v1/rules?group_limit=x",
    "GET /api/v1/rules?group_next_token=x",
    "GET /api/v1/rules?group_limit=1&group_next_token=x",
    "GET /api/v1/rules?match[]={",
    "GET /api/v1/alerts",
    "GET /api/v1/alertmanagers",
    "GET /api/v1/status/tsdb?limit=0",
    "GET /api/v1/status/tsdb?limit=x",
    "GET /api/v1/status/tsdb?limit=10001",
    "GET /api/v1/status/walreplay",
    "GET /api/v1/notifications",
    "POST /api/v1/admin/tsdb/snapshot",
    "POST /api/v1/admin/tsdb/delete_series",
    "PUT /api/v1/admin/tsdb/clean_tombstones",
    "GET /api/v1/admin/tsdb/snapshot",
    "POST /api/v1/metadata",
    "GET /api/v1/write",
    "GET /api/v1/nope",
    "GET /nope",
    "OPTIONS /api/v1/query",
    "OPTIONS /api/v1/nope",
    "GET /-/healthy",
    "GET /-/ready",
    "GET /-/reload",
    "GET /-/quit",
    "POST /-/reload",
    "PUT /-/quit",
    "GET /federate?match[]=up{",
    "GET /federate",
    "GET /graph?g0.expr=up",
    "GET /",
    "POST /federate",
    "POST /-/healthy",
    "GET /api/v1/otlp/v1/metrics",
    "POST /api/v1/otlp/v1/metrics",
];

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
    if let Some(list) = v["data"].as_array_mut()
        && list.first().is_some_and(Value::is_object)
    {
        list.sort_by_key(ToString::to_string);
    }
    v
}

fn differences(ours: &Answer, theirs: &Answer, ordered: bool) -> Option<String> {
    if ours.status != theirs.status {
        return Some(format!("status {} instead of {}: {}", ours.status, theirs.status, ours.text()));
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

/// Where the answers differ on purpose.
const DIFFERENT: &[&str] = &[
    // The WAL has no segments to count.
    "GET /api/v1/status/walreplay",
];

#[test]
fn answers_as_prometheus_does() -> Result<()> {
    let Some(binary) = prometheus() else {
        println!("skipped: no Prometheus to compare with");
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("prometheus.yml");
    std::fs::write(&config, "global: {scrape_interval: 15s}\n")?;
    let config = format!("--config.file={}", config.display());
    let flags = [config.as_str(), "--web.enable-remote-write-receiver"];
    let theirs = start_prometheus(&binary, folder.path(), net::free_port()?, &flags)?;
    let ours = start_narthex(folder.path(), net::free_port()?, &flags)?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() as i64;
    let end = now / 15 * 15 - 30;
    let request = data(end * 1000);
    push(&ours, &request)?;
    push(&theirs, &request)?;

    let mut wrong = String::new();
    let (mut asked, mut differ) = (0, 0);
    let mut compare = |request: &str, ordered: bool| -> Result<()> {
        asked += 1;
        let (a, b) = (ask(&ours, request)?, ask(&theirs, request)?);
        if let Some(difference) = differences(&a, &b, ordered) {
            differ += 1;
            let _ = writeln!(wrong, "-- {request}\n{difference}");
        }
        Ok(())
    };
    for expr in EXPRESSIONS {
        let ordered = expr.starts_with("sort") || expr.starts_with("topk");
        compare(&format!("GET /api/v1/query?time={end}&query={}", encode(expr)), ordered)?;
        compare(
            &format!("POST /api/v1/query_range | start={}&end={end}&step=60&query={}", end - 900, encode(expr)),
            true,
        )?;
        compare(&format!("GET /api/v1/parse_query?query={}", encode(expr)), true)?;
    }
    for request in REQUESTS.iter().filter(|r| !DIFFERENT.contains(r)) {
        compare(&request.replace("=T", &format!("={end}")), true)?;
    }
    println!("{asked} requests, {differ} answered differently");
    ensure!(wrong.is_empty(), "{differ} of {asked} requests:\n{wrong}");
    ours.stop()
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

/// The recorded session of Grafana's data source: what Prometheus answers well, Narthex answers with the same shape.
#[test]
fn grafana_session() -> Result<()> {
    let shared =
        std::env::var("NARTHEX_SHARED").unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared").into());
    let Ok(recorded) = std::fs::read_to_string(format!("{shared}/conformance/grafana/requests.txt")) else {
        println!("skipped: no shared data");
        return Ok(());
    };
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
    for line in recorded.lines().filter(|l| l.starts_with("GET ") || l.starts_with("POST ")) {
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
