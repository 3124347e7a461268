//! The unit of storage: the columns of one metric name of one group in one window.
//!
//! A block is a byte string that stands for itself but for one thing: the timestamps that its columns share. Those lie
//! beside it, once per group and window ([`encode_times`]), and the block knows a hash of them; most blocks are so small
//! that timestamps of their own would be half of them.
//!
//! A column is what one series has in the window: floats, or native histograms. It has a sample in all shared rows, in
//! some of them ([`Rows`]), or at timestamps of its own. One series may have several columns (floats and histograms,
//! shared rows and late samples).
//!
//! ```text
//! block   := version:u8 rows:varint times count:varint entry{count} body{count} checksum:u32
//! times   := 0 hash:u16 | 1 0 (there are none)
//! entry   := flags:u8 [series - previous:signed] [rows | own count] [len(body):varint]
//! body    := [len own timestamps] [len start timestamps] ([len entries] float column | histograms)
//! ```
//! The first byte is the format's version; unknown versions are refused. The checksum covers all
//! bytes before it and is verified before anything else is read.

mod build;
mod histogram;
mod read;
mod rows;

pub use build::{At, BlockBuilder, ColumnSpec, encode_times};
pub use read::{Block, Column, Need, ReadColumn, Samples, decode_times, verify};
pub use rows::Rows;

use crate::codec::CodecError;

/// The version that is written, and the only one that is read.
pub const VERSION: u8 = 1;

/// The first byte of a record of shared timestamps ([`encode_times`]).
const TIMES_VERSION: u8 = 0x81;

/// The hash of shared timestamps follows.
const TIMES_SHARED: u8 = 0;
/// No timestamps are shared: what a block has here instead.
const TIMES_NONE: [u8; 2] = [1, 0];

mod flags {
    //! The first byte of a column's entry.
    pub(super) const ROWS: u8 = 0b11;
    pub(super) const ROWS_ALL: u8 = 0;
    pub(super) const ROWS_RANGE: u8 = 1;
    pub(super) const ROWS_RUNS: u8 = 2;
    pub(super) const OWN_TIMES: u8 = 3;
    /// Native histograms instead of floats.
    pub(super) const HISTOGRAMS: u8 = 1 << 2;
    /// The floats are differences to those of the column before.
    pub(super) const RELATIVE: u8 = 1 << 3;
    /// Start timestamps are there.
    pub(super) const STARTS: u8 = 1 << 4;
    /// The series is the previous one plus 1: no gap is written.
    pub(super) const NEXT_SERIES: u8 = 1 << 5;
    /// The body is that of the column before: none is written.
    pub(super) const SAME_BODY: u8 = 1 << 6;
    /// The floats can be entered in the middle. With this all bits have a meaning.
    pub(super) const ENTRIES: u8 = 1 << 7;
}

/// A block that cannot be read. All but `Timestamps` mean that the stored bytes are damaged or from a newer version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    #[error("block ends early")]
    Truncated,
    #[error("block of unknown version {0}, this program reads {VERSION}")]
    Version(u8),
    #[error("block checksum does not fit its content")]
    Checksum,
    #[error("block is corrupt: {0}")]
    Corrupt(&'static str),
    #[error("series {series} in block: {source}")]
    Column {
        series: u64,
        #[source]
        source: CodecError,
    },
    #[error("block directory: {0}")]
    Directory(#[source] CodecError),
    #[error("the timestamps are not those that the block was written with")]
    Timestamps,
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    (xxhash_rust::xxh3::xxh3_64(bytes) as u32).to_le_bytes()
}

/// Splits the checksum off and verifies it and the version.
fn verified(bytes: &[u8], version: u8) -> Result<&[u8], BlockError> {
    let (content, sum) = bytes.split_last_chunk::<4>().ok_or(BlockError::Truncated)?;
    let found = *content.first().ok_or(BlockError::Truncated)?;
    if found != version {
        return Err(BlockError::Version(found));
    }
    if *sum != checksum(content) {
        return Err(BlockError::Checksum);
    }
    Ok(&content[1..])
}

/// A short hash by which a block recognises its timestamps.
pub fn times_hash(timestamps: &[i64]) -> u16 {
    let mut bytes = vec![0; 8 * timestamps.len()];
    for (place, t) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(timestamps) {
        *place = t.to_le_bytes();
    }
    xxhash_rust::xxh3::xxh3_64(&bytes) as u16
}

#[cfg(test)]
mod tests;
