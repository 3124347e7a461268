//! Parsers of formats that have lines: one that can be set down where the fast loop stopped.

use narthex_model::MetricType;

use crate::exposition::{OpenMetricsParser, PageParser, ParseError, TextParser};

/// A text parser that can be set down in the middle of a page.
pub(super) trait LineParser: PageParser {
    /// Whether a page may end without a line break.
    const FORGIVES_END: bool;

    fn seek(&mut self, at: usize, metric_type: MetricType);
    fn resume_value(&mut self, start: usize, at: usize) -> Result<(), ParseError>;
    fn span(&self) -> (usize, usize, usize);
    /// Whether the sample just read did not end its line; only reading on tells what is wrong with it.
    fn is_mid_line(&self) -> bool {
        false
    }
}

impl LineParser for TextParser<'_> {
    const FORGIVES_END: bool = true;

    #[inline]
    fn seek(&mut self, at: usize, metric_type: MetricType) {
        TextParser::seek(self, at, metric_type);
    }

    #[inline]
    fn resume_value(&mut self, start: usize, at: usize) -> Result<(), ParseError> {
        TextParser::resume_value(self, start, at)
    }

    #[inline]
    fn span(&self) -> (usize, usize, usize) {
        TextParser::span(self)
    }
}

impl LineParser for OpenMetricsParser<'_> {
    const FORGIVES_END: bool = false;

    #[inline]
    fn seek(&mut self, at: usize, metric_type: MetricType) {
        OpenMetricsParser::seek(self, at, metric_type);
    }

    #[inline]
    fn resume_value(&mut self, start: usize, at: usize) -> Result<(), ParseError> {
        OpenMetricsParser::resume_value(self, start, at)
    }

    #[inline]
    fn span(&self) -> (usize, usize, usize) {
        OpenMetricsParser::span(self)
    }

    #[inline]
    fn is_mid_line(&self) -> bool {
        OpenMetricsParser::is_mid_line(self)
    }
}
