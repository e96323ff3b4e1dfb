//! Decides which IMEX channels a claim of a compute domain gets.
//!
//! A channel is a device node through which the processes of one job share memory over NVLink: whoever
//! holds the same number in one clique can import what the others export. So a claim gets the number of
//! its own domain, and the number is taken from what the cluster's controller wrote, never from what the
//! claim says of itself.
//!
//! # Flow
//! [`wanted`] reads the allocation. The shell asks the API server about each domain, and [`grant`]
//! checks that claim, pool and domain agree. The shell locks the node's channels and reads the records;
//! [`admit`] says who is in the way, and [`plan`] gives the record and the steps.

mod admit;
mod domain;
mod grant;
mod kernel;
mod plan;
mod record;
mod refusal;
#[cfg(test)]
mod testing;
mod wanted;

pub use admit::{Admitted, ChannelGuard, admit};
pub use domain::{DomainUid, DomainUidError};
pub use grant::{DomainFacts, Granted, grant};
pub use kernel::{ImexChannels, imex_channels};
pub use plan::{account, is_current, plan, restore, standing};
pub use record::{ChannelPlan, ChannelRecord, Channels, PreparedChannel, UnreadableChannel};
pub use refusal::{ChannelRefusal, Disagreement};
pub use wanted::{Via, Wanted, pool_of, wanted};

use crate::cdi::CdiKind;

/// The kind of a claim's channels, as the reference driver names it.
pub const CHANNEL_KIND: &str = "k8s.compute-domain.nvidia.com/claim";

/// [`CHANNEL_KIND`], parsed.
pub fn channel_kind() -> CdiKind {
    CHANNEL_KIND
        .parse()
        .expect("the constant is a kind, as its test shows")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kind_of_channels_is_one() {
        assert_eq!(super::channel_kind().to_string(), super::CHANNEL_KIND);
    }
}
