//! Sizes in bytes: `512KB`, `1MiB`, `10MB`; every unit is a power of 1024.

use std::fmt;

use crate::yaml::decode::Fault;
use crate::yaml::{Context, Node, Out, Yaml};

/// A number of bytes; 0 where it means "no limit". Negative values can be written, and are refused where they make
/// no sense.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub i64);

impl ByteSize {
    /// As a limit: `None` for no limit.
    pub fn limit(self) -> Option<u64> {
        u64::try_from(self.0).ok().filter(|n| *n > 0)
    }

    /// # Errors
    /// When the text is no number with a unit; the message is Prometheus's.
    pub fn parse(text: &str) -> Result<ByteSize, String> {
        let invalid = || format!("units: invalid {text}");
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(ByteSize(0));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total = 0f64;
        // `1KiB1MB` is refused: one text uses one spelling of units.
        let mut long_units = None;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
            let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
            rest = &rest[digits..];
            let len = rest.bytes().take_while(|b| !b.is_ascii_digit() && *b != b'.').count();
            let (unit, after) = rest.split_at(len);
            let unknown = || format!("units: unknown unit {unit} in {text}");
            let exponent = match unit {
                "B" => 0,
                _ => {
                    let prefix = unit.chars().next().and_then(|c| "KMGTPE".find(c)).ok_or_else(unknown)?;
                    let long = match &unit[1..] {
                        "iB" => true,
                        "B" => false,
                        _ => return Err(unknown()),
                    };
                    if *long_units.get_or_insert(long) != long {
                        return Err(unknown());
                    }
                    prefix as i32 + 1
                }
            };
            total += number * 1024f64.powi(exponent);
            rest = after;
        }
        let total = if negative { -total } else { total };
        if !(i64::MIN as f64..i64::MAX as f64).contains(&total) {
            return Err("units: overflow parsing unit".into());
        }
        Ok(ByteSize(total as i64))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0B");
        }
        let mut parts = Vec::new();
        let mut rest = self.0;
        for unit in ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
            if rest % 1024 != 0 {
                parts.push(format!("{}{unit}", rest % 1024));
            }
            rest /= 1024;
        }
        parts.reverse();
        f.write_str(&parts.concat())
    }
}

impl Yaml for ByteSize {
    const GO_TYPE: &'static str = "units.Base2Bytes";

    fn zero() -> Self {
        ByteSize(0)
    }

    fn is_zero(&self) -> bool {
        self.0 == 0
    }

    fn decode(node: &Node, cx: &mut Context) -> Result<Self, Fault> {
        let text = String::decode(node, cx)?;
        ByteSize::parse(&text).map_err(|message| cx.fault(node, message))
    }

    fn print(&self) -> Out {
        Out::Text(self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_and_printed() {
        for (text, bytes, printed) in [
            ("0", 0, "0B"),
            ("15MB", 15 << 20, "15MiB"),
            ("1KiB", 1024, "1KiB"),
            ("1.5KB", 1536, "1KiB512B"),
            ("1GiB10MiB", (1 << 30) + (10 << 20), "1GiB10MiB"),
            ("-1GiB", -(1 << 30), "-1GiB"),
            ("100B", 100, "100B"),
        ] {
            let size = ByteSize::parse(text).unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, printed), "{text}");
        }
    }

    #[test]
    fn refused() {
        for (text, message) in [
            ("100", "units: unknown unit  in 100"),
            ("1kB", "units: unknown unit kB in 1kB"),
            ("", "units: invalid "),
            ("MB", "units: invalid MB"),
            ("1é", "units: unknown unit é in 1é"),
            ("100EiB", "units: overflow parsing unit"),
        ] {
            assert_eq!(ByteSize::parse(text).unwrap_err(), message, "{text}");
        }
    }
}
