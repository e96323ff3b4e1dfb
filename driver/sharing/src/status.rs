//! What the claim of a share says of it, and when that is worth a write.
//!
//! A claim has an entry for each of its devices in `status.devices` ([`entry`]). People read it, and programs that
//! wait for a condition. It is no metric: a write goes through the API server to everybody who watches claims, so what
//! stays as it is costs none ([`behind`]), and what moves costs few ([`chosen`]).

use std::collections::BTreeMap;

use tessera_device::Bytes;

use crate::holding::Holding;
use crate::range::{Limit, ShareState, Tenant};
use crate::standing::Standing;
use crate::tier::Tier;

mod due;
mod entry;

pub use due::{AT_ONCE, Behind, Candidate, behind, chosen};
pub use entry::{SharePlace, entry};

/// How a share fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareStatus {
    /// What holds it to its memory.
    pub tier: Tier,
    /// What its container always has, or what a container of it would have.
    pub guarantee: Bytes,
    /// The container that has it, if one has. Unknown where nothing measures.
    pub container: Option<ContainerMemory>,
    /// The most that its containers were seen to have.
    pub peak: Bytes,
    /// How the container fares with its limit.
    pub standing: Standing,
}

/// The memory of a container, of all shares that it has of the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContainerMemory {
    /// The most that it may have at the moment. `None`: all that is free.
    pub limit: Option<Bytes>,
    /// What it has.
    pub used: Bytes,
}

/// What one look at a share leaves for the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// The most that was seen.
    pub peak: Bytes,
    /// Whether it was near its limit.
    pub near_limit: bool,
}

impl Past {
    /// Both together: `self` is the newer one.
    #[must_use]
    pub fn after(self, older: Self) -> Self {
        Self {
            peak: self.peak.max(older.peak),
            near_limit: self.near_limit,
        }
    }
}

impl ShareStatus {
    /// That of a share which nothing holds and nothing measures.
    pub fn unheld(guarantee: Bytes) -> Self {
        Self {
            tier: Tier::None,
            guarantee,
            container: None,
            peak: Bytes(0),
            standing: Standing::default(),
        }
    }

    /// That of a share that is held, with what was seen of its container.
    pub fn held(tier: Tier, guarantee: Bytes, seen: Option<&ShareState>, past: Past) -> Self {
        let Some(state) = seen else {
            return Self {
                tier,
                peak: past.peak,
                ..Self::unheld(guarantee)
            };
        };
        let before = Standing {
            near_limit: past.near_limit,
            violation: None,
        };
        Self {
            tier,
            guarantee: state.guarantee,
            container: Some(ContainerMemory {
                limit: match state.limit {
                    Limit::At(Bytes(u64::MAX)) | Limit::Unset | Limit::Unenforced => None,
                    Limit::At(limit) => Some(limit),
                },
                used: state.used,
            }),
            peak: past.peak.max(state.used),
            standing: Standing::of(state, before),
        }
    }

    /// What the next look has to know of this one.
    pub fn past(&self) -> Past {
        Past {
            peak: self.peak,
            near_limit: self.standing.near_limit,
        }
    }
}

/// The shares that containers have, by the name of the share, each with the state of its container.
pub fn running(
    held: &[Holding],
    tenants: &BTreeMap<Tenant, ShareState>,
) -> BTreeMap<String, ShareState> {
    let container = |holding: &Holding| {
        let state = tenants.get(&Tenant::Container(holding.cgroup.clone()))?;
        Some((holding.share.clone(), *state))
    };
    held.iter().filter_map(container).collect()
}

#[cfg(test)]
mod tests;
