//! The cluster clock: the greatest time that any command carried.

use super::Ruling;
use crate::command::{ClockTold, Outcome, Proposal, Refusal, SetClock};
use crate::model::Cluster;
use crate::store::StoreError;
use crate::view::Txn;

/// A larger step forward needs a majority of the voters to bear it out.
pub const STEP_MAX_MS: i64 = 3_600_000;
/// Clocks this close to each other agree.
pub const AGREE_WITHIN_MS: u64 = 5_000;

/// Time of a command: never before that of an earlier one.
pub(super) fn after(before: &Cluster, proposal: &Proposal) -> i64 {
    before.clock_ms.max(proposal.time_ms)
}

/// Whether time may step as far as the proposal says.
pub(super) fn allows(
    txn: &Txn<'_>,
    before: &Cluster,
    proposal: &Proposal,
) -> Result<bool, StoreError> {
    // The first command of all has nothing to step from.
    let founded = before.clock_ms != 0;
    let step = proposal.time_ms.saturating_sub(before.clock_ms);
    if before.feature_level == 0 || !founded || step <= STEP_MAX_MS {
        return Ok(true);
    }
    let voters = txn.members()?.into_iter();
    let voters: Vec<u64> = voters
        .filter(|m| m.is_wanted_voter(&before.founding_peers))
        .map(|m| m.node_id)
        .collect();
    let agrees = |told: &ClockTold| proposal.time_ms.abs_diff(told.clock_ms) <= AGREE_WITHIN_MS;
    let bear_out = voters
        .iter()
        .filter(|id| {
            proposal
                .clocks
                .iter()
                .any(|c| c.node_id == **id && agrees(c))
        })
        .count();
    Ok(bear_out * 2 > voters.len())
}

pub(super) fn set(txn: &mut Txn<'_>, command: &SetClock) -> Ruling {
    let Some(mut cluster) = txn.cluster()? else {
        return Ok(Err(Refusal::Malformed));
    };
    if command.clock_ms < 1 {
        return Ok(Err(Refusal::Malformed));
    }
    cluster.clock_ms = command.clock_ms;
    txn.put_cluster(&cluster);
    Ok(Ok(Outcome::default()))
}
