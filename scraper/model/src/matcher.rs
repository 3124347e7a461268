//! Label matchers, with Prometheus's regular expressions: RE2 syntax, anchored at both ends, `.` matches a newline.

use std::fmt;
use std::sync::Arc;

use regex::Regex;

use crate::Labels;
use crate::labels::{is_legacy_name, quote};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MatchType {
    Equal,
    NotEqual,
    Regexp,
    NotRegexp,
}

impl MatchType {
    pub fn as_str(self) -> &'static str {
        match self {
            MatchType::Equal => "=",
            MatchType::NotEqual => "!=",
            MatchType::Regexp => "=~",
            MatchType::NotRegexp => "!~",
        }
    }
}

/// A regular expression that does not compile.
#[derive(Debug, Clone, thiserror::Error)]
#[error("error parsing regexp: {message}")]
pub struct MatcherError {
    pub message: String,
}

/// One label matcher. Cheap to clone.
#[derive(Clone)]
pub struct Matcher {
    pub match_type: MatchType,
    pub name: Arc<str>,
    pub value: Arc<str>,
    regex: Option<Arc<Pattern>>,
}

enum Pattern {
    /// An alternation of these literals, or one literal.
    Literals(Vec<String>),
    Regex(Regex),
}

impl Pattern {
    fn new(pattern: &str) -> Result<Pattern, MatcherError> {
        match literal_alternatives(pattern) {
            Some(literals) => Ok(Pattern::Literals(literals)),
            None => anchored_regex(pattern).map(Pattern::Regex),
        }
    }

    fn literals(&self) -> Option<Vec<&str>> {
        match self {
            Pattern::Literals(literals) => Some(literals.iter().map(String::as_str).collect()),
            Pattern::Regex(_) => None,
        }
    }
}

/// Compiles a pattern as Prometheus does: the whole text has to match, and `.` matches every character.
///
/// # Errors
/// When `pattern` is no expression of Go's, or compiles to more than 10 MiB.
pub fn anchored_regex(pattern: &str) -> Result<Regex, MatcherError> {
    crate::regexp::compile_matcher(pattern).map_err(|message| MatcherError { message })
}

/// The literals of `a|b|c`, if the pattern is nothing but that; a group around all of it and escaped punctuation are
/// seen through.
fn literal_alternatives(pattern: &str) -> Option<Vec<String>> {
    let inner = match pattern.strip_prefix('(').and_then(|p| p.strip_suffix(')')) {
        Some(inner) => inner.strip_prefix("?:").unwrap_or(inner),
        None => pattern,
    };
    let mut literals = vec![String::new()];
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        let literal = match c {
            '|' => {
                literals.push(String::new());
                continue;
            }
            '\\' => chars.next().filter(char::is_ascii_punctuation)?,
            c if META.contains(c) => return None,
            c => c,
        };
        literals.last_mut()?.push(literal);
    }
    Some(literals)
}

const META: &str = "\\.+*?()[]{}^$|";

/// What every match of the pattern starts with, as far as that is plain to see.
fn literal_prefix(pattern: &str) -> &str {
    if pattern.contains('|') {
        return "";
    }
    let end = pattern.find(|c| META.contains(c)).unwrap_or(pattern.len());
    // What is repeated may be repeated no times.
    match pattern[end..].chars().next() {
        Some('*' | '?' | '{') => {
            let last = pattern[..end].chars().next_back().map_or(0, char::len_utf8);
            &pattern[..end - last]
        }
        _ => &pattern[..end],
    }
}

impl Matcher {
    /// # Errors
    /// When the type is a regular expression and `value` is none.
    pub fn new(
        match_type: MatchType,
        name: impl Into<Arc<str>>,
        value: impl Into<Arc<str>>,
    ) -> Result<Matcher, MatcherError> {
        let value = value.into();
        let regex = match match_type {
            MatchType::Equal | MatchType::NotEqual => None,
            MatchType::Regexp | MatchType::NotRegexp => Some(Arc::new(Pattern::new(&value)?)),
        };
        Ok(Matcher { match_type, name: name.into(), value, regex })
    }

    /// A matcher for one value.
    pub fn equal(name: impl Into<Arc<str>>, value: impl Into<Arc<str>>) -> Matcher {
        Matcher { match_type: MatchType::Equal, name: name.into(), value: value.into(), regex: None }
    }

    /// Whether the matcher holds for this value; an absent label has the empty value.
    pub fn matches(&self, value: &str) -> bool {
        let positive = match &self.regex {
            None => *self.value == *value,
            Some(p) => match &**p {
                Pattern::Literals(literals) => literals.iter().any(|l| l == value),
                Pattern::Regex(regex) => regex.is_match(value),
            },
        };
        positive == matches!(self.match_type, MatchType::Equal | MatchType::Regexp)
    }

    /// Whether series without the label match, too.
    pub fn matches_empty(&self) -> bool {
        self.matches("")
    }

    /// The only values that a positive matcher can match, when they can be listed: of `=` its value, of `=~"a|b"`
    /// the two.
    pub fn set_matches(&self) -> Option<Vec<&str>> {
        match self.match_type {
            MatchType::Equal => Some(vec![&self.value]),
            MatchType::Regexp => self.regex.as_ref()?.literals(),
            _ => None,
        }
    }

    /// The only values that a negative matcher does not match, when they can be listed.
    pub fn excluded_values(&self) -> Option<Vec<&str>> {
        match self.match_type {
            MatchType::NotEqual => Some(vec![&self.value]),
            MatchType::NotRegexp => self.regex.as_ref()?.literals(),
            _ => None,
        }
    }

    /// What every value starts with that a regular expression matches (or, of `!~`, refuses); may be empty.
    pub fn prefix(&self) -> &str {
        if self.regex.is_some() { literal_prefix(&self.value) } else { "" }
    }

    /// Whether a label set satisfies all of `matchers`.
    pub fn all_match(matchers: &[Matcher], labels: &Labels) -> bool {
        matchers.iter().all(|m| m.matches(labels.value(&m.name)))
    }
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        (self.match_type, &self.name, &self.value) == (other.match_type, &other.name, &other.value)
    }
}

impl Eq for Matcher {}

impl std::hash::Hash for Matcher {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.match_type, &self.name, &self.value).hash(state);
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_legacy_name(&self.name) {
            f.write_str(&self.name)?;
        } else {
            f.write_str(&quote(&self.name))?;
        }
        write!(f, "{}{}", self.match_type.as_str(), quote(&self.value))
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(match_type: MatchType, pattern: &str, value: &str, expected: bool) {
        let m = Matcher::new(match_type, "l", pattern).unwrap();
        assert_eq!(m.matches(value), expected, "{m} on {value:?}");
    }

    #[test]
    fn anchored_and_dot_matches_newline() {
        use MatchType::*;
        check(Regexp, "a", "ab", false);
        check(Regexp, "a.b", "a\nb", true);
        check(Regexp, "a|b", "b", true);
        check(Regexp, "a|b", "ab", false);
        check(Regexp, "|b", "", true);
        check(NotRegexp, "a|b", "c", true);
        check(NotEqual, "", "x", true);
        check(Equal, "", "", true);
        check(Regexp, "(?i)foo", "FOO", true);
    }

    #[test]
    fn literals_and_prefixes() {
        let check = |pattern: &str, literals: Option<&[&str]>, prefix: &str| {
            let positive = Matcher::new(MatchType::Regexp, "l", pattern).unwrap();
            let negative = Matcher::new(MatchType::NotRegexp, "l", pattern).unwrap();
            assert_eq!(positive.set_matches().as_deref(), literals, "{pattern}");
            assert_eq!(negative.excluded_values().as_deref(), literals, "{pattern}");
            assert_eq!((positive.prefix(), negative.prefix()), (prefix, prefix), "{pattern}");
            for literal in literals.unwrap_or_default() {
                assert!(positive.matches(literal) && anchored_regex(pattern).unwrap().is_match(literal));
            }
        };
        check("", Some(&[""]), "");
        check("abc", Some(&["abc"]), "abc");
        check("a|b|", Some(&["a", "b", ""]), "");
        check("(a|b)", Some(&["a", "b"]), "");
        check("(?:a|b)", Some(&["a", "b"]), "");
        check(r"10\.0\.0\.1:9100|b", Some(&["10.0.0.1:9100", "b"]), "");
        check(r"\d", None, "");
        check(r"a\.b.*", None, "a");
        check("(a)|(b)", None, "");
        check("(?i:a)", None, "");
        check("(?i)a", None, "");
        check("prod-.*", None, "prod-");
        check("prod-é*", None, "prod-");
        check("ab?c", None, "a");
        check("ab{0,1}", None, "a");
        check("ab+", None, "ab");
        check("ab$", None, "ab");
        check("ab.*|c", None, "");
    }

    #[test]
    fn bad_patterns_are_errors() {
        for pattern in ["a(", "a)(b", "[", "a(?=b)"] {
            assert!(Matcher::new(MatchType::Regexp, "l", pattern).is_err(), "{pattern}");
        }
    }
}
