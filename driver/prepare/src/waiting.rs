//! What a claim can wait for, and what its users are told of that.

use std::collections::BTreeSet;
use std::fmt;

use tessera_claim::ClaimRef;
use tessera_device::{DeviceName, GpuUuid};

use crate::reason::News;

/// What a claim waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitingFor {
    /// A former claim on its GPU that has been let go.
    Predecessor {
        /// The device that both were allocated.
        device: DeviceName,
        /// The GPU behind it.
        gpu: GpuUuid,
        /// The former claim.
        by: ClaimRef,
    },
    /// A former claim of another compute domain on its channel that has been let go.
    ChannelHolder {
        /// The device of the former claim.
        device: DeviceName,
        /// The former claim.
        by: ClaimRef,
    },
    /// An answer of the API server.
    Api,
    /// The NVIDIA driver.
    Driver {
        /// Why it is not there.
        why: String,
    },
    /// The lock of a GPU.
    GpuLock {
        /// The GPUs whose locks are wanted.
        gpus: BTreeSet<GpuUuid>,
    },
    /// The lock of the node's channels.
    ChannelsLock,
    /// The NVLink session of the node.
    Session {
        /// How it is.
        why: String,
    },
}

impl WaitingFor {
    /// The metric label: one of six.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Predecessor { .. } | Self::ChannelHolder { .. } => "predecessor",
            Self::Api => "api",
            Self::Driver { .. } => "driver",
            Self::GpuLock { .. } => "gpu_lock",
            Self::ChannelsLock => "channels_lock",
            Self::Session { .. } => "session",
        }
    }

    /// The name under which users are told.
    pub(crate) fn news(&self) -> News {
        match self {
            Self::Predecessor { .. } | Self::ChannelHolder { .. } => News::WaitingForClaim,
            Self::Api => News::WaitingForApi,
            Self::Driver { .. } => News::WaitingForDriver,
            Self::GpuLock { .. } => News::WaitingForGpu,
            Self::ChannelsLock => News::WaitingForChannels,
            Self::Session { .. } => News::WaitingForSession,
        }
    }
}

impl fmt::Display for WaitingFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Predecessor { device, gpu, by } => write!(
                f,
                "claim {by} to be unprepared: it had {device} (GPU {gpu}) before, and its pod has \
                 not ended on this node yet"
            ),
            Self::ChannelHolder { device, by } => write!(
                f,
                "claim {by} to be unprepared: it had the channel of {device} before, for another \
                 ComputeDomain, and its pod has not ended on this node yet"
            ),
            Self::Api => f.write_str("the API server to answer"),
            Self::Driver { why } => write!(f, "the NVIDIA driver: {why}"),
            Self::Session { why } => write!(f, "the NVLink session of this node: {why}"),
            Self::ChannelsLock => {
                f.write_str("other claims to be done with the channels of this node")
            }
            Self::GpuLock { gpus } => {
                f.write_str("other claims to be done with ")?;
                for (at, gpu) in gpus.iter().enumerate() {
                    let comma = if at == 0 { "" } else { ", " };
                    write!(f, "{comma}GPU {gpu}")?;
                }
                Ok(())
            }
        }
    }
}
