//! One seed: form, hurt, heal, compare.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use chancery_raft_store::view::{Table, meta};

use crate::coverage::Coverage;
use crate::executor::{Executor, Trace};
use crate::machine::Running;
use crate::nemesis;
use crate::observer::state_column;
use crate::operator::Operator;
use crate::random::Random;
use crate::standstill;
use crate::workload::{self, Shared};
use crate::world::{Stuck, World};

/// Length of the safety phase.
const FAULTS_FOR: Duration = Duration::from_secs(8);
/// By then a healed cluster must write on every node and agree.
const HEALED_WITHIN: Duration = Duration::from_secs(20);
/// Callers of a run.
const CALLERS: usize = 4;

/// Of what kind a run is.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Nodes at first.
    pub founders: u64,
    /// Nodes come and go.
    pub members_change: bool,
}

impl Plan {
    fn draw(random: &mut Random) -> Self {
        Self {
            founders: if random.chance(100) { 5 } else { 3 },
            members_change: random.chance(650),
        }
    }

    /// Three nodes from the beginning to the end, but for one that is damaged for good.
    pub fn is_three_nodes(&self) -> bool {
        self.founders == 3 && !self.members_change
    }
}

/// What became of a run.
#[derive(Debug)]
pub struct Report {
    /// Of what kind it was.
    pub plan: Plan,
    /// What it met.
    pub coverage: Coverage,
    /// Digest of everything that happened.
    pub trace: Trace,
    /// Simulated milliseconds.
    pub simulated_ms: u64,
    /// The nodes at the end of a run that failed.
    pub nodes: String,
    /// How it ended, or the property that did not hold.
    pub outcome: Result<End, String>,
}

/// How a run ends whose properties all held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The cluster healed by itself, and by having a lost node replaced.
    Healed,
    /// Nobody can be elected any more; see [`standstill`]. The log of this node has all that
    /// was acknowledged.
    Standstill {
        /// Node with the newest log.
        survivor: u64,
    },
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
    let plan = Plan::draw(&mut random);
    let phases = AssertUnwindSafe(executor.run(phases(Arc::clone(&world), plan, random)));
    let end = phases.catch_unwind().await;
    let why = match &end {
        Ok(Ok(_)) => None,
        Ok(Err(Stuck(what))) => Some(what.clone()),
        Err(panic) => {
            let now = executor.now_ms();
            Some(format!("at {now} ms: panic: {}", text_of(&**panic)))
        }
    };
    // A property that broke may be why.
    let outcome = match (world.observer().violation().or(why), end) {
        (None, Ok(Ok(end))) => Ok(end),
        (why, _) => Err(why.unwrap_or_default()),
    };
    let nodes = match &outcome {
        Ok(_) => String::new(),
        Err(_) => world.describe(),
    };
    let report = Report {
        plan,
        nodes,
        coverage: world.observer().coverage(),
        trace: executor.trace(),
        simulated_ms: executor.now_ms(),
        outcome,
    };
    world.end();
    Ok(report)
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "without a text".into())
}

async fn phases(world: Arc<World>, plan: Plan, mut random: Random) -> Result<End, Stuck> {
    world.form(plan.founders).await?;
    world.spawn(Arc::clone(&world).sample());
    world.spawn(Arc::clone(&world).ask_who_holds(random.fork()));
    let known = Shared::default();
    for _ in 0..CALLERS {
        let caller = workload::call_on(Arc::clone(&world), Arc::clone(&known), random.fork());
        world.caller(caller);
    }
    let may_damage = random.chance(250);
    let until = world.executor().now() + FAULTS_FOR;
    let operator = Operator::new(Arc::clone(&world), random.fork(), may_damage);
    if plan.members_change {
        world.caller(operator.work(until));
    }
    world.observer().faults(true);
    nemesis::faults(&world, random.fork(), until, may_damage).await;
    world.observer().faults(false);
    if let Some(violation) = world.observer().violation() {
        return Err(Stuck(violation));
    }
    nemesis::heal(&world).await;
    if let Some(survivor) = standstill::survivor(&world).await? {
        world.observer().recovered_from(survivor);
        world.observer().end();
        return Ok(End::Standstill { survivor });
    }
    healed(&world, random.fork()).await?;
    Ok(End::Healed)
}

/// Machines whose nodes are members by the committed log.
fn members(world: &World) -> BTreeSet<u64> {
    let members = world.observer().facts(|facts| facts.reference.members());
    members.iter().map(|member| member.node_id).collect()
}

/// What the cluster has not come to yet, if anything: Raft's membership is what the records
/// say, every member takes part, and nobody else does.
fn unsettled(world: &World) -> Option<String> {
    let (declared, membership) = world.observer().facts(|facts| {
        let declared = facts.reference.declared();
        (declared, Arc::clone(facts.reference.membership()))
    });
    let Some(declared) = declared else {
        return Some(format!(
            "a member is still to leave; Raft has {membership:?}"
        ));
    };
    if declared != *membership {
        return Some(format!("Raft has {membership:?}, the records {declared:?}"));
    }
    let records = world.observer().facts(|facts| facts.reference.members());
    let members: BTreeSet<u64> = records.iter().map(|member| member.node_id).collect();
    let mut under_way = records.iter().filter(|m| m.auto_promote && m.replaces != 0);
    if let Some(member) = under_way.find(|m| members.contains(&m.replaces)) {
        let (new, old) = (member.node_id, member.replaces);
        let running = world.running(new);
        let applied = running.map(|running| running.consensus.registry().applied_index());
        return Some(format!(
            "node {new}, at {applied:?}, has not taken the place of {old}"
        ));
    }
    let machines = world.machines();
    if let Some(id) = members.iter().find(|id| !machines.contains_key(id)) {
        return Some(format!("member {id} has no machine"));
    }
    for machine in machines.values() {
        let id = machine.id;
        match (members.contains(&id), machine.running()) {
            (true, None) => return Some(format!("node {id} does not take part")),
            (false, Some(running)) if may_hear(running, &members) => {
                return Some(format!("node {id} was not told that it was removed"));
            }
            (false, None) if !machine.told_removed && !machine.lost => {
                return Some(format!("node {id} ended before it was told why"));
            }
            _ => {}
        }
    }
    None
}

/// Whether a node that was removed knows anybody who can tell it.
fn may_hear(running: &Running, members: &BTreeSet<u64>) -> bool {
    let known = running.consensus.registry().read();
    known
        .members()
        .any(|member| members.contains(&member.node_id))
}

/// The cluster heals within a bound: a lost node is replaced, the members are what was
/// asked for, every one writes, and all hold the state that the log makes.
async fn healed(world: &Arc<World>, random: Random) -> Result<(), Stuck> {
    world.end_callers(HEALED_WITHIN).await?;
    let lost = {
        let members = members(world);
        let machines = world.machines();
        // One that was damaged last may not have tried to start yet.
        let mut damaged = machines.values().filter(|m| m.disk.is_damaged());
        let lost = damaged.find(|m| members.contains(&m.id));
        lost.map(|machine| machine.id)
    };
    if let Some(lost) = lost {
        let mut operator = Operator::new(Arc::clone(world), random, true);
        operator.join(true, lost).await;
    }
    world.until_none(HEALED_WITHIN, || unsettled(world)).await?;
    let members = members(world);
    for id in &members {
        let outcome = world
            .write(*id, workload::last_words(*id), HEALED_WITHIN)
            .await?;
        if let Err(refusal) = outcome.accepted() {
            return Err(Stuck(format!(
                "a write on node {id} is refused: {refusal:?}"
            )));
        }
    }
    let digests = || -> BTreeMap<u64, (u64, String)> {
        let all = members
            .iter()
            .filter_map(|id| Some((*id, world.running(*id)?.consensus.registry().digest())));
        all.collect()
    };
    let differ = || {
        if let Some(what) = unsettled(world) {
            return Some(what);
        }
        let digests = digests();
        let reached = world.observer().facts(|facts| facts.reference.next());
        let mut values = digests.values();
        let first = values.next();
        let equal = digests.len() == members.len()
            && first.is_some_and(|(index, _)| index + 1 == reached)
            && values.all(|value| Some(value) == first);
        (!equal).then(|| format!("states of one log entry: {digests:?}, the log ends at {reached}"))
    };
    world.until_none(HEALED_WITHIN, differ).await?;
    for id in &members {
        compare_rows(world, *id)?;
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
