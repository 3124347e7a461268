//! The words that every other package speaks: labels, matchers, samples, histograms, metadata, relabelling.
//!
//! Pure data and pure functions: no I/O, no clocks, no threads. Timestamps are `i64` milliseconds since the Unix
//! epoch and ranges are closed, `[mint, maxt]`, unless a docstring says otherwise.

pub mod duration;
pub mod generations;
pub mod gomath;
pub mod histogram;
pub mod kahan;
pub mod labels;
pub mod matcher;
pub mod metadata;
pub mod names;
pub mod number;
pub mod protobuf;
pub mod regexp;
pub mod relabel;
pub mod sample;
pub mod varint;
pub mod wide;

pub use histogram::{CounterResetHint, Histogram, Span};
pub use labels::{Labels, LabelsBuilder};
pub use matcher::{MatchType, Matcher, MatcherError};
pub use metadata::{Metadata, MetricType, TYPE_LABEL, UNIT_LABEL};
pub use names::ValidationScheme;
pub use relabel::{Action, RelabelConfig, RelabelRegex};
pub use sample::{Exemplar, STALE_NAN_BITS, is_stale, stale_nan};

/// The label that holds the metric's name.
pub const METRIC_NAME: &str = "__name__";
