//! Which queries run and wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use crate::class::Class;

/// A query that waits or runs.
#[derive(Clone, Debug)]
pub struct ActiveQuery {
    pub id: u64,
    pub query: String,
    /// Address of who asked.
    pub client: String,
    pub path: String,
    pub class: Class,
    /// It has a slot; until then it waits.
    pub running: bool,
    pub since: Instant,
    /// Milliseconds since the epoch.
    pub since_ms: i64,
    pub cancelled: Arc<AtomicBool>,
}

/// Clones are the same list.
#[derive(Clone, Default)]
pub struct ActiveQueries(Arc<Inner>);

#[derive(Default)]
struct Inner {
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

impl Entry {
    pub fn id(&self) -> u64 {
        self.id
    }

    /// It waits no longer.
    pub fn runs(&self) {
        if let Some(query) = self.of.0.list.lock().get_mut(&self.id) {
            query.running = true;
        }
    }
}

impl ActiveQueries {
    /// Puts a query on the list. `cancelled` is set when somebody says so, and may be set by whoever asks.
    pub fn enter(&self, query: &str, (client, path): (&str, &str), class: Class, cancelled: Arc<AtomicBool>) -> Entry {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed) + 1;
        let entry = ActiveQuery {
            id,
            query: query.to_owned(),
            client: client.to_owned(),
            path: path.to_owned(),
            class,
            running: false,
            since: Instant::now(),
            since_ms: crate::params::Time::now().ms(),
            cancelled: cancelled.clone(),
        };
        self.0.list.lock().insert(id, entry);
        Entry { id, of: self.clone(), cancelled }
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

    #[test]
    fn entries_are_told_to_stop_and_leave() {
        let active = ActiveQueries::default();
        let entry = active.enter("up", ("1.2.3.4", "/api/v1/query"), Class::Adhoc, Arc::default());
        entry.runs();
        assert!(active.list()[0].running);
        let flag = entry.cancelled.clone();
        assert!(active.cancel(entry.id) && flag.load(Ordering::Relaxed));
        drop(entry);
        assert!(active.list().is_empty());
    }
}
