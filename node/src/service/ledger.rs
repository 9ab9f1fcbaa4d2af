//! `chancery.ledger.v1.Ledger`: whom the revocation of an authority cuts off.

use std::sync::Arc;
use std::time::Duration;

use chancery_api::chancery::ledger::v1 as api;
use chancery_api::chancery::ledger::v1::ledger_server::Ledger;
use chancery_raft_store::Directory;
use chancery_raft_store::model::{Authority, AuthorityKind, AuthorityStatus};
use tonic::{Request, Response, Status};

use super::{Context, permit};
use crate::registry::Freshness;

/// Names of one authority's holders in one answer.
const NAMES_MAX: usize = 1_000;
/// Longest wait for the other members.
const MEMBERS_WAIT: Duration = Duration::from_secs(1);

/// The service.
pub(super) struct LedgerService {
    context: Context,
}

impl LedgerService {
    /// A service over the node's state.
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    /// Nodes that may have handed out what the ledger does not have. Whoever is not among them
    /// has applied all that this node has, and owed nothing afterwards.
    async fn unheard(&self) -> Vec<String> {
        let doors = &self.context.doors;
        let index = doors.registry().applied_index();
        let members = &self.context.members;
        let holds = members.applied_everywhere(index, MEMBERS_WAIT, doors.stale_limit());
        let mut unheard = holds.await.missing;
        unheard.extend(members.owing());
        if self.context.ledger.owes() {
            unheard.push(doors.consensus().me());
        }
        unheard.sort_unstable();
        unheard.dedup();
        unheard.iter().map(u64::to_string).collect()
    }
}

#[tonic::async_trait]
impl Ledger for LedgerService {
    async fn get_holders(
        &self,
        request: Request<api::GetHoldersRequest>,
    ) -> Result<Response<api::GetHoldersResponse>, Status> {
        permit(&request)?;
        let request = request.into_inner();
        let kind = match &*request.kind {
            "x509" => AuthorityKind::X509,
            "jwt" => AuthorityKind::Jwt,
            other => {
                return Err(Status::invalid_argument(format!(
                    "kind {other:?} is neither \"x509\" nor \"jwt\""
                )));
            }
        };
        let names = usize::try_from(request.names).unwrap_or(usize::MAX);
        if names > NAMES_MAX {
            return Err(Status::invalid_argument(format!(
                "more than {NAMES_MAX} names in one answer"
            )));
        }
        let freshness = self.context.doors.linearizable().await;
        let unheard = match freshness {
            Freshness::Linearizable => self.unheard().await,
            // Without a quorum this node has not heard of the others either.
            Freshness::Stale(_) => vec![self.context.doors.consensus().me().to_string()],
        };
        let now = self.context.doors.earlier_clock();
        let trust_domain = self.context.issuer.trust_domain();
        let directory = self.context.doors.local();
        let asked: Vec<Arc<Authority>> = directory
            .authorities(kind)
            .into_iter()
            .filter(|a| match &*request.authority_id {
                "" => a.status() != AuthorityStatus::Revoked,
                id => a.id == id,
            })
            .collect();
        let told = asked.iter().map(|authority| {
            let mut told = holders(&directory, authority, now);
            let ledger = directory.ledger();
            let named = ledger.named_after(kind, &authority.id, &request.after, now);
            told.names = named
                .take(names)
                .map(|(path, _)| format!("spiffe://{trust_domain}{path}"))
                .collect();
            told
        });
        let response = api::GetHoldersResponse {
            authorities: told.collect(),
            unheard,
        };
        Ok(freshness.mark(Response::new(response)))
    }
}

/// The holders of one authority, without names.
fn holders(directory: &Directory, authority: &Authority, now: i64) -> api::AuthorityHolders {
    let mut holders = directory
        .ledger()
        .holders(authority.kind(), &authority.id, now);
    // One that never signed has none, whatever was lost.
    let signed = authority.status() != AuthorityStatus::Prepared;
    if signed && !directory.is_accounted_for(authority) && authority.expires_at > now {
        holders.unnamed = true;
        holders.until = authority.expires_at;
    }
    api::AuthorityHolders {
        authority_id: authority.id.clone(),
        holders: holders.count,
        unnamed: holders.unnamed,
        until: holders.until,
        names: Vec::new(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use chancery_raft_store::command::NoteHolders;
    use chancery_raft_store::model::Cluster;
    use chancery_raft_store::view::{Table, meta};
    use prost::Message;

    use super::*;

    fn directory(feature_level: u32, ledger_from: u64) -> Directory {
        let cluster = Cluster {
            feature_level,
            ledger_from,
            ..Cluster::default()
        };
        let mut directory = Directory::default();
        let key = Table::Meta.key(meta::CLUSTER);
        directory
            .absorb_row(&key, Some(&cluster.encode_to_vec()))
            .unwrap();
        directory
    }

    #[test]
    fn an_authority_from_before_the_ledger_may_have_holders_to_its_end() {
        let mut authority = Authority {
            id: "a".into(),
            kind: AuthorityKind::X509.into(),
            sequence: 7,
            expires_at: 100,
            ..Authority::default()
        };
        authority.set_status(AuthorityStatus::Old);
        let told = |directory: &Directory, authority: &Authority, now| {
            let told = holders(directory, authority, now);
            (told.holders, told.unnamed, told.until)
        };
        let level = NoteHolders::FEATURE_LEVEL;
        assert_eq!(told(&directory(level, 6), &authority, 0), (0, false, 0));
        for before in [directory(level, 7), directory(level - 1, 0)] {
            assert_eq!(told(&before, &authority, 99), (0, true, 100));
            assert_eq!(told(&before, &authority, 100), (0, false, 0));
        }
        authority.set_status(AuthorityStatus::Prepared);
        assert_eq!(told(&directory(level, 7), &authority, 0), (0, false, 0));
    }
}
