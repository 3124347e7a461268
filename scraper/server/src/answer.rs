//! What a handler answers, and how it becomes a response: the envelope, error types and codes, CORS, compression.
//!
//! Large results are written while the client takes them: a body holds its source and makes the next piece (about
//! 24 KiB) when it is asked for one. Small ones are written at once and have a length.

use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body::{Frame, SizeHint};

use narthex_storage::{Trace, TraceStep};

use crate::json;

/// Prometheus's error types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorType {
    Timeout,
    Canceled,
    Execution,
    BadData,
    Internal,
    Unavailable,
    NotFound,
    NotAcceptable,
}

impl ErrorType {
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorType::Timeout => "timeout",
            ErrorType::Canceled => "canceled",
            ErrorType::Execution => "execution",
            ErrorType::BadData => "bad_data",
            ErrorType::Internal => "internal",
            ErrorType::Unavailable => "unavailable",
            ErrorType::NotFound => "not_found",
            ErrorType::NotAcceptable => "not_acceptable",
        }
    }

    /// The status code, as Prometheus maps it (`unavailable` is a 500 there, too).
    pub fn status(self) -> StatusCode {
        match self {
            ErrorType::BadData => StatusCode::BAD_REQUEST,
            ErrorType::Execution => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorType::Timeout => StatusCode::SERVICE_UNAVAILABLE,
            ErrorType::Canceled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            ErrorType::NotFound => StatusCode::NOT_FOUND,
            ErrorType::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            ErrorType::Internal | ErrorType::Unavailable => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// An error of the API.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {message}", kind.as_str())]
pub struct ApiError {
    pub kind: ErrorType,
    pub message: String,
}

impl ApiError {
    pub fn new(kind: ErrorType, message: impl Into<String>) -> ApiError {
        ApiError { kind, message: message.into() }
    }

    pub fn bad_data(message: impl Into<String>) -> ApiError {
        ApiError::new(ErrorType::BadData, message)
    }

    /// `invalid parameter "NAME": …`.
    pub fn parameter(name: &str, message: impl std::fmt::Display) -> ApiError {
        ApiError::bad_data(format!("invalid parameter {name:?}: {message}"))
    }
}

/// Writes a body piece by piece.
pub trait Fill: Send {
    /// Appends about [`PIECE`] bytes, or what is left; false when that was all.
    fn fill(&mut self, out: &mut Vec<u8>) -> bool;
}

/// Bytes that a [`Fill`] should write at a time: with a quarter more still of a size that the allocator keeps at hand.
pub const PIECE: usize = 25 << 10;

/// The `data` of an answer.
pub enum Data {
    /// None at all: 204.
    None,
    /// JSON text.
    Text(Vec<u8>),
    /// JSON text that is written as it is sent.
    Stream(Box<dyn Fill>),
}

/// A successful answer of the API.
pub struct Answer {
    pub data: Data,
    pub warnings: Vec<String>,
    pub infos: Vec<String>,
    /// Shown behind all else, where it is on.
    pub trace: Trace,
}

impl Answer {
    pub fn none() -> Answer {
        Answer { data: Data::None, warnings: Vec::new(), infos: Vec::new(), trace: Trace::default() }
    }

    pub fn text(data: Vec<u8>) -> Answer {
        Answer { data: Data::Text(data), ..Answer::none() }
    }

    pub fn stream(fill: impl Fill + 'static) -> Answer {
        Answer { data: Data::Stream(Box::new(fill)), ..Answer::none() }
    }

    /// # Errors
    /// When `value` can't be written, which would be a bug.
    pub fn json(value: &impl serde::Serialize) -> Result<Answer, ApiError> {
        serde_json::to_vec(value).map(Answer::text).map_err(|e| ApiError::new(ErrorType::Internal, e.to_string()))
    }

    pub fn with_warnings(mut self, warnings: Vec<String>) -> Answer {
        self.warnings.extend(warnings);
        self
    }

    pub fn with_trace(mut self, trace: Trace) -> Answer {
        self.trace = trace;
        self
    }

    pub fn with_infos(mut self, infos: Vec<String>) -> Answer {
        self.infos.extend(infos);
        self
    }
}

pub type ApiResult = Result<Answer, ApiError>;

/// The body of every response of this server.
pub struct Body {
    /// Written, not yet compressed.
    source: Option<Box<dyn Fill>>,
    /// Ready to go.
    ready: Option<Bytes>,
    /// Comes from elsewhere, when it comes.
    events: Option<Pin<Box<dyn futures::Stream<Item = Bytes> + Send>>>,
    encoder: Encoder,
    /// Bytes that went out, for the metric of sizes.
    sent: u64,
    on_end: Option<Box<dyn FnOnce(u64) + Send>>,
    /// Held until the body is through: a slot in a limit, an entry in a list.
    _held: Option<Box<dyn std::any::Any + Send>>,
}

enum Encoder {
    Plain,
    Gzip(GzEncoder<Vec<u8>>),
    Deflate(ZlibEncoder<Vec<u8>>),
    Done,
}

impl Encoder {
    fn of(headers: &HeaderMap) -> (Encoder, Option<&'static str>) {
        let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or("");
        for encoding in accepted.split(',').map(str::trim) {
            match encoding {
                "gzip" => return (Encoder::Gzip(GzEncoder::new(Vec::new(), Compression::fast())), Some("gzip")),
                "deflate" => {
                    return (Encoder::Deflate(ZlibEncoder::new(Vec::new(), Compression::fast())), Some("deflate"));
                }
                _ => {}
            }
        }
        (Encoder::Plain, None)
    }

    /// What can be sent of `text`; writing to a `Vec` does not fail.
    fn encode(&mut self, text: Vec<u8>, last: bool) -> Vec<u8> {
        let mut out = match self {
            Encoder::Plain | Encoder::Done => return text,
            Encoder::Gzip(gz) => {
                let _ = gz.write_all(&text);
                std::mem::take(gz.get_mut())
            }
            Encoder::Deflate(z) => {
                let _ = z.write_all(&text);
                std::mem::take(z.get_mut())
            }
        };
        if last {
            let rest = match std::mem::replace(self, Encoder::Done) {
                Encoder::Gzip(gz) => gz.finish(),
                Encoder::Deflate(z) => z.finish(),
                other => {
                    *self = other;
                    Ok(Vec::new())
                }
            };
            out.extend(rest.unwrap_or_default());
        }
        out
    }
}

impl Body {
    pub fn empty() -> Body {
        Body::from(Vec::new())
    }

    fn streaming(source: Box<dyn Fill>, encoder: Encoder) -> Body {
        let mut body =
            Body { source: Some(source), ready: None, events: None, encoder, sent: 0, on_end: None, _held: None };
        body.refill();
        body
    }

    /// A body that is written while it is sent, and not compressed.
    pub fn piecewise(source: Box<dyn Fill>) -> Body {
        Body::streaming(source, Encoder::Plain)
    }

    /// A body that sends each item of a stream when it comes.
    pub fn events(stream: impl futures::Stream<Item = Bytes> + Send + 'static) -> Body {
        let mut body = Body::empty();
        body.events = Some(Box::pin(stream));
        body
    }

    /// Makes the next piece unless one is ready or the source has ended.
    fn refill(&mut self) {
        while self.ready.is_none()
            && let Some(source) = &mut self.source
        {
            let mut text = Vec::with_capacity(PIECE + PIECE / 4);
            let more = source.fill(&mut text);
            if !more {
                self.source = None;
            }
            let out = self.encoder.encode(text, !more);
            if !out.is_empty() {
                self.ready = Some(Bytes::from(out));
            }
        }
    }

    /// Calls `f` with the bytes sent when the body has ended or was dropped.
    pub fn on_end(mut self, f: impl FnOnce(u64) + Send + 'static) -> Body {
        self.on_end = Some(Box::new(f));
        self
    }

    /// Keeps something alive as long as the body.
    pub fn hold(mut self, thing: impl Send + 'static) -> Body {
        self._held = Some(Box::new((self._held.take(), thing)));
        self
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(f) = self.on_end.take() {
            f(self.sent);
        }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Body {
        Body::from(Bytes::from(bytes))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Body {
        let ready = Some(bytes).filter(|b| !b.is_empty());
        Body { source: None, ready, events: None, encoder: Encoder::Plain, sent: 0, on_end: None, _held: None }
    }
}

impl From<String> for Body {
    fn from(text: String) -> Body {
        Body::from(text.into_bytes())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.refill();
        if let Some(events) = &mut self.events {
            return events.as_mut().poll_next(cx).map(|item| item.map(|bytes| Ok(Frame::data(bytes))));
        }
        match self.ready.take() {
            Some(bytes) => {
                self.sent += bytes.len() as u64;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_none() && self.ready.is_none() && self.events.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.source, &self.ready) {
            (None, ready) if self.events.is_none() => {
                SizeHint::with_exact(ready.as_ref().map_or(0, |b| b.len() as u64))
            }
            _ => SizeHint::default(),
        }
    }
}

/// Text that is written whole.
struct Once(Option<Vec<u8>>);

impl Fill for Once {
    fn fill(&mut self, out: &mut Vec<u8>) -> bool {
        *out = self.0.take().unwrap_or_default();
        false
    }
}

/// A result inside its envelope.
struct Envelope {
    data: Option<Box<dyn Fill>>,
    begun: bool,
    warnings: Vec<String>,
    infos: Vec<String>,
    trace: Trace,
    /// Its last step.
    printing: Trace,
}

impl Fill for Envelope {
    fn fill(&mut self, out: &mut Vec<u8>) -> bool {
        if !self.begun {
            out.extend_from_slice(b"{\"status\":\"success\",\"data\":");
            self.begun = true;
            self.printing = self.trace.step(|| "write the answer, as the client takes it".into());
        }
        if let Some(data) = &mut self.data {
            let mut piece = std::mem::take(out);
            let more = data.fill(&mut piece);
            *out = piece;
            if more {
                return true;
            }
            self.data = None;
        }
        self.printing.end();
        tail(out, &self.warnings, &self.infos, &self.trace);
        false
    }
}

fn tail(out: &mut Vec<u8>, warnings: &[String], infos: &[String], trace: &Trace) {
    for (name, texts) in [(&b",\"warnings\":"[..], warnings), (b",\"infos\":", infos)] {
        if !texts.is_empty() {
            out.extend_from_slice(name);
            json::strings(out, texts);
        }
    }
    trace.end();
    if let Some(step) = trace.show() {
        out.extend_from_slice(b",\"trace\":");
        trace_step(out, &step);
    }
    out.push(b'}');
}

/// A step with those below it, as VictoriaMetrics writes them. Recurses to the bounded depth of traces.
fn trace_step(out: &mut Vec<u8>, step: &TraceStep) {
    out.extend_from_slice(b"{\"duration_msec\":");
    json::float(out, (step.took.as_secs_f64() * 1e6).round() / 1e3);
    out.extend_from_slice(b",\"message\":");
    json::string(out, &step.message);
    for (i, child) in step.children.iter().enumerate() {
        out.extend_from_slice(if i == 0 { b",\"children\":[" } else { b"," });
        trace_step(out, child);
    }
    out.extend_from_slice(if step.children.is_empty() { b"}" } else { b"]}" });
}

/// The response of an API handler, compressed as the request allows.
pub fn respond(request: &HeaderMap, result: ApiResult) -> Response<Body> {
    match result {
        Ok(Answer { data: Data::None, .. }) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            let headers = response.headers_mut();
            headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
            if let (_, Some(name)) = Encoder::of(request) {
                headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
            }
            response
        }
        Ok(Answer { data, warnings, infos, trace }) => {
            let fill: Box<dyn Fill> = match data {
                Data::Stream(data) => {
                    let printing = Trace::default();
                    Box::new(Envelope { data: Some(data), begun: false, warnings, infos, trace, printing })
                }
                Data::Text(text) => {
                    let mut out = Vec::with_capacity(text.len() + 64);
                    out.extend_from_slice(b"{\"status\":\"success\",\"data\":");
                    out.extend_from_slice(&text);
                    tail(&mut out, &warnings, &infos, &trace);
                    Box::new(Once(Some(out)))
                }
                Data::None => Box::new(Once(None)),
            };
            compressed(request, StatusCode::OK, "application/json", fill)
        }
        Err(error) => {
            let mut out = Vec::with_capacity(128);
            out.extend_from_slice(b"{\"status\":\"error\",\"errorType\":");
            json::string(&mut out, error.kind.as_str());
            out.extend_from_slice(b",\"error\":");
            json::html_string(&mut out, &error.message);
            out.push(b'}');
            compressed(request, error.kind.status(), "application/json", Box::new(Once(Some(out))))
        }
    }
}

/// The response of an API handler whose answers Prometheus does not pack.
pub fn respond_unpacked(result: ApiResult) -> Response<Body> {
    let mut response = respond(&HeaderMap::new(), result);
    response.headers_mut().remove(header::VARY);
    response
}

/// A response whose body is compressed as the request allows.
pub fn compressed(request: &HeaderMap, status: StatusCode, content_type: &str, fill: Box<dyn Fill>) -> Response<Body> {
    let (encoder, name) = Encoder::of(request);
    let mut response = Response::new(Body::streaming(fill, encoder));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    if let Some(name) = name {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
    }
    if let Ok(value) = HeaderValue::from_str(content_type) {
        headers.insert(header::CONTENT_TYPE, value);
    }
    response
}

/// A whole text, compressed as the request allows.
pub fn compressed_text(request: &HeaderMap, status: StatusCode, content_type: &str, text: Vec<u8>) -> Response<Body> {
    compressed(request, status, content_type, Box::new(Once(Some(text))))
}

/// Plain text as Go's `http.Error` sends it, with a line end.
pub fn plain_error(status: StatusCode, message: &str) -> Response<Body> {
    let mut response = plain(status, format!("{message}\n"));
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// Plain text.
pub fn plain(status: StatusCode, text: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Go's `http.Redirect` of a GET, to another page.
pub fn redirect(location: &str) -> Response<Body> {
    redirect_as(StatusCode::FOUND, location, &Method::GET)
}

/// Go's `http.Redirect`.
pub fn redirect_as(status: StatusCode, location: &str, method: &Method) -> Response<Body> {
    let reason = status.canonical_reason().unwrap_or("Found");
    let escaped = location.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;");
    let body = format!("<a href=\"{}\">{reason}</a>.\n\n", escaped.replace('\'', "&#39;"));
    let mut response = Response::new(if method == Method::GET { Body::from(body) } else { Body::empty() });
    *response.status_mut() = status;
    if matches!(*method, Method::GET | Method::HEAD) {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    }
    if let Ok(value) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use std::io::Read;

    struct Numbers(u32);

    impl Fill for Numbers {
        fn fill(&mut self, out: &mut Vec<u8>) -> bool {
            let start = out.len();
            out.extend_from_slice(if self.0 == 0 { b"[0" } else { b"" });
            while self.0 < 50_000 && out.len() - start < PIECE {
                self.0 += 1;
                out.extend_from_slice(format!(",{}", self.0).as_bytes());
            }
            if self.0 == 50_000 {
                out.push(b']');
            }
            self.0 < 50_000
        }
    }

    async fn read(response: Response<Body>) -> (HeaderMap, Vec<u8>) {
        let (parts, body) = response.into_parts();
        (parts.headers, body.collect().await.unwrap().to_bytes().to_vec())
    }

    #[tokio::test]
    async fn streams_are_whole_plain_and_compressed() {
        let answer = || Ok(Answer::stream(Numbers(0)).with_warnings(vec!["w<".into()]));
        let (headers, plain) = read(respond(&HeaderMap::new(), answer())).await;
        assert!(headers.get(header::CONTENT_LENGTH).is_none());
        let parsed: serde_json::Value = serde_json::from_slice(&plain).unwrap();
        assert_eq!((parsed["data"][50_000].as_u64(), parsed["warnings"][0].as_str()), (Some(50_000), Some("w<")));
        for encoding in ["gzip", "br, deflate"] {
            let mut request = HeaderMap::new();
            request.insert(header::ACCEPT_ENCODING, HeaderValue::from_str(encoding).unwrap());
            let (headers, packed) = read(respond(&request, answer())).await;
            assert!(packed.len() < plain.len());
            let mut out = Vec::new();
            match headers[header::CONTENT_ENCODING].to_str().unwrap() {
                "gzip" => flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut out).unwrap(),
                "deflate" => flate2::read::ZlibDecoder::new(&packed[..]).read_to_end(&mut out).unwrap(),
                other => panic!("{other}"),
            };
            assert_eq!(out, plain);
        }
    }

    #[tokio::test]
    async fn errors_and_nothing() {
        let response = respond(&HeaderMap::new(), Err(ApiError::parameter("time", "no <time>")));
        assert_eq!(response.status(), 400);
        let (_, body) = read(response).await;
        let expected =
            r#"{"status":"error","errorType":"bad_data","error":"invalid parameter \"time\": no \u003ctime\u003e"}"#;
        assert_eq!(String::from_utf8(body).unwrap(), expected);
        assert_eq!(respond(&HeaderMap::new(), Ok(Answer::none())).status(), 204);
        assert_eq!(ErrorType::Canceled.status().as_u16(), 499);
    }
}
