//! The fixed list: jobs with their settings, and pages that are odd, hostile or plainly wrong.

mod changes;
mod formats;
mod limits;
mod protobuf;
mod syntax;
mod times;
mod transport;
mod wire;

use super::exporter::Reply;
use super::{Page, proto};
pub use transport::redirected;

pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Jobs by name, with what they set beside their targets.
pub const JOBS: &[(&str, &str)] = &[
    ("plain", ""),
    ("nhcb", "convert_classic_histograms_to_nhcb: true"),
    ("nhcb-classic", "convert_classic_histograms_to_nhcb: true\n  always_scrape_classic_histograms: true"),
    ("native", "scrape_native_histograms: true"),
    ("native-classic", "scrape_native_histograms: true\n  always_scrape_classic_histograms: true"),
    ("native-nhcb", "scrape_native_histograms: true\n  convert_classic_histograms_to_nhcb: true"),
    (
        "native-all",
        "scrape_native_histograms: true\n  convert_classic_histograms_to_nhcb: true\n  \
         always_scrape_classic_histograms: true",
    ),
    ("native-buckets", "scrape_native_histograms: true\n  native_histogram_bucket_limit: 4"),
    ("native-factor", "scrape_native_histograms: true\n  native_histogram_min_bucket_factor: 1.5"),
    ("honor", "honor_labels: true"),
    ("no-timestamps", "honor_timestamps: false"),
    ("track", "track_timestamps_staleness: true"),
    ("samples", "sample_limit: 3"),
    (
        "samples-drop",
        "sample_limit: 2\n  metric_relabel_configs:\n  - {source_labels: [drop], regex: yes, action: drop}",
    ),
    ("targets", "target_limit: 2"),
    ("targets-over", "target_limit: 1"),
    ("labels", "label_limit: 6"),
    ("label-name", "label_name_length_limit: 9"),
    ("label-value", "label_value_length_limit: 32"),
    ("body", "body_size_limit: 100B"),
    ("legacy", "metric_name_validation_scheme: legacy\n  metric_name_escaping_scheme: underscores"),
    ("legacy-values", "metric_name_escaping_scheme: values"),
    ("fallback-text", "fallback_scrape_protocol: PrometheusText0.0.4"),
    ("fallback-text1", "fallback_scrape_protocol: PrometheusText1.0.0"),
    ("fallback-om", "fallback_scrape_protocol: OpenMetricsText1.0.0"),
    ("fallback-om0", "fallback_scrape_protocol: OpenMetricsText0.0.1"),
    ("fallback-proto", "fallback_scrape_protocol: PrometheusProto"),
    ("protocols", "scrape_protocols: [PrometheusText0.0.4]"),
    ("extra", "extra_scrape_metrics: true\n  sample_limit: 4\n  body_size_limit: 150B"),
    ("no-gzip", "enable_compression: false"),
    ("no-redirect", "follow_redirects: false"),
    (
        "relabel",
        "metric_relabel_configs:\n  - {source_labels: [__name__], regex: 'drop.*', action: drop}\n  \
         - {source_labels: [__name__], regex: 'rename_(.*)', target_label: __name__, replacement: 'renamed_${1}'}\n  \
         - {source_labels: [__name__], regex: nameless, target_label: __name__, replacement: ''}\n  \
         - {source_labels: [__name__], regex: same_.*, target_label: __name__, replacement: same}\n  \
         - {regex: kill_.*, action: labeldrop}\n  - {regex: 'map_(.*)', action: labelmap}\n  \
         - {source_labels: [up], target_label: up, action: uppercase}\n  \
         - {source_labels: [hash], modulus: 7, target_label: bin, action: hashmod}\n  \
         - {source_labels: [__name__], regex: to_bad, target_label: __name__, replacement: \"\\xff\"}",
    ),
    ("params", "params: {a: ['1', 'x y'], b: ['ü&']}\n  basic_auth: {username: u, password: p}"),
];

fn text(name: &str, job: &'static str, body: impl Into<Vec<u8>>) -> Page {
    Page::new(name, job, vec![Reply::new(TEXT, body)])
}

fn steps(name: &str, job: &'static str, content_type: &str, bodies: &[&str]) -> Page {
    Page::new(name, job, bodies.iter().map(|b| Reply::new(content_type, *b)).collect())
}

/// All pages; `now` is the test's beginning in ms, for timestamps.
pub fn pages(now: i64) -> Vec<Page> {
    let mut out = Vec::new();
    for (name, body) in formats::TEXTS.iter().chain(syntax::TEXTS) {
        out.push(text(&format!("text/{name}"), "plain", *body));
        let mut open = (*body).to_owned();
        if !open.ends_with('\n') {
            open.push('\n');
        }
        open.push_str("# EOF\n");
        out.push(Page::new(&format!("om/{name}"), "plain", vec![Reply::new(OPEN_METRICS, open.clone())]));
        if name.contains("histogram") || name.contains("exemplar") {
            for job in ["nhcb", "nhcb-classic"] {
                out.push(text(&format!("{job}/{name}"), job, *body));
                out.push(Page::new(&format!("{job}/om-{name}"), job, vec![Reply::new(OPEN_METRICS, open.clone())]));
            }
        }
        if name.contains("quoted") || name.contains("dot") || name.contains("utf8") {
            out.push(text(&format!("legacy/{name}"), "legacy", *body));
        }
        if name.starts_with("reserved") || name.starts_with("report") || name.starts_with("empty") {
            out.push(text(&format!("honor/{name}"), "honor", *body));
        }
    }
    for (name, body) in formats::BYTES {
        out.push(text(&format!("text/{name}"), "plain", *body));
        let open = [*body, b"# EOF\n"].concat();
        out.push(Page::new(&format!("om/{name}"), "plain", vec![Reply::new(OPEN_METRICS, open)]));
        out.push(Page::new(&format!("proto/{name}"), "plain", vec![Reply::new(proto::CONTENT_TYPE, *body)]));
    }
    for (name, body) in formats::OPEN.iter().chain(syntax::OPEN) {
        out.push(Page::new(&format!("open/{name}"), "plain", vec![Reply::new(OPEN_METRICS, *body)]));
    }
    for (name, content_type) in formats::CONTENT_TYPES {
        let jobs =
            ["plain", "fallback-text", "fallback-text1", "fallback-om", "fallback-om0", "fallback-proto", "protocols"];
        for job in jobs {
            let body = if job.contains("om") { "a 1\n# EOF\n" } else { "a 1\n" };
            let mut reply = Reply::new("", body);
            reply.content_type = content_type.map(str::to_owned);
            out.push(Page::new(&format!("type-{job}/{name}"), job, vec![reply]));
        }
    }
    times::timestamps(now, &mut out);
    times::staleness(&mut out);
    limits::types(&mut out);
    limits::limits(&mut out);
    limits::relabelling(&mut out);
    transport::transport(&mut out);
    protobuf::protobuf(now, &mut out);
    changes::changes(now, &mut out);
    wire::wire(&mut out);
    out
}
