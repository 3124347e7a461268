//! What others send and ask besides the API: paths and methods, remote read, federation, OTLP. The same to Narthex and
//! to a real Prometheus, the answers compared.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::net::{self, encode};
use crate::process::{Server, prometheus, start_narthex, start_prometheus};

/// Both servers with the same configuration and flags.
pub fn both(folder: &Path, config: &str, flags: &[&str]) -> Result<Option<(Server, Server)>> {
    let Some(binary) = prometheus() else {
        println!("skipped: no Prometheus to compare with");
        return Ok(None);
    };
    let file = folder.join("prometheus.yml");
    std::fs::write(&file, config)?;
    let file = format!("--config.file={}", file.display());
    let flags: Vec<&str> = std::iter::once(file.as_str()).chain(flags.iter().copied()).collect();
    let theirs = start_prometheus(&binary, folder, net::free_port()?, &flags)?;
    let ours = start_narthex(folder, net::free_port()?, &flags)?;
    Ok(Some((ours, theirs)))
}

pub fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

/// Protobuf by hand: fields of each wire type.
pub mod pb {
    fn varint(out: &mut Vec<u8>, mut n: u64) {
        while n >= 0x80 {
            out.push(n as u8 | 0x80);
            n >>= 7;
        }
        out.push(n as u8);
    }

    pub fn number(field: u32, n: u64) -> Vec<u8> {
        let mut out = Vec::new();
        varint(&mut out, u64::from(field << 3));
        varint(&mut out, n);
        out
    }

    pub fn signed(field: u32, n: i64) -> Vec<u8> {
        number(field, ((n << 1) ^ (n >> 63)) as u64)
    }

    pub fn double(field: u32, v: f64) -> Vec<u8> {
        let mut out = vec![(field << 3 | 1) as u8];
        out.extend(v.to_le_bytes());
        out
    }

    pub fn bytes(field: u32, content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        varint(&mut out, u64::from(field << 3 | 2));
        varint(&mut out, content.len() as u64);
        out.extend(content);
        out
    }

    pub fn message(field: u32, parts: &[Vec<u8>]) -> Vec<u8> {
        bytes(field, &parts.concat())
    }

    pub fn doubles(field: u32, values: &[f64]) -> Vec<u8> {
        bytes(field, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
    }

    pub fn deltas(field: u32, values: &[i64]) -> Vec<u8> {
        let mut packed = Vec::new();
        values.iter().for_each(|n| varint(&mut packed, ((n << 1) ^ (n >> 63)) as u64));
        bytes(field, &packed)
    }
}

pub fn labels(pairs: &[(&str, &str)]) -> Vec<u8> {
    let one = |(n, v): &(&str, &str)| pb::message(1, &[pb::bytes(1, n.as_bytes()), pb::bytes(2, v.as_bytes())]);
    pairs.iter().flat_map(one).collect()
}

/// Floats and native histograms of all kinds, ending at `end` (ms).
pub fn data(end: i64) -> Vec<u8> {
    let mut series = Vec::new();
    for (i, value) in [|k: i64| k as f64 * 0.1, |k| (k * 7919 % 13) as f64, |k| (k / 7) as f64].iter().enumerate() {
        let mut parts = vec![labels(&[("__name__", "f"), ("i", &i.to_string()), ("u", "ü")])];
        for k in 0..400 {
            let v = if k == 50 { f64::NAN } else { value(k) };
            parts.push(pb::message(2, &[pb::double(1, v), pb::number(2, (end - (400 - k) * 15_000) as u64)]));
        }
        series.push(pb::message(1, &parts));
    }
    let at = |k: i64| pb::number(15, (end - (20 - k) * 15_000) as u64);
    let span = |field, offset, length| pb::message(field, &[pb::signed(1, offset), pb::number(2, length)]);
    let mut parts = vec![labels(&[("__name__", "h"), ("i", "0")])];
    for k in 0..20 {
        let n = 10 + k;
        let histogram = [
            pb::number(1, n as u64),
            pb::double(3, 3.25 * k as f64),
            pb::signed(4, 1),
            pb::double(5, 2f64.powi(-128)),
            pb::number(6, 1),
            span(8, 0, 1),
            pb::deltas(9, &[k]),
            span(11, -1, 2),
            span(11, 1, 2),
            pb::deltas(12, &[2, 1, -1, 0]),
            at(k),
        ];
        parts.push(pb::message(4, &histogram));
    }
    series.push(pb::message(1, &parts));
    let mut parts = vec![labels(&[("__name__", "h"), ("i", "1")])];
    for k in 0..20 {
        let histogram = [
            pb::double(2, 10.5 + k as f64),
            pb::double(3, 3.25 * k as f64),
            pb::signed(4, 3),
            pb::double(5, 1e-128),
            pb::double(7, 0.5),
            span(11, 0, 2),
            span(11, 3, 1),
            pb::doubles(13, &[1.5 + k as f64, 2.0, 6.5]),
            pb::number(14, if k % 2 == 1 { 3 } else { 0 }),
            at(k),
        ];
        parts.push(pb::message(4, &histogram));
    }
    series.push(pb::message(1, &parts));
    let mut parts = vec![labels(&[("__name__", "c")])];
    for k in 0..5 {
        let histogram = [
            pb::number(1, 10),
            pb::double(3, 5.5),
            pb::signed(4, -53),
            span(11, 0, 3),
            pb::deltas(12, &[2, 1, 2]),
            at(k),
            pb::doubles(16, &[0.5, 1.25, 33.333_333_3]),
        ];
        parts.push(pb::message(4, &histogram));
    }
    series.push(pb::message(1, &parts));
    series.concat()
}

pub fn push(server: &Server, request: &[u8]) -> Result<()> {
    let body = snap::raw::Encoder::new().compress_vec(request)?;
    let headers = [("Content-Encoding", "snappy"), ("Content-Type", "application/x-protobuf")];
    let answer = net::send(server.address, "POST", "/api/v1/write", &headers, &body)?;
    ensure!(answer.status == 204, "{} {}", answer.status, answer.text());
    Ok(())
}

/// The result of a query, its series sorted.
pub fn result(server: &Server, expr: &str, rest: &str) -> Result<Value> {
    let path = if rest.contains("step=") { "query_range" } else { "query" };
    let mut answer = server.json(&format!("/api/v1/{path}?query={}&{rest}", encode(expr)))?;
    if let Some(list) = answer["data"]["result"].as_array_mut() {
        list.sort_by_key(|s| s["metric"].to_string());
    }
    Ok(answer)
}

#[test]
fn a_prometheus_reads_what_is_here() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let config = "global: {scrape_interval: 1h, external_labels: {zone: eu}}\n";
    let Some((ours, theirs)) = both(folder.path(), config, &["--web.enable-remote-write-receiver"])? else {
        return Ok(());
    };
    let end = now();
    for server in [&ours, &theirs] {
        push(server, &data(end * 1000))?;
    }
    let Some(binary) = prometheus() else { return Ok(()) };
    let reader = |of: &Server, name: &str| -> Result<Server> {
        let folder = folder.path().join(name);
        std::fs::create_dir_all(&folder)?;
        let file = folder.join("prometheus.yml");
        let url = format!("http://{}/api/v1/read", of.address);
        std::fs::write(&file, format!("remote_read:\n- url: {url}\n  read_recent: true\n"))?;
        let flag = format!("--config.file={}", file.display());
        start_prometheus(&binary, &folder, net::free_port()?, &[&flag])
    };
    let (of_ours, of_theirs) = (reader(&ours, "ours")?, reader(&theirs, "theirs")?);
    for expr in [
        "f",
        "f[2h]",
        "h",
        "h[1h]",
        "c[1h]",
        "rate(f[5m])",
        "{__name__=~\".+\",zone=\"eu\"}[1h]",
        "count({zone=\"eu\"})",
        "f{zone=\"us\"}",
        "histogram_quantile(0.5, sum(rate(h[2m])))",
    ] {
        for rest in [format!("time={end}"), format!("start={}&end={end}&step=60", end - 3600)] {
            if expr.ends_with(']') && rest.contains("step=") {
                continue;
            }
            let (a, b) = (result(&of_ours, expr, &rest)?, result(&of_theirs, expr, &rest)?);
            ensure!(a == b, "{expr} {rest}: {a}\n   instead of\n{b}");
            ensure!(expr.contains("us") || b["data"]["result"] != json!([]), "{expr} selects nothing");
        }
    }
    // Without chunks, and what is no request.
    let matcher = pb::message(3, &[pb::bytes(2, b"__name__"), pb::bytes(3, b"f")]);
    let range = [pb::number(1, (end as u64 - 600) * 1000), pb::number(2, end as u64 * 1000), matcher];
    let bad = pb::message(3, &[pb::number(1, 2), pb::bytes(2, b"a"), pb::bytes(3, b"(")]);
    for body in [
        pb::message(1, &range),
        [pb::message(1, &range), pb::number(2, 1)].concat(),
        pb::number(2, 9),
        pb::message(1, &[bad]),
        vec![0x0a, 0x7f],
    ] {
        let packed = snap::raw::Encoder::new().compress_vec(&body)?;
        let ask = |s: &Server| net::send(s.address, "POST", "/api/v1/read", &[], &packed);
        let (a, b) = (ask(&ours)?, ask(&theirs)?);
        let type_of = |a: &net::Answer| a.header("content-type").to_owned();
        // Where Prometheus cuts its chunks depends on the time of day; what they hold was compared above.
        let chunks = type_of(&b).contains("ChunkedReadResponse");
        ensure!(
            (a.status, type_of(&a)) == (b.status, type_of(&b)) && (chunks || a.body.len() == b.body.len()),
            "{} {}\n   instead of\n{} {}",
            a.status,
            a.text(),
            b.status,
            b.text()
        );
    }
    // Federation writes the very same bytes, in every format.
    const FAMILY: &str = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
    for accept in ["", FAMILY, "text/plain;escaping=values", "text/plain;version=1.0.0;escaping=allow-utf-8"] {
        let path = format!("/federate?match[]={}", encode("{__name__=~\".+\"}"));
        let ask = |s: &Server| net::send(s.address, "GET", &path, &[("Accept", accept)], b"");
        let (a, b) = (ask(&ours)?, ask(&theirs)?);
        ensure!(a.header("content-type") == b.header("content-type"), "{accept}: {:?}", a.headers);
        ensure!(a.body == b.body && !b.body.is_empty(), "{accept}: {}\n   instead of\n{}", a.text(), b.text());
    }
    ours.stop()
}

/// A request from its entries: `a f1 h2` is an entry of the series `a` with a float at 1 and a histogram at 2.
fn in_turn(text: &str, start: i64) -> Vec<u8> {
    let entry = |entry: &str| {
        let mut words = entry.split_whitespace();
        let mut parts = vec![labels(&[("__name__", "x"), ("s", words.next().unwrap_or_default())])];
        for word in words {
            let (kind, k) = word.split_at(1);
            let k: i64 = k.parse().unwrap_or_default();
            let at = (start + k * 15_000) as u64;
            parts.push(if kind == "f" {
                pb::message(2, &[pb::double(1, k as f64), pb::number(2, at)])
            } else {
                let spans = pb::message(11, &[pb::signed(1, 0), pb::number(2, 1)]);
                let count = [pb::number(1, k as u64 + 1), pb::double(3, 1.5), pb::signed(4, 1), pb::double(5, 1e-128)];
                pb::message(4, &[count.concat(), spans, pb::deltas(12, &[k + 1]), pb::number(15, at)])
            });
        }
        pb::message(1, &parts)
    };
    text.split(';').flat_map(entry).collect()
}

#[test]
fn floats_and_histograms_of_one_series_come_in_turn() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let Some((ours, theirs)) = both(folder.path(), "", &["--web.enable-remote-write-receiver"])? else {
        return Ok(());
    };
    let end = now();
    let mut wrong = String::new();
    for (i, requests) in [
        &["S f1; S h2; S f3; S h4"][..],
        &["S h1; S f2; S h3; S f4"],
        &["S f1 h2", "S f3; S h4; S f5"],
        &["S f1", "S f2; S h3; S f4", "S f5; S h6 h7; S f8"],
        // A page with other series, of which all but one are plain.
        &[
            "A f1; B f1; C f1; D f1; S f1; S h2",
            "A f2; B f2; S f3; S h4; S f5; C f2; D f2",
            "A f6; B f6; S f6; C f6; D f6",
        ],
        &["A f1; B f1; C f1; D f1; S h1; E h1", "A f2; B f2; C f2; S f2; S h3; E h2; D f2"],
        &["S f1 f2; S h3 h4; S f5 f6"],
        &["S f1; S h1", "S f2"],
        &["S h1; S f1", "S f2"],
        &["S f1 f3 h2 h4", "S f5"],
        &["S f1; S f1", "S h2; S h2", "S f3"],
        &["S f1", "S f3; S f2; S f4", "S f2"],
        &["A f1; B f1; C f1; D f1; S f1", "A f3; B f3; C f3; D f3; S f3; S f2; A f2", "A f2", "S h3"],
    ]
    .iter()
    .enumerate()
    {
        let case =
            |r: &str| ["S", "A", "B", "C", "D", "E"].iter().fold(r.to_owned(), |r, s| r.replace(s, &format!("{s}{i}")));
        let mut said = Vec::new();
        for request in requests.iter().map(|r| case(r)) {
            let body = snap::raw::Encoder::new().compress_vec(&in_turn(&request, end * 1000 - 600_000))?;
            let headers = [("Content-Encoding", "snappy"), ("Content-Type", "application/x-protobuf")];
            let send = |s: &Server| net::send(s.address, "POST", "/api/v1/write", &headers, &body);
            said.push((send(&ours)?.status, send(&theirs)?.status));
        }
        let expr = format!("x{{s=~\".{i}\"}}[15m]");
        let time = format!("time={end}");
        let (a, b) = (result(&ours, &expr, &time)?, result(&theirs, &expr, &time)?);
        if a != b || said.iter().any(|s| s.0 != s.1) {
            let _ = writeln!(wrong, "{requests:?} {said:?}\n{a}\n   instead of\n{b}");
        }
    }
    ensure!(wrong.is_empty(), "{wrong}");
    ours.stop()
}

/// Requests whose status, `Allow`, `Location` and (but for pages) body have to be the same.
const PATHS: &[&str] = &[
    "GET /",
    "HEAD /",
    "POST /",
    "OPTIONS /",
    "GET //",
    "GET //api/v1/query",
    "GET /api",
    "GET /api/",
    "GET /api/v1",
    "GET /api/v1/",
    "GET /nope",
    "HEAD /nope",
    "OPTIONS /nope",
    "GET /api/v1/nope",
    "POST /api/v1/nope",
    "OPTIONS /api/v1/nope",
    "OPTIONS /api/v1/query",
    "OPTIONS /api/v1",
    "HEAD /api/v1/query?query=1",
    "PUT /api/v1/query",
    "DELETE /api/v1/series?match[]=up",
    "TRACE /api/v1/query",
    "GET /api/v1//query?query=1&time=1",
    "GET /api/v1/../v1/query?query=1&time=1",
    "GET /api/v1/status",
    "GET /api/v1/label//values",
    "GET /api/v1/label/a",
    "GET /api/v1/admin/tsdb/snapshot",
    "POST /api/v1/admin/tsdb/snapshot",
    "PUT /api/v1/admin/tsdb/snapshot",
    "POST /api/v1/admin/tsdb/delete_series?match[]=up",
    "POST /api/v1/admin/tsdb/clean_tombstones",
    "GET /api/v1/write",
    "POST /api/v1/write",
    "GET /api/v1/read",
    "POST /api/v1/read",
    "GET /api/v1/otlp/v1/metrics",
    "POST /api/v1/otlp/v1/metrics",
    "GET /-/healthy",
    "HEAD /-/healthy",
    "POST /-/healthy",
    "OPTIONS /-/healthy",
    "GET /-/ready",
    "HEAD /-/ready",
    "GET /-/reload",
    "POST /-/reload",
    "PUT /-/reload",
    "DELETE /-/reload",
    "GET /-/quit",
    "POST /-/quit",
    "GET /-/",
    "POST /version",
    "HEAD /version",
    "HEAD /metrics",
    "POST /metrics",
    "OPTIONS /metrics",
    "HEAD /federate",
    "GET /federate",
    "GET /federate?match[]=",
    "GET /federate?match[]=%zz",
    "GET /graph",
    "GET /graph?g0.expr=up",
    "GET /consoles",
    "GET /assets/nope.js",
    "POST /targets",
    "GET /targets/",
    "GET /api/v1/query?query=1&time=1 ~ Origin: http://x.org",
    "GET /api/v1/query?query=bad( ~ Origin: http://x.org",
    "OPTIONS /api/v1/query ~ Origin: http://x.org",
    "OPTIONS /api/v1/query ~ Accept-Encoding: gzip",
    "GET /api/v1/query?query=1&time=1 ~ Origin: ",
    "GET /api/v1/query/?query=1",
    "POST /api/v1/labels/",
    "GET /api/v1/Labels",
    "GET /api/v1?",
    "GET //federate?",
    "GET /%66ederate",
    "POST /%66ederate",
    "GET /agent",
    "GET /api/v1/notifications",
    "GET /api/v1/search/metric_names?limit=x",
    "POST /api/v1/search/label_names",
    "GET /api/v1/search/label_values",
    "GET /api/v1/targets/relabel_steps?scrapePool=x&labels=null",
    "GET /api/v1/targets/relabel_steps?scrapePool=x&labels=x",
    "GET /api/v1/targets/relabel_steps?scrapePool=x&labels=%22x%22",
    "GET /api/v1/targets/relabel_steps?scrapePool=x&labels=%7B%22a%22:1%7D",
    "GET /api/v1/targets/relabel_steps?scrapePool=x&labels=%7B%7D%20x",
    "GET /api/v1/targets/relabel_steps?scrapePool=x&labels=%7B",
    "GET /api/v1/rules?group_limit=99999999999999999999",
    "GET /federate?match[]=m%7B ~ Accept-Encoding: deflate",
    "GET /federate?match[]=up ~ Accept: text/plain;escaping=dots",
    "GET /metrics ~ Accept: text/plain;version=0.0.4;escaping=values",
];

#[test]
fn paths_and_methods_are_those_of_prometheus() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (prefix, flags) in [("", &[][..]), ("/p", &["--web.external-url=http://h/p"])] {
        let folder = folder.path().join(format!("of{}", prefix.replace('/', "-")));
        std::fs::create_dir_all(&folder)?;
        let config = "global: {scrape_interval: 1h}\n";
        let Some(binary) = prometheus() else {
            println!("skipped: no Prometheus to compare with");
            return Ok(());
        };
        let file = folder.join("prometheus.yml");
        std::fs::write(&file, config)?;
        let start = |narthex: bool| -> Result<Server> {
            let port = net::free_port()?;
            let mut args = vec![
                format!("--config.file={}", file.display()),
                format!("--web.listen-address=127.0.0.1:{port}"),
                format!("--storage.tsdb.path={}", folder.join(if narthex { "n" } else { "p" }).display()),
            ];
            args.extend(flags.iter().map(|f| (*f).to_owned()));
            let binary = if narthex {
                args.insert(0, "server".into());
                crate::process::narthex()?
            } else {
                binary.clone()
            };
            let log = folder.join(if narthex { "n.log" } else { "p.log" });
            Server::start(&binary, &args, port, &log, &format!("{prefix}/-/ready"))
        };
        let (ours, theirs) = (start(true)?, start(false)?);
        let mut wrong = String::new();
        let plain = ["GET /", "GET /api/v1/query?query=1&time=1", "GET /nope"].map(|l| (l, false));
        for (line, prefixed) in PATHS.iter().map(|l| (*l, true)).chain(plain) {
            let (request, header) = line.split_once(" ~ ").unwrap_or((line, ""));
            let (method, path) = request.split_once(' ').unwrap_or(("GET", request));
            let path = if prefixed { format!("{prefix}{path}") } else { path.to_owned() };
            let header: Vec<(&str, &str)> = header.split_once(": ").into_iter().collect();
            let ask = |s: &Server| net::send(s.address, method, &path, &header, b"");
            let (a, b) = (ask(&ours)?, ask(&theirs)?);
            let shown = |a: &net::Answer| {
                let names =
                    ["allow", "location", "vary", "content-type", "access-control-allow-origin", "content-encoding"];
                let headers: Vec<String> = names.iter().map(|n| format!("{n}: {}", a.header(n))).collect();
                // The tests' Prometheus has no page, and texts of metrics differ.
                let hidden = path.ends_with("/metrics") || !a.header("content-encoding").is_empty();
                let body = if hidden { String::new() } else { a.text() };
                format!("{} {headers:?} {body}", a.status)
            };
            if path.ends_with("/query") && b.status == 500 {
                continue;
            }
            if shown(&a) != shown(&b) && b.status != 500 {
                let _ = writeln!(wrong, "-- {method} {path}\n{}\n   instead of\n{}", shown(&a), shown(&b));
            }
        }
        ensure!(wrong.is_empty(), "prefix {prefix:?}:\n{wrong}");
        ours.stop()?;
    }
    Ok(())
}

/// Attributes from names and values as JSON has them.
fn attributes(list: &[(&str, Value)]) -> Value {
    list.iter().map(|(key, value)| json!({"key": key, "value": value})).collect()
}

fn otlp(end: i64) -> Value {
    let at = |s: i64| ((end - s) * 1_000_000_000).to_string();
    let text = |v: &str| json!({"stringValue": v});
    let both = attributes(&[("http.method", text("GET")), ("http_method", text("x")), ("_p", text("1"))]);
    let odd = attributes(&[
        ("n", json!({"intValue": "1"})),
        ("d", json!({"doubleValue": 1e-7})),
        ("b", json!({"boolValue": true})),
        ("list", json!({"arrayValue": {"values": [{"intValue": "1"}, {"stringValue": "x"}]}})),
        ("map", json!({"kvlistValue": {"values": attributes(&[("z", text("1"))])}})),
        ("bytes", json!({"bytesValue": "AQID"})),
    ]);
    let exemplar = json!({"timeUnixNano": at(31), "asDouble": 0.5, "traceId": "0af7651916cd43dd8448eb211c80319c",
        "filteredAttributes": attributes(&[("u", text("v"))])});
    let metrics = json!([
        {"name": "http.requests", "unit": "By", "sum": {"isMonotonic": true, "aggregationTemporality": 2, "dataPoints": [
            {"timeUnixNano": at(60), "startTimeUnixNano": at(300), "asInt": "7", "attributes": both},
            {"timeUnixNano": at(30), "startTimeUnixNano": at(45), "asDouble": 8.25, "attributes": both,
                "exemplars": [exemplar]},
            {"timeUnixNano": at(30), "asInt": "1", "flags": 1, "attributes": odd}]}},
        {"name": "cpu.utilization", "unit": "1", "gauge": {"dataPoints": [
            {"timeUnixNano": at(30), "startTimeUnixNano": at(100), "asDouble": 0.5}]}},
        {"name": "weird..name__x", "unit": "{x}/s", "gauge": {"dataPoints": [{"timeUnixNano": at(30), "asDouble": -1}]}},
        {"name": "up.down", "unit": "ms", "sum": {"aggregationTemporality": 2,
            "dataPoints": [{"timeUnixNano": at(30), "asInt": "-4"}]}},
        {"name": "lat", "unit": "s", "histogram": {"aggregationTemporality": 2, "dataPoints": [
            {"timeUnixNano": at(30), "startTimeUnixNano": at(50), "count": "6", "sum": 1.5, "bucketCounts": ["0", "0", "4", "2"],
                "explicitBounds": [0.1, 0.5, 1], "exemplars": [exemplar]}]}},
        {"name": "exp", "exponentialHistogram": {"aggregationTemporality": 2, "dataPoints": [
            {"timeUnixNano": at(30), "startTimeUnixNano": at(70), "count": "9", "sum": 2.5, "zeroCount": "1", "scale": 3,
                "positive": {"offset": -1, "bucketCounts": ["1", "0", "0", "0", "3", "2"]},
                "negative": {"offset": 5, "bucketCounts": ["2"]}, "attributes": attributes(&[("s", text("3"))])},
            {"timeUnixNano": at(30), "count": "6", "sum": 2.5, "scale": 10,
                "positive": {"offset": -7, "bucketCounts": ["1", "0", "0", "0", "3", "2"]},
                "attributes": attributes(&[("s", text("10"))])}]}},
        {"name": "sumry", "unit": "By/s", "summary": {"dataPoints": [{"timeUnixNano": at(30), "startTimeUnixNano": at(400), "count": "3", "sum": 4.5,
            "quantileValues": [{"quantile": 0.5, "value": 1}, {"quantile": 0.99, "value": 2.5}]}]}},
    ]);
    let resource = attributes(&[
        ("service.name", text("shop")),
        ("service.namespace", text("ns")),
        ("service.instance.id", text("i1")),
        ("host.name", text("hö")),
        ("k8s.pod.uid", text("u-1")),
    ]);
    let scope = json!({"name": "lib", "version": "1.2", "attributes": attributes(&[("a.b", text("q"))])});
    json!({"resourceMetrics": [{"resource": {"attributes": resource},
        "scopeMetrics": [{"scope": scope, "schemaUrl": "http://s", "metrics": metrics}]}]})
}

#[test]
fn otlp_becomes_the_series_that_prometheus_makes_of_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (i, (section, features)) in [
        ("", ""),
        ("", ",type-and-unit-labels"),
        ("", ",created-timestamp-zero-ingestion"),
        ("otlp: {convert_histograms_to_nhcb: true}\n", ",created-timestamp-zero-ingestion,type-and-unit-labels"),
        ("otlp: {translation_strategy: NoTranslation}\n", ",type-and-unit-labels"),
        ("otlp: {translation_strategy: NoTranslation}\n", ""),
        ("otlp: {translation_strategy: UnderscoreEscapingWithoutSuffixes}\n", ""),
        ("otlp: {translation_strategy: NoUTF8EscapingWithSuffixes, promote_scope_metadata: true}\n", ""),
        ("otlp: {promote_all_resource_attributes: true, ignore_resource_attributes: [k8s.pod.uid], convert_histograms_to_nhcb: true, keep_identifying_resource_attributes: true, label_name_preserve_multiple_underscores: false}\n", ""),
        ("otlp: {promote_resource_attributes: [host.name, service.name], promote_scope_metadata: true, label_name_underscore_sanitization: false}\n", ""),
    ]
    .iter()
    .enumerate()
    {
        let folder = folder.path().join(i.to_string());
        std::fs::create_dir_all(&folder)?;
        let config = format!("global: {{scrape_interval: 1h}}\n{section}");
        let features = format!("--enable-feature=exemplar-storage{features}");
        let Some((ours, theirs)) = both(&folder, &config, &["--web.enable-otlp-receiver", &features])? else { return Ok(()) };
        let end = now();
        let send = |s: &Server, body: &Value| {
            let kind = [("Content-Type", "application/json")];
            net::send(s.address, "POST", "/api/v1/otlp/v1/metrics", &kind, body.to_string().as_bytes())
        };
        for server in [&ours, &theirs] {
            let answer = send(server, &otlp(end))?;
            ensure!(answer.status == 200, "{section}: {} {}", answer.status, answer.text());
        }
        let time = format!("time={end}");
        let all = "{__name__=~\".+\"}[10m]";
        let (a, b) = (result(&ours, all, &time)?, result(&theirs, all, &time)?);
        ensure!(a == b, "{section}: {a}\n   instead of\n{b}");
        ensure!(b["data"]["result"].as_array().is_some_and(|l| l.len() > 10), "{section}: {b}");
        let exemplars = format!(
            "/api/v1/query_exemplars?query={}&start={}&end={end}",
            encode("{__name__=~\".+\"}"),
            end - 1000
        );
        let (a, b) = (ours.json(&exemplars)?, theirs.json(&exemplars)?);
        ensure!(a == b, "{section}: {a}\n   instead of\n{b}");
        // What is refused, and how.
        let point = json!({"dataPoints": [{"timeUnixNano": format!("{end}000000000"), "asInt": "1"}]});
        for metric in [
            json!({"name": "d", "sum": {"aggregationTemporality": 1, "dataPoints": point["dataPoints"]}}),
            json!({"name": "e", "gauge": {"dataPoints": []}}),
            json!({"name": "...", "gauge": point}),
            json!({"name": "n"}),
        ] {
            let request = json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": [metric]}]}]});
            let (a, b) = (send(&ours, &request)?, send(&theirs, &request)?);
            let same = (a.status, a.text()) == (b.status, b.text());
            ensure!(same, "{metric}: {} {}\n   instead of\n{} {}", a.status, a.text(), b.status, b.text());
        }
        ours.stop()?;
    }
    Ok(())
}

#[test]
fn otlp_differences_are_summed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let flags = ["--web.enable-otlp-receiver", "--enable-feature=otlp-deltatocumulative"];
    let Some((ours, theirs)) = both(folder.path(), "global: {scrape_interval: 1h}\n", &flags)? else {
        return Ok(());
    };
    let end = now();
    let at = |s: i64| ((end - s) * 1_000_000_000).to_string();
    // Start, time, a factor.
    for (start, time, n) in [(300, 290, 1), (290, 280, 2), (290, 280, 3), (310, 270, 4), (280, 260, 5), (260, 285, 6)] {
        let times = json!({"startTimeUnixNano": at(start), "timeUnixNano": at(time)});
        let with = |more: Value| {
            let mut point = times.clone();
            if let (Some(point), Some(more)) = (point.as_object_mut(), more.as_object()) {
                point.extend(more.clone());
            }
            point
        };
        let bounds = if n == 5 { json!([1, 2]) } else { json!([1, 2, 3]) };
        let counts: Vec<i64> = (0..bounds.as_array().map_or(0, Vec::len) as i64 + 1).map(|i| i * n).collect();
        let count: i64 = counts.iter().sum();
        let threshold = [0.0, 0.3, 0.25, 0.01, 1.0, 0.5][n as usize % 6];
        let metrics = json!([
            {"name": "grows", "sum": {"isMonotonic": true, "aggregationTemporality": 1, "dataPoints": [
                with(json!({"asInt": n.to_string(), "attributes": attributes(&[("a", json!({"stringValue": "x"}))])})),
                with(json!({"asDouble": n as f64 / 4.0}))]}},
            {"name": "moves", "sum": {"aggregationTemporality": 1, "dataPoints": [with(json!({"asDouble": 3 - n}))]}},
            {"name": "total", "sum": {"isMonotonic": true, "aggregationTemporality": 2,
                "dataPoints": [with(json!({"asDouble": n * 10, "timeUnixNano": at(time - n)}))]}},
            {"name": "lat", "histogram": {"aggregationTemporality": 1, "dataPoints": [
                with(json!({"count": count, "sum": 1.5, "bucketCounts": counts, "explicitBounds": bounds}))]}},
            {"name": "exp", "exponentialHistogram": {"aggregationTemporality": 1, "dataPoints": [
                with(json!({"count": 6 * n + 1, "sum": 2.5, "zeroCount": 1, "scale": 4 - n % 3,
                    "positive": {"offset": n - 3, "bucketCounts": [n, 0, 2 * n]},
                    "negative": {"offset": 1000 * n, "bucketCounts": [3 * n]}}))]}},
            {"name": "zero", "exponentialHistogram": {"aggregationTemporality": 1, "dataPoints": [
                with(json!({"count": 19 * n + 1, "sum": 2.5, "zeroCount": 1, "scale": 3 - n % 2,
                    "zeroThreshold": threshold,
                    "positive": {"offset": -20, "bucketCounts": vec![n; 16]},
                    "negative": {"offset": -6 - n, "bucketCounts": [n, 0, 2 * n]}}))]}},
        ]);
        let request = json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": metrics}]}]}).to_string();
        let mut said = Vec::new();
        for server in [&ours, &theirs] {
            let kind = [("Content-Type", "application/json")];
            let answer = net::send(server.address, "POST", "/api/v1/otlp/v1/metrics", &kind, request.as_bytes())?;
            said.push((answer.status, answer.text()));
        }
        ensure!(said[0] == said[1], "{n}: {said:?}");
    }
    let (all, time) = ("{__name__=~\".+\"}[10m]", format!("time={end}"));
    let (a, b) = (result(&ours, all, &time)?, result(&theirs, all, &time)?);
    ensure!(a == b, "{a}\n   instead of\n{b}");
    ensure!(b["data"]["result"].as_array().is_some_and(|l| l.len() > 8), "{b}");
    ours.stop()
}

/// A 2.0 request: series by labels, type (a number) and unit, with samples (start, time, value) and histograms likewise.
type Pushed<'a> = (&'a [(&'a str, &'a str)], u64, &'a str, &'a [(i64, i64, f64)], &'a [(i64, i64, u64)]);

fn write2(series: &[Pushed<'_>]) -> Vec<u8> {
    let mut symbols = vec![String::new()];
    let mut reference = |text: &str| {
        let found = symbols.iter().position(|s| s == text);
        found.unwrap_or_else(|| {
            symbols.push(text.to_owned());
            symbols.len() - 1
        }) as u64
    };
    let mut body = Vec::new();
    for (labels, kind, unit, samples, histograms) in series {
        let mut parts: Vec<Vec<u8>> =
            labels.iter().flat_map(|(n, v)| [reference(n), reference(v)]).map(|r| pb::number(1, r)).collect();
        for (start, time, value) in *samples {
            let fields = [pb::double(1, *value), pb::number(2, *time as u64), pb::number(3, *start as u64)];
            parts.push(pb::message(2, &fields));
        }
        for (start, time, n) in *histograms {
            let span = pb::message(11, &[pb::signed(1, 0), pb::number(2, 1)]);
            let counts = [pb::number(1, *n), pb::double(3, 1.5), pb::signed(4, 1), pb::double(5, 1e-128)];
            let times = [pb::number(15, *time as u64), pb::number(17, *start as u64)];
            parts.push(pb::message(3, &[counts.concat(), span, pb::deltas(12, &[*n as i64]), times.concat()]));
        }
        parts.push(pb::message(5, &[pb::number(1, *kind), pb::number(4, reference(unit))]));
        body.extend(pb::message(5, &parts));
    }
    let symbols: Vec<u8> = symbols.iter().flat_map(|s| pb::bytes(4, s.as_bytes())).collect();
    [symbols, body].concat()
}

/// What 2.0 says of a series beside its samples: type, unit and starts, by the features that use them.
#[test]
fn remote_write_2_with_starts_types_and_units() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (i, features) in [
        "created-timestamp-zero-ingestion",
        "type-and-unit-labels",
        "created-timestamp-zero-ingestion,type-and-unit-labels",
    ]
    .iter()
    .enumerate()
    {
        let folder = folder.path().join(i.to_string());
        std::fs::create_dir_all(&folder)?;
        let features = format!("--enable-feature={features}");
        let flags = ["--web.enable-remote-write-receiver", &features];
        let config = "storage: {tsdb: {out_of_order_time_window: 1m}}\n";
        let Some((ours, theirs)) = both(&folder, if i == 2 { config } else { "" }, &flags)? else { return Ok(()) };
        let end = now() * 1000;
        let at = |s: i64| end - s * 1000;
        let name = |n: &'static str| [("__name__", n)];
        let own = [("__name__", "own"), ("__type__", "gauge"), ("__unit__", "x"), ("a", "1")];
        let requests = [
            write2(&[
                (&name("c"), 1, "seconds", &[(at(400), at(300), 5.0), (at(400), at(285), 6.0)], &[]),
                (&name("r"), 1, "", &[(at(400), at(300), 5.0), (at(290), at(285), 1.0), (0, at(270), 2.0)], &[]),
                (&name("h"), 3, "", &[], &[(at(400), at(300), 5), (at(290), at(285), 1)]),
                (&name("old"), 1, "", &[(at(9000), at(300), 5.0)], &[]),
                (&name("late"), 1, "", &[(at(200), at(300), 5.0)], &[]),
                (&name("g"), 2, "", &[(0, at(300), 5.0)], &[]),
                (&name("u"), 0, "bytes", &[(1, at(300), 5.0)], &[]),
                (&own, 1, "y", &[(0, at(300), 5.0)], &[]),
                (&own[..3], 0, "", &[(0, at(300), 5.0)], &[]),
            ]),
            // Known by now.
            write2(&[
                (&name("c"), 1, "seconds", &[(at(400), at(255), 7.0)], &[]),
                (&name("r"), 1, "", &[(at(265), at(255), 1.0)], &[]),
                (&name("h"), 3, "", &[], &[(at(265), at(255), 2)]),
                (&name("g"), 2, "", &[(at(280), at(255), 5.0)], &[]),
                (&own, 1, "y", &[(0, at(255), 5.0)], &[]),
            ]),
            // With another type.
            write2(&[
                (&name("c"), 2, "seconds", &[(at(400), at(240), 7.0)], &[]),
                (&name("g"), 1, "s", &[(at(250), at(240), 5.0), (at(241), at(239), 5.0)], &[]),
            ]),
            write2(&[(&name("c"), 1, "seconds", &[(at(400), at(225), 8.0)], &[(at(220), at(215), 5)])]),
        ];
        for request in &requests {
            let body = snap::raw::Encoder::new().compress_vec(request)?;
            let kind = "application/x-protobuf;proto=io.prometheus.write.v2.Request";
            let headers = [("Content-Encoding", "snappy"), ("Content-Type", kind)];
            let mut said = Vec::new();
            for server in [&ours, &theirs] {
                let answer = net::send(server.address, "POST", "/api/v1/write", &headers, &body)?;
                let written = "x-prometheus-remote-write-samples-written";
                said.push((answer.status, answer.header(written).to_owned()));
            }
            ensure!(said[0] == said[1], "{features}: {said:?}");
        }
        let time = format!("time={}", end / 1000);
        let all = "{__name__=~\".+\"}[10m]";
        let (a, b) = (result(&ours, all, &time)?, result(&theirs, all, &time)?);
        ensure!(a == b, "{features}: {a}\n   instead of\n{b}");
        ensure!(b["data"]["result"].as_array().is_some_and(|l| l.len() > 7), "{b}");
        ours.stop()?;
    }
    Ok(())
}

/// The limits of remote read: so many samples in an answer of the old kind, so many bytes in a frame of the new one.
#[test]
fn remote_read_is_limited_as_in_prometheus() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let flags = [
        "--web.enable-remote-write-receiver",
        "--storage.remote.read-sample-limit=500",
        "--storage.remote.read-max-bytes-in-frame=2000",
        "--storage.remote.read-concurrent-limit=1",
    ];
    let Some((ours, theirs)) = both(folder.path(), "global: {scrape_interval: 1h}\n", &flags)? else { return Ok(()) };
    let end = now() * 1000;
    for server in [&ours, &theirs] {
        push(server, &data(end))?;
    }
    let query = |name: &str, value: &str, from: i64| {
        let matcher = pb::message(3, &[pb::bytes(2, name.as_bytes()), pb::bytes(3, value.as_bytes())]);
        pb::message(1, &[pb::number(1, (end - from) as u64), pb::number(2, end as u64), matcher])
    };
    let hour = 3_600_000;
    let mut frames = 0;
    for (what, request) in [
        ("few", query("__name__", "c", hour)),
        ("one series", [query("i", "1", 100_000)].concat()),
        ("too many", query("__name__", "f", 2 * hour)),
        ("too many in two", [query("i", "0", hour), query("i", "2", hour)].concat()),
        ("nothing", query("__name__", "nope", hour)),
        ("streamed", [query("__name__", "f", 2 * hour), pb::number(2, 1)].concat()),
        ("no request", b"\xff\xff".to_vec()),
    ] {
        let body = snap::raw::Encoder::new().compress_vec(&request)?;
        let headers = [("Content-Encoding", "snappy"), ("Content-Type", "application/x-protobuf")];
        let ask = |s: &Server| net::send(s.address, "POST", "/api/v1/read", &headers, &body);
        let (a, b) = (ask(&ours)?, ask(&theirs)?);
        ensure!(a.status == b.status, "{what}: {} {}\n   instead of\n{} {}", a.status, a.text(), b.status, b.text());
        ensure!(a.header("content-type") == b.header("content-type"), "{what}: {:?}", a.headers);
        if b.status != 200 && what != "no request" {
            ensure!(a.text() == b.text(), "{what}: {}\n   instead of\n{}", a.text(), b.text());
        }
        if what == "streamed" {
            // Each frame is its length, a checksum and a message.
            let mut rest = &a.body[..];
            while !rest.is_empty() {
                let (mut length, mut shift) = (0usize, 0);
                while let Some((byte, more)) = rest.split_first() {
                    length |= usize::from(byte & 0x7f) << shift;
                    (rest, shift) = (more, shift + 7);
                    if byte & 0x80 == 0 {
                        break;
                    }
                }
                // A frame ends with the chunk that makes it too long.
                ensure!(length < 2000 + 1500, "{length}");
                rest = rest.get(4 + length..).unwrap_or_default();
                frames += 1;
            }
        }
    }
    ensure!(frames > 1, "{frames} frames");
    ours.stop()
}
