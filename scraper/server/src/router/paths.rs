//! What Go's mux and router do around the routes: paths are cleaned, a slash too many or too few and wrong letter cases
//! are redirected, wrong methods get the list of right ones, and HEAD is nothing that GET implies.

use http::{HeaderValue, Method, Response, StatusCode, Uri, header};

use crate::answer::{ApiError, Body, plain, plain_error, redirect_as, respond};

/// The methods of a route, sorted.
pub type Methods = &'static [&'static str];

/// All routes by their full paths.
#[derive(Clone, Debug, Default)]
pub struct Paths {
    routes: Vec<(String, Methods)>,
    /// Where the API begins, without a slash at its end: OPTIONS is known for every path below.
    api: String,
}

/// What becomes of a request before a handler gets it.
pub enum Way {
    /// To the handler.
    On,
    /// To the handler for OPTIONS of API paths that have no route.
    Preflight,
    /// It is answered.
    Answered(Response<Body>),
}

impl Paths {
    pub fn new(api: String) -> Paths {
        Paths { routes: Vec::new(), api }
    }

    pub fn add(&mut self, path: String, methods: Methods) {
        self.routes.push((path, methods));
    }

    /// The methods of the route that a path leads to.
    fn methods(&self, path: &str) -> Option<Methods> {
        self.routes.iter().find(|(pattern, _)| matches(pattern, path)).map(|(_, methods)| *methods)
    }

    fn in_api(&self, path: &str) -> bool {
        path.strip_prefix(&self.api).is_some_and(|rest| rest.starts_with('/'))
    }

    /// A path that is no UTF-8: the name of a label may be bad, everything else is nowhere.
    fn no_text(&self, path: &str, decoded: &[u8]) -> Response<Body> {
        let before = format!("{}/label/", self.api);
        let name = decoded.strip_prefix(before.as_bytes()).and_then(|rest| rest.strip_suffix(b"/values"));
        let Some(name) = name.filter(|_| self.methods(path).is_some()) else {
            return plain_error(StatusCode::NOT_FOUND, "404 page not found");
        };
        let mut quoted = String::from("\"");
        for chunk in name.utf8_chunks() {
            let valid = narthex_model::labels::quote(chunk.valid());
            quoted.push_str(valid.trim_start_matches('"').strip_suffix('"').unwrap_or_default());
            chunk.invalid().iter().for_each(|b| quoted.push_str(&format!("\\x{b:02x}")));
        }
        quoted.push('"');
        respond(&http::HeaderMap::new(), Err(ApiError::bad_data(format!("invalid label name: {quoted}"))))
    }

    /// Decides what becomes of a request.
    pub fn way(&self, method: &Method, uri: &Uri) -> Way {
        let path = uri.path();
        let to = |status, path: &str| {
            let query = uri.query().filter(|q| !q.is_empty()).map(|q| format!("?{q}")).unwrap_or_default();
            Way::Answered(redirect_as(status, &format!("{path}{query}"), method))
        };
        // Go looks at the decoded path.
        let Some(decoded) = decode(path) else {
            return Way::Answered(plain(StatusCode::BAD_REQUEST, "400 Bad Request".to_owned()));
        };
        let slashes = |bytes: &[u8]| bytes.iter().filter(|b| **b == b'/').count();
        if slashes(&decoded) != slashes(path.as_bytes()) {
            return Way::Answered(plain_error(StatusCode::NOT_FOUND, "404 page not found"));
        }
        if std::str::from_utf8(&decoded).is_err() {
            return Way::Answered(self.no_text(path, &decoded));
        }
        if let Some(cleaned) = clean(path) {
            return to(StatusCode::TEMPORARY_REDIRECT, &cleaned);
        }
        if path == self.api {
            return to(StatusCode::TEMPORARY_REDIRECT, &format!("{path}/"));
        }
        let in_api = self.in_api(path);
        let known = self.methods(path);
        if in_api && method == Method::OPTIONS {
            return if known.is_some() { Way::On } else { Way::Preflight };
        }
        if let Some(methods) = known
            && methods.contains(&method.as_str())
        {
            return Way::On;
        }
        if let Some(methods) = known {
            return Way::Answered(other_method(method, methods, in_api));
        }
        let takes = |path: &str| self.methods(path).is_some_and(|m| m.contains(&method.as_str()));
        let slash = match path.strip_suffix('/') {
            Some(without) => without.to_owned(),
            None => format!("{path}/"),
        };
        let moved = if method == Method::GET { StatusCode::MOVED_PERMANENTLY } else { StatusCode::TEMPORARY_REDIRECT };
        for other in [slash.clone(), path.to_ascii_lowercase(), slash.to_ascii_lowercase()] {
            if other != path && takes(&other) {
                // Prometheus's router of the API does not know where it is.
                return to(moved, if in_api { other.strip_prefix(&self.api).unwrap_or(&other) } else { &other });
            }
        }
        Way::Answered(plain_error(StatusCode::NOT_FOUND, "404 page not found"))
    }
}

/// The URI with what needs no escape in its path not escaped; none where that changes nothing.
pub fn unescaped(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    if !path.contains('%') {
        return None;
    }
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let plain = rest.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok()).map(char::from);
        match plain.filter(|c| c.is_ascii_alphanumeric() || "-_.~".contains(*c)) {
            Some(c) => {
                out.push(c);
                rest = &rest[at + 3..];
            }
            None => {
                out.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    if out == path {
        return None;
    }
    let mut parts = uri.clone().into_parts();
    let query = uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    parts.path_and_query = format!("{out}{query}").parse().ok();
    Uri::from_parts(parts).ok()
}

/// The bytes of a path; none where a percent sign stands alone.
pub(crate) fn decode(path: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            b => b,
        });
    }
    Some(out)
}

/// A method that the route does not have.
fn other_method(method: &Method, methods: Methods, in_api: bool) -> Response<Body> {
    let mut all: Vec<&str> = methods.to_vec();
    all.push("OPTIONS");
    all.sort_unstable();
    let mut response = if method == Method::OPTIONS && !in_api {
        Response::new(Body::empty())
    } else {
        plain_error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
    };
    if let Ok(value) = HeaderValue::from_str(&all.join(", ")) {
        response.headers_mut().insert(header::ALLOW, value);
    }
    response
}

/// Whether a path fits a pattern: `{name}` stands for one part that is not empty, `{*name}` for all that follows.
fn matches(pattern: &str, path: &str) -> bool {
    let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return true,
            (Some(p), Some(_)) if p.starts_with("{*") => return true,
            (Some(p), Some(part)) if p.starts_with('{') && !part.is_empty() => {}
            (Some(p), Some(part)) if p == part => {}
            _ => return false,
        }
    }
}

/// A path without empty parts, `.` and `..`; none where it has none of them.
pub(crate) fn clean(path: &str) -> Option<String> {
    let dirty = path.contains("//") || path.split('/').any(|part| matches!(part, "." | ".."));
    if !dirty {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let mut cleaned = format!("/{}", parts.join("/"));
    if cleaned.len() > 1 && (path.ends_with('/') || path.ends_with("/.") || path.ends_with("/..")) {
        cleaned.push('/');
    }
    Some(cleaned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_that_nobody_needs_are_no_part_of_a_path() {
        for (given, expected) in [
            ("/%66ederate?a=%62", Some("/federate?a=%62")),
            ("/api/%2e%2e/x", Some("/api/../x")),
            ("/a%2fb", None),
            ("/a%", None),
            ("/%c3%a4", None),
            ("/a%c3%a4%41%", Some("/a%c3%a4A%")),
        ] {
            let got = unescaped(&given.parse().unwrap()).map(|uri| uri.to_string());
            assert_eq!(got.as_deref(), expected, "{given}");
        }
    }

    #[test]
    fn requests_go_the_way_that_go_leads_them() {
        let mut paths = Paths::new("/p/api/v1".into());
        paths.add("/p/api/v1/query".into(), &["GET", "POST"]);
        paths.add("/p/api/v1/label/{name}/values".into(), &["GET"]);
        paths.add("/p/consoles/{*filepath}".into(), &["GET"]);
        paths.add("/p/metrics".into(), &["GET"]);
        for (line, expected) in [
            ("GET /p/api/v1/query?a=b", "on"),
            ("HEAD /p/api/v1/query", "405 GET, OPTIONS, POST"),
            ("OPTIONS /p/api/v1/query", "on"),
            ("OPTIONS /p/api/v1/nope", "preflight"),
            ("OPTIONS /p/api/v1/", "preflight"),
            ("OPTIONS /p/api/v1", "307 /p/api/v1/"),
            ("OPTIONS /p/metrics", "200 GET, OPTIONS"),
            ("GET /p/api/v1/label/a/values", "on"),
            ("GET /p/api/v1/label//values", "307 /p/api/v1/label/values"),
            ("GET /p/api/v1/label/values", "404 "),
            ("GET /p/api/v1/label/%C3%A4/values", "on"),
            ("GET /p/api/v1/label/%ff/values", "400 "),
            ("GET /p/api/v1/label/a%2Fb/values", "404 "),
            ("GET /p/api/v1/label/%zz/values", "400 "),
            ("GET /p/%ff", "404 "),
            ("GET //", "307 /"),
            ("GET /p/x/../metrics?q", "307 /p/metrics?q"),
            ("GET /p/api/v1/query/?q", "301 /query?q"),
            ("GET /p/api/v1?", "307 /p/api/v1/"),
            ("GET /p/metrics/?q", "301 /p/metrics?q"),
            ("POST /p/api/v1/query/", "307 /query"),
            ("GET /p/api/v1/Query", "301 /query"),
            ("GET /p/consoles", "301 /p/consoles/"),
            ("GET /p/consoles/a/b", "on"),
            ("GET /p/metric", "404 "),
            ("PUT /p/metrics/", "404 "),
        ] {
            let (method, uri) = line.split_once(' ').unwrap();
            let got = match paths.way(&method.parse().unwrap(), &uri.parse().unwrap()) {
                Way::On => "on".to_owned(),
                Way::Preflight => "preflight".to_owned(),
                Way::Answered(r) => {
                    let text = |name| r.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or("");
                    format!("{} {}{}", r.status().as_u16(), text(header::LOCATION), text(header::ALLOW))
                }
            };
            assert_eq!(got, expected, "{line}");
        }
    }
}
