//! Who the peers of a node are: address and key of each member, by what this node knows.
//!
//! The replicated members come first. A node that joins is told the members of that
//! moment; a node that was away learns of those that joined meanwhile from members that
//! it knows. Either counts only for ids that the own state has not come to yet, so that
//! nobody who was removed is known again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chancery_api::chancery::peer::v1 as wire;
use chancery_raft_store::identity_record::Pin;
use chancery_raft_store::{ChangeKind, Registry};
use tokio::sync::broadcast::error::RecvError;

/// Peer address of a member and SHA-256 of its key.
pub type AddressAndPin = (String, [u8; 32]);

/// Members that are taken from other members' answers.
const TOLD_MAX: usize = 64;

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
    told: BTreeMap<u64, AddressAndPin>,
    /// Counts what was forgotten: what was looked up before must not be noted after it.
    forgotten: u64,
}

impl PinBook {
    /// A book over the replicated members and the pins of the identity record.
    pub fn new(registry: Registry, seed: &[Pin]) -> Self {
        let told = seed.iter().filter_map(|pin| {
            let spki = pin.spki_sha256.as_slice().try_into().ok()?;
            Some((pin.node_id, (pin.peer_address.clone(), spki)))
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
        let (member, is_past) = {
            let state = self.registry.read();
            (
                state.member(node).cloned(),
                node <= state.cluster().last_node_id,
            )
        };
        let mut known = self.known();
        let Some(member) = member else {
            return known.told.get(&node).filter(|_| !is_past).cloned();
        };
        let spki = member.spki_sha256.as_slice().try_into().ok()?;
        let found = (member.peer_address.clone(), spki);
        if known.forgotten == forgotten {
            known.found.insert(node, found.clone());
        }
        Some(found)
    }

    /// Whether a key is some member's.
    pub fn knows(&self, spki: &[u8; 32]) -> bool {
        let told = {
            let known = self.known();
            if known.found.values().any(|(_, pin)| pin == spki) {
                return true;
            }
            let mut told = known.told.iter();
            told.find(|(_, (_, pin))| pin == spki).map(|(id, _)| *id)
        };
        let state = self.registry.read();
        told.is_some_and(|id| id > state.cluster().last_node_id)
            || state.members().any(|m| m.spki_sha256 == spki)
    }

    /// The id that a key had, if it was a member's that was removed.
    pub fn removed(&self, spki: &[u8; 32]) -> Option<u64> {
        self.registry.read().removed_member(spki)
    }

    /// Takes in what a member told of the others. Those whom the own state knows, or knew
    /// and removed, are not learned again.
    pub(super) fn learn(&self, told: &[wire::Pin]) {
        let last = self.registry.read().cluster().last_node_id;
        let mut known = self.known();
        known.told.retain(|id, _| *id > last);
        for pin in told.iter().filter(|pin| pin.node_id > last) {
            let Ok(spki) = pin.spki_sha256.as_slice().try_into() else {
                continue;
            };
            if known.told.len() < TOLD_MAX {
                known
                    .told
                    .entry(pin.node_id)
                    .or_insert_with(|| (pin.peer_address.clone(), spki));
            }
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
