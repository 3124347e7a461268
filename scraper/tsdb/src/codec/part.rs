//! Reading a part of a column.
//!
//! Residuals are chained: a prediction needs the integers before, and a Huffman code begins where the one before ends.
//! So that a reader of a few samples, as every instant query is, need not decode all before them, long columns have
//! *entries*: every [`ENTRY`] samples the bit at which the next code begins and what the predictor knows there, each
//! against the entry before. They take about one byte in fifty. Columns whose residuals are not Huffman-coded have none:
//! theirs are quickly unpacked.

use std::ops::Range;

use super::numbers::{self, Scale};
use super::predict::{self, Known, Predictor};
use super::{
    CONSTANT_DECIMAL, CONSTANT_INTEGER, CodecError, Cursor, DECIMAL, EXCEPTIONS, FORM, Form, Head, MAX_COLUMN, at_end,
    column_constant, huffman, predictor, put_signed, put_varint, raw_values, stream,
};

/// Residuals between two entries.
const ENTRY: usize = 256;

/// Buffers of a reader.
pub struct Scratch {
    /// Of the last part the first `used`; what is behind them means nothing.
    residuals: Vec<i64>,
    used: usize,
    /// Where the pieces between entries begin.
    starts: Vec<usize>,
    table: Box<huffman::Table>,
}

#[cfg(test)]
impl Scratch {
    /// How many residuals the last part took.
    pub(super) fn residuals_read(&self) -> usize {
        self.used
    }
}

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch { residuals: Vec::new(), used: 0, starts: Vec::new(), table: Box::new(huffman::EMPTY) }
    }
}

/// Whether all values are finite numbers, as far as the column's first byte tells: `false` means nothing.
pub fn has_no_specials(bytes: &[u8]) -> bool {
    matches!(
        bytes.first().map(|first| (first & FORM, first & EXCEPTIONS)),
        Some((DECIMAL, 0) | (CONSTANT_INTEGER | CONSTANT_DECIMAL, _))
    )
}

/// Appends the entries of an encoded column of `len` values; nothing where it has none.
pub fn put_entries(bytes: &[u8], len: usize, out: &mut Vec<u8>) {
    if len > 2 * ENTRY {
        let before = out.len();
        if entries(bytes, len, out).is_err() {
            out.truncate(before);
        }
    }
}

fn entries(bytes: &[u8], len: usize, out: &mut Vec<u8>) -> Result<(), CodecError> {
    if column_constant(bytes).is_some() {
        return Ok(());
    }
    let Form::Integers(mut head) = Form::new(Cursor::new(bytes), len)? else { return Ok(()) };
    let predictor = predictor(head.predictor, &mut head.cursor)?;
    let mut residuals = Vec::with_capacity(len);
    let mut table = huffman::EMPTY;
    let Some(mut open) = stream::decode(&mut head.cursor, len - 1, &mut table, &mut residuals)? else { return Ok(()) };
    let mut known = Known::start(predictor);
    let mut last = (0, known);
    for from in (0..len - 1).step_by(ENTRY) {
        let part = &mut residuals[from..(from + ENTRY).min(len - 1)];
        if from > 0 {
            put_varint(out, (open.bit() - last.0) as u64);
            for i in 0..Known::width(predictor) {
                put_signed(out, known.state[i].wrapping_sub(last.1.state[i]));
            }
            last = (open.bit(), known);
        }
        huffman::run(&mut open, &table, part);
        open.patch(part, from);
        known = known.after(part, predictor);
    }
    Ok(())
}

/// What is known at the last entry at or before residual number `before`; `starts` becomes the bits of that entry and of
/// those behind it up to residual number `end`.
fn find(
    entries: &[u8],
    predictor: Predictor,
    before: usize,
    end: usize,
    starts: &mut Vec<usize>,
) -> Result<Known, CodecError> {
    starts.clear();
    let mut known = Known::start(predictor);
    let (mut bit, mut done) = (0usize, 0usize);
    starts.push(bit);
    let mut cursor = Cursor::new(entries);
    while done + ENTRY < end && !cursor.rest().is_empty() {
        bit += cursor.bounded(MAX_COLUMN * 64, "entry outside the column")?;
        done += ENTRY;
        let is_before = done <= before;
        if is_before {
            known.done = done;
            starts.clear();
        }
        starts.push(bit);
        for i in 0..Known::width(predictor) {
            let step = cursor.signed()?;
            if is_before {
                known.state[i] = known.state[i].wrapping_add(step);
            }
        }
    }
    Ok(known)
}

/// Appends the values in `range` of those that `bytes`, a column of `len` values, encode; `entries` are what
/// [`put_entries`] made of it. On an error `out` is as before. All bytes are looked at only
/// if the range is everything.
///
/// # Errors
/// When `bytes` are no column of that length, or the range is beyond it.
pub fn decode_part(
    bytes: &[u8],
    entries: &[u8],
    len: usize,
    range: Range<usize>,
    scratch: &mut Scratch,
    out: &mut Vec<f64>,
) -> Result<(), CodecError> {
    if len > MAX_COLUMN {
        return Err(CodecError::TooLong(len));
    }
    if range.end > len || range.start > range.end {
        return Err(CodecError::Corrupt("part outside the column"));
    }
    if range.is_empty() {
        return Ok(());
    }
    if let Some(value) = column_constant(bytes) {
        out.resize(out.len() + range.len(), value);
        return Ok(());
    }
    match Form::new(Cursor::new(bytes), len)? {
        Form::Raw(raw) => {
            out.extend(raw_values(raw).skip(range.start).take(range.len()));
            Ok(())
        }
        Form::Integers(head) => {
            let before = out.len();
            let decoded = integers(head, entries, len, range, scratch, out);
            if decoded.is_err() {
                out.truncate(before);
            }
            decoded
        }
    }
}

fn integers(
    head: Head<'_>,
    entries: &[u8],
    len: usize,
    range: Range<usize>,
    scratch: &mut Scratch,
    out: &mut Vec<f64>,
) -> Result<(), CodecError> {
    let Head { scale, exceptions, predictor: number, start, divisor, mut cursor } = head;
    let at = out.len();
    out.reserve(range.len());
    let append = |ints: &[i64], out: &mut Vec<f64>| match scale {
        Scale::Decimal(e) => numbers::append_decimals(ints, e, out),
        Scale::Bits(shift) => numbers::append_bits(ints, shift, out),
    };
    let head = usize::from(range.start == 0);
    if head == 1 {
        append(&[start], out);
    }
    if range.len() > head {
        let predictor = predictor(number, &mut cursor)?;
        // Residual number n leads to value n + 1.
        let (from, to_residual) = (range.start.saturating_sub(1), range.end - 1);
        let Scratch { residuals, used, starts, table } = scratch;
        let whole = to_residual == len - 1;
        let (known, residuals) = match take(&mut cursor, len - 1, table, residuals)? {
            Some(mut open) => {
                let known = find(entries, predictor, from, to_residual, starts)?;
                *used = to_residual - known.done;
                if residuals.len() < *used {
                    residuals.resize(*used, 0);
                }
                let residuals = &mut residuals[..*used];
                // Without entries all is one piece.
                let each = if entries.is_empty() { residuals.len().max(1) } else { ENTRY };
                if residuals.len().div_ceil(each) != starts.len() {
                    return Err(CodecError::Corrupt("entries"));
                }
                open.seek(starts[0]);
                huffman::run_from(&mut open, table, starts, each, residuals);
                open.patch(residuals, known.done);
                if whole {
                    cursor.take(open.bit().div_ceil(8))?;
                }
                (known, residuals)
            }
            None => {
                *used = to_residual;
                (Known::start(predictor), &mut residuals[..to_residual])
            }
        };
        if whole && range.start == 0 {
            at_end(&cursor)?;
        }
        let (skipped, wanted) = residuals.split_at_mut(from - known.done);
        predict::undo(wanted, predictor, start, divisor, known.after(skipped, predictor));
        append(wanted, out);
    }
    let values = &mut out[at..];
    for run in exceptions {
        let from = run.start.clamp(range.start, range.end) - range.start;
        let to = (run.start + run.len).clamp(range.start, range.end) - range.start;
        values[from..to].fill(f64::from_bits(run.bits));
    }
    Ok(())
}

/// The residuals, or the Huffman-coded stream that they are to be read from: `out` is then as before.
fn take<'a>(
    cursor: &mut Cursor<'a>,
    len: usize,
    table: &mut huffman::Table,
    out: &mut Vec<i64>,
) -> Result<Option<huffman::Open<'a>>, CodecError> {
    if let Some(open) = stream::open(cursor, len, table)? {
        return Ok(Some(open));
    }
    out.clear();
    match stream::decode(cursor, len, table, out)? {
        None if out.len() == len => Ok(None),
        _ => Err(CodecError::Corrupt("residuals")),
    }
}
