//! The JSON of `cluster status`.
//!
//! Made by hand: unlike protobuf's mapping it has numbers as numbers and says null where there is
//! nothing, so that `jq` can compare terms and ask whether there is a leader. Names are the proto
//! file's; members may be added, never renamed.

use chancery_api::chancery::cluster::v1::{Authority, Member, OutagePart, StatusResponse};
use serde::Serialize;

/// The whole object.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    cluster_id: &'a str,
    trust_domain: &'a str,
    node_id: &'a str,
    leader: Option<&'a str>,
    term: u64,
    freshness_ms: Option<u64>,
    stale_issuance_limit_ms: u64,
    members: Vec<MemberReport<'a>>,
    authorities: Vec<AuthorityReport<'a>>,
    advice: &'a [String],
    ready: bool,
    outage_budget_seconds: i64,
    feature_level: u32,
    cluster_clock_ms: i64,
    clock_offset_ms: Option<i64>,
    issuance_mode: &'a str,
    outage_parts: Vec<PartReport<'a>>,
    authority_scope: &'a str,
    scope_left: &'a [String],
}

#[derive(Debug, Serialize)]
struct PartReport<'a> {
    part: &'a str,
    seconds: i64,
}

/// One member, of `cluster status` and `cluster members`.
#[derive(Debug, Serialize)]
pub(super) struct MemberReport<'a> {
    id: &'a str,
    role: &'a str,
    api: &'a str,
    peer: &'a str,
    reachable: bool,
    applied_index: u64,
    state_digest: &'a str,
    version: &'a str,
    clock_skew_ms: Option<i64>,
    not_ready: Option<&'a str>,
    wanted: &'a str,
    auto_promote: bool,
    replaces: Option<&'a str>,
    boot: u64,
    shortfall: Option<&'a str>,
    key_backend: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct AuthorityReport<'a> {
    kind: &'a str,
    authority_id: &'a str,
    status: &'a str,
    expires_at: i64,
    backend: &'a str,
    node_id: Option<&'a str>,
}

impl<'a> From<&'a StatusResponse> for Report<'a> {
    fn from(status: &'a StatusResponse) -> Self {
        Report {
            cluster_id: &status.cluster_id,
            trust_domain: &status.trust_domain,
            node_id: &status.node_id,
            leader: status.leader.as_deref().and_then(present),
            term: status.term,
            freshness_ms: status.freshness_ms,
            stale_issuance_limit_ms: status.stale_issuance_limit_ms,
            members: status.members.iter().map(MemberReport::from).collect(),
            authorities: status
                .authorities
                .iter()
                .map(AuthorityReport::from)
                .collect(),
            advice: &status.advice,
            ready: status.ready,
            outage_budget_seconds: status.outage_budget_seconds,
            feature_level: status.feature_level,
            cluster_clock_ms: status.cluster_clock_ms,
            clock_offset_ms: status.clock_offset_ms,
            issuance_mode: &status.issuance_mode,
            outage_parts: status.outage_parts.iter().map(PartReport::from).collect(),
            authority_scope: &status.authority_scope,
            scope_left: &status.scope_left,
        }
    }
}

impl<'a> From<&'a OutagePart> for PartReport<'a> {
    fn from(part: &'a OutagePart) -> Self {
        PartReport {
            part: &part.part,
            seconds: part.seconds,
        }
    }
}

impl<'a> From<&'a Member> for MemberReport<'a> {
    fn from(member: &'a Member) -> Self {
        MemberReport {
            id: &member.id,
            role: &member.role,
            api: &member.api,
            peer: &member.peer,
            reachable: member.reachable,
            applied_index: member.applied_index,
            state_digest: &member.state_digest,
            version: &member.version,
            clock_skew_ms: member.clock_skew_ms,
            not_ready: present(&member.not_ready),
            wanted: &member.wanted,
            auto_promote: member.auto_promote,
            replaces: present(&member.replaces),
            boot: member.boot,
            shortfall: present(&member.shortfall),
            key_backend: present(&member.key_backend),
        }
    }
}

impl<'a> From<&'a Authority> for AuthorityReport<'a> {
    fn from(authority: &'a Authority) -> Self {
        AuthorityReport {
            kind: &authority.kind,
            authority_id: &authority.authority_id,
            status: &authority.status,
            expires_at: authority.expires_at,
            backend: &authority.backend,
            node_id: present(&authority.node_id),
        }
    }
}

fn present(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output;
    use crate::cli::testing::cluster_status;

    #[test]
    fn numbers_are_numbers_and_what_is_absent_is_null() {
        let mut status = cluster_status();
        status.members.truncate(1);
        status.authorities.truncate(1);
        let json = output::value_json(&Report::from(&status)).unwrap();
        assert_eq!(
            json,
            "{\"advice\":[],\
             \"authorities\":[{\"authority_id\":\"0a1b\",\"backend\":\"pkcs11\",\
             \"expires_at\":1552410266,\"kind\":\"x509\",\"node_id\":null,\"status\":\"active\"}],\
             \"authority_scope\":\"shared\",\
             \"clock_offset_ms\":-3,\"cluster_clock_ms\":1552406666000,\
             \"cluster_id\":\"c-1\",\"feature_level\":1,\"freshness_ms\":12,\"issuance_mode\":\"direct\",\"leader\":\"1\",\
             \"members\":[{\"api\":\"one:8081\",\"applied_index\":1042,\"auto_promote\":false,\"boot\":2,\"clock_skew_ms\":0,\
             \"id\":\"1\",\"key_backend\":\"pkcs11\",\"not_ready\":null,\"peer\":\"one:8082\",\"reachable\":true,\
             \"replaces\":null,\"role\":\"leader\",\"shortfall\":null,\"state_digest\":\"abcdef0123456789\",\"version\":\"0.1.0\",\
             \"wanted\":\"voter\"}],\
             \"node_id\":\"2\",\"outage_budget_seconds\":599,\"outage_parts\":[{\"part\":\"freshness\",\"seconds\":599},\
             {\"part\":\"authority\",\"seconds\":3600}],\"ready\":true,\
             \"scope_left\":[],\"stale_issuance_limit_ms\":600000,\"term\":7,\"trust_domain\":\"example.org\"}\n"
        );
    }

    #[test]
    fn an_election_has_no_leader_and_a_new_start_no_freshness() {
        let status = StatusResponse {
            leader: None,
            freshness_ms: None,
            ..cluster_status()
        };
        let json = serde_json::to_value(Report::from(&status)).unwrap();
        assert!(json["leader"].is_null());
        assert!(json["freshness_ms"].is_null());
        assert!(json["members"][2]["clock_skew_ms"].is_null());
        assert_eq!(json["members"][2]["not_ready"], "its token is locked");
    }
}
