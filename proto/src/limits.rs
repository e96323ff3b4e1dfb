//! What one peer, and all of them together, may cost on the kubelet's sockets.
//!
//! Only root connects here, so this guards against what is broken more than against what is
//! hostile. What unfinished requests hold on one socket is at most [`CONNECTIONS`] × (8 bodies in
//! reading × [`MESSAGE_BYTES`] + 256 KiB in the transport's window), 12 MiB, and the headers of
//! [`CONNECTIONS`] × [`OPEN_REQUESTS`] requests of at most 8 KiB, 32 MiB.

use std::num::NonZeroUsize;
use std::time::Duration;

use tessera_connections::grpc::Limits;

/// Connections of one socket. The kubelet has one on each, for a moment two when it restarts; our
/// own probe has one for the time of a call.
pub const CONNECTIONS: NonZeroUsize = NonZeroUsize::new(16).expect("16 is not zero");

/// Unanswered requests of one connection. A Prepare may wait as long as the kubelet does, and must
/// never keep back the Unprepare that it waits for: twice the 110 pods that Kubernetes supports on
/// a node have room, and a health stream.
pub const OPEN_REQUESTS: u32 = 256;

/// Bytes of one message: all claims of one pod, of at most 362 bytes each (UID 36, namespace 63,
/// name 253), and [`CLAIMS_PER_CALL`] of them.
pub const MESSAGE_BYTES: usize = 64 << 10;

/// Claims of one call: those of one pod.
pub const CLAIMS_PER_CALL: usize = 128;

/// Claims that are worked on at the same time. A call runs on when its caller hangs up, so the
/// limits of connections do not bound this. 110 pods with nine claims each have room.
pub const CLAIMS_AT_ONCE: usize = 1024;

/// Time from a request's headers to its last byte. The kubelet sends both in one go.
pub const READING: Duration = Duration::from_secs(5);

/// Time for the answers of the last calls to reach their callers once the driver stops; after that
/// every connection is closed. A peer that keeps its connection open cannot delay the end.
pub const FAREWELL: Duration = Duration::from_secs(1);

/// What the transport keeps to.
pub(crate) const PEER: Limits = Limits {
    open_requests: OPEN_REQUESTS,
    message_bytes: MESSAGE_BYTES,
    reading: READING,
};

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::dra::v1::{Claim, NodePrepareResourcesRequest};

    #[test]
    fn the_largest_call_fits_into_a_message() {
        let claim = Claim {
            namespace: "n".repeat(63),
            uid: "u".repeat(36),
            name: "c".repeat(253),
        };
        let claims = vec![claim; CLAIMS_PER_CALL];
        let length = NodePrepareResourcesRequest { claims }.encoded_len();
        assert!(length <= MESSAGE_BYTES, "{length}");
    }
}
