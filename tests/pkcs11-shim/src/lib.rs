//! A PKCS#11 module that forwards to another one and, as a file says that may change at any time,
//! fails, waits, hangs, loses sessions or the token, locks its PIN, or signs with the wrong key.
//!
//! Exists because SoftHSM is faster than any HSM, never away and never wrong: what a server does
//! about waiting and about faults cannot be seen with it alone. Processes under test load
//! `libchancery_pkcs11_shim.so`; tests steer it through [`Control`] and [`Steering`].
//!
//! Promises: what no rule touches behaves as the module behind it; rate, PIN tries and counts of
//! calls are those of one token, whichever process calls.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `CHANCERY_SHIM_MODULE` | the module behind it |
//! | `CHANCERY_SHIM_CONTROL` | the control file; without it, or while it is empty, nothing is changed |

mod calls;
mod codes;
mod control;
mod faults;
mod module;
mod state;

pub use calls::Call;
pub use codes::{CODES, code};
pub use control::{Control, Profile, Rule, Steering, When, module_path};
pub use state::Counts;
