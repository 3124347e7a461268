//! Defaults of the configuration that feature flags of the process change, as Prometheus's `--enable-feature` does.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::ScrapeProtocol;
use crate::storage::ExemplarsConfig;

static EXTRA_SCRAPE_METRICS: AtomicBool = AtomicBool::new(false);

/// From here on files that do not say otherwise have `extra_scrape_metrics: true`.
pub fn extra_scrape_metrics_by_default() {
    EXTRA_SCRAPE_METRICS.store(true, Ordering::Relaxed);
}

static PROTO_FIRST: AtomicBool = AtomicBool::new(false);

/// From here on files that do not say otherwise ask for protobuf before all else, and say so in their global part.
pub fn proto_first_by_default() {
    PROTO_FIRST.store(true, Ordering::Relaxed);
}

static EXEMPLARS: AtomicBool = AtomicBool::new(false);

/// From here on files that do not say otherwise say how many exemplars are kept.
pub fn exemplars_by_default() {
    EXEMPLARS.store(true, Ordering::Relaxed);
}

pub(crate) fn exemplars() -> Option<ExemplarsConfig> {
    EXEMPLARS.load(Ordering::Relaxed).then_some(ExemplarsConfig { max_exemplars: 100_000 })
}

/// Of the global part: empty where jobs decide.
pub(crate) fn default_protocols() -> Vec<ScrapeProtocol> {
    if PROTO_FIRST.load(Ordering::Relaxed) { ScrapeProtocol::PROTO_FIRST.to_vec() } else { Vec::new() }
}

pub(crate) fn extra_scrape_metrics() -> bool {
    EXTRA_SCRAPE_METRICS.load(Ordering::Relaxed)
}
