//! Sets up logs and, where an endpoint is configured, OpenTelemetry traces by OTLP over HTTP.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry::trace::{SpanBuilder, Tracer, TracerProvider as _};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, SpanData};
use parking_lot::RwLock;
use tracing_subscriber::filter::{EnvFilter, LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use crate::log::{Format, Lines};

/// Where spans go.
#[derive(Clone, Debug)]
pub struct TraceOptions {
    /// `http://host:4318`; `/v1/traces` is added where the path is empty.
    pub endpoint: String,
    pub service_name: String,
    pub service_version: String,
    /// Share of traces that are kept, 0 to 1.
    pub sampling: f64,
    pub timeout: Duration,
    pub headers: Vec<(String, String)>,
}

/// The endpoint that the environment names (`OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, `OTEL_EXPORTER_OTLP_ENDPOINT`).
pub fn endpoint_from_env() -> Option<String> {
    let get = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
    get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        .or_else(|| get("OTEL_EXPORTER_OTLP_ENDPOINT").map(|e| format!("{}/v1/traces", e.trim_end_matches('/'))))
}

#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("building the OTLP exporter: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    #[error("a subscriber is already set: {0}")]
    Subscriber(#[from] tracing_subscriber::util::TryInitError),
}

/// The tracer of the moment. The layer around it stays: one that is exchanged would not be found by those who ask a span
/// for its trace.
#[derive(Clone)]
struct Switch(Arc<RwLock<SdkTracer>>);

impl Tracer for Switch {
    type Span = opentelemetry_sdk::trace::Span;

    fn build_with_context(&self, builder: SpanBuilder, parent: &Context) -> Self::Span {
        self.0.read().build_with_context(builder, parent)
    }
}

/// The spans that are exported: own ones only, for those of the HTTP libraries (and of the exporter itself) would drown
/// them.
fn exported(on: bool) -> Targets {
    if on { Targets::new().with_target("narthex", LevelFilter::DEBUG) } else { Targets::new() }
}

/// Flushes what is pending when asked, and lets traces be switched on and off as the configuration changes.
pub struct Telemetry {
    provider: parking_lot::Mutex<Option<SdkTracerProvider>>,
    tracer: Switch,
    exported: reload::Handle<Targets, Registry>,
}

/// Installs the process's subscriber. The level is that of the project's own packages; libraries log from `warn` on.
/// `RUST_LOG`, where set, replaces that filter.
///
/// # Errors
/// When a subscriber is already installed.
pub fn init(level: tracing::Level, format: Format) -> Result<Telemetry, TraceError> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => EnvFilter::new(directives),
        _ => EnvFilter::new(format!("{},narthex={level}", LevelFilter::from_level(level.min(tracing::Level::WARN)))),
    };
    let off = SdkTracerProvider::builder().with_sampler(Sampler::AlwaysOff).build().tracer("narthex");
    let tracer = Switch(Arc::new(RwLock::new(off)));
    let (only, handle) = reload::Layer::new(exported(false));
    let otel = tracing_opentelemetry::layer().with_tracer(tracer.clone());
    let fmt = tracing_subscriber::fmt::layer().event_format(Lines(format)).with_writer(std::io::stderr);
    tracing_subscriber::registry().with(otel.with_filter(only)).with(fmt.with_filter(filter)).try_init()?;
    Ok(Telemetry { provider: parking_lot::Mutex::new(None), tracer, exported: handle })
}

/// Trace and span id in hex of where the caller is, if that is exported.
pub fn current() -> Option<(String, String)> {
    use opentelemetry::trace::TraceContextExt as _;
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;
    let context = tracing::Span::current().context();
    let span = context.span();
    let context = span.span_context();
    context.is_sampled().then(|| (context.trace_id().to_string(), context.span_id().to_string()))
}

/// Makes a new span part of the trace that a W3C `traceparent` header names, if it names one.
pub fn continues(span: &tracing::Span, traceparent: &str) {
    use opentelemetry::propagation::TextMapPropagator as _;
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;
    let header = std::collections::HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
    // Where nothing is exported, there is nothing to continue.
    let _ = span.set_parent(opentelemetry_sdk::propagation::TraceContextPropagator::new().extract(&header));
}

/// The SDK exports on a thread of its own; the HTTP client needs the reactor.
#[derive(Debug)]
struct OnReactor {
    inner: std::sync::Arc<SpanExporter>,
    reactor: tokio::runtime::Handle,
}

impl opentelemetry_sdk::trace::SpanExporter for OnReactor {
    fn export(&self, batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
        let inner = self.inner.clone();
        let task = self.reactor.spawn(async move { inner.export(batch).await });
        async move {
            task.await.unwrap_or_else(|e| Err(opentelemetry_sdk::error::OTelSdkError::InternalFailure(e.to_string())))
        }
    }
}

impl Telemetry {
    /// Starts, changes or (with `None`) ends the export of spans. Has to be called inside the tokio runtime.
    ///
    /// # Errors
    /// When the endpoint is no URL.
    pub fn traces(&self, options: Option<TraceOptions>) -> Result<(), TraceError> {
        let built = options.map(build).transpose()?;
        if let Some(provider) = &built {
            *self.tracer.0.write() = provider.tracer("narthex");
        }
        let _ = self.exported.modify(|only| *only = exported(built.is_some()));
        let old = std::mem::replace(&mut *self.provider.lock(), built);
        if let Some(old) = old {
            std::thread::spawn(move || old.shutdown());
        }
        Ok(())
    }

    /// Sends what is pending; blocks for at most the exporter's timeout.
    pub fn flush(&self) {
        if let Some(provider) = self.provider.lock().take() {
            let _ = provider.shutdown();
        }
    }
}

fn build(options: TraceOptions) -> Result<SdkTracerProvider, TraceError> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(options.endpoint)
        .with_timeout(options.timeout)
        .with_headers(options.headers.into_iter().collect())
        .build()?;
    let exporter = OnReactor { inner: std::sync::Arc::new(exporter), reactor: tokio::runtime::Handle::current() };
    let resource = Resource::builder()
        .with_service_name(options.service_name)
        .with_attribute(opentelemetry::KeyValue::new("service.version", options.service_version))
        .build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(options.sampling))))
        .with_resource(resource)
        .build())
}
