//! Answering: which series, and their columns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use hashbrown::HashMap;
use narthex_model::{Exemplar, Labels, Matcher};
use narthex_storage::{
    Batch, ErrorKind, FloatColumn, HistogramColumn, LabelQuery, LabelResult, MetadataEntry, Queryable, SelectRequest,
    Series, SeriesSet, StorageError, Values,
};
use roaring::RoaringBitmap;

use crate::assemble::{Assembler, Pieces};
use crate::row::is_absent;
use crate::series::{Home, Registry, SeriesId, minute};
use crate::store::Inner;
use crate::view::{GroupView, Histograms, Wanted};
use crate::{Store, TsdbError, dead};

/// Something that has samples of a series.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Source {
    group: u32,
    id: SeriesId,
    /// In the group's windows, while it is in memory.
    column: Option<u32>,
}

/// A selected series.
struct Selected {
    labels: Labels,
    sources: Vec<Source>,
}

type Views = BTreeMap<u32, GroupView>;

impl Inner {
    fn check_query(&self, mint: i64, maxt: i64) -> Result<(), StorageError> {
        if self.closed.load(std::sync::atomic::Ordering::Acquire) {
            return Err(StorageError::new(ErrorKind::Unavailable, "the store is closed"));
        }
        if mint > maxt {
            return Err(StorageError::new(ErrorKind::BadRequest, format!("mint {mint} after maxt {maxt}")));
        }
        Ok(())
    }

    /// The series that match and may have samples in the range, by the group of their first source.
    fn select(
        &self,
        matchers: &[Matcher],
        mint: i64,
        maxt: i64,
        warnings: &mut Vec<String>,
    ) -> Result<BTreeMap<u32, Vec<Selected>>, TsdbError> {
        let mut all: Vec<Selected> = Vec::new();
        {
            let registry = self.registry.read();
            let latest = minute(maxt);
            let mut ids = registry.select(matchers);
            registry.without_later(&mut ids, maxt);
            for id in ids {
                if registry.first_minute(id) > latest {
                    continue;
                }
                let Some(labels) = registry.labels(id) else { continue };
                let source = |h: Home| Source { group: h.group, id, column: Some(h.column) };
                all.push(Selected { labels, sources: registry.homes(id).map(source).collect() });
            }
        }
        let mut by_labels: Option<HashMap<Labels, usize>> = None;
        let damaged = dead::select(
            &self.db,
            |name| self.directory.metric(name),
            matchers,
            mint,
            maxt,
            |found| {
                let by_labels = by_labels
                    .get_or_insert_with(|| all.iter().enumerate().map(|(i, s)| (s.labels.clone(), i)).collect());
                let source = Source { group: found.group, id: found.id, column: None };
                let i = *by_labels.entry(found.labels).or_insert_with_key(|labels| {
                    all.push(Selected { labels: labels.clone(), sources: Vec::new() });
                    all.len() - 1
                });
                let sources = &mut all[i].sources;
                if !sources.iter().any(|s| s.group == source.group && s.id == source.id) {
                    sources.push(source);
                }
            },
        )?;
        if damaged > 0 {
            warnings.push(format!("{damaged} records of series are damaged and left out"));
        }
        let mut by_group: BTreeMap<u32, Vec<Selected>> = BTreeMap::new();
        for series in all {
            if let Some(first) = series.sources.first() {
                by_group.entry(first.group).or_default().push(series);
            }
        }
        Ok(by_group)
    }

    /// Takes the series out of `selected` whose newest sample of all lies in the group's newest row and in the range.
    fn newest_row(&self, group: u32, selected: &mut Vec<Selected>, request: &SelectRequest) -> Batch {
        let mut batch = Batch::default();
        let Some(cell) = self.group(group) else { return batch };
        let group = cell.lock();
        let Some(t) = group.window.times.last().copied() else { return batch };
        if t < request.mint || t > request.maxt {
            return batch;
        }
        let times: Arc<[i64]> = Arc::from([t]);
        let side = self.side.lock();
        let nothing_beside = side.series.is_empty() && side.flushing.is_empty();
        let tombstones = self.tombstones.read();
        selected.retain_mut(|s| {
            let [Source { id, column: Some(column), .. }] = s.sources.as_slice() else { return true };
            let v = group.newest(*column);
            let beside = !nothing_beside && (side.series.contains_key(id) || side.flushing.contains_key(id));
            if is_absent(v) || beside || tombstones.contains_key(id) {
                return true;
            }
            let values = if narthex_model::is_stale(v) { Values::Dense(vec![v]) } else { Values::Constant(v) };
            let floats = FloatColumn { timestamps: times.clone(), values, start_timestamps: None };
            let labels = std::mem::take(&mut s.labels);
            batch.series.push(Series { labels, floats, histograms: HistogramColumn::default() });
            false
        });
        batch
    }

    /// The samples of series that have their first source in one group.
    fn read(&self, selected: &[Selected], views: &Views, range: (i64, i64)) -> Result<Batch, TsdbError> {
        let mut assembler = Assembler::default();
        let mut pieces: Vec<Pieces> = selected.iter().map(|_| Pieces::default()).collect();
        let mut histograms: Vec<Histograms> = selected.iter().map(|_| Histograms::new()).collect();
        type Ids = HashMap<SeriesId, usize, foldhash::fast::FixedState>;
        let mut by_group: BTreeMap<u32, (Vec<(usize, u32)>, Ids)> = BTreeMap::new();
        for (i, series) in selected.iter().enumerate() {
            for source in &series.sources {
                let (columns, ids) = by_group.entry(source.group).or_default();
                columns.extend(source.column.map(|c| (i, c)));
                ids.insert(source.id, i);
            }
        }
        let mut all_ids = Ids::default();
        for (group, (columns, ids)) in &by_group {
            if let Some(view) = views.get(group) {
                view.read(columns, ids, range, &mut assembler, &mut pieces, &mut histograms)?;
            }
            all_ids.extend(ids);
        }
        // What lies beside the rows is kept by series, not by group: the view of one of its groups is enough.
        let mut seen = Ids::default();
        for (group, (_, ids)) in by_group {
            let new: Ids = ids.into_iter().filter(|(id, _)| !seen.contains_key(id)).collect();
            if let Some(view) = views.get(&group) {
                view.read_beside(&new, range, &mut pieces, &mut histograms);
            }
            seen.extend(new);
        }
        let tombstones = self.tombstones.read();
        let mut batch = Batch::default();
        for ((series, mut pieces), histograms) in selected.iter().zip(pieces).zip(histograms) {
            pieces.own.sort_by_key(|s| s.0);
            pieces.starts.sort_by_key(|s| s.0);
            let mut floats = assembler.floats(pieces);
            let mut histograms = column(histograms);
            for deleted in series.sources.iter().filter_map(|s| tombstones.get(&s.id)) {
                crate::delete::hide(deleted, &mut floats, &mut histograms);
            }
            if !floats.is_empty() || !histograms.timestamps.is_empty() {
                batch.series.push(Series { labels: series.labels.clone(), floats, histograms });
            }
        }
        Ok(batch)
    }
}

fn column(mut histograms: Histograms) -> HistogramColumn {
    histograms.sort_by_key(|h| h.0);
    histograms.dedup_by_key(|h| h.0);
    let mut column = HistogramColumn::default();
    let starts = histograms.iter().any(|h| h.2 != 0);
    for (t, h, start) in histograms {
        column.timestamps.push(t);
        column.values.push(h);
        if starts {
            column.start_timestamps.push(start);
        }
    }
    column
}

fn limited<T: Ord>(values: BTreeSet<T>, limit: usize, warnings: Vec<String>) -> LabelResult<T> {
    let truncated = limit > 0 && values.len() > limit;
    let take = if limit > 0 { limit } else { usize::MAX };
    LabelResult { values: values.into_iter().take(take).collect(), truncated, warnings }
}

impl Store {
    /// Finds the series that a label query is about: `active` gets those in the index, `dead` the labels of each that
    /// left it; some may come several times.
    fn each_series(
        &self,
        query: &LabelQuery,
        mut active: impl FnMut(&Registry, &RoaringBitmap),
        mut dead: impl FnMut(&Labels),
    ) -> Result<Vec<String>, StorageError> {
        self.inner.check_query(query.mint, query.maxt)?;
        let all = [Vec::new()];
        let selectors = if query.selectors.is_empty() { &all[..] } else { &query.selectors };
        let mut warnings = Vec::new();
        for matchers in selectors {
            let registry = self.inner.registry.read();
            let mut ids = registry.select(matchers);
            registry.without_later(&mut ids, query.maxt);
            active(&registry, &ids);
            drop(registry);
            let metric = |name: &str| self.inner.directory.metric(name);
            let found = |found: dead::Dead| dead(&found.labels);
            let damaged = dead::select(&self.inner.db, metric, matchers, query.mint, query.maxt, found)?;
            if damaged > 0 {
                warnings.push(format!("{damaged} records of series are damaged and left out"));
            }
        }
        Ok(warnings)
    }

    fn selected(&self, request: SelectRequest) -> Result<SeriesSet, StorageError> {
        let inner = self.inner.clone();
        let range = (request.mint, request.maxt);
        inner.check_query(range.0, range.1)?;
        let mut warnings = Vec::new();
        let mut by_group = inner.select(&request.matchers, range.0, range.1, &mut warnings)?;
        if request.hints.limit > 0 {
            let mut left = request.hints.limit;
            by_group.retain(|_, series| {
                series.truncate(left);
                left -= series.len();
                !series.is_empty()
            });
        }
        let mut newest = Vec::new();
        if request.hints.latest_only {
            for (group, selected) in &mut by_group {
                newest.push(inner.newest_row(*group, selected, &request));
            }
            by_group.retain(|_, selected| !selected.is_empty());
        }
        let mut wanted: BTreeMap<u32, Wanted> = BTreeMap::new();
        for series in by_group.values().flatten() {
            let metric = inner.directory.metric(series.labels.metric_name());
            for source in &series.sources {
                let wanted = wanted.entry(source.group).or_default();
                wanted.ids.insert(source.id);
                if let Some(metric) = metric
                    && wanted.metrics.last() != Some(&metric)
                {
                    wanted.metrics.push(metric);
                }
            }
        }
        let mut views = Views::new();
        for (group, mut wanted) in wanted {
            wanted.metrics.sort_unstable();
            wanted.metrics.dedup();
            views.insert(group, inner.view(group, &wanted, range, &mut warnings)?);
        }
        let rest = by_group
            .into_values()
            .map(move |selected| inner.read(&selected, &views, range).map_err(StorageError::from));
        let batches = newest
            .into_iter()
            .map(Ok)
            .chain(rest)
            .filter(|batch: &Result<Batch, StorageError>| batch.as_ref().map_or(true, |b| !b.series.is_empty()));
        warnings.sort();
        warnings.dedup();
        Ok(SeriesSet { batches: Box::new(batches), warnings })
    }
}

impl Queryable for Store {
    fn select(&self, request: SelectRequest) -> BoxFuture<'_, Result<SeriesSet, StorageError>> {
        futures::future::ready(self.selected(request)).boxed()
    }

    fn series(&self, query: LabelQuery) -> BoxFuture<'_, Result<LabelResult<Labels>, StorageError>> {
        let mut all = BTreeSet::new();
        let mut dead = Vec::new();
        let active =
            |registry: &Registry, ids: &RoaringBitmap| all.extend(ids.iter().filter_map(|id| registry.labels(id)));
        let found = self.each_series(&query, active, |labels| dead.push(labels.clone()));
        all.extend(dead);
        futures::future::ready(found.map(|warnings| limited(all, query.limit, warnings))).boxed()
    }

    fn label_names(&self, query: LabelQuery) -> BoxFuture<'_, Result<LabelResult<String>, StorageError>> {
        let mut all: BTreeSet<String> = BTreeSet::new();
        let mut dead = BTreeSet::new();
        let active = |registry: &Registry, ids: &RoaringBitmap| all.extend(registry.index.label_names(Some(ids), 0).0);
        let found = self.each_series(&query, active, |labels| {
            for (name, _) in labels.iter() {
                if !dead.contains(name) {
                    dead.insert(name.to_owned());
                }
            }
        });
        all.append(&mut dead);
        futures::future::ready(found.map(|warnings| limited(all, query.limit, warnings))).boxed()
    }

    fn label_values(&self, name: &str, query: LabelQuery) -> BoxFuture<'_, Result<LabelResult<String>, StorageError>> {
        let mut all: BTreeSet<String> = BTreeSet::new();
        let mut dead = BTreeSet::new();
        let active =
            |registry: &Registry, ids: &RoaringBitmap| all.extend(registry.index.label_values(name, Some(ids), 0).0);
        let found = self.each_series(&query, active, |labels| {
            if let Some(value) = labels.get(name)
                && !dead.contains(value)
            {
                dead.insert(value.to_owned());
            }
        });
        all.append(&mut dead);
        futures::future::ready(found.map(|warnings| limited(all, query.limit, warnings))).boxed()
    }

    fn exemplars(&self, query: LabelQuery) -> BoxFuture<'_, Result<Vec<(Labels, Vec<Exemplar>)>, StorageError>> {
        let mut found: BTreeMap<Labels, Vec<Exemplar>> = BTreeMap::new();
        for (labels, exemplar) in self.inner.exemplars.lock().iter() {
            if (query.mint..=query.maxt).contains(&exemplar.timestamp)
                && query.selectors.iter().any(|s| Matcher::all_match(s, labels))
            {
                found.entry(labels.clone()).or_default().push(exemplar.clone());
            }
        }
        futures::future::ready(Ok(found.into_iter().collect())).boxed()
    }

    fn metadata(&self, metric: Option<&str>) -> BoxFuture<'_, Result<Vec<MetadataEntry>, StorageError>> {
        futures::future::ready(Ok(self.inner.metadata.get(metric))).boxed()
    }
}
