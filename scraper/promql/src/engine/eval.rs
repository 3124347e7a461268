//! Walks the plan: each node is evaluated once, for all its steps.

use std::sync::Arc;

use hashbrown::HashMap;
use narthex_model::{Labels, is_stale};
use narthex_storage::{FloatColumn, HistogramColumn, Values};

use super::columns::{Bits, Floats, Series};
use super::plan::{Kind, Node, Selector, Subquery};
use super::query::{Query, put_in_order, sort_by_labels, without_stale};
use super::scan::any_stale;
use super::windows::{Cache, Grid, Latest, NONE, Reference, Windows, latest};
use super::{EngineError, SampleStats};
use crate::annotations::Annotation;
use crate::ast::{PosRange, ValueType};
use crate::functions::labels::drop_metadata;
use crate::functions::{RangeContext, rate};
use crate::value::{MatrixSeries, Point, Sample, Value};

/// A scalar over the steps.
#[derive(Clone, Debug)]
pub(crate) enum Scalar {
    Constant(f64),
    Steps(Vec<f64>),
}

impl Scalar {
    #[inline]
    pub(crate) fn at(&self, step: usize) -> f64 {
        match self {
            Scalar::Constant(v) => *v,
            Scalar::Steps(values) => values[step],
        }
    }

    pub(crate) fn constant(&self) -> Option<f64> {
        match self {
            Scalar::Constant(v) => Some(*v),
            Scalar::Steps(_) => None,
        }
    }

    pub(crate) fn into_steps(self, steps: usize) -> Vec<f64> {
        match self {
            Scalar::Constant(v) => vec![v; steps],
            Scalar::Steps(values) => values,
        }
    }
}

/// The samples of a range vector's series.
pub(crate) struct RangeSeries {
    pub series: narthex_storage::Series,
    pub drop_name: bool,
}

pub(crate) enum Out {
    Scalar(Scalar),
    String(String),
    Vector(Vec<Series>),
    Matrix(Vec<RangeSeries>),
}

/// Takes the series of a vector one by one. What it leaves of a series is used again.
pub(crate) type Sink<'s> = &'s mut dyn FnMut(&mut Series) -> Result<(), EngineError>;

#[derive(Clone, Copy)]
pub(crate) struct Evaluator<'q> {
    pub q: &'q Query,
}

/// What an instant selector gives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    Sample,
    /// The sample's time in seconds.
    Time,
    /// Its start timestamp in seconds.
    Start,
    /// Its time in milliseconds (info series).
    Millis,
}

impl<'q> Evaluator<'q> {
    pub(crate) fn eval(&self, node: &Node, grid: Grid) -> Result<Out, EngineError> {
        match node.share {
            None => self.eval_node(node, grid),
            Some(number) => self.eval_shared(number, node, grid),
        }
    }

    /// Evaluates a node whatever it shares with others.
    pub(crate) fn eval_node(&self, node: &Node, grid: Grid) -> Result<Out, EngineError> {
        self.q.check()?;
        let operator = self.q.enter(node, grid);
        let out = self.eval_kind(node, grid)?;
        if let Some(operator) = operator {
            let series = match &out {
                Out::Vector(all) => all.len(),
                Out::Matrix(all) => all.len(),
                Out::Scalar(_) | Out::String(_) => 1,
            };
            operator.gave(series);
        }
        Ok(out)
    }

    fn eval_kind(&self, node: &Node, grid: Grid) -> Result<Out, EngineError> {
        Ok(match &node.kind {
            Kind::Number(v) => Out::Scalar(Scalar::Constant(*v)),
            Kind::String(s, _) => Out::String(s.clone()),
            Kind::Selector(s) => Out::Vector(self.selector_in_order(s, node.pos, grid, Want::Sample)?),
            Kind::Range(r) => Out::Matrix(self.range_vector(r, grid)?),
            Kind::Subquery(s) => Out::Matrix(self.top_subquery(s, grid)?),
            Kind::Call(c) => self.call(c, node.pos, grid)?,
            Kind::Aggregate(a) => Out::Vector(self.aggregate(a, node.pos, grid)?),
            Kind::Binary(b) => self.binary(b, node.pos, grid)?,
            Kind::Negate(inner) => self.negate(inner, grid)?,
            Kind::Plus(inner) => self.eval(inner, grid)?,
            Kind::StepInvariant(inner) => self.step_invariant(inner, grid)?,
        })
    }

    pub(crate) fn vector(&self, node: &Node, grid: Grid) -> Result<Vec<Series>, EngineError> {
        match self.eval(node, grid)? {
            Out::Vector(v) => Ok(v),
            _ => Err(EngineError::Execution("expected an instant vector".into())),
        }
    }

    pub(crate) fn scalar(&self, node: &Node, grid: Grid) -> Result<Scalar, EngineError> {
        match self.eval(node, grid)? {
            Out::Scalar(s) => Ok(s),
            _ => Err(EngineError::Execution("expected a scalar".into())),
        }
    }

    /// Evaluates an instant vector and hands over its series one by one, where possible without holding them all. In no
    /// particular order.
    pub(crate) fn stream(&self, node: &Node, grid: Grid, sink: Sink<'_>) -> Result<(), EngineError> {
        let streams = match &node.kind {
            Kind::Selector(_) => true,
            Kind::Call(c) => self.is_plain_range_call(c),
            _ => false,
        };
        // A span of what streams holds what its series go into, too.
        let _operator = if streams { self.q.enter(node, grid) } else { None };
        match &node.kind {
            Kind::Selector(s) => {
                self.q.check()?;
                self.selector(s, node.pos, grid, Want::Sample, sink)
            }
            Kind::Call(c) if streams => {
                self.q.check()?;
                self.range_call(c, grid, sink)
            }
            _ => {
                let all = self.vector(node, grid)?;
                self.q.forget(&all);
                all.into_iter().zip(1..).try_for_each(|(mut series, order)| {
                    series.order = order;
                    sink(&mut series)
                })
            }
        }
    }

    /// All series of a selector. `want` is another than the sample for `timestamp(selector)` and
    /// `start_timestamp(selector)`.
    pub(crate) fn selector_in_order(
        &self,
        s: &Selector,
        pos: PosRange,
        grid: Grid,
        want: Want,
    ) -> Result<Vec<Series>, EngineError> {
        let mut out = Vec::new();
        self.selector(s, pos, grid, want, &mut |series| {
            self.q.keep(series)?;
            out.push(series.take());
            Ok(())
        })?;
        put_in_order(&mut out);
        Ok(out)
    }

    pub(crate) fn selector(
        &self,
        s: &Selector,
        pos: PosRange,
        grid: Grid,
        want: Want,
        sink: Sink<'_>,
    ) -> Result<(), EngineError> {
        let at = Reference { at: s.at, offset: s.offset };
        let mut cache = Cache::new();
        let mut buffer = Vec::new();
        for series in self.q.take(s.id, s.skip_buckets) {
            let series = series?;
            let order = series.order;
            // The times of samples are those of real ones.
            let smooth = s.smoothed && want == Want::Sample;
            let mut out = if smooth {
                self.smooth(series, pos, grid, at)
            } else {
                let found = cache.get(&series.floats.timestamps, |t| Latest::find(t, &grid, at, self.q.lookback));
                self.instant_series(&series, &found, grid, at, want, std::mem::take(&mut buffer))
            };
            if !out.is_empty() {
                if !smooth {
                    self.count_instant(&out);
                }
                out.order = order;
                sink(&mut out)?;
            }
            buffer = std::mem::take(&mut out.floats.values);
        }
        Ok(())
    }

    fn count_instant(&self, series: &Series) {
        let mut stats = self.q.stats.borrow_mut();
        if !series.has_histograms() {
            let n = series.floats.present.count() as u64;
            stats.total += n;
            stats.read += n;
            if !stats.total_per_step.is_empty() {
                for i in series.floats.present.iter() {
                    stats.add_at(i, 1, 1);
                }
            }
            return;
        }
        for i in 0..series.steps() {
            let n = match series.histogram(i) {
                Some(h) => h.weight() as u64,
                None => u64::from(series.floats.present.get(i)),
            };
            stats.total += n;
            stats.read += n;
            stats.add_at(i, n, n);
        }
    }

    /// The column of one series: at each step the sample that `found` tells, or a histogram that is newer.
    pub(crate) fn instant_series(
        &self,
        series: &narthex_storage::Series,
        found: &Latest,
        grid: Grid,
        at: Reference,
        want: Want,
        buffer: Vec<f64>,
    ) -> Series {
        let steps = grid.steps;
        let column = &series.floats;
        let start = |i: usize| column.start_timestamps.as_ref().map_or(0, |s| s[i]);
        let float = |i: usize| {
            let v = column.values.at(i);
            match want {
                _ if is_stale(v) => None,
                Want::Sample => Some(v),
                Want::Time => Some(column.timestamps[i] as f64 / 1000.0),
                Want::Millis => Some(column.timestamps[i] as f64),
                Want::Start => Some(start(i) as f64 / 1000.0),
            }
        };
        let mut out = Series::new(series.labels.clone(), steps);
        if series.histograms.values.is_empty() {
            if column.is_empty() {
                return out;
            }
            let mut floats = Floats::in_buffer(buffer, steps);
            match (&column.values, want) {
                (Values::Constant(v), Want::Sample) => {
                    floats.values.fill(*v);
                    floats.present.clone_from(&found.present);
                }
                (Values::Dense(values), Want::Sample) if !any_stale(values) => {
                    for run in &found.runs {
                        let (step, len, stride) = (run.step as usize, run.len as usize, run.stride as usize);
                        let sample = found.index[step] as usize;
                        let out = &mut floats.values[step..step + len];
                        match stride {
                            1 => out.copy_from_slice(&values[sample..sample + len]),
                            0 => out.fill(values[sample]),
                            _ => out.iter_mut().zip(values[sample..].iter().step_by(stride)).for_each(|(o, v)| *o = *v),
                        }
                    }
                    floats.present.clone_from(&found.present);
                }
                (Values::Dense(values), Want::Sample) => {
                    for (step, i) in found.index.iter().enumerate() {
                        if let Some(v) = values.get(*i as usize)
                            && !is_stale(*v)
                        {
                            floats.values[step] = *v;
                            floats.present.set(step);
                        }
                    }
                }
                _ => {
                    for (step, i) in found.index.iter().enumerate().filter(|(_, i)| **i != NONE) {
                        if let Some(v) = float(*i as usize) {
                            floats.set(step, v);
                        }
                    }
                }
            }
            out.floats = floats;
            return out;
        }
        let histograms = &series.histograms;
        let newest = latest(&histograms.timestamps, &grid, at, self.q.lookback);
        for (step, (f, h)) in found.index.iter().copied().zip(newest).enumerate() {
            let histogram_wins =
                h != NONE && (f == NONE || histograms.timestamps[h as usize] > column.timestamps[f as usize]);
            if histogram_wins {
                let i = h as usize;
                let value = &histograms.values[i];
                if value.is_stale() {
                    continue;
                }
                match want {
                    Want::Sample => out.set_histogram(step, value.clone()),
                    Want::Time => out.floats.set(step, histograms.timestamps[i] as f64 / 1000.0),
                    Want::Start => {
                        out.floats.set(step, histograms.start_timestamps.get(i).copied().unwrap_or(0) as f64 / 1000.0);
                    }
                    Want::Millis => out.set_histogram(step, value.clone()),
                }
            } else if f != NONE
                && let Some(v) = float(f as usize)
            {
                out.floats.set(step, v);
            }
        }
        out
    }

    /// A smoothed instant selector: interpolates between the samples around each step.
    fn smooth(&self, mut series: narthex_storage::Series, pos: PosRange, grid: Grid, at: Reference) -> Series {
        without_stale(&mut series);
        let lookback = self.q.lookback;
        let labels = series.labels.clone();
        let cx = RangeContext { query: self.q, pos, metric: labels.metric_name(), range_seconds: 0.0 };
        let (t, ht, h) = (&*series.floats.timestamps, &*series.histograms.timestamps, &series.histograms.values);
        let floats = Windows::find(t, &grid, at, lookback, 0, lookback);
        let histograms = Windows::find(ht, &grid, at, lookback, 0, lookback);
        let mut out = Series::new(labels.clone(), grid.steps);
        for step in 0..grid.steps {
            let now = at.time(&grid, step);
            let (lo, hi) = (floats.lo[step] as usize, floats.hi[step] as usize);
            let (hlo, hhi) = (histograms.lo[step] as usize, histograms.hi[step] as usize);
            if lo < hi && hlo < hhi {
                cx.mixed();
                continue;
            }
            if hlo < hhi {
                let i = hlo + ht[hlo..hhi].partition_point(|t| *t < now);
                if i < hhi && ht[i] == now {
                    out.set_histogram(step, h[i].clone());
                } else if i > hlo && i < hhi {
                    if h[i - 1].uses_custom_buckets() != h[i].uses_custom_buckets() {
                        cx.mixed_schemas();
                        continue;
                    }
                    let gauge = narthex_model::CounterResetHint::Gauge;
                    let counter = h[i - 1].counter_reset_hint != gauge || h[i].counter_reset_hint != gauge;
                    let (a, b) = ((ht[i - 1], &*h[i - 1]), (ht[i], &*h[i]));
                    if let Some(between) = rate::interpolate_histograms(&cx, a, b, now, counter) {
                        out.set_histogram(step, Arc::new(between));
                    }
                } else if i > hlo {
                    let mut carried = (*h[i - 1]).clone();
                    carried.counter_reset_hint = narthex_model::CounterResetHint::Unknown;
                    out.set_histogram(step, Arc::new(carried));
                }
            } else if lo < hi {
                let i = lo + t[lo..hi].partition_point(|t| *t < now);
                let sample = |i: usize| (t[i], series.floats.values.at(i));
                if i < hi && t[i] == now {
                    out.floats.set(step, sample(i).1);
                } else if i > lo && i < hi {
                    out.floats.set(step, rate::interpolate_gauge(sample(i - 1), sample(i), now));
                } else if i > lo {
                    out.floats.set(step, sample(i - 1).1);
                }
            }
        }
        out
    }

    fn negate(&self, inner: &Node, grid: Grid) -> Result<Out, EngineError> {
        match self.eval(inner, grid)? {
            Out::Scalar(Scalar::Constant(v)) => Ok(Out::Scalar(Scalar::Constant(-v))),
            Out::Scalar(Scalar::Steps(values)) => {
                Ok(Out::Scalar(Scalar::Steps(values.into_iter().map(|v| -v).collect())))
            }
            Out::Vector(mut all) => {
                for series in &mut all {
                    series.floats.values.iter_mut().for_each(|v| *v = -*v);
                    for h in series.histograms.iter_mut().flatten() {
                        Arc::make_mut(h).mul(-1.0);
                    }
                    self.drop_name(series);
                }
                Ok(Out::Vector(if self.q.options.delayed_name_removal { all } else { merge_complete(all)? }))
            }
            other => Ok(other),
        }
    }

    /// Drops the metric's name now, or notes that it is to be dropped in the end.
    pub(crate) fn drop_name(&self, series: &mut Series) {
        if !self.q.options.delayed_name_removal {
            series.labels = drop_metadata(&series.labels);
        }
        series.drop_name = true;
    }

    fn step_invariant(&self, inner: &Node, grid: Grid) -> Result<Out, EngineError> {
        let before = {
            let mut stats = self.q.stats.borrow_mut();
            let per_step = (std::mem::take(&mut stats.total_per_step), std::mem::take(&mut stats.read_per_step));
            (stats.total, stats.read, per_step)
        };
        let out = self.eval(inner, grid.first())?;
        {
            // What was looked at once counts at every step; it was read once.
            let mut stats = self.q.stats.borrow_mut();
            let (total, read, (total_per_step, read_per_step)) = before;
            let once = stats.total - total;
            stats.total = total + once * grid.steps as u64;
            let read_once = stats.read - read;
            stats.total_per_step = total_per_step;
            stats.read_per_step = read_per_step;
            stats.total_per_step.iter_mut().for_each(|(_, n)| *n += once);
            if let Some((_, n)) = stats.read_per_step.first_mut() {
                *n += read_once;
            }
        }
        if grid.steps == 0 {
            return Ok(out);
        }
        Ok(match out {
            Out::Scalar(s) => Out::Scalar(Scalar::Constant(s.at(0))),
            Out::Vector(all) => {
                let mut wide = Vec::with_capacity(all.len());
                for narrow in all {
                    self.q.forget(std::slice::from_ref(&narrow));
                    let mut series = Series::new(narrow.labels.clone(), grid.steps);
                    series.drop_name = narrow.drop_name;
                    match narrow.at(0) {
                        Some(Point::Float(v)) => series.floats = Floats::full(vec![v; grid.steps]),
                        Some(Point::Histogram(h)) => series.histograms = vec![Some(h); grid.steps],
                        None => continue,
                    }
                    self.q.keep(&series)?;
                    wide.push(series);
                }
                Out::Vector(wide)
            }
            other => other,
        })
    }

    /// The steps at which a subquery's expression is evaluated for the steps of `grid`.
    fn subquery_grid(&self, s: &Subquery, grid: Grid) -> Grid {
        let step = if s.step != 0 {
            s.step
        } else {
            i64::try_from(self.q.options.default_subquery_step.as_millis()).unwrap_or(i64::MAX).max(1)
        };
        let at = Reference { at: s.at, offset: s.offset };
        let after = at.time(&grid, 0).saturating_sub(s.range);
        let end = at.at.unwrap_or_else(|| grid.end()).saturating_sub(s.offset);
        let mut start = step.saturating_mul(after / step);
        if start <= after {
            start = start.saturating_add(step);
        }
        Grid::new(start, end, step)
    }

    /// A subquery as the argument of a function. The function counts its points as samples looked at; what was read for
    /// them counts at the step that sees them first, and not where no step does
    /// (`stats.QuerySamples.MergeSamplesReadFromSubquery`).
    pub(crate) fn subquery(&self, s: &Subquery, grid: Grid) -> Result<Vec<RangeSeries>, EngineError> {
        let inner = self.subquery_grid(s, grid);
        if inner.steps == 0 {
            return Ok(Vec::new());
        }
        let gaps = grid.steps > 1 && grid.interval > s.range;
        let outer = self.q.stats.take();
        let per_step = gaps || !outer.read_per_step.is_empty();
        let (points, counted) = self.counted(s, inner, outer.peak, per_step)?;
        let mut stats = self.q.stats.borrow_mut();
        *stats = SampleStats { peak: counted.peak, ..outer };
        if grid.steps == 1 || !per_step {
            stats.read += counted.read;
            stats.add_at(0, 0, counted.read);
            return Ok(points);
        }
        for (t, read) in counted.read_per_step {
            let seen = t.saturating_add(s.offset);
            let later = seen.saturating_sub(grid.start).max(0).saturating_add(grid.interval - 1) / grid.interval;
            let step = usize::try_from(later).unwrap_or(usize::MAX).min(grid.steps - 1);
            if seen > grid.time(step).saturating_sub(s.range) {
                stats.read += read;
                stats.add_at(step, 0, read);
            }
        }
        Ok(points)
    }

    /// The points of a subquery, and what was counted for them, by their steps if asked for.
    fn counted(
        &self,
        s: &Subquery,
        inner: Grid,
        peak: usize,
        per_step: bool,
    ) -> Result<(Vec<RangeSeries>, SampleStats), EngineError> {
        let steps: Vec<(i64, u64)> =
            if per_step { (0..inner.steps).map(|i| (inner.time(i), 0)).collect() } else { Vec::new() };
        let counts =
            SampleStats { peak, read_per_step: steps.clone(), total_per_step: steps, ..SampleStats::default() };
        self.q.stats.replace(counts);
        let points = self.points(s, inner)?;
        Ok((points, self.q.stats.take()))
    }

    /// Evaluates a subquery's expression and returns its points as samples.
    fn points(&self, s: &Subquery, inner: Grid) -> Result<Vec<RangeSeries>, EngineError> {
        let all = match self.eval(&s.expr, inner)? {
            Out::Vector(all) => all,
            Out::Scalar(v) => {
                vec![Series::of(Labels::empty(), false, Floats::full(v.into_steps(inner.steps)))]
            }
            _ => return Err(EngineError::Execution("a subquery needs an instant vector".into())),
        };
        let times: Arc<[i64]> = (0..inner.steps).map(|i| inner.time(i)).collect();
        let mut out = Vec::with_capacity(all.len());
        for series in all {
            let Series { labels, drop_name, floats, histograms, .. } = series;
            let floats = if floats.values.is_empty() || floats.present.is_empty() {
                FloatColumn::default()
            } else if floats.present.is_full() {
                FloatColumn { timestamps: times.clone(), values: Values::Dense(floats.values), start_timestamps: None }
            } else {
                let (t, v): (Vec<i64>, Vec<f64>) = floats.present.iter().map(|i| (times[i], floats.values[i])).unzip();
                FloatColumn::new(t, v)
            };
            let mut column = HistogramColumn::default();
            for (i, h) in histograms.into_iter().enumerate() {
                let Some(mut h) = h else { continue };
                // Resets between the points of a subquery are found anew: hints speak of the samples below.
                use narthex_model::CounterResetHint::{CounterReset, NotCounterReset, Unknown};
                if matches!(h.counter_reset_hint, CounterReset | NotCounterReset) {
                    Arc::make_mut(&mut h).counter_reset_hint = Unknown;
                }
                column.timestamps.push(times[i]);
                column.values.push(h);
            }
            let series = narthex_storage::Series { labels, floats, histograms: column, order: 0 };
            out.push(RangeSeries { series, drop_name });
        }
        Ok(out)
    }

    fn top_subquery(&self, s: &Subquery, grid: Grid) -> Result<Vec<RangeSeries>, EngineError> {
        let inner = self.subquery_grid(s, grid);
        if inner.steps == 0 {
            return Ok(Vec::new());
        }
        let outer = self.q.stats.take();
        let (points, counted) = self.counted(s, inner, outer.peak, false)?;
        let mut stats = self.q.stats.borrow_mut();
        *stats = SampleStats { peak: counted.peak, ..outer };
        stats.total += counted.total;
        stats.read += counted.read;
        stats.add_at(grid.steps.saturating_sub(1), counted.total, counted.read);
        Ok(points)
    }

    /// The result as the caller sees it.
    pub(crate) fn value(
        &self,
        root: &Node,
        out: Out,
        grid: Grid,
        instant: bool,
        value_type: ValueType,
    ) -> Result<Value, EngineError> {
        // What the store selects comes once each.
        let unique = matches!(&root.kind, Kind::Selector(s) if !s.some_labels);
        let out = match out {
            Out::Vector(mut all) if self.q.options.delayed_name_removal => {
                for series in &mut all {
                    if series.drop_name {
                        series.labels = drop_metadata(&series.labels);
                    }
                }
                Out::Vector(merge_complete(all)?)
            }
            Out::Matrix(mut all) if self.q.options.delayed_name_removal => {
                for r in &mut all {
                    if r.drop_name {
                        r.series.labels = drop_metadata(&r.series.labels);
                    }
                }
                Out::Matrix(all)
            }
            other => other,
        };
        Ok(match out {
            Out::String(value) => Value::String { timestamp: grid.start, value },
            Out::Scalar(s) if instant => Value::Scalar { timestamp: grid.start, value: s.at(0) },
            Out::Scalar(s) => {
                let values = s.into_steps(grid.steps);
                let floats: Vec<_> = values.into_iter().enumerate().map(|(i, v)| (grid.time(i), v)).collect();
                let some = (!floats.is_empty()).then(|| MatrixSeries { floats, ..MatrixSeries::default() });
                Value::Matrix(some.into_iter().collect())
            }
            Out::Vector(all) if instant && value_type == ValueType::Vector => {
                if !unique && has_same_labels(&all) {
                    return Err(EngineError::duplicate_labels());
                }
                let samples = all.into_iter().filter_map(|series| {
                    let point = series.at(0)?;
                    Some(Sample { labels: series.labels, timestamp: grid.start, point })
                });
                Value::Vector(samples.collect())
            }
            Out::Vector(all) => {
                let mut matrix: Vec<MatrixSeries> = Vec::with_capacity(all.len());
                for series in all {
                    let held = super::query::bytes_of(&series);
                    let floats = timed(&series.floats, grid);
                    let histograms = series.histograms.iter().enumerate();
                    let histograms: Vec<_> = histograms.filter_map(|(i, h)| Some((grid.time(i), h.clone()?))).collect();
                    let labels = series.labels;
                    if !floats.is_empty() || !histograms.is_empty() {
                        self.q.charge_bytes(size_of::<(i64, f64)>() * (floats.len() + histograms.len()))?;
                        matrix.push(MatrixSeries { labels, floats, histograms });
                    }
                    self.q.release_bytes(held);
                }
                sort_by_labels(&mut matrix, |m| &m.labels);
                Value::Matrix(matrix)
            }
            Out::Matrix(all) => {
                let mut matrix: Vec<MatrixSeries> = all
                    .into_iter()
                    .map(|r| MatrixSeries {
                        floats: r.series.floats.iter().collect(),
                        histograms: r
                            .series
                            .histograms
                            .timestamps
                            .into_iter()
                            .zip(r.series.histograms.values)
                            .collect(),
                        labels: r.series.labels,
                    })
                    .collect();
                sort_by_labels(&mut matrix, |m| &m.labels);
                if matrix.windows(2).any(|pair| pair[0].labels == pair[1].labels) {
                    return Err(EngineError::duplicate_labels());
                }
                Value::Matrix(matrix)
            }
        })
    }

    /// Notes something once.
    pub(crate) fn annotate(&self, annotation: Annotation) {
        self.q.annotate(annotation);
    }
}

impl super::SampleStats {
    pub(crate) fn add_at(&mut self, step: usize, total: u64, read: u64) {
        if let Some((_, n)) = self.total_per_step.get_mut(step) {
            *n += total;
        }
        if let Some((_, n)) = self.read_per_step.get_mut(step) {
            *n += read;
        }
    }
}

/// The floats with their times.
fn timed(floats: &Floats, grid: Grid) -> Vec<(i64, f64)> {
    if floats.values.is_empty() {
        return Vec::new();
    }
    if floats.present.is_full() {
        return floats.values.iter().enumerate().map(|(i, v)| (grid.time(i), *v)).collect();
    }
    let mut out = Vec::with_capacity(floats.present.count());
    out.extend(floats.present.iter().map(|i| (grid.time(i), floats.values[i])));
    out
}

pub(crate) fn has_same_labels(all: &[Series]) -> bool {
    if all.len() < 2 {
        return false;
    }
    let mut seen = hashbrown::HashSet::with_capacity(all.len());
    all.iter().any(|s| !seen.insert(&s.labels))
}

/// Joins series with the same labels, where Prometheus joins them when they are complete: a float and a histogram at the
/// same step are both kept.
///
/// # Errors
/// When two of them have a float at the same step, or a histogram.
pub(crate) fn merge_complete(all: Vec<Series>) -> Result<Vec<Series>, EngineError> {
    if !has_same_labels(&all) {
        return Ok(all);
    }
    let mut by_labels: HashMap<Labels, usize> = HashMap::with_capacity(all.len());
    let mut out: Vec<Series> = Vec::with_capacity(all.len());
    for series in all {
        let Some(i) = by_labels.get(&series.labels) else {
            by_labels.insert(series.labels.clone(), out.len());
            out.push(series);
            continue;
        };
        let into = &mut out[*i];
        let steps = into.steps().max(series.steps());
        for step in 0..steps {
            if let Some(v) = series.floats.get(step) {
                if into.floats.get(step).is_some() {
                    return Err(EngineError::duplicate_labels());
                }
                if into.floats.values.is_empty() {
                    into.floats = Floats::none(steps);
                }
                into.floats.set(step, v);
            }
            if let Some(Some(h)) = series.histograms.get(step) {
                if into.histograms.get(step).is_some_and(Option::is_some) {
                    return Err(EngineError::duplicate_labels());
                }
                if into.histograms.is_empty() {
                    into.histograms = vec![None; steps];
                }
                into.histograms[step] = Some(h.clone());
            }
        }
    }
    Ok(out)
}

/// Joins series with the same labels.
///
/// # Errors
/// When two of them have a value at the same step.
pub(crate) fn merge_same_labels(all: Vec<Series>) -> Result<Vec<Series>, EngineError> {
    if !has_same_labels(&all) {
        return Ok(all);
    }
    let mut by_labels: HashMap<Labels, usize> = HashMap::with_capacity(all.len());
    let mut out: Vec<Series> = Vec::with_capacity(all.len());
    let mut present: Vec<Bits> = Vec::with_capacity(all.len());
    for series in all {
        let bits = series.present();
        match by_labels.get(&series.labels) {
            None => {
                by_labels.insert(series.labels.clone(), out.len());
                out.push(series);
                present.push(bits);
            }
            Some(i) => {
                if present[*i].intersects(&bits) {
                    return Err(EngineError::duplicate_labels());
                }
                for step in bits.iter() {
                    if let Some(point) = series.at(step) {
                        out[*i].set(step, point);
                    }
                }
                present[*i].or(&bits);
            }
        }
    }
    Ok(out)
}
