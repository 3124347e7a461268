//! `label_replace`, `label_join`, and the labels of `absent`.

use narthex_model::{Labels, LabelsBuilder, METRIC_NAME, MatchType, Matcher, TYPE_LABEL, UNIT_LABEL};
use regex::Regex;

/// Drops the metric's name, type and unit, as every function does that makes another metric of it.
pub(crate) fn drop_metadata(labels: &Labels) -> Labels {
    labels.retain(|n, _| !is_metadata(n))
}

pub(crate) fn is_metadata(name: &str) -> bool {
    name == METRIC_NAME || name == TYPE_LABEL || name == UNIT_LABEL
}

/// The arguments of `label_replace`, checked.
pub(crate) struct Replace {
    regex: Regex,
    dst: String,
    replacement: String,
    src: String,
}

impl Replace {
    /// # Errors
    /// In Prometheus's words.
    pub(crate) fn new(dst: &str, replacement: &str, src: &str, pattern: &str) -> Result<Replace, String> {
        let regex = narthex_model::matcher::anchored_regex(pattern)
            .map_err(|_| format!("invalid regular expression in label_replace(): {pattern}"))?;
        if dst.is_empty() || dst.contains('\u{fffd}') {
            return Err(format!("invalid destination label name in label_replace(): {dst}"));
        }
        Ok(Replace { regex, dst: dst.into(), replacement: replacement.into(), src: src.into() })
    }

    /// The new labels, if the pattern matches.
    pub(crate) fn apply(&self, labels: &Labels) -> Option<Labels> {
        let captures = self.regex.captures(labels.value(&self.src))?;
        let mut value = String::new();
        expand(&self.replacement, &captures, &mut value);
        let mut builder = labels.to_builder();
        builder.set(self.dst.as_str(), value);
        Some(builder.build())
    }

    pub(crate) fn sets_name(&self) -> bool {
        self.dst == METRIC_NAME
    }
}

/// Go's `Regexp.Expand`: `$1`, `${1}`, `$name`, `${name}`, `$$`; what is no reference stays, an unknown one is empty.
fn expand(template: &str, captures: &regex::Captures<'_>, out: &mut String) {
    let mut rest = template;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            out.push('$');
            rest = after;
            continue;
        }
        let name_end = |text: &str| text.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(text.len());
        let (name, after) = if let Some(inner) = rest.strip_prefix("${") {
            let end = name_end(inner);
            if end == 0 || !inner[end..].starts_with('}') {
                out.push('$');
                rest = &rest[1..];
                continue;
            }
            (&inner[..end], &inner[end + 1..])
        } else {
            let end = name_end(&rest[1..]);
            if end == 0 {
                out.push('$');
                rest = &rest[1..];
                continue;
            }
            (&rest[1..1 + end], &rest[1 + end..])
        };
        let group = if name.bytes().all(|b| b.is_ascii_digit()) {
            name.parse::<usize>().ok().and_then(|i| captures.get(i))
        } else {
            captures.name(name)
        };
        out.push_str(group.map_or("", |m| m.as_str()));
        rest = after;
    }
    out.push_str(rest);
}

/// The labels that a selector's matchers fix to one value.
pub(crate) fn of_absent(matchers: &[Matcher]) -> Labels {
    let mut builder = LabelsBuilder::new();
    let mut seen: Vec<&str> = Vec::new();
    // Prometheus's index has put those first that leave out what they name, and the order matters here.
    let must_be_set = |m: &Matcher| matchers.iter().any(|other| other.name == m.name && !other.matches(""));
    let subtracting = |m: &Matcher| {
        !must_be_set(m) || matches!(m.match_type, MatchType::NotEqual | MatchType::NotRegexp) && m.matches("")
    };
    let (last, first): (Vec<&Matcher>, Vec<&Matcher>) = matchers.iter().partition(|m| subtracting(m));
    for m in first.into_iter().chain(last) {
        if &*m.name == METRIC_NAME {
            continue;
        }
        if m.match_type == MatchType::Equal && !seen.contains(&&*m.name) {
            builder.set(&*m.name, &*m.value);
            seen.push(&m.name);
        } else {
            // Matched twice: which value is meant is unclear.
            builder.remove(&m.name);
        }
    }
    builder.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expands_as_go() {
        let labels = Labels::from_pairs([("src", "a-b")]);
        for (template, expected) in [
            ("$1$2", "ab"),
            ("${1}x$2", "axb"),
            ("$1x", ""),
            ("$$1", "$1"),
            ("$", "$"),
            ("${1", "${1"),
            ("$n!", "b!"),
            ("$9", ""),
            ("x", "x"),
        ] {
            let replace = Replace::new("dst", template, "src", "(.*)-(?P<n>.*)").unwrap();
            assert_eq!(replace.apply(&labels).unwrap().value("dst"), expected, "{template}");
        }
        assert!(Replace::new("dst", "", "src", "(").is_err());
        assert!(Replace::new("", "", "src", "").is_err());
    }
}
