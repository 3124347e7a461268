//! From nodes to values.
//!
//! Faults of form (unknown keys, wrong kinds) are collected, as go-yaml collects them, so that a user sees all of a
//! file at once; the first fault of meaning ends the reading.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use narthex_model::{Labels, duration};

use super::Out;
use super::node::{Kind, Node, Resolved, Scalar};

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Line of the file, from 1; 0 where there is none.
    pub line: usize,
    /// Where in the document: `scrape_configs[2].params`.
    pub path: String,
    pub message: String,
}

/// What a check finds wrong, relative to the section that is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Path below the section; empty for the section itself.
    pub at: String,
    pub message: String,
}

impl Invalid {
    pub(crate) fn at(at: impl Into<String>, message: impl Into<String>) -> Invalid {
        Invalid { at: at.into(), message: message.into() }
    }

    pub(crate) fn below(mut self, parent: &str) -> Invalid {
        let dot = if parent.is_empty() || self.at.is_empty() || self.at.starts_with('[') { "" } else { "." };
        self.at = format!("{parent}{dot}{}", self.at);
        self
    }
}

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<String> for Invalid {
    fn from(message: String) -> Self {
        Invalid { at: String::new(), message }
    }
}

impl From<&str> for Invalid {
    fn from(message: &str) -> Self {
        message.to_owned().into()
    }
}

/// The state of reading one document.
#[derive(Default)]
pub(crate) struct Context {
    path: String,
    pub faults: Vec<Fault>,
}

impl Context {
    /// Notes a fault of form and goes on.
    pub fn note(&mut self, node: &Node, message: impl Into<String>) {
        self.faults.push(Fault { line: node.line, path: self.path.clone(), message: message.into() });
    }

    /// A fault of meaning.
    pub fn fault(&self, node: &Node, invalid: impl Into<Invalid>) -> Fault {
        let invalid = invalid.into();
        let line = node.line_at(&invalid.at);
        let Invalid { at, message } = invalid.below(&self.path);
        Fault { line, path: at, message }
    }

    /// Runs `f` one step further down.
    pub fn within<T>(&mut self, step: &str, f: impl FnOnce(&mut Context) -> T) -> T {
        let len = self.path.len();
        if !self.path.is_empty() && !step.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(step);
        let result = f(self);
        self.path.truncate(len);
        result
    }

    /// Notes that a node has the wrong kind for `go_type`.
    pub fn mismatch(&mut self, node: &Node, go_type: &str) {
        let what = match &node.kind {
            Kind::Seq(_) => "!!seq".to_owned(),
            Kind::Map(_) => "!!map".to_owned(),
            Kind::Scalar(s) => {
                let tag = match s.resolve() {
                    Resolved::Null => "null",
                    Resolved::Bool(_) => "bool",
                    Resolved::Int(_) => "int",
                    Resolved::Float(_) => "float",
                    Resolved::Str => "str",
                };
                let text = match crate::references::shown(&s.text) {
                    text if text.len() > 10 => format!("{}...", text.chars().take(7).collect::<String>()).into(),
                    text => text,
                };
                format!("!!{tag} `{text}`")
            }
        };
        self.note(node, format!("cannot unmarshal {what} into {go_type}"));
    }
}

/// A type that a node can be read as.
pub(crate) trait Yaml: Sized {
    /// What messages call the type.
    const GO_TYPE: &'static str;

    /// What an explicit null gives, which is not the default of a missing key.
    fn zero() -> Self;

    fn is_zero(&self) -> bool;

    /// Whether a text stands for nothing at all where the value may be missing.
    fn is_nothing(_text: &str) -> bool {
        false
    }

    /// Reads a node that is not null. Faults of form are noted in `cx`, and then the value counts for nothing.
    fn decode(node: &Node, cx: &mut Context) -> Result<Self, Fault>;

    fn print(&self) -> Out;

    /// Makes the relative file paths in it relative to `dir`.
    fn relocate(&mut self, _dir: &Path) {}
}

/// A mapping with known keys.
pub(crate) trait Section: Yaml + Default + Check {
    const GO_TYPE: &'static str;

    /// Sets the field of that key; `false` when there is none.
    fn field(&mut self, key: &str, node: &Node, cx: &mut Context) -> Result<bool, Fault>;

    fn write(&self, out: &mut Vec<(String, Out)>);
}

/// What a section checks once its keys are read.
pub(crate) trait Check {
    fn check(&mut self, _node: &Node) -> Result<(), Invalid> {
        Ok(())
    }
}

/// Reads a value; `None` when its form is wrong.
pub(crate) fn value<T: Yaml>(node: &Node, cx: &mut Context) -> Result<Option<T>, Fault> {
    if node.is_null() {
        return Ok(Some(T::zero()));
    }
    let before = cx.faults.len();
    let value = T::decode(node, cx)?;
    Ok((cx.faults.len() == before).then_some(value))
}

/// Reads a section: defaults, then its keys, then its checks.
pub(crate) fn section<T: Section>(node: &Node, cx: &mut Context) -> Result<T, Fault> {
    let mut section = T::default();
    let before = cx.faults.len();
    if matches!(node.kind, Kind::Map(_)) {
        fields(&mut section, node, cx, 0)?;
    } else {
        cx.mismatch(node, &plain_name(<T as Section>::GO_TYPE));
    }
    if cx.faults.len() == before {
        section.check(node).map_err(|invalid| cx.fault(node, invalid))?;
    }
    Ok(section)
}

/// Merge keys may name mappings that hold merge keys.
const MAX_MERGES: usize = 32;

fn fields<T: Section>(section: &mut T, node: &Node, cx: &mut Context, depth: usize) -> Result<(), Fault> {
    let Kind::Map(entries) = &node.kind else { return Err(cx.fault(node, MERGE_KIND)) };
    let mut seen = HashSet::new();
    for (key_node, value) in entries {
        let Kind::Scalar(key) = &key_node.kind else {
            cx.mismatch(key_node, "string");
            continue;
        };
        if is_merge(key) {
            if depth == MAX_MERGES {
                return Err(cx.fault(node, "yaml: merge keys nested too deep"));
            }
            match &value.kind {
                // Earlier ones win.
                Kind::Seq(items) => {
                    for item in items.iter().rev() {
                        fields(section, item, cx, depth + 1)?;
                    }
                }
                _ => fields(section, value, cx, depth + 1)?,
            }
            continue;
        }
        if !seen.insert(key.text.as_str()) {
            let message = format!("field {} already set in type {}", key.text, plain_name(<T as Section>::GO_TYPE));
            cx.within(&key.text, |cx| cx.note(key_node, message));
            continue;
        }
        cx.within(&key.text, |cx| {
            if !section.field(&key.text, value, cx)? {
                let message = format!("field {} not found in type {}", key.text, plain_name(<T as Section>::GO_TYPE));
                cx.note(key_node, message);
            }
            Ok(())
        })?;
    }
    Ok(())
}

const MERGE_KIND: &str = "yaml: map merge requires map or sequence of maps as the value";

fn is_merge(key: &Scalar) -> bool {
    key.plain && key.text == "<<" && key.tag.is_none()
}

/// What Prometheus calls most of its sections in messages.
fn plain_name(go_type: &str) -> String {
    match go_type.split_once('.') {
        Some((_, "ScrapeConfig" | "AlertmanagerConfig")) | None => go_type.to_owned(),
        Some((package, _)) => format!("{package}.plain"),
    }
}

fn scalar<'a>(node: &'a Node, cx: &mut Context, go_type: &str) -> Option<&'a Scalar> {
    match &node.kind {
        Kind::Scalar(scalar) => Some(scalar),
        _ => {
            cx.mismatch(node, go_type);
            None
        }
    }
}

impl Yaml for String {
    const GO_TYPE: &'static str = "string";

    fn zero() -> Self {
        String::new()
    }

    fn is_zero(&self) -> bool {
        self.is_empty()
    }

    fn decode(node: &Node, cx: &mut Context) -> Result<Self, Fault> {
        let Some(scalar) = scalar(node, cx, Self::GO_TYPE) else { return Ok(String::new()) };
        match scalar.invalid_text() {
            None => Ok(scalar.text.clone()),
            Some(shown) => Err(cx.fault(node, format!("{shown} is not valid UTF-8"))),
        }
    }

    fn print(&self) -> Out {
        Out::Text(self.clone())
    }
}

/// A file that the configuration names, relative to it.
impl Yaml for PathBuf {
    const GO_TYPE: &'static str = "string";

    fn zero() -> Self {
        PathBuf::new()
    }

    fn is_zero(&self) -> bool {
        self.as_os_str().is_empty()
    }

    fn decode(node: &Node, cx: &mut Context) -> Result<Self, Fault> {
        Ok(String::decode(node, cx)?.into())
    }

    fn print(&self) -> Out {
        Out::Text(self.to_string_lossy().into_owned())
    }

    fn relocate(&mut self, dir: &Path) {
        *self = crate::join_dir(dir, self);
    }
}

impl Yaml for bool {
    const GO_TYPE: &'static str = "bool";

    fn zero() -> Self {
        false
    }

    fn is_zero(&self) -> bool {
        !self
    }

    fn decode(node: &Node, cx: &mut Context) -> Result<Self, Fault> {
        match scalar(node, cx, Self::GO_TYPE).map(Scalar::resolve) {
            Some(Resolved::Bool(value)) => Ok(value),
            Some(_) => {
                cx.mismatch(node, Self::GO_TYPE);
                Ok(false)
            }
            None => Ok(false),
        }
    }

    fn print(&self) -> Out {
        Out::Plain(self.to_string())
    }
}

macro_rules! integer {
    ($($ty:ty = $go:literal),*) => { $(
        impl Yaml for $ty {
            const GO_TYPE: &'static str = $go;

            fn zero() -> Self {
                0
            }

            fn is_zero(&self) -> bool {
                *self == 0
            }

            fn decode(node: &Node, cx: &mut Context) -> Result<Self, Fault> {
                let value = match scalar(node, cx, $go).map(Scalar::resolve) {
                    Some(Resolved::Int(value)) => <$ty>::try_from(value).ok(),
                    // A float is cut, as go-yaml cuts it.
                    Some(Resolved::Float(value)) if value.is_finite() => <$ty>::try_from(value as i128).ok(),
                    Some(_) => None,
                    None => return Ok(0),
                };
                if value.is_none() {
                    cx.mismatch(node, $go);
                }
                Ok(value.unwrap_or_default())
            }

            fn print(&self) -> Out {
                Out::Plain(self.to_string())
            }
        }
    )* };
}
integer!(i64 = "int", u64 = "uint");

impl Yaml for f64 {
    const GO_TYPE: &'static str = "float64";

    fn zero() -> Self {
        0.0
    }

    fn is_zero(&self) -> bool {
        *self == 0.0
    }

    fn decode(node: &Node, cx: &mut Context) -> Result<Self, Fault> {
        Ok(match scalar(node, cx, Self::GO_TYPE).map(Scalar::resolve) {
            Some(Resolved::Int(value)) => value as f64,
            Some(Resolved::Float(value)) => value,
            Some(_) => {
                cx.mismatch(node, Self::GO_TYPE);
                0.0
            }
            None => 0.0,
        })
    }

    fn print(&self) -> Out {
        Out::Plain(match self {
            v if v.is_nan() => ".nan".to_owned(),
            v if v.is_infinite() => if *v > 0.0 { ".inf" } else { "-.inf" }.to_owned(),
            v => narthex_model::number::format_g(*v),
        })
    }
}

/// In Prometheus's syntax, such as `1h30m`.
impl Yaml for Duration {
    const GO_TYPE: &'static str = "model.Duration";

    fn zero() -> Self {
        Duration::ZERO
    }

    fn is_zero(&self) -> bool {
        Duration::is_zero(self)
    }

    fn decode(node: &Node, cx: &mut Context) -> Result<Self, Fault> {
        match scalar(node, cx, "string") {
            Some(text) => duration::parse(&text.text).map_err(|e| cx.fault(node, e.to_string())),
            None => Ok(Duration::ZERO),
        }
    }

    fn print(&self) -> Out {
        Out::Text(duration::format(*self))
    }
}

impl<T: Yaml> Yaml for Option<T> {
    const GO_TYPE: &'static str = T::GO_TYPE;

    fn zero() -> Self {
        None
    }

    fn is_zero(&self) -> bool {
        self.is_none()
    }

    fn decode(node: &Node, cx: &mut Context) -> Result<Self, Fault> {
        match &node.kind {
            Kind::Scalar(scalar) if T::is_nothing(&scalar.text) => Ok(None),
            _ => T::decode(node, cx).map(Some),
        }
    }

    fn print(&self) -> Out {
        self.as_ref().map_or(Out::Plain("null".into()), T::print)
    }

    fn relocate(&mut self, dir: &Path) {
        if let Some(value) = self {
            value.relocate(dir);
        }
    }
}

impl<T: Yaml> Yaml for Vec<T> {
    const GO_TYPE: &'static str = "[]";

    fn zero() -> Self {
        Vec::new()
    }

    fn is_zero(&self) -> bool {
        self.is_empty()
    }

    fn decode(node: &Node, cx: &mut Context) -> Result<Self, Fault> {
        let Kind::Seq(items) = &node.kind else {
            cx.mismatch(node, &format!("[]{}", T::GO_TYPE));
            return Ok(Vec::new());
        };
        let mut values = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            if let Some(value) = cx.within(&format!("[{i}]"), |cx| value(item, cx))? {
                values.push(value);
            }
        }
        Ok(values)
    }

    fn print(&self) -> Out {
        Out::Seq(self.iter().map(T::print).collect())
    }

    fn relocate(&mut self, dir: &Path) {
        for value in self {
            value.relocate(dir);
        }
    }
}

/// A mapping with any keys, printed in their order.
impl<T: Yaml> Yaml for BTreeMap<String, T> {
    const GO_TYPE: &'static str = "map";

    fn zero() -> Self {
        BTreeMap::new()
    }

    fn is_zero(&self) -> bool {
        self.is_empty()
    }

    fn decode(node: &Node, cx: &mut Context) -> Result<Self, Fault> {
        let mut map = BTreeMap::new();
        entries(node, cx, &format!("map[string]{}", T::GO_TYPE), 0, &mut |key, item, cx| {
            if let Some(value) = value(item, cx)? {
                if map.contains_key(key) {
                    cx.note(item, format!("key {key:?} already set in map"));
                } else {
                    map.insert(key.to_owned(), value);
                }
            }
            Ok(())
        })?;
        Ok(map)
    }

    fn print(&self) -> Out {
        Out::Map(self.iter().map(|(k, v)| (k.clone(), v.print())).collect())
    }

    fn relocate(&mut self, dir: &Path) {
        for value in self.values_mut() {
            value.relocate(dir);
        }
    }
}

/// Calls `f` for every key of a mapping with any keys.
fn entries(
    node: &Node,
    cx: &mut Context,
    go_type: &str,
    depth: usize,
    f: &mut dyn FnMut(&str, &Node, &mut Context) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let Kind::Map(list) = &node.kind else {
        cx.mismatch(node, go_type);
        return Ok(());
    };
    for (key_node, item) in list {
        let Kind::Scalar(key) = &key_node.kind else {
            cx.mismatch(key_node, "string");
            continue;
        };
        if is_merge(key) {
            let merged = match &item.kind {
                Kind::Seq(items) => items.iter().map(|i| i.as_ref()).rev().collect(),
                _ => vec![item.as_ref()],
            };
            for map in merged {
                if depth == MAX_MERGES || !matches!(map.kind, Kind::Map(_)) {
                    return Err(cx.fault(node, MERGE_KIND));
                }
                entries(map, cx, go_type, depth + 1, f)?;
            }
            continue;
        }
        cx.within(&key.text, |cx| f(&key.text, item, cx))?;
    }
    Ok(())
}

/// Label pairs; names are checked by the section that knows the name rules.
/// The names and values of a label set, empty values included.
pub(crate) fn label_pairs(node: &Node, cx: &mut Context) -> Result<BTreeMap<String, String>, Fault> {
    if let Kind::Map(entries) = &node.kind {
        for (key, value) in entries {
            for (part, what) in [(key, "name"), (value, "value")] {
                if let Kind::Scalar(scalar) = &part.kind
                    && let Some(shown) = scalar.invalid_text()
                {
                    return Err(cx.fault(part, format!("{shown} is not a valid label {what}")));
                }
            }
        }
    }
    let map: BTreeMap<String, String> = Yaml::decode(node, cx)?;
    if map.contains_key("") {
        return Err(cx.fault(node, r#""" is not a valid label name"#));
    }
    Ok(map)
}

impl Yaml for Labels {
    const GO_TYPE: &'static str = "labels.Labels";

    fn zero() -> Self {
        Labels::empty()
    }

    fn is_zero(&self) -> bool {
        self.is_empty()
    }

    fn decode(node: &Node, cx: &mut Context) -> Result<Self, Fault> {
        Ok(Labels::from_pairs(label_pairs(node, cx)?))
    }

    fn print(&self) -> Out {
        Out::Map(self.iter().map(|(n, v)| (n.to_owned(), Out::Text(v.to_owned()))).collect())
    }
}

/// Any value at all, for what is only passed on.
impl Yaml for serde_json::Value {
    const GO_TYPE: &'static str = "interface {}";

    fn zero() -> Self {
        serde_json::Value::Null
    }

    fn is_zero(&self) -> bool {
        self.is_null()
    }

    fn decode(node: &Node, cx: &mut Context) -> Result<Self, Fault> {
        use serde_json::Value;
        // The parser bounds the depth.
        Ok(match &node.kind {
            Kind::Scalar(scalar) => match scalar.resolve() {
                Resolved::Null => Value::Null,
                Resolved::Bool(value) => value.into(),
                Resolved::Int(value) => match (i64::try_from(value), u64::try_from(value)) {
                    (Ok(value), _) => value.into(),
                    (_, Ok(value)) => value.into(),
                    _ => Value::String(scalar.text.clone()),
                },
                Resolved::Float(value) => serde_json::Number::from_f64(value).map_or(Value::Null, Value::Number),
                Resolved::Str => Value::String(scalar.text.clone()),
            },
            Kind::Seq(_) => Value::Array(Yaml::decode(node, cx)?),
            Kind::Map(_) => {
                let map: BTreeMap<String, Value> = Yaml::decode(node, cx)?;
                Value::Object(map.into_iter().collect())
            }
        })
    }

    fn print(&self) -> Out {
        use serde_json::Value;
        match self {
            Value::Null => Out::Plain("null".into()),
            Value::Bool(value) => value.print(),
            Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
                (Some(value), _, _) => value.print(),
                (_, Some(value), _) => value.print(),
                (_, _, value) => value.unwrap_or_default().print(),
            },
            Value::String(text) => text.print(),
            Value::Array(items) => Out::Seq(items.iter().map(Yaml::print).collect()),
            Value::Object(map) => {
                let mut entries: Vec<_> = map.iter().map(|(k, v)| (k.clone(), v.print())).collect();
                entries.sort_by(|(a, _), (b, _)| a.cmp(b));
                Out::Map(entries)
            }
        }
    }
}
