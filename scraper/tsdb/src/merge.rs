//! Merging a group's windows into longer ones: long columns compress better, and take fewer reads.

mod beside;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hashbrown::HashMap;

use crate::blocks::{
    ColumnData, ReadStretch, Stored, Stretch, StretchKind, Whole, block_key, decode_block, encode_rows, stretch_key,
};
use crate::codec::{Effort, MAX_COLUMN};
use crate::db::{Family, Op};
use crate::row::{absent, is_absent};
use crate::series::SeriesId;
use crate::store::Inner;
use crate::window::Cells;
use crate::writer::chain;
use crate::{Took, TsdbError};

/// What a merged window spans at most, in ms: retention and day partitions go by whole windows.
const MAX_SPAN: i64 = 24 * 3600 * 1000;

/// What a merge writes: the new window, its records, and what it stands for.
struct Merged {
    stretch: Stretch,
    ops: Vec<Op>,
    old: Vec<u64>,
}

impl Inner {
    /// Merges what can be merged of a group. With `all`, short runs too, so that everything is in its final form.
    ///
    /// # Errors
    /// When the disk fails; what was there stays.
    pub fn merge_group(&self, group: u32, all: bool) -> Result<(), TsdbError> {
        self.merge_group_beside(group, all)?;
        let mut after = i64::MIN;
        while let Some(run) = self.next_run(group, after, all) {
            after = run.last().map_or(i64::MAX, |s| s.end);
            let merged = match self.observer.time(Took::Merge, || self.merge_run(group, &run)) {
                Ok(Some(merged)) => merged,
                Ok(None) => continue,
                // A damaged block keeps its windows from being merged, nothing else.
                Err(e) if e.is_damage() => continue,
                Err(e) => {
                    self.figures.compactions_failed.fetch_add(1, Ordering::Relaxed);
                    return Err(e);
                }
            };
            self.replace(group, merged)?;
        }
        Ok(())
    }

    /// Puts what was merged in the place of what it stands for.
    fn replace(&self, group: u32, merged: Merged) -> Result<(), TsdbError> {
        // Readers that have the old windows in their list look again when a block is gone.
        if let Err(e) = self.db.write(&merged.ops) {
            self.figures.compactions_failed.fetch_add(1, Ordering::Relaxed);
            return Err(e);
        }
        self.directory.confirm(&merged.ops);
        let mut directory = self.directory.stretches.write();
        let stretches = directory.entry(group).or_default();
        stretches.retain(|s| !merged.old.contains(&s.number));
        stretches.push(merged.stretch);
        self.figures.compactions.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// A block's bytes; where they are damaged or missing it goes into quarantine.
    fn block(&self, key: &[u8]) -> Result<Vec<u8>, TsdbError> {
        match self.db.get(Family::Blocks, key) {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => {
                self.quarantine(key, "it is missing");
                Err(TsdbError::Corrupt(format!("block {key:02x?}: missing")))
            }
            Err(e) => {
                if e.is_damage() {
                    self.quarantine(key, &chain(&e));
                }
                Err(e)
            }
        }
    }

    /// Puts a block aside that does not decode.
    fn bad_block(&self, key: &[u8], why: &str) -> TsdbError {
        self.quarantine(key, why);
        TsdbError::Corrupt(format!("block {key:02x?}: {why}"))
    }

    /// The first windows after `after` that should become one.
    fn next_run(&self, group: u32, after: i64, all: bool) -> Option<Vec<Stretch>> {
        let mut stretches: Vec<Stretch> = {
            let directory = self.directory.stretches.read();
            let of_group = directory.get(&group)?;
            of_group.iter().filter(|s| s.kind == StretchKind::Rows && s.start > after).copied().collect()
        };
        // Windows with damaged blocks stay as they are.
        let damaged = self.directory.damaged_windows(group);
        stretches.iter_mut().filter(|s| damaged.contains(&s.number)).for_each(|s| s.is_final = true);
        stretches.sort_by_key(|s| s.start);
        let (most, enough) = self.merged_rows();
        let mut run: Vec<Stretch> = Vec::new();
        let mut rows = 0;
        for s in stretches {
            let too_long = run.first().is_some_and(|f| s.end - f.start > MAX_SPAN);
            if s.is_final || too_long || rows + s.rows as usize > most {
                if all && !run.is_empty() || rows >= enough || run.len() > 1 && too_long {
                    return Some(run);
                }
                run.clear();
                rows = 0;
            }
            if !s.is_final {
                rows += s.rows as usize;
                run.push(s);
            }
        }
        (!run.is_empty() && (all || rows >= most)).then_some(run)
    }

    /// How many rows a merged window has at most, and with how many it is not merged any more.
    fn merged_rows(&self) -> (usize, usize) {
        let most = self.options.read().merged_rows.clamp(2, MAX_COLUMN);
        (most, most - most / 3)
    }

    fn merge_run(&self, group: u32, run: &[Stretch]) -> Result<Option<Merged>, TsdbError> {
        let mut parts: Vec<(Stretch, Arc<[i64]>, Vec<u32>)> = Vec::new();
        for s in run {
            let Some(read) = self.read_stretch(group, s.number)? else { return Ok(None) };
            parts.push((*s, read.times, read.metrics));
        }
        let times: Vec<i64> = parts.iter().flat_map(|p| p.1.iter().copied()).collect();
        let (Some(start), Some(end)) = (times.first().copied(), times.last().copied()) else { return Ok(None) };
        let stretch = Stretch {
            number: self.seq(),
            kind: StretchKind::Rows,
            start,
            end,
            rows: times.len() as u32,
            is_final: times.len() >= self.merged_rows().1,
        };
        let mut metrics: Vec<u32> = parts.iter().flat_map(|p| p.2.iter().copied()).collect();
        metrics.sort_unstable();
        metrics.dedup();
        let mut ops = Vec::new();
        let (mut written, mut whole) = (Vec::new(), Vec::new());
        for metric in metrics {
            let columns = self.joined(group, metric, &parts, &mut ops)?;
            whole.extend(columns.iter().filter(|c| c.is_whole()).map(|c| c.id));
            if let Some(block) = encode_rows(&times, &columns, Effort::Best) {
                let key = block_key(stretch.partition(), metric, group, stretch.number);
                self.figures.block_bytes_written.fetch_add((key.len() + block.len()) as u64, Ordering::Relaxed);
                ops.push(Op::Put(Family::Blocks, key, block));
                written.push(metric);
            }
        }
        self.figures.blocks_written.fetch_add(written.len() as u64, Ordering::Relaxed);
        ops.extend(run.iter().map(|s| Op::Delete(Family::Postings, stretch_key(group, s.number))));
        ops.push(stretch.put(group, &times, &written, &Whole::new(whole)));
        Ok(Some(Merged { stretch, ops, old: run.iter().map(|s| s.number).collect() }))
    }

    /// One metric's columns over all parts, in the order in which they appear, and the deletion of their blocks.
    fn joined(
        &self,
        group: u32,
        metric: u32,
        parts: &[(Stretch, Arc<[i64]>, Vec<u32>)],
        ops: &mut Vec<Op>,
    ) -> Result<Vec<ColumnData>, TsdbError> {
        let mut columns: Vec<(SeriesId, Joined)> = Vec::new();
        let mut place: HashMap<SeriesId, usize, foldhash::fast::FixedState> = HashMap::default();
        let mut before = 0;
        for (stretch, times, metrics) in parts {
            if metrics.binary_search(&metric).is_ok() {
                let key = block_key(stretch.partition(), metric, group, stretch.number);
                let bytes = self.block(&key)?;
                let read = decode_block(
                    &bytes,
                    times,
                    |_| true,
                    |column| {
                        // Windows of rows hold nothing else.
                        let Stored::Rows(id, cells, starts) = column else { return };
                        let i = *place.entry(id).or_insert_with(|| {
                            columns.push((id, Joined::default()));
                            columns.len() - 1
                        });
                        columns[i].1.push(before, cells, times.len(), starts);
                    },
                );
                read.map_err(|why| self.bad_block(&key, &why))?;
                ops.push(Op::Delete(Family::Blocks, key));
            }
            before += times.len();
        }
        Ok(columns.into_iter().map(|(id, joined)| joined.finish(id, before)).collect())
    }
}

/// Cells one after the other, with gaps.
#[derive(Default)]
struct Joined {
    cells: Option<Cells>,
    len: usize,
    starts: Vec<(i64, i64)>,
}

impl Joined {
    fn push(&mut self, at: usize, cells: Cells, len: usize, starts: Vec<(i64, i64)>) {
        if at > self.len {
            let gap = at - self.len;
            self.append(Cells::Constant(absent()), gap);
        }
        self.append(cells, len);
        self.starts.extend(starts);
    }

    fn append(&mut self, cells: Cells, len: usize) {
        let all = match (self.cells.take(), cells) {
            (None, cells) => cells,
            (Some(Cells::Constant(a)), Cells::Constant(b)) if a.to_bits() == b.to_bits() => Cells::Constant(a),
            (Some(before), cells) => {
                let mut dense = match before {
                    Cells::Constant(v) => vec![v; self.len],
                    Cells::Dense(v) => v,
                };
                match cells {
                    Cells::Constant(v) => dense.resize(dense.len() + len, v),
                    Cells::Dense(v) => dense.extend(v),
                }
                Cells::Dense(dense)
            }
        };
        self.cells = Some(all);
        self.len += len;
    }

    fn finish(mut self, id: SeriesId, len: usize) -> ColumnData {
        if len > self.len {
            let gap = len - self.len;
            self.append(Cells::Constant(absent()), gap);
        }
        ColumnData { id, cells: self.cells.unwrap_or(Cells::Constant(absent())), starts: self.starts }
    }
}

impl Inner {
    /// Takes deleted samples out of all blocks, and forgets the tombstones. What is in memory must be in blocks.
    ///
    /// # Errors
    /// When the disk fails; tombstones stay then.
    pub fn clean(&self) -> Result<(), TsdbError> {
        let tombstones = self.tombstones.read().clone();
        if tombstones.is_empty() {
            return Ok(());
        }
        let groups: BTreeMap<u32, Vec<Stretch>> =
            self.directory.stretches.read().iter().map(|(g, s)| (*g, s.clone())).collect();
        for (group, stretches) in groups {
            for stretch in stretches {
                let ReadStretch { times, metrics, .. } = match self.read_stretch(group, stretch.number) {
                    Ok(Some(read)) => read,
                    Err(e) if !e.is_damage() => return Err(e),
                    _ => continue,
                };
                let (mut ops, mut left) = (Vec::new(), Vec::new());
                for metric in &metrics {
                    let key = block_key(stretch.partition(), *metric, group, stretch.number);
                    let bytes = match self.db.get(Family::Blocks, &key) {
                        Ok(Some(bytes)) => bytes,
                        Ok(None) => continue,
                        Err(e) if e.is_damage() => {
                            self.quarantine(&key, &chain(&e));
                            left.push(*metric);
                            continue;
                        }
                        Err(e) => return Err(e),
                    };
                    match crate::delete::without_deleted(&bytes, &times, &tombstones) {
                        Ok(None) => left.push(*metric),
                        Ok(Some(None)) => ops.push(Op::Delete(Family::Blocks, key)),
                        Ok(Some(Some(block))) => {
                            ops.push(Op::Put(Family::Blocks, key, block));
                            left.push(*metric);
                        }
                        Err(why) => {
                            self.quarantine(&key, &why);
                            left.push(*metric);
                        }
                    }
                }
                if ops.is_empty() {
                    continue;
                }
                let gone = left.is_empty();
                ops.push(if gone {
                    Op::Delete(Family::Postings, stretch_key(group, stretch.number))
                } else {
                    // Series that were whole may not be any more.
                    stretch.put(group, &times, &left, &Whole::default())
                });
                self.db.write(&ops)?;
                self.cached.forget();
                if gone && let Some(all) = self.directory.stretches.write().get_mut(&group) {
                    all.retain(|s| s.number != stretch.number);
                }
            }
        }
        self.db.write(&[crate::delete::forget_all()])?;
        self.tombstones.write().retain(|id, ranges| tombstones.get(id) != Some(ranges));
        Ok(())
    }
}

/// Sets deleted cells absent. `true` where there were some.
pub fn blank(cells: &mut Cells, times: &[i64], ranges: &crate::delete::Ranges) -> bool {
    if !times.iter().any(|t| crate::delete::is_deleted(ranges, *t)) {
        return false;
    }
    let mut dense = match cells {
        Cells::Constant(v) => vec![*v; times.len()],
        Cells::Dense(v) => std::mem::take(v),
    };
    let mut changed = false;
    for (v, t) in dense.iter_mut().zip(times) {
        if !is_absent(*v) && crate::delete::is_deleted(ranges, *t) {
            *v = absent();
            changed = true;
        }
    }
    *cells = Cells::Dense(dense);
    changed
}
