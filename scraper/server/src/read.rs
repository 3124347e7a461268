//! `/api/v1/read`: remote read, as samples in one snappy block or as a stream of chunks, as the request prefers.
//!
//! Series come sorted, with the external labels. A selection is held in memory while it is sent, so both kinds answer
//! to the limit of samples.

mod chunk;
pub mod encode;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use narthex_model::{Labels, MatchType, Matcher, protobuf, varint};
use narthex_runtime::Registry;
use narthex_runtime::metrics::Gauge;
use narthex_storage::{ErrorKind, HeldBytes, SelectHints, SelectRequest, Series, StorageError};
use tokio::sync::Semaphore;
use tracing::warn;

use crate::answer::{Body, Fill, PIECE, plain_error};
use crate::state::App;
use crate::write::wire::{Field, Fields, WireError, message, packed_varints};

/// Most bytes of a request, packed and unpacked.
pub const MAX_BYTES: usize = 32 << 20;

/// Most samples of a streamed answer, where a limit is set at all.
const MAX_STREAMED: usize = 50_000_000;

/// Limits of remote reads.
#[derive(Clone, Copy, Debug)]
pub struct ReadOptions {
    /// Most samples of an answer; 0: no limit.
    pub sample_limit: usize,
    /// Reads that are worked on at once; the others wait.
    pub concurrent_limit: usize,
    /// Most bytes of a frame of a streamed answer, more or less.
    pub max_bytes_in_frame: usize,
}

impl Default for ReadOptions {
    fn default() -> ReadOptions {
        ReadOptions { sample_limit: MAX_STREAMED, concurrent_limit: 10, max_bytes_in_frame: 1 << 20 }
    }
}

/// What reads share.
pub struct RemoteRead {
    options: ReadOptions,
    gate: Arc<Semaphore>,
    queries: Gauge,
}

impl RemoteRead {
    pub fn new(options: ReadOptions, r: &Registry) -> RemoteRead {
        let help = "The current number of remote read queries that are either in execution or queued on the handler.";
        let queries = r.gauge("prometheus_remote_read_handler_queries", help);
        RemoteRead { options, gate: Arc::new(Semaphore::new(options.concurrent_limit.max(1))), queries }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Samples,
    Chunks,
}

#[derive(Debug)]
struct Request {
    queries: Vec<SelectRequest>,
    accepted: Vec<u64>,
}

#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("{0}")]
    Matcher(String),
}

fn matcher(bytes: &[u8], external: &Labels) -> Result<Matcher, RequestError> {
    let (mut kind, mut name, mut value) = (0, "", "");
    let mut fields = Fields(bytes);
    while let Some((number, field)) = fields.next()? {
        match number {
            1 => kind = field.varint()?,
            2 => name = field.text()?,
            3 => value = field.text()?,
            _ => {}
        }
    }
    let kind = match kind {
        0 => MatchType::Equal,
        1 => MatchType::NotEqual,
        2 => MatchType::Regexp,
        3 => MatchType::NotRegexp,
        _ => return Err(RequestError::Matcher("invalid matcher type".into())),
    };
    // What is stored has no external labels: who asks for the right ones asks for none.
    let value = if kind == MatchType::Equal && external.value(name) == value { "" } else { value };
    Matcher::new(kind, name, value).map_err(|e| RequestError::Matcher(e.to_string()))
}

fn hints(bytes: &[u8]) -> Result<SelectHints, WireError> {
    message(bytes, |hints: &mut SelectHints, number, field| {
        match number {
            1 => hints.step = field.varint()? as i64,
            2 => hints.func = Some(field.text()?.to_owned()).filter(|f| !f.is_empty()),
            5 => hints.grouping.push(field.text()?.to_owned()),
            6 => hints.by = field.varint()? != 0,
            7 => hints.range = field.varint()? as i64,
            _ => {}
        }
        Ok(())
    })
}

fn query(bytes: &[u8], external: &Labels) -> Result<SelectRequest, RequestError> {
    let mut request = SelectRequest::new(Vec::new(), 0, 0);
    let mut fields = Fields(bytes);
    while let Some((number, field)) = fields.next()? {
        match number {
            1 => request.mint = field.varint()? as i64,
            2 => request.maxt = field.varint()? as i64,
            3 => request.matchers.push(matcher(field.bytes()?, external)?),
            4 => request.hints = hints(field.bytes()?)?,
            _ => {}
        }
    }
    Ok(request)
}

fn request(body: &[u8], external: &Labels) -> Result<Request, RequestError> {
    let mut request = Request { queries: Vec::new(), accepted: Vec::new() };
    let mut fields = Fields(body);
    while let Some((number, field)) = fields.next()? {
        match (number, field) {
            (1, field) => request.queries.push(query(field.bytes()?, external)?),
            (2, field @ (Field::Varint(_) | Field::Bytes(_))) => {
                packed_varints(field, |n| request.accepted.push(n))?;
            }
            _ => {}
        }
    }
    Ok(request)
}

/// The first kind that the client accepts and we know; samples where it names none.
fn negotiate(accepted: &[u64]) -> Result<Kind, String> {
    let name = |n: &u64| match n {
        0 => "SAMPLES".to_owned(),
        1 => "STREAMED_XOR_CHUNKS".to_owned(),
        n => n.to_string(),
    };
    match accepted.iter().find(|n| **n <= 1) {
        None if accepted.is_empty() => Ok(Kind::Samples),
        Some(0) => Ok(Kind::Samples),
        Some(_) => Ok(Kind::Chunks),
        None => Err(format!(
            "server does not support any of the requested response types: [{}]; supported: map[SAMPLES:{{}} STREAMED_XOR_CHUNKS:{{}}]",
            accepted.iter().map(name).collect::<Vec<_>>().join(" ")
        )),
    }
}

fn bad(text: &str) -> Response<Body> {
    plain_error(StatusCode::BAD_REQUEST, text)
}

/// Answers a read whose body was read, at most [`MAX_BYTES`] of it. Computes: not where connections are served.
pub async fn read(app: Arc<App>, headers: &HeaderMap, body: Bytes) -> Response<Body> {
    let asking = match app.classes.of(headers) {
        Ok(class) => app.classes.request(class, None),
        Err(e) => return plain_error(e.kind.status(), &e.message),
    };
    let failed = |e: &StorageError| failed(e, &crate::api::refused(&app, &asking, e).message);
    let mut bytes = asking.meter.hold_nothing();
    let counted = app.remote_read.queries.hold();
    let Ok(turn) = app.remote_read.gate.clone().acquire_owned().await else {
        return plain_error(StatusCode::INTERNAL_SERVER_ERROR, "shutting down");
    };
    match snap::raw::decompress_len(&body) {
        Ok(n) if n > MAX_BYTES => return bad(&format!("snappy: decoded length {n} exceeds limit {MAX_BYTES}")),
        Ok(_) => {}
        Err(_) => return bad("snappy: corrupt input"),
    }
    let Ok(body) = snap::raw::Decoder::new().decompress_vec(&body) else { return bad("snappy: corrupt input") };
    let external = app.view.load().external_labels.clone();
    let request = match request(&body, &external) {
        Ok(request) => request,
        Err(RequestError::Wire(e)) => return bad(&e.to_string()),
        Err(e) => return plain_error(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
    };
    let kind = match negotiate(&request.accepted) {
        Ok(kind) => kind,
        Err(text) => return bad(&text),
    };
    // Prometheus's limit is for answers that are not streamed. Here those wait in memory, too, so that there is one.
    let limit = match (app.remote_read.options.sample_limit, kind) {
        (limit @ 1.., Kind::Chunks) => limit.max(MAX_STREAMED),
        (limit, _) => limit,
    };
    let mut results = Vec::with_capacity(request.queries.len());
    let mut samples = 0;
    for mut query in request.queries {
        query.hints.meter = asking.meter.clone();
        // Of a range that ends before it begins nothing is there to be read.
        let asked = match query.mint > query.maxt {
            true => Ok(narthex_storage::SeriesSet::empty()),
            false => app.storage.select(query).await,
        };
        let set = match asked {
            Ok(set) => set,
            Err(e) => return failed(&e),
        };
        set.warnings.iter().for_each(|w| warn!(err = w, "remote read"));
        let before = if kind == Kind::Samples { 0 } else { samples };
        match collect(set, before, limit, &mut bytes) {
            Ok((series, n)) => {
                samples = n;
                results.push(series);
            }
            Err(Collecting::Limit) => return bad(&format!("exceeded sample limit ({limit})")),
            Err(Collecting::Storage(e)) => return failed(&e),
        }
    }
    let held = (turn, counted, bytes);
    let (content_type, encoding, body) = match kind {
        Kind::Samples => {
            let mut out = Vec::new();
            results.iter().for_each(|r| protobuf::message(&mut out, 1, |out| encode::result(out, r, &external)));
            match snap::raw::Encoder::new().compress_vec(&out) {
                Ok(packed) => ("application/x-protobuf", Some("snappy"), Body::from(packed)),
                Err(e) => return plain_error(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
            }
        }
        Kind::Chunks => {
            let max = app.remote_read.options.max_bytes_in_frame.clamp(1, MAX_FRAME);
            let mut queries = results.into_iter().map(Vec::into_iter).enumerate();
            let stream = Stream { current: queries.next(), queries, rest: None, external, max };
            let body = Body::piecewise(Box::new(stream));
            ("application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse", None, body)
        }
    };
    let mut response = Response::new(body.hold(held));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Some(encoding) = encoding {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    response
}

fn failed(e: &StorageError, message: &str) -> Response<Body> {
    let status = match e.kind {
        ErrorKind::BadRequest => StatusCode::BAD_REQUEST,
        ErrorKind::Unavailable | ErrorKind::Timeout => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Limit => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    plain_error(status, message)
}

enum Collecting {
    Limit,
    Storage(StorageError),
}

/// The series of a selection, sorted, and how many samples there are with those `before`.
fn collect(
    set: narthex_storage::SeriesSet,
    before: usize,
    limit: usize,
    held: &mut HeldBytes,
) -> Result<(Vec<Series>, usize), Collecting> {
    let (mut all, mut samples) = (Vec::new(), before);
    for batch in set.batches {
        let mut series = batch.map_err(Collecting::Storage)?.series;
        series.retain(|s| !s.floats.is_empty() || !s.histograms.timestamps.is_empty());
        samples += series.iter().map(|s| s.floats.len() + s.histograms.timestamps.len()).sum::<usize>();
        if limit > 0 && samples > limit {
            return Err(Collecting::Limit);
        }
        held.add(series.iter().map(Series::bytes).sum()).map_err(Collecting::Storage)?;
        all.append(&mut series);
    }
    all.sort_by(|a, b| a.labels.cmp(&b.labels));
    Ok((all, samples))
}

/// Frames are made while others wait: they stay small, whatever is allowed.
const MAX_FRAME: usize = 128 << 10;

/// Frames of chunks, each of one series.
struct Stream<I> {
    queries: I,
    /// The query that is being answered, and its series that are still to come.
    current: Option<(usize, std::vec::IntoIter<Series>)>,
    /// A series that is being sent.
    rest: Option<chunk::Chunks>,
    external: Labels,
    max: usize,
}

impl<I: Iterator<Item = (usize, std::vec::IntoIter<Series>)> + Send> Fill for Stream<I> {
    fn fill(&mut self, out: &mut Vec<u8>) -> bool {
        let end = out.len() + PIECE;
        while out.len() < end {
            let Some((index, series)) = &mut self.current else { return false };
            if self.rest.is_none() {
                match series.next() {
                    Some(series) => self.rest = Some(chunk::Chunks::new(series)),
                    None => {
                        self.current = self.queries.next();
                        continue;
                    }
                }
            }
            let Some(chunks) = &mut self.rest else { continue };
            let mut frame = Vec::with_capacity(4096);
            protobuf::message(&mut frame, 1, |series| {
                encode::labels(series, chunks.labels(), &self.external);
                let end = series.len().max(self.max.saturating_sub(series.len()));
                while series.len() < end
                    && let Some(chunk) = chunks.next()
                {
                    protobuf::message(series, 2, |out| chunk.write(out));
                }
            });
            protobuf::varint_field(&mut frame, 2, *index as u64);
            if chunks.is_empty() {
                self.rest = None;
            }
            varint::put(out, frame.len() as u64);
            out.extend_from_slice(&encode::crc32c(&frame).to_be_bytes());
            out.extend_from_slice(&frame);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_negotiated() {
        assert_eq!(negotiate(&[]), Ok(Kind::Samples));
        assert_eq!(negotiate(&[1, 0]), Ok(Kind::Chunks));
        assert_eq!(negotiate(&[7, 0, 1]), Ok(Kind::Samples));
        let expected = "server does not support any of the requested response types: [7]; supported: map[SAMPLES:{} STREAMED_XOR_CHUNKS:{}]";
        assert_eq!(negotiate(&[7]), Err(expected.to_owned()));
    }

    #[test]
    fn requests_are_decoded() {
        let mut q = Vec::new();
        protobuf::varint_field(&mut q, 1, 5);
        protobuf::varint_field(&mut q, 2, 9);
        for (kind, name, value) in [(0, "zone", "eu"), (2, "a", "b.*")] {
            protobuf::message(&mut q, 3, |out| {
                protobuf::varint_field(out, 1, kind);
                protobuf::bytes_field(out, 2, name.as_bytes());
                protobuf::bytes_field(out, 3, value.as_bytes());
            });
        }
        let mut body = Vec::new();
        protobuf::bytes_field(&mut body, 1, &q);
        // Packed, as proto3 has it.
        protobuf::bytes_field(&mut body, 2, &[1, 0]);
        let external = Labels::from_pairs([("zone", "eu")]);
        let got = request(&body, &external).unwrap();
        assert_eq!(got.accepted, [1, 0]);
        let query = &got.queries[0];
        assert_eq!((query.mint, query.maxt), (5, 9));
        let expected = [Matcher::equal("zone", ""), Matcher::new(MatchType::Regexp, "a", "b.*").unwrap()];
        assert_eq!(query.matchers, expected);
        for end in 0..body.len() {
            let _ = request(&body[..end], &external);
        }
    }
}
