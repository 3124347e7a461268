//! How many shards a queue wants, from what comes in and how long sending takes (Prometheus
//! `QueueManager.calculateDesiredShards`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often the rates are looked at.
pub const TICK: Duration = Duration::from_secs(10);

/// The weight of the newest rate.
const WEIGHT: f64 = 0.2;

/// How far the wish may be from what is before anything changes.
const TOLERANCE: f64 = 0.3;

/// An average of rates that forgets.
#[derive(Debug, Default)]
pub struct Ewma {
    new: AtomicU64,
    rate: f64,
    begun: bool,
}

impl Ewma {
    pub fn add(&self, n: u64) {
        self.new.fetch_add(n, Ordering::Relaxed);
    }

    /// Takes over what came since the last tick.
    pub fn tick(&mut self) {
        let new = std::mem::take(self.new.get_mut());
        let rate = new as f64 / TICK.as_secs_f64();
        if self.begun {
            self.rate += WEIGHT * (rate - self.rate);
        } else if new > 0 {
            (self.begun, self.rate) = (true, rate);
        }
    }

    /// Events per second.
    pub fn rate(&self) -> f64 {
        self.rate
    }
}

/// Rates per second, and how far behind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// Samples that the store takes.
    pub incoming: f64,
    pub dropped: f64,
    pub sent: f64,
    /// Seconds that sending took, per second; of all shards.
    pub sending: f64,
    /// Seconds between the newest sample in the store and the newest that was sent.
    pub delay: f64,
}

/// How many are allowed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub min: usize,
    pub max: usize,
}

/// How many shards there are to be, and the wish that the metric shows; none where nothing can be said.
pub fn desired(rates: &Rates, now: usize, limits: Limits) -> (usize, Option<f64>) {
    if rates.sent <= 0.0 {
        return (now, None);
    }
    let kept = rates.sent / (rates.dropped + rates.sent);
    let backlog = rates.delay * rates.incoming * kept;
    let each = rates.sending / rates.sent;
    // What is behind is to be caught up with by a twentieth a second.
    let wish = each * (rates.incoming * kept + 0.05 * backlog);
    let shards = wish.ceil();
    let current = now as f64;
    if (current * (1.0 - TOLERANCE)..=current * (1.0 + TOLERANCE)).contains(&shards) {
        return (now, Some(wish));
    }
    if shards < current && rates.delay > 10.0 {
        return (now, Some(wish));
    }
    ((shards as usize).clamp(limits.min, limits.max), Some(wish))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_the_time_of_sending_asks_for() {
        let limits = Limits { min: 1, max: 50 };
        let rates = |incoming, sent, sending, delay| Rates { incoming, dropped: 0.0, sent, sending, delay };
        for (rates, now, expected) in [
            // Nothing was sent: nothing is known.
            (rates(100.0, 0.0, 1.0, 1.0), 3, 3),
            // A shard is busy for a tenth of the time.
            (rates(1000.0, 1000.0, 0.1, 0.0), 1, 1),
            // Five seconds of sending a second.
            (rates(1000.0, 1000.0, 5.0, 0.0), 1, 5),
            // Close enough.
            (rates(1000.0, 1000.0, 4.9, 0.0), 4, 4),
            // Behind: more, and never fewer.
            (rates(1000.0, 1000.0, 1.0, 100.0), 1, 6),
            (rates(1000.0, 1000.0, 0.1, 11.0), 4, 4),
            (rates(1000.0, 1000.0, 0.1, 1.0), 4, 1),
            // Bounded.
            (rates(1e6, 1000.0, 1.0, 0.0), 1, 50),
        ] {
            assert_eq!(desired(&rates, now, limits).0, expected, "{rates:?} {now}");
        }
        assert_eq!(desired(&rates(1.0, 1.0, 0.001, 0.0), 9, Limits { min: 3, max: 50 }).0, 3);
    }

    #[test]
    fn averages_forget() {
        let mut e = Ewma::default();
        e.tick();
        assert_eq!(e.rate(), 0.0);
        e.add(100);
        e.tick();
        assert_eq!(e.rate(), 10.0);
        e.tick();
        assert_eq!(e.rate(), 8.0);
    }
}
