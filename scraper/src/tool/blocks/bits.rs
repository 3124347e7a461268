//! Bits, the highest of each byte first, and the numbers of variable length that Prometheus's chunks are made of.

use narthex_model::varint::unzigzag;

pub type Fault = &'static str;

pub const CUT: Fault = "the chunk ends early";

pub struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Bits<'a> {
    pub fn new(bytes: &'a [u8]) -> Bits<'a> {
        Bits { bytes, at: 0 }
    }

    /// How many bits are left.
    pub fn left(&self) -> usize {
        self.bytes.len() * 8 - self.at
    }

    /// The next `n` bits, at most 64.
    pub fn take(&mut self, n: u32) -> Result<u64, Fault> {
        if n == 0 {
            return Ok(0);
        }
        if self.left() < n as usize {
            return Err(CUT);
        }
        let rest = &self.bytes[self.at / 8..];
        let shift = (self.at % 8) as u32;
        self.at += n as usize;
        let mut first = [0; 16];
        let len = rest.len().min(9);
        first[..len].copy_from_slice(&rest[..len]);
        let word = u128::from_be_bytes(first) << shift;
        Ok((word >> (128 - n)) as u64)
    }

    pub fn bit(&mut self) -> Result<bool, Fault> {
        let byte = self.bytes.get(self.at / 8).ok_or(CUT)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Ok(bit == 1)
    }

    /// How many ones come before the next zero, at most `most`; after `most` ones no zero is read.
    pub fn ones(&mut self, most: u32) -> Result<u32, Fault> {
        let mut n = 0;
        while n < most && self.bit()? {
            n += 1;
        }
        Ok(n)
    }

    pub fn double(&mut self) -> Result<f64, Fault> {
        Ok(f64::from_bits(self.take(64)?))
    }

    /// Seven bits a byte, the lowest first.
    pub fn varint(&mut self) -> Result<u64, Fault> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(8)?;
            value |= (byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number of more than 64 bits")
    }

    pub fn signed(&mut self) -> Result<i64, Fault> {
        Ok(unzigzag(self.varint()?))
    }

    /// `n` bits of which the highest half stands for negative numbers; the middle is positive.
    pub fn small(&mut self, n: u32) -> Result<i64, Fault> {
        let bits = self.take(n)?;
        if (1..64).contains(&n) && bits > 1 << (n - 1) {
            Ok((bits as i64).wrapping_sub(1 << n))
        } else {
            Ok(bits as i64)
        }
    }

    fn width(&mut self) -> Result<u32, Fault> {
        Ok([0, 3, 6, 9, 12, 18, 25, 56, 64][self.ones(8)? as usize])
    }

    /// `varbit_int`.
    pub fn varbit(&mut self) -> Result<i64, Fault> {
        let n = self.width()?;
        self.small(n)
    }

    /// `varbit_uint`.
    pub fn varbit_unsigned(&mut self) -> Result<u64, Fault> {
        let n = self.width()?;
        self.take(n)
    }
}

/// A float that is written by what changes of its bits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Xor {
    pub value: f64,
    leading: u32,
    trailing: u32,
}

impl Xor {
    pub fn new(value: f64) -> Xor {
        Xor { value, ..Xor::default() }
    }

    /// `varbit_xor`.
    pub fn next(&mut self, bits: &mut Bits<'_>) -> Result<(), Fault> {
        match bits.ones(2)? {
            0 => Ok(()),
            1 => self.same_window(bits),
            _ => self.new_window(bits),
        }
    }

    pub fn same_window(&mut self, bits: &mut Bits<'_>) -> Result<(), Fault> {
        let changed = bits.take(64 - self.leading - self.trailing)?;
        self.value = f64::from_bits(self.value.to_bits() ^ changed << self.trailing);
        Ok(())
    }

    pub fn new_window(&mut self, bits: &mut Bits<'_>) -> Result<(), Fault> {
        let leading = bits.take(5)? as u32;
        // 64 does not fit, and 0 is not needed.
        let significant = match bits.take(6)? as u32 {
            0 => 64,
            n => n,
        };
        self.trailing = 64u32.checked_sub(leading + significant).ok_or("a value of more than 64 bits")?;
        self.leading = leading;
        self.same_window(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_come_in_order() {
        let mut bits = Bits::new(&[0b1011_0001, 0b1000_0001, 3, 0, 0, 0, 0, 0, 0, 0xff]);
        assert_eq!((bits.bit(), bits.take(3), bits.take(2)), (Ok(true), Ok(0b011), Ok(0)));
        assert_eq!((bits.ones(1), bits.ones(8), bits.left()), (Ok(0), Ok(2), 70));
        assert_eq!((bits.take(6), bits.take(64)), (Ok(1), Ok(0x0300_0000_0000_00ff)));
        assert_eq!(bits.bit(), Err(CUT));
    }

    #[test]
    fn numbers_of_variable_length() {
        for (bits, expected) in [
            (&[0b0000_0000][..], 0i64),
            (&[0b1000_1000], 1),
            (&[0b1010_0000], 4),
            (&[0b1010_1000], -3),
            (&[0b1101_0000, 0b0000_0000], 32),
        ] {
            assert_eq!(Bits::new(bits).varbit(), Ok(expected), "{bits:?}");
        }
    }
}
