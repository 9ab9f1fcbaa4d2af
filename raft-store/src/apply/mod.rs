//! The one function that changes the replicated state.
//!
//! [`apply`] is a pure function of (state, log index, proposal). It has no
//! clock, no randomness, no environment and no unordered map, so the same log
//! gives the same bytes on every node. A refusal is a typed outcome and changes
//! nothing but the clock and the request memory; an error means that this
//! node's storage is broken, and the node must stop.

mod agent;
mod authority;
mod bundle;
pub mod clock;
mod downstream;
mod entry;
mod federation;
mod issuance;
mod ledger;
mod login;
pub mod member;
mod scope;

use prost::Message;

use crate::command::{Command, FEATURE_LEVEL, Outcome, Proposal, RaiseFeatureLevel, Refusal};
use crate::feed::Change;
use crate::store::StoreError;
use crate::view::{Table, Txn, View, Writes, meta};

/// Log positions for which outcomes of requests are remembered.
pub const REQUEST_MEMORY: u64 = 200_000;

/// What a proposal did.
pub struct Applied {
    /// Answer to the proposer.
    pub outcome: Outcome,
    /// Rows written.
    pub writes: Writes,
    /// Changes, in order.
    pub changes: Vec<Change>,
}

/// Why a proposal cannot be applied on this node at all.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The store failed or is corrupt.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Written by a newer version. It must not be skipped: the states would part.
    #[error(
        "log entry {log_index} holds a command that this version does not know; upgrade this node"
    )]
    UnknownCommand {
        /// Where it stands.
        log_index: u64,
    },
    /// The cluster has come to commands that this version does not know: what it would
    /// drop of their records it would drop for good.
    #[error(
        "the cluster is at feature level {level}, and this version knows {FEATURE_LEVEL} at most; upgrade this node"
    )]
    NewerLevel {
        /// That of the cluster.
        level: u32,
    },
}

/// Applies `proposal`, which stands at `log_index`, to the state `base` with the
/// not yet stored writes `batch` of earlier log entries on top.
pub fn apply(
    base: &dyn View,
    batch: &Writes,
    log_index: u64,
    proposal: &Proposal,
) -> Result<Applied, ApplyError> {
    let command = proposal
        .command
        .as_ref()
        .ok_or(ApplyError::UnknownCommand { log_index })?;
    if let Command::RaiseFeatureLevel(RaiseFeatureLevel { level }) = command
        && *level > FEATURE_LEVEL
    {
        return Err(ApplyError::NewerLevel { level: *level });
    }
    let before = Txn::new(base, batch, log_index, 0)
        .cluster()?
        .unwrap_or_default();
    // The proposer's clock may be behind that of an earlier leader; state time never is.
    let mut clock_ms = clock::after(&before, proposal);
    let allowed = clock::allows(&Txn::new(base, batch, log_index, 0), &before, proposal)?;
    if !allowed {
        clock_ms = before.clock_ms;
    }
    let mut txn = Txn::new(base, batch, log_index, clock_ms);

    if let Some(request) = &proposal.request
        && let Some(memory) = txn.remembered(request)?
    {
        let outcome = Outcome::decode(memory.outcome.as_slice())
            .map_err(|e| StoreError::corrupt(format!("remembered outcome does not decode: {e}")))?;
        return Ok(Applied {
            outcome,
            writes: Writes::new(),
            changes: Vec::new(),
        });
    }
    if let Some(request) = &proposal.request
        && txn.is_forgotten(request)?
    {
        let outcome = Outcome::refused(Refusal::OutcomeUnknown);
        return Ok(Applied {
            outcome,
            writes: Writes::new(),
            changes: Vec::new(),
        });
    }

    let ruling = if allowed {
        run(&mut txn, command)?
    } else {
        Err(Refusal::ClockStep)
    };
    let outcome = match ruling {
        Ok(outcome) => outcome,
        Err(refusal) => {
            // An expired token is gone although what it was presented for is refused.
            let consumes = matches!(command, Command::AttestAgent(_) | Command::AdmitMember(_));
            if !(refusal == Refusal::TokenExpired && consumes) {
                txn.roll_back();
            }
            Outcome::refused(refusal)
        }
    };

    let mut cluster = txn.cluster()?.unwrap_or_default();
    let is_set = matches!(command, Command::SetClock(_)) && outcome.refusal() == Refusal::None;
    if cluster.clock_ms != clock_ms && !is_set {
        cluster.clock_ms = clock_ms;
        txn.put_cluster(&cluster);
    }
    if let Some(request) = &proposal.request {
        txn.remember(request, outcome.encode_to_vec())?;
    }
    txn.forget_requests(REQUEST_MEMORY)?;
    let (writes, changes) = txn.finish();
    Ok(Applied {
        outcome,
        writes,
        changes,
    })
}

/// `Err` inside is a refusal, outside a broken store.
type Ruling = Result<Result<Outcome, Refusal>, StoreError>;

fn run(txn: &mut Txn<'_>, command: &Command) -> Ruling {
    let founded = txn.cluster()?.is_some_and(|c| !c.id.is_empty());
    if !founded && !matches!(command, Command::Found(_)) {
        return Ok(Err(Refusal::Conflict));
    }
    match command {
        Command::Found(c) => member::found(txn, c),
        Command::AdmitMember(c) => member::admit(txn, c),
        Command::AnnounceMember(c) => member::announce(txn, c),
        Command::RecordServerSvid(c) => member::record_server_svid(txn, c),
        Command::CreateEntries(c) => entry::create(txn, c),
        Command::UpdateEntries(c) => entry::update(txn, c),
        Command::DeleteEntries(c) => entry::delete(txn, c),
        Command::PruneEntries(c) => entry::prune(txn, c),
        Command::CreateJoinToken(c) => agent::create_join_token(txn, c),
        Command::AttestAgent(c) => agent::attest(txn, c),
        Command::RenewAgent(c) => agent::renew(txn, c),
        Command::ActivateAgents(c) => agent::activate(txn, c),
        Command::BanAgent(c) => agent::ban(txn, c),
        Command::DeleteAgent(c) => agent::delete(txn, c),
        Command::PruneAgents(c) => agent::prune(txn, c),
        Command::PruneJoinTokens(c) => agent::prune_join_tokens(txn, c),
        Command::ImportBan(c) => agent::import_ban(txn, c),
        Command::SetAgentVersion(c) => agent::set_version(txn, c),
        Command::BeginKey(c) => authority::begin_key(txn, c),
        Command::AbandonKey(c) => authority::abandon_key(txn, c),
        Command::RecordAuthority(c) => authority::record(txn, c),
        Command::ProveAuthority(c) => authority::prove(txn, c),
        Command::ActivateAuthority(c) => authority::activate(txn, c),
        Command::TaintAuthority(c) => authority::taint(txn, c),
        Command::RevokeAuthority(c) => authority::revoke(txn, c),
        Command::PruneAuthorities(c) => authority::prune(txn, c),
        Command::AdoptKeys(c) => authority::adopt_keys(txn, c),
        Command::ClaimLogin(c) => login::claim(txn, c),
        Command::SettleLogin(c) => login::settle(txn, c),
        Command::SetIssuanceMode(c) => issuance::set_mode(txn, c),
        Command::SetAuthorityScope(c) => scope::set(txn, *c),
        Command::RetireAuthorities(c) => scope::retire(txn, c),
        Command::NoteHolders(c) => ledger::note(txn, c),
        Command::TellRenewals(c) => ledger::tell_renewals(txn, c),
        Command::PruneHolders(c) => ledger::prune(txn, c),
        Command::RecordDownstreamCa(c) => downstream::record(txn, c),
        Command::CreateFederatedBundles(c) => federation::create_bundles(txn, c),
        Command::UpdateFederatedBundles(c) => federation::update_bundles(txn, c),
        Command::SetFederatedBundles(c) => federation::set_bundles(txn, c),
        Command::DeleteFederatedBundles(c) => federation::delete_bundles(txn, c),
        Command::CreateRelationships(c) => federation::create_relationships(txn, c),
        Command::UpdateRelationships(c) => federation::update_relationships(txn, c),
        Command::DeleteRelationships(c) => federation::delete_relationships(txn, c),
        Command::AppendBundle(c) => bundle::append(txn, c),
        Command::PruneBundle(c) => bundle::prune(txn, c),
        Command::CreateNodeToken(c) => member::create_token(txn, c),
        Command::ChangeMembers(c) => member::change(txn, c),
        Command::RemoveMember(c) => member::remove(txn, c),
        Command::RaiseFeatureLevel(c) => member::raise_feature_level(txn, c),
        Command::SetClock(c) => clock::set(txn, c),
    }
}

/// Digest of the state after a log entry: folds the digest before it, the index,
/// and every row written, in key order.
pub fn fold_digest(before: &[u8], log_index: u64, writes: &Writes) -> Vec<u8> {
    let digest_key = Table::Meta.key(meta::DIGEST);
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    digest.update(before);
    digest.update(&log_index.to_be_bytes());
    for (key, value) in writes.iter().filter(|(key, _)| **key != digest_key) {
        digest.update(&(key.len() as u64).to_be_bytes());
        digest.update(key);
        match value {
            Some(value) => {
                digest.update(&[1]);
                digest.update(&(value.len() as u64).to_be_bytes());
                digest.update(value);
            }
            None => digest.update(&[0]),
        }
    }
    digest.finish().as_ref().to_vec()
}
