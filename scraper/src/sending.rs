//! Remote write: what its queues need of the other parts.

use std::sync::Arc;
use std::time::Duration;

use narthex_remote::{Parts, Received, Remote};
use narthex_runtime::Registry;
use narthex_scrape::Manager;
use narthex_storage::Queryable;

use crate::late::Late;

/// Starts without queues; they come with the configuration.
pub fn start(store: &Late, manager: &Arc<Manager>, registry: &Registry, flush_deadline: Duration) -> Arc<Remote> {
    let (targets, stored, figures) = (Arc::downgrade(manager), store.clone(), store.clone());
    Arc::new(Remote::start(Parts {
        store: Arc::new(store.clone()),
        target_metadata: Arc::new(move || {
            let pages = targets.upgrade().map(|m| m.metadata()).unwrap_or_default();
            let entries = pages.into_iter().flat_map(|(_, entries)| entries);
            entries.map(|e| (e.metric.clone(), e.metadata.clone())).collect()
        }),
        // Asked by a queue's own thread.
        stored_metadata: Arc::new(move || {
            let all = futures::executor::block_on(stored.metadata(None)).unwrap_or_default();
            all.into_iter().map(|e| (e.metric, e.metadata)).collect()
        }),
        received: Arc::new(move || {
            let figures = figures.get().map(narthex_tsdb::Store::figures).unwrap_or_default();
            let of = |name: &str| figures.get(name).copied().unwrap_or(0.0);
            let taken = |kind| of(&format!("prometheus_tsdb_head_samples_appended_total{{type=\"{kind}\"}}"));
            let samples = taken("float") + taken("histogram");
            Received { samples, newest: of("prometheus_tsdb_head_max_time") as i64 }
        }),
        registry: registry.clone(),
        flush_deadline,
        user_agent: concat!("Narthex/", env!("CARGO_PKG_VERSION")),
    }))
}
