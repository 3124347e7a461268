//! Heads and chunks of HTTP/1 answers, looked at before hyper sees them: what Go's client refuses is refused in its words,
//! and what it takes is handed on in a form that hyper takes, too (folded lines, doubled lengths, interim answers).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connect::READ_BUFFER;

/// A stream of answers, one for each time that `expecting` is set.
pub(crate) struct Answers<T> {
    io: T,
    expecting: Arc<AtomicBool>,
    state: State,
    /// What of a head has come.
    head: Vec<u8>,
    /// What is to be handed on, from `at`.
    out: Vec<u8>,
    at: usize,
    /// Bytes of interim heads before the answer.
    interim: usize,
}

enum State {
    Head,
    Chunks(Chunks),
    /// A body by its length, or what is not looked at.
    Rest,
    /// Behind what cannot be read on.
    Fault(String),
}

/// A head that is to be handed on.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    /// Bytes that it takes.
    len: usize,
    status: u16,
    chunked: bool,
    text: Vec<u8>,
}

fn broken(text: &str) -> String {
    format!("net/http: HTTP/1.x transport connection broken: {text}")
}

/// A text of bytes as Go quotes it.
fn quoted(bytes: &[u8]) -> String {
    go_quote(&String::from_utf8_lossy(bytes))
}

/// Go's `%q` of what can stand in a line.
fn go_quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0b' => out.push_str("\\v"),
            '\x0c' => out.push_str("\\f"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn position(wanted: u8, bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|b| *b == wanted)
}

fn trim(line: &[u8]) -> &[u8] {
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let start = line.iter().position(|b| !blank(b)).unwrap_or(line.len());
    let end = line.iter().rposition(|b| !blank(b)).map_or(start, |i| i + 1);
    line.get(start..end).unwrap_or_default()
}

/// The next line without its end, and where the one behind it begins. At the stream's `end` what is left is a line.
fn line(bytes: &[u8], from: usize, end: bool) -> Option<(&[u8], usize)> {
    let rest = bytes.get(from..)?;
    let (text, next) = match position(b'\n', rest) {
        Some(at) => (&rest[..at], from + at + 1),
        None if end && !rest.is_empty() => (rest, bytes.len()),
        None => return None,
    };
    Some((text.strip_suffix(b"\r").unwrap_or(text), next))
}

fn is_name_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// A head's fields up to the blank line, and where they end; `None` where they are not complete.
#[allow(clippy::type_complexity)]
fn fields(bytes: &[u8], start: usize, end: bool) -> Result<Option<(Vec<(Vec<u8>, Vec<u8>)>, usize)>, String> {
    let mut out: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    if let Some(b' ' | b'\t') = bytes.get(start) {
        return match line(bytes, start, end) {
            Some((text, _)) => Err(format!("malformed MIME header initial line: {}", quoted(text))),
            None => Ok(None),
        };
    }
    let mut at = start;
    loop {
        let Some((first, mut next)) = line(bytes, at, end) else {
            return if end { Err("unexpected EOF".to_owned()) } else { Ok(None) };
        };
        if first.is_empty() {
            return Ok(Some((out, next)));
        }
        if !first.contains(&b':') {
            return Err(format!("malformed MIME header: missing colon: {}", quoted(first)));
        }
        let mut field = trim(first).to_vec();
        // Lines that go on with a blank belong to it.
        loop {
            match bytes.get(next) {
                Some(b' ' | b'\t') => {}
                Some(_) => break,
                None if end => break,
                None => return Ok(None),
            }
            let Some((more, behind)) = line(bytes, next, end) else { return Ok(None) };
            field.push(b' ');
            field.extend_from_slice(trim(more));
            next = behind;
        }
        let malformed = || format!("malformed MIME header line: {}", quoted(&field));
        let colon = position(b':', &field).ok_or_else(malformed)?;
        let (name, value) = (&field[..colon], &field[colon + 1..]);
        if name.is_empty() || !name.iter().all(|b| is_name_byte(*b) || *b == b' ') {
            return Err(malformed());
        }
        if value.iter().any(|b| (*b < b' ' && *b != b'\t') || *b == 0x7f) {
            return Err(malformed());
        }
        out.push((name.to_vec(), trim(value).to_vec()));
        at = next;
    }
}

/// Reads a head; `end` when nothing follows what is there. `None` when it is not complete.
fn head(bytes: &[u8], end: bool) -> Result<Option<Head>, String> {
    let Some((first, next)) = line(bytes, 0, end) else { return Ok(None) };
    let Some(space) = position(b' ', first) else {
        return Err(format!("malformed HTTP response {}", quoted(first)));
    };
    let (version, status) = (&first[..space], first[space..].trim_ascii_start());
    let code = status.split(|b| *b == b' ').next().unwrap_or_default();
    let number = std::str::from_utf8(code).ok().filter(|c| c.len() == 3).and_then(|c| c.parse::<i16>().ok());
    let Some(number) = number.filter(|n| *n >= 0) else {
        return Err(format!("malformed HTTP status code {}", quoted(code)));
    };
    let [b'H', b'T', b'T', b'P', b'/', major @ b'0'..=b'9', b'.', minor @ b'0'..=b'9'] = version else {
        return Err(format!("malformed HTTP version {}", quoted(version)));
    };
    let Some((fields, len)) = fields(bytes, next, end)? else { return Ok(None) };
    let modern = (*major, *minor) >= (b'1', b'1');
    let of = |name: &str| -> Vec<&[u8]> {
        let named = fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes()));
        named.map(|(_, v)| v.as_slice()).collect()
    };
    let list = |values: &[&[u8]]| format!("[{}]", values.iter().map(|v| quoted(v)).collect::<Vec<_>>().join(" "));
    let mut chunked = false;
    let encodings = of("transfer-encoding");
    if modern && !encodings.is_empty() {
        match &encodings[..] {
            [one] if one.eq_ignore_ascii_case(b"chunked") => chunked = true,
            [one] => return Err(format!("unsupported transfer encoding: {}", quoted(one))),
            more => return Err(format!("too many transfer encodings: {}", list(more))),
        }
    }
    let lengths = of("content-length");
    let mut length = None;
    if let Some(first) = lengths.first() {
        if lengths.iter().any(|l| l != first) {
            return Err(format!(
                "http: message cannot contain multiple Content-Length headers; got {}",
                list(&lengths)
            ));
        }
        if first.is_empty() {
            return Err(format!("invalid empty Content-Length {}", quoted(first)));
        }
        let digits = first.iter().all(u8::is_ascii_digit);
        let known = std::str::from_utf8(first).ok().filter(|_| digits).and_then(|l| l.parse::<i64>().ok());
        length = Some(known.ok_or_else(|| format!("bad Content-Length {}", quoted(first)))?);
    }
    let mut text = format!("HTTP/1.{} ", u8::from(modern)).into_bytes();
    text.extend_from_slice(status);
    text.extend_from_slice(b"\r\n");
    for (name, value) in &fields {
        let framing = ["transfer-encoding", "content-length"].iter().any(|f| name.eq_ignore_ascii_case(f.as_bytes()));
        // A name with a blank is one that nobody asks for.
        if !framing && !name.contains(&b' ') {
            text.extend_from_slice(name);
            text.extend_from_slice(b": ");
            text.extend_from_slice(value);
            text.extend_from_slice(b"\r\n");
        }
    }
    match length {
        _ if chunked => text.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Some(length) => text.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes()),
        None => {}
    }
    text.extend_from_slice(b"\r\n");
    Ok(Some(Head { len, status: number.unsigned_abs(), chunked, text }))
}

/// Where in a chunked body the stream is.
#[derive(Debug, PartialEq, Eq)]
enum Chunks {
    /// In a line that tells a chunk's size.
    Size(Vec<u8>),
    Data(u64),
    /// Behind a chunk: so many of its last two bytes have come.
    End(usize),
    /// Behind the last chunk.
    Trailer(Vec<u8>),
    Done,
}

/// The longest line with a chunk's size, and the longest trailer.
const MAX_LINE: usize = 4096;

impl Chunks {
    /// Looks at what comes next of the body.
    fn feed(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while let Some(first) = bytes.first().copied() {
            match self {
                Chunks::Data(left) => {
                    let n = (*left).min(bytes.len() as u64);
                    *left -= n;
                    bytes = bytes.get(n as usize..).unwrap_or_default();
                    if *left == 0 {
                        *self = Chunks::End(0);
                    }
                }
                Chunks::End(n) => {
                    if first != b"\r\n"[*n] {
                        return Err("malformed chunked encoding".to_owned());
                    }
                    bytes = &bytes[1..];
                    *self = if *n == 0 { Chunks::End(1) } else { Chunks::Size(Vec::new()) };
                }
                Chunks::Size(line) => {
                    let end = position(b'\n', bytes);
                    let (part, rest) = bytes.split_at(end.map_or(bytes.len(), |e| e + 1));
                    line.extend_from_slice(part);
                    bytes = rest;
                    if line.len() > MAX_LINE {
                        return Err("header line too long".to_owned());
                    }
                    if end.is_some() {
                        *self = match size(line)? {
                            0 => Chunks::Trailer(Vec::new()),
                            n => Chunks::Data(n),
                        };
                    }
                }
                Chunks::Trailer(text) => {
                    text.push(first);
                    bytes = &bytes[1..];
                    if text.len() > MAX_LINE {
                        return Err("http: suspiciously long trailer after chunked body".to_owned());
                    }
                    if text == b"\r\n" || text.ends_with(b"\r\n\r\n") {
                        fields(text, 0, true)?;
                        *self = Chunks::Done;
                    }
                }
                Chunks::Done => return Ok(()),
            }
        }
        Ok(())
    }
}

/// The size that a line tells, its end included.
fn size(line: &[u8]) -> Result<u64, &'static str> {
    match position(b'\r', line) {
        None => return Err("chunked line ends with bare LF"),
        Some(at) if at + 2 != line.len() => return Err("invalid CR in chunked line"),
        Some(_) => {}
    }
    let line = &line[..line.len() - 2];
    let end = line.iter().rposition(|b| !matches!(b, b' ' | b'\t')).map_or(0, |i| i + 1);
    let digits = line[..end].split(|b| *b == b';').next().unwrap_or_default();
    if digits.is_empty() {
        return Err("empty hex number for chunk length");
    }
    let mut n = 0u64;
    for (i, b) in digits.iter().enumerate() {
        let digit = (*b as char).to_digit(16).ok_or("invalid byte in chunk length")?;
        if i == 16 {
            return Err("http chunk length too large");
        }
        n = n << 4 | u64::from(digit);
    }
    Ok(n)
}

impl<T> Answers<T> {
    pub fn new(io: T, expecting: Arc<AtomicBool>) -> Answers<T> {
        Answers { io, expecting, state: State::Rest, head: Vec::new(), out: Vec::new(), at: 0, interim: 0 }
    }

    /// Takes over what has come of a head; at the stream's `end` it has to be whole.
    fn advance(&mut self, end: bool) -> io::Result<()> {
        while matches!(self.state, State::Head) {
            if end && self.head.is_empty() {
                return Ok(());
            }
            match head(&self.head, end).map_err(|e| io::Error::other(broken(&e)))? {
                None if end => return Err(io::Error::other(broken("unexpected EOF"))),
                // Too long: left to hyper, which says so.
                None if self.head.len() + self.interim > READ_BUFFER => {
                    self.out = std::mem::take(&mut self.head);
                    self.state = State::Rest;
                }
                None => return Ok(()),
                Some(head) if head.status / 100 == 1 && head.status != 101 => {
                    self.interim += head.len;
                    self.head.drain(..head.len);
                }
                Some(head) => {
                    let body = self.head.split_off(head.len);
                    self.out = head.text;
                    self.state = State::Rest;
                    if head.chunked && !matches!(head.status, 101 | 204 | 304) {
                        let mut chunks = Chunks::Size(Vec::new());
                        self.state = match chunks.feed(&body) {
                            Ok(()) => State::Chunks(chunks),
                            // The head is good: who reads the body is told.
                            Err(e) => State::Fault(e),
                        };
                    }
                    if !matches!(self.state, State::Fault(_)) {
                        self.out.extend_from_slice(&body);
                    }
                    self.head = Vec::new();
                }
            }
        }
        Ok(())
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Answers<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.expecting.load(Ordering::Relaxed) && this.at == this.out.len() {
            this.expecting.store(false, Ordering::Relaxed);
            this.state = State::Head;
            this.interim = 0;
        }
        loop {
            if let Some(rest) = this.out.get(this.at..).filter(|r| !r.is_empty()) {
                let n = rest.len().min(buf.remaining());
                buf.put_slice(&rest[..n]);
                this.at += n;
                if this.at == this.out.len() {
                    (this.out, this.at) = (Vec::new(), 0);
                }
                return Poll::Ready(Ok(()));
            }
            match &mut this.state {
                State::Rest => return Pin::new(&mut this.io).poll_read(cx, buf),
                State::Fault(e) => return Poll::Ready(Err(io::Error::other(e.clone()))),
                State::Chunks(chunks) => {
                    let before = buf.filled().len();
                    ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
                    let new = buf.filled().get(before..).unwrap_or_default();
                    if new.is_empty() && buf.remaining() > 0 && matches!(chunks, Chunks::Trailer(_)) {
                        return Poll::Ready(Err(io::Error::other("http: unexpected EOF reading trailer")));
                    }
                    return Poll::Ready(chunks.feed(new).map_err(io::Error::other));
                }
                State::Head => {
                    let mut space = [0; 4096];
                    let mut part = ReadBuf::new(&mut space);
                    ready!(Pin::new(&mut this.io).poll_read(cx, &mut part))?;
                    let end = part.filled().is_empty();
                    this.head.extend_from_slice(part.filled());
                    this.advance(end)?;
                    if end && this.out.is_empty() {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Answers<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let check = |text: &str, end: bool, expected: Result<Option<&str>, &str>| {
            let read = head(text.as_bytes(), end);
            let read = read.map(|h| h.map(|h| String::from_utf8(h.text).unwrap()));
            assert_eq!(read, expected.map(|e| e.map(str::to_owned)).map_err(str::to_owned), "{text:?}");
        };
        let ok = |text| Ok(Some(text));
        check("HTTP/1.1 200 OK\r\na: b\r\n\r\nbody", false, ok("HTTP/1.1 200 OK\r\na: b\r\n\r\n"));
        check("HTTP/1.1   200\nA:b \n c\n\n", false, ok("HTTP/1.1 200\r\nA: b c\r\n\r\n"));
        check("HTTP/1.0 200 OK\r\nTransfer-Encoding: x\r\n\r\n", false, ok("HTTP/1.0 200 OK\r\n\r\n"));
        check("HTTP/2.0 200 OK\r\nB : c\r\n\r\n", false, ok("HTTP/1.1 200 OK\r\n\r\n"));
        let both = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\ntransfer-encoding: Chunked\r\n\r\n";
        check(both, false, ok("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"));
        let twice = "HTTP/1.1 200 OK\r\nContent-Length: 04\r\nContent-Length: 04\r\n\r\n";
        check(twice, false, ok("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"));
        check("HTTP/1.1 200 OK\r\na: b\r\n", false, Ok(None));
        check("HTTP/1.1 200 OK", false, Ok(None));
        check("HTTP/1.1 200 OK", true, Err("unexpected EOF"));
        for (text, fault) in [
            ("\r\n", "malformed HTTP response \"\""),
            ("HTTP/1.1\t200\r\n", "malformed HTTP response \"HTTP/1.1\\t200\""),
            ("HTTP/1.1 20 OK\r\n", "malformed HTTP status code \"20\""),
            ("HTTP/1.1 -20 OK\r\n", "malformed HTTP status code \"-20\""),
            ("http/1.1 200 OK\r\n", "malformed HTTP version \"http/1.1\""),
            ("HTTP/1.1 200 OK\r\n a: b\r\n", "malformed MIME header initial line: \" a: b\""),
            ("HTTP/1.1 200 OK\r\nodd\r\n", "malformed MIME header: missing colon: \"odd\""),
            ("HTTP/1.1 200 OK\r\n: b\r\n\r\n", "malformed MIME header line: \": b\""),
            ("HTTP/1.1 200 OK\r\na: b\0\r\n\r\n", "malformed MIME header line: \"a: b\\x00\""),
            ("HTTP/1.1 200 OK\r\nContent-Length: +4\r\n\r\n", "bad Content-Length \"+4\""),
            ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", "invalid empty Content-Length \"\""),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: x\r\n\r\n", "unsupported transfer encoding: \"x\""),
        ] {
            check(text, false, Err(fault));
        }
    }

    #[test]
    fn chunks() {
        for (body, expected) in [
            ("4\r\na 1\n\r\n0\r\n\r\n", Ok(Chunks::Done)),
            ("4;x \t\r\na 1\n\r\n000\r\nX: y\r\n\r\nmore", Ok(Chunks::Done)),
            ("4\r\na", Ok(Chunks::Data(3))),
            ("0\r\n", Ok(Chunks::Trailer(vec![]))),
            ("x\r\n", Err("invalid byte in chunk length")),
            ("\r\n", Err("empty hex number for chunk length")),
            ("1\n", Err("chunked line ends with bare LF")),
            ("1\r1\r\n", Err("invalid CR in chunked line")),
            ("11111111111111111\r\n", Err("http chunk length too large")),
            ("1\r\nab", Err("malformed chunked encoding")),
            ("0\r\nodd\r\n\r\n", Err("malformed MIME header: missing colon: \"odd\"")),
        ] {
            for step in 1..=body.len() {
                let mut chunks = Chunks::Size(Vec::new());
                let fed = body.as_bytes().chunks(step).try_for_each(|part| chunks.feed(part));
                let expected = expected.as_ref().map(clone).map_err(|e| (*e).to_owned());
                assert_eq!(fed.map(|()| chunks), expected, "{body:?} by {step}");
            }
        }
    }

    fn clone(chunks: &Chunks) -> Chunks {
        match chunks {
            Chunks::Data(n) => Chunks::Data(*n),
            Chunks::Trailer(t) => Chunks::Trailer(t.clone()),
            _ => Chunks::Done,
        }
    }
}
