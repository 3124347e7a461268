//! `*_over_time`.

use std::sync::Arc;

use narthex_model::histogram::IncompatibleSchemas;
use narthex_model::{CounterResetHint, Histogram, kahan};

use super::{RangeContext, Window};
use crate::annotations::{Annotation, HistogramOperation};
use crate::value::Point;

pub(crate) fn sum_floats(values: &[f64]) -> f64 {
    let (mut sum, mut c) = (0.0, 0.0);
    for v in values {
        (sum, c) = kahan::add(*v, sum, c);
    }
    if sum.is_infinite() { sum } else { sum + c }
}

/// The mean from the sum, or incrementally from where the sum would overflow. `values` is not empty.
pub(crate) fn avg_floats(values: &[f64]) -> f64 {
    let (mut sum, mut c, mut mean) = (values[0], 0.0, 0.0);
    let mut incremental = false;
    for (i, v) in values.iter().enumerate().skip(1) {
        let count = (i + 1) as f64;
        if !incremental {
            let (new_sum, new_c) = kahan::add(*v, sum, c);
            if !new_sum.is_infinite() {
                (sum, c) = (new_sum, new_c);
                continue;
            }
            incremental = true;
            mean = sum / (count - 1.0);
            c /= count - 1.0;
        }
        let q = (count - 1.0) / count;
        (mean, c) = kahan::add(v / count, q * mean, q * c);
    }
    let count = values.len() as f64;
    if incremental { mean + c } else { sum / count + c / count }
}

pub(crate) fn max_floats(values: &[f64]) -> f64 {
    values.iter().fold(values[0], |max, v| if *v > max || max.is_nan() { *v } else { max })
}

pub(crate) fn min_floats(values: &[f64]) -> f64 {
    values.iter().fold(values[0], |min, v| if *v < min || min.is_nan() { *v } else { min })
}

/// Welford's way, compensated.
pub(crate) fn variance_floats(values: &[f64]) -> f64 {
    let (mut count, mut mean, mut c_mean, mut aux, mut c_aux) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for v in values {
        count += 1.0;
        let delta = v - (mean + c_mean);
        (mean, c_mean) = kahan::add(delta / count, mean, c_mean);
        (aux, c_aux) = kahan::add(delta * (v - (mean + c_mean)), aux, c_aux);
    }
    (aux + c_aux) / count
}

/// The quantile of any number of values, which it sorts (NaN first).
pub(crate) fn quantile(q: f64, values: &mut [f64]) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    values.sort_unstable_by(|a, b| match (a.is_nan(), b.is_nan()) {
        (true, true) => std::cmp::Ordering::Equal,
        (true, false) => std::cmp::Ordering::Less,
        (false, true) => std::cmp::Ordering::Greater,
        _ => a.total_cmp(b),
    });
    let n = values.len() as f64;
    let rank = q * (n - 1.0);
    let lower = rank.floor().max(0.0);
    let upper = (lower + 1.0).min(n - 1.0);
    let weight = rank - rank.floor();
    values[lower as usize] * (1.0 - weight) + values[upper as usize] * weight
}

/// `sum_over_time` and `avg_over_time`.
pub(crate) fn sum_or_avg(cx: &RangeContext<'_>, w: &Window<'_>, avg: bool) -> Option<Point> {
    if w.is_mixed() {
        cx.mixed();
        return None;
    }
    if w.h.is_empty() {
        return Some(Point::Float(if avg { avg_floats(w.f) } else { sum_floats(w.f) }));
    }
    let (mut reset, mut no_reset) = (false, false);
    let mut reconciled = false;
    let result = if avg {
        avg_histograms(w.h, &mut reset, &mut no_reset, &mut reconciled)
    } else {
        sum_histograms(w.h, &mut reset, &mut no_reset, &mut reconciled)
    };
    let Ok(h) = result else {
        cx.mixed_schemas();
        return None;
    };
    if reset && no_reset {
        cx.annotate(Annotation::counter_reset_collision(HistogramOperation::Aggregate, cx.pos));
    }
    if reconciled {
        cx.annotate(Annotation::bounds_reconciled(HistogramOperation::Aggregate, cx.pos));
    }
    Some(Point::Histogram(Arc::new(h)))
}

fn note(h: &Histogram, reset: &mut bool, no_reset: &mut bool) {
    *reset |= h.counter_reset_hint == CounterResetHint::CounterReset;
    *no_reset |= h.counter_reset_hint == CounterResetHint::NotCounterReset;
}

fn sum_histograms(
    all: &[Arc<Histogram>],
    reset: &mut bool,
    no_reset: &mut bool,
    reconciled: &mut bool,
) -> Result<Histogram, IncompatibleSchemas> {
    let mut sum = (*all[0]).clone();
    note(&sum, reset, no_reset);
    let mut c = None;
    for h in &all[1..] {
        note(h, reset, no_reset);
        *reconciled |= sum.kahan_add(h, &mut c)?.bounds_reconciled;
    }
    if let Some(c) = c {
        *reconciled |= sum.add(&c)?.bounds_reconciled;
    }
    Ok(sum)
}

fn avg_histograms(
    all: &[Arc<Histogram>],
    reset: &mut bool,
    no_reset: &mut bool,
    reconciled: &mut bool,
) -> Result<Histogram, IncompatibleSchemas> {
    let mut mean = HistogramMean::new(&all[0]);
    note(&all[0], reset, no_reset);
    for h in &all[1..] {
        note(h, reset, no_reset);
        *reconciled |= mean.add(h)?;
    }
    mean.finish()
}

/// A mean of histograms: from their sum, or incrementally from where that would overflow.
#[derive(Clone, Debug)]
pub(crate) struct HistogramMean {
    /// The sum, or the mean once `incremental`.
    value: Histogram,
    compensation: Option<Histogram>,
    count: f64,
    incremental: bool,
}

impl HistogramMean {
    pub(crate) fn new(first: &Histogram) -> HistogramMean {
        HistogramMean { value: first.clone(), compensation: None, count: 1.0, incremental: false }
    }

    /// Whether bounds had to be reconciled.
    pub(crate) fn add(&mut self, h: &Histogram) -> Result<bool, IncompatibleSchemas> {
        self.count += 1.0;
        if !self.incremental {
            let (mut sum, mut c) = (self.value.clone(), self.compensation.clone());
            let outcome = sum.kahan_add(h, &mut c)?;
            if !sum.has_overflow() {
                (self.value, self.compensation) = (sum, c);
                return Ok(outcome.bounds_reconciled);
            }
            self.incremental = true;
            self.value.div(self.count - 1.0);
            if let Some(c) = &mut self.compensation {
                c.div(self.count - 1.0);
            }
        }
        let q = (self.count - 1.0) / self.count;
        if let Some(c) = &mut self.compensation {
            c.mul(q);
        }
        let mut part = h.clone();
        part.div(self.count);
        self.value.mul(q);
        Ok(self.value.kahan_add(&part, &mut self.compensation)?.bounds_reconciled)
    }

    pub(crate) fn finish(mut self) -> Result<Histogram, IncompatibleSchemas> {
        if !self.incremental {
            self.value.div(self.count);
            if let Some(c) = &mut self.compensation {
                c.div(self.count);
            }
        }
        if let Some(c) = &self.compensation {
            self.value.add(c)?;
        }
        Ok(self.value)
    }
}

/// `first_over_time` and `last_over_time`.
pub(crate) fn first(w: &Window<'_>) -> Option<Point> {
    match (w.t.first(), w.ht.first()) {
        (Some(t), Some(ht)) if t < ht => Some(Point::Float(w.f[0])),
        (_, Some(_)) => Some(Point::Histogram(w.h[0].clone())),
        (Some(_), None) => Some(Point::Float(w.f[0])),
        (None, None) => None,
    }
}

pub(crate) fn last(w: &Window<'_>) -> Option<Point> {
    match (w.t.last(), w.ht.last()) {
        (Some(t), Some(ht)) if ht < t => w.f.last().map(|v| Point::Float(*v)),
        (_, Some(_)) => w.h.last().map(|h| Point::Histogram(h.clone())),
        (Some(_), None) => w.f.last().map(|v| Point::Float(*v)),
        (None, None) => None,
    }
}

pub(crate) fn time_of_first(w: &Window<'_>) -> Option<f64> {
    w.t.first().into_iter().chain(w.ht.first()).min().map(|t| *t as f64 / 1000.0)
}

pub(crate) fn time_of_last(w: &Window<'_>) -> Option<f64> {
    w.t.last().into_iter().chain(w.ht.last()).max().map(|t| *t as f64 / 1000.0)
}

/// The time of the last largest (or smallest) float.
pub(crate) fn time_of_extreme(cx: &RangeContext<'_>, w: &Window<'_>, max: bool) -> Option<f64> {
    let (mut best, mut at) = (*w.f.first()?, *w.t.first()?);
    cx.ignored_histograms(w);
    for (t, v) in w.t.iter().zip(w.f) {
        if best.is_nan() || if max { *v >= best } else { *v <= best } {
            (best, at) = (*v, *t);
        }
    }
    Some(at as f64 / 1000.0)
}

/// A function of the floats alone; histograms beside them are noted.
pub(crate) fn of_floats(cx: &RangeContext<'_>, w: &Window<'_>, f: impl FnOnce(&[f64]) -> f64) -> Option<f64> {
    if w.f.is_empty() {
        return None;
    }
    cx.ignored_histograms(w);
    Some(f(w.f))
}

/// The median distance from the median. NaN makes it NaN.
pub(crate) fn mad(values: &[f64], scratch: &mut Vec<f64>) -> f64 {
    if values.iter().any(|v| v.is_nan()) {
        return f64::NAN;
    }
    scratch.clear();
    scratch.extend_from_slice(values);
    let median = quantile(0.5, scratch);
    scratch.iter_mut().for_each(|v| *v = (*v - median).abs());
    quantile(0.5, scratch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_do_not_overflow() {
        let mean = avg_floats(&[f64::MAX, f64::MAX, f64::MAX]);
        assert!(mean.is_finite() && (mean / f64::MAX - 1.0).abs() < 1e-12, "{mean}");
        assert_eq!(avg_floats(&[1.0, 2.0, 6.0]), 3.0);
        assert_eq!(sum_floats(&[1.0, 1e100, 1.0, -1e100]), 2.0);
    }

    #[test]
    fn quantiles() {
        assert_eq!(quantile(0.5, &mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(quantile(0.25, &mut [0.0, 1.0]), 0.25);
        assert_eq!(quantile(-1.0, &mut [0.0]), f64::NEG_INFINITY);
        assert!(quantile(0.5, &mut []).is_nan());
        assert_eq!(mad(&[4.0, 6.0, 2.0, 1.0, 999.0, 1.0, 2.0], &mut Vec::new()), 1.0);
    }
}
