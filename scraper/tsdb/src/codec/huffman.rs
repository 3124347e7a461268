//! A small Huffman coder for residuals.
//!
//! The distance of a residual to the centre loses its low `k` bits, which are noise and written as they are; the rest is
//! put into buckets (0 to 7, then four an octave) whose numbers are Huffman-coded with at most [`MAX_BITS`] bits, so that
//! one look-up in a small table decodes one. The few distances beyond the last bucket are patched in afterwards.
//!
//! ```text
//! stream := 3 centre:signed k:u8 (| 0x80 with outliers) symbols:u8 lengths [outliers] codes
//! ```

use super::bits::{BitWriter, Cursor, load_bits, put_signed, put_varint, varint_len, zigzag};
use super::stream::{HUFFMAN, at_distance, distance};
use super::{CodecError, MAX_COLUMN};

/// The longest code. 9 bits make a table of 2 KiB, quickly filled.
const MAX_BITS: u32 = 9;
const TABLE: usize = 1 << MAX_BITS;

/// High parts are below 2^16: 8 buckets of one value, and 4 for each of 13 octaves.
const HIGH_BITS: u32 = 16;
const SYMBOLS: usize = 8 + 4 * (HIGH_BITS as usize - 3);

/// So that a code, its bucket's bits and the low bits are in one load of 57 bits.
const MAX_LOW: u32 = 34;

const OUTLIERS: u8 = 0x80;

/// The bucket of a high part, and how many bits say where in it.
#[inline]
fn bucket(high: u64) -> (usize, u32) {
    if high < 8 {
        (high as usize, 0)
    } else {
        let octave = 63 - high.leading_zeros();
        let extra = octave - 2;
        (8 + (octave as usize - 3) * 4 + (high >> extra & 3) as usize, extra)
    }
}

/// The least high part of a bucket, and how many bits follow.
fn bucket_base(symbol: usize) -> (u32, u32) {
    if symbol < 8 {
        (symbol as u32, 0)
    } else {
        let octave = (symbol as u32 - 8) / 4 + 3;
        ((4 + (symbol as u32 - 8) % 4) << (octave - 2), octave - 2)
    }
}

/// How a stream will be written, and its exact size.
pub(super) struct Plan {
    centre: i64,
    low: u32,
    /// Code lengths of the buckets up to the last one in use.
    lengths: [u8; SYMBOLS],
    symbols: usize,
    /// Positions and distances of what no bucket holds.
    outliers: Vec<(u32, u64)>,
    code_bits: usize,
}

impl Plan {
    /// `None` when the residuals are too wide.
    pub(super) fn new(residuals: &[i64], centre: i64) -> Option<Plan> {
        let n = residuals.len();
        let mut widths = [0u32; 65];
        for r in residuals {
            widths[64 - distance(*r, centre).leading_zeros() as usize] += 1;
        }
        let mut seen = 0;
        let half = widths.iter().position(|c| {
            seen += *c as usize;
            seen * 2 >= n
        })?;
        let widest = widths.iter().rposition(|c| *c > 0)? as u32;
        let mut low = (half as u32).saturating_sub(3);
        let beyond: u32 = widths.iter().skip((low + HIGH_BITS) as usize + 1).sum();
        if beyond as usize > 4 + n / 100 {
            low = widest - HIGH_BITS;
        }
        if low > MAX_LOW {
            return None;
        }
        let mut counts = [0u32; SYMBOLS];
        let mut outliers = Vec::new();
        let mut code_bits = 0;
        for (i, r) in residuals.iter().enumerate() {
            let d = distance(*r, centre);
            let high = d >> low;
            // An outlier is written as 0 and then patched.
            let (symbol, extra) = if high >> HIGH_BITS == 0 {
                bucket(high)
            } else {
                outliers.push((i as u32, d));
                (0, 0)
            };
            counts[symbol] += 1;
            code_bits += (extra + low) as usize;
        }
        let symbols = counts.iter().rposition(|c| *c > 0)? + 1;
        let lengths = code_lengths(&counts);
        code_bits += counts.iter().zip(&lengths).map(|(c, l)| *c as usize * usize::from(*l)).sum::<usize>();
        Some(Plan { centre, low, lengths, symbols, outliers, code_bits })
    }

    /// The stream's size in bytes.
    pub(super) fn len(&self) -> usize {
        let mut outliers = if self.outliers.is_empty() { 0 } else { varint_len(self.outliers.len() as u64) };
        let mut end = 0;
        for (at, d) in &self.outliers {
            outliers += varint_len(u64::from(at - end)) + varint_len(*d);
            end = *at;
        }
        let lengths: u32 = length_codes(&self.lengths[..self.symbols]).map(|(_, width)| width).sum();
        3 + varint_len(zigzag(self.centre)) + (lengths as usize).div_ceil(8) + outliers + self.code_bits.div_ceil(8)
    }

    pub(super) fn write(&self, residuals: &[i64], out: &mut Vec<u8>) {
        out.push(HUFFMAN);
        put_signed(out, self.centre);
        out.push(self.low as u8 | if self.outliers.is_empty() { 0 } else { OUTLIERS });
        out.push(self.symbols as u8);
        let mut bits = BitWriter::new(out);
        for (code, width) in length_codes(&self.lengths[..self.symbols]) {
            bits.put(u64::from(code), width);
        }
        bits.finish();
        if !self.outliers.is_empty() {
            put_varint(out, self.outliers.len() as u64);
            let mut end = 0;
            for (at, d) in &self.outliers {
                put_varint(out, u64::from(at - end));
                put_varint(out, *d);
                end = *at;
            }
        }
        let codes = codes(&self.lengths);
        let low = self.low;
        let mut bits = BitWriter::new(out);
        for r in residuals {
            let d = distance(*r, self.centre);
            let high = d >> low;
            let (symbol, extra, d) = if high >> HIGH_BITS == 0 {
                let (symbol, extra) = bucket(high);
                (symbol, extra + low, d)
            } else {
                (0, low, 0)
            };
            let length = u32::from(self.lengths[symbol]);
            bits.put(u64::from(codes[symbol]) | (d & ((1 << extra) - 1)) << length, length + extra);
        }
        bits.finish();
    }
}

/// The code lengths as bit strings, each against the one before: the same `0`, one more `01`, one less `011`, any
/// other `111` and four bits (low bits first).
fn length_codes(lengths: &[u8]) -> impl Iterator<Item = (u32, u32)> + '_ {
    let mut last = 0;
    lengths.iter().map(move |length| {
        let (length, before) = (u32::from(*length), std::mem::replace(&mut last, u32::from(*length)));
        if length == before {
            (0, 1)
        } else if length == before + 1 {
            (0b01, 2)
        } else if length + 1 == before {
            (0b011, 3)
        } else {
            (0b111 | length << 3, 7)
        }
    })
}

/// Lengths of a Huffman code for these counts, at most [`MAX_BITS`]; 0 for what does not occur.
fn code_lengths(counts: &[u32; SYMBOLS]) -> [u8; SYMBOLS] {
    let mut lengths = [0u8; SYMBOLS];
    let mut leaves = [(0u32, 0u8); SYMBOLS];
    let mut n = 0;
    for (symbol, count) in counts.iter().enumerate().filter(|(_, c)| **c > 0) {
        leaves[n] = (*count, symbol as u8);
        n += 1;
    }
    let leaves = &mut leaves[..n];
    if n == 1 {
        lengths[usize::from(leaves[0].1)] = 1;
        return lengths;
    }
    leaves.sort_unstable();
    // Two queues: leaves and inner nodes are each in ascending order of weight.
    let mut weight = [u32::MAX; 2 * SYMBOLS];
    let mut parent = [0u8; 2 * SYMBOLS];
    for (w, leaf) in weight.iter_mut().zip(leaves.iter()) {
        *w = leaf.0;
    }
    let (mut leaf, mut inner) = (0, n);
    for node in n..2 * n - 1 {
        let mut sum = 0;
        for _ in 0..2 {
            let taken = if leaf < n && (inner >= node || weight[leaf] <= weight[inner]) {
                leaf += 1;
                leaf - 1
            } else {
                inner += 1;
                inner - 1
            };
            parent[taken] = node as u8;
            sum += weight[taken];
        }
        weight[node] = sum;
    }
    let mut depth = [0u8; 2 * SYMBOLS];
    for node in (0..2 * n - 2).rev() {
        depth[node] = depth[usize::from(parent[node])] + 1;
    }
    // Cut what is too long, then lengthen the rarest until the code fits, then shorten the commonest that can be.
    let depth = &mut depth[..n];
    let whole = 1u32 << MAX_BITS;
    let share = |length: u8| whole >> length;
    let mut used = 0;
    for d in depth.iter_mut() {
        *d = (*d).min(MAX_BITS as u8);
        used += share(*d);
    }
    while used > whole {
        for d in depth.iter_mut().filter(|d| u32::from(**d) < MAX_BITS) {
            used -= share(*d) - share(*d + 1);
            *d += 1;
            if used <= whole {
                break;
            }
        }
    }
    for d in depth.iter_mut().rev() {
        while *d > 1 && used + share(*d) <= whole {
            used += share(*d);
            *d -= 1;
        }
    }
    for (d, leaf) in depth.iter().zip(leaves.iter()) {
        lengths[usize::from(leaf.1)] = *d;
    }
    lengths
}

/// Canonical codes, bit-reversed, since streams are read from the low end.
fn codes(lengths: &[u8; SYMBOLS]) -> [u32; SYMBOLS] {
    let mut codes = [0u32; SYMBOLS];
    let mut next = 0u32;
    for length in 1..=MAX_BITS {
        for (code, _) in codes.iter_mut().zip(lengths).filter(|(_, l)| u32::from(**l) == length) {
            *code = next.reverse_bits() >> (32 - length);
            next += 1;
        }
        next <<= 1;
    }
    codes
}

/// What a code decodes to: its length and that of all its bits, six and ten bits wide, and the least distance.
type Entry = u64;

const fn entry(base: u64, length: u32, total: u32) -> Entry {
    base << 16 | (length as u64) << 8 | total as u64
}

/// The table of one stream; only its first part is used when codes are short.
pub(super) type Table = [Entry; TABLE];

pub(super) const EMPTY: Table = [0; TABLE];

/// A stream whose head has been read, and whose table is filled.
pub(super) struct Open<'a> {
    centre: i64,
    mask: usize,
    /// The most bits that a residual takes.
    widest: u32,
    outliers: Vec<(u32, u64)>,
    bytes: &'a [u8],
    /// How many bits of `bytes` have been read.
    at: usize,
}

/// Reads the head of a stream of `len` residuals, whose kind has been read, and fills the table. The cursor is then at
/// the codes.
pub(super) fn open<'a>(cursor: &mut Cursor<'a>, len: usize, table: &mut Table) -> Result<Open<'a>, CodecError> {
    let centre = cursor.signed()?;
    let first = cursor.byte()?;
    let low = u32::from(first & !OUTLIERS);
    let symbols = usize::from(cursor.byte()?);
    if low > MAX_LOW || symbols > SYMBOLS || symbols == 0 {
        return Err(CodecError::Corrupt("code table"));
    }
    let bytes = cursor.rest();
    let mut lengths = [0u8; SYMBOLS];
    let mut by_length = [0u32; 16];
    let (mut at, mut last) = (0, 0u32);
    for length in &mut lengths[..symbols] {
        let word = load_bits(bytes, at);
        match word.trailing_ones() {
            0 => at += 1,
            1 => {
                at += 2;
                last += 1;
            }
            2 => {
                at += 3;
                last = last.wrapping_sub(1);
            }
            _ => {
                at += 7;
                last = (word >> 3 & 15) as u32;
            }
        }
        if last > MAX_BITS {
            return Err(CodecError::Corrupt("code length"));
        }
        *length = last as u8;
        by_length[last as usize] += 1;
    }
    cursor.take(at.div_ceil(8))?;
    let longest = by_length.iter().rposition(|c| *c > 0).unwrap_or(0) as u32;
    // Every code is below 2^length then.
    let used: u32 = (1..=longest).map(|l| by_length[l as usize] << (longest - l)).sum();
    if longest == 0 || used > 1 << longest {
        return Err(CodecError::Corrupt("code lengths"));
    }
    // The symbols by the lengths of their codes, which is the order of the codes.
    let mut next = [0usize; 16];
    for length in 1..=longest as usize {
        next[length + 1] = next[length] + by_length[length] as usize;
    }
    let coded = next[longest as usize + 1];
    let mut by_code = [0u8; SYMBOLS];
    for (symbol, length) in lengths[..symbols].iter().enumerate().filter(|(_, l)| **l > 0) {
        let place = &mut next[usize::from(*length)];
        by_code[*place] = symbol as u8;
        *place += 1;
    }
    // A table for codes of one bit more is the one before, twice: codes are read from their low end, and what is beyond a
    // shorter code's end does not matter. Codes that nobody has decode as themselves being 0, one bit long.
    table[0] = entry(0, 1, 1);
    let mut by_code = by_code[..coded].iter();
    let (mut code, mut size, mut widest) = (0u32, 1usize, 1);
    for length in 1..=longest {
        code <<= 1;
        table.copy_within(..size, size);
        size *= 2;
        for symbol in by_code.by_ref().take(by_length[length as usize] as usize) {
            let (base, extra) = bucket_base(usize::from(*symbol));
            let total = length + extra + low;
            widest = widest.max(total);
            table[(code.reverse_bits() >> (32 - length)) as usize & (TABLE - 1)] =
                entry(u64::from(base) << low, length, total);
            code += 1;
        }
    }
    let mut outliers = Vec::new();
    if first & OUTLIERS != 0 {
        let count = cursor.bounded(len.min(MAX_COLUMN), "too many outliers")?;
        let mut position = 0;
        for _ in 0..count {
            position += cursor.bounded(len, "outlier outside the column")?;
            outliers.push((position as u32, cursor.varint()?));
        }
    }
    Ok(Open { centre, mask: size - 1, widest, outliers, bytes: cursor.rest(), at: 0 })
}

impl Open<'_> {
    /// The bit that the next residual begins at.
    pub(super) fn bit(&self) -> usize {
        self.at
    }

    /// Goes to the residual that begins at a bit. Beyond the end there are zeros.
    pub(super) fn seek(&mut self, bit: usize) {
        self.at = bit;
    }

    /// Puts the outliers among `residuals`, the first of which is number `from`, in their places.
    pub(super) fn patch(&self, residuals: &mut [i64], from: usize) {
        for (position, d) in &self.outliers {
            let place = (*position as usize).checked_sub(from).and_then(|at| residuals.get_mut(at));
            if let Some(r) = place {
                *r = at_distance(*d, self.centre);
            }
        }
    }

    /// Puts the outliers in their places among all residuals, and says how many bytes the codes took.
    pub(super) fn close(&self, residuals: &mut [i64]) -> usize {
        self.patch(residuals, 0);
        self.at.div_ceil(8)
    }
}

/// Reads the next `out.len()` residuals, several from each load of 56 bits where they fit.
pub(super) fn run(open: &mut Open<'_>, table: &Table, out: &mut [i64]) {
    open.at = run_one(open.bytes, open.at, table, open.mask, open.widest, out);
    // By itself this is done for several at once.
    centre(out, open.centre);
}

/// The same from several bits of the stream on: `starts[i]` is where the residuals begin that go to the `i`th `each` of
/// `out`, as many as there are such pieces. Goes to the bit after the last residual.
///
/// Two or three pieces are read side by side: each code's place depends on the code before, and while one waits for its
/// table entry the others go on.
pub(super) fn run_from(open: &mut Open<'_>, table: &Table, mut starts: &[usize], each: usize, out: &mut [i64]) {
    let mut pieces = out.chunks_mut(each);
    let mut next = || pieces.next().unwrap_or_default();
    let (bytes, mask, widest) = (open.bytes, open.mask, open.widest);
    loop {
        (open.at, starts) = match *starts {
            [] => break,
            [a] => (run_one(bytes, a, table, mask, widest, next()), &starts[1..]),
            [a, b] | [a, b, _, _] => (run_two(bytes, [a, b], table, mask, widest, [next(), next()]), &starts[2..]),
            [a, b, c, ref rest @ ..] => {
                (run_three(bytes, [a, b, c], table, mask, widest, [next(), next(), next()]), rest)
            }
        }
    }
    centre(out, open.centre);
}

narthex_model::wide! {
    /// Distances as residuals.
    fn centre(out: &mut [i64], centre: i64) {
        for r in out {
            *r = at_distance(*r as u64, centre);
        }
    }

    /// Reads distances; returns the bit after them.
    fn run_one(bytes: &[u8], at: usize, table: &Table, mask: usize, widest: u32, out: &mut [i64]) -> usize {
        match widest {
            0..=14 => run_by::<4>(bytes, at, table, mask, out),
            15..=18 => run_by::<3>(bytes, at, table, mask, out),
            19..=28 => run_by::<2>(bytes, at, table, mask, out),
            _ => run_by::<1>(bytes, at, table, mask, out),
        }
    }

    /// The same from several places of a stream; returns the bit after the last.
    fn run_two(
        bytes: &[u8],
        at: [usize; 2],
        table: &Table,
        mask: usize,
        widest: u32,
        out: [&mut [i64]; 2],
    ) -> usize {
        match widest {
            0..=14 => run_two_by::<4>(bytes, at, table, mask, out),
            15..=18 => run_two_by::<3>(bytes, at, table, mask, out),
            19..=28 => run_two_by::<2>(bytes, at, table, mask, out),
            _ => run_two_by::<1>(bytes, at, table, mask, out),
        }
    }

    fn run_three(
        bytes: &[u8],
        at: [usize; 3],
        table: &Table,
        mask: usize,
        widest: u32,
        out: [&mut [i64]; 3],
    ) -> usize {
        match widest {
            0..=14 => run_three_by::<4>(bytes, at, table, mask, out),
            15..=18 => run_three_by::<3>(bytes, at, table, mask, out),
            19..=28 => run_three_by::<2>(bytes, at, table, mask, out),
            _ => run_three_by::<1>(bytes, at, table, mask, out),
        }
    }
}

/// Bits of a stream that have been loaded. The next load goes to a place that is known before the last code is, so that
/// codes wait for their table entries only.
#[derive(Clone, Copy, Default)]
struct Loaded {
    /// The next bits; `count` of them are accounted for. What is above them is right or 0.
    word: u64,
    count: u32,
    /// The byte that comes next.
    byte: usize,
}

impl Loaded {
    #[inline(always)]
    fn new(bytes: &[u8], at: usize) -> Loaded {
        Loaded { word: load_bits(bytes, at), count: 56 - (at as u32 & 7), byte: (at >> 3) + 7 }
    }

    /// At least 56 bits are there then.
    #[inline(always)]
    fn fill(&mut self, bytes: &[u8]) {
        self.word |= load_bits(bytes, self.byte << 3) << (self.count & 63);
        self.byte += (63 - self.count as usize) >> 3;
        self.count |= 56;
    }

    /// The bit that comes next.
    #[inline(always)]
    fn at(&self) -> usize {
        (self.byte << 3) - self.count as usize
    }
}

#[inline(always)]
fn run_by<const K: usize>(bytes: &[u8], at: usize, table: &Table, mask: usize, out: &mut [i64]) -> usize {
    let mask = mask & (TABLE - 1);
    let mut loaded = Loaded::new(bytes, at);
    let (runs, rest) = out.as_chunks_mut::<K>();
    for run in runs {
        step(bytes, &mut loaded, table, mask, run);
    }
    for r in rest {
        step(bytes, &mut loaded, table, mask, std::array::from_mut(r));
    }
    loaded.at()
}

// Written out for two and for three: in a loop over them their states would lie in memory.
#[inline(always)]
fn run_two_by<const K: usize>(bytes: &[u8], at: [usize; 2], table: &Table, mask: usize, out: [&mut [i64]; 2]) -> usize {
    let mask = mask & (TABLE - 1);
    let common = out[0].len().min(out[1].len()) / K * K;
    let [mut a, mut b] = at.map(|at| Loaded::new(bytes, at));
    let [(x, x_rest), (y, y_rest)] = out.map(|lane| lane.split_at_mut(common));
    for (x, y) in x.as_chunks_mut::<K>().0.iter_mut().zip(y.as_chunks_mut::<K>().0) {
        step(bytes, &mut a, table, mask, x);
        step(bytes, &mut b, table, mask, y);
    }
    run_by::<K>(bytes, a.at(), table, mask, x_rest);
    run_by::<K>(bytes, b.at(), table, mask, y_rest)
}

#[inline(always)]
fn run_three_by<const K: usize>(
    bytes: &[u8],
    at: [usize; 3],
    table: &Table,
    mask: usize,
    out: [&mut [i64]; 3],
) -> usize {
    let mask = mask & (TABLE - 1);
    let common = out[0].len().min(out[1].len()).min(out[2].len()) / K * K;
    let [mut a, mut b, mut c] = at.map(|at| Loaded::new(bytes, at));
    let [(x, x_rest), (y, y_rest), (z, z_rest)] = out.map(|lane| lane.split_at_mut(common));
    let pairs = x.as_chunks_mut::<K>().0.iter_mut().zip(y.as_chunks_mut::<K>().0);
    for ((x, y), z) in pairs.zip(z.as_chunks_mut::<K>().0) {
        step(bytes, &mut a, table, mask, x);
        step(bytes, &mut b, table, mask, y);
        step(bytes, &mut c, table, mask, z);
    }
    run_by::<K>(bytes, a.at(), table, mask, x_rest);
    run_by::<K>(bytes, b.at(), table, mask, y_rest);
    run_by::<K>(bytes, c.at(), table, mask, z_rest)
}

/// Reads `K` distances, of which 56 bits hold so many.
#[inline(always)]
fn step<const K: usize>(bytes: &[u8], loaded: &mut Loaded, table: &Table, mask: usize, out: &mut [i64; K]) {
    loaded.fill(bytes);
    for r in out {
        let entry = table[loaded.word as usize & mask];
        let total = entry as u32 & 63;
        let length = (entry >> 8) as u32 & 63;
        // One instruction where loops are compiled for newer processors.
        let low = (loaded.word & !(u64::MAX << total)) >> length;
        *r = ((entry >> 16) + low) as i64;
        loaded.word >>= total;
        loaded.count -= total;
    }
}

/// Appends `len` residuals; the kind's byte has been read.
pub(super) fn decode(cursor: &mut Cursor<'_>, len: usize, out: &mut Vec<i64>) -> Result<(), CodecError> {
    let mut table = EMPTY;
    let mut open = open(cursor, len, &mut table)?;
    let start = out.len();
    out.resize(start + len, 0);
    run(&mut open, &table, &mut out[start..]);
    let used = open.close(&mut out[start..]);
    cursor.take(used)?;
    Ok(())
}
