//! Numbers, durations and strings as Go and Prometheus read them.

use narthex_model::duration;
use narthex_model::labels::quote;

use super::{Parsed, Parser};
use crate::ast::NumberLiteral;
use crate::lexer::{Kind, Token};

/// Whether so many seconds are more nanoseconds than fit.
pub(super) fn duration_out_of_range(seconds: f64) -> bool {
    const MAX: f64 = (1u64 << 63) as f64 / 1e9;
    !(-MAX..=MAX).contains(&seconds) && !seconds.is_nan()
}

impl Parser<'_> {
    /// A number or duration token's value.
    pub(super) fn number(&self, token: Token<'_>) -> Parsed<NumberLiteral> {
        let duration = token.kind == Kind::Duration;
        let value =
            if duration { parse_duration(token.text).map(|ns| ns as f64 / 1e9) } else { parse_number(token.text) };
        match value {
            Ok(value) => Ok(NumberLiteral { value, duration, pos: token.pos() }),
            Err(message) => Err(self.error(token.pos(), message)),
        }
    }
}

/// A number token: an integer with a base prefix (0x, or 0 for octal) where it is one, else a float.
fn parse_number(text: &str) -> Result<f64, String> {
    if let Some(v) = parse_go_int(text) {
        return Ok(v as f64);
    }
    let error = |why| Err(format!("error parsing number: strconv.ParseFloat: parsing {}: {why}", quote(text)));
    match text.as_bytes() {
        [b'i' | b'I', ..] => return Ok(f64::INFINITY),
        [b'n' | b'N', ..] => return Ok(f64::NAN),
        // Go's hexadecimal floats have an exponent with `p`, which the lexer never lets through.
        [b'0', b'x' | b'X', ..] => return error("invalid syntax"),
        _ => {}
    }
    if !underscores_ok(text) {
        return error("invalid syntax");
    }
    let plain: String = text.chars().filter(|c| *c != '_').collect();
    match plain.parse::<f64>() {
        Ok(v) if v.is_infinite() => error("value out of range"),
        Ok(v) => Ok(v),
        Err(_) => error("invalid syntax"),
    }
}

/// Whether underscores only separate digits (or a hexadecimal prefix from them).
fn underscores_ok(text: &str) -> bool {
    let bytes = text.as_bytes();
    let hex = matches!(bytes, [b'0', b'x' | b'X', ..]);
    let is_digit = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_digit() || hex && b.is_ascii_hexdigit());
    bytes.iter().enumerate().filter(|(_, b)| **b == b'_').all(|(i, _)| {
        let before = i.checked_sub(1).and_then(|j| bytes.get(j));
        (is_digit(before) || hex && i == 2) && is_digit(bytes.get(i + 1))
    })
}

/// Go's `strconv.ParseInt(text, 0, 64)` on text without a sign.
fn parse_go_int(text: &str) -> Option<i64> {
    if !underscores_ok(text) {
        return None;
    }
    let digits: String = text.chars().filter(|c| *c != '_').collect();
    if digits.starts_with('+') || digits.starts_with('-') {
        return None;
    }
    if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        if hex.starts_with('+') {
            return None;
        }
        return i64::from_str_radix(hex, 16).ok();
    }
    match digits.strip_prefix('0') {
        Some(octal) if !octal.is_empty() => {
            if octal.starts_with('+') {
                return None;
            }
            i64::from_str_radix(octal, 8).ok()
        }
        _ => digits.parse().ok(),
    }
}

/// A duration such as `1h30m`, in nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Result<i64, String> {
    let parsed = duration::parse(text).map_err(|e| e.to_string())?;
    i64::try_from(parsed.as_nanos()).map_err(|_| "duration out of range".into())
}

/// The text of a string token, which the lexer has checked, and its bytes where they are not UTF-8.
pub(super) fn unquote(token: &str) -> (String, Option<Box<[u8]>>) {
    let raw = token.starts_with('`');
    let inner = token.get(1..token.len().saturating_sub(1)).unwrap_or_default();
    if raw || !inner.contains('\\') {
        return (inner.to_owned(), None);
    }
    let mut out = Vec::with_capacity(inner.len());
    let mut rest = inner.bytes();
    while let Some(b) = rest.next() {
        if b != b'\\' {
            out.push(b);
            continue;
        }
        let Some(escape) = rest.next() else { break };
        let mut digits = |count: usize, base: u32, first: u32| {
            rest.by_ref()
                .take(count)
                .fold(first, |n, b| n.wrapping_mul(base).wrapping_add((b as char).to_digit(base).unwrap_or_default()))
        };
        let code = match escape {
            b'a' => 7,
            b'b' => 8,
            b'f' => 12,
            b'n' => 10,
            b'r' => 13,
            b't' => 9,
            b'v' => 11,
            b'0'..=b'7' => digits(2, 8, (escape - b'0') as u32),
            b'x' => digits(2, 16, 0),
            b'u' | b'U' => {
                let code = digits(if escape == b'u' { 4 } else { 8 }, 16, 0);
                let c = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            other => other as u32,
        };
        out.push(code as u8);
    }
    match String::from_utf8(out) {
        Ok(text) => (text, None),
        // Go replaces each bad byte, where `from_utf8_lossy` would take up to three together.
        Err(e) => {
            let bytes = e.into_bytes();
            let mut text = String::new();
            for chunk in bytes.utf8_chunks() {
                text.push_str(chunk.valid());
                chunk.invalid().iter().for_each(|_| text.push(char::REPLACEMENT_CHARACTER));
            }
            (text, Some(bytes.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_go_reads_them() {
        for (text, expected) in [
            ("10", 10.0),
            ("010", 8.0),
            ("08", 8.0),
            ("0x1F", 31.0),
            ("0x_1f", 31.0),
            ("1_000", 1000.0),
            ("1_000.5e1_0", 1.0005e13),
            ("9223372036854775808", 9223372036854775808.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("iNf", f64::INFINITY),
        ] {
            assert_eq!(parse_number(text), Ok(expected), "{text}");
        }
        for text in ["1e999", "0xffffffffffffffff", "1__0", ".5.5"] {
            assert!(parse_number(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, expected) in [
            ("1h30m", Ok(5_400_000_000_000)),
            ("1ms", Ok(1_000_000)),
            ("1s1ms", Ok(1_001_000_000)),
            ("5m5m", Err("not a valid duration string: \"5m5m\"")),
            ("5hs", Err("unknown unit \"hs\" in duration \"5hs\"")),
            ("300y", Err("duration out of range")),
        ] {
            assert_eq!(parse_duration(text), expected.map_err(str::to_owned));
        }
    }

    #[test]
    fn strings_are_bytes() {
        for (token, text, bytes) in [
            (r#""a\n\x41\101\u00e9""#, "a\nAA\u{e9}", None),
            (r"`a\n`", r"a\n", None),
            (r#"'\'"'"#, "'\"", None),
            (r#""\xc3\xa9""#, "\u{e9}", None),
            (r#""a\xffb""#, "a\u{fffd}b", Some(&b"a\xffb"[..])),
            (r#""\xe2\x82""#, "\u{fffd}\u{fffd}", Some(&b"\xe2\x82"[..])),
        ] {
            assert_eq!(unquote(token), (text.to_owned(), bytes.map(Into::into)), "{token}");
        }
    }
}
