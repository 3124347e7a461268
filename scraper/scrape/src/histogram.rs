//! What a scrape does to native histograms before they are stored: check, compact, reduce their resolution.

use narthex_model::Histogram;
use narthex_model::histogram::{CUSTOM_BUCKETS_SCHEMA, Span};

/// The coarsest and the finest exponential schema that is stored.
pub(crate) const SCHEMA_MIN: i32 = -4;
pub const SCHEMA_MAX: i32 = 8;
/// Schemas that are understood, and reduced where a factor is configured.
pub const RESERVED: std::ops::RangeInclusive<i32> = -9..=52;

/// Checks that hold for integer and float histograms alike, with Prometheus's messages.
///
/// # Errors
/// What contradicts itself.
pub fn validate(h: &Histogram) -> Result<(), String> {
    if h.schema == CUSTOM_BUCKETS_SCHEMA {
        custom_bounds(&h.custom_values, &h.positive_spans, h.positive_buckets.len())
            .map_err(|e| format!("custom buckets: {e}"))?;
        if h.zero_count != 0.0 {
            return Err("custom buckets: must have zero count of 0".into());
        }
        if h.zero_threshold != 0.0 {
            return Err("custom buckets: must have zero threshold of 0".into());
        }
        if !h.negative_spans.is_empty() {
            return Err("custom buckets: must not have negative spans".into());
        }
        if !h.negative_buckets.is_empty() {
            return Err("custom buckets: must not have negative buckets".into());
        }
    } else if (SCHEMA_MIN..=SCHEMA_MAX).contains(&h.schema) {
        spans(&h.positive_spans, h.positive_buckets.len()).map_err(|e| format!("positive side: {e}"))?;
        spans(&h.negative_spans, h.negative_buckets.len()).map_err(|e| format!("negative side: {e}"))?;
        buckets(&h.negative_buckets).map_err(|e| format!("negative side: {e}"))?;
        if h.zero_count < 0.0 {
            return Err(format!("zero bucket has observation count of {}: {NEGATIVE_BUCKET}", h.zero_count));
        }
        if !h.custom_values.is_empty() {
            return Err("histogram with exponential schema must not have custom bounds".into());
        }
    } else {
        return Err(format!(
            "histogram has an invalid schema, which must be between {SCHEMA_MIN} and {SCHEMA_MAX} for exponential \
             buckets, or {CUSTOM_BUCKETS_SCHEMA} for custom buckets, got schema {}",
            h.schema
        ));
    }
    if h.count < 0.0 {
        return Err(format!("observation count is  {}: histogram's observation count is negative", h.count));
    }
    buckets(&h.positive_buckets).map_err(|e| format!("positive side: {e}"))
}

/// Whether the count of an integer histogram is what its buckets hold, in the words of Prometheus.
///
/// # Errors
/// When it is not.
pub fn check_count(observations: u64, count: u64, sum: f64) -> Result<(), String> {
    let should = match sum.is_nan() {
        true if observations > count => "be at least the number of observations found in the buckets",
        false if observations != count => "equal the number of observations found in the buckets (in absence of NaN)",
        _ => return Ok(()),
    };
    Err(format!(
        "{observations} observations found in buckets, but the Count field is {count}: histogram's observation count \
         should {should}"
    ))
}

const NEGATIVE_BUCKET: &str = "histogram has a bucket whose observation count is negative";

fn buckets(counts: &[f64]) -> Result<(), String> {
    match counts.iter().position(|c| *c < 0.0) {
        Some(i) => Err(format!("bucket number {} has observation count of {}: {NEGATIVE_BUCKET}", i + 1, counts[i])),
        None => Ok(()),
    }
}

fn spans(spans: &[Span], buckets: usize) -> Result<(), String> {
    for (n, span) in spans.iter().enumerate() {
        if n > 0 && span.offset < 0 {
            return Err(negative_offset(n, span));
        }
    }
    let needed: u64 = spans.iter().map(|s| s.length as u64).sum();
    if needed != buckets as u64 {
        return Err(format!(
            "spans need {needed} buckets, have {buckets} buckets: histogram spans specify different number of buckets \
             than provided"
        ));
    }
    Ok(())
}

fn negative_offset(n: usize, span: &Span) -> String {
    format!("span number {} with offset {}: histogram has a span whose offset is negative", n + 1, span.offset)
}

fn custom_bounds(bounds: &[f64], spans: &[Span], buckets: usize) -> Result<(), String> {
    if bounds.iter().any(|b| b.is_nan()) {
        return Err("histogram custom bounds must not be NaN".into());
    }
    if let Some(pair) = bounds.windows(2).find(|p| p[1] <= p[0]) {
        return Err(format!(
            "previous bound is {:.6} and current is {:.6}: histogram custom bounds must be in strictly increasing order",
            pair[0], pair[1]
        ));
    }
    if bounds.last() == Some(&f64::INFINITY) {
        return Err("last +Inf bound must not be explicitly defined: histogram custom bounds must be finite".into());
    }
    if let Some((n, span)) = spans.iter().enumerate().find(|(_, s)| s.offset < 0) {
        return Err(negative_offset(n, span));
    }
    let length: u64 = spans.iter().map(|s| s.length as u64).sum();
    if length != buckets as u64 {
        return Err(format!(
            "spans need {length} buckets, have {buckets} buckets: histogram spans specify different number of buckets \
             than provided"
        ));
    }
    let total: u64 = spans.iter().map(|s| s.length as u64 + s.offset as u64).sum();
    if (bounds.len() as u64) + 1 < total {
        return Err(format!(
            "only {} custom bounds defined which is insufficient to cover total span length of {total}: histogram \
             custom bounds are too few",
            bounds.len()
        ));
    }
    Ok(())
}

/// `(bucket index, count)` of the buckets that spans describe, as far as both go.
fn indexed<'a>(spans: &'a [Span], counts: &'a [f64]) -> impl Iterator<Item = (i64, f64)> + 'a {
    let mut next = 0i64;
    let indexes = spans.iter().flat_map(move |span| {
        let first = next + span.offset as i64;
        next = first + span.length as i64;
        first..next
    });
    indexes.zip(counts.iter().copied())
}

/// Spans and counts of buckets in ascending order of index.
fn rebuild(buckets: impl Iterator<Item = (i64, f64)>) -> (Vec<Span>, Vec<f64>) {
    let (mut spans, mut counts): (Vec<Span>, Vec<f64>) = (Vec::new(), Vec::new());
    let mut next = 0i64;
    for (index, count) in buckets {
        match spans.last_mut() {
            Some(span) if index == next => span.length += 1,
            _ => spans.push(Span { offset: (index - next) as i32, length: 1 }),
        }
        next = index + 1;
        counts.push(count);
    }
    (spans, counts)
}

/// Leaves out empty buckets, and joins spans, where spans and buckets agree.
pub(crate) fn compact(h: &mut Histogram) {
    for (spans, counts) in
        [(&mut h.positive_spans, &mut h.positive_buckets), (&mut h.negative_spans, &mut h.negative_buckets)]
    {
        if spans.iter().map(|s| s.length as usize).sum::<usize>() != counts.len() {
            continue;
        }
        if counts.contains(&0.0) || spans.iter().enumerate().any(|(i, s)| s.length == 0 || i > 0 && s.offset == 0) {
            let (s, c) = rebuild(indexed(spans, counts).filter(|(_, c)| *c != 0.0));
            (*spans, *counts) = (s, c);
        }
    }
}

/// The same, but up to so many empty buckets between others stay, or are put there.
pub(crate) fn compact_but(h: &mut Histogram, gap: i64) {
    compact(h);
    for (spans, counts) in
        [(&mut h.positive_spans, &mut h.positive_buckets), (&mut h.negative_spans, &mut h.negative_buckets)]
    {
        let mut filled: Vec<(i64, f64)> = Vec::with_capacity(counts.len());
        for (index, count) in indexed(spans, counts) {
            if let Some((last, _)) = filled.last().copied()
                && index - last - 1 <= gap
            {
                filled.extend((last + 1..index).map(|i| (i, 0.0)));
            }
            filled.push((index, count));
        }
        (*spans, *counts) = rebuild(filled.into_iter());
    }
}

/// Merges buckets down to a coarser exponential schema.
pub(crate) fn reduce_resolution(h: &mut Histogram, schema: i32) {
    let shift = (h.schema - schema).clamp(0, 62) as u32;
    if shift == 0 {
        return;
    }
    for (spans, counts) in
        [(&mut h.positive_spans, &mut h.positive_buckets), (&mut h.negative_spans, &mut h.negative_buckets)]
    {
        let mut merged: Vec<(i64, f64)> = Vec::with_capacity(counts.len());
        for (index, count) in indexed(spans, counts) {
            let target = ((index - 1) >> shift) + 1;
            match merged.last_mut() {
                Some((last, sum)) if *last == target => *sum += count,
                _ => merged.push((target, count)),
            }
        }
        (*spans, *counts) = rebuild(merged.into_iter());
    }
    h.schema = schema;
}

/// Reduces the resolution until the schema is at most `max_schema` and there are at most `limit` buckets (0: any
/// number).
///
/// # Errors
/// [`BUCKET_LIMIT`] when no reduction is enough; spans that contradict themselves.
pub(crate) fn limit(h: &mut Histogram, limit: usize, max_schema: i32) -> Result<(), String> {
    // Without a configured factor finer schemas are refused later on, not reduced.
    if max_schema < SCHEMA_MAX && RESERVED.contains(&h.schema) && h.schema > max_schema {
        check_spans(h)?;
        reduce_resolution(h, max_schema);
    }
    let buckets = |h: &Histogram| h.positive_buckets.len() + h.negative_buckets.len();
    while limit > 0 && buckets(h) > limit {
        if !(SCHEMA_MIN + 1..=SCHEMA_MAX).contains(&h.schema) {
            return Err(BUCKET_LIMIT.to_owned());
        }
        check_spans(h)?;
        let schema = h.schema - 1;
        reduce_resolution(h, schema);
    }
    Ok(())
}

fn check_spans(h: &Histogram) -> Result<(), String> {
    spans(&h.positive_spans, h.positive_buckets.len())?;
    spans(&h.negative_spans, h.negative_buckets.len())
}

/// The message of a scrape that failed by [`limit`].
pub(crate) const BUCKET_LIMIT: &str = "histogram bucket limit exceeded";

/// The finest schema whose bucket factor is at least `factor`.
pub(crate) fn schema_for_factor(factor: f64) -> i32 {
    let factor = if factor <= 1.0 { 1.00271 } else { factor };
    let floor = (-factor.log2().log2()).floor();
    floor.clamp(SCHEMA_MIN as f64, SCHEMA_MAX as f64) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(schema: i32, spans: &[(i32, u32)], counts: &[f64]) -> Histogram {
        Histogram {
            schema,
            positive_spans: spans.iter().map(|(offset, length)| Span { offset: *offset, length: *length }).collect(),
            positive_buckets: counts.to_vec(),
            count: counts.iter().sum(),
            ..Histogram::default()
        }
    }

    #[test]
    fn compacting_leaves_out_empty_buckets_and_joins_spans() {
        let mut h = histogram(0, &[(0, 2), (0, 0), (0, 3), (4, 2)], &[1.0, 2.0, 0.0, 3.0, 0.0, 0.0, 4.0]);
        compact(&mut h);
        assert_eq!(h, Histogram { count: 10.0, ..histogram(0, &[(0, 2), (1, 1), (6, 1)], &[1.0, 2.0, 3.0, 4.0]) });
    }

    #[test]
    fn gaps_are_filled() {
        let mut h = histogram(0, &[(0, 9)], &[0.0, 1.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 3.0]);
        compact_but(&mut h, 2);
        assert_eq!(h, Histogram { count: 6.0, ..histogram(0, &[(1, 4), (3, 1)], &[1.0, 0.0, 0.0, 2.0, 3.0]) });
    }

    #[test]
    fn reducing_merges_neighbours() {
        let mut h = histogram(2, &[(-3, 4), (1, 2)], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        reduce_resolution(&mut h, 1);
        // Indexes -3 -2 -1 0 2 3 become -1 -1 0 0 1 2.
        assert_eq!(h, Histogram { count: 21.0, ..histogram(1, &[(-1, 4)], &[3.0, 7.0, 5.0, 6.0]) });
    }

    #[test]
    fn limits() {
        let wide = histogram(3, &[(0, 16)], &[1.0; 16]);
        let mut h = wide.clone();
        assert_eq!(limit(&mut h, 5, SCHEMA_MAX), Ok(()));
        assert_eq!((h.schema, h.positive_buckets.len()), (1, 5));
        let mut h = histogram(3, &[(0, 1), (1 << 20, 1)], &[1.0; 2]);
        assert_eq!(limit(&mut h, 1, SCHEMA_MAX), Err(BUCKET_LIMIT.to_owned()));
        let mut h = wide.clone();
        assert_eq!(limit(&mut h, 0, schema_for_factor(2.0)), Ok(()));
        assert_eq!(h.schema, 0);
        assert_eq!([0.0, 1.0, 1.1, 2.0, 65536.0, 1e30].map(schema_for_factor), [8, 8, 2, 0, -4, -4]);
    }

    #[test]
    fn contradictions_are_named() {
        for (h, expected) in [
            (histogram(0, &[(0, 1)], &[1.0]), None),
            (histogram(0, &[(0, 2)], &[1.0]), Some("spans need 2 buckets")),
            (histogram(0, &[(0, 1), (-1, 1)], &[1.0, 1.0]), Some("offset is negative")),
            (Histogram { count: 1.0, ..histogram(0, &[(0, 1)], &[-1.0]) }, Some("bucket number 1")),
            (histogram(9, &[(0, 1)], &[1.0]), Some("invalid schema")),
            (histogram(-53, &[(0, 1)], &[1.0]), None),
            (histogram(-53, &[(0, 2)], &[1.0, 1.0]), Some("only 0 custom bounds")),
            (
                Histogram { custom_values: vec![2.0, 1.0], ..histogram(-53, &[(0, 1)], &[1.0]) },
                Some("strictly increasing"),
            ),
            (Histogram { count: -1.0, ..histogram(0, &[], &[]) }, Some("count is negative")),
        ] {
            let got = validate(&h).err();
            match expected {
                None => assert_eq!(got, None),
                Some(text) => assert!(got.as_deref().unwrap_or("").contains(text), "{got:?} lacks {text}"),
            }
        }
    }
}
