//! `/api/v1`: one module per family of endpoints. A handler gets a [`Req`] and gives an
//! [`ApiResult`](crate::answer::ApiResult).

pub mod admin;
pub mod labels;
pub mod query;
pub mod search;
pub mod status;
pub mod targets;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use http::{HeaderMap, Method};
use narthex_model::Matcher;
use narthex_promql::Expr;
use narthex_storage::{ErrorKind, StorageError, Trace};

use crate::answer::{ApiError, ErrorType};
use crate::class::Asking;
use crate::params::{self, Form, Time};
use crate::state::App;

/// A request as handlers see it.
#[derive(Debug, Default)]
pub struct Req {
    pub method: Method,
    /// The path without the route prefix.
    pub path: String,
    pub headers: HeaderMap,
    /// Parameters of a form in the body, then those of the URL.
    pub form: Form,
    /// Those of the URL alone.
    pub url: Form,
    /// The variable part of the path, where there is one.
    pub name: String,
    /// Address of the client, without its port.
    pub client: String,
    /// Set when the client has left.
    pub gone: Arc<AtomicBool>,
    /// What the answer is made of, where the request asks for that.
    pub trace: Trace,
}

impl Req {
    pub fn get(&self, name: &str) -> &str {
        self.form.get(name)
    }

    /// # Errors
    /// For a value that is no time.
    pub fn time(&self, name: &str, default: Time) -> Result<Time, ApiError> {
        match self.get(name) {
            "" => Ok(default),
            text => params::parse_time(text)
                .map_err(|e| ApiError::parameter(name, format!("invalid time value for '{name}': {e}"))),
        }
    }

    /// # Errors
    /// For a value that is no limit.
    pub fn limit(&self) -> Result<usize, ApiError> {
        params::parse_limit(self.get("limit")).map_err(|e| ApiError::parameter("limit", e))
    }

    /// The form was decoded without a fault.
    ///
    /// # Errors
    /// When it was not.
    pub fn parsed_form(&self) -> Result<(), ApiError> {
        match &self.form.fault {
            Some(fault) => Err(ApiError::bad_data(format!("error parsing form values: {fault}"))),
            None => Ok(()),
        }
    }
}

impl Req {
    /// The class and the limits of what is asked.
    ///
    /// # Errors
    /// For a class that does not exist.
    pub fn asking(&self, app: &App) -> Result<Asking, ApiError> {
        Ok(app.classes.request(app.classes.of(&self.headers)?, Some(self.gone.clone())))
    }
}

impl Req {
    /// Begins a trace where the request has `trace=1`; `what` is said of it besides the path.
    pub fn begin_trace(&mut self, what: impl FnOnce(&Req) -> String) {
        if params::parse_bool(self.get("trace")).unwrap_or(false) {
            self.trace = Trace::new(format!("{}: {}", self.path, what(self)));
        }
    }
}

/// A store's error as questions about labels answer it; ends by limits are counted.
pub fn refused(app: &App, asking: &Asking, error: &StorageError) -> ApiError {
    let mut answer = storage_error(error);
    match error.kind {
        ErrorKind::Limit => app.classes.limited(asking.class, "memory"),
        ErrorKind::Timeout => {
            app.classes.limited(asking.class, "timeout");
            answer.message = format!("{} ({})", answer.message, asking.timeout_hint());
        }
        _ => {}
    }
    answer
}

/// The selectors of `match[]`.
///
/// # Errors
/// In Prometheus's words, when one does not parse or matches everything.
pub fn selectors<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Vec<Vec<Matcher>>, String> {
    let sets = texts.map(selector).collect::<Result<Vec<_>, _>>()?;
    if sets.iter().any(|set| set.iter().all(Matcher::matches_empty)) {
        return Err("match[] must contain at least one non-empty matcher".into());
    }
    Ok(sets)
}

/// One series selector.
///
/// # Errors
/// In Prometheus's words.
pub fn selector(text: &str) -> Result<Vec<Matcher>, String> {
    narthex_promql::parse_selector(text).map_err(|e| e.to_string())
}

/// Parses `query`.
///
/// # Errors
/// In Prometheus's words.
pub fn expression(app: &App, query: &str) -> Result<Expr, String> {
    parsed(app, query, |expr| expr)
}

/// The same, with what `make` makes of it: both have room for the deepest expressions.
///
/// # Errors
/// In Prometheus's words.
pub fn parsed<T: Send>(app: &App, query: &str, make: impl FnOnce(Expr) -> T + Send) -> Result<T, String> {
    use narthex_promql::deep;
    let work = || narthex_promql::parse(query, &app.options.parser).map(make).map_err(|e| e.to_string());
    deep::run(deep::bound(query), work).map_err(|e| format!("no thread for a deep query: {e}"))?
}

/// A store's error as questions about labels answer it.
pub fn storage_error(error: &StorageError) -> ApiError {
    let kind = match error.kind {
        ErrorKind::Cancelled => ErrorType::Canceled,
        ErrorKind::Timeout => ErrorType::Timeout,
        ErrorKind::BadRequest => ErrorType::BadData,
        ErrorKind::Limit => ErrorType::Execution,
        ErrorKind::Unavailable | ErrorKind::Corrupt | ErrorKind::Internal => ErrorType::Internal,
    };
    ApiError::new(kind, error.to_string())
}

/// What is said when a limit cut a list.
pub const TRUNCATED: &str = "results truncated due to limit";
