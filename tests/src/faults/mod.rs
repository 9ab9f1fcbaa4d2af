//! Faults on real processes: a cluster whose nodes each live in a network namespace of
//! their own, faults that are injected from outside, clients that work meanwhile, and a
//! judgement of what they saw.
//!
//! Promises: nothing stays behind when the harness ends; a round that did not meet its
//! fault counts for nothing; an outcome that a client was not told is never assumed.
//! What each fault is and what is judged stands in `docs/faults.md`.

pub mod catalogue;
pub mod clients;
pub mod clock;
pub mod cluster;
pub mod descriptors;
pub mod disks;
pub mod history;
pub mod injection;
pub mod lab;
pub mod measures;
pub mod node;
pub mod partitions;
pub mod power;
pub mod processes;
pub mod random;
pub mod record;
pub mod report;
pub mod round;
pub mod shaper;
pub mod tracer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use catalogue::{FAULTS, Fault, Situation};
use clients::issuers::Workload;
use cluster::{Cluster, Shape};
use measures::{MEASURES, bans, signing};
use random::Random;
use record::{Finding, Origin, Record};
use report::Table;
use round::{Bench, Report};

/// How much a run does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Rounds begin until so much time has passed; every fault gets one at least.
    Time(Duration),
    /// So many rounds that count, by name of fault or measure.
    Counts(BTreeMap<String, usize>),
}

/// What a run is asked to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How much.
    pub extent: Extent,
    /// Decides victims, times and calls.
    pub seed: u64,
    /// Names of the faults; empty for those that a run takes by itself.
    pub only: Vec<String>,
    /// Nodes of the clusters whose faults leave it open.
    pub nodes: usize,
    /// Whether logs and histories stay.
    pub keep: bool,
    /// Where findings are kept, so that an interrupted run goes on.
    pub record: Option<PathBuf>,
}

/// What a run came to.
#[derive(Debug)]
pub struct Summary {
    /// The table.
    pub table: String,
    /// Violations in all.
    pub violations: usize,
    /// Faults that no round met.
    pub never_met: Vec<String>,
}

/// A counted fault may fail to be met this often for each round that counts, and more.
const TRIES_EACH: usize = 3;

/// Runs rounds inside the namespaces; `say` is told of everything as it happens.
pub async fn run(plan: &Plan, dir: &Path, say: &dyn Fn(&str)) -> anyhow::Result<Summary> {
    let began = Instant::now();
    ensure!(
        matches!(plan.nodes, 3 | 5),
        "--nodes must be 3 or 5, not {}",
        plan.nodes
    );
    let faults = chosen(plan)?;
    let record = match &plan.record {
        Some(path) => Record::open(path, &Origin::now(plan.seed)?)?,
        None => Record::unkept(),
    };
    if !record.found().is_empty() {
        say(&format!("goes on behind {} findings", record.found().len()));
    }
    let checker = history::build_checker(dir)?;
    lab::Network::prepare()?;
    let mut run = Run {
        plan,
        dir,
        say,
        checker: &checker,
        record,
        rounds: 0,
        clusters: 0,
    };
    match &plan.extent {
        Extent::Time(duration) => run.timed(&faults, *duration, began).await?,
        Extent::Counts(counts) => {
            run.counted(&faults, counts).await?;
            run.banned(counts).await?;
            run.signed(counts).await?;
        }
    }
    let table = Table::of(run.record.found());
    say(&format!(
        "{} rounds in {:.0} s; {}",
        run.rounds,
        began.elapsed().as_secs_f64(),
        table.totals()
    ));
    Ok(Summary {
        table: table.text(),
        violations: table.violations(),
        never_met: table.never_met().into_iter().map(str::to_owned).collect(),
    })
}

/// The faults of a run.
fn chosen(plan: &Plan) -> anyhow::Result<Vec<&'static Fault>> {
    for name in &plan.only {
        catalogue::find(name)
            .with_context(|| format!("no fault is called {name:?}: see --list"))?;
    }
    if let Extent::Counts(counts) = &plan.extent {
        for name in counts.keys() {
            let known = catalogue::find(name).is_some() || MEASURES.iter().any(|m| m.name == name);
            ensure!(known, "no fault or measure is called {name:?}: see --list");
        }
    }
    let wanted = |fault: &&Fault| match &plan.extent {
        Extent::Counts(counts) => counts.contains_key(fault.name),
        Extent::Time(_) if plan.only.is_empty() => true,
        Extent::Time(_) => plan.only.iter().any(|name| name == fault.name),
    };
    Ok(FAULTS.iter().filter(wanted).collect())
}

/// A run under way.
struct Run<'a> {
    plan: &'a Plan,
    dir: &'a Path,
    say: &'a dyn Fn(&str),
    checker: &'a Path,
    record: Record,
    rounds: usize,
    clusters: usize,
}

/// A cluster with the agent that has documents signed.
type Up = Option<(Cluster, Workload)>;

impl Run<'_> {
    fn shape(&self, fault: &Fault) -> Shape {
        let mut shape = fault.shape;
        if fault.any_size {
            shape.nodes = self.plan.nodes;
        }
        shape
    }

    /// The kinds of clusters that the faults need, each with its faults. Faults of one
    /// kind follow each other: a cluster takes seconds to make.
    fn by_shape(&self, faults: &[&'static Fault]) -> BTreeMap<Shape, Vec<&'static Fault>> {
        let mut shapes: BTreeMap<Shape, Vec<&'static Fault>> = BTreeMap::new();
        for fault in faults {
            shapes.entry(self.shape(fault)).or_default().push(fault);
        }
        shapes
    }

    async fn timed(
        &mut self,
        faults: &[&'static Fault],
        duration: Duration,
        began: Instant,
    ) -> anyhow::Result<()> {
        // A cluster is worth several cycles.
        const CYCLES: usize = 3;
        let mut cycle = 0;
        while cycle == 0 || began.elapsed() < duration {
            for (shape, mine) in self.by_shape(faults) {
                let mut up = None;
                for turn in cycle * CYCLES..(cycle + 1) * CYCLES {
                    for fault in &mine {
                        if turn > 0 && began.elapsed() >= duration {
                            return Ok(());
                        }
                        self.round(&mut up, shape, fault, turn).await?;
                    }
                }
            }
            cycle += 1;
        }
        Ok(())
    }

    async fn counted(
        &mut self,
        faults: &[&'static Fault],
        counts: &BTreeMap<String, usize>,
    ) -> anyhow::Result<()> {
        // Old clusters and new ones are both of interest.
        const ROUNDS_OF_A_CLUSTER: usize = 40;
        for (shape, mine) in self.by_shape(faults) {
            let (mut up, mut rounds) = (None, 0);
            loop {
                let mut went_on = false;
                for fault in &mine {
                    let wanted = counts.get(fault.name).copied().unwrap_or_default();
                    let (turn, met) = self.record.taken(fault.name);
                    if met >= wanted {
                        continue;
                    }
                    ensure!(
                        turn < TRIES_EACH * (wanted + 1),
                        "{} was met in {met} of {turn} rounds only",
                        fault.name
                    );
                    if rounds >= ROUNDS_OF_A_CLUSTER {
                        (up, rounds) = (None, 0);
                    }
                    (went_on, rounds) = (true, rounds + 1);
                    self.round(&mut up, shape, fault, turn).await?;
                }
                if !went_on {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn banned(&mut self, counts: &BTreeMap<String, usize>) -> anyhow::Result<()> {
        let wanted = counts.get(bans::NAME).copied().unwrap_or_default();
        let mut up: Option<Cluster> = None;
        loop {
            let (turn, met) = self.record.taken(bans::NAME);
            if met >= wanted {
                return Ok(());
            }
            ensure!(
                turn < TRIES_EACH * (wanted.div_ceil(bans::BLOCK) + 1),
                "{} were met in {met} of {turn} blocks only",
                bans::NAME
            );
            let cluster = match up.take() {
                Some(cluster) => cluster,
                None => Cluster::start(self.next_dir(), bans::SHAPE).await?,
            };
            let random = self.random(bans::NAME, turn);
            let rounds = bans::BLOCK.min(wanted - met);
            let finding = bans::block(&cluster, turn, rounds, random).await?;
            up = Some(cluster);
            self.add(finding)?;
        }
    }

    async fn signed(&mut self, counts: &BTreeMap<String, usize>) -> anyhow::Result<()> {
        let wanted = counts.get(signing::NAME).copied().unwrap_or_default();
        let (turn, met) = self.record.taken(signing::NAME);
        if met >= wanted {
            return Ok(());
        }
        let cluster = Cluster::start(self.next_dir(), Shape::usual(self.plan.nodes)).await?;
        let workload = Workload::new(&cluster).await?;
        let finding = signing::run(&cluster, &workload, turn, wanted - met).await?;
        self.add(finding)
    }

    fn next_dir(&mut self) -> PathBuf {
        self.clusters += 1;
        self.dir.join(format!("cluster-{}", self.clusters))
    }

    /// The same fault with the same turn and seed does the same.
    fn random(&self, name: &str, turn: usize) -> Random {
        let name = u64::from(crc32fast::hash(name.as_bytes())) << 32;
        Random::new(self.plan.seed, name + turn as u64)
    }

    async fn round(
        &mut self,
        up: &mut Up,
        shape: Shape,
        fault: &Fault,
        turn: usize,
    ) -> anyhow::Result<()> {
        let (cluster, workload) = match up {
            Some(up) => up,
            None => {
                let cluster = Cluster::start(self.next_dir(), shape).await?;
                let workload = Workload::new(&cluster).await?;
                (self.say)(&format!("{} nodes serve", shape.nodes));
                up.insert((cluster, workload))
            }
        };
        self.rounds += 1;
        let number = self.rounds;
        let random = self.random(fault.name, turn);
        let mut situation = Situation {
            nodes: cluster.nodes.len(),
            leader: cluster.leader().await?,
            turn,
            random: random.clone(),
        };
        let (mut injection, hold) = fault.aim(&mut situation);
        let bench = Bench {
            checker: self.checker,
            workload,
        };
        let report = round::run(cluster, &bench, number, injection.as_mut(), hold, random).await?;
        self.tell(number, fault, &report);
        if !report.violations.is_empty() {
            // What went wrong must not be blamed on the next fault.
            *up = None;
        }
        self.record.add(report.finding(fault.name, turn))
    }

    /// Takes in what a measure found.
    fn add(&mut self, finding: Finding) -> anyhow::Result<()> {
        self.rounds += 1;
        let (name, turn) = (&finding.of, finding.turn);
        (self.say)(&format!(
            "{name} {turn}: {} documents; {}",
            finding.documents,
            finding.notes.join("; ")
        ));
        if let Some(why) = &finding.not_met {
            (self.say)(&format!("{name} {turn}: NOT MET: {why}"));
        }
        for violation in &finding.violations {
            (self.say)(&format!("{name} {turn}: VIOLATION: {violation}"));
        }
        self.record.add(finding)
    }

    fn tell(&self, number: usize, fault: &Fault, report: &Report) {
        let time = |t: Option<Duration>| {
            t.map_or("never".to_owned(), |t| format!("{:.2} s", t.as_secs_f64()))
        };
        (self.say)(&format!(
            "round {number} {}: {}; next write after {}, healed after {}; {} calls, checker {:.2} s",
            fault.name,
            report.told.join("; "),
            time(report.write_after),
            time(report.healed_after),
            report.answered,
            report.checker.as_secs_f64()
        ));
        if let Some(why) = &report.no_coverage {
            (self.say)(&format!("round {number} {}: NOT MET: {why}", fault.name));
        }
        for violation in &report.violations {
            (self.say)(&format!(
                "round {number} {}: VIOLATION: {violation}",
                fault.name
            ));
        }
        if !report.violations.is_empty() {
            (self.say)(&format!(
                "again: chancery-faults --only {} --seed {} --nodes {} --keep",
                fault.name, self.plan.seed, self.plan.nodes
            ));
        }
    }
}
