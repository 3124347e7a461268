use std::sync::Arc;
use std::time::Duration;

use narthex_model::{Exemplar, Histogram, Labels};

use crate::StorageError;

/// Who can be followed: gives what was appended in the order in which it was, to those who pass it on elsewhere.
///
/// A *tail* has a name, and its place survives restarts. What a tail has not settled yet is kept, whatever happens to
/// windows meanwhile, up to the limits that the store was set up with. All of it blocks.
pub trait Followable: Send + Sync {
    /// The tail of this name, behind what it settled last. A new one begins with what is appended from now on. Opening
    /// one that is open takes it over: the other gets `Unavailable`.
    ///
    /// # Errors
    /// `Unavailable` when the store is closed or cannot write.
    fn tail(&self, name: &str) -> Result<Box<dyn Tail>, StorageError>;

    /// Names of all tails, sorted, whether open or not.
    fn tails(&self) -> Vec<String>;

    /// Forgets a tail: nothing is kept for it any more.
    ///
    /// # Errors
    /// `Unavailable` when the store cannot write.
    fn forget_tail(&self, name: &str) -> Result<(), StorageError>;
}

/// A place in what is appended.
pub trait Tail: Send {
    /// What comes next: about `most` samples at most (a row of a scrape is not cut unless it alone is more), in the
    /// order of appends. Only what is in the log is given. Where there is nothing new it waits as long as `wait`,
    /// and then gives an empty batch.
    ///
    /// # Errors
    /// `Unavailable` when the store is closed, or the tail was taken over; `Corrupt` never: what cannot be read is
    /// counted as missed.
    fn next(&mut self, most: usize, wait: Duration) -> Result<Tailed, StorageError>;

    /// Everything up to `position` ([`Tailed::position`]) needs not be given again, after a restart neither. Positions
    /// only grow; an older one does nothing. It is durable within a second, without being waited for: after a `kill -9`
    /// a tail may give again what was settled in the last second.
    fn settle(&mut self, position: u64);

    /// How far behind it is.
    fn lag(&self) -> TailLag;
}

/// What a tail gives.
#[derive(Clone, Debug, Default)]
pub struct Tailed {
    /// Series that samples of this batch or later ones belong to, each told once before its first sample, with its
    /// number: small, unique among those that were told and have not gone. What two groups have are two series.
    pub series: Vec<(u32, Labels)>,
    /// In the order of appends. Staleness markers included; what was refused is not.
    pub samples: Vec<TailSample>,
    pub exemplars: Vec<(u32, Exemplar)>,
    /// Numbers that will not come any more, after this batch; they may be given to other series then.
    pub gone: Vec<u32>,
    /// Behind the last of the batch.
    pub position: u64,
    /// Log records that should have come here and are not there any more, or cannot be read.
    pub missed: u64,
}

/// One sample of a series.
#[derive(Clone, Debug)]
pub struct TailSample {
    /// As told by [`Tailed::series`].
    pub series: u32,
    pub timestamp: i64,
    /// When what it counts began, in ms; 0 where that is not known.
    pub start: i64,
    pub value: TailValue,
}

#[derive(Clone, Debug)]
pub enum TailValue {
    Float(f64),
    Histogram(Arc<Histogram>),
}

/// How far behind a tail is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TailLag {
    /// Log records not read yet.
    pub records: u64,
    /// Bytes of the log that are kept for it and for nothing else; an estimate.
    pub bytes: u64,
}
