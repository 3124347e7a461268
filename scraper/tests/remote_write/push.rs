//! Remote-write requests as senders encode them, for the test and the benchmark of the intake.

/// A series of a request.
#[derive(Clone, Debug, Default)]
pub struct Push {
    pub labels: Vec<(String, String)>,
    pub samples: Vec<(i64, f64)>,
    /// 2.0: of all samples, 0 for none.
    pub start: i64,
    /// 2.0: help text, empty for none.
    pub help: String,
    /// The number of a label that the exemplar has, and its time.
    pub exemplar: Option<(u32, i64)>,
    /// Time and count of a native histogram.
    pub histogram: Option<(i64, u64)>,
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn field(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn label(out: &mut Vec<u8>, name: &str, value: &str) {
    let mut bytes = Vec::new();
    field(&mut bytes, 0x0a, name.as_bytes());
    field(&mut bytes, 0x12, value.as_bytes());
    field(out, 0x0a, &bytes);
}

/// Zeros are left out, as proto3 has it.
fn sample(t: i64, v: f64, start: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if v.to_bits() != 0 {
        bytes.push(0x09);
        bytes.extend(v.to_le_bytes());
    }
    for (tag, n) in [(0x10, t), (0x18, start)] {
        if n != 0 {
            bytes.push(tag);
            varint(&mut bytes, n as u64);
        }
    }
    bytes
}

fn histogram(t: i64, count: u64) -> Vec<u8> {
    let mut bytes = vec![0x08];
    varint(&mut bytes, count);
    bytes.push(0x78);
    varint(&mut bytes, t as u64);
    bytes
}

fn packed(message: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(message).expect("snappy")
}

/// A `prometheus.WriteRequest`.
pub fn v1(all: &[Push]) -> Vec<u8> {
    let mut message = Vec::new();
    for push in all {
        let mut series = Vec::new();
        push.labels.iter().for_each(|(n, v)| label(&mut series, n, v));
        push.samples.iter().for_each(|(t, v)| field(&mut series, 0x12, &sample(*t, *v, 0)));
        if let Some((n, t)) = push.exemplar {
            let mut exemplar = Vec::new();
            label(&mut exemplar, "trace_id", &n.to_string());
            exemplar.extend([0x18]);
            varint(&mut exemplar, t as u64);
            field(&mut series, 0x1a, &exemplar);
        }
        if let Some((t, count)) = push.histogram {
            field(&mut series, 0x22, &histogram(t, count));
        }
        field(&mut message, 0x0a, &series);
    }
    packed(&message)
}

/// An `io.prometheus.write.v2.Request`; `shift` unused symbols come first, so that references differ.
pub fn v2(all: &[Push], shift: usize) -> Vec<u8> {
    let mut symbols: Vec<String> = vec![String::new()];
    symbols.extend((0..shift).map(|i| format!("unused{i}")));
    let mut known = std::collections::HashMap::new();
    let mut symbol = |text: &str| {
        if text.is_empty() {
            return 0;
        }
        *known.entry(text.to_owned()).or_insert_with(|| {
            symbols.push(text.to_owned());
            symbols.len() as u64 - 1
        })
    };
    let mut body = Vec::new();
    for push in all {
        let (mut series, mut refs) = (Vec::new(), Vec::new());
        for text in push.labels.iter().flat_map(|(n, v)| [n, v]) {
            varint(&mut refs, symbol(text));
        }
        field(&mut series, 0x0a, &refs);
        push.samples.iter().for_each(|(t, v)| field(&mut series, 0x12, &sample(*t, *v, push.start)));
        if let Some((t, count)) = push.histogram {
            field(&mut series, 0x1a, &histogram(t, count));
        }
        if let Some((n, t)) = push.exemplar {
            let (mut refs, mut exemplar) = (Vec::new(), Vec::new());
            varint(&mut refs, symbol("trace_id"));
            varint(&mut refs, symbol(&n.to_string()));
            field(&mut exemplar, 0x0a, &refs);
            exemplar.push(0x18);
            varint(&mut exemplar, t as u64);
            field(&mut series, 0x22, &exemplar);
        }
        if !push.help.is_empty() {
            let mut metadata = vec![0x08, 2, 0x18];
            varint(&mut metadata, symbol(&push.help));
            field(&mut series, 0x2a, &metadata);
        }
        field(&mut body, 0x2a, &series);
    }
    let mut message = Vec::new();
    symbols.iter().for_each(|s| field(&mut message, 0x22, s.as_bytes()));
    message.extend(body);
    packed(&message)
}
