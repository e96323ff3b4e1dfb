//! The names under which users meet what the node does with their claims.
//!
//! A name is the reason of an event, a value of a metric's label and a heading of `docs/errors.md`,
//! so it is spelt once, here, and tests hold the page against it.

use std::fmt;

/// Declares names, so that none can be missing in `ALL`.
macro_rules! names {
    ($(#[doc = $about:literal])+ $kind:ident { $($(#[doc = $doc:literal])+ $name:ident,)+ }) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $kind {
            $($(#[doc = $doc])+ $name,)+
        }

        impl $kind {
            /// Every one there is.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The name, in the CamelCase of Kubernetes' reasons.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }
        }

        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

names! {
    /// Why a claim was not prepared or unprepared.
    Reason {
        /// The kubelet's request does not name a claim.
        InvalidClaim,
        /// The claim does not exist any more.
        ClaimNotFound,
        /// The claim's name belongs to another claim now.
        ClaimReplaced,
        /// The claim has no allocation.
        ClaimNotAllocated,
        /// The claim allocates no device of this driver.
        ClaimWithoutDevice,
        /// The claim names a device that cannot exist.
        ImpossibleDevice,
        /// The claim has a share of a device that cannot exist.
        ImpossibleShare,
        /// The claim carries a configuration that is not supported.
        UnsupportedConfiguration,
        /// The claim carries a configuration that is wrong in itself.
        InvalidConfiguration,
        /// The claim carries a configuration for another type of device.
        MismatchedConfiguration,
        /// The node does not have the device.
        UnknownDevice,
        /// The GPU has fallen off the bus, is being reset or does not answer.
        GpuLost,
        /// The GPU is cut another way than when the device was allocated.
        MigLayoutChanged,
        /// Another claim holds the GPU.
        GpuHeld,
        /// The shares of other claims leave no room on the GPU.
        GpuOverdrawn,
        /// Claims want different settings of one GPU.
        SettingConflict,
        /// Nothing holds a share of the device to what the claim asks for.
        ShareNotHeld,
        /// Another claim is releasing the GPU and has not done so in time.
        GpuBeingReleased,
        /// Something was left on the GPU that only another driver can take back.
        GpuUnclean,
        /// It is not known who holds the GPU.
        GpuUnaccounted,
        /// The claim does not say for which compute domain the channel is.
        ChannelWithoutDomain,
        /// The claim, its slot and the compute domain do not agree.
        DomainMismatch,
        /// There is no such compute domain, or it has no such slot.
        DomainNotFound,
        /// The device is given to no claim.
        DeviceNotServed,
        /// The node has no such channel.
        ChannelMissing,
        /// A claim of another compute domain holds the channel.
        ChannelHeld,
        /// A claim of another compute domain is releasing the channel and has not done so in time.
        ChannelBeingReleased,
        /// It is not known who holds the channel.
        ChannelUnaccounted,
        /// The GPU is being worked on for another claim.
        GpuBusy,
        /// The node's channels are being worked on for another claim.
        ChannelsBusy,
        /// The NVLink session of the node was not ready in time.
        SessionNotReady,
        /// The NVIDIA driver did not come up in time.
        DriverNotReady,
        /// The API server did not answer in time.
        ApiUnavailable,
        /// The API server does not let the plugin read claims.
        ApiAccessDenied,
        /// The plugin was told to stop while it waited.
        PluginStopping,
        /// A lock file could not be used.
        LockFailed,
        /// The journal could not be read or written.
        JournalFailed,
        /// The node could not be changed or looked at.
        StepFailed,
        /// Somebody uses a MIG device that is to be destroyed, or a GPU whose mode is to be switched.
        MigDeviceBusy,
        /// A GPU could not be cut as it must be, or not be looked at.
        MigFailed,
        /// A time slice could not be set.
        TimeSliceFailed,
        /// The plugin met a mistake of its own.
        Defect,
    }
}

names! {
    /// What else users are told.
    News {
        /// A claim waits for another to be unprepared.
        WaitingForClaim,
        /// A claim waits for a GPU that is being worked on.
        WaitingForGpu,
        /// A claim waits for the node's channels, which are being worked on.
        WaitingForChannels,
        /// A claim waits for the NVLink session of the node.
        WaitingForSession,
        /// A claim waits for the NVIDIA driver.
        WaitingForDriver,
        /// A claim waits for the API server.
        WaitingForApi,
        /// A lost or damaged record was rebuilt.
        RecordRebuilt,
        /// A missing or altered effect of a prepared claim was made anew.
        PreparationRestored,
        /// A claim that is gone was taken back without the kubelet.
        ClaimTakenBack,
        /// The MIG device of a prepared claim is gone.
        MigDeviceGone,
        /// The claims of the reference driver were taken over.
        ClaimsTakenOver,
        /// There is an NVIDIA driver where there was none.
        DriverFound,
        /// There is no NVIDIA driver.
        NoDriver,
        /// The NVIDIA driver that there was is gone.
        DriverGone,
        /// The NVIDIA driver is of another version.
        DriverReplaced,
        /// A GPU that was offered does not serve any more.
        GpuMissing,
        /// A GPU that has not been seen before does not answer.
        GpuUnusable,
        /// A GPU serves that did not.
        GpuArrived,
        /// A GPU is cut another way than before.
        MigChanged,
        /// The MIG mode of a GPU is to change, and waits for a reset.
        MigPending,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_means_two_things() {
        let reasons = Reason::ALL.iter().map(|reason| reason.as_str());
        let news = News::ALL.iter().map(|news| news.as_str());
        let mut all: Vec<&str> = reasons.chain(news).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
