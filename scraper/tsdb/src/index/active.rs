//! The index of the series that are being appended to.
//!
//! A label pair is interned to a number and knows its series; a series is a list of pair numbers behind a few words
//! about itself. Lists lie in chunks, found by two tables that hold nothing but their places: about 4 bytes a label and
//! 45 bytes a series beyond that. Pairs that no series has any more are freed with their strings, chunks that are
//! mostly dead are emptied.
//!
//! Series are found by 64 bits of a hash of their labels under a secret seed. [`ActiveIndex::find`] compares the labels
//! too; it is for the cold path, where a line of a page is bound to its series. [`ActiveIndex::find_quick`] compares
//! them only where two series are known to share a hash: among ten million series, labels that are not there are taken
//! for some series with odds of 10^7 / 2^64, one in 10^12 look-ups of new labels.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet, HashTable};
use narthex_model::{Labels, METRIC_NAME, Matcher};
use roaring::RoaringBitmap;

use super::SeriesId;
use super::ids::{IdSet, Ids, IndexError};
use super::select::{Postings, Visit, label_names, label_values, select};

/// Numbers in a chunk of series lists.
const CHUNK: usize = 1 << 14;
const CHUNK_BITS: u32 = 14;

/// Where a list lies: chunk and position.
type Place = u32;
pub(super) type PairId = u32;

struct Pair {
    /// Name and value as label sets have them, so that a series' labels are its pairs' texts one after the other.
    text: Box<str>,
    ids: IdSet,
}

impl Pair {
    fn name_value(&self) -> (&str, &str) {
        Labels::split_text(&self.text)
    }
}

/// Words of a list before its pairs: id, number of pairs, hash (2), data (3).
pub(super) const HEAD: usize = 7;

/// What the owner keeps of a series, in its own terms.
pub type Data = [u32; 3];

struct Chunk {
    /// Lists: a head, then pairs in the order of names.
    words: Vec<u32>,
    /// Words of lists that are still in use.
    live: usize,
}

/// The index in memory. Its owner locks it.
pub struct ActiveIndex {
    pairs: Vec<Option<Pair>>,
    free_pairs: Vec<PairId>,
    by_pair: HashTable<PairId>,
    names: BTreeMap<Arc<str>, BTreeMap<Arc<str>, PairId>>,
    chunks: Vec<Chunk>,
    /// The chunk that is being filled, and those that are empty.
    open: usize,
    free_chunks: Vec<usize>,
    by_id: HashTable<Place>,
    by_hash: HashTable<Place>,
    /// Hashes that several series have.
    collided: HashSet<u64, FixedState>,
    all: RoaringBitmap,
    hasher: FixedState,
    seed: u64,
    /// Which bits of a hash count: all, but in tests.
    mask: u64,
    string_bytes: usize,
}

/// Parts of label sets that were made before.
#[derive(Default)]
pub struct KnownLabels {
    wanted: HashMap<PairId, bool, FixedState>,
    labels: HashMap<Vec<PairId>, Labels, FixedState>,
    list: Vec<PairId>,
}

/// Bytes that the index takes, by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexMemory {
    /// Names and values, and the dictionaries over them.
    pub symbols: usize,
    /// The series of each pair.
    pub postings: usize,
    /// The pairs of each series.
    pub series: usize,
    /// From ids and labels to series.
    pub tables: usize,
}

impl IndexMemory {
    pub fn total(&self) -> usize {
        self.symbols + self.postings + self.series + self.tables
    }
}

/// What the index knows about cardinality; lists are largest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexStats {
    pub series: u64,
    pub label_pairs: u64,
    pub series_by_metric_name: Vec<(String, u64)>,
    pub values_by_label_name: Vec<(String, u64)>,
    /// Bytes of the values' text.
    pub memory_by_label_name: Vec<(String, u64)>,
    /// As `name=value`.
    pub series_by_pair: Vec<(String, u64)>,
}

impl Default for ActiveIndex {
    fn default() -> Self {
        ActiveIndex::new()
    }
}

impl ActiveIndex {
    pub fn new() -> ActiveIndex {
        ActiveIndex {
            pairs: Vec::new(),
            free_pairs: Vec::new(),
            by_pair: HashTable::new(),
            names: BTreeMap::new(),
            chunks: Vec::new(),
            open: 0,
            free_chunks: Vec::new(),
            by_id: HashTable::new(),
            by_hash: HashTable::new(),
            collided: HashSet::default(),
            all: RoaringBitmap::new(),
            hasher: FixedState::default(),
            seed: RandomState::new().hash_one(0),
            mask: u64::MAX,
            string_bytes: 0,
        }
    }

    /// One in which hashes are equal often.
    #[cfg(test)]
    pub fn with_poor_hashes() -> ActiveIndex {
        ActiveIndex { mask: 3, ..ActiveIndex::new() }
    }

    /// How many series there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ids of all series.
    pub fn series(&self) -> &RoaringBitmap {
        &self.all
    }

    /// Adds a series under an id that the caller chose; the same labels again give the id that they have, and `false`.
    pub fn insert(&mut self, id: SeriesId, labels: &Labels) -> (SeriesId, bool) {
        match self.find(labels) {
            Some((known, _)) => (known, false),
            None => {
                self.add(id, labels, Data::default());
                (id, true)
            }
        }
    }

    /// Adds a series that is not there.
    pub fn add(&mut self, id: SeriesId, labels: &Labels, data: Data) {
        let hash = self.hash(labels);
        let mut list = Vec::with_capacity(HEAD + 16);
        list.extend_from_slice(&[id, 0, hash as u32, (hash >> 32) as u32]);
        list.extend_from_slice(&data);
        for (name, value) in labels.iter() {
            let pair = self.intern(name, value);
            if let Some(pair) = self.pairs[pair as usize].as_mut() {
                pair.ids.insert(id);
            }
            list.push(pair);
        }
        self.push(&mut list, hash);
        self.all.insert(id);
    }

    /// Puts a list into a chunk and the tables.
    pub(super) fn push(&mut self, list: &mut [u32], hash: u64) {
        list[1] = (list.len() - HEAD) as u32;
        let (id, place) = (list[0], self.put(list));
        let chunks = &self.chunks;
        if self.by_hash.find(spread(hash), |p| hash_at(chunks, *p) == hash).is_some() {
            self.collided.insert(hash);
        }
        self.by_hash.insert_unique(spread(hash), place, |p| spread(hash_at(chunks, *p)));
        self.by_id.insert_unique(id_hash(id), place, |p| id_hash(list_at(chunks, *p)[0]));
    }

    fn pair_hash(&self, name: &str, value: &str) -> u64 {
        self.hasher.hash_one((name, value))
    }

    fn pair(&self, id: PairId) -> Option<&Pair> {
        self.pairs.get(id as usize).and_then(Option::as_ref)
    }

    fn labels_of(&self, list: &[PairId]) -> Labels {
        Labels::from_texts(list.iter().filter_map(|pair| self.pair(*pair)).map(|pair| &*pair.text))
    }

    fn find_pair(&self, name: &str, value: &str) -> Option<PairId> {
        let same = |id: &PairId| self.pair(*id).is_some_and(|pair| pair.name_value() == (name, value));
        self.by_pair.find(self.pair_hash(name, value), same).copied()
    }

    /// The pair's number; a new one has no series yet.
    pub(super) fn intern(&mut self, name: &str, value: &str) -> PairId {
        if let Some(pair) = self.find_pair(name, value) {
            return pair;
        }
        let name: Arc<str> = match self.names.get_key_value(name) {
            Some((name, _)) => name.clone(),
            None => Arc::from(name),
        };
        let value: Arc<str> = Arc::from(value);
        self.string_bytes += value.len();
        let hash = self.pair_hash(&name, &value);
        let mut text = String::with_capacity(name.len() + value.len() + 2);
        Labels::push_text(&mut text, &name, &value);
        self.string_bytes += text.len();
        let entry = Some(Pair { text: text.into(), ids: IdSet::empty() });
        let id = match self.free_pairs.pop() {
            Some(id) => {
                self.pairs[id as usize] = entry;
                id
            }
            None => {
                self.pairs.push(entry);
                self.pairs.len() as PairId - 1
            }
        };
        self.names.entry(name).or_default().insert(value, id);
        let (pairs, hasher) = (&self.pairs, &self.hasher);
        self.by_pair.insert_unique(hash, id, |id| match &pairs[*id as usize] {
            Some(pair) => hasher.hash_one(pair.name_value()),
            None => 0,
        });
        id
    }

    fn put(&mut self, list: &[u32]) -> Place {
        let fits = |chunk: &Chunk| chunk.words.is_empty() || chunk.words.len() + list.len() <= CHUNK;
        if !self.chunks.get(self.open).is_some_and(fits) {
            self.open = match self.free_chunks.pop() {
                Some(free) => free,
                None => {
                    self.chunks.push(Chunk { words: Vec::new(), live: 0 });
                    self.chunks.len() - 1
                }
            };
        }
        let chunk = &mut self.chunks[self.open];
        if chunk.words.capacity() == 0 {
            chunk.words.reserve_exact(CHUNK.max(list.len()));
        }
        let place = (self.open as u32) << CHUNK_BITS | chunk.words.len() as u32;
        chunk.words.extend_from_slice(list);
        chunk.live += list.len();
        place
    }

    fn hash(&self, labels: &Labels) -> u64 {
        self.fold(labels.long_hash(self.seed))
    }

    /// Folding the halves loses nothing that matters: 64 bits are compared, under a secret seed.
    pub(super) fn fold(&self, hash: u128) -> u64 {
        (hash as u64 ^ (hash >> 64) as u64) & self.mask
    }

    /// What labels have to be hashed under for [`super::Bulk::add`].
    pub fn seed(&self) -> u64 {
        self.seed
    }

    fn same_labels(&self, place: Place, labels: &Labels) -> bool {
        // Texts begin with their lengths, so that none is the beginning of another.
        let mut rest = labels.text();
        list_at(&self.chunks, place)[HEAD..].iter().all(|pair| {
            let after = self.pair(*pair).and_then(|pair| rest.strip_prefix(&*pair.text));
            rest = after.unwrap_or_default();
            after.is_some()
        }) && rest.is_empty()
    }

    /// The series with these labels, compared to the last letter.
    pub fn find(&self, labels: &Labels) -> Option<(SeriesId, Data)> {
        let hash = self.hash(labels);
        let same = |p: &Place| hash_at(&self.chunks, *p) == hash && self.same_labels(*p, labels);
        self.by_hash.find(spread(hash), same).map(|place| self.known(*place))
    }

    /// The series with these labels, told by their hash.
    pub fn find_quick(&self, labels: &Labels) -> Option<(SeriesId, Data)> {
        let hash = self.hash(labels);
        if !self.collided.is_empty() && self.collided.contains(&hash) {
            return self.find(labels);
        }
        let place = self.by_hash.find(spread(hash), |p| hash_at(&self.chunks, *p) == hash)?;
        Some(self.known(*place))
    }

    fn known(&self, place: Place) -> (SeriesId, Data) {
        let list = list_at(&self.chunks, place);
        (list[0], [list[4], list[5], list[6]])
    }

    /// The series with these labels.
    pub fn get(&self, labels: &Labels) -> Option<SeriesId> {
        self.find(labels).map(|found| found.0)
    }

    fn place(&self, id: SeriesId) -> Option<Place> {
        self.by_id.find(id_hash(id), |p| list_at(&self.chunks, *p)[0] == id).copied()
    }

    /// What the owner keeps of a series.
    pub fn data(&self, id: SeriesId) -> Option<Data> {
        self.place(id).map(|place| self.known(place).1)
    }

    /// Changes it; nothing happens where the series is not there.
    pub fn set_data(&mut self, id: SeriesId, data: Data) {
        if let Some(place) = self.place(id) {
            let at = place as usize & (CHUNK - 1);
            self.chunks[(place >> CHUNK_BITS) as usize].words[at + HEAD - 3..at + HEAD].copy_from_slice(&data);
        }
    }

    /// The list of a series: its pairs in name order.
    fn list(&self, id: SeriesId) -> Option<&[PairId]> {
        Some(&list_at(&self.chunks, self.place(id)?)[HEAD..])
    }

    fn pairs_of(&self, id: SeriesId) -> Option<impl Iterator<Item = &Pair> + Clone> {
        Some(self.list(id)?.iter().filter_map(|pair| self.pair(*pair)))
    }

    /// The labels of a series.
    pub fn labels(&self, id: SeriesId) -> Option<Labels> {
        Some(self.labels_of(self.list(id)?))
    }

    /// The labels of a series, and what the owner keeps of it.
    pub fn labels_and_data(&self, id: SeriesId) -> Option<(Labels, Data)> {
        let place = self.place(id)?;
        Some((self.labels_of(&list_at(&self.chunks, place)[HEAD..]), self.known(place).1))
    }

    /// The labels of a series, each as name and value.
    pub fn label_texts(&self, id: SeriesId) -> Option<impl Iterator<Item = (&str, &str)> + Clone> {
        Some(self.pairs_of(id)?.map(Pair::name_value))
    }

    /// Those of the series' labels whose names are in `names`. Series with the same ones share them through `known`.
    pub fn some_labels(&self, id: SeriesId, names: &[String], known: &mut KnownLabels) -> Option<Labels> {
        let list = self.list(id)?;
        known.list.clear();
        for pair in list {
            let wanted = *known
                .wanted
                .entry(*pair)
                .or_insert_with(|| self.pair(*pair).is_some_and(|pair| names.iter().any(|n| n == pair.name_value().0)));
            if wanted {
                known.list.push(*pair);
            }
        }
        if let Some(labels) = known.labels.get(&known.list[..]) {
            return Some(labels.clone());
        }
        let labels = self.labels_of(&known.list);
        known.labels.insert(known.list.clone(), labels.clone());
        Some(labels)
    }

    /// Forgets series.
    pub fn remove(&mut self, gone: &RoaringBitmap) {
        let gone = &(gone & &self.all);
        let mut touched = RoaringBitmap::new();
        for id in gone {
            let chunks = &self.chunks;
            let Ok(entry) = self.by_id.find_entry(id_hash(id), |p| list_at(chunks, *p)[0] == id) else {
                continue;
            };
            let place = entry.remove().0;
            let list = list_at(chunks, place);
            touched.extend(list[HEAD..].iter().copied());
            let words = list.len();
            if let Ok(entry) = self.by_hash.find_entry(spread(hash_at(chunks, place)), |p| *p == place) {
                entry.remove();
            }
            self.chunks[(place >> CHUNK_BITS) as usize].live -= words;
        }
        for pair in touched {
            self.shrink_pair(pair, gone);
        }
        self.all -= gone;
        self.compact();
    }

    fn shrink_pair(&mut self, id: PairId, gone: &RoaringBitmap) {
        let slot = &mut self.pairs[id as usize];
        let Some(pair) = slot else { return };
        if pair.ids.remove(gone) {
            return;
        }
        let (name, value) = pair.name_value();
        self.string_bytes -= value.len() + pair.text.len();
        let hash = self.hasher.hash_one((name, value));
        if let Ok(entry) = self.by_pair.find_entry(hash, |p| *p == id) {
            entry.remove();
        }
        if let Some(values) = self.names.get_mut(name) {
            values.remove(value);
            if values.is_empty() {
                self.names.remove(name);
            }
        }
        *slot = None;
        self.free_pairs.push(id);
    }

    /// Moves the lists of chunks that are mostly dead together, and frees the chunks.
    fn compact(&mut self) {
        for sparse in 0..self.chunks.len() {
            let chunk = &mut self.chunks[sparse];
            if sparse == self.open || chunk.words.is_empty() || chunk.live * 2 > chunk.words.len() {
                continue;
            }
            let words = std::mem::take(&mut chunk.words);
            chunk.live = 0;
            let mut at = 0;
            while at < words.len() {
                let end = at + HEAD + words[at + 1] as usize;
                let list = &words[at..end];
                let old = (sparse as u32) << CHUNK_BITS | at as u32;
                at = end;
                // Only what the tables know is alive; places are compared, since the words are gone from the chunk.
                let by_id = id_hash(list[0]);
                if self.by_id.find(by_id, |p| *p == old).is_none() {
                    continue;
                }
                let place = self.put(list);
                for (table, hash) in [(&mut self.by_id, by_id), (&mut self.by_hash, spread(hash_of(list)))] {
                    if let Some(entry) = table.find_mut(hash, |p| *p == old) {
                        *entry = place;
                    }
                }
            }
            self.free_chunks.push(sparse);
        }
        let (chunks, hasher) = (&self.chunks, &self.hasher);
        if self.by_id.capacity() > 4 * self.by_id.len().max(1024) {
            self.by_id.shrink_to_fit(|p| id_hash(list_at(chunks, *p)[0]));
            self.by_hash.shrink_to_fit(|p| spread(hash_at(chunks, *p)));
        }
        if self.by_pair.capacity() > 4 * self.by_pair.len().max(1024) {
            let pairs = &self.pairs;
            self.by_pair.shrink_to_fit(|id| match &pairs[*id as usize] {
                Some(pair) => hasher.hash_one(pair.name_value()),
                None => 0,
            });
        }
    }

    pub(super) fn reserve(&mut self, series: usize) {
        let chunks = &self.chunks;
        self.by_id.reserve(series, |p| id_hash(list_at(chunks, *p)[0]));
        self.by_hash.reserve(series, |p| spread(hash_at(chunks, *p)));
    }

    /// The series with exactly these pairs.
    pub(super) fn find_list(&self, hash: u64, pairs: &[PairId]) -> Option<SeriesId> {
        let same = |p: &Place| hash_at(&self.chunks, *p) == hash && list_at(&self.chunks, *p)[HEAD..] == *pairs;
        self.by_hash.find(spread(hash), same).map(|place| list_at(&self.chunks, *place)[0])
    }

    /// One more than the largest number of a pair.
    pub(super) fn pair_slots(&self) -> usize {
        self.pairs.len()
    }

    /// Calls `each` with the id and the pairs of every series. Nothing has been removed yet.
    pub(super) fn each_list(&self, mut each: impl FnMut(SeriesId, &[PairId])) {
        for chunk in &self.chunks {
            let mut at = 0;
            while let Some(head) = chunk.words.get(at..at + HEAD) {
                let end = at + HEAD + head[1] as usize;
                each(head[0], &chunk.words[at + HEAD..end]);
                at = end;
            }
        }
    }

    /// Gives each pair its series; pairs without any go.
    pub(super) fn set_sets(&mut self, sets: impl Iterator<Item = IdSet>) {
        let mut unused = Vec::new();
        for (id, (slot, ids)) in self.pairs.iter_mut().zip(sets).enumerate() {
            if let Some(pair) = slot {
                pair.ids = ids;
                if pair.ids.is_empty() {
                    unused.push(id as PairId);
                }
            }
        }
        for pair in unused {
            self.shrink_pair(pair, &RoaringBitmap::new());
        }
    }

    pub(super) fn set_all(&mut self, all: RoaringBitmap) {
        self.all = all;
    }

    /// The series that satisfy all matchers; without matchers, all.
    pub fn select(&self, matchers: &[Matcher]) -> RoaringBitmap {
        never(select(&Memory(self), matchers))
    }

    /// The label names of the series in `among`, or of all: sorted, at most `limit` (0: all), and whether there were
    /// more.
    pub fn label_names(&self, among: Option<&RoaringBitmap>, limit: usize) -> (Vec<String>, bool) {
        never(label_names(&Memory(self), among, limit))
    }

    /// The values of a label, as [`ActiveIndex::label_names`].
    pub fn label_values(&self, name: &str, among: Option<&RoaringBitmap>, limit: usize) -> (Vec<String>, bool) {
        never(label_values(&Memory(self), name, among, limit))
    }

    /// Bytes by part. Walks all pairs.
    pub fn memory(&self) -> IndexMemory {
        // An entry of a B-tree takes a third more than itself, an Arc<str> 16 bytes beside its text.
        let entry = (size_of::<Arc<str>>() + size_of::<PairId>()) * 4 / 3;
        let live = self.pairs.len() - self.free_pairs.len();
        let postings = self.pairs.iter().flatten().map(|pair| pair.ids.heap_bytes()).sum::<usize>();
        IndexMemory {
            symbols: self.string_bytes + live * (16 + entry) + self.names.len() * 64,
            postings: postings + self.pairs.capacity() * size_of::<Option<Pair>>() + self.free_pairs.capacity() * 4,
            series: self.chunks.iter().map(|c| c.words.capacity() * 4 + size_of::<Chunk>()).sum(),
            tables: self.by_id.allocation_size() + self.by_hash.allocation_size() + self.by_pair.allocation_size(),
        }
    }

    /// Cardinality, with at most `limit` entries in each list. Walks all pairs.
    pub fn stats(&self, limit: usize) -> IndexStats {
        let pair_of = |id: &PairId| self.pair(*id);
        let values =
            |name: &str| self.names.get(name).into_iter().flat_map(|values| values.values().filter_map(pair_of));
        let mut pairs: Vec<(u64, &Pair)> = self.pairs.iter().flatten().map(|pair| (pair.ids.len(), pair)).collect();
        let label_pairs = pairs.len() as u64;
        // Ties by text, so that the list stands still.
        pairs.sort_unstable_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.name_value().cmp(&b.1.name_value())));
        pairs.truncate(limit);
        // What labels would take if each series had its own, as Prometheus reckons: texts with their lengths before them.
        let text = |s: &str| s.len() as u64 + if s.len() < 255 { 1 } else { 4 };
        let bytes = |name: &str| values(name).map(|p| p.ids.len() * (text(name) + text(p.name_value().1))).sum();
        IndexStats {
            series: self.len() as u64,
            label_pairs,
            series_by_metric_name: top(values(METRIC_NAME).map(|p| (p.name_value().1.to_owned(), p.ids.len())), limit),
            values_by_label_name: top(self.names.iter().map(|(n, v)| (n.to_string(), v.len() as u64)), limit),
            memory_by_label_name: top(self.names.keys().map(|n| (n.to_string(), bytes(n))), limit),
            series_by_pair: pairs
                .into_iter()
                .map(|(n, p)| {
                    let (name, value) = p.name_value();
                    (format!("{name}={value}"), n)
                })
                .collect(),
        }
    }
}

/// The list at a place, with its head.
fn list_at(chunks: &[Chunk], place: Place) -> &[u32] {
    let words = &chunks[(place >> CHUNK_BITS) as usize].words;
    let at = place as usize & (CHUNK - 1);
    &words[at..at + HEAD + words[at + 1] as usize]
}

/// Where a series lies in the table of ids: sixteen in a row lie in a row, so that walking a selection walks through
/// memory, and such runs lie anywhere. Longer ones would meet, and what comes second then lies far behind. The table's
/// tags are the upper bits.
fn id_hash(id: SeriesId) -> u64 {
    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
    let id = u64::from(id);
    let tag = id.wrapping_mul(MIX) & (0x7f << 57);
    let run = (id >> 4).wrapping_mul(MIX) >> 24;
    tag | (run << 4 | id & 15) & ((1 << 57) - 1)
}

fn hash_of(list: &[u32]) -> u64 {
    u64::from(list[2]) | u64::from(list[3]) << 32
}

fn hash_at(chunks: &[Chunk], place: Place) -> u64 {
    let words = &chunks[(place >> CHUNK_BITS) as usize].words;
    let at = place as usize & (CHUNK - 1);
    u64::from(words[at + 2]) | u64::from(words[at + 3]) << 32
}

/// Where a series lies in the table, of the bits that are compared.
fn spread(hash: u64) -> u64 {
    hash.rotate_left(32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn top(entries: impl Iterator<Item = (String, u64)>, limit: usize) -> Vec<(String, u64)> {
    let mut entries: Vec<_> = entries.collect();
    entries.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    entries.truncate(limit);
    entries
}

/// The index as [`Postings`], none of which can fail.
struct Memory<'a>(&'a ActiveIndex);

/// Sets in memory are never encoded, so that nothing can fail to decode.
struct Never(Infallible);

impl From<IndexError> for Never {
    fn from(error: IndexError) -> Never {
        unreachable!("no set in memory is encoded: {error}")
    }
}

fn never<T>(result: Result<T, Never>) -> T {
    match result {
        Ok(value) => value,
        Err(Never(infallible)) => match infallible {},
    }
}

impl Postings for Memory<'_> {
    type Error = Never;

    fn all(&self) -> Result<RoaringBitmap, Never> {
        Ok(self.0.all.clone())
    }

    fn ids(&self, name: &str, value: &str) -> Result<Option<Ids<'_>>, Never> {
        let pair = self.0.find_pair(name, value).and_then(|pair| self.0.pair(pair));
        Ok(pair.map(|pair| pair.ids.ids()))
    }

    fn each_value(&self, name: &str, prefix: &str, visit: &mut Visit<'_, Never>) -> Result<(), Never> {
        let Some(values) = self.0.names.get(name) else { return Ok(()) };
        let from = (std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded);
        for (value, pair) in values.range::<str, _>(from).take_while(|(value, _)| value.starts_with(prefix)) {
            let Some(pair) = self.0.pair(*pair) else { continue };
            if !visit(value, pair.ids.ids())? {
                break;
            }
        }
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>, Never> {
        Ok(self.0.names.keys().map(|name| name.to_string()).collect())
    }

    fn value_count(&self, name: &str) -> Option<usize> {
        Some(self.0.names.get(name).map_or(0, BTreeMap::len))
    }

    fn value_of(&self, id: SeriesId, name: &str) -> Option<&str> {
        let value = self.0.pairs_of(id)?.map(Pair::name_value).find(|pair| pair.0 == name);
        Some(value.map_or("", |pair| pair.1))
    }

    fn each_pair_of(&self, ids: &RoaringBitmap, visit: &mut dyn FnMut(&str, &str)) -> bool {
        let mut seen = vec![0u64; self.0.pairs.len().div_ceil(64)];
        for id in ids {
            for pair in self.0.list(id).unwrap_or_default() {
                let (word, bit) = (&mut seen[*pair as usize / 64], 1 << (pair % 64));
                if *word & bit == 0 {
                    *word |= bit;
                    if let Some(pair) = &self.0.pairs[*pair as usize] {
                        let (name, value) = pair.name_value();
                        visit(name, value);
                    }
                }
            }
        }
        true
    }
}
