//! Classic and native histograms: quantiles, fractions, variance.

use narthex_model::{Histogram, kahan};

/// A bucket of a classic histogram: everything up to its bound is counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ClassicBucket {
    pub bound: f64,
    pub count: f64,
}

/// Relative differences between neighbouring buckets below this are rounding.
const SMALL_DELTA: f64 = 1e-12;

/// What was done to buckets whose counts fell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Forced {
    pub min_bucket: f64,
    pub max_bucket: f64,
    pub max_diff: f64,
}

/// A bound as `le` gives it.
pub(crate) fn parse_le(text: &str) -> Option<f64> {
    if text.is_empty() {
        return None;
    }
    match text.trim_start_matches(['+', '-']).to_ascii_lowercase().as_str() {
        "inf" | "infinity" => Some(if text.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY }),
        "nan" if !text.starts_with(['+', '-']) => Some(f64::NAN),
        "nan" => None,
        _ => text.parse().ok(),
    }
}

fn sort(buckets: &mut [ClassicBucket]) {
    buckets.sort_by(|a, b| a.bound.partial_cmp(&b.bound).unwrap_or(std::cmp::Ordering::Equal));
}

/// Merges buckets with the same bound into the first places; they are sorted. What stands behind those is left as it
/// is, as Prometheus does: who asks for a second quantile of the same buckets finds it again.
fn coalesce(buckets: &mut [ClassicBucket]) -> &mut [ClassicBucket] {
    let mut last = buckets[0];
    let mut kept = 0;
    for i in 1..buckets.len() {
        let bucket = buckets[i];
        if bucket.bound == last.bound {
            last.count += bucket.count;
        } else {
            buckets[kept] = last;
            last = bucket;
            kept += 1;
        }
    }
    buckets[kept] = last;
    &mut buckets[..=kept]
}

/// The quantile of a classic histogram, by linear interpolation; the buckets are sorted and mended. NaN without a +Inf
/// bucket, without observations, or with a single bucket.
pub(crate) fn classic_quantile(q: f64, buckets: &mut [ClassicBucket]) -> (f64, Option<Forced>) {
    if q.is_nan() {
        return (f64::NAN, None);
    }
    if q < 0.0 {
        return (f64::NEG_INFINITY, None);
    }
    if q > 1.0 {
        return (f64::INFINITY, None);
    }
    sort(buckets);
    if buckets.last().is_none_or(|b| b.bound != f64::INFINITY) {
        return (f64::NAN, None);
    }
    let buckets = coalesce(buckets);
    let forced = make_monotonic(buckets);
    let last = buckets.len() - 1;
    let observations = buckets[last].count;
    if buckets.len() < 2 || observations == 0.0 {
        return (f64::NAN, forced);
    }
    let mut rank = q * observations;
    let at = first_where(last, |i| buckets[i].count >= rank);
    let value = if at == last {
        buckets[last - 1].bound
    } else if at == 0 && buckets[0].bound <= 0.0 {
        buckets[0].bound
    } else {
        let (mut start, end, mut count) = (0.0, buckets[at].bound, buckets[at].count);
        if at > 0 {
            start = buckets[at - 1].bound;
            count -= buckets[at - 1].count;
            rank -= buckets[at - 1].count;
        }
        start + (end - start) * (rank / count)
    };
    (value, forced)
}

/// Binary search for the first index below `n` where `f` holds, `n` if nowhere (Go's `sort.Search`: with NaN counts
/// the outcome depends on the very steps).
fn first_where(n: usize, f: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, n);
    while low < high {
        let middle = (low + high) / 2;
        if f(middle) { high = middle } else { low = middle + 1 }
    }
    low
}

/// Whether they differ by less than `epsilon` times their sum, or are both NaN (Prometheus `util/almost`).
pub(crate) fn almost_equal(a: f64, b: f64, epsilon: f64) -> bool {
    if a.is_nan() || b.is_nan() {
        return a.is_nan() && b.is_nan();
    }
    if a == b {
        return true;
    }
    let (sum, diff) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return diff < epsilon * f64::MIN_POSITIVE;
    }
    diff / sum.min(f64::MAX) < epsilon
}

fn make_monotonic(buckets: &mut [ClassicBucket]) -> Option<Forced> {
    let mut forced: Option<Forced> = None;
    let mut prev = buckets[0].count;
    for b in &mut buckets[1..] {
        let current = b.count;
        if current == prev {
            continue;
        }
        if almost_equal(prev, current, SMALL_DELTA) {
            b.count = prev;
            continue;
        }
        if current < prev {
            b.count = prev;
            let f = forced.get_or_insert(Forced {
                min_bucket: f64::INFINITY,
                max_bucket: f64::NEG_INFINITY,
                max_diff: 0.0,
            });
            f.min_bucket = f.min_bucket.min(b.bound);
            f.max_bucket = f.max_bucket.max(b.bound);
            f.max_diff = f.max_diff.max(prev - current);
            continue;
        }
        prev = current;
    }
    forced
}

/// The part of a classic histogram's observations between two values.
pub(crate) fn classic_fraction(lower: f64, upper: f64, buckets: &mut [ClassicBucket]) -> f64 {
    sort(buckets);
    if buckets.last().is_none_or(|b| b.bound != f64::INFINITY) {
        return f64::NAN;
    }
    let buckets = coalesce(buckets);
    let count = buckets[buckets.len() - 1].count;
    if count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let (mut lower_rank, mut upper_rank, mut rank) = (None, None, 0.0);
    let mut low = if buckets[0].bound <= 0.0 { f64::NEG_INFINITY } else { 0.0 };
    for b in buckets.iter() {
        let high = b.bound;
        let interpolate = |v: f64| {
            if low == f64::NEG_INFINITY { b.count } else { rank + (b.count - rank) * (v - low) / (high - low) }
        };
        for (value, found) in [(lower, &mut lower_rank), (upper, &mut upper_rank)] {
            if found.is_none() && low >= value {
                *found = Some(rank);
            }
        }
        if lower_rank.is_some() && upper_rank.is_some() {
            break;
        }
        for (value, found) in [(lower, &mut lower_rank), (upper, &mut upper_rank)] {
            if found.is_none() && low < value && high > value {
                *found = Some(interpolate(value));
            }
        }
        if lower_rank.is_some() && upper_rank.is_some() {
            break;
        }
        rank = b.count;
        low = high;
    }
    let capped = |rank: Option<f64>| match rank {
        Some(r) if r > count => count,
        Some(r) => r,
        None => count,
    };
    (capped(upper_rank) - capped(lower_rank)) / count
}

/// The variance of a native histogram's observations, each taken to lie in the middle of its bucket.
pub(crate) fn variance(h: &Histogram) -> f64 {
    let mean = h.sum / h.count;
    let (mut sum, mut c) = (0.0, 0.0);
    for b in h.all_buckets() {
        if b.count == 0.0 {
            continue;
        }
        let value = if h.uses_custom_buckets() {
            (b.upper + b.lower) / 2.0
        } else if b.lower <= 0.0 && b.upper >= 0.0 {
            0.0
        } else {
            let v = (b.upper * b.lower).sqrt();
            if b.upper < 0.0 { -v } else { v }
        };
        let delta = value - mean;
        (sum, c) = kahan::add(b.count * delta * delta, sum, c);
    }
    (sum + c) / h.count
}

/// The value of a native histogram under `histogram_count` and its like.
pub(crate) fn statistic(name: &str) -> Option<fn(&Histogram) -> f64> {
    Some(match name {
        "histogram_count" => |h| h.count,
        "histogram_sum" => |h| h.sum,
        "histogram_avg" => |h| h.sum / h.count,
        "histogram_stdvar" => variance,
        "histogram_stddev" => |h| variance(h).sqrt(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(pairs: &[(f64, f64)]) -> Vec<ClassicBucket> {
        pairs.iter().map(|(bound, count)| ClassicBucket { bound: *bound, count: *count }).collect()
    }

    #[test]
    fn classic() {
        let inf = f64::INFINITY;
        for (q, pairs, expected) in [
            (0.5, &[(inf, 4.0), (1.0, 2.0), (2.0, 4.0)][..], 1.0),
            (0.75, &[(1.0, 2.0), (2.0, 4.0), (inf, 4.0)], 1.5),
            (1.0, &[(1.0, 2.0), (inf, 4.0)], 1.0),
            (0.1, &[(-1.0, 2.0), (inf, 4.0)], -1.0),
            (2.0, &[(inf, 1.0)], inf),
        ] {
            assert_eq!(classic_quantile(q, &mut buckets(pairs)).0, expected, "{q} {pairs:?}");
        }
        assert!(classic_quantile(0.5, &mut buckets(&[(1.0, 1.0)])).0.is_nan());
        let (_, forced) = classic_quantile(0.5, &mut buckets(&[(1.0, 5.0), (2.0, 3.0), (inf, 6.0)]));
        assert_eq!(forced, Some(Forced { min_bucket: 2.0, max_bucket: 2.0, max_diff: 2.0 }));
        assert_eq!(classic_fraction(0.0, 1.5, &mut buckets(&[(1.0, 2.0), (2.0, 4.0), (inf, 4.0)])), 0.75);
    }

    #[test]
    fn bounds() {
        for (text, expected) in
            [("+Inf", Some(f64::INFINITY)), ("0.5", Some(0.5)), ("", None), ("x", None), ("1e3", Some(1e3))]
        {
            assert_eq!(parse_le(text), expected, "{text}");
        }
    }
}
