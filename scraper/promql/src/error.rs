//! What the parser answers when it refuses a query.

use crate::ast::PosRange;

/// Why a query was refused: the first fault found, as Prometheus shows it. Prints as
/// `1:5: parse error: unexpected …`, with line and column from 1, columns in bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{position}: parse error: {message}")]
pub struct ParseError {
    /// What to underline.
    pub range: PosRange,
    pub message: String,
    /// `line:column` of `range.start`.
    pub position: String,
}

impl ParseError {
    pub(crate) fn new(range: PosRange, message: impl Into<String>, query: &str) -> ParseError {
        ParseError { range, message: message.into(), position: range.start_in(query) }
    }
}
