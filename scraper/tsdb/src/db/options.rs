//! The options of the database and of each column family, with the reasons for them.

use std::sync::Arc;

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, InfoLogger, LogLevel, Options};

use super::{DbOptions, Family, Recovery};

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
    Some(crate::index::partition::merge_ids(known.into_iter().chain(added.iter())))
}

pub(super) fn family_options(family: Family, o: &DbOptions, cache: &Cache) -> Options {
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
            // Keys begin with the partition: later partitions go behind earlier ones and are moved, not rewritten.
            cf.set_block_based_table_factory(&table(cache, 16 << 10, false));
        }
        Family::Exemplars => {
            // As the log: keys only grow, and go from the front.
            cf.set_write_buffer_size(1 << 20);
            cf.set_level_zero_file_num_compaction_trigger(1);
            cf.set_compression_type(DBCompressionType::Lz4);
            cf.set_block_based_table_factory(&table(cache, 32 << 10, false));
        }
        Family::Mirror => {
            // Read only at start and in repairs: no memory for it beyond what gathers.
            cf.set_write_buffer_size(2 << 20);
            cf.set_compression_type(DBCompressionType::Zstd);
            cf.set_block_based_table_factory(&table(cache, 32 << 10, false));
        }
        Family::Meta => {
            cf.set_write_buffer_size(1 << 20);
            cf.set_compression_type(DBCompressionType::Lz4);
            cf.set_block_based_table_factory(&table(cache, 4 << 10, false));
        }
    }
    cf
}

pub(super) fn db_options(o: &DbOptions, recovery: &Arc<Recovery>, mode: DBRecoveryMode) -> Options {
    let mut db = Options::default();
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    // Flushes and compactions share the cores with scrapes and queries.
    db.set_max_background_jobs(o.background_jobs);
    db.set_max_subcompactions(1);
    // Buffered by default: past the system's cache, neither writing (5.7 to 5.9 CPU-s for 60 million samples) nor reading
    // got cheaper, and reads of both kinds together got dearer; the cache gives way when memory is short, ours does not.
    db.set_use_direct_reads(o.direct_reads);
    db.set_use_direct_io_for_flush_and_compaction(o.direct_writes);
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
