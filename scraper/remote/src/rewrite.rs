//! Requests made smaller after they were encoded: without what has become too old, or cut in two because the receiver
//! refused the whole. That is rare, so that a request is kept only as it is sent, and read again here.
//!
//! The bytes are this package's own; what cannot be read is left out rather than trusted.

use bytes::Bytes;
use narthex_config::remote::WriteMessage;

use crate::encode::{Counts, Encoded, compress};

/// One field of a message: number, and its value.
enum Field<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Other,
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for i in 0..10 {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f).checked_shl(7 * i)?;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The next field, its number, and the bytes of the whole.
fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Field<'a>, &'a [u8])> {
    let whole = *bytes;
    let tag = varint(bytes)?;
    let value = match tag & 7 {
        0 => Field::Varint(varint(bytes)?),
        1 => {
            *bytes = bytes.get(8..)?;
            Field::Other
        }
        2 => {
            let len = usize::try_from(varint(bytes)?).ok()?;
            let (inner, rest) = bytes.split_at_checked(len)?;
            *bytes = rest;
            Field::Bytes(inner)
        }
        _ => return None,
    };
    Some((tag >> 3, value, &whole[..whole.len() - bytes.len()]))
}

fn fields<'a>(mut bytes: &'a [u8]) -> impl Iterator<Item = (u64, Field<'a>, &'a [u8])> {
    std::iter::from_fn(move || field(&mut bytes))
}

/// The timestamp in a sample's, histogram's or exemplar's message.
fn timestamp(message: &[u8], number: u64) -> i64 {
    let found = fields(message).find_map(|(n, value, _)| match value {
        Field::Varint(t) if n == number => Some(t as i64),
        _ => None,
    });
    found.unwrap_or(0)
}

/// What one series message holds.
#[derive(Clone, Copy, Debug)]
struct One {
    counts: Counts,
    /// Of its first sample; exemplars that came with it go with it.
    timestamp: i64,
}

fn look(series: &[u8], message: WriteMessage) -> One {
    let (histograms, exemplars) = if message == WriteMessage::V2 { (3, 4) } else { (4, 3) };
    let mut one = One { counts: Counts::default(), timestamp: 0 };
    let mut exemplar = 0;
    for (number, value, _) in fields(series) {
        let Field::Bytes(inner) = value else { continue };
        match number {
            2 => {
                one.counts.samples += 1;
                one.timestamp = timestamp(inner, 2);
            }
            n if n == histograms => {
                one.counts.histograms += 1;
                one.timestamp = timestamp(inner, 15);
            }
            n if n == exemplars => {
                one.counts.exemplars += 1;
                exemplar = timestamp(inner, 3);
            }
            5 if message == WriteMessage::V2 => one.counts.metadata += u64::from(!inner.is_empty()),
            _ => {}
        }
    }
    if one.counts.samples + one.counts.histograms == 0 {
        one.timestamp = exemplar;
    }
    one
}

/// The request with those of its series messages that `keep` wants, by their index and timestamp; and what was left out.
fn keep(request: &Encoded, message: WriteMessage, mut keep: impl FnMut(usize, i64) -> bool) -> (Encoded, Counts) {
    let series = if message == WriteMessage::V2 { 5 } else { 1 };
    let plain = snap::raw::Decoder::new().decompress_vec(&request.body).unwrap_or_default();
    let mut body = Vec::with_capacity(plain.len());
    let mut out = Encoded { body: Bytes::new(), counts: Counts::default(), lowest: i64::MAX, highest: 0 };
    let mut left = Counts::default();
    let mut index = 0;
    for (number, value, whole) in fields(&plain) {
        let inner = match value {
            Field::Bytes(inner) if number == series => inner,
            _ => {
                body.extend_from_slice(whole);
                continue;
            }
        };
        let one = look(inner, message);
        let kept = keep(index, one.timestamp);
        index += 1;
        let counts = if kept { &mut out.counts } else { &mut left };
        counts.samples += one.counts.samples;
        counts.histograms += one.counts.histograms;
        counts.exemplars += one.counts.exemplars;
        counts.metadata += one.counts.metadata;
        if kept {
            body.extend_from_slice(whole);
            if one.timestamp > 0 {
                out.lowest = out.lowest.min(one.timestamp);
                out.highest = out.highest.max(one.timestamp);
            }
        }
    }
    out.body = compress(&mut snap::raw::Encoder::new(), &body, &mut Vec::new());
    (out, left)
}

/// The request without what is older than `oldest`, and what that was.
pub fn without_older(request: &Encoded, message: WriteMessage, oldest: i64) -> (Encoded, Counts) {
    keep(request, message, |_, timestamp| timestamp >= oldest)
}

/// How many series messages a request has.
pub fn len(request: &Encoded, message: WriteMessage) -> usize {
    let mut n = 0;
    keep(request, message, |_, _| {
        n += 1;
        false
    });
    n
}

/// The older and the newer half of a request of `len` series messages.
pub fn halves(request: &Encoded, message: WriteMessage, len: usize) -> [Encoded; 2] {
    let (first, _) = keep(request, message, |i, _| i < len / 2);
    let (second, _) = keep(request, message, |i, _| i >= len / 2);
    [first, second]
}
