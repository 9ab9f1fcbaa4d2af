//! What an administrator does with authorities by hand: prepare, activate, taint, revoke.
//!
//! Why it exists: a compromise does not wait for the calendar. The four steps follow each other at
//! once, each through any node; the planner (`plan`) goes on from what they leave.
//!
//! Promises: every step is a command that `apply` rules on, so of two administrators one is first.
//! Nothing signs before every member seen lately has proved that it can, and no authority leaves
//! the bundle while such a member still shows an SVID of it.
//! Refuses to know: the words of the API (`service::local_authority`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chancery_raft_store::Refusal;
use chancery_raft_store::command::{AbandonKey, AuthorityName, Command};
use chancery_raft_store::model::{Authority, AuthorityKind, AuthorityStatus, KeyIntent};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::driver::{begin_key, log_activated};
use super::{Custody, nodes, plan};
use crate::cluster::ProposeError;
use crate::cluster::status::Members;
use crate::registry::Doors;

/// The state is looked at again after this time at the latest: who was seen is in no change.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Members seen within this time count.
const SEEN_WITHIN: Duration = Duration::from_secs(plan::PROVERS_SEEN_WITHIN.unsigned_abs());

/// The authorities of a kind that concern this node, by where they are in their life.
#[derive(Clone, Debug, Default)]
pub struct Slot {
    /// The one that signs.
    pub active: Option<Arc<Authority>>,
    /// The one that is to sign next.
    pub prepared: Option<Arc<Authority>>,
    /// Those that signed once and are in the bundle for it, the newest first.
    pub old: Vec<Arc<Authority>>,
    /// Those that signed once and were revoked.
    pub revoked: Vec<Arc<Authority>>,
}

impl Slot {
    /// What stands in `slot`, and what signed once in those that `concern` this node too.
    fn of(
        slot: &str,
        mut authorities: Vec<Arc<Authority>>,
        concern: impl Fn(&Authority) -> bool,
    ) -> Self {
        let mut found = Self::default();
        authorities.retain(|a| a.slot == slot || concern(a));
        authorities.sort_by_key(|a| std::cmp::Reverse(a.sequence));
        for authority in authorities {
            match authority.status() {
                AuthorityStatus::Active | AuthorityStatus::Prepared if authority.slot != slot => {}
                AuthorityStatus::Active => found.active = found.active.or(Some(authority)),
                AuthorityStatus::Prepared => found.prepared = found.prepared.or(Some(authority)),
                AuthorityStatus::Old => found.old.push(authority),
                // One that was never tainted gave way before it signed anything.
                AuthorityStatus::Revoked if authority.tainted => found.revoked.push(authority),
                AuthorityStatus::Revoked | AuthorityStatus::Unspecified => {}
            }
        }
        found
    }
}

/// A JWT key of the bundle that is none of a node's slot.
#[derive(Clone, Debug)]
pub enum OtherKey {
    /// The authority of another node.
    OfNode(Arc<Authority>),
    /// One that an administrator appended or a downstream server published.
    KeptElsewhere,
}

/// Why a step was not done.
#[derive(Debug, thiserror::Error)]
pub enum StepFailed {
    /// No quorum, or no answer in time.
    #[error(transparent)]
    Write(#[from] ProposeError),
    /// The state does not allow it.
    #[error("the state of the authority does not allow it: {0:?}")]
    Refused(Refusal),
    /// The key is for a token that this node does not have.
    #[error("nodes share the keys, in a token that this node does not have; ask another node")]
    NoToken,
    /// The key could not be made on this node.
    #[error("{0}")]
    Making(String),
    /// No key was recorded in time.
    #[error("no key was recorded in time; look at this node's log")]
    NoKey,
    /// Another node is making a key, and did not finish in time.
    #[error("node {0} is making a key and did not finish in time; try again")]
    OthersKey(u64),
    /// These members have not signed with the key yet.
    #[error("{} not signed with its key yet", nodes(.0, "has", "have"))]
    NotProved(BTreeSet<u64>),
    /// These members still show a server SVID of the authority.
    #[error("{} a server SVID of it", nodes(.0, "still serves", "still serve"))]
    StillServed(BTreeSet<u64>),
}

/// Carries out an administrator's steps on this node. Cheap to clone.
#[derive(Clone)]
pub struct Steward {
    doors: Doors,
    members: Members,
    custody: Custody,
}

impl Steward {
    /// A steward of the authorities that concern this node.
    pub fn new(doors: Doors, members: Members, custody: Custody) -> Self {
        Self {
            doors,
            members,
            custody,
        }
    }

    /// The keys that the steps are about.
    pub fn custody(&self) -> &Custody {
        &self.custody
    }

    /// The slot that the steps are about, and whether nodes are to share authorities: that of
    /// the scope, once an authority signs there.
    fn slot_name(&self, kind: AuthorityKind) -> (String, bool) {
        let me = self.doors.consensus().me();
        let directory = self.doors.local();
        let shared = self.custody.shares(directory.cluster());
        let name = |shared: bool| plan::slot(kind, (!shared).then_some(me));
        let authorities = directory.authorities(kind);
        let signs = |slot: &str| {
            let mut all = authorities.iter();
            all.any(|a| a.slot == slot && a.status() == AuthorityStatus::Active)
        };
        let moves = !signs(&name(shared)) && signs(&name(!shared));
        (name(shared != moves), shared)
    }

    /// The authorities of a kind that concern this node, as the local state has them. Those
    /// that nodes shared concern every node, and those of single nodes all that share now.
    pub fn slot(&self, kind: AuthorityKind) -> Slot {
        let (name, shared) = self.slot_name(kind);
        let all = self.doors.local().authorities(kind);
        Slot::of(&name, all, |a| shared || a.node_id == 0)
    }

    /// A JWT key of the bundle that is none of this node's slot.
    pub fn other_jwt_key(&self, id: &str) -> Option<OtherKey> {
        let directory = self.doors.local();
        let own = directory.authorities(AuthorityKind::Jwt);
        let own = own
            .into_iter()
            .find(|a| a.id == id && a.status() != AuthorityStatus::Revoked);
        if let Some(own) = own {
            return Some(OtherKey::OfNode(own));
        }
        let foreign = directory.federation().authorities_of(AuthorityKind::Jwt);
        foreign
            .iter()
            .any(|a| a.id == id)
            .then_some(OtherKey::KeptElsewhere)
    }

    /// Members seen lately whose agreement counts.
    fn lately(&self) -> BTreeSet<u64> {
        let seen = self.members.seen_within(SEEN_WITHIN);
        let directory = self.doors.local();
        seen.into_iter()
            .filter(|id| directory.member(*id).is_some())
            .collect()
    }

    async fn write(&self, command: Command) -> Result<(), StepFailed> {
        let outcome = self.doors.propose(command).await?;
        outcome.accepted().map(drop).map_err(StepFailed::Refused)
    }

    /// Makes the next authority of a kind on this node and publishes it in the bundle; one
    /// that was prepared before gives way.
    ///
    /// # Errors
    /// [`StepFailed`]; the key that was begun is given up, so that the next try is free.
    pub async fn prepare(
        &self,
        kind: AuthorityKind,
        until: Instant,
    ) -> Result<Arc<Authority>, StepFailed> {
        let (slot, _) = self.slot_name(kind);
        if !KeyIntent::is_of_one_node(&slot) && !self.custody.has_token() {
            return Err(StepFailed::NoToken);
        }
        let epoch = loop {
            let intent = self.doors.local().intent(&slot).cloned();
            let intent = intent.unwrap_or_default();
            if intent.node_id != 0 {
                let closed = self
                    .watch(until, || {
                        let directory = self.doors.local();
                        let now = directory.intent(&slot)?;
                        (now.node_id == 0 || now.epoch != intent.epoch).then_some(())
                    })
                    .await;
                closed.ok_or(StepFailed::OthersKey(intent.node_id))?;
                continue;
            }
            let epoch = intent.epoch + 1;
            match self
                .write(begin_key(self.doors.consensus(), &slot, epoch))
                .await
            {
                Ok(()) => break epoch,
                // Another step was first: the state, which is new here now, says which.
                Err(StepFailed::Refused(Refusal::Conflict)) if Instant::now() < until => {}
                Err(error) => return Err(error),
            }
        };
        let made = self
            .watch(until, || {
                let recorded = self
                    .doors
                    .local()
                    .authorities(kind)
                    .into_iter()
                    .find(|a| a.slot == slot && a.epoch == epoch);
                match (recorded, self.custody.making_failed(&slot, epoch)) {
                    (Some(authority), _) => Some(Ok(authority)),
                    (None, Some(why)) => Some(Err(StepFailed::Making(why))),
                    (None, None) => None,
                }
            })
            .await
            .unwrap_or(Err(StepFailed::NoKey));
        if made.is_err() {
            // Refused if it was recorded at the last moment, which is as good.
            let _ = self
                .write(Command::AbandonKey(AbandonKey { slot, epoch }))
                .await;
        }
        made
    }

    /// Lets a prepared authority sign, as soon as every member seen lately has proved that
    /// it can sign with it.
    ///
    /// # Errors
    /// [`StepFailed::NotProved`] names the members that have not by then.
    pub async fn activate(&self, authority: &Authority, until: Instant) -> Result<(), StepFailed> {
        let waiting_for = || {
            let (proved, mode) = {
                let directory = self.doors.local();
                let mode = self.custody.mode(directory.cluster());
                (directory.authorities(authority.kind()), mode)
            };
            let clock = self.doors.consensus().clock();
            let now = clock.now_unix_ms().div_euclid(1000);
            let proved = proved.into_iter().find(|a| a.id == authority.id);
            let proved = proved.map(|a| a.proved_by.clone()).unwrap_or_default();
            let me = self.doors.consensus().me();
            let needed = if authority.node_id == 0 {
                let mut needed = self.lately();
                if authority.kind() == AuthorityKind::Jwt {
                    // There are no intermediates for them.
                    let own = self.custody.signer().kind().as_str();
                    let tokenless = self.members.without_token(own);
                    needed.retain(|id| !tokenless.contains(id));
                }
                needed
            } else {
                BTreeSet::from([me])
            };
            // This node's own proof may be of an earlier start.
            let able = |id: &u64| {
                proved.contains(id) && (*id != me || self.custody.can_sign(authority, mode, now))
            };
            needed
                .into_iter()
                .filter(|id| !able(id))
                .collect::<BTreeSet<_>>()
        };
        let all = self
            .watch(until, || waiting_for().is_empty().then_some(()))
            .await;
        all.ok_or_else(|| StepFailed::NotProved(waiting_for()))?;
        self.write(Command::ActivateAuthority(name(authority)))
            .await?;
        log_activated(authority);
        Ok(())
    }

    /// Tells everybody to replace what an old authority signed.
    ///
    /// # Errors
    /// [`StepFailed`].
    pub async fn taint(&self, authority: &Authority) -> Result<(), StepFailed> {
        self.write(Command::TaintAuthority(name(authority))).await
    }

    /// Takes a tainted authority out of the bundle, as soon as no member seen lately shows
    /// an SVID of it: a stock agent that meets an unknown root ends.
    ///
    /// # Errors
    /// [`StepFailed::StillServed`] names the members that do.
    pub async fn revoke(&self, authority: &Authority, until: Instant) -> Result<(), StepFailed> {
        if authority.tainted {
            let serving = || {
                let lately = self.lately();
                let directory = self.doors.local();
                directory
                    .members()
                    .filter(|m| lately.contains(&m.node_id))
                    .filter(|m| m.server_svid_issuer == authority.id)
                    .map(|m| m.node_id)
                    .collect::<BTreeSet<_>>()
            };
            let none = self
                .watch(until, || serving().is_empty().then_some(()))
                .await;
            none.ok_or_else(|| StepFailed::StillServed(serving()))?;
        }
        self.write(Command::RevokeAuthority(name(authority))).await
    }

    /// Marks a JWT key that is kept elsewhere as about to be revoked.
    ///
    /// # Errors
    /// [`StepFailed`].
    pub async fn taint_kept_elsewhere(&self, id: &str) -> Result<(), StepFailed> {
        self.write(Command::TaintAuthority(jwt_name(id))).await
    }

    /// Takes a tainted JWT key that is kept elsewhere out of the bundle.
    ///
    /// # Errors
    /// [`StepFailed`].
    pub async fn revoke_kept_elsewhere(&self, id: &str) -> Result<(), StepFailed> {
        self.write(Command::RevokeAuthority(jwt_name(id))).await
    }

    /// Asks `look` now and after each change of the state, until it gives a value or the
    /// time is over.
    async fn watch<T>(&self, until: Instant, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let mut feed = self.doors.registry().subscribe();
        loop {
            if let Some(found) = look() {
                return Some(found);
            }
            let now = Instant::now();
            if now >= until {
                return None;
            }
            let step = until.min(now + LOOK_AGAIN);
            // Which change it is does not matter; neither does running out of time.
            if let Ok(Err(RecvError::Closed)) = tokio::time::timeout_at(step, feed.recv()).await {
                return None;
            }
        }
    }
}

fn jwt_name(id: &str) -> AuthorityName {
    AuthorityName {
        kind: AuthorityKind::Jwt.into(),
        id: id.to_owned(),
    }
}

fn name(authority: &Authority) -> AuthorityName {
    AuthorityName {
        kind: authority.kind,
        id: authority.id.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(epoch: u64, status: AuthorityStatus, tainted: bool) -> Arc<Authority> {
        let mut authority = Authority {
            id: epoch.to_string(),
            slot: "x509".into(),
            epoch,
            sequence: epoch,
            tainted,
            ..Authority::default()
        };
        authority.set_status(status);
        Arc::new(authority)
    }

    #[test]
    fn authorities_are_sorted_by_where_they_are_in_their_life() {
        let of_node = |sequence: u64, status: AuthorityStatus| {
            Arc::new(Authority {
                slot: "x509/node-2".into(),
                node_id: 2,
                ..(*authority(sequence, status, false)).clone()
            })
        };
        let all = vec![
            authority(1, AuthorityStatus::Revoked, true),
            authority(2, AuthorityStatus::Old, true),
            authority(3, AuthorityStatus::Old, false),
            authority(4, AuthorityStatus::Revoked, false),
            authority(5, AuthorityStatus::Active, false),
            authority(6, AuthorityStatus::Prepared, false),
            of_node(7, AuthorityStatus::Old),
            of_node(8, AuthorityStatus::Prepared),
            of_node(9, AuthorityStatus::Active),
        ];
        let slot = Slot::of("x509", all.clone(), |_| false);
        let ids = |of: &[Arc<Authority>]| of.iter().map(|a| a.id.clone()).collect::<Vec<_>>();
        assert_eq!(slot.active.map(|a| a.epoch), Some(5));
        assert_eq!(slot.prepared.map(|a| a.epoch), Some(6));
        assert_eq!(ids(&slot.old), ["3", "2"], "the newest first");
        assert_eq!(ids(&slot.revoked), ["1"], "not one that only gave way");

        let slot = Slot::of("x509", all, |_| true);
        assert_eq!(slot.active.map(|a| a.epoch), Some(5), "not another's");
        assert_eq!(slot.prepared.map(|a| a.epoch), Some(6), "not another's");
        assert_eq!(ids(&slot.old), ["7", "3", "2"]);
    }

    #[test]
    fn members_that_are_waited_for_are_named() {
        let one = StepFailed::NotProved([2].into()).to_string();
        assert_eq!(one, "node 2 has not signed with its key yet");
        let two = StepFailed::StillServed([2, 3].into()).to_string();
        assert_eq!(two, "nodes 2, 3 still serve a server SVID of it");
    }
}
