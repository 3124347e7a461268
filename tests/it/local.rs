//! Local mode as somebody uses it: a configuration file, real targets, queries, reload, crashes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};

use crate::net;
use crate::process::{Server, eventually, node_exporter, start_narthex};

fn write_config(folder: &Path, jobs: &str) -> Result<String> {
    let file = folder.join("prometheus.yml");
    std::fs::write(
        &file,
        format!("global: {{scrape_interval: 1s, external_labels: {{zone: eu}}}}\nscrape_configs:\n{jobs}"),
    )?;
    Ok(format!("--config.file={}", file.display()))
}

fn job(name: &str, target: std::net::SocketAddr) -> String {
    format!("- job_name: {name}\n  static_configs:\n  - targets: ['{target}']\n")
}

/// A page whose counter tells how often it was asked for.
fn counting() -> Result<(std::net::SocketAddr, Arc<AtomicU64>)> {
    let served = Arc::new(AtomicU64::new(0));
    let count = served.clone();
    let address = net::exporter(move |_| {
        let n = count.fetch_add(1, Ordering::SeqCst) + 1;
        let mut page = format!("# HELP scrapes_total Pages served.\n# TYPE scrapes_total counter\nscrapes_total {n}\n");
        for i in 0..200 {
            page.push_str(&format!("load{{part=\"{i}\"}} {}\n", (n * (i + 1)) as f64 / 8.0));
        }
        page
    })?;
    Ok((address, served))
}

#[test]
fn scrapes_answers_and_reloads() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (target, _) = counting()?;
    let config = write_config(folder.path(), &job("counting", target))?;
    let server = start_narthex(folder.path(), net::free_port()?, &[&config, "--web.enable-lifecycle"])?;
    let count = |server: &Server, expr: &str| -> Result<usize> { Ok(server.query(expr)?.len()) };
    eventually(20, "200 series", || Ok((count(&server, "load")? == 200).then_some(())))?;
    eventually(20, "up", || Ok(server.query("up == 1")?.first().map(|_| ())))?;
    let targets = server.json("/api/v1/targets")?;
    let first = &targets["data"]["activeTargets"][0];
    ensure!(first["health"] == "up" && first["scrapePool"] == "counting", "{targets}");
    ensure!(first["scrapeInterval"] == "1s" && first["lastError"] == "", "{targets}");
    let metadata = server.json("/api/v1/metadata?metric=scrapes_total")?;
    ensure!(metadata["data"]["scrapes_total"][0]["type"] == "counter", "{metadata}");
    let federated = net::get(server.address, "/federate?match[]=up")?.text();
    ensure!(federated.contains("# TYPE up untyped\nup{") && federated.contains("zone=\"eu\""), "{federated}");
    let rate = server.query("rate(scrapes_total[10s]) > 0")?;
    ensure!(rate.len() <= 1, "{rate:?}");

    // A bad file is refused, and what ran goes on.
    std::fs::write(folder.path().join("prometheus.yml"), "scrape_configs:\n- job_nam: x\n")?;
    let refused = net::post(server.address, "/-/reload", "")?;
    ensure!(refused.status == 500 && refused.text().contains("job_nam"), "{}", refused.text());
    ensure!(server.query("prometheus_config_last_reload_successful")?.is_empty() || count(&server, "load")? == 200);
    let shown = server.json("/api/v1/status/config")?["data"]["yaml"].to_string();
    ensure!(shown.contains("counting"), "{shown}");

    // A second target comes by SIGHUP, the first goes by /-/reload and gets staleness markers.
    let (second, _) = counting()?;
    write_config(folder.path(), &(job("counting", target) + &job("second", second)))?;
    server.signal("HUP")?;
    eventually(20, "two targets", || Ok((count(&server, "up == 1")? == 2).then_some(())))?;
    write_config(folder.path(), &job("second", second))?;
    ensure!(net::post(server.address, "/-/reload", "")?.status == 200);
    eventually(20, "one target", || Ok((count(&server, "up")? == 1).then_some(())))?;
    ensure!(net::post(server.address, "/-/quit", "")?.status == 200);
    server.stop().context("stopping").or_else(|e| if e.to_string().contains("stopping") { Ok(()) } else { Err(e) })
}

/// All samples of one series, newest range first asked: `(time, value)` as the API writes them.
fn samples(server: &Server, series: &str) -> Result<Vec<String>> {
    let answer = server.json(&format!("/api/v1/query?query={}", net::encode(&format!("{series}[1h]"))))?;
    let values = answer["data"]["result"][0]["values"].as_array().cloned().unwrap_or_default();
    Ok(values.iter().map(ToString::to_string).collect())
}

#[test]
fn kill_minus_nine_loses_no_sample_that_was_seen() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (target, _) = counting()?;
    let mut jobs = job("counting", target);
    let mut watched = vec!["scrapes_total"];
    let exporter = start_node_exporter(folder.path())?;
    if let Some(exporter) = &exporter {
        jobs += &job("node", exporter.address);
        watched.push("node_time_seconds");
    }
    let fast = jobs.replace("  static", "  scrape_interval: 200ms\n  scrape_timeout: 200ms\n  static");
    let config = write_config(folder.path(), &fast)?;
    let port = net::free_port()?;
    let mut seen: Vec<Vec<String>> = vec![Vec::new(); watched.len()];
    let seed: u64 = rand::random();
    println!("seed {seed}");
    for round in 0..4u64 {
        let server = start_narthex(folder.path(), port, &[&config])?;
        for (series, seen) in watched.iter().zip(&seen) {
            let back = samples(&server, series)?;
            ensure!(
                back.starts_with(seen),
                "round {round}: {series}: of {} samples {} came back",
                seen.len(),
                back.len()
            );
        }
        let wait = 1_000 + (seed.rotate_left(round as u32 * 8) % 1_500);
        std::thread::sleep(std::time::Duration::from_millis(wait));
        // What a query has shown a moment before the sync interval may be lost to a power cut, never to a kill:
        // leave the newest out, whose record may be on its way to the log.
        for (series, seen) in watched.iter().zip(&mut seen) {
            *seen = samples(&server, series)?;
            seen.pop();
        }
        server.kill()?;
    }
    let server = start_narthex(folder.path(), port, &[&config])?;
    for (series, seen) in watched.iter().zip(&seen) {
        ensure!(seen.len() > 8, "only {} samples of {series} in four rounds", seen.len());
        ensure!(samples(&server, series)?.starts_with(seen), "{series}");
    }
    server.stop()
}

/// A real node_exporter, if one is installed.
fn start_node_exporter(folder: &Path) -> Result<Option<Server>> {
    let Some(binary) = node_exporter() else {
        println!("skipped: no prometheus-node-exporter installed");
        return Ok(None);
    };
    let port = net::free_port()?;
    let args = [format!("--web.listen-address=127.0.0.1:{port}")];
    Server::start(&binary, &args, port, &folder.join("exporter.log"), "/metrics").map(Some)
}

#[test]
fn a_real_node_exporter() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let Some(exporter) = start_node_exporter(folder.path())? else { return Ok(()) };
    let config = write_config(folder.path(), &job("node", exporter.address))?;
    let server = start_narthex(folder.path(), net::free_port()?, &[&config])?;
    eventually(30, "cpu series", || Ok((!server.query("node_cpu_seconds_total")?.is_empty()).then_some(())))?;
    eventually(30, "a rate", || {
        let busy = server.query("sum by (mode) (rate(node_cpu_seconds_total[30s]))")?;
        Ok((busy.len() >= 6).then_some(()))
    })?;
    let series = server.json("/api/v1/series?match[]=node_memory_MemTotal_bytes")?;
    ensure!(series["data"][0]["job"] == "node", "{series}");
    server.stop()
}

#[test]
fn while_the_store_opens_the_server_is_healthy_and_not_ready() -> Result<()> {
    use std::io::Write;
    let folder = tempfile::tempdir()?;
    let (target, served) = counting()?;
    let config = write_config(folder.path(), &job("counting", target))?;
    let server = start_narthex(folder.path(), net::free_port()?, &[&config])?;
    eventually(20, "200 series", || Ok((server.query("load")?.len() == 200).then_some(())))?;
    server.stop()?;
    // Whoever opens the store waits at this pipe until somebody writes into it.
    let current = folder.path().join("data/CURRENT");
    let text = std::fs::read(&current)?;
    let aside = folder.path().join("CURRENT");
    std::fs::copy(&current, &aside)?;
    std::fs::remove_file(&current)?;
    ensure!(std::process::Command::new("mkfifo").arg(&current).status()?.success(), "mkfifo");
    let port = net::free_port()?;
    let args = [
        "server".to_owned(),
        format!("--web.listen-address=127.0.0.1:{port}"),
        format!("--storage.tsdb.path={}", folder.path().join("data").display()),
        config,
    ];
    let log = folder.path().join("narthex.log");
    let server = Server::start(&crate::process::narthex()?, &args, port, &log, "/-/healthy")?;
    let before = served.load(Ordering::SeqCst);
    for _ in 0..3 {
        for (path, status) in
            [("/-/healthy", 200), ("/-/ready", 503), ("/api/v1/query?query=up", 503), ("/metrics", 200)]
        {
            let answer = net::get(server.address, path)?;
            ensure!(answer.status == status, "{path}: {} {}", answer.status, answer.text());
        }
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    ensure!(served.load(Ordering::SeqCst) == before, "nothing is scraped that cannot be stored");
    // Opens when the server does; further looks see the file.
    let mut pipe = std::fs::OpenOptions::new().write(true).open(&current)?;
    std::fs::rename(&aside, &current)?;
    match pipe.write_all(&text) {
        // Who only looked whether it is there does not read.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {}
        written => written?,
    }
    drop(pipe);
    let ready = || Ok((net::get(server.address, "/-/ready")?.status == 200).then_some(()));
    eventually(30, "ready", ready)?;
    ensure!(!server.query("count_over_time(load{part=\"7\"}[1h])")?.is_empty(), "what was there is there");
    server.stop()
}

#[test]
fn a_job_s_budget_refuses_new_series_only() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (target, _) = counting()?;
    let job = |limit: &str| format!("{}  {limit}\n", job("counting", target));
    let config = write_config(folder.path(), &job("job_series_limit: 100"))?;
    let server = start_narthex(folder.path(), net::free_port()?, &[&config])?;
    let count = |expr: &str| -> Result<usize> { Ok(server.query(expr)?.len()) };
    let kept = || Ok(Some(count("load")?).filter(|n| *n > 0));
    let kept = eventually(20, "some series", kept)?;
    // The report series are of the hundred, and would come on top if they had come later.
    ensure!((90..=100).contains(&kept), "{kept}");
    ensure!(count("up == 1")? == 1 && count("scrape_samples_scraped == 201")? == 1);
    let targets = server.json("/api/v1/targets")?;
    let first = &targets["data"]["activeTargets"][0];
    let said = first["lastError"].as_str().unwrap_or_default();
    ensure!(first["health"] == "up" && said.contains("series refused: job counting is at its limit of 100"), "{first}");
    eventually(20, "the label", || {
        let log = server.log_text();
        Ok((log.contains("new series are refused") && log.contains("values of the label")).then_some(()))
    })?;
    write_config(folder.path(), &job("job_series_limit: 1000"))?;
    server.signal("HUP")?;
    eventually(20, "all series", || Ok((count("load")? == 200).then_some(())))?;
    server.stop()
}

#[test]
fn bad_flags_and_files_are_named() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let run = |args: &[&str]| -> Result<(bool, String)> {
        let out = std::process::Command::new(crate::process::narthex()?).args(args).output()?;
        let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        Ok((out.status.success(), text))
    };
    let (ok, text) = run(&["server", "--storage.tsdb.pth=x"])?;
    ensure!(!ok && text.contains("storage.tsdb.path"), "{text}");
    let (ok, text) = run(&["server", "--query.timeout=soon"])?;
    ensure!(!ok && text.contains("query.timeout"), "{text}");
    let file = folder.path().join("bad.yml");
    std::fs::write(&file, "global:\n  scrape_interval: 10s\n  scrape_intervall: 10s\n")?;
    let (ok, text) = run(&["tool", "check", "config", &file.display().to_string()])?;
    ensure!(!ok && text.contains("scrape_intervall") && text.contains("line 3"), "{text}");
    let (ok, text) = run(&["server", &format!("--config.file={}", file.display())])?;
    ensure!(!ok && text.contains("scrape_intervall"), "{text}");
    let (ok, text) = run(&["--version"])?;
    ensure!(ok && text.contains("narthex"), "{text}");
    Ok(())
}

#[test]
fn secrets_are_shown_nowhere() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (target, _) = counting()?;
    let with = |name: &str, settings: &str| job(name, target).replace("  static", &format!("  {settings}\n  static"));
    let jobs = with("basic", "basic_auth: {username: u, password: planted-1}")
        + &with("bearer", "authorization: {credentials: planted-2}")
        + &with("header", "http_headers: {X-Key: {secrets: [planted-3]}}")
        + &with("proxy", "proxy_url: 'http://u:planted-4@127.0.0.1:1'")
        + &with("socks", "proxy_url: 'socks5://u:planted-5@127.0.0.1:1'")
        + &with(
            "connect",
            "proxy_url: 'http://127.0.0.1:1'\n  scheme: https\n  proxy_connect_header: {X-Key: [planted-6]}",
        )
        + &with("token", "oauth2: {client_id: c, client_secret: planted-7, token_url: 'http://127.0.0.1:1/t'}")
        + &with("tls", "tls_config: {key: planted-8, cert: x}")
        + "- job_name: found\n  http_sd_configs:\n  - {url: 'http://127.0.0.1:1/', basic_auth: {username: u, password: planted-9}}\n"
        + "  consul_sd_configs:\n  - {server: '127.0.0.1:1', token: planted-10}\n"
        + "remote_write:\n- {url: 'http://u:planted-11@127.0.0.1:1/', authorization: {credentials: planted-12}}\n"
        + "remote_read:\n- {url: 'http://127.0.0.1:1/', basic_auth: {username: u, password: planted-13}}\n"
        + "alerting: {alertmanagers: [{basic_auth: {username: u, password: planted-14}, static_configs: [{targets: ['127.0.0.1:1']}]}]}\n";
    let config = write_config(folder.path(), &jobs)?;
    let flags = [
        config.as_str(),
        "--log.level=debug",
        "--web.enable-otlp-receiver",
        "--web.enable-lifecycle",
        // Nobody takes what is written remotely, and the end would wait for that.
        "--storage.remote.flush-deadline=1s",
    ];
    let server = start_narthex(folder.path(), net::free_port()?, &flags)?;
    eventually(30, "all targets", || Ok((server.query("up")?.len() == 8).then_some(())))?;
    ensure!(server.query("up == 1")?.len() >= 3 && server.query("up == 0")?.len() >= 4);
    let mut shown = String::new();
    for path in [
        "/api/v1/status/config",
        "/api/v1/status/flags",
        "/api/v1/status/runtimeinfo",
        "/api/v1/status/tsdb",
        "/api/v1/status/storage",
        "/api/v1/status/self_metrics",
        "/api/v1/targets?state=any",
        "/api/v1/targets/metadata",
        "/api/v1/targets/relabel_steps?scrapePool=basic&labels=%7B%22__address__%22:%22a%22%7D",
        "/api/v1/scrape_pools",
        "/api/v1/features",
        "/api/v1/openapi.yaml",
        "/api/v1/alertmanagers",
        "/api/v1/notifications",
        "/api/v1/series?match[]=%7Bjob!=%22%22%7D",
        "/api/v1/query?query=%7Bjob!=%22%22%7D",
        "/federate?match[]=%7Bjob!=%22%22%7D",
        "/debug/pprof/heap",
        "/metrics",
    ] {
        shown += &net::get(server.address, path)?.text();
    }
    for pool in ["basic", "bearer", "header", "proxy", "socks", "connect", "token", "tls", "found"] {
        shown += &net::get(server.address, &format!("/api/v1/scrape_pools/config?scrapePool={pool}"))?.text();
    }
    for path in ["/api/v1/read", "/api/v1/write", "/api/v1/otlp/v1/metrics"] {
        shown += &net::send(server.address, "POST", path, &[("Content-Type", "application/json")], b"{x")?.text();
    }
    let file = folder.path().join("prometheus.yml").display().to_string();
    for args in [vec!["check", "config", &file], vec!["check", "service-discovery", "--timeout=1s", &file, "found"]] {
        let out = std::process::Command::new(crate::process::narthex()?).arg("tool").args(args).output()?;
        shown += &format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    }
    // A file that is refused may quote what is wrong, not what is secret.
    write_config(folder.path(), &(jobs + "nonsense: 1\n"))?;
    shown += &net::post(server.address, "/-/reload", "")?.text();
    ensure!(shown.contains("nonsense"), "the bad file was taken");
    shown += &server.log_text();
    ensure!(shown.contains("<secret>"), "the configuration says that there is a secret");
    ensure!(!shown.contains("planted-"), "{}", shown.lines().find(|l| l.contains("planted-")).unwrap_or_default());
    server.stop()
}

#[test]
fn traces_are_exported_by_otlp() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (target, _) = counting()?;
    let received = Arc::new(std::sync::Mutex::new(Vec::new()));
    let bodies = received.clone();
    let collector = net::receiver(move |path, body| {
        if path == "/v1/traces" {
            bodies.lock().unwrap().extend_from_slice(body);
        }
        String::new()
    })?;
    let tracing =
        format!("tracing: {{endpoint: '{collector}', client_type: http, insecure: true, sampling_fraction: 1}}\n");
    let config = write_config(folder.path(), &(job("counting", target) + &tracing))?;
    let server = start_narthex(folder.path(), net::free_port()?, &[&config])?;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let path = format!("/api/v1/query?query={}", net::encode("sum by (job) (rate(up[1m]) + up)"));
    let bytes: Vec<u8> = (0..16).map(|i| u8::from_str_radix(&trace[2 * i..2 * i + 2], 16)).collect::<Result<_, _>>()?;
    // Each operator of the query has its span; these are the fields of their names.
    let names: [&[u8]; 5] = [b"\x2a\x03sum", b"\x2a\x01+", b"\x2a\x04rate", b"\x2a\x08selector", &bytes];
    eventually(30, "spans of a query's operators at the collector", || {
        let answer = net::send(server.address, "GET", &path, &[("traceparent", &parent)], b"")?;
        ensure!(answer.status == 200, "{}", answer.text());
        let bodies = received.lock().unwrap();
        let there = |name: &&[u8]| bodies.windows(name.len()).any(|w| w == *name);
        Ok(names.iter().all(there).then_some(()))
    })?;
    server.stop()
}

#[test]
fn what_cannot_be_applied_fails_the_reload() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (target, _) = counting()?;
    let good = job("counting", target);
    let config = write_config(folder.path(), &good)?;
    let server = start_narthex(folder.path(), net::free_port()?, &[&config, "--web.enable-lifecycle"])?;
    let ok =
        || Ok::<_, anyhow::Error>(server.json("/api/v1/status/runtimeinfo")?["data"]["reloadConfigSuccess"].clone());
    ensure!(ok()? == true);
    let bad = format!("global: {{query_log_file: {}}}\nscrape_configs:\n{good}", folder.path().display());
    std::fs::write(folder.path().join("prometheus.yml"), bad)?;
    let answer = net::post(server.address, "/-/reload", "")?;
    let text =
        "failed to reload config: one or more errors occurred while applying the new configuration (--config.file=";
    ensure!(answer.status == 500 && answer.text().starts_with(text), "{} {}", answer.status, answer.text());
    ensure!(ok()? == false);
    // The rest is in force.
    let yaml = server.json("/api/v1/status/config")?["data"]["yaml"].to_string();
    ensure!(yaml.contains("query_log_file"), "{yaml}");
    write_config(folder.path(), &good)?;
    ensure!(net::post(server.address, "/-/reload", "")?.status == 200);
    ensure!(ok()? == true);
    server.stop()
}
