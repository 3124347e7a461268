//! Whether a result is the expected one.

use narthex_model::{Histogram, is_stale};

use super::Eval;
use super::expect::Expectation;
use super::series::Place;
use crate::functions::histogram::almost_equal;
use crate::value::{MatrixSeries, Point, Value};

const EPSILON: f64 = 1e-6;

fn almost(a: f64, b: f64) -> bool {
    if is_stale(a) || is_stale(b) {
        return is_stale(a) && is_stale(b);
    }
    almost_equal(a, b, EPSILON)
}

fn same_histogram(expected: &Histogram, actual: &Histogram, hinted: bool) -> bool {
    let (mut e, mut a) = (expected.clone(), actual.clone());
    e.compact();
    a.compact();
    let all = |x: &[f64], y: &[f64]| x.len() == y.len() && x.iter().zip(y).all(|(x, y)| almost(*x, *y));
    e.schema == a.schema
        && almost(e.count, a.count)
        && almost(e.sum, a.sum)
        && (!e.uses_custom_buckets() || e.custom_values == a.custom_values)
        && e.zero_threshold == a.zero_threshold
        && almost(e.zero_count, a.zero_count)
        && e.positive_spans == a.positive_spans
        && e.negative_spans == a.negative_spans
        && all(&e.positive_buckets, &a.positive_buckets)
        && all(&e.negative_buckets, &a.negative_buckets)
        && (!hinted || e.counter_reset_hint == a.counter_reset_hint)
}

fn same_point(expected: &Place, actual: &Point) -> Result<(), String> {
    let fits = match (&expected.point, actual) {
        (Some(Point::Float(e)), Point::Float(a)) => almost(*e, *a),
        (Some(Point::Histogram(e)), Point::Histogram(a)) => same_histogram(e, a, expected.hinted),
        _ => false,
    };
    let show = |p: &Point| match p {
        Point::Float(v) => v.to_string(),
        Point::Histogram(h) => h.test_expression(),
    };
    if fits {
        return Ok(());
    }
    Err(format!("expected {}, got {}", expected.point.as_ref().map_or("nothing".into(), show), show(actual)))
}

impl Eval {
    pub(super) fn compare(&self, value: &Value) -> Result<(), String> {
        if let Some(Expectation::Text(expected)) = self.expectations.iter().find(|e| matches!(e, Expectation::Text(_)))
        {
            return match value {
                Value::String { value, .. } if value == expected => Ok(()),
                other => Err(format!("expected the string {expected:?}, got {other:?}")),
            };
        }
        match value {
            Value::Scalar { value, .. } => match self.scalar {
                Some(expected) if almost(expected, *value) => Ok(()),
                Some(expected) => Err(format!("expected {expected}, got {value}")),
                None => Err(format!("unexpected scalar {value}")),
            },
            Value::String { value, .. } => Err(format!("unexpected string {value:?}")),
            _ if self.scalar.is_some() => Err(format!("expected a scalar, got {value:?}")),
            Value::Vector(samples) => {
                let ordered = self.expectations.contains(&Expectation::Ordered);
                for (i, sample) in samples.iter().enumerate() {
                    let at = self.series.iter().rposition(|d| d.labels == sample.labels);
                    let Some(at) = at else {
                        return Err(format!("unexpected series {} with {:?}", sample.labels, sample.point));
                    };
                    if ordered && at != i {
                        return Err(format!("expected {} at place {at}, but it is at {i}", sample.labels));
                    }
                    let place = self.series[at].places.first().cloned().unwrap_or_default();
                    same_point(&place, &sample.point).map_err(|e| format!("{}: {e}", sample.labels))?;
                }
                match self.series.iter().find(|d| !samples.iter().any(|s| s.labels == d.labels)) {
                    Some(missing) => Err(format!("expected series {}, not found", missing.labels)),
                    None => Ok(()),
                }
            }
            Value::Matrix(matrix) => self.compare_matrix(matrix),
        }
    }

    fn compare_matrix(&self, matrix: &[MatrixSeries]) -> Result<(), String> {
        if !matrix.is_sorted_by(|a, b| a.labels < b.labels) {
            return Err("the matrix is not sorted by labels".into());
        }
        let (start, step) = self
            .expectations
            .iter()
            .find_map(|e| match e {
                Expectation::RangeVector { start, step, .. } => Some((*start, *step)),
                _ => None,
            })
            .unwrap_or((self.start, self.step.unwrap_or(1)));
        for series in matrix {
            let Some(expected) = self.series.iter().rev().find(|d| d.labels == series.labels) else {
                return Err(format!("unexpected series {} with {:?}", series.labels, series.floats));
            };
            let mut points: Vec<(i64, Point)> = series.floats.iter().map(|(t, v)| (*t, Point::Float(*v))).collect();
            points.extend(series.histograms.iter().map(|(t, h)| (*t, Point::Histogram(h.clone()))));
            points.sort_by_key(|(t, _)| *t);
            let wanted: Vec<(i64, &Place)> = expected
                .places
                .iter()
                .enumerate()
                .filter(|(_, p)| p.point.is_some())
                .map(|(i, p)| (start + i as i64 * step, p))
                .collect();
            if wanted.len() != points.len() {
                return Err(format!("{}: expected {} points, got {points:?}", series.labels, wanted.len()));
            }
            for ((t, place), (at, point)) in wanted.iter().zip(&points) {
                if t != at {
                    return Err(format!("{}: expected a point at {t}, got one at {at}", series.labels));
                }
                same_point(place, point).map_err(|e| format!("{} at {t}: {e}", series.labels))?;
            }
        }
        match self.series.iter().find(|d| !matrix.iter().any(|s| s.labels == d.labels)) {
            Some(missing) => Err(format!("expected series {}, not found", missing.labels)),
            None => Ok(()),
        }
    }
}
