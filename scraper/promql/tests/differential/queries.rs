//! Random queries over the series of [`super::data`], most of them valid, deep and mean.

use rand::Rng;
use rand::rngs::StdRng;

pub const FLOATS: [&str; 8] = [
    "cpu_seconds_total",
    "temperature",
    "memory_bytes",
    "odd",
    "up",
    "lone",
    "requests_total",
    "latency_seconds_count",
];
pub const HISTOGRAMS: [&str; 3] = ["native_seconds", "custom_seconds", "mixed"];
const MATCHERS: [&str; 10] = [
    r#"job="node""#,
    r#"job!="node""#,
    r#"instance=~"a.*|b.*""#,
    r#"instance!~"c:.+""#,
    r#"mode="idle""#,
    r#"mode=~"user|system""#,
    r#"code="500""#,
    r#"zone="""#,
    r#""path.name"=~"/.*""#,
    r#"nothing="here""#,
];
const RANGES: [&str; 6] = ["30s", "1m", "5m", "17m", "1h", "90s"];
const LABELS: [&str; 6] = ["job", "instance", "mode", "code", "le", "nothing"];
pub const MATH: [&str; 25] = [
    "abs",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "ceil",
    "cos",
    "cosh",
    "deg",
    "exp",
    "floor",
    "ln",
    "log10",
    "log2",
    "rad",
    "round",
    "sgn",
    "sin",
    "sinh",
    "sqrt",
    "tan",
    "tanh",
    "timestamp",
];
pub const OVER_RANGE: [&str; 24] = [
    "rate",
    "increase",
    "delta",
    "irate",
    "idelta",
    "deriv",
    "changes",
    "resets",
    "avg_over_time",
    "sum_over_time",
    "min_over_time",
    "max_over_time",
    "count_over_time",
    "stddev_over_time",
    "stdvar_over_time",
    "last_over_time",
    "first_over_time",
    "present_over_time",
    "absent_over_time",
    "mad_over_time",
    "ts_of_max_over_time",
    "ts_of_min_over_time",
    "ts_of_first_over_time",
    "ts_of_last_over_time",
];
pub const DATES: [&str; 8] =
    ["day_of_month", "day_of_week", "day_of_year", "days_in_month", "hour", "minute", "month", "year"];
pub const AGGREGATIONS: [&str; 8] = ["sum", "avg", "min", "max", "count", "group", "stddev", "stdvar"];
pub const HISTOGRAM_CALLS: [&str; 5] =
    ["histogram_count", "histogram_sum", "histogram_avg", "histogram_stddev", "histogram_stdvar"];

pub struct Queries<'r> {
    pub(super) rng: &'r mut StdRng,
    /// Seconds since the epoch that `@` may name.
    pub(super) times: (i64, i64),
}

impl<'r> Queries<'r> {
    /// `times` are the first and last second that have data.
    pub fn new(rng: &'r mut StdRng, times: (i64, i64)) -> Queries<'r> {
        Queries { rng, times }
    }

    pub fn query(&mut self) -> String {
        let depth = self.rng.random_range(0..4);
        match self.rng.random_range(0..40) {
            0 => self.scalar(depth),
            1 => self.matrix(depth),
            2 => format!("{}({})", self.one(&["sort", "sort_desc"]), self.vector(depth)),
            3 => format!(
                r#"{}({}, "instance", "mode")"#,
                self.one(&["sort_by_label", "sort_by_label_desc"]),
                self.vector(depth)
            ),
            _ => self.vector(depth),
        }
    }

    pub(super) fn one<'s>(&mut self, of: &[&'s str]) -> &'s str {
        of[self.rng.random_range(0..of.len())]
    }

    pub(super) fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_ratio(percent, 100)
    }

    fn selector(&mut self) -> String {
        let name = if self.chance(30) { self.one(&HISTOGRAMS) } else { self.one(&FLOATS) };
        self.selector_of(name)
    }

    fn selector_of(&mut self, name: &str) -> String {
        let mut matchers: Vec<&str> = Vec::new();
        while self.chance(30) {
            matchers.push(self.one(&MATCHERS));
        }
        match (matchers.is_empty(), self.chance(5)) {
            (true, _) => name.to_owned(),
            (_, true) => format!(r#"{{__name__=~"{name}|temperature",{}}}"#, matchers.join(",")),
            _ => format!("{name}{{{}}}", matchers.join(",")),
        }
    }

    fn modifiers(&mut self) -> String {
        let mut out = String::new();
        if self.chance(10) {
            let (first, last) = self.times;
            out = match self.rng.random_range(0..4) {
                0 => " @ start()".into(),
                1 => " @ end()".into(),
                _ => format!(" @ {}", self.rng.random_range(first..last)),
            };
        }
        if self.chance(15) {
            out += " offset ";
            out += self.one(&["1m", "5m", "-1m", "17s", "(step() + 30s)", "1h"]);
        }
        out
    }

    fn matrix(&mut self, depth: u32) -> String {
        let range = self.one(&RANGES);
        let modifiers = self.modifiers();
        if depth == 0 || self.chance(75) {
            let extended = if self.chance(6) { self.one(&[" anchored", " smoothed"]) } else { "" };
            return format!("{}[{range}]{extended}{modifiers}", self.selector());
        }
        let step = self.one(&["", "15s", "1m", "37s", "5m"]);
        format!("({})[{range}:{step}]{modifiers}", self.vector(depth - 1))
    }

    fn number(&mut self) -> String {
        match self.rng.random_range(0..8) {
            0 => "0".into(),
            1 => "-1".into(),
            2 => "NaN".into(),
            3 => "Inf".into(),
            4 => "1e3".into(),
            _ => format!("{}", self.rng.random_range(-50..100) as f64 / 10.0),
        }
    }

    fn scalar(&mut self, depth: u32) -> String {
        if depth == 0 {
            return if self.chance(70) { self.number() } else { self.one(&["time()", "pi()", "step()"]).into() };
        }
        match self.rng.random_range(0..4) {
            0 => format!("scalar({})", self.vector(depth - 1)),
            1 => {
                let (left, right) = (self.scalar(depth - 1), self.scalar(depth - 1));
                let op = self.one(&["+", "-", "*", "/", "%", "^", "atan2", "== bool", "> bool", "<= bool"]);
                format!("({left} {op} {right})")
            }
            _ => self.number(),
        }
    }

    fn labels(&mut self) -> String {
        let mut labels: Vec<&str> = Vec::new();
        while self.chance(55) {
            labels.push(self.one(&LABELS));
        }
        labels.join(", ")
    }

    fn grouping(&mut self) -> String {
        match self.rng.random_range(0..3) {
            0 => String::new(),
            1 => format!(" by ({})", self.labels()),
            _ => format!(" without ({})", self.labels()),
        }
    }

    pub(super) fn vector(&mut self, depth: u32) -> String {
        if depth == 0 {
            return format!("{}{}", self.selector(), self.modifiers());
        }
        let d = depth - 1;
        match self.rng.random_range(0..100) {
            0..8 => format!("{}({})", self.one(&MATH), self.vector(d)),
            8..30 => format!("{}({})", self.one(&OVER_RANGE), self.matrix(d)),
            30..33 => {
                format!("quantile_over_time({}, {})", self.one(&["0.5", "0.9", "1", "-1", "NaN"]), self.matrix(d))
            }
            // Prometheus 3.14 finds nothing in a subquery with `@` here.
            33..35 => format!("predict_linear({}, {})", self.matrix(0), self.number()),
            35..37 => format!("double_exponential_smoothing({}, 0.3, 0.6)", self.matrix(d)),
            37..52 => format!("{}{}({})", self.one(&AGGREGATIONS), self.grouping(), self.vector(d)),
            52..56 => {
                let (op, param) = match self.chance(80) {
                    true => (self.one(&["topk", "bottomk"]), self.one(&["1", "2", "3", "0", "100"])),
                    // Prometheus 3.14's limitk gives wrong series in range queries where it keeps some of several.
                    false => ("limitk", self.one(&["0", "100"])),
                };
                // Of a selector: among equal values Prometheus goes by an order that is random above functions.
                let selector = self.selector();
                let of = if self.chance(50) { format!("rate({selector}[5m])") } else { selector };
                format!("{op}{}({param}, {of})", self.grouping())
            }
            56..58 => format!("quantile{}({}, {})", self.grouping(), self.number(), self.vector(d)),
            58..60 => format!(r#"count_values{}("value", round({}))"#, self.grouping(), self.vector(d)),
            60..75 => self.binary(d),
            75..80 => self.histogram_call(d),
            80..82 => self.labelled(d),
            82..84 => format!("{}({})", self.one(&["absent", "-", "+"]), self.vector(d)),
            84..86 => format!("{}({})", self.one(&DATES), self.vector(d)),
            86..88 => format!("vector({})", self.scalar(d)),
            88..90 => format!("clamp({}, {}, {})", self.vector(d), self.number(), self.number()),
            90..92 => {
                format!("{}({}, {})", self.one(&["clamp_min", "clamp_max", "round"]), self.vector(d), self.number())
            }
            92..93 => format!("limit_ratio({}, {})", self.one(&["0.5", "-0.3", "1"]), self.vector(d)),
            // Newer versions select the info series at the time of the selector, if it has a modifier; 3.14 didn't.
            93..94 => format!("info({})", self.selector()),
            _ => format!("({})", self.vector(d)),
        }
    }

    fn binary(&mut self, depth: u32) -> String {
        let arithmetic = ["+", "-", "*", "/", "%", "^", "atan2"];
        let comparison = ["==", "!=", ">", "<", ">=", "<=", "> bool", "== bool", "<= bool"];
        let op = if self.chance(60) { self.one(&arithmetic) } else { self.one(&comparison) };
        let left = self.vector(depth);
        match self.rng.random_range(0..10) {
            0..3 => format!("({left}) {op} {}", self.scalar(depth)),
            3 => format!("{} {op} ({left})", self.scalar(depth)),
            4 => format!("({left}) {} {}", self.one(&["</", ">/"]), self.number()),
            5 | 6 => {
                let op = self.one(&["and", "or", "unless"]);
                format!("({left}) {op}{} ({})", self.matching(), self.vector(depth))
            }
            7 => {
                let fill = self.one(&[" fill (0)", " fill_left (1)", " fill_right (-1)", ""]);
                format!("({left}) {op}{}{fill} ({})", self.matching(), self.vector(depth))
            }
            8 => {
                let group = self.one(&["group_left", "group_right"]);
                format!(
                    "({left}) {op} on ({}) {group} ({}) ({})",
                    self.labels(),
                    self.one(&["", "mode"]),
                    self.vector(depth)
                )
            }
            // With itself: every element finds its other.
            _ => {
                let right = if self.chance(50) { left.clone() } else { format!("abs({left})") };
                format!("({left}) {op} ({right})")
            }
        }
    }

    fn matching(&mut self) -> String {
        match self.rng.random_range(0..3) {
            0 => String::new(),
            1 => format!(" on ({})", self.labels()),
            _ => format!(" ignoring ({})", self.labels()),
        }
    }

    fn histogram_call(&mut self, depth: u32) -> String {
        let native = if self.chance(60) {
            let name = self.one(&HISTOGRAMS);
            let selector = self.selector_of(name);
            match self.rng.random_range(0..4) {
                0 => selector,
                1 => format!("rate({selector}[5m])"),
                2 => format!("sum by (job) ({selector})"),
                _ => format!("avg_over_time({selector}[17m])"),
            }
        } else if self.chance(60) {
            format!("sum by (le, job) (rate({}[5m]))", self.selector_of("latency_seconds_bucket"))
        } else {
            self.vector(depth)
        };
        match self.rng.random_range(0..4) {
            0 => format!("histogram_quantile({}, {native})", self.one(&["0.5", "0.99", "0", "1", "2", "-1", "NaN"])),
            1 => format!(
                "histogram_fraction({}, {}, {native})",
                self.one(&["0", "-Inf", "0.2"]),
                self.one(&["1", "Inf", "0.1"])
            ),
            _ => format!("{}({native})", self.one(&HISTOGRAM_CALLS)),
        }
    }

    fn labelled(&mut self, depth: u32) -> String {
        let v = self.vector(depth);
        match self.rng.random_range(0..3) {
            0 => format!(r#"label_replace({v}, "new", "$1-x", "instance", "(.):.*")"#),
            // Prometheus 3.14 doesn't notice duplicates of which one is a histogram: `abs` leaves only floats.
            1 => format!(r#"label_replace(abs({v}), "instance", "", "job", ".*")"#),
            _ => format!(r#"label_join({v}, "joined", "/", "job", "instance", "nothing")"#),
        }
    }
}
