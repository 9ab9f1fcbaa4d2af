//! Seeds of the simulation; see `docs/simulation.md`.
//!
//! `CHANCERY_SIM_SEED=n` runs one seed and prints what it met; `CHANCERY_SIM_SEEDS=n`
//! runs the seeds from 1 to n.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chancery_sim::coverage::Coverage;
use chancery_sim::run::{End, Report, run};
use rustix::time::{ClockId, clock_gettime};

/// Seeds of `make test`, and of `make test-long`.
const SEEDS: u64 = 100;
const SEEDS_LONG: u64 = 3_000;
/// A run in which a disk is lost may leave nobody who can be elected: at most one in this
/// many.
const STANDSTILL_ONE_IN: u64 = 100;
/// Seeds whose runs are made twice and compared.
const TWICE: u64 = 3;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// What is printed for a seed that failed, with the command that runs it again.
fn failure(seed: u64, violation: &str) -> String {
    format!("seed {seed} failed {violation}\nreplay: make sim SEED={seed}")
}

fn sound(seed: u64) -> Report {
    let report = run(seed).expect("a runtime and a directory for the run");
    if let Err(violation) = &report.outcome {
        panic!("{}\n{}", failure(seed, violation), report.nodes);
    }
    report
}

/// Processor time of this thread: other work on the machine does not count.
fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(now.tv_sec).expect("it counts from zero");
    Duration::new(
        seconds,
        u32::try_from(now.tv_nsec).expect("less than a second"),
    )
}

/// What a set of seeds came to.
#[derive(Default)]
struct Sum {
    coverage: Coverage,
    simulated: Duration,
    /// Processor time and number of runs of all kinds, and of those with three nodes.
    all: (Duration, u64),
    three: (Duration, u64),
    /// Seeds after which nobody could be elected any more.
    standstills: Vec<u64>,
    violations: BTreeMap<u64, String>,
}

fn per_hour((took, runs): (Duration, u64)) -> f64 {
    runs as f64 * 3_600.0 / took.as_secs_f64()
}

/// Takes seeds until they are used up or one failed.
fn take_seeds(next: &AtomicU64, last: u64, sum: &Mutex<Sum>) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed > last {
            return;
        }
        let began = processor_time();
        let report = run(seed).expect("a runtime and a directory for the run");
        let took = processor_time() - began;
        let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
        sum.coverage.add(&report.coverage);
        sum.simulated += Duration::from_millis(report.simulated_ms);
        sum.all.0 += took;
        sum.all.1 += 1;
        if report.plan.is_three_nodes() {
            sum.three.0 += took;
            sum.three.1 += 1;
        }
        match report.outcome {
            Ok(End::Healed) => {}
            Ok(End::Standstill { .. }) => sum.standstills.push(seed),
            Err(violation) => {
                sum.violations.insert(seed, violation);
                next.store(u64::MAX / 2, Ordering::Relaxed);
            }
        }
    }
}

#[test]
fn seeds_keep_every_invariant() {
    if let Some(seed) = number("CHANCERY_SIM_SEED") {
        let report = sound(seed);
        println!(
            "seed {seed}: {:?}, {} simulated ms, {:?}",
            report.outcome, report.simulated_ms, report.trace
        );
        print!("{}", report.coverage);
        return;
    }
    let long = std::env::var_os("CHANCERY_TEST_LONG").is_some();
    let seeds = number("CHANCERY_SIM_SEEDS").unwrap_or(if long { SEEDS_LONG } else { SEEDS });
    let (next, sum) = (AtomicU64::new(1), Mutex::<Sum>::default());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| take_seeds(&next, seeds, &sum));
        }
    });
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some((seed, violation)) = sum.violations.first_key_value() {
        panic!("{}", failure(*seed, violation));
    }
    println!(
        "{}{seeds} seeds, {:?} simulated, {:.0?} of one core: {:.0} seeds an hour of one core, {:.0} at three nodes",
        sum.coverage,
        sum.simulated,
        sum.all.0,
        per_hour(sum.all),
        per_hour(sum.three)
    );
    let standstills = &sum.standstills;
    println!("nobody could be elected any more, and a survivor had it all: seeds {standstills:?}");
    let bound = seeds.div_ceil(STANDSTILL_ONE_IN);
    assert!(
        standstills.len() as u64 <= bound,
        "more than {bound} of {seeds} runs: a cluster must heal by itself"
    );
    let missing: Vec<&str> = sum
        .coverage
        .missing()
        .iter()
        .map(|what| what.text())
        .collect();
    assert!(
        seeds < SEEDS || missing.is_empty(),
        "{seeds} seeds never met: {missing:?}"
    );
}

#[test]
fn a_seed_is_the_same_run_again() {
    for seed in 1..=TWICE {
        let (first, second) = (sound(seed), sound(seed));
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert_eq!(first.coverage, second.coverage, "seed {seed}");
        assert_ne!(first.trace, sound(seed + TWICE).trace, "seed {seed}");
    }
}
