use proptest::prelude::*;
use tessera_api::{ComputeConfig, MemoryConfig, Willingness};

use super::*;
use tessera_device::MemoryLimiting;

use crate::mechanisms::{Form, NodeFacts};
use crate::testing::{bare, everything};

const DEVICE: Bytes = Bytes::from_mib(80 << 10);
const GUARANTEE: Bytes = Bytes::from_mib(20 << 10);

fn memory(
    limit: Option<MemoryLimit>,
    enforcement: Enforcement,
    on_pressure: Pressure,
) -> ShareConfig {
    ShareConfig {
        memory: MemoryConfig {
            limit,
            enforcement,
            on_pressure,
        },
        ..ShareConfig::default()
    }
}

fn limited(limit: MemoryLimit) -> ShareConfig {
    memory(Some(limit), Enforcement::default(), Pressure::default())
}

fn growing(enforcement: Enforcement) -> ShareConfig {
    memory(
        Some(MemoryLimit::Percent(100)),
        enforcement,
        Pressure::default(),
    )
}

fn swapping(assume_unshared: bool, max_wake_seconds: Option<u32>) -> ShareConfig {
    ShareConfig {
        swap: Some(SwapConfig {
            willingness: Willingness::Allow,
            idle_seconds: None,
            min_residency_seconds: None,
            max_wake_seconds,
            host_limit: None,
            assume_unshared,
        }),
        ..ShareConfig::default()
    }
}

fn granted(config: &ShareConfig, facts: &NodeFacts) -> Result<Grant, Refusal> {
    let demand = Demand {
        config,
        guarantee: GUARANTEE,
        device: DEVICE,
    };
    grant(&demand, &Mechanisms::of(facts, Form::Whole))
}

fn with(native: bool, mps: bool, shim: bool) -> NodeFacts {
    NodeFacts {
        native: if native {
            MemoryLimiting::PerCgroup
        } else {
            MemoryLimiting::NoCall
        },
        moves_limits: true,
        mps,
        shim,
        ..bare()
    }
}

#[test]
fn a_share_gets_the_strongest_tier_that_can_follow_its_growth() {
    use Tier::{Mps, Native, Shim};
    let fixed = ShareConfig::default();
    let required = growing(Enforcement::Required(MinimumTier::Shim));
    let grows = [&fixed, &required];
    for (facts, tiers) in [
        (with(true, true, true), [Some(Native), Some(Native)]),
        (with(false, true, true), [Some(Mps), Some(Shim)]),
        (with(false, true, false), [Some(Mps), None]),
        (with(false, false, true), [Some(Shim), Some(Shim)]),
        (bare(), [None, None]),
    ] {
        for (config, tier) in grows.into_iter().zip(tiers) {
            let found = granted(config, &facts).ok().map(|grant| grant.tier);
            assert_eq!(found, tier, "{facts:?} {config:?}");
        }
    }
}

#[test]
fn what_is_required_is_refused_with_what_the_node_has_and_why_it_has_no_more() {
    let native = growing(Enforcement::Required(MinimumTier::Native));
    let v1 = NodeFacts {
        native: MemoryLimiting::CgroupV1,
        ..with(true, false, true)
    };
    for (config, facts, message) in [
        (
            &native,
            with(false, true, true),
            "memory.minimumTier Native is required, but what holds the shares of this device is mps (its \
             driver takes no memory limits, which R615 and later do); select devices by the attribute \
             memoryEnforcement, or write memory.enforcement: BestEffort",
        ),
        (
            &native,
            v1,
            "memory.minimumTier Native is required, but what holds the shares of this device is shim (its \
             containers are in cgroups of version 1); select devices by the attribute memoryEnforcement, \
             or write memory.enforcement: BestEffort",
        ),
        (
            &growing(Enforcement::Required(MinimumTier::Mps)),
            with(false, true, true),
            "memory.limit is above the guarantee, but nothing on this node changes the limit of a share in \
             use that mps holds; select devices by the attribute dynamicMemory, or leave it out",
        ),
        (
            &native,
            NodeFacts {
                moves_limits: false,
                ..with(true, false, false)
            },
            "memory.limit is above the guarantee, but nothing on this node changes the limit of a share in \
             use that native holds; select devices by the attribute dynamicMemory, or leave it out",
        ),
    ] {
        let refusal = granted(config, &facts).unwrap_err();
        assert_eq!(refusal.to_string(), message);
    }
}

#[test]
fn best_effort_runs_everywhere_and_is_told_what_it_did_not_get() {
    let config = growing(Enforcement::BestEffort);
    for (facts, tier, ceiling, shortfall) in [
        (with(true, true, true), Tier::Native, DEVICE, None),
        (with(false, true, true), Tier::Shim, DEVICE, None),
        (
            with(false, true, false),
            Tier::Mps,
            GUARANTEE,
            Some(Shortfall::Fixed),
        ),
        (bare(), Tier::None, DEVICE, Some(Shortfall::NotEnforced)),
    ] {
        let grant = granted(&config, &facts).unwrap();
        assert_eq!(grant.tier, tier);
        assert_eq!(grant.ceiling, ceiling);
        assert_eq!(grant.shortfall, shortfall);
    }
    let fixed = memory(None, Enforcement::BestEffort, Pressure::default());
    let grant = granted(&fixed, &with(false, true, false)).unwrap();
    assert_eq!((grant.tier, grant.shortfall), (Tier::Mps, None));
}

#[test]
fn a_ceiling_is_from_the_guarantee_to_the_device() {
    let percent = |percent| granted(&limited(MemoryLimit::Percent(percent)), &everything());
    let amount = |mib| {
        granted(
            &limited(MemoryLimit::Amount(Bytes::from_mib(mib))),
            &everything(),
        )
    };
    assert_eq!(percent(100).unwrap().ceiling, DEVICE);
    assert_eq!(percent(50).unwrap().ceiling, Bytes::from_mib(40 << 10));
    assert_eq!(percent(33).unwrap().ceiling, Bytes::from_mib(27_033));
    assert_eq!(amount(20 << 10).unwrap().ceiling, GUARANTEE);
    assert_eq!(
        percent(24).unwrap_err().to_string(),
        "memory.limit 24% is less than the 20Gi that the claim is guaranteed; write at least 20Gi, or \
         leave it out"
    );
    assert_eq!(
        amount((80 << 10) + 1).unwrap_err().to_string(),
        "memory.limit 81921Mi is more than the 80Gi of the device; write 100% to let the share grow as \
         far as there is room"
    );
    let none = granted(&ShareConfig::default(), &everything()).unwrap();
    assert_eq!((none.guarantee, none.ceiling), (GUARANTEE, GUARANTEE));
}

#[test]
fn all_of_a_device_is_all_of_it_even_where_it_is_no_whole_mebibytes() {
    let device = Bytes((80 << 30) + 7);
    assert_eq!(hundredths(device, 100), device);
    assert_eq!(hundredths(device, 50), Bytes(40 << 30));
    assert_eq!(
        hundredths(Bytes(u64::MAX), 99).0 >> 20,
        (u64::MAX / 100 * 99) >> 20
    );
}

#[test]
fn of_the_ladder_a_share_gets_the_rungs_that_its_node_has() {
    let shim = with(false, false, true);
    let native = with(true, false, false);
    for (on_pressure, facts, trim, evict) in [
        (Pressure::OutOfMemory, shim, false, false),
        (Pressure::Trim, shim, true, false),
        (Pressure::Trim, native, false, false),
        (Pressure::Evict, shim, true, true),
        (Pressure::Evict, native, false, true),
    ] {
        let config = memory(
            Some(MemoryLimit::Percent(100)),
            Enforcement::default(),
            on_pressure,
        );
        let expected = Rungs {
            trim,
            swap: false,
            evict,
        };
        assert_eq!(
            granted(&config, &facts).unwrap().rungs,
            expected,
            "{on_pressure:?}"
        );
    }
}

#[test]
fn a_swap_policy_is_refused_where_it_cannot_be_followed() {
    let checkpoint = |facts| NodeFacts {
        swap: SwapMechanism::Checkpoint,
        restore_mib_per_second: Some(4096),
        ..facts
    };
    let native = checkpoint(with(true, false, false));
    let shim = checkpoint(with(false, false, true));
    let unmeasured = NodeFacts {
        restore_mib_per_second: None,
        ..shim
    };
    let in_mps = ShareConfig {
        compute: ComputeConfig {
            mode: Some(ComputeMode::Mps),
            weight: None,
        },
        ..swapping(true, None)
    };
    let (unseen, seen) = (swapping(false, None), swapping(true, None));
    let tier = Tier::Native;
    for (config, facts, expected) in [
        (&seen, with(true, true, true), Err(Refusal::NoSwap)),
        (&unseen, native, Err(Refusal::SwapUnseen { tier })),
        (&seen, native, Ok(tier)),
        (&unseen, shim, Ok(Tier::Shim)),
        (
            &seen,
            checkpoint(with(false, true, false)),
            Err(Refusal::SwapWithMps),
        ),
        (
            &in_mps,
            checkpoint(with(true, true, false)),
            Err(Refusal::SwapWithMps),
        ),
        (&swapping(true, Some(5)), native, Ok(tier)),
        (
            &swapping(true, Some(4)),
            native,
            Err(Refusal::WakeTooSlow {
                most: 4,
                takes: 5,
                ceiling: GUARANTEE,
            }),
        ),
        (
            &swapping(true, Some(4)),
            unmeasured,
            Err(Refusal::WakeUnknown { most: 4 }),
        ),
    ] {
        let found = granted(config, &facts).map(|grant| grant.tier);
        assert_eq!(found, expected, "{config:?} {facts:?}");
    }
    // Where the library can be had it is taken, because it sees what a stronger tier does not.
    let both = checkpoint(with(true, false, true));
    assert_eq!(granted(&unseen, &both).unwrap().tier, Tier::Shim);
}

#[test]
fn a_compute_mode_that_the_node_lacks_is_refused() {
    for (mode, there) in [
        (ComputeMode::TimeSlicing, true),
        (ComputeMode::TimeWindows, false),
        (ComputeMode::Mps, false),
    ] {
        let config = ShareConfig {
            compute: ComputeConfig {
                mode: Some(mode),
                weight: None,
            },
            ..ShareConfig::default()
        };
        let found = granted(&config, &with(true, false, false));
        assert_eq!(found.is_ok(), there, "{mode:?}");
        assert!(granted(&config, &with(true, true, true)).is_ok());
    }
}

proptest! {
    #[test]
    fn whoever_requires_a_tier_has_it_or_is_refused(
        facts in (any::<bool>(), any::<bool>(), any::<bool>()),
        wanted in prop::sample::select(vec![MinimumTier::Native, MinimumTier::Mps, MinimumTier::Shim]),
        limit in prop::option::of(prop_oneof![
            (1..=100_u8).prop_map(MemoryLimit::Percent),
            (1..1_u64 << 20).prop_map(|mib| MemoryLimit::Amount(Bytes::from_mib(mib))),
        ]),
        guarantee in 0..=80_u64 << 30,
    ) {
        let (native, mps, shim) = facts;
        let config = memory(limit, Enforcement::Required(wanted), Pressure::Evict);
        let demand = Demand { config: &config, guarantee: Bytes(guarantee), device: DEVICE };
        let mechanisms = Mechanisms::of(&with(native, mps, shim), Form::Whole);
        if let Ok(grant) = grant(&demand, &mechanisms) {
            prop_assert!(grant.tier >= wanted.into() && mechanisms.has(grant.tier));
            prop_assert!(grant.ceiling >= grant.guarantee && grant.ceiling <= DEVICE);
            prop_assert!(grant.ceiling == grant.guarantee || grant.tier.is_dynamic());
            prop_assert_eq!(grant.shortfall, None);
        }
    }
}
