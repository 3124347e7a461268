//! A store in memory: for tests of whatever appends, queries or follows, and for rule and expression tests from files.
//! Plain maps, no limits, no index.

mod follow;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use narthex_model::{Exemplar, Histogram, Labels, Matcher, Metadata, stale_nan};
use parking_lot::RwLock;

use follow::{Event, Followed};

use crate::{
    AppendOutcome, Appendable, FloatColumn, GroupAppender, GroupKey, HistogramColumn, LabelQuery, LabelResult,
    MetadataEntry, Place, PlacedSample, Queryable, ScrapeRow, SelectRequest, Series, SeriesSet, SeriesSpec, Slot,
    StorageError, TailValue, Values, WriteBatch,
};

#[derive(Clone, Debug)]
enum Sample {
    Float(f64),
    Histogram(Arc<Histogram>),
}

#[derive(Clone, Debug, Default)]
struct Stored {
    /// Timestamp to sample and start timestamp (0: unknown).
    samples: BTreeMap<i64, (Sample, i64)>,
    exemplars: Vec<Exemplar>,
}

#[derive(Default)]
struct Inner {
    series: BTreeMap<Labels, Stored>,
    metadata: BTreeMap<String, BTreeSet<Metadata>>,
    /// Series whose places were asked for.
    places: Vec<Labels>,
}

/// A handle; clones share the content.
#[derive(Clone, Default)]
pub struct MemoryStore {
    inner: Arc<RwLock<Inner>>,
    followed: Arc<Followed>,
}

impl MemoryStore {
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// Stores a float, replacing what is there; `start` is its start timestamp, 0 for none.
    pub fn put(&self, labels: &Labels, timestamp: i64, value: f64, start: i64) {
        let mut events = Vec::new();
        self.insert(labels, timestamp, Sample::Float(value), start, &mut events);
        self.followed.append(events);
    }

    /// Stores a histogram likewise.
    pub fn put_histogram(&self, labels: &Labels, timestamp: i64, value: Arc<Histogram>, start: i64) {
        let mut events = Vec::new();
        self.insert(labels, timestamp, Sample::Histogram(value), start, &mut events);
        self.followed.append(events);
    }

    /// Stores a sample of 0 at `start`, where one at `timestamp` follows and nothing is as late; `like` for histograms.
    fn put_zero(&self, labels: &Labels, start: i64, timestamp: i64, like: Option<&Histogram>, events: &mut Vec<Event>) {
        let newest = self.inner.read().series.get(labels).and_then(|s| s.samples.keys().next_back().copied());
        if start < timestamp && newest.is_none_or(|newest| start > newest) {
            let zero = like.map_or(Sample::Float(0.0), |h| Sample::Histogram(Arc::new(h.zero_like())));
            self.insert(labels, start, zero, 0, events);
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        *self.inner.write() = Inner::default();
    }

    fn insert(&self, labels: &Labels, timestamp: i64, sample: Sample, start: i64, events: &mut Vec<Event>) {
        let value = match &sample {
            Sample::Float(v) => TailValue::Float(*v),
            Sample::Histogram(h) => TailValue::Histogram(h.clone()),
        };
        events.push(Event::Sample { labels: labels.clone(), timestamp, start, value });
        self.inner.write().series.entry(labels.clone()).or_default().samples.insert(timestamp, (sample, start));
    }

    fn matching<T>(&self, query: &LabelQuery, mut each: impl FnMut(&Labels, &Stored) -> T) -> Vec<T> {
        let inner = self.inner.read();
        inner
            .series
            .iter()
            .filter(|(labels, stored)| {
                (query.selectors.is_empty() || query.selectors.iter().any(|s| Matcher::all_match(s, labels)))
                    && stored.samples.range(query.mint..=query.maxt).next().is_some()
            })
            .map(|(labels, stored)| each(labels, stored))
            .collect()
    }
}

fn limited<T: Ord>(values: impl IntoIterator<Item = T>, limit: usize) -> LabelResult<T> {
    let mut values: Vec<T> = values.into_iter().collect::<BTreeSet<T>>().into_iter().collect();
    let truncated = limit > 0 && values.len() > limit;
    if truncated {
        values.truncate(limit);
    }
    LabelResult { values, truncated, warnings: Vec::new() }
}

fn columns(labels: &Labels, stored: &Stored, mint: i64, maxt: i64) -> Series {
    let (mut times, mut values, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    let mut histograms = HistogramColumn::default();
    for (t, (sample, start)) in stored.samples.range(mint..=maxt) {
        match sample {
            Sample::Float(v) => {
                times.push(*t);
                values.push(*v);
                starts.push(*start);
            }
            Sample::Histogram(h) => {
                histograms.timestamps.push(*t);
                histograms.values.push(h.clone());
                histograms.start_timestamps.push(*start);
            }
        }
    }
    if histograms.start_timestamps.iter().all(|s| *s == 0) {
        histograms.start_timestamps.clear();
    }
    let start_timestamps = starts.iter().any(|s| *s != 0).then(|| starts.into());
    let floats = FloatColumn { timestamps: times.into(), values: Values::Dense(values), start_timestamps };
    Series { labels: labels.clone(), floats, histograms, order: 0 }
}

impl Queryable for MemoryStore {
    fn select(&self, request: SelectRequest) -> BoxFuture<'_, Result<SeriesSet, StorageError>> {
        async move {
            let inner = self.inner.read();
            let series = inner
                .series
                .iter()
                .filter(|(labels, _)| Matcher::all_match(&request.matchers, labels))
                .map(|(labels, stored)| columns(labels, stored, request.mint, request.maxt))
                .filter(|s| !s.floats.is_empty() || !s.histograms.timestamps.is_empty());
            let mut all = Vec::new();
            for series in series {
                request.hints.meter.series(1)?;
                all.push(series);
            }
            request.hints.trace.add("series", all.len() as u64);
            Ok(SeriesSet::from_series(all))
        }
        .boxed()
    }

    fn series(&self, query: LabelQuery) -> BoxFuture<'_, Result<LabelResult<Labels>, StorageError>> {
        async move {
            let all = self.matching(&query, |labels, _| labels.clone());
            query.meter.series(all.len())?;
            Ok(limited(all, query.limit))
        }
        .boxed()
    }

    fn label_names(&self, query: LabelQuery) -> BoxFuture<'_, Result<LabelResult<String>, StorageError>> {
        async move {
            let sets = self.matching(&query, |labels, _| labels.clone());
            Ok(limited(sets.iter().flat_map(|l| l.iter().map(|(n, _)| n.to_owned())), query.limit))
        }
        .boxed()
    }

    fn label_values(&self, name: &str, query: LabelQuery) -> BoxFuture<'_, Result<LabelResult<String>, StorageError>> {
        let name = name.to_owned();
        async move {
            let values = self.matching(&query, |labels, _| labels.get(&name).map(str::to_owned));
            Ok(limited(values.into_iter().flatten(), query.limit))
        }
        .boxed()
    }

    fn exemplars(&self, query: LabelQuery) -> BoxFuture<'_, Result<Vec<(Labels, Vec<Exemplar>)>, StorageError>> {
        async move {
            let inner = self.inner.read();
            let in_range = |e: &&Exemplar| (query.mint..=query.maxt).contains(&e.timestamp);
            Ok(inner
                .series
                .iter()
                .filter(|(l, _)| query.selectors.iter().any(|s| Matcher::all_match(s, l)))
                .map(|(l, s)| (l.clone(), s.exemplars.iter().filter(in_range).cloned().collect::<Vec<_>>()))
                .filter(|(_, e)| !e.is_empty())
                .collect())
        }
        .boxed()
    }

    fn metadata(&self, metric: Option<&str>) -> BoxFuture<'_, Result<Vec<MetadataEntry>, StorageError>> {
        let metric = metric.map(str::to_owned);
        async move {
            let inner = self.inner.read();
            Ok(inner
                .metadata
                .iter()
                .filter(|(name, _)| metric.as_ref().is_none_or(|m| m == *name))
                .flat_map(|(name, all)| all.iter().map(|m| MetadataEntry { metric: name.clone(), metadata: m.clone() }))
                .collect())
        }
        .boxed()
    }
}

impl Appendable for MemoryStore {
    fn group(&self, _key: &GroupKey) -> Result<Box<dyn GroupAppender>, StorageError> {
        Ok(Box::new(MemoryGroup { store: self.clone(), slots: Vec::new(), by_labels: HashMap::new() }))
    }

    fn write(&self, batch: &WriteBatch) -> Result<AppendOutcome, StorageError> {
        let (mut outcome, mut events) = (AppendOutcome::default(), Vec::new());
        for series in &batch.series {
            for (i, (t, v)) in series.samples.iter().enumerate() {
                let start = series.start_timestamps.get(i).copied().unwrap_or(0);
                if series.zeros && start != 0 {
                    self.put_zero(&series.labels, start, *t, None, &mut events);
                }
                self.insert(&series.labels, *t, Sample::Float(*v), start, &mut events);
                outcome.appended += 1;
            }
            for (i, (t, h)) in series.histograms.iter().enumerate() {
                let start = series.histogram_starts.get(i).copied().unwrap_or(0);
                if series.zeros && start != 0 {
                    self.put_zero(&series.labels, start, *t, Some(h), &mut events);
                }
                self.insert(&series.labels, *t, Sample::Histogram(h.clone()), start, &mut events);
                outcome.appended += 1;
            }
            if !series.exemplars.is_empty() {
                let mut inner = self.inner.write();
                inner.series.entry(series.labels.clone()).or_default().exemplars.extend_from_slice(&series.exemplars);
                let of = |e: &Exemplar| Event::Exemplar(series.labels.clone(), e.clone());
                events.extend(series.exemplars.iter().map(of));
                outcome.exemplars += series.exemplars.len() as u64;
            }
        }
        self.followed.append(events);
        Ok(outcome)
    }

    fn places(&self, labels: &[&Labels]) -> Vec<Option<Place>> {
        let mut inner = self.inner.write();
        let Inner { series, places, .. } = &mut *inner;
        let mut place = |labels: &Labels| {
            series.contains_key(labels).then(|| {
                places.push(labels.clone());
                let number = places.len() as u32 - 1;
                Place { group: 0, column: number, series: number }
            })
        };
        labels.iter().map(|l| place(l)).collect()
    }

    fn write_placed(&self, samples: &[PlacedSample], lost: &mut Vec<usize>) -> Result<AppendOutcome, StorageError> {
        let (mut outcome, mut events) = (AppendOutcome::default(), Vec::new());
        for (i, PlacedSample { place, timestamp, value }) in samples.iter().enumerate() {
            let labels = self.inner.read().places.get(place.column as usize).cloned();
            match labels {
                Some(labels) => {
                    self.insert(&labels, *timestamp, Sample::Float(*value), 0, &mut events);
                    outcome.appended += 1;
                }
                None => lost.push(i),
            }
        }
        self.followed.append(events);
        Ok(outcome)
    }

    fn put_metadata(&self, entries: &[(String, Metadata)]) {
        let mut inner = self.inner.write();
        for (name, metadata) in entries {
            inner.metadata.entry(name.clone()).or_default().insert(metadata.clone());
        }
    }
}

struct MemoryGroup {
    store: MemoryStore,
    slots: Vec<Labels>,
    by_labels: HashMap<Labels, Slot>,
}

impl GroupAppender for MemoryGroup {
    fn register(&mut self, spec: SeriesSpec<'_>) -> Result<Slot, StorageError> {
        let next = self.slots.len() as Slot;
        Ok(*self.by_labels.entry(spec.labels.clone()).or_insert_with(|| {
            self.slots.push(spec.labels.clone());
            next
        }))
    }

    fn commit(&mut self, row: &ScrapeRow<'_>) -> Result<AppendOutcome, StorageError> {
        let labels = |slot: Slot| &self.slots[slot as usize];
        let store = &self.store;
        let mut events = Vec::new();
        for z in row.zeros {
            store.put_zero(labels(z.slot), z.start, row.timestamp, z.like.as_deref(), &mut events);
        }
        let start = |slot: Slot| row.start_timestamps.iter().find(|s| s.0 == slot).map_or(0, |s| s.1);
        for (slot, value) in row.slots.iter().zip(row.values) {
            store.insert(labels(*slot), row.timestamp, Sample::Float(*value), start(*slot), &mut events);
        }
        for slot in row.stale {
            store.insert(labels(*slot), row.timestamp, Sample::Float(stale_nan()), 0, &mut events);
        }
        for (slot, histogram) in row.histograms {
            let sample = Sample::Histogram(histogram.clone());
            store.insert(labels(*slot), row.timestamp, sample, start(*slot), &mut events);
        }
        for own in row.own {
            if own.zero != 0 {
                store.put_zero(labels(own.slot), own.zero, own.timestamp, own.histogram.as_deref(), &mut events);
            }
            let sample = own.histogram.clone().map_or(Sample::Float(own.value), Sample::Histogram);
            store.insert(labels(own.slot), own.timestamp, sample, own.start, &mut events);
        }
        for (slot, exemplar) in row.exemplars {
            let mut inner = self.store.inner.write();
            inner.series.entry(labels(*slot).clone()).or_default().exemplars.push(exemplar.clone());
            events.push(Event::Exemplar(labels(*slot).clone(), exemplar.clone()));
        }
        self.store.followed.append(events);
        let appended = (row.slots.len() + row.histograms.len() + row.own.len()) as u64;
        Ok(AppendOutcome { appended, exemplars: row.exemplars.len() as u64, ..AppendOutcome::default() })
    }

    fn retire(&mut self, slots: &[Slot]) {
        let labels = slots.iter().filter_map(|slot| self.slots.get(*slot as usize));
        self.store.followed.append(labels.map(|l| Event::Retired(l.clone())).collect());
    }
}

/// Answers selections by a function and knows nothing of labels: for tests and benchmarks of what evaluates.
pub struct SelectOnly<F>(pub F);

impl<F: Fn(&SelectRequest) -> SeriesSet + Send + Sync> Queryable for SelectOnly<F> {
    fn select(&self, request: SelectRequest) -> BoxFuture<'_, Result<SeriesSet, StorageError>> {
        futures::future::ready(Ok((self.0)(&request))).boxed()
    }

    fn series(&self, _: LabelQuery) -> BoxFuture<'_, Result<LabelResult<Labels>, StorageError>> {
        futures::future::ready(Ok(LabelResult::default())).boxed()
    }

    fn label_names(&self, _: LabelQuery) -> BoxFuture<'_, Result<LabelResult<String>, StorageError>> {
        futures::future::ready(Ok(LabelResult::default())).boxed()
    }

    fn label_values(&self, _: &str, _: LabelQuery) -> BoxFuture<'_, Result<LabelResult<String>, StorageError>> {
        futures::future::ready(Ok(LabelResult::default())).boxed()
    }

    fn exemplars(&self, _: LabelQuery) -> BoxFuture<'_, Result<Vec<(Labels, Vec<Exemplar>)>, StorageError>> {
        futures::future::ready(Ok(Vec::new())).boxed()
    }

    fn metadata(&self, _: Option<&str>) -> BoxFuture<'_, Result<Vec<MetadataEntry>, StorageError>> {
        futures::future::ready(Ok(Vec::new())).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WriteSeries;

    #[test]
    fn samples_of_zero_go_to_starts() {
        let store = MemoryStore::new();
        let labels = Labels::from_pairs([("__name__", "c")]);
        let (samples, start_timestamps) = (vec![(20, 1.0), (30, 2.0), (50, 1.0)], vec![10, 10, 40]);
        let series = WriteSeries { labels, samples, start_timestamps, zeros: true, ..WriteSeries::default() };
        store.write(&WriteBatch { series: vec![series] }).unwrap();
        let request = SelectRequest::new(vec![Matcher::equal("__name__", "c")], 0, 100);
        let set = futures::executor::block_on(store.select(request)).unwrap().collect_sorted().unwrap();
        let floats: Vec<_> = set[0].floats.iter().collect();
        assert_eq!(floats, [(10, 0.0), (20, 1.0), (30, 2.0), (40, 0.0), (50, 1.0)]);
    }

    #[test]
    fn a_scrape_comes_back_as_columns() {
        let store = MemoryStore::new();
        let mut group = store.group(&GroupKey("t".into())).unwrap();
        let labels = Labels::from_pairs([("__name__", "up"), ("job", "j")]);
        let slot = group.register(SeriesSpec::new(&labels)).unwrap();
        for t in [10, 20] {
            group
                .commit(&ScrapeRow { timestamp: t, slots: &[slot], values: &[t as f64], ..ScrapeRow::default() })
                .unwrap();
        }
        let request = SelectRequest::new(vec![Matcher::equal("__name__", "up")], 0, 15);
        let set = futures::executor::block_on(store.select(request)).unwrap().collect_sorted().unwrap();
        assert_eq!(set.len(), 1);
        assert_eq!(set[0].floats.iter().collect::<Vec<_>>(), [(10, 10.0)]);
        let names = futures::executor::block_on(store.label_names(LabelQuery { maxt: 30, ..LabelQuery::default() }));
        assert_eq!(names.unwrap().values, ["__name__", "job"]);
    }
}
