//! The tracker's rules one by one.

use super::*;

const X509: AuthorityKind = AuthorityKind::X509;
const NOW: i64 = 1_800_000_000;
const AGENT: &str = "/spire/agent/a";

fn document(authority_id: &str, place: Place, expires_at: i64) -> Document<'_> {
    Document {
        kind: X509,
        authority_id,
        place,
        expires_at,
    }
}

/// A tracker whose log takes everything.
struct Noted {
    tracker: Tracker,
    active: &'static str,
    /// The log's pairs: until when by holder and authority.
    pairs: BTreeSet<(String, String, i64)>,
}

impl Noted {
    fn new(active: &'static str) -> Self {
        Self {
            tracker: Tracker::default(),
            active,
            pairs: BTreeSet::new(),
        }
    }

    fn issue(&mut self, at: i64, documents: &[Document<'_>]) -> Standing {
        let asked = self.tracker.mark(at);
        self.tracker.issue(at, AGENT, documents);
        self.tracker.leave((asked, at), AGENT, documents, false)
    }

    /// Asks for them, waits for the log and hands them out.
    fn hand_out(&mut self, at: i64, documents: &[Document<'_>]) -> Vec<(String, i64)> {
        let asked = self.tracker.mark(at);
        self.tracker.issue(at, AGENT, documents);
        let mut all = self.flush(at);
        let standing = self.tracker.leave((asked, at), AGENT, documents, false);
        assert_eq!(standing, Standing::Covered);
        all.extend(self.flush(at));
        all
    }

    /// Notes of the next writes, each with its end less [`NOW`].
    fn flush(&mut self, at: i64) -> Vec<(String, i64)> {
        let active = self.active;
        let mut all = Vec::new();
        self.tracker.stir(|_, id| id != active);
        while let Some(batch) = self.tracker.take(at, |_, id| id == active) {
            for note in &batch.notes {
                let id = note.authority.clone().unwrap_or_default().id;
                self.pairs
                    .retain(|(path, other, _)| (path, other) != (&note.path, &id));
                self.pairs
                    .insert((note.path.clone(), id.clone(), note.until));
                all.push((id, if note.until == 0 { 0 } else { note.until - NOW }));
            }
            let ruled = vec![Refusal::None; batch.notes.len()];
            self.tracker.done(batch, Some(&ruled));
        }
        all
    }
}

const APART: i64 = tracker::CLOCKS_APART;

#[test]
fn a_first_document_waits_for_the_log_and_the_next_ones_do_not() {
    let mut noted = Noted::new("a");
    let first = [document("a", Place::Item(1), NOW + 3_600)];
    assert_eq!(noted.issue(NOW, &first), Standing::Waiting);
    assert_eq!(
        noted.flush(NOW),
        [("a".into(), 3_600 + APART + tracker::RESERVE)]
    );
    assert_eq!(noted.tracker.standing(AGENT, &first), Standing::Covered);
    let others = [
        document("a", Place::Item(1), NOW + 3_600 + tracker::RESERVE),
        document("a", Place::Item(2), NOW + 7_200),
        document("a", Place::Lasting, NOW + 10),
    ];
    assert_eq!(noted.issue(NOW + 1_800, &others), Standing::Covered);
    assert!(noted.flush(NOW + 1_800).is_empty());
    let longer = [document(
        "a",
        Place::Item(1),
        NOW + 3_601 + tracker::RESERVE,
    )];
    assert_eq!(noted.issue(NOW + 9_000, &longer), Standing::Waiting);
    assert_eq!(noted.flush(NOW + 9_000).len(), 1);
}

#[test]
fn a_pair_is_over_when_everything_was_replaced() {
    let mut noted = Noted::new("a");
    let both = [
        document("a", Place::Item(1), NOW + 100),
        document("a", Place::Item(2), NOW + 200),
    ];
    noted.issue(NOW, &both);
    noted.flush(NOW);
    noted.active = "b";
    // Noted with its own end once.
    assert_eq!(noted.flush(NOW), [("a".into(), 200 + APART)]);
    let (b, reserve) = (String::from("b"), tracker::RESERVE);
    assert_eq!(
        noted.hand_out(NOW + 1, &[document("b", Place::Item(2), NOW + 300)]),
        [(b, 300 + APART + reserve)]
    );
    assert_eq!(
        noted.hand_out(NOW + 2, &[document("b", Place::Item(1), NOW + 300)]),
        [("a".into(), 0)]
    );
    assert_eq!(noted.tracker.len(), 1);
    assert!(noted.flush(NOW + 3).is_empty() && noted.tracker.is_quiet());
}

#[test]
fn what_nothing_replaces_ends_by_time() {
    let mut noted = Noted::new("a");
    noted.issue(NOW, &[document("a", Place::Lasting, NOW + 100)]);
    noted.flush(NOW);
    noted.active = "b";
    noted.issue(NOW, &[document("b", Place::Lasting, NOW + 300)]);
    assert_eq!(noted.flush(NOW).len(), 2);
    noted.tracker.sweep(NOW + 99 + APART);
    assert!(noted.flush(NOW + 99 + APART).is_empty());
    noted.tracker.sweep(NOW + 100 + APART);
    // The log's row has ended by itself.
    assert!(noted.flush(NOW + 100 + APART).is_empty());
    assert_eq!(noted.tracker.len(), 1);
}

#[test]
fn an_answer_that_was_overtaken_replaces_nothing() {
    let mut noted = Noted::new("b");
    let slow = noted.tracker.mark(NOW);
    let new = [document("b", Place::Item(1), NOW + 100)];
    noted.hand_out(NOW, &new);
    let old = [document("a", Place::Item(1), NOW + 100)];
    noted.tracker.issue(NOW, AGENT, &old);
    noted.flush(NOW);
    let standing = noted.tracker.leave((slow, NOW), AGENT, &old, false);
    assert_eq!(standing, Standing::Covered);
    // The holder may have either.
    assert!(noted.flush(NOW).is_empty());
    assert_eq!(noted.tracker.len(), 2);
    assert_eq!(noted.hand_out(NOW, &new), [("a".into(), 0)]);
}

#[test]
fn a_document_that_does_not_leave_replaces_nothing() {
    let mut noted = Noted::new("a");
    noted.hand_out(NOW, &[document("a", Place::Item(1), NOW + 900)]);
    let shorter = [document("a", Place::Item(1), NOW + 100)];
    noted.tracker.issue(NOW, AGENT, &shorter);
    noted.active = "b";
    let new = [document("b", Place::Item(1), NOW + 900)];
    assert_eq!(noted.issue(NOW, &new), Standing::Waiting);
    let (a, b) = (String::from("a"), String::from("b"));
    let reserve = tracker::RESERVE;
    assert_eq!(
        noted.flush(NOW),
        [(a, 900 + APART), (b, 900 + APART + reserve)]
    );
    noted.tracker.sweep(NOW + 899 + APART);
    assert!(noted.flush(NOW + 899 + APART).is_empty());
    assert_eq!(noted.hand_out(NOW, &new), [("a".into(), 0)]);
}

#[test]
fn without_a_log_a_document_that_leaves_replaces_nevertheless() {
    let mut noted = Noted::new("b");
    noted.hand_out(NOW, &[document("a", Place::Item(1), NOW + 900)]);
    let new = [document("b", Place::Item(1), NOW + 900)];
    let asked = noted.tracker.mark(NOW);
    noted.tracker.issue(NOW, AGENT, &new);
    let standing = noted.tracker.leave((asked, NOW), AGENT, &new, true);
    assert_eq!(standing, Standing::Waiting);
    let reserve = tracker::RESERVE;
    assert_eq!(
        noted.flush(NOW),
        [("a".into(), 0), ("b".into(), 900 + APART + reserve)]
    );
}

#[test]
fn a_document_that_leaves_after_a_newer_one_is_counted_again() {
    let mut noted = Noted::new("b");
    let slow = noted.tracker.mark(NOW);
    let old = [document("a", Place::Item(1), NOW + 900)];
    noted.tracker.issue(NOW, AGENT, &old);
    let new = [document("b", Place::Item(1), NOW + 900)];
    assert_eq!(noted.hand_out(NOW, &new).len(), 3);
    assert_eq!(noted.tracker.len(), 1);
    let standing = noted.tracker.leave((slow, NOW), AGENT, &old, false);
    assert_eq!(standing, Standing::Refused);
    // Or, before the log has heard of the end of the pair.
    noted.tracker.issue(NOW, AGENT, &old);
    noted.flush(NOW);
    assert_eq!(noted.issue(NOW, &new), Standing::Covered);
    let standing = noted.tracker.leave((slow, NOW), AGENT, &old, false);
    assert_eq!(standing, Standing::Covered);
    assert!(noted.flush(NOW).is_empty());
    assert_eq!(noted.tracker.len(), 2);
}

#[test]
fn what_another_node_renewed_counts_where_it_surely_came_later() {
    let mut noted = Noted::new("b");
    noted.issue(NOW, &[document("a", Place::Item(1), NOW + 900)]);
    noted.flush(NOW);
    let renewal = |authority: &str, item, asked_at| Renewal {
        authority: Some(AuthorityName {
            kind: X509.into(),
            id: authority.into(),
        }),
        path: AGENT.into(),
        item,
        asked_at,
    };
    for doubtful in [
        renewal("b", 1, NOW + APART),
        renewal("a", 1, NOW + 500),
        renewal("b", 2, NOW + 500),
        Renewal {
            path: "/spire/agent/ab".into(),
            ..renewal("b", 1, NOW + 500)
        },
    ] {
        noted.tracker.renewed(&doubtful);
        assert!(noted.flush(NOW + 1).is_empty(), "{doubtful:?}");
    }
    noted.tracker.renewed(&renewal("b", 1, NOW + APART + 1));
    assert_eq!(noted.flush(NOW + 1), [("a".into(), 0)]);
}

#[test]
fn while_a_pair_is_taken_away_it_covers_nothing() {
    let mut noted = Noted::new("b");
    let old = [document("a", Place::Item(1), NOW + 900)];
    noted.hand_out(NOW, &old);
    noted.hand_out(NOW, &[document("b", Place::Item(2), NOW + 900)]);
    noted.issue(NOW, &[document("b", Place::Item(1), NOW + 900)]);
    let batch = noted.tracker.take(NOW, |_, id| id == "b").unwrap();
    assert_eq!(batch.notes[0].until, 0);
    // A signature that began before the rotation ends now.
    assert_eq!(noted.issue(NOW, &old), Standing::Waiting);
    assert!(!noted.tracker.is_quiet());
    let ruled = vec![Refusal::None; batch.notes.len()];
    noted.tracker.done(batch, Some(&ruled));
    assert_eq!(noted.tracker.standing(AGENT, &old), Standing::Waiting);
    noted.flush(NOW);
    assert_eq!(noted.tracker.standing(AGENT, &old), Standing::Covered);
}

#[test]
fn a_write_of_which_nothing_is_known_comes_again() {
    let mut noted = Noted::new("b");
    noted.hand_out(NOW, &[document("a", Place::Item(1), NOW + 900)]);
    noted.hand_out(NOW, &[document("b", Place::Item(2), NOW + 900)]);
    let longer = NOW + 901 + tracker::RESERVE;
    noted.issue(NOW, &[document("b", Place::Item(1), NOW + 900)]);
    noted.issue(NOW, &[document("b", Place::Item(2), longer)]);
    let numbers: Vec<_> = (0..3)
        .map(|_| {
            let batch = noted.tracker.take(NOW, |_, id| id == "b").unwrap();
            assert_eq!(batch.notes.len(), 2);
            let number = batch.number;
            noted.tracker.done(batch, None);
            number
        })
        .collect();
    assert_eq!(numbers, [3, 4, 5]);
    assert_eq!(noted.flush(NOW).len(), 2);
    assert_eq!(noted.tracker.len(), 1);
}

#[test]
fn what_the_log_refuses_does_not_leave() {
    let mut noted = Noted::new("a");
    let documents = [document("a", Place::Item(1), NOW + 900)];
    noted.issue(NOW, &documents);
    let batch = noted.tracker.take(NOW, |_, _| true).unwrap();
    noted.tracker.done(batch, Some(&[Refusal::NotFound]));
    assert_eq!(noted.tracker.standing(AGENT, &documents), Standing::Refused);
    assert!(noted.tracker.is_quiet());
}

#[test]
fn one_write_has_bounds() {
    let mut tracker = Tracker::default();
    for n in 0..NoteHolders::NOTES_MAX + 1 {
        let documents = [document("a", Place::Item(1), NOW + 900)];
        tracker.issue(NOW, &format!("/n{n}"), &documents);
    }
    let batch = tracker.take(NOW, |_, _| true).unwrap();
    assert_eq!(batch.notes.len(), NoteHolders::NOTES_MAX);
    let ruled = vec![Refusal::None; batch.notes.len()];
    tracker.done(batch, Some(&ruled));
    assert!(tracker.take(NOW, |_, _| true).is_some());
    let mut tracker = Tracker::default();
    for n in 0..300 {
        let documents = [document("a", Place::Item(1), NOW + 900)];
        tracker.issue(NOW, &format!("/{n}{}", "x".repeat(2_000)), &documents);
    }
    let batch = tracker.take(NOW, |_, _| true).unwrap();
    assert!(batch.notes.len() < 140, "{}", batch.notes.len());
}

#[test]
fn items_are_told_apart() {
    let all: BTreeSet<u64> = [
        agent_item(),
        item("entry", ""),
        item("entry", "a"),
        item("entry", "b"),
    ]
    .into();
    assert_eq!(all.len(), 4);
    // On the wire between versions.
    assert_eq!(agent_item(), item("agent", ""));
}
