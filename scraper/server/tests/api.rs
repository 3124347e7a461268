//! Requests against the router over a store in memory: what comes back, by status and text.

#[path = "api/guard.rs"]
mod guard;
#[path = "api/push.rs"]
mod push;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use http::{Method, Request, header};
use http_body_util::BodyExt;
use narthex_config::Target;
use narthex_model::{Labels, Metadata, MetricType};
use narthex_runtime::{CpuPool, Registry, Shutdown};
use narthex_scrape::Health;
use narthex_server::{App, BuildInfo, ConfigView, Options, Parts, Readiness, Sources, TargetStatus};
use narthex_storage::memory::{MemoryStore, SelectOnly};
use narthex_storage::{Appendable, Batch, Queryable, SelectRequest, Series, SeriesSet, WriteBatch, WriteSeries};
use tower::ServiceExt;

fn options() -> Options {
    Options {
        external_url: "http://example.org:9090/".parse().unwrap(),
        route_prefix: "/".into(),
        listen_address: "0.0.0.0:9090".into(),
        agent: false,
        enable_lifecycle: false,
        enable_admin: false,
        enable_remote_write: true,
        enable_otlp: false,
        push: None,
        otlp_native_delta: false,
        otlp_delta_to_cumulative: false,
        remote_read: Default::default(),
        accepted_messages: vec!["prometheus.WriteRequest".into()],
        cors_origin: regex::Regex::new("^(?:.*)$").unwrap(),
        page_title: "Title <x>".into(),
        lookback_delta: Duration::from_secs(300),
        query: Default::default(),
        slow_query: Duration::ZERO,
        flags: BTreeMap::from([("query.timeout".into(), "2m".into())]),
        parser: Default::default(),
        per_step_stats: false,
        delayed_name_removal: false,
        type_and_unit_labels: false,
        start_timestamps: false,
        start_zeros: false,
        enable_search: true,
        start_storage: false,
        features: BTreeMap::new(),
        build: BuildInfo {
            version: "3.14.0".into(),
            revision: "r".into(),
            branch: String::new(),
            build_user: String::new(),
            build_date: String::new(),
            go_version: String::new(),
        },
        max_notification_listeners: 16,
    }
}

fn app_with(options: Options) -> (Arc<App>, MemoryStore) {
    let store = MemoryStore::new();
    (app_on(options, &store, Arc::new(store.clone())), store)
}

/// What is written goes to `store`, what is asked to `storage`.
fn app_on(options: Options, store: &MemoryStore, storage: Arc<dyn Queryable>) -> Arc<App> {
    let series = |pairs: &[(&str, &str)], samples: &[(i64, f64)]| WriteSeries {
        labels: Labels::from_pairs(pairs.iter().copied()),
        samples: samples.to_vec(),
        ..WriteSeries::default()
    };
    let now = narthex_server::params::Time::now().ms();
    let batch = WriteBatch {
        series: vec![
            series(&[("__name__", "up"), ("job", "a")], &[(1_000, 1.0), (2_000, 0.5), (now, 1.0)]),
            series(&[("__name__", "up"), ("job", "b")], &[(1_000, 0.0), (2_000, 1e21), (now, 0.0)]),
            series(&[("__name__", "x"), ("host.name", "h")], &[(1_000, f64::NAN), (now, f64::INFINITY)]),
        ],
    };
    store.write(&batch).unwrap();
    let help = Metadata { metric_type: MetricType::Gauge, help: "Is it <up>?".into(), unit: String::new() };
    store.put_metadata(&[("up".into(), help)]);
    let target = Target {
        pool: "p".into(),
        labels: Labels::from_pairs([("instance", "localhost:9100"), ("job", "p")]),
        discovered: Labels::from_pairs([("__address__", "localhost:9100")]),
        scheme: "http".into(),
        address: "localhost:9100".into(),
        path: "/metrics".into(),
        params: Vec::new(),
        interval: Duration::from_secs(15),
        timeout: Duration::from_secs(10),
        histograms: Default::default(),
    };
    let status = TargetStatus {
        target: Arc::new(target),
        health: Health::Up,
        last_error: String::new(),
        last_scrape: Some(1_500),
        last_duration: Duration::from_millis(5),
        shard: None,
    };
    let sources = Sources {
        targets: Arc::new(move || vec![status.clone()]),
        scrape_pools: Arc::new(|| vec!["p".into()]),
        ..Sources::default()
    };
    let app = App::new(Parts {
        options,
        storage,
        appendable: Arc::new(store.clone()),
        admin: None,
        queries: CpuPool::new("q", 2, 64).unwrap(),
        ingest: CpuPool::new("i", 1, 64).unwrap(),
        registry: Registry::new(),
        sources,
        reload: tokio::sync::mpsc::channel(1).0,
        shutdown: Shutdown::new(),
    });
    app.set_view(ConfigView { yaml: "global: {}\n".into(), ..ConfigView::default() });
    app.set_readiness(Readiness::Ready);
    app
}

async fn send(app: &Arc<App>, request: Request<axum::body::Body>) -> (u16, http::HeaderMap, String) {
    let response = narthex_server::router::router(app.clone()).oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status.as_u16(), parts.headers, String::from_utf8_lossy(&body).into_owned())
}

async fn ask(app: &Arc<App>, line: &str) -> (u16, http::HeaderMap, String) {
    let (method, rest) = line.split_once(' ').unwrap();
    let (uri, body) = rest.split_once(" | ").unwrap_or((rest, ""));
    let mut request = Request::builder().method(method).uri(uri);
    if method == "POST" {
        request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    }
    send(app, request.body(axum::body::Body::from(body.to_owned())).unwrap()).await
}

/// Each line, its status, and its body (or, after `*`, a part of it).
#[tokio::test]
async fn answers() {
    let (app, _) = app_with(options());
    let ok = |data: &str| format!(r#"{{"status":"success","data":{data}}}"#);
    let bad = |text: &str| format!(r#"{{"status":"error","errorType":"bad_data","error":{text:?}}}"#);
    let mut wrong = Vec::new();
    for (line, status, expected) in [
        ("GET /api/v1/query?query=1%2B1&time=4", 200, ok(r#"{"resultType":"scalar","result":[4,"2"]}"#)),
        ("POST /api/v1/query | query=1%2B1&time=4.5", 200, ok(r#"{"resultType":"scalar","result":[4.500,"2"]}"#)),
        (
            "POST /api/v1/query?time=9 | query=vector(1)&time=4",
            200,
            ok(r#"{"resultType":"vector","result":[{"metric":{},"value":[4,"1"]}]}"#),
        ),
        (
            "GET /api/v1/query?query=up&time=2&limit=1",
            200,
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"up","job":"a"},"value":[2,"0.5"]}]},"warnings":["results truncated due to limit"]}"#.into(),
        ),
        (
            "GET /api/v1/query_range?query=up{job=%22b%22}&start=1&end=2&step=1",
            200,
            ok(r#"{"resultType":"matrix","result":[{"metric":{"__name__":"up","job":"b"},"values":[[1,"0"],[2,"1e+21"]]}]}"#),
        ),
        ("GET /api/v1/query?query=x&time=1", 200, "*\"value\":[1,\"NaN\"]".into()),
        ("GET /api/v1/query?query=", 400, "*invalid parameter \\\"query\\\": unknown position: parse error: no expression found in input".into()),
        ("GET /api/v1/query?query=1&time=x", 400, bad("invalid parameter \"time\": invalid time value for 'time': cannot parse \"x\" to a valid timestamp")),
        ("GET /api/v1/query?query=1&timeout=x", 400, bad("invalid parameter \"timeout\": cannot parse \"x\" to a valid duration")),
        ("GET /api/v1/query?query=1&limit=-1", 400, bad("invalid parameter \"limit\": limit must be non-negative")),
        ("GET /api/v1/query_range?query=1&start=2&end=1&step=1", 400, bad("invalid parameter \"end\": end timestamp must not be before start time")),
        ("GET /api/v1/query_range?query=1&start=0&end=1&step=0", 400, "*zero or negative query resolution step widths".into()),
        ("GET /api/v1/query_range?query=1&start=0&end=11001&step=1", 400, "*exceeded maximum resolution of 11,000 points".into()),
        ("GET /api/v1/query_range?query=1&start=0&end=11000&step=1", 200, "*\"matrix\"".into()),
        ("GET /api/v1/query_range?query=up[5m]&start=0&end=1&step=1", 400, "*invalid expression type".into()),
        ("GET /api/v1/query?query=1&stats=all&time=1", 200, "*\"stats\":{\"timings\":{\"evalTotalTime\":".into()),
        ("GET /api/v1/query?query=1&stats=x&time=1", 200, "*is deprecated and will be rejected".into()),
        ("GET /api/v1/labels", 200, ok(r#"["__name__","host.name","job"]"#)),
        ("POST /api/v1/labels | match[]=up", 200, ok(r#"["__name__","job"]"#)),
        ("GET /api/v1/labels?match[]={}", 400, bad("match[] must contain at least one non-empty matcher")),
        ("GET /api/v1/label/job/values", 200, ok(r#"["a","b"]"#)),
        ("POST /api/v1/label/job/values?match[]=up&limit=1", 200, r#"{"status":"success","data":["a"],"warnings":["results truncated due to limit"]}"#.into()),
        ("GET /api/v1/label/U__host_2e_name/values", 200, ok(r#"["h"]"#)),
        ("GET /api/v1/label/nope/values", 200, ok("[]")),
        ("GET /api/v1/series", 400, bad("no match[] parameter provided")),
        ("GET /api/v1/series?match[]=up{job=%22a%22}&start=0&end=5", 200, ok(r#"[{"__name__":"up","job":"a"}]"#)),
        ("GET /api/v1/series?match[]=%zz", 400, bad("error parsing form values: invalid URL escape \"%zz\"")),
        ("GET /api/v1/metadata?metric=up", 200, ok(r#"{"up":[{"type":"gauge","unit":"","help":"Is it <up>?"}]}"#)),
        ("GET /api/v1/metadata?limit=x", 400, bad("limit must be a number")),
        ("GET /api/v1/query_exemplars?query=test&start=1795350219474&end=1795352019474", 200, ok("[]")),
        ("GET /api/v1/format_query?query=foo/bar", 200, ok("\"foo / bar\"")),
        ("GET /api/v1/parse_query?query=1", 200, "*\"numberLiteral\"".into()),
        ("GET /api/v1/rules", 200, ok(r#"{"groups":[]}"#)),
        ("GET /api/v1/rules?type=x", 400, bad("invalid parameter \"type\": not supported value \"x\"")),
        ("GET /api/v1/alerts", 200, ok(r#"{"alerts":[]}"#)),
        ("GET /api/v1/alertmanagers", 200, ok(r#"{"activeAlertmanagers":[],"droppedAlertmanagers":[]}"#)),
        ("GET /api/v1/scrape_pools", 200, ok(r#"{"scrapePools":["p"]}"#)),
        ("GET /api/v1/targets?state=active", 200, "*\"globalUrl\":\"http://example.org:9100/metrics\"".into()),
        ("GET /api/v1/targets", 200, "*\"lastScrape\":\"1970-01-01T00:00:01.5Z\"".into()),
        ("GET /api/v1/targets/relabel_steps", 400, bad("no scrapePool parameter provided")),
        ("GET /api/v1/status/config", 200, ok(r#"{"yaml":"global: {}\n"}"#)),
        ("GET /api/v1/status/flags", 200, ok(r#"{"query.timeout":"2m"}"#)),
        ("GET /api/v1/status/buildinfo", 200, "*\"version\":\"3.14.0\"".into()),
        ("GET /api/v1/status/runtimeinfo", 200, "*\"GOMAXPROCS\":".into()),
        ("GET /api/v1/status/tsdb?limit=0", 400, bad("limit must be a positive number")),
        ("GET /api/v1/status/active_queries", 200, ok("[]")),
        ("GET /api/v1/notifications", 200, ok("[]")),
        ("GET /api/v1/search/metric_names?search[]=u", 200, "{\"results\":[{\"name\":\"up\"}]}\n{\"has_more\":false,\"status\":\"success\"}\n".into()),
        ("POST /api/v1/admin/tsdb/snapshot", 500, r#"{"status":"error","errorType":"unavailable","error":"admin APIs disabled"}"#.into()),
        ("GET /api/v1/admin/tsdb/snapshot", 405, "Method Not Allowed\n".into()),
        ("GET /api/v1/nope", 404, "404 page not found\n".into()),
        ("OPTIONS /api/v1/nope", 204, String::new()),
        ("GET /-/healthy", 200, "Prometheus Server is Healthy.\n".into()),
        ("GET /-/ready", 200, "Prometheus Server is Ready.\n".into()),
        ("HEAD /-/ready", 200, String::new()),
        ("POST /-/reload", 403, "Lifecycle API is not enabled.".into()),
        ("GET /-/reload", 405, "Only POST or PUT requests allowed".into()),
        ("GET /", 302, "*/query".into()),
        ("GET /graph?g0.expr=up", 302, "*/query?g0.expr=up".into()),
        ("GET /query", 200, "*<title>Title &lt;x&gt;</title>".into()),
        ("GET /assets/nope.js", 404, "404 page not found\n".into()),
        ("GET /consoles/x.html", 404, "*console templates are not supported".into()),
        ("GET /metrics", 200, "*prometheus_http_requests_total{handler=\"/api/v1/query\",code=\"200\"}".into()),
        ("GET /federate?match[]=up", 200, "*# TYPE up untyped\nup{job=\"a\",instance=\"\"} 1 ".into()),
        ("GET /federate?match[]=up{", 400, "*parse error".into()),
        ("GET /version", 200, "*3.14.0".into()),
    ] {
        let (got, _, body) = ask(&app, line).await;
        let fits = match expected.strip_prefix('*') {
            Some(part) => body.contains(part),
            None => body == expected,
        };
        if got != status || !fits {
            wrong.push(format!("{line}\n{got} {body}\nexpected {status} {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// The steps of a trace, each with how deep it is, without what differs from one run to the next.
fn steps(step: &serde_json::Value, depth: usize, out: &mut Vec<String>) {
    assert!(step["duration_msec"].as_f64().unwrap() >= 0.0);
    let message = step["message"].as_str().unwrap();
    let digits = |t: &str| t.len() > 9 && t.bytes().all(|b| b.is_ascii_digit());
    let words: Vec<&str> = message.split(' ').map(|w| if digits(w) { "T" } else { w }).collect();
    out.push(format!("{}{}", "- ".repeat(depth), words.join(" ")));
    step["children"].as_array().into_iter().flatten().for_each(|child| steps(child, depth + 1, out));
}

#[tokio::test]
async fn a_trace_says_what_was_done() {
    let (app, _) = app_with(options());
    let traced = async |line: &str| {
        let (status, _, body) = ask(&app, line).await;
        assert_eq!(status, 200, "{body}");
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        let mut out = Vec::new();
        if json["trace"].is_object() {
            steps(&json["trace"], 0, &mut out);
        }
        (out, json)
    };
    let range = "query=sum(rate(up[1s]))%2Bcount(up)&start=1&end=2&step=1";
    let (out, json) = traced(&format!("GET /api/v1/query_range?{range}&trace=1")).await;
    assert_eq!(
        out,
        [
            "/api/v1/query_range: start=1, end=2, step=1, query=sum(rate(up[1s]))+count(up)",
            "- parse",
            "- wait for a slot of the class adhoc",
            "- plan: selectors 2",
            "- select {__name__=\"up\"} from 1 to 2000: series 2",
            "- - read, while it is evaluated: series 2, samples 4, bytes 404",
            "- select {__name__=\"up\"} from -298999 to 2000: series 2",
            "- - read, while it is evaluated: series 2, samples 4, bytes 404",
            "- evaluate",
            "- - +: sum(rate(up[1s]))+count(up): steps 2, series 0",
            "- - - sum: sum(rate(up[1s])): steps 2, series 0",
            "- - - - rate: rate(up[1s]): steps 2",
            "- - - count: count(up): steps 2, series 1",
            "- - - - selector: up: steps 2",
            "- put the result together",
            "- write the answer, as the client takes it",
        ]
    );
    // The rest is as without it.
    let (none, plain) = traced(&format!("GET /api/v1/query_range?{range}&trace=0")).await;
    assert_eq!((none.len(), &plain["data"]), (0, &json["data"]));
    let (out, _) = traced("GET /api/v1/series?match[]=up&trace=true").await;
    assert_eq!(out, ["/api/v1/series: up", "- ask the store: series 2", "- write the answer, as the client takes it"]);
    let (out, _) = traced("GET /api/v1/labels?trace=1").await;
    assert_eq!(out, ["/api/v1/labels: ", "- ask the store: names 3"]);
    let (out, _) = traced("GET /api/v1/label/job/values?trace=1&match[]=up").await;
    assert_eq!(out, ["/api/v1/label/job/values: up", "- ask the store: values 2"]);
}

#[tokio::test]
async fn queries_are_counted_and_running_ones_ended() {
    let (app, _) = app_with(Options { enable_admin: true, ..options() });
    for line in [
        "GET /api/v1/query?query=up&time=2",
        "GET /api/v1/query?query=up&time=1",
        "GET /api/v1/query_range?query=up&start=1&end=61&step=1",
        "GET /api/v1/query?query=sum(up)%2Bon()up&time=2",
        "GET /api/v1/query?query=)",
    ] {
        ask(&app, line).await;
    }
    let (status, _, body) = ask(&app, "GET /api/v1/status/top_queries?topN=2&maxLifetime=5m").await;
    assert_eq!(status, 200, "{body}");
    let data = &serde_json::from_str::<serde_json::Value>(&body).unwrap()["data"];
    assert_eq!((&data["topN"], &data["maxLifetime"]), (&"2".into(), &"5m0s".into()));
    let first = &data["topByCount"][0];
    let figures = ["query", "timeRangeSeconds", "count", "samples", "errors", "class"].map(|f| first[f].to_string());
    assert_eq!(figures, ["\"up\"", "0", "2", "4", "0", "\"adhoc\""]);
    for list in ["topByCount", "topByAvgDuration", "topBySumDuration", "topByAvgMemoryUsage"] {
        assert_eq!(data[list].as_array().unwrap().len(), 2, "{list}");
    }
    let (_, _, body) = ask(&app, "GET /api/v1/status/top_queries").await;
    let data = &serde_json::from_str::<serde_json::Value>(&body).unwrap()["data"];
    let all = data["topBySumDuration"].as_array().unwrap();
    // What does not parse is no query.
    assert_eq!(all.len(), 3, "{body}");
    let failed = all.iter().find(|t| t["errors"] == 1).unwrap();
    assert!(failed["lastError"].as_str().unwrap().contains("many-to-many") || !failed["lastError"].is_null());
    assert_eq!(all.iter().filter(|t| t["timeRangeSeconds"] == 60).count(), 1);
    assert_eq!(ask(&app, "GET /api/v1/status/top_queries?topN=0").await.0, 400);
    assert_eq!(ask(&app, "GET /api/v1/status/top_queries?maxLifetime=x").await.0, 400);

    let entry = app.active.enter("up", ("1.2.3.4", "/x"), Default::default(), Arc::default());
    let (_, _, body) = ask(&app, "GET /api/v1/status/active_queries").await;
    assert!(body.contains("\"class\":\"adhoc\",\"running\":false"), "{body}");
    assert_eq!(ask(&app, "POST /api/v1/admin/cancel_query?id=999").await.0, 404);
    assert!(!entry.cancelled.load(Ordering::SeqCst));
    assert_eq!(ask(&app, &format!("POST /api/v1/admin/cancel_query?id={}", entry.id())).await.0, 204);
    assert!(entry.cancelled.load(Ordering::SeqCst));
    let (app, _) = app_with(options());
    let entry = app.active.enter("up", ("1.2.3.4", "/x"), Default::default(), Arc::default());
    assert_eq!(ask(&app, &format!("POST /api/v1/admin/cancel_query?id={}", entry.id())).await.0, 500);
    assert!(!entry.cancelled.load(Ordering::SeqCst));
}

#[tokio::test]
async fn cors_readiness_and_admin() {
    let (app, _) = app_with(options());
    let from = |origin: &str| {
        Request::builder().uri("/api/v1/labels").header(header::ORIGIN, origin).body(axum::body::Body::empty()).unwrap()
    };
    let (_, headers, _) = send(&app, from("http://a")).await;
    assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "http://a");
    let strict = Options { cors_origin: regex::Regex::new("^(?:http://a)$").unwrap(), enable_admin: true, ..options() };
    let (app, _) = app_with(strict);
    assert_eq!(send(&app, from("http://a")).await.1[header::ACCESS_CONTROL_ALLOW_ORIGIN], "http://a");
    assert!(send(&app, from("http://b")).await.1.get(header::ACCESS_CONTROL_ALLOW_ORIGIN).is_none());
    let (status, _, body) = ask(&app, "POST /api/v1/admin/tsdb/delete_series").await;
    assert!(status == 400 && body.contains("no match[] parameter provided"), "{body}");
    app.set_readiness(Readiness::NotReady);
    let (status, headers, body) = ask(&app, "GET /api/v1/query?query=1").await;
    assert_eq!((status, body.as_str()), (503, "Service Unavailable"));
    assert_eq!(headers["x-prometheus-stopping"], "false");
    assert_eq!(ask(&app, "GET /-/healthy").await.0, 200);
}

/// Waits until it holds, a minute at most.
async fn until(what: impl Fn() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while !what() {
        assert!(std::time::Instant::now() < end, "it takes too long");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// All connections are served by the thread of this test.
#[tokio::test]
async fn a_store_that_takes_its_time_holds_up_no_probe() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (wait, asked) = (std::sync::Mutex::new(wait), Arc::new(AtomicUsize::new(0)));
    let count = asked.clone();
    let storage = SelectOnly(move |_: &SelectRequest| {
        count.fetch_add(1, Ordering::SeqCst);
        wait.lock().unwrap().recv_timeout(Duration::from_secs(10)).expect("nobody else was answered meanwhile");
        SeriesSet::empty()
    });
    let app = app_on(options(), &MemoryStore::new(), Arc::new(storage));
    for (i, line) in ["GET /api/v1/query?query=up", "GET /federate?match[]=up"].into_iter().enumerate() {
        let (status, go) = (ask(&app, line), go.clone());
        let probe = async {
            until(|| asked.load(Ordering::SeqCst) == i + 1).await;
            assert_eq!(ask(&app, "GET /-/healthy").await.0, 200);
            go.send(()).unwrap();
        };
        assert_eq!(futures::future::join(status, probe).await.0.0, 200, "{line}");
    }
}

#[tokio::test]
async fn what_was_quick_is_answered_where_it_came_in() {
    let (here, places) = (std::thread::current().id(), Arc::new(std::sync::Mutex::new(Vec::new())));
    let slow = Arc::new(AtomicU32::new(0));
    let (slowly, asked) = (slow.clone(), places.clone());
    let storage = SelectOnly(move |_: &SelectRequest| {
        let asked = asked.clone();
        let batches = (0..=slowly.load(Ordering::SeqCst)).map(move |i| {
            asked.lock().unwrap().push(std::thread::current().id() == here);
            std::thread::sleep(Duration::from_millis(u64::from(i.min(1))));
            let labels = Labels::from_pairs([("i", i.to_string())]);
            Ok(Batch { series: vec![Series { labels, ..Series::default() }] })
        });
        SeriesSet { batches: Box::new(batches), warnings: Vec::new() }
    });
    let app = app_on(options(), &MemoryStore::new(), Arc::new(storage));
    // Where the first and the last batch were read.
    let places = async |time: u32| {
        // None waits for this.
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(ask(&app, &format!("GET /api/v1/query?query=up&time={time}")).await.0, 200);
        let places = std::mem::take(&mut *places.lock().unwrap());
        (places[0], places[places.len() - 1])
    };
    assert_eq!(places(0).await, (false, false));
    let until_here = async || {
        // Each may have been slow on a busy machine.
        for time in 0..10_000 {
            if places(time).await.0 {
                return;
            }
        }
        panic!("never here");
    };
    until_here().await;
    // Begun here, as far as the one before was quick, but not ended here.
    slow.store(200, Ordering::SeqCst);
    let grown = places(0).await;
    assert!(!grown.1, "it held up this thread to its end");
    assert_eq!(places(1).await, (false, false));
    slow.store(0, Ordering::SeqCst);
    until_here().await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_query() {
    let end = std::time::Instant::now() + Duration::from_secs(90);
    let storage = SelectOnly(move |_: &SelectRequest| {
        // Does not end by itself before the test does.
        let batches = (0..).take_while(move |_| std::time::Instant::now() < end).map(|i: u32| {
            std::thread::sleep(Duration::from_millis(1));
            let labels = Labels::from_pairs([("i", i.to_string())]);
            Ok(Batch { series: vec![Series { labels, ..Series::default() }] })
        });
        SeriesSet { batches: Box::new(batches), warnings: Vec::new() }
    });
    let app = app_on(options(), &MemoryStore::new(), Arc::new(storage));
    let asking = tokio::spawn({
        let app = app.clone();
        async move { ask(&app, "GET /api/v1/query?query=up").await }
    });
    until(|| app.queries.busy() == 1 && app.active.list().len() == 1).await;
    asking.abort();
    until(|| app.active.list().is_empty() && app.queries.busy() == 0).await;
}

#[tokio::test]
async fn what_is_described_is_there() {
    let (app, _) = app_with(options());
    for version in ["3.1", "3.2"] {
        let (status, headers, text) = ask(&app, &format!("GET /api/v1/openapi.yaml?openapi_version={version}")).await;
        assert_eq!(status, 200);
        assert_eq!(headers[header::CONTENT_TYPE], "application/yaml; charset=utf-8");
        let document: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(document["openapi"], format!("{version}.0"));
        let paths = document["paths"].as_object().unwrap();
        assert!(paths.len() > 35);
        // That one would never end.
        for (path, operations) in paths.iter().filter(|(path, _)| *path != "/notifications/live") {
            for method in operations.as_object().unwrap().keys() {
                let path = path.replace("{name}", "job");
                let (status, _, body) = ask(&app, &format!("{} /api/v1{path}", method.to_uppercase())).await;
                let known = status != 405 && body != "404 page not found\n";
                assert!(known, "{method} {path}: {status} {body}");
            }
        }
    }
}

#[tokio::test]
async fn a_prefix_moves_everything() {
    let prefixed =
        Options { external_url: "http://x/prom/".parse().unwrap(), route_prefix: "/prom".into(), ..options() };
    let (app, _) = app_with(prefixed);
    for (line, status, part) in [
        ("GET /prom/api/v1/query?query=1&time=1", 200, "scalar"),
        ("GET /prom/-/ready", 200, "Ready"),
        ("GET /prom/query", 200, "<base href=\"/prom/\">"),
        ("GET /", 302, "/prom"),
        ("GET /api/v1/query?query=1", 404, "404"),
        ("GET /prom/metrics", 200, "handler=\"/api/v1/query\""),
    ] {
        let (got, _, body) = ask(&app, line).await;
        assert!(got == status && body.contains(part), "{line}: {got} {body}");
    }
}

#[tokio::test]
async fn remote_write_is_stored_or_refused() {
    let (app, _) = app_with(options());
    let push = |body: Vec<u8>, encoding: &str, kind: &str| {
        Request::builder()
            .method(Method::POST)
            .uri("/api/v1/write")
            .header(header::CONTENT_ENCODING, encoding)
            .header(header::CONTENT_TYPE, kind)
            .body(axum::body::Body::from(body))
            .unwrap()
    };
    // One series {__name__="w"} with one sample 2.5 at 5000 ms, by hand.
    let label: &[u8] = b"\x0a\x08__name__\x12\x01w";
    let mut sample = vec![0x09];
    sample.extend(2.5f64.to_le_bytes());
    sample.extend([0x10, 0x88, 0x27]);
    let mut series = vec![0x0a, label.len() as u8];
    series.extend(label);
    series.extend([0x12, sample.len() as u8]);
    series.extend(&sample);
    let mut message = vec![0x0a, series.len() as u8];
    message.extend(&series);
    let packed = snap::raw::Encoder::new().compress_vec(&message).unwrap();
    let proto = "application/x-protobuf";
    let (status, _, body) = send(&app, push(packed.clone(), "snappy", proto)).await;
    assert_eq!((status, body.as_str()), (204, ""));
    let (_, _, body) = ask(&app, "GET /api/v1/query?query=w&time=5").await;
    assert!(body.contains("[5,\"2.5\"]"), "{body}");
    for (body, encoding, kind, status, part) in [
        (packed.clone(), "gzip", proto, 415, "gzip encoding (compression) is not accepted"),
        (packed.clone(), "snappy", "text/plain", 415, "expected application/x-protobuf"),
        (packed.clone(), "snappy", "application/x-protobuf;proto=io.prometheus.write.v2.Request", 415, "only accepts"),
        (vec![0xff; 20], "snappy", proto, 400, "s2: corrupt input"),
        (snap::raw::Encoder::new().compress_vec(&[0x0a, 0x7f]).unwrap(), "snappy", proto, 400, "unexpected EOF"),
        (
            snap::raw::Encoder::new().compress_vec(&vec![0; (32 << 20) + 1]).unwrap(),
            "snappy",
            proto,
            400,
            "decoded size exceeds",
        ),
    ] {
        let (got, _, text) = send(&app, push(body, encoding, kind)).await;
        assert!(got == status && text.contains(part), "{got} {text}");
    }
    let (app, _) = app_with(Options { enable_remote_write: false, ..options() });
    assert_eq!(send(&app, push(packed, "snappy", proto)).await.0, 404);
}

/// A store that answers a select only when it is let, and counts them.
struct Gate {
    app: Arc<App>,
    store: MemoryStore,
    selects: Arc<AtomicUsize>,
    let_in: Arc<tokio::sync::Semaphore>,
}

fn gated(query: narthex_server::class::QueryOptions) -> Gate {
    let (store, selects) = (MemoryStore::new(), Arc::new(AtomicUsize::new(0)));
    let let_in = Arc::new(tokio::sync::Semaphore::new(0));
    let (inner, count, gate) = (store.clone(), selects.clone(), let_in.clone());
    let storage = SelectOnly(move |request: &SelectRequest| {
        count.fetch_add(1, Ordering::SeqCst);
        let end = std::time::Instant::now() + Duration::from_secs(60);
        while gate.try_acquire().map(|p| p.forget()).is_err() {
            assert!(std::time::Instant::now() < end, "nobody let it in");
            std::thread::sleep(Duration::from_millis(1));
        }
        futures::executor::block_on(inner.select(request.clone())).unwrap()
    });
    let app = app_on(Options { query, ..options() }, &store, Arc::new(storage));
    Gate { app, store, selects, let_in }
}

fn one_at_once() -> narthex_server::class::QueryOptions {
    let mut query = narthex_server::class::QueryOptions::default();
    query.all.max_concurrency = 1;
    query
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_the_same_is_evaluated_once_and_sees_what_was_written() {
    for (query, shared) in
        [(one_at_once(), true), (narthex_server::class::QueryOptions { each_alone: true, ..one_at_once() }, false)]
    {
        let gate = gated(query);
        let ask_later = |line: &'static str| {
            tokio::spawn({
                let app = gate.app.clone();
                async move { ask(&app, line).await }
            })
        };
        let waiting = |n: usize| gate.app.active.list().iter().filter(|q| !q.running).count() == n;
        let first = ask_later("GET /api/v1/query_range?query=w&start=1&end=9&step=1");
        until(|| gate.selects.load(Ordering::SeqCst) == 1).await;
        // Asks for the same as the one that runs, too, but may not follow it.
        let same: Vec<_> = (0..5).map(|_| ask_later("GET /api/v1/query_range?query=w&start=1&end=9&step=1")).collect();
        let other = ask_later("GET /api/v1/query_range?query=w&start=1&end=9&step=2");
        let alone = ask_later("GET /api/v1/query_range?query=w&start=1&end=9&step=1&nocache=1");
        let leaves = ask_later("GET /api/v1/query_range?query=w&start=1&end=9&step=1");
        until(|| waiting(8)).await;
        leaves.abort();
        until(|| waiting(7)).await;
        // The first has been let in before this is there; all others come after it.
        gate.let_in.add_permits(1);
        assert_eq!(first.await.unwrap().2, r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#);
        let labels = Labels::from_pairs([("__name__", "w")]);
        gate.store
            .write(&WriteBatch {
                series: vec![WriteSeries { labels, samples: vec![(5_000, 1.0)], ..WriteSeries::default() }],
            })
            .unwrap();
        gate.let_in.add_permits(100);
        let expected = r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"__name__":"w"},"values":[[5,"1"],[6,"1"],[7,"1"],[8,"1"],[9,"1"]]}]}}"#;
        for task in same.into_iter().chain([alone]) {
            assert_eq!(task.await.unwrap().2, expected);
        }
        assert!(other.await.unwrap().2.contains(r#""values":[[5,"1"],[7,"1"],[9,"1"]]"#));
        assert_eq!(gate.selects.load(Ordering::SeqCst), if shared { 4 } else { 8 });
        let (_, _, metrics) = ask(&gate.app, "GET /metrics").await;
        let line = format!("narthex_engine_shared_queries_total {}\n", if shared { 4 } else { 0 });
        assert!(metrics.contains(&line), "{metrics}");
        let (_, _, top) = ask(&gate.app, "GET /api/v1/status/top_queries").await;
        assert!(top.contains("\"count\":8"), "{top}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_leaves_takes_nobody_along() {
    let gate = gated(one_at_once());
    let ask_later = |line: &'static str| {
        tokio::spawn({
            let app = gate.app.clone();
            async move { ask(&app, line).await }
        })
    };
    let waiting = |n: usize| gate.app.active.list().iter().filter(|q| !q.running).count() == n;
    let first = ask_later("GET /api/v1/query?query=x&time=1");
    until(|| gate.selects.load(Ordering::SeqCst) == 1).await;
    let leader = ask_later("GET /api/v1/query?query=up&time=2");
    until(|| waiting(1)).await;
    let follower = ask_later("GET /api/v1/query?query=up&time=2");
    let impatient = ask_later("GET /api/v1/query?query=up&time=2&timeout=10ms");
    let (status, _, body) = impatient.await.unwrap();
    assert!(status == 503 && body.contains("query timed out in query queue"), "{body}");
    leader.abort();
    until(|| waiting(1)).await;
    gate.let_in.add_permits(100);
    assert_eq!((first.await.unwrap().0, follower.await.unwrap().0), (200, 200));
}

/// Answers are those of evaluations that began after the question: whatever was written before it was asked is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_gets_less_than_was_there() {
    let (app, store) = app_with(Options { query: one_at_once(), ..options() });
    let (written, shown) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let rounds = 300;
    let writer = tokio::task::spawn_blocking({
        let (store, written, shown) = (store.clone(), written.clone(), shown.clone());
        move || {
            let labels = Labels::from_pairs([("__name__", "n")]);
            for i in 1..=rounds {
                // Later and earlier than all before, in turn.
                let t = 100_000 + if i % 2 == 0 { 1 } else { -1 } * i as i64 * 10;
                let series = WriteSeries { labels: labels.clone(), samples: vec![(t, 1.0)], ..WriteSeries::default() };
                store.write(&WriteBatch { series: vec![series] }).unwrap();
                written.store(i, Ordering::SeqCst);
                while shown.load(Ordering::SeqCst) < i {
                    std::thread::yield_now();
                }
            }
        }
    });
    let clients = (0..8).map(|_| {
        let (app, written, shown) = (app.clone(), written.clone(), shown.clone());
        tokio::spawn(async move {
            while written.load(Ordering::SeqCst) < rounds {
                let before = written.load(Ordering::SeqCst);
                let (_, _, body) = ask(&app, "GET /api/v1/query?query=count_over_time(n[200s])&time=150").await;
                let json: serde_json::Value = serde_json::from_str(&body).unwrap();
                let value = json["data"]["result"][0]["value"][1].as_str().unwrap_or("0");
                let count: usize = value.parse().unwrap();
                assert!(count >= before, "{count} of {before}");
                shown.fetch_max(count, Ordering::SeqCst);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    writer.await.unwrap();
    let (_, _, metrics) = ask(&app, "GET /metrics").await;
    let shared = metrics.lines().find_map(|l| l.strip_prefix("narthex_engine_shared_queries_total ")).unwrap();
    assert!(shared.parse::<f64>().unwrap() > 0.0, "none was shared");
}
