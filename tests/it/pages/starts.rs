//! Pages that say when their counters started, near the scrape and far from it.

use super::Page;
use super::exporter::Reply;
use super::list::{OPEN_METRICS, TEXT};
use super::proto::{self, Bucket, Counter, Histogram, Metric, Quantile, Span, Summary, Timestamp};

/// OpenMetrics: `@A@` is a minute before the start, `@B@` ten seconds, `@C@` three seconds, `@OLD@` two hours; `@T1@` to
/// `@T4@` are times of samples, five seconds apart, and `@S2@` lies between the first two.
const TEXTS: &[(&str, &[&str])] = &[
    ("counter", &["# TYPE m counter\nm_total 5\nm_created @A@\n", "# TYPE m counter\nm_total 6\nm_created @A@\n"]),
    ("counter-old", &["# TYPE m counter\nm_total 5\nm_created @OLD@\n"]),
    ("counter-future", &["# TYPE m counter\nm_total 5\nm_created 99999999999\n"]),
    ("counter-late", &["# TYPE m counter\nm_total 5\n", "# TYPE m counter\nm_total 6\nm_created @A@\n"]),
    ("counter-once", &["# TYPE m counter\nm_total 5\nm_created @A@\n", "# TYPE m counter\nm_total 6\n"]),
    (
        "counter-goes",
        &["# TYPE m counter\nm_total 5\nm_created @A@\n", "", "# TYPE m counter\nm_total 6\nm_created @B@\n"],
    ),
    ("counter-first", &["# TYPE m counter\nm_created @A@\nm_total 5\n"]),
    ("counter-alone", &["# TYPE m counter\nm_created @A@\n"]),
    ("counter-plain", &["# TYPE m counter\nm 5\nm_created @A@\n"]),
    (
        "counter-labels",
        &["# TYPE m counter\nm_total{a=\"1\"} 5\nm_created{a=\"1\"} @A@\nm_total{a=\"2\"} 6\nm_created{a=\"2\"} @B@\n"],
    ),
    (
        "counter-others",
        &["# TYPE m counter\nm_total{a=\"1\"} 5\nm_total{a=\"2\"} 6\nm_created{a=\"1\"} @A@\nm_created{a=\"2\"} @B@\n"],
    ),
    ("counter-order", &["# TYPE m counter\nm_total{a=\"1\",b=\"2\"} 5\nm_created{b=\"2\",a=\"1\"} @A@\n"]),
    ("counter-twice", &["# TYPE m counter\nm_total 5\nm_created @A@\nm_created @B@\nm_total 6\n"]),
    ("counter-same-labels", &["# TYPE m counter\nm_total 5\nm_created @A@\nm_other 6\nn_total 7\n"]),
    ("counter-helped", &["# TYPE m counter\n# HELP m Words.\nm_total 5\n# HELP m More.\nm_created @A@\n"]),
    ("counter-other-name", &["# TYPE mm counter\nm_total 5\nm_created @A@\n"]),
    ("counter-longer-name", &["# TYPE m counter\nmm_total 5\nmm_created @A@\n"]),
    ("counter-named-so", &["# TYPE m_created counter\nm_created_total 5\nm_created_created @A@\nm_created 7\n"]),
    ("counter-exemplar", &["# TYPE m counter\nm_total 5 # {t=\"x\"} 1\nm_created @A@\n"]),
    ("counter-utf8", &["# TYPE \"m.x\" counter\n{\"m.x_total\",a=\"1\"} 5\n{\"m.x_created\",a=\"1\"} @A@\n"]),
    ("counter-utf8-plain", &["# TYPE \"m.x\" counter\n{\"m.x\",a=\"1\"} 5\n{\"m.x_created\",a=\"1\"} @A@\n"]),
    (
        "counter-values",
        &[
            "# TYPE m counter\nm_total{a=\"1\"} 5\nm_created{a=\"1\"} NaN\nm_total{a=\"2\"} 5\nm_created{a=\"2\"} -1\nm_total{a=\"3\"} 5\nm_created{a=\"3\"} 0\nm_total{a=\"4\"} 5\nm_created{a=\"4\"} +Inf\n",
        ],
    ),
    ("counter-bad-behind", &["# TYPE m counter\nm_total 5\nm_created @A@\nm_created{\n"]),
    ("counter-dup", &["# TYPE m counter\nm_total 5\nm_total 5\nm_created @A@\n"]),
    (
        "counter-own",
        &[
            "# TYPE m counter\nm_total 5 @T1@\nm_created @A@\n",
            "# TYPE m counter\nm_total 6 @T2@\nm_created @S2@\n",
            "# TYPE m counter\nm_total 7 @T3@\nm_created @T2@\n",
            "# TYPE m counter\nm_total 8 @T4@\nm_created @T4@\n",
        ],
    ),
    (
        "counter-own-back",
        &["# TYPE m counter\nm_total 5 @T3@\nm_created @A@\n", "# TYPE m counter\nm_total 6 @T2@\nm_created @S2@\n"],
    ),
    (
        "counter-own-zero",
        &["# TYPE m counter\nm_total 0 @T1@\nm_created @T1@\n", "# TYPE m counter\nm_total 6 @T2@\nm_created @T1@\n"],
    ),
    ("gauge", &["# TYPE m gauge\nm 5\nm_created @A@\n"]),
    ("unknown", &["# TYPE m unknown\nm 5\nm_created @A@\n"]),
    ("untyped", &["m_total 5\nm_created @A@\n"]),
    ("info", &["# TYPE m info\nm_info{a=\"1\"} 1\nm_created @A@\n"]),
    (
        "gaugehistogram",
        &[
            "# TYPE m gaugehistogram\nm_bucket{le=\"1\"} 1\nm_bucket{le=\"+Inf\"} 2\nm_gcount 2\nm_gsum 3\nm_created @A@\n",
        ],
    ),
    (
        "summary",
        &[
            "# TYPE m summary\nm{quantile=\"0.5\"} 1\nm{quantile=\"0.9\"} 2\nm_sum 3\nm_count 4\nm_created @A@\n",
            "# TYPE m summary\nm{quantile=\"0.5\"} 2\nm{quantile=\"0.9\"} 2\nm_sum 6\nm_count 5\nm_created @A@\n",
        ],
    ),
    (
        "histogram",
        &[
            "# TYPE m histogram\nm_bucket{le=\"1\"} 1\nm_bucket{le=\"+Inf\"} 2\nm_sum 3\nm_count 2\nm_created @A@\n",
            "# TYPE m histogram\nm_bucket{le=\"1\"} 2\nm_bucket{le=\"+Inf\"} 4\nm_sum 6\nm_count 4\nm_created @A@\n",
            "# TYPE m histogram\nm_bucket{le=\"1\"} 1\nm_bucket{le=\"+Inf\"} 1\nm_sum 1\nm_count 1\nm_created @B@\n",
        ],
    ),
    (
        "histogram-two",
        &[
            "# TYPE m histogram\nm_bucket{a=\"1\",le=\"1\"} 1\nm_bucket{a=\"1\",le=\"+Inf\"} 2\nm_sum{a=\"1\"} 3\nm_count{a=\"1\"} 2\nm_created{a=\"1\"} @A@\nm_bucket{a=\"2\",le=\"1\"} 1\nm_bucket{a=\"2\",le=\"+Inf\"} 2\nm_sum{a=\"2\"} 3\nm_count{a=\"2\"} 2\nm_created{a=\"2\"} @B@\n",
        ],
    ),
    (
        "histogram-middle",
        &["# TYPE m histogram\nm_bucket{le=\"1\"} 1\nm_created @A@\nm_bucket{le=\"+Inf\"} 2\nm_sum 3\nm_count 2\n"],
    ),
    (
        "histogram-own",
        &[
            "# TYPE m histogram\nm_bucket{le=\"1\"} 1 @T1@\nm_bucket{le=\"+Inf\"} 2 @T1@\nm_sum 3 @T1@\nm_count 2 @T1@\nm_created @A@\n",
            "# TYPE m histogram\nm_bucket{le=\"1\"} 1 @T2@\nm_bucket{le=\"+Inf\"} 1 @T2@\nm_sum 1 @T2@\nm_count 1 @T2@\nm_created @S2@\n",
        ],
    ),
];

/// Text, for starts that are made up; times in ms.
const COUNTED: &[(&str, &[&str])] = &[
    ("counter", &["# TYPE m counter\nm_total 5\n", "# TYPE m counter\nm_total 9\n", "# TYPE m counter\nm_total 2\n"]),
    ("counter-total", &["# TYPE m_total counter\nm_total 5\n", "# TYPE m_total counter\nm_total 9\n"]),
    ("counter-plain", &["# TYPE m counter\nm 5\n", "# TYPE m counter\nm NaN\n", "# TYPE m counter\nm 7\n"]),
    ("counter-others", &["# TYPE m counter\nm_total 5\nmm_total 3\nother 7\nm_total{a=\"1\"} 4\n"]),
    ("counter-goes", &["# TYPE m counter\nm_total 5\n", "n 1\n", "# TYPE m counter\nm_total 9\n"]),
    (
        "counter-broken",
        &["# TYPE m counter\nm_total 5\n", "# TYPE m counter\nm_total 9\n!\n", "# TYPE m counter\nm_total 11\n"],
    ),
    (
        "counter-reset-broken",
        &["# TYPE m counter\nm_total 5\n", "# TYPE m counter\nm_total 2\n!\n", "# TYPE m counter\nm_total 3\n"],
    ),
    ("counter-twice", &["# TYPE m counter\nm_total 5\nm_total 6\n", "# TYPE m counter\nm_total 9\n"]),
    (
        "counter-untyped",
        &["m_total 5\n", "# TYPE m counter\nm_total 7\n", "m_total 9\n", "# TYPE m gauge\nm_total 12\n"],
    ),
    ("counter-help-last", &["# TYPE m counter\n# HELP n x\nm_total 5\n", "# TYPE m counter\nm_total 9\n"]),
    (
        "counter-own",
        &[
            "# TYPE m counter\nm_total 5 @T1@\n",
            "# TYPE m counter\nm_total 9 @T2@\n",
            "n 1\n",
            "# TYPE m counter\nm_total 10 @T4@\n",
        ],
    ),
    ("counter-own-and-not", &["# TYPE m counter\nm_total 5 @T1@\n", "# TYPE m counter\nm_total 9\n"]),
    ("gauge", &["# TYPE m gauge\nm 5\n", "# TYPE m gauge\nm 9\n"]),
    (
        "summary",
        &[
            "# TYPE m summary\nm{quantile=\"0.5\"} 1\nm_sum 5\nm_count 3\n",
            "# TYPE m summary\nm{quantile=\"0.5\"} 2\nm_sum 8\nm_count 5\n",
        ],
    ),
    (
        "histogram",
        &[
            "# TYPE m histogram\nm_bucket{le=\"1\"} 1\nm_bucket{le=\"+Inf\"} 2\nm_sum 3\nm_count 2\n",
            "# TYPE m histogram\nm_bucket{le=\"1\"} 4\nm_bucket{le=\"+Inf\"} 6\nm_sum 9\nm_count 6\n",
            "# TYPE m histogram\nm_bucket{le=\"1\"} 1\nm_bucket{le=\"+Inf\"} 1\nm_sum 1\nm_count 1\n",
            "# TYPE m histogram\nm_bucket{le=\"2\"} 5\nm_bucket{le=\"+Inf\"} 7\nm_sum 11\nm_count 7\n",
        ],
    ),
];

const JOBS: [&str; 8] = ["plain", "nhcb", "nhcb-classic", "native-all", "no-timestamps", "track", "samples", "relabel"];

fn seconds(ms: i64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

fn timestamp(ms: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds: ms / 1000, nanos: (ms % 1000) as i32 * 1_000_000 })
}

/// All of them; `now` ends in the milliseconds that own times end in.
pub fn pages(now: i64) -> Vec<Page> {
    let mut out = Vec::new();
    let times = [
        ("@A@", now - 60_000),
        ("@B@", now - 10_000),
        ("@C@", now - 3_000),
        ("@OLD@", now - 7_200_000),
        ("@T1@", now - 8_000),
        ("@S2@", now - 5_000),
        ("@T2@", now - 3_000),
        ("@T3@", now + 2_000),
        ("@T4@", now + 7_000),
    ];
    for (name, bodies) in TEXTS {
        for job in JOBS {
            if !name.contains("histogram") && job.starts_with("n") && job != "no-timestamps" {
                continue;
            }
            let replies = bodies.iter().map(|body| {
                let body = times.iter().fold((*body).to_owned(), |b, (sign, t)| b.replace(sign, &seconds(*t)));
                Reply::new(OPEN_METRICS, body + "# EOF\n")
            });
            let mut page = Page::new(&format!("starts-{job}/{name}"), job, replies.collect());
            page.own_timestamps = job != "no-timestamps";
            out.push(page);
        }
    }
    for (name, bodies) in COUNTED {
        for job in ["plain", "nhcb", "nhcb-classic", "samples", "relabel", "track"] {
            // Beyond the limit it is held back, and then refused, in turn.
            if job == "samples" && matches!(*name, "counter-others" | "histogram") {
                continue;
            }
            let replies = bodies.iter().map(|body| {
                let body = times.iter().fold((*body).to_owned(), |b, (sign, t)| b.replace(sign, &t.to_string()));
                Reply::new(TEXT, body)
            });
            let mut page = Page::new(&format!("counted-{job}/{name}"), job, replies.collect());
            page.own_timestamps = true;
            out.push(page);
        }
    }
    // Only OpenMetrics says so in lines of its own.
    let text = format!("# TYPE m counter\nm_total 5\nm_created {}\n", seconds(now - 60_000));
    out.push(Page::new("starts-plain/text", "plain", vec![Reply::new(TEXT, text)]));
    protobuf(now, &mut out);
    out
}

fn counter(value: f64, created: Option<Timestamp>) -> Metric {
    let counter = Counter { value: Some(value), exemplar: None, created };
    Metric { counter: Some(counter), ..Metric::default() }
}

fn histogram(counts: [u64; 2], created: Option<Timestamp>, native: bool) -> Metric {
    let bucket = |upper: f64, count| Bucket { count: Some(count), upper: Some(upper), ..Bucket::default() };
    let mut h = Histogram {
        count: Some(counts[1]),
        sum: Some(counts[1] as f64),
        bucket: vec![bucket(1.0, counts[0]), bucket(f64::INFINITY, counts[1])],
        created,
        ..Histogram::default()
    };
    if native {
        h.schema = Some(0);
        h.zero_threshold = Some(0.001);
        h.zero_count = Some(counts[0]);
        h.positive_span = vec![Span { offset: Some(1), length: Some(1) }];
        h.positive_delta = vec![(counts[1] - counts[0]) as i64];
    }
    Metric { histogram: Some(h), ..Metric::default() }
}

fn protobuf(now: i64, out: &mut Vec<Page>) {
    let (a, b, between) = (timestamp(now - 60_000), timestamp(now - 10_000), timestamp(now - 5_000));
    let at = |ms: i64, metric: Metric| Metric { timestamp_ms: Some(now + ms), ..metric };
    let summary = |created| {
        let quantile = vec![Quantile { quantile: Some(0.5), value: Some(2.0) }];
        let summary = Summary { count: Some(3), sum: Some(4.0), quantile, created };
        Metric { summary: Some(summary), ..Metric::default() }
    };
    let float = |created| {
        let mut metric = histogram([1, 3], created, true);
        if let Some(h) = &mut metric.histogram {
            h.count_float = Some(3.5);
            h.zero_count_float = Some(1.5);
            h.positive_delta.clear();
            h.positive_count = vec![2.0];
        }
        metric
    };
    let cases: Vec<(&str, i32, Vec<Metric>)> = vec![
        ("counter", 0, vec![counter(5.0, a), counter(6.0, a)]),
        ("counter-none", 0, vec![counter(5.0, None)]),
        ("counter-zero", 0, vec![counter(5.0, timestamp(0))]),
        ("counter-old", 0, vec![counter(5.0, timestamp(now - 7_200_000))]),
        ("counter-far", 0, vec![counter(5.0, timestamp(now + 600_000))]),
        ("counter-own", 0, vec![at(-8000, counter(5.0, a)), at(-3000, counter(2.0, between))]),
        ("summary", 2, vec![summary(a), summary(b)]),
        ("classic", 4, vec![histogram([1, 3], a, false), histogram([2, 4], a, false)]),
        ("native", 4, vec![histogram([1, 3], a, true), histogram([2, 4], a, true)]),
        ("native-own", 4, vec![at(-8000, histogram([1, 3], a, true)), at(-3000, histogram([1, 2], between, true))]),
        ("native-float", 4, vec![float(a)]),
        ("native-gauge", 5, vec![histogram([1, 3], a, true)]),
    ];
    for (name, kind, metrics) in cases {
        for job in ["plain", "native", "native-classic", "native-nhcb", "native-all", "native-buckets", "nhcb"] {
            let replies = metrics.iter().map(|metric| {
                Reply::new(proto::CONTENT_TYPE, proto::page(&[proto::family("m", kind, vec![metric.clone()])]))
            });
            let mut page = Page::new(&format!("starts-{job}/proto-{name}"), job, replies.collect());
            page.own_timestamps = true;
            out.push(page);
        }
    }
}
