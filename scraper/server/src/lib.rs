//! The HTTP side: Prometheus's API, federation, remote write, the page, and what guards them.
//!
//! [`App`] holds what handlers need, [`router`] leads to them, [`listen`] serves. Nothing here knows how samples are
//! kept: the store, a peer or the whole fleet is an `Arc<dyn Queryable>`.
//!
//! Deliberately absent: console templates.

pub mod active;
pub mod answer;
pub mod api;
pub mod assets;
pub mod class;
pub mod engine;
pub mod fanout;
pub mod federate;
pub mod json;
pub mod listen;
pub mod metrics;
pub mod notifications;
pub mod openapi;
pub mod otlp;
pub mod params;
pub mod push;
pub mod query_log;
mod quick;
pub mod read;
pub mod router;
pub mod rules;
pub mod state;
pub mod top;
pub mod web;
pub mod web_config;
pub mod write;

pub use axum::Router;
pub use state::{
    App, BuildInfo, ConfigView, DroppedTargets, Options, Parts, Readiness, ReloadRequest, Sources, TargetStatus,
};
