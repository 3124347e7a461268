//! Bit-exact codecs for columns of `f64` values and of timestamps.
//!
//! A column is what one series has in one window, at most [`MAX_COLUMN`] values. [`encode_column`] looks at the values
//! and takes the smallest of these forms:
//! * *constant*: one value;
//! * *decimal*: `value = i / 10^e` with integer `i`, as nearly all metrics are once printed and parsed; the integers
//!   lose their common divisor, and what is no such number (NaN, infinities, -0) becomes an exception;
//! * *bits*: the same over the raw bit pattern, without its common trailing zeros;
//! * *raw*: eight bytes a value, the last resort.
//!
//! Integers then become residuals against a cheap prediction (a level, a line, the value before, the line through the
//! two before), and residuals are coded sparsely, bit-packed, or by a small Huffman coder ([`stream`]).
//!
//! Invariants: decoding gives the very bits that were encoded, for every `f64`. Bytes are not trusted: whatever they
//! are, decoding returns a column of the asked length or an error, never panics and never allocates more than the
//! column needs. Integrity is not checked here: blocks carry checksums.

mod bits;
mod huffman;
mod numbers;
mod predict;
mod stream;

pub(crate) use bits::{Cursor, put_signed, put_varint};

use numbers::{Exception, Scale};
use predict::Predictor;

/// The most values a column may hold.
pub const MAX_COLUMN: usize = 4096;

/// How hard to look for a small form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effort {
    /// For columns that are soon written anew: no entropy coder.
    Fast,
    /// For the final form.
    #[default]
    Best,
}

/// Bytes that are no column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("column ends early")]
    Truncated,
    #[error("column is corrupt: {0}")]
    Corrupt(&'static str),
    #[error("column of {0} values, at most {MAX_COLUMN} are allowed")]
    TooLong(usize),
}

// The first byte of a column: the form in three bits, then for integers the predictor in two, and two flags.
const CONSTANT_INTEGER: u8 = 0;
const CONSTANT_DECIMAL: u8 = 1;
const CONSTANT_BITS: u8 = 2;
const DECIMAL: u8 = 3;
const BITS: u8 = 4;
const RAW: u8 = 5;
const FORM: u8 = 0b111;
const PREDICTOR_SHIFT: u8 = 3;
const DIVISOR: u8 = 1 << 5;
const EXCEPTIONS: u8 = 1 << 6;
const UNKNOWN: u8 = 1 << 7;

/// Encodes columns, keeping its buffers.
#[derive(Default)]
pub struct ColumnEncoder {
    ints: Vec<i64>,
    residuals: Vec<i64>,
    exceptions: Vec<Exception>,
}

impl ColumnEncoder {
    /// As [`encode_column`].
    ///
    /// # Panics
    /// When there are more than [`MAX_COLUMN`] values.
    pub fn encode(&mut self, values: &[f64], effort: Effort, out: &mut Vec<u8>) {
        assert!(values.len() <= MAX_COLUMN, "a column of {} values", values.len());
        let Some(first) = values.first() else { return };
        let changes = values.iter().fold(0, |all, v| all | (v.to_bits() ^ first.to_bits()));
        if changes == 0 {
            return put_constant(*first, out);
        }
        let start = out.len();
        let scale = numbers::to_ints(values, &mut self.ints, &mut self.exceptions);
        let (form, parameter) = match scale {
            Scale::Decimal(e) => (DECIMAL, e),
            Scale::Bits(shift) => (BITS, shift),
        };
        out.extend([form, parameter]);
        let flags = self.put_ints(scale, effort, out);
        out[start] |= flags;
        if out.len() - start > 8 * values.len() {
            out.truncate(start);
            out.push(RAW);
            for value in values {
                out.extend_from_slice(&value.to_bits().to_le_bytes());
            }
        }
    }

    /// What follows the first two bytes; returns what has to be added to the first.
    fn put_ints(&mut self, scale: Scale, effort: Effort, out: &mut Vec<u8>) -> u8 {
        let mut flags = 0;
        let first = self.ints[0];
        put_signed(out, first);
        // Bit patterns may be further apart than an i64 can say.
        let divisor = if matches!(scale, Scale::Decimal(_)) { numbers::common_divisor(&self.ints) } else { 1 };
        if divisor > 1 {
            flags |= DIVISOR;
            put_varint(out, divisor);
            let divisor = divisor as i64;
            for i in &mut self.ints {
                *i = (*i - first) / divisor;
            }
        }
        if !self.exceptions.is_empty() {
            flags |= EXCEPTIONS;
            numbers::put_exceptions(&self.exceptions, out);
        }
        flags | self.put_predicted(effort, out) << PREDICTOR_SHIFT
    }

    /// The slope, if the predictor has one, and the residuals; returns the predictor's number.
    fn put_predicted(&mut self, effort: Effort, out: &mut Vec<u8>) -> u8 {
        if self.ints.len() < 2 {
            return 0;
        }
        let plan = predict::choose(&self.ints);
        let number = match plan.predictor {
            Predictor::Level => 0,
            Predictor::Delta => 1,
            Predictor::DeltaOfDelta => 2,
            Predictor::Line(slope) => {
                put_signed(out, slope);
                3
            }
        };
        predict::residuals(&self.ints, plan.predictor, &mut self.residuals);
        stream::encode(&self.residuals, plan.centre, effort, out);
        number
    }
}

fn put_constant(value: f64, out: &mut Vec<u8>) {
    let start = out.len();
    match numbers::decimal_parts(value) {
        Some((i, 0)) => {
            out.push(CONSTANT_INTEGER);
            put_signed(out, i);
        }
        Some((i, e)) => {
            out.extend([CONSTANT_DECIMAL, e]);
            put_signed(out, i);
        }
        None => {}
    }
    if !(2..=9).contains(&(out.len() - start)) {
        out.truncate(start);
        out.push(CONSTANT_BITS);
        out.extend_from_slice(&value.to_bits().to_le_bytes());
    }
}

/// Appends the encoded form of `values` to `out`. The length is not part of it; no values are no bytes.
///
/// # Panics
/// When there are more than [`MAX_COLUMN`] values.
pub fn encode_column(values: &[f64], effort: Effort, out: &mut Vec<u8>) {
    ColumnEncoder::default().encode(values, effort, out);
}

/// Appends the `len` values that `bytes` encode to `out`; on an error `out` is as before. All bytes must belong to the
/// column.
///
/// # Errors
/// When `bytes` are no column of that length.
pub fn decode_column(bytes: &[u8], len: usize, out: &mut Vec<f64>) -> Result<(), CodecError> {
    if len > MAX_COLUMN {
        return Err(CodecError::TooLong(len));
    }
    let before = out.len();
    let decoded = decode_values(Cursor::new(bytes), len, out);
    if decoded.is_err() {
        out.truncate(before);
    }
    decoded
}

fn decode_values(mut cursor: Cursor<'_>, len: usize, out: &mut Vec<f64>) -> Result<(), CodecError> {
    if len == 0 {
        return at_end(&cursor);
    }
    if let Some(value) = column_constant(cursor.rest()) {
        out.resize(out.len() + len, value);
        return Ok(());
    }
    let first = cursor.byte()?;
    if first & UNKNOWN != 0 {
        return Err(CodecError::Corrupt("unknown form"));
    }
    let scale = match first & FORM {
        RAW if first == RAW => {
            let raw = cursor.take(len * 8)?;
            out.extend(raw.as_chunks::<8>().0.iter().map(|b| f64::from_bits(u64::from_le_bytes(*b))));
            return at_end(&cursor);
        }
        DECIMAL => match cursor.byte()? {
            e @ 0..16 => Scale::Decimal(e),
            _ => return Err(CodecError::Corrupt("decimal exponent")),
        },
        BITS => match cursor.byte()? {
            shift @ 0..64 => Scale::Bits(shift),
            _ => return Err(CodecError::Corrupt("bit shift")),
        },
        _ => return Err(CodecError::Corrupt("unknown form")),
    };
    let start = cursor.signed()?;
    let divisor = if first & DIVISOR != 0 { cursor.varint()? as i64 } else { 1 };
    let exceptions = if first & EXCEPTIONS != 0 { numbers::take_exceptions(&mut cursor, len)? } else { Vec::new() };
    let mut ints = Vec::with_capacity(len);
    take_predicted(first >> PREDICTOR_SHIFT & 3, start, divisor, &mut cursor, len, &mut ints)?;
    at_end(&cursor)?;
    let at = out.len();
    numbers::from_ints(&ints, scale, out);
    for run in exceptions {
        let values = out.get_mut(at + run.start..at + run.start + run.len);
        values.ok_or(CodecError::Corrupt("exception outside the column"))?.fill(f64::from_bits(run.bits));
    }
    Ok(())
}

/// Appends `len` integers, at least one, of which `first` is the first.
fn take_predicted(
    predictor: u8,
    first: i64,
    divisor: i64,
    cursor: &mut Cursor<'_>,
    len: usize,
    out: &mut Vec<i64>,
) -> Result<(), CodecError> {
    let start = out.len();
    out.push(first);
    if len > 1 {
        let predictor = match predictor {
            0 => Predictor::Level,
            1 => Predictor::Delta,
            2 => Predictor::DeltaOfDelta,
            _ => Predictor::Line(cursor.signed()?),
        };
        stream::decode(cursor, len - 1, out)?;
        predict::undo(&mut out[start..], predictor, first, divisor);
    }
    Ok(())
}

fn at_end(cursor: &Cursor<'_>) -> Result<(), CodecError> {
    if cursor.rest().is_empty() { Ok(()) } else { Err(CodecError::Corrupt("bytes after the column")) }
}

/// The value of all samples, if the column is of the constant form. A column of equal values always is.
pub fn column_constant(bytes: &[u8]) -> Option<f64> {
    let mut cursor = Cursor::new(bytes);
    let value = match cursor.byte().ok()? {
        CONSTANT_INTEGER => cursor.signed().ok()? as f64,
        CONSTANT_DECIMAL => {
            let power = numbers::POWERS.get(usize::from(cursor.byte().ok()?))?;
            cursor.signed().ok()? as f64 / power
        }
        CONSTANT_BITS => f64::from_bits(cursor.u64_le().ok()?),
        _ => return None,
    };
    at_end(&cursor).is_ok().then_some(value)
}

/// Appends the encoded form of timestamps (ms; any order, though regular ones are small). The length is not part of it;
/// no timestamps are no bytes.
///
/// # Panics
/// When there are more than [`MAX_COLUMN`].
pub fn encode_timestamps(timestamps: &[i64], out: &mut Vec<u8>) {
    assert!(timestamps.len() <= MAX_COLUMN, "{} timestamps", timestamps.len());
    let Some(first) = timestamps.first() else { return };
    let at = out.len();
    out.push(0);
    put_signed(out, *first);
    let mut encoder = ColumnEncoder { ints: timestamps.to_vec(), ..ColumnEncoder::default() };
    out[at] = encoder.put_predicted(Effort::Best, out);
}

/// Appends the `len` timestamps that `bytes` encode to `out`; on an error `out` is as before.
///
/// # Errors
/// When `bytes` are no timestamps of that number.
pub fn decode_timestamps(bytes: &[u8], len: usize, out: &mut Vec<i64>) -> Result<(), CodecError> {
    if len > MAX_COLUMN {
        return Err(CodecError::TooLong(len));
    }
    let before = out.len();
    let mut cursor = Cursor::new(bytes);
    let mut decode = || {
        if len > 0 {
            let predictor = cursor.byte()?;
            if predictor > 3 {
                return Err(CodecError::Corrupt("unknown predictor"));
            }
            let first = cursor.signed()?;
            take_predicted(predictor, first, 1, &mut cursor, len, out)?;
        }
        at_end(&cursor)
    };
    let decoded = decode();
    if decoded.is_err() {
        out.truncate(before);
    }
    decoded
}

#[cfg(test)]
mod tests;
