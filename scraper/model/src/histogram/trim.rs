//! `</` and `>/`: a histogram cut at a value.

use super::{Bucket, Histogram};

impl Histogram {
    /// Removes the observations above `at` (`upper`) or below it. The bucket that holds `at` is divided by
    /// interpolation; if anything was cut, count and sum are estimated anew from the buckets.
    pub fn trim(&mut self, at: f64, upper: bool) {
        let custom = self.uses_custom_buckets();
        let (mut count, mut sum, mut trimmed) = (0.0, 0.0, false);
        let mut seen = [false, false];
        for (side, positive) in [true, false].into_iter().enumerate() {
            let buckets: Vec<Bucket> = if positive { self.positive().collect() } else { self.negative().collect() };
            let counts = if positive { &mut self.positive_buckets } else { &mut self.negative_buckets };
            for (slot, bucket) in counts.iter_mut().zip(&buckets) {
                if bucket.count == 0.0 {
                    continue;
                }
                seen[side] = true;
                let (whole, part) = if upper {
                    (bucket.upper <= at, bucket.lower < at)
                } else {
                    (bucket.lower >= at, bucket.upper > at)
                };
                if whole {
                    count += bucket.count;
                    sum += midpoint(bucket.lower, bucket.upper, positive, custom) * bucket.count;
                } else if part {
                    let (kept, middle) = cut(bucket, at, upper, positive, custom);
                    count += kept;
                    sum += middle * kept;
                    if *slot != kept {
                        *slot = kept;
                        trimmed = true;
                    }
                } else {
                    *slot = 0.0;
                    trimmed = true;
                }
            }
        }
        if self.zero_count > 0.0 {
            let (kept, middle) = cut_zero(&self.zero_bucket(), at, seen[1], seen[0], upper);
            if self.zero_count != kept {
                self.zero_count = kept;
                trimmed = true;
            }
            sum += middle * kept;
            count += kept;
        }
        if trimmed {
            self.count = count;
            self.sum = sum;
            self.compact();
        }
    }
}

/// What is left of a bucket's count, and the middle of what is left.
fn cut(b: &Bucket, at: f64, upper: bool, positive: bool, custom: bool) -> (f64, f64) {
    if b.lower == f64::NEG_INFINITY || b.upper == f64::INFINITY {
        return cut_infinite(b, at, upper);
    }
    let under = if at <= b.lower {
        0.0
    } else if at >= b.upper {
        b.count
    } else {
        b.count * b.fraction_below(at, custom)
    };
    if upper {
        (under, midpoint(b.lower, at, positive, custom))
    } else {
        (b.count - under, midpoint(at, b.upper, positive, custom))
    }
}

/// Of a bucket without a finite bound: how its observations are spread is unknown, so in doubt all of them go.
fn cut_infinite(b: &Bucket, at: f64, upper: bool) -> (f64, f64) {
    let finite = |v: f64| if v.is_infinite() { 0.0 } else { v };
    if b.lower == f64::NEG_INFINITY {
        if upper {
            return if at >= b.upper {
                (b.count, 0.0)
            } else if at > 0.0 && b.upper > 0.0 && b.upper != f64::INFINITY {
                // Only with listed bounds: the bucket is taken to begin at 0.
                (b.count * at / b.upper, at / 2.0)
            } else if b.upper <= 0.0 {
                (b.count, at)
            } else {
                (0.0, finite(b.upper))
            };
        }
        return if at <= b.lower {
            (b.count, 0.0)
        } else if at >= 0.0 && b.upper > at && b.upper != f64::INFINITY {
            (b.count * (1.0 - at / b.upper), (at + b.upper) / 2.0)
        } else {
            (0.0, finite(b.upper))
        };
    }
    if upper || at < b.lower { (0.0, finite(b.lower)) } else { (b.count, at) }
}

fn cut_zero(zero: &Bucket, at: f64, has_negative: bool, has_positive: bool, upper_trim: bool) -> (f64, f64) {
    let (mut lower, mut upper) = (zero.lower, zero.upper);
    if has_negative && !has_positive {
        upper = 0.0;
    }
    if has_positive && !has_negative {
        lower = 0.0;
    }
    let (keep_below, keep_above) = if upper_trim { (0.0, zero.count) } else { (zero.count, 0.0) };
    let middle = (lower + upper) / 2.0;
    if at <= lower {
        return (keep_below, if upper_trim { 0.0 } else { middle });
    }
    if at >= upper {
        return (keep_above, if upper_trim { middle } else { 0.0 });
    }
    let (fraction, middle) = if upper_trim {
        ((at - lower) / (upper - lower), (lower + at) / 2.0)
    } else {
        ((upper - at) / (upper - lower), (at + upper) / 2.0)
    };
    (zero.count * fraction, middle)
}

fn midpoint(lower: f64, upper: f64, positive: bool, linear: bool) -> f64 {
    if lower.is_infinite() {
        return if upper.is_infinite() {
            0.0
        } else if upper > 0.0 {
            upper / 2.0
        } else {
            upper
        };
    }
    if upper.is_infinite() {
        return lower;
    }
    if linear {
        return (lower + upper) / 2.0;
    }
    let mean = (lower * upper).abs().sqrt();
    if positive { mean } else { -mean }
}
