//! What series cost: memory, restart, queries for labels. A program that prints figures, not a timed test.
//!
//! ```text
//! cargo bench -p narthex-tsdb --bench series -- restart [series] [rows]
//! ```
//! `restart`: pages of 1,500 series, `rows` scrapes of each, then the store is dropped as a killed process would leave
//! it, and opened again.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use narthex_model::{Labels, Matcher};
use narthex_storage::{Appendable, GroupAppender, GroupKey, Queryable, ScrapeRow, SelectRequest, SeriesSpec, Slot};
use narthex_tsdb::{Store, StoreOptions};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const PAGE: usize = 1500;
const STEP: i64 = 10_000;

fn status(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with(name)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn cpu() -> Duration {
    // SAFETY: `getrusage` writes the whole struct that it is given, and nothing else.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let of = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
    of(usage.ru_utime) + of(usage.ru_stime)
}

/// Prints wall and CPU time of what is done.
fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let (wall, used) = (Instant::now(), cpu());
    let out = work();
    println!("{what}: {:.3} s, CPU {:.3} s", wall.elapsed().as_secs_f64(), (cpu() - used).as_secs_f64());
    out
}

fn memory(what: &str, series: usize) {
    let (rss, anon) = (status("Rss:"), status("Anonymous:"));
    let each = |bytes: u64| bytes as f64 / series.max(1) as f64;
    println!("{what}: RSS {} MB, {:.0} B a series; anonymous {:.0}", rss >> 20, each(rss), each(anon));
}

fn parts(store: &Store, series: usize) {
    for (name, value) in store.figures() {
        let shown =
            ["narthex_tsdb_memory", "narthex_rocksdb_memtable", "narthex_rocksdb_block_cache_bytes", "open_seconds"];
        if shown.iter().any(|s| name.contains(s)) && value > 0.0 {
            println!("  {name} {value:.3} ({:.1} a series)", value / series.max(1) as f64);
        }
    }
}

/// Labels as a cluster has them: 30 pods a page, 50 metrics each; every third target has plain labels.
fn labels(target: usize, i: usize, generation: usize) -> Labels {
    let (metric, pod) = (i % 50, i / 50);
    let node = format!("node-{target:04}:9100");
    if !target.is_multiple_of(3) {
        return Labels::from_pairs([
            ("__name__", format!("node_metric_{metric}_total")),
            ("cpu", pod.to_string()),
            ("instance", node),
            ("job", "node".into()),
            ("mode", ["idle", "user", "system"][i % 3].into()),
        ]);
    }
    Labels::from_pairs([
        ("__name__", format!("container_metric_{metric}_total")),
        ("container", format!("c{}", pod % 3)),
        ("id", format!("/kubepods/burstable/pod{target:08x}-{pod:04x}-{generation:012x}")),
        ("image", format!("registry.example/app-{}:v{}", pod % 20, generation)),
        ("instance", node),
        ("job", "kube".into()),
        ("namespace", format!("ns-{}", pod % 12)),
        ("pod", format!("app-{}-{target:04x}{pod:02x}-{generation:05x}", pod % 20)),
    ])
}

struct Target {
    appender: Box<dyn GroupAppender>,
    slots: Vec<Slot>,
    values: Vec<f64>,
    layout: u64,
}

impl Target {
    fn new(store: &Store, target: usize) -> Target {
        let appender = store.group(&GroupKey(format!("target-{target}").into())).expect("a group");
        Target { appender, slots: Vec::new(), values: (0..PAGE).map(|i| i as f64).collect(), layout: 1 }
    }

    fn scrape(&mut self, number: usize, t: i64) {
        if self.slots.is_empty() {
            let mut register = |i| self.appender.register(SeriesSpec { labels: &labels(number, i, 0) });
            self.slots = (0..PAGE).map(|i| register(i).expect("a slot")).collect();
        }
        // Half of the values change.
        for (i, v) in self.values.iter_mut().enumerate().filter(|v| v.0 % 2 == 0) {
            *v += ((t / STEP * 31 + i as i64 * 7) % 97) as f64 / 4.0;
        }
        let row = ScrapeRow {
            timestamp: t,
            layout: self.layout,
            slots: &self.slots,
            values: &self.values,
            ..ScrapeRow::default()
        };
        let outcome = self.appender.commit(&row).expect("a row");
        if let Some(durable) = outcome.durable.filter(|_| number.is_multiple_of(64)) {
            block_on(durable).expect("the log");
        }
    }
}

fn restart(folder: &Path, series: usize, rows: usize) {
    let targets = series.div_ceil(PAGE);
    let start = 1_700_000_000_000;
    let open = || Store::open(StoreOptions::new(folder)).expect("the store");
    {
        let store = open();
        memory("empty", 0);
        let mut all: Vec<Target> = (0..targets).map(|n| Target::new(&store, n)).collect();
        timed("first scrape of all", || {
            all.iter_mut().enumerate().for_each(|(n, t)| t.scrape(n, start));
        });
        timed("the other scrapes", || {
            for row in 1..rows {
                all.iter_mut().enumerate().for_each(|(n, t)| t.scrape(n, start + row as i64 * STEP));
            }
        });
        memory("scraped", series);
        parts(&store, series);
    }
    memory("dropped", series);
    let store = timed("open again", open);
    memory("opened", series);
    parts(&store, series);
    let last = start + (rows as i64 - 1) * STEP;
    let request = SelectRequest::new(vec![Matcher::equal("__name__", "node_metric_7_total")], last, last);
    let found = timed("one metric", || block_on(store.select(request)).expect("a result").collect_sorted());
    println!("{} series of it", found.expect("series").len());
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|a| a != "--bench");
    let what = args.next().unwrap_or_else(|| "restart".into());
    let mut number = |or: usize| args.next().and_then(|a| a.replace('_', "").parse().ok()).unwrap_or(or);
    let folder = tempfile::tempdir().expect("a folder");
    match what.as_str() {
        "restart" => restart(folder.path(), number(100_000), number(12)),
        other => println!("{other}: not known, see the head of this file"),
    }
}
