//! Which series have which labels.
//!
//! * [`ActiveIndex`] holds the series that are being scraped, in memory: labels as numbers of label pairs, and for each
//!   pair the set of its series. Forgotten series leave nothing behind.
//! * [`partition`] is the form of label pairs on disk, one partition a day: keys that sort so that a label's values are
//!   a range, and compressed sets of numbers. Nothing here reads or writes it.
//! * [`select()`] answers matchers over either, through [`Postings`].
//!
//! The semantics are those of Prometheus: a label that a series does not have counts as empty, so that a matcher that
//! matches the empty string also selects series without the label. A matcher is tested once per distinct value of its
//! label, and not at all where its values can be listed.

mod active;
mod bulk;
mod ids;
pub mod partition;
mod select;

pub use active::{ActiveIndex, Data, IndexMemory, IndexStats, KnownLabels};
pub use bulk::{Added, Bulk};
pub use ids::{IdSet, Ids, IndexError};
pub use select::{Postings, Visit, label_names, label_values, select};

/// A series of this store, dense and never reused.
pub type SeriesId = u32;

#[cfg(test)]
mod tests;
