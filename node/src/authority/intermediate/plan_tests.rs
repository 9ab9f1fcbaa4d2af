use chancery_raft_store::model::AuthorityKind;
use proptest::prelude::*;

use super::*;

const NOW: i64 = 1_800_000_000;
const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;

fn authority(id: &str, status: AuthorityStatus) -> Authority {
    Authority {
        id: id.into(),
        kind: AuthorityKind::X509.into(),
        status: status.into(),
        issued_at: NOW - DAY,
        expires_at: NOW + YEAR,
        ..Authority::default()
    }
}

fn held(renew_in: i64, ends_in: i64) -> Held {
    Held {
        renew_at: Some(NOW + renew_in),
        not_after: NOW + ends_in,
    }
}

fn scene(authorities: Vec<Authority>) -> Scene {
    Scene {
        mode: IssuanceMode::Intermediate,
        now: NOW,
        usable: authorities.iter().map(|a| a.id.clone()).collect(),
        authorities,
        held: BTreeMap::new(),
        failures: BTreeMap::new(),
    }
}

fn certify(id: &str) -> Step {
    Step::Certify(id.into())
}

fn drop(id: &str) -> Step {
    Step::Drop(id.into())
}

#[test]
fn what_signs_and_what_is_next_certify_one_and_nothing_else_does() {
    use AuthorityStatus::{Active, Old, Prepared, Revoked, Unspecified};
    let all = [
        authority("active", Active),
        authority("next", Prepared),
        authority("old", Old),
        authority("revoked", Revoked),
        authority("none", Unspecified),
        Authority {
            expires_at: NOW,
            ..authority("ended", Active)
        },
        Authority {
            tainted: true,
            ..authority("tainted", Old)
        },
    ];
    let mut scene = scene(all.to_vec());
    assert_eq!(plan(&scene), [certify("active"), certify("next")]);
    // One whose key this node has not signed with is not asked.
    scene.usable.remove("next");
    assert_eq!(plan(&scene), [certify("active")]);
    scene.mode = IssuanceMode::Direct;
    assert_eq!(plan(&scene), []);
}

#[test]
fn one_is_renewed_from_its_time_on_and_not_before() {
    let mut scene = scene(vec![authority("active", AuthorityStatus::Active)]);
    for (renew_in, steps) in [(1, vec![]), (0, vec![certify("active")])] {
        scene.held = BTreeMap::from([("active".into(), held(renew_in, HOUR))]);
        assert_eq!(plan(&scene), steps, "{renew_in}");
    }
    // One that lives as long as its authority has nothing to gain.
    let last = Held {
        renew_at: None,
        not_after: NOW + 1,
    };
    scene.held = BTreeMap::from([("active".into(), last)]);
    assert_eq!(plan(&scene), []);
}

#[test]
fn what_may_not_sign_any_more_is_dropped_first() {
    use AuthorityStatus::{Active, Old, Revoked};
    let kept = scene(vec![authority("old", Old), authority("active", Active)]);
    let mut with = kept.clone();
    let both = ["old", "active"].map(|id| (id.to_owned(), held(HOUR, DAY)));
    with.held = both.into();
    assert_eq!(plan(&with), [], "an old one without a blemish is a reserve");

    let mut tainted = with.clone();
    tainted.authorities[0].tainted = true;
    assert_eq!(plan(&tainted), [drop("old")]);

    let mut revoked = with.clone();
    revoked.authorities[0].set_status(Revoked);
    assert_eq!(plan(&revoked), [drop("old")]);

    let mut forgotten = with.clone();
    forgotten.authorities.remove(0);
    assert_eq!(plan(&forgotten), [drop("old")]);

    let mut ended = with.clone();
    ended.held.insert("active".into(), held(-HOUR, 0));
    assert_eq!(plan(&ended), [drop("active"), certify("active")]);

    let mut direct = with.clone();
    direct.mode = IssuanceMode::Direct;
    assert_eq!(plan(&direct), [drop("active"), drop("old")]);
}

#[test]
fn tries_in_vain_are_spaced_while_a_good_one_is_held() {
    let mut scene = scene(vec![authority("active", AuthorityStatus::Active)]);
    let failed = |count, ago| Failures {
        count,
        last_at: NOW - ago,
    };
    for (count, ago, ends_in, due) in [
        // Two seconds after the first, doubled, a minute at most.
        (1, 1, DAY, false),
        (1, 2, DAY, true),
        (3, 7, DAY, false),
        (3, 8, DAY, true),
        (9, 59, DAY, false),
        (9, 60, DAY, true),
        (u32::MAX, 60, DAY, true),
        // A tenth of what is left, but a second.
        (9, 9, 100, false),
        (9, 10, 100, true),
        (9, 0, 5, false),
        (9, 1, 5, true),
    ] {
        scene.held = BTreeMap::from([("active".into(), held(-1, ends_in))]);
        scene.failures = BTreeMap::from([("active".into(), failed(count, ago))]);
        let steps = if due { vec![certify("active")] } else { vec![] };
        assert_eq!(plan(&scene), steps, "{count} {ago} {ends_in}");
    }
    // Without a good one every look is a try.
    scene.held.clear();
    scene.failures = BTreeMap::from([("active".into(), failed(9, 0))]);
    assert_eq!(plan(&scene), [certify("active")]);
}

#[test]
fn renewal_lies_between_two_fifths_and_a_half_of_the_life() {
    let at = |life, jitter| renew_at(NOW, NOW + life, NOW + YEAR, jitter);
    assert_eq!(at(DAY, 0), Some(NOW + DAY / 5 * 2));
    assert_eq!(at(DAY, u16::MAX), Some(NOW + DAY / 2 - 1));
    assert_eq!(at(DAY, 0x8000), Some(NOW + DAY * 45 / 100));
    assert_eq!(at(5, 0), Some(NOW + 2));
    // As long as its authority, or longer, which cannot be.
    assert_eq!(renew_at(NOW, NOW + YEAR, NOW + YEAR, 0), None);
    assert_eq!(renew_at(NOW, NOW + YEAR + 1, NOW + YEAR, 0), None);
}

proptest! {
    #[test]
    fn renewal_is_inside_its_part_whatever_the_life(life in 0i64..8 * DAY, jitter: u16) {
        let at = renew_at(NOW, NOW + life, NOW + YEAR, jitter).unwrap() - NOW;
        prop_assert!(at >= life * 2 / 5 && at <= life / 2, "{at} of {life}");
    }

    /// A token that is away for less than half of a life leaves no node without an
    /// intermediate, whenever it goes and whatever the jitter: a run second by second.
    #[test]
    fn an_outage_of_half_a_life_is_outlasted(
        life in 20i64..2_000, begins in 0i64..6_000,
        jitters in prop::collection::vec(any::<u16>(), 64)
    ) {
        let outage = begins..begins + life / 2;
        let mut scene = scene(vec![authority("active", AuthorityStatus::Active)]);
        let mut jitter = jitters.iter().cycle();
        let mut certified = 0;
        for second in 0..begins + 2 * life {
            scene.now = NOW + second;
            for step in plan(&scene) {
                if outage.contains(&second) && certified > 0 {
                    let failures = scene.failures.entry("active".into());
                    let failed = failures.or_insert(Failures { count: 0, last_at: 0 });
                    failed.count += 1;
                    failed.last_at = scene.now;
                    continue;
                }
                prop_assert_eq!(step, certify("active"));
                certified += 1;
                scene.failures.clear();
                let ends = scene.now + life;
                let next = Held {
                    renew_at: renew_at(scene.now, ends, NOW + YEAR, *jitter.next().unwrap()),
                    not_after: ends,
                };
                scene.held.insert("active".into(), next);
            }
            let good = scene.held.get("active").is_some_and(|h| scene.now < h.not_after);
            prop_assert!(good, "none at {} of a life of {}", second, life);
        }
        // Two fifths of a life lie between two, but for what the outage took.
        let bound = (begins + 2 * life) / (life * 2 / 5) + 2;
        prop_assert!(certified <= bound, "{} certified, {} at most", certified, bound);
    }
}
