//! Floats as decimal integers `m / 10^e`, where that gives the very same bits: most values on a metrics page have few
//! digits, and the differences of their integers are small.
//!
//! Everything here is plain IEEE arithmetic, so that a log written by one machine reads the same on another.

/// The exponent that stands for "not a decimal": the bits as they are.
pub const RAW: u8 = 15;
/// The largest decimal exponent.
pub const MAX_EXP: u8 = 12;

const POW10: [f64; 13] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12];
/// Adding and subtracting 1.5 * 2^52 rounds to an integer, for magnitudes below 2^51.
const ROUND: f64 = 6_755_399_441_055_744.0;
const LIMIT: f64 = 2_251_799_813_685_248.0;

/// 10^e, of the largest exponent where `e` is out of range.
#[inline]
fn pow10(e: u8) -> f64 {
    POW10[(e as usize).min(MAX_EXP as usize)]
}

/// The integer `m` with `m / 10^e == v` bit for bit, if there is one below 2^51.
#[inline]
pub fn mantissa(v: f64, e: u8) -> Option<i64> {
    let scale = pow10(e);
    let scaled = v * scale;
    let rounded = (scaled + ROUND) - ROUND;
    (scaled.abs() < LIMIT && (rounded / scale).to_bits() == v.to_bits()).then_some(rounded as i64)
}

/// The value of a mantissa.
#[inline]
pub fn value(m: i64, e: u8) -> f64 {
    m as f64 / pow10(e)
}

/// The smallest exponent from `from` on under which `v` is a decimal, and its mantissa.
pub fn exponent(v: f64, from: u8) -> Option<(u8, i64)> {
    if !v.is_finite() {
        return None;
    }
    (from..=MAX_EXP).find_map(|e| Some((e, mantissa(v, e)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_or_nothing() {
        for (v, expected) in [
            (0.0, Some((0, 0))),
            (-0.0, None),
            (1.5, Some((1, 15))),
            (-12.345, Some((3, -12345))),
            (1e15, Some((0, 1_000_000_000_000_000))),
            (1e16, None),
            (1.0 / 3.0, None),
            (f64::NAN, None),
            (f64::INFINITY, None),
            (5e-324, None),
        ] {
            assert_eq!(exponent(v, 0), expected, "{v}");
            if let Some((e, m)) = expected {
                assert_eq!(value(m, e).to_bits(), v.to_bits());
            }
        }
    }
}
