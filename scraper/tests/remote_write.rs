//! Remote write by the bytes of labels against remote write by labels: the same requests, cut anywhere, to two stores,
//! one of which never recognises anything. Both must count and store the same, at any time and after any restart.

#[path = "remote_write/push.rs"]
mod push;

use std::time::Duration;

use futures::executor::block_on;
use narthex_model::stale_nan;
use narthex_server::write::known::{Known, MAX_KNOWN};
use narthex_server::write::{Taken, V1, V2, intake};
use narthex_storage::{Queryable, SelectRequest};
use narthex_tsdb::{Store, StoreOptions};
use push::Push;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const STEP: i64 = 15_000;

struct Side {
    store: Option<Store>,
    folder: tempfile::TempDir,
    known: Known,
    window: Duration,
    recognised: u64,
}

impl Side {
    fn new(max: usize, window: Duration) -> Side {
        let folder = tempfile::tempdir().unwrap();
        let mut side = Side { store: None, folder, known: Known::new(max), window, recognised: 0 };
        side.open();
        side
    }

    fn open(&mut self) {
        self.store = None;
        let path = self.folder.path();
        let options =
            StoreOptions { out_of_order_time_window: self.window, window_rows: 24, ..StoreOptions::new(path) };
        self.store = Some(Store::open(options).unwrap());
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn write(&mut self, body: &[u8], message: &str, latest: i64) -> Result<String, String> {
        let taken = intake(self.store(), &self.known, body, message, latest)?;
        let Taken { outcome, faults, floats, histograms, exemplars, known, .. } = taken;
        self.recognised += known;
        let mut o = outcome.map_err(|e| e.to_string())?;
        if let Some(durable) = o.durable.take() {
            block_on(durable).unwrap();
        }
        Ok(format!(
            "appended {} out of order {} duplicate {} too old {} exemplars {} refused {} {} faults {faults:?} floats {floats} histograms {histograms} exemplars {exemplars}",
            o.appended,
            o.out_of_order,
            o.duplicate,
            o.too_old,
            o.exemplars,
            o.exemplars_refused,
            o.first_refusal.is_some(),
        ))
    }

    /// Everything as text: labels, then each sample's time, bits and start.
    fn all(&self) -> Vec<String> {
        let set = block_on(self.store().select(SelectRequest::new(vec![], i64::MIN, i64::MAX))).unwrap();
        assert!(set.warnings.is_empty(), "{:?}", set.warnings);
        let text = |s: &narthex_storage::Series| {
            let mut out = s.labels.to_string();
            for (i, (t, v)) in s.floats.iter().enumerate() {
                let start = s.floats.start_timestamps.as_ref().map_or(0, |s| s[i]);
                out += &format!(" {t}:{:x}:{start}", v.to_bits());
            }
            for (t, h) in s.histograms.timestamps.iter().zip(&s.histograms.values) {
                out += &format!(" {t}:{h:?}");
            }
            out
        };
        set.collect_sorted().unwrap().iter().map(text).collect()
    }
}

struct Target {
    series: Vec<(Vec<(String, String)>, f64, bool)>,
    time: i64,
    epoch: usize,
}

impl Target {
    fn new(number: usize, n: usize) -> Target {
        let mut target = Target { series: Vec::new(), time: 1_000_000 + number as i64 * 7, epoch: 0 };
        for i in 0..n {
            target.series.push((Target::labels(number, i, 0), i as f64, true));
        }
        target
    }

    fn labels(number: usize, i: usize, epoch: usize) -> Vec<(String, String)> {
        let pair = |n: &str, v: String| (n.to_owned(), v);
        vec![
            pair("__name__", format!("metric_{}", i / 5)),
            pair("instance", format!("host{number}")),
            pair("job", "test".into()),
            pair("pod", format!("p{epoch}-{}", "x".repeat(i % 40))),
            pair("z", i.to_string()),
        ]
    }

    /// The next page: mostly plain, with whatever senders send now and then.
    fn page(&mut self, number: usize, wild: bool, rng: &mut StdRng) -> Vec<Push> {
        self.time += STEP;
        let t = self.time;
        let mut page = Vec::new();
        if wild && rng.random_bool(0.05) {
            let n = self.series.len();
            let (a, b) = (rng.random_range(0..n), rng.random_range(0..n));
            self.series.swap(a, b);
        }
        for i in 0..self.series.len() {
            if rng.random_bool(0.01) {
                self.epoch += 1;
                let (labels, _, alive) = &mut self.series[i];
                if *alive {
                    page.push(Push { labels: labels.clone(), samples: vec![(t, stale_nan())], ..Push::default() });
                } else {
                    *labels = Target::labels(number, i, self.epoch);
                }
                *alive = !*alive;
                continue;
            }
            let (labels, value, alive) = &mut self.series[i];
            if !*alive {
                continue;
            }
            *value += f64::from(rng.random_range(0..4u8)) / 4.0;
            let mut push = Push { labels: labels.clone(), samples: vec![(t, *value)], ..Push::default() };
            push.help = if i % 7 == 0 { format!("help {}", t / 400_000) } else { String::new() };
            push.start = if i % 11 == 0 { t / 300_000 * 300_000 } else { 0 };
            if wild {
                match rng.random_range(0..200) {
                    0 => push.exemplar = Some((i as u32, t)),
                    1 => (push.samples, push.histogram) = (vec![], Some((t, i as u64))),
                    2 => push.samples.insert(0, (t - 5_000, -1.5)),
                    3 => push.samples.push((t - 40_000, 7.0)),
                    4 => push.samples.push((t, 7.0)),
                    5 => push.samples.push((t + 100_000_000, 7.0)),
                    6 => push.labels.reverse(),
                    7 => push.labels.remove(0).0.clear(),
                    // At the very time of a window's last row it would depend on when windows close.
                    8 => push.samples = vec![(t - STEP - 3, f64::INFINITY)],
                    9 => page.push(push.clone()),
                    10 => push.labels.push(("empty".into(), String::new())),
                    _ => {}
                }
            }
            page.push(push);
        }
        page
    }
}

fn run(seed: u64, window: Duration, wild: bool) {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut fast, mut plain) = (Side::new(MAX_KNOWN, window), Side::new(0, window));
    let mut targets: Vec<Target> = (0..3).map(|i| Target::new(i, 20 + 30 * i)).collect();
    let mut written = 0;
    for step in 0..100 {
        let what = format!("seed {seed} step {step} wild {wild}");
        let mut pushed: Vec<Push> = Vec::new();
        for _ in 0..rng.random_range(1..4) {
            let i = rng.random_range(0..targets.len());
            pushed.extend(targets[i].page(i, wild, &mut rng));
        }
        let latest = targets.iter().map(|t| t.time).max().unwrap_or(0) + 600_000;
        while !pushed.is_empty() {
            let n = if rng.random_bool(0.4) { pushed.len() } else { rng.random_range(1..=pushed.len()) };
            let part: Vec<Push> = pushed.drain(..n).collect();
            let (body, message) = match rng.random_range(0..3) {
                0 => (push::v2(&part, rng.random_range(0..3)), V2),
                _ => (push::v1(&part), V1),
            };
            written += part.iter().map(|p| p.samples.len() as u64).sum::<u64>();
            assert_eq!(fast.write(&body, message, latest), plain.write(&body, message, latest), "{what}");
        }
        if rng.random_bool(0.05) {
            fast.open();
            plain.open();
        }
        if rng.random_bool(0.1) || step == 99 {
            let (a, b) = (fast.all(), plain.all());
            for (a, b) in a.iter().zip(&b) {
                assert_eq!(a, b, "{what}");
            }
            assert_eq!(a.len(), b.len(), "{what}");
        }
    }
    assert_eq!(plain.recognised, 0);
    let share = fast.recognised as f64 / written as f64;
    assert!(share > if wild { 0.12 } else { 0.8 }, "seed {seed}: only {share} of {written} samples recognised");
}

#[test]
fn recognised_series_are_stored_as_decoded_ones() {
    let only = std::env::var("SEED").ok().and_then(|s| s.parse().ok());
    for seed in only.map_or(0..4, |s| s..s + 1) {
        let window = Duration::from_secs(if seed % 2 == 0 { 0 } else { 3600 });
        run(seed, window, seed % 3 != 0);
    }
}

#[test]
fn damaged_requests_are_refused_alike_or_taken_alike() {
    let (mut fast, mut plain) = (Side::new(MAX_KNOWN, Duration::ZERO), Side::new(0, Duration::ZERO));
    let mut rng = StdRng::seed_from_u64(1);
    let mut target = Target::new(0, 12);
    for round in 0..400 {
        let page = target.page(0, true, &mut rng);
        let (body, message) = if round % 2 == 0 { (push::v1(&page), V1) } else { (push::v2(&page, 0), V2) };
        let mut raw = snap::raw::Decoder::new().decompress_vec(&body).unwrap();
        if round > 20 {
            match rng.random_range(0..3) {
                0 => raw.truncate(rng.random_range(0..raw.len().max(1))),
                _ => {
                    let at = rng.random_range(0..raw.len().max(1));
                    if let Some(byte) = raw.get_mut(at) {
                        *byte = rng.random();
                    }
                }
            }
        }
        let body = snap::raw::Encoder::new().compress_vec(&raw).unwrap();
        let latest = target.time + 600_000;
        assert_eq!(fast.write(&body, message, latest), plain.write(&body, message, latest), "round {round}");
    }
    assert_eq!(fast.all(), plain.all());
    assert!(fast.recognised > 500);
}
