//! The vocabulary of the log.
//!
//! A command carries everything that `apply` must not decide for itself: ids,
//! serials, random values, signed certificates' facts, and the time.

mod custody;
mod federation;
mod housekeeping;
mod issuance;
mod ledger;
mod login;
mod membership;

use std::fmt;

use prost::{Enumeration, Message, Oneof};

pub use self::custody::AdoptKeys;
pub use self::federation::{
    AppendBundle, BundleFields, DeleteFederatedBundles, DeleteMode, FederatedBundleResult,
    FederatedBundles, PruneBundle, RelationshipDraft, RelationshipFields, RelationshipResult,
    Relationships, TrustDomains, UpdateFederatedBundles, UpdateRelationships,
};
pub use self::housekeeping::{
    EntryFields, EntryUpdate, PruneAgents, PruneAuthorities, PruneEntries, PruneJoinTokens,
    UpdateEntries,
};
pub use self::issuance::{RetireAuthorities, SetAuthorityScope, SetIssuanceMode};

pub use self::ledger::{HolderNote, NoteHolders, PruneHolders, Renewal, TellRenewals};
pub use self::login::{ClaimLogin, LoginEnd, SettleLogin};
pub use self::membership::{
    AdmitMember, AnnounceMember, ChangeMembers, ClockTold, CreateNodeToken, FEATURE_LEVEL, Found,
    RaiseFeatureLevel, RemoveMember, SetClock,
};

use crate::model::{Authority, BundleAuthority, DownstreamCa, Entry, JoinToken, Selector};

/// Names one request for ever: a retry with the same id is applied once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Message)]
pub struct RequestId {
    /// Node that made it.
    #[prost(uint64, tag = "1")]
    pub node: u64,
    /// Start of that node in which it was made.
    #[prost(uint64, tag = "2")]
    pub boot: u64,
    /// Counter within that start.
    #[prost(uint64, tag = "3")]
    pub sequence: u64,
}

/// What is proposed: a command, who asked, and when by the leader's clock.
#[derive(Clone, PartialEq, Message)]
pub struct Proposal {
    /// Absent for what the leader proposes of itself and may safely repeat.
    #[prost(message, optional, tag = "1")]
    pub request: Option<RequestId>,
    /// Unix milliseconds, set by the leader.
    #[prost(int64, tag = "2")]
    pub time_ms: i64,
    /// Clocks of voters as the leader knew them, itself included; only with a step that is
    /// large. From feature level 1 on.
    #[prost(message, repeated, tag = "3")]
    pub clocks: Vec<ClockTold>,
    /// What to do. Absent in a proposal of a newer version: the node stops.
    #[prost(
        oneof = "Command",
        tags = "10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, \
                28, 29, 30, 31, 32, 33, 40, 41, 42, 43, 44, 45, 46, 47, 48, 50, 60, 61, \
                62, 63, 64, 65, 66, 70, 71, 75, 76, 77, 80, 81, 82, 85"
    )]
    pub command: Option<Command>,
}

/// Everything that can change the replicated state.
#[derive(Clone, PartialEq, Oneof)]
pub enum Command {
    /// Founds the cluster; the first command of every log.
    #[prost(message, tag = "10")]
    Found(Found),
    /// Admits a node as a learner.
    #[prost(message, tag = "11")]
    AdmitMember(AdmitMember),
    /// A member tells of its start.
    #[prost(message, tag = "12")]
    AnnounceMember(AnnounceMember),
    /// Creates entries, each on its own.
    #[prost(message, tag = "13")]
    CreateEntries(CreateEntries),
    /// Deletes entries, each on its own.
    #[prost(message, tag = "14")]
    DeleteEntries(DeleteEntries),
    /// Makes a join token known.
    #[prost(message, tag = "15")]
    CreateJoinToken(CreateJoinToken),
    /// Records an attestation; consumes the join token if there is one.
    #[prost(message, tag = "16")]
    AttestAgent(AttestAgent),
    /// Records a renewed SVID as pending.
    #[prost(message, tag = "17")]
    RenewAgent(RenewAgent),
    /// Makes pending SVIDs current.
    #[prost(message, tag = "18")]
    ActivateAgents(ActivateAgents),
    /// Bans an agent.
    #[prost(message, tag = "19")]
    BanAgent(AgentPath),
    /// Evicts an agent.
    #[prost(message, tag = "20")]
    DeleteAgent(AgentPath),
    /// Records what an agent said of itself.
    #[prost(message, tag = "21")]
    SetAgentVersion(SetAgentVersion),
    /// Announces a key before it is generated.
    #[prost(message, tag = "22")]
    BeginKey(BeginKey),
    /// Closes an intent without an authority.
    #[prost(message, tag = "23")]
    AbandonKey(AbandonKey),
    /// Records the authority of a generated and proved key.
    #[prost(message, tag = "24")]
    RecordAuthority(RecordAuthority),
    /// A member proved that it can sign with an authority.
    #[prost(message, tag = "25")]
    ProveAuthority(ProveAuthority),
    /// An authority starts to sign.
    #[prost(message, tag = "26")]
    ActivateAuthority(AuthorityName),
    /// A member serves a server SVID of this authority.
    #[prost(message, tag = "27")]
    RecordServerSvid(RecordServerSvid),
    /// What an authority signed is no longer to be used.
    #[prost(message, tag = "32")]
    TaintAuthority(AuthorityName),
    /// A tainted authority leaves the bundle.
    #[prost(message, tag = "33")]
    RevokeAuthority(AuthorityName),
    /// Records a CA certificate that was signed for a downstream server.
    #[prost(message, tag = "50")]
    RecordDownstreamCa(RecordDownstreamCa),
    /// Changes entries, each on its own.
    #[prost(message, tag = "28")]
    UpdateEntries(UpdateEntries),
    /// Deletes entries that have expired.
    #[prost(message, tag = "29")]
    PruneEntries(PruneEntries),
    /// Evicts agents whose SVID ended long ago.
    #[prost(message, tag = "30")]
    PruneAgents(PruneAgents),
    /// Deletes join tokens that nobody redeemed in time.
    #[prost(message, tag = "31")]
    PruneJoinTokens(PruneJoinTokens),
    /// Makes bundles of other trust domains known, each on its own.
    #[prost(message, tag = "40")]
    CreateFederatedBundles(FederatedBundles),
    /// Changes chosen parts of bundles of other trust domains, each on its own.
    #[prost(message, tag = "41")]
    UpdateFederatedBundles(UpdateFederatedBundles),
    /// Creates or replaces bundles of other trust domains, each on its own.
    #[prost(message, tag = "42")]
    SetFederatedBundles(FederatedBundles),
    /// Deletes bundles of other trust domains, each on its own.
    #[prost(message, tag = "43")]
    DeleteFederatedBundles(DeleteFederatedBundles),
    /// Makes federation relationships known, each on its own.
    #[prost(message, tag = "44")]
    CreateRelationships(Relationships),
    /// Changes chosen parts of federation relationships, each on its own.
    #[prost(message, tag = "45")]
    UpdateRelationships(UpdateRelationships),
    /// Deletes federation relationships, each on its own. Their bundles stay.
    #[prost(message, tag = "46")]
    DeleteRelationships(TrustDomains),
    /// Adds authorities to the own bundle, all or none.
    #[prost(message, tag = "47")]
    AppendBundle(AppendBundle),
    /// Takes appended authorities that ended out of the own bundle.
    #[prost(message, tag = "48")]
    PruneBundle(PruneBundle),
    /// Bans an agent that another server banned, known here or not.
    #[prost(message, tag = "60")]
    ImportBan(ImportBan),
    /// Makes a token known by which a node may join.
    #[prost(message, tag = "61")]
    CreateNodeToken(CreateNodeToken),
    /// Says what members are to be from now on, all or none.
    #[prost(message, tag = "62")]
    ChangeMembers(ChangeMembers),
    /// Forgets a member that is to leave and has no part in Raft's membership any more.
    #[prost(message, tag = "63")]
    RemoveMember(RemoveMember),
    /// Every member knows the commands of this level.
    #[prost(message, tag = "64")]
    RaiseFeatureLevel(RaiseFeatureLevel),
    /// Sets the cluster clock, back as well as forward. An administrator's way out of a time
    /// that a majority of wrong clocks brought about.
    #[prost(message, tag = "65")]
    SetClock(SetClock),
    /// Forgets authorities of this cluster that ended long ago; those that were in the own
    /// bundle leave it.
    #[prost(message, tag = "66")]
    PruneAuthorities(PruneAuthorities),
    /// This epoch takes over the keys of epochs that ended.
    #[prost(message, tag = "85")]
    AdoptKeys(AdoptKeys),
    /// A node is about to try its PIN on a token; others wait.
    #[prost(message, tag = "70")]
    ClaimLogin(ClaimLogin),
    /// What came of it.
    #[prost(message, tag = "71")]
    SettleLogin(SettleLogin),
    /// Says which key signs X.509-SVIDs from now on.
    #[prost(message, tag = "75")]
    SetIssuanceMode(SetIssuanceMode),
    /// Says whose the keys of authorities are to be.
    #[prost(message, tag = "76")]
    SetAuthorityScope(SetAuthorityScope),
    /// Ends the signing of authorities outside of the scope: others have taken over.
    #[prost(message, tag = "77")]
    RetireAuthorities(RetireAuthorities),
    /// Notes who holds documents of an authority, before they are handed out.
    #[prost(message, tag = "80")]
    NoteHolders(NoteHolders),
    /// Tells the nodes that handed older documents out of newer ones.
    #[prost(message, tag = "81")]
    TellRenewals(TellRenewals),
    /// Forgets holders whose documents have ended.
    #[prost(message, tag = "82")]
    PruneHolders(PruneHolders),
}

/// See [`Command::CreateEntries`].
#[derive(Clone, PartialEq, Message)]
pub struct CreateEntries {
    /// Without sequence, revision and creation time.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<Entry>,
}

/// See [`Command::DeleteEntries`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DeleteEntries {
    /// Entry ids.
    #[prost(string, repeated, tag = "1")]
    pub ids: Vec<String>,
}

/// See [`Command::CreateJoinToken`].
#[derive(Clone, PartialEq, Message)]
pub struct CreateJoinToken {
    /// What is stored of it. `expires_at` is set by `apply` from `ttl`.
    #[prost(message, optional, tag = "1")]
    pub token: Option<JoinToken>,
    /// Seconds from the cluster clock, at least 1.
    #[prost(int32, tag = "2")]
    pub ttl: i32,
    /// Entry that gives the agent a second name.
    #[prost(message, optional, tag = "3")]
    pub alias: Option<Entry>,
    /// A similar entry that is there already serves as the alias.
    #[prost(bool, tag = "4")]
    pub similar_alias_serves: bool,
}

/// See [`Command::AttestAgent`].
#[derive(Clone, PartialEq, Message)]
pub struct AttestAgent {
    /// Path of the agent's SPIFFE ID.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Name of the attestor.
    #[prost(string, tag = "2")]
    pub attestation_type: String,
    /// What attestation found.
    #[prost(message, repeated, tag = "3")]
    pub selectors: Vec<Selector>,
    /// Decimal serial of the SVID that was signed.
    #[prost(string, tag = "4")]
    pub serial: String,
    /// Unix seconds.
    #[prost(int64, tag = "5")]
    pub expires_at: i64,
    /// May attest again.
    #[prost(bool, tag = "6")]
    pub can_reattest: bool,
    /// SHA-256 of the join token to consume; empty for other attestors.
    #[prost(bytes = "vec", tag = "7")]
    pub token_sha256: Vec<u8>,
}

/// See [`Command::RenewAgent`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RenewAgent {
    /// Path of the agent's SPIFFE ID.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Decimal serial of the SVID that was signed.
    #[prost(string, tag = "2")]
    pub serial: String,
    /// Unix seconds.
    #[prost(int64, tag = "3")]
    pub expires_at: i64,
}

/// One SVID that was used for the first time.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Message)]
pub struct Activation {
    /// Path of the agent's SPIFFE ID.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Decimal serial.
    #[prost(string, tag = "2")]
    pub serial: String,
}

/// See [`Command::ActivateAgents`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ActivateAgents {
    /// What a node saw within a tenth of a second.
    #[prost(message, repeated, tag = "1")]
    pub activations: Vec<Activation>,
}

/// Names an agent.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AgentPath {
    /// Path of the agent's SPIFFE ID.
    #[prost(string, tag = "1")]
    pub path: String,
}

/// See [`Command::SetAgentVersion`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SetAgentVersion {
    /// Path of the agent's SPIFFE ID.
    #[prost(string, tag = "1")]
    pub path: String,
    /// At most 255 characters.
    #[prost(string, tag = "2")]
    pub version: String,
}

/// See [`Command::BeginKey`]: compare-and-set on (slot, epoch).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BeginKey {
    /// Slot to fill.
    #[prost(string, tag = "1")]
    pub slot: String,
    /// Epoch the proposer saw plus one; anything else is refused.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Node that will generate.
    #[prost(uint64, tag = "3")]
    pub node_id: u64,
    /// 16 random bytes.
    #[prost(bytes = "vec", tag = "4")]
    pub key_id: Vec<u8>,
    /// `chancery/<cluster id>/<slot>/<epoch>`.
    #[prost(string, tag = "5")]
    pub key_label: String,
}

/// See [`Command::AbandonKey`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AbandonKey {
    /// Slot.
    #[prost(string, tag = "1")]
    pub slot: String,
    /// Epoch of the intent.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
}

/// See [`Command::RecordAuthority`].
#[derive(Clone, PartialEq, Message)]
pub struct RecordAuthority {
    /// Without sequence and status; slot, epoch and key id must be the intent's.
    #[prost(message, optional, tag = "1")]
    pub authority: Option<Authority>,
}

/// See [`Command::ProveAuthority`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ProveAuthority {
    /// What is proved.
    #[prost(message, optional, tag = "1")]
    pub authority: Option<AuthorityName>,
    /// Who proved it.
    #[prost(uint64, tag = "2")]
    pub node_id: u64,
    /// The authority certified an intermediate that the node holds: what counts as a proof of
    /// one that signs certificates, where the mode is `intermediate`.
    #[prost(bool, tag = "3")]
    pub with_intermediate: bool,
}

/// Names an authority.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Message)]
pub struct AuthorityName {
    /// `AuthorityKind`.
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// Authority id.
    #[prost(string, tag = "2")]
    pub id: String,
}

/// See [`Command::RecordServerSvid`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RecordServerSvid {
    /// Who serves it.
    #[prost(uint64, tag = "1")]
    pub node_id: u64,
    /// Issuing authority.
    #[prost(string, tag = "2")]
    pub authority_id: String,
}

/// See [`Command::RecordDownstreamCa`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RecordDownstreamCa {
    /// What was signed. Its entry must still make its caller a downstream server, and
    /// its authority be one that is not tainted.
    #[prost(message, optional, tag = "1")]
    pub ca: Option<DownstreamCa>,
}

/// See [`Command::ImportBan`].
#[derive(Clone, PartialEq, Message)]
pub struct ImportBan {
    /// Path of the agent's SPIFFE ID.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Name of the attestor.
    #[prost(string, tag = "2")]
    pub attestation_type: String,
    /// What attestation found there.
    #[prost(message, repeated, tag = "3")]
    pub selectors: Vec<Selector>,
    /// May attest again, were it not banned.
    #[prost(bool, tag = "4")]
    pub can_reattest: bool,
    /// Unix seconds at which its last SVID ended.
    #[prost(int64, tag = "5")]
    pub expires_at: i64,
}

/// Why a command changed nothing. Replicated, so every node says the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum Refusal {
    /// Not refused.
    None = 0,
    /// A record of that name, or a similar entry, is there already.
    AlreadyExists = 1,
    /// No record of that name.
    NotFound = 2,
    /// The join token is unknown or used.
    TokenUnknown = 3,
    /// The join token was there and has expired; it is gone now.
    TokenExpired = 4,
    /// The agent is banned.
    AgentBanned = 5,
    /// The agent must attest again and may not renew.
    AgentMustReattest = 6,
    /// The compare-and-set lost: the state is no longer what the proposer saw.
    Conflict = 7,
    /// A retry too old to be remembered: whether it was applied is unknown.
    OutcomeUnknown = 8,
    /// The command does not make sense; a mistake of the proposing node.
    Malformed = 9,
    /// The authority signs, or is prepared to: only an old one can be tainted or revoked.
    AuthorityInUse = 20,
    /// The authority is tainted already.
    AlreadyTainted = 21,
    /// The authority has to be tainted first.
    NotTainted = 22,
    /// An entry for SVID stores would have selectors of several types.
    EntryMixedSelectors = 28,
    /// The entry would be larger than [`Entry::BYTES_MAX`].
    EntryTooLarge = 29,
    /// Entries federate with the bundle that is to be deleted.
    FederatedWith = 40,
    /// An entry federates with a trust domain whose bundle is not there.
    NoFederatedBundle = 41,
    /// The own bundle has as many foreign authorities as it may have.
    BundleFull = 42,
    /// Pruning would leave the own bundle without a root, or without a JWT key.
    LastAuthority = 43,
    /// A downstream server, or all of them together, published as much as they may.
    PublishedTooMuch = 44,
    /// The cluster would have an even number of voters.
    EvenVoters = 61,
    /// The cluster would have no voter, or more than it may have.
    VoterCount = 62,
    /// Time would step forward by more than an hour without a majority of clocks that say so.
    ClockStep = 63,
    /// The token refused a PIN: an administrator has to order the next try.
    LoginRefused = 70,
    /// Another login on the token is under way.
    LoginUnderWay = 71,
    /// Logins on as many tokens as may be are under way or were refused.
    TooManyTokens = 72,
}

/// Result of one item of a batch.
#[derive(Clone, PartialEq, Message)]
pub struct EntryResult {
    /// Why not, if not.
    #[prost(enumeration = "Refusal", tag = "1")]
    pub refusal: i32,
    /// The entry as it is now; the existing one when a similar one was there. Of an entry
    /// that is gone only its id and paths.
    #[prost(message, optional, tag = "2")]
    pub entry: Option<Entry>,
    /// Id of the entry, where the entry itself was left out because the outcome holds
    /// [`Outcome::ENTRIES_BYTES_MAX`] of them already.
    #[prost(string, tag = "3")]
    pub entry_id: String,
    /// With [`Refusal::NoFederatedBundle`]: name of the trust domain.
    #[prost(string, tag = "40")]
    pub unknown_bundle: String,
}

/// What `apply` answers: the same on every node.
#[derive(Clone, PartialEq, Message)]
pub struct Outcome {
    /// Why nothing was changed, if so.
    #[prost(enumeration = "Refusal", tag = "1")]
    pub refusal: i32,
    /// Positional results of a batch; of a pruning of agents the entries that went with
    /// them, as many as fit.
    #[prost(message, repeated, tag = "2")]
    pub entries: Vec<EntryResult>,
    /// A node id that was given out.
    #[prost(uint64, tag = "3")]
    pub node_id: u64,
    /// Expiry of a join token in Unix seconds.
    #[prost(int64, tag = "4")]
    pub expires_at: i64,
    /// Records that a pruning took away, entries that went with an agent aside.
    #[prost(uint64, tag = "28")]
    pub removed: u64,
    /// Positional results of a batch of federated bundles.
    #[prost(message, repeated, tag = "40")]
    pub federated_bundles: Vec<FederatedBundleResult>,
    /// Positional results of a batch of federation relationships.
    #[prost(message, repeated, tag = "41")]
    pub relationships: Vec<RelationshipResult>,
    /// What was pruned, without DER and publisher.
    #[prost(message, repeated, tag = "42")]
    pub pruned: Vec<BundleAuthority>,
    /// Positional results of a batch of noted holders: `Refusal`. What is refused must not be
    /// handed out.
    #[prost(enumeration = "Refusal", repeated, tag = "80")]
    pub holders: Vec<i32>,
}

impl Outcome {
    /// Bytes of entries that an outcome holds at most: it is remembered, sent between
    /// nodes and part of snapshots, and a batch of few bytes may be about many large
    /// entries. A batch of the size that services propose always has its new entries
    /// within it.
    pub const ENTRIES_BYTES_MAX: usize = 1 << 20;

    /// An outcome that says only why nothing was changed.
    pub fn refused(refusal: Refusal) -> Self {
        Self {
            refusal: refusal.into(),
            ..Self::default()
        }
    }

    /// `Ok` unless the whole command was refused.
    pub fn accepted(self) -> Result<Self, Refusal> {
        match self.refusal() {
            Refusal::None => Ok(self),
            refusal => Err(refusal),
        }
    }
}

impl Proposal {
    /// A proposal whose time the leader still has to set.
    pub fn new(request: Option<RequestId>, command: Command) -> Self {
        Self {
            request,
            time_ms: 0,
            clocks: Vec::new(),
            command: Some(command),
        }
    }
}

impl Command {
    /// Short name for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Found(_) => "found",
            Self::AdmitMember(_) => "admit_member",
            Self::AnnounceMember(_) => "announce_member",
            Self::CreateEntries(_) => "create_entries",
            Self::DeleteEntries(_) => "delete_entries",
            Self::CreateJoinToken(_) => "create_join_token",
            Self::AttestAgent(_) => "attest_agent",
            Self::RenewAgent(_) => "renew_agent",
            Self::ActivateAgents(_) => "activate_agents",
            Self::BanAgent(_) => "ban_agent",
            Self::DeleteAgent(_) => "delete_agent",
            Self::SetAgentVersion(_) => "set_agent_version",
            Self::BeginKey(_) => "begin_key",
            Self::AbandonKey(_) => "abandon_key",
            Self::RecordAuthority(_) => "record_authority",
            Self::ProveAuthority(_) => "prove_authority",
            Self::ActivateAuthority(_) => "activate_authority",
            Self::RecordServerSvid(_) => "record_server_svid",
            Self::TaintAuthority(_) => "taint_authority",
            Self::RevokeAuthority(_) => "revoke_authority",
            Self::RecordDownstreamCa(_) => "record_downstream_ca",
            Self::UpdateEntries(_) => "update_entries",
            Self::PruneEntries(_) => "prune_entries",
            Self::PruneAgents(_) => "prune_agents",
            Self::PruneJoinTokens(_) => "prune_join_tokens",
            Self::CreateFederatedBundles(_) => "create_federated_bundles",
            Self::UpdateFederatedBundles(_) => "update_federated_bundles",
            Self::SetFederatedBundles(_) => "set_federated_bundles",
            Self::DeleteFederatedBundles(_) => "delete_federated_bundles",
            Self::CreateRelationships(_) => "create_relationships",
            Self::UpdateRelationships(_) => "update_relationships",
            Self::DeleteRelationships(_) => "delete_relationships",
            Self::AppendBundle(_) => "append_bundle",
            Self::PruneBundle(_) => "prune_bundle",
            Self::ImportBan(_) => "import_ban",
            Self::CreateNodeToken(_) => "create_node_token",
            Self::ChangeMembers(_) => "change_members",
            Self::RemoveMember(_) => "remove_member",
            Self::RaiseFeatureLevel(_) => "raise_feature_level",
            Self::SetClock(_) => "set_clock",
            Self::PruneAuthorities(_) => "prune_authorities",
            Self::AdoptKeys(_) => "adopt_keys",
            Self::ClaimLogin(_) => "claim_login",
            Self::SettleLogin(_) => "settle_login",
            Self::SetIssuanceMode(_) => "set_issuance_mode",
            Self::SetAuthorityScope(_) => "set_authority_scope",
            Self::RetireAuthorities(_) => "retire_authorities",
            Self::NoteHolders(_) => "note_holders",
            Self::TellRenewals(_) => "tell_renewals",
            Self::PruneHolders(_) => "prune_holders",
        }
    }

    /// Whether a node that starts cannot sign without it: small, rare, and written also where
    /// room on the disk is short for others.
    pub fn is_vital(&self) -> bool {
        matches!(self, Self::ClaimLogin(_) | Self::SettleLogin(_))
    }

    /// Feature level that the cluster must have reached before the command may be
    /// proposed: a member of an older version would stop at it.
    pub fn feature_level(&self) -> u32 {
        match self {
            Self::CreateNodeToken(_)
            | Self::ChangeMembers(_)
            | Self::RemoveMember(_)
            | Self::SetClock(_) => 1,
            Self::PruneAuthorities(_) => PruneAuthorities::FEATURE_LEVEL,
            Self::AdoptKeys(_) => AdoptKeys::FEATURE_LEVEL,
            Self::ClaimLogin(_) | Self::SettleLogin(_) => ClaimLogin::FEATURE_LEVEL,
            Self::SetIssuanceMode(_) => 3,
            Self::SetAuthorityScope(_) | Self::RetireAuthorities(_) => {
                SetAuthorityScope::FEATURE_LEVEL
            }
            Self::NoteHolders(_) | Self::TellRenewals(_) | Self::PruneHolders(_) => {
                NoteHolders::FEATURE_LEVEL
            }
            // Proposed only when every member has told that it knows the level.
            _ => 0,
        }
    }
}

/// Names the command only: its fields may hold selectors.
impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.command.as_ref().map_or("unknown", Command::name))
    }
}
