//! The engine: parses and plans a query, selects what it needs (async), and evaluates it over all steps at once
//! (plain synchronous code over columns, for a CPU pool).
//!
//! Semantics are Prometheus 3.14's. What Prometheus keeps behind `--enable-feature` is a switch of
//! [`EngineOptions`], off by default as there.

mod aggregate;
mod binary;
pub(crate) mod columns;
mod eval;
mod histogram_calls;
mod info;
mod info_select;
mod plan;
pub(crate) mod query;
mod range;
pub(crate) mod scan;
mod shared;
mod topk;
mod vector_calls;
pub(crate) mod windows;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use narthex_storage::{Meter, Queryable, SelectRequest, SeriesSet, StorageError, Trace};

use crate::annotations::Annotations;
use crate::ast::{At, Expr, ValueType};
use crate::error::ParseError;
use crate::parser::ParserOptions;
use crate::value::Value;

/// How an engine evaluates. The default is a stock Prometheus's.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    pub parser: ParserOptions,
    /// How long a sample stands for its series (`--query.lookback-delta`).
    pub lookback: Duration,
    /// How many samples a query may hold in memory (`--query.max-samples`).
    pub max_samples: usize,
    /// How many bytes of columns it may hold, about.
    pub max_bytes: usize,
    /// `--query.timeout`.
    pub timeout: Duration,
    /// The step of subqueries that name none: the global evaluation interval.
    pub default_subquery_step: Duration,
    /// `promql-delayed-name-removal`.
    pub delayed_name_removal: bool,
    /// `type-and-unit-labels`.
    pub type_and_unit_labels: bool,
    /// `use-start-timestamps`.
    pub start_timestamps: bool,
    /// `promql-per-step-stats`: whether a query may ask for statistics per step.
    pub per_step_stats: bool,
    /// Off only for those who embed the engine.
    pub at_modifier: bool,
    pub negative_offset: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            parser: ParserOptions::default(),
            lookback: Duration::from_secs(300),
            max_samples: 50_000_000,
            max_bytes: 4 << 30,
            timeout: Duration::from_secs(120),
            default_subquery_step: Duration::from_secs(60),
            delayed_name_removal: false,
            type_and_unit_labels: false,
            start_timestamps: false,
            per_step_stats: false,
            at_modifier: true,
            negative_offset: true,
        }
    }
}

/// What may be set for one query.
#[derive(Clone, Debug, Default)]
pub struct QueryLimits {
    /// None: the engine's.
    pub max_samples: Option<usize>,
    pub max_bytes: Option<usize>,
    /// Only ever shortens the engine's.
    pub timeout: Option<Duration>,
    /// Set it to true to stop the query.
    pub cancel: Option<Arc<AtomicBool>>,
    /// Whether to count per step; needs [`EngineOptions::per_step_stats`].
    pub per_step_stats: bool,
    /// Counts what is found and held, and has limits of its own; it goes to the store with every question.
    pub meter: Meter,
    /// Gets a step of each selector and each operator.
    pub steps: Trace,
    /// Whether to make a span of each operator, at most a hundred, below the span that evaluation happens in.
    pub trace: bool,
}

/// A query at one time.
#[derive(Clone, Debug, Default)]
pub struct InstantQuery {
    pub expr: String,
    /// Milliseconds since the epoch.
    pub time: i64,
    /// None or zero: the engine's.
    pub lookback: Option<Duration>,
    pub limits: QueryLimits,
}

/// A query over steps from `start` to `end`, both inclusive.
#[derive(Clone, Debug, Default)]
pub struct RangeQuery {
    pub expr: String,
    /// Milliseconds since the epoch.
    pub start: i64,
    pub end: i64,
    /// Milliseconds, above 0.
    pub step: i64,
    pub lookback: Option<Duration>,
    pub limits: QueryLimits,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The query does not parse.
    #[error("{0}")]
    Parse(ParseError),
    /// It parses but cannot be asked so.
    #[error("{0}")]
    BadData(String),
    /// It cannot be evaluated on this data.
    #[error("{0}")]
    Execution(String),
    #[error("query timed out in {0}")]
    Timeout(&'static str),
    #[error("query was canceled in {0}")]
    Canceled(&'static str),
    #[error("query processing would load too many samples into memory in query execution")]
    TooManySamples,
    #[error("query would hold more than {0} bytes in memory")]
    TooManyBytes(usize),
    /// A limit of the query's meter, in its words.
    #[error("{0}")]
    Limit(#[source] StorageError),
    /// The store failed.
    #[error("expanding series: {0}")]
    Storage(#[source] StorageError),
}

/// What a caller may decide on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineErrorKind {
    BadData,
    Execution,
    Timeout,
    Canceled,
    /// Trying again may help.
    Unavailable,
    Internal,
}

impl EngineError {
    /// The kind, as the API's `errorType` names it.
    pub fn kind(&self) -> EngineErrorKind {
        match self {
            EngineError::Parse(_) | EngineError::BadData(_) => EngineErrorKind::BadData,
            EngineError::Execution(_)
            | EngineError::TooManySamples
            | EngineError::TooManyBytes(_)
            | EngineError::Limit(_) => EngineErrorKind::Execution,
            EngineError::Timeout(_) => EngineErrorKind::Timeout,
            EngineError::Canceled(_) => EngineErrorKind::Canceled,
            EngineError::Storage(e) => match e.kind {
                narthex_storage::ErrorKind::Unavailable => EngineErrorKind::Unavailable,
                narthex_storage::ErrorKind::Limit | narthex_storage::ErrorKind::BadRequest => {
                    EngineErrorKind::Execution
                }
                _ => EngineErrorKind::Internal,
            },
        }
    }

    fn expanding(e: StorageError) -> EngineError {
        match e.kind {
            narthex_storage::ErrorKind::Cancelled => EngineError::Canceled("query execution"),
            narthex_storage::ErrorKind::Timeout => EngineError::Timeout("query execution"),
            narthex_storage::ErrorKind::Limit => EngineError::Limit(e),
            _ => EngineError::Storage(e),
        }
    }

    fn duplicate_labels() -> EngineError {
        EngineError::Execution("vector cannot contain metrics with the same labelset".into())
    }
}

/// Samples that a query touched, as Prometheus counts them.
#[derive(Clone, Debug, Default)]
pub struct SampleStats {
    /// Samples looked at; of a range all at each step (`totalQueryableSamples`).
    pub total: u64,
    /// The same by step, if asked for: `(time, samples)`.
    pub total_per_step: Vec<(i64, u64)>,
    /// Samples read, each once per selector (`samplesRead`).
    pub read: u64,
    pub read_per_step: Vec<(i64, u64)>,
    /// The most samples in memory at once (`peakSamples`).
    pub peak: usize,
}

/// Wall time of a query's phases.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    pub eval_total: Duration,
    pub result_sort: Duration,
    pub query_preparation: Duration,
    pub inner_eval: Duration,
    /// To be filled in by whoever lets queries wait.
    pub exec_queue: Duration,
    pub exec_total: Duration,
}

/// What `stats=all` shows.
#[derive(Clone, Debug, Default)]
pub struct QueryStats {
    pub timings: Timings,
    pub samples: SampleStats,
}

/// A value and what is to be said of it.
#[derive(Clone, Debug)]
pub struct QueryResult {
    pub value: Value,
    /// Texts with positions come from [`Annotations::warnings`] and [`Annotations::infos`], given the query's text.
    pub annotations: Annotations,
    pub stats: QueryStats,
}

/// Evaluates queries. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    options: EngineOptions,
}

/// A query whose data is selected: what is left is computing.
pub struct Prepared {
    plan: plan::Plan,
    depth: usize,
    query: query::Query,
    grid: windows::Grid,
    instant: bool,
    began: Instant,
    preparation: Duration,
}

impl Engine {
    pub fn new(options: EngineOptions) -> Engine {
        Engine { options }
    }

    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// Evaluates at one time: selects and computes in place.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn instant(
        &self,
        queryable: Arc<dyn Queryable>,
        query: InstantQuery,
    ) -> Result<QueryResult, EngineError> {
        self.prepare_instant(queryable, query).await?.evaluate()
    }

    /// Evaluates over steps: selects and computes in place.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn range(&self, queryable: Arc<dyn Queryable>, query: RangeQuery) -> Result<QueryResult, EngineError> {
        self.prepare_range(queryable, query).await?.evaluate()
    }

    /// Parses, plans and selects an instant query.
    ///
    /// # Errors
    /// `Parse` and `BadData` before anything is selected; `Storage`, `Timeout` and `Canceled`.
    pub async fn prepare_instant(
        &self,
        queryable: Arc<dyn Queryable>,
        query: InstantQuery,
    ) -> Result<Prepared, EngineError> {
        let expr = self.parse(&query.expr)?;
        let asked = Asked { text: query.expr, times: (query.time, query.time, 0), lookback: query.lookback };
        self.prepare(queryable, &expr, asked, query.limits).await
    }

    /// Parses, plans and selects a range query.
    ///
    /// # Errors
    /// As [`Engine::prepare_instant`].
    pub async fn prepare_range(
        &self,
        queryable: Arc<dyn Queryable>,
        query: RangeQuery,
    ) -> Result<Prepared, EngineError> {
        let expr = self.parse(&query.expr)?;
        let value_type = expr.value_type();
        if !matches!(value_type, ValueType::Vector | ValueType::Scalar) {
            let name = value_type.documented();
            return Err(EngineError::BadData(format!(
                "invalid expression type \"{name}\" for range query, must be Scalar or instant Vector"
            )));
        }
        if query.step <= 0 {
            return Err(EngineError::BadData(
                "zero or negative query resolution step widths are not accepted. Try a positive integer".into(),
            ));
        }
        let times = (query.start, query.end, query.step);
        let asked = Asked { text: query.expr, times, lookback: query.lookback };
        self.prepare(queryable, &expr, asked, query.limits).await
    }

    fn parse(&self, text: &str) -> Result<Expr, EngineError> {
        let parse = || crate::parser::parse(text, &self.options.parser).map_err(EngineError::Parse);
        let expr = with_stack(crate::deep::bound(text), parse)?;
        if self.options.at_modifier && self.options.negative_offset {
            return Ok(expr);
        }
        let (mut uses_at, mut uses_negative) = (false, false);
        let mut note = |at: Option<At>, nanos: i64| {
            uses_at |= at.is_some();
            uses_negative |= nanos < 0;
        };
        expr.walk(&mut |e, _| match e {
            Expr::Vector(v) => note(v.at, v.offset.nanos),
            Expr::Matrix(m) => note(m.selector.at, m.selector.offset.nanos),
            Expr::Subquery(s) => note(s.at, s.offset.nanos),
            _ => {}
        });
        if uses_at && !self.options.at_modifier {
            return Err(EngineError::BadData("@ modifier is disabled".into()));
        }
        if uses_negative && !self.options.negative_offset {
            return Err(EngineError::BadData("negative offset is disabled".into()));
        }
        Ok(expr)
    }

    /// Plans and selects a parsed expression.
    async fn prepare(
        &self,
        queryable: Arc<dyn Queryable>,
        expr: &Expr,
        asked: Asked,
        limits: QueryLimits,
    ) -> Result<Prepared, EngineError> {
        let began = Instant::now();
        let Asked { text, times: (start, end, step), lookback } = asked;
        let millis = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX / 4);
        let lookback = millis(lookback.filter(|l| !l.is_zero()).unwrap_or(self.options.lookback));
        let default_subquery_step = millis(self.options.default_subquery_step).max(1);
        let type_and_unit_labels = self.options.type_and_unit_labels;
        let cx = plan::Context { start, end, step, lookback, default_subquery_step, type_and_unit_labels };
        let depth = depth(expr);
        let planning = limits.steps.step(|| "plan".into());
        let mut plan = with_stack(depth, || plan::plan(expr, &text, cx).map_err(EngineError::BadData))?;
        planning.add("selectors", plan.selects.iter().filter(|s| !s.unused).count() as u64);
        planning.end();
        let canceled = || limits.cancel.as_ref().is_some_and(|c| c.load(Ordering::Relaxed));
        let timeout = limits.timeout.unwrap_or(self.options.timeout).min(self.options.timeout);
        if timeout.is_zero() {
            return Err(EngineError::Timeout("query execution"));
        }
        if canceled() {
            return Err(EngineError::Canceled("query execution"));
        }
        info_select::narrow(&*queryable, &mut plan, &limits.meter).await?;
        let mut steps = Vec::new();
        let requests = plan.selects.iter().map(|s| {
            let mut request =
                SelectRequest { matchers: s.matchers.clone(), mint: s.mint, maxt: s.maxt, hints: s.hints.clone() };
            request.hints.meter = limits.meter.clone();
            let above = if s.unused { &Trace::default() } else { &limits.steps };
            let step = above.step(|| {
                let matchers = s.matchers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
                format!("select {{{}}} from {} to {}", query::cut(&matchers), s.mint, s.maxt)
            });
            request.hints.trace = step.clone();
            steps.push(step.clone());
            // A lookback below a millisecond leaves no time at all.
            let answer = (!s.unused && s.mint <= s.maxt).then(|| queryable.select(request));
            async move {
                Ok::<_, EngineError>(match answer {
                    Some(answer) => {
                        let set = answer.await.map_err(EngineError::expanding);
                        step.end();
                        Some(set?)
                    }
                    None => None,
                })
            }
        });
        let requests: Vec<_> = requests.collect();
        let selected: Vec<Option<SeriesSet>> = futures::future::try_join_all(requests).await?;
        let mut query = query::Query::new(self.options.clone(), lookback, selected);
        query.max_samples = limits.max_samples.unwrap_or(query.max_samples);
        query.max_bytes = limits.max_bytes.unwrap_or(query.max_bytes);
        query.deadline = began.checked_add(timeout);
        query.held = RefCell::new(limits.meter.hold_nothing());
        query.cancel = limits.cancel;
        query.shares = std::mem::take(&mut plan.shares);
        query.text = (limits.trace || limits.steps.is_on()).then_some(text);
        query.traced = limits.trace;
        query.steps = RefCell::new(limits.steps);
        query.selecting = steps;
        let instant = step == 0;
        let grid = if instant { windows::Grid::new(start, start, 1) } else { windows::Grid::new(start, end, step) };
        if limits.per_step_stats && self.options.per_step_stats {
            let mut stats = query.stats.borrow_mut();
            let zeros: Vec<(i64, u64)> = (0..grid.steps).map(|i| (grid.time(i), 0)).collect();
            stats.read_per_step.clone_from(&zeros);
            stats.total_per_step = zeros;
        }
        Ok(Prepared { plan, depth, query, grid, instant, began, preparation: began.elapsed() })
    }
}

/// A query besides its limits.
struct Asked {
    text: String,
    /// Start, end and step in milliseconds, the step 0 for an instant query.
    times: (i64, i64, i64),
    lookback: Option<Duration>,
}

/// Whether a function's result depends on the time of the evaluation even when its arguments do not.
pub(crate) fn depends_on_time(function: &str) -> bool {
    plan::AT_UNSAFE.contains(&function)
}

/// The longest path through an expression, in nodes.
fn depth(expr: &Expr) -> usize {
    let (mut open, mut deepest) = (vec![(expr, 1)], 0);
    while let Some((e, depth)) = open.pop() {
        deepest = deepest.max(depth);
        e.for_each_child(|child| open.push((child, depth + 1)));
    }
    deepest
}

/// Runs what recurses over an expression: in place for all but the deepest, which get a stack that suffices for the
/// parser's bound.
fn with_stack<T: Send>(depth: usize, work: impl FnOnce() -> Result<T, EngineError> + Send) -> Result<T, EngineError> {
    crate::deep::run(depth, work)
        .unwrap_or_else(|e| Err(EngineError::Execution(format!("no thread for a deep query: {e}"))))
}

impl Prepared {
    /// Computes the result. Blocks for as long as that takes: call it on a thread that may.
    ///
    /// # Errors
    /// `Execution`, `TooManySamples`, `TooManyBytes`, `Timeout`, `Canceled`, and `Storage` where data turns out bad
    /// only while it is decoded.
    pub fn evaluate(self) -> Result<QueryResult, EngineError> {
        let span = self.query.traced.then(tracing::Span::current);
        with_stack(self.depth, || {
            // A thread of its own does not know where it stands.
            let _entered = span.as_ref().map(tracing::Span::enter);
            self.run()
        })
    }

    fn run(self) -> Result<QueryResult, EngineError> {
        let eval_began = Instant::now();
        let evaluator = eval::Evaluator { q: &self.query };
        let steps = self.query.steps.borrow().clone();
        let evaluating = steps.step(|| "evaluate".into());
        self.query.steps.replace(evaluating.clone());
        let out = evaluator.eval(&self.plan.root, self.grid)?;
        let inner_eval = eval_began.elapsed();
        evaluating.end();
        let sorting = steps.step(|| "put the result together".into());
        let sort_began = Instant::now();
        let value = evaluator.value(&self.plan.root, out, self.grid, self.instant, self.plan.value_type)?;
        sorting.end();
        let mut stats = QueryStats { samples: self.query.stats.take(), ..QueryStats::default() };
        stats.timings = Timings {
            eval_total: eval_began.elapsed() + self.preparation,
            result_sort: sort_began.elapsed(),
            query_preparation: self.preparation,
            inner_eval,
            exec_queue: Duration::ZERO,
            exec_total: self.began.elapsed(),
        };
        Ok(QueryResult { value, annotations: self.query.annotations.take(), stats })
    }
}
