//! What a target's scrapes have in common: its appender, the shape of its page, its report series.
//!
//! A session turns one fetched page (or the failure to fetch one) into one row for the store. It is synchronous and
//! owned by whoever scrapes at the moment; it may be handed to another thread between scrapes, and for one.

mod find;
mod labels;
mod lines;
mod run;
mod shape;
mod synthesis;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use narthex_model::Metadata;
use narthex_storage::{AppendOutcome, Appendable, Budget, GroupAppender, ScrapeRow, SeriesSpec, Slot, StorageError};
use parking_lot::Mutex;

pub use labels::SampleRules;
use run::{Counts, Described, Fault, Met, PageError, Row, Run};
use shape::{COMMENT, FOLLOWED, HISTOGRAM, Line, OWN, Shape};
use synthesis::Synthesis;

use crate::exposition::{
    Format, NhcbParser, OpenMetricsParser, PageParser, ProtobufOptions, ProtobufParser, TextParser, media_type_format,
};

/// How many metric names a target may describe; beyond it everything described is forgotten and read anew.
const METADATA_LIMIT: usize = 50_000;

/// Help texts are cut at this many bytes.
const MAX_DESCRIPTION: usize = 16 << 10;

/// What a page said of a metric is kept for this many scrapes after it stopped.
const KEEP_DESCRIPTIONS: u64 = 10;

/// Refused series are tried again every so many scrapes, or after so many ms: stores forget what they refused.
const RETRY_REFUSED: u64 = 10;
const RETRY_REFUSED_MS: i64 = 300_000;

/// A metric's name with its description; equal ones are shared between targets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MetricMetadata {
    pub metric: String,
    pub metadata: Metadata,
}

/// Shares equal descriptions between all targets of a process.
#[derive(Debug, Default)]
pub struct MetadataTable(Mutex<hashbrown::HashSet<Arc<MetricMetadata>, foldhash::fast::RandomState>>);

impl MetadataTable {
    /// The shared copy, and whether it is new to the process.
    fn intern(&self, entry: MetricMetadata) -> (Arc<MetricMetadata>, bool) {
        let mut table = self.0.lock();
        if let Some(known) = table.get(&entry) {
            return (known.clone(), false);
        }
        if table.len() == table.capacity() {
            // About to grow: forget what no target describes any more.
            table.retain(|e| Arc::strong_count(e) > 1);
        }
        let entry = Arc::new(entry);
        table.insert(entry.clone());
        (entry, true)
    }
}

/// A target's descriptions, sorted by metric name.
pub type TargetMetadata = Arc<Mutex<Vec<Arc<MetricMetadata>>>>;

/// Buffers that outlive a scrape, so that scraping allocates nothing.
#[derive(Debug, Default)]
pub struct Scratch {
    row: Row,
    stale: Vec<Slot>,
    vanished: Vec<Slot>,
    /// What a page that failed had placed before its fault.
    placed: Vec<Slot>,
}

/// What was fetched.
pub enum Fetched<'a> {
    /// A body, decompressed, with its Content-Type.
    Page { body: &'a [u8], content_type: &'a str },
    /// Why there is none, as the targets page shows it.
    Failed { error: &'a str, over_size_limit: bool },
}

/// What became of a scrape.
#[derive(Default)]
pub struct Outcome {
    /// Why `up` is 0.
    pub error: Option<String>,
    /// Why the row could not be stored.
    pub store_error: Option<StorageError>,
    pub duration: Duration,
    pub samples: u64,
    pub post_relabel: u64,
    pub new_series: u64,
    pub duplicates: u64,
    /// Samples too far ahead, or too old.
    pub out_of_bounds: u64,
    pub refused: u64,
    /// Why series are refused, if some are.
    pub refusal: Option<String>,
    pub label_limit: bool,
    pub sample_limit: bool,
    pub bucket_limit: bool,
    pub appended: AppendOutcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowKind {
    None,
    Page,
    Failure,
}

/// The first five of these are always stored; then three that Prometheus has as a feature, and three that VictoriaMetrics has
/// where the series of a target are limited.
const REPORTS: [&str; 11] = [
    "up",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
    "scrape_samples_post_metric_relabeling",
    "scrape_series_added",
    "scrape_timeout_seconds",
    "scrape_sample_limit",
    "scrape_body_size_bytes",
    "scrape_series_current",
    "scrape_series_limit",
    "scrape_series_limit_samples_dropped",
];

/// Which series go on, in the eyes of staleness.
enum Live {
    None,
    /// Those of the shape.
    Shape,
    /// These: the last page failed behind them, and Prometheus takes them for scraped although nothing of the page was
    /// stored. They are marked stale when the next page does not have them.
    Some(Vec<Slot>),
}

/// How many series of failed pages are remembered beyond twice those of the last good one.
const MAX_MET: usize = 1000;

/// The state of one target.
pub struct Session {
    store: Arc<dyn Appendable>,
    appender: Box<dyn GroupAppender>,
    rules: Arc<SampleRules>,
    shape: Shape,
    format: Option<Format>,
    layout: u64,
    last_row: RowKind,
    live: Live,
    /// Series of failed pages since the last good one.
    met: Met,
    /// The latest time ahead of its scrape that a sample had.
    ahead: i64,
    /// Where series began that do not say so.
    synthesis: Synthesis,
    /// At which scrape all that pages say of their metrics is read anew, so that what they stopped saying goes.
    audit: Option<u64>,
    /// `(which of REPORTS, slot)`.
    reports: Vec<(u8, Slot)>,
    /// Those that the page does not expose itself, in the order of the shape's last slots.
    live_reports: Vec<(u8, Slot)>,
    report_slots: Vec<Slot>,
    table: Arc<MetadataTable>,
    metadata: TargetMetadata,
    scrapes: u64,
    /// When refused series were tried last.
    last_retry: i64,
    /// Why the store refused a series, the last time it did.
    refusal: Option<String>,
    /// Set when pages are not to be read to their end any more.
    stop: Arc<AtomicBool>,
}

impl Session {
    pub fn new(
        store: Arc<dyn Appendable>,
        appender: Box<dyn GroupAppender>,
        rules: Arc<SampleRules>,
        table: Arc<MetadataTable>,
    ) -> Session {
        Session {
            store,
            appender,
            rules,
            shape: Shape::default(),
            format: None,
            layout: 0,
            last_row: RowKind::None,
            live: Live::None,
            met: Met::default(),
            ahead: i64::MIN,
            synthesis: Synthesis::default(),
            audit: None,
            reports: Vec::new(),
            live_reports: Vec::new(),
            report_slots: Vec::new(),
            table,
            metadata: TargetMetadata::default(),
            scrapes: 0,
            last_retry: 0,
            refusal: None,
            stop: Arc::default(),
        }
    }

    /// Once this is set, a page that is being read is given up, and nothing of it is stored.
    pub fn give_up_when(&mut self, stop: Arc<AtomicBool>) {
        self.stop = stop;
    }

    /// What the target's pages say of their metrics.
    pub fn metadata(&self) -> TargetMetadata {
        self.metadata.clone()
    }

    /// How many lines the last good page had.
    pub fn lines(&self) -> usize {
        self.shape.lines.len()
    }

    /// Bytes that the line cache holds.
    pub fn cache_bytes(&self) -> usize {
        self.shape.bytes()
    }

    /// New rules from the next scrape on; every series is looked at anew.
    pub fn set_rules(&mut self, rules: Arc<SampleRules>) {
        self.rules = rules;
        // No text hashes to what is kept, so every line takes the slow path once, while staleness goes on.
        for line in &mut self.shape.lines {
            line.key = !line.key;
            line.len = 0;
        }
        self.synthesis.forget_all();
        self.reports.clear();
        self.live_reports.clear();
        self.last_row = RowKind::None;
    }

    /// Stores one scrape: the page's samples or, where it failed, staleness markers, and the report series.
    pub fn scrape(&mut self, scratch: &mut Scratch, timestamp: i64, started: Instant, fetched: Fetched<'_>) -> Outcome {
        self.scrapes += 1;
        let mut outcome = Outcome::default();
        let mut body_size = 0i64;
        scratch.row.clear();
        scratch.stale.clear();
        scratch.vanished.clear();
        scratch.placed.clear();
        if let Err(e) = self.register_reports() {
            outcome.error = Some(e.to_string());
            outcome.store_error = Some(e);
            return outcome;
        }
        let empty = matches!(&fetched, Fetched::Page { body, .. } if body.is_empty());
        let error = match fetched {
            Fetched::Failed { error, over_size_limit } => {
                body_size = if over_size_limit { -1 } else { 0 };
                Some(error.to_owned())
            }
            // Nothing to read is nothing wrong; what was known of the page stays, as in Prometheus.
            Fetched::Page { body: [], .. } => None,
            Fetched::Page { body, content_type } => {
                body_size = body_size.saturating_add(body.len() as i64);
                let (counts, error) = self.read(scratch, timestamp, body, content_type);
                outcome.samples = counts.total;
                outcome.post_relabel = counts.added;
                outcome.new_series = counts.new_series;
                outcome.duplicates = counts.duplicates;
                outcome.out_of_bounds = counts.out_of_bounds;
                outcome.refused = counts.refused;
                outcome.refusal = self.refusal.clone().filter(|_| counts.refused > 0);
                let is = |fault| error.as_ref().is_some_and(|e| e.fault == fault);
                outcome.label_limit = is(Fault::LabelLimit);
                outcome.sample_limit = is(Fault::SampleLimit);
                outcome.bucket_limit = is(Fault::BucketLimit);
                error.map(|e| e.message)
            }
        };
        if self.stop.load(Ordering::Relaxed) {
            // Neither a failure nor the end of any series.
            return Outcome::default();
        }
        let kind = if error.is_some() || empty { RowKind::Failure } else { RowKind::Page };
        if kind == RowKind::Failure {
            scratch.row.clear();
            scratch.stale.clear();
            scratch.vanished.clear();
            self.all_tracked(&mut scratch.stale);
            self.live = Live::None;
            if !scratch.placed.is_empty() {
                let mut placed: HashSet<Slot> = scratch.placed.iter().copied().collect();
                scratch.stale.retain(|slot| !placed.contains(slot));
                for report in &self.reports {
                    placed.remove(&report.1);
                }
                if !placed.is_empty() {
                    self.live = Live::Some(placed.into_iter().collect());
                }
            }
            if self.met.len() > self.shape.lines.len() * 2 + MAX_MET {
                self.met = Met::default();
            }
        } else {
            self.live = Live::Shape;
            if !self.met.is_empty() {
                self.met = Met::default();
            }
        }
        outcome.duration = started.elapsed();
        outcome.error = error;
        let reports = if kind == RowKind::Page { &self.live_reports } else { &self.reports };
        for (which, _) in reports {
            scratch.row.values.push(match which {
                0 => outcome.error.is_none() as u8 as f64,
                1 => outcome.duration.as_secs_f64(),
                2 => outcome.samples as f64,
                3 => outcome.post_relabel as f64,
                4 => outcome.new_series as f64,
                5 => self.rules.timeout_seconds,
                6 => self.rules.sample_limit as f64,
                7 => body_size as f64,
                8 => outcome.post_relabel.saturating_sub(outcome.duplicates + outcome.refused) as f64,
                9 => self.rules.series_limit as f64,
                _ => outcome.refused as f64,
            });
        }
        if self.last_row != kind {
            self.layout += 1;
        }
        self.last_row = kind;
        let own_first = self.own_first(scratch, reports);
        let row = ScrapeRow {
            timestamp,
            layout: self.layout,
            slots: if kind == RowKind::Page { &self.shape.slots } else { &self.report_slots },
            values: &scratch.row.values,
            stale: &scratch.stale,
            histograms: &scratch.row.histograms,
            own: &scratch.row.own,
            own_first,
            exemplars: &scratch.row.exemplars,
            start_timestamps: &scratch.row.starts,
            zeros: &scratch.row.zeros,
        };
        debug_assert_eq!(row.slots.len(), row.values.len());
        match self.appender.commit(&row) {
            Ok(appended) => outcome.appended = appended,
            Err(e) => {
                outcome.store_error = Some(e);
                // The store has not seen this layout.
                self.last_row = RowKind::None;
            }
        }
        if !scratch.vanished.is_empty() {
            self.appender.retire(&scratch.vanished);
        }
        outcome
    }

    /// Puts those of the samples with times of their own first that the row has something behind: a marker, or a report of
    /// that name. How many they are.
    fn own_first(&self, scratch: &mut Scratch, reports: &[(u8, Slot)]) -> usize {
        let own = &mut scratch.row.own;
        if own.is_empty() {
            return 0;
        }
        let behind: HashSet<Slot> = scratch.stale.iter().copied().chain(reports.iter().map(|r| r.1)).collect();
        let first = own.iter().filter(|sample| behind.contains(&sample.slot)).count();
        if first > 0 {
            // Stable: of one series the page's order counts.
            own.sort_by_key(|sample| !behind.contains(&sample.slot));
        }
        first
    }

    /// Marks every series of the target stale, its report series too: the target is gone.
    ///
    /// # Errors
    /// When the store cannot take it.
    pub fn end(&mut self, timestamp: i64) -> Result<AppendOutcome, StorageError> {
        let mut stale = Vec::new();
        self.all_tracked(&mut stale);
        stale.extend(self.reports.iter().map(|r| r.1));
        self.live = Live::None;
        self.last_row = RowKind::None;
        let outcome = self.appender.commit(&ScrapeRow { timestamp, stale: &stale, ..ScrapeRow::default() })?;
        self.appender.retire(&stale);
        // Should the target come back, its series are registered again.
        self.shape = Shape::default();
        self.reports.clear();
        self.live_reports.clear();
        self.report_slots.clear();
        Ok(outcome)
    }

    /// The series that go on.
    fn all_tracked(&self, out: &mut Vec<Slot>) {
        match &self.live {
            Live::None => return,
            Live::Some(slots) => return out.extend_from_slice(slots),
            Live::Shape => {}
        }
        let own_too = self.rules.track_timestamps_staleness;
        let reports = &self.reports;
        out.extend(
            self.shape
                .lines
                .iter()
                .filter(|l| l.is_tracked(own_too) && !reports.iter().any(|r| r.1 == l.slot))
                .map(|l| l.slot),
        );
    }

    fn register_reports(&mut self) -> Result<(), StorageError> {
        if !self.reports.is_empty() {
            return Ok(());
        }
        let wanted = |i: usize| match i {
            0..5 => true,
            5..8 => self.rules.extra_metrics,
            _ => self.rules.series_limit > 0,
        };
        let mut reports = Vec::with_capacity(REPORTS.len());
        for (i, name) in REPORTS.iter().enumerate().filter(|(i, _)| wanted(*i)) {
            let labels = self.rules.report_labels(name);
            // However full the store is: without them nobody could see that a target's series are refused.
            let budget = Budget { exempt: true, ..Budget::default() };
            let slot = self.appender.register(SeriesSpec { labels: &labels, budget })?;
            reports.push((i as u8, slot));
        }
        self.report_slots = reports.iter().map(|r| r.1).collect();
        self.reports = reports;
        self.set_slots();
        Ok(())
    }

    /// Derives the row's slots from the lines. Whether they are others than before.
    fn set_slots(&mut self) -> bool {
        let mut slots: Vec<Slot> = Vec::with_capacity(self.shape.lines.len() + self.reports.len());
        // Registered together, reports have slots close to each other: hardly a line's is among them.
        let (least, most) = self.reports.iter().fold((Slot::MAX, Slot::MIN), |(a, b), r| (a.min(r.1), b.max(r.1)));
        let mut exposed = Vec::new();
        for line in &self.shape.lines {
            let is_plain = line.is_plain();
            if is_plain {
                slots.push(line.slot);
            }
            // A histogram of that name is stored before the report, too.
            if (least..=most).contains(&line.slot) && (is_plain || line.flags & !(COMMENT | FOLLOWED) == HISTOGRAM) {
                exposed.push(line.slot);
            }
        }
        self.live_reports.clear();
        for report in &self.reports {
            if !exposed.contains(&report.1) {
                self.live_reports.push(*report);
                slots.push(report.1);
            }
        }
        let differs = slots != self.shape.slots;
        if differs {
            self.shape.slots = slots;
        }
        differs
    }

    /// Reads a page into the row, and takes over its shape when it is good.
    fn read(
        &mut self,
        scratch: &mut Scratch,
        timestamp: i64,
        body: &[u8],
        content_type: &str,
    ) -> (Counts, Option<PageError>) {
        let rules = self.rules.clone();
        let format = match media_type_format(content_type, rules.fallback) {
            Ok(format) => format,
            Err(e) => {
                return (Counts::default(), Some(PageError { fault: Fault::Parse, message: e.to_string() }));
            }
        };
        if self.format.is_some_and(|f| f != format) {
            // What one format forgives the other may not: no block is taken unread.
            self.shape.blocks.iter_mut().for_each(|b| b.len = u32::MAX);
        }
        self.format = Some(format);
        let audit = self.audit.is_some_and(|at| self.scrapes >= at);
        if audit {
            self.shape.blocks.iter_mut().for_each(|b| b.len = u32::MAX);
        }
        let retry =
            self.scrapes.is_multiple_of(RETRY_REFUSED) || timestamp.saturating_sub(self.last_retry) >= RETRY_REFUSED_MS;
        if retry {
            self.last_retry = timestamp;
        }
        let appender = self.appender.as_mut();
        let (met, ahead) = (&mut self.met, &mut self.ahead);
        let known = &self.metadata;
        let known_type = |family: &str| {
            let known = known.lock();
            let at = known.binary_search_by(|e| e.metric.as_str().cmp(family)).ok()?;
            known.get(at).map(|e| e.metadata.metric_type)
        };
        let (row, synthesis) = (&mut scratch.row, &mut self.synthesis);
        let mut run = Run::new(
            &rules,
            &self.shape,
            appender,
            row,
            timestamp,
            retry,
            met,
            ahead,
            &self.stop,
            synthesis,
            &known_type,
        );
        let starts = rules.start_zeros || rules.start_storage;
        let synthesis = rules.start_synthesis;
        // Where series are joined or left out, lines are not what they were; and a parser that is set down in the
        // middle of a page does not know the unit.
        let open_metrics = || {
            let mut parser = OpenMetricsParser::new(body);
            if starts {
                parser.skip_created();
            }
            parser
        };
        let result = match format {
            Format::Text if rules.convert_classic_histograms => {
                let text = TextParser::new(body);
                run.entries(&mut NhcbParser::new(text, rules.keep_classic_histograms, rules.type_and_unit))
            }
            Format::OpenMetrics if rules.convert_classic_histograms => {
                let (text, typed) = (open_metrics(), rules.type_and_unit);
                run.entries(&mut NhcbParser::new(text, rules.keep_classic_histograms, typed))
            }
            Format::Text if rules.type_and_unit || synthesis => run.entries(&mut TextParser::new(body)),
            Format::OpenMetrics if rules.type_and_unit || starts || synthesis => run.entries(&mut open_metrics()),
            Format::Text => run.lines(body, &mut TextParser::new(body)),
            Format::OpenMetrics => run.lines(body, &mut OpenMetricsParser::new(body)),
            Format::Protobuf => {
                let options = ProtobufOptions {
                    ignore_native: !rules.native_histograms,
                    keep_classic: rules.keep_classic_histograms,
                    convert_classic: rules.convert_classic_histograms,
                };
                run.entries(&mut ProtobufParser::new(body, options))
            }
        };
        if result.is_err() {
            scratch.placed = run.placed();
        }
        let (counts, changed, updates, described) = (run.counts, run.changed, run.block_updates, run.metadata);
        if run.refusal.is_some() {
            self.refusal = run.refusal;
        }
        if audit && result.is_ok() {
            self.audit = None;
            self.metadata.lock().retain(|e| described.contains_key(&e.metric));
        }
        if !described.is_empty() {
            if result.is_err() {
                // The page's shape is not kept, what it said is: the next one is to say it all again.
                self.shape.blocks.iter_mut().for_each(|b| b.len = u32::MAX);
            }
            self.describe(described);
        }
        if let Err(e) = result {
            return (counts, Some(e));
        }
        let differs = !updates.is_empty()
            || changed.as_ref().is_some_and(|c| c.blocks.is_empty() || !c.blocks.iter().eq(&self.shape.blocks));
        if differs && !audit && self.audit.is_none() {
            self.audit = Some(self.scrapes + KEEP_DESCRIPTIONS + 1);
        }
        for (at, block) in updates {
            if let Some(b) = self.shape.blocks.get_mut(at) {
                *b = block;
            }
        }
        if let Some(changed) = changed {
            let (mut lines, mut blocks) = (changed.lines, changed.blocks);
            lines.shrink_to_fit();
            blocks.shrink_to_fit();
            self.vanished(&lines, timestamp, scratch);
            self.synthesis.keep(lines.iter().map(|l| l.key));
            self.shape.lines = lines;
            self.shape.blocks = blocks;
            if self.set_slots() {
                self.layout += 1;
            }
        } else if matches!(self.live, Live::Some(_)) {
            // The page is what it was before the one that failed, which may have had more.
            self.vanished(&self.shape.lines, timestamp, scratch);
        }
        (counts, None)
    }

    /// Collects the slots that had a sample on the last page and have none on this one, whose lines are these.
    fn vanished(&self, lines: &[Line], timestamp: i64, scratch: &mut Scratch) {
        let own_too = self.rules.track_timestamps_staleness;
        let mut before = Vec::new();
        self.all_tracked(&mut before);
        let Some(top) = before.iter().copied().max() else { return };
        let mut present = vec![0u64; top as usize / 64 + 1];
        let place = |slot: Slot| (slot as usize / 64, 1u64 << (slot % 64));
        for line in lines.iter().filter(|l| l.slot <= top && l.is_tracked(own_too)) {
            let (word, bit) = place(line.slot);
            present[word] |= bit;
        }
        for slot in before {
            let (word, bit) = place(slot);
            if present[word] & bit == 0 {
                present[word] |= bit;
                scratch.stale.push(slot);
            }
        }
        if scratch.stale.is_empty() {
            return;
        }
        // Some are still there, but at times of their own.
        let exposed: HashSet<Slot> = lines.iter().filter(|l| l.flags & OWN != 0).map(|l| l.slot).collect();
        scratch.vanished.extend(scratch.stale.iter().filter(|slot| !exposed.contains(slot)));
        let ahead: HashSet<Slot> =
            scratch.row.own.iter().filter(|own| own.timestamp >= timestamp).map(|own| own.slot).collect();
        // A marker would be older than the sample of the same page.
        scratch.stale.retain(|slot| !ahead.contains(slot));
    }

    /// Takes over what the page said of its metrics, where it is news.
    fn describe(&mut self, described: HashMap<String, Described>) {
        let (mut news, mut added) = (Vec::new(), Vec::new());
        let mut entries = self.metadata.lock();
        if entries.len() + described.len() > METADATA_LIMIT {
            entries.clear();
            self.shape.blocks.iter_mut().for_each(|b| b.len = u32::MAX);
        }
        for (metric, said) in described.into_iter().take(METADATA_LIMIT) {
            let at = entries.binary_search_by(|e| e.metric.as_str().cmp(&metric));
            let old = at.ok().and_then(|at| entries.get(at)).map(|e| &e.metadata);
            // What was not said again stays.
            let mut merged = old.cloned().unwrap_or_default();
            merged.metric_type = said.metric_type.unwrap_or(merged.metric_type);
            merged.help = said.help.unwrap_or(merged.help);
            merged.unit = said.unit.unwrap_or(merged.unit);
            for text in [&mut merged.help, &mut merged.unit] {
                let mut end = text.len().min(MAX_DESCRIPTION);
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                text.truncate(end);
            }
            if old == Some(&merged) {
                continue;
            }
            let (entry, new) = self.table.intern(MetricMetadata { metric, metadata: merged });
            if new {
                news.push((entry.metric.clone(), entry.metadata.clone()));
            }
            match at {
                Ok(at) => entries[at] = entry,
                Err(_) => added.push(entry),
            }
        }
        if !added.is_empty() {
            // Once for all: a page may describe tens of thousands.
            entries.append(&mut added);
            entries.sort_by(|a, b| a.metric.cmp(&b.metric));
        }
        drop(entries);
        if !news.is_empty() {
            self.store.put_metadata(&news);
        }
    }
}
