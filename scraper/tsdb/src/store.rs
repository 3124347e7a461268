//! The store as a whole: what it holds, how it opens and closes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};

use crate::blocks::Directory;
use crate::budget::Budgets;
use crate::db::{Db, DbOptions, FAMILIES, Family, Op};
use crate::delete::Tombstones;
use crate::doubles::Doubles;
use crate::exemplars::Exemplars;
use crate::figures::Figures;
use crate::follow::Follow;
use crate::group::Group;
use crate::index::ActiveIndex;
use crate::maintain::Maintenance;
use crate::metadata::MetadataStore;
use crate::series::Registry;
use crate::side::Side;
use crate::writer::Writer;
use crate::{StoreOptions, TsdbError};

/// The groups, by key and by number. Numbers are dense.
#[derive(Default)]
pub(crate) struct Groups {
    pub by_key: HashMap<Arc<str>, u32, foldhash::fast::FixedState>,
    pub list: Vec<Option<Arc<Mutex<Group>>>>,
    /// Those that remote write made.
    pub remote: hashbrown::HashSet<u32, foldhash::fast::FixedState>,
}

impl Groups {
    pub fn get(&self, id: u32) -> Option<Arc<Mutex<Group>>> {
        self.list.get(id as usize)?.clone()
    }

    pub fn insert(&mut self, group: Group) -> Arc<Mutex<Group>> {
        let id = group.id as usize;
        self.by_key.insert(group.key.clone(), group.id);
        if crate::remote::is_remote(&group.key) {
            self.remote.insert(group.id);
        }
        if self.list.len() <= id {
            self.list.resize(id + 1, None);
        }
        let group = Arc::new(Mutex::new(group));
        self.list[id] = Some(group.clone());
        group
    }
}

/// Locks are taken in this order: `backfill`, `maintenance`, `groups`, one group, `side`, `directory`, `registry`, `tombstones`,
/// `exemplars`.
pub(crate) struct Inner {
    /// Some change while the store is open ([`Store::configure`]).
    pub options: RwLock<StoreOptions>,
    pub budgets: Budgets,
    pub doubles: Doubles,
    pub db: Arc<Db>,
    pub writer: Writer,
    pub follow: Arc<Follow>,
    pub groups: RwLock<Groups>,
    pub side: Mutex<Side>,
    pub registry: RwLock<Registry>,
    pub directory: Directory,
    pub cached: crate::cached::ReadCache,
    pub dead_days: crate::dead::Days,
    pub tombstones: RwLock<Tombstones>,
    pub exemplars: Mutex<Exemplars>,
    pub maintenance: Arc<Maintenance>,
    pub metadata: MetadataStore,
    pub backfill: Mutex<crate::backfill::Numbers>,
    /// The sequence number of the next log record.
    pub next_seq: AtomicU64,
    pub next_series: AtomicU32,
    /// Of the newest sample ever taken, whichever the series.
    pub max_time: AtomicI64,
    /// The first day whose dead series were not deleted by this process.
    pub dead_from: AtomicU32,
    pub closed: AtomicBool,
    pub figures: Figures,
    pub observer: crate::Observer,
}

impl Inner {
    pub fn seq(&self) -> u64 {
        self.next_seq.fetch_add(1, Ordering::Relaxed)
    }

    pub fn group(&self, id: u32) -> Option<Arc<Mutex<Group>>> {
        self.groups.read().get(id)
    }
}

/// The group store of one shard. Clones share it.
#[derive(Clone)]
pub struct Store {
    /// Goes before `inner`, so that the files are closed when the last store and appender are gone.
    _keeper: Arc<Keeper>,
    pub(crate) inner: Arc<Inner>,
}

/// Ends the maintenance thread with the last handle.
struct Keeper(Arc<Maintenance>);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Store {
    /// Opens the store in `options.path`, or makes a new one there. What was written before a crash is read back;
    /// all of it can be queried when this returns.
    ///
    /// # Errors
    /// When the folder cannot be used, is in use, or holds data of another format.
    pub fn open(options: StoreOptions) -> Result<Store, TsdbError> {
        let started = std::time::Instant::now();
        let cores = std::thread::available_parallelism().map_or(2, |n| n.get());
        let jobs = if options.background_jobs == 0 { cores.min(4) } else { options.background_jobs };
        let db = Arc::new(Db::open(
            &options.path,
            &DbOptions {
                block_cache_bytes: options.block_cache_bytes,
                head_buffer_bytes: options.head_buffer_bytes,
                background_jobs: jobs as i32,
                direct_reads: options.direct_reads,
                direct_writes: options.direct_writes,
                read_only: false,
            },
        )?);
        let follow = Arc::<Follow>::default();
        let writer = Writer::start(db.clone(), follow.clone(), options.sync_interval, options.observer.clone())?;
        let (cached, decoded) = (options.block_cache_bytes / 2, options.decoded_cache_bytes);
        let inner = Inner {
            metadata: MetadataStore::load(&db)?,
            exemplars: Mutex::new(Exemplars::load(&db, options.max_exemplars)?),
            observer: options.observer.clone(),
            options: RwLock::new(options),
            budgets: Budgets::default(),
            doubles: Doubles::default(),
            db,
            writer,
            follow,
            groups: RwLock::default(),
            side: Mutex::default(),
            registry: RwLock::new(Registry::of(ActiveIndex::default())),
            directory: Directory::default(),
            cached: crate::cached::ReadCache::new(cached, decoded),
            dead_days: crate::dead::Days::default(),
            tombstones: RwLock::default(),
            maintenance: Arc::default(),
            backfill: Mutex::default(),
            next_seq: AtomicU64::new(1),
            next_series: AtomicU32::new(1),
            max_time: AtomicI64::new(i64::MIN),
            dead_from: AtomicU32::new(0),
            closed: AtomicBool::new(false),
            figures: Figures::default(),
        };
        inner.figures.open_files_micros.store(started.elapsed().as_micros() as u64, Ordering::Relaxed);
        crate::recover::recover(&inner)?;
        inner.count_pools();
        let inner = Arc::new(inner);
        Maintenance::start(&inner)?;
        Ok(Store { _keeper: Arc::new(Keeper(inner.maintenance.clone())), inner })
    }

    /// Ends intake, writes what is in memory and closes the files. Further appends and queries fail.
    ///
    /// # Errors
    /// When something could not be written; it is still in the log then, unless the log itself failed.
    pub fn close(&self) -> Result<(), TsdbError> {
        if self.inner.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let inner = &self.inner;
        inner.follow.wake();
        inner.maintenance.stop();
        let _turn = inner.maintenance.turn();
        inner.settle_tails();
        let written = inner.close_all();
        inner.writer.stop();
        if written.is_ok() {
            let (needed, points) = inner.needed_when_closed();
            let needed = crate::record::head_key(needed.unwrap_or(u64::MAX));
            let unneeded = Op::DeleteRange(Family::Head, crate::record::head_key(0), needed.clone());
            inner.db.write(points.iter().chain([&unneeded]))?;
            inner.db.drop_files(Family::Head, &[], &needed)?;
            inner.db.flush(&FAMILIES)?;
            inner.db.compact(Family::Head)?;
        }
        inner.db.sync()?;
        written
    }

    /// Brings new values of what may change into force: the out-of-order window, retention, the number of exemplars, and
    /// the limits of series and memory. The rest of `options` is not looked at.
    pub fn configure(&self, options: &StoreOptions) {
        let mut own = self.inner.options.write();
        let before = own.clone();
        own.out_of_order_time_window = options.out_of_order_time_window;
        own.retention = options.retention;
        own.retention_size = options.retention_size;
        own.retention_percentage = options.retention_percentage;
        own.max_exemplars = options.max_exemplars;
        own.max_series = options.max_series;
        own.max_series_per_group = options.max_series_per_group;
        own.max_series_per_pool = options.max_series_per_pool;
        own.memory_budget = options.memory_budget;
        drop(own);
        if before.max_exemplars != options.max_exemplars {
            self.inner.exemplars.lock().resize(options.max_exemplars);
        }
    }

    /// Applies retention now; it happens by itself every few seconds.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn apply_retention(&self) -> Result<(), TsdbError> {
        let _turn = self.inner.maintenance.turn();
        self.inner.trim_log()?;
        self.inner.retain()
    }

    /// The jobs, or owners of several, of which new series are refused at present because of their own limits or their
    /// targets', with the reason in words.
    pub fn over_budget(&self) -> std::collections::BTreeMap<String, String> {
        self.inner.budgets.pools_over()
    }

    /// The store's own figures by metric name, labels included.
    pub fn figures(&self) -> std::collections::BTreeMap<String, f64> {
        self.inner.figure_map()
    }
}
