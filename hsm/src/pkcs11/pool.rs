//! Threads of our own in front of calls that have no timeout.
//!
//! Promises: a caller waits no longer than its deadline, whatever the thread is stuck in; a stuck
//! thread is neither replaced nor waited for, so there are never more threads than sessions; once
//! all are stuck, callers hear so at once instead of after their deadline; when the pool is dropped
//! its threads have left the module, except those that are stuck in it.

use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use super::queue::{Lane, Queue, Refused};
use crate::error::SignerError;
use crate::{environment, lock};

/// What a call is thought to take before any was measured, in microseconds.
const CALL_US: u64 = 1_000;
/// A measured call counts for one in so many.
const CALLS_WEIGHED: u64 = 16;
/// Nobody is told to come back later than this.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long dropping the pool waits for threads that are not stuck.
const END_SECONDS_MAX: u64 = 2;

type Job<W> = Box<dyn FnOnce(&mut W) + Send>;

/// A fixed set of threads, each owning one `W`, behind one queue.
#[derive(Debug)]
pub(super) struct Pool<W> {
    shared: Arc<Shared<W>>,
}

struct Shared<W> {
    queue: Queue<Job<W>>,
    workers: u32,
    /// What calls take, of late, in microseconds.
    call_us: AtomicU64,
    /// Threads inside a call that outlived its caller. Signed: a thread may take itself off just
    /// before its caller has counted it.
    stuck: AtomicI64,
    /// Threads that have not dropped their worker yet.
    alive: Mutex<i64>,
    ended: Condvar,
}

/// Counts a thread out. Held by the thread so that its worker is dropped before.
struct Ending<W>(Arc<Shared<W>>);

impl<W> Drop for Ending<W> {
    fn drop(&mut self) {
        *lock(&self.0.alive) -= 1;
        self.0.ended.notify_all();
    }
}

impl<W> Shared<W> {
    /// Takes in what a call took. Threads that do it at once may lose one: it is an estimate.
    fn measured(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let before = self.call_us.load(Ordering::Relaxed);
        let now = before - before / CALLS_WEIGHED + took / CALLS_WEIGHED;
        self.call_us.store(now.max(1), Ordering::Relaxed);
    }

    /// When so many waiting calls are done.
    fn done_after(&self, queued: usize) -> Duration {
        let queued = u64::try_from(queued).unwrap_or(u64::MAX);
        let each = self.call_us.load(Ordering::Relaxed);
        let us = queued.saturating_mul(each) / u64::from(self.workers.max(1));
        Duration::from_micros(us).clamp(Duration::from_millis(1), RETRY_MAX)
    }
}

impl<W> std::fmt::Debug for Shared<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}

/// What the threads are doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) workers: u32,
    pub(super) idle: u32,
    pub(super) stuck: u32,
    pub(super) queued: u32,
}

/// Where a job is, agreed between its caller and its thread.
#[derive(Debug, Default)]
struct Progress(AtomicU8);

impl Progress {
    const WAITS: u8 = 0;
    const RUNS: u8 = 1;
    const OVERDUE: u8 = 2;
    const DONE: u8 = 3;

    fn step(&self, from: u8, to: u8) -> bool {
        self.0
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

impl<W: Send + 'static> Pool<W> {
    /// Starts one thread for each worker.
    pub(super) fn start(
        name: &str,
        workers: Vec<W>,
        queue_max: usize,
    ) -> Result<Self, SignerError> {
        let count = u32::try_from(workers.len()).unwrap_or(u32::MAX);
        let queue = Queue::new(queue_max);
        let shared = Arc::new(Shared {
            queue,
            workers: count,
            call_us: AtomicU64::new(CALL_US),
            stuck: AtomicI64::new(0),
            alive: Mutex::default(),
            ended: Condvar::new(),
        });
        // Held from here on, so that an error below closes the queue and ends the threads begun.
        let pool = Self {
            shared: Arc::clone(&shared),
        };
        for (n, worker) in workers.into_iter().enumerate() {
            let shared = Arc::clone(&shared);
            *lock(&shared.alive) += 1;
            let ending = Ending(Arc::clone(&shared));
            spawn(format!("{name}-{n}"), move || {
                let _ending = ending;
                let mut worker = worker;
                while let Some(job) = shared.queue.pop() {
                    job(&mut worker);
                }
            })?;
        }
        Ok(pool)
    }

    /// A way to the threads that does not keep them.
    pub(super) fn caller(&self) -> Caller<W> {
        Caller(Arc::clone(&self.shared))
    }

    /// See [`Caller::run`].
    pub(super) async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        after: Duration,
        work: impl FnOnce(&mut W) -> Result<T, SignerError> + Send + 'static,
    ) -> Result<T, SignerError> {
        self.caller().run(lane, after, work).await
    }

    pub(super) fn load(&self) -> Load {
        let (queued, idle) = self.shared.queue.load();
        let small = |count| u32::try_from(count).unwrap_or(u32::MAX);
        Load {
            workers: self.shared.workers,
            idle: small(idle),
            stuck: u32::try_from(self.shared.stuck.load(Ordering::Acquire)).unwrap_or(0),
            queued: small(queued),
        }
    }
}

/// Calls the threads of a pool for as long as it is there.
pub(super) struct Caller<W>(Arc<Shared<W>>);

impl<W: Send + 'static> Caller<W> {
    /// Whether the pool is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.0.queue.is_closed()
    }

    /// Runs `work` on one of the threads.
    ///
    /// A call whose caller left before it began is not begun; one that began goes on.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        after: Duration,
        work: impl FnOnce(&mut W) -> Result<T, SignerError> + Send + 'static,
    ) -> Result<T, SignerError> {
        let shared = &self.0;
        if shared.stuck.load(Ordering::Acquire) >= i64::from(shared.workers) {
            return Err(SignerError::Stalled {
                sessions: shared.workers,
            });
        }
        let (reply, answer) = oneshot::channel();
        let progress = Arc::new(Progress::default());
        let job = {
            let (shared, progress) = (Arc::clone(shared), Arc::clone(&progress));
            Box::new(move |worker: &mut W| {
                if reply.is_closed() || !progress.step(Progress::WAITS, Progress::RUNS) {
                    return;
                }
                let began = environment::now();
                let outcome = work(worker);
                shared.measured(environment::now().saturating_duration_since(began));
                if !progress.step(Progress::RUNS, Progress::DONE) {
                    shared.stuck.fetch_sub(1, Ordering::AcqRel);
                }
                // Nobody waits for it any more: the result of an abandoned call is dropped.
                let _ = reply.send(outcome);
            })
        };
        shared
            .queue
            .push(lane, job)
            .map_err(|refused| match refused {
                Refused::Closed => SignerError::Closed,
                Refused::Full { queued } => SignerError::Busy {
                    retry_after: shared.done_after(queued),
                },
            })?;
        match tokio::time::timeout(after, answer).await {
            Ok(Ok(outcome)) => outcome,
            // Its job was dropped unrun.
            Ok(Err(_)) => Err(SignerError::Closed),
            Err(_) => {
                if progress.step(Progress::RUNS, Progress::OVERDUE) {
                    shared.stuck.fetch_add(1, Ordering::AcqRel);
                }
                Err(SignerError::Deadline { after })
            }
        }
    }
}

impl<W> Drop for Pool<W> {
    /// Waits, for a bounded time: a process that exits while a thread closes its session runs the
    /// module's destructors under that thread's feet, which has crashed SoftHSM.
    fn drop(&mut self) {
        let shared = &self.shared;
        shared.queue.close();
        let limit = Duration::from_secs(END_SECONDS_MAX);
        let is_leaving = |alive: &mut i64| *alive > shared.stuck.load(Ordering::Acquire);
        drop(
            shared
                .ended
                .wait_timeout_while(lock(&shared.alive), limit, is_leaving),
        );
    }
}

/// A thread that is not waited for: it ends with its queue, or hangs in a module for good.
pub(super) fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> Result<(), SignerError> {
    let spawned = thread::Builder::new().name(name).spawn(body);
    spawned
        .map(drop)
        .map_err(|error| SignerError::Thread { kind: error.kind() })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    const LONG: Duration = Duration::from_secs(30);
    const SHORT: Duration = Duration::from_millis(20);

    fn pool(workers: usize, queue_max: usize) -> Pool<()> {
        Pool::start("test", vec![(); workers], queue_max).expect("threads")
    }

    /// A job that tells when it runs and hangs until told to end.
    fn hanging() -> (
        impl FnOnce(&mut ()) -> Result<(), SignerError> + Send + 'static,
        Receiver<()>,
        SyncSender<()>,
    ) {
        let (began_in, began) = sync_channel(1);
        let (end, end_out) = sync_channel(1);
        let job = move |_: &mut ()| {
            began_in.send(()).expect("the test waits for it");
            let _ = end_out.recv();
            Ok(())
        };
        (job, began, end)
    }

    async fn eventually(what: &str, condition: impl Fn() -> bool) {
        let wait = async {
            while !condition() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, wait)
            .await
            .unwrap_or_else(|_| panic!("never: {what}"));
    }

    #[tokio::test]
    async fn a_hanging_call_meets_its_deadline_and_its_thread_comes_back() {
        let pool = pool(1, 8);
        let (job, began, end) = hanging();
        let outcome = pool.run(Lane::Listing, SHORT, job).await;
        assert_eq!(outcome, Err(SignerError::Deadline { after: SHORT }));
        began.recv_timeout(LONG).expect("it ran");

        assert_eq!(pool.load().stuck, 1);
        let refused = pool.run(Lane::Listing, LONG, |_| Ok(())).await;
        assert_eq!(refused, Err(SignerError::Stalled { sessions: 1 }));

        end.send(()).expect("it hangs");
        eventually("the thread is free", || pool.load().stuck == 0).await;
        assert_eq!(pool.run(Lane::Listing, LONG, |_| Ok(7)).await, Ok(7));
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_and_abandoned_calls_are_not_begun() {
        let pool = Arc::new(pool(1, 1));
        let (job, began, end) = hanging();
        let first = {
            let pool = Arc::clone(&pool);
            tokio::spawn(async move { pool.run(Lane::Listing, LONG, job).await })
        };
        eventually("the first runs", || began.try_recv().is_ok()).await;

        let (never, never_out) = sync_channel::<()>(1);
        let second = {
            let pool = Arc::clone(&pool);
            tokio::spawn(async move {
                let job = move |_: &mut ()| {
                    let _ = never.send(());
                    Ok(())
                };
                pool.run(Lane::Listing, LONG, job).await
            })
        };
        eventually("the second waits", || pool.load().queued == 1).await;
        // One waits, at the pace that a call is thought to have.
        let retry_after = Duration::from_micros(CALL_US);
        assert_eq!(
            pool.run(Lane::Listing, LONG, |_| Ok(())).await,
            Err(SignerError::Busy { retry_after })
        );

        second.abort();
        assert!(second.await.expect_err("aborted").is_cancelled());
        end.send(()).expect("it hangs");
        assert_eq!(first.await.expect("joins"), Ok(()));
        eventually("the queue is empty", || pool.load().queued == 0).await;
        // The sender went with the job: it was dropped without having been run.
        assert!(never_out.recv_timeout(LONG).is_err());
    }

    #[tokio::test]
    async fn who_is_refused_hears_when_there_is_room() {
        let pool = pool(4, 8);
        let slow = Duration::from_millis(80);
        for _ in 0..200 {
            pool.shared.measured(slow);
        }
        let told = pool.shared.done_after(100);
        let fair = slow * 100 / 4;
        assert!(told > fair * 9 / 10 && told <= fair, "{told:?}");
        assert_eq!(pool.shared.done_after(1_000_000), RETRY_MAX);
        assert_eq!(pool.shared.done_after(0), Duration::from_millis(1));
    }

    #[tokio::test]
    async fn dropping_the_pool_answers_those_who_wait() {
        let pool = pool(1, 8);
        let (job, began, end) = hanging();
        let hung = pool.run(Lane::Listing, SHORT, job).await;
        assert!(hung.is_err() && began.recv_timeout(LONG).is_ok());
        let shared = Arc::clone(&pool.shared);
        let (reply, answer) = oneshot::channel::<()>();
        let waiting: Job<()> = Box::new(move |()| drop(reply));
        shared.queue.push(Lane::Listing, waiting).expect("room");
        drop(pool);
        assert!(answer.await.is_err());
        end.send(()).expect("it hangs");
    }

    #[tokio::test]
    async fn workers_are_gone_when_the_pool_is() {
        let worker = Arc::new(());
        let pool = Pool::start("test", vec![Arc::clone(&worker); 8], 8).expect("threads");
        assert_eq!(Arc::strong_count(&worker), 9);
        drop(pool);
        assert_eq!(Arc::strong_count(&worker), 1);
    }
}
