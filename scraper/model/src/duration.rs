//! Durations as Prometheus writes them: `1h30m`, `15s`, `90d`; units from large to small, a year has 365 days.

use std::fmt::Write;
use std::time::Duration;

use crate::labels::quote;

/// A text that is no duration; the message is Prometheus's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DurationError(String);

const UNITS: [(&str, u64); 7] = [
    ("y", 365 * 24 * 3600 * 1000),
    ("w", 7 * 24 * 3600 * 1000),
    ("d", 24 * 3600 * 1000),
    ("h", 3600 * 1000),
    ("m", 60 * 1000),
    ("s", 1000),
    ("ms", 1),
];

/// Reads a duration of up to about 292 years, with millisecond resolution; `0` needs no unit.
///
/// # Errors
/// When the text is empty, has an unknown unit, repeats or disorders units, or is too long a time.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let invalid = || DurationError(format!("not a valid duration string: {}", quote(text)));
    let out_of_range = || DurationError("duration out of range".into());
    match text {
        "0" => return Ok(Duration::ZERO),
        "" => return Err(DurationError("empty duration string".into())),
        _ => {}
    }
    const MAX_MS: u64 = (i64::MAX / 1_000_000) as u64;
    let mut rest = text;
    let mut total: u64 = 0;
    let mut next_unit = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return Err(invalid());
        }
        let (number, after) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| invalid())?;
        let len = after.bytes().take_while(|b| !b.is_ascii_digit()).count();
        if len == 0 {
            return Err(invalid());
        }
        let (unit, after) = after.split_at(len);
        let position = UNITS
            .iter()
            .position(|(name, _)| *name == unit)
            .ok_or_else(|| DurationError(format!("unknown unit {} in duration {}", quote(unit), quote(text))))?;
        if position < next_unit {
            return Err(invalid());
        }
        next_unit = position + 1;
        total = number
            .checked_mul(UNITS[position].1)
            .and_then(|ms| total.checked_add(ms))
            .filter(|ms| *ms <= MAX_MS)
            .ok_or_else(out_of_range)?;
        rest = after;
    }
    Ok(Duration::from_millis(total))
}

/// Prints a duration, cut to milliseconds, as [`parse`] reads it.
pub fn format(duration: Duration) -> String {
    let mut ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if ms == 0 {
        return "0s".into();
    }
    let mut out = String::new();
    for (unit, length) in UNITS {
        // Years and weeks only where nothing remains: 90d reads better than 12w6d.
        if matches!(unit, "y" | "w") && ms % length != 0 {
            continue;
        }
        if ms >= length {
            let _ = write!(out, "{}{unit}", ms / length);
            ms %= length;
        }
    }
    out
}

/// Milliseconds as Go prints a duration: `2h0m0s`.
pub fn format_go(ms: i64) -> String {
    let (sign, ms) = (if ms < 0 { "-" } else { "" }, ms.unsigned_abs());
    let (hours, minutes, rest) = (ms / 3_600_000, ms / 60_000 % 60, ms % 60_000);
    let fraction = format!("{:03}", rest % 1000);
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    let seconds = format!("{}{point}{fraction}s", rest / 1000);
    match (hours, minutes) {
        (0, 0) if ms == 0 => "0s".into(),
        (0, 0) if ms < 1000 => format!("{sign}{ms}ms"),
        (0, 0) => format!("{sign}{seconds}"),
        (0, _) => format!("{sign}{minutes}m{seconds}"),
        _ => format!("{sign}{hours}h{minutes}m{seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_and_printed() {
        for (text, ms, printed) in [
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
            ("324ms", 324, "324ms"),
            ("3s", 3000, "3s"),
            ("5m", 300_000, "5m"),
            ("1h", 3_600_000, "1h"),
            ("4d", 345_600_000, "4d"),
            ("4d1h", 349_200_000, "4d1h"),
            ("14d", 1_209_600_000, "2w"),
            ("3w", 1_814_400_000, "3w"),
            ("3w2d1h", 1_990_800_000, "23d1h"),
            ("8y", 252_288_000_000, "8y"),
            ("1m30s1ms", 90_001, "1m30s1ms"),
            ("60s", 60_000, "1m"),
        ] {
            let parsed = parse(text).unwrap();
            assert_eq!((parsed.as_millis(), format(parsed).as_str()), (ms, printed), "{text}");
        }
    }

    #[test]
    fn refused() {
        for (text, message) in [
            ("", "empty duration string"),
            ("1", "not a valid duration string: \"1\""),
            ("-1h", "not a valid duration string: \"-1h\""),
            ("1.5d", "unknown unit \".\" in duration \"1.5d\""),
            ("d", "not a valid duration string: \"d\""),
            ("294y", "duration out of range"),
            ("1s1m", "not a valid duration string: \"1s1m\""),
            ("1s1s", "not a valid duration string: \"1s1s\""),
            ("5parsecs", "unknown unit \"parsecs\" in duration \"5parsecs\""),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), message, "{text}");
        }
    }

    #[test]
    fn as_go_prints_them() {
        for (ms, expected) in [
            (0, "0s"),
            (7, "7ms"),
            (500, "500ms"),
            (1500, "1.5s"),
            (15_000, "15s"),
            (60_000, "1m0s"),
            (3_600_000, "1h0m0s"),
            (7_200_000, "2h0m0s"),
            (-3_600_001, "-1h0m0.001s"),
        ] {
            assert_eq!(format_go(ms), expected);
        }
    }
}
