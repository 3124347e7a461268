//! Buckets with their bounds.

use super::layout::indexed;
use super::{Histogram, upper_bound};
use crate::gomath;

/// A bucket: its bounds, which of them belong to it, and how many observations it holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    pub lower: f64,
    pub upper: f64,
    pub lower_inclusive: bool,
    pub upper_inclusive: bool,
    pub count: f64,
}

impl Bucket {
    /// The part of the bucket's width below `v`, which lies within its finite bounds; exponential buckets are
    /// measured on a logarithmic scale unless `linear`.
    pub fn fraction_below(&self, v: f64, linear: bool) -> f64 {
        if linear {
            return (v - self.lower) / (self.upper - self.lower);
        }
        let (lower, upper, v_log) =
            (gomath::log2(self.lower.abs()), gomath::log2(self.upper.abs()), gomath::log2(v.abs()));
        if v > 0.0 { (v_log - lower) / (upper - lower) } else { 1.0 - (v_log - upper) / (lower - upper) }
    }
}

impl Histogram {
    fn bucket(&self, index: i32, count: f64, positive: bool) -> Bucket {
        let bound = |i: i32| upper_bound(i, self.schema, &self.custom_values);
        let (lower, upper) = if positive {
            (bound(index.wrapping_sub(1)), bound(index))
        } else {
            (-bound(index), -bound(index.wrapping_sub(1)))
        };
        let (lower_inclusive, upper_inclusive) =
            if self.uses_custom_buckets() { (index == 0, true) } else { (lower < 0.0, upper > 0.0) };
        Bucket { lower, upper, lower_inclusive, upper_inclusive, count }
    }

    /// The buckets of positive observations, from zero up, empty ones included.
    pub fn positive(&self) -> impl Iterator<Item = Bucket> + '_ {
        indexed(&self.positive_spans, &self.positive_buckets).map(|(i, c)| self.bucket(i, c, true))
    }

    /// The buckets of negative observations, from zero down, empty ones included.
    pub fn negative(&self) -> impl Iterator<Item = Bucket> + '_ {
        indexed(&self.negative_spans, &self.negative_buckets).map(|(i, c)| self.bucket(i, c, false))
    }

    pub fn zero_bucket(&self) -> Bucket {
        Bucket {
            lower: -self.zero_threshold,
            upper: self.zero_threshold,
            lower_inclusive: true,
            upper_inclusive: true,
            count: self.zero_count,
        }
    }

    /// Negative, zero (where populated) and positive buckets in ascending order, empty ones included. A bucket that
    /// reaches into the zero bucket is cut at its threshold.
    pub fn all_buckets(&self) -> Vec<Bucket> {
        let mut all: Vec<Bucket> = self.negative().collect();
        all.reverse();
        let negative = all.len();
        all.extend(self.positive());
        for bucket in &mut all {
            if bucket.upper < 0.0 && bucket.upper > -self.zero_threshold {
                bucket.upper = -self.zero_threshold;
            } else if bucket.lower > 0.0 && bucket.lower < self.zero_threshold {
                bucket.lower = self.zero_threshold;
            }
        }
        if self.zero_count > 0.0 {
            all.insert(negative, self.zero_bucket());
        }
        all
    }
}
