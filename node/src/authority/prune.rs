//! Takes authorities that ended out of the own bundle: those that were appended or
//! published. The leader proposes it; `apply` decides what goes, and that a root and a
//! JWT key stay.

use std::time::Duration;

use chancery_raft_store::Refusal;
use chancery_raft_store::command::{Command, PruneBundle};
use chancery_raft_store::model::{AuthorityKind, BundleAuthority};
use tokio::time::MissedTickBehavior;

use crate::registry::Doors;

/// How often the bundle is looked at: as often as by SPIRE.
pub const INTERVAL: Duration = Duration::from_secs(6 * 60 * 60);
/// How long an authority stays after its end, in seconds.
const KEPT_AFTER_END: i64 = 24 * 60 * 60;

/// Looks at the bundle in every `interval`, the first time at its end. Has no end.
pub async fn keep_bundle_pruned(doors: Doors, interval: Duration) {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if doors.consensus().is_leader() {
            prune(&doors).await;
        }
    }
}

async fn prune(doors: &Doors) {
    let now = doors.consensus().clock().now_unix_ms().div_euclid(1000);
    let expires_before = now - KEPT_AFTER_END;
    let any = doors
        .local()
        .federation()
        .authorities()
        .any(|authority| has_ended(authority, expires_before));
    // A command that changes nothing would only fill the log.
    if !any {
        return;
    }
    let command = Command::PruneBundle(PruneBundle { expires_before });
    match doors
        .propose(command)
        .await
        .map(|outcome| outcome.accepted())
    {
        Ok(Ok(outcome)) if outcome.pruned.is_empty() => {}
        Ok(Ok(outcome)) => {
            outcome.pruned.iter().for_each(tell);
            tracing::debug!("Expired certificates were successfully pruned from bundle");
        }
        Ok(Err(Refusal::LastAuthority)) => tracing::warn!(
            "Pruning halted; all known CA certificates or all known JWT signing keys have expired"
        ),
        Ok(Err(refusal)) => tracing::error!(error = ?refusal, "Could not prune CA certificates"),
        Err(error) => tracing::error!(%error, "Could not prune CA certificates"),
    }
}

fn has_ended(authority: &BundleAuthority, expires_before: i64) -> bool {
    authority.expires_at != 0 && authority.expires_at <= expires_before
}

fn tell(pruned: &BundleAuthority) {
    let (id, expiration) = (pruned.id.as_str(), pruned.expires_at);
    match pruned.kind() {
        AuthorityKind::Jwt => {
            tracing::info!(
                kid = id,
                expiration,
                "Pruning JWT signing key due to expiration"
            );
        }
        AuthorityKind::X509 | AuthorityKind::Unspecified => tracing::info!(
            subject_key_id = id,
            expiration,
            "Pruning CA certificate due to expiration"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_without_an_end_has_not_ended() {
        let ended = |expires_at| {
            let authority = BundleAuthority {
                expires_at,
                ..BundleAuthority::default()
            };
            has_ended(&authority, 100)
        };
        assert!(ended(1) && ended(100));
        assert!(!ended(0) && !ended(101));
    }
}
