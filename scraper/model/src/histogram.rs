//! Native histograms with float counts: what queries see, and what is stored (integer histograms are exact in it up
//! to 2^53 observations). Arithmetic, comparison and texts are Prometheus's (`model/histogram.FloatHistogram`).
//!
//! Spans and buckets may disagree in what comes from disk or network: nothing here panics on that, buckets without a
//! span and spans without buckets are ignored.

mod add;
mod bounds;
mod buckets;
mod layout;
mod quantile;
mod reset;
mod text;
mod trim;

pub use add::{AddOutcome, IncompatibleSchemas};
pub use bounds::{exponential_bound, upper_bound};
pub use buckets::Bucket;
pub use quantile::{NanObservations, fraction, quantile};

/// The schema of histograms whose bucket bounds are listed in `custom_values`.
pub const CUSTOM_BUCKETS_SCHEMA: i32 = -53;

/// A run of consecutive buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Gap to the end of the previous span; for the first one, the index of its first bucket.
    pub offset: i32,
    /// How many buckets follow.
    pub length: u32,
}

/// What is known about a counter reset between this histogram and the one before it in its series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CounterResetHint {
    #[default]
    Unknown,
    CounterReset,
    NotCounterReset,
    Gauge,
}

impl CounterResetHint {
    /// The number in Prometheus's messages (`prompb`) and in this project's own formats: 0 to 3.
    #[inline]
    pub fn code(self) -> u8 {
        match self {
            CounterResetHint::Unknown => 0,
            CounterResetHint::CounterReset => 1,
            CounterResetHint::NotCounterReset => 2,
            CounterResetHint::Gauge => 3,
        }
    }

    /// The hint of that number.
    #[inline]
    pub fn from_code(code: u64) -> Option<CounterResetHint> {
        Some(match code {
            0 => CounterResetHint::Unknown,
            1 => CounterResetHint::CounterReset,
            2 => CounterResetHint::NotCounterReset,
            3 => CounterResetHint::Gauge,
            _ => return None,
        })
    }
}

/// A native histogram (Prometheus `model/histogram.FloatHistogram`). Bucket counts are absolute, not deltas.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    pub counter_reset_hint: CounterResetHint,
    /// -4 to 8 for exponential buckets (bounds are powers of 2^(2^-schema)), [`CUSTOM_BUCKETS_SCHEMA`] for listed ones.
    pub schema: i32,
    pub zero_threshold: f64,
    pub zero_count: f64,
    pub count: f64,
    pub sum: f64,
    pub positive_spans: Vec<Span>,
    pub negative_spans: Vec<Span>,
    pub positive_buckets: Vec<f64>,
    pub negative_buckets: Vec<f64>,
    /// Upper bounds, ascending, without +Inf; only with [`CUSTOM_BUCKETS_SCHEMA`].
    pub custom_values: Vec<f64>,
}

impl Histogram {
    /// Whether the histogram is a staleness marker, which its sum says.
    pub fn is_stale(&self) -> bool {
        crate::is_stale(self.sum)
    }

    /// The histogram that a counter of this one's layout starts with: nothing counted, and known to be a reset.
    pub fn zero_like(&self) -> Histogram {
        Histogram {
            counter_reset_hint: CounterResetHint::CounterReset,
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            custom_values: self.custom_values.clone(),
            ..Histogram::default()
        }
    }

    /// Whether the buckets have listed bounds rather than exponential ones.
    pub fn uses_custom_buckets(&self) -> bool {
        self.schema == CUSTOM_BUCKETS_SCHEMA
    }

    /// How many float samples the histogram weighs in limits and statistics: its bytes in Prometheus's memory,
    /// timestamp included, by the 16 bytes of a float sample.
    pub fn weight(&self) -> usize {
        let spans = self.positive_spans.len() + self.negative_spans.len();
        let values = self.positive_buckets.len() + self.negative_buckets.len() + self.custom_values.len();
        (168 + 8 * (spans + values) + 8) / 16
    }

    /// Scales all counts and the sum. A negative factor makes a gauge of it.
    pub fn mul(&mut self, factor: f64) {
        self.zero_count *= factor;
        self.count *= factor;
        self.sum *= factor;
        self.positive_buckets.iter_mut().chain(&mut self.negative_buckets).for_each(|b| *b *= factor);
        if factor < 0.0 {
            self.counter_reset_hint = CounterResetHint::Gauge;
        }
    }

    /// Divides all counts and the sum. Division by zero removes the buckets, by a negative number makes a gauge.
    pub fn div(&mut self, divisor: f64) {
        self.zero_count /= divisor;
        self.count /= divisor;
        self.sum /= divisor;
        if divisor == 0.0 {
            self.positive_buckets.clear();
            self.negative_buckets.clear();
            self.positive_spans.clear();
            self.negative_spans.clear();
            return;
        }
        self.positive_buckets.iter_mut().chain(&mut self.negative_buckets).for_each(|b| *b /= divisor);
        if divisor < 0.0 {
            self.counter_reset_hint = CounterResetHint::Gauge;
        }
    }

    /// Whether any count, the sum or a bound is infinite.
    pub fn has_overflow(&self) -> bool {
        [self.zero_count, self.count, self.sum]
            .iter()
            .chain(&self.positive_buckets)
            .chain(&self.negative_buckets)
            .chain(&self.custom_values)
            .any(|v| v.is_infinite())
    }

    /// Whether both hold the same data to the bit (Prometheus `Equals`); the counter reset hint does not count, nor
    /// how buckets are cut into spans.
    pub fn same_data(&self, other: &Histogram) -> bool {
        let bits =
            |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
        self.schema == other.schema
            && self.count.to_bits() == other.count.to_bits()
            && self.sum.to_bits() == other.sum.to_bits()
            && (!self.uses_custom_buckets() || self.custom_values == other.custom_values)
            && self.zero_threshold == other.zero_threshold
            && self.zero_count.to_bits() == other.zero_count.to_bits()
            && layout::same(&self.negative_spans, &other.negative_spans)
            && bits(&self.negative_buckets, &other.negative_buckets)
            && layout::same(&self.positive_spans, &other.positive_spans)
            && bits(&self.positive_buckets, &other.positive_buckets)
    }

    /// Removes empty buckets and joins adjacent spans.
    pub fn compact(&mut self) {
        layout::compact(&mut self.positive_spans, &mut self.positive_buckets, None);
        layout::compact(&mut self.negative_spans, &mut self.negative_buckets, None);
    }

    /// Merges buckets down to a lower exponential schema; does nothing when that is not lower, or with listed bounds.
    pub fn reduce_resolution(&mut self, schema: i32) {
        if self.uses_custom_buckets() || schema == CUSTOM_BUCKETS_SCHEMA || schema >= self.schema {
            return;
        }
        for (spans, buckets) in [
            (&mut self.positive_spans, &mut self.positive_buckets),
            (&mut self.negative_spans, &mut self.negative_buckets),
        ] {
            let reduced = layout::reduce(spans, buckets, self.schema, schema);
            (*spans, *buckets) = layout::to_spans(reduced);
        }
        self.schema = schema;
    }

    /// Only what `histogram_count`, `histogram_sum` and `histogram_avg` need.
    pub fn without_buckets(&self) -> Histogram {
        Histogram {
            counter_reset_hint: self.counter_reset_hint,
            schema: self.schema,
            count: self.count,
            sum: self.sum,
            ..Histogram::default()
        }
    }
}
