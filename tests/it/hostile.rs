//! Exporters that mean harm: what they cost in memory and time is bounded, and the other targets notice nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::net;
use crate::process::{Server, eventually, start_narthex};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n";

/// How large the largest pages are: 10 for 100 MB lines and pages of two million, too much for a build that is not
/// optimised.
fn scale() -> usize {
    std::env::var("NARTHEX_HOSTILE_SCALE").ok().and_then(|s| s.parse().ok()).unwrap_or(1)
}

/// Name, and what it does with a connection once it has read a request.
type Behaviour = fn(&mut TcpStream) -> std::io::Result<()>;

const HOSTILE: &[(&str, Behaviour)] = &[
    ("silence", |_| {
        std::thread::sleep(Duration::from_secs(30));
        Ok(())
    }),
    ("endless body", |s| {
        s.write_all(format!("{OK}\r\n").as_bytes())?;
        let lines = (0..2000).map(|i| format!("endless{{i=\"{i}\"}} {i}\n")).collect::<String>();
        loop {
            s.write_all(lines.as_bytes())?;
        }
    }),
    ("endless line", |s| {
        s.write_all(format!("{OK}\r\nm{{x=\"").as_bytes())?;
        loop {
            s.write_all(&[b'x'; 1 << 16])?;
        }
    }),
    ("one byte a second", |s| {
        s.write_all(format!("{OK}\r\n").as_bytes())?;
        loop {
            s.write_all(b"a")?;
            std::thread::sleep(Duration::from_secs(1));
        }
    }),
    ("bomb", |s| {
        // A gigabyte of line breaks in a megabyte, again and again.
        let bomb = crate::pages::gzip(&vec![b'\n'; 64 << 20]);
        s.write_all(format!("{OK}Content-Encoding: gzip\r\n\r\n").as_bytes())?;
        for _ in 0..64 {
            s.write_all(&bomb)?;
        }
        Ok(())
    }),
    ("endless headers", |s| {
        s.write_all(b"HTTP/1.1 200 OK\r\n")?;
        for i in 0u64.. {
            s.write_all(format!("X-Flood-{i}: {i}{i}{i}{i}\r\n").as_bytes())?;
        }
        Ok(())
    }),
    ("one long header", |s| {
        s.write_all(b"HTTP/1.1 200 OK\r\nX-Long: ")?;
        loop {
            s.write_all(&[b'x'; 1 << 16])?;
        }
    }),
    ("endless status line", |s| {
        loop {
            s.write_all(&[b'H'; 1 << 16])?;
        }
    }),
    ("endless chunk sizes", |s| {
        s.write_all(format!("{OK}Transfer-Encoding: chunked\r\n\r\n").as_bytes())?;
        loop {
            s.write_all(&[b'0'; 1 << 16])?;
        }
    }),
    ("tiny chunks", |s| {
        s.write_all(format!("{OK}Transfer-Encoding: chunked\r\n\r\n").as_bytes())?;
        let chunks = "1\r\n\n\r\n".repeat(10_000);
        loop {
            s.write_all(chunks.as_bytes())?;
        }
    }),
    ("reset", |s| {
        s.write_all(format!("{OK}Content-Length: 1000\r\n\r\na 1\n").as_bytes())?;
        // Closing with unread bytes resets the connection.
        Ok(())
    }),
    ("long line", |s| {
        let length = scale() * (10 << 20);
        s.write_all(format!("{OK}Content-Length: {}\r\n\r\nm{{x=\"", length + 10).as_bytes())?;
        for _ in 0..length >> 16 {
            s.write_all(&[b'x'; 1 << 16])?;
        }
        s.write_all(b"\"} 1\n12")
    }),
    ("many labels", |s| {
        let labels = (0..100_000 * scale()).map(|i| format!("l{i}=\"1\",")).collect::<String>();
        let body = format!("m{{{labels}}} 1\n");
        s.write_all(format!("{OK}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes())
    }),
    ("many errors", |s| {
        let body = "a 1\n".repeat(200_000 * scale()) + "!\n";
        s.write_all(format!("{OK}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes())
    }),
    ("many comments", |s| {
        let body = (0..30_000 * scale())
            .map(|i| format!("# HELP m{i} {}\n# TYPE m{i} gauge\n", "x".repeat(40)))
            .collect::<String>();
        s.write_all(format!("{OK}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes())
    }),
    ("protobuf of empty buckets", |s| protobuf(s, |n| histogram(&b"\x1a\x00".repeat(n / 2)))),
    ("protobuf of empty exemplars", |s| protobuf(s, |n| histogram(&b"\x82\x01\x00".repeat(n / 3)))),
    ("protobuf of empty spans", |s| protobuf(s, |n| histogram(&b"\x62\x00".repeat(n / 2)))),
    ("protobuf of empty labels", |s| protobuf(s, |n| b"\x0a\x00".repeat(n / 2))),
    ("protobuf of long labels", |s| {
        protobuf(s, |n| {
            let text = vec![b'x'; n / 4];
            // Of each field the last one counts.
            let pair = [field(1, &text), field(2, &text), field(2, &text)].concat();
            field(1, &pair)
        })
    }),
    ("protobuf of open groups", |s| protobuf(s, |n| b"\xa3\x06".repeat(n / 2))),
    ("redirects", |s| s.write_all(b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n")),
];

/// A protobuf field of that tag that has a length.
fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![tag << 3 | 2];
    let mut length = bytes.len();
    while length > 0x7f {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
    out
}

fn histogram(fields: &[u8]) -> Vec<u8> {
    field(7, fields)
}

/// Answers with one family of five metrics of nearly 1 MB at scale 1, and 8 MB at scale 8 and above, which is as long as
/// they may be.
fn protobuf(s: &mut TcpStream, metric: fn(usize) -> Vec<u8>) -> std::io::Result<()> {
    let metric = field(4, &metric((scale().min(8) << 20) - 100));
    let family = field(0, &[&b"\x0a\x01h\x18\x04"[..], &metric.repeat(5)].concat());
    let kind = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";
    // Without the field's key: families have their length before them.
    let body = &family[1..];
    s.write_all(
        format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(),
    )?;
    s.write_all(body)
}

/// Those that are also asked to speak TLS.
const TLS: [&str; 3] = ["silence", "endless body", "endless status line"];

/// Those that cost most when they are waited for.
const LONG: [&str; 4] = ["long line", "many labels", "many errors", "many comments"];

fn listen(behaviour: Behaviour) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut request = [0; 4096];
                while stream.read(&mut request).is_ok_and(|n| n > 0) && behaviour(&mut stream).is_ok() {}
            });
        }
    });
    Ok(address)
}

/// Resident memory in MB, and CPU seconds.
fn usage(server: &Server) -> Result<(u64, f64)> {
    let folder = format!("/proc/{}", server.pid());
    let status = std::fs::read_to_string(format!("{folder}/status"))?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).context("no VmRSS")?;
    let kilobytes: u64 = line.split_whitespace().nth(1).context("no VmRSS")?.parse()?;
    let stat = std::fs::read_to_string(format!("{folder}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks: f64 = fields.iter().skip(11).take(2).filter_map(|f| f.parse::<f64>().ok()).sum();
    Ok((kilobytes >> 10, ticks / 100.0))
}

fn configuration(folder: &Path, good: &[SocketAddr], hostile: &[(&str, SocketAddr)]) -> Result<String> {
    let mut text = "global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n- job_name: good\n  \
                    static_configs:\n"
        .to_owned();
    for address in good {
        text += &format!("  - targets: ['{address}']\n");
    }
    for (job, settings) in [
        ("hostile", "scheme: http"),
        ("limited", "body_size_limit: 1MB"),
        ("tls", "scheme: https"),
        ("patient", "scrape_interval: 5s\n  scrape_timeout: 5s"),
    ] {
        text += &format!("- job_name: {job}\n  {settings}\n  static_configs:\n");
        for (name, address) in hostile {
            let fits = match job {
                "tls" => TLS.contains(name),
                "patient" => LONG.contains(name),
                _ => true,
            };
            if fits {
                text += &format!("  - {{targets: ['{address}'], labels: {{page: '{name}'}}}}\n");
            }
        }
    }
    let file = folder.join("prometheus.yml");
    std::fs::write(&file, text)?;
    Ok(format!("--config.file={}", file.display()))
}

#[test]
fn hostile_exporters_harm_nobody() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let page = |_: &str| (0..200).map(|i| format!("load{{part=\"{i}\"}} {i}\n")).collect::<String>();
    let good = (0..5).map(|_| net::exporter(page)).collect::<Result<Vec<_>>>()?;
    let hostile = HOSTILE.iter().map(|(name, b)| Ok((*name, listen(*b)?))).collect::<Result<Vec<_>>>()?;
    let config = configuration(folder.path(), &good, &[])?;
    let server = start_narthex(folder.path(), net::free_port()?, &[&config, "--web.enable-lifecycle"])?;
    let up = |server: &Server| -> Result<usize> { Ok(server.query("up{job=\"good\"} == 1")?.len()) };
    eventually(20, "good targets", || Ok((up(&server)? == good.len()).then_some(())))?;
    let (before, cpu_before) = usage(&server)?;
    configuration(folder.path(), &good, &hostile)?;
    ensure!(net::post(server.address, "/-/reload", "")?.status == 200);
    let began = Instant::now();
    let mut peak = before;
    // Long enough for each to be scraped some ten times.
    while began.elapsed() < Duration::from_secs(15) {
        peak = peak.max(usage(&server)?.0);
        std::thread::sleep(Duration::from_millis(100));
    }
    let (_, cpu) = usage(&server)?;
    let all = HOSTILE.len() * 2 + TLS.len() + LONG.len();
    eventually(60, "all are scraped", || {
        Ok((server.query("count_over_time(up{job!=\"good\"}[75s])")?.len() == all).then_some(()))
    })?;
    println!("memory {before} MB, at most {peak} MB; {:.1} CPU-s in 15 s", cpu - cpu_before);
    for (series, seconds) in server.query("max_over_time(scrape_duration_seconds{job!=\"good\"}[75s])")? {
        println!("{seconds} s {series}");
        // Seconds for the fetch, and for reading what was fetched; much more on a machine that has other work.
        ensure!(seconds.parse::<f64>()? < 120.0, "{seconds} s {series}");
    }
    for (series, up) in server.query("max_over_time(up{job!=\"good\"}[15s])")? {
        println!("up {up} {series}");
    }
    let down = server.query("min_over_time(up{job=\"good\"}[15s]) == 0")?;
    ensure!(down.is_empty(), "{down:?}");
    for (series, n) in server.query("count_over_time(up{job=\"good\"}[15s])")? {
        println!("{n} scrapes of {series}");
        // One a second, fewer where the machine has other work.
        ensure!(n.parse::<u32>()? >= 4, "only {n} scrapes of {series}");
    }
    ensure!(peak < before + 1500, "{before} MB grew to {peak} MB");
    // When the harm ends, so does what it costs.
    configuration(folder.path(), &good, &[])?;
    ensure!(net::post(server.address, "/-/reload", "")?.status == 200);
    eventually(30, "memory goes back", || {
        let (now, _) = usage(&server)?;
        Ok((now < before + 500).then(|| println!("{now} MB afterwards")))
    })?;
    server.stop()
}

#[test]
fn stops_whatever_is_being_scraped() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = asked.clone();
    let silent = listen(|_| {
        std::thread::sleep(Duration::from_secs(300));
        Ok(())
    })?;
    // Some seconds to read, more than there are threads for.
    let large = net::exporter(move |_| {
        count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        (0..400_000).map(|i| format!("a{{i=\"{i}\",b=\"{}\"}} {i}\n", i * 7)).collect()
    })?;
    let file = folder.path().join("prometheus.yml");
    let mut text = "global: {scrape_interval: 3m, scrape_timeout: 3m}\nscrape_configs:\n".to_owned();
    text += &format!(
        "- {{job_name: silent, static_configs: [{{targets: ['{silent}']}}], scrape_interval: 10s, scrape_timeout: 10s}}\n"
    );
    for i in 0..12 {
        text += &format!(
            "- {{job_name: large{i}, scrape_interval: 2s, scrape_timeout: 2s, static_configs: [{{targets: ['{large}']}}]}}\n"
        );
    }
    std::fs::write(&file, text)?;
    let config = format!("--config.file={}", file.display());
    let server = start_narthex(folder.path(), net::free_port()?, &[&config])?;
    eventually(60, "large pages are asked for", || {
        Ok((asked.load(std::sync::atomic::Ordering::SeqCst) >= 12).then_some(()))
    })?;
    server.stop()
}
