use super::*;

const NOW: i64 = 1_800_000_000;
const LIFE: i64 = 86_400;

fn scene(shared: bool) -> Scene {
    Scene {
        me: 1,
        leader: true,
        token: shared,
        prunes: true,
        now: NOW,
        up_for: 1_000,
        scope_for: 1_000,
        seen: [(1, 0), (2, 0), (3, 0)].into(),
        ..Scene::default()
    }
}

fn authority(id: &str, status: AuthorityStatus, proved_by: &[u64]) -> Authority {
    let mut a = Authority {
        id: id.into(),
        kind: AuthorityKind::X509.into(),
        issued_at: NOW - LIFE / 4,
        expires_at: NOW + 3 * LIFE / 4,
        proved_by: proved_by.to_vec(),
        ..Authority::default()
    };
    a.set_status(status);
    a
}

/// Steps for X.509; JWT has nothing yet in these scenes and begins on its own.
fn x509(scene: &Scene) -> Vec<Step> {
    Slot::of(scene, AuthorityKind::X509).steps()
}

fn intent(node: u64, epoch: u64, at: i64) -> KeyIntent {
    KeyIntent {
        slot: "x509".into(),
        epoch,
        node_id: node,
        recorded_at: at,
        ..KeyIntent::default()
    }
}

#[test]
fn only_the_leader_begins_a_shared_key() {
    let mut s = scene(true);
    assert_eq!(
        x509(&s),
        [Step::Begin {
            kind: AuthorityKind::X509,
            slot: "x509".into(),
            epoch: 1
        }]
    );
    (s.leader, s.me, s.scope_for) = (false, 2, 10);
    assert_eq!(x509(&s), []);
}

#[test]
fn where_the_leader_begins_no_key_the_others_do_one_after_the_other() {
    let begins = |me: u64, scope_for: i64, s: &Scene| {
        let s = Scene {
            me,
            scope_for,
            leader: false,
            ..s.clone()
        };
        !x509(&s).is_empty()
    };
    // Nothing has ever signed; node 1 leads.
    let mut s = scene(true);
    assert!(!begins(2, 34, &s));
    assert!(begins(2, 35, &s));
    assert!(!begins(3, 39, &s));
    assert!(begins(3, 40, &s));
    s.seen.insert(1, 6);
    assert!(begins(2, 30, &s), "nobody is before it");
    // One was begun and given up: the time runs from there.
    s = scene(true);
    s.intents = vec![intent(0, 1, NOW - 34)];
    assert!(!begins(2, 1_000, &s));
    s.intents = vec![intent(0, 1, NOW - 35)];
    assert!(begins(2, 1_000, &s));
    // One signs whose successor is due.
    let mut s = late(LIFE / 2);
    assert!(!begins(2, 1_000, &s));
    s.now += 34;
    assert!(!begins(2, 1_000, &s));
    s.now += 1;
    assert!(begins(2, 1_000, &s));
}

#[test]
fn without_jwt_svids_there_is_no_authority_for_them() {
    let mut s = scene(true);
    let kinds = |s: &Scene| {
        plan(s)
            .into_iter()
            .map(|step| match step {
                Step::Begin { kind, .. } => kind,
                other => panic!("{other:?}"),
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(kinds(&s), [AuthorityKind::X509, AuthorityKind::Jwt]);
    s.without_jwt = true;
    assert_eq!(kinds(&s), [AuthorityKind::X509]);
}

#[test]
fn a_closed_intent_gives_the_next_epoch() {
    let mut s = scene(true);
    s.intents = vec![intent(0, 4, 0)];
    assert_eq!(
        x509(&s),
        [Step::Begin {
            kind: AuthorityKind::X509,
            slot: "x509".into(),
            epoch: 5
        }]
    );
}

#[test]
fn an_open_intent_is_finished_by_its_node_and_abandoned_only_when_that_is_gone() {
    let mut s = scene(true);
    s.intents = vec![intent(1, 1, 0)];
    assert!(matches!(x509(&s)[..], [Step::Make { .. }]));
    let abandon = Step::Abandon {
        slot: "x509".into(),
        epoch: 1,
    };
    s.intents = vec![intent(2, 1, NOW - 600)];
    assert_eq!(x509(&s), [], "node 2 is here");
    s.intents = vec![intent(2, 1, NOW - 601)];
    assert_eq!(x509(&s).first(), Some(&abandon), "and cannot make it");
    s.seen.insert(2, 6);
    s.intents = vec![intent(2, 1, NOW - 31)];
    assert_eq!(x509(&s), [abandon]);
    s.intents = vec![intent(2, 1, s.now - 5)];
    assert_eq!(x509(&s), [], "it may come back");
    s.leader = false;
    s.intents = vec![intent(2, 1, 0)];
    assert_eq!(x509(&s), [], "not the leader");
}

#[test]
fn the_first_shared_authority_signs_when_every_member_has_proved_it_or_had_a_moment_to() {
    let first = |proved_by: &[u64], made_ago: i64| Authority {
        issued_at: NOW - 10 - made_ago,
        ..authority("a", AuthorityStatus::Prepared, proved_by)
    };
    let mut s = scene(true);
    s.usable = ["a".to_owned()].into();
    let mut of = |authority: Authority| {
        s.authorities = vec![authority];
        x509(&s)
    };
    assert_eq!(of(first(&[1, 2], 4)), []);
    assert_eq!(of(first(&[1, 2, 3], 0)), [activate("a")]);
    assert_eq!(
        of(first(&[1, 2], 5)),
        [activate("a")],
        "node 3 may have no token"
    );
    s.seen.insert(3, 601);
    s.authorities = vec![first(&[1, 2], 0)];
    assert_eq!(
        x509(&s),
        [activate("a")],
        "a member that is away does not block"
    );
}

#[test]
fn a_member_proves_what_it_has_not_tried_since_it_started() {
    let mut s = scene(true);
    s.authorities = vec![authority("a", AuthorityStatus::Active, &[1, 2, 3])];
    assert_eq!(
        x509(&s),
        [Step::Prove {
            kind: AuthorityKind::X509,
            id: "a".into()
        }]
    );
}

#[test]
fn an_unusable_token_makes_no_new_shared_authority() {
    let mut s = scene(true);
    s.authorities = vec![authority("a", AuthorityStatus::Active, &[1, 2, 3])];
    assert!(
        x509(&s)
            .iter()
            .all(|step| !matches!(step, Step::Begin { .. }))
    );
}

#[test]
fn a_restarted_node_goes_on_with_a_key_of_its_own_that_it_still_has() {
    let mut s = scene(false);
    s.leader = false;
    let mut kept = authority("a", AuthorityStatus::Active, &[1]);
    kept.node_id = 1;
    s.authorities = vec![kept];
    let prove = Step::Prove {
        kind: AuthorityKind::X509,
        id: "a".into(),
    };
    assert_eq!(x509(&s), [prove]);
    s.usable = ["a".to_owned()].into();
    assert_eq!(x509(&s), []);
}

#[test]
fn a_node_whose_own_key_is_gone_makes_another() {
    let mut s = scene(false);
    s.leader = false;
    s.lost = ["a".to_owned()].into();
    let mut lost = authority("a", AuthorityStatus::Active, &[1]);
    lost.node_id = 1;
    s.authorities = vec![lost.clone()];
    let begin = Step::Begin {
        kind: AuthorityKind::X509,
        slot: "x509/node-1".into(),
        epoch: 1,
    };
    assert_eq!(x509(&s), std::slice::from_ref(&begin), "nothing to prove");
    let mut fresh = authority("b", AuthorityStatus::Prepared, &[1]);
    fresh.node_id = 1;
    s.authorities = vec![lost, fresh];
    s.usable = ["b".to_owned()].into();
    assert!(x509(&s).contains(&Step::Activate {
        kind: AuthorityKind::X509,
        id: "b".into()
    }));
    assert!(!x509(&s).contains(&begin));
}

#[test]
fn tainted_and_expired_authorities_do_not_count() {
    let mut s = scene(true);
    let mut tainted = authority("a", AuthorityStatus::Active, &[1, 2, 3]);
    tainted.tainted = true;
    let mut expired = authority("b", AuthorityStatus::Active, &[1, 2, 3]);
    expired.expires_at = s.now;
    s.authorities = vec![tainted, expired];
    assert!(matches!(x509(&s)[..], [Step::Begin { .. }]));
}

fn begin(epoch: u64) -> Step {
    Step::Begin {
        kind: AuthorityKind::X509,
        slot: "x509".into(),
        epoch,
    }
}

fn activate(id: &str) -> Step {
    Step::Activate {
        kind: AuthorityKind::X509,
        id: id.into(),
    }
}

/// An authority signs since long ago; how many seconds are left of its day.
fn late(left: i64) -> Scene {
    let mut s = scene(true);
    let mut active = authority("a", AuthorityStatus::Active, &[1, 2, 3]);
    active.issued_at = NOW + left - LIFE;
    active.expires_at = NOW + left;
    s.usable = ["a".into(), "b".into()].into();
    s.authorities = vec![active];
    s
}

fn add_next(s: &mut Scene, proved_by: &[u64], made_ago: i64) {
    let mut next = authority("b", AuthorityStatus::Prepared, proved_by);
    next.epoch = 1;
    next.issued_at = NOW - made_ago;
    next.expires_at = next.issued_at + LIFE;
    s.authorities.push(next);
}

#[test]
fn the_next_one_is_begun_at_half_of_the_life_and_once() {
    assert_eq!(x509(&late(LIFE / 2 + 1)), []);
    let mut s = late(LIFE / 2);
    assert_eq!(x509(&s), [begin(1)]);
    s.leader = false;
    assert_eq!(x509(&s), [], "not the leader");
    s.leader = true;
    add_next(&mut s, &[1, 2, 3], 0);
    assert_eq!(x509(&s), []);
}

#[test]
fn it_takes_over_at_a_sixth_when_everybody_can_sign_with_it() {
    let ready = |left, proved_by: &[u64]| {
        let mut s = late(left);
        add_next(&mut s, proved_by, LIFE / 3);
        s
    };
    assert_eq!(x509(&ready(LIFE / 6 + 1, &[1, 2, 3])), []);
    let mut s = ready(LIFE / 6, &[1, 2, 3]);
    assert_eq!(x509(&s), [activate("b")]);
    s.leader = false;
    assert_eq!(x509(&s), [], "not the leader");
    s.leader = true;
    s.up_for = 4;
    s.seen = [(1, 0)].into();
    assert_eq!(x509(&s), [], "who has just started has seen nobody yet");
    let mut s = ready(LIFE / 6, &[1, 2]);
    assert_eq!(x509(&s), []);
    s.seen.insert(3, 601);
    assert_eq!(x509(&s), [activate("b")], "a dead node blocks nothing");
}

#[test]
fn agents_learn_of_it_first_unless_the_other_one_has_ended() {
    let after = |left, made_ago| {
        let mut s = late(left);
        add_next(&mut s, &[1, 2, 3], made_ago);
        x509(&s)
    };
    // A certificate is backdated by ten seconds.
    assert_eq!(after(100, 24), []);
    assert_eq!(after(100, 25), [activate("b")]);
    assert_eq!(after(1, 10), []);
    assert_eq!(after(0, 10), [activate("b")]);
}

#[test]
fn at_the_end_whoever_can_goes_on_without_whoever_cannot() {
    let mut s = late(1);
    add_next(&mut s, &[1, 2], 100);
    assert_eq!(x509(&s), []);
    let missing = |s: &Scene| overdue(s, AuthorityKind::X509).map(|o| o.missing);
    assert_eq!(missing(&s), Some(Missing::Proofs([3].into())));
    let mut s = late(0);
    add_next(&mut s, &[1, 2], 100);
    assert_eq!(x509(&s), [activate("b")]);
    s.seen = [(1, 6), (2, 6), (3, 0)].into();
    assert_eq!(x509(&s), [], "nobody that can is there");
}

#[test]
fn an_authority_without_a_successor_is_told_of_from_a_sixth_before_its_end_on() {
    let missing = |s: &Scene| overdue(s, AuthorityKind::X509).map(|o| o.missing);
    assert_eq!(missing(&late(LIFE / 6 + 1)), None);
    let mut s = late(LIFE / 6);
    assert_eq!(missing(&s), Some(Missing::Successor));
    s.leader = false;
    assert_eq!(missing(&s), None, "the leader's business");
    s.leader = true;
    add_next(&mut s, &[1, 2, 3], 0);
    assert_eq!(missing(&s), None, "it only waits for agents");
    assert_eq!(missing(&late(-5)), Some(Missing::Successor));
}

#[test]
fn each_node_rotates_its_own_keys_leader_or_not() {
    let mut s = late(LIFE / 2);
    (s.token, s.leader, s.up_for) = (false, false, 0);
    s.authorities[0].node_id = 1;
    let begin = Step::Begin {
        kind: AuthorityKind::X509,
        slot: "x509/node-1".into(),
        epoch: 1,
    };
    assert_eq!(x509(&s), [begin]);
    let mut s = late(LIFE / 6);
    (s.token, s.leader) = (false, false);
    add_next(&mut s, &[1], 100);
    for authority in &mut s.authorities {
        authority.node_id = 1;
    }
    assert_eq!(x509(&s), [activate("b")]);
    s.me = 2;
    s.usable = BTreeSet::new();
    s.intents = vec![intent(0, 1, 0)];
    let other = x509(&s);
    assert!(matches!(&other[..], [Step::Begin { slot, .. }] if slot == "x509/node-2"));
}

#[test]
fn an_authority_of_the_future_is_followed_at_once() {
    let mut s = late(LIFE);
    assert_eq!(x509(&s), []);
    s.now -= 61;
    assert_eq!(x509(&s), [begin(1)]);
}

#[test]
fn what_ended_a_day_ago_is_forgotten_but_never_the_last() {
    let pruned = |s: &Scene| {
        let steps = plan(s).into_iter().filter_map(|step| match step {
            Step::Prune { authorities } => Some(authorities.into_iter().map(|a| a.id)),
            _ => None,
        });
        steps.flatten().collect::<Vec<_>>()
    };
    let ended = |id: &str, node_id, status, ago| Authority {
        node_id,
        expires_at: NOW - ago,
        ..authority(id, status, &[])
    };
    let mut s = late(LIFE);
    s.authorities.extend([
        ended("old", 0, AuthorityStatus::Old, LIFE),
        ended("later", 0, AuthorityStatus::Old, LIFE - 1),
        ended("removed", 9, AuthorityStatus::Active, LIFE),
        ended("revoked", 0, AuthorityStatus::Revoked, LIFE),
    ]);
    assert_eq!(pruned(&s), ["old", "removed", "revoked"]);
    s.leader = false;
    assert_eq!(pruned(&s), [""; 0], "not the leader");
    (s.leader, s.prunes) = (true, false);
    assert_eq!(pruned(&s), [""; 0], "a member would stop at it");
    s.prunes = true;
    s.authorities.retain(|a| a.id != "a" && a.id != "later");
    assert_eq!(pruned(&s), [""; 0], "no root would be left");
    s.authorities
        .push(ended("b", 0, AuthorityStatus::Revoked, 0));
    assert_eq!(pruned(&s), [""; 0], "a revoked one is no root");
    // A key of the other kind is none either.
    let mut key = ended("key", 0, AuthorityStatus::Active, -LIFE);
    key.kind = AuthorityKind::Jwt.into();
    s.authorities.push(key);
    assert_eq!(pruned(&s), [""; 0]);
}
