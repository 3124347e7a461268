//! The manager against real sockets and the in-memory store.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use narthex_model::{Matcher, is_stale};
use narthex_storage::memory::MemoryStore;
use narthex_storage::{Queryable, SelectRequest, Series};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// An exporter whose page may change; counts connections and requests.
#[derive(Clone)]
struct Exporter {
    address: String,
    page: Arc<Mutex<String>>,
    up: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Exporter {
    async fn start(page: &str) -> Exporter {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let exporter = Exporter {
            address: listener.local_addr().unwrap().to_string(),
            page: Arc::new(Mutex::new(page.to_owned())),
            up: Arc::new(AtomicBool::new(true)),
            connections: Arc::default(),
            requests: Arc::default(),
        };
        let serving = exporter.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                serving.connections.fetch_add(1, Ordering::Relaxed);
                let serving = serving.clone();
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    while let Ok(byte) = stream.read_u8().await {
                        request.push(byte);
                        if !request.ends_with(b"\r\n\r\n") {
                            continue;
                        }
                        serving.requests.lock().push(String::from_utf8_lossy(&request).into_owned());
                        request.clear();
                        let page = serving.page.lock().clone();
                        let status =
                            if serving.up.load(Ordering::Relaxed) { "200 OK" } else { "503 Service Unavailable" };
                        let answer = format!(
                            "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\r\n{page}",
                            page.len()
                        );
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        exporter
    }

    fn target(&self, job: &str) -> Target {
        target(job, &self.address)
    }
}

fn target(job: &str, address: &str) -> Target {
    Target {
        pool: job.into(),
        labels: Labels::from_pairs([("job", job), ("instance", address)]),
        discovered: Labels::from_pairs([("__address__", address)]),
        scheme: "http".into(),
        address: address.into(),
        path: "/metrics".into(),
        params: vec![],
        interval: Duration::from_millis(100),
        // Far longer than the interval: a busy machine must not fail a scrape here.
        timeout: Duration::from_secs(60),
        histograms: Default::default(),
    }
}

fn job(name: &str) -> ScrapeConfig {
    ScrapeConfig { job_name: name.into(), ..ScrapeConfig::default() }
}

struct Bench {
    store: MemoryStore,
    manager: Manager,
}

impl Bench {
    fn new() -> Bench {
        let store = MemoryStore::new();
        let manager = Manager::new(Arc::new(store.clone()), Options::default()).unwrap();
        Bench { store, manager }
    }

    fn apply(&self, jobs: &[ScrapeConfig], targets: &[Target]) {
        let jobs: Vec<_> = jobs.iter().cloned().map(Arc::new).collect();
        let targets = targets.iter().cloned().map(Arc::new).collect();
        self.manager.apply(&jobs, &Assignment { targets, ..Assignment::default() });
    }

    async fn select(&self, name: &str) -> Vec<Series> {
        let request = SelectRequest::new(vec![Matcher::equal("__name__", name)], i64::MIN, i64::MAX);
        self.store.select(request).await.unwrap().collect_sorted().unwrap()
    }

    /// Waits until the only series of that name satisfies the condition.
    async fn until(&self, name: &str, what: impl Fn(&[(i64, f64)]) -> bool) -> Vec<(i64, f64)> {
        for _ in 0..2400 {
            let series = self.select(name).await;
            if let [one] = series.as_slice() {
                let samples: Vec<_> = one.floats.iter().collect();
                if what(&samples) {
                    return samples;
                }
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("{name}: {:?}; targets {:?}", self.select(name).await, self.manager.targets());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scrapes_over_one_connection() {
    let exporter = Exporter::start("# TYPE a gauge\na{x=\"1\"} 1\n").await;
    let b = Bench::new();
    b.apply(&[job("j")], &[exporter.target("j")]);
    b.until("a", |s| s.len() >= 4).await;
    assert_eq!(exporter.connections.load(Ordering::Relaxed), 1);
    let request = exporter.requests.lock()[0].to_lowercase();
    for header in [
        "get /metrics http/1.1\r\n",
        &format!("host: {}\r\n", exporter.address),
        "accept: application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,",
        "accept-encoding: gzip\r\n",
        "user-agent: narthex/",
        "x-prometheus-scrape-timeout-seconds: 60\r\n",
    ] {
        assert!(request.contains(header), "{header}: {request}");
    }
    let status = &b.manager.targets()[0];
    assert_eq!((status.health, status.last_error.as_str(), status.samples), (Health::Up, "", 1));
    assert_eq!(status.scrape_url, format!("http://{}/metrics", exporter.address));
    assert_eq!(b.manager.metadata()[0].1[0].metric, "a");
    b.manager.shutdown().await;
    let before = b.select("a").await[0].floats.len();
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(b.select("a").await[0].floats.len(), before);
    assert!(b.manager.targets().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_down_or_gone_goes_stale() {
    let exporter = Exporter::start("a 1\n").await;
    let b = Bench::new();
    b.apply(&[job("j")], &[exporter.target("j")]);
    b.until("a", |s| !s.is_empty()).await;
    exporter.up.store(false, Ordering::Relaxed);
    b.until("up", |s| s.last().is_some_and(|(_, v)| *v == 0.0)).await;
    b.until("a", |s| s.last().is_some_and(|(_, v)| is_stale(*v))).await;
    assert_eq!(b.manager.targets()[0].last_error, "server returned HTTP status 503 Service Unavailable");
    exporter.up.store(true, Ordering::Relaxed);
    b.until("a", |s| s.last().is_some_and(|(_, v)| *v == 1.0)).await;
    b.apply(&[job("j")], &[]);
    assert!(b.manager.targets().is_empty());
    b.until("a", |s| s.last().is_some_and(|(_, v)| is_stale(*v))).await;
    b.until("up", |s| s.last().is_some_and(|(_, v)| is_stale(*v))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_moved_or_came_back_gets_no_markers() {
    let exporter = Exporter::start("a 1\n").await;
    let b = Bench::new();
    let targets = [exporter.target("j")];
    b.apply(&[job("j")], &targets);
    b.until("a", |s| !s.is_empty()).await;
    b.apply(&[job("j")], &[]);
    b.apply(&[job("j")], &targets);
    let n = b.select("a").await[0].floats.len();
    b.until("a", |s| s.len() > n + 5).await;
    b.manager.hand_off(&[targets[0].identity()]);
    b.apply(&[job("j")], &[]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let samples = b.until("a", |_| true).await;
    assert!(samples.iter().all(|(_, v)| *v == 1.0), "{samples:?}");
    assert!(b.until("up", |_| true).await.iter().all(|(_, v)| *v == 1.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configuration_changes_reach_running_loops() {
    let exporter = Exporter::start("a 1\n").await;
    let b = Bench::new();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("failures.json");
    b.apply(&[job("j")], &[exporter.target("j")]);
    b.until("a", |s| !s.is_empty()).await;
    let changed = ScrapeConfig {
        sample_limit: 1,
        scrape_failure_log_file: log.clone(),
        extra_scrape_metrics: Some(true),
        ..job("j")
    };
    b.apply(std::slice::from_ref(&changed), &[exporter.target("j")]);
    b.until("scrape_sample_limit", |s| s.last().is_some_and(|(_, v)| *v == 1.0)).await;
    b.until("a", |s| s.len() > 2).await;
    assert_eq!(exporter.connections.load(Ordering::Relaxed), 2, "a new client has connections of its own");
    *exporter.page.lock() = "a 1\nb 2\n".into();
    b.until("up", |s| s.last().is_some_and(|(_, v)| *v == 0.0)).await;
    assert_eq!(b.manager.targets()[0].last_error, "sample limit exceeded");
    b.apply(&[ScrapeConfig { target_limit: 1, ..changed }], &[exporter.target("j"), target("j", "127.0.0.1:1")]);
    for _ in 0..2400 {
        let errors: Vec<_> = b.manager.targets().into_iter().map(|t| t.last_error).collect();
        if errors.iter().all(|e| e == "target_limit exceeded (number of targets: 2, limit: 1)") {
            assert!(std::fs::read_to_string(&log).unwrap().contains("target_limit exceeded"));
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{:?}", b.manager.targets());
}

/// A real exporter, where one is installed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scrapes_a_real_node_exporter() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let spawned = Command::new("prometheus-node-exporter")
        .arg(format!("--web.listen-address={address}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = spawned else {
        println!("skipped: no prometheus-node-exporter");
        return;
    };
    let b = Bench::new();
    let mut target = target("node", &address);
    target.interval = Duration::from_millis(500);
    b.apply(&[job("node")], &[target]);
    let samples = b.until("node_cpu_seconds_total", |_| false);
    let several = async {
        for _ in 0..2400 {
            let found = b.select("node_time_seconds").await;
            if found.first().is_some_and(|s| s.floats.len() >= 3) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("{:?}", b.manager.targets());
    };
    tokio::select! { _ = several => {}, _ = samples => {} }
    let _ = child.kill();
    let _ = child.wait();
    assert!(!b.select("node_cpu_seconds_total").await.is_empty());
    let status = &b.manager.targets()[0];
    assert!(status.samples > 100, "{status:?}");
}

/// A store that may refuse what is appended, and remembers under which budgets series came.
#[derive(Clone, Default)]
struct Choosy {
    inner: MemoryStore,
    full: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
    budgets: Arc<Mutex<std::collections::BTreeSet<(String, bool, u64, u64, String)>>>,
}

struct ChoosyGroup(Choosy, Box<dyn narthex_storage::GroupAppender>);

impl narthex_storage::GroupAppender for ChoosyGroup {
    fn register(
        &mut self,
        spec: narthex_storage::SeriesSpec<'_>,
    ) -> Result<narthex_storage::Slot, narthex_storage::StorageError> {
        let (b, name) = (spec.budget, spec.labels.metric_name().to_owned());
        self.0.budgets.lock().insert((name, b.exempt, b.group, b.shared, b.owner.to_owned()));
        self.1.register(spec)
    }

    fn commit(
        &mut self,
        row: &narthex_storage::ScrapeRow<'_>,
    ) -> Result<narthex_storage::AppendOutcome, narthex_storage::StorageError> {
        if self.0.full.load(Ordering::Relaxed) {
            let n = self.0.refused.fetch_add(1, Ordering::Relaxed);
            let why = format!("no space left on device: 00{n}.log");
            return Err(narthex_storage::StorageError::new(narthex_storage::ErrorKind::Unavailable, why));
        }
        self.1.commit(row)
    }

    fn retire(&mut self, slots: &[narthex_storage::Slot]) {
        self.1.retire(slots);
    }
}

impl Appendable for Choosy {
    fn group(
        &self,
        key: &narthex_storage::GroupKey,
    ) -> Result<Box<dyn narthex_storage::GroupAppender>, narthex_storage::StorageError> {
        Ok(Box::new(ChoosyGroup(self.clone(), self.inner.group(key)?)))
    }

    fn write(
        &self,
        batch: &narthex_storage::WriteBatch,
    ) -> Result<narthex_storage::AppendOutcome, narthex_storage::StorageError> {
        self.inner.write(batch)
    }

    fn places(&self, labels: &[&Labels]) -> Vec<Option<narthex_storage::Place>> {
        self.inner.places(labels)
    }

    fn write_placed(
        &self,
        samples: &[narthex_storage::PlacedSample],
        lost: &mut Vec<usize>,
    ) -> Result<narthex_storage::AppendOutcome, narthex_storage::StorageError> {
        self.inner.write_placed(samples, lost)
    }

    fn put_metadata(&self, entries: &[(String, narthex_model::Metadata)]) {
        self.inner.put_metadata(entries);
    }
}

// One thread, so that what is logged is heard here.
#[tokio::test]
async fn a_full_disk_is_logged_once_for_all_targets() {
    let events = crate::store_log::tests::Events::default();
    let _guard = tracing::subscriber::set_default(events.clone());
    let exporters = [Exporter::start("a 1\n").await, Exporter::start("b 1\n").await, Exporter::start("c 1\n").await];
    let store = Choosy::default();
    store.full.store(true, Ordering::Relaxed);
    let manager = Manager::new(Arc::new(store.clone()), Options::default()).unwrap();
    let jobs = [Arc::new(ScrapeConfig {
        series_limit: 7,
        job_series_limit: 20,
        series_limit_owner: "serviceMonitor/n/m".into(),
        ..job("serviceMonitor/n/m/0")
    })];
    let targets = exporters.iter().map(|e| Arc::new(e.target("serviceMonitor/n/m/0"))).collect();
    manager.apply(&jobs, &Assignment { targets, ..Assignment::default() });
    while store.refused.load(Ordering::Relaxed) < 12 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    store.full.store(false, Ordering::Relaxed);
    let up = || async {
        let request = SelectRequest::new(vec![Matcher::equal("__name__", "up")], i64::MIN, i64::MAX);
        store.inner.select(request).await.unwrap().collect_sorted().unwrap().len()
    };
    while up().await < 3 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let said = events.0.lock().clone();
    let of_commits: Vec<_> = said.iter().filter(|e| e.contains("scrape commit failed")).collect();
    assert_eq!(of_commits.len(), 1, "{said:?}");
    // What the page has is under the job's limits, what the scrape says of itself is not.
    let budgets = store.budgets.lock().clone();
    let of = |name: &str| budgets.iter().find(|b| b.0 == name).cloned().unwrap();
    assert_eq!(of("a"), ("a".to_owned(), false, 7, 20, "serviceMonitor/n/m".to_owned()));
    assert!(of("up").1 && of("scrape_series_added").1);
}
