//! Agent mode: what is scraped is sent on and not asked for. The store keeps what is not sent yet.

use futures::future::BoxFuture;
use narthex_model::{Exemplar, Labels};
use narthex_storage::{
    ErrorKind, LabelQuery, LabelResult, MetadataEntry, Queryable, SelectRequest, SeriesSet, StorageError,
};

use crate::late::Late;

/// A store that answers no question but for what is known of metrics.
pub struct Unasked(pub Late);

/// As Prometheus's agent says it.
fn unsupported<'a, T>() -> BoxFuture<'a, Result<T, StorageError>>
where
    T: Send + 'a,
{
    let error = StorageError::new(ErrorKind::Internal, "unsupported operation with WAL-only storage");
    Box::pin(std::future::ready(Err(error)))
}

impl Queryable for Unasked {
    fn select(&self, _: SelectRequest) -> BoxFuture<'_, Result<SeriesSet, StorageError>> {
        unsupported()
    }

    fn series(&self, _: LabelQuery) -> BoxFuture<'_, Result<LabelResult<Labels>, StorageError>> {
        unsupported()
    }

    fn label_names(&self, _: LabelQuery) -> BoxFuture<'_, Result<LabelResult<String>, StorageError>> {
        unsupported()
    }

    fn label_values(&self, _: &str, _: LabelQuery) -> BoxFuture<'_, Result<LabelResult<String>, StorageError>> {
        unsupported()
    }

    fn exemplars(&self, _: LabelQuery) -> BoxFuture<'_, Result<Vec<(Labels, Vec<Exemplar>)>, StorageError>> {
        unsupported()
    }

    fn metadata(&self, metric: Option<&str>) -> BoxFuture<'_, Result<Vec<MetadataEntry>, StorageError>> {
        self.0.metadata(metric)
    }
}
