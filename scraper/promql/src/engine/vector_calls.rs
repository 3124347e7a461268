//! Functions over instant vectors and scalars.

use narthex_model::Labels;

use super::EngineError;
use super::columns::{Bits, Floats, Series};
use super::eval::{Evaluator, Out, Scalar, Want, merge_same_labels};
use super::plan::{Call, Kind, Node, go_max, go_min};
use super::windows::Grid;
use crate::annotations::Annotation;
use crate::ast::PosRange;
use crate::functions::labels::{Replace, of_absent};
use crate::functions::{histogram, math, sort, time};

impl Evaluator<'_> {
    pub(crate) fn call(&self, call: &Call, pos: PosRange, grid: Grid) -> Result<Out, EngineError> {
        let arg = |i: usize| {
            call.args.get(i).ok_or_else(|| EngineError::Execution(format!("{} lacks an argument", call.name)))
        };
        if call.args.iter().any(|a| matches!(a.kind, Kind::Range(_) | Kind::Subquery(_))) {
            return Ok(Out::Vector(self.range_call_in_order(call, grid)?));
        }
        if let Some(f) = math::unary(call.name) {
            return self.map_floats(arg(0)?, grid, f);
        }
        if let Some(f) = time::of_date(call.name) {
            if call.args.is_empty() {
                let values = (0..grid.steps).map(|i| f((grid.time(i) / 1000) as f64)).collect();
                return Ok(Out::Vector(vec![Series::of(Labels::empty(), false, Floats::full(values))]));
            }
            return self.map_floats(arg(0)?, grid, f);
        }
        if let Some(f) = histogram::statistic(call.name) {
            return self.map_histograms(arg(0)?, grid, f);
        }
        Ok(match call.name {
            "time" => Out::Scalar(Scalar::Steps((0..grid.steps).map(|i| grid.time(i) as f64 / 1000.0).collect())),
            "pi" => Out::Scalar(Scalar::Constant(std::f64::consts::PI)),
            "vector" => {
                let values = self.scalar(arg(0)?, grid)?.into_steps(grid.steps);
                Out::Vector(vec![Series::of(Labels::empty(), false, Floats::full(values))])
            }
            "scalar" => Out::Scalar(self.scalar_of(arg(0)?, grid)?),
            "max_of" => Out::Scalar(self.of_scalars(arg(0)?, arg(1)?, grid, go_max)?),
            "min_of" => Out::Scalar(self.of_scalars(arg(0)?, arg(1)?, grid, go_min)?),
            "clamp" => {
                let all = self.vector(arg(0)?, grid)?;
                let (min, max) = (self.scalar(arg(1)?, grid)?, self.scalar(arg(2)?, grid)?);
                self.clamp(all, &min, &max, grid)?
            }
            "clamp_min" => {
                let all = self.vector(arg(0)?, grid)?;
                let min = self.scalar(arg(1)?, grid)?;
                self.clamp(all, &min, &Scalar::Constant(f64::INFINITY), grid)?
            }
            "clamp_max" => {
                let all = self.vector(arg(0)?, grid)?;
                let max = self.scalar(arg(1)?, grid)?;
                self.clamp(all, &Scalar::Constant(f64::NEG_INFINITY), &max, grid)?
            }
            "round" => {
                let all = self.vector(arg(0)?, grid)?;
                let nearest = match call.args.get(1) {
                    Some(a) => self.scalar(a, grid)?,
                    None => Scalar::Constant(1.0),
                };
                self.map_steps(all, |v, step| math::round(v, nearest.at(step)))?
            }
            "timestamp" | "start_timestamp" => self.timestamps(call, grid)?,
            "absent" => self.absent(call, grid)?,
            "sort" | "sort_desc" | "sort_by_label" | "sort_by_label_desc" => self.sort(call, pos, grid)?,
            "label_replace" => self.label_replace(call, grid)?,
            "label_join" => self.label_join(call, grid)?,
            "histogram_quantile" | "histogram_quantiles" | "histogram_fraction" => self.histogram_call(call, grid)?,
            "info" => self.info(call, grid)?,
            other => return Err(EngineError::Execution(format!("unexpected function {other}"))),
        })
    }

    /// The series of the result of a function that drops names.
    pub(crate) fn renamed(&self, all: Vec<Series>) -> Result<Out, EngineError> {
        let mut all: Vec<Series> = all.into_iter().filter(|s| !s.is_empty()).collect();
        all.iter_mut().for_each(|s| self.drop_name(s));
        Ok(Out::Vector(if self.q.options.delayed_name_removal { all } else { merge_same_labels(all)? }))
    }

    fn map_floats(&self, arg: &Node, grid: Grid, f: fn(f64) -> f64) -> Result<Out, EngineError> {
        let mut all = self.vector(arg, grid)?;
        for series in &mut all {
            series.histograms = Vec::new();
            series.floats.values.iter_mut().for_each(|v| *v = f(*v));
        }
        self.renamed(all)
    }

    fn map_steps(&self, all: Vec<Series>, f: impl Fn(f64, usize) -> f64) -> Result<Out, EngineError> {
        let all = all.into_iter().map(|series| {
            let mut series = series.only_floats();
            series.floats.values.iter_mut().enumerate().for_each(|(step, v)| *v = f(*v, step));
            series
        });
        self.renamed(all.collect())
    }

    fn map_histograms(
        &self,
        arg: &Node,
        grid: Grid,
        f: fn(&narthex_model::Histogram) -> f64,
    ) -> Result<Out, EngineError> {
        let mut out = Vec::new();
        for series in self.vector(arg, grid)? {
            let mut floats = Floats::none(grid.steps);
            for (step, h) in series.histograms.iter().enumerate() {
                if let Some(h) = h {
                    floats.set(step, f(h));
                }
            }
            if floats.present.is_empty() {
                continue;
            }
            let mut series = Series::of(series.labels, series.drop_name, floats);
            if !self.q.options.delayed_name_removal {
                // Only the name goes here, type and unit stay.
                series.labels = series.labels.drop_metric_name();
            }
            series.drop_name = true;
            out.push(series);
        }
        Ok(Out::Vector(if self.q.options.delayed_name_removal { out } else { merge_same_labels(out)? }))
    }

    fn scalar_of(&self, arg: &Node, grid: Grid) -> Result<Scalar, EngineError> {
        let all = self.vector(arg, grid)?;
        let mut values = vec![f64::NAN; grid.steps];
        let mut found = Bits::none(grid.steps);
        for series in &all {
            if series.floats.values.is_empty() {
                continue;
            }
            for step in series.floats.present.iter() {
                values[step] = if found.get(step) { f64::NAN } else { series.floats.values[step] };
                found.set(step);
            }
        }
        self.q.forget(&all);
        Ok(Scalar::Steps(values))
    }

    fn of_scalars(&self, a: &Node, b: &Node, grid: Grid, f: fn(f64, f64) -> f64) -> Result<Scalar, EngineError> {
        let (a, b) = (self.scalar(a, grid)?, self.scalar(b, grid)?);
        if let (Some(a), Some(b)) = (a.constant(), b.constant()) {
            return Ok(Scalar::Constant(f(a, b)));
        }
        Ok(Scalar::Steps((0..grid.steps).map(|i| f(a.at(i), b.at(i))).collect()))
    }

    fn clamp(&self, all: Vec<Series>, min: &Scalar, max: &Scalar, grid: Grid) -> Result<Out, EngineError> {
        let mut valid = Bits::none(grid.steps);
        (0..grid.steps).filter(|i| max.at(*i) >= min.at(*i) || max.at(*i).is_nan() || min.at(*i).is_nan()).for_each(
            |i| {
                valid.set(i);
            },
        );
        let all = all.into_iter().map(|series| {
            let mut series = series.only_floats();
            series.floats.present.and(&valid);
            for (step, v) in series.floats.values.iter_mut().enumerate() {
                *v = go_max(min.at(step), go_min(max.at(step), *v));
            }
            series
        });
        self.renamed(all.collect())
    }

    fn timestamps(&self, call: &Call, grid: Grid) -> Result<Out, EngineError> {
        let is_start = call.name == "start_timestamp";
        let Some(arg) = call.args.first() else { return Ok(Out::Vector(Vec::new())) };
        if is_start && !self.q.options.start_timestamps {
            // Nothing comes of it, but samples count as looked at.
            let all = match &arg.kind {
                Kind::Selector(s) => self.selector_in_order(s, arg.pos, grid, Want::Time)?,
                _ => self.vector(arg, grid)?,
            };
            self.q.forget(&all);
            return Ok(Out::Vector(Vec::new()));
        }
        if let Kind::Selector(s) = &arg.kind {
            let want = if is_start { Want::Start } else { Want::Time };
            return self.renamed(self.selector_in_order(s, arg.pos, grid, want)?);
        }
        let all = self.vector(arg, grid)?;
        if is_start {
            return Ok(Out::Vector(Vec::new()));
        }
        let all = all.into_iter().map(|series| {
            let present = series.present();
            let values = (0..grid.steps).map(|i| grid.time(i) as f64 / 1000.0).collect();
            Series::of(series.labels, series.drop_name, Floats { values, present })
        });
        self.renamed(all.collect())
    }

    fn absent(&self, call: &Call, grid: Grid) -> Result<Out, EngineError> {
        let Some(arg) = call.args.first() else { return Ok(Out::Vector(Vec::new())) };
        let all = self.vector(arg, grid)?;
        let mut missing = Bits::all(grid.steps);
        all.iter().for_each(|s| missing.and_not(&s.present()));
        self.q.forget(&all);
        if missing.is_empty() {
            return Ok(Out::Vector(Vec::new()));
        }
        let floats = Floats { values: vec![1.0; grid.steps], present: missing };
        Ok(Out::Vector(vec![Series::of(of_absent(&call.matchers), false, floats)]))
    }

    fn sort(&self, call: &Call, pos: PosRange, grid: Grid) -> Result<Out, EngineError> {
        let by_label = call.name.contains("label");
        let descending = call.name.ends_with("desc");
        let Some(arg) = call.args.first() else { return Ok(Out::Vector(Vec::new())) };
        let mut all = self.vector(arg, grid)?;
        if grid.until != grid.start {
            self.annotate(Annotation::sort_in_range_query(pos));
        }
        if !by_label {
            all = all.into_iter().map(Series::only_floats).filter(|s| !s.is_empty()).collect();
        }
        if grid.steps == 1 {
            if by_label {
                let names: Vec<&str> = call.args[1..]
                    .iter()
                    .filter_map(|a| if let Kind::String(s, _) = &a.kind { Some(s.as_str()) } else { None })
                    .collect();
                let differ =
                    |a: &Series, b: &Series| names.iter().find(|n| a.labels.value(n) != b.labels.value(n)).copied();
                let less = |a: &Series, b: &Series| match differ(a, b) {
                    Some(name) => sort::natural_less(a.labels.value(name), b.labels.value(name)) != descending,
                    None => (a.labels < b.labels) != descending,
                };
                sort::sort_as_go(&mut all, less);
            } else {
                let value = |s: &Series| s.floats.get(0).unwrap_or(f64::NAN);
                sort::sort_as_go(&mut all, |a, b| sort::value_less(value(a), value(b), descending));
            }
        }
        Ok(Out::Vector(all))
    }

    fn string<'a>(&self, call: &'a Call, i: usize) -> &'a str {
        match call.args.get(i).map(|a| &a.kind) {
            Some(Kind::String(s, _)) => s,
            _ => "",
        }
    }

    fn label_replace(&self, call: &Call, grid: Grid) -> Result<Out, EngineError> {
        let text = |i| self.string(call, i);
        let replace = Replace::new(text(1), text(2), text(3), text(4)).map_err(EngineError::Execution)?;
        let mut all = self.vector(&call.args[0], grid)?;
        for series in &mut all {
            if let Some(labels) = replace.apply(&series.labels) {
                series.labels = labels;
                if replace.sets_name() {
                    series.drop_name = false;
                }
            }
        }
        Ok(Out::Vector(merge_same_labels(all)?))
    }

    fn label_join(&self, call: &Call, grid: Grid) -> Result<Out, EngineError> {
        let (dst, separator) = (self.string(call, 1), self.string(call, 2));
        let sources: Vec<&str> = (3..call.args.len()).map(|i| self.string(call, i)).collect();
        let valid = |name: &str| !name.is_empty() && !name.contains('\u{fffd}');
        if let Some(bad) = sources.iter().find(|s| !valid(s)) {
            return Err(EngineError::Execution(format!("invalid source label name in label_join(): {bad}")));
        }
        if !valid(dst) {
            return Err(EngineError::Execution(format!("invalid destination label name in label_join(): {dst}")));
        }
        let mut all = self.vector(&call.args[0], grid)?;
        for series in &mut all {
            let parts: Vec<&str> = sources.iter().map(|s| series.labels.value(s)).collect();
            let mut builder = series.labels.to_builder();
            builder.set(dst, parts.join(separator));
            series.labels = builder.build();
            if dst == narthex_model::METRIC_NAME {
                series.drop_name = false;
            }
        }
        Ok(Out::Vector(merge_same_labels(all)?))
    }
}
