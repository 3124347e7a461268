//! Starts of counters that do not say when they began (`st-synthesis`): a series begins when it is first scraped, at what it
//! had by then. That first sample is not stored, later ones are told without what was counted before it, and where a
//! counter was reset it began again a millisecond before it was seen. As in Prometheus only of counters and histograms.

use std::sync::Arc;

use hashbrown::HashMap;
use narthex_model::{Histogram, MetricType};

/// What a series' samples are told from.
#[derive(Clone, Debug, Default)]
struct Beginning {
    /// When it began, in ms; 0 before the first sample.
    start: i64,
    /// Of floats the last value, and what is left out of each.
    float: (f64, f64),
    /// Of histograms likewise; nothing is left out after a reset.
    histogram: Option<(Arc<Histogram>, Option<Arc<Histogram>>)>,
}

/// A sample as it is to be stored.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Told {
    pub value: f64,
    pub histogram: Option<Arc<Histogram>>,
    pub start: i64,
    /// The first sample of its series, which is not stored.
    pub first: bool,
}

/// The series of a target whose starts are made up, by the hashes of their texts.
#[derive(Clone, Debug, Default)]
pub(super) struct Synthesis(HashMap<u64, Beginning, foldhash::fast::RandomState>);

impl Synthesis {
    pub fn knows(&self, key: u64) -> bool {
        self.0.contains_key(&key)
    }

    /// What was scraped at `t`, told from the series' beginning, which may be here.
    pub fn tell(&mut self, key: u64, t: i64, value: f64, histogram: Option<Arc<Histogram>>) -> Told {
        let known = self.0.entry(key).or_default();
        let first = known.start == 0;
        if first {
            known.start = t;
        }
        match histogram {
            None => {
                let (last, left_out) = &mut known.float;
                if first {
                    *left_out = value;
                } else if value < *last {
                    *left_out = 0.0;
                    known.start = t - 1;
                }
                *last = value;
                let value = if first { value } else { value - *left_out };
                Told { value, histogram: None, start: known.start, first }
            }
            Some(h) => {
                let before = known.histogram.take();
                let reset = !first && before.as_ref().is_some_and(|(last, _)| h.detect_reset(last));
                if reset {
                    known.start = t - 1;
                }
                let left_out = if first { Some(h.clone()) } else { before.filter(|_| !reset).and_then(|b| b.1) };
                let told = match &left_out {
                    Some(left_out) if !first => without(&h, left_out),
                    _ => h.clone(),
                };
                known.histogram = Some((h, left_out));
                Told { value, histogram: Some(told), start: known.start, first }
            }
        }
    }

    /// What comes next of the series is its first sample again.
    pub fn forget(&mut self, key: u64) {
        self.0.remove(&key);
    }

    pub fn forget_all(&mut self) {
        self.0 = HashMap::default();
    }

    /// Forgets all but these.
    pub fn keep(&mut self, keys: impl Iterator<Item = u64>) {
        if self.0.is_empty() {
            return;
        }
        let keys: std::collections::HashSet<u64> = keys.collect();
        self.0.retain(|key, _| keys.contains(key));
    }
}

fn without(h: &Histogram, left_out: &Histogram) -> Arc<Histogram> {
    let mut out = h.clone();
    if out.sub(left_out).is_ok() {
        out.compact();
    }
    out.counter_reset_hint = h.counter_reset_hint;
    Arc::new(out)
}

/// Whether samples of a metric of that name are told from their beginning, when the last family that the page described
/// is this one.
pub(super) fn is_counted(metric: &str, family: &str, kind: MetricType) -> bool {
    let cut =
        |text: &str, suffixes: &[&str]| suffixes.iter().find_map(|s| text.strip_suffix(s)).unwrap_or(text).to_owned();
    metric.starts_with(family)
        && match kind {
            MetricType::Counter => cut(family, &["_total"]) == cut(metric, &["_total"]),
            MetricType::Histogram => family == cut(metric, &["_bucket", "_sum", "_count"]),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families() {
        use MetricType::{Counter, Gauge, Histogram, Summary};
        for (metric, family, kind, expected) in [
            ("a_total", "a", Counter, true),
            ("a_total", "a_total", Counter, true),
            ("a", "a", Counter, true),
            ("a", "a_total", Counter, false),
            ("ab_total", "a", Counter, false),
            ("a", "a", Gauge, false),
            ("a_sum", "a", Summary, false),
            ("a_sum", "a", Histogram, true),
            ("a_bucket", "a", Histogram, true),
            ("a_other", "a", Histogram, false),
        ] {
            assert_eq!(is_counted(metric, family, kind), expected, "{metric} of {family}");
        }
    }

    #[test]
    fn floats() {
        let mut synthesis = Synthesis::default();
        let mut tell = |t, value| {
            let told = synthesis.tell(7, t, value, None);
            (told.value, told.start, told.first)
        };
        assert_eq!(tell(1000, 5.0), (5.0, 1000, true));
        assert_eq!(tell(2000, 5.0), (0.0, 1000, false));
        assert_eq!(tell(3000, 8.0), (3.0, 1000, false));
        assert_eq!(tell(4000, 2.0), (2.0, 3999, false));
        assert_eq!(tell(5000, 6.0), (6.0, 3999, false));
        synthesis.keep([8].into_iter());
        assert!(!synthesis.knows(7));
    }

    #[test]
    fn histograms() {
        let of = |buckets: [f64; 2]| {
            let count = buckets.iter().sum();
            Some(Arc::new(Histogram {
                count,
                sum: count,
                positive_spans: vec![narthex_model::histogram::Span { offset: 0, length: 2 }],
                positive_buckets: buckets.to_vec(),
                ..Histogram::default()
            }))
        };
        let mut synthesis = Synthesis::default();
        let mut tell = |t, buckets| {
            let told = synthesis.tell(7, t, 0.0, of(buckets));
            let h = told.histogram.unwrap();
            (h.positive_buckets.clone(), h.count, told.start, told.first)
        };
        assert_eq!(tell(1000, [1.0, 2.0]), (vec![1.0, 2.0], 3.0, 1000, true));
        assert_eq!(tell(2000, [1.0, 3.0]), (vec![1.0], 1.0, 1000, false));
        assert_eq!(tell(3000, [4.0, 3.0]), (vec![3.0, 1.0], 4.0, 1000, false));
        assert_eq!(tell(4000, [1.0, 1.0]), (vec![1.0, 1.0], 2.0, 3999, false));
        assert_eq!(tell(5000, [2.0, 1.0]), (vec![2.0, 1.0], 3.0, 3999, false));
    }
}
