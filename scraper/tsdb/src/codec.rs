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
mod part;
mod predict;
mod stream;

pub(crate) use bits::{Cursor, put_signed, put_varint};
pub use part::{Scratch, decode_part, has_no_specials, put_entries};

pub(crate) use numbers::gcd;
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

// The first byte of a column: the form in three bits, then for integers the predictor in three, and two flags.
const CONSTANT_INTEGER: u8 = 0;
const CONSTANT_DECIMAL: u8 = 1;
const CONSTANT_BITS: u8 = 2;
const DECIMAL: u8 = 3;
const BITS: u8 = 4;
const RAW: u8 = 5;
const FORM: u8 = 0b111;
const PREDICTOR_SHIFT: u8 = 3;
const DIVISOR: u8 = 1 << 6;
const EXCEPTIONS: u8 = 1 << 7;

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
        let plan = predict::choose(&self.ints, effort == Effort::Best);
        let number = match plan.predictor {
            Predictor::Level => 0,
            Predictor::Delta => 1,
            Predictor::DeltaOfDelta => 2,
            Predictor::Line(slope) => {
                put_signed(out, slope);
                3
            }
            Predictor::Track(slope) => {
                put_signed(out, slope);
                4
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

fn decode_values(cursor: Cursor<'_>, len: usize, out: &mut Vec<f64>) -> Result<(), CodecError> {
    let mut table = huffman::EMPTY;
    if let Some(mut column) = Pending::new(cursor, len, &mut table, out)? {
        column.ints.run(&table);
        column.finish(out)?;
    }
    Ok(())
}

/// A column of integers whose head has been read. Their residuals have been decoded, or are about to be.
struct Ints<'a> {
    predictor: Predictor,
    first: i64,
    divisor: i64,
    /// The first integer, then residuals.
    ints: Vec<i64>,
    /// The Huffman-coded stream that the residuals have yet to be read from.
    open: Option<huffman::Open<'a>>,
    /// What follows the stream's head.
    cursor: Cursor<'a>,
}

impl<'a> Ints<'a> {
    /// Reads a column of `len` integers, at least one.
    fn new(
        mut cursor: Cursor<'a>,
        predictor: u8,
        first: i64,
        divisor: i64,
        len: usize,
        table: &mut huffman::Table,
    ) -> Result<Ints<'a>, CodecError> {
        let mut ints = Vec::with_capacity(len);
        ints.push(first);
        if len == 1 {
            return Ok(Ints { predictor: Predictor::Level, first, divisor, ints, open: None, cursor });
        }
        let predictor = self::predictor(predictor, &mut cursor)?;
        let open = stream::decode(&mut cursor, len - 1, table, &mut ints)?;
        Ok(Ints { predictor, first, divisor, ints, open, cursor })
    }

    fn run(&mut self, table: &huffman::Table) {
        if let Some(open) = &mut self.open {
            huffman::run(open, table, &mut self.ints[1..]);
        }
    }

    /// The integers.
    fn finish(mut self) -> Result<Vec<i64>, CodecError> {
        let residuals = &mut self.ints[1..];
        if let Some(open) = self.open.take() {
            self.cursor.take(open.close(residuals))?;
        }
        at_end(&self.cursor)?;
        let known = predict::Known::start(self.predictor);
        predict::undo(residuals, self.predictor, self.first, self.divisor, known);
        Ok(self.ints)
    }
}

/// What stands before a column's residuals.
struct Head<'a> {
    scale: Scale,
    exceptions: Vec<numbers::ExceptionRun>,
    predictor: u8,
    start: i64,
    divisor: i64,
    cursor: Cursor<'a>,
}

/// A column that is not of the constant form.
enum Form<'a> {
    Raw(&'a [u8]),
    Integers(Head<'a>),
}

impl<'a> Form<'a> {
    fn new(mut cursor: Cursor<'a>, len: usize) -> Result<Form<'a>, CodecError> {
        let first = cursor.byte()?;
        let scale = match first & FORM {
            RAW if first == RAW => {
                let raw = cursor.take(len * 8)?;
                return at_end(&cursor).map(|()| Form::Raw(raw));
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
        Ok(Form::Integers(Head { scale, exceptions, predictor: first >> PREDICTOR_SHIFT & 7, start, divisor, cursor }))
    }
}

fn raw_values(raw: &[u8]) -> impl Iterator<Item = f64> + '_ {
    raw.as_chunks::<8>().0.iter().map(|b| f64::from_bits(u64::from_le_bytes(*b)))
}

fn predictor(number: u8, cursor: &mut Cursor<'_>) -> Result<Predictor, CodecError> {
    Ok(match number {
        0 => Predictor::Level,
        1 => Predictor::Delta,
        2 => Predictor::DeltaOfDelta,
        3 => Predictor::Line(cursor.signed()?),
        4 => Predictor::Track(cursor.signed()?),
        _ => return Err(CodecError::Corrupt("unknown predictor")),
    })
}

/// A column of floats whose head has been read.
struct Pending<'a> {
    scale: Scale,
    exceptions: Vec<numbers::ExceptionRun>,
    ints: Ints<'a>,
}

impl<'a> Pending<'a> {
    /// Reads the head of a column; `None` when its values are already there, appended to `out`.
    fn new(
        cursor: Cursor<'a>,
        len: usize,
        table: &mut huffman::Table,
        out: &mut Vec<f64>,
    ) -> Result<Option<Pending<'a>>, CodecError> {
        if len == 0 {
            return at_end(&cursor).map(|()| None);
        }
        if let Some(value) = column_constant(cursor.rest()) {
            out.resize(out.len() + len, value);
            return Ok(None);
        }
        match Form::new(cursor, len)? {
            Form::Raw(raw) => {
                out.extend(raw_values(raw));
                Ok(None)
            }
            Form::Integers(Head { scale, exceptions, predictor, start, divisor, cursor }) => {
                let ints = Ints::new(cursor, predictor, start, divisor, len, table)?;
                Ok(Some(Pending { scale, exceptions, ints }))
            }
        }
    }

    /// Appends the values.
    fn finish(self, out: &mut Vec<f64>) -> Result<(), CodecError> {
        let at = out.len();
        let ints = self.ints.finish()?;
        match self.scale {
            Scale::Decimal(e) => numbers::append_decimals(&ints, e, out),
            Scale::Bits(shift) => numbers::append_bits(&ints, shift, out),
        }
        let values = &mut out[at..];
        for run in self.exceptions {
            let values = values.get_mut(run.start..run.start + run.len);
            values.ok_or(CodecError::Corrupt("exception outside the column"))?.fill(f64::from_bits(run.bits));
        }
        Ok(())
    }
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

/// The form of an encoded column in words, for statistics; `"unknown"` of what is no column.
pub fn column_form(bytes: &[u8]) -> &'static str {
    let mut cursor = Cursor::new(bytes);
    let mut residuals = || {
        let first = cursor.byte()?;
        cursor.byte()?;
        cursor.signed()?;
        if first & DIVISOR != 0 {
            cursor.varint()?;
        }
        if first & EXCEPTIONS != 0 {
            numbers::take_exceptions(&mut cursor, MAX_COLUMN)?;
        }
        if first >> PREDICTOR_SHIFT & 7 > 2 {
            cursor.signed()?;
        }
        Ok::<_, CodecError>(stream::form(cursor.byte()?))
    };
    match bytes.first().map_or(u8::MAX, |first| first & FORM) {
        CONSTANT_INTEGER | CONSTANT_DECIMAL | CONSTANT_BITS => "constant",
        DECIMAL | BITS => residuals().unwrap_or("unknown"),
        RAW => "raw",
        _ => "unknown",
    }
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
    let mut cursor = Cursor::new(bytes);
    if len == 0 {
        return at_end(&cursor);
    }
    let predictor = cursor.byte()?;
    let first = cursor.signed()?;
    let mut table = huffman::EMPTY;
    let mut ints = Ints::new(cursor, predictor, first, 1, len, &mut table)?;
    ints.run(&table);
    out.extend(ints.finish()?);
    Ok(())
}

#[cfg(test)]
mod tests;
