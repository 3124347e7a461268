//! Prometheus's test-script language (`promql/promqltest`): loads series, evaluates queries, compares. For the engine's
//! own tests and for anybody who brings scripts of that kind.
//!
//! Instant queries are also run as the middle of a range query, and with `@` on every selector at other times: the
//! results have to be the same.

mod compare;
mod expect;
pub mod series;

use std::sync::Arc;
use std::time::Duration;

use narthex_storage::memory::MemoryStore;

use crate::engine::{Engine, EngineError, EngineOptions, InstantQuery, QueryResult, RangeQuery};
use crate::parser::ParserOptions;
use crate::value::{Sample, Value};
use expect::Expectation;
use series::{Description, Load};

/// What a line of a script is part of.
#[derive(Debug)]
enum Command {
    Clear,
    Load(Load),
    Eval(Eval),
}

#[derive(Debug)]
struct Eval {
    line: usize,
    query: String,
    /// Milliseconds; `step` is none for an instant query.
    start: i64,
    end: i64,
    step: Option<i64>,
    expectations: Vec<Expectation>,
    /// The expected series with their lines' order.
    series: Vec<Description>,
    scalar: Option<f64>,
}

/// A script, read.
#[derive(Debug)]
pub struct Script {
    commands: Vec<Command>,
}

/// What became of a script's evals.
#[derive(Debug, Default)]
pub struct Report {
    pub passed: usize,
    /// One text for each that failed.
    pub failures: Vec<String>,
}

/// The engine that Prometheus's scripts are written for: everything experimental on, at most 10,000 samples.
pub fn script_options() -> EngineOptions {
    EngineOptions {
        parser: ParserOptions::all(),
        lookback: Duration::from_secs(300),
        max_samples: 10_000,
        timeout: Duration::from_secs(100),
        default_subquery_step: Duration::from_secs(60),
        delayed_name_removal: true,
        start_timestamps: true,
        ..EngineOptions::default()
    }
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    /// The first line that makes no sense, with its number.
    pub fn parse(text: &str) -> Result<Script, String> {
        let lines: Vec<&str> = text.lines().map(str::trim).map(|l| if l.starts_with('#') { "" } else { l }).collect();
        let mut commands = Vec::new();
        let mut i = 0;
        while i < lines.len() {
            if lines[i].is_empty() {
                i += 1;
                continue;
            }
            let at = i;
            let block_end = (at..lines.len()).find(|j| lines[*j].is_empty()).unwrap_or(lines.len());
            let block = &lines[at + 1..block_end];
            let word = lines[at].split_whitespace().next().unwrap_or("").to_lowercase();
            let located = |e: String| format!("line {}: {e}", at + 1);
            if word == "clear" {
                commands.push(Command::Clear);
                i = at + 1;
                continue;
            } else if word.starts_with("load") {
                commands.push(Command::Load(Load::parse(lines[at], block).map_err(located)?));
            } else if word.starts_with("eval") {
                commands.push(Command::Eval(Eval::parse(lines[at], block, at + 1).map_err(located)?));
            } else {
                return Err(format!("line {}: invalid command {:?}", at + 1, lines[at]));
            }
            i = block_end;
        }
        Ok(Script { commands })
    }

    /// How many evals there are.
    pub fn evals(&self) -> usize {
        self.commands.iter().filter(|c| matches!(c, Command::Eval(_))).count()
    }

    /// Runs the commands in order against a store of their own.
    pub fn run(&self, engine: &Engine) -> Report {
        let store = MemoryStore::new();
        let mut report = Report::default();
        for command in &self.commands {
            match command {
                Command::Clear => store.clear(),
                Command::Load(load) => {
                    if let Err(e) = load.store(&store) {
                        report.failures.push(e);
                    }
                }
                Command::Eval(eval) => match eval.run(engine, &store) {
                    Ok(()) => report.passed += 1,
                    Err(e) => report.failures.push(format!("line {}: {}: {e}", eval.line, eval.query)),
                },
            }
        }
        report
    }
}

impl Eval {
    fn parse(first: &str, block: &[&str], line: usize) -> Result<Eval, String> {
        let (word, rest) = first.split_once(char::is_whitespace).ok_or("an eval needs a query")?;
        let mut expectations = Vec::new();
        match word.to_lowercase().as_str() {
            "eval" => {}
            "eval_fail" => expectations.push(Expectation::fail()),
            "eval_warn" => expectations.push(Expectation::any(crate::annotations::Severity::Warning)),
            "eval_info" => expectations.push(Expectation::any(crate::annotations::Severity::Info)),
            "eval_ordered" => expectations.push(Expectation::Ordered),
            other => return Err(format!("unknown command {other}")),
        }
        let mut words = Words(rest);
        let (start, end, step) = match words.next() {
            "instant" => {
                words.keyword("at")?;
                let t = series::duration(words.next())?;
                (t, t, None)
            }
            "range" => {
                words.keyword("from")?;
                let start = series::duration(words.next())?;
                words.keyword("to")?;
                let end = series::duration(words.next())?;
                words.keyword("step")?;
                (start, end, Some(series::duration(words.next())?))
            }
            other => return Err(format!("expected instant or range, not {other:?}")),
        };
        let query = words.0.trim().to_owned();
        let mut eval = Eval { line, query, start, end, step, expectations, series: Vec::new(), scalar: None };
        for text in block {
            if let Some(expectation) = Expectation::parse(text)? {
                eval.expectations.push(expectation);
            } else if let Some(v) = series::number(text) {
                eval.scalar = Some(v);
            } else {
                eval.series.push(Description::parse(text)?);
            }
        }
        Ok(eval)
    }

    fn fails(&self) -> bool {
        self.expectations.iter().any(|e| matches!(e, Expectation::Fail(_)))
    }

    fn run(&self, engine: &Engine, store: &MemoryStore) -> Result<(), String> {
        match self.step {
            Some(step) => {
                let result = range(engine, store, &self.query, self.start, self.end, step);
                self.check(&self.query, result, true)
            }
            None => {
                let result = instant(engine, store, &self.query, self.start);
                let is_scalar = matches!(result.as_ref().map(|r| &r.value), Ok(Value::Scalar { .. }));
                self.check(&self.query, result, true)?;
                if self.fails() {
                    return Ok(());
                }
                self.run_as_range(engine, store, &self.query, self.start, is_scalar)?;
                for (query, time) in at_variants(&self.query, self.start) {
                    let result = instant(engine, store, &query, time);
                    self.check(&query, result, false).map_err(|e| format!("as {query} at {time}: {e}"))?;
                    self.run_as_range(engine, store, &query, time, is_scalar)
                        .map_err(|e| format!("as {query} at {time}: {e}"))?;
                }
                Ok(())
            }
        }
    }

    /// The middle of a range query has to be what the instant query gives.
    fn run_as_range(
        &self,
        engine: &Engine,
        store: &MemoryStore,
        query: &str,
        time: i64,
        is_scalar: bool,
    ) -> Result<(), String> {
        let depends = ["range(", "step(", "start(", "end("].iter().any(|f| query.contains(f));
        let other_type =
            self.expectations.iter().any(|e| matches!(e, Expectation::Text(_) | Expectation::RangeVector { .. }));
        if depends || other_type {
            return Ok(());
        }
        let result = range(engine, store, query, time - 60_000, time + 60_000, 60_000)
            .map_err(|e| format!("in range mode: {e}"))?;
        if self.expectations.contains(&Expectation::Ordered) {
            return Ok(());
        }
        let Value::Matrix(matrix) = result.value else { return Err("in range mode: no matrix".into()) };
        let mut samples = Vec::new();
        for series in matrix {
            let float = series.floats.iter().find(|(t, _)| *t == time).map(|(_, v)| crate::Point::Float(*v));
            let histogram =
                series.histograms.iter().find(|(t, _)| *t == time).map(|(_, h)| crate::Point::Histogram(h.clone()));
            if let Some(point) = float.or(histogram) {
                samples.push(Sample { labels: series.labels, timestamp: time, point });
            }
        }
        let value = match (is_scalar, samples.first()) {
            (true, Some(Sample { point: crate::Point::Float(value), .. })) => {
                Value::Scalar { timestamp: time, value: *value }
            }
            _ => Value::Vector(samples),
        };
        self.compare(&value).map_err(|e| format!("in range mode: {e}"))
    }

    fn check(&self, query: &str, result: Result<QueryResult, EngineError>, annotations: bool) -> Result<(), String> {
        let result = match result {
            Ok(result) if self.fails() => return Err(format!("expected an error, got {:?}", result.value)),
            Ok(result) => result,
            Err(e) if self.fails() => {
                let text = e.to_string();
                return self.expectations.iter().try_for_each(|x| x.check_error(&text));
            }
            Err(e) => return Err(e.to_string()),
        };
        if annotations {
            expect::check_annotations(&self.expectations, &result.annotations, query)?;
        }
        self.compare(&result.value)
    }
}

/// Cuts words off the front of a line.
struct Words<'a>(&'a str);

impl<'a> Words<'a> {
    fn next(&mut self) -> &'a str {
        let text = self.0.trim_start();
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        self.0 = &text[end..];
        &text[..end]
    }

    fn keyword(&mut self, word: &str) -> Result<(), String> {
        let found = self.next();
        if found == word { Ok(()) } else { Err(format!("expected {word:?}, not {found:?}")) }
    }
}

fn instant(engine: &Engine, store: &MemoryStore, expr: &str, time: i64) -> Result<QueryResult, EngineError> {
    let query = InstantQuery { expr: expr.into(), time, ..InstantQuery::default() };
    futures::executor::block_on(engine.instant(Arc::new(store.clone()), query))
}

fn range(
    engine: &Engine,
    store: &MemoryStore,
    expr: &str,
    start: i64,
    end: i64,
    step: i64,
) -> Result<QueryResult, EngineError> {
    let query = RangeQuery { expr: expr.into(), start, end, step, ..RangeQuery::default() };
    futures::executor::block_on(engine.range(Arc::new(store.clone()), query))
}

/// The query with `@ time` on each selector and subquery that has none (inside of a subquery nothing changes), to be
/// evaluated at other times. Empty where a function depends on the evaluation's time.
fn at_variants(query: &str, time: i64) -> Vec<(String, i64)> {
    use crate::ast::{At, Expr};
    let Ok(mut expr) = crate::parser::parse(query, &ParserOptions::all()) else { return Vec::new() };
    let mut depends = false;
    expr.walk(&mut |e, _| {
        if let Expr::Call(c) = e {
            depends |= crate::engine::depends_on_time(c.func.name);
        }
    });
    if depends {
        return Vec::new();
    }
    fn pin(e: &mut Expr, at: At) {
        match e {
            Expr::Vector(v) => {
                v.at.get_or_insert(at);
            }
            Expr::Matrix(m) => {
                m.selector.at.get_or_insert(at);
            }
            Expr::Subquery(s) => {
                s.at.get_or_insert(at);
            }
            other => other.for_each_child_mut(|c| pin(c, at)),
        }
    }
    pin(&mut expr, At::Timestamp(time));
    let times: &[i64] = if time == 0 { &[-1000, 0, 1000] } else { &[-10 * time, 0, time / 5, time, 10 * time] };
    times.iter().map(|t| (expr.to_string(), *t)).collect()
}
