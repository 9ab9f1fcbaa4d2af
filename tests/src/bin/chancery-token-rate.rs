//! Sets what nodes sign in mode `direct` beside what their token makes, in front of SoftHSM that a
//! shim slows down to the HSMs people buy (`docs/hsm.md`).

use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chancery_api::spire::api::server::svid::v1 as svid_api;
use chancery_api::spire::api::server::svid::v1::svid_client::SvidClient;
use chancery_pkcs11_shim::{Control, Profile, Steering, module_path};
use chancery_tests::agent::{Agent, key_and_csr};
use chancery_tests::cluster::{Cluster, Node, Options, bin_dir, eventually, softhsm_module, text};
use clap::Parser;
use tokio::task::JoinSet;
use tonic::transport::Channel;

/// Signs at three paces of a token, and prints what of it reaches clients.
#[derive(Parser)]
struct Args {
    /// Seconds of each measurement, after one of warming up.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

/// Sessions of a node, and of the bench: a signature takes a large HSM a millisecond.
const SESSIONS: u32 = 16;
/// Connections to each node.
const CONNECTIONS: usize = 16;
/// CSRs of a call of the closed loop.
const BATCH: usize = 20;
/// What of the token's rate must reach clients.
const REACHED: f64 = 0.95;
/// Load of the open loop.
const LOAD: f64 = 0.8;
/// The 99th percentile of waiting may be so many times what the token needs for a signature at its rate:
/// with random arrivals at 80 % of a fixed rate the queue is longer once in a hundred (M/D/1: about 9).
const WAITS: f64 = 25.0;
/// And this for a machine that nodes and clients share.
const SCHEDULING: Duration = Duration::from_millis(25);
/// With less of the processors idle it is the machine that limits, and not the token.
const IDLE: f64 = 0.1;
const LIMIT: Duration = Duration::from_secs(60);

struct Bench {
    cluster: Cluster,
    agent: Agent,
    entry: String,
    csr: Vec<u8>,
}

impl Bench {
    async fn start(
        nodes: usize,
        environment: &[(&str, &str)],
        shim: &Path,
    ) -> anyhow::Result<Self> {
        // The first line goes on with [keys.pkcs11].
        let extra =
            format!("sessions = {SESSIONS}\n\n[ratelimit]\nattestation = false\nsigning = false\n");
        let cluster = Cluster::start(&Options {
            nodes,
            env: environment,
            extra: &extra,
            module: Some(shim),
            ..Options::default()
        })?;
        let first = &cluster.nodes()[0];
        let token = cluster.token(first).await?;
        let agent = Agent::attest(&first.api, &cluster.trust()?, &token, None).await?;
        let entry = cluster.entry(agent.path(), "/workload");
        let made = cluster.create(first, vec![entry]).await?.pop();
        let entry = made.and_then(|(_, entry)| entry).context("an entry")?.id;
        for node in cluster.nodes() {
            eventually("the entry on every node", LIMIT, || async {
                let entries = agent.sync(agent.connect(&node.api).await?).await?;
                Ok(entries.iter().any(|e| e.id == entry).then_some(()))
            })
            .await?;
        }
        Ok(Self {
            cluster,
            agent,
            entry,
            csr: key_and_csr()?.1,
        })
    }

    fn request(&self, count: usize) -> svid_api::BatchNewX509svidRequest {
        let params = svid_api::NewX509svidParams {
            entry_id: self.entry.clone(),
            csr: self.csr.clone(),
        };
        svid_api::BatchNewX509svidRequest {
            params: vec![params; count],
        }
    }

    async fn channels(&self, node: &Node) -> anyhow::Result<Vec<Channel>> {
        let mut channels = Vec::new();
        for _ in 0..CONNECTIONS {
            channels.push(self.agent.connect(&node.api).await?);
        }
        Ok(channels)
    }

    /// Documents a second, with as many asked for as keep the token busy.
    async fn closed_loop(&self, seconds: u64) -> anyhow::Result<f64> {
        let signed = Arc::new(AtomicU64::new(0));
        let mut callers: JoinSet<anyhow::Result<f64>> = JoinSet::new();
        for node in self.cluster.nodes() {
            for channel in self.channels(node).await? {
                let (request, signed) = (self.request(BATCH), Arc::clone(&signed));
                callers.spawn(async move {
                    let mut client = SvidClient::new(channel);
                    loop {
                        let answer = client.batch_new_x509svid(request.clone()).await?;
                        let results = answer.into_inner().results;
                        for result in &results {
                            let status = result.status.clone().unwrap_or_default();
                            ensure!(status.code == 0, "{}", status.message);
                        }
                        signed.fetch_add(results.len() as u64, Ordering::Relaxed);
                    }
                });
            }
        }
        let failed = async {
            // The first that ends has failed.
            let ended = callers.join_next().await.context("no callers")?;
            ended?
        };
        let measured = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let (before, began) = (signed.load(Ordering::Relaxed), Instant::now());
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            (signed.load(Ordering::Relaxed) - before) as f64 / began.elapsed().as_secs_f64()
        };
        tokio::select! {
            failed = failed => failed,
            rate = measured => Ok(rate),
        }
    }

    /// Percentiles 50 and 99 of the time that documents wait, of those asked for one by one at
    /// `rate` a second at random moments of the clients' own.
    async fn open_loop(&self, rate: f64, seconds: u64) -> anyhow::Result<[Duration; 2]> {
        let node = &self.cluster.nodes()[0];
        let channels = self.channels(node).await?;
        let mut alone = Vec::new();
        for turn in 0..100 {
            alone.push(
                self.one(&channels[turn % CONNECTIONS], Instant::now())
                    .await?,
            );
        }
        let unloaded = percentile(&mut alone, 50);
        let mut calls: JoinSet<anyhow::Result<Duration>> = JoinSet::new();
        let (began, mut at) = (Instant::now(), Duration::ZERO);
        let mut state: u64 = 20_261_127;
        let this = Arc::new((self.request(1), channels));
        for turn in 0_usize.. {
            // Exponential gaps: nobody waits for anybody.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let uniform = ((state >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
            at += Duration::from_secs_f64(-uniform.ln() / rate);
            if at > Duration::from_secs(seconds) {
                break;
            }
            let due = began + at;
            tokio::time::sleep_until(due.into()).await;
            let this = Arc::clone(&this);
            calls.spawn(async move {
                let channel = this.1[turn % CONNECTIONS].clone();
                signed_one(channel, this.0.clone(), due).await
            });
        }
        let mut took = Vec::new();
        while let Some(call) = calls.join_next().await {
            took.push(call??.saturating_sub(unloaded));
        }
        Ok([50, 99].map(|part| percentile(&mut took, part)))
    }

    async fn one(&self, channel: &Channel, due: Instant) -> anyhow::Result<Duration> {
        signed_one(channel.clone(), self.request(1), due).await
    }
}

/// Has one document signed; the time since it was due.
async fn signed_one(
    channel: Channel,
    request: svid_api::BatchNewX509svidRequest,
    due: Instant,
) -> anyhow::Result<Duration> {
    let answer = SvidClient::new(channel).batch_new_x509svid(request).await?;
    let result = answer.into_inner().results.pop().context("a result")?;
    let status = result.status.unwrap_or_default();
    ensure!(status.code == 0, "{}", status.message);
    Ok(due.elapsed())
}

fn percentile(times: &mut [Duration], part: usize) -> Duration {
    times.sort_unstable();
    let at = times.len().saturating_mul(part) / 100;
    times.get(at).or(times.last()).copied().unwrap_or_default()
}

/// What `hsm bench` says that the token makes in a second.
fn token_rate(node: &Node, environment: &[(&str, &str)], dir: &Path) -> anyhow::Result<f64> {
    let output = Command::new(bin_dir()?.join("chancery"))
        .args([
            "hsm",
            "bench",
            "-sessions",
            &SESSIONS.to_string(),
            "-config",
        ])
        .arg(&node.config)
        .envs(environment.iter().copied())
        .env("SOFTHSM2_CONF", dir.join("softhsm2.conf"))
        .output()?;
    ensure!(output.status.success(), "hsm bench: {}", text(&output));
    let said = String::from_utf8(output.stdout)?;
    let row = said.lines().nth(1).context("a row")?;
    let rate = row.split_whitespace().nth(2).context("a rate")?;
    Ok(rate.parse()?)
}

/// Clock ticks of all processors so far: idle, and all.
fn ticks() -> anyhow::Result<[u64; 2]> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("a line")?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    Ok([ticks.get(3).copied().unwrap_or(0), ticks.iter().sum()])
}

#[tokio::main]
#[allow(clippy::print_stdout, reason = "its table")]
async fn main() -> anyhow::Result<ExitCode> {
    let Args { seconds } = Args::parse();
    let softhsm = softhsm_module()?;
    let shim = module_path().context("the shim is not built")?;
    println!(
        "| token, signatures/s | nodes | `hsm bench` | documents/s | of the token's | idle | waiting at 80 % p50 | p99 | bound |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let mut missed = 0;
    for profile in Profile::ALL {
        let (ceiling, _) = profile.speed();
        for nodes in [1, 3] {
            let directory = tempfile::tempdir()?;
            let steering = Steering::new(directory.path())?;
            let environment = steering.environment(&softhsm);
            let environment: Vec<_> = environment
                .iter()
                .map(|(name, value)| (*name, value.to_str().unwrap_or_default()))
                .collect();
            let bench = Bench::start(nodes, &environment, &shim).await?;
            steering.set(&Control {
                profile: Some(profile),
                ..Control::default()
            })?;
            let first = bench.cluster.nodes()[0].clone();
            let token = token_rate(&first, &environment, bench.cluster.dir())?;
            let before = ticks()?;
            let served = bench.closed_loop(seconds).await?;
            let after = ticks()?;
            let idle = (after[0] - before[0]) as f64 / (after[1] - before[1]).max(1) as f64;
            let [p50, p99] = bench.open_loop(LOAD * token, seconds).await?;
            let bound = Duration::from_secs_f64(WAITS / token) + SCHEDULING;
            let limits = idle >= IDLE;
            let ratio = served / token;
            let good = ratio >= REACHED && p99 <= bound;
            missed += usize::from(limits && !good);
            let verdict = match (limits, good) {
                (false, _) => " (the machine limits)",
                (true, true) => "",
                (true, false) => " (MISSED)",
            };
            println!(
                "| {ceiling} | {nodes} | {token:.0} | {served:.0} | {:.1} %{verdict} | {:.0} % | {:.1} ms | {:.1} ms | {:.1} ms |",
                100.0 * ratio,
                100.0 * idle,
                1000.0 * p50.as_secs_f64(),
                1000.0 * p99.as_secs_f64(),
                1000.0 * bound.as_secs_f64(),
            );
        }
    }
    if missed == 0 {
        println!("token-rate: ok");
        return Ok(ExitCode::SUCCESS);
    }
    println!("token-rate: {missed} of 6 rows missed");
    Ok(ExitCode::FAILURE)
}
