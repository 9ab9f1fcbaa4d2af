//! Random commands over few names, so that they meet each other often.

use chancery_raft_store::command::{
    AbandonKey, ActivateAgents, Activation, AdmitMember, AdoptKeys, AgentPath, AnnounceMember,
    AppendBundle, AttestAgent, AuthorityName, BeginKey, BundleFields, ChangeMembers, ClaimLogin,
    CreateEntries, CreateJoinToken, CreateNodeToken, DeleteEntries, DeleteFederatedBundles,
    EntryFields, EntryUpdate, FEATURE_LEVEL, FederatedBundles, Found, HolderNote, ImportBan,
    NoteHolders, ProveAuthority, PruneAgents, PruneAuthorities, PruneBundle, PruneEntries,
    PruneHolders, PruneJoinTokens, RaiseFeatureLevel, RecordAuthority, RecordDownstreamCa,
    RecordServerSvid, RelationshipDraft, RelationshipFields, Relationships, RemoveMember,
    RenewAgent, Renewal, RetireAuthorities, SetAgentVersion, SetAuthorityScope, SetClock,
    SetIssuanceMode, SettleLogin, TellRenewals, TrustDomains, UpdateEntries,
    UpdateFederatedBundles, UpdateRelationships,
};
use chancery_raft_store::model::{
    Authority, BundleAuthority, BundleCertificate, DownstreamCa, Entry, FederatedBundle,
    FederationRelationship, JoinToken, NodeToken, Selector,
};
use chancery_raft_store::{Command, Proposal, RequestId};
use proptest::prelude::*;

use super::{admission, entry, selector};

fn one_of(names: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(names).prop_map(String::from)
}

fn agent() -> impl Strategy<Value = String> {
    one_of(&[
        "/spire/agent/x509pop/a",
        "/spire/agent/x509pop/b",
        "/spire/agent/join_token/t",
    ])
}

fn path() -> impl Strategy<Value = String> {
    prop_oneof![agent(), one_of(&["/spire/server", "/g", "/u", "/v"])]
}

fn selectors() -> impl Strategy<Value = Vec<Selector>> {
    prop::collection::vec("[abc]", 0..4).prop_map(|list| list.iter().map(|s| selector(s)).collect())
}

fn entry_id() -> impl Strategy<Value = String> {
    "e[0-6]"
}

fn serial() -> impl Strategy<Value = String> {
    "[1-8]"
}

fn draft() -> impl Strategy<Value = Entry> {
    let federates_with = prop::collection::vec(trust_domain(), 0..3);
    let federates_with = prop::option::weighted(0.4, federates_with);
    (
        entry_id(),
        path(),
        path(),
        selectors(),
        (any::<bool>(), any::<bool>(), 0i64..6),
        federates_with,
    )
        .prop_map(
            |(id, parent, name, selectors, (admin, store_svid, expires_at), federates_with)| {
                Entry {
                    selectors,
                    admin,
                    store_svid,
                    expires_at,
                    federates_with: federates_with.unwrap_or_default(),
                    ..entry(&id, &parent, &name, &[])
                }
            },
        )
}

fn trust_domain() -> impl Strategy<Value = String> {
    one_of(&["a.test", "b.test", "c.test"])
}

fn federated_bundle() -> impl Strategy<Value = FederatedBundle> {
    let name = prop_oneof![9 => trust_domain(), 1 => one_of(&["example.org", "A B"])];
    (name, 0u64..3).prop_map(|(trust_domain, sequence_number)| FederatedBundle {
        trust_domain,
        x509_authorities: vec![BundleCertificate {
            certificate: vec![1],
        }],
        sequence_number,
        ..FederatedBundle::default()
    })
}

fn federated_bundles() -> impl Strategy<Value = Vec<FederatedBundle>> {
    prop::collection::vec(federated_bundle(), 1..3)
}

fn relationships() -> impl Strategy<Value = Vec<RelationshipDraft>> {
    let draft = (
        trust_domain(),
        0i32..3,
        "(spiffe://a.test)?",
        prop::option::of(federated_bundle()),
    );
    let draft =
        draft.prop_map(
            |(trust_domain, profile, endpoint_spiffe_id, bundle)| RelationshipDraft {
                relationship: Some(FederationRelationship {
                    trust_domain,
                    endpoint_url: "https://x".into(),
                    profile,
                    endpoint_spiffe_id,
                    ..FederationRelationship::default()
                }),
                bundle,
            },
        );
    prop::collection::vec(draft, 1..3)
}

fn bundle_authority() -> impl Strategy<Value = BundleAuthority> {
    (1i32..3, "k[0-3]", 1u8..3, 0i64..3, "(/[uv])?").prop_map(
        |(kind, id, der, expires_at, publisher)| BundleAuthority {
            kind,
            id,
            der: vec![der],
            expires_at,
            publisher,
            ..BundleAuthority::default()
        },
    )
}

fn federation_command() -> impl Strategy<Value = Command> {
    let fields = (any::<bool>(), any::<bool>());
    let bundle_fields = fields.prop_map(|(x509_authorities, sequence_number)| BundleFields {
        x509_authorities,
        sequence_number,
        ..BundleFields::default()
    });
    let relationship_fields =
        (any::<bool>(), any::<bool>()).prop_map(|(profile, bundle)| RelationshipFields {
            profile,
            bundle,
            ..RelationshipFields::default()
        });
    let names = || prop::collection::vec(trust_domain(), 1..3);
    prop_oneof![
        2 => federated_bundles()
            .prop_map(|bundles| Command::CreateFederatedBundles(FederatedBundles { bundles })),
        2 => federated_bundles().prop_map(|bundles| Command::SetFederatedBundles(FederatedBundles { bundles })),
        2 => (federated_bundles(), prop::option::of(bundle_fields)).prop_map(|(bundles, fields)| {
            Command::UpdateFederatedBundles(UpdateFederatedBundles { bundles, fields })
        }),
        2 => (names(), 0i32..4).prop_map(|(trust_domains, mode)| {
            Command::DeleteFederatedBundles(DeleteFederatedBundles { trust_domains, mode })
        }),
        1 => relationships().prop_map(|drafts| Command::CreateRelationships(Relationships { drafts })),
        1 => (relationships(), prop::option::of(relationship_fields)).prop_map(|(drafts, fields)| {
            Command::UpdateRelationships(UpdateRelationships { drafts, fields })
        }),
        1 => names().prop_map(|names| Command::DeleteRelationships(TrustDomains { names })),
        2 => prop::collection::vec(bundle_authority(), 1..3)
            .prop_map(|authorities| Command::AppendBundle(AppendBundle { authorities })),
        1 => Just(Command::PruneBundle(PruneBundle { expires_before: 9 })),
    ]
}

fn update() -> impl Strategy<Value = EntryUpdate> {
    let fields = any::<[bool; 7]>().prop_map(|chosen| EntryFields {
        spiffe_path: chosen[0],
        parent_path: chosen[1],
        selectors: chosen[2],
        admin: chosen[3],
        store_svid: chosen[4],
        expires_at: chosen[5],
        federates_with: chosen[6],
        ..EntryFields::default()
    });
    (entry_id(), draft(), fields).prop_map(|(id, values, fields)| EntryUpdate {
        id,
        values: Some(values),
        fields: Some(fields),
    })
}

fn alias() -> impl Strategy<Value = Entry> {
    (entry_id(), agent(), one_of(&["/g", "/u"])).prop_map(|(id, agent, name)| Entry {
        selectors: vec![Selector {
            kind: "spiffe_id".into(),
            value: format!("spiffe://example.org{agent}"),
        }],
        ..entry(&id, &agent, &name, &[])
    })
}

fn token_sha256() -> impl Strategy<Value = Vec<u8>> {
    (0u8..3).prop_map(|n| vec![n; 32])
}

fn admit() -> impl Strategy<Value = AdmitMember> {
    (1u8..5, 1u8..5).prop_map(|(address, key)| AdmitMember {
        spki_sha256: vec![key; 32],
        ..admission(address)
    })
}

fn slot() -> impl Strategy<Value = String> {
    one_of(&["x509", "jwt", "x509/node-2"])
}

fn authority_name() -> impl Strategy<Value = AuthorityName> {
    (1i32..3, "k[0-3]").prop_map(|(kind, id)| AuthorityName { kind, id })
}

fn authority() -> impl Strategy<Value = Authority> {
    // Some ended more than a day before the clocks of [`proposal`] begin.
    let end = prop::sample::select(&[0, -90_000, 9][..]);
    (authority_name(), slot(), 0u64..4, end).prop_map(|(name, slot, epoch, expires_at)| Authority {
        id: name.id,
        kind: name.kind,
        epoch,
        node_id: if slot.ends_with('2') { 2 } else { 0 },
        slot,
        key_id: vec![7; 16],
        public_key: vec![1],
        expires_at,
        ..Authority::default()
    })
}

fn entry_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        3 => prop::collection::vec(draft(), 1..4)
            .prop_map(|entries| Command::CreateEntries(CreateEntries { entries })),
        2 => prop::collection::vec(entry_id(), 1..3).prop_map(|ids| Command::DeleteEntries(DeleteEntries { ids })),
        2 => prop::collection::vec(update(), 1..4)
            .prop_map(|updates| Command::UpdateEntries(UpdateEntries { updates })),
        1 => prop::collection::vec(entry_id(), 1..4).prop_map(|ids| Command::PruneEntries(PruneEntries { ids })),
        1 => (token_sha256(), 0i32..4, prop::option::of(alias()), any::<bool>()).prop_map(
            |(sha256, ttl, alias, similar_alias_serves)| {
                let token = Some(JoinToken { sha256, expires_at: 0 });
                Command::CreateJoinToken(CreateJoinToken { token, ttl, alias, similar_alias_serves })
            }
        ),
        1 => (prop::collection::vec(token_sha256(), 1..3), -1i64..3).prop_map(|(sha256, expired_for)| {
            Command::PruneJoinTokens(PruneJoinTokens { sha256, expired_for })
        }),
    ]
}

fn agent_command() -> impl Strategy<Value = Command> {
    let activation = (agent(), serial()).prop_map(|(path, serial)| Activation { path, serial });
    prop_oneof![
        3 => (agent(), selectors(), serial(), any::<bool>(), prop::option::of(token_sha256())).prop_map(
            |(path, selectors, serial, can_reattest, token)| Command::AttestAgent(AttestAgent {
                path,
                attestation_type: if token.is_some() { "join_token".into() } else { "x509pop".into() },
                selectors,
                serial,
                expires_at: 3,
                can_reattest,
                token_sha256: token.unwrap_or_default(),
            })
        ),
        3 => (agent(), serial())
            .prop_map(|(path, serial)| Command::RenewAgent(RenewAgent { path, serial, expires_at: 10 })),
        2 => prop::collection::vec(activation, 0..3)
            .prop_map(|activations| Command::ActivateAgents(ActivateAgents { activations })),
        1 => agent().prop_map(|path| Command::BanAgent(AgentPath { path })),
        1 => agent().prop_map(|path| Command::DeleteAgent(AgentPath { path })),
        1 => (prop::collection::vec(agent(), 1..3), -1i64..3, any::<bool>()).prop_map(
            |(paths, expired_for, include_non_reattestable)| Command::PruneAgents(PruneAgents {
                paths,
                expired_for,
                include_non_reattestable,
            })
        ),
        1 => (agent(), selectors(), any::<bool>()).prop_map(|(path, selectors, can_reattest)| {
            Command::ImportBan(ImportBan {
                path,
                attestation_type: "x509pop".into(),
                selectors,
                can_reattest,
                expires_at: 8,
            })
        }),
        1 => (agent(), "[12]").prop_map(|(path, version)| Command::SetAgentVersion(SetAgentVersion { path, version })),
    ]
}

fn nodes() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(1u64..6, 0..2)
}

fn cluster_command() -> impl Strategy<Value = Command> {
    let announce = (0u64..5, 0u64..4, "[12]").prop_map(|(node_id, boot, version)| AnnounceMember {
        node_id,
        boot,
        version,
        api_address: "x:1".into(),
    });
    prop_oneof![
        1 => admit().prop_map(|founder| Command::Found(Found {
            cluster_id: "other".into(),
            founder: Some(founder),
            ..Found::default()
        })),
        3 => admit().prop_map(Command::AdmitMember),
        2 => (1u8..4, 1u8..3, any::<bool>()).prop_map(|(key, token, stay_learner)| {
            Command::AdmitMember(AdmitMember {
                token_sha256: vec![token; 32],
                stay_learner,
                ..admission(key)
            })
        }),
        2 => (1u8..3, any::<bool>(), 0u64..4, 0i64..4).prop_map(|(token, auto_promote, replaces, ttl)| {
            Command::CreateNodeToken(CreateNodeToken {
                token: Some(NodeToken { sha256: vec![token; 32], expires_at: 0, auto_promote, replaces }),
                ttl,
            })
        }),
        3 => (nodes(), nodes(), nodes(), any::<bool>()).prop_map(|(promote, demote, remove, allow_even)| {
            Command::ChangeMembers(ChangeMembers { promote, demote, remove, allow_even })
        }),
        2 => (1u64..6).prop_map(|node_id| Command::RemoveMember(RemoveMember { node_id })),
        1 => (0i64..9000).prop_map(|clock_ms| Command::SetClock(SetClock { clock_ms })),
        1 => (0..=FEATURE_LEVEL).prop_map(|level| Command::RaiseFeatureLevel(RaiseFeatureLevel { level })),
        2 => announce.prop_map(Command::AnnounceMember),
        1 => (0u64..5, "k[0-3]").prop_map(|(node_id, authority_id)| {
            Command::RecordServerSvid(RecordServerSvid { node_id, authority_id })
        }),
    ]
}

/// Ends lie within the clocks of [`proposal`], so that some have ended when others come.
fn downstream_ca() -> impl Strategy<Value = DownstreamCa> {
    (path(), entry_id(), "k[0-3]", serial(), 2i64..9).prop_map(
        |(caller_path, entry_id, authority_id, serial, expires_at)| DownstreamCa {
            caller_path,
            entry_id,
            authority_id,
            serial,
            subject_key_id: "0a".into(),
            issued_at: 1,
            expires_at,
        },
    )
}

fn key_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        3 => (slot(), 0u64..4, 0u64..3).prop_map(|(slot, epoch, node_id)| Command::BeginKey(BeginKey {
            slot,
            epoch,
            node_id,
            key_id: vec![7; 16],
            key_label: "label".into(),
        })),
        1 => (slot(), 0u64..4).prop_map(|(slot, epoch)| Command::AbandonKey(AbandonKey { slot, epoch })),
        3 => authority()
            .prop_map(|authority| Command::RecordAuthority(RecordAuthority { authority: Some(authority) })),
        2 => (authority_name(), 0u64..4, any::<bool>()).prop_map(|(name, node_id, with_intermediate)| {
            Command::ProveAuthority(ProveAuthority { authority: Some(name), node_id, with_intermediate })
        }),
        1 => (0i32..3).prop_map(|mode| Command::SetIssuanceMode(SetIssuanceMode { mode })),
        1 => (0i32..4).prop_map(|scope| Command::SetAuthorityScope(SetAuthorityScope { scope })),
        1 => prop::collection::vec(authority_name(), 0..3).prop_map(|names| {
            let kind = names.first().map_or(1, |name| name.kind);
            let ids = names.into_iter().map(|name| name.id).collect();
            Command::RetireAuthorities(RetireAuthorities { kind, ids })
        }),
        2 => authority_name().prop_map(Command::ActivateAuthority),
        2 => authority_name().prop_map(Command::TaintAuthority),
        2 => authority_name().prop_map(Command::RevokeAuthority),
        1 => prop::collection::vec(authority_name(), 1..4)
            .prop_map(|authorities| Command::PruneAuthorities(PruneAuthorities { authorities })),
        1 => prop::collection::vec("c|other", 0..2)
            .prop_map(|cluster_ids| Command::AdoptKeys(AdoptKeys { cluster_ids })),
        2 => downstream_ca().prop_map(|ca| {
            Command::RecordDownstreamCa(RecordDownstreamCa { ca: Some(ca) })
        }),
    ]
}

fn login_command() -> impl Strategy<Value = Command> {
    let attempt = || ("s[12]", 0u64..4, 1u64..3, 0u64..4);
    let claim =
        (attempt(), any::<bool>()).prop_map(|((serial, node_id, boot, sequence), ordered)| {
            Command::ClaimLogin(ClaimLogin {
                serial,
                node_id,
                boot,
                sequence,
                ordered,
            })
        });
    let settle = (attempt(), 0i32..4).prop_map(|((serial, node_id, boot, sequence), end)| {
        Command::SettleLogin(SettleLogin {
            serial,
            node_id,
            boot,
            sequence,
            end,
            why: "no".into(),
        })
    });
    prop_oneof![claim, settle]
}

/// Ends lie around the clocks of [`proposal`] and behind those of the authorities.
fn ledger_command() -> impl Strategy<Value = Command> {
    let note = (
        prop::option::weighted(0.9, authority_name()),
        "(/[uv])?",
        0i64..12,
    )
        .prop_map(|(authority, path, until)| HolderNote {
            authority,
            path,
            until,
        });
    let renewal = (authority_name(), path(), 0u64..3).prop_map(|(authority, path, item)| Renewal {
        authority: Some(authority),
        path,
        item,
        asked_at: 1,
    });
    let key = (1u8..3, "k[0-3]", "(/[uv])?", 1u64..3, 1u64..3).prop_map(
        |(kind, id, path, node, boot)| {
            let mut key = vec![kind];
            key.extend_from_slice(id.as_bytes());
            key.push(0);
            key.extend_from_slice(path.as_bytes());
            key.push(0);
            key.extend_from_slice(&node.to_be_bytes());
            key.extend_from_slice(&boot.to_be_bytes());
            key
        },
    );
    prop_oneof![
        4 => (1u64..3, 1u64..3, 0u64..5, prop::collection::vec(note, 1..4)).prop_map(
            |(node_id, boot, number, notes)| Command::NoteHolders(NoteHolders { node_id, boot, number, notes })
        ),
        1 => prop::collection::vec(renewal, 0..3)
            .prop_map(|renewals| Command::TellRenewals(TellRenewals { node_id: 1, renewals })),
        1 => prop::collection::vec(key, 1..4).prop_map(|keys| Command::PruneHolders(PruneHolders { keys })),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        4 => entry_command(),
        4 => agent_command(),
        1 => cluster_command(),
        2 => key_command(),
        1 => login_command(),
        3 => federation_command(),
        2 => ledger_command(),
    ]
}

/// Proposals whose clocks step back and forth and whose requests repeat.
pub(crate) fn proposal() -> impl Strategy<Value = Proposal> {
    let request = (1u64..3, 1u64..3, 0u64..12);
    let request = request.prop_map(|(node, boot, sequence)| RequestId {
        node,
        boot,
        sequence,
    });
    (prop::option::weighted(0.4, request), 0i64..8000, command()).prop_map(
        |(request, time_ms, command)| Proposal {
            request,
            time_ms,
            command: Some(command),
            ..Proposal::default()
        },
    )
}
