//! A bounded pool of threads for work that computes: evaluating, encoding, hashing.
//!
//! Work whose caller has gone before it started is dropped unstarted. Work that runs is not interrupted from here: it
//! has to look at a flag of its own. When the queue is full, [`CpuPool::run`] answers `Busy` at once.
//!
//! Threads without work sleep at once: a channel's receivers look and yield for some microseconds first, which is in
//! vain where work comes every few milliseconds.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

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

type Job = Box<dyn FnOnce() + Send>;

struct Queue {
    jobs: Mutex<(VecDeque<Job>, bool)>,
    filled: Condvar,
    limit: usize,
}

impl Queue {
    /// The next job, waited for; `None` once the queue is closed and empty.
    fn next(&self) -> Option<Job> {
        let mut jobs = self.jobs.lock();
        loop {
            if let Some(job) = jobs.0.pop_front() {
                return Some(job);
            }
            if jobs.1 {
                return None;
            }
            self.filled.wait(&mut jobs);
        }
    }
}

/// Closes the queue when the last handle goes.
struct Handle(Arc<Queue>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.jobs.lock().1 = true;
        self.0.filled.notify_all();
    }
}

/// Threads that live as long as a handle does.
#[derive(Clone)]
pub struct CpuPool {
    queue: Arc<Handle>,
    busy: Arc<AtomicUsize>,
    threads: usize,
}

impl CpuPool {
    /// # Errors
    /// When the system gives no more threads.
    pub fn new(name: &str, threads: usize, queue: usize) -> std::io::Result<CpuPool> {
        let jobs = Mutex::new((VecDeque::new(), false));
        let queue = Arc::new(Queue { jobs, filled: Condvar::new(), limit: queue.max(1) });
        // Made first, so that threads end where the next one cannot be had.
        let handle = Arc::new(Handle(queue.clone()));
        let busy = Arc::new(AtomicUsize::new(0));
        let threads = threads.max(1);
        for i in 0..threads {
            let (queue, busy) = (queue.clone(), busy.clone());
            std::thread::Builder::new().name(format!("{name}-{i}")).stack_size(8 << 20).spawn(move || {
                while let Some(job) = queue.next() {
                    busy.fetch_add(1, Ordering::Relaxed);
                    job();
                    busy.fetch_sub(1, Ordering::Relaxed);
                }
            })?;
        }
        Ok(CpuPool { queue: handle, busy, threads })
    }

    /// Runs `work` on a thread of the pool and gives its result. Dropping the future before the work starts cancels it.
    ///
    /// # Errors
    /// See [`PoolError`].
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, PoolError> {
        let (done, result) = oneshot::channel();
        let span = tracing::Span::current();
        let job: Job = Box::new(move || {
            if done.is_closed() {
                return;
            }
            let _entered = span.enter();
            let _ = done.send(catch_unwind(AssertUnwindSafe(work)).map_err(|panic| panic_text(&*panic)));
        });
        let queue = &self.queue.0;
        {
            let mut jobs = queue.jobs.lock();
            if jobs.0.len() >= queue.limit {
                return Err(PoolError::Busy);
            }
            jobs.0.push_back(job);
        }
        queue.filled.notify_one();
        match result.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(panic)) => Err(PoolError::Panicked(panic)),
            Err(_) => Err(PoolError::Closed),
        }
    }

    /// Threads that compute right now.
    pub fn busy(&self) -> usize {
        self.busy.load(Ordering::Relaxed)
    }

    pub fn threads(&self) -> usize {
        self.threads
    }
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
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (started, has_started) = std::sync::mpsc::channel::<()>();
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
}
