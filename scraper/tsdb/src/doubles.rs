//! Series that several groups have: two targets with the same labels. Where both have a sample at the same millisecond
//! only one is answered, and what differs is counted as a duplicate, as Prometheus counts it. Only rows are looked at.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::group::Group;
use crate::row::Layout;
use crate::series::SeriesId;

/// The series that are in several groups, with the newest sample that any of them brought.
#[derive(Default)]
pub struct Doubles {
    /// Counts up when a series comes or goes.
    version: AtomicU64,
    len: AtomicUsize,
    newest: Mutex<HashMap<SeriesId, (i64, u64), foldhash::fast::FixedState>>,
}

/// Which of a group's columns belong to such series, by their place in a layout.
#[derive(Default)]
pub struct Places {
    version: u64,
    layout: Option<Arc<Layout>>,
    places: Vec<(u32, SeriesId)>,
}

impl Doubles {
    /// Notes that a second group has the series.
    pub fn add(&self, id: SeriesId) {
        let mut newest = self.newest.lock();
        newest.entry(id).or_insert((i64::MIN, 0));
        self.len.store(newest.len(), Ordering::Relaxed);
        self.version.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that one group at most has the series.
    pub fn remove(&self, id: SeriesId) {
        let mut newest = self.newest.lock();
        if newest.remove(&id).is_some() {
            let room = newest.len() * 2;
            newest.shrink_to(room);
            self.len.store(newest.len(), Ordering::Relaxed);
            self.version.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn heap_bytes(&self) -> usize {
        self.newest.lock().allocation_size()
    }

    /// Of the row that was just appended to the group: how many values differ from what another group has at that time.
    pub fn count(&self, group: &mut Group, t: i64, values: &[f64]) -> u64 {
        if self.len.load(Ordering::Relaxed) == 0 {
            group.doubles = Places::default();
            return 0;
        }
        let Some(layout) = group.layout().cloned() else { return 0 };
        let mut newest = self.newest.lock();
        let version = self.version.load(Ordering::Relaxed);
        let known = group.doubles.layout.as_ref().is_some_and(|l| Arc::ptr_eq(l, &layout));
        if !known || group.doubles.version != version {
            let series = layout.iter().map(|c| group.columns.get(*c as usize).copied().unwrap_or(SeriesId::MAX));
            let places = (0u32..).zip(series).filter(|(_, id)| newest.contains_key(id)).collect();
            group.doubles = Places { version, layout: Some(layout), places };
        }
        let mut doubles = 0;
        for (place, id) in &group.doubles.places {
            let (Some(last), Some(v)) = (newest.get_mut(id), values.get(*place as usize)) else { continue };
            if t > last.0 {
                *last = (t, v.to_bits());
            } else if t == last.0 && v.to_bits() != last.1 {
                doubles += 1;
            }
        }
        doubles
    }
}
