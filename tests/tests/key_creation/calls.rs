//! Nodes that die in a call to the token.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use chancery_pkcs11_shim::{Call, Rule, When};
use chancery_tests::cluster::{eventually, long, text};

use super::*;

/// A key of a node that is gone is given up after a twelfth of such a life, which is 15 s; nothing
/// follows by itself while a round lasts.
const SHORT_LIVES: &str = "[issuance]\nca_ttl = \"3m\"\n";

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    /// The node that makes the key.
    Maker,
    /// One that proves that it can use it.
    Prover,
}

/// What comes after it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    /// The node is started again at once and goes on where it was.
    Back,
    /// The others give its key up and make the next one without it.
    Others,
}

/// A call in the making of a key.
struct Step {
    name: String,
    who: Who,
    rule: Rule,
    /// There is a key in the token when it is over.
    made: bool,
}

fn steps(kind: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut add = |call: &str, who, call_of: &dyn Fn(When) -> Rule| {
        for (word, when) in [("before", When::Instead), ("after", When::After)] {
            let rule = call_of(when);
            steps.push(Step {
                name: format!("{word} {call}"),
                who,
                made: rule.call == Call::Sign || when == When::After,
                rule,
            });
        }
    };
    add("C_GenerateKeyPair", Who::Maker, &|when| {
        Rule::kills(Call::GenerateKeyPair, when)
    });
    let signs = |when| Rule::kills(Call::Sign, when).since(Call::GenerateKeyPair);
    add("the trial's C_Sign", Who::Maker, &signs);
    if kind == "x509" {
        add("the certificate's C_Sign", Who::Maker, &|when| {
            signs(when).skipping(1)
        });
    }
    add("the C_Sign of a proof", Who::Prover, &|when| {
        Rule::kills(Call::Sign, when)
    });
    steps
}

/// A key is ordered at a node, and one dies of it.
async fn round(
    bench: &mut Bench,
    kind: &str,
    step: &Step,
    maker: usize,
    then: Then,
) -> anyhow::Result<()> {
    let victim = match step.who {
        Who::Maker => maker,
        Who::Prover => others(maker)[0],
    };
    let [one, other] = others(victim);
    if step.who == Who::Prover {
        settled(bench).await?;
    }
    let earlier = sign(bench, &[0, 1, 2]).await?;
    let before = Keys::of(bench, one).await?;
    steer(bench, victim, vec![step.rule.clone()])?;
    let order = bench.spawn(maker, &["localauthority", kind, "prepare"])?;
    until_killed(bench, victim).await?;
    let died = Instant::now();
    let mut times = Vec::new();
    steer(bench, victim, Vec::new())?;
    let ordered = order.wait_with_output()?;
    ensure!(
        ordered.status.success() == (step.who == Who::Prover),
        "{}",
        text(&ordered)
    );
    let left = Keys::of(bench, one).await?;
    ensure!(
        left.all() == before.all() + usize::from(step.made),
        "{before:?} and then {left:?}"
    );

    let mut next = None;
    if then == Then::Others && step.who == Who::Maker {
        next = Some(prepare(bench, one, kind).await?);
        times.push(("prepared", died.elapsed()));
    }
    sign(bench, &[one, other]).await?;
    bench.start(victim)?;
    bench.until_open(victim, LIMIT).await?;
    times.push(("back", died.elapsed()));
    let next = match next {
        Some(next) => next,
        None => {
            let next = eventually("the key is taken up", LIMIT, || async {
                prepared(bench, other, kind)
            })
            .await?;
            times.push(("taken up", died.elapsed()));
            next
        }
    };
    activate(bench, other, kind, &next).await?;
    times.push(("activated", died.elapsed()));
    let at = usize::from(kind == "jwt");
    let now = sign(bench, &[0, 1, 2]).await?;
    ensure!(now[at] != earlier[at], "another one signs");
    ensure!(kind == "x509" || now[at] == next, "{now:?}, not {next}");

    let given_up = step.made && then == Then::Others && step.who == Who::Maker;
    let swept = sweep(bench, other).await?;
    ensure!(swept[0] == usize::from(given_up), "orphans: {swept:?}");
    let what = format!("{kind}, {:?} dies {}, {then:?}", step.who, step.name);
    show(&what, &times, swept);
    Ok(())
}

async fn rounds(then: Then, chosen: &[(&str, &str)]) -> anyhow::Result<()> {
    let mut bench = cluster(match then {
        Then::Back => "",
        Then::Others => SHORT_LIVES,
    })
    .await?;
    let mut all = KINDS
        .into_iter()
        .flat_map(|kind| steps(kind).into_iter().map(move |step| (kind, step)))
        // Nobody gives up what only a proof is missing of.
        .filter(|(_, step)| step.who == Who::Maker || then == Then::Back)
        .filter(|(kind, step)| long() || chosen.contains(&(kind, &step.name)))
        .collect::<Vec<_>>();
    ensure!(long() || all.len() == chosen.len(), "not all of {chosen:?}");
    // By turns: none of a kind grows old.
    all.sort_by_key(|(kind, step)| steps(kind).iter().position(|s| s.name == step.name));
    for (turn, (kind, step)) in all.iter().enumerate() {
        let round = round(&mut bench, kind, step, turn % NODES, then).await;
        round.with_context(|| format!("{kind}, {}, {then:?}\n{}", step.name, bench.logs()))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_whose_node_died_in_a_call_is_taken_up_when_it_is_back() -> anyhow::Result<()> {
    let chosen = [
        ("x509", "after C_GenerateKeyPair"),
        ("x509", "after the certificate's C_Sign"),
        ("jwt", "before C_GenerateKeyPair"),
        ("jwt", "before the trial's C_Sign"),
    ];
    rounds(Then::Back, &chosen).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_whose_node_died_in_a_call_is_given_up_by_the_others() -> anyhow::Result<()> {
    rounds(Then::Others, &[("jwt", "after C_GenerateKeyPair")]).await
}

/// The others' proofs hang, so its maker dies before any of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_whose_maker_died_is_proved_by_the_others() -> anyhow::Result<()> {
    let mut bench = cluster("").await?;
    for (maker, kind) in KINDS.into_iter().enumerate() {
        settled(&bench).await?;
        let proved = |bench: &Bench| -> anyhow::Result<Vec<u64>> {
            let signed = others(maker).map(|index| bench.nodes[index].steering.counts());
            let signed = signed.into_iter().map(|counts| Ok(counts?[&Call::Sign]));
            signed.collect()
        };
        let before = proved(&bench)?;
        for index in others(maker) {
            steer(&bench, index, vec![Rule::hangs(Call::Sign)])?;
        }
        let next = prepare(&bench, maker, kind).await?;
        ensure!(proved(&bench)? == before, "proved although signing hangs");
        bench.nodes[maker].kill();
        let died = Instant::now();
        for index in others(maker) {
            steer(&bench, index, Vec::new())?;
        }
        let [one, other] = others(maker);
        sign(&bench, &[one, other]).await?;
        bench.start(maker)?;
        bench.until_open(maker, LIMIT).await?;
        let mut times = vec![("back", died.elapsed())];
        activate(&bench, one, kind, &next).await?;
        times.push(("activated", died.elapsed()));
        let swept = sweep(&bench, other).await?;
        ensure!(swept == [0; 2], "orphans: {swept:?}");
        show(&format!("{kind}, Maker dies before a proof"), &times, swept);
    }
    Ok(())
}
