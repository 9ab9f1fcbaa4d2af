//! How what became of a federated bundle is told.

#![allow(clippy::unwrap_used)]

use super::*;

fn bundle() -> FederatedBundle {
    FederatedBundle {
        trust_domain: "other.test".into(),
        refresh_hint: 5,
        ..FederatedBundle::default()
    }
}

fn result(refusal: Refusal) -> FederatedBundleResult {
    FederatedBundleResult {
        refusal: refusal.into(),
        entries: 2,
        more: false,
    }
}

fn words(status: Option<types::Status>) -> (i32, String) {
    // A stock agent reads the status without asking whether it is there.
    let status = status.unwrap();
    (status.code, status.message)
}

#[test]
fn each_outcome_of_a_creation_is_told_in_the_words_of_spire() {
    let told = |refusal| {
        let told = created(Ok((bundle(), result(refusal))), None);
        (words(told.status), told.bundle.map(|b| b.refresh_hint))
    };
    assert_eq!(told(Refusal::None), ((0, "OK".into()), Some(5)));
    assert_eq!(
        told(Refusal::AlreadyExists),
        ((6, "bundle already exists".into()), None)
    );
    let mask = types::BundleMask::default();
    let told = created(Ok((bundle(), result(Refusal::None))), Some(&mask));
    assert_eq!(told.bundle.unwrap().refresh_hint, 0);
    let told = created(Err(Status::unavailable("no quorum")), None);
    assert_eq!((words(told.status).0, told.bundle), (14, None));
}

#[test]
fn each_outcome_of_setting_is_told_in_the_words_of_spire() {
    let told = was_set(Ok((bundle(), result(Refusal::None))), None);
    assert_eq!(words(told.status), (0, "OK".into()));
    assert_eq!(told.bundle.unwrap().trust_domain, "other.test");
}

#[test]
fn each_outcome_of_an_update_is_told_in_the_words_of_spire() {
    let told = |refusal| {
        let stored = |_: &str| Some(types::Bundle::default());
        let told = updated(Ok((bundle(), result(refusal))), stored);
        (words(told.status), told.bundle.is_some())
    };
    assert_eq!(told(Refusal::None), ((0, "OK".into()), true));
    assert_eq!(
        told(Refusal::NotFound),
        ((5, "bundle not found".into()), false)
    );
}

#[test]
fn each_outcome_of_a_deletion_is_told_with_the_name_that_was_sent() {
    let sent = "spiffe://other.test";
    let told = |refusal| {
        let done = Ok(("other.test".into(), result(refusal)));
        let told = deleted(sent.into(), done, DeleteMode::Restrict);
        assert_eq!(told.trust_domain, sent);
        words(told.status)
    };
    assert_eq!(told(Refusal::None), (0, "OK".into()));
    assert_eq!(told(Refusal::NotFound), (5, "bundle not found".into()));
    let text = "failed to delete federated bundle: datastore-sql: cannot delete bundle; federated \
                with 2 registration entries";
    assert_eq!(told(Refusal::FederatedWith), (9, text.into()));
}

#[test]
fn a_deletion_goes_on_until_nothing_federates_with_the_bundle() {
    let step = |entries, more| FederatedBundleResult {
        entries,
        more,
        ..result(Refusal::None)
    };
    let named = |name: &str, result| Ok((name.to_owned(), result));
    let begun = || {
        vec![
            named("a.test", step(1000, true)),
            Err(Status::not_found("b")),
            named("c.test", step(3, false)),
            named("d.test", step(0, true)),
        ]
    };
    let mut results = begun();
    let left = unfinished(&results);
    assert_eq!(left, [(0, "a.test".into()), (3, "d.test".into())]);
    go_on(
        &mut results,
        &left,
        Ok(vec![step(500, false), step(500, true)]),
    );
    let left = unfinished(&results);
    assert_eq!(left, [(3, "d.test".into())]);
    go_on(&mut results, &left, Ok(vec![step(700, false)]));
    assert_eq!(unfinished(&results), []);
    let entries = results.iter().flatten().map(|(_, r)| r.entries);
    assert_eq!(entries.collect::<Vec<_>>(), [1500, 3, 1200]);

    // Cut short: each that is not done says so, and nothing asks for it again.
    let mut results = begun();
    let left = unfinished(&results);
    go_on(
        &mut results,
        &left,
        Err(Status::deadline_exceeded("out of time")),
    );
    assert_eq!(unfinished(&results), []);
    let status = results[0].as_ref().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(
        status.message(),
        "failed to delete federated bundle: out of time; 1000 registration entries no longer \
         federate with it, others do, and the bundle is still there: delete it again"
    );
    assert!(results[2].is_ok() && results[3].is_err());
}

#[test]
fn modes_are_those_of_the_wire() {
    let modes = [0, 1, 2].map(|mode| delete_mode(mode).unwrap());
    assert_eq!(
        modes,
        [
            DeleteMode::Restrict,
            DeleteMode::Delete,
            DeleteMode::Dissociate
        ]
    );
    let status = delete_mode(3).unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(
        status.message(),
        "failed to parse deletion mode: unhandled delete mode \"3\""
    );
}

#[test]
fn a_mask_chooses_what_is_taken_and_no_mask_is_everything() {
    let all = fields(None);
    assert!(all.x509_authorities && all.jwt_authorities);
    assert!(all.refresh_hint && all.sequence_number);
    let mask = types::BundleMask {
        jwt_authorities: true,
        wit_authorities: true,
        ..types::BundleMask::default()
    };
    let some = BundleFields {
        jwt_authorities: true,
        ..BundleFields::default()
    };
    assert_eq!(fields(Some(&mask)), some);
}

#[test]
fn the_own_trust_domain_is_refused_before_the_bundle_is_read() {
    let own = TrustDomain::parse("example.org").unwrap();
    let refused = |name: &str| {
        let bundle = types::Bundle {
            trust_domain: name.into(),
            x509_authorities: vec![types::X509Certificate::default()],
            ..types::Bundle::default()
        };
        let status = foreign_bundle(&own, bundle, "not allowed").unwrap_err();
        (status.code(), status.message().to_owned())
    };
    for name in ["example.org", "spiffe://example.org/x"] {
        assert_eq!(refused(name), (Code::InvalidArgument, "not allowed".into()));
    }
    assert_eq!(
        refused("").1,
        "trust domain argument is not valid: trust domain is missing"
    );
    assert_eq!(
        refused("other.test").1,
        "failed to convert bundle: unable to parse X.509 authority: x509: malformed certificate"
    );
}
