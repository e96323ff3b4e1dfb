//! What a share gets of what it asks for, on a device that has certain mechanisms.
//!
//! A share that requires enforcement gets it or is refused; best effort gets the strongest that there
//! is, and is told what that was. Nothing else is given less silently.

use tessera_api::{
    ComputeMode, Enforcement, MemoryLimit, MinimumTier, Pressure, ShareConfig, SwapConfig,
};
use tessera_device::Bytes;
use thiserror::Error;

use crate::mechanisms::{Mechanisms, NoNative};
use crate::range::Rungs;
use crate::tier::{SwapMechanism, Tier};

/// What a claim asks for one share of a device.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'c> {
    /// Its configuration.
    pub config: &'c ShareConfig,
    /// The memory that the scheduler counted for it (`consumedCapacity`): its guarantee.
    pub guarantee: Bytes,
    /// The device's capacity `memory`.
    pub device: Bytes,
}

/// What the share gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What holds it to its memory.
    pub tier: Tier,
    /// What it always has.
    pub guarantee: Bytes,
    /// How far it may grow. Not below the guarantee.
    pub ceiling: Bytes,
    /// What may be done to it while it has more than its guarantee.
    pub rungs: Rungs,
    /// How it may be swapped out, if it may.
    pub swap: Option<SwapConfig>,
    /// What it asked for and did not get, as best effort allows.
    pub shortfall: Option<Shortfall>,
}

/// What a share of best effort does not get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortfall {
    /// Nothing holds it to its memory.
    NotEnforced,
    /// It cannot grow, because what holds it cannot change limits.
    Fixed,
}

/// Why a share cannot be had on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// A ceiling below the guarantee.
    #[error(
        "memory.limit {limit} is less than the {guarantee} that the claim is guaranteed; write at \
         least {guarantee}, or leave it out"
    )]
    LimitBelowGuarantee {
        /// The ceiling, as it was written.
        limit: MemoryLimit,
        /// The guarantee.
        guarantee: Bytes,
    },
    /// A ceiling that the device does not have.
    #[error(
        "memory.limit {limit} is more than the {device} of the device; write 100% to let the share \
         grow as far as there is room"
    )]
    LimitAboveDevice {
        /// The ceiling, as it was written.
        limit: MemoryLimit,
        /// What the device has.
        device: Bytes,
    },
    /// Nothing that is strong enough.
    #[error(
        "memory.minimumTier {} is required, but what holds the shares of this device is {strongest}{}; \
         select devices by the attribute memoryEnforcement, or write memory.enforcement: BestEffort",
        wanted.as_str(), because(*no_native)
    )]
    Enforcement {
        /// The weakest that would do.
        wanted: MinimumTier,
        /// The strongest that there is.
        strongest: Tier,
        /// Why that is not the kernel's driver.
        no_native: Option<NoNative>,
    },
    /// Growth that what holds the share cannot follow.
    #[error(
        "memory.limit is above the guarantee, but nothing on this node changes the limit of a share in use that \
         {tier} holds; select devices by the attribute dynamicMemory, or leave it out"
    )]
    Fixed {
        /// What would hold the share.
        tier: Tier,
    },
    /// A way of taking turns that the device does not have.
    #[error("compute.mode {} is not available on this node; write another, or leave it out", mode.as_str())]
    Mode {
        /// The way.
        mode: ComputeMode,
    },
    /// Nothing that can swap.
    #[error(
        "swap.policy is not Never, but nothing on this node can swap; select devices by the attribute \
         swapMechanism, or write swap.policy: Never"
    )]
    NoSwap,
    /// Swapping a client of MPS.
    #[error(
        "swap.policy is not Never, but the share would be a client of MPS, and such cannot be swapped; \
         write swap.policy: Never, or do without MPS"
    )]
    SwapWithMps,
    /// Swapping a process of which nobody sees whether it shares memory.
    #[error(
        "swap.policy is not Never, but {tier} does not show whether the share's processes share memory, \
         and such memory would come back as private copies; write swap.assumeUnshared: true if they do not"
    )]
    SwapUnseen {
        /// What would hold the share.
        tier: Tier,
    },
    /// A return that takes too long.
    #[error(
        "swap.maxWakeSeconds {most} is less than the {takes} s that bringing {ceiling} back takes on this \
         node; write at least {takes}, or a lower memory.limit"
    )]
    WakeTooSlow {
        /// The longest that would do.
        most: u32,
        /// What it takes.
        takes: u64,
        /// The most that may have to come back.
        ceiling: Bytes,
    },
    /// A return of which nobody knows how long it takes.
    #[error(
        "swap.maxWakeSeconds {most} cannot be promised, because the node has not measured how fast it \
         brings memory back; leave it out"
    )]
    WakeUnknown {
        /// The longest that would do.
        most: u32,
    },
}

fn because(no_native: Option<NoNative>) -> String {
    no_native.map_or_else(String::new, |why| format!(" ({why})"))
}

impl From<MinimumTier> for Tier {
    fn from(minimum: MinimumTier) -> Self {
        match minimum {
            MinimumTier::Native => Self::Native,
            MinimumTier::Mps => Self::Mps,
            MinimumTier::Shim => Self::Shim,
        }
    }
}

/// What the share gets on a device that has these mechanisms.
pub fn grant(demand: &Demand<'_>, mechanisms: &Mechanisms) -> Result<Grant, Refusal> {
    let Demand {
        config, guarantee, ..
    } = *demand;
    let ceiling = ceiling(demand)?;
    if let Some(mode) = config.compute.mode
        && !mechanisms.can(mode)
    {
        return Err(Refusal::Mode { mode });
    }
    if let Some(swap) = &config.swap {
        wakes_in_time(swap, ceiling, mechanisms)?;
    }
    let (tier, shortfall) = hold(config, ceiling > guarantee, mechanisms)?;
    let ladder = config.memory.on_pressure;
    Ok(Grant {
        tier,
        guarantee,
        ceiling: match shortfall {
            Some(Shortfall::Fixed) => guarantee,
            Some(Shortfall::NotEnforced) | None => ceiling,
        },
        rungs: Rungs {
            // Only the library in the process can be told to give back.
            trim: ladder >= Pressure::Trim && tier == Tier::Shim,
            swap: ladder >= Pressure::Swap && config.swap.is_some(),
            evict: ladder >= Pressure::Evict,
        },
        swap: config.swap,
        shortfall,
    })
}

fn ceiling(demand: &Demand<'_>) -> Result<Bytes, Refusal> {
    let Demand {
        config,
        guarantee,
        device,
    } = *demand;
    let Some(limit) = config.memory.limit else {
        return Ok(guarantee);
    };
    let ceiling = match limit {
        MemoryLimit::Amount(bytes) => bytes,
        MemoryLimit::Percent(percent) => hundredths(device, percent),
    };
    if ceiling < guarantee {
        Err(Refusal::LimitBelowGuarantee { limit, guarantee })
    } else if ceiling > device {
        Err(Refusal::LimitAboveDevice { limit, device })
    } else {
        Ok(ceiling)
    }
}

/// So many hundredths, rounded down to whole MiB as capacities are; all hundred are the whole.
fn hundredths(of: Bytes, percent: u8) -> Bytes {
    if percent >= 100 {
        return of;
    }
    let part = u128::from(of.0) * u128::from(percent) / 100;
    let mib = u64::try_from(part >> 20).expect("a part of 64 bits fits into 64 bits");
    Bytes::from_mib(mib)
}

/// The strongest tier that suits the share.
fn hold(
    config: &ShareConfig,
    grows: bool,
    mechanisms: &Mechanisms,
) -> Result<(Tier, Option<Shortfall>), Refusal> {
    match config.memory.enforcement {
        Enforcement::Required(wanted) => {
            let strong = mechanisms.tiers().filter(|tier| *tier >= wanted.into());
            let none = Refusal::Enforcement {
                wanted,
                strongest: mechanisms.strongest(),
                no_native: mechanisms.no_native(),
            };
            first(strong, config, grows, mechanisms, none).map(|tier| (tier, None))
        }
        Enforcement::BestEffort => {
            let any = || mechanisms.tiers();
            let unseen = Refusal::SwapUnseen { tier: Tier::None };
            if let Ok(tier) = first(any(), config, grows, mechanisms, unseen) {
                return Ok((tier, None));
            }
            let tier = first(any().chain([Tier::None]), config, false, mechanisms, unseen)?;
            let shortfall = match tier {
                Tier::None => Shortfall::NotEnforced,
                Tier::Shim | Tier::Mps | Tier::Native => Shortfall::Fixed,
            };
            Ok((tier, Some(shortfall)))
        }
    }
}

/// The first of `tiers` that suits; else why their first does not, or `none` if there is no tier.
fn first(
    tiers: impl Iterator<Item = Tier>,
    config: &ShareConfig,
    grows: bool,
    mechanisms: &Mechanisms,
    none: Refusal,
) -> Result<Tier, Refusal> {
    let mut refusal = None;
    for tier in tiers {
        match suits(tier, config, grows, mechanisms) {
            Ok(()) => return Ok(tier),
            Err(reason) => refusal = refusal.or(Some(reason)),
        }
    }
    Err(refusal.unwrap_or(none))
}

fn suits(
    tier: Tier,
    config: &ShareConfig,
    grows: bool,
    mechanisms: &Mechanisms,
) -> Result<(), Refusal> {
    if grows && !mechanisms.moves(tier) {
        return Err(Refusal::Fixed { tier });
    }
    let Some(swap) = &config.swap else {
        return Ok(());
    };
    if tier == Tier::Mps || config.compute.mode == Some(ComputeMode::Mps) {
        return Err(Refusal::SwapWithMps);
    }
    if tier != Tier::Shim && !swap.assume_unshared {
        return Err(Refusal::SwapUnseen { tier });
    }
    Ok(())
}

fn wakes_in_time(
    swap: &SwapConfig,
    ceiling: Bytes,
    mechanisms: &Mechanisms,
) -> Result<(), Refusal> {
    if mechanisms.swap() == SwapMechanism::None {
        return Err(Refusal::NoSwap);
    }
    let Some(most) = swap.max_wake_seconds else {
        return Ok(());
    };
    match mechanisms.restore_seconds(ceiling.0.div_ceil(1 << 20)) {
        None => Err(Refusal::WakeUnknown { most }),
        Some(takes) if takes > u64::from(most) => Err(Refusal::WakeTooSlow {
            most,
            takes,
            ceiling,
        }),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
