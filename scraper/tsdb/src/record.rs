//! What is written: log records, tables of groups, and the keys under which they lie.

use std::sync::Arc;

use hashbrown::HashMap;
use narthex_model::{CounterResetHint, Exemplar, Histogram, Span};

use crate::exemplars;
use crate::row::{Layout, get_layout, put_layout};
use crate::series::{SeriesId, minute};
use crate::wire::{Reader, put_bytes, put_f64, put_i64, put_u64};

const ROW: u8 = 1;
const SIDE: u8 = 2;
/// Exemplars, for those who follow.
const EXEMPLARS: u8 = 3;
const HAS_LAYOUT: u8 = 1;
const HAS_STALE: u8 = 2;
/// The record adds columns to the row before it.
const CONTINUES: u8 = 4;

/// The key of a log record.
pub fn head_key(seq: u64) -> Vec<u8> {
    seq.to_be_bytes().to_vec()
}

pub fn head_seq(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.try_into().ok()?))
}

/// What is kept of a group, by the byte after its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupPart {
    /// Its key, and its series as of some time.
    Table = 0,
    /// Series added since, by sequence number.
    Added = 1,
    /// Where its open window begins in the log.
    Start = 2,
}

pub fn group_key(group: u32, part: GroupPart, seq: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(13);
    key.extend_from_slice(&group.to_be_bytes());
    key.push(part as u8);
    if part == GroupPart::Added {
        key.extend_from_slice(&seq.to_be_bytes());
    }
    key
}

/// Group and part of a key.
pub fn parse_group_key(key: &[u8]) -> Option<(u32, GroupPart)> {
    let (group, rest) = key.split_first_chunk::<4>()?;
    let part = match rest.first()? {
        0 => GroupPart::Table,
        1 => GroupPart::Added,
        2 => GroupPart::Start,
        _ => return None,
    };
    Some((u32::from_be_bytes(*group), part))
}

/// Writes series one after the other. Each label pair is written once and then told by its number, and of each series
/// only the pairs that differ from the one before.
///
/// ```text
/// entry := column id minute (zigzag, from what the entry before makes likely) same-first same-last count pair*
/// pair  := number + 1, or 0 name value
/// name  := number + 1, or 0 length bytes        value := length bytes
/// ```
#[derive(Default)]
pub struct TableWriter {
    out: Vec<u8>,
    names: HashMap<Box<str>, u32, foldhash::fast::FixedState>,
    /// The number of a pair, by the number of its name and its value.
    pairs: HashMap<(u32, Box<str>), u32, foldhash::fast::FixedState>,
    previous: Vec<u32>,
    list: Vec<u32>,
    /// What is new in the list, encoded.
    fresh: Vec<(u32, Vec<u8>)>,
    last: (i64, i64, i64),
}

impl TableWriter {
    /// Adds a series; `labels` are in the order of names.
    pub fn add_pairs<'l>(
        &mut self,
        column: u32,
        id: SeriesId,
        first_minute: i32,
        labels: impl Iterator<Item = (&'l str, &'l str)>,
    ) {
        self.list.clear();
        self.fresh.clear();
        for (name, value) in labels {
            let names = self.names.len() as u32;
            let name_number = match self.names.get(name) {
                Some(number) => *number,
                None => {
                    self.names.insert(name.into(), names);
                    names
                }
            };
            let pairs = self.pairs.len() as u32;
            let key = (name_number, value.into());
            let number = *self.pairs.entry(key).or_insert(pairs);
            if number == pairs {
                let mut text = Vec::new();
                if name_number == names {
                    put_u64(&mut text, 0);
                    put_bytes(&mut text, name.as_bytes());
                } else {
                    put_u64(&mut text, u64::from(name_number) + 1);
                }
                put_bytes(&mut text, value.as_bytes());
                self.fresh.push((number, text));
            }
            self.list.push(number);
        }
        let (column, id, minute) = (i64::from(column), i64::from(id), i64::from(first_minute));
        put_i64(&mut self.out, column - self.last.0);
        put_i64(&mut self.out, id - self.last.1);
        put_i64(&mut self.out, minute - self.last.2);
        self.last = (column + 1, id + 1, minute);
        let shorter = self.list.len().min(self.previous.len());
        let first = self.list.iter().zip(&self.previous).take_while(|(a, b)| a == b).count();
        let last = self.list.iter().rev().zip(self.previous.iter().rev()).take_while(|(a, b)| a == b).count();
        let last = last.min(shorter - first);
        let differ = &self.list[first..self.list.len() - last];
        for n in [first, last, differ.len()] {
            put_u64(&mut self.out, n as u64);
        }
        let mut fresh = self.fresh.iter().peekable();
        for number in differ {
            match fresh.next_if(|f| f.0 == *number) {
                Some((_, text)) => {
                    put_u64(&mut self.out, 0);
                    self.out.extend_from_slice(text);
                }
                None => put_u64(&mut self.out, u64::from(*number) + 1),
            }
        }
        std::mem::swap(&mut self.previous, &mut self.list);
    }

    pub fn finish(self) -> Vec<u8> {
        self.out
    }
}

/// Reads what [`TableWriter`] wrote, series by series; labels are numbers of the table's own pairs.
pub struct TableReader<'a> {
    r: Reader<'a>,
    names: Vec<&'a str>,
    /// Name and value by number. Those of entries yet to come are not in it.
    pub pairs: Vec<(&'a str, &'a str)>,
    /// The pairs of the last entry, in the order of names.
    pub list: Vec<u32>,
    next: Vec<u32>,
    last: (i64, i64, i64),
    pub column: u32,
    pub id: SeriesId,
    pub first_minute: i32,
}

impl<'a> TableReader<'a> {
    pub fn new(bytes: &'a [u8]) -> TableReader<'a> {
        TableReader {
            r: Reader::new(bytes),
            names: Vec::new(),
            pairs: Vec::new(),
            list: Vec::new(),
            next: Vec::new(),
            last: (0, 0, 0),
            column: 0,
            id: 0,
            first_minute: 0,
        }
    }

    /// Goes to the next series. `Some(false)`: there is none; `None`: the bytes are damaged.
    pub fn advance(&mut self) -> Option<bool> {
        if self.r.is_empty() {
            return Some(false);
        }
        let column = self.last.0.checked_add(self.r.i64()?)?;
        let id = self.last.1.checked_add(self.r.i64()?)?;
        let minute = self.last.2.checked_add(self.r.i64()?)?;
        self.column = u32::try_from(column).ok()?;
        self.id = u32::try_from(id).ok()?;
        self.first_minute = i32::try_from(minute).ok()?;
        self.last = (column + 1, id + 1, minute);
        let first = usize::try_from(self.r.u64()?).ok()?;
        let last = usize::try_from(self.r.u64()?).ok()?;
        self.next.clear();
        self.next.extend_from_slice(self.list.get(..first)?);
        for _ in 0..self.r.count()? {
            let number = match self.r.u32()? {
                0 => {
                    let name = match self.r.u32()? {
                        0 => {
                            let name = std::str::from_utf8(self.r.bytes()?).ok()?;
                            self.names.push(name);
                            name
                        }
                        known => self.names.get(known as usize - 1)?,
                    };
                    let value = std::str::from_utf8(self.r.bytes()?).ok().filter(|v| !v.is_empty())?;
                    self.pairs.push((name, value));
                    self.pairs.len() as u32 - 1
                }
                known => known - 1,
            };
            self.next.push(number);
        }
        let end = self.next.len();
        self.next.extend_from_slice(self.list.get(self.list.len().checked_sub(last)?..)?);
        // What was taken over is sorted as it was; where it meets what is new is looked at.
        let from = first.saturating_sub(1);
        let to = (end + 1).min(self.next.len());
        for both in self.next.get(from..to)?.windows(2) {
            if self.pairs.get(both[0] as usize)?.0 >= self.pairs.get(both[1] as usize)?.0 {
                return None;
            }
        }
        if self.next.iter().any(|pair| *pair as usize >= self.pairs.len()) {
            return None;
        }
        std::mem::swap(&mut self.list, &mut self.next);
        Some(true)
    }

    /// The labels of the last entry.
    pub fn texts(&self) -> impl Iterator<Item = (&'a str, &'a str)> + '_ {
        self.list.iter().filter_map(|pair| self.pairs.get(*pair as usize).copied())
    }
}

/// A group's table record.
pub struct GroupTable<'a> {
    pub key: &'a str,
    pub series: &'a [u8],
}

impl<'a> GroupTable<'a> {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.key.len() + self.series.len() + 2);
        put_bytes(&mut out, self.key.as_bytes());
        out.extend_from_slice(self.series);
        out
    }

    pub fn decode(bytes: &'a [u8]) -> Option<GroupTable<'a>> {
        let mut r = Reader::new(bytes);
        Some(GroupTable { key: std::str::from_utf8(r.bytes()?).ok()?, series: r.rest() })
    }
}

/// Where a group's log begins.
#[derive(Debug, PartialEq, Eq)]
pub struct GroupStart {
    /// Rows before it are in blocks.
    pub seq: u64,
    /// Of the newest of those; `i64::MIN`: there is none.
    pub last_time: i64,
    /// Columns in ascending order whose series had ended in those rows, with the minute of their last sample there.
    pub ends: Vec<(u32, i32)>,
}

impl GroupStart {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_u64(&mut out, self.seq);
        put_i64(&mut out, self.last_time);
        let (mut next, last) = (0, minute(self.last_time));
        for (column, end) in &self.ends {
            put_u64(&mut out, u64::from(column - next));
            put_i64(&mut out, i64::from(last) - i64::from(*end));
            next = column + 1;
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<GroupStart> {
        let mut r = Reader::new(bytes);
        let mut start = GroupStart { seq: r.u64()?, last_time: r.i64()?, ends: Vec::new() };
        let (mut next, last) = (0u32, i64::from(minute(start.last_time)));
        while !r.is_empty() {
            let column = next.checked_add(r.u32()?)?;
            let end = i32::try_from(last.checked_sub(r.i64()?)?).ok()?;
            start.ends.push((column, end));
            next = column.checked_add(1)?;
        }
        Some(start)
    }
}

/// One scrape in the log.
pub struct RowRecord<'a> {
    pub group: u32,
    /// The row's number in its window: a gap tells that a record is missing.
    pub number: u32,
    pub timestamp: i64,
    /// It has further columns of the newest row, which are in `layout`.
    pub continues: bool,
    /// Where it differs from the previous row's; always in row 0.
    pub layout: Option<&'a Layout>,
    pub stale: &'a [u32],
    pub code: &'a [u8],
}

impl RowRecord<'_> {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.code.len() + 32);
        out.push(ROW);
        put_u64(&mut out, u64::from(self.group));
        put_u64(&mut out, u64::from(self.number));
        put_i64(&mut out, self.timestamp);
        out.push(
            if self.layout.is_some() { HAS_LAYOUT } else { 0 }
                | if self.stale.is_empty() { 0 } else { HAS_STALE }
                | if self.continues { CONTINUES } else { 0 },
        );
        if let Some(layout) = self.layout {
            put_layout(layout, &mut out);
        }
        if !self.stale.is_empty() {
            put_layout(self.stale, &mut out);
        }
        out.extend_from_slice(self.code);
        out
    }
}

/// A row as it is read back.
pub struct ReadRow<'a> {
    pub number: u32,
    pub timestamp: i64,
    flags: u8,
    rest: Reader<'a>,
}

impl<'a> ReadRow<'a> {
    /// Whether it adds columns to the row before it.
    pub fn continues(&self) -> bool {
        self.flags & CONTINUES != 0
    }

    /// Layout, stale columns and code, for a group of so many columns.
    pub fn parts(mut self, columns: usize) -> Option<(Option<Vec<u32>>, Vec<u32>, &'a [u8])> {
        let layout = if self.flags & HAS_LAYOUT != 0 { Some(get_layout(&mut self.rest, columns)?) } else { None };
        let stale = if self.flags & HAS_STALE != 0 { get_layout(&mut self.rest, columns)? } else { Vec::new() };
        Some((layout, stale, self.rest.rest()))
    }
}

/// A sample with a timestamp of its own.
#[derive(Clone, Debug, PartialEq)]
pub enum SideValue {
    Float(f64),
    Histogram(Arc<Histogram>),
    /// From this timestamp on the series has this start timestamp.
    Start(i64),
}

#[derive(Clone, Debug, PartialEq)]
pub struct SideSample {
    pub group: u32,
    pub column: u32,
    pub timestamp: i64,
    pub value: SideValue,
}

pub fn encode_side(samples: &[SideSample]) -> Vec<u8> {
    let mut out = vec![SIDE];
    let (mut column, mut timestamp) = (0i64, 0i64);
    for s in samples {
        put_u64(&mut out, u64::from(s.group));
        put_i64(&mut out, i64::from(s.column) - column);
        put_i64(&mut out, s.timestamp.wrapping_sub(timestamp));
        (column, timestamp) = (i64::from(s.column), s.timestamp);
        match &s.value {
            SideValue::Float(v) => {
                out.push(0);
                put_f64(&mut out, *v);
            }
            SideValue::Histogram(h) => {
                out.push(1);
                put_histogram(&mut out, h);
            }
            SideValue::Start(t) => {
                out.push(2);
                put_i64(&mut out, *t);
            }
        }
    }
    out
}

/// Exemplars with the groups and columns of their series.
pub fn encode_exemplars(exemplars: &[(u32, u32, Exemplar)]) -> Vec<u8> {
    let mut out = vec![EXEMPLARS];
    for (group, column, exemplar) in exemplars {
        put_u64(&mut out, u64::from(*group));
        put_u64(&mut out, u64::from(*column));
        exemplars::put(exemplar, &mut out);
    }
    out
}

/// The group of a row; `None` for other records and damaged ones.
pub fn group_of(bytes: &[u8]) -> Option<u32> {
    let mut r = Reader::new(bytes);
    (r.u8()? == ROW).then(|| r.u32())?
}

/// A log record.
pub enum Record<'a> {
    Row(ReadRow<'a>),
    Side(Vec<SideSample>),
    Exemplars(Vec<(u32, u32, Exemplar)>),
}

pub fn decode(bytes: &[u8]) -> Option<Record<'_>> {
    let mut r = Reader::new(bytes);
    match r.u8()? {
        ROW => {
            r.u32()?;
            let (number, timestamp, flags) = (r.u32()?, r.i64()?, r.u8()?);
            if flags & !(HAS_LAYOUT | HAS_STALE | CONTINUES) != 0 {
                return None;
            }
            Some(Record::Row(ReadRow { number, timestamp, flags, rest: r }))
        }
        SIDE => {
            let mut samples = Vec::new();
            let (mut column, mut timestamp) = (0i64, 0i64);
            while !r.is_empty() {
                let group = r.u32()?;
                column = column.checked_add(r.i64()?)?;
                timestamp = timestamp.wrapping_add(r.i64()?);
                let value = match r.u8()? {
                    0 => SideValue::Float(r.f64()?),
                    1 => SideValue::Histogram(Arc::new(get_histogram(&mut r)?)),
                    2 => SideValue::Start(r.i64()?),
                    _ => return None,
                };
                samples.push(SideSample { group, column: u32::try_from(column).ok()?, timestamp, value });
            }
            Some(Record::Side(samples))
        }
        EXEMPLARS => {
            let mut all = Vec::new();
            while !r.is_empty() {
                all.push((r.u32()?, r.u32()?, exemplars::get(&mut r)?));
            }
            Some(Record::Exemplars(all))
        }
        _ => None,
    }
}

fn put_histogram(out: &mut Vec<u8>, h: &Histogram) {
    out.push(h.counter_reset_hint.code());
    put_i64(out, i64::from(h.schema));
    for v in [h.zero_threshold, h.zero_count, h.count, h.sum] {
        put_f64(out, v);
    }
    for spans in [&h.positive_spans, &h.negative_spans] {
        put_u64(out, spans.len() as u64);
        for s in spans {
            put_i64(out, i64::from(s.offset));
            put_u64(out, u64::from(s.length));
        }
    }
    for values in [&h.positive_buckets, &h.negative_buckets, &h.custom_values] {
        put_u64(out, values.len() as u64);
        values.iter().for_each(|v| put_f64(out, *v));
    }
}

fn get_histogram(r: &mut Reader<'_>) -> Option<Histogram> {
    let counter_reset_hint = CounterResetHint::from_code(r.u8()?.into())?;
    let schema = i32::try_from(r.i64()?).ok()?;
    let (zero_threshold, zero_count, count, sum) = (r.f64()?, r.f64()?, r.f64()?, r.f64()?);
    let mut spans = || -> Option<Vec<Span>> {
        (0..r.count()?).map(|_| Some(Span { offset: i32::try_from(r.i64()?).ok()?, length: r.u32()? })).collect()
    };
    let (positive_spans, negative_spans) = (spans()?, spans()?);
    let mut floats = || -> Option<Vec<f64>> { (0..r.count()?).map(|_| r.f64()).collect() };
    let (positive_buckets, negative_buckets, custom_values) = (floats()?, floats()?, floats()?);
    Some(Histogram {
        counter_reset_hint,
        schema,
        zero_threshold,
        zero_count,
        count,
        sum,
        positive_spans,
        negative_spans,
        positive_buckets,
        negative_buckets,
        custom_values,
    })
}

#[cfg(test)]
mod tests {
    use narthex_model::Labels;

    use super::*;

    #[test]
    fn where_a_log_begins_comes_back() {
        for (last_time, ends) in [
            (i64::MIN, vec![]),
            (1_700_000_000_000, vec![(0, 28_333_333), (1, 28_333_320), (70_000, -5), (70_001, i32::MAX)]),
        ] {
            let start = GroupStart { seq: 7, last_time, ends };
            let bytes = start.encode();
            assert_eq!(GroupStart::decode(&bytes).as_ref(), Some(&start));
            for cut in 0..bytes.len() {
                assert_ne!(GroupStart::decode(&bytes[..cut]).as_ref(), Some(&start));
            }
        }
    }

    #[test]
    fn tables_come_back() {
        let all: Vec<(u32, SeriesId, i32, Labels)> = (0..50u32)
            .map(|i| {
                let labels = Labels::from_pairs([
                    ("__name__".to_owned(), format!("metric_{}", i / 10)),
                    ("job".into(), "j".into()),
                    ("x".into(), if i % 7 == 0 { String::new() } else { i.to_string() }),
                    (if i == 23 { "a" } else { "z" }.to_owned(), "metric_2".into()),
                ]);
                (if i < 40 { i } else { 100 - i }, i * 3, i as i32 - 10, labels)
            })
            .collect();
        let mut w = TableWriter::default();
        all.iter().for_each(|(column, id, minute, labels)| w.add_pairs(*column, *id, *minute, labels.iter()));
        let bytes = w.finish();
        let read = |bytes: &[u8]| {
            let (mut table, mut got) = (TableReader::new(bytes), Vec::new());
            loop {
                match table.advance() {
                    Some(true) => {}
                    other => return (other.is_some(), got),
                }
                got.push((table.column, table.id, table.first_minute, Labels::from_sorted(table.texts())));
            }
        };
        assert_eq!(read(&bytes), (true, all.clone()));
        for cut in 0..bytes.len() {
            let (_, got) = read(&bytes[..cut]);
            assert!(got.len() < 50 && got == all[..got.len()]);
        }
        // Whatever a damaged table says, its labels are in order.
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << (at % 8);
            for (_, _, _, labels) in read(&bytes).1 {
                assert!(labels.iter().is_sorted_by(|a, b| a.0 < b.0) && labels.iter().all(|l| !l.1.is_empty()));
            }
        }
    }

    #[test]
    fn side_samples_come_back_and_cuts_are_noticed() {
        let h = Histogram {
            schema: 3,
            count: 7.0,
            sum: 1.5,
            positive_spans: vec![Span { offset: -2, length: 2 }, Span { offset: 1, length: 1 }],
            positive_buckets: vec![1.0, 2.0, 4.0],
            ..Histogram::default()
        };
        let values = [SideValue::Float(-0.0), SideValue::Histogram(Arc::new(h)), SideValue::Start(-5)];
        let all: Vec<SideSample> = values
            .into_iter()
            .enumerate()
            .map(|(i, value)| SideSample { group: 3, column: 9 - i as u32, timestamp: i64::MAX - i as i64, value })
            .collect();
        let bytes = encode_side(&all);
        let Some(Record::Side(got)) = decode(&bytes) else { panic!() };
        assert_eq!(got, all);
        for cut in 1..bytes.len() {
            if let Some(Record::Side(got)) = decode(&bytes[..cut]) {
                assert!(got.len() < 3);
            }
        }
    }
}
