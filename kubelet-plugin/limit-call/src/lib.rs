//! How the hook of a container asks the node to limit the container's GPU memory: one line of JSON each way on a
//! Unix socket that root alone can reach.
//!
//! What is said once may be said again: a hook that hears no answer asks anew, and the node does the same again.

mod ask;
mod message;

pub use ask::{AskError, ask};
pub use message::{Answer, LONGEST, Request, RequestError};
