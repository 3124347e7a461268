//! `ExportMetricsServiceRequest` (opentelemetry-proto, `metrics/v1`) from protobuf.

use serde_json::Value;

use narthex_model::varint::unzigzag;

use crate::write::wire::{Field, WireError, each, message, packed_doubles, packed_varints};

/// Name and value of an attribute, the value as text.
pub type Attribute = (String, String);

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resource {
    pub attributes: Vec<Attribute>,
    pub scopes: Vec<Scope>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scope {
    pub name: String,
    pub version: String,
    pub schema_url: String,
    pub attributes: Vec<Attribute>,
    pub metrics: Vec<Metric>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metric {
    pub name: String,
    pub description: String,
    pub unit: String,
    pub data: Data,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Temporality {
    #[default]
    Unspecified,
    Delta,
    Cumulative,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum Data {
    #[default]
    None,
    Gauge(Vec<Number>),
    Sum {
        points: Vec<Number>,
        temporality: Temporality,
        monotonic: bool,
    },
    Histogram {
        points: Vec<Explicit>,
        temporality: Temporality,
    },
    Exponential {
        points: Vec<Exponential>,
        temporality: Temporality,
    },
    Summary(Vec<Summary>),
}

/// What all data points have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Point {
    pub attributes: Vec<Attribute>,
    /// Nanoseconds since the epoch, from when it counts.
    pub start: u64,
    /// Nanoseconds since the epoch.
    pub time: u64,
    /// No value: a staleness marker.
    pub stale: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Number {
    pub point: Point,
    pub value: f64,
    pub exemplars: Vec<Exemplar>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Explicit {
    pub point: Point,
    pub count: u64,
    pub sum: Option<f64>,
    pub counts: Vec<u64>,
    pub bounds: Vec<f64>,
    pub exemplars: Vec<Exemplar>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exponential {
    pub point: Point,
    pub count: u64,
    pub sum: Option<f64>,
    pub scale: i32,
    pub zero_count: u64,
    pub zero_threshold: f64,
    pub positive: Buckets,
    pub negative: Buckets,
    pub exemplars: Vec<Exemplar>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Buckets {
    pub offset: i32,
    pub counts: Vec<u64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    pub point: Point,
    pub count: u64,
    pub sum: f64,
    /// Quantiles and their values.
    pub quantiles: Vec<(f64, f64)>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exemplar {
    pub attributes: Vec<Attribute>,
    /// Nanoseconds since the epoch.
    pub time: u64,
    pub value: f64,
    /// In hex, empty where there is none.
    pub trace_id: String,
    pub span_id: String,
}

/// How deep values may lie in each other.
pub const MAX_DEPTH: usize = 16;

/// A value as the collector's `AsString` writes it.
pub fn value_text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        Value::Number(n) => match n.as_i64() {
            Some(i) => i.to_string(),
            None => {
                let text = narthex_model::number::format_json(n.as_f64().unwrap_or_default());
                text.replace("e-0", "e-")
            }
        },
        other => other.to_string(),
    }
}

fn hex(bytes: &[u8]) -> String {
    if bytes.iter().all(|b| *b == 0) {
        return String::new();
    }
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn fixed(field: Field<'_>) -> Result<u64, WireError> {
    match field {
        Field::Fixed64(bits) => Ok(bits),
        // Counts were varints in drafts of the protocol.
        Field::Varint(n) => Ok(n),
        _ => Err(WireError::Truncated),
    }
}

fn packed_fixed(field: Field<'_>, out: &mut Vec<u64>) -> Result<(), WireError> {
    let mut doubles = Vec::new();
    packed_doubles(field, &mut doubles)?;
    out.extend(doubles.iter().map(|d| d.to_bits()));
    Ok(())
}

fn owned(field: Field<'_>) -> Result<String, WireError> {
    field.text().map(str::to_owned)
}

fn any(bytes: &[u8], depth: usize) -> Result<Value, WireError> {
    if depth > MAX_DEPTH {
        return Err(WireError::Overflow);
    }
    message(bytes, |out: &mut Value, number, field| {
        match number {
            1 => *out = Value::String(owned(field)?),
            2 => *out = Value::Bool(field.varint()? != 0),
            3 => *out = Value::from(field.varint()? as i64),
            4 => {
                let v = field.double()?;
                // The collector's words for what JSON has no number for.
                *out = serde_json::Number::from_f64(v).map_or_else(
                    || Value::String(format!("json: unsupported value: {}", narthex_model::number::format_g(v))),
                    Value::Number,
                );
            }
            5 => {
                *out = Value::Array(message(field.bytes()?, |list: &mut Vec<Value>, number, field| {
                    if number == 1 {
                        list.push(any(field.bytes()?, depth + 1)?);
                    }
                    Ok(())
                })?);
            }
            6 => {
                *out = Value::Object(message(field.bytes()?, |map: &mut serde_json::Map<_, _>, number, field| {
                    if number == 1 {
                        let (name, value) = key_value(field.bytes()?, depth + 1)?;
                        map.insert(name, value);
                    }
                    Ok(())
                })?);
            }
            7 => {
                use base64::Engine;
                *out = Value::String(base64::engine::general_purpose::STANDARD.encode(field.bytes()?));
            }
            _ => {}
        }
        Ok(())
    })
}

fn key_value(bytes: &[u8], depth: usize) -> Result<(String, Value), WireError> {
    message(bytes, |(name, value): &mut (String, Value), number, field| {
        match number {
            1 => *name = owned(field)?,
            2 => *value = any(field.bytes()?, depth)?,
            _ => {}
        }
        Ok(())
    })
}

fn attribute(field: Field<'_>) -> Result<Attribute, WireError> {
    let (name, value) = key_value(field.bytes()?, 0)?;
    Ok((name, value_text(&value)))
}

/// Reads a request.
///
/// # Errors
/// When the bytes are no such message.
pub fn request(body: &[u8]) -> Result<Vec<Resource>, WireError> {
    message(body, |out: &mut Vec<Resource>, number, field| {
        if number == 1 {
            out.push(resource(field.bytes()?)?);
        }
        Ok(())
    })
}

fn resource(bytes: &[u8]) -> Result<Resource, WireError> {
    message(bytes, |out: &mut Resource, number, field| {
        match number {
            1 => each(field.bytes()?, |number, field| {
                if number == 1 {
                    out.attributes.push(attribute(field)?);
                }
                Ok(())
            })?,
            2 => out.scopes.push(scope(field.bytes()?)?),
            _ => {}
        }
        Ok(())
    })
}

fn scope(bytes: &[u8]) -> Result<Scope, WireError> {
    message(bytes, |out: &mut Scope, number, field| {
        match number {
            1 => each(field.bytes()?, |number, field| {
                match number {
                    1 => out.name = owned(field)?,
                    2 => out.version = owned(field)?,
                    3 => out.attributes.push(attribute(field)?),
                    _ => {}
                }
                Ok(())
            })?,
            2 => out.metrics.push(metric(field.bytes()?)?),
            3 => out.schema_url = owned(field)?,
            _ => {}
        }
        Ok(())
    })
}

fn metric(bytes: &[u8]) -> Result<Metric, WireError> {
    message(bytes, |out: &mut Metric, number, field| {
        match number {
            1 => out.name = owned(field)?,
            2 => out.description = owned(field)?,
            3 => out.unit = owned(field)?,
            5 => out.data = Data::Gauge(points(field.bytes()?, self::number)?.0),
            7 => {
                let (points, temporality, monotonic) = points(field.bytes()?, self::number)?;
                out.data = Data::Sum { points, temporality, monotonic };
            }
            9 => {
                let (points, temporality, _) = points(field.bytes()?, explicit)?;
                out.data = Data::Histogram { points, temporality };
            }
            10 => {
                let (points, temporality, _) = points(field.bytes()?, exponential)?;
                out.data = Data::Exponential { points, temporality };
            }
            11 => out.data = Data::Summary(points(field.bytes()?, summary)?.0),
            _ => {}
        }
        Ok(())
    })
}

pub fn temporality(n: u64) -> Temporality {
    match n {
        1 => Temporality::Delta,
        2 => Temporality::Cumulative,
        _ => Temporality::Unspecified,
    }
}

type Points<T> = (Vec<T>, Temporality, bool);

/// The points of a metric, with its temporality and whether it only grows: all kinds have these at the same numbers.
fn points<T>(bytes: &[u8], one: impl Fn(&[u8]) -> Result<T, WireError>) -> Result<Points<T>, WireError> {
    message(bytes, |(out, kind, monotonic): &mut Points<T>, number, field| {
        match number {
            1 => out.push(one(field.bytes()?)?),
            2 => *kind = temporality(field.varint()?),
            3 => *monotonic = field.varint()? != 0,
            _ => {}
        }
        Ok(())
    })
}

fn number(bytes: &[u8]) -> Result<Number, WireError> {
    message(bytes, |out: &mut Number, number, field| {
        match number {
            2 => out.point.start = fixed(field)?,
            3 => out.point.time = fixed(field)?,
            4 => out.value = field.double()?,
            5 => out.exemplars.push(exemplar(field.bytes()?)?),
            6 => out.value = fixed(field)? as i64 as f64,
            7 => out.point.attributes.push(attribute(field)?),
            8 => out.point.stale = field.varint()? & 1 == 1,
            _ => {}
        }
        Ok(())
    })
}

fn explicit(bytes: &[u8]) -> Result<Explicit, WireError> {
    message(bytes, |out: &mut Explicit, number, field| {
        match number {
            2 => out.point.start = fixed(field)?,
            3 => out.point.time = fixed(field)?,
            4 => out.count = fixed(field)?,
            5 => out.sum = Some(field.double()?),
            6 => packed_fixed(field, &mut out.counts)?,
            7 => packed_doubles(field, &mut out.bounds)?,
            8 => out.exemplars.push(exemplar(field.bytes()?)?),
            9 => out.point.attributes.push(attribute(field)?),
            10 => out.point.stale = field.varint()? & 1 == 1,
            _ => {}
        }
        Ok(())
    })
}

fn exponential(bytes: &[u8]) -> Result<Exponential, WireError> {
    message(bytes, |out: &mut Exponential, number, field| {
        match number {
            1 => out.point.attributes.push(attribute(field)?),
            2 => out.point.start = fixed(field)?,
            3 => out.point.time = fixed(field)?,
            4 => out.count = fixed(field)?,
            5 => out.sum = Some(field.double()?),
            6 => out.scale = field.sint()? as i32,
            7 => out.zero_count = fixed(field)?,
            8 => out.positive = buckets(field.bytes()?)?,
            9 => out.negative = buckets(field.bytes()?)?,
            10 => out.point.stale = field.varint()? & 1 == 1,
            11 => out.exemplars.push(exemplar(field.bytes()?)?),
            14 => out.zero_threshold = field.double()?,
            _ => {}
        }
        Ok(())
    })
}

fn buckets(bytes: &[u8]) -> Result<Buckets, WireError> {
    message(bytes, |out: &mut Buckets, number, field| {
        match number {
            1 => out.offset = unzigzag(field.varint()?) as i32,
            2 => packed_varints(field, |n| out.counts.push(n))?,
            _ => {}
        }
        Ok(())
    })
}

fn summary(bytes: &[u8]) -> Result<Summary, WireError> {
    message(bytes, |out: &mut Summary, number, field| {
        match number {
            2 => out.point.start = fixed(field)?,
            3 => out.point.time = fixed(field)?,
            4 => out.count = fixed(field)?,
            5 => out.sum = field.double()?,
            6 => {
                out.quantiles.push(message(field.bytes()?, |quantile: &mut (f64, f64), number, field| {
                    match number {
                        1 => quantile.0 = field.double()?,
                        2 => quantile.1 = field.double()?,
                        _ => {}
                    }
                    Ok(())
                })?);
            }
            7 => out.point.attributes.push(attribute(field)?),
            8 => out.point.stale = field.varint()? & 1 == 1,
            _ => {}
        }
        Ok(())
    })
}

fn exemplar(bytes: &[u8]) -> Result<Exemplar, WireError> {
    message(bytes, |out: &mut Exemplar, number, field| {
        match number {
            2 => out.time = fixed(field)?,
            3 => out.value = field.double()?,
            4 => out.span_id = hex(field.bytes()?),
            5 => out.trace_id = hex(field.bytes()?),
            6 => out.value = fixed(field)? as i64 as f64,
            7 => out.attributes.push(attribute(field)?),
            _ => {}
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_texts() {
        for (value, expected) in [
            (serde_json::json!("s"), "s"),
            (serde_json::json!(true), "true"),
            (serde_json::json!(-5), "-5"),
            (serde_json::json!(1.5), "1.5"),
            (serde_json::json!(1e-7), "1e-7"),
            (serde_json::json!({"b": [1, "x"], "a": null}), r#"{"a":null,"b":[1,"x"]}"#),
        ] {
            assert_eq!(value_text(&value), expected);
        }
    }

    #[test]
    fn depth_is_bounded() {
        let mut value = vec![0x0a, 1, b'x'];
        for _ in 0..2 * MAX_DEPTH {
            let mut list = vec![0x0a, value.len() as u8];
            list.extend(&value);
            value = vec![0x2a, list.len() as u8];
            value.extend(list);
        }
        assert!(any(&value, 0).is_err());
    }

    #[test]
    fn every_kind_of_point_has_its_start_and_time() {
        let mut bytes = vec![0x11];
        bytes.extend_from_slice(&7u64.to_le_bytes());
        bytes.push(0x19);
        bytes.extend_from_slice(&9u64.to_le_bytes());
        let points = [
            number(&bytes).unwrap().point,
            explicit(&bytes).unwrap().point,
            exponential(&bytes).unwrap().point,
            summary(&bytes).unwrap().point,
        ];
        assert_eq!(points.map(|p| (p.start, p.time)), [(7, 9); 4]);
    }
}
