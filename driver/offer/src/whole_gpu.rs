//! A whole GPU as a device: the reference driver's names, attributes and capacity.

use k8s_openapi::api::resource::v1::Device;
use tessera_device::{DriverFacts, Gpu};
use tessera_sharing::{ConsumableShares, Form, Mechanisms, NodeFacts};

use crate::attributes::Description;
use crate::offer::Dropped;

/// The device under which the whole GPU is offered. What cannot be said is added to `dropped`.
pub(crate) fn device(
    gpu: &Gpu,
    driver: &DriverFacts,
    shares: ConsumableShares,
    dropped: &mut Vec<Dropped>,
) -> Device {
    let mut device = Description::of(gpu.device_name(), shares);
    device.string("type", "gpu");
    device.string("uuid", gpu.uuid.as_str());
    device.gpu(gpu, driver);
    device.memory(gpu.memory);
    device.held_by(Mechanisms::of(&NodeFacts::of(driver, shares), Form::Whole).strongest());
    device.finish(dropped)
}
