//! What a counted run measures beside its faults.

pub mod bans;
pub mod signing;

/// A measure by its name, and what one unit of its count is.
pub struct Measure {
    /// Its name in a list of counts and in the table.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
}

/// Every measure.
pub const MEASURES: [Measure; 2] = [
    Measure {
        name: bans::NAME,
        what: "bans of an agent at one node while it renews at another and signs at a third; rounds",
    },
    Measure {
        name: signing::NAME,
        what: "signing at all nodes as fast as the machine can; seconds",
    },
];
