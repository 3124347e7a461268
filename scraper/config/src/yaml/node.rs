//! The tree of one YAML document: every node knows its line; anchors are shared, merge keys kept as keys.

use std::collections::HashMap;
use std::rc::Rc;

use granit_parser::{Event, Parser, ScalarStyle};

use crate::references::References;

/// Nodes that a document may stand for once its aliases are followed.
const MAX_NODES: usize = 4_000_000;
/// Collections within collections, aliases followed: the parser bounds only what is written.
const MAX_DEPTH: usize = 256;

#[derive(Debug)]
pub(crate) struct Node {
    /// From 1.
    pub line: usize,
    pub kind: Kind,
    /// Nodes below and including this one, aliases followed.
    weight: usize,
    depth: usize,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Scalar(Scalar),
    Seq(Vec<Rc<Node>>),
    Map(Vec<(Rc<Node>, Rc<Node>)>),
}

#[derive(Clone, Debug)]
pub(crate) struct Scalar {
    pub text: String,
    /// Written without quotes and not as a block.
    pub plain: bool,
    /// `str`, `int`, … of an explicit core tag, or the whole of another one.
    pub tag: Option<String>,
    /// What a `!!binary` scalar holds when that is no UTF-8; `text` is then not the whole truth.
    pub bytes: Option<Vec<u8>>,
}

/// What a scalar stands for in YAML 1.1 as go-yaml resolves it.
#[derive(Debug, PartialEq)]
pub(crate) enum Resolved {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str,
}

/// What is wrong with a text as YAML, and on which line.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub line: usize,
    pub message: String,
}

/// The only document of `text`; `None` when the text holds none.
pub(crate) fn parse(text: &str) -> Result<Option<Node>, SyntaxError> {
    parse_with(text, None)
}

/// The same, with what the references in its texts stand for.
pub(crate) fn parse_with(text: &str, references: Option<&References>) -> Result<Option<Node>, SyntaxError> {
    // Open collections with the anchor that they define; the depth is bounded by the parser.
    let mut open: Vec<(usize, usize, Open)> = Vec::new();
    let mut anchors: HashMap<usize, Rc<Node>> = HashMap::new();
    let mut root = None;
    for next in Parser::new_from_str(text) {
        let (event, span) =
            next.map_err(|e| SyntaxError { line: e.marker().line(), message: format!("yaml: {}", e.info()) })?;
        let line = span.start.line();
        let (anchor, node) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let tag = tag.map(|t| match t.handle() {
                    "tag:yaml.org,2002:" => t.suffix().to_owned(),
                    handle => format!("{handle}{}", t.suffix()),
                });
                let plain = matches!(style, ScalarStyle::Plain);
                let scalar = match tag.as_deref() {
                    Some("binary") => {
                        Scalar::binary(&text).ok_or_else(|| SyntaxError { line, message: BAD_BINARY.into() })?
                    }
                    Some("null") if resolve(&text) != Resolved::Null => {
                        return Err(SyntaxError {
                            line,
                            message: format!("yaml: cannot decode !!str `{text}` as a !!null"),
                        });
                    }
                    _ => Scalar { text: text.into_owned(), plain, tag, bytes: None },
                };
                let scalar = match references.map_or(Ok(None), |r| r.follow(&scalar.text)) {
                    Ok(None) => scalar,
                    Ok(Some(text)) => scalar.referred(text),
                    Err(message) => return Err(SyntaxError { line, message }),
                };
                (anchor, Node { line, weight: 1, depth: 0, kind: Kind::Scalar(scalar) })
            }
            Event::SequenceStart(_, anchor, _) => {
                open.push((line, anchor, Open::Seq(Vec::new())));
                continue;
            }
            Event::MappingStart(_, anchor, _) => {
                open.push((line, anchor, Open::Map(Vec::new(), None)));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some((line, anchor, Open::Seq(items))) => {
                    let (weight, depth) = measure(items.iter());
                    (anchor, Node { line, weight, depth, kind: Kind::Seq(items) })
                }
                Some((line, anchor, Open::Map(entries, _))) => {
                    let (weight, depth) = measure(entries.iter().flat_map(|(k, v)| [k, v]));
                    (anchor, Node { line, weight, depth, kind: Kind::Map(entries) })
                }
                None => continue,
            },
            Event::Alias(id) => {
                let Some(node) = anchors.get(&id) else {
                    return Err(SyntaxError { line, message: "yaml: anchor value contains itself".into() });
                };
                let node = node.clone();
                if let Some(last) = attach(&mut open, node) {
                    root = Some(last);
                }
                continue;
            }
            // A second document is ignored, as go-yaml ignores it.
            Event::DocumentEnd => break,
            _ => continue,
        };
        if node.weight > MAX_NODES {
            return Err(SyntaxError { line, message: "yaml: document contains excessive aliasing".into() });
        }
        if node.depth > MAX_DEPTH {
            return Err(SyntaxError { line, message: "yaml: document is nested too deep".into() });
        }
        let node = Rc::new(node);
        if anchor != 0 {
            anchors.insert(anchor, node.clone());
        }
        if let Some(last) = attach(&mut open, node) {
            root = Some(last);
        }
    }
    drop(anchors);
    Ok(root.map(|root| Rc::try_unwrap(root).unwrap_or_else(|shared| shared.shallow())))
}

/// Weight and depth of a collection of these nodes.
fn measure<'a>(nodes: impl Iterator<Item = &'a Rc<Node>>) -> (usize, usize) {
    nodes.fold((1, 1), |(weight, depth), n| (n.weight.saturating_add(weight), depth.max(n.depth + 1)))
}

enum Open {
    Seq(Vec<Rc<Node>>),
    Map(Vec<(Rc<Node>, Rc<Node>)>, Option<Rc<Node>>),
}

/// Adds a finished node to the innermost open collection; gives it back when there is none.
fn attach(open: &mut [(usize, usize, Open)], node: Rc<Node>) -> Option<Rc<Node>> {
    match open.last_mut() {
        None => return Some(node),
        Some((_, _, Open::Seq(items))) => items.push(node),
        Some((_, _, Open::Map(entries, key))) => match key.take() {
            None => *key = Some(node),
            Some(key) => entries.push((key, node)),
        },
    }
    None
}

impl Node {
    fn shallow(&self) -> Node {
        let kind = match &self.kind {
            Kind::Scalar(s) => Kind::Scalar(s.clone()),
            Kind::Seq(items) => Kind::Seq(items.clone()),
            Kind::Map(entries) => Kind::Map(entries.clone()),
        };
        Node { line: self.line, weight: self.weight, depth: self.depth, kind }
    }

    pub fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar(s) if s.resolve() == Resolved::Null)
    }

    /// The value of a key of a mapping, not looking into merged ones.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Map(entries) => entries
                .iter()
                .find(|(k, _)| matches!(&k.kind, Kind::Scalar(s) if s.text == key))
                .map(|(_, v)| v.as_ref()),
            _ => None,
        }
    }

    /// The elements of a sequence; none of anything else.
    pub fn items(&self) -> &[Rc<Node>] {
        match &self.kind {
            Kind::Seq(items) => items,
            _ => &[],
        }
    }

    /// The index of the first null element of the sequence at `key`.
    pub fn null_item(&self, key: &str) -> Option<usize> {
        self.get(key)?.items().iter().position(|i| i.is_null())
    }

    /// The line of the node at a path such as `scrape_configs[2].params`, or of the last part of it that exists.
    pub fn line_at(&self, path: &str) -> usize {
        let mut node = self;
        for part in path.split(['.', '[']).filter(|p| !p.is_empty()) {
            let next = match part.strip_suffix(']').map(str::parse::<usize>) {
                Some(Ok(index)) => node.items().get(index).map(|n| n.as_ref()),
                _ => node.get(part),
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node.line
    }
}

const BAD_BINARY: &str = "yaml: !!binary value contains invalid base64 data";

impl Scalar {
    /// The scalar with another text, which references in it led to. References have to stand in quotes; what they stand for
    /// may be a number or a switch all the same, but not null.
    fn referred(self, text: String) -> Scalar {
        let plain = matches!(resolve(&text), Resolved::Bool(_) | Resolved::Int(_) | Resolved::Float(_));
        Scalar { text, plain: self.plain || plain, ..self }
    }

    fn binary(text: &str) -> Option<Scalar> {
        use base64::Engine;
        let text: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
        let tag = Some("str".to_owned());
        Some(match String::from_utf8(bytes) {
            Ok(text) => Scalar { text, plain: false, tag, bytes: None },
            Err(e) => Scalar { text: String::new(), plain: false, tag, bytes: Some(e.into_bytes()) },
        })
    }

    /// Bytes that are no text, as Go quotes them.
    pub fn invalid_text(&self) -> Option<String> {
        let mut out = String::from("\"");
        for chunk in self.bytes.as_ref()?.utf8_chunks() {
            let quoted = narthex_model::labels::quote(chunk.valid());
            out.push_str(quoted.trim_start_matches('"').strip_suffix('"').unwrap_or_default());
            for byte in chunk.invalid() {
                out.push_str(&format!("\\x{byte:02x}"));
            }
        }
        out.push('"');
        Some(out)
    }

    pub fn resolve(&self) -> Resolved {
        match self.tag.as_deref() {
            None if self.plain => resolve(&self.text),
            Some("null") => Resolved::Null,
            Some("bool" | "int" | "float") => match resolve(&self.text) {
                Resolved::Int(i) if self.tag.as_deref() == Some("float") => Resolved::Float(i as f64),
                other => other,
            },
            _ => Resolved::Str,
        }
    }
}

/// What a plain scalar stands for.
pub(crate) fn resolve(text: &str) -> Resolved {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Resolved::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Resolved::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Resolved::Bool(false);
        }
        ".nan" | ".NaN" | ".NAN" => return Resolved::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Resolved::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Resolved::Float(f64::NEG_INFINITY),
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Resolved::Str;
    }
    let plain = text.replace('_', "");
    let (negative, digits) = match plain.as_bytes().first() {
        Some(b'-') => (true, &plain[1..]),
        Some(b'+') => (false, &plain[1..]),
        _ => (false, plain.as_str()),
    };
    let radix = |radix, digits: &str| {
        (!digits.is_empty() && digits.bytes().all(|b| (b as char).is_digit(radix)))
            .then(|| i128::from_str_radix(digits, radix).ok())
            .flatten()
    };
    let lower = digits.to_ascii_lowercase();
    let int = if let Some(hex) = lower.strip_prefix("0x") {
        radix(16, hex)
    } else if let Some(octal) = lower.strip_prefix("0o") {
        radix(8, octal)
    } else if let Some(binary) = lower.strip_prefix("0b") {
        radix(2, binary)
    } else if lower.len() > 1 && lower.starts_with('0') {
        radix(8, &lower[1..])
    } else {
        radix(10, &lower)
    };
    if let Some(int) = int.map(|i| if negative { -i } else { i })
        && int >= i128::from(i64::MIN)
        && int <= i128::from(u64::MAX)
    {
        return Resolved::Int(int);
    }
    let is_float = {
        let (mantissa, exponent) = match lower.split_once('e') {
            Some((m, e)) => (m, Some(e.strip_prefix(['+', '-']).unwrap_or(e))),
            None => (lower.as_str(), None),
        };
        let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        all_digits(whole)
            && all_digits(fraction)
            && !(whole.is_empty() && fraction.is_empty())
            && exponent.is_none_or(|e| !e.is_empty() && all_digits(e))
    };
    match plain.parse::<f64>() {
        // What is too large for a float is text.
        Ok(float) if is_float && float.is_finite() => Resolved::Float(float),
        _ => Resolved::Str,
    }
}
