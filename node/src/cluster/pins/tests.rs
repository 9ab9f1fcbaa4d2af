//! What others tell of members counts as long as they are members themselves.

use chancery_raft_store::apply::apply;
use chancery_raft_store::command::{
    AdmitMember, ChangeMembers, Command, Found, Proposal, RemoveMember,
};
use chancery_raft_store::store::{Row, StoreError};
use chancery_raft_store::view::{View, Writes};

use super::*;

/// Nothing stored: all that there is are the writes of one test.
struct Nothing;

impl View for Nothing {
    fn row(&self, _: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    fn rows(&self, _: &[u8], _: usize) -> Result<Vec<Row>, StoreError> {
        Ok(Vec::new())
    }
}

/// The state of a cluster of nodes 1 to `members`, one voter, behind further commands.
fn state(members: u8, further: Vec<Command>) -> Directory {
    let admission = |n: u8| AdmitMember {
        peer_address: format!("n{n}:1"),
        spki_sha256: vec![n; 32],
        ..AdmitMember::default()
    };
    let mut commands = vec![Command::Found(Found {
        cluster_id: "c".into(),
        trust_domain: "example.org".into(),
        founder: Some(admission(1)),
        founding_peers: vec!["n1:1".into()],
        feature_level: 1,
        ..Found::default()
    })];
    commands.extend((2..=members).map(|n| Command::AdmitMember(admission(n))));
    commands.extend(further);
    let mut writes = Writes::new();
    for (index, command) in (1..).zip(commands) {
        let applied = apply(&Nothing, &writes, index, &Proposal::new(None, command)).unwrap();
        applied.outcome.accepted().unwrap();
        writes.extend(applied.writes);
    }
    let mut directory = Directory::default();
    directory.absorb(&writes).unwrap();
    directory
}

/// A node that was told of others: id, and who told it.
fn told(of: &[(u64, Option<u64>)]) -> Known {
    let told = of.iter().map(|(id, by)| {
        let member = ("n9:1".into(), [9; 32]);
        (*id, Told { member, by: *by })
    });
    Known {
        told: told.collect(),
        ..Known::default()
    }
}

#[test]
fn what_a_member_told_counts_until_it_is_removed() {
    let both = state(2, Vec::new());
    assert!(told(&[(3, Some(2))]).counts(3, &both));
    assert!(told(&[(3, None)]).counts(3, &both), "when this node joined");
    assert!(!told(&[(2, Some(2))]).counts(2, &both), "the state knows");
    assert!(!told(&[]).counts(3, &both), "nobody told it");
    let change = ChangeMembers {
        remove: vec![2],
        ..ChangeMembers::default()
    };
    let remove = RemoveMember { node_id: 2 };
    let gone = state(
        2,
        vec![
            Command::ChangeMembers(change),
            Command::RemoveMember(remove),
        ],
    );
    assert!(!told(&[(3, Some(2))]).counts(3, &gone));
    assert!(!told(&[(3, Some(2)), (4, Some(3))]).counts(4, &gone));
    assert!(told(&[(3, Some(1))]).counts(3, &gone));
}

#[test]
fn a_node_without_a_state_learns_from_those_it_was_told_of_when_it_joined() {
    let none = Directory::default();
    let known = told(&[(1, None), (6, Some(1)), (7, Some(6)), (8, Some(9))]);
    assert!(known.counts(6, &none));
    assert!(known.counts(7, &none), "by one that was told");
    assert!(!known.counts(8, &none), "by a stranger");
    let circle = told(&[(3, Some(4)), (4, Some(3))]);
    assert!(!circle.counts(3, &none));
}
