//! A server under test: its process, its HTTP API, and remote write into it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use prost::Message;
use serde_json::Value;

use super::data::{NativeHistogram, Point, Series};

/// A process that speaks Prometheus's API on loopback. Dropping it kills it.
pub struct Server {
    child: Child,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts `binary` with `args`, in which `{address}` and `{dir}` stand for where to listen and where to work, and
    /// waits until it is ready.
    pub fn start(binary: &Path, args: &[&str], dir: &Path) -> Result<Server> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let log = std::fs::File::create(dir.join("log"))?;
        let args = args.iter().map(|a| a.replace("{address}", &address).replace("{dir}", &dir.to_string_lossy()));
        let child = Command::new(binary)
            .args(args)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", binary.display()))?;
        let mut server = Server { child, address };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !matches!(server.request("GET", "/-/ready", "", &[]), Ok((200, _))) {
            let log = || std::fs::read_to_string(dir.join("log")).unwrap_or_default();
            if let Some(status) = server.child.try_wait()? {
                bail!("{} ended with {status}: {}", binary.display(), log());
            }
            ensure!(Instant::now() < deadline, "{} is not ready: {}", binary.display(), log());
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(server)
    }

    /// One request on a connection of its own: status and body.
    fn request(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply)?;
        let split = reply.windows(4).position(|w| w == b"\r\n\r\n").context("a reply without a head")?;
        let head = String::from_utf8_lossy(&reply[..split]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("a reply without a status")?;
        let body = &reply[split + 4..];
        let body = if head.contains("transfer-encoding: chunked") { dechunk(body)? } else { body.to_vec() };
        Ok((status, body))
    }

    /// Asks `/api/v1/{endpoint}` by POST. The reply whatever its status is.
    pub fn ask(&self, endpoint: &str, form: &[(&str, &str)]) -> Result<Value> {
        let body: Vec<String> = form.iter().map(|(k, v)| format!("{k}={}", escape(v))).collect();
        let headers = "Content-Type: application/x-www-form-urlencoded\r\n";
        let (status, reply) =
            self.request("POST", &format!("/api/v1/{endpoint}"), headers, body.join("&").as_bytes())?;
        serde_json::from_slice(&reply).with_context(|| format!("status {status}: {}", String::from_utf8_lossy(&reply)))
    }

    /// Writes all samples, in order of time, so many milliseconds by a request.
    pub fn load(&self, series: &[Series], slice: i64) -> Result<()> {
        let times = || series.iter().flat_map(|s| s.points.iter().map(|(t, _)| *t));
        let (Some(first), Some(last)) = (times().min(), times().max()) else { return Ok(()) };
        let mut from = first;
        while from <= last {
            let request =
                WriteRequest { timeseries: series.iter().flat_map(|s| time_series(s, from, from + slice)).collect() };
            let body = snap::raw::Encoder::new().compress_vec(&request.encode_to_vec())?;
            let headers = "Content-Type: application/x-protobuf\r\nContent-Encoding: snappy\r\n\
                           X-Prometheus-Remote-Write-Version: 0.1.0\r\n";
            let (status, reply) = self.request("POST", "/api/v1/write", headers, &body)?;
            ensure!(status / 100 == 2, "remote write: {status} {}", String::from_utf8_lossy(&reply));
            from += slice;
        }
        Ok(())
    }
}

fn dechunk(mut body: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let end = body.windows(2).position(|w| w == b"\r\n").context("a chunk without a size")?;
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end])?.trim(), 16)?;
        if size == 0 {
            return Ok(out);
        }
        let chunk = body.get(end + 2..end + 2 + size).context("a chunk that is cut off")?;
        out.extend_from_slice(chunk);
        body = body.get(end + 4 + size..).context("a chunk without an end")?;
    }
}

fn escape(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { (b as char).to_string() } else { format!("%{b:02X}") })
        .collect()
}

/// The points of a series from `from` to before `to`. Of one entry the samples are taken before the histograms, so each
/// run of a kind is an entry of its own.
fn time_series(series: &Series, from: i64, to: i64) -> Vec<TimeSeries> {
    let labels: Vec<Label> = series.labels.iter().map(|(n, v)| Label { name: n.clone(), value: v.clone() }).collect();
    let points: Vec<&(i64, Point)> = series.points.iter().filter(|(t, _)| (from..to).contains(t)).collect();
    let is_float = |p: &(i64, Point)| matches!(p.1, Point::Float(_));
    let runs = points.chunk_by(|a, b| is_float(a) == is_float(b));
    runs.map(|run| {
        let mut out = TimeSeries { labels: labels.clone(), ..Default::default() };
        for (timestamp, point) in run {
            match point {
                Point::Float(value) => out.samples.push(Sample { value: Some(*value), timestamp: *timestamp }),
                Point::Histogram(h) => out.histograms.push(histogram(h, *timestamp)),
            }
        }
        out
    })
    .collect()
}

fn histogram(h: &NativeHistogram, timestamp: i64) -> Histogram {
    fn spans(spans: &[(i32, u32)]) -> Vec<Span> {
        spans.iter().map(|(offset, length)| Span { offset: *offset, length: *length }).collect()
    }
    Histogram {
        count_float: Some(h.count),
        sum: Some(h.sum),
        schema: h.schema,
        zero_threshold: h.zero_threshold,
        zero_count_float: Some(h.zero_count),
        negative_spans: spans(&h.negative_spans),
        negative_counts: h.negative.clone(),
        positive_spans: spans(&h.positive_spans),
        positive_counts: h.positive.clone(),
        reset_hint: if h.gauge { 3 } else { 0 },
        timestamp,
        custom_values: h.custom_values.clone(),
    }
}

// Remote write 1.0 (`prompb/types.proto`), what of it is sent here.

#[derive(Clone, PartialEq, Message)]
struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
}

#[derive(Clone, PartialEq, Message)]
struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    histograms: Vec<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    /// Optional, so that -0 is written: as zero, it would be left out.
    #[prost(double, optional, tag = "1")]
    value: Option<f64>,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(double, optional, tag = "2")]
    count_float: Option<f64>,
    #[prost(double, optional, tag = "3")]
    sum: Option<f64>,
    #[prost(sint32, tag = "4")]
    schema: i32,
    #[prost(double, tag = "5")]
    zero_threshold: f64,
    #[prost(double, optional, tag = "7")]
    zero_count_float: Option<f64>,
    #[prost(message, repeated, tag = "8")]
    negative_spans: Vec<Span>,
    #[prost(double, repeated, tag = "10")]
    negative_counts: Vec<f64>,
    #[prost(message, repeated, tag = "11")]
    positive_spans: Vec<Span>,
    #[prost(double, repeated, tag = "13")]
    positive_counts: Vec<f64>,
    #[prost(int32, tag = "14")]
    reset_hint: i32,
    #[prost(int64, tag = "15")]
    timestamp: i64,
    #[prost(double, repeated, tag = "16")]
    custom_values: Vec<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(sint32, tag = "1")]
    offset: i32,
    #[prost(uint32, tag = "2")]
    length: u32,
}
