use std::sync::Arc;

use narthex_model::{CounterResetHint, Histogram, STALE_NAN_BITS, Span};
use proptest::prelude::*;

use super::*;
use crate::codec::Effort;

/// A column as it is written and as it must come back.
#[derive(Clone, Debug)]
struct Given {
    series: u64,
    rows: Option<Vec<u32>>,
    own: Vec<i64>,
    starts: Vec<i64>,
    floats: Vec<f64>,
    histograms: Vec<Arc<Histogram>>,
}

fn rows_of(rows: &[u32], total: usize) -> Rows {
    let present: Vec<bool> = (0..total as u32).map(|row| rows.contains(&row)).collect();
    Rows::from_presence(&present).expect("some rows")
}

fn build(timestamps: &[i64], effort: Effort, columns: &[Given]) -> Vec<u8> {
    let mut builder = BlockBuilder::new(timestamps, effort);
    for c in columns {
        let at = match &c.rows {
            Some(rows) => At::Rows(rows_of(rows, timestamps.len())),
            None => At::Own(&c.own),
        };
        let spec = ColumnSpec { series: c.series, at, start_timestamps: &c.starts };
        if c.histograms.is_empty() {
            builder.push_floats(&spec, &c.floats);
        } else {
            builder.push_histograms(&spec, &c.histograms);
        }
    }
    builder.finish()
}

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn histogram_bits(h: &Histogram) -> impl PartialEq + std::fmt::Debug + use<> {
    (
        (h.schema, h.counter_reset_hint, bits(&[h.zero_threshold, h.zero_count, h.count, h.sum])),
        (h.positive_spans.clone(), h.negative_spans.clone(), bits(&h.custom_values)),
        (bits(&h.positive_buckets), bits(&h.negative_buckets)),
    )
}

fn assert_column(given: &Given, column: &ReadColumn<'_>, rows: usize) {
    let len = given.floats.len().max(given.histograms.len());
    assert_eq!(column.series, given.series);
    let read_rows = column.rows.map(|r| r.runs(rows).flatten().map(|i| i as u32).collect::<Vec<_>>());
    assert_eq!(read_rows, given.rows);
    assert_eq!(column.own_timestamps, if given.rows.is_none() { given.own.clone() } else { vec![] });
    assert_eq!(column.start_timestamps, given.starts);
    match &column.samples {
        Samples::Constant(v) => assert_eq!(bits(&vec![*v; len]), bits(&given.floats)),
        Samples::Floats(v) => assert_eq!(bits(v), bits(&given.floats)),
        Samples::Histograms(h) => {
            assert_eq!(h.len(), given.histograms.len());
            for (a, b) in h.iter().zip(&given.histograms) {
                assert_eq!(histogram_bits(a), histogram_bits(b));
            }
        }
    }
}

/// Reads some rows: floats in shared rows are those of the rows, for their presence at least stale where they are.
fn check_part(block: &Block<'_>, rows: std::ops::Range<usize>, columns: &[Given]) {
    let expected: Vec<(u64, Vec<f64>)> = columns
        .iter()
        .filter(|c| c.histograms.is_empty())
        .filter_map(|c| {
            let own = c.rows.as_ref()?.iter().zip(&c.floats);
            let inside: Vec<f64> = own.filter(|(r, _)| rows.contains(&(**r as usize))).map(|(_, v)| *v).collect();
            (!inside.is_empty()).then_some((c.series, inside))
        })
        .collect();
    for need in [Need::Values, Need::Presence] {
        let mut found: Vec<(u64, Samples)> = Vec::new();
        let each = |c: ReadColumn<'_>| {
            if c.rows.is_some() && !matches!(c.samples, Samples::Histograms(_)) {
                found.push((c.series, c.samples));
            }
        };
        block.read_rows(rows.clone(), need, 7, |_| true, each).unwrap();
        assert_eq!(found.len(), expected.len());
        for ((series, samples), (expected_series, expected)) in found.iter().zip(&expected) {
            assert_eq!(series, expected_series);
            let found: Vec<f64> = match samples {
                Samples::Constant(v) => vec![*v; expected.len()],
                Samples::Floats(v) => v.clone(),
                Samples::Histograms(_) => vec![],
            };
            if need == Need::Values {
                assert_eq!(bits(&found), bits(expected));
            } else {
                let stale = |v: &f64| v.to_bits() == STALE_NAN_BITS;
                assert!(found.len() == expected.len() && found.iter().map(stale).eq(expected.iter().map(stale)));
            }
        }
    }
}

/// Writes and reads the columns: all of them, and each one alone.
fn check(timestamps: &[i64], effort: Effort, columns: &[Given]) -> usize {
    let bytes = build(timestamps, effort, columns);
    let block = Block::parse(&bytes).unwrap();
    block.check_hash(timestamps.len(), times_hash(timestamps)).unwrap();
    let n = timestamps.len();
    for rows in [0..n / 2, n / 3..n, n.saturating_sub(1)..n, n / 4..n / 2] {
        check_part(&block, rows, columns);
    }
    let mut all = Vec::new();
    block.read(|_| true, |column| all.push(column)).unwrap();
    assert_eq!(all.len(), columns.len());
    for (given, column) in columns.iter().zip(&all) {
        assert_column(given, column, timestamps.len());
    }
    for given in columns {
        let mut found = Vec::new();
        block.read(|series| series == given.series, |column| found.push(column)).unwrap();
        let expected: Vec<_> = columns.iter().filter(|c| c.series == given.series).collect();
        assert_eq!(found.len(), expected.len());
        for (given, column) in expected.iter().zip(&found) {
            assert_column(given, column, timestamps.len());
        }
    }
    bytes.len()
}

fn floats(series: u64, rows: Vec<u32>, floats: Vec<f64>) -> Given {
    Given { series, rows: Some(rows), own: vec![], starts: vec![], floats, histograms: vec![] }
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        8 => (-1000i64..1000).prop_map(|i| i as f64 / 4.0),
        2 => (0i64..5).prop_map(|i| i as f64),
        1 => any::<u64>().prop_map(f64::from_bits),
        1 => Just(f64::from_bits(STALE_NAN_BITS)),
        1 => Just(-0.0),
    ]
}

fn histogram() -> impl Strategy<Value = Arc<Histogram>> {
    let spans = prop_oneof![
        3 => Just(vec![Span { offset: 1, length: 2 }, Span { offset: 3, length: 1 }]),
        1 => Just(vec![]),
        1 => Just(vec![Span { offset: -7, length: 3 }]),
    ];
    let exponential = (spans, 0usize..4, proptest::collection::vec(0i64..50, 3), value(), any::<bool>());
    prop_oneof![
        4 => exponential.prop_map(|(spans, hint, buckets, sum, whole)| {
            let n: u32 = spans.iter().map(|s| s.length).sum();
            let buckets: Vec<f64> = buckets.iter().take(n as usize).map(|b| *b as f64).collect();
            Arc::new(Histogram {
                counter_reset_hint: [CounterResetHint::Unknown, CounterResetHint::CounterReset,
                    CounterResetHint::NotCounterReset, CounterResetHint::Gauge][hint],
                schema: 3,
                zero_threshold: 1e-128,
                zero_count: 2.0,
                count: if whole { 2.0 + buckets.iter().sum::<f64>() } else { sum },
                sum,
                positive_spans: spans,
                positive_buckets: buckets.clone(),
                ..Histogram::default()
            })
        }),
        1 => value().prop_map(|sum| Arc::new(Histogram {
            schema: -53, custom_values: vec![0.1, 1.0, sum], sum, count: 3.0,
            negative_spans: vec![Span { offset: 0, length: 1 }], negative_buckets: vec![sum],
            ..Histogram::default()
        })),
        1 => Just(Arc::new(Histogram { sum: f64::from_bits(STALE_NAN_BITS), ..Histogram::default() })),
    ]
}

fn column(rows: u32) -> impl Strategy<Value = Given> {
    let series = prop_oneof![3 => 0u64..20, 1 => any::<u64>()];
    let present = prop_oneof![
        3 => Just(vec![true; rows as usize]),
        1 => proptest::collection::vec(any::<bool>(), rows as usize),
        1 => (0..rows.max(1)).prop_map(move |from| (0..rows).map(|r| r >= from).collect()),
    ];
    let own = proptest::collection::vec(any::<i64>(), 1..20);
    (series, present, own, any::<bool>(), 0u8..8).prop_flat_map(move |(series, present, own, is_own, kind)| {
        let rows: Vec<u32> = (0..rows).filter(|r| present[*r as usize]).collect();
        let is_own = is_own || rows.is_empty();
        let n = if is_own { own.len() } else { rows.len() };
        let starts =
            if kind & 4 != 0 { proptest::collection::vec(any::<i64>(), n).boxed() } else { Just(vec![]).boxed() };
        let floats = if kind & 3 != 0 { proptest::collection::vec(value(), n).boxed() } else { Just(vec![]).boxed() };
        let histograms = match kind & 3 {
            0 => proptest::collection::vec(histogram(), n).boxed(),
            _ => Just(vec![]).boxed(),
        };
        (starts, floats, histograms).prop_map(move |(starts, floats, histograms)| Given {
            series,
            rows: (!is_own).then(|| rows.clone()),
            own: own.clone(),
            starts,
            floats,
            histograms,
        })
    })
}

fn block() -> impl Strategy<Value = (Vec<i64>, Vec<Given>)> {
    (0u32..40).prop_flat_map(|rows| {
        let timestamps = proptest::collection::vec(-5i64..5, rows as usize).prop_map(|jitter| {
            jitter.iter().enumerate().map(|(i, j)| 1_700_000_000_000 + i as i64 * 15_000 + j).collect()
        });
        (timestamps, proptest::collection::vec(column(rows), 0..8))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn columns_come_back((timestamps, columns) in block(), best in any::<bool>()) {
        check(&timestamps, if best { Effort::Best } else { Effort::Fast }, &columns);
    }

    /// Damage is an error. With the checksum mended it may be anything but a panic.
    #[test]
    fn damage_is_an_error(
        (timestamps, columns) in block(),
        at in any::<prop::sample::Index>(),
        flip in 1u8..=255,
        cut in any::<bool>(),
    ) {
        let mut bytes = build(&timestamps, Effort::Best, &columns);
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= flip }
        prop_assert!(Block::parse(&bytes).is_err());
        if bytes.len() > 4 {
            let content = bytes.len() - 4;
            let sum = checksum(&bytes[..content]);
            bytes[content..].copy_from_slice(&sum);
            if let Ok(block) = Block::parse(&bytes) {
                let _ = block.read(|_| true, |_| ());
                for column in block.columns() {
                    let _ = block.read(|series| series == column.series, |_| ());
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        bytes.insert(0, VERSION);
        let sum = checksum(&bytes);
        bytes.extend(sum);
        if let Ok(block) = Block::parse(&bytes) {
            let _ = block.read(|_| true, |_| ());
        }
    }
}

#[test]
fn versions_from_the_future_are_refused() {
    let bytes = build(&[1, 2], Effort::Best, &[floats(1, vec![0, 1], vec![1.0, 2.0])]);
    let with = |i: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[i] = byte;
        let content = bytes.len() - 4;
        let sum = checksum(&bytes[..content]);
        bytes[content..].copy_from_slice(&sum);
        Block::parse(&bytes).map(|_| ())
    };
    assert_eq!(with(0, VERSION), Ok(()));
    assert_eq!(with(0, VERSION + 1), Err(BlockError::Version(VERSION + 1)));
    // version, rows, kind of timestamps and hash, count, flags: entries that are not there
    let bytes_with = with(6, 0x80);
    assert_eq!(bytes_with, Ok(()), "the directory does not tell");
    assert_eq!(Block::parse(&bytes).unwrap().check_hash(2, times_hash(&[1, 3])), Err(BlockError::Timestamps));
}

#[test]
fn shared_timestamps_come_back() {
    for timestamps in [vec![], vec![5], (0..480).map(|i| i * 15_000 + i % 7).collect::<Vec<i64>>()] {
        let mut bytes = encode_times(&timestamps);
        assert_eq!(decode_times(&bytes).unwrap(), timestamps);
        bytes[1] ^= 1;
        assert_eq!(decode_times(&bytes), Err(BlockError::Checksum));
    }
}

#[test]
fn rows_are_normalised() {
    let shared: Arc<[i64]> = Arc::from([10, 20, 30, 40]);
    for (rows, expected) in [
        (&[0u32, 1, 2, 3][..], Rows::All),
        (&[1, 2], Rows::Range { start: 1, len: 2 }),
        (&[0, 2, 3], Rows::Runs([(0, 1), (2, 2)].into())),
    ] {
        let found = rows_of(rows, 4);
        assert_eq!(found, expected);
        let times: Vec<i64> = rows.iter().map(|r| shared[*r as usize]).collect();
        assert_eq!(*found.timestamps(&shared), *times);
    }
    assert!(Arc::ptr_eq(&Rows::All.timestamps(&shared), &shared));
    assert_eq!(Rows::from_presence(&[false; 3]), None);
}
#[test]
fn buckets_of_a_classic_histogram_are_coded_against_each_other() {
    // Eight cumulative buckets whose steps are noise.
    let mut state = 1u64;
    let mut noise = |n: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % n
    };
    let mut totals = [0u64; 8];
    let mut columns: Vec<Given> = (0..8).map(|i| floats(i, (0..240).collect(), vec![])).collect();
    for _ in 0..240 {
        let mut sum = 0;
        for (i, total) in totals.iter_mut().enumerate() {
            *total += noise(4000 >> (2 * i).min(10));
            sum += *total;
            columns[i].floats.push(sum as f64);
        }
    }
    // A series that ends does not spoil it.
    for c in &mut columns {
        c.floats[239] = f64::from_bits(STALE_NAN_BITS);
    }
    let timestamps: Vec<i64> = (0..240).map(|i| i * 15_000).collect();
    let together = check(&timestamps, Effort::Best, &columns);
    let alone: usize = columns.iter().map(|c| check(&timestamps, Effort::Best, std::slice::from_ref(c))).sum();
    assert!(together * 3 < alone * 2, "{together} bytes together, {alone} alone");
}
