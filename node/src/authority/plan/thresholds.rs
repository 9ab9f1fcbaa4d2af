//! When an authority is followed by the next one: SPIRE's thresholds, and what shorter
//! lives than SPIRE's make of waiting. All in Unix seconds.

use chancery_raft_store::model::{Authority, AuthorityKind};

use crate::issue::BACKDATE_SECONDS;

const DAY: i64 = 24 * 60 * 60;
/// The next one is prepared so long before the end at most.
const PREPARE_BEFORE_MAX: i64 = 30 * DAY;
/// The next one signs so long before the end at most.
const ACTIVATE_BEFORE_MAX: i64 = 7 * DAY;
/// Time for agents to learn of a new authority: three of a stock agent's rounds.
pub(in crate::authority) const LEARNING: i64 = 15;
/// Members that were seen within this time must have proved a shared key before it signs.
pub(in crate::authority) const PROVERS_SEEN_WITHIN: i64 = 600;
/// An intent of a node that is not there is given up after this time.
const INTENT_PATIENCE: i64 = 30;
/// A node that was not seen for this long is not there.
pub(super) const PRESENT_WITHIN: i64 = 5;
/// A record may be of the future by so much: clocks of nodes differ.
const FUTURE_MAX: i64 = 60;

fn life(authority: &Authority) -> i64 {
    authority
        .expires_at
        .saturating_sub(authority.issued_at)
        .max(0)
}

/// From here on there is to be a next one.
pub(super) fn prepare_at(authority: &Authority) -> i64 {
    authority.expires_at - (life(authority) / 2).min(PREPARE_BEFORE_MAX)
}

/// From here on the next one is to sign.
pub(super) fn activate_at(authority: &Authority) -> i64 {
    authority.expires_at - (life(authority) / 6).min(ACTIVATE_BEFORE_MAX)
}

/// When an authority was made. A certificate begins a little before.
pub(super) fn made_at(authority: &Authority) -> i64 {
    match authority.kind() {
        AuthorityKind::Jwt => authority.issued_at,
        AuthorityKind::X509 | AuthorityKind::Unspecified => {
            authority.issued_at.saturating_add(BACKDATE_SECONDS)
        }
    }
}

/// From here on agents can be expected to know an authority: the bundle has had it for long
/// enough.
pub(super) fn learned_at(authority: &Authority) -> i64 {
    made_at(authority).saturating_add(LEARNING)
}

/// When `next` takes over from `active`: when SPIRE's would, or when half of its own life is
/// over unused (it was prepared early, or `ca_ttl` is shorter now); not before agents know it,
/// unless the active one ends before they do.
pub(super) fn takes_over_at(active: &Authority, next: &Authority) -> i64 {
    activate_at(active)
        .min(prepare_at(next))
        .max(learned_at(next))
        .min(active.expires_at)
}

/// How long a member that is away holds up the successor of `active`: lives of less than two
/// hours leave no ten minutes for it.
pub(super) fn provers_seen_within(active: Option<&Authority>) -> i64 {
    scaled(active, PROVERS_SEEN_WITHIN)
}

/// How long the key of a node that is not there is waited for.
pub(super) fn patience(active: Option<&Authority>) -> i64 {
    scaled(active, INTENT_PATIENCE)
}

fn scaled(active: Option<&Authority>, most: i64) -> i64 {
    active.map_or(most, |authority| {
        (life(authority) / 12).clamp(PRESENT_WITHIN, most)
    })
}

/// Whether documents of an authority are valid at `now`. One that begins later was made while
/// clocks were wrong.
pub(super) fn is_current(authority: &Authority, now: i64) -> bool {
    authority.expires_at > now && authority.issued_at <= now.saturating_add(FUTURE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;

    fn of(kind: AuthorityKind, issued_at: i64, life: i64) -> Authority {
        Authority {
            kind: kind.into(),
            issued_at,
            expires_at: issued_at + life,
            ..Authority::default()
        }
    }

    fn jwt(issued_at: i64, life: i64) -> Authority {
        of(AuthorityKind::Jwt, issued_at, life)
    }

    #[test]
    fn thresholds_are_spires_at_their_edges() {
        for (life, prepare_before, activate_before) in [
            (24 * HOUR, 12 * HOUR, 4 * HOUR),
            (60, 30, 10),
            (0, 0, 0),
            (-5, 0, 0),
            // Half of a life is 30 days from 60 days on, a sixth 7 days from 42 days on.
            (60 * DAY - 2, 30 * DAY - 1, 7 * DAY),
            (60 * DAY, 30 * DAY, 7 * DAY),
            (60 * DAY + 2, 30 * DAY, 7 * DAY),
            (42 * DAY - 6, 21 * DAY - 3, 7 * DAY - 1),
            (42 * DAY, 21 * DAY, 7 * DAY),
            (42 * DAY + 6, 21 * DAY + 3, 7 * DAY),
            (365 * DAY, 30 * DAY, 7 * DAY),
        ] {
            let authority = jwt(1_000, life);
            let end = 1_000 + life;
            assert_eq!(prepare_at(&authority), end - prepare_before, "{life}");
            assert_eq!(activate_at(&authority), end - activate_before, "{life}");
        }
    }

    #[test]
    fn agents_are_given_three_rounds_from_the_making_on() {
        assert_eq!(learned_at(&jwt(1_000, 60)), 1_015);
        let root = of(AuthorityKind::X509, 1_000, 60);
        assert_eq!(learned_at(&root), 1_000 + BACKDATE_SECONDS + 15);
    }

    #[test]
    fn the_next_one_takes_over_when_it_is_time_and_known() {
        let day = jwt(0, 24 * HOUR);
        // Prepared when it was due: SPIRE's threshold, 20 hours.
        assert_eq!(takes_over_at(&day, &jwt(12 * HOUR, 24 * HOUR)), 20 * HOUR);
        // Prepared late: agents first, the end of the other one at the latest.
        let late = 20 * HOUR - 14;
        assert_eq!(takes_over_at(&day, &jwt(late - 1, 24 * HOUR)), 20 * HOUR);
        assert_eq!(takes_over_at(&day, &jwt(late, 24 * HOUR)), 20 * HOUR + 1);
        let end = 24 * HOUR;
        assert_eq!(takes_over_at(&day, &jwt(end - 16, 24 * HOUR)), end - 1);
        assert_eq!(takes_over_at(&day, &jwt(end - 14, 24 * HOUR)), end);
        // Its own half is over first.
        assert_eq!(takes_over_at(&day, &jwt(HOUR, 2 * HOUR)), 2 * HOUR);
    }

    #[test]
    fn short_lives_wait_less_for_whoever_is_away() {
        for (life, provers, open) in [
            (365 * DAY, 600, 30),
            (7_200, 600, 30),
            (7_199, 599, 30),
            (360, 30, 30),
            (348, 29, 29),
            (60, 5, 5),
            (30, 5, 5),
        ] {
            let active = jwt(0, life);
            assert_eq!(provers_seen_within(Some(&active)), provers, "{life}");
            assert_eq!(patience(Some(&active)), open, "{life}");
        }
        assert_eq!(provers_seen_within(None), 600);
        assert_eq!(patience(None), 30);
    }

    #[test]
    fn what_ended_and_what_is_of_the_future_is_not_current() {
        let authority = jwt(1_000, 100);
        for (now, current) in [(939, false), (940, true), (1_099, true), (1_100, false)] {
            assert_eq!(is_current(&authority, now), current, "{now}");
        }
    }
}
