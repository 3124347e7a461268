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
}

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
    let step = if n > SAMPLED { 3 } else { 1 };
    let bits = (1..x.len())
        .step_by(step)
        .map(|i| u64::from(64 - super::bits::zigzag(residual(x, i, predictor).wrapping_sub(centre)).leading_zeros()))
        .sum();
    (bits, centre)
}

/// The predictor with the least sampled cost for `x`, which holds at least two integers.
pub(super) fn choose(x: &[i64]) -> Plan {
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
    }
}

/// Turns residuals (behind a first element, whose value is ignored) back into `first + divisor * x`, in place.
pub(super) fn undo(x: &mut [i64], predictor: Predictor, first: i64, divisor: i64) {
    let Some((head, rest)) = x.split_first_mut() else { return };
    *head = first;
    match predictor {
        Predictor::Level => {
            for v in rest {
                *v = v.wrapping_mul(divisor).wrapping_add(first);
            }
        }
        Predictor::Delta => {
            let mut at = first;
            for v in rest {
                at = at.wrapping_add(v.wrapping_mul(divisor));
                *v = at;
            }
        }
        Predictor::DeltaOfDelta => {
            let (mut at, mut delta) = (first, 0i64);
            for v in rest {
                delta = delta.wrapping_add(v.wrapping_mul(divisor));
                at = at.wrapping_add(delta);
                *v = at;
            }
        }
        Predictor::Line(slope) => {
            for (i, v) in rest.iter_mut().enumerate() {
                *v = v.wrapping_add(on_line(slope, i + 1)).wrapping_mul(divisor).wrapping_add(first);
            }
        }
    }
}
