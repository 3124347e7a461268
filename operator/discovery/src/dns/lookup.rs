//! Asks name servers as Prometheus asks them (its `discovery/dns`, over the miekg/dns library), which no resolver does
//! as a library has one: every name that a server answers counts, special ones and those with underscores included;
//! aliases are the server's business; the search path ends at the first name that exists, with such records or not.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// How long a server has for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest answer by UDP that is asked for; longer ones come by TCP.
const MAX_UDP: u16 = 4096;

/// Where to ask.
pub(super) struct Resolver {
    /// A file like `/etc/resolv.conf`, read anew for each lookup.
    pub file: PathBuf,
    pub port: u16,
}

#[derive(Debug, PartialEq, Eq)]
struct ResolvConf {
    servers: Vec<String>,
    search: Vec<String>,
    ndots: usize,
}

impl Default for Resolver {
    fn default() -> Resolver {
        Resolver { file: PathBuf::from("/etc/resolv.conf"), port: 53 }
    }
}

impl ResolvConf {
    fn read(file: &Path) -> io::Result<ResolvConf> {
        Ok(ResolvConf::parse(&std::fs::read_to_string(file)?))
    }

    /// What is not known is skipped.
    fn parse(text: &str) -> ResolvConf {
        let mut conf = ResolvConf { servers: Vec::new(), search: Vec::new(), ndots: 1 };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => conf.servers.extend(words.next().map(str::to_owned)),
                Some("domain") => conf.search = words.take(1).map(str::to_owned).collect(),
                Some("search") => conf.search = words.map(str::to_owned).collect(),
                Some("options") => {
                    for dots in words.filter_map(|w| w.strip_prefix("ndots:")) {
                        conf.ndots = dots.parse().unwrap_or(0).min(15);
                    }
                }
                _ => {}
            }
        }
        conf
    }

    /// The names to ask for, in their order. Those with more labels than `ndots` (so Prometheus's library counts) are
    /// tried as they are first.
    fn names(&self, name: &str) -> Vec<String> {
        if name.ends_with('.') {
            return vec![name.to_owned()];
        }
        let itself = format!("{name}.");
        let found = self.search.iter().map(|suffix| format!("{itself}{}.", suffix.trim_end_matches('.')));
        if name.split('.').count() > self.ndots {
            std::iter::once(itself.clone()).chain(found).collect()
        } else {
            found.chain([itself.clone()]).collect()
        }
    }
}

impl Resolver {
    /// The records of the first name on the search path that exists; none where no name does.
    ///
    /// # Errors
    /// When not all of the names before could be asked for.
    pub async fn lookup(&self, name: &str, kind: RecordType) -> Result<Vec<RData>, String> {
        let conf = ResolvConf::read(&self.file).map_err(|e| format!("could not load resolv.conf: {e}"))?;
        let mut all_answered = true;
        for full in conf.names(name) {
            match self.ask_any(&conf, &full, kind).await {
                Some(answer) if answer.metadata.response_code == ResponseCode::NoError => {
                    return Ok(answer.answers.into_iter().map(|record| record.data).collect());
                }
                Some(_) => {}
                None => all_answered = false,
            }
        }
        if all_answered {
            return Ok(Vec::new());
        }
        Err(format!("could not resolve {name:?}: all servers responded with errors to at least one search domain"))
    }

    /// The first answer that says that a name exists, or that it does not.
    async fn ask_any(&self, conf: &ResolvConf, name: &str, kind: RecordType) -> Option<Message> {
        for server in &conf.servers {
            match self.ask(server, name, kind).await {
                Ok(answer) => {
                    if matches!(answer.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain) {
                        return Some(answer);
                    }
                }
                Err(error) => tracing::warn!(server, name, error, "DNS resolution failed"),
            }
        }
        None
    }

    async fn ask(&self, server: &str, name: &str, kind: RecordType) -> Result<Message, String> {
        let labels = name.strip_suffix('.').unwrap_or(name);
        let labels = labels.split('.').filter(|_| !labels.is_empty()).map(str::as_bytes);
        let name = Name::from_labels(labels).map_err(|e| e.to_string())?;
        let mut question = Message::query();
        question.metadata.recursion_desired = true;
        question.add_query(Query::query(name, kind));
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_UDP);
        question.set_edns(edns);
        let timed = async {
            let mut addresses = tokio::net::lookup_host((server, self.port)).await?;
            let address = addresses.next().ok_or_else(|| io::Error::other("no address"))?;
            let answer = timeout(PATIENCE, by_udp(address, &question)).await??;
            if !answer.metadata.truncation {
                return Ok(answer);
            }
            question.edns = None;
            timeout(PATIENCE, by_tcp(address, &question)).await?
        };
        let answer = timed.await.map_err(|e: io::Error| e.to_string())?;
        if answer.metadata.truncation {
            return Err("got truncated message on TCP (64kiB limit exceeded?)".into());
        }
        Ok(answer)
    }
}

/// Whether this is what was asked, as far as anybody who did not see the question can't know.
fn answers(answer: &Message, question: &Message) -> bool {
    answer.metadata.id == question.metadata.id && answer.queries == question.queries
}

async fn by_udp(server: SocketAddr, question: &Message) -> io::Result<Message> {
    let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(&encode(question)?).await?;
    let mut buffer = vec![0; usize::from(MAX_UDP)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Whatever else comes to this port is left aside.
        match Message::from_vec(&buffer[..length]) {
            Ok(answer) if answers(&answer, question) => return Ok(answer),
            Ok(_) => {}
            Err(e) => return Err(io::Error::other(e)),
        }
    }
}

async fn by_tcp(server: SocketAddr, question: &Message) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let bytes = encode(question)?;
    stream.write_u16(bytes.len() as u16).await?;
    stream.write_all(&bytes).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    match Message::from_vec(&buffer) {
        Ok(answer) if answers(&answer, question) => Ok(answer),
        Ok(_) => Err(io::Error::other("the answer to another question")),
        Err(e) => Err(io::Error::other(e)),
    }
}

fn encode(message: &Message) -> io::Result<Vec<u8>> {
    message.to_vec().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_the_search_path() {
        let conf = ResolvConf::parse(
            "# c\nnameserver 1.1.1.1\nnameserver\nnameserver ::1 x\nsearch a.b c.\n;\noptions rotate ndots:2",
        );
        assert_eq!(conf.servers, ["1.1.1.1", "::1"]);
        for (name, expected) in [
            ("x.", &["x."][..]),
            ("x", &["x.a.b.", "x.c.", "x."]),
            ("x.y", &["x.y.a.b.", "x.y.c.", "x.y."]),
            ("x.y.z", &["x.y.z.", "x.y.z.a.b.", "x.y.z.c."]),
        ] {
            assert_eq!(conf.names(name), expected, "{name}");
        }
        assert_eq!(
            ResolvConf::parse("search a\ndomain b c\noptions ndots:99 ndots:"),
            ResolvConf { servers: vec![], search: vec!["b".into()], ndots: 0 }
        );
        assert_eq!(ResolvConf::parse("options ndots:99").ndots, 15);
    }
}
