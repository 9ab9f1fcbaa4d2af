//! Authorities: how they come to be, who may sign with them, and the server's
//! own SVID.
//!
//! What there is, is replicated state; which of it this node can use is what
//! [`Custody`] found out by signing. Nothing here trusts a key that it has not
//! tried since the process started.

mod driver;
mod foreign_roots;
mod intermediate;
mod issuer;
pub mod keys;
mod logins;
mod own_bundle;
mod own_roots;
pub mod plan;
mod server_svid;
mod source;
mod steward;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use chancery_hsm::{BackendKind, KeyId, KeyRef, Signer};
use chancery_raft_store::model::{
    Authority, AuthorityKind, AuthorityStatus, Cluster, IssuanceMode,
};
use chancery_raft_store::{Change, ChangeKind, Directory};
use tokio::sync::{Notify, broadcast};

use crate::registry::Doors;

pub use driver::{Driver, Making};
pub use foreign_roots::keep_foreign_roots;
pub use intermediate::{Certifier, Intermediate, Intermediates, keep_intermediates};
pub use issuer::{IssueFailed, Issuer, JwtSvid, Lifetimes, Mint, X509Svid};
pub use logins::Logins;
pub use own_roots::keep_own_roots;
pub use server_svid::{ServerSvid, keep_server_svid};
pub use steward::{OtherKey, Slot, StepFailed, Steward};

/// A token's signer and the authorities that it was seen to sign for.
#[derive(Clone)]
pub struct Custody {
    signer: Arc<dyn Signer>,
    token: bool,
    usable: Arc<RwLock<BTreeSet<String>>>,
    making: Arc<Mutex<Option<MakingFailed>>>,
    tried: Arc<Notify>,
    intermediates: Intermediates,
}

/// The last key that could not be made here.
struct MakingFailed {
    slot: String,
    epoch: u64,
    why: String,
}

impl Custody {
    /// Custody over `signer`; keys in a token can be shared by the nodes, keys on disk or
    /// in memory are each node's own.
    pub fn new(signer: Arc<dyn Signer>, intermediates: Intermediates) -> Self {
        let token = signer.kind() == BackendKind::Pkcs11;
        Self {
            signer,
            token,
            usable: Arc::default(),
            making: Arc::default(),
            tried: Arc::default(),
            intermediates,
        }
    }

    /// The signer.
    pub fn signer(&self) -> &Arc<dyn Signer> {
        &self.signer
    }

    /// Whether its keys are in a token, where other nodes may have access to them.
    pub fn has_token(&self) -> bool {
        self.token
    }

    /// Whether nodes are to share the keys of authorities.
    pub fn shares(&self, cluster: &Cluster) -> bool {
        plan::shares(cluster.authority_scope(), self.token)
    }

    /// Whether an intermediate of an authority takes another member: nodes share it in a token
    /// that this one does not have.
    pub fn asks_others(&self, authority: &Authority) -> bool {
        authority.node_id == 0 && !self.token
    }

    /// Whether this node is to sign under authorities in a token that it does not have.
    pub fn lacks_token(&self, cluster: &Cluster) -> bool {
        self.shares(cluster) && !self.token
    }

    /// How this node signs X.509-SVIDs: as the cluster's mode has it, and without the token that
    /// nodes share by an intermediate in either.
    pub fn mode(&self, cluster: &Cluster) -> IssuanceMode {
        if self.lacks_token(cluster) {
            IssuanceMode::Intermediate
        } else {
            cluster.issuance_mode()
        }
    }

    /// The authorities for certificates of which this node may hold an intermediate.
    fn intermediates_of(&self, directory: &Directory, me: u64) -> Vec<Arc<Authority>> {
        let asks = self.lacks_token(directory.cluster());
        let mut authorities = directory.authorities(AuthorityKind::X509);
        authorities.retain(|a| a.node_id == me || (a.node_id == 0 && (self.token || asks)));
        authorities
    }

    /// The intermediates of this node.
    pub fn intermediates(&self) -> &Intermediates {
        &self.intermediates
    }

    /// Ids of the authorities that this node has signed with.
    fn tried(&self) -> BTreeSet<String> {
        self.usable
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until an authority has become usable since it was waited for last. For one who waits.
    async fn another_usable(&self) {
        self.tried.notified().await;
    }

    /// Whether this node can sign under an authority as the mode wants it: it has signed with
    /// its key, and holds an intermediate of it where intermediates sign. Without the token the
    /// intermediate is all that there is.
    pub fn can_sign(&self, authority: &Authority, mode: IssuanceMode, now: i64) -> bool {
        if self.asks_others(authority) {
            return self.intermediates.of(&authority.id, now).is_some();
        }
        let takes_intermediate =
            mode == IssuanceMode::Intermediate && authority.kind() == AuthorityKind::X509;
        self.is_usable(&authority.id)
            && (!takes_intermediate || self.intermediates.of(&authority.id, now).is_some())
    }

    /// Those of the authorities whose keys this node may have: its own, and with a token those
    /// that nodes share.
    fn own<'a>(
        &self,
        authorities: &'a [Arc<Authority>],
        me: u64,
    ) -> impl Iterator<Item = &'a Arc<Authority>> + use<'a> {
        let token = self.token;
        authorities
            .iter()
            .filter(move |a| a.node_id == me || (token && a.node_id == 0))
    }

    /// The intermediate that signs X.509-SVIDs on this node now, where the mode has it so.
    pub fn signing_intermediate(&self, doors: &Doors) -> Option<Arc<Intermediate>> {
        let directory = doors.local();
        if self.mode(directory.cluster()) != IssuanceMode::Intermediate {
            return None;
        }
        let own = self.intermediates_of(&directory, doors.consensus().me());
        let shared = self.shares(directory.cluster());
        drop(directory);
        let now = doors.consensus().clock().now_unix_ms().div_euclid(1000);
        self.intermediates.signing(&own, shared, now)
    }

    fn is_usable(&self, id: &str) -> bool {
        self.usable
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(id)
    }

    fn set_usable(&self, id: &str, usable: bool) {
        let mut ids = self.usable.write().unwrap_or_else(PoisonError::into_inner);
        if usable {
            if ids.insert(id.to_owned()) {
                self.tried.notify_one();
            }
        } else {
            ids.remove(id);
        }
    }

    /// Notes that the key of an intent could not be made, and why.
    fn set_making_failed(&self, slot: &str, epoch: u64, why: String) {
        let failed = MakingFailed {
            slot: slot.to_owned(),
            epoch,
            why,
        };
        *self.making.lock().unwrap_or_else(PoisonError::into_inner) = Some(failed);
    }

    /// Why the key of an intent could not be made, if that was tried in vain.
    fn making_failed(&self, slot: &str, epoch: u64) -> Option<String> {
        let making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = making.as_ref()?;
        (failed.slot == slot && failed.epoch == epoch).then(|| failed.why.clone())
    }

    /// The authority of `authorities`, of one kind, that signs on this node: active, its key
    /// tried, not tainted, not at its end. One of the scope comes before one that it replaces;
    /// `shared` says which those are.
    pub fn signing(
        &self,
        authorities: &[Arc<Authority>],
        shared: bool,
        me: u64,
        now: i64,
    ) -> Option<Arc<Authority>> {
        self.own(authorities, me)
            .filter(|a| a.status() == AuthorityStatus::Active && !a.tainted)
            .filter(|a| a.expires_at > now)
            .filter(|a| self.is_usable(&a.id))
            .max_by_key(|a| (a.node_id == 0) == shared)
            .cloned()
    }
}

/// Waits for a change of a kind that matters, or for the state to have become another.
/// What was missed counts as one; where the feed has ended nothing comes any more.
async fn change(feed: &mut broadcast::Receiver<Change>, matters: impl Fn(&ChangeKind) -> bool) {
    loop {
        match feed.recv().await {
            Ok(change) if change.kind == ChangeKind::StateReplaced => return,
            Ok(change) if matters(&change.kind) => return,
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(_)) => return,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// What is said of one node, or of several.
fn nodes(ids: &BTreeSet<u64>, one: &str, many: &str) -> String {
    let names: Vec<_> = ids.iter().map(u64::to_string).collect();
    match names.as_slice() {
        [name] => format!("node {name} {one}"),
        names => format!("nodes {} {many}", names.join(", ")),
    }
}

/// The key of an authority in its backend; `None` for a record without a whole id.
fn key_ref(authority: &Authority) -> Option<KeyRef> {
    let id: [u8; KeyId::BYTES] = authority.key_id.as_slice().try_into().ok()?;
    Some(KeyRef {
        id: KeyId::new(id),
        label: authority.key_label.clone(),
    })
}
