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

/// A staleness marker of the kind of the sample before it: of others Prometheus loses some that come in one request with
/// samples of both kinds.
fn stale_like(last: Option<&(i64, Point)>) -> Point {
    match last {
        Some((_, Point::Histogram(_))) => {
            Point::Histogram(NativeHistogram { sum: f64::from_bits(STALE), ..Default::default() })
        }
        _ => Point::Float(f64::from_bits(STALE)),
    }
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
        self.wide();
    }

    /// What scrapes seldom bring: names that need quotes, type and unit labels, histograms of every shape, broken
    /// classic histograms, sparse series.
    fn wide(&mut self) {
        for (i, instance) in ["a:9100", "b:9100", "c:9100"].into_iter().enumerate() {
            let base = [("instance", instance), ("job", "node")];
            let typed = [("__type__", "counter"), ("__unit__", ["seconds", "bytes", "seconds"][i])];
            self.counter("typed_total", &[&base[..], &typed[..]].concat(), 0.02);
            self.gauge("typed", &[&base[..], &[("__type__", ["gauge", "counter", "histogram"][i])]].concat(), 7.0);
            self.gauge("métrique.utf8", &[&base[..], &[("ünï code", ["x", "y", "z 1"][i])]].concat(), -3.0);
            self.shaped_histogram("shaped", &base, i as u32);
            self.shaped_histogram("gauge_histogram", &base, 10 + i as u32);
            self.bounds("bounds_seconds", &base, i);
            self.kinds("kinds", &base);
            self.sparse("sparse", &base);
            self.counter("counted", &base, 0.1);
            self.constant("extra_info", &[&base[..], &[("build", ["1", "2", "2"][i])]].concat(), 1.0);
        }
        let base = [("instance", "a:9100"), ("job", "node")];
        for (i, le) in ["abc", "0.5", "1", "1.0", "Inf", "2"].into_iter().enumerate() {
            self.counter("broken_bucket", &[&base[..], &[("le", le)]].concat(), [0.0, 0.3][i % 2]);
        }
        for le in ["0.5", "1", "4"] {
            self.counter("open_bucket", &[&base[..], &[("le", le)]].concat(), 0.0);
        }
        self.native_histogram("both_seconds", &base, false);
        for le in ["0.1", "1", "+Inf"] {
            self.gauge("both_seconds", &[&base[..], &[("le", le)]].concat(), 5.0);
        }
        for (i, name) in ["item 2", "item 10", "item 1", "Item 1", "", "1.5"].into_iter().enumerate() {
            self.constant("ranked", &[("rank", name), ("kind", ["b", "a"][i % 2])], i as f64);
        }
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
                    (true, _) => stale_like(points.last()),
                    (_, 0) => Point::Float(i as f64),
                    _ => Point::Histogram(h.clone()),
                },
            ));
        }
        self.push(name, labels, points);
    }

    /// Histograms of schemas, thresholds and spans that change now and then; `kind` from 10 on are gauges.
    fn shaped_histogram(&mut self, name: &str, labels: &[(&str, &str)], kind: u32) {
        let mut h = self.shape(kind);
        let mut points = Vec::new();
        for (time, stale) in self.times() {
            if stale {
                let marker = NativeHistogram { sum: f64::from_bits(STALE), ..Default::default() };
                points.push((time, Point::Histogram(marker)));
                continue;
            }
            if self.rng.random_bool(0.03) {
                h = self.shape(kind);
            }
            if kind >= 10 {
                for bucket in h.positive.iter_mut().chain(&mut h.negative) {
                    *bucket = self.rng.random_range(0..9) as f64;
                }
                h.count = h.positive.iter().chain(&h.negative).sum::<f64>() + h.zero_count;
                h.sum = h.count * 0.3 - 2.0;
            } else {
                self.observe(&mut h);
            }
            points.push((time, Point::Histogram(h.clone())));
        }
        self.push(name, labels, points);
    }

    fn shape(&mut self, kind: u32) -> NativeHistogram {
        let spans = |g: &mut Generator| -> Vec<(i32, u32)> {
            let n = g.rng.random_range(0..3);
            (0..n)
                .map(|i| {
                    (
                        if i == 0 { g.rng.random_range(-6..6) } else { g.rng.random_range(1..5) },
                        g.rng.random_range(1..4),
                    )
                })
                .collect()
        };
        let buckets = |spans: &[(i32, u32)]| vec![0.0; spans.iter().map(|s| s.1 as usize).sum()];
        let (positive_spans, negative_spans) = (spans(self), spans(self));
        NativeHistogram {
            schema: self.rng.random_range(-4..=8),
            zero_threshold: [0.0, 0.001, 1e-128, 0.5, 2.0][self.rng.random_range(0..5)],
            positive: buckets(&positive_spans),
            negative: buckets(&negative_spans),
            positive_spans,
            negative_spans,
            gauge: kind >= 10,
            ..Default::default()
        }
    }

    /// Custom buckets whose bounds change at resets.
    fn bounds(&mut self, name: &str, labels: &[(&str, &str)], which: usize) {
        const BOUNDS: [&[f64]; 5] = [&[0.1, 0.5, 1.0, 2.0], &[0.5, 1.0], &[0.25, 0.5, 4.0], &[-1.0, 0.0, 1.0], &[]];
        let new = |i: usize| {
            let bounds = BOUNDS[i % BOUNDS.len()];
            NativeHistogram {
                schema: -53,
                custom_values: bounds.to_vec(),
                positive_spans: vec![(0, bounds.len() as u32 + 1)],
                positive: vec![0.0; bounds.len() + 1],
                ..Default::default()
            }
        };
        let mut h = new(which);
        let mut points = Vec::new();
        for (time, stale) in self.times() {
            if stale {
                points.push((time, stale_like(points.last())));
                continue;
            }
            if self.rng.random_bool(0.02) {
                h = new(self.rng.random_range(0..BOUNDS.len()));
            }
            self.observe(&mut h);
            points.push((time, Point::Histogram(h.clone())));
        }
        self.push(name, labels, points);
    }

    /// Floats, exponential and custom histograms in turn, at random.
    fn kinds(&mut self, name: &str, labels: &[(&str, &str)]) {
        let (mut exponential, mut custom) = (self.shape(0), self.new_histogram(true));
        let mut kind = 0;
        let mut points = Vec::new();
        for (i, (time, stale)) in self.times().into_iter().enumerate() {
            if self.rng.random_bool(0.05) {
                kind = self.rng.random_range(0..3);
            }
            self.observe(&mut exponential);
            self.observe(&mut custom);
            let point = match (stale, kind) {
                (true, _) => stale_like(points.last()),
                (_, 0) => Point::Float(i as f64 / 4.0),
                (_, 1) => Point::Histogram(exponential.clone()),
                _ => Point::Histogram(custom.clone()),
            };
            points.push((time, point));
        }
        self.push(name, labels, points);
    }

    /// A sample now and then, some of them staleness markers.
    fn sparse(&mut self, name: &str, labels: &[(&str, &str)]) {
        let mut points = Vec::new();
        for (time, _) in self.times() {
            match self.rng.random_range(0..40) {
                0 | 1 => points.push((time, Point::Float(self.rng.random_range(-3..3) as f64))),
                2 => points.push((time, Point::Float(f64::from_bits(STALE)))),
                _ => {}
            }
        }
        if let Some(first) = self.series.first().and_then(|s| s.points.first()).map(|p| p.0) {
            // There from the beginning, as all others.
            points.insert(0, (first.min(points.first().map_or(first, |p| p.0 - 1)), Point::Float(1.0)));
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
        if h.schema != -53 && h.zero_threshold == 2.0 && self.rng.random_bool(0.1) {
            // An observation of NaN.
            h.sum = f64::NAN;
            h.count += 1.0;
        }
        if h.schema != -53 && self.rng.random_bool(0.5) {
            h.zero_count += 1.0;
            h.count += 1.0;
        }
    }
}
