//! `/admin/tsdb/*`: off unless the flag is given.

use std::collections::BTreeMap;
use std::sync::Arc;

use narthex_storage::{StorageAdmin, StorageError};
use tracing::info;

use super::{Req, selector};
use crate::answer::{Answer, ApiError, ApiResult, ErrorType};
use crate::params::{MAX_TIME, MIN_TIME, parse_bool};
use crate::state::App;

/// # Errors
/// When the flag was not given.
pub fn enabled(app: &App) -> Result<(), ApiError> {
    if app.options.enable_admin { Ok(()) } else { Err(ApiError::new(ErrorType::Unavailable, "admin APIs disabled")) }
}

/// # Errors
/// When there is no local store.
pub fn admin_of(app: &App) -> Result<Arc<dyn StorageAdmin>, ApiError> {
    app.admin.clone().ok_or_else(|| ApiError::new(ErrorType::Unavailable, "no local storage"))
}

/// Runs what blocks on a thread that may.
///
/// # Errors
/// The store's.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, ApiError> {
    let internal = |text: String| ApiError::new(ErrorType::Internal, text);
    tokio::task::spawn_blocking(work).await.map_err(|e| internal(e.to_string()))?.map_err(|e| internal(e.to_string()))
}

pub async fn delete_series(app: Arc<App>, req: Req) -> ApiResult {
    enabled(&app)?;
    req.parsed_form()?;
    if !req.form.has("match[]") {
        return Err(ApiError::bad_data("no match[] parameter provided"));
    }
    let (start, end) = (req.time("start", MIN_TIME)?, req.time("end", MAX_TIME)?);
    let selectors = req.form.all("match[]").map(selector).collect::<Result<Vec<_>, _>>();
    let selectors = selectors.map_err(|e| ApiError::parameter("match[]", e))?;
    // Without any matcher nothing is selected.
    let selectors: Vec<_> = selectors.into_iter().filter(|s| !s.is_empty()).collect();
    if selectors.is_empty() {
        return Ok(Answer::none());
    }
    let admin = admin_of(&app)?;
    info!(selectors = ?selectors, client = req.client, "deleting series");
    blocking(move || admin.delete_series(&selectors, start.ms(), end.ms())).await?;
    Ok(Answer::none())
}

pub async fn clean_tombstones(app: Arc<App>, _: Req) -> ApiResult {
    enabled(&app)?;
    let admin = admin_of(&app)?;
    blocking(move || admin.clean_tombstones()).await?;
    Ok(Answer::none())
}

pub async fn snapshot(app: Arc<App>, req: Req) -> ApiResult {
    enabled(&app)?;
    let skip_head = match req.get("skip_head") {
        "" => false,
        text => {
            parse_bool(text).map_err(|e| ApiError::parameter("skip_head", format!("unable to parse boolean: {e}")))?
        }
    };
    let admin = admin_of(&app)?;
    let name = blocking(move || admin.snapshot(skip_head)).await.map_err(|mut e| {
        e.message = format!("create snapshot: {}", e.message);
        e
    })?;
    Answer::json(&BTreeMap::from([("name", name)]))
}
