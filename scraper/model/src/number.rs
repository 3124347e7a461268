//! Floats as Go prints and reads them.

/// A sample's value as Go's `strconv.FormatFloat(v, 'f', -1, 64)` writes it, with `+Inf`, `-Inf`, `NaN`.
pub fn format_value(v: f64) -> String {
    let Some(digits) = Digits::new(v) else { return infinite(v).into() };
    let mut out = String::new();
    digits.fixed(&mut out);
    out
}

fn infinite(v: f64) -> &'static str {
    if v.is_nan() {
        "NaN"
    } else if v > 0.0 {
        "+Inf"
    } else {
        "-Inf"
    }
}

/// A float as Go's `strconv.FormatFloat(v, 'g', -1, 64)`, `%g` and `%v` write it: shortest digits, an exponent below
/// 1e-4 and from 1e6 on.
pub fn format_g(v: f64) -> String {
    let Some(digits) = Digits::new(v) else { return infinite(v).into() };
    let mut out = String::new();
    if v == 0.0 || (-4..6).contains(&(digits.scale - 1)) {
        digits.fixed(&mut out)
    } else {
        digits.exponential(&mut out)
    }
    out
}

/// A float as the HTTP API prints a sample's value: as [`format_value`], but with an exponent below 1e-6 and from 1e21
/// on.
pub fn format_json(v: f64) -> String {
    let Some(digits) = Digits::new(v) else { return infinite(v).into() };
    let mut out = String::new();
    if v == 0.0 || (1e-6..1e21).contains(&v.abs()) {
        digits.fixed(&mut out)
    } else {
        digits.exponential(&mut out)
    }
    out
}

/// The shortest digits that read as the float again, the even ones of two that are as near: 0.DIGITS times ten to the
/// power of `scale`. (Rust's own formatting takes the upper one of two.)
struct Digits {
    negative: bool,
    /// Without zeros in front or behind; a lone one for zero.
    digits: String,
    scale: i32,
}

impl Digits {
    /// None of infinities and NaN.
    fn new(v: f64) -> Option<Digits> {
        if !v.is_finite() {
            return None;
        }
        if v == 0.0 {
            return Some(Digits { negative: v.is_sign_negative(), digits: "0".into(), scale: 1 });
        }
        let mut buffer = zmij::Buffer::new();
        let text = buffer.format_finite(v.abs());
        let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
        let (whole, rest) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = [whole, rest].concat();
        let exponent: i32 = exponent.trim_start_matches('+').parse().unwrap_or(0);
        let trimmed = all.trim_start_matches('0');
        let scale = whole.len() as i32 + exponent - (all.len() - trimmed.len()) as i32;
        Some(Digits { negative: v < 0.0, digits: trimmed.trim_end_matches('0').to_owned(), scale })
    }

    fn sign(&self, out: &mut String) {
        if self.negative {
            out.push('-');
        }
    }

    fn fixed(&self, out: &mut String) {
        self.sign(out);
        let zeros = |out: &mut String, n: i32| out.extend(std::iter::repeat_n('0', n.max(0) as usize));
        let length = self.digits.len() as i32;
        if self.scale <= 0 {
            out.push_str("0.");
            zeros(out, -self.scale);
            out.push_str(&self.digits);
        } else if self.scale >= length {
            out.push_str(&self.digits);
            zeros(out, self.scale - length);
        } else {
            let (whole, rest) = self.digits.split_at(self.scale as usize);
            out.push_str(whole);
            out.push('.');
            out.push_str(rest);
        }
    }

    fn exponential(&self, out: &mut String) {
        use std::fmt::Write;
        self.sign(out);
        let (first, rest) = self.digits.split_at(1);
        out.push_str(first);
        if !rest.is_empty() {
            out.push('.');
            out.push_str(rest);
        }
        let exponent = self.scale - 1;
        let _ = write!(out, "e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_prints() {
        for (v, f, g) in [
            (0.0, "0", "0"),
            (-0.0, "-0", "-0"),
            (1e21, "1000000000000000000000", "1e+21"),
            (1e20, "100000000000000000000", "1e+20"),
            (1e6, "1000000", "1e+06"),
            (999999.5, "999999.5", "999999.5"),
            (1234567.5, "1234567.5", "1.2345675e+06"),
            (1.5e-7, "0.00000015", "1.5e-07"),
            (1e-4, "0.0001", "0.0001"),
            (123456.789, "123456.789", "123456.789"),
            (f64::INFINITY, "+Inf", "+Inf"),
            (f64::NEG_INFINITY, "-Inf", "-Inf"),
            (f64::NAN, "NaN", "NaN"),
            (5e-324, &format!("0.{}5", "0".repeat(323)), "5e-324"),
        ] {
            assert_eq!((format_value(v).as_str(), format_g(v).as_str()), (f, g));
        }
    }

    /// What Go prints: bits, and the forms 'f' and 'g'. Of ties it takes the even digit.
    const GO: &str = include_str!("number/go.txt");

    #[test]
    fn as_go_prints_many() {
        // `NARTHEX_GONUMBERS` names a file with more cases.
        let more = std::env::var("NARTHEX_GONUMBERS").ok().and_then(|path| std::fs::read_to_string(path).ok());
        for line in more.as_deref().unwrap_or(GO).lines() {
            let parts: Vec<&str> = line.split(' ').collect();
            let v = f64::from_bits(u64::from_str_radix(parts[0], 16).unwrap_or_default());
            assert_eq!((format_value(v).as_str(), format_g(v).as_str()), (parts[1], parts[2]), "{v:e}");
        }
    }

    #[test]
    fn as_the_api_prints() {
        for (v, text) in
            [(1e21, "1e+21"), (1e20, "100000000000000000000"), (1e-7, "1e-07"), (1e-6, "0.000001"), (-0.0, "-0")]
        {
            assert_eq!(format_json(v), text);
        }
    }
}
