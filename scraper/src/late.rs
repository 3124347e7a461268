//! The store before it is open: what needs it can be set up, and listens, while it still recovers.
//!
//! Until then everything answers `Unavailable`, which nobody gets to see: the server says 503 before it asks.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use futures::future::BoxFuture;
use narthex_model::{Exemplar, Labels, Matcher, Metadata};
use narthex_storage::{
    AppendOutcome, Appendable, Backfilled, ErrorKind, Followable, GroupAppender, GroupKey, LabelQuery, LabelResult,
    MetadataEntry, Place, PlacedSample, Queryable, Refusal, SelectRequest, SeriesSet, StorageAdmin, StorageError, Tail,
    TsdbStats, WriteBatch,
};
use narthex_tsdb::Store;

/// A store that opens later. Clones are the same.
#[derive(Clone, Default)]
pub struct Late(Arc<OnceLock<Store>>);

impl Late {
    /// Gives it the open store. Only the first one counts.
    pub fn opened(&self, store: Store) {
        let _ = self.0.set(store);
    }

    pub fn get(&self) -> Option<&Store> {
        self.0.get()
    }

    fn store(&self) -> Result<&Store, StorageError> {
        self.get().ok_or_else(|| StorageError::new(ErrorKind::Unavailable, "TSDB not ready"))
    }

    /// Asks the open store.
    fn ask<'a, T: Send + 'a>(
        &'a self,
        question: impl FnOnce(&'a Store) -> BoxFuture<'a, Result<T, StorageError>>,
    ) -> BoxFuture<'a, Result<T, StorageError>> {
        match self.store() {
            Ok(store) => question(store),
            Err(e) => Box::pin(std::future::ready(Err(e))),
        }
    }
}

impl Appendable for Late {
    fn group(&self, key: &GroupKey) -> Result<Box<dyn GroupAppender>, StorageError> {
        self.store()?.group(key)
    }

    fn write(&self, batch: &WriteBatch) -> Result<AppendOutcome, StorageError> {
        self.store()?.write(batch)
    }

    fn places(&self, labels: &[&Labels]) -> Vec<Option<Place>> {
        self.get().map_or_else(|| vec![None; labels.len()], |s| s.places(labels))
    }

    fn write_placed(&self, samples: &[PlacedSample], lost: &mut Vec<usize>) -> Result<AppendOutcome, StorageError> {
        self.store()?.write_placed(samples, lost)
    }

    fn would_take(&self, placed: &[PlacedSample], lost: &mut Vec<usize>) -> bool {
        self.get().is_none_or(|s| s.would_take(placed, lost))
    }

    fn judge(&self, batch: &WriteBatch, exemplars: bool, most: usize) -> Vec<Refusal> {
        self.get().map(|s| s.judge(batch, exemplars, most)).unwrap_or_default()
    }

    fn count_refused(&self, refused: &[Refusal]) {
        if let Some(store) = self.get() {
            store.count_refused(refused);
        }
    }

    fn put_metadata(&self, entries: &[(String, Metadata)]) {
        if let Some(store) = self.get() {
            store.put_metadata(entries);
        }
    }
}

impl Queryable for Late {
    fn select(&self, request: SelectRequest) -> BoxFuture<'_, Result<SeriesSet, StorageError>> {
        self.ask(|s| s.select(request))
    }

    fn series(&self, query: LabelQuery) -> BoxFuture<'_, Result<LabelResult<Labels>, StorageError>> {
        self.ask(|s| s.series(query))
    }

    fn label_names(&self, query: LabelQuery) -> BoxFuture<'_, Result<LabelResult<String>, StorageError>> {
        self.ask(|s| s.label_names(query))
    }

    fn label_values(&self, name: &str, query: LabelQuery) -> BoxFuture<'_, Result<LabelResult<String>, StorageError>> {
        let name = name.to_owned();
        Box::pin(async move { self.store()?.label_values(&name, query).await })
    }

    fn exemplars(&self, query: LabelQuery) -> BoxFuture<'_, Result<Vec<(Labels, Vec<Exemplar>)>, StorageError>> {
        self.ask(|s| s.exemplars(query))
    }

    fn metadata(&self, metric: Option<&str>) -> BoxFuture<'_, Result<Vec<MetadataEntry>, StorageError>> {
        let metric = metric.map(str::to_owned);
        Box::pin(async move { self.store()?.metadata(metric.as_deref()).await })
    }
}

impl Followable for Late {
    fn tail(&self, name: &str) -> Result<Box<dyn Tail>, StorageError> {
        self.store()?.tail(name)
    }

    fn tails(&self) -> Vec<String> {
        self.get().map(Followable::tails).unwrap_or_default()
    }

    fn forget_tail(&self, name: &str) -> Result<(), StorageError> {
        self.store()?.forget_tail(name)
    }
}

impl StorageAdmin for Late {
    fn delete_series(&self, selectors: &[Vec<Matcher>], mint: i64, maxt: i64) -> Result<(), StorageError> {
        self.store()?.delete_series(selectors, mint, maxt)
    }

    fn clean_tombstones(&self) -> Result<(), StorageError> {
        self.store()?.clean_tombstones()
    }

    fn snapshot(&self, skip_head: bool) -> Result<String, StorageError> {
        self.store()?.snapshot(skip_head)
    }

    fn backfill(&self, batch: WriteBatch, latest: i64) -> Result<Backfilled, StorageError> {
        self.store()?.backfill(batch, latest)
    }

    fn stats(&self, limit: usize) -> TsdbStats {
        self.get().map(|s| s.stats(limit)).unwrap_or_default()
    }

    fn status(&self) -> BTreeMap<String, String> {
        self.get().map(StorageAdmin::status).unwrap_or_default()
    }
}
