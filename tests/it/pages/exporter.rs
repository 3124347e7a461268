//! An exporter that answers byte for byte what a test wants, each server at its own port, and counts who has seen what.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;

/// How a body is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// With its length.
    #[default]
    Length,
    /// In chunks of 7 bytes.
    Chunked,
    /// In chunks, without the last one.
    ChunkedCut,
    /// With a length that is 10 more than what comes.
    Short,
    /// Until the connection is closed.
    Close,
    /// The connection is closed instead of an answer.
    None,
    /// The body is the whole answer; the connection is closed behind it.
    Raw,
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: &'static str,
    pub content_type: Option<String>,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    pub framing: Framing,
}

impl Reply {
    pub fn new(content_type: &str, body: impl Into<Vec<u8>>) -> Reply {
        Reply {
            status: "200 OK",
            content_type: Some(content_type.to_owned()),
            headers: Vec::new(),
            body: body.into(),
            framing: Framing::Length,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        if self.framing == Framing::Raw {
            return self.body.clone();
        }
        let mut out = format!("HTTP/1.1 {}\r\n", self.status).into_bytes();
        if let Some(content_type) = &self.content_type {
            out.extend_from_slice(format!("Content-Type: {content_type}\r\n").as_bytes());
        }
        for (name, value) in &self.headers {
            out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        match self.framing {
            Framing::Length => out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", self.body.len()).as_bytes()),
            Framing::Short => {
                out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", self.body.len() + 10).as_bytes());
            }
            Framing::Close => out.extend_from_slice(b"Connection: close\r\n\r\n"),
            Framing::Chunked | Framing::ChunkedCut => {
                out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                for chunk in self.body.chunks(7) {
                    out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    out.extend_from_slice(chunk);
                    out.extend_from_slice(b"\r\n");
                }
                if self.framing == Framing::Chunked {
                    out.extend_from_slice(b"0\r\n\r\n");
                }
                return out;
            }
            Framing::None | Framing::Raw => return Vec::new(),
        }
        out.extend_from_slice(&self.body);
        out
    }
}

/// What the pages say, step by step, and how often each was asked for in this step.
pub struct Exporter {
    pages: HashMap<String, (usize, Vec<Reply>)>,
    others: HashMap<String, Vec<Reply>>,
    step: AtomicUsize,
    /// By server, then by page: (step, how often).
    seen: [Mutex<Vec<(usize, usize)>>; 2],
    requests: [Mutex<HashMap<usize, String>>; 2],
}

impl Exporter {
    /// `others` are served, too, but nobody has to ask for them.
    pub fn new(pages: impl Iterator<Item = (String, Vec<Reply>)>, others: Vec<(String, Vec<Reply>)>) -> Exporter {
        let pages: HashMap<_, _> = pages.enumerate().map(|(i, (path, steps))| (path, (i, steps))).collect();
        let seen = vec![(0, 0); pages.len()];
        Exporter {
            pages,
            others: others.into_iter().collect(),
            step: AtomicUsize::new(0),
            seen: [Mutex::new(seen.clone()), Mutex::new(seen)],
            requests: Default::default(),
        }
    }

    /// Serves one of the two servers at a port of its own.
    pub fn listen(self: &Arc<Exporter>, server: usize) -> Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let exporter = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let exporter = exporter.clone();
                let _ = std::thread::Builder::new()
                    .stack_size(256 << 10)
                    .spawn(move || drop(exporter.serve(stream, server)));
            }
        });
        Ok(address)
    }

    pub fn set_step(&self, step: usize) {
        self.step.store(step, Ordering::SeqCst);
    }

    /// Pages that one of the servers has not asked for `times` times in this step.
    pub fn missing(&self, times: usize) -> usize {
        let step = self.step.load(Ordering::SeqCst);
        let count = |seen: &Mutex<Vec<(usize, usize)>>| {
            let seen = seen.lock().unwrap_or_else(|e| e.into_inner());
            seen.iter().filter(|(s, n)| *s != step || *n < times).count()
        };
        self.seen.iter().map(count).sum()
    }

    /// The last request of each server for a page.
    pub fn request(&self, path: &str) -> [String; 2] {
        let index = self.pages.get(path).map_or(usize::MAX, |p| p.0);
        [0, 1].map(|server| {
            let requests = self.requests[server].lock().unwrap_or_else(|e| e.into_inner());
            requests.get(&index).cloned().unwrap_or_default()
        })
    }

    fn serve(&self, stream: TcpStream, server: usize) -> Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        let mut reader = BufReader::with_capacity(4096, stream.try_clone()?);
        let mut out = stream;
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if reader.read_line(&mut head)? == 0 {
                    return Ok(());
                }
            }
            let path = head.split([' ', '?']).nth(1).unwrap_or("/");
            if let Some(reply) = self.others.get(path).and_then(|r| r.first()) {
                out.write_all(&reply.bytes())?;
                continue;
            }
            let Some((index, steps)) = self.pages.get(path) else {
                write!(out, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
                continue;
            };
            let step = self.step.load(Ordering::SeqCst);
            self.requests[server].lock().unwrap_or_else(|e| e.into_inner()).insert(*index, head.clone());
            let Some(reply) = steps.get(step.min(steps.len() - 1)) else { return Ok(()) };
            let sent = out.write_all(&reply.bytes());
            {
                let mut seen = self.seen[server].lock().unwrap_or_else(|e| e.into_inner());
                let seen = &mut seen[*index];
                *seen = if seen.0 == step { (step, seen.1 + 1) } else { (step, 1) };
            }
            sent?;
            if !matches!(reply.framing, Framing::Length | Framing::Chunked) {
                return Ok(());
            }
        }
    }
}
