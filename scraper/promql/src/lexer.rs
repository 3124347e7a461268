//! Cuts a query into tokens, one at a time, as Prometheus's lexer does.
//!
//! The same text means different things inside braces and brackets, and the lexer alone keeps track of where it is:
//! it needs no hint from the parser. Tokens are slices of the input; nothing is allocated but messages of errors.
//! Comments and white space vanish here.

use narthex_model::labels::quote;

use crate::ast::{AggregateOp, BinaryOp, PosRange};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Eof,
    Comma,
    Colon,
    LeftBrace,
    RightBrace,
    LeftBracket,
    RightBracket,
    LeftParen,
    RightParen,
    /// A single `=`.
    Eql,
    EqlRegex,
    NeqRegex,
    At,
    /// A name without colons that is no keyword.
    Identifier,
    /// A name with colons.
    MetricIdentifier,
    Number,
    Duration,
    /// A string with its quotes; its escapes are known to be good.
    String,
    Op(BinaryOp),
    Aggregator(AggregateOp),
    Bool,
    By,
    GroupLeft,
    GroupRight,
    Fill,
    FillLeft,
    FillRight,
    Ignoring,
    Offset,
    Smoothed,
    Anchored,
    On,
    Without,
    Start,
    End,
    Step,
    Range,
    MaxOf,
    MinOf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub kind: Kind,
    pub start: usize,
    pub text: &'a str,
}

impl Token<'_> {
    pub fn pos(&self) -> PosRange {
        PosRange::new(self.start, self.end())
    }

    pub fn end(&self) -> usize {
        self.start + self.text.len()
    }

    /// As messages name it: `<op:+>`, `identifier "foo"`, `end of input`.
    pub fn describe(&self) -> String {
        use Kind::*;
        let text = self.text;
        match self.kind {
            Eof => "end of input".into(),
            Identifier => format!("identifier {}", quote(text)),
            MetricIdentifier => format!("metric identifier {}", quote(text)),
            Bool | By | GroupLeft | GroupRight | Fill | FillLeft | FillRight | Ignoring | Offset | Smoothed
            | Anchored | On | Without => format!("<{text}>"),
            Op(_) | EqlRegex | NeqRegex | At => format!("<op:{text}>"),
            Aggregator(_) => format!("<aggr:{text}>"),
            String => format!("string {}", shortened(text)),
            Number => format!("number {}", shortened(text)),
            Duration => format!("duration {}", shortened(text)),
            _ => shortened(text),
        }
    }
}

fn shortened(text: &str) -> String {
    if text.len() <= 10 {
        return quote(text);
    }
    let end = text.char_indices().nth(10).map_or(text.len(), |(i, _)| i);
    format!("{}...", quote(&text[..end]))
}

/// Text that is no token, and where.
#[derive(Debug)]
pub(crate) struct LexError {
    pub start: usize,
    pub message: String,
}

/// Keywords in any case; they are the longest 12 bytes.
fn keyword(word: &str) -> Option<Kind> {
    use Kind::*;
    let mut lower = [0u8; 12];
    let lower = lower.get_mut(..word.len())?;
    lower.copy_from_slice(word.as_bytes());
    lower.make_ascii_lowercase();
    Some(match &*lower {
        b"and" => Op(BinaryOp::And),
        b"or" => Op(BinaryOp::Or),
        b"unless" => Op(BinaryOp::Unless),
        b"atan2" => Op(BinaryOp::Atan2),
        b"sum" => Aggregator(AggregateOp::Sum),
        b"avg" => Aggregator(AggregateOp::Avg),
        b"count" => Aggregator(AggregateOp::Count),
        b"min" => Aggregator(AggregateOp::Min),
        b"max" => Aggregator(AggregateOp::Max),
        b"group" => Aggregator(AggregateOp::Group),
        b"stddev" => Aggregator(AggregateOp::Stddev),
        b"stdvar" => Aggregator(AggregateOp::Stdvar),
        b"topk" => Aggregator(AggregateOp::Topk),
        b"bottomk" => Aggregator(AggregateOp::Bottomk),
        b"count_values" => Aggregator(AggregateOp::CountValues),
        b"quantile" => Aggregator(AggregateOp::Quantile),
        b"limitk" => Aggregator(AggregateOp::Limitk),
        b"limit_ratio" => Aggregator(AggregateOp::LimitRatio),
        b"offset" => Offset,
        b"smoothed" => Smoothed,
        b"anchored" => Anchored,
        b"by" => By,
        b"without" => Without,
        b"on" => On,
        b"ignoring" => Ignoring,
        b"group_left" => GroupLeft,
        b"group_right" => GroupRight,
        b"fill" => Fill,
        b"fill_left" => FillLeft,
        b"fill_right" => FillRight,
        b"bool" => Bool,
        b"start" => Start,
        b"end" => End,
        b"inf" | b"nan" => Number,
        other => return duration_keyword(other),
    })
}

/// The functions of duration expressions; `lower` is lower case.
fn duration_keyword(lower: &[u8]) -> Option<Kind> {
    Some(match lower {
        b"step" => Kind::Step,
        b"range" => Kind::Range,
        b"max_of" => Kind::MaxOf,
        b"min_of" => Kind::MinOf,
        _ => return None,
    })
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

fn is_alpha(c: char) -> bool {
    c == '_' || c.is_ascii_alphabetic()
}

fn is_alphanumeric(c: char) -> bool {
    is_alpha(c) || c.is_ascii_digit()
}

/// A character as Go's `%q` writes it; the end of the input is the replacement character.
fn quote_char(c: Option<char>) -> String {
    match c {
        Some('\'') => r"'\''".into(),
        Some('"') => "'\"'".into(),
        Some(c) => {
            let quoted = quote(c.encode_utf8(&mut [0; 4]));
            format!("'{}'", &quoted[1..quoted.len() - 1])
        }
        None => format!("'{}'", char::REPLACEMENT_CHARACTER),
    }
}

/// A character as Go's `%#U` writes it.
fn unicode_char(c: char) -> String {
    let quoted = quote(c.encode_utf8(&mut [0; 4]));
    if quoted.len() > 2 && (!quoted.starts_with("\"\\") || c == '\\' || c == '"') {
        format!("U+{:04X} '{c}'", c as u32)
    } else {
        format!("U+{:04X}", c as u32)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Outside braces, and in brackets behind the first number.
    Statements,
    Braces,
    /// Behind `[`, up to the first number.
    Brackets,
}

pub(crate) struct Lexer<'a> {
    input: &'a str,
    pos: usize,
    start: usize,
    state: State,
    paren_depth: i64,
    bracket_open: bool,
    got_colon: bool,
    /// Whether a number or a function has come behind `[`. Prometheus 3.14 forgot the functions, and so refused
    /// `[step():1m]`; 3.16 takes it, and so does this.
    got_duration: bool,
}

type Lexed<T> = Result<T, LexError>;

impl<'a> Lexer<'a> {
    pub fn new(input: &'a str) -> Lexer<'a> {
        Lexer {
            input,
            pos: 0,
            start: 0,
            state: State::Statements,
            paren_depth: 0,
            bracket_open: false,
            got_colon: false,
            got_duration: false,
        }
    }

    fn peek(&self) -> Option<char> {
        // ASCII first: this is asked for every character.
        match self.input.as_bytes().get(self.pos) {
            None => None,
            Some(b) if b.is_ascii() => Some(*b as char),
            Some(_) => self.input[self.pos..].chars().next(),
        }
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.pos += c.len_utf8();
        Some(c)
    }

    fn accept(&mut self, valid: impl Fn(char) -> bool) -> bool {
        match self.peek() {
            Some(c) if valid(c) => {
                self.pos += c.len_utf8();
                true
            }
            _ => false,
        }
    }

    fn accept_run(&mut self, valid: impl Fn(char) -> bool) {
        while self.accept(&valid) {}
    }

    fn error<T>(&self, message: impl Into<String>) -> Lexed<T> {
        Err(LexError { start: self.start, message: message.into() })
    }

    fn emit(&mut self, kind: Kind) -> Lexed<Token<'a>> {
        let token = Token { kind, start: self.start, text: &self.input[self.start..self.pos] };
        self.start = self.pos;
        Ok(token)
    }

    /// The next token; at the end of the input [`Kind::Eof`], again and again.
    pub fn next_token(&mut self) -> Lexed<Token<'a>> {
        loop {
            self.accept_run(is_space);
            if self.state == State::Brackets || !self.accept(|c| c == '#') {
                break;
            }
            self.accept_run(|c| c != '\n' && c != '\r');
        }
        self.start = self.pos;
        match self.state {
            State::Statements => self.statement(),
            State::Braces => self.inside_braces(),
            State::Brackets => self.duration_start(),
        }
    }

    fn statement(&mut self) -> Lexed<Token<'a>> {
        use BinaryOp::*;
        let Some(c) = self.next() else {
            if self.paren_depth != 0 {
                return self.error("unclosed left parenthesis");
            }
            if self.bracket_open {
                return self.error("unclosed left bracket");
            }
            return self.emit(Kind::Eof);
        };
        let kind = match c {
            ',' => Kind::Comma,
            '*' => Kind::Op(Mul),
            '/' => Kind::Op(Div),
            '%' => Kind::Op(Mod),
            '+' => Kind::Op(Add),
            '-' => Kind::Op(Sub),
            '^' => Kind::Op(Pow),
            '@' => Kind::At,
            '=' => match self.peek() {
                Some('=') => {
                    self.next();
                    Kind::Op(Eql)
                }
                Some('~') => return self.error("unexpected character after '=': '~'"),
                _ => Kind::Eql,
            },
            '!' => match self.next() {
                Some('=') => Kind::Op(Neq),
                other => return self.error(format!("unexpected character after '!': {}", quote_char(other))),
            },
            '<' if self.accept(|c| c == '=') => Kind::Op(Lte),
            '<' if self.accept(|c| c == '/') => Kind::Op(TrimUpper),
            '<' => Kind::Op(Lss),
            '>' if self.accept(|c| c == '=') => Kind::Op(Gte),
            '>' if self.accept(|c| c == '/') => Kind::Op(TrimLower),
            '>' => Kind::Op(Gtr),
            '0'..='9' => return self.number_or_duration(),
            '.' if self.peek().is_some_and(|c| c.is_ascii_digit()) => return self.number_or_duration(),
            '"' | '\'' => return self.string(c),
            '`' => return self.raw_string(),
            c if is_alpha(c) || c == ':' => {
                if !self.bracket_open {
                    return self.keyword_or_identifier();
                }
                if c == ':' {
                    if self.got_colon {
                        return self.error("unexpected colon ':'");
                    }
                    self.got_colon = true;
                    Kind::Colon
                } else {
                    match self.duration_word() {
                        Some(kind) => kind,
                        None => {
                            return self.error(format!("unexpected character: {}, expected ':'", quote_char(Some(c))));
                        }
                    }
                }
            }
            '(' => {
                self.paren_depth += 1;
                Kind::LeftParen
            }
            ')' => return self.right_paren(),
            '{' => {
                self.state = State::Braces;
                Kind::LeftBrace
            }
            '[' => {
                if self.bracket_open {
                    return self.error("unexpected left bracket '['");
                }
                self.got_colon = false;
                self.got_duration = false;
                self.bracket_open = true;
                self.state = State::Brackets;
                Kind::LeftBracket
            }
            ']' => {
                if !self.bracket_open {
                    return self.error("unexpected right bracket ']'");
                }
                self.bracket_open = false;
                Kind::RightBracket
            }
            c => return self.error(format!("unexpected character: {}", quote_char(Some(c)))),
        };
        self.emit(kind)
    }

    fn right_paren(&mut self) -> Lexed<Token<'a>> {
        self.paren_depth -= 1;
        let token = self.emit(Kind::RightParen);
        if self.paren_depth < 0 {
            return self.error("unexpected right parenthesis ')'");
        }
        token
    }

    fn inside_braces(&mut self) -> Lexed<Token<'a>> {
        let Some(c) = self.next() else {
            return self.error("unexpected end of input inside braces");
        };
        let kind = match c {
            c if is_alpha(c) => {
                self.accept_run(is_alphanumeric);
                Kind::Identifier
            }
            ',' => Kind::Comma,
            '"' | '\'' => return self.string(c),
            '`' => return self.raw_string(),
            '=' if self.accept(|c| c == '~') => Kind::EqlRegex,
            '=' => Kind::Eql,
            '!' => match self.next() {
                Some('~') => Kind::NeqRegex,
                Some('=') => Kind::Op(BinaryOp::Neq),
                other => {
                    return self.error(format!("unexpected character after '!' inside braces: {}", quote_char(other)));
                }
            },
            '{' => return self.error("unexpected left brace '{'"),
            '}' => {
                self.state = State::Statements;
                Kind::RightBrace
            }
            c => return self.error(format!("unexpected character inside braces: {}", quote_char(Some(c)))),
        };
        self.emit(kind)
    }

    fn duration_start(&mut self) -> Lexed<Token<'a>> {
        use BinaryOp::*;
        let Some(c) = self.next() else {
            return self.error("unexpected end of input in duration expression");
        };
        let kind = match c {
            ']' => {
                self.bracket_open = false;
                self.got_colon = false;
                self.state = State::Statements;
                Kind::RightBracket
            }
            ':' => {
                let token = self.emit(Kind::Colon);
                if !self.got_duration {
                    return self.error("unexpected colon before duration in duration expression");
                }
                if self.got_colon {
                    return self.error("unexpected repeated colon in duration expression");
                }
                self.got_colon = true;
                return token;
            }
            '(' => {
                self.paren_depth += 1;
                Kind::LeftParen
            }
            ')' => return self.right_paren(),
            '+' => Kind::Op(Add),
            '-' => Kind::Op(Sub),
            '*' => Kind::Op(Mul),
            '/' => Kind::Op(Div),
            '%' => Kind::Op(Mod),
            '^' => Kind::Op(Pow),
            ',' => Kind::Comma,
            '0'..='9' => return self.duration_start_number(),
            '.' if self.peek().is_some_and(|c| c.is_ascii_digit()) => return self.duration_start_number(),
            c => match self.duration_word() {
                Some(kind) => {
                    self.got_duration = true;
                    kind
                }
                None => {
                    return self.error(format!("unexpected character in duration expression: {}", quote_char(Some(c))));
                }
            },
        };
        self.emit(kind)
    }

    fn duration_start_number(&mut self) -> Lexed<Token<'a>> {
        self.got_duration = true;
        self.state = State::Statements;
        self.number_or_duration()
    }

    /// `step`, `range`, `max_of` or `min_of`, whose first character has been read.
    fn duration_word(&mut self) -> Option<Kind> {
        if !self.input[self.start..self.pos].starts_with(is_alpha) {
            return None;
        }
        self.accept_run(is_alpha);
        duration_keyword(self.input[self.start..self.pos].to_ascii_lowercase().as_bytes())
    }

    fn keyword_or_identifier(&mut self) -> Lexed<Token<'a>> {
        self.accept_run(|c| is_alphanumeric(c) || c == ':');
        let word = &self.input[self.start..self.pos];
        let kind = match keyword(word) {
            // Newer than the metrics of that name, so they are keywords only where they can't be anything else.
            Some(Kind::Fill | Kind::FillLeft | Kind::FillRight)
                if !self.input[self.pos..].trim_start_matches(is_space).starts_with('(') =>
            {
                Kind::Identifier
            }
            Some(kind) => kind,
            None if word.contains(':') => Kind::MetricIdentifier,
            None => Kind::Identifier,
        };
        self.emit(kind)
    }

    fn string(&mut self, quote: char) -> Lexed<Token<'a>> {
        loop {
            match self.next() {
                Some('\\') => self.escape(quote)?,
                Some(char::REPLACEMENT_CHARACTER) => return self.error("invalid UTF-8 rune"),
                None | Some('\n') => return self.error("unterminated quoted string"),
                Some(c) if c == quote => return self.emit(Kind::String),
                Some(_) => {}
            }
        }
    }

    fn raw_string(&mut self) -> Lexed<Token<'a>> {
        loop {
            match self.next() {
                Some(char::REPLACEMENT_CHARACTER) => return self.error("invalid UTF-8 rune"),
                None => return self.error("unterminated raw string"),
                Some('`') => return self.emit(Kind::String),
                Some(_) => {}
            }
        }
    }

    /// What follows a backslash.
    fn escape(&mut self, quote: char) -> Lexed<()> {
        let (digits, base, max) = match self.peek() {
            Some('a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '\\') => {
                self.next();
                return Ok(());
            }
            Some(c) if c == quote => {
                self.next();
                return Ok(());
            }
            Some('0'..='7') => (3, 8, 255),
            Some('x') => (2, 16, 255),
            Some('u') => (4, 16, char::MAX as u32),
            Some('U') => (8, 16, char::MAX as u32),
            Some(c) => return self.error(format!("unknown escape sequence {}", unicode_char(c))),
            None => return self.error("escape sequence not terminated"),
        };
        if base == 16 {
            self.next();
        }
        let mut value = 0u32;
        for _ in 0..digits {
            match self.next() {
                None => return self.error("escape sequence not terminated"),
                Some(c) => match c.to_digit(base) {
                    Some(digit) => value = value.wrapping_mul(base).wrapping_add(digit),
                    None => return self.error(format!("illegal character {} in escape sequence", unicode_char(c))),
                },
            }
        }
        if value > max || (0xd800..0xe000).contains(&value) {
            return self.error("escape sequence is an invalid Unicode code point");
        }
        Ok(())
    }

    /// A number or a duration that begins at `start`.
    fn number_or_duration(&mut self) -> Lexed<Token<'a>> {
        self.pos = self.start;
        if self.number() {
            return self.emit(Kind::Number);
        }
        if self.remaining_duration() {
            return self.emit(Kind::Duration);
        }
        let text = &self.input[self.start..self.pos];
        self.error(format!("bad number or duration syntax: {}", quote(text)))
    }

    /// Whether a duration goes on, and ends, behind its first digits. Reads on to where it fails.
    fn remaining_duration(&mut self) -> bool {
        if !self.accept(|c| "smhdwy".contains(c)) {
            return false;
        }
        // Of `ms`. Nonsense such as `hs` is found when the duration is evaluated.
        self.accept(|c| c == 's');
        while self.accept(|c| c.is_ascii_digit()) {
            self.accept_run(|c| c.is_ascii_digit());
            if !self.accept(|c| "smhdw".contains(c)) {
                return false;
            }
            self.accept(|c| c == 's');
        }
        !self.accept(is_alphanumeric)
    }

    /// Reads what looks like a number: decimal, octal or hexadecimal, with underscores, dot and exponent. It need not
    /// be one. False where it can't be; what was read is then part of the message.
    fn number(&mut self) -> bool {
        let mut hex = false;
        if self.accept(|c| c == '0') && self.accept(|c| c == 'x' || c == 'X') {
            self.accept(|c| c == '_');
            hex = true;
        }
        let is_digit = move |c: char| if hex { c.is_ascii_hexdigit() } else { c.is_ascii_digit() };
        let is_exponent = |c: char| c == 'e' || c == 'E';
        let mut dot_seen = false;
        let mut exponent_seen = false;
        self.accept(|c| c == '.');
        self.accept(is_digit);
        while let Some(c) = self.peek() {
            if c == '.' {
                self.next();
                if dot_seen {
                    return false;
                }
                dot_seen = true;
                if self.accept(|c| c == '_' || c == '.') || hex {
                    return false;
                }
            } else if is_exponent(c) {
                self.next();
                if exponent_seen {
                    return false;
                }
                exponent_seen = true;
                self.accept(|c| c == '+' || c == '-');
                if self.accept(|c| c == '.' || c == '_' || is_exponent(c)) || self.peek().is_none() {
                    return false;
                }
            } else if c == '_' {
                self.next();
                if self.accept(|c| c == '.' || c == '_' || is_exponent(c)) || self.peek().is_none() {
                    return false;
                }
            } else if is_digit(c) {
                self.accept_run(is_digit);
            } else {
                break;
            }
        }
        !self.peek().is_some_and(is_alphanumeric)
    }
}
