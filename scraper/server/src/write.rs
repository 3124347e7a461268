//! `/api/v1/write`: remote write, snappy blocks of protobuf.
//!
//! What is answered with 204 is in the store's log. Samples that are refused are answered with 400, which tells the
//! sender not to try again: nothing of a 1.0 request is stored then, of a 2.0 request the others are. Series with
//! invalid labels are left out of either.
//!
//! A request is judged before anything of it is stored ([`careful`]). What comes between, from another request, is left
//! out when it is stored, and answered likewise.

pub mod backfill;
pub mod decode;
pub mod known;
pub(crate) mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashSet;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use narthex_model::Labels;
use narthex_runtime::metrics::Counter;
use narthex_runtime::{PoolError, Registry};
use narthex_storage::{
    AppendOutcome, Appendable, ErrorKind, Item, Place, Refusal, StorageError, WriteBatch, WriteSeries,
};
use tracing::{debug, warn};

use self::decode::{Decoded, Reader, Rules};
use self::known::{Known, Lesson, Samples};
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

/// The message that a request holds, by its headers; what is wrong with it otherwise, with the answer's status.
fn framing(headers: &HeaderMap, body: &[u8]) -> Result<&'static str, (StatusCode, String)> {
    let encoding = header_text(headers, &header::CONTENT_ENCODING);
    if !matches!(encoding, "" | "snappy") {
        let text =
            format!("{encoding} encoding (compression) is not accepted by this server; only snappy is acceptable");
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    }
    let content_type = match header_text(headers, &header::CONTENT_TYPE) {
        "" => "application/x-protobuf",
        text => text,
    };
    let unpacked_len = match snap::raw::decompress_len(body) {
        Ok(len) if !body.is_empty() => len,
        _ => return Err((StatusCode::BAD_REQUEST, "s2: corrupt input".into())),
    };
    if unpacked_len > MAX_BYTES {
        return Err((StatusCode::BAD_REQUEST, format!("decoded size exceeds the {MAX_BYTES} bytes limit")));
    }
    message_of(content_type).map_err(|text| (StatusCode::UNSUPPORTED_MEDIA_TYPE, text))
}

/// Answers a push whose body was read, at most [`MAX_BYTES`] of it.
pub async fn write(app: Arc<App>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    if !app.options.enable_remote_write {
        let text = "remote write receiver needs to be enabled with --web.enable-remote-write-receiver";
        return plain_error(StatusCode::NOT_FOUND, text);
    }
    let message = match framing(&headers, &body) {
        Ok(message) => message,
        Err((status, text)) => return plain_error(status, &text),
    };
    if !app.options.accepted_messages.iter().any(|m| m == message) {
        let accepted = app.options.accepted_messages.join(", ");
        let text = format!("{message} protobuf message is not accepted by this server; only accepts {accepted}");
        return plain_error(StatusCode::UNSUPPORTED_MEDIA_TYPE, &text);
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

/// A request that was decoded and, unless it was refused as a whole, handed to the store.
pub struct Taken {
    pub outcome: Result<AppendOutcome, StorageError>,
    /// What was refused, in the words of the answer.
    pub faults: Vec<String>,
    pub floats: u64,
    pub histograms: u64,
    pub exemplars: u64,
    /// Floats that were recognised by the bytes of their labels.
    pub known: u64,
    invalid: u64,
    with_metadata: bool,
}

impl Default for Taken {
    /// Nothing was taken.
    fn default() -> Taken {
        let outcome = Ok(AppendOutcome::default());
        let (floats, histograms, exemplars, known, invalid) = Default::default();
        Taken { outcome, faults: Vec::new(), floats, histograms, exemplars, known, invalid, with_metadata: true }
    }
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
    let unpacked = unpack(body, unpacked)?;
    let v1 = message == V1;
    let nobody = Known::new(0);
    let (mut way, mut round) = (known, 0);
    let (mut decoded, mut lessons) = loop {
        samples.clear();
        let (mut decoded, lessons) = read(way, known.rules, unpacked, v1, latest, samples)?;
        if samples.samples.is_empty() {
            decoded.refused = careful(&mut decoded, store, v1, latest);
            break (decoded, lessons);
        }
        let has_samples = |s: &&WriteSeries| !s.samples.is_empty() || !s.histograms.is_empty();
        let labels: Vec<&Labels> = decoded.batch.series.iter().filter(has_samples).map(|s| &s.labels).collect();
        let plain: HashSet<Place> = store.places(&labels).into_iter().flatten().collect();
        let mut lost = Vec::new();
        // Samples of one series went both ways: only one way keeps their order.
        let both_ways = !plain.is_empty() && samples.samples.iter().any(|s| plain.contains(&s.place));
        // Which is the first fault, and which are all of them, is seen where all is decoded.
        let amiss = !v1 && !decoded.faults.is_empty() || !decoded.bad_histograms.is_empty();
        if both_ways
            || amiss
            || !store.would_take(&samples.samples, &mut lost)
            || ahead(&decoded.batch, latest)
            || !store.judge(&decoded.batch, !v1, 1).is_empty()
        {
            way = &nobody;
            continue;
        }
        if !v1 || lost.is_empty() {
            break (decoded, lessons);
        }
        // What is elsewhere now was not judged.
        known.lose(lost.iter().filter_map(|i| samples.from.get(*i)).map(|f| (f.key, f.labels)));
        round += 1;
        way = if round < 3 { known } else { &nobody };
    };
    if v1 && !decoded.refused.is_empty() {
        return Ok(Taken { faults: decoded.refused, ..Taken::default() });
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
            decode::v2_more(unpacked, series, known.rules, &mut decoded)
        };
        read.map_err(|e| e.to_string())?;
    }
    let Decoded { batch, metadata, invalid, refused: faults, floats, histograms, exemplars, .. } = decoded;
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

/// The bytes of a message, in `room`.
fn unpack<'r>(body: &[u8], room: &'r mut Vec<u8>) -> Result<&'r [u8], String> {
    let corrupt = || "s2: corrupt input".to_owned();
    let len = snap::raw::decompress_len(body).map_err(|_| corrupt())?;
    if len > MAX_BYTES {
        return Err(format!("decoded size exceeds the {MAX_BYTES} bytes limit"));
    }
    if room.len() < len {
        room.resize(len, 0);
    }
    let len = snap::raw::Decoder::new().decompress(body, room).map_err(|_| corrupt())?;
    room.get(..len).ok_or_else(corrupt)
}

/// Reads a request with the series that `way` knows.
fn read(
    way: &Known,
    rules: Rules,
    body: &[u8],
    v1: bool,
    latest: i64,
    samples: &mut Samples,
) -> Result<(Decoded, Vec<(usize, Lesson)>), String> {
    let table = way.lock();
    let mut reader = Reader { walk: way.walk(&table, latest), samples, lessons: Vec::new() };
    let decoded = if v1 { decode::v1(body, &mut reader) } else { decode::v2(body, &mut reader, rules) };
    Ok((decoded.map_err(|e| e.to_string())?, reader.lessons))
}

/// Whether a batch has samples later than `latest`.
pub(crate) fn ahead(batch: &WriteBatch, latest: i64) -> bool {
    let ahead = |t: i64| t > latest;
    batch.series.iter().any(|s| s.samples.iter().any(|s| ahead(s.0)) || s.histograms.iter().any(|h| ahead(h.0)))
}

pub(crate) const AHEAD: &str = "out of bounds: timestamp is too far in the future";

/// Judges a request that is decoded as a whole: removes what is refused and says why, in the request's order. Of 1.0
/// only the first counts: nothing of such a request is stored.
fn careful(decoded: &mut Decoded, store: &dyn Appendable, v1: bool, latest: i64) -> Vec<String> {
    let bad = std::mem::take(&mut decoded.bad_histograms);
    let most = if v1 { 1 } else { usize::MAX };
    let judged = store.judge(&decoded.batch, !v1, most);
    if judged.is_empty() && bad.is_empty() && !ahead(&decoded.batch, latest) {
        return if v1 { Vec::new() } else { std::mem::take(&mut decoded.faults).into_iter().map(|f| f.1).collect() };
    }
    let mut refused: BTreeMap<(usize, Item), String> = BTreeMap::new();
    for refusal in &judged {
        refused.insert((refusal.series, refusal.item), refusal.reason.clone());
    }
    refused.extend(bad.into_iter().map(|(series, i, fault)| ((series, Item::Histogram(i)), fault)));
    for (i, series) in decoded.batch.series.iter().enumerate() {
        let floats = series.samples.iter().enumerate().map(|(at, s)| (Item::Float(at), s.0));
        let histograms = series.histograms.iter().enumerate().map(|(at, h)| (Item::Histogram(at), h.0));
        let late = floats.chain(histograms).filter(|(_, t)| *t > latest);
        refused.extend(late.map(|(item, _)| ((i, item), AHEAD.to_owned())));
    }
    let counted = |r: &&Refusal| refused.get(&(r.series, r.item)) == Some(&r.reason);
    let first = refused.first_key_value().map(|f| *f.0);
    let counted = judged.iter().filter(counted).filter(|r| !v1 || first == Some((r.series, r.item)));
    store.count_refused(&counted.cloned().collect::<Vec<_>>());
    if v1 {
        return refused.into_values().take(1).collect();
    }
    let mut texts = Vec::new();
    let mut faults = std::mem::take(&mut decoded.faults).into_iter().peekable();
    let mut bytes = 0;
    for ((series, _), reason) in &refused {
        while let Some((_, text)) = faults.next_if(|f| f.0 <= *series) {
            texts.push(text);
        }
        if bytes < decode::MAX_FAULTS {
            let text = format!("{reason} for series {}", decoded.batch.series[*series].labels);
            bytes += text.len();
            texts.push(text);
        }
    }
    texts.extend(faults.map(|f| f.1));
    let series: BTreeSet<usize> = refused.keys().map(|k| k.0).collect();
    for i in series {
        let has = |item| !refused.contains_key(&(i, item));
        let Some(series) = decoded.batch.series.get_mut(i) else { continue };
        let before = (series.samples.len(), series.histograms.len(), series.exemplars.len());
        keep(&mut series.samples, |at| has(Item::Float(at)));
        keep(&mut series.start_timestamps, |at| has(Item::Float(at)));
        keep(&mut series.histograms, |at| has(Item::Histogram(at)));
        keep(&mut series.histogram_starts, |at| has(Item::Histogram(at)));
        keep(&mut series.exemplars, |at| has(Item::Exemplar(at)));
        decoded.floats -= (before.0 - series.samples.len()) as u64;
        decoded.histograms -= (before.1 - series.histograms.len()) as u64;
        decoded.exemplars -= (before.2 - series.exemplars.len()) as u64;
    }
    texts
}

fn keep<T>(list: &mut Vec<T>, keep: impl Fn(usize) -> bool) {
    let mut at = 0..;
    list.retain(|_| at.next().is_some_and(&keep));
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
