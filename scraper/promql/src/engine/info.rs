//! `info`: adds the data labels of info series to the series of a vector.

use std::collections::BTreeSet;

use hashbrown::{HashMap, HashSet};
use narthex_model::{Labels, METRIC_NAME, Matcher};

use super::EngineError;
use super::columns::Series;
use super::eval::{Evaluator, Out, Want, merge_same_labels};
use super::plan::{Call, InfoSelect, Selector, effective_info_names};
use super::query::sort_by_labels;
use super::windows::Grid;
use crate::ast::PosRange;

/// By these labels info series belong to others (as Prometheus has it, for now).
pub(super) const IDENTIFYING: [&str; 2] = ["instance", "job"];

fn identity(labels: &Labels) -> Labels {
    labels.keep(&IDENTIFYING)
}

impl Evaluator<'_> {
    pub(crate) fn info(&self, call: &Call, grid: Grid) -> Result<Out, EngineError> {
        let (Some(arg), Some(select)) = (call.args.first(), &call.info) else {
            return Err(EngineError::Execution("info lacks an argument".into()));
        };
        let base = self.vector(arg, grid)?;
        let names: Vec<Matcher> = select.matchers.iter().filter(|m| &*m.name == METRIC_NAME).cloned().collect();
        let names = effective_info_names(&names);
        let is_info = |labels: &Labels| names.iter().all(|m| m.matches(labels.metric_name()));
        let mut data: HashMap<&str, Vec<&Matcher>> = HashMap::new();
        for m in select.matchers.iter().filter(|m| &*m.name != METRIC_NAME) {
            data.entry(&*m.name).or_default().push(m);
        }
        let infos = self.info_series(select, &base, &is_info, grid)?;

        // Info series by name and identity.
        let mut by_identity: HashMap<Labels, Vec<(usize, Vec<usize>)>> = HashMap::new();
        let info_names: BTreeSet<&str> = infos.iter().map(|s| s.labels.metric_name()).collect();
        let info_names: Vec<&str> = info_names.into_iter().collect();
        for (i, series) in infos.iter().enumerate() {
            let name = info_names.binary_search(&series.labels.metric_name()).unwrap_or(0);
            let entry = by_identity.entry(identity(&series.labels)).or_default();
            match entry.iter_mut().find(|(n, _)| *n == name) {
                Some((_, all)) => all.push(i),
                None => entry.push((name, vec![i])),
            }
        }
        self.check_conflicts(&base, &infos, &by_identity, grid)?;

        let mut out: Vec<Series> = Vec::new();
        for (n, series) in base.iter().enumerate() {
            self.q.check_sometimes(n)?;
            if is_info(&series.labels) {
                out.push(series.clone());
                continue;
            }
            let mut made: HashMap<Vec<usize>, usize> = HashMap::new();
            let candidates = by_identity.get(&identity(&series.labels));
            for step in series.present().iter() {
                let mut matched: Vec<usize> = Vec::new();
                for (_, all) in candidates.into_iter().flatten() {
                    matched.extend(newest(&infos, all, step));
                }
                let at = match made.get(&matched) {
                    Some(at) => *at,
                    None => {
                        let labels = match enrich(series, &infos, &matched, &data)? {
                            Some(labels) => labels,
                            None => {
                                made.insert(matched, usize::MAX);
                                continue;
                            }
                        };
                        let mut enriched = Series::new(labels, grid.steps);
                        enriched.drop_name = series.drop_name;
                        out.push(enriched);
                        made.insert(matched, out.len() - 1);
                        out.len() - 1
                    }
                };
                if let (Some(target), Some(point)) = (out.get_mut(at), series.at(step)) {
                    target.set(step, point);
                }
            }
        }
        self.q.forget(&base);
        self.q.forget(&infos);
        Ok(Out::Vector(merge_same_labels(out)?))
    }

    /// The info series that belong to some base series; their values are the times of their samples.
    fn info_series(
        &self,
        select: &InfoSelect,
        base: &[Series],
        is_info: &dyn Fn(&Labels) -> bool,
        grid: Grid,
    ) -> Result<Vec<Series>, EngineError> {
        let mut wanted: [HashSet<String>; 2] = Default::default();
        for series in base.iter().filter(|s| !is_info(&s.labels)) {
            for (name, values) in IDENTIFYING.iter().zip(&mut wanted) {
                if let Some(value) = series.labels.get(name) {
                    values.insert(value.to_owned());
                }
            }
        }
        if wanted.iter().all(HashSet::is_empty) {
            return Ok(Vec::new());
        }
        let selector = Selector {
            id: select.id,
            offset: select.offset,
            at: select.at,
            anchored: false,
            smoothed: false,
            skip_buckets: false,
            some_labels: false,
        };
        let mut infos: Vec<Series> = Vec::new();
        self.selector(&selector, PosRange::default(), grid, Want::Millis, &mut |series| {
            let fits = IDENTIFYING
                .iter()
                .zip(&wanted)
                .all(|(name, values)| values.is_empty() || values.contains(series.labels.value(name)));
            if fits {
                if series.has_histograms() {
                    let labels = &series.labels;
                    return Err(EngineError::Execution(format!(
                        "this should be an info metric, with float samples: {labels}"
                    )));
                }
                self.q.keep(series)?;
                infos.push(series.take());
            }
            Ok(())
        })?;
        sort_by_labels(&mut infos, |s| &s.labels);
        Ok(infos)
    }

    /// Two info series of the same name and identity with samples of the same time contradict each other.
    fn check_conflicts(
        &self,
        base: &[Series],
        infos: &[Series],
        by_identity: &HashMap<Labels, Vec<(usize, Vec<usize>)>>,
        grid: Grid,
    ) -> Result<(), EngineError> {
        let mut any_base = super::columns::Bits::none(grid.steps);
        base.iter().for_each(|s| any_base.or(&s.present()));
        let mut first: Option<(usize, usize, usize, i64)> = None;
        for (_, all) in by_identity.values().flatten().filter(|(_, all)| all.len() > 1) {
            for step in any_base.iter() {
                if first.is_some_and(|f| step >= f.0) {
                    break;
                }
                let mut newest: Option<(usize, f64)> = None;
                for i in all {
                    let Some(t) = infos[*i].floats.get(step) else { continue };
                    match newest {
                        Some((existing, at)) if at == t => {
                            first = Some((step, existing, *i, t as i64));
                        }
                        Some((_, at)) if at > t => {}
                        _ => newest = Some((*i, t)),
                    }
                }
            }
        }
        match first {
            None => Ok(()),
            Some((_, existing, new, t)) => Err(EngineError::Execution(format!(
                "found duplicate series for info metric: existing {} @ {t}, new {} @ {t}",
                metric_text(&infos[existing].labels),
                metric_text(&infos[new].labels)
            ))),
        }
    }
}

/// The info series with the newest sample at a step.
fn newest(infos: &[Series], all: &[usize], step: usize) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for i in all {
        if let Some(t) = infos[*i].floats.get(step)
            && best.is_none_or(|(_, at)| t > at)
        {
            best = Some((*i, t));
        }
    }
    best.map(|(i, _)| i)
}

/// The labels of a base series with the data labels of the info series that match it; none where it is to be left out.
fn enrich(
    base: &Series,
    infos: &[Series],
    matched: &[usize],
    data: &HashMap<&str, Vec<&Matcher>>,
) -> Result<Option<Labels>, EngineError> {
    let mut added: Vec<(&str, &str)> = Vec::new();
    for i in matched {
        for (name, value) in infos[*i].labels.iter() {
            if name == METRIC_NAME || (!data.is_empty() && !data.contains_key(name)) {
                continue;
            }
            if added.iter().any(|(n, v)| *n == name && *v != value) {
                return Err(EngineError::Execution(format!("conflicting label: {name}")));
            }
            if base.labels.get(name).is_none() {
                added.push((name, value));
            }
        }
    }
    if matched.is_empty() && !data.values().flatten().all(|m| m.matches_empty()) {
        return Ok(None);
    }
    let mut builder = base.labels.to_builder();
    for (name, value) in added {
        builder.set(name, value);
    }
    Ok(Some(builder.build()))
}

/// A label set as Go's `Labels.String` prints it.
fn metric_text(labels: &Labels) -> String {
    labels.to_string()
}
