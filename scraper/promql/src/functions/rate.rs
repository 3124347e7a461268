//! `rate`, `increase`, `delta`, `irate`, `idelta`, `resets`, `changes`, plain and over anchored or smoothed ranges.

use std::sync::Arc;

use narthex_model::{CounterResetHint, Histogram};

use super::{RangeContext, Window};
use crate::annotations::{Annotation, HistogramOperation};
use crate::engine::columns::Floats;
use crate::engine::scan::any_fall;
use crate::engine::windows::Windows;
use crate::value::Point;

/// Which of `rate`, `increase` and `delta`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateKind {
    pub counter: bool,
    pub per_second: bool,
}

impl RateKind {
    pub(crate) fn of(name: &str) -> Option<RateKind> {
        Some(match name {
            "rate" => RateKind { counter: true, per_second: true },
            "increase" => RateKind { counter: true, per_second: false },
            "delta" => RateKind { counter: false, per_second: false },
            _ => return None,
        })
    }
}

/// The increase over a window, extrapolated to its ends.
pub(crate) fn extrapolated(cx: &RangeContext<'_>, w: &Window<'_>, kind: RateKind) -> Option<Point> {
    if w.is_mixed() {
        cx.mixed();
        return None;
    }
    if w.anchored || w.smoothed {
        if !w.h.is_empty() {
            return extended_histogram(cx, w, kind);
        }
        return if w.f.is_empty() { None } else { extended(cx, w, kind).map(Point::Float) };
    }
    let (times, starts) = if w.h.is_empty() { (w.t, w.starts) } else { (w.ht, w.hstarts) };
    let gaps = times.len().checked_sub(1)?;
    let (first, last) = (times[0], times[gaps]);
    let mut histogram = None;
    let mut increase = 0.0;
    if !w.h.is_empty() {
        if w.h.len() > 1 {
            histogram = Some(histogram_increase(cx, w, kind.counter)?);
        }
    } else {
        increase = w.f[gaps] - w.f[0];
        if kind.counter {
            let mut overlap = false;
            for i in 1..w.f.len() {
                let known = i < starts.len();
                if known && !overlap && starts_overlap(starts[i - 1], w.t[i - 1], starts[i]) {
                    cx.annotate(Annotation::start_time_overlap(cx.metric, cx.pos));
                    overlap = true;
                }
                if w.f[i] < w.f[i - 1] || (known && start_reset(starts[i - 1], w.t[i - 1], starts[i], w.t[i])) {
                    increase += w.f[i - 1];
                }
            }
        }
    }

    let mut to_start = (first - w.range_start) as f64 / 1000.0;
    let mut to_end = (w.range_end - last) as f64 / 1000.0;
    let mut sampled = (last - first) as f64 / 1000.0;
    let average = if gaps > 0 { sampled / gaps as f64 } else { 0.0 };
    let threshold = average * 1.1;

    let start = if kind.counter { starts.first().copied().unwrap_or(0) } else { 0 };
    if start != 0 && start > w.range_start && start < first {
        // The counter is known to have been zero then.
        to_start = 0.0;
        sampled = (last - start) as f64 / 1000.0;
        if w.h.is_empty() {
            increase += w.f[0];
        } else {
            match &mut histogram {
                None => histogram = Some((*w.h[0]).clone()),
                Some(h) => {
                    if !cx.add(h, &w.h[0]) {
                        return None;
                    }
                }
            }
        }
    } else if gaps == 0 {
        return None;
    } else {
        if to_start >= threshold {
            to_start = average / 2.0;
        }
        if kind.counter {
            // A counter is not extrapolated below zero.
            let mut to_zero = to_start;
            if increase > 0.0 && w.h.is_empty() && w.f[0] >= 0.0 {
                to_zero = sampled * (w.f[0] / increase);
            } else if let Some(h) = &histogram
                && h.count > 0.0
                && w.h[0].count >= 0.0
            {
                to_zero = sampled * (w.h[0].count / h.count);
            }
            if to_zero < to_start {
                to_start = to_zero;
            }
        }
    }
    if to_end >= threshold {
        to_end = average / 2.0;
    }
    let mut factor = if sampled != 0.0 { (sampled + to_start + to_end) / sampled } else { 1.0 };
    if kind.per_second {
        factor /= cx.range_seconds;
    }
    Some(match histogram {
        None => Point::Float(increase * factor),
        Some(mut h) => {
            h.mul(factor);
            Point::Histogram(Arc::new(h))
        }
    })
}

/// The increase between the first and the last histogram, counter resets added up.
fn histogram_increase(cx: &RangeContext<'_>, w: &Window<'_>, counter: bool) -> Option<Histogram> {
    use CounterResetHint::Gauge;
    let (h, starts) = (w.h, w.hstarts);
    let last = &h[h.len() - 1];
    let reset_by_start = |i: usize| i < starts.len() && start_reset(starts[i - 1], w.ht[i - 1], starts[i], w.ht[i]);
    let mut prev: Arc<Histogram> = h[0].clone();
    if counter && (prev.counter_reset_hint == Gauge || last.counter_reset_hint == Gauge) {
        cx.annotate(Annotation::not_a_counter(cx.metric, cx.pos));
    }
    if counter && (reset_by_start(1) || h[1].detect_reset(&prev)) {
        // The first sample does not count then, whatever its layout.
        prev = Arc::new(Histogram {
            schema: h[1].schema,
            custom_values: h[1].custom_values.clone(),
            ..Histogram::default()
        });
    }
    let custom = prev.uses_custom_buckets();
    if last.uses_custom_buckets() != custom {
        cx.mixed_schemas();
        return None;
    }
    let mut schema = last.schema.min(prev.schema);
    if counter {
        for current in &h[1..h.len() - 1] {
            if current.counter_reset_hint == Gauge {
                cx.annotate(Annotation::not_a_counter(cx.metric, cx.pos));
            }
            schema = schema.min(current.schema);
            if current.uses_custom_buckets() != custom {
                cx.mixed_schemas();
                return None;
            }
        }
    }
    let mut out = (**last).clone();
    if schema < out.schema {
        out.reduce_resolution(schema);
    }
    if !cx.sub(&mut out, &prev) {
        return None;
    }
    if counter {
        let mut overlap = false;
        for i in 1..h.len() {
            if !overlap && i < starts.len() && starts_overlap(starts[i - 1], w.ht[i - 1], starts[i]) {
                cx.annotate(Annotation::start_time_overlap(cx.metric, cx.pos));
                overlap = true;
            }
            if (reset_by_start(i) || h[i].detect_reset(&prev)) && !cx.add(&mut out, &prev) {
                return None;
            }
            prev = h[i].clone();
        }
    } else if h[0].counter_reset_hint != Gauge || last.counter_reset_hint != Gauge {
        cx.annotate(Annotation::not_a_gauge(cx.metric, cx.pos));
    }
    out.counter_reset_hint = Gauge;
    out.compact();
    Some(out)
}

/// Whether start timestamps tell of a counter reset between two samples. A start that lies on the previous sample is
/// one only if that sample's own start is known (deltas), else it means that the start is unknown.
pub(crate) fn start_reset(prev_start: i64, prev: i64, start: i64, now: i64) -> bool {
    if start == 0 || start >= now || start < prev {
        return false;
    }
    start > prev || (prev_start <= prev && prev_start != 0 && prev_start != prev)
}

fn starts_overlap(prev_start: i64, prev: i64, start: i64) -> bool {
    start != 0 && start < prev && start != prev_start
}

fn interpolate(a: (i64, f64), b: (i64, f64), t: i64, counter: bool) -> f64 {
    let y1 = if counter && b.1 < a.1 { 0.0 } else { a.1 };
    y1 + (b.1 - y1) * (t - a.0) as f64 / (b.0 - a.0) as f64
}

/// The value of a smoothed instant selector between two samples.
pub(crate) fn interpolate_gauge(a: (i64, f64), b: (i64, f64), t: i64) -> f64 {
    interpolate(a, b, t, false)
}

/// A histogram between two others.
pub(crate) fn interpolate_histograms(
    cx: &RangeContext<'_>,
    a: (i64, &Histogram),
    b: (i64, &Histogram),
    t: i64,
    counter: bool,
) -> Option<Histogram> {
    if t == a.0 {
        return Some(a.1.clone());
    }
    if t == b.0 {
        return Some(b.1.clone());
    }
    let fraction = (t - a.0) as f64 / (b.0 - a.0) as f64;
    let mut out = b.1.clone();
    if counter && b.1.detect_reset(a.1) {
        out.mul(fraction);
        return Some(out);
    }
    if !cx.sub(&mut out, a.1) {
        return None;
    }
    out.mul(fraction);
    cx.add(&mut out, a.1).then_some(out)
}

/// The samples that an anchored or smoothed range spans: the one before its start (if there is one) to its end.
fn span(times: &[i64], w: &Window<'_>) -> Option<(usize, usize)> {
    let mut last = times.len() - 1;
    let first = times[..last].partition_point(|t| *t <= w.range_start).saturating_sub(1);
    if w.smoothed {
        last = times[..last].partition_point(|t| *t < w.range_end);
    }
    if times[last] <= w.range_start || (w.smoothed && times[first] > w.range_end) {
        return None;
    }
    Some((first, last))
}

fn edges(t: &[i64], f: &[f64], w: &Window<'_>, first: usize, last: usize, counter: bool) -> (f64, f64) {
    let at = |i: usize| (t[i], f[i]);
    let left = if w.smoothed && t[first] < w.range_start {
        interpolate(at(first), at(first + 1), w.range_start, counter)
    } else {
        f[first]
    };
    let right = if w.smoothed && last > 0 && t[last] > w.range_end {
        interpolate(at(last - 1), at(last), w.range_end, counter)
    } else {
        f[last]
    };
    (left, right)
}

fn extended(cx: &RangeContext<'_>, w: &Window<'_>, kind: RateKind) -> Option<f64> {
    let (mut first, last) = span(w.t, w)?;
    let (left, right) = edges(w.t, w.f, w, first, last, kind.counter);
    let mut out = right - left;
    if kind.counter {
        // The edges have seen to resets outside the range.
        let mut end = last + 1;
        if w.t[first] <= w.range_start {
            first += 1;
        }
        if w.t[last] >= w.range_end {
            end -= 1;
        }
        let mut correction = 0.0;
        let mut prev = left;
        for v in w.f.get(first..end).unwrap_or_default() {
            if *v < prev {
                correction += prev;
            }
            prev = *v;
        }
        if right < prev {
            correction += prev;
        }
        out += correction;
    }
    if kind.per_second {
        out /= cx.range_seconds;
    }
    Some(out)
}

fn extended_histogram(cx: &RangeContext<'_>, w: &Window<'_>, kind: RateKind) -> Option<Point> {
    use CounterResetHint::Gauge;
    let (h, t) = (w.h, w.ht);
    let (first, last) = span(t, w)?;
    let custom = h[first].uses_custom_buckets();
    for p in &h[first..=last] {
        if p.uses_custom_buckets() != custom {
            cx.mixed_schemas();
            return None;
        }
        if kind.counter && p.counter_reset_hint == Gauge {
            cx.annotate(Annotation::not_a_counter(cx.metric, cx.pos));
        }
    }
    let at = |i: usize| (t[i], &*h[i]);
    let left = if w.smoothed && t[first] < w.range_start {
        interpolate_histograms(cx, at(first), at(first + 1), w.range_start, kind.counter)?
    } else {
        (*h[first]).clone()
    };
    let right = if w.smoothed && last > 0 && t[last] > w.range_end {
        interpolate_histograms(cx, at(last - 1), at(last), w.range_end, kind.counter)?
    } else {
        (*h[last]).clone()
    };
    if !kind.counter && (left.counter_reset_hint != Gauge || right.counter_reset_hint != Gauge) {
        cx.annotate(Annotation::not_a_gauge(cx.metric, cx.pos));
    }
    let mut out = right.clone();
    if !cx.sub(&mut out, &left) {
        return None;
    }
    if kind.counter {
        // `left` stands for the first sample and `right` for the last.
        let mut from = first + 1;
        let mut prev: &Histogram = &left;
        if w.smoothed && t[first] < w.range_start && h[first + 1].detect_reset(&h[first]) {
            // The interpolation at the left edge has seen to this reset.
            prev = &h[first + 1];
            from += 1;
        }
        let mut correction: Option<Histogram> = None;
        let mut add = |h: &Histogram| match &mut correction {
            None => {
                correction = Some(h.clone());
                true
            }
            Some(c) => cx.add(c, h),
        };
        if from <= last {
            for p in &h[from..last] {
                if p.detect_reset(prev) && !add(prev) {
                    return None;
                }
                prev = p;
            }
            if right.detect_reset(prev) && !add(prev) {
                return None;
            }
        }
        if let Some(c) = correction
            && !cx.add(&mut out, &c)
        {
            return None;
        }
    }
    if kind.per_second {
        out.div(cx.range_seconds);
    }
    out.counter_reset_hint = Gauge;
    out.compact();
    Some(Point::Histogram(Arc::new(out)))
}

/// The samples of an anchored or smoothed range itself, its edges filled in.
pub(crate) fn extend(t: &[i64], f: &[f64], start: i64, end: i64, smoothed: bool) -> (Vec<i64>, Vec<f64>) {
    let Some(mut last) = t.len().checked_sub(1) else { return (Vec::new(), Vec::new()) };
    let mut first = t[..last].partition_point(|x| *x <= start).saturating_sub(1);
    if smoothed {
        last = t[..last].partition_point(|x| *x < end);
    }
    if t[last] <= start {
        return (Vec::new(), Vec::new());
    }
    let w = Window {
        t,
        f,
        starts: &[],
        ht: &[],
        h: &[],
        hstarts: &[],
        now: end,
        range_start: start,
        range_end: end,
        anchored: !smoothed,
        smoothed,
    };
    let (left, right) = edges(t, f, &w, first, last, false);
    if t[first] <= start {
        first += 1;
    }
    let stop = if t[last] >= end { last } else { last + 1 };
    let (mut times, mut values) = (vec![start], vec![left]);
    times.extend_from_slice(t.get(first..stop).unwrap_or_default());
    values.extend_from_slice(f.get(first..stop).unwrap_or_default());
    times.push(end);
    values.push(right);
    (times, values)
}

/// `irate` and `idelta`: from the last two samples.
pub(crate) fn instant(cx: &RangeContext<'_>, w: &Window<'_>, is_rate: bool) -> Option<Point> {
    use CounterResetHint::Gauge;
    if w.t.len() + w.ht.len() < 2 {
        return None;
    }
    #[derive(Clone)]
    struct Last {
        t: i64,
        start: i64,
        point: Point,
    }
    let start = |starts: &[i64], i: usize| starts.get(i).copied().unwrap_or(0);
    let floats = (w.t.len().saturating_sub(2)..w.t.len()).map(|i| Last {
        t: w.t[i],
        start: start(w.starts, i),
        point: Point::Float(w.f[i]),
    });
    let histograms = (w.ht.len().saturating_sub(2)..w.ht.len()).map(|i| Last {
        t: w.ht[i],
        start: start(w.hstarts, i),
        point: Point::Histogram(w.h[i].clone()),
    });
    let mut all: Vec<Last> = floats.chain(histograms).collect();
    all.sort_by_key(|s| s.t);
    let [.., a, b] = all.as_slice() else { return None };
    let interval = b.t - a.t;
    if interval == 0 {
        return None;
    }
    let seconds = interval as f64 / 1000.0;
    let by_start = start_reset(a.start, a.t, b.start, b.t);
    match (&a.point, &b.point) {
        (Point::Float(x), Point::Float(y)) => {
            let value = if is_rate && (y < x || by_start) { *y } else { y - x };
            Some(Point::Float(if is_rate { value / seconds } else { value }))
        }
        (Point::Histogram(x), Point::Histogram(y)) => {
            let gauges = [x.counter_reset_hint == Gauge, y.counter_reset_hint == Gauge];
            if is_rate && gauges.contains(&true) {
                cx.annotate(Annotation::not_a_counter(cx.metric, cx.pos));
            }
            if !is_rate && gauges.contains(&false) {
                cx.annotate(Annotation::not_a_gauge(cx.metric, cx.pos));
            }
            let mut out = (**y).clone();
            if !is_rate || !(by_start || y.detect_reset(x)) {
                match out.sub(x) {
                    Err(_) => {
                        cx.mixed_schemas();
                        return None;
                    }
                    Ok(outcome) if outcome.bounds_reconciled => {
                        cx.annotate(Annotation::bounds_reconciled(HistogramOperation::Sub, cx.pos));
                    }
                    Ok(_) => {}
                }
            }
            out.counter_reset_hint = Gauge;
            out.compact();
            if is_rate {
                out.div(seconds);
            }
            Some(Point::Histogram(Arc::new(out)))
        }
        _ => {
            cx.mixed();
            None
        }
    }
}

/// Where counting starts in an anchored range: at the last sample at or before its start, of either kind. None where
/// no sample follows.
fn anchor(w: &Window<'_>) -> Option<(usize, usize)> {
    if !w.anchored {
        return Some((0, 0));
    }
    let floats = w.t.partition_point(|t| *t <= w.range_start);
    let histograms = w.ht.partition_point(|t| *t <= w.range_start);
    if floats == w.t.len() && histograms == w.ht.len() {
        return None;
    }
    Some(match (floats, histograms) {
        (0, 0) => (0, 0),
        (f, h) if h == 0 || (f > 0 && w.t[f - 1] >= w.ht[h - 1]) => (f - 1, h),
        (f, h) => (f, h - 1),
    })
}

#[derive(Clone, Copy)]
enum Ref<'a> {
    Float(f64),
    Histogram(&'a Histogram),
}

/// Calls `each(previous, current)` with `(time, start, sample)` for neighbours in time. False where there is nothing
/// to count.
fn neighbours<'a>(w: &Window<'a>, mut each: impl FnMut((i64, i64, Ref<'a>), (i64, i64, Ref<'a>))) -> bool {
    let Some((mut i, mut j)) = anchor(w) else { return false };
    let start = |starts: &[i64], i: usize| starts.get(i).copied().unwrap_or(0);
    let mut prev = None;
    while i < w.t.len() || j < w.ht.len() {
        let current = if j >= w.ht.len() || (i < w.t.len() && w.t[i] < w.ht[j]) {
            i += 1;
            (w.t[i - 1], start(w.starts, i - 1), Ref::Float(w.f[i - 1]))
        } else {
            j += 1;
            (w.ht[j - 1], start(w.hstarts, j - 1), Ref::Histogram(&w.h[j - 1]))
        };
        if let Some(prev) = prev.replace(current) {
            each(prev, current);
        }
    }
    prev.is_some()
}

pub(crate) fn resets(w: &Window<'_>) -> Option<f64> {
    let mut count = 0u64;
    let any = neighbours(w, |(t0, s0, a), (t1, s1, b)| {
        let reset = match (a, b) {
            (Ref::Float(a), Ref::Float(b)) => b < a || start_reset(s0, t0, s1, t1),
            (Ref::Histogram(a), Ref::Histogram(b)) => start_reset(s0, t0, s1, t1) || b.detect_reset(a),
            _ => true,
        };
        count += u64::from(reset);
    });
    any.then_some(count as f64)
}

pub(crate) fn changes(w: &Window<'_>) -> Option<f64> {
    let mut count = 0u64;
    let any = neighbours(w, |(_, _, a), (_, _, b)| {
        let changed = match (a, b) {
            (Ref::Float(a), Ref::Float(b)) => a != b && !(a.is_nan() && b.is_nan()),
            (Ref::Histogram(a), Ref::Histogram(b)) => !b.same_data(a),
            _ => true,
        };
        count += u64::from(changed);
    });
    any.then_some(count as f64)
}

/// What `rate` needs of the timestamps alone: found once for all series that share them.
pub(crate) struct RatePlan {
    /// The result is the increase times this, unless a counter would be extrapolated below zero.
    factor: Vec<f64>,
    /// Seconds between the first and the last sample.
    sampled: Vec<f64>,
    /// Seconds of extrapolation to the left and to the right.
    to_start: Vec<f64>,
    to_end: Vec<f64>,
    /// Steps that have a value.
    valid: crate::engine::columns::Bits,
    /// Runs all of whose steps have the same of the above, as where scrapes come regularly.
    uniform: Vec<bool>,
    kind: RateKind,
    range_seconds: f64,
}

impl RatePlan {
    pub(crate) fn new(
        times: &[i64],
        windows: &Windows,
        range_end: impl Fn(usize) -> i64,
        range: i64,
        range_seconds: f64,
        kind: RateKind,
    ) -> RatePlan {
        let steps = windows.lo.len();
        let mut plan = RatePlan {
            factor: vec![0.0; steps],
            sampled: vec![0.0; steps],
            to_start: vec![0.0; steps],
            to_end: vec![0.0; steps],
            valid: crate::engine::columns::Bits::none(steps),
            uniform: Vec::new(),
            kind,
            range_seconds,
        };
        for i in 0..steps {
            let (lo, hi) = (windows.lo[i] as usize, windows.hi[i] as usize);
            if hi - lo < 2 {
                continue;
            }
            let (first, last, end) = (times[lo], times[hi - 1], range_end(i));
            let sampled = (last - first) as f64 / 1000.0;
            let average = sampled / (hi - lo - 1) as f64;
            let threshold = average * 1.1;
            let mut to_start = (first - (end - range)) as f64 / 1000.0;
            let mut to_end = (end - last) as f64 / 1000.0;
            if to_start >= threshold {
                to_start = average / 2.0;
            }
            if to_end >= threshold {
                to_end = average / 2.0;
            }
            plan.sampled[i] = sampled;
            plan.to_start[i] = to_start;
            plan.to_end[i] = to_end;
            plan.factor[i] = plan.factor_with(i, to_start);
            plan.valid.set(i);
        }
        let same = |all: &[f64]| all.iter().all(|v| v.to_bits() == all[0].to_bits());
        let uniform = windows.runs.iter().map(|run| {
            let steps = run.step as usize..(run.step + run.len) as usize;
            [&plan.factor, &plan.sampled, &plan.to_start].into_iter().all(|all| same(&all[steps.clone()]))
        });
        plan.uniform = uniform.collect();
        plan
    }

    fn factor_with(&self, i: usize, to_start: f64) -> f64 {
        let sampled = self.sampled[i];
        let factor = if sampled != 0.0 { (sampled + to_start + self.to_end[i]) / sampled } else { 1.0 };
        if self.kind.per_second { factor / self.range_seconds } else { factor }
    }

    /// The results for one series without histograms, staleness markers and start timestamps: to the bit what
    /// [`extrapolated`] gives.
    pub(crate) fn apply(&self, windows: &Windows, values: &[f64], mut out: Vec<f64>) -> Floats {
        let steps = windows.lo.len();
        // What stands at a step without a value means nothing: it may be what was in the buffer.
        out.resize(steps, 0.0);
        let counter = self.kind.counter;
        // Resets anywhere send the whole series to the slow way.
        let (from, to) = match (windows.lo.first(), windows.hi.last()) {
            (Some(lo), Some(hi)) => (*lo as usize, (*hi as usize).max(*lo as usize)),
            _ => (0, 0),
        };
        let falls = counter && any_fall(&values[from..to]);
        if falls {
            for i in self.valid.iter() {
                let w = &values[windows.lo[i] as usize..windows.hi[i] as usize];
                let mut increase = w[w.len() - 1] - w[0];
                for pair in w.windows(2) {
                    if pair[1] < pair[0] {
                        increase += pair[0];
                    }
                }
                out[i] = self.finish(i, w[0], increase);
            }
            return Floats { values: out, present: self.valid.clone() };
        }
        let mut doubtful = false;
        for (run, uniform) in windows.runs.iter().zip(&self.uniform) {
            let (s, n, stride) = (run.step as usize, run.len as usize, run.stride as usize);
            let (lo, hi) = (windows.lo[s] as usize, windows.hi[s] as usize);
            if hi - lo < 2 {
                continue;
            }
            let reach = (n - 1) * stride + 1;
            let (a, b) = (&values[lo..lo + reach], &values[hi - 1..hi - 1 + reach]);
            let span = Span {
                factor: &self.factor[s..s + n],
                sampled: &self.sampled[s..s + n],
                to_start: &self.to_start[s..s + n],
                counter,
            };
            let out = &mut out[s..s + n];
            doubtful |= match stride {
                1 if *uniform => consecutive_alike(&span, a, b, out),
                1 => consecutive(&span, a, b, out),
                _ => any_stride(&span, stride, a, b, out),
            };
        }
        if counter && doubtful {
            for i in self.valid.iter() {
                let (a, b) = (values[windows.lo[i] as usize], values[windows.hi[i] as usize - 1]);
                out[i] = self.finish(i, a, b - a);
            }
        }
        Floats { values: out, present: self.valid.clone() }
    }

    fn finish(&self, i: usize, first: f64, increase: f64) -> f64 {
        if self.kind.counter && increase > 0.0 && first >= 0.0 {
            let to_zero = self.sampled[i] * (first / increase);
            if to_zero < self.to_start[i] {
                return increase * self.factor_with(i, to_zero);
            }
        }
        increase * self.factor[i]
    }

    /// The results for a series that never changes: no increase.
    pub(crate) fn constant(&self, value: f64, out: Vec<f64>) -> Floats {
        let mut out = out;
        out.clear();
        let steps = self.factor.len();
        if value.is_finite() {
            out.resize(steps, 0.0);
        } else {
            out.resize(steps, f64::NAN);
        }
        Floats { values: out, present: self.valid.clone() }
    }
}

/// Steps whose windows are a fixed distance apart.
struct Span<'a> {
    factor: &'a [f64],
    sampled: &'a [f64],
    to_start: &'a [f64],
    counter: bool,
}

narthex_model::wide! {
    /// The results of the steps, whose windows begin and end with the values of `first` and `last`; whether one of them
    /// may have to be cut off at zero.
    fn consecutive(span: &Span<'_>, first: &[f64], last: &[f64], out: &mut [f64]) -> bool {
        let (first, last) = (&first[..out.len()], &last[..out.len()]);
        increases(span, |i| first[i], |i| last[i], out)
    }

    /// The same where the steps have nothing of their own: a third of the memory to go through.
    fn consecutive_alike(span: &Span<'_>, first: &[f64], last: &[f64], out: &mut [f64]) -> bool {
        let n = out.len();
        let (first, last) = (&first[..n], &last[..n]);
        let (factor, sampled, to_start) = (span.factor[0], span.sampled[0], span.to_start[0]);
        let mut doubtful = false;
        for i in 0..n {
            let increase = last[i] - first[i];
            out[i] = increase * factor;
            doubtful |= sampled * first[i] <= to_start * increase * 1.000_001;
        }
        doubtful & span.counter
    }

    fn any_stride(span: &Span<'_>, stride: usize, first: &[f64], last: &[f64], out: &mut [f64]) -> bool {
        increases(span, |i| first[i * stride], |i| last[i * stride], out)
    }
}

#[inline(always)]
fn increases(span: &Span<'_>, a: impl Fn(usize) -> f64, b: impl Fn(usize) -> f64, out: &mut [f64]) -> bool {
    let n = out.len();
    let factor = &span.factor[..n];
    if !span.counter {
        for i in 0..n {
            out[i] = (b(i) - a(i)) * factor[i];
        }
        return false;
    }
    let (sampled, to_start) = (&span.sampled[..n], &span.to_start[..n]);
    let mut doubtful = false;
    for i in 0..n {
        let first = a(i);
        let increase = b(i) - first;
        out[i] = increase * factor[i];
        // Could the zero point be nearer than the start? Rounding aside, so with some room.
        doubtful |= sampled[i] * first <= to_start[i] * increase * 1.000_001;
    }
    doubtful
}
