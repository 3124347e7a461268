//! Which samples a step sees: found once per timestamp column, used for all series that share it.

use std::rc::Rc;
use std::sync::Arc;

use super::columns::Bits;

/// The steps of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    /// Milliseconds.
    pub start: i64,
    pub interval: i64,
    pub steps: usize,
    /// Where the steps may go to at most, milliseconds: the end that was asked for.
    pub until: i64,
}

impl Grid {
    /// The steps from `start` to `end`, none where `end` is before `start`.
    pub(crate) fn new(start: i64, end: i64, interval: i64) -> Grid {
        let interval = interval.max(1);
        let steps = if end < start { 0 } else { ((end as i128 - start as i128) / interval as i128) as usize + 1 };
        Grid { start, interval, steps, until: end }
    }

    pub(crate) fn first(self) -> Grid {
        Grid { steps: self.steps.min(1), until: self.start, ..self }
    }

    #[inline]
    pub(crate) fn time(&self, step: usize) -> i64 {
        self.start.saturating_add((step as i64).saturating_mul(self.interval))
    }

    /// The last step's time.
    pub(crate) fn end(&self) -> i64 {
        self.time(self.steps.saturating_sub(1))
    }
}

/// The time that each step looks at: its own less an offset, or one fixed by `@`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub at: Option<i64>,
    pub offset: i64,
}

impl Reference {
    #[inline]
    pub(crate) fn time(&self, grid: &Grid, step: usize) -> i64 {
        self.at.unwrap_or_else(|| grid.time(step)).saturating_sub(self.offset)
    }
}

/// Where the samples `(end - range, end]` of each step begin and end in a timestamp column.
#[derive(Debug)]
pub(crate) struct Windows {
    pub lo: Vec<u32>,
    pub hi: Vec<u32>,
    /// The samples of all windows together.
    pub total: u64,
    /// Steps where both ends move on by the same number of samples.
    pub runs: Vec<Run>,
}

/// Steps that look at samples a fixed distance apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The first step.
    pub step: u32,
    /// Steps, at least one.
    pub len: u32,
    /// Samples from one step to the next.
    pub stride: u32,
}

impl Run {
    fn one(step: usize) -> Run {
        Run { step: step as u32, len: 1, stride: 1 }
    }

    /// Takes the next step in, which is `stride` samples on, if that fits.
    fn extend(&mut self, stride: Option<u32>) -> bool {
        let fits = stride.is_some_and(|stride| self.len == 1 || stride == self.stride);
        if let (true, Some(stride)) = (fits, stride) {
            self.stride = stride;
            self.len += 1;
        }
        fits
    }
}

/// First index from `from` on whose time is above `t`.
#[inline]
fn after(times: &[i64], from: usize, t: i64) -> usize {
    // Steps usually move on by a few samples only.
    let mut i = from;
    for _ in 0..8 {
        if i >= times.len() || times[i] > t {
            return i;
        }
        i += 1;
    }
    i + times[i..].partition_point(|x| *x <= t)
}

/// Goes from step to step through a timestamp column, mostly by as many samples each time.
#[derive(Default)]
struct Walk {
    at: usize,
    stride: usize,
}

impl Walk {
    /// First index from `from`, and from the last one, on whose time is above `t`.
    #[inline]
    fn after(&mut self, times: &[i64], from: usize, t: i64) -> usize {
        let from = self.at.max(from);
        let guess = from + self.stride;
        let fits = match times.get(guess.wrapping_sub(1)..) {
            Some([last, next, ..]) => *last <= t && *next > t,
            _ => false,
        };
        let found = if fits { guess } else { after(times, from, t) };
        (self.at, self.stride) = (found, found - from);
        found
    }
}

impl Windows {
    /// `before` and `behind` widen the windows (milliseconds).
    pub(crate) fn find(times: &[i64], grid: &Grid, at: Reference, range: i64, before: i64, behind: i64) -> Windows {
        let steps = grid.steps;
        let (mut lo, mut hi) = (Vec::with_capacity(steps), Vec::with_capacity(steps));
        let (mut begin, mut stop, mut total) = (Walk::default(), Walk::default(), 0u64);
        for step in 0..steps {
            let end = at.time(grid, step);
            let a = begin.after(times, 0, end.saturating_sub(range).saturating_sub(before));
            let b = stop.after(times, a, end.saturating_add(behind));
            lo.push(a as u32);
            hi.push(b as u32);
            total += (b - a) as u64;
        }
        let mut runs: Vec<Run> = Vec::new();
        for step in 0..steps {
            let stride = step.checked_sub(1).and_then(|last| {
                let (from, to) = (lo[step] - lo[last], hi[step] - hi[last]);
                (from == to).then_some(from)
            });
            if !runs.last_mut().is_some_and(|run| run.extend(stride)) {
                runs.push(Run::one(step));
            }
        }
        Windows { lo, hi, total, runs }
    }
}

/// Remembers what was found for the timestamp columns seen last.
pub(crate) struct Cache<T> {
    entries: Vec<(Arc<[i64]>, Rc<T>)>,
}

impl<T> Cache<T> {
    const KEEP: usize = 32;

    pub(crate) fn new() -> Cache<T> {
        Cache { entries: Vec::new() }
    }

    pub(crate) fn get(&mut self, times: &Arc<[i64]>, find: impl FnOnce(&[i64]) -> T) -> Rc<T> {
        if let Some(i) = self.entries.iter().rposition(|(t, _)| Arc::ptr_eq(t, times)) {
            return self.entries[i].1.clone();
        }
        if self.entries.len() >= Self::KEEP {
            self.entries.remove(0);
        }
        let found = Rc::new(find(times));
        self.entries.push((times.clone(), found.clone()));
        found
    }
}

/// Index of the sample that each step of an instant selector sees, `NONE` where there is none.
pub(crate) const NONE: u32 = u32::MAX;

/// What the steps of an instant selector see of a timestamp column.
#[derive(Debug)]
pub(crate) struct Latest {
    pub index: Vec<u32>,
    pub present: Bits,
    /// Steps that see samples a fixed distance apart.
    pub runs: Vec<Run>,
}

impl Latest {
    pub(crate) fn find(times: &[i64], grid: &Grid, at: Reference, lookback: i64) -> Latest {
        let index = latest(times, grid, at, lookback);
        let mut present = Bits::none(grid.steps);
        let mut runs: Vec<Run> = Vec::new();
        for (step, i) in index.iter().enumerate().filter(|(_, i)| **i != NONE) {
            present.set(step);
            let before = step.checked_sub(1).map(|last| index[last]).filter(|last| *last != NONE);
            let stride = before.map(|last| i - last);
            if !runs.last_mut().is_some_and(|run| run.extend(stride)) {
                runs.push(Run::one(step));
            }
        }
        Latest { index, present, runs }
    }
}

pub(crate) fn latest(times: &[i64], grid: &Grid, at: Reference, lookback: i64) -> Vec<u32> {
    let mut walk = Walk::default();
    (0..grid.steps)
        .map(|step| {
            let t = at.time(grid, step);
            match walk.after(times, 0, t).checked_sub(1) {
                Some(last) if times[last] > t.saturating_sub(lookback) => last as u32,
                _ => NONE,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_open_on_the_left() {
        let times: Vec<i64> = (0..10).map(|i| i * 10).collect();
        let grid = Grid::new(20, 40, 10);
        let w = Windows::find(&times, &grid, Reference { at: None, offset: 0 }, 20, 0, 0);
        assert_eq!((w.lo, w.hi, w.total), (vec![1, 2, 3], vec![3, 4, 5], 6));
        assert_eq!(w.runs, [Run { step: 0, len: 3, stride: 1 }]);
        let coarse = Windows::find(&times, &Grid::new(20, 80, 30), Reference { at: None, offset: 0 }, 20, 0, 0);
        assert_eq!(coarse.runs, [Run { step: 0, len: 3, stride: 3 }]);
        let fixed = Windows::find(&times, &grid, Reference { at: Some(95), offset: 10 }, 20, 0, 0);
        assert_eq!((fixed.lo, fixed.hi), (vec![7, 7, 7], vec![9, 9, 9]));
    }

    #[test]
    fn latest_within_lookback() {
        let grid = Grid::new(0, 50, 10);
        let found = latest(&[5, 20], &grid, Reference { at: None, offset: 0 }, 15);
        assert_eq!(found, [NONE, 0, 1, 1, NONE, NONE]);
        let found = Latest::find(&[5, 20], &grid, Reference { at: None, offset: 0 }, 15);
        assert_eq!(found.runs, [Run { step: 1, len: 2, stride: 1 }, Run { step: 3, len: 1, stride: 1 }]);
    }

    #[test]
    fn walks_find_what_searches_find() {
        let (regular, mut x) = ((0..500).map(|i| i * 15).collect::<Vec<i64>>(), 1u32);
        let mut holes = regular.clone();
        holes.retain(|_| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            x >> 30 != 0
        });
        for times in [&regular[..], &holes, &[], &[0], &[-3, 7_000]] {
            for step in [0, 1, 15, 40, 120, 3_000] {
                let (mut walk, mut from) = (Walk::default(), 0);
                for t in (0..600).map(|i| i * step - 100) {
                    // Both ends of a window move.
                    from = from.max(times.partition_point(|x| *x <= t - 200));
                    let expected = times.partition_point(|x| *x <= t).max(from);
                    assert_eq!(walk.after(times, from, t), expected, "{step} {t}");
                }
            }
        }
    }

    #[test]
    fn far_jumps() {
        let times: Vec<i64> = (0..10_000).collect();
        assert_eq!(after(&times, 3, 9_000), 9_001);
        assert_eq!(after(&times, 3, 20_000), 10_000);
    }
}
