//! Opening the database: the first time, and anew after it stopped taking writes; reading past damage; getting rid of
//! damaged files.
//!
//! What RocksDB's own repair would do to a file with one damaged block is to put all of it aside. So a file that a
//! compaction stumbled over is saved first: what can be read of its range is written again, then the file goes. Repair
//! is for files that keep the database from opening at all.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rocksdb::{BoundColumnFamily, ColumnFamilyDescriptor, DB, DBRecoveryMode, ErrorKind, WriteBatch, WriteOptions};

use super::mirror::{Right, reconcile};
use super::options::family_options;
use super::{Db, FAMILIES, Family, Op, cf};
use crate::TsdbError;
use crate::wire::{Reader, put_i64};
use crate::writer::chain;

const DAMAGE_PREFIX: &[u8] = b"damage/";
const DAMAGE_END: &[u8] = b"damage0";
/// So many notes of damage are kept.
const NOTES: usize = 100;
/// A batch of what is written again.
const BATCH_BYTES: usize = 4 << 20;
/// More room than this must be there, besides that for the log, before the database is opened anew.
const ROOM: u64 = 256 << 10;

pub(super) enum Handle {
    Open(DB),
    /// The disk takes no writes, for this reason.
    ReadOnly(DB, String),
    Closed,
}

/// What opening, opening anew and repairing came to.
#[derive(Debug, Default)]
pub struct Recovery {
    pub corruptions: AtomicU64,
    pub dropped_bytes: AtomicU64,
    /// Table files that were put aside, or out of which damaged parts were taken.
    pub damaged_files: AtomicU64,
    /// How often it was tried to open the database anew after it had stopped taking writes.
    pub reopened: AtomicU64,
    /// How often that failed.
    pub not_reopened: AtomicU64,
}

impl Recovery {
    /// RocksDB's text for it: `[WARN] …/000012.log: dropping 37 bytes; Corruption: checksum mismatch`.
    pub(super) fn hear(&self, message: &str) {
        let Some((_, after)) = message.split_once("dropping ") else { return };
        if let Some(bytes) = after.split(' ').next().and_then(|n| n.parse::<u64>().ok()) {
            self.corruptions.fetch_add(1, Ordering::Relaxed);
            self.dropped_bytes.fetch_add(bytes, Ordering::Relaxed);
            tracing::warn!(message, "the log ends in a damaged record: cut there");
        }
    }
}

/// Data that cannot be read any more, in words, and the time of the newest sample that may be among it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub what: String,
    /// `None` until somebody asks who knows the time.
    pub until: Option<i64>,
    /// The key of its record, where it has one.
    key: Option<Vec<u8>>,
}

impl Db {
    /// Opens the database for the first time.
    pub(super) fn start(&self) -> Result<(), TsdbError> {
        let handle = if self.o.read_only {
            Handle::ReadOnly(self.open_read_only()?, "opened for reading".into())
        } else {
            match self.open_writable() {
                Ok(db) => Handle::Open(db),
                // Only where the disk is to blame, and not another process, say.
                Err(e) if self.path.join("CURRENT").exists() && self.room().is_err() => {
                    let Ok(db) = self.open_read_only() else { return Err(e) };
                    Handle::ReadOnly(db, chain(&e))
                }
                Err(e) => return Err(e),
            }
        };
        *self.handle.write() = handle;
        Ok(())
    }

    /// Opens the database anew after it stopped taking writes because of `why`. `false`: it still cannot write, and
    /// trying again later may help.
    pub fn heal(&self, why: &str) -> bool {
        if self.o.read_only || self.room().is_err() {
            return false;
        }
        let mut handle = self.handle.write();
        *handle = Handle::Closed;
        if let Some(file) = damaged_file(why) {
            self.remove_damaged(&file);
        }
        let opened = self.open_writable();
        self.recovery.reopened.fetch_add(1, Ordering::Relaxed);
        match opened {
            Ok(db) => {
                *handle = Handle::Open(db);
                true
            }
            Err(e) => {
                self.recovery.not_reopened.fetch_add(1, Ordering::Relaxed);
                let why = chain(&e);
                tracing::debug!(error = why, "the database could not be opened anew");
                *handle = match self.open_read_only() {
                    Ok(db) => Handle::ReadOnly(db, why),
                    Err(_) => Handle::Closed,
                };
                false
            }
        }
    }

    /// Whether the disk takes what opening the database will write.
    fn room(&self) -> std::io::Result<()> {
        let mut log_bytes = 0;
        for log in files(&self.path, "log")? {
            log_bytes += std::fs::metadata(log)?.len();
        }
        let probe = self.path.join("probe.tmp");
        let written = std::fs::File::create(&probe).and_then(|mut file| {
            std::io::copy(&mut std::io::repeat(0).take(log_bytes + ROOM), &mut file)?;
            file.sync_data()
        });
        let removed = std::fs::remove_file(&probe);
        written.and(removed)
    }

    fn open_read_only(&self) -> Result<DB, TsdbError> {
        DB::open_cf_descriptors_read_only(&self.options, &self.path, self.families(true), false)
            .map_err(|e| self.not_opened(e))
    }

    fn families(&self, compactions: bool) -> Vec<ColumnFamilyDescriptor> {
        let options = |family| {
            let mut options = family_options(family, &self.o, &self.cache);
            options.set_disable_auto_compactions(!compactions);
            options
        };
        FAMILIES.iter().map(|f| ColumnFamilyDescriptor::new(f.name(), options(*f))).collect()
    }

    fn open_by(&self, mode: DBRecoveryMode, compactions: bool) -> Result<DB, TsdbError> {
        let mut options = self.options.clone();
        options.set_wal_recovery_mode(mode);
        DB::open_cf_descriptors(&options, &self.path, self.families(compactions)).map_err(|e| self.not_opened(e))
    }

    fn not_opened(&self, source: rocksdb::Error) -> TsdbError {
        TsdbError::Open { path: self.path.clone(), source }
    }

    pub(super) fn open_writable(&self) -> Result<DB, TsdbError> {
        let damaged =
            |e: &TsdbError| matches!(e, TsdbError::Open { source, .. } if source.kind() == ErrorKind::Corruption);
        let first = match self.open_by(DBRecoveryMode::PointInTime, true) {
            Err(e) if damaged(&e) => chain(&e),
            other => return other,
        };
        if damaged_file(&first).is_none() {
            // Damage in the middle of the log, with files newer than it: skip what is damaged. Our own records notice
            // the gap and leave out only what cannot be read without what is missing.
            match self.open_by(DBRecoveryMode::SkipAnyCorruptedRecord, true) {
                Err(e) if damaged(&e) => {}
                other => {
                    self.recovery.corruptions.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(
                        error = first,
                        "the log is damaged in the middle: opened without the damaged records"
                    );
                    return other;
                }
            }
        }
        tracing::error!(error = first, "files of the store are damaged: repairing");
        let lost = self.repair(&first)?;
        let db = self.open_by(DBRecoveryMode::PointInTime, true)?;
        self.make_same(&db, &lost);
        Ok(db)
    }

    /// Brings back what both the first copy and the mirror have, after files of these families were lost.
    fn make_same(&self, db: &DB, lost: &[Option<Family>]) {
        let mut rights: Vec<Right> = lost.iter().filter_map(|f| Right::without(*f)).collect();
        rights.dedup();
        let right = match rights[..] {
            [] => return,
            [right] => right,
            _ => Right::Neither,
        };
        match reconcile(db, right) {
            Ok(()) => tracing::info!("the second copy stands in for what was damaged"),
            Err(e) => tracing::error!(error = chain(&e), "the second copy could not be read"),
        }
    }

    /// Lets RocksDB make a new list of what it has; files that it cannot read go to the folder `lost`.
    /// Returns the families of those, where that can be told.
    fn repair(&self, why: &str) -> Result<Vec<Option<Family>>, TsdbError> {
        let lost =
            || -> BTreeSet<PathBuf> { files(&self.path.join("lost"), "sst").unwrap_or_default().into_iter().collect() };
        let before = lost();
        self.tables_from_log()?;
        DB::repair(&self.options, &self.path).map_err(|e| TsdbError::Repair(e.to_string()))?;
        let mut families = Vec::new();
        for file in lost().difference(&before) {
            let family = family_of(file);
            families.push(family);
            self.recovery.damaged_files.fetch_add(1, Ordering::Relaxed);
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            tracing::error!(file = %file.display(), ?family, why, "a file of the store is damaged and was put aside");
            if matches!(family, Some(Family::Series | Family::Meta | Family::Mirror)) {
                // The other copy has all of it.
                continue;
            }
            let what = format!("file {name} of the store was damaged and is put aside");
            let key = [DAMAGE_PREFIX, name.as_bytes()].concat();
            self.note(Damage { what, until: None, key: Some(key) });
        }
        Ok(families)
    }

    /// Turns the log into table files. Repair does that too, but leaves out whatever concerns a family that has no
    /// readable table file.
    fn tables_from_log(&self) -> Result<(), TsdbError> {
        let (scratch, logs) = (self.path.join("repair"), self.path.join("repair-log"));
        let aside = || -> std::io::Result<()> {
            let _ = std::fs::remove_dir_all(&scratch);
            std::fs::create_dir_all(&logs)?;
            for log in files(&self.path, "log")? {
                std::fs::rename(&log, logs.join(log.file_name().unwrap_or_default()))?;
            }
            Ok(())
        };
        let io = |e: std::io::Error| e.to_string();
        let options = || {
            let mut options = self.options.clone();
            options.set_wal_recovery_mode(DBRecoveryMode::SkipAnyCorruptedRecord);
            options
        };
        let work = || -> Result<(), String> {
            aside().map_err(io)?;
            let open =
                || DB::open_cf_descriptors(&options(), &scratch, self.families(false)).map_err(|e| e.to_string());
            // The families get the numbers in it that they have here, for they are made in the same order.
            drop(open()?);
            for (i, log) in files(&logs, "log").map_err(io)?.iter().enumerate() {
                std::fs::copy(log, scratch.join(format!("{:06}.log", 500_000 + i))).map_err(io)?;
            }
            let db = open()?;
            for family in FAMILIES {
                cf(&db, family).and_then(|cf| db.flush_cf(&cf).map_err(TsdbError::Write)).map_err(|e| e.to_string())?;
            }
            drop(db);
            let number = |p: &PathBuf| p.file_stem().and_then(|s| s.to_str()?.parse::<u64>().ok());
            let last = files(&self.path, "sst").map_err(io)?.iter().filter_map(number).max().unwrap_or(0);
            for (i, table) in files(&scratch, "sst").map_err(io)?.iter().enumerate() {
                let name = format!("{:06}.sst", last + 1000 + i as u64);
                std::fs::rename(table, self.path.join(name)).map_err(io)?;
            }
            std::fs::remove_dir_all(&scratch).map_err(io)?;
            std::fs::remove_dir_all(&logs).map_err(io)
        };
        work().map_err(TsdbError::Repair)
    }

    /// Takes a file that cannot be read through out of the database.
    pub(super) fn remove_damaged(&self, file: &str) {
        let Ok(db) = self.open_by(DBRecoveryMode::PointInTime, false) else { return };
        match save_readable(&db, file) {
            Ok(Saved::Gone(family)) => {
                self.recovery.damaged_files.fetch_add(1, Ordering::Relaxed);
                tracing::error!(file, "a file of the store is damaged: what could be read of it was written anew");
                self.make_same(&db, &[Some(family)]);
                if matches!(family, Family::Series | Family::Meta | Family::Mirror) {
                    return;
                }
                let what = format!("a part of file {file} of the store was damaged and is lost");
                self.note(Damage { what, until: None, key: Some([DAMAGE_PREFIX, file.as_bytes()].concat()) });
            }
            Ok(Saved::Still) => {
                drop(db);
                // It puts the file aside, of which all that could be read is in others now.
                let repaired = self.repair(&format!("{file} is damaged")).and_then(|lost| {
                    self.open_by(DBRecoveryMode::PointInTime, false).map(|db| self.make_same(&db, &lost))
                });
                if let Err(e) = repaired {
                    tracing::error!(error = chain(&e), "the store could not be repaired");
                }
            }
            Ok(Saved::Unknown) => {}
            Err(e) => tracing::error!(file, error = chain(&e), "a damaged file could not be written anew"),
        }
    }

    /// Notes that a part of a family cannot be read.
    pub(super) fn note_damage(&self, family: Family, why: &str) {
        let what = format!("a part of the family {} is damaged and left out: {why}", family.name());
        self.note(Damage { what, until: None, key: None });
    }

    fn note(&self, damage: Damage) {
        let mut notes = self.damage.lock();
        if notes.len() < NOTES && !notes.iter().any(|d| d.what == damage.what) {
            if damage.key.is_none() {
                tracing::error!(what = damage.what, "stored data is damaged");
            }
            notes.push(damage);
        }
    }

    /// What is damaged, as far as it was noticed. `now` is the time of the newest sample.
    pub fn damage(&self, now: i64) -> Vec<Damage> {
        let mut notes = self.damage.lock();
        let mut ops = Vec::new();
        for damage in notes.iter_mut().filter(|d| d.until.is_none()) {
            damage.until = Some(now);
            if let Some(key) = &damage.key {
                let mut value = Vec::new();
                put_i64(&mut value, now);
                value.extend_from_slice(damage.what.as_bytes());
                ops.push(Op::Put(Family::Meta, key.clone(), value));
            }
        }
        let all = notes.clone();
        drop(notes);
        if !ops.is_empty() {
            // It is noted in memory in any case.
            let _ = self.write(&ops);
        }
        all
    }

    /// Reads what was noted before.
    pub(super) fn load_damage(&self) -> Result<(), TsdbError> {
        let mut notes = Vec::new();
        self.scan(Family::Meta, DAMAGE_PREFIX, Some(DAMAGE_END), |key, value| {
            let mut r = Reader::new(value);
            let until = r.i64();
            let what = String::from_utf8_lossy(r.rest()).into_owned();
            notes.push(Damage { what, until, key: Some(key.to_vec()) });
            true
        })?;
        let mut all = self.damage.lock();
        notes.retain(|n| !all.iter().any(|d| d.key == n.key));
        all.extend(notes);
        Ok(())
    }

    /// Forgets damage among samples that retention has dropped.
    pub fn forget_damage(&self, before: i64) -> Result<(), TsdbError> {
        let mut gone = Vec::new();
        self.damage.lock().retain(|d| {
            let old = d.until.is_some_and(|until| until < before);
            gone.extend(d.key.clone().filter(|_| old).map(|key| Op::Delete(Family::Meta, key)));
            !old
        });
        if gone.is_empty() { Ok(()) } else { self.write(&gone) }
    }
}

/// The files in a folder with this extension, sorted.
pub(super) fn files(folder: &Path, extension: &str) -> std::io::Result<Vec<PathBuf>> {
    let all: Vec<_> = std::fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    let mut all: Vec<PathBuf> = all.into_iter().map(|e| e.path()).collect();
    all.retain(|p| p.extension().is_some_and(|e| e == extension));
    all.sort();
    Ok(all)
}

/// The table file that an error of RocksDB names as damaged: `Corruption: … in …/000012.sst offset 156 …`.
pub(super) fn damaged_file(why: &str) -> Option<String> {
    let (_, text) = why.split_once("Corruption")?;
    let path = text.split_whitespace().find(|word| word.ends_with(".sst"))?;
    path.rsplit('/').next().map(str::to_owned)
}

/// The family of a table file, which it names among its properties: after the end of a key, `…name`, stands the value.
fn family_of(file: &Path) -> Option<Family> {
    let bytes = std::fs::read(file).ok()?;
    let named = |family: &Family| {
        let text = format!("name{}", family.name());
        bytes.windows(text.len()).any(|w| w == text.as_bytes())
    };
    FAMILIES.into_iter().find(named)
}

enum Saved {
    Gone(Family),
    Still,
    /// There is no such file any more.
    Unknown,
}

/// Writes what can be read of a file's range again, and drops the file.
fn save_readable(db: &DB, file: &str) -> Result<Saved, TsdbError> {
    let find = || -> Result<_, TsdbError> {
        Ok(db.live_files().map_err(TsdbError::Read)?.into_iter().find(|f| f.name.trim_start_matches('/') == file))
    };
    let Some(found) = find()? else { return Ok(Saved::Unknown) };
    let family = FAMILIES.into_iter().find(|f| f.name() == found.column_family_name);
    let (Some(family), Some(start), Some(end)) = (family, found.start_key, found.end_key) else {
        return Ok(Saved::Still);
    };
    let handle = cf(db, family)?;
    let mut batch = WriteBatch::default();
    let mut failed = None;
    let mut write = |batch: &mut WriteBatch| {
        let written = db.write_opt(std::mem::take(batch), &WriteOptions::default());
        failed = failed.take().or(written.err());
        failed.is_none()
    };
    let beyond = [&end[..], &[0]].concat();
    scan(db, &handle, &start, Some(&beyond), true, &mut |key, value| {
        batch.put_cf(&handle, key, value);
        batch.size_in_bytes() < BATCH_BYTES || write(&mut batch)
    })?;
    write(&mut batch);
    if let Some(e) = failed {
        return Err(TsdbError::Write(e));
    }
    // To a new file of level 0, which dropping the range leaves alone.
    db.flush_cf(&handle).map_err(TsdbError::Write)?;
    db.delete_file_in_range_cf(&handle, &start, &end).map_err(TsdbError::Write)?;
    Ok(if find()?.is_some() { Saved::Still } else { Saved::Gone(family) })
}

/// As [`Db::scan`]; what is damaged, if something is. What will not be read `again` soon goes past the cache.
pub(super) fn scan(
    db: &DB,
    cf: &Arc<BoundColumnFamily<'_>>,
    from: &[u8],
    to: Option<&[u8]>,
    again: bool,
    each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
) -> Result<Option<String>, TsdbError> {
    let bounded = || {
        let mut read = rocksdb::ReadOptions::default();
        read.fill_cache(again);
        if let Some(to) = to {
            read.set_iterate_upper_bound(to);
        }
        read
    };
    let mut from = from.to_vec();
    let mut damage = None;
    loop {
        let mut it = db.raw_iterator_cf_opt(cf, bounded());
        it.seek(&from);
        let mut last = Vec::new();
        while let Some((key, value)) = it.item() {
            if !each(key, value) {
                return Ok(damage);
            }
            last.clear();
            last.extend_from_slice(key);
            it.next();
        }
        match it.status() {
            Ok(()) => return Ok(damage),
            Err(e) if e.kind() == ErrorKind::Corruption => damage = Some(e.to_string()),
            Err(e) => return Err(TsdbError::Read(e)),
        }
        if !last.is_empty() {
            last.push(0);
            from = last;
        }
        // What lies behind the damage, found from the other end.
        let mut read = bounded();
        read.set_iterate_lower_bound(from.clone());
        let mut it = db.raw_iterator_cf_opt(cf, read);
        let mut behind = None;
        it.seek_to_last();
        while let Some(key) = it.key() {
            let behind = behind.get_or_insert_with(Vec::new);
            behind.clear();
            behind.extend_from_slice(key);
            it.prev();
        }
        match behind {
            Some(key) if key > from => from = key,
            _ => return Ok(damage),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::DbOptions;

    fn options() -> DbOptions {
        DbOptions { block_cache_bytes: 1 << 20, head_buffer_bytes: 1 << 20, background_jobs: 2, ..DbOptions::default() }
    }

    fn put(i: u32) -> Op {
        // Values that do not compress.
        let value = (0..100).map(|k| (i.wrapping_mul(2_654_435_761).wrapping_add(k * 40_503) >> 11) as u8).collect();
        Op::Put(Family::Blocks, i.to_be_bytes().to_vec(), value)
    }

    fn keys(db: &Db) -> Vec<u32> {
        let mut all = Vec::new();
        db.scan(Family::Blocks, &[], None, |key, value| {
            let i = u32::from_be_bytes(key.try_into().unwrap());
            assert!(matches!(put(i), Op::Put(_, _, v) if v == value));
            all.push(i);
            true
        })
        .unwrap();
        all
    }

    /// A file with one damaged block, in level 0 or deeper: all but that block is read, and writing goes on after a
    /// compaction has met it.
    fn check(compacted: bool) {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(folder.path(), &options()).unwrap();
        db.write(&(0..5000).map(put).collect::<Vec<_>>()).unwrap();
        db.flush(&[Family::Blocks]).unwrap();
        if compacted {
            db.compact(Family::Blocks).unwrap();
        }
        drop(db);
        let mut tables: Vec<PathBuf> = std::fs::read_dir(folder.path()).unwrap().flatten().map(|e| e.path()).collect();
        tables.retain(|p| p.extension().is_some_and(|e| e == "sst"));
        let table = tables.iter().max_by_key(|p| std::fs::metadata(p).unwrap().len()).unwrap();
        let mut bytes = std::fs::read(table).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x55;
        std::fs::write(table, bytes).unwrap();

        let db = Db::open(folder.path(), &options()).unwrap();
        let left = keys(&db);
        assert!(left.len() > 4500 && left.len() < 5000, "{}", left.len());
        let damage = db.damage(7);
        assert!(damage.len() == 1 && damage[0].what.contains(".sst") && damage[0].until == Some(7), "{damage:?}");
        db.write(&[put(9000)]).unwrap();
        db.compact(Family::Blocks).unwrap();
        let refused = db.write(&[put(9001)]).unwrap_err();
        let why = chain(&refused);
        assert!(db.heal(&why), "{why}");
        db.write(&[put(9001)]).unwrap();
        db.compact(Family::Blocks).unwrap();
        db.write(&[put(9002)]).unwrap();
        let expected: Vec<u32> = left.iter().copied().chain(9000..9003).collect();
        assert_eq!(keys(&db), expected);
        assert_eq!(db.damage(8).last().unwrap().until, Some(8));
        drop(db);
        let db = Db::open(folder.path(), &options()).unwrap();
        assert_eq!(keys(&db), expected);
        assert_eq!(db.damage(9).first().unwrap().until, Some(8), "remembered");
    }

    #[test]
    fn a_damaged_block_costs_no_more_than_itself() {
        check(true);
        check(false);
    }
}
