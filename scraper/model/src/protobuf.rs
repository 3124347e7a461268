//! Protobuf by hand, outwards: fields, messages, and the histogram that all of Prometheus's messages share. Where
//! samples are written by the million, generated code would copy each of them first.
//!
//! Absent: reading, which each reader does with errors of its own.

use crate::varint::{self, zigzag};
use crate::{Histogram, Span};

fn tag(out: &mut Vec<u8>, number: u32, wire_type: u32) {
    varint::put(out, u64::from(number << 3 | wire_type));
}

/// Zero is the default and not written, here and in [`double_field`].
pub fn varint_field(out: &mut Vec<u8>, number: u32, n: u64) {
    if n != 0 {
        tag(out, number, 0);
        varint::put(out, n);
    }
}

pub fn double_field(out: &mut Vec<u8>, number: u32, v: f64) {
    if v.to_bits() != 0 {
        double(out, number, v);
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
    varint::put(out, zigzag(n));
}

pub fn bytes_field(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    tag(out, number, 2);
    varint::put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A message that `write` appends, with its length before it.
pub fn message(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    with_length(out, number, 1, write);
}

/// The same for messages that mostly take 128 bytes and more.
pub fn long_message(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    with_length(out, number, 2, write);
}

/// Leaves room for a length of `guess` bytes; what was written is moved where that was wrong.
fn with_length(out: &mut Vec<u8>, number: u32, guess: usize, write: impl FnOnce(&mut Vec<u8>)) {
    tag(out, number, 2);
    let at = out.len();
    out.resize(at + guess, 0);
    write(out);
    let len = out.len() - at - guess;
    let needed = varint::len(len as u64);
    if needed != guess {
        let from = at + guess;
        if needed > guess {
            out.resize(out.len() + needed - guess, 0);
        }
        out.copy_within(from..from + len, at + needed);
        out.truncate(at + needed + len);
    }
    let mut n = len as u64;
    for i in 0..needed {
        let more = if i + 1 < needed { 0x80 } else { 0 };
        out[at + i] = (n & 0x7f) as u8 | more;
        n >>= 7;
    }
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
        tag(out, number, 2);
        varint::put(out, values.len() as u64 * 8);
        values.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
    }
}

/// The fields of `prometheus.Histogram` and of `io.prometheus.write.v2.Histogram`, as an `integer` histogram (all counts
/// have to be whole) or as one of floats. 2.0's start timestamp (17) is its writer's.
pub fn histogram(out: &mut Vec<u8>, timestamp: i64, h: &Histogram, integer: bool) {
    // These are alternatives ("oneof"): a zero is written, too.
    if integer {
        tag(out, 1, 0);
        varint::put(out, h.count as u64);
    } else {
        double(out, 2, h.count);
    }
    double_field(out, 3, h.sum);
    varint_field(out, 4, zigzag(i64::from(h.schema)));
    double_field(out, 5, h.zero_threshold);
    if integer {
        tag(out, 6, 0);
        varint::put(out, h.zero_count as u64);
    } else {
        double(out, 7, h.zero_count);
    }
    for (buckets, list, at) in
        [(&h.negative_buckets, &h.negative_spans, 8), (&h.positive_buckets, &h.positive_spans, 11)]
    {
        spans(out, at, list);
        if integer && !buckets.is_empty() {
            message(out, at + 1, |out| {
                let mut before = 0;
                for bucket in buckets {
                    let now = *bucket as i64;
                    varint::put(out, zigzag(now - std::mem::replace(&mut before, now)));
                }
            });
        } else if !integer {
            doubles(out, at + 2, buckets);
        }
    }
    varint_field(out, 14, h.counter_reset_hint.code().into());
    varint_field(out, 15, timestamp as u64);
    doubles(out, 16, &h.custom_values);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_right_whatever_was_guessed() {
        for len in [0, 1, 126, 127, 128, 129, 16_383, 16_384, 2_097_152] {
            let content = vec![7; len];
            let mut expected = vec![1, 2, 3];
            bytes_field(&mut expected, 5, &content);
            for write in [message, long_message] as [fn(&mut Vec<u8>, u32, Box<dyn FnOnce(&mut Vec<u8>)>); 2] {
                let (mut out, content) = (vec![1, 2, 3], content.clone());
                write(&mut out, 5, Box::new(move |out| out.extend_from_slice(&content)));
                assert!(out == expected, "{len}");
            }
        }
    }
}
