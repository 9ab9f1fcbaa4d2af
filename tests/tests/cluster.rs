//! A cluster of real processes loses its leader, a slow follower, a quorum.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chancery_tests::agent::{Agent, attest_call, key_and_csr};
use chancery_tests::cluster::{Cluster, Node, Options, count, entry_ids, eventually};
use chancery_tests::tls::{connect, connect_admin};
use tokio::sync::Barrier;
use tonic::Code;

const KILL: i32 = 9;
const STOP: i32 = 19;
const CONTINUE: i32 = 18;

/// Attests an agent at `node`.
async fn attest(cluster: &Cluster, node: &Node, source: Option<IpAddr>) -> anyhow::Result<Agent> {
    let token = cluster.token(node).await?;
    Agent::attest(&node.api, &cluster.trust()?, &token, source).await
}

/// Drives the agent protocol against one node until told to stop; counts rounds
/// and, while the node should live, failures.
struct Load {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    failures: Arc<std::sync::Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

fn load(agent: Agent, address: String) -> Load {
    let stop = Arc::new(AtomicBool::new(false));
    let rounds = Arc::new(AtomicUsize::new(0));
    let failures = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (s, r, f) = (
        Arc::clone(&stop),
        Arc::clone(&rounds),
        Arc::clone(&failures),
    );
    let task = tokio::spawn(async move {
        while !s.load(Ordering::Relaxed) {
            match agent.round(&address).await {
                Ok(svids) if !svids.is_empty() => {
                    r.fetch_add(1, Ordering::Relaxed);
                }
                Ok(_) => f
                    .lock()
                    .expect("no holder panics")
                    .push("no SVID came back".into()),
                Err(error) => f
                    .lock()
                    .expect("no holder panics")
                    .push(format!("{error:#}")),
            }
        }
    });
    Load {
        stop,
        rounds,
        failures,
        task,
    }
}

impl Load {
    /// Waits for `more` further rounds.
    async fn rounds(&self, more: usize) -> anyhow::Result<()> {
        let goal = self.rounds.load(Ordering::Relaxed) + more;
        eventually("issuance", Duration::from_secs(30), || async {
            Ok((self.rounds.load(Ordering::Relaxed) >= goal).then_some(()))
        })
        .await
    }

    async fn end(self) -> anyhow::Result<(usize, Vec<String>)> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?;
        let failures = self.failures.lock().expect("no holder panics").clone();
        Ok((self.rounds.load(Ordering::Relaxed), failures))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_and_no_identity_is_lost_when_leaders_are_killed()
-> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Options::default())?;
    let agent = attest(&cluster, &cluster.nodes()[0], None).await?;
    let mut acknowledged = BTreeSet::new();
    for n in 0..3 {
        let entry = cluster.entry(agent.path(), &format!("/first/{n}"));
        let created = cluster.create(&cluster.nodes()[n], vec![entry]).await?;
        acknowledged.insert(created[0].1.clone().context("an entry")?.id);
    }
    let kills = count(3, 20);
    let mut times = Vec::new();
    let mut rounds = 0;
    for kill in 0..kills {
        let leader = cluster.leader(&cluster.nodes()[0]).await?;
        let survivors: Vec<Node> = cluster
            .nodes()
            .iter()
            .filter(|n| n.id != leader)
            .cloned()
            .collect();
        let loads: Vec<Load> = survivors
            .iter()
            .map(|n| load(agent.clone(), n.api.clone()))
            .collect();
        for load in &loads {
            load.rounds(2).await?;
        }
        cluster.signal(&leader, KILL)?;
        let killed = Instant::now();
        let mut attempt = 0;
        // A refused or unknown write is tried again under another name: what was not
        // acknowledged may or may not be there.
        let id = eventually("an acknowledged write", Duration::from_secs(30), || {
            attempt += 1;
            let node = survivors[attempt % survivors.len()].clone();
            let entry = cluster.entry(agent.path(), &format!("/kill/{kill}/{attempt}"));
            let cluster = &cluster;
            async move {
                let created = cluster.create(&node, vec![entry]).await?;
                Ok(created
                    .into_iter()
                    .next()
                    .and_then(|(_, entry)| entry)
                    .map(|e| e.id))
            }
        })
        .await?;
        times.push(killed.elapsed());
        acknowledged.insert(id);
        for load in loads {
            load.rounds(2).await?;
            let (done, failures) = load.end().await?;
            ensure!(
                failures.is_empty(),
                "kill {kill}: issuance failed on a survivor: {failures:?}\n{}",
                cluster.logs()
            );
            rounds += done;
        }
        for node in &survivors {
            let missing: Vec<_> = acknowledged
                .difference(&entry_ids(node).await?)
                .cloned()
                .collect();
            ensure!(
                missing.is_empty(),
                "kill {kill}: acknowledged entries are lost on node {}: {missing:?}",
                node.id
            );
        }
        cluster.restart(&leader, &[])?;
        let back = cluster.node(&leader)?.clone();
        let missing: Vec<_> = acknowledged
            .difference(&entry_ids(&back).await?)
            .cloned()
            .collect();
        ensure!(
            missing.is_empty(),
            "kill {kill}: the restarted node lacks {missing:?}"
        );
        agent
            .round(&back.api)
            .await
            .context("the restarted node issues")?;
    }
    times.sort();
    println!(
        "leader kills: {kills}; acknowledged writes lost: 0 of {}; issuance failures on survivors: 0 of {rounds} rounds; \
         time to the next acknowledged write: median {:?}, worst {:?}",
        acknowledged.len(),
        times[times.len() / 2],
        times[times.len() - 1]
    );
    // Ten times the second that is aimed at: machines are shared.
    ensure!(
        times[times.len() / 2] < Duration::from_secs(10),
        "{times:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_token_has_one_winner_however_many_nodes_see_it_at_once() -> anyhow::Result<()> {
    let cluster = Cluster::start(&Options::default())?;
    let trust = cluster.trust()?;
    let rounds = count(100, 1000);
    let mut wins_by_node = [0; 3];
    for round in 0..rounds {
        let token = cluster.token(&cluster.nodes()[round % 3]).await?;
        let barrier = Arc::new(Barrier::new(3));
        let mut tries = Vec::new();
        for (n, node) in cluster.nodes().iter().enumerate() {
            // Each client from an address of its own.
            let number = u32::try_from(round * 3 + n + 1)?;
            let source = IpAddr::V4(Ipv4Addr::from(
                u32::from(Ipv4Addr::new(127, 1, 0, 0)) + number,
            ));
            let (barrier, token) = (Arc::clone(&barrier), token.clone());
            let channel = connect(&node.api, &trust, None, Some(source)).await?;
            let (_, csr) = key_and_csr()?;
            tries.push(tokio::spawn(async move {
                barrier.wait().await;
                attest_call(channel, &token, csr).await
            }));
        }
        let mut wins = 0;
        for (n, attempt) in tries.into_iter().enumerate() {
            match attempt.await? {
                Ok(_) => {
                    wins += 1;
                    wins_by_node[n] += 1;
                }
                Err(status) => {
                    ensure!(status.code() == Code::InvalidArgument, "{status:?}");
                    ensure!(
                        status
                            .message()
                            .contains("does not exist or has already been used"),
                        "{status:?}"
                    );
                }
            }
        }
        ensure!(wins == 1, "round {round}: {wins} winners");
    }
    println!("join token races: {rounds}; double wins: 0; wins by node: {wins_by_node:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_two_seconds_behind_never_makes_an_agent_drop_its_identity() -> anyhow::Result<()>
{
    let mut cluster = Cluster::start(&Options::default())?;
    let leader = cluster.leader(&cluster.nodes()[0]).await?;
    let slow = cluster
        .nodes()
        .iter()
        .find(|n| n.id != leader)
        .context("a follower")?
        .id
        .clone();
    cluster.restart(&slow, &[("CHANCERY_FAULT_HOLD_APPLY_MS", "2000")])?;
    let a = cluster.node(&leader)?.clone();
    let b = cluster.node(&slow)?.clone();

    // Whatever else a call may answer, a typed denial makes an agent drop its SVID.
    let typed = |status: &tonic::Status| {
        !status.details().is_empty() || status.code() == Code::PermissionDenied
    };
    let agent = attest(&cluster, &a, None).await?;
    let mut unavailable = 0;
    let renewed = loop {
        let channel = agent.connect(&b.api).await?;
        let synced = agent.sync(channel.clone()).await;
        let renewed = match synced {
            Ok(_) => agent.renew(channel).await,
            Err(status) => Err(status),
        };
        match renewed {
            Ok(renewed) => break renewed,
            Err(status) => {
                ensure!(
                    !typed(&status),
                    "a typed denial from the slow follower: {status:?}"
                );
                ensure!(status.code() == Code::Unavailable, "{status:?}");
                unavailable += 1;
                ensure!(
                    unavailable < 20,
                    "the slow follower never answered: {status:?}"
                );
            }
        }
    };
    for (name, node) in [("A", &a), ("B", &b), ("A", &a)] {
        let mut left = 20;
        loop {
            let channel = renewed.connect(&node.api).await?;
            match renewed.sync(channel).await {
                Ok(_) => break,
                Err(status) => {
                    ensure!(
                        !typed(&status),
                        "a typed denial from {name} after the renewal: {status:?}"
                    );
                    left -= 1;
                    ensure!(left > 0, "{name} never answered: {status:?}");
                }
            }
        }
    }
    println!("slow follower: typed denials 0, answers UNAVAILABLE {unavailable}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alone_a_node_issues_to_its_limit_and_not_past_it() -> anyhow::Result<()> {
    const LIMIT: Duration = Duration::from_secs(5);
    let extra = "[issuance]\nstale_issuance_limit = \"5s\"\n";
    let cluster = Cluster::start(&Options {
        extra,
        ..Options::default()
    })?;
    // Once as a follower, once as the leader that it believes to be.
    for as_leader in [false, true] {
        // The nodes that were stopped in the round before may be electing still: what a
        // client is told then is that nothing was written, and it asks again.
        let (alone, agent, ids) = eventually(
            "a write through the node to be left alone",
            Duration::from_secs(20),
            || async {
                let leader = cluster.leader(&cluster.nodes()[0]).await?;
                let fits = |n: &&Node| (n.id == leader) == as_leader;
                let alone = cluster.nodes().iter().find(fits).context("a node")?;
                let agent = attest(&cluster, alone, None).await?;
                let path = format!("/alone/{as_leader}");
                let created = cluster
                    .create(alone, vec![cluster.entry(agent.path(), &path)])
                    .await?;
                let id = created[0].1.clone().context("an entry")?.id;
                Ok(Some((alone.clone(), agent, vec![id])))
            },
        )
        .await?;
        let channel = agent.connect(&alone.api).await?;
        let others: Vec<&Node> = cluster
            .nodes()
            .iter()
            .filter(|n| n.id != alone.id)
            .collect();
        for other in &others {
            cluster.signal(&other.id, STOP)?;
        }
        let stopped = Instant::now();
        let mut last_success = Duration::ZERO;
        let mut refused = None;
        while stopped.elapsed() < LIMIT + Duration::from_secs(2) {
            match agent.sign(channel.clone(), &ids).await {
                Ok(svids) if svids.iter().all(Result::is_ok) => last_success = stopped.elapsed(),
                Ok(svids) => {
                    let status = svids
                        .into_iter()
                        .find_map(Result::err)
                        .context("a status")?;
                    ensure!(status.code == Code::Unavailable as i32, "{status:?}");
                    refused.get_or_insert(stopped.elapsed());
                }
                Err(status) => {
                    ensure!(status.code() == Code::Unavailable, "{status:?}");
                    refused.get_or_insert(stopped.elapsed());
                }
            }
        }
        for other in &others {
            cluster.signal(&other.id, CONTINUE)?;
        }
        println!(
            "alone: node {} issued for {last_success:?} of {LIMIT:?}, then refused",
            alone.id
        );
        ensure!(refused.is_some(), "it never stopped issuing");
        // Its last confirmation was sent up to one interval before the others stopped.
        ensure!(
            last_success > LIMIT - Duration::from_secs(2),
            "it stopped after {last_success:?}"
        );
        ensure!(last_success <= LIMIT, "it issued for {last_success:?}");
        eventually(
            "issuance after the others are back",
            Duration::from_secs(20),
            || async {
                let svids = agent.sign(agent.connect(&alone.api).await?, &ids).await?;
                Ok(svids.iter().all(Result::is_ok).then_some(()))
            },
        )
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_was_switched_off_comes_back_whole() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Options::default())?;
    let agent = attest(&cluster, &cluster.nodes()[1], None).await?;
    cluster
        .create(
            &cluster.nodes()[2],
            vec![cluster.entry(agent.path(), "/kept")],
        )
        .await?;
    let before = cluster.status(&cluster.nodes()[0])?;
    let ids: Vec<String> = cluster.nodes().iter().map(|n| n.id.clone()).collect();
    for id in &ids {
        cluster.signal(id, KILL)?;
    }
    cluster.restart("all", &[])?;
    for node in cluster.nodes() {
        let svids = agent.round(&node.api).await?;
        ensure!(
            svids.iter().any(|s| s.id.ends_with("/kept")),
            "node {} forgot the entry",
            node.id
        );
    }
    let after = cluster.status(&cluster.nodes()[1])?;
    ensure!(
        before["authorities"] == after["authorities"],
        "the authorities changed: {before} {after}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_missed_more_than_the_log_keeps_catches_up_by_snapshot() -> anyhow::Result<()>
{
    let extra = "[raft]\nsnapshot_after_entries = 100\nentries_kept_after_snapshot = 0\n";
    let mut cluster = Cluster::start(&Options {
        extra,
        keys: "memory",
        ..Options::default()
    })?;
    let leader = cluster.leader(&cluster.nodes()[0]).await?;
    let away = cluster
        .nodes()
        .iter()
        .find(|n| n.id != leader)
        .context("a follower")?
        .clone();
    let there = cluster.node(&leader)?.clone();
    cluster.signal(&away.id, KILL)?;
    // Each is a log entry of its own.
    for n in 0..800 {
        let entry = cluster.entry("/spire/agent/join_token/missed", &format!("/missed/{n}"));
        cluster.create(&there, vec![entry]).await?;
    }
    cluster.restart(&away.id, &[])?;
    let back = cluster.node(&away.id)?.clone();
    ensure!(
        entry_ids(&back).await? == entry_ids(&there).await?,
        "entries are missing on the member that was away"
    );
    let log = std::fs::read_to_string(&back.log)?;
    ensure!(
        log.contains("snapshot installed"),
        "it caught up without a snapshot: the test proves nothing"
    );
    let digest = |status: &serde_json::Value, id: &str| {
        let members = status["members"].as_array().cloned().unwrap_or_default();
        let member = members.into_iter().find(|m| m["id"] == id);
        member.map(|m| (m["applied_index"].clone(), m["state_digest"].clone()))
    };
    eventually(
        "equal digests at an equal index",
        Duration::from_secs(20),
        || async {
            let status = cluster.status(&there)?;
            let (a, b) = (digest(&status, &there.id), digest(&status, &back.id));
            match (a, b) {
                (Some(a), Some(b)) if a.0 == b.0 => {
                    ensure!(a.1 == b.1, "the states differ: {status}");
                    Ok(Some(()))
                }
                _ => Ok(None),
            }
        },
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_is_answered_while_writes_come_in() -> anyhow::Result<()> {
    use chancery_api::chancery::cluster::v1::StatusRequest;
    use chancery_api::chancery::cluster::v1::cluster_client::ClusterClient;
    let cluster = Cluster::start(&Options {
        nodes: 1,
        keys: "memory",
        ..Options::default()
    })?;
    let node = cluster.nodes()[0].clone();
    let done = Arc::new(AtomicBool::new(false));
    let mut askers = Vec::new();
    for _ in 0..4 {
        let (done, channel) = (Arc::clone(&done), connect_admin(&node.admin_socket).await?);
        askers.push(tokio::spawn(async move {
            let mut client = ClusterClient::new(channel);
            let mut asked = 0;
            while !done.load(Ordering::Relaxed) {
                // A reader that waits for itself never answers.
                let answer = client.status(StatusRequest {});
                tokio::time::timeout(Duration::from_secs(20), answer)
                    .await
                    .context("status hangs")??;
                asked += 1;
            }
            anyhow::Ok(asked)
        }));
    }
    for n in 0..count(300, 3000) {
        let entry = cluster.entry("/spire/agent/join_token/status", &format!("/status/{n}"));
        let create = cluster.create(&node, vec![entry]);
        tokio::time::timeout(Duration::from_secs(20), create)
            .await
            .context("a write hangs")??;
    }
    done.store(true, Ordering::Relaxed);
    for asker in askers {
        ensure!(asker.await?? > 0, "status was never answered");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_killed_at_any_moment_founds_at_its_next_start() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Options {
        nodes: 1,
        keys: "memory",
        ..Options::default()
    })?;
    let id = cluster.nodes()[0].id.clone();
    for round in 0..count(5, 40) {
        cluster.signal(&id, KILL)?;
        let node = cluster.nodes()[0].clone();
        let proc = std::path::PathBuf::from(format!("/proc/{}", node.pid));
        eventually("the end of the node", Duration::from_secs(20), || async {
            let stat = std::fs::read_to_string(proc.join("stat")).unwrap_or_default();
            // A leader that waits to be reaped may have threads that still hold the ports.
            let threads = std::fs::read_dir(proc.join("task")).map_or(0, Iterator::count);
            Ok((stat.is_empty() || (stat.contains(") Z ") && threads <= 1)).then_some(()))
        })
        .await?;
        std::fs::remove_dir_all(&node.data_dir)?;
        let start = || -> anyhow::Result<std::process::Child> {
            let log = std::fs::OpenOptions::new().append(true).open(&node.log)?;
            Ok(
                std::process::Command::new(chancery_tests::cluster::bin_dir()?.join("chancery"))
                    .args(["server", "run", "--config"])
                    .arg(&node.config)
                    .stdout(std::process::Stdio::null())
                    .stderr(log)
                    .spawn()?,
            )
        };
        let mut founder = start()?;
        // Somewhere between the identity record and the first authority.
        let identity = node.data_dir.join("identity");
        let deadline = Instant::now() + Duration::from_secs(20);
        while !identity.exists() {
            ensure!(
                Instant::now() < deadline,
                "no identity record\n{}",
                cluster.logs()
            );
            if founder.try_wait()?.is_some() {
                // What was killed still held a port or the lock.
                founder = start()?;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_millis(u64::try_from(round)? * 37 % 200)).await;
        founder.kill()?;
        founder.wait()?;
        cluster.restart(&id, &[])?;
    }
    Ok(())
}
