//! Protobuf by hand, outwards: what remote read answers with, and whoever else writes protobuf.

pub use narthex_model::varint::put as varint;
use narthex_model::varint::zigzag;
use narthex_model::{Histogram, Labels, Span};
use narthex_storage::Series;

fn tag(out: &mut Vec<u8>, number: u32, wire_type: u32) {
    varint(out, u64::from(number << 3 | wire_type));
}

/// Zero is the default and not written, here and below.
pub fn varint_field(out: &mut Vec<u8>, number: u32, n: u64) {
    if n != 0 {
        tag(out, number, 0);
        varint(out, n);
    }
}

pub fn double_field(out: &mut Vec<u8>, number: u32, v: f64) {
    if v.to_bits() != 0 {
        tag(out, number, 1);
        out.extend_from_slice(&v.to_le_bytes());
    }
}

/// Written even when it is zero, here and in [`signed`].
pub fn double(out: &mut Vec<u8>, number: u32, v: f64) {
    tag(out, number, 1);
    out.extend_from_slice(&v.to_le_bytes());
}

/// A `sint32` or `sint64`.
pub fn signed(out: &mut Vec<u8>, number: u32, n: i64) {
    tag(out, number, 0);
    varint(out, zigzag(n));
}

pub fn bytes_field(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    tag(out, number, 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A message that `write` writes, with its length before it.
pub fn message(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    write(&mut inner);
    bytes_field(out, number, &inner);
}

/// Labels as field 1, with the external ones that the series does not have itself, sorted.
pub fn labels(out: &mut Vec<u8>, own: &Labels, external: &Labels) {
    let added = external.iter().filter(|(n, _)| own.get(n).is_none());
    let mut all: Vec<(&str, &str)> = own.iter().chain(added).collect();
    all.sort_unstable();
    for (name, value) in all {
        message(out, 1, |out| {
            bytes_field(out, 1, name.as_bytes());
            bytes_field(out, 2, value.as_bytes());
        });
    }
}

/// Whether all counts are whole: then it is written as an integer histogram.
pub fn is_integer(h: &Histogram) -> bool {
    let whole = |v: &f64| *v >= 0.0 && *v < 9_007_199_254_740_992.0 && v.fract() == 0.0;
    !h.is_stale() && [h.count, h.zero_count].iter().chain(&h.positive_buckets).chain(&h.negative_buckets).all(whole)
}

/// Each bucket's difference to the one before.
pub fn deltas(buckets: &[f64]) -> impl Iterator<Item = i64> + '_ {
    let mut before = 0;
    buckets.iter().map(move |b| {
        let now = *b as i64;
        now - std::mem::replace(&mut before, now)
    })
}

fn spans(out: &mut Vec<u8>, number: u32, spans: &[Span]) {
    for s in spans {
        message(out, number, |out| {
            varint_field(out, 1, zigzag(i64::from(s.offset)));
            varint_field(out, 2, u64::from(s.length));
        });
    }
}

fn doubles(out: &mut Vec<u8>, number: u32, values: &[f64]) {
    if !values.is_empty() {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        bytes_field(out, number, &bytes);
    }
}

/// `prometheus.Histogram`.
pub fn histogram(out: &mut Vec<u8>, timestamp: i64, h: &Histogram) {
    let integer = is_integer(h);
    // These are alternatives ("oneof"): a zero is written, too.
    if integer {
        tag(out, 1, 0);
        varint(out, h.count as u64);
    } else {
        tag(out, 2, 1);
        out.extend_from_slice(&h.count.to_le_bytes());
    }
    double_field(out, 3, h.sum);
    varint_field(out, 4, zigzag(i64::from(h.schema)));
    double_field(out, 5, h.zero_threshold);
    if integer {
        tag(out, 6, 0);
        varint(out, h.zero_count as u64);
    } else {
        tag(out, 7, 1);
        out.extend_from_slice(&h.zero_count.to_le_bytes());
    }
    for (buckets, list, at) in
        [(&h.negative_buckets, &h.negative_spans, 8), (&h.positive_buckets, &h.positive_spans, 11)]
    {
        spans(out, at, list);
        if integer && !buckets.is_empty() {
            let mut packed = Vec::new();
            deltas(buckets).for_each(|d| varint(&mut packed, zigzag(d)));
            bytes_field(out, at + 1, &packed);
        } else if !integer {
            doubles(out, at + 2, buckets);
        }
    }
    varint_field(out, 14, h.counter_reset_hint.code().into());
    varint_field(out, 15, timestamp as u64);
    doubles(out, 16, &h.custom_values);
}

/// `prometheus.QueryResult`.
pub fn result(out: &mut Vec<u8>, series: &[Series], external: &Labels) {
    for s in series {
        message(out, 1, |out| {
            labels(out, &s.labels, external);
            for (t, v) in s.floats.iter() {
                message(out, 2, |out| {
                    double_field(out, 1, v);
                    varint_field(out, 2, t as u64);
                });
            }
            for (t, h) in s.histograms.timestamps.iter().zip(&s.histograms.values) {
                message(out, 4, |out| histogram(out, *t, h));
            }
        });
    }
}

/// The Castagnoli checksum.
pub fn crc32c(bytes: &[u8]) -> u32 {
    static TABLE: std::sync::OnceLock<[u32; 256]> = std::sync::OnceLock::new();
    let table = TABLE.get_or_init(|| {
        std::array::from_fn(|i| (0..8).fold(i as u32, |c, _| if c & 1 == 1 { 0x82f6_3b78 ^ (c >> 1) } else { c >> 1 }))
    });
    !bytes.iter().fold(!0u32, |c, b| table[usize::from(c as u8 ^ b)] ^ (c >> 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums() {
        // RFC 3720, B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
    }
}
