//! The contract between those who produce samples, those who keep them and those who ask for them.
//!
//! * [`Appendable`] takes samples: whole scrapes of a *group* (one target, one rule group) at one timestamp, or
//!   samples with timestamps of their own.
//! * [`Queryable`] gives them back as columns. The store, a peer shard and the whole fleet all look like this, and
//!   PromQL cannot tell which one it has.
//! * [`Followable`] gives what was appended in its order, to be sent on.
//!
//! Appending is synchronous and cheap; durability is a future. Selecting is asynchronous (it may cross the network);
//! iterating what was selected is not.

mod append;
mod error;
pub mod memory;
mod meter;
mod query;
mod tail;
mod trace;

pub use append::{
    AppendOutcome, Appendable, Budget, Durable, GroupAppender, GroupKey, Item, OwnSample, Place, PlacedSample, Refusal,
    ScrapeRow, SeriesSpec, Slot, Why, WriteBatch, WriteSeries, ZeroSample,
};
pub use error::{ErrorKind, StorageError};
pub use meter::{Bound, HeldBytes, MemoryPool, Meter, MeterOptions};
pub use query::{
    Backfilled, Batch, FloatColumn, HistogramColumn, LabelQuery, LabelResult, MetadataEntry, Queryable, SelectHints,
    SelectRequest, Series, SeriesSet, StorageAdmin, TsdbStats, Values,
};
pub use tail::{Followable, Tail, TailLag, TailSample, TailValue, Tailed};
pub use trace::{Trace, TraceStep};
