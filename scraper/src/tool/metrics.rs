//! `tool check metrics`: what is bad style on a page, by the rules of Prometheus's `promlint`, and which metrics have how
//! many series.

use std::io::Read;
use std::process::ExitCode;

use super::families::{self, Family, Kind};
use super::{LINT_FAILED, text};

const UNITS: [(&str, &str); 24] = [
    ("amperes", "amperes"),
    ("bytes", "bytes"),
    ("celsius", "celsius"),
    ("grams", "grams"),
    ("joules", "joules"),
    ("kelvin", "kelvin"),
    ("meters", "meters"),
    ("metres", "metres"),
    ("seconds", "seconds"),
    ("volts", "volts"),
    ("minutes", "seconds"),
    ("hours", "seconds"),
    ("days", "seconds"),
    ("weeks", "seconds"),
    ("kelvins", "kelvin"),
    ("fahrenheit", "celsius"),
    ("rankine", "celsius"),
    ("inches", "meters"),
    ("yards", "meters"),
    ("miles", "meters"),
    ("bits", "bytes"),
    ("calories", "joules"),
    ("pounds", "grams"),
    ("ounces", "grams"),
];

const PREFIXES: [&str; 18] = [
    "pico", "nano", "micro", "milli", "centi", "deci", "deca", "hecto", "kilo", "kibi", "mega", "mibi", "giga", "gibi",
    "tera", "tebi", "peta", "pebi",
];

const ABBREVIATIONS: [&str; 14] = ["s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "pb", "m", "h", "d"];

/// The first part of a name that is a unit, and its base.
fn unit(name: &str) -> Option<(&str, &'static str)> {
    let base = |word: &str| UNITS.iter().find(|u| u.0 == word).map(|u| u.1);
    name.split('_').find_map(|part| {
        let prefixed = || PREFIXES.iter().filter_map(|p| part.strip_prefix(p)).find_map(base);
        base(part).or_else(prefixed).map(|base| (part, base))
    })
}

fn camel_case(name: &str) -> bool {
    name.as_bytes().windows(2).any(|w| w[0].is_ascii_lowercase() && w[1].is_ascii_uppercase())
}

/// Whether `word` is one of the parts of a name, but for the first.
fn has_part(name: &str, word: &str) -> bool {
    name.contains(&format!("_{word}_")) || name.ends_with(&format!("_{word}"))
}

fn problems(family: &Family) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut add = |text: &str| out.push(text.to_owned());
    let (name, kind) = (family.name.as_str(), family.kind);
    let lower = name.to_lowercase();
    if family.help.is_none() {
        add("no help text");
    }
    if let Some((unit, base)) = unit(name).filter(|(unit, base)| unit != base) {
        add(&format!("use base unit {base:?} instead of {unit:?}"));
    }
    let total = name.ends_with("_total");
    if kind == Kind::Counter && !total {
        add("counter metrics should have \"_total\" suffix");
    } else if kind != Kind::Untyped && kind != Kind::Counter && total {
        add("non-counter metrics should not have \"_total\" suffix");
    }
    let names = || family.metrics.iter().flat_map(|m| m.labels.iter().map(|l| l.0.as_str()));
    if kind != Kind::Untyped {
        let (histogram, summary) = (kind == Kind::Histogram, kind == Kind::Summary);
        if !histogram && name.ends_with("_bucket") {
            add("non-histogram metrics should not have \"_bucket\" suffix");
        }
        for suffix in ["_count", "_sum"] {
            if !histogram && !summary && name.ends_with(suffix) {
                add(&format!("non-histogram and non-summary metrics should not have {suffix:?} suffix"));
            }
        }
        for label in names() {
            if !histogram && label == "le" {
                add("non-histogram metrics should not have \"le\" label");
            }
            if !summary && label == "quantile" {
                add("non-summary metrics should not have \"quantile\" label");
            }
        }
        if has_part(&lower, kind.name()) {
            add(&format!("metric name should not include type '{}'", kind.name()));
        }
    }
    if name.contains(':') {
        add("metric names should not contain ':'");
    }
    if camel_case(name) {
        add("metric names should be written in 'snake_case' not 'camelCase'");
    }
    for _ in names().filter(|label| camel_case(label)) {
        add("label names should be written in 'snake_case' not 'camelCase'");
    }
    for _ in ABBREVIATIONS.iter().filter(|unit| has_part(&lower, unit)) {
        add("metric names should not contain abbreviated units");
    }
    let mut seen = std::collections::HashMap::new();
    for metric in &family.metrics {
        *seen.entry(&metric.labels).or_insert(0usize) += 1;
    }
    // Once for each that has an equal one behind it.
    for _ in 0..seen.values().map(|n| n - 1).sum::<usize>() {
        add("metric not unique");
    }
    out
}

/// Columns as Go's tabwriter sets them (at least 4 wide, 4 apart).
fn table(rows: &[[String; 3]]) -> String {
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count() + 4).max().unwrap_or(0).max(4);
    let widths = [width(0), width(1), width(2)];
    let mut out = String::new();
    for row in rows {
        for (cell, width) in row.iter().zip(widths) {
            out.push_str(&format!("{cell:<width$}"));
        }
        out.push('\n');
    }
    out
}

fn cardinality(all: &[Family]) -> String {
    let size = |f: &Family| match f.kind {
        Kind::Summary | Kind::Histogram => f.metrics.len() * (2 + f.metrics.first().map_or(0, |m| m.parts.len())),
        _ => f.metrics.len(),
    };
    let mut stats: Vec<(&str, usize)> = all.iter().map(|f| (f.name.as_str(), size(f))).collect();
    stats.sort_by_key(|s| std::cmp::Reverse(s.1));
    let total: usize = stats.iter().map(|s| s.1).sum();
    let mut rows = vec![["Metric", "Cardinality", "Percentage"].map(str::to_owned)];
    for (name, n) in stats {
        rows.push([name.to_owned(), n.to_string(), format!("{:.2}%", n as f64 / total as f64 * 100.0)]);
    }
    rows.push(["Total".into(), total.to_string(), "100%".into()]);
    table(&rows)
}

pub fn check(m: &clap::ArgMatches) -> ExitCode {
    let (lint, extended) = (text(m, "lint") != Some("none"), m.get_flag("extended"));
    if !lint && !extended {
        eprintln!("error: at least one of --extended or linting must be enabled");
        eprintln!("Use --extended for cardinality analysis, or remove --lint=none to enable linting");
        return ExitCode::FAILURE;
    }
    let mut page = Vec::new();
    let read = std::io::stdin().lock().read_to_end(&mut page).map_err(|e| e.to_string());
    let page = read.and_then(|_| String::from_utf8(page).map_err(|e| e.to_string()));
    let all = match page.and_then(|page| families::parse(&page)) {
        Ok(all) => all,
        Err(e) => {
            let during = if lint { "error while linting" } else { "error while parsing text to metric families" };
            eprintln!("{during}: {e}");
            return ExitCode::FAILURE;
        }
    };
    let mut found: Vec<(&str, String)> = Vec::new();
    if lint {
        found.extend(all.iter().flat_map(|f| problems(f).into_iter().map(|p| (f.name.as_str(), p))));
        found.sort();
        for (name, problem) in &found {
            eprintln!("{name} {problem}");
        }
    }
    if extended {
        print!("{}", cardinality(&all));
    }
    if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(LINT_FAILED) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_style_is_named() {
        for (page, expected) in [
            ("# HELP a_total A.\n# TYPE a_total counter\na_total 1\n", vec![]),
            ("# TYPE a counter\na 1\n", vec!["no help text", "counter metrics should have \"_total\" suffix"]),
            (
                "# HELP aB_milliseconds A.\naB_milliseconds{cD=\"1\"} 1\n",
                vec![
                    "use base unit \"seconds\" instead of \"milliseconds\"",
                    "metric names should be written in 'snake_case' not 'camelCase'",
                    "label names should be written in 'snake_case' not 'camelCase'",
                ],
            ),
            (
                "# HELP a_gauge_ms A.\n# TYPE a_gauge_ms gauge\na_gauge_ms{le=\"1\"} 1\na_gauge_ms{le=\"1\"} 2\n",
                vec![
                    "non-histogram metrics should not have \"le\" label",
                    "non-histogram metrics should not have \"le\" label",
                    "metric name should not include type 'gauge'",
                    "metric names should not contain abbreviated units",
                    "metric not unique",
                ],
            ),
        ] {
            let all = families::parse(page).unwrap();
            assert_eq!(all.iter().flat_map(problems).collect::<Vec<_>>(), expected, "{page}");
        }
    }

    #[test]
    fn series_are_counted() {
        let all =
            families::parse("# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_sum 1\nh_count 1\nlonger_name 1\n").unwrap();
        let expected = "Metric         Cardinality    Percentage    \nh              3              75.00%        \n\
            longer_name    1              25.00%        \nTotal          4              100%          \n";
        assert_eq!(cardinality(&all), expected);
    }
}
