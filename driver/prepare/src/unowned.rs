//! MIG devices that nobody accounts for.
//!
//! On a GPU that the driver cuts a MIG device has one owner: the claim whose record tells of it. One of
//! which no record tells was left by somebody, and keeps its place from claims.

use tessera_device::mig::{MigInstance, MigState, UnfinishedInstance};
use tessera_device::{DeviceName, GpuUuid, MigUuid};

use crate::mig_device::MigDevice;
use crate::record::{Phase, PreparedDevice, Record};

/// The MIG devices of a GPU of which no record tells, those half made included.
///
/// `records` must be all that there are: a claim that is not accounted for may have any of them.
pub fn unowned(gpu: &GpuUuid, mig: &MigState, records: &[&Record]) -> Vec<MigDevice> {
    let made = || {
        records
            .iter()
            .flat_map(|record| record.made())
            .filter(|device| device.gpu == *gpu)
    };
    let held = || records.iter().flat_map(|record| &record.devices);
    // A record that was rebuilt, or taken over, may not know which of the devices its claim has.
    let is_vague = |record: &&Record| {
        let mut devices = record.devices.iter().filter(|device| device.gpu == *gpu);
        let is_unknown = |device: &PreparedDevice| {
            device.instance.is_none() && device.device.mig_parent().is_some()
        };
        record.made().next().is_none() && devices.any(is_unknown)
    };
    if records.iter().any(is_vague) {
        return Vec::new();
    }
    let is_owned = |instance: &&MigInstance| {
        made().any(|device| device.is(instance))
            || held().any(|device| device.instance.as_ref() == Some(&instance.uuid))
    };
    let instances = mig.instances.iter().filter(|instance| !is_owned(instance));
    let instances = instances.map(|instance| MigDevice::found(gpu, instance));
    let is_intended =
        |bare: &&UnfinishedInstance| made().any(|device| device.placement == bare.placement);
    let halves = mig.unfinished.iter().filter(|bare| !is_intended(bare));
    let halves = halves.map(|bare| MigDevice {
        gpu: gpu.clone(),
        profile: bare.profile,
        profile_id: bare.profile_id,
        placement: bare.placement,
        identity: None,
    });
    instances.chain(halves).collect()
}

/// The devices of a prepared claim on this GPU that are MIG devices and are not there any more.
pub fn vanished<'r>(
    gpu: &GpuUuid,
    mig: &MigState,
    record: &'r Record,
) -> impl Iterator<Item = &'r DeviceName> {
    let is_prepared = record.phase == Phase::Prepared;
    let is_there = |uuid: &MigUuid| mig.instances.iter().any(|there| there.uuid == *uuid);
    let gone = move |device: &&PreparedDevice| {
        let instance = device.instance.as_ref();
        device.gpu == *gpu && instance.is_some_and(|uuid| !is_there(uuid))
    };
    let devices = record.devices.iter().filter(move |_| is_prepared);
    devices.filter(gone).map(|device| &device.device)
}

#[cfg(test)]
mod tests {
    use tessera_device::mig::Placement;
    use tessera_device::testing::{cut, gpu};

    use super::*;
    use crate::step::Effect;
    use crate::testing::{mig_record, record};

    #[test]
    fn a_device_of_a_prepared_claim_that_is_not_there_has_vanished() {
        let cut = cut(gpu(0), &["3g.40gb", "1g.10gb"]);
        let mut mig = cut.mig.clone().unwrap();
        let record = mig_record("a", 0, &["3g.40gb", "1g.10gb"]);
        assert_eq!(vanished(&cut.uuid, &mig, &record).count(), 0);
        mig.instances.remove(0);
        let gone: Vec<_> = vanished(&cut.uuid, &mig, &record).collect();
        assert_eq!(gone, [&record.devices[0].device]);
        assert_eq!(vanished(&gpu(1).uuid, &mig, &record).count(), 0);
        let mut begun = record.clone();
        begun.phase = Phase::Preparing;
        assert_eq!(vanished(&cut.uuid, &mig, &begun).count(), 0);
    }

    #[test]
    fn a_device_is_owned_by_the_claim_that_had_it_made_or_that_has_it_and_by_nobody_else() {
        let cut = cut(gpu(0), &["3g.40gb", "1g.10gb", "1g.10gb"]);
        let mut mig = cut.mig.clone().unwrap();
        mig.unfinished.push(UnfinishedInstance {
            gpu_instance: 6,
            profile: "1g.10gb".parse().unwrap(),
            profile_id: 19,
            placement: Placement { start: 6, size: 1 },
        });
        let all = |records: &[Record]| {
            let records: Vec<&Record> = records.iter().collect();
            unowned(&cut.uuid, &mig, &records)
        };
        let nobodys = all(&[]);
        let starts: Vec<u8> = nobodys
            .iter()
            .map(|device| device.placement.start)
            .collect();
        assert_eq!(starts, [0, 4, 5, 6]);
        assert_eq!(nobodys[3].identity, None);

        // One is held as it was found, of one there is the intent, and of another the identity.
        let held = mig_record("a", 0, &["3g.40gb"]);
        let mut intended = record("b", &[]);
        intended.effects = vec![
            Effect::MigDevice(MigDevice {
                identity: None,
                ..nobodys[1].clone()
            }),
            Effect::MigDevice(nobodys[2].clone()),
        ];
        let left = all(&[held.clone(), intended.clone()]);
        assert_eq!(left, nobodys[3..]);
        intended.effects.push(Effect::MigDevice(nobodys[3].clone()));
        assert_eq!(all(&[held, intended.clone()]), []);

        // A claim may have any of them that is known to have one, and not which.
        let mut rebuilt = mig_record("c", 0, &["3g.40gb"]);
        rebuilt.devices[0].instance = None;
        assert_eq!(all(&[rebuilt]), []);

        // The same place on another GPU is another place.
        let other = gpu(1).uuid;
        assert_eq!(unowned(&other, &mig, &[&intended]).len(), 4);
    }
}
