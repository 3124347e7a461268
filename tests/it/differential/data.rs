//! What both servers are given.

use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Sample {
    /// Optional, so that -0 is written.
    #[prost(double, optional, tag = "1")]
    value: Option<f64>,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    exemplars: Vec<Exemplar>,
    #[prost(message, repeated, tag = "4")]
    histograms: Vec<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Exemplar {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(double, tag = "2")]
    value: f64,
    #[prost(int64, tag = "3")]
    timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    count_int: Option<u64>,
    #[prost(double, optional, tag = "2")]
    count_float: Option<f64>,
    #[prost(double, tag = "3")]
    sum: f64,
    #[prost(sint32, tag = "4")]
    schema: i32,
    #[prost(double, tag = "5")]
    zero_threshold: f64,
    #[prost(uint64, optional, tag = "6")]
    zero_count_int: Option<u64>,
    #[prost(double, optional, tag = "7")]
    zero_count_float: Option<f64>,
    #[prost(message, repeated, tag = "8")]
    negative_spans: Vec<Span>,
    #[prost(sint64, repeated, tag = "9")]
    negative_deltas: Vec<i64>,
    #[prost(double, repeated, tag = "10")]
    negative_counts: Vec<f64>,
    #[prost(message, repeated, tag = "11")]
    positive_spans: Vec<Span>,
    #[prost(sint64, repeated, tag = "12")]
    positive_deltas: Vec<i64>,
    #[prost(double, repeated, tag = "13")]
    positive_counts: Vec<f64>,
    #[prost(int32, tag = "14")]
    reset_hint: i32,
    #[prost(int64, tag = "15")]
    timestamp: i64,
    #[prost(double, repeated, tag = "16")]
    custom_values: Vec<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Span {
    #[prost(sint32, tag = "1")]
    offset: i32,
    #[prost(uint32, tag = "2")]
    length: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
}

/// Half an hour of counters, gauges, histograms and odd values, ending at `end` (ms), every 15 s.
pub fn data(end: i64) -> WriteRequest {
    let mut timeseries = Vec::new();
    let mut add = |pairs: &[(&str, &str)], value: &dyn Fn(i64) -> f64| {
        let mut labels: Vec<Label> =
            pairs.iter().map(|(n, v)| Label { name: (*n).into(), value: (*v).into() }).collect();
        labels.sort_by(|a, b| a.name.cmp(&b.name));
        let samples =
            (0..=120).map(|i| Sample { value: Some(value(i)), timestamp: end - (120 - i) * 15_000 }).collect();
        timeseries.push(TimeSeries { labels, samples, ..TimeSeries::default() });
    };
    for (instance, k) in [("a:1", 1.0), ("b:1", 2.5), ("c:1", -0.5)] {
        add(&[("__name__", "up"), ("job", "j"), ("instance", instance)], &|_| f64::from(u8::from(k > 0.0)));
        for mode in ["user", "system", "idle"] {
            let step = k * (mode.len() as f64 + f64::from(mode.as_bytes()[0]) / 100.0);
            let name = [("__name__", "cpu_seconds_total"), ("job", "j"), ("instance", instance), ("mode", mode)];
            add(&name, &|i| if i > 60 { (i - 60) as f64 * step } else { i as f64 * step });
        }
        for (le, share) in [("0.1", 0.2), ("0.5", 0.6), ("1", 0.9), ("+Inf", 1.0)] {
            let name = [("__name__", "latency_seconds_bucket"), ("job", "j"), ("instance", instance), ("le", le)];
            add(&name, &|i| (i as f64 * share * 10.0 * (1.0 + k)).floor());
        }
    }
    add(&[("__name__", "odd"), ("kind", "nan")], &|_| f64::NAN);
    add(&[("__name__", "odd"), ("kind", "inf")], &|_| f64::INFINITY);
    add(&[("__name__", "odd"), ("kind", "small")], &|i| 1e-9 * i as f64);
    add(&[("__name__", "odd"), ("kind", "large")], &|i| 1e21 * (i + 1) as f64);
    add(&[("__name__", "odd"), ("kind", "<tag> & \"quote\" \\ \u{2028}")], &|i| i as f64);
    add(&[("__name__", "with.dots"), ("host.name", "ü"), ("plain", "1")], &|i| i as f64);
    add(&[("__name__", "signed_zero")], &|i| if i % 2 == 0 { -0.0 } else { 0.0 });
    add(&[("__name__", "subnormal")], &|i| 5e-324 * i as f64);
    add(&[("__name__", "thirds")], &|i| i as f64 / 3.0);
    add(&[("__name__", "job:up:sum")], &|i| i as f64);
    add(&[("__name__", "typed_total"), ("__type__", "counter"), ("__unit__", "seconds")], &|i| i as f64);
    timeseries.extend(native_histograms(end));
    timeseries.push(exemplars(end));
    // Series are answered in the order in which they were first seen, which shall be none of their labels.
    timeseries.sort_by_key(|s| {
        let text = s.labels.iter().flat_map(|l| l.name.bytes().chain(l.value.bytes()));
        text.fold(7u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
    });
    WriteRequest { timeseries }
}

/// Native histograms of every kind: whole and float counts, gauges, custom buckets, a series of floats and histograms.
fn native_histograms(end: i64) -> Vec<TimeSeries> {
    let labels = |name: &str, instance: &str| {
        [("__name__", name), ("instance", instance), ("job", "j")]
            .map(|(n, v)| Label { name: n.into(), value: v.into() })
            .to_vec()
    };
    let times = || (0..=120i64).map(|i| (i, end - (120 - i) * 15_000));
    let mut out = Vec::new();
    for (instance, k) in [("a:1", 1u64), ("b:1", 3)] {
        let whole = times().map(|(i, timestamp)| {
            let n = (i % 70) as u64 * k;
            Histogram {
                count_int: Some(6 * n + 2),
                sum: n as f64 * 4.25,
                zero_threshold: 0.001,
                zero_count_int: Some(2),
                positive_spans: vec![Span { offset: -1, length: 2 }, Span { offset: 1, length: 1 }],
                positive_deltas: vec![n as i64, n as i64, -(n as i64)],
                negative_spans: vec![Span { offset: 0, length: 1 }],
                negative_deltas: vec![2 * n as i64],
                timestamp,
                ..Histogram::default()
            }
        });
        let histograms = whole.collect();
        out.push(TimeSeries { labels: labels("native_seconds", instance), histograms, ..TimeSeries::default() });
        let floats = times().map(|(i, timestamp)| {
            let n = (i as f64 * 0.75).sin() + 2.0;
            Histogram {
                count_float: Some(3.0 * n),
                sum: -n,
                schema: 2,
                zero_threshold: 1e-128,
                zero_count_float: Some(n),
                positive_spans: vec![Span { offset: 3, length: 2 }],
                positive_counts: vec![n, n],
                reset_hint: 3,
                timestamp,
                ..Histogram::default()
            }
        });
        let histograms = floats.collect();
        out.push(TimeSeries { labels: labels("native_gauge", instance), histograms, ..TimeSeries::default() });
        let custom = times().map(|(i, timestamp)| {
            let n = i * k as i64;
            Histogram {
                count_int: Some(4 * n as u64),
                sum: n as f64,
                schema: -53,
                positive_spans: vec![Span { offset: 0, length: 3 }],
                positive_deltas: vec![n, n, -n],
                custom_values: if k == 1 { vec![0.5, 1.0] } else { vec![0.5, 1.0, 2.5] },
                timestamp,
                ..Histogram::default()
            }
        });
        let histograms = custom.collect();
        out.push(TimeSeries { labels: labels("custom_seconds", instance), histograms, ..TimeSeries::default() });
    }
    // Floats first, then histograms.
    let samples = times().filter(|(i, _)| *i < 60).map(|(i, timestamp)| Sample { value: Some(i as f64), timestamp });
    let histograms = times().filter(|(i, _)| *i >= 60).map(|(i, timestamp)| Histogram {
        count_int: Some(i as u64),
        sum: i as f64,
        positive_spans: vec![Span { offset: 0, length: 1 }],
        positive_deltas: vec![i],
        timestamp,
        ..Histogram::default()
    });
    out.push(TimeSeries {
        labels: labels("mixed", "a:1"),
        samples: samples.collect(),
        histograms: histograms.collect(),
        ..TimeSeries::default()
    });
    out
}

/// A counter with exemplars.
fn exemplars(end: i64) -> TimeSeries {
    let label = |name: &str, value: &str| Label { name: name.into(), value: value.into() };
    let times = || (0..=120i64).map(|i| (i, end - (120 - i) * 15_000));
    TimeSeries {
        labels: vec![label("__name__", "traced_total"), label("instance", "a:1"), label("job", "j")],
        samples: times().map(|(i, timestamp)| Sample { value: Some(i as f64), timestamp }).collect(),
        exemplars: times()
            .step_by(40)
            .map(|(i, timestamp)| Exemplar {
                labels: vec![label("trace_id", &format!("t{i}"))],
                value: i as f64 / 3.0,
                timestamp: timestamp - 7,
            })
            .collect(),
        ..TimeSeries::default()
    }
}
