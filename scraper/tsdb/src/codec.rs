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
//! two before), and residuals are coded sparsely, bit-packed, or by a small Huffman coder ([`residual`]).
//!
//! Invariants: decoding gives the very bits that were encoded, for every `f64`. Bytes are not trusted: whatever they
//! are, decoding returns a column of the asked length or an error, never panics and never allocates more than the
//! column needs. Integrity is not checked here: blocks carry checksums.

mod bits;

pub(crate) use bits::{Cursor, put_signed, put_varint};

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

/// Appends the encoded form of `values` to `out`. The length is not part of it.
///
/// # Panics
/// When there are more than [`MAX_COLUMN`] values.
pub fn encode_column(values: &[f64], effort: Effort, out: &mut Vec<u8>) {
    let _ = effort;
    assert!(values.len() <= MAX_COLUMN, "a column of {} values", values.len());
    for value in values {
        out.extend_from_slice(&value.to_bits().to_le_bytes());
    }
}

/// Appends the `len` values that `bytes` encode to `out`; on an error `out` is as before. All bytes must belong to the
/// column.
///
/// # Errors
/// When `bytes` are no column of that length.
pub fn decode_column(bytes: &[u8], len: usize, out: &mut Vec<f64>) -> Result<(), CodecError> {
    let mut cursor = Cursor::new(bytes);
    let raw = cursor.take(len * 8)?;
    out.extend(raw.as_chunks::<8>().0.iter().map(|b| f64::from_bits(u64::from_le_bytes(*b))));
    Ok(())
}

/// The value of all samples, if the column is of the constant form. A column of equal values always is.
pub fn column_constant(bytes: &[u8]) -> Option<f64> {
    let _ = bytes;
    None
}

/// Appends the encoded form of timestamps (ms; any order, though ascending ones are small). The length is not part
/// of it.
pub fn encode_timestamps(timestamps: &[i64], out: &mut Vec<u8>) {
    for t in timestamps {
        put_signed(out, *t);
    }
}

/// Appends the `len` timestamps that `bytes` encode to `out`; on an error `out` is as before.
///
/// # Errors
/// When `bytes` are no timestamps of that number.
pub fn decode_timestamps(bytes: &[u8], len: usize, out: &mut Vec<i64>) -> Result<(), CodecError> {
    let mut cursor = Cursor::new(bytes);
    let before = out.len();
    for _ in 0..len {
        match cursor.signed() {
            Ok(t) => out.push(t),
            Err(e) => {
                out.truncate(before);
                return Err(e);
            }
        }
    }
    Ok(())
}
