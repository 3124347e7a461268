//! Series for the differential test, the same for the same seed: gauges, counters with resets, classic and native
//! histograms, gaps, staleness markers, odd floats, series that begin late or end early.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A staleness marker, as Prometheus stores it.
pub const STALE: u64 = 0x7ff0_0000_0000_0002;

/// Time between two scrapes, in milliseconds.
const INTERVAL: i64 = 15_000;

/// How many scrapes there are: two hours.
const SCRAPES: usize = 480;

#[derive(Clone, Debug, PartialEq)]
pub enum Point {
    Float(f64),
    Histogram(NativeHistogram),
}

/// A histogram with float counts, in the terms of remote write.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NativeHistogram {
    pub schema: i32,
    pub zero_threshold: f64,
    pub zero_count: f64,
    pub count: f64,
    pub sum: f64,
    /// Offset and length.
    pub positive_spans: Vec<(i32, u32)>,
    pub positive: Vec<f64>,
    pub negative_spans: Vec<(i32, u32)>,
    pub negative: Vec<f64>,
    pub custom_values: Vec<f64>,
    pub gauge: bool,
}

#[derive(Clone, Debug)]
pub struct Series {
    /// Sorted by name.
    pub labels: Vec<(String, String)>,
    /// Milliseconds since the epoch, ascending.
    pub points: Vec<(i64, Point)>,
}

/// All series, their first scrape at about `start`, sorted by labels and all beginning at once: servers that go by the
/// order in which they first saw them then go by labels, too. (`limitk`, ties in `topk` and the order of sums show it.)
pub fn generate(seed: u64, start: i64) -> Vec<Series> {
    let mut g = Generator { rng: StdRng::seed_from_u64(seed), start, series: Vec::new() };
    g.all();
    g.series.sort_by(|a, b| a.labels.cmp(&b.labels));
    g.series
}

/// The time of the last scrape.
pub fn end(start: i64) -> i64 {
    start + INTERVAL * (SCRAPES as i64 - 1)
}

struct Generator {
    rng: StdRng,
    start: i64,
    series: Vec<Series>,
}

impl Generator {
    fn all(&mut self) {
        for (i, instance) in ["a:9100", "b:9100", "c:9100", "d:9100"].into_iter().enumerate() {
            let job = if i < 3 { "node" } else { "api" };
            let base = [("instance", instance), ("job", job)];
            for mode in ["idle", "user", "system"] {
                self.counter("cpu_seconds_total", &[&base[..], &[("mode", mode)]].concat(), 0.01);
            }
            self.gauge("temperature", &base, 20.0);
            self.gauge("memory_bytes", &base, 4e9);
            self.odd("odd", &base);
            self.constant("up", &base, 1.0);
            let version = ["1.0", "1.1", "2.0", "1.0"][i];
            self.constant("build_info", &[&base[..], &[("version", version)]].concat(), 1.0);
            self.constant("target_info", &[&base[..], &[("zone", ["eu", "us"][i % 2])]].concat(), 1.0);
            self.classic_histogram("latency_seconds", &base);
            self.native_histogram("native_seconds", &base, false);
            if i < 2 {
                self.native_histogram("custom_seconds", &base, true);
                self.mixed("mixed", &base);
                self.counter("requests_total", &[&base[..], &[("code", "200"), ("path.name", "/a b")]].concat(), 0.0);
                self.counter("requests_total", &[&base[..], &[("code", "500"), ("path.name", "/é")]].concat(), 0.05);
            }
        }
        self.gauge("lone", &[], 1.0);
    }

    fn push(&mut self, name: &str, labels: &[(&str, &str)], points: Vec<(i64, Point)>) {
        let mut labels: Vec<(String, String)> =
            labels.iter().chain(&[("__name__", name)]).map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        labels.sort();
        self.series.push(Series { labels, points });
    }

    /// When a series was scraped, and whether that is a staleness marker: most have all scrapes, some begin late (behind
    /// a lone marker), end early, or have gaps.
    fn times(&mut self) -> Vec<(i64, bool)> {
        let offset = self.rng.random_range(0..5_000);
        let first = if self.rng.random_bool(0.1) { self.rng.random_range(0..SCRAPES / 2) } else { 0 };
        let last = if self.rng.random_bool(0.15) { self.rng.random_range(SCRAPES / 2..SCRAPES) } else { SCRAPES };
        let gap = self.rng.random_bool(0.3).then(|| self.rng.random_range(0..SCRAPES));
        let mut times = Vec::new();
        if first > 0 {
            times.push((self.start + offset, true));
        }
        for i in first..last {
            let time = self.start + offset + i as i64 * INTERVAL + self.rng.random_range(-1..=1);
            if gap.is_some_and(|g| (g..g + 30).contains(&i)) {
                if gap == Some(i) && self.rng.random_bool(0.5) {
                    times.push((time, true));
                }
                continue;
            }
            times.push((time, i + 1 == last && last < SCRAPES));
        }
        times
    }

    fn floats(&mut self, name: &str, labels: &[(&str, &str)], mut next: impl FnMut(&mut StdRng, usize) -> f64) {
        let times = self.times();
        let mut points = Vec::with_capacity(times.len());
        for (i, (time, stale)) in times.into_iter().enumerate() {
            let value = if stale { f64::from_bits(STALE) } else { next(&mut self.rng, i) };
            points.push((time, Point::Float(value)));
        }
        self.push(name, labels, points);
    }

    fn gauge(&mut self, name: &str, labels: &[(&str, &str)], around: f64) {
        let mut value = around;
        self.floats(name, labels, |rng, _| {
            if rng.random_bool(0.7) {
                value += (rng.random_range(-10..=10) as f64) * around / 1000.0;
            }
            value
        });
    }

    fn counter(&mut self, name: &str, labels: &[(&str, &str)], reset: f64) {
        let mut value = self.rng.random_range(0..1000) as f64;
        self.floats(name, labels, |rng, _| {
            if rng.random_bool(reset) {
                value = 0.0;
            }
            value += rng.random_range(0..400) as f64 / 16.0;
            value
        });
    }

    fn odd(&mut self, name: &str, labels: &[(&str, &str)]) {
        const VALUES: [f64; 9] = [0.0, -0.0, 1.0, -1.5, 1e300, -1e300, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
        self.floats(name, labels, |rng, _| VALUES[rng.random_range(0..VALUES.len())]);
    }

    fn constant(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.floats(name, labels, |_, _| value);
    }

    fn classic_histogram(&mut self, name: &str, labels: &[(&str, &str)]) {
        const BOUNDS: [&str; 6] = ["0.01", "0.1", "0.5", "1", "5", "+Inf"];
        let times = self.times();
        let mut counts = [0.0; 6];
        let mut columns: Vec<Vec<(i64, f64)>> = vec![Vec::new(); 8];
        let mut sum = 0.0;
        for (time, stale) in times {
            for (i, count) in counts.iter_mut().enumerate() {
                *count += self.rng.random_range(0..8) as f64;
                sum += i as f64 / 4.0;
            }
            let mut total = 0.0;
            for (i, count) in counts.iter().enumerate() {
                total += count;
                columns[i].push((time, total));
            }
            columns[6].push((time, sum));
            columns[7].push((time, total));
            if stale {
                columns.iter_mut().filter_map(|c| c.last_mut()).for_each(|p| p.1 = f64::from_bits(STALE));
            }
        }
        let suffixes = BOUNDS.iter().map(|b| ("_bucket", Some(*b))).chain([("_sum", None), ("_count", None)]);
        for ((suffix, bound), column) in suffixes.zip(columns) {
            let extra: Vec<(&str, &str)> = bound.iter().map(|b| ("le", *b)).collect();
            let points = column.into_iter().map(|(t, v)| (t, Point::Float(v))).collect();
            self.push(&format!("{name}{suffix}"), &[labels, &extra].concat(), points);
        }
    }

    fn native_histogram(&mut self, name: &str, labels: &[(&str, &str)], custom: bool) {
        let times = self.times();
        let mut h = self.new_histogram(custom);
        let mut points = Vec::new();
        for (time, stale) in times {
            if stale {
                let marker = NativeHistogram { sum: f64::from_bits(STALE), ..Default::default() };
                points.push((time, Point::Histogram(marker)));
                continue;
            }
            if self.rng.random_bool(0.01) {
                h = self.new_histogram(custom);
            }
            self.observe(&mut h);
            points.push((time, Point::Histogram(h.clone())));
        }
        self.push(name, labels, points);
    }

    /// A series that changes from floats to histograms and back.
    fn mixed(&mut self, name: &str, labels: &[(&str, &str)]) {
        let mut h = self.new_histogram(false);
        let mut points = Vec::new();
        for (i, (time, stale)) in self.times().into_iter().enumerate() {
            self.observe(&mut h);
            points.push((
                time,
                match (stale, i / 40 % 2) {
                    (true, _) => Point::Float(f64::from_bits(STALE)),
                    (_, 0) => Point::Float(i as f64),
                    _ => Point::Histogram(h.clone()),
                },
            ));
        }
        self.push(name, labels, points);
    }

    fn new_histogram(&mut self, custom: bool) -> NativeHistogram {
        if custom {
            return NativeHistogram {
                schema: -53,
                custom_values: vec![0.1, 0.5, 1.0, 2.0],
                positive_spans: vec![(0, 5)],
                positive: vec![0.0; 5],
                ..Default::default()
            };
        }
        let negative = self.rng.random_bool(0.3);
        NativeHistogram {
            schema: self.rng.random_range(0..3),
            zero_threshold: 0.001,
            positive_spans: vec![(self.rng.random_range(-4..2), 3), (2, 2)],
            positive: vec![0.0; 5],
            negative_spans: if negative { vec![(0, 2)] } else { vec![] },
            negative: if negative { vec![0.0; 2] } else { vec![] },
            ..Default::default()
        }
    }

    fn observe(&mut self, h: &mut NativeHistogram) {
        for bucket in h.positive.iter_mut().chain(&mut h.negative) {
            let more = self.rng.random_range(0..6) as f64;
            *bucket += more;
            h.count += more;
            h.sum += more * 0.75;
        }
        if h.schema != -53 && self.rng.random_bool(0.5) {
            h.zero_count += 1.0;
            h.count += 1.0;
        }
    }
}
