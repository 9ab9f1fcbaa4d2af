//! Runs every task of every simulated node on one thread, in an order that the seed
//! decides.
//!
//! Why it exists: tokio wakes the readers of a `watch` in an order of its own, its
//! tasks cannot be dropped together at one instant, and threads run when they like.
//! Here what is ready is a sorted set from which the seed picks, so that no order of
//! wake-ups matters and other orders are tried under other seeds; the tasks of a
//! group are paused and dropped together; and each step goes into the trace, whose
//! digest tells whether two runs were the same.
//!
//! Time is tokio's, paused: it moves on only when nothing is ready.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use chancery_raft_store::runtime::{self, Host};
use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::random::Random;

/// Steps of one run after which it counts as a busy loop.
const STEPS_MAX: u64 = 20_000_000;
/// Steps within one millisecond after which it counts as a busy loop.
const STEPS_AT_ONCE_MAX: u64 = 200_000;

/// Tasks that live and die together: those of one start of a node, or the world's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group(u64);

/// Shared handle of the executor. Cheap to clone.
#[derive(Clone)]
pub struct Executor {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    groups: BTreeMap<Group, Members>,
    tasks: BTreeMap<u64, Task>,
    ready: BTreeSet<u64>,
    numbers: u64,
    random: Random,
    /// Wakes the tokio task in which everything runs.
    outer: Option<Waker>,
    trace: Trace,
    started: Instant,
    steps_at: (u64, u64),
}

struct Members {
    host: Option<Arc<dyn Host>>,
    paused: bool,
}

struct Task {
    group: Group,
    /// Absent while it is polled.
    future: Option<BoxFuture<'static, ()>>,
    waker: Waker,
}

struct TaskWaker {
    number: u64,
    inner: Weak<Mutex<Inner>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let Some(inner) = self.inner.upgrade() else {
            return;
        };
        let outer = {
            let mut inner = lock(&inner);
            if !inner.tasks.contains_key(&self.number) {
                return;
            }
            inner.ready.insert(self.number);
            inner.outer.take()
        };
        if let Some(outer) = outer {
            outer.wake();
        }
    }
}

/// A digest of everything that happened, and how much it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Digest so far.
    pub digest: u64,
    /// Steps so far.
    pub steps: u64,
}

impl Trace {
    fn fold(&mut self, number: u64) {
        // FNV-1a over words: it tells runs apart, it need not withstand an attacker.
        self.digest = (self.digest ^ number).wrapping_mul(0x0000_0100_0000_01b3);
        self.digest ^= self.digest >> 29;
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Executor {
    /// An executor at simulated time zero; call it inside the paused runtime.
    pub fn new(random: Random) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                groups: BTreeMap::new(),
                tasks: BTreeMap::new(),
                ready: BTreeSet::new(),
                numbers: 0,
                random,
                outer: None,
                trace: Trace {
                    digest: 0xcbf2_9ce4_8422_2325,
                    steps: 0,
                },
                started: Instant::now(),
                steps_at: (0, 0),
            })),
        }
    }

    /// Simulated time since the start.
    pub fn now(&self) -> Duration {
        lock(&self.inner).started.elapsed()
    }

    /// The same in milliseconds.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.now().as_millis()).unwrap_or(u64::MAX)
    }

    /// A new group of tasks. Until [`Executor::host`] is called they run on no host.
    pub fn group(&self) -> Group {
        let mut inner = lock(&self.inner);
        inner.numbers += 1;
        let group = Group(inner.numbers);
        let members = Members {
            host: None,
            paused: false,
        };
        inner.groups.insert(group, members);
        group
    }

    /// Makes `host` current whenever a task of the group is polled.
    pub fn host(&self, group: Group, host: Arc<dyn Host>) {
        if let Some(members) = lock(&self.inner).groups.get_mut(&group) {
            members.host = Some(host);
        }
    }

    /// Adds a task; it is dropped at once when its group is gone.
    pub fn spawn(&self, group: Group, future: impl Future<Output = ()> + Send + 'static) {
        self.spawn_boxed(group, Box::pin(future));
    }

    /// [`Executor::spawn`] of what is boxed already.
    pub fn spawn_boxed(&self, group: Group, future: BoxFuture<'static, ()>) {
        let outer = {
            let mut inner = lock(&self.inner);
            if !inner.groups.contains_key(&group) {
                return;
            }
            inner.numbers += 1;
            let number = inner.numbers;
            let waker = Waker::from(Arc::new(TaskWaker {
                number,
                inner: Arc::downgrade(&self.inner),
            }));
            let task = Task {
                group,
                future: Some(future),
                waker,
            };
            inner.tasks.insert(number, task);
            inner.ready.insert(number);
            inner.outer.take()
        };
        if let Some(outer) = outer {
            outer.wake();
        }
    }

    /// Whether the group has not been killed.
    pub fn is_alive(&self, group: Group) -> bool {
        lock(&self.inner).groups.contains_key(&group)
    }

    /// Stops or resumes polling the tasks of a group.
    pub fn pause(&self, group: Group, paused: bool) {
        let outer = {
            let mut inner = lock(&self.inner);
            if let Some(members) = inner.groups.get_mut(&group) {
                members.paused = paused;
            }
            inner.outer.take()
        };
        if let Some(outer) = outer {
            outer.wake();
        }
    }

    /// Drops every task of a group at this instant; none may be the running one.
    pub fn kill(&self, group: Group) {
        let dropped: Vec<Task> = {
            let mut inner = lock(&self.inner);
            inner.groups.remove(&group);
            let numbers: Vec<u64> = inner
                .tasks
                .iter()
                .filter(|(_, task)| task.group == group)
                .map(|(number, _)| *number)
                .collect();
            numbers
                .iter()
                .filter_map(|number| {
                    inner.ready.remove(number);
                    inner.tasks.remove(number)
                })
                .collect()
        };
        // Outside the lock: what a future holds may wake others when it goes.
        drop(dropped);
    }

    /// Drops every task of every group.
    pub fn end(&self) {
        let (groups, tasks) = {
            let mut inner = lock(&self.inner);
            inner.ready.clear();
            (
                std::mem::take(&mut inner.groups),
                std::mem::take(&mut inner.tasks),
            )
        };
        drop(tasks);
        drop(groups);
    }

    /// Folds something that happened into the trace.
    pub fn note(&self, what: u64) {
        lock(&self.inner).trace.fold(what);
    }

    /// What happened so far.
    pub fn trace(&self) -> Trace {
        lock(&self.inner).trace
    }

    /// A random number of the executor's own sequence.
    pub fn random(&self) -> u64 {
        lock(&self.inner).random.draw()
    }

    /// Runs until `main`, which belongs to no group, is done.
    pub async fn run<T>(&self, main: impl Future<Output = T>) -> T {
        let mut main = pin!(main);
        std::future::poll_fn(move |context| {
            loop {
                if let Poll::Ready(result) = main.as_mut().poll(context) {
                    return Poll::Ready(result);
                }
                if !self.run_ready(context) {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// Runs what is ready; whether anything was.
    fn run_ready(&self, context: &mut Context<'_>) -> bool {
        let mut any = false;
        while let Some((number, future, waker, host)) = self.next() {
            any = true;
            self.step(number, future, &waker, host.as_ref());
        }
        lock(&self.inner).outer = Some(context.waker().clone());
        any
    }

    #[allow(
        clippy::type_complexity,
        reason = "taken apart at once by the one caller"
    )]
    fn next(&self) -> Option<(u64, BoxFuture<'static, ()>, Waker, Option<Arc<dyn Host>>)> {
        let mut inner = lock(&self.inner);
        let candidates: Vec<u64> = inner
            .ready
            .iter()
            .copied()
            .filter(|number| {
                let group = inner.tasks.get(number).map(|task| task.group);
                let members = group.and_then(|group| inner.groups.get(&group));
                members.is_some_and(|members| !members.paused)
            })
            .collect();
        let number = *inner.random.pick(&candidates)?;
        inner.ready.remove(&number);
        let now = u64::try_from(inner.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        inner.trace.fold(now);
        inner.trace.fold(number);
        inner.trace.steps += 1;
        let (since, steps) = inner.steps_at;
        inner.steps_at = if since == now {
            (now, steps + 1)
        } else {
            (now, 1)
        };
        assert!(
            inner.trace.steps < STEPS_MAX && inner.steps_at.1 < STEPS_AT_ONCE_MAX,
            "a busy loop: {} steps, {} of them at {now} ms",
            inner.trace.steps,
            inner.steps_at.1
        );
        let task = inner.tasks.get_mut(&number)?;
        let (future, waker, group) = (task.future.take()?, task.waker.clone(), task.group);
        let host = inner
            .groups
            .get(&group)
            .and_then(|members| members.host.clone());
        Some((number, future, waker, host))
    }

    fn step(
        &self,
        number: u64,
        mut future: BoxFuture<'static, ()>,
        waker: &Waker,
        host: Option<&Arc<dyn Host>>,
    ) {
        let mut context = Context::from_waker(waker);
        let mut poll = || future.as_mut().poll(&mut context);
        let polled = match host {
            Some(host) => runtime::within(host, poll),
            None => poll(),
        };
        let done = polled.is_ready();
        let mut inner = lock(&self.inner);
        if done {
            inner.tasks.remove(&number);
            inner.ready.remove(&number);
        } else if let Some(task) = inner.tasks.get_mut(&number) {
            task.future = Some(future);
            return;
        }
        drop(inner);
        // Ended, or killed by itself: dropped outside the lock.
        drop(future);
    }
}
