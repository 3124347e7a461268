//! What a query sees of one group: its windows in memory as they were at one moment, and the blocks of its range.
//!
//! Blocks are fetched and verified when the query starts, so that it can warn of what is damaged, and decoded batch by
//! batch while its answer is read.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hashbrown::HashMap;

use crate::TsdbError;
use crate::assemble::{Assembler, Pieces};
use crate::block::{self, Need};
use crate::blocks::{SharedTimes, Stored, Stretch, StretchKind, Whole, block_key, decode_rows, parse_block_key};
use crate::cached::{Cached, ReadCache, StoredTimes};
use crate::db::Family;
use crate::group::Group;
use crate::series::SeriesId;
use crate::side::{Side, SideSeries};
use crate::store::Inner;
use crate::window::{Cells, Window};
use crate::writer::chain;

/// How often a view is taken anew when blocks were merged under it.
const ATTEMPTS: usize = 5;

/// Native histograms of a series with their start timestamps, in any order.
pub type Histograms = Vec<(i64, Arc<narthex_model::Histogram>, i64)>;

#[derive(Default)]
pub struct GroupView {
    windows: Vec<Window>,
    stretches: Vec<StoredStretch>,
    beside: HashMap<SeriesId, Vec<SideSeries>, foldhash::fast::FixedState>,
}

struct StoredStretch {
    stretch: Stretch,
    stored: Arc<StoredTimes>,
    blocks: Vec<(Vec<u8>, Cached)>,
    /// Metrics whose wanted series are all known to be whole, ascending: their blocks were not read.
    whole: Vec<u32>,
}

/// What a query wants of a group.
#[derive(Default)]
pub struct Wanted {
    pub ids: Vec<SeriesId>,
    /// Numbers of their metrics.
    pub metrics: Vec<u32>,
    /// Where only presence is needed, the series of these metrics.
    pub by_metric: Vec<(u32, SeriesId)>,
}

/// What is read of a view at once.
pub struct Part<'a> {
    /// Where more decoded columns are told.
    pub cached: &'a ReadCache,
    pub range: (i64, i64),
    pub need: Need,
    /// The numbers of the series' metrics, sorted.
    pub metrics: Vec<u32>,
    /// Where only presence is needed, the metric of each series by the caller's number; [`NO_METRIC`] where nothing of
    /// it is in blocks.
    pub metric_of: Vec<u32>,
}

/// Stands for the number of a metric that has none.
pub const NO_METRIC: u32 = u32::MAX;

/// Why a view must be taken again.
enum Failed {
    Moved,
    Disk(TsdbError),
}

impl From<TsdbError> for Failed {
    fn from(e: TsdbError) -> Failed {
        Failed::Disk(e)
    }
}

impl Inner {
    /// The group as it is now. `taken` is called with the group, if it is in memory, at the moment that the view shows.
    pub fn view(
        &self,
        id: u32,
        wanted: &Wanted,
        (mint, maxt): (i64, i64),
        warnings: &mut Vec<String>,
    ) -> Result<GroupView, TsdbError> {
        for attempt in 1.. {
            let mut view = GroupView::default();
            let stretches = {
                let cell = self.group(id);
                let group = cell.as_ref().map(|c| c.lock());
                if let Some(group) = &group {
                    view.windows = windows_in(group, mint, maxt);
                }
                let side = self.side.lock();
                view.take_beside(&side, wanted);
                let directory = self.directory.stretches.read();
                let mut all: Vec<Stretch> = directory
                    .get(&id)
                    .map(|all| all.iter().filter(|s| s.overlaps(mint, maxt)).copied().collect())
                    .unwrap_or_default();
                all.sort_by_key(|s| s.start);
                all
            };
            let before = warnings.len();
            match self.fetch(id, stretches, wanted, attempt >= ATTEMPTS, warnings) {
                Ok(stretches) => {
                    view.stretches = stretches;
                    return Ok(view);
                }
                Err(Failed::Disk(e)) => return Err(e),
                Err(Failed::Moved) => warnings.truncate(before),
            }
        }
        Ok(GroupView::default())
    }

    fn fetch(
        &self,
        group: u32,
        stretches: Vec<Stretch>,
        wanted: &Wanted,
        last_attempt: bool,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<StoredStretch>, Failed> {
        let mut found = Vec::with_capacity(stretches.len());
        for stretch in stretches {
            let stored = match self.times_of(group, stretch.number) {
                Ok(Some(stored)) => stored,
                Ok(None) if !last_attempt => return Err(Failed::Moved),
                Ok(None) => {
                    warnings.push(damaged(&stretch, "its timestamps are missing"));
                    continue;
                }
                Err(e) if e.is_damage() => {
                    warnings.push(damaged(&stretch, &chain(&e)));
                    continue;
                }
                Err(e) => return Err(e.into()),
            };
            let mut blocks = Vec::new();
            let whole = self.whole_metrics(group, &stretch, wanted, &stored.read.whole);
            for metric in &wanted.metrics {
                if stored.read.metrics.binary_search(metric).is_err() || whole.binary_search(metric).is_ok() {
                    continue;
                }
                let key = block_key(stretch.partition(), *metric, group, stretch.number);
                if let Some(why) = self.directory.quarantine.read().get(&key) {
                    warnings.push(damaged(&stretch, why));
                    continue;
                }
                self.figures.blocks_read.fetch_add(1, Ordering::Relaxed);
                if let Some(block) = self.cached.block(&key) {
                    blocks.push((key, block));
                    continue;
                }
                let epoch = self.cached.epoch();
                let why = match self.db.get(Family::Blocks, &key) {
                    Ok(None) => {
                        self.cached.forget_times(group, stretch.number);
                        if !last_attempt {
                            return Err(Failed::Moved);
                        }
                        "it is missing".into()
                    }
                    Ok(Some(bytes)) => match block::verify(&bytes) {
                        Ok(()) => {
                            let bytes: Arc<[u8]> = bytes.into();
                            self.cached.put_block(epoch, &key, &bytes);
                            blocks.push((key, Cached { bytes, decoded: None }));
                            continue;
                        }
                        Err(e) => e.to_string(),
                    },
                    Err(e) if e.is_damage() => chain(&e),
                    Err(e) => return Err(e.into()),
                };
                self.quarantine(&key, &why);
                warnings.push(damaged(&stretch, &why));
            }
            if !blocks.is_empty() || !whole.is_empty() {
                found.push(StoredStretch { stretch, stored, blocks, whole });
            }
        }
        Ok(found)
    }

    /// [`Inner::read_stretch`], once for many queries.
    fn times_of(&self, group: u32, number: u64) -> Result<Option<Arc<StoredTimes>>, TsdbError> {
        if let Some(known) = self.cached.times(group, number) {
            return Ok(Some(known));
        }
        let epoch = self.cached.epoch();
        let Some(read) = self.read_stretch(group, number)? else { return Ok(None) };
        let stored = Arc::new(StoredTimes::new(read));
        self.cached.put_times(epoch, group, number, &stored);
        Ok(Some(stored))
    }

    /// The metrics of which only presence is wanted, and only of series that are whole in the stretch.
    fn whole_metrics(&self, group: u32, stretch: &Stretch, wanted: &Wanted, whole: &Whole) -> Vec<u32> {
        // Of damaged blocks queries have to say so, whatever they need of them.
        if wanted.by_metric.is_empty() || self.directory.damaged_windows(group).contains(&stretch.number) {
            return Vec::new();
        }
        let mut others: Vec<u32> = wanted.by_metric.iter().filter(|w| !whole.contains(w.1)).map(|w| w.0).collect();
        others.sort_unstable();
        others.dedup();
        wanted.metrics.iter().copied().filter(|m| others.binary_search(m).is_err()).collect()
    }
}

fn damaged(stretch: &Stretch, why: &str) -> String {
    format!("a stored block with samples from {} to {} is damaged and left out: {why}", stretch.start, stretch.end)
}

fn windows_in(group: &Group, mint: i64, maxt: i64) -> Vec<Window> {
    let overlaps = |w: &&Window| w.times.first().is_some_and(|t| *t <= maxt) && w.end() >= mint;
    group.windows().filter(overlaps).cloned().collect()
}

/// The range of these times that lies in `[mint, maxt]`.
fn rows_in(times: &[i64], mint: i64, maxt: i64) -> std::ops::Range<usize> {
    let from = times.partition_point(|t| *t < mint);
    from..times.partition_point(|t| *t <= maxt).max(from)
}

impl GroupView {
    /// What it has to be read of, for traces.
    pub fn figures(&self) -> [(&'static str, u64); 5] {
        let blocks = || self.stretches.iter().flat_map(|s| &s.blocks);
        [
            ("windows in memory", self.windows.len() as u64),
            ("series beside them", self.beside.len() as u64),
            ("blocks", blocks().count() as u64),
            ("of them decoded already", blocks().filter(|b| b.1.decoded.is_some()).count() as u64),
            ("bytes of blocks", blocks().map(|b| b.1.bytes.len() as u64).sum()),
        ]
    }

    fn take_beside(&mut self, side: &Side, wanted: &Wanted) {
        if side.series.is_empty() && side.flushing.is_empty() {
            return;
        }
        for id in &wanted.ids {
            let parts = side.flushing.get(id).into_iter().chain(side.series.get(id));
            let parts: Vec<SideSeries> = parts.cloned().collect();
            if !parts.is_empty() {
                self.beside.insert(*id, parts);
            }
        }
    }

    /// Calls `each` with what the group has of the series in `[mint, maxt]`: `columns` are those in memory, `ids` say
    /// which series is which, both by the caller's number of the series. What is not needed may be left out.
    pub fn read(
        &self,
        columns: &[(usize, u32)],
        ids: &HashMap<SeriesId, usize, foldhash::fast::FixedState>,
        Part { cached, range: (mint, maxt), need, metrics, metric_of }: &Part<'_>,
        assembler: &mut Assembler,
        pieces: &mut [Pieces],
        histograms: &mut [Histograms],
    ) -> Result<(), TsdbError> {
        // Columns are read into vectors that hold what comes behind, too.
        let mut room = self.rows((*mint, *maxt));
        for stored in &self.stretches {
            let times = &stored.stored.read.times;
            let rows = rows_in(times, *mint, *maxt);
            let part = match stored.stretch.kind {
                StretchKind::Rows => {
                    assembler.add_part(&times[rows.clone()], (rows.len() == times.len()).then_some(times))
                }
                StretchKind::Beside => usize::MAX,
            };
            let within = |t: i64| t >= *mint && t <= *maxt;
            if !stored.whole.is_empty() && !rows.is_empty() {
                for i in ids.values() {
                    if metric_of.get(*i).is_some_and(|metric| stored.whole.binary_search(metric).is_ok()) {
                        pieces[*i].push(part, Cells::Constant(0.0));
                    }
                }
            }
            let shared = SharedTimes { times, hash: stored.stored.hash };
            for (key, block) in &stored.blocks {
                if parse_block_key(key).is_some_and(|(_, metric, ..)| metrics.binary_search(&metric).is_err()) {
                    continue;
                }
                let wanted = |id| ids.contains_key(&id);
                let each = |column| match column {
                    Stored::Rows(id, cells, starts) => {
                        if let Some(i) = ids.get(&id) {
                            pieces[*i].push(part, cells);
                            pieces[*i].starts.extend(starts);
                        }
                    }
                    Stored::Floats(id, samples, starts) => {
                        if let Some(i) = ids.get(&id) {
                            pieces[*i].own.extend(samples.into_iter().filter(|s| within(s.0)));
                            pieces[*i].starts.extend(starts);
                        }
                    }
                    Stored::Histograms(id, samples, starts) => {
                        if let Some(i) = ids.get(&id) {
                            let start = |t| crate::blocks::start_at(&starts, t);
                            let samples = samples.into_iter().filter(|s| within(s.0));
                            histograms[*i].extend(samples.map(|(t, h)| (t, h, start(t))));
                        }
                    }
                };
                let Cached { bytes, decoded } = block;
                let read = match decoded {
                    None => decode_rows(bytes, &shared, rows.clone(), *need, room, wanted, each),
                    Some(decoded) => {
                        decoded.read(bytes, &shared, rows.clone(), *need, room, wanted, each).map(|more| {
                            if more > 0 {
                                cached.decoded_more(key, more);
                            }
                        })
                    }
                };
                read.map_err(|why| TsdbError::Corrupt(format!("block {key:02x?}: {why}")))?;
            }
            room -= rows.len();
        }
        if self.windows.is_empty() {
            return Ok(());
        }
        let numbers: Vec<u32> = columns.iter().map(|c| c.1).collect();
        for window in &self.windows {
            let rows = rows_in(&window.times, *mint, *maxt);
            if rows.is_empty() || numbers.is_empty() {
                continue;
            }
            let part = assembler.add_part(&window.times[rows.clone()], None);
            for ((i, _), cells) in columns.iter().zip(window.read(&numbers, rows)) {
                pieces[*i].push(part, cells);
            }
        }
        Ok(())
    }

    /// How many rows it has in a range.
    pub fn rows(&self, (mint, maxt): (i64, i64)) -> usize {
        let in_stretches = self.stretches.iter().map(|s| rows_in(&s.stored.read.times, mint, maxt).len());
        let in_windows = self.windows.iter().map(|w| rows_in(&w.times, mint, maxt).len());
        in_stretches.chain(in_windows).sum()
    }

    /// Whether anything lies in memory beside the rows.
    pub fn has_beside(&self) -> bool {
        !self.beside.is_empty()
    }

    /// Adds what lies in memory beside the rows.
    pub fn read_beside(
        &self,
        ids: &HashMap<SeriesId, usize, foldhash::fast::FixedState>,
        (mint, maxt): (i64, i64),
        pieces: &mut [Pieces],
        histograms: &mut [Histograms],
    ) {
        for (id, parts) in &self.beside {
            let Some(i) = ids.get(id) else { continue };
            for part in parts {
                let floats = &part.floats[rows_of(&part.floats, mint, maxt)];
                pieces[*i].own.extend_from_slice(floats);
                pieces[*i].starts.extend_from_slice(&part.starts);
                let found = &part.histograms[rows_of(&part.histograms, mint, maxt)];
                histograms[*i].extend(found.iter().map(|(t, h)| (*t, h.clone(), part.start_at(*t))));
            }
        }
    }
}

fn rows_of<T>(samples: &[(i64, T)], mint: i64, maxt: i64) -> std::ops::Range<usize> {
    let from = samples.partition_point(|s| s.0 < mint);
    from..samples.partition_point(|s| s.0 <= maxt).max(from)
}
