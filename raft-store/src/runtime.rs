//! Tasks, blocking work and randomness of consensus: the seam under openraft, the
//! log writer and the snapshot threads.
//!
//! A real node uses tokio, threads of its own for what blocks, and the system's
//! random numbers. A simulation puts a [`Host`] around the code that it runs: tasks,
//! blocking work, random numbers and Raft's clock then come from there, so that one seed decides
//! them, and the tasks of one node can be paused and dropped together.
//!
//! What is spawned inherits the host: the host is current whenever it polls a task.

mod instant;

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use openraft::OptionalSend;
use openraft::impls::TokioRuntime;
use openraft::type_config::AsyncRuntime;
use rand::TryRng;
use tokio::sync::oneshot;

pub use instant::Instant;

/// What a simulated node runs on.
pub trait Host: Send + Sync + 'static {
    /// Runs a task until it ends or the node is killed.
    fn spawn(&self, task: BoxFuture<'static, ()>);

    /// Runs blocking storage work, named for what it does, and takes the time that the
    /// simulated disk needs for it. A killed node's work is dropped.
    fn storage(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()>;

    /// The next random number of the node.
    fn random(&self) -> u64;

    /// What the node's own monotonic clock shows at a moment.
    fn shown(&self, moment: tokio::time::Instant) -> tokio::time::Instant;

    /// The moment at which that clock shows this.
    fn moment(&self, shown: tokio::time::Instant) -> tokio::time::Instant;
}

thread_local! {
    static HOST: RefCell<Option<Arc<dyn Host>>> = const { RefCell::new(None) };
}

/// Calls `run` with `host` as the current one.
pub fn within<T>(host: &Arc<dyn Host>, run: impl FnOnce() -> T) -> T {
    /// Puts back what was current before, also when `run` panics.
    struct Before(Option<Arc<dyn Host>>);
    impl Drop for Before {
        fn drop(&mut self) {
            HOST.with(|current| *current.borrow_mut() = self.0.take());
        }
    }
    let _before = Before(HOST.with(|current| current.replace(Some(Arc::clone(host)))));
    run()
}

fn host() -> Option<Arc<dyn Host>> {
    HOST.with(|current| current.borrow().clone())
}

/// Spawns a task on the current tokio runtime, or on the current host.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let Some(host) = host() else {
        return JoinHandle(Handle::Tokio(tokio::spawn(future)));
    };
    let (done, wait) = oneshot::channel();
    host.spawn(Box::pin(async move {
        // Whoever spawned it need not wait for it.
        let _ = done.send(future.await);
    }));
    JoinHandle(Handle::Hosted(wait))
}

/// Runs blocking work on a thread of its own, or on the current host; the receiver
/// fails when the work panicked.
///
/// # Errors
/// The thread cannot be started.
pub fn blocking<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    let (done, wait) = oneshot::channel();
    match host() {
        None => {
            std::thread::Builder::new()
                .name(name.into())
                .spawn(move || {
                    // Whoever waited may be gone.
                    let _ = done.send(work());
                })?;
        }
        Some(host) => {
            let (on, name) = (Arc::clone(&host), name.to_owned());
            host.spawn(Box::pin(async move {
                if let Some(result) = storage_on(&*on, &name, work).await {
                    let _ = done.send(result);
                }
            }));
        }
    }
    Ok(wait)
}

/// A thread that owns storage. Dropping it waits for its end; on a host there is
/// nothing to wait for.
pub(crate) struct Worker(Option<std::thread::JoinHandle<()>>);

impl Worker {
    /// Drives `work`, which may block, to its end.
    pub(crate) fn start(
        name: &str,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<Self> {
        if let Some(host) = host() {
            host.spawn(Box::pin(work));
            return Ok(Self(None));
        }
        let driver = tokio::runtime::Builder::new_current_thread().build()?;
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || driver.block_on(work))?;
        Ok(Self(Some(thread)))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // A panic there was reported by the hook; its callers got errors.
            let _ = thread.join();
        }
    }
}

/// Runs blocking storage work on the calling thread, which must be a [`Worker`]; on a
/// host it takes the time of the simulated disk. `None` when the node was killed.
pub(crate) async fn storage<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    match host() {
        None => Some(work()),
        Some(host) => storage_on(&*host, name, work).await,
    }
}

async fn storage_on<T: Send + 'static>(
    host: &dyn Host,
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done, mut wait) = oneshot::channel();
    let work = move || {
        let _ = done.send(work());
    };
    host.storage(name, Box::new(work)).await;
    wait.try_recv().ok()
}

/// Handle of a spawned task. Dropping it lets the task run on.
pub struct JoinHandle<T>(Handle<T>);

enum Handle<T> {
    Tokio(tokio::task::JoinHandle<T>),
    Hosted(oneshot::Receiver<T>),
}

/// The task has no result.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// It panicked, or its runtime has shut down.
    #[error(transparent)]
    Tokio(#[from] tokio::task::JoinError),
    /// Its node was killed.
    #[error("the node of the task was killed")]
    Killed,
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Handle::Tokio(task) => Pin::new(task).poll(context).map_err(JoinError::Tokio),
            Handle::Hosted(wait) => Pin::new(wait).poll(context).map_err(|_| JoinError::Killed),
        }
    }
}

/// Random numbers of the system, or of the current host.
pub struct Random(Source);

enum Source {
    System(<TokioRuntime as AsyncRuntime>::ThreadLocalRng),
    Host(Arc<dyn Host>),
}

impl TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        // The upper half, as rand's own generators of 64 bits do it.
        self.try_next_u64().map(|number| (number >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        match &mut self.0 {
            Source::System(system) => system.try_next_u64(),
            Source::Host(host) => Ok(host.random()),
        }
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            let number = self.try_next_u64()?.to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
        Ok(())
    }
}

/// The runtime that openraft is instantiated with: tokio, with tasks and random
/// numbers through the seam of this module.
#[derive(Debug)]
pub struct Runtime(TokioRuntime);

impl AsyncRuntime for Runtime {
    type JoinError = JoinError;
    type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> =
        <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = Random;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        tokio::time::sleep(instant::true_span(duration))
    }

    fn sleep_until(deadline: Instant) -> Self::Sleep {
        tokio::time::sleep_until(deadline.moment())
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        tokio::time::timeout(instant::true_span(duration), future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        tokio::time::timeout_at(deadline.moment(), future)
    }

    fn is_panic(error: &JoinError) -> bool {
        matches!(error, JoinError::Tokio(error) if TokioRuntime::is_panic(error))
    }

    fn thread_rng() -> Random {
        Random(match host() {
            None => Source::System(TokioRuntime::thread_rng()),
            Some(host) => Source::Host(host),
        })
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}
