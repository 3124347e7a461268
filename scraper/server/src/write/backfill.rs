//! `/api/v1/admin/tsdb/backfill`: history in the framing of remote write, of any age. The router has seen that the admin
//! API is on.
//!
//! Samples are not judged by what is newer: that is the difference to remote write, and why it is an administrator's.
//! The answer counts what became of them. A request may be sent again: what is there is not stored twice.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response};
use narthex_storage::{Backfilled, ErrorKind};
use serde::Serialize;
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::{debug, warn};

use super::decode::{Decoded, Rules};
use super::known::{Known, Samples};
use super::{MAX_AHEAD, V1, framing, read, unpack};
use crate::answer::{Answer, ApiError, ApiResult, Body, ErrorType, plain_error, respond};
use crate::api::admin::admin_of;
use crate::params::Time;
use crate::state::App;

/// What an answer says of samples. Each is counted once.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    taken: u64,
    known: u64,
    duplicate: u64,
    too_old: u64,
    too_new: u64,
    /// Of series with invalid labels, and invalid histograms.
    invalid: u64,
}

/// One request at a time is read and stored, so that history takes neither the memory nor the threads of writes.
static TURN: Semaphore = Semaphore::const_new(1);

/// Waits for a request's turn, which ends when what comes back is dropped.
pub async fn turn() -> Option<SemaphorePermit<'static>> {
    // It is never closed.
    TURN.acquire().await.ok()
}

/// Answers a request whose body was read, at most [`super::MAX_BYTES`] of it, in its turn.
pub async fn backfill(app: Arc<App>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let message = match framing(&headers, &body) {
        Ok(message) => message,
        Err((status, text)) => return plain_error(status, &text),
    };
    let done = tokio::task::spawn_blocking(move || take(&app, &body, message)).await;
    respond(&headers, done.unwrap_or_else(|e| Err(ApiError::new(ErrorType::Internal, e.to_string()))))
}

fn take(app: &App, body: &[u8], message: &str) -> ApiResult {
    let admin = admin_of(app)?;
    let mut unpacked = Vec::new();
    let nobody = Known::new(0);
    let unpacked = unpack(body, &mut unpacked).map_err(ApiError::bad_data)?;
    let decoded = read(&nobody, Rules::default(), unpacked, message == V1, i64::MAX, &mut Samples::default());
    let (Decoded { mut batch, faults, invalid, bad_histograms, metadata, .. }, _) =
        decoded.map_err(ApiError::bad_data)?;
    let mut warnings: Vec<String> = faults.into_iter().map(|f| f.1).collect();
    let mut counts = Counts { invalid: invalid + bad_histograms.len() as u64, ..Counts::default() };
    // From the last on, so that the others keep their places.
    for (series, at, fault) in bad_histograms.into_iter().rev() {
        let Some(series) = batch.series.get_mut(series).filter(|s| at < s.histograms.len()) else { continue };
        series.histograms.remove(at);
        if at < series.histogram_starts.len() {
            series.histogram_starts.remove(at);
        }
        warnings.push(format!("{fault} for series {}", series.labels));
    }
    if !metadata.is_empty() {
        app.appendable.put_metadata(&metadata);
    }
    let done = admin.backfill(batch, Time::now().ms() + MAX_AHEAD).map_err(|e| {
        warn!(err = %e, "backfill failed");
        let kind = if e.kind == ErrorKind::Unavailable { ErrorType::Unavailable } else { ErrorType::Internal };
        ApiError::new(kind, e.to_string())
    })?;
    let Backfilled { taken, known, duplicate, too_old, too_new } = done;
    counts = Counts { taken, known, duplicate, too_old, too_new, ..counts };
    debug!(?counts, "history taken");
    Ok(Answer::json(&counts)?.with_warnings(warnings))
}
