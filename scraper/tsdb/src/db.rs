//! RocksDB as the store uses it: one database, seven column families, each with options that fit its load.
//!
//! RocksDB stops taking writes after most errors (a full disk, one that refuses writes, a damaged file met by a
//! compaction) until it is opened anew; [`heal`] does that while the process runs. Damage that is met while reading is
//! passed by, and noted ([`Db::damage`]), so that whoever answers from the store can say so.

mod heal;
mod mirror;
mod options;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use rocksdb::{BoundColumnFamily, Cache, DB, DBRecoveryMode, Options, WriteBatch, WriteOptions};

use crate::TsdbError;
use heal::Handle;
pub use heal::{Damage, Recovery};
use mirror::mirrored;
use options::db_options;

/// The version of everything below the data folder. Other versions are refused.
const FORMAT: u32 = 3;
const FORMAT_KEY: &[u8] = b"format";

/// A column family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Log records by sequence number: written once, read at start only, dropped from the front.
    Head,
    /// Groups and the series that are in memory.
    Series,
    /// What groups have in blocks, and the series that left memory, by day.
    Postings,
    /// Encoded columns.
    Blocks,
    /// Format version, metadata of metrics, tombstones, whatever is small.
    Meta,
    /// A second copy of what little everything else hangs on: which series are which, and where their blocks are. In
    /// files of its own; read through at start, and when files of the first copy are damaged.
    Mirror,
    /// Exemplars by number: dropped from the front.
    Exemplars,
}

/// In the order in which they are made: RocksDB numbers them, and a repair relies on these numbers.
pub const FAMILIES: [Family; 7] =
    [Family::Head, Family::Series, Family::Postings, Family::Blocks, Family::Meta, Family::Mirror, Family::Exemplars];

impl Family {
    pub fn name(self) -> &'static str {
        match self {
            Family::Head => "head",
            Family::Series => "series",
            Family::Postings => "postings",
            Family::Blocks => "blocks",
            Family::Meta => "meta",
            Family::Mirror => "mirror",
            Family::Exemplars => "exemplars",
        }
    }
}

/// One change, to be written together with others.
#[derive(Clone, Debug)]
pub enum Op {
    Put(Family, Vec<u8>, Vec<u8>),
    /// Adds to a set of numbers ([`crate::index::partition`]); only in [`Family::Postings`].
    Merge(Family, Vec<u8>, Vec<u8>),
    Delete(Family, Vec<u8>),
    /// From the first key up to, not including, the second.
    DeleteRange(Family, Vec<u8>, Vec<u8>),
}

/// How much memory and how many threads RocksDB may use.
#[derive(Clone, Debug, Default)]
pub struct DbOptions {
    pub block_cache_bytes: usize,
    pub head_buffer_bytes: usize,
    pub background_jobs: i32,
    pub direct_reads: bool,
    pub direct_writes: bool,
    pub read_only: bool,
}

pub struct Db {
    /// Written to only to open the database anew.
    handle: RwLock<Handle>,
    path: PathBuf,
    o: DbOptions,
    options: Options,
    cache: Cache,
    /// What opening, opening anew and repairing came to.
    pub recovery: Arc<Recovery>,
    /// How long looking through both copies of the small families took at start.
    pub checked_in: std::time::Duration,
    damage: Mutex<Vec<Damage>>,
    /// Held by a test, writing stalls as it does on a slow disk.
    #[cfg(test)]
    pub gate: Mutex<()>,
}

impl Db {
    /// Opens or creates the database in `path`. Where the disk takes no writes now, what is there is opened for reading.
    ///
    /// # Errors
    /// When it cannot be opened, or holds another format.
    pub fn open(path: &Path, o: &DbOptions) -> Result<Db, TsdbError> {
        std::fs::create_dir_all(path).map_err(|source| TsdbError::CreateFolder { path: path.into(), source })?;
        let recovery = Arc::new(Recovery::default());
        let mut db = Db {
            handle: RwLock::new(Handle::Closed),
            path: path.into(),
            o: o.clone(),
            options: db_options(o, &recovery, DBRecoveryMode::PointInTime),
            cache: Cache::new_lru_cache(o.block_cache_bytes),
            recovery,
            checked_in: std::time::Duration::ZERO,
            damage: Mutex::default(),
            #[cfg(test)]
            gate: Mutex::new(()),
        };
        db.start()?;
        let started = std::time::Instant::now();
        db.check_mirror()?;
        db.checked_in = started.elapsed();
        db.check_format()?;
        db.load_damage()?;
        Ok(db)
    }

    fn check_format(&self) -> Result<(), TsdbError> {
        match self.get(Family::Meta, FORMAT_KEY)? {
            Some(found) if found == FORMAT.to_string().as_bytes() => Ok(()),
            Some(found) => Err(TsdbError::Version {
                path: self.path.clone(),
                found: String::from_utf8_lossy(&found).into_owned(),
                known: FORMAT,
            }),
            None if self.o.read_only => Ok(()),
            None => self.write([&Op::Put(Family::Meta, FORMAT_KEY.into(), FORMAT.to_string().into())]),
        }
    }

    /// Runs `f` on the database, which is not opened anew meanwhile.
    fn with<T>(&self, f: impl FnOnce(&DB) -> Result<T, TsdbError>) -> Result<T, TsdbError> {
        // Recursive, since what a scan calls may read.
        match &*self.handle.read_recursive() {
            Handle::Open(db) | Handle::ReadOnly(db, _) => f(db),
            Handle::Closed => Err(TsdbError::Closed),
        }
    }

    /// The same for what writes.
    fn with_writable<T>(&self, f: impl FnOnce(&DB) -> Result<T, TsdbError>) -> Result<T, TsdbError> {
        match &*self.handle.read_recursive() {
            Handle::Open(db) => f(db),
            Handle::ReadOnly(_, why) => Err(TsdbError::ReadOnly(why.clone())),
            Handle::Closed => Err(TsdbError::Closed),
        }
    }

    /// Why the database is open for reading only, if it is.
    pub fn read_only(&self) -> Option<String> {
        match &*self.handle.read_recursive() {
            Handle::ReadOnly(_, why) if !self.o.read_only => Some(why.clone()),
            _ => None,
        }
    }

    pub fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, TsdbError> {
        self.with(|db| db.get_cf(&cf(db, family)?, key).map_err(TsdbError::Read))
    }

    /// Writes all or nothing, to the log of the operating system (not synced).
    pub fn write<'a>(&self, ops: impl IntoIterator<Item = &'a Op>) -> Result<(), TsdbError> {
        #[cfg(test)]
        let _stall = self.gate.lock();
        self.with_writable(|db| {
            let mut batch = WriteBatch::default();
            let mirror = cf(db, Family::Mirror)?;
            let copy = |byte: u8, key: &[u8]| [&[byte][..], key].concat();
            for op in ops {
                match op {
                    Op::Put(f, k, v) => {
                        batch.put_cf(&cf(db, *f)?, k, v);
                        if let Some(byte) = mirrored(*f, k) {
                            batch.put_cf(&mirror, copy(byte, k), v);
                        }
                    }
                    Op::Merge(f, k, v) => batch.merge_cf(&cf(db, *f)?, k, v),
                    Op::Delete(f, k) => {
                        batch.delete_cf(&cf(db, *f)?, k);
                        if let Some(byte) = mirrored(*f, k) {
                            batch.delete_cf(&mirror, copy(byte, k));
                        }
                    }
                    Op::DeleteRange(f, from, to) => {
                        batch.delete_range_cf(&cf(db, *f)?, from, to);
                        if let Some(byte) = mirrored(*f, from) {
                            batch.delete_range_cf(&mirror, copy(byte, from), copy(byte, to));
                        }
                    }
                }
            }
            db.write_opt(batch, &WriteOptions::default()).map_err(TsdbError::Write)
        })
    }

    /// Brings what was written to the device.
    pub fn sync(&self) -> Result<(), TsdbError> {
        self.with_writable(|db| db.flush_wal(true).map_err(TsdbError::Write))
    }

    /// Calls `each(key, value)` for the keys from `from` up to, not including, `to` (all from `from` on where `to`
    /// is `None`), in order, until it returns `false`. Damaged parts are left out, and noted as [`Damage`].
    pub fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        mut each: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), TsdbError> {
        self.with(|db| {
            // The log is read once by each who reads it, and may be long.
            let damaged = heal::scan(db, &cf(db, family)?, from, to, family != Family::Head, &mut each)?;
            if let Some(why) = damaged {
                self.note_damage(family, &why);
            }
            Ok(())
        })
    }

    /// Drops the files that lie wholly in the range from the first key up to, not including, the second, which frees
    /// their space at once. The family's keys are as long as the second one.
    pub fn drop_files(&self, family: Family, from: &[u8], to: &[u8]) -> Result<(), TsdbError> {
        // RocksDB takes a file that ends with the second key, too.
        let Some(last) = before(to).filter(|last| &last[..] >= from) else { return Ok(()) };
        self.with_writable(|db| db.delete_file_in_range_cf(&cf(db, family)?, from, &last).map_err(TsdbError::Write))
    }

    pub fn flush(&self, families: &[Family]) -> Result<(), TsdbError> {
        self.with_writable(|db| {
            families.iter().try_for_each(|family| db.flush_cf(&cf(db, *family)?).map_err(TsdbError::Write))
        })
    }

    /// Rewrites a family without what was deleted.
    pub fn compact(&self, family: Family) -> Result<(), TsdbError> {
        self.with_writable(|db| {
            let mut o = rocksdb::CompactOptions::default();
            o.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::ForceOptimized);
            db.compact_range_cf_opt(&cf(db, family)?, None::<&[u8]>, None::<&[u8]>, &o);
            Ok(())
        })
    }

    /// Rewrites what lies before a key without what was deleted.
    pub fn compact_below(&self, family: Family, to: &[u8]) -> Result<(), TsdbError> {
        self.with_writable(|db| {
            db.flush_cf(&cf(db, family)?).map_err(TsdbError::Write)?;
            db.compact_range_cf(&cf(db, family)?, None::<&[u8]>, Some(to));
            Ok(())
        })
    }

    /// A copy in `path` that shares its table files by hard links.
    pub fn checkpoint(&self, path: &Path) -> Result<(), TsdbError> {
        self.with_writable(|db| {
            rocksdb::checkpoint::Checkpoint::new(db).and_then(|c| c.create_checkpoint(path)).map_err(TsdbError::Write)
        })
    }

    /// Figures of one family by RocksDB's own property names.
    pub fn property(&self, family: Family, name: &str) -> Option<u64> {
        self.with(|db| db.property_int_value_cf(&cf(db, family)?, name).map_err(TsdbError::Read)).ok().flatten()
    }

    /// RocksDB's figures by metric name.
    pub fn figures(&self) -> BTreeMap<String, f64> {
        use rocksdb::statistics::Ticker;
        let mut figures = BTreeMap::new();
        for family in FAMILIES {
            for (name, property) in [
                ("live_sst_bytes", "rocksdb.live-sst-files-size"),
                ("memtable_bytes", "rocksdb.cur-size-all-mem-tables"),
                ("pending_compaction_bytes", "rocksdb.estimate-pending-compaction-bytes"),
                ("keys", "rocksdb.estimate-num-keys"),
            ] {
                if let Some(v) = self.property(family, property) {
                    figures.insert(format!("narthex_rocksdb_{name}{{family=\"{}\"}}", family.name()), v as f64);
                }
            }
        }
        for (name, ticker) in [
            ("wal_bytes_total", Ticker::WalFileBytes),
            ("wal_syncs_total", Ticker::WalFileSynced),
            ("bytes_written_total", Ticker::BytesWritten),
            ("bytes_read_total", Ticker::BytesRead),
            ("compaction_read_bytes_total", Ticker::CompactReadBytes),
            ("compaction_written_bytes_total", Ticker::CompactWriteBytes),
            ("flush_written_bytes_total", Ticker::FlushWriteBytes),
            ("stall_microseconds_total", Ticker::StallMicros),
            ("block_cache_hits_total", Ticker::BlockCacheHit),
            ("block_cache_misses_total", Ticker::BlockCacheMiss),
        ] {
            figures.insert(format!("narthex_rocksdb_{name}"), self.options.get_ticker_count(ticker) as f64);
        }
        let logs = heal::files(&self.path, "log").unwrap_or_default();
        let bytes = logs.iter().filter_map(|log| log.metadata().ok()).map(|m| m.len()).sum::<u64>();
        let newest = logs.last().and_then(|log| log.file_stem()?.to_str()?.parse().ok()).unwrap_or(0.0);
        figures.insert("prometheus_tsdb_wal_storage_size_bytes".into(), bytes as f64);
        figures.insert("prometheus_tsdb_wal_segment_current".into(), newest);
        figures.insert("narthex_rocksdb_block_cache_bytes".into(), self.cache.get_usage() as f64);
        figures
    }
}

/// The key before this one of those that are as long; `None`: it is the first.
fn before(key: &[u8]) -> Option<Vec<u8>> {
    let i = key.iter().rposition(|byte| *byte > 0)?;
    let mut before = key.to_vec();
    before[i] -= 1;
    before[i + 1..].fill(u8::MAX);
    Some(before)
}

fn cf(db: &DB, family: Family) -> Result<Arc<BoundColumnFamily<'_>>, TsdbError> {
    db.cf_handle(family.name()).ok_or(TsdbError::NoFamily(family.name()))
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Db({})", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_dropped_up_to_a_key() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(folder.path(), &DbOptions::default()).unwrap();
        let key = |n: u64| n.to_be_bytes().to_vec();
        for file in [[254, 255], [256, 257]] {
            db.write(&file.map(|n| Op::Put(Family::Head, key(n), vec![7; 100]))).unwrap();
            db.flush(&[Family::Head]).unwrap();
        }
        // From level 0, where they come first, none are dropped.
        let at_first = || {
            db.with(|db| {
                Ok(db
                    .live_files()
                    .map_err(TsdbError::Read)?
                    .iter()
                    .any(|f| f.column_family_name == Family::Head.name() && f.level == 0))
            })
        };
        while at_first().unwrap() {
            std::thread::yield_now();
        }
        let left = || [254, 255, 256, 257].map(|n| db.get(Family::Head, &key(n)).unwrap().is_some());
        for (to, expected) in [
            (0, [true; 4]),
            (255, [true; 4]),
            (256, [false, false, true, true]),
            (257, [false, false, true, true]),
            (258, [false; 4]),
        ] {
            db.drop_files(Family::Head, &key(0), &key(to)).unwrap();
            assert_eq!(left(), expected, "up to {to}");
        }
    }
}
