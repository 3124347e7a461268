//! Logs to standard error, one line per event, as logfmt or JSON.
//!
//! Keys and order are those that Prometheus's logger writes: `time`, `level`, `source`, `msg`, then the event's fields
//! in the order in which they were given. Fields of the spans around an event are left out: the trace has them.

use std::fmt::Write as _;
use std::str::FromStr;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Logfmt,
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(s: &str) -> Result<Format, String> {
        match s {
            "logfmt" | "text" => Ok(Format::Logfmt),
            "json" => Ok(Format::Json),
            _ => Err(format!("unrecognized log format {s}: must be one of logfmt, json")),
        }
    }
}

/// The level of that name: debug, info, warn or error.
///
/// # Errors
/// For any other name, in words for the command line.
pub fn parse_level(s: &str) -> Result<Level, String> {
    match s {
        "debug" => Ok(Level::DEBUG),
        "info" => Ok(Level::INFO),
        "warn" => Ok(Level::WARN),
        "error" => Ok(Level::ERROR),
        _ => Err(format!("unrecognized log level {s}: must be one of debug, info, warn, error")),
    }
}

/// The event formatter behind [`crate::trace::init`].
#[derive(Clone, Copy, Debug)]
pub struct Lines(pub Format);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> std::fmt::Result {
        let mut line = Line { format: self.0, text: String::with_capacity(160), message: String::new() };
        event.record(&mut line);
        let meta = event.metadata();
        let now = timestamp(std::time::SystemTime::now());
        let mut head = Line { format: self.0, text: String::with_capacity(80), message: String::new() };
        head.pair("time", &now);
        head.pair("level", meta.level().as_str());
        match (meta.file(), meta.line()) {
            (Some(file), Some(at)) => head.pair("source", &format!("{}:{at}", file.rsplit('/').next().unwrap_or(file))),
            _ => head.pair("source", meta.target()),
        }
        head.pair("msg", &line.message);
        match self.0 {
            Format::Logfmt => writeln!(out, "{}{}", head.text, line.text),
            Format::Json => writeln!(out, "{{{}{}}}", head.text, line.text),
        }
    }
}

struct Line {
    format: Format,
    text: String,
    message: String,
}

impl Line {
    fn key(&mut self, key: &str) {
        match self.format {
            Format::Logfmt => {
                self.text.push_str(if self.text.is_empty() && key == "time" { "" } else { " " });
                self.text.push_str(key);
                self.text.push('=');
            }
            Format::Json => {
                self.text.push_str(if self.text.is_empty() && key == "time" { "" } else { "," });
                quote(&mut self.text, key);
                self.text.push(':');
            }
        }
    }

    fn pair(&mut self, key: &str, value: &str) {
        self.key(key);
        let bare = !value.is_empty() && !value.bytes().any(|b| b <= b' ' || matches!(b, b'"' | b'=' | 0x7f));
        if self.format == Format::Logfmt && bare {
            self.text.push_str(value);
        } else {
            quote(&mut self.text, value);
        }
    }

    fn bare(&mut self, key: &str, value: std::fmt::Arguments<'_>) {
        self.key(key);
        let _ = self.text.write_fmt(value);
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            self.pair(field.name().trim_start_matches("r#"), &format!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.pair(field.name().trim_start_matches("r#"), value);
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.bare(field.name(), format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.bare(field.name(), format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.bare(field.name(), format_args!("{value}"));
    }
}

fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// `2026-11-22T21:50:33.123Z`.
pub fn timestamp(at: std::time::SystemTime) -> String {
    format!("{:.3}", jiff::Timestamp::try_from(at).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::layer::SubscriberExt;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Sink {
        fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(buf);
            Ok(buf.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn line(format: Format, emit: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let layer = tracing_subscriber::fmt::layer().event_format(Lines(format)).with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), emit);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn logfmt_quotes_what_needs_it() {
        let got = line(Format::Logfmt, || tracing::info!(file = "a b", n = 3, plain = "x", "reading it"));
        assert!(got.starts_with("time=2") && got.ends_with(" msg=\"reading it\" file=\"a b\" n=3 plain=x\n"), "{got}");
        assert!(got.contains(" level=INFO source=log.rs:"), "{got}");
    }

    #[test]
    fn json_is_json() {
        let got = line(Format::Json, || tracing::warn!(err = %"say \"no\"\n", ok = true, "m"));
        assert!(
            got.starts_with("{\"time\":\"2")
                && got.ends_with(",\"msg\":\"m\",\"err\":\"say \\\"no\\\"\\n\",\"ok\":true}\n"),
            "{got}"
        );
    }

    #[test]
    fn dates() {
        for (secs, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_795_384_233, "2026-11-22T21:50:33.000Z"),
        ] {
            assert_eq!(timestamp(std::time::UNIX_EPOCH + std::time::Duration::from_secs(secs)), expected);
        }
    }
}
