//! Who may call what: data, reviewed as data.
//!
//! One row a method; a method without a row does not exist for callers, and a method
//! that is served and has no row does not compile. Rows of SPIRE's services say what
//! SPIRE's default policy says. `golden.txt` has the whole picture.

use super::served;

/// The kinds of callers that a method admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Callers {
    /// Everyone, without a certificate too.
    pub(super) any: bool,
    /// Whoever can open the admin socket.
    pub(super) local: bool,
    /// Administrators by configuration or by registration entry.
    pub(super) admin: bool,
    /// Identities whose registration entry says downstream.
    pub(super) downstream: bool,
    /// Attested agents in good standing.
    pub(super) agent: bool,
}

const NOBODY: Callers = Callers {
    any: false,
    local: false,
    admin: false,
    downstream: false,
    agent: false,
};
const ANYONE: Callers = Callers {
    any: true,
    ..NOBODY
};
const LOCAL: Callers = Callers {
    local: true,
    ..NOBODY
};
const ADMIN_OR_LOCAL: Callers = Callers {
    admin: true,
    ..LOCAL
};
const ADMIN_LOCAL_OR_AGENT: Callers = Callers {
    agent: true,
    ..ADMIN_OR_LOCAL
};
const AGENT: Callers = Callers {
    agent: true,
    ..NOBODY
};
const DOWNSTREAM: Callers = Callers {
    downstream: true,
    ..NOBODY
};

impl Callers {
    /// Whether callers from the network have no business here at all.
    pub(super) fn are_local_only(self) -> bool {
        self == LOCAL
    }
}

/// What a caller that is admitted reaches through a method: its own things, and
/// those of others. Decided where the method is served; written down here so that
/// it is reviewed beside the callers, and tested from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The caller itself, whatever the request says: another cannot be named.
    Caller,
    /// The identity that the call proves, and no other.
    Proved,
    /// Entries by their ids; one that is not the calling agent's is not found.
    OwnEntries,
    /// Whatever the request names, whosesoever it is.
    Named,
    /// What all share: the trust domain's bundle and authorities, lists, this node.
    Shared,
}

use Target::{Caller, Named, OwnEntries, Proved, Shared};

/// A method, whom it admits, and what they reach.
#[derive(Debug)]
pub(super) struct Row {
    /// `/package.Service/Method`.
    pub(super) method: &'static str,
    /// Whom it admits.
    pub(super) callers: Callers,
    /// What they reach.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "written for reviewers and for tests")
    )]
    pub(super) target: Target,
}

const fn row(method: &'static str, callers: Callers, target: Target) -> Row {
    Row {
        method,
        callers,
        target,
    }
}

/// Every method that is served, sorted by path.
#[rustfmt::skip]
pub(super) const TABLE: &[Row] = &[
    row("/chancery.backup.v1.Backup/Save", LOCAL, Shared),
    row("/chancery.cluster.v1.Cluster/ChangeMembers", ADMIN_OR_LOCAL, Named),
    row("/chancery.cluster.v1.Cluster/CreateToken", ADMIN_OR_LOCAL, Named),
    row("/chancery.cluster.v1.Cluster/RetryLogin", LOCAL, Shared),
    row("/chancery.cluster.v1.Cluster/SetAuthorityScope", ADMIN_OR_LOCAL, Shared),
    row("/chancery.cluster.v1.Cluster/SetClock", ADMIN_OR_LOCAL, Shared),
    row("/chancery.cluster.v1.Cluster/SetIssuanceMode", ADMIN_OR_LOCAL, Shared),
    row("/chancery.cluster.v1.Cluster/Status", ADMIN_OR_LOCAL, Shared),
    row("/chancery.cluster.v1.Cluster/TransferLeader", ADMIN_OR_LOCAL, Named),
    row("/chancery.keys.v1.Keys/Adopt", LOCAL, Shared),
    row("/chancery.keys.v1.Keys/List", LOCAL, Shared),
    row("/chancery.keys.v1.Keys/Sweep", LOCAL, Shared),
    row("/chancery.ledger.v1.Ledger/GetHolders", ADMIN_OR_LOCAL, Shared),
    row("/chancery.migrate.v1.Migration/ImportAgentBan", ADMIN_OR_LOCAL, Named),
    row("/grpc.health.v1.Health/Check", LOCAL, Shared),
    row("/grpc.health.v1.Health/List", LOCAL, Shared),
    row("/grpc.health.v1.Health/Watch", LOCAL, Shared),
    row("/spire.api.server.agent.v1.Agent/AttestAgent", ANYONE, Proved),
    row("/spire.api.server.agent.v1.Agent/BanAgent", ADMIN_OR_LOCAL, Named),
    row("/spire.api.server.agent.v1.Agent/CountAgents", ADMIN_OR_LOCAL, Shared),
    row("/spire.api.server.agent.v1.Agent/CreateJoinToken", ADMIN_OR_LOCAL, Named),
    row("/spire.api.server.agent.v1.Agent/DeleteAgent", ADMIN_OR_LOCAL, Named),
    row("/spire.api.server.agent.v1.Agent/GetAgent", ADMIN_OR_LOCAL, Named),
    row("/spire.api.server.agent.v1.Agent/ListAgents", ADMIN_OR_LOCAL, Shared),
    row("/spire.api.server.agent.v1.Agent/PostStatus", AGENT, Caller),
    row("/spire.api.server.agent.v1.Agent/RenewAgent", AGENT, Caller),
    row("/spire.api.server.bundle.v1.Bundle/AppendBundle", ADMIN_OR_LOCAL, Shared),
    row("/spire.api.server.bundle.v1.Bundle/BatchCreateFederatedBundle", ADMIN_OR_LOCAL, Named),
    row("/spire.api.server.bundle.v1.Bundle/BatchDeleteFederatedBundle", ADMIN_OR_LOCAL, Named),
    row("/spire.api.server.bundle.v1.Bundle/BatchSetFederatedBundle", ADMIN_OR_LOCAL, Named),
    row("/spire.api.server.bundle.v1.Bundle/BatchUpdateFederatedBundle", ADMIN_OR_LOCAL, Named),
    row("/spire.api.server.bundle.v1.Bundle/CountBundles", ADMIN_OR_LOCAL, Shared),
    row("/spire.api.server.bundle.v1.Bundle/GetBundle", ANYONE, Shared),
    row("/spire.api.server.bundle.v1.Bundle/GetFederatedBundle", ADMIN_LOCAL_OR_AGENT, Named),
    row("/spire.api.server.bundle.v1.Bundle/ListFederatedBundles", ADMIN_OR_LOCAL, Shared),
    row("/spire.api.server.bundle.v1.Bundle/PublishJWTAuthority", DOWNSTREAM, Shared),
    row("/spire.api.server.bundle.v1.Bundle/PublishWITAuthority", DOWNSTREAM, Shared),
    row("/spire.api.server.debug.v1.Debug/GetInfo", LOCAL, Shared),
    row("/spire.api.server.entry.v1.Entry/BatchCreateEntry", ADMIN_OR_LOCAL, Named),
    row("/spire.api.server.entry.v1.Entry/BatchDeleteEntry", ADMIN_OR_LOCAL, Named),
    row("/spire.api.server.entry.v1.Entry/BatchUpdateEntry", ADMIN_OR_LOCAL, Named),
    row("/spire.api.server.entry.v1.Entry/CountEntries", ADMIN_OR_LOCAL, Shared),
    row("/spire.api.server.entry.v1.Entry/GetAuthorizedEntries", AGENT, Caller),
    row("/spire.api.server.entry.v1.Entry/GetEntry", ADMIN_OR_LOCAL, Named),
    row("/spire.api.server.entry.v1.Entry/ListEntries", ADMIN_OR_LOCAL, Shared),
    row("/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries", AGENT, Caller),
    row("/spire.api.server.localauthority.v1.LocalAuthority/ActivateJWTAuthority", ADMIN_OR_LOCAL, Shared),
    row("/spire.api.server.localauthority.v1.LocalAuthority/ActivateWITAuthority", ADMIN_OR_LOCAL, Shared),
    row("/spire.api.server.localauthority.v1.LocalAuthority/ActivateX509Authority", ADMIN_OR_LOCAL, Shared),
    row("/spire.api.server.localauthority.v1.LocalAuthority/GetJWTAuthorityState", ADMIN_OR_LOCAL, Shared),
    row("/spire.api.server.localauthority.v1.LocalAuthority/GetWITAuthorityState", ADMIN_OR_LOCAL, Shared),
    row("/spire.api.server.localauthority.v1.LocalAuthority/GetX509AuthorityState", ADMIN_OR_LOCAL, Shared),
    row("/spire.api.server.localauthority.v1.LocalAuthority/PrepareJWTAuthority", ADMIN_OR_LOCAL, Shared),
    row("/spire.api.server.localauthority.v1.LocalAuthority/PrepareWITAuthority", ADMIN_OR_LOCAL, Shared),
    row("/spire.api.server.localauthority.v1.LocalAuthority/PrepareX509Authority", ADMIN_OR_LOCAL, Shared),
    row("/spire.api.server.localauthority.v1.LocalAuthority/RevokeJWTAuthority", ADMIN_OR_LOCAL, Shared),
    row("/spire.api.server.localauthority.v1.LocalAuthority/RevokeWITAuthority", ADMIN_OR_LOCAL, Shared),
    row("/spire.api.server.localauthority.v1.LocalAuthority/RevokeX509Authority", ADMIN_OR_LOCAL, Shared),
    row("/spire.api.server.localauthority.v1.LocalAuthority/RevokeX509UpstreamAuthority", ADMIN_OR_LOCAL, Shared),
    row("/spire.api.server.localauthority.v1.LocalAuthority/TaintJWTAuthority", ADMIN_OR_LOCAL, Shared),
    row("/spire.api.server.localauthority.v1.LocalAuthority/TaintWITAuthority", ADMIN_OR_LOCAL, Shared),
    row("/spire.api.server.localauthority.v1.LocalAuthority/TaintX509Authority", ADMIN_OR_LOCAL, Shared),
    row("/spire.api.server.localauthority.v1.LocalAuthority/TaintX509UpstreamAuthority", ADMIN_OR_LOCAL, Shared),
    row("/spire.api.server.logger.v1.Logger/GetLogger", LOCAL, Shared),
    row("/spire.api.server.logger.v1.Logger/ResetLogLevel", LOCAL, Shared),
    row("/spire.api.server.logger.v1.Logger/SetLogLevel", LOCAL, Shared),
    row("/spire.api.server.svid.v1.SVID/BatchNewWITSVID", AGENT, OwnEntries),
    row("/spire.api.server.svid.v1.SVID/BatchNewX509SVID", AGENT, OwnEntries),
    row("/spire.api.server.svid.v1.SVID/MintJWTSVID", ADMIN_OR_LOCAL, Named),
    row("/spire.api.server.svid.v1.SVID/MintWITSVID", ADMIN_OR_LOCAL, Named),
    row("/spire.api.server.svid.v1.SVID/MintX509SVID", ADMIN_OR_LOCAL, Named),
    row("/spire.api.server.svid.v1.SVID/NewDownstreamX509CA", DOWNSTREAM, Caller),
    row("/spire.api.server.svid.v1.SVID/NewJWTSVID", AGENT, OwnEntries),
    row("/spire.api.server.trustdomain.v1.TrustDomain/BatchCreateFederationRelationship", ADMIN_OR_LOCAL, Named),
    row("/spire.api.server.trustdomain.v1.TrustDomain/BatchDeleteFederationRelationship", ADMIN_OR_LOCAL, Named),
    row("/spire.api.server.trustdomain.v1.TrustDomain/BatchUpdateFederationRelationship", ADMIN_OR_LOCAL, Named),
    row("/spire.api.server.trustdomain.v1.TrustDomain/GetFederationRelationship", ADMIN_OR_LOCAL, Named),
    row("/spire.api.server.trustdomain.v1.TrustDomain/ListFederationRelationships", ADMIN_OR_LOCAL, Shared),
    row("/spire.api.server.trustdomain.v1.TrustDomain/RefreshBundle", ADMIN_OR_LOCAL, Named),
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

/// The row of a method, if the method is served.
pub(super) fn find(method: &str) -> Option<&'static Row> {
    TABLE
        .binary_search_by(|row| row.method.cmp(method))
        .ok()
        .map(|at| &TABLE[at])
}

/// Whether any method of `/package.Service/` is served.
pub(super) fn knows_service(service: &str) -> bool {
    let at = TABLE.partition_point(|row| row.method < service);
    TABLE
        .get(at)
        .is_some_and(|row| row.method.starts_with(service))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_found() {
        for row in TABLE {
            assert_eq!(find(row.method).map(|r| r.method), Some(row.method));
        }
        assert!(find("/spire.api.server.svid.v1.SVID/").is_none());
        assert!(find("").is_none());
    }

    #[test]
    fn each_method_admits_somebody() {
        for row in TABLE {
            assert_ne!(row.callers, NOBODY, "{}", row.method);
        }
    }

    #[test]
    fn who_is_no_administrator_reaches_nobody_else_s_things() {
        for row in TABLE {
            let reaches_others = row.target == Named;
            let callers = row.callers;
            // Federated bundles are public keys, which every agent gets.
            let public = row.method.ends_with("/GetFederatedBundle");
            assert!(
                !reaches_others || public || callers == ADMIN_OR_LOCAL,
                "{}",
                row.method
            );
        }
    }

    #[test]
    fn service_is_known_by_its_whole_name() {
        assert!(knows_service("/spire.api.server.svid.v1.SVID/"));
        assert!(knows_service("/chancery.cluster.v1.Cluster/"));
        assert!(!knows_service("/spire.api.server.svid.v1.SVI/"));
        assert!(!knows_service("/chancery.peer.v1.Raft/"));
        assert!(!knows_service("/zzz/"));
    }
}
