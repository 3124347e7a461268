//! Several hundred odd and hostile pages, scraped by Narthex and by a real Prometheus at the same time; what both
//! stored and what both say of their targets is compared.
//!
//! A page that differs is tried again with time to spare, since a busy machine misses deadlines; one that differs then, too, fails.
//!
//! The pages change in steps. In each step both servers scrape every page at least twice (the second scrape takes the
//! fast path of a known page), then everything both hold is asked for at one time. `NARTHEX_PAGES_SEED` and
//! `NARTHEX_PAGES_RANDOM` set the seed and the number of generated pages; `NARTHEX_PAGES_ONLY` leaves out pages
//! whose name does not contain it.

mod exporter;
mod list;
mod mutated;
mod proto;
mod random;
mod starts;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::net::{self, encode};
use crate::process::{Server, prometheus, start_narthex, start_prometheus};
use exporter::{Exporter, Reply};

/// A target's page in its steps; the last one stays.
pub struct Page {
    pub name: String,
    pub job: &'static str,
    pub steps: Vec<Reply>,
    /// Whether the times of its samples are the page's, and so to be compared.
    pub own_timestamps: bool,
}

impl Page {
    pub fn new(name: &str, job: &'static str, steps: Vec<Reply>) -> Page {
        Page { name: name.to_owned(), job, steps, own_timestamps: false }
    }
}

const STEPS: usize = 4;

/// Times that pages give end in so many milliseconds of a half second.
const OWN_MS: i64 = 137;

pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(data).and_then(|()| out.finish()).unwrap_or_default()
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

fn configuration(pages: &[Page], address: std::net::SocketAddr, interval: u32) -> String {
    let timeout = interval - 1;
    let mut out = format!("global: {{scrape_interval: {interval}s, scrape_timeout: {timeout}s}}\nscrape_configs:\n");
    for (name, settings) in list::JOBS.iter().chain(mutated::JOBS) {
        let _ = write!(
            out,
            "- job_name: {name}\n  {settings}\n  relabel_configs:\n  - {{target_label: instance, replacement: x}}\n  \
             static_configs:\n"
        );
        for (i, page) in pages.iter().enumerate().filter(|(_, p)| p.job == *name) {
            let _ = writeln!(
                out,
                "  - {{targets: ['{address}'], labels: {{__metrics_path__: /p{i}, page: '{}'}}}}",
                page.name.replace('\'', "''")
            );
        }
    }
    out
}

/// What a server says of each page: lines of text, by page.
type Said = BTreeMap<String, BTreeSet<String>>;

fn label<'a>(labels: &'a Value, name: &str) -> &'a str {
    labels[name].as_str().unwrap_or_default()
}

/// Whose series it is; a page may hide its label.
fn owner(labels: &Value) -> String {
    let exported = label(labels, "exported_page");
    let page = label(labels, "page");
    if exported.is_empty() && page == "mine" { "mine".to_owned() } else { page.to_owned() }
}

/// The state that both must share at the end of a step.
fn state(server: &Server, time: i64, hide: &str, with_starts: bool) -> Result<Said> {
    let mut said = Said::new();
    let mut add = |page: String, line: String| {
        said.entry(page).or_default().insert(line.replace(hide, "ADDRESS"));
    };
    let all = encode("{__name__!=\"\",__name__!=\"scrape_duration_seconds\"}");
    let answer = server.json(&format!("/api/v1/query?query={all}&time={}", time as f64 / 1e3))?;
    ensure!(answer["status"] == "success", "{answer}");
    for series in answer["data"]["result"].as_array().into_iter().flatten() {
        let value = if series["histogram"].is_null() { &series["value"][1] } else { &series["histogram"][1] };
        add(owner(&series["metric"]), format!("series {} = {value}", series["metric"]));
    }
    let names = ["m", "m_total", "m_count", "m_sum", "m_bucket", "m.x_total"];
    // Where times are the page's own, what is counted between them can be compared, too.
    let asked = names.iter().filter(|_| with_starts).flat_map(|n| {
        let own = format!("{{__name__=\"{n}\",page=~\".*own.*\",page!~\".*no-timestamps.*\"}}");
        [format!("start_timestamp({{__name__=\"{n}\"}})"), format!("increase({own}[2m])"), format!("resets({own}[2m])")]
    });
    for query in asked {
        let path = format!("/api/v1/query?query={}&time={}", encode(&query), (time / 1000) as f64);
        let answer = server.json(&path)?;
        ensure!(answer["status"] == "success", "{answer}");
        for series in answer["data"]["result"].as_array().into_iter().flatten() {
            let value = if series["histogram"].is_null() { &series["value"][1] } else { &series["histogram"][1] };
            add(owner(&series["metric"]), format!("{query} {} = {value}", series["metric"]));
        }
    }
    let answer = server.json("/api/v1/targets")?;
    for target in answer["data"]["activeTargets"].as_array().into_iter().flatten() {
        let page = label(&target["labels"], "page").to_owned();
        add(page, format!("target {} {}", target["health"], target["lastError"]));
    }
    Ok(said)
}

/// What a server says of the metrics of each page. It forgets what a page said more than ten scrapes ago, so it is
/// compared before that.
fn metadata(server: &Server) -> Result<Said> {
    let mut said = Said::new();
    let mut add = |page: String, line: String| {
        said.entry(page).or_default().insert(line);
    };
    let answer = server.json(&format!("/api/v1/targets/metadata?match_target={}", encode("{page!=\"\"}")))?;
    for entry in answer["data"].as_array().into_iter().flatten() {
        add(
            label(&entry["target"], "page").to_owned(),
            format!("metadata {} {} {} {}", entry["metric"], entry["type"], entry["help"], entry["unit"]),
        );
    }
    Ok(said)
}

/// Whether a time is a page's own: those end in the same milliseconds, others hardly ever.
fn is_own(seconds: &Value) -> bool {
    (seconds.as_f64().unwrap_or_default() * 1000.0).round() as i64 % 500 == OWN_MS
}

/// What is compared once, at the end.
fn history(server: &Server, since: i64, time: i64, pages: &[Page]) -> Result<Said> {
    let own: BTreeSet<&str> = pages.iter().filter(|p| p.own_timestamps).map(|p| p.name.as_str()).collect();
    let mut said = Said::new();
    let mut add = |page: String, line: String| {
        said.entry(page).or_default().insert(line);
    };
    // Starts are up to a minute before.
    let window = (time - since) / 1000 + 70;
    let all = encode(&format!("{{__name__!=\"\",__name__!=\"scrape_duration_seconds\"}}[{window}s]"));
    let answer = server.json(&format!("/api/v1/query?query={all}&time={}", time as f64 / 1e3))?;
    ensure!(answer["status"] == "success", "{answer}");
    let all = || answer["data"]["result"].as_array().into_iter().flatten();
    // One scrape in 500 happens to be at such a millisecond.
    let mut scrapes: BTreeSet<(String, String)> = BTreeSet::new();
    for series in all().filter(|s| label(&s["metric"], "__name__") == "up") {
        let times = series["values"].as_array().into_iter().flatten().map(|sample| sample[0].to_string());
        scrapes.extend(times.map(|time| (owner(&series["metric"]), time)));
    }
    for series in all() {
        let page = owner(&series["metric"]);
        let name = label(&series["metric"], "__name__");
        let report = name == "up" || name.starts_with("scrape_");
        for kind in ["values", "histograms"] {
            // Each value once, however often it was scraped.
            let mut values: Vec<String> = Vec::new();
            for sample in series[kind].as_array().into_iter().flatten() {
                let own = own.contains(page.as_str())
                    && !report
                    && is_own(&sample[0])
                    && !scrapes.contains(&(page.clone(), sample[0].to_string()));
                let text = if own { sample.to_string() } else { sample[1].to_string() };
                if values.last() != Some(&text) {
                    values.push(text);
                }
            }
            if !values.is_empty() {
                add(page.clone(), format!("{kind} {} = {}", series["metric"], values.join(" ")));
            }
        }
    }
    let answer = server.json(&format!(
        "/api/v1/query_exemplars?query={}&start={}&end={}",
        encode("{page!=\"\"}"),
        (since - 60_000) as f64 / 1e3,
        (time + 60_000) as f64 / 1e3
    ))?;
    for series in answer["data"].as_array().into_iter().flatten() {
        let page = owner(&series["seriesLabels"]);
        for exemplar in series["exemplars"].as_array().into_iter().flatten() {
            let time = &exemplar["timestamp"];
            add(
                page.clone(),
                format!(
                    "exemplar {} {} {} {}",
                    series["seriesLabels"],
                    exemplar["labels"],
                    exemplar["value"],
                    if is_own(time) { time.to_string() } else { String::new() }
                ),
            );
        }
    }
    Ok(said)
}

/// Waits until all pages but `never` were asked for so many times.
fn wait_for(exporter: &Exporter, times: usize, never: usize) -> Result<()> {
    let began = Instant::now();
    while exporter.missing(times) > never {
        ensure!(began.elapsed() < Duration::from_secs(120), "{} pages were not asked for", exporter.missing(times));
        std::thread::sleep(Duration::from_millis(50));
    }
    // What was answered last has to be stored yet.
    std::thread::sleep(Duration::from_millis(1500));
    Ok(())
}

fn is_generated(page: &str) -> bool {
    page.starts_with("random") || page.starts_with("mutated")
}

fn compare(ours: &Said, theirs: &Said, when: &str, out: &mut BTreeMap<String, Vec<String>>) {
    let pages: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let none = BTreeSet::new();
    for page in pages {
        let (a, b) = (ours.get(page).unwrap_or(&none), theirs.get(page).unwrap_or(&none));
        for line in a.difference(b) {
            out.entry(page.clone()).or_default().push(format!("{when}: narthex    {line}"));
        }
        for line in b.difference(a) {
            out.entry(page.clone()).or_default().push(format!("{when}: prometheus {line}"));
        }
    }
}

/// The parts of a request that both must send alike.
fn request_lines(request: &str) -> BTreeSet<String> {
    let line = |l: &str| {
        let (name, value) = l.split_once(": ").unwrap_or((l, ""));
        format!("{}: {value}", name.to_ascii_lowercase())
    };
    let skip = ["user-agent", "host", "connection"];
    request.lines().map(line).filter(|l| !skip.iter().any(|s| l.starts_with(s)) && l != ": ").collect()
}

/// Differences by page of the pages whose name is `chosen`, scraped every `interval` seconds, with these features on.
fn differences(
    binary: &Path,
    interval: u32,
    features: &str,
    chosen: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, Vec<String>>> {
    let began = now_ms() / 1000 * 1000 + OWN_MS;
    let mut pages = list::pages(began);
    pages.extend(random::pages());
    pages.extend(mutated::pages(began));
    pages.extend(starts::pages(began));
    pages.retain(|p| chosen(&p.name));
    let names: BTreeSet<&str> = pages.iter().map(|p| p.name.as_str()).collect();
    ensure!(names.len() == pages.len(), "two pages have one name");
    let paths = pages.iter().enumerate().map(|(i, p)| (format!("/p{i}"), p.steps.clone()));
    let exporter = Arc::new(Exporter::new(paths, list::redirected()));
    let served = pages.len();
    // Targets beyond a limit fail unasked, at both servers.
    let never = pages.iter().filter(|p| p.job == "targets-over").count() * 2;
    let folder = tempfile::tempdir()?;
    let mut servers = Vec::new();
    let mut addresses = Vec::new();
    for server in 0..2 {
        let address = exporter.listen(server)?;
        let file = folder.path().join(format!("{server}.yml"));
        std::fs::write(&file, configuration(&pages, address, interval))?;
        let flags = [
            format!("--config.file={}", file.display()),
            format!("--enable-feature={features}"),
            "--query.max-samples=50000000".to_owned(),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let port = net::free_port()?;
        servers.push(match server {
            0 => start_narthex(folder.path(), port, &flags)?,
            _ => start_prometheus(binary, folder.path(), port, &flags)?,
        });
        addresses.push(address.to_string());
    }
    let mut differences = BTreeMap::new();
    let mut series = 0;
    for step in 0..STEPS {
        exporter.set_step(step);
        wait_for(&exporter, 2, never)?;
        let time = now_ms();
        // Where starts are made up they are times of scrapes.
        let with_starts = features.contains("st-storage") && !features.contains("st-synthesis");
        let ours = state(&servers[0], time, &addresses[0], with_starts)?;
        let theirs = state(&servers[1], time, &addresses[1], with_starts)?;
        series += theirs.values().map(BTreeSet::len).sum::<usize>();
        compare(&ours, &theirs, &format!("step {step}"), &mut differences);
        if step == 0 {
            compare(&metadata(&servers[0])?, &metadata(&servers[1])?, &format!("step {step}"), &mut differences);
        }
    }
    let time = now_ms();
    let ours = history(&servers[0], began, time, &pages)?;
    let theirs = history(&servers[1], began, time, &pages)?;
    compare(&ours, &theirs, "history", &mut differences);
    for (i, page) in pages.iter().enumerate() {
        let [ours, theirs] = exporter.request(&format!("/p{i}"));
        let ours = request_lines(&ours.replace(&addresses[0], "ADDRESS"));
        let theirs = request_lines(&theirs.replace(&addresses[1], "ADDRESS"));
        if ours != theirs {
            let text = format!("request: narthex {ours:?}, prometheus {theirs:?}");
            differences.entry(page.name.clone()).or_default().push(text);
        }
    }
    // What was generated is shown, so that nobody has to make it again.
    for page in pages.iter().filter(|p| is_generated(&p.name)) {
        if let Some(lines) = differences.get_mut(&page.name) {
            for (step, reply) in page.steps.iter().enumerate() {
                let kind = reply.content_type.as_deref().unwrap_or_default();
                lines.push(format!(
                    "page of step {step}, job {}, {} {kind:?} {:?} {:?}: {}",
                    page.job,
                    reply.status,
                    reply.framing,
                    reply.headers,
                    reply.body.escape_ascii()
                ));
            }
        }
    }
    println!("{served} pages, {series} lines compared, {} pages differ", differences.len());
    Ok(differences)
}

#[test]
fn odd_pages_as_prometheus_takes_them() -> Result<()> {
    check("exemplar-storage", |_| true)
}

#[test]
fn pages_with_types_and_units_as_labels() -> Result<()> {
    // Generated pages are left out: what is odd in them is in the other test. So is what turns from text to protobuf and back.
    let chosen = |name: &str| !(is_generated(name) || name.contains("/format-") && name.ends_with("-proto"));
    check("exemplar-storage,type-and-unit-labels,extra-scrape-metrics", chosen)
}

#[test]
fn pages_whose_starts_become_samples() -> Result<()> {
    let chosen = |name: &str| ["starts", "proto", "native", "nhcb", "time"].iter().any(|kind| name.starts_with(kind));
    check("exemplar-storage,created-timestamp-zero-ingestion", chosen)
}

#[test]
fn pages_whose_starts_are_kept() -> Result<()> {
    // Prometheus keeps them in certain chunks only.
    let features = "exemplar-storage,st-storage,xor2-encoding,histograms-st-encoding,use-start-timestamps,\
                    promql-experimental-functions";
    check(features, |name| name.starts_with("starts"))
}

#[test]
fn pages_whose_starts_are_made_up() -> Result<()> {
    let features = "exemplar-storage,st-storage,st-synthesis,xor2-encoding,histograms-st-encoding,use-start-timestamps,\
                    promql-experimental-functions";
    check(features, |name| name.starts_with("starts") || name.starts_with("counted"))
}

/// Compares all pages whose name is `chosen`.
fn check(features: &str, chosen: fn(&str) -> bool) -> Result<()> {
    let Some(binary) = prometheus() else {
        println!("skipped: no Prometheus");
        return Ok(());
    };
    let only = std::env::var("NARTHEX_PAGES_ONLY").unwrap_or_default();
    let mut differences = differences(&binary, 3, features, |name| chosen(name) && name.contains(&only))?;
    if !differences.is_empty() {
        differences = self::differences(&binary, 10, features, |name| differences.contains_key(name))?;
    }
    let report = |longest: usize| {
        let mut text = String::new();
        for (page, lines) in &differences {
            let _ = writeln!(text, "{page}");
            for line in lines {
                let _ = writeln!(text, "    {}", line.chars().take(longest).collect::<String>());
            }
        }
        text
    };
    if let Some(path) = std::env::var_os("NARTHEX_PAGES_REPORT") {
        std::fs::write(path, report(100_000))?;
    }
    let text = report(600);
    ensure!(
        differences.is_empty(),
        "{} pages differ:\n{}",
        differences.len(),
        text.chars().take(20_000).collect::<String>()
    );
    Ok(())
}
