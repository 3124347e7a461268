//! What of a block's series was deleted.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{Cursor, Source, crc};

const MAGIC: [u8; 4] = 0x0130_ba30_u32.to_be_bytes();
/// Magic number and version.
const HEAD: usize = 5;

/// Closed ranges by the number of the series.
#[derive(Default)]
pub struct Deleted(HashMap<u64, Vec<(i64, i64)>>);

impl Deleted {
    /// A block without such a file has nothing deleted.
    pub fn read(path: &Path) -> Result<Deleted> {
        if !path.exists() {
            return Ok(Deleted::default());
        }
        let source = Source::open(path)?;
        let bytes = source.read(0, usize::try_from(source.len)?)?;
        let what = || path.display().to_string();
        ensure!(bytes.len() >= HEAD + 4 && bytes.starts_with(&MAGIC), "{} holds no deleted ranges", what());
        ensure!(bytes[4] == 1, "{}: deleted ranges of version {}, version 1 is read", what(), bytes[4]);
        let (content, sum) = bytes[HEAD..].split_at(bytes.len() - HEAD - 4);
        ensure!(crc(content) == *sum, "{}: the checksum does not fit", what());
        let mut cursor = Cursor(content);
        let mut deleted = Deleted::default();
        while !cursor.0.is_empty() {
            let mut one = || anyhow::Ok((cursor.varint()?, cursor.signed()?, cursor.signed()?));
            let (series, from, to) = one().with_context(what)?;
            deleted.0.entry(series).or_default().push((from, to));
        }
        Ok(deleted)
    }

    pub fn of(&self, series: u64) -> &[(i64, i64)] {
        self.0.get(&series).map_or(&[], Vec::as_slice)
    }
}
