//! Defaults of the configuration that feature flags of the process change, as Prometheus's `--enable-feature` does.

use std::sync::atomic::{AtomicBool, Ordering};

static EXTRA_SCRAPE_METRICS: AtomicBool = AtomicBool::new(false);

/// From here on files that do not say otherwise have `extra_scrape_metrics: true`.
pub fn extra_scrape_metrics_by_default() {
    EXTRA_SCRAPE_METRICS.store(true, Ordering::Relaxed);
}

pub(crate) fn extra_scrape_metrics() -> bool {
    EXTRA_SCRAPE_METRICS.load(Ordering::Relaxed)
}
