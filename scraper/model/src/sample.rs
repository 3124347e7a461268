//! Samples and the staleness marker.

use crate::Labels;

/// The one NaN bit pattern that marks the end of a series (Prometheus `model/value.StaleNaN`). Every other NaN is
/// an ordinary value.
pub const STALE_NAN_BITS: u64 = 0x7ff0_0000_0000_0002;

/// The staleness marker as a value.
pub fn stale_nan() -> f64 {
    f64::from_bits(STALE_NAN_BITS)
}

/// Whether `value` is the staleness marker (not merely some NaN).
pub fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE_NAN_BITS
}

/// An exemplar of a series: the labels (such as a trace id) of one observation.
#[derive(Clone, Debug, PartialEq)]
pub struct Exemplar {
    pub labels: Labels,
    pub value: f64,
    /// Milliseconds since the epoch; the scrape's time where the page gave none.
    pub timestamp: i64,
    /// Whether the page gave the timestamp.
    pub has_timestamp: bool,
}
