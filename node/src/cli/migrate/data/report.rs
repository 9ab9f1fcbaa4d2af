//! What a run found and did, for people and for programs.

use std::fmt::Write as _;

use serde::Serialize;

use crate::cli::text;

/// Findings kept; further ones are counted only.
const FINDINGS_MAX: usize = 10_000;

/// Kinds of items, in the order in which they are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Bans,
    Bundles,
    Relationships,
    Entries,
}

impl What {
    const ALL: [What; 4] = [
        What::Bans,
        What::Bundles,
        What::Relationships,
        What::Entries,
    ];

    /// For people.
    pub(super) fn name(self) -> &'static str {
        match self {
            What::Bans => "agent bans",
            What::Bundles => "federated bundles",
            What::Relationships => "federation relationships",
            What::Entries => "entries",
        }
    }

    fn key(self) -> &'static str {
        match self {
            What::Bans => "agent_bans",
            What::Bundles => "federated_bundles",
            What::Relationships => "federation_relationships",
            What::Entries => "entries",
        }
    }
}

/// What became of an item of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// At the target already.
    Equal,
    /// Created, or would be.
    Created,
    /// Overwritten, or would be.
    Updated,
    /// At the target with other contents, and left so.
    Different,
    /// At the target under another id, and left so.
    Similar,
    /// Refused by the target.
    Failed,
}

/// Numbers of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct Tally {
    at_source: u64,
    equal: u64,
    created: u64,
    updated: u64,
    different: u64,
    similar: u64,
    failed: u64,
    only_at_target: u64,
}

#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    name: String,
    fate: &'static str,
    why: String,
}

/// The whole report.
#[derive(Debug)]
pub(super) struct Report {
    trust_domain: String,
    dry_run: bool,
    tallies: [Tally; 4],
    /// Kinds that were gone through to their end.
    complete: [bool; 4],
    findings: Vec<Finding>,
    findings_dropped: u64,
}

impl Report {
    pub(super) fn new(trust_domain: String, dry_run: bool) -> Self {
        Self {
            trust_domain,
            dry_run,
            tallies: Default::default(),
            complete: [false; 4],
            findings: Vec::new(),
            findings_dropped: 0,
        }
    }

    /// One item of the source; `why` says more where there is more to say.
    pub(super) fn add(&mut self, what: What, name: &str, fate: Fate, why: impl Into<String>) {
        let tally = &mut self.tallies[what as usize];
        tally.at_source += 1;
        let (count, word) = match fate {
            Fate::Equal => (&mut tally.equal, None),
            Fate::Created => (&mut tally.created, None),
            Fate::Updated => (&mut tally.updated, Some("updated")),
            Fate::Different => (&mut tally.different, Some("different")),
            Fate::Similar => (&mut tally.similar, Some("similar")),
            Fate::Failed => (&mut tally.failed, Some("failed")),
        };
        *count += 1;
        let Some(word) = word else { return };
        if self.findings.len() == FINDINGS_MAX {
            self.findings_dropped += 1;
            return;
        }
        self.findings.push(Finding {
            what: what.key(),
            name: name.to_owned(),
            fate: word,
            why: why.into(),
        });
    }

    /// A kind has been gone through; so many items are at the target alone.
    pub(super) fn finish(&mut self, what: What, only_at_target: usize) {
        self.tallies[what as usize].only_at_target = only_at_target as u64;
        self.complete[what as usize] = true;
    }

    /// Items of a kind that failed.
    pub(super) fn failed(&self, what: What) -> u64 {
        self.tallies[what as usize].failed
    }

    /// Whether anything failed.
    pub(super) fn has_failures(&self) -> bool {
        What::ALL.iter().any(|what| self.failed(*what) > 0)
    }

    fn sum(&self, of: impl Fn(&Tally) -> u64) -> u64 {
        self.tallies.iter().map(of).sum()
    }

    /// For people: what needs a look, a table, and one sentence.
    pub(super) fn pretty(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let kind = What::ALL.iter().find(|what| what.key() == finding.what);
            let kind = kind.map_or("", |what| what.name());
            let _ = write!(text, "{}: {kind}: {}", finding.fate, finding.name);
            if !finding.why.is_empty() {
                let _ = write!(text, ": {}", finding.why);
            }
            text.push('\n');
        }
        if self.findings_dropped > 0 {
            let _ = writeln!(text, "and {} more", self.findings_dropped);
        }
        if !text.is_empty() {
            text.push('\n');
        }
        let row = |cells: [&str; 9]| cells.map(str::to_owned).to_vec();
        let mut rows = vec![row([
            "",
            "at source",
            "equal",
            "created",
            "updated",
            "different",
            "similar",
            "failed",
            "only at target",
        ])];
        for what in What::ALL {
            let tally = self.tallies[what as usize];
            let mut cells = vec![what.name().to_owned()];
            if self.complete[what as usize] || tally.at_source > 0 {
                let counts = [
                    tally.at_source,
                    tally.equal,
                    tally.created,
                    tally.updated,
                    tally.different,
                    tally.similar,
                    tally.failed,
                ];
                cells.extend(counts.map(|count| count.to_string()));
                cells.push(if self.complete[what as usize] {
                    tally.only_at_target.to_string()
                } else {
                    "not complete".to_owned()
                });
            } else {
                cells.push("not copied".to_owned());
            }
            rows.push(cells);
        }
        text.push_str(&text::table(&rows));
        let _ = writeln!(text, "\n{}", self.sentence());
        text
    }

    fn sentence(&self) -> String {
        let (created, updated) = (self.sum(|t| t.created), self.sum(|t| t.updated));
        let mut sentence = match (self.dry_run, created + updated) {
            (false, 0) => "Nothing was changed.".to_owned(),
            (true, 0) => "Dry run: there is nothing to change.".to_owned(),
            (false, _) => format!("Created {created}, updated {updated}."),
            (true, _) => format!(
                "Dry run: nothing was changed; a run would create {created} and update {updated}."
            ),
        };
        let (different, failed) = (self.sum(|t| t.different), self.sum(|t| t.failed));
        if different > 0 {
            let _ = write!(
                sentence,
                " {different} differ and were left as they are; --update overwrites them."
            );
        }
        if failed > 0 {
            let _ = write!(sentence, " {failed} failed.");
        }
        sentence
    }

    /// For programs: one object.
    pub(super) fn json(&self) -> serde_json::Value {
        let mut kinds = serde_json::Map::new();
        for what in What::ALL {
            let tally = self.tallies[what as usize];
            let mut counts = serde_json::json!(tally);
            counts["complete"] = self.complete[what as usize].into();
            kinds.insert(what.key().to_owned(), counts);
        }
        serde_json::json!({
            "trust_domain": self.trust_domain,
            "dry_run": self.dry_run,
            "kinds": kinds,
            "findings": self.findings,
            "findings_dropped": self.findings_dropped,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_bounded_and_counted() {
        let mut report = Report::new("example.org".into(), false);
        for number in 0..FINDINGS_MAX + 3 {
            report.add(What::Entries, &number.to_string(), Fate::Failed, "");
        }
        assert_eq!(report.findings.len(), FINDINGS_MAX);
        assert!(report.pretty().contains("\nand 3 more\n"));
        assert_eq!(report.failed(What::Entries), FINDINGS_MAX as u64 + 3);
    }

    #[test]
    fn what_was_not_gone_through_says_so() {
        let mut report = Report::new("example.org".into(), true);
        report.add(What::Bans, "a", Fate::Created, "");
        let page = report.pretty();
        assert!(
            page.contains("\nagent bans                1           0      1"),
            "{page}"
        );
        assert!(page.contains("not complete\n"), "{page}");
        assert!(
            page.contains("\nentries                   not copied\n"),
            "{page}"
        );
        assert!(page.ends_with("would create 1 and update 0.\n"), "{page}");
    }
}
