//! Limits of the memory that the processes of a cgroup may have of one GPU.
//!
//! Only hard limits are set. The driver's soft limit reserves memory on all cgroups above, where it stays when a
//! cgroup disappears without the driver being told (NVIDIA's "MPS v3 Memory Partitioning"); a hard limit
//! disappears with its cgroup (`nvml.h`).

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nvml_wrapper::error::NvmlError as Code;
use nvml_wrapper::{Device, Nvml as Library};
use tessera_device::{Bytes, GpuUuid};
use thiserror::Error;

use crate::error::Fault;
use crate::{Nvml, raw};

/// What the driver says of a cgroup on one GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    /// The most that it may have. `None`: all that is free.
    pub hard: Option<Bytes>,
    /// What is reserved for it. Not by this driver.
    pub soft: Bytes,
    /// What it has.
    pub used: Bytes,
}

/// The memory of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CardMemory {
    /// All of it (`nvmlDeviceGetMemoryInfo_v2`, `total`).
    pub total: Bytes,
    /// What the driver and the firmware have for themselves (`reserved`).
    pub reserved: Bytes,
}

/// A limit that was not set, or could not be read.
#[derive(Debug, Error)]
#[error("{call} of cgroup {} on GPU {gpu}: {reason}", cgroup.display())]
pub struct LimitError {
    /// The GPU.
    pub gpu: GpuUuid,
    /// The cgroup.
    pub cgroup: PathBuf,
    /// The NVML function that failed, or would have.
    pub call: &'static str,
    /// What that means.
    pub reason: LimitErrorReason,
    /// What NVML returned, where it was asked.
    #[source]
    pub fault: Option<Fault>,
}

/// Why a limit was not set, or could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LimitErrorReason {
    /// The library lacks the function.
    #[error("the driver takes no memory limits; R615 and later do")]
    NoSuchCall,
    /// `NVML_ERROR_NOT_SUPPORTED`.
    #[error(
        "the driver takes no limits for this GPU, as while it is cut by MIG or where RmMemacctMode is 0"
    )]
    NotSupported,
    /// `NVML_ERROR_NOT_FOUND`.
    #[error(
        "there is no such cgroup, or the controller dmem is not switched on for it (cgroup.subtree_control \
         of the one above)"
    )]
    NoSuchCgroup,
    /// `NVML_ERROR_NO_PERMISSION`.
    #[error("the permission is missing; limits are set by root")]
    NoPermission,
    /// The limit is below what the cgroup has.
    #[error(
        "{used} are in use, which is more than the limit of {wanted}; the limit can come once they are freed"
    )]
    BelowUse {
        /// What the cgroup has.
        used: Bytes,
        /// The limit.
        wanted: Bytes,
    },
    /// The driver says afterwards that another limit holds.
    #[error("the driver took the limit and does not show it")]
    NotTaken,
    /// NVML lists no such GPU, as while it is being reset.
    #[error("NVML lists no such GPU")]
    NoSuchGpu,
    /// `NVML_ERROR_GPU_IS_LOST`.
    #[error("the GPU is lost; it comes back with a reset or a reboot")]
    Lost,
    /// The path has a zero byte.
    #[error("the path is none")]
    Path,
    /// Anything else.
    #[error("NVML failed")]
    Other,
}

impl LimitErrorReason {
    fn of(code: &Code) -> Self {
        match code {
            Code::FailedToLoadSymbol(_) | Code::FunctionNotFound => Self::NoSuchCall,
            Code::NotSupported => Self::NotSupported,
            Code::NotFound => Self::NoSuchCgroup,
            Code::NoPermission => Self::NoPermission,
            Code::GpuLost => Self::Lost,
            _ => Self::Other,
        }
    }
}

const HANDLE: &str = "nvmlDeviceGetHandleByUUID";
const GET: &str = "nvmlDeviceGetMemoryLimits_v1";
const MEMORY: &str = "nvmlDeviceGetMemoryInfo_v2";
const SET: &str = "nvmlDeviceSetMemoryLimits_v1";

/// Whether the driver behind this library takes limits at all.
///
/// A library may export the calls and say that they are not there. Whether they work for a cgroup is seen when a
/// limit is set: what the getter says of one without limits is not told apart from a driver whose accounting is
/// switched off.
pub(crate) fn are_taken(library: &Library, root: &Path) -> bool {
    if !raw::has_memory_limits(library.lib()) {
        return false;
    }
    let Ok(device) = library.device_by_index(0) else {
        return true;
    };
    let Ok(root) = CString::new(root.as_os_str().as_bytes()) else {
        return false;
    };
    let asked = raw::memory_limits(library.lib(), &device, &root);
    !matches!(asked, Err(Code::FunctionNotFound))
}

impl Nvml {
    /// The memory of a GPU. `cgroup` is what a failure is told of.
    pub fn card_memory(&self, gpu: &GpuUuid, cgroup: &Path) -> Result<CardMemory, LimitError> {
        Target::find(&self.library, gpu, cgroup)?.card()
    }

    /// The limits of a cgroup on a GPU. `cgroup` is its directory, as this process sees it.
    pub fn memory_limits(&self, gpu: &GpuUuid, cgroup: &Path) -> Result<MemoryLimits, LimitError> {
        Target::find(&self.library, gpu, cgroup)?.limits()
    }

    /// Lets the processes of a cgroup have no more than `hard` of a GPU, and makes sure that the driver has taken it.
    /// `None` takes the limit away.
    ///
    /// A limit below what they have is refused by the driver, and here before it is asked.
    pub fn set_memory_limit(
        &self,
        gpu: &GpuUuid,
        cgroup: &Path,
        hard: Option<Bytes>,
    ) -> Result<(), LimitError> {
        Target::find(&self.library, gpu, cgroup)?.set(hard)
    }
}

/// The cgroup and the GPU that a call is about.
struct Target<'n> {
    library: &'n Library,
    device: Device<'n>,
    gpu: &'n GpuUuid,
    cgroup: &'n Path,
    text: CString,
}

impl<'n> Target<'n> {
    fn find(library: &'n Library, gpu: &'n GpuUuid, cgroup: &'n Path) -> Result<Self, LimitError> {
        let failed = |reason, fault: Option<Code>| LimitError {
            gpu: gpu.clone(),
            cgroup: cgroup.to_owned(),
            call: HANDLE,
            reason,
            fault: fault.map(Fault::from),
        };
        let text = CString::new(cgroup.as_os_str().as_bytes());
        let text = text.map_err(|_| failed(LimitErrorReason::Path, None))?;
        let device = library.device_by_uuid(gpu.as_str()).map_err(|code| {
            let reason = match code {
                Code::NotFound => LimitErrorReason::NoSuchGpu,
                ref code => LimitErrorReason::of(code),
            };
            failed(reason, Some(code))
        })?;
        Ok(Self {
            library,
            device,
            gpu,
            cgroup,
            text,
        })
    }

    fn limits(&self) -> Result<MemoryLimits, LimitError> {
        let asked = raw::memory_limits(self.library.lib(), &self.device, &self.text);
        let raw::Limits { soft, hard, used } =
            asked.map_err(|code| self.failed(GET, LimitErrorReason::of(&code), Some(code)))?;
        Ok(MemoryLimits {
            hard: hard.map(Bytes),
            soft: Bytes(soft),
            used: Bytes(used),
        })
    }

    fn card(&self) -> Result<CardMemory, LimitError> {
        let memory = self
            .device
            .memory_info()
            .map_err(|code| self.failed(MEMORY, LimitErrorReason::of(&code), Some(code)))?;
        Ok(CardMemory {
            total: Bytes(memory.total),
            reserved: Bytes(memory.reserved),
        })
    }

    fn set(&self, hard: Option<Bytes>) -> Result<(), LimitError> {
        if let (Some(wanted), Ok(MemoryLimits { used, .. })) = (hard, self.limits())
            && used > wanted
        {
            let reason = LimitErrorReason::BelowUse { used, wanted };
            return Err(self.failed(SET, reason, None));
        }
        let bytes = hard.map(|Bytes(hard)| hard);
        raw::set_memory_limit(self.library.lib(), &self.device, &self.text, bytes)
            .map_err(|code| self.failed(SET, LimitErrorReason::of(&code), Some(code)))?;
        // A driver may round; what may not be is that more is allowed than was meant.
        let is_kept = match (self.limits(), hard) {
            (Ok(now), Some(wanted)) => now.hard.is_some_and(|now| now <= wanted),
            (Ok(now), None) => now.hard.is_none(),
            // Without a limit there may be nothing to read.
            (Err(_), hard) => hard.is_none(),
        };
        if is_kept {
            Ok(())
        } else {
            Err(self.failed(SET, LimitErrorReason::NotTaken, None))
        }
    }

    fn failed(
        &self,
        call: &'static str,
        reason: LimitErrorReason,
        code: Option<Code>,
    ) -> LimitError {
        LimitError {
            gpu: self.gpu.clone(),
            cgroup: self.cgroup.to_owned(),
            call,
            reason,
            fault: code.map(Fault::from),
        }
    }
}
