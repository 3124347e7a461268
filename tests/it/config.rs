//! Configuration files beside a real Prometheus: both load each, and either both refuse it or both show the same.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::net;
use crate::process::{Server, prometheus, start_narthex, start_prometheus};

/// Each after a line `=== name`; the line's end before the next one is not part of it.
const CASES: &[u8] = include_bytes!("testdata/config_cases.txt");

/// What is known to differ (ARCHITECTURE.md, "What is known to be missing").
const KNOWN: &[(&str, &str)] = &[
    ("job/71", "a failure log that cannot be opened is logged"),
    ("job/92", "a label without a value is none"),
    ("http/67", "an empty http_headers is not printed"),
    ("top/2", "null as the whole file is an empty one"),
    ("top/19", "patterns of rule files are not looked at"),
    ("sd-http/12", "passwords in URLs of discovery are hidden"),
    ("rw/34", "azuread is not supported, and refused by name"),
    ("storage/5", "the retention that holds is printed"),
    ("storage/7", "the retention that holds is printed"),
    ("tracing/8", "a sampling fraction below 0 is none"),
];

fn cases() -> Vec<(String, Vec<u8>)> {
    let mut cases: Vec<(String, Vec<u8>)> = Vec::new();
    for line in CASES.split_inclusive(|b| *b == b'\n') {
        match (line.strip_prefix(b"=== "), cases.last_mut()) {
            (Some(name), _) => cases.push((String::from_utf8_lossy(name).trim_end().to_owned(), Vec::new())),
            (None, Some((_, text))) => text.extend_from_slice(line),
            (None, None) => {}
        }
    }
    for (_, text) in &mut cases {
        text.pop();
    }
    cases
}

/// What is shown of a configuration, or that it is refused, and why.
fn verdict(server: &Server) -> Result<Result<String, String>> {
    let answer = net::post(server.address, "/-/reload", "")?;
    match answer.status {
        200 => {
            let shown = server.json("/api/v1/status/config")?;
            Ok(Ok(shown["data"]["yaml"].as_str().context("no yaml")?.to_owned()))
        }
        500 => Ok(Err(answer.text())),
        other => anyhow::bail!("a reload is answered {other}: {}", answer.text()),
    }
}

#[test]
fn taken_refused_and_shown_as_by_prometheus() -> Result<()> {
    let Some(binary) = prometheus() else {
        println!("skipped: no Prometheus to compare with");
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("prometheus.yml");
    std::fs::write(&file, "global: {scrape_interval: 1h}\n")?;
    let config = format!("--config.file={}", file.display());
    let flags = [config.as_str(), "--web.enable-lifecycle"];
    let ours = start_narthex(folder.path(), net::free_port()?, &flags)?;
    let theirs = start_prometheus(&binary, folder.path(), net::free_port()?, &flags)?;
    let cases = cases();
    let known: BTreeMap<&str, &str> = KNOWN.iter().copied().collect();
    let (mut taken, mut differing) = (0, Vec::new());
    for (name, text) in &cases {
        std::fs::write(&file, text)?;
        let ours = verdict(&ours).with_context(|| format!("narthex with {name}"))?;
        let theirs = verdict(&theirs).with_context(|| format!("Prometheus with {name}"))?;
        taken += usize::from(theirs.is_ok());
        let same = match (&ours, &theirs) {
            (Ok(a), Ok(b)) => a == b,
            (a, b) => a.is_err() && b.is_err(),
        };
        match (same, known.get(name.as_str())) {
            (true, None) | (false, Some(_)) => {}
            (true, Some(why)) => differing.push(format!("{name} does not differ any more ({why})")),
            (false, None) => {
                let text = String::from_utf8_lossy(text);
                differing.push(format!("{name}: {text:?}\n  narthex    {ours:?}\n  prometheus {theirs:?}"));
            }
        }
    }
    println!("{} configurations, {taken} of them taken", cases.len());
    ensure!(cases.len() > 600 && taken > 300, "too few cases were compared");
    ensure!(differing.is_empty(), "{}", differing.join("\n"));
    Ok(())
}
