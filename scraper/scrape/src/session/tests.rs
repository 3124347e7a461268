//! Sessions against the in-memory store: the fast path against the plain one, staleness, limits, reports.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use narthex_model::{Labels, Matcher, is_stale};
use narthex_storage::memory::MemoryStore;
use narthex_storage::{ErrorKind, GroupKey, OwnSample, Queryable, SelectRequest, SeriesSpec, WriteBatch};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};

use narthex_model::MetricType;

use super::*;

mod odd;

const TEXT: &str = "text/plain; version=0.0.4";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0";

/// Checks the contract of `ScrapeRow` on the way to the store.
struct Checked {
    inner: Box<dyn GroupAppender>,
    last: Option<(u64, Vec<Slot>)>,
    layouts: Arc<AtomicU64>,
    room: usize,
    registered: std::collections::HashSet<Labels>,
    /// The newest time of each series, where those before it are refused.
    newest: Option<HashMap<Slot, i64>>,
}

impl GroupAppender for Checked {
    fn takes(&self, sample: &OwnSample) -> bool {
        let newest = self.newest.as_ref().and_then(|n| n.get(&sample.slot));
        newest.is_none_or(|newest| sample.timestamp > *newest)
    }

    fn register(&mut self, spec: SeriesSpec<'_>) -> Result<Slot, StorageError> {
        let full = self.registered.len() >= self.room && !spec.budget.exempt;
        if full && !self.registered.contains(spec.labels) {
            return Err(StorageError::new(ErrorKind::Limit, "full"));
        }
        self.registered.insert(spec.labels.clone());
        self.inner.register(spec)
    }

    fn commit(&mut self, row: &ScrapeRow<'_>) -> Result<AppendOutcome, StorageError> {
        assert_eq!(row.slots.len(), row.values.len());
        let mut seen = std::collections::HashSet::new();
        assert!(row.slots.iter().chain(row.stale).all(|s| seen.insert(*s)), "a slot twice");
        if let Some((layout, slots)) = &self.last
            && row.layout != 0
            && *layout == row.layout
        {
            assert_eq!(slots, row.slots, "same layout, other slots");
        }
        if self.last.as_ref().is_none_or(|l| l.0 != row.layout) {
            self.layouts.fetch_add(1, Ordering::Relaxed);
        }
        self.last = Some((row.layout, row.slots.to_vec()));
        let (first, last) = row.own.split_at(row.own_first);
        let mut own: Vec<OwnSample> = first.iter().filter(|own| self.takes(own)).cloned().collect();
        let own_first = own.len();
        if let Some(newest) = &mut self.newest {
            newest.extend(own.iter().map(|own| (own.slot, own.timestamp)));
            newest.extend(row.slots.iter().chain(row.stale).map(|slot| (*slot, row.timestamp)));
        }
        own.extend(last.iter().filter(|own| self.takes(own)).cloned());
        if let Some(newest) = &mut self.newest {
            newest.extend(own[own_first..].iter().map(|own| (own.slot, own.timestamp)));
        }
        self.inner.commit(&ScrapeRow { own: &own, own_first, ..row.clone() })
    }

    fn retire(&mut self, slots: &[Slot]) {
        self.inner.retire(slots);
    }
}

struct Bench {
    store: MemoryStore,
    session: Session,
    scratch: Scratch,
    layouts: Arc<AtomicU64>,
    now: i64,
}

impl Bench {
    fn with_room(rules: SampleRules, room: usize) -> Bench {
        Bench::with(rules, room, None)
    }

    fn with(rules: SampleRules, room: usize, newest: Option<HashMap<Slot, i64>>) -> Bench {
        let store = MemoryStore::new();
        let layouts = Arc::new(AtomicU64::new(0));
        let inner = store.group(&GroupKey("t".into())).unwrap();
        let registered = Default::default();
        let checked = Checked { inner, last: None, layouts: layouts.clone(), room, registered, newest };
        let session = Session::new(Arc::new(store.clone()), Box::new(checked), Arc::new(rules), Arc::default());
        Bench { store, session, scratch: Scratch::default(), layouts, now: 0 }
    }

    fn new(rules: SampleRules) -> Bench {
        Bench::with_room(rules, usize::MAX)
    }

    fn scrape_as(&mut self, content_type: &str, page: &[u8]) -> Outcome {
        self.now += 1000;
        self.session.scrape(&mut self.scratch, self.now, Instant::now(), Fetched::Page { body: page, content_type })
    }

    fn scrape(&mut self, page: &str) -> Outcome {
        self.scrape_as(TEXT, page.as_bytes())
    }

    fn fail(&mut self) -> Outcome {
        self.now += 1000;
        let failed = Fetched::Failed { error: "connection refused", over_size_limit: false };
        self.session.scrape(&mut self.scratch, self.now, Instant::now(), failed)
    }

    /// `labels → value@time …` with `S` for staleness markers.
    fn all(&self) -> BTreeMap<String, String> {
        let request = SelectRequest::new(vec![Matcher::equal("none", "")], i64::MIN, i64::MAX);
        let set = futures::executor::block_on(self.store.select(request)).unwrap().collect_sorted().unwrap();
        set.into_iter()
            .map(|s| {
                let mut text = String::new();
                for (t, v) in s.floats.iter() {
                    let v = if is_stale(v) { "S".to_owned() } else { v.to_string() };
                    text.push_str(&format!("{v}@{t} "));
                }
                for (t, h) in s.histograms.timestamps.iter().zip(&s.histograms.values) {
                    text.push_str(&format!("H{}@{t} ", h.count));
                }
                (s.labels.to_string(), text.trim_end().to_owned())
            })
            .collect()
    }

    fn series(&self, labels: &str) -> String {
        self.all().remove(labels).unwrap_or_default()
    }
}

#[test]
fn values_reports_and_staleness() {
    let mut b = Bench::new(SampleRules::default());
    let o = b.scrape("a 1\nb{x=\"1\"} 2\nc 3\n");
    assert_eq!((o.samples, o.post_relabel, o.new_series, o.error), (3, 3, 3, None));
    b.scrape("a 4\nb{x=\"1\"} 5\nc 6\n");
    assert_eq!(b.layouts.load(Ordering::Relaxed), 1, "the same shape keeps its layout");
    b.scrape("a 7\nc 8\n");
    b.fail();
    b.fail();
    let o = b.scrape("a 9\nc 10\n");
    assert_eq!((o.new_series, b.layouts.load(Ordering::Relaxed)), (0, 4));
    assert_eq!(b.series(r#"{__name__="a"}"#), "1@1000 4@2000 7@3000 S@4000 9@6000");
    assert_eq!(b.series(r#"{__name__="b", x="1"}"#), "2@1000 5@2000 S@3000");
    assert_eq!(b.series(r#"{__name__="c"}"#), "3@1000 6@2000 8@3000 S@4000 10@6000");
    assert_eq!(b.series(r#"{__name__="up"}"#), "1@1000 1@2000 1@3000 0@4000 0@5000 1@6000");
    assert_eq!(b.series(r#"{__name__="scrape_samples_scraped"}"#), "3@1000 3@2000 2@3000 0@4000 0@5000 2@6000");
    assert_eq!(b.series(r#"{__name__="scrape_series_added"}"#), "3@1000 0@2000 0@3000 0@4000 0@5000 0@6000");
    assert!(b.series(r#"{__name__="scrape_duration_seconds"}"#).contains("@6000"));
    b.now += 1000;
    b.session.end(b.now).unwrap();
    assert!(b.series(r#"{__name__="a"}"#).ends_with("S@7000"));
    assert!(b.series(r#"{__name__="up"}"#).ends_with("S@7000"));
    assert!(b.series(r#"{__name__="b", x="1"}"#).ends_with("S@3000"));
}

#[test]
fn a_bad_page_is_dropped_whole() {
    let mut b = Bench::new(SampleRules::default());
    b.scrape("a 1\nb 2\n");
    let o = b.scrape("a 3\nb 4\nnew 5\n1bad 6\n");
    assert_eq!((o.samples, o.post_relabel, o.new_series), (3, 3, 1));
    assert!(o.error.unwrap().starts_with("expected a valid start token"));
    // What was read before the fault is not stored, and not stale either: so does Prometheus.
    assert_eq!(b.series(r#"{__name__="a"}"#), "1@1000");
    assert_eq!(b.series(r#"{__name__="new"}"#), "");
    assert_eq!(b.series(r#"{__name__="up"}"#), "1@1000 0@2000");
    let o = b.scrape("b 1\na 3\nnew 5\n1bad 6\n");
    assert_eq!((o.samples, o.new_series), (3, 0), "a series is new once");
    let o = b.scrape_as("text/html", b"a 1\n");
    assert!(o.error.unwrap().contains("unsupported Content-Type"));
    assert_eq!(b.series(r#"{__name__="a"}"#), "1@1000 S@4000");
    assert_eq!(b.series(r#"{__name__="b"}"#), "2@1000 S@4000");
    let o = b.scrape_as("", b"");
    assert_eq!((o.error, o.samples), (None, 0));
    let o = b.scrape("a 3\nb 4\n");
    assert_eq!((o.error, o.new_series), (None, 0), "an empty page forgets nothing");
    b.scrape("b 4\n1bad 6\n");
    assert_eq!(b.series(r#"{__name__="a"}"#), "1@1000 S@4000 3@6000 S@7000");
    assert_eq!(b.series(r#"{__name__="b"}"#), "2@1000 S@4000 4@6000");
    b.scrape("new 1\n");
    assert_eq!(b.series(r#"{__name__="b"}"#), "2@1000 S@4000 4@6000 S@8000");
}

#[test]
fn the_first_of_duplicates_wins() {
    let mut b = Bench::new(SampleRules::default());
    for _ in 0..2 {
        let o = b.scrape("a 1\na 2\nb 3\na{} 4\n");
        assert_eq!((o.samples, o.post_relabel, o.duplicates, o.error), (4, 4, 2, None));
    }
    assert_eq!(b.series(r#"{__name__="a"}"#), "1@1000 1@2000");
    // The first one goes; the second takes its place without a gap.
    b.scrape("a 2\nb 3\n");
    assert_eq!(b.series(r#"{__name__="a"}"#), "1@1000 1@2000 2@3000");
    assert_eq!(b.series(r#"{__name__="b"}"#), "3@1000 3@2000 3@3000");
}

#[test]
fn own_timestamps() {
    let rules = SampleRules::default;
    let mut b = Bench::new(rules());
    b.scrape("a 1 500\nb 2\nc 9 999999999\n");
    let o = b.scrape("a 3 1500\nb 4\nc 9 999999999\n");
    assert_eq!((o.out_of_bounds, o.post_relabel), (1, 3));
    b.scrape("b 5\n");
    assert_eq!(b.series(r#"{__name__="a"}"#), "1@500 3@1500", "no marker for explicit timestamps");
    assert_eq!(b.series(r#"{__name__="c"}"#), "");
    let mut b = Bench::new(SampleRules { track_timestamps_staleness: true, ..rules() });
    b.scrape("a 1 500\n");
    b.scrape("b 1\n");
    assert_eq!(b.series(r#"{__name__="a"}"#), "1@500 S@2000");
    let mut b = Bench::new(SampleRules { honor_timestamps: false, ..rules() });
    b.scrape("a 1 500\na 2 600\n");
    b.scrape("a 1 500\n");
    b.scrape("\n");
    assert_eq!(b.series(r#"{__name__="a"}"#), "1@1000 1@2000 S@3000");
    // A timestamp that comes and goes.
    let mut b = Bench::new(rules());
    for page in ["a 1\nb 1\n", "a 2 1500\nb 2\n", "a 3\nb 3\n"] {
        b.scrape(page);
    }
    assert_eq!(b.series(r#"{__name__="a"}"#), "1@1000 2@1500 S@2000 3@3000");
    assert_eq!(b.series(r#"{__name__="b"}"#), "1@1000 2@2000 3@3000");
}

#[test]
fn limits_fail_the_scrape() {
    let mut b = Bench::new(SampleRules { sample_limit: 2, extra_metrics: true, ..SampleRules::default() });
    let o = b.scrape("a 1\nb 2\nb 3\n");
    assert_eq!(o.error, None);
    let o = b.scrape("a 1\nb 2\nc 3\nd 4\n");
    assert_eq!((o.error.as_deref(), o.samples, o.post_relabel, o.new_series), (Some("sample limit exceeded"), 4, 4, 0));
    assert!(o.sample_limit);
    assert_eq!(b.series(r#"{__name__="a"}"#), "1@1000");
    assert_eq!(b.series(r#"{__name__="scrape_sample_limit"}"#), "2@1000 2@2000");
    assert_eq!(b.series(r#"{__name__="scrape_timeout_seconds"}"#), "10@1000 10@2000");
    assert_eq!(b.series(r#"{__name__="scrape_body_size_bytes"}"#), "12@1000 16@2000");
    // Beyond the limit a line of the last page is none of those that go on, however it is recognised.
    let mut b = Bench::new(SampleRules { sample_limit: 3, ..SampleRules::default() });
    assert_eq!(b.scrape("m 2\nn 4\no 1\n").error, None);
    let o = b.scrape("x 7\ny 9\n# TYPE c counter\nz 1\nm 1\n");
    assert_eq!((o.error.as_deref(), o.samples), (Some("sample limit exceeded"), 4));
    assert_eq!(b.series(r#"{__name__="n"}"#), "4@1000 S@2000");
    assert_eq!(b.series(r#"{__name__="m"}"#), "2@1000 S@2000");
    // The same text again counts for no limit, the same labels in other words do.
    let mut b = Bench::new(SampleRules { sample_limit: 2, ..SampleRules::default() });
    for _ in 0..2 {
        let o = b.scrape("a{x=\"1\",y=\"1\"} 1\na{y=\"1\",x=\"1\"} 1\nb 2\n");
        assert_eq!(o.error.as_deref(), Some("sample limit exceeded"));
    }
    let mut b = Bench::new(SampleRules::default());
    for new in [2, 0] {
        let o = b.scrape("a{x=\"1\",y=\"1\"} 1\na{y=\"1\",x=\"1\"} 1\n");
        assert_eq!((o.error, o.duplicates, o.new_series), (None, 1, new));
    }
    let mut b = Bench::new(SampleRules { label_limit: 1, ..SampleRules::default() });
    let o = b.scrape("a 1\nb{x=\"1\"} 2\n");
    assert!(o.label_limit && o.error.unwrap().starts_with("label_limit exceeded (metric: b"));
}

#[test]
fn series_that_the_store_has_no_room_for_are_left_out() {
    let mut b = Bench::with_room(SampleRules::default(), 6);
    for i in 1..=12 {
        if i == 9 {
            // From here on there is room; refused series are tried again at the tenth scrape.
            b.session.appender = b.store.group(&GroupKey("t".into())).unwrap();
            let rules = b.session.rules.clone();
            let old = std::mem::replace(
                &mut b.session,
                Session::new(
                    Arc::new(b.store.clone()),
                    b.store.group(&GroupKey("t".into())).unwrap(),
                    rules,
                    Arc::default(),
                ),
            );
            drop(old);
        }
        let o = b.scrape("a 1\nb 2\nc 3\n");
        assert_eq!((o.error, o.samples, o.refused), (None, 3, if i < 9 { 2 } else { 0 }), "{i}");
    }
    assert_eq!(b.series(r#"{__name__="b"}"#), "2@9000 2@10000 2@11000 2@12000");
    assert_eq!(b.series(r#"{__name__="a"}"#).split(' ').count(), 12);
}

#[test]
fn a_full_store_still_says_how_scrapes_went() {
    let rules = SampleRules { extra_metrics: true, series_limit: 7, ..SampleRules::default() };
    let mut b = Bench::with_room(rules, 0);
    let o = b.scrape("a 1\nb 2\n");
    assert_eq!((o.error, o.samples, o.refused), (None, 2, 2));
    assert!(o.store_error.is_none());
    b.fail();
    assert_eq!(b.series(r#"{__name__="up"}"#), "1@1000 0@2000");
    assert_eq!(b.all().len(), REPORTS.len(), "{:?}", b.all());
    assert_eq!(b.series(r#"{__name__="scrape_series_current"}"#), "0@1000 0@2000");
    assert_eq!(b.series(r#"{__name__="scrape_series_limit"}"#), "7@1000 7@2000");
    assert_eq!(b.series(r#"{__name__="scrape_series_limit_samples_dropped"}"#), "2@1000 0@2000");
    // What a page exposes under such a name is the same series.
    let o = b.scrape("up 7\na 1\n");
    assert_eq!((o.refused, b.series(r#"{__name__="up"}"#)), (1, "1@1000 0@2000 7@3000".to_owned()));
}

#[test]
fn relabelling_runs_for_new_series_and_after_a_change() {
    use narthex_model::{Action, RelabelConfig, RelabelRegex};
    let drop_b = RelabelConfig {
        source_labels: vec!["__name__".into()],
        regex: RelabelRegex::new("b").unwrap(),
        action: Some(Action::Drop),
        ..RelabelConfig::default()
    };
    let rules = SampleRules { relabel: Arc::from([drop_b]), ..SampleRules::default() };
    let mut b = Bench::new(rules);
    for _ in 0..2 {
        let o = b.scrape("a 1\nb 2\nb 3\n");
        assert_eq!((o.samples, o.post_relabel), (3, 1));
    }
    b.session.set_rules(Arc::new(SampleRules {
        target_labels: Labels::from_pairs([("job", "j")]),
        ..SampleRules::default()
    }));
    b.scrape("a 1\nb 2\n");
    assert_eq!(b.series(r#"{__name__="a"}"#), "1@1000 1@2000 S@3000");
    assert_eq!(b.series(r#"{__name__="b", job="j"}"#), "2@3000");
    assert_eq!(b.series(r#"{__name__="up", job="j"}"#), "1@3000");
}

#[test]
fn metadata_follows_the_page() {
    let mut b = Bench::new(SampleRules::default());
    b.scrape("# HELP a first\n# TYPE a counter\na 1\n# TYPE b gauge\nb 1\n");
    b.scrape("# HELP a second\n# TYPE a counter\na 1\n# TYPE b gauge\nb 1\n");
    let entries = b.session.metadata();
    let entries: Vec<_> =
        entries.lock().iter().map(|e| (e.metric.clone(), e.metadata.metric_type, e.metadata.help.clone())).collect();
    assert_eq!(
        entries,
        [("a".into(), MetricType::Counter, "second".into()), ("b".into(), MetricType::Gauge, String::new())]
    );
    assert_eq!(b.layouts.load(Ordering::Relaxed), 1, "comments are no part of the layout");
    b.scrape("# HELP a second\n# TYPE a untyped\na 1\nb 1\n");
    assert_eq!(b.session.metadata().lock()[0].metadata.metric_type, MetricType::Unknown);
    let stored = futures::executor::block_on(b.store.metadata(Some("a"))).unwrap();
    assert!(stored.iter().any(|e| e.metadata.help == "second"));
}

#[test]
fn the_le_of_a_new_bucket_is_normalised_behind_a_known_type() {
    let mut b = Bench::new(SampleRules::default());
    b.scrape("# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 1\n# TYPE g gauge\ng 1\n");
    b.scrape("# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"2\"} 1\nh_bucket{le=\"+Inf\"} 1\n# TYPE g gauge\ng 1\n");
    assert_eq!(b.series(r#"{__name__="h_bucket", le="2.0"}"#), "1@2000");
    assert_eq!(b.series(r#"{__name__="h_bucket", le="+Inf"}"#), "1@1000 1@2000");
    assert_eq!(b.series(r#"{__name__="g"}"#), "1@1000 1@2000");
}

#[test]
fn exemplars_and_converted_histograms() {
    let mut b = Bench::new(SampleRules { convert_classic_histograms: true, ..SampleRules::default() });
    let page = "# TYPE h histogram\nh_bucket{le=\"1\"} 1 # {id=\"x\"} 0.5\nh_bucket{le=\"+Inf\"} 2\nh_count 2\nh_sum 3\n# TYPE c counter\nc_total 5 # {id=\"y\"} 1 0.25\n# EOF\n";
    for _ in 0..2 {
        let o = b.scrape_as(OPEN_METRICS, page.as_bytes());
        assert_eq!((o.error, o.samples), (None, 2));
    }
    assert_eq!(b.series(r#"{__name__="h"}"#), "H2@1000 H2@2000");
    let query = narthex_storage::LabelQuery {
        selectors: vec![vec![Matcher::equal("none", "")]],
        maxt: 9999,
        ..Default::default()
    };
    let exemplars = futures::executor::block_on(b.store.exemplars(query)).unwrap();
    assert_eq!(exemplars.len(), 1, "those of a histogram need a timestamp");
    assert_eq!(exemplars[0].1[0].timestamp, 250);
    b.scrape_as(OPEN_METRICS, b"# EOF\n");
    assert_eq!(b.series(r#"{__name__="c_total"}"#), "5@1000 5@2000 S@3000");
}

#[test]
fn formats_do_not_forgive_each_others_faults() {
    let mut b = Bench::new(SampleRules::default());
    assert_eq!(b.scrape("#odd\na 1\n").error, None);
    let o = b.scrape_as(OPEN_METRICS, b"#odd\na 1\n");
    assert!(o.error.is_some());
    assert_eq!(b.scrape_as(OPEN_METRICS, b"a 1\n# EOF\n").error, None);
    assert!(b.scrape_as(OPEN_METRICS, b"a 1\n").error.is_some());
    assert_eq!(b.scrape("a 1\n").error, None);
    assert!(b.scrape_as(OPEN_METRICS, b"a 1\n").error.is_some());
    // What follows a broken end of line is not taken for a line.
    for _ in 0..2 {
        assert!(b.scrape_as(OPEN_METRICS, b"a 1 # b 2\n# EOF\n").error.is_some());
        assert_eq!(b.scrape_as(OPEN_METRICS, b"a 1\nb 2\n# EOF\n").error, None);
    }
}

/// Prometheus's verdicts on the OpenMetrics suite, now with what only a whole scrape can tell.
#[test]
fn open_metrics_suite_as_scraped() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/openmetrics");
    let verdicts = std::fs::read(root.join("prometheus-verdicts.json")).unwrap();
    let verdicts: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&verdicts).unwrap();
    let mut wrong = Vec::new();
    for (name, verdict) in &verdicts {
        let page = std::fs::read(root.join("parsers").join(name).join("metrics")).unwrap();
        let mut b = Bench::new(SampleRules::default());
        b.now = 1_790_000_000_000;
        let o = b.scrape_as(OPEN_METRICS, &page);
        let expected = (verdict["up"] == 1, verdict["samples"].as_u64().unwrap_or(u64::MAX));
        let error = verdict["error"].as_str().unwrap_or_default();
        if (o.error.is_none(), o.samples) != expected || o.error.as_deref().unwrap_or_default() != error {
            wrong.push(format!("{name}: {:?} {}, not {verdict}", o.error, o.samples));
        }
    }
    assert_eq!((verdicts.len(), wrong), (211, vec![]));
}

/// An independent parser reads the same from a page that it understands.
#[test]
fn prometheus_parse_agrees_on_simple_pages() {
    let mut page = String::new();
    for i in 0..200 {
        page.push_str(&format!("m{}{{a=\"v{i}\",b=\"x y\"}} {}\n", i % 7, (i as f64 - 50.0) * 1.25));
    }
    let mut b = Bench::new(SampleRules::default());
    b.scrape(&page);
    let theirs = prometheus_parse::Scrape::parse(page.lines().map(|l| Ok(l.to_owned()))).unwrap();
    let theirs: BTreeMap<String, String> = theirs
        .samples
        .iter()
        .map(|s| {
            let mut labels = Labels::from_pairs(s.labels.iter().map(|(n, v)| (n.clone(), v.clone()))).to_builder();
            labels.set("__name__", s.metric.as_str());
            let prometheus_parse::Value::Untyped(v) = s.value else { panic!("{s:?}") };
            (labels.build().to_string(), v.to_string())
        })
        .collect();
    let ours: BTreeMap<String, String> =
        exposed(&b).into_iter().map(|(l, v)| (l, v.into_values().next().unwrap_or_default())).collect();
    assert_eq!(ours, theirs);
}

/// Lines made to be costly are read, or refused, in a moment.
#[test]
fn hostile_lines() {
    let mut b = Bench::new(SampleRules::default());
    let labels: String = (0..100_000).map(|i| format!("l{i}=\"\",")).collect();
    assert_eq!(b.scrape(&format!("a{{{labels}}} 1\n")).error, None);
    let labels: String = (0..100_000).map(|i| format!("l{}=\"0123456789\",", 99_999 - i)).collect();
    assert!(b.scrape(&format!("a{{{labels}}} 1\n")).error.unwrap().contains("bytes long"));
    let exemplar = format!("a 1 # {{{labels}}} 1\n# EOF\n");
    assert_eq!(b.scrape_as(OPEN_METRICS, exemplar.as_bytes()).error, None);
    let long = "9".repeat(2 << 20);
    assert!(b.scrape(&format!("a {long}\n")).error.unwrap().len() < 2000);
    assert!(b.scrape(&format!("a{{x=\"{long}\"}} 1\n")).error.unwrap().len() < 2000);
    assert!(b.scrape(&format!("a{{x=\"{long}")).error.unwrap().len() < 2000);
    assert_eq!(b.scrape(&format!("# {long}\n# HELP a {long}\n")).error, None);
    assert_eq!(b.session.metadata().lock()[0].metadata.help.len(), MAX_DESCRIPTION);
    assert_eq!(b.scrape(&"\n".repeat(1 << 20)).error, None);
    assert!(b.scrape(&"a{".repeat(1 << 20)).error.is_some());
    // The same series a hundred thousand times.
    let o = b.scrape(&"a 1\n".repeat(100_000));
    assert_eq!((o.error, o.samples, o.duplicates), (None, 100_000, 99_999));
}

type Samples = BTreeMap<String, BTreeMap<i64, String>>;

fn exposed(b: &Bench) -> Samples {
    let mut out = Samples::new();
    for (labels, text) in b.all() {
        if labels.contains("\"scrape_") || labels == "{__name__=\"up\"}" {
            continue;
        }
        let samples = text.split(' ').filter_map(|s| s.split_once('@'));
        out.insert(labels, samples.map(|(v, t)| (t.parse().unwrap(), v.to_owned())).collect());
    }
    out
}

/// All exemplars, as text.
fn exemplars(b: &Bench) -> std::collections::BTreeSet<String> {
    let selectors = vec![vec![Matcher::equal("none", "")]];
    let any = narthex_storage::LabelQuery { selectors, mint: i64::MIN, maxt: i64::MAX, ..Default::default() };
    let found = futures::executor::block_on(b.store.exemplars(any)).unwrap();
    let text =
        |labels: &Labels, e: &narthex_model::Exemplar| format!("{labels} {} {}@{}", e.labels, e.value, e.timestamp);
    found.iter().flat_map(|(labels, all)| all.iter().map(|e| text(labels, e))).collect()
}

fn figures(o: &Outcome) -> (Option<String>, u64, u64, u64, u64) {
    (o.error.clone(), o.samples, o.post_relabel, o.duplicates, o.out_of_bounds)
}

/// The same pages through one session (fast where it can) and through a new session each (never fast): same series,
/// values, counts and errors.
fn check_equivalence(content_type: &str, pages: &[Vec<u8>]) {
    let mut fast = Bench::new(SampleRules::default());
    // No page has a timestamp of this kind.
    fast.now = 77_777_777;
    let mut expected = Samples::new();
    let mut previous: Vec<String> = Vec::new();
    let mut expected_exemplars = std::collections::BTreeSet::new();
    for (i, page) in pages.iter().enumerate() {
        let got = fast.scrape_as(content_type, page);
        let mut plain = Bench::new(SampleRules::default());
        plain.now = fast.now - 1000;
        let want = plain.scrape_as(content_type, page);
        assert_eq!(figures(&got), figures(&want), "page {i}");
        let samples = exposed(&plain);
        expected_exemplars.extend(exemplars(&plain));
        let current: Vec<String> =
            samples.iter().filter(|(_, v)| v.contains_key(&fast.now)).map(|(l, _)| l.clone()).collect();
        for labels in previous.iter().filter(|l| !current.contains(l)) {
            expected.entry(labels.clone()).or_default().insert(fast.now, "S".to_owned());
        }
        for (labels, values) in samples {
            expected.entry(labels).or_default().extend(values);
        }
        previous = current;
    }
    let got = exposed(&fast);
    for (labels, samples) in &expected {
        assert_eq!(got.get(labels), Some(samples), "{labels}");
    }
    assert_eq!(got.len(), expected.len());
    assert_eq!(exemplars(&fast), expected_exemplars);
}

/// Metrics of which a page says two things: the fast path knows of the one that changed last, and of the last one on
/// the page when it reads all of it anew, some scrapes later.
fn contradicted(page: &[u8], metrics: &mut std::collections::HashSet<String>) {
    let page = String::from_utf8_lossy(page);
    let mut said = BTreeMap::new();
    for line in page.split('\n') {
        let mut words = line.trim_start_matches(['#', ' ', '\t']).split_ascii_whitespace();
        if let (Some(kind @ ("HELP" | "TYPE" | "UNIT")), Some(metric)) = (words.next(), words.next())
            && *said.entry((kind, metric)).or_insert(line) != line
        {
            metrics.insert(metric.to_owned());
        }
    }
}

/// The same pages through one session, and through one that must read every line by the parser: all the same. How many
/// pages were taken.
fn check_in_place(content_type: &str, pages: &[Vec<u8>]) -> usize {
    let (mut taken, mut doubtful) = (0, Default::default());
    let (mut fast, mut slow) = (Bench::new(SampleRules::default()), Bench::new(SampleRules::default()));
    for (i, page) in pages.iter().enumerate() {
        slow.session.shape.lines.iter_mut().for_each(|l| l.len = 0);
        slow.session.shape.blocks.iter_mut().for_each(|b| b.len = u32::MAX);
        let (got, want) = (fast.scrape_as(content_type, page), slow.scrape_as(content_type, page));
        assert_eq!(figures(&got), figures(&want), "page {i}: {:?}", String::from_utf8_lossy(page));
        assert_eq!(got.new_series, want.new_series, "page {i}: {:?}", String::from_utf8_lossy(page));
        contradicted(page, &mut doubtful);
        let described = |b: &Bench| -> Vec<String> {
            let entries = b.session.metadata();
            let entries = entries.lock();
            entries.iter().filter(|e| !doubtful.contains(&e.metric)).map(|e| format!("{e:?}")).collect()
        };
        assert_eq!(described(&fast), described(&slow), "page {i}: {:?}", String::from_utf8_lossy(page));
        taken += usize::from(got.error.is_none());
    }
    let (got, want) = (exposed(&fast), exposed(&slow));
    for (labels, samples) in &want {
        assert_eq!(
            got.get(labels),
            Some(samples),
            "{labels} on {:?}",
            pages.iter().map(|p| String::from_utf8_lossy(p))
        );
    }
    assert_eq!(got.len(), want.len());
    assert_eq!(exemplars(&fast), exemplars(&slow));
    taken
}

fn recorded() -> Vec<(String, Vec<u8>)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut out = Vec::new();
    let pages = std::fs::read_dir(root.join("openmetrics/parsers")).unwrap().map(|e| e.unwrap().path().join("metrics"));
    let samples = std::fs::read_dir(root.join("exposition/samples")).unwrap().map(|e| e.unwrap().path());
    for path in pages.chain(samples) {
        out.push((path.display().to_string(), std::fs::read(&path).unwrap()));
    }
    out.sort();
    out
}

#[test]
fn fast_path_equals_plain_path_on_recorded_pages() {
    for (name, page) in recorded() {
        let content_type = if name.ends_with(".prom.txt") { TEXT } else { OPEN_METRICS };
        // Twice the same, then with every digit of a value changed, then the same again.
        let other: Vec<u8> = page.iter().map(|b| if *b == b'3' { b'4' } else { *b }).collect();
        check_equivalence(content_type, &[page.clone(), page.clone(), other, page]);
    }
}

#[test]
fn fast_path_equals_plain_path_on_mutated_pages() {
    let mut rng = StdRng::seed_from_u64(7);
    let small: Vec<_> = recorded().into_iter().filter(|(_, p)| p.len() < 5000 && !p.is_empty()).collect();
    for round in 0..400 {
        let (name, page) = &small[round % small.len()];
        let content_type = if name.ends_with(".prom.txt") || round % 3 == 0 { TEXT } else { OPEN_METRICS };
        let mut pages = vec![page.clone()];
        for _ in 0..4 {
            let mut page = pages.last().unwrap().clone();
            let at = rng.random_range(0..page.len());
            match rng.random_range(0..5) {
                0 => page[at] = rng.random(),
                1 => page[at] = *b" \n\"\\{}#=,.0e\0\t".choose(&mut rng).unwrap(),
                2 => {
                    page.remove(at);
                }
                3 => page.insert(at, *b" \n\"1#".choose(&mut rng).unwrap()),
                _ => {
                    let mut lines: Vec<_> = page.split_inclusive(|b| *b == b'\n').collect();
                    lines.shuffle(&mut rng);
                    page = lines.concat();
                }
            }
            if page.is_empty() {
                break;
            }
            pages.push(page);
            if rng.random_bool(0.5) {
                pages.push(pages[0].clone());
            }
        }
        check_in_place(content_type, &pages);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn fast_path_equals_plain_path_while_series_come_and_go(seed in any::<u64>(), open_metrics in any::<bool>()) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut families: Vec<(usize, Vec<usize>)> = (0..rng.random_range(1..6)).map(|f| (f, (0..rng.random_range(0..8)).collect())).collect();
        let mut pages = Vec::new();
        for _ in 0..10 {
            let mut page = String::new();
            for (f, series) in &families {
                let kind = if f % 2 == 0 { "histogram" } else { "gauge" };
                let help = if rng.random_bool(0.1) { rng.random::<u8>() } else { 0 };
                page.push_str(&format!("# TYPE f{f} {kind}\n# HELP f{f} {help}\n"));
                for s in series {
                    let value = match rng.random_range(0..6) {
                        0 => "NaN".to_owned(),
                        1 => "+Inf".to_owned(),
                        2 => format!("{}", rng.random::<f64>()),
                        3 => format!("{:e}", rng.random::<f64>()),
                        _ => format!("{}", rng.random_range(-9..99)),
                    };
                    let timestamp = match rng.random_range(0..30) {
                        0 => format!(" {}", rng.random_range(1..9)),
                        _ => String::new(),
                    };
                    let exemplar = match rng.random_range(0..6) {
                        0 if open_metrics && f % 2 == 0 => {
                            format!(" # {{trace_id=\"{}\"}} 0.5 {}", rng.random::<u8>(), pages.len() + 1)
                        }
                        _ => String::new(),
                    };
                    page.push_str(&format!("f{f}_bucket{{le=\"{s}\"}} {value}{timestamp}{exemplar}\n"));
                }
            }
            if open_metrics {
                page.push_str("# EOF\n");
            }
            pages.push(page.into_bytes());
            for (_, series) in &mut families {
                match rng.random_range(0..8) {
                    0 => series.shuffle(&mut rng),
                    1 => series.push(rng.random_range(0..12)),
                    2 => { series.pop(); }
                    3 if !series.is_empty() => { series.remove(0); }
                    4 => series.insert(0, rng.random_range(0..12)),
                    _ => {}
                }
            }
            if rng.random_bool(0.1) {
                families.shuffle(&mut rng);
            }
        }
        check_equivalence(if open_metrics { OPEN_METRICS } else { TEXT }, &pages);
    }
}

/// A sample whose own time the store refuses makes no series known: neither is it new, nor is a later line of the page
/// its duplicate. Of a known series it ends what staleness follows.
#[test]
fn own_times_that_the_store_refuses() {
    let check = |track: bool, pages: &[&str], added: &[u64], series: &str| {
        let rules = SampleRules { track_timestamps_staleness: track, ..SampleRules::default() };
        let mut b = Bench::with(rules, usize::MAX, Some(HashMap::new()));
        b.now = 100_000;
        let new: Vec<u64> = pages.iter().map(|page| b.scrape(page).new_series).collect();
        assert_eq!((&new[..], b.series("{__name__=\"a\"}").as_str()), (added, series), "{pages:?}");
    };
    // Later ones are taken, earlier ones are not.
    check(false, &["a 1 90000\n", "a 2 80000\n", "a 3 95000\n"], &[1, 0, 0], "1@90000 3@95000");
    // Tracked, the refused one ends the series, and is behind its marker from then on.
    check(true, &["a 1 90000\n", "a 2 80000\n", "a 3 95000\n"], &[1, 0, 0], "1@90000 S@102000");
    // Refused from the first: new once it is taken.
    check(false, &["a 1 900000\n", "a 2 90000\n"], &[0, 1], "2@90000");
    check(false, &["a 1 900000\na 2\n"], &[1], "2@101000");
    // Known by the second line, the first is the one that counts from the second page on.
    check(false, &["a 1 900000\na 2\n", "a 1 900000\na 3\n", "a 4\n"], &[1, 0, 0], "2@101000 S@102000 4@103000");
    // A sample ahead of its scrape is in the way of those behind it.
    check(false, &["a 1 200000\n", "a 2\n", "a 3\n", "a 4 300000\n"], &[1, 0, 0, 0], "1@200000 4@300000");
}

/// What stood before the fault of a page is watched for staleness although nothing of the page was stored.
#[test]
fn series_of_a_page_that_failed_are_marked_stale() {
    let check = |pages: &[&str], series: &str| {
        let mut b = Bench::with(SampleRules::default(), usize::MAX, Some(HashMap::new()));
        b.now = 100_000;
        for page in pages {
            b.scrape(page);
        }
        assert_eq!(b.series("{__name__=\"a\"}"), series, "{pages:?}");
    };
    // It comes with a time of its own then, and the marker is behind that.
    check(&["a 1\n!\n", "a 2 90000\n", "a 3 95000\n"], "2@90000 S@102000");
    check(&["a 1 90000\nb 1\n", "a 2\n!\n", "a 1 90000\nb 1\n"], "1@90000 S@103000");
    // Gone again it was never there.
    check(&["b 1\n", "a 2\nb 1\n!\n", "b 1\n", "b 1\n"], "S@103000");
    // Behind the fault nothing is watched, but what was before it ends at once.
    check(&["a 1\n", "!\na 2\n", "a 3 90000\n"], "1@101000 S@102000");
}

/// A marker or a report of the scrape's time is behind the page's own samples of the series.
#[test]
fn own_times_come_before_what_ends_their_series() {
    let mut b = Bench::with(SampleRules::default(), usize::MAX, Some(HashMap::new()));
    b.now = 100_000;
    b.scrape("a 1\nup 7 100500\n");
    b.scrape("a 2 101500\nup 7 100500\n");
    assert_eq!(b.series("{__name__=\"a\"}"), "1@101000 2@101500 S@102000");
    assert_eq!(b.series("{__name__=\"up\"}"), "7@100500 1@101000 1@102000");
}

#[test]
fn beginnings_that_are_made_up() {
    let rules = SampleRules { start_synthesis: true, ..SampleRules::default() };
    let check = |page: &[&str], counter: &str, gauge: &str| {
        let mut b = Bench::new(rules.clone());
        for page in page {
            assert_eq!(b.scrape(page).error.is_some(), page.contains('!'), "{page}");
        }
        assert_eq!(b.series("{__name__=\"c_total\"}"), counter, "{page:?}");
        assert_eq!(b.series("{__name__=\"g\"}"), gauge, "{page:?}");
    };
    let page = |c: u32, g: u32| format!("# TYPE c counter\nc_total {c}\n# TYPE g gauge\ng {g}\n");
    check(&[&page(5, 1), &page(5, 2), &page(9, 3), &page(2, 4)], "0@2000 4@3000 2@4000", "1@1000 2@2000 3@3000 4@4000");
    check(&[&page(5, 1), "g 2\n", &page(9, 3), &page(10, 4)], "1@4000", "1@1000 2@2000 3@3000 4@4000");
    check(&[&page(5, 1), &(page(7, 2) + "!\n"), &page(9, 3)], "4@3000", "1@1000 3@3000");
    check(&["g 1\nc_total 5\n", "g 1\nc_total 6\n"], "5@1000 6@2000", "1@1000 1@2000");
}

/// A store that refuses to commit now and then must not see a layout that it does not know.
#[test]
fn a_failed_commit_starts_a_new_layout() {
    struct Refusing(u64, Option<u64>);
    impl GroupAppender for Refusing {
        fn register(&mut self, spec: SeriesSpec<'_>) -> Result<Slot, StorageError> {
            Ok(spec.labels.stable_hash() as u16 as Slot)
        }
        fn commit(&mut self, row: &ScrapeRow<'_>) -> Result<AppendOutcome, StorageError> {
            self.0 += 1;
            if self.0 == 2 {
                self.1 = Some(row.layout);
                return Err(StorageError::new(ErrorKind::Unavailable, "disk full"));
            }
            assert_ne!(Some(row.layout), self.1);
            Ok(AppendOutcome::default())
        }
        fn retire(&mut self, _slots: &[Slot]) {}
    }
    struct Store;
    impl Appendable for Store {
        fn group(&self, _key: &GroupKey) -> Result<Box<dyn GroupAppender>, StorageError> {
            Ok(Box::new(Refusing(0, None)))
        }
        fn write(&self, _batch: &WriteBatch) -> Result<AppendOutcome, StorageError> {
            Ok(AppendOutcome::default())
        }
        fn places(&self, labels: &[&Labels]) -> Vec<Option<narthex_storage::Place>> {
            vec![None; labels.len()]
        }
        fn write_placed(
            &self,
            samples: &[narthex_storage::PlacedSample],
            lost: &mut Vec<usize>,
        ) -> Result<AppendOutcome, StorageError> {
            lost.extend(0..samples.len());
            Ok(AppendOutcome::default())
        }
        fn put_metadata(&self, _entries: &[(String, Metadata)]) {}
    }
    let appender = Store.group(&GroupKey("t".into())).unwrap();
    let mut session = Session::new(Arc::new(Store), appender, Arc::default(), Arc::default());
    for t in 1..4 {
        let fetched = Fetched::Page { body: b"a 1\n", content_type: TEXT };
        let o = session.scrape(&mut Scratch::default(), t, Instant::now(), fetched);
        assert_eq!(o.store_error.is_some(), t == 2);
    }
}
