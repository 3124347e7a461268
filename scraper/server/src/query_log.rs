//! The query log: one line of JSON per query, as Prometheus writes it to `query_log_file`.
//!
//! Lines go through a bounded queue to a thread that writes them, so that a slow disk delays no query; what does not
//! fit is counted and lost. Each time the configuration is applied the file is opened anew, as log rotation needs.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};

use narthex_promql::engine::QueryStats;
use narthex_runtime::Registry;
use narthex_runtime::metrics::{Counter, Gauge};
use parking_lot::Mutex;

use crate::json;

/// Lines that may wait for the disk.
const QUEUE: usize = 1024;

/// A query that was evaluated.
#[derive(Clone, Copy, Debug)]
pub struct Logged<'a> {
    pub query: &'a str,
    /// Milliseconds since the epoch.
    pub start: i64,
    pub end: i64,
    /// Milliseconds, 0 for an instant query.
    pub step: i64,
    pub error: Option<&'a str>,
    pub stats: &'a QueryStats,
    /// Trace and span in hex, where there is a trace.
    pub trace: Option<&'a (String, String)>,
    /// Who asked, and how.
    pub client: &'a str,
    pub method: &'a str,
    pub path: &'a str,
}

/// Where lines go, if anywhere.
pub struct QueryLog {
    lines: Mutex<Option<SyncSender<Vec<u8>>>>,
    enabled: Gauge,
    failures: Counter,
}

impl QueryLog {
    pub fn new(r: &Registry) -> QueryLog {
        QueryLog {
            lines: Mutex::new(None),
            enabled: r.gauge("prometheus_engine_query_log_enabled", "State of the query log."),
            failures: r.counter("prometheus_engine_query_log_failures_total", "The number of query log failures."),
        }
    }

    /// Writes to this file from now on, or no more. Opens it even if it is the one from before.
    ///
    /// # Errors
    /// When it cannot be opened or no thread started: the log then goes where it went.
    pub fn apply(&self, file: Option<&Path>) -> std::io::Result<()> {
        let Some(path) = file.filter(|p| !p.as_os_str().is_empty()) else {
            *self.lines.lock() = None;
            self.enabled.set(0.0);
            return Ok(());
        };
        let mut file = OpenOptions::new().append(true).create(true).open(path)?;
        let (sender, lines) = sync_channel::<Vec<u8>>(QUEUE);
        let failures = self.failures.clone();
        std::thread::Builder::new().name("query-log".into()).spawn(move || {
            for line in lines {
                if file.write_all(&line).is_err() {
                    failures.inc();
                }
            }
        })?;
        *self.lines.lock() = Some(sender);
        self.enabled.set(1.0);
        Ok(())
    }

    /// Whether queries are logged at all.
    pub fn is_enabled(&self) -> bool {
        self.lines.lock().is_some()
    }

    pub fn log(&self, query: &Logged<'_>) {
        let Some(lines) = self.lines.lock().clone() else { return };
        if lines.try_send(line(&jiff::Timestamp::now().to_string(), query)).is_err() {
            self.failures.inc();
        }
    }
}

/// RFC 3339 with milliseconds.
fn date(ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    format!("{time:.3}")
}

fn line(now: &str, q: &Logged<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512 + q.query.len());
    let field = |out: &mut Vec<u8>, before: &str, text: &str| {
        out.extend_from_slice(before.as_bytes());
        json::string(out, text);
    };
    field(&mut out, "{\"time\":", now);
    out.extend_from_slice(b",\"level\":\"INFO\",\"source\":\"query_log.rs\",\"msg\":\"promql query logged\"");
    field(&mut out, ",\"params\":{\"end\":", &date(q.end));
    field(&mut out, ",\"query\":", q.query);
    field(&mut out, ",\"start\":", &date(q.start));
    out.extend_from_slice(b",\"step\":");
    json::integer(&mut out, q.step / 1000);
    out.push(b'}');
    if let Some(error) = q.error {
        field(&mut out, ",\"error\":", error);
    }
    out.extend_from_slice(b",\"stats\":");
    out.extend_from_slice(&crate::engine::stats_json(q.stats));
    if let Some((trace, span)) = q.trace {
        field(&mut out, ",\"spanID\":", span);
        field(&mut out, ",\"traceID\":", trace);
    }
    field(&mut out, ",\"httpRequest\":{\"clientIP\":", q.client);
    field(&mut out, ",\"method\":", q.method);
    field(&mut out, ",\"path\":", q.path);
    out.extend_from_slice(b"}}\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged<'a>(stats: &'a QueryStats, error: Option<&'a str>) -> Logged<'a> {
        Logged {
            query: "sum(\"a\\\n\")",
            start: 1_795_394_000_000,
            end: 1_795_394_887_250,
            step: 15_000,
            error,
            stats,
            trace: None,
            client: "127.0.0.1",
            method: "GET",
            path: "/api/v1/query_range",
        }
    }

    #[test]
    fn lines_are_those_of_prometheus() {
        let mut stats = QueryStats::default();
        stats.samples.peak = 5;
        let text = String::from_utf8(line("2026-11-23T01:15:59.686264511Z", &logged(&stats, None))).unwrap();
        let expected = concat!(
            r#"{"time":"2026-11-23T01:15:59.686264511Z","level":"INFO","source":"query_log.rs","msg":"promql query logged","#,
            r#""params":{"end":"2026-11-23T00:48:07.250Z","query":"sum(\"a\\\n\")","start":"2026-11-23T00:33:20.000Z","step":15},"#,
            r#""stats":{"timings":{"evalTotalTime":0,"resultSortTime":0,"queryPreparationTime":0,"innerEvalTime":0,"#,
            r#""execQueueTime":0,"execTotalTime":0},"samples":{"totalQueryableSamples":0,"samplesRead":0,"peakSamples":5}},"#,
            r#""httpRequest":{"clientIP":"127.0.0.1","method":"GET","path":"/api/v1/query_range"}}"#,
            "\n"
        );
        assert_eq!(text, expected);
        let trace = ("aa".to_owned(), "bb".to_owned());
        let full = Logged { trace: Some(&trace), ..logged(&stats, Some("too bad")) };
        let json: serde_json::Value = serde_json::from_slice(&line("now", &full)).unwrap();
        assert_eq!(
            (&json["error"], &json["traceID"], &json["spanID"]),
            (&"too bad".into(), &"aa".into(), &"bb".into())
        );
    }

    #[test]
    fn files_are_opened_anew_and_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("query.log");
        let log = QueryLog::new(&Registry::new());
        let stats = QueryStats::default();
        log.log(&logged(&stats, None));
        assert!(!log.is_enabled() && !path.exists());
        let count = |path: &Path, expected: usize| {
            for _ in 0..1000 {
                if std::fs::read_to_string(path).unwrap_or_default().lines().count() == expected {
                    return true;
                }
                std::thread::yield_now();
            }
            false
        };
        let waited = |path: &Path, expected: usize| (0..1000).any(|_| count(path, expected));
        log.apply(Some(&path)).unwrap();
        log.log(&logged(&stats, None));
        assert!(waited(&path, 1));
        let moved = folder.path().join("query.log.1");
        std::fs::rename(&path, &moved).unwrap();
        log.apply(Some(&path)).unwrap();
        log.log(&logged(&stats, None));
        log.log(&logged(&stats, None));
        assert!(waited(&path, 2) && waited(&moved, 1));
        assert!(log.apply(Some(&folder.path().join("no/such/folder"))).is_err());
        assert!(log.is_enabled(), "the log from before stays");
        log.apply(None).unwrap();
        assert!(!log.is_enabled());
    }
}
