use super::*;

fn set(ids: &[u64]) -> BTreeSet<u64> {
    ids.iter().copied().collect()
}

fn wanted(id: u64, role: MemberRole) -> (u64, Wanted) {
    let wanted = Wanted {
        address: format!("n{id}:1"),
        role,
        auto_promote: false,
        replaces: 0,
    };
    (id, wanted)
}

/// A cluster that forms: members as the founding list of three admits them.
fn founding(admitted: &[u64], voters: &[u64], learners: &[u64], caught_up: &[u64]) -> Picture {
    Picture {
        me: 1,
        members: admitted
            .iter()
            .map(|id| wanted(*id, MemberRole::Founding))
            .collect(),
        founding: (1..=3).map(|id| format!("n{id}:1")).collect(),
        voters: set(voters),
        joint_target: BTreeSet::new(),
        learners: set(learners),
        caught_up: set(caught_up),
        reachable: set(admitted),
    }
}

/// A cluster whose members were changed: every node caught up and reachable.
fn formed(voters: &[u64], learners: &[u64], members: &[(u64, MemberRole)]) -> Picture {
    let ids: BTreeSet<u64> = voters.iter().chain(learners).copied().collect();
    Picture {
        me: 1,
        members: members
            .iter()
            .map(|(id, role)| wanted(*id, *role))
            .collect(),
        founding: BTreeSet::new(),
        voters: set(voters),
        joint_target: BTreeSet::new(),
        learners: set(learners),
        caught_up: ids.clone(),
        reachable: ids,
    }
}

use MemberRole::{Learner, Leaving, Voter};

#[test]
fn an_admitted_node_becomes_a_learner_first() {
    let step = plan(&founding(&[1, 2], &[1], &[], &[]));
    assert_eq!(step, Some(Step::AddLearner(2, "n2:1".into())));
}

#[test]
fn the_founding_list_is_promoted_whole_or_not_at_all() {
    let missing = founding(&[1, 2], &[1], &[2], &[2]);
    assert_eq!(plan(&missing), None, "one is missing");
    let behind = founding(&[1, 2, 3], &[1], &[2, 3], &[2]);
    assert_eq!(plan(&behind), None, "one is behind");
    let step = plan(&founding(&[1, 2, 3], &[1], &[2, 3], &[2, 3]));
    assert_eq!(step, Some(Step::Vote(set(&[1, 2, 3]))));
    let done = founding(&[1, 2, 3], &[1, 2, 3], &[], &[]);
    assert_eq!(plan(&done), None, "done");
}

#[test]
fn a_change_that_a_dead_leader_left_half_done_is_finished() {
    let mut left = founding(&[1, 2, 3], &[1, 2, 3], &[], &[]);
    left.joint_target = set(&[1, 2, 3]);
    assert_eq!(plan(&left), Some(Step::Vote(set(&[1, 2, 3]))));
}

#[test]
fn a_later_learner_is_not_promoted_unless_it_is_meant_to() {
    let all = [(1, Voter), (2, Voter), (3, Voter), (4, Learner)];
    assert_eq!(plan(&formed(&[1, 2, 3], &[4], &all)), None);
    let asked = [(1, Voter), (2, Voter), (3, Voter), (4, Voter)];
    let step = plan(&formed(&[1, 2, 3], &[4], &asked));
    assert_eq!(step, Some(Step::Vote(set(&[1, 2, 3, 4]))));
}

#[test]
fn learners_become_voters_by_themselves_when_their_number_is_right() {
    let mut one = formed(&[1], &[2, 3], &[(1, Voter), (2, Learner), (3, Learner)]);
    for id in [2, 3] {
        one.members.get_mut(&id).unwrap().auto_promote = true;
    }
    let change = |promote: &[u64]| {
        Step::Change(ChangeMembers {
            promote: promote.to_vec(),
            ..ChangeMembers::default()
        })
    };
    assert_eq!(plan(&one), Some(change(&[2, 3])));
    one.caught_up.remove(&3);
    assert_eq!(plan(&one), None, "two voters are less available than one");
    let mut two = formed(
        &[1, 2],
        &[3, 4],
        &[(1, Voter), (2, Voter), (3, Learner), (4, Learner)],
    );
    for id in [3, 4] {
        two.members.get_mut(&id).unwrap().auto_promote = true;
    }
    assert_eq!(plan(&two), Some(change(&[3])));
}

#[test]
fn a_replacement_and_the_replaced_change_places_in_one_step() {
    let roles = [(1, Voter), (2, Voter), (3, Voter), (4, Learner)];
    let mut dead = formed(&[1, 2, 3], &[4], &roles);
    let new = dead.members.get_mut(&4).unwrap();
    (new.auto_promote, new.replaces) = (true, 3);
    dead.reachable.remove(&3);
    let Some(Step::Change(change)) = plan(&dead) else {
        panic!("{:?}", plan(&dead))
    };
    assert_eq!((change.promote, change.remove), (vec![4], vec![3]));
    // As the record stands then.
    let roles = [(1, Voter), (2, Voter), (3, Leaving), (4, Voter)];
    let mut recorded = formed(&[1, 2, 3], &[4], &roles);
    recorded.reachable.remove(&3);
    assert_eq!(plan(&recorded), Some(Step::Vote(set(&[1, 2, 4]))));
    let swapped = formed(&[1, 2, 4], &[3], &roles);
    assert_eq!(plan(&swapped), Some(Step::DropLearner(3)));
    let dropped = formed(&[1, 2, 4], &[], &roles);
    assert_eq!(plan(&dropped), Some(Step::Forget(3)));
}

#[test]
fn a_leader_does_not_forget_itself() {
    let roles = [(1, Leaving), (2, Voter), (3, Voter), (4, Voter)];
    let learner = formed(&[2, 3, 4], &[1], &roles);
    assert_eq!(plan(&learner), Some(Step::DropLearner(1)));
    let mut dropped = formed(&[2, 3, 4], &[], &roles);
    assert_eq!(plan(&dropped), None, "it leads for a moment yet");
    dropped.me = 2;
    assert_eq!(plan(&dropped), Some(Step::Forget(1)));
}

#[test]
fn a_member_that_died_before_it_voted_can_be_replaced() {
    // 4 is to vote and never catches up; 5 is there in its place.
    let roles = [(1, Voter), (2, Voter), (3, Voter), (4, Voter), (5, Learner)];
    let mut dead = formed(&[1, 2, 3], &[4, 5], &roles);
    dead.reachable.remove(&4);
    dead.caught_up.remove(&4);
    assert_eq!(plan(&dead), None, "nobody replaces it");
    let new = dead.members.get_mut(&5).unwrap();
    (new.auto_promote, new.replaces) = (true, 4);
    let Some(Step::Change(change)) = plan(&dead) else {
        panic!("{:?}", plan(&dead))
    };
    assert_eq!((change.promote, change.remove), (vec![5], vec![4]));
    // Another change waits until that one is done.
    let new = dead.members.get_mut(&5).unwrap();
    new.replaces = 3;
    assert_eq!(plan(&dead), None);
}

#[test]
fn no_change_begins_that_the_new_voters_could_not_finish() {
    let roles = [(1, Voter), (2, Leaving), (3, Voter)];
    let mut picture = formed(&[1, 2, 3], &[], &roles);
    picture.reachable.remove(&3);
    assert_eq!(plan(&picture), None, "1 alone is no majority of 1 and 3");
    picture.reachable.insert(3);
    assert_eq!(plan(&picture), Some(Step::Vote(set(&[1, 3]))));
}

#[test]
fn a_leader_that_is_to_leave_hands_over_first() {
    let roles = [(1, Leaving), (2, Voter), (3, Voter)];
    let picture = formed(&[1, 2, 3], &[], &roles);
    assert_eq!(plan(&picture), Some(Step::HandOver(set(&[2, 3]))));
    // Nobody to hand over to: the one voter makes way for another.
    let alone = formed(&[1], &[2], &[(1, Leaving), (2, Voter)]);
    assert_eq!(plan(&alone), Some(Step::Vote(set(&[2]))));
}

#[test]
fn a_voter_that_died_is_replaced_where_another_cannot_leave_without_it() {
    // Node 5 is to leave. Nodes 1 and 2 would be left, and node 2 is dead.
    let members = [
        (1, Voter),
        (2, Voter),
        (4, Learner),
        (5, Leaving),
        (6, Learner),
    ];
    let mut picture = formed(&[1, 2, 5], &[4, 6], &members);
    picture.reachable.remove(&2);
    assert_eq!(plan(&picture), None, "nobody replaces it");
    for (new, replaced) in [(4, 1), (6, 2)] {
        let new = picture.members.get_mut(&new).expect("a member");
        (new.auto_promote, new.replaces) = (true, replaced);
    }
    let change = ChangeMembers {
        promote: vec![6],
        remove: vec![2],
        allow_even: true,
        ..ChangeMembers::default()
    };
    assert_eq!(plan(&picture), Some(Step::Change(change)));
    picture.reachable.insert(2);
    picture.me = 5;
    assert_eq!(plan(&picture), Some(Step::HandOver(set(&[1, 2]))));
}
