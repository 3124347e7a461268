//! Writing pages: the text format and OpenMetrics, for `/metrics` and `/federate`.
//!
//! The caller gives families in order and the samples of each; nothing is sorted or checked for doubles here.

use narthex_model::labels::{is_legacy_metric_name, is_legacy_name};
use narthex_model::number::format_g;
use narthex_model::{Exemplar, Labels, METRIC_NAME, Metadata, MetricType};

use super::{EscapingScheme, format_open_metrics};

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `text/plain; version=0.0.4` or `1.0.0`.
    Text,
    /// `application/openmetrics-text; version=1.0.0`.
    OpenMetrics,
}

/// Writes a page into a string.
#[derive(Debug)]
pub struct PageWriter {
    out: String,
    dialect: Dialect,
    escaping: EscapingScheme,
}

impl PageWriter {
    pub fn new(dialect: Dialect, escaping: EscapingScheme) -> PageWriter {
        PageWriter { out: String::new(), dialect, escaping }
    }

    /// The Content-Type of the page.
    pub fn content_type(dialect: Dialect, escaping: EscapingScheme) -> String {
        match dialect {
            Dialect::Text => format!("text/plain; version=0.0.4; charset=utf-8; escaping={}", escaping.as_str()),
            Dialect::OpenMetrics => {
                format!("application/openmetrics-text; version=1.0.0; charset=utf-8; escaping={}", escaping.as_str())
            }
        }
    }

    /// Begins a family: its help (if not empty), type and, in OpenMetrics, unit. In OpenMetrics a counter family is
    /// named without `_total`, which only its samples carry.
    pub fn family(&mut self, name: &str, metadata: &Metadata) {
        let name = match (self.dialect, metadata.metric_type) {
            (Dialect::OpenMetrics, MetricType::Counter) => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        };
        let name = escape_name(name, self.escaping);
        let name = if is_legacy_metric_name(&name) { name } else { format!("\"{}\"", escape_text(&name, true)) };
        if !metadata.help.is_empty() {
            self.out.push_str("# HELP ");
            self.out.push_str(&name);
            self.out.push(' ');
            self.out.push_str(&escape_text(&metadata.help, self.dialect == Dialect::OpenMetrics));
            self.out.push('\n');
        }
        let kind = match (self.dialect, metadata.metric_type) {
            (Dialect::Text, MetricType::Unknown | MetricType::StateSet) => "untyped",
            (Dialect::Text, MetricType::Info) => "gauge",
            (Dialect::Text, MetricType::GaugeHistogram) => "histogram",
            (_, other) => other.as_str(),
        };
        self.out.push_str(&format!("# TYPE {name} {kind}\n"));
        if self.dialect == Dialect::OpenMetrics && !metadata.unit.is_empty() {
            self.out.push_str(&format!("# UNIT {name} {}\n", metadata.unit));
        }
    }

    /// A sample; `labels` hold the name. The timestamp is in ms.
    pub fn sample(&mut self, labels: &Labels, value: f64, timestamp: Option<i64>, exemplar: Option<&Exemplar>) {
        let name = escape_name(labels.metric_name(), self.escaping);
        let quoted = !is_legacy_metric_name(&name);
        if !quoted {
            self.out.push_str(&name);
        }
        let mut separator = '{';
        if quoted {
            self.out.push_str(&format!("{{\"{}\"", escape_text(&name, true)));
            separator = ',';
        }
        separator = self.labels(labels.iter().filter(|(n, _)| *n != METRIC_NAME), separator);
        if separator == ',' {
            self.out.push('}');
        }
        self.out.push(' ');
        self.value(value);
        if let Some(ms) = timestamp {
            self.out.push(' ');
            match self.dialect {
                Dialect::Text => self.out.push_str(&ms.to_string()),
                Dialect::OpenMetrics => self.value(ms as f64 / 1000.0),
            }
        }
        if let (Dialect::OpenMetrics, Some(e)) = (self.dialect, exemplar) {
            self.out.push_str(" # ");
            if self.labels(e.labels.iter(), '{') == '{' {
                self.out.push('{');
            }
            self.out.push_str("} ");
            self.value(e.value);
            if e.has_timestamp {
                self.out.push(' ');
                self.value(e.timestamp as f64 / 1000.0);
            }
        }
        self.out.push('\n');
    }

    /// Writes pairs behind `separator`, and returns the next one.
    fn labels<'a>(&mut self, pairs: impl Iterator<Item = (&'a str, &'a str)>, mut separator: char) -> char {
        for (name, value) in pairs {
            self.out.push(separator);
            separator = ',';
            let name = escape_name(name, self.escaping);
            if is_legacy_name(&name) {
                self.out.push_str(&name);
            } else {
                self.out.push_str(&format!("\"{}\"", escape_text(&name, true)));
            }
            self.out.push_str("=\"");
            self.out.push_str(&escape_text(value, true));
            self.out.push('"');
        }
        separator
    }

    fn value(&mut self, v: f64) {
        self.out.push_str(&match self.dialect {
            Dialect::Text => format_g(v),
            Dialect::OpenMetrics => format_open_metrics(v),
        });
    }

    /// The page; OpenMetrics gets its end mark.
    pub fn finish(mut self) -> String {
        if self.dialect == Dialect::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }
}

fn escape_text(text: &str, quotes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out
}

/// A name as the scheme has it (Prometheus `model.EscapeName`).
pub fn escape_name(name: &str, scheme: EscapingScheme) -> String {
    let legacy = |i: usize, c: char| c.is_ascii_alphabetic() || c == '_' || c == ':' || c.is_ascii_digit() && i > 0;
    if name.is_empty() || scheme == EscapingScheme::AllowUtf8 {
        return name.to_owned();
    }
    if scheme != EscapingScheme::Dots && is_legacy_metric_name(name) {
        return name.to_owned();
    }
    let mut out = String::new();
    if scheme == EscapingScheme::Values {
        out.push_str("U__");
    }
    for (i, c) in name.chars().enumerate() {
        match (scheme, c) {
            (EscapingScheme::Underscores, c) => out.push(if legacy(i, c) { c } else { '_' }),
            (_, '_') => out.push_str("__"),
            (EscapingScheme::Dots, '.') => out.push_str("_dot_"),
            (_, c) if legacy(i, c) => out.push(c),
            (EscapingScheme::Dots, _) => out.push_str("__"),
            (_, c) => out.push_str(&format!("_{:x}_", c as u32)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(dialect: Dialect) -> String {
        let mut w = PageWriter::new(dialect, EscapingScheme::AllowUtf8);
        w.family(
            "a_total",
            &Metadata { metric_type: MetricType::Counter, help: "one\n\"two\" \\".into(), unit: String::new() },
        );
        let labels = Labels::from_pairs([("__name__", "a_total"), ("x", "a\"b\\c\nd"), ("y.z", "1")]);
        let exemplar =
            Exemplar { labels: Labels::from_pairs([("id", "7")]), value: 0.5, timestamp: 1500, has_timestamp: true };
        w.sample(&labels, 1.0, Some(1_700_000_000_123), Some(&exemplar));
        w.family("b.c", &Metadata::default());
        w.sample(&Labels::from_pairs([("__name__", "b.c")]), f64::INFINITY, None, None);
        w.finish()
    }

    #[test]
    fn both_dialects() {
        assert_eq!(
            page(Dialect::Text),
            "# HELP a_total one\\n\"two\" \\\\\n# TYPE a_total counter\n\
             a_total{x=\"a\\\"b\\\\c\\nd\",\"y.z\"=\"1\"} 1 1700000000123\n# TYPE \"b.c\" untyped\n{\"b.c\"} +Inf\n"
        );
        assert_eq!(
            page(Dialect::OpenMetrics),
            "# HELP a one\\n\\\"two\\\" \\\\\n# TYPE a counter\n\
             a_total{x=\"a\\\"b\\\\c\\nd\",\"y.z\"=\"1\"} 1.0 1.700000000123e+09 # {id=\"7\"} 0.5 1.5\n\
             # TYPE \"b.c\" unknown\n{\"b.c\"} +Inf\n# EOF\n"
        );
    }

    #[test]
    fn names_by_scheme() {
        use EscapingScheme::*;
        for (scheme, name, expected) in [
            (AllowUtf8, "a.b", "a.b"),
            (Underscores, "a.b:ü1", "a_b:_1"),
            (Underscores, "1a", "_a"),
            (Dots, "a.b_c", "a_dot_b__c"),
            (Dots, "aüb", "a__b"),
            (Values, "a_b", "a_b"),
            (Values, "a.b_c", "U__a_2e_b__c"),
        ] {
            assert_eq!(escape_name(name, scheme), expected);
        }
    }
}
