//! What happens to HTTP/1 before hyper reads it: signs that people type into curl are escaped in request lines, and
//! headers have to come in time.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Tells the stream that a request's headers are complete. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Headers(Arc<AtomicBool>);

impl Headers {
    pub fn complete(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The time that a request's headers may take, from its first byte (of the first request: from the connection's
/// beginning) on.
struct HeaderTime {
    limit: Duration,
    complete: Headers,
    timer: Option<Pin<Box<Sleep>>>,
}

impl HeaderTime {
    fn begin(&mut self) {
        if self.timer.is_none() {
            self.timer = Some(Box::pin(tokio::time::sleep_until(Instant::now() + self.limit)));
        }
    }

    /// Whether it is over.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        if self.complete.0.swap(false, Ordering::AcqRel) {
            self.timer = None;
        }
        self.timer.as_mut().is_some_and(|t| t.as_mut().poll(cx).is_ready())
    }
}

/// A connection's stream. Escapes `"`, `<` and `>` in request lines. They may not stand there as they are, but people type selectors into
/// curl, and Go's server takes them.
pub struct Http1<S> {
    stream: S,
    headers: HeaderTime,
    /// Whether what comes next begins a request, or goes on with its first line.
    state: Line,
    /// Read and not yet handed on.
    pending: Vec<u8>,
    at: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    Begins,
    Inside,
    Over,
}

/// Longest part of a request that is looked at for its first line's end.
const PEEK: usize = 16 << 10;

const METHODS: [&[u8]; 6] = [b"GET /", b"POST /", b"HEAD /", b"PUT /", b"OPTIONS /", b"DELETE /"];

impl<S> Http1<S> {
    /// Must be made within a runtime.
    pub fn new(stream: S, header_limit: Duration, complete: Headers) -> Http1<S> {
        let mut headers = HeaderTime { limit: header_limit, complete, timer: None };
        headers.begin();
        Http1 { stream, headers, state: Line::Begins, pending: Vec::new(), at: 0 }
    }

    fn take(&mut self, bytes: &[u8]) {
        if self.state == Line::Begins {
            let request = METHODS.iter().any(|m| bytes.starts_with(m));
            self.state = if request { Line::Inside } else { Line::Over };
        }
        for (i, b) in bytes.iter().enumerate() {
            if self.state != Line::Inside {
                self.pending.extend_from_slice(&bytes[i..]);
                return;
            }
            match b {
                b'"' => self.pending.extend_from_slice(b"%22"),
                b'<' => self.pending.extend_from_slice(b"%3C"),
                b'>' => self.pending.extend_from_slice(b"%3E"),
                b => self.pending.push(*b),
            }
            if *b == b'\n' {
                self.state = Line::Over;
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Http1<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.headers.is_over(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if self.at == self.pending.len() {
            if self.state == Line::Over {
                return Pin::new(&mut self.stream).poll_read(cx, buf);
            }
            let mut space = [const { MaybeUninit::uninit() }; PEEK];
            let mut part = ReadBuf::uninit(&mut space);
            std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
            self.pending.clear();
            self.at = 0;
            let filled = part.filled();
            if self.state == Line::Begins && !filled.is_empty() {
                self.headers.begin();
                // Wakes this task when the time is over.
                let _ = self.headers.is_over(cx);
            }
            self.take(filled);
        }
        let n = buf.remaining().min(self.pending.len() - self.at);
        let (from, to) = (self.at, self.at + n);
        buf.put_slice(&self.pending[from..to]);
        self.at = to;
        if self.at == self.pending.len() && self.pending.capacity() > 2 * PEEK {
            self.pending = Vec::new();
            self.at = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Http1<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        // Who has been answered asks anew: bodies never begin like a request does.
        self.state = Line::Begins;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.state = Line::Begins;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_request_lines_are_escaped() {
        let mut l = Http1::new((), Duration::from_secs(1), Headers::default());
        l.take(b"GET /q?query=up{a=\"b\"}>1");
        l.take(b"<2 HTTP/1.1\r\nX: \"<>\"\r\n\r\n\"body\"");
        let expected = "GET /q?query=up{a=%22b%22}%3E1%3C2 HTTP/1.1\r\nX: \"<>\"\r\n\r\n\"body\"";
        assert_eq!(String::from_utf8_lossy(&l.pending), expected);
        let mut l = Http1::new((), Duration::from_secs(1), Headers::default());
        l.take(b"PRI * HTTP/2.0\r\n\"");
        assert_eq!(l.pending, b"PRI * HTTP/2.0\r\n\"");
    }
}
