//! Scraping: exposition formats, the line cache, HTTP fetch, pools and loops.
//!
//! A [`manager::Manager`] runs one loop per target. A loop fetches the target's page (`narthex-http`) at the target's
//! own phase and gives it to the target's session ([`session`]), which matches it against the last one and appends one row
//! to the store. Formats ([`exposition`]) know nothing of any of that.

pub mod exposition;
mod failure_log;
pub mod histogram;
pub mod manager;
mod metrics;
pub mod session;
mod store_log;

pub use manager::{Health, Manager, Options, TargetStatus};
