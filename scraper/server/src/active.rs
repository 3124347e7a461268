//! Which queries run, how many may, and which were slow.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A query that waits or runs.
#[derive(Clone, Debug)]
pub struct ActiveQuery {
    pub id: u64,
    pub query: String,
    /// Address of who asked.
    pub client: String,
    pub path: String,
    pub since: Instant,
    /// Milliseconds since the epoch.
    pub since_ms: i64,
    pub cancelled: Arc<AtomicBool>,
}

/// Clones are the same list.
#[derive(Clone)]
pub struct ActiveQueries(Arc<Inner>);

struct Inner {
    slots: Arc<Semaphore>,
    next: AtomicU64,
    list: Mutex<BTreeMap<u64, ActiveQuery>>,
}

/// An entry of the list, removed on drop. Dropping it also tells the evaluation to stop.
pub struct Entry {
    id: u64,
    of: ActiveQueries,
    pub cancelled: Arc<AtomicBool>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.of.0.list.lock().remove(&self.id);
    }
}

impl ActiveQueries {
    pub fn new(max_concurrency: usize) -> ActiveQueries {
        let slots = Arc::new(Semaphore::new(max_concurrency.max(1)));
        ActiveQueries(Arc::new(Inner { slots, next: AtomicU64::new(1), list: Mutex::default() }))
    }

    /// Puts a query on the list. `cancelled` is set when somebody says so, and may be set by whoever asks.
    pub fn enter(&self, query: &str, client: &str, path: &str, cancelled: Arc<AtomicBool>) -> Entry {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let entry = ActiveQuery {
            id,
            query: query.to_owned(),
            client: client.to_owned(),
            path: path.to_owned(),
            since: Instant::now(),
            since_ms: crate::params::Time::now().ms(),
            cancelled: cancelled.clone(),
        };
        self.0.list.lock().insert(id, entry);
        Entry { id, of: self.clone(), cancelled }
    }

    /// Waits for one of the slots in which queries run. Cancel-safe.
    pub async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        self.0.slots.clone().acquire_owned().await.ok()
    }

    /// Oldest first.
    pub fn list(&self) -> Vec<ActiveQuery> {
        self.0.list.lock().values().cloned().collect()
    }

    /// Tells a query to stop; false when there is none of that number.
    pub fn cancel(&self, id: u64) -> bool {
        match self.0.list.lock().get(&id) {
            Some(query) => {
                query.cancelled.store(true, Ordering::Relaxed);
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn slots_are_limited_and_entries_leave() {
        let active = ActiveQueries::new(1);
        let entry = active.enter("up", "1.2.3.4", "/api/v1/query", Arc::default());
        let slot = active.slot().await.unwrap();
        assert!(futures::FutureExt::now_or_never(active.slot()).is_none());
        drop(slot);
        assert!(active.slot().await.is_some());
        let flag = entry.cancelled.clone();
        assert!(active.cancel(entry.id) && flag.load(Ordering::Relaxed));
        drop(entry);
        assert!(active.list().is_empty());
    }
}
