//! Which of the shared rows a column has samples in.

use std::sync::Arc;

use crate::codec::{CodecError, Cursor, put_varint};

use super::flags;

/// Rows of a block, ascending, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rows {
    All,
    /// `len` rows from `start` on.
    Range {
        start: u32,
        len: u32,
    },
    /// Runs `(start, len)`, ascending, not empty, with gaps between them.
    Runs(Box<[(u32, u32)]>),
}

impl Rows {
    /// The set of the rows for which `present` holds.
    pub fn from_presence(present: &[bool]) -> Option<Rows> {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for (row, _) in present.iter().enumerate().filter(|(_, p)| **p) {
            match runs.last_mut() {
                Some((start, len)) if *start + *len == row as u32 => *len += 1,
                _ => runs.push((row as u32, 1)),
            }
        }
        (!runs.is_empty()).then(|| Rows::from_runs(runs, present.len()))
    }

    fn from_runs(runs: Vec<(u32, u32)>, total: usize) -> Rows {
        match *runs {
            [(0, len)] if len as usize == total => Rows::All,
            [(start, len)] => Rows::Range { start, len },
            _ => Rows::Runs(runs.into()),
        }
    }

    /// How many rows there are, of a block with `total` rows.
    pub fn len(&self, total: usize) -> usize {
        match self {
            Rows::All => total,
            Rows::Range { len, .. } => *len as usize,
            Rows::Runs(runs) => runs.iter().map(|(_, len)| *len as usize).sum(),
        }
    }

    /// As runs of consecutive rows, ascending.
    pub fn runs(&self, total: usize) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        let (one, many) = match self {
            Rows::All => (Some((0, total as u32)), &[][..]),
            Rows::Range { start, len } => (Some((*start, *len)), &[][..]),
            Rows::Runs(runs) => (None, &**runs),
        };
        one.into_iter().chain(many.iter().copied()).map(|(start, len)| start as usize..(start + len) as usize)
    }

    /// The timestamps of these rows; the very same allocation when they are all.
    pub fn timestamps(&self, shared: &Arc<[i64]>) -> Arc<[i64]> {
        match self {
            Rows::All => shared.clone(),
            _ => self.runs(shared.len()).flat_map(|run| shared.get(run).unwrap_or_default()).copied().collect(),
        }
    }

    pub(super) fn flag(&self) -> u8 {
        match self {
            Rows::All => flags::ROWS_ALL,
            Rows::Range { .. } => flags::ROWS_RANGE,
            Rows::Runs(_) => flags::ROWS_RUNS,
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Rows::All => {}
            Rows::Range { start, len } => {
                put_varint(out, u64::from(*start));
                put_varint(out, u64::from(*len));
            }
            Rows::Runs(runs) => {
                put_varint(out, runs.len() as u64);
                let mut end = 0;
                for (start, len) in runs {
                    put_varint(out, u64::from(start - end));
                    put_varint(out, u64::from(*len));
                    end = start + len;
                }
            }
        }
    }

    pub(super) fn decode(flag: u8, cursor: &mut Cursor<'_>, total: usize) -> Result<Rows, CodecError> {
        let bad = CodecError::Corrupt("rows outside the block");
        match flag {
            flags::ROWS_ALL => Ok(Rows::All),
            flags::ROWS_RANGE => {
                let start = cursor.bounded(total, "rows outside the block")?;
                let len = cursor.bounded(total - start, "rows outside the block")?;
                if len == 0 { Err(bad) } else { Ok(Rows::Range { start: start as u32, len: len as u32 }) }
            }
            _ => {
                let count = cursor.bounded(total, "too many runs of rows")?;
                let mut runs = Vec::with_capacity(count);
                let mut end = 0;
                for _ in 0..count {
                    let start = end + cursor.bounded(total - end, "rows outside the block")?;
                    let len = cursor.bounded(total - start, "rows outside the block")?;
                    if len == 0 {
                        return Err(bad);
                    }
                    end = start + len;
                    runs.push((start as u32, len as u32));
                }
                if runs.is_empty() { Err(bad) } else { Ok(Rows::Runs(runs.into())) }
            }
        }
    }
}
