//! Addition and subtraction: zero buckets, schemas and listed bounds are reconciled first.

use super::layout::{compact, indexed, reduce, reduce_compensated, same, to_spans};
use super::{CounterResetHint, Histogram, Span, exponential_bound};
use crate::kahan;

/// One side has exponential buckets, the other listed bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot apply this operation on histograms with a mix of exponential and custom bucket schemas")]
pub struct IncompatibleSchemas;

/// What else is to be said of an addition or subtraction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddOutcome {
    /// One side was marked as a counter reset, the other as none.
    pub counter_reset_collision: bool,
    /// The listed bounds differed: only the common ones are left.
    pub bounds_reconciled: bool,
}

type Pairs = Vec<(i32, f64)>;
type Triples = Vec<(i32, f64, f64)>;

impl Histogram {
    /// Adds another histogram. Buckets that only it has are inserted, empty ones are kept ([`Histogram::compact`]).
    ///
    /// # Errors
    /// When only one of them has listed bounds; `self` is unchanged then.
    pub fn add(&mut self, other: &Histogram) -> Result<AddOutcome, IncompatibleSchemas> {
        self.combine(other, 1.0)
    }

    /// Subtracts likewise. The counter reset hint is treated as in an addition.
    ///
    /// # Errors
    /// As [`Histogram::add`].
    pub fn sub(&mut self, other: &Histogram) -> Result<AddOutcome, IncompatibleSchemas> {
        self.combine(other, -1.0)
    }

    fn combine(&mut self, other: &Histogram, sign: f64) -> Result<AddOutcome, IncompatibleSchemas> {
        let mut outcome = self.begin(other)?;
        if self.uses_custom_buckets() {
            self.count += sign * other.count;
            self.sum += sign * other.sum;
            if self.custom_values == other.custom_values {
                self.merge_positive(&other.positive_spans, &other.positive_buckets, sign);
            } else {
                outcome.bounds_reconciled = true;
                self.merge_custom(other, sign, None);
            }
            return Ok(outcome);
        }
        let zero_count = self.reconcile_zero_buckets(other, &mut None);
        self.zero_count += sign * zero_count;
        self.count += sign * other.count;
        self.sum += sign * other.sum;

        if other.schema < self.schema {
            self.reduce_resolution(other.schema);
        }
        if other.schema > self.schema {
            let positive = to_spans(reduce(&other.positive_spans, &other.positive_buckets, other.schema, self.schema));
            let negative = to_spans(reduce(&other.negative_spans, &other.negative_buckets, other.schema, self.schema));
            self.merge_positive(&positive.0, &positive.1, sign);
            self.merge_negative(&negative.0, &negative.1, sign);
        } else {
            self.merge_positive(&other.positive_spans, &other.positive_buckets, sign);
            self.merge_negative(&other.negative_spans, &other.negative_buckets, sign);
        }
        Ok(outcome)
    }

    fn merge_positive(&mut self, spans: &[Span], counts: &[f64], sign: f64) {
        let skip = self.skipped(spans, counts);
        merge(&mut self.positive_spans, &mut self.positive_buckets, spans, counts, skip, sign);
    }

    fn merge_negative(&mut self, spans: &[Span], counts: &[f64], sign: f64) {
        let skip = self.skipped(spans, counts);
        merge(&mut self.negative_spans, &mut self.negative_buckets, spans, counts, skip, sign);
    }

    /// How many of the first buckets lie within the zero bucket, whose count holds them already.
    fn skipped(&self, spans: &[Span], counts: &[f64]) -> usize {
        if self.uses_custom_buckets() {
            return 0;
        }
        indexed(spans, counts).take_while(|(i, _)| exponential_bound(*i, self.schema) <= self.zero_threshold).count()
    }

    /// Adds another histogram with compensated summation. `compensation` starts as `None` and has to be handed back
    /// in at the next addition; the sum is `self` plus it.
    ///
    /// # Errors
    /// As [`Histogram::add`].
    pub fn kahan_add(
        &mut self,
        other: &Histogram,
        compensation: &mut Option<Histogram>,
    ) -> Result<AddOutcome, IncompatibleSchemas> {
        let mut outcome = self.begin(other)?;
        if compensation.is_none() {
            *compensation = Some(Histogram {
                counter_reset_hint: self.counter_reset_hint,
                schema: self.schema,
                zero_threshold: self.zero_threshold,
                custom_values: self.custom_values.clone(),
                positive_spans: self.positive_spans.clone(),
                negative_spans: self.negative_spans.clone(),
                positive_buckets: vec![0.0; self.positive_buckets.len()],
                negative_buckets: vec![0.0; self.negative_buckets.len()],
                ..Histogram::default()
            });
        }
        let zero_count =
            if self.uses_custom_buckets() { 0.0 } else { self.reconcile_zero_buckets(other, compensation) };
        let Some(c) = compensation.as_mut() else { return Ok(outcome) };
        if !self.uses_custom_buckets() {
            (self.zero_count, c.zero_count) = kahan::add(zero_count, self.zero_count, c.zero_count);
        }
        (self.count, c.count) = kahan::add(other.count, self.count, c.count);
        (self.sum, c.sum) = kahan::add(other.sum, self.sum, c.sum);

        if self.uses_custom_buckets() {
            if self.custom_values == other.custom_values {
                let plain = Compensated { spans: &other.positive_spans, counts: &other.positive_buckets, extra: &[] };
                merge_compensated(
                    (&mut self.positive_spans, &mut self.positive_buckets, &mut c.positive_buckets),
                    plain,
                    0,
                );
            } else {
                outcome.bounds_reconciled = true;
                self.merge_custom(other, 1.0, Some(&mut c.positive_buckets));
                c.custom_values.clone_from(&self.custom_values);
            }
            c.positive_spans.clone_from(&self.positive_spans);
            return Ok(outcome);
        }

        if other.schema < self.schema {
            for (spans, counts, extra) in [
                (&mut self.positive_spans, &mut self.positive_buckets, &mut c.positive_buckets),
                (&mut self.negative_spans, &mut self.negative_buckets, &mut c.negative_buckets),
            ] {
                let reduced = reduce_compensated(spans, counts, extra, self.schema, other.schema);
                *extra = reduced.iter().map(|t| t.2).collect();
                (*spans, *counts) = to_spans(reduced.iter().map(|t| (t.0, t.1)));
            }
            self.schema = other.schema;
        }
        for positive in [true, false] {
            let (spans, counts) = if positive {
                (&other.positive_spans, &other.positive_buckets)
            } else {
                (&other.negative_spans, &other.negative_buckets)
            };
            let (reduced, extra): ((Vec<Span>, Vec<f64>), Vec<f64>);
            let side = if other.schema > self.schema {
                let zeros = vec![0.0; counts.len()];
                let triples = reduce_compensated(spans, counts, &zeros, other.schema, self.schema);
                extra = triples.iter().map(|t| t.2).collect();
                reduced = to_spans(triples.iter().map(|t| (t.0, t.1)));
                Compensated { spans: &reduced.0, counts: &reduced.1, extra: &extra }
            } else {
                Compensated { spans, counts, extra: &[] }
            };
            let skip = self.skipped(side.spans, side.counts);
            let own = if positive {
                (&mut self.positive_spans, &mut self.positive_buckets, &mut c.positive_buckets)
            } else {
                (&mut self.negative_spans, &mut self.negative_buckets, &mut c.negative_buckets)
            };
            merge_compensated(own, side, skip);
        }
        c.schema = self.schema;
        c.zero_threshold = self.zero_threshold;
        c.positive_spans.clone_from(&self.positive_spans);
        c.negative_spans.clone_from(&self.negative_spans);
        Ok(outcome)
    }

    /// Checks that the two can be combined, and combines their hints.
    fn begin(&mut self, other: &Histogram) -> Result<AddOutcome, IncompatibleSchemas> {
        use CounterResetHint::{Gauge, Unknown};
        if self.uses_custom_buckets() != other.uses_custom_buckets() {
            return Err(IncompatibleSchemas);
        }
        let (own, theirs) = (self.counter_reset_hint, other.counter_reset_hint);
        let mut outcome = AddOutcome::default();
        self.counter_reset_hint = match (own, theirs) {
            (a, b) if a == b => a,
            (Gauge, _) | (_, Gauge) => Gauge,
            (Unknown, _) | (_, Unknown) => Unknown,
            _ => {
                outcome.counter_reset_collision = true;
                Unknown
            }
        };
        Ok(outcome)
    }

    /// Makes the zero bucket wide enough to hold both zero buckets without cutting a populated bucket of either, and
    /// returns the zero count that `other` has with it.
    fn reconcile_zero_buckets(&mut self, other: &Histogram, compensation: &mut Option<Histogram>) -> f64 {
        let (mut count, mut threshold) = (other.zero_count, other.zero_threshold);
        // Each round moves one threshold up to a bucket bound; a NaN never gets equal.
        while threshold != self.zero_threshold {
            let before = (threshold, self.zero_threshold);
            if self.zero_threshold > threshold {
                (count, threshold, _) = other.zero_count_for(self.zero_threshold, None);
            }
            if threshold > self.zero_threshold {
                let (zero_count, zero_threshold, c) = self.zero_count_for(threshold, compensation.as_ref());
                (self.zero_count, self.zero_threshold) = (zero_count, zero_threshold);
                if let Some(compensation) = compensation {
                    compensation.zero_count = c;
                }
                self.trim_buckets_in_zero_bucket(compensation.as_mut());
            }
            if before == (threshold, self.zero_threshold) || threshold.is_nan() || self.zero_threshold.is_nan() {
                break;
            }
        }
        count
    }

    /// The zero count that the histogram has with a larger zero threshold, that threshold moved up to the end of a
    /// populated bucket which it would cut, and the compensation of the count.
    pub(super) fn zero_count_for(&self, threshold: f64, compensation: Option<&Histogram>) -> (f64, f64, f64) {
        let start = compensation.map_or(0.0, |c| c.zero_count);
        if threshold <= self.zero_threshold {
            return (self.zero_count, self.zero_threshold, start);
        }
        let mut threshold = threshold;
        'outer: loop {
            let (mut count, mut c) = (self.zero_count, start);
            for (i, b) in self.positive().enumerate() {
                if b.lower >= threshold {
                    break;
                }
                (count, c) = kahan::add(b.count, count, c);
                if let Some(extra) = compensation.and_then(|h| h.positive_buckets.get(i)) {
                    (count, c) = kahan::add(*extra, count, c);
                }
                if b.upper > threshold {
                    if b.count != 0.0 {
                        threshold = b.upper;
                    }
                    break;
                }
            }
            for (i, b) in self.negative().enumerate() {
                if b.upper <= -threshold {
                    break;
                }
                (count, c) = kahan::add(b.count, count, c);
                if let Some(extra) = compensation.and_then(|h| h.negative_buckets.get(i)) {
                    (count, c) = kahan::add(*extra, count, c);
                }
                if b.lower < -threshold {
                    if b.count != 0.0 {
                        // What was taken from the positive side no longer holds.
                        threshold = -b.lower;
                        continue 'outer;
                    }
                    break;
                }
            }
            return (count, threshold, c);
        }
    }

    fn trim_buckets_in_zero_bucket(&mut self, compensation: Option<&mut Histogram>) {
        let positive = self.positive().take_while(|b| b.lower < self.zero_threshold).count();
        let negative = self.negative().take_while(|b| b.upper > -self.zero_threshold).count();
        self.positive_buckets[..positive].fill(0.0);
        self.negative_buckets[..negative].fill(0.0);
        let (mut c_positive, mut c_negative) = (None, None);
        if let Some(c) = compensation {
            c.positive_buckets.iter_mut().take(positive).for_each(|v| *v = 0.0);
            c.negative_buckets.iter_mut().take(negative).for_each(|v| *v = 0.0);
            (c_positive, c_negative) = (Some(&mut c.positive_buckets), Some(&mut c.negative_buckets));
        }
        compact(&mut self.positive_spans, &mut self.positive_buckets, c_positive);
        compact(&mut self.negative_spans, &mut self.negative_buckets, c_negative);
    }

    /// Adds or subtracts a histogram with other listed bounds: both are mapped to the bounds that they share.
    fn merge_custom(&mut self, other: &Histogram, sign: f64, compensation: Option<&mut Vec<f64>>) {
        let bounds = common_bounds(&self.custom_values, &other.custom_values);
        let mut counts = vec![0.0; bounds.len() + 1];
        let mut extra = vec![0.0; bounds.len() + 1];
        let mut map = |spans: &[Span], buckets: &[f64], from: &[f64], sign: f64, own: Option<&[f64]>| {
            for (i, (index, value)) in indexed(spans, buckets).enumerate() {
                let target = match usize::try_from(index).ok().and_then(|i| from.get(i)) {
                    Some(bound) => bounds.partition_point(|b| b < bound),
                    None => bounds.len(),
                };
                (counts[target], extra[target]) = kahan::add(sign * value, counts[target], extra[target]);
                if let Some(c) = own.and_then(|c| c.get(i)) {
                    (counts[target], extra[target]) = kahan::add(*c, counts[target], extra[target]);
                }
            }
        };
        let own = compensation.as_deref().map(Vec::as_slice);
        map(&self.positive_spans, &self.positive_buckets, &self.custom_values, 1.0, own);
        map(&other.positive_spans, &other.positive_buckets, &other.custom_values, sign, None);

        let kept: Triples = (0i32..)
            .zip(counts.iter().zip(&extra))
            .filter(|(_, (v, c))| **v != 0.0 || **c != 0.0)
            .map(|(i, (v, c))| (i, *v, *c))
            .collect();
        (self.positive_spans, self.positive_buckets) = to_spans(kept.iter().map(|t| (t.0, t.1)));
        if let Some(c) = compensation {
            *c = kept.iter().map(|t| t.2).collect();
        }
        self.custom_values = bounds;
    }
}

/// The bounds that are in both lists.
pub(super) fn common_bounds(a: &[f64], b: &[f64]) -> Vec<f64> {
    let (mut out, mut i, mut j) = (Vec::new(), 0, 0);
    while i < a.len() && j < b.len() {
        if a[i] == b[j] {
            out.push(a[i]);
            i += 1;
            j += 1;
        } else if a[i] < b[j] {
            i += 1;
        } else {
            j += 1;
        }
    }
    out
}

/// Adds `sign` times the buckets of `b`, but for the first `skip`, to those of `a`.
fn merge(a_spans: &mut Vec<Span>, a: &mut Vec<f64>, b_spans: &[Span], b: &[f64], skip: usize, sign: f64) {
    if b.is_empty() || b_spans.is_empty() {
        return;
    }
    if skip == 0 && a.len() == b.len() && same(a_spans, b_spans) {
        a.iter_mut().zip(b).for_each(|(a, b)| *a += sign * b);
        return;
    }
    let mut out: Pairs = Vec::with_capacity(a.len() + b.len());
    let mut theirs = indexed(b_spans, b).skip(skip).peekable();
    for (index, count) in indexed(a_spans, a) {
        while let Some((i, v)) = theirs.next_if(|(i, _)| *i < index) {
            out.push((i, sign * v));
        }
        let mut count = count;
        if let Some((_, v)) = theirs.next_if(|(i, _)| *i == index) {
            count += sign * v;
        }
        out.push((index, count));
    }
    out.extend(theirs.map(|(i, v)| (i, sign * v)));
    (*a_spans, *a) = to_spans(out);
}

/// Buckets with compensations; `extra` is empty where there are none.
#[derive(Clone, Copy)]
struct Compensated<'a> {
    spans: &'a [Span],
    counts: &'a [f64],
    extra: &'a [f64],
}

fn merge_compensated(own: (&mut Vec<Span>, &mut Vec<f64>, &mut Vec<f64>), b: Compensated<'_>, skip: usize) {
    let (a_spans, a, a_extra) = own;
    if b.counts.is_empty() || b.spans.is_empty() {
        return;
    }
    a_extra.resize(a.len(), 0.0);
    let extra = |i: usize| b.extra.get(i).copied().unwrap_or(0.0);
    let add = |v: f64, c: f64, own: (f64, f64)| {
        let sum = kahan::add(v, own.0, own.1);
        if c == 0.0 { sum } else { kahan::add(c, sum.0, sum.1) }
    };
    if skip == 0 && a.len() == b.counts.len() && same(a_spans, b.spans) {
        for (i, v) in b.counts.iter().enumerate() {
            (a[i], a_extra[i]) = add(*v, extra(i), (a[i], a_extra[i]));
        }
        return;
    }
    let mut out: Triples = Vec::with_capacity(a.len() + b.counts.len());
    let mut theirs = indexed(b.spans, b.counts).enumerate().skip(skip).map(|(n, (i, v))| (i, v, extra(n))).peekable();
    for ((index, count), c) in indexed(a_spans, a).zip(a_extra.iter()) {
        while let Some(triple) = theirs.next_if(|t| t.0 < index) {
            out.push(triple);
        }
        let mut own = (count, *c);
        if let Some((_, v, e)) = theirs.next_if(|t| t.0 == index) {
            own = add(v, e, own);
        }
        out.push((index, own.0, own.1));
    }
    out.extend(theirs);
    *a_extra = out.iter().map(|t| t.2).collect();
    (*a_spans, *a) = to_spans(out.iter().map(|t| (t.0, t.1)));
}
