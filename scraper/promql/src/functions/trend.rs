//! `deriv`, `predict_linear`, `double_exponential_smoothing`.

use narthex_model::kahan;

use super::{RangeContext, Window};

/// Slope and intercept at `origin` of the line of least squares; times count in seconds from `origin`.
fn regression(times: &[i64], values: &[f64], origin: i64) -> (f64, f64) {
    let (mut n, mut constant) = (0.0, true);
    let [mut x, mut y, mut xy, mut x2] = [(0.0, 0.0); 4];
    for (t, v) in times.iter().zip(values) {
        constant &= *v == values[0] || n == 0.0;
        n += 1.0;
        let seconds = (t - origin) as f64 / 1e3;
        x = kahan::add(seconds, x.0, x.1);
        y = kahan::add(*v, y.0, y.1);
        xy = kahan::add(seconds * v, xy.0, xy.1);
        x2 = kahan::add(seconds * seconds, x2.0, x2.1);
    }
    if constant {
        if values[0].is_infinite() {
            return (f64::NAN, f64::NAN);
        }
        return (0.0, values[0]);
    }
    let [x, y, xy, x2] = [x, y, xy, x2].map(|(sum, c)| sum + c);
    let covariance = xy - x * y / n;
    let variance = x2 - x * x / n;
    let slope = covariance / variance;
    (slope, y / n - slope * x / n)
}

/// Two floats at least; histograms beside floats are noted.
fn enough(cx: &RangeContext<'_>, w: &Window<'_>) -> bool {
    if !w.f.is_empty() {
        cx.ignored_histograms(w);
    }
    w.f.len() >= 2
}

pub(crate) fn deriv(cx: &RangeContext<'_>, w: &Window<'_>) -> Option<f64> {
    // A time near the samples keeps the arithmetic exact.
    enough(cx, w).then(|| regression(w.t, w.f, w.t[0]).0)
}

pub(crate) fn predict_linear(cx: &RangeContext<'_>, w: &Window<'_>, seconds: f64) -> Option<f64> {
    enough(cx, w).then(|| {
        let (slope, intercept) = regression(w.t, w.f, w.now);
        slope * seconds + intercept
    })
}

/// # Errors
/// When a factor is not between 0 and 1.
pub(crate) fn double_exponential_smoothing(
    cx: &RangeContext<'_>,
    w: &Window<'_>,
    smoothing: f64,
    trend: f64,
) -> Result<Option<f64>, String> {
    if smoothing <= 0.0 || smoothing >= 1.0 {
        return Err(format!("invalid smoothing factor. Expected: 0 < sf < 1, got: {}", format_f6(smoothing)));
    }
    if trend <= 0.0 || trend >= 1.0 {
        return Err(format!("invalid trend factor. Expected: 0 < tf < 1, got: {}", format_f6(trend)));
    }
    if !enough(cx, w) {
        return Ok(None);
    }
    let (mut s0, mut s1) = (0.0, w.f[0]);
    let mut b = w.f[1] - w.f[0];
    for (i, v) in w.f.iter().enumerate().skip(1) {
        let x = smoothing * v;
        if i > 1 {
            b = trend * (s1 - s0) + (1.0 - trend) * b;
        }
        let y = (1.0 - smoothing) * (s1 + b);
        (s0, s1) = (s1, x + y);
    }
    Ok(Some(s1))
}

/// Go's `%f`.
fn format_f6(v: f64) -> String {
    if v.is_finite() { format!("{v:.6}") } else { narthex_model::number::format_value(v) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let (slope, intercept) = regression(&[0, 1000, 2000], &[1.0, 3.0, 5.0], 1000);
        assert_eq!((slope, intercept), (2.0, 3.0));
        assert_eq!(regression(&[0, 1000], &[7.0, 7.0], 500), (0.0, 7.0));
    }
}
