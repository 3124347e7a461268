//! Own metrics: handles that are cheap to move, a registry that gathers them, and the text formats.
//!
//! Names and help texts are given in full (`…_total` included), because dashboards and alerts go by Prometheus's own
//! names. Whoever owns figures of another kind registers a collector, which is asked at every gathering.
//!
//! Deliberately absent: native histograms and exemplars of own metrics.

mod text;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

pub use text::{OPENMETRICS_TYPE, TEXT_TYPE, float, write_openmetrics, write_text};

/// The type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
    Untyped,
}

/// All samples of one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// With `_total` where it is a counter.
    pub name: String,
    pub help: String,
    pub kind: Kind,
    pub metrics: Vec<Metric>,
}

/// One label set and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// In the order in which the owner declared them.
    pub labels: Vec<(String, String)>,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Single(f64),
    /// Upper bounds without +Inf and their cumulative counts.
    Histogram {
        count: u64,
        sum: f64,
        buckets: Vec<(f64, u64)>,
    },
    /// Quantiles and their values.
    Summary {
        count: u64,
        sum: f64,
        quantiles: Vec<(f64, f64)>,
    },
}

impl Family {
    pub fn new(name: &str, help: &str, kind: Kind) -> Family {
        Family { name: name.to_owned(), help: help.to_owned(), kind, metrics: Vec::new() }
    }

    /// A family of one sample without labels.
    pub fn single(name: &str, help: &str, kind: Kind, value: f64) -> Family {
        Family::new(name, help, kind).with(&[], value)
    }

    /// Adds a sample.
    pub fn with(mut self, labels: &[(&str, &str)], value: f64) -> Family {
        self.push(labels, value);
        self
    }

    /// Adds a sample.
    pub fn push(&mut self, labels: &[(&str, &str)], value: f64) {
        let labels = labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        self.metrics.push(Metric { labels, value: Value::Single(value) });
    }
}

/// A number that only grows. Clones are the same counter.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

/// A number that moves. Clones are the same gauge.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicU64>);

fn add(cell: &AtomicU64, v: f64) {
    let _ = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| Some((f64::from_bits(bits) + v).to_bits()));
}

impl Counter {
    pub fn inc(&self) {
        self.add(1.0);
    }

    /// Negative amounts are ignored.
    pub fn add(&self, v: f64) {
        if v > 0.0 {
            add(&self.0, v);
        }
    }

    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// One more in a gauge, for as long as this lives ([`Gauge::hold`]).
pub struct Held(Gauge);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.add(-1.0);
    }
}

impl Gauge {
    /// Adds one until the answer is dropped.
    pub fn hold(&self) -> Held {
        self.add(1.0);
        Held(self.clone())
    }

    pub fn set(&self, v: f64) {
        self.0.store(v.to_bits(), Ordering::Relaxed);
    }

    pub fn add(&self, v: f64) {
        add(&self.0, v);
    }

    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// A classic histogram. Clones are the same histogram.
#[derive(Clone, Debug)]
pub struct Histogram(Arc<HistogramCells>);

#[derive(Debug)]
struct HistogramCells {
    bounds: Vec<f64>,
    counts: Vec<AtomicU64>,
    sum: AtomicU64,
}

impl Histogram {
    /// Upper bounds, ascending, without +Inf.
    pub fn new(bounds: &[f64]) -> Histogram {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram(Arc::new(HistogramCells { bounds: bounds.to_vec(), counts, sum: AtomicU64::new(0) }))
    }

    pub fn observe(&self, v: f64) {
        let i = self.0.bounds.partition_point(|b| *b < v);
        self.0.counts[i].fetch_add(1, Ordering::Relaxed);
        add(&self.0.sum, v);
    }

    fn value(&self) -> Value {
        let mut count = 0;
        let mut buckets = Vec::with_capacity(self.0.bounds.len());
        for (i, cell) in self.0.counts.iter().enumerate() {
            count += cell.load(Ordering::Relaxed);
            if let Some(bound) = self.0.bounds.get(i) {
                buckets.push((*bound, count));
            }
        }
        Value::Histogram { count, sum: f64::from_bits(self.0.sum.load(Ordering::Relaxed)), buckets }
    }
}

/// A summary over the newest observations: quantiles of the last 512, count and sum of all. Clones are the same.
#[derive(Clone, Debug)]
pub struct Summary(Arc<parking_lot::Mutex<SummaryState>>);

#[derive(Debug)]
struct SummaryState {
    quantiles: Vec<f64>,
    recent: std::collections::VecDeque<f64>,
    count: u64,
    sum: f64,
}

const SUMMARY_WINDOW: usize = 512;

impl Summary {
    pub fn new(quantiles: &[f64]) -> Summary {
        let state = SummaryState { quantiles: quantiles.to_vec(), recent: Default::default(), count: 0, sum: 0.0 };
        Summary(Arc::new(parking_lot::Mutex::new(state)))
    }

    pub fn observe(&self, v: f64) {
        let mut state = self.0.lock();
        if state.recent.len() == SUMMARY_WINDOW {
            state.recent.pop_front();
        }
        state.recent.push_back(v);
        state.count += 1;
        state.sum += v;
    }

    fn value(&self) -> Value {
        let state = self.0.lock();
        let mut sorted: Vec<f64> = state.recent.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |q: f64| {
            let rank = ((q * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
            sorted.get(rank).copied().unwrap_or(f64::NAN)
        };
        let quantiles = state.quantiles.iter().map(|q| (*q, at(*q))).collect();
        Value::Summary { count: state.count, sum: state.sum, quantiles }
    }
}

/// What a family can be made of.
pub trait Cell: Clone + Send + Sync + 'static {
    fn read(&self) -> Value;
}

impl Cell for Counter {
    fn read(&self) -> Value {
        Value::Single(self.get())
    }
}

impl Cell for Gauge {
    fn read(&self) -> Value {
        Value::Single(self.get())
    }
}

impl Cell for Histogram {
    fn read(&self) -> Value {
        self.value()
    }
}

impl Cell for Summary {
    fn read(&self) -> Value {
        self.value()
    }
}

/// Cells by label values. Clones are the same.
#[derive(Clone)]
pub struct Labelled<C: Cell>(Arc<LabelledState<C>>);

struct LabelledState<C> {
    names: Vec<&'static str>,
    cells: RwLock<BTreeMap<Vec<String>, C>>,
    make: Box<dyn Fn() -> C + Send + Sync>,
}

impl<C: Cell> Labelled<C> {
    /// The cell of these values, in the order of the label names; made when it is new.
    pub fn with(&self, values: &[&str]) -> C {
        debug_assert_eq!(values.len(), self.0.names.len());
        let key: Vec<String> = values.iter().map(|v| (*v).to_owned()).collect();
        if let Some(cell) = self.0.cells.read().get(&key) {
            return cell.clone();
        }
        self.0.cells.write().entry(key).or_insert_with(|| (self.0.make)()).clone()
    }

    /// Forgets the cell of these values.
    pub fn remove(&self, values: &[&str]) {
        let key: Vec<String> = values.iter().map(|v| (*v).to_owned()).collect();
        self.0.cells.write().remove(&key);
    }

    /// Forgets all but those that `keep` wants.
    pub fn retain(&self, keep: impl Fn(&[String]) -> bool) {
        self.0.cells.write().retain(|values, _| keep(values));
    }

    fn metrics(&self) -> Vec<Metric> {
        let cells = self.0.cells.read();
        let named = |values: &[String]| {
            self.0.names.iter().zip(values).map(|(n, v)| ((*n).to_owned(), v.clone())).collect::<Vec<_>>()
        };
        cells.iter().map(|(values, cell)| Metric { labels: named(values), value: cell.read() }).collect()
    }
}

type Collector = Box<dyn Fn(&mut Vec<Family>) + Send + Sync>;

/// All that the process exposes. Clones are the same registry.
#[derive(Clone, Default)]
pub struct Registry(Arc<RwLock<Vec<Collector>>>);

impl Registry {
    pub fn new() -> Registry {
        Registry::default()
    }

    /// Adds families that are made at every gathering. Families of one name from several collectors are merged.
    pub fn register(&self, collect: impl Fn(&mut Vec<Family>) + Send + Sync + 'static) {
        self.0.write().push(Box::new(collect));
    }

    fn cell<C: Cell>(&self, name: &'static str, help: &'static str, kind: Kind, cell: C) -> C {
        let read = cell.clone();
        self.register(move |out| {
            let metrics = vec![Metric { labels: Vec::new(), value: read.read() }];
            out.push(Family { metrics, ..Family::new(name, help, kind) });
        });
        cell
    }

    fn labelled<C: Cell>(
        &self,
        name: &'static str,
        help: &'static str,
        kind: Kind,
        names: &[&'static str],
        make: impl Fn() -> C + Send + Sync + 'static,
    ) -> Labelled<C> {
        let state = LabelledState { names: names.to_vec(), cells: RwLock::default(), make: Box::new(make) };
        let labelled = Labelled(Arc::new(state));
        let read = labelled.clone();
        self.register(move |out| out.push(Family { metrics: read.metrics(), ..Family::new(name, help, kind) }));
        labelled
    }

    pub fn counter(&self, name: &'static str, help: &'static str) -> Counter {
        self.cell(name, help, Kind::Counter, Counter::default())
    }

    pub fn gauge(&self, name: &'static str, help: &'static str) -> Gauge {
        self.cell(name, help, Kind::Gauge, Gauge::default())
    }

    pub fn histogram(&self, name: &'static str, help: &'static str, bounds: &[f64]) -> Histogram {
        self.cell(name, help, Kind::Histogram, Histogram::new(bounds))
    }

    pub fn summary(&self, name: &'static str, help: &'static str, quantiles: &[f64]) -> Summary {
        self.cell(name, help, Kind::Summary, Summary::new(quantiles))
    }

    pub fn counters(&self, name: &'static str, help: &'static str, names: &[&'static str]) -> Labelled<Counter> {
        self.labelled(name, help, Kind::Counter, names, Counter::default)
    }

    pub fn gauges(&self, name: &'static str, help: &'static str, names: &[&'static str]) -> Labelled<Gauge> {
        self.labelled(name, help, Kind::Gauge, names, Gauge::default)
    }

    pub fn histograms(
        &self,
        name: &'static str,
        help: &'static str,
        names: &[&'static str],
        bounds: &'static [f64],
    ) -> Labelled<Histogram> {
        self.labelled(name, help, Kind::Histogram, names, move || Histogram::new(bounds))
    }

    pub fn summaries(
        &self,
        name: &'static str,
        help: &'static str,
        names: &[&'static str],
        quantiles: &'static [f64],
    ) -> Labelled<Summary> {
        self.labelled(name, help, Kind::Summary, names, move || Summary::new(quantiles))
    }

    /// All families that have samples, sorted by name, each name once.
    pub fn gather(&self) -> Vec<Family> {
        let mut all = Vec::new();
        for collect in self.0.read().iter() {
            collect(&mut all);
        }
        let mut by_name: BTreeMap<String, Family> = BTreeMap::new();
        for family in all.into_iter().filter(|f: &Family| !f.metrics.is_empty()) {
            match by_name.get_mut(&family.name) {
                Some(known) => known.metrics.extend(family.metrics),
                None => {
                    by_name.insert(family.name.clone(), family);
                }
            }
        }
        by_name.into_values().collect()
    }

    /// The value of a sample without labels, if there is one.
    pub fn value(&self, name: &str) -> Option<f64> {
        let family = self.gather().into_iter().find(|f| f.name == name)?;
        match family.metrics.first()?.value {
            Value::Single(v) => Some(v),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry() -> Registry {
        let r = Registry::new();
        r.counter("a_total", "Counts \\ a\nb.").add(2.0);
        r.gauges("g", "A gauge.", &["x"]).with(&["q\"\\\n"]).set(-0.5);
        let h = r.histogram("h_seconds", "Times.", &[0.1, 1.0]);
        h.observe(0.1);
        h.observe(5.0);
        r.summaries("s_seconds", "Sums.", &["slice"], &[0.5, 0.99]).with(&["inner"]).observe(3.0);
        r.counters("never_total", "No samples.", &["l"]);
        r
    }

    #[test]
    fn text_format() {
        let mut out = String::new();
        write_text(&mut out, &registry().gather());
        let expected = "# HELP a_total Counts \\\\ a\\nb.\n# TYPE a_total counter\na_total 2\n\
            # HELP g A gauge.\n# TYPE g gauge\ng{x=\"q\\\"\\\\\\n\"} -0.5\n\
            # HELP h_seconds Times.\n# TYPE h_seconds histogram\n\
            h_seconds_bucket{le=\"0.1\"} 1\nh_seconds_bucket{le=\"1\"} 1\nh_seconds_bucket{le=\"+Inf\"} 2\n\
            h_seconds_sum 5.1\nh_seconds_count 2\n\
            # HELP s_seconds Sums.\n# TYPE s_seconds summary\n\
            s_seconds{slice=\"inner\",quantile=\"0.5\"} 3\ns_seconds{slice=\"inner\",quantile=\"0.99\"} 3\n\
            s_seconds_sum{slice=\"inner\"} 3\ns_seconds_count{slice=\"inner\"} 1\n";
        assert_eq!(out, expected);
    }

    #[test]
    fn openmetrics() {
        let mut out = String::new();
        write_openmetrics(&mut out, &registry().gather());
        let expected = "# HELP a Counts \\\\ a\\nb.\n# TYPE a counter\na_total 2.0\n\
            # HELP g A gauge.\n# TYPE g gauge\ng{x=\"q\\\"\\\\\\n\"} -0.5\n\
            # HELP h_seconds Times.\n# TYPE h_seconds histogram\n\
            h_seconds_bucket{le=\"0.1\"} 1\nh_seconds_bucket{le=\"1.0\"} 1\nh_seconds_bucket{le=\"+Inf\"} 2\n\
            h_seconds_sum 5.1\nh_seconds_count 2\n\
            # HELP s_seconds Sums.\n# TYPE s_seconds summary\n\
            s_seconds{slice=\"inner\",quantile=\"0.5\"} 3.0\ns_seconds{slice=\"inner\",quantile=\"0.99\"} 3.0\n\
            s_seconds_sum{slice=\"inner\"} 3.0\ns_seconds_count{slice=\"inner\"} 1\n# EOF\n";
        assert_eq!(out, expected);
    }

    #[test]
    fn one_name_from_two_owners_is_one_family() {
        let r = Registry::new();
        r.register(|out| out.push(Family::new("x", "", Kind::Gauge).with(&[("a", "1")], 1.0)));
        r.register(|out| out.push(Family::new("x", "", Kind::Gauge).with(&[("a", "2")], 2.0)));
        assert_eq!(r.gather().len(), 1);
        assert_eq!(r.gather()[0].metrics.len(), 2);
    }
}
