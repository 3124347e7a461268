//! Whether a counter histogram was reset since the sample before it.

use super::layout::{indexed, reduce};
use super::{CounterResetHint, Histogram, Span, exponential_bound};

impl Histogram {
    /// Whether a counter reset lies between `previous` and this histogram: some bucket, the zero count or the count
    /// got smaller or vanished (the sum may shrink). A hint that says so settles it.
    ///
    /// A lower zero threshold or a higher schema can only come with a reset; in the other direction the previous
    /// histogram is reduced before it is compared.
    pub fn detect_reset(&self, previous: &Histogram) -> bool {
        match self.counter_reset_hint {
            CounterResetHint::CounterReset => return true,
            CounterResetHint::NotCounterReset => return false,
            CounterResetHint::Unknown | CounterResetHint::Gauge => {}
        }
        if self.count < previous.count {
            return true;
        }
        if self.uses_custom_buckets() {
            if !previous.uses_custom_buckets() {
                return true;
            }
            if self.custom_values != previous.custom_values {
                return self.custom_reset(previous);
            }
        }
        if self.schema > previous.schema || self.zero_threshold < previous.zero_threshold {
            return true;
        }
        let (zero_count, threshold, _) = previous.zero_count_for(self.zero_threshold, None);
        if threshold != self.zero_threshold || self.zero_count < zero_count {
            return true;
        }
        self.side_reset(
            previous.schema,
            (&self.positive_spans, &self.positive_buckets),
            (&previous.positive_spans, &previous.positive_buckets),
        ) || self.side_reset(
            previous.schema,
            (&self.negative_spans, &self.negative_buckets),
            (&previous.negative_spans, &previous.negative_buckets),
        )
    }

    /// The hint with which a store should hand the histogram out, given the sample before it in its series (none at the
    /// beginning, after a float or a staleness marker): a gauge stays one; that there is no reset is told where the
    /// layout did not change either; everything else is left to be found out, since samples in between may turn up later
    /// (what Prometheus's chunks come to).
    pub fn stored_hint(&self, previous: Option<&Histogram>) -> CounterResetHint {
        use CounterResetHint::{CounterReset, Gauge, NotCounterReset, Unknown};
        if self.counter_reset_hint == Gauge {
            return Gauge;
        }
        let Some(previous) = previous.filter(|p| p.counter_reset_hint != Gauge && !p.is_stale()) else {
            return Unknown;
        };
        if self.counter_reset_hint == CounterReset
            || self.schema != previous.schema
            || self.zero_threshold != previous.zero_threshold
            || self.custom_values != previous.custom_values
        {
            return Unknown;
        }
        let unmarked = Histogram { counter_reset_hint: Unknown, ..self.clone() };
        if unmarked.detect_reset(previous) { Unknown } else { NotCounterReset }
    }

    fn side_reset(&self, previous_schema: i32, own: (&[Span], &[f64]), previous: (&[Span], &[f64])) -> bool {
        if previous_schema == self.schema && own.0 == previous.0 && self.zero_threshold == 0.0 {
            return own.1.iter().zip(previous.1).any(|(a, b)| a < b);
        }
        let within_zero = |index: i32| {
            !self.uses_custom_buckets()
                && self.zero_threshold != 0.0
                && exponential_bound(index, self.schema) <= self.zero_threshold
        };
        let reduced;
        let mut before: Box<dyn Iterator<Item = (i32, f64)>> = if previous_schema == self.schema {
            Box::new(indexed(previous.0, previous.1))
        } else {
            reduced = reduce(previous.0, previous.1, previous_schema, self.schema);
            Box::new(reduced.iter().copied())
        };
        let mut now = indexed(own.0, own.1).skip_while(|(i, _)| within_zero(*i)).peekable();
        before.by_ref().skip_while(|(i, _)| within_zero(*i)).any(|(index, count)| {
            while now.next_if(|(i, _)| *i < index).is_some() {}
            match now.peek() {
                Some((i, own)) if *i == index => *own < count,
                _ => count != 0.0,
            }
        })
    }

    /// With listed bounds that differ: compares what lies up to each common bound.
    fn custom_reset(&self, previous: &Histogram) -> bool {
        let bounds = super::add::common_bounds(&self.custom_values, &previous.custom_values);
        let (mut own, mut before) = (self.positive().peekable(), previous.positive().peekable());
        bounds.iter().chain(&[f64::INFINITY]).any(|bound| {
            let (mut sum, mut sum_before) = (0.0, 0.0);
            while let Some(b) = own.next_if(|b| b.upper <= *bound) {
                sum += b.count;
            }
            while let Some(b) = before.next_if(|b| b.upper <= *bound) {
                sum_before += b.count;
            }
            sum < sum_before
        })
    }
}
