//! Functions over range vectors: windows once per timestamp column, then a kernel over slices, or the plain function
//! window by window where there are histograms, start timestamps or extended ranges.

use std::rc::Rc;

use hashbrown::{HashMap, HashSet};
use narthex_model::{Labels, METRIC_NAME, TYPE_LABEL};
use narthex_storage::{FloatColumn, HistogramColumn, Values};

use super::EngineError;
use super::columns::{Bits, Floats, Series};
use super::eval::{Evaluator, RangeSeries, Scalar, Sink};
use super::plan::{Call, Kind, RangeSelector};
use super::query::{put_in_order, without_stale};
use super::scan::{self, Regression, any_stale};
use super::windows::{Cache, Grid, Reference, Windows};
use crate::annotations::Annotation;
use crate::ast::PosRange;
use crate::functions::labels::{drop_metadata, is_metadata, of_absent};
use crate::functions::rate::{self, RateKind, RatePlan};
use crate::functions::{RangeContext, Window, over_time, trend};
use crate::value::Point;

const ANCHORED_SAFE: &[&str] = &["changes", "delta", "increase", "rate", "resets"];
const SMOOTHED_SAFE: &[&str] = &["delta", "increase", "rate"];

/// What the steps of one range function call look at.
#[derive(Clone, Copy)]
struct Frame {
    grid: Grid,
    at: Reference,
    range: i64,
    range_seconds: f64,
    anchored: bool,
    smoothed: bool,
    lookback: i64,
}

impl Frame {
    fn windows(&self, times: &[i64]) -> Windows {
        let before = if self.anchored || self.smoothed { self.lookback } else { 0 };
        let behind = if self.smoothed { self.lookback } else { 0 };
        Windows::find(times, &self.grid, self.at, self.range, before, behind)
    }

    fn extended(&self) -> bool {
        self.anchored || self.smoothed
    }
}

/// What is known of a timestamp column.
struct Shared {
    windows: Windows,
    rate: Option<RatePlan>,
    regression: Option<Regression>,
    /// Samples seen, new samples seen, and the largest window.
    total: u64,
    fresh: u64,
    largest: usize,
}

impl Shared {
    fn new(times: &[i64], frame: &Frame, name: &str) -> Shared {
        let windows = frame.windows(times);
        let (mut fresh, mut largest) = (0u64, 0);
        for i in 0..windows.lo.len() {
            let seen = if i == 0 { windows.lo[0] } else { windows.hi[i - 1].max(windows.lo[i]) };
            fresh += u64::from(windows.hi[i] - seen);
            largest = largest.max((windows.hi[i] - windows.lo[i]) as usize);
        }
        let rate = RateKind::of(name).filter(|_| !frame.extended()).map(|kind| {
            let end = |i: usize| frame.at.time(&frame.grid, i);
            RatePlan::new(times, &windows, end, frame.range, frame.range_seconds, kind)
        });
        let regression = match name {
            "predict_linear" => Regression::new(times, &windows, |i| frame.grid.time(i)),
            "deriv" => Regression::new(times, &windows, |i| times.get(windows.lo[i] as usize).copied().unwrap_or(0)),
            _ => None,
        };
        Shared { total: windows.total, windows, rate, regression, fresh, largest }
    }
}

impl Evaluator<'_> {
    /// Whether a call is a function over one range selector whose results can be streamed.
    pub(crate) fn is_plain_range_call(&self, call: &Call) -> bool {
        call.name != "absent_over_time"
            && call.args.iter().any(|a| matches!(a.kind, Kind::Range(_) | Kind::Subquery(_)))
    }

    /// A range selector by itself, at the first step.
    pub(crate) fn range_vector(&self, r: &RangeSelector, grid: Grid) -> Result<Vec<RangeSeries>, EngineError> {
        let s = &r.selector;
        let frame = self.frame(r, grid.first());
        let mut out = Vec::new();
        for series in self.q.take(s.id, s.skip_buckets) {
            let mut series = series?;
            without_stale(&mut series);
            let floats = frame.windows(&series.floats.timestamps);
            let histograms = frame.windows(&series.histograms.timestamps);
            let (lo, hi) = (floats.lo[0] as usize, floats.hi[0] as usize);
            let (hlo, hhi) = (histograms.lo[0] as usize, histograms.hi[0] as usize);
            let mut times = series.floats.timestamps[lo..hi].to_vec();
            let mut values: Vec<f64> = (lo..hi).map(|i| series.floats.values.at(i)).collect();
            if frame.extended() {
                if hlo < hhi {
                    let modifier = if s.anchored { "anchored" } else { "smoothed" };
                    let text = format!("{modifier} modifier is not supported with histograms");
                    return Err(EngineError::Execution(text));
                }
                let end = frame.at.time(&frame.grid, 0);
                (times, values) = rate::extend(&times, &values, end - frame.range, end, s.smoothed);
            }
            let column = HistogramColumn {
                timestamps: series.histograms.timestamps[hlo..hhi].to_vec(),
                values: series.histograms.values[hlo..hhi].to_vec(),
                start_timestamps: Vec::new(),
            };
            let weight = times.len() + column.values.iter().map(|h| h.weight()).sum::<usize>();
            if weight == 0 {
                continue;
            }
            {
                let mut stats = self.q.stats.borrow_mut();
                stats.total += weight as u64;
                stats.read += weight as u64;
                stats.add_at(0, weight as u64, weight as u64);
            }
            self.q.charge(weight)?;
            let series = narthex_storage::Series {
                labels: series.labels,
                floats: FloatColumn::new(times, values),
                histograms: column,
                order: series.order,
            };
            out.push(RangeSeries { series, drop_name: false });
        }
        Ok(out)
    }

    fn frame(&self, r: &RangeSelector, grid: Grid) -> Frame {
        let s = &r.selector;
        Frame {
            grid,
            at: Reference { at: s.at, offset: s.offset },
            range: r.range,
            range_seconds: r.range_seconds,
            anchored: s.anchored,
            smoothed: s.smoothed,
            lookback: self.q.lookback,
        }
    }

    /// A function over a range vector, all results held.
    pub(crate) fn range_call_in_order(&self, call: &Call, grid: Grid) -> Result<Vec<Series>, EngineError> {
        let mut out = Vec::new();
        self.range_call(call, grid, &mut |series| {
            self.q.keep(series)?;
            out.push(series.take());
            Ok(())
        })?;
        put_in_order(&mut out);
        if call.name == "absent_over_time" {
            return Ok(self.absent_over_time(call, out, grid));
        }
        Ok(out)
    }

    fn absent_over_time(&self, call: &Call, found: Vec<Series>, grid: Grid) -> Vec<Series> {
        let mut present = Bits::none(grid.steps);
        found.iter().for_each(|s| present.or(&s.floats.present));
        self.q.forget(&found);
        let mut missing = Bits::all(grid.steps);
        missing.and_not(&present);
        if missing.is_empty() {
            return Vec::new();
        }
        let floats = Floats { values: vec![1.0; grid.steps], present: missing };
        vec![Series::of(of_absent(&call.matchers), true, floats)]
    }

    /// A function over a range vector; results are handed over as they come.
    pub(crate) fn range_call(&self, call: &Call, grid: Grid, sink: Sink<'_>) -> Result<(), EngineError> {
        let Some(index) = call.args.iter().position(|a| matches!(a.kind, Kind::Range(_) | Kind::Subquery(_))) else {
            return Err(EngineError::Execution("expected a range vector".into()));
        };
        let arg = &call.args[index];
        // A subquery comes first, then the other arguments.
        let subquery = match &arg.kind {
            Kind::Subquery(s) => Some((self.subquery(s, grid)?, s)),
            _ => None,
        };
        let mut scalars = Vec::new();
        for (i, a) in call.args.iter().enumerate() {
            if i != index {
                scalars.push(self.scalar(a, grid)?);
            }
        }
        if let Some((inputs, s)) = subquery {
            let frame = Frame {
                grid,
                at: Reference { at: s.at, offset: s.offset },
                range: s.range,
                range_seconds: s.range_seconds,
                anchored: false,
                smoothed: false,
                lookback: self.q.lookback,
            };
            // Prometheus replaces a subquery by a selector without a place.
            let mut run = RangeRun::new(self, call, frame, PosRange::default(), &scalars, false, false);
            let names_differ =
                inputs.windows(2).any(|p| p[0].series.labels.metric_name() != p[1].series.labels.metric_name());
            run.check_duplicates = names_differ || inputs.iter().any(|i| has_type_or_unit(&i.series.labels));
            return inputs.into_iter().zip(1..).try_for_each(|(mut input, order)| {
                input.series.order = order;
                run.series(input.series, input.drop_name, sink)
            });
        }
        let Kind::Range(r) = &arg.kind else { return Ok(()) };
        let s = &r.selector;
        let (modifier, safe) = match (s.anchored, s.smoothed) {
            (true, _) => ("anchored", ANCHORED_SAFE),
            (_, true) => ("smoothed", SMOOTHED_SAFE),
            _ => ("", &[][..]),
        };
        if !modifier.is_empty() && !safe.contains(&call.name) {
            return Err(EngineError::Execution(format!(
                "{modifier} modifier can only be used with: {} - not with {}",
                safe.join(", "),
                call.name
            )));
        }
        let starts = self.q.options.start_timestamps && matches!(call.name, "rate" | "irate" | "increase" | "resets");
        let mut run = RangeRun::new(self, call, self.frame(r, grid), arg.pos, &scalars, starts, true);
        if s.some_labels {
            run.check_duplicates = false;
            run.known_labels = Some(HashMap::new());
        }
        for series in self.q.take(s.id, s.skip_buckets) {
            run.series(series?, false, sink)?;
        }
        Ok(())
    }
}

fn has_type_or_unit(labels: &Labels) -> bool {
    labels.iter().any(|(n, _)| n != METRIC_NAME && is_metadata(n))
}

struct RangeRun<'a, 'q> {
    ev: &'a Evaluator<'q>,
    name: &'static str,
    frame: Frame,
    /// Of the first argument.
    first_pos: PosRange,
    scalars: &'a [Scalar],
    /// Whether start timestamps count.
    starts: bool,
    /// Whether what is looked at was read from the store (rather than made by a subquery).
    from_store: bool,
    rate: Option<RateKind>,
    drops_name: bool,
    shared: Cache<Shared>,
    check_duplicates: bool,
    seen: HashSet<Labels>,
    /// While all series come from the store and lost the same metric's name and nothing else, no two can be the same:
    /// the labels that the first came with, and what all of them became.
    alike: Option<(Labels, Vec<Labels>)>,
    /// What dropping the metric's name makes of label sets, where few come many times.
    known_labels: Option<HashMap<Labels, Labels>>,
    scratch: Vec<f64>,
    /// A used buffer for results.
    spare: Vec<f64>,
    count: usize,
}

impl<'a, 'q> RangeRun<'a, 'q> {
    fn new(
        ev: &'a Evaluator<'q>,
        call: &Call,
        frame: Frame,
        pos: PosRange,
        scalars: &'a [Scalar],
        starts: bool,
        from_store: bool,
    ) -> RangeRun<'a, 'q> {
        RangeRun {
            ev,
            name: call.name,
            frame,
            first_pos: match call.args.first().map(|a| (&a.kind, a.pos)) {
                Some((Kind::Range(_) | Kind::Subquery(_), _)) | None => pos,
                Some((_, first)) => first,
            },
            scalars,
            starts,
            from_store,
            rate: RateKind::of(call.name),
            drops_name: !matches!(call.name, "last_over_time" | "first_over_time"),
            shared: Cache::new(),
            check_duplicates: true,
            seen: HashSet::new(),
            alike: from_store.then(|| (Labels::empty(), Vec::new())),
            known_labels: None,
            scratch: Vec::new(),
            spare: Vec::new(),
            count: 0,
        }
    }

    fn series(
        &mut self,
        mut input: narthex_storage::Series,
        input_drops: bool,
        sink: Sink<'_>,
    ) -> Result<(), EngineError> {
        self.count += 1;
        self.ev.q.check_sometimes(self.count)?;
        let stale = match &input.floats.values {
            Values::Dense(values) => any_stale(values),
            Values::Constant(_) => false,
        };
        if stale || !input.histograms.values.is_empty() {
            without_stale(&mut input);
        }
        let (frame, name) = (self.frame, self.name);
        let shared = self.shared.get(&input.floats.timestamps, |t| Shared::new(t, &frame, name));
        let drop = self.drops_name || input_drops;
        let delayed = self.ev.q.options.delayed_name_removal;
        let labels = match &mut self.known_labels {
            _ if !drop || delayed => input.labels.clone(),
            None => drop_metadata(&input.labels),
            Some(known) => match known.get(&input.labels) {
                Some(labels) => labels.clone(),
                None => {
                    let labels = drop_metadata(&input.labels);
                    known.insert(input.labels.clone(), labels.clone());
                    labels
                }
            },
        };
        let mut out = Series::new(labels, frame.grid.steps);
        out.drop_name = drop;
        out.order = input.order;
        let simple = input.histograms.values.is_empty()
            && !frame.extended()
            && !(self.starts && input.floats.start_timestamps.is_some());
        if !simple || !self.kernel(&input, &shared, &mut out)? {
            self.plain(&input, &shared, &mut out)?;
        }
        self.count_samples(&input, &shared);
        if out.is_empty() {
            return Ok(());
        }
        self.ev.q.momentarily(shared.largest + out.weight())?;
        self.maybe_not_a_counter(&input.labels, &out);
        // Of `absent_over_time` only the times count.
        let check = self.check_duplicates && self.name != "absent_over_time";
        if !delayed && check && self.is_duplicate(&input.labels, &out.labels) {
            return Err(EngineError::duplicate_labels());
        }
        sink(&mut out)?;
        self.spare = std::mem::take(&mut out.floats.values);
        Ok(())
    }

    /// Whether some series before became `out`, as `input` does.
    fn is_duplicate(&mut self, input: &Labels, out: &Labels) -> bool {
        if let Some((first, all)) = &mut self.alike {
            if all.is_empty() {
                first.clone_from(input);
            }
            let name = input.metric_name();
            // A name takes its text, that of `__name__` and their lengths, of a byte each up to this.
            let lost = if name.is_empty() { 0 } else { METRIC_NAME.len() + name.len() + 2 };
            let only_name = input.text().len() == out.text().len() + lost || input.text().len() == out.text().len();
            if name.len() < 100 && only_name && name == first.metric_name() {
                all.push(out.clone());
                return false;
            }
            self.seen.extend(all.drain(..));
            self.alike = None;
        }
        !self.seen.insert(out.clone())
    }

    fn count_samples(&self, input: &narthex_storage::Series, shared: &Shared) {
        let mut stats = self.ev.q.stats.borrow_mut();
        stats.total += shared.total;
        if self.from_store {
            stats.read += shared.fresh;
        }
        let per_step = !stats.total_per_step.is_empty();
        if per_step {
            let w = &shared.windows;
            for i in 0..w.lo.len() {
                let seen = if i == 0 { w.lo[0] } else { w.hi[i - 1].max(w.lo[i]) };
                let read = if self.from_store { u64::from(w.hi[i] - seen) } else { 0 };
                stats.add_at(i, u64::from(w.hi[i] - w.lo[i]), read);
            }
        }
        if input.histograms.values.is_empty() {
            return;
        }
        let w = self.frame.windows(&input.histograms.timestamps);
        let weight = |lo: u32, hi: u32| {
            input.histograms.values[lo as usize..hi.max(lo) as usize].iter().map(|h| h.weight() as u64).sum::<u64>()
        };
        for i in 0..w.lo.len() {
            let seen = if i == 0 { w.lo[0] } else { w.hi[i - 1].max(w.lo[i]) };
            let (all, new) = (weight(w.lo[i], w.hi[i]), weight(seen, w.hi[i]));
            let read = if self.from_store { new } else { 0 };
            stats.total += all;
            stats.read += read;
            if per_step {
                stats.add_at(i, all, read);
            }
        }
    }

    fn maybe_not_a_counter(&self, labels: &Labels, out: &Series) {
        if !matches!(self.name, "rate" | "increase") || out.floats.present.is_empty() {
            return;
        }
        let name = labels.metric_name();
        if name.is_empty() {
            return;
        }
        if self.ev.q.options.type_and_unit_labels {
            let label = labels.value(TYPE_LABEL);
            if label != "counter" && label != "histogram" {
                self.ev.annotate(Annotation::possible_non_counter_label(name, label, self.first_pos));
            }
        } else if !["_total", "_sum", "_count", "_bucket"].iter().any(|suffix| name.ends_with(suffix)) {
            self.ev.annotate(Annotation::possible_non_counter(name, self.first_pos));
        }
    }

    /// Floats only: a loop over slices. False where there is none for the function.
    fn kernel(
        &mut self,
        input: &narthex_storage::Series,
        shared: &Rc<Shared>,
        out: &mut Series,
    ) -> Result<bool, EngineError> {
        let steps = self.frame.grid.steps;
        if input.floats.is_empty() {
            return Ok(true);
        }
        let windows = &shared.windows;
        if let (Some(plan), Values::Constant(v)) = (&shared.rate, &input.floats.values) {
            out.floats = plan.constant(*v, std::mem::take(&mut self.spare));
            return Ok(true);
        }
        let constant;
        let values: &[f64] = match &input.floats.values {
            Values::Dense(values) => values,
            Values::Constant(v) => {
                constant = vec![*v; input.floats.len()];
                &constant
            }
        };
        if let Some(plan) = &shared.rate {
            out.floats = plan.apply(windows, values, std::mem::take(&mut self.spare));
            return Ok(true);
        }
        let times = &*input.floats.timestamps;
        let mut floats = Floats::in_buffer(std::mem::take(&mut self.spare), steps);
        match self.name {
            "sum_over_time" => scan::sum_or_avg(windows, values, false, &mut floats),
            "avg_over_time" => scan::sum_or_avg(windows, values, true, &mut floats),
            "min_over_time" | "max_over_time" => {
                let max = self.name == "max_over_time";
                scan::extremes(&windows.lo, &windows.hi, values, max, &mut floats.values);
                let seen = windows.lo.iter().zip(&windows.hi).enumerate().filter(|(_, (lo, hi))| lo < hi);
                seen.for_each(|(step, _)| floats.present.set(step));
            }
            "count_over_time" => each(windows, values, &mut floats, |w| w.len() as f64),
            "last_over_time" => each(windows, values, &mut floats, |w| w[w.len() - 1]),
            "first_over_time" => each(windows, values, &mut floats, |w| w[0]),
            "present_over_time" | "absent_over_time" => each(windows, values, &mut floats, |_| 1.0),
            "stdvar_over_time" => each(windows, values, &mut floats, over_time::variance_floats),
            "stddev_over_time" => each(windows, values, &mut floats, |w| over_time::variance_floats(w).sqrt()),
            "mad_over_time" => {
                let scratch = &mut self.scratch;
                each(windows, values, &mut floats, |w| over_time::mad(w, scratch));
            }
            "changes" => each(windows, values, &mut floats, |w| {
                w.windows(2).filter(|p| p[0] != p[1] && !(p[0].is_nan() && p[1].is_nan())).count() as f64
            }),
            "resets" => {
                each(windows, values, &mut floats, |w| w.windows(2).filter(|p| p[1] < p[0]).count() as f64);
            }
            "irate" | "idelta" => {
                let is_rate = self.name == "irate";
                for step in 0..steps {
                    let (lo, hi) = (windows.lo[step] as usize, windows.hi[step] as usize);
                    if hi < lo + 2 {
                        continue;
                    }
                    let (a, b) = (values[hi - 2], values[hi - 1]);
                    let delta = if is_rate && b < a { b } else { b - a };
                    let seconds = (times[hi - 1] - times[hi - 2]) as f64 / 1000.0;
                    floats.values[step] = if is_rate { delta / seconds } else { delta };
                    floats.present.set(step);
                }
            }
            "predict_linear" | "deriv" => {
                let Some(plan) = &shared.regression else {
                    self.spare = floats.values;
                    return Ok(false);
                };
                let seconds = self.scalars.first();
                plan.apply(windows, values, |step, slope, intercept| {
                    let value = match seconds {
                        Some(seconds) => slope * seconds.at(step) + intercept,
                        None => slope,
                    };
                    floats.values[step] = value;
                    floats.present.set(step);
                });
            }
            _ => {
                self.spare = floats.values;
                return Ok(false);
            }
        }
        out.floats = floats;
        Ok(true)
    }

    /// The plain way, window by window.
    fn plain(
        &mut self,
        input: &narthex_storage::Series,
        shared: &Rc<Shared>,
        out: &mut Series,
    ) -> Result<(), EngineError> {
        let floats = &shared.windows;
        let histograms = self.frame.windows(&input.histograms.timestamps);
        let constant;
        let values: &[f64] = match &input.floats.values {
            Values::Dense(values) => values,
            Values::Constant(v) => {
                constant = vec![*v; input.floats.len()];
                &constant
            }
        };
        let starts: &[i64] = match &input.floats.start_timestamps {
            Some(s) if self.starts => s,
            _ => &[],
        };
        let hstarts: &[i64] = if self.starts { &input.histograms.start_timestamps } else { &[] };
        let cut =
            |s: &'_ [i64], lo: usize, hi: usize| -> std::ops::Range<usize> { if s.is_empty() { 0..0 } else { lo..hi } };
        for step in 0..self.frame.grid.steps {
            if step % 256 == 255 {
                self.ev.q.check()?;
            }
            let (lo, hi) = (floats.lo[step] as usize, floats.hi[step] as usize);
            let (hlo, hhi) = (histograms.lo[step] as usize, histograms.hi[step] as usize);
            if lo == hi && hlo == hhi {
                continue;
            }
            let end = self.frame.at.time(&self.frame.grid, step);
            let w = Window {
                t: &input.floats.timestamps[lo..hi],
                f: &values[lo..hi],
                starts: &starts[cut(starts, lo, hi)],
                ht: &input.histograms.timestamps[hlo..hhi],
                h: &input.histograms.values[hlo..hhi],
                hstarts: &hstarts[cut(hstarts, hlo, hhi)],
                now: self.frame.grid.time(step),
                range_start: end.saturating_sub(self.frame.range),
                range_end: end,
                anchored: self.frame.anchored,
                smoothed: self.frame.smoothed,
            };
            if let Some(point) = self.window(input.labels.metric_name(), &w, step)? {
                out.set(step, point);
            }
        }
        Ok(())
    }

    fn window(&mut self, metric: &str, w: &Window<'_>, step: usize) -> Result<Option<Point>, EngineError> {
        let cx = RangeContext {
            query: self.ev.q,
            // Annotations point at the first argument.
            pos: self.first_pos,
            metric,
            range_seconds: self.frame.range_seconds,
        };
        if let Some(kind) = self.rate {
            return Ok(rate::extrapolated(&cx, w, kind));
        }
        let arg = |i: usize| self.scalars.get(i).map_or(f64::NAN, |s| s.at(step));
        let float = match self.name {
            "irate" => return Ok(rate::instant(&cx, w, true)),
            "idelta" => return Ok(rate::instant(&cx, w, false)),
            "sum_over_time" => return Ok(over_time::sum_or_avg(&cx, w, false)),
            "avg_over_time" => return Ok(over_time::sum_or_avg(&cx, w, true)),
            "first_over_time" => return Ok(over_time::first(w)),
            "last_over_time" => return Ok(over_time::last(w)),
            "resets" => rate::resets(w),
            "changes" => rate::changes(w),
            "count_over_time" => Some((w.f.len() + w.h.len()) as f64),
            "present_over_time" | "absent_over_time" => Some(1.0),
            "max_over_time" => over_time::of_floats(&cx, w, over_time::max_floats),
            "min_over_time" => over_time::of_floats(&cx, w, over_time::min_floats),
            "stdvar_over_time" => over_time::of_floats(&cx, w, over_time::variance_floats),
            "stddev_over_time" => over_time::of_floats(&cx, w, |v| over_time::variance_floats(v).sqrt()),
            "mad_over_time" => over_time::of_floats(&cx, w, |v| over_time::mad(v, &mut self.scratch)),
            "quantile_over_time" => {
                let q = arg(0);
                if !w.f.is_empty() && !(0.0..=1.0).contains(&q) {
                    cx.annotate(Annotation::invalid_quantile(q, self.first_pos));
                }
                over_time::of_floats(&cx, w, |v| {
                    self.scratch.clear();
                    self.scratch.extend_from_slice(v);
                    over_time::quantile(q, &mut self.scratch)
                })
            }
            "ts_of_first_over_time" => over_time::time_of_first(w),
            "ts_of_last_over_time" => over_time::time_of_last(w),
            "ts_of_max_over_time" => over_time::time_of_extreme(&cx, w, true),
            "ts_of_min_over_time" => over_time::time_of_extreme(&cx, w, false),
            "deriv" => trend::deriv(&cx, w),
            "predict_linear" => trend::predict_linear(&cx, w, arg(0)),
            "double_exponential_smoothing" => {
                trend::double_exponential_smoothing(&cx, w, arg(0), arg(1)).map_err(EngineError::Execution)?
            }
            other => return Err(EngineError::Execution(format!("unexpected range function {other}"))),
        };
        Ok(float.map(Point::Float))
    }
}

/// `f` of each window that has samples.
#[inline(always)]
fn each(windows: &Windows, values: &[f64], out: &mut Floats, mut f: impl FnMut(&[f64]) -> f64) {
    for (step, (lo, hi)) in windows.lo.iter().zip(&windows.hi).enumerate() {
        if lo < hi {
            out.values[step] = f(&values[*lo as usize..*hi as usize]);
            out.present.set(step);
        }
    }
}
