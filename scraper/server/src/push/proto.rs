//! `io.prometheus.client.MetricFamily`: what clients push, what groups are kept as, in memory and on disk.
//!
//! Fields are optional where zero and absent differ. Exemplars and start times are not read.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use narthex_model::labels::quote;
use narthex_model::number::format_g;
use prost::Message;

use super::Refused;

pub const COUNTER: i32 = 0;
pub const GAUGE: i32 = 1;
pub const SUMMARY: i32 = 2;
pub const UNTYPED: i32 = 3;
pub const HISTOGRAM: i32 = 4;
pub const GAUGE_HISTOGRAM: i32 = 5;

/// The name of a type in Prometheus's messages.
pub fn kind_name(kind: i32) -> &'static str {
    match kind {
        COUNTER => "COUNTER",
        GAUGE => "GAUGE",
        SUMMARY => "SUMMARY",
        HISTOGRAM => "HISTOGRAM",
        GAUGE_HISTOGRAM => "GAUGE_HISTOGRAM",
        _ => "UNTYPED",
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct LabelPair {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

/// Of a counter, a gauge, or what has no type.
#[derive(Clone, PartialEq, Message)]
pub struct Single {
    #[prost(double, optional, tag = "1")]
    pub value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Quantile {
    #[prost(double, optional, tag = "1")]
    pub quantile: Option<f64>,
    #[prost(double, optional, tag = "2")]
    pub value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Summary {
    #[prost(uint64, optional, tag = "1")]
    pub sample_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub sample_sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    pub quantile: Vec<Quantile>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    pub cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub upper_bound: Option<f64>,
    #[prost(double, optional, tag = "4")]
    pub cumulative_count_float: Option<f64>,
}

impl Bucket {
    pub fn count(&self) -> f64 {
        either(self.cumulative_count_float, self.cumulative_count)
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct BucketSpan {
    #[prost(sint32, optional, tag = "1")]
    pub offset: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    pub length: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    pub sample_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub sample_sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    pub bucket: Vec<Bucket>,
    #[prost(double, optional, tag = "4")]
    pub sample_count_float: Option<f64>,
    #[prost(sint32, optional, tag = "5")]
    pub schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    pub zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    pub zero_count: Option<u64>,
    #[prost(double, optional, tag = "8")]
    pub zero_count_float: Option<f64>,
    #[prost(message, repeated, tag = "9")]
    pub negative_span: Vec<BucketSpan>,
    #[prost(sint64, repeated, tag = "10")]
    pub negative_delta: Vec<i64>,
    #[prost(double, repeated, tag = "11")]
    pub negative_count: Vec<f64>,
    #[prost(message, repeated, tag = "12")]
    pub positive_span: Vec<BucketSpan>,
    #[prost(sint64, repeated, tag = "13")]
    pub positive_delta: Vec<i64>,
    #[prost(double, repeated, tag = "14")]
    pub positive_count: Vec<f64>,
}

impl Histogram {
    pub fn count(&self) -> f64 {
        either(self.sample_count_float, self.sample_count)
    }
}

/// A float count wins, unless it is 0.
fn either(float: Option<f64>, integer: Option<u64>) -> f64 {
    match float {
        Some(v) if v != 0.0 => v,
        _ => integer.unwrap_or(0) as f64,
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct Metric {
    #[prost(message, repeated, tag = "1")]
    pub label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    pub gauge: Option<Single>,
    #[prost(message, optional, tag = "3")]
    pub counter: Option<Single>,
    #[prost(message, optional, boxed, tag = "4")]
    pub summary: Option<Box<Summary>>,
    #[prost(message, optional, tag = "5")]
    pub untyped: Option<Single>,
    #[prost(int64, optional, tag = "6")]
    pub timestamp_ms: Option<i64>,
    #[prost(message, optional, boxed, tag = "7")]
    pub histogram: Option<Box<Histogram>>,
}

impl Metric {
    /// The value of one that has only one; 0 where it has none.
    pub fn single(&self) -> f64 {
        let single = self.gauge.as_ref().or(self.counter.as_ref()).or(self.untyped.as_ref());
        single.and_then(|s| s.value).unwrap_or(0.0)
    }

    /// Whether it has what a family of that type needs.
    pub fn is(&self, kind: i32) -> bool {
        match kind {
            COUNTER => self.counter.is_some(),
            GAUGE => self.gauge.is_some(),
            SUMMARY => self.summary.is_some(),
            HISTOGRAM | GAUGE_HISTOGRAM => self.histogram.is_some(),
            _ => self.untyped.is_some(),
        }
    }

    /// How many series it is when it is scraped as text.
    pub fn series(&self) -> usize {
        let summary = self.summary.as_ref().map(|s| s.quantile.len() + 2);
        summary.or(self.histogram.as_ref().map(|h| h.bucket.len() + 3)).unwrap_or(1)
    }

    /// The message as Go prints it in errors; of histograms only the head.
    pub fn text(&self) -> String {
        let mut parts: Vec<String> = self
            .label
            .iter()
            .map(|l| format!("label:{{name:{}  value:{}}}", quote(&l.name), quote(&l.value)))
            .collect();
        for (name, single) in [("gauge", &self.gauge), ("counter", &self.counter), ("untyped", &self.untyped)] {
            if let Some(single) = single {
                let value = single.value.map(|v| format!("value:{}", go_float(v))).unwrap_or_default();
                parts.push(format!("{name}:{{{value}}}"));
            }
        }
        let head = |name: &str, count: Option<u64>, sum: Option<f64>| {
            let mut text = format!("{name}:{{");
            let _ = count.map(|n| write!(text, "sample_count:{n}  "));
            let _ = sum.map(|v| write!(text, "sample_sum:{}", go_float(v)));
            text.trim_end().to_owned() + "}"
        };
        parts.extend(self.summary.as_ref().map(|s| head("summary", s.sample_count, s.sample_sum)));
        parts.extend(self.histogram.as_ref().map(|h| head("histogram", h.sample_count, h.sample_sum)));
        parts.join("  ")
    }
}

/// A float in the text of a message.
fn go_float(v: f64) -> String {
    match v {
        v if v.is_nan() => "nan".to_owned(),
        f64::INFINITY => "inf".to_owned(),
        f64::NEG_INFINITY => "-inf".to_owned(),
        v => format_g(v),
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct MetricFamily {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, optional, tag = "2")]
    pub help: Option<String>,
    #[prost(int32, tag = "3")]
    pub kind: i32,
    #[prost(message, repeated, tag = "4")]
    pub metric: Vec<Metric>,
    #[prost(string, tag = "5")]
    pub unit: String,
}

impl MetricFamily {
    pub fn gauge(name: &str, help: &str, value: f64) -> MetricFamily {
        let metric = Metric { gauge: Some(Single { value: Some(value) }), ..Metric::default() };
        let help = Some(help.to_owned());
        MetricFamily { name: name.to_owned(), help, kind: GAUGE, metric: vec![metric], unit: String::new() }
    }
}

/// Reads messages, each behind its length. Of several families of one name the last counts.
///
/// # Errors
/// What does not decode, and what has more than `most` parts: those take more memory than they have bytes.
pub fn delimited(mut body: &[u8], most: usize) -> Result<BTreeMap<String, MetricFamily>, Refused> {
    let mut families = BTreeMap::new();
    let mut left = most;
    let bad = |what: &dyn std::fmt::Display| Refused::Body(format!("proto: {what}"));
    while !body.is_empty() {
        let length = prost::decode_length_delimiter(&mut body).map_err(|e| bad(&e))?;
        let message = body.split_off(..length).ok_or_else(|| bad(&"unexpected EOF"))?;
        left = left.checked_sub(parts(message, 0).map_err(|e| bad(&e))?).ok_or(Refused::Parts(most))?;
        let mut family = MetricFamily::decode(message).map_err(|e| bad(&e))?;
        if family.name.is_empty() {
            return Err(Refused::Body("metric family without a name".to_owned()));
        }
        // An enum of two languages ago: what it does not know is as if it were not there.
        if !(COUNTER..=GAUGE_HISTOGRAM).contains(&family.kind) {
            family.kind = COUNTER;
        }
        families.insert(family.name.clone(), family);
    }
    Ok(families)
}

/// How many messages and texts a message has, those in it included. Knows which fields hold messages, and so does not
/// recurse deeper than a family goes.
fn parts(mut message: &[u8], depth: usize) -> Result<usize, String> {
    use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
    let mut n = 1;
    while !message.is_empty() {
        let (tag, wire) = decode_key(&mut message).map_err(|e| e.to_string())?;
        if wire != WireType::LengthDelimited {
            skip_field(wire, tag, &mut message, DecodeContext::default()).map_err(|e| e.to_string())?;
            continue;
        }
        let length = decode_varint(&mut message).map_err(|e| e.to_string())?;
        let inner = usize::try_from(length).ok().and_then(|n| message.split_off(..n));
        let inner = inner.ok_or("unexpected EOF")?;
        n += match (depth, tag) {
            (0, 4) | (1, 4 | 7) => parts(inner, depth + 1)?,
            // Packed numbers: eight bytes for what may be one.
            (2, 10 | 13) => 1 + inner.len() / 8,
            _ => 1,
        };
    }
    Ok(n)
}
