//! `topk`, `bottomk`, `limitk`, `limit_ratio`: which series are kept, step by step.

use super::EngineError;
use super::aggregate::group_members;
use super::columns::{Bits, Series};
use super::eval::Evaluator;
use super::plan::Aggregate;
use super::windows::Grid;
use crate::annotations::Annotation;
use crate::ast::{AggregateOp, PosRange};
use crate::functions::sort;

/// Between these a float fits an i64, as Prometheus has it.
const MAX_I64: f64 = 9_223_372_036_854_774_784.0;
const MIN_I64: f64 = -9_223_372_036_854_775_808.0;

impl Evaluator<'_> {
    pub(crate) fn k_aggregation(&self, a: &Aggregate, pos: PosRange, grid: Grid) -> Result<Vec<Series>, EngineError> {
        let op = a.op;
        let param = self.param(a, grid)?;
        let all = self.vector(&a.expr, grid)?;
        let fail = |text: String| Err(EngineError::Execution(text));
        if op == AggregateOp::LimitRatio {
            if param.max == 0.0 && param.min == 0.0 {
                self.q.forget(&all);
                return Ok(Vec::new());
            }
            if param.any_nan {
                return fail("Ratio value is NaN".into());
            }
            if let Some(node) = &a.param {
                if param.max > 1.0 {
                    self.annotate(Annotation::invalid_ratio(param.max, 1.0, node.pos));
                }
                if param.min < -1.0 {
                    self.annotate(Annotation::invalid_ratio(param.min, -1.0, node.pos));
                }
            }
        } else {
            if param.max < 1.0 {
                self.q.forget(&all);
                return Ok(Vec::new());
            }
            if param.any_nan {
                return fail("Parameter value is NaN".into());
            }
            let shown = narthex_model::number::format_g;
            if param.min <= MIN_I64 {
                return fail(format!("Scalar value {} underflows int64", shown(param.min)));
            }
            if param.max >= MAX_I64 {
                return fail(format!("Scalar value {} overflows int64", shown(param.max)));
            }
        }
        let groups = group_members(&all, a);
        if op == AggregateOp::LimitRatio {
            return Ok(self.limit_ratio(all, &groups, &param.scalar, grid));
        }
        if matches!(op, AggregateOp::Topk | AggregateOp::Bottomk) && all.iter().any(Series::has_histograms) {
            self.annotate(Annotation::ignored_in_aggregation(op.as_str(), pos));
        }
        let mut kept: Vec<Bits> = vec![Bits::none(grid.steps); all.len()];
        let mut order: Vec<usize> = Vec::new();
        let mut heap = Heap { entries: Vec::new(), reverse: op == AggregateOp::Bottomk };
        for step in 0..grid.steps {
            self.q.check_sometimes(step)?;
            let k = (param.scalar.at(step) as i64).min(all.len() as i64);
            if k < 1 {
                continue;
            }
            let k = k as usize;
            for (_, members) in &groups {
                heap.entries.clear();
                if op == AggregateOp::Limitk {
                    let here = members.iter().filter(|i| all[**i].at(step).is_some()).take(k);
                    here.for_each(|i| heap.offer(all[*i].floats.get(step).unwrap_or(0.0), *i, k));
                } else {
                    for i in members {
                        if let Some(v) = all[*i].floats.get(step) {
                            heap.offer(v, *i, k);
                        }
                    }
                    heap.sort();
                }
                for (_, i) in &heap.entries {
                    kept[*i].set(step);
                    if grid.steps == 1 {
                        order.push(*i);
                    }
                }
            }
        }
        self.q.forget(&all);
        let mut all: Vec<Option<Series>> = all.into_iter().map(Some).collect();
        if grid.steps != 1 {
            order = (0..all.len()).collect();
        }
        let mut out = Vec::new();
        for i in order {
            if let Some(mut series) = all[i].take() {
                series.keep(&kept[i]);
                if !series.is_empty() {
                    self.q.keep(&series)?;
                    out.push(series);
                }
            }
        }
        Ok(out)
    }

    fn limit_ratio(
        &self,
        all: Vec<Series>,
        groups: &[(narthex_model::Labels, Vec<usize>)],
        ratio: &super::eval::Scalar,
        grid: Grid,
    ) -> Vec<Series> {
        self.q.forget(&all);
        let offsets: Vec<f64> = all.iter().map(|s| s.labels.prometheus_hash() as f64 / u64::MAX as f64).collect();
        let mut order: Vec<usize> = (0..all.len()).collect();
        if grid.steps == 1 {
            order.clear();
            let r = ratio.at(0).clamp(-1.0, 1.0);
            for (_, members) in groups {
                let mut heap = Heap { entries: Vec::new(), reverse: false };
                let kept = members.iter().filter(|i| is_within(offsets[**i], r));
                kept.for_each(|i| heap.offer(all[*i].floats.get(0).unwrap_or(0.0), *i, usize::MAX));
                order.extend(heap.entries.iter().map(|(_, i)| *i));
            }
        }
        let mut all: Vec<Option<Series>> = all.into_iter().map(Some).collect();
        let mut out = Vec::new();
        for i in order {
            let Some(mut series) = all[i].take() else { continue };
            let mut mask = Bits::none(grid.steps);
            for step in 0..grid.steps {
                let r = ratio.at(step).clamp(-1.0, 1.0);
                if is_within(offsets[i], r) {
                    mask.set(step);
                }
            }
            series.keep(&mask);
            if !series.is_empty() {
                out.push(series);
            }
        }
        out
    }
}

/// Whether a series of that offset is among the ratio `r` of all.
fn is_within(offset: f64, r: f64) -> bool {
    (r > 0.0 && offset < r) || (r < 0.0 && offset >= 1.0 + r)
}

/// The k best so far, the worst of them first: a binary heap that sifts exactly as Go's, so that among equal values
/// the same ones stay.
struct Heap {
    entries: Vec<(f64, usize)>,
    reverse: bool,
}

impl Heap {
    fn less(&self, a: f64, b: f64) -> bool {
        a.is_nan() || if self.reverse { a > b } else { a < b }
    }

    fn offer(&mut self, value: f64, series: usize, k: usize) {
        if self.entries.len() < k {
            self.entries.push((value, series));
            let mut j = self.entries.len() - 1;
            while j > 0 {
                let i = (j - 1) / 2;
                if i == j || !self.less(self.entries[j].0, self.entries[i].0) {
                    break;
                }
                self.entries.swap(i, j);
                j = i;
            }
            return;
        }
        let worst = self.entries[0].0;
        let better = if self.reverse { worst > value } else { worst < value };
        if better || (worst.is_nan() && !value.is_nan()) {
            self.entries[0] = (value, series);
            if k > 1 {
                self.sift_down();
            }
        }
    }

    fn sift_down(&mut self) {
        let (mut i, n) = (0, self.entries.len());
        loop {
            let mut j = 2 * i + 1;
            if j >= n {
                return;
            }
            if j + 1 < n && self.less(self.entries[j + 1].0, self.entries[j].0) {
                j += 1;
            }
            if !self.less(self.entries[j].0, self.entries[i].0) {
                return;
            }
            self.entries.swap(i, j);
            i = j;
        }
    }

    /// Best first, NaN last.
    fn sort(&mut self) {
        let reverse = self.reverse;
        sort::sort_as_go(&mut self.entries, |a, b| sort::value_less(a.0, b.0, !reverse));
    }
}
