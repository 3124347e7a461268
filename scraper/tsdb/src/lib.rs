//! The group store: what is scraped is kept as columns, in memory first and in RocksDB soon after.
//!
//! A *group* is one scraped target, one rule group, or series that remote write brings together. Its scrapes are rows
//! over one list of columns: a row goes to the log as the difference to the row before it ([`row`]), the same bytes
//! are the newest part of the group's open window in memory ([`window`]), and a window that is full becomes blocks.
//!
//! Pure parts, without I/O: [`codec`] (columns to bytes), [`block`] (the columns of one metric of one group in one
//! window) and [`index`] (which series have which labels).
//!
//! This is the only package that knows RocksDB, and within it only [`db`] does. It knows no tokio. Time is what samples
//! bring; a clock only tells which groups are idle.

pub mod block;
pub mod codec;
pub mod index;

mod admin;
mod append;
mod assemble;
mod backfill;
mod blocks;
mod budget;
mod cached;
mod close;
mod db;
mod dead;
mod decimal;
mod decoded;
mod delete;
mod doubles;
mod error;
mod exemplars;
mod figures;
mod follow;
mod group;
mod judge;
mod maintain;
mod merge;
mod metadata;
mod options;
mod query;
mod record;
mod recover;
mod remote;
mod row;
mod segment;
mod series;
mod side;
mod store;
mod view;
mod window;
mod wire;
mod writer;

pub use error::TsdbError;
pub use options::{Observer, StoreOptions, Took};
pub use store::Store;
