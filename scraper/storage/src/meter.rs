//! What a question reads and holds in memory, and when that is enough.
//!
//! Whoever asks puts a [`Meter`] into the request; whoever answers tells it what is found and held, before that is made
//! where it can be known before. A default meter counts nothing and lets all pass, so that nobody has to have one.
//! What is told is about right, not exact: sizes of containers, not of what the allocator makes of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use crate::{ErrorKind, StorageError};

/// A limit.
#[derive(Clone, Debug, Default)]
pub struct Bound {
    /// 0: none.
    pub most: usize,
    /// What the message says of where the limit comes from.
    pub hint: Arc<str>,
}

/// Memory that several questions share. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct MemoryPool(Arc<PoolInner>);

#[derive(Debug, Default)]
struct PoolInner {
    bound: Bound,
    used: AtomicUsize,
}

impl MemoryPool {
    pub fn new(bound: Bound) -> MemoryPool {
        MemoryPool(Arc::new(PoolInner { bound, used: AtomicUsize::new(0) }))
    }

    /// Bytes that are held now.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) -> Result<(), StorageError> {
        add_within(&self.0.used, bytes, &self.0.bound).map(|_| ()).ok_or_else(|| self.full())
    }

    fn full(&self) -> StorageError {
        let Bound { most, hint } = &self.0.bound;
        let text = format!("queries together would hold more than {most} bytes in memory ({hint})");
        StorageError::new(ErrorKind::Limit, text)
    }

    fn give(&self, bytes: usize) {
        self.0.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Adds unless that is more than the bound; the sum.
fn add_within(used: &AtomicUsize, more: usize, bound: &Bound) -> Option<usize> {
    let fits = |now: usize| now.checked_add(more).filter(|sum| bound.most == 0 || *sum <= bound.most);
    used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok().map(|before| before + more)
}

/// What is left of a bound.
fn left(used: &AtomicUsize, bound: &Bound) -> usize {
    match bound.most {
        0 => usize::MAX,
        most => most.saturating_sub(used.load(Ordering::Relaxed)),
    }
}

/// What a meter holds a question to.
#[derive(Clone, Debug, Default)]
pub struct MeterOptions {
    /// Series found, each as often as a selector finds it.
    pub series: Bound,
    /// Bytes held at once.
    pub bytes: Bound,
    /// What it holds is held in each of them, too.
    pub pools: Vec<MemoryPool>,
    pub deadline: Option<Instant>,
    /// Set by somebody who no longer wants the answer.
    pub cancel: Option<Arc<AtomicBool>>,
}

/// Counts for one question. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Meter(Option<Arc<MeterInner>>);

#[derive(Debug)]
struct MeterInner {
    options: MeterOptions,
    series: AtomicUsize,
    bytes: AtomicUsize,
    peak: AtomicUsize,
}

/// Who counts makes no difference to what is asked.
impl PartialEq for Meter {
    fn eq(&self, _: &Meter) -> bool {
        true
    }
}

impl Eq for Meter {}

impl MeterInner {
    fn full(&self) -> StorageError {
        let Bound { most, hint } = &self.options.bytes;
        let text = format!("the query would hold more than {most} bytes in memory ({hint})");
        StorageError::new(ErrorKind::Limit, text)
    }
}

impl Drop for MeterInner {
    fn drop(&mut self) {
        let left = *self.bytes.get_mut();
        self.options.pools.iter().for_each(|p| p.give(left));
    }
}

impl Meter {
    pub fn new(options: MeterOptions) -> Meter {
        let zero = || AtomicUsize::new(0);
        Meter(Some(Arc::new(MeterInner { options, series: zero(), bytes: zero(), peak: zero() })))
    }

    /// So many series more.
    ///
    /// # Errors
    /// `Limit`.
    pub fn series(&self, more: usize) -> Result<(), StorageError> {
        let Some(inner) = &self.0 else { return Ok(()) };
        let Bound { most, hint } = &inner.options.series;
        if add_within(&inner.series, more, &inner.options.series).is_none() {
            let text = format!("the query would read more than {most} series ({hint})");
            return Err(StorageError::new(ErrorKind::Limit, text));
        }
        Ok(())
    }

    /// So many bytes more are held, or will be.
    ///
    /// # Errors
    /// `Limit`; then they count as not held.
    pub fn take(&self, bytes: usize) -> Result<(), StorageError> {
        let Some(inner) = &self.0 else { return Ok(()) };
        let now = add_within(&inner.bytes, bytes, &inner.options.bytes).ok_or_else(|| inner.full())?;
        for (i, pool) in inner.options.pools.iter().enumerate() {
            if let Err(e) = pool.take(bytes) {
                inner.options.pools.iter().take(i).for_each(|p| p.give(bytes));
                inner.bytes.fetch_sub(bytes, Ordering::Relaxed);
                return Err(e);
            }
        }
        inner.peak.fetch_max(now, Ordering::Relaxed);
        Ok(())
    }

    /// Bytes that may be taken yet.
    pub fn room(&self) -> usize {
        let Some(inner) = &self.0 else { return usize::MAX };
        let own = left(&inner.bytes, &inner.options.bytes);
        inner.options.pools.iter().map(|p| left(&p.0.used, &p.0.bound)).fold(own, usize::min)
    }

    /// What is said when there was no room.
    pub fn full(&self) -> StorageError {
        let Some(inner) = &self.0 else { return StorageError::new(ErrorKind::Limit, "too many bytes in memory") };
        let own = left(&inner.bytes, &inner.options.bytes);
        let tightest = inner.options.pools.iter().min_by_key(|p| left(&p.0.used, &p.0.bound));
        match tightest.filter(|p| left(&p.0.used, &p.0.bound) < own) {
            Some(pool) => pool.full(),
            None => inner.full(),
        }
    }

    /// From here on series are counted anew: the same is asked once more.
    pub fn begin_anew(&self) {
        if let Some(inner) = &self.0 {
            inner.series.store(0, Ordering::Relaxed);
        }
    }

    /// So many of the bytes that were taken are let go.
    pub fn give(&self, bytes: usize) {
        let Some(inner) = &self.0 else { return };
        inner.bytes.fetch_sub(bytes, Ordering::Relaxed);
        inner.options.pools.iter().for_each(|p| p.give(bytes));
    }

    /// Bytes that are given back when the result is dropped.
    ///
    /// # Errors
    /// `Limit`.
    pub fn hold(&self, bytes: usize) -> Result<HeldBytes, StorageError> {
        let mut held = self.hold_nothing();
        held.add(bytes)?;
        Ok(held)
    }

    /// No bytes yet.
    pub fn hold_nothing(&self) -> HeldBytes {
        HeldBytes { meter: self.clone(), bytes: 0, told: 0 }
    }

    /// Whether the answer is still wanted.
    ///
    /// # Errors
    /// `Cancelled` and `Timeout`.
    pub fn check(&self) -> Result<(), StorageError> {
        let Some(inner) = &self.0 else { return Ok(()) };
        if inner.options.cancel.as_ref().is_some_and(|c| c.load(Ordering::Relaxed)) {
            return Err(StorageError::new(ErrorKind::Cancelled, "the query was canceled"));
        }
        if inner.options.deadline.is_some_and(|d| Instant::now() >= d) {
            return Err(StorageError::new(ErrorKind::Timeout, "the query timed out"));
        }
        Ok(())
    }

    /// Series found so far.
    pub fn series_found(&self) -> usize {
        self.0.as_ref().map_or(0, |inner| inner.series.load(Ordering::Relaxed))
    }

    /// The most bytes that were held at once.
    pub fn peak_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |inner| inner.peak.load(Ordering::Relaxed))
    }
}

/// Bytes held, given back on drop.
#[derive(Debug)]
pub struct HeldBytes {
    meter: Meter,
    bytes: usize,
    /// As many of them the meter knows of: it is told in larger steps.
    told: usize,
}

/// Steps in which meters are told, so that small questions and small pieces cost next to nothing.
const STEP: usize = 64 << 10;

impl HeldBytes {
    /// So many more.
    ///
    /// # Errors
    /// `Limit`, and as [`Meter::check`], which is asked now and then.
    pub fn add(&mut self, bytes: usize) -> Result<(), StorageError> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes <= self.told {
            return Ok(());
        }
        let more = (self.bytes - self.told).max(STEP);
        self.meter.check()?;
        self.meter.take(more)?;
        self.told += more;
        Ok(())
    }

    /// So many in all, from now on.
    ///
    /// # Errors
    /// As [`HeldBytes::add`].
    pub fn keep(&mut self, bytes: usize) -> Result<(), StorageError> {
        let less = self.bytes.saturating_sub(bytes);
        self.sub(less);
        self.add(bytes.saturating_sub(self.bytes))
    }

    /// So many less.
    pub fn sub(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        let spare = self.told - self.bytes.min(self.told);
        if spare >= 4 * STEP {
            self.meter.give(spare);
            self.told -= spare;
        }
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        if self.told > 0 {
            self.meter.give(self.told);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(most: usize, hint: &str) -> Bound {
        Bound { most, hint: hint.into() }
    }

    #[test]
    fn limits_hold_and_what_is_held_is_given_back() {
        let (class, all) = (MemoryPool::new(bound(2 << 20, "class")), MemoryPool::new(bound(3 << 20, "all")));
        let meter = |bytes: usize| {
            let pools = vec![class.clone(), all.clone()];
            Meter::new(MeterOptions { series: bound(10, "s"), bytes: bound(bytes, "b"), pools, ..Default::default() })
        };
        let (a, b) = (meter(1 << 20), meter(0));
        assert!(a.series(10).is_ok());
        let e = a.series(1).unwrap_err();
        assert_eq!(
            (e.kind, e.to_string()),
            (ErrorKind::Limit, "the query would read more than 10 series (s)".to_owned())
        );
        let mut held = a.hold(1000).unwrap();
        assert_eq!((class.used(), all.used()), (STEP, STEP));
        held.add(500_000).unwrap();
        assert!(held.add(1 << 20).unwrap_err().to_string().ends_with("1048576 bytes in memory (b)"));
        assert!(b.take(2 << 20).unwrap_err().to_string().contains("together would hold more than 2097152"));
        let used = class.used();
        assert!((501_000..700_000).contains(&used) && used == all.used(), "{used}");
        drop(held);
        assert_eq!((class.used(), all.used()), (0, 0));
        b.take(1 << 20).unwrap();
        drop(b);
        assert_eq!((class.used(), all.used(), a.peak_bytes() >= 501_000), (0, 0, true));
    }

    #[test]
    fn giving_back_follows_and_who_is_not_wanted_stops() {
        let all = MemoryPool::new(Bound::default());
        let cancel = Arc::new(AtomicBool::new(false));
        let meter = |deadline| {
            let (pools, cancel) = (vec![all.clone()], Some(cancel.clone()));
            Meter::new(MeterOptions { pools, cancel, deadline, ..Default::default() })
        };
        let m = meter(None);
        let mut held = m.hold(10 << 20).unwrap();
        held.sub((10 << 20) - 5);
        assert!(all.used() < 8 * STEP, "{}", all.used());
        held.add(100).unwrap();
        assert!(m.check().is_ok());
        assert_eq!(meter(Some(Instant::now())).check().unwrap_err().kind, ErrorKind::Timeout);
        cancel.store(true, Ordering::Relaxed);
        assert_eq!(m.check().unwrap_err().kind, ErrorKind::Cancelled);
        assert!(Meter::default().check().is_ok() && Meter::default().take(usize::MAX).is_ok());
    }
}
