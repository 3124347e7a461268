//! Aggregations. Series are taken one by one, as they come from below, into accumulators that hold all steps of a
//! group; `quantile`, `count_values` and the k-aggregations ([`super::topk`]) need the series together.

use hashbrown::HashMap;
use narthex_model::{CounterResetHint, Histogram, Labels, METRIC_NAME, kahan};

use super::EngineError;
use super::columns::{Bits, Floats, Series};
use super::eval::{Evaluator, Scalar};
use super::plan::{Aggregate, Kind, go_max, go_min};
use super::query::{LabelsText, put_in_order, sort_by_labels};
use super::scan;
use super::windows::Grid;
use crate::annotations::{Annotation, HistogramOperation};
use crate::ast::{AggregateOp, PosRange};
use crate::functions::over_time::{HistogramMean, quantile};

/// The parameter over all steps.
pub(crate) struct Param {
    pub scalar: Scalar,
    pub min: f64,
    pub max: f64,
    pub any_nan: bool,
}

impl Evaluator<'_> {
    pub(crate) fn aggregate(&self, a: &Aggregate, pos: PosRange, grid: Grid) -> Result<Vec<Series>, EngineError> {
        match a.op {
            AggregateOp::CountValues => self.count_values(a, grid),
            AggregateOp::Topk | AggregateOp::Bottomk | AggregateOp::Limitk | AggregateOp::LimitRatio => {
                self.k_aggregation(a, pos, grid)
            }
            AggregateOp::Quantile => self.quantile_aggregation(a, grid),
            _ => self.accumulate(a, grid),
        }
    }

    pub(crate) fn param(&self, a: &Aggregate, grid: Grid) -> Result<Param, EngineError> {
        let Some(node) = &a.param else {
            return Ok(Param { scalar: Scalar::Constant(0.0), min: 0.0, max: 0.0, any_nan: false });
        };
        let scalar = self.scalar(node, grid)?;
        if let Kind::Number(v) = node.kind {
            return Ok(Param { scalar, min: v, max: v, any_nan: v.is_nan() });
        }
        let (mut min, mut max, mut any_nan) = (f64::MAX, -f64::MAX, false);
        for v in (0..grid.steps).map(|i| scalar.at(i)) {
            (min, max) = (go_min(min, v), go_max(max, v));
            any_nan |= v.is_nan();
        }
        Ok(Param { scalar, min, max, any_nan })
    }

    fn accumulate(&self, a: &Aggregate, grid: Grid) -> Result<Vec<Series>, EngineError> {
        let mut groups = Groups::new(a, grid, self);
        let mut held = 0;
        let mut take = |groups: &mut Groups<'_, '_>, series: &Series| {
            let before = groups.all.len();
            groups.add(series);
            if groups.all.len() > before {
                // A group's accumulators weigh as much as its result.
                held += grid.steps;
                self.q.charge_bytes(grid.steps * 32)?;
                self.q.momentarily(held)?;
            }
            Ok(())
        };
        // What histograms add up to depends on their order: from the first of them on series wait for all. So do last
        // digits of deviations.
        let mut waiting: Vec<Series> = Vec::new();
        let ordered = matches!(a.op, AggregateOp::Sum | AggregateOp::Avg);
        let always = matches!(a.op, AggregateOp::Stddev | AggregateOp::Stdvar);
        self.stream(&a.expr, grid, &mut |series| {
            if always || !waiting.is_empty() || ordered && series.has_histograms() {
                self.q.keep(series)?;
                waiting.push(series.take());
                return Ok(());
            }
            take(&mut groups, series)
        })?;
        put_in_order(&mut waiting);
        for series in waiting {
            self.q.forget(std::slice::from_ref(&series));
            take(&mut groups, &series)?;
        }
        let bytes = groups.all.len() * grid.steps * 32;
        let mut out = groups.finish();
        self.q.release_bytes(bytes);
        out.retain(|s| !s.is_empty());
        // An instant query names groups in the order of their first series.
        match grid.steps {
            1 => put_in_order(&mut out),
            _ => sort_by_labels(&mut out, |s| &s.labels),
        }
        out.iter().try_for_each(|s| self.q.keep(s))?;
        Ok(out)
    }

    fn quantile_aggregation(&self, a: &Aggregate, grid: Grid) -> Result<Vec<Series>, EngineError> {
        let param = self.param(a, grid)?;
        let all = self.vector(&a.expr, grid)?;
        if let Some(node) = &a.param {
            for (bad, shown) in [(param.any_nan, f64::NAN), (param.max > 1.0, param.max), (param.min < 0.0, param.min)]
            {
                if bad {
                    self.annotate(Annotation::invalid_quantile(shown, node.pos));
                }
            }
        }
        let mut out = Vec::new();
        let mut values = Vec::new();
        for (labels, members) in group_members(&all, a) {
            let mut series = Series::new(labels, grid.steps);
            series.drop_name = members.iter().any(|i| all[*i].drop_name);
            if members.iter().any(|i| all[*i].has_histograms()) {
                self.annotate(Annotation::ignored_in_aggregation("quantile", a.expr.pos));
            }
            for step in 0..grid.steps {
                self.q.check_sometimes(step)?;
                values.clear();
                values.extend(members.iter().filter_map(|i| all[*i].floats.get(step)));
                if !values.is_empty() {
                    series.floats.set(step, quantile(param.scalar.at(step), &mut values));
                }
            }
            if !series.is_empty() {
                out.push(series);
            }
        }
        self.q.forget(&all);
        out.iter().try_for_each(|s| self.q.keep(s))?;
        Ok(out)
    }

    fn count_values(&self, a: &Aggregate, grid: Grid) -> Result<Vec<Series>, EngineError> {
        let (label, literal) = match a.param.as_ref().map(|p| &p.kind) {
            Some(Kind::String(s, literal)) => (s.as_str(), literal.as_str()),
            _ => ("", ""),
        };
        // U+FFFD stands for bytes that are no UTF-8.
        if label.is_empty() || label.contains('\u{fffd}') {
            return Err(EngineError::Execution(format!("invalid label name {literal}")));
        }
        let mut grouping = a.grouping.clone();
        if !a.without {
            grouping.push(label.to_owned());
        }
        let all = self.vector(&a.expr, grid)?;
        let mut out: Vec<Series> = Vec::new();
        let mut by_labels: HashMap<Labels, usize> = HashMap::new();
        for (n, series) in all.iter().enumerate() {
            self.q.check_sometimes(n)?;
            let mut slot = |value: String| {
                let mut builder = series.labels.to_builder();
                builder.set(label, value);
                let labels = builder.build();
                let labels = if a.without { labels.without(&grouping) } else { labels.keep(&grouping) };
                *by_labels.entry(labels.clone()).or_insert_with(|| {
                    out.push(Series::new(labels, grid.steps));
                    out.len() - 1
                })
            };
            // Values repeat: their texts are made once per series.
            let mut known: HashMap<u64, usize> = HashMap::new();
            let mut hits: Vec<(usize, usize)> = Vec::new();
            for step in 0..grid.steps {
                if let Some(v) = series.floats.get(step) {
                    let at = *known.entry(v.to_bits()).or_insert_with(|| slot(narthex_model::number::format_value(v)));
                    hits.push((at, step));
                } else if let Some(h) = series.histogram(step) {
                    hits.push((slot(h.to_string()), step));
                }
            }
            for (at, step) in hits {
                let count = out[at].floats.get(step).unwrap_or(0.0);
                out[at].floats.set(step, count + 1.0);
            }
        }
        self.q.forget(&all);
        out.iter().try_for_each(|s| self.q.keep(s))?;
        Ok(out)
    }
}

/// Appends the text of the labels of the group that a series falls into.
fn group_text(labels: &Labels, a: &Aggregate, out: &mut String) {
    let named = |n: &str| a.grouping.iter().any(|name| name == n);
    if a.without {
        labels.retain_text(|n, _| n != METRIC_NAME && !named(n), out);
    } else if !a.grouping.is_empty() {
        labels.retain_text(|n, _| named(n), out);
    }
}

/// The groups in the order of their first series, with the indices of their series.
pub(crate) fn group_members(all: &[Series], a: &Aggregate) -> Vec<(Labels, Vec<usize>)> {
    let mut by_labels: HashMap<Labels, usize> = HashMap::new();
    let mut out: Vec<(Labels, Vec<usize>)> = Vec::new();
    let mut text = String::new();
    for (i, series) in all.iter().enumerate() {
        text.clear();
        group_text(&series.labels, a, &mut text);
        let at = match by_labels.get(&LabelsText(&text)) {
            Some(at) => *at,
            None => {
                let labels = Labels::from_texts(std::iter::once(&*text));
                by_labels.insert(labels.clone(), out.len());
                out.push((labels, Vec::new()));
                out.len() - 1
            }
        };
        out[at].1.push(i);
    }
    out
}

/// The histograms of one group at one step.
struct HistogramState {
    sum: Histogram,
    compensation: Option<Histogram>,
    mean: Option<HistogramMean>,
    reset: bool,
    no_reset: bool,
    incompatible: bool,
}

struct Accumulator {
    labels: Labels,
    /// The order of the first of its series.
    order: u32,
    drop_name: bool,
    /// Steps with floats (or, for counting, with anything).
    seen: Bits,
    /// What these hold depends on the operator: a sum, an extreme, a mean, …
    a: Vec<f64>,
    b: Vec<f64>,
    count: Vec<f64>,
    /// Means that are computed incrementally since the sum would overflow.
    incremental: Option<(Bits, Vec<f64>)>,
    /// No sum of this group is larger.
    bound: f64,
    histograms: Vec<Option<Box<HistogramState>>>,
    /// Histograms came first at these steps, so the mix counts though nothing was added up.
    late_histograms: Option<Bits>,
}

struct Groups<'a, 'q> {
    aggregate: &'a Aggregate,
    ev: &'a Evaluator<'q>,
    grid: Grid,
    by_labels: HashMap<Labels, usize>,
    /// Whether series come with few different label sets, whose groups are then remembered.
    few_label_sets: bool,
    by_input: HashMap<Labels, usize>,
    /// A used buffer.
    text: String,
    all: Vec<Accumulator>,
}

impl<'a, 'q> Groups<'a, 'q> {
    fn new(aggregate: &'a Aggregate, grid: Grid, ev: &'a Evaluator<'q>) -> Groups<'a, 'q> {
        let few_label_sets = match &aggregate.expr.kind {
            Kind::Selector(s) => s.some_labels,
            Kind::Call(c) => c.args.iter().any(|a| matches!(&a.kind, Kind::Range(r) if r.selector.some_labels)),
            _ => false,
        };
        Groups {
            aggregate,
            ev,
            grid,
            by_labels: HashMap::new(),
            few_label_sets,
            by_input: HashMap::new(),
            text: String::new(),
            all: Vec::new(),
        }
    }

    /// The group that a series falls into; a new one is empty.
    fn group_of(&mut self, series: &Series) -> usize {
        if self.few_label_sets
            && let Some(at) = self.by_input.get(&series.labels)
        {
            return *at;
        }
        self.text.clear();
        group_text(&series.labels, self.aggregate, &mut self.text);
        let steps = self.grid.steps;
        let op = self.aggregate.op;
        let at = match self.by_labels.get(&LabelsText(&self.text)) {
            Some(at) => *at,
            None => {
                let labels = Labels::from_texts(std::iter::once(&*self.text));
                self.by_labels.insert(labels.clone(), self.all.len());
                let column = |needed: bool| if needed { vec![0.0; steps] } else { Vec::new() };
                use AggregateOp::*;
                self.all.push(Accumulator {
                    labels,
                    order: u32::MAX,
                    drop_name: false,
                    seen: Bits::none(steps),
                    a: column(!matches!(op, Count | Group)),
                    b: column(matches!(op, Sum | Avg | Stddev | Stdvar)),
                    count: column(matches!(op, Avg | Count | Stddev | Stdvar)),
                    incremental: None,
                    bound: 0.0,
                    histograms: Vec::new(),
                    late_histograms: None,
                });
                self.all.len() - 1
            }
        };
        if self.few_label_sets {
            self.by_input.insert(series.labels.clone(), at);
        }
        at
    }

    fn add(&mut self, series: &Series) {
        let op = self.aggregate.op;
        let at = self.group_of(series);
        let group = &mut self.all[at];
        group.drop_name |= series.drop_name;
        group.order = group.order.min(series.order);
        let floats = &series.floats;
        if !floats.values.is_empty() && !floats.present.is_empty() {
            let blocked = group.blocked_steps();
            let masked;
            let floats = match blocked {
                None => floats,
                Some(blocked) => {
                    let mut present = floats.present.clone();
                    present.and_not(&blocked);
                    masked = Floats { values: floats.values.clone(), present };
                    &masked
                }
            };
            group.add_floats(op, floats);
        }
        if series.has_histograms() {
            self.add_histograms(at, series);
        }
    }

    fn add_histograms(&mut self, at: usize, series: &Series) {
        use AggregateOp::*;
        let (op, pos) = (self.aggregate.op, self.aggregate.expr.pos);
        let steps = self.grid.steps;
        let ev = self.ev;
        let group = &mut self.all[at];
        match op {
            Count | Group => {
                for (step, h) in series.histograms.iter().enumerate() {
                    if h.is_some() {
                        group.seen.set(step);
                        if op == Count {
                            group.count[step] += 1.0;
                        }
                    }
                }
                return;
            }
            Sum | Avg => {}
            _ => {
                ev.annotate(Annotation::ignored_in_aggregation(op.as_str(), pos));
                return;
            }
        }
        if group.histograms.is_empty() {
            group.histograms.resize_with(steps, || None);
        }
        for (step, h) in series.histograms.iter().enumerate() {
            let Some(h) = h else { continue };
            if group.seen.get(step) && group.histograms[step].is_none() {
                // Floats came before: the mix gives nothing anyway.
                group.late_histograms.get_or_insert_with(|| Bits::none(steps)).set(step);
                continue;
            }
            let (reset, no_reset) = (
                h.counter_reset_hint == CounterResetHint::CounterReset,
                h.counter_reset_hint == CounterResetHint::NotCounterReset,
            );
            let Some(state) = &mut group.histograms[step] else {
                group.histograms[step] = Some(Box::new(HistogramState {
                    sum: if op == Sum { (**h).clone() } else { Histogram::default() },
                    compensation: None,
                    mean: (op == Avg).then(|| HistogramMean::new(h)),
                    reset,
                    no_reset,
                    incompatible: false,
                }));
                continue;
            };
            if state.incompatible {
                continue;
            }
            state.reset |= reset;
            state.no_reset |= no_reset;
            let reconciled = match &mut state.mean {
                Some(mean) => mean.add(h),
                None => state.sum.kahan_add(h, &mut state.compensation).map(|o| o.bounds_reconciled),
            };
            match reconciled {
                Ok(true) => ev.annotate(Annotation::bounds_reconciled(HistogramOperation::Aggregate, pos)),
                Ok(false) => {}
                Err(_) => {
                    state.incompatible = true;
                    ev.annotate(Annotation::mixed_exponential_custom(series.labels.metric_name(), pos));
                }
            }
        }
    }

    fn finish(self) -> Vec<Series> {
        let (ev, op, pos) = (self.ev, self.aggregate.op, self.aggregate.expr.pos);
        self.all
            .into_iter()
            .map(|mut group| {
                let mut out = Series::new(std::mem::take(&mut group.labels), self.grid.steps);
                out.drop_name = group.drop_name;
                out.order = group.order;
                let mut mixed = group.late_histograms.take();
                for (step, state) in std::mem::take(&mut group.histograms).into_iter().enumerate() {
                    let Some(state) = state else { continue };
                    if group.seen.get(step) {
                        mixed.get_or_insert_with(|| Bits::none(self.grid.steps)).set(step);
                        continue;
                    }
                    if state.incompatible {
                        continue;
                    }
                    if state.reset && state.no_reset {
                        ev.annotate(Annotation::counter_reset_collision(HistogramOperation::Aggregate, pos));
                    }
                    let HistogramState { mut sum, compensation, mean, .. } = *state;
                    let result = match mean {
                        Some(mean) => mean.finish(),
                        None => match &compensation {
                            Some(c) => sum.add(c).map(|_| sum),
                            None => Ok(sum),
                        },
                    };
                    if let Ok(mut h) = result {
                        h.compact();
                        out.set_histogram(step, std::sync::Arc::new(h));
                    }
                }
                let mut floats = group.floats(op);
                if let Some(mixed) = mixed {
                    ev.annotate(Annotation::mixed_floats_histograms_aggregation(pos));
                    floats.present.and_not(&mixed);
                }
                out.floats = floats;
                out
            })
            .collect()
    }
}

/// Sums whose summands have magnitudes that add up to less do not overflow, nor does anything on the way.
const BOUND: f64 = f64::MAX / 4.0;

/// Calls `$f(i)` for each present step, in a plain loop where all are.
macro_rules! for_present {
    ($floats:expr, $i:ident, $body:block) => {
        if $floats.present.is_full() {
            for $i in 0..$floats.values.len() $body
        } else {
            for $i in $floats.present.iter() $body
        }
    };
}

impl Accumulator {
    /// Steps at which floats are not looked at any more.
    fn blocked_steps(&self) -> Option<Bits> {
        if self.histograms.iter().flatten().all(|s| !s.incompatible) {
            return None;
        }
        let mut bits = Bits::none(self.histograms.len());
        for (i, s) in self.histograms.iter().enumerate() {
            if s.as_ref().is_some_and(|s| s.incompatible) {
                bits.set(i);
            }
        }
        Some(bits)
    }

    // Several columns go side by side: indices say that best, and vectorise.
    #[allow(clippy::needless_range_loop)]
    fn add_floats(&mut self, op: AggregateOp, floats: &Floats) {
        use AggregateOp::*;
        let steps = floats.values.len();
        let values = &floats.values[..steps];
        match op {
            Sum => {
                let (sum, c) = (&mut self.a[..steps], &mut self.b[..steps]);
                self.bound += scan::magnitude(values);
                if self.bound < BOUND && floats.present.is_full() {
                    scan::add_bounded(values, sum, c);
                } else {
                    for_present!(floats, i, {
                        (sum[i], c[i]) = kahan::add(values[i], sum[i], c[i]);
                    });
                }
            }
            Avg => self.add_to_mean(floats),
            Min | Max => {
                let max = op == Max;
                let best = &mut self.a[..steps];
                if self.seen.is_empty() {
                    best.copy_from_slice(values);
                } else if self.seen.is_full() && floats.present.is_full() {
                    // Same as below, without branches.
                    for i in 0..steps {
                        let better = if max { best[i] < values[i] } else { best[i] > values[i] };
                        best[i] = if better | best[i].is_nan() { values[i] } else { best[i] };
                    }
                } else {
                    for i in floats.present.iter() {
                        let better = if max { best[i] < values[i] } else { best[i] > values[i] };
                        if better || best[i].is_nan() || !self.seen.get(i) {
                            best[i] = values[i];
                        }
                    }
                }
            }
            Count => {
                let count = &mut self.count[..steps];
                for_present!(floats, i, {
                    count[i] += 1.0;
                });
            }
            Stddev | Stdvar => {
                let (aux, mean, count) = (&mut self.a[..steps], &mut self.b[..steps], &mut self.count[..steps]);
                for_present!(floats, i, {
                    let v = values[i];
                    count[i] += 1.0;
                    if count[i] == 1.0 {
                        mean[i] = v;
                        aux[i] = if v.is_finite() { 0.0 } else { f64::NAN };
                    } else {
                        let delta = v - mean[i];
                        mean[i] += delta / count[i];
                        aux[i] += delta * (v - mean[i]);
                    }
                });
            }
            _ => {}
        }
        self.seen.or(&floats.present);
    }

    #[allow(clippy::needless_range_loop)]
    fn add_to_mean(&mut self, floats: &Floats) {
        let values = &floats.values;
        self.bound += scan::magnitude(values);
        let steps = values.len();
        let (sum, c, count) = (&mut self.a[..steps], &mut self.b[..steps], &mut self.count[..steps]);
        if self.incremental.is_none() && self.bound < BOUND {
            if floats.present.is_full() {
                scan::add_bounded(values, sum, c);
                count.iter_mut().for_each(|n| *n += 1.0);
                return;
            }
            for_present!(floats, i, {
                (sum[i], c[i]) = kahan::add(values[i], sum[i], c[i]);
                count[i] += 1.0;
            });
            return;
        }
        for i in floats.present.iter() {
            count[i] += 1.0;
            let (v, n) = (values[i], count[i]);
            if n == 1.0 {
                sum[i] = v;
                continue;
            }
            let is_incremental = self.incremental.as_ref().is_some_and(|(bits, _)| bits.get(i));
            if !is_incremental {
                let (new_sum, new_c) = kahan::add(v, sum[i], c[i]);
                if !new_sum.is_infinite() {
                    (sum[i], c[i]) = (new_sum, new_c);
                    continue;
                }
            }
            let (bits, means) = self.incremental.get_or_insert_with(|| (Bits::none(steps), vec![0.0; steps]));
            if !is_incremental {
                bits.set(i);
                means[i] = sum[i] / (n - 1.0);
                c[i] /= n - 1.0;
            }
            let q = (n - 1.0) / n;
            (means[i], c[i]) = kahan::add(v / n, q * means[i], q * c[i]);
        }
    }

    fn floats(self, op: AggregateOp) -> Floats {
        use AggregateOp::*;
        let present = self.seen;
        let steps = self.a.len().max(self.count.len());
        let values = match op {
            Sum => self.a.iter().zip(&self.b).map(|(sum, c)| sum + c).collect(),
            Avg => {
                let mut values: Vec<f64> =
                    (0..steps).map(|i| self.a[i] / self.count[i] + self.b[i] / self.count[i]).collect();
                if let Some((bits, means)) = &self.incremental {
                    bits.iter().for_each(|i| values[i] = means[i] + self.b[i]);
                }
                values
            }
            Count => self.count,
            Group => vec![1.0; present.len()],
            Stdvar => (0..steps).map(|i| self.a[i] / self.count[i]).collect(),
            Stddev => (0..steps).map(|i| (self.a[i] / self.count[i]).sqrt()).collect(),
            _ => self.a,
        };
        Floats { values, present }
    }
}
