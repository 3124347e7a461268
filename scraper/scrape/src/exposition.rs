//! Exposition formats: reading pages exactly as leniently as Prometheus does.
//!
//! A [`PageParser`] is a pull parser over one page in memory. It keeps offsets only, allocates nothing per line and
//! does not recurse; what it accepts is what Prometheus's `model/textparse` accepts, quirks included, because a page
//! that Prometheus scrapes must not fail here. It knows nothing of targets, slots or caches.

mod float;
mod lexer;
mod negotiate;
mod nhcb;
mod openmetrics;
mod proto;
mod protobuf;
mod text;
mod wire;

use std::sync::Arc;

use narthex_model::{Exemplar, Histogram, MetricType};
use thiserror::Error;

pub use float::{FloatError, NORMAL_NAN_BITS, fast_decimal, format_open_metrics, parse_float, parse_go_float};
pub use negotiate::{ContentTypeError, Format, accept_header, media_type_format, protocol_format};
pub use nhcb::NhcbParser;
pub use openmetrics::OpenMetricsParser;
pub use protobuf::{ProtobufOptions, ProtobufParser};
pub use text::TextParser;

/// A page that does not follow its format; the whole scrape fails. The message is Prometheus's, shortened where it
/// would quote more than some hundred bytes of the page.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct ParseError(pub String);

/// What [`PageParser::next`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    Type,
    Help,
    Unit,
    Comment,
    /// A sample with a float value.
    Series,
    /// A native histogram.
    Histogram,
}

/// The labels of a sample as the page gives them: the name first under `__name__`, then in page order, possibly with
/// empty values and equal names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawLabels(pub Vec<(String, String)>);

impl RawLabels {
    /// The first value of a label, empty where it is absent.
    pub fn value(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(n, _)| n == name)
    }
}

/// Reads one page entry by entry. Every accessor speaks of the entry that `next` returned last.
pub trait PageParser {
    /// The next entry, or `None` at the page's proper end.
    ///
    /// # Errors
    /// The page breaks its format; nothing can be read after that.
    fn next(&mut self) -> Result<Option<Entry>, ParseError>;

    /// The metric family's name of a type, help or unit entry.
    fn family(&self) -> String;

    /// The type that applies to what follows: of the last type entry.
    fn metric_type(&self) -> MetricType;

    /// The help text, unescaped.
    fn help(&self) -> String;

    fn unit(&self) -> String;

    /// The type of the family that the sample belongs to.
    fn series_type(&self) -> MetricType {
        self.metric_type()
    }

    /// The unit that applies to what follows: of the last unit entry.
    fn current_unit(&self) -> &[u8] {
        b""
    }

    /// The bytes that identify the sample's series within the target's pages.
    fn series(&self) -> &[u8];

    fn value(&self) -> f64;

    /// The sample's own timestamp in ms, where it has one.
    fn timestamp(&self) -> Option<i64>;

    /// Replaces `out` by the sample's labels, `le` and `quantile` normalised.
    ///
    /// # Errors
    /// Names or values that are not UTF-8.
    fn labels(&self, out: &mut RawLabels) -> Result<(), ParseError>;

    /// The sample's labels as bytes, for the message of names that [`PageParser::labels`] refused.
    fn label_bytes(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        Vec::new()
    }

    /// The native histogram of a histogram entry, not checked yet.
    ///
    /// # Errors
    /// Where the format has none.
    fn histogram(&mut self) -> Result<Arc<Histogram>, ParseError>;

    /// Checks the histogram of a histogram entry, after its resolution has been reduced where limits ask for that.
    ///
    /// # Errors
    /// A histogram that contradicts itself: the scrape fails.
    fn check_histogram(&self, histogram: &Histogram) -> Result<(), ParseError> {
        crate::histogram::validate(histogram).map_err(ParseError)
    }

    /// From here on `_created` series of types that have them are left out: [`PageParser::start_timestamp`] reads them.
    fn skip_created(&mut self) {}

    /// Appends the sample's exemplars; those without a timestamp say so.
    fn exemplars(&mut self, out: &mut Vec<Exemplar>);

    /// When the sample's counter started, in ms; 0 where the page does not tell.
    fn start_timestamp(&mut self) -> i64 {
        0
    }
}

/// Exemplars whose labels are longer than this many bytes are left out unread: the standard allows 128 characters.
pub(crate) const MAX_EXEMPLAR_BYTES: usize = 4 * 128;

/// What a parser says when asked for a histogram where there is none. Text formats never announce one; of the protobuf
/// format there are families that mix both kinds, where Prometheus's parser does.
pub(crate) fn no_histogram() -> ParseError {
    ParseError("the format has no native histograms".to_owned())
}

/// Bytes as text, each one that belongs to no character replaced, as Go does where it writes JSON.
pub(crate) fn lossy(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        out.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    out
}

/// The same for a message, shortened.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let cut = bytes.len() > QUOTE_LIMIT;
    lossy(&bytes[..bytes.len().min(QUOTE_LIMIT)]) + if cut { "…" } else { "" }
}

/// The longest part of a page that an error message quotes.
const QUOTE_LIMIT: usize = 300;

/// Bytes as Go's `%q` prints them, shortened.
pub(crate) fn quote_bytes(bytes: &[u8]) -> String {
    let cut = bytes.len() > QUOTE_LIMIT;
    let mut out = narthex_model::labels::quote_bytes(&bytes[..bytes.len().min(QUOTE_LIMIT)]);
    if cut {
        out.insert(out.len() - 1, '…');
    }
    out
}

/// `\"`, `\\` and `\n` replaced; other backslashes stay.
pub(crate) fn unescape(text: &str, quotes: bool) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let replacement = match (c, chars.peek()) {
            ('\\', Some('\\')) => '\\',
            ('\\', Some('n')) => '\n',
            ('\\', Some('"')) if quotes => '"',
            _ => {
                out.push(c);
                continue;
            }
        };
        chars.next();
        out.push(replacement);
    }
    out
}

/// `le` of a declared histogram and `quantile` of a declared summary in OpenMetrics' spelling.
pub(crate) fn normalise_label(metric_type: MetricType, name: &str, value: String) -> String {
    let applies = match metric_type {
        MetricType::Summary => name == "quantile",
        MetricType::Histogram => name == "le",
        _ => false,
    };
    match applies.then(|| parse_go_float(value.as_bytes())) {
        Some(Some(v)) => format_open_metrics(v),
        _ => value,
    }
}

#[cfg(test)]
mod tests;
