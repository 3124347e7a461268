//! Classic histograms of text pages as native histograms with custom buckets
//! (`convert_classic_histograms_to_nhcb`), after Prometheus's `NHCBParser` and `convertnhcb`.

use std::sync::Arc;

use narthex_model::histogram::{CUSTOM_BUCKETS_SCHEMA, Span};
use narthex_model::labels::{is_legacy_name, quote};
use narthex_model::{Exemplar, Histogram, METRIC_NAME, MetricType};

use super::{Entry, PageParser, ParseError, RawLabels, parse_go_float};
use crate::histogram::{compact_but, validate};

/// A classic histogram as its series come in.
#[derive(Clone, Debug, Default)]
pub(super) struct TempHistogram {
    /// `(upper bound, cumulative count)`, ascending.
    buckets: Vec<(f64, f64)>,
    count: Option<f64>,
    sum: f64,
    error: Option<String>,
}

impl TempHistogram {
    pub(super) fn set_count(&mut self, count: f64) {
        if count < 0.0 {
            self.fail(|| format!("count must be non-negative: count={count}"));
        }
        self.count = Some(count);
    }

    pub(super) fn set_sum(&mut self, sum: f64) {
        self.sum = sum;
    }

    fn fail(&mut self, message: impl FnOnce() -> String) {
        self.error.get_or_insert_with(message);
    }

    pub(super) fn set_bucket(&mut self, bound: f64, count: f64) {
        if bound.is_nan() {
            return self.fail(|| "bucket boundary must not be NaN".to_owned());
        }
        if count < 0.0 {
            return self.fail(|| format!("bucket count must be non-negative: le={bound}, count={count}"));
        }
        // Prometheus's encoding of bounds knows no sign of zero.
        let bound = bound + 0.0;
        let at = self.buckets.partition_point(|(le, _)| *le < bound);
        if self.buckets.get(at).is_some_and(|(le, _)| *le == bound) {
            // A duplicate sample: the first one holds.
            return;
        }
        if let Some(&(_, before)) = at.checked_sub(1).and_then(|i| self.buckets.get(i))
            && count < before
        {
            return self.fail(|| format!("count is not cumulative: {count} < {before}"));
        }
        if let Some(&(_, after)) = self.buckets.get(at)
            && count > after
        {
            return self.fail(|| format!("count is not cumulative: {count} > {after}"));
        }
        self.buckets.insert(at, (bound, count));
    }

    /// The histogram, or why there is none.
    pub(super) fn convert(mut self) -> Result<Histogram, String> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let last = self.buckets.last().copied();
        let count = self.count.or(last.map(|b| b.1)).unwrap_or(0.0);
        if last.is_none_or(|b| b.0 != f64::INFINITY) {
            self.buckets.push((f64::INFINITY, count));
        }
        let highest = self.buckets.last().map_or(0.0, |b| b.1);
        if count != highest {
            return Err(format!("count mismatch: count={count} != le=+Inf count={highest}"));
        }
        let mut before = 0.0;
        let mut out = Histogram {
            schema: CUSTOM_BUCKETS_SCHEMA,
            count,
            sum: self.sum,
            positive_spans: vec![Span { offset: 0, length: self.buckets.len() as u32 }],
            ..Histogram::default()
        };
        for (bound, cumulative) in self.buckets {
            out.positive_buckets.push(cumulative - before);
            before = cumulative;
            if bound != f64::INFINITY {
                out.custom_values.push(bound);
            }
        }
        // Prometheus leaves some empty buckets where all counts are whole: limits count them, and so does what is said
        // of broken ones. They are gone once it is stored.
        let whole = out.positive_buckets.iter().all(|c| c.fract() == 0.0);
        compact_but(&mut out, if whole { 2 } else { 0 });
        Ok(out)
    }
}

/// Which histogram the collected series belong to: base name and all labels but `le`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Identity(Vec<(String, String)>);

impl Identity {
    fn of(labels: &RawLabels, base: &str) -> Identity {
        let rest = labels.0.iter().filter(|(n, _)| n != "le" && n != METRIC_NAME).cloned();
        let mut pairs: Vec<_> = std::iter::once((METRIC_NAME.to_owned(), base.to_owned())).chain(rest).collect();
        pairs[1..].sort();
        Identity(pairs)
    }
}

enum State {
    Start,
    Collecting {
        identity: Identity,
        histogram: TempHistogram,
        exemplars: Vec<Exemplar>,
        timestamp: Option<i64>,
        start: i64,
        unit: Vec<u8>,
    },
    /// The series that follow have the labels of a native histogram: they are its own classic form.
    Inhibiting(Identity),
}

/// A finished histogram that is current.
struct Emitted {
    histogram: Arc<Histogram>,
    labels: RawLabels,
    series: Vec<u8>,
    exemplars: Vec<Exemplar>,
    timestamp: Option<i64>,
    start: i64,
    unit: Vec<u8>,
}

/// Wraps a parser: series of declared classic histograms are collected and come out as one native histogram each.
pub struct NhcbParser<P> {
    inner: P,
    keep_classic: bool,
    /// Whether series get labels for their type.
    typed: bool,
    state: State,
    family: String,
    family_type: MetricType,
    labels: RawLabels,
    emitted: Option<Emitted>,
    /// What the inner parser gave when a finished histogram came first.
    pending: Option<Option<Entry>>,
}

fn split_suffix(name: &str) -> (Option<&'static str>, &str) {
    for suffix in ["_bucket", "_sum", "_count"] {
        if let Some(base) = name.strip_suffix(suffix) {
            return (Some(suffix), base);
        }
    }
    (None, name)
}

impl<P: PageParser> NhcbParser<P> {
    pub fn new(inner: P, keep_classic: bool, typed: bool) -> NhcbParser<P> {
        NhcbParser {
            inner,
            keep_classic,
            typed,
            state: State::Start,
            family: String::new(),
            family_type: MetricType::Unknown,
            labels: RawLabels::default(),
            emitted: None,
            pending: None,
        }
    }

    /// Finishes what is being collected; whether a histogram came out of it.
    fn finish(&mut self) -> bool {
        let State::Collecting { histogram, .. } = &self.state else { return false };
        let histogram = histogram.clone().convert();
        if histogram.as_ref().is_ok_and(|h| validate(h).is_err()) {
            // It goes on being collected, also from series of others, as Prometheus does.
            return false;
        }
        let State::Collecting { identity, exemplars, timestamp, start, unit, .. } =
            std::mem::replace(&mut self.state, State::Start)
        else {
            return false;
        };
        let Ok(histogram) = histogram else { return false };
        let series = self.series_text(&identity);
        self.emitted = Some(Emitted {
            histogram: Arc::new(histogram),
            labels: RawLabels(identity.0),
            series,
            exemplars,
            timestamp,
            start,
            unit,
        });
        true
    }

    /// The histogram's name and labels as a line of text would have them: what a line of that text is to the target's
    /// cache, the histogram is, too, so that the later of both is a duplicate.
    fn series_text(&self, identity: &Identity) -> Vec<u8> {
        // An empty label makes it another histogram, but not another series.
        let labels = identity.0[1..].iter().filter(|(_, v)| !v.is_empty());
        let mut pairs: Vec<(&str, &str)> = labels.map(|(n, v)| (n.as_str(), v.as_str())).collect();
        if self.typed {
            pairs.push(("__type__", MetricType::Histogram.as_str()));
            pairs.sort();
        }
        let labelled = !pairs.is_empty();
        let mut series = identity.0[0].1.clone();
        for (i, (name, value)) in pairs.into_iter().enumerate() {
            series.push(if i == 0 { '{' } else { ',' });
            if is_legacy_name(name) {
                series.push_str(name);
            } else {
                series.push_str(&quote(name));
            }
            series.push('=');
            series.push_str(&quote(value));
        }
        if labelled {
            series.push('}');
        }
        series.into_bytes()
    }

    /// Whether the current series belongs to another histogram than the one at hand.
    fn differs(&self, identity: &Identity) -> bool {
        self.family_type != MetricType::Histogram
            || Identity::of(&self.labels, split_suffix(self.labels.value(METRIC_NAME)).1) != *identity
    }

    /// Takes the current series into the histogram at hand, if it is part of one.
    fn collect(&mut self) -> bool {
        if self.family_type != MetricType::Histogram {
            return false;
        }
        let (Some(suffix), base) = split_suffix(self.labels.value(METRIC_NAME)) else { return false };
        if base != self.family {
            return false;
        }
        let bound = match suffix {
            "_bucket" => match parse_go_float(self.labels.value("le").as_bytes()) {
                Some(v) if !v.is_nan() => v,
                _ => return false,
            },
            _ => 0.0,
        };
        if !matches!(self.state, State::Collecting { .. }) {
            self.state = State::Collecting {
                identity: Identity::of(&self.labels, base),
                histogram: TempHistogram::default(),
                exemplars: Vec::new(),
                timestamp: None,
                start: self.inner.start_timestamp(),
                unit: self.inner.current_unit().to_vec(),
            };
            // Looking for the start makes Prometheus's parser leave the series that say it out.
            self.inner.skip_created();
        }
        let value = self.inner.value();
        if let State::Collecting { histogram, exemplars, timestamp, .. } = &mut self.state {
            *timestamp = self.inner.timestamp();
            self.inner.exemplars(exemplars);
            match suffix {
                "_bucket" => histogram.set_bucket(bound, value),
                "_count" => histogram.set_count(value),
                _ => histogram.set_sum(value),
            }
        }
        true
    }
}

impl<P: PageParser> PageParser for NhcbParser<P> {
    fn next(&mut self) -> Result<Option<Entry>, ParseError> {
        self.emitted = None;
        loop {
            let (entry, fresh) = match self.pending.take() {
                Some(entry) => (entry, false),
                None => (self.inner.next()?, true),
            };
            match entry {
                Some(Entry::Series) => {
                    if fresh {
                        if self.inner.labels(&mut self.labels).is_err() {
                            // No part of a histogram; whoever asks for the labels is told.
                            self.labels.0.clear();
                        }
                        let (collecting, other) = match &self.state {
                            State::Start => (false, false),
                            State::Collecting { identity, .. } => (true, self.differs(identity)),
                            State::Inhibiting(identity) => (false, self.differs(identity)),
                        };
                        if other && collecting && self.finish() {
                            self.pending = Some(entry);
                            return Ok(Some(Entry::Histogram));
                        }
                        if other && !collecting {
                            self.state = State::Start;
                        }
                    }
                    let collected = !matches!(self.state, State::Inhibiting(_)) && self.collect();
                    if collected && !self.keep_classic {
                        continue;
                    }
                    return Ok(entry);
                }
                Some(Entry::Histogram) => {
                    if fresh && self.finish() {
                        self.pending = Some(entry);
                        return Ok(Some(Entry::Histogram));
                    }
                    self.inner.labels(&mut self.labels)?;
                    let base = self.labels.value(METRIC_NAME).to_owned();
                    self.state = State::Inhibiting(Identity::of(&self.labels, &base));
                    return Ok(entry);
                }
                other => {
                    if fresh && self.finish() {
                        self.pending = Some(other);
                        return Ok(Some(Entry::Histogram));
                    }
                    if other == Some(Entry::Type) {
                        self.family = self.inner.family();
                        self.family_type = self.inner.metric_type();
                    }
                    return Ok(other);
                }
            }
        }
    }

    fn family(&self) -> String {
        self.inner.family()
    }

    fn metric_type(&self) -> MetricType {
        self.inner.metric_type()
    }

    fn help(&self) -> String {
        self.inner.help()
    }

    fn unit(&self) -> String {
        self.inner.unit()
    }

    fn series_type(&self) -> MetricType {
        if self.emitted.is_some() { MetricType::Histogram } else { self.inner.series_type() }
    }

    fn current_unit(&self) -> &[u8] {
        self.emitted.as_ref().map_or_else(|| self.inner.current_unit(), |e| &e.unit)
    }

    fn series(&self) -> &[u8] {
        self.emitted.as_ref().map_or_else(|| self.inner.series(), |e| &e.series)
    }

    fn value(&self) -> f64 {
        self.inner.value()
    }

    fn timestamp(&self) -> Option<i64> {
        match &self.emitted {
            Some(e) => e.timestamp,
            None => self.inner.timestamp(),
        }
    }

    fn labels(&self, out: &mut RawLabels) -> Result<(), ParseError> {
        match &self.emitted {
            Some(e) => out.clone_from(&e.labels),
            None => self.inner.labels(out)?,
        }
        Ok(())
    }

    fn skip_created(&mut self) {
        self.inner.skip_created();
    }

    fn label_bytes(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.inner.label_bytes()
    }

    fn histogram(&mut self) -> Result<Arc<Histogram>, ParseError> {
        match &self.emitted {
            Some(e) => Ok(e.histogram.clone()),
            None => self.inner.histogram(),
        }
    }

    fn exemplars(&mut self, out: &mut Vec<Exemplar>) {
        match &mut self.emitted {
            Some(e) => out.append(&mut e.exemplars),
            None => self.inner.exemplars(out),
        }
    }

    fn start_timestamp(&mut self) -> i64 {
        match (&self.emitted, &self.state) {
            (Some(e), _) => e.start,
            (None, State::Collecting { start, .. }) => *start,
            (None, _) => self.inner.start_timestamp(),
        }
    }
}
