//! A MIG device: the reference driver's names, attributes and capacities.

use k8s_openapi::api::resource::v1::Device;
use tessera_device::mig::{MigInstance, MigOption, MigProfile, Slot};
use tessera_device::{Bytes, DriverFacts, Gpu};
use tessera_sharing::{ConsumableShares, Form, Mechanisms, NodeFacts};

use crate::attributes::Description;
use crate::engines::Engines;
use crate::offer::Dropped;

/// The device under which an instance of the GPU is offered. What cannot be said is added to `dropped`.
pub(crate) fn device(
    gpu: &Gpu,
    instance: &MigInstance,
    driver: &DriverFacts,
    shares: ConsumableShares,
    dropped: &mut Vec<Dropped>,
) -> Device {
    let mut device = Description::of(instance.device_name(gpu.minor), shares);
    device.string("uuid", instance.uuid.as_str());
    let size = Size {
        profile: instance.profile,
        memory: instance.memory,
        engines: Engines {
            multiprocessors: instance.multiprocessors,
            others: instance.engines,
        },
    };
    describe(&mut device, gpu, &size, driver);
    device.held_by(&Mechanisms::of(&NodeFacts::of(driver, shares), Form::Mig));
    // By these a claim can ask for a place.
    let slices = instance.placement.slices();
    device.ones(
        "memorySlice",
        slices.map(|slice| format!("memorySlice{slice}")),
    );
    device.finish(dropped)
}

/// The device under which an instance is offered that is made for its claim. It has no identity yet, and its place
/// stands in its name and its counters alone. What cannot be said is added to `dropped`.
pub(crate) fn unmade(
    gpu: &Gpu,
    slot: Slot<'_>,
    driver: &DriverFacts,
    dropped: &mut Vec<Dropped>,
) -> Device {
    let name = slot.device_name(gpu.minor);
    let mut device = Description::of(name, ConsumableShares::Disabled);
    describe(&mut device, gpu, &Size::of(slot.option), driver);
    device.finish(dropped)
}

/// What a MIG device has, whether it is there or not.
struct Size {
    profile: MigProfile,
    memory: Bytes,
    engines: Engines,
}

impl Size {
    fn of(option: &MigOption) -> Self {
        Self {
            profile: option.profile,
            memory: option.memory,
            engines: Engines::of(option),
        }
    }
}

fn describe(device: &mut Description, gpu: &Gpu, size: &Size, driver: &DriverFacts) {
    device.string("type", "mig");
    device.string("parentUUID", gpu.uuid.as_str());
    device.string("profile", &size.profile.to_string());
    device.gpu(gpu, driver);
    device.engines(size.engines);
    device.memory(size.memory);
}
