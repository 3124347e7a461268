//! How connecting goes, by the name of who connects: a scrape pool, a kind of discovery. As Prometheus counts it
//! (`net_conntrack_dialer_*`), one table for the whole process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Why connecting failed, as the metric's label spells it.
pub const REASONS: [&str; 4] = ["refused", "resolution", "timeout", "unknown"];

/// Connections of one name.
#[derive(Debug, Default)]
pub struct Dials {
    pub attempted: AtomicU64,
    pub established: AtomicU64,
    pub closed: AtomicU64,
    /// By reason, in the order of [`REASONS`].
    pub failed: [AtomicU64; 4],
}

static ALL: Mutex<BTreeMap<String, Arc<Dials>>> = Mutex::new(BTreeMap::new());

/// The counts of that name; made where there are none.
pub fn of(name: &str) -> Arc<Dials> {
    let mut all = ALL.lock();
    match all.get(name) {
        Some(known) => known.clone(),
        None => all.entry(name.to_owned()).or_default().clone(),
    }
}

/// All counts by name.
pub fn all() -> Vec<(String, Arc<Dials>)> {
    ALL.lock().iter().map(|(name, dials)| (name.clone(), dials.clone())).collect()
}

fn one(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

/// An attempt to connect. One that is dropped before its end took too long for whoever waited.
pub(crate) struct Attempt(Option<Arc<Dials>>);

impl Attempt {
    pub fn begin(dials: &Arc<Dials>) -> Attempt {
        one(&dials.attempted);
        Attempt(Some(dials.clone()))
    }

    pub fn succeeded(mut self) -> Established {
        let dials = self.0.take().unwrap_or_default();
        one(&dials.established);
        Established(dials)
    }

    /// `error` as it is shown.
    pub fn failed(mut self, error: &str) {
        let reason = match error {
            e if e.ends_with("connection refused") => 0,
            e if e.ends_with("no such host") => 1,
            e if e.contains("timed out") => 2,
            _ => 3,
        };
        if let Some(dials) = self.0.take() {
            one(&dials.failed[reason]);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(dials) = self.0.take() {
            one(&dials.failed[2]);
        }
    }
}

/// A connection that is open for as long as this lives.
pub(crate) struct Established(Arc<Dials>);

impl Drop for Established {
    fn drop(&mut self) {
        one(&self.0.closed);
    }
}
