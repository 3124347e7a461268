//! Warnings and infos that go with a result, with Prometheus's texts (`util/annotations`).
//!
//! An annotation is kept once per text; of several with the same text the last one's position is shown, unless they
//! count samples: then it is the first one's.

use std::collections::BTreeMap;

use narthex_model::labels::quote;
use narthex_model::number::format_g;

use crate::ast::PosRange;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Warning,
    Info,
}

/// What a histogram operation was, in texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HistogramOperation {
    Add,
    Sub,
    Aggregate,
}

impl HistogramOperation {
    fn as_str(self) -> &'static str {
        match self {
            HistogramOperation::Add => "addition",
            HistogramOperation::Sub => "subtraction",
            HistogramOperation::Aggregate => "aggregation",
        }
    }
}

/// What several annotations of the same text add up to.
#[derive(Clone, Debug)]
enum Detail {
    None,
    /// The samples are what Prometheus counts, wrapping as Go does.
    Monotonicity {
        min_time: i64,
        max_time: i64,
        min_bucket: f64,
        max_bucket: f64,
        max_diff: f64,
        samples: i64,
    },
    StartOverlap {
        count: u64,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Annotation {
    severity: Severity,
    text: String,
    pos: Option<PosRange>,
    detail: Detail,
}

impl Annotation {
    fn warning(text: String, pos: PosRange) -> Annotation {
        let text = format!("PromQL warning: {text}");
        Annotation { severity: Severity::Warning, text, pos: Some(pos), detail: Detail::None }
    }

    fn info(text: String, pos: PosRange) -> Annotation {
        let text = format!("PromQL info: {text}");
        Annotation { severity: Severity::Info, text, pos: Some(pos), detail: Detail::None }
    }

    /// Something that the store said.
    pub(crate) fn storage(text: String) -> Annotation {
        Annotation { severity: Severity::Warning, text, pos: None, detail: Detail::None }
    }

    pub(crate) fn invalid_quantile(q: f64, pos: PosRange) -> Annotation {
        Self::warning(format!("quantile value should be between 0 and 1, got {}", format_g(q)), pos)
    }

    pub(crate) fn invalid_ratio(ratio: f64, capped: f64, pos: PosRange) -> Annotation {
        let (ratio, capped) = (format_g(ratio), format_g(capped));
        Self::warning(format!("ratio value should be between -1 and 1, got {ratio}, capping to {capped}"), pos)
    }

    pub(crate) fn bad_bucket_label(metric: &str, le: &str, pos: PosRange) -> Annotation {
        let text = format!("bucket label \"le\" is missing or has a malformed value of {}", quote(le));
        Self::warning(with_name(text, metric), pos)
    }

    pub(crate) fn mixed_floats_histograms(metric: &str, pos: PosRange) -> Annotation {
        Self::warning(format!("encountered a mix of histograms and floats for metric name {}", quote(metric)), pos)
    }

    pub(crate) fn mixed_floats_histograms_aggregation(pos: PosRange) -> Annotation {
        Self::warning("encountered a mix of histograms and floats for aggregation".into(), pos)
    }

    pub(crate) fn mixed_classic_native(metric: &str, pos: PosRange) -> Annotation {
        Self::warning(with_name("vector contains a mix of classic and native histograms".into(), metric), pos)
    }

    pub(crate) fn not_a_counter(metric: &str, pos: PosRange) -> Annotation {
        Self::warning(format!("this native histogram metric is not a counter: {}", quote(metric)), pos)
    }

    pub(crate) fn not_a_gauge(metric: &str, pos: PosRange) -> Annotation {
        Self::warning(format!("this native histogram metric is not a gauge: {}", quote(metric)), pos)
    }

    pub(crate) fn mixed_exponential_custom(metric: &str, pos: PosRange) -> Annotation {
        let name = quote(metric);
        Self::warning(
            format!(
                "vector contains a mix of histograms with exponential and custom buckets schemas for metric name {name}"
            ),
            pos,
        )
    }

    pub(crate) fn incompatible_bucket_layout(operator: &str, pos: PosRange) -> Annotation {
        Self::warning(format!("incompatible bucket layout encountered for binary operator {operator}"), pos)
    }

    pub(crate) fn sort_in_range_query(pos: PosRange) -> Annotation {
        let text = "sort is ineffective for range queries since results are always ordered by labels";
        Self::warning(text.into(), pos)
    }

    pub(crate) fn counter_reset_collision(operation: HistogramOperation, pos: PosRange) -> Annotation {
        Self::warning(format!("conflicting counter resets during histogram {}", operation.as_str()), pos)
    }

    pub(crate) fn possible_non_counter(metric: &str, pos: PosRange) -> Annotation {
        let name = quote(metric);
        Self::info(
            format!("metric might not be a counter, name does not end in _total/_sum/_count/_bucket: {name}"),
            pos,
        )
    }

    pub(crate) fn possible_non_counter_label(metric: &str, label: &str, pos: PosRange) -> Annotation {
        let (label, name) = (quote(label), quote(metric));
        Self::info(
            format!(
                "metric might not be a counter, __type__ label is not set to \"counter\" or \"histogram\", got {label}: {name}"
            ),
            pos,
        )
    }

    pub(crate) fn incompatible_types(left: &str, operator: &str, right: &str, pos: PosRange) -> Annotation {
        let text = format!(
            "incompatible sample types encountered for binary operator {}: {left} {operator} {right}",
            quote(operator)
        );
        Self::info(text, pos)
    }

    pub(crate) fn ignored_in_aggregation(aggregation: &str, pos: PosRange) -> Annotation {
        Self::info(format!("ignored histogram in {aggregation} aggregation"), pos)
    }

    pub(crate) fn ignored_in_mixed_range(metric: &str, pos: PosRange) -> Annotation {
        let name = quote(metric);
        Self::info(
            format!("ignored histograms in a range containing both floats and histograms for metric name {name}"),
            pos,
        )
    }

    pub(crate) fn quantile_is_nan(metric: &str, pos: PosRange) -> Annotation {
        let text = "input to histogram_quantile has NaN observations, result is NaN";
        Self::info(with_name(text.into(), metric), pos)
    }

    pub(crate) fn quantile_is_skewed(metric: &str, pos: PosRange) -> Annotation {
        let text = "input to histogram_quantile has NaN observations, result is skewed higher";
        Self::info(with_name(text.into(), metric), pos)
    }

    pub(crate) fn fraction_excludes_nan(metric: &str, pos: PosRange) -> Annotation {
        let text = "input to histogram_fraction has NaN observations, which are excluded from all fractions";
        Self::info(with_name(text.into(), metric), pos)
    }

    pub(crate) fn bounds_reconciled(operation: HistogramOperation, pos: PosRange) -> Annotation {
        Self::info(format!("mismatched custom buckets were reconciled during {}", operation.as_str()), pos)
    }

    pub(crate) fn forced_monotonicity(
        metric: &str,
        pos: PosRange,
        time: i64,
        buckets: (f64, f64),
        max_diff: f64,
    ) -> Annotation {
        let text = "input to histogram_quantile needed to be fixed for monotonicity \
            (see https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile)";
        let mut annotation = Self::info(with_name(text.into(), metric), pos);
        annotation.detail = Detail::Monotonicity {
            min_time: time,
            max_time: time,
            min_bucket: buckets.0,
            max_bucket: buckets.1,
            max_diff,
            samples: 1,
        };
        annotation
    }

    /// Takes in what another one of [`Annotation::forced_monotonicity`] says, but for its samples.
    pub(crate) fn widen(&mut self, other: &Annotation) {
        if let (
            Detail::Monotonicity { min_time, max_time, min_bucket, max_bucket, max_diff, .. },
            Detail::Monotonicity { min_time: t0, max_time: t1, min_bucket: b0, max_bucket: b1, max_diff: d, .. },
        ) = (&mut self.detail, &other.detail)
        {
            *min_time = (*min_time).min(*t0);
            *max_time = (*max_time).max(*t1);
            *min_bucket = min_bucket.min(*b0);
            *max_bucket = max_bucket.max(*b1);
            *max_diff = max_diff.max(*d);
        }
    }

    /// Says how many samples [`Annotation::forced_monotonicity`] speaks of.
    pub(crate) fn set_samples(&mut self, count: i64) {
        if let Detail::Monotonicity { samples, .. } = &mut self.detail {
            *samples = count;
        }
    }

    pub(crate) fn start_time_overlap(metric: &str, pos: PosRange) -> Annotation {
        let name = quote(metric);
        let text = format!("sample has start time that overlaps with previous sample timestamp for metric {name}");
        let mut annotation = Self::warning(text, pos);
        annotation.detail = Detail::StartOverlap { count: 1 };
        annotation
    }

    fn render(&self, query: &str) -> String {
        let mut out = self.text.clone();
        match &self.detail {
            Detail::None => {}
            Detail::Monotonicity { min_time, max_time, min_bucket, max_bucket, max_diff, samples } => {
                let (from, to) = (rfc3339(*min_time), rfc3339(*max_time));
                let (low, high, diff) = (format_g(*min_bucket), format_g(*max_bucket), two_digits(*max_diff));
                out += &format!(
                    ", from buckets {low} to {high}, with a max diff of {diff}, over {samples} samples from {from} to {to}"
                );
            }
            Detail::StartOverlap { count } if *count > 1 => out += &format!(" ({count} occurrences)"),
            Detail::StartOverlap { .. } => {}
        }
        if let Some(pos) = self.pos {
            out += &format!(" ({})", pos.start_in(query));
        }
        out
    }
}

fn with_name(text: String, metric: &str) -> String {
    if metric.is_empty() { text } else { format!("{text} for metric name {}", quote(metric)) }
}

fn rfc3339(millis: i64) -> String {
    jiff::Timestamp::from_second(millis / 1000).map(|t| t.to_string()).unwrap_or_else(|_| (millis / 1000).to_string())
}

/// Go's `%.2g`.
fn two_digits(v: f64) -> String {
    if !v.is_finite() || v == 0.0 {
        return format_g(v);
    }
    let digits = format!("{v:.1e}");
    let (mantissa, exponent) = digits.split_once('e').unwrap_or((&digits, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let mantissa = mantissa.strip_suffix(".0").unwrap_or(mantissa);
    if (-4..2).contains(&exponent) {
        let text = format!("{:.*}", (1 - exponent).max(0) as usize, v);
        return if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text };
    }
    format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// The annotations of one query.
#[derive(Clone, Debug, Default)]
pub struct Annotations(BTreeMap<String, Annotation>);

impl Annotations {
    pub(crate) fn add(&mut self, mut new: Annotation) {
        if let Some(old) = self.0.get(&new.text) {
            new.widen(old);
            match (&mut new.detail, &old.detail) {
                (Detail::Monotonicity { samples, .. }, Detail::Monotonicity { samples: n, .. }) => {
                    *samples = samples.wrapping_add(*n);
                    // This kind keeps its first place.
                    new.pos = old.pos;
                }
                (Detail::StartOverlap { count }, Detail::StartOverlap { count: n }) => *count += n,
                _ => {}
            }
        }
        self.0.insert(new.text.clone(), new);
    }

    /// Adds all of `others`, their places moved by `by`; what has no place (a subquery that stands for its points, as in
    /// Prometheus) stays at the beginning.
    pub(crate) fn extend(&mut self, others: &Annotations, by: i64) {
        for other in others.0.values() {
            let mut other = other.clone();
            if let Some(pos) = other.pos.as_mut().filter(|pos| **pos != PosRange::default()) {
                let moved = |at: u32| u32::try_from(i64::from(at) + by).unwrap_or(at);
                *pos = PosRange { start: moved(pos.start), end: moved(pos.end) };
            }
            self.add(other);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn texts(&self, query: &str, severity: Severity, limit: usize) -> Vec<String> {
        let all = || self.0.values().filter(|a| a.severity == severity);
        let shown = if limit == 0 { usize::MAX } else { limit };
        let mut out: Vec<String> = all().take(shown).map(|a| a.render(query)).collect();
        let left = all().count() - out.len();
        if left > 0 {
            let kind = if severity == Severity::Warning { "warning" } else { "info" };
            out.push(format!("{left} more {kind} annotations omitted"));
        }
        out
    }

    /// The warnings with their positions in `query`, sorted; at most `limit` (0: all) and a line that says how many
    /// were left out.
    pub fn warnings(&self, query: &str, limit: usize) -> Vec<String> {
        self.texts(query, Severity::Warning, limit)
    }

    /// The infos likewise.
    pub fn infos(&self, query: &str, limit: usize) -> Vec<String> {
        self.texts(query, Severity::Info, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_counts() {
        let mut all = Annotations::default();
        let pos = PosRange::new(4, 9);
        all.add(Annotation::invalid_quantile(1.5, PosRange::new(0, 1)));
        all.add(Annotation::invalid_quantile(1.5, pos));
        all.add(Annotation::start_time_overlap("m", pos));
        all.add(Annotation::start_time_overlap("m", pos));
        all.add(Annotation::forced_monotonicity("", pos, 60_000, (0.1, 1.0), 123.0));
        all.add(Annotation::forced_monotonicity("", pos, 0, (0.5, 2.0), 1.0));
        let query = "abc\n defgh";
        assert_eq!(
            all.warnings(query, 0),
            [
                "PromQL warning: quantile value should be between 0 and 1, got 1.5 (2:1)",
                "PromQL warning: sample has start time that overlaps with previous sample timestamp for metric \"m\" (2 occurrences) (2:1)",
            ]
        );
        let infos = all.infos(query, 0);
        assert!(infos[0].ends_with(
            "from buckets 0.1 to 2, with a max diff of 1.2e+02, over 2 samples from 1970-01-01T00:00:00Z to 1970-01-01T00:01:00Z (2:1)"
        ), "{infos:?}");
        assert_eq!(all.warnings(query, 1)[1], "1 more warning annotations omitted");
    }

    #[test]
    fn as_go_prints_two_digits() {
        for (v, text) in
            [(123.0, "1.2e+02"), (0.001234, "0.0012"), (1.0, "1"), (10.0, "10"), (0.5, "0.5"), (1e-7, "1e-07")]
        {
            assert_eq!(two_digits(v), text);
        }
    }
}
