//! `histogram_quantile`, `histogram_quantiles` and `histogram_fraction` over classic and native histograms. Which series
//! are buckets of the same histogram is found once; the steps only collect counts.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use narthex_model::histogram::{NanObservations, fraction, quantile};
use narthex_model::{Labels, LabelsBuilder};

use super::EngineError;
use super::columns::{Bits, Floats, Series};
use super::eval::{Evaluator, Out, Scalar, merge_same_labels};
use super::plan::{Call, Kind, Node};
use super::windows::Grid;
use crate::annotations::Annotation;
use crate::ast::PosRange;
use crate::functions::histogram::{ClassicBucket, classic_fraction, classic_quantile, parse_le};
use crate::functions::labels::drop_metadata;

/// A classic histogram: its labels without `le`, and its series with their bounds.
struct Classic {
    labels: Labels,
    buckets: Vec<(f64, usize)>,
    /// Steps at which some bucket has a value.
    present: Bits,
}

/// What is asked of each histogram.
enum Ask<'a> {
    Quantile { q: &'a Scalar, label: Option<&'a str>, pos: PosRange },
    Fraction { lower: &'a Scalar, upper: &'a Scalar, pos: PosRange },
}

impl Evaluator<'_> {
    pub(crate) fn histogram_call(&self, call: &Call, grid: Grid) -> Result<Out, EngineError> {
        let arg = |i: usize| -> Result<&Node, EngineError> {
            call.args.get(i).ok_or_else(|| EngineError::Execution(format!("{} lacks an argument", call.name)))
        };
        match call.name {
            "histogram_quantile" => {
                let q = self.scalar(arg(0)?, grid)?;
                let vector = arg(1)?;
                let all = self.vector(vector, grid)?;
                self.validate_quantile(&q, grid, arg(0)?.pos);
                let ask = Ask::Quantile { q: &q, label: None, pos: vector.pos };
                self.histograms(all, vector.pos, grid, &[ask])
            }
            "histogram_fraction" => {
                let (lower, upper) = (self.scalar(arg(0)?, grid)?, self.scalar(arg(1)?, grid)?);
                let vector = arg(2)?;
                let all = self.vector(vector, grid)?;
                let ask = Ask::Fraction { lower: &lower, upper: &upper, pos: vector.pos };
                self.histograms(all, vector.pos, grid, &[ask])
            }
            _ => {
                let vector = arg(0)?;
                let all = self.vector(vector, grid)?;
                let label = match &arg(1)?.kind {
                    Kind::String(s, _) => s.as_str(),
                    _ => "",
                };
                let mut quantiles = Vec::new();
                for a in &call.args[2..] {
                    let q = self.scalar(a, grid)?;
                    self.validate_quantile(&q, grid, a.pos);
                    quantiles.push(q);
                }
                let asks: Vec<Ask<'_>> =
                    quantiles.iter().map(|q| Ask::Quantile { q, label: Some(label), pos: vector.pos }).collect();
                self.histograms(all, vector.pos, grid, &asks)
            }
        }
    }

    fn validate_quantile(&self, q: &Scalar, grid: Grid, pos: PosRange) {
        let steps = if q.constant().is_some() { grid.steps.min(1) } else { grid.steps };
        for q in (0..steps).map(|i| q.at(i)) {
            if !(0.0..=1.0).contains(&q) {
                self.annotate(Annotation::invalid_quantile(q, pos));
            }
        }
    }

    fn histograms(&self, all: Vec<Series>, pos: PosRange, grid: Grid, asks: &[Ask<'_>]) -> Result<Out, EngineError> {
        let delayed = self.q.options.delayed_name_removal;
        let shown = |labels: &Labels| if delayed { labels.metric_name().to_owned() } else { String::new() };
        let mut groups: Vec<Classic> = Vec::new();
        let mut by_labels: HashMap<Labels, usize> = HashMap::new();
        for (i, series) in all.iter().enumerate() {
            if series.floats.present.is_empty() {
                continue;
            }
            let le = series.labels.value("le");
            let Some(bound) = parse_le(le) else {
                self.annotate(Annotation::bad_bucket_label(&shown(&series.labels), le, pos));
                continue;
            };
            let labels = Labels::from_sorted(series.labels.iter().filter(|(n, _)| *n != "le"));
            let g = *by_labels.entry(labels.clone()).or_insert_with(|| {
                groups.push(Classic { labels, buckets: Vec::new(), present: Bits::none(grid.steps) });
                groups.len() - 1
            });
            groups[g].buckets.push((bound, i));
            groups[g].present.or(&series.floats.present);
        }
        // A native histogram beside a classic one of the same labels: neither is looked at.
        let mut conflicts: Vec<Bits> = Vec::new();
        for series in all.iter().filter(|s| s.has_histograms()) {
            let mut conflict = Bits::none(grid.steps);
            if let Some(g) = by_labels.get(&series.labels) {
                for step in 0..grid.steps {
                    if series.histogram(step).is_some() && groups[*g].present.get(step) {
                        conflict.set(step);
                    }
                }
                if !conflict.is_empty() {
                    self.annotate(Annotation::mixed_classic_native(&shown(&series.labels), pos));
                    groups[*g].present.and_not(&conflict);
                }
            }
            conflicts.push(conflict);
        }

        let mut out: Vec<Vec<Series>> = asks.iter().map(|_| Vec::new()).collect();
        for (ask, out) in asks.iter().zip(&mut out) {
            for (series, conflict) in all.iter().filter(|s| s.has_histograms()).zip(&conflicts) {
                let labels = if delayed { series.labels.clone() } else { drop_metadata(&series.labels) };
                let mut result = Answer::new(ask, labels.clone(), grid);
                for (step, h) in series.histograms.iter().enumerate() {
                    let Some(h) = h else { continue };
                    if conflict.get(step) {
                        continue;
                    }
                    let (value, note, pos) = match ask {
                        Ask::Quantile { q, pos, .. } => {
                            let (value, note) = quantile(q.at(step), h);
                            (value, note, *pos)
                        }
                        Ask::Fraction { lower, upper, pos } => {
                            let (value, note) = fraction(lower.at(step), upper.at(step), h);
                            (value, note, *pos)
                        }
                    };
                    if let Some(note) = note {
                        let name = labels.metric_name();
                        self.annotate(match note {
                            NanObservations::ResultIsNan => Annotation::quantile_is_nan(name, pos),
                            NanObservations::SkewedHigher => Annotation::quantile_is_skewed(name, pos),
                            NanObservations::LeftOut => Annotation::fraction_excludes_nan(name, pos),
                        });
                    }
                    result.set(ask, step, value);
                }
                result.finish(out);
            }
        }
        let mut buckets: Vec<ClassicBucket> = Vec::new();
        let mut forced: BTreeMap<String, Forced> = BTreeMap::new();
        for (n, group) in groups.iter().enumerate() {
            self.q.check_sometimes(n)?;
            let labels = if delayed { group.labels.clone() } else { drop_metadata(&group.labels) };
            let mut results: Vec<Answer> = asks.iter().map(|ask| Answer::new(ask, labels.clone(), grid)).collect();
            for step in group.present.iter() {
                buckets.clear();
                buckets.extend(
                    group.buckets.iter().filter_map(|(bound, i)| {
                        Some(ClassicBucket { bound: *bound, count: all[*i].floats.get(step)? })
                    }),
                );
                // A second quantile is asked of the buckets as the first one left them, as in Prometheus.
                for (ask, result) in asks.iter().zip(&mut results) {
                    let value = match ask {
                        Ask::Fraction { lower, upper, .. } => {
                            classic_fraction(lower.at(step), upper.at(step), &mut buckets)
                        }
                        Ask::Quantile { q, pos, .. } => {
                            let (value, mended) = classic_quantile(q.at(step), &mut buckets);
                            if let Some(f) = mended {
                                let name = shown(&group.labels);
                                let (bounds, time) = ((f.min_bucket, f.max_bucket), grid.time(step));
                                let note = Annotation::forced_monotonicity(&name, *pos, time, bounds, f.max_diff);
                                match forced.get_mut(&name) {
                                    Some(forced) => forced.note(note, step),
                                    None => {
                                        forced.insert(name, Forced::new(note, step, grid));
                                    }
                                }
                            }
                            value
                        }
                    };
                    result.set(ask, step, value);
                }
            }
            for (result, out) in results.into_iter().zip(&mut out) {
                result.finish(out);
            }
        }
        forced.into_values().for_each(|f| self.annotate(f.annotation()));
        let out: Vec<Series> = out.into_iter().flatten().collect();
        self.q.forget(&all);
        Ok(Out::Vector(if delayed { out } else { merge_same_labels(out)? }))
    }
}

/// What is to be said of buckets whose counts fell, for one metric name.
struct Forced {
    note: Annotation,
    /// How often, by step.
    events: Vec<u32>,
}

impl Forced {
    fn new(note: Annotation, step: usize, grid: Grid) -> Forced {
        let mut events = vec![0; grid.steps];
        events[step] = 1;
        Forced { note, events }
    }

    fn note(&mut self, note: Annotation, step: usize) {
        self.note.widen(&note);
        self.events[step] += 1;
    }

    /// With the count of samples as Prometheus shows it: from the second step on it adds its count to itself, as it
    /// merges an annotation with that annotation.
    fn annotation(mut self) -> Annotation {
        let mut samples = 0i64;
        let mut began = false;
        for n in &self.events {
            samples = samples.wrapping_add(i64::from(*n));
            if began {
                samples = samples.wrapping_mul(2);
            }
            began |= *n > 0;
        }
        self.note.set_samples(samples);
        self.note
    }
}

/// The results for one histogram: a series, or with a label for the quantile one series for each of its values.
struct Answer {
    labels: Labels,
    steps: usize,
    series: Vec<(u64, Series)>,
}

impl Answer {
    fn new(ask: &Ask<'_>, labels: Labels, grid: Grid) -> Answer {
        let mut answer = Answer { labels, steps: grid.steps, series: Vec::new() };
        if !matches!(ask, Ask::Quantile { label: Some(_), .. }) {
            let series = Series::of(answer.labels.clone(), true, Floats::none(grid.steps));
            answer.series.push((0, series));
        }
        answer
    }

    fn set(&mut self, ask: &Ask<'_>, step: usize, value: f64) {
        let (key, label) = match ask {
            // The two zeros are one quantile.
            Ask::Quantile { q, label: Some(label), .. } => (q.at(step) + 0.0, Some(*label)),
            _ => (0.0, None),
        };
        let bits = if label.is_some() { key.to_bits() } else { 0 };
        let at = self.series.iter().position(|(k, _)| *k == bits).unwrap_or_else(|| {
            let mut builder: LabelsBuilder = self.labels.to_builder();
            if let Some(label) = label {
                builder.set(label, open_metrics_float(key));
            }
            self.series.push((bits, Series::of(builder.build(), true, Floats::none(self.steps))));
            self.series.len() - 1
        });
        self.series[at].1.floats.set(step, value);
    }

    fn finish(self, out: &mut Vec<Series>) {
        out.extend(self.series.into_iter().map(|(_, s)| s).filter(|s| !s.is_empty()));
    }
}

/// As OpenMetrics writes floats: always with a point or an exponent; zero has no sign.
fn open_metrics_float(v: f64) -> String {
    if v == 0.0 {
        return "0.0".into();
    }
    let text = narthex_model::number::format_g(v);
    if !v.is_finite() || text.contains(['.', 'e']) { text } else { text + ".0" }
}
