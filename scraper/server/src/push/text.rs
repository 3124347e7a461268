//! Text format 0.0.4 as clients push it, read into families as `expfmt.TextParser` of Prometheus's common library reads
//! it: stricter than scraping in some (a line break at the end, one HELP and TYPE, no blank at the end of a line), laxer
//! in others (no order of families). Differences on purpose: a line of labels without a name is refused, where the
//! library gives them to the line before.

use std::collections::{BTreeMap, HashMap, HashSet};

use narthex_model::labels::{is_legacy_metric_name, is_legacy_name, quote, quote_bytes};
use narthex_scrape::exposition::parse_float;

use super::Refused;
use super::proto::{
    Bucket, COUNTER, GAUGE, GAUGE_HISTOGRAM, HISTOGRAM, Histogram, LabelPair, Metric, MetricFamily, Quantile, SUMMARY,
    Single, Summary, UNTYPED,
};

/// Why reading stopped.
enum Stop {
    /// The text ends here.
    End,
    Fault(String),
    /// More parts than allowed.
    Parts,
}

type Step<T> = Result<T, Stop>;

fn fault<T>(text: impl Into<String>) -> Step<T> {
    Err(Stop::Fault(text.into()))
}

#[derive(Default)]
struct Family {
    family: MetricFamily,
    /// The type may come after the help.
    kind: Option<i32>,
    /// Of summaries and histograms: labels to index of the metric.
    merged: HashMap<Vec<LabelKey>, usize>,
}

type LabelKey = (String, String);

/// Which line of a summary or histogram.
#[derive(Clone, Copy, PartialEq)]
enum Line {
    Count,
    Sum,
    Other,
}

struct Parser<'a> {
    text: &'a [u8],
    /// Of the byte after `byte`.
    at: usize,
    byte: u8,
    line: usize,
    token: Vec<u8>,
    families: Vec<Family>,
    by_name: HashMap<String, usize>,
    /// What may still be made of the text.
    left: usize,
}

/// The families of a text with their metrics, at most `most` of families, metrics, labels and parts of these.
///
/// # Errors
/// The first fault, in the library's words.
pub fn parse(text: &[u8], most: usize) -> Result<BTreeMap<String, MetricFamily>, Refused> {
    let mut parser = Parser {
        text,
        at: 0,
        byte: 0,
        line: 0,
        token: Vec::new(),
        families: Vec::new(),
        by_name: HashMap::new(),
        left: most,
    };
    loop {
        parser.line += 1;
        match parser.skip_blanks() {
            Ok(()) => {}
            Err(_) => break,
        }
        let text = match parser.one_line() {
            Ok(()) => continue,
            Err(Stop::Parts) => return Err(Refused::Parts(most)),
            Err(Stop::End) => "unexpected end of input stream".to_owned(),
            Err(Stop::Fault(text)) => text,
        };
        return Err(Refused::Body(format!("text format parsing error in line {}: {text}", parser.line)));
    }
    let families = parser.families.into_iter().map(|f| f.family).filter(|f| !f.metric.is_empty());
    Ok(families
        .map(|mut f| {
            (f.name.clone(), {
                f.metric.iter_mut().for_each(whole_or_float);
                f
            })
        })
        .collect())
}

/// Counts of a histogram are floats, or none is.
fn whole_or_float(metric: &mut Metric) {
    let Some(h) = &mut metric.histogram else { return };
    let float = |v: Option<f64>| v.is_some_and(|v| v != 0.0);
    if !float(h.sample_count_float) && !h.bucket.iter().any(|b| float(b.cumulative_count_float)) {
        return;
    }
    if !float(h.sample_count_float) {
        h.sample_count_float = Some(h.sample_count.take().unwrap_or(0) as f64);
    }
    for b in &mut h.bucket {
        if !float(b.cumulative_count_float) {
            b.cumulative_count_float = Some(b.cumulative_count.take().unwrap_or(0) as f64);
        }
    }
}

fn blank(b: u8) -> bool {
    b == b' ' || b == b'\t'
}

fn label_start(b: u8) -> bool {
    b.is_ascii_alphabetic() || b == b'_' || b == b'"'
}

fn name_start(b: u8) -> bool {
    label_start(b) || b == b':'
}

impl Parser<'_> {
    fn read(&mut self) -> Step<()> {
        self.byte = *self.text.get(self.at).ok_or(Stop::End)?;
        self.at += 1;
        Ok(())
    }

    /// To the next byte that is no blank.
    fn skip_blanks(&mut self) -> Step<()> {
        loop {
            self.read()?;
            if !blank(self.byte) {
                return Ok(());
            }
        }
    }

    fn skip_if_blank(&mut self) -> Step<()> {
        if blank(self.byte) { self.skip_blanks() } else { Ok(()) }
    }

    fn until_whitespace(&mut self) -> Step<()> {
        self.token.clear();
        while !blank(self.byte) && self.byte != b'\n' {
            self.token.push(self.byte);
            self.read()?;
        }
        Ok(())
    }

    fn until_newline(&mut self, escapes: bool) -> Step<()> {
        self.token.clear();
        let mut escaped = false;
        loop {
            if escapes && escaped {
                self.unescape()?;
                escaped = false;
            } else {
                match self.byte {
                    b'\n' => return Ok(()),
                    b'\\' => escaped = true,
                    b => self.token.push(b),
                }
            }
            self.read()?;
        }
    }

    fn unescape(&mut self) -> Step<()> {
        self.token.push(match self.byte {
            b'\\' => b'\\',
            b'n' => b'\n',
            b'"' => b'"',
            b => return fault(format!("invalid escape sequence '\\{}'", char::from(b))),
        });
        Ok(())
    }

    /// A name of a metric or a label into the token; empty where there is none.
    fn name(&mut self, of_label: bool) -> Step<()> {
        self.token.clear();
        let what = if of_label { "label" } else { "metric" };
        if !(if of_label { label_start(self.byte) } else { name_start(self.byte) }) {
            return Ok(());
        }
        let (mut quoted, mut escaped) = (false, false);
        loop {
            if escaped {
                self.unescape()?;
                escaped = false;
            } else {
                match self.byte {
                    b'"' => {
                        quoted = !quoted;
                        if !quoted {
                            return self.read();
                        }
                    }
                    b'\n' => {
                        let so_far = quote_bytes(&self.token);
                        return fault(format!("{what} name {so_far} contains unescaped new-line"));
                    }
                    b'\\' => escaped = true,
                    b => self.token.push(b),
                }
            }
            self.read()?;
            let b = self.byte;
            let goes_on = label_start(b) || b.is_ascii_digit() || (!of_label && b == b':');
            if !quoted && !goes_on {
                return Ok(());
            }
        }
    }

    fn label_value(&mut self) -> Step<String> {
        self.token.clear();
        loop {
            self.read()?;
            match self.byte {
                b'"' => break,
                b'\n' => {
                    return fault(format!("label value {} contains unescaped new-line", quote_bytes(&self.token)));
                }
                b'\\' => {
                    self.read()?;
                    self.unescape()?;
                }
                b => self.token.push(b),
            }
        }
        match std::str::from_utf8(&self.token) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => fault(format!("invalid label value {}", quote_bytes(&self.token))),
        }
    }

    fn take(&mut self, parts: usize) -> Step<()> {
        self.left = self.left.checked_sub(parts).ok_or(Stop::Parts)?;
        Ok(())
    }

    /// The family that the name in the token belongs to, and which line of it that is.
    fn family(&mut self) -> Step<(usize, Line)> {
        let Some(name) = std::str::from_utf8(&self.token).ok().filter(|n| is_legacy_metric_name(n)) else {
            return fault(format!("invalid metric name {}", quote_bytes(&self.token)));
        };
        if let Some(i) = self.by_name.get(name) {
            return Ok((*i, Line::Other));
        }
        let line = match name {
            n if n.ends_with("_count") => Line::Count,
            n if n.ends_with("_sum") => Line::Sum,
            _ => Line::Other,
        };
        for (suffix, summaries) in [("_count", true), ("_sum", true), ("_bucket", false)] {
            let base = name.strip_suffix(suffix).filter(|b| !b.is_empty()).and_then(|b| self.by_name.get(b));
            if let Some(i) = base
                && let Some(kind) = self.families.get(*i).and_then(|f| f.kind)
                && (matches!(kind, HISTOGRAM | GAUGE_HISTOGRAM) || (summaries && kind == SUMMARY))
            {
                return Ok((*i, line));
            }
        }
        let name = name.to_owned();
        self.take(1)?;
        self.by_name.insert(name.clone(), self.families.len());
        self.families.push(Family { family: MetricFamily { name, ..MetricFamily::default() }, ..Family::default() });
        Ok((self.families.len() - 1, Line::Other))
    }

    /// A line whose first byte that is no blank is current.
    fn one_line(&mut self) -> Step<()> {
        match self.byte {
            b'#' => self.comment(),
            b'\n' => Ok(()),
            _ => self.sample(),
        }
    }

    fn comment(&mut self) -> Step<()> {
        self.skip_blanks()?;
        if self.byte == b'\n' {
            return Ok(());
        }
        self.until_whitespace()?;
        if self.byte == b'\n' {
            return Ok(());
        }
        let help = match self.token.as_slice() {
            b"HELP" => true,
            b"TYPE" => false,
            _ => {
                while self.byte != b'\n' {
                    self.read()?;
                }
                return Ok(());
            }
        };
        self.skip_blanks()?;
        self.name(false)?;
        if self.byte == b'\n' {
            return Ok(());
        }
        if !blank(self.byte) {
            return fault("invalid metric name in comment");
        }
        let (i, _) = self.family()?;
        self.skip_blanks()?;
        if self.byte == b'\n' {
            return Ok(());
        }
        let Some(family) = self.families.get(i) else { return Ok(()) };
        let name = quote(&family.family.name);
        if help {
            if family.family.help.is_some() {
                return fault(format!("second HELP line for metric name {name}"));
            }
            self.until_newline(true)?;
            let text = String::from_utf8_lossy(&self.token).into_owned();
            if let Some(family) = self.families.get_mut(i) {
                family.family.help = Some(text);
            }
            return Ok(());
        }
        if family.kind.is_some() {
            return fault(format!("second TYPE line for metric name {name}, or TYPE reported after samples"));
        }
        self.until_newline(false)?;
        let kind = match self.token.to_ascii_uppercase().as_slice() {
            b"COUNTER" => COUNTER,
            b"GAUGE" => GAUGE,
            b"SUMMARY" => SUMMARY,
            b"UNTYPED" => UNTYPED,
            b"HISTOGRAM" => HISTOGRAM,
            b"GAUGE_HISTOGRAM" | b"GAUGEHISTOGRAM" => GAUGE_HISTOGRAM,
            _ => return fault(format!("unknown metric type {}", quote_bytes(&self.token))),
        };
        self.set_kind(i, kind);
        Ok(())
    }

    fn set_kind(&mut self, i: usize, kind: i32) {
        if let Some(family) = self.families.get_mut(i) {
            family.kind = Some(kind);
            family.family.kind = kind;
        }
    }

    /// The family of a sample's name, which is in the token.
    fn sample_family(&mut self) -> Step<(usize, Line)> {
        let (i, line) = self.family()?;
        if self.families.get(i).is_some_and(|f| f.kind.is_none()) {
            self.set_kind(i, UNTYPED);
        }
        Ok((i, line))
    }

    fn sample(&mut self) -> Step<()> {
        let mut labels: Vec<LabelPair> = Vec::new();
        let place = if self.byte == b'{' {
            match self.labels(None, &mut labels)? {
                Some(place) => place,
                None => return fault("invalid metric name"),
            }
        } else {
            self.name(false)?;
            if self.token.is_empty() {
                return fault("invalid metric name");
            }
            let place = self.sample_family()?;
            self.skip_if_blank()?;
            if self.byte == b'{' {
                self.labels(Some(place), &mut labels)?;
            }
            place
        };
        self.value(place, labels)
    }

    /// Labels after an opening brace, and what follows up to the value. The name of the metric may be among them.
    fn labels(&mut self, mut place: Option<(usize, Line)>, labels: &mut Vec<LabelPair>) -> Step<Option<(usize, Line)>> {
        let inside = place.is_none();
        let mut names: HashSet<String> = HashSet::new();
        let shown = |parser: &Self, place: Option<(usize, Line)>| {
            quote(place.and_then(|p| parser.families.get(p.0)).map_or("", |f| &f.family.name))
        };
        loop {
            self.skip_blanks()?;
            if self.byte == b'}' {
                self.skip_blanks()?;
                return Ok(place);
            }
            self.name(true)?;
            if self.token.is_empty() {
                return fault(format!("invalid label name for metric {}", shown(self, place)));
            }
            self.skip_if_blank()?;
            if self.byte != b'=' {
                if !inside {
                    return fault(format!("expected '=' after label name, found {}", go_char(self.byte)));
                }
                if place.is_some() {
                    return fault(format!("multiple metric names for metric {}", shown(self, place)));
                }
                match self.byte {
                    b',' => place = Some(self.sample_family()?),
                    b'}' => {
                        place = Some(self.sample_family()?);
                        self.skip_blanks()?;
                        return Ok(place);
                    }
                    b => return fault(format!("unexpected end of metric name {}", go_char(b))),
                }
                continue;
            }
            let Some(name) = std::str::from_utf8(&self.token).ok().map(str::to_owned) else {
                return fault(format!("invalid label name {}", quote_bytes(&self.token)));
            };
            if name == narthex_model::METRIC_NAME {
                return fault("label name \"__name__\" is reserved");
            }
            if !is_legacy_name(&name) {
                return fault(format!("invalid label name {}", quote(&name)));
            }
            self.take(1)?;
            let kind = place.and_then(|p| self.families.get(p.0)).and_then(|f| f.kind);
            let special = match kind {
                Some(SUMMARY) => name == "quantile",
                Some(HISTOGRAM | GAUGE_HISTOGRAM) => name == "le",
                _ => false,
            };
            if !special && !names.insert(name.clone()) {
                return fault(format!("duplicate label names for metric {}", shown(self, place)));
            }
            self.skip_blanks()?;
            if self.byte != b'"' {
                return fault(format!("expected '\"' at start of label value, found {}", go_char(self.byte)));
            }
            let value = self.label_value()?;
            if special && parse_float(value.as_bytes()).is_err() {
                return fault(format!("expected float as value for '{name}' label, got {}", quote(&value)));
            }
            labels.push(LabelPair { name, value });
            self.skip_blanks()?;
            match self.byte {
                b',' => {}
                b'}' => {
                    self.skip_blanks()?;
                    return Ok(place);
                }
                _ => {
                    let last = labels.last().map_or("", |l| l.value.as_str());
                    return fault(format!("unexpected end of label value {}", quote(last)));
                }
            }
        }
    }

    /// The sample's value, which begins here, and its time.
    fn value(&mut self, (i, line): (usize, Line), mut labels: Vec<LabelPair>) -> Step<()> {
        self.until_whitespace()?;
        let Ok(value) = parse_float(&self.token) else {
            return fault(format!("expected float as value, got {}", quote_bytes(&self.token)));
        };
        self.take(1)?;
        let Some(family) = self.families.get_mut(i) else { return Ok(()) };
        let kind = family.kind.unwrap_or(UNTYPED);
        let part = match kind {
            SUMMARY => "quantile",
            HISTOGRAM | GAUGE_HISTOGRAM => "le",
            _ => "",
        };
        // The last one counts where there are several.
        let bound = labels.iter().rev().find(|l| l.name == part).and_then(|l| parse_float(l.value.as_bytes()).ok());
        let at = if part.is_empty() {
            family.family.metric.push(Metric { label: labels, ..Metric::default() });
            family.family.metric.len() - 1
        } else {
            labels.retain(|l| l.name != part);
            let mut key: Vec<LabelKey> = labels.iter().map(|l| (l.name.clone(), l.value.clone())).collect();
            key.sort();
            let at = *family.merged.entry(key).or_insert(family.family.metric.len());
            if at == family.family.metric.len() {
                family.family.metric.push(Metric { label: labels, ..Metric::default() });
            }
            at
        };
        let Some(metric) = family.family.metric.get_mut(at) else { return Ok(()) };
        let single = Some(Single { value: Some(value) });
        let name = &family.family.name;
        match kind {
            COUNTER => metric.counter = single,
            GAUGE => metric.gauge = single,
            SUMMARY => {
                let summary = metric.summary.get_or_insert_with(|| Box::new(Summary::default()));
                match (line, bound) {
                    (Line::Count, _) => summary.sample_count = Some(value as u64),
                    (Line::Sum, _) => summary.sample_sum = Some(value),
                    (Line::Other, Some(q)) if !q.is_nan() => {
                        summary.quantile.push(Quantile { quantile: Some(q), value: Some(value) });
                    }
                    _ => {}
                }
            }
            HISTOGRAM | GAUGE_HISTOGRAM => {
                let h = metric.histogram.get_or_insert_with(|| Box::new(Histogram::default()));
                let whole = Some(value as u64).filter(|n| *n as f64 == value);
                match (line, bound) {
                    (Line::Count, _) if value < 0.0 => {
                        return fault(format!("negative count for histogram {}", quote(name)));
                    }
                    (Line::Count, _) if whole.is_some() => h.sample_count = whole,
                    (Line::Count, _) => h.sample_count_float = Some(value),
                    (Line::Sum, _) => h.sample_sum = Some(value),
                    (Line::Other, Some(le)) if !le.is_nan() => {
                        if value < 0.0 {
                            return fault(format!("negative bucket population for histogram {}", quote(name)));
                        }
                        let float = if whole.is_some() { None } else { Some(value) };
                        let upper_bound = Some(le);
                        h.bucket.push(Bucket { cumulative_count: whole, upper_bound, cumulative_count_float: float });
                    }
                    _ => {}
                }
            }
            _ => metric.untyped = single,
        }
        if self.byte == b'\n' {
            return Ok(());
        }
        self.skip_blanks()?;
        self.until_whitespace()?;
        let Some(time) = std::str::from_utf8(&self.token).ok().and_then(|t| t.parse::<i64>().ok()) else {
            return fault(format!("expected integer as timestamp, got {}", quote_bytes(&self.token)));
        };
        if let Some(metric) = self.families.get_mut(i).and_then(|f| f.family.metric.get_mut(at)) {
            metric.timestamp_ms = Some(time);
        }
        self.until_newline(false)?;
        if !self.token.is_empty() {
            return fault(format!("spurious string after timestamp: {}", quote_bytes(&self.token)));
        }
        Ok(())
    }
}

/// A byte as Go's `%q` prints it.
fn go_char(b: u8) -> String {
    let text = match b {
        b'\'' => "\\'".to_owned(),
        b'"' => "\"".to_owned(),
        b => quote(&char::from(b).to_string()).trim_matches('"').to_owned(),
    };
    format!("'{text}'")
}
