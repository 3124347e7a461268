//! What becomes of a sample that the parser read: whose series it is, whether it is taken, where it goes in the row.

use std::sync::Arc;

use narthex_model::histogram::CUSTOM_BUCKETS_SCHEMA;
use narthex_model::{Exemplar, Histogram, METRIC_NAME};
use narthex_storage::{ErrorKind, OwnSample, SeriesSpec, Slot, ZeroSample};

use super::starts::Told;
use super::{Fault, PageError, Read, Run};
use crate::exposition::{PageParser, ParseError, RawLabels};
use crate::histogram;
use crate::session::find::Known;
use crate::session::labels::SeriesFault;
use crate::session::shape::{
    DROPPED, DUPLICATE, FOLLOWED, HISTOGRAM, LATE, Line, NO_SLOT, OWN, REFUSED, SPELLED, TOO_NEW, UNKNOWN,
};

/// Samples further ahead of the scrape than this are dropped.
const MAX_AHEAD_MS: i64 = 10 * 60 * 1000;

/// Samples older than this against the scrape that the store would refuse are not even given to it.
const MAX_BEHIND_MS: i64 = 60 * 60 * 1000;

/// Exemplars of a scrape beyond this many are left out.
const MAX_EXEMPLARS: usize = 100_000;

/// Label names and values of an exemplar together have at most this many characters, by the OpenMetrics standard.
const MAX_EXEMPLAR_CHARS: usize = 128;

/// Adds the labels for type and unit. What a page says of a series by comments and by its name counts more than labels
/// that say it, too. A series that is known by its text keeps those that it had when it came (as in Prometheus).
fn add_type_and_unit(parser: &dyn PageParser, raw: &mut RawLabels) {
    let unit = String::from_utf8_lossy(parser.current_unit());
    let name = raw.value(METRIC_NAME).to_owned();
    let name = (!name.is_empty()).then_some((METRIC_NAME, name.as_str()));
    for (label, value) in name.into_iter().chain(parser.series_type().labels(&unit)) {
        raw.0.retain(|(n, _)| n != label);
        raw.0.push((label.to_owned(), value.to_owned()));
    }
    // The name stands first.
    raw.0.sort_by_key(|(n, _)| n != METRIC_NAME);
}

impl Run<'_> {
    /// A sample that the parser read: known from the old page, from this one, or new.
    pub(super) fn sample(&mut self, parser: &mut dyn PageParser, read: Read, comment: u16) -> Result<(), PageError> {
        self.counts.total += 1;
        let known = match self.old.lines.get(self.cursor) {
            Some(line) if line.key == read.key => Some(Known::at(self.cursor, line)),
            _ => self.finder.find(&self.old.lines, self.cursor, read.key),
        };
        match known {
            Some(known) if known.flags & REFUSED == 0 || !self.retry => {
                if known.index != u32::MAX && known.index as usize != self.cursor {
                    // The old page goes on elsewhere.
                    self.change();
                    self.cursor = known.index as usize;
                }
                self.place(parser, read, comment, known, None)?;
                if known.index != u32::MAX {
                    self.cursor = known.index as usize + 1;
                }
                Ok(())
            }
            _ => self.unknown(parser, read, comment),
        }
    }

    /// A series that was not on the old page.
    pub(super) fn unknown(&mut self, parser: &mut dyn PageParser, read: Read, comment: u16) -> Result<(), PageError> {
        let mut raw = std::mem::take(&mut self.raw);
        if parser.labels(&mut raw).is_err() {
            let message = self.rules.invalid_names(parser.label_bytes());
            return Err(PageError { fault: Fault::Parse, message });
        }
        if self.rules.type_and_unit {
            add_type_and_unit(parser, &mut raw);
        }
        let labels = self.rules.labels(&raw);
        self.raw = raw;
        let labels = match labels {
            Err(e) if e.kind == SeriesFault::Limit => {
                return Err(PageError { fault: Fault::LabelLimit, message: e.message });
            }
            Err(e) if e.kind == SeriesFault::Labels => {
                return Err(PageError { fault: Fault::Parse, message: e.message });
            }
            Err(e) => Err(e.message),
            Ok(labels) => Ok(labels),
        };
        self.change();
        let key = read.key;
        let mut ready = None;
        let mut known = Known { index: u32::MAX, slot: NO_SLOT, flags: UNKNOWN };
        match labels {
            Ok(None) => known.flags = DROPPED,
            to_store => {
                if read.histogram {
                    // Its buckets are counted before it is.
                    ready = self.reduced(parser)?;
                    if ready.is_none() {
                        return Ok(());
                    }
                }
                // What is not stored does not count.
                let held = self.rules.start_synthesis && self.is_first(parser, &read);
                if !held && self.over_limit(self.counts.added + 1) {
                    self.sample_limit_hit = true;
                    self.counts.added += 1;
                    return Ok(());
                }
                let labels = match to_store {
                    Ok(labels) => labels.unwrap_or_default(),
                    Err(message) => return self.unstorable(parser, &read, ready.as_deref(), message),
                };
                match self.appender.register(SeriesSpec { labels: &labels, budget: self.rules.budget() }) {
                    Ok(slot) => {
                        known.slot = slot;
                        if self.changed.as_ref().is_some_and(|c| c.is_marked(slot)) {
                            known.flags |= SPELLED;
                        }
                    }
                    Err(e) if e.kind == ErrorKind::Limit => {
                        self.refusal.get_or_insert(e.message);
                        known.flags = REFUSED;
                    }
                    Err(e) => return Err(PageError { fault: Fault::Storage, message: e.to_string() }),
                }
            }
        }
        if self.place(parser, read, comment, known, ready)? {
            known.flags &= !UNKNOWN;
        }
        known.flags &= !SPELLED;
        self.finder.note(key, known);
        Ok(())
    }

    /// A series that no store takes, for this reason, unless its sample is refused for another one before.
    pub(super) fn unstorable(
        &mut self,
        parser: &dyn PageParser,
        read: &Read,
        histogram: Option<&Histogram>,
        message: String,
    ) -> Result<(), PageError> {
        let own = read.timestamp.filter(|_| self.rules.honor_timestamps);
        let now = self.timestamp;
        let too_new = own.is_some_and(|t| t > now.saturating_add(MAX_AHEAD_MS));
        if let Some(h) = histogram
            && !too_new
        {
            parser.check_histogram(h)?;
        }
        let asked = own.map(|timestamp| OwnSample { slot: NO_SLOT, timestamp, ..OwnSample::default() });
        if too_new || asked.is_some_and(|sample| !self.appender.takes(&sample)) {
            self.counts.added += 1;
            return Ok(());
        }
        Err(PageError { fault: Fault::Parse, message })
    }

    /// Whether that many samples, repeated ones left out, are more than the limit.
    pub(super) fn over_limit(&self, samples: u64) -> bool {
        self.rules.sample_limit > 0 && samples - self.counts.repeated > self.rules.sample_limit
    }

    /// The slots that got a sample before a page turned out bad, and are watched for staleness.
    pub fn placed(&self) -> Vec<Slot> {
        let own_too = self.rules.track_timestamps_staleness;
        let lines =
            self.changed.as_ref().map_or(&self.old.lines[..self.cursor.min(self.old.lines.len())], |c| &c.lines);
        lines.iter().filter(|l| l.is_tracked(own_too)).map(|l| l.slot).collect()
    }

    /// Puts a sample where it belongs in the row, and its line into the new shape where there is one. `histogram` is the
    /// sample's, where that was looked at already. Whether the sample makes its series known.
    pub(super) fn place(
        &mut self,
        parser: &mut dyn PageParser,
        mut read: Read,
        comment: u16,
        known: Known,
        mut histogram: Option<Arc<Histogram>>,
    ) -> Result<bool, PageError> {
        let mut flags = comment | known.flags & (DROPPED | REFUSED);
        let key = read.key;
        let is_new = known.flags & UNKNOWN != 0 && !self.met.contains(&key);
        let own = read.timestamp.filter(|_| self.rules.honor_timestamps);
        if read.histogram {
            flags |= HISTOGRAM;
        }
        let has_slot = flags & (DROPPED | REFUSED) == 0;
        let starts = self.rules.start_zeros || self.rules.start_storage;
        let mut start = if starts && has_slot { parser.start_timestamp() } else { 0 };
        let mut told = false;
        if self.rules.start_synthesis && has_slot && start == 0 {
            match self.told(parser, &mut read, known, own)? {
                Told::AsRead => {}
                Told::First => return Ok(self.hold(&read, known, flags, is_new)),
                Told::TooLarge => return Ok(false),
                Told::From(began, reduced) => {
                    (start, told) = (began, true);
                    histogram = reduced.or(histogram);
                    flags |= FOLLOWED;
                }
            }
        }
        if let Some(timestamp) = own {
            flags |= OWN;
            if has_slot && read.histogram && histogram.is_none() {
                histogram = self.reduced(parser)?;
                if histogram.is_none() {
                    return Ok(false);
                }
            }
            if timestamp > self.timestamp.saturating_add(MAX_AHEAD_MS) {
                flags |= TOO_NEW;
            }
        }
        // At the scrape's time only samples that lie ahead of it are in the way.
        let time = own.unwrap_or(self.timestamp);
        if has_slot && flags & TOO_NEW == 0 && (own.is_some() || *self.ahead >= time) {
            let histogram = histogram.clone();
            let sample =
                OwnSample { slot: known.slot, timestamp: time, value: read.value, histogram, ..OwnSample::default() };
            if !self.appender.takes(&sample) {
                flags |= LATE;
            } else if time > self.timestamp {
                *self.ahead = time.max(*self.ahead);
            }
        }
        if is_new && flags & (TOO_NEW | LATE) != 0 {
            flags |= UNKNOWN;
        }
        // While nothing changed, a line is a duplicate exactly when it was one last time.
        let before = self.old.lines.get(known.index as usize).map(|l| l.flags);
        if self.changed.is_none() {
            flags |= known.flags & if own.is_none() { DUPLICATE | SPELLED } else { 0 };
            if before != Some(flags) || known.index as usize != self.cursor {
                self.change();
                flags &= !(DUPLICATE | SPELLED);
            }
        }
        if let Some(changed) = &mut self.changed {
            let seen = has_slot && flags & UNKNOWN == 0 && changed.mark(known.slot);
            if seen && own.is_none() {
                flags |= DUPLICATE | known.flags & SPELLED;
            }
        }
        if read.histogram && flags & (DROPPED | REFUSED | DUPLICATE) == 0 && histogram.is_none() {
            histogram = self.reduced(parser)?;
            if histogram.is_none() {
                return Ok(false);
            }
        }
        if let Some(changed) = &mut self.changed {
            let over = self.rules.sample_limit > 0
                && flags & (DROPPED | DUPLICATE) != DUPLICATE
                && self.counts.added + 1 - self.counts.repeated > self.rules.sample_limit;
            if over && flags & DROPPED == 0 {
                self.sample_limit_hit = true;
                self.counts.added += 1;
                self.synthesis.forget(key);
                return Ok(false);
            }
            changed.lines.push(Line { key: read.key, slot: known.slot, len: read.len, flags });
        }
        if flags & DROPPED == 0 {
            self.counts.added += 1;
        }
        if flags & REFUSED != 0 {
            self.counts.refused += 1;
        }
        if flags & (DROPPED | REFUSED) != 0 {
            return Ok(false);
        }
        if told && flags & (DUPLICATE | TOO_NEW | LATE) != 0 {
            self.synthesis.forget(key);
        }
        if flags & DUPLICATE != 0 {
            self.counts.duplicates += 1;
            self.counts.repeated += (flags & SPELLED == 0) as u64;
            if flags & SPELLED != 0 && is_new {
                self.count_new(key);
            }
            return Ok(flags & SPELLED != 0);
        }
        if flags & TOO_NEW != 0 {
            self.counts.out_of_bounds += 1;
            return Ok(false);
        }
        if let Some(h) = &mut histogram {
            let checked = if told { histogram::validate(h).map_err(ParseError) } else { parser.check_histogram(h) };
            if let Err(e) = checked {
                // What cannot be stored is not counted, and its series does not go on.
                self.counts.added -= 1;
                if let Some(changed) = &mut self.changed {
                    changed.lines.pop();
                }
                return Err(e.into());
            }
            if h.schema == CUSTOM_BUCKETS_SCHEMA && h.positive_buckets.contains(&0.0) {
                histogram::compact(Arc::make_mut(h));
            }
        }
        let late = flags & LATE != 0;
        if late && own < Some(self.timestamp.saturating_sub(MAX_BEHIND_MS)) {
            self.counts.out_of_bounds += 1;
            return Ok(false);
        }
        let slot = known.slot;
        let (zero, kept) = self.put_start(slot, start, own.is_none(), histogram.as_ref());
        match (own.or(late.then_some(time)), histogram) {
            (Some(timestamp), histogram) => {
                self.row.own.push(OwnSample { slot, timestamp, value: read.value, histogram, start: kept, zero });
            }
            (None, Some(h)) => self.row.histograms.push((slot, h)),
            (None, None) => self.row.values.push(read.value),
        }
        if late {
            // The store refuses it, too, and counts that.
            return Ok(false);
        }
        self.take_exemplars(parser, known.slot, own.unwrap_or(self.timestamp), read.histogram);
        if is_new {
            self.count_new(key);
        }
        Ok(true)
    }

    /// Where a sample of 0 goes, and the start that is kept, of a sample whose series began at `start` (0: unknown). For
    /// samples at the scrape's time both go into the row here.
    fn put_start(&mut self, slot: Slot, start: i64, at_scrape: bool, like: Option<&Arc<Histogram>>) -> (i64, i64) {
        let zero = if self.rules.start_zeros { start } else { 0 };
        let kept = if self.rules.start_storage { start } else { 0 };
        if at_scrape && zero != 0 {
            self.row.zeros.push(ZeroSample { slot, start, like: like.cloned() });
        }
        if at_scrape && self.rules.start_storage {
            self.row.starts.push((slot, kept));
        }
        (zero, kept)
    }

    /// A series of this text is known from now on. Behind a limit none is counted.
    pub(super) fn count_new(&mut self, key: u64) {
        if !self.sample_limit_hit && self.met.insert(key) && !self.bucket_limit_hit {
            self.counts.new_series += 1;
        }
    }

    pub(super) fn take_exemplars(&mut self, parser: &mut dyn PageParser, slot: Slot, timestamp: i64, histogram: bool) {
        self.exemplars.clear();
        parser.exemplars(&mut self.exemplars);
        if self.exemplars.is_empty() {
            return;
        }
        for e in &mut self.exemplars {
            if !e.has_timestamp {
                e.timestamp = timestamp;
            }
        }
        // What is no number comes first, as Go has it.
        let value = |e: &Exemplar| if e.value.is_nan() { f64::NEG_INFINITY } else { e.value + 0.0 };
        self.exemplars.sort_by(|a, b| {
            let nan = b.value.is_nan().cmp(&a.value.is_nan());
            a.timestamp.cmp(&b.timestamp).then(nan).then(value(a).total_cmp(&value(b))).then(a.labels.cmp(&b.labels))
        });
        for e in self.exemplars.drain(..) {
            let chars: usize = e.labels.iter().map(|(n, v)| n.chars().count() + v.chars().count()).sum();
            if chars <= MAX_EXEMPLAR_CHARS
                && self.row.exemplars.len() < MAX_EXEMPLARS
                && (e.has_timestamp || !histogram)
            {
                self.row.exemplars.push((slot, e));
            }
        }
    }
}
