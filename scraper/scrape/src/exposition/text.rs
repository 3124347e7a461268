//! The Prometheus text format, 0.0.4 and 1.0.0 (`text/plain`), with the leniency of Prometheus's `PromParser`.

use std::str;
use std::sync::Arc;

use narthex_model::{Exemplar, Histogram, METRIC_NAME, MetricType};

use super::lexer::{Cursor, SeriesSpans, State, Token, is_label, is_label_start, is_name, is_name_start};
use super::{
    Entry, PageParser, ParseError, RawLabels, no_histogram, normalise_label, parse_float, quote_bytes, unescape,
};

/// Reads a page of the text format.
#[derive(Clone, Debug)]
pub struct TextParser<'a> {
    lexer: Cursor<'a>,
    /// Where the current entry began.
    start: usize,
    spans: SeriesSpans,
    series_end: usize,
    text: (usize, usize),
    metric_type: MetricType,
    value: f64,
    timestamp: Option<i64>,
}

impl<'a> TextParser<'a> {
    pub fn new(page: &'a [u8]) -> TextParser<'a> {
        TextParser {
            lexer: Cursor::new(page, true),
            start: 0,
            spans: SeriesSpans::default(),
            series_end: 0,
            text: (0, 0),
            metric_type: MetricType::Unknown,
            value: 0.0,
            timestamp: None,
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
        let token = self.token();
        self.suffix(token)
    }

    /// Where the current entry began, where its series text ended, and where the next line begins.
    pub(crate) fn span(&self) -> (usize, usize, usize) {
        (self.start, self.series_end, self.lexer.at)
    }

    fn lex(&mut self) -> Token {
        let l = &mut self.lexer;
        if l.at >= l.end() {
            return Token::Eof;
        }
        l.token = l.at;
        let byte = l.current();
        if (byte == b' ' || byte == b'\t') && l.state != State::Meta2 {
            l.run(|b| b == b' ' || b == b'\t');
            return Token::Whitespace;
        }
        match l.state {
            State::Init => match byte {
                0 => {
                    l.bump();
                    Token::Eof
                }
                b'\n' => {
                    l.bump();
                    Token::Linebreak
                }
                b'#' => {
                    l.bump();
                    if !matches!(l.current(), b' ' | b'\t') {
                        return Self::comment(l);
                    }
                    l.run(|b| b == b' ' || b == b'\t');
                    l.state = State::Comment;
                    let word = match l.current() {
                        b'H' if l.word(b"HELP") => Token::Help,
                        b'T' if l.word(b"TYPE") => Token::Type,
                        _ => return Self::comment(l),
                    };
                    if !matches!(l.current(), b' ' | b'\t') {
                        return Self::comment(l);
                    }
                    l.run(|b| b == b' ' || b == b'\t');
                    l.state = State::Meta1;
                    word
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
                // White space alone is white space; with anything behind it, text.
                let from = l.at;
                let rest = l.page.get(from..).unwrap_or_default();
                let line = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
                let spaces = rest[..line].iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
                if byte != 0 && spaces > 0 && rest[spaces..line].iter().all(|b| *b == 0) {
                    l.at = from + line;
                    return Token::Whitespace;
                }
                if byte != 0 {
                    l.at = from + line;
                }
                l.state = State::Init;
                Token::Text
            }
            State::Labels => match byte {
                b'"' if l.quoted(true) => Token::QuotedString,
                b',' => {
                    l.bump();
                    Token::Comma
                }
                b'=' => {
                    l.bump();
                    l.state = State::LabelValue;
                    Token::Equal
                }
                b'}' => {
                    l.bump();
                    l.state = State::Value;
                    Token::BraceClose
                }
                b if is_label_start(b) => {
                    l.run(is_label);
                    Token::LabelName
                }
                _ => Token::Invalid,
            },
            State::LabelValue => {
                if byte == b'"' && l.quoted(true) {
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
                0 | b'\n' => Token::Invalid,
                _ => {
                    l.run(|b| !matches!(b, 0 | b' ' | b'\t' | b'\n' | b'{'));
                    l.state = State::Timestamp;
                    Token::Value
                }
            },
            State::Timestamp => match byte {
                b'\n' => {
                    l.bump();
                    l.state = State::Init;
                    Token::Linebreak
                }
                b'0'..=b'9' => {
                    l.run(|b| b.is_ascii_digit());
                    Token::Timestamp
                }
                _ => Token::Invalid,
            },
            State::Comment => Self::comment(l),
            State::Exemplar | State::ExemplarValue | State::ExemplarTimestamp => Token::Invalid,
        }
    }

    /// The rest of a comment, its line break left for the next token. A NUL ends the page here, as in Prometheus.
    fn comment(l: &mut Cursor<'_>) -> Token {
        let rest = l.page.get(l.at..).unwrap_or_default();
        let line = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let stops_at_nul = if l.state == State::Comment {
            rest.first() == Some(&0)
        } else {
            memchr::memchr(0, &rest[..line]).is_some()
        };
        if stops_at_nul {
            return Token::Eof;
        }
        l.at += line;
        l.state = State::Init;
        Token::Comment
    }

    /// The next token that is not white space.
    fn token(&mut self) -> Token {
        loop {
            let token = self.lex();
            if token != Token::Whitespace {
                return token;
            }
        }
    }

    fn error(&self, expected: &str, got: Token) -> ParseError {
        self.lexer.error(expected, got, self.start)
    }

    fn metadata(&mut self, kind: Token) -> Result<Entry, ParseError> {
        let token = self.token();
        if token != Token::MetricName {
            return Err(self.error(&format!("expected metric name after {}", kind.name()), token));
        }
        let (mut from, mut to) = (self.lexer.token, self.lexer.at);
        if self.lexer.page.get(from) == Some(&b'"') {
            (from, to) = (from + 1, to - 1);
        }
        self.spans.name = Some((from, to));
        let token = self.token();
        if token != Token::Text {
            return Err(ParseError(format!("expected text in {}, got {}", kind.name(), token.name())));
        }
        self.text = ((self.lexer.token + 1).min(self.lexer.at), self.lexer.at);
        let text = self.lexer.slice(self.text.0, self.text.1);
        if kind == Token::Type {
            self.metric_type = match text {
                b"counter" => MetricType::Counter,
                b"gauge" => MetricType::Gauge,
                b"histogram" => MetricType::Histogram,
                b"summary" => MetricType::Summary,
                b"untyped" => MetricType::Unknown,
                other => return Err(ParseError(format!("invalid metric type {}", quote_bytes(other)))),
            };
        } else if str::from_utf8(text).is_err() {
            return Err(ParseError(format!("help text {} is not a valid utf8 string", quote_bytes(text))));
        }
        let token = self.token();
        if token != Token::Linebreak {
            return Err(self.error("linebreak expected after metadata", token));
        }
        Ok(if kind == Token::Type { Entry::Type } else { Entry::Help })
    }

    /// What is between the braces, the closing one included.
    fn label_values(&mut self) -> Result<(), ParseError> {
        let mut token = self.token();
        loop {
            let (mut from, mut to) = (self.lexer.token, self.lexer.at);
            let quoted = match token {
                Token::BraceClose => return Ok(()),
                Token::LabelName => false,
                Token::QuotedString => true,
                other => return Err(self.error("expected label name", other)),
            };
            token = self.token();
            if quoted {
                (from, to) = (from + 1, to - 1);
                if matches!(token, Token::Comma | Token::BraceClose) {
                    // A quoted string by itself is the metric's name.
                    if self.spans.name.is_some() {
                        return Err(self.lexer.context("metric name already set", self.start));
                    }
                    self.spans.name = Some((from, to));
                    if token == Token::BraceClose {
                        return Ok(());
                    }
                    token = self.token();
                    continue;
                }
            }
            if token != Token::Equal {
                return Err(self.error("expected equal", token));
            }
            token = self.token();
            if token != Token::LabelValue {
                return Err(self.error("expected label value", token));
            }
            if str::from_utf8(self.lexer.text()).is_err() {
                return Err(ParseError(format!("invalid UTF-8 label value: {}", quote_bytes(self.lexer.text()))));
            }
            self.spans.labels.push(((from, to), (self.lexer.token + 1, self.lexer.at - 1)));
            token = self.token();
            if token == Token::Comma {
                token = self.token();
            }
        }
    }

    /// Value and timestamp, from `token` on.
    fn suffix(&mut self, token: Token) -> Result<(), ParseError> {
        if token != Token::Value {
            return Err(self.error("expected value after metric", token));
        }
        let text = self.lexer.text();
        self.value = parse_float(text).map_err(|e| self.lexer.context(&e.message(text), self.start))?;
        self.timestamp = None;
        match self.token() {
            Token::Linebreak => Ok(()),
            Token::Timestamp => {
                let text = self.lexer.text();
                let parsed = str::from_utf8(text).ok().and_then(|t| t.parse::<i64>().ok());
                if parsed.is_none() {
                    let message = format!("strconv.ParseInt: parsing {}: value out of range", quote_bytes(text));
                    return Err(self.lexer.context(&message, self.start));
                }
                self.timestamp = parsed;
                match self.token() {
                    Token::Linebreak => Ok(()),
                    other => Err(self.error("expected next entry after timestamp", other)),
                }
            }
            other => Err(self.error("expected timestamp or new record", other)),
        }
    }
}

/// The labels of a series from its spans, for both text formats.
pub(super) fn span_labels(
    page: &[u8],
    spans: &SeriesSpans,
    metric_type: MetricType,
    out: &mut RawLabels,
) -> Result<(), ParseError> {
    let text = |(from, to): (usize, usize)| {
        let bytes = page.get(from..to).unwrap_or_default();
        str::from_utf8(bytes)
            .map_err(|_| ParseError(format!("invalid metric name or label names: {}", quote_bytes(bytes))))
    };
    out.0.clear();
    if let Some(name) = spans.name {
        out.0.push((METRIC_NAME.to_owned(), unescape(text(name)?, true)));
    }
    for (name, value) in &spans.labels {
        let name = unescape(text(*name)?, true);
        let value = normalise_label(metric_type, &name, unescape(text(*value)?, true));
        out.0.push((name, value));
    }
    Ok(())
}

/// The bytes of names and values as they stand on the page.
pub(super) fn span_bytes(page: &[u8], spans: &SeriesSpans) -> Vec<(Vec<u8>, Vec<u8>)> {
    let text = |(from, to): (usize, usize)| page.get(from..to).unwrap_or_default().to_vec();
    let name = spans.name.map(|name| (METRIC_NAME.as_bytes().to_vec(), text(name)));
    name.into_iter().chain(spans.labels.iter().map(|(n, v)| (text(*n), text(*v)))).collect()
}

impl PageParser for TextParser<'_> {
    fn next(&mut self) -> Result<Option<Entry>, ParseError> {
        loop {
            self.start = self.lexer.at;
            self.spans.name = None;
            self.spans.labels.clear();
            match self.token() {
                Token::Eof => return Ok(None),
                Token::Linebreak => continue,
                kind @ (Token::Help | Token::Type) => return self.metadata(kind).map(Some),
                Token::Comment => {
                    return match self.token() {
                        Token::Linebreak => Ok(Some(Entry::Comment)),
                        other => Err(self.error("linebreak expected after comment", other)),
                    };
                }
                Token::BraceOpen => {
                    self.label_values()?;
                    self.series_end = self.lexer.at;
                    let token = self.token();
                    if self.spans.name.is_none() {
                        return Err(self.lexer.context("metric name not set", self.start));
                    }
                    self.suffix(token)?;
                    return Ok(Some(Entry::Series));
                }
                Token::MetricName => {
                    // White space before the name is part of it: so does Prometheus.
                    self.spans.name = Some((self.start, self.lexer.at));
                    self.series_end = self.lexer.at;
                    let mut token = self.token();
                    if token == Token::BraceOpen {
                        self.label_values()?;
                        self.series_end = self.lexer.at;
                        token = self.token();
                    }
                    self.suffix(token)?;
                    return Ok(Some(Entry::Series));
                }
                other => return Err(self.error("expected a valid start token", other)),
            }
        }
    }

    fn family(&self) -> String {
        let (from, to) = self.spans.name.unwrap_or_default();
        String::from_utf8_lossy(self.lexer.slice(from, to)).into_owned()
    }

    fn metric_type(&self) -> MetricType {
        self.metric_type
    }

    fn help(&self) -> String {
        unescape(&String::from_utf8_lossy(self.lexer.slice(self.text.0, self.text.1)), false)
    }

    fn unit(&self) -> String {
        String::new()
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

    fn label_bytes(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        span_bytes(self.lexer.page, &self.spans)
    }

    fn histogram(&mut self) -> Result<Arc<Histogram>, ParseError> {
        Err(no_histogram())
    }

    fn exemplars(&mut self, _out: &mut Vec<Exemplar>) {}
}
