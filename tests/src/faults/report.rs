//! The tables at the end of a run.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::catalogue::FAULTS;
use super::measures::MEASURES;
use super::record::Finding;

/// What was found out about each fault and measure.
pub struct Table<'a>(BTreeMap<usize, Row<'a>>);

#[derive(Default)]
struct Row<'a> {
    name: &'a str,
    findings: Vec<&'a Finding>,
}

/// Median and worst of times in milliseconds.
fn middle_and_worst(times: impl Iterator<Item = u64>) -> [String; 2] {
    let mut sorted: Vec<u64> = times.collect();
    sorted.sort_unstable();
    let shown = |ms: Option<&u64>| {
        ms.map_or("-".to_owned(), |ms| {
            format!("{}.{:02} s", ms / 1_000, ms % 1_000 / 10)
        })
    };
    [shown(sorted.get(sorted.len() / 2)), shown(sorted.last())]
}

/// Place of a name in the order of the tables.
fn place(name: &str) -> usize {
    let faults = FAULTS.iter().map(|f| f.name);
    let names = faults.chain(MEASURES.iter().map(|m| m.name));
    names.into_iter().take_while(|n| *n != name).count()
}

impl Row<'_> {
    fn sum(&self, of: impl Fn(&Finding) -> usize) -> usize {
        self.findings.iter().map(|f| of(f)).sum()
    }

    fn is_measure(&self) -> bool {
        MEASURES.iter().any(|m| m.name == self.name)
    }
}

impl<'a> Table<'a> {
    /// The table of all that was found.
    pub fn of(found: &'a [Finding]) -> Self {
        let mut rows: BTreeMap<usize, Row<'a>> = BTreeMap::new();
        for finding in found {
            let row = rows.entry(place(&finding.of)).or_default();
            row.name = &finding.of;
            row.findings.push(finding);
        }
        Self(rows)
    }

    /// Violations in all.
    pub fn violations(&self) -> usize {
        self.0.values().map(|r| r.sum(|f| f.violations.len())).sum()
    }

    /// Names of which no round counts.
    pub fn never_met(&self) -> Vec<&'a str> {
        let never = self.0.values().filter(|row| row.sum(met) == 0);
        never.map(|row| row.name).collect()
    }

    /// The table, as Markdown, and what was measured beside it.
    pub fn text(&self) -> String {
        let mut text = String::from(
            "| fault | rounds | not met | violations | writes | recovery p50 | worst | healed p50 | worst |\n\
             | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        );
        for row in self.0.values().filter(|row| !row.is_measure()) {
            let findings = &row.findings;
            let [write, write_worst] =
                middle_and_worst(findings.iter().filter_map(|f| f.write_after_ms));
            let [heal, heal_worst] =
                middle_and_worst(findings.iter().filter_map(|f| f.healed_after_ms));
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {write} | {write_worst} | {heal} | {heal_worst} |",
                row.name,
                row.sum(|f| f.rounds),
                row.sum(|f| f.rounds) - row.sum(met),
                row.sum(|f| f.violations.len()),
                row.sum(|f| f.written),
            );
        }
        for row in self.0.values().filter(|row| row.is_measure()) {
            let _ = writeln!(
                text,
                "\n{}: {} of {} count, {} documents, {} violations",
                row.name,
                row.sum(met),
                row.sum(|f| f.rounds),
                row.sum(|f| f.documents),
                row.sum(|f| f.violations.len()),
            );
            for note in row.findings.iter().flat_map(|f| &f.notes) {
                let _ = writeln!(text, "- {note}");
            }
        }
        text
    }

    /// Histories, calls in them, and what was not judged; writes and documents.
    pub fn totals(&self) -> String {
        let sum = |of: fn(&Finding) -> usize| self.0.values().map(|r| r.sum(of)).sum::<usize>();
        format!(
            "{} answered calls in {} histories, {} of them not judged in time; {} acknowledged writes looked for on \
             every node, {} documents",
            sum(|f| f.answered),
            sum(|f| f.histories),
            sum(|f| f.unjudged),
            sum(|f| f.written),
            sum(|f| f.documents)
        )
    }
}

fn met(finding: &Finding) -> usize {
    if finding.is_met() { finding.rounds } else { 0 }
}
