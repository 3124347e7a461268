//! Elementary functions to the last bit as Go's `math` package gives them on amd64, for PromQL's answers to be
//! Prometheus's. The platform's own library rounds otherwise in some percent of cases, which shows in printed results,
//! in labels of `count_values`, and wherever differences of large numbers are taken.
//!
//! The algorithms are the published ones that Go uses: FreeBSD's msun (Sun Microsystems 1993: `e_log.c`, `s_log1p.c`,
//! `e_exp.c`, `s_asinh.c`, `e_acosh.c`, `e_atanh.c`), Cephes (Moshier: sine, cosine, tangent, arc tangent, hyperbolic
//! tangent), Hart & Cheney #2029 (hyperbolic sine), N. Shibata's SLEEF (exponential; with fused multiply-add where the
//! processor has it, as Go's assembly), Payne and Hanek's reduction (Ng et al. 1992), and powers by repeated squaring.
//! The order of operations is part of them. Kept, too, is that Go's logarithm on amd64 takes subnormal numbers for
//! normal ones.
//!
//! Absent: what Go computes exactly (square roots, remainders, rounding), which needs no copy.

// Constants are written as their sources write them.
#![allow(clippy::excessive_precision, clippy::unreadable_literal)]

mod trig;

use std::f64::consts::{LN_2, LOG2_E, LOG10_E};

pub use trig::{acos, asin, atan, atan2, cos, sin, tan};

const LN2_HI: f64 = 6.93147180369123816490e-01;
const LN2_LO: f64 = 1.90821492927058770002e-10;

/// Coefficients of `log` and `log1p`.
const L: [f64; 7] = [
    6.666666666666735130e-01,
    3.999999999940941908e-01,
    2.857142874366239149e-01,
    2.222219843214978396e-01,
    1.818357216161805012e-01,
    1.531383769920937332e-01,
    1.479819860511658591e-01,
];

const MANTISSA: u64 = 0x000f_ffff_ffff_ffff;

/// A fraction in [0.5, 1) and an exponent; zeros, infinities and NaN with exponent 0.
fn frexp(x: f64) -> (f64, i32) {
    if x == 0.0 || !x.is_finite() {
        return (x, 0);
    }
    let (x, shift) = normalize(x);
    let bits = x.to_bits();
    let exponent = ((bits >> 52) & 0x7ff) as i32 - 1022 + shift;
    (f64::from_bits(bits & !(0x7ff << 52) | 1022 << 52), exponent)
}

fn normalize(x: f64) -> (f64, i32) {
    if x.abs() < f64::MIN_POSITIVE { (x * (1u64 << 52) as f64, -52) } else { (x, 0) }
}

/// `fraction` times 2 to the power of `exponent`, rounded once.
#[inline]
pub fn ldexp(fraction: f64, exponent: i64) -> f64 {
    if fraction == 0.0 || !fraction.is_finite() {
        return fraction;
    }
    let (fraction, shift) = normalize(fraction);
    let bits = fraction.to_bits();
    let mut exponent = exponent.saturating_add(i64::from(shift) + ((bits >> 52) & 0x7ff) as i64 - 1023);
    if exponent < -1075 {
        return 0f64.copysign(fraction);
    }
    if exponent > 1023 {
        return f64::INFINITY.copysign(fraction);
    }
    let mut factor = 1.0;
    if exponent < -1022 {
        exponent += 53;
        factor = 1.0 / (1u64 << 53) as f64;
    }
    factor * f64::from_bits(bits & !(0x7ff << 52) | ((exponent + 1023) as u64) << 52)
}

/// A float to an integer as Go's conversion on amd64: toward zero; what does not fit, NaN included, is `i64::MIN`.
#[inline]
pub fn to_i64(v: f64) -> i64 {
    if v >= i64::MIN as f64 && v < i64::MAX as f64 { v as i64 } else { i64::MIN }
}

/// e to the power of x.
pub fn exp(x: f64) -> f64 {
    if x.is_nan() || x == f64::INFINITY {
        return x;
    }
    if x > 7.09782712893384e+02 {
        return f64::INFINITY;
    }
    // Where the product is no 32-bit integer, the processor's conversion gives the least one; so does that of -Inf.
    let k = (LOG2_E * x).round_ties_even();
    if k < -2_000.0 {
        return 0.0;
    }
    scale_exp(exp_fraction(x, k), k as i64)
}

/// What is left of e^x when 2^k is taken out.
fn exp_fraction(x: f64, k: f64) -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: the processor has what the function is compiled for, as was asked the line before.
            return unsafe { exp_fraction_fused(x, k) };
        }
        exp_fraction_plain(x, k)
    }
    #[cfg(not(target_arch = "x86_64"))]
    exp_fraction_plain(x, k)
}

/// ln 2 in two parts.
const LN2_UPPER: f64 = 0.69314718055966295651160180568695068359375;
const LN2_LOWER: f64 = 0.28235290563031577122588448175013436025525412068e-12;

/// 1/8!, 1/7!, ... 1/3!, 1/2, 1.
const TAYLOR: [f64; 8] = [
    2.4801587301587301587e-5,
    1.9841269841269841270e-4,
    1.3888888888888888889e-3,
    8.3333333333333333333e-3,
    4.1666666666666666667e-2,
    1.6666666666666666667e-1,
    0.5,
    1.0,
];

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx,fma")]
fn exp_fraction_fused(x: f64, k: f64) -> f64 {
    let x = (-k).mul_add(LN2_UPPER, x);
    let x = (-k).mul_add(LN2_LOWER, x) * 0.0625;
    let mut p = TAYLOR[0];
    for c in &TAYLOR[1..] {
        p = x.mul_add(p, *c);
    }
    let mut y = x * p;
    for _ in 0..3 {
        y *= y + 2.0;
    }
    (y + 2.0).mul_add(y, 1.0)
}

fn exp_fraction_plain(x: f64, k: f64) -> f64 {
    let x = (x - LN2_UPPER * k - LN2_LOWER * k) * 0.0625;
    let mut p = TAYLOR[0];
    for c in &TAYLOR[1..] {
        p = p * x + c;
    }
    let mut y = x * p;
    for _ in 0..4 {
        y *= y + 2.0;
    }
    y + 1.0
}

/// `fraction` times 2^k.
fn scale_exp(fraction: f64, k: i64) -> f64 {
    let power = |biased: i64| f64::from_bits((biased as u64) << 52);
    let biased = k + 0x3ff;
    if biased <= 0 {
        if biased < -52 {
            return 0.0;
        }
        return fraction * power(biased + 0x3fe) * power(1);
    }
    if biased >= 0x7ff { f64::INFINITY } else { fraction * power(biased) }
}

/// 2 to the power of x.
pub fn exp2(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x > 1.0239999999999999e+03 {
        return f64::INFINITY;
    }
    if x < -1.0740e+03 {
        return 0.0;
    }
    let k = if x > 0.0 { (x + 0.5).trunc() } else { (x - 0.5).trunc() };
    let k = if x == 0.0 { 0.0 } else { k };
    let t = x - k;
    let (hi, lo) = (t * LN2_HI, -t * LN2_LO);
    const P: [f64; 5] = [
        1.66666666666666657415e-01,
        -2.77777777770155933842e-03,
        6.61375632143793436117e-05,
        -1.65339022054652515390e-06,
        4.13813679705723846039e-08,
    ];
    let r = hi - lo;
    let t = r * r;
    let c = r - t * (P[0] + t * (P[1] + t * (P[2] + t * (P[3] + t * P[4]))));
    let y = 1.0 - ((lo - (r * c) / (2.0 - c)) - hi);
    ldexp(y, k as i64)
}

/// The natural logarithm.
pub fn log(x: f64) -> f64 {
    if x == 0.0 {
        return f64::NEG_INFINITY;
    }
    if x.is_sign_negative() {
        return f64::NAN;
    }
    if !x.is_finite() {
        return x;
    }
    let bits = x.to_bits();
    let mut fraction = f64::from_bits(bits & MANTISSA | 0.5f64.to_bits());
    let mut k = ((bits >> 52) as i64 - 0x3fe) as f64;
    if fraction <= std::f64::consts::FRAC_1_SQRT_2 {
        k -= 1.0;
        fraction *= 2.0;
    }
    let f = fraction - 1.0;
    let s = f / (2.0 + f);
    let s2 = s * s;
    let s4 = s2 * s2;
    let t1 = s2 * (L[0] + s4 * (L[2] + s4 * (L[4] + s4 * L[6])));
    let t2 = s4 * (L[1] + s4 * (L[3] + s4 * L[5]));
    let r = t1 + t2;
    let half = 0.5 * f * f;
    k * LN2_HI - ((half - (s * (half + r) + k * LN2_LO)) - f)
}

/// The logarithm to base 10.
pub fn log10(x: f64) -> f64 {
    log(x) * LOG10_E
}

/// The logarithm to base 2; exact for powers of two.
pub fn log2(x: f64) -> f64 {
    let (fraction, exponent) = frexp(x);
    if fraction == 0.5 {
        return f64::from(exponent - 1);
    }
    log(fraction) * LOG2_E + f64::from(exponent)
}

/// The natural logarithm of 1 + x.
fn log1p(x: f64) -> f64 {
    if x < -1.0 || x.is_nan() {
        return f64::NAN;
    }
    if x == -1.0 {
        return f64::NEG_INFINITY;
    }
    if x == f64::INFINITY {
        return x;
    }
    let (mut f, mut c, mut k) = (0.0, 0.0, 1i64);
    let mut mantissa = 0u64;
    if x.abs() < 4.142135623730950488017e-01 {
        if x.abs() < 1.0 / (1u64 << 29) as f64 {
            return if x.abs() < 1.0 / (1u64 << 54) as f64 { x } else { x - x * x * 0.5 };
        }
        if x > -2.928932188134524755992e-01 {
            (k, f, mantissa) = (0, x, 1);
        }
    }
    if k != 0 {
        let u = if x.abs() < (1u64 << 53) as f64 {
            let u = 1.0 + x;
            k = (u.to_bits() >> 52) as i64 - 1023;
            c = if k > 0 { 1.0 - (u - x) } else { x - (u - 1.0) } / u;
            u
        } else {
            k = (x.to_bits() >> 52) as i64 - 1023;
            x
        };
        mantissa = u.to_bits() & MANTISSA;
        let u = if mantissa < 0x0006_a09e_667f_3bcd {
            f64::from_bits(mantissa | 0x3ff0_0000_0000_0000)
        } else {
            k += 1;
            let u = f64::from_bits(mantissa | 0x3fe0_0000_0000_0000);
            mantissa = (0x0010_0000_0000_0000 - mantissa) >> 2;
            u
        };
        f = u - 1.0;
    }
    let half = 0.5 * f * f;
    let power = k as f64;
    if mantissa == 0 {
        if f == 0.0 {
            return if k == 0 { 0.0 } else { power * LN2_HI + (c + power * LN2_LO) };
        }
        let r = half * (1.0 - 0.66666666666666666 * f);
        return if k == 0 { f - r } else { power * LN2_HI - ((r - (power * LN2_LO + c)) - f) };
    }
    let s = f / (2.0 + f);
    let z = s * s;
    let r = z * (L[0] + z * (L[1] + z * (L[2] + z * (L[3] + z * (L[4] + z * (L[5] + z * L[6]))))));
    if k == 0 {
        f - (half - s * (half + r))
    } else {
        power * LN2_HI - ((half - (s * (half + r) + (power * LN2_LO + c))) - f)
    }
}

fn is_odd_integer(x: f64) -> bool {
    x.abs() < (1u64 << 53) as f64 && x.trunc() == x && x as i64 & 1 == 1
}

/// x to the power of y.
pub fn pow(x: f64, y: f64) -> f64 {
    if y == 0.0 || x == 1.0 {
        return 1.0;
    }
    if y == 1.0 {
        return x;
    }
    if x.is_nan() || y.is_nan() {
        return f64::NAN;
    }
    if x == 0.0 {
        let odd = x.is_sign_negative() && is_odd_integer(y);
        return match (y < 0.0, odd) {
            (true, true) => f64::NEG_INFINITY,
            (true, false) => f64::INFINITY,
            (false, true) => x,
            (false, false) => 0.0,
        };
    }
    let zero_or_infinite = |zero: bool| if zero { 0.0 } else { f64::INFINITY };
    if y.is_infinite() {
        return if x == -1.0 { 1.0 } else { zero_or_infinite((x.abs() < 1.0) == (y > 0.0)) };
    }
    if x.is_infinite() {
        return if x < 0.0 { pow(1.0 / x, -y) } else { zero_or_infinite(y < 0.0) };
    }
    if y == 0.5 {
        return x.sqrt();
    }
    if y == -0.5 {
        return 1.0 / x.sqrt();
    }
    let (mut whole, mut rest) = (y.abs().trunc(), y.abs() - y.abs().trunc());
    if rest != 0.0 && x < 0.0 {
        return f64::NAN;
    }
    if whole >= (1u64 << 63) as f64 {
        return if x == -1.0 { 1.0 } else { zero_or_infinite((x.abs() < 1.0) == (y > 0.0)) };
    }
    // The result is `a` times two to the power of `e`.
    let (mut a, mut e) = (1.0, 0i64);
    if rest != 0.0 {
        if rest > 0.5 {
            rest -= 1.0;
            whole += 1.0;
        }
        a = exp(rest * log(x));
    }
    let (mut square, exponent) = frexp(x);
    let mut exponent = i64::from(exponent);
    let mut bits = whole as i64;
    while bits != 0 {
        if !(-(1 << 12)..=1 << 12).contains(&exponent) {
            // Too large or small whatever comes.
            e += exponent;
            break;
        }
        if bits & 1 == 1 {
            a *= square;
            e += exponent;
        }
        square *= square;
        exponent <<= 1;
        if square < 0.5 {
            square += square;
            exponent -= 1;
        }
        bits >>= 1;
    }
    if y < 0.0 {
        a = 1.0 / a;
        e = -e;
    }
    ldexp(a, e)
}

/// The hyperbolic sine.
pub fn sinh(x: f64) -> f64 {
    const P: [f64; 4] = [
        -0.6307673640497716991184787251e+6,
        -0.8991272022039509355398013511e+5,
        -0.2894211355989563807284660366e+4,
        -0.2630563213397497062819489e+2,
    ];
    const Q: [f64; 3] =
        [-0.6307673640497716991212077277e+6, 0.1521517378790019070696485176e+5, -0.173678953558233699533450911e+3];
    let negative = x < 0.0;
    let x = if negative { -x } else { x };
    let y = if x > 21.0 {
        exp(x) * 0.5
    } else if x > 0.5 {
        let e = exp(x);
        (e - 1.0 / e) * 0.5
    } else {
        let s = x * x;
        let top = (((P[3] * s + P[2]) * s + P[1]) * s + P[0]) * x;
        top / (((s + Q[2]) * s + Q[1]) * s + Q[0])
    };
    if negative { -y } else { y }
}

/// The hyperbolic cosine.
pub fn cosh(x: f64) -> f64 {
    let x = x.abs();
    let e = exp(x);
    if x > 21.0 { e * 0.5 } else { (e + 1.0 / e) * 0.5 }
}

/// The hyperbolic tangent.
pub fn tanh(x: f64) -> f64 {
    const P: [f64; 3] = [-9.64399179425052238628e-1, -9.92877231001918586564e1, -1.61468768441708447952e3];
    const Q: [f64; 3] = [1.12811678491632931402e2, 2.23548839060100448583e3, 4.84406305325125486048e3];
    let z = x.abs();
    if z > 0.5 * 8.8029691931113054295988e+01 {
        return if x < 0.0 { -1.0 } else { 1.0 };
    }
    if z >= 0.625 {
        let y = 1.0 - 2.0 / (exp(2.0 * z) + 1.0);
        return if x < 0.0 { -y } else { y };
    }
    if x == 0.0 {
        return x;
    }
    let s = x * x;
    x + x * s * ((P[0] * s + P[1]) * s + P[2]) / (((s + Q[0]) * s + Q[1]) * s + Q[2])
}

/// Where the inverse hyperbolic functions change their formula.
const NEAR_ZERO: f64 = 1.0 / (1u64 << 28) as f64;
const LARGE: f64 = (1u64 << 28) as f64;

/// The inverse hyperbolic sine.
pub fn asinh(x: f64) -> f64 {
    if !x.is_finite() {
        return x;
    }
    let negative = x < 0.0;
    let x = if negative { -x } else { x };
    let y = if x > LARGE {
        log(x) + LN_2
    } else if x > 2.0 {
        log(2.0 * x + 1.0 / ((x * x + 1.0).sqrt() + x))
    } else if x < NEAR_ZERO {
        x
    } else {
        log1p(x + x * x / (1.0 + (1.0 + x * x).sqrt()))
    };
    if negative { -y } else { y }
}

/// The inverse hyperbolic cosine.
pub fn acosh(x: f64) -> f64 {
    if x < 1.0 || x.is_nan() {
        return f64::NAN;
    }
    if x == 1.0 {
        return 0.0;
    }
    if x >= LARGE {
        return log(x) + LN_2;
    }
    if x > 2.0 {
        return log(2.0 * x - 1.0 / (x + (x * x - 1.0).sqrt()));
    }
    let t = x - 1.0;
    log1p(t + (2.0 * t + t * t).sqrt())
}

/// The inverse hyperbolic tangent.
pub fn atanh(x: f64) -> f64 {
    if !(-1.0..=1.0).contains(&x) {
        return f64::NAN;
    }
    if x.abs() == 1.0 {
        return f64::INFINITY.copysign(x);
    }
    let negative = x < 0.0;
    let x = if negative { -x } else { x };
    let y = if x < NEAR_ZERO {
        x
    } else if x < 0.5 {
        let twice = x + x;
        0.5 * log1p(twice + twice * x / (1.0 - x))
    } else {
        0.5 * log1p((x + x) / (1.0 - x))
    };
    if negative { -y } else { y }
}

#[cfg(test)]
mod tests;
