//! Reads parameters of requests as Go's `net/http` and Prometheus's API do: forms and URLs merged, times, durations.

use jiff::civil::Date;
use narthex_model::{duration, gomath};

/// Values by name in order. Of equal names the first counts where one is asked for.
#[derive(Clone, Debug, Default)]
pub struct Form {
    pairs: Vec<(String, String)>,
    /// The first pair that could not be decoded, as Go words it. Handlers that Prometheus lets parse the form by
    /// itself refuse the request then; the others use what is left.
    pub fault: Option<String>,
}

impl Form {
    /// Decodes `a=1&b=2`. What can't be decoded is left out and noted in `fault`.
    pub fn parse(text: &str) -> Form {
        let mut form = Form::default();
        form.extend(text);
        form
    }

    /// Names and values as they came.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Adds what `text` holds behind what is there.
    pub fn extend(&mut self, text: &str) {
        for pair in text.split('&') {
            if pair.is_empty() {
                continue;
            }
            if pair.contains(';') {
                self.fault.get_or_insert_with(|| "invalid semicolon separator in query".into());
                continue;
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match unescape(name).and_then(|n| Ok((n, unescape(value)?))) {
                Ok(pair) => self.pairs.push(pair),
                Err(fault) => {
                    self.fault.get_or_insert(fault);
                }
            }
        }
    }

    /// Adds a value.
    pub fn push(&mut self, name: String, value: String) {
        self.pairs.push((name, value));
    }

    /// The first value of that name, or the empty string.
    pub fn get(&self, name: &str) -> &str {
        self.pairs.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }

    /// All values of that name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn has(&self, name: &str) -> bool {
        self.pairs.iter().any(|(n, _)| n == name)
    }
}

/// Go's `url.QueryUnescape`. Bytes that are not UTF-8 become U+FFFD.
fn unescape(text: &str) -> Result<String, String> {
    if !text.contains(['%', '+']) {
        return Ok(text.to_owned());
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'+' => out.push(b' '),
            b'%' => {
                let digit = |at: usize| bytes.get(at).and_then(|b| (*b as char).to_digit(16));
                let (Some(high), Some(low)) = (digit(i + 1), digit(i + 2)) else {
                    let bad = String::from_utf8_lossy(&bytes[i..bytes.len().min(i + 3)]);
                    return Err(format!("invalid URL escape {}", narthex_model::labels::quote(&bad)));
                };
                out.push((high * 16 + low) as u8);
                i += 2;
            }
            b => out.push(b),
        }
        i += 1;
    }
    Ok(String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

/// A moment as Go's `time.Time` has it: seconds and nanoseconds (0 to 999,999,999) since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    pub secs: i64,
    pub nanos: u32,
}

/// The default start of optional ranges: near the beginning of what 64 bits of milliseconds can hold.
pub const MIN_TIME: Time = Time { secs: i64::MIN / 1000 + 62_135_596_801, nanos: 0 };
/// The default end.
pub const MAX_TIME: Time = Time { secs: i64::MAX / 1000 - 62_135_596_801, nanos: 999_999_999 };

const MIN_TIME_TEXT: &str = "-292273086-05-16T16:47:06Z";
const MAX_TIME_TEXT: &str = "292277025-08-18T07:12:54.999999999Z";

impl Time {
    pub fn now() -> Time {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Time { secs: now.as_secs() as i64, nanos: now.subsec_nanos() }
    }

    /// Milliseconds since the epoch; like Go's, the product wraps around far outside of the years 1 to 9999.
    pub fn ms(self) -> i64 {
        self.secs.wrapping_mul(1000).wrapping_add(i64::from(self.nanos / 1_000_000))
    }

    /// The same as the engine reckons: of nanoseconds, which wrap around outside of the years 1678 to 2262, and towards
    /// zero.
    pub fn engine_ms(self) -> i64 {
        self.secs.wrapping_mul(1_000_000_000).wrapping_add(i64::from(self.nanos)) / 1_000_000
    }

    /// The span between two moments in ns, cut to what an `i64` holds.
    pub fn since(self, earlier: Time) -> i64 {
        let nanos = |t: Time| i128::from(t.secs) * 1_000_000_000 + i128::from(t.nanos);
        (nanos(self) - nanos(earlier)).clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
    }
}

/// Go's `strconv.ParseFloat(s, 64)` for decimal numbers; out of range is an error.
pub fn parse_float(s: &str) -> Option<f64> {
    let unsigned = s.strip_prefix(['+', '-']).unwrap_or(s);
    let lower = unsigned.to_ascii_lowercase();
    if matches!(lower.as_str(), "inf" | "infinity") {
        return Some(if s.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY });
    }
    if lower == "nan" {
        return (s.len() == 3).then_some(f64::NAN);
    }
    if !unsigned.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-' | b'_')) {
        return None;
    }
    let plain = if s.contains('_') {
        let bytes = unsigned.as_bytes();
        let digit = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_digit);
        let well_placed = |i: usize| bytes[i] != b'_' || i > 0 && digit(i - 1) && digit(i + 1);
        if !(0..bytes.len()).all(well_placed) {
            return None;
        }
        s.replace('_', "")
    } else {
        s.to_owned()
    };
    plain.parse::<f64>().ok().filter(|v| v.is_finite())
}

/// A Unix time in seconds or an RFC 3339 time.
///
/// # Errors
/// In Prometheus's words.
pub fn parse_time(s: &str) -> Result<Time, String> {
    if let Some(t) = parse_float(s) {
        let (whole, fraction) = (t.trunc(), t - t.trunc());
        let fraction = (fraction * 1000.0).round() / 1000.0;
        let (secs, nanos) = (gomath::to_i64(whole), gomath::to_i64(fraction * 1e9));
        if nanos == i64::MIN {
            // NaN and infinities: what Go makes of the least integers.
            return Ok(if t.is_finite() {
                Time { secs, nanos: 0 }
            } else {
                Time { secs: -9_223_372_037, nanos: 146_000_000 }
            });
        }
        let carry = nanos.div_euclid(1_000_000_000);
        return Ok(Time { secs: secs.wrapping_add(carry), nanos: nanos.rem_euclid(1_000_000_000) as u32 });
    }
    if let Some(t) = parse_rfc3339(s) {
        return Ok(t);
    }
    match s {
        MIN_TIME_TEXT => Ok(MIN_TIME),
        MAX_TIME_TEXT => Ok(MAX_TIME),
        _ => Err(format!("cannot parse {} to a valid timestamp", narthex_model::labels::quote(s))),
    }
}

fn parse_rfc3339(s: &str) -> Option<Time> {
    let bytes = s.as_bytes();
    let number = |from: usize, to: usize| -> Option<i64> {
        let part = bytes.get(from..to)?;
        part.iter().all(u8::is_ascii_digit).then(|| part.iter().fold(0, |n, b| n * 10 + i64::from(b - b'0')))
    };
    let at = |i: usize, expected: u8| bytes.get(i) == Some(&expected);
    if !(at(4, b'-') && at(7, b'-') && at(10, b'T') && at(13, b':') && at(16, b':')) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let mut i = 19;
    let mut nanos = 0u32;
    if matches!(bytes.get(i), Some(b'.' | b',')) {
        i += 1;
        let start = i;
        let mut scale = 100_000_000;
        while let Some(b) = bytes.get(i).filter(|b| b.is_ascii_digit()) {
            nanos += u32::from(b - b'0') * scale;
            scale /= 10;
            i += 1;
        }
        if i == start {
            return None;
        }
    }
    let offset = match bytes.get(i)? {
        b'Z' if i + 1 == bytes.len() => 0,
        sign @ (b'+' | b'-') if i + 6 == bytes.len() && at(i + 3, b':') => {
            let (hours, minutes) = (number(i + 1, i + 3)?, number(i + 4, i + 6)?);
            if hours > 24 || minutes >= 60 {
                return None;
            }
            let seconds = hours * 3600 + minutes * 60;
            if *sign == b'-' { -seconds } else { seconds }
        }
        _ => return None,
    };
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let date = Date::new(year as i16, month as i8, day as i8).ok()?;
    let days = date.duration_since(Date::constant(1970, 1, 1)).as_secs();
    Some(Time { secs: days + hour * 3600 + minute * 60 + second - offset, nanos })
}

/// A duration in ns: seconds as a number, or Prometheus's notation.
///
/// # Errors
/// In Prometheus's words.
pub fn parse_duration(s: &str) -> Result<i64, String> {
    let quoted = || narthex_model::labels::quote(s);
    if let Some(seconds) = parse_float(s) {
        let nanos = seconds * 1e9;
        if nanos > i64::MAX as f64 || nanos < i64::MIN as f64 {
            return Err(format!("cannot parse {} to a valid duration. It overflows int64", quoted()));
        }
        return Ok(gomath::to_i64(nanos));
    }
    let parsed = duration::parse(s).ok().and_then(|d| i64::try_from(d.as_nanos()).ok());
    parsed.ok_or_else(|| format!("cannot parse {} to a valid duration", quoted()))
}

/// Go's `strconv.Atoi`.
///
/// # Errors
/// In Go's words.
pub fn atoi(s: &str) -> Result<i64, String> {
    let fault = |what: &str| format!("strconv.Atoi: parsing {}: {what}", narthex_model::labels::quote(s));
    let digits = s.strip_prefix(['+', '-']).unwrap_or(s);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(fault("invalid syntax"));
    }
    s.parse().map_err(|_| fault("value out of range"))
}

/// The `limit` parameter; 0 is none.
///
/// # Errors
/// In Prometheus's words.
pub fn parse_limit(s: &str) -> Result<usize, String> {
    if s.is_empty() {
        return Ok(0);
    }
    let limit = atoi(s)?;
    usize::try_from(limit).map_err(|_| "limit must be non-negative".into())
}

/// Go's `strconv.ParseBool`.
///
/// # Errors
/// In Go's words.
pub fn parse_bool(s: &str) -> Result<bool, String> {
    match s {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {}: invalid syntax", narthex_model::labels::quote(s))),
    }
}

/// Undoes the `U__` escaping of names in paths (`U__a_2e_b` is `a.b`); other names, and wrongly escaped ones, stay.
pub fn unescape_name(name: &str) -> String {
    let Some(escaped) = name.strip_prefix("U__") else { return name.to_owned() };
    let bytes = escaped.as_bytes();
    let mut out = String::new();
    let mut i = 0;
    while i < bytes.len() {
        if bytes[i] != b'_' {
            let Some(c) = escaped[i..].chars().next() else { return name.to_owned() };
            out.push(c);
            i += c.len_utf8();
            continue;
        }
        i += 1;
        if bytes.get(i) == Some(&b'_') {
            out.push('_');
            i += 1;
            continue;
        }
        let Some(len) = bytes[i..].iter().take(7).position(|b| *b == b'_') else { return name.to_owned() };
        let hex = &escaped[i..i + len];
        let code = if hex.is_empty() || hex.contains('+') { None } else { u32::from_str_radix(hex, 16).ok() };
        match code.and_then(char::from_u32) {
            Some(c) => out.push(c),
            None => return name.to_owned(),
        }
        i += len + 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let mut form = Form::parse("query=a%2Bb+c&match[]=x&match[]=y&&bare");
        form.extend("query=late&z=1");
        assert_eq!((form.get("query"), form.get("z"), form.get("bare"), form.has("bare")), ("a+b c", "1", "", true));
        assert_eq!(form.all("match[]").collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(Form::parse("a=%zz&b=1").fault.as_deref(), Some("invalid URL escape \"%zz\""));
        assert_eq!(Form::parse("a=1;b=2").fault.as_deref(), Some("invalid semicolon separator in query"));
        assert_eq!(Form::parse("a=%zz&b=1").get("b"), "1");
    }

    #[test]
    fn times() {
        for (text, ms) in [
            ("1435781451.781", 1_435_781_451_781),
            ("1435781451", 1_435_781_451_000),
            ("-1.5", -1_500),
            ("1e3", 1_000_000),
            ("0.0004", 0),
            ("1795350219474", 1_795_350_219_474_000),
            ("2015-07-01T20:10:51.781Z", 1_435_781_451_781),
            ("2015-07-01T22:10:51.781+02:00", 1_435_781_451_781),
            ("2015-06-30T00:00:00Z", 1_435_622_400_000),
            ("1969-12-31T23:59:59.5Z", -500),
            ("0000-02-29T00:00:00Z", -62_162_121_600_000),
            ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
        ] {
            assert_eq!(parse_time(text).map(Time::ms), Ok(ms), "{text}");
        }
        for text in [
            "",
            "now",
            "2015-07-01",
            "2015-02-29T00:00:00Z",
            "2015-00-01T00:00:00Z",
            "2015-13-01T00:00:00Z",
            "2015-04-31T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2015-07-01T20:10:51.781",
            "2015-07-01t20:10:51Z",
            "1e400",
            "0x10",
        ] {
            let expected = format!("cannot parse {text:?} to a valid timestamp");
            assert_eq!(parse_time(text), Err(expected));
        }
        assert_eq!(parse_time(MIN_TIME_TEXT), Ok(MIN_TIME));
        let epoch = Time { secs: 0, nanos: 0 };
        assert!(MIN_TIME < epoch && MAX_TIME > epoch);
    }

    #[test]
    fn durations() {
        for (text, ms) in [
            ("5", 5_000),
            ("0.5", 500),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("1d2h3m4s5ms", 93_784_005),
            ("-3", -3_000),
        ] {
            assert_eq!(parse_duration(text), Ok(ms * 1_000_000), "{text}");
        }
        for text in ["", "abc", "5x", "1m1h", "1m1m", "m", "-5m"] {
            assert_eq!(parse_duration(text), Err(format!("cannot parse {text:?} to a valid duration")));
        }
        assert!(parse_duration("1e20").unwrap_err().ends_with("It overflows int64"));
    }

    #[test]
    fn names_are_unescaped() {
        for (name, expected) in [
            ("U__foo_2e_bar", "foo.bar"),
            ("U__foo__bar", "foo_bar"),
            ("U__a_1f600_", "a😀"),
            ("plain", "plain"),
            ("U__bad_zz_", "U__bad_zz_"),
            ("U__bad_2e", "U__bad_2e"),
        ] {
            assert_eq!(unescape_name(name), expected);
        }
    }

    #[test]
    fn limits() {
        assert_eq!(parse_limit("12"), Ok(12));
        assert_eq!(parse_limit("-1"), Err("limit must be non-negative".into()));
        assert_eq!(parse_limit("x"), Err("strconv.Atoi: parsing \"x\": invalid syntax".into()));
        assert_eq!(
            parse_limit("99999999999999999999"),
            Err("strconv.Atoi: parsing \"99999999999999999999\": value out of range".into())
        );
    }
}
