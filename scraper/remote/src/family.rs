//! Which description belongs to a series: its metric's, or that of the family whose name its own extends
//! (Prometheus `scrape.isSeriesPartOfFamily`).

use std::collections::HashMap;
use std::sync::Arc;

use narthex_model::{Metadata, MetricType};

/// Endings of a series' name, and of which types the families are that it may belong to then.
const SUFFIXES: [(&str, &[MetricType]); 7] = [
    ("_total", &[MetricType::Counter]),
    ("_bucket", &[MetricType::Histogram, MetricType::GaugeHistogram]),
    ("_sum", &[MetricType::Histogram, MetricType::Summary]),
    ("_count", &[MetricType::Histogram, MetricType::Summary]),
    ("_gsum", &[MetricType::GaugeHistogram]),
    ("_gcount", &[MetricType::GaugeHistogram]),
    ("_info", &[MetricType::Info]),
];

/// What is known of the metric that a series of this name belongs to.
pub fn family_of<'a>(name: &str, all: &'a HashMap<String, Arc<Metadata>>) -> Option<&'a Arc<Metadata>> {
    if let Some(found) = all.get(name) {
        return Some(found);
    }
    SUFFIXES.iter().find_map(|(suffix, types)| {
        let found = all.get(name.strip_suffix(suffix)?)?;
        types.contains(&found.metric_type).then_some(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_name_or_by_ending() {
        let of = |metric_type| Arc::new(Metadata { metric_type, ..Metadata::default() });
        let all: HashMap<String, Arc<Metadata>> = [
            ("a_total", MetricType::Counter),
            ("b", MetricType::Counter),
            ("h", MetricType::Histogram),
            ("s", MetricType::Summary),
            ("g", MetricType::GaugeHistogram),
            ("i", MetricType::Info),
            ("x", MetricType::Unknown),
        ]
        .into_iter()
        .map(|(n, t)| (n.to_owned(), of(t)))
        .collect();
        for (name, expected) in [
            ("a_total", Some(MetricType::Counter)),
            ("b_total", Some(MetricType::Counter)),
            ("h_bucket", Some(MetricType::Histogram)),
            ("h_count", Some(MetricType::Histogram)),
            ("s_sum", Some(MetricType::Summary)),
            ("s_bucket", None),
            ("g_gcount", Some(MetricType::GaugeHistogram)),
            ("g_count", None),
            ("i_info", Some(MetricType::Info)),
            ("x_total", None),
            ("unknown", None),
        ] {
            assert_eq!(family_of(name, &all).map(|m| m.metric_type), expected, "{name}");
        }
    }
}
