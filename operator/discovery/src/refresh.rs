//! Discoverers that ask anew at an interval.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use narthex_config::TargetGroup;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::metrics::SdMetrics;
use crate::{Discoverer, Updates};

pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Asks once.
pub(crate) trait Refresh: Send + 'static {
    /// The groups that changed, with empty ones for those that are gone. After an error all stays as it was.
    fn refresh(&mut self) -> BoxFuture<'_, Result<Vec<TargetGroup>, String>>;
}

/// A discoverer that refreshes at once and then at its interval.
pub(crate) struct Refreshing<R> {
    pub kind: &'static str,
    /// The job, for metrics and logs.
    pub set: String,
    pub interval: Duration,
    pub refresh: R,
    pub metrics: Arc<SdMetrics>,
}

impl<R: Refresh> Discoverer for Refreshing<R> {
    fn run(mut self: Box<Self>, updates: Updates) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            let labels = [self.kind, self.set.as_str()];
            let failures = self.metrics.refresh_failures.with(&labels);
            let durations = self.metrics.refresh_duration.with(&labels);
            let histogram = self.metrics.refresh_histogram.with(&[self.kind]);
            let mut ticks = interval(self.interval.max(Duration::from_millis(1)));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let started = Instant::now();
                let result = self.refresh.refresh().await;
                let seconds = started.elapsed().as_secs_f64();
                durations.observe(seconds);
                histogram.observe(seconds);
                match result {
                    Ok(groups) => {
                        if updates.send(groups).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        failures.inc();
                        tracing::error!(
                            discovery = self.kind, config = %self.set, error, "unable to refresh target groups"
                        );
                    }
                }
            }
        })
    }
}
