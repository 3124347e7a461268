//! Chunks: the samples of one series over some time, as Prometheus encodes them (its `tsdb/chunkenc`).

use std::sync::Arc;

use narthex_model::{CounterResetHint, Histogram, Span, is_stale, stale_nan};
use narthex_scrape::histogram::{RESERVED, SCHEMA_MAX};

use super::bits::{Bits, CUT, Fault, Xor};

/// What a chunk holds, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Xor,
    Histogram,
    FloatHistogram,
    Xor2,
    HistogramSt,
    FloatHistogramSt,
}

impl Encoding {
    pub fn from_code(code: u8) -> Option<Encoding> {
        Some(match code {
            1 => Encoding::Xor,
            2 => Encoding::Histogram,
            3 => Encoding::FloatHistogram,
            4 => Encoding::Xor2,
            5 => Encoding::HistogramSt,
            6 => Encoding::FloatHistogramSt,
            _ => return None,
        })
    }

    pub fn is_float(self) -> bool {
        matches!(self, Encoding::Xor | Encoding::Xor2)
    }

    /// Counts are whole numbers.
    fn is_integer(self) -> bool {
        matches!(self, Encoding::Histogram | Encoding::HistogramSt)
    }

    /// Start timestamps may be there.
    fn has_starts(self) -> bool {
        matches!(self, Encoding::Xor2 | Encoding::HistogramSt | Encoding::FloatHistogramSt)
    }
}

/// A native histogram as it was stored.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramSample {
    pub time: i64,
    pub histogram: Arc<Histogram>,
    /// The start timestamp; 0: not known.
    pub start: i64,
    /// Its counts are whole numbers, in Prometheus's eyes.
    pub integer: bool,
}

/// What chunks hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    /// Time, value, start timestamp (0: not known).
    pub floats: Vec<(i64, f64, i64)>,
    pub histograms: Vec<HistogramSample>,
}

impl Decoded {
    pub fn clear(&mut self) {
        self.floats.clear();
        self.histograms.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.floats.is_empty() && self.histograms.is_empty()
    }

    /// Brings what several blocks have in order; of the same time the first stays.
    pub fn settle(&mut self) {
        if !self.floats.is_sorted_by(|a, b| a.0 < b.0) {
            self.floats.sort_by_key(|s| s.0);
            self.floats.dedup_by_key(|s| s.0);
        }
        if !self.histograms.is_sorted_by(|a, b| a.time < b.time) {
            self.histograms.sort_by_key(|s| s.time);
            self.histograms.dedup_by_key(|s| s.time);
        }
    }
}

/// How many samples a chunk says that it has.
pub fn samples(encoding: Encoding, data: &[u8]) -> usize {
    let number = data.first_chunk::<2>().map_or(0, |n| u16::from_be_bytes(*n));
    // The highest two bits of these say something else.
    let mask = if encoding.has_starts() && !encoding.is_float() { 0x3fff } else { u16::MAX };
    usize::from(number & mask)
}

/// Adds the samples of a chunk.
///
/// # Errors
/// When the bytes are no such chunk; what was read before stays in `out`.
pub fn decode(encoding: Encoding, data: &[u8], out: &mut Decoded) -> Result<(), Fault> {
    match encoding {
        Encoding::Xor => xor(data, out),
        Encoding::Xor2 => xor2(data, out),
        _ => histograms(encoding, data, out),
    }
}

/// A time by its difference's difference.
#[derive(Default)]
struct Time {
    now: i64,
    delta: i64,
}

impl Time {
    fn next(&mut self, difference: i64) -> i64 {
        self.delta = self.delta.wrapping_add(difference);
        self.now = self.now.wrapping_add(self.delta);
        self.now
    }
}

fn xor(data: &[u8], out: &mut Decoded) -> Result<(), Fault> {
    let mut bits = Bits::new(data.get(2..).ok_or(CUT)?);
    let (mut time, mut value) = (Time::default(), Xor::default());
    for i in 0..samples(Encoding::Xor, data) {
        match i {
            0 => {
                time.now = bits.signed()?;
                value = Xor::new(bits.double()?);
            }
            1 => {
                time.next(bits.varint()? as i64);
                value.next(&mut bits)?;
            }
            _ => {
                let difference = match bits.ones(4)? {
                    0 => 0,
                    1 => bits.small(14)?,
                    2 => bits.small(17)?,
                    3 => bits.small(20)?,
                    _ => bits.take(64)? as i64,
                };
                time.next(difference);
                value.next(&mut bits)?;
            }
        }
        out.floats.push((time.now, value.value, 0));
    }
    Ok(())
}

/// Start timestamps, which come behind each sample from one on.
#[derive(Default)]
struct Starts {
    first_known: bool,
    from: usize,
    start: i64,
    difference: i64,
}

impl Starts {
    fn new(head: u8) -> Starts {
        Starts { first_known: head & 0x80 != 0, from: usize::from(head & 0x7f), ..Starts::default() }
    }

    /// That of the sample number `i` at `now`, when the one before it was at `before`.
    fn next(&mut self, bits: &mut Bits<'_>, i: usize, now: i64, before: i64) -> Result<i64, Fault> {
        if i == 0 {
            if self.first_known {
                self.start = now.wrapping_sub(bits.signed()?);
            }
        } else if self.from > 0 && i >= self.from {
            let difference = bits.varbit()?;
            self.difference = if i == self.from { difference } else { self.difference.wrapping_add(difference) };
            self.start = before.wrapping_sub(self.difference);
        }
        Ok(self.start)
    }
}

fn xor2(data: &[u8], out: &mut Decoded) -> Result<(), Fault> {
    let head = *data.get(2).ok_or(CUT)?;
    let mut bits = Bits::new(&data[3..]);
    let mut starts = Starts::new(head);
    // Staleness markers are written apart: values are differences to the last that was none.
    let (mut time, mut value) = (Time::default(), Xor::default());
    for i in 0..samples(Encoding::Xor2, data) {
        let before = time.now;
        let mut stale = false;
        match i {
            0 => {
                time.now = bits.signed()?;
                let first = bits.double()?;
                stale = is_stale(first);
                value = Xor::new(if stale { 0.0 } else { first });
            }
            1 => {
                time.next(bits.varint()? as i64);
                stale = value2(&mut value, &mut bits)?;
            }
            _ => {
                let kind = bits.ones(5)?;
                let difference = match kind {
                    2 => two_complement(bits.take(13)?, 13),
                    3 => two_complement(bits.take(20)?, 20),
                    4 => bits.take(64)? as i64,
                    _ => 0,
                };
                time.next(difference);
                match kind {
                    0 => {}
                    1 if bits.bit()? => value.new_window(&mut bits)?,
                    1 => value.same_window(&mut bits)?,
                    5 => stale = true,
                    _ => stale = value2(&mut value, &mut bits)?,
                }
            }
        }
        let start = starts.next(&mut bits, i, time.now, before)?;
        out.floats.push((time.now, if stale { stale_nan() } else { value.value }, start));
    }
    Ok(())
}

fn two_complement(bits: u64, n: u32) -> i64 {
    let unused = 64 - n;
    ((bits << unused) as i64) >> unused
}

/// A value of XOR2; whether it is a staleness marker.
fn value2(value: &mut Xor, bits: &mut Bits<'_>) -> Result<bool, Fault> {
    match bits.ones(3)? {
        0 => {}
        1 => value.same_window(bits)?,
        2 => value.new_window(bits)?,
        _ => return Ok(true),
    }
    Ok(false)
}

/// What all histograms of a chunk have in common.
struct Layout {
    schema: i32,
    zero_threshold: f64,
    positive: Vec<Span>,
    negative: Vec<Span>,
    custom_values: Vec<f64>,
}

fn layout(bits: &mut Bits<'_>) -> Result<Layout, Fault> {
    let zero_threshold = match bits.take(8)? {
        0 => 0.0,
        255 => bits.double()?,
        // Powers of two.
        exponent => 2f64.powi(exponent as i32 - 244),
    };
    let schema = i32::try_from(bits.varbit()?).map_err(|_| "an unknown schema")?;
    if schema != narthex_model::histogram::CUSTOM_BUCKETS_SCHEMA && !RESERVED.contains(&schema) {
        return Err("an unknown schema");
    }
    let (positive, negative) = (spans(bits)?, spans(bits)?);
    let mut custom_values = Vec::new();
    if schema == narthex_model::histogram::CUSTOM_BUCKETS_SCHEMA {
        let count = bits.varbit_unsigned()?;
        for _ in 0..count {
            custom_values.push(match bits.varbit_unsigned()? {
                0 => bits.double()?,
                thousandths => (thousandths - 1) as f64 / 1000.0,
            });
        }
    }
    Ok(Layout { schema, zero_threshold, positive, negative, custom_values })
}

fn spans(bits: &mut Bits<'_>) -> Result<Vec<Span>, Fault> {
    let mut spans = Vec::new();
    // Each takes bits, so that a number without sense ends with them.
    for _ in 0..bits.varbit_unsigned()? {
        let length = u32::try_from(bits.varbit_unsigned()?).map_err(|_| "a span of more than 32 bits")?;
        let offset = i32::try_from(bits.varbit()?).map_err(|_| "a span's offset of more than 32 bits")?;
        spans.push(Span { offset, length });
    }
    Ok(spans)
}

/// How many buckets spans have; each takes a bit at least.
fn buckets(spans: &[Span], bits: &Bits<'_>) -> Result<usize, Fault> {
    let count: u64 = spans.iter().map(|s| u64::from(s.length)).sum();
    if count > bits.left() as u64 { Err("more buckets than bits") } else { Ok(count as usize) }
}

/// A whole number by its difference's difference.
#[derive(Clone, Copy, Default)]
struct Whole {
    value: i64,
    delta: i64,
}

impl Whole {
    fn next(&mut self, bits: &mut Bits<'_>) -> Result<(), Fault> {
        self.delta = self.delta.wrapping_add(bits.varbit()?);
        self.value = self.value.wrapping_add(self.delta);
        Ok(())
    }
}

/// Counts of a chunk, of either kind.
enum Counts {
    /// Buckets are differences to the one before.
    Whole {
        count: Whole,
        zero: Whole,
        buckets: Vec<Whole>,
    },
    Float {
        count: Xor,
        zero: Xor,
        buckets: Vec<Xor>,
    },
}

impl Counts {
    /// Count, zero count and buckets; `positive` of them are positive.
    fn read(&self, positive: usize) -> (f64, f64, Vec<f64>, Vec<f64>) {
        match self {
            Counts::Whole { count, zero, buckets } => {
                let absolute = |deltas: &[Whole]| -> Vec<f64> {
                    let sum = |sum: &mut i64, delta: &Whole| {
                        *sum = sum.wrapping_add(delta.value);
                        Some(*sum as f64)
                    };
                    deltas.iter().scan(0i64, sum).collect()
                };
                let (positive, negative) = buckets.split_at(positive.min(buckets.len()));
                (count.value as u64 as f64, zero.value as u64 as f64, absolute(positive), absolute(negative))
            }
            Counts::Float { count, zero, buckets } => {
                let values = |all: &[Xor]| all.iter().map(|x| x.value).collect();
                let (positive, negative) = buckets.split_at(positive.min(buckets.len()));
                (count.value, zero.value, values(positive), values(negative))
            }
        }
    }
}

fn histograms(encoding: Encoding, data: &[u8], out: &mut Decoded) -> Result<(), Fault> {
    let [first, _, third] = *data.first_chunk::<3>().ok_or(CUT)?;
    let integer = encoding.is_integer();
    let (flags, mut starts) =
        if encoding.has_starts() { (first, Starts::new(third)) } else { (third, Starts::default()) };
    let gauge = flags & 0xc0 == 0xc0;
    let mut bits = Bits::new(&data[3..]);
    let number = samples(encoding, data);
    if number == 0 {
        return Ok(());
    }
    let layout = layout(&mut bits)?;
    let positive = buckets(&layout.positive, &bits)?;
    let all = positive + buckets(&layout.negative, &bits)?;
    let (mut time, mut sum) = (Time::default(), Xor::default());
    let mut counts = if integer {
        Counts::Whole { count: Whole::default(), zero: Whole::default(), buckets: vec![Whole::default(); all] }
    } else {
        Counts::Float { count: Xor::default(), zero: Xor::default(), buckets: vec![Xor::default(); all] }
    };
    for i in 0..number {
        let before = time.now;
        if i == 0 {
            time.now = bits.varbit()?;
            match &mut counts {
                Counts::Whole { count, zero, .. } => {
                    count.value = bits.varbit_unsigned()? as i64;
                    zero.value = bits.varbit_unsigned()? as i64;
                }
                Counts::Float { count, zero, .. } => {
                    *count = Xor::new(bits.double()?);
                    *zero = Xor::new(bits.double()?);
                }
            }
            sum = Xor::new(bits.double()?);
            match &mut counts {
                Counts::Whole { buckets, .. } => {
                    for bucket in buckets {
                        bucket.value = bits.varbit()?;
                    }
                }
                Counts::Float { buckets, .. } => {
                    for bucket in buckets {
                        *bucket = Xor::new(bits.double()?);
                    }
                }
            }
        } else {
            time.next(bits.varbit()?);
            match &mut counts {
                Counts::Whole { count, zero, .. } => {
                    count.next(&mut bits)?;
                    zero.next(&mut bits)?;
                }
                Counts::Float { count, zero, .. } => {
                    count.next(&mut bits)?;
                    zero.next(&mut bits)?;
                }
            }
            sum.next(&mut bits)?;
            // Of a staleness marker there are no buckets.
            if !is_stale(sum.value) {
                match &mut counts {
                    Counts::Whole { buckets, .. } => buckets.iter_mut().try_for_each(|b| b.next(&mut bits))?,
                    Counts::Float { buckets, .. } => buckets.iter_mut().try_for_each(|b| b.next(&mut bits))?,
                }
            }
        }
        let start = starts.next(&mut bits, i, time.now, before)?;
        let histogram = if is_stale(sum.value) {
            Histogram { sum: sum.value, ..Histogram::default() }
        } else {
            let (count, zero_count, positive_buckets, negative_buckets) = counts.read(positive);
            let mut h = Histogram {
                counter_reset_hint: match i {
                    _ if gauge => CounterResetHint::Gauge,
                    0 => CounterResetHint::Unknown,
                    _ => CounterResetHint::NotCounterReset,
                },
                schema: layout.schema,
                zero_threshold: layout.zero_threshold,
                zero_count,
                count,
                sum: sum.value,
                positive_spans: layout.positive.clone(),
                negative_spans: layout.negative.clone(),
                positive_buckets,
                negative_buckets,
                custom_values: layout.custom_values.clone(),
            };
            if h.schema > SCHEMA_MAX {
                h.reduce_resolution(SCHEMA_MAX);
            }
            h
        };
        out.histograms.push(HistogramSample { time: time.now, histogram: Arc::new(histogram), start, integer });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn damaged_chunks_are_errors_not_panics() {
        let mut rng = StdRng::seed_from_u64(7);
        for round in 0..100_000 {
            let encoding = Encoding::from_code(1 + (round % 6) as u8).unwrap();
            let byte = |rng: &mut StdRng| if rng.random_bool(0.4) { rng.random() } else { 0 };
            let len = rng.random_range(0..120);
            let data: Vec<u8> = (0..len).map(|_| byte(&mut rng)).collect();
            let mut out = Decoded::default();
            let _ = decode(encoding, &data, &mut out);
            assert!(out.floats.len() + out.histograms.len() <= 65_535);
        }
    }
}
