//! One page against the shape of the last one.
//!
//! The fast loop compares hashes in place and parses only values. Whatever differs goes through the format's parser;
//! a series that is found elsewhere in the old shape sets the fast loop on there, so that a page that gains, loses or
//! moves a few lines costs little more than one that does not. Nothing of the session changes until the whole page has
//! been read: a page that fails leaves no trace but registered series.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use narthex_model::histogram::CUSTOM_BUCKETS_SCHEMA;
use narthex_model::{Exemplar, Histogram, Labels, METRIC_NAME, MetricType};
use narthex_storage::{ErrorKind, GroupAppender, OwnSample, SeriesSpec, Slot, ZeroSample};

use super::find::{Finder, Known};
use super::labels::{SampleRules, SeriesFault};
use super::lines::LineParser;
use super::shape::{
    AGAIN, Block, COMMENT, DROPPED, DUPLICATE, FOLLOWED, HELD, HISTOGRAM, LATE, Line, NO_SLOT, OWN, REFUSED, SPELLED,
    Shape, TOO_NEW, TextHasher, UNKNOWN,
};
use super::synthesis::{self, Synthesis};
use crate::exposition::{Entry, PageParser, ParseError, RawLabels, fast_decimal, no_histogram};
use crate::histogram;

/// Samples further ahead of the scrape than this are dropped.
const MAX_AHEAD_MS: i64 = 10 * 60 * 1000;

/// Exemplars of a scrape beyond this many are left out.
const MAX_EXEMPLARS: usize = 100_000;

/// Label names and values of an exemplar together have at most this many characters, by the OpenMetrics standard.
const MAX_EXEMPLAR_CHARS: usize = 128;

/// What a scrape is about to append, reused from page to page.
#[derive(Debug, Default)]
pub(super) struct Row {
    pub values: Vec<f64>,
    pub own: Vec<OwnSample>,
    pub histograms: Vec<(Slot, Arc<Histogram>)>,
    pub exemplars: Vec<(Slot, Exemplar)>,
    /// When counters began to count, where that is to be kept. The store keeps what changed.
    pub starts: Vec<(Slot, i64)>,
    /// The same where samples of 0 are to be stored.
    pub zeros: Vec<ZeroSample>,
}

impl Row {
    pub fn clear(&mut self) {
        self.values.clear();
        self.own.clear();
        self.histograms.clear();
        self.exemplars.clear();
        self.starts.clear();
        self.zeros.clear();
    }
}

/// What the part of a page that was read by the parser said of a metric.
#[derive(Clone, Debug, Default)]
pub(super) struct Described {
    pub metric_type: Option<MetricType>,
    pub help: Option<String>,
    pub unit: Option<String>,
}

/// How many samples of a page became what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Samples on the page.
    pub total: u64,
    /// Those that relabelling kept.
    pub added: u64,
    pub new_series: u64,
    pub duplicates: u64,
    /// Duplicates by the very same text, histograms of too many buckets and what is held back as the first sample of its
    /// series: the limit of samples does not count them.
    pub repeated: u64,
    /// Too far ahead, or too old.
    pub out_of_bounds: u64,
    /// Series that the store had no room for.
    pub refused: u64,
}

/// Why a page failed, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Parse,
    LabelLimit,
    SampleLimit,
    BucketLimit,
    Storage,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PageError {
    pub fault: Fault,
    pub message: String,
}

impl From<ParseError> for PageError {
    fn from(e: ParseError) -> Self {
        PageError { fault: Fault::Parse, message: e.0 }
    }
}

/// The new shape, once it differs from the old one.
#[derive(Debug, Default)]
pub(super) struct Changed {
    pub lines: Vec<Line>,
    pub blocks: Vec<Block>,
    /// By slot: placed on this page.
    seen: Vec<u64>,
}

impl Changed {
    fn is_marked(&self, slot: Slot) -> bool {
        self.seen.get(slot as usize / 64).is_some_and(|word| word & 1u64 << (slot % 64) != 0)
    }

    /// Marks a slot; whether it was marked before.
    fn mark(&mut self, slot: Slot) -> bool {
        let (word, bit) = (slot as usize / 64, 1u64 << (slot % 64));
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        let before = self.seen[word] & bit != 0;
        self.seen[word] |= bit;
        before
    }
}

/// Keys of series texts.
pub(super) type Met = hashbrown::HashSet<u64, foldhash::fast::RandomState>;

/// Samples older than this against the scrape that the store would refuse are not even given to it.
const MAX_BEHIND_MS: i64 = 60 * 60 * 1000;

pub(super) struct Run<'a> {
    rules: &'a SampleRules,
    old: &'a Shape,
    appender: &'a mut dyn GroupAppender,
    row: &'a mut Row,
    hasher: TextHasher,
    timestamp: i64,
    /// Whether series that the store refused are tried again.
    retry: bool,
    /// Series texts that failed pages had since the last good one: they are not new any more.
    met: &'a mut Met,
    /// The latest time ahead of a scrape that one of the target's samples had.
    ahead: &'a mut i64,
    /// Set when the page is to be given up.
    stop: &'a AtomicBool,
    /// Beginnings of series that do not say when they began, where those are made up.
    synthesis: &'a mut Synthesis,
    /// The family that a comment described last, and what is known of its type from pages before.
    family: String,
    known_type: &'a dyn Fn(&str) -> Option<MetricType>,
    /// The next line of the old shape.
    cursor: usize,
    finder: Finder,
    raw: RawLabels,
    exemplars: Vec<Exemplar>,
    sample_limit_hit: bool,
    bucket_limit_hit: bool,
    pub counts: Counts,
    /// Why the store refused a series, if it did.
    pub refusal: Option<String>,
    pub changed: Option<Changed>,
    /// Blocks whose text changed where the lines did not: by index.
    pub block_updates: Vec<(usize, Block)>,
    pub metadata: HashMap<String, Described>,
}

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

/// What became of a sample whose start is made up.
enum Told {
    /// Nothing is made up.
    AsRead,
    /// It is the first of its series, and not stored.
    First,
    /// A histogram of too many buckets.
    TooLarge,
    /// Told from this time on.
    From(i64, Option<Arc<Histogram>>),
}

/// A sample as read from the page.
struct Read {
    key: u64,
    len: u16,
    value: f64,
    timestamp: Option<i64>,
    histogram: bool,
}

impl<'a> Run<'a> {
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        rules: &'a SampleRules,
        old: &'a Shape,
        appender: &'a mut dyn GroupAppender,
        row: &'a mut Row,
        timestamp: i64,
        retry: bool,
        met: &'a mut Met,
        ahead: &'a mut i64,
        stop: &'a AtomicBool,
        synthesis: &'a mut Synthesis,
        known_type: &'a dyn Fn(&str) -> Option<MetricType>,
    ) -> Run<'a> {
        row.clear();
        Run {
            rules,
            old,
            appender,
            row,
            hasher: TextHasher::new(),
            timestamp,
            retry,
            met,
            ahead,
            stop,
            synthesis,
            family: String::new(),
            known_type,
            cursor: 0,
            finder: Finder::default(),
            raw: RawLabels::default(),
            exemplars: Vec::new(),
            sample_limit_hit: false,
            bucket_limit_hit: false,
            counts: Counts::default(),
            refusal: None,
            changed: None,
            block_updates: Vec::new(),
            metadata: HashMap::new(),
        }
    }

    /// Reads a page that has lines.
    pub fn lines<P: LineParser>(&mut self, page: &[u8], parser: &mut P) -> Result<(), PageError> {
        self.row.values.reserve(self.old.slots.len());
        let mut at = 0;
        let mut block = 0;
        let mut metric_type = MetricType::Unknown;
        loop {
            self.go_on()?;
            at = self.matching(page, parser, at, &mut block, &mut metric_type);
            if self.cursor == self.old.lines.len() && self.matches_end(page, at, P::FORGIVES_END) {
                break;
            }
            parser.seek(at, metric_type);
            let mut more = self.differing(page, parser, at)?;
            while more && parser.is_mid_line() {
                more = self.differing(page, parser, at)?;
            }
            metric_type = parser.metric_type();
            if !more {
                break;
            }
            at = parser.span().2.min(page.len());
            block = self.old.blocks.partition_point(|b| (b.line as usize) < self.cursor);
        }
        self.finish()
    }

    /// Reads a page that has no lines, or is not read by them: they are joined to histograms, or get labels for type and
    /// unit, or starts.
    pub fn entries(&mut self, parser: &mut dyn PageParser) -> Result<(), PageError> {
        while let Some(entry) = parser.next()? {
            self.go_on()?;
            match entry {
                Entry::Series | Entry::Histogram => {
                    let key = self.hasher.hash(parser.series());
                    let read = Read {
                        key,
                        len: 0,
                        value: parser.value(),
                        timestamp: parser.timestamp(),
                        histogram: entry == Entry::Histogram,
                    };
                    self.sample(parser, read, 0)?;
                }
                other => self.describe(parser, other),
            }
        }
        self.finish()
    }

    /// # Errors
    /// When the page is to be given up.
    fn go_on(&self) -> Result<(), PageError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(PageError { fault: Fault::Parse, message: "the server is stopping".to_owned() });
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), PageError> {
        // Lines that the page ended before are gone.
        let placed = self.changed.as_ref().map(|c| c.lines.len());
        if placed.is_none() && self.cursor < self.old.lines.len() {
            self.change();
        }
        if let Some(changed) = &mut self.changed {
            let mut lines = std::mem::take(&mut changed.lines);
            for line in lines.iter_mut().filter(|l| l.flags & UNKNOWN != 0 && changed.is_marked(l.slot)) {
                // Another line of the page has made the series known. What comes behind this one on the next page is
                // to be looked at anew.
                line.flags = line.flags & !UNKNOWN | AGAIN;
            }
            changed.lines = lines;
        }
        self.sample_limit_hit |= self.over_limit(self.counts.added);
        let (fault, message) = if self.sample_limit_hit {
            (Fault::SampleLimit, "sample limit exceeded")
        } else if self.bucket_limit_hit {
            (Fault::BucketLimit, histogram::BUCKET_LIMIT)
        } else {
            return Ok(());
        };
        Err(PageError { fault, message: message.to_owned() })
    }

    /// The fast loop: from `at` on, as long as lines are what they were. Returns where it stopped.
    fn matching<P: LineParser>(
        &mut self,
        page: &[u8],
        parser: &mut P,
        mut at: usize,
        block: &mut usize,
        metric_type: &mut MetricType,
    ) -> usize {
        let old = self.old;
        let hasher = self.hasher;
        let unchanged = self.changed.is_none();
        let mut plain = 0;
        let mut i = self.cursor;
        while let Some(line) = old.lines.get(i) {
            if self.changed.is_some() && self.over_limit(self.counts.added + plain + 1) {
                // Of this page it is one too many.
                break;
            }
            let mut start = at;
            if line.flags & COMMENT != 0 {
                let Some(b) = old.blocks.get(*block) else { break };
                let end = at + b.len as usize;
                match page.get(at..end) {
                    Some(text) if hasher.hash(text) == b.hash => start = end,
                    _ => break,
                }
            }
            let end = start + line.len as usize;
            if page.get(end) != Some(&b' ') || hasher.hash(&page[start..end]) != line.key {
                break;
            }
            let decimal = fast_decimal(page, end + 1);
            if let Some((value, stop)) = decimal
                && (page.get(stop) == Some(&b'\n') || P::FORGIVES_END && stop == page.len())
                && line.is_plain()
            {
                at = (stop + 1).min(page.len());
                plain += 1;
                match &mut self.changed {
                    None => self.row.values.push(value),
                    Some(changed) => {
                        let seen = changed.mark(line.slot);
                        let flags = line.flags | if seen { DUPLICATE } else { 0 };
                        changed.lines.push(Line { flags, ..*line });
                        if seen {
                            self.counts.duplicates += 1;
                            self.counts.repeated += 1;
                        } else {
                            self.row.values.push(value);
                        }
                    }
                }
            } else if self.resume(parser, i, start, end) {
                at = parser.span().2.min(page.len());
            } else {
                break;
            }
            if line.flags & COMMENT != 0 {
                if let Some(b) = old.blocks.get(*block) {
                    *metric_type = b.after;
                    if let Some(changed) = &mut self.changed {
                        let line = (changed.lines.len() as u32).saturating_sub(1);
                        changed.blocks.push(Block { line, ..*b });
                    }
                }
                *block += 1;
            }
            i += 1;
            if unchanged && self.changed.is_some() {
                // The line is still the same series, but not what it was (a timestamp came or went).
                break;
            }
        }
        self.counts.total += plain;
        self.counts.added += plain;
        self.cursor = i;
        at
    }

    /// A line whose series text is as before, and whose rest is not a plain value to a plain line. Whether it could
    /// be read; if not, the slow path says what is wrong.
    fn resume<P: LineParser>(&mut self, parser: &mut P, i: usize, start: usize, end: usize) -> bool {
        let line = self.old.lines[i];
        if line.flags & REFUSED != 0 && self.retry {
            return false;
        }
        if parser.resume_value(start, end).is_err() || parser.is_mid_line() {
            return false;
        }
        // What came before in `matching` is not counted yet, but `place` counts by itself.
        self.cursor = i;
        let read = Read {
            key: line.key,
            len: line.len,
            value: parser.value(),
            timestamp: parser.timestamp(),
            histogram: false,
        };
        self.counts.total += 1;
        let known = Known::at(i, &line);
        self.place(parser, read, line.flags & COMMENT, known, None).is_ok()
    }

    /// Whether what follows the last line is what followed it last time.
    fn matches_end(&mut self, page: &[u8], at: usize, forgives_end: bool) -> bool {
        let rest = &page[at..];
        let n = self.old.lines.len();
        if n == 0 {
            return false;
        }
        match self.old.blocks.last().filter(|b| b.line as usize == n) {
            None => rest.is_empty() && forgives_end,
            Some(b) => {
                let same = b.len as usize == rest.len() && self.hasher.hash(rest) == b.hash;
                if same && let Some(changed) = &mut self.changed {
                    let line = changed.lines.len() as u32;
                    changed.blocks.push(Block { line, ..*b });
                }
                same
            }
        }
    }

    /// Reads comments and the next sample by the parser. Whether there was a sample.
    fn differing<P: LineParser>(&mut self, page: &[u8], parser: &mut P, from: usize) -> Result<bool, PageError> {
        loop {
            self.go_on()?;
            let Some(entry) = parser.next()? else {
                // The page's end, with what stands before it.
                let rest = page.get(from..).unwrap_or_default();
                self.end_block(rest, parser.metric_type());
                return Ok(false);
            };
            if entry != Entry::Series {
                self.describe(parser, entry);
                continue;
            }
            let (start, end, _) = parser.span();
            let text = page.get(start..end).unwrap_or_default();
            let read = Read {
                key: self.hasher.hash(text),
                len: u16::try_from(text.len()).unwrap_or(0),
                value: parser.value(),
                timestamp: parser.timestamp(),
                histogram: false,
            };
            let comment = page.get(from..start).filter(|t| !t.is_empty());
            let index = self.cursor;
            self.sample(parser, read, if comment.is_some() { COMMENT } else { 0 })?;
            if let Some(text) = comment {
                self.block(index, text, parser.metric_type());
            }
            return Ok(true);
        }
    }

    /// Records the block that stands before the sample just placed.
    fn block(&mut self, index: usize, text: &[u8], after: MetricType) {
        let mut block = Block { line: index as u32, len: text.len() as u32, hash: self.hasher.hash(text), after };
        match &mut self.changed {
            Some(changed) => {
                block.line = (changed.lines.len() as u32).saturating_sub(1);
                changed.blocks.push(block);
            }
            None => {
                let at = self.old.blocks.partition_point(|b| (b.line as usize) < index);
                self.block_updates.push((at, block));
            }
        }
    }

    /// Records what stands between the last sample and the page's end.
    fn end_block(&mut self, text: &[u8], after: MetricType) {
        let n = self.old.lines.len();
        if self.changed.is_none() {
            let has = self.old.blocks.last().filter(|b| b.line as usize == n).is_some();
            if self.cursor == n && has != text.is_empty() {
                if has {
                    let block = Block { line: n as u32, len: text.len() as u32, hash: self.hasher.hash(text), after };
                    self.block_updates.push((self.old.blocks.len() - 1, block));
                }
                return;
            }
            self.change();
        }
        if let Some(changed) = &mut self.changed
            && !text.is_empty()
        {
            let line = changed.lines.len() as u32;
            changed.blocks.push(Block { line, len: text.len() as u32, hash: self.hasher.hash(text), after });
        }
    }

    fn describe(&mut self, parser: &dyn PageParser, entry: Entry) {
        if entry == Entry::Comment {
            return;
        }
        let family = parser.family();
        if self.rules.start_synthesis {
            self.family.clone_from(&family);
        }
        let described = self.metadata.entry(family).or_default();
        match entry {
            Entry::Type => described.metric_type = Some(parser.metric_type()),
            Entry::Help => described.help = Some(parser.help()),
            Entry::Unit => described.unit = Some(parser.unit()),
            _ => {}
        }
    }

    /// From here on the page's shape is written down anew: what matched so far is copied.
    fn change(&mut self) {
        if self.changed.is_some() {
            return;
        }
        let mut changed = Changed { lines: Vec::with_capacity(self.old.lines.len() + 16), ..Changed::default() };
        changed.lines.extend_from_slice(&self.old.lines[..self.cursor]);
        let blocks = self.old.blocks.partition_point(|b| (b.line as usize) < self.cursor);
        changed.blocks.extend_from_slice(&self.old.blocks[..blocks]);
        for (at, block) in self.block_updates.drain(..) {
            if let Some(b) = changed.blocks.get_mut(at) {
                *b = block;
            }
        }
        for i in 0..self.cursor {
            let line = self.old.lines[i];
            if line.slot != NO_SLOT && line.flags & UNKNOWN == 0 {
                changed.mark(line.slot);
            }
        }
        self.changed = Some(changed);
    }

    /// A sample that the parser read: known from the old page, from this one, or new.
    fn sample(&mut self, parser: &mut dyn PageParser, read: Read, comment: u16) -> Result<(), PageError> {
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
    fn unknown(&mut self, parser: &mut dyn PageParser, read: Read, comment: u16) -> Result<(), PageError> {
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
    fn unstorable(
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
    fn over_limit(&self, samples: u64) -> bool {
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
    fn place(
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
        let check = |h: &Histogram| match told {
            true => histogram::validate(h).map_err(ParseError),
            false => parser.check_histogram(h),
        };
        if let Some(h) = &histogram
            && let Err(e) = check(h)
        {
            // What cannot be stored is not counted, and its series does not go on.
            self.counts.added -= 1;
            if let Some(changed) = &mut self.changed {
                changed.lines.pop();
            }
            return Err(e.into());
        }
        if let Some(h) = &mut histogram
            && h.schema == CUSTOM_BUCKETS_SCHEMA
            && h.positive_buckets.contains(&0.0)
        {
            histogram::compact(Arc::make_mut(h));
        }
        let late = flags & LATE != 0;
        if late && own < Some(self.timestamp.saturating_sub(MAX_BEHIND_MS)) {
            self.counts.out_of_bounds += 1;
            return Ok(false);
        }
        let value = histogram;
        let slot = known.slot;
        let (mut kept, mut zero) = (0, 0);
        if starts {
            if self.rules.start_zeros && start != 0 {
                zero = start;
                if own.is_none() {
                    self.row.zeros.push(ZeroSample { slot, start, like: value.clone() });
                }
            }
            if self.rules.start_storage {
                kept = start;
                if own.is_none() {
                    self.row.starts.push((slot, start));
                }
            }
        }
        match (own.or(late.then_some(time)), value) {
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

    /// The sample told from the beginning of its series, where that is made up.
    fn told(
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
    fn is_counted(&mut self, parser: &dyn PageParser) -> bool {
        let kind = self.metadata.get(&self.family).and_then(|d| d.metric_type);
        let Some(kind) = kind.or_else(|| (self.known_type)(&self.family)) else { return false };
        let mut raw = std::mem::take(&mut self.raw);
        let labels = parser.labels(&mut raw).ok().and_then(|()| self.rules.labels(&raw).ok().flatten());
        self.raw = raw;
        labels.is_some_and(|labels| synthesis::is_counted(labels.metric_name(), &self.family, kind))
    }

    /// Notes a series whose first sample is not stored.
    fn hold(&mut self, read: &Read, known: Known, flags: u16, is_new: bool) -> bool {
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
    fn is_first(&mut self, parser: &mut dyn PageParser, read: &Read) -> bool {
        let starts = self.rules.start_zeros || self.rules.start_storage;
        let says_so = starts && parser.start_timestamp() != 0;
        !says_so && !self.synthesis.knows(read.key) && self.is_counted(parser)
    }

    /// A series of this text is known from now on. Behind a limit none is counted.
    fn count_new(&mut self, key: u64) {
        if !self.sample_limit_hit && self.met.insert(key) && !self.bucket_limit_hit {
            self.counts.new_series += 1;
        }
    }

    /// The current histogram, within the limits. `None` when it has too many buckets: it is counted on the page, but
    /// not by the limit of samples.
    fn reduced(&mut self, parser: &mut dyn PageParser) -> Result<Option<Arc<Histogram>>, PageError> {
        let h = self.histogram(parser)?;
        self.within_limits(h)
    }

    fn histogram(&mut self, parser: &mut dyn PageParser) -> Result<Arc<Histogram>, PageError> {
        match parser.histogram() {
            Ok(h) => Ok(h),
            Err(e) if e == no_histogram() => Err(self.histogram_missing(parser)),
            Err(e) => Err(e.into()),
        }
    }

    fn within_limits(&mut self, mut h: Arc<Histogram>) -> Result<Option<Arc<Histogram>>, PageError> {
        let buckets = (h.positive_buckets.len() + h.negative_buckets.len()) as u64;
        if buckets > self.bucket_limit() || h.schema > self.rules.max_schema {
            let reduced = Arc::make_mut(&mut h);
            match histogram::limit(reduced, self.rules.bucket_limit as usize, self.rules.max_schema) {
                Ok(()) => {}
                Err(e) if e == histogram::BUCKET_LIMIT => {
                    self.bucket_limit_hit = true;
                    self.counts.added += 1;
                    self.counts.repeated += 1;
                    return Ok(None);
                }
                Err(e) => return Err(ParseError(e).into()),
            }
        }
        Ok(Some(h))
    }

    /// What Prometheus says where its parser announces a histogram and has none.
    fn histogram_missing(&mut self, parser: &dyn PageParser) -> PageError {
        let mut raw = std::mem::take(&mut self.raw);
        let labels = parser.labels(&mut raw).ok().and_then(|()| self.rules.labels(&raw).ok().flatten());
        self.raw = raw;
        let message = format!(
            "parser returned nil histogram/float histogram for a histogram entry type for {} series; parser bug; aborting",
            labels.unwrap_or_else(Labels::empty)
        );
        PageError { fault: Fault::Parse, message }
    }

    fn bucket_limit(&self) -> u64 {
        if self.rules.bucket_limit == 0 { u64::MAX } else { self.rules.bucket_limit }
    }

    fn take_exemplars(&mut self, parser: &mut dyn PageParser, slot: Slot, timestamp: i64, histogram: bool) {
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
