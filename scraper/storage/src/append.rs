use std::sync::Arc;

use futures::future::BoxFuture;
use narthex_model::{Exemplar, Histogram, Labels, Metadata};

use crate::StorageError;

/// Names a group across restarts and hand-offs: the identity of a target or a rule group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupKey(pub Arc<str>);

/// The dense index of a series within its group's appender, from 0, never reused for another series while the appender
/// lives.
pub type Slot = u32;

/// Becomes ready when what was appended is in the log (written; synced at the sync interval), or with the error that
/// kept it out. Dropping it loses nothing.
pub type Durable = BoxFuture<'static, Result<(), StorageError>>;

/// Where samples go. The store implements it, and the in-memory store for tests.
pub trait Appendable: Send + Sync {
    /// The appender of one group. Taking a group that another appender holds takes it over.
    ///
    /// # Errors
    /// `Unavailable` when the store is closed or cannot write.
    fn group(&self, key: &GroupKey) -> Result<Box<dyn GroupAppender>, StorageError>;

    /// Samples with timestamps of their own: remote write, backfill. Each series is taken or refused by itself; the
    /// outcome counts what was refused, and why.
    ///
    /// # Errors
    /// Only what concerns the whole batch (`Unavailable`, `Limit`).
    fn write(&self, batch: &WriteBatch) -> Result<AppendOutcome, StorageError>;

    /// Where series are that were written, one for each of `labels`; `None` where a series is not there, or where the
    /// store does not tell. A store that does takes further samples by [`Appendable::write_placed`].
    fn places(&self, labels: &[&Labels]) -> Vec<Option<Place>>;

    /// [`Appendable::write`] for series whose places are known: samples are judged in their order. The indices of
    /// samples whose series is not in its place any more are added to `lost`, in ascending order: all samples of such
    /// a series, and none of them is stored.
    ///
    /// # Errors
    /// Only what concerns the whole batch (`Unavailable`, `Limit`).
    fn write_placed(&self, samples: &[PlacedSample], lost: &mut Vec<usize>) -> Result<AppendOutcome, StorageError>;

    /// Whether samples would all be taken, each judged by what is stored now, as Prometheus does before it takes any
    /// of a request. The indices of samples whose series is not in its place any more are added to `lost`, in
    /// ascending order; nothing is said of them.
    fn would_take(&self, placed: &[PlacedSample], lost: &mut Vec<usize>) -> bool {
        let _ = (placed, lost);
        true
    }

    /// What would be refused of a batch if each sample (and each of the `exemplars`, if that is asked) were judged by
    /// what is stored now, at most `most`, by series and within a series floats, histograms, exemplars. Nothing is
    /// stored.
    fn judge(&self, batch: &WriteBatch, exemplars: bool, most: usize) -> Vec<Refusal> {
        let _ = (batch, exemplars, most);
        Vec::new()
    }

    /// Counts what a caller refuses because it was judged so.
    fn count_refused(&self, refused: &[Refusal]) {
        let _ = refused;
    }

    /// Type, help and unit of metric names, kept durably; the newest wins.
    fn put_metadata(&self, entries: &[(String, Metadata)]);
}

/// Appends the scrapes of one group, in time order.
pub trait GroupAppender: Send {
    /// Makes a series known to the group. The same labels give the same slot.
    ///
    /// # Errors
    /// `Limit` when a budget for new series is exhausted: that series is left out, the others go on.
    fn register(&mut self, spec: SeriesSpec<'_>) -> Result<Slot, StorageError>;

    /// Appends one scrape: visible to queries when this returns, durable when [`AppendOutcome::durable`] resolves.
    ///
    /// A slot that had a value in the previous row and is neither in `slots` nor in `stale` simply has no sample here.
    ///
    /// # Errors
    /// `Unavailable` when the store cannot take it. Out-of-order and duplicate samples are counted, not errors.
    fn commit(&mut self, row: &ScrapeRow<'_>) -> Result<AppendOutcome, StorageError>;

    /// Whether a sample at a time of its own would be taken, by what the store has now: of the same row nothing counts.
    /// Pages are counted before they are stored, and a sample that is refused does not make its series known.
    fn takes(&self, _sample: &OwnSample) -> bool {
        true
    }

    /// Series that the group no longer exposes and that will not be appended again soon: the store may forget what
    /// it caches for them, and sooner or later their slots. Whoever exposes them again registers them again.
    fn retire(&mut self, slots: &[Slot]);
}

/// A series as it is registered.
#[derive(Clone, Copy, Debug)]
pub struct SeriesSpec<'a> {
    pub labels: &'a Labels,
    pub budget: Budget<'a>,
}

impl<'a> SeriesSpec<'a> {
    /// Under no limits but the store's own.
    pub fn new(labels: &'a Labels) -> SeriesSpec<'a> {
        SeriesSpec { labels, budget: Budget::default() }
    }
}

/// Under which limits a new series is taken, besides those that the store has itself. Limits of 0 are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget<'a> {
    /// Taken whatever the limits are, those of the store included: what a scraper says of a target itself.
    pub exempt: bool,
    /// Of the group.
    pub group: u64,
    /// Of all groups whose keys are `owner`, a slash and more. It has to be so for the group that registers.
    pub shared: u64,
    pub owner: &'a str,
}

/// One scrape of a group. All values share `timestamp`, but for `own`.
#[derive(Clone, Debug, Default)]
pub struct ScrapeRow<'a> {
    pub timestamp: i64,
    /// Counts up whenever `slots` differs from the previous row's: an equal non-zero value promises the very same
    /// slots, so that the store need not compare them. 0 promises nothing.
    pub layout: u64,
    /// The slot of each value, in page order, each at most once.
    pub slots: &'a [Slot],
    /// As long as `slots`.
    pub values: &'a [f64],
    /// Slots that get a staleness marker at `timestamp`.
    pub stale: &'a [Slot],
    /// Native histograms at `timestamp`.
    pub histograms: &'a [(Slot, Arc<Histogram>)],
    /// Samples that carry timestamps of their own.
    pub own: &'a [OwnSample],
    /// So many of `own` come before what the row has of the same series at `timestamp`, the others after it.
    pub own_first: usize,
    pub exemplars: &'a [(Slot, Exemplar)],
    /// Start ("created") timestamps of series for samples at `timestamp`, where they are to be kept: 0 for none.
    pub start_timestamps: &'a [(Slot, i64)],
    /// Counters that say when they started: they were 0 then.
    pub zeros: &'a [ZeroSample],
}

/// When the counter of one of a row's samples started. A sample of 0 goes there, before those of the row, if that is
/// before the sample, no more than an hour before the store's newest one, and later than what the series has.
#[derive(Clone, Debug, PartialEq)]
pub struct ZeroSample {
    pub slot: Slot,
    pub start: i64,
    /// The sample, where it is a histogram: the empty one gets its schema and bounds.
    pub like: Option<Arc<Histogram>>,
}

/// A sample of a series at its own time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OwnSample {
    pub slot: Slot,
    pub timestamp: i64,
    pub value: f64,
    pub histogram: Option<Arc<Histogram>>,
    /// The start timestamp that is kept with it; 0 for none.
    pub start: i64,
    /// Where a sample of 0 goes, as for a [`ZeroSample`]; 0 for none.
    pub zero: i64,
}

impl AppendOutcome {
    /// Adds what became of another append.
    pub fn absorb(&mut self, other: AppendOutcome) {
        self.appended += other.appended;
        self.out_of_order += other.out_of_order;
        self.duplicate += other.duplicate;
        self.too_old += other.too_old;
        self.too_new += other.too_new;
        self.exemplars += other.exemplars;
        self.exemplars_refused += other.exemplars_refused;
        self.first_refusal = self.first_refusal.take().or(other.first_refusal);
        self.durable = match (self.durable.take(), other.durable) {
            (Some(a), Some(b)) => Some(Box::pin(async move { a.await.and(b.await) })),
            (a, b) => a.or(b),
        };
    }
}

/// What became of an append.
#[derive(Default)]
pub struct AppendOutcome {
    /// Samples taken (floats and histograms, staleness markers not counted).
    pub appended: u64,
    /// Refused: older than the newest sample and outside the out-of-order window.
    pub out_of_order: u64,
    /// Refused: another value is stored at that timestamp. An equal one is silently accepted.
    pub duplicate: u64,
    /// Refused: older than the out-of-order window or than retention allows.
    pub too_old: u64,
    /// Refused: too far in the future.
    pub too_new: u64,
    /// Exemplars taken, and refused.
    pub exemplars: u64,
    pub exemplars_refused: u64,
    /// The first refused sample, in words, for a log line or a 400 answer.
    pub first_refusal: Option<String>,
    /// `None` where nothing had to be logged.
    pub durable: Option<Durable>,
}

/// A remote-write request or a part of a backfill.
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    pub series: Vec<WriteSeries>,
}

/// What would be refused of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which series of the batch.
    pub series: usize,
    pub item: Item,
    pub why: Why,
    /// The same in Prometheus's words.
    pub reason: String,
}

/// One of what a series of a batch brings, by its index. In the order in which Prometheus judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    Float(usize),
    Histogram(usize),
    Exemplar(usize),
}

/// Why something is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    OutOfOrder,
    Duplicate,
    TooOld,
}

/// Where a store keeps a series. It means something to that store only, and may cease to hold at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub group: u32,
    pub column: u32,
    pub series: u32,
}

/// A sample of a series at its own time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlacedSample {
    pub place: Place,
    pub timestamp: i64,
    pub value: f64,
}

/// Samples of one series, judged in their order: one that is older than its predecessor is out of order.
#[derive(Clone, Debug, Default)]
pub struct WriteSeries {
    pub labels: Labels,
    pub samples: Vec<(i64, f64)>,
    pub histograms: Vec<(i64, Arc<Histogram>)>,
    pub exemplars: Vec<Exemplar>,
    /// Start timestamps, parallel to `samples`; empty where unknown.
    pub start_timestamps: Vec<i64>,
    /// The same for `histograms`.
    pub histogram_starts: Vec<i64>,
    /// Whether samples of 0 go to the start timestamps, as for a [`ZeroSample`].
    pub zeros: bool,
}
