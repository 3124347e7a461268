//! What is wrong with a damaged gzip body, in the words of Prometheus, which are those of Go's `compress/gzip`: users
//! see them as the error of a target. The body is read once more, slowly and byte by byte, since Go says where in the
//! stream it stopped reading.

use crate::body::BodyError;

/// Nothing longer than this is read for an error message.
const MAX_OUTPUT: usize = 16 << 20;

/// The window that matches reach back into.
const WINDOW: usize = 32 << 10;

const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

const EOF: &str = "unexpected EOF";
const HEADER: &str = "gzip: invalid header";

/// The first fault of a gzip body that may have fewer than `limit` bytes: that it has as many, where that comes first.
/// `None` where there is none, or it is too long to look for one.
pub(crate) fn fault(body: &[u8], limit: u64) -> Option<BodyError> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(MAX_OUTPUT + 1);
    match first_fault(body, limit) {
        Found::Nothing => None,
        Found::Fault(text) => Some(BodyError::Broken(text)),
        Found::TooLong => (limit <= MAX_OUTPUT).then_some(BodyError::TooLong),
    }
}

enum Found {
    Nothing,
    Fault(String),
    TooLong,
}

fn first_fault(body: &[u8], limit: usize) -> Found {
    let said = |text: &str| Found::Fault(text.to_owned());
    let mut rest = body;
    let mut output = 0;
    let mut first = true;
    while first || !rest.is_empty() {
        if let Err(text) = header(&mut rest, first) {
            return said(text);
        }
        first = false;
        let mut member = Member { rest, ..Member::default() };
        match member.read(limit - output) {
            Ok(()) => {}
            Err(Fault::End) => return said(EOF),
            Err(Fault::Corrupt) => return said(&format!("flate: corrupt input before offset {}", member.taken)),
            Err(Fault::TooLong) => return Found::TooLong,
        }
        let Some((sums, after)) = member.rest.split_first_chunk::<8>() else { return said(EOF) };
        let [a, b, c, d, e, f, g, h] = *sums;
        let sums = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        if sums != (member.sum.finalize(), member.written as u32) {
            return said("gzip: invalid checksum");
        }
        output += member.written;
        rest = after;
    }
    Found::Nothing
}

/// Passes over a member's header.
fn header(rest: &mut &[u8], first: bool) -> Result<(), &'static str> {
    let whole = *rest;
    let Some((fixed, after)) = whole.split_first_chunk::<10>() else {
        return Err(if first && whole.is_empty() { "EOF" } else { EOF });
    };
    if fixed[..3] != [0x1f, 0x8b, 8] {
        return Err(HEADER);
    }
    *rest = after;
    let mut take = |n: usize| -> Result<&[u8], &'static str> {
        let (taken, after) = rest.split_at_checked(n).ok_or(EOF)?;
        *rest = after;
        Ok(taken)
    };
    let flags = fixed[3];
    if flags & 4 != 0 {
        let length = take(2)?;
        take(usize::from(length[0]) | usize::from(length[1]) << 8)?;
    }
    for flag in [8, 16] {
        if flags & flag != 0 {
            let mut length = 0;
            // An end within them is a plain one, in Go.
            while take(1).map_err(|_| "EOF")? != [0] {
                length += 1;
                if length >= 512 {
                    return Err(HEADER);
                }
            }
        }
    }
    if flags & 2 != 0 {
        let sum = take(2)?;
        let sum = u16::from_le_bytes([sum[0], sum[1]]);
        let read = whole.len() - rest.len() - 2;
        if crc32fast::hash(&whole[..read]) as u16 != sum {
            return Err(HEADER);
        }
    }
    Ok(())
}

enum Fault {
    End,
    Corrupt,
    TooLong,
}

use Fault::{Corrupt, End, TooLong};

/// A canonical code.
#[derive(Default)]
struct Code {
    /// How many codes there are of each length.
    counts: [u16; 16],
    symbols: Vec<u16>,
    /// So many bits are taken before a code is looked for.
    least: u32,
}

impl Code {
    /// The code of these lengths, if it is a whole one; one code of one bit may stand alone.
    fn new(lengths: &[u8]) -> Option<Code> {
        let mut code = Code::default();
        for length in lengths.iter().filter(|l| **l > 0) {
            code.counts[usize::from(*length & 15)] += 1;
        }
        let Some(longest) = code.counts.iter().rposition(|c| *c > 0) else { return Some(code) };
        let mut used = 0u32;
        for length in 1..=longest {
            used <<= 1;
            used += u32::from(code.counts[length]);
        }
        if used != 1 << longest && !(used == 1 && longest == 1) {
            return None;
        }
        code.least = code.counts.iter().position(|c| *c > 0).unwrap_or(0) as u32;
        for length in 1..=longest as u8 {
            code.symbols.extend((0..lengths.len() as u16).filter(|i| lengths[usize::from(*i)] == length));
        }
        Some(code)
    }

    /// The symbol that `bits` begin with, and the length of its code.
    fn look(&self, mut bits: u32) -> Option<(u16, u32)> {
        let (mut code, mut first, mut index) = (0u32, 0u32, 0u32);
        for length in 1..16 {
            code |= bits & 1;
            bits >>= 1;
            let count = u32::from(self.counts[length]);
            if code < first + count {
                return Some((*self.symbols.get((index + code - first) as usize)?, length as u32));
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        None
    }
}

/// One member's deflate stream.
#[derive(Default)]
struct Member<'a> {
    rest: &'a [u8],
    /// How many bytes of it were read.
    taken: u64,
    bits: u32,
    count: u32,
    window: Vec<u8>,
    written: usize,
    sum: crc32fast::Hasher,
}

impl Member<'_> {
    fn read(&mut self, room: usize) -> Result<(), Fault> {
        loop {
            let last = self.take(3)?;
            // The three bits come as one.
            match last >> 1 {
                0 => self.stored(room)?,
                1 => {
                    let lengths: Vec<u8> = (0..288u16)
                        .map(|i| match i {
                            0..144 => 8,
                            144..256 => 9,
                            256..280 => 7,
                            _ => 8,
                        })
                        .collect();
                    let code = Code::new(&lengths).ok_or(Corrupt)?;
                    self.block(&code, None, room)?;
                }
                2 => {
                    let (literals, distances) = self.codes()?;
                    self.block(&literals, Some(&distances), room)?;
                }
                _ => return Err(Corrupt),
            }
            if last & 1 == 1 {
                self.flush();
                return Ok(());
            }
        }
    }

    fn byte(&mut self) -> Result<(), Fault> {
        let (byte, after) = self.rest.split_first().ok_or(End)?;
        self.rest = after;
        self.taken += 1;
        self.bits |= u32::from(*byte) << self.count;
        self.count += 8;
        Ok(())
    }

    fn take(&mut self, n: u32) -> Result<u32, Fault> {
        while self.count < n {
            self.byte()?;
        }
        let value = self.bits & ((1 << n) - 1);
        self.bits >>= n;
        self.count -= n;
        Ok(value)
    }

    fn symbol(&mut self, code: &Code) -> Result<u16, Fault> {
        let mut wanted = code.least;
        loop {
            while self.count < wanted {
                self.byte()?;
            }
            // Of bits that are not there yet zeros are taken, and as many bytes as that code would need.
            let (symbol, length) = code.look(self.bits).ok_or(Corrupt)?;
            if length <= self.count {
                self.bits >>= length;
                self.count -= length;
                return Ok(symbol);
            }
            wanted = length;
        }
    }

    fn stored(&mut self, room: usize) -> Result<(), Fault> {
        (self.bits, self.count) = (0, 0);
        let Some((head, after)) = self.rest.split_first_chunk::<4>() else {
            self.taken += self.rest.len() as u64;
            return Err(End);
        };
        self.rest = after;
        self.taken += 4;
        let length = u16::from_le_bytes([head[0], head[1]]);
        if u16::from_le_bytes([head[2], head[3]]) != !length {
            return Err(Corrupt);
        }
        let (bytes, after) = self.rest.split_at_checked(usize::from(length)).ok_or(End)?;
        self.rest = after;
        self.taken += u64::from(length);
        for byte in bytes {
            self.put(*byte, room)?;
        }
        Ok(())
    }

    fn codes(&mut self) -> Result<(Code, Code), Fault> {
        while self.count < 14 {
            self.byte()?;
        }
        let literals = self.take(5)? as usize + 257;
        if literals > 286 {
            return Err(Corrupt);
        }
        let distances = self.take(5)? as usize + 1;
        if distances > 30 {
            return Err(Corrupt);
        }
        let lengths = self.take(4)? as usize + 4;
        let mut of_lengths = [0u8; 19];
        for at in ORDER.iter().take(lengths) {
            of_lengths[*at] = self.take(3)? as u8;
        }
        let code = Code::new(&of_lengths).ok_or(Corrupt)?;
        let total = literals + distances;
        let mut all = Vec::with_capacity(total);
        while all.len() < total {
            let symbol = self.symbol(&code)?;
            let (value, least, bits) = match symbol {
                0..16 => {
                    all.push(symbol as u8);
                    continue;
                }
                16 => (*all.last().ok_or(Corrupt)?, 3, 2),
                17 => (0, 3, 3),
                _ => (0, 11, 7),
            };
            let times = least + self.take(bits)? as usize;
            if all.len() + times > total {
                return Err(Corrupt);
            }
            all.resize(all.len() + times, value);
        }
        let (of_literals, of_distances) = all.split_at(literals);
        let mut code = Code::new(of_literals).ok_or(Corrupt)?;
        let distance_code = Code::new(of_distances).ok_or(Corrupt)?;
        // Each block ends in this symbol, so that so many bits are there.
        code.least = code.least.max(u32::from(of_literals.get(256).copied().unwrap_or_default()));
        Ok((code, distance_code))
    }

    fn block(&mut self, literals: &Code, distances: Option<&Code>, room: usize) -> Result<(), Fault> {
        loop {
            let symbol = u32::from(self.symbol(literals)?);
            let (base, extra) = match symbol {
                0..256 => {
                    self.put(symbol as u8, room)?;
                    continue;
                }
                256 => return Ok(()),
                257..265 => (symbol - 254, 0),
                265..285 => {
                    let extra = (symbol - 261) / 4;
                    (((4 + (symbol - 261) % 4) << extra) + 3, extra)
                }
                285 => (258, 0),
                _ => return Err(Corrupt),
            };
            let length = base + self.take(extra)?;
            let symbol = match distances {
                Some(code) => u32::from(self.symbol(code)?),
                None => self.take(5)?.reverse_bits() >> 27,
            };
            let distance = match symbol {
                0..4 => symbol + 1,
                4..30 => {
                    let extra = (symbol - 2) / 2;
                    ((2 + (symbol & 1)) << extra) + 1 + self.take(extra)?
                }
                _ => return Err(Corrupt),
            } as usize;
            if distance > self.written.min(WINDOW) {
                return Err(Corrupt);
            }
            for _ in 0..length {
                let at = self.window.len().checked_sub(distance).ok_or(Corrupt)?;
                let byte = self.window.get(at).copied().ok_or(Corrupt)?;
                self.put(byte, room)?;
            }
        }
    }

    fn put(&mut self, byte: u8, room: usize) -> Result<(), Fault> {
        self.written += 1;
        if self.written >= room {
            return Err(TooLong);
        }
        self.window.push(byte);
        if self.window.len() >= 4 * WINDOW {
            self.sum.update(&self.window[..3 * WINDOW]);
            self.window.drain(..3 * WINDOW);
        }
        Ok(())
    }

    /// What is still in the window goes into the checksum.
    fn flush(&mut self) {
        self.sum.update(&self.window);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn fault(body: &[u8]) -> Option<String> {
        match super::fault(body, u64::MAX)? {
            BodyError::Broken(text) => Some(text),
            BodyError::TooLong => Some("too long".to_owned()),
        }
    }

    fn gzip(data: &[u8], level: u32) -> Vec<u8> {
        let mut out = GzEncoder::new(Vec::new(), Compression::new(level));
        out.write_all(data).unwrap();
        out.finish().unwrap()
    }

    #[test]
    fn whole_bodies_have_none() {
        let text: Vec<u8> =
            (0..20_000u32).flat_map(|i| format!("m{} {}\n", i % 997, i * i % 1013).into_bytes()).collect();
        for level in [0, 1, 6, 9] {
            let one = gzip(&text, level);
            assert_eq!(fault(&one), None, "{level}");
            assert_eq!(fault(&[one.clone(), gzip(b"", level), one].concat()), None, "{level}");
        }
        assert_eq!(fault(&gzip(&vec![7; 3 << 20], 9)), None);
    }

    /// The expected texts are what Go's reader says.
    #[test]
    fn faults_as_go_tells_them() {
        let page = gzip(b"a 1\nb 2\n", 1);
        let changed = |at: usize, byte: u8| {
            let mut page = page.clone();
            page[at] = byte;
            page
        };
        for (body, expected) in [
            (vec![], "EOF"),
            (page[..5].to_vec(), "unexpected EOF"),
            (page[..12].to_vec(), "unexpected EOF"),
            (page[..page.len() - 3].to_vec(), "unexpected EOF"),
            (changed(0, 0), "gzip: invalid header"),
            (changed(page.len() - 1, 9), "gzip: invalid checksum"),
            ([&page[..], b"\0"].concat(), "unexpected EOF"),
            ([&page[..], b"rubbish behind it"].concat(), "gzip: invalid header"),
            // A block of type 3.
            (changed(10, 7), "flate: corrupt input before offset 1"),
            // A stored block whose length is not what its complement says.
            (changed(10, 1), "flate: corrupt input before offset 5"),
        ] {
            assert_eq!(fault(&body).as_deref(), Some(expected), "{}", body.escape_ascii());
        }
        let long = gzip(&b"abcdefgh".repeat(100), 1);
        let cut = &long[..long.len() - 9];
        assert_eq!(super::fault(cut, 100), Some(BodyError::TooLong));
        assert_eq!(super::fault(cut, 900), Some(BodyError::Broken("unexpected EOF".to_owned())));
        for at in 0..long.len() {
            for bit in 0..8 {
                let mut long = long.clone();
                long[at] ^= 1 << bit;
                let _ = fault(&long);
                let _ = fault(&long[..at]);
            }
        }
    }
}
