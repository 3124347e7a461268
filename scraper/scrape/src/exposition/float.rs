//! Floats as exposition pages write them: Go's `strconv.ParseFloat` without its newer forms (hex, underscores), and
//! a fast path for the plain decimals that nearly all values are. Both give the same bits as the standard library.

use narthex_model::number::format_g;

/// The NaN that Prometheus stores for every NaN on a page (`model/value.NormalNaN`), apart from the staleness marker.
pub const NORMAL_NAN_BITS: u64 = 0x7ff8_0000_0000_0001;

/// Why a float was refused, in the words of Go's `strconv`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloatError {
    Syntax,
    Range,
    Unsupported,
}

impl FloatError {
    /// The error as Prometheus prints it for `text`.
    pub fn message(self, text: &[u8]) -> String {
        let quoted = super::quote_bytes(text);
        match self {
            FloatError::Syntax => format!("strconv.ParseFloat: parsing {quoted}: invalid syntax"),
            FloatError::Range => format!("strconv.ParseFloat: parsing {quoted}: value out of range"),
            FloatError::Unsupported => "unsupported character in float".to_owned(),
        }
    }
}

/// A value token as a float; every NaN becomes [`NORMAL_NAN_BITS`].
///
/// # Errors
/// What is no float, overflows, or uses a form that Go learned only after the format was fixed.
pub fn parse_float(text: &[u8]) -> Result<f64, FloatError> {
    if text.iter().any(|b| matches!(b, b'p' | b'P' | b'_')) {
        return Err(FloatError::Unsupported);
    }
    let (negative, rest) = match text.first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let magnitude = match rest.first() {
        Some(b'0'..=b'9' | b'.') => {
            let v: f64 = fast_float2::parse(rest).map_err(|_| FloatError::Syntax)?;
            if v.is_infinite() {
                return Err(FloatError::Range);
            }
            v
        }
        Some(b'i' | b'I') if rest.eq_ignore_ascii_case(b"inf") || rest.eq_ignore_ascii_case(b"infinity") => {
            f64::INFINITY
        }
        Some(b'n' | b'N') if rest.len() == text.len() && rest.eq_ignore_ascii_case(b"nan") => {
            return Ok(f64::from_bits(NORMAL_NAN_BITS));
        }
        _ => return Err(FloatError::Syntax),
    };
    Ok(if negative { -magnitude } else { magnitude })
}

/// A float in any form that Go's `strconv.ParseFloat` takes: hexadecimal and underscores, too.
pub fn parse_go_float(text: &[u8]) -> Option<f64> {
    match parse_float(text) {
        Ok(v) => return Some(v),
        Err(FloatError::Unsupported) => {}
        Err(_) => return None,
    }
    if !underscores_fit(text) {
        return None;
    }
    let plain: Vec<u8> = text.iter().copied().filter(|b| *b != b'_').collect();
    let (sign, magnitude) = match plain.split_first() {
        Some((b'-', rest)) => (-1.0, rest),
        Some((b'+', rest)) => (1.0, rest),
        _ => (1.0, plain.as_slice()),
    };
    match magnitude {
        [b'0', b'x' | b'X', hex @ ..] => parse_hex(hex).map(|v| sign * v),
        _ if magnitude.iter().any(|b| matches!(b, b'p' | b'P')) => None,
        _ => parse_float(&plain).ok(),
    }
}

/// Whether each underscore stands between digits, or behind the prefix of a base.
fn underscores_fit(text: &[u8]) -> bool {
    let text = text.strip_prefix(b"-").or(text.strip_prefix(b"+")).unwrap_or(text);
    let prefixed = matches!(text, [b'0', b'b' | b'B' | b'o' | b'O' | b'x' | b'X', ..]);
    let hex = matches!(text, [b'0', b'x' | b'X', ..]);
    let mut last = if prefixed { b'0' } else { b'^' };
    for b in text.iter().skip(if prefixed { 2 } else { 0 }) {
        if b.is_ascii_digit() || hex && b.is_ascii_hexdigit() {
            last = b'0';
        } else if *b == b'_' {
            if last != b'0' {
                return false;
            }
            last = b'_';
        } else {
            if last == b'_' {
                return false;
            }
            last = b'!';
        }
    }
    last != b'_'
}

/// What follows `0x`: hexadecimal digits with a point, and the exponent of two, which must be there.
fn parse_hex(text: &[u8]) -> Option<f64> {
    let at = text.iter().position(|b| matches!(b, b'p' | b'P'))?;
    let exponent: i32 = std::str::from_utf8(&text[at + 1..]).ok()?.parse::<i32>().ok()?.clamp(-5000, 5000);
    let (mut mantissa, mut scale, mut digits, mut point) = (0u64, 0i32, 0, false);
    for b in &text[..at] {
        match (*b as char).to_digit(16) {
            None if *b == b'.' && !point => point = true,
            None => return None,
            Some(digit) => {
                digits += 1;
                if mantissa >> 60 == 0 {
                    mantissa = mantissa << 4 | digit as u64;
                    scale -= if point { 4 } else { 0 };
                } else {
                    // Beyond the precision of a float; a sticky bit for the rounding.
                    mantissa |= (digit != 0) as u64;
                    scale += if point { 0 } else { 4 };
                }
            }
        }
    }
    let v = mantissa as f64 * 2f64.powi((exponent + scale).clamp(-1070, 1023));
    (digits > 0 && v.is_finite()).then_some(v)
}

const POW10: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let chunk: &[u8; 8] = bytes.get(at..at + 8)?.try_into().ok()?;
    Some(u64::from_le_bytes(*chunk))
}

/// The plain decimal at `at` and where it ends, if its bytes up to a space or line break are one whose value a single
/// correctly rounded operation gives (mantissa below 2^53, power of ten within 22); otherwise `None`, and the caller
/// takes [`parse_float`]. A page's end counts as a line break.
#[inline(always)]
pub fn fast_decimal(page: &[u8], at: usize) -> Option<(f64, usize)> {
    let mut p = at;
    let negative = page.get(p) == Some(&b'-');
    p += negative as usize;
    let start = p;
    let mut mantissa: u64 = 0;
    let mut point = usize::MAX;
    loop {
        if let Some(w) = word(page, p)
            && w & 0xf0f0_f0f0_f0f0_f0f0 == 0x3030_3030_3030_3030
            && w.wrapping_add(0x0606_0606_0606_0606) & 0xf0f0_f0f0_f0f0_f0f0 == 0x3030_3030_3030_3030
        {
            // Eight digits at once: pairs, then fours, then all.
            let v = w - 0x3030_3030_3030_3030;
            let v = v.wrapping_mul(10).wrapping_add(v >> 8);
            let low = (v & 0x0000_00ff_0000_00ff).wrapping_mul(0x000f_4240_0000_0064);
            let high = ((v >> 16) & 0x0000_00ff_0000_00ff).wrapping_mul(0x0000_2710_0000_0001);
            let eight = low.wrapping_add(high) >> 32;
            mantissa = mantissa.wrapping_mul(100_000_000).wrapping_add(eight & 0xffff_ffff);
            p += 8;
            continue;
        }
        let byte = page.get(p).copied().unwrap_or(b'\n');
        let digit = byte.wrapping_sub(b'0');
        if digit < 10 {
            mantissa = mantissa.wrapping_mul(10).wrapping_add(digit as u64);
            p += 1;
        } else if byte == b'.' && point == usize::MAX {
            point = p;
            p += 1;
        } else {
            break;
        }
    }
    let has_point = point != usize::MAX;
    let digits = p - start - has_point as usize;
    // 19 digits cannot overflow a u64.
    if digits == 0 || digits > 19 {
        return None;
    }
    let mut exponent = if has_point { -((p - point - 1) as i32) } else { 0 };
    let mut byte = page.get(p).copied().unwrap_or(b'\n');
    if byte | 0x20 == b'e' {
        p += 1;
        let sign = page.get(p).copied();
        p += matches!(sign, Some(b'-' | b'+')) as usize;
        let first = p;
        let mut e = 0i32;
        while let Some(digit) = page.get(p).map(|b| b.wrapping_sub(b'0')).filter(|d| *d < 10) {
            if p - first >= 4 {
                return None;
            }
            e = e * 10 + digit as i32;
            p += 1;
        }
        if p == first {
            return None;
        }
        exponent += if sign == Some(b'-') { -e } else { e };
        byte = page.get(p).copied().unwrap_or(b'\n');
    }
    if byte != b'\n' && byte != b' ' || mantissa >= 1 << 53 {
        return None;
    }
    let m = mantissa as f64;
    let v = match exponent {
        0 => m,
        -22..=-1 => m / POW10[-exponent as usize],
        1..=22 => m * POW10[exponent as usize],
        _ if mantissa == 0 => 0.0,
        _ => return None,
    };
    Some((if negative { -v } else { v }, p))
}

/// A float as OpenMetrics wants it in `le` and `quantile` (Prometheus `labels.FormatOpenMetricsFloat`).
pub fn format_open_metrics(v: f64) -> String {
    // Zero has no sign here.
    let mut text = format_g(if v == 0.0 { 0.0 } else { v });
    if v.is_finite() && !text.contains(['e', '.']) {
        text.push_str(".0");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn as_go_reads() {
        for (text, expected) in [
            ("1", Ok(1.0)),
            ("+1.5e3", Ok(1500.0)),
            (".5", Ok(0.5)),
            ("5.", Ok(5.0)),
            ("1.e2", Ok(100.0)),
            ("-0", Ok(-0.0)),
            ("inf", Ok(f64::INFINITY)),
            ("+Inf", Ok(f64::INFINITY)),
            ("-INFINITY", Ok(f64::NEG_INFINITY)),
            ("NaN", Ok(f64::from_bits(NORMAL_NAN_BITS))),
            ("nan", Ok(f64::from_bits(NORMAL_NAN_BITS))),
            ("1e-400", Ok(0.0)),
            ("1e400", Err(FloatError::Range)),
            ("-1e400", Err(FloatError::Range)),
            ("+NaN", Err(FloatError::Syntax)),
            ("-nan", Err(FloatError::Syntax)),
            ("", Err(FloatError::Syntax)),
            (".", Err(FloatError::Syntax)),
            ("+", Err(FloatError::Syntax)),
            ("1e", Err(FloatError::Syntax)),
            ("e5", Err(FloatError::Syntax)),
            ("1 ", Err(FloatError::Syntax)),
            ("0x10", Err(FloatError::Syntax)),
            ("0x1p4", Err(FloatError::Unsupported)),
            ("1_000", Err(FloatError::Unsupported)),
            ("infin", Err(FloatError::Syntax)),
            ("--1", Err(FloatError::Syntax)),
        ] {
            assert_eq!(parse_float(text.as_bytes()).map(f64::to_bits), expected.map(f64::to_bits), "{text}");
        }
    }

    #[test]
    fn bounds_of_buckets_in_every_form_of_go() {
        for (text, expected) in [
            ("1", Some(1.0)),
            ("1_0", Some(10.0)),
            ("1_000.5", Some(1000.5)),
            ("0x1p4", Some(16.0)),
            ("-0X1.8P1", Some(-3.0)),
            ("0x_1p0", Some(1.0)),
            ("0x10", None),
            ("1p4", None),
            ("_1", None),
            ("1_", None),
            ("1__0", None),
            ("1_.5", None),
            ("0xp1", None),
            ("0x1p", None),
            ("abc", None),
        ] {
            assert_eq!(parse_go_float(text.as_bytes()), expected, "{text}");
        }
    }

    fn check_fast(text: &str) {
        let expected = text.parse::<f64>();
        for page in [format!("{text}\n"), text.to_owned(), format!("{text} 123"), format!("{text}\nnext_line 12345678")]
        {
            if let Some((v, end)) = fast_decimal(page.as_bytes(), 0) {
                assert_eq!(end, text.len(), "{page:?}");
                assert_eq!(Ok(v.to_bits()), expected.clone().map(f64::to_bits), "{page:?}");
            }
        }
        if let Ok(v) = expected
            && v.is_finite()
        {
            assert_eq!(parse_float(text.as_bytes()).map(f64::to_bits), Ok(v.to_bits()), "{text}");
        }
    }

    #[test]
    fn usual_values_take_the_fast_path() {
        for text in [
            "0",
            "1",
            "-1",
            "12345678",
            "1234567890.123",
            "1.6094e+09",
            "3e-05",
            "0.1",
            "9007199254740991",
            "-0",
            "1e5",
            "0e99",
        ] {
            assert!(fast_decimal(text.as_bytes(), 0).is_some(), "{text}");
            check_fast(text);
        }
        for text in [
            "NaN",
            "+Inf",
            "1e",
            "1e+",
            "--1",
            "",
            "-",
            ".",
            "1.2.3",
            "1x",
            "9007199254740993",
            "1e23",
            "1e99999",
            "12345678901234567890123",
        ] {
            assert_eq!(fast_decimal(format!("{text}\n").as_bytes(), 0), None, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn same_bits_as_std(bits in any::<u64>()) {
            let v = f64::from_bits(bits);
            if v.is_finite() {
                check_fast(&format!("{v}"));
                check_fast(&format!("{v:e}"));
            }
        }

        #[test]
        fn same_bits_for_decimals(m in any::<i64>(), shift in 0u32..63, scale in 0usize..24, exponent in -40i32..40) {
            let m = m >> shift;
            let digits = m.unsigned_abs().to_string();
            let padded = format!("{digits:0>width$}", width = scale + 1);
            let (whole, fraction) = padded.split_at(padded.len() - scale);
            let sign = if m < 0 { "-" } else { "" };
            check_fast(&format!("{sign}{whole}.{fraction}"));
            check_fast(&format!("{sign}{digits}e{exponent}"));
            check_fast(&format!("{sign}{whole}.{fraction}E{exponent:+}"));
        }

        #[test]
        fn never_reads_what_std_does_not(text in "[-+0-9.eE]{0,24}") {
            check_fast(&text);
        }
    }
}
