//! A MIG device: the reference driver's names, attributes and capacities.

use k8s_openapi::api::resource::v1::Device;
use tessera_device::mig::{MigEngines, MigInstance};
use tessera_device::{DriverFacts, Gpu};
use tessera_sharing::ConsumableShares;

use crate::attributes::Description;
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
    device.string("type", "mig");
    device.string("uuid", instance.uuid.as_str());
    device.string("parentUUID", gpu.uuid.as_str());
    device.string("profile", &instance.profile.to_string());
    device.gpu(gpu, driver);
    let MigEngines {
        copy,
        decoders,
        encoders,
        jpeg,
        ofa,
    } = instance.engines;
    device.capacity("multiprocessors", &instance.multiprocessors);
    device.capacity("copyEngines", &copy);
    device.capacity("decoders", &decoders);
    device.capacity("encoders", &encoders);
    device.capacity("jpegEngines", &jpeg);
    device.capacity("ofaEngines", &ofa);
    device.memory(instance.memory);
    // By these a claim can ask for a place.
    let slices = instance.placement.slices();
    device.ones(
        "memorySlice",
        slices.map(|slice| format!("memorySlice{slice}")),
    );
    device.finish(dropped)
}
