//! Remote write as a sender: real receivers, beside a real Prometheus that sends the same, and what becomes of samples
//! when either side dies.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use prost::Message;
use serde_json::Value;

use crate::net;
use crate::process::{Server, eventually, prometheus, start_narthex, start_prometheus};
use crate::wire::{labels, pb};

fn millis() -> i64 {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_millis() as i64)
}

/// Series by their labels, without those that the sender adds: all samples up to a time, floats and histograms.
fn raw(server: &Server, selector: &str, end: f64) -> Result<BTreeMap<String, Vec<String>>> {
    let expr = net::encode(&format!("{selector}[10m]"));
    let answer = server.json(&format!("/api/v1/query?query={expr}&time={end}"))?;
    let result = answer["data"]["result"].as_array().with_context(|| answer.to_string())?;
    let mut all = BTreeMap::new();
    for series in result {
        let mut metric = series["metric"].clone();
        metric.as_object_mut().context("a metric")?.remove("zone");
        let of = |kind: &str| series[kind].as_array().cloned().unwrap_or_default();
        let samples = of("values").into_iter().chain(of("histograms")).map(|v| v.to_string()).collect();
        all.insert(metric.to_string(), samples);
    }
    Ok(all)
}

/// Waits until the receiver has what the sender had up to now.
fn same(sender: &Server, receiver: &Server, selector: &str, seconds: u64) -> Result<usize> {
    let end = millis() as f64 / 1000.0;
    let expected = raw(sender, selector, end)?;
    ensure!(!expected.is_empty(), "nothing to compare");
    let mut last = String::new();
    let compared = eventually(seconds, "the receiver has all", || {
        let got = raw(receiver, selector, end)?;
        for (series, samples) in &expected {
            let have = got.get(series).map(Vec::as_slice).unwrap_or_default();
            if have != samples {
                let missing: Vec<_> = samples.iter().filter(|s| !have.contains(s)).collect();
                let wrong: Vec<_> = have.iter().filter(|s| !samples.contains(s)).collect();
                last = format!(
                    "{series}: {} missing, the first {:?}, instead {:?}",
                    missing.len(),
                    missing.first(),
                    wrong.first()
                );
                return Ok(None);
            }
        }
        let more: Vec<_> = got.keys().filter(|k| !expected.contains_key(*k)).take(3).collect();
        ensure!(more.is_empty(), "series that the sender has not: {more:?}");
        Ok(Some(expected.values().map(Vec::len).sum()))
    });
    compared.with_context(|| format!("{}: {last}", receiver.log.display()))
}

/// A page that is the same at each scrape, with an exemplar and a classic histogram.
const PAGE: &str = "# HELP c Things.\n# TYPE c counter\nc_total{a=\"b\"} 17 # {trace_id=\"x\"} 0.5\nc_total{a=\"ü\\\"\\n\"} 3\n\
    # TYPE g gauge\n# HELP g A gauge.\ng 1e-7\ng{drop=\"me\"} 2\n\
    # TYPE h histogram\nh_bucket{le=\"1.0\"} 4\nh_bucket{le=\"+Inf\"} 7\nh_sum 9.25\nh_count 7\n\
    # TYPE t_seconds summary\n# UNIT t_seconds seconds\nt_seconds{quantile=\"0.5\"} NaN\nt_seconds_sum 3\nt_seconds_count 2\n# EOF\n";

/// Native histograms: whole numbers, others, custom buckets.
fn histograms(end: i64) -> Vec<u8> {
    let span = |field, offset, length| pb::message(field, &[pb::signed(1, offset), pb::number(2, length)]);
    let mut series = Vec::new();
    for kind in ["whole", "float", "custom"] {
        let mut parts = vec![labels(&[("__name__", "n"), ("kind", kind)])];
        for k in 0..4 {
            let at = pb::number(15, (end - (4 - k) * 100) as u64);
            let fields = match kind {
                "whole" => vec![
                    pb::number(1, 10 + k as u64),
                    pb::double(3, 3.25 * k as f64),
                    pb::signed(4, 1),
                    pb::double(5, 2f64.powi(-128)),
                    pb::number(6, 1),
                    span(8, 0, 1),
                    pb::deltas(9, &[k]),
                    span(11, -1, 2),
                    span(11, 1, 2),
                    pb::deltas(12, &[2, 1, -1, 0]),
                    at,
                ],
                "float" => vec![
                    pb::double(2, 10.5 + k as f64),
                    pb::double(3, 3.25 * k as f64),
                    pb::signed(4, 3),
                    pb::double(7, 0.5),
                    span(11, 0, 2),
                    span(11, 3, 1),
                    pb::doubles(13, &[1.5 + k as f64, 2.0, 6.5]),
                    pb::number(14, 3),
                    at,
                ],
                _ => vec![
                    pb::number(1, 6),
                    pb::double(3, 5.5),
                    pb::signed(4, -53),
                    span(11, 0, 3),
                    pb::deltas(12, &[2, 1, -2]),
                    at,
                    pb::doubles(16, &[0.5, 1.25, 33.5]),
                ],
            };
            parts.push(pb::message(4, &fields));
        }
        series.push(pb::message(1, &parts));
    }
    series.concat()
}

#[derive(Clone, PartialEq, Message)]
struct Description {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "4")]
    help: String,
    #[prost(string, tag = "5")]
    unit: String,
}

#[derive(Clone, PartialEq, Message)]
struct Descriptions {
    #[prost(message, repeated, tag = "3")]
    metadata: Vec<Description>,
}

type Described = Arc<Mutex<BTreeSet<(String, u32, String, String)>>>;

/// A receiver of descriptions.
fn describer() -> Result<(std::net::SocketAddr, Described)> {
    let seen: Described = Arc::default();
    let kept = seen.clone();
    let address = net::answering(move |_, sent| {
        let plain = snap::raw::Decoder::new().decompress_vec(sent).unwrap_or_default();
        let all = Descriptions::decode(&*plain).map(|d| d.metadata).unwrap_or_default();
        let all = all.into_iter().map(|d| (d.name, d.kind, d.help, d.unit));
        kept.lock().unwrap_or_else(|e| e.into_inner()).extend(all);
        net::Reply { status: 204, headers: String::new(), body: Vec::new() }
    })?;
    Ok((address, seen))
}

const RECEIVER: [&str; 2] = ["--web.enable-remote-write-receiver", "--enable-feature=exemplar-storage"];

fn receiver(binary: &Path, folder: &Path, name: &str, port: u16) -> Result<Server> {
    let folder = folder.join(name);
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("prometheus.yml");
    std::fs::write(&file, "global: {scrape_interval: 1h}\n")?;
    let file = format!("--config.file={}", file.display());
    start_prometheus(binary, &folder, port, &[&file, RECEIVER[0], RECEIVER[1]])
}

fn entry(to: std::net::SocketAddr, second: bool, more: &str) -> String {
    let message = if second { "io.prometheus.write.v2.Request" } else { "prometheus.WriteRequest" };
    format!(
        "- url: http://{to}/api/v1/write\n  protobuf_message: {message}\n  send_exemplars: true\n  send_native_histograms: true\n  \
         metadata_config: {{send: {}, send_interval: 1s}}\n  queue_config: {{batch_send_deadline: 200ms, max_backoff: 200ms}}\n{more}",
        !second
    )
}

#[test]
fn receivers_get_what_prometheus_sends() -> Result<()> {
    let Some(binary) = prometheus() else {
        println!("skipped: no Prometheus to receive");
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let target = net::exporter(|_| PAGE.to_owned())?;
    let sink = |name: &str| receiver(&binary, folder.path(), name, net::free_port()?);
    let rules = "  write_relabel_configs: [{source_labels: [drop], regex: me, action: drop}, {source_labels: [__name__], regex: 'g', target_label: extra, replacement: x}]\n";
    let mut senders = Vec::new();
    for name in ["narthex", "prometheus"] {
        let receivers = [sink(&format!("{name}-v1"))?, sink(&format!("{name}-v2"))?];
        let fleet = folder.path().join(format!("{name}-to-narthex"));
        std::fs::create_dir_all(&fleet)?;
        std::fs::write(fleet.join("prometheus.yml"), "global: {scrape_interval: 1h}\n")?;
        let file = format!("--config.file={}", fleet.join("prometheus.yml").display());
        let third = start_narthex(&fleet, net::free_port()?, &[&file, RECEIVER[0], RECEIVER[1]])?;
        let (described, seen) = describer()?;
        let entries = [
            entry(receivers[0].address, false, ""),
            entry(receivers[1].address, true, ""),
            entry(third.address, true, rules),
            entry(described, false, ""),
        ];
        let own = folder.path().join(name);
        std::fs::create_dir_all(&own)?;
        let file = own.join("prometheus.yml");
        let config = format!(
            "global: {{scrape_interval: 1s, external_labels: {{zone: eu}}}}\nscrape_configs:\n- job_name: page\n  static_configs: [{{targets: ['{target}'], labels: {{instance: t}}}}]\nremote_write:\n{}",
            entries.concat()
        );
        std::fs::write(&file, config)?;
        let file = format!("--config.file={}", file.display());
        let flags = [file.as_str(), RECEIVER[0], "--enable-feature=exemplar-storage,metadata-wal-records"];
        let sender = match name {
            "narthex" => start_narthex(&own, net::free_port()?, &flags)?,
            _ => start_prometheus(&binary, &own, net::free_port()?, &flags)?,
        };
        eventually(20, "scraped", || Ok((sender.query("c_total")?.len() == 2).then_some(())))?;
        crate::wire::push(&sender, &histograms(millis()))?;
        senders.push((sender, receivers, third, seen));
    }
    let everything = "{__name__=~\".+\"}";
    for (sender, [first, second], third, _) in &senders {
        eventually(20, "four scrapes", || Ok(sender.query("count_over_time(g[1m]) > 4")?.first().map(|_| ())))?;
        // 1.0 cannot carry custom buckets.
        same(sender, first, "{kind!=\"custom\",__name__=~\".+\"}", 30)?;
        same(sender, second, everything, 30)?;
        ensure!(first.query("n{kind=\"custom\"}")?.is_empty());
        // Relabelled: the same but for what the rules change.
        same(sender, third, "{__name__!~\"g|\"}", 30)?;
        ensure!(third.query("g{extra=\"x\",zone=\"eu\"}")?.len() == 1 && third.query("g{drop=\"me\"}")?.is_empty());
        for server in [first, second, third] {
            // Prometheus sends exemplars apart from samples, and as a receiver of 2.0 refuses them so.
            if sender.log.ends_with("prometheus/prometheus.log") && server.address != first.address {
                continue;
            }
            eventually(20, &format!("an exemplar: {}", server.log.display()), || {
                let all = server.json("/api/v1/query_exemplars?query=c_total&start=0&end=9999999999")?;
                Ok((all["data"][0]["exemplars"][0]["labels"]["trace_id"] == "x").then_some(()))
            })?;
        }
    }
    // Both senders' receivers have the same series with the same newest values.
    let newest = |server: &Server| -> Result<BTreeMap<String, String>> {
        let all = server
            .json(&format!("/api/v1/query?query={}", net::encode(&format!("last_over_time({everything}[5m])"))))?;
        let result = all["data"]["result"].as_array().cloned().unwrap_or_default();
        let timeless = |v: &Value| v[1].to_string();
        let moving = |m: &Value| m["__name__"].as_str().is_some_and(|n| n.starts_with("scrape_"));
        let kept = result.iter().filter(|s| !moving(&s["metric"]));
        Ok(kept.map(|s| (s["metric"].to_string(), timeless(&s["value"]) + &timeless(&s["histogram"]))).collect())
    };
    for i in 0..2 {
        let [ours, theirs] = [newest(&senders[0].1[i])?, newest(&senders[1].1[i])?];
        ensure!(ours == theirs, "v{}: {ours:#?}\n{theirs:#?}", i + 1);
        ensure!(ours.len() >= 12, "{ours:?}");
    }
    let described = |seen: &Described| seen.lock().unwrap_or_else(|e| e.into_inner()).clone();
    eventually(20, "descriptions", || {
        let [ours, theirs] = [described(&senders[0].3), described(&senders[1].3)];
        ensure!(ours == theirs, "{ours:?} instead of {theirs:?}");
        Ok((!ours.is_empty()).then_some(()))
    })?;
    // Named as by Prometheus.
    let shards = |server: &Server| -> Result<BTreeSet<usize>> {
        let page = net::get(server.address, "/metrics")?.text();
        let lines = page.lines().filter(|l| l.starts_with("prometheus_remote_storage_shards{"));
        Ok(lines.map(str::len).collect())
    };
    ensure!(!shards(&senders[0].0)?.is_empty());
    let log = senders[0].0.log_text();
    ensure!(!log.contains("not supported") && !log.contains("non-recoverable"), "{log}");
    for (sender, ..) in senders {
        sender.stop()?;
    }
    Ok(())
}

/// A page whose values tell how often it was asked for.
fn counting() -> Result<std::net::SocketAddr> {
    let served = Arc::new(AtomicU64::new(0));
    net::exporter(move |_| {
        let n = served.fetch_add(1, Ordering::SeqCst);
        (0..50).map(|i| format!("load{{part=\"{i}\"}} {}\n", n * (i + 1))).collect()
    })
}

#[test]
fn nothing_is_lost_when_receiver_and_sender_die() -> Result<()> {
    let Some(binary) = prometheus() else {
        println!("skipped: no Prometheus to receive");
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let target = counting()?;
    let ports = [net::free_port()?, net::free_port()?];
    let start = |i: usize| receiver(&binary, folder.path(), &format!("receiver-{i}"), ports[i]);
    let address = |i: usize| std::net::SocketAddr::from(([127, 0, 0, 1], ports[i]));
    let file = folder.path().join("prometheus.yml");
    std::fs::write(
        &file,
        format!(
            "global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}\nscrape_configs:\n- job_name: page\n  static_configs: [{{targets: ['{target}']}}]\nremote_write:\n{}{}",
            entry(address(0), false, ""),
            entry(address(1), true, "")
        ),
    )?;
    let flag = format!("--config.file={}", file.display());
    let port = net::free_port()?;
    let (mut receivers, mut sender) = ([start(0)?, start(1)?], start_narthex(folder.path(), port, &[&flag])?);
    eventually(20, "something arrives", || Ok((receivers[0].query("load")?.len() == 50).then_some(())))?;
    for round in 0..3 {
        std::thread::sleep(Duration::from_millis(1000));
        let [a, b] = receivers;
        match round {
            0 => [a.stop()?, b.stop()?],
            _ => [a.kill()?, b.kill()?],
        };
        // With the receivers away, and with samples that are sent but not yet settled.
        std::thread::sleep(Duration::from_millis(1500));
        if round != 1 {
            sender.kill()?;
            sender = start_narthex(folder.path(), port, &[&flag])?;
        }
        std::thread::sleep(Duration::from_millis(700));
        receivers = [start(0)?, start(1)?];
        if round == 2 {
            std::thread::sleep(Duration::from_millis(300));
            sender.kill()?;
            sender = start_narthex(folder.path(), port, &[&flag])?;
        }
        for receiver in &receivers {
            let n = same(&sender, receiver, "{__name__=~\"load|up\"}", 40).with_context(|| format!("round {round}"))?;
            println!("round {round}: {n} samples");
        }
    }
    let failed = net::get(sender.address, "/metrics")?.text();
    let lag = failed.lines().find(|l| l.starts_with("narthex_remote_lag_records")).unwrap_or_default();
    println!("{lag}");
    sender.stop()
}

#[test]
fn the_end_and_reloads_do_not_wait_for_a_receiver_that_hangs() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let target = counting()?;
    let hanging = std::net::TcpListener::bind("127.0.0.1:0")?;
    let file = folder.path().join("prometheus.yml");
    let write = |more: &str| {
        let entry = entry(hanging.local_addr()?, false, "");
        let config = format!(
            "global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}\nscrape_configs:\n- job_name: page\n  static_configs: [{{targets: ['{target}']}}]\nremote_write:\n{entry}{more}"
        );
        anyhow::Ok(std::fs::write(&file, config)?)
    };
    write("")?;
    let flag = format!("--config.file={}", file.display());
    let flags = [flag.as_str(), "--storage.remote.flush-deadline=1s", "--web.enable-lifecycle"];
    let server = start_narthex(folder.path(), net::free_port()?, &flags)?;
    let pending = |server: &Server| -> Result<bool> {
        let page = net::get(server.address, "/metrics")?.text();
        let line = page.lines().find(|l| l.starts_with("prometheus_remote_storage_samples_pending{"));
        Ok(line.is_some_and(|l| !l.ends_with(" 0")))
    };
    eventually(20, "samples wait", || Ok(pending(&server)?.then_some(())))?;
    write("  remote_timeout: 3s\n")?;
    let began = Instant::now();
    ensure!(net::post(server.address, "/-/reload", "")?.status == 200);
    ensure!(began.elapsed() < Duration::from_secs(5), "reload took {:?}", began.elapsed());
    ensure!(server.query("up == 1")?.len() == 1, "scraping goes on");
    // What cannot be sent is said, and what ran goes on.
    write("- url: http://u:hunter2@localhost/w\n  google_iam: {}\n")?;
    let refused = net::post(server.address, "/-/reload", "")?;
    ensure!(refused.status == 500, "{}", refused.text());
    let log = server.log_text();
    ensure!(log.contains("google_iam is not supported") && !log.contains("hunter2"), "{log}");
    let began = Instant::now();
    server.stop()?;
    ensure!(began.elapsed() < Duration::from_secs(10), "the end took {:?}", began.elapsed());
    Ok(())
}

#[test]
fn a_shard_sends_on_what_its_file_says() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("prometheus.yml");
    std::fs::write(&file, "global: {scrape_interval: 1h}\n")?;
    let flag = format!("--config.file={}", file.display());
    let receiver = start_narthex(folder.path(), net::free_port()?, &[&flag, RECEIVER[0]])?;
    let own = folder.path().join("write.yml");
    let write =
        |rules: &str| std::fs::write(&own, format!("remote_write:\n{}{rules}", entry(receiver.address, true, "")));
    write("")?;
    let port = net::free_port()?;
    let args = [
        "shard".to_owned(),
        "--fleet=a/b".to_owned(),
        "--shard.name=b-0".to_owned(),
        format!("--shard.url=http://127.0.0.1:{port}"),
        format!("--web.listen-address=127.0.0.1:{port}"),
        format!("--storage.tsdb.path={}", folder.path().join("shard").display()),
        format!("--remote-write.file={}", own.display()),
        RECEIVER[0].to_owned(),
    ];
    let shard = Server::start(&crate::process::narthex()?, &args, port, &folder.path().join("shard.log"), "/-/ready")?;
    let push = |name: &str| {
        let sample = [pb::double(1, 3.0), pb::number(2, millis() as u64)].concat();
        crate::wire::push(&shard, &pb::message(1, &[labels(&[("__name__", name)]), pb::bytes(2, &sample)]))
    };
    push("before")?;
    eventually(20, "what was pushed", || Ok((receiver.query("before")?.len() == 1).then_some(())))?;
    write("  write_relabel_configs: [{target_label: shard, replacement: b-0}]\n")?;
    shard.signal("HUP")?;
    eventually(20, "what was pushed later, relabelled", || {
        push("after")?;
        Ok((receiver.query("after{shard=\"b-0\"}")?.len() == 1).then_some(()))
    })?;
    shard.stop()
}
