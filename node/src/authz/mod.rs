//! May this caller call this method?
//!
//! Why it exists: the answer comes from one reviewed table (`table.rs`), default
//! deny, so that no service can forget to ask: services demand a [`Permit`], which
//! only [`authorize`] makes.
//!
//! Promises: [`authorize`] is a function of its arguments and can be asked again
//! after newer state was read; a denial says whether newer state could turn it
//! into a yes ([`Denial::needs_barrier`]); a typed reason, on which an agent drops
//! its identity, is always one of those that SPIRE's agents know.
//!
//! Refuses to know: how a caller proved who it is (`transport`), and how state is
//! made exact before a no is said (the [`Gate`]).
//!
//! The order of the checks is SPIRE's: anyone, local, administrator by
//! configuration, administrator by entry, downstream by entry, agent.

mod body;
mod deadline;
mod decide;
mod denial;
pub mod layer;
mod measured;
mod permit;
pub(crate) mod served;
mod table;

pub use deadline::CallDeadline;
pub use decide::{AgentStanding, CallerFacts, CallerKind, EntryFlags, authorize};
pub use denial::{Denial, Reason, typed_denial};
pub use layer::{Gate, GateLayer, GateService};
pub use permit::{Admitted, Permit, Role};

#[cfg(test)]
mod tests;
