//! Limits of questions hold whatever is asked: a server with very many series, and questions that would hold all of them
//! in memory, once with a limit of bytes or series and once without.

use anyhow::{Context, Result, ensure};

use crate::net::{self, encode};
use crate::process::{Server, start_narthex};
use crate::wire::{labels, now, pb, push};

const SERIES: usize = 120_000;
/// Bytes that a question with a limit may hold.
const LIMIT: u64 = 4 << 20;

/// Megabytes: resident now, and at most since the last call.
fn memory(server: &Server) -> Result<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()))?;
    let of = |name: &str| -> Result<u64> {
        let line = status.lines().find(|l| l.starts_with(name)).context("no such line")?;
        Ok(line.split_whitespace().nth(1).context("no number")?.parse::<u64>()? >> 10)
    };
    let found = (of("VmRSS:")?, of("VmHWM:")?);
    std::fs::write(format!("/proc/{}/clear_refs", server.pid()), "5")?;
    Ok(found)
}

fn fill(server: &Server) -> Result<()> {
    let (pad, time) = ("x".repeat(150), pb::number(2, now() as u64 * 1000));
    for part in 0..SERIES / 10_000 {
        let request: Vec<u8> = (0..10_000)
            .flat_map(|i| {
                let id = format!("{:06}{pad}", part * 10_000 + i);
                let sample = pb::message(2, &[pb::double(1, i as f64), time.clone()]);
                pb::message(1, &[labels(&[("__name__", "m"), ("id", &id)]), sample])
            })
            .collect();
        push(server, &request)?;
    }
    Ok(())
}

/// A remote read of everything, packed.
fn read_all() -> Result<Vec<u8>> {
    let matcher = pb::message(3, &[pb::number(1, 0), pb::bytes(2, b"__name__"), pb::bytes(3, b"m")]);
    let end = now() as u64 * 1000;
    let query = pb::message(1, &[pb::number(1, end - 600_000), pb::number(2, end + 60_000), matcher]);
    Ok(snap::raw::Encoder::new().compress_vec(&query)?)
}

#[test]
fn no_question_holds_more_than_it_may() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("prometheus.yml");
    std::fs::write(&file, "global: {scrape_interval: 1h}\n")?;
    let config = format!("--config.file={}", file.display());
    let class = format!("--query.class=dashboard:max-bytes={LIMIT}B");
    let rules = "--query.class=rules:max-series=1000";
    let flags = [&*config, "--web.enable-remote-write-receiver", &class, rules, "--query.trust-class"];
    let server = start_narthex(folder.path(), net::free_port()?, &flags)?;
    fill(&server)?;
    let range = format!("&start={}&end={}&step=1", now() - 20, now());
    let query = |expr: &str| format!("/api/v1/query?query={}", encode(expr));
    let questions = [
        ("GET", query("m")),
        ("GET", query("m[5m]")),
        ("GET", query("m * 2 + m")),
        ("GET", query("count_values(\"v\", label_replace(m, \"x\", \"$1$1\", \"id\", \"(.*)\")) by (x)")),
        ("GET", format!("/api/v1/query_range?query=m{range}")),
        ("GET", format!("/api/v1/query_range?query={}{range}", encode("sum by (id) (rate(m[5m]) or m)"))),
        ("GET", "/api/v1/series?match[]=m".to_owned()),
        ("GET", "/api/v1/label/id/values".to_owned()),
        ("GET", "/api/v1/label/id/values?match[]=m".to_owned()),
        ("GET", "/federate?match[]=m".to_owned()),
        ("POST", "/api/v1/read".to_owned()),
    ];
    let ask = |method: &str, path: &str, class: &str| {
        let headers = [("X-Narthex-Query-Class", class), ("Content-Encoding", "snappy")];
        net::send(server.address, method, path, &headers, &if method == "POST" { read_all()? } else { Vec::new() })
    };
    let (before, _) = memory(&server)?;
    for (method, path) in &questions {
        let answer = ask(method, path, "dashboard")?;
        let text = answer.text();
        ensure!(answer.status == 422, "{path}: {} {}", answer.status, text.get(..300).unwrap_or(&text));
        let said = format!("more than {LIMIT} bytes in memory (--query.class=dashboard:max-bytes)");
        ensure!(text.contains(&said), "{path}: {text}");
    }
    let (_, limited) = memory(&server)?;
    // The answers were refused before they were made.
    ensure!(limited < before + 48, "{before} MB before, at most {limited} MB with limits");
    for (method, path) in questions.iter().filter(|q| !q.1.contains("/label/id/values")) {
        let answer = ask(method, path, "rules")?;
        let text = answer.text();
        let said = "more than 1000 series (--query.class=rules:max-series)";
        ensure!(answer.status == 422 && text.contains(said), "{path}: {} {text:.300}", answer.status);
    }
    // What is small is answered whatever there is.
    for path in [query("count(m{id=~\"0000.*\"})"), "/api/v1/labels".into(), query("m{id=~\"00000.*\"}")] {
        let answer = ask("GET", &path, "dashboard")?;
        ensure!(answer.status == 200, "{path}: {}", answer.text());
    }
    let answer = ask("GET", "/api/v1/series?match[]=m&limit=5", "rules")?;
    ensure!(answer.json()?["data"].as_array().is_some_and(|a| a.len() == 5), "{}", answer.text());
    memory(&server)?;
    for (method, path) in &questions[..2] {
        let answer = ask(method, path, "adhoc")?;
        ensure!(answer.status == 200, "{path}: {} {:.300}", answer.status, answer.text());
    }
    let (_, free) = memory(&server)?;
    ensure!(free > limited + 30, "at most {limited} MB with limits, {free} MB without");
    println!("{before} MB before, at most {limited} MB with limits, {free} MB without");
    let metrics = net::get(server.address, "/metrics")?.text();
    for line in [
        "narthex_query_class_limited_total{class=\"dashboard\",limit=\"memory\"} 11",
        "narthex_query_class_memory_bytes{class=\"adhoc\"} 0",
        "narthex_query_class_memory_bytes{class=\"dashboard\"} 0",
        "narthex_query_class_running{class=\"adhoc\"} 0",
    ] {
        ensure!(metrics.contains(line), "no {line} in\n{metrics}");
    }
    Ok(())
}
