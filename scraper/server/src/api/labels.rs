//! `/labels`, `/label/NAME/values`, `/series`, `/metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use narthex_model::{Labels, Metadata};
use narthex_storage::{HeldBytes, LabelQuery, Meter, Trace};
use tracing::Instrument;

use super::{Req, TRUNCATED, refused, selectors, storage_error};
use crate::answer::{Answer, ApiError, ApiResult, Fill, PIECE};
use crate::json;
use crate::params::{self, MAX_TIME, MIN_TIME};
use crate::state::App;

fn query(req: &Req, meter: Meter, trace: Trace) -> Result<LabelQuery, ApiError> {
    let limit = req.limit()?;
    let (start, end) = (req.time("start", MIN_TIME)?, req.time("end", MAX_TIME)?);
    let selectors = selectors(req.form.all("match[]")).map_err(ApiError::bad_data)?;
    Ok(LabelQuery { selectors, mint: start.ms(), maxt: end.ms(), limit, meter, trace })
}

/// Begins a trace of a question about labels, and its one step.
fn traced(req: &mut Req) -> Trace {
    req.begin_trace(|r| r.form.all("match[]").take(10).collect::<Vec<_>>().join(", "));
    req.trace.step(|| "ask the store".into())
}

fn strings(values: &[String], truncated: bool, warnings: Vec<String>) -> Answer {
    let mut out = Vec::with_capacity(values.iter().map(|v| v.len() + 3).sum::<usize>() + 2);
    json::strings(&mut out, values);
    let truncated = truncated.then(|| TRUNCATED.to_owned());
    Answer::text(out).with_warnings(warnings).with_warnings(truncated.into_iter().collect())
}

/// Prometheus answers a range that ends before it starts with nothing, not with an error.
fn is_backward(query: &LabelQuery) -> bool {
    query.mint > query.maxt
}

/// Twice what a list of texts takes: as such, and written.
fn texts_bytes(texts: &[String]) -> usize {
    texts.iter().map(|t| 2 * t.len() + size_of::<String>()).sum()
}

pub async fn names(app: Arc<App>, mut req: Req) -> ApiResult {
    let step = traced(&mut req);
    let asking = req.asking(&app)?;
    let query = query(&req, asking.meter.clone(), step.clone())?;
    if is_backward(&query) {
        return Ok(strings(&[], false, Vec::new()));
    }
    let span = tracing::info_span!("label names");
    let found = app.storage.label_names(query).instrument(span).await.map_err(|e| refused(&app, &asking, &e))?;
    let _held = asking.meter.hold(texts_bytes(&found.values)).map_err(|e| refused(&app, &asking, &e))?;
    step.add("names", found.values.len() as u64);
    step.end();
    Ok(strings(&found.values, found.truncated, found.warnings).with_trace(req.trace))
}

pub async fn values(app: Arc<App>, mut req: Req) -> ApiResult {
    let step = traced(&mut req);
    let name = params::unescape_name(&req.name);
    if name.is_empty() || name.contains('\u{fffd}') {
        return Err(ApiError::bad_data(format!("invalid label name: {}", narthex_model::labels::quote(&name))));
    }
    let asking = req.asking(&app)?;
    let query = query(&req, asking.meter.clone(), step.clone())?;
    if is_backward(&query) {
        return Ok(strings(&[], false, Vec::new()));
    }
    let span = tracing::info_span!("label values", label = name);
    let found = app.storage.label_values(&name, query).instrument(span).await;
    let found = found.map_err(|e| refused(&app, &asking, &e))?;
    let _held = asking.meter.hold(texts_bytes(&found.values)).map_err(|e| refused(&app, &asking, &e))?;
    step.add("values", found.values.len() as u64);
    step.end();
    Ok(strings(&found.values, found.truncated, found.warnings).with_trace(req.trace))
}

/// Writes the sets that are left.
struct LabelSets {
    left: std::vec::IntoIter<Labels>,
    begun: bool,
    writer: json::LabelWriter,
    /// As long as they are held.
    _held: HeldBytes,
}

impl Fill for LabelSets {
    fn fill(&mut self, out: &mut Vec<u8>) -> bool {
        let end = out.len() + PIECE;
        while out.len() < end {
            let Some(labels) = self.left.next() else {
                out.extend_from_slice(if self.begun { b"]" } else { b"[]" });
                return false;
            };
            out.push(if std::mem::replace(&mut self.begun, true) { b',' } else { b'[' });
            self.writer.write(out, &labels);
        }
        true
    }
}

pub async fn series(app: Arc<App>, mut req: Req) -> ApiResult {
    let step = traced(&mut req);
    req.parsed_form()?;
    if !req.form.has("match[]") {
        return Err(ApiError::bad_data("no match[] parameter provided"));
    }
    let limit = req.limit()?;
    let (start, end) = (req.time("start", MIN_TIME)?, req.time("end", MAX_TIME)?);
    let selectors = selectors(req.form.all("match[]")).map_err(|e| ApiError::parameter("match[]", e))?;
    let asking = req.asking(&app)?;
    let query = LabelQuery {
        selectors,
        mint: start.ms(),
        maxt: end.ms(),
        limit,
        meter: asking.meter.clone(),
        trace: step.clone(),
    };
    if is_backward(&query) {
        return Ok(strings(&[], false, Vec::new()));
    }
    let found = app.storage.series(query).instrument(tracing::info_span!("series")).await;
    let found = found.map_err(|e| refused(&app, &asking, &e))?;
    let bytes = found.values.iter().map(|l| l.heap_bytes() + size_of::<Labels>()).sum();
    let held = asking.meter.hold(bytes).map_err(|e| refused(&app, &asking, &e))?;
    step.add("series", found.values.len() as u64);
    step.end();
    let truncated = found.truncated.then(|| TRUNCATED.to_owned());
    let left = found.values.into_iter();
    let sets = LabelSets { left, begun: false, writer: json::LabelWriter::default(), _held: held };
    let answer = Answer::stream(sets).with_warnings(found.warnings);
    Ok(answer.with_warnings(truncated.into_iter().collect()).with_trace(req.trace))
}

#[derive(serde::Serialize)]
struct MetadataJson<'a> {
    #[serde(rename = "type")]
    metric_type: &'a str,
    unit: &'a str,
    help: &'a str,
}

impl<'a> MetadataJson<'a> {
    fn of(m: &'a Metadata) -> MetadataJson<'a> {
        MetadataJson { metric_type: m.metric_type.as_str(), unit: &m.unit, help: &m.help }
    }
}

/// Type, help and unit by metric name: of what targets expose now; of names that none exposes, what the store has kept.
pub async fn metadata(app: Arc<App>, req: Req) -> ApiResult {
    let number = |name: &str| match req.get(name) {
        "" => Ok(-1),
        text => params::atoi(text).map_err(|_| ApiError::bad_data(format!("{name} must be a number"))),
    };
    let (limit, per_metric) = (number("limit")?, number("limit_per_metric")?);
    let metric = Some(req.get("metric")).filter(|m| !m.is_empty());
    let mut all: BTreeMap<String, BTreeSet<Metadata>> = BTreeMap::new();
    let take = |entries: &mut BTreeSet<Metadata>, metadata: &Metadata| {
        if (per_metric <= 0 || (entries.len() as i64) < per_metric) && !entries.contains(metadata) {
            entries.insert(metadata.clone());
        }
    };
    for (_, entries) in &(app.sources.target_metadata)() {
        for entry in entries.iter().filter(|e| metric.is_none_or(|m| m == e.metric)) {
            match all.get_mut(&entry.metric) {
                Some(known) => take(known, &entry.metadata),
                None => take(all.entry(entry.metric.clone()).or_default(), &entry.metadata),
            }
        }
    }
    let mut stored: BTreeMap<String, BTreeSet<Metadata>> = BTreeMap::new();
    for entry in app.storage.metadata(metric).await.map_err(|e| storage_error(&e))? {
        if !all.contains_key(&entry.metric) {
            take(stored.entry(entry.metric).or_default(), &entry.metadata);
        }
    }
    all.append(&mut stored);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let json = all.iter().take(limit).map(|(name, entries)| (name, entries.iter().map(MetadataJson::of).collect()));
    Answer::json(&json.collect::<BTreeMap<&String, Vec<MetadataJson<'_>>>>())
}
