//! Remote write with faults: random requests of both protocols, some of their samples bad in all ways that senders know,
//! to Narthex and to a real Prometheus. Both have to answer the same, in the same words, and to have the same after it.
//!
//! `NARTHEX_WRITE_SEED` (1) and `NARTHEX_WRITE_RANDOM` (60) set the seed and the number of requests, which
//! `NARTHEX_WRITE_SHOW` prints. Left out: samples
//! more than an hour older than the newest of all, which Narthex takes where their series has nothing later, and
//! staleness markers of series with histograms, which Prometheus turns into histograms, and late ones of series with both.

use anyhow::{Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use crate::net;
use crate::process::Server;
use crate::wire::{both, now, pb, result};

/// The bits of a staleness marker.
const STALE: u64 = 0x7ff0_0000_0000_0002;

#[derive(Clone, Debug)]
enum Point {
    Float(i64, f64),
    /// Its time, how many of it, and which fault it has.
    Histogram(i64, u64, u8),
}

#[derive(Debug)]
struct Series {
    labels: Vec<(String, String)>,
    points: Vec<Point>,
    exemplars: Vec<(i64, f64, String)>,
}

struct Random {
    rng: StdRng,
    /// When the newest sample of each series is that was sent without a fault, and what it was.
    newest: Vec<(i64, u64)>,
    at: i64,
    end: i64,
    /// Whether a series may have both floats and histograms.
    mixed: bool,
}

const SERIES: usize = 14;

impl Random {
    fn labels(&mut self, i: usize) -> Vec<(String, String)> {
        let kind = ["f", "h"][usize::from(i % 3 == 2)];
        let pair = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        let mut labels = vec![pair("__name__", kind), pair("i", &i.to_string())];
        if i % 5 == 1 {
            labels.push(pair("instance", "a"));
        }
        if i % 7 == 3 {
            labels.push(pair("ü.x", "\"\\\n"));
        }
        labels
    }

    fn float(&mut self, marker: bool) -> f64 {
        match self.rng.random_range(0..12) {
            0 if marker => f64::from_bits(STALE),
            1 => f64::NAN,
            2 => 1e300,
            3 => -0.5,
            4 => 1e21,
            n => f64::from(n) * 0.1 + f64::from(self.rng.random_range(0..4)),
        }
    }

    fn series(&mut self, i: usize, faulty: bool, second: bool) -> Series {
        let mut labels = self.labels(i);
        let histograms = i % 3 == 2;
        let (mut last, mut value) = self.newest[i];
        let mut points = Vec::new();
        for _ in 0..*[1, 1, 1, 2, 3].get(self.rng.random_range(0..5)).unwrap_or(&1) {
            let fault = if faulty { self.rng.random_range(0..9) } else { 99 };
            let t = match fault {
                0 => last - self.rng.random_range(1..20_000),
                1 | 2 => last,
                3 => now() * 1000 + 3_600_000,
                _ => self.at.max(last + 1) + self.rng.random_range(0..5),
            };
            if histograms != (self.mixed && !i.is_multiple_of(3) && self.rng.random_bool(0.05)) {
                let bad = if faulty && self.rng.random_bool(0.3) { self.rng.random_range(1..16) } else { 0 };
                if fault != 1 {
                    value = self.rng.random_range(0..50);
                }
                points.push(Point::Histogram(t, value, bad));
            } else {
                if fault != 1 {
                    value = self.float(i.is_multiple_of(3)).to_bits();
                }
                points.push(Point::Float(t, f64::from_bits(value)));
            }
            if fault > 3 {
                last = t;
            }
        }
        self.newest[i] = (last, value);
        if faulty && self.rng.random_bool(0.1) {
            match self.rng.random_range(0..4) {
                0 => labels.remove(0).0.clear(),
                1 => labels.push(labels[1].clone()),
                2 => labels.push((String::new(), "x".into())),
                _ => labels.insert(0, ("z".into(), String::new())),
            }
        }
        let mut exemplars = Vec::new();
        // Of a series that has only histograms 1.0's receiver forgets the first.
        if self.rng.random_bool(0.2) && (second || points.iter().any(|p| matches!(p, Point::Float(..)))) {
            let late = if faulty { self.rng.random_range(0..20_000) } else { 0 };
            exemplars.push((
                self.at - late,
                f64::from(self.rng.random_range(0..3)),
                "x".repeat(if faulty { 200 } else { 3 }),
            ));
        }
        Series { labels, points, exemplars }
    }

    fn request(&mut self, second: bool) -> Vec<Series> {
        self.at = (self.at + self.rng.random_range(1000..9000)).min(self.end);
        // The window for late samples is reckoned from the first sample of all where there is none before.
        let faulty = self.newest.iter().any(|n| n.1 != 1) && self.rng.random_bool(0.5);
        let mut series = Vec::new();
        for i in 0..SERIES {
            if self.rng.random_bool(0.6) {
                let faulty = faulty && self.rng.random_bool(0.3);
                series.push(self.series(i, faulty, second));
            }
        }
        if self.rng.random_bool(0.1) {
            series.reverse();
        }
        series
    }
}

fn span(field: u32, offset: i64, length: u64) -> Vec<u8> {
    pb::message(field, &[pb::signed(1, offset), pb::number(2, length)])
}

fn histogram(t: i64, n: u64, bad: u8) -> Vec<u8> {
    let time = pb::number(15, t as u64);
    let whole = |count: u64, schema: i64, rest: &[Vec<u8>]| {
        [pb::number(1, count), pb::double(3, n as f64), pb::signed(4, schema), rest.concat()].concat()
    };
    let float = |count: f64, rest: &[Vec<u8>]| [pb::double(2, count), pb::signed(4, 1), rest.concat()].concat();
    let custom = |rest: &[Vec<u8>]| whole(n, -53, rest);
    let m = n as i64;
    let body = match bad {
        1 => whole(n + 1, 1, &[span(11, 0, 1), pb::deltas(12, &[m])]),
        2 => whole(n, 1, &[span(11, 0, 2), pb::deltas(12, &[m])]),
        3 => whole(n, 1, &[span(11, 0, 1), span(11, -1, 1), pb::deltas(12, &[m, -m])]),
        4 => whole(n, 1, &[span(11, 0, 2), pb::deltas(12, &[m, -m - 1])]),
        5 => whole(n, -6, &[span(11, 0, 1), pb::deltas(12, &[m])]),
        6 => whole(n, 60, &[span(11, 0, 1), pb::deltas(12, &[m])]),
        7 => custom(&[span(11, 0, 3), pb::deltas(12, &[m, -m, 0]), pb::doubles(16, &[1.0])]),
        8 => custom(&[span(11, 0, 1), pb::deltas(12, &[m]), pb::doubles(16, &[1.0, 1.0])]),
        9 => custom(&[span(11, 0, 1), pb::deltas(12, &[m]), pb::doubles(16, &[1.0, f64::INFINITY])]),
        10 => custom(&[span(11, 0, 1), pb::deltas(12, &[m]), pb::doubles(16, &[f64::NAN])]),
        11 => custom(&[pb::number(6, 1), span(11, 0, 1), pb::deltas(12, &[m]), pb::doubles(16, &[1.0])]),
        12 => custom(&[span(8, 0, 1), pb::deltas(9, &[m]), pb::doubles(16, &[1.0])]),
        13 => float(-1.0, &[span(11, 0, 1), pb::doubles(13, &[1.0])]),
        14 => float(1.0, &[span(8, 0, 1), pb::doubles(10, &[-1.5])]),
        15 => float(1.0, &[pb::double(7, -2.0), span(11, 0, 1), pb::doubles(13, &[1.0]), pb::doubles(16, &[1.0])]),
        _ => whole(n, 1, &[span(11, 0, 1), pb::deltas(12, &[m])]),
    };
    [body, time].concat()
}

fn v1(series: &[Series]) -> Vec<u8> {
    let labels = |pairs: &[(String, String)]| -> Vec<u8> {
        let one = |(n, v): &(String, String)| pb::message(1, &[pb::bytes(1, n.as_bytes()), pb::bytes(2, v.as_bytes())]);
        pairs.iter().flat_map(one).collect()
    };
    let one = |s: &Series| {
        let mut parts = vec![labels(&s.labels)];
        parts.extend(s.points.iter().map(|p| match p {
            Point::Float(t, v) => pb::message(2, &[pb::double(1, *v), pb::number(2, *t as u64)]),
            Point::Histogram(t, n, bad) => pb::bytes(4, &histogram(*t, *n, *bad)),
        }));
        parts.extend(s.exemplars.iter().map(|(t, v, id)| {
            let id = labels(&[("id".to_owned(), id.clone())]);
            pb::message(3, &[id, pb::double(2, *v), pb::number(3, *t as u64)])
        }));
        pb::message(1, &parts)
    };
    series.iter().flat_map(one).collect()
}

fn v2(series: &[Series]) -> Vec<u8> {
    let mut symbols = vec![String::new()];
    let mut refs = |pairs: &[(String, String)]| {
        let texts = pairs.iter().flat_map(|(n, v)| [n, v]);
        let at = |text: &String| {
            let found = symbols.iter().position(|s| s == text);
            found.unwrap_or_else(|| {
                symbols.push(text.clone());
                symbols.len() - 1
            })
        };
        texts.map(at).map(|r| pb::number(1, r as u64)).collect::<Vec<_>>().concat()
    };
    let mut body = Vec::new();
    for s in series {
        let mut parts = vec![refs(&s.labels)];
        parts.extend(s.points.iter().map(|p| match p {
            Point::Float(t, v) => pb::message(2, &[pb::double(1, *v), pb::number(2, *t as u64)]),
            Point::Histogram(t, n, bad) => pb::bytes(3, &histogram(*t, *n, *bad)),
        }));
        parts.extend(s.exemplars.iter().map(|(t, v, id)| {
            pb::message(4, &[refs(&[("id".to_owned(), id.clone())]), pb::double(2, *v), pb::number(3, *t as u64)])
        }));
        body.extend(pb::message(5, &parts));
    }
    [symbols.iter().flat_map(|s| pb::bytes(4, s.as_bytes())).collect(), body].concat()
}

/// Status, text, and what was written, as headers tell.
fn push(server: &Server, request: &[u8], second: bool) -> Result<(u16, String, Vec<String>)> {
    let body = snap::raw::Encoder::new().compress_vec(request)?;
    let kind =
        if second { "application/x-protobuf;proto=io.prometheus.write.v2.Request" } else { "application/x-protobuf" };
    let headers = [("Content-Encoding", "snappy"), ("Content-Type", kind)];
    let answer = net::send(server.address, "POST", "/api/v1/write", &headers, &body)?;
    let header = |n: &str| answer.header(&format!("x-prometheus-remote-write-{n}-written")).to_owned();
    // Prometheus names labels without values, too.
    let text = answer.text().replace(", z=\"\"", "");
    Ok((answer.status, text, ["samples", "histograms", "exemplars"].map(header).to_vec()))
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[test]
fn requests_with_faults_are_taken_as_by_prometheus() -> Result<()> {
    let (seed, requests) = (number("NARTHEX_WRITE_SEED", 1), number("NARTHEX_WRITE_RANDOM", 60));
    for (round, config) in ["", "storage: {tsdb: {out_of_order_time_window: 8s}}\n"].iter().enumerate() {
        let folder = tempfile::tempdir()?;
        let flags = [
            "--web.enable-remote-write-receiver",
            "--web.remote-write-receiver.accepted-protobuf-messages=prometheus.WriteRequest",
            "--web.remote-write-receiver.accepted-protobuf-messages=io.prometheus.write.v2.Request",
            "--enable-feature=exemplar-storage",
        ];
        let Some((ours, theirs)) = both(folder.path(), config, &flags)? else { return Ok(()) };
        let end = now() * 1000;
        let rng = StdRng::seed_from_u64(seed.wrapping_add(round as u64));
        let start = end - 600_000;
        let mut random = Random { rng, newest: vec![(start, 1); SERIES], at: start, end, mixed: round == 0 };
        let mut refused = 0;
        for n in 0..requests {
            let second = random.rng.random_bool(0.4);
            let request = random.request(second);
            if std::env::var_os("NARTHEX_WRITE_SHOW").is_some() {
                println!("request {n} ({}): {request:?}", u8::from(second) + 1);
            }
            let body = if second { v2(&request) } else { v1(&request) };
            let (a, b) = (push(&ours, &body, second)?, push(&theirs, &body, second)?);
            ensure!(a == b, "seed {seed} window {round} request {n}:\n{a:?}\n   instead of\n{b:?}");
            refused += usize::from(b.0 != 204);
            if n % 10 != 9 && n + 1 < requests && b.0 == 204 {
                continue;
            }
            let time = format!("time={}", end / 1000 + 60);
            for ask in ["{__name__=~\".+\"}[20m]", "count_over_time({__name__=~\".+\"}[20m])"] {
                let (a, b) = (result(&ours, ask, &time)?, result(&theirs, ask, &time)?);
                ensure!(a == b, "seed {seed} window {round} after request {n}: {}", first_difference(&a, &b));
            }
            let path =
                format!("/api/v1/query_exemplars?query={}&start=0&end={}", net::encode("{__name__=~\".+\"}"), end);
            let sorted = |s: &Server| -> Result<Value> {
                let mut answer = s.json(&path)?;
                if let Some(list) = answer["data"].as_array_mut() {
                    list.sort_by_key(|s| s["seriesLabels"].to_string());
                }
                Ok(answer)
            };
            let (a, b) = (sorted(&ours)?, sorted(&theirs)?);
            ensure!(a == b, "seed {seed} window {round} exemplars after request {n}: {a}\n   instead of\n{b}");
        }
        println!("{requests} requests, {refused} with refused samples");
        ensure!(refused > requests as usize / 10);
        ours.stop()?;
    }
    Ok(())
}

/// The samples of the first series that differs which only one of them has.
fn first_difference(a: &Value, b: &Value) -> String {
    let list = |v: &Value| v["data"]["result"].as_array().cloned().unwrap_or_default();
    let (a, b) = (list(a), list(b));
    let differs = |i: &usize| a.get(*i) != b.get(*i);
    let at = (0..a.len().max(b.len())).find(differs).unwrap_or_default();
    let (a, b) = (a.get(at).cloned().unwrap_or_default(), b.get(at).cloned().unwrap_or_default());
    let samples = |v: &Value| -> Vec<Value> {
        let kind = |k: &str| v[k].as_array().cloned().unwrap_or_default();
        [kind("values"), kind("histograms")].concat()
    };
    let (ours, theirs) = (samples(&a), samples(&b));
    let only = |x: &[Value], y: &[Value]| x.iter().filter(|s| !y.contains(s)).map(Value::to_string).collect::<Vec<_>>();
    format!(
        "{} instead of {}: {:?} instead of {:?}",
        a["metric"],
        b["metric"],
        only(&ours, &theirs),
        only(&theirs, &ours)
    )
}

/// Labels, times and requests at their limits, one request each.
#[test]
fn odd_requests_are_answered_as_by_prometheus() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let Some((ours, theirs)) = both(folder.path(), "", &["--web.enable-remote-write-receiver"])? else { return Ok(()) };
    let time = now() * 1000;
    let one = |labels: &[(&[u8], &[u8])], t: i64| {
        let label = |(n, v): &(&[u8], &[u8])| pb::message(1, &[pb::bytes(1, n), pb::bytes(2, v)]);
        let labels: Vec<u8> = labels.iter().flat_map(label).collect();
        pb::message(1, &[labels, pb::message(2, &[pb::double(1, 1.0), pb::number(2, t as u64)])])
    };
    let name = b"__name__".as_slice();
    let good = one(&[(name, b"good")], time);
    let requests: Vec<Vec<u8>> = vec![
        vec![],
        good.clone(),
        [good.clone(), good.clone()].concat(),
        one(&[(name, b"\xff")], time),
        [one(&[(name, b"a"), (b"b", b"\xff")], time), one(&[(name, b"beside")], time)].concat(),
        one(&[(name, b"a"), (b"\xff", b"b")], time),
        one(&[(name, "\u{fffd}".as_bytes())], time),
        one(&[(name, b"")], time),
        one(&[(b"a", b"b")], time),
        one(&[], time),
        one(&[(name, b"far")], i64::MAX),
        one(&[(name, b"soon")], time + 300_000),
        pb::message(1, &[pb::message(1, &[pb::bytes(1, name), pb::bytes(2, b"empty")])]),
        good[..good.len() - 3].to_vec(),
        pb::bytes(9, b"unknown"),
    ];
    for (n, request) in requests.iter().enumerate() {
        let (a, b) = (push(&ours, request, false)?, push(&theirs, request, false)?);
        ensure!(a == b, "request {n}: {a:?} instead of {b:?}");
    }
    // A read of a range that ends before it begins.
    let matcher = pb::message(3, &[pb::number(1, 0), pb::bytes(2, name), pb::bytes(3, b"good")]);
    let read = pb::message(1, &[pb::number(1, 5), pb::number(2, 3), matcher]);
    let body = snap::raw::Encoder::new().compress_vec(&read)?;
    let ask = |s: &Server| net::send(s.address, "POST", "/api/v1/read", &[("Content-Encoding", "snappy")], &body);
    let (a, b) = (ask(&ours)?, ask(&theirs)?);
    ensure!((a.status, a.text()) == (b.status, b.text()), "{} {}", a.status, a.text());
    let (all, time) = ("{__name__=~\".+\"}[10m]", format!("time={}", time / 1000 + 400));
    let (a, b) = (result(&ours, all, &time)?, result(&theirs, all, &time)?);
    ensure!(a == b && b.to_string().contains("beside"), "{a}\n   instead of\n{b}");
    ours.stop()
}
