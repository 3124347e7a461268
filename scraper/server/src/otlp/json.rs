//! The same request from JSON: names in camel case, 64-bit integers as numbers or texts, ids in hex, unknown fields
//! ignored.

use serde_json::Value;

use super::decode::{
    Attribute, Buckets, Data, Exemplar, Explicit, Exponential, MAX_DEPTH, Metric, Number, Point, Resource, Scope,
    Summary, Temporality, temporality, value_text,
};

type Result<T> = std::result::Result<T, String>;

/// Reads a request.
///
/// # Errors
/// In words, when it is none.
pub fn request(body: &[u8]) -> Result<Vec<Resource>> {
    let value: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    list(&value, "resourceMetrics", resource)
}

fn list<T>(v: &Value, name: &str, one: impl Fn(&Value) -> Result<T>) -> Result<Vec<T>> {
    match &v[name] {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => items.iter().map(one).collect(),
        _ => Err(format!("{name} is no list")),
    }
}

fn text(v: &Value, name: &str) -> Result<String> {
    match &v[name] {
        Value::Null => Ok(String::new()),
        Value::String(s) => Ok(s.clone()),
        _ => Err(format!("{name} is no text")),
    }
}

fn unsigned(v: &Value) -> Option<u64> {
    match v {
        Value::Null => Some(0),
        Value::String(s) => s.parse().ok(),
        v => v.as_u64(),
    }
}

fn signed(v: &Value) -> Option<i64> {
    match v {
        Value::Null => Some(0),
        Value::String(s) => s.parse().ok(),
        v => v.as_i64(),
    }
}

fn float(v: &Value) -> Option<f64> {
    match v {
        Value::Null => Some(0.0),
        Value::String(s) => match s.as_str() {
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            "NaN" => Some(f64::NAN),
            s => s.parse().ok(),
        },
        v => v.as_f64(),
    }
}

/// A field by one of these readers.
fn field<T>(v: &Value, name: &str, read: impl Fn(&Value) -> Option<T>) -> Result<T> {
    read(&v[name]).ok_or_else(|| format!("{name} is no number"))
}

fn numbers<T>(v: &Value, name: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Vec<T>> {
    list(v, name, |n| read(n).ok_or_else(|| format!("{name} holds what is no number")))
}

fn any(v: &Value, depth: usize) -> Result<Value> {
    if depth > MAX_DEPTH {
        return Err("values lie too deep in each other".into());
    }
    let Some(map) = v.as_object() else { return Ok(Value::Null) };
    let Some((kind, value)) = map.iter().next() else { return Ok(Value::Null) };
    Ok(match kind.as_str() {
        "intValue" => Value::from(signed(value).ok_or("intValue is no number")?),
        "arrayValue" => Value::Array(list(value, "values", |v| any(v, depth + 1))?),
        "kvlistValue" => {
            let pairs = list(value, "values", |v| Ok((text(v, "key")?, any(&v["value"], depth + 1)?)))?;
            Value::Object(pairs.into_iter().collect())
        }
        _ => value.clone(),
    })
}

fn attributes(v: &Value, name: &str) -> Result<Vec<Attribute>> {
    list(v, name, |a| Ok((text(a, "key")?, value_text(&any(&a["value"], 0)?))))
}

fn resource(v: &Value) -> Result<Resource> {
    let attributes = attributes(&v["resource"], "attributes")?;
    Ok(Resource { attributes, scopes: list(v, "scopeMetrics", scope)? })
}

fn scope(v: &Value) -> Result<Scope> {
    let scope = &v["scope"];
    Ok(Scope {
        name: text(scope, "name")?,
        version: text(scope, "version")?,
        schema_url: text(v, "schemaUrl")?,
        attributes: attributes(scope, "attributes")?,
        metrics: list(v, "metrics", metric)?,
    })
}

fn temporality_of(v: &Value) -> Temporality {
    match v["aggregationTemporality"].as_str() {
        Some("AGGREGATION_TEMPORALITY_DELTA") => Temporality::Delta,
        Some("AGGREGATION_TEMPORALITY_CUMULATIVE") => Temporality::Cumulative,
        _ => temporality(v["aggregationTemporality"].as_u64().unwrap_or(0)),
    }
}

fn metric(v: &Value) -> Result<Metric> {
    let data = if let gauge @ Value::Object(_) = &v["gauge"] {
        Data::Gauge(list(gauge, "dataPoints", number)?)
    } else if let sum @ Value::Object(_) = &v["sum"] {
        let points = list(sum, "dataPoints", number)?;
        let monotonic = sum["isMonotonic"].as_bool().unwrap_or(false);
        Data::Sum { points, temporality: temporality_of(sum), monotonic }
    } else if let h @ Value::Object(_) = &v["histogram"] {
        Data::Histogram { points: list(h, "dataPoints", explicit)?, temporality: temporality_of(h) }
    } else if let h @ Value::Object(_) = &v["exponentialHistogram"] {
        Data::Exponential { points: list(h, "dataPoints", exponential)?, temporality: temporality_of(h) }
    } else if let s @ Value::Object(_) = &v["summary"] {
        Data::Summary(list(s, "dataPoints", summary)?)
    } else {
        Data::None
    };
    Ok(Metric { name: text(v, "name")?, description: text(v, "description")?, unit: text(v, "unit")?, data })
}

fn point(v: &Value) -> Result<Point> {
    Ok(Point {
        attributes: attributes(v, "attributes")?,
        start: field(v, "startTimeUnixNano", unsigned)?,
        time: field(v, "timeUnixNano", unsigned)?,
        stale: field(v, "flags", unsigned)? & 1 == 1,
    })
}

/// `asDouble` or `asInt`.
fn value(v: &Value) -> Result<f64> {
    match &v["asInt"] {
        Value::Null => field(v, "asDouble", float),
        _ => Ok(field(v, "asInt", signed)? as f64),
    }
}

fn sum(v: &Value) -> Result<Option<f64>> {
    match &v["sum"] {
        Value::Null => Ok(None),
        _ => field(v, "sum", float).map(Some),
    }
}

fn number(v: &Value) -> Result<Number> {
    Ok(Number { point: point(v)?, value: value(v)?, exemplars: list(v, "exemplars", exemplar)? })
}

fn explicit(v: &Value) -> Result<Explicit> {
    Ok(Explicit {
        point: point(v)?,
        count: field(v, "count", unsigned)?,
        sum: sum(v)?,
        counts: numbers(v, "bucketCounts", unsigned)?,
        bounds: numbers(v, "explicitBounds", float)?,
        exemplars: list(v, "exemplars", exemplar)?,
    })
}

fn buckets(v: &Value) -> Result<Buckets> {
    let offset = field(v, "offset", signed)?;
    let offset = i32::try_from(offset).map_err(|_| "offset is too large")?;
    Ok(Buckets { offset, counts: numbers(v, "bucketCounts", unsigned)? })
}

fn exponential(v: &Value) -> Result<Exponential> {
    Ok(Exponential {
        point: point(v)?,
        count: field(v, "count", unsigned)?,
        sum: sum(v)?,
        scale: i32::try_from(field(v, "scale", signed)?).map_err(|_| "scale is too large")?,
        zero_count: field(v, "zeroCount", unsigned)?,
        zero_threshold: field(v, "zeroThreshold", float)?,
        positive: buckets(&v["positive"])?,
        negative: buckets(&v["negative"])?,
        exemplars: list(v, "exemplars", exemplar)?,
    })
}

fn summary(v: &Value) -> Result<Summary> {
    Ok(Summary {
        point: point(v)?,
        count: field(v, "count", unsigned)?,
        sum: field(v, "sum", float)?,
        quantiles: list(v, "quantileValues", |q| Ok((field(q, "quantile", float)?, field(q, "value", float)?)))?,
    })
}

fn exemplar(v: &Value) -> Result<Exemplar> {
    Ok(Exemplar {
        attributes: attributes(v, "filteredAttributes")?,
        time: field(v, "timeUnixNano", unsigned)?,
        value: value(v)?,
        trace_id: text(v, "traceId")?.to_ascii_lowercase(),
        span_id: text(v, "spanId")?.to_ascii_lowercase(),
    })
}
