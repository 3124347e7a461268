//! Answering: which series, and their columns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use narthex_model::{Exemplar, Labels, Matcher};
use narthex_storage::{
    Batch, ErrorKind, FloatColumn, HistogramColumn, LabelQuery, LabelResult, MetadataEntry, Queryable, SelectRequest,
    Series, SeriesSet, StorageError, Values,
};

use crate::Store;
use crate::assemble::{Assembler, Pieces};
use crate::group::Group;
use crate::row::is_absent;
use crate::series::{Home, Pos};
use crate::side::Side;
use crate::store::Inner;
use crate::window::Window;

/// A selected series.
struct Selected {
    pos: Pos,
    labels: Labels,
    homes: Vec<Home>,
}

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

    fn select(&self, matchers: &[Matcher]) -> BTreeMap<u32, Vec<Selected>> {
        let registry = self.registry.read();
        let mut by_group: BTreeMap<u32, Vec<Selected>> = BTreeMap::new();
        for pos in registry.select(matchers) {
            let Some(entry) = registry.get(pos) else { continue };
            let series = Selected { pos, labels: entry.labels.clone(), homes: registry.homes(pos).collect() };
            by_group.entry(entry.home.group).or_default().push(series);
        }
        by_group
    }

    /// The samples of series that have their first home in `group`.
    fn read_group(&self, group: u32, selected: &[Selected], request: &SelectRequest) -> Batch {
        let mut assembler = Assembler::default();
        let mut pieces: Vec<Pieces> = selected.iter().map(|_| Pieces::default()).collect();
        if let Some(cell) = self.group(group) {
            let guard = cell.lock();
            if request.hints.latest_only
                && let Some(batch) = self.newest_row(&guard, selected, request)
            {
                return batch;
            }
            let columns: Vec<u32> = selected.iter().map(|s| s.homes.first().map_or(u32::MAX, |h| h.column)).collect();
            read_windows(&guard, &columns, request, &mut assembler, |i, part, cells| {
                pieces[i].shared.push((part, cells));
            });
        }
        for (series, pieces) in selected.iter().zip(&mut pieces) {
            for home in series.homes.iter().skip(1) {
                let Some(cell) = self.group(home.group) else { continue };
                let guard = cell.lock();
                read_windows(&guard, &[home.column], request, &mut assembler, |_, part, cells| {
                    pieces.shared.push((part, cells));
                });
            }
        }
        let side = self.side.lock();
        let series = selected
            .iter()
            .zip(pieces)
            .filter_map(|(selected, mut pieces)| {
                let histograms = beside(&side, selected.pos, request, &mut pieces);
                let floats = assembler.floats(pieces);
                (!floats.is_empty() || !histograms.timestamps.is_empty()).then(|| Series {
                    labels: selected.labels.clone(),
                    floats,
                    histograms,
                })
            })
            .collect();
        Batch { series }
    }

    /// The newest row, if it is all that is asked for: it lies in the range, and each series has its newest sample
    /// in it.
    fn newest_row(&self, group: &Group, selected: &[Selected], request: &SelectRequest) -> Option<Batch> {
        let t = *group.window.times.last()?;
        if t < request.mint || t > request.maxt || !group.ahead.is_empty() {
            return None;
        }
        let times: Arc<[i64]> = Arc::from([t]);
        let side = self.side.lock();
        let mut series = Vec::with_capacity(selected.len());
        for s in selected {
            let [home] = s.homes.as_slice() else { return None };
            let v = group.newest(home.column);
            if is_absent(v) || side.series.contains_key(&s.pos) {
                return None;
            }
            let floats =
                FloatColumn { timestamps: times.clone(), values: Values::Dense(vec![v]), start_timestamps: None };
            series.push(Series { labels: s.labels.clone(), floats, histograms: HistogramColumn::default() });
        }
        Some(Batch { series })
    }
}

/// The range of a window's rows that lies in `[mint, maxt]`.
fn rows_in(window: &Window, mint: i64, maxt: i64) -> std::ops::Range<usize> {
    let from = window.times.partition_point(|t| *t < mint);
    from..window.times.partition_point(|t| *t <= maxt).max(from)
}

fn read_windows(
    group: &Group,
    columns: &[u32],
    request: &SelectRequest,
    assembler: &mut Assembler,
    mut each: impl FnMut(usize, usize, crate::window::Cells),
) {
    let windows = group.closing.iter().map(|w| &**w).chain(std::iter::once(&group.window));
    for window in windows {
        let rows = rows_in(window, request.mint, request.maxt);
        if rows.is_empty() {
            continue;
        }
        let part = assembler.add_part(window.times[rows.clone()].into());
        for (i, cells) in window.read(columns, rows).into_iter().enumerate() {
            each(i, part, cells);
        }
    }
}

/// Adds what lies beside the rows.
fn beside(side: &Side, pos: Pos, request: &SelectRequest, pieces: &mut Pieces) -> HistogramColumn {
    let mut histograms = HistogramColumn::default();
    let Some(series) = side.series.get(&pos) else { return histograms };
    let (mint, maxt) = (request.mint, request.maxt);
    pieces.own.extend(series.floats.iter().filter(|s| s.0 >= mint && s.0 <= maxt));
    pieces.starts.extend_from_slice(&series.starts);
    for (t, h) in series.histograms.iter().filter(|s| s.0 >= mint && s.0 <= maxt) {
        histograms.timestamps.push(*t);
        histograms.values.push(h.clone());
        histograms.start_timestamps.push(series.start_at(*t));
    }
    if histograms.start_timestamps.iter().all(|s| *s == 0) {
        histograms.start_timestamps.clear();
    }
    histograms
}

fn limited<T: Ord>(values: BTreeSet<T>, limit: usize, warnings: Vec<String>) -> LabelResult<T> {
    let truncated = limit > 0 && values.len() > limit;
    let take = if limit > 0 { limit } else { usize::MAX };
    LabelResult { values: values.into_iter().take(take).collect(), truncated, warnings }
}

impl Store {
    /// Calls `each` with the labels of every series that a label query is about.
    fn each_series(&self, query: &LabelQuery, mut each: impl FnMut(&Labels)) -> Result<Vec<String>, StorageError> {
        self.inner.check_query(query.mint, query.maxt)?;
        let all = [Vec::new()];
        let selectors = if query.selectors.is_empty() { &all[..] } else { &query.selectors };
        let registry = self.inner.registry.read();
        for matchers in selectors {
            for pos in registry.select(matchers) {
                if let Some(entry) = registry.get(pos) {
                    each(&entry.labels);
                }
            }
        }
        Ok(Vec::new())
    }

    fn selected(&self, request: SelectRequest) -> Result<SeriesSet, StorageError> {
        self.inner.check_query(request.mint, request.maxt)?;
        let mut by_group = self.inner.select(&request.matchers);
        if request.hints.limit > 0 {
            let mut left = request.hints.limit;
            by_group.retain(|_, series| {
                series.truncate(left);
                left -= series.len();
                !series.is_empty()
            });
        }
        let inner = self.inner.clone();
        let batches = by_group
            .into_iter()
            .map(move |(group, selected)| Ok(inner.read_group(group, &selected, &request)))
            .filter(|batch: &Result<Batch, StorageError>| batch.as_ref().map_or(true, |b| !b.series.is_empty()));
        Ok(SeriesSet { batches: Box::new(batches), warnings: Vec::new() })
    }
}

impl Queryable for Store {
    fn select(&self, request: SelectRequest) -> BoxFuture<'_, Result<SeriesSet, StorageError>> {
        futures::future::ready(self.selected(request)).boxed()
    }

    fn series(&self, query: LabelQuery) -> BoxFuture<'_, Result<LabelResult<Labels>, StorageError>> {
        let mut all = BTreeSet::new();
        let found = self.each_series(&query, |labels| {
            all.insert(labels.clone());
        });
        futures::future::ready(found.map(|warnings| limited(all, query.limit, warnings))).boxed()
    }

    fn label_names(&self, query: LabelQuery) -> BoxFuture<'_, Result<LabelResult<String>, StorageError>> {
        let mut all: BTreeSet<String> = BTreeSet::new();
        let found = self.each_series(&query, |labels| {
            for (name, _) in labels.iter() {
                if !all.contains(name) {
                    all.insert(name.to_owned());
                }
            }
        });
        futures::future::ready(found.map(|warnings| limited(all, query.limit, warnings))).boxed()
    }

    fn label_values(&self, name: &str, query: LabelQuery) -> BoxFuture<'_, Result<LabelResult<String>, StorageError>> {
        let mut all: BTreeSet<String> = BTreeSet::new();
        let found = self.each_series(&query, |labels| {
            if let Some(value) = labels.get(name)
                && !all.contains(value)
            {
                all.insert(value.to_owned());
            }
        });
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
