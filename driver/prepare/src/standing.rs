//! Says what the journal already has of a claim that is to be prepared.

use tessera_claim::{AllocatedDevice, Allocation};

use crate::record::{BootId, PreparedDevice, Record, View};
use crate::resolve::ResolvedDevice;

/// What the journal already has of a claim that is to be prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    New,
    /// It is prepared, with these devices, in this boot.
    Prepared,
    /// Something else: a preparation that did not end, an allocation that has changed, or a former
    /// boot. It has to be taken back.
    Leftover,
}

/// Compares the record of a claim with what is to be prepared now.
pub fn standing(
    record: Option<&Record>,
    devices: &[ResolvedDevice<'_>],
    boot: &BootId,
) -> Standing {
    let Some(record) = record else {
        return Standing::New;
    };
    let is_for = |(prepared, device): (&PreparedDevice, &ResolvedDevice<'_>)| {
        prepared.gpu == device.gpu.uuid
            && (prepared.instance.as_ref() == device.mig() || is_foreign(record, prepared))
            && serves(prepared, &device.allocated)
    };
    let same_devices =
        record.devices.len() == devices.len() && record.devices.iter().zip(devices).all(is_for);
    if record.is_prepared_in(boot) && same_devices {
        Standing::Prepared
    } else {
        Standing::Leftover
    }
}

/// Whether a prepared device is a part of a GPU that another driver prepared before this one took the
/// node over. Nothing tells which instance that was; its containers keep it.
fn is_foreign(record: &Record, prepared: &PreparedDevice) -> bool {
    prepared.instance.is_none()
        && !prepared.device.is_whole_gpu()
        && record.foreign().next().is_some()
}

/// Whether the record is that of a claim which was prepared in this boot for exactly this
/// allocation.
///
/// For a claim whose GPUs cannot be looked at, because the driver is away or the GPU is lost: what
/// its containers were given stays theirs. Where the GPUs are known, [`standing`] decides.
pub fn is_prepared_for(record: &Record, allocation: &Allocation, boot: &BootId) -> bool {
    record.is_prepared_in(boot)
        && record.claim.uid == allocation.claim.uid
        && record.devices.len() == allocation.devices.len()
        && record
            .devices
            .iter()
            .zip(&allocation.devices)
            .all(|(prepared, allocated)| serves(prepared, allocated))
}

/// Whether what was prepared is what is allocated, as far as that can be said without the GPU.
fn serves(prepared: &PreparedDevice, allocated: &AllocatedDevice) -> bool {
    prepared.pool == allocated.pool
        && prepared.device == allocated.device
        && prepared.request == allocated.request
        && prepared.share_id == allocated.share_id
        && (prepared.view == View::Admin) == allocated.admin_access
}

#[cfg(test)]
mod tests {
    use tessera_device::mig::MigLayouts;
    use tessera_device::testing::{cut, driver, gpu, inventory};
    use tessera_device::{Gpu, Inventory};

    use super::*;
    use crate::record::Phase;
    use crate::resolve::resolve;
    use crate::step::Effect;
    use crate::testing::{allocation, boot, mig_record, named, record};

    #[test]
    fn without_the_gpus_a_claim_is_prepared_for_the_allocation_that_its_record_names() {
        let boot = boot();
        let prepared = record("a", &[0, 3]);
        assert!(is_prepared_for(&prepared, &allocation("a", &[0, 3]), &boot));
        let mut begun = prepared.clone();
        begun.phase = Phase::Preparing;
        let other_boot = BootId("former".to_owned());
        for (record, allocation, boot) in [
            (&begun, allocation("a", &[0, 3]), &boot),
            (&prepared, allocation("a", &[0, 3]), &other_boot),
            (&prepared, allocation("a", &[0]), &boot),
            (&prepared, allocation("a", &[0, 4]), &boot),
            (&prepared, allocation("b", &[0, 3]), &boot),
        ] {
            assert!(
                !is_prepared_for(record, &allocation, boot),
                "{record:?} {allocation:?}"
            );
        }
    }

    #[test]
    fn only_the_same_devices_of_the_same_boot_count_as_prepared() {
        let inventory = inventory(0..8);
        let (boot, allocation) = (boot(), allocation("a", &[0, 3]));
        let devices = resolve(&allocation, "node0", &inventory, MigLayouts::Static).unwrap();
        let prepared = record("a", &[0, 3]);
        assert_eq!(standing(None, &devices, &boot), Standing::New);
        assert_eq!(
            standing(Some(&prepared), &devices, &boot),
            Standing::Prepared
        );

        let mut begun = prepared.clone();
        begun.phase = Phase::Preparing;
        let mut former_boot = prepared.clone();
        former_boot.boot = BootId("former".to_owned());
        let mut admin = prepared.clone();
        admin.devices[0].view = View::Admin;
        for other in [
            begun,
            former_boot,
            admin,
            record("a", &[0, 4]),
            record("a", &[0]),
        ] {
            assert_eq!(
                standing(Some(&other), &devices, &boot),
                Standing::Leftover,
                "{other:?}"
            );
        }
    }

    #[test]
    fn a_mig_device_of_another_driver_stays_prepared_under_its_name() {
        let layout = Inventory::new(driver("580"), vec![cut(gpu(0), &["3g.40gb"])]).unwrap();
        let devices = resolve(
            &named(&["gpu-0-mig-3g40gb-9-0"]),
            "node0",
            &layout,
            MigLayouts::Static,
        )
        .unwrap();
        let mut taken = mig_record("a", 0, &["3g.40gb"]);
        taken.devices[0].view = View::Whole;
        taken.devices[0].instance = None;
        assert_eq!(
            standing(Some(&taken), &devices, &boot()),
            Standing::Leftover
        );
        let what = "MIG device gpu-0-mig-3g40gb-9-0".to_owned();
        taken.effects.push(Effect::Foreign { what });
        assert_eq!(
            standing(Some(&taken), &devices, &boot()),
            Standing::Prepared
        );
    }

    #[test]
    fn a_mig_device_that_was_made_anew_under_its_name_is_not_the_one_that_was_prepared() {
        let layout = |gpu: Gpu| Inventory::new(driver("580"), vec![gpu]).unwrap();
        let prepared = mig_record("a", 0, &["3g.40gb"]);
        let allocation = named(&["gpu-0-mig-3g40gb-9-0"]);
        let mut cut = cut(gpu(0), &["3g.40gb"]);
        let same = layout(cut.clone());
        let devices = resolve(&allocation, "node0", &same, MigLayouts::Static).unwrap();
        let found = standing(Some(&prepared), &devices, &boot());
        assert_eq!(found, Standing::Prepared);

        let instances = &mut cut.mig.as_mut().unwrap().instances;
        instances[0].uuid = "MIG-11111111-2222-3333-4444-555555555555".parse().unwrap();
        let anew = layout(cut);
        let devices = resolve(&allocation, "node0", &anew, MigLayouts::Static).unwrap();
        let found = standing(Some(&prepared), &devices, &boot());
        assert_eq!(found, Standing::Leftover);
    }
}
