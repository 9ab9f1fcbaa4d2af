//! `localauthority` and `upstreamauthority` against a server that answers as told.

use chancery_api::chancery::cluster::v1::{SetAuthorityScopeResponse, StatusResponse};
use chancery_api::chancery::ledger::v1::{AuthorityHolders, GetHoldersRequest, GetHoldersResponse};
use chancery_api::spire::api::server::localauthority::v1::{
    ActivateJwtAuthorityRequest, ActivateJwtAuthorityResponse, ActivateX509AuthorityRequest,
    ActivateX509AuthorityResponse, AuthorityState, GetJwtAuthorityStateResponse,
    GetX509AuthorityStateResponse, PrepareJwtAuthorityResponse, PrepareX509AuthorityResponse,
    RevokeJwtAuthorityResponse, RevokeX509AuthorityResponse, RevokeX509UpstreamAuthorityRequest,
    RevokeX509UpstreamAuthorityResponse, TaintJwtAuthorityResponse, TaintX509AuthorityResponse,
    TaintX509UpstreamAuthorityRequest, TaintX509UpstreamAuthorityResponse,
};
use prost::Message;

use super::refused;
use crate::cli::testing::{Answer, FakeServer, cluster_status};

macro_rules! method {
    ($name:literal) => {
        concat!("/spire.api.server.localauthority.v1.LocalAuthority/", $name)
    };
}

const HOLDERS: &str = "/chancery.ledger.v1.Ledger/GetHolders";

fn held(id: &str, holders: u64, unnamed: bool, names: &[&str]) -> AuthorityHolders {
    AuthorityHolders {
        authority_id: id.into(),
        holders,
        unnamed,
        until: if holders > 0 || unnamed { 2_000 } else { 0 },
        names: names.iter().map(|name| (*name).into()).collect(),
    }
}

fn holders(authorities: Vec<AuthorityHolders>, unheard: &[&str]) -> Answer {
    let unheard = unheard.iter().map(|node| (*node).into()).collect();
    Answer::ok(
        HOLDERS,
        &GetHoldersResponse {
            authorities,
            unheard,
        },
    )
}

/// What a SPIRE server says to it.
fn no_ledger() -> Answer {
    Answer::refusal(HOLDERS, 12, "unknown service chancery.ledger.v1.Ledger")
}

fn state(id: &str, expires_at: i64, upstream: &str) -> Option<AuthorityState> {
    Some(AuthorityState {
        authority_id: id.into(),
        expires_at,
        upstream_authority_subject_key_id: upstream.into(),
    })
}

#[test]
fn x509_authorities_are_shown_with_those_that_signed_them() {
    const METHOD: &str = method!("GetX509AuthorityState");
    let all = GetX509AuthorityStateResponse {
        active: state("active-id", 1_001, "some-subject-key-id"),
        prepared: state("prepared-id", 1_002, ""),
        old: state("old-id", 1_003, "some-subject-key-id"),
    };
    let none = GetX509AuthorityStateResponse::default();
    let server = FakeServer::start([
        Answer::ok(METHOD, &all),
        no_ledger(),
        Answer::ok(METHOD, &all),
        no_ledger(),
        Answer::ok(METHOD, &none),
        no_ledger(),
        Answer::ok(METHOD, &none),
        no_ledger(),
        Answer::refusal(METHOD, 13, "internal server error"),
    ]);
    let line = "localauthority x509 show";
    assert_eq!(
        server.run(line).out,
        "\
Active X.509 authority:
  Authority ID: active-id
  Expires at: 1970-01-01 00:16:41 +0000 UTC
  Upstream authority Subject Key ID: some-subject-key-id

Prepared X.509 authority:
  Authority ID: prepared-id
  Expires at: 1970-01-01 00:16:42 +0000 UTC
  Upstream authority ID: No upstream authority

Old X.509 authority:
  Authority ID: old-id
  Expires at: 1970-01-01 00:16:43 +0000 UTC
  Upstream authority Subject Key ID: some-subject-key-id
"
    );
    assert_eq!(
        server.run(&format!("{line} -output json")).out,
        "{\"active\":{\"authority_id\":\"active-id\",\"expires_at\":\"1001\",\
         \"upstream_authority_subject_key_id\":\"some-subject-key-id\"},\
         \"old\":{\"authority_id\":\"old-id\",\"expires_at\":\"1003\",\
         \"upstream_authority_subject_key_id\":\"some-subject-key-id\"},\
         \"prepared\":{\"authority_id\":\"prepared-id\",\"expires_at\":\"1002\",\
         \"upstream_authority_subject_key_id\":\"\"}}\n"
    );
    assert_eq!(
        server.run(line).out,
        "\
Active X.509 authority:
  No active X.509 authority found

Prepared X.509 authority:
  No prepared X.509 authority found

Old X.509 authority:
  No old X.509 authority found
"
    );
    assert_eq!(server.run(&format!("{line} -output json")).out, "{}\n");
    assert_eq!(
        server.run(line).err,
        "Error: could not get X.509 authorities: rpc error: code = Internal desc = internal \
         server error\n"
    );
}

#[test]
fn jwt_authorities_are_shown_without_others() {
    const METHOD: &str = method!("GetJWTAuthorityState");
    let some = GetJwtAuthorityStateResponse {
        active: state("active-id", 1_001, ""),
        prepared: None,
        old: state("old-id", 1_003, ""),
    };
    let server = FakeServer::start([
        Answer::ok(METHOD, &some),
        no_ledger(),
        Answer::ok(METHOD, &some),
        no_ledger(),
        Answer::refusal(METHOD, 13, "internal server error"),
    ]);
    let line = "localauthority jwt show";
    assert_eq!(
        server.run(line).out,
        "\
Active JWT authority:
  Authority ID: active-id
  Expires at: 1970-01-01 00:16:41 +0000 UTC

Prepared JWT authority:
  No prepared JWT authority found

Old JWT authority:
  Authority ID: old-id
  Expires at: 1970-01-01 00:16:43 +0000 UTC
"
    );
    assert_eq!(
        server.run(&format!("{line} -output json")).out,
        "{\"active\":{\"authority_id\":\"active-id\",\"expires_at\":\"1001\",\
         \"upstream_authority_subject_key_id\":\"\"},\
         \"old\":{\"authority_id\":\"old-id\",\"expires_at\":\"1003\",\
         \"upstream_authority_subject_key_id\":\"\"}}\n"
    );
    assert_eq!(
        server.run(line).err,
        "Error: rpc error: code = Internal desc = internal server error\n"
    );
}

/// One change: its line, its method, its whole answer and its empty one, and its words.
struct Change {
    line: &'static str,
    method: &'static str,
    whole: Vec<u8>,
    member: &'static str,
    kind: &'static str,
    verb: &'static str,
    done: &'static str,
}

fn changes() -> Vec<Change> {
    macro_rules! change {
        ($noun:literal, $kind:literal, $verb:literal, $method:literal, $done:literal,
         $response:ident { $member:ident }) => {
            Change {
                line: concat!(
                    "localauthority ",
                    $noun,
                    " ",
                    $verb,
                    " -authorityID some-id"
                ),
                method: method!($method),
                whole: $response {
                    $member: state("some-id", 1_001, ""),
                }
                .encode_to_vec(),
                member: stringify!($member),
                kind: $kind,
                verb: $verb,
                done: $done,
            }
        };
    }
    let without_id = |change: Change| Change {
        line: change
            .line
            .strip_suffix(" -authorityID some-id")
            .unwrap_or(change.line),
        ..change
    };
    vec![
        without_id(change!(
            "x509",
            "X.509",
            "prepare",
            "PrepareX509Authority",
            "Prepared",
            PrepareX509AuthorityResponse { prepared_authority }
        )),
        change!(
            "x509",
            "X.509",
            "activate",
            "ActivateX509Authority",
            "Activated",
            ActivateX509AuthorityResponse {
                activated_authority
            }
        ),
        change!(
            "x509",
            "X.509",
            "taint",
            "TaintX509Authority",
            "Tainted",
            TaintX509AuthorityResponse { tainted_authority }
        ),
        change!(
            "x509",
            "X.509",
            "revoke",
            "RevokeX509Authority",
            "Revoked",
            RevokeX509AuthorityResponse { revoked_authority }
        ),
        without_id(change!(
            "jwt",
            "JWT",
            "prepare",
            "PrepareJWTAuthority",
            "Prepared",
            PrepareJwtAuthorityResponse { prepared_authority }
        )),
        change!(
            "jwt",
            "JWT",
            "activate",
            "ActivateJWTAuthority",
            "Activated",
            ActivateJwtAuthorityResponse {
                activated_authority
            }
        ),
        change!(
            "jwt",
            "JWT",
            "taint",
            "TaintJWTAuthority",
            "Tainted",
            TaintJwtAuthorityResponse { tainted_authority }
        ),
        change!(
            "jwt",
            "JWT",
            "revoke",
            "RevokeJWTAuthority",
            "Revoked",
            RevokeJwtAuthorityResponse { revoked_authority }
        ),
    ]
}

#[test]
fn every_change_prints_the_authority_it_is_about() {
    for change in changes() {
        let Change {
            line,
            method,
            member,
            kind,
            verb,
            done,
            ..
        } = change;
        let whole = || Answer::ok(method, &Raw(change.whole.clone()));
        let answers = [
            whole(),
            whole(),
            Answer::ok(method, &()),
            Answer::refusal(method, 13, "internal server error"),
        ];
        // Before a revocation somebody is asked who that cuts off: here nobody.
        let asks = verb == "revoke";
        let server = FakeServer::start(answers.into_iter().flat_map(|answer| {
            let before = asks.then(|| holders(vec![held("some-id", 0, false, &[])], &[]));
            before.into_iter().chain([answer])
        }));
        let upstream = match kind {
            "X.509" => "  Upstream authority ID: No upstream authority\n",
            _ => "",
        };
        let outcome = server.run(line);
        assert_eq!(
            outcome.out,
            format!(
                "{done} {kind} authority:\n  Authority ID: some-id\n  \
                 Expires at: 1970-01-01 00:16:41 +0000 UTC\n{upstream}"
            ),
            "{line}: {}",
            outcome.err
        );
        assert_eq!(
            server.run(&format!("{line} -output json")).out,
            format!(
                "{{\"{member}\":{{\"authority_id\":\"some-id\",\"expires_at\":\"1001\",\
                 \"upstream_authority_subject_key_id\":\"\"}}}}\n"
            )
        );
        assert_eq!(
            server.run(line).err,
            format!(
                "Error: internal error: expected to have {} {kind} authority information\n",
                done.to_lowercase()
            )
        );
        assert_eq!(
            server.run(line).err,
            format!(
                "Error: could not {verb} {kind} authority: rpc error: code = Internal desc = \
                 internal server error\n"
            )
        );
        // All requests that name an authority do so in their first field.
        let at = usize::from(asks);
        let request: ActivateX509AuthorityRequest = server.request(at);
        let named = if verb == "prepare" { "" } else { "some-id" };
        assert_eq!(request.authority_id, named, "{line}");
        let _: ActivateJwtAuthorityRequest = server.request(at);
    }
}

#[test]
fn holders_stand_below_the_authority_that_they_hold_something_of() {
    const METHOD: &str = method!("GetX509AuthorityState");
    let all = GetX509AuthorityStateResponse {
        active: state("active-id", 1_001, ""),
        prepared: state("prepared-id", 1_002, ""),
        old: state("old-id", 1_003, ""),
    };
    let lines = |active, old, unheard: &[&str]| {
        let server = FakeServer::start([
            Answer::ok(METHOD, &all),
            holders(
                vec![active, held("prepared-id", 0, false, &[]), old],
                unheard,
            ),
        ]);
        let outcome = server.run("localauthority x509 show");
        let request: GetHoldersRequest = server.request(1);
        assert_eq!((&*request.kind, &*request.authority_id), ("x509", ""));
        let lines = outcome.out.lines().filter(|line| line.contains("older"));
        (lines.map(str::to_owned).collect::<Vec<_>>(), outcome.err)
    };
    let until = "until 1970-01-01 00:33:20 +0000 UTC";
    let (shown, err) = lines(
        held("active-id", 3, false, &[]),
        held("old-id", 1, false, &[]),
        &[],
    );
    assert_eq!(
        shown,
        [
            format!("  3 holders, {until}"),
            format!("  1 holder left, {until}")
        ]
    );
    assert_eq!(err, "");
    let (shown, err) = lines(
        held("active-id", 0, true, &[]),
        held("old-id", 2, true, &[]),
        &["2", "3"],
    );
    assert_eq!(
        shown,
        [
            format!("  An unknown number of holders, {until}"),
            format!("  2 holders left and others who are not known, {until}")
        ]
    );
    assert_eq!(
        err,
        "warning: nodes 2, 3 may have handed out documents of which the ledger has not heard: not in touch, \
         or without a quorum\n"
    );
    let (shown, _) = lines(
        held("active-id", 0, false, &[]),
        held("old-id", 0, false, &[]),
        &[],
    );
    assert_eq!(shown, ["  No holders", "  No holders left"]);
}

#[test]
fn programs_get_the_holders_beside_the_authorities() {
    const METHOD: &str = method!("GetJWTAuthorityState");
    let server = FakeServer::start([
        Answer::ok(
            METHOD,
            &GetJwtAuthorityStateResponse {
                old: state("old-id", 1_003, ""),
                ..GetJwtAuthorityStateResponse::default()
            },
        ),
        holders(
            vec![held("old-id", 1, false, &["spiffe://example.org/a"])],
            &["3"],
        ),
    ]);
    assert_eq!(
        server.run("localauthority jwt show -output json").out,
        "{\"holders\":{\"authorities\":[{\"authority_id\":\"old-id\",\"holders\":\"1\",\
         \"names\":[\"spiffe://example.org/a\"],\"unnamed\":false,\"until\":\"2000\"}],\
         \"unheard\":[\"3\"]},\"old\":{\"authority_id\":\"old-id\",\"expires_at\":\"1003\",\
         \"upstream_authority_subject_key_id\":\"\"}}\n"
    );
    let request: GetHoldersRequest = server.request(1);
    assert_eq!((&*request.kind, request.names), ("jwt", 1_000));
}

#[test]
fn an_authority_with_holders_is_revoked_by_force_alone() {
    const METHOD: &str = method!("RevokeX509Authority");
    let line = "localauthority x509 revoke -authorityID old-id";
    let refused = |answer: Answer| {
        let server = FakeServer::start([answer]);
        let outcome = server.run(line);
        let request: GetHoldersRequest = server.request(0);
        assert_eq!((&*request.kind, &*request.authority_id), ("x509", "old-id"));
        assert!(!outcome.success && outcome.out.is_empty());
        outcome.err
    };
    let one = held("old-id", 1, false, &["spiffe://example.org/a"]);
    assert_eq!(
        refused(holders(vec![one.clone()], &["2"])),
        "Error: 1 holder (spiffe://example.org/a) still has documents of authority old-id, until 1970-01-01 \
         00:33:20 +0000 UTC; wait until `chancery localauthority x509 show` says that none are left, or give \
         -force to cut them off\n"
    );
    let many = held("old-id", 7, true, &["spiffe://example.org/a"]);
    let err = refused(holders(vec![many], &[]));
    assert!(
        err.starts_with(
            "Error: 7 holders and others who are not known (spiffe://example.org/a, …) still have documents"
        ),
        "{err}"
    );
    assert_eq!(
        refused(holders(vec![held("old-id", 0, false, &[])], &["2"])),
        "Error: node 2 may have handed out documents of which the ledger has not heard: not in touch, or \
         without a quorum; bring it back, remove it with `chancery cluster remove`, or give -force\n"
    );
    assert_eq!(
        refused(Answer::refusal(HOLDERS, 14, "later")),
        "Error: could not get holders: rpc error: code = Unavailable desc = later\n"
    );
    let done = RevokeX509AuthorityResponse {
        revoked_authority: state("old-id", 1_001, ""),
    };
    let server = FakeServer::start([Answer::ok(METHOD, &done)]);
    let outcome = server.run(&format!("{line} -force"));
    assert!(
        outcome.out.starts_with("Revoked X.509 authority:\n"),
        "{}",
        outcome.err
    );
    server.all_answered();
    // A SPIRE server has no ledger, and revokes.
    let server = FakeServer::start([no_ledger(), Answer::ok(METHOD, &done)]);
    assert!(server.run(line).success);
    server.all_answered();
}

/// An answer that is encoded already.
#[derive(Debug)]
struct Raw(Vec<u8>);

impl Message for Raw {
    fn encode_raw(&self, buffer: &mut impl bytes::BufMut) {
        buffer.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        _: u32,
        _: prost::encoding::WireType,
        _: &mut impl bytes::Buf,
        _: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {}
}

#[test]
fn upstream_authorities_are_named_by_their_subject_key_id() {
    const TAINT: &str = method!("TaintX509UpstreamAuthority");
    const REVOKE: &str = method!("RevokeX509UpstreamAuthority");
    let id = || "0ba1f6c9".to_owned();
    let tainted = TaintX509UpstreamAuthorityResponse {
        upstream_authority_subject_key_id: id(),
    };
    let revoked = RevokeX509UpstreamAuthorityResponse {
        upstream_authority_subject_key_id: id(),
    };
    let server = FakeServer::start([
        Answer::ok(TAINT, &tainted),
        Answer::ok(REVOKE, &revoked),
        Answer::ok(REVOKE, &revoked),
        Answer::refusal(TAINT, 13, "internal server error"),
        Answer::refusal(REVOKE, 13, "internal server error"),
    ]);
    let taint = "upstreamauthority taint -subjectKeyID 0ba1f6c9";
    let revoke = "upstreamauthority revoke -subjectKeyID 0ba1f6c9";
    assert_eq!(
        server.run(taint).out,
        "Tainted X.509 upstream authority:\n  Subject Key ID: 0ba1f6c9\n"
    );
    assert_eq!(
        server.run(revoke).out,
        "Revoked X.509 upstream authority:\n  Subject Key ID: 0ba1f6c9\n"
    );
    assert_eq!(
        server.run(&format!("{revoke} -output json")).out,
        "{\"upstream_authority_subject_key_id\":\"0ba1f6c9\"}\n"
    );
    for (line, verb) in [(taint, "taint"), (revoke, "revoke")] {
        assert_eq!(
            server.run(line).err,
            format!(
                "Error: could not {verb} X.509 upstream authority: rpc error: code = Internal \
                 desc = internal server error\n"
            )
        );
    }
    let request: TaintX509UpstreamAuthorityRequest = server.request(0);
    assert_eq!(request.subject_key_id, "0ba1f6c9");
    let request: RevokeX509UpstreamAuthorityRequest = server.request(1);
    assert_eq!(request.subject_key_id, "0ba1f6c9");
}

#[test]
fn an_authority_has_to_be_named() {
    for kind in ["x509", "jwt"] {
        for verb in ["activate", "taint", "revoke"] {
            assert_eq!(
                refused(&format!("localauthority {kind} {verb}")),
                "Error: an authority ID is required\n"
            );
        }
    }
    for verb in ["taint", "revoke"] {
        assert_eq!(
            refused(&format!("upstreamauthority {verb}")),
            "Error: the Subject Key ID of the X.509 upstream authority is required\n"
        );
    }
}

const STATUS: &str = "/chancery.cluster.v1.Cluster/Status";
const SET_SCOPE: &str = "/chancery.cluster.v1.Cluster/SetAuthorityScope";

#[test]
fn the_scope_of_authorities_is_shown_and_set_and_what_is_left_is_told() {
    let set = |before: &str, scope: &str| {
        let (before, scope) = (before.into(), scope.into());
        Answer::ok(SET_SCOPE, &SetAuthorityScopeResponse { before, scope })
    };
    let status = |scope: &str, left: &[&str]| {
        let status = StatusResponse {
            authority_scope: scope.into(),
            scope_left: left.iter().map(|line| (*line).to_owned()).collect(),
            ..cluster_status()
        };
        Answer::ok(STATUS, &status)
    };
    let missing = "X.509: node 3 has no authority of its own that signs";
    let server = FakeServer::start([
        status("shared", &[]),
        status("", &[]),
        status("per-node", &[missing]),
        set("shared", "per-node"),
        status(
            "per-node",
            &[
                missing,
                "JWT: agents learn of the new authority for 9 s more",
            ],
        ),
        status(
            "per-node",
            &["JWT: agents learn of the new authority for 8 s more"],
        ),
        status("per-node", &[]),
        set("", "shared"),
        status("shared", &[missing]),
        set("per-node", "shared"),
        status("shared", &[]),
        status("shared", &[]),
    ]);
    let run = |words: &str| server.run(format!("localauthority migrate {words}").trim_end());
    assert_eq!(run("").out, "Authorities are shared.\n");
    assert_eq!(
        run("").out,
        "Authorities are shared where keys are in a token, and each node's own elsewhere.\n"
    );
    assert_eq!(
        run("-output json").out,
        format!("{{\"left\":[\"{missing}\"],\"scope\":\"per-node\"}}\n")
    );
    let done = run("per-node");
    assert_eq!(
        done.out,
        "Authorities were shared and are to be per-node.\n\
         Done: every node signs with authorities of its own.\n\
         What signed before stays in the trust bundle until it ends, unless it is tainted and revoked.\n"
    );
    assert_eq!(
        done.err,
        format!("{missing}\nJWT: agents learn of the new authority for 9 s more\n")
    );
    assert_eq!(
        run("shared -wait 0").out,
        format!("Authorities are to be shared.\n{missing}\n")
    );
    assert_eq!(
        run("shared -output json").out,
        "{\"left\":[],\"scope\":\"shared\"}\n"
    );
    server.all_answered();
    let unknown = run("own");
    assert!(!unknown.success);
    assert!(unknown.err.contains("per-node"), "{}", unknown.err);
}
