//! RocksDB as the store uses it: one database, five column families, each with options that fit its load.
//!
//! Nothing outside this module and [`crate::writer`] speaks RocksDB's own API for writing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rocksdb::{
    BlockBasedOptions, BoundColumnFamily, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode,
    InfoLogger, LogLevel, Options, WriteBatch, WriteOptions,
};

use crate::TsdbError;

/// The version of everything below the data folder. Other versions are refused.
pub const FORMAT: u32 = 3;
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
}

pub const FAMILIES: [Family; 5] = [Family::Head, Family::Series, Family::Postings, Family::Blocks, Family::Meta];

impl Family {
    pub fn name(self) -> &'static str {
        match self {
            Family::Head => "head",
            Family::Series => "series",
            Family::Postings => "postings",
            Family::Blocks => "blocks",
            Family::Meta => "meta",
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
#[derive(Clone, Debug)]
pub struct DbOptions {
    pub block_cache_bytes: usize,
    pub head_buffer_bytes: usize,
    pub background_jobs: i32,
    pub read_only: bool,
}

pub struct Db {
    db: DB,
    path: PathBuf,
    options: Options,
    cache: Cache,
    /// Complaints of RocksDB about its log while opening.
    pub recovery: Arc<Recovery>,
}

/// What RocksDB said of a damaged log.
#[derive(Debug, Default)]
pub struct Recovery {
    pub corruptions: AtomicU64,
    pub dropped_bytes: AtomicU64,
}

impl Recovery {
    /// RocksDB's text for it: `[WARN] …/000012.log: dropping 37 bytes; Corruption: checksum mismatch`.
    fn hear(&self, message: &str) {
        let Some((_, after)) = message.split_once("dropping ") else { return };
        if let Some(bytes) = after.split(' ').next().and_then(|n| n.parse::<u64>().ok()) {
            self.corruptions.fetch_add(1, Ordering::Relaxed);
            self.dropped_bytes.fetch_add(bytes, Ordering::Relaxed);
            tracing::warn!(message, "the log ends in a damaged record: cut there");
        }
    }
}

fn table(cache: &Cache, block_bytes: usize, bloom: bool) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(block_bytes);
    table.set_format_version(5);
    // Index and filter blocks count against the cache too, so that memory stays bounded however much is stored.
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    if bloom {
        table.set_bloom_filter(10.0, false);
    }
    table
}

/// The union of sets of numbers. One that cannot be read counts as empty: whoever looks for what it should have led to
/// finds the other way, and no file becomes unreadable by it.
fn union(_: &[u8], known: Option<&[u8]>, added: &rocksdb::MergeOperands) -> Option<Vec<u8>> {
    use crate::index::partition::{decode_ids, encode_ids};
    let sets = known.into_iter().chain(added.iter()).filter_map(|set| decode_ids(set).ok());
    let union = sets.reduce(|a, b| a | b).unwrap_or_default();
    Some(encode_ids(&union))
}

fn family_options(family: Family, o: &DbOptions, cache: &Cache) -> Options {
    let mut cf = Options::default();
    cf.set_level_compaction_dynamic_level_bytes(true);
    match family {
        Family::Head => {
            // Keys only ever grow and go from the front, file by file. No file overlaps another, so compaction moves
            // them out of level 0, from where they can be dropped, without rewriting them.
            cf.set_write_buffer_size(o.head_buffer_bytes);
            cf.set_max_write_buffer_number(3);
            cf.set_level_zero_file_num_compaction_trigger(1);
            // Rows are differences packed to bytes already; what little zstd gains costs more than the scrape itself.
            cf.set_compression_type(DBCompressionType::None);
            cf.set_block_based_table_factory(&table(cache, 64 << 10, false));
        }
        Family::Series => {
            cf.set_write_buffer_size(4 << 20);
            // Label text repeats.
            cf.set_compression_type(DBCompressionType::Lz4);
            cf.set_block_based_table_factory(&table(cache, 32 << 10, false));
        }
        Family::Postings => {
            cf.set_write_buffer_size(4 << 20);
            cf.set_compression_type(DBCompressionType::Zstd);
            cf.set_merge_operator_associative("union", union);
            cf.set_block_based_table_factory(&table(cache, 32 << 10, true));
        }
        Family::Blocks => {
            // Entropy-coded columns do not compress again (measured: LZ4 gains nothing, zstd 5 %).
            cf.set_compression_type(DBCompressionType::None);
            cf.set_write_buffer_size(8 << 20);
            cf.set_max_write_buffer_number(2);
            cf.set_target_file_size_base(64 << 20);
            // Keys begin with the window: later windows go behind earlier ones and are moved, not rewritten.
            cf.set_block_based_table_factory(&table(cache, 16 << 10, false));
        }
        Family::Meta => {
            cf.set_write_buffer_size(1 << 20);
            cf.set_compression_type(DBCompressionType::Lz4);
            cf.set_block_based_table_factory(&table(cache, 4 << 10, false));
        }
    }
    cf
}

fn db_options(o: &DbOptions, recovery: &Arc<Recovery>, mode: DBRecoveryMode) -> Options {
    let mut db = Options::default();
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    // Flushes and compactions share the cores with scrapes and queries.
    db.set_max_background_jobs(o.background_jobs);
    db.set_max_subcompactions(1);
    // A log that is not needed any more is deleted soon; rarely written families must not keep old ones alive.
    db.set_max_total_wal_size(4 * o.head_buffer_bytes as u64);
    // Everything up to the first damaged record counts, nothing after it: no hole in the middle.
    db.set_wal_recovery_mode(mode);
    // Background writes go to the device steadily, not in bursts that stall the log.
    db.set_bytes_per_sync(1 << 20);
    db.set_max_open_files(1024);
    // Looking into every file to estimate what was deleted in it makes opening slower the more is stored.
    db.set_skip_stats_update_on_db_open(true);
    db.set_keep_log_file_num(2);
    db.set_stats_dump_period_sec(0);
    db.set_log_level(LogLevel::Warn);
    let heard = recovery.clone();
    db.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Warn, move |level, message| {
        heard.hear(message);
        match level {
            LogLevel::Error | LogLevel::Fatal => tracing::warn!(target: "rocksdb", "{message}"),
            _ => tracing::debug!(target: "rocksdb", "{message}"),
        }
    }));
    db.enable_statistics();
    db
}

impl Db {
    /// Opens or creates the database in `path`.
    ///
    /// # Errors
    /// When it cannot be opened, or holds another format.
    pub fn open(path: &Path, o: &DbOptions) -> Result<Db, TsdbError> {
        std::fs::create_dir_all(path).map_err(|source| TsdbError::CreateFolder { path: path.into(), source })?;
        let cache = Cache::new_lru_cache(o.block_cache_bytes);
        let recovery = Arc::new(Recovery::default());
        let open = |mode| {
            let options = db_options(o, &recovery, mode);
            let families =
                FAMILIES.iter().map(|f| ColumnFamilyDescriptor::new(f.name(), family_options(*f, o, &cache)));
            let db = if o.read_only {
                DB::open_cf_descriptors_read_only(&options, path, families, false)
            } else {
                DB::open_cf_descriptors(&options, path, families)
            };
            db.map(|db| (db, options))
        };
        let (db, options) = match open(DBRecoveryMode::PointInTime) {
            // Damage in the middle of the log, with files newer than it: skip what is damaged. Our own records notice
            // the gap and leave out only what cannot be read without what is missing.
            Err(e) if e.kind() == rocksdb::ErrorKind::Corruption => {
                recovery.corruptions.fetch_add(1, Ordering::Relaxed);
                tracing::error!(error = %e, "the log is damaged in the middle: opening without the damaged records");
                open(DBRecoveryMode::SkipAnyCorruptedRecord)
            }
            other => other,
        }
        .map_err(|source| TsdbError::Open { path: path.into(), source })?;
        let db = Db { db, path: path.into(), options, cache, recovery };
        db.check_format(o.read_only)?;
        Ok(db)
    }

    fn check_format(&self, read_only: bool) -> Result<(), TsdbError> {
        match self.get(Family::Meta, FORMAT_KEY)? {
            Some(found) if found == FORMAT.to_string().as_bytes() => Ok(()),
            Some(found) => Err(TsdbError::Version {
                path: self.path.clone(),
                found: String::from_utf8_lossy(&found).into_owned(),
                known: FORMAT,
            }),
            None if read_only => Ok(()),
            None => self.write([&Op::Put(Family::Meta, FORMAT_KEY.into(), FORMAT.to_string().into())]),
        }
    }

    fn cf(&self, family: Family) -> Result<Arc<BoundColumnFamily<'_>>, TsdbError> {
        self.db.cf_handle(family.name()).ok_or(TsdbError::NoFamily(family.name()))
    }

    pub fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, TsdbError> {
        self.db.get_cf(&self.cf(family)?, key).map_err(TsdbError::Read)
    }

    /// Writes all or nothing, to the log of the operating system (not synced).
    pub fn write<'a>(&self, ops: impl IntoIterator<Item = &'a Op>) -> Result<(), TsdbError> {
        let mut batch = WriteBatch::default();
        for op in ops {
            match op {
                Op::Put(f, k, v) => batch.put_cf(&self.cf(*f)?, k, v),
                Op::Merge(f, k, v) => batch.merge_cf(&self.cf(*f)?, k, v),
                Op::Delete(f, k) => batch.delete_cf(&self.cf(*f)?, k),
                Op::DeleteRange(f, from, to) => batch.delete_range_cf(&self.cf(*f)?, from, to),
            }
        }
        self.db.write_opt(batch, &WriteOptions::default()).map_err(TsdbError::Write)
    }

    /// Brings what was written to the device.
    pub fn sync(&self) -> Result<(), TsdbError> {
        self.db.flush_wal(true).map_err(TsdbError::Write)
    }

    /// Calls `each(key, value)` for the keys from `from` up to, not including, `to` (all from `from` on where `to`
    /// is `None`), in order, until it returns `false`.
    pub fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: Option<&[u8]>,
        mut each: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), TsdbError> {
        let mut read = rocksdb::ReadOptions::default();
        if let Some(to) = to {
            read.set_iterate_upper_bound(to);
        }
        let mut it = self.db.raw_iterator_cf_opt(&self.cf(family)?, read);
        it.seek(from);
        while let Some((key, value)) = it.item() {
            if !each(key, value) {
                break;
            }
            it.next();
        }
        it.status().map_err(TsdbError::Read)
    }

    /// Drops the files that lie wholly in the range, which frees their space at once.
    pub fn drop_files(&self, family: Family, from: &[u8], to: &[u8]) -> Result<(), TsdbError> {
        self.db.delete_file_in_range_cf(&self.cf(family)?, from, to).map_err(TsdbError::Write)
    }

    pub fn flush(&self, families: &[Family]) -> Result<(), TsdbError> {
        for family in families {
            self.db.flush_cf(&self.cf(*family)?).map_err(TsdbError::Write)?;
        }
        Ok(())
    }

    /// Rewrites a family without what was deleted.
    pub fn compact(&self, family: Family) -> Result<(), TsdbError> {
        let mut o = rocksdb::CompactOptions::default();
        o.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::ForceOptimized);
        self.db.compact_range_cf_opt(&self.cf(family)?, None::<&[u8]>, None::<&[u8]>, &o);
        Ok(())
    }

    /// Rewrites what lies before a key without what was deleted.
    pub fn compact_below(&self, family: Family, to: &[u8]) -> Result<(), TsdbError> {
        self.db.flush_cf(&self.cf(family)?).map_err(TsdbError::Write)?;
        self.db.compact_range_cf(&self.cf(family)?, None::<&[u8]>, Some(to));
        Ok(())
    }

    /// A copy in `path` that shares its table files by hard links.
    pub fn checkpoint(&self, path: &Path) -> Result<(), TsdbError> {
        rocksdb::checkpoint::Checkpoint::new(&self.db).and_then(|c| c.create_checkpoint(path)).map_err(TsdbError::Write)
    }

    /// Figures of one family by RocksDB's own property names.
    pub fn property(&self, family: Family, name: &str) -> Option<u64> {
        let cf = self.db.cf_handle(family.name())?;
        self.db.property_int_value_cf(&cf, name).ok().flatten()
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
        figures.insert("narthex_rocksdb_block_cache_bytes".into(), self.cache.get_usage() as f64);
        figures
    }
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Db({})", self.path.display())
    }
}
