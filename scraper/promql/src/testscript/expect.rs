//! The `expect` lines below an eval.

use regex::Regex;

use super::series::duration;
use crate::annotations::{Annotations, Severity};

/// A text that must be met.
#[derive(Clone, Debug)]
pub(super) enum Pattern {
    Any,
    Exactly(String),
    Matching(Regex),
}

impl Pattern {
    fn parse(text: &str) -> Result<Pattern, String> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Pattern::Any);
        }
        if let Some(message) = text.strip_prefix("msg:") {
            return Ok(Pattern::Exactly(message.trim().to_owned()));
        }
        match text.strip_prefix("regex:") {
            Some(regex) => Ok(Pattern::Matching(Regex::new(regex.trim()).map_err(|e| e.to_string())?)),
            None => Err(format!("expected msg: or regex:, not {text:?}")),
        }
    }

    fn matches(&self, text: &str) -> bool {
        match self {
            Pattern::Any => true,
            Pattern::Exactly(expected) => expected == text,
            Pattern::Matching(regex) => regex.is_match(text),
        }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expectation {
    Fail(Pattern),
    Annotation(Severity, Pattern),
    NoAnnotation(Severity),
    Ordered,
    Text(String),
    RangeVector { start: i64, end: i64, step: i64 },
}

impl Expectation {
    pub(super) fn fail() -> Expectation {
        Expectation::Fail(Pattern::Any)
    }

    pub(super) fn any(severity: Severity) -> Expectation {
        Expectation::Annotation(severity, Pattern::Any)
    }

    /// None where the line is no expectation.
    pub(super) fn parse(line: &str) -> Result<Option<Expectation>, String> {
        if let Some(message) = line.strip_prefix("expected_fail_message ") {
            return Ok(Some(Expectation::Fail(Pattern::Exactly(message.trim().into()))));
        }
        if let Some(regex) = line.strip_prefix("expected_fail_regexp ") {
            return Ok(Some(Expectation::Fail(Pattern::parse(&format!("regex:{regex}"))?)));
        }
        let Some(rest) = line.strip_prefix("expect ") else { return Ok(None) };
        let rest = rest.trim();
        let (word, text) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        Ok(Some(match word {
            "fail" => Expectation::Fail(Pattern::parse(text)?),
            "warn" => Expectation::Annotation(Severity::Warning, Pattern::parse(text)?),
            "info" => Expectation::Annotation(Severity::Info, Pattern::parse(text)?),
            "no_warn" => Expectation::NoAnnotation(Severity::Warning),
            "no_info" => Expectation::NoAnnotation(Severity::Info),
            "ordered" => Expectation::Ordered,
            "string" => Expectation::Text(text_literal(text.trim())?),
            "range" => {
                let words: Vec<&str> = text.split_whitespace().collect();
                let ["vector", "from", start, "to", end, "step", step] = words[..] else {
                    return Err(format!("bad expectation {line:?}"));
                };
                Expectation::RangeVector { start: duration(start)?, end: duration(end)?, step: duration(step)? }
            }
            _ => return Err(format!("unknown expectation {line:?}")),
        }))
    }

    pub(super) fn check_error(&self, text: &str) -> Result<(), String> {
        match self {
            Expectation::Fail(pattern) if !pattern.matches(text) => {
                Err(format!("expected the error {pattern:?}, got {text:?}"))
            }
            _ => Ok(()),
        }
    }
}

/// A Go string literal, read by PromQL's own parser.
fn text_literal(text: &str) -> Result<String, String> {
    match crate::parser::parse(text, &crate::ParserOptions::default()) {
        Ok(crate::Expr::String(s)) => Ok(s.value),
        Ok(_) => Err(format!("{text} is no string")),
        Err(e) => Err(e.to_string()),
    }
}

/// Each expected annotation has to come, and of a kind of which something is expected nothing else.
pub(super) fn check_annotations(
    expectations: &[Expectation],
    annotations: &Annotations,
    query: &str,
) -> Result<(), String> {
    for severity in [Severity::Warning, Severity::Info] {
        let texts = match severity {
            Severity::Warning => annotations.warnings(query, 0),
            Severity::Info => annotations.infos(query, 0),
        };
        if expectations.contains(&Expectation::NoAnnotation(severity)) && !texts.is_empty() {
            return Err(format!("unexpected annotations {texts:?}"));
        }
        let patterns: Vec<&Pattern> = expectations
            .iter()
            .filter_map(|e| match e {
                Expectation::Annotation(s, pattern) if *s == severity => Some(pattern),
                _ => None,
            })
            .collect();
        if patterns.is_empty() {
            continue;
        }
        if let Some(missing) = patterns.iter().find(|p| !texts.iter().any(|t| p.matches(t))) {
            return Err(format!("expected the annotation {missing:?}, got {texts:?}"));
        }
        if let Some(extra) = texts.iter().find(|t| !patterns.iter().any(|p| p.matches(t))) {
            return Err(format!("unexpected annotation {extra:?}"));
        }
    }
    Ok(())
}
