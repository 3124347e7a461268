//! One query under evaluation: its limits, its notes, its counters and the data selected for it.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use narthex_model::Labels;
use narthex_storage::{HeldBytes, Meter, SeriesSet, Trace, Values};

use super::columns::Series;
use super::plan::Node;
use super::shared::Kept;
use super::windows::Grid;
use super::{EngineError, EngineOptions, SampleStats};
use crate::annotations::{Annotation, Annotations};

pub(crate) struct Query {
    pub options: EngineOptions,
    /// Milliseconds.
    pub lookback: i64,
    pub max_samples: usize,
    pub max_bytes: usize,
    pub deadline: Option<Instant>,
    pub cancel: Option<Arc<AtomicBool>>,
    /// By the plan's ids; each is taken once.
    pub selected: RefCell<Vec<Option<SeriesSet>>>,
    pub annotations: RefCell<Annotations>,
    pub stats: RefCell<SampleStats>,
    /// For how many nodes each shared result stands, and those that are still to be asked for.
    pub shares: Vec<usize>,
    pub kept: RefCell<HashMap<usize, Kept>>,
    /// The query's text, where its operators are to be seen in a trace.
    pub text: Option<String>,
    /// Whether they are to be spans.
    pub traced: bool,
    /// The step that is being evaluated, where there are any.
    pub steps: RefCell<Trace>,
    /// The steps of the selects, by their ids.
    pub selecting: Vec<Trace>,
    /// Spans made so far.
    spans: Cell<usize>,
    /// Samples in memory now, in Prometheus's way of counting.
    current: Cell<usize>,
    bytes: Cell<usize>,
    /// What the query's meter knows of them.
    pub held: RefCell<HeldBytes>,
}

/// Most spans of a query, and most bytes of an operator's text.
const MAX_SPANS: usize = 100;
const MAX_TEXT: usize = 200;

/// How many series or steps pass between two looks at the clock.
const CHECK_EVERY: usize = 64;

impl Query {
    pub(crate) fn new(options: EngineOptions, lookback: i64, selected: Vec<Option<SeriesSet>>) -> Query {
        Query {
            max_samples: options.max_samples,
            max_bytes: options.max_bytes,
            options,
            lookback,
            deadline: None,
            cancel: None,
            selected: RefCell::new(selected),
            annotations: RefCell::new(Annotations::default()),
            stats: RefCell::new(SampleStats::default()),
            shares: Vec::new(),
            kept: RefCell::default(),
            text: None,
            traced: false,
            steps: RefCell::default(),
            selecting: Vec::new(),
            spans: Cell::new(0),
            current: Cell::new(0),
            bytes: Cell::new(0),
            held: RefCell::new(Meter::default().hold_nothing()),
        }
    }

    pub(crate) fn annotate(&self, annotation: Annotation) {
        self.annotations.borrow_mut().add(annotation);
    }

    /// Begins a node's evaluation where it is to be seen in a trace that has room; it ends when what this gives is dropped.
    pub(crate) fn enter(&self, node: &Node, grid: Grid) -> Option<Operator<'_>> {
        let text = self.text.as_ref()?;
        let start = node.pos.start as usize;
        let expr = cut(text.get(start..node.pos.end as usize).unwrap_or(""));
        let step = self.steps.borrow().step(|| format!("{}: {expr}", node.operator()));
        step.add("steps", grid.steps as u64);
        let before = step.is_on().then(|| self.steps.replace(step));
        let span = self.span(node, grid, expr).map(tracing::Span::entered);
        Some(Operator { query: self, span, before })
    }

    fn span(&self, node: &Node, grid: Grid, expr: &str) -> Option<tracing::Span> {
        let count = self.spans.get();
        if !self.traced || count >= MAX_SPANS {
            return None;
        }
        self.spans.set(count + 1);
        let span = tracing::debug_span!(
            "operator",
            otel.name = node.operator(),
            expr,
            grid.steps,
            series = tracing::field::Empty
        );
        Some(span)
    }

    /// Whether the query may go on.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        if self.cancel.as_ref().is_some_and(|c| c.load(Ordering::Relaxed)) {
            return Err(EngineError::Canceled("expression evaluation"));
        }
        if self.deadline.is_some_and(|d| Instant::now() >= d) {
            return Err(EngineError::Timeout("expression evaluation"));
        }
        Ok(())
    }

    /// The same, but only for every so many `i`.
    pub(crate) fn check_sometimes(&self, i: usize) -> Result<(), EngineError> {
        if i.is_multiple_of(CHECK_EVERY) { self.check() } else { Ok(()) }
    }

    /// Samples that come into memory.
    pub(crate) fn charge(&self, samples: usize) -> Result<(), EngineError> {
        let current = self.current.get() + samples;
        self.current.set(current);
        self.peak(0);
        if current > self.max_samples { Err(EngineError::TooManySamples) } else { Ok(()) }
    }

    /// Samples that leave it.
    pub(crate) fn release(&self, samples: usize) {
        self.current.set(self.current.get().saturating_sub(samples));
    }

    /// Checks that `more` samples would fit for a moment.
    pub(crate) fn peak(&self, more: usize) {
        let mut stats = self.stats.borrow_mut();
        stats.peak = stats.peak.max(self.current.get() + more);
    }

    pub(crate) fn momentarily(&self, more: usize) -> Result<(), EngineError> {
        self.peak(more);
        if self.current.get() + more > self.max_samples { Err(EngineError::TooManySamples) } else { Ok(()) }
    }

    pub(crate) fn charge_bytes(&self, bytes: usize) -> Result<(), EngineError> {
        let now = self.bytes.get().saturating_add(bytes);
        self.bytes.set(now);
        if now > self.max_bytes {
            return Err(EngineError::TooManyBytes(self.max_bytes));
        }
        self.held.borrow_mut().add(bytes).map_err(EngineError::expanding)
    }

    pub(crate) fn release_bytes(&self, bytes: usize) {
        self.bytes.set(self.bytes.get().saturating_sub(bytes));
        self.held.borrow_mut().sub(bytes);
    }

    /// A series that an operator keeps.
    pub(crate) fn keep(&self, series: &Series) -> Result<(), EngineError> {
        self.charge_bytes(bytes_of(series))?;
        self.charge(series.weight())
    }

    /// Series that an operator has consumed.
    pub(crate) fn forget(&self, all: &[Series]) {
        for series in all {
            self.release(series.weight());
            self.release_bytes(bytes_of(series));
        }
    }

    /// What was selected, batch by batch; the notes of the store go to the annotations.
    pub(crate) fn take(&self, id: usize, skip_buckets: bool) -> Selected<'_> {
        let set = self.selected.borrow_mut().get_mut(id).and_then(Option::take).unwrap_or_else(SeriesSet::empty);
        for warning in &set.warnings {
            self.annotate(Annotation::storage(warning.clone()));
        }
        let trace = self
            .selecting
            .get(id)
            .map_or_else(Trace::default, |select| select.step(|| "read, while it is evaluated".into()));
        let reading = trace.is_on().then(|| Reading { trace, took: Duration::ZERO });
        let current = Vec::new().into_iter();
        Selected { query: self, batches: set.batches, current, skip_buckets, count: 0, held: 0, reading }
    }
}

/// An operator that is being evaluated, in traces.
pub(crate) struct Operator<'q> {
    query: &'q Query,
    span: Option<tracing::span::EnteredSpan>,
    /// The step above.
    before: Option<Trace>,
}

impl Operator<'_> {
    /// How many series came out.
    pub(crate) fn gave(&self, series: usize) {
        if let Some(span) = &self.span {
            span.record("series", series);
        }
        if self.before.is_some() {
            self.query.steps.borrow().add("series", series as u64);
        }
    }
}

impl Drop for Operator<'_> {
    fn drop(&mut self) {
        if let Some(before) = self.before.take() {
            self.query.steps.replace(before).end();
        }
    }
}

/// The beginning of a text, as far as traces show it.
pub(crate) fn cut(text: &str) -> &str {
    let end = text.len().min(MAX_TEXT);
    (0..4).find_map(|less| text.get(..end.checked_sub(less)?)).unwrap_or("")
}

/// Reading a selector's samples, in a trace.
struct Reading {
    trace: Trace,
    took: Duration,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.trace.took(self.took);
    }
}

/// Bytes of an intermediate series.
pub(crate) fn bytes_of(series: &Series) -> usize {
    8 * (series.floats.values.len() + series.histograms.len()) + series.labels.heap_bytes() + 96
}

pub(crate) use narthex_model::labels::sort_by_labels;

/// Puts series in the order that Prometheus has them in, which shows where values are equal, and in instant answers: the
/// order in which the store first saw them, or that of their labels.
pub(crate) fn put_in_order(all: &mut [Series]) {
    if all.iter().any(|s| s.order == 0) {
        sort_by_labels(all, |s| &s.labels);
    } else if !all.is_sorted_by_key(|s| s.order) {
        all.sort_by_key(|s| s.order);
    }
}

/// The text of a label set that need not be made to be looked for.
#[derive(PartialEq, Eq)]
pub(crate) struct LabelsText<'a>(pub &'a str);

impl std::hash::Hash for LabelsText<'_> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        // As the labels' own.
        self.0.hash(state);
    }
}

impl hashbrown::Equivalent<Labels> for LabelsText<'_> {
    fn equivalent(&self, labels: &Labels) -> bool {
        self.0 == labels.text()
    }
}

/// Iterates over the series of one selector.
pub(crate) struct Selected<'a> {
    query: &'a Query,
    batches: Box<dyn Iterator<Item = Result<narthex_storage::Batch, narthex_storage::StorageError>> + Send>,
    current: std::vec::IntoIter<narthex_storage::Series>,
    skip_buckets: bool,
    count: usize,
    /// Bytes of the batch that is being gone through.
    held: usize,
    reading: Option<Reading>,
}

impl Selected<'_> {
    fn next_batch(&mut self) -> Option<Result<narthex_storage::Batch, narthex_storage::StorageError>> {
        let Some(reading) = &mut self.reading else { return self.batches.next() };
        let began = Instant::now();
        let batch = self.batches.next();
        reading.took += began.elapsed();
        if let Some(Ok(batch)) = &batch {
            let figures = [("series", batch.series.len()), ("samples", batch.samples()), ("bytes", batch.bytes())];
            figures.into_iter().for_each(|(what, n)| reading.trace.add(what, n as u64));
        }
        batch
    }
}

impl Drop for Selected<'_> {
    fn drop(&mut self) {
        self.query.release_bytes(self.held);
    }
}

impl Iterator for Selected<'_> {
    type Item = Result<narthex_storage::Series, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(mut series) = self.current.next() {
                self.count += 1;
                if let Err(e) = self.query.check_sometimes(self.count) {
                    return Some(Err(e));
                }
                if self.skip_buckets {
                    skip_buckets(&mut series);
                }
                return Some(Ok(series));
            }
            self.query.release_bytes(std::mem::take(&mut self.held));
            match self.next_batch()? {
                Ok(batch) => {
                    self.held = batch.bytes();
                    if let Err(e) = self.query.charge_bytes(self.held) {
                        return Some(Err(e));
                    }
                    self.current = batch.series.into_iter();
                }
                Err(e) => return Some(Err(EngineError::expanding(e))),
            }
        }
    }
}

/// Leaves counts and sums only. Resets can't be seen without buckets, so they are noted first.
fn skip_buckets(series: &mut narthex_storage::Series) {
    use narthex_model::CounterResetHint::{CounterReset, NotCounterReset, Unknown};
    let mut previous: Option<Arc<narthex_model::Histogram>> = None;
    for h in &mut series.histograms.values {
        if h.is_stale() {
            previous = None;
            continue;
        }
        let mut bare = h.without_buckets();
        if let Some(previous) = &previous
            && bare.counter_reset_hint == Unknown
        {
            bare.counter_reset_hint = if h.detect_reset(previous) { CounterReset } else { NotCounterReset };
        }
        previous = Some(std::mem::replace(h, Arc::new(bare)));
    }
}

/// The entries whose place is in `keep`.
fn kept<T: Copy>(all: &[T], keep: &[bool]) -> Vec<T> {
    all.iter().zip(keep).filter(|(_, k)| **k).map(|(t, _)| *t).collect()
}

/// Removes staleness markers, for those who look at all samples.
pub(crate) fn without_stale(series: &mut narthex_storage::Series) {
    let floats = &mut series.floats;
    if let Values::Dense(values) = &mut floats.values
        && values.iter().any(|v| narthex_model::is_stale(*v))
    {
        let keep: Vec<bool> = values.iter().map(|v| !narthex_model::is_stale(*v)).collect();
        floats.timestamps = kept(&floats.timestamps, &keep).into();
        floats.start_timestamps = floats.start_timestamps.as_ref().map(|s| kept(s, &keep).into());
        *values = kept(values, &keep);
    }
    let histograms = &mut series.histograms;
    if histograms.values.iter().any(|h| h.is_stale()) {
        let keep: Vec<bool> = histograms.values.iter().map(|h| !h.is_stale()).collect();
        histograms.timestamps = kept(&histograms.timestamps, &keep);
        histograms.start_timestamps = kept(&histograms.start_timestamps, &keep);
        histograms.values.retain(|h| !h.is_stale());
    }
}
