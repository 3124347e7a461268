//! Go's regular expressions, compiled by the `regex` crate.
//!
//! Both understand nearly the same language, but not quite: in Go `\d`, `\w`, `\s` and `\b` know ASCII only, `{` is a
//! literal where no repetition fits, `\Q…\E` quotes, `[a&&b]` and `[[a]` hold plain characters. So a pattern is read by
//! Go's rules and written anew by the crate's. Its faults are named in Go's words.

use std::fmt::Write;
use std::sync::LazyLock;

use parking_lot::Mutex;
use regex::{Regex, RegexBuilder};

use crate::generations::Generations;

/// Programs larger than this are refused: a pattern comes from users.
const SIZE_LIMIT: usize = 10 << 20;

/// Compiles a pattern that has to match the whole text, and whose `.` matches every character.
///
/// # Errors
/// When `^(?s:pattern)$` is no Go expression, or compiles to more than 10 MiB; worded as Go's `regexp.Compile` does.
pub fn compile_anchored(pattern: &str) -> Result<Regex, String> {
    let anchored = format!("^(?s:{pattern})$");
    translate(&anchored).and_then(|p| compile(&p, &anchored)).map_err(|e| format!("error parsing regexp: {e}"))
}

/// As [`compile_anchored`], but the pattern has to be an expression by itself, too, and errors speak of it alone, as
/// those of label matchers do. They lack "error parsing regexp: ".
pub(crate) fn compile_matcher(pattern: &str) -> Result<Regex, String> {
    if let Some(known) = KNOWN.lock().get(pattern) {
        return Ok(known);
    }
    let translated = format!("^(?s:{})$", translate(pattern)?);
    // What is small is kept: dashboards and rules ask with the same few patterns, and compiling one takes longer than
    // most queries.
    if pattern.len() <= SMALL_PATTERN
        && let Ok(regex) = RegexBuilder::new(&translated).size_limit(SMALL_PROGRAM).build()
    {
        KNOWN.lock().insert(pattern.to_owned(), regex.clone(), 1);
        return Ok(regex);
    }
    compile(&translated, pattern)
}

/// Patterns and programs up to so many bytes are kept, and so many of them at most.
const SMALL_PATTERN: usize = 512;
const SMALL_PROGRAM: usize = 64 << 10;
const MOST_KNOWN: usize = 128;

/// They are cloned to be used: a clone has the program in common, and its own caches.
static KNOWN: LazyLock<Mutex<Generations<String, Regex>>> = LazyLock::new(|| Mutex::new(Generations::new(MOST_KNOWN)));

fn compile(translated: &str, source: &str) -> Result<Regex, String> {
    RegexBuilder::new(translated).size_limit(SIZE_LIMIT).build().map_err(|e| match e {
        regex::Error::CompiledTooBig(_) => format!("expression too large: `{source}`"),
        // What Go accepts and the crate doesn't. Its message has several lines.
        e => format!("{}: `{source}`", e.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ")),
    })
}

/// A pattern of Go's syntax as one for the `regex` crate that matches the same; groups keep their numbers.
///
/// # Errors
/// What is wrong with it, in Go's words: "missing closing ]: `[a`".
pub fn translate(pattern: &str) -> Result<String, String> {
    let mut t = Translator { whole: pattern, rest: pattern, out: String::with_capacity(pattern.len() + 16) };
    t.run()?;
    Ok(t.out)
}

struct Translator<'a> {
    whole: &'a str,
    rest: &'a str,
    out: String,
}

/// What is repeated, and how often at most: nested counts may not multiply to more than 1,000.
#[derive(Clone, Copy, Default)]
struct Level {
    /// Whether something stands before that can be repeated.
    operand: bool,
    /// Copies made of the innermost part of the last operand.
    last: u32,
    /// The most copies in any operand of this group.
    most: u32,
}

impl Level {
    fn push(&mut self, copies: u32) {
        self.operand = true;
        self.last = copies;
        self.most = self.most.max(copies);
    }
}

const MAX_REPEAT: u32 = 1000;

const POSIX_CLASSES: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word",
    "xdigit",
];

fn invalid_escape(text: &str) -> String {
    format!("invalid escape sequence: `{text}`")
}

/// The part of `from` that comes before `to`, its end.
fn before<'a>(from: &'a str, to: &str) -> &'a str {
    &from[..from.len() - to.len()]
}

impl<'a> Translator<'a> {
    fn run(&mut self) -> Result<(), String> {
        let mut outer: Vec<Level> = Vec::new();
        let mut level = Level::default();
        let mut last_repeat: Option<&str> = None;
        while let Some(c) = self.rest.chars().next() {
            let start = self.rest;
            let mut repeat = None;
            self.rest = &start[c.len_utf8()..];
            match c {
                '(' => {
                    if start.starts_with("(?") {
                        self.rest = start;
                        if !self.flags()? {
                            last_repeat = None;
                            continue;
                        }
                    } else {
                        self.out.push('(');
                    }
                    outer.push(std::mem::take(&mut level));
                }
                ')' => {
                    let Some(mut before) = outer.pop() else {
                        return Err(format!("unexpected ): `{}`", self.whole));
                    };
                    before.push(level.most.max(1));
                    level = before;
                    self.out.push(')');
                }
                '|' => {
                    level.operand = false;
                    self.out.push('|');
                }
                '^' | '$' | '.' => {
                    level.push(1);
                    self.out.push(c);
                }
                '[' => {
                    self.class(start)?;
                    level.push(1);
                }
                '*' | '+' | '?' => {
                    self.lazy();
                    self.check_repeat(start, last_repeat, &level)?;
                    self.out.push_str(before(start, self.rest));
                    repeat = Some(start);
                }
                '{' => match parse_repeat(start) {
                    None => {
                        self.literal('{');
                        level.push(1);
                    }
                    Some((least, most, rest)) => {
                        let invalid = |rest| Err(format!("invalid repeat count: `{}`", before(start, rest)));
                        if least.max(most.unwrap_or(0)) > MAX_REPEAT || most.is_some_and(|most| least > most) {
                            return invalid(rest);
                        }
                        self.rest = rest;
                        self.lazy();
                        self.check_repeat(start, last_repeat, &level)?;
                        self.out.push_str(before(start, self.rest));
                        let copies = match most {
                            Some(0) => 1,
                            Some(most) => most * level.last,
                            None => least.max(1) * level.last,
                        };
                        if least.max(most.unwrap_or(0)) >= 2 && copies > MAX_REPEAT {
                            return invalid(self.rest);
                        }
                        level.push(copies);
                        repeat = Some(start);
                    }
                },
                '\\' => {
                    if self.escape(start)? {
                        level.push(1);
                    }
                }
                c => {
                    self.literal(c);
                    level.push(1);
                }
            }
            last_repeat = repeat;
        }
        if outer.is_empty() { Ok(()) } else { Err(format!("missing closing ): `{}`", self.whole)) }
    }

    fn lazy(&mut self) {
        self.rest = self.rest.strip_prefix('?').unwrap_or(self.rest);
    }

    fn check_repeat(&self, start: &str, last_repeat: Option<&str>, level: &Level) -> Result<(), String> {
        if let Some(last) = last_repeat {
            return Err(format!("invalid nested repetition operator: `{}`", before(last, self.rest)));
        }
        if !level.operand {
            return Err(format!("missing argument to repetition operator: `{}`", before(start, self.rest)));
        }
        Ok(())
    }

    /// A character for itself, in or outside of a class.
    fn literal(&mut self, c: char) {
        if c.is_ascii_alphanumeric() || !c.is_ascii() {
            self.out.push(c);
        } else {
            let _ = write!(self.out, "\\x{:02x}", c as u32);
        }
    }

    /// `(?flags)`, `(?flags:` or the head of a named group. Whether it opens a group.
    fn flags(&mut self) -> Result<bool, String> {
        let start = self.rest;
        if start.len() > 3 && start.starts_with("(?<") || start.len() > 4 && start.starts_with("(?P<") {
            let Some(end) = start.find('>') else {
                return Err(format!("invalid named capture: `{start}`"));
            };
            let name = &start[start.find('<').unwrap_or(end) + 1..end];
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(format!("invalid named capture: `{}`", &start[..=end]));
            }
            // The crate knows neither names that begin with a digit nor a name that comes twice.
            let head = format!("(?P<{name}>");
            let usable = !name.starts_with(|c: char| c.is_ascii_digit()) && !self.out.contains(&head);
            self.out.push_str(if usable { &head } else { "(" });
            self.rest = &start[end + 1..];
            return Ok(true);
        }
        let mut on = String::new();
        let mut off = String::new();
        let mut negative = false;
        let mut rest = start[2..].chars();
        loop {
            let Some(c) = rest.next() else {
                return Err(format!("invalid or unsupported Perl syntax: `{start}`"));
            };
            match c {
                'i' | 'm' | 's' | 'U' => {
                    on.retain(|f| f != c);
                    off.retain(|f| f != c);
                    (if negative { &mut off } else { &mut on }).push(c);
                }
                '-' if !negative => negative = true,
                ':' | ')' if !negative || !off.is_empty() => {
                    self.rest = rest.as_str();
                    let sign = if off.is_empty() { "" } else { "-" };
                    let opens = c == ':';
                    if opens || !on.is_empty() || !off.is_empty() {
                        let _ = write!(self.out, "(?{on}{sign}{off}{c}");
                    }
                    return Ok(opens);
                }
                _ => {
                    return Err(format!("invalid or unsupported Perl syntax: `{}`", before(start, rest.as_str())));
                }
            }
        }
    }

    /// What begins with a backslash outside of a class. Whether it is something that can be repeated.
    fn escape(&mut self, start: &'a str) -> Result<bool, String> {
        let assertion = match start.as_bytes().get(1) {
            Some(b'A') => "\\A",
            Some(b'z') => "\\z",
            Some(b'b') => "(?-u:\\b)",
            Some(b'B') => "(?-u:\\B)",
            Some(b'C') => return Err(invalid_escape("\\C")),
            Some(b'Q') => {
                let (quoted, rest) = start[2..].split_once("\\E").unwrap_or((&start[2..], ""));
                quoted.chars().for_each(|c| self.literal(c));
                self.rest = rest;
                return Ok(!quoted.is_empty());
            }
            _ => {
                if !self.class_escape(start, false)? {
                    let (c, rest) = parse_escape(start)?;
                    self.literal(c);
                    self.rest = rest;
                }
                return Ok(true);
            }
        };
        self.out.push_str(assertion);
        self.rest = &start[2..];
        Ok(true)
    }

    /// `\d`, `\pL`, `\p{Greek}` and so on, in or outside of a class. False where it is none of them.
    fn class_escape(&mut self, start: &'a str, inside: bool) -> Result<bool, String> {
        let Some(letter) = start.strip_prefix('\\').and_then(|s| s.bytes().next()) else { return Ok(false) };
        let (set, negated) = match letter {
            b'd' => ("0-9", false),
            b'D' => ("0-9", true),
            b's' => ("\\t\\n\\f\\r\\x20", false),
            b'S' => ("\\t\\n\\f\\r\\x20", true),
            b'w' => ("0-9A-Za-z_", false),
            b'W' => ("0-9A-Za-z_", true),
            b'p' | b'P' => return self.unicode_class(start).map(|()| true),
            _ => return Ok(false),
        };
        match (inside, negated) {
            (true, false) => self.out.push_str(set),
            (_, negated) => {
                let sign = if negated { "^" } else { "" };
                let _ = write!(self.out, "[{sign}{set}]");
            }
        }
        self.rest = &start[2..];
        Ok(true)
    }

    fn unicode_class(&mut self, start: &'a str) -> Result<(), String> {
        let mut negated = start.starts_with("\\P");
        let invalid = |text: &str| Err(format!("invalid character class range: `{text}`"));
        let Some(first) = start[2..].chars().next() else { return invalid(start) };
        let (name, rest) = if first == '{' {
            let Some(end) = start.find('}') else { return invalid(start) };
            (&start[3..end], &start[end + 1..])
        } else {
            start[2..].split_at(first.len_utf8())
        };
        let plain = match name.strip_prefix('^') {
            Some(plain) => {
                negated = !negated;
                plain
            }
            None => name,
        };
        let class = format!("\\{}{{{plain}}}", if negated { 'P' } else { 'p' });
        let known = plain.bytes().all(|b| b.is_ascii_alphanumeric() || b"_- ".contains(&b));
        if !known || Regex::new(&class).is_err() {
            return invalid(before(start, rest));
        }
        self.out.push_str(&class);
        self.rest = rest;
        Ok(())
    }

    /// A class in brackets.
    fn class(&mut self, start: &'a str) -> Result<(), String> {
        let missing = || format!("missing closing ]: `{start}`");
        self.out.push('[');
        if let Some(rest) = self.rest.strip_prefix('^') {
            self.out.push('^');
            self.rest = rest;
        }
        let mut first = true;
        while first || !self.rest.starts_with(']') {
            first = false;
            let item = self.rest;
            if item.is_empty() {
                return Err(missing());
            }
            if item.starts_with("[:")
                && let Some(end) = item[2..].find(":]")
            {
                let name = &item[..end + 4];
                // The crate would take a name that it doesn't know for a class within the class.
                let plain = item[2..2 + end].trim_start_matches('^');
                if !POSIX_CLASSES.contains(&plain) || end > plain.len() + 1 {
                    return Err(format!("invalid character class range: `{name}`"));
                }
                self.out.push_str(name);
                self.rest = &item[name.len()..];
                continue;
            }
            if self.class_escape(item, true)? {
                continue;
            }
            let low = self.class_char(item).ok_or_else(missing)??;
            self.literal(low);
            if let Some(high) = self.rest.strip_prefix('-')
                && !high.is_empty()
                && !high.starts_with(']')
            {
                let high = self.class_char(high).ok_or_else(missing)??;
                if high < low {
                    return Err(format!("invalid character class range: `{}`", before(item, self.rest)));
                }
                self.out.push('-');
                self.literal(high);
            }
        }
        self.rest = &self.rest[1..];
        self.out.push(']');
        Ok(())
    }

    /// Takes one character of a class, escaped or not. None at the end of the pattern.
    fn class_char(&mut self, text: &'a str) -> Option<Result<char, String>> {
        let first = text.chars().next()?;
        if first != '\\' {
            self.rest = &text[first.len_utf8()..];
            return Some(Ok(first));
        }
        Some(parse_escape(text).map(|(c, rest)| {
            self.rest = rest;
            c
        }))
    }
}

/// `{n}`, `{n,}` or `{n,m}` (none: no end) and what follows. Numbers too big to matter become `u32::MAX`. None where it
/// is no repetition.
fn parse_repeat(text: &str) -> Option<(u32, Option<u32>, &str)> {
    fn number(text: &str) -> Option<(u32, &str)> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = text.split_at(digits);
        if number.is_empty() || number.len() > 1 && number.starts_with('0') {
            return None;
        }
        Some((number.parse().unwrap_or(u32::MAX), rest))
    }
    let (least, rest) = number(text.strip_prefix('{')?)?;
    let (most, rest) = match rest.strip_prefix(',') {
        None => (Some(least), rest),
        Some(rest) if rest.starts_with('}') => (None, rest),
        Some(rest) => number(rest).map(|(most, rest)| (Some(most), rest))?,
    };
    Some((least, most, rest.strip_prefix('}')?))
}

/// An escape that stands for one character, and what follows.
fn parse_escape(text: &str) -> Result<(char, &str), String> {
    let mut rest = text[1..].chars();
    let Some(c) = rest.next() else {
        return Err("trailing backslash at end of expression: ``".into());
    };
    let octal = |rest: &str| rest.bytes().take(2).take_while(|b| (b'0'..=b'7').contains(b)).count();
    let code = match c {
        'a' => 7,
        'f' => 12,
        'n' => 10,
        'r' => 13,
        't' => 9,
        'v' => 11,
        // A single digit but 0 would be a back reference.
        '0'..='7' if c == '0' || octal(rest.as_str()) > 0 => {
            let digits = 1 + octal(rest.as_str());
            let after = &text[1 + digits..];
            let code = u32::from_str_radix(&text[1..1 + digits], 8).unwrap_or_default();
            return Ok((char::from_u32(code).unwrap_or_default(), after));
        }
        'x' => return hex_escape(text),
        c if c.is_ascii() && !c.is_ascii_alphanumeric() => c as u32,
        _ => return Err(invalid_escape(before(text, rest.as_str()))),
    };
    Ok((char::from_u32(code).unwrap_or_default(), rest.as_str()))
}

/// `\x41` or `\x{1f600}`.
fn hex_escape(text: &str) -> Result<(char, &str), String> {
    let mut rest = text[2..].chars();
    // Surrogates are code points for Go, but no text has them.
    let result = |code, rest| Ok((char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), rest));
    let fault = |rest: &str| Err(invalid_escape(before(text, rest)));
    let first = match rest.next() {
        Some('{') => {
            let mut code = None;
            loop {
                match rest.next() {
                    Some('}') => return code.map_or_else(|| fault(rest.as_str()), |code| result(code, rest.as_str())),
                    Some(c) if c.is_ascii_hexdigit() => {
                        let next = code.unwrap_or(0) * 16 + c.to_digit(16).unwrap_or_default();
                        if next > char::MAX as u32 {
                            return fault(rest.as_str());
                        }
                        code = Some(next);
                    }
                    _ => return fault(rest.as_str()),
                }
            }
        }
        Some(c) => c,
        None => return fault(rest.as_str()),
    };
    match (first.to_digit(16), rest.next().and_then(|c| c.to_digit(16))) {
        (Some(high), Some(low)) => result(high * 16 + low, rest.as_str()),
        _ => fault(rest.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_what_go_matches() {
        for (pattern, text, expected) in [
            (r"\d+", "12", true),
            (r"\d", "\u{661}", false),
            (r"\w", "é", false),
            (r"\W", "é", true),
            (r"\s", "\u{a0}", false),
            (r"\S", "\u{a0}", true),
            (r"[\S]", "a", true),
            (r"[^\s]", " ", false),
            (r"é\b", "é", false),
            (r"a\b.*", "aé", true),
            (r"a\Bb", "ab", true),
            ("a{", "a{", true),
            ("a{,5}", "a{,5}", true),
            ("a{2,3}", "aaa", true),
            ("a{2,3}?", "aaaa", false),
            (r"\Qa.b|\E+", "a.b||", true),
            ("[a&&b]", "&", true),
            ("[[a]", "[", true),
            ("[]a]", "]", true),
            ("[^]a]", "b", true),
            ("[a-]", "-", true),
            (r"[\-a]", "-", true),
            ("[[:alpha:]]+", "ab", true),
            ("[[:^alpha:]]", "a", false),
            (r"\<", "<", true),
            (r"\_", "_", true),
            (r"\101\x41\x{1F600}", "AA\u{1f600}", true),
            (r"\pL\p{Greek}\P{^Greek}", "aαα", true),
            ("(?i)Straße|K", "\u{212a}", true),
            ("(?ii)A", "a", true),
            ("(?i-i:a)", "A", false),
            ("(?)a", "a", true),
            ("(?-s:.)", "\n", false),
            (".", "\n", true),
            ("(?P<1>a)(?<n>b)(?<n>c)", "abc", true),
            ("a|", "", true),
            ("()|x", "", true),
            ("#  a", "#  a", true),
            ("}]", "}]", true),
            ("^*a", "a", true),
        ] {
            match compile_matcher(pattern) {
                Ok(regex) => assert_eq!(regex.is_match(text), expected, "{pattern} on {text:?}: {regex}"),
                Err(e) => panic!("{pattern}: {e}"),
            }
        }
    }

    #[test]
    fn patterns_are_known_again_and_few() {
        for i in 0..1000 {
            let pattern = format!("a{i}.*");
            for _ in 0..2 {
                assert!(compile_matcher(&pattern).is_ok_and(|r| r.is_match(&format!("a{i}bc"))), "{i}");
            }
            assert!(KNOWN.lock().weight() <= MOST_KNOWN);
        }
        // Too large to be kept, and no reason to refuse it.
        assert!(compile_matcher("\\pL{50}").is_ok_and(|r| r.is_match(&"ü".repeat(50))));
    }

    #[test]
    fn faults_in_gos_words() {
        for (pattern, expected) in [
            ("[", "missing closing ]: `[`"),
            ("a[b", "missing closing ]: `[b`"),
            ("[a-", "missing closing ]: `[a-`"),
            ("(a", "missing closing ): `(a`"),
            ("a)(b", "unexpected ): `a)(b`"),
            ("*a", "missing argument to repetition operator: `*`"),
            ("a|*", "missing argument to repetition operator: `*`"),
            ("(+?)", "missing argument to repetition operator: `+?`"),
            ("a**", "invalid nested repetition operator: `**`"),
            ("a*??b", "invalid nested repetition operator: `*??`"),
            ("a{1}{2}", "invalid nested repetition operator: `{1}{2}`"),
            ("a{1001}", "invalid repeat count: `{1001}`"),
            ("a{3,2}", "invalid repeat count: `{3,2}`"),
            ("(a{100}){11}", "invalid repeat count: `{11}`"),
            (r"\q", r"invalid escape sequence: `\q`"),
            (r"\8", r"invalid escape sequence: `\8`"),
            (r"\1", r"invalid escape sequence: `\1`"),
            (r"\Z", r"invalid escape sequence: `\Z`"),
            (r"\C", r"invalid escape sequence: `\C`"),
            (r"\xg1", r"invalid escape sequence: `\xg1`"),
            (r"\x{110000}", r"invalid escape sequence: `\x{110000`"),
            ("a\\", "trailing backslash at end of expression: ``"),
            ("[z-a]", "invalid character class range: `z-a`"),
            ("[[:foo:]]", "invalid character class range: `[:foo:]`"),
            (r"\p{Foo}", r"invalid character class range: `\p{Foo}`"),
            ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
            ("(?<!a)", "invalid named capture: `(?<!a)`"),
            ("(?x)a", "invalid or unsupported Perl syntax: `(?x`"),
            ("(?i-)a", "invalid or unsupported Perl syntax: `(?i-)`"),
            ("(?i", "invalid or unsupported Perl syntax: `(?i`"),
            ("(?P<a-b>x)", "invalid named capture: `(?P<a-b>`"),
        ] {
            assert_eq!(compile_matcher(pattern).map(drop), Err(expected.to_owned()), "{pattern}");
        }
        assert_eq!(compile_anchored("a[").map(drop), Err("error parsing regexp: missing closing ]: `[)$`".to_owned()));
    }
}
