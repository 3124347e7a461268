//! `scrape_failure_log_file`: one JSON line per failed scrape.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use parking_lot::Mutex;

/// An open failure log. Several jobs may share a file.
#[derive(Debug)]
pub(crate) struct FailureLog {
    file: Mutex<File>,
}

impl FailureLog {
    /// # Errors
    /// When the file cannot be opened for appending.
    pub fn open(path: &Path) -> std::io::Result<FailureLog> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(FailureLog { file: Mutex::new(file) })
    }

    /// Appends a line; a full disk loses it silently, as there is nowhere else to say so for each scrape.
    pub fn write(&self, job: &str, url: &str, error: &str) {
        let entry = serde_json::json!({
            "time": narthex_runtime::log::timestamp(SystemTime::now()),
            "level": "ERROR",
            "msg": error,
            "job_name": job,
            "target": url,
        });
        let _ = self.file.lock().write_all(format!("{entry}\n").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_json() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.json");
        let log = FailureLog::open(&path).unwrap();
        log.write("j", "http://x/metrics", "a \"bad\"\nthing");
        log.write("j", "http://y/metrics", "b");
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(
            (lines.len(), &lines[0]["msg"], &lines[1]["target"]),
            (2, &"a \"bad\"\nthing".into(), &"http://y/metrics".into())
        );
    }
}
