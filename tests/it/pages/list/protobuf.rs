//! Protobuf: histograms of every kind, odd families, broken messages.

use super::Page;
use crate::pages::exporter::Reply;
use crate::pages::proto::{
    self, Bucket, Counter, Exemplar, Family, Histogram, Metric, Quantile, Summary, Timestamp, Value,
};

fn exemplar(seconds: Option<i64>, value: f64, id: &str) -> Exemplar {
    Exemplar {
        label: proto::labels(&[("t", id)]),
        value: Some(value),
        timestamp: seconds.map(|seconds| Timestamp { seconds, nanos: 137_000_000 }),
    }
}

fn bucket(count: u64, upper: f64) -> Bucket {
    Bucket { count: Some(count), upper: Some(upper), ..Bucket::default() }
}

fn native() -> Histogram {
    Histogram {
        count: Some(12),
        sum: Some(18.4),
        schema: Some(1),
        zero_threshold: Some(0.001),
        zero_count: Some(2),
        positive_span: proto::spans(&[(0, 2), (1, 2)]),
        positive_delta: vec![1, 1, -1, 0],
        negative_span: proto::spans(&[(0, 2), (1, 2)]),
        negative_delta: vec![1, 1, -1, 0],
        ..Histogram::default()
    }
}

fn of_histogram(name: &str, kind: i32, histogram: Histogram) -> Family {
    proto::family(name, kind, vec![Metric { histogram: Some(histogram), ..Metric::default() }])
}

pub(super) fn protobuf(now: i64, out: &mut Vec<Page>) {
    let jobs = [
        "plain",
        "nhcb",
        "nhcb-classic",
        "native",
        "native-classic",
        "native-nhcb",
        "native-all",
        "native-buckets",
        "native-factor",
    ];
    let classic = Histogram {
        count: Some(4),
        sum: Some(5.5),
        bucket: vec![bucket(1, 0.5), bucket(3, 1.0), bucket(4, f64::INFINITY)],
        ..Histogram::default()
    };
    let no_inf = Histogram { bucket: vec![bucket(1, 0.5), bucket(3, 1.0)], ..classic.clone() };
    let both = Histogram { bucket: classic.bucket.clone(), ..native() };
    let float = Histogram {
        count: None,
        count_float: Some(12.5),
        zero_count: None,
        zero_count_float: Some(2.5),
        positive_delta: vec![],
        positive_count: vec![1.5, 2.0, 1.0, 1.0],
        negative_delta: vec![],
        negative_count: vec![1.5, 2.0, 1.0, 0.0],
        ..native()
    };
    let float_classic = Histogram {
        count: None,
        count_float: Some(4.5),
        bucket: vec![Bucket { count: None, count_float: Some(1.5), upper: Some(1.0), exemplar: None }],
        ..classic.clone()
    };
    let with_exemplars = Histogram {
        exemplars: vec![
            exemplar(Some(now / 1000 - 2), 1.0, "a"),
            exemplar(Some(now / 1000 - 3), 2.0, "b"),
            exemplar(None, 3.0, "c"),
        ],
        ..native()
    };
    let mut bucket_exemplars = classic.clone();
    bucket_exemplars.bucket[0].exemplar = Some(exemplar(Some(now / 1000 - 2), 0.2, "a"));
    bucket_exemplars.bucket[2].exemplar = Some(exemplar(None, 7.0, "b"));
    let both_exemplars = Histogram { bucket: bucket_exemplars.bucket.clone(), ..with_exemplars.clone() };
    let created = Some(Timestamp { seconds: now / 1000 - 100, nanos: 0 });
    let histograms: Vec<(&str, i32, Histogram)> = vec![
        ("classic", 4, classic.clone()),
        ("classic-no-inf", 4, no_inf),
        (
            "classic-unsorted",
            4,
            Histogram { bucket: vec![bucket(4, f64::INFINITY), bucket(3, 1.0), bucket(1, 0.5)], ..classic.clone() },
        ),
        (
            "classic-falling",
            4,
            Histogram { bucket: vec![bucket(3, 0.5), bucket(1, 1.0), bucket(4, f64::INFINITY)], ..classic.clone() },
        ),
        (
            "classic-dup",
            4,
            Histogram { bucket: vec![bucket(1, 1.0), bucket(2, 1.0), bucket(4, f64::INFINITY)], ..classic.clone() },
        ),
        (
            "classic-nan",
            4,
            Histogram { bucket: vec![bucket(1, f64::NAN), bucket(4, f64::INFINITY)], ..classic.clone() },
        ),
        ("classic-empty", 4, Histogram::default()),
        ("classic-count-only", 4, Histogram { count: Some(3), ..Histogram::default() }),
        ("classic-count-differs", 4, Histogram { count: Some(99), ..classic.clone() }),
        ("classic-gauge", 5, classic.clone()),
        ("classic-created", 4, Histogram { created, ..classic.clone() }),
        ("classic-exemplars", 4, bucket_exemplars),
        ("classic-float", 4, float_classic),
        ("native", 4, native()),
        ("native-gauge", 5, native()),
        ("native-created", 4, Histogram { created, ..native() }),
        ("native-float", 4, float),
        ("native-both", 4, both),
        ("native-exemplars", 4, with_exemplars),
        ("native-both-exemplars", 4, both_exemplars),
        (
            "native-zero-only",
            4,
            Histogram {
                count: Some(2),
                zero_count: Some(2),
                zero_threshold: Some(0.1),
                schema: Some(0),
                sum: Some(0.0),
                ..Histogram::default()
            },
        ),
        (
            "native-empty-span",
            4,
            Histogram {
                count: Some(0),
                schema: Some(3),
                zero_threshold: Some(0.0),
                sum: Some(0.0),
                positive_span: proto::spans(&[(0, 0)]),
                ..Histogram::default()
            },
        ),
        (
            "native-threshold-zero",
            4,
            Histogram { schema: Some(3), zero_threshold: Some(0.0), count: Some(0), ..Histogram::default() },
        ),
        ("native-nan-sum", 4, Histogram { sum: Some(f64::NAN), ..native() }),
        ("native-count-low", 4, Histogram { count: Some(1), ..native() }),
        ("native-count-high", 4, Histogram { count: Some(100), ..native() }),
        ("native-spans-long", 4, Histogram { positive_span: proto::spans(&[(0, 20)]), ..native() }),
        ("native-spans-short", 4, Histogram { positive_span: proto::spans(&[(0, 1)]), ..native() }),
        ("native-span-negative", 4, Histogram { positive_span: proto::spans(&[(0, 2), (-1, 2)]), ..native() }),
        ("native-bucket-negative", 4, Histogram { positive_delta: vec![1, -5, 1, 1], ..native() }),
        ("native-schema-9", 4, Histogram { schema: Some(9), ..native() }),
        ("native-schema-8", 4, Histogram { schema: Some(8), ..native() }),
        ("native-schema-52", 4, Histogram { schema: Some(52), ..native() }),
        ("native-schema--4", 4, Histogram { schema: Some(-4), ..native() }),
        ("native-schema--5", 4, Histogram { schema: Some(-5), ..native() }),
        ("native-schema--53", 4, Histogram { schema: Some(-53), ..native() }),
        ("native-threshold-negative", 4, Histogram { zero_threshold: Some(-1.0), ..native() }),
        ("native-threshold-nan", 4, Histogram { zero_threshold: Some(f64::NAN), ..native() }),
        (
            "native-zero-spans",
            4,
            Histogram { positive_span: proto::spans(&[(0, 1), (0, 0), (0, 1), (1, 2)]), ..native() },
        ),
        ("native-offset-far", 4, Histogram { positive_span: proto::spans(&[(1_000_000, 2), (1, 2)]), ..native() }),
        (
            "native-wide",
            4,
            Histogram {
                count: Some(100),
                positive_span: proto::spans(&[(0, 88)]),
                positive_delta: [1i64].into_iter().chain(std::iter::repeat_n(0, 87)).collect(),
                ..native()
            },
        ),
        ("native-in-gauge-type", 1, native()),
    ];
    for (name, kind, histogram) in histograms {
        for job in jobs {
            let page = proto::page(&[of_histogram("h", kind, histogram.clone())]);
            out.push(Page::new(&format!("proto-{job}/{name}"), job, vec![Reply::new(proto::CONTENT_TYPE, page)]));
        }
    }
    let gauge = |v: f64| Metric { gauge: Some(Value { value: Some(v) }), ..Metric::default() };
    let labelled = |pairs: &[(&str, &str)]| Metric { label: proto::labels(pairs), ..gauge(1.0) };
    let counter = |c: Counter| Metric { counter: Some(c), ..Metric::default() };
    let summary = |s: Summary| Metric { summary: Some(s), ..Metric::default() };
    let quantile = |q: f64, v: f64| Quantile { quantile: Some(q), value: Some(v) };
    let cases: Vec<(&str, Vec<Family>)> = vec![
        ("none", vec![]),
        ("gauge", vec![proto::family("g", 1, vec![gauge(1.5)])]),
        ("gauge-nan", vec![proto::family("g", 1, vec![gauge(f64::NAN), labelled(&[("a", "1")])])]),
        ("gauge-payload", vec![proto::family("g", 1, vec![gauge(f64::from_bits(0x7ff0_0000_0000_0002))])]),
        (
            "counter",
            vec![proto::family("c_total", 0, vec![counter(Counter { value: Some(3.0), ..Counter::default() })])],
        ),
        (
            "counter-created",
            vec![proto::family(
                "c_total",
                0,
                vec![counter(Counter { value: Some(3.0), created, ..Counter::default() })],
            )],
        ),
        (
            "counter-exemplar",
            vec![proto::family(
                "c_total",
                0,
                vec![counter(Counter {
                    value: Some(3.0),
                    exemplar: Some(exemplar(Some(now / 1000 - 1), 1.0, "x")),
                    ..Counter::default()
                })],
            )],
        ),
        (
            "counter-exemplar-bare",
            vec![proto::family(
                "c_total",
                0,
                vec![counter(Counter {
                    value: Some(3.0),
                    exemplar: Some(exemplar(None, 1.0, "x")),
                    ..Counter::default()
                })],
            )],
        ),
        (
            "untyped",
            vec![proto::family(
                "u",
                3,
                vec![Metric { untyped: Some(Value { value: Some(2.0) }), ..Metric::default() }],
            )],
        ),
        (
            "summary",
            vec![proto::family(
                "s",
                2,
                vec![summary(Summary {
                    count: Some(3),
                    sum: Some(1.5),
                    quantile: vec![quantile(0.5, 1.0), quantile(1.0, 2.0), quantile(0.99, f64::NAN)],
                    created: None,
                })],
            )],
        ),
        ("summary-bare", vec![proto::family("s", 2, vec![summary(Summary::default())])]),
        (
            "summary-odd",
            vec![proto::family(
                "s",
                2,
                vec![summary(Summary {
                    count: Some(3),
                    sum: None,
                    quantile: vec![quantile(f64::NAN, 1.0), quantile(-1.0, 1.0), quantile(f64::INFINITY, 1.0)],
                    created,
                })],
            )],
        ),
        (
            "summary-dup",
            vec![proto::family(
                "s",
                2,
                vec![summary(Summary {
                    count: Some(3),
                    sum: None,
                    quantile: vec![quantile(0.5, 1.0), quantile(0.5, 2.0)],
                    created: None,
                })],
            )],
        ),
        ("type-mismatch", vec![proto::family("g", 0, vec![gauge(1.0)])]),
        ("type-mismatch-late", vec![proto::family("a", 1, vec![gauge(1.0)]), proto::family("g", 0, vec![gauge(1.0)])]),
        ("type-none", vec![Family { kind: None, ..proto::family("g", 1, vec![gauge(1.0)]) }]),
        ("type-unknown", vec![proto::family("g", 17, vec![gauge(1.0)])]),
        ("name-none", vec![Family { name: None, ..proto::family("g", 1, vec![gauge(1.0)]) }]),
        ("name-empty", vec![proto::family("", 1, vec![gauge(1.0)])]),
        ("name-dots", vec![proto::family("a.b", 1, vec![gauge(1.0)])]),
        ("name-space", vec![proto::family("a b", 1, vec![gauge(1.0)])]),
        ("help-none", vec![Family { help: None, ..proto::family("g", 1, vec![gauge(1.0)]) }]),
        ("help-newline", vec![Family { help: Some("a\nb\\n".into()), ..proto::family("g", 1, vec![gauge(1.0)]) }]),
        ("unit", vec![Family { unit: Some("seconds".into()), ..proto::family("g_seconds", 1, vec![gauge(1.0)]) }]),
        ("unit-wrong", vec![Family { unit: Some("seconds".into()), ..proto::family("g", 1, vec![gauge(1.0)]) }]),
        ("no-metrics", vec![proto::family("g", 1, vec![]), proto::family("h", 1, vec![gauge(1.0)])]),
        ("no-value", vec![proto::family("g", 1, vec![Metric::default()])]),
        (
            "labels",
            vec![proto::family("g", 1, vec![labelled(&[("z", "1"), ("a", "2")]), labelled(&[("a", "\u{0}\u{1}")])])],
        ),
        ("labels-empty", vec![proto::family("g", 1, vec![labelled(&[("a", "")])])]),
        ("labels-name-empty", vec![proto::family("g", 1, vec![labelled(&[("", "x")])])]),
        ("labels-dup", vec![proto::family("g", 1, vec![labelled(&[("a", "1"), ("a", "2")])])]),
        ("labels-dots", vec![proto::family("g", 1, vec![labelled(&[("a.b", "1")])])]),
        ("labels-le", vec![proto::family("g", 1, vec![labelled(&[("le", "1"), ("quantile", "1")])])]),
        ("labels-meta", vec![proto::family("g", 1, vec![labelled(&[("__name__", "x")])])]),
        ("dup", vec![proto::family("g", 1, vec![gauge(1.0), gauge(2.0)])]),
        ("dup-family", vec![proto::family("g", 1, vec![gauge(1.0)]), proto::family("g", 1, vec![gauge(2.0)])]),
        (
            "dup-order",
            vec![proto::family("g", 1, vec![labelled(&[("a", "1"), ("b", "1")]), labelled(&[("b", "1"), ("a", "1")])])],
        ),
        ("timestamp", vec![proto::family("g", 1, vec![Metric { timestamp_ms: Some(now - 1000), ..gauge(1.0) }])]),
        ("timestamp-zero", vec![proto::family("g", 1, vec![Metric { timestamp_ms: Some(0), ..gauge(1.0) }])]),
        ("timestamp-negative", vec![proto::family("g", 1, vec![Metric { timestamp_ms: Some(-5), ..gauge(1.0) }])]),
        ("timestamp-far", vec![proto::family("g", 1, vec![Metric { timestamp_ms: Some(i64::MAX), ..gauge(1.0) }])]),
        ("reports", vec![proto::family("up", 1, vec![gauge(9.0)])]),
    ];
    for (name, families) in cases {
        let mut page = Page::new(
            &format!("proto/{name}"),
            "native",
            vec![Reply::new(proto::CONTENT_TYPE, proto::page(&families))],
        );
        page.own_timestamps = name.starts_with("timestamp");
        out.push(page);
    }
    // Broken messages.
    let good = proto::page(&[proto::family("a", 1, vec![gauge(1.0)]), proto::family("b", 1, vec![gauge(2.0)])]);
    for cut in [1, 2, 5, good.len() / 2, good.len() - 1] {
        let page = good[..cut].to_vec();
        out.push(Page::new(&format!("proto/cut-{cut}"), "native", vec![Reply::new(proto::CONTENT_TYPE, page)]));
    }
    for (name, bytes) in [
        ("length-huge", vec![0xff, 0xff, 0xff, 0xff, 0x0f]),
        ("length-overlong", vec![0xff; 11]),
        ("zero-messages", vec![0, 0, 0]),
        ("wrong-wire", vec![2, 0x08, 0x01]),
        ("unknown-field", [vec![good[0] + 3], good[1..=good[0] as usize].to_vec(), vec![0xa8, 0x06, 0x01]].concat()),
        ("group-wire", vec![2, 0x0b, 0x0c]),
        ("bad-utf8", vec![3, 0x0a, 0x01, 0xff]),
        ("text-inside", b"a 1\n".to_vec()),
        ("trailing", [good.clone(), vec![0x80]].concat()),
    ] {
        out.push(Page::new(&format!("proto/{name}"), "native", vec![Reply::new(proto::CONTENT_TYPE, bytes)]));
    }
}
