//! Reading blocks.

use std::ops::Range;
use std::sync::Arc;

use narthex_model::Histogram;

use crate::codec::{
    CodecError, Cursor, MAX_COLUMN, Scratch, column_constant, decode_part, decode_timestamps, has_no_specials,
};

use super::build::undo;
use super::histogram::decode_histograms;
use super::{BlockError, Rows, TIMES_NONE, TIMES_SHARED, TIMES_VERSION, VERSION, flags, verified};

/// A block whose version, checksum and directory are sound. Nothing is decoded yet.
#[derive(Clone, Debug)]
pub struct Block<'a> {
    rows: usize,
    /// The hash of the shared timestamps, if there are any.
    times: Option<u16>,
    bodies: &'a [u8],
    columns: Vec<Column>,
}

/// The directory's entry of a column.
#[derive(Clone, Debug)]
pub struct Column {
    pub series: u64,
    /// The shared rows that it has samples in; `None` when it has timestamps of its own.
    pub rows: Option<Rows>,
    /// How many samples it has.
    pub len: usize,
    flags: u8,
    body: Range<usize>,
}

impl Column {
    pub fn is_histogram(&self) -> bool {
        self.flags & flags::HISTOGRAMS != 0
    }
}

/// A decoded column.
#[derive(Clone, Debug)]
pub struct ReadColumn<'b> {
    pub series: u64,
    /// See [`Column::rows`].
    pub rows: Option<&'b Rows>,
    /// The column's own timestamps; empty when `rows` is there.
    pub own_timestamps: Vec<i64>,
    /// One per sample, 0 where unknown; empty where none is known.
    pub start_timestamps: Vec<i64>,
    pub samples: Samples,
}

/// The samples of a column.
#[derive(Clone, Debug)]
pub enum Samples {
    /// All have these very bits (which may be those of a staleness marker).
    Constant(f64),
    Floats(Vec<f64>),
    Histograms(Vec<Arc<Histogram>>),
}

/// What a reader is out for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Values,
    /// Only which samples there are and whether they are staleness markers: other floats may come as any number.
    Presence,
}

/// A float column that was decoded, in case the next one is relative to it.
#[derive(Default)]
struct Base {
    /// One past its index; 0 when there is none.
    end: usize,
    values: Vec<f64>,
    differences: Vec<f64>,
    scratch: Scratch,
}

narthex_model::wide! {
    /// Adds differences to what they are relative to.
    fn undo_all(values: &mut [f64], differences: &[f64]) {
        for (value, difference) in values.iter_mut().zip(differences) {
            *value = undo(*value, *difference);
        }
    }
}

/// Whether the checksum of a block's bytes fits them.
///
/// # Errors
/// As [`Block::parse`], but for the directory.
pub fn verify(bytes: &[u8]) -> Result<(), BlockError> {
    verified(bytes, VERSION).map(|_| ())
}

impl<'a> Block<'a> {
    /// # Errors
    /// `Version` for a format that this program does not know, else what is wrong with the bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<Block<'a>, BlockError> {
        Block::parse_content(verified(bytes, VERSION)?).map_err(BlockError::Directory)
    }

    /// The same of bytes that [`verify`] found sound.
    ///
    /// # Errors
    /// Those of the directory.
    pub fn parse_verified(bytes: &'a [u8]) -> Result<Block<'a>, BlockError> {
        let (content, _) = bytes.split_last_chunk::<4>().ok_or(BlockError::Truncated)?;
        Block::parse_content(content.get(1..).unwrap_or_default()).map_err(BlockError::Directory)
    }

    fn parse_content(content: &'a [u8]) -> Result<Block<'a>, CodecError> {
        let mut cursor = Cursor::new(content);
        let rows = cursor.bounded(MAX_COLUMN, "too many rows")?;
        let times = match cursor.byte()? {
            TIMES_SHARED => Some(u16::from_le_bytes(cursor.array()?)),
            kind if rows == 0 && [kind, cursor.byte()?] == TIMES_NONE => None,
            _ => return Err(CodecError::Corrupt("unknown kind of timestamps")),
        };
        let count = cursor.bounded(content.len(), "too many columns")?;
        let mut columns: Vec<Column> = Vec::with_capacity(count);
        let mut series = u64::MAX;
        let mut end = 0usize;
        for _ in 0..count {
            let flags = cursor.byte()?;
            let step = if flags & flags::NEXT_SERIES != 0 { 1 } else { cursor.signed()? as u64 };
            series = series.wrapping_add(step);
            let (at, len) = match flags & flags::ROWS {
                flags::OWN_TIMES => (None, cursor.bounded(MAX_COLUMN, "too many samples")?),
                flag => {
                    let at = Rows::decode(flag, &mut cursor, rows)?;
                    let len = at.len(rows);
                    (Some(at), len)
                }
            };
            if len == 0 {
                return Err(CodecError::Corrupt("column without samples"));
            }
            let body = if flags & flags::SAME_BODY != 0 {
                columns.last().ok_or(CodecError::Corrupt("no column before"))?.body.clone()
            } else {
                let len = cursor.bounded(content.len(), "column too long")?;
                let start = end;
                end += len;
                start..end
            };
            columns.push(Column { series, rows: at, len, flags, body });
        }
        let bodies = cursor.rest();
        if bodies.len() != end {
            return Err(CodecError::Corrupt("columns do not fill the block"));
        }
        Ok(Block { rows, times, bodies, columns })
    }

    /// How many shared timestamps there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The directory: which series have how many samples where, without decoding any. In the order of writing.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Whether these are the number and the hash of the timestamps that the block was written with.
    ///
    /// # Errors
    /// `Timestamps` when they are not.
    pub fn check_hash(&self, len: usize, hash: u16) -> Result<(), BlockError> {
        let fits = self.times.is_none_or(|own| own == hash);
        if fits && len == self.rows { Ok(()) } else { Err(BlockError::Timestamps) }
    }

    /// Decodes the columns of the series for which `wanted` holds, and only those (and what they are relative to), in
    /// the order of the directory.
    ///
    /// # Errors
    /// The first column that does not decode; those before it have been given to `each`.
    pub fn read<'b>(
        &'b self,
        wanted: impl FnMut(u64) -> bool,
        each: impl FnMut(ReadColumn<'b>),
    ) -> Result<(), BlockError> {
        self.read_rows(0..self.rows, Need::Values, 0, wanted, each)
    }

    /// The same for some of the shared rows: samples in others are left out, and columns that have none in these.
    /// Columns of histograms or with timestamps of their own come whole, and so do all start timestamps. Floats come in
    /// vectors with room for `room`, if that is more than there are: for the caller who will add to them.
    ///
    /// # Errors
    /// The same.
    pub fn read_rows<'b>(
        &'b self,
        rows: Range<usize>,
        need: Need,
        room: usize,
        mut wanted: impl FnMut(u64) -> bool,
        mut each: impl FnMut(ReadColumn<'b>),
    ) -> Result<(), BlockError> {
        let mut base = Base::default();
        for (i, column) in self.columns.iter().enumerate() {
            if !wanted(column.series) {
                continue;
            }
            let range = self.samples_in(column, &rows);
            if range.is_empty() {
                continue;
            }
            each(
                self.read_column(i, column, range, need, room, &mut base)
                    .map_err(|source| BlockError::Column { series: column.series, source })?,
            );
        }
        Ok(())
    }

    /// Which samples of a column lie in these rows.
    fn samples_in(&self, column: &Column, rows: &Range<usize>) -> Range<usize> {
        let Some(own) = &column.rows else { return 0..column.len };
        let (mut before, mut within) = (0, 0);
        for run in own.runs(self.rows) {
            before += run.end.min(rows.start).saturating_sub(run.start);
            within += run.end.min(rows.end).saturating_sub(run.start.max(rows.start));
        }
        before..before + within
    }

    fn body(&self, column: &Column) -> Result<Cursor<'a>, CodecError> {
        self.bodies.get(column.body.clone()).map(Cursor::new).ok_or(CodecError::Truncated)
    }

    /// The column's samples, of floats those in `range`.
    fn read_column<'b>(
        &'b self,
        i: usize,
        column: &'b Column,
        range: Range<usize>,
        need: Need,
        room: usize,
        base: &mut Base,
    ) -> Result<ReadColumn<'b>, CodecError> {
        let mut cursor = self.body(column)?;
        let (mut own_timestamps, mut start_timestamps) = (Vec::new(), Vec::new());
        if column.rows.is_none() {
            own_timestamps = take_times(&mut cursor, column.len)?;
        }
        if column.flags & flags::STARTS != 0 {
            start_timestamps = take_times(&mut cursor, column.len)?;
        }
        let samples = if column.is_histogram() {
            Samples::Histograms(decode_histograms(cursor.rest(), column.len)?)
        } else {
            let entries = take_entries(&mut cursor, column)?;
            if column.flags & flags::RELATIVE != 0 {
                if need == Need::Presence && self.all_finite(i) {
                    Samples::Constant(0.0)
                } else {
                    self.relative(i, &range, base)?;
                    let mut values = Vec::with_capacity(base.values.len().max(room));
                    values.extend_from_slice(&base.values);
                    Samples::Floats(values)
                }
            } else if let Some(value) = column_constant(cursor.rest()) {
                Samples::Constant(value)
            } else if need == Need::Presence && has_no_specials(cursor.rest()) {
                Samples::Constant(0.0)
            } else {
                let mut values = Vec::with_capacity(range.len().max(room));
                decode_part(cursor.rest(), entries, column.len, range, &mut base.scratch, &mut values)?;
                if self.columns.get(i + 1).is_some_and(|next| next.flags & flags::RELATIVE != 0) {
                    base.values.clear();
                    base.values.extend_from_slice(&values);
                    base.end = i + 1;
                }
                Samples::Floats(values)
            }
        };
        Ok(ReadColumn { series: column.series, rows: column.rows.as_ref(), own_timestamps, start_timestamps, samples })
    }

    /// Whether column `i`, and all that it is relative to, are surely finite numbers.
    fn all_finite(&self, mut i: usize) -> bool {
        loop {
            let Some(column) = self.columns.get(i) else { return false };
            let Ok(mut cursor) = self.body(column) else { return false };
            if column.flags & flags::STARTS != 0 && skip_times(&mut cursor).is_err()
                || take_entries(&mut cursor, column).is_err()
                || !has_no_specials(cursor.rest())
            {
                return false;
            }
            if column.flags & flags::RELATIVE == 0 {
                return true;
            }
            i = i.wrapping_sub(1);
        }
    }

    /// Brings `base` to column `i`, which is relative, from where it stands or from the last column that is not.
    fn relative(&self, i: usize, range: &Range<usize>, base: &mut Base) -> Result<(), CodecError> {
        let mut first = i;
        while first != base.end && self.columns.get(first).is_some_and(|c| c.flags & flags::RELATIVE != 0) {
            first = first.checked_sub(1).ok_or(CodecError::Corrupt("no column before"))?;
        }
        let Base { end, values, differences, scratch } = base;
        if first != *end || *end == 0 {
            *end = 0;
            values.clear();
            self.plain(first, range, scratch, values)?;
            *end = first + 1;
        }
        let mut differences = std::mem::take(differences);
        while *end <= i {
            differences.clear();
            let at = *end;
            *end = 0;
            self.plain(at, range, scratch, &mut differences)?;
            if differences.len() != values.len() {
                return Err(CodecError::Corrupt("relative column of another length"));
            }
            undo_all(values, &differences);
            *end = at + 1;
        }
        base.differences = differences;
        Ok(())
    }

    /// The floats of column `i` in `range`, as they are stored.
    fn plain(
        &self,
        i: usize,
        range: &Range<usize>,
        scratch: &mut Scratch,
        out: &mut Vec<f64>,
    ) -> Result<(), CodecError> {
        let column = self.columns.get(i).ok_or(CodecError::Corrupt("no column before"))?;
        if column.is_histogram() || column.rows.is_none() {
            return Err(CodecError::Corrupt("relative to what has no shared rows"));
        }
        let mut cursor = self.body(column)?;
        if column.flags & flags::STARTS != 0 {
            skip_times(&mut cursor)?;
        }
        let entries = take_entries(&mut cursor, column)?;
        decode_part(cursor.rest(), entries, column.len, range.clone(), scratch, out)
    }
}

/// Where the floats of a column may be entered; empty where only at the start.
fn take_entries<'a>(cursor: &mut Cursor<'a>, column: &Column) -> Result<&'a [u8], CodecError> {
    if column.flags & flags::ENTRIES == 0 {
        return Ok(&[]);
    }
    let len = cursor.bounded(cursor.rest().len(), "entries too long")?;
    cursor.take(len)
}

fn skip_times<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], CodecError> {
    let len = cursor.bounded(cursor.rest().len(), "timestamps too long")?;
    cursor.take(len)
}

fn take_times(cursor: &mut Cursor<'_>, len: usize) -> Result<Vec<i64>, CodecError> {
    let mut out = Vec::with_capacity(len);
    decode_timestamps(skip_times(cursor)?, len, &mut out)?;
    Ok(out)
}

/// What [`super::encode_times`] encoded.
///
/// # Errors
/// As [`Block::parse`].
pub fn decode_times(bytes: &[u8]) -> Result<Vec<i64>, BlockError> {
    let mut cursor = Cursor::new(verified(bytes, TIMES_VERSION)?);
    let mut read = || {
        let len = cursor.bounded(MAX_COLUMN, "too many timestamps")?;
        let mut out = Vec::with_capacity(len);
        decode_timestamps(cursor.rest(), len, &mut out)?;
        Ok(out)
    };
    read().map_err(BlockError::Directory)
}
