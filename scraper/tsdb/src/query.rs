//! Answering: which series, and their columns.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::FutureExt;
use futures::future::BoxFuture;
use hashbrown::HashMap;
use narthex_model::{Exemplar, Labels, METRIC_NAME, Matcher};
use narthex_storage::{
    Batch, ErrorKind, FloatColumn, HeldBytes, HistogramColumn, LabelQuery, LabelResult, MetadataEntry, Meter,
    Queryable, SelectRequest, Series, SeriesSet, StorageError, Values,
};
use parking_lot::RwLockReadGuard;
use roaring::RoaringBitmap;
use smallvec::SmallVec;

use crate::assemble::{Assembler, KnownTimes, Pieces};
use crate::block::Need;
use crate::index::KnownLabels;
use crate::row::is_absent;
use crate::series::{Home, SeriesId, minute};
use crate::store::Inner;
use crate::view::{GroupView, Histograms, NO_METRIC, Part, Wanted};
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
    sources: Sources,
    /// See [`Series::order`].
    order: u32,
    /// The number of its metric, if that has blocks.
    metric: Option<u32>,
}

/// Nearly all series have one.
type Sources = SmallVec<[Source; 1]>;

/// Counts what was found, and holds it.
struct Found<'m> {
    meter: &'m Meter,
    held: HeldBytes,
}

impl Found<'_> {
    fn new(meter: &Meter) -> Found<'_> {
        Found { meter, held: meter.hold_nothing() }
    }

    fn add(&mut self, labels: &Labels) -> Result<(), StorageError> {
        self.held.add(labels.heap_bytes() + size_of::<Selected>())
    }
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

    /// What is damaged of samples from `mint` on, in words.
    pub(crate) fn damage(&self, mint: i64) -> Vec<String> {
        let now = self.max_time.load(std::sync::atomic::Ordering::Relaxed);
        let all = self.db.damage(now).into_iter();
        all.filter(|d| d.until.is_none_or(|until| until >= mint)).map(|d| d.what).collect()
    }

    /// The series that match and may have samples in the range, by the group of their first source.
    fn select(
        &self,
        matchers: &[Matcher],
        (mint, maxt): (i64, i64),
        only_labels: Option<&[String]>,
        held: &mut Found<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<BTreeMap<u32, Vec<Selected>>, StorageError> {
        let mut all: Vec<Selected> = Vec::new();
        let in_head = self.is_in_head(mint);
        let order = |id: SeriesId| if in_head { id } else { 0 };
        {
            let registry = self.registry.read();
            let latest = minute(maxt);
            let mut ids = registry.select(matchers);
            registry.without_later(&mut ids, maxt);
            held.meter.series(ids.len() as usize)?;
            let mut known = KnownLabels::default();
            let mut metric = self.metrics();
            for id in ids {
                let found = match only_labels {
                    None => registry.labels_and_start(id),
                    Some(names) => registry.start(id).and_then(|(start, home)| {
                        Some((registry.index.some_labels(id, names, &mut known)?, start, home))
                    }),
                };
                let Some((labels, _, home)) = found.filter(|s| s.1 <= latest) else { continue };
                let source = |h: Home| Source { group: h.group, id, column: Some(h.column) };
                let mut sources = Sources::new();
                sources.push(source(home));
                sources.extend(registry.further_homes(id).map(source));
                let metric = metric(&labels);
                held.add(&labels)?;
                all.push(Selected { labels, sources, order: order(id), metric });
            }
        }
        // Series are the same if all their labels are, or if they are one that leaves memory just now.
        let mut known: Option<(HashMap<Labels, usize>, HashMap<SeriesId, usize>)> = None;
        let index = |all: &[Selected]| {
            let registry = self.registry.read();
            let whole = |s: &Selected| match (only_labels, s.sources.first()) {
                (Some(_), Some(source)) => registry.labels(source.id).unwrap_or_default(),
                _ => s.labels.clone(),
            };
            let ids = all.iter().enumerate().flat_map(|(i, s)| s.sources.iter().map(move |source| (source.id, i)));
            (all.iter().enumerate().map(|(i, s)| (whole(s), i)).collect(), ids.collect())
        };
        let mut metric = self.metrics();
        let mut stopped = Ok(());
        let damaged = dead::select(
            &self.db,
            &self.dead_days,
            |name| self.directory.metric(name),
            matchers,
            mint,
            maxt,
            |found| {
                if stopped.is_err() {
                    return;
                }
                let (by_labels, by_id) = known.get_or_insert_with(|| index(&all));
                let source = Source { group: found.group, id: found.id, column: None };
                let i = match by_id.get(&found.id) {
                    Some(i) => *i,
                    None => *by_labels.entry(found.labels).or_insert_with_key(|labels| {
                        let labels = only_labels.map_or_else(|| labels.clone(), |names| labels.keep(names));
                        let metric = metric(&labels);
                        // Once in the list, once as a key.
                        stopped =
                            held.meter.series(1).and_then(|()| held.add(&labels)).and_then(|()| held.add(&labels));
                        all.push(Selected { labels, sources: Sources::new(), order: order(found.id), metric });
                        all.len() - 1
                    }),
                };
                let sources = &mut all[i].sources;
                if !sources.iter().any(|s| s.group == source.group && s.id == source.id) {
                    sources.push(source);
                }
            },
        )?;
        stopped?;
        warnings.extend(damage(damaged));
        let mut by_group: BTreeMap<u32, Vec<Selected>> = BTreeMap::new();
        // Series of one group mostly come one after the other.
        let group_of = |s: &Selected| s.sources.first().map(|first| first.group);
        let mut all = all.into_iter().peekable();
        while let Some(series) = all.next() {
            let Some(group) = group_of(&series) else { continue };
            let list = by_group.entry(group).or_default();
            list.push(series);
            while let Some(next) = all.next_if(|s| group_of(s) == Some(group)) {
                list.push(next);
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
            batch.series.push(Series { labels, floats, histograms: HistogramColumn::default(), order: s.order });
            false
        });
        batch
    }

    /// The numbers of the metrics of label sets; those of one metric mostly come together.
    fn metrics(&self) -> impl FnMut(&Labels) -> Option<u32> + '_ {
        let mut last: (String, Option<u32>) = (String::new(), None);
        move |labels| {
            let name = labels.metric_name();
            if name != last.0 || name.is_empty() {
                last = (name.to_owned(), self.directory.metric(name));
            }
            last.1
        }
    }

    /// The groups as they are now, as far as the series need them.
    fn views(
        &self,
        by_group: &BTreeMap<u32, Vec<Selected>>,
        range: (i64, i64),
        need: Need,
        warnings: &mut Vec<String>,
    ) -> Result<Views, TsdbError> {
        let mut wanted: BTreeMap<u32, Wanted> = BTreeMap::new();
        let all = || by_group.values().flatten();
        for series in all() {
            for source in &series.sources {
                let wanted = match wanted.last_entry() {
                    // Mostly all lies in the group that was looked at last.
                    Some(last) if *last.key() == source.group => last.into_mut(),
                    _ => wanted.entry(source.group).or_default(),
                };
                wanted.ids.push(source.id);
                let Some(metric) = series.metric else { continue };
                if wanted.metrics.last() != Some(&metric) {
                    wanted.metrics.push(metric);
                }
                if need == Need::Presence {
                    wanted.by_metric.push((metric, source.id));
                }
            }
        }
        let mut views = Views::new();
        for (group, mut wanted) in wanted {
            wanted.metrics.sort_unstable();
            wanted.metrics.dedup();
            views.insert(group, self.view(group, &wanted, range, warnings)?);
        }
        Ok(views)
    }

    /// The samples of series that have their first source in one group.
    fn read(
        &self,
        selected: Vec<Selected>,
        views: &Views,
        range: (i64, i64),
        need: Need,
        known: &mut KnownTimes,
    ) -> Result<Batch, TsdbError> {
        let mut metrics: Vec<u32> = Vec::new();
        for metric in selected.iter().filter_map(|s| s.metric) {
            if metrics.last() != Some(&metric) {
                metrics.push(metric);
            }
        }
        let mut metric_of = Vec::new();
        if need == Need::Presence {
            metric_of.extend(selected.iter().map(|s| s.metric.unwrap_or(NO_METRIC)));
        }
        metrics.sort_unstable();
        metrics.dedup();
        let part = Part { cached: &self.cached, range, need, metrics, metric_of };
        let mut assembler = Assembler::new(std::mem::take(known));
        let mut pieces: Vec<Pieces> = selected.iter().map(|_| Pieces::default()).collect();
        let mut histograms: Vec<Histograms> = selected.iter().map(|_| Histograms::new()).collect();
        type Ids = HashMap<SeriesId, usize, foldhash::fast::FixedState>;
        let ids_of_all = || Ids::with_capacity_and_hasher(selected.len(), Default::default());
        let mut by_group: SmallVec<[(u32, Vec<(usize, u32)>, Ids); 1]> = SmallVec::new();
        for (i, series) in selected.iter().enumerate() {
            for source in &series.sources {
                let at = match by_group.iter().position(|g| g.0 == source.group) {
                    Some(at) => at,
                    None => {
                        // Nearly all lies in the first group.
                        let ids = if by_group.is_empty() { ids_of_all() } else { Ids::default() };
                        by_group.push((source.group, Vec::new(), ids));
                        by_group.len() - 1
                    }
                };
                let (_, columns, ids) = &mut by_group[at];
                columns.extend(source.column.map(|c| (i, c)));
                ids.insert(source.id, i);
            }
        }
        by_group.sort_by_key(|g| g.0);
        for (group, columns, ids) in &by_group {
            if let Some(view) = views.get(group) {
                view.read(columns, ids, &part, &mut assembler, &mut pieces, &mut histograms)?;
            }
        }
        // What lies beside the rows is kept by series, not by group: the view of one of its groups is enough.
        let mut seen = Ids::default();
        let has_beside = by_group.iter().any(|(group, ..)| views.get(group).is_some_and(GroupView::has_beside));
        for (group, _, ids) in by_group.into_iter().filter(|_| has_beside) {
            let new: Ids = ids.into_iter().filter(|(id, _)| !seen.contains_key(id)).collect();
            if let Some(view) = views.get(&group) {
                view.read_beside(&new, range, &mut pieces, &mut histograms);
            }
            seen.extend(new);
        }
        let tombstones = self.tombstones.read();
        let mut batch = Batch { series: Vec::with_capacity(selected.len()) };
        for ((series, mut pieces), histograms) in selected.into_iter().zip(pieces).zip(histograms) {
            pieces.own.sort_by_key(|s| s.0);
            pieces.starts.sort_by_key(|s| s.0);
            let mut floats = assembler.floats(pieces);
            let mut histograms = if histograms.is_empty() { HistogramColumn::default() } else { column(histograms) };
            if !tombstones.is_empty() {
                for deleted in series.sources.iter().filter_map(|s| tombstones.get(&s.id)) {
                    crate::delete::hide(deleted, &mut floats, &mut histograms);
                }
            }
            if !floats.is_empty() || !histograms.timestamps.is_empty() {
                batch.series.push(Series { labels: series.labels, floats, histograms, order: series.order });
            }
        }
        *known = assembler.into_known();
        Ok(batch)
    }
}

/// Samples that are decoded at once, about: who evaluates them finds them in the processor's second cache.
const BATCH_SAMPLES: usize = 32 << 10;
/// Series that are decoded at once, at least and at most.
const BATCH: std::ops::RangeInclusive<usize> = 16..=1024;

/// Series of the same group, several times where another's come between: what floats add up to depends on their order,
/// in the last digit. Where groups are interleaved all through, that would be many small batches: then each group comes
/// once.
fn in_order(by_group: BTreeMap<u32, Vec<Selected>>) -> Vec<(u32, Vec<Selected>)> {
    let groups = by_group.len();
    if groups < 2 || by_group.values().flatten().is_sorted_by_key(|s| s.order) {
        return by_group.into_iter().collect();
    }
    let mut order: Vec<(u32, u32)> = by_group.iter().flat_map(|(g, all)| all.iter().map(|s| (s.order, *g))).collect();
    order.sort_unstable();
    if order.chunk_by(|a, b| a.1 == b.1).count() > 2 * groups + 8 {
        return by_group.into_iter().collect();
    }
    let mut all: Vec<(u32, Selected)> =
        by_group.into_iter().flat_map(|(g, all)| all.into_iter().map(move |s| (g, s))).collect();
    all.sort_by_key(|s| s.1.order);
    let mut out: Vec<(u32, Vec<Selected>)> = Vec::new();
    for (group, series) in all {
        match out.last_mut() {
            Some(last) if last.0 == group => last.1.push(series),
            _ => out.push((group, vec![series])),
        }
    }
    out
}

/// Series of which each has so many rows, in batches.
fn in_batches(all: Vec<Selected>, rows: usize) -> impl Iterator<Item = Vec<Selected>> {
    let size = (BATCH_SAMPLES / rows.max(1)).clamp(*BATCH.start(), *BATCH.end());
    let mut all = all.into_iter();
    std::iter::from_fn(move || Some(all.by_ref().take(size).collect::<Vec<_>>()).filter(|batch| !batch.is_empty()))
}

fn column(mut histograms: Histograms) -> HistogramColumn {
    histograms.sort_by_key(|h| h.0);
    histograms.dedup_by_key(|h| h.0);
    let mut column = HistogramColumn::default();
    let starts = histograms.iter().any(|h| h.2 != 0);
    let mut previous: Option<Arc<narthex_model::Histogram>> = None;
    for (t, mut h, start) in histograms {
        column.timestamps.push(t);
        let hint = if h.is_stale() { h.counter_reset_hint } else { h.stored_hint(previous.as_deref()) };
        previous = Some(h.clone());
        if hint != h.counter_reset_hint {
            Arc::make_mut(&mut h).counter_reset_hint = hint;
        }
        column.values.push(h);
        if starts {
            column.start_timestamps.push(start);
        }
    }
    column
}

/// After so many series the index is let go for a moment, lest new ones wait for a long answer.
const PAUSE: usize = 4096;

/// Collects entries in any order, of which the first `limit` are wanted (0: all).
struct Answer<T> {
    limit: usize,
    values: Vec<T>,
    settled: usize,
    sort: fn(&mut [T]),
    bytes: fn(&T) -> usize,
    held: HeldBytes,
}

impl Answer<String> {
    fn of_texts(query: &LabelQuery) -> Answer<String> {
        let bytes = |text: &String| text.len() + size_of::<String>();
        Answer::new(query, <[String]>::sort, bytes)
    }
}

impl Answer<(SeriesId, Labels)> {
    /// By id; where ids are left at 0, by labels.
    fn of_series(query: &LabelQuery) -> Answer<(SeriesId, Labels)> {
        let sort = |all: &mut [(SeriesId, Labels)]| match all.first() {
            Some((0, _)) => narthex_model::labels::sort_by_labels(all, |s| &s.1),
            _ => all.sort_by_key(|s| s.0),
        };
        Answer::new(query, sort, |(_, labels)| labels.heap_bytes() + size_of::<(SeriesId, Labels)>())
    }
}

impl<T: Ord> Answer<T> {
    fn new(query: &LabelQuery, sort: fn(&mut [T]), bytes: fn(&T) -> usize) -> Answer<T> {
        Answer { limit: query.limit, values: Vec::new(), settled: 0, sort, bytes, held: query.meter.hold_nothing() }
    }

    fn push(&mut self, value: T) -> Result<(), StorageError> {
        self.held.add((self.bytes)(&value))?;
        self.values.push(value);
        // What came before, or cannot be among the first, goes now and then: memory stays in proportion to the answer.
        if self.values.len() - self.settled > self.settled.max(100_000) {
            self.settle();
            let held = self.values.iter().map(self.bytes).sum();
            self.held.keep(held)?;
        }
        Ok(())
    }

    fn settle(&mut self) {
        // Mostly runs that are in order already.
        (self.sort)(&mut self.values);
        self.values.dedup();
        if self.limit > 0 {
            self.values.truncate(self.limit + 1);
        }
        self.settled = self.values.len();
    }

    fn finish(mut self, damaged: u64) -> LabelResult<T> {
        self.settle();
        let truncated = self.limit > 0 && self.values.len() > self.limit;
        if truncated {
            self.values.truncate(self.limit);
        }
        LabelResult { values: self.values, truncated, warnings: damage(damaged).into_iter().collect() }
    }
}

fn damage(records: u64) -> Option<String> {
    (records > 0).then(|| format!("{records} records of series are damaged and left out"))
}

const NO_MATCHERS: &[Vec<Matcher>] = &[Vec::new()];

/// What a Prometheus's blocks span, in ms.
const BLOCK: i64 = 2 * 3_600_000;

/// Of more series that ended while they are in memory, all are named whatever the time.
const MANY_ENDED: usize = 10_000;

/// A query's selectors; one without matchers where there are none.
fn selectors(query: &LabelQuery) -> &[Vec<Matcher>] {
    if query.selectors.is_empty() { NO_MATCHERS } else { &query.selectors }
}

impl Inner {
    /// The earliest time that Prometheus's head would hold, were this its data: it is cut at marks of two hours when it
    /// spans more than three (`Head.compactable`).
    fn head_start(&self) -> i64 {
        let newest = self.max_time.load(Ordering::Relaxed);
        let earliest = newest.saturating_sub(BLOCK / 2 * 3);
        earliest.saturating_add(BLOCK - 1).div_euclid(BLOCK).saturating_mul(BLOCK)
    }

    /// Whether Prometheus would ask its head alone for what is at `mint` and later. The head has its series in the order
    /// in which they came; what is put together with blocks is sorted by labels.
    fn is_in_head(&self, mint: i64) -> bool {
        let head = self.head_start();
        mint >= head || self.registry.read().oldest() >= minute(head)
    }

    /// The time of the series that an answer about labels covers: whole blocks, as Prometheus asks each of its blocks and
    /// the head, without looking at the time of their series.
    fn label_range(&self, mint: i64, maxt: i64) -> (i64, i64) {
        let head = self.head_start();
        let floor = |t: i64| t.div_euclid(BLOCK).saturating_mul(BLOCK);
        if maxt >= head {
            (floor(mint).min(head), i64::MAX)
        } else {
            (floor(mint), floor(maxt).saturating_add(BLOCK - 1))
        }
    }

    /// The series in memory that match, without those that began after the minute of `maxt`, or are known to have ended
    /// before `mint`.
    fn in_memory(&self, matchers: &[Matcher], (mint, maxt): (i64, i64)) -> RoaringBitmap {
        let mut by_group: BTreeMap<u32, Vec<(u32, SeriesId)>> = BTreeMap::new();
        let mut ids = {
            let registry = self.registry.read();
            let mut ids = registry.select(matchers);
            registry.without_later(&mut ids, maxt);
            if maxt < self.max_time.load(Ordering::Relaxed) {
                registry.without_later_that_day(&mut ids, maxt);
            }
            let ended = registry.ended_before(&ids, minute(mint));
            // Whether they came back is a matter of reading rows; so many more names do less harm.
            if ended.len() <= MANY_ENDED {
                for (id, home) in ended {
                    by_group.entry(home.group).or_default().push((home.column, id));
                }
            }
            ids
        };
        for (group, ended) in by_group {
            let Some(group) = self.group(group) else { continue };
            let group = group.lock();
            let idle = group.idle(ended.iter().map(|e| e.0).collect(), mint);
            for (column, id) in ended {
                if idle.contains(&column) && group.columns.get(column as usize) == Some(&id) {
                    ids.remove(id);
                }
            }
        }
        ids
    }

    fn series_of(&self, query: &LabelQuery) -> Result<LabelResult<Labels>, StorageError> {
        self.check_query(query.mint, query.maxt)?;
        // The newest chunk of a series in the head is taken to go on.
        let range = (query.mint.min(self.head_start()), query.maxt);
        let mut answer = Answer::of_series(query);
        let mut damaged = 0;
        if query.mint > self.max_time.load(Ordering::Relaxed) {
            return Ok(LabelResult { values: Vec::new(), truncated: false, warnings: Vec::new() });
        }
        // What several selectors find is sorted by labels, too.
        let in_head = selectors(query).len() == 1 && self.is_in_head(query.mint);
        let order = |id: SeriesId| if in_head { id } else { 0 };
        let mut any_dead = false;
        for matchers in selectors(query) {
            {
                let ids = self.in_memory(matchers, range);
                let most = if query.limit == 0 { usize::MAX } else { query.limit };
                query.meter.series(most.min(ids.len() as usize))?;
                let mut registry = self.registry.read();
                for (i, id) in ids.into_iter().enumerate() {
                    if i % PAUSE == PAUSE - 1 {
                        RwLockReadGuard::bump(&mut registry);
                    }
                    if let Some(labels) = registry.labels(id) {
                        answer.push((order(id), labels))?;
                    }
                }
            }
            let metric = |name: &str| self.directory.metric(name);
            let mut stopped = Ok(());
            damaged += dead::scan(&self.db, &self.dead_days, metric, matchers, range, |_, table| {
                if stopped.is_ok() && dead::lived(table, range) {
                    any_dead = true;
                    stopped = answer.push((order(table.id), Labels::from_sorted(table.texts())));
                }
            })?;
            stopped?;
        }
        let LabelResult { mut values, truncated, warnings } = answer.finish(damaged);
        if in_head && any_dead {
            // One that left memory and came back has two numbers.
            let mut seen = hashbrown::HashSet::new();
            values.retain(|(_, labels)| seen.insert(labels.clone()));
        }
        let mut result = LabelResult { values: values.into_iter().map(|s| s.1).collect(), truncated, warnings };
        result.warnings.extend(self.damage(query.mint));
        Ok(result)
    }

    /// The names of the labels of the series that the query is about, or the values of one.
    fn labels_of(&self, name: Option<&str>, query: &LabelQuery) -> Result<LabelResult<String>, StorageError> {
        self.check_query(query.mint, query.maxt)?;
        let mut answer = Answer::of_texts(query);
        let mut damaged = 0;
        // One more tells that there are more.
        let limit = if query.limit == 0 { 0 } else { query.limit + 1 };
        // No more than there would be room for, were all empty.
        let room = query.meter.room() / size_of::<String>();
        let within = if limit == 0 { room.saturating_add(1) } else { limit.min(room.saturating_add(1)) };
        let range = self.label_range(query.mint, query.maxt);
        if query.mint > self.max_time.load(Ordering::Relaxed) {
            // Prometheus's head names none there.
            return Ok(answer.finish(0));
        }
        for matchers in selectors(query) {
            {
                let all = matchers.is_empty() && range.1 >= self.max_time.load(Ordering::Relaxed);
                let among = (!all).then(|| self.in_memory(matchers, range));
                let registry = self.registry.read();
                let found = match name {
                    Some(name) => registry.index.label_values(name, among.as_ref(), within).0,
                    None => registry.index.label_names(among.as_ref(), within).0,
                };
                drop(registry);
                if found.len() > room {
                    // It did not fit then, whatever others have given back since.
                    return Err(query.meter.full());
                }
                found.into_iter().try_for_each(|text| answer.push(text))?;
            }
            if matchers.is_empty() {
                // To the day: what the days know of their labels is not by time.
                let mut stopped = Ok(());
                damaged += dead::each_day(&self.db, &self.dead_days, name, range, limit, |found| {
                    if stopped.is_ok() {
                        stopped = found.into_iter().try_for_each(|text| answer.push(text));
                    }
                })?;
                stopped?;
            } else {
                let mut found = dead::Collected::new(name);
                let metric = |name: &str| self.directory.metric(name);
                damaged += dead::scan(&self.db, &self.dead_days, metric, matchers, range, |_, table| {
                    if dead::lived(table, range) {
                        found.add(table.texts());
                    }
                })?;
                found.found.into_iter().try_for_each(|text| answer.push(text))?;
            }
        }
        let mut result = answer.finish(damaged);
        result.warnings.extend(self.damage(query.mint));
        Ok(result)
    }
}

impl Store {
    pub(crate) fn selected(&self, request: SelectRequest) -> Result<SeriesSet, StorageError> {
        let inner = self.inner.clone();
        let range = (request.mint, request.maxt);
        inner.check_query(range.0, range.1)?;
        let mut warnings = Vec::new();
        // Blocks are found by the metric's name.
        let only_labels = request.hints.only_labels.as_ref().map(|names| {
            let mut names = names.clone();
            names.push(METRIC_NAME.to_owned());
            names
        });
        let metric_count = inner.directory.metric_count();
        let meter = request.hints.meter.clone();
        let mut found = Found::new(&meter);
        let mut by_group = inner.select(&request.matchers, range, only_labels.as_deref(), &mut found, &mut warnings)?;
        if request.hints.limit > 0 {
            let mut left = request.hints.limit;
            by_group.retain(|_, series| {
                series.truncate(left);
                left -= series.len();
                !series.is_empty()
            });
        }
        let count = |by_group: &BTreeMap<u32, Vec<Selected>>| by_group.values().map(|g| g.len() as u64).sum();
        request.hints.trace.add("series", count(&by_group));
        let mut newest = Vec::new();
        if request.hints.latest_only {
            for (group, selected) in &mut by_group {
                newest.push(inner.newest_row(*group, selected, &request));
            }
            let newest = newest.iter().map(|b: &Batch| b.series.len() as u64).sum();
            request.hints.trace.add("from the newest row alone", newest);
            by_group.retain(|_, selected| !selected.is_empty());
        }
        let need = if request.hints.no_samples { Need::Presence } else { Need::Values };
        let mut known = metric_count;
        let views = loop {
            let before = warnings.len();
            let views = inner.views(&by_group, range, need, &mut warnings)?;
            // A metric's first window may have gone to blocks since its number was looked for: then the view has it
            // neither in memory nor in blocks.
            let now = inner.directory.metric_count();
            if now == std::mem::replace(&mut known, now) {
                break views;
            }
            warnings.truncate(before);
            let mut metric = inner.metrics();
            for series in by_group.values_mut().flatten().filter(|s| s.metric.is_none()) {
                series.metric = metric(&series.labels);
            }
        };
        let trace = &request.hints.trace;
        if trace.is_on() {
            trace.add("groups", views.len() as u64);
            let figures = views.values().flat_map(GroupView::figures);
            figures.filter(|f| f.1 > 0).for_each(|(what, n)| trace.add(what, n));
        }
        warnings.extend(inner.damage(range.0));
        let rows: BTreeMap<u32, usize> = views.iter().map(|(group, view)| (*group, view.rows(range))).collect();
        let mut known = KnownTimes::new();
        let rest = in_order(by_group)
            .into_iter()
            .flat_map(move |(group, all)| in_batches(all, rows.get(&group).copied().unwrap_or(0)))
            .map(move |selected| inner.read(selected, &views, range, need, &mut known).map_err(StorageError::from));
        if newest.iter().flat_map(|b| &b.series).is_sorted_by_key(|s| s.order) {
            newest.retain(|b| !b.series.is_empty());
        } else {
            let mut all: Vec<Series> = newest.into_iter().flat_map(|b| b.series).collect();
            all.sort_by_key(|s| s.order);
            newest = vec![Batch { series: all }];
        }
        let held = found.held;
        let batches = newest
            .into_iter()
            .map(Ok)
            .chain(rest)
            .inspect(move |_| _ = &held)
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
        futures::future::ready(self.inner.series_of(&query)).boxed()
    }

    fn label_names(&self, query: LabelQuery) -> BoxFuture<'_, Result<LabelResult<String>, StorageError>> {
        futures::future::ready(self.inner.labels_of(None, &query)).boxed()
    }

    fn label_values(&self, name: &str, query: LabelQuery) -> BoxFuture<'_, Result<LabelResult<String>, StorageError>> {
        futures::future::ready(self.inner.labels_of(Some(name), &query)).boxed()
    }

    fn exemplars(&self, query: LabelQuery) -> BoxFuture<'_, Result<Vec<(Labels, Vec<Exemplar>)>, StorageError>> {
        let mut found: BTreeMap<Labels, Vec<Exemplar>> = BTreeMap::new();
        let mut held = query.meter.hold_nothing();
        for (labels, exemplar) in self.inner.exemplars.lock().iter() {
            if (query.mint..=query.maxt).contains(&exemplar.timestamp)
                && query.selectors.iter().any(|s| Matcher::all_match(s, labels))
            {
                let bytes = exemplar.labels.heap_bytes() + size_of::<Exemplar>() + labels.heap_bytes();
                if let Err(e) = held.add(bytes) {
                    return futures::future::ready(Err(e)).boxed();
                }
                found.entry(labels.clone()).or_default().push(exemplar.clone());
            }
        }
        futures::future::ready(Ok(found.into_iter().collect())).boxed()
    }

    fn metadata(&self, metric: Option<&str>) -> BoxFuture<'_, Result<Vec<MetadataEntry>, StorageError>> {
        futures::future::ready(Ok(self.inner.metadata.get(metric))).boxed()
    }
}
