//! What the journal keeps of a claim's channels.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tessera_device::DeviceName;

use super::DomainUid;
use crate::ledger::UnreadableOf;
use crate::plan::PlanOf;
use crate::record::{RecordOf, RecordedDevice, text};

/// The journal's record of a claim for channels.
pub type ChannelRecord = RecordOf<PreparedChannel>;

/// What to do to prepare a claim for channels.
pub type ChannelPlan = PlanOf<PreparedChannel>;

/// A record of a claim for channels that cannot be read.
pub type UnreadableChannel = UnreadableOf<PreparedChannel>;

/// Which channels a container gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Channels {
    /// The one of this number.
    One(u32),
    /// All that the node has.
    All,
}

impl Channels {
    /// Whether the two have a channel in common.
    pub fn overlap(self, other: Self) -> bool {
        match (self, other) {
            (Self::One(one), Self::One(other)) => one == other,
            (Self::All, _) | (_, Self::All) => true,
        }
    }
}

impl fmt::Display for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(number) => write!(f, "IMEX channel {number}"),
            Self::All => f.write_str("all IMEX channels"),
        }
    }
}

/// One prepared device: what the kubelet is told of it, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PreparedChannel {
    /// Request of the claim that it serves, without a sub-request.
    pub request: String,
    /// Its pool.
    pub pool: String,
    /// Its name in the pool.
    #[serde(with = "text")]
    pub device: DeviceName,
    /// Which share of it, where it is shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_id: Option<String>,
    /// The domain whose channels these are.
    pub domain: DomainUid,
    /// Which they are.
    pub channels: Channels,
    /// CDI device for the container runtime, `vendor/class=name`.
    pub cdi_id: String,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl RecordedDevice for PreparedChannel {
    const TYPES: &'static [&'static str] = &["channel"];

    fn device(&self) -> &DeviceName {
        &self.device
    }

    fn cdi_id(&self) -> &str {
        &self.cdi_id
    }

    fn share_id(&self) -> Option<&str> {
        None
    }

    fn device_type(&self) -> &'static str {
        "channel"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::testing::record;
    use crate::record::Record;

    #[test]
    fn a_record_of_channels_reads_back_as_it_was_written_and_is_no_record_of_gpus() {
        for channels in [Channels::One(3), Channels::All] {
            let record = record("a", "d1", channels);
            let bytes = record.encode();
            assert_eq!(ChannelRecord::decode(&bytes).unwrap(), record);
            assert!(Record::decode(&bytes).is_err());
        }
    }

    #[test]
    fn channels_overlap_where_a_number_is_in_both() {
        use Channels::{All, One};
        for (one, other, overlap) in [
            (One(1), One(1), true),
            (One(1), One(2), false),
            (One(1), All, true),
            (All, All, true),
        ] {
            assert_eq!((one.overlap(other), other.overlap(one)), (overlap, overlap));
        }
    }
}
