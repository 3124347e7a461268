//! Log lines that come no more often than they are of use.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How often a line is shown.
const EVERY: Duration = Duration::from_secs(10);

/// Lets one line of many pass.
#[derive(Debug, Default)]
pub struct Quiet(Mutex<(Option<Instant>, u64)>);

impl Quiet {
    /// Whether the line is to be shown, and how many were not since the last one.
    pub fn allow(&self) -> Option<u64> {
        let mut state = self.0.lock();
        if state.0.is_some_and(|last| last.elapsed() < EVERY) {
            state.1 += 1;
            return None;
        }
        state.0 = Some(Instant::now());
        Some(std::mem::take(&mut state.1))
    }
}
