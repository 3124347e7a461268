//! What a page costs: known (matched in place), in part new, and wholly new; and how long another parser takes.
//!
//! `cargo bench -p narthex-scrape`. Items are samples, bytes those of the page.

use std::sync::Arc;
use std::time::Instant;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use narthex_model::{Labels, Metadata};
use narthex_scrape::session::{Fetched, SampleRules, Scratch, Session};
use narthex_storage::{
    AppendOutcome, Appendable, GroupAppender, GroupKey, Place, PlacedSample, ScrapeRow, SeriesSpec, Slot, StorageError,
    WriteBatch,
};

fn main() {
    divan::main();
}

/// A store that keeps nothing, so that only the scrape path is measured.
struct Null;

struct NullGroup(Slot);

impl GroupAppender for NullGroup {
    fn register(&mut self, _spec: SeriesSpec<'_>) -> Result<Slot, StorageError> {
        self.0 += 1;
        Ok(self.0 - 1)
    }

    fn commit(&mut self, row: &ScrapeRow<'_>) -> Result<AppendOutcome, StorageError> {
        divan::black_box(row.values);
        Ok(AppendOutcome::default())
    }

    fn retire(&mut self, _slots: &[Slot]) {}
}

impl Appendable for Null {
    fn group(&self, _key: &GroupKey) -> Result<Box<dyn GroupAppender>, StorageError> {
        Ok(Box::new(NullGroup(0)))
    }

    fn write(&self, _batch: &WriteBatch) -> Result<AppendOutcome, StorageError> {
        Ok(AppendOutcome::default())
    }

    fn places(&self, labels: &[&Labels]) -> Vec<Option<Place>> {
        vec![None; labels.len()]
    }

    fn write_placed(&self, samples: &[PlacedSample], lost: &mut Vec<usize>) -> Result<AppendOutcome, StorageError> {
        lost.extend(0..samples.len());
        Ok(AppendOutcome::default())
    }

    fn put_metadata(&self, _entries: &[(String, Metadata)]) {}
}

fn session() -> Session {
    let target_labels = Labels::from_pairs([("job", "bench"), ("instance", "10.0.0.1:9100")]);
    let rules = SampleRules { target_labels, ..SampleRules::default() };
    Session::new(Arc::new(Null), Box::new(NullGroup(0)), Arc::new(rules), Arc::default())
}

fn scrape(session: &mut Session, scratch: &mut Scratch, page: &str, t: i64) -> u64 {
    let fetched = Fetched::Page { body: page.as_bytes(), content_type: "text/plain; version=0.0.4" };
    let outcome = session.scrape(scratch, t, Instant::now(), fetched);
    assert_eq!(outcome.error, None);
    outcome.samples
}

/// A recorded page of a real server (1,857 samples).
fn recorded() -> String {
    std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/testdata/exposition/samples/alltypes.237mfs.prom.txt"
    ))
    .expect("testdata")
}

/// 2,000 samples: counters, gauges with fractions, big floats; values differ by `round`.
fn generated(round: u64) -> String {
    let mut page = String::new();
    for family in 0..40u64 {
        page.push_str(&format!("# HELP bench_metric_{family}_total Some counter of the benchmark.\n"));
        page.push_str(&format!("# TYPE bench_metric_{family}_total counter\n"));
        for series in 0..50u64 {
            let n = family * 50 + series;
            let value = match n % 4 {
                0 => format!("{}", n * 1000 + round * (n % 7)),
                1 => format!("{}", (n + round) as f64 * 0.25),
                2 => format!("{:e}", (n * 123_456_789 + round * 4096) as f64),
                _ => format!("{}", (n * 7919 + round) as f64 / 1000.0),
            };
            page.push_str(&format!(
                "bench_metric_{family}_total{{device=\"sda{series}\",mode=\"read\",path=\"/var/lib/data/{n}\"}} {value}\n"
            ));
        }
    }
    page
}

#[divan::bench]
fn known_page_generated(bencher: Bencher) {
    let pages: Vec<String> = (0..16).map(generated).collect();
    let (mut s, mut scratch) = (session(), Scratch::default());
    let samples = scrape(&mut s, &mut scratch, &pages[0], 0);
    let mut t = 0;
    bencher.counter(ItemsCount::new(samples)).counter(BytesCount::new(pages[0].len())).bench_local(|| {
        t += 1;
        scrape(&mut s, &mut scratch, &pages[t as usize % pages.len()], t)
    });
}

#[divan::bench]
fn known_page_recorded(bencher: Bencher) {
    let page = recorded();
    let (mut s, mut scratch) = (session(), Scratch::default());
    let samples = scrape(&mut s, &mut scratch, &page, 0);
    let mut t = 0;
    bencher.counter(ItemsCount::new(samples)).counter(BytesCount::new(page.len())).bench_local(|| {
        t += 1;
        scrape(&mut s, &mut scratch, &page, t)
    });
}

/// Scrapes pages of one target, one after the other, over and over.
fn in_turn(bencher: Bencher, pages: &[String]) {
    let (mut s, mut scratch) = (session(), Scratch::default());
    let samples = scrape(&mut s, &mut scratch, &pages[0], 0);
    let mut t = 0;
    bencher.counter(ItemsCount::new(samples)).bench_local(|| {
        t += 1;
        scrape(&mut s, &mut scratch, &pages[t as usize % pages.len()], t)
    });
}

/// One line in a hundred comes or goes with every page.
#[divan::bench]
fn page_with_churn(bencher: Bencher) {
    let full = generated(0);
    let lines: Vec<&str> = full.split_inclusive('\n').collect();
    let pages: Vec<String> = (0..16)
        .map(|round| {
            lines
                .iter()
                .enumerate()
                .filter(|(i, l)| l.starts_with('#') || (i + round) % 100 != 0)
                .map(|(_, l)| *l)
                .collect()
        })
        .collect();
    in_turn(bencher, &pages);
}

/// One line in a thousand comes in the middle of the page, another goes.
#[divan::bench]
fn page_that_gains_and_loses_a_line(bencher: Bencher) {
    let full = generated(0);
    let lines: Vec<&str> = full.split_inclusive('\n').collect();
    let pages: Vec<String> = (0..16)
        .map(|round| {
            let mut page = String::new();
            for (i, line) in lines.iter().enumerate() {
                if i % 1000 == 500 {
                    page.push_str(&format!("inserted{{at=\"{i}\",round=\"{round}\"}} 1\n"));
                }
                if line.starts_with('#') || i % 1000 != 100 + round {
                    page.push_str(line);
                }
            }
            page
        })
        .collect();
    in_turn(bencher, &pages);
}

#[divan::bench]
fn new_page_generated(bencher: Bencher) {
    let page = generated(0);
    let mut scratch = Scratch::default();
    let samples = scrape(&mut session(), &mut scratch, &page, 0);
    bencher
        .counter(ItemsCount::new(samples))
        .with_inputs(session)
        .bench_local_values(|mut s| scrape(&mut s, &mut scratch, &page, 0));
}

#[divan::bench]
fn prometheus_parse_generated(bencher: Bencher) {
    let page = generated(0);
    bencher.counter(ItemsCount::new(2000u64)).bench_local(|| {
        prometheus_parse::Scrape::parse(page.lines().map(|l| Ok(l.to_owned()))).map(|s| s.samples.len()).unwrap_or(0)
    });
}
