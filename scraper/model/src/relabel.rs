//! Relabelling: rules that rewrite or drop label sets, with the semantics of Prometheus 3.14 (`model/relabel`).
//!
//! Invariants: a rule that passed [`RelabelConfig::validate`] never panics, whatever the labels are; regular
//! expressions match the whole text, and `.` matches a newline. Reading rules from YAML is the configuration's job.

use std::fmt;
use std::sync::Arc;

use md5::{Digest, Md5};
use regex::{Captures, Regex};

use crate::names::ValidationScheme;
use crate::{Labels, LabelsBuilder};

/// What a rule does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Action {
    #[default]
    Replace,
    Keep,
    Drop,
    KeepEqual,
    DropEqual,
    HashMod,
    LabelMap,
    LabelDrop,
    LabelKeep,
    Lowercase,
    Uppercase,
}

impl Action {
    pub const ALL: [Action; 11] = [
        Action::Replace,
        Action::Keep,
        Action::Drop,
        Action::KeepEqual,
        Action::DropEqual,
        Action::HashMod,
        Action::LabelMap,
        Action::LabelDrop,
        Action::LabelKeep,
        Action::Lowercase,
        Action::Uppercase,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Action::Replace => "replace",
            Action::Keep => "keep",
            Action::Drop => "drop",
            Action::KeepEqual => "keepequal",
            Action::DropEqual => "dropequal",
            Action::HashMod => "hashmod",
            Action::LabelMap => "labelmap",
            Action::LabelDrop => "labeldrop",
            Action::LabelKeep => "labelkeep",
            Action::Lowercase => "lowercase",
            Action::Uppercase => "uppercase",
        }
    }

    /// The action of that name in any letter case.
    pub fn from_name(name: &str) -> Option<Action> {
        let lower = name.to_lowercase();
        Action::ALL.into_iter().find(|a| a.as_str() == lower)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A regular expression of a rule, with the text that it was made of. Cheap to clone.
#[derive(Clone)]
pub struct RelabelRegex {
    source: Arc<str>,
    regex: Regex,
    is_default: bool,
}

impl RelabelRegex {
    /// # Errors
    /// When `source` is no RE2 expression; the text is worded as Prometheus words it.
    pub fn new(source: &str) -> Result<RelabelRegex, String> {
        Ok(RelabelRegex { source: source.into(), regex: crate::regexp::compile_anchored(source)?, is_default: false })
    }

    /// The text as configured, without anchors.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whether no expression was configured, so that `(.*)` holds. An explicit `(.*)` is not the default, and
    /// is printed.
    pub fn is_default(&self) -> bool {
        self.is_default
    }

    pub fn is_match(&self, text: &str) -> bool {
        self.is_default || self.regex.is_match(text)
    }
}

impl Default for RelabelRegex {
    fn default() -> Self {
        // Compiled once per process: most rules have no expression of their own.
        static DEFAULT: std::sync::LazyLock<Regex> =
            std::sync::LazyLock::new(|| Regex::new("^(?s:(.*))$").expect("a constant"));
        RelabelRegex { source: "(.*)".into(), regex: DEFAULT.clone(), is_default: true }
    }
}

impl PartialEq for RelabelRegex {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for RelabelRegex {}

impl fmt::Debug for RelabelRegex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.source, f)
    }
}

/// One rule. The default is `replace` with an empty target, which [`RelabelConfig::validate`] refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelabelConfig {
    pub source_labels: Vec<String>,
    pub separator: String,
    pub regex: RelabelRegex,
    pub modulus: u64,
    pub target_label: String,
    pub replacement: String,
    /// `None` only before validation: an explicitly empty action.
    pub action: Option<Action>,
    /// Which names a rule may produce; set by [`RelabelConfig::validate`].
    pub names: ValidationScheme,
}

impl Default for RelabelConfig {
    fn default() -> Self {
        RelabelConfig {
            source_labels: Vec::new(),
            separator: ";".into(),
            regex: RelabelRegex::default(),
            modulus: 0,
            target_label: String::new(),
            replacement: "$1".into(),
            action: Some(Action::Replace),
            names: ValidationScheme::Unset,
        }
    }
}

fn has_variable(template: &str) -> bool {
    template.contains('$')
}

/// `a${1}b$c`: what the legacy name rules allow as a target with variables.
fn is_legacy_template(text: &str) -> bool {
    let bytes = text.as_bytes();
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let mut at = 0;
    let mut started = false;
    while let Some(&b) = bytes.get(at) {
        if b == b'$' {
            let braces = bytes.get(at + 1) == Some(&b'{');
            let start = at + 1 + usize::from(braces);
            let mut end = start;
            while bytes.get(end).copied().is_some_and(word) {
                end += 1;
            }
            if end == start || (braces && bytes.get(end) != Some(&b'}')) {
                return false;
            }
            at = end + usize::from(braces);
        } else if b.is_ascii_digit() && !started || !word(b) {
            return false;
        } else {
            at += 1;
        }
        started = true;
    }
    started
}

impl RelabelConfig {
    /// Checks the rule as Prometheus does when it loads a configuration, and sets the name rules that it works by.
    ///
    /// # Errors
    /// The text is Prometheus's.
    pub fn validate(&mut self, names: ValidationScheme) -> Result<(), String> {
        use Action::*;
        let Some(action) = self.action else { return Err("relabel action cannot be empty".into()) };
        if self.modulus == 0 && action == HashMod {
            return Err("relabel configuration for hashmod requires non-zero modulus".into());
        }
        let equal_or_case = matches!(action, Lowercase | Uppercase | KeepEqual | DropEqual);
        let target = &self.target_label;
        if (equal_or_case || matches!(action, Replace | HashMod)) && target.is_empty() {
            return Err(format!("relabel configuration for {action} action requires 'target_label' value"));
        }
        if self.names == ValidationScheme::Unset {
            self.names = names;
        }
        let valid_template = |text: &str| match self.names {
            ValidationScheme::Legacy => is_legacy_template(text),
            _ => !text.is_empty(),
        };
        let bad_target =
            || Err(format!("{} is invalid 'target_label' for {action} action", crate::labels::quote(target)));
        if action == Replace {
            let valid =
                if has_variable(target) { valid_template(target) } else { self.names.is_valid_label_name(target) };
            if !valid {
                return bad_target();
            }
        }
        if equal_or_case && !self.names.is_valid_label_name(target) {
            return bad_target();
        }
        let default = RelabelConfig::default();
        if equal_or_case && self.replacement != default.replacement {
            return Err(format!("'replacement' can not be set for {action} action"));
        }
        if action == LabelMap && !valid_template(&self.replacement) {
            return Err(format!(
                "{} is invalid 'replacement' for {action} action",
                crate::labels::quote(&self.replacement)
            ));
        }
        if action == HashMod && !self.names.is_valid_label_name(target) {
            return bad_target();
        }
        let others_set =
            self.modulus != 0 || self.separator != default.separator || self.replacement != default.replacement;
        if matches!(action, DropEqual | KeepEqual) && (!self.regex.is_default || others_set) {
            return Err(format!(
                "{action} action requires only 'source_labels' and `target_label`, and no other fields"
            ));
        }
        if matches!(action, LabelDrop | LabelKeep)
            && (!self.source_labels.is_empty() || !target.is_empty() || others_set)
        {
            return Err(format!("{action} action requires only 'regex', and no other fields"));
        }
        Ok(())
    }

    /// Applies this rule alone; whether the labels are kept.
    pub fn apply(&self, labels: &mut LabelsBuilder) -> bool {
        let mut value = String::new();
        for (i, name) in self.source_labels.iter().enumerate() {
            if i > 0 {
                value.push_str(&self.separator);
            }
            value.push_str(labels.get(name).unwrap_or(""));
        }
        match self.action.unwrap_or_default() {
            Action::Drop => return !self.regex.is_match(&value),
            Action::Keep => return self.regex.is_match(&value),
            Action::DropEqual => return labels.get(&self.target_label).unwrap_or("") != value,
            Action::KeepEqual => return labels.get(&self.target_label).unwrap_or("") == value,
            Action::Replace => self.replace(&value, labels),
            Action::Lowercase => {
                labels.set(self.target_label.as_str(), value.chars().map(simple_lower).collect::<String>());
            }
            Action::Uppercase => {
                labels.set(self.target_label.as_str(), value.chars().map(simple_upper).collect::<String>());
            }
            Action::HashMod => {
                let digest: [u8; 16] = Md5::digest(value.as_bytes()).into();
                let mut tail = [0; 8];
                tail.copy_from_slice(&digest[8..]);
                // A modulus of zero is refused by `validate`.
                let hash = u64::from_be_bytes(tail).checked_rem(self.modulus).unwrap_or(0);
                labels.set(self.target_label.as_str(), hash.to_string());
            }
            Action::LabelMap => {
                let mut mapped = Vec::new();
                for (name, value) in labels.iter() {
                    if let Some(captures) = self.regex.regex.captures(name) {
                        mapped.push((expand(&self.replacement, &captures), value.to_owned()));
                    }
                }
                for (name, value) in mapped {
                    labels.set(name, value);
                }
            }
            Action::LabelDrop => {
                labels.retain(|name, _| !self.regex.is_match(name));
            }
            Action::LabelKeep => {
                labels.retain(|name, _| self.regex.is_match(name));
            }
        }
        true
    }

    fn replace(&self, value: &str, labels: &mut LabelsBuilder) {
        let constant = !has_variable(&self.target_label) && !has_variable(&self.replacement);
        if constant && (self.regex.is_default || self.regex.is_match(value)) {
            if self.names.is_valid_label_name(&self.target_label) {
                labels.set(self.target_label.as_str(), self.replacement.as_str());
            }
            return;
        }
        let Some(captures) = self.regex.regex.captures(value) else { return };
        let target = expand(&self.target_label, &captures);
        if self.names.is_valid_label_name(&target) {
            labels.set(target, expand(&self.replacement, &captures));
        }
    }
}

/// Applies the rules in order; returns whether the labels are kept. After a rule that drops, the later ones don't
/// run.
pub fn process(configs: &[RelabelConfig], labels: &mut LabelsBuilder) -> bool {
    configs.iter().all(|config| config.apply(labels))
}

/// What the labels are after one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelabelStep {
    pub kept: bool,
    /// Empty when the rule dropped them.
    pub output: Labels,
}

/// The labels after each rule, for pages that explain relabelling: one step per rule, those after a drop as dropped.
pub fn steps(configs: &[RelabelConfig], labels: &Labels) -> Vec<RelabelStep> {
    let mut builder = labels.to_builder();
    let mut kept = true;
    let step = |config: &RelabelConfig| {
        kept = kept && config.apply(&mut builder);
        RelabelStep { kept, output: if kept { builder.build() } else { Labels::empty() } }
    };
    configs.iter().map(step).collect()
}

/// Go's `Regexp.Expand`: `$name`, `${name}` and `$$`; the longest run of letters, digits and underscores is the
/// name; a `$` that starts none of these stands for itself.
fn expand(template: &str, captures: &Captures<'_>) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let braces = rest.starts_with('{');
        let body = if braces { &rest[1..] } else { rest };
        let len = body.find(|c: char| !(c == '_' || c.is_alphabetic() || c.is_numeric())).unwrap_or(body.len());
        let (name, after) = body.split_at(len);
        if name.is_empty() || (braces && !after.starts_with('}')) {
            out.push('$');
            continue;
        }
        rest = if braces { &after[1..] } else { after };
        let is_number = name.bytes().all(|b| b.is_ascii_digit()) && (name.len() == 1 || !name.starts_with('0'));
        let group = match name.parse::<usize>() {
            Ok(n) if is_number => captures.get(n),
            _ => captures.name(name),
        };
        out.push_str(group.map_or("", |m| m.as_str()));
    }
    out.push_str(rest);
    out
}

/// Unicode's simple mapping, one character to one, as Go's `strings.ToLower` uses it.
fn simple_lower(c: char) -> char {
    let mut lower = c.to_lowercase();
    match (lower.next(), lower.next()) {
        (Some(l), None) => l,
        // Only U+0130 has a longer full mapping.
        (Some(l), Some(_)) => l,
        _ => c,
    }
}

fn simple_upper(c: char) -> char {
    let mut upper = c.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(u), None) => u,
        // Greek letters with an iota below have a title-case letter as simple mapping; the other characters with
        // a longer full mapping, such as ß, have none.
        _ => match c as u32 {
            n @ 0x1f80..=0x1faf if n & 8 == 0 => char::from_u32(n + 8).unwrap_or(c),
            0x1fb3 => '\u{1fbc}',
            0x1fc3 => '\u{1fcc}',
            0x1ff3 => '\u{1ffc}',
            _ => c,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        let regex = Regex::new("^(?s:(?P<name>[a-z]+)-([0-9]+)?)$").unwrap();
        let captures = regex.captures("ab-12").unwrap();
        for (template, expected) in [
            ("$1:$2", "ab:12"),
            ("${1}x$2", "abx12"),
            ("$1x", ""),
            ("$name.${name}", "ab.ab"),
            ("$0", "ab-12"),
            ("$9$01", ""),
            ("$$1", "$1"),
            ("a$", "a$"),
            ("$-", "$-"),
            ("${a-b}", "${a-b}"),
            ("${1", "${1"),
            // Letters of all scripts belong to names.
            ("ü$1ü", "ü"),
            ("$", "$"),
        ] {
            assert_eq!(expand(template, &captures), expected, "{template}");
        }
        let unset = regex.captures("ab-").unwrap();
        assert_eq!(expand("[$2]", &unset), "[]");
    }

    #[test]
    fn letter_cases_are_one_to_one() {
        for (text, lower, upper) in [
            ("aB1", "ab1", "AB1"),
            ("ß", "ß", "ß"),
            ("İ", "i", "İ"),
            // No final sigma.
            ("ΑΣ", "ασ", "ΑΣ"),
            ("ǆ", "ǆ", "Ǆ"),
            ("ᾳ", "ᾳ", "ᾼ"),
            ("ﬁ", "ﬁ", "ﬁ"),
        ] {
            assert_eq!(text.chars().map(simple_lower).collect::<String>(), lower);
            assert_eq!(text.chars().map(simple_upper).collect::<String>(), upper);
        }
    }

    #[test]
    fn hash_of_the_last_eight_bytes() {
        let mut rule = RelabelConfig {
            source_labels: vec!["a".into()],
            target_label: "b".into(),
            modulus: 1000,
            action: Some(Action::HashMod),
            ..RelabelConfig::default()
        };
        rule.validate(ValidationScheme::Utf8).unwrap();
        let mut labels = Labels::from_pairs([("a", "baz")]).to_builder();
        assert!(rule.apply(&mut labels));
        assert_eq!(labels.get("b"), Some("976"));
    }

    #[test]
    fn checks() {
        let rule = |action, target: &str, replacement: &str| RelabelConfig {
            action: Some(action),
            target_label: target.into(),
            replacement: replacement.into(),
            ..RelabelConfig::default()
        };
        use ValidationScheme::{Legacy, Utf8};
        for (names, mut rule, expected) in [
            (
                Utf8,
                rule(Action::Replace, "", "x"),
                Err("relabel configuration for replace action requires 'target_label' value"),
            ),
            (
                Utf8,
                rule(Action::HashMod, "a", "$1"),
                Err("relabel configuration for hashmod requires non-zero modulus"),
            ),
            (Utf8, rule(Action::Replace, "a-b", "x"), Ok(())),
            (Legacy, rule(Action::Replace, "a-b", "x"), Err("\"a-b\" is invalid 'target_label' for replace action")),
            (Legacy, rule(Action::Replace, "a${1}b$2", "x"), Ok(())),
            (Legacy, rule(Action::Replace, "1$a", "x"), Err("\"1$a\" is invalid 'target_label' for replace action")),
            (
                Legacy,
                rule(Action::Replace, "a${1-}", "x"),
                Err("\"a${1-}\" is invalid 'target_label' for replace action"),
            ),
            (Legacy, rule(Action::LabelMap, "", "x-$1"), Err("\"x-$1\" is invalid 'replacement' for labelmap action")),
            (Utf8, rule(Action::LabelMap, "", "x-$1"), Ok(())),
            (Utf8, rule(Action::Lowercase, "a", "x"), Err("'replacement' can not be set for lowercase action")),
            (
                Utf8,
                rule(Action::LabelDrop, "a", "$1"),
                Err("labeldrop action requires only 'regex', and no other fields"),
            ),
            (
                Utf8,
                RelabelConfig { regex: RelabelRegex::new("(.*)").unwrap(), ..rule(Action::KeepEqual, "a", "$1") },
                Err("keepequal action requires only 'source_labels' and `target_label`, and no other fields"),
            ),
            (Utf8, RelabelConfig { action: None, ..RelabelConfig::default() }, Err("relabel action cannot be empty")),
        ] {
            assert_eq!(rule.validate(names), expected.map_err(str::to_owned), "{rule:?}");
        }
    }

    /// Any rules on any labels: what comes out is a label set, and the steps end as the whole does.
    #[test]
    fn random_rules() {
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = move |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 33) as usize % below
        };
        let names = ["a", "b", "__meta_a", "ü", "a.b", "__address__"];
        let texts = ["", "$1", "x", "${1}y", "a;b", "$$", "(.*)", "a|b", "(.+)(?P<n>.?)", "__meta_(.+)", "ü+"];
        for _ in 0..5000 {
            let mut rules = Vec::new();
            for _ in 0..random(5) {
                let mut rule = RelabelConfig {
                    source_labels: (0..random(3)).map(|_| names[random(6)].to_owned()).collect(),
                    target_label: [names[random(6)], texts[random(11)]][random(2)].to_owned(),
                    action: Some(Action::ALL[random(11)]),
                    modulus: random(3) as u64,
                    ..RelabelConfig::default()
                };
                if random(2) == 0 {
                    rule.replacement = texts[random(11)].to_owned();
                }
                if random(2) == 0 {
                    rule.regex = RelabelRegex::new(texts[random(11)]).unwrap();
                }
                if rule.validate(ValidationScheme::Utf8).is_ok() {
                    rules.push(rule);
                }
            }
            let labels =
                Labels::from_pairs((0..random(5)).map(|_| (names[random(6)], texts[random(11)])).collect::<Vec<_>>());
            let mut builder = labels.to_builder();
            let kept = process(&rules, &mut builder);
            let after = builder.build();
            let pairs: Vec<_> = after.iter().collect();
            assert!(pairs.windows(2).all(|w| w[0].0 < w[1].0) && pairs.iter().all(|(_, v)| !v.is_empty()), "{after}");
            if let Some(last) = steps(&rules, &labels).last() {
                assert_eq!((last.kept, &last.output), (kept, if kept { &after } else { &last.output }));
            }
        }
    }
}
