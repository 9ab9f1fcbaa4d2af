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
pub mod node;
pub mod partitions;
pub mod power;
pub mod processes;
pub mod random;
pub mod report;
pub mod round;
pub mod shaper;
pub mod tracer;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use catalogue::{FAULTS, Fault, Situation};
use clients::issuers::Workload;
use cluster::{Cluster, Shape};
use random::Random;
use report::Table;
use round::{Bench, Report};

/// What a run is asked to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Rounds begin until so much time has passed; every fault gets one at least.
    pub duration: Duration,
    /// Decides victims, times and calls.
    pub seed: u64,
    /// Names of the faults; empty for those that a run takes by itself.
    pub only: Vec<String>,
    /// Nodes of the clusters whose faults leave it open.
    pub nodes: usize,
    /// Whether logs and histories stay.
    pub keep: bool,
}

/// What a run came to.
#[derive(Debug)]
pub struct Summary {
    /// The table.
    pub table: String,
    /// Violations in all.
    pub violations: usize,
    /// Faults that no round met.
    pub never_met: Vec<&'static str>,
}

/// Runs rounds inside the namespaces; `say` is told of everything as it happens.
pub async fn run(plan: &Plan, dir: &Path, say: &dyn Fn(&str)) -> anyhow::Result<Summary> {
    let began = Instant::now();
    ensure!(
        matches!(plan.nodes, 3 | 5),
        "--nodes must be 3 or 5, not {}",
        plan.nodes
    );
    let faults = chosen(plan)?;
    let checker = history::build_checker(dir)?;
    lab::Network::prepare()?;
    let mut run = Run {
        plan,
        dir,
        say,
        checker: &checker,
        table: Table::default(),
        rounds: 0,
        totals: Totals::default(),
    };
    // Faults of one kind of cluster follow each other: a cluster takes seconds to make.
    let mut shapes: Vec<Shape> = faults.iter().map(|(_, f)| run.shape(f)).collect();
    shapes.sort();
    shapes.dedup();
    let mut cycle = 0;
    while cycle == 0 || began.elapsed() < plan.duration {
        for shape in &shapes {
            let mine: Vec<_> = faults
                .iter()
                .filter(|(_, f)| run.shape(f) == *shape)
                .collect();
            // Each kind of cluster has its share of the time that is left.
            run.rounds_on(*shape, &mine, cycle, began).await?;
        }
        cycle += 1;
    }
    let totals = &run.totals;
    say(&format!(
        "{} rounds in {:.0} s, {} answered calls in {} histories, {} of them not judged in time, checker {:.1} s",
        run.rounds,
        began.elapsed().as_secs_f64(),
        totals.answered,
        totals.objects,
        totals.unjudged,
        totals.checker.as_secs_f64()
    ));
    Ok(Summary {
        table: run.table.text(),
        violations: run.table.violations(),
        never_met: run.table.never_met(),
    })
}

/// The faults of a run, with their places in the catalogue.
fn chosen(plan: &Plan) -> anyhow::Result<Vec<(usize, &'static Fault)>> {
    for name in &plan.only {
        catalogue::find(name)
            .with_context(|| format!("no fault is called {name:?}: see --list"))?;
    }
    let wanted = |fault: &Fault| match plan.only.is_empty() {
        true => fault.not_by_default.is_none(),
        false => plan.only.iter().any(|name| name == fault.name),
    };
    Ok(FAULTS
        .iter()
        .enumerate()
        .filter(|(_, f)| wanted(f))
        .collect())
}

#[derive(Default)]
struct Totals {
    answered: usize,
    objects: usize,
    unjudged: usize,
    checker: Duration,
}

/// A run under way.
struct Run<'a> {
    plan: &'a Plan,
    dir: &'a Path,
    say: &'a dyn Fn(&str),
    checker: &'a Path,
    table: Table,
    rounds: usize,
    totals: Totals,
}

impl Run<'_> {
    fn shape(&self, fault: &Fault) -> Shape {
        let mut shape = fault.shape;
        if fault.any_size {
            shape.nodes = self.plan.nodes;
        }
        shape
    }

    /// One cycle over the faults of one kind of cluster.
    async fn rounds_on(
        &mut self,
        shape: Shape,
        faults: &[&(usize, &'static Fault)],
        cycle: usize,
        began: Instant,
    ) -> anyhow::Result<()> {
        let mut up: Option<(Cluster, Workload)> = None;
        // A cluster is worth several cycles.
        const CYCLES: usize = 3;
        for turn in cycle * CYCLES..(cycle + 1) * CYCLES {
            for (place, fault) in faults.iter().copied() {
                if turn > 0 && began.elapsed() >= self.plan.duration {
                    return Ok(());
                }
                let (cluster, workload) = match &mut up {
                    Some(up) => up,
                    None => {
                        let at = self.dir.join(format!("cluster-{}", self.rounds));
                        let cluster = Cluster::start(at, shape).await?;
                        let workload = Workload::new(&cluster).await?;
                        (self.say)(&format!("{} nodes serve", shape.nodes));
                        up.insert((cluster, workload))
                    }
                };
                let report = self.round(cluster, workload, fault, turn).await?;
                self.table.add(*place, fault.name, &report);
                if !report.violations.is_empty() {
                    // What went wrong must not be blamed on the next fault.
                    up = None;
                }
            }
        }
        Ok(())
    }

    async fn round(
        &mut self,
        cluster: &mut Cluster,
        workload: &Workload,
        fault: &Fault,
        turn: usize,
    ) -> anyhow::Result<Report> {
        self.rounds += 1;
        let number = self.rounds;
        let random = Random::new(self.plan.seed, u64::try_from(number)?);
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
        self.totals.answered += report.answered;
        self.totals.objects += report.unjudged.1;
        self.totals.unjudged += report.unjudged.0;
        self.totals.checker += report.checker;
        Ok(report)
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
