//! Prometheus's chunks, outwards: Gorilla's XOR for floats, and histograms each in a chunk of its own.
//!
//! The layouts are those of Prometheus's `tsdb/chunkenc`. A chunk may hold several histograms there; one each is as
//! valid, and needs none of the rules for when a layout may go on.

use narthex_model::{CounterResetHint, Histogram, Labels, Span, protobuf, varint};
use narthex_storage::Series;

use super::encode;

/// Samples in a chunk of floats.
const SAMPLES: usize = 120;

/// `Chunk.Encoding`.
const XOR: u64 = 1;
const HISTOGRAM: u64 = 2;
const FLOAT_HISTOGRAM: u64 = 3;

/// A chunk with its time range.
pub struct Chunk {
    mint: i64,
    maxt: i64,
    encoding: u64,
    data: Vec<u8>,
}

impl Chunk {
    /// `prometheus.Chunk`.
    pub fn write(&self, out: &mut Vec<u8>) {
        protobuf::varint_field(out, 1, self.mint as u64);
        protobuf::varint_field(out, 2, self.maxt as u64);
        protobuf::varint_field(out, 3, self.encoding);
        protobuf::bytes_field(out, 4, &self.data);
    }
}

/// The chunks of a series, in time order.
pub struct Chunks {
    series: Series,
    floats: usize,
    histograms: usize,
}

impl Chunks {
    pub fn new(series: Series) -> Chunks {
        Chunks { series, floats: 0, histograms: 0 }
    }

    pub fn labels(&self) -> &Labels {
        &self.series.labels
    }

    pub fn is_empty(&self) -> bool {
        self.floats >= self.series.floats.len() && self.histograms >= self.series.histograms.timestamps.len()
    }

    fn next_floats(&mut self, until: i64) -> Chunk {
        let times = &self.series.floats.timestamps[self.floats..];
        let n = times.iter().take(SAMPLES).take_while(|t| **t < until).count().max(1);
        let times = &times[..n];
        let values = (self.floats..self.floats + n).map(|i| self.series.floats.values.at(i));
        let data = xor(times, values);
        self.floats += n;
        Chunk { mint: times[0], maxt: times[n - 1], encoding: XOR, data }
    }
}

impl Iterator for Chunks {
    type Item = Chunk;

    fn next(&mut self) -> Option<Chunk> {
        let float = self.series.floats.timestamps.get(self.floats).copied();
        let histogram = self.series.histograms.timestamps.get(self.histograms).copied();
        match (float, histogram) {
            (Some(t), h) if h.is_none_or(|h| t < h) => Some(self.next_floats(h.unwrap_or(i64::MAX))),
            (_, Some(t)) => {
                let h = self.series.histograms.values.get(self.histograms)?;
                let (encoding, data) = one_histogram(t, h);
                self.histograms += 1;
                Some(Chunk { mint: t, maxt: t, encoding, data })
            }
            _ => None,
        }
    }
}

/// Bits, the highest first.
struct Bits {
    out: Vec<u8>,
    /// Unused bits of the last byte.
    free: u32,
}

impl Bits {
    /// Behind a header of whole bytes.
    fn after(out: Vec<u8>) -> Bits {
        Bits { out, free: 0 }
    }

    /// The lowest `n` bits of `v`, at most 64.
    fn put(&mut self, v: u64, mut n: u32) {
        while n > 0 {
            if self.free == 0 {
                self.out.push(0);
                self.free = 8;
            }
            let take = n.min(self.free);
            let part = (v >> (n - take)) as u8 & (0xff >> (8 - take));
            if let Some(last) = self.out.last_mut() {
                *last |= part << (self.free - take);
            }
            self.free -= take;
            n -= take;
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.put(u64::from(*b), 8));
    }

    fn float(&mut self, v: f64) {
        self.put(v.to_bits(), 64);
    }

    /// `putVarbitInt`: a prefix that tells the size, then the value.
    fn varbit(&mut self, v: i64) {
        let fits = |bits: u32| -((1i64 << (bits - 1)) - 1) <= v && v <= 1i64 << (bits - 1);
        self.sized(v as u64, v == 0, fits);
    }

    /// `putVarbitUint`.
    fn varbit_unsigned(&mut self, v: u64) {
        self.sized(v, v == 0, |bits| v < 1u64 << bits);
    }

    fn sized(&mut self, v: u64, zero: bool, fits: impl Fn(u32) -> bool) {
        if zero {
            return self.put(0, 1);
        }
        for (i, bits) in [3, 6, 9, 12, 18, 25, 56].into_iter().enumerate() {
            if fits(bits) {
                let ones = i as u32 + 1;
                self.put((1 << (ones + 1)) - 2, ones + 1);
                return self.put(v, bits);
            }
        }
        self.put(0xff, 8);
        self.put(v, 64);
    }
}

fn uvarint(bits: &mut Bits, n: u64) {
    let mut bytes = Vec::with_capacity(10);
    varint::put(&mut bytes, n);
    bits.bytes(&bytes);
}

/// A XOR chunk of at least one sample.
fn xor(times: &[i64], values: impl Iterator<Item = f64>) -> Vec<u8> {
    let mut bits = Bits::after((times.len() as u16).to_be_bytes().to_vec());
    let (mut delta, mut before) = (0i64, 0u64);
    let (mut leading, mut trailing) = (u32::MAX, 0u32);
    for (i, (t, v)) in times.iter().zip(values).enumerate() {
        let v = v.to_bits();
        match i {
            0 => {
                // A signed varint is zigzag.
                uvarint(&mut bits, ((t << 1) ^ (t >> 63)) as u64);
                bits.put(v, 64);
                before = v;
                continue;
            }
            1 => {
                delta = t.wrapping_sub(times[0]);
                uvarint(&mut bits, delta as u64);
            }
            _ => {
                let new = t.wrapping_sub(times[i - 1]);
                let dod = new.wrapping_sub(delta);
                delta = new;
                let fits = |bits: u32| -((1i64 << (bits - 1)) - 1) <= dod && dod <= 1i64 << (bits - 1);
                match dod {
                    0 => bits.put(0, 1),
                    _ if fits(14) => {
                        bits.put(0b10, 2);
                        bits.put(dod as u64, 14);
                    }
                    _ if fits(17) => {
                        bits.put(0b110, 3);
                        bits.put(dod as u64, 17);
                    }
                    _ if fits(20) => {
                        bits.put(0b1110, 4);
                        bits.put(dod as u64, 20);
                    }
                    _ => {
                        bits.put(0b1111, 4);
                        bits.put(dod as u64, 64);
                    }
                }
            }
        }
        let difference = v ^ before;
        before = v;
        if difference == 0 {
            bits.put(0, 1);
            continue;
        }
        bits.put(1, 1);
        // Five bits have to hold it.
        let (new_leading, new_trailing) = (difference.leading_zeros().min(31), difference.trailing_zeros());
        if leading != u32::MAX && new_leading >= leading && new_trailing >= trailing {
            bits.put(0, 1);
            bits.put(difference >> trailing, 64 - leading - trailing);
        } else {
            (leading, trailing) = (new_leading, new_trailing);
            bits.put(1, 1);
            bits.put(u64::from(leading), 5);
            let significant = 64 - leading - trailing;
            // 64 is written as 0, which can't occur.
            bits.put(u64::from(significant), 6);
            bits.put(difference >> trailing, significant);
        }
    }
    bits.out
}

fn zero_threshold(bits: &mut Bits, v: f64) {
    let raw = v.to_bits();
    // A power of two, 0.5 · 2^exponent.
    let exponent = (raw >> 52) as i64 - 1022;
    if v == 0.0 {
        bits.put(0, 8);
    } else if v > 0.0 && raw << 12 == 0 && (-242..=11).contains(&exponent) {
        bits.put((exponent + 243) as u64, 8);
    } else {
        bits.put(255, 8);
        bits.float(v);
    }
}

fn custom_bound(bits: &mut Bits, v: f64) {
    let thousandths = v * 1000.0;
    let exact = thousandths.round() / 1000.0 == v;
    if (0.0..=33_554_430.0).contains(&thousandths) && exact {
        bits.varbit_unsigned(thousandths.round() as u64 + 1);
    } else {
        bits.put(0, 1);
        bits.float(v);
    }
}

fn spans(bits: &mut Bits, spans: &[Span]) {
    bits.varbit_unsigned(spans.len() as u64);
    for s in spans {
        bits.varbit_unsigned(u64::from(s.length));
        bits.varbit(i64::from(s.offset));
    }
}

/// Each bucket's difference to the one before.
fn deltas(buckets: &[f64]) -> impl Iterator<Item = i64> + '_ {
    let mut before = 0;
    buckets.iter().map(move |b| {
        let now = *b as i64;
        now - std::mem::replace(&mut before, now)
    })
}

/// A chunk with this histogram alone, and its encoding.
fn one_histogram(t: i64, h: &Histogram) -> (u64, Vec<u8>) {
    let stale;
    let h = if h.is_stale() {
        stale = Histogram { sum: h.sum, ..Histogram::default() };
        &stale
    } else {
        h
    };
    let flags = match h.counter_reset_hint {
        CounterResetHint::Unknown => 0,
        CounterResetHint::NotCounterReset => 0b0100_0000,
        CounterResetHint::CounterReset => 0b1000_0000,
        CounterResetHint::Gauge => 0b1100_0000,
    };
    let mut bits = Bits::after(vec![0, 1, flags]);
    zero_threshold(&mut bits, h.zero_threshold);
    bits.varbit(i64::from(h.schema));
    spans(&mut bits, &h.positive_spans);
    spans(&mut bits, &h.negative_spans);
    if h.uses_custom_buckets() {
        bits.varbit_unsigned(h.custom_values.len() as u64);
        h.custom_values.iter().for_each(|v| custom_bound(&mut bits, *v));
    }
    bits.varbit(t);
    if encode::is_integer(h) {
        bits.varbit_unsigned(h.count as u64);
        bits.varbit_unsigned(h.zero_count as u64);
        bits.float(h.sum);
        for buckets in [&h.positive_buckets, &h.negative_buckets] {
            deltas(buckets).for_each(|d| bits.varbit(d));
        }
        return (HISTOGRAM, bits.out);
    }
    [h.count, h.zero_count, h.sum].iter().for_each(|v| bits.float(*v));
    h.positive_buckets.iter().chain(&h.negative_buckets).for_each(|v| bits.float(*v));
    (FLOAT_HISTOGRAM, bits.out)
}

#[cfg(test)]
mod tests {
    use narthex_storage::FloatColumn;

    use super::*;

    /// The reverse of [`Bits`], for tests.
    struct Reader<'a>(&'a [u8], usize);

    impl Reader<'_> {
        fn take(&mut self, n: u32) -> u64 {
            (0..n).fold(0, |v, _| {
                let bit = self.0[self.1 / 8] >> (7 - self.1 % 8) & 1;
                self.1 += 1;
                v << 1 | u64::from(bit)
            })
        }

        fn uvarint(&mut self) -> u64 {
            let (mut v, mut shift) = (0, 0);
            loop {
                let b = self.take(8);
                v |= (b & 0x7f) << shift;
                shift += 7;
                if b < 0x80 {
                    return v;
                }
            }
        }

        fn signed(&mut self, n: u32) -> i64 {
            let v = self.take(n) as i64;
            if n < 64 && v > 1 << (n - 1) { v - (1 << n) } else { v }
        }
    }

    fn decode(chunk: &[u8]) -> Vec<(i64, u64)> {
        let mut r = Reader(chunk, 0);
        let n = r.take(16);
        let z = r.uvarint();
        let (mut t, mut delta) = ((z >> 1) as i64 ^ -((z & 1) as i64), 0i64);
        let mut v = r.take(64);
        let (mut leading, mut trailing) = (0, 0);
        let mut out = vec![(t, v)];
        for i in 1..n {
            if i == 1 {
                delta = r.uvarint() as i64;
            } else {
                let mut ones = 0;
                while ones < 4 && r.take(1) == 1 {
                    ones += 1;
                }
                delta = delta.wrapping_add(match ones {
                    0 => 0,
                    1 => r.signed(14),
                    2 => r.signed(17),
                    3 => r.signed(20),
                    _ => r.signed(64),
                });
            }
            t = t.wrapping_add(delta);
            if r.take(1) == 1 {
                if r.take(1) == 1 {
                    leading = r.take(5) as u32;
                    let significant = match r.take(6) as u32 {
                        0 => 64,
                        n => n,
                    };
                    trailing = 64 - leading - significant;
                }
                v ^= r.take(64 - leading - trailing) << trailing;
            }
            out.push((t, v));
        }
        out
    }

    #[test]
    fn floats_come_back() {
        let cases: Vec<Vec<(i64, f64)>> = vec![
            vec![(-5, f64::NAN)],
            (0..1000).map(|i| (i * 15_000, i as f64 * 0.1)).collect(),
            (0..300).map(|i| (i * i * i, 1.0)).collect(),
            vec![(0, 1.0), (1, -1.0), (8192, f64::INFINITY), (1 << 40, 5e-324), ((1 << 40) + 1, -0.0)],
        ];
        for samples in cases {
            let (times, values): (Vec<i64>, Vec<f64>) = samples.iter().copied().unzip();
            let series = Series { floats: FloatColumn::new(times, values), ..Series::default() };
            let chunks: Vec<Chunk> = Chunks::new(series).collect();
            let back: Vec<(i64, u64)> = chunks.iter().flat_map(|c| decode(&c.data)).collect();
            assert_eq!(back, samples.iter().map(|(t, v)| (*t, v.to_bits())).collect::<Vec<_>>());
            assert!(chunks.iter().all(|c| decode(&c.data)[0].0 == c.mint));
        }
    }
}
