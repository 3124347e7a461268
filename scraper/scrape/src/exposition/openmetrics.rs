//! OpenMetrics text, 0.0.1 and 1.0.0, with the leniency of Prometheus's `OpenMetricsParser`: what the standard
//! forbids but Prometheus takes is taken.

use std::str;
use std::sync::Arc;

use narthex_model::{Exemplar, Histogram, Labels, MetricType, gomath};

use super::lexer::{Cursor, SeriesSpans, State, Token, is_label, is_label_start, is_name, is_name_start};
use super::text::{span_bytes, span_labels};
use super::{
    Entry, MAX_EXEMPLAR_BYTES, PageParser, ParseError, RawLabels, no_histogram, parse_float, quote_bytes, unescape,
};

/// Reads a page of OpenMetrics text.
#[derive(Clone, Debug)]
pub struct OpenMetricsParser<'a> {
    lexer: Cursor<'a>,
    start: usize,
    spans: SeriesSpans,
    series_end: usize,
    text: (usize, usize),
    metric_type: MetricType,
    /// Where the last unit stands.
    current_unit: (usize, usize),
    value: f64,
    timestamp: Option<i64>,
    exemplar: Option<RawExemplar>,
    exemplar_labels: SeriesSpans,
    skip_created: bool,
    /// How long the name of the last description is.
    family_len: usize,
    /// Whose start was found last, and what it is.
    started: Option<(Vec<u8>, i64)>,
    /// The next `_created` series, as far as was looked.
    ahead: Ahead,
}

/// What a look ahead came to: it holds for all lines that end between `from` and `to`.
#[derive(Clone, Debug, Default)]
struct Ahead {
    from: usize,
    to: usize,
    /// `None` where no `_created` series comes before the next description.
    created: Option<(Vec<u8>, i64)>,
}

#[derive(Clone, Copy, Debug)]
struct RawExemplar {
    value: f64,
    timestamp: Option<i64>,
}

const CREATED: &[u8] = b"_created";

const NO_EOF: &str = "data does not end with # EOF";

impl<'a> OpenMetricsParser<'a> {
    pub fn new(page: &'a [u8]) -> OpenMetricsParser<'a> {
        OpenMetricsParser {
            lexer: Cursor::new(page, false),
            start: 0,
            spans: SeriesSpans::default(),
            series_end: 0,
            text: (0, 0),
            metric_type: MetricType::Unknown,
            current_unit: (0, 0),
            value: 0.0,
            timestamp: None,
            exemplar: None,
            exemplar_labels: SeriesSpans::default(),
            skip_created: false,
            family_len: 0,
            started: None,
            ahead: Ahead::default(),
        }
    }

    /// Continues at the line that begins at `at`, after a type entry of `metric_type`.
    pub(crate) fn seek(&mut self, at: usize, metric_type: MetricType) {
        self.lexer.at = at;
        self.lexer.state = State::Init;
        self.metric_type = metric_type;
    }

    /// Continues behind the series text of a line that began at `start`, and reads the line's rest.
    pub(crate) fn resume_value(&mut self, start: usize, at: usize) -> Result<(), ParseError> {
        self.start = start;
        self.series_end = at;
        self.lexer.at = at;
        self.lexer.state = State::Value;
        self.exemplar = None;
        let token = self.lex();
        self.end_of_line(token)
    }

    /// Whether the sample just read did not end its line: what follows is an error that the next entry tells.
    pub(crate) fn is_mid_line(&self) -> bool {
        self.lexer.state != State::Init
    }

    /// Where the current entry began, where its series text ended, and where the next line begins.
    pub(crate) fn span(&self) -> (usize, usize, usize) {
        (self.start, self.series_end, self.lexer.at)
    }

    /// A space and then at least one byte that is neither space nor line break.
    fn spaced(l: &mut Cursor<'_>) -> bool {
        if l.current() != b' ' {
            return false;
        }
        let first = l.bump();
        if matches!(first, 0 | b' ' | b'\n') {
            return false;
        }
        l.run(|b| !matches!(b, 0 | b' ' | b'\n'));
        true
    }

    fn lex(&mut self) -> Token {
        let l = &mut self.lexer;
        if l.at >= l.end() {
            return Token::Eof;
        }
        l.token = l.at;
        let byte = l.current();
        match l.state {
            State::Init => match byte {
                b'#' => {
                    if l.bump() != b' ' {
                        return Token::Invalid;
                    }
                    l.bump();
                    l.state = State::Comment;
                    Self::comment(l)
                }
                b'{' => {
                    l.bump();
                    l.state = State::Labels;
                    Token::BraceOpen
                }
                b if is_name_start(b) => {
                    l.run(is_name);
                    l.state = State::Value;
                    Token::MetricName
                }
                _ => Token::Invalid,
            },
            State::Comment => Self::comment(l),
            State::Meta1 => match byte {
                b'"' if l.quoted(true) => {
                    l.state = State::Meta2;
                    Token::MetricName
                }
                b if is_name_start(b) => {
                    l.run(is_name);
                    l.state = State::Meta2;
                    Token::MetricName
                }
                _ => Token::Invalid,
            },
            State::Meta2 => {
                let rest = l.page.get(l.at..).unwrap_or_default();
                match memchr::memchr(b'\n', rest) {
                    Some(n) if byte == b' ' => {
                        l.at += n + 1;
                        l.state = State::Init;
                        Token::Text
                    }
                    _ => Token::Invalid,
                }
            }
            State::Labels | State::Exemplar => match byte {
                b'"' if l.quoted(l.state == State::Labels) => Token::QuotedString,
                b',' => {
                    l.bump();
                    Token::Comma
                }
                b'=' => {
                    l.bump();
                    l.state = if l.state == State::Labels { State::LabelValue } else { State::ExemplarValue };
                    Token::Equal
                }
                b'}' => {
                    l.bump();
                    l.state = if l.state == State::Labels { State::Value } else { State::ExemplarValue };
                    Token::BraceClose
                }
                b if is_label_start(b) => {
                    l.run(is_label);
                    Token::LabelName
                }
                _ => Token::Invalid,
            },
            State::LabelValue => {
                if byte == b'"' && l.quoted(false) {
                    l.state = State::Labels;
                    Token::LabelValue
                } else {
                    Token::Invalid
                }
            }
            State::Value => match byte {
                b'{' => {
                    l.bump();
                    l.state = State::Labels;
                    Token::BraceOpen
                }
                _ if Self::spaced(l) => {
                    l.state = State::Timestamp;
                    Token::Value
                }
                _ => Token::Invalid,
            },
            State::Timestamp => match byte {
                b'\n' => {
                    l.bump();
                    l.state = State::Init;
                    Token::Linebreak
                }
                b' ' => {
                    let hash = l.page.get(l.at + 1) == Some(&b'#') && l.page.get(l.at + 2) == Some(&b' ');
                    if !hash {
                        return if Self::spaced(l) { Token::Timestamp } else { Token::Invalid };
                    }
                    l.at += 3;
                    if l.current() != b'{' {
                        return Token::Invalid;
                    }
                    l.bump();
                    l.state = State::Exemplar;
                    Token::Comment
                }
                _ => Token::Invalid,
            },
            State::ExemplarValue => match byte {
                b'"' if l.quoted(false) => {
                    l.state = State::Exemplar;
                    Token::LabelValue
                }
                _ if Self::spaced(l) => {
                    l.state = State::ExemplarTimestamp;
                    Token::Value
                }
                _ => Token::Invalid,
            },
            State::ExemplarTimestamp => match byte {
                b'\n' => {
                    l.bump();
                    l.state = State::Init;
                    Token::Linebreak
                }
                _ if Self::spaced(l) => Token::Timestamp,
                _ => Token::Invalid,
            },
        }
    }

    fn comment(l: &mut Cursor<'_>) -> Token {
        let token = match l.current() {
            b'H' if l.word(b"HELP ") => Token::Help,
            b'T' if l.word(b"TYPE ") => Token::Type,
            b'U' if l.word(b"UNIT ") => Token::Unit,
            b'E' if l.word(b"EOF") => {
                if l.current() == b'\n' {
                    l.bump();
                }
                l.state = State::Init;
                return Token::EofWord;
            }
            _ => return Token::Invalid,
        };
        l.state = State::Meta1;
        token
    }

    fn error(&self, expected: &str, got: Token) -> ParseError {
        self.lexer.error(expected, got, self.start)
    }

    fn metadata(&mut self, kind: Token) -> Result<Entry, ParseError> {
        let token = self.lex();
        if token != Token::MetricName {
            return Err(self.error(&format!("expected metric name after {}", kind.name()), token));
        }
        let (mut from, mut to) = (self.lexer.token, self.lexer.at);
        if self.lexer.page.get(from) == Some(&b'"') {
            (from, to) = (from + 1, to - 1);
        }
        self.spans.name = Some((from, to));
        self.family_len = to - from;
        if self.lex() != Token::Text {
            return Err(ParseError(format!("expected text in {}", kind.name())));
        }
        self.text = (self.lexer.token + 1, self.lexer.at - 1);
        let text = self.lexer.slice(self.text.0, self.text.1);
        match kind {
            Token::Type => {
                self.metric_type = match str::from_utf8(text).ok().and_then(MetricType::from_name) {
                    Some(t) => t,
                    None => return Err(ParseError(format!("invalid metric type {}", quote_bytes(text)))),
                };
                Ok(Entry::Type)
            }
            Token::Help => {
                if str::from_utf8(text).is_err() {
                    return Err(ParseError(format!("help text {} is not a valid utf8 string", quote_bytes(text))));
                }
                Ok(Entry::Help)
            }
            _ => {
                let name = self.lexer.slice(from, to);
                let suffix = name.strip_suffix(text).and_then(|stem| stem.last());
                if !text.is_empty() && suffix != Some(&b'_') {
                    return Err(ParseError(format!(
                        "unit {} not a suffix of metric {}",
                        quote_bytes(text),
                        quote_bytes(name)
                    )));
                }
                self.current_unit = self.text;
                Ok(Entry::Unit)
            }
        }
    }

    /// What is between the braces of a series or an exemplar, the closing one included.
    fn label_values(&mut self, exemplar: bool) -> Result<(), ParseError> {
        let mut token = self.lex();
        loop {
            let (mut from, mut to) = (self.lexer.token, self.lexer.at);
            let quoted = match token {
                Token::BraceClose => return Ok(()),
                Token::LabelName => false,
                Token::QuotedString => true,
                other => return Err(self.error("expected label name", other)),
            };
            token = self.lex();
            if quoted {
                (from, to) = (from + 1, to - 1);
                if matches!(token, Token::Comma | Token::BraceClose) {
                    if exemplar {
                        return Err(self.error("expected label name", token));
                    }
                    if self.spans.name.is_some() {
                        return Err(self.lexer.context("metric name already set", self.start));
                    }
                    self.spans.name = Some((from, to));
                    if token == Token::BraceClose {
                        return Ok(());
                    }
                    token = self.lex();
                    continue;
                }
            }
            if token != Token::Equal {
                return Err(self.error("expected equal", token));
            }
            token = self.lex();
            if token != Token::LabelValue {
                return Err(self.error("expected label value", token));
            }
            if str::from_utf8(self.lexer.text()).is_err() {
                return Err(ParseError(format!("invalid UTF-8 label value: {}", quote_bytes(self.lexer.text()))));
            }
            let spans = if exemplar { &mut self.exemplar_labels } else { &mut self.spans };
            spans.labels.push(((from, to), (self.lexer.token + 1, self.lexer.at - 1)));
            token = self.lex();
            if token == Token::Comma {
                token = self.lex();
            } else if token != Token::BraceClose {
                return Err(self.error("expected comma or brace close", token));
            }
        }
    }

    fn float(&self, token: Token, after: &str) -> Result<f64, ParseError> {
        if token != Token::Value {
            return Err(self.error(&format!("expected value after {after}"), token));
        }
        self.spaced_float()
    }

    /// The current token, a space and a float.
    fn spaced_float(&self) -> Result<f64, ParseError> {
        let text = self.lexer.text().get(1..).unwrap_or_default();
        parse_float(text).map_err(|e| self.lexer.context(&e.message(text), self.start))
    }

    /// The current token as a timestamp in ms, from seconds.
    fn seconds(&self, what: &str) -> Result<i64, ParseError> {
        let seconds = self.spaced_float()?;
        if !seconds.is_finite() {
            let text = if seconds.is_nan() {
                "NaN"
            } else if seconds > 0.0 {
                "+Inf"
            } else {
                "-Inf"
            };
            return Err(ParseError(format!("invalid {what} {text}")));
        }
        Ok((seconds * 1000.0) as i64)
    }

    fn exemplar(&mut self) -> Result<(), ParseError> {
        self.exemplar_labels.labels.clear();
        self.label_values(true)?;
        let token = self.lex();
        let value = self.float(token, "exemplar labels")?;
        let mut timestamp = None;
        match self.lex() {
            Token::Eof => return Err(ParseError(NO_EOF.to_owned())),
            Token::Linebreak => {}
            Token::Timestamp => {
                timestamp = Some(self.seconds("exemplar timestamp")?);
                match self.lex() {
                    Token::Linebreak => {}
                    other => return Err(self.error("expected next entry after exemplar timestamp", other)),
                }
            }
            other => return Err(self.error("expected timestamp or comment", other)),
        }
        self.exemplar = Some(RawExemplar { value, timestamp });
        Ok(())
    }

    /// Value, timestamp and exemplar, from `token` on.
    fn end_of_line(&mut self, token: Token) -> Result<(), ParseError> {
        self.value = self.float(token, "metric")?;
        self.timestamp = None;
        match self.lex() {
            Token::Eof => Err(ParseError(NO_EOF.to_owned())),
            Token::Comment => self.exemplar(),
            Token::Timestamp => {
                self.timestamp = Some(self.seconds("timestamp")?);
                match self.lex() {
                    Token::Linebreak => Ok(()),
                    Token::Comment => self.exemplar(),
                    other => Err(self.error("expected next entry after timestamp", other)),
                }
            }
            // Anything else is the next entry's fault: the sample still counts, as in Prometheus.
            _ => Ok(()),
        }
    }

    fn series_line(&mut self, mut token: Token) -> Result<Entry, ParseError> {
        if token == Token::BraceOpen {
            self.label_values(false)?;
            self.series_end = self.lexer.at;
            token = self.lex();
        }
        if self.spans.name.is_none() {
            return Err(self.lexer.context("metric name not set", self.start));
        }
        self.end_of_line(token)?;
        Ok(Entry::Series)
    }

    fn entry(&mut self) -> Result<Option<Entry>, ParseError> {
        self.start = self.lexer.at;
        self.spans.name = None;
        self.spans.labels.clear();
        self.exemplar = None;
        match self.lex() {
            Token::EofWord => match self.lex() {
                Token::Eof => Ok(None),
                _ => Err(ParseError("unexpected data after # EOF".to_owned())),
            },
            Token::Eof => Err(ParseError(NO_EOF.to_owned())),
            kind @ (Token::Help | Token::Type | Token::Unit) => self.metadata(kind).map(Some),
            Token::BraceOpen => self.series_line(Token::BraceOpen).map(Some),
            Token::MetricName => {
                self.spans.name = Some((self.start, self.lexer.at));
                self.series_end = self.lexer.at;
                let token = self.lex();
                self.series_line(token).map(Some)
            }
            other => Err(self.error("expected a valid start token", other)),
        }
    }

    fn has_start(&self) -> bool {
        matches!(self.metric_type, MetricType::Counter | MetricType::Summary | MetricType::Histogram)
    }

    fn is_created(&self) -> bool {
        let (from, to) = self.spans.name.unwrap_or_default();
        self.has_start() && self.lexer.slice(from, to).ends_with(CREATED)
    }

    /// What the series of one metric have in common: the name, and the labels as they stand without `le` or `quantile`.
    fn metric_key(&self, name: &[u8]) -> Vec<u8> {
        let skip: &[u8] = match self.metric_type {
            MetricType::Summary => b"quantile",
            MetricType::Histogram => b"le",
            _ => b"",
        };
        let mut key = Vec::new();
        for (label, value) in &self.spans.labels {
            let label = self.lexer.slice(label.0, label.1);
            if skip.is_empty() || label != skip {
                key.extend_from_slice(label);
                key.extend_from_slice(self.lexer.slice(value.0, value.1));
            }
        }
        key.extend_from_slice(name);
        key
    }

    /// Looks for the `_created` series that comes next, up to the next description or fault.
    fn look_ahead(&self) -> Ahead {
        let mut parser = OpenMetricsParser { skip_created: false, ..self.clone() };
        let from = self.lexer.at;
        loop {
            let to = parser.lexer.at;
            if !matches!(parser.entry(), Ok(Some(Entry::Series))) {
                return Ahead { from, to, created: None };
            }
            let (start, end) = parser.spans.name.unwrap_or_default();
            if let Some(name) = parser.lexer.slice(start, end).strip_suffix(CREATED) {
                let start = gomath::to_i64(parser.value * 1000.0);
                return Ahead { from, to, created: Some((parser.metric_key(name), start)) };
            }
        }
    }
}

impl PageParser for OpenMetricsParser<'_> {
    fn next(&mut self) -> Result<Option<Entry>, ParseError> {
        loop {
            let entry = self.entry()?;
            if !(self.skip_created && entry == Some(Entry::Series) && self.is_created()) {
                return Ok(entry);
            }
        }
    }

    fn family(&self) -> String {
        let (from, to) = self.spans.name.unwrap_or_default();
        String::from_utf8_lossy(self.lexer.slice(from, to)).into_owned()
    }

    fn skip_created(&mut self) {
        self.skip_created = true;
    }

    fn start_timestamp(&mut self) -> i64 {
        if !self.has_start() {
            self.started = None;
            return 0;
        }
        let (from, _) = self.spans.name.unwrap_or_default();
        // The family's name, as long as its description says that it is.
        let quoted = self.series().starts_with(b"{\"");
        let to = self.start + self.family_len + if quoted { 2 } else { 0 };
        let key = self.metric_key(self.lexer.slice(from, to.max(from)));
        if let Some((started, start)) = &self.started
            && *started == key
            && *start > 0
        {
            return *start;
        }
        if !(self.ahead.from..=self.ahead.to).contains(&self.lexer.at) || self.ahead.to == 0 {
            self.ahead = self.look_ahead();
        }
        self.started = self.ahead.created.clone().filter(|(created, _)| *created == key);
        self.skip_created = true;
        self.started.as_ref().map_or(0, |s| s.1)
    }

    fn label_bytes(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        span_bytes(self.lexer.page, &self.spans)
    }

    fn metric_type(&self) -> MetricType {
        self.metric_type
    }

    fn help(&self) -> String {
        unescape(&String::from_utf8_lossy(self.lexer.slice(self.text.0, self.text.1)), true)
    }

    fn unit(&self) -> String {
        String::from_utf8_lossy(self.lexer.slice(self.text.0, self.text.1)).into_owned()
    }

    fn current_unit(&self) -> &[u8] {
        self.lexer.slice(self.current_unit.0, self.current_unit.1)
    }

    fn series(&self) -> &[u8] {
        self.lexer.slice(self.start, self.series_end)
    }

    fn value(&self) -> f64 {
        self.value
    }

    fn timestamp(&self) -> Option<i64> {
        self.timestamp
    }

    fn labels(&self, out: &mut RawLabels) -> Result<(), ParseError> {
        span_labels(self.lexer.page, &self.spans, self.metric_type, out)
    }

    fn histogram(&mut self) -> Result<Arc<Histogram>, ParseError> {
        Err(no_histogram())
    }

    fn exemplars(&mut self, out: &mut Vec<Exemplar>) {
        let Some(raw) = self.exemplar.take() else { return };
        let length = |(from, to): (usize, usize)| to.saturating_sub(from);
        let bytes: usize = self.exemplar_labels.labels.iter().map(|(n, v)| length(*n) + length(*v)).sum();
        if bytes > MAX_EXEMPLAR_BYTES {
            return;
        }
        // Prometheus takes exemplar labels as they stand, escapes included.
        let text = |(from, to): (usize, usize)| String::from_utf8_lossy(self.lexer.slice(from, to)).into_owned();
        let labels = Labels::from_pairs(self.exemplar_labels.labels.iter().map(|(n, v)| (text(*n), text(*v))));
        out.push(Exemplar {
            labels,
            value: raw.value,
            timestamp: raw.timestamp.unwrap_or(0),
            has_timestamp: raw.timestamp.is_some(),
        });
    }
}
