//! Runs queries: waits for a slot, lets the engine select and evaluate, keeps count and time. All on the CPU pool's
//! threads, that is: evaluation does not let others run.
//!
//! A client that leaves stops the evaluation.

mod together;

use std::sync::Arc;
use std::time::{Duration, Instant};

use narthex_promql::Value;
use narthex_promql::engine::{
    Engine, EngineError, EngineErrorKind, EngineOptions, InstantQuery, QueryLimits, QueryResult, QueryStats, RangeQuery,
};
use narthex_promql::value::{MatrixSeries, Point, Sample};
use narthex_runtime::Registry;
use narthex_runtime::metrics::{Counter, Gauge, Histogram, Labelled, Summary};
use narthex_storage::HeldBytes;
use tokio::sync::oneshot;
use tracing::{Instrument, info_span, warn};

use self::together::{Question, Role, Together};
use crate::answer::{ApiError, ErrorType};
use crate::api::Req;
use crate::class::{Asking, Slot};
use crate::json;
use crate::params::Time;
use crate::query_log::{Logged, QueryLog};
use crate::quick::PATIENCE;
use crate::state::{App, Options};
use crate::top::Ran;

/// When a query is to be evaluated.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub start: Time,
    pub end: Time,
    /// Nanoseconds; 0 for an instant query.
    pub step: i64,
    /// Nanoseconds.
    pub timeout: Option<i64>,
    /// Nanoseconds; 0 for the engine's.
    pub lookback: i64,
}

/// A value and what goes with it.
pub struct Outcome {
    pub of: Arc<Evaluated>,
    /// JSON.
    pub stats: Vec<u8>,
}

/// What comes out of an evaluation, for one or for several who asked.
pub struct Evaluated {
    pub value: Value,
    pub warnings: Vec<String>,
    pub infos: Vec<String>,
    stats: QueryStats,
    /// What the value takes of the query's memory.
    _held: HeldBytes,
}

/// Most warnings, and most infos, of an answer.
const MAX_ANNOTATIONS: usize = 10;

/// The engine with its metrics.
pub struct QueryEngine {
    pub engine: Engine,
    queries: Gauge,
    duration: Labelled<Summary>,
    duration_histogram: Labelled<Histogram>,
    samples: Counter,
    samples_read: Counter,
    slow: Counter,
    shared: Counter,
    together: Together<Evaluated>,
    pub log: QueryLog,
}

impl QueryEngine {
    pub fn new(options: &Options, r: &Registry) -> QueryEngine {
        let engine = Engine::new(EngineOptions {
            parser: options.parser,
            lookback: options.lookback_delta,
            max_samples: options.query.all.max_samples,
            timeout: options.query.all.timeout,
            per_step_stats: options.per_step_stats,
            delayed_name_removal: options.delayed_name_removal,
            type_and_unit_labels: options.type_and_unit_labels,
            start_timestamps: options.start_timestamps,
            ..EngineOptions::default()
        });
        let concurrent = r.gauge("prometheus_engine_queries_concurrent_max", "The max number of concurrent queries.");
        concurrent.set(options.query.all.max_concurrency as f64);
        let metrics = QueryEngine {
            engine,
            log: QueryLog::new(r),
            queries: r.gauge("prometheus_engine_queries", "The current number of queries being executed or waiting."),
            duration: r.summaries(
                "prometheus_engine_query_duration_seconds",
                "Query timings",
                &["slice"],
                &[0.5, 0.9, 0.99],
            ),
            duration_histogram: r.histograms(
                "prometheus_engine_query_duration_histogram_seconds",
                "The duration of various parts of PromQL query execution.",
                &["slice"],
                &[0.01, 0.1, 1.0, 10.0],
            ),
            samples: r.counter(
                "prometheus_engine_query_samples_total",
                "The total number of samples loaded by all queries (full window per step for range-vector).",
            ),
            samples_read: r.counter(
                "prometheus_engine_query_samples_read_total",
                "The total number of samples read by all queries (only new points per step for range-vector).",
            ),
            shared: r.counter(
                "narthex_engine_shared_queries_total",
                "Queries that got the result of another one that waited for a slot and asked for the same.",
            ),
            together: Together::default(),
            slow: r.counter(
                "narthex_engine_slow_queries_total",
                "Queries that took longer than the slow query threshold.",
            ),
        };
        for slice in ["inner_eval", "prepare_time", "queue_time", "result_sort"] {
            metrics.duration.with(&[slice]);
            metrics.duration_histogram.with(&[slice]);
        }
        metrics
    }
}

fn failed(app: &App, asking: &Asking, asked: Asked, error: &EngineError) -> ApiError {
    let mut answer = plain_failure(error);
    let class = asking.class;
    let hint = match error {
        EngineError::TooManySamples => {
            app.classes.limited(class, "samples");
            asking.samples_hint()
        }
        EngineError::TooManyBytes(_) | EngineError::Limit(_) => {
            app.classes.limited(class, "memory");
            return answer;
        }
        // Who asked for less time has been told no more than that.
        EngineError::Timeout(_) if asked.timeout.is_none_or(|t| duration(t) >= asking.timeout) => {
            app.classes.limited(class, "timeout");
            asking.timeout_hint()
        }
        _ => return answer,
    };
    answer.message = format!("{} ({hint})", answer.message);
    answer
}

fn plain_failure(error: &EngineError) -> ApiError {
    let kind = match error.kind() {
        EngineErrorKind::BadData => return ApiError::parameter("query", error),
        EngineErrorKind::Execution => ErrorType::Execution,
        EngineErrorKind::Timeout => ErrorType::Timeout,
        EngineErrorKind::Canceled => ErrorType::Canceled,
        EngineErrorKind::Unavailable | EngineErrorKind::Internal => ErrorType::Internal,
    };
    ApiError::new(kind, error.to_string())
}

fn duration(nanos: i64) -> Duration {
    Duration::from_nanos(nanos.max(0) as u64)
}

/// Evaluates `query` of a request.
///
/// # Errors
/// As the API answers them.
pub async fn run(app: &Arc<App>, req: &Req, asked: Asked) -> Result<Outcome, ApiError> {
    let text = req.get("query").to_owned();
    // Faults of the query are told at once, however many others wait.
    let parsing = req.trace.step(|| "parse".into());
    crate::api::expression(app, &text).map_err(|e| ApiError::parameter("query", e))?;
    parsing.end();
    let began = Instant::now();
    let _counted = app.engine.queries.hold();
    let asking = req.asking(app)?;
    let failed = |e: &EngineError| failed(app, &asking, asked, e);
    let entry = app.active.enter(&text, (&req.client, &req.path), asking.class, req.gone.clone());
    let timeout = asked.timeout.map_or(asking.timeout, |t| duration(t).min(asking.timeout));
    let ran = |took: Duration, samples: u64, error: Option<&str>| {
        let seconds = asked.end.ms().saturating_sub(asked.start.ms()) / 1000;
        app.top.add(&Ran {
            query: &text,
            range: u64::try_from(seconds).unwrap_or(0),
            class: asking.class,
            client: &req.client,
            took,
            samples,
            bytes: asking.meter.peak_bytes(),
            error,
        });
    };
    let waiting = req.trace.step(|| format!("wait for a slot of the class {}", asking.class.as_str()));
    let turn = tokio::time::timeout(timeout, turn(app, req, asked, &asking)).await;
    waiting.end();
    let (slot, followers) = match turn {
        Ok(Turn::Own(slot, followers)) => (slot, followers),
        Ok(Turn::Shared(of)) => {
            let mut stats = of.stats.clone();
            stats.timings.exec_queue = began.elapsed();
            stats.timings.exec_total = began.elapsed();
            app.engine.shared.inc();
            ran(Duration::ZERO, 0, None);
            log(app, req, asked, None, &stats);
            return Ok(Outcome { stats: stats_json(&stats), of });
        }
        Err(_) => {
            let error = failed(&EngineError::Timeout("query queue"));
            ran(Duration::ZERO, 0, Some(&error.message));
            return Err(error);
        }
    };
    entry.runs();
    let queued = began.elapsed();
    let limits = QueryLimits {
        max_samples: Some(asking.max_samples),
        max_bytes: Some(if asking.max_bytes == 0 { usize::MAX } else { asking.max_bytes }),
        meter: asking.meter.clone(),
        cancel: Some(entry.cancelled.clone()),
        per_step_stats: req.get("stats") == "all",
        steps: req.trace.clone(),
        trace: narthex_runtime::trace::current().is_some(),
        ..QueryLimits::default()
    };
    let left = timeout.saturating_sub(queued);
    let at_once = narthex_runtime::pool::is_begun_here() && left > PATIENCE;
    let within = if at_once { PATIENCE } else { left };
    let mut result = evaluate(app, &text, asked, QueryLimits { timeout: Some(within), ..limits.clone() }).await;
    if at_once && matches!(result, Err(EngineError::Timeout(_))) {
        narthex_runtime::pool::make_way().await;
        asking.meter.begin_anew();
        req.trace.step(|| "begin anew on the threads for queries".into()).end();
        let left = timeout.saturating_sub(began.elapsed());
        result = evaluate(app, &text, asked, QueryLimits { timeout: Some(left), ..limits }).await;
    }
    let mut result = result.map_err(|e| failed(&e));
    drop(slot);
    let took = began.elapsed();
    app.classes.done(asking.class, took.saturating_sub(queued));
    let samples = result.as_ref().map_or(0, |r| r.stats.samples.total);
    ran(took.saturating_sub(queued), samples, result.as_ref().err().map(|e| e.message.as_str()));
    if !app.options.slow_query.is_zero() && took >= app.options.slow_query {
        app.engine.slow.inc();
        warn!(
            query = text,
            client = req.client,
            path = req.path,
            seconds = took.as_secs_f64(),
            queue_seconds = queued.as_secs_f64(),
            samples,
            start_ms = asked.start.ms(),
            end_ms = asked.end.ms(),
            step_ms = asked.step / 1_000_000,
            err = result.as_ref().err().map(tracing::field::display),
            "slow query"
        );
    }
    if let Ok(result) = &mut result {
        result.stats.timings.exec_queue = queued;
        result.stats.timings.exec_total = took;
    }
    let unknown = QueryStats::default();
    let error = result.as_ref().err().map(|e| e.message.as_str());
    log(app, req, asked, error, result.as_ref().map_or(&unknown, |r| &r.stats));
    let result = result?;
    observe(app, &result);
    let held = asking.meter.hold(value_bytes(&result.value));
    let held = held.map_err(|e| failed(&EngineError::Limit(e)))?;
    let of = Arc::new(Evaluated {
        _held: held,
        warnings: result.annotations.warnings(&text, MAX_ANNOTATIONS),
        infos: result.annotations.infos(&text, MAX_ANNOTATIONS),
        stats: result.stats,
        value: result.value,
    });
    for follower in followers {
        // It may have left.
        let _ = follower.send(of.clone());
    }
    Ok(Outcome { stats: stats_json(&of.stats), of })
}

/// What the wait for a slot ends with.
enum Turn {
    /// A slot, and those who want the result, too.
    Own(Slot, Vec<oneshot::Sender<Arc<Evaluated>>>),
    Shared(Arc<Evaluated>),
}

/// Waits for a slot, or for the result of who waits for the same.
async fn turn(app: &App, req: &Req, asked: Asked, asking: &Asking) -> Turn {
    if let Some(slot) = app.classes.try_slot(asking.class) {
        return Turn::Own(slot, Vec::new());
    }
    // Whoever wants to see how it is evaluated has it evaluated.
    let traced = req.trace.is_on() || narthex_runtime::trace::current().is_some();
    if traced || app.options.query.each_alone || crate::params::parse_bool(req.get("nocache")).unwrap_or(false) {
        return Turn::Own(app.classes.slot(asking.class).await, Vec::new());
    }
    let question = Question {
        query: req.get("query").to_owned(),
        times: (asked.start.engine_ms(), asked.end.engine_ms(), asked.step),
        lookback: asked.lookback,
        per_step_stats: req.get("stats") == "all",
        class: asking.class,
    };
    loop {
        match app.engine.together.wait(question.clone()) {
            Role::Leads(mut lead) => {
                let slot = app.classes.slot(asking.class).await;
                return Turn::Own(slot, lead.begin());
            }
            Role::Follows(result) => {
                if let Ok(of) = result.await {
                    return Turn::Shared(of);
                }
            }
        }
    }
}

/// Puts a query into the log of queries, if there is one.
fn log(app: &App, req: &Req, asked: Asked, error: Option<&str>, stats: &QueryStats) {
    if app.engine.log.is_enabled() {
        app.engine.log.log(&Logged {
            query: req.get("query"),
            start: asked.start.ms(),
            end: asked.end.ms(),
            step: asked.step / 1_000_000,
            error,
            stats,
            trace: narthex_runtime::trace::current().as_ref(),
            client: &req.client,
            method: req.method.as_str(),
            path: &req.path,
        });
    }
}

/// Bytes that a result takes, about.
fn value_bytes(value: &Value) -> usize {
    let histogram = |h: &narthex_model::Histogram| 8 * h.weight() + 64;
    match value {
        Value::Vector(all) => {
            let one = |s: &Sample| match &s.point {
                Point::Float(_) => s.labels.heap_bytes() + size_of::<Sample>(),
                Point::Histogram(h) => s.labels.heap_bytes() + size_of::<Sample>() + histogram(h),
            };
            all.iter().map(one).sum()
        }
        Value::Matrix(all) => {
            let one = |s: &MatrixSeries| {
                let histograms: usize = s.histograms.iter().map(|(_, h)| 16 + histogram(h)).sum();
                s.labels.heap_bytes() + size_of::<MatrixSeries>() + 16 * s.floats.len() + histograms
            };
            all.iter().map(one).sum()
        }
        Value::Scalar { .. } | Value::String { .. } => 0,
    }
}

/// Selects and evaluates.
async fn evaluate(app: &Arc<App>, expr: &str, asked: Asked, limits: QueryLimits) -> Result<QueryResult, EngineError> {
    let (timeout, expr) = (limits.timeout.unwrap_or(app.options.query.all.timeout), expr.to_owned());
    let lookback = (asked.lookback > 0).then(|| duration(asked.lookback));
    let span = info_span!("select", query = expr);
    let (engine, storage) = (&app.engine.engine, app.storage.clone());
    let preparing = async {
        if asked.step == 0 {
            let query = InstantQuery { expr, time: asked.start.engine_ms(), lookback, limits };
            return engine.prepare_instant(storage, query).await;
        }
        // A step below a millisecond is one of a millisecond: the store knows nothing finer.
        let step = (asked.step / 1_000_000).max(1);
        let (start, end) = (asked.start.engine_ms(), asked.end.engine_ms());
        let query = RangeQuery { expr, start, end, step, lookback, limits };
        engine.prepare_range(storage, query).await
    };
    let prepared = tokio::time::timeout(timeout, preparing.instrument(span)).await;
    let prepared = prepared.map_err(|_| EngineError::Timeout("query execution"))??;
    info_span!("evaluate").in_scope(|| prepared.evaluate())
}

fn observe(app: &App, result: &QueryResult) {
    let t = &result.stats.timings;
    for (slice, took) in [
        ("inner_eval", t.inner_eval),
        ("prepare_time", t.query_preparation),
        ("queue_time", t.exec_queue),
        ("result_sort", t.result_sort),
    ] {
        app.engine.duration.with(&[slice]).observe(took.as_secs_f64());
        app.engine.duration_histogram.with(&[slice]).observe(took.as_secs_f64());
    }
    app.engine.samples.add(result.stats.samples.total as f64);
    app.engine.samples_read.add(result.stats.samples.read as f64);
}

/// `stats` as Prometheus writes it.
pub(crate) fn stats_json(stats: &QueryStats) -> Vec<u8> {
    let mut out = b"{\"timings\":{".to_vec();
    let t = &stats.timings;
    for (i, (name, took)) in [
        ("evalTotalTime", t.eval_total),
        ("resultSortTime", t.result_sort),
        ("queryPreparationTime", t.query_preparation),
        ("innerEvalTime", t.inner_eval),
        ("execQueueTime", t.exec_queue),
        ("execTotalTime", t.exec_total),
    ]
    .into_iter()
    .enumerate()
    {
        if i > 0 {
            out.push(b',');
        }
        json::string(&mut out, name);
        out.push(b':');
        json::float(&mut out, took.as_secs_f64());
    }
    out.extend_from_slice(b"},\"samples\":{");
    let per_step = |out: &mut Vec<u8>, name: &str, steps: &[(i64, u64)]| {
        if steps.is_empty() {
            return;
        }
        json::string(out, name);
        out.extend_from_slice(b":[");
        for (i, (t, n)) in steps.iter().enumerate() {
            out.extend_from_slice(if i > 0 { b",[" } else { b"[" });
            json::timestamp(out, *t);
            out.push(b',');
            json::integer(out, *n as i64);
            out.push(b']');
        }
        out.extend_from_slice(b"],");
    };
    let s = &stats.samples;
    per_step(&mut out, "totalQueryableSamplesPerStep", &s.total_per_step);
    per_step(&mut out, "samplesReadPerStep", &s.read_per_step);
    for (i, (name, n)) in [("totalQueryableSamples", s.total), ("samplesRead", s.read), ("peakSamples", s.peak as u64)]
        .into_iter()
        .enumerate()
    {
        if i > 0 {
            out.push(b',');
        }
        json::string(&mut out, name);
        out.push(b':');
        json::integer(&mut out, n as i64);
    }
    out.extend_from_slice(b"}}");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_are_json_with_and_without_steps() {
        let mut stats = QueryStats::default();
        let plain: serde_json::Value = serde_json::from_slice(&stats_json(&stats)).unwrap();
        assert_eq!(plain["samples"]["peakSamples"], 0);
        stats.samples.total_per_step = vec![(1_500, 2), (3_000, 4)];
        let stepped: serde_json::Value = serde_json::from_slice(&stats_json(&stats)).unwrap();
        assert_eq!(stepped["samples"]["totalQueryableSamplesPerStep"][0][0], 1.5);
    }
}
