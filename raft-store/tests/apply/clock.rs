//! The cluster clock: steps that a majority bears out, and an administrator's.

use chancery_raft_store::command::{ClockTold, SetClock};
use chancery_raft_store::{Command, Outcome, Proposal, Refusal};

use super::membership::world;
use super::{AGENT, START_MS, World, attest};

const HOUR_MS: i64 = 3_600_000;

/// An attestation at `time_ms`, with these nodes' clocks beside it.
fn attest_at(world: &mut World, time_ms: i64, clocks: &[(u64, i64)]) -> Outcome {
    let clocks = clocks.iter().map(|(node_id, clock_ms)| ClockTold {
        node_id: *node_id,
        clock_ms: *clock_ms,
    });
    world.propose(&Proposal {
        time_ms,
        clocks: clocks.collect(),
        ..Proposal::new(None, attest(AGENT, "1"))
    })
}

#[test]
fn a_large_step_needs_a_majority_of_the_voters() {
    let mut world = world(3);
    let year = START_MS + 365 * 24 * HOUR_MS;
    attest_at(&mut world, START_MS + HOUR_MS, &[])
        .accepted()
        .unwrap();
    let before = world.cluster().clock_ms;
    for clocks in [
        [].as_slice(),
        &[(1, year)],
        // Twice the same, and one that is no member.
        &[(1, year), (1, year), (9, year)],
        &[(1, year), (2, year - 5_001)],
    ] {
        let refused = attest_at(&mut world, year, clocks);
        assert_eq!(refused.refusal(), Refusal::ClockStep, "{clocks:?}");
        assert_eq!(world.cluster().clock_ms, before);
        assert!(
            world.agent(AGENT).is_some_and(|a| a.expires_at != year),
            "nothing else happened"
        );
    }
    let clocks = [(1, year), (2, year - 5_000)];
    attest_at(&mut world, year, &clocks).accepted().unwrap();
    assert_eq!(world.cluster().clock_ms, year);
}

#[test]
fn an_older_cluster_takes_any_step_forward() {
    let mut world = World::new();
    attest_at(&mut world, START_MS + 9 * HOUR_MS, &[])
        .accepted()
        .unwrap();
}

#[test]
fn an_administrator_sets_the_clock_back_and_it_goes_on_from_there() {
    let mut world = world(3);
    world.time_ms += HOUR_MS;
    world.ok(attest(AGENT, "1"));
    world.time_ms = START_MS + 5;
    let set = |clock_ms| Command::SetClock(SetClock { clock_ms });
    world.ok(set(START_MS));
    assert_eq!(world.cluster().clock_ms, START_MS);
    world.ok(attest(AGENT, "2"));
    assert_eq!(world.cluster().clock_ms, START_MS + 5);
    assert_eq!(world.refused(set(0)), Refusal::Malformed);
    assert_eq!(world.cluster().clock_ms, START_MS + 5);
}
