//! Delta temporality into cumulative (the feature `otlp-deltatocumulative`), as the collector's processor of that name does
//! it, which Prometheus has built in: each point becomes the sum of its stream so far. Points that are older than what
//! their stream has are left out. Streams without points for five minutes are forgotten.
//!
//! The thresholds of zero buckets only decide what is counted there: translation gives all histograms the same.

use std::collections::HashMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use narthex_model::gomath;
use parking_lot::Mutex;

use super::decode::{Attribute, Buckets, Data, Explicit, Exponential, Metric, Number, Point, Resource, Temporality};

const FORGET: Duration = Duration::from_secs(5 * 60);
const SWEEP: Duration = Duration::from_secs(60);
/// Most streams; points of further ones are left out.
const MAX_STREAMS: usize = 1_000_000;
/// Most buckets of an exponential histogram on each side; its scale gets coarser before there are more.
const MAX_BUCKETS: i64 = 160;
/// After so many steps all buckets are one on each side of 1, however fine they were.
const MAX_STEPS: i64 = 64;

enum Sum {
    Number(Number),
    Explicit(Explicit),
    Exponential(Exponential),
}

struct Stream {
    sum: Sum,
    seen: Instant,
}

#[derive(Default)]
struct State {
    streams: HashMap<String, Stream>,
    swept: Option<Instant>,
}

/// The sums of all streams.
#[derive(Default)]
pub struct Sums(Mutex<State>);

/// A point that can be added to what its stream has.
trait Summed: Clone {
    fn point(&mut self) -> &mut Point;
    /// Adds `other`, which is later. What stays is this one's start, unless the stream begins anew, and the other's time.
    fn add(&mut self, other: Self);
    fn wrap(self) -> Sum;
    fn of(sum: &mut Sum) -> Option<&mut Self>;
}

fn optional(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    Some(a? + b?)
}

impl Summed for Number {
    fn point(&mut self) -> &mut Point {
        &mut self.point
    }

    fn add(&mut self, other: Number) {
        self.value += other.value;
        self.exemplars = other.exemplars;
    }

    fn wrap(self) -> Sum {
        Sum::Number(self)
    }

    fn of(sum: &mut Sum) -> Option<&mut Number> {
        if let Sum::Number(n) = sum { Some(n) } else { None }
    }
}

impl Summed for Explicit {
    fn point(&mut self) -> &mut Point {
        &mut self.point
    }

    fn add(&mut self, other: Explicit) {
        if self.bounds != other.bounds {
            // There is nothing to add to: the stream begins anew.
            *self = other;
            return;
        }
        for (a, b) in self.counts.iter_mut().zip(&other.counts) {
            *a = a.wrapping_add(*b);
        }
        self.count = self.count.wrapping_add(other.count);
        self.sum = optional(self.sum, other.sum);
        self.exemplars = other.exemplars;
    }

    fn wrap(self) -> Sum {
        Sum::Explicit(self)
    }

    fn of(sum: &mut Sum) -> Option<&mut Explicit> {
        if let Sum::Explicit(h) = sum { Some(h) } else { None }
    }
}

impl Summed for Exponential {
    fn point(&mut self) -> &mut Point {
        &mut self.point
    }

    fn add(&mut self, mut other: Exponential) {
        let coarser = i64::from(self.scale.min(other.scale));
        self.coarsen(i64::from(self.scale) - coarser);
        other.coarsen(i64::from(other.scale) - coarser);
        let steps = steps(&self.positive, &other.positive).max(steps(&self.negative, &other.negative));
        self.coarsen(steps);
        other.coarsen(steps);
        if self.zero_threshold < other.zero_threshold {
            self.widen_zero(other.zero_threshold);
        } else if other.zero_threshold < self.zero_threshold {
            other.widen_zero(self.zero_threshold);
        }
        merge(&mut self.positive, &other.positive);
        merge(&mut self.negative, &other.negative);
        self.count = self.count.wrapping_add(other.count);
        self.zero_count = self.zero_count.wrapping_add(other.zero_count);
        self.sum = optional(self.sum, other.sum);
        self.exemplars = other.exemplars;
    }

    fn wrap(self) -> Sum {
        Sum::Exponential(self)
    }

    fn of(sum: &mut Sum) -> Option<&mut Exponential> {
        if let Sum::Exponential(h) = sum { Some(h) } else { None }
    }
}

impl Exponential {
    fn coarsen(&mut self, steps: i64) {
        for _ in 0..steps.clamp(0, MAX_STEPS) {
            collapse(&mut self.positive);
            collapse(&mut self.negative);
        }
        self.scale = self.scale.saturating_sub(i32::try_from(steps).unwrap_or(i32::MAX));
    }

    /// Counts what lies in buckets up to the one of `width` as zero.
    fn widen_zero(&mut self, width: f64) {
        let last = bucket_of(width, self.scale);
        for side in [&mut self.positive, &mut self.negative] {
            let inside = last.saturating_add(1).saturating_sub(i64::from(side.offset));
            let inside = usize::try_from(inside).unwrap_or(0).min(side.counts.len());
            for n in side.counts.drain(..inside) {
                self.zero_count = self.zero_count.wrapping_add(n);
            }
            side.offset = side.offset.saturating_add(inside as i32);
        }
        let bucket = gomath::ldexp(std::f64::consts::LN_2, -i64::from(self.scale));
        self.zero_threshold = gomath::exp(last.saturating_add(1) as f64 * bucket);
    }
}

/// The bucket in which a positive number lies at that scale.
fn bucket_of(v: f64, scale: i32) -> i64 {
    let bits = v.to_bits();
    if v.is_normal() && bits << 12 == 0 {
        // A power of two is the upper bound of its bucket.
        let exponent = (bits >> 52) as i64 - 1023;
        let shifted = if scale >= 0 { exponent << scale.min(40) } else { exponent >> (-scale).min(40) };
        return shifted - 1;
    }
    (gomath::log(v) * gomath::ldexp(std::f64::consts::LOG2_E, i64::from(scale))).floor() as i64
}

/// Joins neighbours: the same observations at a scale that is coarser by one.
fn collapse(b: &mut Buckets) {
    let odd = usize::from(b.offset % 2 != 0);
    let mut counts = vec![0u64; (b.counts.len() + odd).div_ceil(2)];
    for (i, n) in b.counts.iter().enumerate() {
        counts[(i + odd) / 2] = counts[(i + odd) / 2].wrapping_add(*n);
    }
    b.offset = b.offset.div_euclid(2);
    b.counts = counts;
}

/// The range of buckets of either that holds something; empty where none does.
fn range(a: &Buckets, b: &Buckets) -> (i64, i64) {
    let of = |b: &Buckets| {
        let first = b.counts.iter().position(|n| *n > 0)?;
        let last = b.counts.iter().rposition(|n| *n > 0)?;
        Some((i64::from(b.offset) + first as i64, i64::from(b.offset) + last as i64 + 1))
    };
    match (of(a), of(b)) {
        (Some(a), Some(b)) => (a.0.min(b.0), a.1.max(b.1)),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => (0, 0),
    }
}

/// How much coarser the scale has to get for both together to fit.
fn steps(a: &Buckets, b: &Buckets) -> i64 {
    let (mut low, mut high) = range(a, b);
    let mut steps = 0;
    while high - low > MAX_BUCKETS {
        (low, high, steps) = (low / 2, high / 2, steps + 1);
    }
    steps
}

/// Adds the second to the first, which must fit into few buckets together.
fn merge(a: &mut Buckets, b: &Buckets) {
    if b.counts.is_empty() {
        return;
    }
    if a.counts.is_empty() {
        a.clone_from(b);
        return;
    }
    let (low, high) = range(a, b);
    if high - low > 2 * MAX_BUCKETS {
        return;
    }
    let at = |of: &Buckets, i: i64| {
        let i = usize::try_from(i - i64::from(of.offset)).ok();
        i.and_then(|i| of.counts.get(i)).copied().unwrap_or(0)
    };
    let counts = (low..high).map(|i| at(a, i).wrapping_add(at(b, i))).collect();
    *a = Buckets { offset: low as i32, counts };
}

/// Appends attributes in a form that tells any two lists apart.
fn identify(key: &mut String, attributes: &[Attribute]) {
    let mut sorted: Vec<&Attribute> = attributes.iter().collect();
    sorted.sort();
    for (name, value) in sorted {
        let _ = write!(key, "{}:{name}{}:{value}", name.len(), value.len());
    }
    key.push(';');
}

impl State {
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_none_or(|at| now.duration_since(at) >= SWEEP) {
            self.swept = Some(now);
            self.streams.retain(|_, stream| now.duration_since(stream.seen) <= FORGET);
        }
    }

    /// Puts the sum in place of each point, and leaves out those that are too old. Whether some are left.
    fn points<T: Summed>(&mut self, metric: &str, points: &mut Vec<T>, now: Instant) -> bool {
        points.retain_mut(|point| {
            let mut key = metric.to_owned();
            identify(&mut key, &point.point().attributes);
            let Some(stream) = self.streams.get_mut(&key) else {
                if self.streams.len() >= MAX_STREAMS {
                    return false;
                }
                self.streams.insert(key, Stream { sum: point.clone().wrap(), seen: now });
                return true;
            };
            stream.seen = now;
            // Kinds are part of the key.
            let Some(sum) = T::of(&mut stream.sum) else { return false };
            let (start, time) = (point.point().start, point.point().time);
            if start < sum.point().start || time <= sum.point().time {
                return false;
            }
            sum.add(point.clone());
            sum.point().time = time;
            *point = sum.clone();
            true
        });
        !points.is_empty()
    }

    fn metric(&mut self, place: &str, metric: &mut Metric, now: Instant) -> bool {
        let key = |kind: &str| {
            format!("{place}{kind}{}:{}{}:{};", metric.name.len(), metric.name, metric.unit.len(), metric.unit)
        };
        match &mut metric.data {
            Data::Sum { points, temporality: kind @ Temporality::Delta, monotonic } => {
                *kind = Temporality::Cumulative;
                self.points(&key(if *monotonic { "+" } else { "=" }), points, now)
            }
            Data::Histogram { points, temporality: kind @ Temporality::Delta } => {
                *kind = Temporality::Cumulative;
                self.points(&key("h"), points, now)
            }
            Data::Exponential { points, temporality: kind @ Temporality::Delta } => {
                *kind = Temporality::Cumulative;
                self.points(&key("e"), points, now)
            }
            _ => true,
        }
    }
}

impl Sums {
    /// Puts sums in place of differences.
    pub fn cumulate(&self, resources: &mut [Resource], now: Instant) {
        let mut state = self.0.lock();
        state.sweep(now);
        for resource in resources {
            let mut of_resource = String::new();
            identify(&mut of_resource, &resource.attributes);
            for scope in &mut resource.scopes {
                let (name, version) = (&scope.name, &scope.version);
                let mut place = format!("{of_resource}{}:{name}{}:{version}", name.len(), version.len());
                identify(&mut place, &scope.attributes);
                scope.metrics.retain_mut(|metric| state.metric(&place, metric, now));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(start: u64, time: u64, value: f64) -> Number {
        Number { point: Point { start, time, ..Point::default() }, value, ..Number::default() }
    }

    fn request(data: Data) -> Vec<Resource> {
        let metric = Metric { name: "m".into(), data, ..Metric::default() };
        let scope = super::super::decode::Scope { metrics: vec![metric], ..Default::default() };
        vec![Resource { scopes: vec![scope], ..Resource::default() }]
    }

    #[test]
    fn differences_are_summed_and_old_ones_left_out() {
        let (sums, now) = (Sums::default(), Instant::now());
        let mut values = Vec::new();
        for (start, time, value) in [(1, 2, 1.0), (2, 3, 2.0), (2, 3, 4.0), (0, 9, 8.0), (3, 4, 16.0)] {
            let points = vec![number(start, time, value)];
            let mut all = request(Data::Sum { points, temporality: Temporality::Delta, monotonic: true });
            sums.cumulate(&mut all, now);
            match all[0].scopes[0].metrics.first().map(|m| &m.data) {
                Some(Data::Sum { points, temporality, .. }) => {
                    assert_eq!(*temporality, Temporality::Cumulative);
                    values.push((points[0].value, points[0].point.start, points[0].point.time));
                }
                _ => values.push((f64::INFINITY, 0, 0)),
            }
        }
        let out = (f64::INFINITY, 0, 0);
        assert_eq!(values, [(1.0, 1, 2), (3.0, 1, 3), out, out, (19.0, 1, 4)]);
        sums.0.lock().sweep(now + FORGET * 2);
        assert!(sums.0.lock().streams.is_empty());
    }

    #[test]
    fn buckets_meet_at_the_coarser_scale() {
        let of = |scale, offset, counts: &[u64]| Exponential {
            scale,
            positive: Buckets { offset, counts: counts.to_vec() },
            count: counts.iter().sum(),
            ..Exponential::default()
        };
        let mut a = of(1, -3, &[1, 2, 3, 4]);
        a.add(of(0, 0, &[5]));
        assert_eq!((a.scale, a.positive.clone()), (0, Buckets { offset: -2, counts: vec![1, 5, 9] }));
        // Far apart: coarser until all fit.
        let mut a = of(3, -100_000, &[1]);
        a.add(of(3, 100_000, &[1]));
        assert!(a.positive.counts.len() as i64 <= MAX_BUCKETS + 1 && a.positive.counts.iter().sum::<u64>() == 2);
        let mut a = of(i32::MAX, i32::MIN, &[1]);
        a.add(of(i32::MIN, i32::MAX, &[1]));
        assert_eq!(a.positive.counts.iter().sum::<u64>(), 2);
    }
}
