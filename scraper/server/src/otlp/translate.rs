//! Requests into series, as Prometheus's `otlptranslator/prometheusremotewrite` translates them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use narthex_config::{OtlpConfig, TranslationStrategy};
use narthex_model::labels::quote;
use narthex_model::number::format_value;
use narthex_model::{
    CounterResetHint, Exemplar, Histogram, Labels, METRIC_NAME, Metadata, MetricType, Span, stale_nan,
};
use narthex_storage::{WriteBatch, WriteSeries};

use super::decode::{self, Attribute, Data, Metric, Point, Resource, Scope, Temporality};
use super::name::{self, Kind, Namer};

pub struct Settings<'a> {
    pub config: &'a OtlpConfig,
    /// Delta temporality is stored as it is.
    pub allow_delta: bool,
    /// `target_info` gets a sample every half of it.
    pub lookback_ns: u64,
    /// Series get labels for type and unit.
    pub type_and_unit: bool,
    /// Start timestamps are handed on, and samples of 0 stored there.
    pub zeros: bool,
    /// Start timestamps are handed on.
    pub starts: bool,
}

#[derive(Debug, Default)]
pub struct Translated {
    pub batch: WriteBatch,
    pub metadata: Vec<(String, Metadata)>,
    /// What could not be translated.
    pub errors: Vec<String>,
    /// Categories and texts.
    pub warnings: Vec<(&'static str, String)>,
}

/// Most samples of one `target_info` series in a request, the newest.
const MAX_INFO: u64 = 1000;

const IDENTIFYING: [&str; 3] = ["service.namespace", "service.name", "service.instance.id"];

/// Labels while they are made.
type Set = BTreeMap<String, String>;

struct Translator<'a> {
    settings: &'a Settings<'a>,
    namer: Namer,
    out: Translated,
    series: HashMap<Labels, usize>,
    described: HashSet<String>,
    /// What all points of the resource get.
    promoted: Set,
    job: String,
    instance: String,
    /// What all points of the scope get.
    scope: Set,
    /// What all points of the metric get.
    described_as: Set,
}

/// A series, and when what is put into it started.
struct Target<'a> {
    series: &'a mut WriteSeries,
    start: Option<i64>,
}

impl Target<'_> {
    fn sample(&mut self, t: i64, v: f64) {
        self.series.samples.push((t, v));
        self.series.start_timestamps.extend(self.start);
    }

    fn histogram(&mut self, t: i64, h: Histogram) {
        self.series.histograms.push((t, Arc::new(h)));
        self.series.histogram_starts.extend(self.start);
    }
}

/// Translates a request.
pub fn translate(resources: &[Resource], settings: &Settings<'_>) -> Translated {
    let strategy = settings.config.translation_strategy;
    let (suffixes, utf8) = match strategy {
        TranslationStrategy::Unset | TranslationStrategy::UnderscoreEscapingWithSuffixes => (true, false),
        TranslationStrategy::UnderscoreEscapingWithoutSuffixes => (false, false),
        TranslationStrategy::NoUtf8EscapingWithSuffixes => (true, true),
        TranslationStrategy::NoTranslation => (false, true),
    };
    let namer = Namer {
        suffixes,
        utf8,
        key_prefix: settings.config.label_name_underscore_sanitization,
        keep_underscores: settings.config.label_name_preserve_multiple_underscores,
    };
    let mut translator = Translator {
        settings,
        namer,
        out: Translated::default(),
        series: HashMap::new(),
        described: HashSet::new(),
        promoted: Set::new(),
        job: String::new(),
        instance: String::new(),
        scope: Set::new(),
        described_as: Set::new(),
    };
    for resource in resources {
        translator.resource(resource);
    }
    translator.out
}

fn value<'a>(attributes: &'a [Attribute], name: &str) -> Option<&'a str> {
    attributes.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

/// Sets a label; an empty value removes it.
fn set(labels: &mut Set, name: String, value: &str) {
    if value.is_empty() {
        labels.remove(&name);
    } else {
        labels.insert(name, value.to_owned());
    }
}

fn ms(nanos: u64) -> i64 {
    nanos as i64 / 1_000_000
}

impl Translator<'_> {
    fn resource(&mut self, resource: &Resource) {
        if let Err(e) = self.begin(resource) {
            return self.out.errors.push(e);
        }
        let mut range: Option<(u64, u64)> = None;
        for scope in &resource.scopes {
            if let Err(e) = self.begin_scope(scope) {
                self.out.errors.push(e);
                continue;
            }
            for metric in &scope.metrics {
                for time in times(&metric.data) {
                    let (first, last) = range.unwrap_or((time, time));
                    range = Some((first.min(time), last.max(time)));
                }
                if let Err(e) = self.metric(metric) {
                    self.out.errors.push(e);
                }
            }
        }
        if let Some((first, last)) = range
            && let Err(e) = self.target_info(resource, first, last)
        {
            self.out.errors.push(e);
        }
    }

    fn begin(&mut self, resource: &Resource) -> Result<(), String> {
        let config = self.settings.config;
        let attributes = &resource.attributes;
        self.job = match (value(attributes, "service.name"), value(attributes, "service.namespace")) {
            (Some(name), Some(namespace)) => format!("{namespace}/{name}"),
            (Some(name), None) => name.to_owned(),
            (None, _) => String::new(),
        };
        self.instance = value(attributes, "service.instance.id").unwrap_or_default().to_owned();
        self.promoted.clear();
        for (name, value) in attributes {
            let wanted = match config.promote_all_resource_attributes {
                true => !config.ignore_resource_attributes.contains(name),
                false => config.promote_resource_attributes.contains(name),
            };
            if wanted {
                set(&mut self.promoted, self.namer.label(name)?, value);
            }
        }
        Ok(())
    }

    fn begin_scope(&mut self, scope: &Scope) -> Result<(), String> {
        self.scope.clear();
        if !self.settings.config.promote_scope_metadata || scope.name.is_empty() {
            return Ok(());
        }
        for (name, value) in &scope.attributes {
            set(&mut self.scope, self.namer.label(&format!("otel_scope_{name}"))?, value);
        }
        for (name, value) in [("name", &scope.name), ("version", &scope.version), ("schema_url", &scope.schema_url)] {
            set(&mut self.scope, format!("otel_scope_{name}"), value);
        }
        Ok(())
    }

    /// The labels of a point but its name. Attributes whose names become the same share their label.
    fn labels(&mut self, attributes: &[Attribute], ignored: &[&str], info: bool) -> Result<Set, String> {
        let mut sorted: Vec<&Attribute> =
            attributes.iter().filter(|(name, _)| !ignored.contains(&name.as_str())).collect();
        sorted.sort();
        let mut out = Set::new();
        for (name, value) in sorted {
            if self.namer.utf8 {
                set(&mut out, name.clone(), value);
                continue;
            }
            let label = self.namer.label(name)?;
            match out.get_mut(&label) {
                Some(known) => {
                    let source = if info { "resource" } else { "data point" };
                    self.out.warnings.push((
                        "label_name_collision",
                        format!(
                            "OTLP {source} attributes collide as label {} after name sanitization, values are concatenated with ';'",
                            quote(&label)
                        ),
                    ));
                    known.push(';');
                    known.push_str(value);
                }
                None => set(&mut out, label, value),
            }
        }
        if !info {
            for (name, value) in &self.promoted {
                out.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        for (name, value) in [("job", &self.job), ("instance", &self.instance)] {
            if !value.is_empty() {
                out.insert(name.into(), value.clone());
            }
        }
        if !info {
            out.extend(self.scope.iter().map(|(n, v)| (n.clone(), v.clone())));
        }
        out.extend(self.described_as.iter().map(|(n, v)| (n.clone(), v.clone())));
        Ok(out)
    }

    /// What the labels say of all series of a metric from here on.
    fn describe(&mut self, kind: MetricType, unit: &str) {
        self.described_as.clear();
        if self.settings.type_and_unit {
            self.described_as.extend(kind.labels(unit).map(|(n, v)| (n.into(), v.into())));
        }
    }

    /// The same as [`Self::series`], for samples whose counter started with the point's.
    fn target(&mut self, labels: &Set, name: &str, extra: Option<(&str, &str)>, point: &Point) -> Target<'_> {
        let (zeros, starts) = (self.settings.zeros, self.settings.starts || self.settings.zeros);
        let series = self.series(labels, name, extra);
        series.zeros = zeros;
        Target { series, start: starts.then(|| ms(point.start)) }
    }

    fn series(&mut self, labels: &Set, name: &str, extra: Option<(&str, &str)>) -> &mut WriteSeries {
        let mut all: BTreeMap<&str, &str> = labels.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        all.extend(extra);
        all.insert(METRIC_NAME, name);
        let labels = Labels::from_sorted(all);
        let list = &mut self.out.batch.series;
        let at = *self.series.entry(labels).or_insert_with_key(|labels| {
            list.push(WriteSeries { labels: labels.clone(), ..WriteSeries::default() });
            list.len() - 1
        });
        &mut list[at]
    }

    fn metric(&mut self, metric: &Metric) -> Result<(), String> {
        let temporality = match &metric.data {
            Data::None => {
                return Err(format!(
                    "could not get aggregation temporality for {} as it has unsupported metric type Empty",
                    metric.name
                ));
            }
            Data::Gauge(_) | Data::Summary(_) => Temporality::Cumulative,
            Data::Sum { temporality, .. }
            | Data::Histogram { temporality, .. }
            | Data::Exponential { temporality, .. } => *temporality,
        };
        let delta = temporality == Temporality::Delta;
        if temporality == Temporality::Unspecified || delta && !self.settings.allow_delta {
            return Err(format!("invalid temporality and type combination for metric {}", quote(&metric.name)));
        }
        let kind = match &metric.data {
            Data::Gauge(_) => Kind::Gauge,
            Data::Sum { monotonic: true, .. } => Kind::MonotonicCounter,
            _ => Kind::Other,
        };
        let name = self.namer.metric(&metric.name, &metric.unit, kind)?;
        let metric_type = match &metric.data {
            _ if delta => MetricType::Unknown,
            Data::Sum { monotonic: true, .. } => MetricType::Counter,
            Data::Sum { .. } | Data::Gauge(_) => MetricType::Gauge,
            Data::Summary(_) => MetricType::Summary,
            _ => MetricType::Histogram,
        };
        // Named twice, as in Prometheus.
        self.describe(metric_type, &name::unit(&name::unit(&metric.unit)));
        if times(&metric.data).next().is_none() {
            return Err(format!("empty data points. {} is dropped", metric.name));
        }
        if self.described.insert(name.clone()) {
            let (unit, help) = (name::unit(&metric.unit), metric.description.clone());
            self.out.metadata.push((name.clone(), Metadata { metric_type, help, unit }));
        }
        match &metric.data {
            Data::None => {}
            Data::Gauge(points) => {
                for p in points {
                    self.number(&name, p, false)?;
                }
            }
            Data::Sum { points, .. } => {
                for p in points {
                    self.number(&name, p, true)?;
                }
            }
            Data::Histogram { points, .. } => {
                for p in points {
                    if self.settings.config.convert_histograms_to_nhcb {
                        let h = custom_buckets(p, delta)?;
                        self.histogram(&name, &p.point, h, &p.exemplars)?;
                    } else {
                        self.classic(&name, p)?;
                    }
                }
            }
            Data::Exponential { points, .. } => {
                for p in points {
                    let h = native(p, delta)?;
                    self.histogram(&name, &p.point, h, &p.exemplars)?;
                }
            }
            Data::Summary(points) => {
                for p in points {
                    self.summary(&name, p)?;
                }
            }
        }
        Ok(())
    }

    fn number(&mut self, name: &str, p: &decode::Number, exemplars: bool) -> Result<(), String> {
        let labels = self.labels(&p.point.attributes, &[METRIC_NAME], false)?;
        let value = if p.point.stale { stale_nan() } else { p.value };
        let mut to = self.target(&labels, name, None, &p.point);
        to.sample(ms(p.point.time), value);
        if exemplars {
            to.series.exemplars.extend(p.exemplars.iter().map(exemplar));
        }
        Ok(())
    }

    fn histogram(
        &mut self,
        name: &str,
        point: &Point,
        h: Histogram,
        exemplars: &[decode::Exemplar],
    ) -> Result<(), String> {
        if h.count == 0.0 && h.sum != 0.0 && !h.is_stale() {
            let text = format!("histogram data point has zero count, but non-zero sum: {:.6}", h.sum);
            self.out.warnings.push(("histogram_zero_count_nonzero_sum", text));
        }
        narthex_scrape::histogram::validate(&h)?;
        let labels = self.labels(&point.attributes, &[METRIC_NAME], false)?;
        let mut to = self.target(&labels, name, None, point);
        to.histogram(ms(point.time), h);
        to.series.exemplars.extend(exemplars.iter().map(exemplar));
        Ok(())
    }

    fn classic(&mut self, name: &str, p: &decode::Explicit) -> Result<(), String> {
        let labels = self.labels(&p.point.attributes, &[METRIC_NAME], false)?;
        let t = ms(p.point.time);
        let value = |v: f64| if p.point.stale { stale_nan() } else { v };
        if let Some(sum) = p.sum {
            self.target(&labels, &format!("{name}_sum"), None, &p.point).sample(t, value(sum));
        }
        let count = value(p.count as f64);
        self.target(&labels, &format!("{name}_count"), None, &p.point).sample(t, count);
        let bucket = format!("{name}_bucket");
        let mut rest = &p.exemplars[..];
        let mut cumulative = 0u64;
        for (bound, n) in p.bounds.iter().zip(&p.counts) {
            cumulative = cumulative.wrapping_add(*n);
            let (here, higher) = rest.split_at(rest.iter().take_while(|e| e.value <= *bound).count());
            rest = higher;
            let mut to = self.target(&labels, &bucket, Some(("le", &format_value(*bound))), &p.point);
            to.sample(t, value(cumulative as f64));
            to.series.exemplars.extend(here.iter().map(exemplar));
        }
        let mut to = self.target(&labels, &bucket, Some(("le", "+Inf")), &p.point);
        to.sample(t, count);
        to.series.exemplars.extend(rest.iter().map(exemplar));
        Ok(())
    }

    fn summary(&mut self, name: &str, p: &decode::Summary) -> Result<(), String> {
        let labels = self.labels(&p.point.attributes, &[METRIC_NAME], false)?;
        let t = ms(p.point.time);
        let value = |v: f64| if p.point.stale { stale_nan() } else { v };
        self.target(&labels, &format!("{name}_sum"), None, &p.point).sample(t, value(p.sum));
        self.target(&labels, &format!("{name}_count"), None, &p.point).sample(t, value(p.count as f64));
        for (quantile, v) in &p.quantiles {
            self.target(&labels, name, Some(("quantile", &format_value(*quantile))), &p.point).sample(t, value(*v));
        }
        Ok(())
    }

    fn target_info(&mut self, resource: &Resource, first: u64, last: u64) -> Result<(), String> {
        if resource.attributes.iter().all(|(name, _)| IDENTIFYING.contains(&name.as_str())) {
            return Ok(());
        }
        let ignored = if self.settings.config.keep_identifying_resource_attributes { &[][..] } else { &IDENTIFYING };
        self.describe(MetricType::Unknown, "");
        let labels = self.labels(&resource.attributes, ignored, true)?;
        if !labels.contains_key("job") && !labels.contains_key("instance") {
            return Ok(());
        }
        if self.described.insert("target_info".into()) {
            let metadata =
                Metadata { metric_type: MetricType::Gauge, help: "Target metadata".into(), unit: String::new() };
            self.out.metadata.push(("target_info".into(), metadata));
        }
        let interval = (self.settings.lookback_ns / 2).max(1_000_000_000);
        let skipped = ((last - first) / interval).saturating_sub(MAX_INFO);
        let mut time = first + skipped * interval;
        let series = self.series(&labels, "target_info", None);
        while time < last {
            series.samples.push((ms(time), 1.0));
            time = time.saturating_add(interval);
        }
        series.samples.push((ms(last), 1.0));
        // Several resources may say the same.
        series.samples.sort_by_key(|(t, _)| *t);
        series.samples.dedup_by_key(|(t, _)| *t);
        Ok(())
    }
}

fn times(data: &Data) -> Box<dyn Iterator<Item = u64> + '_> {
    match data {
        Data::None => Box::new(std::iter::empty()),
        Data::Gauge(points) | Data::Sum { points, .. } => Box::new(points.iter().map(|p| p.point.time)),
        Data::Histogram { points, .. } => Box::new(points.iter().map(|p| p.point.time)),
        Data::Exponential { points, .. } => Box::new(points.iter().map(|p| p.point.time)),
        Data::Summary(points) => Box::new(points.iter().map(|p| p.point.time)),
    }
}

/// The specification's limit of an exemplar's labels, in characters.
const MAX_EXEMPLAR: usize = 128;

fn exemplar(e: &decode::Exemplar) -> Exemplar {
    let ids = [("trace_id", &e.trace_id), ("span_id", &e.span_id)];
    let ids = ids.into_iter().filter(|(_, id)| !id.is_empty());
    let mut labels: BTreeMap<&str, &str> = ids.map(|(n, v)| (n, v.as_str())).collect();
    let length = |n: &str, v: &str| n.chars().count() + v.chars().count();
    let own: usize = labels.iter().map(|(n, v)| length(n, v)).sum();
    let others: usize = e.attributes.iter().map(|(n, v)| length(n, v)).sum();
    if own + others <= MAX_EXEMPLAR {
        labels.extend(e.attributes.iter().map(|(n, v)| (n.as_str(), v.as_str())));
    }
    let timestamp = ms(e.time);
    Exemplar { labels: Labels::from_sorted(labels), value: e.value, timestamp, has_timestamp: timestamp != 0 }
}

fn finish(mut h: Histogram, stale: bool, count: u64, sum: Option<f64>, delta: bool) -> Histogram {
    if delta {
        h.counter_reset_hint = CounterResetHint::Gauge;
    }
    if stale {
        return Histogram { sum: stale_nan(), ..Histogram::default() };
    }
    (h.count, h.sum) = (count as f64, sum.unwrap_or(0.0));
    h
}

fn native(p: &decode::Exponential, delta: bool) -> Result<Histogram, String> {
    const MIN: i32 = -4;
    const MAX: i32 = 8;
    if p.scale < MIN {
        return Err(format!("cannot convert exponential to native histogram. Scale must be >= {MIN}, was {}", p.scale));
    }
    let scale_down = (p.scale - MAX).max(0);
    let mut h = Histogram {
        schema: p.scale.min(MAX),
        zero_threshold: 1e-128,
        zero_count: p.zero_count as f64,
        ..Histogram::default()
    };
    (h.positive_spans, h.positive_buckets) = layout(&p.positive.counts, i64::from(p.positive.offset), scale_down, 1)?;
    (h.negative_spans, h.negative_buckets) = layout(&p.negative.counts, i64::from(p.negative.offset), scale_down, 1)?;
    Ok(finish(h, p.point.stale, p.count, p.sum, delta))
}

fn custom_buckets(p: &decode::Explicit, delta: bool) -> Result<Histogram, String> {
    let empty = p.counts.iter().take_while(|c| **c == 0).count();
    let offset = i64::try_from(empty).unwrap_or(i64::MAX);
    let (positive_spans, positive_buckets) = layout(&p.counts[empty..], offset, 0, 0)?;
    let h = Histogram {
        schema: narthex_model::histogram::CUSTOM_BUCKETS_SCHEMA,
        positive_spans,
        positive_buckets,
        custom_values: p.bounds.clone(),
        ..Histogram::default()
    };
    Ok(finish(h, p.point.stale, p.count, p.sum, delta))
}

/// Dense buckets as spans and counts; 2^`scale_down` buckets are merged into one. OpenTelemetry's bucket 0 is
/// Prometheus's 1 (`shift`) where bounds are exponential.
fn layout(counts: &[u64], offset: i64, scale_down: i32, shift: i64) -> Result<(Vec<Span>, Vec<f64>), String> {
    let mut merged: Vec<(i64, u64)> = Vec::new();
    for (i, count) in counts.iter().enumerate() {
        let index = ((i as i64 + offset) >> scale_down.min(62)) + shift;
        match merged.last_mut() {
            Some((last, n)) if *last == index => *n = n.wrapping_add(*count),
            _ => merged.push((index, *count)),
        }
    }
    let (mut spans, mut buckets): (Vec<Span>, Vec<f64>) = (Vec::new(), Vec::new());
    // The bucket after the last one that was written.
    let mut next = 0;
    for (index, count) in merged.into_iter().filter(|(_, n)| *n > 0) {
        let gap = index - next;
        if spans.is_empty() || gap > 2 {
            let offset = i32::try_from(gap).map_err(|_| format!("bucket {index} is out of range"))?;
            spans.push(Span { offset, length: 0 });
        } else {
            buckets.extend((0..gap).map(|_| 0.0));
            spans.last_mut().into_iter().for_each(|s| s.length += gap as u32);
        }
        spans.last_mut().into_iter().for_each(|s| s.length += 1);
        buckets.push(count as f64);
        next = index + 1;
    }
    Ok((spans, buckets))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: serde_json::Value, config: &OtlpConfig, expected: &[&str]) {
        let resources = super::super::json::request(json.to_string().as_bytes()).unwrap();
        let settings = Settings {
            config,
            allow_delta: false,
            lookback_ns: 300_000_000_000,
            type_and_unit: false,
            zeros: false,
            starts: false,
        };
        let out = translate(&resources, &settings);
        let mut got: Vec<String> = out.errors.clone();
        for s in &out.batch.series {
            got.extend(s.samples.iter().map(|(t, v)| format!("{} {} {t}", s.labels, format_value(*v))));
            got.extend(s.histograms.iter().map(|(t, h)| {
                format!(
                    "{} {} {:?} {:?} {:?} {t}",
                    s.labels,
                    h.schema,
                    h.positive_spans.iter().map(|s| (s.offset, s.length)).collect::<Vec<_>>(),
                    h.positive_buckets,
                    h.custom_values
                )
            }));
            got.extend(s.exemplars.iter().map(|e| format!("# {} {}", e.labels, e.value)));
        }
        assert_eq!(got, expected);
    }

    fn request(metric: serde_json::Value) -> serde_json::Value {
        let text = |key: &str, value: &str| serde_json::json!({"key": key, "value": {"stringValue": value}});
        serde_json::json!({"resourceMetrics": [{
            "resource": {"attributes": [
                text("service.name", "shop"), text("service.namespace", "ns"), text("service.instance.id", "i1"),
                text("host.name", "h"),
            ]},
            "scopeMetrics": [{"scope": {"name": "lib", "version": "1"}, "metrics": [metric]}],
        }]})
    }

    const INFO: &str = r#"{__name__="target_info", host_name="h", instance="i1", job="ns/shop"} 1 2000"#;

    #[test]
    fn points_become_series() {
        let config = OtlpConfig::default();
        let sum = serde_json::json!({"name": "http.requests", "unit": "By", "sum": {
            "isMonotonic": true, "aggregationTemporality": 2, "dataPoints": [{
                "timeUnixNano": "2000000000", "asInt": "7",
                "attributes": [{"key": "a.b", "value": {"intValue": "1"}}, {"key": "a_b", "value": {"boolValue": true}}],
                "exemplars": [{"asDouble": 0.5, "timeUnixNano": "1", "traceId": "0aF0"}],
            }],
        }});
        let expected = [
            r#"{__name__="http_requests_bytes_total", a_b="1;true", instance="i1", job="ns/shop"} 7 2000"#,
            r#"# {trace_id="0af0"} 0.5"#,
            INFO,
        ];
        check(request(sum.clone()), &config, &expected);
        let raw = OtlpConfig {
            translation_strategy: TranslationStrategy::NoTranslation,
            promote_resource_attributes: vec!["host.name".into()],
            promote_scope_metadata: true,
            keep_identifying_resource_attributes: true,
            ..OtlpConfig::default()
        };
        check(
            request(sum),
            &raw,
            &[
                r#"{__name__="http.requests", "a.b"="1", a_b="true", "host.name"="h", instance="i1", job="ns/shop", otel_scope_name="lib", otel_scope_version="1"} 7 2000"#,
                r#"# {trace_id="0af0"} 0.5"#,
                r#"{__name__="target_info", "host.name"="h", instance="i1", job="ns/shop", "service.instance.id"="i1", "service.name"="shop", "service.namespace"="ns"} 1 2000"#,
            ],
        );
        let histogram = serde_json::json!({"name": "d", "unit": "s", "histogram": {"aggregationTemporality": 2,
            "dataPoints": [{"timeUnixNano": "2000000000", "count": "6", "sum": 1.5,
                "bucketCounts": ["0", "0", "4", "2"], "explicitBounds": [0.1, 0.5, 1]}]}});
        check(
            request(histogram.clone()),
            &config,
            &[
                r#"{__name__="d_seconds_sum", instance="i1", job="ns/shop"} 1.5 2000"#,
                r#"{__name__="d_seconds_count", instance="i1", job="ns/shop"} 6 2000"#,
                r#"{__name__="d_seconds_bucket", instance="i1", job="ns/shop", le="0.1"} 0 2000"#,
                r#"{__name__="d_seconds_bucket", instance="i1", job="ns/shop", le="0.5"} 0 2000"#,
                r#"{__name__="d_seconds_bucket", instance="i1", job="ns/shop", le="1"} 4 2000"#,
                r#"{__name__="d_seconds_bucket", instance="i1", job="ns/shop", le="+Inf"} 6 2000"#,
                INFO,
            ],
        );
        let nhcb = OtlpConfig { convert_histograms_to_nhcb: true, ..OtlpConfig::default() };
        check(
            request(histogram),
            &nhcb,
            &[
                r#"{__name__="d_seconds", instance="i1", job="ns/shop"} -53 [(2, 2)] [4.0, 2.0] [0.1, 0.5, 1.0] 2000"#,
                INFO,
            ],
        );
        let exponential = |scale: i32| {
            serde_json::json!({"name": "e", "exponentialHistogram": {"aggregationTemporality": 2, "dataPoints": [{
                "timeUnixNano": "2000000000", "count": "6", "scale": scale,
                "positive": {"offset": -1, "bucketCounts": ["1", "0", "0", "0", "3", "2"]}}]}})
        };
        check(
            request(exponential(3)),
            &config,
            &[r#"{__name__="e", instance="i1", job="ns/shop"} 3 [(0, 1), (3, 2)] [1.0, 3.0, 2.0] [] 2000"#, INFO],
        );
        check(
            request(exponential(9)),
            &config,
            &[r#"{__name__="e", instance="i1", job="ns/shop"} 8 [(0, 4)] [1.0, 0.0, 3.0, 2.0] [] 2000"#, INFO],
        );
        check(
            request(exponential(-5)),
            &config,
            &["cannot convert exponential to native histogram. Scale must be >= -4, was -5", INFO],
        );
        let delta =
            serde_json::json!({"name": "x", "sum": {"aggregationTemporality": 1, "dataPoints": [{"asInt": 1}]}});
        check(
            request(delta),
            &config,
            &["invalid temporality and type combination for metric \"x\"", &INFO.replace("2000", "0")],
        );
    }
}
