//! Floats as Go prints and reads them.

/// A sample's value as the HTTP API writes it: Go's `strconv.FormatFloat(v, 'f', -1, 64)`, with `+Inf`, `-Inf`, `NaN`.
pub fn format_value(v: f64) -> String {
    let mut out = String::new();
    write_value(&mut out, v);
    out
}

/// Appends what [`format_value`] returns.
pub fn write_value(out: &mut String, v: f64) {
    use std::fmt::Write;
    if v.is_nan() {
        out.push_str("NaN");
    } else if v.is_infinite() {
        out.push_str(if v > 0.0 { "+Inf" } else { "-Inf" });
    } else {
        let _ = write!(out, "{v}");
    }
}

/// A float as Go's `strconv.FormatFloat(v, 'g', -1, 64)`, `%g` and `%v` write it: shortest digits, an exponent below
/// 1e-4 and from 1e6 on.
pub fn format_g(v: f64) -> String {
    if v.is_nan() {
        return "NaN".into();
    }
    if v.is_infinite() {
        return if v > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let digits = format!("{v:e}");
    let (mantissa, exponent) = digits.split_once('e').unwrap_or((&digits, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if v != 0.0 && !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    format!("{v}")
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
}
