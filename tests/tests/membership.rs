//! Members come and go while the cluster works.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chancery_tests::agent::Agent;
use chancery_tests::cluster::{Cluster, Node, Options, count, eventually, text};
use chancery_tests::load::{Load, nothing_is_lost};

const KILL: i32 = 9;

/// Members by id with their roles, as `node` tells.
fn roles(cluster: &Cluster, node: &Node) -> anyhow::Result<Vec<(String, String)>> {
    let output = cluster.cli(node, &["cluster", "members", "-output", "json"])?;
    ensure!(
        output.status.success(),
        "cluster members: {}",
        text(&output)
    );
    let members: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout)?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    Ok(members
        .iter()
        .map(|m| {
            let role = text(&m["role"]);
            let votes = if role == "leader" { "voter" } else { &role };
            (text(&m["id"]), votes.to_owned())
        })
        .collect())
}

/// Waits until `node` tells of exactly these voters, and no learner.
async fn voters(cluster: &Cluster, node: &Node, ids: &[&str]) -> anyhow::Result<()> {
    let wanted: Vec<_> = ids
        .iter()
        .map(|id| ((*id).to_owned(), "voter".to_owned()))
        .collect();
    eventually("the voters", Duration::from_secs(30), || async {
        let roles = roles(cluster, node)?;
        ensure!(roles == wanted, "{roles:?}");
        Ok(Some(()))
    })
    .await
}

fn succeeds(output: &Output) -> anyhow::Result<()> {
    ensure!(output.status.success(), "{}", text(output));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_becomes_three_and_five_and_three_again_under_load() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Options {
        nodes: 1,
        ..Options::default()
    })?;
    let load = Load::start(&cluster).await?;
    for wanted in [["1", "2", "3"].as_slice(), &["1", "2", "3", "4", "5"]] {
        while cluster.nodes().len() < wanted.len() {
            cluster.add(&[])?;
        }
        voters(&cluster, &cluster.nodes()[0], wanted).await?;
        load.knows(cluster.nodes().to_vec());
    }
    // The leader goes, and one more.
    let leader = cluster.leader(&cluster.nodes()[0]).await?;
    let other = if leader == "5" { "4" } else { "5" };
    let stay: Vec<Node> = cluster
        .nodes()
        .iter()
        .filter(|n| n.id != leader && n.id != other)
        .cloned()
        .collect();
    load.knows(stay.clone());
    succeeds(&cluster.cli(&stay[0], &["cluster", "remove", &leader, other])?)?;
    let ids: Vec<&str> = stay.iter().map(|n| n.id.as_str()).collect();
    voters(&cluster, &stay[0], &ids).await?;
    let done = load.end().await?;
    nothing_is_lost(&cluster, &stay, &done).await?;
    for gone in [&leader, other] {
        let log = cluster.node(gone)?.log.clone();
        eventually("a removed node ends", Duration::from_secs(20), || async {
            let said = std::fs::read_to_string(&log)?;
            Ok(said
                .contains(&format!("Error: node {gone} was removed from this cluster"))
                .then_some(()))
        })
        .await?;
    }
    println!(
        "1 → 3 → 5 → 3: {} writes and {} signatures, failed after retries 0",
        done.written.len(),
        done.signed
    );
    ensure!(done.written.len() > 20, "too little load to mean anything");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_voter_is_replaced_in_one_change() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Options::default())?;
    let first = cluster.nodes()[0].clone();
    cluster.signal("3", KILL)?;
    eventually("node 3 is missed", Duration::from_secs(20), || async {
        let status = cluster.status(&first)?;
        Ok((status["members"][2]["reachable"] == false).then_some(()))
    })
    .await?;
    let refused = cluster.cli(&first, &["cluster", "remove", "-allowEven", "2"])?;
    ensure!(!refused.status.success(), "{}", text(&refused));
    ensure!(
        text(&refused).contains("only 1 of the 2 voters that would be left answer (not: node 3)"),
        "{}",
        text(&refused)
    );
    ensure!(cluster.add(&["--replaces", "3"])? == "4", "the next id");
    voters(&cluster, &first, &["1", "2", "4"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_of_the_list_comes_back_under_a_new_id() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Options::default())?;
    let first = cluster.nodes()[0].clone();
    let third = cluster.node("3")?.clone();
    let agent = {
        let token = cluster.token(&third).await?;
        Agent::attest(&third.api, &cluster.trust()?, &token, None).await?
    };
    succeeds(&cluster.cli(&first, &["cluster", "remove", "-allowEven", "3"])?)?;
    voters(&cluster, &first, &["1", "2"]).await?;
    let config = third.config.display().to_string();
    let rejoin = |flags: &[&str]| {
        let chancery = chancery_tests::cluster::bin_dir()?.join("chancery");
        let line = [["cluster", "rejoin", "-config", &config].as_slice(), flags].concat();
        Ok::<_, anyhow::Error>(std::process::Command::new(chancery).args(line).output()?)
    };
    let said = eventually("node 3 has ended", Duration::from_secs(20), || async {
        let output = rejoin(&["-yes"])?;
        ensure!(output.status.success(), "{}", text(&output));
        Ok(Some(text(&output)))
    })
    .await?;
    ensure!(said.starts_with("What was node 3 of cluster"), "{said}");
    ensure!(
        text(&rejoin(&["-yes"])?).ends_with("belongs to no cluster: nothing to set aside.\n"),
        "twice"
    );
    cluster.restart("3", &[])?;
    voters(&cluster, &first, &["1", "2", "4"]).await?;
    let back = cluster.node("4")?.clone();
    let renewed = cluster.token(&back).await?;
    ensure!(!renewed.is_empty(), "it takes writes");
    ensure!(agent.connect(&back.api).await.is_ok(), "it serves agents");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_learns_of_members_that_came_meanwhile() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Options::default())?;
    let first = cluster.nodes()[0].clone();
    cluster.signal("3", KILL)?;
    cluster.add(&[])?;
    cluster.add(&[])?;
    voters(&cluster, &first, &["1", "2", "3", "4", "5"]).await?;
    // The only one that sends log entries is one that node 3 never heard of.
    // On a busy machine it may not take over in time, and is asked again.
    eventually("node 5 leads", Duration::from_secs(60), || async {
        let asked = cluster.cli(&first, &["cluster", "transfer-leader", "-to", "5"])?;
        Ok(asked.status.success().then_some(()))
    })
    .await?;
    cluster
        .create(&first, vec![cluster.entry("/p", "/meanwhile")])
        .await?;
    cluster.restart("3", &[])?;
    let third = cluster.node("3")?.clone();
    let leader = cluster.leader(&third).await?;
    ensure!(leader == "5", "node {leader} leads");
    let ids = chancery_tests::cluster::entry_ids(&third).await?;
    ensure!(ids.len() == 1, "{ids:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_enters_by_a_right_token_once_and_a_member_founds_nothing() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Options {
        nodes: 1,
        keys: "memory",
        ..Options::default()
    })?;
    cluster.add(&["--learner"])?;
    let first = cluster.nodes()[0].clone();
    let second = cluster.node("2")?.clone();
    let learners = [("1", "voter"), ("2", "learner")].map(|(i, r)| (i.to_owned(), r.to_owned()));
    ensure!(
        roles(&cluster, &first)? == learners,
        "{:?}",
        roles(&cluster, &first)?
    );
    // Its token is used; a new node that has it is told so.
    let third = Sample::new(&second, "used")?;
    let used = third.run(&[])?;
    ensure!(
        used.contains("the node token is unknown or was used already"),
        "{used}"
    );
    let other = third.run(&["-trustDomain", "other.test"])?;
    ensure!(
        other.contains(
            "belongs to trust domain example.org, this node is configured for other.test"
        ),
        "{other}"
    );
    let bare = Sample::new(&second, "bare")?;
    std::fs::write(&bare.token, "0b7cf5c1\n")?;
    let wrong = bare.run(&[])?;
    ensure!(wrong.contains("is it a join token for agents"), "{wrong}");
    let config = bare.text.replace("join_token_file", "# join_token_file");
    std::fs::write(&bare.config, config)?;
    let lost = bare.run(&[])?;
    ensure!(
        lost.contains("this node belongs to no cluster and is told of none"),
        "{lost}"
    );
    let init = || bare.chancery(&["cluster", "init", "-config"]);
    let founded = init()?;
    ensure!(
        founded.contains("founded with this node as node 1"),
        "{founded}"
    );
    let twice = init()?;
    ensure!(twice.contains("belongs to node 1 of cluster"), "{twice}");
    Ok(())
}

/// A stopped node that is configured like `like`, with a copy of its token.
struct Sample {
    dir: tempfile::TempDir,
    config: std::path::PathBuf,
    token: std::path::PathBuf,
    text: String,
}

impl Sample {
    fn new(like: &Node, name: &str) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix(name).tempdir()?;
        let home = like.config.parent().context("a folder")?;
        let there = std::fs::read_to_string(&like.config)?;
        let token = there
            .lines()
            .find_map(|l| l.strip_prefix("join_token_file = \"")?.strip_suffix('"'))
            .context("a token")?;
        let copy = dir.path().join("token");
        std::fs::copy(token, &copy)?;
        let mut text = there
            .replace(
                &home.display().to_string(),
                &dir.path().display().to_string(),
            )
            .replace(token, &copy.display().to_string());
        // Ports that are free; the node ends before anybody connects.
        for address in [&like.api, &like.peer, &like.metrics, &like.health] {
            let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
            text = text.replace(&format!("\"{address}\""), &format!("\"{free}\""));
        }
        let config = dir.path().join("chancery.toml");
        std::fs::write(&config, &text)?;
        Ok(Self {
            dir,
            config,
            token: copy,
            text,
        })
    }

    /// What a server says that does not come up.
    fn run(&self, flags: &[&str]) -> anyhow::Result<String> {
        let data = self.dir.path().join("data");
        if data.exists() {
            std::fs::remove_dir_all(&data)?;
        }
        let said = self.chancery_with(&["server", "run", "-config"], flags)?;
        ensure!(!said.status.success(), "it came up: {}", text(&said));
        Ok(text(&said))
    }

    fn chancery(&self, words: &[&str]) -> anyhow::Result<String> {
        Ok(text(&self.chancery_with(words, &[])?))
    }

    fn chancery_with(&self, words: &[&str], flags: &[&str]) -> anyhow::Result<Output> {
        let chancery = chancery_tests::cluster::bin_dir()?.join("chancery");
        let mut command = std::process::Command::new("timeout");
        command
            .arg("30")
            .arg(chancery)
            .args(words)
            .arg(&self.config)
            .args(flags);
        Ok(command.output()?)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_state_comes_out_otherwise_ends_and_stays_out() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Options {
        keys: "memory",
        ..Options::default()
    })?;
    let first = cluster.nodes()[0].clone();
    let third = cluster.node("3")?.clone();
    let applied = cluster.status(&first)?["members"][0]["applied_index"].as_u64();
    // Far enough for its own start to be behind it.
    let at = (applied.context("an index")? + 30).to_string();
    cluster.restart("3", &[("CHANCERY_FAULT_DIVERGE_AT", &at)])?;
    let said = async |what: &str| {
        eventually("node 3 says so", Duration::from_secs(30), || async {
            let log = std::fs::read_to_string(&third.log)?;
            Ok(log.contains(what).then_some(()))
        })
        .await
    };
    for number in 0..40 {
        let draft = cluster.entry("/p", &format!("/{number}"));
        cluster.create(&first, vec![draft]).await?;
    }
    said("Error: the state of this node is another one than that of the majority at log entry")
        .await?;
    ensure!(cluster.restart("3", &[]).is_err(), "it came up");
    said(": the state of this node is another one than that of the majority").await?;
    let status = cluster.status(&first)?;
    ensure!(status["ready"] == true, "{status}");
    let ids = chancery_tests::cluster::entry_ids(&first).await?;
    ensure!(ids.len() == 40, "{}", ids.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_fails_no_call() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&Options::default())?;
    let load = Load::start(&cluster).await?;
    for _ in 0..count(1, 10) {
        for id in ["1", "2", "3"] {
            cluster.restart(id, &[])?;
            load.knows(cluster.nodes().to_vec());
        }
    }
    let done = load.end().await?;
    nothing_is_lost(&cluster, cluster.nodes(), &done).await?;
    println!(
        "rolling restart: {} writes and {} signatures, failed after retries 0",
        done.written.len(),
        done.signed
    );
    ensure!(done.written.len() > 20, "too little load to mean anything");
    Ok(())
}
