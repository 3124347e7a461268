//! What lies outside `/api/v1`: health, lifecycle, own metrics, redirects.

use std::sync::Arc;

use axum::extract::Request;
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use narthex_runtime::metrics::{OPENMETRICS_TYPE, write_openmetrics, write_text};
use tokio::sync::oneshot;

use crate::answer::{Body, compressed_text, plain, plain_error, redirect};
use crate::notifications::Notification;
use crate::state::App;

fn below(app: &App, path: &str) -> String {
    format!("{}{path}", app.options.external_url.path().trim_end_matches('/'))
}

pub async fn home(app: Arc<App>, _: Request) -> Response<Body> {
    redirect(&below(&app, if app.options.agent { "/agent" } else { "/query" }))
}

pub async fn graph(app: Arc<App>, request: Request) -> Response<Body> {
    redirect(&below(&app, &format!("/query?{}", request.uri().query().unwrap_or(""))))
}

/// The first page of agent mode: what is scraped.
pub async fn agent(app: Arc<App>, _: Request) -> Response<Body> {
    redirect(&below(&app, "/targets"))
}

/// Federation in agent mode.
pub async fn agent_federation(_: Arc<App>, _: Request) -> Response<Body> {
    plain_error(StatusCode::INTERNAL_SERVER_ERROR, "unsupported operation with WAL-only storage")
}

fn probe(request: &Request, text: &'static str) -> Response<Body> {
    match *request.method() {
        Method::HEAD => Response::new(Body::empty()),
        _ => plain(StatusCode::OK, text.to_owned()),
    }
}

pub async fn healthy(app: Arc<App>, request: Request) -> Response<Body> {
    let agent = "Prometheus Agent is Healthy.\n";
    probe(&request, if app.options.agent { agent } else { "Prometheus Server is Healthy.\n" })
}

pub async fn ready(app: Arc<App>, request: Request) -> Response<Body> {
    let agent = "Prometheus Agent is Ready.\n";
    probe(&request, if app.options.agent { agent } else { "Prometheus Server is Ready.\n" })
}

pub async fn version(app: Arc<App>, _: Request) -> Response<Body> {
    let mut text = serde_json::to_string(&app.options.build).unwrap_or_default();
    text.push('\n');
    plain(StatusCode::OK, text)
}

fn wants_openmetrics(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let quality = |media: &str| {
        accept
            .split(',')
            .filter(|clause| clause.split(';').next().is_some_and(|m| m.trim() == media))
            .map(|clause| {
                let q = clause.split(';').find_map(|p| p.trim().strip_prefix("q="));
                q.map_or(1.0, |q| q.parse::<f64>().unwrap_or(0.0))
            })
            .fold(0.0, f64::max)
    };
    let openmetrics = quality("application/openmetrics-text");
    openmetrics > 0.0 && openmetrics >= quality("text/plain")
}

pub async fn metrics(app: Arc<App>, request: Request) -> Response<Body> {
    app.metrics.own_in_flight.add(1.0);
    let families = app.registry.gather();
    app.metrics.own_in_flight.add(-1.0);
    app.metrics.own.with(&["200"]).inc();
    let mut out = String::with_capacity(64 << 10);
    let content_type = if wants_openmetrics(request.headers()) {
        write_openmetrics(&mut out, &families);
        OPENMETRICS_TYPE
    } else {
        write_text(&mut out, &families);
        &crate::federate::text_type(request.headers())
    };
    let mut response = compressed_text(request.headers(), StatusCode::OK, content_type, out.into_bytes());
    response.headers_mut().remove(header::VARY);
    response
}

/// Consoles are templates of Prometheus's first years; Grafana took their place.
pub async fn consoles(_: Arc<App>, _: Request) -> Response<Body> {
    plain_error(StatusCode::NOT_FOUND, "console templates are not supported: use the query page at /query, or Grafana")
}

/// Profiles of a Go program: `promtool debug pprof` and `go tool pprof` ask for them.
pub async fn debug(_: Arc<App>, _: Request) -> Response<Body> {
    plain_error(
        StatusCode::NOT_IMPLEMENTED,
        "no profiles here, this is no Go program: use perf (perf record -g -p PID), the narthex_ metrics at /metrics, or traces (the tracing section of the configuration)",
    )
}

pub async fn only_change(_: Arc<App>, _: Request) -> Response<Body> {
    plain(StatusCode::METHOD_NOT_ALLOWED, "Only POST or PUT requests allowed".to_owned())
}

fn disabled(app: &App) -> Option<Response<Body>> {
    (!app.options.enable_lifecycle).then(|| plain(StatusCode::FORBIDDEN, "Lifecycle API is not enabled.".to_owned()))
}

pub async fn quit(app: Arc<App>, _: Request) -> Response<Body> {
    if let Some(response) = disabled(&app) {
        return response;
    }
    if app.shutdown.is_requested() {
        return plain(StatusCode::OK, "Termination already in progress.".to_owned());
    }
    app.shutdown.request();
    plain(StatusCode::OK, "Requesting termination... Goodbye!".to_owned())
}

pub async fn reload(app: Arc<App>, _: Request) -> Response<Body> {
    if let Some(response) = disabled(&app) {
        return response;
    }
    let (answer, outcome) = oneshot::channel();
    let failed =
        |text: &str| plain_error(StatusCode::INTERNAL_SERVER_ERROR, &format!("failed to reload config: {text}"));
    if app.reload.send(answer).await.is_err() {
        return failed("shutting down");
    }
    match outcome.await {
        Ok(Ok(())) => Response::new(Body::empty()),
        Ok(Err(text)) => failed(&text),
        Err(_) => failed("shutting down"),
    }
}

fn event(note: &Notification) -> Bytes {
    Bytes::from(format!("data: {}\n\n", serde_json::to_string(note).unwrap_or_default()))
}

/// Server-sent events: what is shown now, then every change.
pub async fn notifications_live(app: Arc<App>, request: Request) -> Response<Body> {
    let origin = request.headers().get(header::ORIGIN);
    let Some((list, listener)) = app.notifications.listen() else {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        crate::router::cors(&app, origin, response.headers_mut());
        return response;
    };
    let shutdown = app.shutdown.clone();
    let live = futures::stream::unfold((listener, shutdown), |(mut listener, shutdown)| async move {
        tokio::select! {
            note = listener.next() => note.map(|n| (event(&n), (listener, shutdown))),
            () = shutdown.requested() => None,
        }
    });
    let shown: Vec<Bytes> = list.iter().map(event).collect();
    let mut response = Response::new(Body::events(futures::stream::iter(shown).chain(live)));
    let headers = response.headers_mut();
    crate::router::cors(&app, origin, headers);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
