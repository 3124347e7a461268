//! The messages that remote read answers with.

use narthex_model::protobuf::{self, bytes_field, double_field, message, varint_field};
use narthex_model::{Histogram, Labels};
use narthex_storage::Series;

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
                message(out, 4, |out| protobuf::histogram(out, *t, h, is_integer(h)));
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
