//! The protobuf format: `MetricFamily` messages, each behind its length. The only format with native histograms.
//!
//! Families are walked and metrics decoded one at a time, so that memory stays near the page's size whatever a
//! hostile page claims.

use std::sync::Arc;

use narthex_model::histogram::Span;
use narthex_model::{CounterResetHint, Exemplar, Histogram, Labels, METRIC_NAME, MetricType};

use super::nhcb::TempHistogram;
use super::proto::{self, FamilyHead, Metric, Timestamp};
use super::wire::{Fields, fault};
use super::{
    Entry, MAX_EXEMPLAR_BYTES, PageParser, ParseError, RawLabels, format_open_metrics, lossy, quote_bytes, shown,
};
use crate::histogram::{check_count, compact, validate};

/// The largest encoded metric; a decoded one takes up to 24 times as much memory.
const METRIC_LIMIT: usize = 8 << 20;

/// The longest labels of a metric: only hostile pages have longer ones, and of empty labels each takes memory, too.
const LABELS_LIMIT: usize = 2 << 20;

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

/// What `next` returned last, or is about to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Family,
    Help,
    Unit,
    Type,
    Series,
    Histogram,
}

/// Which sample of a summary or classic histogram is current.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    /// None yet.
    Before,
    Count,
    Sum,
    /// A bucket or quantile; one past the last bucket is the missing `+Inf`.
    Part(usize),
}

impl Field {
    fn next(self) -> Field {
        match self {
            Field::Before => Field::Count,
            Field::Count => Field::Sum,
            Field::Sum => Field::Part(0),
            Field::Part(i) => Field::Part(i + 1),
        }
    }
}

/// Reads a page of delimited metric families.
///
/// Families that mix classic and native histograms come out as Prometheus reads them, which is by the kind of the one
/// before: a native histogram behind a classic one is read as classic.
pub struct ProtobufParser<'a> {
    rest: &'a [u8],
    options: ProtobufOptions,
    step: Step,
    head: Head,
    /// What is left of the current family's message.
    family: Fields<'a>,
    metric: Metric<'a>,
    field: Field,
    /// Whether `field` is the last one of its metric.
    last_field: bool,
    /// Set when the classic series of the native histogram just returned follow.
    redo_classic: bool,
    /// How many exemplars of native histograms were looked at since the family began, or since classic series: a
    /// histogram's first ones are passed over where others came before it, as in Prometheus.
    exemplars_seen: usize,
    /// The same among the exemplars of buckets.
    buckets_seen: usize,
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

impl<'a> ProtobufParser<'a> {
    pub fn new(page: &'a [u8], options: ProtobufOptions) -> ProtobufParser<'a> {
        ProtobufParser {
            rest: page,
            options,
            step: Step::Family,
            head: Head::default(),
            family: Fields::new("MetricFamily", &[]),
            metric: Metric::default(),
            field: Field::Count,
            last_field: false,
            redo_classic: false,
            exemplars_seen: 0,
            buckets_seen: 0,
            series: Vec::new(),
            labels: RawLabels::default(),
            converted: None,
        }
    }

    /// Steps to the next family that has metrics, and to the first of them.
    fn next_family(&mut self) -> Result<bool, ParseError> {
        loop {
            if self.rest.is_empty() {
                return Ok(false);
            }
            let message = self.delimited()?;
            // The framing of all metrics is looked at before the first one.
            let (head, has_metrics) = FamilyHead::decode(message)?;
            if !has_metrics {
                continue;
            }
            self.family = Fields::new("MetricFamily", message);
            self.next_metric()?;
            let name = text(head.name).map_err(|bytes| fault(format!("invalid metric name: {}", shown(bytes))))?;
            if name.is_empty() {
                return Err(fault("invalid metric name: "));
            }
            let help = text(head.help).map_err(|bytes| {
                fault(format!("invalid help for metric {}: {}", quote_bytes(name.as_bytes()), shown(bytes)))
            })?;
            if !(proto::COUNTER..=proto::GAUGE_HISTOGRAM).contains(&head.metric_type) {
                return Err(fault(format!(
                    "unknown metric type for metric {}: {}",
                    quote_bytes(name.as_bytes()),
                    head.metric_type
                )));
            }
            self.head = Head { name, help, metric_type: head.metric_type, unit: lossy(head.unit) };
            return Ok(true);
        }
    }

    /// The next family's message.
    fn delimited(&mut self) -> Result<&'a [u8], ParseError> {
        let mut length = 0u64;
        let mut size = 0;
        for (i, byte) in self.rest.iter().take(5).enumerate() {
            length |= u64::from(byte & 0x7f) << (7 * i);
            if *byte < 0x80 {
                size = i + 1;
                break;
            }
        }
        if size == 0 {
            return Err(fault("clientpb: invalid varint encountered"));
        }
        let expected = length.saturating_add(size as u64);
        let Some((message, rest)) = usize::try_from(expected).ok().and_then(|n| self.rest.split_at_checked(n)) else {
            // Both with the length's own bytes, as Prometheus counts.
            return Err(fault(format!(
                "clientpb: insufficient length of buffer, expected at least {expected} bytes, got {} bytes",
                self.rest.len()
            )));
        };
        self.rest = rest;
        Ok(message.get(size..).unwrap_or_default())
    }

    /// Decodes the family's next metric.
    fn next_metric(&mut self) -> Result<bool, ParseError> {
        let Some(message) = FamilyHead::next_metric(&mut self.family)? else { return Ok(false) };
        if message.len() > METRIC_LIMIT {
            return Err(fault(format!("a metric is {} bytes long", message.len())));
        }
        self.metric = Metric::decode(message)?;
        Ok(true)
    }

    fn is_histogram(&self) -> bool {
        matches!(self.head.metric_type, proto::HISTOGRAM | proto::GAUGE_HISTOGRAM)
    }

    fn is_native(&self) -> bool {
        let h = &self.metric.histogram;
        !self.options.ignore_native
            && (!h.positive_span.is_empty()
                || !h.negative_span.is_empty()
                || h.zero_threshold > 0.0
                || h.zero_count > 0)
    }

    /// Makes the sample that `step` and `field` say current: its labels and its identity.
    fn enter(&mut self) -> Result<Entry, ParseError> {
        let name = &self.head.name;
        let histogram = self.step == Step::Histogram;
        let parts = !histogram && (self.is_histogram() || self.head.metric_type == proto::SUMMARY);
        let mut labels = std::mem::take(&mut self.labels.0);
        labels.clear();
        let full = match self.field {
            Field::Before | Field::Count if parts => format!("{name}_count"),
            Field::Sum if parts => format!("{name}_sum"),
            Field::Part(_) if parts && self.is_histogram() => format!("{name}_bucket"),
            _ => name.clone(),
        };
        labels.push((METRIC_NAME.to_owned(), full));
        let bytes: usize = self.metric.label.iter().map(|pair| pair.len() + 2).sum();
        if bytes > LABELS_LIMIT {
            return Err(fault(format!(
                "the labels of a series are {bytes} bytes long (metric: {})",
                shown(name.as_bytes())
            )));
        }
        for pair in &self.metric.label {
            let (name, value) = proto::label_pair(pair, |is_name, bytes| {
                if std::str::from_utf8(bytes).is_ok() && !(is_name && bytes.is_empty()) {
                    return Ok(());
                }
                Err(fault(format!("invalid label {}: {}", if is_name { "name" } else { "value" }, shown(bytes))))
            })?;
            labels.push((lossy(name), lossy(value)));
        }
        if let (true, Field::Part(i)) = (parts, self.field) {
            if self.is_histogram() {
                let bound = self.metric.histogram.bucket.get(i).map_or(f64::INFINITY, |b| b.upper_bound);
                self.last_field = bound == f64::INFINITY;
                labels.push(("le".to_owned(), format_open_metrics(bound)));
            } else if let Some(q) = self.metric.summary.quantile.get(i) {
                self.last_field = i + 1 == self.metric.summary.quantile.len();
                labels.push(("quantile".to_owned(), format_open_metrics(q.quantile)));
            }
        }
        if parts && self.field == Field::Sum && !self.is_histogram() && self.metric.summary.quantile.is_empty() {
            self.last_field = true;
        }
        // Of equal names the order stays.
        labels[1..].sort_by(|a, b| a.0.cmp(&b.0));
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
        if histogram {
            self.redo_classic =
                self.options.keep_classic && self.is_native() && !self.metric.histogram.bucket.is_empty();
        }
        Ok(if histogram { Entry::Histogram } else { Entry::Series })
    }

    /// What follows a sample of a family that is read series by series.
    fn after_series(&mut self) -> Result<Option<Entry>, ParseError> {
        let classic = self.is_histogram() && !self.is_native();
        let mut decode_next = true;
        if self.is_histogram() || self.head.metric_type == proto::SUMMARY {
            let left_out = self.options.convert_classic && classic && !self.options.keep_classic;
            if !self.last_field && !left_out {
                self.field = self.field.next();
                return self.enter().map(Some);
            }
            self.field = Field::Count;
            self.last_field = false;
            (self.exemplars_seen, self.buckets_seen) = (0, 0);
            if self.is_histogram() && !classic {
                self.check_spans()?;
                self.step = Step::Histogram;
            } else if classic && self.options.convert_classic {
                self.converted = Some(Arc::new(self.convert()?));
                self.step = Step::Histogram;
                decode_next = false;
            }
        }
        if decode_next && !self.next_metric()? {
            self.step = Step::Family;
            return Ok(None);
        }
        self.enter().map(Some)
    }

    /// Turns to the classic series of the current metric.
    fn classic(&mut self) -> Result<Option<Entry>, ParseError> {
        self.redo_classic = false;
        self.field = Field::Before;
        self.last_field = false;
        self.step = Step::Series;
        self.after_series()
    }

    fn check_spans(&self) -> Result<(), ParseError> {
        let h = &self.metric.histogram;
        let counts = |deltas: &[i64], counts: &[f64]| if is_float(h) { counts.len() } else { deltas.len() };
        for (side, spans, have) in [
            ("positive", &h.positive_span, counts(&h.positive_delta, &h.positive_count)),
            ("negative", &h.negative_span, counts(&h.negative_delta, &h.negative_count)),
        ] {
            let need: u64 = spans.iter().map(|s| s.length as u64).sum();
            if need != have as u64 {
                return Err(fault(format!(
                    "histogram {}: {side} side: spans require {need} buckets, have {have}",
                    quote_bytes(self.head.name.as_bytes())
                )));
            }
        }
        Ok(())
    }

    fn convert(&self) -> Result<Histogram, ParseError> {
        let h = &self.metric.histogram;
        let mut temp = TempHistogram::default();
        temp.set_count(either(h.sample_count_float, h.sample_count));
        temp.set_sum(h.sample_sum);
        for b in &h.bucket {
            temp.set_bucket(b.upper_bound, either(b.cumulative_count_float, b.cumulative_count));
        }
        let mut out = temp.convert().map_err(fault)?;
        if self.head.metric_type == proto::GAUGE_HISTOGRAM {
            out.counter_reset_hint = CounterResetHint::Gauge;
        }
        Ok(out)
    }

    fn native(&self) -> Histogram {
        let h = &self.metric.histogram;
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
        if is_float(h) {
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
        let h = &self.metric.histogram;
        if is_float(h) {
            return Ok(());
        }
        let sum = |deltas: &[i64]| absolute(deltas).fold(0u64, |sum, c| sum.wrapping_add(c as u64));
        let total = sum(&h.positive_delta).wrapping_add(sum(&h.negative_delta)).wrapping_add(h.zero_count);
        check_count(total, h.sample_count, h.sample_sum).map_err(fault)
    }
}

/// A float where it says something, else the integer.
fn either(float: f64, integer: u64) -> f64 {
    if float == 0.0 { integer as f64 } else { float }
}

/// Whether a native histogram's counts are floats.
fn is_float(h: &proto::Histogram) -> bool {
    h.sample_count_float > 0.0 || h.zero_count_float > 0.0
}

fn text(bytes: &[u8]) -> Result<String, &[u8]> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| bytes)
}

/// Absolute counts from deltas.
fn absolute(deltas: &[i64]) -> impl Iterator<Item = i64> + '_ {
    deltas.iter().scan(0i64, |last, delta| {
        *last = last.wrapping_add(*delta);
        Some(*last)
    })
}

impl PageParser for ProtobufParser<'_> {
    fn next(&mut self) -> Result<Option<Entry>, ParseError> {
        self.converted = None;
        loop {
            let entry = match self.step {
                Step::Family => {
                    (self.field, self.exemplars_seen, self.buckets_seen) = (Field::Count, 0, 0);
                    if !self.next_family()? {
                        return Ok(None);
                    }
                    self.step = Step::Help;
                    Some(Entry::Help)
                }
                Step::Help if !self.head.unit.is_empty() => {
                    self.step = Step::Unit;
                    Some(Entry::Unit)
                }
                Step::Help | Step::Unit => {
                    self.step = Step::Type;
                    Some(Entry::Type)
                }
                Step::Type if !self.is_histogram() => {
                    self.step = Step::Series;
                    Some(self.enter()?)
                }
                Step::Type if self.is_native() => {
                    self.check_spans()?;
                    self.step = Step::Histogram;
                    Some(self.enter()?)
                }
                Step::Type => self.classic()?,
                Step::Series => self.after_series()?,
                Step::Histogram if self.redo_classic => self.classic()?,
                Step::Histogram => {
                    if !self.next_metric()? {
                        self.step = Step::Family;
                        None
                    } else if self.is_native() {
                        // Spans that lie are told where the histogram is checked.
                        Some(self.enter()?)
                    } else {
                        self.classic()?
                    }
                }
            };
            if entry.is_some() {
                return Ok(entry);
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
        match (self.head.metric_type, self.field) {
            (proto::COUNTER, _) => m.counter.value,
            (proto::GAUGE, _) => m.gauge,
            (proto::UNTYPED, _) => m.untyped,
            (proto::SUMMARY, Field::Sum) => m.summary.sample_sum,
            (proto::SUMMARY, Field::Part(i)) => m.summary.quantile.get(i).map_or(0.0, |q| q.value),
            (proto::SUMMARY, _) => m.summary.sample_count as f64,
            (_, Field::Sum) => m.histogram.sample_sum,
            (_, Field::Part(i)) if i < m.histogram.bucket.len() => {
                let bucket = &m.histogram.bucket[i];
                either(bucket.cumulative_count_float, bucket.cumulative_count)
            }
            _ => either(m.histogram.sample_count_float, m.histogram.sample_count),
        }
    }

    fn timestamp(&self) -> Option<i64> {
        (self.metric.timestamp_ms != 0).then_some(self.metric.timestamp_ms)
    }

    fn labels(&self, out: &mut RawLabels) -> Result<(), ParseError> {
        out.clone_from(&self.labels);
        Ok(())
    }

    fn histogram(&mut self) -> Result<Arc<Histogram>, ParseError> {
        match self.converted.take() {
            Some(converted) => Ok(converted),
            None if self.step == Step::Histogram && self.is_native() => Ok(Arc::new(self.native())),
            None => Err(super::no_histogram()),
        }
    }

    fn check_histogram(&self, histogram: &Histogram) -> Result<(), ParseError> {
        validate(histogram).map_err(ParseError)?;
        if self.is_native() { self.check_count() } else { Ok(()) }
    }

    fn exemplars(&mut self, out: &mut Vec<Exemplar>) {
        let push = |e: &proto::Exemplar| {
            let bytes: usize = e.label.iter().map(|(name, value)| name.len() + value.len()).sum();
            if bytes > MAX_EXEMPLAR_BYTES {
                return;
            }
            out.push(Exemplar {
                labels: Labels::from_pairs(e.label.iter().map(|(name, value)| (lossy(name), lossy(value)))),
                value: e.value,
                timestamp: e.timestamp.as_ref().map_or(0, Timestamp::millis),
                has_timestamp: e.timestamp.is_some(),
            });
        };
        let h = &self.metric.histogram;
        match (self.head.metric_type, self.step, self.field) {
            (proto::COUNTER, ..) => self.metric.counter.exemplar.iter().for_each(push),
            (proto::HISTOGRAM | proto::GAUGE_HISTOGRAM, Step::Histogram, _) => {
                // Those of histograms have to have a time.
                let (all, seen): (&mut dyn Iterator<Item = &proto::Exemplar>, _) = if h.exemplars.is_empty() {
                    let buckets = h.bucket.iter().skip(self.buckets_seen).filter_map(|b| b.exemplar.as_deref());
                    let seen = (self.exemplars_seen, self.buckets_seen.max(h.bucket.len()));
                    (&mut buckets.into_iter(), seen)
                } else {
                    let seen = (self.exemplars_seen.max(h.exemplars.len()), self.buckets_seen);
                    (&mut h.exemplars.iter().skip(self.exemplars_seen), seen)
                };
                all.filter(|e| e.timestamp.is_some()).for_each(push);
                (self.exemplars_seen, self.buckets_seen) = seen;
            }
            (proto::HISTOGRAM | proto::GAUGE_HISTOGRAM, _, Field::Part(i)) => {
                h.bucket.get(i).and_then(|b| b.exemplar.as_deref()).into_iter().for_each(push);
            }
            _ => {}
        }
    }

    fn start_timestamp(&mut self) -> i64 {
        let m = &self.metric;
        let start = match self.head.metric_type {
            proto::COUNTER => m.counter.start,
            proto::SUMMARY => m.summary.start,
            proto::HISTOGRAM | proto::GAUGE_HISTOGRAM => m.histogram.start,
            _ => None,
        };
        start.map_or(0, |t| t.millis())
    }
}
