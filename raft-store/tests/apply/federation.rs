//! Bundles of other trust domains, relationships, and the entries that federate.

use chancery_raft_store::command::{
    BundleFields, DeleteFederatedBundles, DeleteMode, FederatedBundleResult, FederatedBundles,
    RelationshipDraft, RelationshipFields, RelationshipResult, Relationships, TrustDomains,
    UpdateFederatedBundles, UpdateRelationships,
};
use chancery_raft_store::model::{
    BundleCertificate, BundleJwtKey, EndpointProfile, Entry, FederatedBundle,
    FederationRelationship,
};
use chancery_raft_store::view::Table;
use chancery_raft_store::{ChangeKind, Command, Refusal};

use super::World;
use crate::support::entry;

fn bundle(name: &str, mark: u8) -> FederatedBundle {
    FederatedBundle {
        trust_domain: name.into(),
        sequence: 0,
        x509_authorities: vec![BundleCertificate {
            certificate: vec![mark, 1],
        }],
        jwt_authorities: vec![BundleJwtKey {
            public_key: vec![mark, 2],
            key_id: "kid".into(),
            expires_at: 9,
        }],
        refresh_hint: i64::from(mark),
        sequence_number: u64::from(mark) + 100,
    }
}

fn relationship(name: &str, url: &str) -> FederationRelationship {
    FederationRelationship {
        trust_domain: name.into(),
        sequence: 0,
        endpoint_url: url.into(),
        profile: EndpointProfile::HttpsWeb.into(),
        endpoint_spiffe_id: String::new(),
    }
}

fn draft(
    relationship: FederationRelationship,
    bundle: Option<FederatedBundle>,
) -> RelationshipDraft {
    RelationshipDraft {
        relationship: Some(relationship),
        bundle,
    }
}

fn federating(id: &str, with: &[&str]) -> Entry {
    Entry {
        federates_with: with.iter().map(|name| (*name).into()).collect(),
        ..entry(id, "/p", &format!("/{id}"), &["a"])
    }
}

impl World {
    fn create_bundles(&mut self, bundles: Vec<FederatedBundle>) -> Vec<Refusal> {
        let command = Command::CreateFederatedBundles(FederatedBundles { bundles });
        refusals(&self.ok(command).federated_bundles)
    }

    fn set_bundles(&mut self, bundles: Vec<FederatedBundle>) -> Vec<Refusal> {
        let command = Command::SetFederatedBundles(FederatedBundles { bundles });
        refusals(&self.ok(command).federated_bundles)
    }

    fn update_bundle(
        &mut self,
        bundle: FederatedBundle,
        fields: BundleFields,
    ) -> FederatedBundleResult {
        let command = UpdateFederatedBundles {
            bundles: vec![bundle],
            fields: Some(fields),
        };
        let command = Command::UpdateFederatedBundles(command);
        self.ok(command).federated_bundles.remove(0)
    }

    fn delete_bundles(&mut self, names: &[&str], mode: DeleteMode) -> Vec<FederatedBundleResult> {
        let command = DeleteFederatedBundles {
            trust_domains: names.iter().map(|name| (*name).into()).collect(),
            mode: mode.into(),
        };
        self.ok(Command::DeleteFederatedBundles(command))
            .federated_bundles
    }

    fn bundle(&self, name: &str) -> Option<FederatedBundle> {
        self.ask(|t| t.federated_bundle(name))
    }

    fn create_relationships(&mut self, drafts: Vec<RelationshipDraft>) -> Vec<Refusal> {
        let command = Command::CreateRelationships(Relationships { drafts });
        let results = self.ok(command).relationships;
        results.iter().map(RelationshipResult::refusal).collect()
    }

    fn update_relationship(
        &mut self,
        draft: RelationshipDraft,
        fields: RelationshipFields,
    ) -> RelationshipResult {
        let command = UpdateRelationships {
            drafts: vec![draft],
            fields: Some(fields),
        };
        let command = Command::UpdateRelationships(command);
        self.ok(command).relationships.remove(0)
    }

    fn relationship(&self, name: &str) -> Option<FederationRelationship> {
        self.ask(|t| t.relationship(name))
    }
}

fn refusals(results: &[FederatedBundleResult]) -> Vec<Refusal> {
    results.iter().map(FederatedBundleResult::refusal).collect()
}

#[test]
fn bundles_of_a_batch_are_created_each_on_its_own() {
    let mut world = World::new();
    let results = world.create_bundles(vec![
        bundle("a.test", 1),
        bundle("a.test", 2),
        bundle("example.org", 3),
        bundle("Not A Name", 4),
        bundle("b.test", 5),
    ]);
    use Refusal::{AlreadyExists, Malformed, None};
    assert_eq!(results, [None, AlreadyExists, Malformed, Malformed, None]);
    let stored = world.bundle("a.test").unwrap();
    assert_eq!(
        stored,
        FederatedBundle {
            sequence: 1,
            ..bundle("a.test", 1)
        },
        "the first one stands"
    );
    assert_eq!(world.bundle("b.test").unwrap().sequence, 2);
    assert_eq!(world.bundle("example.org"), Option::None);
    assert_eq!(
        world.changes,
        ["a.test", "b.test"].map(|name| ChangeKind::FederatedBundleSet(name.into()))
    );
    assert_eq!(
        world.cluster().bundle_sequence,
        0,
        "the own bundle is not concerned"
    );
}

#[test]
fn setting_creates_or_replaces_and_keeps_the_place_in_lists() {
    let mut world = World::new();
    assert_eq!(
        world.set_bundles(vec![bundle("a.test", 1), bundle("b.test", 1)]),
        [Refusal::None; 2]
    );
    let results = world.set_bundles(vec![bundle("a.test", 7), bundle("example.org", 7)]);
    assert_eq!(results, [Refusal::None, Refusal::Malformed]);
    assert_eq!(
        world.bundle("a.test").unwrap(),
        FederatedBundle {
            sequence: 1,
            ..bundle("a.test", 7)
        }
    );
}

#[test]
fn an_update_takes_what_the_mask_names_and_nothing_else() {
    let none = BundleFields::default();
    let masks = [
        none,
        BundleFields {
            x509_authorities: true,
            ..none
        },
        BundleFields {
            jwt_authorities: true,
            ..none
        },
        BundleFields {
            refresh_hint: true,
            ..none
        },
        BundleFields {
            sequence_number: true,
            ..none
        },
    ];
    for mask in masks {
        let mut world = World::new();
        world.set_bundles(vec![bundle("a.test", 1)]);
        let (old, new) = (bundle("a.test", 1), bundle("a.test", 2));
        let expected = FederatedBundle {
            trust_domain: "a.test".into(),
            sequence: 1,
            x509_authorities: if mask.x509_authorities { &new } else { &old }
                .x509_authorities
                .clone(),
            jwt_authorities: if mask.jwt_authorities { &new } else { &old }
                .jwt_authorities
                .clone(),
            refresh_hint: if mask.refresh_hint { &new } else { &old }.refresh_hint,
            sequence_number: if mask.sequence_number { &new } else { &old }.sequence_number,
        };
        let result = world.update_bundle(new, mask);
        assert_eq!(result.refusal(), Refusal::None);
        assert_eq!(world.bundle("a.test"), Some(expected), "{mask:?}");
    }
    let mut world = World::new();
    let result = world.update_bundle(bundle("a.test", 1), masks[1]);
    assert_eq!(result.refusal(), Refusal::NotFound);
    assert_eq!(world.bundle("a.test"), None, "an update creates nothing");
}

#[test]
fn an_entry_federates_only_with_a_bundle_that_is_there() {
    let mut world = World::new();
    world.set_bundles(vec![bundle("a.test", 1)]);
    let results = world.create(vec![
        federating("1", &["a.test", "b.test"]),
        federating("2", &["a.test"]),
        // Agents could not fetch it as a federated one.
        federating("3", &["example.org"]),
    ]);
    let told: Vec<_> = results
        .iter()
        .map(|r| (r.refusal(), r.unknown_bundle.as_str(), r.entry.is_some()))
        .collect();
    assert_eq!(
        told,
        [
            (Refusal::NoFederatedBundle, "b.test", false),
            (Refusal::None, "", true),
            (Refusal::NoFederatedBundle, "example.org", false),
        ]
    );
    assert_eq!(world.entry("1"), None);
    let again = world.create(vec![Entry {
        id: "other".into(),
        federates_with: vec!["b.test".into()],
        ..federating("2", &[])
    }]);
    assert_eq!(
        again[0].refusal(),
        Refusal::AlreadyExists,
        "similar entries are found before bundles are looked for"
    );
}

#[test]
fn a_bundle_that_entries_federate_with_is_kept_unless_the_mode_says_otherwise() {
    let mut world = World::new();
    world.set_bundles(vec![bundle("a.test", 1), bundle("b.test", 1)]);
    world.create(vec![
        federating("1", &["a.test", "b.test"]),
        federating("2", &["a.test"]),
        federating("3", &["b.test"]),
        federating("4", &[]),
    ]);
    let results = world.delete_bundles(&["a.test", "c.test"], DeleteMode::Restrict);
    assert_eq!(
        results
            .iter()
            .map(|r| (r.refusal(), r.entries))
            .collect::<Vec<_>>(),
        [(Refusal::FederatedWith, 2), (Refusal::NotFound, 0)]
    );
    assert!(world.bundle("a.test").is_some());
    assert!(world.changes.is_empty());

    world.time_ms += 5000;
    let results = world.delete_bundles(&["a.test"], DeleteMode::Dissociate);
    assert_eq!(
        (results[0].refusal(), results[0].entries),
        (Refusal::None, 2)
    );
    assert_eq!(world.bundle("a.test"), None);
    let first = world.entry("1").unwrap();
    assert_eq!(first.federates_with, ["b.test"]);
    assert_eq!(first.revision_number, 1, "agents learn of it");
    assert!(world.entry("2").unwrap().federates_with.is_empty());
    assert_eq!(world.entry("3").unwrap().revision_number, 0);
    assert_eq!(
        world.changes,
        [
            ChangeKind::EntrySet("1".into()),
            ChangeKind::EntrySet("2".into()),
            ChangeKind::FederatedBundleRemoved("a.test".into())
        ]
    );

    let results = world.delete_bundles(&["b.test"], DeleteMode::Delete);
    assert_eq!(
        (results[0].refusal(), results[0].entries),
        (Refusal::None, 2)
    );
    assert_eq!((world.entry("1"), world.entry("3")), (None, None));
    assert!(world.entry("2").is_some() && world.entry("4").is_some());
    assert_eq!(world.of(Table::EntryFederation), 0);
}

#[test]
fn a_deletion_touches_so_many_entries_at_a_time_and_the_bundle_goes_last() {
    for mode in [DeleteMode::Dissociate, DeleteMode::Delete] {
        let mut world = World::new();
        world.set_bundles(vec![bundle("a.test", 1), bundle("b.test", 1)]);
        let entries = (0..1500).map(|n| federating(&format!("{n:04}"), &["a.test"]));
        world.create(entries.collect());
        world.create(vec![federating("b", &["b.test"])]);
        world.time_ms += 5000;

        let told = |results: &[FederatedBundleResult]| {
            let of = |r: &FederatedBundleResult| (r.refusal(), r.entries, r.more);
            results.iter().map(of).collect::<Vec<_>>()
        };
        let results = world.delete_bundles(&["a.test", "b.test"], mode);
        assert_eq!(
            told(&results),
            [(Refusal::None, 1000, true), (Refusal::None, 0, true)],
            "{mode:?}"
        );
        // Half done is safe: no entry names a bundle that is not there.
        assert!(world.bundle("a.test").is_some() && world.bundle("b.test").is_some());
        assert_eq!(world.of(Table::EntryFederation), 501);
        assert_eq!(world.changes.len(), 1000);

        let results = world.delete_bundles(&["a.test", "b.test"], mode);
        assert_eq!(
            told(&results),
            [(Refusal::None, 500, false), (Refusal::None, 1, false)]
        );
        assert!(world.bundle("a.test").is_none() && world.bundle("b.test").is_none());
        assert_eq!(world.of(Table::EntryFederation), 0);
    }
}

#[test]
fn nothing_is_left_of_a_deleted_bundle_and_its_entries() {
    let mut world = World::new();
    let before = world.rows_but_clock();
    world.set_bundles(vec![bundle("a.test", 1)]);
    world.create(vec![federating("1", &["a.test", "a.test"])]);
    world.time_ms += 1000;
    world.delete(&["1"]);
    let results = world.delete_bundles(&["a.test"], DeleteMode::Restrict);
    assert_eq!(
        (results[0].refusal(), results[0].entries),
        (Refusal::None, 0),
        "a deleted entry holds no bundle"
    );
    assert_eq!(world.rows_but_clock(), before);
}

#[test]
fn a_mode_that_nobody_knows_deletes_nothing() {
    let mut world = World::new();
    world.set_bundles(vec![bundle("a.test", 1)]);
    let command = DeleteFederatedBundles {
        trust_domains: vec!["a.test".into()],
        mode: 3,
    };
    assert_eq!(
        world.refused(Command::DeleteFederatedBundles(command)),
        Refusal::Malformed
    );
    assert!(world.bundle("a.test").is_some());
}

#[test]
fn relationships_are_created_once_and_bring_their_bundle() {
    let mut world = World::new();
    world.set_bundles(vec![bundle("b.test", 1)]);
    let spiffe = FederationRelationship {
        profile: EndpointProfile::HttpsSpiffe.into(),
        endpoint_spiffe_id: "spiffe://a.test/e".into(),
        ..relationship("a.test", "https://a.test")
    };
    let results = world.create_relationships(vec![
        draft(spiffe.clone(), Some(bundle("a.test", 2))),
        draft(
            relationship("a.test", "https://other"),
            Some(bundle("a.test", 3)),
        ),
        draft(relationship("b.test", "https://b.test"), None),
        draft(relationship("example.org", "https://x"), None),
        draft(
            relationship("c.test", "https://x"),
            Some(bundle("d.test", 1)),
        ),
        draft(relationship("c.test", ""), None),
        draft(
            FederationRelationship {
                profile: 0,
                ..relationship("c.test", "https://x")
            },
            None,
        ),
        draft(
            FederationRelationship {
                endpoint_spiffe_id: String::new(),
                ..spiffe.clone()
            },
            None,
        ),
        RelationshipDraft::default(),
    ]);
    let expected = [Refusal::None, Refusal::AlreadyExists, Refusal::None];
    assert_eq!(results[..3], expected);
    assert_eq!(results[3..], [Refusal::Malformed; 6]);
    let stored = world.relationship("a.test").unwrap();
    assert_eq!(stored.endpoint_url, "https://a.test");
    assert_eq!(
        world.bundle("a.test").unwrap().refresh_hint,
        2,
        "a refused one brings no bundle"
    );
    assert!(world.relationship("b.test").unwrap().sequence > stored.sequence);
    assert_eq!(world.relationship("c.test"), None);
    assert_eq!(world.bundle("d.test"), None);
}

#[test]
fn an_update_of_a_relationship_takes_what_the_mask_names() {
    let mut world = World::new();
    world.create_relationships(vec![draft(relationship("a.test", "https://old"), None)]);
    let given = draft(
        FederationRelationship {
            profile: EndpointProfile::HttpsSpiffe.into(),
            endpoint_spiffe_id: "spiffe://a.test/e".into(),
            ..relationship("a.test", "https://new")
        },
        Some(bundle("a.test", 4)),
    );
    let none = RelationshipFields::default();
    let update = |world: &mut World, draft: RelationshipDraft, fields| {
        assert_eq!(
            world.update_relationship(draft, fields).refusal(),
            Refusal::None
        );
        let bundle = world.bundle("a.test").map(|b| b.refresh_hint);
        (world.relationship("a.test").unwrap(), bundle)
    };
    let stored = FederationRelationship {
        sequence: 1,
        ..relationship("a.test", "https://old")
    };
    let now = update(&mut world, given.clone(), none);
    assert_eq!(now, (stored.clone(), None));

    let url = RelationshipFields {
        endpoint_url: true,
        ..none
    };
    let stored = FederationRelationship {
        endpoint_url: "https://new".into(),
        ..stored
    };
    let now = update(&mut world, given.clone(), url);
    assert_eq!(now, (stored.clone(), None));

    let profile = RelationshipFields {
        profile: true,
        ..none
    };
    let stored = FederationRelationship {
        profile: EndpointProfile::HttpsSpiffe.into(),
        endpoint_spiffe_id: "spiffe://a.test/e".into(),
        ..stored
    };
    let now = update(&mut world, given.clone(), profile);
    assert_eq!(now, (stored.clone(), None));

    let with_bundle = RelationshipFields {
        bundle: true,
        ..none
    };
    let now = update(&mut world, given, with_bundle);
    assert_eq!(now, (stored.clone(), Some(4)));
    let now = update(&mut world, draft(stored.clone(), None), with_bundle);
    assert_eq!(
        now,
        (stored, Some(4)),
        "without a bundle the stored one stays"
    );

    let unknown = draft(relationship("b.test", "https://b"), None);
    let result = world.update_relationship(unknown, url);
    assert_eq!(result.refusal(), Refusal::NotFound);
    assert_eq!(world.relationship("b.test"), None);
}

#[test]
fn a_deleted_relationship_leaves_its_bundle() {
    let mut world = World::new();
    world.create_relationships(vec![draft(
        relationship("a.test", "https://a"),
        Some(bundle("a.test", 1)),
    )]);
    let names = vec!["a.test".into(), "a.test".into()];
    let outcome = world.ok(Command::DeleteRelationships(TrustDomains { names }));
    let told: Vec<_> = outcome
        .relationships
        .iter()
        .map(RelationshipResult::refusal)
        .collect();
    assert_eq!(told, [Refusal::None, Refusal::NotFound]);
    assert_eq!(world.of(Table::Relationships), 0);
    assert!(world.bundle("a.test").is_some());
}
