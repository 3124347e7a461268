//! What shards say to each other, in bytes.
//!
//! An answer to a selection is a sequence of frames: kind, length (4 bytes, little endian), content. A batch's content is
//! compressed (snappy) and holds a table of strings, the distinct timestamp columns, and per series references into both
//! and its values: constant, or each value's bits XORed with those of the one before, low bits first in a varint of the
//! reversed bytes (numbers with short mantissas take few bytes). The last frame says that nothing is missing.
//!
//! Questions and the answers to questions about labels are JSON: they are small.
//!
//! The decoder trusts nothing: every length is checked against what is left before it is used.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use narthex_model::varint::{put as put_varint, unzigzag, zigzag};
use narthex_model::{CounterResetHint, Exemplar, Histogram, Labels, MatchType, Matcher, Metadata, MetricType, Span};
use narthex_storage::{
    Batch, FloatColumn, HistogramColumn, LabelQuery, LabelResult, MetadataEntry, SelectHints, SelectRequest, Series,
    Values,
};
use serde::{Deserialize, Serialize};

use super::PeerError;

const BATCH: u8 = 1;
const WARNING: u8 = 2;
const END: u8 = 3;
const HEADER: usize = 5;
/// The largest batch that is decoded, in bytes after decompression.
const MAX_BATCH: usize = 256 << 20;
/// Series of one batch are cut into frames of about this many samples, so that no frame grows large.
const FRAME_SAMPLES: usize = 200_000;

// Questions.

#[derive(Serialize, Deserialize)]
struct WireMatcher(u8, String, String);

impl WireMatcher {
    fn of(m: &Matcher) -> WireMatcher {
        let kind = match m.match_type {
            MatchType::Equal => 0,
            MatchType::NotEqual => 1,
            MatchType::Regexp => 2,
            MatchType::NotRegexp => 3,
        };
        WireMatcher(kind, m.name.to_string(), m.value.to_string())
    }

    fn matcher(self) -> Result<Matcher, PeerError> {
        let kind = match self.0 {
            0 => MatchType::Equal,
            1 => MatchType::NotEqual,
            2 => MatchType::Regexp,
            3 => MatchType::NotRegexp,
            _ => return Err(PeerError::Corrupt("matcher type")),
        };
        Matcher::new(kind, self.1, self.2).map_err(|_| PeerError::Corrupt("matcher's expression"))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(default)]
#[derive(Default)]
struct WireSelect {
    matchers: Vec<WireMatcher>,
    mint: i64,
    maxt: i64,
    latest_only: bool,
    step: i64,
    range: i64,
    func: Option<String>,
    grouping: Vec<String>,
    by: bool,
    limit: usize,
    no_samples: bool,
}

pub(super) fn encode_select(r: &SelectRequest) -> Vec<u8> {
    let wire = WireSelect {
        matchers: r.matchers.iter().map(WireMatcher::of).collect(),
        mint: r.mint,
        maxt: r.maxt,
        latest_only: r.hints.latest_only,
        step: r.hints.step,
        range: r.hints.range,
        func: r.hints.func.clone(),
        grouping: r.hints.grouping.clone(),
        by: r.hints.by,
        limit: r.hints.limit,
        no_samples: r.hints.no_samples,
    };
    serde_json::to_vec(&wire).unwrap_or_default()
}

/// # Errors
/// `Corrupt` when it is no question of ours.
pub fn decode_select(bytes: &[u8]) -> Result<SelectRequest, PeerError> {
    let w: WireSelect = json(bytes)?;
    let matchers = w.matchers.into_iter().map(WireMatcher::matcher).collect::<Result<_, _>>()?;
    let hints = SelectHints {
        latest_only: w.latest_only,
        step: w.step,
        range: w.range,
        func: w.func,
        grouping: w.grouping,
        by: w.by,
        limit: w.limit,
        no_samples: w.no_samples,
        ..SelectHints::default()
    };
    Ok(SelectRequest { matchers, mint: w.mint, maxt: w.maxt, hints })
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct WireLabels {
    name: String,
    selectors: Vec<Vec<WireMatcher>>,
    mint: i64,
    maxt: i64,
    limit: usize,
}

pub(super) fn encode_labels(name: &str, q: &LabelQuery) -> Vec<u8> {
    let wire = WireLabels {
        name: name.to_owned(),
        selectors: q.selectors.iter().map(|s| s.iter().map(WireMatcher::of).collect()).collect(),
        mint: q.mint,
        maxt: q.maxt,
        limit: q.limit,
    };
    serde_json::to_vec(&wire).unwrap_or_default()
}

/// The name (of a label or a metric, may be empty) and the question.
///
/// # Errors
/// `Corrupt` when it is no question of ours.
pub fn decode_labels(bytes: &[u8]) -> Result<(String, LabelQuery), PeerError> {
    let w: WireLabels = json(bytes)?;
    let selectors = w.selectors.into_iter().map(|s| s.into_iter().map(WireMatcher::matcher).collect());
    let selectors = selectors.collect::<Result<_, _>>()?;
    Ok((w.name, LabelQuery { selectors, mint: w.mint, maxt: w.maxt, limit: w.limit, ..LabelQuery::default() }))
}

fn json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, PeerError> {
    serde_json::from_slice(bytes).map_err(|_| PeerError::Corrupt("JSON"))
}

// Small answers.

#[derive(Serialize, Deserialize)]
struct WireResult<T> {
    values: Vec<T>,
    truncated: bool,
    warnings: Vec<String>,
}

type Pairs = Vec<(String, String)>;

fn pairs(labels: &Labels) -> Pairs {
    labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}

pub(super) fn encode_strings(r: LabelResult<String>) -> Vec<u8> {
    let wire = WireResult { values: r.values, truncated: r.truncated, warnings: r.warnings };
    serde_json::to_vec(&wire).unwrap_or_default()
}

pub(super) fn decode_strings(bytes: &[u8]) -> Result<LabelResult<String>, PeerError> {
    let w: WireResult<String> = json(bytes)?;
    Ok(LabelResult { values: w.values, truncated: w.truncated, warnings: w.warnings })
}

pub(super) fn encode_series(r: &LabelResult<Labels>) -> Vec<u8> {
    let values = r.values.iter().map(pairs).collect();
    let wire = WireResult { values, truncated: r.truncated, warnings: r.warnings.clone() };
    serde_json::to_vec(&wire).unwrap_or_default()
}

pub(super) fn decode_series(bytes: &[u8]) -> Result<LabelResult<Labels>, PeerError> {
    let w: WireResult<Pairs> = json(bytes)?;
    let values = w.values.into_iter().map(Labels::from_pairs).collect();
    Ok(LabelResult { values, truncated: w.truncated, warnings: w.warnings })
}

/// Labels, value bits (JSON has no NaN), timestamp, whether the page gave it.
type WireExemplar = (Pairs, u64, i64, bool);

pub(super) fn encode_exemplars(all: &[(Labels, Vec<Exemplar>)]) -> Vec<u8> {
    let one = |e: &Exemplar| (pairs(&e.labels), e.value.to_bits(), e.timestamp, e.has_timestamp);
    let wire: Vec<(Pairs, Vec<WireExemplar>)> =
        all.iter().map(|(l, e)| (pairs(l), e.iter().map(one).collect())).collect();
    serde_json::to_vec(&wire).unwrap_or_default()
}

pub(super) fn decode_exemplars(bytes: &[u8]) -> Result<Vec<(Labels, Vec<Exemplar>)>, PeerError> {
    let wire: Vec<(Pairs, Vec<WireExemplar>)> = json(bytes)?;
    let one = |(labels, bits, timestamp, has_timestamp): WireExemplar| Exemplar {
        labels: Labels::from_pairs(labels),
        value: f64::from_bits(bits),
        timestamp,
        has_timestamp,
    };
    Ok(wire.into_iter().map(|(l, e)| (Labels::from_pairs(l), e.into_iter().map(one).collect())).collect())
}

pub(super) fn encode_metadata(all: &[MetadataEntry]) -> Vec<u8> {
    let wire: Vec<_> =
        all.iter().map(|e| (&e.metric, e.metadata.metric_type.as_str(), &e.metadata.help, &e.metadata.unit)).collect();
    serde_json::to_vec(&wire).unwrap_or_default()
}

pub(super) fn decode_metadata(bytes: &[u8]) -> Result<Vec<MetadataEntry>, PeerError> {
    let wire: Vec<(String, String, String, String)> = json(bytes)?;
    let one = |(metric, kind, help, unit): (String, String, String, String)| MetadataEntry {
        metric,
        metadata: Metadata { metric_type: MetricType::from_name(&kind).unwrap_or_default(), help, unit },
    };
    Ok(wire.into_iter().map(one).collect())
}

// Columns.

fn put_times(out: &mut Vec<u8>, times: &[i64]) {
    put_varint(out, times.len() as u64);
    let (mut last, mut step) = (0i64, 0i64);
    for t in times {
        let delta = t.wrapping_sub(last);
        put_varint(out, zigzag(delta.wrapping_sub(step)));
        (last, step) = (*t, delta);
    }
}

fn put_values(out: &mut Vec<u8>, values: &[f64]) {
    let mut last = 0u64;
    for v in values {
        let bits = v.to_bits();
        put_varint(out, (bits ^ last).swap_bytes());
        last = bits;
    }
}

fn put_str(out: &mut Vec<u8>, s: &str) {
    put_varint(out, s.len() as u64);
    out.extend_from_slice(s.as_bytes());
}

/// Appends the frames of a batch.
pub(super) fn put_batch(out: &mut Vec<u8>, batch: &Batch) {
    let mut rest = &batch.series[..];
    while !rest.is_empty() {
        let mut samples = 0;
        let fits = rest.iter().take_while(|s| {
            samples += s.floats.len() + 16 * s.histograms.timestamps.len() + 16;
            samples <= FRAME_SAMPLES
        });
        let n = fits.count().max(1);
        let (now, later) = rest.split_at(n);
        put_frame(out, now);
        rest = later;
    }
}

fn put_frame(out: &mut Vec<u8>, series: &[Series]) {
    let mut strings: Vec<&str> = Vec::new();
    let mut at: HashMap<&str, u64> = HashMap::new();
    let mut columns: Vec<&Arc<[i64]>> = Vec::new();
    let mut column_at: HashMap<*const i64, u64> = HashMap::new();
    let mut body = Vec::new();
    for s in series {
        put_varint(&mut body, s.labels.len() as u64);
        for (name, value) in s.labels.iter() {
            for text in [name, value] {
                let i = *at.entry(text).or_insert_with(|| {
                    strings.push(text);
                    strings.len() as u64 - 1
                });
                put_varint(&mut body, i);
            }
        }
        let f = &s.floats;
        let mut column = |c: &'_ Arc<[i64]>| -> u64 {
            // Empty slices may share an address with something else.
            if c.is_empty() {
                return 0;
            }
            let next = columns.len() as u64 + 1;
            *column_at.entry(c.as_ptr()).or_insert(next)
        };
        let times = column(&f.timestamps);
        if times as usize > columns.len() {
            columns.push(&f.timestamps);
        }
        put_varint(&mut body, times);
        if times > 0 {
            let mut column = |c: &'_ Arc<[i64]>| -> u64 {
                let next = columns.len() as u64 + 1;
                *column_at.entry(c.as_ptr()).or_insert(next)
            };
            let starts = f.start_timestamps.as_ref().map_or(0, &mut column);
            if let Some(c) = &f.start_timestamps
                && starts as usize > columns.len()
            {
                columns.push(c);
            }
            put_varint(&mut body, starts);
            match &f.values {
                Values::Constant(v) => {
                    body.push(0);
                    body.extend_from_slice(&v.to_bits().to_le_bytes());
                }
                Values::Dense(values) => {
                    body.push(1);
                    put_values(&mut body, values);
                }
            }
        }
        let h = &s.histograms;
        put_times(&mut body, &h.timestamps);
        if !h.timestamps.is_empty() {
            put_times(&mut body, &h.start_timestamps);
            h.values.iter().for_each(|v| put_histogram(&mut body, v));
        }
    }
    let mut content = Vec::with_capacity(body.len() + 1024);
    put_varint(&mut content, strings.len() as u64);
    strings.iter().for_each(|s| put_str(&mut content, s));
    put_varint(&mut content, columns.len() as u64);
    columns.iter().for_each(|c| put_times(&mut content, c));
    put_varint(&mut content, series.len() as u64);
    content.extend_from_slice(&body);
    // Compression fails only for more than 4 GiB.
    if let Ok(packed) = snap::raw::Encoder::new().compress_vec(&content) {
        put_header(out, BATCH, packed.len());
        out.extend_from_slice(&packed);
    }
}

fn put_histogram(out: &mut Vec<u8>, h: &Histogram) {
    out.push(h.counter_reset_hint.code());
    put_varint(out, zigzag(i64::from(h.schema)));
    for v in [h.zero_threshold, h.zero_count, h.count, h.sum] {
        out.extend_from_slice(&v.to_bits().to_le_bytes());
    }
    for spans in [&h.positive_spans, &h.negative_spans] {
        put_varint(out, spans.len() as u64);
        for s in spans {
            put_varint(out, zigzag(i64::from(s.offset)));
            put_varint(out, u64::from(s.length));
        }
    }
    for values in [&h.positive_buckets, &h.negative_buckets, &h.custom_values] {
        put_varint(out, values.len() as u64);
        put_values(out, values);
    }
}

fn put_header(out: &mut Vec<u8>, kind: u8, len: usize) {
    out.push(kind);
    out.extend_from_slice(&(len as u32).to_le_bytes());
}

pub(super) fn put_warning(out: &mut Vec<u8>, text: &str) {
    put_header(out, WARNING, text.len());
    out.extend_from_slice(text.as_bytes());
}

pub(super) fn put_end(out: &mut Vec<u8>) {
    put_header(out, END, 0);
}

/// A selection's answer whose frames are whole; batches are decoded as they are asked for.
#[derive(Debug)]
pub struct Stream {
    frames: std::vec::IntoIter<Bytes>,
    pub warnings: Vec<String>,
}

impl Stream {
    /// # Errors
    /// `Corrupt` when frames are cut off.
    pub fn check(bytes: &[u8]) -> Result<Stream, PeerError> {
        let whole = Bytes::copy_from_slice(bytes);
        let (mut at, mut frames, mut warnings) = (0, Vec::new(), Vec::new());
        loop {
            let header = whole.get(at..at + HEADER).ok_or(PeerError::Corrupt("it breaks off"))?;
            let len = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
            let kind = header[0];
            at += HEADER;
            let content = whole.get(at..at + len).ok_or(PeerError::Corrupt("it breaks off"))?;
            match kind {
                BATCH => frames.push(whole.slice(at..at + len)),
                WARNING => warnings.push(String::from_utf8_lossy(content).into_owned()),
                END => return Ok(Stream { frames: frames.into_iter(), warnings }),
                _ => return Err(PeerError::Corrupt("unknown frame")),
            }
            at += len;
        }
    }
}

impl Iterator for Stream {
    type Item = Result<Batch, PeerError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.frames.next().map(|f| decode_batch(&f))
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], PeerError> {
        let (head, rest) = self.bytes.split_at_checked(n).ok_or(PeerError::Corrupt("a length"))?;
        self.bytes = rest;
        Ok(head)
    }

    fn byte(&mut self) -> Result<u8, PeerError> {
        Ok(self.take(1)?.first().copied().unwrap_or(0))
    }

    fn varint(&mut self) -> Result<u64, PeerError> {
        let mut v = 0u64;
        for shift in (0..64).step_by(7) {
            let b = self.byte()?;
            v |= u64::from(b & 0x7f) << shift;
            if b < 0x80 {
                return Ok(v);
            }
        }
        Err(PeerError::Corrupt("a number"))
    }

    fn signed(&mut self) -> Result<i64, PeerError> {
        Ok(unzigzag(self.varint()?))
    }

    /// A count of things of which each takes at least one byte.
    fn count(&mut self) -> Result<usize, PeerError> {
        let n = self.varint()? as usize;
        if n > self.bytes.len() {
            return Err(PeerError::Corrupt("a count"));
        }
        Ok(n)
    }

    fn float(&mut self) -> Result<f64, PeerError> {
        let bytes = self.take(8)?.try_into().map_err(|_| PeerError::Corrupt("a value"))?;
        Ok(f64::from_bits(u64::from_le_bytes(bytes)))
    }

    fn times(&mut self) -> Result<Vec<i64>, PeerError> {
        let n = self.count()?;
        let (mut last, mut step, mut out) = (0i64, 0i64, Vec::with_capacity(n));
        for _ in 0..n {
            step = step.wrapping_add(self.signed()?);
            last = last.wrapping_add(step);
            out.push(last);
        }
        Ok(out)
    }

    fn values(&mut self, n: usize) -> Result<Vec<f64>, PeerError> {
        if n > self.bytes.len() {
            return Err(PeerError::Corrupt("a count"));
        }
        let (mut last, mut out) = (0u64, Vec::with_capacity(n));
        for _ in 0..n {
            last ^= self.varint()?.swap_bytes();
            out.push(f64::from_bits(last));
        }
        Ok(out)
    }

    fn histogram(&mut self) -> Result<Histogram, PeerError> {
        let hint = CounterResetHint::from_code(self.byte()?.into());
        let counter_reset_hint = hint.ok_or(PeerError::Corrupt("a reset hint"))?;
        let narrow = |v: i64| i32::try_from(v).map_err(|_| PeerError::Corrupt("a bucket"));
        let schema = narrow(self.signed()?)?;
        let [zero_threshold, zero_count, count, sum] = [self.float()?, self.float()?, self.float()?, self.float()?];
        let mut spans = [Vec::new(), Vec::new()];
        for list in &mut spans {
            for _ in 0..self.count()? {
                let offset = narrow(self.signed()?)?;
                let length = u32::try_from(self.varint()?).map_err(|_| PeerError::Corrupt("a span"))?;
                list.push(Span { offset, length });
            }
        }
        let [positive_spans, negative_spans] = spans;
        let mut lists = [Vec::new(), Vec::new(), Vec::new()];
        for list in &mut lists {
            let n = self.count()?;
            *list = self.values(n)?;
        }
        let [positive_buckets, negative_buckets, custom_values] = lists;
        Ok(Histogram {
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
}

fn decode_batch(frame: &[u8]) -> Result<Batch, PeerError> {
    let len = snap::raw::decompress_len(frame).map_err(|_| PeerError::Corrupt("compression"))?;
    if len > MAX_BATCH {
        return Err(PeerError::Corrupt("a batch is too large"));
    }
    let content = snap::raw::Decoder::new().decompress_vec(frame).map_err(|_| PeerError::Corrupt("compression"))?;
    let mut r = Reader { bytes: &content };
    let mut strings = Vec::new();
    for _ in 0..r.count()? {
        let n = r.varint()? as usize;
        strings.push(std::str::from_utf8(r.take(n)?).map_err(|_| PeerError::Corrupt("a string"))?);
    }
    let mut columns: Vec<Arc<[i64]>> = Vec::new();
    for _ in 0..r.count()? {
        columns.push(r.times()?.into());
    }
    let column = |i: u64| -> Result<Arc<[i64]>, PeerError> {
        let found = (i as usize).checked_sub(1).and_then(|i| columns.get(i));
        found.cloned().ok_or(PeerError::Corrupt("a column"))
    };
    let mut series = Vec::new();
    for _ in 0..r.count()? {
        let mut pairs = Vec::new();
        for _ in 0..r.count()? {
            let mut text = || -> Result<&str, PeerError> {
                let i = r.varint()? as usize;
                strings.get(i).copied().ok_or(PeerError::Corrupt("a string"))
            };
            pairs.push((text()?, text()?));
        }
        let sorted = pairs.windows(2).all(|w| w[0].0 < w[1].0) && pairs.iter().all(|p| !p.1.is_empty());
        if !sorted || pairs.iter().any(|p| p.0.len().max(p.1.len()) >= 1 << 28) {
            return Err(PeerError::Corrupt("labels"));
        }
        let labels = Labels::from_sorted(pairs);
        let mut floats = FloatColumn::default();
        let times = r.varint()?;
        if times > 0 {
            floats.timestamps = column(times)?;
            let n = floats.timestamps.len();
            let starts = r.varint()?;
            if starts > 0 {
                let starts = column(starts)?;
                if starts.len() != n {
                    return Err(PeerError::Corrupt("start timestamps"));
                }
                floats.start_timestamps = Some(starts);
            }
            floats.values = match r.byte()? {
                0 => Values::Constant(r.float()?),
                1 => Values::Dense(r.values(n)?),
                _ => return Err(PeerError::Corrupt("values")),
            };
        }
        let mut histograms = HistogramColumn { timestamps: r.times()?, ..HistogramColumn::default() };
        if !histograms.timestamps.is_empty() {
            histograms.start_timestamps = r.times()?;
            let (n, starts) = (histograms.timestamps.len(), histograms.start_timestamps.len());
            if starts != 0 && starts != n {
                return Err(PeerError::Corrupt("start timestamps"));
            }
            for _ in 0..n {
                histograms.values.push(Arc::new(r.histogram()?));
            }
        }
        series.push(Series { labels, floats, histograms, order: 0 });
    }
    Ok(Batch { series })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The bytes of a whole answer.
    pub(crate) fn stream(batches: Vec<Batch>, warnings: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        batches.iter().for_each(|b| put_batch(&mut out, b));
        warnings.iter().for_each(|w| put_warning(&mut out, w));
        put_end(&mut out);
        out
    }

    fn sample_batch() -> Batch {
        let times: Arc<[i64]> = (0..100).map(|i| 1_700_000_000_000 + i * 15_000 + i % 3).collect();
        let starts: Arc<[i64]> = (0..100).map(|_| 5).collect();
        let labels =
            |n: usize| Labels::from_pairs([("__name__".to_owned(), "m".to_owned()), ("i".to_owned(), n.to_string())]);
        let histogram = Histogram {
            counter_reset_hint: CounterResetHint::Gauge,
            schema: -53,
            count: 3.0,
            sum: f64::from_bits(narthex_model::STALE_NAN_BITS),
            positive_spans: vec![Span { offset: -2, length: 2 }],
            positive_buckets: vec![1.0, 2.0],
            custom_values: vec![0.5],
            ..Histogram::default()
        };
        let mut series: Vec<Series> = (0..5)
            .map(|n| Series {
                labels: labels(n),
                floats: FloatColumn {
                    timestamps: times.clone(),
                    values: Values::Dense((0..100).map(|i| (i * n) as f64 / 3.0).collect()),
                    start_timestamps: (n == 2).then(|| starts.clone()),
                },
                ..Series::default()
            })
            .collect();
        series[1].floats.values = Values::Constant(narthex_model::stale_nan());
        series.push(Series {
            labels: labels(9),
            histograms: HistogramColumn {
                timestamps: vec![-5, 7],
                values: vec![Arc::new(histogram.clone()), Arc::new(histogram)],
                start_timestamps: vec![1, 1],
            },
            ..Series::default()
        });
        Batch { series }
    }

    /// NaN-safe equality.
    fn text(batch: &Batch) -> String {
        let bits = |v: &Values, n: usize| (0..n).map(|i| v.at(i).to_bits()).collect::<Vec<_>>();
        batch
            .series
            .iter()
            .map(|s| {
                let h: Vec<_> = s.histograms.values.iter().map(|h| (h.sum.to_bits(), format!("{h:?}"))).collect();
                let (f, hc) = (&s.floats, &s.histograms);
                format!(
                    "{:?} {:?} {:?} {:?} {h:?} {:?} {:?}\n",
                    s.labels,
                    f.timestamps,
                    bits(&f.values, f.len()),
                    f.start_timestamps,
                    hc.timestamps,
                    hc.start_timestamps
                )
            })
            .collect()
    }

    #[test]
    fn columns_come_back_bit_for_bit_and_shared() {
        let batch = sample_batch();
        let bytes = stream(vec![batch.clone()], &["half"]);
        let decoded = Stream::check(&bytes).unwrap();
        assert_eq!(decoded.warnings, ["half"]);
        let back: Vec<Batch> = decoded.collect::<Result<_, _>>().unwrap();
        assert_eq!(back.len(), 1);
        assert_eq!(text(&back[0]), text(&batch));
        assert!(Arc::ptr_eq(&back[0].series[0].floats.timestamps, &back[0].series[3].floats.timestamps));
        assert!(matches!(back[0].series[1].floats.values, Values::Constant(_)));
    }

    #[test]
    fn what_is_cut_or_changed_is_refused_and_nothing_panics() {
        let bytes = stream(vec![sample_batch()], &[]);
        for cut in 0..bytes.len() {
            assert!(Stream::check(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        // Any change decodes to something or to an error, in bounded memory.
        let mut seed = 7u64;
        for _ in 0..3000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let mut changed = bytes.clone();
            let at = (seed >> 33) as usize % changed.len();
            changed[at] ^= 1 << (seed & 7);
            if let Ok(stream) = Stream::check(&changed) {
                stream.for_each(drop);
            }
        }
        // The same below the compression.
        let content = snap::raw::Decoder::new().decompress_vec(&bytes[HEADER..bytes.len() - HEADER]).unwrap();
        for _ in 0..3000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let mut changed = content.clone();
            let at = (seed >> 33) as usize % changed.len();
            changed[at] = (seed >> 8) as u8;
            let frame = snap::raw::Encoder::new().compress_vec(&changed).unwrap();
            drop(decode_batch(&frame));
        }
    }

    #[test]
    fn many_samples_become_several_frames() {
        let times: Arc<[i64]> = (0..90_000).collect();
        let one = |n: usize| Series {
            labels: Labels::from_pairs([("i".to_owned(), n.to_string())]),
            floats: FloatColumn { timestamps: times.clone(), values: Values::Constant(1.0), start_timestamps: None },
            ..Series::default()
        };
        let bytes = stream(vec![Batch { series: (0..5).map(one).collect() }], &[]);
        let back: Vec<Batch> = Stream::check(&bytes).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(back.iter().map(|b| b.series.len()).collect::<Vec<_>>(), [2, 2, 1]);
    }

    #[test]
    fn questions_come_back() {
        let mut request = SelectRequest::new(
            vec![Matcher::equal("__name__", "up"), Matcher::new(MatchType::NotRegexp, "job", "a.*").unwrap()],
            -5,
            10,
        );
        request.hints.func = Some("rate".to_owned());
        let back = decode_select(&encode_select(&request)).unwrap();
        assert_eq!(back.matchers.len(), 2);
        assert_eq!((back.mint, back.maxt, back.hints.func.as_deref()), (-5, 10, Some("rate")));
        assert!(decode_select(b"{\"matchers\":[[9,\"a\",\"b\"]]}").is_err());
        let query =
            LabelQuery { selectors: vec![request.matchers], mint: 1, maxt: 2, limit: 3, ..LabelQuery::default() };
        let (name, back) = decode_labels(&encode_labels("job", &query)).unwrap();
        assert_eq!((name.as_str(), back.selectors[0].len(), back.limit), ("job", 2, 3));
    }
}
