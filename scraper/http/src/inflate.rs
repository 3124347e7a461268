//! Gunzip of a whole body at once.
//!
//! A page comes in one piece, so its decoder needs no state between calls, no window of its own and no copy of what it
//! has decoded: half the time of the streaming decoder. Nothing is read or written unchecked. What this decoder refuses
//! is to be read by the streaming one, which says what is wrong in the words that users know.

/// Bits that the first look into the table of literals and lengths takes; longer codes go on in a second table.
const LITERAL_BITS: u32 = 11;
const DISTANCE_BITS: u32 = 8;
/// Powers of two, so that masked indices need no check; enough for any code of at most 15 bits (2,342 and 402).
const LITERAL_TABLE: usize = 4096;
const DISTANCE_TABLE: usize = 1024;
/// The fast loop needs so many bytes of input and of room.
const INPUT_MARGIN: usize = 32;
const OUTPUT_MARGIN: usize = 320;

// An entry: bits 0-7, how many bits to take in all; 8-11, how many of them are the code (the rest are extra bits, or
// the second table's index); 16-30, literal, base or start of the second table; flags.
const LITERAL: u32 = 1 << 31;
const SPECIAL: u32 = 1 << 15;
const SECOND: u32 = 1 << 14;
const END: u32 = 1 << 13;

const LENGTH_BASE: [u16; 31] = [
    3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258,
    0, 0,
];
const LENGTH_EXTRA: [u8; 31] =
    [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0, 0, 0];
const DISTANCE_BASE: [u16; 32] = [
    1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145,
    8193, 12289, 16385, 24577, 0, 0,
];
const DISTANCE_EXTRA: [u8; 32] =
    [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 0, 0];
const CODE_LENGTH_ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It would have `limit` bytes or more.
    TooLong,
    /// It is damaged, or ends early.
    Damaged,
}

use Refused::{Damaged, TooLong};

/// Reads all members of a gzip stream, and appends what they hold to `out`; on failure `out` is as it was.
///
/// # Errors
/// See [`Refused`].
pub fn gunzip(input: &[u8], out: &mut Vec<u8>, limit: u64) -> Result<(), Refused> {
    let start = out.len();
    let mut at = start;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX).saturating_add(start);
    let result = if input.is_empty() { Err(Damaged) } else { members(input, out, &mut at, limit) };
    out.truncate(if result.is_ok() { at } else { start });
    result
}

fn members(mut input: &[u8], out: &mut Vec<u8>, at: &mut usize, limit: usize) -> Result<(), Refused> {
    let mut tables = Tables { literals: Box::new([0; LITERAL_TABLE]), distances: Box::new([0; DISTANCE_TABLE]) };
    while !input.is_empty() {
        let mut bits = Bits { input: input.get(header(input)?..).ok_or(Damaged)?, at: 0, buffer: 0, count: 0 };
        let member = *at;
        inflate(&mut bits, &mut tables, out, at, member, limit)?;
        let (sums, rest) = bits.rest()?.split_first_chunk::<8>().ok_or(Damaged)?;
        let data = out.get(member..*at).ok_or(Damaged)?;
        let [a, b, c, d, e, f, g, h] = *sums;
        if crc32fast::hash(data) != u32::from_le_bytes([a, b, c, d])
            || data.len() as u32 != u32::from_le_bytes([e, f, g, h])
        {
            return Err(Damaged);
        }
        input = rest;
    }
    Ok(())
}

/// The length of a member's header.
fn header(input: &[u8]) -> Result<usize, Refused> {
    let (fixed, mut rest) = input.split_first_chunk::<10>().ok_or(Damaged)?;
    let flags = fixed[3];
    // 0x02 is a checksum of the header: rare, and left to the streaming decoder.
    if fixed[..3] != [0x1f, 0x8b, 8] || flags & 0xe2 != 0 {
        return Err(Damaged);
    }
    if flags & 4 != 0 {
        let (len, after) = rest.split_first_chunk::<2>().ok_or(Damaged)?;
        rest = after.get(usize::from(u16::from_le_bytes(*len))..).ok_or(Damaged)?;
    }
    for flag in [8, 16] {
        if flags & flag != 0 {
            let end = rest.iter().position(|b| *b == 0).ok_or(Damaged)?;
            rest = rest.get(end + 1..).ok_or(Damaged)?;
        }
    }
    Ok(input.len() - rest.len())
}

struct Tables {
    literals: Box<[u32; LITERAL_TABLE]>,
    distances: Box<[u32; DISTANCE_TABLE]>,
}

/// The input, bit by bit, lowest first.
struct Bits<'a> {
    input: &'a [u8],
    at: usize,
    buffer: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    /// At least 56 bits, where there are eight more bytes. Bits above `count` may be there already.
    #[inline(always)]
    fn refill_fast(&mut self) {
        if let Some(bytes) = self.input.get(self.at..).and_then(|b| b.first_chunk::<8>()) {
            self.buffer |= u64::from_le_bytes(*bytes) << self.count;
            self.at += (63 - self.count as usize) >> 3;
            self.count |= 56;
        }
    }

    fn refill(&mut self) {
        // The fast way leaves bits of bytes not counted yet.
        self.buffer &= (1u64 << self.count).wrapping_sub(1);
        while self.count <= 56 {
            let Some(byte) = self.input.get(self.at) else { return };
            self.buffer |= u64::from(*byte) << self.count;
            self.at += 1;
            self.count += 8;
        }
    }

    #[inline(always)]
    fn skip(&mut self, n: u32) {
        self.buffer >>= n & 63;
        self.count = self.count.wrapping_sub(n & 63);
    }

    fn take(&mut self, n: u32) -> Result<u32, Refused> {
        if self.count < n {
            self.refill();
        }
        if self.count < n {
            return Err(Damaged);
        }
        let value = self.buffer as u32 & ((1u32 << n) - 1);
        self.skip(n);
        Ok(value)
    }

    /// To the next whole byte, and what follows.
    fn rest(&mut self) -> Result<&'a [u8], Refused> {
        let at = self.at.checked_sub(self.count as usize / 8).ok_or(Damaged)?;
        (self.at, self.buffer, self.count) = (at, 0, 0);
        self.input.get(at..).ok_or(Damaged)
    }
}

fn inflate(
    bits: &mut Bits<'_>,
    tables: &mut Tables,
    out: &mut Vec<u8>,
    at: &mut usize,
    start: usize,
    limit: usize,
) -> Result<(), Refused> {
    loop {
        let last = bits.take(1)?;
        match bits.take(2)? {
            0 => stored(bits, out, at, limit)?,
            kind @ (1 | 2) => {
                if kind == 1 {
                    fixed(tables)?
                } else {
                    dynamic(bits, tables)?
                }
                block(bits, tables, out, at, start, limit)?;
            }
            _ => return Err(Damaged),
        }
        if last == 1 {
            return Ok(());
        }
    }
}

fn stored(bits: &mut Bits<'_>, out: &mut Vec<u8>, at: &mut usize, limit: usize) -> Result<(), Refused> {
    bits.refill();
    let rest = bits.rest()?;
    let (lens, rest) = rest.split_first_chunk::<4>().ok_or(Damaged)?;
    let len = u16::from_le_bytes([lens[0], lens[1]]);
    if len != !u16::from_le_bytes([lens[2], lens[3]]) {
        return Err(Damaged);
    }
    let data = rest.get(..usize::from(len)).ok_or(Damaged)?;
    if *at + data.len() >= limit {
        return Err(TooLong);
    }
    out.truncate(*at);
    out.extend_from_slice(data);
    *at += data.len();
    bits.at += 4 + data.len();
    Ok(())
}

fn fixed(tables: &mut Tables) -> Result<(), Refused> {
    let mut lens = [8u8; 288];
    lens[144..256].fill(9);
    lens[256..280].fill(7);
    literal_table(tables, &lens)?;
    distance_table(tables, &[5; 32])
}

fn dynamic(bits: &mut Bits<'_>, tables: &mut Tables) -> Result<(), Refused> {
    let literals = bits.take(5)? as usize + 257;
    let distances = bits.take(5)? as usize + 1;
    let codes = bits.take(4)? as usize + 4;
    let mut code_lens = [0u8; 19];
    for place in CODE_LENGTH_ORDER.iter().take(codes) {
        code_lens[*place] = bits.take(3)? as u8;
    }
    let mut table = [0u32; 128];
    build(&mut table, 7, &code_lens, |symbol| (symbol as u32) << 16)?;
    let mut lens = [0u8; 320];
    let mut n = 0;
    while n < literals + distances {
        bits.refill();
        let entry = table[bits.buffer as usize & 127];
        if entry == 0 || bits.count < entry & 0xff {
            return Err(Damaged);
        }
        bits.skip(entry & 0xff);
        let (value, times) = match entry >> 16 {
            len @ 0..=15 => (len as u8, 1),
            16 => {
                let before = n.checked_sub(1).ok_or(Damaged)?;
                (lens[before], 3 + bits.take(2)? as usize)
            }
            17 => (0, 3 + bits.take(3)? as usize),
            _ => (0, 11 + bits.take(7)? as usize),
        };
        if n + times > literals + distances {
            return Err(Damaged);
        }
        lens.get_mut(n..n + times).ok_or(Damaged)?.fill(value);
        n += times;
    }
    if lens[256] == 0 {
        return Err(Damaged);
    }
    literal_table(tables, lens.get(..literals).ok_or(Damaged)?)?;
    distance_table(tables, lens.get(literals..n).ok_or(Damaged)?)
}

fn literal_table(tables: &mut Tables, lens: &[u8]) -> Result<(), Refused> {
    build(&mut *tables.literals, LITERAL_BITS, lens, |symbol| match symbol {
        0..256 => LITERAL | (symbol as u32) << 16,
        256 => SPECIAL | END,
        // 286 and 287 are codes without a meaning.
        _ => match LENGTH_BASE.get(symbol - 257).copied().unwrap_or(0) {
            0 => SPECIAL,
            base => u32::from(base) << 16 | u32::from(LENGTH_EXTRA[symbol - 257]),
        },
    })
}

fn distance_table(tables: &mut Tables, lens: &[u8]) -> Result<(), Refused> {
    build(&mut *tables.distances, DISTANCE_BITS, lens, |symbol| match DISTANCE_BASE.get(symbol).copied().unwrap_or(0) {
        0 => SPECIAL,
        base => u32::from(base) << 16 | u32::from(DISTANCE_EXTRA[symbol]),
    })
}

/// Fills a table for the code with these lengths. `entry` gives a symbol's entry with its number of extra bits, to
/// which the length of its code is added. An index that is no code's has entry 0.
fn build(table: &mut [u32], table_bits: u32, lens: &[u8], entry: impl Fn(usize) -> u32) -> Result<(), Refused> {
    let mut counts = [0u32; 16];
    for len in lens {
        counts[usize::from(*len & 15)] += 1;
    }
    counts[0] = 0;
    let used: u32 = counts.iter().sum();
    // Kraft's sum, in units of the longest code.
    let space: u32 = counts.iter().enumerate().map(|(len, n)| n << (15 - len)).sum();
    // Only a code of one symbol may leave codes unused, or one without any.
    if space > 1 << 15 || space < 1 << 15 && (used > 1 || used == 1 && counts[1] != 1) {
        return Err(Damaged);
    }
    table.fill(0);
    let mut next = [0u32; 16];
    let mut code = 0;
    for len in 1..16 {
        code = (code + counts[len - 1]) << 1;
        next[len] = code;
    }
    let main = 1usize << table_bits;
    // Second tables: how long the longest code with each prefix is.
    let mut second_at = main;
    let mut longest = [0u8; 1 << LITERAL_BITS];
    let mut codes = [0u16; 320];
    for (symbol, len) in lens.iter().enumerate().filter(|l| *l.1 > 0) {
        let len = u32::from(*len);
        let code = next[len as usize];
        next[len as usize] += 1;
        let reversed = code.reverse_bits() >> (32 - len);
        *codes.get_mut(symbol).ok_or(Damaged)? = reversed as u16;
        if len > table_bits {
            let prefix = reversed as usize & (main - 1);
            longest[prefix] = longest[prefix].max((len - table_bits) as u8);
        }
    }
    for (symbol, len) in lens.iter().enumerate().filter(|l| *l.1 > 0) {
        let len = u32::from(*len);
        let reversed = usize::from(codes[symbol]);
        let base = entry(symbol);
        if len <= table_bits {
            let whole = base + len + (len << 8);
            let mut i = reversed;
            while i < main {
                *table.get_mut(i).ok_or(Damaged)? = whole;
                i += 1 << len;
            }
            continue;
        }
        let prefix = reversed & (main - 1);
        let width = u32::from(longest[prefix]);
        if table[prefix] == 0 {
            table[prefix] = SPECIAL | SECOND | (second_at as u32) << 16 | width << 8 | table_bits;
            second_at += 1 << width;
        }
        let first = (table[prefix] >> 16) as usize;
        let rest = len - table_bits;
        let whole = base + rest + (rest << 8);
        let mut i = reversed >> table_bits;
        while i < 1 << width {
            *table.get_mut(first + i).ok_or(Damaged)? = whole;
            i += 1 << rest;
        }
    }
    Ok(())
}

/// A block of compressed data.
fn block(
    bits: &mut Bits<'_>,
    tables: &Tables,
    out: &mut Vec<u8>,
    at: &mut usize,
    start: usize,
    limit: usize,
) -> Result<(), Refused> {
    let (literals, distances) = (&*tables.literals, &*tables.distances);
    loop {
        if out.len() < *at + OUTPUT_MARGIN {
            // No more than twice what is there at a time, so that a small body cannot claim a lot.
            let room = (*at + (*at).clamp(64 << 10, 16 << 20)).min(limit.saturating_add(OUTPUT_MARGIN));
            out.resize((*at + OUTPUT_MARGIN).max(room), 0);
        }
        let ended = fast(bits, literals, distances, out, at, start)?;
        if *at >= limit {
            return Err(TooLong);
        }
        if ended {
            return Ok(());
        }
        if out.len() < *at + OUTPUT_MARGIN {
            continue;
        }
        // Near the end of the input: one symbol at a time, every bit counted.
        bits.refill();
        let mut entry = literals[bits.buffer as usize & ((1 << LITERAL_BITS) - 1)];
        if entry & SECOND != 0 && entry & (LITERAL | SPECIAL) == SPECIAL {
            checked_skip(bits, entry & 0xff)?;
            entry = second(entry, literals, bits.buffer);
        }
        if entry == 0 {
            return Err(Damaged);
        }
        let before = bits.buffer;
        checked_skip(bits, entry & 0xff)?;
        if entry & LITERAL != 0 {
            *out.get_mut(*at).ok_or(Damaged)? = (entry >> 16) as u8;
            *at += 1;
            continue;
        }
        if entry & SPECIAL != 0 {
            if entry & END != 0 {
                return Ok(());
            }
            return Err(Damaged);
        }
        let length = with_extra(entry, before);
        bits.refill();
        let mut entry = distances[bits.buffer as usize & ((1 << DISTANCE_BITS) - 1)];
        if entry & (SECOND | SPECIAL) == SECOND | SPECIAL {
            checked_skip(bits, entry & 0xff)?;
            entry = second(entry, distances, bits.buffer);
        }
        if entry == 0 || entry & SPECIAL != 0 {
            return Err(Damaged);
        }
        let before = bits.buffer;
        checked_skip(bits, entry & 0xff)?;
        let distance = with_extra(entry, before);
        if distance > *at - start {
            return Err(Damaged);
        }
        copy(out, *at, distance, length)?;
        *at += length;
    }
}

fn checked_skip(bits: &mut Bits<'_>, n: u32) -> Result<(), Refused> {
    if bits.count < n {
        return Err(Damaged);
    }
    bits.skip(n);
    Ok(())
}

#[inline(always)]
fn second<const N: usize>(entry: u32, table: &[u32; N], buffer: u64) -> u32 {
    let width = entry >> 8 & 15;
    table[((entry >> 16 & 0x7fff) as usize + (buffer as usize & ((1 << width) - 1))) & (N - 1)]
}

/// Base and extra bits.
#[inline(always)]
fn with_extra(entry: u32, buffer: u64) -> usize {
    let (all, code) = (entry & 0xff, entry >> 8 & 15);
    let extra = (buffer & ((1u64 << (all & 63)) - 1)) >> code;
    (entry >> 16 & 0x7fff) as usize + extra as usize
}

/// Decodes as long as there is plenty of input and room. Whether the block ended.
#[inline(never)]
fn fast(
    bits: &mut Bits<'_>,
    literals: &[u32; LITERAL_TABLE],
    distances: &[u32; DISTANCE_TABLE],
    out: &mut [u8],
    at: &mut usize,
    start: usize,
) -> Result<bool, Refused> {
    let input = bits.input;
    let mut b = Bits { input, at: bits.at, buffer: bits.buffer, count: bits.count };
    let mut to = *at;
    let (Some(last_in), Some(last_out)) = (input.len().checked_sub(INPUT_MARGIN), out.len().checked_sub(OUTPUT_MARGIN))
    else {
        return Ok(false);
    };
    let mut ended = false;
    let main = |buffer: u64| literals[buffer as usize & ((1 << LITERAL_BITS) - 1)];
    while b.at <= last_in && to <= last_out {
        b.refill_fast();
        let mut entry = main(b.buffer);
        // Three literals of the first table, and a whole match but for its distance, fit 56 bits.
        if entry & LITERAL != 0 {
            b.skip(entry & 0xff);
            let one = (entry >> 16) as u8;
            entry = main(b.buffer);
            let Some(room) = out.get_mut(to..).and_then(|o| o.first_chunk_mut::<3>()) else { return Err(Damaged) };
            room[0] = one;
            to += 1;
            if entry & LITERAL != 0 {
                b.skip(entry & 0xff);
                room[1] = (entry >> 16) as u8;
                to += 1;
                entry = main(b.buffer);
                if entry & LITERAL != 0 {
                    b.skip(entry & 0xff);
                    room[2] = (entry >> 16) as u8;
                    to += 1;
                    continue;
                }
            }
        }
        if entry & SPECIAL != 0 {
            if entry & SECOND != 0 {
                b.skip(entry & 0xff);
                entry = second(entry, literals, b.buffer);
            }
            if entry & LITERAL != 0 {
                b.skip(entry & 0xff);
                let Some(room) = out.get_mut(to) else { return Err(Damaged) };
                *room = (entry >> 16) as u8;
                to += 1;
                continue;
            }
            if entry & END != 0 {
                b.skip(entry & 0xff);
                ended = true;
                break;
            }
        }
        if entry == 0 || entry & SPECIAL != 0 {
            return Err(Damaged);
        }
        let length = with_extra(entry, b.buffer);
        b.skip(entry & 0xff);
        b.refill_fast();
        let mut entry = distances[b.buffer as usize & ((1 << DISTANCE_BITS) - 1)];
        if entry & SPECIAL != 0 {
            if entry & SECOND == 0 {
                return Err(Damaged);
            }
            b.skip(entry & 0xff);
            entry = second(entry, distances, b.buffer);
        }
        if entry == 0 || entry & SPECIAL != 0 {
            return Err(Damaged);
        }
        let distance = with_extra(entry, b.buffer);
        b.skip(entry & 0xff);
        if distance > to - start {
            return Err(Damaged);
        }
        copy(out, to, distance, length)?;
        to += length;
    }
    (bits.at, bits.buffer, bits.count) = (b.at, b.buffer, b.count);
    *at = to;
    Ok(ended)
}

/// Repeats `length` bytes from `distance` back; at most 258, and there is room for more.
#[inline(always)]
fn copy(out: &mut [u8], to: usize, distance: usize, length: usize) -> Result<(), Refused> {
    let from = to.checked_sub(distance).ok_or(Damaged)?;
    if distance >= 16 {
        // Whole words: what is too much is overwritten by what comes next.
        let mut done = 0;
        loop {
            let word = *out.get(from + done..).and_then(|s| s.first_chunk::<16>()).ok_or(Damaged)?;
            *out.get_mut(to + done..).and_then(|t| t.first_chunk_mut::<16>()).ok_or(Damaged)? = word;
            done += 16;
            if done >= length {
                return Ok(());
            }
        }
    }
    if distance >= 8 {
        let mut done = 0;
        while done < length {
            let word = *out.get(from + done..).and_then(|s| s.first_chunk::<8>()).ok_or(Damaged)?;
            *out.get_mut(to + done..).and_then(|t| t.first_chunk_mut::<8>()).ok_or(Damaged)? = word;
            done += 8;
        }
        return Ok(());
    }
    if distance == 1 {
        let byte = *out.get(from).ok_or(Damaged)?;
        out.get_mut(to..to + length).ok_or(Damaged)?.fill(byte);
        return Ok(());
    }
    let part = out.get_mut(from..to + length).ok_or(Damaged)?;
    for i in distance..part.len() {
        part[i] = part[i - distance];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use flate2::Compression;
    use flate2::read::MultiGzDecoder;
    use flate2::write::GzEncoder;

    use super::*;

    fn random(seed: u64) -> impl FnMut(usize) -> usize {
        let mut x = seed;
        move |n| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 11) as usize % n.max(1)
        }
    }

    /// Literals and repeats of any distance.
    fn data(len: usize, alphabet: usize, next: &mut impl FnMut(usize) -> usize) -> Vec<u8> {
        let mut data: Vec<u8> = Vec::new();
        while data.len() < len {
            if data.is_empty() || next(3) == 0 {
                (0..1 + next(20)).for_each(|_| data.push(next(alphabet) as u8));
                continue;
            }
            let far = if next(3) == 0 { 20 } else { 40_000 };
            let distance = 1 + next(data.len().min(far));
            (0..3 + next(300)).for_each(|_| data.push(data[data.len() - distance]));
        }
        data
    }

    #[test]
    fn reads_what_flate2_writes_and_refuses_what_it_refuses() {
        let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0x2545_f491_4f6c_dd1d);
        let mut next = random(seed);
        for round in 0..1200 {
            let len = [next(50), next(2_000), next(70_000), next(300)][round % 4];
            let alphabet = [1, 2, 4, 20, 256][next(5)];
            let mut plain = data(len, alphabet, &mut next);
            let mut encoder = GzEncoder::new(Vec::new(), Compression::new(next(10) as u32));
            encoder.write_all(&plain).unwrap();
            let mut packed = encoder.finish().unwrap();
            if next(10) == 0 {
                packed.extend(packed.clone());
                plain.extend(plain.clone());
            }
            let mut out = b"kept".to_vec();
            let len = plain.len() as u64;
            assert_eq!(gunzip(&packed, &mut out, len), Err(TooLong), "seed {seed} round {round}");
            assert_eq!(out, b"kept");
            assert_eq!(gunzip(&packed, &mut out, len + 1), Ok(()), "seed {seed} round {round}");
            assert!(out[4..] == plain, "seed {seed} round {round}");
            let at = next(packed.len());
            if next(2) == 0 {
                packed.truncate(at);
            } else {
                packed[at] ^= 1 << next(8);
            }
            let (mut mine, mut other) = (Vec::new(), Vec::new());
            if gunzip(&packed, &mut mine, 10 << 20).is_ok() {
                MultiGzDecoder::new(&packed[..]).read_to_end(&mut other).unwrap();
                assert!(mine == other, "seed {seed} round {round}");
            } else {
                assert!(mine.is_empty());
            }
        }
    }

    #[test]
    fn garbage_is_refused_and_never_a_panic() {
        let mut next = random(7);
        let (mut out, head) = (Vec::new(), [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]);
        for round in 0..20_000 {
            let garbage: Vec<u8> = (0..next(120)).map(|_| next(256) as u8).collect();
            let packed = [&head[..], &garbage].concat();
            assert!(gunzip(&packed, &mut out, 1 << 16).is_err(), "round {round}");
        }
    }

    #[test]
    fn optional_parts_of_the_header_are_skipped() {
        let mut encoder = flate2::GzBuilder::new()
            .filename("page.txt")
            .comment("text")
            .extra([1, 2, 3])
            .write(Vec::new(), Compression::best());
        encoder.write_all(b"a 1\n").unwrap();
        let mut out = Vec::new();
        assert_eq!(gunzip(&encoder.finish().unwrap(), &mut out, 100), Ok(()));
        assert_eq!(out, b"a 1\n");
    }
}
