//! A disk that does not answer costs leadership.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chancery_tests::cluster::{Cluster, Options, count, eventually};

use crate::node::{leader_and_others, order, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_stalls_is_replaced_and_follows_when_it_answers() -> anyhow::Result<()>
{
    let cluster = Cluster::start(&Options {
        keys: "memory",
        env: &[("CHANCERY_FAULT_POINTS", "1")],
        ..Options::default()
    })?;
    let mut times = Vec::new();
    for round in 0..count(2, 30) {
        let (leader, others) = leader_and_others(&cluster).await?;
        let hold = order(&leader, "append.before", "hold")?;
        let stalled = Instant::now();
        // It takes a write to notice. One may still be acknowledged, by the other two.
        let _ = write(&cluster, &others[0], &format!("/stalled/{round}")).await;
        eventually("another leader", Duration::from_secs(30), || async {
            let status = cluster.status(&others[0])?;
            let now = status["leader"].as_str().context("no leader")?.to_owned();
            Ok((now != leader.id).then_some(()))
        })
        .await?;
        let mut attempt = 0;
        eventually("an acknowledged write", Duration::from_secs(30), || {
            attempt += 1;
            let (cluster, node) = (&cluster, &others[attempt % 2]);
            let name = format!("/moved/{round}/{attempt}");
            async move { write(cluster, node, &name).await.map(Some) }
        })
        .await?;
        times.push(stalled.elapsed());
        // It is no candidate while it stalls: nobody but the other two leads.
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            let status = cluster.status(&others[0])?;
            ensure!(
                status["leader"] != leader.id.as_str(),
                "the stalled node leads"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        std::fs::remove_file(hold)?;
        eventually("the node follows", Duration::from_secs(30), || async {
            let of = |node| -> anyhow::Result<_> {
                let status = cluster.status(node)?;
                let own = status["members"].as_array().into_iter().flatten();
                let own = own
                    .filter(|m| m["id"] == status["node_id"])
                    .map(|m| m["applied_index"].clone());
                Ok((status["leader"].clone(), own.collect::<Vec<_>>()))
            };
            Ok((of(&leader)? == of(&others[0])?).then_some(()))
        })
        .await?;
        write(&cluster, &leader, &format!("/back/{round}")).await?;
    }
    times.sort();
    println!(
        "stalled leaders: {}; from the stall to a write under another leader: median {:?}, worst {:?}",
        times.len(),
        times[times.len() / 2],
        times[times.len() - 1]
    );
    ensure!(
        times[times.len() - 1] < Duration::from_secs(15),
        "{times:?}"
    );
    Ok(())
}
