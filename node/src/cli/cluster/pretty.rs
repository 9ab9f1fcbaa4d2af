//! `cluster status` for a person: who leads, what each member is doing, when authorities end, and
//! what to do.

use std::fmt::Write as _;

use chancery_api::chancery::cluster::v1::{Authority, Member, StatusResponse};

use crate::cli::paint::{Paint, Tone};
use crate::cli::text;

/// Digests are compared, not read.
const DIGEST_CHARS: usize = 12;

/// The whole page.
pub(super) fn status(status: &StatusResponse, now_unix_s: i64, paint: Paint) -> String {
    let mut page = summary(status, paint);
    page.push('\n');
    page.push_str(&members(status, paint));
    if !status.authorities.is_empty() {
        page.push('\n');
        page.push_str(&authorities(&status.authorities, now_unix_s, paint));
    }
    page.push('\n');
    page.push_str(&advice(status, paint));
    page
}

fn summary(status: &StatusResponse, paint: Paint) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: String| {
        let _ = writeln!(text, "{}{value}", paint.label(label, 14));
    };
    line("Cluster", status.cluster_id.clone());
    line("Trust domain", status.trust_domain.clone());
    line(
        "Leader",
        match status.leader.as_deref() {
            None | Some("") => {
                let none = paint.apply(Tone::Bad, "none known");
                format!("{none} (term {})", status.term)
            }
            Some(id) => {
                let member = status.members.iter().find(|member| member.id == id);
                let address = member.map_or(String::new(), |member| format!(", {}", member.api));
                format!("node {id}{address} (term {})", status.term)
            }
        },
    );
    let ready = if status.ready {
        paint.apply(Tone::Good, "can issue")
    } else {
        paint.apply(Tone::Bad, "cannot issue")
    };
    line("Asked node", format!("node {}, {ready}", status.node_id));
    let limit = text::age(status.stale_issuance_limit_ms);
    line(
        "State",
        match status.freshness_ms {
            Some(ms) => format!("{} old; issuance stops at {limit}", text::age(ms)),
            None => "not confirmed by a quorum since the start".to_owned(),
        },
    );
    line(
        "Issuance",
        match &*status.issuance_mode {
            "" => "by a server that does not tell its mode".to_owned(),
            "intermediate" => "intermediate: each node signs with a short-lived CA".to_owned(),
            mode => format!("{mode}: authorities sign by themselves"),
        },
    );
    line(
        "Authorities",
        match &*status.authority_scope {
            "" => "as each node's keys have it".to_owned(),
            "shared" => "shared: nodes sign with the same keys".to_owned(),
            scope => format!("{scope}: each node has its own"),
        },
    );
    for left in &status.scope_left {
        line("", left.clone());
    }
    line("Outage budget", outage_budget(status));
    text
}

/// How long issuing goes on by itself. The state's age and the token are lost apart from each
/// other, so a budget of each is told.
fn outage_budget(status: &StatusResponse) -> String {
    let left = |seconds: i64| text::duration(u64::try_from(seconds).unwrap_or(0));
    if status.outage_budget_seconds <= 0 {
        return "none: issuance stops with the quorum".to_owned();
    }
    let mut budget = format!(
        "{} of issuance without the quorum",
        left(status.outage_budget_seconds)
    );
    if let Some(first) = status.outage_parts.first() {
        let _ = write!(budget, ", ended by {}", part_name(&first.part));
    }
    let parts = &mut status.outage_parts.iter();
    if let Some(held) = parts.find(|part| part.part == "intermediate") {
        let _ = write!(budget, "; {} without the token", left(held.seconds));
    }
    budget
}

fn part_name(part: &str) -> &str {
    match part {
        "freshness" => "the age of the state",
        "authority" => "the authority's end",
        "server_svid" => "the server SVID's end",
        "intermediate" => "the intermediate's end",
        other => other,
    }
}

fn members(status: &StatusResponse, paint: Paint) -> String {
    let mut rows = vec![headings(&[
        "NODE", "ROLE", "STATE", "APPLIED", "DIGEST", "CLOCK", "VERSION", "AGENTS", "PEERS",
    ])];
    rows.extend(status.members.iter().map(|member| {
        let asked = if member.id == status.node_id { "*" } else { "" };
        vec![
            format!("{}{asked}", member.id),
            member.role.clone(),
            state(member).to_owned(),
            member.applied_index.to_string(),
            member.state_digest.chars().take(DIGEST_CHARS).collect(),
            clock(member, &status.node_id),
            member.version.clone(),
            member.api.clone(),
            member.peer.clone(),
        ]
    }));
    painted(&rows, paint, |row, column| {
        let member = &status.members[row];
        match column {
            1 if member.role == "leader" => Some(Tone::Strong),
            2 => Some(match state(member) {
                "ready" => Tone::Good,
                "not ready" => Tone::Doubtful,
                _ => Tone::Bad,
            }),
            _ => None,
        }
    })
}

/// The table of `cluster members`.
pub(super) fn roles(status: &StatusResponse, paint: Paint) -> String {
    let mut rows = vec![headings(&[
        "NODE", "ROLE", "TO BE", "STATE", "APPLIED", "STARTS", "VERSION", "AGENTS", "PEERS",
    ])];
    rows.extend(status.members.iter().map(|member| {
        let asked = if member.id == status.node_id { "*" } else { "" };
        vec![
            format!("{}{asked}", member.id),
            member.role.clone(),
            to_be(member),
            state(member).to_owned(),
            member.applied_index.to_string(),
            member.boot.to_string(),
            member.version.clone(),
            member.api.clone(),
            member.peer.clone(),
        ]
    }));
    painted(&rows, paint, |row, column| match column {
        1 if status.members[row].role == "leader" => Some(Tone::Strong),
        _ => None,
    })
}

fn to_be(member: &Member) -> String {
    match (&*member.wanted, &*member.replaces, member.auto_promote) {
        ("leaving", ..) => "removed".into(),
        ("learner", "", true) => "voter, by itself".into(),
        ("learner", old, true) => format!("in place of {old}"),
        (wanted, ..) => wanted.into(),
    }
}

/// A table under strong headings; `tone` is of the rows below them, from 0.
fn painted(
    rows: &[Vec<String>],
    paint: Paint,
    tone: impl Fn(usize, usize) -> Option<Tone>,
) -> String {
    text::painted_table(rows, |row, column, cell| {
        let tone = match row.checked_sub(1) {
            None => Some(Tone::Strong),
            Some(row) => tone(row, column),
        };
        tone.map_or_else(|| cell.to_owned(), |tone| paint.apply(tone, cell))
    })
}

fn state(member: &Member) -> &'static str {
    match (member.reachable, member.not_ready.is_empty()) {
        (false, _) => "unreachable",
        (true, false) => "not ready",
        (true, true) => "ready",
    }
}

fn clock(member: &Member, asked: &str) -> String {
    match member.clock_skew_ms {
        _ if member.id == asked => "-".to_owned(),
        None => "?".to_owned(),
        Some(ms) => format!("{ms:+} ms"),
    }
}

fn authorities(authorities: &[Authority], now_unix_s: i64, paint: Paint) -> String {
    let mut rows = vec![headings(&["AUTHORITY", "STATUS", "KEY", "EXPIRES", "ID"])];
    rows.extend(authorities.iter().map(|authority| {
        let at = authority.expires_at;
        let node = match authority.node_id.as_str() {
            "" => String::new(),
            node => format!(" of node {node}"),
        };
        vec![
            authority.kind.clone(),
            authority.status.clone(),
            format!("{}{node}", authority.backend),
            format!("{} ({})", text::relative(at, now_unix_s), text::date(at)),
            authority.authority_id.clone(),
        ]
    }));
    painted(&rows, paint, |row, column| {
        let authority = &authorities[row];
        match column {
            1 if authority.status == "active" => Some(Tone::Good),
            3 if authority.expires_at <= now_unix_s => Some(Tone::Bad),
            _ => None,
        }
    })
}

/// The server's sentences, which say both what is wrong and what to do.
fn advice(status: &StatusResponse, paint: Paint) -> String {
    if !status.advice.is_empty() {
        let mut text = paint.apply(Tone::Bad, "What is wrong and what to do:") + "\n";
        for advice in &status.advice {
            let _ = writeln!(text, "- {advice}");
        }
        return text;
    }
    if status.ready && status.leader.is_some() {
        return paint.apply(Tone::Good, "All is well.") + "\n";
    }
    // The server gives advice when something lasts; a moment's trouble is told as such.
    let moment = "Nothing that lasts is wrong; ask again in a few seconds.";
    paint.apply(Tone::Doubtful, moment) + "\n"
}

fn headings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use chancery_api::chancery::cluster::v1::OutagePart;

    use super::*;
    use crate::cli::paint::strip;
    use crate::cli::testing::cluster_status;

    fn status(status: &StatusResponse, now_unix_s: i64) -> String {
        super::status(status, now_unix_s, Paint::Plain)
    }

    /// An hour before the authorities of the sample end.
    const NOW: i64 = 1_552_410_266 - 3_600;

    #[test]
    fn a_healthy_cluster_is_a_short_page() {
        let mut healthy = cluster_status();
        healthy.members.truncate(2);
        let expected = "\
Cluster       : c-1
Trust domain  : example.org
Leader        : node 1, one:8081 (term 7)
Asked node    : node 2, can issue
State         : 12 ms old; issuance stops at 10 min
Issuance      : direct: authorities sign by themselves
Authorities   : shared: nodes sign with the same keys
Outage budget : 9 min 59 s of issuance without the quorum, ended by the age of the state

NODE  ROLE    STATE  APPLIED  DIGEST        CLOCK  VERSION  AGENTS    PEERS
1     leader  ready  1042     abcdef012345  +0 ms  0.1.0    one:8081  one:8082
2*    voter   ready  1042     abcdef012345  -      0.1.0    two:8081  two:8082

AUTHORITY  STATUS    KEY               EXPIRES                                ID
x509       active    pkcs11            in 1 h (2019-03-12 17:04:26 +0000 UTC)  0a1b
jwt        prepared  memory of node 2  in 1 h (2019-03-12 17:04:26 +0000 UTC)  kid-1

All is well.
";
        let expected = expected.replace(
            "EXPIRES                                ID",
            "EXPIRES                                 ID",
        );
        assert_eq!(status(&healthy, NOW), expected);
    }

    #[test]
    fn members_in_trouble_stand_out() {
        let page = status(&cluster_status(), NOW);
        assert!(page.contains("3     learner  not ready    900"), "{page}");
        assert!(page.contains("4     voter    unreachable  12"), "{page}");
    }

    #[test]
    fn with_intermediates_the_token_has_a_budget_of_its_own() {
        let mut sample = cluster_status();
        sample.issuance_mode = "intermediate".into();
        sample.outage_parts = [("freshness", 599), ("intermediate", 46_800)]
            .map(|(part, seconds)| OutagePart {
                part: part.into(),
                seconds,
            })
            .to_vec();
        let page = status(&sample, NOW);
        for line in [
            "Issuance      : intermediate: each node signs with a short-lived CA\n",
            "Outage budget : 9 min 59 s of issuance without the quorum, ended by the age of the state; 13 h without the token\n",
        ] {
            assert!(page.contains(line), "{page}");
        }
    }

    #[test]
    fn colours_mark_what_is_well_and_what_is_not_and_leave_the_page_as_it_is() {
        let electing = StatusResponse {
            leader: None,
            ready: false,
            ..cluster_status()
        };
        let ended = NOW + 3_600;
        for (sample, now_unix_s, marked) in [
            (
                cluster_status(),
                NOW,
                [
                    "[1mleader\u{1b}[0m   \u{1b}[32mready\u{1b}",
                    "[33mnot ready\u{1b}",
                    "[31munreachable\u{1b}",
                    "[32mAll is well.\u{1b}",
                ],
            ),
            (
                electing,
                ended,
                [
                    "[31mnone known\u{1b}",
                    "[31mcannot issue\u{1b}",
                    "[31min 0 s",
                    "[33mNothing that lasts",
                ],
            ),
        ] {
            let page = super::status(&sample, now_unix_s, Paint::Colours);
            assert_eq!(strip(&page), status(&sample, now_unix_s));
            for piece in marked {
                assert!(page.contains(piece), "{piece}: {page}");
            }
        }
    }

    #[test]
    fn advice_takes_the_place_of_all_is_well() {
        let troubled = StatusResponse {
            advice: vec![
                "node 4 does not answer: check that it runs".into(),
                "node 3 cannot issue: its token is locked".into(),
            ],
            ..cluster_status()
        };
        let page = status(&troubled, NOW);
        assert!(page.ends_with(
            "\n\nWhat is wrong and what to do:\n\
             - node 4 does not answer: check that it runs\n\
             - node 3 cannot issue: its token is locked\n"
        ));
        assert!(!page.contains("All is well"));
    }

    #[test]
    fn an_election_and_a_new_start_are_not_called_well() {
        let electing = StatusResponse {
            leader: None,
            freshness_ms: None,
            ready: false,
            outage_budget_seconds: -5,
            ..cluster_status()
        };
        let page = status(&electing, NOW);
        assert!(page.contains("Leader        : none known (term 7)\n"));
        assert!(page.contains("Asked node    : node 2, cannot issue\n"));
        assert!(page.contains("State         : not confirmed by a quorum since the start\n"));
        assert!(page.contains("Outage budget : none: issuance stops with the quorum\n"));
        assert!(!page.contains("All is well"));
    }
}
