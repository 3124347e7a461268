//! Which names metrics and labels may have.

use std::fmt;

use crate::labels::{is_legacy_metric_name, is_legacy_name};

/// A text as (part of) a legacy label name: `_` in place of what cannot be in one (Go's `strutil.SanitizeLabelName`).
pub fn sanitize_label_name(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
}

/// `metric_name_validation_scheme`: which names are valid. `Unset` inherits and counts as UTF-8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ValidationScheme {
    #[default]
    Unset,
    /// `[a-zA-Z_][a-zA-Z0-9_]*`, for metrics with colons.
    Legacy,
    /// Any text that is not empty.
    Utf8,
}

impl ValidationScheme {
    /// As the configuration spells it; empty for `Unset`.
    pub fn as_str(self) -> &'static str {
        match self {
            ValidationScheme::Unset => "",
            ValidationScheme::Legacy => "legacy",
            ValidationScheme::Utf8 => "utf8",
        }
    }

    pub fn is_valid_label_name(self, name: &str) -> bool {
        match self {
            ValidationScheme::Legacy => is_legacy_name(name),
            _ => !name.is_empty(),
        }
    }

    pub fn is_valid_metric_name(self, name: &str) -> bool {
        match self {
            ValidationScheme::Legacy => is_legacy_metric_name(name),
            _ => !name.is_empty(),
        }
    }
}

impl fmt::Display for ValidationScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
