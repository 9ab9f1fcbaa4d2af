//! `localauthority` and `upstreamauthority` against a server that answers as told.

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
use crate::cli::testing::{Answer, FakeServer};

macro_rules! method {
    ($name:literal) => {
        concat!("/spire.api.server.localauthority.v1.LocalAuthority/", $name)
    };
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
        Answer::ok(METHOD, &all),
        Answer::ok(METHOD, &none),
        Answer::ok(METHOD, &none),
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
        Answer::ok(METHOD, &some),
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
        let server = FakeServer::start([
            whole(),
            whole(),
            Answer::ok(method, &()),
            Answer::refusal(method, 13, "internal server error"),
        ]);
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
        let request: ActivateX509AuthorityRequest = server.request(0);
        let named = if verb == "prepare" { "" } else { "some-id" };
        assert_eq!(request.authority_id, named, "{line}");
        let _: ActivateJwtAuthorityRequest = server.request(0);
    }
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
