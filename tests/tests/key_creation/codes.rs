//! A token that answers with every return code, on every call, while a key comes to be and rotates in.

use std::time::Instant;

use anyhow::Context as _;
use chancery_pkcs11_shim::{CODES, Call, Control, Rule, When};
use chancery_tests::cluster::long;

use super::*;

/// The calls of making a key, proving it and signing with it.
const CALLS: [(Call, When); 10] = [
    (Call::GenerateKeyPair, When::Instead),
    // It is made, and its maker hears that it is not.
    (Call::GenerateKeyPair, When::After),
    (Call::Sign, When::Instead),
    (Call::SignInit, When::Instead),
    (Call::OpenSession, When::Instead),
    (Call::GetSessionInfo, When::Instead),
    (Call::FindObjectsInit, When::Instead),
    (Call::FindObjects, When::Instead),
    (Call::FindObjectsFinal, When::Instead),
    (Call::GetAttributeValue, When::Instead),
];
/// How often a node meets the code: more often than it tries by itself.
const TIMES: u64 = 3;

/// A rotation during which a node hears `code`, its sessions lost as well so that each call is made.
async fn round(
    bench: &Bench,
    kind: &str,
    (call, when): (Call, When),
    code: &str,
    turn: usize,
) -> anyhow::Result<[usize; 2]> {
    let maker = turn % NODES;
    // By turns the one that makes the key and one that proves it.
    let meets = if turn.is_multiple_of(2) {
        maker
    } else {
        others(maker)[0]
    };
    let asked = others(meets)[0];
    let at = usize::from(kind == "jwt");
    let earlier = sign(bench, &[0, 1, 2]).await?;
    let rule = Rule {
        when,
        ..Rule::fails(call, code)
    };
    bench.nodes[meets].steering.set(&Control {
        rules: vec![rule.times(TIMES)],
        session_epoch: u64::try_from(turn + 1)?,
        ..Control::default()
    })?;
    let next = prepare(bench, maker, kind).await?;
    activate(bench, asked, kind, &next).await?;
    let now = sign(bench, &[0, 1, 2]).await?;
    ensure!(now[at] != earlier[at], "another one signs");
    if kind == "jwt" {
        // A bundle does not grow for ever, nor does this test.
        let id = ["-authorityID", earlier[at].as_str()];
        for step in [&["taint"][..], &["revoke", "-force"]] {
            json(
                bench,
                asked,
                &[&["localauthority", kind], step, &id].concat(),
            )?;
        }
    }
    sweep(bench, asked).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stdout, reason = "tests print what they measured")]
async fn a_rotation_ends_well_whatever_the_token_answers_meanwhile() -> anyhow::Result<()> {
    let bench = cluster("").await?;
    let mut rounds = 0;
    let mut swept = 0;
    let mut worst = (Duration::ZERO, String::new());
    for (n, (call, when)) in CALLS.into_iter().enumerate() {
        for (m, (code, _)) in CODES.iter().enumerate() {
            // Small counts: one code on each call; where the key is made all the same, one for which
            // it is asked for again with fewer attributes.
            let chosen = match when {
                When::After => *code == "CKR_ATTRIBUTE_TYPE_INVALID",
                When::Instead => m == n * CODES.len() / CALLS.len(),
            };
            if !long() && !chosen {
                continue;
            }
            let kind = KINDS[usize::from(rounds % 10 == 9)];
            let what = format!("{kind}: {code} {when:?} C_{call:?}");
            let began = Instant::now();
            let round = round(&bench, kind, (call, when), code, rounds).await;
            let [orphans, gave_way] = round.with_context(|| format!("{what}\n{}", bench.logs()))?;
            swept += orphans + gave_way;
            rounds += 1;
            if began.elapsed() > worst.0 {
                worst = (began.elapsed(), what);
            }
        }
    }
    println!(
        "{rounds} rotations, each with a code on a call: all ended, {swept} keys swept, orphans left 0; the \
         longest took {:.1?} ({})",
        worst.0, worst.1
    );
    Ok(())
}
