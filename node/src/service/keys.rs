//! `chancery.keys.v1.Keys`: the keys behind this node's signer, and what belongs to nobody.

use std::sync::Arc;

use chancery_api::chancery::keys::v1 as api;
use chancery_api::chancery::keys::v1::keys_server::Keys;
use chancery_hsm::{KeyId, KeyListing, KeyRef, SignerError};
use chancery_raft_store::command::{AdoptKeys, Command};
use chancery_raft_store::model::{Authority, AuthorityKind, AuthorityStatus};
use tokio::sync::Mutex;
use tonic::{Request, Response, Status};

use super::{Context, audit, permit, status};
use crate::authority::Custody;
use crate::authority::keys::{Known, LABELS, Owner, cluster_of};
use crate::authz::Permit;

/// Keys that one call destroys at most.
const SWEPT_MAX: usize = 1_000;

/// The service.
pub(super) struct KeysService {
    context: Context,
    /// One at a time destroys keys.
    turn: Mutex<()>,
}

impl KeysService {
    /// A service over the node's signer and state.
    pub(super) fn new(context: Context) -> Self {
        Self {
            context,
            turn: Mutex::new(()),
        }
    }

    fn custody(&self) -> &Custody {
        self.context.steward.custody()
    }

    /// Whose authorities have keys behind this signer: this node's, and of a token those that
    /// nodes share, which are 0's.
    fn owners(&self) -> Vec<u64> {
        let me = self.context.doors.consensus().me();
        if self.custody().has_token() {
            vec![0, me]
        } else {
            vec![me]
        }
    }

    /// What is in the backend, and then what the log knows of it: in this order, for a key is in
    /// the log before it is made.
    async fn look(&self) -> Result<(Vec<KeyListing>, Known), Status> {
        let signer = self.custody().signer();
        let listed = signer.list(LABELS).await.map_err(|e| unusable(&e))?;
        self.context.doors.exact().await?;
        Ok((listed, Known::of(&self.context.doors.local())))
    }
}

#[tonic::async_trait]
impl Keys for KeysService {
    async fn list(
        &self,
        request: Request<api::ListRequest>,
    ) -> Result<Response<api::ListResponse>, Status> {
        permit(&request)?;
        let (listed, known) = self.look().await?;
        let signer = self.custody().signer();
        let backend = signer.kind().as_str();
        let missing = known.missing(&listed, &self.owners(), backend);
        Ok(Response::new(api::ListResponse {
            backend: backend.into(),
            token_serials: signer.token_serials(),
            keys: listed.iter().map(|found| told(found, &known)).collect(),
            missing: missing.iter().map(told_of).collect(),
            not_adopted: known.not_adopted(),
            cluster_id: known.cluster_id,
        }))
    }

    async fn sweep(
        &self,
        request: Request<api::SweepRequest>,
    ) -> Result<Response<api::SweepResponse>, Status> {
        let permit = permit(&request)?;
        let _turn = self.turn.try_lock().map_err(|_| {
            Status::aborted("another call destroys keys on this node; look again, then repeat")
        })?;
        let named = &request.get_ref().keys;
        if named.is_empty() || named.len() > SWEPT_MAX {
            return Err(Status::invalid_argument(format!(
                "{} keys named; 1 to {SWEPT_MAX} can be destroyed at a time",
                named.len()
            )));
        }
        let keys = named.iter().map(key).collect::<Result<Vec<_>, _>>()?;
        let (listed, known) = self.look().await?;
        let not_adopted = known.not_adopted();
        if let Some(first) = not_adopted.first() {
            return Err(Status::failed_precondition(format!(
                "this cluster was restored or recovered, and what made the keys of its former id {first} may still run; \
                 run `chancery hsm adopt` first"
            )));
        }
        let mut results = Vec::new();
        for key in keys {
            audit::key_destruction_ordered(permit, &key);
            let kept_because = match kept(&key, &listed, &known) {
                Some(why) => {
                    tracing::warn!(%key, %why, "Key was not destroyed");
                    Some(why)
                }
                None => self.destroy(permit, &key).await,
            };
            let kept_because = kept_because.unwrap_or_default();
            results.push(api::Swept { kept_because });
        }
        Ok(Response::new(api::SweepResponse { results }))
    }

    async fn adopt(
        &self,
        request: Request<api::AdoptRequest>,
    ) -> Result<Response<api::AdoptResponse>, Status> {
        let permit = permit(&request)?;
        let api::AdoptRequest {
            cluster_ids,
            dry_run,
        } = request.get_ref();
        if cluster_ids.is_empty() {
            return Err(Status::invalid_argument("no cluster id given"));
        }
        let (listed, known) = self.look().await?;
        if let Some(unknown) = cluster_ids.iter().find(|id| !known.is_past(id)) {
            return Err(Status::not_found(format!(
                "this cluster never had the id {unknown:?}"
            )));
        }
        let mut matched = Vec::new();
        let backend = self.custody().signer().kind().as_str();
        for authority in known.of_nodes(&self.owners(), backend) {
            if self.matches(authority, &listed).await? {
                matched.push(told_of(authority));
            }
        }
        if !dry_run {
            let command = Command::AdoptKeys(AdoptKeys {
                cluster_ids: cluster_ids.clone(),
            });
            let outcome = self.context.doors.write(command).await?;
            outcome
                .accepted()
                .map_err(|refusal| status::refused(refusal, "a former cluster id"))?;
            audit::keys_adopted(permit, cluster_ids);
        }
        Ok(Response::new(api::AdoptResponse { matched }))
    }
}

impl KeysService {
    /// Destroys a key; says why where that failed. A caller that goes away ends neither what the
    /// token does nor what is said of it.
    async fn destroy(&self, permit: &Permit, key: &KeyRef) -> Option<String> {
        let (signer, key) = (Arc::clone(self.custody().signer()), key.clone());
        let caller = audit::who(permit);
        let destroyed = tokio::spawn(async move {
            let destroyed = signer.delete(&key).await;
            match &destroyed {
                Ok(()) => audit::key_destroyed(&caller, &key),
                Err(why) => tracing::warn!(%key, %why, "Key was not destroyed"),
            }
            destroyed
        });
        match destroyed.await {
            Ok(destroyed) => destroyed.err().map(|error| error.to_string()),
            Err(_) => Some("the task that was to destroy it ended; look again".into()),
        }
    }

    /// Whether the key of an authority is in the backend; an error where it is another key, and
    /// where an authority that signs or is to sign has none.
    async fn matches(
        &self,
        authority: &Arc<Authority>,
        listed: &[KeyListing],
    ) -> Result<bool, Status> {
        let refused =
            |why: String| Status::failed_precondition(format!("authority {}: {why}", authority.id));
        let found = listed
            .iter()
            .find(|found| found.key.id.as_bytes()[..] == authority.key_id);
        let Some(found) = found else {
            return match authority.status() {
                // It signs no more: nobody needs its key.
                AuthorityStatus::Old => Ok(false),
                _ => Err(refused(
                    "its key is not in the backend; is this the token, or the folder, that the cluster had?".into(),
                )),
            };
        };
        let public = self.custody().signer().public_key(&found.key).await;
        let public = public.map_err(|e| refused(e.to_string()))?;
        if public.spki_der == authority.public_key {
            Ok(true)
        } else {
            Err(refused(format!("{} is another key", found.key)))
        }
    }
}

/// A signer that cannot be asked.
fn unusable(error: &SignerError) -> Status {
    Status::unavailable(format!("the keys cannot be listed: {error}"))
}

/// A key as a caller names it.
fn key(named: &api::Key) -> Result<KeyRef, Status> {
    let id = KeyId::try_from(&named.id[..]).map_err(|_| {
        Status::invalid_argument(format!("a key id has 16 bytes, not {}", named.id.len()))
    })?;
    Ok(KeyRef {
        id,
        label: named.label.clone(),
    })
}

fn told(found: &KeyListing, known: &Known) -> api::Key {
    let (owner, authority) = match known.owner(&found.key) {
        Owner::Authority(authority) => (api::Owner::Authority, Some(authority)),
        Owner::Intent => (api::Owner::Intent, None),
        Owner::Orphan(revoked) => (api::Owner::Orphan, revoked),
        Owner::PastEpoch => (api::Owner::PastEpoch, None),
        Owner::Other => (api::Owner::Other, None),
    };
    api::Key {
        id: found.key.id.as_bytes().to_vec(),
        label: found.key.label.clone(),
        whole: found.is_whole(),
        owner: owner.into(),
        cluster_id: cluster_of(&found.key.label).unwrap_or_default().into(),
        ..authority.as_ref().map(told_of).unwrap_or_default()
    }
}

/// An authority's key, as the log has it.
/// Why a key must stay; nothing for an orphan.
fn kept(key: &KeyRef, listed: &[KeyListing], known: &Known) -> Option<String> {
    if !listed.iter().any(|found| found.key == *key) {
        return Some("it is not there".into());
    }
    match known.owner(key) {
        Owner::Orphan(_) => None,
        Owner::Authority(authority) => Some(format!("authority {} has it", authority.id)),
        Owner::Intent => Some("it is being made".into()),
        Owner::PastEpoch | Owner::Other => Some("it is not this cluster's".into()),
    }
}

fn told_of(authority: &Arc<Authority>) -> api::Key {
    let status = match authority.status() {
        _ if authority.tainted && authority.status() != AuthorityStatus::Revoked => "tainted",
        AuthorityStatus::Prepared => "prepared",
        AuthorityStatus::Active => "active",
        AuthorityStatus::Old => "old",
        AuthorityStatus::Revoked => "revoked",
        AuthorityStatus::Unspecified => "unknown",
    };
    api::Key {
        id: authority.key_id.clone(),
        label: authority.key_label.clone(),
        whole: false,
        owner: api::Owner::Authority.into(),
        authority_id: authority.id.clone(),
        authority_kind: match authority.kind() {
            AuthorityKind::Jwt => "jwt",
            AuthorityKind::X509 | AuthorityKind::Unspecified => "x509",
        }
        .into(),
        authority_status: status.into(),
        cluster_id: cluster_of(&authority.key_label).unwrap_or_default().into(),
    }
}
