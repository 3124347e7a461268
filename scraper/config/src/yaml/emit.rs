//! Printing as go-yaml 2 prints: block style, two spaces, lists not indented in mappings, long plain texts folded.

use super::node::{Resolved, resolve};
use crate::references::shown;

/// A value to print.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Out {
    /// Printed as it is: numbers, booleans, null.
    Plain(String),
    /// A string, quoted where it would read as something else.
    Text(String),
    Seq(Vec<Out>),
    Map(Vec<(String, Out)>),
    /// A sequence on one line.
    Flow(Box<Out>),
}

/// Column from which a space may become a line break.
const WIDTH: usize = 80;

/// The document of a mapping.
pub(crate) fn document(value: &Out) -> String {
    let mut printer = Printer { out: String::new(), line_start: 0 };
    match value {
        Out::Map(entries) if !entries.is_empty() => printer.map(entries, 0, true),
        other => printer.inline(other, 0),
    }
    if !printer.out.ends_with('\n') {
        printer.out.push('\n');
    }
    printer.out
}

struct Printer {
    out: String,
    /// Where the current line starts.
    line_start: usize,
}

impl Printer {
    fn column(&self) -> usize {
        self.out[self.line_start..].chars().count()
    }

    fn line(&mut self, indent: usize) {
        if !self.out.is_empty() && !self.out.ends_with('\n') {
            self.out.push('\n');
        }
        self.line_start = self.out.len();
        self.out.extend(std::iter::repeat_n(' ', indent));
    }

    /// The entries at `indent`; the first stands where the printer is when `here`.
    fn map(&mut self, entries: &[(String, Out)], indent: usize, here: bool) {
        for (i, (key, value)) in entries.iter().enumerate() {
            if i > 0 || !here {
                self.line(indent);
            }
            // Keys that are too long for a simple key have never been seen, and stay on their line.
            self.text(&shown(key), indent, true, false);
            self.out.push(':');
            match value {
                Out::Map(entries) if !entries.is_empty() => self.map(entries, indent + 2, false),
                Out::Seq(items) if !items.is_empty() => self.seq(items, indent, false),
                other => {
                    self.out.push(' ');
                    self.inline(other, indent + 2);
                }
            }
        }
    }

    fn seq(&mut self, items: &[Out], indent: usize, here: bool) {
        for (i, item) in items.iter().enumerate() {
            if i > 0 || !here {
                self.line(indent);
            }
            self.out.push_str("- ");
            match item {
                Out::Map(entries) if !entries.is_empty() => self.map(entries, indent + 2, true),
                Out::Seq(items) if !items.is_empty() => self.seq(items, indent + 2, true),
                other => self.inline(other, indent + 2),
            }
        }
    }

    /// What stands on the current line; `indent` is for its continuations.
    fn inline(&mut self, value: &Out, indent: usize) {
        match value {
            Out::Plain(text) => match shown(text) {
                std::borrow::Cow::Borrowed(text) => self.out.push_str(text),
                std::borrow::Cow::Owned(reference) => self.text(&reference, indent, false, false),
            },
            Out::Text(text) => self.text(&shown(text), indent, false, false),
            Out::Seq(_) => self.out.push_str("[]"),
            Out::Map(_) => self.out.push_str("{}"),
            Out::Flow(inner) => self.flow(inner, indent),
        }
    }

    fn flow(&mut self, value: &Out, indent: usize) {
        let Out::Seq(items) = value else { return self.inline(value, indent) };
        self.out.push('[');
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                self.out.push(',');
                if self.column() <= WIDTH {
                    self.out.push(' ');
                }
            }
            if self.column() > WIDTH {
                self.line(indent);
            }
            match item {
                Out::Text(text) => self.text(&shown(text), indent, false, true),
                other => self.inline(other, indent),
            }
        }
        self.out.push(']');
    }

    fn text(&mut self, text: &str, indent: usize, key: bool, flow: bool) {
        let form = Form::of(text);
        if text.contains('\n') && form.block && !key && !flow {
            return self.literal(text, indent);
        }
        let as_string = resolve(text) == Resolved::Str && !is_base60(text) && !is_timestamp(text);
        let plain = if flow { form.flow_plain } else { form.block_plain };
        if !as_string || text.contains('\n') {
            self.double(text, indent, key);
        } else if plain {
            self.folded(text, indent, key);
        } else if form.single {
            self.out.push('\'');
            self.folded(&text.replace('\'', "''"), indent, key);
            self.out.push('\'');
        } else {
            self.double(text, indent, key);
        }
    }

    /// Text as it is, with lone spaces beyond the width made line breaks.
    fn folded(&mut self, text: &str, indent: usize, key: bool) {
        let mut after_space = false;
        let mut chars = text.char_indices().peekable();
        while let Some((i, c)) = chars.next() {
            let next_is_space = chars.peek().is_none_or(|(_, n)| *n == ' ');
            if c == ' ' && !key && !after_space && i > 0 && !next_is_space && self.column() > WIDTH {
                self.line(indent);
            } else {
                self.out.push(c);
            }
            after_space = c == ' ';
        }
    }

    fn double(&mut self, text: &str, indent: usize, key: bool) {
        self.out.push('"');
        let mut after_space = false;
        let mut chars = text.char_indices().peekable();
        while let Some((i, c)) = chars.next() {
            let is_space = c == ' ';
            if is_space && !key && !after_space && i > 0 && chars.peek().is_some() && self.column() > WIDTH {
                self.line(indent);
                if chars.peek().is_some_and(|(_, n)| *n == ' ') {
                    self.out.push('\\');
                }
            } else if let Some(escape) = escape(c) {
                self.out.push_str(&escape);
            } else {
                self.out.push(c);
            }
            after_space = is_space;
        }
        self.out.push('"');
    }

    fn literal(&mut self, text: &str, indent: usize) {
        self.out.push('|');
        if text.starts_with([' ', '\n']) {
            self.out.push('2');
        }
        if !text.ends_with('\n') {
            self.out.push('-');
        } else if text == "\n" || text.ends_with("\n\n") {
            self.out.push('+');
        }
        self.out.push('\n');
        for line in text.split_inclusive('\n') {
            if line != "\n" {
                self.line_start = self.out.len();
                self.out.extend(std::iter::repeat_n(' ', indent));
            }
            self.out.push_str(line);
        }
    }
}

/// In which styles a text can be written.
struct Form {
    block_plain: bool,
    flow_plain: bool,
    single: bool,
    block: bool,
}

impl Form {
    fn of(text: &str) -> Form {
        let mut form = Form { block_plain: true, flow_plain: true, single: true, block: true };
        if text.is_empty() {
            return Form { flow_plain: false, block: false, ..form };
        }
        if text.starts_with("---") || text.starts_with("...") {
            form.block_plain = false;
            form.flow_plain = false;
        }
        let chars: Vec<char> = text.chars().collect();
        let mut special = false;
        for (i, c) in chars.iter().copied().enumerate() {
            let blank_next = chars.get(i + 1).is_none_or(|n| matches!(n, ' ' | '\t'));
            let after_blank = i == 0 || matches!(chars[i - 1], ' ' | '\t' | '\n' | '\r');
            match c {
                '#' if after_blank => form.deny_plain(),
                ',' | '[' | ']' | '{' | '}' if i == 0 => form.deny_plain(),
                '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`' if i == 0 => form.deny_plain(),
                '?' | ':' => {
                    form.flow_plain = false;
                    form.block_plain &= !blank_next || c == '?' && i > 0;
                }
                '-' if i == 0 && blank_next => form.deny_plain(),
                ',' | '[' | ']' | '{' | '}' => form.flow_plain = false,
                _ => {}
            }
            special |= !is_printable(c);
        }
        let is_break = |c: &char| matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}');
        let edge = |c: Option<&char>| c.is_some_and(|c| *c == ' ' || is_break(c));
        if edge(chars.first()) || edge(chars.last()) || chars.iter().any(is_break) {
            form.deny_plain();
        }
        form.block &= chars.last() != Some(&' ');
        for pair in chars.windows(2) {
            if is_break(&pair[0]) && pair[1] == ' ' {
                form.deny_plain();
                form.single = false;
            }
            special |= pair[0] == ' ' && is_break(&pair[1]);
        }
        if special {
            form = Form { block_plain: false, flow_plain: false, single: false, block: false };
        }
        form
    }

    fn deny_plain(&mut self) {
        self.block_plain = false;
        self.flow_plain = false;
    }
}

fn is_printable(c: char) -> bool {
    matches!(c as u32, 0x0a | 0x20..=0x7e | 0xa0..=0xd7ff | 0xe000..=0xfefe | 0xff00..=0xfffd)
}

fn escape(c: char) -> Option<String> {
    let short = match c {
        '\0' => '0',
        '\x07' => 'a',
        '\x08' => 'b',
        '\t' => 't',
        '\n' => 'n',
        '\x0b' => 'v',
        '\x0c' => 'f',
        '\r' => 'r',
        '\x1b' => 'e',
        '"' => '"',
        '\\' => '\\',
        '\u{85}' => 'N',
        '\u{2028}' => 'L',
        '\u{2029}' => 'P',
        c if is_printable(c) => return None,
        c => {
            let code = c as u32;
            return Some(match code {
                0..=0xff => format!("\\x{code:02X}"),
                0x100..=0xffff => format!("\\u{code:04X}"),
                _ => format!("\\U{code:08X}"),
            });
        }
    };
    Some(format!("\\{short}"))
}

/// `^[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?$`: what YAML 1.1 reads as a number to the base of 60.
fn is_base60(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (text, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut parts = text.split(':');
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let head = parts.next().is_some_and(|h| h.starts_with(|c: char| c.is_ascii_digit()) && digits(h));
    let mut count = 0;
    let tail = parts.all(|p| {
        count += 1;
        match p.as_bytes() {
            [d] => d.is_ascii_digit(),
            [t, d] => (b'0'..=b'5').contains(t) && d.is_ascii_digit(),
            _ => false,
        }
    });
    head && tail && count > 0 && digits(fraction)
}

/// A date, perhaps with a time: `2006-1-2`, `2006-1-2T15:4:5Z`, `2006-1-2 15:4:5`.
fn is_timestamp(text: &str) -> bool {
    let (date, time) = match text.find(['T', 't', ' ']) {
        Some(i) => (&text[..i], Some(&text[i + 1..])),
        None => (text, None),
    };
    let mut parts = date.split('-');
    let number = |part: Option<&str>, lens: std::ops::RangeInclusive<usize>, range: std::ops::RangeInclusive<u32>| {
        part.is_some_and(|p| {
            lens.contains(&p.len())
                && p.bytes().all(|b| b.is_ascii_digit())
                && p.parse().is_ok_and(|n: u32| range.contains(&n))
        })
    };
    let is_date = number(parts.next(), 4..=4, 0..=9999)
        && number(parts.next(), 1..=2, 1..=12)
        && number(parts.next(), 1..=2, 1..=31)
        && parts.next().is_none();
    is_date
        && time.is_none_or(|t| {
            let clock = t.trim_end_matches('Z').split(['+', '.']).next().unwrap_or("");
            clock.split(':').count() == 3 && clock.split(':').all(|p| number(Some(p), 1..=2, 0..=60))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        assert_eq!(document(&Out::Map(vec![("k".into(), Out::Text(text.into()))])), format!("k: {expected}\n"));
    }

    #[test]
    fn texts() {
        for (text, expected) in [
            ("a", "a"),
            ("", r#""""#),
            ("true", r#""true""#),
            ("1.10", r#""1.10""#),
            ("0x1f", r#""0x1f""#),
            ("y", r#""y""#),
            ("12:30", r#""12:30""#),
            ("2006-1-2", r#""2006-1-2""#),
            ("host:9090", "host:9090"),
            ("a: b", "'a: b'"),
            ("a:", "'a:'"),
            ("#x", "'#x'"),
            ("a #x", "'a #x'"),
            ("a#x", "a#x"),
            ("*", "'*'"),
            ("it's", "it's"),
            ("'x", "'''x'"),
            ("- x", "'- x'"),
            ("-x", "-x"),
            (" x", "' x'"),
            ("a\tb", r#""a\tb""#),
            ("a\nb\n", "|\n  a\n  b"),
            ("a\nb", "|-\n  a\n  b"),
            ("ü", "ü"),
            ("<secret>", "<secret>"),
            ("$1:8080", "$1:8080"),
        ] {
            check(text, expected);
        }
    }
}
