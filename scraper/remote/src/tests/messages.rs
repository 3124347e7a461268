//! The messages as `prost` reads them.

use narthex_config::remote::WriteMessage;
use narthex_model::{CounterResetHint, Exemplar, Histogram, Labels, Span};
use prost::Message;

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
    #[prost(int64, tag = "3")]
    start_timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ExemplarV1 {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(double, tag = "2")]
    value: f64,
    #[prost(int64, tag = "3")]
    timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ExemplarV2 {
    #[prost(uint32, repeated, tag = "1")]
    labels: Vec<u32>,
    #[prost(double, tag = "2")]
    value: f64,
    #[prost(int64, tag = "3")]
    timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct BucketSpan {
    #[prost(sint32, tag = "1")]
    offset: i32,
    #[prost(uint32, tag = "2")]
    length: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct HistogramMessage {
    #[prost(uint64, optional, tag = "1")]
    pub count_int: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub count_float: Option<f64>,
    #[prost(double, tag = "3")]
    pub sum: f64,
    #[prost(sint32, tag = "4")]
    pub schema: i32,
    #[prost(double, tag = "5")]
    pub zero_threshold: f64,
    #[prost(uint64, optional, tag = "6")]
    pub zero_count_int: Option<u64>,
    #[prost(double, optional, tag = "7")]
    pub zero_count_float: Option<f64>,
    #[prost(message, repeated, tag = "8")]
    pub negative_spans: Vec<BucketSpan>,
    #[prost(sint64, repeated, tag = "9")]
    pub negative_deltas: Vec<i64>,
    #[prost(double, repeated, tag = "10")]
    pub negative_counts: Vec<f64>,
    #[prost(message, repeated, tag = "11")]
    pub positive_spans: Vec<BucketSpan>,
    #[prost(sint64, repeated, tag = "12")]
    pub positive_deltas: Vec<i64>,
    #[prost(double, repeated, tag = "13")]
    pub positive_counts: Vec<f64>,
    #[prost(uint32, tag = "14")]
    pub reset_hint: u32,
    #[prost(int64, tag = "15")]
    pub timestamp: i64,
    #[prost(double, repeated, tag = "16")]
    pub custom_values: Vec<f64>,
    #[prost(int64, tag = "17")]
    pub start_timestamp: i64,
}

impl HistogramMessage {
    /// What it says, and whether it says so in whole numbers.
    pub fn back(&self) -> (Histogram, bool) {
        let spans = |all: &[BucketSpan]| all.iter().map(|s| Span { offset: s.offset, length: s.length }).collect();
        let buckets = |deltas: &[i64], counts: &[f64]| -> Vec<f64> {
            let sums = deltas.iter().scan(0, |sum, d| {
                *sum += d;
                Some(*sum as f64)
            });
            sums.chain(counts.iter().copied()).collect()
        };
        let h = Histogram {
            counter_reset_hint: CounterResetHint::from_code(self.reset_hint.into()).unwrap(),
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            zero_count: self.zero_count_int.map_or_else(|| self.zero_count_float.unwrap(), |n| n as f64),
            count: self.count_int.map_or_else(|| self.count_float.unwrap(), |n| n as f64),
            sum: self.sum,
            positive_spans: spans(&self.positive_spans),
            negative_spans: spans(&self.negative_spans),
            positive_buckets: buckets(&self.positive_deltas, &self.positive_counts),
            negative_buckets: buckets(&self.negative_deltas, &self.negative_counts),
            custom_values: self.custom_values.clone(),
        };
        (h, self.count_int.is_some())
    }
}

#[derive(Clone, PartialEq, Message)]
struct SeriesV1 {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    exemplars: Vec<ExemplarV1>,
    #[prost(message, repeated, tag = "4")]
    histograms: Vec<HistogramMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct MetadataV1 {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "4")]
    help: String,
}

#[derive(Clone, PartialEq, Message)]
struct RequestV1 {
    #[prost(message, repeated, tag = "1")]
    series: Vec<SeriesV1>,
    #[prost(message, repeated, tag = "3")]
    metadata: Vec<MetadataV1>,
}

#[derive(Clone, PartialEq, Message)]
struct MetadataV2 {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(uint32, tag = "3")]
    help: u32,
    #[prost(uint32, tag = "4")]
    unit: u32,
}

#[derive(Clone, PartialEq, Message)]
struct SeriesV2 {
    #[prost(uint32, repeated, tag = "1")]
    labels: Vec<u32>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    histograms: Vec<HistogramMessage>,
    #[prost(message, repeated, tag = "4")]
    exemplars: Vec<ExemplarV2>,
    #[prost(message, optional, tag = "5")]
    metadata: Option<MetadataV2>,
}

#[derive(Clone, PartialEq, Message)]
struct RequestV2 {
    #[prost(string, repeated, tag = "4")]
    symbols: Vec<String>,
    #[prost(message, repeated, tag = "5")]
    series: Vec<SeriesV2>,
}

/// One series message of a request.
#[derive(Clone, Debug)]
pub struct Got {
    pub labels: Labels,
    /// Timestamp, value, start.
    pub samples: Vec<(i64, f64, i64)>,
    pub histograms: Vec<HistogramMessage>,
    pub exemplars: Vec<Exemplar>,
    /// Type, help, unit.
    pub metadata: (u32, String, String),
}

fn samples(all: &[Sample]) -> Vec<(i64, f64, i64)> {
    all.iter().map(|s| (s.timestamp, s.value, s.start_timestamp)).collect()
}

/// How many descriptions a 1.0 request holds.
pub fn descriptions(body: &[u8]) -> usize {
    let plain = snap::raw::Decoder::new().decompress_vec(body).unwrap();
    RequestV1::decode(&*plain).unwrap().metadata.iter().filter(|m| !m.name.is_empty() && !m.help.is_empty()).count()
}

pub fn decode(body: &[u8], message: WriteMessage) -> Vec<Got> {
    let plain = snap::raw::Decoder::new().decompress_vec(body).unwrap();
    match message {
        WriteMessage::V1 => {
            let pairs = |all: &[Label]| Labels::from_pairs(all.iter().map(|l| (l.name.clone(), l.value.clone())));
            let one = |s: &SeriesV1| Got {
                labels: pairs(&s.labels),
                samples: samples(&s.samples),
                histograms: s.histograms.clone(),
                exemplars: s
                    .exemplars
                    .iter()
                    .map(|e| Exemplar {
                        labels: pairs(&e.labels),
                        value: e.value,
                        timestamp: e.timestamp,
                        has_timestamp: true,
                    })
                    .collect(),
                metadata: Default::default(),
            };
            RequestV1::decode(&*plain).unwrap().series.iter().map(one).collect()
        }
        WriteMessage::V2 => {
            let request = RequestV2::decode(&*plain).unwrap();
            let symbol = |r: u32| request.symbols[r as usize].clone();
            assert_eq!(request.symbols[0], "");
            let mut unique = request.symbols.clone();
            unique.sort();
            unique.dedup();
            assert_eq!(unique.len(), request.symbols.len(), "each string once");
            let pairs = |all: &[u32]| Labels::from_pairs(all.chunks(2).map(|p| (symbol(p[0]), symbol(p[1]))));
            let one = |s: &SeriesV2| {
                let m = s.metadata.clone().unwrap();
                Got {
                    labels: pairs(&s.labels),
                    samples: samples(&s.samples),
                    histograms: s.histograms.clone(),
                    exemplars: s
                        .exemplars
                        .iter()
                        .map(|e| Exemplar {
                            labels: pairs(&e.labels),
                            value: e.value,
                            timestamp: e.timestamp,
                            has_timestamp: true,
                        })
                        .collect(),
                    metadata: (m.kind, symbol(m.help), symbol(m.unit)),
                }
            };
            request.series.iter().map(one).collect()
        }
    }
}
