//! Metric families of a page in the text format, by the rules of Prometheus's client library (`expfmt`), which are
//! stricter than those of scraping: what linting and pushing go by.

use std::collections::{BTreeMap, HashMap};

use narthex_model::labels::quote;
use narthex_scrape::exposition::parse_go_float;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Summary,
    Untyped,
    Histogram,
    GaugeHistogram,
}

impl Kind {
    fn parse(text: &str) -> Option<Kind> {
        Some(match text.to_uppercase().as_str() {
            "COUNTER" => Kind::Counter,
            "GAUGE" => Kind::Gauge,
            "SUMMARY" => Kind::Summary,
            "UNTYPED" => Kind::Untyped,
            "HISTOGRAM" => Kind::Histogram,
            "GAUGE_HISTOGRAM" | "GAUGEHISTOGRAM" => Kind::GaugeHistogram,
            _ => return None,
        })
    }

    /// In lower case.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Summary => "summary",
            Kind::Untyped => "untyped",
            Kind::Histogram => "histogram",
            Kind::GaugeHistogram => "gauge_histogram",
        }
    }

    pub fn is_histogram(self) -> bool {
        matches!(self, Kind::Histogram | Kind::GaugeHistogram)
    }
}

/// A metric; of a summary or histogram all its lines together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metric {
    /// As they stand, without `le` and `quantile` of those kinds.
    pub labels: Vec<(String, String)>,
    pub value: f64,
    /// Quantiles or upper bounds, and their values.
    pub parts: Vec<(f64, f64)>,
    pub count: f64,
    pub sum: f64,
    /// In ms; 0 where there is none.
    pub timestamp: i64,
}

#[derive(Clone, Debug)]
pub struct Family {
    pub name: String,
    pub help: Option<String>,
    pub kind: Kind,
    pub metrics: Vec<Metric>,
}

/// Which line of a summary or histogram a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Plain,
    Count,
    Sum,
}

struct Reader<'a> {
    page: &'a str,
    at: usize,
    line: usize,
    families: BTreeMap<String, (Family, bool)>,
    /// Of summaries and histograms: where a label set's metric is.
    known: HashMap<(String, Vec<(String, String)>), usize>,
}

/// All families that have metrics, sorted by name.
///
/// # Errors
/// In words, with the line.
pub fn parse(page: &str) -> Result<Vec<Family>, String> {
    let mut reader = Reader { page, at: 0, line: 0, families: BTreeMap::new(), known: HashMap::new() };
    while reader.at < page.len() {
        reader.line += 1;
        reader.line().map_err(|e| format!("text format parsing error in line {}: {e}", reader.line))?;
    }
    Ok(reader.families.into_values().map(|f| f.0).filter(|f| !f.metrics.is_empty()).collect())
}

const ENDS: &str = "unexpected end of input stream";

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<char> {
        self.page[self.at..].chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t')) {
            self.at += 1;
        }
    }

    /// Up to a character for which `end` holds, which stays.
    fn until(&mut self, end: impl Fn(char) -> bool) -> &'a str {
        let rest = &self.page[self.at..];
        let length = rest.find(end).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    fn end_of_line(&mut self) -> Result<(), String> {
        match self.bump() {
            Some('\n') => Ok(()),
            _ => Err(ENDS.into()),
        }
    }

    fn line(&mut self) -> Result<(), String> {
        self.blanks();
        match self.peek() {
            None => Ok(()),
            Some('\n') => self.end_of_line(),
            Some('#') => self.comment(),
            _ => self.sample(),
        }
    }

    fn comment(&mut self) -> Result<(), String> {
        self.at += 1;
        self.blanks();
        let keyword = self.until(|c| matches!(c, ' ' | '\t' | '\n'));
        if keyword != "HELP" && keyword != "TYPE" {
            self.until(|c| c == '\n');
            return self.end_of_line();
        }
        self.blanks();
        if self.peek() == Some('\n') {
            return self.end_of_line();
        }
        let name = self.name()?;
        match self.peek() {
            Some('\n') => return self.end_of_line(),
            Some(' ' | '\t') => {}
            None => return Err(ENDS.into()),
            _ => return Err("invalid metric name in comment".into()),
        }
        let (family, _) = self.family(&name)?;
        self.blanks();
        let text = self.until(|c| c == '\n');
        let has_end = self.peek().is_some();
        let Some((family, typed)) = self.families.get_mut(&family) else { return Err(ENDS.into()) };
        if text.is_empty() && has_end {
            return self.end_of_line();
        }
        if keyword == "HELP" {
            if family.help.is_some() {
                return Err(format!("second HELP line for metric name {}", quote(&family.name)));
            }
            family.help = Some(unescape(text)?);
        } else {
            if *typed {
                return Err(format!(
                    "second TYPE line for metric name {}, or TYPE reported after samples",
                    quote(&family.name)
                ));
            }
            family.kind = Kind::parse(text).ok_or_else(|| format!("unknown metric type {}", quote(text)))?;
            *typed = true;
        }
        self.end_of_line()
    }

    /// A metric name, quoted or not; empty where none begins here.
    fn name(&mut self) -> Result<String, String> {
        if self.peek() != Some('"') {
            return Ok(self.until(|c| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).to_owned());
        }
        self.at += 1;
        self.quoted()
    }

    /// What stands before the closing quote.
    fn quoted(&mut self) -> Result<String, String> {
        let mut out = String::new();
        loop {
            match self.bump() {
                None => return Err(ENDS.into()),
                Some('"') => return Ok(out),
                Some('\n') => return Err(format!("label value {} contains unescaped new-line", quote(&out))),
                Some('\\') => match self.bump() {
                    Some('n') => out.push('\n'),
                    Some(c @ ('\\' | '"')) => out.push(c),
                    Some(c) => return Err(format!("invalid escape sequence '\\{c}'")),
                    None => return Err(ENDS.into()),
                },
                Some(c) => out.push(c),
            }
        }
    }

    /// The family that a name belongs to, made where it is new.
    fn family(&mut self, name: &str) -> Result<(String, Part), String> {
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err("invalid metric name".into());
        }
        if self.families.contains_key(name) {
            return Ok((name.to_owned(), Part::Plain));
        }
        for (suffix, part) in [("_count", Part::Count), ("_sum", Part::Sum), ("_bucket", Part::Plain)] {
            if let Some(base) = name.strip_suffix(suffix)
                && let Some((family, _)) = self.families.get(base)
                && (family.kind.is_histogram() || family.kind == Kind::Summary && suffix != "_bucket")
            {
                return Ok((base.to_owned(), part));
            }
        }
        let new = Family { name: name.to_owned(), help: None, kind: Kind::Untyped, metrics: Vec::new() };
        self.families.insert(name.to_owned(), (new, false));
        Ok((name.to_owned(), Part::Plain))
    }

    fn sample(&mut self) -> Result<(), String> {
        let mut named = None;
        if self.peek() != Some('{') {
            let name = self.name()?;
            named = Some(self.family(&name)?);
            self.blanks();
        }
        let mut labels: Vec<(String, String)> = Vec::new();
        let mut special = None;
        if self.peek() == Some('{') {
            self.at += 1;
            loop {
                self.blanks();
                if self.peek() == Some('}') {
                    self.at += 1;
                    break;
                }
                let name = self.name()?;
                if name.is_empty() {
                    let of = named.as_ref().map_or("", |n: &(String, Part)| n.0.as_str());
                    return Err(match self.peek() {
                        None => ENDS.into(),
                        _ => format!("invalid label name for metric {}", quote(of)),
                    });
                }
                self.blanks();
                match self.bump() {
                    Some('=') => {}
                    Some(c @ (',' | '}')) if named.is_none() => {
                        named = Some(self.family(&name)?);
                        if c == '}' {
                            break;
                        }
                        continue;
                    }
                    Some(c) => return Err(format!("expected '=' after label name, found {}", rune(c))),
                    None => return Err(ENDS.into()),
                }
                if name == "__name__" {
                    return Err("label name \"__name__\" is reserved".into());
                }
                self.blanks();
                match self.bump() {
                    Some('"') => {}
                    Some(c) => return Err(format!("expected '\"' at start of label value, found {}", rune(c))),
                    None => return Err(ENDS.into()),
                }
                let value = self.quoted()?;
                let kind = named.as_ref().and_then(|n| self.families.get(&n.0)).map(|f| f.0.kind);
                let bound =
                    kind.is_some_and(|k| k.is_histogram() && name == "le" || k == Kind::Summary && name == "quantile");
                if bound {
                    let number = parse_go_float(value.as_bytes());
                    let shown = || format!("expected float as value for '{name}' label, got {}", quote(&value));
                    special = Some(number.ok_or_else(shown)?);
                } else {
                    if labels.iter().any(|l| l.0 == name) {
                        let of = named.as_ref().map_or("", |n| n.0.as_str());
                        return Err(format!("duplicate label names for metric {}", quote(of)));
                    }
                    labels.push((name, value.clone()));
                }
                self.blanks();
                match self.bump() {
                    Some(',') => {}
                    Some('}') => break,
                    None => return Err(ENDS.into()),
                    Some(_) => return Err(format!("unexpected end of label value {}", quote(&value))),
                }
            }
            self.blanks();
        }
        let Some((name, part)) = named else { return Err("invalid metric name".into()) };
        let text = self.until(|c| matches!(c, ' ' | '\t' | '\n'));
        if self.peek().is_none() {
            return Err(ENDS.into());
        }
        let value = parse_go_float(text.as_bytes());
        let value = value.ok_or_else(|| format!("expected float as value, got {}", quote(text)))?;
        let mut timestamp = 0;
        self.blanks();
        if self.peek() != Some('\n') {
            let text = self.until(|c| matches!(c, ' ' | '\t' | '\n'));
            timestamp = text.parse().map_err(|_| format!("expected integer as timestamp, got {}", quote(text)))?;
            self.blanks();
            let rest = self.until(|c| c == '\n');
            if !rest.is_empty() {
                return Err(format!("spurious string after timestamp: {}", quote(rest)));
            }
        }
        self.end_of_line()?;
        self.place(&name, part, Metric { labels, value, timestamp, ..Metric::default() }, special)
    }

    fn place(&mut self, name: &str, part: Part, metric: Metric, special: Option<f64>) -> Result<(), String> {
        let Some((family, typed)) = self.families.get_mut(name) else { return Ok(()) };
        *typed = true;
        if family.kind != Kind::Summary && !family.kind.is_histogram() {
            family.metrics.push(metric);
            return Ok(());
        }
        let mut key = metric.labels.clone();
        key.sort();
        let next = family.metrics.len();
        let at = *self.known.entry((name.to_owned(), key)).or_insert(next);
        if at == next {
            family.metrics.push(Metric { value: 0.0, ..metric.clone() });
        }
        let Some(known) = family.metrics.get_mut(at) else { return Ok(()) };
        known.timestamp = if metric.timestamp == 0 { known.timestamp } else { metric.timestamp };
        let value = metric.value;
        let is_count = part == Part::Count || part == Part::Plain && special.is_some() && family.kind.is_histogram();
        if family.kind.is_histogram() && is_count && value < 0.0 {
            let what = if part == Part::Count { "count" } else { "bucket population" };
            return Err(format!("negative {what} for histogram {}", quote(name)));
        }
        match (part, special) {
            (Part::Count, _) => known.count = value,
            (Part::Sum, _) => known.sum = value,
            (Part::Plain, Some(bound)) => known.parts.push((bound, value)),
            (Part::Plain, None) => {}
        }
        Ok(())
    }
}

/// A character as Go quotes it.
fn rune(c: char) -> String {
    match c {
        '\'' => "'\\''".into(),
        '\\' => "'\\\\'".into(),
        '\n' => "'\\n'".into(),
        c => format!("'{c}'"),
    }
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some(c @ ('\\' | '"')) => out.push(c),
                Some(c) => return Err(format!("invalid escape sequence '\\{c}'")),
                None => {}
            },
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_families() {
        let page = "# HELP h A \\\\ h.\n# TYPE h histogram\nh_bucket{a=\"1\",le=\"1\"} 2 5\nh_bucket{a=\"1\",le=\"+Inf\"} 3 5\nh_sum{a=\"1\"} 4 5\n\
            h_count{a=\"1\"} 3 5\n# TYPE s summary\ns{quantile=\"0.5\"} 1\ns_sum 2\ns_count 1\nplain{x=\"y\\n\",} 1e3\n{\"q.n\",l=\"v\"} NaN\n\n# x\n";
        let all = parse(page).unwrap();
        assert_eq!(all.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["h", "plain", "q.n", "s"]);
        let h = &all[0];
        assert_eq!((h.help.as_deref(), h.kind, h.metrics.len()), (Some("A \\ h."), Kind::Histogram, 1));
        let m = &h.metrics[0];
        assert_eq!(
            (m.parts.as_slice(), m.sum, m.count, m.timestamp),
            (&[(1.0, 2.0), (f64::INFINITY, 3.0)][..], 4.0, 3.0, 5)
        );
        assert_eq!((all[1].metrics[0].value, all[1].metrics[0].labels[0].1.as_str()), (1000.0, "y\n"));
        assert_eq!((all[3].metrics[0].parts[0], all[3].metrics[0].sum), ((0.5, 1.0), 2.0));
    }

    #[test]
    fn faults_are_named_with_their_line() {
        for (page, expected) in [
            ("a 1\nb x\n", "text format parsing error in line 2: expected float as value, got \"x\""),
            ("a 1", "text format parsing error in line 1: unexpected end of input stream"),
            ("a{b=1} 1\n", "text format parsing error in line 1: expected '\"' at start of label value, found '1'"),
            ("a{b=\"1\",b=\"2\"} 1\n", "text format parsing error in line 1: duplicate label names for metric \"a\""),
            (
                "a 1\n# TYPE a gauge\n",
                "text format parsing error in line 2: second TYPE line for metric name \"a\", or TYPE reported after samples",
            ),
            ("# TYPE a x\n", "text format parsing error in line 1: unknown metric type \"x\""),
            ("a 1 2 3\n", "text format parsing error in line 1: spurious string after timestamp: \"3\""),
            ("1a 1\n", "text format parsing error in line 1: invalid metric name"),
        ] {
            assert_eq!(parse(page).map(|_| ()).unwrap_err(), expected, "{page}");
        }
    }
}
