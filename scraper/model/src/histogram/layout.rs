//! Bucket lists as `(index, count)` sequences: what spans mean.

use super::Span;
use crate::kahan;

/// `(index, count)` in index order. Stops where spans or buckets end, whichever comes first.
#[derive(Clone)]
pub(super) struct Indexed<'a> {
    spans: std::slice::Iter<'a, Span>,
    counts: std::slice::Iter<'a, f64>,
    next: i32,
    left: u32,
}

pub(super) fn indexed<'a>(spans: &'a [Span], counts: &'a [f64]) -> Indexed<'a> {
    Indexed { spans: spans.iter(), counts: counts.iter(), next: 0, left: 0 }
}

impl Iterator for Indexed<'_> {
    type Item = (i32, f64);

    #[inline]
    fn next(&mut self) -> Option<(i32, f64)> {
        let count = *self.counts.as_slice().first()?;
        while self.left == 0 {
            let span = self.spans.next()?;
            self.next = self.next.wrapping_add(span.offset);
            self.left = span.length;
        }
        self.counts.next();
        let index = self.next;
        self.next = index.wrapping_add(1);
        self.left -= 1;
        Some((index, count))
    }
}

/// Spans and counts of a sequence that ascends in index.
pub(super) fn to_spans(buckets: impl IntoIterator<Item = (i32, f64)>) -> (Vec<Span>, Vec<f64>) {
    let (mut spans, mut counts): (Vec<Span>, Vec<f64>) = (Vec::new(), Vec::new());
    let mut next = 0i32;
    for (index, count) in buckets {
        match spans.last_mut() {
            Some(span) if index == next => span.length += 1,
            _ => spans.push(Span { offset: index.wrapping_sub(next), length: 1 }),
        }
        next = index.wrapping_add(1);
        counts.push(count);
    }
    (spans, counts)
}

/// Whether two lists of spans describe the same buckets, empty spans aside.
pub(super) fn same(a: &[Span], b: &[Span]) -> bool {
    if a == b {
        return true;
    }
    let normal = |spans: &[Span]| {
        let (mut out, mut gap): (Vec<Span>, i32) = (Vec::new(), 0);
        for span in spans {
            gap = gap.wrapping_add(span.offset);
            if span.length > 0 {
                match out.last_mut() {
                    Some(last) if gap == 0 => last.length = last.length.wrapping_add(span.length),
                    _ => out.push(Span { offset: gap, length: span.length }),
                }
                gap = 0;
            }
        }
        out
    };
    normal(a) == normal(b)
}

/// Drops buckets whose count (and compensation) is zero, and joins adjacent spans.
pub(super) fn compact(spans: &mut Vec<Span>, counts: &mut Vec<f64>, compensation: Option<&mut Vec<f64>>) {
    let joined = || spans.iter().skip(1).all(|s| s.offset != 0) && spans.iter().all(|s| s.length > 0);
    if !counts.contains(&0.0) && joined() {
        return;
    }
    match compensation {
        Some(c) if c.len() == counts.len() => {
            let kept: Vec<(i32, f64, f64)> = indexed(spans, counts)
                .zip(c.iter())
                .map(|((i, v), c)| (i, v, *c))
                .filter(|(_, v, c)| *v != 0.0 || *c != 0.0)
                .collect();
            *c = kept.iter().map(|k| k.2).collect();
            (*spans, *counts) = to_spans(kept.iter().map(|k| (k.0, k.1)));
        }
        _ => {
            let kept: Vec<(i32, f64)> = indexed(spans, counts).filter(|(_, v)| *v != 0.0).collect();
            (*spans, *counts) = to_spans(kept);
        }
    }
}

/// Index of the bucket of `target` schema that holds bucket `index` of schema `origin`.
#[inline]
fn target_index(index: i32, origin: i32, target: i32) -> i32 {
    (index.wrapping_sub(1) >> (origin - target).clamp(0, 31)).wrapping_add(1)
}

/// The buckets merged into those of a schema that is not higher.
pub(super) fn reduce(spans: &[Span], counts: &[f64], origin: i32, target: i32) -> Vec<(i32, f64)> {
    let mut out: Vec<(i32, f64)> = Vec::with_capacity(counts.len());
    for (index, count) in indexed(spans, counts) {
        let index = target_index(index, origin, target);
        match out.last_mut() {
            Some(last) if last.0 == index => last.1 += count,
            _ => out.push((index, count)),
        }
    }
    out
}

/// The same with compensations.
pub(super) fn reduce_compensated(
    spans: &[Span],
    counts: &[f64],
    compensation: &[f64],
    origin: i32,
    target: i32,
) -> Vec<(i32, f64, f64)> {
    let mut out: Vec<(i32, f64, f64)> = Vec::with_capacity(counts.len());
    for ((index, count), c) in indexed(spans, counts).zip(compensation) {
        let index = target_index(index, origin, target);
        match out.last_mut() {
            Some(last) if last.0 == index => {
                (last.1, last.2) = kahan::add(count, last.1, last.2);
                (last.1, last.2) = kahan::add(*c, last.1, last.2);
            }
            _ => out.push((index, count, *c)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(offset: i32, length: u32) -> Span {
        Span { offset, length }
    }

    #[test]
    fn round_trip_and_compact() {
        let mut spans = vec![span(-2, 2), span(0, 1), span(3, 2), span(1, 0)];
        let mut counts = vec![1.0, 0.0, 2.0, 0.0, 4.0];
        let all: Vec<_> = indexed(&spans, &counts).collect();
        assert_eq!(all, [(-2, 1.0), (-1, 0.0), (0, 2.0), (4, 0.0), (5, 4.0)]);
        compact(&mut spans, &mut counts, None);
        assert_eq!((spans, counts), (vec![span(-2, 1), span(1, 1), span(4, 1)], vec![1.0, 2.0, 4.0]));
    }

    #[test]
    fn too_few_buckets_or_spans_are_cut() {
        assert_eq!(indexed(&[span(0, 5)], &[1.0]).count(), 1);
        assert_eq!(indexed(&[span(0, 1)], &[1.0, 2.0]).count(), 1);
    }

    #[test]
    fn reduces() {
        assert_eq!(reduce(&[span(0, 4)], &[1.0, 2.0, 3.0, 4.0], 1, 0), [(0, 1.0), (1, 5.0), (2, 4.0)]);
    }
}
