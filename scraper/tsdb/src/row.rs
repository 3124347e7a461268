//! One scrape as bytes: which values differ from the group's previous scrape, and by how much.
//!
//! A row is a bitmap over the columns of its layout, then one code per set bit. A code is a varint: even, twice the
//! zigzag difference of the decimal mantissas; odd, an escape, `e << 1 | 1`, followed by the whole mantissa under the
//! new exponent `e`, or by eight raw bytes where `e` is [`RAW`]. The same bytes are the log record and the head's
//! open rows. Encoder and decoder carry the same [`RowState`]; a key row starts from an empty one.

use std::sync::Arc;

use crate::decimal::{self, RAW};
use crate::wire::{Reader, put_f64, put_i64, put_u64, zigzag};

/// The bits that mean "no sample here" in a column. A sample of these very bits is stored with a timestamp of its
/// own instead, so that every f64 survives.
pub const ABSENT_BITS: u64 = 0x7ff4_6e74_7821_0b5e;

#[inline]
pub fn absent() -> f64 {
    f64::from_bits(ABSENT_BITS)
}

#[inline]
pub fn is_absent(v: f64) -> bool {
    v.to_bits() == ABSENT_BITS
}

/// The columns of a row, in page order.
pub type Layout = [u32];

/// The last value of each column (absent where the last row had none) and the exponent it was last coded with.
#[derive(Clone, Debug, Default)]
pub struct RowState {
    pub last: Vec<f64>,
    pub exp: Vec<u8>,
}

impl RowState {
    pub fn resize(&mut self, columns: usize) {
        if self.last.len() < columns {
            self.last.resize(columns, absent());
            self.exp.resize(columns, 0);
        }
    }

    /// Forgets all values, keeping nothing that a decoder would not know.
    pub fn reset(&mut self) {
        self.last.fill(absent());
        self.exp.fill(0);
    }

    /// Columns that `next` no longer has become absent.
    pub fn relayout(&mut self, previous: &[Arc<Layout>], next: &Layout) {
        let mut kept = vec![0u64; self.last.len().div_ceil(64)];
        for c in next {
            if let Some(word) = kept.get_mut(*c as usize / 64) {
                *word |= 1 << (c % 64);
            }
        }
        for c in previous.iter().flat_map(|l| l.iter()) {
            let c = *c as usize;
            if kept.get(c / 64).is_some_and(|w| w >> (c % 64) & 1 == 0) {
                self.last[c] = absent();
            }
        }
    }

    pub fn heap_bytes(&self) -> usize {
        self.last.capacity() * 8 + self.exp.capacity()
    }
}

/// Appends the row to `out`. Every column of `layout` is below the state's size; no value is [`absent`].
pub fn encode(layout: &Layout, values: &[f64], state: &mut RowState, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + layout.len().div_ceil(8), 0);
    for (i, (c, v)) in layout.iter().zip(values).enumerate() {
        let c = *c as usize;
        let last = state.last[c];
        if v.to_bits() != last.to_bits() {
            out[start + i / 8] |= 1 << (i % 8);
            encode_value(*v, last, &mut state.exp[c], out);
            state.last[c] = *v;
        }
    }
}

#[inline]
fn encode_value(v: f64, last: f64, exp: &mut u8, out: &mut Vec<u8>) {
    if let (Some(m), Some(before)) = (decimal::mantissa(v, *exp), decimal::mantissa(last, *exp)) {
        put_u64(out, zigzag(m - before) << 1);
    } else {
        escape(v, exp, out);
    }
}

#[inline(never)]
fn escape(v: f64, exp: &mut u8, out: &mut Vec<u8>) {
    match decimal::exponent(v, 0) {
        Some((e, m)) => {
            put_u64(out, u64::from(e) << 1 | 1);
            put_i64(out, m);
            *exp = e;
        }
        None => {
            put_u64(out, u64::from(RAW) << 1 | 1);
            put_f64(out, v);
        }
    }
}

/// Decodes a row into the state. `None` where the bytes are no row of this layout; the state is then unusable.
pub fn decode(layout: &Layout, bytes: &[u8], state: &mut RowState) -> Option<()> {
    let (bitmap, codes) = bytes.split_at_checked(layout.len().div_ceil(8))?;
    let mut codes = Reader::new(codes);
    for (block, cols) in bitmap.iter().zip(layout.chunks(8)) {
        let mut bits = *block;
        while bits != 0 {
            let c = *cols.get(bits.trailing_zeros() as usize)? as usize;
            bits &= bits - 1;
            let last = state.last.get_mut(c)?;
            let exp = state.exp.get_mut(c)?;
            let code = codes.u64()?;
            if code & 1 == 0 {
                let before = decimal::mantissa(*last, *exp)?;
                *last = decimal::value(before.checked_add(crate::wire::unzigzag(code >> 1))?, *exp);
            } else if code >> 1 == u64::from(RAW) {
                *last = codes.f64()?;
            } else {
                let e = u8::try_from(code >> 1).ok().filter(|e| *e <= decimal::MAX_EXP)?;
                *last = decimal::value(codes.i64()?, e);
                *exp = e;
            }
        }
    }
    codes.is_empty().then_some(())
}

/// A layout as runs of consecutive columns.
pub fn put_layout(layout: &Layout, out: &mut Vec<u8>) {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for c in layout {
        match runs.last_mut() {
            Some((first, n)) if *first + *n == *c => *n += 1,
            _ => runs.push((*c, 1)),
        }
    }
    put_u64(out, runs.len() as u64);
    let mut expected = 0i64;
    for (first, n) in runs {
        put_i64(out, i64::from(first) - expected);
        put_u64(out, u64::from(n));
        expected = i64::from(first) + i64::from(n);
    }
}

/// Reads what [`put_layout`] wrote; every column is below `columns`.
pub fn get_layout(r: &mut Reader<'_>, columns: usize) -> Option<Vec<u32>> {
    let runs = r.count()?;
    let (mut layout, mut expected) = (Vec::new(), 0i64);
    for _ in 0..runs {
        let first = expected.checked_add(r.i64()?)?;
        let end = first.checked_add(i64::from(r.u32()?))?;
        if first < 0 || end > columns as i64 || layout.len() as i64 + (end - first) > columns as i64 {
            return None;
        }
        layout.extend(first as u32..end as u32);
        expected = end;
    }
    Some(layout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use narthex_model::stale_nan;

    fn check(rows: &[Vec<f64>]) {
        let n = rows[0].len();
        let layout: Vec<u32> = (0..n as u32).rev().collect();
        let (mut a, mut b) = (RowState::default(), RowState::default());
        a.resize(n);
        b.resize(n);
        for row in rows {
            let mut out = Vec::new();
            encode(&layout, row, &mut a, &mut out);
            assert_eq!(decode(&layout, &out, &mut b), Some(()));
            let got: Vec<u64> = layout.iter().map(|c| b.last[*c as usize].to_bits()).collect();
            assert_eq!(got, row.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
            for cut in 0..out.len() {
                assert_eq!(decode(&layout, &out[..cut], &mut b.clone()), None, "cut at {cut}");
            }
        }
    }

    #[test]
    fn rows_come_back_bit_for_bit() {
        let odd = [0.0, -0.0, 1.5, f64::NAN, f64::INFINITY, stale_nan(), 5e-324, 1.0 / 3.0, 1e300, 123.456, 2e15];
        let rows: Vec<Vec<f64>> =
            (0..odd.len() * 3).map(|r| (0..40).map(|c| odd[(r * (c % 5) + c) % odd.len()]).collect()).collect();
        check(&rows);
        check(&(0..20).map(|r| (0..9).map(|c| f64::from(r * c) / 8.0).collect()).collect::<Vec<_>>());
    }

    #[test]
    fn layouts_come_back() {
        for layout in [vec![], vec![0], vec![5, 6, 7, 1, 0, 9, 8], (0..1000).collect::<Vec<u32>>()] {
            let mut out = Vec::new();
            put_layout(&layout, &mut out);
            assert_eq!(get_layout(&mut Reader::new(&out), 1000).as_ref(), Some(&layout));
            if layout.len() > 1 {
                assert_eq!(get_layout(&mut Reader::new(&out), layout.len() - 1), None);
            }
        }
    }
}
