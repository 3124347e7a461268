//! Requests made at random of parts that are likely to matter: endpoints with their parameters, right and wrong,
//! missing, twice, in the URL and in the body, encoded one way or another; methods; Origin and Accept.
//!
//! `NARTHEX_API_SEED` (1) and `NARTHEX_API_RANDOM` (600) set the seed and the number. Left out is what differs for
//! reasons that are told elsewhere: which of several series a limit keeps, timeouts that are a race, and bodies that
//! are about the server itself.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::net::encode;

/// A request: method, path with its query, headers, body.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: &'static str,
    pub path: String,
    pub headers: Vec<(&'static str, &'static str)>,
    pub body: String,
}

/// Endpoints with their parameters.
const ENDPOINTS: &[(&str, &[&str])] = &[
    ("/api/v1/query", &["query", "time", "limit", "lookback_delta"]),
    ("/api/v1/query_range", &["query", "start", "end", "step", "limit"]),
    ("/api/v1/query_exemplars", &["query", "start", "end"]),
    ("/api/v1/format_query", &["query"]),
    ("/api/v1/parse_query", &["query"]),
    ("/api/v1/labels", &["match[]", "start", "end", "limit"]),
    ("/api/v1/label/job/values", &["match[]", "start", "end"]),
    ("/api/v1/label/U__host_2e_name/values", &["match[]"]),
    ("/api/v1/series", &["match[]", "start", "end"]),
    ("/api/v1/metadata", &["metric"]),
    ("/api/v1/targets", &["state", "scrapePool"]),
    ("/api/v1/targets/metadata", &["match_target", "metric"]),
    ("/api/v1/targets/relabel_steps", &["scrapePool", "labels"]),
    ("/api/v1/scrape_pools", &[]),
    ("/api/v1/rules", &["type", "exclude_alerts", "match[]", "group_limit", "group_next_token"]),
    ("/api/v1/alerts", &[]),
    ("/api/v1/alertmanagers", &[]),
    ("/api/v1/search/metric_names", &["match[]", "limit"]),
    ("/api/v1/admin/tsdb/delete_series", &["match[]", "start"]),
    ("/api/v1/admin/tsdb/clean_tombstones", &[]),
    ("/api/v1/admin/tsdb/snapshot", &["skip_head"]),
    ("/api/v1/nope", &["query"]),
    ("/api/v1/labels/", &[]),
    ("/api/v1//labels", &["start"]),
    ("/federate", &["match[]"]),
    ("/%66ederate", &["match[]"]),
    ("/-/healthy", &[]),
    ("/-/ready", &[]),
    ("/-/reload", &[]),
    ("/nope", &[]),
];

/// Values by parameter; `T` is the newest sample's time.
fn values(parameter: &str) -> &'static [&'static str] {
    match parameter {
        "query" => &[
            "up",
            "1",
            "\"a\"",
            "vector(1)",
            "up[1m]",
            "sum by (job)(up)",
            "rate(cpu_seconds_total[5m])",
            "sum(",
            "",
            "up{",
            "ü",
            "topk(1, up)",
            "absent(nope)",
            "up # x",
            "up\n+\n1",
            "foo bar",
            "{__name__=~\"u.\"}",
            "1/0",
            "up[0s]",
            "a @ 1",
        ],
        "match[]" => &[
            "up",
            "{}",
            "{job=\"\"}",
            "up{",
            "",
            "nope",
            "1",
            "sum(up)",
            "up[1m]",
            "up offset 1m",
            "{__name__=~\".+\"}",
            "{\"with.dots\"}",
            "{job!=\"\",__name__=\"up\"}",
        ],
        "time" | "start" | "end" => &[
            "T",
            "T.5",
            "T.1234567",
            "0",
            "-1",
            "x",
            "",
            "1e9",
            "2015-07-01T20:10:51.781Z",
            "2015-07-01T20:10:51+02:00",
            "2015-07-01",
            "0x10",
            "1_0",
            ".5",
            "+5",
            " T",
            "1e10",
            "9223372037",
            "9999-12-31T23:59:59Z",
            "1600-01-01T00:00:00Z",
            "-0.0005",
        ],
        "step" | "lookback_delta" => &[
            "15", "15s", "1m", "0", "-1", "x", "", "1e3", "1m30s", "0.5", "1y", "1e30", "1 s", "15S", "292y", "300y",
            "NaN", "1e-10",
        ],
        "limit" | "group_limit" => {
            &["0", "", "-1", "x", "1.5", "1e3", "99999999999999999999", "10001", " 1", "0x1", "1000"]
        }
        "state" => &["active", "dropped", "any", "x", "", "Active"],
        "type" => &["alert", "record", "x", ""],
        "labels" => &[
            "{}",
            "x",
            "",
            "[]",
            "{\"a\":1}",
            "null",
            "\"x\"",
            "{\"a\":\"b\"} x",
            "{",
            "{\"a\":null}",
            "{\"a\":[]}",
            "true",
        ],
        "exclude_alerts" | "skip_head" => &["true", "false", "1", "x", "", "T", "TRUE"],
        "match_target" => &["{job=\"app\"}", "{}", "", "{", "app"],
        _ => &["app", "up", "", "x y", "ü"],
    }
}

const HEADERS: &[(&str, &[&str])] = &[
    ("Origin", &["https://a.test", "null", ""]),
    (
        "Accept",
        &["application/json", "*/*", "text/plain;escaping=dots", "text/plain;version=1.0.0;escaping=values", "x", ""],
    ),
];

fn one<'a, T>(rng: &mut StdRng, list: &'a [T]) -> &'a T {
    &list[rng.random_range(0..list.len())]
}

fn request(rng: &mut StdRng, end: i64) -> Request {
    let (path, parameters) = *one(rng, ENDPOINTS);
    let mut pairs: Vec<(String, String)> = Vec::new();
    for name in parameters {
        let times = if rng.random_bool(0.85) { 1 } else { rng.random_range(0..3) };
        for _ in 0..times {
            let value = one(rng, values(name)).replace('T', &end.to_string());
            pairs.push(((*name).to_owned(), value));
        }
    }
    let text = |rng: &mut StdRng, pairs: &[(String, String)]| {
        let mut text: Vec<String> = pairs.iter().map(|(n, v)| format!("{}={}", encode(n), encode(v))).collect();
        match rng.random_range(0..40) {
            0 => text.push("%zz=1".into()),
            1 => text.push(";a=b".into()),
            2 => text.push(String::new()),
            3 => text.push("query".into()),
            _ => {}
        }
        text.join("&")
    };
    let method = match rng.random_range(0..20) {
        0..=10 => "GET",
        11..=15 => "POST",
        16 => "HEAD",
        17 => "OPTIONS",
        18 => "PUT",
        _ => "DELETE",
    };
    let in_url = if method == "POST" || method == "PUT" { rng.random_range(0..=pairs.len()) } else { pairs.len() };
    let (url, body) = pairs.split_at(in_url);
    let (url, mut body) = (text(rng, url), text(rng, body));
    let mut headers = Vec::new();
    if method == "POST" || method == "PUT" {
        let form = "application/x-www-form-urlencoded";
        headers.push(("Content-Type", if rng.random_bool(0.9) { form } else { "text/plain" }));
    } else {
        body.clear();
    }
    for (name, values) in HEADERS {
        if rng.random_bool(0.15) {
            headers.push((*name, *one(rng, values)));
        }
    }
    // Grafana posts to label values, which is taken here.
    let method = if path.contains("/label/") && method == "POST" { "GET" } else { method };
    let path = if url.is_empty() { path.to_owned() } else { format!("{path}?{url}") };
    Request { method, path, headers, body }
}

/// So many as the environment says; `end` is the newest sample's time in seconds.
pub fn requests(end: i64) -> Vec<Request> {
    let number = |name: &str, default: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let mut rng = StdRng::seed_from_u64(number("NARTHEX_API_SEED", 1));
    (0..number("NARTHEX_API_RANDOM", 600)).map(|_| request(&mut rng, end)).collect()
}
