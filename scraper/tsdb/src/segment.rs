//! Sealed rows of a group's open window: a few dozen scrapes, column by column, in one allocation.
//!
//! A column that kept one value through all rows, the value it had before, is not in the segment at all: whoever reads
//! it carries the value over. So constant series cost nothing but in the first segment of a window. The coding is a
//! cheap one (decimal difference, bit-packed); blocks are encoded anew when the window closes.

use crate::codec::gcd;
use crate::decimal::{self, RAW};
use crate::row::{absent, is_absent};
use crate::wire::{Reader, put_f64, put_i64, put_u64, zigzag};

/// A directory entry for each so many stored columns.
const STRIDE: usize = 16;
const CONSTANT: u8 = 0x10;
const SOME_ABSENT: u8 = 0x20;
/// In a width: the number by which differences were divided follows.
const DIVIDED: u8 = 0x80;

pub struct Segment {
    rows: usize,
    /// One bit a column: whether it is in `data`.
    stored: Box<[u64]>,
    /// How many columns are stored before each word of `stored`.
    ranks: Box<[u32]>,
    /// Where each `STRIDE`th stored column begins.
    directory: Box<[u32]>,
    /// Per stored column its length and its code.
    data: Box<[u8]>,
}

impl Segment {
    /// Seals `matrix`, which holds `rows` values of each column, column after column. `before` holds each column's
    /// value before the first row ([`absent`] where it has none).
    pub fn seal(matrix: &[f64], rows: usize, before: &[f64], exps: &[u8]) -> Segment {
        let columns = matrix.len() / rows.max(1);
        let mut stored = vec![0u64; columns.div_ceil(64)];
        let (mut directory, mut data) = (Vec::new(), Vec::new());
        let (mut count, mut code) = (0usize, Vec::new());
        for (c, values) in matrix.chunks_exact(rows.max(1)).enumerate() {
            let carried = before.get(c).copied().unwrap_or(absent()).to_bits();
            if values.iter().all(|v| v.to_bits() == carried) {
                continue;
            }
            stored[c / 64] |= 1 << (c % 64);
            if count % STRIDE == 0 {
                directory.push(data.len() as u32);
            }
            count += 1;
            code.clear();
            encode(values, exps.get(c).copied().unwrap_or(0), &mut code);
            put_u64(&mut data, code.len() as u64);
            data.extend_from_slice(&code);
        }
        let mut ranks = Vec::with_capacity(stored.len());
        let mut rank = 0;
        for word in &stored {
            ranks.push(rank);
            rank += word.count_ones();
        }
        Segment { rows, stored: stored.into(), ranks: ranks.into(), directory: directory.into(), data: data.into() }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn heap_bytes(&self) -> usize {
        self.stored.len() * 12 + self.directory.len() * 4 + self.data.len()
    }

    /// Whether the column is stored here; otherwise it keeps the value it had before.
    pub fn stores(&self, column: u32) -> bool {
        let c = column as usize;
        self.stored.get(c / 64).is_some_and(|w| w >> (c % 64) & 1 == 1)
    }

    fn code(&self, column: u32) -> Option<&[u8]> {
        if !self.stores(column) {
            return None;
        }
        let (word, bit) = (column as usize / 64, column % 64);
        let below = self.stored.get(word)? & ((1u64 << bit) - 1);
        let rank = (self.ranks.get(word)? + below.count_ones()) as usize;
        let at = *self.directory.get(rank / STRIDE)? as usize;
        let mut r = Reader::new(self.data.get(at..)?);
        for _ in 0..rank % STRIDE {
            r.bytes()?;
        }
        r.bytes()
    }

    /// Appends the column's values (absent where a row has none) to `out`; `false` where it is not stored here.
    pub fn read(&self, column: u32, out: &mut Vec<f64>) -> bool {
        let Some(code) = self.code(column) else { return false };
        let at = out.len();
        if decode(code, self.rows, out).is_none() {
            // Segments never leave memory, so this is a bug and not bad input: show no wrong value.
            debug_assert!(false, "a segment's column does not decode");
            out.truncate(at);
            out.resize(at + self.rows, absent());
        }
        true
    }
}

fn encode(values: &[f64], exp: u8, out: &mut Vec<u8>) {
    let first = values[0].to_bits();
    if values.iter().all(|v| v.to_bits() == first) {
        match decimal::exponent(values[0], 0) {
            Some((e, m)) => {
                out.push(e | CONSTANT);
                put_i64(out, m);
            }
            None => {
                out.push(RAW | CONSTANT);
                put_f64(out, values[0]);
            }
        }
        return;
    }
    let mut present = [0.0; 256];
    let (mut n, mut bitmap) = (0, [0u8; 32]);
    for (i, v) in values.iter().enumerate() {
        if !is_absent(*v) {
            bitmap[i / 8] |= 1 << (i % 8);
            present[n] = *v;
            n += 1;
        }
    }
    let present = &present[..n];
    let flags = if n < values.len() { SOME_ABSENT } else { 0 };
    let mut mantissas = [0i64; 256];
    let exp = fit(present, exp, &mut mantissas);
    out.push(exp | flags);
    if flags != 0 {
        out.extend_from_slice(&bitmap[..values.len().div_ceil(8)]);
    }
    if exp == RAW {
        present.iter().for_each(|v| put_f64(out, *v));
        return;
    }
    let mantissas = &mantissas[..n];
    put_i64(out, mantissas[0]);
    let deltas = || mantissas.windows(2).map(|w| w[1] - w[0]);
    let (low, high) = (deltas().min().unwrap_or(0), deltas().max().unwrap_or(0));
    let divisor = divisor(deltas().map(|d| (d - low) as u64));
    let width = 64 - ((high - low) as u64 / divisor).leading_zeros();
    put_u64(out, zigzag(low));
    out.push(width as u8 | if divisor > 1 { DIVIDED } else { 0 });
    if divisor > 1 {
        put_u64(out, divisor);
    }
    let (mut acc, mut bits) = (0u128, 0);
    for d in deltas() {
        let d = (d - low) as u64;
        acc |= u128::from(if divisor > 1 { d / divisor } else { d }) << bits;
        bits += width;
        while bits >= 8 {
            out.push(acc as u8);
            acc >>= 8;
            bits -= 8;
        }
    }
    if bits > 0 {
        out.push(acc as u8);
    }
}

/// What all of them are multiples of; 1 unless that saves some bits. Most columns are seen not to have one after two or
/// three of them.
fn divisor(values: impl Iterator<Item = u64>) -> u64 {
    let mut divisor = 0u64;
    for v in values {
        if divisor == 0 {
            divisor = v;
        } else if !v.is_multiple_of(divisor) {
            divisor = gcd(v, divisor);
        }
        if (1..4).contains(&divisor) {
            return 1;
        }
    }
    divisor.max(1)
}

/// The smallest exponent from `hint` on under which all values are decimals, or [`RAW`].
fn fit(values: &[f64], hint: u8, mantissas: &mut [i64; 256]) -> u8 {
    let mut exp = hint;
    'exponents: while exp <= decimal::MAX_EXP {
        for (v, m) in values.iter().zip(mantissas.iter_mut()) {
            match decimal::mantissa(*v, exp) {
                Some(found) => *m = found,
                None => match decimal::exponent(*v, exp + 1) {
                    Some((e, _)) => {
                        exp = e;
                        continue 'exponents;
                    }
                    None => return RAW,
                },
            }
        }
        return exp;
    }
    RAW
}

fn decode(code: &[u8], rows: usize, out: &mut Vec<f64>) -> Option<()> {
    let mut r = Reader::new(code);
    let tag = r.u8()?;
    let exp = tag & 0x0f;
    if tag & CONSTANT != 0 {
        let v = if exp == RAW { r.f64()? } else { decimal::value(r.i64()?, exp) };
        out.resize(out.len() + rows, v);
        return Some(());
    }
    let bitmap = if tag & SOME_ABSENT != 0 { Some(r.take(rows.div_ceil(8))?) } else { None };
    let is_present = |i: usize| bitmap.is_none_or(|b| b[i / 8] >> (i % 8) & 1 == 1);
    if exp == RAW {
        for i in 0..rows {
            out.push(if is_present(i) { r.f64()? } else { absent() });
        }
        return Some(());
    }
    let mut m = r.i64()?;
    let (low, width) = (r.i64()?, r.u8()?);
    let divisor = if width & DIVIDED != 0 { r.u64()? } else { 1 };
    let width = u32::from(width & !DIVIDED);
    let mask = (1u128 << width) - 1;
    let (mut acc, mut bits, mut started) = (0u128, 0, false);
    for i in 0..rows {
        if !is_present(i) {
            out.push(absent());
            continue;
        }
        if started {
            while bits < width {
                acc |= u128::from(r.u8()?) << bits;
                bits += 8;
            }
            m = m.checked_add(low)?.checked_add(((acc & mask) as u64).wrapping_mul(divisor) as i64)?;
            acc >>= width;
            bits -= width;
        }
        started = true;
        out.push(decimal::value(m, exp));
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use narthex_model::stale_nan;

    #[test]
    fn columns_come_back_bit_for_bit() {
        let rows = 32;
        let columns: Vec<Vec<f64>> = vec![
            (0..rows).map(|i| i as f64 * 1.25).collect(),
            vec![7.5; rows],
            vec![absent(); rows],
            (0..rows).map(|i| if i < 10 { absent() } else { (i * i) as f64 }).collect(),
            (0..rows).map(|i| if i == 20 { stale_nan() } else { 1.0 / (i as f64 + 1.0) }).collect(),
            (0..rows).map(|i| if i > 20 { absent() } else { -0.001 * i as f64 }).collect(),
            (0..rows).map(|i| if i % 2 == 0 { 2e15 } else { -2e15 }).collect(),
            (0..rows).map(|i| (i * i % 7) as f64 * 4096.0).collect(),
            (0..rows).map(|i| if i == 3 { 8.25 } else { 0.25 }).collect(),
            (0..rows).map(|i| (i * 3) as f64 + if i > 9 { 2e15 } else { -2e15 }).collect(),
            (0..rows).map(|i| [0.0, -0.0, f64::INFINITY, 5e-324][i % 4]).collect(),
            vec![3.0; rows],
        ];
        let matrix: Vec<f64> = columns.iter().flatten().copied().collect();
        let mut before = vec![absent(); columns.len()];
        before[11] = 3.0;
        let segment = Segment::seal(&matrix, rows, &before, &[]);
        for (c, expected) in columns.iter().enumerate() {
            let mut got = Vec::new();
            let stored = segment.read(c as u32, &mut got);
            assert_eq!(stored, !matches!(c, 2 | 11), "column {c}");
            if stored {
                let bits = |v: &[f64]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&got), bits(expected), "column {c}");
            }
        }
        assert!(!segment.stores(12) && !segment.stores(900));
    }
}
