//! Loops over slices that the compiler turns into vector code, each with the plain loop it stands for in its tests.

use narthex_model::{STALE_NAN_BITS, kahan};

use super::columns::Floats;
use super::windows::Windows;
use crate::functions::over_time;

narthex_model::wide! {
    /// Whether a staleness marker is among the values. Looks at all of them: branches cost more.
    pub(crate) fn any_stale(values: &[f64]) -> bool {
        values.iter().fold(false, |any, v| any | (v.to_bits() == STALE_NAN_BITS))
    }

    /// Whether some value is less than the one before it.
    pub(crate) fn any_fall(values: &[f64]) -> bool {
        match values {
            [] => false,
            [_, rest @ ..] => values.iter().zip(rest).fold(false, |any, (a, b)| any | (b < a)),
        }
    }

    /// At least the largest magnitude, at most their sum; infinite or no number where one of the values is.
    pub(crate) fn magnitude(values: &[f64]) -> f64 {
        // A comparison that sees NaN takes several instructions, a sum one.
        let (chunks, rest) = values.as_chunks::<16>();
        let mut sums = [0.0; 16];
        for chunk in chunks {
            for (sum, v) in sums.iter_mut().zip(chunk) {
                *sum += v.abs();
            }
        }
        rest.iter().map(|v| v.abs()).chain(sums).fold(0.0, |sum, v| sum + v)
    }

    /// `kahan::add` of each value to its sum where no sum can overflow: what rounding lost is the same number however
    /// it is computed, so the way without branches gives the same bits.
    pub(crate) fn add_bounded(values: &[f64], sum: &mut [f64], c: &mut [f64]) {
        let n = values.len();
        let (sum, c) = (&mut sum[..n], &mut c[..n]);
        for i in 0..n {
            let (s, v) = (sum[i], values[i]);
            let t = s + v;
            let part = t - s;
            c[i] += (s - (t - part)) + (v - part);
            sum[i] = t;
        }
    }
}

/// How many windows go side by side.
const LANES: usize = 4;

/// Calls `four` for groups of windows of the same length, and `one` for the others. Empty windows are left out.
#[inline(always)]
fn lanes<'a>(
    windows: &Windows,
    values: &'a [f64],
    mut four: impl FnMut(usize, [&'a [f64]; LANES]),
    mut one: impl FnMut(usize, &'a [f64]),
) {
    let at = |step: usize| &values[windows.lo[step] as usize..windows.hi[step] as usize];
    let steps = windows.lo.len();
    let mut step = 0;
    while step < steps {
        let first = at(step);
        if step + LANES <= steps && !first.is_empty() {
            let all = [first, at(step + 1), at(step + 2), at(step + 3)];
            if all.iter().all(|w| w.len() == first.len()) {
                four(step, all);
                step += LANES;
                continue;
            }
        }
        if !first.is_empty() {
            one(step, first);
        }
        step += 1;
    }
}

/// The compensated sums of four windows of the same length.
// Indices over several slices at once are what vectorises.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
fn sums(all: [&[f64]; LANES]) -> ([f64; LANES], [f64; LANES]) {
    let n = all[0].len();
    let all = all.map(|w| &w[..n]);
    let (mut sum, mut c) = ([0.0; LANES], [0.0; LANES]);
    for j in 0..n {
        for k in 0..LANES {
            (sum[k], c[k]) = kahan::add(all[k][j], sum[k], c[k]);
        }
    }
    (sum, c)
}

/// `sum_over_time` or `avg_over_time` of all windows.
pub(crate) fn sum_or_avg(windows: &Windows, values: &[f64], avg: bool, out: &mut Floats) {
    let exact = if avg { over_time::avg_floats } else { over_time::sum_floats };
    let (results, present) = (&mut out.values, &mut out.present);
    let results = std::cell::RefCell::new((results, present));
    lanes(
        windows,
        values,
        |step, all| {
            let (sum, c) = sums(all);
            let n = all[0].len() as f64;
            let (values, present) = &mut *results.borrow_mut();
            for k in 0..LANES {
                values[step + k] = if !sum[k].is_finite() {
                    // Overflow has rules of its own.
                    exact(all[k])
                } else if avg {
                    sum[k] / n + c[k] / n
                } else {
                    sum[k] + c[k]
                };
                present.set(step + k);
            }
        },
        |step, w| {
            let (values, present) = &mut *results.borrow_mut();
            values[step] = exact(w);
            present.set(step);
        },
    );
}

/// The largest (or smallest) value; NaN counts only where there is nothing else.
#[inline(always)]
pub(crate) fn extreme(w: &[f64], max: bool) -> f64 {
    let sign = if max { 1.0 } else { -1.0 };
    let mut best = [f64::NEG_INFINITY; 8];
    let (chunks, rest) = w.as_chunks::<8>();
    for chunk in chunks {
        for k in 0..8 {
            let v = sign * chunk[k];
            best[k] = if v > best[k] { v } else { best[k] };
        }
    }
    let mut result = f64::NEG_INFINITY;
    for v in rest.iter().map(|v| sign * v).chain(best) {
        result = if v > result { v } else { result };
    }
    if result == 0.0 || result == f64::NEG_INFINITY {
        // Which zero it is, and whether all are NaN, the plain loop tells.
        return if max { over_time::max_floats(w) } else { over_time::min_floats(w) };
    }
    sign * result
}

narthex_model::wide! {
    /// The extreme of each window, into `out`; nothing where it has no sample.
    pub(crate) fn extremes(lo: &[u32], hi: &[u32], values: &[f64], max: bool, out: &mut [f64]) {
        for ((lo, hi), out) in lo.iter().zip(hi).zip(out) {
            if lo < hi {
                *out = extreme(&values[*lo as usize..*hi as usize], max);
            }
        }
    }
}

/// What `deriv` and `predict_linear` need of the timestamps alone.
pub(crate) struct Regression {
    /// Seconds of each sample of each window from the window's origin.
    x: Vec<f64>,
    /// Where each step's window begins in `x`.
    begin: Vec<usize>,
    sum_x: Vec<f64>,
    sum_x2: Vec<f64>,
}

impl Regression {
    /// At most this many seconds are kept.
    const MOST: u64 = 1 << 20;

    /// None where the windows hold too much to keep.
    pub(crate) fn new(times: &[i64], windows: &Windows, origin: impl Fn(usize) -> i64) -> Option<Regression> {
        if windows.total > Self::MOST {
            return None;
        }
        let steps = windows.lo.len();
        let mut out = Regression {
            x: Vec::with_capacity(windows.total as usize),
            begin: Vec::with_capacity(steps),
            sum_x: vec![0.0; steps],
            sum_x2: vec![0.0; steps],
        };
        for step in 0..steps {
            out.begin.push(out.x.len());
            let origin = origin(step);
            let (mut x, mut x2) = ((0.0, 0.0), (0.0, 0.0));
            for t in &times[windows.lo[step] as usize..windows.hi[step] as usize] {
                let seconds = (t - origin) as f64 / 1e3;
                x = kahan::add(seconds, x.0, x.1);
                x2 = kahan::add(seconds * seconds, x2.0, x2.1);
                out.x.push(seconds);
            }
            out.sum_x[step] = x.0 + x.1;
            out.sum_x2[step] = x2.0 + x2.1;
        }
        Some(out)
    }

    /// Slope and intercept of all windows with two samples at least, to `each(step, slope, intercept)`.
    pub(crate) fn apply(&self, windows: &Windows, values: &[f64], each: impl FnMut(usize, f64, f64)) {
        let each = std::cell::RefCell::new(each);
        let finish = |step: usize, w: &[f64], y: f64, xy: f64| {
            if w.len() < 2 {
                return;
            }
            let mut each = each.borrow_mut();
            if w[1..].iter().all(|v| *v == w[0]) {
                let nan = w[0].is_infinite();
                return if nan { each(step, f64::NAN, f64::NAN) } else { each(step, 0.0, w[0]) };
            }
            let n = w.len() as f64;
            let (x, x2) = (self.sum_x[step], self.sum_x2[step]);
            let slope = (xy - x * y / n) / (x2 - x * x / n);
            each(step, slope, y / n - slope * x / n);
        };
        let seconds = |step: usize, n: usize| &self.x[self.begin[step]..self.begin[step] + n];
        lanes(
            windows,
            values,
            |step, all| {
                let n = all[0].len();
                let all = all.map(|w| &w[..n]);
                let xs = [seconds(step, n), seconds(step + 1, n), seconds(step + 2, n), seconds(step + 3, n)];
                let (mut y, mut cy) = ([0.0; LANES], [0.0; LANES]);
                let (mut xy, mut cxy) = ([0.0; LANES], [0.0; LANES]);
                for j in 0..n {
                    for k in 0..LANES {
                        let (v, x) = (all[k][j], xs[k][j]);
                        (y[k], cy[k]) = kahan::add(v, y[k], cy[k]);
                        (xy[k], cxy[k]) = kahan::add(x * v, xy[k], cxy[k]);
                    }
                }
                for k in 0..LANES {
                    finish(step + k, all[k], y[k] + cy[k], xy[k] + cxy[k]);
                }
            },
            |step, w| {
                let (mut y, mut xy) = ((0.0, 0.0), (0.0, 0.0));
                for (v, x) in w.iter().zip(seconds(step, w.len())) {
                    y = kahan::add(*v, y.0, y.1);
                    xy = kahan::add(x * v, xy.0, xy.1);
                }
                finish(step, w, y.0 + y.1, xy.0 + xy.1);
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scans() {
        let stale = narthex_model::stale_nan();
        for (values, has_stale, falls) in [
            (vec![], false, false),
            (vec![1.0], false, false),
            (vec![1.0, 2.0, 2.0, f64::NAN], false, false),
            (vec![1.0, stale, 0.0], true, false),
            (vec![1.0, 2.0, 1.0], false, true),
        ] {
            assert_eq!((any_stale(&values), any_fall(&values)), (has_stale, falls), "{values:?}");
        }
    }

    #[test]
    fn bounded_sums_are_the_plain_ones() {
        let mut x = 0x9e37_79b9_7f4a_7c15_u64;
        let (mut sum, mut c) = (vec![0.0; 257], vec![0.0; 257]);
        let (mut plain_sum, mut plain_c) = (sum.clone(), c.clone());
        for round in 0..400 {
            narthex_model::wide::use_wide(round % 2 == 0);
            let values: Vec<f64> = (0..257)
                .map(|i| {
                    x ^= x << 13;
                    x ^= x >> 7;
                    x ^= x << 17;
                    match (round + i) % 5 {
                        0 => (x as i64 >> (x % 50)) as f64,
                        1 => f64::from_bits(x & 0xbfff_ffff_ffff_ffff),
                        2 => 0.1 * (x % 1000) as f64,
                        3 => -0.0,
                        _ => -(x as f64) * 1e-12,
                    }
                })
                .collect();
            assert!(magnitude(&values) <= f64::MAX / 1e3);
            add_bounded(&values, &mut sum, &mut c);
            for (i, v) in values.iter().enumerate() {
                (plain_sum[i], plain_c[i]) = kahan::add(*v, plain_sum[i], plain_c[i]);
            }
            for i in 0..257 {
                assert_eq!((sum[i] + c[i]).to_bits(), (plain_sum[i] + plain_c[i]).to_bits(), "round {round}");
                assert_eq!((sum[i], c[i]), (plain_sum[i], plain_c[i]), "round {round}");
            }
        }
        assert_eq!(magnitude(&[1.0, -3.0, 2.0, 0.5, -0.25]), 6.75);
        assert!((0..40).all(|n| magnitude(&vec![-1.5; n]) == 1.5 * n as f64));
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -f64::NAN, f64::MAX] {
            for at in 0..40 {
                let mut values = vec![f64::MAX; 40];
                values[at] = bad;
                assert!(!magnitude(&values).is_finite() && !magnitude(&[bad, bad]).is_finite());
            }
        }
        assert_eq!(magnitude(&[]), 0.0);
    }

    #[test]
    fn extremes_are_the_plain_ones() {
        let nan = f64::NAN;
        let inf = f64::INFINITY;
        let long: Vec<f64> = (0..37).map(|i| f64::from(i * 7919 % 100) - 50.0).collect();
        for w in [
            vec![nan],
            vec![nan, 1.0],
            vec![1.0, nan, 3.0],
            vec![-0.0, 0.0],
            vec![0.0, -0.0],
            vec![-inf],
            vec![inf, -inf, nan],
            long,
        ] {
            assert_eq!(extreme(&w, true).to_bits(), over_time::max_floats(&w).to_bits(), "{w:?}");
            assert_eq!(extreme(&w, false).to_bits(), over_time::min_floats(&w).to_bits(), "{w:?}");
        }
    }
}
