//! What the two text lexers share: a cursor, tokens and how errors quote them.

use super::{ParseError, quote_bytes};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Invalid,
    Eof,
    Linebreak,
    Whitespace,
    Help,
    Type,
    Unit,
    EofWord,
    Text,
    Comment,
    MetricName,
    QuotedString,
    BraceOpen,
    BraceClose,
    LabelName,
    LabelValue,
    Comma,
    Equal,
    Timestamp,
    Value,
}

impl Token {
    /// The name that Prometheus's messages use.
    pub(super) fn name(self) -> &'static str {
        match self {
            Token::Invalid => "INVALID",
            Token::Eof => "EOF",
            Token::Linebreak => "LINEBREAK",
            Token::Whitespace => "WHITESPACE",
            Token::Help => "HELP",
            Token::Type => "TYPE",
            Token::Unit => "UNIT",
            Token::EofWord => "EOFWORD",
            Token::Text => "TEXT",
            Token::Comment => "COMMENT",
            Token::MetricName => "MNAME",
            Token::QuotedString => "QSTRING",
            Token::BraceOpen => "BOPEN",
            Token::BraceClose => "BCLOSE",
            Token::LabelName => "LNAME",
            Token::LabelValue => "LVALUE",
            Token::Comma => "COMMA",
            Token::Equal => "EQUAL",
            Token::Timestamp => "TIMESTAMP",
            Token::Value => "VALUE",
        }
    }
}

/// Where in the grammar the lexer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Init,
    Comment,
    Meta1,
    Meta2,
    Labels,
    LabelValue,
    Value,
    Timestamp,
    Exemplar,
    ExemplarValue,
    ExemplarTimestamp,
}

/// A cursor over the page. `line_break` adds the line break that the text format forgives at a page's end.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    pub page: &'a [u8],
    pub line_break: bool,
    /// The next byte.
    pub at: usize,
    /// Where the current token began.
    pub token: usize,
    pub state: State,
}

impl<'a> Cursor<'a> {
    pub fn new(page: &'a [u8], line_break: bool) -> Cursor<'a> {
        Cursor { page, line_break, at: 0, token: 0, state: State::Init }
    }

    pub fn end(&self) -> usize {
        self.page.len() + self.line_break as usize
    }

    /// The byte at the cursor; 0 past the end, which no token may contain.
    #[inline(always)]
    pub fn current(&self) -> u8 {
        match self.page.get(self.at) {
            Some(b) => *b,
            None if self.line_break && self.at == self.page.len() => b'\n',
            None => 0,
        }
    }

    /// Steps on. Where NUL bytes are allowed they are skipped here, as Prometheus's lexers do.
    #[inline(always)]
    pub fn bump(&mut self) -> u8 {
        self.at += 1;
        let mut byte = self.current();
        if byte == 0 && matches!(self.state, State::LabelValue | State::Meta2 | State::Comment) {
            while byte == 0 && self.at < self.end() {
                self.at += 1;
                byte = self.current();
            }
        }
        byte
    }

    /// The token's bytes.
    pub fn text(&self) -> &'a [u8] {
        self.slice(self.token, self.at)
    }

    /// Bytes of the page, cut to what is there.
    pub fn slice(&self, from: usize, to: usize) -> &'a [u8] {
        let to = to.min(self.page.len());
        self.page.get(from.min(to)..to).unwrap_or_default()
    }

    /// Steps over bytes while `class` holds.
    #[inline(always)]
    pub fn run(&mut self, class: impl Fn(u8) -> bool) {
        let mut byte = self.current();
        while class(byte) {
            byte = self.bump();
        }
    }

    /// Expects `word` at the cursor and steps over it; on a difference the cursor stays at it.
    pub fn word(&mut self, word: &[u8]) -> bool {
        let mut byte = self.current();
        for expected in word {
            if byte != *expected {
                return false;
            }
            byte = self.bump();
        }
        true
    }

    /// A quoted string from the quote at the cursor on: any byte but NUL (where the state forbids it), a backslash
    /// with whatever follows but a line break, and line breaks only where `breaks`.
    pub fn quoted(&mut self, breaks: bool) -> bool {
        let nul_allowed = self.state == State::LabelValue;
        let mut from = self.at + 1;
        loop {
            let Some(rest) = self.page.get(from..) else { return self.fail_at_end() };
            let found = memchr::memchr2(b'"', b'\\', rest);
            let run = &rest[..found.unwrap_or(rest.len())];
            let offends = |b: &u8| *b == b'\n' && !breaks || *b == 0 && !nul_allowed;
            let fine =
                (breaks || memchr::memchr(b'\n', run).is_none()) && (nul_allowed || memchr::memchr(0, run).is_none());
            if !fine {
                self.at = from + run.iter().position(offends).unwrap_or(0);
                return false;
            }
            let Some(n) = found else { return self.fail_at_end() };
            self.at = from + n;
            if rest[n] == b'"' {
                // Behind a label's value NUL bytes are skipped, and so taken for part of it.
                self.bump();
                return true;
            }
            let escaped = self.bump();
            if escaped == b'\n' || escaped == 0 {
                return false;
            }
            from = self.at + 1;
        }
    }

    fn fail_at_end(&mut self) -> bool {
        self.at = self.end();
        false
    }

    /// Prometheus's message for a token where another was expected; `start` is where the entry began.
    pub fn error(&self, expected: &str, got: Token, start: usize) -> ParseError {
        let end = (self.at + 1).min(self.end());
        let with_break = |from: usize| {
            let mut bytes = self.slice(from, end).to_vec();
            if end > self.page.len() {
                bytes.push(b'\n');
            }
            quote_bytes(&bytes)
        };
        // A hostile line may be a hundred megabytes long: copy only what is quoted.
        let near = |from: usize| {
            if end.saturating_sub(from) > 1024 { quote_bytes(self.slice(from, from + 1024)) } else { with_break(from) }
        };
        ParseError(format!("{expected}, got {} ({:?}) while parsing: {}", near(self.token), got.name(), near(start)))
    }

    /// ` while parsing: "…"` for the entry so far.
    pub fn context(&self, message: &str, start: usize) -> ParseError {
        ParseError(format!("{message} while parsing: {}", quote_bytes(self.slice(start, self.at))))
    }
}

#[inline(always)]
pub(super) fn is_name_start(b: u8) -> bool {
    b.is_ascii_alphabetic() || b == b'_' || b == b':'
}

#[inline(always)]
pub(super) fn is_name(b: u8) -> bool {
    is_name_start(b) || b.is_ascii_digit()
}

#[inline(always)]
pub(super) fn is_label_start(b: u8) -> bool {
    b.is_ascii_alphabetic() || b == b'_'
}

#[inline(always)]
pub(super) fn is_label(b: u8) -> bool {
    is_label_start(b) || b.is_ascii_digit()
}

/// Offsets of a series' parts in the page.
#[derive(Clone, Debug, Default)]
pub(super) struct SeriesSpans {
    /// The metric's name without quotes.
    pub name: Option<(usize, usize)>,
    /// Label names and values without quotes.
    pub labels: Vec<((usize, usize), (usize, usize))>,
}
