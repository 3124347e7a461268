//! Go's regular expressions, compiled by the `regex` crate.

use regex::{Regex, RegexBuilder};

/// Programs larger than this are refused: a pattern comes from users.
const SIZE_LIMIT: usize = 10 << 20;

/// Compiles a pattern that has to match the whole text, and whose `.` matches every character.
///
/// # Errors
/// When `pattern` is no RE2 expression, or compiles to more than 10 MiB.
pub fn compile_anchored(pattern: &str) -> Result<Regex, String> {
    let anchored = format!("^(?s:{pattern})$");
    RegexBuilder::new(&anchored)
        .size_limit(SIZE_LIMIT)
        .build()
        .map_err(|e| format!("error parsing regexp: {e}: `{anchored}`"))
}
