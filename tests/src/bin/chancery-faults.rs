//! Runs the faults of `docs/faults.md` against clusters of real processes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use chancery_tests::faults::{self, Extent, Plan, catalogue, lab, measures};
use clap::Parser;

/// Injects faults into clusters of real processes and judges what their clients saw.
#[derive(Parser)]
struct Args {
    /// Rounds begin until so much time has passed: `900`, `15m`, `90s`. Every fault gets
    /// a round at least.
    #[arg(long, default_value = "15m", value_parser = duration)]
    duration: Duration,
    /// Decides victims, times and calls; the time of day where it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// So many rounds that count instead of a time: `kill-leader=100,bans=5000`; `full` is
    /// what `docs/reliability.md` asks for.
    #[arg(long, value_parser = counts, conflicts_with_all = ["duration", "only"])]
    counts: Option<Counts>,
    /// Keeps what each round found in this file, and goes on behind what is in it.
    #[arg(long, requires = "counts", requires = "seed")]
    record: Option<PathBuf>,
    /// Only these faults, those among them too that a run does not take by itself.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Says which faults there are, and ends.
    #[arg(long)]
    list: bool,
    /// Nodes of a cluster, 3 or 5, where the fault leaves it open.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Keeps logs and histories.
    #[arg(long)]
    keep: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| format!("{text:?} is not a number of seconds, nor one with `s` or `m`"))?;
    Ok(Duration::from_secs(number.saturating_mul(unit)))
}

/// What `full` stands for.
const FULL: &str = "pause=20,partition=12,leader-cut-off=12,one-way=12,bridge=12,loss=12,delay=12,reorder=12,\
                    kill-one=200,kill-leader=100,kill-all=50,power-loss=100,sync-slow=12,sync-fails=12,descriptors=12,\
                    clock=12,clock-far=12,disk-full=12,two-cut-off=12,bans=5000,signing=60";

/// Rounds by name.
#[derive(Clone)]
struct Counts(BTreeMap<String, usize>);

fn counts(text: &str) -> Result<Counts, String> {
    let text = if text == "full" { FULL } else { text };
    let counts = text.split(',').map(|item| {
        let (name, count) = item
            .split_once('=')
            .ok_or_else(|| format!("{item:?} is not NAME=COUNT"))?;
        let count = count.parse();
        let count = count.map_err(|_| format!("{item:?} does not end in a number"))?;
        Ok((name.to_owned(), count))
    });
    counts.collect::<Result<_, String>>().map(Counts)
}

#[allow(clippy::print_stdout, reason = "this is what the program says")]
fn say(text: &str) {
    println!("{text}");
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        for fault in catalogue::FAULTS {
            say(&format!("{:16} {}", fault.name, fault.what));
        }
        for measure in measures::MEASURES {
            say(&format!(
                "{:16} {} (with --counts only)",
                measure.name, measure.what
            ));
        }
        return ExitCode::SUCCESS;
    }
    let result = match lab::inside() {
        Some(dir) => run(&args, &dir),
        None => Err(lab::enter()),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            say(&format!("faults: error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args, dir: &Path) -> anyhow::Result<ExitCode> {
    // Fails only where a provider is installed already, and nothing ran before this.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let fresh = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let plan = Plan {
        extent: match &args.counts {
            Some(Counts(counts)) => Extent::Counts(counts.clone()),
            None => Extent::Time(args.duration),
        },
        seed: args.seed.unwrap_or(fresh.as_secs()),
        only: args.only.clone(),
        nodes: args.nodes,
        keep: args.keep,
        record: args.record.clone(),
    };
    let began = Instant::now();
    let said = |text: &str| say(&format!("[{:6.1}] {text}", began.elapsed().as_secs_f64()));
    said(&format!("seed {}, folder {}", plan.seed, dir.display()));
    let runtime = tokio::runtime::Runtime::new()?;
    let summary = runtime.block_on(async {
        tokio::select! {
            summary = faults::run(&plan, dir, &said) => Some(summary),
            stopped = interrupted() => stopped.err().map(Err),
        }
    });
    let good = match &summary {
        Some(summary) => summary.as_ref().is_ok_and(|s| s.violations == 0),
        None => true,
    };
    if plan.keep || !good {
        // Nothing is in it where the run failed before its first cluster.
        if std::fs::remove_dir(dir).is_err() {
            lab::keep(dir)?;
            say(&format!("logs and histories: {}", dir.display()));
        }
    } else {
        std::fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    let Some(summary) = summary.transpose()? else {
        say("faults: interrupted");
        return Ok(ExitCode::FAILURE);
    };
    say(&format!("\n{}", summary.table));
    for fault in &summary.never_met {
        say(&format!("faults: {fault} was never met"));
    }
    if summary.violations > 0 {
        say(&format!("faults: {} violations", summary.violations));
        return Ok(ExitCode::FAILURE);
    }
    if !summary.never_met.is_empty() {
        say("faults: 0 violations, without coverage");
        return Ok(ExitCode::FAILURE);
    }
    say("faults: ok");
    Ok(ExitCode::SUCCESS)
}

/// Waits for Ctrl-C or SIGTERM.
async fn interrupted() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
