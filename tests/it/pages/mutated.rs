//! Generated pages of the kinds that [`super::random`] does not make: broken protobuf, exemplars, every limit and
//! several of them at once, own timestamps that jump, odd buckets, content types and compressed bodies.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::Page;
use super::exporter::{Framing, Reply};
use super::list::{OPEN_METRICS, TEXT};
use super::proto::CONTENT_TYPE as PROTOBUF;
use super::random::number;

/// Jobs that only these pages use, by name.
pub const JOBS: &[(&str, &str)] = &[
    (
        "limits",
        "sample_limit: 4\n  label_limit: 6\n  label_name_length_limit: 9\n  label_value_length_limit: 24\n  \
         body_size_limit: 150B\n  native_histogram_bucket_limit: 3\n  scrape_native_histograms: true\n  \
         extra_scrape_metrics: true",
    ),
    (
        "limits-relabel",
        "sample_limit: 3\n  label_limit: 5\n  label_value_length_limit: 12\n  native_histogram_bucket_limit: 3\n  \
         scrape_native_histograms: true\n  convert_classic_histograms_to_nhcb: true\n  metric_relabel_configs:\n  \
         - {source_labels: [drop], regex: 'y.*', action: drop}\n  - {regex: 'kill.*', action: labeldrop}\n  \
         - {source_labels: [__name__], regex: 'b_(.*)', target_label: __name__, replacement: 'a_${1}'}",
    ),
    (
        "limits-honor",
        "honor_labels: true\n  honor_timestamps: false\n  sample_limit: 5\n  label_limit: 7\n  \
         label_name_length_limit: 12",
    ),
    ("honor-no-timestamps", "honor_labels: true\n  honor_timestamps: false"),
    ("honor-track", "honor_labels: true\n  track_timestamps_staleness: true"),
    ("no-timestamps-track", "honor_timestamps: false\n  track_timestamps_staleness: true"),
    ("escape-dots", "metric_name_escaping_scheme: dots"),
    ("escape-underscores", "metric_name_escaping_scheme: underscores"),
    ("escape-utf8", "metric_name_escaping_scheme: allow-utf-8\n  fallback_scrape_protocol: OpenMetricsText1.0.0"),
    (
        "native-track",
        "scrape_native_histograms: true\n  always_scrape_classic_histograms: true\n  track_timestamps_staleness: true",
    ),
    (
        "native-limits",
        "scrape_native_histograms: true\n  native_histogram_bucket_limit: 4\n  sample_limit: 6\n  \
         native_histogram_min_bucket_factor: 1.3",
    ),
];

/// As many as `NARTHEX_PAGES_RANDOM` says (180), from `NARTHEX_PAGES_SEED` (1).
pub fn pages(now: i64) -> Vec<Page> {
    let seed = number("NARTHEX_PAGES_SEED", 1);
    (0..number("NARTHEX_PAGES_RANDOM", 180)).map(|i| page(seed, i, now)).collect()
}

fn page(seed: u64, i: u64, now: i64) -> Page {
    let rng = &mut StdRng::seed_from_u64(seed.wrapping_mul(2_000_003).wrapping_add(i));
    let (kind, mut page) = match i % 10 {
        0..3 => ("proto", protobuf(rng, now)),
        3 => ("exemplars", exemplars(rng, now)),
        4 => ("limits", limits(rng)),
        5 => ("times", times(rng, now)),
        6 => ("buckets", buckets(rng)),
        7 => ("types", content_types(rng)),
        8 => ("bodies", bodies(rng)),
        _ => ("limits-proto", limits_protobuf(rng, now)),
    };
    page.name = format!("mutated-{kind}/{seed}-{i}");
    page
}

fn one<T: Copy>(rng: &mut StdRng, from: &[T]) -> T {
    *from.choose(rng).expect("something to choose from")
}

fn steps(rng: &mut StdRng, job: &'static str, mut reply: impl FnMut(&mut StdRng) -> Reply) -> Page {
    let replies = (0..rng.random_range(1..5)).map(|_| reply(rng)).collect();
    Page { name: String::new(), job, steps: replies, own_timestamps: false }
}

/// A field of a protobuf message.
#[derive(Clone, Debug)]
enum Node {
    Varint(u32, u64),
    Double(u32, f64),
    Bytes(u32, Vec<u8>),
    Message(u32, Vec<Node>),
    /// As it stands.
    Raw(Vec<u8>),
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn key(tag: u32, wire: u64, out: &mut Vec<u8>) {
    varint(u64::from(tag) << 3 | wire, out);
}

fn encode(nodes: &[Node], out: &mut Vec<u8>) {
    for node in nodes {
        match node {
            Node::Varint(tag, value) => {
                key(*tag, 0, out);
                varint(*value, out);
            }
            Node::Double(tag, value) => {
                key(*tag, 1, out);
                out.extend_from_slice(&value.to_le_bytes());
            }
            Node::Bytes(tag, bytes) => {
                key(*tag, 2, out);
                varint(bytes.len() as u64, out);
                out.extend_from_slice(bytes);
            }
            Node::Message(tag, inner) => {
                let mut bytes = Vec::new();
                encode(inner, &mut bytes);
                key(*tag, 2, out);
                varint(bytes.len() as u64, out);
                out.extend_from_slice(&bytes);
            }
            Node::Raw(bytes) => out.extend_from_slice(bytes),
        }
    }
}

fn text(tag: u32, value: &str) -> Node {
    Node::Bytes(tag, value.as_bytes().to_vec())
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

const NUMBERS: &[f64] = &[0.0, 1.0, 2.5, -1.0, 4.0, 1e9, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0];

fn labels(rng: &mut StdRng, tag: u32) -> Vec<Node> {
    let pairs = [("a", "1"), ("b", "2"), ("le", "1"), ("job", "j"), ("a.b", "ü"), ("A", "x"), ("instance", "mine")];
    let mut out = Vec::new();
    for (name, value) in pairs {
        if rng.random_bool(0.15) {
            out.push(Node::Message(tag, vec![text(1, name), text(2, value)]));
        }
    }
    out
}

fn exemplar(rng: &mut StdRng, tag: u32, now: i64) -> Node {
    let mut nodes = vec![
        Node::Message(1, vec![text(1, "t"), text(2, one(rng, &["x", "y", ""]))]),
        Node::Double(2, one(rng, &[0.5, 2.0, 7.0, 0.0])),
    ];
    if rng.random_bool(0.1) {
        let long = "x".repeat(one(rng, &[126, 127, 128, 600]));
        nodes[0] = Node::Message(1, vec![text(1, "t"), text(2, &long)]);
    }
    if rng.random_bool(0.7) {
        let at = now / 1000 - one(rng, &[1, 5, 20, 50]);
        nodes.push(Node::Message(3, vec![Node::Varint(1, at as u64), Node::Varint(2, 137_000_000)]));
    }
    Node::Message(tag, nodes)
}

/// A start; not in all of those that may have one.
fn created(rng: &mut StdRng, tag: u32, now: i64, out: &mut Vec<Node>) {
    if rng.random_bool(0.2) {
        out.push(Node::Message(tag, vec![Node::Varint(1, (now / 1000 - 60) as u64)]));
    }
}

fn side(rng: &mut StdRng, float: bool, tags: [u32; 3], out: &mut Vec<Node>) -> f64 {
    let (mut total, mut count) = (0.0, 0);
    for i in 0..rng.random_range(0..4) {
        let length = one(rng, &[0, 1, 1, 2, 3]);
        let offset = if i == 0 { one(rng, &[0, -3, 2, 1000]) } else { one(rng, &[0, 1, 2, 1]) };
        out.push(Node::Message(tags[0], vec![Node::Varint(1, zigzag(offset)), Node::Varint(2, length)]));
        count += length;
    }
    let mut last = 0i64;
    let mut packed = Vec::new();
    let pack = rng.random_bool(0.5);
    for _ in 0..count {
        let value = one(rng, &[0, 1, 1, 2, 5]);
        total += value as f64;
        match (float, pack) {
            (true, true) => packed.extend_from_slice(&(value as f64).to_le_bytes()),
            (true, false) => out.push(Node::Double(tags[2], value as f64)),
            (false, true) => varint(zigzag(value - last), &mut packed),
            (false, false) => out.push(Node::Varint(tags[1], zigzag(value - last))),
        }
        last = value;
    }
    if !packed.is_empty() {
        out.push(Node::Bytes(tags[if float { 2 } else { 1 }], packed));
    }
    total
}

fn histogram(rng: &mut StdRng, now: i64) -> Node {
    let mut out = Vec::new();
    let native = rng.random_bool(0.6);
    let float = rng.random_bool(0.3);
    let mut count = one(rng, &[0.0, 3.0]);
    if native {
        if rng.random_bool(0.8) {
            out.push(Node::Varint(5, zigzag(one(rng, &[0, 0, 1, 3, 8, -4, -4, 9, -5, 52, -53]))));
        }
        let threshold = one(rng, &[0.001, 0.001, 0.0, 1e-128, -1.0, f64::NAN]);
        out.push(Node::Double(6, threshold));
        let zero = one(rng, &[0, 1, 2]);
        out.push(if float { Node::Double(8, zero as f64) } else { Node::Varint(7, zero) });
        count = zero as f64;
        count += side(rng, float, [9, 10, 11], &mut out);
        count += side(rng, float, [12, 13, 14], &mut out);
        for _ in 0..one(rng, &[0, 0, 0, 1, 2, 3]) {
            out.push(exemplar(rng, 16, now));
        }
    }
    if !native || rng.random_bool(0.4) {
        let mut sum = 0.0;
        for bound in [-1.0, 0.5, 1.0, 2.0, f64::INFINITY] {
            if rng.random_bool(0.3) {
                continue;
            }
            sum += one(rng, &[0.0, 1.0, 1.0, 2.0]);
            let bound = if rng.random_bool(0.03) { one(rng, NUMBERS) } else { bound };
            let mut bucket = vec![Node::Double(2, bound)];
            bucket.push(if float { Node::Double(4, sum) } else { Node::Varint(1, sum as u64) });
            if rng.random_bool(0.2) {
                bucket.push(exemplar(rng, 3, now));
            }
            out.push(Node::Message(3, bucket));
        }
        if !native {
            count = sum;
        }
    }
    if rng.random_bool(0.08) {
        count += one(rng, &[-1.0, 1.0, 100.0]);
    }
    out.push(if float { Node::Double(4, count) } else { Node::Varint(1, count.max(0.0) as u64) });
    let sum = if rng.random_bool(0.1) { one(rng, NUMBERS) } else { 4.5 };
    out.push(Node::Double(2, sum));
    created(rng, 15, now, &mut out);
    Node::Message(7, out)
}

fn metric(rng: &mut StdRng, kind: u64, now: i64) -> Node {
    let mut out = labels(rng, 1);
    let value = one(rng, NUMBERS);
    // Now and then what does not belong to the type.
    // Without a value Prometheus shows the last one's of no type.
    let shown = if kind != 3 && rng.random_bool(0.04) { rng.random_range(0..6) } else { kind };
    out.push(match shown {
        0 => {
            let mut counter = vec![Node::Double(1, value)];
            if rng.random_bool(0.4) {
                counter.push(exemplar(rng, 2, now));
            }
            created(rng, 3, now, &mut counter);
            Node::Message(3, counter)
        }
        1 => Node::Message(2, vec![Node::Double(1, value)]),
        2 => {
            let mut summary = vec![Node::Varint(1, one(rng, &[0, 3, 7])), Node::Double(2, value)];
            for quantile in [0.5, 0.9, 1.0] {
                if rng.random_bool(0.5) {
                    let quantile = if rng.random_bool(0.05) { one(rng, NUMBERS) } else { quantile };
                    let value = one(rng, NUMBERS);
                    summary.push(Node::Message(3, vec![Node::Double(1, quantile), Node::Double(2, value)]));
                }
            }
            created(rng, 4, now, &mut summary);
            Node::Message(4, summary)
        }
        3 => Node::Message(5, vec![Node::Double(1, value)]),
        _ => histogram(rng, now),
    });
    if rng.random_bool(0.08) {
        let at = one(rng, &[now - 1000, now - 30_000, now - 7_200_000, now + 3_600_000, 0, -1, i64::MAX]);
        out.push(Node::Varint(6, at as u64));
    }
    Node::Message(4, out)
}

fn family(rng: &mut StdRng, now: i64) -> Vec<Node> {
    let kind = one(rng, &[0, 1, 2, 3, 4, 4, 4, 4, 5]);
    let mut out = Vec::new();
    if rng.random_bool(0.97) {
        out.push(text(1, one(rng, &["m", "m", "n", "n_total", "o.x", "m_bucket", "up"])));
    }
    if rng.random_bool(0.6) {
        out.push(text(2, one(rng, &["Words.", "", "a\nb\\c"])));
    }
    if rng.random_bool(0.97) {
        out.push(Node::Varint(3, if rng.random_bool(0.02) { one(rng, &[6, 17, u64::MAX]) } else { kind }));
    }
    for _ in 0..one(rng, &[0, 1, 1, 1, 2, 2, 3]) {
        out.push(metric(rng, kind, now));
    }
    if rng.random_bool(0.1) {
        out.push(text(5, one(rng, &["seconds", "x", ""])));
    }
    out
}

const RUBBISH: &[&[u8]] = &[
    &[0x80],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    // Unknown fields of each wire type.
    &[0xa0, 0x06, 0x05],
    &[0xa1, 0x06, 1, 2, 3, 4, 5, 6, 7, 8],
    &[0xa2, 0x06, 0x02, 1, 2],
    &[0xa5, 0x06, 1, 2, 3, 4],
    // Groups: whole, open, closed only, nested, with another end.
    &[0xa3, 0x06, 0xa4, 0x06],
    &[0xa3, 0x06],
    &[0xa4, 0x06],
    &[0xa3, 0x06, 0xab, 0x06, 0xac, 0x06, 0xa4, 0x06],
    &[0xa3, 0x06, 0xac, 0x06],
    // Wire types that there are not.
    &[0xa6, 0x06],
    &[0x0f],
    // Cut short.
    &[0xa1, 0x06, 1, 2],
    &[0xa2, 0x06, 0x7f, 1],
    &[0xa2, 0x06],
    // Tag 0, and tags beyond what there may be.
    &[0x00],
    &[0x02, 0x01, 0x01],
    &[0xf8, 0xff, 0xff, 0xff, 0x7f, 0x01],
    &[0xf8, 0xff, 0xff, 0xff, 0xff, 0x01, 0x01],
    // A length that is negative as Go's int.
    &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0xa2, 0x06, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
    &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x07],
];

/// Changes one field somewhere in a message.
fn mutate(rng: &mut StdRng, nodes: &mut Vec<Node>) {
    if nodes.is_empty() || rng.random_bool(0.15) {
        let at = rng.random_range(0..=nodes.len());
        nodes.insert(at, Node::Raw(one(rng, RUBBISH).to_vec()));
        return;
    }
    // The first metric only: a later histogram whose spans lie ends a real Prometheus.
    let first = nodes.iter().position(|n| matches!(n, Node::Message(4, _))).unwrap_or(0);
    let at = rng.random_range(0..nodes.len());
    let at = if matches!(nodes[at], Node::Message(4, _)) { first } else { at };
    if let Node::Message(_, inner) = &mut nodes[at]
        && rng.random_bool(0.75)
    {
        return mutate(rng, inner);
    }
    let mut bytes = Vec::new();
    encode(std::slice::from_ref(&nodes[at]), &mut bytes);
    match rng.random_range(0..9) {
        0 => drop(nodes.remove(at)),
        1 => nodes.insert(at, nodes[at].clone()),
        // Another wire type for the same tag.
        2 => {
            bytes[0] = bytes[0] & !7 | rng.random_range(0..8);
            nodes[at] = Node::Raw(bytes);
        }
        // Another tag.
        3 => {
            bytes[0] = bytes[0] & 7 | rng.random_range(0..16) << 3;
            nodes[at] = Node::Raw(bytes);
        }
        4 => {
            bytes.truncate(rng.random_range(0..=bytes.len()));
            nodes[at] = Node::Raw(bytes);
        }
        5 => {
            let byte = rng.random_range(0..bytes.len());
            bytes[byte] = one(rng, &[0, 1, 0x7f, 0x80, 0xff]);
            nodes[at] = Node::Raw(bytes);
        }
        6 => {
            bytes.extend_from_slice(one(rng, RUBBISH));
            nodes[at] = Node::Raw(bytes);
        }
        _ => match &mut nodes[at] {
            Node::Varint(_, value) => {
                *value = one(rng, &[0, 1, 127, 128, 1 << 32, (1 << 32) + 1, u64::MAX, 1 << 63, u64::MAX - 1]);
            }
            Node::Double(_, value) => *value = one(rng, NUMBERS),
            Node::Bytes(_, bytes) | Node::Raw(bytes) => {
                *bytes = one(rng, &[&b""[..], b"\xff", b"a\xe6\x97", b"x y", b"__name__", b"\0", b"le"]).to_vec();
            }
            Node::Message(_, inner) => inner.clear(),
        },
    }
}

fn protobuf_body(rng: &mut StdRng, now: i64) -> Vec<u8> {
    let mut body = Vec::new();
    for _ in 0..one(rng, &[1, 1, 2, 3]) {
        let mut family = family(rng, now);
        if rng.random_bool(0.45) {
            mutate(rng, &mut family);
        }
        let mut bytes = Vec::new();
        encode(&family, &mut bytes);
        varint(bytes.len() as u64, &mut body);
        body.extend_from_slice(&bytes);
    }
    match rng.random_range(0..40) {
        0 => body.truncate(rng.random_range(0..=body.len())),
        1 => body.extend_from_slice(one(rng, RUBBISH)),
        2 => drop(body.splice(0..0, one(rng, RUBBISH).iter().copied())),
        _ => {}
    }
    body
}

fn protobuf(rng: &mut StdRng, now: i64) -> Page {
    let job = one(
        rng,
        &[
            "plain",
            "native",
            "native",
            "native-classic",
            "native-nhcb",
            "native-all",
            "nhcb",
            "nhcb-classic",
            "native-buckets",
            "native-factor",
            "native-track",
            "honor",
            "no-timestamps",
        ],
    );
    let mut page = steps(rng, job, |rng| Reply::new(PROTOBUF, protobuf_body(rng, now)));
    page.own_timestamps = job != "no-timestamps";
    page
}

fn limits_protobuf(rng: &mut StdRng, now: i64) -> Page {
    let job = one(rng, &["limits", "limits-relabel", "native-limits", "native-limits", "samples"]);
    steps(rng, job, |rng| Reply::new(PROTOBUF, protobuf_body(rng, now)))
}

fn exemplar_text(rng: &mut StdRng, now: i64) -> String {
    let long = |n: usize| format!("{{t=\"{}\"}}", "x".repeat(n));
    let labels = match rng.random_range(0..14) {
        0 => long(127),
        1 => long(128),
        2 => format!("{{t=\"{}\"}}", "ü".repeat(127)),
        3 => "{}".to_owned(),
        4 => "{t=\"a\",t=\"b\"}".to_owned(),
        5 => "{b=\"1\",a=\"2\"}".to_owned(),
        6 => "{\"t.u\"=\"1\"}".to_owned(),
        7 => "{t=\"\"}".to_owned(),
        _ => format!("{{t=\"{}\"}}", one(rng, &["a", "b", "c"])),
    };
    let value = one(rng, &["1", "1", "2", "0.5", "NaN", "+Inf", "-1", "1e3"]);
    let time = match rng.random_range(0..8) {
        0..4 => String::new(),
        4 => " 0".to_owned(),
        n => {
            let ago = if n == 5 { -600 } else { 1 } * one(rng, &[1, 5, 30, 120]);
            format!(" {}.137", now / 1000 - ago)
        }
    };
    format!(" # {labels} {value}{time}")
}

fn exemplars(rng: &mut StdRng, now: i64) -> Page {
    let job = one(rng, &["plain", "plain", "nhcb", "nhcb-classic", "honor-no-timestamps", "samples", "relabel"]);
    steps(rng, job, |rng| {
        let mut body = String::new();
        for _ in 0..rng.random_range(1..4) {
            let (head, lines) = one(
                rng,
                &[
                    ("# TYPE m counter\n", &["m_total 5", "m_total{a=\"1\"} 6", "m_created 1.5e9"][..]),
                    ("# TYPE m counter\n", &["m_total 5", "m_total{a=\"1\"} 6"]),
                    (
                        "# TYPE h histogram\n",
                        &[
                            "h_bucket{le=\"1\"} 1",
                            "h_bucket{le=\"2\"} 2",
                            "h_bucket{le=\"+Inf\"} 3",
                            "h_sum 4",
                            "h_count 3",
                        ],
                    ),
                    ("# TYPE g gaugehistogram\n", &["g_bucket{le=\"1\"} 1", "g_gcount 1"]),
                    ("# TYPE u gauge\n", &["u 1", "u{a=\"1\"} 2"]),
                    ("# TYPE s summary\n", &["s{quantile=\"0.5\"} 1", "s_count 1"]),
                    ("", &["drop_x 1", "x_total 2"]),
                ],
            );
            body.push_str(head);
            for line in lines {
                body.push_str(line);
                if rng.random_bool(0.6) {
                    body.push_str(&exemplar_text(rng, now));
                }
                if rng.random_bool(0.02) {
                    body.push_str(one(rng, &[" ", " # ", " 5", "}", " # {t=\"x\"} 1"]));
                }
                body.push('\n');
            }
        }
        body.push_str("# EOF\n");
        Reply::new(OPEN_METRICS, body)
    })
}

fn limits(rng: &mut StdRng) -> Page {
    let job = one(
        rng,
        &[
            "limits",
            "limits-relabel",
            "limits-honor",
            "samples",
            "samples-drop",
            "extra",
            "labels",
            "label-name",
            "label-value",
            "body",
        ],
    );
    let open = rng.random_bool(0.3);
    steps(rng, job, |rng| {
        let mut body = String::new();
        for _ in 0..rng.random_range(0..9) {
            let name = one(rng, &["a", "b_x", "a_x", "c", "d", "e", "f", "up", "h_bucket"]);
            let mut labels = Vec::new();
            for (label, value) in [
                ("x", "1"),
                ("y", "2"),
                ("drop", "yes"),
                ("kill_me", "1"),
                ("instance", "mine"),
                ("abcdefghij", "1"),
                ("z", "a value of thirty-three letters.."),
                ("w", ""),
                ("le", "1"),
            ] {
                if rng.random_bool(0.12) {
                    labels.push(format!("{label}=\"{value}\""));
                }
            }
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let end = if rng.random_bool(0.02) { " x" } else { "" };
            body.push_str(&format!("{name}{labels} {}{end}\n", one(rng, &["1", "2", "NaN"])));
        }
        if open {
            body.push_str("# EOF\n");
        }
        let mut reply = Reply::new(if open { OPEN_METRICS } else { TEXT }, body);
        if rng.random_bool(0.1) {
            reply.body = super::gzip(&reply.body);
            reply.headers.push(("Content-Encoding", "gzip".to_owned()));
        }
        if rng.random_bool(0.1) {
            reply.framing = Framing::Chunked;
        }
        reply
    })
}

fn times(rng: &mut StdRng, now: i64) -> Page {
    let job = one(
        rng,
        &["plain", "plain", "honor-no-timestamps", "no-timestamps-track", "track", "honor-track", "nhcb", "samples"],
    );
    // A refused time is a named deviation where staleness follows own times.
    let tracked = matches!(job, "track" | "honor-track");
    let mut ahead = -20_000;
    let mut page = steps(rng, job, |rng| {
        let mut body = String::new();
        for name in ["a", "a{x=\"1\"}", "b", "b", "c{job=\"mine\"}"] {
            if rng.random_bool(0.4) {
                continue;
            }
            let at = match rng.random_range(0..10) {
                0..3 => String::new(),
                _ if tracked => {
                    ahead += 500;
                    format!(" {}", now + ahead)
                }
                3 => {
                    let far = [now - 7_200_000, now - 7_200_000, now + 3_600_000, 0, -1, i64::MAX, i64::MIN, 1];
                    format!(" {}", one(rng, &far))
                }
                // Behind all scrapes, or before them all.
                4..7 => format!(" {}", now + 240_000 + 500 * rng.random_range(0..40)),
                _ => format!(" {}", now - 500 * rng.random_range(1..80)),
            };
            if tracked && name == "b" && body.contains("\nb") {
                continue;
            }
            body.push_str(&format!("{name} {}{at}\n", one(rng, &["1", "2", "NaN", "3"])));
        }
        Reply::new(TEXT, body)
    });
    page.own_timestamps = !job.contains("no-timestamps");
    page
}

fn buckets(rng: &mut StdRng) -> Page {
    let job = one(rng, &["nhcb", "nhcb", "nhcb-classic", "limits-relabel", "plain"]);
    let open = rng.random_bool(0.4);
    let bounds = [
        "-1", "0", "-0", "0.5", ".5", "1", "1.0", "1e0", "0x1p0", "1_0", "2", "2.5", "1e22", "1e300", "+Inf", "Inf",
        "inf", "-Inf", "NaN", "", "x", " 1", "1e309", "infinity",
    ];
    steps(rng, job, |rng| {
        let mut body = String::new();
        for _ in 0..rng.random_range(1..3) {
            let name = one(rng, &["h", "h", "h", "i", "h.x"]);
            let kind = one(rng, &["histogram", "histogram", "histogram", "histogram", "gauge", "gaugehistogram"]);
            let label = one(rng, &["", "", "a=\"1\"", "b=\"2\",a=\"1\"", "instance=\"mine\"", "drop=\"yes\""]);
            let dotted = name.contains('.');
            let head = if dotted { format!("\"{name}\"") } else { name.to_owned() };
            if rng.random_bool(0.9) {
                body.push_str(&format!("# TYPE {head} {kind}\n"));
            }
            let line = |suffix: &str, le: &str, value: &str| {
                let quoted = if dotted { format!("\"{name}{suffix}\"") } else { String::new() };
                let parts = [quoted, label.to_owned(), le.to_owned()];
                let parts: Vec<&str> = parts.iter().map(String::as_str).filter(|p| !p.is_empty()).collect();
                let bare = if dotted { String::new() } else { format!("{name}{suffix}") };
                let braces = if parts.is_empty() { String::new() } else { format!("{{{}}}", parts.join(",")) };
                format!("{bare}{braces} {value}\n")
            };
            let mut lines = Vec::new();
            let mut count = 0.0;
            let odd = rng.random_bool(0.5);
            let plain = ["-1", "0.5", "1", "2.5"];
            for i in 0..rng.random_range(0..5) {
                count += one(rng, &[0.0, 1.0, 1.0, 2.0, 0.5]);
                let le = if odd { one(rng, &bounds) } else { plain[i.min(3)] };
                let count = if rng.random_bool(0.05) { one(rng, NUMBERS) } else { count };
                lines.push(line("_bucket", &format!("le=\"{le}\""), &count.to_string()));
            }
            if rng.random_bool(0.8) {
                count += one(rng, &[0.0, 1.0]);
                lines.push(line("_bucket", "le=\"+Inf\"", &count.to_string()));
            }
            if rng.random_bool(0.9) {
                lines.push(line("_sum", "", one(rng, &["1", "NaN", "-2.5", "+Inf"])));
            }
            if rng.random_bool(0.9) {
                lines.push(line("_count", "", &count.to_string()));
            }
            if rng.random_bool(0.1) {
                lines.push(line("", "", "5"));
            }
            if rng.random_bool(0.1) {
                lines.push(line("_created", "", "1.5e9"));
            }
            if rng.random_bool(0.1) && lines.len() > 1 {
                let (a, b) = (rng.random_range(0..lines.len()), rng.random_range(0..lines.len()));
                lines.swap(a, b);
            }
            body.extend(lines);
        }
        if open {
            body.push_str("# EOF\n");
        }
        Reply::new(if open { OPEN_METRICS } else { TEXT }, body)
    })
}

fn content_types(rng: &mut StdRng) -> Page {
    let job = one(
        rng,
        &[
            "plain",
            "fallback-text",
            "fallback-text1",
            "fallback-om",
            "fallback-om0",
            "fallback-proto",
            "protocols",
            "escape-dots",
            "escape-underscores",
            "escape-utf8",
            "legacy",
            "legacy-values",
        ],
    );
    steps(rng, job, |rng| {
        let media = one(
            rng,
            &[
                "text/plain",
                "text/plain",
                "application/openmetrics-text",
                "application/openmetrics-text",
                "application/vnd.google.protobuf",
                "Text/Plain",
                "text/html",
                "text",
                "",
                "text/",
                "/plain",
                "text/plain/x",
                "te xt/plain",
                "application/json",
                " text/plain",
            ],
        );
        let mut value = media.to_owned();
        for _ in 0..rng.random_range(0..4) {
            value.push_str(one(rng, &[";", "; ", " ; ", ";;", ",", " "]));
            value.push_str(one(
                rng,
                &[
                    "version=0.0.4",
                    "version=1.0.0",
                    "version=0.0.1",
                    "version=2.0.0",
                    "charset=utf-8",
                    "charset=\"utf-8\"",
                    "charset=latin1",
                    "charset=\"utf-8",
                    "charset='utf-8'",
                    "q=0.5",
                    "q=2",
                    "escaping=allow-utf-8",
                    "escaping=underscores",
                    "escaping=dots",
                    "escaping=values",
                    "escaping=odd",
                    "escaping",
                    "=x",
                    "encoding=delimited",
                    "encoding=text",
                    "proto=io.prometheus.client.MetricFamily",
                    "proto=x",
                    "a=b=c",
                    "a=\"x\\\"y\"",
                    "a*=utf-8''x",
                    "version*0=1.0.0",
                    "VERSION=0.0.4",
                    "ü=1",
                    "a=ü",
                    "",
                ],
            ));
        }
        let body: &[u8] = one(
            rng,
            &[
                b"a 1\n",
                b"a 1\n# EOF\n",
                b"{\"a.b\"} 1\n# EOF\n",
                b"# TYPE U__a_2e_b gauge\nU__a_2e_b 1\na__b 2\n# EOF\n",
                b"\x0c\x0a\x01a\x18\x01\x22\x05\x12\x03",
                b"\x12\x0a\x01a\x18\x01\x22\x0b\x12\x09\x09\x00\x00\x00\x00\x00\x00\xf0\x3f",
                b"a 1",
                b"",
            ],
        );
        let mut reply = Reply::new(&value, body);
        if rng.random_bool(0.05) {
            reply.content_type = None;
        }
        reply
    })
}

fn bodies(rng: &mut StdRng) -> Page {
    let job = one(rng, &["plain", "body", "no-gzip", "limits", "no-redirect", "extra"]);
    steps(rng, job, |rng| {
        let lines = rng.random_range(0..30);
        let text: String = (0..lines).map(|i| format!("m{i} {i}\n")).collect();
        let mut reply = Reply::new(TEXT, text.clone());
        match rng.random_range(0..8) {
            0 => {
                let to = one(
                    rng,
                    &["/redirected", "/loop", "/redirected?x=1#y", "//", "/nowhere", "?a", "#b", "redirected"],
                );
                reply.status = one(rng, &["301 Moved Permanently", "302 Found", "303 See Other", "307 T", "308 P"]);
                reply.headers.push(("Location", to.to_owned()));
            }
            1 => {
                reply.framing =
                    one(rng, &[Framing::Chunked, Framing::ChunkedCut, Framing::Short, Framing::Close, Framing::None]);
            }
            2 => reply.status = one(rng, &["500 X", "404 Not Found", "204 No Content", "206 Partial", "503 "]),
            _ => {
                let half = text.len() / 2;
                reply.body = match rng.random_range(0..3) {
                    // Of several members.
                    0 => [super::gzip(&text.as_bytes()[..half]), super::gzip(&text.as_bytes()[half..])].concat(),
                    _ => super::gzip(text.as_bytes()),
                };
                reply.headers.push(("Content-Encoding", one(rng, &["gzip", "gzip", "x-gzip", "Gzip"]).to_owned()));
                match rng.random_range(0..7) {
                    0 => reply.body.truncate(rng.random_range(0..=reply.body.len())),
                    1 => {
                        let rubbish =
                            one(rng, &[&b"\0"[..], b"\0\0\0\0", b"\x1f", b"\x1f\x8b", b"rubbish behind it all", b"\n"]);
                        reply.body.extend_from_slice(rubbish);
                    }
                    2 => {
                        let at = rng.random_range(0..reply.body.len());
                        reply.body[at] ^= 1 << rng.random_range(0..8);
                    }
                    3 => reply.framing = one(rng, &[Framing::Chunked, Framing::Close, Framing::ChunkedCut]),
                    _ => {}
                }
            }
        }
        if reply.status.starts_with("204") {
            reply.body.clear();
        }
        reply
    })
}
