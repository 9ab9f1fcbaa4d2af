//! Which method has which limit: data, reviewed as data. The rows are the methods
//! that are served, or the project does not compile.

use crate::authz::served;

/// Methods that share buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    /// Attesting.
    Attest,
    /// Certificates of agents, workloads and downstream servers.
    Certificates,
    /// JWT-SVIDs.
    Jwt,
    /// WIT-SVIDs.
    Wit,
    /// Publishing a downstream server's keys.
    Keys,
    /// Telling a version.
    PostStatus,
}

impl Group {
    /// Tokens a second and in a burst, for each source: SPIRE's numbers.
    pub(super) const fn per_second(self) -> u32 {
        match self {
            Self::Attest => 1,
            Self::Certificates | Self::Jwt | Self::Wit | Self::Keys => 500,
            Self::PostStatus => 10,
        }
    }
}

/// The limit of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// Whose buckets it uses.
    pub(super) group: Group,
    /// What a refusal begins with: SPIRE's text.
    pub(super) refusal: &'static str,
}

/// A method and its limit, if it has one.
#[derive(Debug)]
pub(super) struct Row {
    /// `/package.Service/Method`.
    pub(super) method: &'static str,
    /// Its limit.
    pub(super) rule: Option<Rule>,
}

const fn free(method: &'static str) -> Row {
    Row { method, rule: None }
}

const fn limited(method: &'static str, group: Group, refusal: &'static str) -> Row {
    Row {
        method,
        rule: Some(Rule { group, refusal }),
    }
}

/// Every method that is served, sorted by path.
#[rustfmt::skip]
pub(super) const TABLE: &[Row] = &[
    free("/chancery.backup.v1.Backup/Save"),
    free("/chancery.cluster.v1.Cluster/ChangeMembers"),
    free("/chancery.cluster.v1.Cluster/CreateToken"),
    free("/chancery.cluster.v1.Cluster/RetryLogin"),
    free("/chancery.cluster.v1.Cluster/SetAuthorityScope"),
    free("/chancery.cluster.v1.Cluster/SetClock"),
    free("/chancery.cluster.v1.Cluster/SetIssuanceMode"),
    free("/chancery.cluster.v1.Cluster/Status"),
    free("/chancery.cluster.v1.Cluster/TransferLeader"),
    free("/chancery.keys.v1.Keys/Adopt"),
    free("/chancery.keys.v1.Keys/List"),
    free("/chancery.keys.v1.Keys/Sweep"),
    free("/chancery.ledger.v1.Ledger/GetHolders"),
    free("/chancery.migrate.v1.Migration/ImportAgentBan"),
    free("/grpc.health.v1.Health/Check"),
    free("/grpc.health.v1.Health/List"),
    free("/grpc.health.v1.Health/Watch"),
    limited("/spire.api.server.agent.v1.Agent/AttestAgent", Group::Attest, "rejecting request due to attest agent rate limiting"),
    free("/spire.api.server.agent.v1.Agent/BanAgent"),
    free("/spire.api.server.agent.v1.Agent/CountAgents"),
    free("/spire.api.server.agent.v1.Agent/CreateJoinToken"),
    free("/spire.api.server.agent.v1.Agent/DeleteAgent"),
    free("/spire.api.server.agent.v1.Agent/GetAgent"),
    free("/spire.api.server.agent.v1.Agent/ListAgents"),
    limited("/spire.api.server.agent.v1.Agent/PostStatus", Group::PostStatus, "rejecting request due to post status rate limiting"),
    limited("/spire.api.server.agent.v1.Agent/RenewAgent", Group::Certificates, "rejecting request due to renew agent rate limiting"),
    free("/spire.api.server.bundle.v1.Bundle/AppendBundle"),
    free("/spire.api.server.bundle.v1.Bundle/BatchCreateFederatedBundle"),
    free("/spire.api.server.bundle.v1.Bundle/BatchDeleteFederatedBundle"),
    free("/spire.api.server.bundle.v1.Bundle/BatchSetFederatedBundle"),
    free("/spire.api.server.bundle.v1.Bundle/BatchUpdateFederatedBundle"),
    free("/spire.api.server.bundle.v1.Bundle/CountBundles"),
    free("/spire.api.server.bundle.v1.Bundle/GetBundle"),
    free("/spire.api.server.bundle.v1.Bundle/GetFederatedBundle"),
    free("/spire.api.server.bundle.v1.Bundle/ListFederatedBundles"),
    limited("/spire.api.server.bundle.v1.Bundle/PublishJWTAuthority", Group::Keys, "rejecting request due to key publishing rate limiting"),
    limited("/spire.api.server.bundle.v1.Bundle/PublishWITAuthority", Group::Keys, "rejecting request due to key publishing rate limiting"),
    free("/spire.api.server.debug.v1.Debug/GetInfo"),
    free("/spire.api.server.entry.v1.Entry/BatchCreateEntry"),
    free("/spire.api.server.entry.v1.Entry/BatchDeleteEntry"),
    free("/spire.api.server.entry.v1.Entry/BatchUpdateEntry"),
    free("/spire.api.server.entry.v1.Entry/CountEntries"),
    free("/spire.api.server.entry.v1.Entry/GetAuthorizedEntries"),
    free("/spire.api.server.entry.v1.Entry/GetEntry"),
    free("/spire.api.server.entry.v1.Entry/ListEntries"),
    free("/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries"),
    free("/spire.api.server.localauthority.v1.LocalAuthority/ActivateJWTAuthority"),
    free("/spire.api.server.localauthority.v1.LocalAuthority/ActivateWITAuthority"),
    free("/spire.api.server.localauthority.v1.LocalAuthority/ActivateX509Authority"),
    free("/spire.api.server.localauthority.v1.LocalAuthority/GetJWTAuthorityState"),
    free("/spire.api.server.localauthority.v1.LocalAuthority/GetWITAuthorityState"),
    free("/spire.api.server.localauthority.v1.LocalAuthority/GetX509AuthorityState"),
    free("/spire.api.server.localauthority.v1.LocalAuthority/PrepareJWTAuthority"),
    free("/spire.api.server.localauthority.v1.LocalAuthority/PrepareWITAuthority"),
    free("/spire.api.server.localauthority.v1.LocalAuthority/PrepareX509Authority"),
    free("/spire.api.server.localauthority.v1.LocalAuthority/RevokeJWTAuthority"),
    free("/spire.api.server.localauthority.v1.LocalAuthority/RevokeWITAuthority"),
    free("/spire.api.server.localauthority.v1.LocalAuthority/RevokeX509Authority"),
    free("/spire.api.server.localauthority.v1.LocalAuthority/RevokeX509UpstreamAuthority"),
    free("/spire.api.server.localauthority.v1.LocalAuthority/TaintJWTAuthority"),
    free("/spire.api.server.localauthority.v1.LocalAuthority/TaintWITAuthority"),
    free("/spire.api.server.localauthority.v1.LocalAuthority/TaintX509Authority"),
    free("/spire.api.server.localauthority.v1.LocalAuthority/TaintX509UpstreamAuthority"),
    free("/spire.api.server.logger.v1.Logger/GetLogger"),
    free("/spire.api.server.logger.v1.Logger/ResetLogLevel"),
    free("/spire.api.server.logger.v1.Logger/SetLogLevel"),
    limited("/spire.api.server.svid.v1.SVID/BatchNewWITSVID", Group::Wit, "rejecting request due to certificate signing rate limiting"),
    limited("/spire.api.server.svid.v1.SVID/BatchNewX509SVID", Group::Certificates, "rejecting request due to certificate signing rate limiting"),
    free("/spire.api.server.svid.v1.SVID/MintJWTSVID"),
    free("/spire.api.server.svid.v1.SVID/MintWITSVID"),
    free("/spire.api.server.svid.v1.SVID/MintX509SVID"),
    limited("/spire.api.server.svid.v1.SVID/NewDownstreamX509CA", Group::Certificates, "rejecting request due to downstream CA signing rate limit"),
    limited("/spire.api.server.svid.v1.SVID/NewJWTSVID", Group::Jwt, "rejecting request due to JWT signing request rate limiting"),
    free("/spire.api.server.trustdomain.v1.TrustDomain/BatchCreateFederationRelationship"),
    free("/spire.api.server.trustdomain.v1.TrustDomain/BatchDeleteFederationRelationship"),
    free("/spire.api.server.trustdomain.v1.TrustDomain/BatchUpdateFederationRelationship"),
    free("/spire.api.server.trustdomain.v1.TrustDomain/GetFederationRelationship"),
    free("/spire.api.server.trustdomain.v1.TrustDomain/ListFederationRelationships"),
    free("/spire.api.server.trustdomain.v1.TrustDomain/RefreshBundle"),
];

const _: () = {
    let mut methods = [""; TABLE.len()];
    let mut at = 0;
    while at < TABLE.len() {
        methods[at] = TABLE[at].method;
        at += 1;
    }
    served::assert_complete(&methods);
};

/// The row of a method.
pub(super) fn find(method: &str) -> Option<&'static Row> {
    TABLE
        .binary_search_by(|row| row.method.cmp(method))
        .ok()
        .map(|at| &TABLE[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_of_spire() {
        let limited: Vec<(&str, Group, u32)> = TABLE
            .iter()
            .filter_map(|row| {
                let group = row.rule?.group;
                let method = row.method.rsplit('/').next()?;
                Some((method, group, group.per_second()))
            })
            .collect();
        assert_eq!(
            limited,
            [
                ("AttestAgent", Group::Attest, 1),
                ("PostStatus", Group::PostStatus, 10),
                ("RenewAgent", Group::Certificates, 500),
                ("PublishJWTAuthority", Group::Keys, 500),
                ("PublishWITAuthority", Group::Keys, 500),
                ("BatchNewWITSVID", Group::Wit, 500),
                ("BatchNewX509SVID", Group::Certificates, 500),
                ("NewDownstreamX509CA", Group::Certificates, 500),
                ("NewJWTSVID", Group::Jwt, 500),
            ]
        );
        for row in TABLE {
            assert_eq!(find(row.method).map(|r| r.method), Some(row.method));
        }
        assert!(find("/x.Y/Z").is_none());
    }
}
