//! Label selectors (Kubernetes `metav1.LabelSelectorAsSelector`): set semantics on exact values.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// What is wrong with a selector, `None` if nothing is.
pub fn invalid(selector: &LabelSelector) -> Option<String> {
    for e in selector.match_expressions.iter().flatten() {
        let values = e.values.as_ref().map_or(0, Vec::len);
        let wrong = match e.operator.as_str() {
            "In" | "NotIn" => (values == 0).then_some("needs values"),
            "Exists" | "DoesNotExist" => (values > 0).then_some("takes no values"),
            _ => Some("is not a valid label selector operator"),
        };
        if let Some(wrong) = wrong {
            return Some(format!("selector: {:?} of {:?} {wrong}", e.operator, e.key));
        }
    }
    None
}

/// Whether `labels` satisfy `selector`. An empty selector selects everything; an invalid requirement nothing.
pub fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    selector.match_labels.iter().flatten().all(|(k, v)| labels.get(k) == Some(v))
        && selector.match_expressions.iter().flatten().all(|e| {
            let value = labels.get(&e.key);
            let listed = || value.is_some_and(|v| e.values.iter().flatten().any(|x| x == v));
            match e.operator.as_str() {
                "In" => listed(),
                "NotIn" => !listed(),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// The selector as text, requirements in key order, as `labels.Selector.String` prints it.
pub fn text(selector: &LabelSelector) -> String {
    let mut parts: Vec<(&str, String)> =
        selector.match_labels.iter().flatten().map(|(k, v)| (k.as_str(), format!("{k}={v}"))).collect();
    for e in selector.match_expressions.iter().flatten() {
        let mut values: Vec<&str> = e.values.iter().flatten().map(String::as_str).collect();
        values.sort_unstable();
        let part = match e.operator.as_str() {
            "In" => format!("{} in ({})", e.key, values.join(",")),
            "NotIn" => format!("{} notin ({})", e.key, values.join(",")),
            "Exists" => e.key.clone(),
            _ => format!("!{}", e.key),
        };
        parts.push((&e.key, part));
    }
    parts.sort_by(|a, b| a.0.cmp(b.0));
    parts.into_iter().map(|(_, p)| p).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(selector: &str, labels: &[(&str, &str)], expected: bool) {
        let selector: LabelSelector = serde_json::from_str(selector).unwrap();
        let labels = labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        assert_eq!(matches(&selector, &labels), expected, "{selector:?} {labels:?}");
    }

    #[test]
    fn set_semantics() {
        check("{}", &[], true);
        check(r#"{"matchLabels":{"a":"b"}}"#, &[("a", "b"), ("c", "d")], true);
        check(r#"{"matchLabels":{"a":"b"}}"#, &[("a", "x")], false);
        check(r#"{"matchExpressions":[{"key":"a","operator":"In","values":["x","y"]}]}"#, &[("a", "y")], true);
        check(r#"{"matchExpressions":[{"key":"a","operator":"In","values":["x","y"]}]}"#, &[], false);
        check(r#"{"matchExpressions":[{"key":"a","operator":"NotIn","values":["x"]}]}"#, &[], true);
        check(r#"{"matchExpressions":[{"key":"a","operator":"Exists"}]}"#, &[("a", "")], true);
        check(r#"{"matchExpressions":[{"key":"a","operator":"DoesNotExist"}]}"#, &[("a", "")], false);
        check(r#"{"matchExpressions":[{"key":"a","operator":"Near"}]}"#, &[("a", "")], false);
    }
}
