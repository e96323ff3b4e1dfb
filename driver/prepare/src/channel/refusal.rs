//! Why a claim gets no channel.

use std::fmt;

use tessera_claim::{AllocatedDevice, ClaimRef, ClaimUid};
use tessera_device::DeviceName;
use thiserror::Error;

use super::{Channels, DomainUid};
use crate::reason::Reason;

/// A claim that gets no channel as things are.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ChannelRefusal {
    /// Nothing says for which domain the channel is.
    #[error(
        "claim {claim} was allocated {device}, but it does not say of which ComputeDomain: {why}; \
         make the claim from the template that the ComputeDomain names"
    )]
    WithoutDomain {
        /// The claim.
        claim: ClaimRef,
        /// The device.
        device: DeviceName,
        /// What is missing.
        why: String,
    },
    /// The claim, the pool of the slot and the domain do not agree.
    #[error(
        "claim {claim} may not have {device} of pool {pool}: {disagreement}; make the claim from the \
         template that its own ComputeDomain names"
    )]
    Mismatch {
        /// The claim.
        claim: ClaimRef,
        /// The device.
        device: DeviceName,
        /// Its pool.
        pool: String,
        /// Who says what.
        disagreement: Disagreement,
    },
    /// The domain, or its slot, is not there.
    #[error(
        "claim {claim} was allocated {device} of pool {pool}, but {missing}; delete the pod to have it \
         scheduled again, once there is such a ComputeDomain"
    )]
    NotFound {
        /// The claim.
        claim: ClaimRef,
        /// The device.
        device: DeviceName,
        /// Its pool.
        pool: String,
        /// What is not there.
        missing: String,
    },
    /// A device of the node that is given to no claim.
    #[error(
        "claim {claim} was allocated {device}, which is given to no claim: it tells of the node, or is one \
         that the reference driver gives to the daemons that it starts for each ComputeDomain, and none \
         are started here; remove the request"
    )]
    NotServed {
        /// The claim.
        claim: ClaimRef,
        /// The device.
        device: DeviceName,
    },
    /// The node has no such channel.
    #[error("claim {claim} was allocated {device}, but {why}")]
    Missing {
        /// The claim.
        claim: ClaimRef,
        /// The device.
        device: DeviceName,
        /// What the node has instead, and the remedy.
        why: String,
    },
    /// A claim of another domain holds the channel.
    #[error(
        "claim {claim} was allocated {device}, but claim {by} has {channels} of this node for \
         ComputeDomain {domain}; it can be prepared once that claim is released"
    )]
    Held {
        /// The claim.
        claim: ClaimRef,
        /// The device.
        device: DeviceName,
        /// The channels that were wanted.
        channels: Channels,
        /// Who holds one of them.
        by: ClaimRef,
        /// For which domain.
        domain: DomainUid,
    },
    /// A claim of another domain that has been let go has not released the channel in time.
    #[error(
        "claim {claim} was allocated {device}, but claim {by}, whose pod has not ended yet, is still \
         releasing {channels} of this node; the kubelet will call again"
    )]
    BeingReleased {
        /// The claim.
        claim: ClaimRef,
        /// The device.
        device: DeviceName,
        /// The channels that were wanted.
        channels: Channels,
        /// Who is releasing.
        by: ClaimRef,
    },
    /// A record that cannot be read might hold any channel.
    #[error(
        "claim {claim} is not given {channels}, because the record of claim UID {record} cannot be read \
         and may hold them for another ComputeDomain: {problem}; that passes once that claim's pod has \
         ended"
    )]
    Unaccounted {
        /// The claim.
        claim: ClaimRef,
        /// The channels that were wanted.
        channels: Channels,
        /// Whose record it is.
        record: ClaimUid,
        /// What is wrong with the record.
        problem: String,
    },
}

/// What about a claim and a domain does not agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disagreement {
    /// The configuration names another domain than the pool, or the slot's slice does.
    Domain {
        /// The domain that the configuration names.
        named: DomainUid,
        /// The domain whose slot it is, as far as it can be said.
        of: String,
    },
    /// The claim is in another namespace than the domain.
    Namespace {
        /// The domain's.
        domain: String,
    },
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain { named, of } => write!(
                f,
                "its configuration names ComputeDomain {named}, and the slot is one of {of}"
            ),
            Self::Namespace { domain } => write!(
                f,
                "the slot's ComputeDomain is in namespace {domain}, and channels are not shared between \
                 namespaces"
            ),
        }
    }
}

impl ChannelRefusal {
    /// The slot is one of another domain than the configuration names.
    pub(super) fn other_domain(
        claim: &ClaimRef,
        allocated: &AllocatedDevice,
        named: &DomainUid,
    ) -> Self {
        Self::Mismatch {
            claim: claim.clone(),
            device: allocated.device.clone(),
            pool: allocated.pool.clone(),
            disagreement: Disagreement::Domain {
                named: named.clone(),
                of: format!("pool {}", allocated.pool),
            },
        }
    }

    /// The machine-readable reason.
    pub fn reason(&self) -> Reason {
        match self {
            Self::WithoutDomain { .. } => Reason::ChannelWithoutDomain,
            Self::Mismatch { .. } => Reason::DomainMismatch,
            Self::NotFound { .. } => Reason::DomainNotFound,
            Self::NotServed { .. } => Reason::DeviceNotServed,
            Self::Missing { .. } => Reason::ChannelMissing,
            Self::Held { .. } => Reason::ChannelHeld,
            Self::BeingReleased { .. } => Reason::ChannelBeingReleased,
            Self::Unaccounted { .. } => Reason::ChannelUnaccounted,
        }
    }
}
