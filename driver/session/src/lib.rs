//! Decides what becomes of a node's NVLink session.
//!
//! An NVLink session is one `nvidia-imex` on each node of a clique, and all of them know each other. Here is
//! decided what a node's daemon is configured with ([`Roster`]), when it is started, told to look again or
//! ended ([`decide()`]), and what is said of it ([`Report`]). The shell is `tessera-session-host`.

pub mod config;
pub mod control;
pub mod decide;
pub mod report;
pub mod roster;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use control::{DaemonState, Domain};
pub use decide::{Daemon, Decision, Step, decide};
pub use report::{Report, SessionState};
pub use roster::{Roster, RosterError, Seat};
