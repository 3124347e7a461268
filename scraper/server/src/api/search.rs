//! `/search/metric_names`, `/search/label_names`, `/search/label_values`: names that resemble what somebody types, as
//! lines of JSON, behind `--enable-feature=search-api`.
//!
//! Of its fuzzy algorithms there are `subsequence` and `jarowinkler`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::Request;
use http::{HeaderValue, Response, StatusCode, header};
use narthex_model::METRIC_NAME;
use narthex_storage::LabelQuery;
use serde_json::{Value as Json, json};

use super::{Req, refused, selectors, storage_error};
use crate::answer::{ApiError, Body, ErrorType, Fill, PIECE, compressed, respond_unpacked};
use crate::params::{self, Time, parse_bool};
use crate::state::App;

const DEFAULT_LIMIT: usize = 100;
const DEFAULT_BATCH: usize = 100;
const MAX_LIMIT: usize = 10_000;

struct Asked {
    query: LabelQuery,
    terms: Vec<String>,
    threshold: f64,
    jaro_winkler: bool,
    case_sensitive: bool,
    by_score: bool,
    descending: bool,
    include_score: bool,
    include_metadata: bool,
    limit: usize,
    batch: usize,
}

fn boolean(req: &Req, name: &str, default: bool) -> Result<bool, ApiError> {
    match req.get(name) {
        "" => Ok(default),
        text => parse_bool(text).map_err(|e| ApiError::parameter(name, e)),
    }
}

fn number(req: &Req, name: &str, default: usize) -> Result<usize, ApiError> {
    match req.get(name) {
        "" => Ok(default),
        text => {
            let n = params::atoi(text).map_err(|e| ApiError::parameter(name, e))?;
            usize::try_from(n).map_err(|_| ApiError::parameter(name, "must be non-negative"))
        }
    }
}

fn asked(req: &Req) -> Result<Asked, ApiError> {
    // Without a range: the last hour, so that a search does not walk through all history.
    let now = Time::now();
    let end = req.time("end", now)?;
    let start = req.time("start", Time { secs: end.secs.saturating_sub(3600), nanos: end.nanos })?;
    if end < start {
        return Err(ApiError::bad_data("end timestamp must not be before start timestamp"));
    }
    let threshold = number(req, "fuzz_threshold", 0)?;
    if threshold > 100 {
        return Err(ApiError::parameter("fuzz_threshold", "must be between 0 and 100"));
    }
    let jaro_winkler = match req.get("fuzz_alg") {
        "" | "subsequence" => false,
        "jarowinkler" => true,
        other => return Err(ApiError::parameter("fuzz_alg", format!("unsupported fuzzy algorithm {other:?}"))),
    };
    let by_score = match req.get("sort_by") {
        "" | "alpha" => false,
        "score" => true,
        other => return Err(ApiError::parameter("sort_by", format!("unsupported value {other:?}"))),
    };
    let descending = match req.get("sort_dir") {
        "" => by_score,
        "asc" => false,
        "dsc" | "desc" => true,
        other => return Err(ApiError::parameter("sort_dir", format!("unsupported value {other:?}"))),
    };
    let limit = number(req, "limit", DEFAULT_LIMIT)?;
    if limit > MAX_LIMIT {
        return Err(ApiError::parameter("limit", format!("limit {limit} exceeds the maximum of {MAX_LIMIT}")));
    }
    Ok(Asked {
        query: LabelQuery {
            selectors: selectors(req.form.all("match[]")).map_err(|e| ApiError::parameter("match[]", e))?,
            mint: start.ms(),
            maxt: end.ms(),
            ..LabelQuery::default()
        },
        terms: req.form.all("search[]").filter(|t| !t.is_empty()).map(str::to_owned).collect(),
        threshold: threshold as f64 / 100.0,
        jaro_winkler,
        case_sensitive: boolean(req, "case_sensitive", true)?,
        by_score,
        descending,
        include_score: boolean(req, "include_score", false)?,
        include_metadata: boolean(req, "include_metadata", false)?,
        limit: if limit == 0 { MAX_LIMIT } else { limit },
        batch: number(req, "batch_size", DEFAULT_BATCH)?.clamp(1, MAX_LIMIT),
    })
}

/// How well `name` fits `term`, 0 to 1; a substring fits wholly.
fn score(term: &str, name: &str, a: &Asked) -> f64 {
    let fold = |s: &str| if a.case_sensitive { s.to_owned() } else { s.to_lowercase() };
    let (term, name) = (fold(term), fold(name));
    if name.contains(&term) {
        return 1.0;
    }
    if a.threshold <= 0.0 {
        return 0.0;
    }
    if a.jaro_winkler { jaro_winkler(&term, &name) } else { subsequence(&term, &name) }
}

/// The share of the name's span that the term's characters, found in order, cover.
fn subsequence(term: &str, name: &str) -> f64 {
    let (mut first, mut last, mut wanted) = (None, 0, term.chars());
    let mut next = wanted.next();
    for (i, c) in name.chars().enumerate() {
        if Some(c) == next {
            first.get_or_insert(i);
            last = i;
            next = wanted.next();
        }
    }
    match (first, next) {
        (Some(first), None) => term.chars().count() as f64 / (last - first + 1) as f64,
        _ => 0.0,
    }
}

fn jaro_winkler(a: &str, b: &str) -> f64 {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(256).collect(), b.chars().take(256).collect());
    if a.is_empty() || b.is_empty() {
        return 0.0;
    }
    let reach = (a.len().max(b.len()) / 2).saturating_sub(1);
    let mut taken = vec![false; b.len()];
    let mut matched = Vec::new();
    for (i, c) in a.iter().enumerate() {
        let range = i.saturating_sub(reach)..(i + reach + 1).min(b.len());
        if let Some(j) = range.into_iter().find(|j| !taken[*j] && b[*j] == *c) {
            taken[j] = true;
            matched.push(*c);
        }
    }
    if matched.is_empty() {
        return 0.0;
    }
    let other = b.iter().zip(&taken).filter(|(_, t)| **t).map(|(c, _)| *c);
    let transposed = matched.iter().zip(other).filter(|(x, y)| **x != *y).count() / 2;
    let m = matched.len() as f64;
    let jaro = (m / a.len() as f64 + m / b.len() as f64 + (m - transposed as f64) / m) / 3.0;
    let prefix = a.iter().zip(&b).take(4).take_while(|(x, y)| x == y).count() as f64;
    jaro + prefix * 0.1 * (1.0 - jaro)
}

/// Writes batches, one a line, and the closing line.
struct Lines {
    left: std::vec::IntoIter<Json>,
    batch: usize,
    has_more: bool,
    warnings: Vec<String>,
}

impl Fill for Lines {
    fn fill(&mut self, out: &mut Vec<u8>) -> bool {
        let end = out.len() + PIECE;
        while out.len() < end {
            let results: Vec<Json> = self.left.by_ref().take(self.batch).collect();
            if results.is_empty() {
                let mut last = json!({"status": "success", "has_more": self.has_more});
                if !self.warnings.is_empty() {
                    last["warnings"] = json!(self.warnings);
                }
                out.extend_from_slice(format!("{last}\n").as_bytes());
                return false;
            }
            out.extend_from_slice(format!("{}\n", json!({"results": results})).as_bytes());
        }
        true
    }
}

async fn search(app: &App, req: &Req, label: Option<&str>, key: &str) -> Result<Lines, ApiError> {
    enabled(app)?;
    let mut a = asked(req)?;
    let asking = req.asking(app)?;
    a.query.meter = asking.meter.clone();
    let found = match label {
        Some(label) => app.storage.label_values(label, a.query.clone()).await,
        None => app.storage.label_names(a.query.clone()).await,
    };
    let found = found.map_err(|e| refused(app, &asking, &e))?;
    let bytes = found.values.iter().map(|t| 2 * t.len() + 64).sum();
    let _held = asking.meter.hold(bytes).map_err(|e| refused(app, &asking, &e))?;
    let mut fits: Vec<(f64, String)> = Vec::new();
    for name in found.values {
        let best = a.terms.iter().map(|t| score(t, &name, &a)).fold(0.0, f64::max);
        if a.terms.is_empty() {
            fits.push((1.0, name));
        } else if best > 0.0 && best >= a.threshold {
            fits.push((best, name));
        }
    }
    if a.by_score {
        fits.sort_by(|x, y| x.0.total_cmp(&y.0).then_with(|| y.1.cmp(&x.1)));
    } else {
        fits.sort_by(|x, y| x.1.cmp(&y.1));
    }
    if a.descending {
        fits.reverse();
    }
    let has_more = fits.len() > a.limit;
    fits.truncate(a.limit);
    let mut metadata = BTreeMap::new();
    if a.include_metadata && label == Some(METRIC_NAME) {
        let names: BTreeSet<&str> = fits.iter().map(|(_, n)| n.as_str()).collect();
        let all = app.storage.metadata(None).await.map_err(|e| storage_error(&e))?;
        metadata.extend(all.into_iter().filter(|m| names.contains(m.metric.as_str())).map(|m| (m.metric, m.metadata)));
    }
    let results: Vec<Json> = fits
        .into_iter()
        .map(|(score, name)| {
            let mut entry = json!({key: name});
            if a.include_score {
                entry["score"] = json!(score);
            }
            if let Some(m) = metadata.get(&name) {
                entry["type"] = json!(m.metric_type.as_str());
                entry["help"] = json!(m.help);
                entry["unit"] = json!(m.unit);
            }
            entry
        })
        .collect();
    Ok(Lines { left: results.into_iter(), batch: a.batch, has_more, warnings: found.warnings })
}

fn answer(app: &App, req: &Req, lines: Result<Lines, ApiError>) -> Response<Body> {
    let mut response = match lines {
        Ok(lines) => {
            let mut response =
                compressed(&req.headers, StatusCode::OK, "application/x-ndjson; charset=utf-8", Box::new(lines));
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        // Prometheus packs none of these.
        Err(e) => respond_unpacked(Err(e)),
    };
    crate::router::cors(app, req.headers.get(header::ORIGIN), response.headers_mut());
    response
}

fn enabled(app: &App) -> Result<(), ApiError> {
    let off = || ApiError::new(ErrorType::Unavailable, "search API disabled");
    if app.options.enable_search { Ok(()) } else { Err(off()) }
}

pub async fn metric_names(app: Arc<App>, request: Request) -> Response<Body> {
    let req = crate::router::parameters(request, String::new()).await;
    let lines = search(&app, &req, Some(METRIC_NAME), "name").await;
    answer(&app, &req, lines)
}

pub async fn label_names(app: Arc<App>, request: Request) -> Response<Body> {
    let req = crate::router::parameters(request, String::new()).await;
    let lines = search(&app, &req, None, "name").await;
    answer(&app, &req, lines)
}

pub async fn label_values(app: Arc<App>, request: Request) -> Response<Body> {
    let req = crate::router::parameters(request, String::new()).await;
    let label = params::unescape_name(req.get("label"));
    if label.is_empty() {
        let missing = ApiError::bad_data("no label parameter provided");
        return answer(&app, &req, enabled(&app).and(Err(missing)));
    }
    let lines = search(&app, &req, Some(&label), "value").await;
    answer(&app, &req, lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resemblance() {
        assert_eq!(subsequence("abc", "xabcx"), 1.0);
        assert_eq!(subsequence("abc", "a_b_c"), 0.6);
        assert_eq!(subsequence("abc", "acb"), 0.0);
        assert!((jaro_winkler("martha", "marhta") - 0.961).abs() < 0.001);
        assert_eq!(jaro_winkler("abc", "xyz"), 0.0);
    }
}
