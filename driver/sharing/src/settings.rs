//! The settings of a device as a whole, on which its shares must agree.
//!
//! What concerns a share alone is that share's own and never in another's way. These settings are not:
//! a device has one of each. A share that says nothing takes what the others want, so the settings of a device
//! are those of the shares that it has at the moment, and go with the last that wanted them.

use std::fmt;

use tessera_api::ShareConfig;
use tessera_api::{
    ComputeMode, Config, GpuConfig, GpuSharing, Interval, MigDeviceConfig, MigSharing,
};
use thiserror::Error;

use crate::holder::Holder;

/// What one share wants of its device as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceWish {
    /// How its shares take turns.
    pub mode: Option<ComputeMode>,
    /// How long a time slice is.
    pub interval: Option<Interval>,
}

/// The settings of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceSettings {
    /// How its shares take turns.
    pub mode: ComputeMode,
    /// How long a time slice is.
    pub interval: Interval,
}

/// Two shares that want different settings of one device.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{holder} wants {setting} {wanted} of the device, but {by} has it at {found}; ask for {found}, or \
     for a device of its own"
)]
pub struct Conflict {
    /// Who comes second.
    pub holder: Holder,
    /// The setting.
    pub setting: &'static str,
    /// What it wants.
    pub wanted: &'static str,
    /// Who has it otherwise.
    pub by: Holder,
    /// What that one has.
    pub found: &'static str,
}

impl DeviceWish {
    /// What a claim wants, by the configuration of the device and by that of its share.
    ///
    /// Fails if one contradicts the other: then `holder` is in its own way.
    pub fn of(
        holder: &Holder,
        device: Option<&Config>,
        share: Option<&ShareConfig>,
    ) -> Result<Self, Conflict> {
        let device = device.map(of_device).unwrap_or_default();
        let share = Self {
            mode: share.and_then(|share| share.compute.mode),
            interval: None,
        };
        let mut agreed = Agreed::default();
        agreed.join(holder, device)?;
        agreed.join(holder, share)?;
        Ok(Self {
            mode: agreed.mode.map(|(mode, _)| mode),
            interval: agreed.interval.map(|(interval, _)| interval),
        })
    }
}

fn of_device(config: &Config) -> DeviceWish {
    let mps = DeviceWish {
        mode: Some(ComputeMode::Mps),
        interval: None,
    };
    let slices = |interval| DeviceWish {
        mode: Some(ComputeMode::TimeSlicing),
        interval,
    };
    match config {
        Config::Gpu(GpuConfig { sharing }) => match sharing {
            Some(GpuSharing::Mps(_)) => mps,
            Some(GpuSharing::TimeSlicing(interval)) => slices(Some(*interval)),
            None => DeviceWish::default(),
        },
        Config::MigDevice(MigDeviceConfig { sharing }) => match sharing {
            Some(MigSharing::Mps(_)) => mps,
            Some(MigSharing::TimeSlicing) => slices(None),
            None => DeviceWish::default(),
        },
        Config::VfioDevice(_)
        | Config::Share(_)
        | Config::ComputeDomainChannel(_)
        | Config::ComputeDomainDaemon(_) => DeviceWish::default(),
    }
}

/// The settings of a device whose shares want these. What nobody wants is as the NVIDIA driver has it.
///
/// Of two that disagree, the later is refused: those that are there come first.
pub fn merge<'h>(
    wishes: impl IntoIterator<Item = (&'h Holder, DeviceWish)>,
) -> Result<DeviceSettings, Conflict> {
    let mut agreed = Agreed::default();
    for (holder, wish) in wishes {
        agreed.join(holder, wish)?;
    }
    Ok(DeviceSettings {
        mode: agreed
            .mode
            .map_or(ComputeMode::TimeSlicing, |(mode, _)| mode),
        interval: agreed
            .interval
            .map_or_else(Interval::default, |(interval, _)| interval),
    })
}

/// What is settled so far, and by whom.
#[derive(Default)]
struct Agreed<'h> {
    mode: Option<(ComputeMode, &'h Holder)>,
    interval: Option<(Interval, &'h Holder)>,
}

impl<'h> Agreed<'h> {
    fn join(&mut self, holder: &'h Holder, wish: DeviceWish) -> Result<(), Conflict> {
        settle(
            "the compute mode",
            &mut self.mode,
            holder,
            wish.mode,
            ComputeMode::as_str,
        )?;
        let name = Interval::as_str;
        settle(
            "the time-slice interval",
            &mut self.interval,
            holder,
            wish.interval,
            name,
        )
    }
}

fn settle<'h, T: Copy + PartialEq + fmt::Debug>(
    setting: &'static str,
    settled: &mut Option<(T, &'h Holder)>,
    holder: &'h Holder,
    wanted: Option<T>,
    name: impl Fn(T) -> &'static str,
) -> Result<(), Conflict> {
    let Some(wanted) = wanted else {
        return Ok(());
    };
    let (found, by) = *settled.get_or_insert((wanted, holder));
    if found == wanted {
        return Ok(());
    }
    Err(Conflict {
        holder: holder.clone(),
        setting,
        wanted: name(wanted),
        by: by.clone(),
        found: name(found),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tessera_api::{ComputeConfig, MpsConfig};

    use super::*;
    use crate::testing::holder;

    fn wants(mode: Option<ComputeMode>, interval: Option<Interval>) -> DeviceWish {
        DeviceWish { mode, interval }
    }

    #[test]
    fn shares_that_want_the_same_or_nothing_agree() {
        let (a, b, c) = (holder("a"), holder("b"), holder("c"));
        let settings = merge([
            (&a, wants(None, None)),
            (
                &b,
                wants(Some(ComputeMode::TimeSlicing), Some(Interval::Long)),
            ),
            (&c, wants(Some(ComputeMode::TimeSlicing), None)),
        ]);
        let expected = DeviceSettings {
            mode: ComputeMode::TimeSlicing,
            interval: Interval::Long,
        };
        assert_eq!(settings, Ok(expected));
        let unset = merge([(&a, DeviceWish::default())]).unwrap();
        assert_eq!(unset.mode, ComputeMode::TimeSlicing);
        assert_eq!(unset.interval, Interval::Default);
    }

    #[test]
    fn of_two_that_disagree_the_later_is_refused_and_both_claims_are_named() {
        let (a, b) = (holder("a"), holder("b"));
        let conflict = merge([
            (&a, wants(Some(ComputeMode::Mps), None)),
            (&b, wants(Some(ComputeMode::TimeWindows), None)),
        ]);
        assert_eq!(
            conflict.unwrap_err().to_string(),
            "claim default/b (UID b-uid) wants the compute mode TimeWindows of the device, but claim \
             default/a (UID a-uid) has it at MPS; ask for MPS, or for a device of its own"
        );
        let slices = Some(ComputeMode::TimeSlicing);
        let conflict = merge([
            (&a, wants(slices, Some(Interval::Short))),
            (&b, wants(slices, Some(Interval::Long))),
        ]);
        let text = conflict.unwrap_err().to_string();
        assert!(text.contains("time-slice interval Long"), "{text}");
        assert!(text.contains("at Short"), "{text}");
    }

    #[test]
    fn a_claim_wants_what_its_two_configurations_say_together() {
        let a = holder("a");
        let device = |sharing| Config::Gpu(GpuConfig { sharing });
        let share = |mode| ShareConfig {
            compute: ComputeConfig { mode, weight: None },
            ..ShareConfig::default()
        };
        let long = device(Some(GpuSharing::TimeSlicing(Interval::Long)));
        let slices = Some(ComputeMode::TimeSlicing);
        let both = DeviceWish::of(&a, Some(&long), Some(&share(slices)));
        assert_eq!(both, Ok(wants(slices, Some(Interval::Long))));
        let nothing = DeviceWish::of(&a, Some(&device(None)), Some(&share(None)));
        assert_eq!(nothing, Ok(DeviceWish::default()));
        let mps = device(Some(GpuSharing::Mps(MpsConfig::default())));
        let conflict = DeviceWish::of(&a, Some(&mps), Some(&share(slices))).unwrap_err();
        assert_eq!((&conflict.holder, &conflict.by), (&a, &a));
        let mig = Config::MigDevice(MigDeviceConfig {
            sharing: Some(MigSharing::TimeSlicing),
        });
        assert_eq!(
            DeviceWish::of(&a, Some(&mig), None),
            Ok(wants(slices, None))
        );
    }

    fn wishes() -> impl Strategy<Value = DeviceWish> {
        let modes = [None, Some(ComputeMode::TimeSlicing), Some(ComputeMode::Mps)];
        let intervals = [None, Some(Interval::Short), Some(Interval::Long)];
        let (modes, intervals) = (modes.to_vec(), intervals.to_vec());
        (prop::sample::select(modes), prop::sample::select(intervals))
            .prop_map(|(mode, interval)| DeviceWish { mode, interval })
    }

    proptest! {
        #[test]
        fn shares_agree_in_every_order_or_in_none(wishes in prop::collection::vec(wishes(), 0..6), turn in 0..6_usize) {
            let holders: Vec<Holder> = (0..wishes.len()).map(|n| holder(&n.to_string())).collect();
            let mut pairs: Vec<_> = holders.iter().zip(wishes).collect();
            let one = merge(pairs.clone());
            if !pairs.is_empty() {
                let middle = turn % pairs.len();
                pairs.rotate_left(middle);
            }
            let other = merge(pairs);
            prop_assert_eq!(one.as_ref().ok(), other.as_ref().ok());
            prop_assert_eq!(one.is_err(), other.is_err());
        }
    }
}
