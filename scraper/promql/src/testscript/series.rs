//! Series as test scripts and rule tests write them: `name{a="b"} 1 2+3x4 _ stale {{schema:0 count:1}}x2`.

use std::collections::BTreeMap;
use std::sync::Arc;

use narthex_model::{Histogram, Labels, LabelsBuilder, MatchType, stale_nan};
use narthex_storage::memory::MemoryStore;

use crate::value::Point;

/// One place of a series.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Place {
    /// None where nothing is (`_`).
    pub point: Option<Point>,
    /// Whether the text of a histogram names a counter reset hint.
    pub hinted: bool,
}

/// A series with its places.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    pub labels: Labels,
    pub places: Vec<Place>,
}

impl Description {
    /// Reads `<series> <values>`.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(line: &str) -> Result<Description, String> {
        let (metric, values) = split_metric(line)?;
        Ok(Description { labels: parse_metric(metric)?, places: parse_values(values)? })
    }
}

/// Cuts the series off the front of a line.
fn split_metric(line: &str) -> Result<(&str, &str), String> {
    let line = line.trim();
    let (mut depth, mut quote, mut escaped) = (0, None, false);
    for (i, c) in line.char_indices() {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some('"'), '\\') => escaped = true,
            (Some(q), c) if q == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '`' | '\'') if depth > 0 => quote = Some(c),
            (None, '{') => depth += 1,
            (None, '}') => depth -= 1,
            (None, c) if c.is_whitespace() && depth == 0 => {
                // A space may stand before the braces.
                let rest = line[i..].trim_start();
                if rest.starts_with('{') && !rest.starts_with("{{") && !line[..i].contains('{') {
                    continue;
                }
                return Ok((&line[..i], rest));
            }
            _ => {}
        }
    }
    Ok((line, ""))
}

/// The labels of a selector that only has `=` matchers.
///
/// # Errors
/// When it is none.
fn parse_metric(text: &str) -> Result<Labels, String> {
    let bare: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    if bare == "{}" || bare.is_empty() {
        return Ok(Labels::empty());
    }
    let matchers = crate::parser::parse_selector(text).map_err(|e| e.to_string())?;
    let mut builder = LabelsBuilder::new();
    for m in matchers {
        if m.match_type != MatchType::Equal {
            return Err(format!("{text}: only = is allowed in a series"));
        }
        builder.set(&*m.name, &*m.value);
    }
    Ok(builder.build())
}

/// A number; never hexadecimal, for `0x3` is four zeros.
pub fn number(text: &str) -> Option<f64> {
    let (negative, bare) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let value = match bare.to_ascii_lowercase().as_str() {
        "inf" => f64::INFINITY,
        "nan" => f64::NAN,
        other if other.starts_with(|c: char| c.is_ascii_digit() || c == '.') => other.parse().ok()?,
        _ => return None,
    };
    Some(if negative { -value } else { value })
}

/// A duration in milliseconds: `1h30m`, `15s`, `0`, or a plain number of seconds.
///
/// # Errors
/// When it is none.
pub fn duration(text: &str) -> Result<i64, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Ok((seconds * 1000.0).round() as i64);
    }
    narthex_model::duration::parse(text).map(|d| d.as_millis() as i64).map_err(|e| e.to_string())
}

fn signed_duration(text: &str) -> Result<i64, String> {
    match text.strip_prefix('-') {
        Some(rest) => Ok(-duration(rest)?),
        None => duration(text.strip_prefix('+').unwrap_or(text)),
    }
}

/// At most this many places come from one `xn`.
const MAX_REPEAT: usize = 100_000;

fn repeats(text: &str) -> Result<usize, String> {
    let n: usize = text.parse().map_err(|_| format!("bad number of repetitions {text:?}"))?;
    if n > MAX_REPEAT { Err(format!("too many repetitions: {n}")) } else { Ok(n) }
}

/// Reads values separated by white space.
///
/// # Errors
/// The first that is none.
fn parse_values(text: &str) -> Result<Vec<Place>, String> {
    let mut out = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = token_end(rest);
        let token = &rest[..end];
        rest = rest[end..].trim_start();
        if token.starts_with("{{") {
            parse_histograms(token, &mut out)?;
        } else {
            parse_floats(token, &mut out)?;
        }
    }
    Ok(out)
}

/// The end of the first token: at white space outside of double braces.
fn token_end(text: &str) -> usize {
    let (mut inside, mut i) = (false, 0);
    while i < text.len() {
        if text[i..].starts_with("{{") {
            inside = true;
            i += 2;
        } else if text[i..].starts_with("}}") {
            inside = false;
            i += 2;
        } else {
            let c = text[i..].chars().next().unwrap_or(' ');
            if c.is_whitespace() && !inside {
                return i;
            }
            i += c.len_utf8();
        }
    }
    text.len()
}

fn parse_floats(token: &str, out: &mut Vec<Place>) -> Result<(), String> {
    let float = |v: f64| Place { point: Some(Point::Float(v)), hinted: false };
    let bad = || format!("bad value {token:?}");
    if token == "stale" {
        out.push(float(stale_nan()));
        return Ok(());
    }
    if let Some(after) = token.strip_prefix('_') {
        let n = match after.strip_prefix('x') {
            Some(n) => repeats(n)?,
            None if after.is_empty() => 1,
            None => return Err(bad()),
        };
        out.resize(out.len() + n, Place::default());
        return Ok(());
    }
    if let Some(v) = number(token) {
        out.push(float(v));
        return Ok(());
    }
    let (values, n) = token.rsplit_once('x').ok_or_else(bad)?;
    let n = repeats(n)?;
    if let Some(v) = number(values) {
        out.extend((0..=n).map(|_| float(v)));
        return Ok(());
    }
    if let Some(v) = (values == "stale").then(stale_nan) {
        out.extend((0..=n).map(|_| float(v)));
        return Ok(());
    }
    let sign = values
        .char_indices()
        .skip(1)
        .filter(|(i, c)| matches!(c, '+' | '-') && !values[..*i].ends_with(['e', 'E']))
        .map(|(i, _)| i)
        .next()
        .ok_or_else(bad)?;
    let start = number(&values[..sign]).ok_or_else(bad)?;
    let step = number(&values[sign..]).ok_or_else(bad)?;
    let mut value = start;
    for _ in 0..=n {
        out.push(float(value));
        value += step;
    }
    Ok(())
}

fn parse_histograms(token: &str, out: &mut Vec<Place>) -> Result<(), String> {
    let close = |text: &str| text.find("}}").map(|i| i + 2).ok_or_else(|| format!("bad histogram {text:?}"));
    let end = close(token)?;
    let (first, hinted) = Histogram::parse_test_expression(&token[..end])?;
    let mut push = |h: Histogram, hinted: bool| {
        out.push(Place { point: Some(Point::Histogram(Arc::new(h))), hinted });
    };
    let rest = &token[end..];
    if rest.is_empty() {
        push(first, hinted);
        return Ok(());
    }
    if let Some(n) = rest.strip_prefix('x') {
        (0..=repeats(n)?).for_each(|_| push(first.clone(), hinted));
        return Ok(());
    }
    let (subtract, other) = match rest.strip_prefix('-') {
        Some(other) => (true, other),
        None => (false, rest.strip_prefix('+').ok_or_else(|| format!("bad histogram {token:?}"))?),
    };
    let end = close(other)?;
    let (step, hinted) = Histogram::parse_test_expression(&other[..end])?;
    let n = repeats(other[end..].strip_prefix('x').ok_or_else(|| format!("bad histogram {token:?}"))?)?;
    let mut value = first;
    push(value.clone(), hinted);
    for _ in 0..n {
        let outcome = if subtract { value.sub(&step) } else { value.add(&step) };
        outcome.map_err(|e| e.to_string())?;
        push(value.clone(), hinted);
    }
    Ok(())
}

/// Start timestamps as offsets from the samples' times: `-1m`, `_`, `_x3`, `-1mx2`, `-1m+1sx2`.
fn parse_offsets(text: &str) -> Result<Vec<Option<i64>>, String> {
    let mut out = Vec::new();
    for token in text.split_whitespace() {
        let bad = || format!("bad start timestamp {token:?}");
        if let Some(after) = token.strip_prefix('_') {
            let n = if after.is_empty() { 1 } else { repeats(after.strip_prefix('x').ok_or_else(bad)?)? };
            out.resize(out.len() + n, None);
            continue;
        }
        if let Ok(offset) = signed_duration(token) {
            out.push(Some(offset));
            continue;
        }
        let (values, n) = token.rsplit_once('x').ok_or_else(bad)?;
        let n = repeats(n)?;
        if let Ok(offset) = signed_duration(values) {
            out.extend((0..=n).map(|_| Some(offset)));
            continue;
        }
        let sign = values[1..].find(['+', '-']).ok_or_else(bad)? + 1;
        let (mut offset, step) = (signed_duration(&values[..sign])?, signed_duration(&values[sign..])?);
        for _ in 0..=n {
            out.push(Some(offset));
            offset += step;
        }
    }
    Ok(out)
}

/// A `load` command.
#[derive(Debug)]
pub struct Load {
    step: i64,
    with_nhcb: bool,
    series: Vec<Description>,
    /// Start timestamps as offsets, by series.
    starts: Vec<(Labels, Vec<Option<i64>>)>,
}

impl Load {
    pub(super) fn parse(first: &str, block: &[&str]) -> Result<Load, String> {
        let mut words = first.split_whitespace();
        let with_nhcb = match words.next() {
            Some(w) if w.eq_ignore_ascii_case("load") => false,
            Some(w) if w.eq_ignore_ascii_case("load_with_nhcb") => true,
            _ => return Err(format!("invalid load command {first:?}")),
        };
        let step = duration(words.next().ok_or("load needs a step")?)?;
        let mut load = Load { step, with_nhcb, series: Vec::new(), starts: Vec::new() };
        for line in block {
            let (metric, values) = split_metric(line)?;
            match metric.strip_suffix("@st") {
                Some(metric) => load.starts.push((parse_metric(metric)?, parse_offsets(values)?)),
                None => load.series.push(Description { labels: parse_metric(metric)?, places: parse_values(values)? }),
            }
        }
        Ok(load)
    }

    /// Puts the samples into a store.
    pub(super) fn store(&self, store: &MemoryStore) -> Result<(), String> {
        for series in &self.series {
            let starts = self.starts.iter().find(|(l, _)| *l == series.labels).map(|(_, s)| s);
            if starts.is_some_and(|s| s.len() != series.places.len()) {
                return Err(format!("{}: start timestamps and values differ in number", series.labels));
            }
            let mut previous: Option<Arc<Histogram>> = None;
            for (i, place) in series.places.iter().enumerate() {
                let t = i as i64 * self.step;
                let start = starts.and_then(|s| s[i]).map_or(0, |offset| t + offset);
                match &place.point {
                    Some(Point::Float(v)) => {
                        store.put(&series.labels, t, *v, start);
                        previous = None;
                    }
                    Some(Point::Histogram(h)) => {
                        let mut stored = (**h).clone();
                        stored.counter_reset_hint = h.stored_hint(previous.as_deref());
                        previous = Some(h.clone());
                        store.put_histogram(&series.labels, t, Arc::new(stored), start);
                    }
                    None => {}
                }
            }
        }
        if self.with_nhcb { self.store_nhcb(store) } else { Ok(()) }
    }

    /// Adds a native histogram with custom buckets for each classic histogram.
    fn store_nhcb(&self, store: &MemoryStore) -> Result<(), String> {
        #[derive(Default)]
        struct Parts {
            buckets: Vec<(f64, f64)>,
            count: Option<f64>,
            sum: f64,
        }
        let mut all: BTreeMap<Labels, BTreeMap<i64, Parts>> = BTreeMap::new();
        for series in &self.series {
            let name = series.labels.metric_name();
            let Some((base, kind)) =
                ["_bucket", "_sum", "_count"].iter().find_map(|s| Some((name.strip_suffix(s)?, *s)))
            else {
                continue;
            };
            let bound = match (kind, series.labels.get("le")) {
                ("_bucket", Some(le)) => match crate::functions::histogram::parse_le(le) {
                    Some(bound) if !bound.is_nan() => bound,
                    _ => continue,
                },
                ("_bucket", None) => return Err(format!("{}: a bucket without le", series.labels)),
                _ => 0.0,
            };
            let mut builder = series.labels.to_builder();
            builder.set(narthex_model::METRIC_NAME, base);
            builder.remove("le");
            let by_time = all.entry(builder.build()).or_default();
            for (i, place) in series.places.iter().enumerate() {
                let Some(Point::Float(v)) = &place.point else { continue };
                let parts = by_time.entry(i as i64 * self.step).or_default();
                match kind {
                    "_bucket" => parts.buckets.push((bound, *v)),
                    "_sum" => parts.sum = *v,
                    _ => parts.count = Some(*v),
                }
            }
        }
        for (labels, by_time) in all {
            let mut previous: Option<Arc<Histogram>> = None;
            for (t, mut parts) in by_time {
                parts.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
                let count = parts.count.or(parts.buckets.last().map(|b| b.1)).unwrap_or(0.0);
                if parts.buckets.last().is_none_or(|b| b.0 != f64::INFINITY) {
                    parts.buckets.push((f64::INFINITY, count));
                }
                let mut below = 0.0;
                let counts: Vec<f64> =
                    parts.buckets.iter().map(|(_, c)| c - std::mem::replace(&mut below, *c)).collect();
                let mut h = Histogram {
                    schema: narthex_model::histogram::CUSTOM_BUCKETS_SCHEMA,
                    count,
                    sum: parts.sum,
                    positive_spans: vec![narthex_model::Span { offset: 0, length: counts.len() as u32 }],
                    positive_buckets: counts,
                    custom_values: parts.buckets.iter().map(|b| b.0).filter(|b| b.is_finite()).collect(),
                    ..Histogram::default()
                };
                h.compact();
                let plain = Arc::new(h.clone());
                h.counter_reset_hint = plain.stored_hint(previous.as_deref());
                previous = Some(plain);
                store.put_histogram(&labels, t, Arc::new(h), 0);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(text: &str) -> Vec<Option<f64>> {
        parse_values(text)
            .unwrap()
            .into_iter()
            .map(|p| match p.point {
                Some(Point::Float(v)) => Some(v),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn values() {
        for (text, expected) in [
            ("1 -2.5 1e3 0x1", vec![Some(1.0), Some(-2.5), Some(1000.0), Some(0.0), Some(0.0)]),
            ("_ 1 _x2", vec![None, Some(1.0), None, None]),
            ("1x2", vec![Some(1.0); 3]),
            ("1+2x2", vec![Some(1.0), Some(3.0), Some(5.0)]),
            ("-1-1x1", vec![Some(-1.0), Some(-2.0)]),
            ("1e2+1x1", vec![Some(100.0), Some(101.0)]),
            ("Inf -Inf", vec![Some(f64::INFINITY), Some(f64::NEG_INFINITY)]),
        ] {
            assert_eq!(floats(text), expected, "{text}");
        }
        assert!(parse_values("abc").is_err() && parse_values("1x").is_err());
        assert_eq!(parse_values("{{count:1}}+{{count:2}}x2 {{}}").unwrap().len(), 4);
    }

    #[test]
    fn series() {
        for (text, labels, n) in [
            (r#"m{a="b c"} 1 2"#, r#"{__name__="m", a="b c"}"#, 2),
            (r#"{"utf8 name", "l.x"="y"} 1"#, r#"{__name__="utf8 name", "l.x"="y"}"#, 1),
            ("{} 1", "{}", 1),
            (r#"m {a="b"} {{count:1}}"#, r#"{__name__="m", a="b"}"#, 1),
            ("m {{count:1}}", r#"{__name__="m"}"#, 1),
        ] {
            let d = Description::parse(text).unwrap();
            assert_eq!((d.labels.to_string().as_str(), d.places.len()), (labels, n), "{text}");
        }
    }

    #[test]
    fn offsets() {
        assert_eq!(parse_offsets("-1m _ -1s+1sx1").unwrap(), [Some(-60_000), None, Some(-1000), Some(0)]);
    }
}
