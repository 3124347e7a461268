//! Integers and byte strings as records and segments hold them: LEB128 varints, zigzag for signed ones, lengths
//! before bytes. Reading never panics and never trusts a length: whatever is cut or absurd reads as `None`.

pub use narthex_model::varint::{put as put_u64, unzigzag, zigzag};

#[inline]
pub fn put_i64(out: &mut Vec<u8>, v: i64) {
    put_u64(out, zigzag(v));
}

pub fn put_f64(out: &mut Vec<u8>, v: f64) {
    out.extend_from_slice(&v.to_bits().to_le_bytes());
}

pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads from the front of a slice.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub fn u8(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    #[inline]
    pub fn u64(&mut self) -> Option<u64> {
        let (mut value, mut shift) = (0u64, 0);
        for (i, byte) in self.rest.iter().enumerate() {
            if shift > 63 {
                return None;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                self.rest = self.rest.get(i + 1..)?;
                return Some(value);
            }
            shift += 7;
        }
        None
    }

    #[inline]
    pub fn u32(&mut self) -> Option<u32> {
        u32::try_from(self.u64()?).ok()
    }

    #[inline]
    pub fn i64(&mut self) -> Option<i64> {
        Some(unzigzag(self.u64()?))
    }

    #[inline]
    pub fn f64(&mut self) -> Option<f64> {
        let bytes = self.take(8)?;
        Some(f64::from_bits(u64::from_le_bytes(bytes.try_into().ok()?)))
    }

    #[inline]
    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        if n > self.rest.len() {
            return None;
        }
        let (bytes, rest) = self.rest.split_at(n);
        self.rest = rest;
        Some(bytes)
    }

    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let n = usize::try_from(self.u64()?).ok()?;
        self.take(n)
    }

    /// A count of things that take at least one byte each: no more than there are bytes left.
    pub fn count(&mut self) -> Option<usize> {
        let n = usize::try_from(self.u64()?).ok()?;
        (n <= self.rest.len()).then_some(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_read() {
        let mut out = Vec::new();
        let signed = [0, 1, -1, 63, 64, -65, i64::MAX, i64::MIN];
        let unsigned = [0, 127, 128, u64::MAX];
        signed.iter().for_each(|v| put_i64(&mut out, *v));
        unsigned.iter().for_each(|v| put_u64(&mut out, *v));
        put_bytes(&mut out, b"abc");
        put_f64(&mut out, -0.0);
        let mut r = Reader::new(&out);
        assert!(signed.iter().all(|v| r.i64() == Some(*v)));
        assert!(unsigned.iter().all(|v| r.u64() == Some(*v)));
        assert_eq!(r.bytes(), Some(&b"abc"[..]));
        assert_eq!(r.f64().map(f64::to_bits), Some((-0.0f64).to_bits()));
        assert!(r.is_empty() && r.u8().is_none() && r.u64().is_none());
    }

    #[test]
    fn absurd_input_is_none() {
        assert_eq!(Reader::new(&[0x80; 20]).u64(), None);
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0x7f, 1]).bytes(), None);
        assert_eq!(Reader::new(&[5, 1, 2]).count(), None);
    }
}
