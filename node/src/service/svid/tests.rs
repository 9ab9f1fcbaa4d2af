//! What is decided around the signatures; the signatures themselves are tested with a
//! whole node.

#![allow(clippy::unwrap_used)]

use super::*;
use chancery_raft_store::model::Agent;
use chancery_raft_store::view::Table;
use prost::Message;

fn agent() -> SpiffeId {
    SpiffeId::parse("spiffe://example.org/spire/agent/a").unwrap()
}

fn entry(id: &str, parent: &str) -> Arc<Entry> {
    Arc::new(Entry {
        id: id.into(),
        spiffe_path: format!("/{id}"),
        parent_path: parent.into(),
        ..Entry::default()
    })
}

fn directory(serial: Option<&str>, entries: &[Arc<Entry>]) -> Directory {
    let mut directory = Directory::default();
    if let Some(serial) = serial {
        let record = Agent {
            path: agent().path().into(),
            serial: serial.into(),
            ..Agent::default()
        };
        let key = Table::Agents.key(record.path.as_bytes());
        directory
            .absorb_row(&key, Some(&record.encode_to_vec()))
            .unwrap();
    }
    for entry in entries {
        let key = Table::Entries.key(entry.id.as_bytes());
        directory
            .absorb_row(&key, Some(&entry.encode_to_vec()))
            .unwrap();
    }
    directory
}

fn told(results: Vec<Result<Arc<Entry>, Status>>) -> Vec<Result<String, Code>> {
    results
        .into_iter()
        .map(|r| r.map(|e| e.id.clone()).map_err(|s| s.code()))
        .collect()
}

fn found(entries: &[Option<&str>]) -> Vec<Found> {
    let one =
        |id: &Option<&str>| id.map_or(Found::NotHere, |id| Found::Authorized(entry(id, "/p")));
    entries.iter().map(one).collect()
}

#[test]
fn naming_an_entry_is_not_authority() {
    let mine = entry("mine", agent().path());
    let other = entry("other", "/spire/agent/b");
    let directory = directory(Some("1"), &[mine, other]);
    let look = |id: &str| find(&directory, &agent(), id);
    assert!(matches!(look("mine"), Found::Authorized(e) if e.id == "mine"));
    assert!(matches!(look("other"), Found::NotHere));
    assert!(matches!(look("nobody"), Found::NotHere));
    // What cannot be an id needs no barrier.
    for id in ["", "a/b", &"x".repeat(256)] {
        assert!(matches!(look(id), Found::Never));
    }
}

#[test]
fn a_miss_is_decided_by_the_newer_state() {
    let here = found(&[Some("a"), None, None]);
    let newer = found(&[None, Some("b"), None]);
    assert_eq!(
        told(settle(here, Some(Ok(newer)))),
        [Ok("a".into()), Ok("b".into()), Err(Code::NotFound)]
    );
}

#[test]
fn without_a_barrier_a_miss_is_unavailable_and_the_rest_goes_on() {
    let here = found(&[Some("a"), None]);
    let refused = settle(here, Some(Err(Status::unavailable("no quorum"))));
    assert_eq!(told(refused), [Ok("a".into()), Err(Code::Unavailable)]);
}

#[test]
fn what_can_be_no_id_is_refused_without_a_barrier() {
    let results = settle(vec![Found::Never], None);
    assert_eq!(
        results[0].as_ref().unwrap_err().message(),
        "entry not found or not authorized"
    );
}

#[test]
fn items_are_refused_in_the_order_and_words_of_spire() {
    let text = |entry_id: &str, csr: &[u8]| {
        let item = api::NewX509svidParams {
            entry_id: entry_id.into(),
            csr: csr.to_vec(),
        };
        check_form(&item).map_err(|s| s.message().to_owned())
    };
    assert_eq!(text("", b""), Err("missing entry ID".into()));
    assert_eq!(text("e", b""), Err("missing CSR".into()));
    assert_eq!(text("e", b"c"), Ok(()));
}

#[test]
fn what_was_signed_for_an_agent_that_is_gone_does_not_leave() {
    let mine = entry("mine", agent().path());
    let stands = |directory: &Directory| still_stands(directory, &agent(), &mine);
    assert!(stands(&directory(Some("1"), &[Arc::clone(&mine)])).is_ok());
    for gone in [
        // Banned, evicted, and no longer authorized.
        directory(Some(""), &[Arc::clone(&mine)]),
        directory(None, &[Arc::clone(&mine)]),
        directory(Some("1"), &[]),
    ] {
        // Never a typed reason: nothing here is exact.
        let status = stands(&gone).unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.details().is_empty());
    }
}

#[test]
fn a_call_fails_as_a_whole_when_this_node_can_sign_nothing() {
    let away = || Err(Status::unavailable("no key"));
    let code = |items: &[Result<(), Status>]| nothing_possible(items).map(|s| s.code());
    assert_eq!(
        code(&[away(), Err(Status::not_found("x"))]),
        Some(Code::Unavailable)
    );
    assert_eq!(
        code(&[Err(Status::resource_exhausted("busy"))]),
        Some(Code::ResourceExhausted)
    );
    assert_eq!(code(&[away(), Ok(())]), None);
    assert_eq!(code(&[Err(Status::not_found("x"))]), None);
}

#[test]
fn an_audience_has_a_name_and_a_bound() {
    let check = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|n| (*n).to_owned()).collect();
        check_audience(&names).map_err(|s| (s.code(), s.message().to_owned()))
    };
    let none = "at least one audience is required";
    assert_eq!(check(&[]), Err((Code::InvalidArgument, none.into())));
    let empty = "failed to sign JWT-SVID: invalid JWT-SVID audience: cannot be empty";
    assert_eq!(check(&["", ""]), Err((Code::Internal, empty.into())));
    assert_eq!(check(&["a", "", "b"]), Ok(vec!["a".into(), "b".into()]));
    assert!(check(&[&"x".repeat(AUDIENCE_BYTES_MAX)]).is_ok());
    assert!(check(&[&"x".repeat(AUDIENCE_BYTES_MAX), "y"]).is_err());
}

#[test]
fn a_token_names_a_workload_whatever_an_entry_says() {
    let domain = TrustDomain::parse("example.org").unwrap();
    let id = |path| SpiffeId::new(&domain, path).unwrap();
    assert!(check_workload(&domain, &id("/web")).is_ok());
    let status = check_workload(&domain, &id("/spire/agent/x")).unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(
        status.message(),
        "invalid SPIFFE ID: \"spiffe://example.org/spire/agent/x\" is not a workload in trust \
         domain \"example.org\"; path is in the reserved namespace"
    );
}

#[test]
fn what_was_not_signed_is_named_and_keeps_its_code() {
    let status = unsigned("X509-SVID", IssueFailed::NoAuthority("X.509"));
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(
        status.message(),
        "failed to sign X509-SVID: no X.509 authority can sign on this node now; try another node"
    );
}
