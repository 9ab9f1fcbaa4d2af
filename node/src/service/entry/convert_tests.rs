//! What an entry may say, and how much of it is told.

#![allow(clippy::unwrap_used)]

use tonic::Code;

use super::*;

fn domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn id(path: &str) -> Option<types::Spiffeid> {
    Some(types::Spiffeid {
        trust_domain: "example.org".into(),
        path: path.into(),
    })
}

fn selector(kind: &str, value: &str) -> types::Selector {
    types::Selector {
        r#type: kind.into(),
        value: value.into(),
    }
}

/// An entry in which every field says something.
fn full() -> types::Entry {
    types::Entry {
        id: "entry-1".into(),
        spiffe_id: id("/web"),
        parent_id: id("/spire/agent/x/1"),
        selectors: vec![selector("unix", "uid:1"), selector("unix", "gid:1")],
        x509_svid_ttl: 60,
        federates_with: vec![],
        admin: true,
        downstream: true,
        expires_at: 9,
        dns_names: vec!["b.example.org".into(), "a.example.org".into()],
        revision_number: 7,
        store_svid: true,
        jwt_svid_ttl: 30,
        hint: "hint".into(),
        created_at: 8,
        additional_attributes: Some(types::entry::AdditionalAttributes {
            disable_x509_svid_prefetch: false,
            jwt_svid_include_jti: true,
        }),
    }
}

fn refused(change: impl FnOnce(&mut types::Entry)) -> (Code, String) {
    let mut entry = full();
    change(&mut entry);
    let status = draft(&domain(), entry).unwrap_err();
    (status.code(), status.message().to_owned())
}

#[test]
fn what_is_written_is_what_is_told() {
    let entry = draft(&domain(), full()).unwrap();
    let told = message(&domain(), &entry, None);
    // These three are the registry's to say.
    assert_eq!(
        told,
        types::Entry {
            revision_number: 0,
            created_at: 0,
            ..full()
        }
    );
    assert_eq!(entry.sequence, 0);
}

#[test]
fn an_id_is_chosen_where_none_is_given() {
    let mut entry = full();
    entry.id.clear();
    let first = draft(&domain(), entry.clone()).unwrap();
    assert_ne!(first.id, draft(&domain(), entry).unwrap().id);
    assert!(EntryId::parse(first.id).is_ok());
}

#[test]
fn selectors_said_twice_are_stored_once_in_their_order() {
    let mut entry = full();
    entry.selectors = vec![selector("b", "1"), selector("a", "1"), selector("b", "1")];
    entry.store_svid = false;
    let entry = draft(&domain(), entry).unwrap();
    assert_eq!(
        wire::selector_messages(&entry.selectors),
        [selector("b", "1"), selector("a", "1")]
    );
}

#[test]
fn conversion_refuses_in_the_words_of_spire() {
    type Change = fn(&mut types::Entry);
    let table: [(Change, &str); 12] = [
        (
            |e| e.parent_id = None,
            "invalid parent ID: request must specify SPIFFE ID",
        ),
        (
            |e| e.parent_id = id(""),
            "invalid parent ID: \"spiffe://example.org\" is not a member of trust domain \
             \"example.org\"; path is empty",
        ),
        (
            |e| e.spiffe_id = None,
            "invalid spiffe ID: request must specify SPIFFE ID",
        ),
        (
            |e| e.spiffe_id = id("/spire/x"),
            "invalid spiffe ID: \"spiffe://example.org/spire/x\" is not a workload in trust domain \
             \"example.org\"; path is in the reserved namespace",
        ),
        (
            |e| e.dns_names = vec!["ä".into()],
            "invalid DNS name: name must be ascii",
        ),
        (
            |e| e.dns_names = vec!["a.".into()],
            "invalid DNS name: domain ends with dot",
        ),
        (
            |e| e.federates_with = vec!["Other".into()],
            "invalid federated trust domain: trust domain characters are limited to lowercase \
             letters, numbers, dots, dashes, and underscores",
        ),
        (|e| e.selectors.clear(), "selector list is empty"),
        (|e| e.selectors[0].r#type.clear(), "missing selector type"),
        (
            |e| e.selectors[0].r#type = "a:b".into(),
            "selector type contains ':'",
        ),
        (|e| e.selectors[1].value.clear(), "missing selector value"),
        (
            |e| e.hint = "x".repeat(1025),
            "hint is too long, max length is 1024 characters",
        ),
    ];
    for (change, text) in table {
        let expected = format!("failed to convert entry: {text}");
        assert_eq!(refused(change), (Code::InvalidArgument, expected));
    }
}

#[test]
fn the_store_refuses_in_the_words_of_spire() {
    type Change = fn(&mut types::Entry);
    let table: [(Change, &str); 7] = [
        (
            |e| {
                e.additional_attributes = Some(types::entry::AdditionalAttributes {
                    disable_x509_svid_prefetch: true,
                    jwt_svid_include_jti: false,
                });
            },
            "specifying cache behaviour is incompatible with storable SVIDs",
        ),
        (
            |e| e.selectors.push(selector("k8s", "ns:a")),
            "invalid registration entry: selector types must be the same when store SVID is enabled",
        ),
        (
            |e| e.id = "x".repeat(256),
            "invalid registration entry: entry ID too long",
        ),
        (
            |e| e.id = "a/b".into(),
            "invalid registration entry: entry ID contains invalid characters",
        ),
        (
            |e| e.x509_svid_ttl = -1,
            "invalid registration entry: X509SvidTtl is not set",
        ),
        (
            |e| e.jwt_svid_ttl = -1,
            "invalid registration entry: JwtSvidTtl is not set",
        ),
        (
            |e| e.selectors[0].value = "x".repeat(Entry::BYTES_MAX),
            "invalid registration entry: larger than 262144 bytes",
        ),
    ];
    for (change, text) in table {
        let expected = format!("failed to create entry: datastore-validation: {text}");
        assert_eq!(refused(change), (Code::InvalidArgument, expected));
    }
}

#[test]
fn trust_domains_to_federate_with_are_names_and_stand_once() {
    let entry = types::Entry {
        federates_with: vec![
            "spiffe://other.org".into(),
            "a.org".into(),
            "other.org".into(),
        ],
        ..full()
    };
    let drafted = draft(&domain(), entry).unwrap();
    assert_eq!(drafted.federates_with, ["other.org", "a.org"]);
}

#[test]
fn bounds_are_allowed_up_to_themselves() {
    let mut entry = full();
    entry.id = "x".repeat(255);
    entry.hint = "x".repeat(1024);
    assert!(draft(&domain(), entry).is_ok());
}

#[test]
fn the_mask_hides_everything_but_the_id() {
    let mut entry = draft(&domain(), full()).unwrap();
    (entry.revision_number, entry.created_at) = (7, 8);
    entry.federates_with = vec!["other.org".into()];
    let full = message(&domain(), &entry, None);
    let none = message(&domain(), &entry, Some(&types::EntryMask::default()));
    assert_eq!(
        none,
        types::Entry {
            id: "entry-1".into(),
            ..Default::default()
        }
    );
    type Field = (
        fn(&mut types::EntryMask),
        fn(&mut types::Entry, &types::Entry),
    );
    let fields: [Field; 15] = [
        (
            |m| m.spiffe_id = true,
            |e, f| e.spiffe_id.clone_from(&f.spiffe_id),
        ),
        (
            |m| m.parent_id = true,
            |e, f| e.parent_id.clone_from(&f.parent_id),
        ),
        (
            |m| m.selectors = true,
            |e, f| e.selectors.clone_from(&f.selectors),
        ),
        (
            |m| m.x509_svid_ttl = true,
            |e, f| e.x509_svid_ttl = f.x509_svid_ttl,
        ),
        (
            |m| m.federates_with = true,
            |e, f| e.federates_with.clone_from(&f.federates_with),
        ),
        (|m| m.admin = true, |e, f| e.admin = f.admin),
        (|m| m.downstream = true, |e, f| e.downstream = f.downstream),
        (|m| m.expires_at = true, |e, f| e.expires_at = f.expires_at),
        (
            |m| m.dns_names = true,
            |e, f| e.dns_names.clone_from(&f.dns_names),
        ),
        (
            |m| m.revision_number = true,
            |e, f| e.revision_number = f.revision_number,
        ),
        (|m| m.store_svid = true, |e, f| e.store_svid = f.store_svid),
        (
            |m| m.jwt_svid_ttl = true,
            |e, f| e.jwt_svid_ttl = f.jwt_svid_ttl,
        ),
        (|m| m.hint = true, |e, f| e.hint.clone_from(&f.hint)),
        (|m| m.created_at = true, |e, f| e.created_at = f.created_at),
        (
            |m| m.additional_attributes = true,
            |e, f| e.additional_attributes.clone_from(&f.additional_attributes),
        ),
    ];
    let mut all = none.clone();
    for (show, expect) in fields {
        let mut mask = types::EntryMask::default();
        show(&mut mask);
        let mut expected = none.clone();
        expect(&mut expected, &full);
        assert_ne!(expected, none, "the sample says nothing in a field");
        assert_eq!(message(&domain(), &entry, Some(&mask)), expected);
        expect(&mut all, &full);
    }
    assert_eq!(all, full, "a field is in no mask");
}

#[test]
fn an_entry_without_additional_attributes_tells_none() {
    let mut entry = full();
    entry.additional_attributes = None;
    let entry = draft(&domain(), entry).unwrap();
    assert_eq!(message(&domain(), &entry, None).additional_attributes, None);
}

fn updated(
    mask: Option<&types::EntryMask>,
    change: impl FnOnce(&mut types::Entry),
) -> Result<EntryUpdate, (Code, String)> {
    let mut entry = full();
    change(&mut entry);
    update(&domain(), entry, mask).map_err(|s| (s.code(), s.message().to_owned()))
}

#[test]
fn an_update_without_a_mask_is_of_everything() {
    let update = updated(None, |_| ()).unwrap();
    assert_eq!(
        (update.id.as_str(), update.fields),
        ("entry-1", Some(EntryFields::ALL))
    );
    let before = Entry {
        id: "entry-1".into(),
        sequence: 5,
        revision_number: 3,
        created_at: 4,
        ..Entry::default()
    };
    assert_eq!(
        message(&domain(), &update.onto(&before), None),
        types::Entry {
            revision_number: 3,
            created_at: 4,
            ..full()
        }
    );
}

#[test]
fn an_update_looks_at_what_the_mask_names_and_at_nothing_else() {
    let mask = types::EntryMask {
        revision_number: true,
        created_at: true,
        ..Default::default()
    };
    // Nothing of this would pass if it were looked at.
    let nonsense = types::Entry {
        id: "entry-1".into(),
        parent_id: id(""),
        spiffe_id: None,
        selectors: vec![selector("a:b", "")],
        dns_names: vec!["ä".into()],
        federates_with: vec!["No Domain".into()],
        hint: "x".repeat(Entry::BYTES_MAX),
        x509_svid_ttl: -1,
        jwt_svid_ttl: -1,
        ..full()
    };
    let update = updated(Some(&mask), |e| *e = nonsense.clone()).unwrap();
    assert_eq!(update.values, Some(Entry::default()));
    assert_eq!(update.fields, Some(EntryFields::default()));
    type Named = (fn(&mut types::EntryMask), &'static str);
    let each: [Named; 8] = [
        (|m| m.parent_id = true, "convert entry: invalid parent ID: "),
        (
            |m| m.spiffe_id = true,
            "convert entry: invalid spiffe ID: request must specify SPIFFE ID",
        ),
        (
            |m| m.selectors = true,
            "convert entry: selector type contains ':'",
        ),
        (
            |m| m.dns_names = true,
            "convert entry: invalid DNS name: name must be ascii",
        ),
        (
            |m| m.federates_with = true,
            "convert entry: invalid federated trust domain: ",
        ),
        (
            |m| m.hint = true,
            "convert entry: hint is too long, max length is 1024 characters",
        ),
        (
            |m| m.x509_svid_ttl = true,
            "update entry: datastore-validation: invalid registration entry: X509SvidTtl is not set",
        ),
        (
            |m| m.jwt_svid_ttl = true,
            "update entry: datastore-validation: invalid registration entry: JwtSvidTtl is not set",
        ),
    ];
    for (name, text) in each {
        let mut mask = types::EntryMask::default();
        name(&mut mask);
        let (code, told) = updated(Some(&mask), |e| *e = nonsense.clone()).unwrap_err();
        assert_eq!(code, Code::InvalidArgument);
        assert!(told.starts_with(&format!("failed to {text}")), "{told}");
    }
}

#[test]
fn each_field_of_an_input_mask_is_its_own() {
    type Field = fn(&mut types::EntryMask);
    let each: [Field; 13] = [
        |m| m.spiffe_id = true,
        |m| m.parent_id = true,
        |m| m.selectors = true,
        |m| m.x509_svid_ttl = true,
        |m| m.jwt_svid_ttl = true,
        |m| m.federates_with = true,
        |m| m.admin = true,
        |m| m.downstream = true,
        |m| m.expires_at = true,
        |m| m.dns_names = true,
        |m| m.store_svid = true,
        |m| m.hint = true,
        |m| m.additional_attributes = true,
    ];
    let told = |mask: &types::EntryMask| {
        let update = updated(Some(mask), |_| ()).unwrap();
        message(&domain(), &update.onto(&Entry::default()), None)
    };
    let mut all = types::EntryMask::default();
    for set in each {
        let mut mask = types::EntryMask::default();
        set(&mut mask);
        set(&mut all);
        let one = told(&mask);
        // The same mask shows nothing of what it did not set.
        let mut entry = draft(&domain(), full()).unwrap();
        entry.id.clear();
        let empty = types::Spiffeid {
            trust_domain: "example.org".into(),
            path: String::new(),
        };
        let mut expected = message(&domain(), &entry, Some(&mask));
        expected.spiffe_id.get_or_insert(empty.clone());
        expected.parent_id.get_or_insert(empty);
        assert_eq!(one, expected, "{mask:?}");
    }
    assert_eq!(
        updated(Some(&all), |_| ()).unwrap().fields,
        Some(EntryFields::ALL)
    );
}

#[test]
fn an_update_of_an_id_that_no_entry_can_have_finds_none() {
    for id in ["", "a/b", &"x".repeat(256)] {
        let refused = updated(None, |e| e.id = id.into()).unwrap_err();
        assert_eq!(
            refused,
            (Code::NotFound, "failed to update entry".into()),
            "{id}"
        );
    }
    // What is wrong with the entry itself is said first.
    let refused = updated(None, |e| (e.id, e.x509_svid_ttl) = (String::new(), -1)).unwrap_err();
    assert_eq!(refused.0, Code::InvalidArgument);
}

#[test]
fn an_update_may_set_what_a_creation_may_not() {
    // As SPIRE, which looks at the two together only when the entry is made.
    let both = types::entry::AdditionalAttributes {
        disable_x509_svid_prefetch: true,
        jwt_svid_include_jti: false,
    };
    assert!(updated(None, |e| e.additional_attributes = Some(both)).is_ok());
}
