//! A receiver in this process that answers as it is told to.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use narthex_config::remote::WriteMessage;
use narthex_model::Labels;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::messages::{Got, decode, descriptions};

/// How a request is answered.
#[derive(Clone, Debug)]
pub enum Reply {
    /// 204, and what it held is kept; 2.0's headers say so.
    Accept,
    Status(u16, Vec<(String, String)>),
    /// Never.
    Hang,
    /// The connection is closed.
    Close,
    /// The status, then a body of one byte every 100 ms; what the request held is kept with 200.
    Trickle(u16),
}

impl Reply {
    pub fn status(status: u16) -> Reply {
        Reply::Status(status, Vec::new())
    }

    pub fn header(self, name: &str, value: &str) -> Reply {
        match self {
            Reply::Status(status, mut headers) => {
                headers.push((name.to_owned(), value.to_owned()));
                Reply::Status(status, headers)
            }
            other => other,
        }
    }
}

/// What came.
#[derive(Default)]
pub struct State {
    pub samples: BTreeMap<Labels, Vec<(i64, f64)>>,
    /// The request that is to be answered.
    pub request: Vec<Got>,
    all: Vec<Got>,
    requests: usize,
    connections: usize,
    metadata: usize,
}

type Script = Arc<dyn Fn(usize, &State) -> Reply + Send + Sync>;

pub struct Receiver {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Receiver {
    /// `script` answers the n-th request with data, from 0.
    pub async fn start(script: impl Fn(usize, &State) -> Reply + Send + Sync + 'static) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let (shared, script): (_, Script) = (state.clone(), Arc::new(script));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.lock().connections += 1;
                tokio::spawn(serve(stream, shared.clone(), script.clone()));
            }
        });
        Receiver { address, state }
    }

    pub fn samples(&self) -> BTreeMap<Labels, Vec<(i64, f64)>> {
        self.state.lock().samples.clone()
    }

    pub fn count(&self) -> usize {
        self.state.lock().samples.values().map(Vec::len).sum()
    }

    pub fn all(&self) -> Vec<Got> {
        self.state.lock().all.clone()
    }

    pub fn requests(&self) -> usize {
        self.state.lock().requests
    }

    pub fn connections(&self) -> usize {
        self.state.lock().connections
    }

    pub fn metadata(&self) -> usize {
        self.state.lock().metadata
    }

    pub fn preset(&self, samples: impl Iterator<Item = (Labels, i64, f64)>) {
        let mut state = self.state.lock();
        for (labels, t, v) in samples {
            state.samples.entry(labels).or_default().push((t, v));
        }
    }
}

async fn request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((head, body))
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>, script: Script) {
    while let Some((head, body)) = request(&mut stream).await {
        assert!(head.starts_with("post /w http/1.1\r\n") && head.contains("content-encoding: snappy"), "{head}");
        assert!(head.contains("user-agent: narthex/test"), "{head}");
        let second = head.contains("proto=io.prometheus.write.v2.request");
        assert!(head.contains(if second { "version: 2.0.0" } else { "version: 0.1.0" }), "{head}");
        let message = if second { WriteMessage::V2 } else { WriteMessage::V1 };
        let got = decode(&body, message);
        let keep = |state: &mut State| {
            let got = std::mem::take(&mut state.request);
            for s in &got {
                let kept = state.samples.entry(s.labels.clone());
                if !s.samples.is_empty() {
                    kept.or_default().extend(s.samples.iter().map(|(t, v, _)| (*t, *v)));
                }
            }
            let count = |f: fn(&Got) -> usize| got.iter().map(f).sum::<usize>();
            let written = [count(|s| s.samples.len()), count(|s| s.histograms.len()), count(|s| s.exemplars.len())];
            state.all.extend(got);
            written
        };
        let (reply, written) = {
            let mut state = state.lock();
            if got.is_empty() {
                state.metadata += descriptions(&body);
                (Reply::Accept, [0; 3])
            } else {
                let n = state.requests;
                state.requests += 1;
                state.request = got;
                let reply = script(n, &state);
                let kept = matches!(reply, Reply::Accept | Reply::Trickle(200));
                (reply, if kept { keep(&mut state) } else { [0; 3] })
            }
        };
        let text = match &reply {
            Reply::Hang => return std::future::pending().await,
            Reply::Close => return,
            Reply::Accept => {
                let [s, h, e] = written;
                let headers = if second {
                    format!(
                        "X-Prometheus-Remote-Write-Samples-Written: {s}\r\nX-Prometheus-Remote-Write-Histograms-Written: {h}\r\nX-Prometheus-Remote-Write-Exemplars-Written: {e}\r\n"
                    )
                } else {
                    String::new()
                };
                format!("HTTP/1.1 204 No Content\r\n{headers}\r\n")
            }
            Reply::Status(status, headers) => {
                let headers: String = headers.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
                format!("HTTP/1.1 {status} Status\r\nContent-Length: 3\r\n{headers}\r\nno\n")
            }
            Reply::Trickle(status) => format!("HTTP/1.1 {status} Status\r\nContent-Length: 1000\r\n\r\n"),
        };
        if stream.write_all(text.as_bytes()).await.is_err() {
            return;
        }
        if matches!(reply, Reply::Trickle(_)) {
            for _ in 0..1000 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                if stream.write_all(b"x").await.is_err() {
                    return;
                }
            }
        }
    }
}
