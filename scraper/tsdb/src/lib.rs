//! The group store: what is scraped is kept as columns, in memory first and in RocksDB soon after.
//!
//! Pure parts, without I/O: [`codec`] (columns to bytes) and [`block`] (the columns of one metric of one group in one
//! window).

pub mod block;
pub mod codec;
