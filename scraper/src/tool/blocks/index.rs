//! A block's index: which series it has, and where their chunks are.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use narthex_model::Labels;

use super::{Cursor, Source, crc};

const MAGIC: [u8; 4] = 0xbaaa_d700_u32.to_be_bytes();
const TOC: usize = 6 * 8 + 4;
/// Series begin at multiples of this, and are named by them.
const ALIGN: u64 = 16;
/// Of a series so many bytes are read at first: mostly it is less.
const FIRST: usize = 1024;
/// Read at once when all series are read one after the other.
const AHEAD: usize = 1 << 20;
/// No entry is longer: some hundred labels and a month of chunks are a thousandth of it.
const MAX_ENTRY: u64 = 64 << 20;

/// Where a chunk is and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkMeta {
    pub min_time: i64,
    pub max_time: i64,
    pub reference: u64,
}

/// An entry of the index.
#[derive(Clone, Debug, Default)]
pub struct Series {
    pub reference: u64,
    /// Numbers of the symbols of names and values, by name.
    pub labels: Vec<(u32, u32)>,
    pub chunks: Vec<ChunkMeta>,
}

/// The index of a block. Its symbols are in memory, all else is read when it is asked for.
pub struct Index {
    source: Source,
    /// All symbols, and where each ends.
    symbols: String,
    ends: Vec<u32>,
    series: std::ops::Range<u64>,
}

impl Index {
    pub fn open(path: &Path) -> Result<Index> {
        let source = Source::open(path)?;
        let head = source.read(0, 5)?;
        ensure!(head[..4] == MAGIC, "{} is no index of a block", path.display());
        ensure!(head[4] == 2, "{}: an index of version {}, version 2 is read", path.display(), head[4]);
        let place = source.len.checked_sub(TOC as u64).with_context(|| format!("{} is cut", path.display()))?;
        let toc = source.read(place, TOC)?;
        let (content, sum) = toc.split_at(TOC - 4);
        ensure!(crc(content) == *sum, "{}: the checksum does not fit", source.at(place));
        let offsets: Vec<u64> = content.as_chunks::<8>().0.iter().map(|b| u64::from_be_bytes(*b)).collect();
        let (symbols_at, series) = (offsets[0], offsets[1]);
        let end = offsets[2..].iter().copied().filter(|o| *o > series).min().unwrap_or(place).min(place);
        let (symbols, ends) = if symbols_at == 0 {
            (String::new(), Vec::new())
        } else {
            let section = source.section(symbols_at)?;
            read_symbols(&section).with_context(|| source.at(symbols_at))?
        };
        let series = if series == 0 { end..end } else { series..end };
        Ok(Index { source, symbols, ends, series })
    }

    /// A symbol by its number.
    pub fn symbol(&self, number: u32) -> Result<&str> {
        let number = number as usize;
        let end = self.ends.get(number).copied();
        let start = number.checked_sub(1).map_or(0, |before| self.ends.get(before).copied().unwrap_or_default());
        let text = end.and_then(|end| self.symbols.get(start as usize..end as usize));
        text.with_context(|| format!("{}: no symbol {number}", self.source.path.display()))
    }

    /// The number of a symbol, which are in order.
    pub fn number(&self, text: &str) -> Result<Option<u32>> {
        let (mut from, mut to) = (0, self.ends.len() as u32);
        while from < to {
            let middle = from + (to - from) / 2;
            match self.symbol(middle)?.cmp(text) {
                std::cmp::Ordering::Less => from = middle + 1,
                std::cmp::Ordering::Equal => return Ok(Some(middle)),
                std::cmp::Ordering::Greater => to = middle,
            }
        }
        Ok(None)
    }

    pub fn labels(&self, series: &Series) -> Result<Labels> {
        let mut pairs = Vec::with_capacity(series.labels.len());
        for (name, value) in &series.labels {
            pairs.push((self.symbol(*name)?, self.symbol(*value)?));
        }
        ensure!(pairs.is_sorted_by(|a, b| a.0 < b.0), "{}: labels out of order", self.at(series.reference));
        Ok(Labels::from_sorted(pairs))
    }

    fn at(&self, reference: u64) -> String {
        self.source.at(reference.saturating_mul(ALIGN))
    }

    /// The series of that number.
    pub fn get(&self, reference: u64) -> Result<Series> {
        let offset = reference.saturating_mul(ALIGN);
        let mut bytes = Vec::new();
        self.source.read_some(offset, FIRST, &mut bytes)?;
        if let Some((series, _)) = self.parse(offset, &bytes)? {
            return Ok(series);
        }
        let len = Cursor(&bytes).varint().with_context(|| self.source.at(offset))?;
        ensure!(len <= MAX_ENTRY, "{}: an entry of {len} bytes", self.source.at(offset));
        self.source.read_some(offset, len as usize + 14, &mut bytes)?;
        let parsed = self.parse(offset, &bytes)?;
        Ok(parsed.with_context(|| format!("{}: the entry is cut", self.source.at(offset)))?.0)
    }

    /// An entry at the beginning of `bytes`, and its length. `None`: there is more of it than these bytes.
    fn parse(&self, offset: u64, bytes: &[u8]) -> Result<Option<(Series, usize)>> {
        let what = || self.source.at(offset);
        let mut cursor = Cursor(bytes);
        let len = match cursor.varint() {
            Ok(len) => len,
            Err(_) if bytes.len() < 10 => return Ok(None),
            Err(e) => return Err(e.context(what())),
        };
        let head = bytes.len() - cursor.0.len();
        let Some(len) = usize::try_from(len).ok().filter(|len| cursor.0.len() >= len.saturating_add(4)) else {
            return Ok(None);
        };
        let (content, rest) = cursor.0.split_at(len);
        ensure!(rest.starts_with(&crc(content)), "{}: the checksum does not fit", what());
        let mut series = parse_series(content).with_context(what)?;
        series.reference = offset / ALIGN;
        Ok(Some((series, head + len + 4)))
    }

    /// Calls `each` with all series, sorted by labels, until it fails.
    pub fn each(&self, mut each: impl FnMut(Series) -> Result<()>) -> Result<()> {
        let mut walk = self.walk();
        while let Some(series) = walk.next()? {
            each(series)?;
        }
        Ok(())
    }

    pub fn walk(&self) -> Walk<'_> {
        Walk { index: self, offset: self.series.start, buffer: Vec::new(), from: 0 }
    }
}

/// All series of an index, one after the other.
pub struct Walk<'a> {
    index: &'a Index,
    offset: u64,
    buffer: Vec<u8>,
    from: u64,
}

impl Walk<'_> {
    /// The next series, sorted by labels.
    pub fn next(&mut self) -> Result<Option<Series>> {
        let end = self.index.series.end;
        let mut ahead = AHEAD;
        loop {
            self.offset = self.offset.next_multiple_of(ALIGN);
            if self.offset >= end {
                return Ok(None);
            }
            let have = self.from + self.buffer.len() as u64;
            let bytes = match usize::try_from(self.offset - self.from) {
                Ok(skip) if self.offset < have => self.buffer.get(skip..).unwrap_or_default(),
                _ => &[],
            };
            // Padding before the next section.
            if bytes.first() == Some(&0) {
                return Ok(None);
            }
            if let Some((series, len)) = self.index.parse(self.offset, bytes)? {
                self.offset += len as u64;
                return Ok(Some(series));
            }
            if bytes.len() >= ahead.min(usize::try_from(end - self.offset).unwrap_or(usize::MAX)) {
                ensure!(
                    ahead < MAX_ENTRY as usize && have < end,
                    "{}: the entry is cut",
                    self.index.source.at(self.offset)
                );
                ahead *= 2;
            }
            let most = usize::try_from(end - self.offset).unwrap_or(usize::MAX).min(ahead);
            self.from = self.offset;
            self.index.source.read_some(self.offset, most, &mut self.buffer)?;
        }
    }
}

fn read_symbols(section: &[u8]) -> Result<(String, Vec<u32>)> {
    let mut cursor = Cursor(section);
    let count = cursor.u32()? as usize;
    ensure!(count <= section.len(), "{count} symbols in {} bytes", section.len());
    let (mut symbols, mut ends) = (String::with_capacity(section.len()), Vec::with_capacity(count));
    for i in 0..count {
        let len = cursor.varint()?;
        let bytes = cursor.bytes(usize::try_from(len)?)?;
        symbols.push_str(std::str::from_utf8(bytes).with_context(|| format!("symbol {i}"))?);
        ends.push(u32::try_from(symbols.len())?);
    }
    Ok((symbols, ends))
}

fn parse_series(content: &[u8]) -> Result<Series> {
    let mut cursor = Cursor(content);
    let mut series = Series::default();
    for _ in 0..cursor.count()? {
        series.labels.push((u32::try_from(cursor.varint()?)?, u32::try_from(cursor.varint()?)?));
    }
    let (mut time, mut reference) = (0i64, 0u64);
    for i in 0..cursor.count()? {
        // The first is given as it is, the others by what they are behind it.
        let min_time = if i == 0 { cursor.signed()? } else { time.wrapping_add_unsigned(cursor.varint()?) };
        let max_time = min_time.wrapping_add_unsigned(cursor.varint()?);
        reference = if i == 0 { cursor.varint()? } else { reference.wrapping_add_signed(cursor.signed()?) };
        ensure!(min_time <= max_time && (i == 0 || time <= min_time), "the times of chunk {i} are out of order");
        series.chunks.push(ChunkMeta { min_time, max_time, reference });
        time = max_time;
    }
    Ok(series)
}
