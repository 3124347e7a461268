//! From the labels of a page to those that are stored: target labels, metric relabelling, limits, name rules.

use std::sync::Arc;

use narthex_model::{Labels, LabelsBuilder, METRIC_NAME, RelabelConfig, ValidationScheme, relabel};
use narthex_storage::Budget;

use crate::exposition::{Format, RawLabels, quote_bytes};

/// What the scrape configuration says of a target's samples.
#[derive(Clone, Debug)]
pub struct SampleRules {
    pub target_labels: Labels,
    pub honor_labels: bool,
    pub honor_timestamps: bool,
    pub track_timestamps_staleness: bool,
    pub relabel: Arc<[RelabelConfig]>,
    pub names: ValidationScheme,
    /// Limits of 0 are none.
    pub sample_limit: u64,
    pub label_limit: u64,
    pub label_name_length_limit: u64,
    pub label_value_length_limit: u64,
    pub bucket_limit: u64,
    /// Series of the target, beyond which new ones are refused; and of everything that `series_owner` owns.
    pub series_limit: u64,
    pub shared_series_limit: u64,
    /// The job, or the monitor that has several: the target's group key is this, a slash and more.
    pub series_owner: Arc<str>,
    /// The finest schema of native histograms that is kept.
    pub max_schema: i32,
    pub native_histograms: bool,
    pub keep_classic_histograms: bool,
    pub convert_classic_histograms: bool,
    pub fallback: Option<Format>,
    /// Whether the three extra report series are stored.
    pub extra_metrics: bool,
    /// Whether a series has its type and unit as labels (`type-and-unit-labels`).
    pub type_and_unit: bool,
    /// Whether samples of 0 are stored where counters say that they started (`created-timestamp-zero-ingestion`).
    pub start_zeros: bool,
    /// Whether starts are kept beside the samples (`st-storage`).
    pub start_storage: bool,
    /// Whether counters that do not say so begin when they are first scraped (`st-synthesis`).
    pub start_synthesis: bool,
    /// For `scrape_timeout_seconds`.
    pub timeout_seconds: f64,
}

impl Default for SampleRules {
    fn default() -> Self {
        SampleRules {
            target_labels: Labels::empty(),
            honor_labels: false,
            honor_timestamps: true,
            track_timestamps_staleness: false,
            relabel: Arc::from([]),
            names: ValidationScheme::Utf8,
            sample_limit: 0,
            label_limit: 0,
            label_name_length_limit: 0,
            label_value_length_limit: 0,
            bucket_limit: 0,
            series_limit: 0,
            shared_series_limit: 0,
            series_owner: Arc::from(""),
            max_schema: crate::histogram::SCHEMA_MAX,
            native_histograms: false,
            keep_classic_histograms: false,
            convert_classic_histograms: false,
            fallback: None,
            extra_metrics: false,
            type_and_unit: false,
            start_zeros: false,
            start_storage: false,
            start_synthesis: false,
            timeout_seconds: 10.0,
        }
    }
}

/// The longest label set of a series; only hostile pages have longer ones.
const MAX_LABELS_BYTES: usize = 1 << 20;

/// Why a series makes the whole scrape fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SeriesError {
    pub message: String,
    pub kind: SeriesFault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SeriesFault {
    /// What is looked at before anything is stored.
    Labels,
    /// One of the label limits.
    Limit,
    /// A label that comes twice: only who stores the sample sees that, after limits of samples and times.
    Double,
}

impl SampleRules {
    /// Under which limits new series of a page are stored.
    pub(super) fn budget(&self) -> Budget<'_> {
        Budget { exempt: false, group: self.series_limit, shared: self.shared_series_limit, owner: &self.series_owner }
    }

    /// The labels to store, or `None` when relabelling drops the series.
    ///
    /// # Errors
    /// A label set that must not be stored, in Prometheus's words.
    pub(super) fn labels(&self, raw: &RawLabels) -> Result<Option<Labels>, SeriesError> {
        let fail = |message: String| Err(SeriesError { message, kind: SeriesFault::Labels });
        let mut builder = LabelsBuilder::new();
        let double = distinct(raw, &mut builder);
        self.add_target_labels(raw, &mut builder);
        if !relabel::process(&self.relabel, &mut builder) {
            return Ok(None);
        }
        let labels = builder.build();
        if labels.is_empty() {
            return Ok(None);
        }
        if labels.get(METRIC_NAME).is_none() {
            return fail("missing metric name (__name__ label)".to_owned());
        }
        if labels.heap_bytes() > MAX_LABELS_BYTES {
            return fail(format!(
                "the labels of a series are {} bytes long (metric: {})",
                labels.heap_bytes(),
                head(labels.metric_name(), 50)
            ));
        }
        let valid = self.names.is_valid_metric_name(labels.metric_name())
            && labels.iter().all(|(n, _)| n == METRIC_NAME || self.names.is_valid_label_name(n));
        if !valid {
            let pairs = raw.0.iter().map(|(n, v)| (n.clone().into_bytes(), v.clone().into_bytes())).collect();
            return fail(if double.is_some() {
                self.invalid_names(pairs)
            } else {
                format!("invalid metric name or label names: {labels}")
            });
        }
        self.check_limits(&labels)?;
        if let Some(name) = double {
            let message = format!("label name \"{name}\" is not unique: invalid sample");
            return Err(SeriesError { message, kind: SeriesFault::Double });
        }
        Ok(Some(labels))
    }

    /// The message for names that must not be stored, of labels that may not even be text; the target's labels are
    /// added to them.
    pub(super) fn invalid_names(&self, mut pairs: Vec<(Vec<u8>, Vec<u8>)>) -> String {
        pairs.extend(self.target_labels.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec())));
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        let plain = |name: &[u8]| {
            name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_')
                && name.first().is_some_and(|b| !b.is_ascii_digit())
        };
        let mut text = String::from("invalid metric name or label names: {");
        for (i, (name, value)) in pairs.iter().take(100).enumerate() {
            let separator = if i > 0 { ", " } else { "" };
            let name = if plain(name) { String::from_utf8_lossy(name).into_owned() } else { quote_bytes(name) };
            text.push_str(&format!("{separator}{name}={}", quote_bytes(value)));
        }
        text.push('}');
        text
    }

    fn add_target_labels(&self, raw: &RawLabels, builder: &mut LabelsBuilder) {
        if self.honor_labels {
            for (name, value) in self.target_labels.iter() {
                // A label that the page gives with an empty value keeps the target's away.
                if !raw.has(name) {
                    builder.set(name, value);
                }
            }
            return;
        }
        let mut conflicts: Vec<(&str, &str)> = Vec::new();
        for (name, value) in self.target_labels.iter() {
            let exposed = raw.value(name);
            if !exposed.is_empty() {
                conflicts.push((name, exposed));
            }
            builder.set(name, value);
        }
        conflicts.sort_by_key(|(name, _)| name.len());
        for (name, value) in conflicts {
            let mut new_name = format!("exported_{name}");
            while builder.get(&new_name).is_some() {
                new_name.insert_str(0, "exported_");
            }
            builder.set(new_name, value);
        }
    }

    fn check_limits(&self, labels: &Labels) -> Result<(), SeriesError> {
        let fail = |message: String| Err(SeriesError { message, kind: SeriesFault::Limit });
        let metric = head(labels.metric_name(), 50);
        let (count, limit) = (labels.len(), self.label_limit);
        if limit > 0 && count as u64 > limit {
            return fail(format!("label_limit exceeded (metric: {metric}, number of labels: {count}, limit: {limit})"));
        }
        if self.label_name_length_limit == 0 && self.label_value_length_limit == 0 {
            return Ok(());
        }
        for (name, value) in labels.iter() {
            let (length, limit) = (name.len(), self.label_name_length_limit);
            if limit > 0 && length as u64 > limit {
                return fail(format!(
                    "label_name_length_limit exceeded (metric: {metric}, label name: {}, length: {length}, limit: \
                     {limit})",
                    head(name, 50)
                ));
            }
            let (length, limit) = (value.len(), self.label_value_length_limit);
            if limit > 0 && length as u64 > limit {
                return fail(format!(
                    "label_value_length_limit exceeded (metric: {metric}, label name: {}, value: {}, length: \
                     {length}, limit: {limit})",
                    head(name, 50),
                    narthex_model::labels::quote(head(value, 50))
                ));
            }
        }
        Ok(())
    }

    /// The labels of a report series.
    pub(super) fn report_labels(&self, name: &str) -> Labels {
        let mut builder = self.target_labels.to_builder();
        builder.set(METRIC_NAME, name);
        builder.build()
    }
}

/// Fills the builder with the labels that have a value; returns a name that came twice, if there is one. An empty
/// value deletes the label, wherever it stands.
fn distinct<'a>(raw: &'a RawLabels, builder: &mut LabelsBuilder) -> Option<&'a str> {
    // In order of name equal ones are neighbours, and the builder only appends: a line with a million labels stays
    // affordable.
    let mut sorted: Vec<(&str, &str)> = raw.0.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    sorted.sort_by_key(|(name, _)| *name);
    let mut double = None;
    for same in sorted.chunk_by(|a, b| a.0 == b.0) {
        if same.iter().any(|(_, value)| value.is_empty()) {
            continue;
        }
        if same.len() > 1 {
            double = Some(same[0].0);
        }
        builder.set(same[0].0, same[0].1);
    }
    double
}

/// The first `n` characters.
fn head(text: &str, n: usize) -> &str {
    text.char_indices().nth(n).map_or(text, |(i, _)| &text[..i])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(pairs: &[(&str, &str)]) -> RawLabels {
        RawLabels(pairs.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect())
    }

    fn check(rules: &SampleRules, pairs: &[(&str, &str)], expected: Result<&str, &str>) {
        let got = rules.labels(&raw(pairs)).map(|l| l.map_or("dropped".to_owned(), |l| l.to_string()));
        match expected {
            Ok(text) => assert_eq!(got.as_deref(), Ok(text), "{pairs:?}"),
            Err(text) => assert!(got.clone().is_err_and(|e| e.message == text), "{got:?}\n{text}"),
        }
    }

    #[test]
    fn target_labels_win_unless_honoured() {
        let target = Labels::from_pairs([("job", "j"), ("instance", "i")]);
        let mut rules = SampleRules { target_labels: target, ..SampleRules::default() };
        check(&rules, &[("__name__", "a")], Ok(r#"{__name__="a", instance="i", job="j"}"#));
        check(
            &rules,
            &[("__name__", "a"), ("job", "x"), ("exported_job", "y"), ("instance", "")],
            Ok(r#"{__name__="a", exported_exported_job="x", exported_job="y", instance="i", job="j"}"#),
        );
        rules.honor_labels = true;
        check(&rules, &[("__name__", "a"), ("job", "x"), ("instance", "")], Ok(r#"{__name__="a", job="x"}"#));
    }

    #[test]
    fn what_must_not_be_stored() {
        let mut rules = SampleRules::default();
        check(&rules, &[("__name__", "")], Ok("dropped"));
        check(&rules, &[("__name__", ""), ("a", "1")], Err("missing metric name (__name__ label)"));
        check(
            &rules,
            &[("__name__", "m"), ("a", "1"), ("a", "1")],
            Err("label name \"a\" is not unique: invalid sample"),
        );
        check(&rules, &[("__name__", "m"), ("a", "1"), ("a", "")], Ok(r#"{__name__="m"}"#));
        check(
            &rules,
            &[("__name__", "m"), ("", "1")],
            Err(r#"invalid metric name or label names: {""="1", __name__="m"}"#),
        );
        let long = "x".repeat(2 << 20);
        let error = rules.labels(&raw(&[("__name__", "m"), ("a", &long)])).unwrap_err().message;
        assert!(error.starts_with("the labels of a series are") && error.len() < 200);
        check(&rules, &[("__name__", "m.n")], Ok(r#"{__name__="m.n"}"#));
        rules.names = ValidationScheme::Legacy;
        check(&rules, &[("__name__", "m.n")], Err(r#"invalid metric name or label names: {__name__="m.n"}"#));
        rules.label_limit = 2;
        check(
            &rules,
            &[("__name__", "m"), ("a", "1"), ("b", "1")],
            Err("label_limit exceeded (metric: m, number of labels: 3, limit: 2)"),
        );
        rules.label_value_length_limit = 3;
        check(
            &rules,
            &[("__name__", "m"), ("a", "1234")],
            Err("label_value_length_limit exceeded (metric: m, label name: a, value: \"1234\", length: 4, limit: 3)"),
        );
        rules.label_name_length_limit = 8;
        check(
            &rules,
            &[("__name__", "m"), ("abcdefghi", "1")],
            Err("label_name_length_limit exceeded (metric: m, label name: abcdefghi, length: 9, limit: 8)"),
        );
    }
}
