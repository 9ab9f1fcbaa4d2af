//! The table at the end of a run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::round::Report;

/// What was found out about each fault.
#[derive(Default)]
pub struct Table(BTreeMap<usize, Row>);

#[derive(Default)]
struct Row {
    name: &'static str,
    rounds: usize,
    violations: usize,
    uncovered: usize,
    writes: Vec<Duration>,
    heals: Vec<Duration>,
}

/// Median and worst.
fn middle_and_worst(times: &[Duration]) -> [String; 2] {
    let mut sorted = times.to_vec();
    sorted.sort();
    let shown = |time: Option<&Duration>| {
        time.map_or("-".to_owned(), |t| format!("{:.2} s", t.as_secs_f64()))
    };
    [shown(sorted.get(sorted.len() / 2)), shown(sorted.last())]
}

impl Table {
    /// Adds a round of the fault at `place` in the catalogue.
    pub fn add(&mut self, place: usize, name: &'static str, report: &Report) {
        let row = self.0.entry(place).or_default();
        row.name = name;
        row.rounds += 1;
        row.violations += report.violations.len();
        row.uncovered += usize::from(report.no_coverage.is_some());
        row.writes.extend(report.write_after);
        row.heals.extend(report.healed_after);
    }

    /// Violations in all.
    pub fn violations(&self) -> usize {
        self.0.values().map(|row| row.violations).sum()
    }

    /// Faults that no round met.
    pub fn never_met(&self) -> Vec<&'static str> {
        let never = self.0.values().filter(|row| row.uncovered == row.rounds);
        never.map(|row| row.name).collect()
    }

    /// The table, as Markdown.
    pub fn text(&self) -> String {
        let mut text = String::from(
            "| fault | rounds | not met | violations | recovery p50 | worst | healed p50 | worst |\n\
             | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        );
        for row in self.0.values() {
            let [write, write_worst] = middle_and_worst(&row.writes);
            let [heal, heal_worst] = middle_and_worst(&row.heals);
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {write} | {write_worst} | {heal} | {heal_worst} |",
                row.name, row.rounds, row.uncovered, row.violations
            );
        }
        text
    }
}
