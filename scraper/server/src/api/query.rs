//! `/query`, `/query_range`, `/query_exemplars`, `/format_query`, `/parse_query`.

use std::sync::Arc;

use narthex_promql::value::{MatrixSeries, Point, Sample, Value};
use narthex_storage::LabelQuery;

use super::{Req, TRUNCATED, expression, parsed, refused};
use crate::answer::{Answer, ApiError, ApiResult, Fill, PIECE};
use crate::engine::{Asked, Evaluated, Outcome};
use crate::json;
use crate::params::{self, MAX_TIME, MIN_TIME, Time};
use crate::state::App;

/// Most steps of a range query: a week by the minute, a year by the hour.
const MAX_POINTS: i64 = 11_000;

fn duration(req: &Req, name: &str) -> Result<Option<i64>, ApiError> {
    match req.get(name) {
        "" => Ok(None),
        text => params::parse_duration(text).map(Some).map_err(|e| ApiError::parameter(name, e)),
    }
}

fn lookback(req: &Req) -> Result<i64, ApiError> {
    match req.get("lookback_delta") {
        "" => Ok(0),
        text => params::parse_duration(text)
            .map_err(|e| ApiError::bad_data(format!("error parsing lookback delta duration: {e}"))),
    }
}

/// The beginning of a query's text.
fn shown(query: &str) -> String {
    query.chars().take(500).collect()
}

pub async fn instant(app: Arc<App>, mut req: Req) -> ApiResult {
    req.begin_trace(|r| format!("time={}, query={}", r.get("time"), shown(r.get("query"))));
    let limit = req.limit()?;
    let now = Time::now();
    let time = req.time("time", now)?;
    let timeout = duration(&req, "timeout")?;
    let lookback = lookback(&req)?;
    let asked = Asked { start: time, end: time, step: 0, timeout, lookback };
    let outcome = crate::engine::run(&app, &req, asked).await?;
    Ok(answer(&req, outcome, limit))
}

pub async fn range(app: Arc<App>, mut req: Req) -> ApiResult {
    req.begin_trace(|r| {
        let (start, end, step) = (r.get("start"), r.get("end"), r.get("step"));
        format!("start={start}, end={end}, step={step}, query={}", shown(r.get("query")))
    });
    let limit = req.limit()?;
    let time = |name: &str| params::parse_time(req.get(name)).map_err(|e| ApiError::parameter(name, e));
    let (start, end) = (time("start")?, time("end")?);
    if end < start {
        return Err(ApiError::parameter("end", "end timestamp must not be before start time"));
    }
    let step = params::parse_duration(req.get("step")).map_err(|e| ApiError::parameter("step", e))?;
    if step <= 0 {
        let text = "zero or negative query resolution step widths are not accepted. Try a positive integer";
        return Err(ApiError::parameter("step", text));
    }
    if end.since(start) / step > MAX_POINTS {
        return Err(ApiError::bad_data(
            "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)",
        ));
    }
    let timeout = duration(&req, "timeout")?;
    let lookback = lookback(&req)?;
    let outcome = crate::engine::run(&app, &req, Asked { start, end, step, timeout, lookback }).await?;
    Ok(answer(&req, outcome, limit))
}

fn answer(req: &Req, outcome: Outcome, limit: usize) -> Answer {
    let mut warnings = outcome.of.warnings.clone();
    let infos = outcome.of.infos.clone();
    let most = if limit == 0 { usize::MAX } else { limit };
    let truncated = match &outcome.of.value {
        Value::Vector(v) => v.len() > most,
        Value::Matrix(m) => m.len() > most,
        _ => false,
    };
    if truncated {
        warnings.push(TRUNCATED.into());
    }
    let stats = match req.get("stats") {
        "" => None,
        "true" | "all" => Some(outcome.stats),
        other => {
            warnings.push(format!(
                "value {other:?} for parameter \"stats\" is deprecated and will be rejected in the next major release, use \"true\" or \"all\""
            ));
            Some(outcome.stats)
        }
    };
    let data = QueryData::new(outcome.of, most, stats);
    Answer::stream(data).with_warnings(warnings).with_infos(infos).with_trace(req.trace.clone())
}

/// Writes `{"resultType":…,"result":…,"stats":…}`.
struct QueryData<T> {
    of: T,
    /// The sample or series that comes next, and how far that series is written.
    next: usize,
    open: Option<Open>,
    /// Samples or series that are written at most.
    most: usize,
    begun: bool,
    stats: Option<Vec<u8>>,
    labels: json::LabelWriter,
    points: json::Points,
}

/// Where the value is kept that several may be writing.
trait HasValue: Send {
    fn value(&self) -> &Value;
}

impl HasValue for Arc<Evaluated> {
    fn value(&self) -> &Value {
        &self.value
    }
}

/// How far a series is written.
#[derive(Default)]
struct Open {
    float: usize,
    histogram: usize,
}

impl<T: HasValue> QueryData<T> {
    fn new(of: T, most: usize, stats: Option<Vec<u8>>) -> QueryData<T> {
        let (labels, points) = Default::default();
        QueryData { of, next: 0, open: None, most, begun: false, stats, labels, points }
    }
}

fn sample(labels: &mut json::LabelWriter, points: &mut json::Points, out: &mut Vec<u8>, s: &Sample) {
    out.extend_from_slice(b"{\"metric\":");
    labels.write(out, &s.labels);
    match &s.point {
        Point::Float(v) => {
            out.extend_from_slice(b",\"value\"");
            points.write(out, b':', s.timestamp, *v);
        }
        Point::Histogram(h) => {
            out.extend_from_slice(b",\"histogram\":[");
            json::timestamp(out, s.timestamp);
            out.push(b',');
            json::histogram(out, h);
            out.push(b']');
        }
    }
    out.push(b'}');
}

impl Open {
    /// Writes on; true when the series is closed.
    fn write(
        &mut self,
        series: &MatrixSeries,
        labels: &mut json::LabelWriter,
        points: &mut json::Points,
        out: &mut Vec<u8>,
        end: usize,
    ) -> bool {
        let Open { float, histogram } = self;
        if *float == 0 && *histogram == 0 {
            out.extend_from_slice(b"{\"metric\":");
            labels.write(out, &series.labels);
        }
        if *float == 0 && !series.floats.is_empty() {
            out.extend_from_slice(b",\"values\":");
        }
        while let Some((t, v)) = series.floats.get(*float) {
            if out.len() >= end && *float > 0 {
                return false;
            }
            points.write(out, if *float == 0 { b'[' } else { b',' }, *t, *v);
            *float += 1;
            if *float == series.floats.len() {
                out.push(b']');
            }
        }
        while let Some((t, h)) = series.histograms.get(*histogram) {
            if out.len() >= end && *histogram > 0 {
                return false;
            }
            out.extend_from_slice(if *histogram == 0 { b",\"histograms\":[[" } else { b",[" });
            json::timestamp(out, *t);
            out.push(b',');
            json::histogram(out, h);
            out.push(b']');
            *histogram += 1;
            if *histogram == series.histograms.len() {
                out.push(b']');
            }
        }
        out.push(b'}');
        true
    }
}

impl<T: HasValue> Fill for QueryData<T> {
    fn fill(&mut self, out: &mut Vec<u8>) -> bool {
        let end = out.len() + PIECE;
        let QueryData { of, next, open, most, begun, stats, labels, points } = self;
        let value = of.value();
        let is_list = matches!(value, Value::Vector(_) | Value::Matrix(_));
        if !std::mem::replace(begun, true) {
            out.extend_from_slice(b"{\"resultType\":");
            json::string(out, value.type_name());
            out.extend_from_slice(b",\"result\":");
            if is_list {
                out.push(b'[');
            }
        }
        match value {
            Value::Scalar { timestamp, value } => {
                out.push(b'[');
                json::timestamp(out, *timestamp);
                // Scalars are never written with an exponent, other than samples.
                let value = narthex_model::number::format_value(*value);
                out.extend_from_slice(format!(",\"{value}\"]").as_bytes());
            }
            Value::String { timestamp, value } => {
                out.push(b'[');
                json::timestamp(out, *timestamp);
                out.push(b',');
                json::html_string(out, value);
                out.push(b']');
            }
            Value::Vector(samples) => {
                while let Some(s) = samples.get(*next).filter(|_| *next < *most) {
                    if out.len() >= end {
                        return true;
                    }
                    if *next > 0 {
                        out.push(b',');
                    }
                    sample(labels, points, out, s);
                    *next += 1;
                }
            }
            Value::Matrix(all) => {
                while let Some(series) = all.get(*next).filter(|_| *next < *most) {
                    if out.len() >= end {
                        return true;
                    }
                    if open.is_none() && *next > 0 {
                        out.push(b',');
                    }
                    if open.get_or_insert_default().write(series, labels, points, out, end) {
                        *open = None;
                        *next += 1;
                    }
                }
            }
        }
        if is_list {
            out.push(b']');
        }
        if let Some(stats) = stats.take() {
            out.extend_from_slice(b",\"stats\":");
            out.extend_from_slice(&stats);
        }
        out.push(b'}');
        false
    }
}

pub async fn exemplars(app: Arc<App>, req: Req) -> ApiResult {
    let (start, end) = (req.time("start", MIN_TIME)?, req.time("end", MAX_TIME)?);
    if end < start {
        return Err(ApiError::bad_data("end timestamp must not be before start timestamp"));
    }
    let expr = expression(&app, req.get("query")).map_err(ApiError::bad_data)?;
    let selectors: Vec<_> = expr.selectors().into_iter().map(|s| s.matchers.clone()).collect();
    if selectors.is_empty() {
        return Ok(Answer::none());
    }
    let asking = req.asking(&app)?;
    let query = LabelQuery {
        selectors,
        mint: start.ms(),
        maxt: end.ms(),
        meter: asking.meter.clone(),
        ..LabelQuery::default()
    };
    let found = app.storage.exemplars(query).await.map_err(|e| refused(&app, &asking, &e))?;
    let mut out = vec![b'['];
    for (i, (labels, exemplars)) in found.iter().enumerate() {
        out.extend_from_slice(if i > 0 { b",{\"seriesLabels\":" } else { b"{\"seriesLabels\":" });
        json::labels(&mut out, labels);
        out.extend_from_slice(b",\"exemplars\":[");
        for (k, e) in exemplars.iter().enumerate() {
            out.extend_from_slice(if k > 0 { b",{\"labels\":" } else { b"{\"labels\":" });
            json::labels(&mut out, &e.labels);
            out.extend_from_slice(b",\"value\":");
            json::quoted_float(&mut out, e.value);
            out.extend_from_slice(b",\"timestamp\":");
            json::timestamp(&mut out, e.timestamp);
            out.push(b'}');
        }
        out.extend_from_slice(b"]}");
    }
    out.push(b']');
    Ok(Answer::text(out))
}

pub async fn format(app: Arc<App>, req: Req) -> ApiResult {
    let pretty = parsed(&app, req.get("query"), |expr| narthex_promql::printer::pretty(&expr));
    let mut out = Vec::new();
    json::html_string(&mut out, &pretty.map_err(|e| ApiError::parameter("query", e))?);
    Ok(Answer::text(out))
}

pub async fn parse(app: Arc<App>, req: Req) -> ApiResult {
    // As text at once: writing the tree recurses, too.
    let json = parsed(&app, req.get("query"), |expr| narthex_promql::ast_json::to_json(&expr).to_string());
    Ok(Answer::text(json.map_err(|e| ApiError::parameter("query", e))?.into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use narthex_model::Labels;

    impl HasValue for Value {
        fn value(&self) -> &Value {
            self
        }
    }

    fn written(value: Value) -> String {
        let mut data = QueryData::new(value, usize::MAX, Some(b"{}".to_vec()));
        let mut out = Vec::new();
        loop {
            let mut piece = Vec::new();
            let more = data.fill(&mut piece);
            out.extend(piece);
            if !more {
                return String::from_utf8(out).unwrap();
            }
        }
    }

    #[test]
    fn values() {
        let labels = Labels::from_pairs([("__name__", "up"), ("job", "<a>")]);
        let sample = Sample { labels: labels.clone(), timestamp: 1_500, point: Point::Float(f64::INFINITY) };
        let series = MatrixSeries { labels, floats: vec![(0, 1.0), (1_000, -0.5)], histograms: Vec::new() };
        for (value, expected) in [
            (
                Value::Vector(vec![sample.clone(), sample]),
                r#"{"resultType":"vector","result":[{"metric":{"__name__":"up","job":"<a>"},"value":[1.500,"+Inf"]},{"metric":{"__name__":"up","job":"<a>"},"value":[1.500,"+Inf"]}],"stats":{}}"#,
            ),
            (Value::Vector(Vec::new()), r#"{"resultType":"vector","result":[],"stats":{}}"#),
            (Value::Matrix(Vec::new()), r#"{"resultType":"matrix","result":[],"stats":{}}"#),
            (
                Value::Matrix(vec![series]),
                r#"{"resultType":"matrix","result":[{"metric":{"__name__":"up","job":"<a>"},"values":[[0,"1"],[1,"-0.5"]]}],"stats":{}}"#,
            ),
            (Value::Scalar { timestamp: 4_000, value: 2.0 }, r#"{"resultType":"scalar","result":[4,"2"],"stats":{}}"#),
            (
                Value::Scalar { timestamp: 0, value: 1e-7 },
                r#"{"resultType":"scalar","result":[0,"0.0000001"],"stats":{}}"#,
            ),
            (
                Value::String { timestamp: 0, value: "a\"<".into() },
                r#"{"resultType":"string","result":[0,"a\"\u003c"],"stats":{}}"#,
            ),
        ] {
            assert_eq!(written(value), expected);
        }
    }

    #[test]
    fn long_series_are_cut_into_pieces_and_stay_whole() {
        let floats: Vec<(i64, f64)> = (0..20_000).map(|i| (i * 15_000, i as f64 * 0.1)).collect();
        let series = |n: usize| MatrixSeries {
            labels: Labels::from_pairs([("n", n.to_string())]),
            floats: floats.clone(),
            histograms: vec![(1, Arc::default()), (2, Arc::default())],
        };
        let text = written(Value::Matrix((0..3).map(series).collect()));
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        for n in 0..3 {
            let s = &json["result"][n];
            assert_eq!(s["values"].as_array().unwrap().len(), 20_000);
            assert_eq!(s["values"][19_999][1].as_str().unwrap().parse::<f64>().unwrap(), 19_999.0 * 0.1);
            assert_eq!(s["histograms"].as_array().unwrap().len(), 2);
        }
    }
}
