//! One page against the shape of the last one.
//!
//! The fast loop compares hashes in place and parses only values. Whatever differs goes through the format's parser;
//! a series that is found elsewhere in the old shape sets the fast loop on there, so that a page that gains, loses or
//! moves a few lines costs little more than one that does not. Nothing of the session changes until the whole page has
//! been read: a page that fails leaves no trace but registered series.
//!
//! Here is how a page is gone through; what becomes of a sample is in [`samples`].

mod histograms;
mod samples;
mod starts;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use narthex_model::{Exemplar, Histogram, MetricType};
use narthex_storage::{GroupAppender, OwnSample, Slot, ZeroSample};

use super::find::{Finder, Known};
use super::labels::SampleRules;
use super::lines::LineParser;
use super::shape::{AGAIN, Block, COMMENT, DUPLICATE, Line, NO_SLOT, REFUSED, Shape, TextHasher, UNKNOWN};
use super::synthesis::Synthesis;
use crate::exposition::{Entry, PageParser, ParseError, RawLabels, fast_decimal};
use crate::histogram;

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
}
