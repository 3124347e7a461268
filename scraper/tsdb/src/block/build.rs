//! Writing blocks.

use std::sync::Arc;

use narthex_model::Histogram;

use crate::codec::{
    Effort, MAX_COLUMN, column_constant, encode_column, encode_timestamps, put_entries, put_signed, put_varint,
};

use super::histogram::encode_histograms;
use super::rows::Rows;
use super::{TIMES_NONE, TIMES_SHARED, TIMES_VERSION, VERSION, checksum, flags, times_hash};

/// How many columns may follow each other that are each coded as the difference to the one before: a reader of the
/// last must decode them all.
const MAX_RELATIVE: usize = 16;

/// At which timestamps a column has samples.
#[derive(Clone, Debug)]
pub enum At<'a> {
    /// At these of the shared ones.
    Rows(Rows),
    /// At its own, ascending.
    Own(&'a [i64]),
}

/// What a column has besides its samples.
#[derive(Clone, Debug)]
pub struct ColumnSpec<'a> {
    /// The series; ids that ascend by 1 in page order take the least space.
    pub series: u64,
    pub at: At<'a>,
    /// One per sample, 0 where unknown; empty where none is known.
    pub start_timestamps: &'a [i64],
}

impl<'a> ColumnSpec<'a> {
    /// A column with a sample in each of `rows`.
    pub fn new(series: u64, rows: Rows) -> ColumnSpec<'a> {
        ColumnSpec { series, at: At::Rows(rows), start_timestamps: &[] }
    }

    /// A column with timestamps of its own.
    pub fn own(series: u64, timestamps: &'a [i64]) -> ColumnSpec<'a> {
        ColumnSpec { series, at: At::Own(timestamps), start_timestamps: &[] }
    }
}

/// Collects the columns of a block. Push them in page order: columns that resemble the one before, as the buckets of
/// a histogram do, are coded against it.
pub struct BlockBuilder {
    rows: usize,
    times: Vec<u8>,
    effort: Effort,
    count: u64,
    directory: Vec<u8>,
    bodies: Vec<u8>,
    last_series: u64,
    last: Last,
    scratch: Scratch,
}

/// The column before, as far as the next one may refer to it.
#[derive(Default)]
struct Last {
    /// Its body's range in `bodies`; `None` before the first column.
    body: Option<std::ops::Range<usize>>,
    /// Its rows, if it has floats in shared rows.
    rows: Option<Rows>,
    values: Vec<f64>,
    /// How many columns it is relative to, in a chain.
    chain: usize,
}

#[derive(Default)]
struct Scratch {
    body: Vec<u8>,
    relative: Vec<u8>,
    entries: Vec<u8>,
    differences: Vec<f64>,
}

impl BlockBuilder {
    /// A block over these shared timestamps (ascending, at most [`MAX_COLUMN`]; may be empty where all columns have
    /// their own).
    ///
    /// # Panics
    /// When there are more timestamps than that.
    pub fn new(timestamps: &[i64], effort: Effort) -> BlockBuilder {
        assert!(timestamps.len() <= MAX_COLUMN, "a block of {} rows", timestamps.len());
        let times = if timestamps.is_empty() {
            TIMES_NONE.to_vec()
        } else {
            [&[TIMES_SHARED][..], &times_hash(timestamps).to_le_bytes()].concat()
        };
        BlockBuilder {
            rows: timestamps.len(),
            times,
            effort,
            count: 0,
            directory: Vec::new(),
            bodies: Vec::new(),
            last_series: u64::MAX,
            last: Last::default(),
            scratch: Scratch::default(),
        }
    }

    /// Adds a column of floats.
    ///
    /// # Panics
    /// When `values` are not one per row of the column, or none.
    pub fn push_floats(&mut self, column: &ColumnSpec<'_>, values: &[f64]) {
        self.check(column, values.len());
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.body.clear();
        put_times(column, &mut scratch.body);
        let at = scratch.body.len();
        encode_column(values, self.effort, &mut scratch.body);
        let constant = column_constant(&scratch.body[at..]).is_some();

        let mut relative = false;
        let rows = match &column.at {
            At::Rows(rows) => Some(rows.clone()),
            At::Own(_) => None,
        };
        if self.effort == Effort::Best
            && !constant
            && rows.is_some()
            && rows == self.last.rows
            && self.last.chain < MAX_RELATIVE
            && differences(&self.last.values, values, &mut scratch.differences)
        {
            scratch.relative.clear();
            encode_column(&scratch.differences, self.effort, &mut scratch.relative);
            relative = scratch.relative.len() < scratch.body.len() - at;
            if relative {
                scratch.body.truncate(at);
                scratch.body.extend_from_slice(&scratch.relative);
            }
        }
        let mut flags = if relative { flags::RELATIVE } else { 0 };
        scratch.entries.clear();
        put_entries(&scratch.body[at..], values.len(), &mut scratch.entries);
        if !scratch.entries.is_empty() {
            flags |= flags::ENTRIES;
            scratch.relative.clear();
            put_varint(&mut scratch.relative, scratch.entries.len() as u64);
            scratch.relative.extend_from_slice(&scratch.entries);
            scratch.body.splice(at..at, scratch.relative.iter().copied());
        }
        self.put(column, flags, &scratch.body);
        self.scratch = scratch;
        self.last.chain = if relative { self.last.chain + 1 } else { 0 };
        // A constant is nothing to be relative to.
        self.last.rows = if constant { None } else { rows };
        self.last.values.clear();
        self.last.values.extend_from_slice(values);
    }

    /// Adds a column of native histograms.
    ///
    /// # Panics
    /// When `histograms` are not one per row of the column, or none.
    pub fn push_histograms(&mut self, column: &ColumnSpec<'_>, histograms: &[Arc<Histogram>]) {
        self.check(column, histograms.len());
        let mut body = std::mem::take(&mut self.scratch.body);
        body.clear();
        put_times(column, &mut body);
        encode_histograms(histograms, self.effort, &mut body);
        self.put(column, flags::HISTOGRAMS, &body);
        self.scratch.body = body;
        self.last.rows = None;
    }

    fn check(&self, column: &ColumnSpec<'_>, len: usize) {
        let expected = match &column.at {
            At::Rows(rows) => rows.len(self.rows),
            At::Own(timestamps) => timestamps.len(),
        };
        assert_eq!(len, expected, "samples of series {} and their timestamps", column.series);
        assert!(len > 0 && len <= MAX_COLUMN, "a column of {len} samples");
        let starts = column.start_timestamps.len();
        assert!(starts == 0 || starts == len, "{starts} start timestamps of {len} samples");
    }

    fn put(&mut self, column: &ColumnSpec<'_>, mut flags: u8, body: &[u8]) {
        let same = self.last.body.clone().is_some_and(|range| self.bodies[range] == *body);
        // The sequence starts before 0, so that a first series 0 is a next one.
        let next = self.last_series.wrapping_add(1) == column.series;
        flags |= match &column.at {
            At::Rows(rows) => rows.flag(),
            At::Own(_) => flags::OWN_TIMES,
        };
        flags |= if column.start_timestamps.is_empty() { 0 } else { flags::STARTS };
        flags |= if next { flags::NEXT_SERIES } else { 0 };
        flags |= if same { flags::SAME_BODY } else { 0 };
        self.directory.push(flags);
        if !next {
            put_signed(&mut self.directory, column.series.wrapping_sub(self.last_series) as i64);
        }
        match &column.at {
            At::Rows(rows) => rows.encode(&mut self.directory),
            At::Own(timestamps) => put_varint(&mut self.directory, timestamps.len() as u64),
        }
        if !same {
            put_varint(&mut self.directory, body.len() as u64);
            let start = self.bodies.len();
            self.bodies.extend_from_slice(body);
            self.last.body = Some(start..self.bodies.len());
        }
        self.last_series = column.series;
        self.count += 1;
    }

    /// How many columns there are.
    pub fn columns(&self) -> usize {
        self.count as usize
    }

    /// Bytes that the block has so far, roughly.
    pub fn size(&self) -> usize {
        self.times.len() + self.directory.len() + self.bodies.len() + 12
    }

    /// The block's bytes.
    pub fn finish(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size());
        out.push(VERSION);
        put_varint(&mut out, self.rows as u64);
        out.extend_from_slice(&self.times);
        put_varint(&mut out, self.count);
        out.extend_from_slice(&self.directory);
        out.extend_from_slice(&self.bodies);
        let sum = checksum(&out);
        out.extend_from_slice(&sum);
        out
    }
}

/// Own and start timestamps, each behind its length.
fn put_times(column: &ColumnSpec<'_>, out: &mut Vec<u8>) {
    let mut encoded = Vec::new();
    let own: &[i64] = match &column.at {
        At::Rows(_) => &[],
        At::Own(timestamps) => timestamps,
    };
    for timestamps in [own, column.start_timestamps] {
        if !timestamps.is_empty() {
            encoded.clear();
            encode_timestamps(timestamps, &mut encoded);
            put_varint(out, encoded.len() as u64);
            out.extend_from_slice(&encoded);
        }
    }
}

/// What has to be added to `base` to get `values`, if that is possible to the last bit and looks cheaper to store.
/// What is not finite stands for itself, and is 0 as a base.
fn differences(base: &[f64], values: &[f64], out: &mut Vec<f64>) -> bool {
    out.clear();
    if base.len() != values.len() || values.len() < 8 {
        return false;
    }
    for (b, v) in base.iter().zip(values) {
        let d = difference(*b, *v);
        if undo(*b, d).to_bits() != v.to_bits() {
            return false;
        }
        out.push(d);
    }
    roughness(out) < roughness(values)
}

fn difference(base: f64, value: f64) -> f64 {
    if value.is_finite() && base.is_finite() { value - base } else { value }
}

/// The value that [`difference`] was made of.
#[inline(always)]
pub(super) fn undo(base: f64, difference: f64) -> f64 {
    let base = if base.is_finite() { base } else { 0.0 };
    if difference.is_finite() { base + difference } else { difference }
}

/// How much a column moves from value to value, as a sum of magnitudes in bits.
fn roughness(values: &[f64]) -> f64 {
    let step = (values.len() / 64).max(1);
    values
        .windows(2)
        .step_by(step)
        .map(|w| (w[1] - w[0]).abs())
        .filter(|d| *d > 0.0 && d.is_finite())
        .map(|d| (1.0 + d * 1024.0).log2())
        .sum()
}

/// The shared timestamps of a group and window as a record of their own, with version and checksum.
///
/// # Panics
/// When there are more than [`MAX_COLUMN`].
pub fn encode_times(timestamps: &[i64]) -> Vec<u8> {
    assert!(timestamps.len() <= MAX_COLUMN, "{} timestamps", timestamps.len());
    let mut out = vec![TIMES_VERSION];
    put_varint(&mut out, timestamps.len() as u64);
    encode_timestamps(timestamps, &mut out);
    let sum = checksum(&out);
    out.extend_from_slice(&sum);
    out
}
