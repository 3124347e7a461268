//! The protobuf format: `MetricFamily` messages, each behind its length. The only format with native histograms.
//!
//! Families are walked and metrics decoded one at a time, so that memory stays near the page's size whatever a
//! hostile page claims.

use std::sync::Arc;

use narthex_model::histogram::Span;
use narthex_model::{CounterResetHint, Exemplar, Histogram, Labels, METRIC_NAME, MetricType};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::nhcb::TempHistogram;
use super::proto::{self, FamilyHead, Metric, Timestamp};
use super::{Entry, MAX_EXEMPLAR_BYTES, PageParser, ParseError, RawLabels, format_open_metrics, quote_bytes};
use crate::histogram::{compact, validate};

/// The largest encoded metric; a decoded one takes up to 16 times as much memory.
const METRIC_LIMIT: usize = 8 << 20;

/// What becomes of histograms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProtobufOptions {
    /// Read classic buckets only, as if there were no native ones.
    pub ignore_native: bool,
    /// Keep the classic series of what is also read as a native histogram.
    pub keep_classic: bool,
    /// Turn classic histograms into native ones with custom buckets.
    pub convert_classic: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Family,
    Help,
    Unit,
    Type,
    Samples,
}

/// Which sample of the metric is current.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Value,
    Count,
    Sum,
    /// A bucket or quantile; one past the last bucket is the missing `+Inf`.
    Part(usize),
    Native,
    Converted,
}

/// Reads a page of delimited metric families.
pub struct ProtobufParser<'a> {
    rest: &'a [u8],
    options: ProtobufOptions,
    step: Step,
    head: Head,
    fields: FamilyHead,
    /// What is left of the current family's message.
    family: &'a [u8],
    metric: Metric,
    /// Set while a metric is current.
    field: Option<Field>,
    series: Vec<u8>,
    labels: RawLabels,
    converted: Option<Arc<Histogram>>,
}

/// A family's own fields, its texts checked.
#[derive(Default)]
struct Head {
    name: String,
    help: String,
    metric_type: i32,
    unit: String,
}

fn bad(message: impl ToString) -> ParseError {
    ParseError(message.to_string())
}

impl<'a> ProtobufParser<'a> {
    pub fn new(page: &'a [u8], options: ProtobufOptions) -> ProtobufParser<'a> {
        ProtobufParser {
            rest: page,
            options,
            step: Step::Family,
            head: Head::default(),
            fields: FamilyHead::default(),
            family: &[],
            metric: Metric::default(),
            field: None,
            series: Vec::new(),
            labels: RawLabels::default(),
            converted: None,
        }
    }

    /// Steps to the next family that has metrics.
    fn next_family(&mut self) -> Result<bool, ParseError> {
        loop {
            if self.rest.is_empty() {
                return Ok(false);
            }
            let mut rest = self.rest;
            let length = decode_varint(&mut rest).map_err(|_| bad("clientpb: invalid varint encountered"))?;
            if self.rest.len() - rest.len() > 5 {
                return Err(bad("clientpb: invalid varint encountered"));
            }
            let Some((message, rest)) = usize::try_from(length).ok().and_then(|n| rest.split_at_checked(n)) else {
                // Both with the length's own bytes, as Prometheus counts.
                let expected = length.saturating_add((self.rest.len() - rest.len()) as u64);
                return Err(bad(format!(
                    "clientpb: insufficient length of buffer, expected at least {expected} bytes, got {} bytes",
                    self.rest.len()
                )));
            };
            self.rest = rest;
            let metrics = self.read_head(message)?;
            self.family = message;
            if metrics == 0 {
                continue;
            }
            let head = std::mem::take(&mut self.fields);
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|e| quote_bytes(e.as_bytes()));
            let name = text(head.raw_name).map_err(|e| bad(format!("invalid metric name: {}", e.trim_matches('"'))))?;
            if name.is_empty() {
                return Err(bad("invalid metric name: "));
            }
            let help = text(head.raw_help)
                .map_err(|e| bad(format!("invalid help for metric {name:?}: {}", e.trim_matches('"'))))?;
            let unit = String::from_utf8_lossy(&head.raw_unit).into_owned();
            self.head = Head { name, help, metric_type: head.metric_type, unit };
            if !(proto::COUNTER..=proto::GAUGE_HISTOGRAM).contains(&self.head.metric_type) {
                return Err(bad(format!(
                    "unknown metric type for metric {:?}: {}",
                    self.head.name, self.head.metric_type
                )));
            }
            return Ok(true);
        }
    }

    /// Reads the fields of a family but its metrics, which are counted.
    fn read_head(&mut self, message: &'a [u8]) -> Result<usize, ParseError> {
        self.fields = FamilyHead::default();
        let mut metrics = 0;
        let mut rest = message;
        while !rest.is_empty() {
            let before = rest;
            if let Some(fault) = key_fault(rest) {
                return Err(bad(fault));
            }
            let (tag, wire) = decode_key(&mut rest).map_err(bad)?;
            if tag == 4 {
                take_message(&mut rest, wire)?;
                metrics += 1;
                continue;
            }
            skip_field(wire, tag, &mut rest, DecodeContext::default()).map_err(bad)?;
            let field = &before[..before.len() - rest.len()];
            self.fields.merge(field).map_err(bad)?;
        }
        Ok(metrics)
    }

    /// Decodes the family's next metric.
    fn next_metric(&mut self) -> Result<bool, ParseError> {
        while !self.family.is_empty() {
            let (tag, wire) = decode_key(&mut self.family).map_err(bad)?;
            if tag != 4 {
                skip_field(wire, tag, &mut self.family, DecodeContext::default()).map_err(bad)?;
                continue;
            }
            let message = take_message(&mut self.family, wire)?;
            if message.len() > METRIC_LIMIT {
                return Err(bad(format!("a metric of {} is {} bytes long", self.head.name, message.len())));
            }
            self.metric = Metric::decode(message).map_err(bad)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn is_histogram(&self) -> bool {
        matches!(self.head.metric_type, proto::HISTOGRAM | proto::GAUGE_HISTOGRAM)
    }

    fn raw_histogram(&self) -> Option<&proto::Histogram> {
        self.metric.histogram.as_ref()
    }

    fn is_native(&self) -> bool {
        !self.options.ignore_native
            && self.raw_histogram().is_some_and(|h| {
                !h.positive_span.is_empty() || !h.negative_span.is_empty() || h.zero_threshold > 0.0 || h.zero_count > 0
            })
    }

    fn first_field(&self) -> Field {
        match self.head.metric_type {
            proto::SUMMARY => Field::Count,
            _ if self.is_histogram() && self.is_native() => Field::Native,
            _ if self.is_histogram() && self.options.convert_classic && !self.options.keep_classic => Field::Converted,
            _ if self.is_histogram() => Field::Count,
            _ => Field::Value,
        }
    }

    /// What follows `field` in the same metric.
    fn field_after(&self, field: Field) -> Option<Field> {
        let buckets = self.raw_histogram().map_or(&[][..], |h| &h.bucket);
        let after_classic =
            || (self.is_histogram() && !self.is_native() && self.options.convert_classic).then_some(Field::Converted);
        match field {
            Field::Value | Field::Converted => None,
            Field::Native => (self.options.keep_classic && !buckets.is_empty()).then_some(Field::Count),
            Field::Count => Some(Field::Sum),
            Field::Sum if self.is_histogram() => Some(Field::Part(0)),
            Field::Sum => {
                self.metric.summary.as_ref().is_some_and(|s| !s.quantile.is_empty()).then_some(Field::Part(0))
            }
            Field::Part(i) if self.is_histogram() => match buckets.get(i) {
                Some(bucket) if bucket.upper_bound != f64::INFINITY => Some(Field::Part(i + 1)),
                _ => after_classic(),
            },
            Field::Part(i) => {
                let quantiles = self.metric.summary.as_ref().map_or(0, |s| s.quantile.len());
                (i + 1 < quantiles).then_some(Field::Part(i + 1))
            }
        }
    }

    /// Makes `field` current: labels, identity, and the conversion where it is one.
    fn enter(&mut self, field: Field) -> Result<Entry, ParseError> {
        let name = &self.head.name;
        let mut labels = std::mem::take(&mut self.labels.0);
        labels.clear();
        let full = match field {
            Field::Count => format!("{name}_count"),
            Field::Sum => format!("{name}_sum"),
            Field::Part(_) if self.is_histogram() => format!("{name}_bucket"),
            _ => name.clone(),
        };
        labels.push((METRIC_NAME.to_owned(), full));
        for pair in &self.metric.label {
            if pair.name.is_empty() {
                return Err(bad(format!("invalid label name: {}", pair.name)));
            }
            labels.push((pair.name.clone(), pair.value.clone()));
        }
        if let Field::Part(i) = field {
            if self.is_histogram() {
                let bound = self.raw_histogram().and_then(|h| h.bucket.get(i)).map_or(f64::INFINITY, |b| b.upper_bound);
                labels.push(("le".to_owned(), format_open_metrics(bound)));
            } else if let Some(q) = self.metric.summary.as_ref().and_then(|s| s.quantile.get(i)) {
                labels.push(("quantile".to_owned(), format_open_metrics(q.quantile)));
            }
        }
        labels[1..].sort();
        self.labels.0 = labels;
        self.series.clear();
        for (i, (name, value)) in self.labels.0.iter().enumerate() {
            if i > 0 {
                self.series.push(0xff);
                self.series.extend_from_slice(name.as_bytes());
                self.series.push(0xff);
            }
            self.series.extend_from_slice(value.as_bytes());
        }
        self.field = Some(field);
        if field == Field::Converted {
            self.converted = Some(Arc::new(self.convert()?));
        }
        if field == Field::Native {
            self.check_spans()?;
        }
        let histogram = matches!(field, Field::Native | Field::Converted);
        // A float series and a histogram of one name are distinct entries of the target's cache.
        if histogram {
            self.series.push(0xfe);
        }
        Ok(if histogram { Entry::Histogram } else { Entry::Series })
    }

    fn check_spans(&self) -> Result<(), ParseError> {
        let Some(h) = self.raw_histogram() else { return Ok(()) };
        let float = h.sample_count_float > 0.0 || h.zero_count_float > 0.0;
        let counts = |deltas: &[i64], counts: &[f64]| if float { counts.len() } else { deltas.len() };
        for (side, spans, have) in [
            ("positive", &h.positive_span, counts(&h.positive_delta, &h.positive_count)),
            ("negative", &h.negative_span, counts(&h.negative_delta, &h.negative_count)),
        ] {
            let need: u64 = spans.iter().map(|s| s.length as u64).sum();
            if need != have as u64 {
                return Err(bad(format!(
                    "histogram {:?}: {side} side: spans require {need} buckets, have {have}",
                    self.head.name
                )));
            }
        }
        Ok(())
    }

    fn convert(&self) -> Result<Histogram, ParseError> {
        let empty = proto::Histogram::default();
        let h = self.raw_histogram().unwrap_or(&empty);
        let either = |float: f64, integer: u64| if float == 0.0 { integer as f64 } else { float };
        let mut temp = TempHistogram::default();
        temp.set_count(either(h.sample_count_float, h.sample_count));
        temp.set_sum(h.sample_sum);
        for b in &h.bucket {
            temp.set_bucket(b.upper_bound, either(b.cumulative_count_float, b.cumulative_count));
        }
        let mut out = temp.convert().map_err(bad)?;
        if self.head.metric_type == proto::GAUGE_HISTOGRAM {
            out.counter_reset_hint = CounterResetHint::Gauge;
        }
        Ok(out)
    }

    fn native(&self) -> Histogram {
        let empty = proto::Histogram::default();
        let h = self.raw_histogram().unwrap_or(&empty);
        let spans = |spans: &[proto::BucketSpan]| -> Vec<Span> {
            spans.iter().map(|s| Span { offset: s.offset, length: s.length }).collect()
        };
        let mut out = Histogram {
            schema: h.schema,
            zero_threshold: h.zero_threshold,
            sum: h.sample_sum,
            positive_spans: spans(&h.positive_span),
            negative_spans: spans(&h.negative_span),
            ..Histogram::default()
        };
        if self.head.metric_type == proto::GAUGE_HISTOGRAM {
            out.counter_reset_hint = CounterResetHint::Gauge;
        }
        if h.sample_count_float > 0.0 || h.zero_count_float > 0.0 {
            out.count = h.sample_count_float;
            out.zero_count = h.zero_count_float;
            out.positive_buckets = h.positive_count.clone();
            out.negative_buckets = h.negative_count.clone();
        } else {
            out.count = h.sample_count as f64;
            out.zero_count = h.zero_count as f64;
            out.positive_buckets = absolute(&h.positive_delta).map(|c| c as f64).collect();
            out.negative_buckets = absolute(&h.negative_delta).map(|c| c as f64).collect();
        }
        compact(&mut out);
        out
    }

    /// Whether the counts of an integer histogram add up.
    fn check_count(&self) -> Result<(), ParseError> {
        let Some(h) = self.raw_histogram() else { return Ok(()) };
        if h.sample_count_float > 0.0 || h.zero_count_float > 0.0 {
            return Ok(());
        }
        let sum = |deltas: &[i64]| absolute(deltas).fold(0u64, |sum, c| sum.wrapping_add(c as u64));
        let total = sum(&h.positive_delta).wrapping_add(sum(&h.negative_delta)).wrapping_add(h.zero_count);
        let counted = format!("{total} observations found in buckets, but the Count field is {}", h.sample_count);
        if h.sample_sum.is_nan() && total > h.sample_count {
            return Err(bad(format!(
                "{counted}: histogram's observation count should be at least the number of observations found in the \
                 buckets"
            )));
        }
        if !h.sample_sum.is_nan() && total != h.sample_count {
            return Err(bad(format!(
                "{counted}: histogram's observation count should equal the number of observations found in the buckets \
                 (in absence of NaN)"
            )));
        }
        Ok(())
    }
}

/// Absolute counts from deltas.
fn absolute(deltas: &[i64]) -> impl Iterator<Item = i64> + '_ {
    deltas.iter().scan(0i64, |last, delta| {
        *last = last.wrapping_add(*delta);
        Some(*last)
    })
}

/// What is wrong with the key of a family's field, in the words of Prometheus's decoder.
fn key_fault(mut rest: &[u8]) -> Option<String> {
    let key = decode_varint(&mut rest).ok()?;
    let (tag, wire) = (key >> 3, key & 7);
    if tag == 0 {
        return Some(format!("proto: MetricFamily: illegal tag {tag} (wire type {wire})"));
    }
    let (field, expected) = match tag {
        1 => ("Name", 2),
        2 => ("Help", 2),
        3 => ("Type", 0),
        4 => ("Metric", 2),
        5 => ("Unit", 2),
        _ => return None,
    };
    (wire != expected).then(|| format!("proto: wrong wireType = {wire} for field {field}"))
}

/// A length-delimited field's bytes.
fn take_message<'a>(rest: &mut &'a [u8], wire: WireType) -> Result<&'a [u8], ParseError> {
    if wire != WireType::LengthDelimited {
        return Err(bad(format!("proto: wrong wireType = {} for field Metric", wire as u8)));
    }
    let length = decode_varint(rest).map_err(bad)?;
    let (message, after) =
        usize::try_from(length).ok().and_then(|n| rest.split_at_checked(n)).ok_or_else(|| bad("unexpected EOF"))?;
    *rest = after;
    Ok(message)
}

impl PageParser for ProtobufParser<'_> {
    fn next(&mut self) -> Result<Option<Entry>, ParseError> {
        loop {
            match self.step {
                Step::Family => {
                    if !self.next_family()? {
                        return Ok(None);
                    }
                    self.step = Step::Help;
                    return Ok(Some(Entry::Help));
                }
                Step::Help if !self.head.unit.is_empty() => {
                    self.step = Step::Unit;
                    return Ok(Some(Entry::Unit));
                }
                Step::Help | Step::Unit => {
                    self.step = Step::Type;
                    return Ok(Some(Entry::Type));
                }
                Step::Type => {
                    self.field = None;
                    self.step = Step::Samples;
                }
                Step::Samples => {
                    if let Some(next) = self.field.and_then(|f| self.field_after(f)) {
                        return self.enter(next).map(Some);
                    }
                    if self.next_metric()? {
                        let first = self.first_field();
                        return self.enter(first).map(Some);
                    }
                    self.step = Step::Family;
                }
            }
        }
    }

    fn family(&self) -> String {
        self.head.name.clone()
    }

    fn metric_type(&self) -> MetricType {
        match self.head.metric_type {
            proto::COUNTER => MetricType::Counter,
            proto::GAUGE => MetricType::Gauge,
            proto::SUMMARY => MetricType::Summary,
            proto::HISTOGRAM => MetricType::Histogram,
            proto::GAUGE_HISTOGRAM => MetricType::GaugeHistogram,
            _ => MetricType::Unknown,
        }
    }

    fn help(&self) -> String {
        self.head.help.clone()
    }

    fn unit(&self) -> String {
        self.head.unit.clone()
    }

    fn current_unit(&self) -> &[u8] {
        self.head.unit.as_bytes()
    }

    fn series(&self) -> &[u8] {
        &self.series
    }

    fn value(&self) -> f64 {
        let m = &self.metric;
        let either = |float: f64, integer: u64| if float == 0.0 { integer as f64 } else { float };
        let value = match (self.head.metric_type, self.field) {
            (proto::COUNTER, _) => m.counter.as_ref().map(|c| c.value),
            (proto::GAUGE, _) => m.gauge.as_ref().map(|g| g.value),
            (proto::UNTYPED, _) => m.untyped.as_ref().map(|u| u.value),
            (proto::SUMMARY, Some(field)) => m.summary.as_ref().map(|s| match field {
                Field::Count => s.sample_count as f64,
                Field::Sum => s.sample_sum,
                Field::Part(i) => s.quantile.get(i).map_or(0.0, |q| q.value),
                _ => 0.0,
            }),
            (_, Some(field)) => self.raw_histogram().map(|h| match field {
                Field::Sum => h.sample_sum,
                Field::Part(i) if i < h.bucket.len() => {
                    either(h.bucket[i].cumulative_count_float, h.bucket[i].cumulative_count)
                }
                _ => either(h.sample_count_float, h.sample_count),
            }),
            (_, None) => None,
        };
        value.unwrap_or(0.0)
    }

    fn timestamp(&self) -> Option<i64> {
        (self.metric.timestamp_ms != 0).then_some(self.metric.timestamp_ms)
    }

    fn labels(&self, out: &mut RawLabels) -> Result<(), ParseError> {
        out.clone_from(&self.labels);
        Ok(())
    }

    fn histogram(&mut self) -> Result<Arc<Histogram>, ParseError> {
        match self.field {
            Some(Field::Converted) => self.converted.take().ok_or_else(super::no_histogram),
            Some(Field::Native) => Ok(Arc::new(self.native())),
            _ => Err(super::no_histogram()),
        }
    }

    fn check_histogram(&self, histogram: &Histogram) -> Result<(), ParseError> {
        validate(histogram).map_err(ParseError)?;
        if self.field == Some(Field::Native) { self.check_count() } else { Ok(()) }
    }

    fn exemplars(&mut self, out: &mut Vec<Exemplar>) {
        let mut push = |e: &proto::Exemplar, needs_time: bool| {
            let bytes: usize = e.label.iter().map(|p| p.name.len() + p.value.len()).sum();
            if needs_time && e.timestamp.is_none() || bytes > MAX_EXEMPLAR_BYTES {
                return;
            }
            out.push(Exemplar {
                labels: Labels::from_pairs(e.label.iter().map(|p| (p.name.clone(), p.value.clone()))),
                value: e.value,
                timestamp: e.timestamp.as_ref().map_or(0, Timestamp::millis),
                has_timestamp: e.timestamp.is_some(),
            });
        };
        match (self.field, &self.metric) {
            (Some(Field::Value), m) if self.head.metric_type == proto::COUNTER => {
                if let Some(e) = m.counter.as_ref().and_then(|c| c.exemplar.as_ref()) {
                    push(e, false);
                }
            }
            (Some(Field::Part(i)), m) => {
                if let Some(e) = m.histogram.as_ref().and_then(|h| h.bucket.get(i)).and_then(|b| b.exemplar.as_ref()) {
                    push(e, false);
                }
            }
            (Some(Field::Native | Field::Converted), Metric { histogram: Some(h), .. }) => {
                if h.exemplars.is_empty() {
                    h.bucket.iter().filter_map(|b| b.exemplar.as_ref()).for_each(|e| push(e, true));
                } else {
                    h.exemplars.iter().for_each(|e| push(e, true));
                }
            }
            _ => {}
        }
    }

    fn start_timestamp(&mut self) -> i64 {
        let m = &self.metric;
        let start = match self.head.metric_type {
            proto::COUNTER => m.counter.as_ref().and_then(|c| c.start),
            proto::SUMMARY => m.summary.as_ref().and_then(|s| s.start),
            _ => self.raw_histogram().and_then(|h| h.start),
        };
        start.map_or(0, |t| t.millis())
    }
}
