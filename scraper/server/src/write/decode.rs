//! Remote-write messages 1.0 (`prometheus.WriteRequest`) and 2.0 (`io.prometheus.write.v2.Request`) into a batch.

use std::sync::Arc;

use narthex_model::varint::unzigzag;
use narthex_model::{
    CounterResetHint, Exemplar, Histogram, Labels, METRIC_NAME, Metadata, MetricType, Span, TYPE_LABEL, UNIT_LABEL,
};
use narthex_scrape::histogram::{RESERVED, SCHEMA_MAX, check_count, validate};
use narthex_storage::{WriteBatch, WriteSeries};

use super::known::{Found, Lesson, Samples, Walk};
use super::wire::{Field, Fields, WireError, packed_doubles, packed_varints};

/// What a receiver makes of 2.0's series beside their samples.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// Samples of 0 go to start timestamps.
    pub zeros: bool,
    /// Series get labels for type and unit.
    pub type_and_unit: bool,
}

/// What a request holds.
#[derive(Debug, Default)]
pub struct Decoded {
    pub batch: WriteBatch,
    /// By metric name (of 1.0's metadata messages, and of 2.0's series).
    pub metadata: Vec<(String, Metadata)>,
    /// Samples and histograms of series whose labels are not valid; those series are left out. 1.0's receiver counts
    /// such series.
    pub invalid: u64,
    /// What is wrong with them, for 2.0's answer, and before which series of the batch they came.
    pub faults: Vec<(usize, String)>,
    /// What is wrong with histograms, by index of the series and of the histogram in it.
    pub bad_histograms: Vec<(usize, usize, String)>,
    pub floats: u64,
    pub histograms: u64,
    pub exemplars: u64,
    /// What is refused of it, in the words of the answer.
    pub refused: Vec<String>,
    fault_bytes: usize,
}

/// Of texts of faults so many bytes are kept: each names a series, and a request may have a million.
pub const MAX_FAULTS: usize = 1 << 20;

/// What a request is read with: the walk over known series, their samples, and what is to be learnt of the others, by
/// index in the batch.
pub struct Reader<'w, 'k> {
    pub walk: Walk<'k>,
    pub samples: &'w mut Samples,
    pub lessons: Vec<(usize, Lesson)>,
}

impl Reader<'_, '_> {
    /// Notes a lesson of the series that was put into the batch last, if that is so.
    fn note(&mut self, before: usize, lesson: Option<Lesson>, out: &Decoded) {
        if out.batch.series.len() > before {
            self.lessons.extend(lesson.map(|l| (before, l)));
        }
    }
}

impl Decoded {
    fn fault(&mut self, text: impl FnOnce() -> String) {
        if self.fault_bytes < MAX_FAULTS {
            let text = text();
            self.fault_bytes += text.len();
            self.faults.push((self.batch.series.len(), text));
        }
    }
}

/// Builds a label set; pairs come sorted from senders that keep to the specification, and are sorted otherwise.
///
/// # Errors
/// With Prometheus's words, when the name is missing or a name is empty or twice there.
fn labels(pairs: &mut [(&str, &str)]) -> Result<Labels, String> {
    if !pairs.is_sorted_by(|a, b| a.0 < b.0) {
        pairs.sort_unstable_by(|a, b| a.0.cmp(b.0));
    }
    let set = || Labels::from_sorted(pairs.iter().copied().filter(|(_, v)| !v.is_empty()));
    let name = pairs.iter().any(|(n, v)| *n == METRIC_NAME && !v.is_empty());
    if !name || pairs.first().is_some_and(|(n, _)| n.is_empty()) {
        return Err(format!("invalid metric name or labels, got {}", set()));
    }
    if let Some(twice) = pairs.windows(2).find(|w| w[0].0 == w[1].0) {
        return Err(format!("invalid labels for series, labels {}, duplicated label {}", set(), twice[0].0));
    }
    Ok(set())
}

fn sample(bytes: &[u8]) -> Result<(i64, f64, i64), WireError> {
    let (mut t, mut v, mut start) = (0, 0.0, 0);
    let mut fields = Fields(bytes);
    while let Some((number, field)) = fields.next()? {
        match number {
            1 => v = field.double()?,
            2 => t = field.varint()? as i64,
            3 => start = field.varint()? as i64,
            _ => {}
        }
    }
    Ok((t, v, start))
}

fn spans(field: Field<'_>, out: &mut Vec<Span>) -> Result<(), WireError> {
    let mut span = Span::default();
    let mut fields = Fields(field.bytes()?);
    while let Some((number, field)) = fields.next()? {
        match number {
            1 => span.offset = field.sint()? as i32,
            2 => span.length = field.varint()? as u32,
            _ => {}
        }
    }
    out.push(span);
    Ok(())
}

/// A histogram as it came.
struct Came {
    timestamp: i64,
    start: i64,
    histogram: Histogram,
    /// What is wrong with it.
    fault: Option<String>,
}

/// Integer histograms come as deltas from bucket to bucket, float ones as counts.
fn histogram(bytes: &[u8]) -> Result<Came, WireError> {
    let mut h = Histogram::default();
    let (mut timestamp, mut start) = (0, 0);
    let mut integers = Some((0u64, 0u64));
    let (mut negative, mut positive): (Vec<i64>, Vec<i64>) = (Vec::new(), Vec::new());
    let mut fields = Fields(bytes);
    while let Some((number, field)) = fields.next()? {
        match number {
            1 => {
                let count = field.varint()?;
                h.count = count as f64;
                integers = Some((count, integers.map_or(0, |i| i.1)));
            }
            2 => {
                h.count = field.double()?;
                integers = None;
            }
            3 => h.sum = field.double()?,
            4 => h.schema = field.sint()? as i32,
            5 => h.zero_threshold = field.double()?,
            6 => {
                let zeros = field.varint()?;
                h.zero_count = zeros as f64;
                integers = integers.map(|i| (i.0, zeros));
            }
            7 => h.zero_count = field.double()?,
            8 => spans(field, &mut h.negative_spans)?,
            9 => packed_varints(field, |n| negative.push(unzigzag(n)))?,
            10 => packed_doubles(field, &mut h.negative_buckets)?,
            11 => spans(field, &mut h.positive_spans)?,
            12 => packed_varints(field, |n| positive.push(unzigzag(n)))?,
            13 => packed_doubles(field, &mut h.positive_buckets)?,
            14 => h.counter_reset_hint = CounterResetHint::from_code(field.varint()?).unwrap_or_default(),
            15 => timestamp = field.varint()? as i64,
            16 => packed_doubles(field, &mut h.custom_values)?,
            17 => start = field.varint()? as i64,
            _ => {}
        }
    }
    let mut observations = integers.map_or(0, |i| i.1);
    for (deltas, counts) in [(negative, &mut h.negative_buckets), (positive, &mut h.positive_buckets)] {
        let mut count = 0i64;
        counts.extend(deltas.into_iter().map(|d| {
            count = count.wrapping_add(d);
            observations = observations.wrapping_add(count as u64);
            count as f64
        }));
    }
    if (SCHEMA_MAX + 1..=*RESERVED.end()).contains(&h.schema) && spans_fit(&h) {
        h.reduce_resolution(SCHEMA_MAX);
    }
    let counts = integers.map_or(Ok(()), |(count, _)| check_count(observations, count, h.sum));
    let fault = validate(&h).and(counts).err();
    Ok(Came { timestamp, start, histogram: h, fault })
}

fn spans_fit(h: &Histogram) -> bool {
    let fit = |spans: &[Span], buckets: &[f64]| {
        spans.iter().map(|s| u64::from(s.length)).sum::<u64>() == buckets.len() as u64
            && spans.iter().skip(1).all(|s| s.offset >= 0)
    };
    fit(&h.positive_spans, &h.positive_buckets) && fit(&h.negative_spans, &h.negative_buckets)
}

/// Reads a 1.0 request: samples of known series by way of `reader`, all else into what is returned.
///
/// # Errors
/// When the bytes are no such message.
pub fn v1(body: &[u8], reader: &mut Reader<'_, '_>) -> Result<Decoded, WireError> {
    let mut out = Decoded::default();
    let mut pairs: Vec<(&str, &str)> = Vec::with_capacity(32);
    let mut fields = Fields(body);
    while let Some((number, field)) = fields.next()? {
        match number {
            1 => {
                let series = field.bytes()?;
                let before = out.batch.series.len();
                if let Found::Unknown(lesson) = reader.walk.v1(series, offset(body, series), reader.samples) {
                    v1_series(series, &mut pairs, &mut out)?;
                    reader.note(before, lesson, &out);
                }
            }
            3 => {
                let mut name = "";
                let mut metadata = Metadata::default();
                let mut inner = Fields(field.bytes()?);
                while let Some((number, field)) = inner.next()? {
                    match number {
                        1 => metadata.metric_type = MetricType::from_code(field.varint()?),
                        2 => name = field.text()?,
                        4 => metadata.help = field.text()?.to_owned(),
                        5 => metadata.unit = field.text()?.to_owned(),
                        _ => {}
                    }
                }
                if !name.is_empty() {
                    out.metadata.push((name.to_owned(), metadata));
                }
            }
            _ => {}
        }
    }
    Ok(out)
}

/// The series of an answer to a remote read (`prometheus.ReadResponse`) that came as samples, of all its queries.
///
/// # Errors
/// When the bytes are no such message.
pub fn read_answer(body: &[u8]) -> Result<Vec<WriteSeries>, WireError> {
    let mut out = Decoded::default();
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    let mut results = Fields(body);
    while let Some((number, result)) = results.next()? {
        let mut fields = Fields(if number == 1 { result.bytes()? } else { continue });
        while let Some((number, series)) = fields.next()? {
            if number == 1 {
                v1_series(series.bytes()?, &mut pairs, &mut out)?;
            }
        }
    }
    Ok(out.batch.series)
}

fn label(bytes: &[u8]) -> Result<(&str, &str), WireError> {
    let (mut name, mut value) = ("", "");
    let mut fields = Fields(bytes);
    while let Some((number, field)) = fields.next()? {
        match number {
            1 => name = field.text()?,
            2 => value = field.text()?,
            _ => {}
        }
    }
    Ok((name, value))
}

fn v1_series<'a>(bytes: &'a [u8], pairs: &mut Vec<(&'a str, &'a str)>, out: &mut Decoded) -> Result<(), WireError> {
    pairs.clear();
    let mut series = WriteSeries::default();
    let (mut bad, mut readable) = (Vec::new(), true);
    let mut fields = Fields(bytes);
    while let Some((number, field)) = fields.next()? {
        let bytes = match number {
            1..=4 => field.bytes()?,
            _ => continue,
        };
        match number {
            1 => match label(bytes) {
                // Of the series, not of the request.
                Err(WireError::Utf8) => readable = false,
                label => pairs.push(label?),
            },
            2 => {
                let (t, v, _) = sample(bytes)?;
                series.samples.push((t, v));
            }
            3 => series.exemplars.push(v1_exemplar(bytes)?),
            _ => take(histogram(bytes)?, &mut series, &mut bad),
        }
    }
    let labels = if readable { labels(pairs) } else { Err("labels that are no UTF-8".into()) };
    let invalid = out.invalid;
    let valid = labels.is_ok();
    finish(labels, series, bad, out);
    if !valid {
        out.invalid = invalid + 1;
    }
    Ok(())
}

/// Adds a histogram to a series and what is wrong with it to `bad`; its start timestamp comes back.
fn take(came: Came, series: &mut WriteSeries, bad: &mut Vec<(usize, String)>) {
    bad.extend(came.fault.map(|fault| (series.histograms.len(), fault)));
    series.histograms.push((came.timestamp, Arc::new(came.histogram)));
}

fn finish(labels: Result<Labels, String>, mut series: WriteSeries, bad: Vec<(usize, String)>, out: &mut Decoded) {
    match labels {
        Ok(labels) => {
            series.labels = labels;
            series.exemplars.retain(|e| label_characters(&e.labels) <= MAX_EXEMPLAR_CHARACTERS);
            let at = out.batch.series.len();
            out.bad_histograms.extend(bad.into_iter().map(|(i, fault)| (at, i, fault)));
            out.floats += series.samples.len() as u64;
            out.histograms += series.histograms.len() as u64;
            out.exemplars += series.exemplars.len() as u64;
            out.batch.series.push(series);
        }
        Err(fault) => {
            out.invalid += (series.samples.len() + series.histograms.len()) as u64;
            out.fault(|| fault);
        }
    }
}

/// Exemplars with longer labels are left out, without a word to the sender.
const MAX_EXEMPLAR_CHARACTERS: usize = 128;

fn label_characters(labels: &Labels) -> usize {
    labels.iter().map(|(n, v)| n.chars().count() + v.chars().count()).sum()
}

fn v1_exemplar(bytes: &[u8]) -> Result<Exemplar, WireError> {
    let mut exemplar = Exemplar { labels: Labels::empty(), value: 0.0, timestamp: 0, has_timestamp: true };
    let mut pairs = Vec::new();
    let mut fields = Fields(bytes);
    while let Some((number, field)) = fields.next()? {
        match number {
            1 => pairs.push(label(field.bytes()?)?),
            2 => exemplar.value = field.double()?,
            3 => exemplar.timestamp = field.varint()? as i64,
            _ => {}
        }
    }
    exemplar.labels = Labels::from_pairs(pairs);
    Ok(exemplar)
}

/// Where a part lies in the whole.
fn offset(whole: &[u8], part: &[u8]) -> usize {
    (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize)
}

/// Reads further series of a 1.0 request, messages as they lie in it.
///
/// # Errors
/// When one is no such message.
pub fn v1_more<'a>(series: impl Iterator<Item = &'a [u8]>, out: &mut Decoded) -> Result<(), WireError> {
    let mut pairs = Vec::new();
    series.into_iter().try_for_each(|s| v1_series(s, &mut pairs, out))
}

/// Reads further series of a 2.0 request likewise.
///
/// # Errors
/// When the request or one of the series is no such message.
pub fn v2_more<'a>(
    body: &[u8],
    series: impl Iterator<Item = &'a [u8]>,
    rules: Rules,
    out: &mut Decoded,
) -> Result<(), WireError> {
    let symbols = symbols(body)?;
    series.into_iter().try_for_each(|s| v2_series(s, &symbols, rules, out))
}

fn symbols(body: &[u8]) -> Result<Vec<&str>, WireError> {
    let mut symbols = Vec::new();
    let mut fields = Fields(body);
    while let Some((number, field)) = fields.next()? {
        if number == 4 {
            symbols.push(field.text()?);
        }
    }
    Ok(symbols)
}

/// Reads a 2.0 request like [`v1`].
///
/// # Errors
/// When the bytes are no such message.
pub fn v2(body: &[u8], reader: &mut Reader<'_, '_>, rules: Rules) -> Result<Decoded, WireError> {
    // Symbols may come after the series that name them.
    let symbols = symbols(body)?;
    reader.walk.symbols(symbols.iter().copied());
    let mut out = Decoded::default();
    let mut fields = Fields(body);
    while let Some((number, field)) = fields.next()? {
        if number == 5 {
            let series = field.bytes()?;
            let before = out.batch.series.len();
            if let Found::Unknown(lesson) = reader.walk.v2(series, offset(body, series), reader.samples) {
                v2_series(series, &symbols, rules, &mut out)?;
                reader.note(before, lesson, &out);
            }
        }
    }
    Ok(out)
}

/// The pairs that references name; of the first reference that leads nowhere, what it is.
fn resolve<'a>(refs: &[u64], symbols: &[&'a str]) -> Result<Vec<(&'a str, &'a str)>, String> {
    if !refs.len().is_multiple_of(2) {
        return Err(format!("invalid labelRefs length {}", refs.len()));
    }
    let get = |r: u64| usize::try_from(r).ok().and_then(|i| symbols.get(i).copied());
    refs.chunks_exact(2)
        .map(|pair| match (get(pair[0]), get(pair[1])) {
            (Some(name), Some(value)) => Ok((name, value)),
            _ => Err(format!(
                "labelRefs {} (name) = {} (value) outside of symbols table (size {})",
                pair[0],
                pair[1],
                symbols.len()
            )),
        })
        .collect()
}

fn v2_series(bytes: &[u8], symbols: &[&str], rules: Rules, out: &mut Decoded) -> Result<(), WireError> {
    let mut refs = Vec::with_capacity(32);
    let mut series = WriteSeries::default();
    let mut metadata = None;
    let (mut bad, mut faults) = (Vec::new(), Vec::new());
    let mut any_start = false;
    let (mut starts, mut histogram_starts) = (Vec::new(), Vec::new());
    let mut fields = Fields(bytes);
    while let Some((number, field)) = fields.next()? {
        match number {
            1 => packed_varints(field, |n| refs.push(n))?,
            2 => {
                let (t, v, start) = sample(field.bytes()?)?;
                any_start |= start != 0;
                series.samples.push((t, v));
                starts.push(start);
            }
            3 => {
                let came = histogram(field.bytes()?)?;
                histogram_starts.push(came.start);
                take(came, &mut series, &mut bad);
            }
            4 => {
                let mut exemplar_refs = Vec::new();
                let mut e = Exemplar { labels: Labels::empty(), value: 0.0, timestamp: 0, has_timestamp: true };
                let mut inner = Fields(field.bytes()?);
                while let Some((number, field)) = inner.next()? {
                    match number {
                        1 => packed_varints(field, |n| exemplar_refs.push(n))?,
                        2 => e.value = field.double()?,
                        3 => e.timestamp = field.varint()? as i64,
                        _ => {}
                    }
                }
                match resolve(&exemplar_refs, symbols) {
                    Ok(pairs) => {
                        e.labels = Labels::from_pairs(pairs);
                        series.exemplars.push(e);
                    }
                    Err(fault) => faults.push(fault),
                }
            }
            5 => {
                let (mut kind, mut help, mut unit) = (0, 0, 0);
                let mut inner = Fields(field.bytes()?);
                while let Some((number, field)) = inner.next()? {
                    match number {
                        1 => kind = field.varint()?,
                        3 => help = field.varint()?,
                        4 => unit = field.varint()?,
                        _ => {}
                    }
                }
                metadata = Some((kind, help, unit));
            }
            _ => {}
        }
    }
    if any_start {
        series.start_timestamps = starts;
    }
    if histogram_starts.iter().any(|s| *s != 0) {
        series.histogram_starts = histogram_starts;
    }
    series.zeros = rules.zeros;
    let mut pairs = match resolve(&refs, symbols) {
        Ok(pairs) => pairs,
        Err(fault) => {
            let fault = format!("parsing labels for series {refs:?}: {fault}").replace(", ", " ");
            finish(Err(fault), series, bad, out);
            return Ok(());
        }
    };
    for (what, r) in metadata.iter().flat_map(|(_, help, unit)| [("unit_ref", *unit), ("help_ref", *help)]) {
        if r >= symbols.len() as u64 {
            out.fault(|| {
                let refs = format!("{refs:?}").replace(", ", " ");
                let size = symbols.len();
                format!(
                    "parsing metadata for series {refs}: metadata {what} {r} outside of symbols table (size {size})"
                )
            });
            return Ok(());
        }
    }
    let text = |r: u64| usize::try_from(r).ok().and_then(|i| symbols.get(i)).map_or("", |s| *s);
    if rules.type_and_unit
        && let Some((kind, _, unit)) = metadata
    {
        let mut own = MetricType::from_code(kind).labels(text(unit)).peekable();
        if own.peek().is_some() {
            pairs.retain(|(name, _)| !matches!(*name, TYPE_LABEL | UNIT_LABEL));
            pairs.extend(own);
        }
    }
    let labels = labels(&mut pairs);
    if let (Ok(labels), true) = (&labels, series.samples.is_empty() && series.histograms.is_empty()) {
        out.fault(|| format!("TimeSeries must contain at least one sample or histogram for series {labels}"));
        return Ok(());
    }
    if let (Ok(labels), Some((kind, help, unit))) = (&labels, metadata) {
        let (help, unit) = (text(help).to_owned(), text(unit).to_owned());
        let metadata = Metadata { metric_type: MetricType::from_code(kind), help, unit };
        if metadata != Metadata::default() {
            out.metadata.push((family(labels.metric_name(), metadata.metric_type).to_owned(), metadata));
        }
    }
    let name = labels.as_ref().ok().filter(|_| !faults.is_empty()).map(ToString::to_string);
    finish(labels, series, bad, out);
    for (name, fault) in name.iter().flat_map(|name| faults.iter().map(move |fault| (name, fault))) {
        out.fault(|| format!("parsing exemplar for series {name}: {fault}"));
    }
    Ok(())
}

/// The name that a series' metadata goes by: histograms and summaries have several series of one name.
fn family(metric: &str, kind: MetricType) -> &str {
    let suffixes: &[&str] = match kind {
        MetricType::Histogram | MetricType::GaugeHistogram => &["_bucket", "_count", "_sum"],
        MetricType::Summary => &["_count", "_sum"],
        _ => &[],
    };
    suffixes.iter().find_map(|s| metric.strip_suffix(s)).unwrap_or(metric)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use prost::Message;

    #[derive(Clone, PartialEq, Message)]
    pub struct Label {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(string, tag = "2")]
        pub value: String,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Sample {
        #[prost(double, tag = "1")]
        pub value: f64,
        #[prost(int64, tag = "2")]
        pub timestamp: i64,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct BucketSpan {
        #[prost(sint32, tag = "1")]
        pub offset: i32,
        #[prost(uint32, tag = "2")]
        pub length: u32,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct HistogramMessage {
        #[prost(uint64, tag = "1")]
        pub count: u64,
        #[prost(double, tag = "3")]
        pub sum: f64,
        #[prost(sint32, tag = "4")]
        pub schema: i32,
        #[prost(message, repeated, tag = "11")]
        pub positive_spans: Vec<BucketSpan>,
        #[prost(sint64, repeated, tag = "12")]
        pub positive_deltas: Vec<i64>,
        #[prost(int64, tag = "15")]
        pub timestamp: i64,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct TimeSeries {
        #[prost(message, repeated, tag = "1")]
        pub labels: Vec<Label>,
        #[prost(message, repeated, tag = "2")]
        pub samples: Vec<Sample>,
        #[prost(message, repeated, tag = "4")]
        pub histograms: Vec<HistogramMessage>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct WriteRequest {
        #[prost(message, repeated, tag = "1")]
        pub timeseries: Vec<TimeSeries>,
    }

    pub fn series(pairs: &[(&str, &str)], samples: &[(i64, f64)]) -> TimeSeries {
        TimeSeries {
            labels: pairs.iter().map(|(n, v)| Label { name: (*n).into(), value: (*v).into() }).collect(),
            samples: samples.iter().map(|(t, v)| Sample { value: *v, timestamp: *t }).collect(),
            histograms: Vec::new(),
        }
    }

    /// Reads a request with no series known.
    fn read(
        body: &[u8],
        how: impl FnOnce(&[u8], &mut Reader<'_, '_>) -> Result<Decoded, WireError>,
    ) -> Result<Decoded, WireError> {
        let known = crate::write::known::Known::new(0);
        let table = known.lock();
        let (walk, mut samples) = (known.walk(&table, i64::MAX), Samples::default());
        how(body, &mut Reader { walk, samples: &mut samples, lessons: Vec::new() })
    }

    #[test]
    fn v1_agrees_with_prost() {
        let mut with_histogram = series(&[("__name__", "h")], &[]);
        with_histogram.histograms.push(HistogramMessage {
            count: 6,
            sum: 2.5,
            schema: 1,
            positive_spans: vec![BucketSpan { offset: -2, length: 3 }],
            positive_deltas: vec![1, 1, 1],
            timestamp: 7,
        });
        let request = WriteRequest {
            timeseries: vec![
                series(&[("__name__", "up"), ("job", "j")], &[(1, 1.5), (-2, f64::NAN)]),
                series(&[("z", "1"), ("__name__", "unsorted"), ("empty", "")], &[(3, -0.0)]),
                series(&[("job", "nameless")], &[(1, 1.0)]),
                series(&[("__name__", "x"), ("a", "1"), ("a", "2")], &[(1, 1.0), (2, 1.0)]),
                with_histogram,
            ],
        };
        let decoded = read(&request.encode_to_vec(), v1).unwrap();
        let texts: Vec<String> = decoded.batch.series.iter().map(|s| s.labels.to_string()).collect();
        assert_eq!(texts, [r#"{__name__="up", job="j"}"#, r#"{__name__="unsorted", z="1"}"#, r#"{__name__="h"}"#]);
        assert_eq!((decoded.floats, decoded.histograms, decoded.invalid), (3, 1, 2));
        assert_eq!(decoded.batch.series[0].samples[0], (1, 1.5));
        assert_eq!(decoded.batch.series[0].samples[1].0, -2);
        assert!(decoded.faults[1].1.ends_with("duplicated label a"), "{:?}", decoded.faults);
        let (t, h) = &decoded.batch.series[2].histograms[0];
        assert_eq!((*t, h.positive_buckets.as_slice(), h.positive_spans[0].offset), (7, &[1.0, 2.0, 3.0][..], -2));
        assert_eq!(validate(h), Ok(()));
    }

    #[test]
    fn every_cut_is_an_error_or_a_shorter_request() {
        let request = WriteRequest { timeseries: vec![series(&[("__name__", "up"), ("job", "j")], &[(1, 1.5)])] };
        let bytes = request.encode_to_vec();
        for cut in 1..bytes.len() {
            assert!(read(&bytes[..cut], v1).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn v2_resolves_symbols_and_names_faults() {
        // symbols: "", "__name__", "up", "help text"; one good series, one with a reference beyond the table.
        let mut body = Vec::new();
        for s in ["", "__name__", "up", "help text"] {
            body.extend([0x22, s.len() as u8]);
            body.extend(s.as_bytes());
        }
        let sample: Vec<u8> = [&[0x09][..], &2.5f64.to_le_bytes(), &[0x10, 0x05]].concat();
        let good = [&[0x0a, 2, 1, 2][..], &[0x12, sample.len() as u8], &sample, &[0x2a, 4, 0x08, 2, 0x18, 3]].concat();
        body.extend([0x2a, good.len() as u8]);
        body.extend(&good);
        let bad = [&[0x0a, 2, 1, 9][..], &[0x12, sample.len() as u8], &sample].concat();
        body.extend([0x2a, bad.len() as u8]);
        body.extend(&bad);
        let decoded = read(&body, |body, reader| v2(body, reader, Rules::default())).unwrap();
        assert_eq!(decoded.batch.series.len(), 1);
        assert_eq!(decoded.batch.series[0].samples, [(5, 2.5)]);
        assert_eq!((decoded.invalid, decoded.floats), (1, 1));
        assert!(decoded.faults[0].1.contains("outside of symbols table (size 4)"), "{:?}", decoded.faults);
        assert_eq!(decoded.metadata[0].1.help, "help text");
        assert_eq!(decoded.metadata[0].1.metric_type, MetricType::Gauge);
    }
}
