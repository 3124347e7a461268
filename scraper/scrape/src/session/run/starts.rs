//! Samples of series that do not say when they began, told from a beginning that is made up (`st-synthesis`).

use std::sync::Arc;

use narthex_model::Histogram;

use super::{PageError, Read, Run};
use crate::exposition::PageParser;
use crate::session::find::Known;
use crate::session::shape::{DUPLICATE, HELD, Line, UNKNOWN};
use crate::session::synthesis;

/// What became of a sample whose start is made up.
pub(super) enum Told {
    /// Nothing is made up.
    AsRead,
    /// It is the first of its series, and not stored.
    First,
    /// A histogram of too many buckets.
    TooLarge,
    /// Told from this time on.
    From(i64, Option<Arc<Histogram>>),
}

impl Run<'_> {
    /// The sample told from the beginning of its series, where that is made up.
    pub(super) fn told(
        &mut self,
        parser: &mut dyn PageParser,
        read: &mut Read,
        known: Known,
        own: Option<i64>,
    ) -> Result<Told, PageError> {
        let seen = match &self.changed {
            None => known.flags & DUPLICATE != 0,
            Some(changed) => known.flags & UNKNOWN == 0 && changed.is_marked(known.slot),
        };
        if own.is_none() && seen {
            // It counts for the series that its text stands for twice.
            self.synthesis.forget(read.key);
            return Ok(Told::AsRead);
        }
        if !self.synthesis.knows(read.key) && !self.is_counted(parser) {
            return Ok(Told::AsRead);
        }
        let histogram = if read.histogram { Some(self.histogram(parser)?) } else { None };
        let told = self.synthesis.tell(read.key, own.unwrap_or(self.timestamp), read.value, histogram);
        if told.first {
            return Ok(Told::First);
        }
        read.value = told.value;
        match told.histogram.map(|h| self.within_limits(h)).transpose()? {
            Some(None) => {
                self.synthesis.forget(read.key);
                Ok(Told::TooLarge)
            }
            reduced => Ok(Told::From(told.start, reduced.flatten())),
        }
    }

    /// Whether the sample is of a counter or histogram, by what the page described last.
    pub(super) fn is_counted(&mut self, parser: &dyn PageParser) -> bool {
        let kind = self.metadata.get(&self.family).and_then(|d| d.metric_type);
        let Some(kind) = kind.or_else(|| (self.known_type)(&self.family)) else { return false };
        let mut raw = std::mem::take(&mut self.raw);
        let labels = parser.labels(&mut raw).ok().and_then(|()| self.rules.labels(&raw).ok().flatten());
        self.raw = raw;
        labels.is_some_and(|labels| synthesis::is_counted(labels.metric_name(), &self.family, kind))
    }

    /// Notes a series whose first sample is not stored.
    pub(super) fn hold(&mut self, read: &Read, known: Known, flags: u16, is_new: bool) -> bool {
        let flags = flags | HELD;
        let before = self.old.lines.get(known.index as usize).map(|l| l.flags);
        if before != Some(flags) || known.index as usize != self.cursor {
            self.change();
        }
        if let Some(changed) = &mut self.changed {
            changed.mark(known.slot);
            changed.lines.push(Line { key: read.key, slot: known.slot, len: read.len, flags });
        }
        self.counts.added += 1;
        self.counts.repeated += 1;
        if is_new {
            self.count_new(read.key);
        }
        true
    }

    /// Whether an unknown series' sample is one that [`Run::hold`] is for.
    pub(super) fn is_first(&mut self, parser: &mut dyn PageParser, read: &Read) -> bool {
        let starts = self.rules.start_zeros || self.rules.start_storage;
        let says_so = starts && parser.start_timestamp() != 0;
        !says_so && !self.synthesis.knows(read.key) && self.is_counted(parser)
    }
}
