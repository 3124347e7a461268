//! What of a request would be taken, before any of it is: Prometheus judges all samples of a request by what it has,
//! and takes nothing of a 1.0 request in which one fails.
//!
//! Samples are judged here as they are when they are taken ([`crate::append`]), but each by itself: what contradicts
//! only the request is found, and left out quietly, when it is taken.

use std::sync::atomic::Ordering;

use narthex_model::number::format_g;
use narthex_storage::{Item, PlacedSample, Refusal, Why, WriteBatch};

use crate::group::Group;
use crate::record::SideValue;
use crate::series::SeriesId;
use crate::store::Inner;

/// How a sample stands against what its series has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Later than all, or the series has none.
    New,
    /// At the time of what blocks have last: which of a page's samples they have only they know.
    Unknown,
    /// The newest sample again.
    Same,
    /// Another value than that of the newest sample, whose bits are here if it is a float.
    Other(Option<u64>),
    /// Older than the newest sample, which is of this time.
    Late(i64),
}

impl Inner {
    fn newest_in_memory(&self, group: &Group, id: SeriesId, column: u32) -> Option<(i64, Option<u64>)> {
        let beside = self.side.lock().series.get(&id).and_then(|s| s.last);
        let in_rows =
            group.last_sample(column).or_else(|| group.newest_row_sample(column)).map(|(t, v)| (t, Some(v.to_bits())));
        in_rows.into_iter().chain(beside).max_by_key(|l| l.0)
    }

    /// The time of the newest sample that the column's series has in order; the least where it has none.
    pub(crate) fn newest_of(&self, group: &Group, column: u32) -> i64 {
        let id = group.columns.get(column as usize).copied().unwrap_or(crate::group::NO_SERIES);
        // A series that is not new has samples in blocks, none of them later than the group's last closed window.
        let in_blocks = || if group.fresh.contains(&column) { i64::MIN } else { group.floor };
        self.newest_in_memory(group, id, column).map_or_else(in_blocks, |newest| newest.0)
    }

    pub(crate) fn standing(&self, group: &Group, id: SeriesId, column: u32, t: i64, value: &SideValue) -> Standing {
        let Some((last, bits)) = self.newest_in_memory(group, id, column) else {
            return match self.newest_of(group, column) {
                last if t > last || group.fresh.contains(&column) => Standing::New,
                last if t == last => Standing::Unknown,
                last => Standing::Late(last),
            };
        };
        if t != last {
            return if t > last { Standing::New } else { Standing::Late(last) };
        }
        let same = match value {
            SideValue::Float(v) => bits == Some(v.to_bits()),
            SideValue::Histogram(h) => {
                let side = self.side.lock();
                let known = side.series.get(&id).and_then(|s| {
                    let at = s.histograms.binary_search_by_key(&t, |e| e.0).ok()?;
                    Some(&s.histograms[at].1)
                });
                known.is_some_and(|known| known == h || known.same_data(h))
            }
            SideValue::Start(_) => true,
        };
        if same { Standing::Same } else { Standing::Other(bits) }
    }

    /// Whether and why a sample at `t` is refused that is older than its series' newest.
    pub(crate) fn lateness(&self, t: i64, newest_of_all: i64) -> Option<Why> {
        let allowed = self.options.read().out_of_order_time_window.as_millis() as i64;
        match allowed {
            0 => Some(Why::OutOfOrder),
            _ if t < newest_of_all.saturating_sub(allowed) => Some(Why::TooOld),
            _ => None,
        }
    }

    /// Why a sample would be refused.
    fn refusal(&self, group: &Group, id: SeriesId, column: u32, t: i64, value: &SideValue) -> Option<(Why, String)> {
        let duplicate = "duplicate sample for timestamp";
        match self.standing(group, id, column, t, value) {
            Standing::New | Standing::Unknown | Standing::Same => None,
            Standing::Late(_) => match self.lateness(t, self.max_time.load(Ordering::Relaxed))? {
                Why::TooOld => Some((Why::TooOld, "too old sample".into())),
                why => Some((why, "out of order sample".into())),
            },
            Standing::Other(bits) => {
                let text = match value {
                    SideValue::Float(new) if t != 0 => {
                        let existing = match bits {
                            Some(bits) => format_g(f64::from_bits(bits)),
                            None => "is a histogram".into(),
                        };
                        format!(
                            "{duplicate} {t}; overrides not allowed: existing {existing}, new value {}",
                            format_g(*new)
                        )
                    }
                    _ => duplicate.into(),
                };
                Some((Why::Duplicate, text))
            }
        }
    }
}

/// [`narthex_storage::Appendable::would_take`].
pub(crate) fn would_take(inner: &Inner, samples: &[PlacedSample], lost: &mut Vec<usize>) -> bool {
    let mut at = 0;
    while let Some(first) = samples.get(at) {
        let number = first.place.group;
        let len = samples[at..].iter().take_while(|s| s.place.group == number).count();
        let part = at..at + len;
        at += len;
        let Some(group) = inner.group(number) else {
            lost.extend(part);
            continue;
        };
        let group = group.lock();
        let later = if group.ahead.is_empty() { group.last_time } else { i64::MAX };
        let mut stale = None;
        for i in part {
            let PlacedSample { place, timestamp: t, value } = samples[i];
            if group.columns.get(place.column as usize) != Some(&place.series) {
                lost.push(i);
                continue;
            }
            if t > later {
                continue;
            }
            // The rest of a page.
            if t == group.last_time
                && group.may_join(place.column, stale.get_or_insert_with(|| group.window.newest_stale()))
            {
                continue;
            }
            let value = SideValue::Float(value);
            if inner.refusal(&group, place.series, place.column, t, &value).is_some() {
                return false;
            }
        }
    }
    true
}

/// [`narthex_storage::Appendable::judge`].
pub(crate) fn judge(inner: &Inner, batch: &WriteBatch, exemplars: bool, most: usize) -> Vec<Refusal> {
    let mut refused = Vec::new();
    let homes = crate::remote::homes(inner, batch);
    let of = |i: usize| homes[i].map(|(_, home)| home.group);
    let mut next = 0;
    while next < homes.len() && refused.len() < most {
        let number = of(next);
        let part = next..next + (next..homes.len()).take_while(|i| of(*i) == number).count();
        next = part.end;
        let group = number.and_then(|n| inner.group(n));
        let group = group.as_ref().map(|g| g.lock());
        for i in part {
            let series = &batch.series[i];
            let mut refuse = |item, refusal: Option<(Why, String)>| {
                if let Some((why, reason)) = refusal.filter(|_| refused.len() < most) {
                    refused.push(Refusal { series: i, item, why, reason });
                }
            };
            if let (Some(group), Some((id, home))) = (&group, homes[i])
                && group.columns.get(home.column as usize) == Some(&id)
            {
                let later = if group.ahead.is_empty() { group.last_time } else { i64::MAX };
                let refusal = |t: i64, value: &dyn Fn() -> SideValue| {
                    if t > later { None } else { inner.refusal(group, id, home.column, t, &value()) }
                };
                for (at, (t, v)) in series.samples.iter().enumerate() {
                    refuse(Item::Float(at), refusal(*t, &|| SideValue::Float(*v)));
                }
                for (at, (t, h)) in series.histograms.iter().enumerate() {
                    refuse(Item::Histogram(at), refusal(*t, &|| SideValue::Histogram(h.clone())));
                }
            }
            for (at, exemplar) in series.exemplars.iter().enumerate().filter(|_| exemplars) {
                if inner.exemplars.lock().is_late(&series.labels, exemplar) {
                    refuse(Item::Exemplar(at), Some((Why::OutOfOrder, "out of order exemplar".into())));
                }
            }
        }
    }
    refused
}

/// Counts what was judged so and is not taken.
pub(crate) fn count(inner: &Inner, refused: &[Refusal]) {
    let figures = &inner.figures;
    for refusal in refused {
        let histogram = matches!(refusal.item, Item::Histogram(_));
        let counter = match (refusal.why, histogram) {
            _ if matches!(refusal.item, Item::Exemplar(_)) => &figures.exemplars_refused,
            (Why::Duplicate, _) => &figures.duplicates,
            (Why::TooOld, false) => &figures.too_old,
            (Why::TooOld, true) => &figures.histograms_too_old,
            (Why::OutOfOrder, false) => &figures.out_of_order,
            (Why::OutOfOrder, true) => &figures.histograms_out_of_order,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
