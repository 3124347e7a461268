//! Discovery of targets: from a job's discovery sections to groups of targets.
//!
//! A [`Discoverer`] sends the groups that changed; the [`DiscoveryManager`] runs one for each different section, keeps
//! what they sent, and gives snapshots of it, by job, no more often than every few seconds.
//!
//! Labels are Prometheus's `__meta_*`. Deliberately absent: relabelling (`narthex-plan`).

mod client;
mod consul;
mod dns;
mod docker;
mod file;
mod http;
mod kubernetes;
mod manager;
mod metrics;
mod nomad;
mod refresh;

use std::future::Future;
use std::pin::Pin;

use narthex_config::TargetGroup;
use tokio::sync::mpsc;

pub use manager::{DiscoveryFault, DiscoveryManager, Snapshot};
pub use metrics::SdMetrics;

/// Where a discoverer sends groups to: those that changed. A group replaces the one of the same source; one without
/// targets removes it. Full means that the manager is busy: the discoverer waits.
pub type Updates = mpsc::Sender<Vec<TargetGroup>>;

/// A source of target groups.
pub trait Discoverer: Send {
    /// Finds targets for as long as it is polled. Dropping the future stops it.
    fn run(self: Box<Self>, updates: Updates) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}
