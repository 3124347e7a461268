//! A body as it arrives: counted, and decompressed where it is gzip.
//!
//! A gzipped body is decompressed when all of it is there ([`crate::inflate`]), which takes half of what decompressing
//! as it arrives does. A damaged one is read again for the words that users know ([`crate::gzip_fault`]). One that is
//! very long is decompressed as it arrives, so that it is stopped at the limit however well it is compressed.

use std::io::Write;

use flate2::write::MultiGzDecoder;

use crate::gzip_fault;
use crate::inflate::{Refused, gunzip};

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    TooLong,
    Broken(String),
}

/// A writer that refuses to grow to `limit` or beyond.
struct Bounded<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    limit: u64,
    over: bool,
}

impl Write for Bounded<'_> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        if (self.out.len() - self.start) as u64 + data.len() as u64 >= self.limit {
            self.over = true;
            return Err(std::io::Error::other(super::BODY_LIMIT));
        }
        self.out.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Packed bodies up to this many bytes are decompressed in one go.
const WHOLE: usize = 4 << 20;

enum Kind<'a> {
    Plain(Bounded<'a>),
    Gzip {
        packed: Vec<u8>,
        bounded: Bounded<'a>,
    },
    /// A packed body that is longer, with its last bytes.
    Long {
        decoder: MultiGzDecoder<Bounded<'a>>,
        tail: [u8; 4],
    },
    /// While a decoder takes over.
    Over,
}

pub(crate) struct BodySink<'a>(Kind<'a>);

impl<'a> BodySink<'a> {
    pub fn new(out: &'a mut Vec<u8>, gzip: bool, limit: u64) -> BodySink<'a> {
        let start = out.len();
        let bounded = Bounded { out, start, limit, over: false };
        BodySink(if gzip { Kind::Gzip { packed: Vec::new(), bounded } } else { Kind::Plain(bounded) })
    }

    pub fn push(&mut self, data: &[u8]) -> Result<(), BodyError> {
        match &mut self.0 {
            Kind::Plain(bounded) => bounded.write_all(data).map_err(|_| BodyError::TooLong),
            Kind::Gzip { packed, .. } if packed.len() + data.len() <= WHOLE => {
                packed.extend_from_slice(data);
                Ok(())
            }
            Kind::Gzip { .. } => {
                let Kind::Gzip { packed, bounded } = std::mem::replace(&mut self.0, Kind::Over) else { return Ok(()) };
                self.0 = Kind::Long { decoder: MultiGzDecoder::new(bounded), tail: [0; 4] };
                self.push(&packed)?;
                self.push(data)
            }
            Kind::Long { decoder, tail } => {
                for b in &data[data.len().saturating_sub(4)..] {
                    tail.rotate_left(1);
                    tail[3] = *b;
                }
                decoder.write_all(data).map_err(|e| gzip_error(decoder, &e, *tail))
            }
            Kind::Over => Ok(()),
        }
    }

    /// Whether what came of a body that broke off is too long already.
    pub fn is_too_long(&self) -> bool {
        match &self.0 {
            Kind::Gzip { packed, bounded } => gzip_fault::fault(packed, bounded.limit) == Some(BodyError::TooLong),
            _ => false,
        }
    }

    pub fn finish(self) -> Result<(), BodyError> {
        match self.0 {
            Kind::Plain(_) | Kind::Over => Ok(()),
            Kind::Long { mut decoder, tail } => decoder.try_finish().map_err(|e| gzip_error(&decoder, &e, tail)),
            // Go reads the header first, and misses it.
            Kind::Gzip { packed, .. } if packed.is_empty() => Err(BodyError::Broken("EOF".to_owned())),
            Kind::Gzip { packed, bounded } => match gunzip(&packed, bounded.out, bounded.limit) {
                Ok(()) => Ok(()),
                Err(Refused::TooLong) => Err(BodyError::TooLong),
                Err(Refused::Damaged) => {
                    if let Some(fault) = gzip_fault::fault(&packed, bounded.limit) {
                        return Err(fault);
                    }
                    let mut decoder = MultiGzDecoder::new(bounded);
                    let result = decoder.write_all(&packed).and_then(|()| decoder.try_finish());
                    let tail = packed.last_chunk::<4>().copied().unwrap_or_default();
                    result.map_err(|e| gzip_error(&decoder, &e, tail))
                }
            },
        }
    }
}

/// `tail` is the stream's last four bytes.
fn gzip_error(decoder: &MultiGzDecoder<Bounded<'_>>, error: &std::io::Error, tail: [u8; 4]) -> BodyError {
    if decoder.get_ref().over {
        return BodyError::TooLong;
    }
    BodyError::Broken(match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "unexpected EOF".to_owned(),
        std::io::ErrorKind::InvalidInput if error.to_string().contains("header") => "gzip: invalid header".to_owned(),
        // The decoder says the same of a trailer that is wrong and of one that is cut off; a whole one ends in the
        // length of the text.
        _ if error.to_string().contains("checksum") => {
            let bounded = decoder.get_ref();
            let whole = (bounded.out.len() - bounded.start) as u32 == u32::from_le_bytes(tail);
            if whole { "gzip: invalid checksum" } else { "unexpected EOF" }.to_owned()
        }
        _ => format!("gzip: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn run(data: &[u8], gzip: bool, limit: u64, chunk: usize) -> Result<Vec<u8>, BodyError> {
        let mut out = b"kept".to_vec();
        let mut sink = BodySink::new(&mut out, gzip, limit);
        for part in data.chunks(chunk) {
            sink.push(part)?;
        }
        sink.finish()?;
        Ok(out.split_off(4))
    }

    #[test]
    fn limits_and_broken_streams() {
        let page = b"a 1\n".repeat(1000);
        let packed = gzip(&page);
        let two: Vec<u8> = [packed.clone(), packed.clone()].concat();
        for chunk in [1, 7, 1 << 20] {
            assert_eq!(run(&page, false, 4001, chunk).unwrap(), page);
            assert_eq!(run(&page, false, 4000, chunk), Err(BodyError::TooLong));
            assert_eq!(run(&packed, true, 4001, chunk).unwrap(), page);
            assert_eq!(run(&packed, true, 4000, chunk), Err(BodyError::TooLong));
            assert_eq!(run(&two, true, 9000, chunk).unwrap().len(), 8000);
            for cut in [0, 5, 15, packed.len() - 1] {
                assert!(matches!(run(&packed[..cut], true, 9000, chunk), Err(BodyError::Broken(_))), "{cut}");
            }
            assert!(matches!(run(&page, true, 9000, chunk), Err(BodyError::Broken(_))));
            let mut flipped = packed.clone();
            let last = flipped.len() - 6;
            flipped[last] ^= 1;
            assert!(matches!(run(&flipped, true, 9000, chunk), Err(BodyError::Broken(_))), "checksum");
        }
    }

    #[test]
    fn a_long_packed_body_is_decompressed_as_it_comes() {
        // Hardly compressible, so that it is long.
        let mut state = 1u64;
        let page: Vec<u8> = (0..2 * WHOLE)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as u8
            })
            .collect();
        let packed = gzip(&page);
        assert!(packed.len() > WHOLE);
        let length = page.len() as u64;
        assert!(run(&packed, true, length + 1, 1 << 16).unwrap() == page);
        assert_eq!(run(&packed, true, length, 1 << 16), Err(BodyError::TooLong));
        assert_eq!(
            run(&packed[..packed.len() - 1], true, length + 1, 1 << 16),
            Err(BodyError::Broken("unexpected EOF".into()))
        );
        let mut flipped = packed.clone();
        flipped[packed.len() - 6] ^= 1;
        let checksum = Err(BodyError::Broken("gzip: invalid checksum".into()));
        assert_eq!(run(&flipped, true, length + 1, 1 << 16), checksum);
    }

    #[test]
    fn an_endless_packed_body_is_cut_at_the_limit() {
        let part = gzip(&vec![0; 8 << 20]);
        let mut out = Vec::new();
        let mut sink = BodySink::new(&mut out, true, 64 << 20);
        let sent = (0..).find(|_| sink.push(&part).is_err()).unwrap();
        // As soon as it is looked at, not when the packed body is as long as the limit.
        assert!(sent * part.len() <= WHOLE + 2 * part.len(), "{sent} parts of {}", part.len());
        drop(sink);
        assert!(out.len() < 64 << 20);
    }

    #[test]
    fn a_bomb_is_cut_at_the_limit() {
        let bomb = gzip(&vec![0; 64 << 20]);
        assert!(bomb.len() < 1 << 20);
        let mut out = Vec::new();
        let mut sink = BodySink::new(&mut out, true, 1 << 20);
        assert_eq!(sink.push(&bomb), Ok(()));
        assert_eq!(sink.finish(), Err(BodyError::TooLong));
        assert!(out.capacity() <= 4 << 20, "{}", out.capacity());
    }
}
