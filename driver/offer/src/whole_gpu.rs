//! A whole GPU as a device: the reference driver's names, attributes and capacity.

use k8s_openapi::api::resource::v1::Device;
use tessera_device::{DriverFacts, Gpu};
use tessera_sharing::{ConsumableShares, Form, Mechanisms, NodeFacts};

use crate::attributes::Description;
use crate::engines::Engines;
use crate::offer::Dropped;

/// The device under which the whole GPU is offered. What cannot be said is added to `dropped`.
pub(crate) fn device(
    gpu: &Gpu,
    driver: &DriverFacts,
    shares: ConsumableShares,
    dropped: &mut Vec<Dropped>,
) -> Device {
    describe(gpu, driver, shares).finish(dropped)
}

/// The device under which the whole GPU is offered beside the MIG devices that could be made of it.
///
/// Then it has their capacities too. A selector that compares one of them would otherwise fail on the whole GPU, and with
/// it the scheduling of the pod: asking for a capacity that a device has not is an error in CEL.
pub(crate) fn beside_its_parts(
    gpu: &Gpu,
    engines: Engines,
    driver: &DriverFacts,
    shares: ConsumableShares,
    dropped: &mut Vec<Dropped>,
) -> Device {
    let mut device = describe(gpu, driver, shares);
    device.engines(engines);
    device.finish(dropped)
}

fn describe(gpu: &Gpu, driver: &DriverFacts, shares: ConsumableShares) -> Description {
    let mut device = Description::of(gpu.device_name(), shares);
    device.string("type", "gpu");
    device.string("uuid", gpu.uuid.as_str());
    device.gpu(gpu, driver);
    device.memory(gpu.memory);
    let mechanisms = Mechanisms::of(&NodeFacts::of(driver, shares), Form::Whole);
    device.held_by(&mechanisms);
    device.grows_by(&mechanisms);
    device
}
