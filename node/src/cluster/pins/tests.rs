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

fn told(by: Option<u64>) -> Told {
    Told {
        member: ("n9:1".into(), [9; 32]),
        by,
    }
}

#[test]
fn what_a_member_told_counts_until_it_is_removed() {
    let both = state(2, Vec::new());
    assert!(told(Some(2)).counts(3, &both));
    assert!(told(None).counts(3, &both), "told when this node joined");
    assert!(!told(Some(2)).counts(2, &both), "the state knows better");
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
    assert!(!told(Some(2)).counts(3, &gone));
    assert!(told(Some(1)).counts(3, &gone));
}
