//! `/status/*`, `/features`, `/notifications`.

use std::collections::BTreeMap;
use std::sync::Arc;

use narthex_runtime::metrics::{Family, Kind, Value};
use serde::Serialize;

use super::{Req, targets::rfc3339};
use crate::answer::{Answer, ApiError, ApiResult, ErrorType};
use crate::params::atoi;
use crate::state::App;

pub async fn config(app: Arc<App>, _: Req) -> ApiResult {
    Answer::json(&BTreeMap::from([("yaml", &app.view.load().yaml)]))
}

pub async fn flags(app: Arc<App>, _: Req) -> ApiResult {
    Answer::json(&app.options.flags)
}

pub async fn build_info(app: Arc<App>, _: Req) -> ApiResult {
    Answer::json(&app.options.build)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RuntimeInfo {
    start_time: String,
    #[serde(rename = "CWD")]
    cwd: String,
    hostname: String,
    server_time: String,
    reload_config_success: bool,
    last_config_time: String,
    corruption_count: i64,
    goroutine_count: u64,
    #[serde(rename = "GOMAXPROCS")]
    gomaxprocs: usize,
    #[serde(rename = "GOMEMLIMIT")]
    gomemlimit: i64,
    #[serde(rename = "GOGC")]
    gogc: &'static str,
    #[serde(rename = "GODEBUG")]
    godebug: &'static str,
    storage_retention: String,
}

pub async fn runtime_info(app: Arc<App>, _: Req) -> ApiResult {
    let value = |name: &str| app.registry.value(name);
    let process = narthex_runtime::process::stats();
    let ms = |seconds: f64| rfc3339(Some((seconds * 1000.0) as i64));
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Answer::json(&RuntimeInfo {
        start_time: ms(process.start_time),
        cwd: std::env::current_dir().map(|d| d.display().to_string()).unwrap_or_default(),
        hostname: hostname.trim().to_owned(),
        server_time: rfc3339(Some(crate::params::Time::now().ms())),
        reload_config_success: value("prometheus_config_last_reload_successful").is_some_and(|v| v != 0.0),
        last_config_time: ms(value("prometheus_config_last_reload_success_timestamp_seconds").unwrap_or(0.0).trunc()),
        corruption_count: value("prometheus_tsdb_wal_corruptions_total").unwrap_or(0.0) as i64,
        // Threads are what comes nearest.
        goroutine_count: process.threads as u64,
        gomaxprocs: std::thread::available_parallelism().map_or(1, usize::from),
        gomemlimit: i64::MAX,
        gogc: "",
        godebug: "",
        storage_retention: app.view.load().retention.clone(),
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TsdbStatus {
    head_stats: HeadStats,
    series_count_by_metric_name: Vec<Stat>,
    label_value_count_by_label_name: Vec<Stat>,
    memory_in_bytes_by_label_name: Vec<Stat>,
    series_count_by_label_value_pair: Vec<Stat>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HeadStats {
    num_series: u64,
    num_label_pairs: u64,
    chunk_count: u64,
    min_time: i64,
    max_time: i64,
}

#[derive(Serialize)]
struct Stat {
    name: String,
    value: u64,
}

pub async fn tsdb(app: Arc<App>, req: Req) -> ApiResult {
    const MAX: i64 = 10_000;
    let limit = match req.get("limit") {
        "" => 10,
        text => {
            atoi(text).ok().filter(|n| *n >= 1).ok_or_else(|| ApiError::bad_data("limit must be a positive number"))?
        }
    };
    if limit > MAX {
        return Err(ApiError::bad_data(format!("limit must not exceed {MAX}")));
    }
    let admin = super::admin::admin_of(&app)?;
    let stats = super::admin::blocking(move || Ok(admin.stats(limit as usize))).await?;
    let list = |entries: Vec<(String, u64)>| entries.into_iter().map(|(name, value)| Stat { name, value }).collect();
    Answer::json(&TsdbStatus {
        head_stats: HeadStats {
            num_series: stats.num_series,
            num_label_pairs: stats.num_label_pairs,
            chunk_count: stats.chunk_count,
            min_time: stats.min_time,
            max_time: stats.max_time,
        },
        series_count_by_metric_name: list(stats.series_count_by_metric_name),
        label_value_count_by_label_name: list(stats.label_value_count_by_label_name),
        memory_in_bytes_by_label_name: list(stats.memory_in_bytes_by_label_name),
        series_count_by_label_value_pair: list(stats.series_count_by_label_value_pair),
    })
}

/// There are no block folders: what is stored lies in RocksDB.
pub async fn blocks(_: Arc<App>, _: Req) -> ApiResult {
    Answer::json(&BTreeMap::from([("blocks", Vec::<()>::new())]))
}

/// Replay is over before requests are served.
pub async fn wal_replay(_: Arc<App>, _: Req) -> ApiResult {
    Answer::json(&BTreeMap::from([("min", 0), ("max", 0), ("current", 0)]))
}

pub async fn features(app: Arc<App>, _: Req) -> ApiResult {
    Answer::json(&app.options.features)
}

pub async fn notifications(app: Arc<App>, _: Req) -> ApiResult {
    Answer::json(&app.notifications.list())
}

/// Facts about the store for the status page: sizes, folder, retention.
pub async fn storage(app: Arc<App>, _: Req) -> ApiResult {
    let admin = super::admin::admin_of(&app)?;
    let status = super::admin::blocking(move || Ok(admin.status())).await?;
    Answer::json(&status)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ActiveQueryJson {
    id: u64,
    query: String,
    client: String,
    path: String,
    class: &'static str,
    running: bool,
    since: String,
    seconds: f64,
}

/// Not in Prometheus: the queries that run now, oldest first.
pub async fn active_queries(app: Arc<App>, _: Req) -> ApiResult {
    let list = app.active.list().into_iter().map(|q| ActiveQueryJson {
        id: q.id,
        query: q.query,
        client: q.client,
        path: q.path,
        class: q.class.as_str(),
        running: q.running,
        since: rfc3339(Some(q.since_ms)),
        seconds: q.since.elapsed().as_secs_f64(),
    });
    Answer::json(&list.collect::<Vec<_>>())
}

/// Not in Prometheus: ends a query (`id`), with the admin API's flag.
pub async fn cancel_query(app: Arc<App>, req: Req) -> ApiResult {
    super::admin::enabled(&app)?;
    let id = req.get("id").parse().map_err(|_| ApiError::parameter("id", "not a number"))?;
    if app.active.cancel(id) {
        return Ok(Answer::none());
    }
    Err(ApiError::new(ErrorType::NotFound, format!("no active query with id {id}")))
}

/// Own metric families as protobuf's JSON mapping writes them.
pub async fn self_metrics(app: Arc<App>, req: Req) -> ApiResult {
    let filter = match req.get("metric_name_pattern") {
        "" => None,
        pattern => Some(
            narthex_model::matcher::anchored_regex(pattern)
                .map_err(|e| ApiError::bad_data(format!("invalid metric_name_pattern: {e}")))?,
        ),
    };
    let families = app.registry.gather();
    let shown = families.iter().filter(|f| filter.as_ref().is_none_or(|p| p.is_match(&f.name)));
    Answer::json(&shown.map(family_json).collect::<Vec<_>>())
}

fn family_json(f: &Family) -> serde_json::Value {
    use serde_json::{Value as Json, json};
    // The JSON mapping of protobuf writes 64-bit integers and what is no number as strings.
    let number = |v: f64| match serde_json::Number::from_f64(v) {
        Some(n) => Json::Number(n),
        None if v.is_nan() => json!("NaN"),
        None => json!(if v > 0.0 { "Infinity" } else { "-Infinity" }),
    };
    let kind = match f.kind {
        Kind::Counter => "COUNTER",
        Kind::Gauge => "GAUGE",
        Kind::Histogram => "HISTOGRAM",
        Kind::Summary => "SUMMARY",
        Kind::Untyped => "UNTYPED",
    };
    let metrics = f.metrics.iter().map(|m| {
        let mut out = serde_json::Map::new();
        if !m.labels.is_empty() {
            let labels = m.labels.iter().map(|(name, value)| json!({"name": name, "value": value}));
            out.insert("label".into(), labels.collect());
        }
        let (key, value) = match &m.value {
            Value::Single(v) => (kind.to_lowercase(), json!({"value": number(*v)})),
            Value::Histogram { count, sum, buckets } => {
                let bucket =
                    |(le, n): &(f64, u64)| json!({"cumulativeCount": n.to_string(), "upperBound": number(*le)});
                let buckets: Vec<Json> = buckets.iter().map(bucket).collect();
                let value = json!({"sampleCount": count.to_string(), "sampleSum": number(*sum), "bucket": buckets});
                ("histogram".into(), value)
            }
            Value::Summary { count, sum, quantiles } => {
                let quantile = |(q, v): &(f64, f64)| json!({"quantile": number(*q), "value": number(*v)});
                let quantiles: Vec<Json> = quantiles.iter().map(quantile).collect();
                let value = json!({"sampleCount": count.to_string(), "sampleSum": number(*sum), "quantile": quantiles});
                ("summary".into(), value)
            }
        };
        out.insert(key, value);
        Json::Object(out)
    });
    json!({"name": f.name, "help": f.help, "type": kind, "metric": metrics.collect::<Vec<_>>()})
}
