//! Leaders that die while a write of the making of a key is on its way: held up before it is in
//! their log, once it is on their disk, before they apply it, and after.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use chancery_pkcs11_shim::{Call, Rule};
use chancery_tests::cluster::{eventually, long, text};

use super::*;

/// Where the write is when its leader dies.
const PLACES: [&str; 4] = [
    "append.before",
    "append.after",
    "apply.before",
    "apply.after",
];
/// The writes: the key announced, the authority recorded, the authority signing.
const WRITES: [&str; 3] = ["BeginKey", "RecordAuthority", "ActivateAuthority"];

/// The order to a node to hold up what comes to a place.
struct Hold {
    directory: PathBuf,
    place: &'static str,
}

impl Hold {
    fn at(bench: &Bench, index: usize, place: &'static str) -> anyhow::Result<Self> {
        let home = &bench.nodes[index].home;
        let directory = home.join("data/faults");
        // In one step: a place that is passed before the order is there would count as met.
        let new = home.join("faults");
        fs::create_dir(&new)?;
        fs::write(new.join(place), "hold")?;
        fs::rename(new, &directory)?;
        Ok(Self { directory, place })
    }

    async fn until_met(&self) -> anyhow::Result<()> {
        let hit = self.directory.join(format!("hit.{}", self.place));
        eventually("the write is held", LIMIT, || async {
            Ok(hit.is_file().then_some(()))
        })
        .await
    }

    fn end(self) -> anyhow::Result<()> {
        Ok(fs::remove_dir_all(self.directory)?)
    }
}

/// Index of the node that leads, and how far its log is applied.
async fn leader(bench: &Bench) -> anyhow::Result<(usize, u64)> {
    eventually("a leader", LIMIT, || async {
        let status = bench.status(0)?;
        let members = status["members"].as_array().context("members")?;
        let leads = members.iter().find(|m| m["id"] == status["leader"]);
        let leads = leads.context("no leader")?;
        let api = leads["api"].as_str().context("an address")?;
        let mut nodes = bench.nodes.iter();
        let index = nodes.position(|n| n.api() == api).context("a node")?;
        let applied = leads["applied_index"].as_u64().context("an index")?;
        Ok(Some((index, applied)))
    })
    .await
}

/// Waits until a key is taken up, or has another made where nobody knows of the first; its id.
async fn taken_up(bench: &Bench, index: usize, kind: &str, known: bool) -> anyhow::Result<String> {
    if !known {
        return prepare(bench, index, kind).await;
    }
    eventually("the key is taken up", LIMIT, || async {
        prepared(bench, index, kind)
    })
    .await
}

/// A write is ordered at the leader, which dies while it is at `place`.
async fn round(
    bench: &mut Bench,
    kind: &str,
    write: &str,
    place: &'static str,
) -> anyhow::Result<()> {
    settled(bench).await?;
    let earlier = sign(bench, &[0, 1, 2]).await?;
    let (victim, applied) = leader(bench).await?;
    let [one, other] = others(victim);
    let mut next = None;
    let (hold, order) = match write {
        "BeginKey" => {
            let hold = Hold::at(bench, victim, place)?;
            let order = bench.spawn(victim, &["localauthority", kind, "prepare"])?;
            (hold, order)
        }
        "RecordAuthority" => {
            let calls =
                || anyhow::Ok(bench.nodes[victim].steering.counts()?[&Call::GenerateKeyPair]);
            let before = calls()?;
            steer(bench, victim, vec![Rule::hangs(Call::GenerateKeyPair)])?;
            let order = bench.spawn(victim, &["localauthority", kind, "prepare"])?;
            eventually("the key is begun", LIMIT, || async {
                Ok((calls()? > before).then_some(()))
            })
            .await?;
            let hold = Hold::at(bench, victim, place)?;
            steer(bench, victim, Vec::new())?;
            (hold, order)
        }
        _ => {
            let id = prepare(bench, victim, kind).await?;
            // Intent, record, and a proof of each other node.
            eventually("the proofs are written", LIMIT, || async {
                Ok((leader(bench).await?.1 >= applied + 4).then_some(()))
            })
            .await?;
            let hold = Hold::at(bench, victim, place)?;
            let args = ["localauthority", kind, "activate", "-authorityID", &id];
            let order = bench.spawn(victim, &args)?;
            next = Some(id);
            (hold, order)
        }
    };
    hold.until_met().await?;
    bench.nodes[victim].kill();
    let died = Instant::now();
    hold.end()?;
    let ordered = order.wait_with_output()?;
    // Two others are a majority without the leader's own disk: it may have told that it is done,
    // and what was told holds.
    let told = ordered.status.success();
    ensure!(
        !told || place != "apply.before",
        "it told what it has not applied"
    );

    sign(bench, &[one, other]).await?;
    leader_of_the_others(bench, one).await?;
    let mut times = vec![("another leader", died.elapsed())];
    bench.start(victim)?;
    bench.until_open(victim, LIMIT).await?;
    times.push(("back", died.elapsed()));
    // What was applied is what a majority has; what was only appended may be lost.
    let known = told || write == "RecordAuthority" || place.starts_with("apply");
    let next = match next {
        Some(next) => next,
        None => {
            let next = taken_up(bench, other, kind, known).await?;
            ensure!(
                !told || text(&ordered).contains(&next),
                "{next} is not what was told: {}",
                text(&ordered)
            );
            times.push(("prepared", died.elapsed()));
            next
        }
    };
    eventually("it signs", LIMIT, || async {
        let shown = json(bench, other, &["localauthority", kind, "show"])?;
        if shown["active"]["authority_id"] == next.as_str() {
            return Ok(Some(()));
        }
        let args = ["localauthority", kind, "activate", "-authorityID", &next];
        json(bench, other, &args).map(|_| None)
    })
    .await?;
    times.push(("activated", died.elapsed()));
    let at = usize::from(kind == "jwt");
    let now = sign(bench, &[0, 1, 2]).await?;
    ensure!(now[at] != earlier[at], "another one signs");
    let swept = sweep(bench, other).await?;
    // Where the intent was in the log after all, its key gave way to the one that was ordered.
    let may_give_way = usize::from(!known && write == "BeginKey");
    ensure!(
        swept[0] == 0 && swept[1] <= may_give_way,
        "orphans: {swept:?}"
    );
    show(
        &format!("{kind}, the leader dies at {place} of {write}"),
        &times,
        swept,
    );
    Ok(())
}

async fn leader_of_the_others(bench: &Bench, index: usize) -> anyhow::Result<()> {
    eventually("another leader", LIMIT, || async {
        bench.write(index, "after-the-leader").await.map(Some)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_whose_leader_died_in_a_write_is_taken_up_or_made_anew() -> anyhow::Result<()> {
    let chosen = [
        ("jwt", "BeginKey", "append.before"),
        ("jwt", "ActivateAuthority", "apply.before"),
        ("x509", "RecordAuthority", "append.after"),
    ];
    let mut bench = cluster("").await?;
    let mut done = 0;
    for kind in KINDS {
        for write in WRITES {
            for place in PLACES {
                if long() || chosen.contains(&(kind, write, place)) {
                    let round = round(&mut bench, kind, write, place).await;
                    round.with_context(|| format!("{kind}, {write}, {place}\n{}", bench.logs()))?;
                    done += 1;
                }
            }
        }
    }
    ensure!(long() || done == chosen.len(), "{done} of {chosen:?}");
    Ok(())
}
