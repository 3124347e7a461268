//! Histograms as text: as PromQL prints them, and the notation of test scripts and rule tests.

use std::fmt;

use super::layout::indexed;
use super::{Bucket, CUSTOM_BUCKETS_SCHEMA, CounterResetHint, Histogram, Span};
use crate::number::format_g;

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = if self.lower_inclusive { '[' } else { '(' };
        let close = if self.upper_inclusive { ']' } else { ')' };
        write!(f, "{open}{},{}{close}:{}", format_g(self.lower), format_g(self.upper), format_g(self.count))
    }
}

/// `{count:3, sum:5, [-0.5,-0.25):1, …}` with the populated buckets in ascending order.
impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{count:{}, sum:{}", format_g(self.count), format_g(self.sum))?;
        let mut negative: Vec<Bucket> = self.negative().filter(|b| b.count != 0.0).collect();
        negative.reverse();
        for bucket in negative {
            write!(f, ", {bucket}")?;
        }
        if self.zero_count != 0.0 && !self.uses_custom_buckets() {
            write!(f, ", {}", self.zero_bucket())?;
        }
        for bucket in self.positive().filter(|b| b.count != 0.0) {
            write!(f, ", {bucket}")?;
        }
        f.write_str("}")
    }
}

impl Histogram {
    /// The notation of test scripts and rule tests: `{{schema:1 count:4 sum:2.5 buckets:[1 0 3]}}`. What is zero is
    /// left out.
    pub fn test_expression(&self) -> String {
        let mut parts: Vec<String> = Vec::new();
        if self.schema != 0 {
            parts.push(format!("schema:{}", self.schema));
        }
        for (name, value) in [
            ("count", self.count),
            ("sum", self.sum),
            ("z_bucket", self.zero_count),
            ("z_bucket_w", self.zero_threshold),
        ] {
            if value != 0.0 {
                parts.push(format!("{name}:{}", format_g(value)));
            }
        }
        let list = |values: &[f64]| values.iter().map(|v| format_g(*v)).collect::<Vec<_>>().join(" ");
        if self.uses_custom_buckets() {
            parts.push(format!("custom_values:[{}]", list(&self.custom_values)));
        }
        match self.counter_reset_hint {
            CounterResetHint::Unknown => {}
            CounterResetHint::CounterReset => parts.push("counter_reset_hint:reset".into()),
            CounterResetHint::NotCounterReset => parts.push("counter_reset_hint:not_reset".into()),
            CounterResetHint::Gauge => parts.push("counter_reset_hint:gauge".into()),
        }
        for (spans, buckets, offset, name) in [
            (&self.positive_spans, &self.positive_buckets, "offset", "buckets"),
            (&self.negative_spans, &self.negative_buckets, "n_offset", "n_buckets"),
        ] {
            let populated: Vec<(i32, f64)> = indexed(spans, buckets).filter(|(_, v)| *v != 0.0).collect();
            let (Some(first), Some(last)) = (populated.first(), populated.last()) else { continue };
            if first.0 != 0 {
                parts.push(format!("{offset}:{}", first.0));
            }
            // A gap that nobody would write out is cut; such a histogram has no notation.
            let width = (i64::from(last.0) - i64::from(first.0)).clamp(0, 10_000) as usize + 1;
            let mut dense = vec![0.0; width];
            for (index, value) in &populated {
                if let Some(slot) = dense.get_mut((index - first.0) as usize) {
                    *slot = *value;
                }
            }
            parts.push(format!("{name}:[{}]", list(&dense)));
        }
        format!("{{{{{}}}}}", parts.join(" "))
    }

    /// Reads that notation. Returns the histogram and whether it names a counter reset hint.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse_test_expression(text: &str) -> Result<(Histogram, bool), String> {
        let inner = text
            .trim()
            .strip_prefix("{{")
            .and_then(|t| t.strip_suffix("}}"))
            .ok_or_else(|| format!("histogram has to stand in double braces: {text}"))?;
        let mut h = Histogram::default();
        let (mut hinted, mut offsets) = (false, [0i32; 2]);
        let mut rest = inner.trim();
        while !rest.is_empty() {
            let (key, after) = rest.split_once(':').ok_or_else(|| format!("missing colon in histogram: {rest}"))?;
            let (value, after) = if let Some(list) = after.strip_prefix('[') {
                list.split_once(']').ok_or_else(|| format!("missing bracket in histogram: {after}"))?
            } else {
                after.split_once(char::is_whitespace).unwrap_or((after, ""))
            };
            let float = || number(value);
            let int = || value.trim().parse::<i32>().map_err(|e| format!("bad {key} {value:?}: {e}"));
            let list = || value.split_whitespace().map(number).collect::<Result<Vec<f64>, String>>();
            match key.trim() {
                "schema" => h.schema = int()?,
                "sum" => h.sum = float()?,
                "count" => h.count = float()?,
                "z_bucket" => h.zero_count = float()?,
                "z_bucket_w" => h.zero_threshold = float()?,
                "buckets" => h.positive_buckets = list()?,
                "n_buckets" => h.negative_buckets = list()?,
                "offset" => offsets[0] = int()?,
                "n_offset" => offsets[1] = int()?,
                "custom_values" => h.custom_values = list()?,
                "counter_reset_hint" => {
                    hinted = true;
                    h.counter_reset_hint = match value {
                        "unknown" => CounterResetHint::Unknown,
                        "reset" => CounterResetHint::CounterReset,
                        "not_reset" => CounterResetHint::NotCounterReset,
                        "gauge" => CounterResetHint::Gauge,
                        other => return Err(format!("unknown counter reset hint {other:?}")),
                    };
                }
                other => return Err(format!("bad histogram descriptor found: {other:?}")),
            }
            rest = after.trim_start();
        }
        let spans = |offset: i32, buckets: &[f64]| {
            if buckets.is_empty() { Vec::new() } else { vec![Span { offset, length: buckets.len() as u32 }] }
        };
        h.positive_spans = spans(offsets[0], &h.positive_buckets);
        h.negative_spans = spans(offsets[1], &h.negative_buckets);
        if !(-4..=8).contains(&h.schema) && h.schema != CUSTOM_BUCKETS_SCHEMA {
            return Err(format!("unknown schema {}", h.schema));
        }
        Ok((h, hinted))
    }
}

fn number(text: &str) -> Result<f64, String> {
    let text = text.trim();
    match text.trim_start_matches(['+', '-']).to_ascii_lowercase().as_str() {
        "inf" => Ok(if text.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY }),
        "nan" => Ok(f64::NAN),
        _ => text.parse().map_err(|e| format!("bad number {text:?}: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Histogram {
        Histogram::parse_test_expression(text).unwrap().0
    }

    #[test]
    fn prints() {
        for (text, expected) in [
            ("{{}}", "{count:0, sum:0}"),
            (
                "{{schema:0 count:10 sum:1e6 z_bucket:2 z_bucket_w:0.001 buckets:[1 0 2] offset:-1 n_buckets:[3 2]}}",
                "{count:10, sum:1e+06, [-2,-1):2, [-1,-0.5):3, [-0.001,0.001]:2, (0.25,0.5]:1, (1,2]:2}",
            ),
            (
                "{{schema:-53 count:3 sum:4 custom_values:[1 2.5] buckets:[1 1 1]}}",
                "{count:3, sum:4, [-Inf,1]:1, (1,2.5]:1, (2.5,+Inf]:1}",
            ),
        ] {
            assert_eq!(parse(text).to_string(), expected);
        }
    }

    #[test]
    fn notation_round_trips() {
        for text in [
            "{{}}",
            "{{schema:1 count:5 sum:3 z_bucket:1 z_bucket_w:0.01 counter_reset_hint:gauge offset:2 buckets:[1 0 3] n_buckets:[2]}}",
            "{{schema:-53 count:3 custom_values:[1 2.5] buckets:[1 1 1]}}",
        ] {
            assert_eq!(parse(text).test_expression(), text);
        }
        for bad in ["{}", "{{schema}}", "{{schema:x}}", "{{buckets:[1}}", "{{foo:1}}", "{{schema:9}}"] {
            assert!(Histogram::parse_test_expression(bad).is_err(), "{bad}");
        }
    }

    fn combined(op: &str, a: &str, b: &str) -> String {
        let (mut a, b) = (parse(a), parse(b));
        match op {
            "+" => a.add(&b).map(|_| ()).unwrap(),
            "-" => a.sub(&b).map(|_| ()).unwrap(),
            _ => {
                let mut c = None;
                a.kahan_add(&b, &mut c).unwrap();
                a.add(&c.unwrap()).unwrap();
            }
        }
        a.compact();
        a.test_expression()
    }

    #[test]
    fn arithmetic_reconciles_layouts() {
        for (op, a, b, expected) in [
            ("+", "{{count:1 buckets:[1]}}", "{{count:2 offset:2 buckets:[2]}}", "{{count:3 buckets:[1 0 2]}}"),
            ("-", "{{count:3 buckets:[1 2]}}", "{{count:2 offset:1 buckets:[2]}}", "{{count:1 buckets:[1]}}"),
            // Schema 1 is brought down to 0: indices 1 and 2 fall into 1.
            (
                "+",
                "{{schema:1 count:6 offset:1 buckets:[1 2 3]}}",
                "{{count:1 offset:1 buckets:[1]}}",
                "{{count:7 offset:1 buckets:[4 3]}}",
            ),
            // A wider zero bucket swallows what lies within.
            (
                "+",
                "{{count:3 z_bucket:1 z_bucket_w:0.001 offset:-1 buckets:[1 1]}}",
                "{{count:2 z_bucket:2 z_bucket_w:0.5}}",
                "{{count:5 z_bucket:4 z_bucket_w:0.5 buckets:[1]}}",
            ),
            // A threshold within a populated bucket moves up to its end.
            (
                "+",
                "{{count:3 z_bucket:1 z_bucket_w:0.001 offset:-1 buckets:[1 1]}}",
                "{{count:2 z_bucket:2 z_bucket_w:0.3}}",
                "{{count:5 z_bucket:4 z_bucket_w:0.5 buckets:[1]}}",
            ),
            (
                "+",
                "{{schema:-53 count:6 custom_values:[1 2 3] buckets:[1 2 3]}}",
                "{{schema:-53 count:3 custom_values:[1 3] buckets:[1 1 1]}}",
                "{{schema:-53 count:9 custom_values:[1 3] buckets:[2 6 1]}}",
            ),
        ] {
            assert_eq!(combined(op, a, b), expected, "{a} {op} {b}");
            if op == "+" {
                assert_eq!(combined("kahan", a, b), expected, "{a} {op} {b}");
            }
        }
        let (mut a, b) = (parse("{{count:1}}"), parse("{{schema:-53 count:1}}"));
        assert!(a.add(&b).is_err() && a.kahan_add(&b, &mut None).is_err());
    }

    #[test]
    fn resets() {
        for (before, after, expected) in [
            ("{{count:1 buckets:[1]}}", "{{count:2 buckets:[2]}}", false),
            ("{{count:1 buckets:[1]}}", "{{count:2 offset:1 buckets:[2]}}", true),
            ("{{count:1 buckets:[1 0]}}", "{{count:2 buckets:[1] z_bucket:1}}", false),
            ("{{count:3}}", "{{count:2}}", true),
            ("{{count:3}}", "{{count:2 counter_reset_hint:not_reset}}", false),
            ("{{count:3}}", "{{count:4 counter_reset_hint:reset}}", true),
            ("{{count:3}}", "{{schema:1 count:4}}", true),
            ("{{schema:1 count:3 offset:1 buckets:[1 2]}}", "{{count:3 offset:1 buckets:[3]}}", false),
            ("{{schema:1 count:3 offset:1 buckets:[1 2]}}", "{{count:3 offset:1 buckets:[2]}}", true),
            ("{{count:3 z_bucket:1 z_bucket_w:0.1}}", "{{count:3 z_bucket:1 z_bucket_w:0.01}}", true),
            ("{{count:3 buckets:[3]}}", "{{count:3 z_bucket:3 z_bucket_w:1}}", false),
            ("{{count:3 buckets:[3]}}", "{{count:3 z_bucket:3 z_bucket_w:0.9}}", true),
            (
                "{{schema:-53 count:3 custom_values:[1 2] buckets:[1 1 1]}}",
                "{{schema:-53 count:3 custom_values:[2] buckets:[2 1]}}",
                false,
            ),
            (
                "{{schema:-53 count:3 custom_values:[1 2] buckets:[1 1 1]}}",
                "{{schema:-53 count:4 custom_values:[2] buckets:[1 3]}}",
                true,
            ),
        ] {
            assert_eq!(parse(after).detect_reset(&parse(before)), expected, "{before} {after}");
        }
    }
}
