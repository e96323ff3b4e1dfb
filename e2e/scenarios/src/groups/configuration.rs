//! Configurations for the driver: accepted, refused when they are applied, refused by the node.

use super::manifests::{claim, pod_of};
use crate::context::{Context, failed_preparation, uuids};
use crate::failure::{Failure, same};
use crate::gpus::DRIVER;

/// A claim `configured` for one GPU with these parameters of its configuration.
pub(super) fn configured(parameters: &str) -> String {
    format!(
        "{}
    config:
    - requests: [gpu]
      opaque:
        driver: {DRIVER}
        parameters: {parameters}
",
        claim("configured").trim_end()
    )
}

/// The same with a pod `pod` that has it.
fn configured_pod(parameters: &str) -> String {
    let (claim, pod) = (configured(parameters), pod_of("pod", "configured"));
    format!("{claim}---{pod}")
}

pub(crate) fn a_configuration_that_asks_for_nothing_is_accepted(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let parameters = "{apiVersion: resource.nvidia.com/v1beta1, kind: GpuConfig}";
    context.apply(&configured_pod(parameters))?;
    context.running(&["pod"])?;
    let held = uuids(&context.held("configured")?);
    same("the number of GPUs of the claim", &held.len(), &1)?;
    same("the GPUs in the pod", &context.seen("pod", "main")?, &held)
}

/// Parameters that nobody may apply, and what is said about them.
pub(super) const WRONG: &[(&str, &str)] = &[
    (
        "{kind: GpuConfig}",
        "apiVersion: is missing; write resource.nvidia.com/v1beta1",
    ),
    (
        "{apiVersion: resource.nvidia.com/v1, kind: GpuConfig}",
        r#"apiVersion: unknown API version "resource.nvidia.com/v1"; write resource.nvidia.com/v1beta1"#,
    ),
    (
        "{apiVersion: resource.nvidia.com/v1beta1, kind: GPUConfig}",
        r#"kind: unknown kind "GPUConfig"; write GpuConfig, MigDeviceConfig or VfioDeviceConfig"#,
    ),
    (
        "{apiVersion: resource.nvidia.com/v1beta1, kind: GpuConfig, share: {}}",
        r#"share: strict decoding error: unknown field "share"; remove it, or write apiVersion, kind"#,
    ),
    (
        "{apiVersion: resource.nvidia.com/v1beta1, kind: MigDeviceConfig, sharing: {strategy: MPS, timeSlicingConfig: {}}}",
        r#"sharing.timeSlicingConfig: strict decoding error: unknown field "sharing.timeSlicingConfig""#,
    ),
    (
        "{apiVersion: resource.nvidia.com/v1beta1, kind: GpuConfig, sharing: all}",
        "sharing: must be an object",
    ),
    (
        "{apiVersion: resource.nvidia.com/v1beta1, kind: GpuConfig, sharing: {strategy: Mps}}",
        r#"sharing.strategy: unknown GPU sharing strategy "Mps"; write TimeSlicing or MPS"#,
    ),
    (
        "{apiVersion: resource.nvidia.com/v1beta1, kind: GpuConfig, sharing: {strategy: TimeSlicing, timeSlicingConfig: {interval: short}}}",
        r#"sharing.timeSlicingConfig.interval: unknown time-slice interval "short"; write Default, Short, Medium or Long"#,
    ),
    (
        "{apiVersion: resource.nvidia.com/v1beta1, kind: GpuConfig, sharing: {strategy: TimeSlicing, mpsConfig: {}}}",
        r#"sharing.mpsConfig: cannot be used with the strategy "TimeSlicing"; remove it, or write strategy: MPS"#,
    ),
    (
        "{apiVersion: resource.nvidia.com/v1beta1, kind: GpuConfig, sharing: {strategy: MPS, mpsConfig: {defaultActiveThreadPercentage: 101}}}",
        "sharing.mpsConfig.defaultActiveThreadPercentage: the active thread percentage must not be 101; write a whole number from 0 to 100",
    ),
    (
        "{apiVersion: resource.nvidia.com/v1beta1, kind: GpuConfig, sharing: {strategy: TimeSlicing}}",
        r#"sharing.strategy: "TimeSlicing" asks for time-slicing settings, whose feature gate TimeSlicingSettings is off; switch it on, or remove sharing"#,
    ),
    (
        "{apiVersion: resource.nvidia.com/v1beta1, kind: VfioDeviceConfig}",
        r#"kind: "VfioDeviceConfig" asks for VFIO passthrough, which this version does not have yet; remove the configuration"#,
    ),
];

pub(crate) fn a_wrong_configuration_is_refused_when_it_is_applied(
    context: &Context<'_>,
) -> Result<(), Failure> {
    for (parameters, message) in WRONG {
        let message = format!("spec.devices.config[0].opaque.parameters.{message}");
        match context.apply(&configured(parameters)) {
            Err(Failure::Refused { said, .. }) if said.contains(&message) => {}
            Err(Failure::Refused { said, .. }) => same("what is said", &said, &message)?,
            Err(other) => return Err(other),
            Ok(()) => return Err(Failure::wrong(format!("{parameters} was accepted"))),
        }
    }
    Ok(())
}

/// Only when a device has been allocated is it known whether the kind fits.
pub(crate) fn a_configuration_that_does_not_fit_the_device_is_refused_by_the_node(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let parameters = "{apiVersion: resource.nvidia.com/v1beta1, kind: MigDeviceConfig}";
    context.apply(&configured_pod(parameters))?;
    let wanted = [
        r#"opaque.parameters.kind: "MigDeviceConfig" names request gpu, which was allocated gpu-"#,
        "write a GpuConfig for that request",
    ];
    let what = "the event that says why the pod does not start";
    let told = context.event(context.scope(), what, |event| {
        let message = event.message.as_deref().unwrap_or_default();
        failed_preparation(event) && wanted.iter().all(|part| message.contains(part))
    });
    told.map(drop)
}
