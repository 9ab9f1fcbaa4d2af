//! Nodes that share a token and may not use it: a PIN that is wrong, a try that is cut off, a token
//! that is away, silent or without its module. Three real processes; the shim counts the logins.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chancery_pkcs11_shim::{Call, Control, Rule, When};
use chancery_tests::bench::{BACK_LIMIT, Bench, LIMIT, RIGHT};
use chancery_tests::cluster::text;

/// A token that locks after three wrong PINs and does not show how many it saw.
fn quiet() -> Control {
    Control {
        pin_tries: Some(3),
        pin_flags_hidden: true,
        ..Control::default()
    }
}

#[expect(clippy::print_stdout, reason = "tests print what they measured")]
fn show(what: &str, took: Duration) {
    println!("{what}: {} ms", took.as_millis());
}

/// Every node votes, takes writes, serves its admin socket and keeps its agent port closed.
async fn all_wait(bench: &Bench, whys: &[&str], round: &str) -> anyhow::Result<()> {
    for (index, why) in whys.iter().enumerate() {
        bench.until_says(index, why).await?;
        ensure!(!bench.nodes[index].is_open(), "an agent port is open");
    }
    for index in 0..whys.len() {
        bench.write(index, &format!("{round}-{index}")).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_pin_is_tried_once_by_three_nodes_and_five_starts_of_each() -> anyhow::Result<()> {
    let mut bench = Bench::new(3, "wrong-pin")?;
    bench.set_all(&quiet())?;
    bench.start_all()?;
    let why = "CKR_PIN_INCORRECT";
    all_wait(&bench, &[why; 3], "first").await?;
    ensure!(bench.logins()? == 1, "{} logins", bench.logins()?);
    for round in 0..5 {
        for node in &mut bench.nodes {
            if round % 2 == 0 {
                node.kill()
            } else {
                node.stop()?
            }
        }
        bench.start_all()?;
        all_wait(&bench, &[why; 3], &format!("start-{round}")).await?;
        ensure!(
            bench.logins()? == 1,
            "round {round}: {} logins",
            bench.logins()?
        );
    }
    // Who tried it has it in a file of its own; the others know of it from the registry.
    let tried: Vec<_> = (0..3)
        .filter(|n| {
            bench.nodes[*n]
                .home
                .join("pin.tried")
                .metadata()
                .is_ok_and(|m| m.len() > 0)
        })
        .collect();
    ensure!(tried.len() == 1, "{tried:?}");
    let tried = tried[0];

    // The same PIN is not tried by order either, unless the operator means it.
    let same = bench.cli(tried, &["hsm", "retry"])?;
    ensure!(
        !same.status.success() && text(&same).contains("still holds the PIN that token"),
        "{}",
        text(&same)
    );
    ensure!(bench.logins()? == 1);

    // Corrected, and started anew: still not by itself.
    for node in &mut bench.nodes {
        node.kill();
        node.write_pin(RIGHT)?;
    }
    bench.start_all()?;
    all_wait(&bench, &[why; 3], "corrected").await?;
    ensure!(bench.logins()? == 1, "{} logins", bench.logins()?);

    let retried = bench.cli(tried, &["hsm", "retry"])?;
    let said = text(&retried);
    ensure!(
        retried.status.success() && said.contains("took the PIN. This server signs again"),
        "{said}"
    );
    for index in 0..3 {
        bench.until_open(index, LIMIT).await?;
    }
    ensure!(bench.logins()? == 4, "{} logins", bench.logins()?);
    let log = bench.nodes[tried].log()?;
    let (ordered, done) = ("login_ordered", "the token took the PIN");
    ensure!(
        log.contains(ordered) && log.contains(done),
        "not audited: {log}"
    );
    ensure!(log.contains("uid=") && log.contains("pid="), "{log}");
    for node in &bench.nodes {
        let log = node.log()?;
        ensure!(
            !log.contains("wrong-pin") && !log.contains(RIGHT),
            "a PIN in a log"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_in_the_middle_of_a_login_counts_as_one_that_tried() -> anyhow::Result<()>
{
    for when in [When::Instead, When::After] {
        let mut bench = Bench::new(3, RIGHT)?;
        let away = Control {
            token_absent: true,
            ..quiet()
        };
        bench.set_all(&away)?;
        bench.start_all()?;
        all_wait(&bench, &["no token with label"; 3], "away").await?;
        // The others reach no token before the first has died of it.
        bench.nodes[0].steering.set(&Control {
            rules: vec![Rule::kills(Call::Login, when)],
            ..quiet()
        })?;
        bench.nodes[0].until_dead().await?;
        let tried = bench.logins()?;
        bench.set_all(&quiet())?;
        // Nobody knows what came of it while its node is away.
        for index in [1, 2] {
            bench.until_says(index, "node 1 tries its PIN").await?;
        }
        bench.start(0)?;
        bench.until_says(0, "was cut off and nobody knows").await?;
        for index in [1, 2] {
            bench
                .until_says(index, "refused the PIN of node 1 (cut off)")
                .await?;
        }
        ensure!(bench.logins()? == tried, "another login after {when:?}");
        let retried = bench.cli(0, &["hsm", "retry"])?;
        ensure!(retried.status.success(), "{}", text(&retried));
        for index in 0..3 {
            bench.until_open(index, LIMIT).await?;
        }
        ensure!(bench.logins()? == tried + 3, "{} logins", bench.logins()?);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_login_while_the_token_shows_a_wrong_pin_of_somebody_else() -> anyhow::Result<()> {
    let mut bench = Bench::new(1, RIGHT)?;
    let stranger = bench.stranger("not-the-pin")?;
    let said = text(&bench.check(&stranger)?);
    ensure!(said.contains("(CKR_PIN_INCORRECT)"), "{said}");
    // His PIN is remembered as well, beside his file.
    let said = text(&bench.check(&stranger)?);
    ensure!(bench.logins()? == 1, "{said}");

    bench.start(0)?;
    let why = "shows an earlier wrong PIN (USER_PIN_COUNT_LOW); no login tried";
    bench.until_says(0, why).await?;
    bench.nodes[0].kill();
    bench.start(0)?;
    bench.until_says(0, why).await?;
    ensure!(bench.logins()? == 1, "{} logins", bench.logins()?);

    let made = bench.init()?;
    ensure!(text(&made).contains("is there already; nothing was changed."));
    let retried = bench.cli(0, &["hsm", "retry"])?;
    ensure!(retried.status.success(), "{}", text(&retried));
    bench.until_open(0, LIMIT).await?;
    ensure!(bench.logins()? == 2, "{} logins", bench.logins()?);
    let again = text(&bench.cli(0, &["hsm", "retry"])?);
    ensure!(
        again.contains("is in use by this server; nothing was tried"),
        "{again}"
    );
    ensure!(bench.logins()? == 2);
    Ok(())
}

/// What is reached of issuing answers UNAVAILABLE.
fn unavailable(bench: &Bench, index: usize) -> anyhow::Result<()> {
    let id = "spiffe://example.org/x";
    for args in [
        &["x509", "mint", "-spiffeID", id][..],
        &["jwt", "mint", "-spiffeID", id, "-audience", "a"],
    ] {
        let said = text(&bench.cli(index, args)?);
        ensure!(said.contains("code = Unavailable"), "{args:?}: {said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_whose_token_is_away_take_part_and_open_when_it_is_back() -> anyhow::Result<()> {
    let mut bench = Bench::new(3, RIGHT)?;
    let away = Control {
        token_absent: true,
        keys_hidden_until_initialised: true,
        ..Control::default()
    };
    let why = "no token with label \"shared\"";
    // A cluster that was never up before, as a whole.
    bench.set_all(&away)?;
    bench.start_all()?;
    all_wait(&bench, &[why; 3], "never").await?;
    unavailable(&bench, 0)?;
    bench.set_all(&Control::default())?;
    for index in 0..3 {
        show(
            "first keys after the token came",
            bench.until_open(index, LIMIT).await?,
        );
    }

    // One node of a cluster that is.
    bench.nodes[2].stop()?;
    bench.nodes[2].steering.set(&away)?;
    bench.start(2)?;
    bench.until_says(2, why).await?;
    ensure!(!bench.nodes[2].is_open() && bench.nodes[0].is_open());
    bench.write(2, "one-away").await?;
    unavailable(&bench, 2)?;
    ensure!(bench.nodes[2].log()?.contains(why), "not in the log");
    bench.nodes[2].steering.set(&Control::default())?;
    show(
        "agent port of one after its token came back",
        bench.until_open(2, BACK_LIMIT).await?,
    );

    // And all of them at once.
    for node in &mut bench.nodes {
        node.kill();
        node.steering.set(&away)?;
    }
    bench.start_all()?;
    all_wait(&bench, &[why; 3], "all-away").await?;
    let began = Instant::now();
    bench.set_all(&Control::default())?;
    for index in 0..3 {
        bench.until_open(index, BACK_LIMIT).await?;
        show(
            "agent port of all after their token came back",
            began.elapsed(),
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_make_the_first_authority_where_the_leader_has_no_token() -> anyhow::Result<()> {
    let mut bench = Bench::new(3, RIGHT)?;
    // It founds the cluster and leads, unless the machine is so slow that it loses an election.
    bench.nodes[0].steering.set(&Control {
        token_absent: true,
        ..Control::default()
    })?;
    let began = Instant::now();
    bench.start_all()?;
    for index in [1, 2] {
        bench.until_open(index, LIMIT).await?;
    }
    show("agent ports without the leader's token", began.elapsed());
    ensure!(!bench.nodes[0].is_open());
    bench.nodes[0].steering.set(&Control::default())?;
    bench.until_open(0, BACK_LIMIT).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_that_is_silent_or_missing_keeps_nobody_from_the_quorum() -> anyhow::Result<()> {
    let mut bench = Bench::new(3, RIGHT)?;
    bench.start_all()?;
    for index in 0..3 {
        bench.until_open(index, LIMIT).await?;
    }
    for call in [Call::Initialize, Call::GetSlotList, Call::OpenSession] {
        bench.nodes[1].kill();
        bench.nodes[1].steering.set(&Control {
            rules: vec![Rule::hangs(call)],
            ..Control::default()
        })?;
        bench.start(1)?;
        bench
            .until_says(1, "has not answered since this server started")
            .await?;
        ensure!(!bench.nodes[1].is_open());
        bench.write(1, &format!("{call:?}").to_lowercase()).await?;
        unavailable(&bench, 1)?;
        bench.nodes[1].steering.set(&Control::default())?;
        let took = bench.until_open(1, BACK_LIMIT).await?;
        show(&format!("agent port after C_{call:?} came back"), took);
    }

    bench.nodes[1].stop()?;
    let module = bench.dir.path().join("libtoken.so");
    bench.configure(1, &module)?;
    bench.start(1)?;
    bench.until_says(1, "no PKCS#11 module at").await?;
    std::fs::write(&module, "not a library")?;
    bench
        .until_says(1, "is not a usable PKCS#11 module")
        .await?;
    bench.write(1, "no-module").await?;
    let shim = chancery_pkcs11_shim::module_path().context("the shim is not built")?;
    let copy = module.with_extension("copy");
    std::fs::copy(shim, &copy)?;
    std::fs::rename(copy, &module)?;
    show(
        "agent port after the module came",
        bench.until_open(1, BACK_LIMIT).await?,
    );
    Ok(())
}
