//! Binary operators. Which series match is found once from their labels; then whole columns are combined. Only groups
//! where several series share a signature are gone through step by step.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use narthex_model::{CounterResetHint, Histogram, Labels, METRIC_NAME};
use smallvec::SmallVec;

use super::EngineError;
use super::columns::{Bits, Floats, Series};
use super::eval::{Evaluator, Out, Scalar, merge_same_labels};
use super::plan::Binary;
use super::query::{LabelsText, put_in_order};
use super::windows::Grid;
use crate::annotations::{Annotation, HistogramOperation};
use crate::ast::{BinaryOp, Cardinality, PosRange, VectorMatching};
use crate::functions::labels::is_metadata;
use crate::functions::math;
use crate::value::Point;

/// What an operator made of two samples.
struct Combined {
    point: Option<Point>,
    keep: bool,
    note: Option<Annotation>,
    /// There is no result at all, and the pair does not count as matched.
    failed: bool,
}

impl Combined {
    fn float((value, keep): (f64, bool)) -> Combined {
        Combined { point: Some(Point::Float(value)), keep, note: None, failed: false }
    }

    fn histogram(h: Histogram) -> Combined {
        Combined { point: Some(Point::Histogram(Arc::new(h))), keep: true, note: None, failed: false }
    }

    fn failed(note: Annotation) -> Combined {
        Combined { point: None, keep: false, note: Some(note), failed: true }
    }
}

fn combine(op: BinaryOp, l: &Point, r: &Point, pos: PosRange) -> Combined {
    use BinaryOp::*;
    let types = |a: &str, b: &str| Combined::failed(Annotation::incompatible_types(a, op.as_str(), b, pos));
    match (l, r) {
        (Point::Float(_), Point::Float(_)) if matches!(op, TrimLower | TrimUpper) => types("float", "float"),
        (Point::Float(l), Point::Float(r)) => Combined::float(math::binary(op, *l, *r)),
        (Point::Float(l), Point::Histogram(r)) => {
            if op != Mul {
                return types("float", "histogram");
            }
            let mut h = (**r).clone();
            h.mul(*l);
            h.compact();
            Combined::histogram(h)
        }
        (Point::Histogram(l), Point::Float(r)) => {
            let mut h = (**l).clone();
            match op {
                Mul => h.mul(*r),
                Div => h.div(*r),
                TrimUpper | TrimLower => {
                    h.trim(*r, op == TrimUpper);
                    return Combined::histogram(h);
                }
                _ => return types("histogram", "float"),
            }
            h.compact();
            Combined::histogram(h)
        }
        (Point::Histogram(l), Point::Histogram(r)) => match op {
            Add | Sub => {
                let mut h = (**l).clone();
                let (outcome, operation) =
                    if op == Add { (h.add(r), HistogramOperation::Add) } else { (h.sub(r), HistogramOperation::Sub) };
                let Ok(outcome) = outcome else {
                    return Combined::failed(Annotation::incompatible_bucket_layout(op.as_str(), pos));
                };
                if op == Sub {
                    h.counter_reset_hint = CounterResetHint::Gauge;
                }
                h.compact();
                let mut combined = Combined::histogram(h);
                if outcome.counter_reset_collision {
                    // A warning here means no result, as in Prometheus.
                    return Combined::failed(Annotation::counter_reset_collision(operation, pos));
                }
                if outcome.bounds_reconciled {
                    combined.note = Some(Annotation::bounds_reconciled(operation, pos));
                }
                combined
            }
            Eql | Neq => Combined {
                point: Some(Point::Histogram(l.clone())),
                keep: l.same_data(r) == (op == Eql),
                note: None,
                failed: false,
            },
            _ => types("histogram", "histogram"),
        },
    }
}

/// Whether the operator makes another metric of its operands.
fn changes_metric(op: BinaryOp) -> bool {
    use BinaryOp::*;
    matches!(op, Add | Sub | Mul | Div | Mod | Pow | Atan2)
}

impl Evaluator<'_> {
    pub(crate) fn binary(&self, b: &Binary, pos: PosRange, grid: Grid) -> Result<Out, EngineError> {
        let left = self.eval(&b.lhs, grid)?;
        let right = self.eval(&b.rhs, grid)?;
        match (left, right) {
            (Out::Scalar(_), Out::Scalar(_)) if matches!(b.op, BinaryOp::TrimLower | BinaryOp::TrimUpper) => {
                let op = b.op.as_str();
                Err(EngineError::Execution(format!("operator \"{op}\" not allowed for Scalar operations")))
            }
            (Out::Scalar(l), Out::Scalar(r)) => {
                if let (Some(l), Some(r)) = (l.constant(), r.constant()) {
                    return Ok(Out::Scalar(Scalar::Constant(math::scalar(b.op, l, r))));
                }
                let values = (0..grid.steps).map(|i| math::scalar(b.op, l.at(i), r.at(i))).collect();
                Ok(Out::Scalar(Scalar::Steps(values)))
            }
            (Out::Vector(all), Out::Scalar(s)) => self.vector_scalar(b, pos, all, &s, false, grid),
            (Out::Scalar(s), Out::Vector(all)) => self.vector_scalar(b, pos, all, &s, true, grid),
            (Out::Vector(l), Out::Vector(r)) => {
                let default = VectorMatching::default();
                let matching = b.matching.as_ref().unwrap_or(&default);
                self.q.momentarily(l.len() + r.len())?;
                let out = if b.op.is_set() {
                    merge_same_labels(set_operation(b.op, matching, l, r, grid))?
                } else {
                    let out = self.vectors(b, matching, pos, &l, &r, grid)?;
                    self.q.forget(&l);
                    self.q.forget(&r);
                    out.iter().try_for_each(|s| self.q.keep(s))?;
                    out
                };
                Ok(Out::Vector(out))
            }
            _ => Err(EngineError::Execution("binary expression on other than vectors and scalars".into())),
        }
    }

    fn vector_scalar(
        &self,
        b: &Binary,
        pos: PosRange,
        all: Vec<Series>,
        scalar: &Scalar,
        swapped: bool,
        grid: Grid,
    ) -> Result<Out, EngineError> {
        let op = b.op;
        let drops = changes_metric(op) || b.return_bool;
        let mut out = Vec::with_capacity(all.len());
        for (n, mut series) in all.into_iter().enumerate() {
            self.q.check_sometimes(n)?;
            if !series.has_histograms() && !matches!(op, BinaryOp::TrimLower | BinaryOp::TrimUpper) {
                scalar_kernel(op, &mut series.floats, scalar, swapped, b.return_bool);
            } else {
                let mut result = Series::new(series.labels, grid.steps);
                result.drop_name = series.drop_name;
                for step in 0..grid.steps {
                    let point = if let Some(v) = series.floats.get(step) {
                        Point::Float(v)
                    } else if let Some(Some(h)) = series.histograms.get(step) {
                        Point::Histogram(h.clone())
                    } else {
                        continue;
                    };
                    let number = Point::Float(scalar.at(step));
                    let combined =
                        if swapped { combine(op, &number, &point, pos) } else { combine(op, &point, &number, pos) };
                    if let Some(note) = combined.note {
                        self.annotate(note);
                    }
                    if combined.failed {
                        continue;
                    }
                    // A comparison keeps the vector's side, whichever that is.
                    let value = if op.is_comparison() && swapped { Some(point) } else { combined.point };
                    if b.return_bool {
                        result.set(step, Point::Float(f64::from(u8::from(combined.keep))));
                    } else if let (true, Some(value)) = (combined.keep, value) {
                        result.set(step, value);
                    }
                }
                series = result;
            }
            if series.is_empty() {
                continue;
            }
            if drops {
                self.drop_name(&mut series);
            }
            out.push(series);
        }
        Ok(Out::Vector(if drops && !self.q.options.delayed_name_removal { merge_same_labels(out)? } else { out }))
    }

    fn vectors(
        &self,
        b: &Binary,
        matching: &VectorMatching,
        pos: PosRange,
        left: &[Series],
        right: &[Series],
        grid: Grid,
    ) -> Result<Vec<Series>, EngineError> {
        let (groups, count) = signatures(matching, left, right);
        let swapped = matching.card == Cardinality::OneToMany;
        let (many, one) = if swapped { (right, left) } else { (left, right) };
        let (many_groups, one_groups) = if swapped { (&groups.1, &groups.0) } else { (&groups.0, &groups.1) };
        let (many_members, one_members) = (Members::new(many_groups, count), Members::new(one_groups, count));

        let mut run = VectorRun {
            b,
            matching,
            pos,
            grid,
            swapped,
            many,
            one,
            drop_now: b.return_bool && !self.q.options.delayed_name_removal,
            out: Vec::new(),
            by_labels: HashMap::new(),
            notes: BTreeMap::new(),
            error: None,
            any: None,
        };
        for n in 0..count {
            self.q.check_sometimes(n)?;
            let (m, o) = (many_members.of(n), one_members.of(n));
            let filled = matching.fill_lhs.is_some() || matching.fill_rhs.is_some();
            let simple = !filled
                && o.len() <= 1
                && (matching.card != Cardinality::OneToOne || m.len() <= 1)
                && !matches!(b.op, BinaryOp::TrimLower | BinaryOp::TrimUpper);
            if simple && (m.is_empty() || o.is_empty()) {
                continue;
            }
            if simple
                && !one[o[0]].has_histograms()
                && m.iter().all(|i| !many[*i].has_histograms())
                && let Some(labels) = run.unique_results(m, o[0])
            {
                m.iter().zip(labels).for_each(|(i, labels)| run.columns(*i, o[0], labels));
            } else {
                run.group(m, o);
            }
        }
        let VectorRun { mut out, notes, error, .. } = run;
        if let Some((_, message)) = error {
            return Err(EngineError::Execution(message));
        }
        notes.into_values().for_each(|(_, note)| self.annotate(note));
        if grid.steps == 1 {
            put_in_order(&mut out);
        }
        Ok(out.into_iter().filter(|s| !s.is_empty()).collect())
    }
}

/// The number of each series' signature, on both sides.
fn signatures(matching: &VectorMatching, left: &[Series], right: &[Series]) -> ((Vec<usize>, Vec<usize>), usize) {
    let mut ids: HashMap<Labels, usize> = HashMap::with_capacity(left.len().max(right.len()));
    let mut text = String::new();
    let mut of = |all: &[Series]| -> Vec<usize> {
        all.iter()
            .map(|s| {
                let named = |n: &str| matching.labels.iter().any(|name| name == n);
                text.clear();
                if matching.on {
                    s.labels.retain_text(|n, _| named(n), &mut text);
                } else {
                    s.labels.retain_text(|n, _| n != METRIC_NAME && !named(n), &mut text);
                }
                if let Some(known) = ids.get(&LabelsText(&text)) {
                    return *known;
                }
                let next = ids.len();
                ids.insert(Labels::from_texts(std::iter::once(&*text)), next);
                next
            })
            .collect()
    };
    let (l, r) = (of(left), of(right));
    ((l, r), ids.len())
}

/// Which series have which signature.
struct Members {
    /// Where each signature's series begin in `series`.
    begin: Vec<usize>,
    series: Vec<usize>,
}

impl Members {
    fn new(signatures: &[usize], count: usize) -> Members {
        let mut begin = vec![0; count + 1];
        signatures.iter().for_each(|s| begin[s + 1] += 1);
        (0..count).for_each(|s| begin[s + 1] += begin[s]);
        let (mut next, mut series) = (begin.clone(), vec![0; signatures.len()]);
        for (i, s) in signatures.iter().enumerate() {
            series[next[*s]] = i;
            next[*s] += 1;
        }
        Members { begin, series }
    }

    /// Ascending.
    fn of(&self, signature: usize) -> &[usize] {
        &self.series[self.begin[signature]..self.begin[signature + 1]]
    }
}

fn match_labels(labels: &Labels, matching: &VectorMatching) -> Labels {
    if matching.on { labels.keep(&matching.labels) } else { labels.without(&matching.labels) }
}

fn set_operation(
    op: BinaryOp,
    matching: &VectorMatching,
    left: Vec<Series>,
    right: Vec<Series>,
    grid: Grid,
) -> Vec<Series> {
    let ((l, r), count) = signatures(matching, &left, &right);
    let presence = |all: &[Series], ids: &[usize]| {
        let mut present = vec![None::<Bits>; count];
        for (series, id) in all.iter().zip(ids) {
            let bits = series.present();
            match &mut present[*id] {
                Some(p) => p.or(&bits),
                none => *none = Some(bits),
            }
        }
        present
    };
    let mut out = Vec::with_capacity(left.len());
    match op {
        BinaryOp::Or => {
            let present = presence(&left, &l);
            out.extend(left);
            for (mut series, id) in right.into_iter().zip(r) {
                if let Some(taken) = &present[id] {
                    let mut mask = Bits::all(grid.steps);
                    mask.and_not(taken);
                    series.keep(&mask);
                }
                out.push(series);
            }
        }
        _ => {
            let present = presence(&right, &r);
            for (mut series, id) in left.into_iter().zip(l) {
                match (&present[id], op) {
                    (Some(p), BinaryOp::And) => series.keep(p),
                    (None, BinaryOp::And) => continue,
                    (Some(p), _) => {
                        let mut mask = Bits::all(grid.steps);
                        mask.and_not(p);
                        series.keep(&mask);
                    }
                    (None, _) => {}
                }
                out.push(series);
            }
        }
    }
    out.retain(|s| !s.is_empty());
    out
}

/// `op` of each float and a scalar, in place.
fn scalar_kernel(op: BinaryOp, floats: &mut Floats, scalar: &Scalar, swapped: bool, return_bool: bool) {
    if floats.values.is_empty() {
        return;
    }
    if !op.is_comparison() {
        let values = &mut floats.values;
        match (op, scalar, swapped) {
            (BinaryOp::Add, Scalar::Constant(c), _) => values.iter_mut().for_each(|v| *v += c),
            (BinaryOp::Mul, Scalar::Constant(c), _) => values.iter_mut().for_each(|v| *v *= c),
            (BinaryOp::Sub, Scalar::Constant(c), false) => values.iter_mut().for_each(|v| *v -= c),
            (BinaryOp::Sub, Scalar::Constant(c), true) => values.iter_mut().for_each(|v| *v = c - *v),
            (BinaryOp::Div, Scalar::Constant(c), false) => values.iter_mut().for_each(|v| *v /= c),
            (BinaryOp::Div, Scalar::Constant(c), true) => values.iter_mut().for_each(|v| *v = c / *v),
            (_, _, false) => {
                values.iter_mut().enumerate().for_each(|(i, v)| *v = math::binary(op, *v, scalar.at(i)).0);
            }
            (_, _, true) => {
                values.iter_mut().enumerate().for_each(|(i, v)| *v = math::binary(op, scalar.at(i), *v).0);
            }
        }
        return;
    }
    for step in 0..floats.values.len() {
        let (v, s) = (floats.values[step], scalar.at(step));
        let keep = if swapped { math::binary(op, s, v).1 } else { math::binary(op, v, s).1 };
        if return_bool {
            floats.values[step] = f64::from(u8::from(keep));
        } else if !keep {
            floats.present.clear(step);
        }
    }
}

struct VectorRun<'a> {
    b: &'a Binary,
    matching: &'a VectorMatching,
    pos: PosRange,
    grid: Grid,
    /// `many` is the right side.
    swapped: bool,
    many: &'a [Series],
    one: &'a [Series],
    drop_now: bool,
    out: Vec<Series>,
    by_labels: HashMap<Labels, usize>,
    /// By step: of several notes the last one counts.
    notes: BTreeMap<usize, (usize, Annotation)>,
    /// The first error in the order of steps: what evaluating step by step would have met.
    error: Option<((usize, u8, usize), String)>,
    /// Steps at which each side has anything.
    any: Option<(Bits, Bits)>,
}

impl VectorRun<'_> {
    fn fail(&mut self, order: (usize, u8, usize), message: String) {
        if self.error.as_ref().is_none_or(|(at, _)| order < *at) {
            self.error = Some((order, message));
        }
    }

    /// The labels of the result for two series; `one` is none where a fill value stands in for it, and so on.
    fn result_labels(&self, many: &Labels, one: &Labels) -> Labels {
        let drop = self.drop_now || changes_metric(self.b.op);
        let m = self.matching;
        let kept = |name: &str| {
            if drop && is_metadata(name) {
                return false;
            }
            if m.card == Cardinality::OneToOne {
                return m.on == m.labels.iter().any(|l| l == name);
            }
            true
        };
        if m.include.is_empty() {
            return many.retain(|n, _| kept(n));
        }
        let included = |name: &str| m.include.iter().any(|l| l == name);
        let mut pairs: Vec<(&str, &str)> = many.iter().filter(|(n, _)| kept(n) && !included(n)).collect();
        pairs.extend(one.iter().filter(|(n, _)| included(n)));
        pairs.sort_unstable();
        Labels::from_sorted(pairs)
    }

    /// The place of the result's series. Results come in the order of the many (`from`), then of what is only among the
    /// ones.
    fn slot(&mut self, labels: Labels, from: usize) -> usize {
        let order = u32::try_from(from + 1).unwrap_or(u32::MAX);
        if let Some(i) = self.by_labels.get(&labels) {
            let first = &mut self.out[*i].order;
            *first = order.min(*first);
            return *i;
        }
        let mut series = Series::new(labels.clone(), self.grid.steps);
        series.order = order;
        series.drop_name = self.b.return_bool;
        self.by_labels.insert(labels, self.out.len());
        self.out.push(series);
        self.out.len() - 1
    }

    /// The labels of the results of these pairs, if each has its own.
    fn unique_results(&self, many: &[usize], one: usize) -> Option<SmallVec<[Labels; 1]>> {
        let result = |m: &usize| self.result_labels(&self.many[*m].labels, &self.one[one].labels);
        let labels: SmallVec<[Labels; 1]> = many.iter().map(result).collect();
        if labels.iter().any(|l| self.by_labels.contains_key(l)) {
            return None;
        }
        let unique = labels.len() == 1 || {
            let mut seen = HashSet::with_capacity(labels.len());
            labels.iter().all(|l| seen.insert(l))
        };
        unique.then_some(labels)
    }

    /// Two float columns that match each other alone.
    fn columns(&mut self, many: usize, one: usize, labels: Labels) {
        let (m, o) = (&self.many[many], &self.one[one]);
        let (l, r) = if self.swapped { (&o.floats, &m.floats) } else { (&m.floats, &o.floats) };
        if l.values.is_empty() || r.values.is_empty() {
            return;
        }
        let mut present = l.present.clone();
        present.and(&r.present);
        if present.is_empty() {
            return;
        }
        let op = self.b.op;
        let pairs = || l.values.iter().zip(&r.values);
        let values: Vec<f64> = match op {
            BinaryOp::Add => pairs().map(|(a, b)| a + b).collect(),
            BinaryOp::Sub => pairs().map(|(a, b)| a - b).collect(),
            BinaryOp::Mul => pairs().map(|(a, b)| a * b).collect(),
            BinaryOp::Div => pairs().map(|(a, b)| a / b).collect(),
            _ if op.is_comparison() => {
                if self.b.return_bool {
                    pairs().map(|(a, b)| f64::from(u8::from(math::binary(op, *a, *b).1))).collect()
                } else {
                    for (i, (a, b)) in pairs().enumerate() {
                        if !math::binary(op, *a, *b).1 {
                            present.clear(i);
                        }
                    }
                    l.values.clone()
                }
            }
            _ => pairs().map(|(a, b)| math::binary(op, *a, *b).0).collect(),
        };
        let slot = self.slot(labels, many);
        self.out[slot].floats = Floats { values, present };
    }

    /// A group of series with the same signature, step by step.
    fn group(&mut self, many: &[usize], one: &[usize]) {
        let card = self.matching.card;
        let (fill_one, fill_many) = (self.matching.fill_rhs, self.matching.fill_lhs);
        let one_side = if self.swapped { "left" } else { "right" };
        let mut labels: HashMap<(usize, usize), (Labels, usize)> = HashMap::new();
        const FILLED: usize = usize::MAX;
        for step in 0..self.grid.steps {
            let present = |all: &[Series], ids: &[usize]| -> Vec<(usize, Point)> {
                ids.iter().filter_map(|i| Some((*i, all[*i].at(step)?))).collect()
            };
            let ones = present(self.one, one);
            let manys = present(self.many, many);
            if ones.len() > 1 && self.other_side_present(step) {
                let (a, b) = (&self.one[ones[1].0].labels, &self.one[ones[0].0].labels);
                let (mut a_text, mut b_text) = (a.to_string(), b.to_string());
                if a_text > b_text {
                    std::mem::swap(&mut a_text, &mut b_text);
                }
                let group = match_labels(a, self.matching);
                let message = format!(
                    "found duplicate series for the match group {group} on the {one_side} hand-side of the operation: \
                     [{a_text}, {b_text}];many-to-many matching not allowed: matching labels must be unique on one side"
                );
                self.fail((step, 0, ones[1].0), message);
                return;
            }
            let mut matched = false;
            let mut inserted: HashSet<usize> = HashSet::new();
            let mut pairs: Vec<(usize, usize, Point, Point)> = Vec::new();
            for (i, point) in &manys {
                match (ones.first(), fill_one) {
                    (Some((j, other)), _) => pairs.push((*i, *j, point.clone(), other.clone())),
                    (None, Some(fill)) => pairs.push((*i, FILLED, point.clone(), Point::Float(fill))),
                    (None, None) => {}
                }
            }
            let fills_from = pairs.len();
            if let Some(fill) = fill_many {
                for (j, point) in &ones {
                    pairs.push((FILLED, *j, Point::Float(fill), point.clone()));
                }
            }
            for (n, (i, j, m, o)) in pairs.into_iter().enumerate() {
                if n >= fills_from && (matched || !inserted.is_empty()) {
                    continue;
                }
                let order = if i == FILLED { self.many.len() + j } else { i };
                let (l, r) = if self.swapped { (&o, &m) } else { (&m, &o) };
                let combined = combine(self.b.op, l, r, self.pos);
                if let Some(note) = combined.note {
                    let entry = self.notes.entry(step).or_insert((order, note.clone()));
                    if entry.0 <= order {
                        *entry = (order, note);
                    }
                }
                if combined.failed {
                    continue;
                }
                let slot = match labels.get(&(i, j)) {
                    Some((_, slot)) => *slot,
                    None => {
                        let filled = |l: &Labels| match_labels(l, self.matching);
                        let result = if i == FILLED {
                            let own = &self.one[j].labels;
                            self.result_labels(&filled(own), own)
                        } else if j == FILLED {
                            let own = &self.many[i].labels;
                            self.result_labels(own, &filled(own))
                        } else {
                            self.result_labels(&self.many[i].labels, &self.one[j].labels)
                        };
                        let slot = self.slot(result.clone(), order);
                        labels.insert((i, j), (result, slot));
                        slot
                    }
                };
                if card == Cardinality::OneToOne {
                    if matched {
                        let text = "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)";
                        self.fail((step, 1, order), text.into());
                        return;
                    }
                    matched = true;
                } else if !inserted.insert(slot) {
                    let text = "multiple matches for labels: grouping labels must ensure unique matches";
                    self.fail((step, 1, order), text.into());
                    return;
                }
                let point = if self.b.return_bool {
                    Point::Float(f64::from(u8::from(combined.keep)))
                } else if let (true, Some(point)) = (combined.keep, combined.point) {
                    point
                } else {
                    continue;
                };
                if self.out[slot].at(step).is_some() {
                    let text = "vector cannot contain metrics with the same labelset";
                    self.fail((step, 2, order), text.into());
                    return;
                }
                self.out[slot].set(step, point);
            }
        }
    }

    /// Whether the step is looked at at all: with an empty side nothing can match (unless there are fill values).
    fn other_side_present(&mut self, step: usize) -> bool {
        if self.matching.fill_lhs.is_some() || self.matching.fill_rhs.is_some() {
            return true;
        }
        if self.any.is_none() {
            let any = |all: &[Series]| {
                let mut bits = Bits::none(self.grid.steps);
                all.iter().for_each(|s| bits.or(&s.present()));
                bits
            };
            self.any = Some((any(self.many), any(self.one)));
        }
        self.any.as_ref().is_some_and(|(many, one)| many.get(step) && one.get(step))
    }
}
