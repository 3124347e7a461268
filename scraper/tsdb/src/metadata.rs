//! Type, help and unit of metrics: in memory, and in the family `meta`.

use std::collections::BTreeMap;

use narthex_model::{Metadata, MetricType};
use narthex_storage::MetadataEntry;
use parking_lot::RwLock;

use crate::TsdbError;
use crate::db::{Db, Family, Op};
use crate::wire::{Reader, put_bytes};

const PREFIX: &[u8] = b"metadata/";
const END: &[u8] = b"metadata0";
/// Targets may disagree on a metric; so many opinions are kept, the newest last.
const OPINIONS: usize = 4;

pub struct MetadataStore {
    by_name: RwLock<BTreeMap<String, Vec<Metadata>>>,
}

fn key(name: &str) -> Vec<u8> {
    [PREFIX, name.as_bytes()].concat()
}

fn encode(all: &[Metadata]) -> Vec<u8> {
    let mut out = Vec::new();
    for m in all {
        for text in [m.metric_type.as_str(), &m.help, &m.unit] {
            put_bytes(&mut out, text.as_bytes());
        }
    }
    out
}

fn decode(bytes: &[u8]) -> Option<Vec<Metadata>> {
    let mut r = Reader::new(bytes);
    let mut all = Vec::new();
    while !r.is_empty() {
        let mut text = || std::str::from_utf8(r.bytes()?).ok();
        let (metric_type, help, unit) = (MetricType::from_name(text()?)?, text()?.to_owned(), text()?.to_owned());
        all.push(Metadata { metric_type, help, unit });
    }
    Some(all)
}

impl MetadataStore {
    pub fn load(db: &Db) -> Result<MetadataStore, TsdbError> {
        let mut by_name = BTreeMap::new();
        db.scan(Family::Meta, PREFIX, Some(END), |key, value| {
            let name = std::str::from_utf8(&key[PREFIX.len()..]).ok();
            if let (Some(name), Some(all)) = (name, decode(value)) {
                by_name.insert(name.to_owned(), all);
            }
            true
        })?;
        Ok(MetadataStore { by_name: RwLock::new(by_name) })
    }

    /// Takes what is new; returns what is to be written.
    pub fn put(&self, entries: &[(String, Metadata)]) -> Option<Vec<Op>> {
        {
            let known = self.by_name.read();
            if entries.iter().all(|(n, m)| known.get(n).is_some_and(|all| all.contains(m))) {
                return None;
            }
        }
        let mut ops = Vec::new();
        let mut by_name = self.by_name.write();
        for (name, metadata) in entries {
            let all = by_name.entry(name.clone()).or_default();
            if all.contains(metadata) {
                continue;
            }
            if all.len() == OPINIONS {
                all.remove(0);
            }
            all.push(metadata.clone());
            ops.push(Op::Put(Family::Meta, key(name), encode(all)));
        }
        Some(ops)
    }

    pub fn get(&self, metric: Option<&str>) -> Vec<MetadataEntry> {
        let by_name = self.by_name.read();
        let entry = |(name, all): (&String, &Vec<Metadata>)| -> Vec<MetadataEntry> {
            all.iter().map(|m| MetadataEntry { metric: name.clone(), metadata: m.clone() }).collect()
        };
        match metric {
            Some(name) => by_name.get_key_value(name).map(entry).unwrap_or_default(),
            None => by_name.iter().flat_map(entry).collect(),
        }
    }
}
