//! The wire form of protobuf messages, read as Prometheus's generated code reads it: what it forgives (varints whose
//! last byte overflows, tags beyond 32 bits, strings that are not UTF-8) is forgiven here, and what it refuses is
//! refused in its words, since users see them as the error of a target.
//!
//! Nothing is copied and nothing recurses: a [`Fields`] walks one message, and who calls it opens those inside.

use narthex_model::varint::unzigzag;

use super::ParseError;

/// Reads one message field by field.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    /// The message's name, for what is said of it.
    name: &'static str,
    message: &'a [u8],
    rest: &'a [u8],
    /// Where the field that [`Fields::next`] returned last begins.
    field: &'a [u8],
}

/// How a value lies on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    Varint = 0,
    Fixed64 = 1,
    Bytes = 2,
    StartGroup = 3,
    Fixed32 = 5,
    /// 6 and 7: there are none.
    Six = 6,
    Seven = 7,
}

pub(super) fn fault(message: impl Into<String>) -> ParseError {
    ParseError(message.into())
}

fn end() -> ParseError {
    fault("unexpected EOF")
}

/// A base-128 number of at most ten bytes; bits beyond the 64th are lost.
fn varint(rest: &mut &[u8]) -> Result<u64, ParseError> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let (byte, after) = rest.split_first().ok_or_else(end)?;
        *rest = after;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if *byte < 0x80 {
            return Ok(value);
        }
    }
    Err(fault("proto: integer overflow"))
}

fn take<'a>(rest: &mut &'a [u8], n: usize) -> Result<&'a [u8], ParseError> {
    let (bytes, after) = rest.split_at_checked(n).ok_or_else(end)?;
    *rest = after;
    Ok(bytes)
}

/// Bytes behind their length. Neither that nor where they end, counted from `from` bytes before the end of the message,
/// may be negative as a signed number.
fn delimited<'a>(rest: &mut &'a [u8], from: usize) -> Result<&'a [u8], ParseError> {
    let length = varint(rest)?;
    let at = from.saturating_sub(rest.len()) as u64;
    if length > i64::MAX as u64 - at {
        return Err(fault("proto: negative length found during unmarshaling"));
    }
    take(rest, usize::try_from(length).map_err(|_| end())?)
}

/// Passes over a field of any kind, its key included; groups with all that is in them.
fn skip(rest: &mut &[u8], from: usize) -> Result<(), ParseError> {
    let mut depth = 0u64;
    loop {
        let wire = varint(rest)? & 7;
        match wire {
            0 => {
                varint(rest)?;
            }
            1 => {
                take(rest, 8)?;
            }
            2 => {
                delimited(rest, from)?;
            }
            3 => depth += 1,
            // An end without a beginning is refused before it comes to this.
            4 => depth = depth.saturating_sub(1),
            5 => {
                take(rest, 4)?;
            }
            _ => return Err(fault(format!("proto: illegal wireType {wire}"))),
        }
        if depth == 0 {
            return Ok(());
        }
    }
}

impl<'a> Fields<'a> {
    pub(super) fn new(name: &'static str, message: &'a [u8]) -> Fields<'a> {
        Fields { name, message, rest: message, field: message }
    }

    /// The next field's tag and wire type, or `None` at the message's end. Its value has to be read by one of the other
    /// functions before the next one.
    pub(super) fn next(&mut self) -> Result<Option<(i32, Wire)>, ParseError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        self.field = self.rest;
        let key = varint(&mut self.rest)?;
        let tag = (key >> 3) as i32;
        let wire = match key & 7 {
            0 => Wire::Varint,
            1 => Wire::Fixed64,
            2 => Wire::Bytes,
            3 => Wire::StartGroup,
            4 => return Err(fault(format!("proto: {}: wiretype end group for non-group", self.name))),
            5 => Wire::Fixed32,
            6 => Wire::Six,
            _ => Wire::Seven,
        };
        if tag <= 0 {
            return Err(fault(format!("proto: {}: illegal tag {tag} (wire type {key})", self.name)));
        }
        Ok(Some((tag, wire)))
    }

    /// # Errors
    /// When the field called `name` is of another wire type than it should be.
    pub(super) fn expect(wire: Wire, expected: Wire, name: &str) -> Result<(), ParseError> {
        if wire == expected {
            return Ok(());
        }
        Err(fault(format!("proto: wrong wireType = {} for field {name}", wire as u8)))
    }

    pub(super) fn varint(&mut self, wire: Wire, name: &str) -> Result<u64, ParseError> {
        Fields::expect(wire, Wire::Varint, name)?;
        varint(&mut self.rest)
    }

    pub(super) fn double(&mut self, wire: Wire, name: &str) -> Result<f64, ParseError> {
        Fields::expect(wire, Wire::Fixed64, name)?;
        double(&mut self.rest)
    }

    /// Text, or a message inside.
    pub(super) fn bytes(&mut self, wire: Wire, name: &str) -> Result<&'a [u8], ParseError> {
        Fields::expect(wire, Wire::Bytes, name)?;
        delimited(&mut self.rest, self.message.len())
    }

    /// Signed numbers, one or packed, appended to `out`.
    pub(super) fn zigzags(&mut self, wire: Wire, name: &str, out: &mut Vec<i64>) -> Result<(), ParseError> {
        if wire == Wire::Varint {
            out.push(unzigzag(varint(&mut self.rest)?));
            return Ok(());
        }
        let packed = self.bytes(wire, name)?;
        // As many as there are last bytes of numbers: no more than the page is long.
        out.reserve(packed.iter().filter(|b| **b < 0x80).count());
        self.packed(packed, |rest| {
            out.push(unzigzag(varint(rest)?));
            Ok(())
        })
    }

    /// Floats, one or packed, appended to `out`.
    pub(super) fn doubles(&mut self, wire: Wire, name: &str, out: &mut Vec<f64>) -> Result<(), ParseError> {
        if wire == Wire::Fixed64 {
            out.push(double(&mut self.rest)?);
            return Ok(());
        }
        let packed = self.bytes(wire, name)?;
        out.reserve(packed.len() / 8);
        self.packed(packed, |rest| {
            out.push(double(rest)?);
            Ok(())
        })
    }

    /// Reads numbers until the packed ones, which end where the field does, are through. One that is cut short goes on
    /// behind them.
    fn packed(
        &mut self,
        packed: &[u8],
        mut one: impl FnMut(&mut &'a [u8]) -> Result<(), ParseError>,
    ) -> Result<(), ParseError> {
        let behind = self.rest.len();
        let start = self.message.len() - behind - packed.len();
        let mut rest = self.message.get(start..).unwrap_or_default();
        while rest.len() > behind {
            one(&mut rest)?;
        }
        self.rest = rest;
        Ok(())
    }

    /// Passes over the field.
    pub(super) fn skip(&mut self) -> Result<(), ParseError> {
        self.rest = self.field;
        skip(&mut self.rest, self.message.len())
    }
}

fn double(rest: &mut &[u8]) -> Result<f64, ParseError> {
    let (bytes, after) = rest.split_first_chunk::<8>().ok_or_else(end)?;
    *rest = after;
    Ok(f64::from_le_bytes(*bytes))
}

/// What zigzag made a number of 32 bits; those beyond are lost.
pub(super) fn zigzag32(value: u64) -> i32 {
    let value = value as u32;
    (value >> 1) as i32 ^ -((value & 1) as i32)
}
