//! Floats as integers: decimal where that is exact, else their bits.
//!
//! `value = i / 10^e` is tested by doing it, so that it holds to the last bit. Division and not multiplication: `i / 10^e`
//! is the double nearest to the decimal number, which is what a parser of the printed number returned.

use std::mem::MaybeUninit;

use super::bits::{Cursor, put_varint};
use super::{CodecError, MAX_COLUMN};

pub(super) const POWERS: [f64; 16] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// Integers are below 2^51 in magnitude, so that rounding by [`ROUND`] is right and all arithmetic is exact.
const LIMIT: f64 = (1u64 << 51) as f64;

/// Adding and subtracting 1.5 * 2^52 rounds to an integer. Added to its bits, an integer is added to the number.
const ROUND: f64 = 6_755_399_441_055_744.0;

/// One in so many values may be an exception before another form is tried.
const EXCEPTIONS: usize = 50;

/// How the integers of a column become its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// `i / 10^e`
    Decimal(u8),
    /// The bits `i << shift`
    Bits(u8),
}

/// A value that its column's scale cannot express, at this index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exception {
    pub(super) at: u32,
    pub(super) bits: u64,
}

#[inline]
fn decimal(value: f64, power: f64) -> (i64, bool) {
    let scaled = value * power;
    let rounded = (scaled + ROUND) - ROUND;
    (rounded as i64, (rounded / power).to_bits() == value.to_bits() && scaled.abs() < LIMIT)
}

/// The mantissa and exponent of a value that is decimal with few digits.
pub(super) fn decimal_parts(value: f64) -> Option<(i64, u8)> {
    (0..POWERS.len()).find_map(|e| {
        let (i, exact) = decimal(value, POWERS[e]);
        exact.then_some((i, e as u8))
    })
}

/// Not a number with digits: these are exceptions in any scale and say nothing about it.
fn special(value: f64) -> bool {
    !value.is_finite() || value.to_bits() == 1 << 63
}

/// Fills `ints` with the column's integers and `exceptions` with what they cannot express; the integer of an exception
/// is that of the value before it.
pub(super) fn to_ints(values: &[f64], ints: &mut Vec<i64>, exceptions: &mut Vec<Exception>) -> Scale {
    exceptions.clear();
    if let Some(e) = decimal_scale(values, ints) {
        let power = POWERS[usize::from(e)];
        let mut last = None;
        for (at, value) in values.iter().enumerate() {
            if decimal(*value, power).1 {
                last = last.or(Some(at));
            } else {
                exceptions.push(Exception { at: at as u32, bits: value.to_bits() });
            }
        }
        // Exceptions before the first number take that number's integer.
        let mut fill = last.map_or(0, |first| ints[first]);
        let mut next = exceptions.iter().map(|e| e.at as usize).peekable();
        for (at, int) in ints.iter_mut().enumerate() {
            if next.next_if_eq(&at).is_some() {
                *int = fill;
            } else {
                fill = *int;
            }
        }
        return Scale::Decimal(e);
    }
    let all = values.iter().fold(0, |all, v| all | v.to_bits());
    let shift = all.trailing_zeros().min(63);
    ints.clear();
    ints.extend(values.iter().map(|v| (v.to_bits() >> shift) as i64));
    Scale::Bits(shift as u8)
}

/// The exponent with which nearly all values are decimal; `ints` then holds the integers (anything for the others).
fn decimal_scale(values: &[f64], ints: &mut Vec<i64>) -> Option<u8> {
    let step = (values.len() / 12).max(1);
    let mut e = 0;
    for value in values.iter().step_by(step).filter(|v| !special(**v)) {
        while !decimal(*value, POWERS[e]).1 {
            e += 1;
            if e == POWERS.len() {
                return None;
            }
        }
    }
    while e < POWERS.len() {
        let power = POWERS[e];
        ints.clear();
        let mut inexact = 0;
        ints.extend(values.iter().map(|value| {
            let (i, exact) = decimal(*value, power);
            inexact += usize::from(!exact);
            i
        }));
        if inexact == 0 {
            return Some(e as u8);
        }
        let specials = values.iter().filter(|v| special(**v)).count();
        if (inexact - specials.min(inexact)) * EXCEPTIONS <= values.len() {
            return Some(e as u8);
        }
        e += 1;
    }
    None
}

/// The greatest common divisor; of a number and 0 the number.
#[inline]
pub(crate) fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// The greatest common divisor of all steps between the integers; at least 1.
pub(super) fn common_divisor(ints: &[i64]) -> u64 {
    let mut divisor = 0u64;
    for pair in ints.windows(2) {
        let step = pair[1].wrapping_sub(pair[0]).unsigned_abs();
        if step == 0 || (divisor != 0 && step.is_multiple_of(divisor)) {
            continue;
        }
        divisor = gcd(step, divisor);
        if divisor == 1 {
            break;
        }
    }
    divisor.max(1)
}

/// What an integer is as a float, if its magnitude is at most [`LIMIT`], as that of all encoded ones is. There is no
/// instruction that converts several.
#[inline(always)]
fn to_float(i: i64) -> f64 {
    f64::from_bits((i as u64).wrapping_add(ROUND.to_bits())) - ROUND
}

/// Appends the decimals `i / 10^e`, each quotient rounded as a division rounds. What is beyond [`LIMIT`] may become
/// anything.
pub(super) fn append_decimals(ints: &[i64], e: u8, out: &mut Vec<f64>) {
    let before = out.len();
    out.reserve(ints.len());
    let places = &mut out.spare_capacity_mut()[..ints.len()];
    match POWERS[usize::from(e) & 15] {
        1.0 => put_integers(ints, places),
        power => put_quotients(ints, power, places),
    }
    // SAFETY: both functions write all places, of which there are as many as integers.
    unsafe { out.set_len(before + ints.len()) };
}

narthex_model::wide! {
    fn put_integers(ints: &[i64], places: &mut [MaybeUninit<f64>]) {
        for (place, i) in places.iter_mut().zip(ints) {
            place.write(to_float(*i));
        }
    }
}

fn put_quotients(ints: &[i64], power: f64, places: &mut [MaybeUninit<f64>]) {
    #[cfg(target_arch = "x86_64")]
    {
        // A division takes as long as four values' multiplications. The quotient by the reciprocal is off by two units in
        // the last place at most; one correction brings it within one, and then, by Markstein's theorem ("Computation of
        // elementary functions on the IBM RISC System/6000", 1990), the second gives the correctly rounded one, since
        // the reciprocal is correctly rounded and nothing overflows or is subnormal.
        #[target_feature(enable = "avx2,fma")]
        fn corrected(ints: &[i64], power: f64, places: &mut [MaybeUninit<f64>]) {
            let reciprocal = 1.0 / power;
            for (place, i) in places.iter_mut().zip(ints) {
                let v = to_float(*i);
                let near = v * reciprocal;
                let nearer = (-near).mul_add(power, v).mul_add(reciprocal, near);
                place.write((-nearer).mul_add(power, v).mul_add(reciprocal, nearer));
            }
        }
        if narthex_model::wide::is_wide() {
            // SAFETY: the processor was asked, it has both features.
            return unsafe { corrected(ints, power, places) };
        }
    }
    for (place, i) in places.iter_mut().zip(ints) {
        place.write(to_float(*i) / power);
    }
}

/// Appends the floats of the bits `i << shift`.
pub(super) fn append_bits(ints: &[i64], shift: u8, out: &mut Vec<f64>) {
    out.extend(ints.iter().map(|i| f64::from_bits((*i as u64) << (shift & 63))));
}

/// The bit patterns that have a code of their own in exception lists; code 7 is followed by the bits.
const KNOWN: [u64; 7] = [
    narthex_model::STALE_NAN_BITS,
    0x7ff8_0000_0000_0001, // Go's NaN
    0x7ff8_0000_0000_0000, // Rust's and C's
    0x7ff0_0000_0000_0000, // +Inf
    0xfff0_0000_0000_0000, // -Inf
    0x8000_0000_0000_0000, // -0
    0xfff8_0000_0000_0000, // the NaN of x86
];
const OTHER: u64 = 7;

/// Exceptions as runs of consecutive equal bits: how many runs, then for each the gap to the end of the run before,
/// its length - 1 and code, and the bits when the code does not say them.
pub(super) fn put_exceptions(exceptions: &[Exception], out: &mut Vec<u8>) {
    let runs = || exceptions.chunk_by(|a, b| a.at + 1 == b.at && a.bits == b.bits);
    put_varint(out, runs().count() as u64);
    let mut end = 0;
    for run in runs() {
        let code = KNOWN.iter().position(|bits| *bits == run[0].bits).map_or(OTHER, |code| code as u64);
        put_varint(out, u64::from(run[0].at - end));
        put_varint(out, (run.len() as u64 - 1) << 3 | code);
        if code == OTHER {
            out.extend_from_slice(&run[0].bits.to_le_bytes());
        }
        end = run[0].at + run.len() as u32;
    }
}

/// A run of exceptions as it is read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ExceptionRun {
    pub(super) start: usize,
    pub(super) len: usize,
    pub(super) bits: u64,
}

/// The runs of exceptions of a column of `len` values.
pub(super) fn take_exceptions(cursor: &mut Cursor<'_>, len: usize) -> Result<Vec<ExceptionRun>, CodecError> {
    let count = cursor.bounded(len, "too many exceptions")?;
    let mut runs = Vec::with_capacity(count);
    let mut end = 0;
    for _ in 0..count {
        let start = end + cursor.bounded(len - end, "exception outside the column")?;
        let head = cursor.bounded(MAX_COLUMN << 3, "exception run too long")?;
        let (run, code) = ((head >> 3) + 1, head & 7);
        if run > len - start {
            return Err(CodecError::Corrupt("exception outside the column"));
        }
        let bits = match KNOWN.get(code) {
            Some(bits) => *bits,
            None => cursor.u64_le()?,
        };
        end = start + run;
        runs.push(ExceptionRun { start, len: run, bits });
    }
    Ok(runs)
}
