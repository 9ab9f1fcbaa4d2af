//! Nodes that die by SIGKILL while a key comes to be: at each call to the token that they share, and
//! at each write to the log. What is left of a key is taken up again, or is an orphan that a sweep
//! finds; whatever happens, what is trusted has its key and signs.

#[path = "key_creation/calls.rs"]
mod calls;
#[path = "key_creation/codes.rs"]
mod codes;
#[path = "key_creation/writes.rs"]
mod writes;

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chancery_identity::id::TrustDomain;
use chancery_pkcs11_shim::{Control, Rule};
use chancery_tests::bench::{Bench, LIMIT, RIGHT};
use chancery_tests::cluster::{eventually, text};
use chancery_tests::documents::{bundle, signing};
use chancery_tests::tls::{Trust, connect};
use serde_json::Value;

const NODES: usize = 3;
/// A JWT key changes nothing of what nodes show: it leaves the next round nothing to wait for.
const KINDS: [&str; 2] = ["jwt", "x509"];
const SIGKILL: i32 = 9;

/// Three nodes that sign, with `extra` in their configuration.
async fn cluster(extra: &str) -> anyhow::Result<Bench> {
    let mut bench = Bench::configured(NODES, RIGHT, extra)?;
    bench.start_all()?;
    for index in 0..NODES {
        bench.until_open(index, LIMIT).await?;
    }
    Ok(bench)
}

/// Says what happens on a node's way to the token.
fn steer(bench: &Bench, index: usize, rules: Vec<Rule>) -> anyhow::Result<()> {
    Ok(bench.nodes[index].steering.set(&Control {
        rules,
        ..Control::default()
    })?)
}

/// The nodes but one.
fn others(index: usize) -> [usize; 2] {
    [(index + 1) % NODES, (index + 2) % NODES]
}

fn json(bench: &Bench, index: usize, args: &[&str]) -> anyhow::Result<Value> {
    let output = bench.cli(index, &[args, &["-output", "json"]].concat())?;
    ensure!(output.status.success(), "{args:?}: {}", text(&output));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Id of the authority of a kind that is to sign next, as a node shows it.
fn prepared(bench: &Bench, index: usize, kind: &str) -> anyhow::Result<Option<String>> {
    let shown = json(bench, index, &["localauthority", kind, "show"])?;
    let id = shown["prepared"]["authority_id"].as_str();
    Ok(id.map(str::to_owned))
}

/// Has the next authority made through a node, elections and what others make aside; its id.
async fn prepare(bench: &Bench, index: usize, kind: &str) -> anyhow::Result<String> {
    eventually("the next authority", LIMIT, || {
        let answer = json(bench, index, &["localauthority", kind, "prepare"]);
        async {
            let id = answer?["prepared_authority"]["authority_id"].clone();
            Ok(Some(id.as_str().context("an id")?.to_owned()))
        }
    })
    .await
}

/// Lets an authority sign, as soon as every node has signed with it.
async fn activate(bench: &Bench, index: usize, kind: &str, id: &str) -> anyhow::Result<()> {
    eventually("every node's proof", LIMIT, || {
        let args = ["localauthority", kind, "activate", "-authorityID", id];
        let answer = json(bench, index, &args);
        async {
            answer?;
            Ok(Some(()))
        }
    })
    .await
}

/// Keys of the token, by what they belong to.
#[derive(Debug, Default)]
struct Keys {
    /// Ids of the authorities.
    of: BTreeSet<String>,
    being_made: usize,
    /// Those of no authority.
    orphans: usize,
    /// Those of an authority that gave way to the next before it signed.
    gave_way: usize,
    missing: usize,
}

impl Keys {
    async fn of(bench: &Bench, index: usize) -> anyhow::Result<Self> {
        eventually("a list of the keys", LIMIT, || {
            let listed = json(bench, index, &["hsm", "keys"]);
            async { Self::read(&listed?).map(Some) }
        })
        .await
    }

    fn read(listed: &Value) -> anyhow::Result<Self> {
        let missing = listed["missing"].as_array().context("missing keys")?;
        let mut keys = Self {
            missing: missing.len(),
            ..Self::default()
        };
        for key in listed["keys"].as_array().context("keys")? {
            match key["owner"].as_str() {
                Some("authority") => {
                    let id = key["authority_id"].as_str().context("an id")?;
                    ensure!(key["whole"] == true, "half a key: {key}");
                    ensure!(keys.of.insert(id.to_owned()), "two keys: {listed}");
                }
                Some("intent") => keys.being_made += 1,
                Some("orphan") if key["authority_id"] == "" => keys.orphans += 1,
                Some("orphan") => keys.gave_way += 1,
                _ => anyhow::bail!("a key of somebody else: {key}"),
            }
        }
        Ok(keys)
    }

    fn all(&self) -> usize {
        self.of.len() + self.being_made + self.orphans + self.gave_way
    }
}

/// These nodes sign with the same authorities, as soon as each knows of the last step, and each
/// other's documents verify; with which.
async fn sign(bench: &Bench, nodes: &[usize]) -> anyhow::Result<[String; 2]> {
    let sockets: Vec<_> = nodes
        .iter()
        .map(|index| bench.nodes[*index].admin_socket())
        .collect();
    eventually("documents that verify", LIMIT, || async {
        let mut found = BTreeSet::new();
        for (at, socket) in sockets.iter().enumerate() {
            let verifier = &sockets[(at + 1) % sockets.len()];
            let Some(of) = signing(socket, verifier, 1).await? else {
                return Ok(None);
            };
            found.insert(of);
        }
        let of = found.pop_first();
        Ok(of.filter(|_| found.is_empty()))
    })
    .await
}

/// Nothing is left of what happened but what a sweep takes away; how many keys of no authority
/// that were, and how many of authorities that gave way.
async fn sweep(bench: &Bench, index: usize) -> anyhow::Result<[usize; 2]> {
    let keys = Keys::of(bench, index).await?;
    let swept_away = [keys.orphans, keys.gave_way];
    let swept = bench.cli(index, &["hsm", "keys", "-sweep", "-yes"])?;
    ensure!(swept.status.success(), "{}", text(&swept));
    for node in 0..NODES {
        let keys = Keys::of(bench, node).await?;
        ensure!(
            [keys.orphans, keys.gave_way, keys.missing, keys.being_made] == [0; 4],
            "node {} after a sweep: {keys:?}",
            node + 1
        );
        let trusted = bundle(&bench.nodes[node].admin_socket()).await?;
        let jwt: Vec<_> = trusted.jwt_authorities.iter().map(|a| &a.key_id).collect();
        ensure!(
            jwt.iter().all(|id| keys.of.contains(*id)),
            "a JWT key that is trusted and not there: {jwt:?} {keys:?}"
        );
        let all = trusted.x509_authorities.len() + jwt.len();
        ensure!(all == keys.of.len(), "{all} are trusted: {keys:?}");
    }
    sign(bench, &[0, 1, 2]).await?;
    Ok(swept_away)
}

/// Waits until every node shows a server SVID of the authority that signs: nothing is signed
/// any more that nobody asked for.
async fn settled(bench: &Bench) -> anyhow::Result<()> {
    let [root, _] = sign(bench, &[0, 1, 2]).await?;
    let trust = Trust {
        trust_domain: TrustDomain::parse("example.org")?,
        roots: vec![hex::decode(root)?],
    };
    for node in &bench.nodes {
        eventually("a server SVID of today's authority", LIMIT, || async {
            connect(&node.api(), &trust, None, None).await.map(Some)
        })
        .await?;
    }
    Ok(())
}

/// Waits until a node has died by SIGKILL.
async fn until_killed(bench: &mut Bench, index: usize) -> anyhow::Result<()> {
    let ended = bench.nodes[index].until_dead().await;
    let ended = ended.context("the kill was not met")?;
    ensure!(ended.signal() == Some(SIGKILL), "it ended with {ended}");
    Ok(())
}

#[expect(clippy::print_stdout, reason = "tests print what they measured")]
fn show(what: &str, times: &[(&str, Duration)], [orphans, gave_way]: [usize; 2]) {
    let times: Vec<_> = times
        .iter()
        .map(|(what, took)| format!("{what} after {} ms", took.as_millis()))
        .collect();
    let times = times.join(", ");
    println!("{what}: {times}, {} orphans swept", orphans + gave_way);
}
