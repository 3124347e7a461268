//! A group's way into the store: what a scrape of the gateway would store of it, as rows of a scrape group of its own.

use std::collections::HashSet;
use std::sync::Arc;

use narthex_model::{Histogram, LabelsBuilder};
use narthex_scrape::exposition::{Entry, PageParser, ProtobufOptions, ProtobufParser, RawLabels};
use narthex_storage::{AppendOutcome, Appendable, GroupAppender, GroupKey, ScrapeRow, SeriesSpec, Slot, StorageError};
use prost::Message;

use super::groups::Group;
use super::key::Key;

/// A series and its value.
pub enum Sample {
    Float(f64),
    Native(Arc<Histogram>),
}

pub type Samples = Vec<(narthex_model::Labels, Sample)>;

/// What a scrape with `honor_labels` stores of a group: empty labels are none, `le` and `quantile` as OpenMetrics has
/// them, native histograms rather than their classic buckets.
///
/// # Errors
/// When a scrape of it would fail.
pub fn samples(group: &Group) -> Result<Samples, String> {
    let mut page = Vec::new();
    for stored in group.families.values() {
        stored.family.encode_length_delimited(&mut page).map_err(|e| e.to_string())?;
    }
    let mut parser = ProtobufParser::new(&page, ProtobufOptions::default());
    let (mut out, mut raw) = (Samples::new(), RawLabels::default());
    while let Some(entry) = parser.next().map_err(|e| e.to_string())? {
        let sample = match entry {
            Entry::Series => Sample::Float(parser.value()),
            Entry::Histogram => {
                let histogram = parser.histogram().map_err(|e| e.to_string())?;
                parser.check_histogram(&histogram).map_err(|e| e.to_string())?;
                Sample::Native(histogram)
            }
            _ => continue,
        };
        parser.labels(&mut raw).map_err(|e| e.to_string())?;
        let mut labels = LabelsBuilder::new();
        for (name, value) in &raw.0 {
            labels.set(name.as_str(), value.as_str());
        }
        out.push((labels.build(), sample));
    }
    Ok(out)
}

/// Appends rows of one group.
pub struct Sink {
    appender: Box<dyn GroupAppender>,
    slots: Vec<Slot>,
    values: Vec<f64>,
    histograms: Vec<(Slot, Arc<Histogram>)>,
    /// Slots that get a staleness marker in the next row.
    stale: Vec<Slot>,
    layout: u64,
    last: i64,
    /// Series that the store refused.
    pub refused: usize,
}

impl Sink {
    /// # Errors
    /// When the store cannot write.
    pub fn open(store: &dyn Appendable, key: &Key) -> Result<Sink, StorageError> {
        let mut name = String::from("push");
        for (label, value) in key {
            name.push('/');
            narthex_model::Labels::push_text(&mut name, label, value);
        }
        Ok(Sink {
            appender: store.group(&GroupKey(Arc::from(name)))?,
            slots: Vec::new(),
            values: Vec::new(),
            histograms: Vec::new(),
            stale: Vec::new(),
            layout: 0,
            last: i64::MIN,
            refused: 0,
        })
    }

    fn live(&self) -> HashSet<Slot> {
        self.slots.iter().copied().chain(self.histograms.iter().map(|h| h.0)).collect()
    }

    /// From here on rows have these samples.
    pub fn set(&mut self, samples: &Samples) {
        let before = self.live();
        (self.slots, self.values, self.histograms, self.refused) = Default::default();
        let mut seen = HashSet::new();
        for (labels, sample) in samples {
            let slot = match self.appender.register(SeriesSpec::new(labels)) {
                Ok(slot) => slot,
                Err(_) => {
                    self.refused += 1;
                    continue;
                }
            };
            // Two series that differ by an empty label are one in the store; the first counts, as of a scraped page.
            if !seen.insert(slot) {
                continue;
            }
            match sample {
                Sample::Float(v) => {
                    self.slots.push(slot);
                    self.values.push(*v);
                }
                Sample::Native(h) => self.histograms.push((slot, h.clone())),
            }
        }
        self.stale.retain(|slot| !seen.contains(slot));
        self.stale.extend(before.into_iter().filter(|slot| !seen.contains(slot)));
        self.layout += 1;
    }

    /// Appends a row at `now`, in ms, or a moment later if there is one at that time.
    ///
    /// # Errors
    /// The store's; the next row says the same again.
    pub fn append(&mut self, now: i64) -> Result<AppendOutcome, StorageError> {
        let timestamp = if now == self.last { now + 1 } else { now };
        let outcome = self.appender.commit(&ScrapeRow {
            timestamp,
            layout: self.layout,
            slots: &self.slots,
            values: &self.values,
            stale: &self.stale,
            histograms: &self.histograms,
            ..ScrapeRow::default()
        })?;
        self.last = timestamp;
        let gone = std::mem::take(&mut self.stale);
        if !gone.is_empty() {
            self.appender.retire(&gone);
        }
        Ok(outcome)
    }

    /// Ends all series.
    ///
    /// # Errors
    /// The store's.
    pub fn end(mut self, now: i64) -> Result<AppendOutcome, StorageError> {
        self.set(&Samples::new());
        self.append(now)
    }
}
