//! What a query says that it does not need may be missing, nothing else: on rows in memory, in blocks, in merged blocks.

use futures::executor::block_on;
use narthex_model::{Labels, Matcher, is_stale, stale_nan};
use narthex_storage::{
    Appendable, GroupKey, Queryable, ScrapeRow, SelectHints, SelectRequest, Series, SeriesSpec, StorageAdmin,
};
use narthex_tsdb::{Store, StoreOptions};

const STEP: i64 = 15_000;
const ROWS: i64 = 1500;

/// Two groups of series that move, rest, pause and end.
fn fill(store: &Store) {
    let mut noise = 12_345u64;
    for g in 0..2 {
        let mut group = store.group(&GroupKey(format!("g{g}").into())).unwrap();
        let labels: Vec<Labels> = (0..12)
            .map(|i| {
                let of = [("g", g.to_string()), ("i", i.to_string()), ("even", (i % 2 == 0).to_string())];
                let name = if i < 8 { "moves_total" } else { "rests" };
                Labels::from_pairs([("__name__", name.to_owned())].into_iter().chain(of))
            })
            .collect();
        let slots: Vec<u32> = labels.iter().map(|l| group.register(SeriesSpec::new(l)).unwrap()).collect();
        let mut values = [0.0f64; 12];
        for row in 1..ROWS {
            for (i, v) in values.iter_mut().enumerate().take(8) {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *v += f64::from((noise >> 40) as u32 % 1000 * (i as u32 + 1)) / 100.0;
            }
            let mut shown = values;
            if row % 400 == 3 {
                shown[1] = stale_nan();
                shown[9] = stale_nan();
            }
            if row > 1400 {
                shown[2] = stale_nan();
            }
            group
                .commit(&ScrapeRow { timestamp: row * STEP, slots: &slots, values: &shown, ..ScrapeRow::default() })
                .unwrap();
        }
    }
}

fn select(store: &Store, matchers: &[Matcher], (mint, maxt): (i64, i64), hints: SelectHints) -> Vec<Series> {
    let request = SelectRequest { hints, ..SelectRequest::new(matchers.to_vec(), mint, maxt) };
    block_on(store.select(request)).unwrap().collect_sorted().unwrap()
}

fn samples(series: &Series) -> Vec<(i64, u64)> {
    series.floats.iter().map(|(t, v)| (t, v.to_bits())).collect()
}

/// Times, and whether they are stale.
fn presence(series: &Series) -> Vec<(i64, bool)> {
    series.floats.iter().map(|(t, v)| (t, is_stale(v))).collect()
}

fn check(store: &Store, what: &str) {
    let whole = (i64::MIN, i64::MAX);
    let everything = select(store, &[], whole, SelectHints::default());
    assert_eq!(everything.len(), 24, "{what}");
    for (from, to) in [(1480, 1500), (1380, 1402), (100, 130), (399, 800), (700, 701), (1, 2000), (1600, 1700)] {
        let range = (from * STEP, to * STEP);
        let part = select(store, &[], range, SelectHints::default());
        let within = |s: &Series| -> Vec<(i64, u64)> {
            samples(s).into_iter().filter(|(t, _)| (range.0..=range.1).contains(t)).collect()
        };
        let expected: Vec<&Series> = everything.iter().filter(|s| !within(s).is_empty()).collect();
        assert_eq!(part.len(), expected.len(), "{what} {range:?}");
        for (part, whole) in part.iter().zip(&expected) {
            assert_eq!((&part.labels, samples(part)), (&whole.labels, within(whole)), "{what} {range:?}");
        }

        let present = select(store, &[], range, SelectHints { no_samples: true, ..SelectHints::default() });
        assert_eq!(present.len(), part.len());
        for (present, part) in present.iter().zip(&part) {
            assert_eq!((&present.labels, presence(present)), (&part.labels, self::presence(part)), "{what} {range:?}");
        }

        let only_labels = Some(vec!["even".to_owned()]);
        let matchers = [Matcher::equal("__name__", "moves_total")];
        let mut few = select(store, &matchers, range, SelectHints { only_labels, ..SelectHints::default() });
        let mut all = select(store, &matchers, range, SelectHints::default());
        for s in &mut all {
            s.labels = s.labels.keep(&["__name__", "even"]);
        }
        for set in [&mut few, &mut all] {
            set.sort_by_key(|s| (s.labels.clone(), samples(s)));
        }
        assert!(few.iter().map(|s| (&s.labels, samples(s))).eq(all.iter().map(|s| (&s.labels, samples(s)))), "{what}");
    }
}

#[test]
fn answers_hold_what_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(StoreOptions { window_rows: 240, ..StoreOptions::new(folder.path()) }).unwrap();
    fill(&store);
    check(&store, "head and blocks");
    store.snapshot(false).unwrap();
    check(&store, "blocks");
    presence_needs_no_blocks(&store);
    let copy = std::fs::read_dir(folder.path().join("snapshots")).unwrap().next().unwrap().unwrap().path();
    check(&Store::open(StoreOptions::new(&copy)).unwrap(), "opened anew");
}

/// Of series that are whole in a window presence is known without their blocks; of others it is not.
fn presence_needs_no_blocks(store: &Store) {
    let reads = |metric: &str, i: &str, no_samples: bool| {
        let before = store.figures()["narthex_tsdb_blocks_read_total"];
        let matchers = [Matcher::equal("__name__", metric), Matcher::equal("i", i)];
        let found =
            select(store, &matchers, (100 * STEP, 110 * STEP), SelectHints { no_samples, ..Default::default() });
        assert!(found.len() == 2 && found.iter().all(|s| s.floats.len() == 11));
        store.figures()["narthex_tsdb_blocks_read_total"] - before
    };
    assert_eq!(reads("moves_total", "3", false), 2.0);
    assert_eq!(reads("moves_total", "3", true), 0.0);
    assert_eq!(reads("rests", "8", true), 0.0);
    // This one was stale at times.
    assert_eq!(reads("moves_total", "1", true), 2.0);
}
