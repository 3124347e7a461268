//! Native histograms as columns.
//!
//! Consecutive histograms with the same layout (schema, zero threshold, spans, custom bounds) form a run; each field
//! and each bucket of a run is a float column. A histogram of a layout of its own is a run of one, which amounts to a
//! whole record.
//!
//! ```text
//! histograms := run*                       until all samples are there
//! run        := len layout hint count sum zero_count bucket*
//! ```
//! Each column stands behind its length. A bit of the run's first varint says that `count` is kept as what remains of
//! it after all buckets are taken away, which is 0 nearly always.

use std::sync::Arc;

use narthex_model::histogram::CUSTOM_BUCKETS_SCHEMA;
use narthex_model::{CounterResetHint, Histogram, Span};

use crate::codec::{CodecError, Cursor, Effort, MAX_COLUMN, decode_column, encode_column, put_signed, put_varint};

/// The most buckets of one histogram that are read: many times what Prometheus allows to be scraped.
const MAX_BUCKETS: usize = 1 << 16;

fn same_layout(a: &Histogram, b: &Histogram) -> bool {
    let bits = |v: &[f64]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    a.schema == b.schema
        && a.zero_threshold.to_bits() == b.zero_threshold.to_bits()
        && a.positive_spans == b.positive_spans
        && a.negative_spans == b.negative_spans
        && a.positive_buckets.len() == b.positive_buckets.len()
        && a.negative_buckets.len() == b.negative_buckets.len()
        && a.custom_values.len() == b.custom_values.len()
        && bits(&a.custom_values) == bits(&b.custom_values)
}

/// What `count` has beyond the buckets, and the count again from that.
fn bucket_sum(h: &Histogram) -> f64 {
    h.zero_count + h.positive_buckets.iter().sum::<f64>() + h.negative_buckets.iter().sum::<f64>()
}

fn hint_of(code: f64) -> Result<CounterResetHint, CodecError> {
    let whole = Some(code as u64).filter(|whole| *whole as f64 == code);
    whole.and_then(CounterResetHint::from_code).ok_or(CodecError::Corrupt("unknown counter reset hint"))
}

pub(super) fn encode_histograms(histograms: &[Arc<Histogram>], effort: Effort, out: &mut Vec<u8>) {
    let mut scratch = Scratch { effort, values: Vec::new(), bytes: Vec::new() };
    for run in histograms.chunk_by(|a, b| same_layout(a, b)) {
        let layout = &run[0];
        let exact = |h: &Arc<Histogram>| {
            let sum = bucket_sum(h);
            (sum + (h.count - sum)).to_bits() == h.count.to_bits()
        };
        let rest = run.iter().all(exact);
        put_varint(out, (run.len() as u64) << 1 | u64::from(rest));
        put_layout(layout, out);
        scratch.put(run, |h| h.counter_reset_hint.code().into(), out);
        scratch.put(run, |h| if rest { h.count - bucket_sum(h) } else { h.count }, out);
        scratch.put(run, |h| h.sum, out);
        scratch.put(run, |h| h.zero_count, out);
        for i in 0..layout.positive_buckets.len() {
            scratch.put(run, |h| h.positive_buckets[i], out);
        }
        for i in 0..layout.negative_buckets.len() {
            scratch.put(run, |h| h.negative_buckets[i], out);
        }
    }
}

struct Scratch {
    effort: Effort,
    values: Vec<f64>,
    bytes: Vec<u8>,
}

impl Scratch {
    fn put(&mut self, run: &[Arc<Histogram>], field: impl Fn(&Histogram) -> f64, out: &mut Vec<u8>) {
        self.values.clear();
        self.values.extend(run.iter().map(|h| field(h)));
        self.bytes.clear();
        encode_column(&self.values, self.effort, &mut self.bytes);
        put_varint(out, self.bytes.len() as u64);
        out.extend_from_slice(&self.bytes);
    }
}

fn put_layout(h: &Histogram, out: &mut Vec<u8>) {
    put_signed(out, i64::from(h.schema));
    out.extend_from_slice(&h.zero_threshold.to_bits().to_le_bytes());
    for (spans, buckets) in [(&h.positive_spans, &h.positive_buckets), (&h.negative_spans, &h.negative_buckets)] {
        put_varint(out, spans.len() as u64);
        for span in spans {
            put_signed(out, i64::from(span.offset));
            put_varint(out, u64::from(span.length));
        }
        put_varint(out, buckets.len() as u64);
    }
    if h.schema == CUSTOM_BUCKETS_SCHEMA || !h.custom_values.is_empty() {
        out.push(1);
        put_varint(out, h.custom_values.len() as u64);
        for bound in &h.custom_values {
            out.extend_from_slice(&bound.to_bits().to_le_bytes());
        }
    } else {
        out.push(0);
    }
}

fn take_layout(cursor: &mut Cursor<'_>) -> Result<Histogram, CodecError> {
    let mut h = Histogram {
        schema: i32::try_from(cursor.signed()?).map_err(|_| CodecError::Corrupt("schema out of range"))?,
        zero_threshold: f64::from_bits(cursor.u64_le()?),
        ..Histogram::default()
    };
    for negative in [false, true] {
        let count = cursor.bounded(cursor.rest().len(), "too many spans")?;
        let mut spans = Vec::with_capacity(count);
        for _ in 0..count {
            let offset = i32::try_from(cursor.signed()?).map_err(|_| CodecError::Corrupt("span offset"))?;
            let length = u32::try_from(cursor.varint()?).map_err(|_| CodecError::Corrupt("span length"))?;
            spans.push(Span { offset, length });
        }
        // Each bucket is a column of at least one byte behind a length.
        let buckets = cursor.bounded((cursor.rest().len() / 2).min(MAX_BUCKETS), "too many buckets")?;
        if negative {
            (h.negative_spans, h.negative_buckets) = (spans, vec![0.0; buckets]);
        } else {
            (h.positive_spans, h.positive_buckets) = (spans, vec![0.0; buckets]);
        }
    }
    match cursor.byte()? {
        0 => {}
        1 => {
            let count = cursor.bounded(cursor.rest().len() / 8, "too many bounds")?;
            h.custom_values = (0..count).map(|_| cursor.u64_le().map(f64::from_bits)).collect::<Result<_, _>>()?;
        }
        _ => return Err(CodecError::Corrupt("unknown layout")),
    }
    Ok(h)
}

pub(super) fn decode_histograms(bytes: &[u8], len: usize) -> Result<Vec<Arc<Histogram>>, CodecError> {
    if len > MAX_COLUMN {
        return Err(CodecError::TooLong(len));
    }
    let mut cursor = Cursor::new(bytes);
    let mut out: Vec<Arc<Histogram>> = Vec::with_capacity(len);
    let mut column = Vec::new();
    while out.len() < len {
        let head = cursor.bounded(MAX_COLUMN << 1 | 1, "too many histograms")?;
        let (count, rest) = (head >> 1, head & 1 == 1);
        if count == 0 || count > len - out.len() {
            return Err(CodecError::Corrupt("wrong number of histograms"));
        }
        let layout = take_layout(&mut cursor)?;
        let (positive, negative) = (layout.positive_buckets.len(), layout.negative_buckets.len());
        let mut run = vec![layout; count];
        let mut each = |run: &mut [Histogram], set: &mut dyn FnMut(&mut Histogram, f64) -> Result<(), CodecError>| {
            let size = cursor.bounded(bytes.len(), "column too long")?;
            column.clear();
            decode_column(cursor.take(size)?, count, &mut column)?;
            run.iter_mut().zip(&column).try_for_each(|(h, v)| set(h, *v))
        };
        each(&mut run, &mut |h, v| hint_of(v).map(|hint| h.counter_reset_hint = hint))?;
        each(&mut run, &mut |h, v| {
            h.count = v;
            Ok(())
        })?;
        each(&mut run, &mut |h, v| {
            h.sum = v;
            Ok(())
        })?;
        each(&mut run, &mut |h, v| {
            h.zero_count = v;
            Ok(())
        })?;
        let missing = CodecError::Corrupt("no such bucket");
        for i in 0..positive {
            each(&mut run, &mut |h, v| h.positive_buckets.get_mut(i).map(|b| *b = v).ok_or(missing))?;
        }
        for i in 0..negative {
            each(&mut run, &mut |h, v| h.negative_buckets.get_mut(i).map(|b| *b = v).ok_or(missing))?;
        }
        if rest {
            for h in &mut run {
                h.count += bucket_sum(h);
            }
        }
        out.extend(run.into_iter().map(Arc::new));
    }
    if cursor.rest().is_empty() { Ok(out) } else { Err(CodecError::Corrupt("bytes after the histograms")) }
}
