//! Residuals as bytes. A stream does not say how many residuals it has, but where it ends.
//!
//! * *same*: all are the centre;
//! * *varint*: for a handful;
//! * *packed*: runs of 64, each with a base and a width; the fastest to decode;
//! * *Huffman*: the low bits of the distance to the centre as they are, the high part by a code ([`huffman`]);
//! * *sparse*: where most residuals are the centre: two streams, of the gaps between the others and of their distances.

use super::bits::{BitWriter, Cursor, load_bits, put_signed, put_varint, unzigzag, varint_len, zigzag};
use super::{CodecError, Effort, huffman};

const SAME: u8 = 0;
const VARINT: u8 = 1;
const PACKED: u8 = 2;
pub(super) const HUFFMAN: u8 = 3;
const SPARSE: u8 = 4;

/// The name of a stream's form, by its first byte.
pub(super) fn form(kind: u8) -> &'static str {
    match kind {
        SAME => "same",
        VARINT => "varint",
        PACKED => "packed",
        HUFFMAN => "huffman",
        SPARSE => "sparse",
        _ => "unknown",
    }
}

/// Residuals in a packed run.
const RUN: usize = 64;

/// Widths up to this are read with one load.
const MAX_WIDTH: u32 = 56;

/// Below this many residuals an entropy coder's table does not pay.
const FEW: usize = 16;

/// Appends a stream of these residuals, of which `centre` is about the middle.
pub(super) fn encode(residuals: &[i64], centre: i64, effort: Effort, out: &mut Vec<u8>) {
    encode_at(residuals, centre, effort, true, out);
}

fn encode_at(residuals: &[i64], centre: i64, effort: Effort, sparse: bool, out: &mut Vec<u8>) {
    let others = residuals.iter().filter(|r| **r != centre).count();
    if others == 0 {
        out.push(SAME);
        return put_signed(out, centre);
    }
    let start = out.len();
    let mut best = usize::MAX;
    if sparse && others * 2 <= residuals.len() {
        put_sparse(residuals, centre, others, effort, out);
        best = out.len() - start;
        // A form that is nearly nothing needs no rival.
        if best * 32 <= residuals.len() {
            return;
        }
    }
    let packed = packed_len(residuals);
    let varint = if residuals.len() <= 4 * FEW { varints_len(residuals, centre) } else { usize::MAX };
    let plan = match effort {
        Effort::Best if residuals.len() >= FEW => huffman::Plan::new(residuals, centre),
        _ => None,
    };
    let huffman = plan.as_ref().map_or(usize::MAX, huffman::Plan::len);
    // Packed decodes in half the time: it may be a little larger.
    let plain = packed.min(varint);
    let best_plain = if huffman != usize::MAX && plain > huffman + huffman / 33 { huffman } else { plain };
    if best <= best_plain {
        return;
    }
    out.truncate(start);
    match plan {
        Some(plan) if best_plain == huffman => plan.write(residuals, out),
        _ if varint <= packed => {
            out.push(VARINT);
            put_signed(out, centre);
            for r in residuals {
                put_signed(out, r.wrapping_sub(centre));
            }
        }
        _ => put_packed(residuals, out),
    }
}

fn varints_len(residuals: &[i64], centre: i64) -> usize {
    let each = residuals.iter().map(|r| varint_len(zigzag(r.wrapping_sub(centre)))).sum::<usize>();
    1 + varint_len(zigzag(centre)) + each
}

/// Base and width of a packed run.
fn frame(run: &[i64]) -> (i64, u32) {
    let (low, high) = run.iter().fold((i64::MAX, i64::MIN), |(low, high), r| (low.min(*r), high.max(*r)));
    let width = 64 - (high.wrapping_sub(low) as u64).leading_zeros();
    // Too wide to be read at once: whole words without a base.
    if width > MAX_WIDTH { (0, 64) } else { (low, width) }
}

fn packed_len(residuals: &[i64]) -> usize {
    let mut last = 0i64;
    let mut len = 1;
    for run in residuals.chunks(RUN) {
        let (base, width) = frame(run);
        len += 1 + varint_len(zigzag(base.wrapping_sub(last))) + (run.len() * width as usize).div_ceil(8);
        last = base;
    }
    len
}

fn put_packed(residuals: &[i64], out: &mut Vec<u8>) {
    out.push(PACKED);
    let mut last = 0i64;
    for run in residuals.chunks(RUN) {
        let (base, width) = frame(run);
        out.push(width as u8);
        put_signed(out, base.wrapping_sub(last));
        last = base;
        let mut bits = BitWriter::new(out);
        for r in run {
            bits.put(r.wrapping_sub(base) as u64, width);
        }
        bits.finish();
    }
}

fn put_sparse(residuals: &[i64], centre: i64, others: usize, effort: Effort, out: &mut Vec<u8>) {
    let (mut gaps, mut values) = (Vec::with_capacity(others), Vec::with_capacity(others));
    let mut end = 0;
    for (i, r) in residuals.iter().enumerate().filter(|(_, r)| **r != centre) {
        gaps.push((i - end) as i64);
        values.push(r.wrapping_sub(centre));
        end = i + 1;
    }
    out.push(SPARSE);
    put_signed(out, centre);
    put_varint(out, others as u64);
    for part in [gaps, values] {
        let middle = middle(&part);
        encode_at(&part, middle, effort, false, out);
    }
}

fn middle(values: &[i64]) -> i64 {
    let mut sample = [0i64; 31];
    let count = values.len().min(sample.len());
    let sample = &mut sample[..count];
    for (k, s) in sample.iter_mut().enumerate() {
        *s = values[k * values.len() / count];
    }
    sample.sort_unstable();
    sample[count / 2]
}

/// Appends `len` residuals to `out`; on an error `out` is anything. Those of a Huffman-coded stream are left 0 and have
/// yet to be read, by [`huffman::run`] with this table.
pub(super) fn decode<'a>(
    cursor: &mut Cursor<'a>,
    len: usize,
    table: &mut huffman::Table,
    out: &mut Vec<i64>,
) -> Result<Option<huffman::Open<'a>>, CodecError> {
    match cursor.byte()? {
        SPARSE => take_sparse(cursor, len, out)?,
        HUFFMAN => {
            let open = huffman::open(cursor, len, table)?;
            out.resize(out.len() + len, 0);
            return Ok(Some(open));
        }
        kind => decode_plain(kind, cursor, len, out)?,
    }
    Ok(None)
}

/// Opens the stream if it is a Huffman-coded one; the cursor stays where it is if not.
pub(super) fn open<'a>(
    cursor: &mut Cursor<'a>,
    len: usize,
    table: &mut huffman::Table,
) -> Result<Option<huffman::Open<'a>>, CodecError> {
    if cursor.rest().first() != Some(&HUFFMAN) {
        return Ok(None);
    }
    cursor.byte()?;
    huffman::open(cursor, len, table).map(Some)
}

fn decode_plain(kind: u8, cursor: &mut Cursor<'_>, len: usize, out: &mut Vec<i64>) -> Result<(), CodecError> {
    match kind {
        SAME => {
            let centre = cursor.signed()?;
            out.resize(out.len() + len, centre);
            Ok(())
        }
        VARINT => {
            let centre = cursor.signed()?;
            for _ in 0..len {
                out.push(centre.wrapping_add(cursor.signed()?));
            }
            Ok(())
        }
        PACKED => take_packed(cursor, len, out),
        HUFFMAN => huffman::decode(cursor, len, out),
        _ => Err(CodecError::Corrupt("unknown form of residuals")),
    }
}

fn take_packed(cursor: &mut Cursor<'_>, len: usize, out: &mut Vec<i64>) -> Result<(), CodecError> {
    let mut base = 0i64;
    let mut left = len;
    while left > 0 {
        let count = left.min(RUN);
        let width = u32::from(cursor.byte()?);
        base = base.wrapping_add(cursor.signed()?);
        // The load beyond the run's last byte is masked away.
        let ahead = cursor.rest();
        let bytes = cursor.take((count * width as usize).div_ceil(8))?;
        match width {
            0 => out.resize(out.len() + count, base),
            64 => out.extend(bytes.as_chunks::<8>().0.iter().map(|b| base.wrapping_add(i64::from_le_bytes(*b)))),
            1..=MAX_WIDTH => {
                let mask = (1u64 << width) - 1;
                let width = width as usize;
                out.extend((0..count).map(|i| base.wrapping_add((load_bits(ahead, i * width) & mask) as i64)));
            }
            _ => return Err(CodecError::Corrupt("packed width")),
        }
        left -= count;
    }
    Ok(())
}

fn take_sparse(cursor: &mut Cursor<'_>, len: usize, out: &mut Vec<i64>) -> Result<(), CodecError> {
    let centre = cursor.signed()?;
    let others = cursor.bounded(len, "more exceptions than residuals")?;
    let mut parts = Vec::with_capacity(2 * others);
    for _ in 0..2 {
        let kind = cursor.byte()?;
        decode_plain(kind, cursor, others, &mut parts)?;
    }
    let (gaps, values) = parts.split_at(others);
    let start = out.len();
    out.resize(start + len, centre);
    let residuals = &mut out[start..];
    let mut at = 0usize;
    for (gap, value) in gaps.iter().zip(values) {
        at = usize::try_from(*gap).ok().and_then(|gap| at.checked_add(gap)).ok_or(CodecError::Corrupt("gap"))?;
        *residuals.get_mut(at).ok_or(CodecError::Corrupt("gap"))? = centre.wrapping_add(*value);
        at += 1;
    }
    Ok(())
}

/// The zigzag distance of a residual to the centre, and back.
#[inline]
pub(super) fn distance(residual: i64, centre: i64) -> u64 {
    zigzag(residual.wrapping_sub(centre))
}

#[inline]
pub(super) fn at_distance(distance: u64, centre: i64) -> i64 {
    centre.wrapping_add(unzigzag(distance))
}
