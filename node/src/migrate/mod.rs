//! From SPIRE's configuration to ours: text in, text and remarks out.
//!
//! Why it exists: whoever replaces SPIRE's servers has a `server.conf` that says how they run. What
//! has a meaning here is carried over, and everything else is named with what to do about it, so
//! that nothing is lost in silence.
//!
//! Promises: every key of the file is either in the result or in a remark with its line; what is
//! written parses, and each value in it was judged by the schema of our configuration. No input
//! makes it panic or take more than its bounds. Refuses to know: files, the environment, and what
//! the settings do.
//!
//! `hcl` reads the language of the file, `expand` its variables, `spire` knows what its keys mean,
//! and `draft` writes ours.

mod draft;
mod expand;
pub mod hcl;
mod spire;

pub use expand::{Expanded, expand};
pub use spire::{Remark, Translation, is_spire, translate};
