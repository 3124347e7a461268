//! `/api/v1/write`: remote write, snappy blocks of protobuf.
//!
//! What is answered with 204 is in the store's log. Of a request with samples that the store refuses the others are
//! kept, and the answer is 400, which tells the sender not to try again.

pub mod decode;
pub mod known;
pub(crate) mod wire;

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashSet;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use narthex_model::Labels;
use narthex_runtime::metrics::Counter;
use narthex_runtime::{PoolError, Registry};
use narthex_storage::{AppendOutcome, Appendable, ErrorKind, Place, StorageError, WriteSeries};
use tracing::{debug, warn};

use self::decode::{Decoded, Reader};
use self::known::{Known, Samples};
use crate::answer::{Body, plain_error};
use crate::params::Time;
use crate::state::App;

/// Most bytes of a request, packed and unpacked.
pub const MAX_BYTES: usize = 32 << 20;

/// How far in the future a sample may lie, in ms.
pub(crate) const MAX_AHEAD: i64 = 10 * 60 * 1000;

pub const V1: &str = "prometheus.WriteRequest";
pub const V2: &str = "io.prometheus.write.v2.Request";

/// Counts of what was pushed.
#[derive(Clone)]
pub struct WriteMetrics {
    pub invalid: Counter,
    pub without_metadata: Counter,
    pub samples: Counter,
    pub known: Counter,
}

impl WriteMetrics {
    pub fn new(r: &Registry) -> WriteMetrics {
        WriteMetrics {
            invalid: r.counter(
                "prometheus_api_remote_write_invalid_labels_samples_total",
                "The total number of received remote write samples and histogram samples which were rejected due to invalid labels.",
            ),
            without_metadata: r.counter(
                "prometheus_api_remote_write_without_metadata_appended_samples_total",
                "The total number of received remote write samples (and histogram samples) which were ingested without corresponding metadata.",
            ),
            samples: r.counter(
                "narthex_remote_write_received_samples_total",
                "Samples and histograms received by remote write.",
            ),
            known: r.counter(
                "narthex_remote_write_known_samples_total",
                "Of them the samples of series that were recognised without decoding their labels.",
            ),
        }
    }
}

/// The message that a content type names.
fn message_of(content_type: &str) -> Result<&'static str, String> {
    let text = content_type.trim();
    let mut parts = text.split(';');
    if parts.next() != Some("application/x-protobuf") {
        return Err(format!("expected application/x-protobuf as the first (media) part, got {text} content-type"));
    }
    for part in parts {
        let pair: Vec<&str> = part.split('=').collect();
        let [name, value] = pair[..] else {
            return Err(format!(
                "as per https://www.rfc-editor.org/rfc/rfc9110#parameter expected parameters to be key-values, got {part} in {text} content-type"
            ));
        };
        if name == "proto" {
            return match value {
                V1 => Ok(V1),
                V2 => Ok(V2),
                other => Err(format!(
                    "got {text} content type; unknown type for remote write protobuf message {other}, supported: {V1}, {V2}"
                )),
            };
        }
    }
    Ok(V1)
}

fn header_text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> &'a str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("")
}

/// Answers a push whose body was read, at most [`MAX_BYTES`] of it.
pub async fn write(app: Arc<App>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    if !app.options.enable_remote_write {
        let text = "remote write receiver needs to be enabled with --web.enable-remote-write-receiver";
        return plain_error(StatusCode::NOT_FOUND, text);
    }
    let encoding = header_text(&headers, &header::CONTENT_ENCODING);
    if !matches!(encoding, "" | "snappy") {
        let text =
            format!("{encoding} encoding (compression) is not accepted by this server; only snappy is acceptable");
        return plain_error(StatusCode::UNSUPPORTED_MEDIA_TYPE, &text);
    }
    let content_type = match header_text(&headers, &header::CONTENT_TYPE) {
        "" => "application/x-protobuf",
        text => text,
    };
    let unsupported = |text: &str| plain_error(StatusCode::UNSUPPORTED_MEDIA_TYPE, text);
    let unpacked_len = match snap::raw::decompress_len(&body) {
        Ok(len) if !body.is_empty() => len,
        _ => return plain_error(StatusCode::BAD_REQUEST, "s2: corrupt input"),
    };
    if unpacked_len > MAX_BYTES {
        return plain_error(StatusCode::BAD_REQUEST, &format!("decoded size exceeds the {MAX_BYTES} bytes limit"));
    }
    let message = match message_of(content_type) {
        Ok(message) => message,
        Err(text) => return unsupported(&text),
    };
    if !app.options.accepted_messages.iter().any(|m| m == message) {
        let accepted = app.options.accepted_messages.join(", ");
        return unsupported(&format!(
            "{message} protobuf message is not accepted by this server; only accepts {accepted}"
        ));
    }
    let worker = app.clone();
    let done = app.ingest.run(move || take(&worker, &body, message)).await;
    match done {
        Ok(Ok(taken)) => finish(message, taken).await,
        Ok(Err(text)) => plain_error(StatusCode::BAD_REQUEST, &text),
        Err(PoolError::Busy) => plain_error(StatusCode::SERVICE_UNAVAILABLE, "too many writes are waiting, try again"),
        Err(e) => plain_error(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
    }
}

/// A request that was decoded and handed to the store.
pub struct Taken {
    pub outcome: Result<AppendOutcome, StorageError>,
    pub faults: Vec<String>,
    pub floats: u64,
    pub histograms: u64,
    pub exemplars: u64,
    /// Floats that were recognised by the bytes of their labels.
    pub known: u64,
    invalid: u64,
    with_metadata: bool,
}

/// What a thread keeps from request to request.
#[derive(Default)]
struct Scratch {
    unpacked: Vec<u8>,
    samples: Samples,
}

/// A thread does not keep more than so much.
const MAX_KEPT: usize = 4 << 20;

thread_local! {
    static SCRATCH: std::cell::RefCell<Scratch> = std::cell::RefCell::default();
}

fn take(app: &App, body: &[u8], message: &str) -> Result<Taken, String> {
    let taken = intake(&*app.appendable, &app.known, body, message, Time::now().ms() + MAX_AHEAD)?;
    if taken.invalid > 0 {
        app.write_metrics.invalid.add(taken.invalid as f64);
        debug!(samples = taken.invalid, first = ?taken.faults.first(), "series with invalid labels left out");
    }
    app.write_metrics.samples.add((taken.floats + taken.histograms) as f64);
    app.write_metrics.known.add(taken.known as f64);
    if !taken.with_metadata {
        app.write_metrics.without_metadata.add((taken.floats + taken.histograms) as f64);
    }
    Ok(taken)
}

/// Takes a request in: `body` as it was received, of the kind [`V1`] or [`V2`]. Samples later than `latest` are refused.
///
/// # Errors
/// What is wrong with a request that is no such message; nothing of it is stored then.
pub fn intake(store: &dyn Appendable, known: &Known, body: &[u8], message: &str, latest: i64) -> Result<Taken, String> {
    let mut scratch = SCRATCH.take();
    let taken = intake_with(&mut scratch, store, known, body, message, latest);
    if scratch.unpacked.capacity() <= MAX_KEPT {
        SCRATCH.set(scratch);
    }
    taken
}

fn intake_with(
    Scratch { unpacked, samples }: &mut Scratch,
    store: &dyn Appendable,
    known: &Known,
    body: &[u8],
    message: &str,
    latest: i64,
) -> Result<Taken, String> {
    let corrupt = || "s2: corrupt input".to_owned();
    let len = snap::raw::decompress_len(body).map_err(|_| corrupt())?;
    if len > MAX_BYTES {
        return Err(format!("decoded size exceeds the {MAX_BYTES} bytes limit"));
    }
    if unpacked.len() < len {
        unpacked.resize(len, 0);
    }
    let len = snap::raw::Decoder::new().decompress(body, unpacked).map_err(|_| corrupt())?;
    let unpacked = unpacked.get(..len).ok_or_else(corrupt)?;
    samples.clear();
    let rules = known.rules;
    let read = |known: &Known, samples: &mut Samples| {
        let table = known.lock();
        let mut reader = Reader { walk: known.walk(&table, latest), samples, lessons: Vec::new() };
        let decoded =
            if message == V1 { decode::v1(unpacked, &mut reader) } else { decode::v2(unpacked, &mut reader, rules) };
        Ok::<_, String>((decoded.map_err(|e| e.to_string())?, reader.lessons))
    };
    let (mut decoded, mut lessons) = read(known, samples)?;
    if !decoded.batch.series.is_empty() && !samples.samples.is_empty() {
        let has_samples = |s: &&WriteSeries| !s.samples.is_empty() || !s.histograms.is_empty();
        let labels: Vec<&Labels> = decoded.batch.series.iter().filter(has_samples).map(|s| &s.labels).collect();
        let plain: HashSet<Place> = store.places(&labels).into_iter().flatten().collect();
        if samples.samples.iter().any(|s| plain.contains(&s.place)) {
            // Samples of one series went both ways: only one way keeps their order.
            samples.clear();
            (decoded, lessons) = read(&Known::new(0), samples)?;
        }
    }
    let mut all = AppendOutcome::default();
    let mut failure = None;
    let mut recognised = samples.samples.len() as u64;
    let (mut again, mut first_again) = (Vec::new(), 0);
    if recognised > 0 {
        let mut lost = Vec::new();
        match store.write_placed(&samples.samples, &mut lost) {
            Ok(outcome) => all = outcome,
            Err(e) => failure = Some(e),
        }
        recognised -= lost.len() as u64;
        // Series that are elsewhere now, or not there at all.
        again = lost.iter().filter_map(|i| samples.from.get(*i).copied()).collect();
        again.dedup();
        first_again = decoded.batch.series.len();
        let series = again.iter().filter_map(|f| unpacked.get(f.offset as usize..)?.get(..f.len as usize));
        let read = if message == V1 {
            decode::v1_more(series, &mut decoded)
        } else {
            decode::v2_more(unpacked, series, rules, &mut decoded)
        };
        read.map_err(|e| e.to_string())?;
    }
    let refused = refuse(&mut decoded, latest);
    let Decoded { batch, metadata, invalid, mut faults, floats, histograms, exemplars, .. } = decoded;
    if message == V1 {
        // Invalid series are no error there.
        faults.clear();
    }
    faults.extend(refused);
    let with_metadata = samples.with_metadata || !metadata.is_empty();
    if !metadata.is_empty() {
        store.put_metadata(&metadata);
    }
    if failure.is_none() && !batch.series.is_empty() {
        match store.write(&batch) {
            Ok(outcome) => all.absorb(outcome),
            Err(e) => failure = Some(e),
        }
        lessons.retain(|(i, _)| batch.series.get(*i).is_some_and(|s| !s.samples.is_empty()));
        if failure.is_none() && !lessons.is_empty() {
            let labels: Vec<_> = lessons.iter().filter_map(|(i, _)| Some(&batch.series.get(*i)?.labels)).collect();
            let places: Vec<Option<Place>> = store.places(&labels);
            known.learn(lessons.iter().zip(places).filter_map(|((_, lesson), place)| Some((*lesson, place?))));
        }
        let moved = batch.series.get(first_again..).unwrap_or_default();
        if failure.is_none() && !again.is_empty() && moved.len() == again.len() {
            let places = store.places(&moved.iter().map(|s| &s.labels).collect::<Vec<_>>());
            known.relearn(again.iter().zip(places).filter_map(|(from, place)| Some((from.key, from.labels, place?))));
        }
    }
    let outcome = failure.map_or(Ok(all), Err);
    let floats = floats + recognised;
    Ok(Taken { outcome, faults, floats, histograms, exemplars, known: recognised, invalid, with_metadata })
}

/// Removes samples from the future and histograms that contradict themselves; says what was removed.
fn refuse(decoded: &mut Decoded, latest: i64) -> Vec<String> {
    let mut faults = Vec::new();
    for series in &mut decoded.batch.series {
        let before = (series.samples.len(), series.histograms.len());
        if series.samples.iter().any(|(t, _)| *t > latest) {
            let keep: Vec<bool> = series.samples.iter().map(|(t, _)| *t <= latest).collect();
            let mut it = keep.iter();
            series.samples.retain(|_| it.next().copied().unwrap_or(true));
            let mut it = keep.iter();
            series.start_timestamps.retain(|_| it.next().copied().unwrap_or(true));
        }
        let mut starts = std::mem::take(&mut series.histogram_starts).into_iter();
        let mut kept = Vec::new();
        series.histograms.retain(|(t, h)| {
            let fault = decode::histogram_fault(h);
            let keep = *t <= latest && fault.is_none();
            faults.extend(fault);
            kept.extend(starts.next().filter(|_| keep));
            keep
        });
        series.histogram_starts = kept;
        let gone = (before.0 - series.samples.len(), before.1 - series.histograms.len());
        decoded.floats -= gone.0 as u64;
        decoded.histograms -= gone.1 as u64;
        if gone.0 > 0 || gone.1 > 0 && faults.is_empty() {
            faults.push("out of bounds: timestamp is too far in the future".into());
        }
    }
    faults.truncate(8);
    faults
}

async fn finish(message: &str, taken: Taken) -> Response<Body> {
    let Taken { outcome, mut faults, floats, histograms, exemplars, .. } = taken;
    let mut outcome = match outcome {
        Ok(outcome) => outcome,
        Err(e) => return storage_failed(&e, FAILED),
    };
    if let Some(durable) = outcome.durable.take()
        && let Err(e) = durable.await
    {
        return storage_failed(&e, FAILED);
    }
    let refused = outcome.out_of_order + outcome.duplicate + outcome.too_old + outcome.too_new;
    if refused > 0 {
        let first = outcome.first_refusal.take().unwrap_or_else(|| first_word(&outcome).to_owned());
        warn!(refused, first, out_of_order = outcome.out_of_order, duplicate = outcome.duplicate, "samples refused");
        faults.push(first);
    }
    let mut response = if faults.is_empty() {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        response
    } else {
        plain_error(StatusCode::BAD_REQUEST, &faults.join("\n"))
    };
    if message == V2 {
        let written = floats.saturating_sub(refused);
        for (name, n) in [
            ("x-prometheus-remote-write-samples-written", written),
            ("x-prometheus-remote-write-histograms-written", histograms),
            ("x-prometheus-remote-write-exemplars-written", exemplars.saturating_sub(outcome.exemplars_refused)),
        ] {
            response.headers_mut().insert(name, HeaderValue::from(n));
        }
    }
    response
}

fn first_word(outcome: &AppendOutcome) -> &'static str {
    match outcome {
        o if o.out_of_order > 0 => "out of order sample",
        o if o.duplicate > 0 => "duplicate sample for timestamp",
        o if o.too_old > 0 => "too old sample",
        _ => "out of bounds",
    }
}

const FAILED: &str = "remote write failed";

/// What is answered when the store fails; `what` failed, for the log.
pub(crate) fn storage_failed(e: &StorageError, what: &str) -> Response<Body> {
    warn!(err = %e, "{what}");
    let status = match e.kind {
        ErrorKind::BadRequest => StatusCode::BAD_REQUEST,
        ErrorKind::Limit => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    plain_error(status, &e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types() {
        assert_eq!(message_of("application/x-protobuf"), Ok(V1));
        assert_eq!(message_of("application/x-protobuf;proto=io.prometheus.write.v2.Request"), Ok(V2));
        assert!(message_of("application/json").unwrap_err().starts_with("expected application/x-protobuf"));
        assert!(message_of("application/x-protobuf;proto=x").unwrap_err().contains("unknown type"));
        assert!(message_of("application/x-protobuf;x").is_err());
    }
}
