//! Label sets: sorted by name, names unique, no empty values (an absent label and an empty one are the same).

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use crate::METRIC_NAME;

mod sort;

pub use sort::sort_by_labels;

/// An immutable label set in one allocation; cloning is a reference count.
///
/// The text is `name value name value …`, each string behind its length: one byte up to 126, else 0x7f and four
/// bytes of seven bits. Lengths are thus ASCII, and the whole is a valid `str` that needs no unsafe code to slice.
#[derive(Clone, PartialEq, Eq)]
pub struct Labels(Arc<str>);

const LONG: u8 = 0x7f;

fn push_part(out: &mut String, part: &str) {
    let len = part.len();
    if len < LONG as usize {
        out.push(len as u8 as char);
    } else {
        assert!(len < 1 << 28, "a label of {len} bytes");
        out.push(LONG as char);
        for shift in [21, 14, 7, 0] {
            out.push(((len >> shift) as u8 & 0x7f) as char);
        }
    }
    out.push_str(part);
}

#[inline]
fn take_part<'a>(text: &'a str, at: &mut usize) -> Option<&'a str> {
    let (from, end) = part_at(text.as_bytes(), *at)?;
    *at = end;
    Some(&text[from..end])
}

/// Where the part whose length stands at `at` begins and ends; `None` at the end of the text.
#[inline]
fn part_at(text: &[u8], at: usize) -> Option<(usize, usize)> {
    match *text.get(at)? {
        LONG => {
            let len = text.get(at + 1..at + 5)?.iter().fold(0, |n, b| n << 7 | *b as usize);
            Some((at + 5, at + 5 + len))
        }
        len => Some((at + 1, at + 1 + len as usize)),
    }
}

/// Runs `write` on an empty buffer, which is used again and again, and makes a set of what it wrote.
fn written(write: impl FnOnce(&mut String)) -> Labels {
    /// A buffer that grew beyond that is not kept.
    const KEPT: usize = 1 << 16;
    // Taken, not borrowed: what writes may make other sets meanwhile.
    thread_local!(static TEXT: std::cell::Cell<String> = const { std::cell::Cell::new(String::new()) });
    let mut text = TEXT.take();
    text.clear();
    write(&mut text);
    let labels = Labels(Arc::from(text.as_str()));
    if text.capacity() <= KEPT {
        TEXT.set(text);
    }
    labels
}

/// What the text of a set with a metric's name mostly begins with.
const METRIC_NAME_PART: &str = "\u{8}__name__";

/// Iterator over `(name, value)` in name order.
#[derive(Clone)]
pub struct Iter<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, &'a str);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let name = take_part(self.text, &mut self.at)?;
        let value = take_part(self.text, &mut self.at)?;
        Some((name, value))
    }
}

impl Labels {
    /// The set without labels.
    pub fn empty() -> Labels {
        // One for all: it stands wherever labels were taken out of something.
        static EMPTY: LazyLock<Labels> = LazyLock::new(|| Labels(Arc::from("")));
        EMPTY.clone()
    }

    /// The set of these pairs in any order; of equal names the last wins, empty values are left out.
    pub fn from_pairs<N: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (N, V)>) -> Labels {
        let mut builder = LabelsBuilder::default();
        for (name, value) in pairs {
            builder.set(name, value);
        }
        builder.build()
    }

    /// The set of pairs that are already sorted by name, unique and without empty values.
    pub fn from_sorted<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Labels {
        written(|text| {
            for (name, value) in pairs {
                debug_assert!(!value.is_empty());
                push_part(text, name);
                push_part(text, value);
            }
        })
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many labels there are.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    pub fn iter(&self) -> Iter<'_> {
        Iter { text: &self.0, at: 0 }
    }

    /// The value of a label, if it is there.
    pub fn get(&self, name: &str) -> Option<&str> {
        for (n, v) in self.iter() {
            match n.cmp(name) {
                Ordering::Less => continue,
                Ordering::Equal => return Some(v),
                Ordering::Greater => return None,
            }
        }
        None
    }

    /// The value of a label, empty where it is absent, as matchers see it.
    pub fn value(&self, name: &str) -> &str {
        self.get(name).unwrap_or("")
    }

    /// The metric's name, empty where there is none.
    pub fn metric_name(&self) -> &str {
        if self.0.starts_with(METRIC_NAME_PART) {
            return take_part(&self.0, &mut METRIC_NAME_PART.len()).unwrap_or_default();
        }
        self.value(METRIC_NAME)
    }

    /// The set without the metric's name.
    pub fn drop_metric_name(&self) -> Labels {
        self.retain(|name, _| name != METRIC_NAME)
    }

    /// The labels whose names are in `names` (aggregation `by`, matching `on`).
    pub fn keep<S: AsRef<str>>(&self, names: &[S]) -> Labels {
        self.retain(|n, _| names.iter().any(|k| k.as_ref() == n))
    }

    /// The labels whose names are neither in `names` nor the metric's name (aggregation `without`, `ignoring`).
    pub fn without<S: AsRef<str>>(&self, names: &[S]) -> Labels {
        self.retain(|n, _| n != METRIC_NAME && !names.iter().any(|k| k.as_ref() == n))
    }

    /// The labels for which `keep(name, value)` holds.
    pub fn retain(&self, keep: impl FnMut(&str, &str) -> bool) -> Labels {
        let mut same = false;
        let labels = written(|text| {
            self.retain_text(keep, text);
            same = text.len() == self.0.len();
        });
        // Who keeps one of two equal sets frees the other.
        if same { self.clone() } else { labels }
    }

    /// Appends the [`Labels::text`] of what [`Labels::retain`] gives.
    pub fn retain_text(&self, mut keep: impl FnMut(&str, &str) -> bool, out: &mut String) {
        let (mut at, mut from) = (0, 0);
        loop {
            let start = at;
            let Some(name) = take_part(&self.0, &mut at) else { break };
            let Some(value) = take_part(&self.0, &mut at) else { break };
            if !keep(name, value) {
                out.push_str(&self.0[from..start]);
                from = at;
            }
        }
        out.push_str(&self.0[from..]);
    }

    /// A hash of the set that is the same in every process and on every machine.
    pub fn stable_hash(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(self.0.as_bytes())
    }

    /// The hash that Prometheus's `limit_ratio` samples by (xxHash64 over its `stringlabels` encoding).
    pub fn prometheus_hash(&self) -> u64 {
        let mut text = Vec::with_capacity(self.0.len());
        for part in self.iter().flat_map(|(n, v)| [n, v]) {
            match u8::try_from(part.len()) {
                Ok(len) if len < u8::MAX => text.push(len),
                _ => text.extend_from_slice(&[&[u8::MAX], &(part.len() as u32).to_le_bytes()[..3]].concat()),
            }
            text.extend_from_slice(part.as_bytes());
        }
        xxhash_rust::xxh64::xxh64(&text, 0)
    }

    /// A hash of the set that is so long, and under a secret seed so unpredictable, that two sets with the same hash
    /// may be taken for the same.
    pub fn long_hash(&self, seed: u64) -> u128 {
        xxhash_rust::xxh3::xxh3_128_with_seed(self.0.as_bytes(), seed)
    }

    /// The whole set as text: what [`Labels::push_text`] writes for one label after the other.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The label that begins at a byte of [`Labels::text`]: name, value, and where it ends.
    pub fn label_at(&self, mut at: usize) -> Option<(&str, &str, usize)> {
        let name = take_part(&self.0, &mut at)?;
        let value = take_part(&self.0, &mut at)?;
        Some((name, value, at))
    }

    /// How many bytes of [`Labels::text`] the pairs take that both sets begin with.
    pub fn shared_text(&self, other: &Labels) -> usize {
        let (a, b) = (self.0.as_bytes(), other.0.as_bytes());
        pairs_within(a, 0, common_prefix(a, b))
    }

    /// Appends a label as it is in [`Labels::text`].
    pub fn push_text(text: &mut String, name: &str, value: &str) {
        push_part(text, name);
        push_part(text, value);
    }

    /// Name and value of a label that [`Labels::push_text`] wrote.
    pub fn split_text(text: &str) -> (&str, &str) {
        Iter { text, at: 0 }.next().unwrap_or_default()
    }

    /// The set of labels that [`Labels::push_text`] wrote: sorted by name, unique and without empty values.
    pub fn from_texts<'a>(labels: impl Iterator<Item = &'a str>) -> Labels {
        written(|text| labels.for_each(|label| text.push_str(label)))
    }

    /// [`Labels::long_hash`] of the set with this text.
    pub fn hash_of_text(text: &str, seed: u64) -> u128 {
        xxhash_rust::xxh3::xxh3_128_with_seed(text.as_bytes(), seed)
    }

    /// A builder that starts from this set.
    pub fn to_builder(&self) -> LabelsBuilder {
        LabelsBuilder { pairs: self.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect() }
    }

    /// Bytes that the set holds on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.0.len() + 16
    }
}

impl Default for Labels {
    fn default() -> Self {
        Labels::empty()
    }
}

impl Hash for Labels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

/// Pair by pair in name order, then the shorter set first (Prometheus `labels.Compare`).
impl Ord for Labels {
    fn cmp(&self, other: &Self) -> Ordering {
        // Pairs that lie wholly in what both texts begin with are equal and only have to be skipped.
        let at = self.shared_text(other);
        Iter { text: &self.0, at }.cmp(Iter { text: &other.0, at })
    }
}

/// How many bytes both begin with.
fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let mut same = 0;
    let (a8, b8) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
    for (x, y) in a8.iter().zip(b8) {
        let differ = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
        if differ != 0 {
            return same + (differ.trailing_zeros() / 8) as usize;
        }
        same += 8;
    }
    same + a[same..].iter().zip(&b[same..]).take_while(|(x, y)| x == y).count()
}

/// Where the last pair ends that lies wholly before `end`; `at` is where some pair begins.
fn pairs_within(text: &[u8], mut at: usize, end: usize) -> usize {
    let skip = |at: usize| part_at(text, at).map(|part| part.1);
    while let Some(next) = skip(at).and_then(skip).filter(|next| *next <= end) {
        at = next;
    }
    at
}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// `{name="value", …}` with Go's quoting, as Prometheus prints label sets.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, (name, value)) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            if is_legacy_name(name) {
                f.write_str(name)?;
            } else {
                f.write_str(&quote(name))?;
            }
            f.write_str("=")?;
            f.write_str(&quote(value))?;
        }
        f.write_str("}")
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether `name` can stand unquoted as a label name: `[a-zA-Z_][a-zA-Z0-9_]*`.
pub fn is_legacy_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Whether `name` can stand unquoted as a metric name: `[a-zA-Z_:][a-zA-Z0-9_:]*`.
pub fn is_legacy_metric_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_' || b == b':')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':')
}

/// `text` as Go's `strconv.Quote` writes it.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0b' => out.push_str("\\v"),
            '\x0c' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if is_go_printable(c) => out.push(c),
            c if (c as u32) < 0x10000 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push_str(&format!("\\U{:08x}", c as u32)),
        }
    }
    out.push('"');
    out
}

/// The same for bytes that need not be UTF-8.
pub fn quote_bytes(bytes: &[u8]) -> String {
    let mut out = String::from('"');
    for chunk in bytes.utf8_chunks() {
        let valid = quote(chunk.valid());
        out.push_str(&valid[1..valid.len() - 1]);
        for b in chunk.invalid() {
            out.push_str(&format!("\\x{b:02x}"));
        }
    }
    out.push('"');
    out
}

/// Close to Go's `strconv.IsPrint`: no control, format, surrogate or space characters but U+0020.
fn is_go_printable(c: char) -> bool {
    !c.is_control()
        && (c == ' ' || !c.is_whitespace())
        && !matches!(c as u32, 0xad | 0x200b..=0x200f | 0x202a..=0x202e | 0x2060..=0x206f | 0xe000..=0xf8ff | 0xfeff | 0xfff9..=0xfffb | 0xe0000..)
}

/// Collects labels in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelsBuilder {
    /// Sorted by name, names unique; values may be empty until `build`.
    pairs: Vec<(String, String)>,
}

impl LabelsBuilder {
    pub fn new() -> LabelsBuilder {
        LabelsBuilder::default()
    }

    /// Sets a label; an empty value deletes it.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) -> &mut Self {
        let (name, value) = (name.into(), value.into());
        match self.pairs.binary_search_by(|(n, _)| n.as_str().cmp(&name)) {
            Ok(i) if value.is_empty() => {
                self.pairs.remove(i);
            }
            Ok(i) => self.pairs[i].1 = value,
            Err(_) if value.is_empty() => {}
            Err(i) => self.pairs.insert(i, (name, value)),
        }
        self
    }

    pub fn remove(&mut self, name: &str) -> &mut Self {
        if let Ok(i) = self.pairs.binary_search_by(|(n, _)| n.as_str().cmp(name)) {
            self.pairs.remove(i);
        }
        self
    }

    /// Keeps the labels for which `keep(name, value)` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &str) -> bool) -> &mut Self {
        self.pairs.retain(|(n, v)| keep(n, v));
        self
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        let i = self.pairs.binary_search_by(|(n, _)| n.as_str().cmp(name)).ok()?;
        Some(&self.pairs[i].1)
    }

    /// In name order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    pub fn build(&self) -> Labels {
        Labels::from_sorted(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_quoted_as_go_quotes_them() {
        assert_eq!(quote_bytes(b"a\xff\"\n"), r#""a\xff\"\n""#);
        assert_eq!(quote_bytes("é".as_bytes()), quote("é"));
    }

    #[test]
    fn sorted_unique_and_without_empty_values() {
        let labels = Labels::from_pairs([("b", "2"), ("a", "x"), ("c", ""), ("a", "1")]);
        let (mut first, mut second) = (String::new(), String::new());
        Labels::push_text(&mut first, "a", "1");
        Labels::push_text(&mut second, "b", "2");
        assert_eq!(Labels::split_text(&second), ("b", "2"));
        assert_eq!(Labels::from_texts([&*first, &*second].into_iter()), labels);
        assert_eq!(Labels::hash_of_text(labels.text(), 7), labels.long_hash(7));
        assert_eq!(labels.to_string(), r#"{a="1", b="2"}"#);
        assert_eq!((labels.get("b"), labels.get("c"), labels.len()), (Some("2"), None, 2));
    }

    #[test]
    fn long_and_utf8_parts_survive() {
        for len in [0, 1, 125, 126, 127, 128, 300, 70_000] {
            let value = "ü".repeat(len);
            let labels = Labels::from_pairs([("long", value.as_str()), ("z", "1")]);
            assert_eq!(labels.value("long"), value);
            assert_eq!(labels.get("z"), Some("1"));
        }
    }

    #[test]
    fn order_is_by_pairs_then_length() {
        let set = |pairs: &[(&str, &str)]| Labels::from_pairs(pairs.iter().copied());
        assert!(set(&[("a", "1")]) < set(&[("a", "1"), ("b", "1")]));
        assert!(set(&[("a", "2")]) > set(&[("a", "1"), ("b", "1")]));
        assert!(set(&[("a", "10")]) < set(&[("b", "1")]));
        let long = "x".repeat(200);
        let texts = ["1", "10", "2", "xx", &long, &long[1..], "ü"];
        let mut sets = vec![Labels::empty()];
        for a in texts {
            for b in texts {
                sets.extend([
                    set(&[("a", a), ("b", b)]),
                    set(&[("a", a), ("bb", b)]),
                    set(&[("a", a), ("c", b), ("d", a)]),
                ]);
            }
        }
        for a in &sets {
            for b in &sets {
                assert_eq!(a.cmp(b), a.iter().cmp(b.iter()), "{a} and {b}");
            }
        }
    }

    #[test]
    fn sorting_by_keys_is_sorting() {
        let mut x = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |n: usize| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x % n as u64) as usize
        };
        let long = "l".repeat(40);
        let longer = "m".repeat(200);
        let names = ["__name__", "a", "ab", "b", "instance", &long];
        let plain = ["1", "10", "2", "node-1:9100", "node-10:9100", "ü", &long, &long[3..], &longer, &longer[1..]];
        let odd = [&plain[..], &["\0", "1\0", "1\0a", "", "1\u{1}"]].concat();
        for round in 0..300 {
            let values = if round % 3 == 0 { &odd[..] } else { &plain[..] };
            let (some, many) = (1 + next(names.len()), 1 + next(values.len()));
            let shared: Vec<(&str, &str)> = (0..next(4)).map(|i| (names[i], values[next(many)])).collect();
            let sets: Vec<(usize, Labels)> = (0..next(200))
                .map(|i| {
                    let own = (0..next(5)).map(|_| (names[next(some)], values[next(many)]));
                    let own: Vec<_> = own.collect();
                    (i, Labels::from_pairs(own.into_iter().chain(shared.iter().copied())))
                })
                .collect();
            let (mut sorted, mut expected) = (sets.clone(), sets);
            sort_by_labels(&mut sorted, |s| &s.1);
            expected.sort_by(|a, b| a.1.iter().cmp(b.1.iter()));
            assert_eq!(sorted, expected, "round {round}");
        }
    }

    #[test]
    fn sets_are_made_while_sets_are_made() {
        let outer = Labels::from_pairs([("a", "1"), ("b", "2"), ("c", "3")]);
        let kept = outer.retain(|n, _| outer.keep(&[n]).len() == 1 && n != "b");
        assert_eq!(kept.to_string(), r#"{a="1", c="3"}"#);
        assert_eq!(outer.retain(|_, _| true), outer);
        assert_eq!(outer.retain(|_, _| false), Labels::empty());
        let named = Labels::from_pairs([("A", "x"), ("__name__", "m")]);
        assert_eq!((named.metric_name(), outer.metric_name()), ("m", ""));
        assert_eq!(Labels::from_pairs([("__name__", "m"), ("a", "x")]).metric_name(), "m");
    }

    #[test]
    fn by_and_without() {
        let labels = Labels::from_pairs([("__name__", "m"), ("a", "1"), ("b", "2")]);
        assert_eq!(labels.keep(&["a"]).to_string(), r#"{a="1"}"#);
        assert_eq!(labels.without(&["a"]).to_string(), r#"{b="2"}"#);
        assert_eq!(labels.drop_metric_name().to_string(), r#"{a="1", b="2"}"#);
    }
}
