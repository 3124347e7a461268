//! Remote-write requests, 1.0 (`prometheus.WriteRequest`) and 2.0 (`io.prometheus.write.v2.Request`), written by hand
//! into buffers that are used again, and compressed (snappy's block format).
//!
//! Each sample is a series message of its own, as Prometheus sends them; exemplars that came with a sample are in its
//! message (2.0's receivers refuse series without samples).

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashTable;
use narthex_config::remote::WriteMessage;
use narthex_model::protobuf::{self, bytes_field, double_field, long_message, message, varint_field};
use narthex_model::{Exemplar, Histogram, Labels, Metadata, varint};
use std::hash::BuildHasher;

use crate::table::SeriesTable;

/// What waits to be sent.
#[derive(Clone, Debug)]
pub struct Entry {
    pub slot: u32,
    pub timestamp: i64,
    /// 0 for none.
    pub start: i64,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub enum Value {
    Float(f64),
    Histogram(Arc<Histogram>),
    /// Belongs to the sample before it, where that is of the same series.
    Exemplar(Box<Exemplar>),
}

/// How much is in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub samples: u64,
    pub histograms: u64,
    pub exemplars: u64,
    pub metadata: u64,
}

impl Counts {
    pub fn data(&self) -> u64 {
        self.samples + self.histograms + self.exemplars
    }
}

/// A request's body and what is to be known of it.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// Compressed.
    pub body: Bytes,
    pub counts: Counts,
    /// Timestamps in ms of the oldest and the newest of it.
    pub lowest: i64,
    pub highest: i64,
}

/// Whether all counts are whole: then it is written as an integer histogram, as it was most likely exposed.
fn is_integer(h: &Histogram) -> bool {
    let whole = |v: &f64| *v >= 0.0 && *v < 9_007_199_254_740_992.0 && v.fract() == 0.0;
    if ![h.count, h.zero_count].iter().chain(&h.positive_buckets).chain(&h.negative_buckets).all(whole) {
        return false;
    }
    // Receivers check it of integers: observations that were no number are in no bucket.
    let observed = h.zero_count + h.positive_buckets.iter().sum::<f64>() + h.negative_buckets.iter().sum::<f64>();
    if h.sum.is_nan() { observed <= h.count } else { observed == h.count }
}

fn sample(out: &mut Vec<u8>, timestamp: i64, start: i64, value: f64) {
    message(out, 2, |out| {
        double_field(out, 1, value);
        varint_field(out, 2, timestamp as u64);
        varint_field(out, 3, start as u64);
    });
}

/// Strings of one 2.0 request, each once. The first is empty.
#[derive(Default)]
struct Symbols {
    /// As they stand in the message, field by field.
    bytes: Vec<u8>,
    /// Where each string lies in `bytes`.
    at: Vec<(u32, u32)>,
    known: HashTable<u32>,
    hasher: foldhash::fast::RandomState,
}

impl Symbols {
    fn clear(&mut self) {
        self.bytes.clear();
        self.at.clear();
        self.known.clear();
        self.of(b"");
    }

    fn of(&mut self, text: &[u8]) -> u32 {
        let (bytes, at, hasher) = (&mut self.bytes, &mut self.at, &self.hasher);
        let hash = hasher.hash_one(text);
        let part = |bytes: &[u8], (from, len): (u32, u32)| bytes[from as usize..][..len as usize] == *text;
        if let Some(found) = self.known.find(hash, |i| part(bytes, at[*i as usize])) {
            return *found;
        }
        let number = at.len() as u32;
        bytes_field(bytes, 4, text);
        at.push(((bytes.len() - text.len()) as u32, text.len() as u32));
        let whole = |i: &u32| {
            let (from, len) = at[*i as usize];
            hasher.hash_one(&bytes[from as usize..][..len as usize])
        };
        self.known.insert_unique(hash, number, whole);
        number
    }
}

/// Writes requests; keeps its buffers.
pub struct Encoder {
    message: WriteMessage,
    body: Vec<u8>,
    series: Vec<u8>,
    compressed: Vec<u8>,
    snappy: snap::raw::Encoder,
    symbols: Symbols,
    /// Symbols of name and value of each pair, and in which request they were made.
    refs: Vec<(u32, u32, u32)>,
    round: u32,
}

impl Encoder {
    pub fn new(message: WriteMessage) -> Encoder {
        Encoder {
            message,
            body: Vec::new(),
            series: Vec::new(),
            compressed: Vec::new(),
            snappy: snap::raw::Encoder::new(),
            symbols: Symbols::default(),
            refs: Vec::new(),
            round: 0,
        }
    }

    /// A request of these entries, which are in order.
    pub fn encode(&mut self, entries: &[Entry], table: &SeriesTable) -> Encoded {
        self.body.clear();
        self.series.clear();
        let mut out = Encoded { body: Bytes::new(), counts: Counts::default(), lowest: i64::MAX, highest: 0 };
        let second = self.message == WriteMessage::V2;
        if second {
            self.symbols.clear();
            self.refs.resize(table.pair_numbers(), (0, 0, 0));
            self.round = self.round.wrapping_add(1);
            if self.round == 0 {
                self.refs.fill((0, 0, 0));
                self.round = 1;
            }
        }
        let mut rest = entries;
        while let Some((first, behind)) = rest.split_first() {
            let more =
                behind.iter().take_while(|e| e.slot == first.slot && matches!(e.value, Value::Exemplar(_))).count();
            let (exemplars, next) = behind.split_at(more);
            rest = next;
            for e in std::iter::once(first).chain(exemplars) {
                match e.value {
                    Value::Float(_) => out.counts.samples += 1,
                    Value::Histogram(_) => out.counts.histograms += 1,
                    Value::Exemplar(_) => out.counts.exemplars += 1,
                }
                if e.timestamp > 0 {
                    out.highest = out.highest.max(e.timestamp);
                    out.lowest = out.lowest.min(e.timestamp);
                }
            }
            if second {
                self.second(first, exemplars, table, &mut out.counts);
            } else {
                self.first(first, exemplars, table);
            }
        }
        if second {
            self.body.extend_from_slice(&self.symbols.bytes);
        }
        self.body.extend_from_slice(&self.series);
        out.body = self.compress();
        out
    }

    fn first(&mut self, first: &Entry, exemplars: &[Entry], table: &SeriesTable) {
        long_message(&mut self.series, 1, |out| {
            for pair in table.pairs_of(first.slot) {
                out.extend_from_slice(table.pair_bytes(*pair));
            }
            for e in std::iter::once(first).chain(exemplars) {
                match &e.value {
                    Value::Float(v) => sample(out, e.timestamp, 0, *v),
                    Value::Histogram(h) => {
                        long_message(out, 4, |out| protobuf::histogram(out, e.timestamp, h, is_integer(h)))
                    }
                    Value::Exemplar(x) => message(out, 3, |out| {
                        for (name, value) in x.labels.iter() {
                            message(out, 1, |out| {
                                bytes_field(out, 1, name.as_bytes());
                                bytes_field(out, 2, value.as_bytes());
                            });
                        }
                        double_field(out, 2, x.value);
                        varint_field(out, 3, e.timestamp as u64);
                    }),
                }
            }
        });
    }

    fn second(&mut self, first: &Entry, exemplars: &[Entry], table: &SeriesTable, counts: &mut Counts) {
        let (symbols, refs, round) = (&mut self.symbols, &mut self.refs, self.round);
        message(&mut self.series, 5, |out| {
            message(out, 1, |out| {
                for pair in table.pairs_of(first.slot) {
                    let cached = &mut refs[*pair as usize];
                    if cached.0 != round {
                        let (name, value) = table.name_and_value(*pair);
                        *cached = (round, symbols.of(name), symbols.of(value));
                    }
                    varint::put(out, u64::from(cached.1));
                    varint::put(out, u64::from(cached.2));
                }
            });
            for e in std::iter::once(first).chain(exemplars) {
                match &e.value {
                    Value::Float(v) => sample(out, e.timestamp, e.start, *v),
                    Value::Histogram(h) => long_message(out, 3, |out| {
                        protobuf::histogram(out, e.timestamp, h, is_integer(h));
                        varint_field(out, 17, e.start as u64);
                    }),
                    Value::Exemplar(x) => message(out, 4, |out| {
                        message(out, 1, |out| {
                            for (name, value) in x.labels.iter() {
                                varint::put(out, u64::from(symbols.of(name.as_bytes())));
                                varint::put(out, u64::from(symbols.of(value.as_bytes())));
                            }
                        });
                        double_field(out, 2, x.value);
                        varint_field(out, 3, e.timestamp as u64);
                    }),
                }
            }
            // Written even where nothing is known, as Prometheus does.
            let metadata = table.metadata_of(first.slot);
            counts.metadata += u64::from(metadata.is_some());
            message(out, 5, |out| {
                if let Some(m) = metadata {
                    varint_field(out, 1, m.metric_type.code());
                    varint_field(out, 3, symbols.of(m.help.as_bytes()).into());
                    varint_field(out, 4, symbols.of(m.unit.as_bytes()).into());
                }
            });
        });
    }

    /// A 1.0 request of descriptions only.
    pub fn metadata(&mut self, entries: &[(String, Arc<Metadata>)]) -> Bytes {
        self.body.clear();
        for (name, m) in entries {
            long_message(&mut self.body, 3, |out| {
                varint_field(out, 1, m.metric_type.code());
                for (number, text) in [(2, name), (4, &m.help), (5, &m.unit)] {
                    if !text.is_empty() {
                        bytes_field(out, number, text.as_bytes());
                    }
                }
            });
        }
        self.compress()
    }

    fn compress(&mut self) -> Bytes {
        compress(&mut self.snappy, &self.body, &mut self.compressed)
    }
}

/// Compresses by way of a buffer. Bodies beyond four gigabytes cannot be, and are not made: a request has its most samples.
pub fn compress(snappy: &mut snap::raw::Encoder, body: &[u8], buffer: &mut Vec<u8>) -> Bytes {
    let most = snap::raw::max_compress_len(body.len());
    if buffer.len() < most {
        buffer.resize(most, 0);
    }
    match snappy.compress(body, buffer) {
        Ok(n) => Bytes::copy_from_slice(&buffer[..n]),
        Err(_) => Bytes::new(),
    }
}

/// Labels as they are sent: the series' own, external ones that it does not have, relabelled; none if it is dropped.
pub fn sent_labels(own: &Labels, external: &Labels, rules: &[narthex_config::RelabelConfig]) -> Option<Labels> {
    let added = external.iter().any(|(n, _)| own.get(n).is_none());
    if !added && rules.is_empty() {
        return Some(own.clone());
    }
    let mut builder = own.to_builder();
    for (name, value) in external.iter().filter(|(n, _)| own.get(n).is_none()) {
        builder.set(name, value);
    }
    narthex_model::relabel::process(rules, &mut builder).then(|| builder.build())
}
