//! The cluster of one run: machines, network, callers; how nodes start and die.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chancery_raft_store::Command;
use chancery_raft_store::command::{AdmitMember, FEATURE_LEVEL, Found, Outcome};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::clock::{Drift, SimClock};
use crate::coverage::Met;
use crate::executor::{Executor, Group};
use crate::invariants::Event;
use crate::machine::{self, Boot, CLUSTER_ID, Machine, NodeHost, Process, Running, address, pin};
use crate::network::{Network, key_of};
use crate::observer::Observer;
use crate::random::Random;
use crate::standstill::Ballot;

/// Age at which a node would no longer act upon its state.
pub const STALE_LIMIT: Duration = Duration::from_millis(1_500);

/// Everything that a run consists of.
pub struct World {
    executor: Executor,
    /// Tasks of nobody's node.
    group: Group,
    observer: Observer,
    network: Network,
    drift: Drift,
    machines: Mutex<BTreeMap<u64, Machine>>,
    random: Mutex<Random>,
    directory: TempDir,
    stop: AtomicBool,
    callers: AtomicU64,
}

/// A run cannot go on.
#[derive(Debug)]
pub struct Stuck(pub String);

impl World {
    /// Machines that are off, on a quiet network.
    ///
    /// # Errors
    /// No directory for the snapshots.
    pub fn new(executor: Executor, mut random: Random) -> std::io::Result<Arc<Self>> {
        let drift = Drift::draw(&mut random);
        let observer = Observer::new(executor.clone(), drift);
        let network = Network::new(executor.clone(), observer.clone(), random.fork());
        // In memory where there is such a place: snapshots are files, and are synced.
        let directory = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new())?;
        let world = Self {
            group: executor.group(),
            executor,
            observer,
            network,
            drift,
            machines: Mutex::default(),
            random: Mutex::new(random),
            directory,
            stop: AtomicBool::new(false),
            callers: AtomicU64::new(0),
        };
        Ok(Arc::new(world))
    }

    /// The observer of the run.
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// The network of the run.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The executor of the run.
    pub fn executor(&self) -> &Executor {
        &self.executor
    }

    /// The machines by node id.
    pub fn machines(&self) -> MutexGuard<'_, BTreeMap<u64, Machine>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws from the world's random numbers.
    pub fn random(&self) -> MutexGuard<'_, Random> {
        self.random.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Spawns a task that no node's death ends.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.executor.spawn(self.group, task);
    }

    /// Runs `work` among the tasks of a node; `None` when the node dies first.
    pub async fn within<T: Send + 'static>(
        &self,
        group: Group,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (done, wait) = oneshot::channel();
        self.executor.spawn(group, async move {
            // Whoever waited may be gone.
            let _ = done.send(work.await);
        });
        wait.await.ok()
    }

    /// Node ids whose node takes part.
    pub fn up(&self) -> Vec<u64> {
        let machines = self.machines();
        let up = machines.values().filter(|m| m.running().is_some());
        up.map(|m| m.id).collect()
    }

    /// A node, if it takes part.
    pub fn running(&self, id: u64) -> Option<Running> {
        self.machines().get(&id)?.running().cloned()
    }

    /// Some node that takes part.
    pub fn any_running(&self, random: &mut Random) -> Option<(u64, Running)> {
        let id = *random.pick(&self.up())?;
        Some((id, self.running(id)?))
    }

    /// A node that believes to lead.
    pub fn leader(&self) -> Option<(u64, Running)> {
        let machines = self.machines();
        let mut running = machines.values().filter_map(|m| Some((m.id, m.running()?)));
        let (id, running) = running.find(|(_, running)| running.consensus.is_leader())?;
        Some((id, running.clone()))
    }

    /// Starts a caller.
    pub fn caller(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        self.callers.fetch_add(1, Ordering::Relaxed);
        self.spawn(task);
    }

    /// Whether callers must come to an end.
    pub fn callers_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// A caller has come to its end.
    pub fn caller_ended(&self) {
        self.callers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Ends the callers.
    ///
    /// # Errors
    /// One of them waits for longer than its deadline.
    pub async fn end_callers(&self, limit: Duration) -> Result<(), Stuck> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = || self.callers.load(Ordering::Relaxed) == 0;
        self.until(limit, "callers end by their deadlines", ended)
            .await
    }

    /// Waits for something, at most `limit`.
    ///
    /// # Errors
    /// It did not come, or an invariant broke.
    pub async fn until(
        &self,
        limit: Duration,
        what: &str,
        done: impl Fn() -> bool,
    ) -> Result<(), Stuck> {
        self.until_none(limit, || (!done()).then(|| what.to_owned()))
            .await
    }

    /// Waits until nothing is missing, at most `limit`.
    ///
    /// # Errors
    /// Something still was, or an invariant broke.
    pub async fn until_none(
        &self,
        limit: Duration,
        missing: impl Fn() -> Option<String>,
    ) -> Result<(), Stuck> {
        let deadline = self.executor.now() + limit;
        while let Some(what) = missing() {
            if let Some(violation) = self.observer.violation() {
                return Err(Stuck(violation));
            }
            if self.executor.now() >= deadline {
                return Err(Stuck(format!(
                    "at {} ms: not within {limit:?}: {what}",
                    self.executor.now_ms()
                )));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// A new machine, whose node was told of these others.
    fn add_machine(&self, id: u64, others: impl IntoIterator<Item = u64>) {
        let clock = SimClock::new(self.executor.now(), self.drift, &mut self.random());
        if self.drift != Drift::None {
            self.observer.met(Met::ClockDrifted);
        }
        let directory = self.directory.path().join(id.to_string());
        let pins = others.into_iter().map(pin).collect();
        let machine = Machine::new(id, directory, clock, pins);
        self.observer.machine(id, machine.disk.clone());
        self.machines().insert(id, machine);
    }

    /// Starts the node of a machine on which none runs.
    pub async fn start(self: &Arc<Self>, id: u64, founder: bool) {
        let boot = {
            let random = self.random().fork();
            let mut machines = self.machines();
            let Some(machine) = machines.get_mut(&id) else {
                return;
            };
            if machine.lost || !matches!(machine.process, Process::Down) {
                return;
            }
            let group = self.executor.group();
            let host = NodeHost {
                executor: self.executor.clone(),
                group,
                random: Mutex::new(random),
                speed: Arc::clone(&machine.speed),
                clock: Arc::clone(&machine.clock),
                observer: self.observer.clone(),
            };
            self.executor.host(group, Arc::new(host));
            machine.process = Process::Starting(group);
            machine.boot += 1;
            Boot {
                id,
                boot: machine.boot,
                group,
                disk: machine.disk.clone(),
                directory: machine.directory.clone(),
                clock: Arc::clone(&machine.clock),
                pins: machine.pins.clone(),
                founder,
            }
        };
        let group = boot.group;
        if boot.boot > 1 {
            self.observer.met(Met::VoteRecalled);
        }
        let (network, observer) = (self.network.clone(), self.observer.clone());
        let started = self
            .within(group, machine::start(boot, network, observer))
            .await;
        match started {
            // Killed meanwhile.
            None => {}
            Some(Ok(running)) => {
                self.watch(id, &running);
                if let Some(machine) = self.machines().get_mut(&id)
                    && machine.group() == Some(group)
                {
                    machine.process = Process::Up(running);
                }
            }
            Some(Err(why)) => self.ended(id, group, &why),
        }
    }

    /// Notices when the node's Raft core stops: the process would end.
    fn watch(self: &Arc<Self>, id: u64, running: &Running) {
        let world = Arc::clone(self);
        let (group, consensus) = (running.group, running.consensus.clone());
        self.executor.spawn(group, async move {
            let why = consensus.died().await.to_string();
            let on = Arc::clone(&world);
            world.spawn(async move { on.ended(id, group, &why) });
        });
        let world = Arc::clone(self);
        let members = running.members.clone();
        self.executor.spawn(group, async move {
            members.removed().await;
            let on = Arc::clone(&world);
            world.spawn(async move { on.told_removed(id, group) });
        });
        let (observer, members) = (self.observer.clone(), running.members.clone());
        self.executor.spawn(group, async move {
            let index = members.is_wrong().await;
            observer.violated(&format!(
                "node {id} finds that its state at log entry {index} is not the majority's"
            ));
        });
    }

    /// A node that was told that it was removed ends.
    fn told_removed(&self, id: u64, group: Group) {
        let told = {
            let mut machines = self.machines();
            let machine = machines
                .get_mut(&id)
                .filter(|machine| machine.group() == Some(group));
            machine.map(|machine| machine.told_removed = true)
        };
        if told.is_some() {
            self.observer.met(Met::RemovedTold);
            self.kill(id);
        }
    }

    /// A process has come to its end by itself.
    fn ended(&self, id: u64, group: Group, why: &str) {
        let expected = {
            let machines = self.machines();
            let machine = machines.get(&id).filter(|m| m.group() == Some(group));
            machine.map(|machine| machine.may_end)
        };
        match expected {
            // Killed meanwhile.
            None => return,
            Some(true) => {}
            Some(false) => self.observer.violated(&format!("node {id} ended: {why}")),
        }
        self.kill(id);
        if let Some(machine) = self.machines().get_mut(&id)
            && machine.lost
        {
            self.observer.met(Met::StoreDamaged);
        }
    }

    /// Ends the process of a machine at this instant, as SIGKILL does.
    pub fn kill(&self, id: u64) {
        let group = {
            let mut machines = self.machines();
            let Some(machine) = machines.get_mut(&id) else {
                return;
            };
            let group = machine.group();
            machine.process = Process::Down;
            machine.disk.unmount();
            group
        };
        self.network.silence(id);
        if let Some(group) = group {
            self.executor.kill(group);
        }
    }

    /// Cuts the power of a machine; how many batches its disk lost.
    pub fn cut_power(&self, id: u64) -> usize {
        self.kill(id);
        let mut random = self.random().fork();
        let disk = self.machines().get(&id).map(|machine| machine.disk.clone());
        disk.map_or(0, |disk| disk.lose_power(&mut random))
    }

    /// Proposes on a node until it is done.
    ///
    /// # Errors
    /// It is not done within `limit`.
    pub async fn write(
        &self,
        id: u64,
        command: Command,
        limit: Duration,
    ) -> Result<Outcome, Stuck> {
        let deadline = self.executor.now() + limit;
        let name = command.name();
        loop {
            if let Some(running) = self.running(id) {
                let command = command.clone();
                let proposal = async move {
                    let limit = Duration::from_secs(2);
                    running.proposer.propose(command, limit).await
                };
                let group = self.running(id).map(|running| running.group);
                if let Some(group) = group
                    && let Some(Ok(outcome)) = self.within(group, proposal).await
                {
                    return Ok(outcome);
                }
            }
            if let Some(violation) = self.observer.violation() {
                return Err(Stuck(violation));
            }
            if self.executor.now() >= deadline {
                return Err(Stuck(format!(
                    "at {} ms: {name} on node {id} not acknowledged within {limit:?}",
                    self.executor.now_ms()
                )));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// How a node asks to be admitted.
    pub fn admission(node: u64) -> AdmitMember {
        AdmitMember {
            peer_address: address(node),
            api_address: format!("node-{node}:8081"),
            spki_sha256: key_of(node).to_vec(),
            version: "0.1.0".into(),
            ..AdmitMember::default()
        }
    }

    /// Forms a cluster of `founders` nodes as a static list of peers does.
    ///
    /// # Errors
    /// It does not come to be.
    pub async fn form(self: &Arc<Self>, founders: u64) -> Result<(), Stuck> {
        for id in 1..=founders {
            self.add_machine(id, 1..=founders);
        }
        self.start(1, true).await;
        let found = Command::Found(Found {
            cluster_id: CLUSTER_ID.into(),
            trust_domain: "example.org".into(),
            founder: Some(Self::admission(1)),
            founding_peers: (1..=founders).map(address).collect(),
            feature_level: FEATURE_LEVEL,
            ..Found::default()
        });
        self.write(1, found, Duration::from_secs(10)).await?;
        for id in 2..=founders {
            let admit = Command::AdmitMember(Self::admission(id));
            let outcome = self.write(1, admit, Duration::from_secs(20)).await?;
            if outcome.node_id != id {
                return Err(Stuck(format!("node {id} was admitted as {outcome:?}")));
            }
            self.start(id, false).await;
        }
        let voters: BTreeSet<u64> = (1..=founders).collect();
        let is_voter = |id| {
            let running = self.running(id);
            running.is_some_and(|r| {
                let (known, _) = r.consensus.voters_and_learners();
                known.into_iter().collect::<BTreeSet<_>>() == voters
            })
        };
        let all = || voters.iter().all(|id| is_voter(*id));
        self.until(Duration::from_secs(20), "every node is a voter", all)
            .await
    }

    /// Id of the machine that comes next.
    pub fn next_id(&self) -> u64 {
        1 + self.machines().keys().next_back().copied().unwrap_or(0)
    }

    /// Starts a node that was admitted, on a machine of its own.
    pub async fn joined(self: &Arc<Self>, id: u64) {
        let members = self.observer.facts(|facts| facts.reference.members());
        let others = members.iter().map(|member| member.node_id);
        self.add_machine(id, others.chain([id]));
        self.observer.met(Met::LearnerAdded);
        self.start(id, false).await;
    }

    /// Asks nodes from when on what they have applied holds everywhere, again and again.
    pub async fn ask_who_holds(self: Arc<Self>, mut random: Random) {
        use chancery_node::environment::Clock as _;
        loop {
            sleep(Duration::from_millis(random.between(100, 800))).await;
            let Some((id, running)) = self.any_running(&mut random) else {
                continue;
            };
            let clock = self.machines().get(&id).map(|m| Arc::clone(&m.clock));
            let Some(clock) = clock else { continue };
            let index = running.consensus.registry().applied_index();
            let told = async move {
                let wait = Duration::from_secs(1);
                let holds = running
                    .members
                    .applied_everywhere(index, wait, STALE_LIMIT)
                    .await;
                let by = clock.simulated(clock.boottime() + holds.after(STALE_LIMIT));
                (holds.everywhere, by)
            };
            let Some((everywhere, by)) = self.within(running.group, told).await else {
                continue;
            };
            self.observer.met(if everywhere {
                Met::HoldsPromised
            } else {
                Met::HoldsLater
            });
            self.observer.see(&Event::Holds {
                node: id,
                index,
                by,
            });
        }
    }

    /// Looks at what every node shows of itself, again and again.
    pub async fn sample(self: Arc<Self>) {
        loop {
            sleep(Duration::from_millis(70)).await;
            for id in self.up() {
                let Some(running) = self.running(id) else {
                    continue;
                };
                let clock = self.machines().get(&id).map(|m| Arc::clone(&m.clock));
                let registry = running.consensus.registry();
                let applied = registry.applied_index();
                let clock_ms = registry.read().cluster().clock_ms;
                self.observer.see(&Event::Showed {
                    node: id,
                    applied,
                    clock_ms,
                });
                let (Some(clock), Some(age)) = (clock, running.barriers.age()) else {
                    continue;
                };
                use chancery_node::environment::Clock as _;
                let as_of = clock.simulated(clock.boottime().saturating_sub(age));
                self.observer.see(&Event::Fresh {
                    node: id,
                    age,
                    as_of,
                    applied,
                });
            }
        }
    }

    /// Every machine, for whoever reads of a run that failed.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for member in self.observer.facts(|facts| facts.reference.members()) {
            let (id, wanted) = (member.node_id, member.wanted());
            let (promoted, replaces) = (member.auto_promote, member.replaces);
            let _ = writeln!(
                text,
                "member {id}: to be {wanted:?}, promoted by itself: {promoted}, replaces {replaces}"
            );
        }
        for machine in self.machines().values() {
            let state = match &machine.process {
                _ if machine.lost => "lost".to_owned(),
                Process::Down if machine.told_removed => "down, told that it was removed".into(),
                Process::Down => "down".into(),
                Process::Starting(_) => "starting".into(),
                Process::Up(running) => {
                    let consensus = &running.consensus;
                    let leadership = consensus.leadership();
                    let known = consensus.voters_and_learners();
                    format!("up, {leadership:?}, voters and learners {known:?}")
                }
            };
            let ballot = Ballot::read(&machine.disk.content().visible);
            let _ = writeln!(text, "node {}: {state}; {ballot:?}", machine.id);
        }
        text
    }

    /// Drops every task of the run.
    pub fn end(&self) {
        let ids: Vec<u64> = self.machines().keys().copied().collect();
        for id in ids {
            self.kill(id);
        }
        self.executor.end();
    }
}
