//! What series cost: memory, restart, queries for labels. A program that prints figures, not a timed test.
//!
//! ```text
//! cargo bench -p narthex-tsdb --bench series -- restart [series] [rows]
//! cargo bench -p narthex-tsdb --bench series -- hours [series] [hours] [half|all|small|raw|few]
//! cargo bench -p narthex-tsdb --bench series -- days [series] [days] [folder]
//! cargo bench -p narthex-tsdb --bench series -- tail [series] [rows]
//! ```
//! `restart`: pages of 1,500 series, `rows` scrapes of each, then the store is dropped as a killed process would leave
//! it, and opened again; then queries for labels. `hours`: a scrape every 15 s of the pages' time, a fifth of the pods
//! replaced every hour, and what is in memory every half hour; of the values half change (in steps of a quarter up to 24),
//! or all, or all by small integers, or all to any float, or every tenth. With `NARTHEX_WINDOW_ROWS` or
//! `NARTHEX_WINDOW_BYTES` in the environment, windows have so many rows, or so many bytes a series; questions
//! over the last hour and all of them follow.
//! `days`: so many series in all, each a third of a day long; then only those of the end are in memory, and queries over
//! one day and over all. In a folder that is given and not empty, nothing is built and only the queries run. With
//! `NARTHEX_DIRECT` in the environment, `r` or `w` or both in it, tables are read or written past the system's cache.
//! `tail`: what it costs to follow, and what appending costs while a tail is behind; then restarts.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use narthex_model::{Labels, Matcher};
use narthex_storage::{
    Appendable, Followable, GroupAppender, GroupKey, LabelQuery, Queryable, ScrapeRow, SelectHints, SelectRequest,
    SeriesSpec, Slot, StorageAdmin, Tail,
};
use narthex_tsdb::{Store, StoreOptions};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// As the program has it.
// SAFETY: jemalloc reads a pointer to a C string under this name, and nothing else has it.
#[unsafe(export_name = "malloc_conf")]
pub static MALLOC_CONF: &[u8; 70] = b"narenas:4,dirty_decay_ms:1000,muzzy_decay_ms:0,background_thread:true\0";

const PAGE: usize = 1500;
const STEP: i64 = 10_000;

fn status(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with(name)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn cpu() -> Duration {
    cpu_of(libc::RUSAGE_SELF)
}

fn cpu_of(who: libc::c_int) -> Duration {
    // SAFETY: `getrusage` writes the whole struct that it is given, and nothing else.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(who, &mut usage);
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
    number: usize,
    /// Of each pod.
    generations: Vec<usize>,
    appender: Box<dyn GroupAppender>,
    slots: Vec<Slot>,
    values: Vec<f64>,
    layout: u64,
    mix: Mix,
}

/// How values change from one scrape to the next.
#[derive(Clone, Copy)]
enum Mix {
    Half,
    All,
    Small,
    Raw,
    Few,
}

impl Mix {
    fn change(self, values: &mut [f64], t: i64) {
        let each = match self {
            Mix::Half => 2,
            Mix::Few => 10,
            Mix::All | Mix::Small | Mix::Raw => 1,
        };
        for (i, v) in values.iter_mut().enumerate().step_by(each) {
            let n = t / STEP * 31 + i as i64 * 7;
            match self {
                Mix::Small => *v += (n * n % 11) as f64,
                Mix::Raw => *v = (n as f64).sin() * i as f64,
                Mix::Half | Mix::All | Mix::Few => *v += (n % 97) as f64 / 4.0,
            }
        }
    }
}

impl Target {
    fn new(store: &Store, number: usize) -> Target {
        let appender = store.group(&GroupKey(format!("target-{number}").into())).expect("a group");
        let values = (0..PAGE).map(|i| i as f64).collect();
        Target {
            number,
            generations: vec![0; PAGE / 50],
            appender,
            slots: Vec::new(),
            values,
            layout: 1,
            mix: Mix::Half,
        }
    }

    fn register(&mut self, i: usize) -> Slot {
        let labels = labels(self.number, i, self.generations[i / 50]);
        self.appender.register(SeriesSpec::new(&labels)).expect("a slot")
    }

    fn scrape(&mut self, t: i64, stale: &[Slot]) {
        if self.slots.is_empty() {
            self.slots = (0..PAGE).map(|i| self.register(i)).collect();
        }
        self.mix.change(&mut self.values, t);
        let row = ScrapeRow {
            timestamp: t,
            layout: self.layout,
            slots: &self.slots,
            values: &self.values,
            stale,
            ..ScrapeRow::default()
        };
        let outcome = self.appender.commit(&row).expect("a row");
        if let Some(durable) = outcome.durable.filter(|_| self.number.is_multiple_of(64)) {
            block_on(durable).expect("the log");
        }
    }

    /// A scrape at which some pods have been replaced.
    fn replace(&mut self, t: i64, which: impl Fn(usize) -> bool) {
        if self.slots.is_empty() {
            return self.scrape(t, &[]);
        }
        let mut gone = Vec::new();
        for pod in (0..self.generations.len()).filter(|pod| which(*pod)) {
            self.generations[pod] += 1;
            for i in pod * 50..(pod + 1) * 50 {
                let slot = self.register(i);
                gone.push(std::mem::replace(&mut self.slots[i], slot));
            }
        }
        self.layout += 1;
        self.scrape(t, &gone);
        self.appender.retire(&gone);
    }
}

/// How long questions about labels and instant vectors take: the least of some runs.
fn questions(store: &Store, (mint, maxt): (i64, i64), metric: &str, pod: &str) {
    let least = |what: &str, ask: &dyn Fn() -> usize| {
        let mut times: Vec<Duration> = Vec::new();
        let (started, mut found) = (Instant::now(), 0);
        while times.len() < 3 || started.elapsed() < Duration::from_millis(300) && times.len() < 50 {
            let used = cpu();
            found = ask();
            times.push(cpu() - used);
        }
        times.sort_unstable();
        let ms = |t: Duration| t.as_secs_f64() * 1e3;
        println!("  {what}: {found} in CPU {:.3} ms (median; least {:.3})", ms(times[times.len() / 2]), ms(times[0]));
    };
    let query = |matchers: &[Matcher]| LabelQuery {
        selectors: if matchers.is_empty() { vec![] } else { vec![matchers.to_vec()] },
        mint,
        maxt,
        ..LabelQuery::default()
    };
    let name = Matcher::equal("__name__", metric);
    let of_pod = Matcher::equal("pod", pod);
    let like = Matcher::new(narthex_model::MatchType::Regexp, "pod", ".*-0001.*").expect("a matcher");
    let values = |name: &str, matchers: &[Matcher]| {
        block_on(store.label_values(name, query(matchers))).expect("values").values.len()
    };
    let series = |matchers: &[Matcher]| block_on(store.series(query(matchers))).expect("series").values.len();
    let select = |matchers: &[Matcher], from: i64, latest_only: bool| {
        let hints = SelectHints { latest_only, ..SelectHints::default() };
        let request = SelectRequest { hints, ..SelectRequest::new(matchers.to_vec(), from, maxt) };
        let set = block_on(store.select(request)).expect("a result");
        set.batches.map(|b| b.expect("a batch").series.len()).sum::<usize>()
    };
    least("label names", &|| block_on(store.label_names(query(&[]))).expect("names").values.len());
    least("names of labels of a metric", &|| {
        block_on(store.label_names(query(std::slice::from_ref(&name)))).expect("names").values.len()
    });
    least("metric names", &|| values("__name__", &[]));
    least("pods", &|| values("pod", &[]));
    least("pods of a metric", &|| values("pod", std::slice::from_ref(&name)));
    least("series of a metric", &|| series(std::slice::from_ref(&name)));
    least("series of a pod", &|| series(std::slice::from_ref(&of_pod)));
    least("series of a metric and a pod", &|| series(&[name.clone(), of_pod.clone()]));
    least("series of a metric and pods like", &|| series(&[name.clone(), like.clone()]));
    least("samples of a metric and a pod", &|| select(&[name.clone(), of_pod.clone()], mint, false));
    if maxt - mint <= 24 * HOUR {
        least("samples of a metric", &|| select(std::slice::from_ref(&name), mint, false));
    }
    least("newest samples of a metric", &|| select(std::slice::from_ref(&name), maxt - 300_000, true));
    let many = Matcher::new(narthex_model::MatchType::Regexp, "__name__", "node_metric_[0-9]_.*").expect("a matcher");
    least("newest samples of ten metrics", &|| select(std::slice::from_ref(&many), maxt - 300_000, true));
}

fn store_options(folder: &Path) -> StoreOptions {
    let direct = std::env::var("NARTHEX_DIRECT").unwrap_or_default();
    StoreOptions {
        direct_reads: direct.contains('r'),
        direct_writes: direct.contains('w'),
        ..StoreOptions::new(folder)
    }
}

const START: i64 = 1_700_006_400_000;
const HOUR: i64 = 3_600_000;

/// Waits until full windows are in blocks, as they are long before the next ones are full where hours take hours.
fn settle(store: &Store) {
    while store.figures()["narthex_tsdb_windows_waiting"] > 0.0 {
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

fn hours(folder: &Path, series: usize, hours: usize, mix: Mix) {
    let options = store_options(folder);
    let given = |name: &str| std::env::var(name).ok().and_then(|n| n.parse().ok());
    let window_rows = given("NARTHEX_WINDOW_ROWS").unwrap_or(options.window_rows);
    let window_bytes = given("NARTHEX_WINDOW_BYTES").unwrap_or(options.window_bytes);
    let store = Store::open(StoreOptions { window_rows, window_bytes, ..options }).expect("the store");
    let used = cpu();
    let targets = series.div_ceil(PAGE);
    let mut all: Vec<Target> = (0..targets).map(|n| Target { mix, ..Target::new(&store, n) }).collect();
    for row in 0..hours as i64 * 240 {
        let t = START + row * 15_000;
        for target in &mut all {
            // Each target's pods go at another minute.
            if row > 0 && (row + target.number as i64 * 7) % 240 == 0 && target.number.is_multiple_of(3) {
                target.replace(t, |pod| (pod + row as usize / 240).is_multiple_of(5));
            } else {
                target.scrape(t, &[]);
            }
        }
        settle(&store);
        if row % 120 == 119 {
            // What the allocator keeps for a moment.
            std::thread::park_timeout(Duration::from_millis(2500));
            memory(&format!("{:.1} h", (row + 1) as f64 / 240.0), series);
            parts(&store, series);
            let figure = |name: &str| store.figures()[name];
            println!(
                "  {} series in memory, {} gone",
                figure("prometheus_tsdb_head_series"),
                figure("prometheus_tsdb_head_series_removed_total")
            );
            let written = figure("narthex_tsdb_block_bytes_written_total");
            println!("  CPU {:.1} s, {:.0} MB of blocks written", (cpu() - used).as_secs_f64(), written / 1e6);
        }
    }
    println!("{} windows", store.figures()["prometheus_tsdb_blocks_loaded"]);
    let end = START + hours as i64 * HOUR - 1;
    for back in [1, hours as i64] {
        println!("the last {back} hours:");
        questions(&store, (end - back * HOUR, end), "node_metric_7_total", "app-7-000307-00000");
    }
}

fn days(folder: &Path, series: usize, days: usize) {
    let options = || StoreOptions { window_rows: 4, ..store_options(folder) };
    let generations = days * 3;
    let targets = series.div_ceil(generations * PAGE);
    let span = 8 * HOUR;
    let empty = std::fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none());
    if empty {
        let store = Store::open(options()).expect("the store");
        let mut all: Vec<Target> = (0..targets).map(|n| Target::new(&store, n * 3)).collect();
        let (wall, used) = (Instant::now(), cpu());
        for generation in 0..generations as i64 {
            // Four rows fill a window, so that those of the generation before are in blocks and leave.
            for (i, t) in (0..4).map(|i| (i, START + generation * span + i * span / 4)) {
                for target in &mut all {
                    if i == 0 { target.replace(t, |_| true) } else { target.scrape(t, &[]) }
                }
                settle(&store);
            }
            if generation % 15 == 14 || generation + 1 == generations as i64 {
                let figure = |name: &str| store.figures()[name];
                let (all, now) =
                    (figure("prometheus_tsdb_head_series_created_total"), figure("prometheus_tsdb_head_series"));
                memory(&format!("after {all} series, {now} of them in memory"), now as usize);
            }
        }
        store.clean_tombstones().expect("clean");
        println!("built: {:.0} s, CPU {:.0} s", wall.elapsed().as_secs_f64(), (cpu() - used).as_secs_f64());
        store.close().expect("closed");
    }
    let bytes: u64 =
        std::fs::read_dir(folder).expect("the folder").filter_map(|e| e.ok()?.metadata().ok()).map(|m| m.len()).sum();
    println!("on disk: {} MB", bytes >> 20);
    let store = timed("open", || Store::open(options()).expect("the store"));
    let now = store.figures()["prometheus_tsdb_head_series"] as usize;
    memory(&format!("opened, {now} series in memory"), now);
    let end = START + generations as i64 * span - 1;
    let middle = START + (generations as i64 / 2) * span;
    let generation = generations / 2;
    let pod = format!("app-{}-{:04x}{:02x}-{generation:05x}", 7, 3, 7);
    for (what, range) in [
        ("one day", (middle - middle % (24 * HOUR), middle - middle % (24 * HOUR) + 24 * HOUR - 1)),
        ("all days", (START, end)),
    ] {
        println!("{what}:");
        questions(&store, range, "container_metric_7_total", &pod);
    }
    memory("after the queries", now);
    parts(&store, now);
}

fn restart(folder: &Path, series: usize, rows: usize) {
    let targets = series.div_ceil(PAGE);
    let start = START;
    let open = || Store::open(store_options(folder)).expect("the store");
    {
        let store = open();
        memory("empty", 0);
        let mut all: Vec<Target> = (0..targets).map(|n| Target::new(&store, n)).collect();
        timed("first scrape of all", || {
            all.iter_mut().for_each(|t| t.scrape(start, &[]));
        });
        timed("the other scrapes", || {
            for row in 1..rows {
                all.iter_mut().for_each(|t| t.scrape(start + row as i64 * STEP, &[]));
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
    questions(&store, (last - HOUR, last), "node_metric_7_total", "app-7-000307-00000");
}

/// Prints what a sample takes of this thread's CPU time; the work says how many there were.
fn each(what: &str, work: impl FnOnce() -> usize) {
    let used = cpu_of(libc::RUSAGE_THREAD);
    let samples = work();
    let took = cpu_of(libc::RUSAGE_THREAD) - used;
    println!("{what}: {:.2} ns a sample, {samples} of them", took.as_secs_f64() * 1e9 / samples.max(1) as f64);
}

/// Reads until there is no more; how many samples came.
fn follow(tail: &mut dyn Tail) -> usize {
    let mut count = 0;
    while tail.lag().records > 0 {
        let batch = tail.next(10_000, Duration::from_secs(1)).expect("a batch");
        assert_eq!(batch.missed, 0);
        count += batch.samples.len();
        tail.settle(batch.position);
    }
    count
}

fn tail(folder: &Path, series: usize, rows: usize) {
    let targets = series.div_ceil(PAGE);
    let open = || Store::open(store_options(folder)).expect("the store");
    let mut store = open();
    let mut row = 0;
    {
        let mut all: Vec<Target> = (0..targets).map(|n| Target::new(&store, n)).collect();
        let mut scrape = |rows: usize| {
            for _ in 0..rows {
                all.iter_mut().for_each(|t| t.scrape(START + row * STEP, &[]));
                row += 1;
            }
            // The log is written a moment later.
            std::thread::park_timeout(Duration::from_millis(100));
            rows * targets * PAGE
        };
        scrape(1);
        for round in 0..3 {
            each("appended, nobody follows", || scrape(rows));
            drop(store.tail("t").expect("a tail"));
            each("appended, a tail is behind", || scrape(rows));
            if round < 2 {
                store.forget_tail("t").expect("forgotten");
            }
        }
        let before = status("Anonymous:");
        let mut tail = store.tail("t").expect("a tail");
        each("read from behind", || follow(&mut *tail));
        let taken = status("Anonymous:").saturating_sub(before);
        println!("memory of the open tail: {:.1} B a series", taken as f64 / series as f64);
        for _ in 0..3 {
            each("appended while it is read", || scrape(rows));
            each("read as it comes", || follow(&mut *tail));
        }
        parts(&store, series);
        println!("{:?}", tail.lag());
        scrape(rows);
    }
    for what in ["open again with a tail behind", "the same without"] {
        drop(store);
        store = timed(what, open);
        parts(&store, series);
        let mut tail = store.tail("t").expect("a tail");
        each("read after a restart", || follow(&mut *tail));
        drop(tail);
        store.forget_tail("t").expect("forgotten");
    }
    // Far behind: most of what it holds went to blocks long ago.
    drop(store);
    let open = || Store::open(StoreOptions { window_rows: 24, ..store_options(folder) }).expect("the store");
    store = timed("open", open);
    drop(store.tail("far").expect("a tail"));
    let mut all: Vec<Target> = (0..targets).map(|n| Target::new(&store, n)).collect();
    for row in row..row + 300 {
        all.iter_mut().for_each(|t| t.scrape(START + row * STEP, &[]));
    }
    settle(&store);
    drop(all);
    for what in ["open with a tail far behind", "the same without"] {
        store.apply_retention().expect("trimmed");
        println!("{} bytes held", store.figures().get("narthex_tsdb_tail_held_bytes{tail=\"far\"}").unwrap_or(&0.0));
        drop(store);
        store = timed(what, open);
        store.forget_tail("far").expect("forgotten");
    }
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|a| a != "--bench");
    let what = args.next().unwrap_or_else(|| "restart".into());
    let mut number = |or: usize| args.next().and_then(|a| a.replace('_', "").parse().ok()).unwrap_or(or);
    let (series, second): (usize, usize) = (number(100_000), number(0));
    let or = |default: usize| if second == 0 { default } else { second };
    let temporary = tempfile::tempdir().expect("a folder");
    let given = args.next();
    let mix = match given.as_deref() {
        Some("all") => Mix::All,
        Some("small") => Mix::Small,
        Some("raw") => Mix::Raw,
        Some("few") => Mix::Few,
        _ => Mix::Half,
    };
    let given = given.filter(|_| what != "hours");
    let folder = given.as_ref().map_or(temporary.path(), Path::new);
    std::fs::create_dir_all(folder).expect("the folder");
    match what.as_str() {
        "restart" => restart(folder, series, or(12)),
        "hours" => hours(folder, series, or(3), mix),
        "days" => days(folder, series, or(30)),
        "tail" => tail(folder, series, or(20)),
        other => println!("{other}: not known, see the head of this file"),
    }
}
