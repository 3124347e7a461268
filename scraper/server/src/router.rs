//! Which path leads to which handler, and what happens around every handler: readiness, forms, CORS, counting.

pub(crate) mod paths;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::Router;
use axum::extract::{ConnectInfo, MatchedPath, RawPathParams, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::routing::{MethodFilter, MethodRouter, on};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use narthex_runtime::PoolError;
use tracing::{Instrument, warn};

use self::paths::{Methods, Paths, Way};
use crate::answer::{ApiError, ApiResult, Body, ErrorType, plain, plain_error, respond, respond_unpacked};
use crate::api::{Req, admin, labels, query, search, status, targets};
use crate::params::Form;
use crate::state::{App, Readiness};
use crate::{assets, federate, openapi, otlp, push, read, rules, top, web, write};

/// Most bytes of a form, as in Go.
const MAX_FORM: usize = 10 << 20;

/// Adds the CORS headers that Prometheus adds.
pub(crate) fn cors(app: &App, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    let Some(origin) = origin.filter(|o| !o.is_empty()) else { return };
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "Accept, Authorization, Content-Type, Origin"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS"),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, "Date"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if origin.to_str().is_ok_and(|o| app.options.cors_origin.is_match(o)) {
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
pub async fn parameters(request: Request, name: String) -> Req {
    let client = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|c| c.0.ip().to_string());
    let (parts, body) = request.into_parts();
    let url = Form::parse(parts.uri.query().unwrap_or(""));
    let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let media = content_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    let has_form = matches!(parts.method, Method::POST | Method::PUT | Method::PATCH);
    let mut form = Form::default();
    let mut multipart = None;
    if has_form && media == "multipart/form-data" {
        multipart = Some(body);
    } else if has_form && media == "application/x-www-form-urlencoded" {
        match Limited::new(body, MAX_FORM).collect().await {
            Ok(body) => form.extend(&String::from_utf8_lossy(&body.to_bytes())),
            Err(e) if e.downcast_ref::<LengthLimitError>().is_some() => {
                form.fault = Some("http: POST too large".into());
            }
            Err(e) => form.fault = Some(e.to_string()),
        }
    }
    form.extend(parts.uri.query().unwrap_or(""));
    if let Some(body) = multipart {
        add_parts(&mut form, body, content_type).await;
    }
    Req {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        headers: parts.headers,
        form,
        url,
        name,
        client: client.unwrap_or_default(),
        gone: Arc::default(),
        trace: Default::default(),
    }
}

/// Adds the fields of a `multipart/form-data` body that are no files, up to what cannot be read: Go's `FormValue` says
/// nothing of that either.
async fn add_parts(form: &mut Form, body: axum::body::Body, content_type: &str) {
    let Ok(boundary) = multer::parse_boundary(content_type) else { return };
    let limit = multer::SizeLimit::new().whole_stream(MAX_FORM as u64);
    let constraints = multer::Constraints::new().size_limit(limit);
    let mut parts = multer::Multipart::with_constraints(body.into_data_stream(), boundary, constraints);
    while let Ok(Some(part)) = parts.next_field().await {
        let Some(name) = part.name().map(str::to_owned) else { continue };
        if part.file_name().is_some() {
            continue;
        }
        let Ok(value) = part.bytes().await else { return };
        form.push(name, String::from_utf8_lossy(&value).into_owned());
    }
}

/// Sets a flag when it goes.
struct Leaves(Arc<AtomicBool>);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The trace that the client is in.
fn trace_of(request: &Request) -> Option<String> {
    Some(request.headers().get("traceparent")?.to_str().ok()?.to_owned())
}

/// Runs a handler and counts it. `trace` is a `traceparent` header.
async fn counted(
    app: Arc<App>,
    handler: String,
    method: Method,
    trace: Option<String>,
    work: impl Future<Output = Response<Body>>,
) -> Response<Body> {
    let start = Instant::now();
    let span = tracing::info_span!("http request", otel.name = %format!("{method} {handler}"), http.status_code = tracing::field::Empty);
    if let Some(trace) = trace {
        narthex_runtime::trace::continues(&span, &trace);
    }
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

fn filter(methods: Methods) -> MethodFilter {
    let each = methods.iter().map(|m| match *m {
        "HEAD" => MethodFilter::HEAD,
        "POST" => MethodFilter::POST,
        "PUT" => MethodFilter::PUT,
        _ => MethodFilter::GET,
    });
    each.reduce(MethodFilter::or).unwrap_or(MethodFilter::GET)
}

fn not_answered(error: PoolError) -> ApiError {
    match error {
        PoolError::Panicked(text) => {
            warn!(err = text, "answering panicked");
            ApiError::new(ErrorType::Execution, format!("unexpected error: {text}"))
        }
        e => ApiError::new(ErrorType::Timeout, format!("the request was not answered: {e}")),
    }
}

/// Has the routes that this is a layer of answer on the threads for queries, so that none waits for another, and probes
/// and pages for none.
async fn computing(State(app): State<Arc<App>>, request: Request, next: Next) -> Response<axum::body::Body> {
    app.queries.drive(next.run(request)).await.unwrap_or_else(|e| {
        let error = not_answered(e);
        plain_error(error.kind.status(), &error.message).map(axum::body::Body::new)
    })
}

/// Routes that all take long to answer, or may.
pub fn computed_routes(app: Arc<App>, routes: Router) -> Router {
    routes.layer(from_fn_with_state(app, computing))
}

/// A route for [`Req`]s whose answer is soon made.
fn api<F>(app: &Arc<App>, methods: Methods, handler: fn(Arc<App>, Req) -> F) -> MethodRouter
where
    F: Future<Output = ApiResult> + Send + 'static,
{
    answered(app, methods, move |app, req| {
        let headers = req.headers.clone();
        let answer = handler(app, req);
        async move { respond(&headers, answer.await) }
    })
}

/// A route for [`Req`]s that take long to answer, or may: see [`crate::quick`].
fn computed<F>(app: &Arc<App>, methods: Methods, handler: fn(Arc<App>, Req) -> F) -> MethodRouter
where
    F: Future<Output = ApiResult> + Send + 'static,
{
    answered(app, methods, move |app, req| async move {
        let _leaves = Leaves(req.gone.clone());
        let (headers, key) = (req.headers.clone(), app.quick.key(&req));
        let at_once = app.quick.is_quick(key);
        let work = {
            let app = app.clone();
            async move {
                let begun = Instant::now();
                let response = respond(&headers, handler(app.clone(), req).await);
                app.quick.answered(key, begun);
                response
            }
        };
        let response = if at_once { app.queries.begin(work).await } else { app.queries.drive(work).await };
        response.unwrap_or_else(|e| respond(&HeaderMap::new(), Err(not_answered(e))))
    })
}

/// A route for [`Req`]s whose answers Prometheus does not pack.
fn unpacked<F>(app: &Arc<App>, methods: Methods, handler: fn(Arc<App>, Req) -> F) -> MethodRouter
where
    F: Future<Output = ApiResult> + Send + 'static,
{
    answered(app, methods, move |app, req| {
        let answer = handler(app, req);
        async move { respond_unpacked(answer.await) }
    })
}

fn answered<F>(
    app: &Arc<App>,
    methods: Methods,
    answer: impl Fn(Arc<App>, Req) -> F + Clone + Send + Sync + 'static,
) -> MethodRouter
where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let app = app.clone();
    on(filter(methods), move |matched: MatchedPath, params: RawPathParams, request: Request| {
        let (app, answer) = (app.clone(), answer.clone());
        let name = params.iter().find(|(n, _)| *n == "name").map(|(_, v)| v.to_owned()).unwrap_or_default();
        let (label, method) = (handler_name(&app, Some(&matched)), request.method().clone());
        counted(app.clone(), label, method, trace_of(&request), async move {
            if let Some(response) = not_ready(&app) {
                return response;
            }
            let req = parameters(request, name).await;
            let origin = req.headers.get(header::ORIGIN).cloned();
            let mut response = answer(app.clone(), req).await;
            cors(&app, origin.as_ref(), response.headers_mut());
            response
        })
    })
}

/// A route for handlers that make the whole response.
fn whole<F>(app: &Arc<App>, methods: Methods, ready: bool, handler: fn(Arc<App>, Request) -> F) -> MethodRouter
where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let app = app.clone();
    on(filter(methods), move |matched: MatchedPath, request: Request| {
        let app = app.clone();
        let (label, method) = (handler_name(&app, Some(&matched)), request.method().clone());
        counted(app.clone(), label, method, trace_of(&request), async move {
            match if ready { not_ready(&app) } else { None } {
                Some(response) => response,
                None => handler(app, request).await,
            }
        })
    })
}

/// A [`whole`] one that takes long to answer, or may.
fn whole_computed<F>(app: &Arc<App>, methods: Methods, handler: fn(Arc<App>, Request) -> F) -> MethodRouter
where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    whole(app, methods, true, handler).layer(from_fn_with_state(app.clone(), computing))
}

async fn federation(app: Arc<App>, request: Request) -> Response<Body> {
    let mut response = federate::federate(app, parameters(request, String::new()).await).await;
    response.headers_mut().entry(header::VARY).or_insert(HeaderValue::from_static("Accept-Encoding"));
    response
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

async fn backfill(app: Arc<App>, request: Request) -> Response<Body> {
    let headers = request.headers().clone();
    if let Err(e) = admin::enabled(&app) {
        return respond(&headers, Err(e));
    }
    let _turn = write::backfill::turn().await;
    match body_of(request, write::MAX_BYTES).await {
        Ok(body) => write::backfill::backfill(app, headers, body).await,
        Err(response) => response,
    }
}

/// A push to a group, or its end. What its path names may be any text, and so no route leads here.
async fn pushed(app: Arc<App>, request: Request, group: Vec<u8>) -> Response<Body> {
    let (method, trace) = (request.method().clone(), trace_of(&request));
    counted(app.clone(), "/metrics/job/*labels".to_owned(), method, trace, async move {
        match not_ready(&app) {
            Some(response) => response,
            None => push::handle(app, request, group).await,
        }
    })
    .await
}

async fn otlp_write(app: Arc<App>, request: Request) -> Response<Body> {
    let headers = request.headers().clone();
    if !app.options.enable_otlp {
        return otlp::write(app, headers, Bytes::new()).await;
    }
    match body_of(request, otlp::MAX_BYTES).await {
        Ok(body) => otlp::write(app, headers, body).await,
        Err(response) => response,
    }
}

async fn remote_read(app: Arc<App>, request: Request) -> Response<Body> {
    let headers = request.headers().clone();
    match body_of(request, read::MAX_BYTES).await {
        Ok(body) => read::read(app, &headers, body).await,
        Err(response) => response,
    }
}

async fn preflight(app: Arc<App>, request: Request) -> Response<Body> {
    if let Some(response) = not_ready(&app) {
        return response;
    }
    let mut response = respond(request.headers(), Ok(crate::answer::Answer::none()));
    cors(&app, request.headers().get(header::ORIGIN), response.headers_mut());
    response
}

const GET: Methods = &["GET"];
const FORM: Methods = &["GET", "POST"];
const CHANGE: Methods = &["POST", "PUT"];
const POST: Methods = &["POST"];
const PUT: Methods = &["PUT"];
const PROBE: Methods = &["GET", "HEAD"];

type Routes = Vec<(&'static str, Methods, MethodRouter)>;

fn api_routes(app: &Arc<App>) -> Routes {
    let mut routes: Routes = vec![
        ("/query", FORM, computed(app, FORM, query::instant)),
        ("/query_range", FORM, computed(app, FORM, query::range)),
        ("/query_exemplars", FORM, computed(app, FORM, query::exemplars)),
        ("/format_query", FORM, api(app, FORM, query::format)),
        ("/parse_query", FORM, api(app, FORM, query::parse)),
        ("/labels", FORM, computed(app, FORM, labels::names)),
        // Grafana posts here; Prometheus answers 405.
        ("/label/{name}/values", FORM, computed(app, FORM, labels::values)),
        ("/series", FORM, computed(app, FORM, labels::series)),
        ("/metadata", GET, computed(app, GET, labels::metadata)),
        ("/scrape_pools", GET, api(app, GET, targets::scrape_pools)),
        ("/scrape_pools/config", GET, api(app, GET, targets::scrape_pool_config)),
        ("/targets", GET, computed(app, GET, targets::targets)),
        ("/targets/metadata", GET, api(app, GET, targets::metadata)),
        ("/targets/relabel_steps", GET, api(app, GET, targets::relabel_steps)),
        ("/alertmanagers", GET, api(app, GET, targets::alertmanagers)),
        ("/status/config", GET, api(app, GET, status::config)),
        ("/status/runtimeinfo", GET, api(app, GET, status::runtime_info)),
        ("/status/buildinfo", GET, api(app, GET, status::build_info)),
        ("/status/flags", GET, api(app, GET, status::flags)),
        ("/status/tsdb", GET, computed(app, GET, status::tsdb)),
        ("/status/tsdb/blocks", GET, api(app, GET, status::blocks)),
        ("/status/storage", GET, api(app, GET, status::storage)),
        ("/status/self_metrics", GET, api(app, GET, status::self_metrics)),
        ("/status/walreplay", GET, unpacked(app, GET, status::wal_replay)),
        ("/status/active_queries", GET, api(app, GET, status::active_queries)),
        ("/status/top_queries", GET, computed(app, GET, top::top_queries)),
        ("/features", GET, api(app, GET, status::features)),
        ("/notifications", GET, unpacked(app, GET, status::notifications)),
        ("/notifications/live", GET, whole(app, GET, false, web::notifications_live)),
        ("/alerts", GET, api(app, GET, rules::alerts)),
        ("/rules", GET, api(app, GET, rules::rules)),
        ("/search/metric_names", FORM, whole_computed(app, FORM, search::metric_names)),
        ("/search/label_names", FORM, whole_computed(app, FORM, search::label_names)),
        ("/search/label_values", FORM, whole_computed(app, FORM, search::label_values)),
        ("/admin/tsdb/delete_series", CHANGE, api(app, CHANGE, admin::delete_series)),
        ("/admin/tsdb/clean_tombstones", CHANGE, api(app, CHANGE, admin::clean_tombstones)),
        ("/admin/tsdb/snapshot", CHANGE, api(app, CHANGE, admin::snapshot)),
        ("/admin/tsdb/backfill", POST, whole(app, POST, true, backfill)),
        ("/admin/cancel_query", CHANGE, api(app, CHANGE, status::cancel_query)),
        ("/write", POST, whole(app, POST, true, remote_write)),
        ("/read", POST, whole_computed(app, POST, remote_read)),
        ("/openapi.yaml", GET, whole(app, GET, true, openapi::openapi)),
        ("/otlp/v1/metrics", POST, whole(app, POST, true, otlp_write)),
    ];
    // A Prometheus has none of these.
    if app.options.push.is_some() {
        routes.push(("/metrics", GET, api(app, GET, push::metrics)));
        routes.push(("/status", GET, api(app, GET, push::status)));
        routes.push(("/admin/wipe", PUT, whole(app, PUT, true, push::wipe)));
    }
    routes
}

/// Paths of the API that agent mode has not.
const SERVER_API: [&str; 22] = [
    "/query",
    "/query_range",
    "/query_exemplars",
    "/format_query",
    "/parse_query",
    "/labels",
    "/label/{name}/values",
    "/series",
    "/alertmanagers",
    "/status/tsdb",
    "/status/tsdb/blocks",
    "/status/active_queries",
    "/alerts",
    "/rules",
    "/search/metric_names",
    "/search/label_names",
    "/search/label_values",
    "/admin/tsdb/delete_series",
    "/admin/tsdb/clean_tombstones",
    "/admin/tsdb/snapshot",
    "/admin/tsdb/backfill",
    "/admin/cancel_query",
];

/// The answer of agent mode to them.
async fn no_agent(app: Arc<App>, req: Req) -> ApiResult {
    if req.path.contains("/search/") && !app.options.enable_search {
        return Err(ApiError::new(ErrorType::Unavailable, "search API disabled".to_owned()));
    }
    Err(ApiError::new(ErrorType::Execution, "unavailable with Prometheus Agent".to_owned()))
}

/// The routes as agent mode has them.
fn without_questions(app: &Arc<App>, routes: Routes) -> Routes {
    let one = |(path, methods, handlers)| match SERVER_API.contains(&path) {
        true => (path, methods, api(app, methods, no_agent)),
        false => (path, methods, handlers),
    };
    routes.into_iter().map(one).collect()
}

fn web_routes(app: &Arc<App>) -> Routes {
    const ALL: Methods = &["GET", "POST", "PUT"];
    let mut routes: Routes = vec![
        ("/", GET, whole(app, GET, false, web::home)),
        ("/graph", GET, whole(app, GET, false, web::graph)),
        ("/version", GET, whole(app, GET, false, web::version)),
        ("/metrics", GET, whole(app, GET, false, web::metrics)),
        ("/federate", GET, whole_computed(app, GET, federation)),
        ("/consoles/{*filepath}", GET, whole(app, GET, true, web::consoles)),
        ("/debug/{*filepath}", FORM, whole(app, FORM, false, web::debug)),
        ("/-/healthy", PROBE, whole(app, PROBE, false, web::healthy)),
        ("/-/ready", PROBE, whole(app, PROBE, true, web::ready)),
        ("/-/reload", ALL, whole(app, CHANGE, false, web::reload).merge(whole(app, GET, false, web::only_change))),
        ("/-/quit", ALL, whole(app, CHANGE, false, web::quit).merge(whole(app, GET, false, web::only_change))),
        ("/assets/{*filepath}", PROBE, whole(app, PROBE, false, assets::asset)),
    ];
    if app.options.push.is_some() {
        routes.push(("/metrics/pushed", GET, whole(app, GET, true, push::exposition)));
    }
    let agent = app.options.agent;
    let pages = assets::PAGES.iter().filter(|path| !agent || !assets::SERVER_PAGES.contains(path));
    routes.extend(pages.map(|path| (*path, GET, whole(app, GET, false, assets::index))));
    if agent {
        routes.retain(|(path, ..)| *path != "/federate");
        routes.push(("/federate", GET, whole(app, GET, true, web::agent_federation)));
        routes.push(("/agent", GET, whole(app, GET, false, web::agent)));
    }
    routes.extend(assets::ROOT_FILES.iter().map(|path| (*path, PROBE, whole(app, PROBE, false, assets::asset))));
    routes
}

/// All routes below the prefix.
pub fn router(app: Arc<App>) -> Router {
    let prefix = app.options.route_prefix.trim_end_matches('/').to_owned();
    let mut paths = Paths::new(format!("{prefix}/api/v1"));
    let mut router = Router::new();
    let routes = api_routes(&app);
    for (path, methods, handlers) in if app.options.agent { without_questions(&app, routes) } else { routes } {
        let path = format!("{prefix}/api/v1{path}");
        let app = app.clone();
        let options = on(MethodFilter::OPTIONS, move |request: Request| preflight(app.clone(), request));
        router = router.route(&path, handlers.merge(options));
        paths.add(path, methods);
    }
    for (path, methods, handlers) in web_routes(&app) {
        let path = format!("{prefix}{path}");
        router = router.route(&path, handlers);
        paths.add(path, methods);
    }
    if !prefix.is_empty() {
        let at = prefix.clone();
        let redirect = move || async move { crate::answer::redirect(&at) };
        router = router.route("/", on(MethodFilter::GET, redirect));
        paths.add("/".into(), GET);
    }
    let paths = Arc::new(paths);
    let options = app.clone();
    router.fallback(|| async { plain_error(StatusCode::NOT_FOUND, "404 page not found") }).layer(from_fn(
        move |request: Request, next: Next| {
            let (paths, app) = (paths.clone(), options.clone());
            let prefix = app.options.route_prefix.trim_end_matches('/');
            let group = push::claims(prefix, request.method(), request.uri());
            async move {
                if let Some(group) = group {
                    return pushed(app, request, group).await.map(axum::body::Body::new);
                }
                let response = match paths.way(request.method(), request.uri()) {
                    Way::On => return next.run(request).await,
                    Way::Preflight => preflight(app.clone(), request).await,
                    Way::Answered(response) => response,
                };
                if response.status() == StatusCode::NOT_FOUND {
                    app.metrics.requests.with(&["/404", "404"]).inc();
                }
                response.map(axum::body::Body::new)
            }
        },
    ))
}
