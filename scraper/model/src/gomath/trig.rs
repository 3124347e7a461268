//! Sine, cosine, tangent and their inverses (Cephes), with Payne and Hanek's reduction of large arguments.

use std::f64::consts::{FRAC_PI_2, FRAC_PI_4, PI};

/// π/4 in three parts.
const PI4A: f64 = 7.85398125648498535156e-1;
const PI4B: f64 = 3.77489470793079817668e-8;
const PI4C: f64 = 2.69515142907905952645e-15;

const SIN: [f64; 6] = [
    1.58962301576546568060e-10,
    -2.50507477628578072866e-8,
    2.75573136213857245213e-6,
    -1.98412698295895385996e-4,
    8.33333333332211858878e-3,
    -1.66666666666666307295e-1,
];
const COS: [f64; 6] = [
    -1.13585365213876817300e-11,
    2.08757008419747316778e-9,
    -2.75573141792967388112e-7,
    2.48015872888517045348e-5,
    -1.38888888888730564116e-3,
    4.16666666666665929218e-2,
];

/// The octant of an argument from 0 on, odd ones rounded up, and what is left of it.
fn reduce(x: f64) -> (u64, f64) {
    if x >= (1u64 << 29) as f64 {
        return reduce_large(x);
    }
    let mut octant = (x * (4.0 / PI)) as u64;
    octant += octant & 1;
    let y = octant as f64;
    (octant & 7, ((x - y * PI4A) - y * PI4B) - y * PI4C)
}

/// The binary digits of 4/π.
const FOUR_BY_PI: [u64; 20] = [
    0x0000000000000001,
    0x45f306dc9c882a53,
    0xf84eafa3ea69bb81,
    0xb6c52b3278872083,
    0xfca2c757bd778ac3,
    0x6e48dc74849ba5c0,
    0x0c925dd413a32439,
    0xfc3bd63962534e7d,
    0xd1046bea5d768909,
    0xd338e04d68befc82,
    0x7323ac7306a673e9,
    0x3908bf177bf25076,
    0x3ff12fffbc0b301f,
    0xde5e2316b414da3e,
    0xda6cfd9e4f96136e,
    0x9e8c7ecd3cbfd45a,
    0xea4f758fd7cbe2f6,
    0x7a0e73ef14a525d4,
    0xd7f6bf623f1aba10,
    0xac06608df8f6d757,
];

/// [`reduce`] for arguments from 2^29 on: multiplies by those digits of 4/π that matter.
fn reduce_large(x: f64) -> (u64, f64) {
    let bits = x.to_bits();
    let exponent = ((bits >> 52) & 0x7ff) as i64 - 1023 - 52;
    let mantissa = bits & ((1 << 52) - 1) | 1 << 52;
    let (digit, shift) = ((exponent + 61) as usize / 64, (exponent + 61) as u32 % 64);
    // By 64 places Go shifts everything out.
    let digits = |i: usize| {
        let at = |i: usize| FOUR_BY_PI.get(i).copied().unwrap_or(0);
        (at(digit + i) << shift) | at(digit + i + 1).checked_shr(64 - shift).unwrap_or(0)
    };
    let wide = |a: u64| u128::from(a) * u128::from(mantissa);
    // The upper two of three words.
    let upper = u128::from(digits(0).wrapping_mul(mantissa)) << 64;
    let low = (wide(digits(2)) >> 64).wrapping_add(wide(digits(1))).wrapping_add(upper);
    let (hi, lo) = ((low >> 64) as u64, low as u64);
    let mut octant = hi >> 61;
    let hi = hi << 3 | lo >> 61;
    let zeros = hi.leading_zeros();
    let fraction = hi.checked_shl(zeros + 1).unwrap_or(0) | lo.checked_shr(64 - (zeros + 1)).unwrap_or(0);
    let mut z = f64::from_bits(fraction >> 12 | u64::from(1023 - (zeros + 1)) << 52);
    if octant & 1 == 1 {
        octant = (octant + 1) & 7;
        z -= 1.0;
    }
    (octant, z * FRAC_PI_4)
}

fn sine_part(z: f64, zz: f64) -> f64 {
    z + z * zz * ((((((SIN[0] * zz) + SIN[1]) * zz + SIN[2]) * zz + SIN[3]) * zz + SIN[4]) * zz + SIN[5])
}

fn cosine_part(zz: f64) -> f64 {
    1.0 - 0.5 * zz + zz * zz * ((((((COS[0] * zz) + COS[1]) * zz + COS[2]) * zz + COS[3]) * zz + COS[4]) * zz + COS[5])
}

/// The sine.
pub fn sin(x: f64) -> f64 {
    if x == 0.0 || x.is_nan() {
        return x;
    }
    if x.is_infinite() {
        return f64::NAN;
    }
    let (mut octant, z) = reduce(x.abs());
    let mut negative = x < 0.0;
    if octant > 3 {
        negative = !negative;
        octant -= 4;
    }
    let zz = z * z;
    let y = if octant == 1 || octant == 2 { cosine_part(zz) } else { sine_part(z, zz) };
    if negative { -y } else { y }
}

/// The cosine.
pub fn cos(x: f64) -> f64 {
    if !x.is_finite() {
        return f64::NAN;
    }
    let (mut octant, z) = reduce(x.abs());
    let mut negative = false;
    if octant > 3 {
        octant -= 4;
        negative = !negative;
    }
    if octant > 1 {
        negative = !negative;
    }
    let zz = z * z;
    let y = if octant == 1 || octant == 2 { sine_part(z, zz) } else { cosine_part(zz) };
    if negative { -y } else { y }
}

/// The tangent.
pub fn tan(x: f64) -> f64 {
    const P: [f64; 3] = [-1.30936939181383777646e4, 1.15351664838587416140e6, -1.79565251976484877988e7];
    const Q: [f64; 4] =
        [1.36812963470692954678e4, -1.32089234440210967447e6, 2.50083801823357915839e7, -5.38695755929454629881e7];
    if x == 0.0 || x.is_nan() {
        return x;
    }
    if x.is_infinite() {
        return f64::NAN;
    }
    let (octant, z) = reduce(x.abs());
    let zz = z * z;
    let mut y = z;
    if zz > 1e-14 {
        let top = zz * (((P[0] * zz) + P[1]) * zz + P[2]);
        y = z + z * (top / ((((zz + Q[0]) * zz + Q[1]) * zz + Q[2]) * zz + Q[3]));
    }
    if octant & 2 == 2 {
        y = -1.0 / y;
    }
    if x < 0.0 { -y } else { y }
}

/// The arc tangent of an argument from 0 to 0.66.
fn atan_near(x: f64) -> f64 {
    const P: [f64; 5] = [
        -8.750608600031904122785e-01,
        -1.615753718733365076637e+01,
        -7.500855792314704667340e+01,
        -1.228866684490136173410e+02,
        -6.485021904942025371773e+01,
    ];
    const Q: [f64; 5] = [
        2.485846490142306297962e+01,
        1.650270098316988542046e+02,
        4.328810604912902668951e+02,
        4.853903996359136964868e+02,
        1.945506571482613964425e+02,
    ];
    let z = x * x;
    let z = z * ((((P[0] * z + P[1]) * z + P[2]) * z + P[3]) * z + P[4])
        / (((((z + Q[0]) * z + Q[1]) * z + Q[2]) * z + Q[3]) * z + Q[4]);
    x * z + x
}

/// The arc tangent of an argument above 0.
fn atan_positive(x: f64) -> f64 {
    const MORE_BITS: f64 = 6.123233995736765886130e-17;
    if x <= 0.66 {
        return atan_near(x);
    }
    if x > 2.41421356237309504880 {
        return FRAC_PI_2 - atan_near(1.0 / x) + MORE_BITS;
    }
    FRAC_PI_4 + atan_near((x - 1.0) / (x + 1.0)) + 0.5 * MORE_BITS
}

/// The arc tangent.
pub fn atan(x: f64) -> f64 {
    if x == 0.0 {
        return x;
    }
    if x > 0.0 { atan_positive(x) } else { -atan_positive(-x) }
}

/// The arc sine.
pub fn asin(x: f64) -> f64 {
    if x == 0.0 {
        return x;
    }
    let negative = x < 0.0;
    let x = if negative { -x } else { x };
    if x > 1.0 {
        return f64::NAN;
    }
    let rest = (1.0 - x * x).sqrt();
    let y = if x > 0.7 { FRAC_PI_2 - atan_positive(rest / x) } else { atan_positive(x / rest) };
    if negative { -y } else { y }
}

/// The arc cosine.
pub fn acos(x: f64) -> f64 {
    FRAC_PI_2 - asin(x)
}

/// The angle of the point (x, y).
pub fn atan2(y: f64, x: f64) -> f64 {
    if y.is_nan() || x.is_nan() {
        return f64::NAN;
    }
    // The platform's answers to zeros and infinities are exact, and Go's.
    if y == 0.0 || x == 0.0 || y.is_infinite() || x.is_infinite() {
        return y.atan2(x);
    }
    let q = atan(y / x);
    if x < 0.0 {
        return if q <= 0.0 { q + PI } else { q - PI };
    }
    q
}
