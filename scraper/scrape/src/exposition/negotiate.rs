//! What a scrape asks for, and what it makes of the Content-Type that comes back.

use narthex_config::{EscapingScheme, ScrapeProtocol};

use super::quote_bytes;

/// The formats that a page can be read in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    Text,
    OpenMetrics,
    Protobuf,
}

impl Format {
    /// The media type without parameters.
    pub fn media_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain",
            Format::OpenMetrics => "application/openmetrics-text",
            Format::Protobuf => "application/vnd.google.protobuf",
        }
    }
}

/// The format that a protocol of the configuration comes in.
pub fn protocol_format(protocol: ScrapeProtocol) -> Format {
    match protocol {
        ScrapeProtocol::PrometheusProto => Format::Protobuf,
        ScrapeProtocol::PrometheusText0_0_4 | ScrapeProtocol::PrometheusText1_0_0 => Format::Text,
        ScrapeProtocol::OpenMetricsText0_0_1 | ScrapeProtocol::OpenMetricsText1_0_0 => Format::OpenMetrics,
    }
}

/// The Accept header that Prometheus sends for these protocols, most wanted first.
pub fn accept_header(protocols: &[ScrapeProtocol], escaping: EscapingScheme) -> String {
    let mut weight = 6usize;
    let mut out = String::new();
    for protocol in protocols {
        out.push_str(protocol.header());
        if matches!(protocol, ScrapeProtocol::PrometheusText1_0_0 | ScrapeProtocol::OpenMetricsText1_0_0) {
            out.push_str(";escaping=");
            out.push_str(escaping.as_str());
        }
        out.push_str(&format!(";q=0.{weight},"));
        weight = weight.saturating_sub(1);
    }
    out.push_str(&format!("*/*;q=0.{weight}"));
    out
}

/// A Content-Type that no format follows from and no fallback is set for, in Prometheus's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ContentTypeError(pub String);

/// The format of a page by its Content-Type, or `fallback` where that says nothing known.
///
/// # Errors
/// Nothing known, and no fallback.
pub fn media_type_format(content_type: &str, fallback: Option<Format>) -> Result<Format, ContentTypeError> {
    if content_type.is_empty() {
        return fallback.ok_or_else(|| {
            ContentTypeError(
                "non-compliant scrape target sending blank Content-Type and no fallback_scrape_protocol specified for \
                 target"
                    .into(),
            )
        });
    }
    let quoted = || quote_bytes(content_type.as_bytes());
    match media_type(content_type) {
        Ok(media_type) => [Format::Text, Format::OpenMetrics, Format::Protobuf]
            .into_iter()
            .find(|f| f.media_type() == media_type)
            .or(fallback)
            .ok_or_else(|| {
                ContentTypeError(format!(
                    "received unsupported Content-Type {} and no fallback_scrape_protocol specified for target",
                    quoted()
                ))
            }),
        Err(reason) => fallback.ok_or_else(|| {
            ContentTypeError(format!(
                "cannot parse Content-Type {} and no fallback_scrape_protocol for target\n{reason}",
                quoted()
            ))
        }),
    }
}

fn is_token_byte(b: u8) -> bool {
    b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&b)
}

fn token(text: &str) -> (&str, &str) {
    let end = text.bytes().position(|b| !is_token_byte(b)).unwrap_or(text.len());
    text.split_at(end)
}

/// The media type in lower case, as Go's `mime.ParseMediaType` reads it: parameters must be well-formed.
fn media_type(text: &str) -> Result<String, &'static str> {
    let (base, mut rest) = text.split_at(text.find(';').unwrap_or(text.len()));
    let media_type = base.to_lowercase().trim().to_owned();
    let (first, after) = token(&media_type);
    if first.is_empty() {
        return Err("mime: no media type");
    }
    if !after.is_empty() {
        let Some(after) = after.strip_prefix('/') else { return Err("mime: expected slash after first token") };
        let (second, after) = token(after);
        if second.is_empty() {
            return Err("mime: expected token after slash");
        }
        if !after.is_empty() {
            return Err("mime: unexpected content after media subtype");
        }
    }
    let mut seen: Vec<(String, String)> = Vec::new();
    loop {
        rest = rest.trim_start();
        if rest.is_empty() || rest.trim() == ";" {
            return Ok(media_type);
        }
        let (name, value, after) = parameter(rest).ok_or("mime: invalid media parameter")?;
        if seen.iter().any(|(n, v)| *n == name && *v != value) {
            return Err("mime: duplicate parameter name");
        }
        seen.push((name, value));
        rest = after;
    }
}

/// `; name=value` or `; name="value"`, and what follows.
fn parameter(text: &str) -> Option<(String, String, &str)> {
    let (name, rest) = token(text.strip_prefix(';')?.trim_start());
    let rest = rest.trim_start().strip_prefix('=')?.trim_start();
    let (value, rest) = match rest.strip_prefix('"') {
        None => {
            let (value, rest) = token(rest);
            if value.is_empty() {
                return None;
            }
            (value.to_owned(), rest)
        }
        Some(quoted) => {
            let mut value = String::new();
            let mut chars = quoted.char_indices();
            loop {
                match chars.next()? {
                    (i, '"') => break (value, &quoted[i + 1..]),
                    (_, '\r' | '\n') => return None,
                    (_, '\\') => value.push(chars.next()?.1),
                    (_, c) => value.push(c),
                }
            }
        }
    };
    (!name.is_empty()).then(|| (name.to_lowercase(), value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_as_prometheus_sends() {
        assert_eq!(
            accept_header(&ScrapeProtocol::DEFAULT, EscapingScheme::AllowUtf8),
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
             text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
        );
        assert_eq!(
            accept_header(&[ScrapeProtocol::PrometheusProto], EscapingScheme::Values),
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,*/*;q=0.5"
        );
    }

    #[test]
    fn formats_by_content_type() {
        use Format::*;
        for (content_type, fallback, expected) in [
            ("text/plain; version=0.0.4; charset=utf-8", None, Ok(Text)),
            ("TEXT/Plain", None, Ok(Text)),
            ("text/plain;", None, Ok(Text)),
            ("application/openmetrics-text; version=1.0.0; charset=\"utf-8\"", None, Ok(OpenMetrics)),
            ("application/vnd.google.protobuf; proto=x; encoding=delimited", None, Ok(Protobuf)),
            ("", None, Err("non-compliant scrape target sending blank Content-Type and no fallback")),
            ("", Some(Text), Ok(Text)),
            ("text/html", None, Err("received unsupported Content-Type \"text/html\" and no fallback")),
            ("text/html", Some(OpenMetrics), Ok(OpenMetrics)),
            ("text/plain", Some(OpenMetrics), Ok(Text)),
            ("text/plain; version", None, Err("mime: invalid media parameter")),
            ("text/plain; a=1; a=2", None, Err("mime: duplicate parameter name")),
            ("text plain", None, Err("mime: expected slash after first token")),
            ("text/", None, Err("mime: expected token after slash")),
            ("text/plain x", None, Err("mime: unexpected content after media subtype")),
            (";", None, Err("mime: no media type")),
        ] {
            let got = media_type_format(content_type, fallback);
            match expected {
                Ok(format) => assert_eq!(got, Ok(format), "{content_type}"),
                Err(text) => assert!(got.clone().is_err_and(|e| e.0.contains(text)), "{content_type}: {got:?}"),
            }
        }
    }
}
