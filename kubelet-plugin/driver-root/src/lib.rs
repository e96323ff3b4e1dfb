//! The root of a driver installation: finds files below it, and runs its programs.
//!
//! The driver may be installed on the host itself, in a folder of it, or by a driver container that keeps it in its own
//! root. All three look like the root of a file system, and links in them mean what they mean there ([`Tree`]). Programs of
//! the installation run like this process itself ([`program`]).

pub mod folders;
pub mod program;
pub mod tree;

pub use tree::{Fingerprint, Kind, Tree};
