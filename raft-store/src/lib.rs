//! The replicated registry of Chancery.
//!
//! Everything that the nodes of a cluster must agree on lives here: the
//! vocabulary of the log ([`command`]), the one function that changes state
//! ([`apply`]), the records ([`model`]), the tables on disk ([`store`]), the Raft
//! log and state machine over them ([`log`], [`machine`]), what they run on
//! ([`runtime`]), and the stream that carries a whole state from node to node
//! ([`snapshot`]).
//!
//! It promises that the same log gives the same bytes on every node, that what
//! was acknowledged to Raft is synced, and that a store that cannot be read is
//! an error and never an empty answer.
//!
//! It refuses to know the network, the clock, randomness, keys and
//! certificates' contents: time, ids and serials are fields of a command.

pub mod apply;
pub mod codec;
pub mod command;
pub mod directory;
pub mod epoch;
pub mod faults;
pub mod feed;
pub mod high_water;
pub mod identity_record;
pub mod log;
pub mod machine;
pub mod model;
pub mod runtime;
pub mod snapshot;
pub mod store;
pub mod types;
pub mod view;

pub use command::{Command, Outcome, Proposal, Refusal, RequestId};
pub use directory::Directory;
pub use feed::{Change, ChangeKind, FeedIndex};
pub use machine::{Checkpoint, Registry, StateMachine};
pub use types::{PeerNode, Types};
