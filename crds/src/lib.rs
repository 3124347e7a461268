//! Kubernetes types: the own [`Fleet`] and the monitors of `monitoring.coreos.com` as they are upstream.
//!
//! The generated manifest of the own type is committed in `crds/yaml` and held equal to the code by a test
//! (`NARTHEX_UPDATE=1` rewrites it). Of the monitors only the types are here, not their schemas: clusters that use them
//! have their manifests, and a newer field must not become an error, so unknown fields are ignored.

pub mod fleet;
pub mod monitoring;

pub use fleet::{Fleet, FleetSpec, FleetStatus};
pub use monitoring::{PodMonitor, PodMonitorSpec, ServiceMonitor, ServiceMonitorSpec};

/// The manifest of the own custom resource definition, as committed.
pub const FLEET_CRD: &str = include_str!("../yaml/narthex.dev_fleets.yaml");
