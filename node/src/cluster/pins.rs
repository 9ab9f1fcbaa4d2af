//! Who the peers of a node are: address and key of each member, by what this node knows.
//!
//! The replicated members come first. A node that joins is told the members of that
//! moment; a node that was away learns of those that joined meanwhile from members that
//! it knows. Either counts only for ids that the own state has not come to yet, so that
//! nobody who was removed is known again, and what a member told only while that one is a
//! member itself: whoever is removed leaves nobody behind.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chancery_api::chancery::peer::v1 as wire;
use chancery_raft_store::identity_record::Pin;
use chancery_raft_store::{ChangeKind, Directory, Registry};
use tokio::sync::broadcast::error::RecvError;

/// Peer address of a member and SHA-256 of its key.
pub type AddressAndPin = (String, [u8; 32]);

/// Ids behind the own state's last one that are taken from other members' answers.
const TOLD_AHEAD_MAX: u64 = 64;

/// Members as this node knows them. Cheap to clone.
#[derive(Clone)]
pub struct PinBook {
    registry: Registry,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    /// What was found before in the replicated state: heartbeats must not wait behind its
    /// readers.
    found: BTreeMap<u64, AddressAndPin>,
    /// What this node was told.
    told: BTreeMap<u64, Told>,
    /// Counts what was forgotten: what was looked up before must not be noted after it.
    forgotten: u64,
}

/// A member that the own state has not come to.
struct Told {
    member: AddressAndPin,
    /// Who told it; none for what was told when this node joined.
    by: Option<u64>,
}

impl Known {
    /// Whether what was told of a member counts, with the own state as it is: that one is
    /// behind it, and whoever told it is a member, or counts as one. A node that has no
    /// state yet knows nobody but whom it was told of.
    fn counts(&self, id: u64, state: &Directory) -> bool {
        let mut id = id;
        // Nobody is told by whom it told itself; the bound is that of the ids.
        for _ in 0..=TOLD_AHEAD_MAX {
            if id <= state.cluster().last_node_id {
                return false;
            }
            match self.told.get(&id).map(|told| told.by) {
                None => return false,
                Some(None) => return true,
                Some(Some(by)) if state.member(by).is_some() => return true,
                Some(Some(by)) => id = by,
            }
        }
        false
    }
}

impl PinBook {
    /// A book over the replicated members and the pins of the identity record.
    pub fn new(registry: Registry, seed: &[Pin]) -> Self {
        let told = seed.iter().filter_map(|pin| {
            let spki = pin.spki_sha256.as_slice().try_into().ok()?;
            let member = (pin.peer_address.clone(), spki);
            Some((pin.node_id, Told { member, by: None }))
        });
        let known = Known {
            told: told.collect(),
            ..Known::default()
        };
        Self {
            registry,
            known: Arc::new(Mutex::new(known)),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Address and pin of a member.
    pub fn find(&self, node: u64) -> Option<AddressAndPin> {
        let forgotten = {
            let known = self.known();
            if let Some(found) = known.found.get(&node) {
                return Some(found.clone());
            }
            known.forgotten
        };
        let state = self.registry.read();
        let Some(member) = state.member(node).cloned() else {
            let known = self.known();
            let told = known.told.get(&node);
            let told = told.filter(|_| known.counts(node, &state));
            return told.map(|told| told.member.clone());
        };
        drop(state);
        let mut known = self.known();
        let spki = member.spki_sha256.as_slice().try_into().ok()?;
        let found = (member.peer_address.clone(), spki);
        if known.forgotten == forgotten {
            known.found.insert(node, found.clone());
        }
        Some(found)
    }

    /// Members that this node was told of and whose record it has not come to.
    pub(super) fn told(&self) -> Vec<u64> {
        let state = self.registry.read();
        let known = self.known();
        let ids = known.told.keys().copied();
        ids.filter(|id| known.counts(*id, &state)).collect()
    }

    /// Whether a key is some member's.
    pub fn knows(&self, spki: &[u8; 32]) -> bool {
        let is_found = |known: &Known| known.found.values().any(|(_, pin)| pin == spki);
        if is_found(&self.known()) {
            return true;
        }
        let state = self.registry.read();
        if state.members().any(|m| m.spki_sha256 == spki) {
            return true;
        }
        let known = self.known();
        let mut told = known.told.iter();
        told.any(|(id, told)| told.member.1 == *spki && known.counts(*id, &state))
    }

    /// The id that a key had, if it was a member's that was removed.
    pub fn removed(&self, spki: &[u8; 32]) -> Option<u64> {
        self.registry.read().removed_member(spki)
    }

    /// Takes in what the member `teller` told of the others. Those whom the own state
    /// knows, or knew and removed, are not learned again.
    pub(super) fn learn(&self, teller: u64, told: &[wire::Pin]) {
        let state = self.registry.read();
        let last = state.cluster().last_node_id;
        let ahead = last.saturating_add(1)..=last.saturating_add(TOLD_AHEAD_MAX);
        let mut known = self.known();
        let ids: Vec<u64> = known.told.keys().copied().collect();
        for id in ids {
            if !known.counts(id, &state) {
                known.told.remove(&id);
            }
        }
        for pin in told.iter().filter(|pin| ahead.contains(&pin.node_id)) {
            let Ok(spki) = pin.spki_sha256.as_slice().try_into() else {
                continue;
            };
            known.told.entry(pin.node_id).or_insert_with(|| Told {
                member: (pin.peer_address.clone(), spki),
                by: Some(teller),
            });
        }
    }

    /// Forgets members as they are removed. Has no end.
    pub async fn follow(self) {
        let mut changes = self.registry.subscribe();
        loop {
            let gone = match changes.recv().await {
                Ok(change) => match change.kind {
                    ChangeKind::MemberRemoved(id) => Some(id),
                    ChangeKind::StateReplaced => None,
                    _ => continue,
                },
                Err(RecvError::Lagged(_)) => None,
                Err(RecvError::Closed) => return,
            };
            let mut known = self.known();
            known.forgotten += 1;
            match gone {
                Some(id) => drop(known.found.remove(&id)),
                // Whoever is still a member is found again.
                None => known.found.clear(),
            }
        }
    }
}

#[cfg(test)]
mod tests;
