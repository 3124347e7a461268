//! Variable-length integers, a cursor that never reads past its end, and bit streams (little-endian, low bits first).

pub(crate) use narthex_model::varint::{len as varint_len, put as put_varint, unzigzag, zigzag};

use super::CodecError;

#[inline]
pub(crate) fn put_signed(out: &mut Vec<u8>, x: i64) {
    put_varint(out, zigzag(x));
}

/// Reads from the front of a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { rest: bytes }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(crate) fn byte(&mut self) -> Result<u8, CodecError> {
        let (first, rest) = self.rest.split_first().ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8], CodecError> {
        if n > self.rest.len() {
            return Err(CodecError::Truncated);
        }
        let (head, rest) = self.rest.split_at(n);
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u64_le(&mut self) -> Result<u64, CodecError> {
        self.array().map(u64::from_le_bytes)
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, CodecError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                // The tenth byte holds one bit only.
                return if shift == 63 && byte > 1 { Err(CodecError::Corrupt("varint too long")) } else { Ok(value) };
            }
        }
        Err(CodecError::Corrupt("varint too long"))
    }

    pub(crate) fn signed(&mut self) -> Result<i64, CodecError> {
        self.varint().map(unzigzag)
    }

    /// A varint that may be at most `max`, as a length or an index must.
    pub(crate) fn bounded(&mut self, max: usize, what: &'static str) -> Result<usize, CodecError> {
        let value = self.varint()?;
        if value > max as u64 { Err(CodecError::Corrupt(what)) } else { Ok(value as usize) }
    }
}

/// Appends bit strings to a byte vector.
pub(crate) struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    bits: u64,
    count: u32,
}

impl<'a> BitWriter<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> BitWriter<'a> {
        BitWriter { out, bits: 0, count: 0 }
    }

    /// The low `width` bits of `value`, which must have no others; at most 64.
    #[inline]
    pub(crate) fn put(&mut self, value: u64, width: u32) {
        if width > 32 {
            self.put32(value & 0xffff_ffff, 32);
            self.put32(value >> 32, width - 32);
        } else {
            self.put32(value, width);
        }
    }

    #[inline]
    fn put32(&mut self, value: u64, width: u32) {
        self.bits |= value << self.count;
        self.count += width;
        if self.count >= 32 {
            self.out.extend_from_slice(&(self.bits as u32).to_le_bytes());
            self.bits >>= 32;
            self.count -= 32;
        }
    }

    /// Writes what is left of the last byte, padded with zeros.
    pub(crate) fn finish(mut self) {
        while self.count > 0 {
            self.out.push(self.bits as u8);
            self.bits >>= 8;
            self.count = self.count.saturating_sub(8);
        }
    }
}

/// The 57 or more bits from bit `at` on; beyond the end there are zeros.
#[inline(always)]
pub(crate) fn load_bits(bytes: &[u8], at: usize) -> u64 {
    let byte = at >> 3;
    let word = match bytes.get(byte..byte + 8) {
        Some(&[a, b, c, d, e, f, g, h]) => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => load_tail(bytes, byte),
    };
    word >> (at & 7)
}

#[cold]
fn load_tail(bytes: &[u8], byte: usize) -> u64 {
    let mut word = [0u8; 8];
    let tail = bytes.get(byte..).unwrap_or_default();
    let n = tail.len().min(8);
    word[..n].copy_from_slice(&tail[..n]);
    u64::from_le_bytes(word)
}
