//! Writes JSON as Prometheus's API does, straight into a buffer: no tree in between.

use narthex_model::{Histogram, Labels};

/// Appends a string with Go's escaping of label texts: quotes, backslashes, control characters.
pub fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    escape(out, text.as_bytes(), false);
    out.push(b'"');
}

/// Appends a string as Go's `encoding/json` does by default: `<`, `>`, `&` and U+2028, U+2029 escaped, too.
pub fn html_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    escape(out, text.as_bytes(), true);
    out.push(b'"');
}

const ONES: u64 = 0x0101_0101_0101_0101;

/// Not 0 if one of the eight bytes has to be escaped.
#[inline]
fn special(word: u64, html: bool) -> u64 {
    // Bytes that are zero have their high bit set; above the lowest of them others may.
    let equal = |byte: u64| {
        let other = word ^ (byte * ONES);
        other.wrapping_sub(ONES) & !other
    };
    let below = word.wrapping_sub(0x20 * ONES) & !word;
    let mut special = below | equal(0x22) | equal(0x5c);
    if html {
        special |= equal(0x3c) | equal(0x3e) | equal(0x26) | equal(0xe2);
    }
    special & (0x80 * ONES)
}

/// Whether JSON takes all bytes as they are. Looks at all of them: branches cost more.
#[inline]
fn is_plain(bytes: &[u8], html: bool) -> bool {
    // The last word may overlap the one before.
    let Some(last) = bytes.last_chunk::<8>() else {
        let odd = |b: u8| b < 0x20 || b == b'"' || b == b'\\' || html && matches!(b, b'<' | b'>' | b'&' | 0xe2);
        return !bytes.iter().fold(false, |any, b| any | odd(*b));
    };
    let each = |chunk: &[u8; 8]| special(u64::from_le_bytes(*chunk), html);
    bytes.as_chunks::<8>().0.iter().fold(each(last), |found, chunk| found | each(chunk)) == 0
}

/// Appends a name or value of a label. Few bytes are looked at and copied as one word, or two that may overlap: calls to do
/// it cost more.
#[inline]
fn part(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = bytes.len();
    match (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        (Some(first), Some(last))
            if len <= 16
                && special(u64::from_le_bytes(*first), false) | special(u64::from_le_bytes(*last), false) == 0 =>
        {
            let at = out.len();
            out.extend_from_slice(&[0; 16]);
            out[at..at + 8].copy_from_slice(first);
            out[at + len - 8..at + len].copy_from_slice(last);
            return out.truncate(at + len);
        }
        (None, None) if len > 0 => {
            let word = match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
                (Some(first), Some(last)) => {
                    u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << (8 * (len - 4))
                }
                _ => [0, len / 2, len - 1].iter().fold(0, |word, i| word | u64::from(bytes[*i]) << (8 * i)),
            };
            // What is beyond the end must not count.
            if special(word | (u64::from(b' ') * ONES) << (8 * len), false) == 0 {
                let at = out.len();
                out.extend_from_slice(&word.to_le_bytes());
                return out.truncate(at + len);
            }
        }
        _ => {}
    }
    escape(out, bytes, false);
}

fn escape(out: &mut Vec<u8>, bytes: &[u8], html: bool) {
    if is_plain(bytes, html) {
        return out.extend_from_slice(bytes);
    }
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut plain = 0;
    let mut i = 0;
    while i < bytes.len() {
        let b = bytes[i];
        let separator =
            html && b == 0xe2 && bytes[i..].starts_with(&[0xe2, 0x80]) && matches!(bytes.get(i + 2), Some(0xa8 | 0xa9));
        if b >= 0x20 && b != b'"' && b != b'\\' && !(html && matches!(b, b'<' | b'>' | b'&')) && !separator {
            i += 1;
            continue;
        }
        out.extend_from_slice(&bytes[plain..i]);
        match b {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0xe2 => {
                out.extend_from_slice(b"\\u202");
                out.push(if bytes[i + 2] == 0xa8 { b'8' } else { b'9' });
                i += 2;
            }
            b => out.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]),
        }
        i += 1;
        plain = i;
    }
    out.extend_from_slice(&bytes[plain..]);
}

/// Appends `{"name":"value",…}`.
pub fn labels(out: &mut Vec<u8>, labels: &Labels) {
    LabelWriter::default().write(out, labels);
}

/// Writes label sets, of which each mostly begins as the one before.
#[derive(Default)]
pub struct LabelWriter {
    last: Labels,
    /// What was written for it.
    text: Vec<u8>,
    /// Where each of its labels ends, in its own text and in what was written.
    ends: Vec<(usize, usize)>,
}

impl LabelWriter {
    /// Appends `{"name":"value",…}`.
    pub fn write(&mut self, out: &mut Vec<u8>, labels: &Labels) {
        let shared = labels.shared_text(&self.last);
        self.ends.truncate(self.ends.iter().rposition(|end| end.0 <= shared).map_or(0, |last| last + 1));
        let (mut at, from) = self.ends.last().copied().unwrap_or_default();
        self.text.truncate(from);
        out.push(b'{');
        out.extend_from_slice(&self.text);
        let start = out.len();
        // Each label takes two lengths in the text and at most six more bytes of punctuation here.
        out.reserve((labels.text().len() - at) * 2 + 18);
        while let Some((name, value, end)) = labels.label_at(at) {
            out.extend_from_slice(if at == 0 { b"\"" } else { b",\"" });
            part(out, name.as_bytes());
            out.extend_from_slice(b"\":\"");
            part(out, value.as_bytes());
            out.push(b'"');
            at = end;
            self.ends.push((end, from + out.len() - start));
        }
        self.text.extend_from_slice(&out[start..]);
        self.last = labels.clone();
        out.push(b'}');
    }
}

/// The numbers below 100 in two digits each.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut i = 0;
    while i < 100 {
        pairs[i] = [b'0' + (i / 10) as u8, b'0' + (i % 10) as u8];
        i += 1;
    }
    pairs
};

/// Appends the first `len` bytes: all are copied, which is quick, as they are always as many.
#[inline]
fn append<const N: usize>(out: &mut Vec<u8>, text: &[u8; N], len: usize) {
    let end = out.len() + len;
    out.extend_from_slice(text);
    out.truncate(end);
}

/// The decimal digits, and how many they are.
#[inline]
fn digits(n: u64) -> ([u8; 20], usize) {
    let len = n.checked_ilog10().map_or(1, |log| log as usize + 1);
    let (mut digits, mut at, mut rest) = ([0u8; 20], len, n);
    while at >= 2 {
        at -= 2;
        digits[at..at + 2].copy_from_slice(&PAIRS[(rest % 100) as usize]);
        rest /= 100;
    }
    if at == 1 {
        digits[0] = b'0' + rest as u8;
    }
    (digits, len)
}

/// Appends an integer in decimal.
pub fn integer(out: &mut Vec<u8>, n: i64) {
    if n < 0 {
        out.push(b'-');
    }
    let (digits, len) = digits(n.unsigned_abs());
    append(out, &digits, len);
}

/// Appends a timestamp in ms as seconds: `1435781451.781`, `1435781451`.
pub fn timestamp(out: &mut Vec<u8>, ms: i64) {
    if ms < 0 {
        out.push(b'-');
    }
    let ms = ms.unsigned_abs();
    integer(out, (ms / 1000) as i64);
    let fraction = (ms % 1000) as u16;
    if fraction != 0 {
        // Go writes the fraction without its leading zeros only: `.05` as `.050`, `.5` as `.500`.
        out.push(b'.');
        out.extend_from_slice(&[
            b'0' + (fraction / 100) as u8,
            b'0' + (fraction / 10 % 10) as u8,
            b'0' + (fraction % 10) as u8,
        ]);
    }
}

/// Whether neither Go nor `zmij` writes an exponent. Whole numbers have a form of their own.
#[inline]
fn has_no_exponent(magnitude: f64) -> bool {
    (1e-5..1e15).contains(&magnitude)
}

/// Most bytes of a value: a sign, `0.00000` and 17 digits.
const MAX_FLOAT: usize = 25;

/// Appends a value as Go's shortest 'f' form, or its 'e' form below 1e-6 and from 1e21 on; `NaN`, `+Inf`, `-Inf`.
pub fn float(out: &mut Vec<u8>, v: f64) {
    let mut text = [0; 32];
    let len = put_float(&mut text, v);
    append(out, &text, len);
}

/// Writes a value as [`float`] does to the beginning of `to`, which is longer than [`MAX_FLOAT`]. Returns its length.
#[inline]
fn put_float(to: &mut [u8], v: f64) -> usize {
    let magnitude = v.abs();
    if magnitude < 1e15 && v == v.trunc() && (v != 0.0 || v.is_sign_positive()) {
        let (digits, len) = digits(magnitude as u64);
        to[0] = b'-';
        let sign = usize::from(v < 0.0);
        to[sign..][..digits.len()].copy_from_slice(&digits);
        return sign + len;
    }
    if has_no_exponent(magnitude) {
        let mut buffer = zmij::Buffer::new();
        let text = buffer.format_finite(v).as_bytes();
        copy(to, text);
        return text.len();
    }
    let text = unusual(v);
    to[..text.len()].copy_from_slice(&text);
    text.len()
}

/// Values that are not finite, negative zero, and those that `zmij` writes with an exponent, or Go does.
fn unusual(v: f64) -> Vec<u8> {
    if v.is_nan() {
        return b"NaN".to_vec();
    }
    if v.is_infinite() {
        return if v > 0.0 { b"+Inf".to_vec() } else { b"-Inf".to_vec() };
    }
    if v == 0.0 {
        return b"-0".to_vec();
    }
    let mut buffer = zmij::Buffer::new();
    let text = buffer.format_finite(v).as_bytes();
    let exponential = !(1e-6..1e21).contains(&v.abs());
    // An exponent is in the last five bytes: "e-308".
    let has_exponent = text[text.len().saturating_sub(5)..].contains(&b'e');
    if !exponential && !has_exponent {
        return text.strip_suffix(b".0").unwrap_or(text).to_vec();
    }
    let mut out = Vec::with_capacity(MAX_FLOAT);
    relayout(&mut out, text, exponential);
    out
}

/// Writes the digits of `text` (`-1.25e-7`, `0.0001`, `123.0`) in the form asked for.
fn relayout(out: &mut Vec<u8>, text: &[u8], exponential: bool) {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut digits = [0u8; 32];
    let mut len = 0;
    let mut point = None;
    let mut exponent = 0i32;
    for (i, b) in text.iter().enumerate() {
        match b {
            b'.' => point = Some(len),
            b'e' => {
                let rest = std::str::from_utf8(&text[i + 1..]).unwrap_or("0");
                exponent = rest.trim_start_matches('+').parse().unwrap_or(0);
                break;
            }
            b => {
                if len < digits.len() {
                    digits[len] = *b;
                    len += 1;
                }
            }
        }
    }
    // The value is 0.DIGITS times ten to the power of `scale`.
    let mut scale = point.unwrap_or(len) as i32 + exponent;
    let mut start = 0;
    while start + 1 < len && digits[start] == b'0' {
        start += 1;
        scale -= 1;
    }
    while len > start + 1 && digits[len - 1] == b'0' {
        len -= 1;
    }
    let digits = &digits[start..len];
    if negative {
        out.push(b'-');
    }
    if exponential {
        out.push(digits[0]);
        if digits.len() > 1 {
            out.push(b'.');
            out.extend_from_slice(&digits[1..]);
        }
        let e = scale - 1;
        out.extend_from_slice(if e < 0 { b"e-" } else { b"e+" });
        if e.abs() < 10 {
            out.push(b'0');
        }
        integer(out, i64::from(e.abs()));
    } else if scale <= 0 {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', scale.unsigned_abs() as usize));
        out.extend_from_slice(digits);
    } else {
        let whole = scale as usize;
        if whole >= digits.len() {
            out.extend_from_slice(digits);
            out.extend(std::iter::repeat_n(b'0', whole - digits.len()));
        } else {
            out.extend_from_slice(&digits[..whole]);
            out.push(b'.');
            out.extend_from_slice(&digits[whole..]);
        }
    }
}

/// Appends `"VALUE"`.
pub fn quoted_float(out: &mut Vec<u8>, v: f64) {
    out.push(b'"');
    float(out, v);
    out.push(b'"');
}

/// Writes points: `[1435781451.781,"1"]`. Of neighbours only the last digits of their times differ.
pub struct Points {
    time: i64,
    /// The step between the last two, in ms and in whole seconds.
    by: (i64, u32),
    /// The last point behind one byte of what is before it. With a fixed length it is quickly copied; the longest
    /// beginning is that of `i64::MIN`, 25 bytes, and a value has [`MAX_FLOAT`] at most.
    text: [u8; 64],
    /// Where the value begins.
    value: usize,
    /// Where the seconds end.
    seconds: usize,
}

impl Default for Points {
    fn default() -> Self {
        Points { time: -1, by: (0, 0), text: [0; 64], value: 0, seconds: 0 }
    }
}

impl Points {
    /// Appends `before` and the point.
    #[inline]
    pub fn write(&mut self, out: &mut Vec<u8>, before: u8, ms: i64, v: f64) {
        if !self.advance(ms) {
            self.begin(ms);
        }
        self.text[0] = before;
        let value = &mut self.text[self.value..];
        let len = put_float(value, v);
        value[len..][..2].copy_from_slice(b"\"]");
        append(out, &self.text, self.value + len + 2);
    }

    /// Adds whole seconds to the digits, if that is all there is to do.
    #[inline]
    fn advance(&mut self, ms: i64) -> bool {
        let by = ms.wrapping_sub(self.time);
        if by != self.by.0 {
            if !(0..100_000_000).contains(&by) || by % 1000 != 0 {
                return false;
            }
            self.by = (by, by as u32 / 1000);
        }
        if self.time < 0 {
            return false;
        }
        let (mut rest, mut at) = (self.by.1, self.seconds);
        while rest > 0 {
            at -= 1;
            // The bracket when there are no more digits.
            let digit = u32::from(self.text[at].wrapping_sub(b'0'));
            if digit > 9 {
                return false;
            }
            rest += digit;
            self.text[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        self.time = ms;
        true
    }

    fn begin(&mut self, ms: i64) {
        let mut out = Vec::with_capacity(self.text.len());
        out.extend_from_slice(b",[");
        timestamp(&mut out, ms);
        self.seconds = out.iter().position(|b| *b == b'.').unwrap_or(out.len());
        out.extend_from_slice(b",\"");
        self.value = out.len();
        self.text[..out.len()].copy_from_slice(&out);
        self.time = ms;
    }
}

/// Copies up to 32 bytes to the beginning of `to`: in two parts of a fixed length, which may overlap.
#[inline]
fn copy(to: &mut [u8], from: &[u8]) {
    fn parts<const N: usize>(to: &mut [u8], from: &[u8]) -> Option<()> {
        let (first, last) = (from.first_chunk::<N>()?, from.last_chunk::<N>()?);
        to[..N].copy_from_slice(first);
        to[from.len() - N..from.len()].copy_from_slice(last);
        Some(())
    }
    let copied = match from.len() {
        4..=7 => parts::<4>(to, from),
        8..=16 => parts::<8>(to, from),
        17..=32 => parts::<16>(to, from),
        _ => None,
    };
    if copied.is_none() {
        to[..from.len()].copy_from_slice(from);
    }
}

/// Appends a native histogram: count, sum and its non-empty buckets with their kind of boundaries.
pub fn histogram(out: &mut Vec<u8>, h: &Histogram) {
    out.extend_from_slice(b"{\"count\":");
    quoted_float(out, h.count);
    out.extend_from_slice(b",\"sum\":");
    quoted_float(out, h.sum);
    let mut first = true;
    for bucket in h.all_buckets() {
        if bucket.count == 0.0 {
            continue;
        }
        out.extend_from_slice(if first { b",\"buckets\":[[" } else { b",[" });
        first = false;
        let kind = match (bucket.lower_inclusive, bucket.upper_inclusive) {
            (false, true) => b'0',
            (true, false) => b'1',
            (false, false) => b'2',
            (true, true) => b'3',
        };
        out.push(kind);
        for v in [bucket.lower, bucket.upper, bucket.count] {
            out.push(b',');
            quoted_float(out, v);
        }
        out.push(b']');
    }
    if !first {
        out.push(b']');
    }
    out.push(b'}');
}

/// Appends an array of strings.
pub fn strings<S: AsRef<str>>(out: &mut Vec<u8>, texts: &[S]) {
    out.push(b'[');
    for (i, text) in texts.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        html_string(out, text.as_ref());
    }
    out.push(b']');
}

/// Label sets in structures that serde writes.
pub struct LabelsJson<'a>(pub &'a Labels);

impl serde::Serialize for LabelsJson<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(f: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        f(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn floats_as_go_prints_them() {
        for (v, expected) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-12.5, "-12.5"),
            (1e15, "1000000000000000"),
            (1.5e20, "150000000000000000000"),
            (1e21, "1e+21"),
            (-1.25e22, "-1.25e+22"),
            (1e100, "1e+100"),
            (0.000001, "0.000001"),
            (0.0000015, "0.0000015"),
            (9.5e-7, "9.5e-07"),
            (1e-10, "1e-10"),
            (0.1, "0.1"),
            (0.30000000000000004, "0.30000000000000004"),
            (123456789.123, "123456789.123"),
            (9007199254740993.0, "9007199254740992"),
            (1.7976931348623157e308, "1.7976931348623157e+308"),
            (1658206780088562.0 + 0.25, "1658206780088562.2"),
            (5e-324, "5e-324"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            assert_eq!(written(|out| float(out, v)), expected);
        }
    }

    #[test]
    fn labels_of_all_lengths_as_serde_writes_them() {
        let mut writer = LabelWriter::default();
        for len in 1..40 {
            for (at, odd) in
                (0..len).flat_map(|at| ["\"", "\\", "\n", "\u{1}", "é", " ", "\u{7f}", "<"].map(|c| (at, c)))
            {
                let text: String = (0..len).map(|i| if i == at { odd } else { "a" }).collect();
                let set = Labels::from_pairs([("b", text.as_str()), (text.as_str(), "x")]);
                let pairs: std::collections::BTreeMap<_, _> = set.iter().collect();
                let expected = serde_json::to_string(&pairs).unwrap();
                assert_eq!(written(|out| labels(out, &set)), expected);
                assert_eq!(written(|out| writer.write(out, &set)), expected);
            }
        }
        assert_eq!(written(|out| labels(out, &Labels::empty())), "{}");
    }

    #[test]
    fn points_are_written_as_one_by_one() {
        for v in
            [0.0, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN_POSITIVE, -1.2345678901234567e-6]
        {
            let point = written(|out| Points::default().write(out, b'[', 1_500, v));
            assert_eq!(point, format!("[[1.500,\"{}\"]", written(|out| float(out, v))));
        }
        let regular = |start: i64, step: i64, n: i64| (0..n).map(|i| start + i * step).collect::<Vec<_>>();
        let mut points = Points::default();
        for times in [
            &[5, 7, 20, 20, 1020, 4][..],
            &[0, 1_000, 10_000, 110_000, 110_500],
            &[-5_000, -4_000, 1_000],
            &[20, i64::MAX / 2, i64::MAX / 2 + 1_000],
            &[i64::MIN, i64::MAX],
            &[i64::MAX - 1_807, i64::MAX - 807, i64::MAX],
            &regular(-5_000_000, 1_001, 12_000),
            &regular(1_435_781_451_781, 15_000, 12_000),
            &regular(999_999_000, 1_000, 3),
            &regular(1_435_781_451_000, 99_999_000, 300),
        ] {
            let written_on = written(|out| times.iter().for_each(|t| points.write(out, b';', *t, 1.5)));
            let one = |t: &i64| format!(";[{},\"1.5\"]", written(|out| timestamp(out, *t)));
            assert_eq!(written_on, times.iter().map(one).collect::<String>());
        }
    }

    #[test]
    fn floats_read_back_and_agree_with_the_slow_way() {
        let mut x = 0x9e37_79b9_7f4a_7c15_u64;
        let mut points = Points::default();
        for i in 0..40_000 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            // Any, of the sizes that metrics have, and whole ones of all lengths.
            let v = match i % 4 {
                0 => f64::from_bits(x),
                1 => (x as i64 as f64) / 10f64.powi(i % 30),
                2 => ((x as i64) >> (i % 64)) as f64,
                _ => ((x >> 40) as f64) / 10f64.powi(i % 9),
            };
            let point = written(|out| points.write(out, b',', i64::MIN + 1, v));
            assert_eq!(point, format!(",[-9223372036854775.807,\"{}\"]", written(|out| float(out, v))));
            if !v.is_finite() {
                continue;
            }
            let text = written(|out| float(out, v));
            assert_eq!(text.parse::<f64>().unwrap().to_bits(), v.to_bits(), "{text}");
            if (1e-6..1e21).contains(&v.abs()) {
                // Halfway between two shortest forms the last digits may differ: this one rounds to even, as Go does.
                assert_eq!(text.len(), format!("{v}").len(), "{text}");
            }
        }
    }

    #[test]
    fn timestamps() {
        for (ms, expected) in [
            (1_435_781_451_781, "1435781451.781"),
            (1_000, "1"),
            (1_050, "1.050"),
            (1_005, "1.005"),
            (500, "0.500"),
            (-1_500, "-1.500"),
            (0, "0"),
            (i64::MIN, "-9223372036854775.808"),
        ] {
            assert_eq!(written(|out| timestamp(out, ms)), expected);
        }
    }

    #[test]
    fn plain_text_is_told_from_other() {
        for len in 0..20 {
            for at in 0..len {
                for b in 0..=0x7f_u8 {
                    let mut text = vec![b'a'; len];
                    text[at] = b;
                    let special = b < 0x20 || b == b'"' || b == b'\\';
                    assert_eq!(is_plain(&text, false), !special, "{text:?}");
                    assert_eq!(is_plain(&text, true), !special && !b"<>&".contains(&b), "{text:?}");
                }
            }
        }
        assert!(is_plain("ü→𝄞ü→𝄞".as_bytes(), false) && !is_plain("1234567\u{2028}".as_bytes(), true));
        for n in [0, 7, 10, 42, 99, 100, 101, 999, 1000, 65_535, i64::MAX, i64::MIN, -1, -10, -12_345] {
            assert_eq!(written(|out| integer(out, n)), n.to_string());
        }
    }

    #[test]
    fn strings_are_escaped() {
        assert_eq!(written(|out| string(out, "a\"\\\n\u{1}é<")), "\"a\\\"\\\\\\n\\u0001é<\"");
        assert_eq!(written(|out| html_string(out, "<&>\u{2028}x")), "\"\\u003c\\u0026\\u003e\\u2028x\"");
        let text = "\u{0}\u{1f}\u{7f}\"\\/\t\r\n\u{2029}ß→𝄞";
        for write in [string, html_string] {
            let json = written(|out| write(out, text));
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
    }
}
