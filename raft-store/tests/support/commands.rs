//! Random commands over few names, so that they meet each other often.

use chancery_raft_store::command::{
    AbandonKey, ActivateAgents, Activation, AdmitMember, AgentPath, AnnounceMember, AttestAgent,
    AuthorityName, BeginKey, CreateEntries, CreateJoinToken, DeleteEntries, Found, ProveAuthority,
    RecordAuthority, RecordDownstreamCa, RecordServerSvid, RenewAgent, SetAgentVersion,
};
use chancery_raft_store::model::{Authority, DownstreamCa, Entry, JoinToken, Selector};
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
    (entry_id(), path(), path(), selectors(), any::<bool>()).prop_map(
        |(id, parent, name, selectors, admin)| Entry {
            selectors,
            admin,
            downstream: admin,
            ..entry(&id, &parent, &name, &[])
        },
    )
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
    one_of(&["x509", "jwt"])
}

fn authority_name() -> impl Strategy<Value = AuthorityName> {
    (1i32..3, "k[0-3]").prop_map(|(kind, id)| AuthorityName { kind, id })
}

fn authority() -> impl Strategy<Value = Authority> {
    (authority_name(), slot(), 0u64..4).prop_map(|(name, slot, epoch)| Authority {
        id: name.id,
        kind: name.kind,
        slot,
        epoch,
        key_id: vec![7; 16],
        public_key: vec![1],
        ..Authority::default()
    })
}

fn entry_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        3 => prop::collection::vec(draft(), 1..4)
            .prop_map(|entries| Command::CreateEntries(CreateEntries { entries })),
        2 => prop::collection::vec(entry_id(), 1..3).prop_map(|ids| Command::DeleteEntries(DeleteEntries { ids })),
        1 => (token_sha256(), 0i32..4, prop::option::of(alias())).prop_map(|(sha256, ttl, alias)| {
            let token = Some(JoinToken { sha256, expires_at: 0 });
            Command::CreateJoinToken(CreateJoinToken { token, ttl, alias })
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
                expires_at: 9,
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
        1 => (agent(), "[12]").prop_map(|(path, version)| Command::SetAgentVersion(SetAgentVersion { path, version })),
    ]
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
        2 => (authority_name(), 0u64..4).prop_map(|(name, node_id)| {
            Command::ProveAuthority(ProveAuthority { authority: Some(name), node_id })
        }),
        2 => authority_name().prop_map(Command::ActivateAuthority),
        2 => downstream_ca().prop_map(|ca| {
            Command::RecordDownstreamCa(RecordDownstreamCa { ca: Some(ca) })
        }),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![4 => entry_command(), 4 => agent_command(), 1 => cluster_command(), 2 => key_command()]
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
        },
    )
}
