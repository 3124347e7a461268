//! Which path leads to which handler, and what happens around every handler: readiness, forms, CORS, counting.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{ConnectInfo, MatchedPath, RawPathParams, Request};
use axum::routing::{MethodFilter, MethodRouter, on};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tracing::Instrument;

use crate::answer::{ApiError, ApiResult, Body, plain, plain_error, respond};
use crate::api::{Req, admin, labels, query, search, status, targets};
use crate::params::Form;
use crate::state::{App, Readiness};
use crate::{assets, federate, rules, web, write};

/// Most bytes of a form, as in Go.
const MAX_FORM: usize = 10 << 20;

/// Adds the CORS headers that Prometheus adds.
fn cors(app: &App, request: &HeaderMap, headers: &mut HeaderMap) {
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    let Some(origin) = request.get(header::ORIGIN) else { return };
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "Accept, Authorization, Content-Type, Origin"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS"),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, "Date"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let pattern = app.options.cors_origin.as_str();
    if matches!(pattern, "^(?:.*)$" | "^(?s:.*)$") {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    } else if origin.to_str().is_ok_and(|o| app.options.cors_origin.is_match(o)) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    }
}

/// What is answered while the server is not ready.
pub fn not_ready(app: &App) -> Option<Response<Body>> {
    let stopping = match app.readiness() {
        Readiness::Ready => return None,
        Readiness::NotReady => "false",
        Readiness::Stopping => "true",
    };
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable".to_owned());
    response.headers_mut().insert("x-prometheus-stopping", HeaderValue::from_static(stopping));
    Some(response)
}

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// The answer to give: 413 when it is longer, 400 when it breaks off.
async fn body_of(request: Request, limit: usize) -> Result<Bytes, Response<Body>> {
    match Limited::new(request.into_body(), limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(e) if e.downcast_ref::<LengthLimitError>().is_some() => {
            let text = format!("request body exceeds the {limit} bytes limit");
            Err(plain_error(StatusCode::PAYLOAD_TOO_LARGE, &text))
        }
        Err(e) => Err(plain_error(StatusCode::BAD_REQUEST, &e.to_string())),
    }
}

/// Reads the form of a request, as Go's `ParseForm` does.
pub async fn read(request: Request, name: String) -> Req {
    let client = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|c| c.0.ip().to_string());
    let (parts, body) = request.into_parts();
    let url = Form::parse(parts.uri.query().unwrap_or(""));
    let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let media = content_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    let has_form = matches!(parts.method, Method::POST | Method::PUT | Method::PATCH);
    let mut form = Form::default();
    if has_form && media == "application/x-www-form-urlencoded" {
        match Limited::new(body, MAX_FORM).collect().await {
            Ok(body) => form.extend(&String::from_utf8_lossy(&body.to_bytes())),
            Err(e) if e.downcast_ref::<LengthLimitError>().is_some() => {
                form.fault = Some("http: POST too large".into());
            }
            Err(e) => form.fault = Some(e.to_string()),
        }
    }
    form.extend(parts.uri.query().unwrap_or(""));
    Req {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        headers: parts.headers,
        form,
        url,
        name,
        client: client.unwrap_or_default(),
    }
}

/// Runs a handler and counts it.
async fn counted(
    app: Arc<App>,
    handler: String,
    method: Method,
    work: impl Future<Output = Response<Body>>,
) -> Response<Body> {
    let start = Instant::now();
    let span = tracing::info_span!("http request", otel.name = %format!("{method} {handler}"), http.status_code = tracing::field::Empty);
    let response = work.instrument(span.clone()).await;
    span.record("http.status_code", response.status().as_u16());
    app.metrics.requests.with(&[&handler, response.status().as_str()]).inc();
    response.map(|body| {
        body.on_end(move |sent| {
            app.metrics.duration.with(&[&handler]).observe(start.elapsed().as_secs_f64());
            app.metrics.size.with(&[&handler]).observe(sent as f64);
        })
    })
}

/// The name that a route has in metrics: `/label/:name/values`.
fn handler_name(app: &App, matched: Option<&MatchedPath>) -> String {
    let Some(matched) = matched else { return "/404".into() };
    let path = matched.as_str();
    let prefix = app.options.route_prefix.as_str();
    let path = if prefix == "/" { path } else { path.strip_prefix(prefix).unwrap_or(path) };
    path.replace("{*", "*").replace('{', ":").replace('}', "")
}

/// A route for [`Req`]s.
fn api<F>(app: &Arc<App>, methods: MethodFilter, handler: fn(Arc<App>, Req) -> F) -> MethodRouter
where
    F: Future<Output = ApiResult> + Send + 'static,
{
    let app = app.clone();
    on(methods, move |matched: MatchedPath, params: RawPathParams, request: Request| {
        let app = app.clone();
        let name = params.iter().find(|(n, _)| *n == "name").map(|(_, v)| v.to_owned()).unwrap_or_default();
        let (label, method) = (handler_name(&app, Some(&matched)), request.method().clone());
        counted(app.clone(), label, method, async move {
            if let Some(response) = not_ready(&app) {
                return response;
            }
            let req = read(request, name).await;
            let headers = req.headers.clone();
            let mut response = respond(&headers, handler(app.clone(), req).await);
            cors(&app, &headers, response.headers_mut());
            response
        })
    })
}

/// A route for handlers that make the whole response.
fn whole<F>(app: &Arc<App>, methods: MethodFilter, ready: bool, handler: fn(Arc<App>, Request) -> F) -> MethodRouter
where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let app = app.clone();
    on(methods, move |matched: MatchedPath, request: Request| {
        let app = app.clone();
        let (label, method) = (handler_name(&app, Some(&matched)), request.method().clone());
        counted(app.clone(), label, method, async move {
            match if ready { not_ready(&app) } else { None } {
                Some(response) => response,
                None => handler(app, request).await,
            }
        })
    })
}

async fn federation(app: Arc<App>, request: Request) -> Response<Body> {
    federate::federate(app, read(request, String::new()).await).await
}

async fn remote_write(app: Arc<App>, request: Request) -> Response<Body> {
    let headers = request.headers().clone();
    if !app.options.enable_remote_write {
        return write::write(app, headers, Bytes::new()).await;
    }
    match body_of(request, write::MAX_BYTES).await {
        Ok(body) => write::write(app, headers, body).await,
        Err(response) => response,
    }
}

async fn otlp(_: Arc<App>, _: Request) -> Response<Body> {
    plain_error(StatusCode::NOT_FOUND, "otlp write receiver needs to be enabled with --web.enable-otlp-receiver")
}

async fn remote_read(_: Arc<App>, _: Request) -> Response<Body> {
    plain_error(StatusCode::NOT_FOUND, "not found")
}

async fn preflight(app: Arc<App>, request: Request) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    cors(&app, request.headers(), response.headers_mut());
    response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}

fn api_routes(app: &Arc<App>) -> Router {
    const GET: MethodFilter = MethodFilter::GET;
    const FORM: MethodFilter = GET.or(MethodFilter::POST);
    const CHANGE: MethodFilter = MethodFilter::POST.or(MethodFilter::PUT);
    const POST: MethodFilter = MethodFilter::POST;
    let options = || whole(app, MethodFilter::OPTIONS, true, preflight);
    let routes: Vec<(&str, MethodRouter)> = vec![
        ("/query", api(app, FORM, query::instant)),
        ("/query_range", api(app, FORM, query::range)),
        ("/query_exemplars", api(app, FORM, query::exemplars)),
        ("/format_query", api(app, FORM, query::format)),
        ("/parse_query", api(app, FORM, query::parse)),
        ("/labels", api(app, FORM, labels::names)),
        // Grafana posts here; Prometheus answers 405.
        ("/label/{name}/values", api(app, FORM, labels::values)),
        ("/series", api(app, FORM, labels::series)),
        ("/metadata", api(app, GET, labels::metadata)),
        ("/scrape_pools", api(app, GET, targets::scrape_pools)),
        ("/scrape_pools/config", api(app, GET, targets::scrape_pool_config)),
        ("/targets", api(app, GET, targets::targets)),
        ("/targets/metadata", api(app, GET, targets::metadata)),
        ("/targets/relabel_steps", api(app, GET, targets::relabel_steps)),
        ("/alertmanagers", api(app, GET, targets::alertmanagers)),
        ("/status/config", api(app, GET, status::config)),
        ("/status/runtimeinfo", api(app, GET, status::runtime_info)),
        ("/status/buildinfo", api(app, GET, status::build_info)),
        ("/status/flags", api(app, GET, status::flags)),
        ("/status/tsdb", api(app, GET, status::tsdb)),
        ("/status/tsdb/blocks", api(app, GET, status::blocks)),
        ("/status/storage", api(app, GET, status::storage)),
        ("/status/self_metrics", api(app, GET, status::self_metrics)),
        ("/status/walreplay", api(app, GET, status::wal_replay)),
        ("/status/active_queries", api(app, GET, status::active_queries)),
        ("/features", api(app, GET, status::features)),
        ("/notifications", api(app, GET, status::notifications)),
        ("/notifications/live", whole(app, GET, false, web::notifications_live)),
        ("/alerts", api(app, GET, rules::alerts)),
        ("/rules", api(app, GET, rules::rules)),
        ("/search/metric_names", whole(app, FORM, true, search::metric_names)),
        ("/search/label_names", whole(app, FORM, true, search::label_names)),
        ("/search/label_values", whole(app, FORM, true, search::label_values)),
        ("/admin/tsdb/delete_series", api(app, CHANGE, admin::delete_series)),
        ("/admin/tsdb/clean_tombstones", api(app, CHANGE, admin::clean_tombstones)),
        ("/admin/tsdb/snapshot", api(app, CHANGE, admin::snapshot)),
        ("/admin/cancel_query", api(app, CHANGE, status::cancel_query)),
        ("/write", whole(app, POST, true, remote_write)),
        ("/read", whole(app, POST, true, remote_read)),
        ("/otlp/v1/metrics", whole(app, POST, true, otlp)),
    ];
    let mut router = Router::new();
    for (path, methods) in routes {
        router = router.route(&format!("/api/v1{path}"), methods.merge(options()));
    }
    router
}

fn web_routes(app: &Arc<App>) -> Router {
    const GET: MethodFilter = MethodFilter::GET;
    const PROBE: MethodFilter = GET.or(MethodFilter::HEAD);
    const CHANGE: MethodFilter = MethodFilter::POST.or(MethodFilter::PUT);
    let mut router = Router::new()
        .route("/", whole(app, GET, false, web::home))
        .route("/graph", whole(app, GET, false, web::graph))
        .route("/version", whole(app, GET, false, web::version))
        .route("/metrics", whole(app, GET, false, web::metrics))
        .route("/federate", whole(app, GET, true, federation))
        .route("/consoles/{*filepath}", whole(app, GET, true, web::consoles))
        .route("/-/healthy", whole(app, PROBE, false, web::healthy))
        .route("/-/ready", whole(app, PROBE, true, web::ready))
        .route("/-/reload", whole(app, CHANGE, false, web::reload).merge(whole(app, GET, false, web::only_change)))
        .route("/-/quit", whole(app, CHANGE, false, web::quit).merge(whole(app, GET, false, web::only_change)))
        .route("/assets/{*filepath}", whole(app, PROBE, false, assets::asset));
    for path in assets::PAGES {
        router = router.route(path, whole(app, PROBE, false, assets::index));
    }
    for path in assets::ROOT_FILES {
        router = router.route(path, whole(app, PROBE, false, assets::asset));
    }
    router
}

/// What no route takes: paths that only have a slash too many are redirected, the rest is not found.
async fn not_found(app: Arc<App>, request: Request) -> Response<Body> {
    let path = request.uri().path();
    let prefix = app.options.route_prefix.trim_end_matches('/');
    let api = path.strip_prefix(prefix).is_some_and(|p| p.starts_with("/api/v1/"));
    if request.method() == Method::OPTIONS && api {
        return preflight(app, request).await;
    }
    if request.method() == Method::GET && path.len() > 1 && path.ends_with('/') {
        let query = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
        let mut response = crate::answer::redirect(&format!("{}{query}", path.trim_end_matches('/')));
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        return response;
    }
    app.metrics.requests.with(&["/404", "404"]).inc();
    plain_error(StatusCode::NOT_FOUND, "404 page not found")
}

async fn method_not_allowed() -> Response<Body> {
    plain_error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
}

/// All routes below the prefix.
pub fn router(app: Arc<App>) -> Router {
    let inner = Router::new().merge(api_routes(&app)).merge(web_routes(&app));
    let prefix = app.options.route_prefix.clone();
    let outer = if prefix == "/" {
        inner
    } else {
        let at = prefix.clone();
        let redirect = move || async move { crate::answer::redirect(&at) };
        Router::new().nest(&prefix, inner).route("/", on(MethodFilter::GET, redirect))
    };
    outer
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(move |request: Request| not_found(app.clone(), request))
}

/// An error of the API outside of an API handler.
pub fn api_error(headers: &HeaderMap, error: ApiError) -> Response<Body> {
    respond(headers, Err(error))
}
