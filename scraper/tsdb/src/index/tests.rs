use std::collections::BTreeMap;

use narthex_model::{Labels, MatchType, Matcher};
use proptest::prelude::*;
use roaring::RoaringBitmap;

use super::partition::{self, PartitionBuilder};
use super::*;

/// A partition as RocksDB holds it: sorted keys and values.
#[derive(Default)]
struct Stored {
    day: u32,
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Stored {
    fn add(&mut self, entries: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) {
        let mut last = Vec::new();
        for (key, value) in entries {
            assert!(last < key, "keys are not in order");
            let merged = match self.entries.get(&key) {
                Some(old) => partition::merge_ids([old.as_slice(), &value]),
                None => value,
            };
            self.entries.insert(key.clone(), merged);
            last = key;
        }
    }
}

impl Postings for Stored {
    type Error = IndexError;

    fn all(&self) -> Result<RoaringBitmap, IndexError> {
        self.entries.get(&partition::all_key(self.day)).map_or(Ok(RoaringBitmap::new()), |v| decode(v))
    }

    fn ids(&self, name: &str, value: &str) -> Result<Option<Ids<'_>>, IndexError> {
        let key = partition::pair_key(self.day, name, value);
        // The pair of empty strings is not a label pair.
        Ok(self.entries.get(&key).filter(|_| !value.is_empty()).map(|v| Ids::Encoded(v)))
    }

    fn each_value(&self, name: &str, prefix: &str, visit: &mut Visit<'_, IndexError>) -> Result<(), IndexError> {
        for (key, value) in self.entries.range(partition::values_range(self.day, name, prefix)) {
            let (day, found, text) = partition::parse_key(key).unwrap();
            assert_eq!((day, &*found), (self.day, name));
            assert!(text.starts_with(prefix));
            if !visit(text, Ids::Encoded(value))? {
                break;
            }
        }
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>, IndexError> {
        let mut names = Vec::new();
        let mut from = partition::next_name(self.day, "");
        let end = partition::days_range(self.day, self.day).end;
        while let Some((key, _)) = self.entries.range(from..end.clone()).next() {
            let (_, name, _) = partition::parse_key(key).unwrap();
            from = partition::next_name(self.day, &name);
            names.push(name.into_owned());
        }
        Ok(names)
    }
}

fn decode(bytes: &[u8]) -> Result<RoaringBitmap, IndexError> {
    partition::decode_ids(bytes)
}

fn label_set() -> impl Strategy<Value = Labels> {
    let pair = (
        prop_oneof![Just("__name__"), Just("job"), Just("pod"), Just("a\0b"), Just("ü")],
        prop_oneof![
            4 => (0u32..6).prop_map(|i| format!("v{i}")),
            2 => (0u32..200).prop_map(|i| format!("pod-{i}")),
            1 => Just("a\0\u{1}".to_owned()),
            1 => Just("line\nbreak".to_owned()),
            1 => Just("\u{ff}\u{10ffff}".to_owned()),
        ],
    );
    proptest::collection::vec(pair, 0..5).prop_map(Labels::from_pairs)
}

fn matcher() -> impl Strategy<Value = Matcher> {
    let types = prop_oneof![
        Just(MatchType::Equal),
        Just(MatchType::NotEqual),
        Just(MatchType::Regexp),
        Just(MatchType::NotRegexp),
    ];
    let names = prop_oneof![Just("__name__"), Just("job"), Just("pod"), Just("a\0b"), Just("none")];
    let values = prop_oneof![
        Just(""),
        Just("v1"),
        Just("pod-7"),
        Just("nothing"),
        Just("v1|v2"),
        Just("v1|"),
        Just("(v1|pod-1)"),
        Just(".*"),
        Just(".+"),
        Just("v.*"),
        Just("pod-1.*"),
        Just("v[0-3]"),
        Just("(?i)V1"),
        Just("pod-1?"),
        Just("()|v3"),
        Just("line.break"),
        Just("pod-.+|v0"),
        Just(".*-1.*"),
        Just("a\0.*"),
    ];
    (types, names, values).prop_map(|(t, name, value)| Matcher::new(t, name, value).unwrap())
}

fn brute_force(series: &BTreeMap<SeriesId, Labels>, matchers: &[Matcher]) -> Vec<SeriesId> {
    series.iter().filter(|(_, labels)| Matcher::all_match(matchers, labels)).map(|(id, _)| *id).collect()
}

fn ids(bitmap: &RoaringBitmap) -> Vec<SeriesId> {
    bitmap.iter().collect()
}

/// All questions to both indexes, against a walk over all series.
fn check(index: &ActiveIndex, stored: Option<&Stored>, series: &BTreeMap<SeriesId, Labels>, matchers: &[Matcher]) {
    let expected = brute_force(series, matchers);
    let found = index.select(matchers);
    assert_eq!(ids(&found), expected, "{matchers:?}");
    assert_eq!(index.len(), series.len());
    let among = |name: &str| {
        let mut values: Vec<_> = expected.iter().map(|id| series[id].value(name)).filter(|v| !v.is_empty()).collect();
        values.sort_unstable();
        values.dedup();
        values.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut names: Vec<String> = expected.iter().flat_map(|id| series[id].iter().map(|(n, _)| n.to_owned())).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(index.label_names(Some(&found), 0), (names.clone(), false));
    for name in ["__name__", "pod", "none", "a\0b"] {
        let values = among(name);
        assert_eq!(index.label_values(name, Some(&found), 0), (values.clone(), false));
        let limit = 2;
        let cut: Vec<_> = values.iter().take(limit).cloned().collect();
        assert_eq!(index.label_values(name, Some(&found), limit), (cut, values.len() > limit));
    }
    let Some(stored) = stored else { return };
    assert_eq!(ids(&select(stored, matchers).unwrap()), expected, "stored, {matchers:?}");
    assert_eq!(label_names(stored, Some(&found), 0).unwrap(), (names.clone(), false));
    assert_eq!(
        label_names(stored, Some(&found), 1).unwrap(),
        (names.iter().take(1).cloned().collect(), names.len() > 1)
    );
    for name in ["__name__", "a\0b"] {
        assert_eq!(label_values(stored, name, Some(&found), 0).unwrap(), (among(name), false));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn selects_what_a_walk_selects(
        sets in proptest::collection::vec(label_set(), 0..300),
        queries in proptest::collection::vec(proptest::collection::vec(matcher(), 0..4), 1..12),
        gone in proptest::collection::vec(any::<prop::sample::Index>(), 0..200),
        gap in 1u32..2000,
    ) {
        let mut index = ActiveIndex::new();
        let mut series: BTreeMap<SeriesId, Labels> = BTreeMap::new();
        let mut stored = Stored { day: 19_000, ..Stored::default() };
        let mut builder = PartitionBuilder::default();
        for (i, labels) in sets.iter().enumerate() {
            let id = i as u32 * gap;
            let known = series.iter().find(|(_, l)| *l == labels).map(|(id, _)| *id);
            prop_assert_eq!(index.get(labels), known);
            prop_assert_eq!(index.insert(id, labels), (known.unwrap_or(id), known.is_none()));
            if known.is_none() {
                builder.add(id, labels.iter());
                series.insert(id, labels.clone());
            }
            if i == sets.len() / 2 {
                stored.add(std::mem::take(&mut builder).entries(19_000));
            }
        }
        stored.add(builder.entries(19_000));
        stored.add(PartitionBuilder::default().entries(18_999));
        for query in &queries {
            check(&index, Some(&stored), &series, query);
        }
        for id in series.keys() {
            prop_assert_eq!(index.labels(*id), series.get(id).cloned());
        }
        if !series.is_empty() {
            let all: Vec<SeriesId> = series.keys().copied().collect();
            let gone: RoaringBitmap = gone.iter().map(|i| *i.get(&all)).collect();
            index.remove(&gone);
            for id in &gone {
                let labels = series.remove(&id).unwrap();
                prop_assert_eq!(index.get(&labels), None);
                prop_assert_eq!(index.labels(id), None);
            }
            for query in &queries {
                check(&index, None, &series, query);
            }
            // They may come back under other ids.
            for (i, labels) in sets.iter().enumerate() {
                if index.get(labels).is_none() {
                    let id = 1_000_000 + i as u32;
                    index.insert(id, labels);
                    series.insert(id, labels.clone());
                }
            }
            for query in &queries {
                check(&index, None, &series, query);
            }
        }
    }

    #[test]
    fn ids_come_back(
        ids in proptest::collection::btree_set(prop_oneof![0u32..5000, any::<u32>()], 0..6000),
        dense in proptest::option::of(0u32..100_000),
        flip in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut bitmap: RoaringBitmap = ids.into_iter().collect();
        bitmap.insert_range(0..dense.unwrap_or(0));
        let mut bytes = partition::encode_ids(&bitmap);
        prop_assert_eq!(&decode(&bytes).unwrap(), &bitmap);
        if let Some((at, byte)) = flip {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = decode(&bytes);
            bytes.truncate(at);
            let _ = decode(&bytes);
        }
    }
}

#[test]
fn few_ids_take_few_bytes_and_runs_as_well() {
    let len = |ids: RoaringBitmap| partition::encode_ids(&ids).len();
    assert!(len([7].into_iter().collect()) <= 3);
    assert!(len((0..50).map(|i| i * 3).collect()) <= 52);
    assert!(len((0..1_000_000).collect()) <= 300);
}

#[test]
fn days_are_ranges_of_keys() {
    let last = partition::days_range(u32::MAX, u32::MAX);
    assert!(last.contains(&partition::pair_key(u32::MAX, "\u{10ffff}", "x")));
    assert!(!partition::days_range(1, 2).contains(&partition::pair_key(3, "", "")));
    assert!(partition::days_before(3).contains(&partition::pair_key(2, "\u{10ffff}", "x")));
    assert!(!partition::days_before(3).contains(&partition::pair_key(3, "", "")));
}

#[test]
fn keys_that_are_none() {
    for key in [
        &b""[..],
        b"pabc",
        b"\0\0\0\x01a\0\x01b",
        b"p\0\0\0\x01n",
        b"p\0\0\0\x01n\0",
        b"p\0\0\0\x01n\0\x02v",
        b"p\0\0\0\x01a\0\x01\xff",
    ] {
        assert_eq!(partition::parse_key(key), None, "{key:?}");
    }
}

#[test]
fn churn_leaves_nothing_behind() {
    let mut index = ActiveIndex::new();
    let labels = |generation: u32, i: u32| {
        Labels::from_pairs([
            ("__name__", format!("metric_{}", i % 50)),
            ("job", "kube".to_owned()),
            ("pod", format!("pod-{generation}-{}", i / 50)),
        ])
    };
    let mut first = None;
    for generation in 0..40u32 {
        for i in 0..2000 {
            index.insert(generation * 2000 + i, &labels(generation, i));
        }
        if generation > 0 {
            let gone = ((generation - 1) * 2000..generation * 2000).collect();
            index.remove(&gone);
        }
        assert_eq!(index.len(), 2000);
        if generation == 2 {
            first = Some(index.memory());
        }
    }
    let (first, last) = (first.unwrap(), index.memory());
    assert!(last.total() <= first.total() * 3 / 2, "{first:?} became {last:?}");
    index.remove(&index.series().clone());
    assert_eq!((index.len(), index.stats(10).label_pairs), (0, 0));
    assert_eq!(index.label_names(None, 0), (vec![], false));
}

#[test]
fn cardinality() {
    let mut index = ActiveIndex::new();
    for (id, (name, pod)) in [("up", "a"), ("up", "b"), ("up", "c"), ("down", "a")].iter().enumerate() {
        index.insert(id as u32, &Labels::from_pairs([("__name__", *name), ("pod", *pod)]));
    }
    let stats = index.stats(2);
    let list = |entries: &[(&str, u64)]| entries.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect::<Vec<_>>();
    assert_eq!((stats.series, stats.label_pairs), (4, 5));
    assert_eq!(stats.series_by_metric_name, list(&[("up", 3), ("down", 1)]));
    assert_eq!(stats.values_by_label_name, list(&[("pod", 3), ("__name__", 2)]));
    assert_eq!(stats.memory_by_label_name, list(&[("__name__", 50), ("pod", 24)]));
    assert_eq!(stats.series_by_pair, list(&[("__name__=up", 3), ("pod=a", 2)]));
}

#[test]
fn series_with_many_labels() {
    let mut index = ActiveIndex::new();
    for n in [0, 1, 63, 64, 65, 300] {
        let labels = Labels::from_pairs((0..n).map(|i| (format!("l{i:04}"), format!("v{i}"))));
        index.insert(n, &labels);
        assert_eq!(index.get(&labels), Some(n));
        assert_eq!(index.labels(n), Some(labels));
    }
}

#[test]
fn series_with_equal_hashes_are_told_apart() {
    let labels = |i: u32| Labels::from_pairs([("__name__", "m".to_owned()), ("i", i.to_string())]);
    let mut index = ActiveIndex::with_poor_hashes();
    for i in 0..50 {
        assert_eq!(index.insert(i, &labels(i)), (i, true));
    }
    for i in 0..50 {
        assert_eq!(index.insert(1000, &labels(i)), (i, false));
        assert_eq!(index.find_quick(&labels(i)).map(|f| f.0), Some(i));
    }
    assert!(index.find(&labels(50)).is_none() && index.find_quick(&labels(50)).is_none());
    index.remove(&(10..20).collect());
    for i in 0..50 {
        assert_eq!(index.get(&labels(i)), Some(i).filter(|i| !(10..20).contains(i)));
    }
}

#[test]
fn filling_in_bulk_gives_the_same_index() {
    let labels = |i: u32| {
        let pairs = [("__name__", format!("m{}", i % 7)), ("i", i.to_string()), ("z", (i % 40).to_string())];
        Labels::from_pairs(pairs.into_iter().filter(|p| !i.is_multiple_of(3) || p.0 != "z"))
    };
    let mut one = ActiveIndex::new();
    let mut bulk = Bulk::new(ActiveIndex::new());
    let ids = (0..3000u32).map(|i| i.wrapping_mul(7919) % 3001);
    let seed = ActiveIndex::seed(&one);
    assert_ne!(seed, ActiveIndex::new().seed(), "a seed is drawn anew");
    let fill_seed = bulk.seed();
    for id in ids {
        one.add(id, &labels(id), [id, 1, 2]);
        let pairs: Vec<u32> = labels(id).iter().map(|(n, v)| bulk.intern(n, v)).collect();
        bulk.intern("nobody", &id.to_string());
        let hash = labels(id).long_hash(fill_seed);
        assert_eq!(bulk.add(id, hash, pairs.iter().copied(), [id, 1, 2]), Added::New);
        assert_eq!(bulk.add(id + 10_000, hash, pairs.into_iter(), [0; 3]), Added::Known(id));
    }
    let other = vec![bulk.intern("other", "x")];
    let hash = Labels::from_pairs([("other", "x")]).long_hash(fill_seed);
    assert_eq!(bulk.add(5, hash, other.into_iter(), [0; 3]), Added::Conflict);
    let two = bulk.finish();
    assert_eq!(one.series(), two.series());
    assert_eq!(one.stats(20), two.stats(20));
    assert_eq!(one.label_names(None, 0), two.label_names(None, 0));
    for id in one.series() {
        assert_eq!(two.labels(id), Some(labels(id)));
        assert_eq!(two.find_quick(&labels(id)), Some((id, [id, 1, 2])));
    }
    for matcher in [Matcher::equal("__name__", "m3"), Matcher::equal("z", ""), Matcher::equal("z", "8")] {
        let matchers = [matcher];
        assert_eq!(one.select(&matchers), two.select(&matchers));
    }
}
