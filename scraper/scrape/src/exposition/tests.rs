//! Pages against Prometheus's verdicts, and what the parsers make of single lines.

use std::fs;
use std::path::PathBuf;

use narthex_model::Exemplar;

use super::*;

/// Every sample as `series text → labels value timestamp`, or the error after those before it.
fn read(parser: &mut dyn PageParser) -> (Vec<String>, Option<String>) {
    let mut out = Vec::new();
    let mut labels = RawLabels::default();
    loop {
        match parser.next() {
            Ok(None) => return (out, None),
            Err(e) => return (out, Some(e.0)),
            Ok(Some(Entry::Series)) => {
                let mut exemplars: Vec<Exemplar> = Vec::new();
                parser.exemplars(&mut exemplars);
                if let Err(e) = parser.labels(&mut labels) {
                    return (out, Some(e.0));
                }
                let mut line = String::new();
                for (n, v) in &labels.0 {
                    line.push_str(&format!("{n}={v:?} "));
                }
                line.push_str(&format!("{}", parser.value()));
                if let Some(t) = parser.timestamp() {
                    line.push_str(&format!(" @{t}"));
                }
                for e in exemplars {
                    line.push_str(&format!(" #{}{}", e.labels, e.value));
                    if e.has_timestamp {
                        line.push_str(&format!("@{}", e.timestamp));
                    }
                }
                out.push(line);
            }
            Ok(Some(Entry::Histogram)) => match parser.histogram() {
                Ok(h) => {
                    parser.labels(&mut labels).unwrap();
                    out.push(format!(
                        "{} H schema={} count={} sum={} {:?} {:?} {:?}",
                        labels.value("__name__"),
                        h.schema,
                        h.count,
                        h.sum,
                        h.positive_spans.iter().map(|s| (s.offset, s.length)).collect::<Vec<_>>(),
                        h.positive_buckets,
                        h.custom_values
                    ));
                }
                Err(e) => return (out, Some(e.0)),
            },
            Ok(Some(_)) => {}
        }
    }
}

fn testdata() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

#[test]
fn open_metrics_suite_as_prometheus() {
    let root = testdata().join("openmetrics");
    let verdicts: serde_json::Value =
        serde_json::from_slice(&fs::read(root.join("prometheus-verdicts.json")).unwrap()).unwrap();
    let verdicts = verdicts.as_object().unwrap();
    assert_eq!(verdicts.len(), 211);
    let mut wrong = Vec::new();
    for (name, verdict) in verdicts {
        let page = fs::read(root.join("parsers").join(name).join("metrics")).unwrap();
        let (samples, error) = read(&mut OpenMetricsParser::new(&page));
        let expected = (verdict["up"] == 1, verdict["samples"].as_u64().unwrap() as usize);
        // An empty body is no page to parse: see the scrape tests.
        let got = if page.is_empty() { (true, 0) } else { (error.is_none(), samples.len()) };
        // Double label names are the storage's business, so it takes the whole scrape to refuse them.
        if got != expected && !verdict["error"].as_str().is_some_and(|e| e.contains("is not unique")) {
            wrong.push(format!("{name}: {got:?}, not {expected:?}: {error:?}"));
        }
        if let (Some(error), Some(theirs)) = (&error, verdict["error"].as_str())
            && !theirs.is_empty()
            && error != theirs
        {
            wrong.push(format!("{name}: says {error}\n  not {theirs}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn exposition_samples_as_prometheus() {
    let root = testdata().join("exposition");
    let verdicts: serde_json::Value = serde_json::from_slice(&fs::read(root.join("verdicts.json")).unwrap()).unwrap();
    for (name, verdict) in verdicts.as_object().unwrap() {
        let page = fs::read(root.join("samples").join(name)).unwrap();
        let (mut text, mut open_metrics) = (TextParser::new(&page), OpenMetricsParser::new(&page));
        let parser: &mut dyn PageParser = if name.ends_with(".om.txt") { &mut open_metrics } else { &mut text };
        let (samples, error) = read(parser);
        assert_eq!((error, samples.len() as u64), (None, verdict["samples"].as_u64().unwrap()), "{name}");
    }
}

fn check_text(page: &str, expected: &[&str], error: Option<&str>) {
    let (samples, got) = read(&mut TextParser::new(page.as_bytes()));
    assert_eq!(samples, expected, "{page:?}");
    match (error, &got) {
        (None, None) => {}
        (Some(e), Some(g)) if g.contains(e) => {}
        _ => panic!("{page:?}: {got:?}, not {error:?}"),
    }
}

#[test]
fn text_lines() {
    let n = |rest: &str| format!("__name__=\"a\" {rest}");
    for (page, expected) in [
        ("a 1", vec![n("1")]),
        ("a 1\n\n \t\na{} 2\n", vec![n("1"), n("2")]),
        ("a{x=\"1\",} 1 123\n", vec![n("x=\"1\" 1 @123")]),
        ("a { x = \"1\" , y=\"2\" } 1\n", vec![n("x=\"1\" y=\"2\" 1")]),
        ("a{x=\"1\"}1\n", vec![n("x=\"1\" 1")]),
        ("a{x=\"\\\\ \\\" \\n \\q\"} 1\n", vec![n("x=\"\\\\ \\\" \\n \\\\q\" 1")]),
        ("a{x=\"line\nbreak\"} 1\n", vec![n("x=\"line\\nbreak\" 1")]),
        ("{\"a\",\"l.x\"=\"y\"} NaN\n", vec![n("l.x=\"y\" NaN")]),
        ("{x=\"1\",\"a\"} 1\n", vec![n("x=\"1\" 1")]),
        ("a{x=\"1\" y=\"2\"} 1\n", vec![n("x=\"1\" y=\"2\" 1")]),
        ("#\n# HELP\n#HELP a b\n# nothing\na 1\n", vec![n("1")]),
        ("# HELP a\na 1\n", vec![n("1")]),
        (
            "# TYPE a histogram\na{le=\"1\"} 1\na{le=\"x\"} 1\na{quantile=\"1\"} 1\n",
            vec![n("le=\"1.0\" 1"), n("le=\"x\" 1"), n("quantile=\"1\" 1")],
        ),
        ("# TYPE a gauge\na{le=\"1\"} 1\n", vec![n("le=\"1\" 1")]),
        ("a 1\n\0b 2 garbage", vec![n("1")]),
        ("a\t1\t5\n", vec![n("1 @5")]),
        ("", vec![]),
        ("#", vec![]),
    ] {
        check_text(page, &expected.iter().map(String::as_str).collect::<Vec<_>>(), None);
    }
    check_text(" a 1\n", &["__name__=\" a\" 1"], None);
    for (page, error) in [
        ("a 1\r\n", "strconv.ParseFloat: parsing \"1\\r\": invalid syntax while parsing: \"a 1\\r\""),
        ("a\n", "expected value after metric, got \"\\n\" (\"INVALID\") while parsing: \"a\\n\""),
        ("a 1 2 3\n", "expected next entry after timestamp, got \"3\\n\" (\"TIMESTAMP\")"),
        ("a 1 -2\n", "expected timestamp or new record"),
        ("a 1 1.5\n", "expected next entry after timestamp"),
        ("a 1 99999999999999999999\n", "value out of range"),
        ("a{x=1} 1\n", "expected label value"),
        ("a{x} 1\n", "expected equal"),
        ("a{1x=\"1\"} 1\n", "expected label name"),
        ("a{,} 1\n", "expected label name"),
        ("a{x=\"1\",,} 1\n", "expected label name"),
        ("a{x=\"1} 1\n", "expected label value"),
        ("{x=\"1\"} 1\n", "metric name not set while parsing"),
        ("{\"a\",\"b\"} 1\n", "metric name already set while parsing"),
        ("a{\"b\"} 1\n", "metric name already set while parsing"),
        ("# TYPE a what\n", "invalid metric type \"what\""),
        ("# TYPE a  counter\n", "invalid metric type \" counter\""),
        ("# TYPE\n", "\"MNAME\""),
        ("1a 1\n", "expected a valid start token"),
        ("a 0x1p4\n", "unsupported character in float while parsing: \"a 0x1p4\""),
        ("a 1 # {x=\"1\"} 1\n", "expected timestamp or new record"),
    ] {
        if page == "# TYPE\n" {
            // Without white space behind the word it is a comment.
            check_text(page, &[], None);
            continue;
        }
        check_text(page, &[], Some(error));
    }
    let (_, error) = read(&mut TextParser::new(b"a{x=\"\xff\"} 1\n"));
    assert_eq!(error.unwrap(), "invalid UTF-8 label value: \"\\\"\\xff\\\"\"");
    let (_, error) = read(&mut TextParser::new(b"# HELP a \xff\n"));
    assert_eq!(error.unwrap(), "help text \"\\xff\" is not a valid utf8 string");
}

#[test]
fn open_metrics_lines() {
    let check = |page: &str, expected: Result<&[&str], &str>| {
        let (samples, error) = read(&mut OpenMetricsParser::new(page.as_bytes()));
        match expected {
            Ok(lines) => assert_eq!(
                (samples.as_slice(), error),
                (&lines.iter().map(|s| s.to_string()).collect::<Vec<_>>()[..], None),
                "{page:?}"
            ),
            Err(text) => assert!(error.as_deref().unwrap_or("").contains(text), "{page:?}: {samples:?} {error:?}"),
        }
    };
    check("# EOF", Ok(&[]));
    check("# EOF\n", Ok(&[]));
    check("a 1\n# EOF\n", Ok(&["__name__=\"a\" 1"]));
    check(
        "a{x=\"1\"} 1 1.5 # {t=\"a\\n\"} 0.5 2.25\n# EOF\n",
        Ok(&["__name__=\"a\" x=\"1\" 1 @1500 #{t=\"a\\\\n\"}0.5@2250"]),
    );
    check("a 1 # {} 0.5\n# EOF\n", Ok(&["__name__=\"a\" 1 #{}0.5"]));
    check("{\"a b\"} -1e3 -1\n# EOF\n", Ok(&["__name__=\"a b\" -1000 @-1000"]));
    check("# TYPE a summary\na{quantile=\"0\"} 1\n# EOF\n", Ok(&["__name__=\"a\" quantile=\"0.0\" 1"]));
    check("", Err("data does not end with # EOF"));
    check("a 1", Err("data does not end with # EOF"));
    check("a 1\n", Err("data does not end with # EOF"));
    check("# EOF\n\n", Err("unexpected data after # EOF"));
    check("a 1\n\n# EOF\n", Err("expected a valid start token"));
    check("a 1 NaN\n# EOF\n", Err("invalid timestamp NaN"));
    check("a 1 # {x=\"1\"} 1 Inf\n# EOF\n", Err("invalid exemplar timestamp +Inf"));
    check("a  1\n# EOF\n", Err("expected value after metric"));
    check("a{x=\"1\" y=\"1\"} 1\n# EOF\n", Err("expected comma or brace close"));
    check("# UNIT a_seconds bytes\n# EOF\n", Err("unit \"bytes\" not a suffix of metric \"a_seconds\""));
    check("# TYPE a untyped\n# EOF\n", Err("invalid metric type \"untyped\""));
}

#[test]
fn classic_histograms_become_native_ones() {
    let page = "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"2\"} 3\nh_bucket{le=\"+Inf\"} 4\nh_sum 5\nh_count 4\nh_bucket{x=\"1\",le=\"+Inf\"} 2\nh_sum{x=\"1\"} 1\nh_count{x=\"1\"} 2\n# TYPE g gauge\ng 1\n";
    let native = [
        "h H schema=-53 count=4 sum=5 [(0, 3)] [1.0, 2.0, 1.0] [1.0, 2.0]",
        "h H schema=-53 count=2 sum=1 [(0, 1)] [2.0] []",
        "__name__=\"g\" 1",
    ];
    let (samples, error) = read(&mut NhcbParser::new(TextParser::new(page.as_bytes()), false, false));
    assert_eq!((samples, error), (native.map(String::from).to_vec(), None));
    let (samples, _) = read(&mut NhcbParser::new(TextParser::new(page.as_bytes()), true, false));
    assert_eq!(samples.len(), 8 + 3);
    assert_eq!((samples[5].as_str(), samples[9].as_str()), (native[0], native[1]));
    // Counts that contradict each other: no histogram, and the classic series are gone too.
    let broken = "# TYPE h histogram\nh_bucket{le=\"1\"} 5\nh_bucket{le=\"+Inf\"} 4\n";
    assert_eq!(read(&mut NhcbParser::new(TextParser::new(broken.as_bytes()), false, false)), (vec![], None));
}

mod messages;

mod protobuf_pages {
    use crate::exposition::{Entry, PageParser, RawLabels};
    use prost::Message;

    use super::super::proto::{COUNTER, HISTOGRAM, SUMMARY};
    use super::super::{ProtobufOptions, ProtobufParser};
    use super::messages::*;
    use super::read;

    /// A family with its metrics, as a page has it.
    #[derive(Clone, PartialEq, Message)]
    struct Family {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(int32, tag = "3")]
        metric_type: i32,
        #[prost(message, repeated, tag = "4")]
        metric: Vec<Metric>,
    }

    fn page(families: &[Family]) -> Vec<u8> {
        families.iter().flat_map(|f| f.encode_length_delimited_to_vec()).collect()
    }

    fn pair(name: &str, value: &str) -> LabelPair {
        LabelPair { name: name.into(), value: value.into() }
    }

    fn all() -> Vec<u8> {
        let time = |ms: i64| Some(Timestamp { seconds: ms / 1000, nanos: (ms % 1000) as i32 * 1_000_000 });
        let exemplar = |timestamp| Exemplar { label: vec![pair("t", "1")], value: 2.0, timestamp };
        let counter = Metric {
            label: vec![pair("z", "1"), pair("b", "2")],
            counter: Some(Counter { value: 3.0, exemplar: Some(Box::new(exemplar(None))), start: time(5) }),
            timestamp_ms: 77,
            ..Metric::default()
        };
        let summary = Summary {
            sample_count: 2,
            sample_sum: 3.5,
            quantile: vec![Quantile { quantile: 1.0, value: 9.0 }],
            start: None,
        };
        let classic = Histogram {
            sample_count: 3,
            sample_sum: 6.0,
            bucket: vec![Bucket { cumulative_count: 2, upper_bound: 1.0, ..Bucket::default() }],
            ..Histogram::default()
        };
        let native = Histogram {
            sample_count: 4,
            sample_sum: 6.0,
            schema: 3,
            zero_count: 1,
            positive_span: vec![BucketSpan { offset: -1, length: 2 }],
            positive_delta: vec![1, 1],
            exemplars: vec![exemplar(None), exemplar(time(1500))],
            bucket: vec![Bucket { cumulative_count: 4, upper_bound: f64::INFINITY, ..Bucket::default() }],
            ..Histogram::default()
        };
        page(&[
            Family { name: "c".into(), metric_type: COUNTER, metric: vec![counter] },
            Family { name: "empty".into(), metric_type: 99, metric: vec![] },
            Family {
                name: "s".into(),
                metric_type: SUMMARY,
                metric: vec![Metric { summary: Some(summary), ..Metric::default() }],
            },
            Family { name: "h".into(), metric_type: HISTOGRAM, metric: vec![of(&classic)] },
            Family { name: "h".into(), metric_type: HISTOGRAM, metric: vec![of(&native)] },
        ])
    }

    fn of(histogram: &Histogram) -> Metric {
        Metric { histogram: Some(histogram.clone()), ..Metric::default() }
    }

    /// A family is read by the kind of the metric before.
    #[test]
    fn families_that_mix_both_kinds_of_histograms() {
        let bucket = vec![Bucket { cumulative_count: 1, upper_bound: f64::INFINITY, ..Bucket::default() }];
        let classic = Histogram { sample_count: 1, bucket: bucket.clone(), ..Histogram::default() };
        let native = Histogram { zero_count: 1, sample_count: 1, bucket, ..Histogram::default() };
        let check = |metrics: &[&Histogram], options: ProtobufOptions, expected: &[&str]| {
            let metric = metrics.iter().map(|h| of(h)).collect();
            let page = page(&[Family { name: "h".into(), metric_type: HISTOGRAM, metric }]);
            let mut parser = ProtobufParser::new(&page, options);
            let mut kinds = Vec::new();
            while let Some(entry) = parser.next().unwrap() {
                match entry {
                    Entry::Series => {
                        let mut labels = RawLabels::default();
                        parser.labels(&mut labels).unwrap();
                        kinds.push(labels.value("__name__").replace("h_", ""));
                    }
                    Entry::Histogram => {
                        let kind =
                            parser.histogram().map_or("missing", |h| if h.schema < 0 { "custom" } else { "native" });
                        kinds.push(kind.to_owned());
                    }
                    _ => {}
                }
            }
            assert_eq!(kinds, expected, "{options:?}");
        };
        const SERIES: [&str; 3] = ["count", "sum", "bucket"];
        let plain = ProtobufOptions::default();
        let keep = ProtobufOptions { keep_classic: true, ..plain };
        let convert = ProtobufOptions { convert_classic: true, ..plain };
        check(&[&classic, &native], plain, &[SERIES, SERIES].concat());
        check(&[&native, &classic], plain, &[&["native"][..], &SERIES].concat());
        check(&[&native, &native], keep, &[&["native"][..], &SERIES, &["native"], &SERIES].concat());
        check(&[&native, &classic], keep, &[&["native"][..], &SERIES, &["missing"]].concat());
        check(&[&classic, &native], convert, &["custom", "native"]);
        check(&[&native, &classic], convert, &["native", "custom"]);
        check(&[&classic, &native, &classic], keep, &[&SERIES[..], &SERIES, &["missing"]].concat());
    }

    /// What no encoder makes, in the words of Prometheus's decoder.
    #[test]
    fn broken_messages_are_refused_in_prometheus_words() {
        let check = |metric: &[u8], expected: &str| {
            let inner = [b"\x0a\x01a\x18\x01\x22", &[metric.len() as u8][..], metric].concat();
            let page = [&[inner.len() as u8][..], &inner].concat();
            let (_, error) = read(&mut ProtobufParser::new(&page, ProtobufOptions::default()));
            assert_eq!(error.unwrap_or_default(), expected, "{}", metric.escape_ascii());
        };
        // Unknown fields, groups among them, are passed over.
        check(b"\xa0\x06\x05\xa1\x06abcdefgh\xa2\x06\x01x\xa5\x06abcd\xa3\x06\xab\x06\xac\x06\xa4\x06", "");
        // Bits beyond the 64th are lost.
        check(b"\x30\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "");
        check(b"\x30\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "proto: integer overflow");
        check(b"\x30", "unexpected EOF");
        check(b"\x80", "unexpected EOF");
        check(b"\x31\x01", "proto: wrong wireType = 1 for field TimestampMs");
        check(b"\x10\x01", "proto: wrong wireType = 0 for field Gauge");
        check(b"\x12\x02\x08\x01", "proto: wrong wireType = 0 for field Value");
        check(b"\x12\x01\x03", "proto: Gauge: illegal tag 0 (wire type 3)");
        check(b"\x12\x02\xa4\x06", "proto: Gauge: wiretype end group for non-group");
        check(b"\xa6\x06", "proto: illegal wireType 6");
        check(b"\xa3\x06\xac\x06", "");
        check(b"\xa3\x06", "unexpected EOF");
        check(b"\xf8\xff\xff\xff\x7f\x01", "proto: Metric: illegal tag -1 (wire type 34359738360)");
        check(b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "proto: negative length found during unmarshaling");
        check(b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "proto: negative length found during unmarshaling");
        check(b"\x12\x7f", "unexpected EOF");
        // Labels are looked at once they are wanted.
        check(b"\x0a\x03\x0a\x01\xff", "invalid label name: \u{fffd}");
        check(b"\x0a\x02\x0a\x00", "invalid label name: ");
        check(b"\x0a\x06\x0a\x01b\x12\x01\xff", "invalid label value: \u{fffd}");
        check(b"\x0a\x03\x12\x01x", "");
        // Packed numbers that end in the middle of one go on behind the field.
        check(b"\x3a\x05\x6a\x01\x80\x01\x08", "unexpected EOF");
    }

    const START: [&str; 4] = [
        "__name__=\"c\" b=\"2\" z=\"1\" 3 @77 #{t=\"1\"}2",
        "__name__=\"s_count\" 2",
        "__name__=\"s_sum\" 3.5",
        "__name__=\"s\" quantile=\"1.0\" 9",
    ];
    const CLASSIC: [&str; 4] = [
        "__name__=\"h_count\" 3",
        "__name__=\"h_sum\" 6",
        "__name__=\"h_bucket\" le=\"1.0\" 2",
        "__name__=\"h_bucket\" le=\"+Inf\" 3",
    ];
    const NATIVE: &str = "h H schema=3 count=4 sum=6 [(-1, 2)] [1.0, 2.0] []";

    #[test]
    fn every_kind_of_metric() {
        let options = ProtobufOptions::default();
        let expect = |options: ProtobufOptions, parts: &[&[&str]]| {
            let (samples, error) = read(&mut ProtobufParser::new(&all(), options));
            assert_eq!(error, None);
            assert_eq!(samples, parts.concat(), "{options:?}");
        };
        expect(options, &[&START, &CLASSIC, &[NATIVE]]);
        expect(
            ProtobufOptions { keep_classic: true, ..options },
            &[
                &START,
                &CLASSIC,
                &[NATIVE, "__name__=\"h_count\" 4", "__name__=\"h_sum\" 6", "__name__=\"h_bucket\" le=\"+Inf\" 4"],
            ],
        );
        let converted = "h H schema=-53 count=3 sum=6 [(0, 2)] [2.0, 1.0] [1.0]";
        expect(ProtobufOptions { convert_classic: true, ..options }, &[&START, &[converted, NATIVE]]);
        expect(
            ProtobufOptions { ignore_native: true, ..options },
            &[
                &START,
                &CLASSIC,
                &["__name__=\"h_count\" 4", "__name__=\"h_sum\" 6", "__name__=\"h_bucket\" le=\"+Inf\" 4"],
            ],
        );
    }

    #[test]
    fn a_cut_page_is_refused_and_none_panics() {
        let page = all();
        for end in 0..page.len() {
            let _ = read(&mut ProtobufParser::new(&page[..end], ProtobufOptions::default()));
        }
        let (_, error) = read(&mut ProtobufParser::new(&page[..page.len() - 1], ProtobufOptions::default()));
        assert!(error.unwrap().contains("insufficient length of buffer"));
        for i in 0..page.len() {
            for flip in [1u8, 0x80, 0xff] {
                let mut page = page.clone();
                page[i] ^= flip;
                let _ = read(&mut ProtobufParser::new(
                    &page,
                    ProtobufOptions { keep_classic: true, convert_classic: true, ..ProtobufOptions::default() },
                ));
            }
        }
    }

    #[test]
    fn contradicting_histograms_are_refused() {
        let mut h = Histogram {
            sample_count: 4,
            positive_span: vec![BucketSpan { offset: 0, length: 2 }],
            positive_delta: vec![1],
            ..Histogram::default()
        };
        let run = |h: &Histogram| {
            let metric = vec![Metric { histogram: Some(h.clone()), ..Metric::default() }];
            let page = page(&[Family { name: "h".into(), metric_type: HISTOGRAM, metric }]);
            let mut parser = ProtobufParser::new(&page, ProtobufOptions::default());
            loop {
                match parser.next() {
                    Ok(Some(Entry::Histogram)) => {
                        let histogram = parser.histogram().unwrap();
                        break parser.check_histogram(&histogram).err().map(|e| e.0);
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => break None,
                    Err(e) => break Some(e.0),
                }
            }
        };
        assert!(run(&h).unwrap().contains("spans require 2 buckets, have 1"));
        h.positive_delta = vec![1, 0];
        assert!(run(&h).unwrap().contains("2 observations found in buckets, but the Count field is 4"));
        h.positive_delta = vec![1, -2];
        assert!(run(&h).unwrap().contains("observation count is negative"));
    }
}
