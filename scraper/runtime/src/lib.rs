//! What every process of the project needs around its work: logs, traces, own metrics, a CPU pool, ordered shutdown.
//!
//! No domain words here: nothing knows of samples, targets or queries.

pub mod log;
pub mod metrics;
pub mod pool;
pub mod process;
pub mod shutdown;
pub mod trace;

pub use metrics::Registry;
pub use pool::{CpuPool, PoolError};
pub use shutdown::{Shutdown, Stages};
