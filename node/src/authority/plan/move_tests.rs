//! The steps from shared authorities to each node's own, and back.

use super::*;

const NOW: i64 = 1_800_000_000;
const LIFE: i64 = 86_400;
/// Agents know an authority that was made so long ago.
const KNOWN: i64 = 25;

/// Node 1 leads; all have a token.
fn scene(scope: AuthorityScope) -> Scene {
    Scene {
        me: 1,
        leader: true,
        scope,
        token: true,
        without_jwt: true,
        now: NOW,
        up_for: 1_000,
        scope_for: 10,
        seen: [(1, 0), (2, 0), (3, 0)].into(),
        ..Scene::default()
    }
}

fn authority(node_id: u64, status: AuthorityStatus, age: i64, proved_by: &[u64]) -> Authority {
    let id = format!("{node_id}-{status:?}");
    let mut a = Authority {
        id,
        kind: AuthorityKind::X509.into(),
        node_id,
        slot: slot(AuthorityKind::X509, (node_id != 0).then_some(node_id)),
        issued_at: NOW - age,
        expires_at: NOW - age + LIFE,
        proved_by: proved_by.to_vec(),
        ..Authority::default()
    };
    a.set_status(status);
    a
}

fn with(scope: AuthorityScope, authorities: Vec<Authority>) -> Scene {
    let usable = authorities.iter().map(|a| a.id.clone()).collect();
    Scene {
        authorities,
        usable,
        ..scene(scope)
    }
}

fn own(ids: [u64; 3], status: AuthorityStatus) -> Vec<Authority> {
    ids.map(|id| authority(id, status, 1_000, &[id])).to_vec()
}

fn begins(slot: &str, epoch: u64) -> Step {
    Step::Begin {
        kind: AuthorityKind::X509,
        slot: slot.into(),
        epoch,
    }
}

fn activates(id: &str) -> Step {
    activates_of(AuthorityKind::X509, id)
}

fn activates_of(kind: AuthorityKind, id: &str) -> Step {
    Step::Activate {
        kind,
        id: id.into(),
    }
}

fn retires(ids: &[&str]) -> Step {
    Step::Retire {
        kind: AuthorityKind::X509,
        ids: ids.iter().map(|id| (*id).to_owned()).collect(),
    }
}

use AuthorityScope::{PerNode, Shared};
use AuthorityStatus::{Active, Old, Prepared};

#[test]
fn each_node_makes_its_own_beside_the_one_that_all_share() {
    let mut s = with(PerNode, vec![authority(0, Active, 1_000, &[1, 2, 3])]);
    assert_eq!(plan(&s), [begins("x509/node-1", 1)]);
    (s.me, s.leader) = (2, false);
    assert_eq!(plan(&s), [begins("x509/node-2", 1)]);
}

#[test]
fn an_own_one_takes_over_when_agents_know_it_or_the_shared_one_has_ended() {
    let shared = |age| authority(0, Active, age, &[1, 2, 3]);
    let next = |age| authority(1, Prepared, age, &[1]);
    let s = with(PerNode, vec![shared(1_000), next(KNOWN - 1)]);
    assert_eq!(plan(&s), []);
    let s = with(PerNode, vec![shared(1_000), next(KNOWN)]);
    assert_eq!(plan(&s), [activates("1-Prepared")]);
    let s = with(PerNode, vec![shared(LIFE), next(0)]);
    assert!(
        plan(&s).contains(&activates("1-Prepared")),
        "{:?}",
        plan(&s)
    );
}

#[test]
fn the_shared_one_is_retired_when_all_that_are_there_have_their_own() {
    let mut all = own([1, 2, 3], Active);
    all.push(authority(0, Active, 1_000, &[1, 2, 3]));
    let mut s = with(PerNode, all.clone());
    assert_eq!(plan(&s), [retires(&["0-Active"])]);
    s.leader = false;
    assert_eq!(plan(&s), [], "the leader's business");
    s.leader = true;
    s.up_for = 4;
    assert_eq!(plan(&s), [], "it has not seen everybody yet");

    all[2].set_status(Prepared);
    let mut s = with(PerNode, all);
    assert_eq!(plan(&s), [], "node 3 signs with the shared one");
    s.seen.insert(3, 601);
    assert_eq!(plan(&s), [retires(&["0-Active"])], "it is gone");
}

#[test]
fn what_signs_until_then_is_followed_like_any_other() {
    let mut all = own([1, 2, 3], Active);
    all.truncate(2);
    all.push(authority(0, Active, LIFE / 2, &[1, 2, 3]));
    let s = with(PerNode, all);
    assert_eq!(plan(&s), [begins("x509", 1)], "node 3 may take its time");
}

#[test]
fn the_leader_makes_one_for_all_and_waits_for_every_proof() {
    let mut all = own([1, 2, 3], Active);
    let s = with(Shared, all.clone());
    assert_eq!(plan(&s), [begins("x509", 1)]);
    all.push(authority(0, Prepared, KNOWN, &[1, 2]));
    let mut s = with(Shared, all.clone());
    assert_eq!(plan(&s), [], "node 3 has not signed with it");
    s.seen.insert(3, 601);
    assert_eq!(plan(&s), [activates("0-Prepared")]);
    all[3].proved_by.push(3);
    let mut s = with(Shared, all.clone());
    assert_eq!(plan(&s), [activates("0-Prepared")]);
    s.now -= 1;
    assert_eq!(plan(&s), [], "agents do not know it yet");
    all[3].set_status(Active);
    let s = with(Shared, all);
    assert_eq!(plan(&s), [retires(&["1-Active", "2-Active", "3-Active"])]);
}

#[test]
fn a_node_that_was_away_makes_its_own_until_they_share_one() {
    let mut s = with(Shared, own([1, 2, 3], Active));
    (s.me, s.leader) = (4, false);
    s.seen.insert(4, 0);
    assert_eq!(plan(&s), [begins("x509/node-4", 1)]);
    s.authorities
        .push(authority(0, Active, 1_000, &[1, 2, 3, 4]));
    s.usable.insert("0-Active".into());
    assert_eq!(plan(&s), []);
    let s = Scene {
        leader: false,
        ..with(Shared, own([1, 2, 3], Old))
    };
    assert_eq!(
        plan(&s),
        [],
        "nor where nobody has its own: the leader makes one for all"
    );
}

#[test]
fn without_a_token_a_node_makes_nothing_that_is_shared_and_proves_certificates_alone() {
    let mut s = with(Shared, own([1, 2, 3], Active));
    (s.token, s.tokenless) = (false, [1].into());
    assert_eq!(plan(&s), []);
    s.authorities.push(authority(0, Prepared, 0, &[2]));
    let proves = Step::Prove {
        kind: AuthorityKind::X509,
        id: "0-Prepared".into(),
    };
    assert_eq!(plan(&s), [proves]);
    let left_of = |s: &Scene, kind| left(&s.authorities, kind, Shared, &s.seen, &s.tokenless, NOW);
    let unproved = Left::Proofs([1, 3].into());
    assert_eq!(left_of(&s, AuthorityKind::X509), Some(unproved));
    for authority in &mut s.authorities {
        authority.kind = AuthorityKind::Jwt.into();
    }
    s.without_jwt = false;
    let jwt = |s: &Scene| {
        let mut steps = Slot::of(s, AuthorityKind::Jwt).steps();
        steps.retain(|step| !matches!(step, Step::Begin { .. }));
        steps
    };
    assert_eq!(jwt(&s), [], "no intermediate signs a JWT-SVID");
    assert_eq!(
        left_of(&s, AuthorityKind::Jwt),
        Some(Left::Proofs([3].into()))
    );
    s.authorities[3].proved_by.push(3);
    s.now += KNOWN;
    let activates = activates_of(AuthorityKind::Jwt, "0-Prepared");
    assert_eq!(jwt(&s), [activates], "it is not waited for");
}

#[test]
fn a_key_that_was_announced_for_a_slot_that_is_left_is_given_up() {
    let mut s = with(Shared, vec![authority(0, Active, 1_000, &[1, 2, 3])]);
    s.intents = vec![KeyIntent {
        slot: "x509/node-1".into(),
        epoch: 4,
        node_id: 1,
        ..KeyIntent::default()
    }];
    let abandon = Step::Abandon {
        slot: "x509/node-1".into(),
        epoch: 4,
    };
    assert_eq!(plan(&s), [abandon]);
}

#[test]
fn what_is_left_is_told_in_words() {
    let told = |scope, authorities: &[Authority]| {
        let s = scene(scope);
        left(
            authorities,
            AuthorityKind::X509,
            scope,
            &s.seen,
            &s.tokenless,
            NOW,
        )
        .map(|left| left.sentence(AuthorityKind::X509, NOW))
    };
    let shared = authority(0, Active, 1_000, &[1, 2, 3]);
    let none: [Authority; 0] = [];
    assert_eq!(told(PerNode, &none), None);
    assert_eq!(told(PerNode, &own([1, 2, 3], Active)), None);
    assert_eq!(
        told(AuthorityScope::Unspecified, std::slice::from_ref(&shared)),
        None
    );
    let mut all = own([1, 2, 3], Active);
    all.push(shared.clone());
    assert_eq!(
        told(PerNode, &all).as_deref(),
        Some("X.509: one authority of the other scope is about to sign no more")
    );
    assert_eq!(
        told(PerNode, &all[1..]).as_deref(),
        Some("X.509: node 1 has no authority of its own that signs")
    );
    let coming = [authority(1, Prepared, KNOWN - 9, &[1])];
    let coming: Vec<_> = coming.into_iter().chain(all[1..].to_vec()).collect();
    assert_eq!(
        told(PerNode, &coming).as_deref(),
        Some("X.509: agents learn of the new authority for 9 s more")
    );
    assert_eq!(
        told(Shared, &all[..3]).as_deref(),
        Some(
            "X.509: the key that nodes will share is not made yet: the leader makes it in its token"
        )
    );
    let mut proved = all[..3].to_vec();
    proved.push(authority(0, Prepared, 0, &[2]));
    assert_eq!(
        told(Shared, &proved).as_deref(),
        Some("X.509: nodes 1, 3 have not signed with the key that nodes will share")
    );
    assert_eq!(
        told(Shared, &all).as_deref(),
        Some("X.509: 3 authorities of the other scope are about to sign no more")
    );
    let old = own([1, 2, 3], Old);
    assert_eq!(told(Shared, &old), None, "they sign no more");
}
