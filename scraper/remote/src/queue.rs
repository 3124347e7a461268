//! One destination: a thread that follows the store and encodes requests, and the tasks that send them.
//!
//! The tail is the queue: the thread reads on only while there is room in the lanes, so that memory is bounded by
//! capacity and shards however long the receiver is away, and a place is settled only when all before it was acknowledged
//! or finally refused. Encoding is done by the thread: labels need no lock, and what waits is compressed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use narthex_config::RemoteWriteConfig;
use narthex_config::remote::WriteMessage;
use narthex_model::{Exemplar, Labels};
use narthex_storage::{Followable, Tail, TailSample, TailValue, Tailed};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::client::{Destination, now_ms};
use crate::encode::{Counts, Encoder, Entry, Value, sent_labels};
use crate::lanes::{Lanes, Waiting};
use crate::metrics::{QueueMetrics, Reason};
use crate::quiet::Quiet;
use crate::table::{Found, SeriesTable};
use crate::{Descriptions, send};

/// The longest that the thread waits for anything without looking whether it is to end.
const LOOK: Duration = Duration::from_millis(250);

/// How long what was appended last may take to get into the log, at the end.
const LAST: Duration = Duration::from_millis(50);

/// How often what is known of metrics is asked for anew.
const DESCRIBE: Duration = Duration::from_secs(60);

/// How often likewise when series came.
const DESCRIBE_NEW: Duration = Duration::from_secs(1);

/// How often, a few times, where something was not known.
const DESCRIBE_UNKNOWN: Duration = Duration::from_secs(5);

/// How the thread is to end.
#[derive(Clone, Copy, Debug)]
pub struct Stop {
    /// What is not sent until then is left for later.
    pub deadline: Instant,
    /// Whether to read on to the end of what is stored.
    pub drain: bool,
}

/// What moved, for the number of shards.
#[derive(Debug, Default)]
pub struct Moved {
    pub dropped: AtomicU64,
    pub sent: AtomicU64,
    pub nanos: AtomicU64,
}

/// Log lines that may come often.
#[derive(Debug, Default)]
pub struct QuietLines {
    pub refused: Quiet,
    pub failed: Quiet,
    pub custom_buckets: Quiet,
    pub unknown: Quiet,
    pub missed: Quiet,
    pub store: Quiet,
}

/// What thread and tasks of a queue share.
pub struct Shared {
    pub config: RemoteWriteConfig,
    pub external: Labels,
    pub destination: ArcSwap<Destination>,
    pub lanes: Lanes,
    pub metrics: Arc<QueueMetrics>,
    pub rates: Moved,
    pub quiet: QuietLines,
    /// Ends tasks at once.
    pub hard: CancellationToken,
    /// How many shards there are to be.
    pub wanted: AtomicUsize,
    /// When something was sent last, in ms.
    pub last_sent: AtomicI64,
    /// Until when the number of shards stays as it is, in ms: errors that pass are no reason.
    pub no_reshard_until: AtomicI64,
    pub stop: Mutex<Option<Stop>>,
    /// When the queue started, in ms: what is older may have been sent before.
    pub started: i64,
}

impl Shared {
    /// The oldest timestamp that is sent, in ms; anything where no limit is set.
    pub fn oldest(&self, now: i64) -> i64 {
        let limit = self.config.queue_config.sample_age_limit;
        if limit.is_zero() {
            i64::MIN
        } else {
            now.saturating_sub(i64::try_from(limit.as_millis()).unwrap_or(i64::MAX))
        }
    }

    fn stop(&self) -> Option<Stop> {
        *self.stop.lock()
    }

    fn message(&self) -> WriteMessage {
        self.config.protobuf_message
    }
}

/// Samples that are on their way into one request.
#[derive(Default)]
struct Open {
    entries: Vec<Entry>,
    since: Option<Instant>,
    before: u64,
    clock: u64,
    counts: Counts,
    /// What of them is counted as pending.
    counted: Counts,
}

/// The thread's state.
pub struct Reader {
    pub shared: Arc<Shared>,
    pub store: Arc<dyn Followable>,
    pub tail_name: String,
    pub tail: Option<Box<dyn Tail>>,
    pub runtime: tokio::runtime::Handle,
    pub descriptions: Descriptions,
    table: SeriesTable,
    encoder: Encoder,
    open: Vec<Open>,
    generation: u64,
    /// Behind what was handed out to the lanes.
    read_to: u64,
    clock: u64,
    most: usize,
    line: usize,
    /// What is settled.
    settled: u64,
    /// Of requests that found no place before the end: nothing behind it is settled any more.
    given_up: Option<u64>,
    described: Option<Instant>,
    /// Series came since then.
    new: bool,
    /// How often what is not known is yet to be asked for soon.
    soon: u8,
    tailing: bool,
}

impl Reader {
    pub fn new(
        shared: Arc<Shared>,
        store: Arc<dyn Followable>,
        tail_name: String,
        tail: Option<Box<dyn Tail>>,
        runtime: tokio::runtime::Handle,
        descriptions: Descriptions,
    ) -> Reader {
        let queue = &shared.config.queue_config;
        let size = |n: i64| usize::try_from(n).unwrap_or(1).max(1);
        let most = size(queue.max_samples_per_send);
        let line = (size(queue.capacity) / most).max(1);
        let encoder = Encoder::new(shared.message());
        Reader {
            shared,
            store,
            tail_name,
            tail,
            runtime,
            descriptions,
            table: SeriesTable::default(),
            encoder,
            open: Vec::new(),
            generation: 0,
            read_to: 0,
            clock: 0,
            most,
            line,
            settled: 0,
            given_up: None,
            described: None,
            new: false,
            soon: 0,
            tailing: false,
        }
    }

    /// Follows the store until the queue is to end.
    pub fn run(mut self) {
        self.start_lanes(self.shared.wanted.load(Ordering::Relaxed));
        let Some(mut tail) = self.open_tail() else { return self.shared.hard.cancel() };
        let mut looked = Instant::now();
        loop {
            let stop = self.shared.stop();
            if stop.is_some_and(|s| !s.drain || Instant::now() >= s.deadline) {
                break;
            }
            let wanted = self.shared.wanted.load(Ordering::Relaxed);
            if wanted != self.open.len() && !self.reshard(wanted, &mut *tail) {
                break;
            }
            let wait = if stop.is_some() { LAST } else { self.until_due() };
            let most = self.most.saturating_mul(self.open.len()).clamp(1000, 20_000);
            match tail.next(most, wait) {
                Ok(tailed) => {
                    let empty = tailed.samples.is_empty() && tailed.series.is_empty() && tailed.exemplars.is_empty();
                    if !self.take(tailed, &mut *tail) {
                        break;
                    }
                    self.tailing |= empty;
                    if empty && stop.is_some() {
                        break;
                    }
                }
                Err(e) => {
                    if self.shared.stop().is_some() {
                        break;
                    }
                    if let Some(more) = self.shared.quiet.store.allow() {
                        warn!(tail = self.tail_name, err = %e, not_shown = more, "the store cannot be followed");
                    }
                    std::thread::park_timeout(LOOK);
                    match self.again(tail) {
                        Some(new) => tail = new,
                        None => return self.shared.hard.cancel(),
                    }
                    continue;
                }
            }
            if !self.seal_due(&mut *tail) {
                break;
            }
            self.settle(&mut *tail);
            if looked.elapsed() > LOOK {
                looked = Instant::now();
                self.look(&*tail);
            }
        }
        self.finish(&mut *tail);
    }

    /// The tail; none when the queue ends before the store can be followed.
    fn open_tail(&mut self) -> Option<Box<dyn Tail>> {
        if let Some(tail) = self.tail.take() {
            return Some(tail);
        }
        loop {
            match self.store.tail(&self.tail_name) {
                Ok(tail) => return Some(tail),
                Err(e) => {
                    if let Some(more) = self.shared.quiet.store.allow() {
                        warn!(tail = self.tail_name, err = %e, not_shown = more, "the store cannot be followed");
                    }
                }
            }
            if self.shared.stop().is_some() {
                return None;
            }
            std::thread::park_timeout(LOOK);
        }
    }

    /// Opens the tail anew. It begins at the place that was settled last, and tells all series again; so what is on its way
    /// is waited for, and what is not yet is forgotten.
    fn again(&mut self, mut tail: Box<dyn Tail>) -> Option<Box<dyn Tail>> {
        while self.shared.lanes.oldest().is_some() {
            if self.shared.stop().is_some() {
                return None;
            }
            self.shared.lanes.wait(LOOK);
        }
        self.settle(&mut *tail);
        drop(tail);
        self.table = SeriesTable::default();
        for open in &mut self.open {
            let counted = std::mem::take(open).counted;
            self.shared.metrics.pending(counted, -1.0);
        }
        self.read_to = self.settled;
        self.open_tail()
    }

    fn start_lanes(&mut self, n: usize) {
        let n = n.max(1);
        self.generation = self.shared.lanes.reset(n);
        self.open = (0..n).map(|_| Open::default()).collect();
        self.shared.metrics.shards.set(n as f64);
        for lane in 0..n {
            self.runtime.spawn(send::serve(self.shared.clone(), lane, self.generation));
        }
    }

    /// Changes the number of lanes when all of them are empty, so that no series is overtaken by itself. Whether the
    /// queue goes on.
    fn reshard(&mut self, wanted: usize, tail: &mut dyn Tail) -> bool {
        info!(remote_name = self.shared.metrics.name, from = self.open.len(), to = wanted, "remote storage resharding");
        if !self.seal_all(tail) {
            return false;
        }
        while self.shared.lanes.oldest().is_some() {
            if self.shared.stop().is_some() {
                return true;
            }
            self.shared.lanes.wait(LOOK);
            self.settle(tail);
        }
        self.start_lanes(wanted);
        true
    }

    fn until_due(&self) -> Duration {
        let deadline = self.shared.config.queue_config.batch_send_deadline;
        let due = self.open.iter().filter_map(|o| o.since).min();
        due.map_or(LOOK, |since| deadline.saturating_sub(since.elapsed()).min(LOOK))
    }

    /// Hands out what was read. Whether the queue goes on.
    fn take(&mut self, tailed: Tailed, tail: &mut dyn Tail) -> bool {
        self.clock += 1;
        let second = self.shared.message() == WriteMessage::V2;
        let metrics = self.shared.metrics.clone();
        if tailed.missed > 0 {
            metrics.missed.add(tailed.missed as f64);
            if let Some(more) = self.shared.quiet.missed.allow() {
                error!(
                    remote_name = metrics.name,
                    records = tailed.missed,
                    not_shown = more,
                    "records of the log are lost that were to be sent"
                );
            }
        }
        for (number, labels) in &tailed.series {
            let sent = sent_labels(labels, &self.shared.external, &self.shared.config.write_relabel_configs);
            self.table.tell(*number, labels, sent.as_ref(), second);
        }
        if second {
            self.describe(!tailed.series.is_empty());
        }
        let read = |i: usize, any: bool| metrics.read[i].add(f64::from(u8::from(any)));
        read(0, !tailed.series.is_empty());
        let mut exemplars = if self.shared.config.send_exemplars { tailed.exemplars } else { Vec::new() };
        exemplars.sort_by_key(|(series, _)| *series);
        let mut exemplars: Vec<(u32, Option<Exemplar>)> = exemplars.into_iter().map(|(s, e)| (s, Some(e))).collect();
        read(3, !exemplars.is_empty());
        let oldest = self.shared.oldest(now_ms());
        let (mut floats, mut histograms, mut dropped) = (0u64, 0u64, Counts::default());
        let mut highest = 0;
        for sample in tailed.samples {
            match sample.value {
                TailValue::Float(_) => floats += 1,
                TailValue::Histogram(_) => histograms += 1,
            }
            let Some((slot, lane)) = self.admit(&sample, oldest, &mut dropped) else { continue };
            highest = highest.max(sample.timestamp);
            let TailSample { series, timestamp, start, value } = sample;
            let (value, counts) = match value {
                TailValue::Float(v) => (Value::Float(v), Counts { samples: 1, ..Counts::default() }),
                TailValue::Histogram(h) => (Value::Histogram(h), Counts { histograms: 1, ..Counts::default() }),
            };
            self.put(lane, Entry { slot, timestamp, start, value }, counts);
            if !exemplars.is_empty() {
                let from = exemplars.partition_point(|(s, _)| *s < series);
                let own = exemplars.iter_mut().skip(from).take_while(|(s, _)| *s == series);
                let own: Vec<Exemplar> = own.filter_map(|(_, e)| e.take_if(|e| e.timestamp >= oldest)).collect();
                own.into_iter().for_each(|e| self.put_exemplar(lane, slot, e));
            }
            if self.open[lane].entries.len() >= self.most && !self.seal(lane, tail) {
                return false;
            }
        }
        // Those that came without a sample.
        for (series, exemplar) in exemplars {
            let Some(exemplar) = exemplar else { continue };
            let one = Counts { exemplars: 1, ..Counts::default() };
            match self.table.find(series) {
                _ if exemplar.timestamp < oldest => metrics.dropped.add(Reason::TooOld, one),
                Found::Dropped => metrics.dropped.add(Reason::Dropped, one),
                Found::Unknown => metrics.dropped.add(Reason::Unknown, one),
                Found::Kept(slot, hash) => {
                    let lane = hash as usize % self.open.len();
                    self.put_exemplar(lane, slot, exemplar);
                    if self.open[lane].entries.len() >= self.most && !self.seal(lane, tail) {
                        return false;
                    }
                }
            }
        }
        read(1, floats > 0);
        read(2, histograms > 0);
        if !self.tailing && floats + histograms > 0 {
            metrics.read_before_tailing.inc();
        }
        metrics.dropped.add(Reason::Dropped, dropped);
        self.shared.rates.dropped.fetch_add(dropped.data(), Ordering::Relaxed);
        metrics.highest.see_ms(highest);
        for lane in 0..self.open.len() {
            self.count(lane);
        }
        for number in &tailed.gone {
            self.table.forget(*number, self.clock);
        }
        self.read_to = tailed.position;
        self.release();
        true
    }

    /// Slot and lane of a sample that is to be sent.
    fn admit(&self, sample: &TailSample, oldest: i64, dropped: &mut Counts) -> Option<(u32, usize)> {
        let metrics = &self.shared.metrics;
        let one = || match sample.value {
            TailValue::Float(_) => Counts { samples: 1, ..Counts::default() },
            TailValue::Histogram(_) => Counts { histograms: 1, ..Counts::default() },
        };
        if let TailValue::Histogram(h) = &sample.value {
            if !self.shared.config.send_native_histograms {
                return None;
            }
            if h.uses_custom_buckets() && self.shared.message() == WriteMessage::V1 {
                metrics.dropped.add(Reason::CustomBuckets, one());
                if let Some(more) = self.shared.quiet.custom_buckets.allow() {
                    warn!(
                        remote_name = metrics.name,
                        not_shown = more,
                        "dropped a native histogram with custom buckets: remote write 1.0 does not support it"
                    );
                }
                return None;
            }
        }
        if sample.timestamp < oldest {
            metrics.dropped.add(Reason::TooOld, one());
            return None;
        }
        match self.table.find(sample.series) {
            Found::Kept(slot, hash) => Some((slot, hash as usize % self.open.len())),
            Found::Dropped => {
                let n = one();
                dropped.samples += n.samples;
                dropped.histograms += n.histograms;
                None
            }
            Found::Unknown => {
                metrics.dropped.add(Reason::Unknown, one());
                if let Some(more) = self.shared.quiet.unknown.allow() {
                    warn!(
                        remote_name = metrics.name,
                        series = sample.series,
                        not_shown = more,
                        "dropped a sample of a series that was never told"
                    );
                }
                None
            }
        }
    }

    fn put(&mut self, lane: usize, entry: Entry, counts: Counts) {
        let open = &mut self.open[lane];
        if open.entries.is_empty() {
            open.since = Some(Instant::now());
            open.before = self.read_to;
            open.clock = self.clock;
        }
        open.entries.push(entry);
        open.counts.samples += counts.samples;
        open.counts.histograms += counts.histograms;
        open.counts.exemplars += counts.exemplars;
    }

    fn put_exemplar(&mut self, lane: usize, slot: u32, exemplar: Exemplar) {
        let timestamp = exemplar.timestamp;
        let value = Value::Exemplar(Box::new(exemplar));
        self.put(lane, Entry { slot, timestamp, start: 0, value }, Counts { exemplars: 1, ..Counts::default() });
    }

    /// Counts what came into a lane's open request as pending.
    fn count(&mut self, lane: usize) {
        let open = &mut self.open[lane];
        let (all, counted) = (open.counts, open.counted);
        if all != counted {
            let new = Counts {
                samples: all.samples - counted.samples,
                histograms: all.histograms - counted.histograms,
                exemplars: all.exemplars - counted.exemplars,
                metadata: 0,
            };
            open.counted = all;
            self.shared.metrics.pending(new, 1.0);
        }
    }

    /// Encodes a lane's open request and puts it into line, waiting for room. Whether the queue goes on.
    fn seal(&mut self, lane: usize, tail: &mut dyn Tail) -> bool {
        self.count(lane);
        let open = &mut self.open[lane];
        if open.entries.is_empty() {
            return true;
        }
        let request = self.encoder.encode(&open.entries, &self.table);
        let repeated = request.lowest <= self.shared.started;
        let mut waiting = Waiting { request, before: open.before, repeated };
        open.entries.clear();
        (open.since, open.counts, open.counted) = (None, Counts::default(), Counts::default());
        loop {
            match self.shared.lanes.push(lane, waiting, self.line) {
                Ok(()) => return true,
                Err(back) => waiting = back,
            }
            if self.shared.stop().is_some_and(|s| !s.drain || Instant::now() >= s.deadline) {
                self.given_up = self.given_up.into_iter().chain([waiting.before]).min();
                return false;
            }
            self.shared.metrics.enqueue_retries.inc();
            self.shared.lanes.wait(LOOK);
            // What waits here is in no lane, and not settled either.
            self.settle_below(waiting.before, tail);
            self.look(tail);
        }
    }

    fn seal_due(&mut self, tail: &mut dyn Tail) -> bool {
        let deadline = self.shared.config.queue_config.batch_send_deadline;
        let mut sealed = false;
        for lane in 0..self.open.len() {
            if self.open[lane].since.is_some_and(|since| since.elapsed() >= deadline) {
                sealed = true;
                if !self.seal(lane, tail) {
                    return false;
                }
            }
        }
        if sealed {
            self.release();
        }
        true
    }

    fn seal_all(&mut self, tail: &mut dyn Tail) -> bool {
        (0..self.open.len()).all(|lane| self.seal(lane, tail))
    }

    /// Frees what series are gone and not needed any more.
    fn release(&mut self) {
        let waiting = self.open.iter().filter(|o| !o.entries.is_empty()).map(|o| o.clock).min();
        self.table.release(waiting.unwrap_or(self.clock + 1));
    }

    fn settle(&mut self, tail: &mut dyn Tail) {
        self.settle_below(self.read_to, tail);
    }

    /// Settles what the lanes and the open requests have let go, at most `limit`.
    fn settle_below(&mut self, limit: u64, tail: &mut dyn Tail) {
        let open = self.open.iter().filter(|o| !o.entries.is_empty()).map(|o| o.before);
        let left = open.chain(self.shared.lanes.oldest()).chain(self.given_up);
        let settled = left.min().unwrap_or(limit).min(limit);
        if settled > self.settled {
            self.settled = settled;
            tail.settle(settled);
        }
    }

    /// Asks what is known of metrics, where that is due.
    fn describe(&mut self, new: bool) {
        self.new |= new;
        let every = match () {
            () if self.new => DESCRIBE_NEW,
            () if self.soon > 0 => DESCRIBE_UNKNOWN,
            () => DESCRIBE,
        };
        if self.described.is_some_and(|at| at.elapsed() < every) {
            return;
        }
        self.described = Some(Instant::now());
        self.soon = if self.new { 3 } else { self.soon.saturating_sub(1) };
        self.new = false;
        let all: HashMap<_, _> = (self.descriptions)().into_iter().map(|(n, m)| (n, Arc::new(m))).collect();
        if self.table.describe(&all) {
            self.soon = 0;
        }
    }

    fn look(&self, tail: &dyn Tail) {
        let lag = tail.lag();
        let metrics = &self.shared.metrics;
        metrics.lag_records.set(lag.records as f64);
        metrics.lag_bytes.set(lag.bytes as f64);
        metrics.series.set(self.table.series() as f64);
        metrics.table_bytes.set(self.table.bytes_about() as f64);
    }

    /// Sends what was read until the deadline, and settles it.
    fn finish(&mut self, tail: &mut dyn Tail) {
        let Some(stop) = self.shared.stop() else { return self.shared.hard.cancel() };
        // Where a lane is full, the rest of it is left for later.
        let sealed = self.seal_all(tail);
        while self.shared.lanes.oldest().is_some() && Instant::now() < stop.deadline {
            self.shared.lanes.wait(LOOK);
            self.settle(tail);
        }
        if sealed && self.shared.lanes.oldest().is_none() {
            self.settle(tail);
        } else {
            warn!(
                remote_name = self.shared.metrics.name,
                url = self.shared.metrics.url,
                samples = self.shared.metrics.pending_samples.get(),
                "not all samples were sent before the end: they will be when the queue runs again"
            );
        }
        self.shared.lanes.close();
        self.shared.hard.cancel();
    }
}
