//! Why an operation on a GPU's MIG side was not done.

use nvml_wrapper::error::NvmlError as Code;
use nvml_wrapper_sys::bindings::nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_RESOURCES as INSUFFICIENT_RESOURCES;
use tessera_device::GpuUuid;
use thiserror::Error;

use crate::error::Fault;

/// An operation on a GPU's MIG side that was not done.
#[derive(Debug, Error)]
#[error("{call} on GPU {gpu}: {reason}")]
pub struct MigError {
    /// The GPU.
    pub gpu: GpuUuid,
    /// The NVML function that failed.
    pub call: &'static str,
    /// What that means.
    pub reason: MigErrorReason,
    /// What NVML returned, unless the function had an answer that rules the operation out.
    #[source]
    pub fault: Option<Fault>,
}

/// Why an operation on a GPU's MIG side was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum MigErrorReason {
    /// `NVML_ERROR_INSUFFICIENT_RESOURCES`: others have memory slices or engines that it needs, or the
    /// very same is there already.
    #[error("there is no room for it beside the instances that the GPU has")]
    NoRoom,
    /// `NVML_ERROR_IN_USE`.
    #[error(
        "a process uses it, or holds it open as monitoring does; end that process or try again"
    )]
    InUse,
    /// `NVML_ERROR_NO_PERMISSION`.
    #[error("the permission is missing; run the plugin privileged")]
    NoPermission,
    /// `NVML_ERROR_GPU_IS_LOST`.
    #[error("the GPU is lost; it comes back with a reset or a reboot")]
    Lost,
    /// NVML lists no such GPU, as while it is being reset.
    #[error("NVML lists no such GPU")]
    NoSuchGpu,
    /// `NVML_ERROR_NOT_SUPPORTED`: the GPU cannot be cut in this way, or not from here, as in a virtual
    /// machine that was given a part of one.
    #[error("the GPU or its driver does not support it")]
    NotSupported,
    /// The GPU is not in MIG mode.
    #[error("its MIG mode is off")]
    ModeOff,
    /// Anything else.
    #[error("NVML failed")]
    Other,
}

impl MigErrorReason {
    pub(super) fn of(fault: &Fault) -> Self {
        let Fault::Code(code) = fault else {
            return Self::Other;
        };
        match code {
            Code::UnexpectedVariant(INSUFFICIENT_RESOURCES) => Self::NoRoom,
            Code::InUse => Self::InUse,
            Code::NoPermission => Self::NoPermission,
            Code::GpuLost => Self::Lost,
            Code::NotSupported | Code::FunctionNotFound | Code::FailedToLoadSymbol(_) => {
                Self::NotSupported
            }
            _ => Self::Other,
        }
    }
}
