//! Column codecs and blocks on recorded columns: `cargo bench -p narthex-tsdb --bench columns`.
//!
//! Prints bytes a value by form first, then values a second. With `PLAIN=1` loops do without AVX2. `NARTHEX_COLUMNS` may
//! name further files of the format that `benches/data/README.md` describes, separated by colons.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use divan::Bencher;
use divan::counter::ItemsCount;
use narthex_tsdb::block::{Block, BlockBuilder, ColumnSpec, Rows};
use narthex_tsdb::codec::{
    ColumnEncoder, Effort, Scratch, column_form, decode_column, decode_part, encode_column, put_entries,
};

struct Recording {
    name: String,
    columns: Vec<Vec<f64>>,
}

impl Recording {
    fn load(path: &str) -> Recording {
        let packed = std::fs::read(path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let bytes = zstd::decode_all(&packed[..]).expect("zstd");
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
        let (columns, rows) = (word(0), word(4));
        let values: Vec<f64> = bytes[8..].as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect();
        assert_eq!(values.len(), columns * rows);
        let name = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".zst").to_owned();
        Recording { name, columns: values.chunks(rows).map(<[f64]>::to_vec).collect() }
    }

    /// The columns that take this form, and their bytes.
    fn of(&self, effort: Effort, form: &str) -> (Vec<&[f64]>, Vec<Vec<u8>>) {
        let mut encoder = ColumnEncoder::default();
        let encoded = self.columns.iter().map(|values| {
            let mut bytes = Vec::new();
            encoder.encode(values, effort, &mut bytes);
            (&values[..], bytes)
        });
        encoded.filter(|(_, bytes)| form == "all" || column_form(bytes) == form).unzip()
    }
}

static RECORDINGS: LazyLock<Vec<Recording>> = LazyLock::new(|| {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/data");
    let more = std::env::var("NARTHEX_COLUMNS").unwrap_or_default();
    let own = ["node_exporter", "load"].map(|name| format!("{data}/{name}.zst"));
    own.iter().map(String::as_str).chain(more.split(':').filter(|p| !p.is_empty())).map(Recording::load).collect()
});

const CASES: [(usize, Effort, &str); 14] = [
    (0, Effort::Fast, "all"),
    (0, Effort::Fast, "packed"),
    (0, Effort::Best, "all"),
    (0, Effort::Best, "constant"),
    (0, Effort::Best, "sparse"),
    (0, Effort::Best, "packed"),
    (0, Effort::Best, "huffman"),
    (1, Effort::Fast, "all"),
    (1, Effort::Fast, "packed"),
    (1, Effort::Best, "all"),
    (1, Effort::Best, "constant"),
    (1, Effort::Best, "sparse"),
    (1, Effort::Best, "packed"),
    (1, Effort::Best, "huffman"),
];

fn total(columns: &[&[f64]]) -> usize {
    columns.iter().map(|c| c.len()).sum()
}

#[divan::bench(args = CASES)]
fn encode(bencher: Bencher, (recording, effort, form): (usize, Effort, &str)) {
    let (columns, _) = RECORDINGS[recording].of(effort, form);
    let mut encoder = ColumnEncoder::default();
    let mut out = Vec::new();
    bencher.counter(ItemsCount::new(total(&columns))).bench_local(|| {
        out.clear();
        columns.iter().for_each(|values| encoder.encode(values, effort, &mut out));
        out.len()
    });
}

#[divan::bench(args = CASES)]
fn decode(bencher: Bencher, (recording, effort, form): (usize, Effort, &str)) {
    let (columns, encoded) = RECORDINGS[recording].of(effort, form);
    let mut out = Vec::new();
    bencher.counter(ItemsCount::new(total(&columns))).bench_local(|| {
        for (values, bytes) in columns.iter().zip(&encoded) {
            out.clear();
            decode_column(bytes, values.len(), &mut out).expect("what was encoded");
        }
        out.len()
    });
}

/// Counters of six hours, in final form with entries: all of it, and the last five minutes.
#[divan::bench(args = [1440, 20])]
fn decode_long(bencher: Bencher, wanted: usize) {
    const LEN: usize = 1440;
    let mut noise = 1u64;
    let encoded: Vec<(Vec<u8>, Vec<u8>)> = (0..200)
        .map(|i| {
            let mut at = 0;
            let values: Vec<f64> = (0..LEN)
                .map(|_| {
                    for _ in 0..1 + i % 4 {
                        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        at += (noise >> 33) % (20 << (i % 7));
                    }
                    at as f64 / 100.0
                })
                .collect();
            let (mut bytes, mut entries) = (Vec::new(), Vec::new());
            encode_column(&values, Effort::Best, &mut bytes);
            put_entries(&bytes, LEN, &mut entries);
            assert_eq!((column_form(&bytes), entries.is_empty()), ("huffman", false));
            (bytes, entries)
        })
        .collect();
    let (mut scratch, mut out) = (Scratch::default(), Vec::with_capacity(LEN));
    bencher.counter(ItemsCount::new(wanted * encoded.len())).bench_local(|| {
        for (bytes, entries) in &encoded {
            out.clear();
            decode_part(bytes, entries, LEN, LEN - wanted..LEN, &mut scratch, &mut out).expect("what was encoded");
        }
        out.len()
    });
}

/// One block of all columns, as if they were of one metric.
fn block(recording: &Recording, effort: Effort) -> Vec<u8> {
    let timestamps: Vec<i64> = (0..recording.columns[0].len() as i64).map(|i| i * 15_000).collect();
    let mut builder = BlockBuilder::new(&timestamps, effort);
    for (series, values) in recording.columns.iter().enumerate() {
        builder.push_floats(&ColumnSpec::new(series as u64, Rows::All), values);
    }
    builder.finish()
}

#[divan::bench(args = [0, 1])]
fn block_build(bencher: Bencher, recording: usize) {
    let recording = &RECORDINGS[recording];
    let values: usize = recording.columns.iter().map(Vec::len).sum();
    bencher.counter(ItemsCount::new(values)).bench_local(|| block(recording, Effort::Best));
}

#[divan::bench(args = [0, 1])]
fn block_read_all(bencher: Bencher, recording: usize) {
    let recording = &RECORDINGS[recording];
    let bytes = block(recording, Effort::Best);
    let values: usize = recording.columns.iter().map(Vec::len).sum();
    bencher.counter(ItemsCount::new(values)).bench_local(|| {
        let block = Block::parse(&bytes).expect("what was built");
        block.read(|_| true, |column| drop(divan::black_box(column))).expect("read");
    });
}

#[divan::bench(args = [0, 1])]
fn block_read_one_series(bencher: Bencher, recording: usize) {
    let recording = &RECORDINGS[recording];
    let bytes = block(recording, Effort::Best);
    let wanted = recording.columns.len() as u64 / 2;
    bencher.bench_local(|| {
        let block = Block::parse(&bytes).expect("what was built");
        block.read(|series| series == wanted, |column| drop(divan::black_box(column))).expect("read");
    });
}

fn main() {
    // To compare: without the wide instructions.
    narthex_model::wide::use_wide(std::env::var_os("PLAIN").is_none());
    for recording in &*RECORDINGS {
        for effort in [Effort::Fast, Effort::Best] {
            let mut forms: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
            let (columns, encoded) = recording.of(effort, "all");
            for (values, bytes) in columns.iter().zip(&encoded) {
                for form in [column_form(bytes), "all"] {
                    let entry = forms.entry(form).or_default();
                    entry.0 += values.len();
                    entry.1 += bytes.len();
                }
            }
            let sizes: Vec<String> = forms
                .iter()
                .map(|(form, (n, bytes))| format!("{form} {:.3} ({n} values)", *bytes as f64 / *n as f64))
                .collect();
            let in_block = block(recording, effort).len() as f64 / total(&columns) as f64;
            println!("{} {effort:?}, bytes a value: {}; as a block {in_block:.3}", recording.name, sizes.join(", "));
        }
    }
    divan::main();
}
