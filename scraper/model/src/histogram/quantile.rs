//! Quantiles and fractions of native histograms.

use super::{Bucket, Histogram};
use crate::gomath;

/// What NaN observations did to a result: they are counted, but lie in no bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NanObservations {
    /// The quantile falls among them: the result is NaN.
    ResultIsNan,
    /// They count as larger than everything: the quantile is skewed upwards.
    SkewedHigher,
    /// They are in no fraction.
    LeftOut,
}

/// The value below which the part `q` of the observations lies: by linear interpolation within listed bounds and the
/// zero bucket, on a logarithmic scale within exponential buckets. A histogram with buckets on one side of zero only
/// has a zero bucket that ends at zero.
pub fn quantile(q: f64, h: &Histogram) -> (f64, Option<NanObservations>) {
    if q < 0.0 {
        return (f64::NEG_INFINITY, None);
    }
    if q > 1.0 {
        return (f64::INFINITY, None);
    }
    if h.count == 0.0 || q.is_nan() {
        return (f64::NAN, None);
    }
    // NaN observations raise the count only, so the buckets must be counted from below then.
    let forward = h.sum.is_nan() || q < 0.5;
    let mut buckets = h.all_buckets();
    let rank = if forward {
        q * h.count
    } else {
        buckets.reverse();
        (1.0 - q) * h.count
    };

    let mut bucket = Bucket { lower: 0.0, upper: 0.0, lower_inclusive: false, upper_inclusive: false, count: 0.0 };
    let (mut count, mut at) = (0.0, 0);
    while at < buckets.len() {
        bucket = buckets[at];
        at += 1;
        if bucket.count == 0.0 {
            continue;
        }
        count += bucket.count;
        if count >= rank {
            break;
        }
    }
    let custom = h.uses_custom_buckets();
    if !custom && bucket.lower < 0.0 && bucket.upper > 0.0 {
        if h.negative_buckets.is_empty() && !h.positive_buckets.is_empty() {
            bucket.lower = 0.0;
        } else if h.positive_buckets.is_empty() && !h.negative_buckets.is_empty() {
            bucket.upper = 0.0;
        }
    } else if custom {
        if bucket.lower == f64::NEG_INFINITY {
            if bucket.upper <= 0.0 {
                return (bucket.upper, None);
            }
            bucket.lower = 0.0;
        } else if bucket.upper == f64::INFINITY {
            return (bucket.lower, None);
        }
    }
    // Rounding can bring the buckets above the count.
    let mut count = if count > h.count { h.count } else { count };
    if count < rank {
        return if h.sum.is_nan() { (f64::NAN, Some(NanObservations::ResultIsNan)) } else { (bucket.upper, None) };
    }
    let rank = if forward { rank - (count - bucket.count) } else { count - rank };
    let mut note = None;
    if h.sum.is_nan() {
        // Prometheus takes the last bucket for what follows, if there is one behind.
        for b in &buckets[at..] {
            bucket = *b;
            count += b.count;
        }
        if count < h.count {
            note = Some(NanObservations::SkewedHigher);
        }
    }
    let fraction = rank / bucket.count;
    if custom || (bucket.lower <= 0.0 && bucket.upper >= 0.0) {
        return (bucket.lower + (bucket.upper - bucket.lower) * fraction, note);
    }
    let (lower, upper) = (gomath::log2(bucket.lower.abs()), gomath::log2(bucket.upper.abs()));
    let value = if bucket.lower > 0.0 {
        gomath::exp2(lower + (upper - lower) * fraction)
    } else {
        -gomath::exp2(upper + (lower - upper) * (1.0 - fraction))
    };
    (value, note)
}

/// The part of the observations between two values, interpolated as in [`quantile`].
pub fn fraction(lower: f64, upper: f64, h: &Histogram) -> (f64, Option<NanObservations>) {
    if h.count == 0.0 || lower.is_nan() || upper.is_nan() {
        return (f64::NAN, None);
    }
    if lower >= upper {
        return (0.0, None);
    }
    let (mut count, mut rank) = (0.0, 0.0);
    let (mut lower_rank, mut upper_rank) = (None, None);
    let buckets = h.all_buckets();
    let mut rest = buckets.iter();
    for b in rest.by_ref() {
        let mut b = *b;
        count += b.count;
        let zero = b.lower <= 0.0 && b.upper >= 0.0;
        if zero {
            if h.negative_buckets.is_empty() && !h.positive_buckets.is_empty() {
                b.lower = 0.0;
            } else if h.positive_buckets.is_empty() && !h.negative_buckets.is_empty() {
                b.upper = 0.0;
            }
        }
        let linear = h.uses_custom_buckets() || zero;
        let interpolate = |v: f64| {
            // A bucket without an end cannot be divided.
            if linear && b.lower == f64::NEG_INFINITY { b.count } else { rank + b.count * b.fraction_below(v, linear) }
        };
        for (value, found) in [(lower, &mut lower_rank), (upper, &mut upper_rank)] {
            if found.is_none() && b.lower >= value {
                *found = Some(rank);
            }
        }
        if lower_rank.is_some() && upper_rank.is_some() {
            break;
        }
        for (value, found) in [(lower, &mut lower_rank), (upper, &mut upper_rank)] {
            if found.is_none() && b.lower < value && b.upper > value {
                *found = Some(interpolate(value));
            }
        }
        if lower_rank.is_some() && upper_rank.is_some() {
            break;
        }
        rank += b.count;
    }
    let mut note = None;
    if h.sum.is_nan() {
        count += rest.map(|b| b.count).sum::<f64>();
        if count < h.count {
            note = Some(NanObservations::LeftOut);
        }
    } else {
        count = h.count;
    }
    let capped = |rank: Option<f64>| rank.filter(|r| *r <= count || r.is_nan()).unwrap_or(count);
    ((capped(upper_rank) - capped(lower_rank)) / h.count, note)
}
