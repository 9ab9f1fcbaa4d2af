//! What the keys of a backend belong to, and which may be destroyed.
//!
//! A label names the cluster that had the key made, and the log named the key before it was made.
//! So a key that was there before the log was read is in the log, or was given up, or is not of this
//! cluster: list the keys first, then pass a barrier, then judge.

use std::collections::BTreeSet;
use std::sync::Arc;

use chancery_hsm::{KeyId, KeyListing, KeyRef};
use chancery_raft_store::Directory;
use chancery_raft_store::model::{Authority, AuthorityStatus, KeyIntent, PastEpoch};

use super::plan::KINDS;

/// What labels of authorities' keys begin with, whatever the cluster.
pub const LABELS: &str = "chancery/";

/// What a key belongs to.
#[derive(Clone, Debug, PartialEq)]
pub enum Owner {
    /// An authority that is trusted: prepared, active or old.
    Authority(Arc<Authority>),
    /// A key that is being made.
    Intent,
    /// Nothing any more: this cluster had it made, or an epoch whose keys it adopted. The
    /// authority that it was of, where that was revoked and is still known.
    Orphan(Option<Arc<Authority>>),
    /// An epoch of this cluster that ended; its keys were not adopted.
    PastEpoch,
    /// Another cluster, or nobody who can be told.
    Other,
}

/// What the log knows of keys.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Id of the cluster.
    pub cluster_id: String,
    past: Vec<PastEpoch>,
    authorities: Vec<Arc<Authority>>,
    intents: Vec<KeyIntent>,
}

impl Known {
    /// What the local state knows.
    pub fn of(directory: &Directory) -> Self {
        let kinds = KINDS.into_iter();
        Self {
            cluster_id: directory.cluster().id.clone(),
            past: directory.cluster().past_epochs.clone(),
            authorities: kinds.flat_map(|kind| directory.authorities(kind)).collect(),
            intents: directory.intents().cloned().collect(),
        }
    }

    /// What a key belongs to.
    pub fn owner(&self, key: &KeyRef) -> Owner {
        let mut of_key = self.authorities.iter().filter(|a| is_of(&a.key_id, key));
        // By id alone: whatever an operator made of the label, the key is in use.
        let revoked = match of_key.next() {
            Some(authority) if authority.status() != AuthorityStatus::Revoked => {
                return Owner::Authority(Arc::clone(authority));
            }
            revoked => revoked.cloned(),
        };
        let open = |intent: &KeyIntent| intent.node_id != 0 && is_of(&intent.key_id, key);
        if self.intents.iter().any(open) {
            return Owner::Intent;
        }
        let Some(cluster_id) = cluster_of(&key.label) else {
            return Owner::Other;
        };
        if cluster_id == self.cluster_id {
            return Owner::Orphan(revoked);
        }
        match self.past.iter().find(|e| e.cluster_id == cluster_id) {
            Some(epoch) if epoch.keys_adopted => Owner::Orphan(revoked),
            Some(_) => Owner::PastEpoch,
            None => Owner::Other,
        }
    }

    /// Whether the cluster had this id in an epoch that ended.
    pub fn is_past(&self, cluster_id: &str) -> bool {
        self.past.iter().any(|epoch| epoch.cluster_id == cluster_id)
    }

    /// Ids that the cluster had in epochs whose keys were not adopted, the oldest first.
    pub fn not_adopted(&self) -> Vec<String> {
        let past = self.past.iter().filter(|epoch| !epoch.keys_adopted);
        past.map(|epoch| epoch.cluster_id.clone()).collect()
    }

    /// Trusted authorities of a backend whose keys are not among those `listed`. `nodes` are
    /// those that alone have them, 0 among them where nodes may share them.
    pub fn missing(
        &self,
        listed: &[KeyListing],
        nodes: &[u64],
        backend: &str,
    ) -> Vec<Arc<Authority>> {
        let there: BTreeSet<_> = listed.iter().map(|l| *l.key.id.as_bytes()).collect();
        self.of_nodes(nodes, backend)
            .filter(|a| !there.iter().any(|id| id[..] == a.key_id))
            .cloned()
            .collect()
    }

    /// Trusted authorities whose keys a backend has or should have. A node had another backend
    /// before it moved.
    pub fn of_nodes(&self, nodes: &[u64], backend: &str) -> impl Iterator<Item = &Arc<Authority>> {
        self.authorities.iter().filter(move |authority| {
            nodes.contains(&authority.node_id)
                && authority.backend == backend
                && authority.status() != AuthorityStatus::Revoked
        })
    }
}

/// The cluster that a label names.
pub fn cluster_of(label: &str) -> Option<&str> {
    let (cluster_id, rest) = label.strip_prefix(LABELS)?.split_once('/')?;
    (!cluster_id.is_empty() && !rest.is_empty()).then_some(cluster_id)
}

fn is_of(key_id: &[u8], key: &KeyRef) -> bool {
    key_id == KeyId::as_bytes(&key.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u8, label: &str) -> KeyRef {
        KeyRef {
            id: KeyId::new([id; 16]),
            label: label.into(),
        }
    }

    fn authority(id: u8, status: AuthorityStatus) -> Arc<Authority> {
        let mut authority = Authority {
            id: format!("authority-{id}"),
            key_id: vec![id; 16],
            ..Authority::default()
        };
        authority.set_status(status);
        Arc::new(authority)
    }

    fn known() -> Known {
        let epoch = |id: &str, keys_adopted| PastEpoch {
            cluster_id: id.into(),
            keys_adopted,
            ..PastEpoch::default()
        };
        let intent = |id: u8, node_id| KeyIntent {
            slot: format!("slot-{id}"),
            node_id,
            key_id: vec![id; 16],
            ..KeyIntent::default()
        };
        Known {
            cluster_id: "now".into(),
            past: vec![epoch("taken", true), epoch("left", false)],
            authorities: vec![
                authority(1, AuthorityStatus::Active),
                authority(2, AuthorityStatus::Old),
                authority(3, AuthorityStatus::Revoked),
                authority(4, AuthorityStatus::Prepared),
            ],
            intents: vec![intent(5, 2), intent(6, 0)],
        }
    }

    #[test]
    fn trusted_authorities_and_open_intents_keep_their_keys_whatever_the_label() {
        let known = known();
        for id in [1, 2, 4] {
            for label in ["chancery/now/x509/1", "chancery/left/x509/1", "renamed"] {
                let Owner::Authority(of) = known.owner(&key(id, label)) else {
                    panic!("{id} {label}");
                };
                assert_eq!(of.id, format!("authority-{id}"));
            }
        }
        assert_eq!(known.owner(&key(5, "chancery/now/jwt/2")), Owner::Intent);
    }

    #[test]
    fn what_was_given_up_revoked_or_never_recorded_is_an_orphan_of_this_cluster_alone() {
        let known = known();
        for id in [6, 7] {
            let label = |cluster: &str| key(id, &format!("chancery/{cluster}/x509/9"));
            assert_eq!(known.owner(&label("now")), Owner::Orphan(None));
            assert_eq!(known.owner(&label("taken")), Owner::Orphan(None));
            assert_eq!(known.owner(&label("left")), Owner::PastEpoch);
            assert_eq!(known.owner(&label("elsewhere")), Owner::Other);
        }
        let revoked = Some(authority(3, AuthorityStatus::Revoked));
        let label = "chancery/now/x509/3";
        assert_eq!(known.owner(&key(3, label)), Owner::Orphan(revoked));
        assert_eq!(
            known.owner(&key(3, "chancery/left/x509/3")),
            Owner::PastEpoch
        );
        assert_eq!(known.not_adopted(), ["left"]);
    }

    #[test]
    fn labels_that_name_no_cluster_belong_to_nobody_known() {
        for label in [
            "",
            "chancery/",
            "chancery/now",
            "chancery//x509/1",
            "chancery/now/",
            "now/x509/1",
        ] {
            assert_eq!(known().owner(&key(7, label)), Owner::Other, "{label:?}");
        }
    }

    #[test]
    fn missing_are_the_trusted_authorities_of_the_node() {
        let listed = [1, 3, 9].map(|id| KeyListing {
            key: key(id, "chancery/now/x509/1"),
            private_objects: 1,
            public_objects: 1,
        });
        let missing = |nodes: &[u64], backend| -> Vec<String> {
            let missing = known().missing(&listed, nodes, backend);
            missing.iter().map(|a| a.id.clone()).collect()
        };
        assert_eq!(missing(&[0, 7], ""), ["authority-2", "authority-4"]);
        assert_eq!(missing(&[7], ""), [""; 0]);
        assert_eq!(missing(&[0, 7], "disk"), [""; 0], "made elsewhere");
    }
}
