//! Sending samples to a server's admin API, in requests of bounded size.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use narthex_model::Labels;
use narthex_model::{protobuf as wire, varint};
use narthex_server::read::encode::is_integer;
use serde_json::Value;

use crate::tool::ask::Server;
use crate::tool::blocks::Decoded;

const PATH: &str = "/api/v1/admin/tsdb/backfill";
/// A request ends when it has so many bytes. The server takes four times as much, and a piece is much smaller.
const FULL: usize = 8 << 20;
/// A request ends between two targets when it has so many samples already: the server stores those of a target
/// together.
const ENOUGH: usize = 150_000;
/// So many samples of a series go in one piece.
const PIECE: usize = 20_000;
/// How often a request is sent that the server cannot take now.
const ATTEMPTS: u32 = 8;

/// What became of samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub sent: u64,
    pub taken: u64,
    pub known: u64,
    pub duplicate: u64,
    pub too_old: u64,
    pub too_new: u64,
    pub invalid: u64,
}

impl Counts {
    /// In words, what is zero left out.
    pub fn text(&self) -> String {
        let parts = [
            (self.taken, "stored"),
            (self.known, "there already"),
            (self.duplicate, "in contradiction to what is there, left out"),
            (self.too_old, "older than the server's retention, left out"),
            (self.too_new, "in the future, left out"),
            (self.invalid, "not valid, left out"),
        ];
        let parts: Vec<String> =
            parts.into_iter().filter(|p| p.0 > 0 || p.1 == "stored").map(|(n, what)| format!("{n} {what}")).collect();
        format!("{} samples: {}", self.sent, parts.join(", "))
    }
}

pub struct Sender<'s> {
    server: &'s Server,
    numbers: HashMap<String, u64>,
    symbols: Vec<u8>,
    series: Vec<u8>,
    samples: usize,
    pub counts: Counts,
}

impl<'s> Sender<'s> {
    pub fn new(server: &'s Server) -> Sender<'s> {
        let mut sender = Sender {
            server,
            numbers: HashMap::new(),
            symbols: Vec::new(),
            series: Vec::new(),
            samples: 0,
            counts: Counts::default(),
        };
        sender.symbol("");
        sender
    }

    fn symbol(&mut self, text: &str) -> u64 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.numbers.len() as u64;
        self.numbers.insert(text.to_owned(), number);
        wire::bytes_field(&mut self.symbols, 4, text.as_bytes());
        number
    }

    /// The beginning of a series' message: its labels by the numbers of their symbols.
    fn message_of(&mut self, labels: &Labels) -> Vec<u8> {
        let mut refs = Vec::new();
        for text in labels.iter().flat_map(|(name, value)| [name, value]) {
            let number = self.symbol(text);
            varint::put(&mut refs, number);
        }
        let mut message = Vec::new();
        wire::bytes_field(&mut message, 1, &refs);
        message
    }

    /// Adds samples of a series, and sends what is there when it is enough.
    ///
    /// # Errors
    /// As [`Sender::flush`].
    pub fn add(&mut self, labels: &Labels, samples: &Decoded) -> anyhow::Result<()> {
        for floats in samples.floats.chunks(PIECE) {
            let mut message = self.message_of(labels);
            message.reserve(floats.len() * 20);
            for (t, v, start) in floats {
                let optional = |n: i64| if n == 0 { 0 } else { 1 + varint::len(n as u64) };
                let len = if v.to_bits() == 0 { 0 } else { 9 } + optional(*t) + optional(*start);
                message.push(2 << 3 | 2);
                varint::put(&mut message, len as u64);
                wire::double_field(&mut message, 1, *v);
                wire::varint_field(&mut message, 2, *t as u64);
                wire::varint_field(&mut message, 3, *start as u64);
            }
            self.put(&message, floats.len())?;
        }
        let mut rest = samples.histograms.iter().peekable();
        while rest.peek().is_some() {
            let mut message = self.message_of(labels);
            let mut count = 0;
            // Histograms may be large.
            while count < PIECE && message.len() < FULL / 2 {
                let Some(sample) = rest.next() else { break };
                wire::message(&mut message, 3, |out| {
                    wire::histogram(out, sample.time, &sample.histogram, is_integer(&sample.histogram));
                    wire::varint_field(out, 17, sample.start as u64);
                });
                count += 1;
            }
            self.put(&message, count)?;
        }
        Ok(())
    }

    fn put(&mut self, message: &[u8], samples: usize) -> anyhow::Result<()> {
        wire::bytes_field(&mut self.series, 5, message);
        self.samples += samples;
        if self.series.len() + self.symbols.len() >= FULL { self.flush() } else { Ok(()) }
    }

    /// To be called between two targets: sends what is there if that is worth it.
    ///
    /// # Errors
    /// As [`Sender::flush`].
    pub fn target_done(&mut self) -> anyhow::Result<()> {
        if self.samples >= ENOUGH { self.flush() } else { Ok(()) }
    }

    /// Sends what is there.
    ///
    /// # Errors
    /// When the server does not take it, even after some time.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        if self.samples == 0 {
            return Ok(());
        }
        let mut body = std::mem::take(&mut self.symbols);
        body.append(&mut self.series);
        self.numbers.clear();
        let sent = std::mem::take(&mut self.samples) as u64;
        self.symbol("");
        let body = Bytes::from(snap::raw::Encoder::new().compress_vec(&body)?);
        let data = self.post(body)?;
        let count = |name: &str| data[name].as_u64().unwrap_or_default();
        let all = &mut self.counts;
        all.sent += sent;
        all.taken += count("taken");
        all.known += count("known");
        all.duplicate += count("duplicate");
        all.too_old += count("tooOld");
        all.too_new += count("tooNew");
        all.invalid += count("invalid");
        Ok(())
    }

    fn post(&self, body: Bytes) -> anyhow::Result<Value> {
        let url = self.server.url(PATH);
        let mut headers = HeaderMap::new();
        let kind = HeaderValue::from_static("application/x-protobuf;proto=io.prometheus.write.v2.Request");
        headers.insert(CONTENT_TYPE, kind);
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("snappy"));
        let mut attempt = 0;
        let answer = loop {
            attempt += 1;
            let answer = self.server.send(Method::POST, &url, headers.clone(), body.clone());
            let again = match &answer {
                Ok(answer) => answer.status == StatusCode::SERVICE_UNAVAILABLE && !is_disabled(&answer.body),
                Err(_) => true,
            };
            if !again || attempt >= ATTEMPTS {
                break answer.with_context(|| format!("send to {url}"))?;
            }
            self.server.wait(Duration::from_millis(250 << attempt));
        };
        let text = || String::from_utf8_lossy(&answer.body).trim().to_owned();
        match answer.status {
            StatusCode::OK => {}
            _ if is_disabled(&answer.body) => {
                bail!("the admin API of {url} is disabled: start the server with --web.enable-admin-api")
            }
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
                bail!("{url} takes no history ({}): is it a Narthex of this version?", answer.status)
            }
            status => bail!("{url}: {status}: {}", text()),
        }
        let parsed: Value = serde_json::from_slice(&answer.body).with_context(|| format!("answer of {url}"))?;
        for warning in parsed["warnings"].as_array().into_iter().flatten() {
            eprintln!("warning: {}", warning.as_str().unwrap_or_default());
        }
        Ok(parsed["data"].clone())
    }
}

fn is_disabled(body: &[u8]) -> bool {
    String::from_utf8_lossy(body).contains("admin APIs disabled")
}
