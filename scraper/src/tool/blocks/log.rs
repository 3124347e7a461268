//! Prometheus's write-ahead log: the samples that are in no block yet.
//!
//! A log is a folder of numbered segments, `wal` with what came in order and `wbl` with what came late; the segments
//! before a checkpoint are replaced by it. A segment is a row of pages, a record one or more fragments in them.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use narthex_model::histogram::CUSTOM_BUCKETS_SCHEMA;
use narthex_model::{CounterResetHint, Histogram, Labels, Span};
use narthex_scrape::histogram::{RESERVED, SCHEMA_MAX};

use super::{Cursor, HistogramSample, Source, crc};

const PAGE: u64 = 32 << 10;
/// Type, length and checksum of a fragment.
const HEAD: u64 = 7;
/// No record is longer: Prometheus's are some hundred kB.
const MAX_RECORD: usize = 1 << 30;

/// What a record holds. Series are named by numbers that series records gave to labels.
pub enum Record {
    Series(Vec<(u64, Labels)>),
    /// Series, time, value, start timestamp (0: not known).
    Floats(Vec<(u64, i64, f64, i64)>),
    Histograms(Vec<(u64, HistogramSample)>),
    /// Series, first and last time.
    Deleted(Vec<(u64, i64, i64)>),
}

/// The segments of a log, in order.
pub struct Log {
    segments: Vec<PathBuf>,
}

/// What is there of files named by a number behind `prefix`, in the order of the numbers.
pub(super) fn numbered(folder: &Path, prefix: &str) -> Vec<(u64, PathBuf)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name.strip_prefix(prefix).filter(|n| n.bytes().all(|c| c.is_ascii_digit()));
        if let Some(number) = number.and_then(|n| n.parse().ok()) {
            found.push((number, entry.path()));
        }
    }
    found.sort();
    found
}

impl Log {
    /// The log in a folder; without segments where there is none.
    pub fn open(folder: &Path) -> Log {
        let mut segments = Vec::new();
        let mut from = 0;
        if let Some((number, checkpoint)) = numbered(folder, "checkpoint.").pop() {
            from = number + 1;
            segments.extend(numbered(&checkpoint, "").into_iter().map(|s| s.1));
        }
        segments.extend(numbered(folder, "").into_iter().filter(|s| s.0 >= from).map(|s| s.1));
        segments.retain(|s| std::fs::metadata(s).is_ok_and(|m| m.len() > 0));
        Log { segments }
    }

    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Calls `each` with all records that hold series, samples or deleted ranges. What is damaged ends its segment and is
    /// told to `damage`; that the last segment is cut is no damage, as it may still be written.
    pub fn each(
        &self,
        mut each: impl FnMut(Record) -> Result<()>,
        mut damage: impl FnMut(anyhow::Error),
    ) -> Result<()> {
        for (i, path) in self.segments.iter().enumerate() {
            let last = i + 1 == self.segments.len();
            let mut reader = match Source::open(path) {
                Ok(source) => Segment { source, offset: 0, page: Vec::new(), page_at: u64::MAX },
                Err(e) => {
                    damage(e);
                    continue;
                }
            };
            loop {
                let at = reader.offset;
                match reader.record(last) {
                    Ok(Some(bytes)) => match parse(&bytes) {
                        Ok(Some(record)) => each(record)?,
                        Ok(None) => {}
                        Err(e) => damage(e.context(reader.source.at(at))),
                    },
                    Ok(None) => break,
                    Err(e) => {
                        damage(e);
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

struct Segment {
    source: Source,
    offset: u64,
    page: Vec<u8>,
    page_at: u64,
}

impl Segment {
    fn page(&mut self, at: u64) -> Result<&[u8]> {
        if self.page_at != at {
            self.source.read_some(at, PAGE as usize, &mut self.page)?;
            self.page_at = at;
        }
        Ok(&self.page)
    }

    /// The next record, unpacked; `None` at the end.
    fn record(&mut self, may_be_cut: bool) -> Result<Option<Vec<u8>>> {
        let mut record = Vec::new();
        let mut begun = false;
        loop {
            let left = PAGE - self.offset % PAGE;
            if left < HEAD {
                self.offset += left;
            }
            let (at, place) = (self.offset, (self.offset % PAGE) as usize);
            let page = self.page(at - at % PAGE)?;
            let rest = page.get(place..).unwrap_or_default();
            let Some(head) = rest.first_chunk::<7>() else {
                let cut = begun || !rest.is_empty();
                ensure!(!cut || may_be_cut, "{}: the record is cut", self.source.at(at));
                return Ok(None);
            };
            let kind = head[0] & 7;
            if kind == 0 {
                // The rest of the page is empty.
                ensure!(!begun, "{}: the record is cut", self.source.at(at));
                self.offset += left.max(1);
                continue;
            }
            let len = u64::from(u16::from_be_bytes([head[1], head[2]]));
            ensure!(HEAD + len <= left, "{}: a fragment longer than its page", self.source.at(at));
            let Some(data) = rest.get(HEAD as usize..(HEAD + len) as usize) else {
                ensure!(may_be_cut, "{}: the record is cut", self.source.at(at));
                return Ok(None);
            };
            ensure!(crc(data) == head[3..], "{}: the checksum does not fit", self.source.at(at));
            let expected = if begun { kind == 3 || kind == 4 } else { kind == 1 || kind == 2 };
            ensure!(expected, "{}: a fragment out of order", self.source.at(at));
            ensure!(record.len() + data.len() <= MAX_RECORD, "{}: a record without end", self.source.at(at));
            record.extend_from_slice(data);
            let flags = head[0];
            self.offset += HEAD + len;
            begun = true;
            if kind == 1 || kind == 4 {
                return unpack(record, flags).map(Some).with_context(|| self.source.at(at));
            }
        }
    }
}

fn unpack(record: Vec<u8>, flags: u8) -> Result<Vec<u8>> {
    match (flags & 1 << 3 != 0, flags & 1 << 4 != 0) {
        (true, false) => {
            let len = snap::raw::decompress_len(&record)?;
            ensure!(len <= MAX_RECORD, "a record of {len} bytes");
            Ok(snap::raw::Decoder::new().decompress_vec(&record)?)
        }
        (false, true) => {
            let mut out = Vec::new();
            zstd::Decoder::new(&record[..])?.take(MAX_RECORD as u64).read_to_end(&mut out)?;
            Ok(out)
        }
        _ => Ok(record),
    }
}

impl Cursor<'_> {
    fn u64(&mut self) -> Result<u64> {
        let bytes = self.bytes(8)?;
        Ok(u64::from_be_bytes(bytes.try_into()?))
    }

    fn double(&mut self) -> Result<f64> {
        Ok(f64::from_bits(self.u64()?))
    }

    fn text(&mut self) -> Result<&str> {
        let len = self.varint()?;
        Ok(std::str::from_utf8(self.bytes(usize::try_from(len)?)?)?)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.bytes(1)?[0])
    }
}

/// What comes before each sample: series, time, start timestamp.
struct Walk {
    /// Numbers and times are differences to the first, or of the second kind to the one before.
    second: bool,
    begun: bool,
    series: i64,
    time: i64,
    first_start: i64,
    start: i64,
}

impl Walk {
    fn new(second: bool, cursor: &mut Cursor<'_>) -> Result<Walk> {
        let mut walk = Walk { second, begun: false, series: 0, time: 0, first_start: 0, start: 0 };
        if !cursor.0.is_empty() {
            if second {
                (walk.series, walk.time, walk.first_start) = (cursor.signed()?, cursor.signed()?, cursor.signed()?);
            } else {
                (walk.series, walk.time) = (cursor.u64()? as i64, cursor.u64()? as i64);
            }
        }
        Ok(walk)
    }

    fn next(&mut self, cursor: &mut Cursor<'_>) -> Result<(u64, i64, i64)> {
        if !self.second {
            let series = self.series.wrapping_add(cursor.signed()?);
            return Ok((series as u64, self.time.wrapping_add(cursor.signed()?), 0));
        }
        if !self.begun {
            self.begun = true;
            self.start = self.first_start;
            return Ok((self.series as u64, self.time, self.start));
        }
        self.series = self.series.wrapping_add(cursor.signed()?);
        let time = self.time.wrapping_add(cursor.signed()?);
        match cursor.byte()? {
            0 => self.start = 0,
            1 => {}
            _ => self.start = self.first_start.wrapping_add(cursor.signed()?),
        }
        Ok((self.series as u64, time, self.start))
    }
}

/// `None`: a record of another kind.
fn parse(record: &[u8]) -> Result<Option<Record>> {
    let Some((kind, rest)) = record.split_first() else { return Ok(None) };
    let mut cursor = Cursor(rest);
    Ok(Some(match kind {
        1 => {
            let mut all = Vec::new();
            while !cursor.0.is_empty() {
                let number = cursor.u64()?;
                let mut pairs: Vec<(String, String)> = Vec::new();
                for _ in 0..cursor.count()? {
                    pairs.push((cursor.text()?.to_owned(), cursor.text()?.to_owned()));
                }
                all.push((number, Labels::from_pairs(pairs)));
            }
            Record::Series(all)
        }
        2 | 11 => {
            let mut walk = Walk::new(*kind == 11, &mut cursor)?;
            let mut all = Vec::new();
            while !cursor.0.is_empty() {
                let (series, time, start) = walk.next(&mut cursor)?;
                all.push((series, time, cursor.double()?, start));
            }
            Record::Floats(all)
        }
        3 => {
            let mut all = Vec::new();
            while !cursor.0.is_empty() {
                all.push((cursor.u64()?, cursor.signed()?, cursor.signed()?));
            }
            Record::Deleted(all)
        }
        7..=10 | 12 | 13 => {
            let integer = matches!(kind, 7 | 9 | 12);
            let mut walk = Walk::new(*kind >= 12, &mut cursor)?;
            let mut all = Vec::new();
            while !cursor.0.is_empty() {
                let (series, time, start) = walk.next(&mut cursor)?;
                if let Some(histogram) = histogram(&mut cursor, integer)? {
                    all.push((series, HistogramSample { time, histogram: Arc::new(histogram), start, integer }));
                }
            }
            Record::Histograms(all)
        }
        _ => return Ok(None),
    }))
}

/// `None`: one of an unknown schema, which Prometheus skips.
fn histogram(cursor: &mut Cursor<'_>, integer: bool) -> Result<Option<Histogram>> {
    let hint = CounterResetHint::from_code(cursor.byte()?.into()).unwrap_or_default();
    let mut h = Histogram { counter_reset_hint: hint, ..Histogram::default() };
    let schema = cursor.signed()?;
    h.schema = schema as i32;
    h.zero_threshold = cursor.double()?;
    let count = |cursor: &mut Cursor<'_>| if integer { Ok(cursor.varint()? as f64) } else { cursor.double() };
    h.zero_count = count(cursor)?;
    h.count = count(cursor)?;
    h.sum = cursor.double()?;
    for spans in [&mut h.positive_spans, &mut h.negative_spans] {
        for _ in 0..cursor.count()? {
            let offset = cursor.signed()? as i32;
            spans.push(Span { offset, length: cursor.varint()? as u32 });
        }
    }
    for buckets in [&mut h.positive_buckets, &mut h.negative_buckets] {
        let mut sum = 0i64;
        for _ in 0..cursor.count()? {
            buckets.push(if integer {
                sum = sum.wrapping_add(cursor.signed()?);
                sum as f64
            } else {
                cursor.double()?
            });
        }
    }
    if h.schema == CUSTOM_BUCKETS_SCHEMA {
        for _ in 0..cursor.count()? {
            h.custom_values.push(cursor.double()?);
        }
    }
    if h.schema != CUSTOM_BUCKETS_SCHEMA && !RESERVED.contains(&h.schema) {
        return Ok(None);
    }
    let fits = |spans: &[Span], buckets: &[f64]| {
        spans.iter().map(|s| u64::from(s.length)).sum::<u64>() == buckets.len() as u64
    };
    ensure!(
        fits(&h.positive_spans, &h.positive_buckets) && fits(&h.negative_spans, &h.negative_buckets),
        "a histogram whose spans and buckets do not fit"
    );
    if h.is_stale() {
        return Ok(Some(Histogram { sum: h.sum, ..Histogram::default() }));
    }
    if h.schema > SCHEMA_MAX {
        h.reduce_resolution(SCHEMA_MAX);
    }
    Ok(Some(h))
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn fragment(kind: u8, data: &[u8]) -> Vec<u8> {
        let mut out = vec![kind];
        out.extend((data.len() as u16).to_be_bytes());
        out.extend(crc(data));
        out.extend(data);
        out
    }

    fn read(bytes: &[u8]) -> (Vec<Record>, usize) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("00000000"), bytes).unwrap();
        std::fs::write(folder.path().join("00000001"), fragment(1, &[3])).unwrap();
        let (mut records, mut damage) = (Vec::new(), 0);
        let each = |record| {
            records.push(record);
            Ok(())
        };
        Log::open(folder.path()).each(each, |_| damage += 1).unwrap();
        (records, damage)
    }

    /// Two series and four samples, the latter in two fragments on two pages.
    fn segment() -> Vec<u8> {
        let mut series = vec![1];
        for (number, value) in [(7u64, "a"), (9, "b")] {
            series.extend(number.to_be_bytes());
            series.extend(b"\x02\x08__name__\x01m\x01x\x01");
            series.extend(value.as_bytes());
        }
        let mut samples = vec![2];
        samples.extend(7u64.to_be_bytes());
        samples.extend(1000u64.to_be_bytes());
        for (number, time, value) in [(0, 0, 1.5f64), (4, 0, 2.5), (0, 30, 3.5), (4, 30, 4.5)] {
            samples.extend([number, time]);
            samples.extend(value.to_bits().to_be_bytes());
        }
        let mut out = fragment(1, &series);
        let pad = PAGE as usize - out.len() - HEAD as usize * 2 - 20;
        out.extend(fragment(1, &vec![5; pad]));
        out.extend(fragment(2, &samples[..20]));
        assert_eq!(out.len() as u64, PAGE);
        out.extend(fragment(4, &samples[20..]));
        out
    }

    #[test]
    fn records_are_read_over_pages() {
        let (records, damage) = read(&segment());
        assert_eq!((records.len(), damage), (3, 0));
        let Record::Series(series) = &records[0] else { panic!("no series") };
        assert_eq!(series[1], (9, Labels::from_pairs([("__name__", "m"), ("x", "b")])));
        let Record::Floats(floats) = &records[1] else { panic!("no samples") };
        assert_eq!(floats[..], [(7, 1000, 1.5, 0), (9, 1000, 2.5, 0), (7, 1015, 3.5, 0), (9, 1015, 4.5, 0)]);
        assert!(matches!(&records[2], Record::Deleted(none) if none.is_empty()));
    }

    #[test]
    fn damage_ends_a_segment_and_no_more() {
        let whole = segment();
        let mut rng = StdRng::seed_from_u64(11);
        for _ in 0..500 {
            let mut bytes = whole.clone();
            let at = rng.random_range(0..bytes.len());
            bytes[at] ^= 1 << rng.random_range(0..8);
            let (records, damage) = read(&bytes);
            assert!(damage == 1 || records.len() == 3, "byte {at}: {} records", records.len());
            assert!(matches!(records.last(), Some(Record::Deleted(_))), "the next segment is read");
        }
        let cut = read(&whole[..whole.len() - 1]);
        assert_eq!((cut.0.len(), cut.1), (2, 1));
    }
}
