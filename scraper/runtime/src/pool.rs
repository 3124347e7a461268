//! A bounded pool of threads for work that computes: evaluating, encoding, hashing.
//!
//! Work is a plain closure or a future; a future that waits takes no thread. What a caller who has gone wanted is dropped,
//! if it has not started or waits. Work that computes is not interrupted from here: it has to look at a flag of its own.
//! When the queue is full, new work is refused at once (`Busy`).

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tracing::Instrument;

/// Bytes of stack of a thread that evaluates.
pub const STACK: usize = 8 << 20;

/// Why work was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// The queue is full.
    #[error("all workers are busy and the queue is full")]
    Busy,
    /// The pool was closed.
    #[error("the pool is closed")]
    Closed,
    /// The work panicked; the message is the panic's.
    #[error("panic: {0}")]
    Panicked(String),
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Threads that live as long as a handle does.
#[derive(Clone)]
pub struct CpuPool(Arc<Handle>);

/// What the handles have; the threads have what it leads to.
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.closed = true;
        queue.idle.drain(..).for_each(|thread| thread.unpark());
    }
}

struct Shared {
    queue: Mutex<Queue>,
    /// Most tasks that wait.
    limit: usize,
    busy: AtomicUsize,
    threads: usize,
}

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Arc<Task>>,
    /// Threads that sleep. Whoever slept last is woken first: its caches are the warmest. A queue whose receivers spin
    /// before they sleep, as channels do, costs more than most queries.
    idle: Vec<Thread>,
    closed: bool,
}

impl Queue {
    fn push(&mut self, task: Arc<Task>) {
        self.tasks.push_back(task);
        if let Some(thread) = self.idle.pop() {
            thread.unpark();
        }
    }
}

impl Shared {
    /// The next task; none when the pool is closed and nothing waits.
    fn next(&self) -> Option<Arc<Task>> {
        let me = thread::current();
        loop {
            let mut queue = self.queue.lock();
            // Still there after a wake-up that came from elsewhere: who works must not be called.
            queue.idle.retain(|t| t.id() != me.id());
            if let Some(task) = queue.tasks.pop_front() {
                return Some(task);
            }
            if queue.closed {
                return None;
            }
            queue.idle.push(me.clone());
            drop(queue);
            thread::park();
        }
    }

    fn submit(&self, task: Arc<Task>) -> Result<(), PoolError> {
        let mut queue = self.queue.lock();
        if queue.tasks.len() >= self.limit {
            return Err(PoolError::Busy);
        }
        queue.push(task);
        Ok(())
    }

    /// Work that was begun goes on however many wait.
    fn resume(&self, task: Arc<Task>) {
        let mut queue = self.queue.lock();
        if !queue.closed {
            queue.push(task);
        }
    }
}

/// A future that is polled on the pool's threads.
struct Task {
    work: Mutex<Option<Work>>,
    state: AtomicU8,
    shared: Arc<Shared>,
}

/// Waits for its waker, waits for a thread, is polled, is polled and has been woken meanwhile.
const WAITING: u8 = 0;
const QUEUED: u8 = 1;
const POLLED: u8 = 2;
const WOKEN: u8 = 3;

impl Task {
    fn poll(self: Arc<Self>) {
        self.state.store(POLLED, Ordering::Release);
        let waker = Waker::from(self.clone());
        let mut slot = self.work.lock();
        let Some(work) = slot.as_mut() else { return };
        if work.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            *slot = None;
            return;
        }
        drop(slot);
        if self.state.compare_exchange(POLLED, WAITING, Ordering::AcqRel, Ordering::Acquire).is_err() {
            self.state.store(QUEUED, Ordering::Release);
            self.shared.resume(self.clone());
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let next = |state| match state {
            WAITING => Some(QUEUED),
            POLLED => Some(WOKEN),
            _ => None,
        };
        if self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, next) == Ok(WAITING) {
            self.shared.resume(self.clone());
        }
    }
}

impl CpuPool {
    /// # Errors
    /// When the system gives no more threads.
    pub fn new(name: &str, threads: usize, queue: usize) -> std::io::Result<CpuPool> {
        let threads = threads.max(1);
        let shared = Shared { queue: Mutex::default(), limit: queue.max(1), busy: AtomicUsize::new(0), threads };
        let pool = CpuPool(Arc::new(Handle(Arc::new(shared))));
        for i in 0..threads {
            let shared = pool.0.0.clone();
            thread::Builder::new().name(format!("{name}-{i}")).stack_size(STACK).spawn(move || {
                while let Some(task) = shared.next() {
                    shared.busy.fetch_add(1, Ordering::Relaxed);
                    task.poll();
                    shared.busy.fetch_sub(1, Ordering::Relaxed);
                }
            })?;
        }
        Ok(pool)
    }

    /// Runs `work` on a thread of the pool and gives its result. Dropping the future before the work starts cancels it.
    ///
    /// # Errors
    /// See [`PoolError`].
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, PoolError> {
        self.drive(async { work() }).await
    }

    /// Polls `work` on threads of the pool, within the runtime of the caller, and gives its result. Dropping the future
    /// cancels it where it waits.
    ///
    /// # Errors
    /// See [`PoolError`].
    pub async fn drive<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, PoolError> {
        let (task, result) = self.task(work);
        self.0.0.submit(task)?;
        outcome(result).await
    }

    /// The same for what is done sooner than a change of threads: polls it here, and on threads of the pool only when it
    /// has waited or [made way](make_way).
    ///
    /// # Errors
    /// See [`PoolError`].
    pub async fn begin<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, PoolError> {
        let (task, result) = self.task(work);
        BEGUN_HERE.set(true);
        task.poll();
        BEGUN_HERE.set(false);
        outcome(result).await
    }

    fn task<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> (Arc<Task>, Outcome<T>) {
        let (mut done, result) = oneshot::channel();
        let runtime = tokio::runtime::Handle::try_current().ok();
        let mut work = Box::pin(work.instrument(tracing::Span::current()));
        let work = async move {
            let poll = std::future::poll_fn(|cx| {
                // Wakes this when the caller goes, too.
                if done.poll_closed(cx).is_ready() {
                    return Poll::Ready(None);
                }
                let _within = runtime.as_ref().map(tokio::runtime::Handle::enter);
                match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
                    Ok(poll) => poll.map(|value| Some(Ok(value))),
                    Err(panic) => Poll::Ready(Some(Err(panic_text(&*panic)))),
                }
            });
            if let Some(outcome) = poll.await {
                let _ = done.send(outcome);
            }
        };
        let shared = self.0.0.clone();
        let task = Task { work: Mutex::new(Some(Box::pin(work))), state: AtomicU8::new(QUEUED), shared };
        (Arc::new(task), result)
    }

    /// Threads that compute right now.
    pub fn busy(&self) -> usize {
        self.0.0.busy.load(Ordering::Relaxed)
    }

    pub fn threads(&self) -> usize {
        self.0.0.threads
    }
}

/// What comes of a task, or the text of its panic.
type Outcome<T> = oneshot::Receiver<Result<T, String>>;

async fn outcome<T>(result: Outcome<T>) -> Result<T, PoolError> {
    match result.await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(panic)) => Err(PoolError::Panicked(panic)),
        Err(_) => Err(PoolError::Closed),
    }
}

thread_local! {
    /// Whether what this thread polls was [begun](CpuPool::begin) by it.
    static BEGUN_HERE: Cell<bool> = const { Cell::new(false) };
}

/// Whether what runs was [begun](CpuPool::begin) on this thread, which is not one of the pool's.
pub fn is_begun_here() -> bool {
    BEGUN_HERE.get()
}

/// To be awaited by work that turns out to take long: it goes on on a thread of the pool, if it was
/// [begun](CpuPool::begin) on another.
pub async fn make_way() {
    let mut made = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut made, true) || !is_begun_here() {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The text of a panic's payload.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[tokio::test]
    async fn runs_and_survives_a_panic() {
        let pool = CpuPool::new("t", 1, 8).unwrap();
        assert_eq!(pool.run(|| 1 + 1).await, Ok(2));
        assert_eq!(pool.run(|| panic!("oh")).await, Err::<(), _>(PoolError::Panicked("oh".into())));
        assert_eq!(pool.run(|| 3).await, Ok(3));
    }

    #[tokio::test]
    async fn drops_work_whose_caller_has_gone_and_refuses_when_full() {
        let pool = CpuPool::new("t", 1, 1).unwrap();
        let (go, wait) = std::sync::mpsc::sync_channel::<()>(0);
        let (started, has_started) = std::sync::mpsc::sync_channel::<()>(1);
        let blocker = tokio::spawn({
            let pool = pool.clone();
            async move {
                pool.run(move || {
                    let _ = started.send(());
                    let _ = wait.recv();
                })
                .await
            }
        });
        tokio::task::spawn_blocking(move || has_started.recv()).await.unwrap().unwrap();
        let ran = Arc::new(AtomicBool::new(false));
        let mut queued = Box::pin(pool.run({
            let ran = ran.clone();
            move || ran.store(true, Ordering::SeqCst)
        }));
        assert!(futures::poll!(&mut queued).is_pending());
        assert_eq!(pool.run(|| ()).await, Err(PoolError::Busy));
        drop(queued);
        drop(go);
        blocker.await.unwrap().unwrap();
        // The worker may still have to take the dropped work off the queue.
        let mut after = pool.run(|| 7).await;
        for _ in 0..10_000 {
            if after != Err(PoolError::Busy) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            after = pool.run(|| 7).await;
        }
        assert_eq!(after, Ok(7));
        assert!(!ran.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn no_job_waits_while_a_thread_sleeps() {
        let pool = CpuPool::new("t", 2, 8).unwrap();
        for _ in 0..500 {
            // Each of the two ends only when the other runs.
            let barrier = Arc::new(std::sync::Barrier::new(2));
            let meet = || {
                let barrier = barrier.clone();
                pool.run(move || barrier.wait().is_leader())
            };
            let both = futures::future::join(meet(), meet());
            let met = tokio::time::timeout(std::time::Duration::from_secs(60), both).await;
            let (a, b) = met.expect("a job waits for ever");
            assert!(a.unwrap() != b.unwrap());
        }
    }

    #[tokio::test]
    async fn threads_end_with_the_last_handle() {
        let pool = CpuPool::new("t", 3, 8).unwrap();
        let other = pool.clone();
        let shared = Arc::downgrade(&pool.0.0);
        drop(pool);
        assert_eq!(other.run(|| 1).await, Ok(1));
        drop(other);
        for _ in 0..10_000 {
            if shared.strong_count() == 0 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        panic!("threads are left");
    }

    #[tokio::test]
    async fn futures_wait_without_a_thread_and_go_with_their_caller() {
        let pool = CpuPool::new("t", 1, 8).unwrap();
        let (send, receive) = oneshot::channel::<u32>();
        // A timer needs the caller's runtime.
        let waits = pool.drive(async move {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            let name = thread::current().name().map(str::to_owned);
            (receive.await, name)
        });
        let other = async {
            assert_eq!(pool.run(|| 7).await, Ok(7));
            send.send(8).unwrap();
        };
        let (waited, ()) = futures::future::join(waits, other).await;
        assert_eq!(waited, Ok((Ok(8), Some("t-0".to_owned()))));
        assert_eq!(pool.drive(async { panic!("oh") }).await, Err::<(), _>(PoolError::Panicked("oh".into())));
        // Woken while it is polled.
        let mut polls = 0;
        let yields = std::future::poll_fn(move |cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            if polls < 3 { Poll::Pending } else { Poll::Ready(polls) }
        });
        let polled = tokio::time::timeout(std::time::Duration::from_secs(60), pool.drive(yields)).await;
        assert_eq!(polled.expect("a wake-up was lost"), Ok(3));
        // What is begun here goes on where it was until it waits or makes way.
        let name = || thread::current().name().map(str::to_owned);
        let here = name();
        assert_eq!(pool.begin(async move { name() }).await, Ok(here.clone()));
        let moved = pool.begin(async move {
            let first = name();
            make_way().await;
            let second = name();
            make_way().await;
            (first, second, name())
        });
        assert_eq!(moved.await, Ok((here, Some("t-0".to_owned()), Some("t-0".to_owned()))));
        assert_eq!(pool.begin(async { panic!("oh") }).await, Err::<(), _>(PoolError::Panicked("oh".into())));
        // What a caller wanted who does not wait for it goes as well.
        let (held, dropped) = oneshot::channel::<()>();
        let mut left = Box::pin(pool.drive(async move {
            futures::future::pending::<()>().await;
            drop(held);
        }));
        assert!(futures::poll!(&mut left).is_pending());
        assert_eq!(pool.run(|| 1).await, Ok(1));
        drop(left);
        assert!(tokio::time::timeout(std::time::Duration::from_secs(60), dropped).await.is_ok_and(|d| d.is_err()));
    }
}
