//! Requests decoded again by another decoder, and queues between a store in memory and receivers that behave badly.

mod messages;
mod receiver;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use narthex_config::Config;
use narthex_config::remote::WriteMessage;
use narthex_model::{
    CounterResetHint, Exemplar, Histogram, Labels, METRIC_NAME, Metadata, MetricType, Span, stale_nan,
};
use narthex_runtime::Registry;
use narthex_runtime::metrics::Value as MetricValue;
use narthex_storage::memory::MemoryStore;
use narthex_storage::{Appendable, Followable, WriteBatch, WriteSeries};

use crate::encode::{Counts, Encoder, Entry, Value, sent_labels};
use crate::table::{Found, SeriesTable};
use crate::{Parts, Received, Remote, RemoteError, rewrite, wanted};
use messages::{Got, decode};
use receiver::{Receiver, Reply};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::from_pairs(pairs.iter().copied())
}

fn series(i: usize) -> Labels {
    labels(&[(METRIC_NAME, "m"), ("i", &i.to_string()), ("job", "x")])
}

fn histogram(custom: bool, integer: bool) -> Histogram {
    let part = if integer { 0.0 } else { 0.5 };
    let mut h = Histogram {
        counter_reset_hint: CounterResetHint::NotCounterReset,
        schema: 3,
        zero_threshold: 0.001,
        zero_count: 2.0,
        count: 14.0 + 2.0 * part,
        sum: -7.25,
        positive_spans: vec![Span { offset: -2, length: 2 }, Span { offset: 3, length: 1 }],
        negative_spans: vec![Span { offset: 5, length: 1 }],
        positive_buckets: vec![4.0 + part, 1.0, 4.0 + part],
        negative_buckets: vec![3.0],
        custom_values: Vec::new(),
    };
    if custom {
        h.schema = narthex_model::histogram::CUSTOM_BUCKETS_SCHEMA;
        (h.zero_threshold, h.zero_count, h.count) = (0.0, 0.0, 9.0 + 2.0 * part);
        h.positive_spans = vec![Span { offset: 0, length: 3 }];
        (h.negative_spans, h.negative_buckets) = (Vec::new(), Vec::new());
        h.custom_values = vec![0.5, 1.0, 2.5];
    }
    h
}

/// Everything that a request can hold.
fn entries(table: &mut SeriesTable) -> Vec<Entry> {
    let described = std::collections::HashMap::from([(
        "m".to_owned(),
        Arc::new(Metadata { metric_type: MetricType::Counter, help: "Help.".into(), unit: "s".into() }),
    )]);
    for i in 0..40 {
        let labels = if i == 7 { labels(&[(METRIC_NAME, "ü\"\n"), ("long", &"x".repeat(20_000))]) } else { series(i) };
        table.tell(i as u32, &labels, Some(&labels), true);
    }
    table.describe(&described);
    let exemplar = |i: i64| Exemplar {
        labels: labels(&[("trace_id", &format!("abc{i}"))]),
        value: i as f64,
        timestamp: 1000 + i,
        has_timestamp: true,
    };
    let mut out = Vec::new();
    for i in 0..40u32 {
        let Found::Kept(slot, _) = table.find(i) else { panic!() };
        let value = match i % 5 {
            0 => Value::Float(f64::from(i) * 0.1),
            1 => Value::Float(stale_nan()),
            2 => Value::Histogram(Arc::new(histogram(false, true))),
            3 => Value::Histogram(Arc::new(histogram(false, false))),
            _ => Value::Histogram(Arc::new(histogram(true, i % 2 == 0))),
        };
        let timestamp = 1_700_000_000_000 + i64::from(i);
        out.push(Entry { slot, timestamp, start: i64::from(i % 3) * 1_699_999_000_000, value });
        for _ in 0..i % 3 {
            let e = exemplar(i64::from(i));
            out.push(Entry { slot, timestamp: e.timestamp, start: 0, value: Value::Exemplar(Box::new(e)) });
        }
    }
    out
}

#[test]
fn what_is_encoded_is_what_others_decode() {
    for message in [WriteMessage::V1, WriteMessage::V2] {
        let mut table = SeriesTable::default();
        let all = entries(&mut table);
        let mut encoder = Encoder::new(message);
        for round in 0..3 {
            let all = &all[round * 7..];
            // The first entry may be an exemplar by itself.
            let request = encoder.encode(all, &table);
            let got = decode(&request.body, message);
            let count = |f: fn(&Value) -> bool| all.iter().filter(|e| f(&e.value)).count() as u64;
            assert_eq!(request.counts.samples, count(|v| matches!(v, Value::Float(_))));
            assert_eq!(request.counts.histograms, count(|v| matches!(v, Value::Histogram(_))));
            assert_eq!(request.counts.exemplars, count(|v| matches!(v, Value::Exemplar(_))));
            let mut flat = Vec::new();
            for s in &got {
                flat.extend(s.samples.iter().map(|s| (s.0, s.1.to_bits())));
                flat.extend(s.histograms.iter().map(|h| (h.timestamp, h.sum.to_bits())));
                flat.extend(s.exemplars.iter().map(|e| (e.timestamp, e.value.to_bits())));
            }
            let expected: Vec<_> = all
                .iter()
                .map(|e| match &e.value {
                    Value::Float(v) => (e.timestamp, v.to_bits()),
                    Value::Histogram(h) => (e.timestamp, h.sum.to_bits()),
                    Value::Exemplar(x) => (e.timestamp, x.value.to_bits()),
                })
                .collect();
            assert_eq!(flat, expected);
        }
        let got = decode(&encoder.encode(&all, &table).body, message);
        assert_eq!(got[7].labels, labels(&[(METRIC_NAME, "ü\"\n"), ("long", &"x".repeat(20_000))]));
        assert_eq!(got[9].labels, series(9));
        assert_eq!(got[5].exemplars[0].labels, labels(&[("trace_id", "abc5")]));
        for (i, integer, custom) in [(2, true, false), (3, false, false), (4, true, true), (9, false, true)] {
            let h = &got[i].histograms[0];
            assert_eq!(h.back(), (histogram(custom, integer), integer), "{i}");
        }
        if message == WriteMessage::V2 {
            assert_eq!(got[5].metadata, (1, "Help.".into(), "s".into()));
            assert_eq!(got[7].metadata, (0, String::new(), String::new()));
            assert_eq!(got[5].samples[0].2, 2 * 1_699_999_000_000);
            assert_eq!(got[2].histograms[0].start_timestamp, 2 * 1_699_999_000_000);
        }
    }
}

#[test]
fn requests_are_cut_and_aged_without_loss() {
    for message in [WriteMessage::V1, WriteMessage::V2] {
        let mut table = SeriesTable::default();
        let all = entries(&mut table);
        let request = Encoder::new(message).encode(&all, &table);
        let whole = decode(&request.body, message);
        let len = rewrite::len(&request, message);
        assert_eq!(len, whole.len());
        let [a, b] = rewrite::halves(&request, message, len);
        let joined: Vec<Got> = decode(&a.body, message).into_iter().chain(decode(&b.body, message)).collect();
        assert_eq!(format!("{joined:?}"), format!("{whole:?}"));
        assert_eq!(a.counts.data() + b.counts.data(), request.counts.data());
        assert_eq!(a.counts.metadata + b.counts.metadata, request.counts.metadata);
        let limit = 1_700_000_000_030;
        let (young, left) = rewrite::without_older(&request, message, limit);
        assert_eq!(left.data() + young.counts.data(), request.counts.data());
        assert_eq!((young.lowest, left.samples), (limit, 12));
        assert_eq!(decode(&young.body, message).len(), 10);
        let (none, left) = rewrite::without_older(&request, message, i64::MAX);
        assert_eq!((none.counts, left.data()), (Counts::default(), request.counts.data()));
    }
}

#[test]
fn labels_are_those_of_the_series_external_ones_and_rules() {
    let yaml = "remote_write:\n- url: http://h/\n  write_relabel_configs:\n  - source_labels: [zone, i]\n    regex: eu;3\n    action: drop\n  - regex: job\n    action: labeldrop\n";
    let config = config(yaml);
    let rules = &config.remote_write[0].write_relabel_configs;
    let external = labels(&[("zone", "eu"), ("i", "never")]);
    let sent = |i: usize| sent_labels(&series(i), &external, rules);
    assert_eq!(sent(3), None);
    assert_eq!(sent(4), Some(labels(&[(METRIC_NAME, "m"), ("i", "4"), ("zone", "eu")])));
}

fn config(yaml: &str) -> Config {
    Config::parse(yaml, std::path::Path::new("test"), &|_| None).unwrap()
}

#[test]
fn entries_are_named_as_by_prometheus_and_refused_by_name() {
    let load = |yaml: &str| wanted(&config(yaml), "t");
    // The hash is what Prometheus 3.14 shows as remote_name of this entry.
    let one = load("remote_write:\n- url: http://u:hunter2@localhost:1/w\n").unwrap();
    assert_eq!(one[0].name.len(), 6);
    let edited = load(
        "remote_write:\n- url: http://u:other@localhost:1/w\n  remote_timeout: 3s\n- url: http://u:x@localhost:1/w\n- {url: http://h/, name: n}\n",
    )
    .unwrap();
    assert_ne!(one[0].name, edited[0].name);
    assert_eq!(one[0].tail, edited[0].tail, "its place stays");
    assert_ne!(edited[0].tail, edited[1].tail);
    assert_eq!((edited[2].name.as_str(), edited[2].tail.as_str()), ("n", "remote-write/name/n"));
    for (entry, said) in [
        ("google_iam: {credentials_file: f}", "google_iam is not supported"),
        ("azuread: {managed_identity: {}}", "azuread is not supported"),
        ("sigv4: {region: r, profile: p}", "profile is not supported"),
    ] {
        let e = load(&format!("remote_write:\n- url: http://u:hunter2@h/w\n  {entry}\n")).err().unwrap().to_string();
        assert!(e.contains(said) && e.contains("u:xxxxx@h") && !e.contains("hunter2"), "{e}");
    }
    let twice = load("remote_write:\n- url: http://h/w\n- url: http://h/w\n");
    assert!(matches!(twice.err(), Some(RemoteError::Duplicate { .. })));
}

/// A store with a queue, and what the queue says of itself.
struct Setup {
    store: MemoryStore,
    remote: Remote,
    registry: Registry,
    samples: Arc<AtomicU64>,
}

fn parts(store: &MemoryStore, flush: Duration, registry: Registry, samples: Arc<AtomicU64>) -> Parts {
    let described: crate::Descriptions = Arc::new(|| {
        vec![("m".to_owned(), Metadata { metric_type: MetricType::Gauge, help: "Of m.".into(), unit: String::new() })]
    });
    Parts {
        store: Arc::new(store.clone()),
        target_metadata: described.clone(),
        stored_metadata: described,
        received: Arc::new(move || Received { samples: samples.load(Ordering::Relaxed) as f64, newest: 0 }),
        registry,
        flush_deadline: flush,
        user_agent: "Narthex/test",
    }
}

fn start(store: MemoryStore, flush: Duration) -> Setup {
    let (registry, samples) = (Registry::new(), Arc::new(AtomicU64::new(0)));
    let remote = Remote::start(parts(&store, flush, registry.clone(), samples.clone()));
    Setup { store, remote, registry, samples }
}

impl Setup {
    /// One append of `n` series at that time, the value being the time.
    fn append(&self, n: usize, timestamp: i64) {
        let of = |i| WriteSeries {
            labels: series(i),
            samples: vec![(timestamp, timestamp as f64)],
            ..WriteSeries::default()
        };
        self.store.write(&WriteBatch { series: (0..n).map(of).collect() }).unwrap();
        self.samples.fetch_add(n as u64, Ordering::Relaxed);
    }

    fn metric(&self, name: &str) -> f64 {
        let name = format!("prometheus_remote_storage_{name}");
        let all = self.registry.gather();
        let family = all.iter().find(|f| f.name == name);
        let value = |m: &narthex_runtime::metrics::Metric| match m.value {
            MetricValue::Single(v) => v,
            MetricValue::Histogram { count, .. } | MetricValue::Summary { count, .. } => count as f64,
        };
        family.map_or(0.0, |f| f.metrics.iter().map(value).sum())
    }
}

fn yaml(receiver: &Receiver, queue: &str, more: &str) -> Config {
    config(&format!(
        "remote_write:\n- url: http://{}/w\n  remote_timeout: 2s\n  queue_config: {{batch_send_deadline: 50ms, min_backoff: 5ms, max_backoff: 20ms, {queue}}}\n{more}",
        receiver.address
    ))
}

async fn until(what: &str, mut check: impl FnMut() -> bool) {
    for _ in 0..400 {
        if check() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{what}: not within 10 s");
}

const NOW: i64 = 4_000_000_000_000;

/// Asserts that of each of `n` series exactly these timestamps came, in order.
fn check(receiver: &Receiver, n: usize, times: &[i64]) {
    let got = receiver.samples();
    for i in 0..n {
        let came: Vec<i64> = got.get(&series(i)).map(|s| s.iter().map(|(t, _)| *t).collect()).unwrap_or_default();
        assert_eq!(came, times, "series {i}");
    }
    assert_eq!(got.len(), n);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_comes_once_and_in_order_whatever_the_receiver_does_meanwhile() {
    for (message, queue) in [
        ("prometheus.WriteRequest", "max_samples_per_send: 7, capacity: 20, min_shards: 3, max_shards: 3"),
        ("io.prometheus.write.v2.Request", "max_samples_per_send: 100, min_shards: 1"),
    ] {
        let receiver = Receiver::start(|n, _| match n % 6 {
            1 => Reply::status(500),
            2 => Reply::status(503).header("Retry-After", "0"),
            3 => Reply::status(429),
            4 => Reply::Close,
            _ => Reply::Accept,
        })
        .await;
        let setup = start(MemoryStore::new(), Duration::from_secs(5));
        let more = format!("  protobuf_message: {message}\n");
        setup.remote.apply(&yaml(&receiver, &format!("{queue}, retry_on_http_429: true"), &more)).unwrap();
        let times: Vec<i64> = (0..20).map(|i| NOW + i * 1000).collect();
        for t in &times {
            setup.append(30, *t);
        }
        until("all sent", || receiver.count() >= 600).await;
        check(&receiver, 30, &times);
        assert!(setup.metric("samples_retried_total") > 0.0);
        assert_eq!(setup.metric("samples_failed_total"), 0.0);
        until("nothing pending", || setup.metric("samples_pending") == 0.0).await;
        setup.remote.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_receiver_hangs_little_is_read_and_nothing_lost() {
    for reply in [Reply::Hang, Reply::Trickle(500)] {
        let receiver = Receiver::start(move |n, _| if n < 3 { reply.clone() } else { Reply::Accept }).await;
        let setup = start(MemoryStore::new(), Duration::from_secs(5));
        setup.remote.apply(&yaml(&receiver, "max_samples_per_send: 10, capacity: 50, max_shards: 1", "")).unwrap();
        let times: Vec<i64> = (0..100).map(|i| NOW + i * 1000).collect();
        for t in &times {
            setup.append(20, *t);
        }
        until("it asks", || receiver.requests() > 0).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        // Five requests in line, one on its way, one open, one that waits for room.
        let pending = setup.metric("samples_pending");
        assert!((50.0..=100.0).contains(&pending), "{pending} of 2000");
        until("all sent", || receiver.count() >= 2000).await;
        check(&receiver, 20, &times);
        setup.remote.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_success_counts_however_long_its_body_takes() {
    let receiver = Receiver::start(|_, _| Reply::Trickle(200)).await;
    let setup = start(MemoryStore::new(), Duration::from_secs(5));
    setup.remote.apply(&yaml(&receiver, "max_shards: 1", "")).unwrap();
    setup.append(20, NOW);
    until("settled", || setup.metric("queue_highest_sent_timestamp_seconds") > 0.0).await;
    check(&receiver, 20, &[NOW]);
    assert_eq!((setup.metric("samples_retried_total"), setup.metric("samples_failed_total")), (0.0, 0.0));
    setup.remote.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_for_good_is_dropped_and_counted() {
    let receiver = Receiver::start(|n, _| match n {
        0 => Reply::status(400),
        1 => Reply::status(429),
        2 => Reply::status(415),
        _ => Reply::Accept,
    })
    .await;
    let setup = start(MemoryStore::new(), Duration::from_secs(5));
    setup.remote.apply(&yaml(&receiver, "max_samples_per_send: 10, max_shards: 1", "")).unwrap();
    for i in 0..5 {
        setup.append(10, NOW + i);
    }
    until("the rest", || receiver.count() == 20).await;
    check(&receiver, 10, &[NOW + 3, NOW + 4]);
    assert_eq!(setup.metric("samples_failed_total"), 30.0);
    assert_eq!(setup.metric("samples_total"), 50.0);
    setup.remote.shutdown().await;
}

/// A receiver that refuses a whole request where any sample is not newer than what it has, as 1.0's do.
async fn strict() -> Receiver {
    Receiver::start(|_, state| {
        let old = state.request.iter().any(|s| {
            let newest = state.samples.get(&s.labels).and_then(|v| v.last()).map_or(i64::MIN, |(t, _)| *t);
            s.samples.iter().any(|(t, _, _)| *t <= newest)
        });
        if old { Reply::status(400) } else { Reply::Accept }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_crash_repetitions_cost_nothing_that_is_new() {
    let receiver = strict().await;
    let store = MemoryStore::new();
    // A tail that was settled nowhere: a process that died right after it had sent.
    let config = yaml(&receiver, "max_samples_per_send: 500, max_shards: 1", "");
    let name = wanted(&config, "t").unwrap().remove(0).tail;
    let before = store.tail(&name).unwrap();
    let times: Vec<i64> = (0..10).map(|i| 1_700_000_000_000 + i * 1000).collect();
    let setup = start(store, Duration::from_secs(5));
    for t in &times {
        setup.append(50, *t);
    }
    drop(before);
    // Of which the receiver has the first 230: four times all series, and thirty of the fifth.
    receiver.preset((0..230).map(|i| (series(i % 50), times[i / 50], times[i / 50] as f64)));
    setup.remote.apply(&config).unwrap();
    until("all there", || receiver.count() >= 498).await;
    setup.remote.shutdown().await;
    let got = receiver.samples();
    let all: usize = got.values().map(Vec::len).sum();
    assert!(all >= 500 - 1, "{all}");
    assert!(got.values().all(|s| s.is_sorted_by_key(|(t, _)| *t)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_goes_on_at_its_place_and_so_does_a_changed_entry() {
    let receiver = Receiver::start(|_, _| Reply::Accept).await;
    let store = MemoryStore::new();
    let config = yaml(&receiver, "max_shards: 1", "");
    let first = start(store.clone(), Duration::from_secs(5));
    first.remote.apply(&config).unwrap();
    first.append(10, NOW);
    until("the first", || receiver.count() == 10).await;
    // Unchanged: nobody is disturbed.
    first.remote.apply(&config).unwrap();
    first.append(10, NOW + 1);
    until("the second", || receiver.count() == 20).await;
    assert_eq!(receiver.connections(), 1);
    // Changed: goes on.
    let changed = yaml(&receiver, "max_shards: 2", "  name: other\n");
    let renamed = yaml(&receiver, "max_shards: 2", "");
    first.remote.apply(&renamed).unwrap();
    first.append(10, NOW + 2);
    until("the third", || receiver.count() == 30).await;
    first.append(10, NOW + 3);
    first.remote.shutdown().await;
    assert_eq!(receiver.count(), 40, "the end sends what is stored");
    first.append(10, NOW + 4);
    let second = start(store.clone(), Duration::from_secs(5));
    second.remote.apply(&renamed).unwrap();
    until("the fourth", || receiver.count() == 50).await;
    check(&receiver, 10, &[NOW, NOW + 1, NOW + 2, NOW + 3, NOW + 4]);
    // Another name is another queue, and the old one's place is forgotten.
    second.remote.apply(&changed).unwrap();
    until("forgotten", || store.tails() == ["remote-write/name/other"]).await;
    second.remote.apply(&Config::default()).unwrap();
    until("none left", || store.tails().is_empty()).await;
    second.remote.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_number_of_shards_changes_without_loss_or_disorder() {
    let receiver = Receiver::start(|n, _| if n % 5 == 1 { Reply::status(503) } else { Reply::Accept }).await;
    let setup = start(MemoryStore::new(), Duration::from_secs(5));
    let config = yaml(&receiver, "max_samples_per_send: 9, capacity: 30, max_shards: 8", "");
    let entry = wanted(&config, "Narthex/test").unwrap().remove(0);
    let tail = setup.store.tail(&entry.tail).unwrap();
    let parts = parts(&setup.store, Duration::from_secs(5), setup.registry.clone(), setup.samples.clone());
    let queue = crate::Queue::start(entry, Some(tail), &parts, &crate::AllMetrics::default()).unwrap();
    let times: Vec<i64> = (0..60).map(|i| NOW + i).collect();
    for (t, shards) in times.iter().zip([1, 1, 5, 5, 2, 8, 8, 3].into_iter().cycle()) {
        setup.append(40, *t);
        queue.shared.wanted.store(shards, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until("all sent", || receiver.count() >= 2400).await;
    check(&receiver, 40, &times);
    assert!(receiver.connections() > 8);
    queue.end(Duration::from_secs(5), true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_waits_no_longer_than_it_may() {
    let receiver = Receiver::start(|_, _| Reply::status(500)).await;
    let setup = start(MemoryStore::new(), Duration::from_millis(300));
    setup.remote.apply(&yaml(&receiver, "max_shards: 1", "")).unwrap();
    setup.append(10, NOW);
    until("it tries", || receiver.requests() > 2).await;
    tokio::time::timeout(Duration::from_secs(3), setup.remote.shutdown()).await.expect("it ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_samples_are_left_out_before_and_while_waiting() {
    let receiver = Receiver::start(|n, _| if n < 30 { Reply::status(500) } else { Reply::Accept }).await;
    let setup = start(MemoryStore::new(), Duration::from_secs(5));
    setup.remote.apply(&yaml(&receiver, "max_shards: 1, sample_age_limit: 1s", "")).unwrap();
    let now = crate::client::now_ms();
    setup.append(10, now - 60_000);
    setup.append(10, now - 900);
    setup.append(10, now + 60_000);
    until("the young", || receiver.count() >= 10).await;
    until("the old counted", || setup.metric("samples_dropped_total") == 20.0).await;
    setup.remote.shutdown().await;
    check(&receiver, 10, &[now + 60_000]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exemplars_histograms_and_descriptions_as_configured() {
    for (send, message) in [
        (true, "prometheus.WriteRequest"),
        (true, "io.prometheus.write.v2.Request"),
        (false, "prometheus.WriteRequest"),
    ] {
        let receiver = Receiver::start(|_, _| Reply::Accept).await;
        let setup = start(MemoryStore::new(), Duration::from_secs(5));
        let more = format!(
            "  send_exemplars: {send}\n  send_native_histograms: {send}\n  protobuf_message: {message}\n  metadata_config: {{send_interval: 100ms}}\n"
        );
        setup.remote.apply(&yaml(&receiver, "max_shards: 1", &more)).unwrap();
        let e = Exemplar { labels: labels(&[("t", "1")]), value: 2.0, timestamp: NOW, has_timestamp: true };
        let one =
            WriteSeries { labels: series(0), samples: vec![(NOW, 1.0)], exemplars: vec![e], ..WriteSeries::default() };
        let of = |i, custom| WriteSeries {
            labels: series(i),
            histograms: vec![(NOW, Arc::new(histogram(custom, true)))],
            ..WriteSeries::default()
        };
        setup.store.write(&WriteBatch { series: vec![one, of(1, false), of(2, true)] }).unwrap();
        until("the sample", || receiver.count() == 1).await;
        let second = message.contains("v2");
        if !second {
            until("descriptions", || receiver.metadata() > 0).await;
        }
        let dropped = if send && !second { 1.0 } else { 0.0 };
        until("counted", || setup.metric("histograms_dropped_total") == dropped).await;
        setup.remote.shutdown().await;
        let got = receiver.all();
        let exemplars: usize = got.iter().map(|s| s.exemplars.len()).sum();
        let histograms: usize = got.iter().map(|s| s.histograms.len()).sum();
        let expected = if !send { (0, 0) } else { (1, if second { 2 } else { 1 }) };
        assert_eq!((exemplars, histograms), expected, "{message}");
        if second {
            assert!(got.iter().all(|s| s.metadata == (2, "Of m.".into(), String::new())), "{got:?}");
        }
    }
}
