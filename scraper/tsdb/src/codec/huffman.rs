//! A small Huffman coder for residuals.
//!
//! The distance of a residual to the centre loses its low `k` bits, which are noise and written as they are; the rest is
//! put into buckets (0 to 7, then four an octave) whose numbers are Huffman-coded with at most [`MAX_BITS`] bits, so that
//! one look-up in a small table decodes a residual. The few distances beyond the last bucket are patched in afterwards.
//!
//! ```text
//! stream := 3 centre:signed k:u8 (| 0x80 with outliers) symbols:u8 lengths [outliers] codes
//! ```

use super::bits::{BitWriter, Cursor, load_bits, put_signed, put_varint, varint_len, zigzag};
use super::stream::{HUFFMAN, at_distance, distance};
use super::{CodecError, MAX_COLUMN};

/// The longest code. 9 bits make a table of 2 KiB, quickly filled.
const MAX_BITS: u32 = 9;
const TABLE: usize = 1 << MAX_BITS;

/// High parts are below 2^16: 8 buckets of one value, and 4 for each of 13 octaves.
const HIGH_BITS: u32 = 16;
const SYMBOLS: usize = 8 + 4 * (HIGH_BITS as usize - 3);

/// So that a code, its bucket's bits and the low bits are in one load of 57 bits.
const MAX_LOW: u32 = 34;

const OUTLIERS: u8 = 0x80;

/// The bucket of a high part, and how many bits say where in it.
#[inline]
fn bucket(high: u64) -> (usize, u32) {
    if high < 8 {
        (high as usize, 0)
    } else {
        let octave = 63 - high.leading_zeros();
        let extra = octave - 2;
        (8 + (octave as usize - 3) * 4 + (high >> extra & 3) as usize, extra)
    }
}

/// The least high part of a bucket, and how many bits follow.
fn bucket_base(symbol: usize) -> (u32, u32) {
    if symbol < 8 {
        (symbol as u32, 0)
    } else {
        let octave = (symbol as u32 - 8) / 4 + 3;
        ((4 + (symbol as u32 - 8) % 4) << (octave - 2), octave - 2)
    }
}

/// How a stream will be written, and its exact size.
pub(super) struct Plan {
    centre: i64,
    low: u32,
    /// Code lengths of the buckets up to the last one in use.
    lengths: [u8; SYMBOLS],
    symbols: usize,
    /// Positions and distances of what no bucket holds.
    outliers: Vec<(u32, u64)>,
    code_bits: usize,
}

impl Plan {
    /// `None` when the residuals are too wide.
    pub(super) fn new(residuals: &[i64], centre: i64) -> Option<Plan> {
        let n = residuals.len();
        let mut widths = [0u32; 65];
        for r in residuals {
            widths[64 - distance(*r, centre).leading_zeros() as usize] += 1;
        }
        let mut seen = 0;
        let half = widths.iter().position(|c| {
            seen += *c as usize;
            seen * 2 >= n
        })?;
        let widest = widths.iter().rposition(|c| *c > 0)? as u32;
        let mut low = (half as u32).saturating_sub(3);
        let beyond: u32 = widths.iter().skip((low + HIGH_BITS) as usize + 1).sum();
        if beyond as usize > 4 + n / 100 {
            low = widest - HIGH_BITS;
        }
        if low > MAX_LOW {
            return None;
        }
        let mut counts = [0u32; SYMBOLS];
        let mut outliers = Vec::new();
        let mut code_bits = 0;
        for (i, r) in residuals.iter().enumerate() {
            let d = distance(*r, centre);
            let high = d >> low;
            // An outlier is written as 0 and then patched.
            let (symbol, extra) = if high >> HIGH_BITS == 0 {
                bucket(high)
            } else {
                outliers.push((i as u32, d));
                (0, 0)
            };
            counts[symbol] += 1;
            code_bits += (extra + low) as usize;
        }
        let symbols = counts.iter().rposition(|c| *c > 0)? + 1;
        let lengths = code_lengths(&counts);
        code_bits += counts.iter().zip(&lengths).map(|(c, l)| *c as usize * usize::from(*l)).sum::<usize>();
        Some(Plan { centre, low, lengths, symbols, outliers, code_bits })
    }

    /// The stream's size in bytes.
    pub(super) fn len(&self) -> usize {
        let mut outliers = if self.outliers.is_empty() { 0 } else { varint_len(self.outliers.len() as u64) };
        let mut end = 0;
        for (at, d) in &self.outliers {
            outliers += varint_len(u64::from(at - end)) + varint_len(*d);
            end = *at;
        }
        let lengths: u32 = length_codes(&self.lengths[..self.symbols]).map(|(_, width)| width).sum();
        3 + varint_len(zigzag(self.centre)) + (lengths as usize).div_ceil(8) + outliers + self.code_bits.div_ceil(8)
    }

    pub(super) fn write(&self, residuals: &[i64], out: &mut Vec<u8>) {
        out.push(HUFFMAN);
        put_signed(out, self.centre);
        out.push(self.low as u8 | if self.outliers.is_empty() { 0 } else { OUTLIERS });
        out.push(self.symbols as u8);
        let mut bits = BitWriter::new(out);
        for (code, width) in length_codes(&self.lengths[..self.symbols]) {
            bits.put(u64::from(code), width);
        }
        bits.finish();
        if !self.outliers.is_empty() {
            put_varint(out, self.outliers.len() as u64);
            let mut end = 0;
            for (at, d) in &self.outliers {
                put_varint(out, u64::from(at - end));
                put_varint(out, *d);
                end = *at;
            }
        }
        let codes = codes(&self.lengths);
        let low = self.low;
        let mut bits = BitWriter::new(out);
        for r in residuals {
            let d = distance(*r, self.centre);
            let high = d >> low;
            let (symbol, extra, d) = if high >> HIGH_BITS == 0 {
                let (symbol, extra) = bucket(high);
                (symbol, extra + low, d)
            } else {
                (0, low, 0)
            };
            let length = u32::from(self.lengths[symbol]);
            bits.put(u64::from(codes[symbol]) | (d & ((1 << extra) - 1)) << length, length + extra);
        }
        bits.finish();
    }
}

/// The code lengths as bit strings, each against the one before: the same `0`, one more `01`, one less `011`, any
/// other `111` and four bits (low bits first).
fn length_codes(lengths: &[u8]) -> impl Iterator<Item = (u32, u32)> + '_ {
    let mut last = 0;
    lengths.iter().map(move |length| {
        let (length, before) = (u32::from(*length), std::mem::replace(&mut last, u32::from(*length)));
        if length == before {
            (0, 1)
        } else if length == before + 1 {
            (0b01, 2)
        } else if length + 1 == before {
            (0b011, 3)
        } else {
            (0b111 | length << 3, 7)
        }
    })
}

/// Lengths of a Huffman code for these counts, at most [`MAX_BITS`]; 0 for what does not occur.
fn code_lengths(counts: &[u32; SYMBOLS]) -> [u8; SYMBOLS] {
    let mut lengths = [0u8; SYMBOLS];
    let mut leaves = [(0u32, 0u8); SYMBOLS];
    let mut n = 0;
    for (symbol, count) in counts.iter().enumerate().filter(|(_, c)| **c > 0) {
        leaves[n] = (*count, symbol as u8);
        n += 1;
    }
    let leaves = &mut leaves[..n];
    if n == 1 {
        lengths[usize::from(leaves[0].1)] = 1;
        return lengths;
    }
    leaves.sort_unstable();
    // Two queues: leaves and inner nodes are each in ascending order of weight.
    let mut weight = [u32::MAX; 2 * SYMBOLS];
    let mut parent = [0u8; 2 * SYMBOLS];
    for (w, leaf) in weight.iter_mut().zip(leaves.iter()) {
        *w = leaf.0;
    }
    let (mut leaf, mut inner) = (0, n);
    for node in n..2 * n - 1 {
        let mut sum = 0;
        for _ in 0..2 {
            let taken = if leaf < n && (inner >= node || weight[leaf] <= weight[inner]) {
                leaf += 1;
                leaf - 1
            } else {
                inner += 1;
                inner - 1
            };
            parent[taken] = node as u8;
            sum += weight[taken];
        }
        weight[node] = sum;
    }
    let mut depth = [0u8; 2 * SYMBOLS];
    for node in (0..2 * n - 2).rev() {
        depth[node] = depth[usize::from(parent[node])] + 1;
    }
    // Cut what is too long, then lengthen the rarest until the code fits, then shorten the commonest that can be.
    let depth = &mut depth[..n];
    let whole = 1u32 << MAX_BITS;
    let share = |length: u8| whole >> length;
    let mut used = 0;
    for d in depth.iter_mut() {
        *d = (*d).min(MAX_BITS as u8);
        used += share(*d);
    }
    while used > whole {
        for d in depth.iter_mut().filter(|d| u32::from(**d) < MAX_BITS) {
            used -= share(*d) - share(*d + 1);
            *d += 1;
            if used <= whole {
                break;
            }
        }
    }
    for d in depth.iter_mut().rev() {
        while *d > 1 && used + share(*d) <= whole {
            used += share(*d);
            *d -= 1;
        }
    }
    for (d, leaf) in depth.iter().zip(leaves.iter()) {
        lengths[usize::from(leaf.1)] = *d;
    }
    lengths
}

/// Canonical codes, bit-reversed, since streams are read from the low end.
fn codes(lengths: &[u8; SYMBOLS]) -> [u32; SYMBOLS] {
    let mut codes = [0u32; SYMBOLS];
    let mut next = 0u32;
    for length in 1..=MAX_BITS {
        for (code, _) in codes.iter_mut().zip(lengths).filter(|(_, l)| u32::from(**l) == length) {
            *code = next.reverse_bits() >> (32 - length);
            next += 1;
        }
        next <<= 1;
    }
    codes
}

/// The head of a stream, ready to decode its codes.
struct Head {
    centre: i64,
    low: u32,
    mask: usize,
    outliers: Vec<(u32, u64)>,
}

/// Reads the head and fills the table: base << 16 | extra bits << 8 | length of the code.
fn take_head(cursor: &mut Cursor<'_>, len: usize, table: &mut [u32; TABLE]) -> Result<Head, CodecError> {
    let centre = cursor.signed()?;
    let first = cursor.byte()?;
    let low = u32::from(first & !OUTLIERS);
    let symbols = usize::from(cursor.byte()?);
    if low > MAX_LOW || symbols > SYMBOLS || symbols == 0 {
        return Err(CodecError::Corrupt("code table"));
    }
    let bytes = cursor.rest();
    let mut lengths = [0u8; SYMBOLS];
    let mut by_length = [0u32; 16];
    let (mut at, mut last) = (0, 0u32);
    for length in &mut lengths[..symbols] {
        let word = load_bits(bytes, at);
        match word.trailing_ones() {
            0 => at += 1,
            1 => {
                at += 2;
                last += 1;
            }
            2 => {
                at += 3;
                last = last.wrapping_sub(1);
            }
            _ => {
                at += 7;
                last = (word >> 3 & 15) as u32;
            }
        }
        if last > MAX_BITS {
            return Err(CodecError::Corrupt("code length"));
        }
        *length = last as u8;
        by_length[last as usize] += 1;
    }
    cursor.take(at.div_ceil(8))?;
    let longest = by_length.iter().rposition(|c| *c > 0).unwrap_or(0) as u32;
    let used: u32 = (1..=longest).map(|l| by_length[l as usize] << (longest - l)).sum();
    if longest == 0 || used > 1 << longest {
        return Err(CodecError::Corrupt("code lengths"));
    }
    let size = 1usize << longest;
    let table = &mut table[..size];
    if used < 1 << longest {
        // Codes that nobody has decode as themselves being 0, one bit long.
        table.fill(1);
    }
    let mut next = [0u32; 16];
    let mut code = 0;
    for length in 1..=longest as usize {
        next[length] = code;
        code = (code + by_length[length]) << 1;
    }
    for (symbol, length) in lengths[..symbols].iter().enumerate().filter(|(_, l)| **l > 0) {
        let (base, extra) = bucket_base(symbol);
        let entry = base << 16 | (extra + low) << 8 | u32::from(*length);
        let code = &mut next[usize::from(*length)];
        let start = (code.reverse_bits() >> (32 - u32::from(*length))) as usize;
        *code += 1;
        for slot in table[start..].iter_mut().step_by(1 << length) {
            *slot = entry;
        }
    }
    let mut outliers = Vec::new();
    if first & OUTLIERS != 0 {
        let count = cursor.bounded(len.min(MAX_COLUMN), "too many outliers")?;
        let mut position = 0;
        for _ in 0..count {
            position += cursor.bounded(len, "outlier outside the column")?;
            outliers.push((position as u32, cursor.varint()?));
        }
    }
    Ok(Head { centre, low, mask: size - 1, outliers })
}

/// Appends `len` residuals; the kind's byte has been read.
pub(super) fn decode(cursor: &mut Cursor<'_>, len: usize, out: &mut Vec<i64>) -> Result<(), CodecError> {
    let mut table = [0u32; TABLE];
    let head = take_head(cursor, len, &mut table)?;
    let bytes = cursor.rest();
    let (mask, low, centre) = (head.mask & (TABLE - 1), head.low, head.centre);
    let mut at = 0usize;
    let start = out.len();
    out.extend((0..len).map(|_| {
        let word = load_bits(bytes, at);
        let entry = table[word as usize & mask & (TABLE - 1)];
        let length = entry & 0xff;
        let extra = entry >> 8 & 0xff;
        at += (length + extra) as usize;
        let d = (u64::from(entry >> 16) << low) + (word >> length & ((1 << extra) - 1));
        at_distance(d, centre)
    }));
    for (position, d) in &head.outliers {
        if let Some(r) = out.get_mut(start + *position as usize) {
            *r = at_distance(*d, centre);
        }
    }
    cursor.take(at.div_ceil(8))?;
    Ok(())
}
