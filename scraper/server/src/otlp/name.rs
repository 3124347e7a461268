//! Names: from OpenTelemetry's to Prometheus's, by the rules of prometheus/otlptranslator.

use narthex_model::labels::quote;

/// The type of a metric as far as names depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    MonotonicCounter,
    Gauge,
    Other,
}

const UNITS: [(&str, &str); 26] = [
    ("d", "days"),
    ("h", "hours"),
    ("min", "minutes"),
    ("s", "seconds"),
    ("ms", "milliseconds"),
    ("us", "microseconds"),
    ("ns", "nanoseconds"),
    ("By", "bytes"),
    ("KiBy", "kibibytes"),
    ("MiBy", "mebibytes"),
    ("GiBy", "gibibytes"),
    ("TiBy", "tibibytes"),
    ("KBy", "kilobytes"),
    ("MBy", "megabytes"),
    ("GBy", "gigabytes"),
    ("TBy", "terabytes"),
    ("m", "meters"),
    ("V", "volts"),
    ("A", "amperes"),
    ("J", "joules"),
    ("W", "watts"),
    ("g", "grams"),
    ("Cel", "celsius"),
    ("Hz", "hertz"),
    ("1", ""),
    ("%", "percent"),
];

const PER_UNITS: [(&str, &str); 7] =
    [("s", "second"), ("m", "minute"), ("h", "hour"), ("d", "day"), ("w", "week"), ("mo", "month"), ("y", "year")];

fn look_up<'a>(table: &[(&str, &'a str)], unit: &'a str) -> &'a str {
    table.iter().find(|(name, _)| *name == unit).map_or(unit, |(_, word)| word)
}

/// The unit, and what it is per (`per_second`), both in Prometheus's words; either may be empty.
fn unit_words(unit: &str) -> (String, String) {
    let usable = |u: &str| !u.is_empty() && !u.contains(['{', '}']);
    let (main, per) = unit.split_once('/').unwrap_or((unit, ""));
    let (main, per) = (main.trim(), per.trim());
    let main = if usable(main) { look_up(&UNITS, main).to_owned() } else { String::new() };
    let per = if usable(per) { look_up(&PER_UNITS, per) } else { "" };
    (main, if per.is_empty() { String::new() } else { format!("per_{per}") })
}

fn is_metric_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == ':'
}

/// A unit with legal signs only, single underscores and none in front.
fn clean_unit(unit: &str) -> String {
    let mut out = String::with_capacity(unit.len());
    for c in unit.chars().map(|c| if is_metric_char(c) { c } else { '_' }) {
        if c != '_' || !out.ends_with('_') {
            out.push(c);
        }
    }
    out.strip_prefix('_').map(str::to_owned).unwrap_or(out)
}

/// The unit for metadata: `bytes_per_second`.
pub fn unit(unit: &str) -> String {
    let (main, per) = unit_words(unit);
    let (main, per) = (clean_unit(&main), clean_unit(&per));
    let joined = if !main.is_empty() && !per.is_empty() { format!("{main}_{per}") } else { main + &per };
    let trimmed = joined.strip_prefix('_').unwrap_or(&joined);
    trimmed.strip_suffix('_').unwrap_or(trimmed).to_owned()
}

/// How names are translated.
#[derive(Clone, Copy, Debug)]
pub struct Namer {
    pub suffixes: bool,
    pub utf8: bool,
    /// `_a` becomes `key_a`.
    pub key_prefix: bool,
    pub keep_underscores: bool,
}

impl Namer {
    /// The name of a metric.
    ///
    /// # Errors
    /// When nothing is left of it.
    pub fn metric(&self, name: &str, unit: &str, kind: Kind) -> Result<String, String> {
        if self.utf8 {
            return Ok(if self.suffixes { with_suffixes(name, unit, kind) } else { name.to_owned() });
        }
        let mut out = if self.suffixes { normalized(name, unit, kind) } else { escaped(name) };
        if out.starts_with(|c: char| c.is_ascii_digit()) {
            out.insert(0, '_');
        }
        if out.is_empty() {
            return Err(format!("normalization for metric {} resulted in empty name", quote(name)));
        }
        if out != name && out.chars().all(|c| c == '_') {
            return Err(format!("normalization for metric {} resulted in invalid name {}", quote(name), quote(&out)));
        }
        Ok(out)
    }

    /// The name of a label.
    ///
    /// # Errors
    /// When nothing is left of it.
    pub fn label(&self, name: &str) -> Result<String, String> {
        if name.is_empty() {
            return Err("label name is empty".into());
        }
        let only_underscores = |n: &str| n.chars().all(|c| c == '_');
        if self.utf8 {
            if only_underscores(name) {
                return Err(format!("label name {} contains only underscores", quote(name)));
            }
            return Ok(name.to_owned());
        }
        let mut out = self.sanitized(name);
        if out.starts_with(|c: char| c.is_ascii_digit()) {
            out.insert_str(0, "key_");
        } else if self.key_prefix && out.starts_with('_') && !out.starts_with("__") {
            out.insert_str(0, "key");
        }
        if only_underscores(&out) {
            return Err(format!(
                "normalization for label name {} resulted in invalid name {}",
                quote(name),
                quote(&out)
            ));
        }
        Ok(out)
    }

    fn sanitized(&self, name: &str) -> String {
        let legal = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        if self.keep_underscores {
            return name.chars().map(legal).collect();
        }
        let inner = name.strip_prefix("__").and_then(|n| n.strip_suffix("__"));
        let mut out = String::with_capacity(name.len());
        for c in inner.unwrap_or(name).chars().map(legal) {
            if c != '_' || !out.ends_with('_') {
                out.push(c);
            }
        }
        if inner.is_some() { format!("__{out}__") } else { out }
    }
}

/// Runs of illegal signs become one underscore; legal ones, underscores among them, stay.
fn escaped(name: &str) -> String {
    let parts = name.split(|c: char| !is_metric_char(c) && c != '_').filter(|p| !p.is_empty());
    parts.collect::<Vec<_>>().join("_")
}

/// Words joined by underscores, with unit and type at the end.
fn normalized(name: &str, unit: &str, kind: Kind) -> String {
    let words = name.split(|c: char| !is_metric_char(c)).filter(|w| !w.is_empty());
    let mut words: Vec<String> = words.map(str::to_owned).collect();
    let (main, per) = unit_words(unit);
    let (mut main, per) = (clean_unit(&main), clean_unit(&per));
    let has = |words: &[String], word: &str| words.iter().any(|w| w == word);
    if has(&words, &main) {
        main.clear();
    }
    let mut per = if per == "per_" { String::new() } else { per.strip_suffix('_').unwrap_or(&per).to_owned() };
    if has(&words, &per) {
        per.clear();
    }
    if !per.is_empty() {
        main = main.strip_suffix('_').unwrap_or(&main).to_owned();
    }
    words.extend([main, per].into_iter().filter(|w| !w.is_empty()));
    let mut last = |word: &str| {
        words.retain(|w| w != word);
        words.push(word.to_owned());
    };
    if kind == Kind::MonotonicCounter {
        last("total");
    }
    if unit == "1" && kind == Kind::Gauge {
        last("ratio");
    }
    words.join("_")
}

/// A name as it is, with unit and type at its end.
fn with_suffixes(name: &str, unit: &str, kind: Kind) -> String {
    // Cuts the word and the sign before it.
    let cut = |name: String, word: &str| match name.strip_suffix(word) {
        Some(rest) if rest.len() > 1 => {
            let mut rest = rest.to_owned();
            rest.pop();
            rest
        }
        _ => name,
    };
    let mut name = name.to_owned();
    let ratio = unit == "1" && kind == Kind::Gauge;
    if ratio {
        name = cut(name, "ratio");
    }
    if kind == Kind::MonotonicCounter {
        name = cut(name, "total");
    }
    let (main, per) = unit_words(unit);
    if !per.is_empty() {
        name = cut(name, &per);
    }
    if !main.is_empty() && !name.ends_with(&main) {
        name = format!("{name}_{main}");
    }
    if !per.is_empty() {
        name = format!("{name}_{per}");
    }
    if kind == Kind::MonotonicCounter {
        name.push_str("_total");
    }
    if ratio {
        name.push_str("_ratio");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    const ESCAPED: Namer = Namer { suffixes: true, utf8: false, key_prefix: true, keep_underscores: true };

    #[test]
    fn metrics() {
        use Kind::*;
        let plain = Namer { suffixes: false, ..ESCAPED };
        let utf8 = Namer { utf8: true, ..ESCAPED };
        let raw = Namer { utf8: true, ..plain };
        for (namer, name, unit, kind, expected) in [
            (ESCAPED, "http.server.duration", "s", Other, "http_server_duration_seconds"),
            (ESCAPED, "requests.count", "1", MonotonicCounter, "requests_count_total"),
            (ESCAPED, "requests_total", "{request}", MonotonicCounter, "requests_total"),
            (ESCAPED, "memory.usage", "By", Gauge, "memory_usage_bytes"),
            (ESCAPED, "memory.usage.bytes", "By", Gauge, "memory_usage_bytes"),
            (ESCAPED, "cpu.utilization", "1", Gauge, "cpu_utilization_ratio"),
            (ESCAPED, "net.io", "By/s", Gauge, "net_io_bytes_per_second"),
            (ESCAPED, "a__b", "", Gauge, "a_b"),
            (ESCAPED, "3d.points", "", Gauge, "_3d_points"),
            (plain, "3d.points__x", "By", MonotonicCounter, "_3d_points__x"),
            (utf8, "http.server.duration", "s", Other, "http.server.duration_seconds"),
            (utf8, "requests.total", "", MonotonicCounter, "requests_total"),
            (utf8, "net.io", "By/s", MonotonicCounter, "net.io_bytes_per_second_total"),
            (raw, "net.io", "By/s", MonotonicCounter, "net.io"),
        ] {
            assert_eq!(namer.metric(name, unit, kind).as_deref(), Ok(expected), "{name} {unit}");
        }
        assert!(ESCAPED.metric("...", "", Gauge).is_err());
        assert!(plain.metric("", "", Gauge).is_err());
        for (given, expected) in [("By/s", "bytes_per_second"), ("1", ""), ("{x}/min", "per_min"), ("a__b", "a_b")] {
            assert_eq!(unit(given), expected, "{given}");
        }
    }

    #[test]
    fn labels() {
        let joined = Namer { keep_underscores: false, ..ESCAPED };
        for (namer, name, expected) in [
            (ESCAPED, "http.method", "http_method"),
            (ESCAPED, "123", "key_123"),
            (ESCAPED, "_private", "key_private"),
            (ESCAPED, "__reserved__", "__reserved__"),
            (ESCAPED, "a..b", "a__b"),
            (joined, "a..b", "a_b"),
            (joined, "__a..b__", "__a_b__"),
            (Namer { key_prefix: false, ..ESCAPED }, "_private", "_private"),
            (Namer { utf8: true, ..ESCAPED }, "http.method", "http.method"),
        ] {
            assert_eq!(namer.label(name).as_deref(), Ok(expected), "{name}");
        }
        for name in ["", "_", "..."] {
            assert!(Namer { key_prefix: false, ..joined }.label(name).is_err(), "{name}");
        }
    }
}
