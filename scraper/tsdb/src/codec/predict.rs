//! Predictions of integers, which leave small residuals.

/// What an integer is compared with. The first one of a column is kept by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Predictor {
    /// The first integer.
    Level,
    /// The integer before.
    Delta,
    /// The line through the two before.
    DeltaOfDelta,
    /// The line from the first integer with this slope, in 2^-16 a step. Noise around a trend costs less against the
    /// trend than against its noisy predecessor.
    Line(i64),
    /// A level and a slope that follow the integers, from this slope (in 2^-8 a step) on. For noise around a trend that
    /// bends, as load does.
    Track(i64),
}

/// How much of an error goes into the level and into the slope, in 2^-8. One pair is enough: of a dozen tried on the
/// benchmark's data, alone and together, none beat it by more than half a percent.
const GAINS: (i64, i64) = (80, 32);

/// The state of [`Predictor::Track`]: where the next integer is expected beyond the first, and the slope, in 2^-8. The error that it
/// learns from is the whole residual, without the fraction that rounding left, so that decoding is a chain of additions.
struct Tracker {
    next: i64,
    slope: i64,
}

impl Tracker {
    fn new(slope: i64) -> Tracker {
        Tracker { next: slope.wrapping_add(128), slope }
    }

    #[inline]
    fn expected(&self) -> i64 {
        self.next >> 8
    }

    #[inline]
    fn learn(&mut self, residual: i64) {
        self.slope = self.slope.wrapping_add(residual.wrapping_mul(GAINS.1));
        self.next = self.next.wrapping_add(residual.wrapping_mul(GAINS.0)).wrapping_add(self.slope);
    }
}

/// Integers that the first slope of a tracker is taken from.
const START: usize = 16;

/// Above this the sampled costs of a column are taken from every third residual.
const SAMPLED: usize = 128;

/// A prediction and where its residuals centre.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) predictor: Predictor,
    pub(super) centre: i64,
}

#[inline]
fn residual(x: &[i64], i: usize, predictor: Predictor) -> i64 {
    match predictor {
        Predictor::Level => x[i].wrapping_sub(x[0]),
        Predictor::Delta => x[i].wrapping_sub(x[i - 1]),
        Predictor::DeltaOfDelta if i == 1 => x[1].wrapping_sub(x[0]),
        Predictor::DeltaOfDelta => x[i].wrapping_sub(x[i - 1]).wrapping_sub(x[i - 1].wrapping_sub(x[i - 2])),
        Predictor::Line(slope) => x[i].wrapping_sub(x[0]).wrapping_sub(on_line(slope, i)),
        // It knows its residuals only in sequence.
        Predictor::Track(_) => 0,
    }
}

#[inline]
fn on_line(slope: i64, i: usize) -> i64 {
    slope.wrapping_mul(i as i64) >> 16
}

/// The middle of up to 31 residuals, and the bits that all sampled ones take around it.
fn cost(x: &[i64], predictor: Predictor) -> (u64, i64) {
    let n = x.len() - 1;
    let mut sample = [0i64; 31];
    let count = n.min(sample.len());
    let sample = &mut sample[..count];
    for (k, s) in sample.iter_mut().enumerate() {
        *s = residual(x, 1 + k * n / count, predictor);
    }
    sample.sort_unstable();
    let centre = sample[count / 2];
    let step = step_of(x.len());
    let bits = (1..x.len())
        .step_by(step)
        .map(|i| u64::from(64 - super::bits::zigzag(residual(x, i, predictor).wrapping_sub(centre)).leading_zeros()))
        .sum();
    (bits, centre)
}

fn step_of(len: usize) -> usize {
    if len > SAMPLED { 3 } else { 1 }
}

/// The predictor with the least sampled cost for `x`, which holds at least two integers.
pub(super) fn choose(x: &[i64], track: bool) -> Plan {
    let (delta_bits, step) = cost(x, Predictor::Delta);
    let mut best = (delta_bits, Plan { predictor: Predictor::Delta, centre: step });
    let n = x.len() as i64 - 1;
    let ends = x[x.len() - 1].wrapping_sub(x[0]);
    let slope =
        |rise: i64, run: i64| (rise.unsigned_abs() < 1 << 46).then(|| Predictor::Line((rise << 16).wrapping_div(run)));
    let lines = [slope(step, 1), slope(ends, n)];
    let others = [Some(Predictor::Level), Some(Predictor::DeltaOfDelta), lines[0], lines[1]];
    for predictor in others.into_iter().flatten() {
        if predictor == Predictor::Line(0) {
            continue;
        }
        let (bits, centre) = cost(x, predictor);
        if bits < best.0 {
            best = (bits, Plan { predictor, centre });
        }
    }
    if track && x.len() > START && best.0 > x.len() as u64 / 2 {
        let slope = x[START].wrapping_sub(x[0]).wrapping_mul(1 << 8) / START as i64;
        let mut tracker = Tracker::new(slope);
        let mut bits = 0;
        let step = step_of(x.len());
        for (i, v) in x.iter().enumerate().skip(1) {
            let residual = v.wrapping_sub(x[0]).wrapping_sub(tracker.expected());
            tracker.learn(residual);
            if i % step == 1 % step {
                bits += u64::from(64 - super::bits::zigzag(residual).leading_zeros());
            }
        }
        if bits < best.0 {
            best = (bits, Plan { predictor: Predictor::Track(slope), centre: 0 });
        }
    }
    best.1
}

/// The residuals of all integers but the first.
pub(super) fn residuals(x: &[i64], predictor: Predictor, out: &mut Vec<i64>) {
    out.clear();
    let Some(first) = x.first().copied() else { return };
    match predictor {
        Predictor::Level => out.extend(x[1..].iter().map(|v| v.wrapping_sub(first))),
        Predictor::Delta => out.extend(x.windows(2).map(|w| w[1].wrapping_sub(w[0]))),
        Predictor::DeltaOfDelta => {
            let mut last = 0;
            out.extend(x.windows(2).map(|w| {
                let delta = w[1].wrapping_sub(w[0]);
                let change = delta.wrapping_sub(last);
                last = delta;
                change
            }));
        }
        Predictor::Line(slope) => {
            out.extend(
                x[1..].iter().enumerate().map(|(i, v)| v.wrapping_sub(first).wrapping_sub(on_line(slope, i + 1))),
            );
        }
        Predictor::Track(slope) => {
            let mut tracker = Tracker::new(slope);
            out.extend(x[1..].iter().map(|v| {
                let residual = v.wrapping_sub(first).wrapping_sub(tracker.expected());
                tracker.learn(residual);
                residual
            }));
        }
    }
}

/// What a predictor knows after some residuals: with it, the next ones can be undone without those before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// How many residuals came before.
    pub(super) done: usize,
    /// What they add up to, by the predictor: nothing, the last integer, that and its step, or the tracker's state.
    pub(super) state: [i64; 2],
}

impl Known {
    /// Before the first residual.
    pub(super) fn start(predictor: Predictor) -> Known {
        let state = match predictor {
            Predictor::Track(slope) => {
                let tracker = Tracker::new(slope);
                [tracker.next, tracker.slope]
            }
            _ => [0, 0],
        };
        Known { done: 0, state }
    }

    /// How many numbers of the state mean something.
    pub(super) fn width(predictor: Predictor) -> usize {
        match predictor {
            Predictor::Level | Predictor::Line(_) => 0,
            Predictor::Delta => 1,
            Predictor::DeltaOfDelta | Predictor::Track(_) => 2,
        }
    }

    /// After these residuals, too.
    pub(super) fn after(mut self, residuals: &[i64], predictor: Predictor) -> Known {
        self.done += residuals.len();
        let [a, b] = &mut self.state;
        match predictor {
            Predictor::Level | Predictor::Line(_) => {}
            Predictor::Delta => *a = residuals.iter().fold(*a, |a, r| a.wrapping_add(*r)),
            Predictor::DeltaOfDelta => {
                for r in residuals {
                    *b = b.wrapping_add(*r);
                    *a = a.wrapping_add(*b);
                }
            }
            Predictor::Track(_) => {
                let mut tracker = Tracker { next: *a, slope: *b };
                residuals.iter().for_each(|r| tracker.learn(*r));
                [*a, *b] = [tracker.next, tracker.slope];
            }
        }
        self
    }
}

narthex_model::wide! {
    /// Turns residuals back into integers `first + divisor * x`; `known` is what came before them.
    pub(super) fn undo(residuals: &mut [i64], predictor: Predictor, first: i64, divisor: i64, known: Known) {
        if divisor == 1 {
            undo_by(residuals, predictor, first, known, |x| x);
        } else {
            undo_by(residuals, predictor, first, known, |x| x.wrapping_mul(divisor));
        }
    }
}

#[inline(always)]
fn undo_by(residuals: &mut [i64], predictor: Predictor, first: i64, known: Known, times: impl Fn(i64) -> i64) {
    let [a, b] = known.state;
    match predictor {
        Predictor::Level => {
            for r in residuals {
                *r = times(*r).wrapping_add(first);
            }
        }
        Predictor::Delta => {
            let mut at = times(a).wrapping_add(first);
            for r in residuals {
                at = at.wrapping_add(times(*r));
                *r = at;
            }
        }
        Predictor::DeltaOfDelta => {
            let (mut at, mut delta) = (times(a).wrapping_add(first), times(b));
            for r in residuals {
                delta = delta.wrapping_add(times(*r));
                at = at.wrapping_add(delta);
                *r = at;
            }
        }
        Predictor::Line(slope) => {
            let mut line = slope.wrapping_mul(known.done as i64);
            for r in residuals {
                line = line.wrapping_add(slope);
                *r = times(r.wrapping_add(line >> 16)).wrapping_add(first);
            }
        }
        Predictor::Track(_) => {
            let mut tracker = Tracker { next: a, slope: b };
            for r in residuals {
                let residual = *r;
                *r = times(residual.wrapping_add(tracker.expected())).wrapping_add(first);
                tracker.learn(residual);
            }
        }
    }
}
