//! Intermediate results: one column per series, one place per step.

use std::sync::Arc;

use narthex_model::{Histogram, Labels};
use smallvec::SmallVec;

use crate::value::Point;

/// Which steps have a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bits {
    words: SmallVec<[u64; 1]>,
    len: usize,
}

impl Bits {
    pub(crate) fn none(len: usize) -> Bits {
        Bits { words: SmallVec::from_elem(0, len.div_ceil(64)), len }
    }

    pub(crate) fn all(len: usize) -> Bits {
        let mut words = SmallVec::from_elem(u64::MAX, len.div_ceil(64));
        if let (Some(last), true) = (words.last_mut(), !len.is_multiple_of(64)) {
            *last = (1 << (len % 64)) - 1;
        }
        Bits { words, len }
    }

    #[inline]
    pub(crate) fn get(&self, i: usize) -> bool {
        self.words[i >> 6] >> (i & 63) & 1 == 1
    }

    #[inline]
    pub(crate) fn set(&mut self, i: usize) {
        self.words[i >> 6] |= 1 << (i & 63);
    }

    #[inline]
    pub(crate) fn clear(&mut self, i: usize) {
        self.words[i >> 6] &= !(1 << (i & 63));
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn count(&self) -> usize {
        self.words.iter().map(|w| w.count_ones() as usize).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.words.iter().all(|w| *w == 0)
    }

    pub(crate) fn is_full(&self) -> bool {
        let (whole, rest) = (self.len / 64, self.len % 64);
        self.words[..whole].iter().all(|w| *w == u64::MAX) && (rest == 0 || self.words[whole] == (1 << rest) - 1)
    }

    pub(crate) fn or(&mut self, other: &Bits) {
        self.words.iter_mut().zip(&other.words).for_each(|(a, b)| *a |= b);
    }

    pub(crate) fn and(&mut self, other: &Bits) {
        self.words.iter_mut().zip(&other.words).for_each(|(a, b)| *a &= b);
    }

    pub(crate) fn and_not(&mut self, other: &Bits) {
        self.words.iter_mut().zip(&other.words).for_each(|(a, b)| *a &= !b);
    }

    pub(crate) fn intersects(&self, other: &Bits) -> bool {
        self.words.iter().zip(&other.words).any(|(a, b)| a & b != 0)
    }

    /// The set places, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(i, word)| {
            let mut word = *word;
            std::iter::from_fn(move || {
                if word == 0 {
                    return None;
                }
                let bit = word.trailing_zeros() as usize;
                word &= word - 1;
                Some(i * 64 + bit)
            })
        })
    }
}

/// The floats of a series: `values` is as long as there are steps, or empty where no step has a float. What stands at
/// a step that is not present means nothing.
#[derive(Clone, Debug)]
pub(crate) struct Floats {
    pub values: Vec<f64>,
    pub present: Bits,
}

impl Floats {
    pub(crate) fn none(steps: usize) -> Floats {
        Floats { values: Vec::new(), present: Bits::none(steps) }
    }

    /// A value at every step.
    pub(crate) fn full(values: Vec<f64>) -> Floats {
        let present = Bits::all(values.len());
        Floats { values, present }
    }

    /// No values yet, in a buffer that may have been used before.
    pub(crate) fn in_buffer(mut buffer: Vec<f64>, steps: usize) -> Floats {
        // What stands at a step that is not present means nothing: it may be what was there before.
        buffer.resize(steps, 0.0);
        Floats { values: buffer, present: Bits::none(steps) }
    }

    #[inline]
    pub(crate) fn set(&mut self, step: usize, value: f64) {
        if self.values.is_empty() {
            self.values.resize(self.present.len, 0.0);
        }
        self.values[step] = value;
        self.present.set(step);
    }

    #[inline]
    pub(crate) fn get(&self, step: usize) -> Option<f64> {
        (!self.values.is_empty() && self.present.get(step)).then(|| self.values[step])
    }
}

/// A series of an intermediate result. A step has a float, a histogram or nothing.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub labels: Labels,
    /// The metric name is to be dropped when the evaluation ends (only looked at with delayed name removal).
    pub drop_name: bool,
    pub floats: Floats,
    /// As long as there are steps, or empty where no step has a histogram.
    pub histograms: Vec<Option<Arc<Histogram>>>,
    /// Its place among the series that come with it; 0 where labels tell it (see [`narthex_storage::Series::order`]).
    pub order: u32,
}

impl Series {
    pub(crate) fn new(labels: Labels, steps: usize) -> Series {
        Series { labels, drop_name: false, floats: Floats::none(steps), histograms: Vec::new(), order: 0 }
    }

    pub(crate) fn of(labels: Labels, drop_name: bool, floats: Floats) -> Series {
        Series { labels, drop_name, floats, histograms: Vec::new(), order: 0 }
    }

    pub(crate) fn steps(&self) -> usize {
        self.floats.present.len
    }

    /// The series itself; an empty one stays behind.
    pub(crate) fn take(&mut self) -> Series {
        std::mem::replace(self, Series::new(Labels::empty(), 0))
    }

    pub(crate) fn has_histograms(&self) -> bool {
        !self.histograms.is_empty()
    }

    #[inline]
    pub(crate) fn histogram(&self, step: usize) -> Option<&Arc<Histogram>> {
        self.histograms.get(step)?.as_ref()
    }

    pub(crate) fn at(&self, step: usize) -> Option<Point> {
        match self.floats.get(step) {
            Some(v) => Some(Point::Float(v)),
            None => self.histogram(step).map(|h| Point::Histogram(h.clone())),
        }
    }

    pub(crate) fn set(&mut self, step: usize, point: Point) {
        match point {
            Point::Float(v) => self.floats.set(step, v),
            Point::Histogram(h) => self.set_histogram(step, h),
        }
    }

    pub(crate) fn set_histogram(&mut self, step: usize, histogram: Arc<Histogram>) {
        if self.histograms.is_empty() {
            self.histograms.resize(self.steps(), None);
        }
        self.histograms[step] = Some(histogram);
    }

    /// The steps that have a float or a histogram.
    pub(crate) fn present(&self) -> Bits {
        let mut bits = self.floats.present.clone();
        for (i, h) in self.histograms.iter().enumerate() {
            if h.is_some() {
                bits.set(i);
            }
        }
        bits
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.floats.present.is_empty() && self.histograms.iter().all(Option::is_none)
    }

    /// Keeps only the steps in `mask`.
    pub(crate) fn keep(&mut self, mask: &Bits) {
        self.floats.present.and(mask);
        for (i, h) in self.histograms.iter_mut().enumerate() {
            if !mask.get(i) {
                *h = None;
            }
        }
        if self.histograms.iter().all(Option::is_none) {
            self.histograms.clear();
        }
    }

    /// Drops histograms.
    pub(crate) fn only_floats(mut self) -> Series {
        self.histograms = Vec::new();
        self
    }

    /// How many float samples the series weighs.
    pub(crate) fn weight(&self) -> usize {
        self.floats.present.count() + self.histograms.iter().flatten().map(|h| h.weight()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits() {
        for len in [1, 63, 64, 65, 128, 200] {
            let all = Bits::all(len);
            assert!(all.is_full() && all.count() == len && all.iter().eq(0..len), "{len}");
            let mut some = Bits::none(len);
            assert!(some.is_empty() && !some.is_full());
            some.set(len - 1);
            assert!(some.get(len - 1) && some.intersects(&all) && some.count() == 1);
            some.and_not(&all);
            assert!(some.is_empty());
        }
    }
}
