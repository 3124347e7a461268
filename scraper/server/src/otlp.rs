//! `/api/v1/otlp/v1/metrics`: metrics as OpenTelemetry sends them, protobuf or JSON, plain or gzipped.
//!
//! Translated as Prometheus does it by the `otlp` section of the configuration. A request with anything that can't be
//! translated is refused as a whole. Delta temporality is refused, made cumulative with the feature
//! `otlp-deltatocumulative`, or stored as it is with `otlp-native-delta-ingestion`.

mod decode;
pub(crate) mod delta;
mod json;
mod name;
mod translate;

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use narthex_runtime::metrics::{Counter, Labelled};
use narthex_runtime::{PoolError, Registry};
use narthex_storage::{AppendOutcome, StorageError};
use tracing::{debug, warn};

use crate::answer::{Body, plain_error};
use crate::state::App;
use crate::write::{self, MAX_AHEAD, storage_failed};

/// Most bytes of a request, packed and unpacked.
pub const MAX_BYTES: usize = 32 << 20;

/// What is answered while the receiver is off.
const DISABLED: &str = "otlp write receiver needs to be enabled with --web.enable-otlp-receiver";

/// Counts of what came in.
#[derive(Clone)]
pub struct OtlpMetrics {
    pub samples: Counter,
    pub exemplars_refused: Counter,
    pub warnings: Labelled<Counter>,
}

impl OtlpMetrics {
    pub fn new(r: &Registry) -> OtlpMetrics {
        OtlpMetrics {
            samples: r.counter("narthex_otlp_received_samples_total", "Samples and histograms received by OTLP."),
            exemplars_refused: r.counter(
                "prometheus_api_otlp_out_of_order_exemplars_total",
                "The total number of received OTLP exemplars which were rejected because they were out of order.",
            ),
            warnings: r.counters(
                "prometheus_api_otlp_translation_warnings_total",
                "The total number of warnings produced while translating OTLP metrics to the Prometheus model, by category.",
                &["category"],
            ),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Protobuf,
    Json,
}

fn text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> &'a str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("")
}

fn encoding_of(headers: &HeaderMap) -> Result<(Encoding, bool), String> {
    let encoding = match text(headers, &header::CONTENT_TYPE) {
        "application/x-protobuf" => Encoding::Protobuf,
        "application/json" => Encoding::Json,
        other => {
            return Err(format!(
                "unsupported content type: {other}, supported: [application/json, application/x-protobuf]"
            ));
        }
    };
    match text(headers, &header::CONTENT_ENCODING) {
        "" => Ok((encoding, false)),
        "gzip" => Ok((encoding, true)),
        other => Err(format!("unsupported compression: {other}. Only \"gzip\" or no compression supported")),
    }
}

fn unpack(body: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let limit = MAX_BYTES as u64 + 1;
    flate2::read::MultiGzDecoder::new(body).take(limit).read_to_end(&mut out).map_err(|e| format!("gzip: {e}"))?;
    if out.len() > MAX_BYTES {
        return Err(format!("decoded size exceeds the {MAX_BYTES} bytes limit"));
    }
    Ok(out)
}

/// Why nothing was stored.
enum Refusal {
    /// It does not decode.
    Request(String),
    /// It does not translate.
    Translation(String),
    /// A sample of it is refused.
    Sample(String),
    Storage(StorageError),
}

/// Answers a push whose body was read, at most [`MAX_BYTES`] of it.
pub async fn write(app: Arc<App>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    if !app.options.enable_otlp {
        return plain_error(StatusCode::NOT_FOUND, DISABLED);
    }
    let (encoding, packed) = match encoding_of(&headers) {
        Ok(known) => known,
        Err(text) => return plain_error(StatusCode::BAD_REQUEST, &text),
    };
    let worker = app.clone();
    let done = app.ingest.run(move || take(&worker, &body, encoding, packed)).await;
    match done {
        Ok(Ok(outcome)) => finish(&app, outcome).await,
        Ok(Err(Refusal::Request(text))) => plain_error(StatusCode::BAD_REQUEST, &text),
        Ok(Err(Refusal::Sample(text))) => plain_error(StatusCode::BAD_REQUEST, &text),
        Ok(Err(Refusal::Translation(text))) => {
            debug!(err = text, "an OTLP request was refused");
            plain_error(StatusCode::INTERNAL_SERVER_ERROR, &text)
        }
        Ok(Err(Refusal::Storage(e))) => storage_failed(&e, "an OTLP write failed"),
        Err(PoolError::Busy) => plain_error(StatusCode::SERVICE_UNAVAILABLE, "too many writes are waiting, try again"),
        Err(e) => plain_error(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
    }
}

fn take(app: &App, body: &[u8], encoding: Encoding, packed: bool) -> Result<AppendOutcome, Refusal> {
    let unpacked;
    let body = if packed {
        unpacked = unpack(body).map_err(Refusal::Request)?;
        &unpacked[..]
    } else {
        body
    };
    let mut resources = match encoding {
        Encoding::Protobuf => decode::request(body).map_err(|e| Refusal::Request(e.to_string()))?,
        Encoding::Json => json::request(body).map_err(Refusal::Request)?,
    };
    if app.options.otlp_delta_to_cumulative {
        app.otlp_sums.cumulate(&mut resources, std::time::Instant::now());
    }
    let view = app.view.load();
    let settings = translate::Settings {
        config: &view.otlp,
        allow_delta: app.options.otlp_native_delta,
        type_and_unit: app.options.type_and_unit_labels,
        zeros: app.options.start_zeros,
        starts: app.options.start_storage,
        lookback_ns: u64::try_from(app.options.lookback_delta.as_nanos()).unwrap_or(u64::MAX),
    };
    let translated = translate::translate(&resources, &settings);
    for (category, warning) in &translated.warnings {
        app.otlp_metrics.warnings.with(&[category]).inc();
        debug!(warning, "translating OTLP metrics");
    }
    if !translated.errors.is_empty() {
        return Err(Refusal::Translation(translated.errors.join("\n")));
    }
    // Prometheus takes nothing of a request of which it refuses a sample.
    let refused = app.appendable.judge(&translated.batch, false, 1);
    if let Some(first) = refused.first() {
        app.appendable.count_refused(&refused);
        return Err(Refusal::Sample(first.reason.clone()));
    }
    if write::ahead(&translated.batch, crate::params::Time::now().ms() + MAX_AHEAD) {
        return Err(Refusal::Sample(write::AHEAD.into()));
    }
    if !translated.metadata.is_empty() {
        app.appendable.put_metadata(&translated.metadata);
    }
    app.appendable.write(&translated.batch).map_err(Refusal::Storage)
}

async fn finish(app: &App, mut outcome: AppendOutcome) -> Response<Body> {
    app.otlp_metrics.samples.add(outcome.appended as f64);
    app.otlp_metrics.exemplars_refused.add(outcome.exemplars_refused as f64);
    if let Some(durable) = outcome.durable.take()
        && let Err(e) = durable.await
    {
        return storage_failed(&e, "an OTLP write failed");
    }
    let refused = outcome.out_of_order + outcome.duplicate + outcome.too_old + outcome.too_new;
    if refused > 0 {
        let first = outcome.first_refusal.take().unwrap_or_else(|| "out of order sample".into());
        warn!(refused, first, "OTLP samples refused");
        return plain_error(StatusCode::BAD_REQUEST, &first);
    }
    Response::new(Body::empty())
}
