//! Configuration: `prometheus.yml`, scrape jobs, and the assignment of targets to a shard.

pub mod assignment;

pub use assignment::{Assignment, Target, TargetGroup};
