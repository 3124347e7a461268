//! Whether two replies of the query API say the same.

use serde_json::Value;

/// Floats may differ by so much of their size: summation order is the servers' own.
pub const TOLERANCE: f64 = 1e-9;

/// The first difference of two replies, none if they agree. Series are compared by their labels, whatever their order;
/// of what `sort` and `sort_desc` give, the values have to come in the same order, too.
pub fn difference(query: &str, ours: &Value, theirs: &Value, tolerance: f64) -> Option<String> {
    // Prometheus 3.14 panics on some `smoothed` selectors, for instance.
    let error = theirs["error"].as_str().unwrap_or_default();
    if error.starts_with("unexpected error: runtime error") {
        return None;
    }
    // 3.14 forgot that a function is a duration, as in `[step():1m]`; 3.16 takes it.
    if error.contains("unexpected colon before duration in duration expression") {
        return None;
    }
    for key in ["status", "errorType", "error"] {
        if fault(&ours[key]) != fault(&theirs[key]) {
            return Some(format!("{key}: {} instead of {}", ours[key], theirs[key]));
        }
    }
    for key in ["warnings", "infos"] {
        // Of too many annotations Prometheus shows any.
        let (a, b) = (texts(&ours[key]), texts(&theirs[key]));
        let omitted = |t: &[&str]| t.iter().find(|t| t.ends_with("omitted")).map(|t| (*t).to_owned());
        if omitted(&a).is_some() && omitted(&a) == omitted(&b) {
            continue;
        }
        if a != b {
            return Some(format!("{key}: {} instead of {}", ours[key], theirs[key]));
        }
    }
    // In range queries 3.14 adds up in the random order of a map, and here rounding shows.
    let tolerance = if tolerance > 0.0 && query.contains("std") { 1e-6 } else { tolerance };
    let (ours, theirs) = (&ours["data"], &theirs["data"]);
    if ours["resultType"] != theirs["resultType"] {
        return Some(format!("resultType: {} instead of {}", ours["resultType"], theirs["resultType"]));
    }
    if ["sort", "topk", "bottomk", "limitk"].iter().any(|c| query.starts_with(c)) && ours["resultType"] == "vector" {
        let in_order = |v: &Value| -> Vec<Value> {
            v.as_array().into_iter().flatten().map(|s| s.get("value").unwrap_or(&s["histogram"])[1].clone()).collect()
        };
        let (ours, theirs) = (in_order(&ours["result"]), in_order(&theirs["result"]));
        if let Some(difference) = values(&Value::Array(ours), &Value::Array(theirs), tolerance) {
            return Some(format!("order: {difference}"));
        }
    }
    let (ours, theirs) = (by_labels(&ours["result"]), by_labels(&theirs["result"]));
    let names = |v: &Value| v.as_array().map(|a| a.iter().map(|s| s["metric"].to_string()).collect::<Vec<_>>());
    if names(&ours) != names(&theirs) {
        return Some(format!("series: {:?} instead of {:?}", names(&ours), names(&theirs)));
    }
    values(&ours, &theirs, tolerance)
}

/// An error's text. Which of several duplicates are named, and in which order, is left out: Prometheus 3.14 goes by the
/// order of its storage or none at all, later ones sort them.
fn fault(value: &Value) -> &str {
    let text = value.as_str().unwrap_or_default();
    if text.starts_with("found duplicate series") { "found duplicate series" } else { text }
}

/// What 3.14 says of NaN in native histograms it says of the first argument; later versions, and the test scripts, of the
/// histograms.
fn texts(value: &Value) -> Vec<&str> {
    let unplaced = |text: &'_ str| text.contains("has NaN observations");
    let texts = value.as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut texts: Vec<&str> =
        texts.map(|t| if unplaced(t) { t.rsplit_once(" (").map_or(t, |(t, _)| t) } else { t }).collect();
    texts.sort_unstable();
    texts
}

fn by_labels(result: &Value) -> Value {
    let mut result = result.clone();
    if let Some(list) = result.as_array_mut()
        && list.iter().all(|s| s.get("metric").is_some())
    {
        list.sort_by_cached_key(|s| s["metric"].to_string());
    }
    result
}

fn values(ours: &Value, theirs: &Value, tolerance: f64) -> Option<String> {
    match (ours, theirs) {
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).find_map(|(a, b)| values(a, b, tolerance))
        }
        (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => {
            let metric = a.get("metric").map(Value::to_string).unwrap_or_default();
            a.iter().find_map(|(k, v)| Some(format!("{metric} {k} {}", values(v, &b[k], tolerance)?)))
        }
        (Value::String(a), Value::String(b)) if a != b && same_number(a, b, tolerance) => None,
        (a, b) if a == b => None,
        (a, b) => Some(format!("{a} instead of {b}")),
    }
}

fn same_number(a: &str, b: &str, tolerance: f64) -> bool {
    match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(a), Ok(b)) => tolerance > 0.0 && (a == b || (a - b).abs() <= tolerance * a.abs().max(b.abs())),
        _ => false,
    }
}
