//! The odd ends of the language: every function with edge parameters, every modifier, matching of every kind, names in
//! quotes, durations that are expressions; and queries broken at random.

use rand::Rng;

use super::queries::{AGGREGATIONS, DATES, FLOATS, HISTOGRAM_CALLS, HISTOGRAMS, MATH, OVER_RANGE, Queries};

const ODD_FLOATS: [&str; 9] = [
    "typed_total",
    "typed",
    "{\"métrique.utf8\"}",
    "sparse",
    "counted",
    "broken_bucket",
    "open_bucket",
    "ranked",
    "latency_seconds_bucket",
];
const ODD_HISTOGRAMS: [&str; 5] = ["shaped", "gauge_histogram", "bounds_seconds", "kinds", "both_seconds"];
const ODD_LABELS: [&str; 12] = [
    "job",
    "instance",
    "mode",
    "le",
    "__name__",
    "__type__",
    "__unit__",
    "\"ünï code\"",
    "rank",
    "kind",
    "zone",
    "nothing",
];
const NUMBERS: [&str; 24] = [
    "0",
    "-0",
    "1",
    "-1",
    "0.5",
    "2",
    "NaN",
    "Inf",
    "-Inf",
    "1e300",
    "-1e300",
    "1e-300",
    "5e-324",
    "0x1F",
    "1_000",
    "1e3",
    "3.7",
    "-2.5",
    "5m",
    "1h30m",
    "1e21",
    "123456789",
    ".5",
    "0b1",
];
const DURATIONS: [&str; 18] = [
    "1ms",
    "1s",
    "15s",
    "37s",
    "90s",
    "5m",
    "1h",
    "1m30s",
    "300",
    "0x3c",
    "1.5",
    "(1m + 30s)",
    "(step())",
    "(range())",
    "(max_of(1m, step()))",
    "(min_of(5m, range()) + 1)",
    "(5m * 2 - 3 ^ 2)",
    "(-(-1m) % 17)",
];
const ARITHMETIC: [&str; 7] = ["+", "-", "*", "/", "%", "^", "atan2"];
const COMPARISON: [&str; 12] =
    ["==", "!=", ">", "<", ">=", "<=", "> bool", "== bool", "<= bool", "!= bool", "< bool", ">= bool"];

impl Queries<'_> {
    /// A query of this module.
    pub fn wide(&mut self) -> String {
        let depth = self.rng.random_range(0..4);
        match self.rng.random_range(0..30) {
            0 => self.broken(depth),
            1 => self.odd_range(depth),
            2 => self.string(),
            3 => self.odd_scalar(depth),
            4 => format!("{}({})", self.one(&["sort", "sort_desc"]), self.odd(depth)),
            5 => {
                let labels = self.odd_labels();
                let labels: Vec<String> = labels.iter().map(|l| format!("\"{}\"", l.trim_matches('"'))).collect();
                let comma = if labels.is_empty() { "" } else { ", " };
                let call = self.one(&["sort_by_label", "sort_by_label_desc"]);
                format!("{call}({}{comma}{})", self.odd(depth), labels.join(", "))
            }
            6 => format!("{}({}, {})", self.one(&["topk", "bottomk"]), self.number_param(), self.odd_selector()),
            _ => self.odd(depth),
        }
    }

    fn odd_labels(&mut self) -> Vec<&'static str> {
        let mut labels = Vec::new();
        while self.chance(55) {
            labels.push(self.one(&ODD_LABELS));
        }
        labels
    }

    fn string(&mut self) -> String {
        self.one(&[
            r#""plain""#,
            r#"'single "quoted"'"#,
            r"`raw \n`",
            r#""\x41\u00e9\U0001F600\101\a\b\f\n\r\t\v\\\"""#,
            r#"("in brackets")"#,
            r#""bad \q escape""#,
            r#""\xff""#,
            "\"new\nline\"",
            "'unterminated",
        ])
        .to_owned()
    }

    fn number_param(&mut self) -> String {
        match self.rng.random_range(0..10) {
            // Prometheus evaluates `@` in the parameter of an aggregation anew at each step, forgetting `start()` and `end()`.
            0 => format!("scalar({})", self.odd_name()),
            1 => self.one(&["time()", "step()", "range()", "start()", "end()", "pi()"]).to_owned(),
            2..5 => self.one(&["0", "1", "2", "3"]).to_owned(),
            5 | 6 => self.one(&["0.1", "0.25", "0.5", "0.9", "0.99"]).to_owned(),
            _ => self.one(&NUMBERS).to_owned(),
        }
    }

    fn odd_scalar(&mut self, depth: u32) -> String {
        match self.rng.random_range(0..7) {
            0 | 1 => self.number_param(),
            2 => format!("{}({}, {})", self.one(&["max_of", "min_of"]), self.number_param(), self.number_param()),
            3 => format!("-{}", self.number_param()),
            4 => format!("scalar({})", self.odd(depth.saturating_sub(1))),
            5 => {
                let op = if self.chance(70) { self.one(&ARITHMETIC) } else { self.one(&COMPARISON) };
                format!("{} {op} {}", self.number_param(), self.number_param())
            }
            _ => format!("({} ^ {} ^ -{})", self.number_param(), self.number_param(), self.number_param()),
        }
    }

    fn odd_name(&mut self) -> &'static str {
        match self.rng.random_range(0..10) {
            0 | 1 => self.one(&FLOATS),
            2 => self.one(&HISTOGRAMS),
            3..6 => self.one(&ODD_HISTOGRAMS),
            _ => self.one(&ODD_FLOATS),
        }
    }

    fn odd_selector(&mut self) -> String {
        let name = self.odd_name();
        let mut matchers: Vec<&str> = Vec::new();
        while self.chance(25) {
            matchers.push(self.one(&[
                r#"job="node""#,
                r#"instance=~"a.*|b.*""#,
                r#"instance=~"(?i)A:.*""#,
                r#"instance!~".*""#,
                r#"instance=~"[ab]:\\d+""#,
                r#"'ünï code'!="""#,
                r#"le=~"0.5|1""#,
                r#"le!="+Inf""#,
                r#"__type__="counter""#,
                r#"rank=~"item.+""#,
                r#"kind="""#,
                r#"nothing!="x""#,
                r#"nothing=~"x|""#,
            ]));
        }
        let matchers = matchers.join(", ");
        let selector = match name.strip_prefix('{') {
            Some(quoted) if matchers.is_empty() => format!("{{{quoted}"),
            Some(quoted) => format!("{{{}, {matchers}}}", quoted.trim_end_matches('}')),
            None if self.chance(4) => format!("{{__name__=~\"{name}.*\", {matchers}}}"),
            None if self.chance(4) => format!("{{'{name}', {matchers}}}"),
            None if matchers.is_empty() => name.to_owned(),
            None => format!("{name}{{{matchers},}}"),
        };
        selector + &self.odd_modifiers()
    }

    fn odd_modifiers(&mut self) -> String {
        let mut parts = Vec::new();
        if self.chance(8) {
            let (first, last) = self.times;
            parts.push(match self.rng.random_range(0..6) {
                0 => "@ start()".to_owned(),
                1 => "@ end()".to_owned(),
                2 => "@ -1".to_owned(),
                3 => format!("@ {}.7654321", self.rng.random_range(first..last)),
                _ => format!("@ {}", self.rng.random_range(first..last)),
            });
        }
        if self.chance(12) {
            let sign = if self.chance(30) { "-" } else { "" };
            parts.push(format!("offset {sign}{}", self.one(&DURATIONS)));
        }
        if self.chance(50) {
            parts.reverse();
        }
        parts.iter().map(|p| format!(" {p}")).collect()
    }

    fn odd_range(&mut self, depth: u32) -> String {
        let range = if self.chance(60) { self.one(&["1m", "5m", "10m", "1h"]) } else { self.one(&DURATIONS) };
        if depth == 0 || self.chance(70) {
            let extended = if self.chance(12) { self.one(&[" anchored", " smoothed"]) } else { "" };
            let selector = self.odd_selector();
            // The range stands before the modifiers.
            let at = [" @ ", " offset "].iter().filter_map(|m| selector.find(m)).min().unwrap_or(selector.len());
            let (selector, modifiers) = selector.split_at(at);
            return format!("{selector}[{range}]{extended}{modifiers}");
        }
        let step = if self.chance(30) { "" } else { self.one(&DURATIONS) };
        // Prometheus would take millions of steps.
        let step = if ["1ms", "1s", "1.5"].contains(&step) { "15s" } else { step };
        format!("({})[{range}:{step}]{}", self.odd(depth - 1), self.odd_modifiers())
    }

    /// Without `@` on a subquery: beside an argument that changes from step to step 3.14 then finds nothing, which the test
    /// scripts see otherwise.
    fn floating_range(&mut self, depth: u32) -> String {
        let range = self.odd_range(depth);
        match range.rfind(']') {
            Some(end) if range.starts_with('(') && range[end..].contains('@') => range[..=end].to_owned(),
            _ => range,
        }
    }

    fn odd_grouping(&mut self) -> String {
        match self.rng.random_range(0..3) {
            0 => String::new(),
            n => format!(" {} ({})", ["by", "without"][n - 1], self.odd_labels().join(", ")),
        }
    }

    /// An instant vector.
    fn odd(&mut self, depth: u32) -> String {
        if depth == 0 {
            return if self.chance(3) { format!("{} smoothed", self.odd_selector()) } else { self.odd_selector() };
        }
        let d = depth - 1;
        match self.rng.random_range(0..100) {
            0..5 => format!("{}({})", self.one(&MATH), self.odd(d)),
            5..27 => format!("{}({})", self.one(&OVER_RANGE), self.odd_range(d)),
            27..30 => format!("quantile_over_time({}, {})", self.number_param(), self.floating_range(d)),
            30..32 => format!("predict_linear({}, {})", self.floating_range(d), self.number_param()),
            32..33 => {
                let (smooth, trend) = (self.number_param(), self.number_param());
                format!("double_exponential_smoothing({}, {smooth}, {trend})", self.floating_range(d))
            }
            33..45 => format!("{}{}({})", self.one(&AGGREGATIONS), self.odd_grouping(), self.odd(d)),
            45..47 => {
                let op = self.one(&["topk", "bottomk"]);
                format!("{op}{}({}, {})", self.odd_grouping(), self.number_param(), self.odd_selector())
            }
            47..49 => format!("quantile{}({}, {})", self.odd_grouping(), self.number_param(), self.odd(d)),
            49..51 => {
                let label = self.one(&["v", "job", "ünï code", "__name__", "le"]);
                format!("count_values{}(\"{label}\", {})", self.odd_grouping(), self.odd(d))
            }
            51..52 => format!("limit_ratio{}({}, {})", self.odd_grouping(), self.number_param(), self.odd(d)),
            52..72 => self.odd_binary(d),
            72..79 => self.odd_histogram_call(d),
            79..83 => self.odd_labelled(d),
            83..85 => {
                let argument = if self.chance(50) { self.odd_selector() } else { self.odd(d) };
                format!("{}({argument})", self.one(&["absent", "-", "+", "absent"]))
            }
            85..86 => {
                let matcher = self.one(&[r#"{a="b"}"#, r#"{a="b", a="c"}"#, r#"{a=~"b", c="d"}"#, ""]);
                format!("{}(nope{matcher}{})", self.one(&["absent", "absent_over_time"]), self.one(&["", "[5m]"]))
            }
            86..87 => format!("{}()", self.one(&DATES)),
            87..88 => format!("{}({})", self.one(&DATES), self.odd(d)),
            88..89 => format!("vector({})", self.odd_scalar(d)),
            89..91 => format!("clamp({}, {}, {})", self.odd(d), self.number_param(), self.number_param()),
            91..93 => {
                format!("{}({}, {})", self.one(&["clamp_min", "clamp_max", "round"]), self.odd(d), self.number_param())
            }
            93..94 => format!("{}({})", self.one(&["timestamp", "start_timestamp"]), self.odd(d)),
            94..95 => format!("scalar({})", self.odd(d)),
            _ => format!("({})", self.odd(d)),
        }
    }

    fn odd_matching(&mut self) -> String {
        match self.rng.random_range(0..3) {
            0 => String::new(),
            n => format!(" {} ({})", ["on", "ignoring"][n - 1], self.odd_labels().join(", ")),
        }
    }

    fn odd_binary(&mut self, depth: u32) -> String {
        let op = if self.chance(60) { self.one(&ARITHMETIC) } else { self.one(&COMPARISON) };
        let left = self.odd(depth);
        let fills = [
            "",
            "",
            "",
            " fill (0)",
            " fill (NaN)",
            " fill_left (1)",
            " fill_right (-1)",
            " fill_left (2) fill_right (3)",
        ];
        match self.rng.random_range(0..12) {
            0 | 1 => format!("{left} {op} {}", self.number_param()),
            2 => format!("{} {op} {left}", self.number_param()),
            3 => {
                let trim = self.one(&["</", ">/"]);
                let right = if self.chance(80) { self.number_param() } else { self.odd(depth) };
                format!("{left} {trim} {right}")
            }
            4 | 5 => {
                let set = self.one(&["and", "or", "unless"]);
                format!("{left} {set}{} {}", self.odd_matching(), self.odd(depth))
            }
            6 | 7 => {
                format!("{left} {op}{}{} {}", self.odd_matching(), self.one(&fills), self.odd(depth))
            }
            8 | 9 => {
                let group = self.one(&["group_left", "group_right"]);
                let (on, labels) = (self.one(&["on", "ignoring"]), self.odd_labels().join(", "));
                let include =
                    if self.chance(60) { String::new() } else { format!(" ({})", self.odd_labels().join(", ")) };
                let fill = if self.chance(20) { self.one(&fills) } else { "" };
                format!("{left} {op} {on} ({labels}) {group}{include}{fill} {}", self.odd(depth))
            }
            // Those that match: one series each of many names.
            10 => {
                let right = self.odd_name();
                let right = if right.starts_with('{') { "typed" } else { right };
                format!("{} {op} on (instance) group_left () max by (instance) ({right})", self.odd_selector())
            }
            _ => format!("{left} {op} {left}"),
        }
    }

    fn odd_histogram_call(&mut self, depth: u32) -> String {
        let of = match self.rng.random_range(0..5) {
            0 => self.odd(depth),
            1 => format!("rate({}[5m])", self.one(&ODD_HISTOGRAMS)),
            2 => format!("{} by (job) ({})", self.one(&["sum", "avg"]), self.one(&ODD_HISTOGRAMS)),
            3 => self
                .one(&["broken_bucket", "open_bucket", "both_seconds", "{__name__=~\"both.*|latency.*\"}"])
                .to_owned(),
            _ => format!(
                "sum by (le) (rate({}[5m]))",
                self.one(&["broken_bucket", "open_bucket", "latency_seconds_bucket"])
            ),
        };
        match self.rng.random_range(0..5) {
            0 | 1 => format!("histogram_quantile({}, {of})", self.number_param()),
            2 => format!("histogram_fraction({}, {}, {of})", self.number_param(), self.number_param()),
            3 => {
                let label = self.one(&["q", "job", "ünï", ""]);
                let more = if self.chance(50) { format!(", {}", self.number_param()) } else { String::new() };
                format!("histogram_quantiles({of}, \"{label}\", {}{more})", self.number_param())
            }
            _ => format!("{}({of})", self.one(&HISTOGRAM_CALLS)),
        }
    }

    fn odd_labelled(&mut self, depth: u32) -> String {
        let v = self.odd(depth);
        // Prometheus 3.14 doesn't notice duplicates of which one is a histogram: `abs` leaves only floats.
        let v = format!("abs({v})");
        let label = |q: &mut Self| q.one(&["new", "job", "instance", "le", "__name__", "ünï code", "rank", "", "a b"]);
        let (to, from) = (label(self), label(self));
        if self.chance(65) {
            let regex = self.one(&[
                "(.*)",
                "",
                ".*",
                "(?P<name>[a-z]+):(.*)",
                "(.+)(.*)",
                "a|b",
                "(",
                "(?i)A:(.+)",
                "x{1001}",
                "(a)?(.*)",
                "\\\\d+",
            ]);
            let replacement = self.one(&[
                "$1", "${1}", "$name", "${name}x", "$1x", "$$", "$", "", "x", "$2-$1", "$0", "${", "$99", "é", "${1",
                "$(1)",
            ]);
            format!(r#"label_replace({v}, "{to}", "{replacement}", "{from}", "{regex}")"#)
        } else {
            let more = if self.chance(50) { format!(r#", "{}""#, label(self)) } else { String::new() };
            let sources = if self.chance(80) { format!(r#", "{from}"{more}"#) } else { String::new() };
            format!(r#"label_join({v}, "{to}", "{}"{sources})"#, self.one(&["", "-", ", "]))
        }
    }

    /// Text with something left out, doubled, or put in.
    pub fn broken(&mut self, depth: u32) -> String {
        let text = if self.chance(50) { self.odd(depth) } else { self.vector(depth) };
        let mut tokens: Vec<String> = Vec::new();
        for c in text.chars() {
            match tokens.last_mut() {
                Some(last) if c.is_alphanumeric() && last.chars().all(char::is_alphanumeric) => last.push(c),
                _ => tokens.push(c.into()),
            }
        }
        let place = self.rng.random_range(0..tokens.len());
        match self.rng.random_range(0..5) {
            0 => {
                tokens.remove(place);
            }
            1 => tokens.insert(place, tokens[place].clone()),
            2 => tokens.truncate(place),
            3 => {
                let other = self.rng.random_range(0..tokens.len());
                tokens.swap(place, other);
            }
            _ => {
                let what = self.one(&[
                    "(",
                    ")",
                    "[",
                    "]",
                    "{",
                    "}",
                    ",",
                    "\"",
                    "'",
                    "`",
                    "#",
                    "=",
                    "=~",
                    "!",
                    "!=",
                    "~",
                    "<",
                    ">=",
                    "$",
                    "@",
                    ":",
                    "::",
                    ";",
                    "\\",
                    "é",
                    "\0",
                    " ",
                    "\n",
                    "by",
                    "on",
                    "bool",
                    "offset",
                    "and",
                    "sum",
                    "rate",
                    "5m",
                    "1",
                    "1e",
                    "0x",
                    "5q",
                    "NaN",
                    "Inf",
                    "start()",
                    "step()",
                    "fill",
                    "anchored",
                    "smoothed",
                    "group_left",
                    "ignoring",
                    "without",
                    "</",
                    ">/",
                    "+",
                    "-",
                    "*",
                    "/",
                    "%",
                    "^",
                    "_",
                    "==",
                    "inf",
                    "1m1h",
                    "1d",
                    "m",
                    "start",
                    "histogram",
                    "limitk",
                    "{}",
                    "()",
                    "[]",
                ]);
                tokens.insert(place, what.to_owned());
            }
        }
        tokens.concat()
    }
}
