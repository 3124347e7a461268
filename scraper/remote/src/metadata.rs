//! Descriptions of metrics, which 1.0 sends in requests of their own from time to time (Prometheus `MetadataWatcher`).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use narthex_config::remote::WriteMessage;
use narthex_http::Connections;
use narthex_model::Metadata;
use tracing::{error, warn};

use crate::Descriptions;
use crate::client::Outcome;
use crate::encode::{Counts, Encoder};
use crate::queue::Shared;

/// Sends what is known every `send_interval` until the queue ends.
pub async fn serve(shared: Arc<Shared>, descriptions: Descriptions) {
    let config = &shared.config.metadata_config;
    if !config.send || config.send_interval.is_zero() {
        return;
    }
    let mut connections = Connections::default();
    let most = usize::try_from(config.max_samples_per_send).unwrap_or(1).max(1);
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + config.send_interval, config.send_interval);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shared.hard.cancelled() => return,
        }
        let mut seen = HashSet::new();
        let all = (descriptions)().into_iter().filter(|entry| seen.insert(entry.clone()));
        let all: Vec<(String, Arc<Metadata>)> = all.map(|(name, m)| (name, Arc::new(m))).collect();
        drop(seen);
        for part in all.chunks(most) {
            if !send(&shared, part, &mut connections).await {
                return;
            }
        }
    }
}

/// Whether the queue goes on.
async fn send(shared: &Shared, part: &[(String, Arc<Metadata>)], connections: &mut Connections) -> bool {
    let metrics = &shared.metrics;
    let body = Encoder::new(WriteMessage::V1).metadata(part);
    let counts = Counts { metadata: part.len() as u64, ..Counts::default() };
    let mut backoff = shared.config.queue_config.min_backoff;
    let mut attempt = 0;
    loop {
        let start = Instant::now();
        let destination = shared.destination.load_full();
        let outcome = tokio::select! {
            outcome = destination.store(body.clone(), attempt, connections) => outcome,
            () = shared.hard.cancelled() => return false,
        };
        metrics.duration.observe(start.elapsed().as_secs_f64());
        let (error, wait) = match outcome {
            Outcome::Done(_) => {
                metrics.sent.add(counts);
                metrics.metadata_bytes.add(body.len() as f64);
                return true;
            }
            Outcome::Refused { error, .. } => {
                metrics.failed.add(counts);
                if let Some(more) = shared.quiet.refused.allow() {
                    error!(
                        remote_name = metrics.name,
                        url = metrics.url,
                        count = part.len(),
                        not_shown = more,
                        err = error,
                        "non-recoverable error while sending metadata"
                    );
                }
                return true;
            }
            Outcome::Again { error, wait, .. } => (error, wait),
        };
        if let Some(more) = shared.quiet.failed.allow() {
            warn!(
                remote_name = metrics.name,
                url = metrics.url,
                not_shown = more,
                err = error,
                "failed to send metadata, retrying"
            );
        }
        let sleep = wait.unwrap_or(backoff);
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            () = shared.hard.cancelled() => return false,
        }
        metrics.retried.add(counts);
        backoff = (sleep * 2).min(shared.config.queue_config.max_backoff);
        attempt += 1;
    }
}
