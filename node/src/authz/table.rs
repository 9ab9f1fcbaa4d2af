//! Who may call what: data, reviewed as data.
//!
//! One row a method; a method without a row does not exist for callers. Rows of
//! SPIRE's services say what SPIRE's default policy says. A test holds the rows
//! equal to the methods that the server serves.

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

/// A method and whom it admits.
#[derive(Debug)]
pub(super) struct Row {
    /// `/package.Service/Method`.
    pub(super) method: &'static str,
    /// Whom it admits.
    pub(super) callers: Callers,
}

const fn row(method: &'static str, callers: Callers) -> Row {
    Row { method, callers }
}

/// Every method that is served, sorted by path.
pub(super) const TABLE: &[Row] = &[
    row("/chancery.cluster.v1.Cluster/Status", ADMIN_OR_LOCAL),
    row(
        "/chancery.migrate.v1.Migration/ImportAgentBan",
        ADMIN_OR_LOCAL,
    ),
    row("/grpc.health.v1.Health/Check", LOCAL),
    row("/grpc.health.v1.Health/List", LOCAL),
    row("/grpc.health.v1.Health/Watch", LOCAL),
    row("/spire.api.server.agent.v1.Agent/AttestAgent", ANYONE),
    row("/spire.api.server.agent.v1.Agent/BanAgent", ADMIN_OR_LOCAL),
    row(
        "/spire.api.server.agent.v1.Agent/CountAgents",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.agent.v1.Agent/CreateJoinToken",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.agent.v1.Agent/DeleteAgent",
        ADMIN_OR_LOCAL,
    ),
    row("/spire.api.server.agent.v1.Agent/GetAgent", ADMIN_OR_LOCAL),
    row(
        "/spire.api.server.agent.v1.Agent/ListAgents",
        ADMIN_OR_LOCAL,
    ),
    row("/spire.api.server.agent.v1.Agent/PostStatus", AGENT),
    row("/spire.api.server.agent.v1.Agent/RenewAgent", AGENT),
    row(
        "/spire.api.server.bundle.v1.Bundle/AppendBundle",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.bundle.v1.Bundle/BatchCreateFederatedBundle",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.bundle.v1.Bundle/BatchDeleteFederatedBundle",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.bundle.v1.Bundle/BatchSetFederatedBundle",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.bundle.v1.Bundle/BatchUpdateFederatedBundle",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.bundle.v1.Bundle/CountBundles",
        ADMIN_OR_LOCAL,
    ),
    row("/spire.api.server.bundle.v1.Bundle/GetBundle", ANYONE),
    row(
        "/spire.api.server.bundle.v1.Bundle/GetFederatedBundle",
        ADMIN_LOCAL_OR_AGENT,
    ),
    row(
        "/spire.api.server.bundle.v1.Bundle/ListFederatedBundles",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.bundle.v1.Bundle/PublishJWTAuthority",
        DOWNSTREAM,
    ),
    row(
        "/spire.api.server.bundle.v1.Bundle/PublishWITAuthority",
        DOWNSTREAM,
    ),
    row("/spire.api.server.debug.v1.Debug/GetInfo", LOCAL),
    row(
        "/spire.api.server.entry.v1.Entry/BatchCreateEntry",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.entry.v1.Entry/BatchDeleteEntry",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.entry.v1.Entry/BatchUpdateEntry",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.entry.v1.Entry/CountEntries",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.entry.v1.Entry/GetAuthorizedEntries",
        AGENT,
    ),
    row("/spire.api.server.entry.v1.Entry/GetEntry", ADMIN_OR_LOCAL),
    row(
        "/spire.api.server.entry.v1.Entry/ListEntries",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries",
        AGENT,
    ),
    row(
        "/spire.api.server.localauthority.v1.LocalAuthority/ActivateJWTAuthority",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.localauthority.v1.LocalAuthority/ActivateWITAuthority",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.localauthority.v1.LocalAuthority/ActivateX509Authority",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.localauthority.v1.LocalAuthority/GetJWTAuthorityState",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.localauthority.v1.LocalAuthority/GetWITAuthorityState",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.localauthority.v1.LocalAuthority/GetX509AuthorityState",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.localauthority.v1.LocalAuthority/PrepareJWTAuthority",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.localauthority.v1.LocalAuthority/PrepareWITAuthority",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.localauthority.v1.LocalAuthority/PrepareX509Authority",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.localauthority.v1.LocalAuthority/RevokeJWTAuthority",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.localauthority.v1.LocalAuthority/RevokeWITAuthority",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.localauthority.v1.LocalAuthority/RevokeX509Authority",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.localauthority.v1.LocalAuthority/RevokeX509UpstreamAuthority",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.localauthority.v1.LocalAuthority/TaintJWTAuthority",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.localauthority.v1.LocalAuthority/TaintWITAuthority",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.localauthority.v1.LocalAuthority/TaintX509Authority",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.localauthority.v1.LocalAuthority/TaintX509UpstreamAuthority",
        ADMIN_OR_LOCAL,
    ),
    row("/spire.api.server.logger.v1.Logger/GetLogger", LOCAL),
    row("/spire.api.server.logger.v1.Logger/ResetLogLevel", LOCAL),
    row("/spire.api.server.logger.v1.Logger/SetLogLevel", LOCAL),
    row("/spire.api.server.svid.v1.SVID/BatchNewWITSVID", AGENT),
    row("/spire.api.server.svid.v1.SVID/BatchNewX509SVID", AGENT),
    row("/spire.api.server.svid.v1.SVID/MintJWTSVID", ADMIN_OR_LOCAL),
    row("/spire.api.server.svid.v1.SVID/MintWITSVID", ADMIN_OR_LOCAL),
    row(
        "/spire.api.server.svid.v1.SVID/MintX509SVID",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.svid.v1.SVID/NewDownstreamX509CA",
        DOWNSTREAM,
    ),
    row("/spire.api.server.svid.v1.SVID/NewJWTSVID", AGENT),
    row(
        "/spire.api.server.trustdomain.v1.TrustDomain/BatchCreateFederationRelationship",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.trustdomain.v1.TrustDomain/BatchDeleteFederationRelationship",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.trustdomain.v1.TrustDomain/BatchUpdateFederationRelationship",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.trustdomain.v1.TrustDomain/GetFederationRelationship",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.trustdomain.v1.TrustDomain/ListFederationRelationships",
        ADMIN_OR_LOCAL,
    ),
    row(
        "/spire.api.server.trustdomain.v1.TrustDomain/RefreshBundle",
        ADMIN_OR_LOCAL,
    ),
];

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
    fn every_served_method_has_a_row_and_every_row_a_method() {
        let served: Vec<&str> = chancery_api::METHODS
            .iter()
            .copied()
            .filter(|m| {
                [
                    "/spire.api.server.",
                    "/grpc.health.v1.",
                    "/chancery.cluster.v1.",
                    "/chancery.migrate.v1.",
                ]
                .iter()
                .any(|p| m.starts_with(p))
            })
            .collect();
        let rows: Vec<&str> = TABLE.iter().map(|row| row.method).collect();
        assert_eq!(rows, served);
    }

    #[test]
    fn rows_are_sorted_so_that_each_is_found() {
        assert!(TABLE.is_sorted_by(|a, b| a.method < b.method));
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
    fn service_is_known_by_its_whole_name() {
        assert!(knows_service("/spire.api.server.svid.v1.SVID/"));
        assert!(knows_service("/chancery.cluster.v1.Cluster/"));
        assert!(!knows_service("/spire.api.server.svid.v1.SVI/"));
        assert!(!knows_service("/chancery.peer.v1.Raft/"));
        assert!(!knows_service("/zzz/"));
    }
}
