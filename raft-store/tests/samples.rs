//! What was ever written decodes for ever: every sample in `tests/samples` was
//! encoded by the version that introduced it and is never changed. A new format
//! or command adds a sample (run this test once with `CHANCERY_BLESS=1`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::fs;
use std::path::PathBuf;

use chancery_raft_store::command::{
    AbandonKey, ActivateAgents, Activation, AdmitMember, AdoptKeys, AgentPath, AnnounceMember,
    AppendBundle, AttestAgent, AuthorityName, BeginKey, BundleFields, ChangeMembers, ClaimLogin,
    ClockTold, CreateEntries, CreateJoinToken, CreateNodeToken, DeleteEntries,
    DeleteFederatedBundles, DeleteMode, EntryFields, EntryResult, EntryUpdate,
    FederatedBundleResult, FederatedBundles, Found, HolderNote, ImportBan, LoginEnd, NoteHolders,
    ProveAuthority, PruneAgents, PruneAuthorities, PruneBundle, PruneEntries, PruneHolders,
    PruneJoinTokens, RaiseFeatureLevel, RecordAuthority, RecordDownstreamCa, RecordServerSvid,
    RelationshipDraft, RelationshipFields, RelationshipResult, Relationships, RemoveMember,
    RenewAgent, Renewal, RetireAuthorities, SetAgentVersion, SetAuthorityScope, SetClock,
    SetIssuanceMode, SettleLogin, TellRenewals, TrustDomains, UpdateEntries,
    UpdateFederatedBundles, UpdateRelationships,
};
use chancery_raft_store::identity_record::{IdentityRecord, Pin};
use chancery_raft_store::model::{
    Agent, Authority, AuthorityKind, AuthorityScope, AuthorityStatus, BundleAuthority,
    BundleCertificate, BundleJwtKey, Cluster, DownstreamCa, EndpointProfile, Entry, EpochEnd,
    FederatedBundle, FederationRelationship, Holder, IssuanceMode, JoinToken, KeyIntent,
    LoginAttempt, LoginRefused, Member, MemberRole, NodeToken, PastEpoch, PendingSvid,
    RequestMemory, Selector, TokenLogin,
};
use chancery_raft_store::snapshot::{self, Encoder, Header, Origin};
use chancery_raft_store::types::{LogEntry, StoredMembership, Vote};
use chancery_raft_store::view::Table;
use chancery_raft_store::{Command, Outcome, Proposal, Refusal, RequestId, codec};
use openraft::{EntryPayload, Membership};
use prost::Message;

use crate::support::{admission, blank, log_id, members, membership, normal};

type Check = Box<dyn Fn(&[u8])>;

/// Bytes of today, and whether stored bytes decode to the value of today.
struct Sample {
    bytes: Vec<u8>,
    check: Check,
}

fn sample<T: PartialEq + Debug + 'static>(
    value: T,
    encode: impl Fn(&T) -> Vec<u8>,
    decode: impl Fn(&[u8]) -> T + 'static,
) -> Sample {
    Sample {
        bytes: encode(&value),
        check: Box::new(move |bytes| assert_eq!(decode(bytes), value)),
    }
}

fn message<M: Message + Default + PartialEq + Debug + 'static>(value: M) -> Sample {
    sample(value, M::encode_to_vec, |bytes| M::decode(bytes).unwrap())
}

fn entry() -> Entry {
    Entry {
        id: "6f1b6f5e-6a0f-4b58-9a1c-3c8a52d6b111".into(),
        sequence: 42,
        spiffe_path: "/ns/web/sa/front".into(),
        parent_path: "/spire/agent/k8s_psat/c1/n1".into(),
        selectors: vec![selector("k8s", "ns:web"), selector("k8s", "sa:front")],
        x509_svid_ttl: 3600,
        jwt_svid_ttl: 300,
        federates_with: vec!["other.example".into()],
        admin: true,
        downstream: true,
        expires_at: 1_900_000_000,
        dns_names: vec!["front.web".into()],
        revision_number: 7,
        store_svid: true,
        hint: "internal".into(),
        created_at: 1_800_000_000,
        disable_x509_svid_prefetch: true,
        jwt_svid_include_jti: true,
    }
}

fn selector(kind: &str, value: &str) -> Selector {
    Selector {
        kind: kind.into(),
        value: value.into(),
    }
}

fn authority() -> Authority {
    Authority {
        id: "0a1b2c".into(),
        kind: AuthorityKind::X509.into(),
        sequence: 9,
        status: AuthorityStatus::Old.into(),
        slot: "x509/node-3".into(),
        epoch: 4,
        key_id: vec![5; 16],
        key_label: "chancery/c/x509/4".into(),
        key_type: "ec-p256".into(),
        backend: "pkcs11".into(),
        token_serials: vec!["T1".into(), "T2".into()],
        node_id: 3,
        certificate: vec![0x30, 1],
        public_key: vec![0x30, 2],
        issued_at: 1_800_000_000,
        expires_at: 1_831_536_000,
        tainted: true,
        proved_by: vec![1, 3],
    }
}

fn authority_name() -> AuthorityName {
    AuthorityName {
        kind: AuthorityKind::Jwt.into(),
        id: "kid-1".into(),
    }
}

fn downstream_ca() -> DownstreamCa {
    DownstreamCa {
        caller_path: "/nested".into(),
        entry_id: "6f1b6f5e-6a0f-4b58-9a1c-3c8a52d6b111".into(),
        authority_id: "0a1b2c".into(),
        serial: "123456789012345678901234567890".into(),
        subject_key_id: "d4e5f6".into(),
        issued_at: 1_800_000_000,
        expires_at: 1_800_086_400,
    }
}

fn agent_path() -> AgentPath {
    AgentPath {
        path: "/spire/agent/x509pop/a".into(),
    }
}

fn joining() -> [Command; 4] {
    [
        Command::Found(Found {
            cluster_id: "c".into(),
            trust_domain: "example.org".into(),
            founder: Some(admission(1)),
            founding_peers: vec!["a:1".into(), "b:1".into()],
            // Younger than the sample.
            feature_level: 0,
            issuance_mode: 0,
            authority_scope: 0,
        }),
        Command::AdmitMember(admission(2)),
        Command::AnnounceMember(AnnounceMember {
            node_id: 2,
            api_address: "b:8081".into(),
            version: "0.1.0".into(),
            boot: 3,
        }),
        Command::RecordServerSvid(RecordServerSvid {
            node_id: 2,
            authority_id: "0a1b2c".into(),
        }),
    ]
}

fn node_token() -> NodeToken {
    NodeToken {
        sha256: vec![3; 32],
        expires_at: 1_800_003_600,
        auto_promote: true,
        replaces: 2,
    }
}

fn changing_members() -> [Command; 5] {
    [
        Command::CreateNodeToken(CreateNodeToken {
            token: Some(node_token()),
            ttl: 3600,
        }),
        Command::ChangeMembers(ChangeMembers {
            promote: vec![4, 5],
            demote: vec![1],
            remove: vec![2, 3],
            allow_even: true,
        }),
        Command::RemoveMember(RemoveMember { node_id: 2 }),
        Command::RaiseFeatureLevel(RaiseFeatureLevel { level: 1 }),
        Command::SetClock(SetClock {
            clock_ms: 1_800_000_000_000,
        }),
    ]
}

fn registering() -> [Command; 10] {
    let path = agent_path().path;
    [
        Command::CreateEntries(CreateEntries {
            entries: vec![entry(), Entry::default()],
        }),
        Command::DeleteEntries(DeleteEntries {
            ids: vec!["a".into(), "b".into()],
        }),
        Command::CreateJoinToken(CreateJoinToken {
            token: Some(JoinToken {
                sha256: vec![1; 32],
                expires_at: 0,
            }),
            ttl: 600,
            alias: Some(entry()),
            // Younger than the sample, like `pruned` of the outcome.
            similar_alias_serves: false,
        }),
        Command::AttestAgent(AttestAgent {
            path: path.clone(),
            attestation_type: "x509pop".into(),
            selectors: vec![selector("x509pop", "subject:cn:a")],
            serial: "123456789012345678901234567890".into(),
            expires_at: 1_800_003_600,
            can_reattest: true,
            token_sha256: vec![1; 32],
        }),
        Command::RenewAgent(RenewAgent {
            path: path.clone(),
            serial: "2".into(),
            expires_at: 1_800_007_200,
        }),
        Command::ActivateAgents(ActivateAgents {
            activations: vec![Activation {
                path: path.clone(),
                serial: "2".into(),
            }],
        }),
        Command::BanAgent(agent_path()),
        Command::DeleteAgent(agent_path()),
        Command::ImportBan(ImportBan {
            path: path.clone(),
            attestation_type: "x509pop".into(),
            selectors: vec![selector("x509pop", "subject:cn:a")],
            can_reattest: true,
            expires_at: 1_800_003_600,
        }),
        Command::SetAgentVersion(SetAgentVersion {
            path,
            version: "1.14.0".into(),
        }),
    ]
}

fn keeping_house() -> [Command; 5] {
    [
        Command::UpdateEntries(UpdateEntries {
            updates: vec![
                EntryUpdate {
                    id: entry().id,
                    values: Some(entry()),
                    fields: Some(EntryFields::ALL),
                },
                EntryUpdate::default(),
            ],
        }),
        Command::PruneEntries(PruneEntries {
            ids: vec!["a".into(), "b".into()],
        }),
        Command::PruneAgents(PruneAgents {
            paths: vec![agent_path().path],
            expired_for: 86_400,
            include_non_reattestable: true,
        }),
        Command::PruneJoinTokens(PruneJoinTokens {
            sha256: vec![vec![1; 32]],
            expired_for: 3_600,
        }),
        Command::PruneAuthorities(PruneAuthorities {
            authorities: vec![authority_name()],
        }),
    ]
}

fn making_keys() -> [Command; 12] {
    [
        Command::AdoptKeys(AdoptKeys {
            cluster_ids: vec!["b".into()],
        }),
        Command::SetIssuanceMode(SetIssuanceMode {
            mode: IssuanceMode::Intermediate.into(),
        }),
        Command::SetAuthorityScope(SetAuthorityScope {
            scope: AuthorityScope::PerNode.into(),
        }),
        Command::RetireAuthorities(RetireAuthorities {
            kind: AuthorityKind::X509.into(),
            ids: vec!["0a1b2c".into()],
        }),
        Command::BeginKey(BeginKey {
            slot: "jwt".into(),
            epoch: 2,
            node_id: 1,
            key_id: vec![7; 16],
            key_label: "chancery/c/jwt/2".into(),
        }),
        Command::AbandonKey(AbandonKey {
            slot: "jwt".into(),
            epoch: 2,
        }),
        Command::RecordAuthority(RecordAuthority {
            authority: Some(authority()),
        }),
        Command::ProveAuthority(ProveAuthority {
            authority: Some(authority_name()),
            node_id: 2,
            with_intermediate: false,
        }),
        Command::ActivateAuthority(authority_name()),
        Command::TaintAuthority(authority_name()),
        Command::RevokeAuthority(authority_name()),
        Command::RecordDownstreamCa(RecordDownstreamCa {
            ca: Some(downstream_ca()),
        }),
    ]
}

fn logging_in() -> [Command; 2] {
    [
        Command::ClaimLogin(ClaimLogin {
            serial: "5b1d6e0a2f3c4d7e".into(),
            node_id: 2,
            boot: 3,
            sequence: 4,
            ordered: true,
        }),
        Command::SettleLogin(SettleLogin {
            serial: "5b1d6e0a2f3c4d7e".into(),
            node_id: 2,
            boot: 3,
            sequence: 4,
            end: LoginEnd::Refused.into(),
            why: "CKR_PIN_INCORRECT".into(),
        }),
    ]
}

fn token_login() -> TokenLogin {
    TokenLogin {
        serial: "5b1d6e0a2f3c4d7e".into(),
        attempt: Some(LoginAttempt {
            node_id: 2,
            boot: 3,
            sequence: 4,
            begun_at: 1_800_000_000,
        }),
        refusal: Some(LoginRefused {
            node_id: 1,
            why: "CKR_PIN_INCORRECT".into(),
            at: 1_799_999_000,
        }),
    }
}

fn federated_bundle() -> FederatedBundle {
    FederatedBundle {
        trust_domain: "other.example".into(),
        sequence: 12,
        x509_authorities: vec![BundleCertificate {
            certificate: vec![0x30, 3],
        }],
        jwt_authorities: vec![BundleJwtKey {
            public_key: vec![0x30, 4],
            key_id: "kid-2".into(),
            expires_at: 1_900_000_000,
        }],
        refresh_hint: 300,
        sequence_number: 7,
    }
}

fn relationship() -> FederationRelationship {
    FederationRelationship {
        trust_domain: "other.example".into(),
        sequence: 13,
        endpoint_url: "https://bundle.other.example:8443/".into(),
        profile: EndpointProfile::HttpsSpiffe.into(),
        endpoint_spiffe_id: "spiffe://other.example/bundle".into(),
    }
}

fn bundle_authority() -> BundleAuthority {
    BundleAuthority {
        kind: AuthorityKind::Jwt.into(),
        id: "kid-3".into(),
        sequence: 14,
        der: vec![0x30, 5],
        expires_at: 1_850_000_000,
        tainted: true,
        // Younger than the samples that it stands in.
        publisher: String::new(),
    }
}

fn federating() -> [Command; 9] {
    let bundles = || vec![federated_bundle()];
    let drafts = || {
        vec![RelationshipDraft {
            relationship: Some(relationship()),
            bundle: Some(federated_bundle()),
        }]
    };
    [
        Command::CreateFederatedBundles(FederatedBundles { bundles: bundles() }),
        Command::UpdateFederatedBundles(UpdateFederatedBundles {
            bundles: bundles(),
            fields: Some(BundleFields {
                x509_authorities: true,
                jwt_authorities: true,
                refresh_hint: true,
                sequence_number: true,
            }),
        }),
        Command::SetFederatedBundles(FederatedBundles { bundles: bundles() }),
        Command::DeleteFederatedBundles(DeleteFederatedBundles {
            trust_domains: vec!["other.example".into()],
            mode: DeleteMode::Dissociate.into(),
        }),
        Command::CreateRelationships(Relationships { drafts: drafts() }),
        Command::UpdateRelationships(UpdateRelationships {
            drafts: drafts(),
            fields: Some(RelationshipFields {
                endpoint_url: true,
                profile: true,
                bundle: true,
            }),
        }),
        Command::DeleteRelationships(TrustDomains {
            names: vec!["other.example".into()],
        }),
        Command::AppendBundle(AppendBundle {
            authorities: vec![bundle_authority()],
        }),
        Command::PruneBundle(PruneBundle {
            expires_before: 1_799_913_600,
        }),
    ]
}

fn holding() -> [Command; 3] {
    let authority = || AuthorityName {
        kind: AuthorityKind::X509.into(),
        id: "0a1b2c".into(),
    };
    [
        Command::NoteHolders(NoteHolders {
            node_id: 2,
            boot: 3,
            number: 17,
            notes: vec![
                HolderNote {
                    authority: Some(authority()),
                    path: agent_path().path,
                    until: 1_800_003_600,
                },
                HolderNote {
                    authority: Some(authority_name()),
                    path: String::new(),
                    until: 0,
                },
            ],
        }),
        Command::TellRenewals(TellRenewals {
            node_id: 2,
            renewals: vec![Renewal {
                authority: Some(authority()),
                path: agent_path().path,
                item: 0x0102_0304_0506_0708,
                asked_at: 1_800_000_000,
            }],
        }),
        Command::PruneHolders(PruneHolders {
            keys: vec![vec![1, b'a', 0]],
        }),
    ]
}

fn proposal(command: Command) -> Proposal {
    let request = Some(RequestId {
        node: 2,
        boot: 3,
        sequence: 4,
    });
    Proposal {
        request,
        time_ms: 1_800_000_000_123,
        clocks: Vec::new(),
        command: Some(command),
    }
}

fn commands() -> Vec<(String, Sample)> {
    let all = joining()
        .into_iter()
        .chain(changing_members())
        .chain(registering())
        .chain(keeping_house())
        .chain(making_keys())
        .chain(logging_in())
        .chain(federating())
        .chain(holding());
    all.map(|command| {
        let name = format!("command-{}", command.name());
        let encode = |p: &Proposal| codec::encode_proposal(p);
        (
            name,
            sample(proposal(command), encode, |bytes| {
                codec::decode_proposal(bytes).unwrap()
            }),
        )
    })
    .collect()
}

fn raft() -> Vec<(String, Sample)> {
    let log_entry = |entry: LogEntry| {
        sample(entry, codec::encode_log_entry, |bytes| {
            codec::decode_log_entry(bytes).unwrap()
        })
    };
    let stored = |membership: StoredMembership| {
        sample(membership, codec::encode_membership, |bytes| {
            codec::decode_membership(bytes).unwrap()
        })
    };
    let nodes = members(&[1, 2, 3, 4])
        .nodes()
        .map(|(id, node)| (*id, node.clone()))
        .collect::<BTreeMap<_, _>>();
    let joint = vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([1, 2, 4])];
    let joint = Membership::new(joint, nodes).unwrap();
    let voted = Vote {
        committed: true,
        ..crate::support::vote(7, 3)
    };
    [
        (
            "log-id",
            sample(log_id(5, 1234), codec::encode_log_id, |b| {
                codec::decode_log_id(b).unwrap()
            }),
        ),
        (
            "log-id-first",
            sample(log_id(0, 0), codec::encode_log_id, |b| {
                codec::decode_log_id(b).unwrap()
            }),
        ),
        (
            "vote",
            sample(voted, codec::encode_vote, |b| {
                codec::decode_vote(b).unwrap()
            }),
        ),
        (
            "membership",
            stored(StoredMembership::new(
                Some(log_id(2, 9)),
                members(&[1, 2, 3]),
            )),
        ),
        (
            "membership-joint",
            stored(StoredMembership::new(Some(log_id(2, 10)), joint.clone())),
        ),
        ("membership-none", stored(StoredMembership::default())),
        ("log-entry-blank", log_entry(blank(3, 17))),
        (
            "log-entry-membership",
            log_entry(membership(3, 18, &[1, 2, 3])),
        ),
        (
            "log-entry-membership-joint",
            log_entry(LogEntry {
                log_id: log_id(3, 19),
                payload: EntryPayload::Membership(joint),
            }),
        ),
        (
            "log-entry-proposal",
            log_entry(normal(3, 20, proposal(Command::BanAgent(agent_path())))),
        ),
    ]
    .map(|(name, sample)| (name.to_owned(), sample))
    .into()
}

fn records() -> Vec<(String, Sample)> {
    let agent = Agent {
        path: agent_path().path,
        sequence: 3,
        attestation_type: "x509pop".into(),
        selectors: vec![selector("x509pop", "subject:cn:a")],
        serial: "1".into(),
        expires_at: 1_800_003_600,
        pending: vec![PendingSvid {
            serial: "2".into(),
            expires_at: 1_800_007_200,
        }],
        can_reattest: true,
        agent_version: "1.14.0".into(),
    };
    let member = Member {
        node_id: 2,
        peer_address: "b:8443".into(),
        api_address: "b:8081".into(),
        spki_sha256: vec![2; 32],
        version: "0.1.0".into(),
        boot: 3,
        server_svid_issuer: "0a1b2c".into(),
        ..Member::default()
    };
    let member_to_be = Member {
        wanted: MemberRole::Learner.into(),
        auto_promote: true,
        replaces: 1,
        ..member.clone()
    };
    let cluster = Cluster {
        id: "c".into(),
        trust_domain: "example.org".into(),
        last_node_id: 3,
        last_sequence: 44,
        bundle_sequence: 5,
        clock_ms: 1_800_000_000_123,
        founding_peers: vec!["a:1".into()],
        feature_level: 0,
        past_epochs: Vec::new(),
        revision_floor: 0,
        issuance_mode: 0,
        authority_scope: 0,
        ledger_from: 0,
        holder_rows: 0,
    };
    let cluster_of_level_1 = Cluster {
        feature_level: 1,
        ..cluster.clone()
    };
    let intent = KeyIntent {
        slot: "jwt".into(),
        epoch: 2,
        node_id: 1,
        key_id: vec![7; 16],
        key_label: "chancery/c/jwt/2".into(),
        recorded_at: 1_800_000_000,
    };
    let outcome = Outcome {
        refusal: Refusal::AgentBanned.into(),
        entries: vec![EntryResult {
            refusal: Refusal::AlreadyExists.into(),
            entry: Some(entry()),
            ..EntryResult::default()
        }],
        node_id: 4,
        expires_at: 1_800_000_600,
        ..Outcome::default()
    };
    let pruning = Outcome {
        removed: 3,
        ..Outcome::default()
    };
    let of_federation = Outcome {
        entries: vec![EntryResult {
            refusal: Refusal::NoFederatedBundle.into(),
            unknown_bundle: "other.example".into(),
            ..EntryResult::default()
        }],
        federated_bundles: vec![FederatedBundleResult {
            refusal: Refusal::FederatedWith.into(),
            entries: 2,
            more: false,
        }],
        relationships: vec![RelationshipResult {
            refusal: Refusal::LastAuthority.into(),
        }],
        pruned: vec![bundle_authority()],
        ..Outcome::refused(Refusal::BundleFull)
    };
    let bounded = Outcome {
        entries: vec![EntryResult {
            entry_id: entry().id,
            ..EntryResult::default()
        }],
        federated_bundles: vec![FederatedBundleResult {
            entries: 1000,
            more: true,
            ..FederatedBundleResult::default()
        }],
        ..Outcome::refused(Refusal::PublishedTooMuch)
    };
    let restored = Cluster {
        past_epochs: vec![PastEpoch {
            cluster_id: "b".into(),
            log_index: 1234,
            state_at_ms: 1_799_999_000_000,
            end: EpochEnd::Recovered.into(),
            ended_at_ms: 1_799_999_900_000,
            ended_by: "uid 0 at host".into(),
            successor: 4,
            // Younger than the sample.
            keys_adopted: false,
        }],
        revision_floor: 1_048_577,
        ..cluster.clone()
    };
    let adopted = PastEpoch {
        keys_adopted: true,
        ..restored.past_epochs[0].clone()
    };
    let of_level_3 = Cluster {
        feature_level: 3,
        ledger_from: 44,
        holder_rows: 12,
        ..cluster.clone()
    };
    let holder = Holder {
        kind: AuthorityKind::X509.into(),
        authority_id: "0a1b2c".into(),
        node_id: 2,
        boot: 3,
        path: agent_path().path,
        until: 1_800_003_600,
        number: 17,
        surplus: 0,
    };
    let without_place = Holder {
        node_id: 0,
        boot: 0,
        path: String::new(),
        number: 0,
        surplus: 5,
        ..holder.clone()
    };
    let holders = Outcome {
        holders: vec![Refusal::None.into(), Refusal::NotFound.into()],
        ..Outcome::default()
    };
    let published = BundleAuthority {
        publisher: "/nested".into(),
        ..bundle_authority()
    };
    [
        ("record-entry", message(entry())),
        ("record-agent", message(agent)),
        (
            "record-join-token",
            message(JoinToken {
                sha256: vec![1; 32],
                expires_at: 1_800_000_600,
            }),
        ),
        ("record-authority", message(authority())),
        ("record-key-intent", message(intent)),
        ("record-downstream-ca", message(downstream_ca())),
        ("record-member", message(member)),
        ("record-cluster", message(cluster)),
        ("record-cluster-restored", message(restored)),
        ("record-past-epoch-adopted", message(adopted)),
        ("record-member-to-be", message(member_to_be)),
        ("record-cluster-of-level-1", message(cluster_of_level_1)),
        ("record-cluster-of-level-3", message(of_level_3)),
        ("record-holder", message(holder)),
        ("record-holders-without-place", message(without_place)),
        (
            "outcome-holders",
            sample(holders, codec::encode_outcome, |b| {
                codec::decode_outcome(b).unwrap()
            }),
        ),
        ("record-node-token", message(node_token())),
        ("record-token-login", message(token_login())),
        (
            "proposal-with-clocks",
            message(Proposal {
                clocks: vec![ClockTold {
                    node_id: 2,
                    clock_ms: 1_800_000_000_123,
                }],
                ..proposal(Command::RemoveMember(RemoveMember { node_id: 2 }))
            }),
        ),
        (
            "record-admission-by-token",
            message(AdmitMember {
                token_sha256: vec![3; 32],
                stay_learner: true,
                ..admission(2)
            }),
        ),
        (
            "record-founding-at-level-1",
            message(Found {
                cluster_id: "c".into(),
                feature_level: 1,
                ..Found::default()
            }),
        ),
        (
            "record-founding-with-intermediates",
            message(Found {
                cluster_id: "c".into(),
                feature_level: 3,
                issuance_mode: IssuanceMode::Intermediate.into(),
                ..Found::default()
            }),
        ),
        (
            "record-cluster-with-intermediates",
            message(Cluster {
                id: "c".into(),
                feature_level: 3,
                issuance_mode: IssuanceMode::Intermediate.into(),
                ..Cluster::default()
            }),
        ),
        (
            "record-founding-with-a-scope",
            message(Found {
                cluster_id: "c".into(),
                feature_level: 4,
                authority_scope: AuthorityScope::Shared.into(),
                ..Found::default()
            }),
        ),
        (
            "record-cluster-with-a-scope",
            message(Cluster {
                id: "c".into(),
                feature_level: 4,
                authority_scope: AuthorityScope::PerNode.into(),
                ..Cluster::default()
            }),
        ),
        (
            "record-proof-by-intermediate",
            message(ProveAuthority {
                authority: Some(authority_name()),
                node_id: 3,
                with_intermediate: true,
            }),
        ),
        (
            "record-request-memory",
            message(RequestMemory {
                log_index: 77,
                outcome: vec![8, 1],
            }),
        ),
        (
            "record-request-id",
            message(RequestId {
                node: 2,
                boot: 3,
                sequence: 4,
            }),
        ),
        ("record-federated-bundle", message(federated_bundle())),
        ("record-relationship", message(relationship())),
        ("record-bundle-authority", message(bundle_authority())),
        ("record-bundle-authority-published", message(published)),
        (
            "outcome-bounded",
            sample(bounded, codec::encode_outcome, |b| {
                codec::decode_outcome(b).unwrap()
            }),
        ),
        (
            "outcome-of-federation",
            sample(of_federation, codec::encode_outcome, |b| {
                codec::decode_outcome(b).unwrap()
            }),
        ),
        (
            "outcome",
            sample(outcome, codec::encode_outcome, |b| {
                codec::decode_outcome(b).unwrap()
            }),
        ),
        (
            "outcome-pruning",
            sample(pruning, codec::encode_outcome, |b| {
                codec::decode_outcome(b).unwrap()
            }),
        ),
    ]
    .map(|(name, sample)| (name.to_owned(), sample))
    .into()
}

fn identity() -> Sample {
    let record = || IdentityRecord {
        cluster_id: "c".into(),
        trust_domain: "example.org".into(),
        node_id: 3,
        peer_key: vec![0x30, 9],
        boot: 12,
        store_made: true,
        // Older than the field: reads as its zero value.
        founded: false,
        pins: vec![Pin {
            node_id: 1,
            peer_address: "a:8443".into(),
            spki_sha256: vec![1; 32],
        }],
    };
    let dir = tempfile::tempdir().unwrap();
    record().save(dir.path()).unwrap();
    let bytes = fs::read(IdentityRecord::path(dir.path())).unwrap();
    let check = move |bytes: &[u8]| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(IdentityRecord::path(dir.path()), bytes).unwrap();
        // It holds a key, so it has no `Debug` for `assert_eq`.
        assert!(IdentityRecord::load(dir.path()).unwrap() == Some(record()));
    };
    Sample {
        bytes,
        check: Box::new(check),
    }
}

fn snapshot() -> Sample {
    let header = || Header {
        applied: codec::encode_log_id(&log_id(5, 1234)),
        membership: codec::encode_membership(&StoredMembership::new(
            Some(log_id(2, 9)),
            members(&[1, 2]),
        )),
        cluster_id: "c".into(),
        origin: None,
    };
    let rows = || {
        vec![
            (vec![1, b'a'], vec![1; 300]),
            (vec![2, b'b'], Vec::new()),
            (vec![9, 0], vec![3]),
        ]
    };
    let mut encoder = Encoder::new(Vec::new(), header()).unwrap();
    for (key, value) in rows() {
        encoder.row(key, value).unwrap();
    }
    let check = move |bytes: &[u8]| {
        let mut found = Vec::new();
        let read = snapshot::decode(bytes, |_, part| {
            found.extend(part.into_iter().map(|(key, value)| (key, value.unwrap())));
            Ok(())
        });
        assert_eq!((read.unwrap(), found), (header(), rows()));
    };
    Sample {
        bytes: encoder.finish().unwrap(),
        check: Box::new(check),
    }
}

/// A whole backup, with rows of most tables.
fn backup() -> Sample {
    let origin = Origin {
        format: 1,
        created_at_ms: 1_800_000_000_000,
        trust_domain: "example.org".into(),
        node_id: 2,
        program_version: "0.1.0".into(),
        state_digest: Vec::new(),
        stale_ms: None,
    };
    let check = move |bytes: &[u8]| {
        let survey = snapshot::verify(bytes).unwrap();
        let mut found = survey.header.origin.clone().unwrap();
        assert_eq!(std::mem::take(&mut found.state_digest).len(), 32);
        assert_eq!(found, origin);
        // The stored one was made before there were logins.
        let made = [log_id(1, 17), log_id(1, 21)];
        assert!(made.contains(&survey.applied), "{}", survey.applied);
        assert_eq!(survey.cluster.id, "c");
        assert_eq!(survey.count(Table::Entries), 2);
        assert_eq!(survey.count(Table::Authorities), 3);
        crate::backup::restores(bytes);
    };
    let bytes = crate::backup::sample();
    Sample {
        bytes,
        check: Box::new(check),
    }
}

fn samples() -> Vec<(String, Sample)> {
    let single = [
        ("backup".to_owned(), backup()),
        ("identity-record".to_owned(), identity()),
        ("snapshot".to_owned(), snapshot()),
    ];
    commands()
        .into_iter()
        .chain(raft())
        .chain(records())
        .chain(single)
        .collect()
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/samples")
        .join(format!("{name}.hex"))
}

/// Hex in lines, so that a diff shows where one changed.
fn to_text(bytes: &[u8]) -> String {
    bytes
        .chunks(32)
        .map(|line| hex::encode(line) + "\n")
        .collect()
}

fn from_text(text: &str) -> Vec<u8> {
    hex::decode(text.split_whitespace().collect::<String>()).unwrap()
}

#[test]
fn every_stored_sample_decodes_to_the_value_it_was_made_from() {
    write_missing_samples();
    for (name, sample) in samples() {
        (sample.check)(&sample.bytes);
        let Ok(text) = fs::read_to_string(file(&name)) else {
            panic!("no sample {name}: write it once and keep it")
        };
        (sample.check)(&from_text(&text));
    }
}

#[test]
fn no_stored_sample_is_left_out() {
    let known: BTreeSet<PathBuf> = samples().into_iter().map(|(name, _)| file(&name)).collect();
    for found in fs::read_dir(file("x").parent().unwrap()).unwrap() {
        let path = found.unwrap().path();
        assert!(
            known.contains(&path),
            "{} is not checked by any test",
            path.display()
        );
    }
}

#[test]
fn every_command_has_a_sample() {
    let sampled: BTreeSet<String> = commands().into_iter().map(|(name, _)| name).collect();
    // An empty message under each field number that a command may have.
    let known = (10u32..200).filter_map(|tag| {
        let mut bytes = Vec::new();
        prost::encoding::encode_key(tag, prost::encoding::WireType::LengthDelimited, &mut bytes);
        bytes.push(0);
        codec::decode_proposal(&bytes).ok()?.command
    });
    let known: BTreeSet<String> = known
        .map(|command| format!("command-{}", command.name()))
        .collect();
    assert!(known.len() >= 31);
    assert_eq!(sampled, known);
}

#[test]
fn what_this_version_does_not_know_is_refused_and_not_dropped() {
    // Field 199: a command of a newer version.
    let mut newer = Proposal {
        time_ms: 5,
        ..Proposal::default()
    }
    .encode_to_vec();
    prost::encoding::encode_key(199, prost::encoding::WireType::LengthDelimited, &mut newer);
    newer.push(0);
    codec::decode_proposal(&newer).unwrap_err();
    codec::decode_log_id(&[]).unwrap_err();
    let mut entry = codec::encode_log_entry(&blank(1, 1));
    codec::decode_log_entry(&entry).unwrap();
    entry.truncate(entry.len() - 2);
    codec::decode_log_entry(&entry).unwrap_err();
    let unknown = normal(
        1,
        1,
        Proposal {
            time_ms: 5,
            ..Proposal::default()
        },
    );
    codec::decode_log_entry(&codec::encode_log_entry(&unknown)).unwrap_err();
}

/// Writes the samples that are not there yet, when asked to.
fn write_missing_samples() {
    if std::env::var_os("CHANCERY_BLESS").is_none() {
        return;
    }
    fs::create_dir_all(file("x").parent().unwrap()).unwrap();
    for (name, sample) in samples() {
        if !file(&name).exists() {
            fs::write(file(&name), to_text(&sample.bytes)).unwrap();
        }
    }
}
