//! Sends a lane's requests one after the other: again and again where that may help, in parts where the receiver refuses
//! what it may have already.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use narthex_config::remote::WriteMessage;
use narthex_http::Connections;
use tracing::{error, info, warn};

use crate::client::{Outcome, Written, now_ms};
use crate::encode::{Counts, Encoded};
use crate::lanes::Waiting;
use crate::metrics::Reason;
use crate::queue::Shared;
use crate::rewrite;

/// A refused request is cut until its parts are this part of it.
const FINEST: usize = 256;

/// How one request, or a part of one, ended.
enum End {
    Through,
    /// Refused as a whole, and worth cutting: some of it may be there already.
    Cut(Encoded),
    /// The queue ends.
    Aborted,
}

/// Serves a lane until it ends.
pub async fn serve(shared: Arc<Shared>, lane: usize, generation: u64) {
    let mut connections = Connections::default();
    while let Some(next) = shared.lanes.next(lane, generation).await {
        if !deliver(&shared, next, &mut connections).await {
            return;
        }
        shared.lanes.done(lane, generation);
    }
}

/// Whether the request is through.
async fn deliver(shared: &Shared, waiting: Waiting, connections: &mut Connections) -> bool {
    let counts = waiting.request.counts;
    let mut parts = vec![waiting.request];
    let mut finest = None;
    while let Some(part) = parts.pop() {
        match attempts(shared, part, waiting.repeated, connections).await {
            End::Through => {}
            End::Aborted => return false,
            End::Cut(part) => {
                let message = shared.config.protobuf_message;
                let len = rewrite::len(&part, message);
                let finest = *finest.get_or_insert((len / FINEST).max(1));
                if len <= finest {
                    shared.metrics.failed.add(Counts { metadata: 0, ..part.counts });
                    if let Some(more) = shared.quiet.refused.allow() {
                        warn!(
                            remote_name = shared.metrics.name,
                            url = shared.metrics.url,
                            samples = part.counts.data(),
                            not_shown = more,
                            "the receiver refused samples that it may have already"
                        );
                    }
                    continue;
                }
                let [older, newer] = rewrite::halves(&part, message, len);
                parts.extend([newer, older]);
            }
        }
    }
    shared.metrics.pending(counts, -1.0);
    true
}

/// Sends until it is taken or refused.
async fn attempts(shared: &Shared, mut request: Encoded, repeated: bool, connections: &mut Connections) -> End {
    let message = shared.config.protobuf_message;
    let metrics = &shared.metrics;
    let queue = &shared.config.queue_config;
    let (began, all) = (Instant::now(), request.counts);
    let mut backoff = queue.min_backoff;
    let mut unknown = repeated;
    let mut attempt = 0;
    let end = loop {
        if !queue.sample_age_limit.is_zero() {
            let oldest = shared.oldest(now_ms());
            if request.lowest < oldest {
                let (younger, left) = rewrite::without_older(&request, message, oldest);
                metrics.dropped.add(Reason::TooOld, left);
                request = younger;
            }
        }
        if request.counts.data() == 0 {
            break End::Through;
        }
        metrics.sent.add(request.counts);
        let start = Instant::now();
        let destination = shared.destination.load_full();
        let outcome = tokio::select! {
            outcome = destination.store(request.body.clone(), attempt, connections) => outcome,
            () = shared.hard.cancelled() => return End::Aborted,
        };
        metrics.duration.observe(start.elapsed().as_secs_f64());
        match outcome {
            Outcome::Done(written) => {
                settle(shared, &request, written, message);
                break End::Through;
            }
            Outcome::Refused { status, error, written } => {
                if status == 400 && unknown && !written.confirmed {
                    return End::Cut(request);
                }
                let failed = missing(request.counts, written);
                metrics.failed.add(failed);
                if let Some(more) = shared.quiet.refused.allow() {
                    error!(
                        remote_name = metrics.name,
                        url = metrics.url,
                        failed_samples = failed.samples,
                        failed_histograms = failed.histograms,
                        failed_exemplars = failed.exemplars,
                        not_shown = more,
                        err = error,
                        "non-recoverable error"
                    );
                }
                break End::Through;
            }
            Outcome::Again { error, wait, unknown: lost } => {
                unknown |= lost;
                let sleep = wait.unwrap_or(backoff);
                shared.no_reshard_until.fetch_max(now_ms() + 2 * millis(sleep), Ordering::Relaxed);
                if let Some(more) = shared.quiet.failed.allow() {
                    warn!(
                        remote_name = metrics.name,
                        url = metrics.url,
                        not_shown = more,
                        err = error,
                        "failed to send batch, retrying"
                    );
                    if let Some(wait) = wait {
                        info!(seconds = wait.as_secs(), "retrying after the duration that the receiver asked for");
                    }
                }
                tokio::select! {
                    () = tokio::time::sleep(sleep) => {}
                    () = shared.hard.cancelled() => return End::Aborted,
                }
                metrics.retried.add(Counts { metadata: 0, ..request.counts });
                backoff = (sleep * 2).min(queue.max_backoff);
                attempt += 1;
            }
        }
    };
    metrics.bytes.add(request.body.len() as f64);
    metrics.highest_sent.see_ms(request.highest);
    shared.rates.sent.fetch_add(all.data() + all.metadata, Ordering::Relaxed);
    shared.rates.nanos.fetch_add(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    shared.last_sent.store(now_ms(), Ordering::Relaxed);
    end
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 4)
}

/// What the receiver does not say to have written.
fn missing(all: Counts, written: Written) -> Counts {
    Counts {
        samples: all.samples.saturating_sub(written.samples),
        histograms: all.histograms.saturating_sub(written.histograms),
        exemplars: all.exemplars.saturating_sub(written.exemplars),
        metadata: 0,
    }
}

/// A success: whether all of it is there. Receivers of 2.0 have to say so.
fn settle(shared: &Shared, request: &Encoded, written: Written, message: WriteMessage) {
    if message == WriteMessage::V1 && !written.confirmed {
        return;
    }
    let lost = missing(request.counts, written);
    if lost.data() == 0 {
        return;
    }
    shared.metrics.failed.add(lost);
    let Some(more) = shared.quiet.refused.allow() else { return };
    let (name, url) = (&shared.metrics.name, &shared.metrics.url);
    let nothing = written.samples + written.histograms + written.exemplars == 0;
    let why = if message == WriteMessage::V2 && nothing {
        "the receiver answered 2xx, but does not say that anything was written: it may not understand remote write 2.0"
    } else {
        "the receiver answered 2xx, but says that some data was not written"
    };
    error!(
        remote_name = name,
        url,
        failed_samples = lost.samples,
        failed_histograms = lost.histograms,
        failed_exemplars = lost.exemplars,
        not_shown = more,
        why,
        "non-recoverable error"
    );
}
