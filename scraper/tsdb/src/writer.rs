//! The one thread that writes the log, and the one that syncs it.
//!
//! Appenders queue their records; the writer takes what has gathered in a few milliseconds and writes it as one batch,
//! for a write of its own costs over 100 µs. A record's [`Durable`] resolves after that write.
//!
//! Rows are differences to the rows before them, so a record must never be skipped: a batch that cannot be written is
//! kept and tried again until it can be; RocksDB is opened anew for that, as it does not come back by itself from most
//! errors. Meanwhile appends are refused ([`Writer::refusal`]), so that what waits stays bounded and nothing is in
//! memory that the log will miss. The same holds while a slow disk lets too much gather.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::FutureExt;
use futures::channel::oneshot;
use narthex_storage::{Durable, ErrorKind, StorageError};
use parking_lot::{Condvar, Mutex};

use crate::db::{Db, Op};
use crate::follow::Follow;
use crate::{Observer, Took, TsdbError};

/// How many records may wait. When the queue is full, appenders wait: a stall of the disk slows scrapes.
const QUEUE: usize = 4096;
/// How long records gather before they are written.
const GATHER: Duration = Duration::from_millis(2);
const BATCH_BYTES: usize = 4 << 20;
const RETRY: Duration = Duration::from_millis(250);
/// The database is opened anew after so many failed attempts, and again after as many.
const HEAL_AFTER: u32 = 4;
/// Appends are refused while so much waits to be written; a queue that is full would hold their threads up.
const MAX_WAITING: usize = QUEUE / 2;
const MAX_WAITING_BYTES: usize = 64 << 20;

struct Message {
    ops: Vec<Op>,
    done: Option<oneshot::Sender<Result<(), Arc<str>>>>,
}

/// Records on their way to the writer. It sleeps at once when there are none; a channel's receiver looks and yields for
/// some microseconds first, which is in vain where records come every few milliseconds.
#[derive(Default)]
struct Queue {
    messages: Mutex<(VecDeque<Message>, bool)>,
    filled: Condvar,
    room: Condvar,
}

impl Queue {
    /// Waits while the queue is full. `false`: it is closed.
    fn push(&self, message: Message) -> bool {
        let mut messages = self.messages.lock();
        while messages.0.len() >= QUEUE && !messages.1 {
            self.room.wait(&mut messages);
        }
        if messages.1 {
            return false;
        }
        messages.0.push_back(message);
        // Only who found it empty sleeps.
        if messages.0.len() == 1 {
            self.filled.notify_one();
        }
        true
    }

    fn close(&self) {
        self.messages.lock().1 = true;
        self.filled.notify_all();
        self.room.notify_all();
    }

    /// How many there are; waits for one if need be. `None` once the queue is closed and empty.
    fn wait(&self, timeout: Duration) -> Option<usize> {
        let mut messages = self.messages.lock();
        if messages.0.is_empty() && !messages.1 {
            self.filled.wait_for(&mut messages, timeout);
        }
        if messages.0.is_empty() && messages.1 { None } else { Some(messages.0.len()) }
    }

    /// Moves messages into `batch`, some bytes of them; how many bytes.
    fn take(&self, batch: &mut Vec<Message>, bytes: usize) -> usize {
        let mut messages = self.messages.lock();
        let mut taken = 0;
        while taken < bytes
            && let Some(next) = messages.0.pop_front()
        {
            taken += size(&next);
            batch.push(next);
        }
        self.room.notify_all();
        taken
    }
}

/// When the writer ends, whatever the reason, nobody is to wait for it.
struct End<'a>(&'a Queue);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.close();
        self.0.messages.lock().0.clear();
    }
}

#[derive(Debug, Default)]
pub struct WriterFigures {
    pub batches: AtomicU64,
    pub records: AtomicU64,
    pub bytes: AtomicU64,
    pub failures: AtomicU64,
    pub syncs: AtomicU64,
    pub sync_failures: AtomicU64,
}

struct Shared {
    db: Arc<Db>,
    follow: Arc<Follow>,
    queue: Queue,
    failing: AtomicBool,
    reason: Mutex<Option<Arc<str>>>,
    dirty: AtomicBool,
    /// What is queued and not written yet.
    waiting: AtomicUsize,
    waiting_bytes: AtomicUsize,
    /// Appends are refused because too much waits.
    slow: AtomicBool,
    /// No more records come: what cannot be written now never will be.
    closing: AtomicBool,
    stop: Mutex<bool>,
    stopped: Condvar,
    figures: WriterFigures,
    observer: Observer,
}

pub struct Writer {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
    syncer: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        db: Arc<Db>,
        follow: Arc<Follow>,
        sync_interval: Duration,
        observer: Observer,
    ) -> Result<Writer, TsdbError> {
        let shared = Arc::new(Shared {
            db,
            follow,
            queue: Queue::default(),
            failing: AtomicBool::new(false),
            reason: Mutex::new(None),
            dirty: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            waiting_bytes: AtomicUsize::new(0),
            slow: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            stop: Mutex::new(false),
            stopped: Condvar::new(),
            figures: WriterFigures::default(),
            observer,
        });
        if let Some(why) = shared.db.read_only() {
            shared.fail(&why);
        }
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.into()).spawn(run).map_err(TsdbError::Thread)
        };
        let (a, b) = (shared.clone(), shared.clone());
        let writer = spawn("tsdb-writer", Box::new(move || a.write_all()))?;
        let syncer = spawn("tsdb-sync", Box::new(move || b.sync_all(sync_interval)))?;
        Ok(Writer { shared, writer: Mutex::new(Some(writer)), syncer: Mutex::new(Some(syncer)) })
    }

    /// Why nothing can be appended now, if so.
    pub fn refusal(&self) -> Option<StorageError> {
        let shared = &self.shared;
        let refuse =
            |why: &str| Some(StorageError::new(ErrorKind::Unavailable, format!("the store cannot write: {why}")));
        if shared.failing.load(Ordering::Acquire) {
            return refuse(&shared.reason.lock().clone()?);
        }
        let why = shared.too_slow()?;
        if !shared.slow.swap(true, Ordering::AcqRel) {
            tracing::error!(reason = why, "the disk is too slow: refusing samples until it has caught up");
        }
        refuse(&why)
    }

    /// What keeps the store from writing, if something does.
    pub fn reason(&self) -> Option<Arc<str>> {
        let slow = || self.shared.too_slow().map(Arc::from);
        self.shared.reason.lock().clone().or_else(slow)
    }

    pub fn figures(&self) -> &WriterFigures {
        &self.shared.figures
    }

    /// Queues a record. Records of one caller are written in their order.
    ///
    /// # Errors
    /// When the store is closed.
    pub fn submit(&self, ops: Vec<Op>) -> Result<Durable, StorageError> {
        let (done, written) = oneshot::channel();
        self.send(Message { ops, done: Some(done) })?;
        Ok(async move {
            match written.await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(reason)) => Err(StorageError::new(ErrorKind::Unavailable, format!("write the log: {reason}"))),
                Err(_) => Err(StorageError::new(ErrorKind::Cancelled, "the store was closed")),
            }
        }
        .boxed())
    }

    fn send(&self, message: Message) -> Result<(), StorageError> {
        let shared = &self.shared;
        let bytes = size(&message);
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        shared.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        if shared.queue.push(message) {
            return Ok(());
        }
        shared.waiting.fetch_sub(1, Ordering::Relaxed);
        shared.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        Err(StorageError::new(ErrorKind::Unavailable, "the store is closed"))
    }

    /// Writes what is queued, syncs, and ends the threads.
    pub fn stop(&self) {
        self.shared.queue.close();
        self.shared.closing.store(true, Ordering::Release);
        let join = |thread: &Mutex<Option<JoinHandle<()>>>| {
            if thread.lock().take().is_some_and(|t| t.join().is_err()) {
                tracing::error!("a thread of the store panicked");
            }
        };
        join(&self.writer);
        *self.shared.stop.lock() = true;
        self.shared.stopped.notify_all();
        join(&self.syncer);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn write_all(&self) {
        let mut batch: Vec<Message> = Vec::new();
        let _end = End(&self.queue);
        while let Some(found) = self.queue.wait(RETRY * HEAL_AFTER) {
            if found == 0 {
                // Opened while the disk took no writes: nobody may have anything to write now.
                if self.failing.load(Ordering::Acquire) && self.db.heal("") {
                    self.recovered();
                }
                continue;
            }
            if found == 1 {
                std::thread::park_timeout(GATHER);
            }
            let bytes = self.queue.take(&mut batch, BATCH_BYTES);
            if !self.write_batch(&mut batch) {
                return;
            }
            self.figures.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            let waiting = self.waiting.fetch_sub(batch.len(), Ordering::Relaxed) - batch.len();
            let waiting_bytes = self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed) - bytes;
            if waiting < MAX_WAITING / 2
                && waiting_bytes < MAX_WAITING_BYTES / 2
                && self.slow.swap(false, Ordering::AcqRel)
            {
                tracing::info!("the disk has caught up");
            }
            batch.clear();
        }
    }

    /// Writes until it succeeds. `false`: given up, as the store is being closed.
    fn write_batch(&self, batch: &mut [Message]) -> bool {
        let mut attempts = 0;
        loop {
            match self.db.write(batch.iter().flat_map(|m| &m.ops)) {
                Ok(()) => break,
                Err(e) => {
                    self.figures.failures.fetch_add(1, Ordering::Relaxed);
                    let reason = self.fail(&chain(&e));
                    for done in batch.iter_mut().filter_map(|m| m.done.take()) {
                        let _ = done.send(Err(reason.clone()));
                    }
                    if self.closing.load(Ordering::Acquire) {
                        tracing::error!(records = batch.len(), "closing although records could not be written");
                        return false;
                    }
                    attempts += 1;
                    if attempts % HEAL_AFTER == 0 && self.db.heal(&reason) {
                        continue;
                    }
                    std::thread::park_timeout(RETRY);
                }
            }
        }
        self.recovered();
        self.follow.note_written(batch.iter().flat_map(|m| &m.ops));
        self.dirty.store(true, Ordering::Release);
        self.figures.batches.fetch_add(1, Ordering::Relaxed);
        self.figures.records.fetch_add(batch.len() as u64, Ordering::Relaxed);
        for done in batch.iter_mut().filter_map(|m| m.done.take()) {
            let _ = done.send(Ok(()));
        }
        true
    }

    /// Notes that nothing can be written; the reason as it is kept.
    fn fail(&self, why: &str) -> Arc<str> {
        let reason: Arc<str> = why.into();
        if self.reason.lock().replace(reason.clone()).is_none() {
            tracing::error!(reason = why, "the store cannot write; trying again until it can");
        }
        self.failing.store(true, Ordering::Release);
        reason
    }

    fn recovered(&self) {
        if self.failing.swap(false, Ordering::AcqRel) {
            *self.reason.lock() = None;
            tracing::info!("the store can write again");
        }
    }

    fn too_slow(&self) -> Option<String> {
        let (records, bytes) = (self.waiting.load(Ordering::Relaxed), self.waiting_bytes.load(Ordering::Relaxed));
        let much = records >= MAX_WAITING || bytes >= MAX_WAITING_BYTES;
        much.then(|| format!("the disk does not keep up, {records} records ({bytes} bytes) wait"))
    }

    fn sync_all(&self, interval: Duration) {
        loop {
            let mut stop = self.stop.lock();
            if !*stop {
                self.stopped.wait_for(&mut stop, interval);
            }
            let last = *stop;
            drop(stop);
            if self.dirty.swap(false, Ordering::AcqRel) {
                match self.observer.time(Took::LogSync, || self.db.sync()) {
                    Ok(()) => self.figures.syncs.fetch_add(1, Ordering::Relaxed),
                    Err(e) => {
                        self.dirty.store(true, Ordering::Release);
                        // While nothing can be written either, that has been said.
                        if !self.failing.load(Ordering::Acquire) {
                            tracing::warn!(error = chain(&e), "the log could not be synced");
                        }
                        self.figures.sync_failures.fetch_add(1, Ordering::Relaxed)
                    }
                };
            }
            if last {
                return;
            }
        }
    }
}

fn size(message: &Message) -> usize {
    message.ops.iter().map(|op| if let Op::Put(_, k, v) = op { k.len() + v.len() } else { 16 }).sum()
}

/// An error with its causes.
pub fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::{DbOptions, Family};

    #[test]
    fn a_slow_disk_refuses_before_it_blocks() {
        let folder = tempfile::tempdir().unwrap();
        let options = DbOptions {
            block_cache_bytes: 1 << 20,
            head_buffer_bytes: 1 << 20,
            background_jobs: 1,
            ..DbOptions::default()
        };
        let db = Arc::new(Db::open(folder.path(), &options).unwrap());
        let writer = Writer::start(db.clone(), Arc::default(), Duration::from_secs(1), Observer::default()).unwrap();
        let stall = db.gate.lock();
        let mut durable = Vec::new();
        while writer.refusal().is_none() {
            let key = (durable.len() as u64).to_be_bytes().to_vec();
            durable.push(writer.submit(vec![Op::Put(Family::Head, key, vec![7; 100])]).unwrap());
        }
        assert!(durable.len() < QUEUE, "{}", durable.len());
        assert!(writer.reason().is_some_and(|r| r.contains("does not keep up")));
        drop(stall);
        for d in durable {
            futures::executor::block_on(d).unwrap();
        }
        let start = std::time::Instant::now();
        while writer.refusal().is_some() {
            assert!(start.elapsed() < Duration::from_secs(60));
            std::thread::yield_now();
        }
        assert!(writer.reason().is_none());
    }

    #[test]
    fn what_is_queued_when_the_writer_ends_is_answered() {
        let folder = tempfile::tempdir().unwrap();
        let db = Arc::new(Db::open(folder.path(), &DbOptions::default()).unwrap());
        let writer = Arc::new(Writer::start(db, Arc::default(), Duration::from_secs(1), Observer::default()).unwrap());
        let put = |n: u64| writer.submit(vec![Op::Put(Family::Head, n.to_be_bytes().to_vec(), vec![7; 100])]);
        let durable: Vec<_> = (0..2 * QUEUE as u64).map(|n| put(n).unwrap()).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| writer.stop());
            for d in durable {
                futures::executor::block_on(d).unwrap();
            }
        });
        assert!(put(0).is_err(), "it has ended");
        // As after a panic of the thread.
        let queue = Queue::default();
        let (done, written) = oneshot::channel();
        assert!(queue.push(Message { ops: Vec::new(), done: Some(done) }));
        drop(End(&queue));
        assert!(futures::executor::block_on(written).is_err());
        assert!(!queue.push(Message { ops: Vec::new(), done: None }));
    }
}
