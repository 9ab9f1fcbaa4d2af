//! One seed: form, hurt, heal, compare.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use chancery_raft_store::view::{Table, meta};

use crate::coverage::{Coverage, Met};
use crate::executor::{Executor, Trace};
use crate::nemesis;
use crate::observer::state_column;
use crate::random::Random;
use crate::workload::{self, Shared};
use crate::world::{Stuck, World};

/// Length of the safety phase.
const FAULTS_FOR: Duration = Duration::from_secs(8);
/// By then a healed cluster must write on every node and agree.
const HEALED_WITHIN: Duration = Duration::from_secs(20);
/// Callers of a run.
const CALLERS: usize = 4;

/// What became of a run.
#[derive(Debug)]
pub struct Report {
    /// What it met.
    pub coverage: Coverage,
    /// Digest of everything that happened.
    pub trace: Trace,
    /// Simulated milliseconds.
    pub simulated_ms: u64,
    /// The property that did not hold, if one did not.
    pub violation: Option<String>,
}

/// Runs a seed.
///
/// # Errors
/// What has nothing to do with the seed: no runtime, no directory.
pub fn run(seed: u64) -> std::io::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    runtime.block_on(tokio::task::unconstrained(run_in(seed)))
}

async fn run_in(seed: u64) -> std::io::Result<Report> {
    use futures::FutureExt as _;
    let mut random = Random::new(seed);
    let executor = Executor::new(random.fork());
    let world = World::new(executor.clone(), random.fork())?;
    let phases = AssertUnwindSafe(executor.run(phases(Arc::clone(&world), random)));
    let end = phases.catch_unwind().await;
    let violation = match end {
        Ok(Ok(())) => world.observer().violation(),
        Ok(Err(Stuck(what))) => Some(world.observer().violation().unwrap_or(what)),
        // A property that broke may be why.
        Err(panic) => Some(world.observer().violation().unwrap_or_else(|| {
            let now = executor.now_ms();
            format!("at {now} ms: panic: {}", text_of(&*panic))
        })),
    };
    let report = Report {
        coverage: world.observer().coverage(),
        trace: executor.trace(),
        simulated_ms: executor.now_ms(),
        violation,
    };
    world.end();
    Ok(report)
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "without a text".into())
}

async fn phases(world: Arc<World>, mut random: Random) -> Result<(), Stuck> {
    world.form().await?;
    world.spawn(Arc::clone(&world).sample());
    let known = Shared::default();
    for _ in 0..CALLERS {
        let caller = workload::call_on(Arc::clone(&world), Arc::clone(&known), random.fork());
        world.caller(caller);
    }
    let until = world.executor().now() + FAULTS_FOR;
    nemesis::faults(&world, random.fork(), until).await;
    if let Some(violation) = world.observer().violation() {
        return Err(Stuck(violation));
    }
    nemesis::heal(&world).await;
    healed(&world).await
}

/// The cluster heals within a bound: every node writes, a lost one is replaced, and
/// all hold the state that the log makes.
async fn healed(world: &Arc<World>) -> Result<(), Stuck> {
    let sound = || -> Vec<u64> {
        let machines = world.machines();
        machines
            .values()
            .filter(|m| !m.lost)
            .map(|m| m.id)
            .collect()
    };
    world
        .until(HEALED_WITHIN, "every sound node takes part again", || {
            world.up() == sound()
        })
        .await?;
    world.end_callers().await?;
    let machines = world.machines().len();
    if sound().len() < machines
        && let Some(through) = sound().first()
    {
        let id = 1 + world.machines().keys().next_back().copied().unwrap_or(0);
        world.join(*through, id).await?;
        let is_learner = || {
            world
                .running(id)
                .is_some_and(|running| running.consensus.voters_and_learners().1.contains(&id))
        };
        world
            .until(HEALED_WITHIN, "the new node is a learner", is_learner)
            .await?;
        world.observer().met(Met::LearnerAdded);
    }
    for id in sound() {
        world
            .write(id, workload::last_words(id), HEALED_WITHIN)
            .await?;
    }
    let digests = || -> BTreeMap<u64, (u64, String)> {
        let all = sound()
            .into_iter()
            .filter_map(|id| Some((id, world.running(id)?.consensus.registry().digest())));
        all.collect()
    };
    let equal = || {
        let digests = digests();
        let reached = world.observer().facts(|facts| facts.reference.next());
        let mut values = digests.values();
        let first = values.next();
        digests.len() == sound().len()
            && first.is_some_and(|(index, _)| index + 1 == reached)
            && values.all(|value| Some(value) == first)
    };
    world
        .until(HEALED_WITHIN, "all nodes hold the same state", equal)
        .await?;
    for id in sound() {
        compare_rows(world, id)?;
    }
    world.observer().end();
    match world.observer().violation() {
        Some(violation) => Err(Stuck(violation)),
        None => Ok(()),
    }
}

/// The rows on a node's disk are those that the log makes: the digest alone would not
/// tell of a row that was lost behind its back.
fn compare_rows(world: &World, id: u64) -> Result<(), Stuck> {
    let rafts_own =
        [meta::APPLIED, meta::MEMBERSHIP, meta::DIGEST].map(|name| Table::Meta.key(name));
    let disk = world
        .machines()
        .get(&id)
        .map(|machine| machine.disk.clone());
    let Some(disk) = disk else { return Ok(()) };
    let stored: BTreeMap<Vec<u8>, Vec<u8>> = {
        let content = disk.content();
        let rows = content.visible.rows(state_column(&content.visible));
        rows.filter(|(key, _)| !rafts_own.contains(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    };
    let same = world
        .observer()
        .facts(|facts| stored == *facts.reference.rows());
    if same {
        return Ok(());
    }
    Err(Stuck(format!(
        "the rows on the disk of node {id} are not those that the log makes"
    )))
}
