//! From Kubernetes objects to what each shard scrapes, as pure functions: no client, no clock, no randomness.
//!
//! * [`jobs`]: a monitor becomes scrape jobs, in the form of `prometheus.yml`, with the relabelling rules that
//!   prometheus-operator would write, in its order.
//! * [`check`]: whether a monitor is acceptable, and why not.
//! * [`kubernetes`]: Kubernetes objects become target groups with Prometheus's `__meta_kubernetes_*`.
//! * [`assign`]: weighted targets are placed on shards.
//! * [`targets`]: target groups become targets, as a job's rules say.
//! * [`select`]: label selectors.
//!
//! Deliberately absent: sharding by `hashmod` rules. Targets are placed by [`assign`] after relabelling, each on as many
//! shards as the fleet's replication says (`__tmp_disable_sharding` means nothing: one query endpoint answers for all).

pub mod assign;
#[cfg(feature = "monitors")]
pub mod check;
#[cfg(feature = "monitors")]
pub mod jobs;
pub mod kubernetes;
#[cfg(feature = "monitors")]
pub mod select;
pub mod targets;
