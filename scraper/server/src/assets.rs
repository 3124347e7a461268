//! The page's files, embedded as the page's build leaves them, and compressed once per process when first asked for.

use std::io::Write;
use std::sync::{Arc, OnceLock};

use axum::extract::Request;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use crate::answer::{Body, compressed_text, plain_error};
use crate::state::App;

struct File {
    name: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
    gzip: OnceLock<Bytes>,
}

const fn file(name: &'static str, content_type: &'static str, bytes: &'static [u8]) -> File {
    File { name, content_type, bytes, gzip: OnceLock::new() }
}

static FILES: [File; 3] = [
    file("app.js", "text/javascript; charset=utf-8", include_bytes!("../assets/app.js")),
    file("app.css", "text/css; charset=utf-8", include_bytes!("../assets/app.css")),
    file("favicon.svg", "image/svg+xml", include_bytes!("../assets/favicon.svg")),
];

const INDEX: &str = include_str!("../assets/index.html");

/// Paths of the page, which finds its way by itself.
pub const PAGES: [&str; 12] = [
    "/query",
    "/alerts",
    "/rules",
    "/targets",
    "/service-discovery",
    "/alertmanager-discovery",
    "/status",
    "/tsdb-status",
    "/flags",
    "/config",
    "/active-queries",
    "/fleet",
];

/// Those of them that agent mode has not.
pub const SERVER_PAGES: [&str; 6] = ["/query", "/alerts", "/rules", "/tsdb-status", "/active-queries", "/fleet"];

/// Files that are served at the root, where browsers look for them.
pub const ROOT_FILES: [&str; 3] = ["/favicon.svg", "/favicon.ico", "/manifest.json"];

/// A tag that changes whenever a file does.
fn etag(file: &File) -> String {
    format!("\"{:016x}\"", xxhash_rust::xxh3::xxh3_64(file.bytes))
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or("");
    accepted.split(',').any(|e| e.split(';').next().is_some_and(|e| e.trim() == "gzip"))
}

fn packed(file: &'static File) -> Bytes {
    let pack = || {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        let written = encoder.write_all(file.bytes).and_then(|()| encoder.finish());
        written.map_or_else(|_| Bytes::new(), Bytes::from)
    };
    file.gzip.get_or_init(pack).clone()
}

fn send(file: &'static File, headers: &HeaderMap) -> Response<Body> {
    let tag = etag(file);
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|v| v.as_bytes() == tag.as_bytes());
    let gzip = accepts_gzip(headers);
    let body = match (known, gzip) {
        (true, _) => Body::empty(),
        (false, true) => Body::from(packed(file)),
        (false, false) => Body::from(Bytes::from_static(file.bytes)),
    };
    let mut response = Response::new(body);
    let out = response.headers_mut();
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static(file.content_type));
    // Names stay the same from version to version: ask each time, get 304.
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    out.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        out.insert(header::ETAG, tag);
    }
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else if gzip {
        out.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The page, told where it lives.
pub async fn index(app: Arc<App>, request: Request) -> Response<Body> {
    let base = format!("<base href=\"{}/\">", escape(app.options.external_url.path().trim_end_matches('/')));
    let mut html = INDEX.replacen("<base href=\"/\">", &base, 1);
    if !app.options.page_title.is_empty() {
        let title = format!("<title>{}</title>", escape(&app.options.page_title));
        html = html.replacen("<title>Narthex</title>", &title, 1);
    }
    let mut response =
        compressed_text(request.headers(), StatusCode::OK, "text/html; charset=utf-8", html.into_bytes());
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// `/assets/NAME`, `/favicon.svg` and the like.
pub async fn asset(_: Arc<App>, request: Request) -> Response<Body> {
    let name = request.uri().path().rsplit('/').next().unwrap_or("");
    let name = if name == "favicon.ico" { "favicon.svg" } else { name };
    match FILES.iter().find(|f| f.name == name) {
        Some(file) => send(file, request.headers()),
        None => plain_error(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_sent_packed_plain_and_not_again() {
        let file = &FILES[1];
        let mut headers = HeaderMap::new();
        let plain = send(file, &headers);
        assert!(plain.headers().get(header::CONTENT_ENCODING).is_none());
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, br"));
        assert_eq!(send(file, &headers).headers()[header::CONTENT_ENCODING], "gzip");
        headers.insert(header::IF_NONE_MATCH, plain.headers()[header::ETAG].clone());
        assert_eq!(send(file, &headers).status(), StatusCode::NOT_MODIFIED);
        assert!(INDEX.contains("<base href=\"/\">"));
    }
}
