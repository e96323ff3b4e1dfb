//! Unix stream sockets at a path: bound safely, admitted by user, unlinked by their owner only.
//!
//! # Guarantees
//! - A path that the kernel cannot take is refused with its length and a remedy.
//! - Only a socket on which nobody answers is replaced; any other file stays.
//! - The socket has mode 0600 from its first moment, whatever the umask.
//! - What is unlinked in the end is the very file that was bound, and by the process that bound it,
//!   unless another that serves the socket in its stead does so on purpose.
//!
//! # Assumptions
//! Two processes that bind the same path at the same moment may both find a stale socket; the
//! later one wins. Instances of a rolling update never do: their names carry the pod UID.

mod bind;
mod incoming;
mod path;

pub use bind::{BindError, BoundSocket, SocketFile, bind, remove_dead};
pub use incoming::{Connection, ConnectionInfo, Peer, Peers, incoming};
pub use path::{PATH_LIMIT, SocketPath, SocketPathError};
