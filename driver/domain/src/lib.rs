//! Decides what becomes of compute domains: templates, slots, reservations and status.
//!
//! [`World`] is what watches tell of the cluster; [`decide()`] answers the writes that bring it nearer to what it
//! should be. Nothing else is kept: a controller that starts anew reads the same world and goes on.

mod accepted;
mod apart;
pub mod cliques;
pub mod decide;
mod demand;
pub mod facts;
pub mod keys;
pub mod notice;
pub mod place;
pub mod policy;
mod promised;
pub mod quarantine;
mod room;
pub mod seen;
mod session_pods;
pub mod situation;
pub mod slots;
pub mod status;
pub mod template;
mod tenants;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod uninstall;
pub mod world;
pub mod write;

pub use accepted::policies;
pub use cliques::{SessionsBy, cliques};
pub use decide::outlook::{Outlook, outlook};
pub use decide::{Decision, Decisions, Rules, decide};
pub use facts::ObjectName;
pub use session_pods::session_pods;
pub use tessera_api::SessionsOf;
pub use tessera_gang::Levels;
pub use tessera_gang::topology::LevelsError;
pub use uninstall::uninstall;
pub use world::{Kind, Object, World};
pub use write::{Verb, Write};
