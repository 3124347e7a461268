//! The Pushgateway's paths over a store in memory: our own cases of what one does, hostile bodies, what the store gets.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use http::{Request, header};
use http_body_util::BodyExt;
use narthex_model::{MatchType, Matcher, is_stale};
use narthex_server::push::proto::{self, MetricFamily};
use narthex_server::push::{MAX_BODY, PushOptions, TTL_HEADER};
use narthex_server::{App, Options};
use narthex_storage::memory::MemoryStore;
use narthex_storage::{Queryable, SelectRequest};
use prost::Message;
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt;

use super::{app_with, options, send};

struct Gateway {
    app: Arc<App>,
    store: MemoryStore,
    folder: TempDir,
}

fn gateway_with(push: PushOptions, more: impl FnOnce(&mut Options)) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    let (app, store) = reopened(push, more, &folder);
    Gateway { app, store, folder }
}

fn reopened(push: PushOptions, more: impl FnOnce(&mut Options), folder: &TempDir) -> (Arc<App>, MemoryStore) {
    let mut options = Options { push: Some(push), ..options() };
    more(&mut options);
    let (app, store) = app_with(options);
    app.open_push(folder.path()).unwrap();
    (app, store)
}

fn gateway() -> Gateway {
    gateway_with(PushOptions::default(), |_| {})
}

impl Gateway {
    async fn request(&self, line: &str, headers: &[(&str, &str)], body: impl Into<axum::body::Body>) -> (u16, String) {
        let (method, path) = line.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (status, _, text) = send(&self.app, request.body(body.into()).unwrap()).await;
        (status, text)
    }

    async fn push(&self, line: &str, body: &str) -> (u16, String) {
        self.request(line, &[], body.to_owned()).await
    }

    /// The pushed series, as `name{labels} value`, but for times.
    async fn series(&self) -> Vec<String> {
        let (status, text) = self.push("GET /metrics/pushed", "").await;
        assert_eq!(status, 200);
        let mut lines: Vec<String> =
            text.lines().filter(|l| !l.starts_with('#') && !l.starts_with("push_")).map(sorted_labels).collect();
        lines.sort();
        lines
    }

    /// The newest samples in the store of series with a name: labels without it, and the value.
    async fn stored(&self, name: &str) -> BTreeMap<String, f64> {
        stored(&self.store, name).await.into_iter().map(|(l, s)| (l, s.last().unwrap().1)).collect()
    }
}

async fn stored(store: &MemoryStore, name: &str) -> BTreeMap<String, Vec<(i64, f64)>> {
    let matcher = Matcher::new(MatchType::Equal, "__name__", name).unwrap();
    let set = store.select(SelectRequest::new(vec![matcher], 0, i64::MAX)).await.unwrap();
    let series = set.collect_sorted().unwrap();
    series.into_iter().map(|s| (s.labels.drop_metric_name().to_string(), s.floats.iter().collect())).collect()
}

/// A line of text with its labels by name; the values here have no commas or braces.
fn sorted_labels(line: &str) -> String {
    let Some((name, rest)) = line.split_once('{') else { return line.to_owned() };
    let (labels, value) = rest.rsplit_once('}').unwrap();
    let mut labels: Vec<&str> = labels.split(',').collect();
    labels.sort();
    format!("{name}{{{}}}{value}", labels.join(","))
}

#[tokio::test]
async fn cases_of_what_a_pushgateway_does() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../testdata/pushgateway.json")).unwrap();
    assert_eq!(cases.len(), 35);
    for case in cases {
        let gateway = gateway();
        for step in case["steps"].as_array().unwrap() {
            let text = |name: &str| step[name].as_str().unwrap_or_default().to_owned();
            let (status, answer) = gateway.push(&format!("{} {}", text("method"), text("path")), &text("body")).await;
            assert_eq!(u64::from(status), step["status"].as_u64().unwrap(), "{}: {answer}", case["name"]);
            if let Some(metrics) = step["metrics"].as_array() {
                let mut expected: Vec<_> = metrics.iter().map(|m| m.as_str().unwrap().to_owned()).collect();
                expected.sort();
                assert_eq!(gateway.series().await, expected, "{}", case["name"]);
            }
        }
    }
}

/// Bodies of text and what becomes of them, in the words of a real Pushgateway 1.11.3.
#[tokio::test]
async fn texts_are_read_as_strictly_as_a_pushgateway_does() {
    const BAD: &str = "text format parsing error in line ";
    for (body, expected) in [
        ("a 1\n", "ok"),
        ("a 1", "1: unexpected end of input stream"),
        ("a 1 \n", "1: expected integer as timestamp, got \"\""),
        ("a 1 5 \n", "1: spurious string after timestamp: \" \""),
        ("a\n", "1: expected float as value, got \"\""),
        ("a 1e\n", "1: expected float as value, got \"1e\""),
        ("a 0x1p2\n", "1: expected float as value, got \"0x1p2\""),
        ("a 1e999\n", "1: expected float as value, got \"1e999\""),
        ("\n\n # x\n#\n# TYPE\n# HELP a\n", "1: unexpected end of input stream|ok"),
        ("# HELP a x\n# HELP a y\n", "2: second HELP line for metric name \"a\""),
        (
            "# TYPE a gauge\n# TYPE a gauge\n",
            "2: second TYPE line for metric name \"a\", or TYPE reported after samples",
        ),
        ("a 1\n# TYPE a gauge\n", "2: second TYPE line for metric name \"a\", or TYPE reported after samples"),
        ("# TYPE a what\n", "1: unknown metric type \"what\""),
        ("# TYPE a Gauge\na 1\n", "ok"),
        ("# HELP a \\t\n", "1: invalid escape sequence '\\t'"),
        ("# HELP a+ x\n", "1: invalid metric name in comment"),
        ("a{b=\"1\",b=\"2\"} 1\n", "1: duplicate label names for metric \"a\""),
        ("a{__name__=\"b\"} 1\n", "1: label name \"__name__\" is reserved"),
        ("a{b 1\n", "1: expected '=' after label name, found '1'"),
        ("a{b=1} 1\n", "1: expected '\"' at start of label value, found '1'"),
        ("a{b=\"1\" c} 1\n", "1: unexpected end of label value \"1\""),
        ("a{b=\"x\ny\"} 1\n", "1: label value \"x\" contains unescaped new-line"),
        ("a{b=\"\\x\"} 1\n", "1: invalid escape sequence '\\x'"),
        ("a{=\"x\"} 1\n", "1: invalid label name for metric \"a\""),
        ("é 1\n", "1: invalid metric name"),
        ("{\"a\",b=\"1\"} 1\n", "ok"),
        ("{\"a\",\"b\"} 1\n", "1: multiple metric names for metric \"a\""),
        ("{\"a.b\"} 1\n", "1: invalid metric name \"a.b\""),
        ("# TYPE h histogram\nh_count -1\n", "2: negative count for histogram \"h\""),
        ("# TYPE h histogram\nh_bucket{le=\"x\"} 1\n", "2: expected float as value for 'le' label, got \"x\""),
        ("# TYPE s summary\ns{quantile=\"x\"} 1\n", "2: expected float as value for 'quantile' label, got \"x\""),
    ] {
        let (status, text) = gateway().push("PUT /metrics/job/j", body).await;
        let expected = expected.rsplit('|').next().unwrap();
        match expected {
            "ok" => assert_eq!((status, text.as_str()), (200, ""), "{body:?}"),
            expected => assert_eq!((status, text.trim_end()), (400, format!("{BAD}{expected}").as_str()), "{body:?}"),
        }
    }
}

#[tokio::test]
async fn what_is_inconsistent_is_told_in_the_words_of_a_pushgateway() {
    const BAD: &str = "pushed metrics are invalid or inconsistent with existing metrics: ";
    let label = |n: &str, v: &str| format!("label:{{name:\"{n}\"  value:\"{v}\"}}");
    let own = format!("{}  {}", label("instance", ""), label("job", "j"));
    for (before, path, body, expected) in [
        ("", "j", "a 1 5\n", "pushed metrics must not have timestamps".to_owned()),
        ("", "j", "push_time_seconds 1 5\n", "pushed metrics must not have timestamps".to_owned()),
        (
            "",
            "j",
            "a 1\na 2\n",
            format!(
                "collected metric \"a\" {{ {own}  untyped:{{value:2}}}} was collected before with the same name and label values"
            ),
        ),
        (
            "# TYPE a counter\na 1\n",
            "k",
            "# TYPE a gauge\na 1\n",
            format!(
                "collected metric \"a\" {{ {}  {}  gauge:{{value:1}}}} is not a COUNTER",
                label("instance", ""),
                label("job", "k")
            ),
        ),
        (
            "",
            "k",
            "# TYPE go_info counter\ngo_info 1\n",
            "gathered metric family go_info has type COUNTER but should have GAUGE".to_owned(),
        ),
        ("# TYPE h histogram\nh_count 1\n", "k", "# TYPE h gaugehistogram\nh_count 1\n", String::new()),
        ("a 1\n", "j", "# TYPE a gauge\na 1\n", String::new()),
        (
            "# TYPE h histogram\nh_count 1\n",
            "k",
            "h_count 1\n",
            "collected metric named \"h_count\" collides with previously collected histogram named \"h\"".to_owned(),
        ),
        (
            "s_sum 1\n",
            "k",
            "# TYPE s summary\ns_sum 1\n",
            "collected histogram or summary named \"s\" collides with previously collected metric named \"s_sum\""
                .to_owned(),
        ),
        (
            "",
            "j",
            "a{__b=\"1\"} 1\n",
            format!(
                "collected metric \"a\" {{ {}  {own}  untyped:{{value:1}}}} has a label with an invalid name: __b",
                label("__b", "1")
            ),
        ),
        (
            "a{x=\"y\"} 1\n",
            "j/x/y",
            "a 1\n",
            format!(
                "collected metric \"a\" {{ {own}  {}  untyped:{{value:1}}}} was collected before with the same name and label values",
                label("x", "y")
            ),
        ),
    ] {
        let gateway = gateway();
        assert_eq!(gateway.push("PUT /metrics/job/j", before).await.0, 200);
        let before = gateway.series().await;
        let (status, text) = gateway.push(&format!("PUT /metrics/job/{path}"), body).await;
        if expected.is_empty() {
            assert_eq!((status, text.as_str()), (200, ""), "{body}");
            continue;
        }
        assert_eq!((status, text.trim_end()), (400, format!("{BAD}{expected}").as_str()), "{body}");
        assert_eq!(gateway.series().await, before, "{body}");
        // The group notes it, and is there for that.
        let (_, api) = gateway.push("GET /api/v1/metrics", "").await;
        let api: Value = serde_json::from_str(&api).unwrap();
        let failed = api["data"].as_array().unwrap().iter().find(|g| g["last_push_successful"] == false);
        assert!(failed.is_some(), "{api}");
    }
}

#[tokio::test]
async fn what_was_pushed_is_in_the_store_until_it_goes() {
    let gateway = gateway();
    let body = "# HELP a Help.\n# TYPE a counter\na{x=\"\",job=\"other\"} 1\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_count 2\nh_sum 3\n";
    assert_eq!(gateway.push("PUT /metrics/job/j/y/z", body).await.0, 200);
    let key = "{job=\"j\", y=\"z\"}".to_owned();
    assert_eq!(gateway.stored("a").await, BTreeMap::from([(key.clone(), 1.0)]));
    let buckets = ["+Inf", "1.0"].map(|le| format!("{{job=\"j\", le=\"{le}\", y=\"z\"}}"));
    let [inf, one] = buckets;
    assert_eq!(gateway.stored("h_bucket").await, BTreeMap::from([(inf, 2.0), (one, 1.0)]));
    assert!(gateway.stored("push_time_seconds").await[&key] > 1e9);
    assert_eq!(gateway.stored("push_failure_time_seconds").await[&key], 0.0);
    let metadata = gateway.store.metadata(Some("a")).await.unwrap();
    assert_eq!(metadata[0].metadata.help, "Help.");

    // Every interval says it again.
    let push = gateway.app.push.get().unwrap().clone();
    push.tick();
    push.tick();
    let samples = stored(&gateway.store, "a").await[&key].clone();
    assert_eq!(samples.iter().map(|s| s.1).collect::<Vec<_>>(), [1.0, 1.0, 1.0]);

    // A push that has it no more ends it; what stays goes on.
    assert_eq!(gateway.push("PUT /metrics/job/j/y/z", "b 5\n").await.0, 200);
    assert!(is_stale(gateway.stored("a").await[&key]));
    assert_eq!(gateway.stored("b").await[&key], 5.0);
    push.tick();
    assert!(is_stale(gateway.stored("a").await[&key]));
    assert_eq!(stored(&gateway.store, "a").await[&key].len(), 4);
    assert_eq!(gateway.push("POST /metrics/job/j/y/z", "a 7\n").await.0, 200);
    assert_eq!((gateway.stored("a").await[&key], gateway.stored("b").await[&key]), (7.0, 5.0));

    // A deleted group ends as a whole.
    assert_eq!(gateway.push("DELETE /metrics/job/j/y/z", "").await.0, 202);
    for name in ["a", "b", "push_time_seconds", "push_failure_time_seconds"] {
        assert!(is_stale(gateway.stored(name).await[&key]), "{name}");
    }
    let before = stored(&gateway.store, "a").await[&key].len();
    push.tick();
    assert_eq!(stored(&gateway.store, "a").await[&key].len(), before);
}

#[tokio::test]
async fn groups_are_there_after_a_restart() {
    let first = gateway();
    let body = "# HELP a Help \\\\ \\n.\n# TYPE a gauge\na{x=\"\\\"\"} -0\n# TYPE s summary\ns{quantile=\"0.5\"} NaN\ns_count 1\n";
    assert_eq!(first.push("PUT /metrics/job/j", body).await.0, 200);
    assert_eq!(first.push("PUT /metrics/job/k", "b +Inf\n").await.0, 200);
    assert_eq!(first.push("PUT /metrics/job/l", "c 1\n").await.0, 200);
    assert_eq!(first.push("DELETE /metrics/job/l", "").await.0, 202);
    assert_eq!(first.push("PUT /metrics/job/k", "b 1 1\n").await.0, 400);
    let text = first.push("GET /metrics/pushed", "").await.1;
    let api = first.push("GET /api/v1/metrics", "").await.1;
    assert!(
        text.contains("a{instance=\"\",job=\"j\",x=\"\\\"\"} 0\n")
            && text.contains("b{instance=\"\",job=\"k\"} +Inf\n")
    );
    let (app, store) = reopened(PushOptions::default(), |_| {}, &first.folder);
    let second = Gateway { app, store, folder: tempfile::tempdir().unwrap() };
    assert_eq!(second.push("GET /metrics/pushed", "").await.1, text);
    assert_eq!(second.push("GET /api/v1/metrics", "").await.1, api);
    // The store has it from the first interval on, and what it knows is compared with what comes.
    second.app.push.get().unwrap().tick();
    assert_eq!(second.stored("b").await, BTreeMap::from([("{job=\"k\"}".to_owned(), f64::INFINITY)]));
    assert_eq!(second.push("PUT /metrics/job/m", "# TYPE a counter\na 1\n").await.0, 400);
    assert_eq!(second.push("DELETE /metrics/job/k", "").await.0, 202);
    assert!(is_stale(second.stored("b").await["{job=\"k\"}"]));
}

#[tokio::test]
async fn groups_go_at_the_end_of_their_time() {
    let gateway =
        gateway_with(PushOptions { ttl: Some(std::time::Duration::from_millis(1)), ..Default::default() }, |_| {});
    for (job, ttl) in [("default", None), ("never", Some("0s")), ("long", Some("1h")), ("short", Some("1ms"))] {
        let headers: Vec<_> = ttl.map(|t| (TTL_HEADER, t)).into_iter().collect();
        assert_eq!(gateway.request(&format!("PUT /metrics/job/{job}"), &headers, "a 1\n").await.0, 200);
    }
    let (status, text) = gateway.request("PUT /metrics/job/bad", &[(TTL_HEADER, "soon")], "a 1\n").await;
    assert!(status == 400 && text.contains(TTL_HEADER), "{text}");
    let push = gateway.app.push.get().unwrap().clone();
    for _ in 0..1000 {
        push.tick();
        if gateway.series().await.len() == 2 {
            break;
        }
    }
    assert_eq!(gateway.series().await, ["a{instance=\"\",job=\"long\"} 1", "a{instance=\"\",job=\"never\"} 1"]);
    let ended = gateway.stored("a").await;
    assert!(is_stale(ended["{job=\"short\"}"]) && is_stale(ended["{job=\"default\"}"]));
    assert_eq!(gateway.app.registry.value("narthex_push_expired_groups_total"), Some(2.0));
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    out.write_all(body).unwrap();
    out.finish().unwrap()
}

fn snappy(body: &[u8]) -> Vec<u8> {
    let mut out = snap::write::FrameEncoder::new(Vec::new());
    out.write_all(body).unwrap();
    out.into_inner().unwrap()
}

const PROTOBUF: &str = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";

fn page(families: &[MetricFamily]) -> Vec<u8> {
    let mut out = Vec::new();
    families.iter().for_each(|f| f.encode_length_delimited(&mut out).unwrap());
    out
}

#[tokio::test]
async fn bodies_packed_and_of_protobuf() {
    let gateway = gateway();
    for (packing, body, status) in [
        ("gzip", gzip(b"a 1\n"), 200),
        ("GZIP", gzip(b"a 2\n"), 200),
        ("snappy", snappy(b"a 3\n"), 200),
        ("identity", b"a 4\n".to_vec(), 200),
        ("gzip", b"a 5\n".to_vec(), 400),
        ("snappy", b"a 5\n".to_vec(), 400),
        ("gzip", gzip(b"a 5\n")[..10].to_vec(), 400),
        ("zstd", gzip(b"a 5\n"), 400),
    ] {
        let got = gateway.request("PUT /metrics/job/j", &[("content-encoding", packing)], body).await;
        assert_eq!(got.0, status, "{packing}: {}", got.1);
    }
    assert_eq!(gateway.series().await, ["a{instance=\"\",job=\"j\"} 4"]);

    let mut untold = MetricFamily::gauge("u", "x", 9.0);
    untold.kind = 77;
    let mut native = MetricFamily { name: "n".into(), kind: proto::HISTOGRAM, ..Default::default() };
    let histogram = proto::Histogram {
        sample_count: Some(3),
        sample_sum: Some(6.0),
        schema: Some(0),
        zero_threshold: Some(1e-128),
        positive_span: vec![proto::BucketSpan { offset: Some(0), length: Some(2) }],
        positive_delta: vec![1, 1],
        ..Default::default()
    };
    native.metric.push(proto::Metric { histogram: Some(Box::new(histogram)), ..Default::default() });
    let as_protobuf = [("content-type", PROTOBUF)];
    let families = [MetricFamily::gauge("p", "x", 1.5), native.clone()];
    assert_eq!(gateway.request("PUT /metrics/job/p", &as_protobuf, page(&families)).await, (200, String::new()));
    let matcher = Matcher::new(MatchType::Equal, "__name__", "n").unwrap();
    let set = gateway.store.select(SelectRequest::new(vec![matcher], 0, i64::MAX)).await.unwrap();
    let stored = set.collect_sorted().unwrap();
    assert_eq!(stored[0].histograms.values[0].positive_buckets, [1.0, 2.0]);
    let packed = [("content-type", PROTOBUF), ("content-encoding", "gzip")];
    assert_eq!(gateway.request("PUT /metrics/job/p", &packed, gzip(&page(&families[..1]))).await.0, 200);
    let not_a_counter = gateway.request("PUT /metrics/job/q", &as_protobuf, page(&[untold])).await;
    assert!(not_a_counter.0 == 400 && not_a_counter.1.contains("is not a COUNTER"), "{not_a_counter:?}");
    // What a scrape would not take is refused.
    native.metric[0].histogram.as_mut().unwrap().sample_count = Some(4);
    let bad = gateway.request("PUT /metrics/job/q", &as_protobuf, page(&[native])).await;
    assert!(bad.0 == 400 && bad.1.contains("observation"), "{bad:?}");
    // Another content type is text, whatever it says.
    let almost = [("content-type", "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily")];
    assert_eq!(gateway.request("PUT /metrics/job/q", &almost, "a{x=\"1\"} 1\n").await.0, 200);
    let whole = page(&families[..1]);
    for cut in 1..whole.len() {
        assert_eq!(gateway.request("PUT /metrics/job/r", &as_protobuf, whole[..cut].to_vec()).await.0, 400, "{cut}");
    }
    assert_eq!(gateway.request("PUT /metrics/job/r", &as_protobuf, Vec::new()).await.0, 200);
}

#[tokio::test]
async fn hostile_bodies_meet_limits() {
    let gateway = gateway();
    let too_long = vec![b'\n'; MAX_BODY + 1];
    let many_families = (0..1_100_000).map(|i| format!("#HELP x{i:x} \n")).collect::<String>();
    let many_metrics = {
        // A family of metrics that are two bytes each.
        let mut family = vec![0x0a, 1, b'm'];
        (0..1_100_000).for_each(|_| family.extend([0x22, 0]));
        let mut page = Vec::new();
        prost::encode_length_delimiter(family.len(), &mut page).unwrap();
        page.extend(family);
        page
    };
    let labels = format!("a{{{}}} 1\n", (0..1_100_000).map(|i| format!("x{i:x}=\"\",")).collect::<String>());
    for (what, headers, body, status, text) in [
        ("long", vec![], too_long.clone(), 413, "request body exceeds the 16777216 bytes limit"),
        (
            "bomb",
            vec![("content-encoding", "gzip")],
            gzip(&too_long),
            413,
            "unpacked, exceeds the 16777216 bytes limit",
        ),
        ("bomb", vec![("content-encoding", "snappy")], snappy(&too_long), 413, "unpacked, exceeds the 16777216 bytes"),
        ("families", vec![], many_families.into_bytes(), 413, "more than 1048576 families"),
        ("metrics", vec![("content-type", PROTOBUF)], many_metrics, 413, "more than 1048576 families"),
        ("labels", vec![], labels.into_bytes(), 413, "more than 1048576 families"),
    ] {
        let got = gateway.request("PUT /metrics/job/j", &headers, body).await;
        assert!(got.0 == status && got.1.contains(text), "{what}: {} {:.200}", got.0, got.1);
    }
    assert_eq!(gateway.push("GET /metrics/pushed", "").await, (200, String::new()));
    for path in ["job/%ff", "job/j/x/%ff", "job@base64/_w"] {
        let (status, _) = gateway.push(&format!("PUT /metrics/{path}"), "a 1\n").await;
        assert_eq!(status, 400, "{path}");
    }
    // They poison nothing.
    assert_eq!(gateway.push("PUT /metrics/job/j", "a 1\n").await.0, 200);

    let small = gateway_with(PushOptions { max_groups: 2, max_series: 8, ttl: None }, |_| {});
    for (line, body, status, text) in [
        ("PUT /metrics/job/a", "a 1\n", 200, ""),
        ("PUT /metrics/job/b", "a 1\n", 200, ""),
        ("PUT /metrics/job/c", "a 1\n", 429, "the push would exceed the limit of 2 groups (--push.max-groups)"),
        ("PUT /metrics/job/c", "a 1 1\n", 429, "the push would exceed the limit of 2 groups (--push.max-groups)"),
        ("POST /metrics/job/b", "b 1\nc 1\n", 200, ""),
        ("POST /metrics/job/b", "d 1\n", 429, "the push would exceed the limit of 8 series (--push.max-series)"),
        ("POST /metrics/job/b", "b 2\n", 200, ""),
        ("DELETE /metrics/job/a", "", 202, ""),
        ("POST /metrics/job/b", "d 1\n", 200, ""),
    ] {
        let got = small.push(line, body).await;
        assert_eq!((got.0, got.1.trim_end()), (status, text), "{line} {body}");
    }
}

#[tokio::test]
async fn off_unless_asked_for_and_wiped_by_administrators_only() {
    let (app, _) = app_with(options());
    let folder = tempfile::tempdir().unwrap();
    app.open_push(folder.path()).unwrap();
    let (named, nothing) = ("--web.enable-push", "404 page not found");
    for (line, expected) in [
        ("PUT /metrics/job/j", named),
        ("POST /metrics/job/j", named),
        ("DELETE /metrics/job/j", named),
        // As in a Prometheus.
        ("GET /metrics/pushed", nothing),
        ("GET /api/v1/metrics", nothing),
        ("GET /api/v1/status", nothing),
        ("PUT /api/v1/admin/wipe", nothing),
    ] {
        let (method, path) = line.split_once(' ').unwrap();
        let request = Request::builder().method(method).uri(path).body("a 1\n".into()).unwrap();
        let (status, _, text) = send(&app, request).await;
        assert!(status == 404 && text.contains(expected), "{line}: {status} {text}");
    }
    let plain = gateway();
    assert_eq!(plain.push("PUT /metrics/job/j", "a 1\n").await.0, 200);
    assert_eq!(plain.push("PUT /api/v1/admin/wipe", "").await.0, 500);
    assert_eq!(plain.series().await.len(), 1);
    let admin = gateway_with(PushOptions::default(), |o| o.enable_admin = true);
    assert_eq!(admin.push("PUT /metrics/job/j", "a 1\n").await.0, 200);
    assert_eq!(admin.push("PUT /metrics/job/k", "a 1\n").await.0, 200);
    assert_eq!(admin.push("PUT /api/v1/admin/wipe", "").await.0, 202);
    assert_eq!(admin.push("GET /metrics/pushed", "").await, (200, String::new()));
    assert!(admin.stored("a").await.values().all(|v| is_stale(*v)));
}

#[tokio::test]
async fn the_query_api_shows_groups() {
    let gateway = gateway_with(PushOptions::default(), |o| o.route_prefix = "/p".into());
    let body = "# HELP c Help.\n# TYPE c counter\nc 1000000\n# TYPE h histogram\nh_bucket{le=\"0.5\"} 1\nh_count 2\nh_sum 3\n# TYPE s summary\ns{quantile=\"0.5\"} NaN\ns_count 1\n";
    assert_eq!(gateway.push("PUT /p/metrics/job/j/x/%20", body).await.0, 200);
    let (status, text) = gateway.push("GET /p/api/v1/metrics", "").await;
    assert_eq!(status, 200);
    let api: Value = serde_json::from_str(&text).unwrap();
    let group = &api["data"][0];
    let labels = serde_json::json!({"instance": "", "job": "j", "x": " "});
    assert_eq!(group["labels"], serde_json::json!({"job": "j", "x": " "}));
    assert_eq!(group["last_push_successful"], true);
    let c = &group["c"];
    assert_eq!((c["type"].as_str(), c["help"].as_str()), (Some("COUNTER"), Some("Help.")));
    assert!(c["time_stamp"].as_str().unwrap().ends_with('Z'));
    assert_eq!(c["metrics"], serde_json::json!([{"labels": labels, "value": "1e+06"}]));
    let h = serde_json::json!([{"labels": labels, "buckets": {"0.5": "1"}, "count": "2", "sum": "3"}]);
    assert_eq!(group["h"]["metrics"], h);
    let s = serde_json::json!([{"labels": labels, "quantiles": {"0.5": "NaN"}, "count": "1", "sum": "0"}]);
    assert_eq!(group["s"]["metrics"], s);
    // What nobody pushed to has no route.
    for line in ["PUT /metrics/job/j", "GET /p/metrics/job/j", "PUT /p/metrics/job", "PUT /p/metrics/jobs/j"] {
        assert_eq!(gateway.push(line, "a 1\n").await.0, 404, "{line}");
    }
    let router = narthex_server::router::router(gateway.app.clone());
    let request =
        Request::builder().method("PUT").uri("/p/metrics/job//x").body(axum::body::Body::from("a 1\n")).unwrap();
    let response: http::Response<axum::body::Body> = router.oneshot(request).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), response.headers()[header::LOCATION].to_str().unwrap()),
        (307, "/p/metrics/job/x")
    );
    response.into_body().collect().await.unwrap();
}
