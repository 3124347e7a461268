//! The engine's side: its store, and its answers in the shape of the API's.

use std::sync::Arc;

use narthex_model::number::{format_json, format_value};
use narthex_model::{CounterResetHint, Histogram, Labels, Span};
use narthex_promql::{EngineError, EngineErrorKind, Point, QueryResult, Value};
use narthex_storage::memory::MemoryStore;
use serde_json::{Value as Json, json};

use super::data::{self, NativeHistogram, Series};

/// A store with these series.
pub fn store(series: &[Series]) -> MemoryStore {
    let store = MemoryStore::new();
    for s in series {
        let labels = Labels::from_pairs(s.labels.iter().cloned());
        for (timestamp, point) in &s.points {
            match point {
                data::Point::Float(v) => store.put(&labels, *timestamp, *v, 0),
                data::Point::Histogram(h) => store.put_histogram(&labels, *timestamp, Arc::new(stored(h)), 0),
            }
        }
    }
    store
}

fn stored(h: &NativeHistogram) -> Histogram {
    let spans =
        |spans: &[(i32, u32)]| spans.iter().map(|(offset, length)| Span { offset: *offset, length: *length }).collect();
    Histogram {
        schema: h.schema,
        zero_threshold: h.zero_threshold,
        zero_count: h.zero_count,
        count: h.count,
        sum: h.sum,
        positive_spans: spans(&h.positive_spans),
        negative_spans: spans(&h.negative_spans),
        positive_buckets: h.positive.clone(),
        negative_buckets: h.negative.clone(),
        custom_values: h.custom_values.clone(),
        counter_reset_hint: if h.gauge { CounterResetHint::Gauge } else { CounterResetHint::Unknown },
    }
}

/// What the API would answer.
pub fn reply(query: &str, result: Result<QueryResult, EngineError>) -> Json {
    match result {
        Ok(result) => {
            let mut reply = json!({ "status": "success", "data": data(&result.value) });
            for (key, texts) in
                [("warnings", result.annotations.warnings(query, 10)), ("infos", result.annotations.infos(query, 10))]
            {
                if !texts.is_empty() {
                    reply[key] = texts.into();
                }
            }
            reply
        }
        Err(e) => {
            let (kind, text) = match e.kind() {
                EngineErrorKind::BadData => ("bad_data", format!("invalid parameter \"query\": {e}")),
                EngineErrorKind::Execution => ("execution", e.to_string()),
                _ => ("internal", e.to_string()),
            };
            json!({ "status": "error", "errorType": kind, "error": text })
        }
    }
}

fn data(value: &Value) -> Json {
    let result: Json = match value {
        Value::Scalar { timestamp, value } => json!([time(*timestamp), format_value(*value)]),
        Value::String { timestamp, value } => json!([time(*timestamp), value]),
        Value::Vector(samples) => samples
            .iter()
            .map(|s| {
                let (key, value) = match &s.point {
                    Point::Float(v) => ("value", Json::String(format_json(*v))),
                    Point::Histogram(h) => ("histogram", histogram(h)),
                };
                json!({ "metric": labels(&s.labels), key: [time(s.timestamp), value] })
            })
            .collect(),
        Value::Matrix(series) => series
            .iter()
            .map(|s| {
                let mut out = json!({ "metric": labels(&s.labels) });
                if !s.floats.is_empty() {
                    out["values"] = s.floats.iter().map(|(t, v)| json!([time(*t), format_json(*v)])).collect();
                }
                if !s.histograms.is_empty() {
                    out["histograms"] = s.histograms.iter().map(|(t, h)| json!([time(*t), histogram(h)])).collect();
                }
                out
            })
            .collect(),
    };
    json!({ "resultType": value.type_name(), "result": result })
}

fn labels(labels: &Labels) -> Json {
    labels.iter().map(|(n, v)| (n.to_owned(), Json::from(v))).collect::<serde_json::Map<_, _>>().into()
}

/// Seconds, whole ones without a fraction.
fn time(ms: i64) -> Json {
    if ms % 1000 == 0 { (ms / 1000).into() } else { (ms as f64 / 1000.0).into() }
}

fn histogram(h: &Histogram) -> Json {
    let buckets: Vec<Json> = h
        .all_buckets()
        .into_iter()
        .filter(|b| b.count != 0.0)
        .map(|b| {
            let rule = match (b.lower_inclusive, b.upper_inclusive) {
                (false, true) => 0,
                (true, false) => 1,
                (false, false) => 2,
                (true, true) => 3,
            };
            json!([rule, format_json(b.lower), format_json(b.upper), format_json(b.count)])
        })
        .collect();
    let mut out = json!({ "count": format_json(h.count), "sum": format_json(h.sum) });
    if !buckets.is_empty() {
        out["buckets"] = buckets.into();
    }
    out
}
