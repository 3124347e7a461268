//! Whether two replies of the query API say the same.

use serde_json::Value;

/// Floats may differ by so much of their size: summation order is the servers' own.
const TOLERANCE: f64 = 1e-9;

/// The first difference of two replies, none if they agree. Series are compared by their labels, whatever their order;
/// of what `sort` and `sort_desc` give, the values have to come in the same order, too.
pub fn difference(query: &str, ours: &Value, theirs: &Value) -> Option<String> {
    // Prometheus 3.14 panics on some `smoothed` selectors, for instance.
    if theirs["error"].as_str().is_some_and(|e| e.starts_with("unexpected error: runtime error")) {
        return None;
    }
    for key in ["status", "errorType", "error"] {
        if fault(&ours[key]) != fault(&theirs[key]) {
            return Some(format!("{key}: {} instead of {}", ours[key], theirs[key]));
        }
    }
    for key in ["warnings", "infos"] {
        if texts(&ours[key]) != texts(&theirs[key]) {
            return Some(format!("{key}: {} instead of {}", ours[key], theirs[key]));
        }
    }
    let (ours, theirs) = (&ours["data"], &theirs["data"]);
    if ours["resultType"] != theirs["resultType"] {
        return Some(format!("resultType: {} instead of {}", ours["resultType"], theirs["resultType"]));
    }
    if query.starts_with("sort") && ours["resultType"] == "vector" {
        let in_order = |v: &Value| -> Vec<Value> {
            v.as_array().into_iter().flatten().map(|s| s.get("value").unwrap_or(&s["histogram"])[1].clone()).collect()
        };
        let (ours, theirs) = (in_order(&ours["result"]), in_order(&theirs["result"]));
        if let Some(difference) = values(&Value::Array(ours), &Value::Array(theirs)) {
            return Some(format!("order: {difference}"));
        }
    }
    let (ours, theirs) = (by_labels(&ours["result"]), by_labels(&theirs["result"]));
    let names = |v: &Value| v.as_array().map(|a| a.iter().map(|s| s["metric"].to_string()).collect::<Vec<_>>());
    if names(&ours) != names(&theirs) {
        return Some(format!("series: {:?} instead of {:?}", names(&ours), names(&theirs)));
    }
    values(&ours, &theirs)
}

/// An error's text. Which of several duplicates are named, and in which order, is left out: Prometheus 3.14 goes by the
/// order of its storage or none at all, later ones sort them.
fn fault(value: &Value) -> &str {
    let text = value.as_str().unwrap_or_default();
    if text.starts_with("found duplicate series") { "found duplicate series" } else { text }
}

fn texts(value: &Value) -> Vec<&str> {
    let mut texts: Vec<&str> = value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
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

fn values(ours: &Value, theirs: &Value) -> Option<String> {
    match (ours, theirs) {
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a.iter().zip(b).find_map(|(a, b)| values(a, b)),
        (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => {
            let metric = a.get("metric").map(Value::to_string).unwrap_or_default();
            a.iter().find_map(|(k, v)| Some(format!("{metric} {k} {}", values(v, &b[k])?)))
        }
        (Value::String(a), Value::String(b)) if a != b && same_number(a, b) => None,
        (a, b) if a == b => None,
        (a, b) => Some(format!("{a} instead of {b}")),
    }
}

fn same_number(a: &str, b: &str) -> bool {
    match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(a), Ok(b)) => a == b || (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()),
        _ => false,
    }
}
