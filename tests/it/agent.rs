//! Agent mode beside that of a real Prometheus: which flags and sections it takes, what it answers, what it sends.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::net;
use crate::process::{Server, eventually, narthex, prometheus, start_prometheus};

fn start(binary: &Path, first: &[&str], folder: &Path, name: &str, config: &str) -> Result<Server> {
    let port = net::free_port()?;
    let mut args: Vec<String> = first.iter().map(|a| (*a).to_owned()).collect();
    args.extend([
        "--agent".to_owned(),
        format!("--config.file={config}"),
        format!("--web.listen-address=127.0.0.1:{port}"),
        format!("--storage.agent.path={}", folder.join(name).display()),
        "--web.enable-remote-write-receiver".to_owned(),
        "--web.enable-lifecycle".to_owned(),
        "--web.enable-admin-api".to_owned(),
    ]);
    Server::start(binary, &args, port, &folder.join(format!("{name}.log")), "/-/ready")
}

/// Status, and the body where it does not tell of the process itself.
fn answer(server: &Server, method: &str, path: &str, body: &[u8]) -> Result<(u16, String)> {
    let headers = [("Content-Type", "application/x-protobuf"), ("Content-Encoding", "snappy")];
    let answer = net::send(server.address, method, path, if body.is_empty() { &[] } else { &headers }, body)?;
    let own = ["/status/", "/targets", "/features", "/-/reload"].iter().any(|p| path.contains(p));
    let own = own && answer.status == 200;
    Ok((answer.status, if own { String::new() } else { answer.text().trim_end().to_owned() }))
}

#[test]
fn an_agent_answers_and_sends_as_prometheus_does() -> Result<()> {
    let Some(binary) = prometheus() else {
        println!("skipped: no Prometheus to compare with");
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let target = net::exporter(|_| "# TYPE c counter\n# HELP c Things.\nc_total 17\n# EOF\n".to_owned())?;
    let mut pairs = Vec::new();
    for name in ["narthex", "prometheus"] {
        let own = folder.path().join(format!("{name}-receiver"));
        std::fs::create_dir_all(&own)?;
        let empty = own.join("empty.yml");
        std::fs::write(&empty, "global: {scrape_interval: 1h}\n")?;
        let flag = format!("--config.file={}", empty.display());
        let receiver =
            start_prometheus(&binary, &own, net::free_port()?, &[&flag, "--web.enable-remote-write-receiver"])?;
        let file = folder.path().join(format!("{name}.yml"));
        std::fs::write(
            &file,
            format!(
                "global: {{scrape_interval: 500ms, scrape_timeout: 500ms, external_labels: {{zone: eu}}}}\nscrape_configs:\n- job_name: page\n  static_configs: [{{targets: ['{target}'], labels: {{instance: t}}}}]\nremote_write:\n- url: http://{}/api/v1/write\n  queue_config: {{batch_send_deadline: 200ms}}\n",
                receiver.address
            ),
        )?;
        let file = file.display().to_string();
        let agent = match name {
            "narthex" => start(&narthex()?, &["server"], folder.path(), name, &file)?,
            _ => start(&binary, &[], folder.path(), name, &file)?,
        };
        pairs.push((agent, receiver));
    }
    for (_, receiver) in &pairs {
        eventually(30, "what the agent sends", || {
            Ok((receiver.query("c_total{zone=\"eu\",job=\"page\"} == 17")?.len() == 1).then_some(()))
        })?;
    }
    let names = |receiver: &Server| -> Result<Value> {
        Ok(receiver.json("/api/v1/series?match[]={zone=\"eu\"}")?["data"].clone())
    };
    ensure!(names(&pairs[0].1)? == names(&pairs[1].1)?, "{} {}", names(&pairs[0].1)?, names(&pairs[1].1)?);

    let (ours, theirs) = (&pairs[0].0, &pairs[1].0);
    let read = snap::raw::Encoder::new().compress_vec(&crate::wire::pb::message(
        1,
        &[
            crate::wire::pb::number(1, 1),
            crate::wire::pb::number(2, 2_000_000_000_000),
            crate::wire::pb::message(3, &[crate::wire::pb::bytes(2, b"__name__"), crate::wire::pb::bytes(3, b"up")]),
        ],
    ))?;
    let questions = [
        "query?query=up",
        "query",
        "query_range?query=up&start=1&end=2&step=1",
        "query_exemplars?query=up&start=1&end=2",
        "format_query?query=up",
        "parse_query?query=up",
        "labels",
        "label/x/values",
        "series?match[]=up",
        "metadata",
        "scrape_pools",
        "targets",
        "targets/metadata",
        "alertmanagers",
        "status/config",
        "status/runtimeinfo",
        "status/buildinfo",
        "status/flags",
        "status/tsdb",
        "status/tsdb/blocks",
        "status/walreplay",
        "features",
        "notifications",
        "alerts",
        "rules",
        "search/metric_names",
    ];
    let gets = questions.iter().map(|q| ("GET", format!("/api/v1/{q}"), Vec::new()));
    let others =
        ["/-/healthy", "/-/ready", "/federate?match[]=up", "/federate", "/query", "/rules", "/alerts", "/tsdb-status"];
    let others = others.iter().map(|p| ("GET", (*p).to_owned(), Vec::new()));
    let posts = [
        ("POST", "/api/v1/query".to_owned(), Vec::new()),
        ("POST", "/api/v1/admin/tsdb/snapshot".to_owned(), Vec::new()),
        ("PUT", "/api/v1/admin/tsdb/clean_tombstones".to_owned(), Vec::new()),
        ("POST", "/api/v1/read".to_owned(), read),
        ("POST", "/api/v1/read".to_owned(), b"no snappy".to_vec()),
        ("POST", "/api/v1/write".to_owned(), snap::raw::Encoder::new().compress_vec(b"")?),
        ("POST", "/-/reload".to_owned(), Vec::new()),
    ];
    for (method, path, body) in gets.chain(others).chain(posts) {
        let [own, real] = [answer(ours, method, &path, &body)?, answer(theirs, method, &path, &body)?];
        ensure!(own == real, "{method} {path}: {own:?} instead of {real:?}");
    }
    let home = net::get(ours.address, "/")?;
    ensure!(home.status == 302 && home.header("location") == "/agent", "{}", home.header("location"));
    let mode = |s: &Server| -> Result<Value> {
        let features = s.json("/api/v1/features")?;
        Ok(serde_json::json!([
            features["data"]["prometheus"]["agent_mode"],
            features["data"]["prometheus"]["server_mode"]
        ]))
    };
    ensure!(mode(ours)? == mode(theirs)? && mode(ours)? == serde_json::json!([true, false]));
    let page = net::get(ours.address, "/metrics")?.text();
    ensure!(page.contains("prometheus_agent_active_series "), "{page}");
    // What was pushed goes on, too.
    let at = std::time::UNIX_EPOCH.elapsed()?.as_millis() as u64;
    let sample = [crate::wire::pb::double(1, 3.0), crate::wire::pb::number(2, at)].concat();
    let series = [crate::wire::labels(&[("__name__", "pushed")]), crate::wire::pb::bytes(2, &sample)].concat();
    for (agent, receiver) in &pairs {
        crate::wire::push(agent, &crate::wire::pb::bytes(1, &series))?;
        eventually(20, "what was pushed", || Ok((receiver.query("pushed{zone=\"eu\"}")?.len() == 1).then_some(())))?;
    }
    for (agent, _) in pairs {
        agent.stop()?;
    }
    Ok(())
}

/// Exit status, and what is said of it on the standard error, from the first `The following` or `field` on.
fn refusal(binary: &Path, args: &[String]) -> Result<(Option<i32>, String)> {
    let out = Command::new(binary).args(args).output()?;
    let text = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    let from = ["The following", "field "].iter().filter_map(|w| text.find(w)).min().unwrap_or(text.len());
    let said = text[from..].lines().next().unwrap_or_default().trim_end_matches(['"', ')']).to_owned();
    Ok((out.status.code(), said))
}

#[test]
fn flags_and_sections_of_the_other_mode_are_refused_as_by_prometheus() -> Result<()> {
    let Some(binary) = prometheus() else {
        println!("skipped: no Prometheus to compare with");
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let config = |name: &str, text: &str| -> Result<String> {
        let file = folder.path().join(name);
        std::fs::write(&file, text)?;
        Ok(format!("--config.file={}", file.display()))
    };
    let good = config("good.yml", "remote_write: [{url: 'http://h/'}]\n")?;
    let alerting = config("alerting.yml", "alerting: {alertmanagers: [{scheme: https}]}\n")?;
    let relabels = config("relabels.yml", "alerting: {alert_relabel_configs: [{action: drop, source_labels: [a]}]}\n")?;
    let read = config("read.yml", "remote_read: [{url: 'http://h/'}]\n")?;
    let rules = config("rules.yml", "rule_files: [a.rules]\n")?;
    let port = format!("--web.listen-address=127.0.0.1:{}", net::free_port()?);
    for given in [
        &["--agent", &good, "--storage.tsdb.path=x"][..],
        &["--agent", &good, "--query.timeout=1m"],
        &["--agent", &good, "--rules.alert.resend-delay=1m"],
        &["--agent", &good, "--storage.remote.read-sample-limit=1"],
        &[&good, "--storage.agent.path=x"],
        &[&good, "--storage.agent.retention.max-time=1h"],
        &["--agent", &alerting],
        &["--agent", &relabels],
        &["--agent", &read],
        &["--agent", &rules],
    ] {
        let args = |first: &[&str]| {
            first.iter().chain(given).map(|a| (*a).to_owned()).chain([port.clone()]).collect::<Vec<_>>()
        };
        let own = refusal(&narthex()?, &args(&["server"]))?;
        let real = refusal(&binary, &args(&[]))?;
        let alike = own.1 == real.1 && own.0 != Some(0) && real.0 != Some(0) && !own.1.is_empty();
        ensure!(alike, "{given:?}: {own:?} instead of {real:?}");
        ensure!(real.0 != Some(3) || own.0 == Some(3), "{given:?}: {own:?} instead of {real:?}");
    }
    Ok(())
}
