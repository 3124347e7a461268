//! The engine beside Prometheus's scripts: fast ways against plain ones, range queries against instant ones, limits,
//! depth, errors, statistics.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures::executor::block_on;
use futures::future::BoxFuture;
use narthex_model::{Exemplar, Histogram, Labels, Matcher, Span, stale_nan};
use narthex_promql::{
    Engine, EngineError, EngineErrorKind, EngineOptions, InstantQuery, ParserOptions, Point, QueryLimits, QueryResult,
    RangeQuery, Value,
};
use narthex_storage::memory::{MemoryStore, SelectOnly};
use narthex_storage::{
    FloatColumn, HistogramColumn, LabelQuery, LabelResult, MetadataEntry, Queryable, SelectRequest, Series, SeriesSet,
    StorageError, Values,
};

/// Hands out whole columns, whatever the range that is asked for.
fn whole(columns: Vec<Series>) -> impl Queryable {
    SelectOnly(move |request: &SelectRequest| {
        SeriesSet::from_series(
            columns.iter().filter(|s| Matcher::all_match(&request.matchers, &s.labels)).cloned().collect(),
        )
    })
}

/// A small generator of its own, so that failures can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Columns of every kind: shared and own timestamps, gaps, resets, constants, NaN, infinities, staleness markers.
fn columns(seed: u64) -> Vec<Series> {
    let mut random = Random(seed);
    let mut out = Vec::new();
    for group in 0..2 {
        let mut t = 0;
        let regular = group % 2 == 0;
        let times: Arc<[i64]> = (0..240)
            .map(|_| {
                t += if regular || random.below(4) > 0 { 15_000 } else { random.below(200_000) as i64 + 1 };
                t
            })
            .collect();
        for series in 0..8u64 {
            let mut value = if series == 3 { 0.0 } else { (random.below(1000) as f64) / 8.0 };
            let dense: Vec<f64> = times
                .iter()
                .map(|_| {
                    value = match (series, random.below(60)) {
                        (4, 0..6) => 0.0,
                        (5, _) => random.below(2000) as f64 / 7.0 - 100.0,
                        (6, 0) => return f64::NAN,
                        (6, 1) => return f64::INFINITY,
                        (7, 0..3) => return stale_nan(),
                        _ => value + random.below(40) as f64 / 4.0,
                    };
                    value
                })
                .collect();
            let values = if series == 2 { Values::Constant(f64::from(group)) } else { Values::Dense(dense) };
            let labels = Labels::from_pairs([
                ("__name__", "m_total"),
                ("group", &group.to_string()),
                ("series", &series.to_string()),
            ]);
            let floats = FloatColumn { timestamps: times.clone(), values, start_timestamps: None };
            out.push(Series { labels, floats, ..Series::default() });
        }
    }
    out
}

/// The same, with a histogram long before all ranges: no fast way is taken for such a column.
fn slow(mut columns: Vec<Series>) -> Vec<Series> {
    for series in &mut columns {
        series.histograms.timestamps = vec![-1_000_000_000_000];
        series.histograms.values = vec![Arc::new(Histogram { count: 1.0, ..Histogram::default() })];
    }
    columns
}

fn engine() -> Engine {
    Engine::new(EngineOptions { parser: ParserOptions::all(), ..EngineOptions::default() })
}

fn range(data: Arc<dyn Queryable>, expr: &str, start: i64, end: i64, step: i64) -> Result<QueryResult, EngineError> {
    block_on(engine().range(data, RangeQuery { expr: expr.into(), start, end, step, ..RangeQuery::default() }))
}

fn instant(data: Arc<dyn Queryable>, expr: &str, time: i64) -> Result<QueryResult, EngineError> {
    block_on(engine().instant(data, InstantQuery { expr: expr.into(), time, ..InstantQuery::default() }))
}

/// By labels and time: the bits of each float. NaNs are all the same.
fn points(value: &Value) -> Vec<(String, i64, u64)> {
    let bits = |v: f64| if v.is_nan() { f64::NAN.to_bits() } else { v.to_bits() };
    let mut out: Vec<(String, i64, u64)> = match value {
        Value::Matrix(matrix) => {
            matrix.iter().flat_map(|s| s.floats.iter().map(|(t, v)| (s.labels.to_string(), *t, bits(*v)))).collect()
        }
        Value::Vector(samples) => samples
            .iter()
            .filter_map(|s| match &s.point {
                Point::Float(v) => Some((s.labels.to_string(), s.timestamp, bits(*v))),
                Point::Histogram(_) => None,
            })
            .collect(),
        other => panic!("{other:?}"),
    };
    out.sort();
    out
}

const RANGE_FUNCTIONS: &[&str] = &[
    "rate(m_total[5m])",
    "rate(m_total[1m])",
    "increase(m_total[2m])",
    "delta(m_total[5m])",
    "irate(m_total[5m])",
    "idelta(m_total[5m])",
    "sum_over_time(m_total[5m])",
    "avg_over_time(m_total[5m])",
    "min_over_time(m_total[5m])",
    "max_over_time(m_total[3m])",
    "count_over_time(m_total[5m])",
    "last_over_time(m_total[5m])",
    "first_over_time(m_total[5m])",
    "present_over_time(m_total[5m])",
    "stddev_over_time(m_total[5m])",
    "stdvar_over_time(m_total[5m])",
    "mad_over_time(m_total[5m])",
    "quantile_over_time(0.3, m_total[5m])",
    "changes(m_total[5m])",
    "resets(m_total[5m])",
    "deriv(m_total[5m])",
    "predict_linear(m_total[5m], 60)",
    "rate(m_total[5m] offset 1m)",
    "rate(m_total[5m] @ 1000)",
    "rate(m_total[5m:15s])",
];

#[test]
fn kernels_give_what_the_plain_way_gives() {
    for seed in 0..2 {
        let fast: Arc<dyn Queryable> = Arc::new(whole(columns(seed)));
        let plain: Arc<dyn Queryable> = Arc::new(whole(slow(columns(seed))));
        for query in RANGE_FUNCTIONS.iter().chain(&["m_total", "sum by (group) (rate(m_total[5m]))"]) {
            for step in [15_000, 61_000] {
                let a = range(fast.clone(), query, 100_000, 2_000_000, step).unwrap();
                let b = range(plain.clone(), query, 100_000, 2_000_000, step).unwrap();
                assert!(points(&a.value) == points(&b.value), "seed {seed}: {query} at step {step}");
                assert!(!points(&a.value).is_empty(), "{query}");
            }
        }
    }
}

#[test]
fn range_queries_are_instant_queries_side_by_side() {
    let data: Arc<dyn Queryable> = Arc::new(whole(columns(5)));
    let more = [
        "m_total",
        "-m_total",
        "sum by (group) (m_total)",
        "avg without (series) (m_total)",
        "min by (series) (m_total)",
        "max by (series) (m_total)",
        "count(m_total)",
        "group by (series) (m_total)",
        "stddev(m_total)",
        "stdvar by (group) (m_total)",
        "quantile(0.7, m_total)",
        "topk(3, m_total)",
        "bottomk by (group) (2, m_total)",
        "limitk(4, m_total)",
        "limit_ratio(0.5, m_total)",
        "count_values(\"v\", round(m_total))",
        "m_total + m_total",
        "m_total > on (group, series) m_total offset 1m",
        "m_total >= bool 100",
        "100 < m_total",
        "m_total % 7 ^ 2",
        "m_total * on (group) group_left () sum by (group) (m_total)",
        "m_total and on (group) m_total{series=\"3\"}",
        "m_total{series=\"1\"} or m_total{series=\"2\"}",
        "m_total unless m_total > 50",
        "abs(m_total)",
        "clamp(m_total, 10, 50)",
        "round(m_total, 0.5)",
        "hour(m_total * 1000)",
        "timestamp(m_total)",
        "absent(m_total > 1e9)",
        "absent_over_time(nothing[5m])",
        "scalar(m_total{series=\"1\", group=\"0\"}) + time()",
        "label_replace(m_total, \"dst\", \"$1x\", \"series\", \"(.*)\")",
        "label_join(m_total, \"dst\", \"-\", \"series\", \"group\")",
        "max_over_time(sum by (group) (rate(m_total[1m]))[10m:30s])",
        "vector(1) / 0",
    ];
    for query in RANGE_FUNCTIONS.iter().chain(&more) {
        let (start, end, step) = (300_000, 2_400_000, 300_000);
        let whole = range(data.clone(), query, start, end, step).unwrap_or_else(|e| panic!("{query}: {e}"));
        let mut single = Vec::new();
        for time in (start..=end).step_by(step as usize) {
            let result = instant(data.clone(), query, time).unwrap_or_else(|e| panic!("{query}: {e}"));
            match &result.value {
                Value::Scalar { value, .. } => single.push(("{}".to_owned(), time, value.to_bits())),
                value => single.extend(points(value)),
            }
        }
        single.sort();
        let whole = points(&whole.value);
        let differing = whole.iter().zip(&single).find(|(a, b)| a != b);
        assert!(whole == single, "{query}: {differing:?}, {} and {} points", whole.len(), single.len());
    }
}

#[test]
fn pairs_of_columns_and_groups_agree() {
    // A fill value sends a match through the steps one by one.
    let data: Arc<dyn Queryable> =
        Arc::new(whole(columns(9).into_iter().filter(|s| s.labels.value("series") < "5").collect()));
    for op in ["+", "-", "*", "/", "%", "^", "atan2", "==", "!= bool", ">", "<= bool"] {
        let plain = format!("m_total {op} ignoring (nothing) (m_total * 2)");
        let filled = format!("m_total {op} ignoring (nothing) fill (1) (m_total * 2)");
        let a = range(data.clone(), &plain, 300_000, 2_400_000, 30_000).unwrap();
        let b = range(data.clone(), &filled, 300_000, 2_400_000, 30_000).unwrap();
        assert!(points(&a.value) == points(&b.value), "{op}");
    }
}

fn store() -> MemoryStore {
    let store = MemoryStore::new();
    for i in 0..20 {
        let labels = Labels::from_pairs([("__name__", "m_total"), ("i", &i.to_string())]);
        for t in 0..100 {
            store.put(&labels, t * 15_000, (t * i) as f64, 0);
        }
    }
    store
}

fn limited(limits: QueryLimits) -> Result<QueryResult, EngineError> {
    let query = RangeQuery {
        expr: "sum by (i) (rate(m_total[5m]))".into(),
        start: 300_000,
        end: 1_400_000,
        step: 15_000,
        limits,
        ..RangeQuery::default()
    };
    block_on(engine().range(Arc::new(store()), query))
}

#[test]
fn limits_have_errors_of_their_own() {
    assert!(limited(QueryLimits::default()).is_ok());
    let error = limited(QueryLimits { max_samples: Some(100), ..QueryLimits::default() }).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (EngineErrorKind::Execution, "query processing would load too many samples into memory in query execution")
    );
    let error = limited(QueryLimits { max_bytes: Some(1000), ..QueryLimits::default() }).unwrap_err();
    assert!(matches!(error, EngineError::TooManyBytes(1000)), "{error}");
    let error = limited(QueryLimits { timeout: Some(Duration::ZERO), ..QueryLimits::default() }).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (EngineErrorKind::Timeout, "query timed out in query execution")
    );
    let cancel = Some(Arc::new(AtomicBool::new(true)));
    let error = limited(QueryLimits { cancel, ..QueryLimits::default() }).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (EngineErrorKind::Canceled, "query was canceled in query execution")
    );
}

#[test]
fn deep_queries_do_not_overflow_a_small_stack() {
    let deep = [
        format!("{}m_total{}", "-(".repeat(200), ")".repeat(200)),
        format!("{}m_total{}", "sum(".repeat(400), ")".repeat(400)),
        format!("{}m_total{}", "abs(".repeat(400), ")".repeat(400)),
        format!("m_total{}", " + m_total".repeat(400)),
        format!("{}m_total{}", "max_over_time(".repeat(8), "[1m:15s])".repeat(8)),
    ];
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(move || {
        for query in deep {
            let result = instant(Arc::new(store()), &query, 900_000);
            assert!(result.is_ok(), "{}: {:?}", &query[..40], result.err());
        }
    });
    thread.unwrap().join().unwrap();
}

#[test]
fn errors_as_prometheus_words_them() {
    let data: Arc<dyn Queryable> = Arc::new(store());
    for (query, kind, text) in [
        (
            "m_total[5m]",
            EngineErrorKind::BadData,
            "invalid expression type \"range vector\" for range query, must be Scalar or instant Vector",
        ),
        (
            "\"a\"",
            EngineErrorKind::BadData,
            "invalid expression type \"string\" for range query, must be Scalar or instant Vector",
        ),
        ("m_total[5m", EngineErrorKind::BadData, "1:11: parse error: "),
        ("rate(m_total[5m-5m])", EngineErrorKind::BadData, "13:18: duration must be greater than 0"),
        (
            "m_total + on (none) m_total",
            EngineErrorKind::Execution,
            "found duplicate series for the match group {} on the right hand-side of the operation: [{__name__=\"m_total\", i=\"0\"}, {__name__=\"m_total\", i=\"1\"}];many-to-many matching not allowed: matching labels must be unique on one side",
        ),
        (
            "m_total * on (none) sum(m_total)",
            EngineErrorKind::Execution,
            "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)",
        ),
        (
            "label_replace(m_total, \"i\", \"same\", \"i\", \".*\")",
            EngineErrorKind::Execution,
            "vector cannot contain metrics with the same labelset",
        ),
        (
            "label_replace(m_total, \"a\", \"\", \"i\", \"(\")",
            EngineErrorKind::Execution,
            "invalid regular expression in label_replace(): (",
        ),
        ("topk(NaN, m_total)", EngineErrorKind::Execution, "Parameter value is NaN"),
        ("topk(1e30, m_total)", EngineErrorKind::Execution, "Scalar value 1e+30 overflows int64"),
    ] {
        let error = range(data.clone(), query, 300_000, 600_000, 60_000).unwrap_err();
        assert_eq!(error.kind(), kind, "{query}: {error}");
        let shown = error.to_string();
        assert!(if text.ends_with(": ") { shown.starts_with(text) } else { shown == text }, "{query}: {shown}");
    }
}

#[test]
fn statistics_count_as_prometheus_does() {
    let options = EngineOptions { per_step_stats: true, ..EngineOptions::default() };
    let run = |expr: &str| {
        let query = RangeQuery {
            expr: expr.into(),
            start: 600_000,
            end: 720_000,
            step: 60_000,
            limits: QueryLimits { per_step_stats: true, ..QueryLimits::default() },
            ..RangeQuery::default()
        };
        let samples = block_on(Engine::new(options.clone()).range(Arc::new(store()), query)).unwrap().stats.samples;
        let steps: Vec<u64> = samples.total_per_step.iter().map(|(_, n)| *n).collect();
        (samples.total, samples.read, steps)
    };
    // 20 series, a sample every 15 s.
    assert_eq!(run("m_total"), (60, 60, vec![20, 20, 20]));
    assert_eq!(run("rate(m_total[5m])"), (20 * 60, 20 * 28, vec![400, 400, 400]));
    assert_eq!(run("sum(m_total @ 600)"), (60, 20, vec![20, 20, 20]));
    assert_eq!(run("1 + 2").0, 0);
}

/// A store gives its series in no particular order. What histograms add up to, and the last digits of deviations, depend
/// on the order, so the engine brings them into one.
#[test]
fn the_order_of_series_does_not_show() {
    let mut series = Vec::new();
    for (i, (schema, zero_threshold, first)) in [(6, 1e-128, -2), (1, 1e-3, 1), (4, 2.0, -8)].into_iter().enumerate() {
        let labels = |name: &str| Labels::from_pairs([("__name__", name), ("instance", &*i.to_string())]);
        let histogram = Histogram {
            schema,
            zero_threshold,
            count: 12.0,
            sum: 3.5,
            positive_spans: vec![Span { offset: first, length: 3 }],
            positive_buckets: vec![2.0, 3.0, 1.0],
            negative_spans: vec![Span { offset: first, length: 3 }],
            negative_buckets: vec![1.0, 4.0, 1.0],
            ..Histogram::default()
        };
        let histograms =
            HistogramColumn { timestamps: vec![0], values: vec![Arc::new(histogram)], ..HistogramColumn::default() };
        series.push(Series { labels: labels("h"), histograms, ..Series::default() });
        let floats = FloatColumn::new(vec![0], vec![1_795_390_000.0 + (i * i) as f64 * 37.3]);
        series.push(Series { labels: labels("f"), floats, ..Series::default() });
    }
    let mut turned = series.clone();
    turned.reverse();
    for expr in ["sum(h)", "avg(h)", "stddev(f)", "stdvar(f)", "sum({__name__=~\"f|h\"})", "sum by (instance) (f)"] {
        let ask = |series: &[Series]| {
            let query = InstantQuery { expr: expr.into(), ..InstantQuery::default() };
            block_on(engine().instant(Arc::new(whole(series.to_vec())), query)).unwrap().value
        };
        assert_eq!(ask(&series), ask(&turned), "{expr}");
    }
    // Where the store tells it, its order shows in instant answers.
    let names = |expr: &str, order: [u32; 3]| {
        let mut series: Vec<Series> = series.iter().filter(|s| s.labels.metric_name() == "f").cloned().collect();
        series.iter_mut().zip(order).for_each(|(s, order)| s.order = order);
        let query = InstantQuery { expr: expr.into(), ..InstantQuery::default() };
        let Value::Vector(all) = block_on(engine().instant(Arc::new(whole(series)), query)).unwrap().value else {
            panic!("{expr}: no vector")
        };
        all.iter().map(|s| s.labels.value("instance").to_owned()).collect::<Vec<_>>().concat()
    };
    for expr in
        ["f", "f + 1", "f + on (instance) f", "sum by (instance) (f)", "last_over_time(f[1m])", "topk(3, f * 0)"]
    {
        assert_eq!(names(expr, [0, 0, 0]), "012", "{expr}");
        assert_eq!(names(expr, [9, 4, 6]), "120", "{expr}");
    }
    assert_eq!(names("limitk(1, f)", [9, 4, 6]), "1");
    assert_eq!(names("limitk(1, f)", [0, 0, 0]), "0");
}

/// Notes what is selected.
struct Noting {
    store: MemoryStore,
    selected: std::sync::Mutex<Vec<Vec<Matcher>>>,
}

impl Noting {
    fn new(store: MemoryStore) -> Arc<Noting> {
        Arc::new(Noting { store, selected: std::sync::Mutex::default() })
    }

    fn take(&self) -> Vec<Vec<Matcher>> {
        std::mem::take(&mut *self.selected.lock().unwrap())
    }
}

impl Queryable for Noting {
    fn select(&self, request: SelectRequest) -> BoxFuture<'_, Result<SeriesSet, StorageError>> {
        self.selected.lock().unwrap().push(request.matchers.clone());
        self.store.select(request)
    }

    fn series(&self, query: LabelQuery) -> BoxFuture<'_, Result<LabelResult<Labels>, StorageError>> {
        self.store.series(query)
    }

    fn label_names(&self, query: LabelQuery) -> BoxFuture<'_, Result<LabelResult<String>, StorageError>> {
        self.store.label_names(query)
    }

    fn label_values(&self, name: &str, query: LabelQuery) -> BoxFuture<'_, Result<LabelResult<String>, StorageError>> {
        self.store.label_values(name, query)
    }

    fn exemplars(&self, query: LabelQuery) -> BoxFuture<'_, Result<Vec<(Labels, Vec<Exemplar>)>, StorageError>> {
        self.store.exemplars(query)
    }

    fn metadata(&self, metric: Option<&str>) -> BoxFuture<'_, Result<Vec<MetadataEntry>, StorageError>> {
        self.store.metadata(metric)
    }
}

#[test]
fn parts_that_come_twice_are_evaluated_once() {
    let data = Noting::new(store());
    // The same with and without a blank, which makes parts differ; how many selects the former needs.
    for (expr, selects) in [
        ("sum(rate(m_total[5m])) / (1 + sum(rate(m_total[5m])))", 1),
        ("m_total - m_total", 1),
        ("sum by (i) (m_total) + on (i) m_total * on (i) sum by (i) (m_total)", 2),
        ("sum(m_total) + count(m_total)", 2),
        ("-m_total + -m_total + -m_total", 1),
        ("rate(m_total[5m]) - rate(m_total[10m])", 2),
        ("topk(scalar(count(m_total > 5)), m_total) + on (i) count(m_total > 5) by (i)", 2),
        ("(m_total @ 600) + (m_total @ 600)", 1),
        ("max_over_time(sum(m_total)[5m:1m]) - max_over_time(sum(m_total)[5m:1m])", 1),
        ("histogram_quantile(0.5, sum(m_total)) or sum(m_total)", 1),
    ] {
        let apart = expr.replacen("m_total", "m_total ", 1);
        for (start, end) in [(900_000, 900_000), (300_000, 1_400_000)] {
            let run = |expr: &str| {
                let result = range(data.clone(), expr, start, end, 15_000).unwrap_or_else(|e| panic!("{expr}: {e}"));
                (result, data.take().len())
            };
            let ((once, count), (twice, _)) = (run(expr), run(&apart));
            assert_eq!(count, selects, "{expr}");
            assert!(points(&once.value) == points(&twice.value), "{expr}");
            let samples = |r: &QueryResult| (r.stats.samples.total, r.stats.samples.read);
            assert_eq!(samples(&once), samples(&twice), "{expr}");
        }
    }
}

#[test]
fn shared_parts_keep_their_places_in_annotations() {
    let store = MemoryStore::new();
    for t in 0..100 {
        store.put(&Labels::from_pairs([("__name__", "gauge")]), t * 15_000, t as f64, 0);
        let histogram = Arc::new(Histogram::default());
        store.put_histogram(&Labels::from_pairs([("__name__", "histogram")]), t * 15_000, histogram, 0);
    }
    for (expr, place) in [
        ("rate(gauge[5m]) + rate(gauge[5m])", "(1:24)"),
        // The points of a subquery have no place of their own.
        ("(idelta(histogram[30s:15s])) ^ (idelta(histogram[30s:15s]))", "(1:1)"),
    ] {
        let result = instant(Arc::new(store.clone()), expr, 900_000).unwrap();
        let said = [result.annotations.infos(expr, 10), result.annotations.warnings(expr, 10)].concat();
        assert!(said.iter().any(|s| s.ends_with(place)), "{said:?}");
        assert!(said.iter().filter(|s| !s.contains("incompatible")).count() == 1, "{said:?}");
    }
}

#[test]
fn info_selects_only_what_can_belong_to_its_argument() {
    let store = MemoryStore::new();
    for i in 0..20 {
        let labels = |name: &str| {
            let pairs = [("__name__", name.to_owned()), ("instance", format!("a.{i}")), ("job", "x".to_owned())];
            Labels::from_pairs(pairs)
        };
        store.put(&labels("m"), 1000, 1.0, 0);
        let mut info = labels("target_info").to_builder();
        info.set("version", format!("v{i}"));
        store.put(&info.build(), 1000, 1.0, 0);
    }
    let data = Noting::new(store);
    for (expr, narrowed) in [
        (r#"info(m{instance=~"a.(3|4)"})"#, true),
        (r#"info(sum by (instance, job) (m{instance=~"a.(3|4)"}))"#, true),
        (r#"info(label_replace(m{instance="a.3"}, "instance", "a.4", "", ""))"#, false),
    ] {
        let result = instant(data.clone(), expr, 1000).unwrap();
        let Value::Vector(all) = &result.value else { panic!("{expr}") };
        assert!(all.iter().all(|s| !s.labels.value("version").is_empty()), "{expr}");
        let selects = data.take();
        let info = selects.iter().find(|m| m.iter().any(|m| &*m.value == "target_info")).unwrap();
        let wants = |instance: &str| info.iter().filter(|m| &*m.name == "instance").all(|m| m.matches(instance));
        assert_eq!((wants("a.3"), wants("a.5")), (true, !narrowed), "{expr}: {info:?}");
        assert_eq!(info.iter().any(|m| &*m.name == "job"), narrowed, "{expr}");
    }
}

/// The names of spans with what is above them.
#[derive(Clone, Default)]
struct Spans(Arc<std::sync::Mutex<(Vec<(String, Option<usize>)>, Vec<usize>)>>);

impl tracing::Subscriber for Spans {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, attributes: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        struct Name(String);
        impl tracing::field::Visit for Name {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "otel.name" {
                    self.0 = format!("{value:?}").trim_matches('"').to_owned();
                }
            }
        }
        let mut name = Name(attributes.metadata().name().to_owned());
        attributes.record(&mut name);
        let mut spans = self.0.lock().unwrap();
        let parent = spans.1.last().copied();
        spans.0.push((name.0, parent));
        tracing::span::Id::from_u64(spans.0.len() as u64)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {}

    fn enter(&self, id: &tracing::span::Id) {
        self.0.lock().unwrap().1.push(id.into_u64() as usize - 1);
    }

    fn exit(&self, _: &tracing::span::Id) {
        self.0.lock().unwrap().1.pop();
    }
}

#[test]
fn operators_have_spans_where_they_are_traced() {
    let spans = |expr: &str, trace: bool| {
        let seen = Spans::default();
        tracing::subscriber::with_default(seen.clone(), || {
            let limits = QueryLimits { trace, ..QueryLimits::default() };
            let query = InstantQuery { expr: expr.into(), time: 900_000, limits, ..InstantQuery::default() };
            block_on(engine().instant(Arc::new(store()), query)).unwrap();
        });
        let seen = seen.0.lock().unwrap();
        let name = |i: usize| seen.0[i].0.as_str();
        seen.0.iter().map(|(n, p)| format!("{} > {n}", p.map_or("", name))).collect::<Vec<_>>()
    };
    assert_eq!(spans("sum(rate(m_total[5m])) / 2", false), [""; 0]);
    assert_eq!(
        spans("topk(2, sum by (i) (rate(m_total[5m]))) / 2", true),
        [" > /", "/ > topk", "topk > number", "topk > sum", "sum > rate", "/ > number"]
    );
    let leaves: Vec<String> = (0..64).map(|i| format!("m_total * {i}")).collect();
    let many = std::iter::successors(Some(leaves), |all| {
        let pairs = all.chunks(2).map(|pair| format!("({})", pair.join(" + ")));
        (all.len() > 1).then(|| pairs.collect())
    });
    assert_eq!(spans(&many.last().unwrap().concat(), true).len(), 100, "their number is bounded");
}
