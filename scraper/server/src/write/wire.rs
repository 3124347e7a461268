//! Reads protobuf by hand: remote write is the one place where decoding costs as much as storing does.
//!
//! Nothing is copied before it is kept, unknown fields are skipped, lengths are checked against what is there.

use narthex_model::varint::unzigzag;

/// Bytes that are no protobuf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("unexpected EOF")]
    Truncated,
    #[error("proto: integer overflow")]
    Overflow,
    #[error("proto: illegal wireType {0}")]
    WireType(u8),
    #[error("proto: illegal tag {0}")]
    Tag(u64),
    #[error("proto: invalid UTF-8 in a string")]
    Utf8,
    #[error("proto: wrong wireType {0} for a field")]
    Unexpected(u8),
}

/// One field of a message.
#[derive(Clone, Copy, Debug)]
pub enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

impl<'a> Field<'a> {
    fn wire_type(self) -> u8 {
        match self {
            Field::Varint(_) => 0,
            Field::Fixed64(_) => 1,
            Field::Bytes(_) => 2,
            Field::Fixed32 => 5,
        }
    }

    #[inline]
    pub fn bytes(self) -> Result<&'a [u8], WireError> {
        match self {
            Field::Bytes(b) => Ok(b),
            other => Err(WireError::Unexpected(other.wire_type())),
        }
    }

    #[inline]
    pub fn text(self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| WireError::Utf8)
    }

    #[inline]
    pub fn varint(self) -> Result<u64, WireError> {
        match self {
            Field::Varint(n) => Ok(n),
            other => Err(WireError::Unexpected(other.wire_type())),
        }
    }

    #[inline]
    pub fn double(self) -> Result<f64, WireError> {
        match self {
            Field::Fixed64(bits) => Ok(f64::from_bits(bits)),
            other => Err(WireError::Unexpected(other.wire_type())),
        }
    }

    #[inline]
    pub fn sint(self) -> Result<i64, WireError> {
        Ok(unzigzag(self.varint()?))
    }
}

/// The fields of one message, in order.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// The next field and its number.
    #[inline]
    pub fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, WireError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = varint(&mut self.0)?;
        if tag >> 3 == 0 {
            return Err(WireError::Tag(tag));
        }
        let field = match (tag & 7) as u8 {
            0 => Field::Varint(varint(&mut self.0)?),
            1 => {
                let (bytes, rest) = self.0.split_first_chunk::<8>().ok_or(WireError::Truncated)?;
                self.0 = rest;
                Field::Fixed64(u64::from_le_bytes(*bytes))
            }
            2 => {
                let len = usize::try_from(varint(&mut self.0)?).map_err(|_| WireError::Overflow)?;
                let (bytes, rest) = self.0.split_at_checked(len).ok_or(WireError::Truncated)?;
                self.0 = rest;
                Field::Bytes(bytes)
            }
            5 => {
                self.0 = self.0.get(4..).ok_or(WireError::Truncated)?;
                Field::Fixed32
            }
            other => return Err(WireError::WireType(other)),
        };
        Ok(Some((tag >> 3, field)))
    }
}

/// Calls `take` with the number of each field of a message and the field.
pub fn each<'a>(
    bytes: &'a [u8],
    mut take: impl FnMut(u64, Field<'a>) -> Result<(), WireError>,
) -> Result<(), WireError> {
    let mut fields = Fields(bytes);
    while let Some((number, field)) = fields.next()? {
        take(number, field)?;
    }
    Ok(())
}

/// What `take` makes of a message, field by field, beginning with nothing.
pub fn message<'a, T: Default>(
    bytes: &'a [u8],
    mut take: impl FnMut(&mut T, u64, Field<'a>) -> Result<(), WireError>,
) -> Result<T, WireError> {
    let mut out = T::default();
    each(bytes, |number, field| take(&mut out, number, field))?;
    Ok(out)
}

/// A varint from the front of `bytes`.
#[inline]
pub fn varint(bytes: &mut &[u8]) -> Result<u64, WireError> {
    let mut value = 0u64;
    for (i, b) in bytes.iter().enumerate().take(10) {
        if i == 9 && *b > 1 {
            return Err(WireError::Overflow);
        }
        value |= u64::from(b & 0x7f) << (7 * i);
        if b & 0x80 == 0 {
            *bytes = &bytes[i + 1..];
            return Ok(value);
        }
    }
    Err(if bytes.len() < 10 { WireError::Truncated } else { WireError::Overflow })
}

/// A repeated number field: packed, or one of many.
pub fn packed_varints(field: Field<'_>, mut each: impl FnMut(u64)) -> Result<(), WireError> {
    match field {
        Field::Varint(n) => each(n),
        Field::Bytes(mut bytes) => {
            while !bytes.is_empty() {
                each(varint(&mut bytes)?);
            }
        }
        other => return Err(WireError::Unexpected(other.wire_type())),
    }
    Ok(())
}

/// A repeated double field likewise.
pub fn packed_doubles(field: Field<'_>, out: &mut Vec<f64>) -> Result<(), WireError> {
    match field {
        Field::Fixed64(bits) => out.push(f64::from_bits(bits)),
        Field::Bytes(bytes) => {
            let (chunks, rest) = bytes.as_chunks::<8>();
            if !rest.is_empty() {
                return Err(WireError::Truncated);
            }
            out.extend(chunks.iter().map(|c| f64::from_le_bytes(*c)));
        }
        other => return Err(WireError::Unexpected(other.wire_type())),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints() {
        for (bytes, expected) in [
            (&[0x01][..], Ok(1)),
            (&[0xac, 0x02], Ok(300)),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], Ok(u64::MAX)),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], Err(WireError::Overflow)),
            (&[0x80], Err(WireError::Truncated)),
            (&[], Err(WireError::Truncated)),
        ] {
            let mut rest = bytes;
            assert_eq!(varint(&mut rest), expected, "{bytes:?}");
        }
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic() {
        let mut x = 0x2545_f491_4f6c_dd1d_u64;
        for len in 0..2_000usize {
            let bytes: Vec<u8> = (0..len % 64)
                .map(|_| {
                    x ^= x << 13;
                    x ^= x >> 7;
                    x ^= x << 17;
                    x as u8
                })
                .collect();
            let mut fields = Fields(&bytes);
            while let Ok(Some(_)) = fields.next() {}
        }
        assert_eq!(Fields(&[0x0a, 0x05, 1]).next().err(), Some(WireError::Truncated));
        assert_eq!(Fields(&[0x00]).next().err(), Some(WireError::Tag(0)));
        assert_eq!(Fields(&[0x0b]).next().err(), Some(WireError::WireType(3)));
    }
}
