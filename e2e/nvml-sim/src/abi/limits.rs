//! Limits of the memory that cgroups may have (`nvml.h` of CUDA 13.4, drivers from R615 on).
//!
//! A library of an older driver has no such functions. This one exports them always, and answers as if they
//! were missing where the node's driver is older.

use std::{
    ffi::{c_char, c_ulonglong},
    path::{Path, PathBuf},
};

use nvml_wrapper_sys::bindings::nvmlDevice_t;
use tessera_hw::memory::{Accounting, Limits, NewLimits};

use super::{export, text};
use crate::{
    fault::Fault,
    library::{Any, set_memory_limits, with_any, with_session},
};

/// The file that a cgroup has where the kernel's controller counts it.
const DMEM_FILE: &str = "dmem.max";

/// `nvmlSetMemoryLimits_v1_t`.
#[repr(C)]
pub(super) struct SetLimits {
    name_space: *const c_char,
    soft_limit: c_ulonglong,
    hard_limit: c_ulonglong,
}

/// `nvmlGetMemoryLimits_v1_t`.
#[repr(C)]
pub(super) struct GetLimits {
    name_space: *const c_char,
    soft_limit: c_ulonglong,
    hard_limit: c_ulonglong,
    current_used: c_ulonglong,
}

export! {
    fn nvmlDeviceSetMemoryLimits_v1(device: nvmlDevice_t, limits: Option<&mut SetLimits>) {
        let limits = limits.ok_or(Fault::InvalidArgument)?;
        let (gpu, accounting) = gpu(device)?;
        let cgroup = directory(limits.name_space)?;
        let above = match accounting {
            Accounting::Misc => Vec::new(),
            Accounting::Dmem if has_dmem(&cgroup) => {
                let above = cgroup.ancestors().skip(1).take_while(|above| has_dmem(above));
                above.map(name).collect()
            }
            Accounting::Dmem => return Err(Fault::NotFound),
        };
        set_memory_limits(gpu, NewLimits {
            cgroup: name(&cgroup),
            above,
            soft: limits.soft_limit,
            hard: limits.hard_limit,
        })
    }
    fn nvmlDeviceGetMemoryLimits_v1(device: nvmlDevice_t, limits: Option<&mut GetLimits>) {
        let limits = limits.ok_or(Fault::InvalidArgument)?;
        let (_, accounting) = gpu(device)?;
        let asked = directory(limits.name_space)?;
        let cgroup = match accounting {
            Accounting::Misc => asked.as_path(),
            // One without the controller's files shows what holds above it.
            Accounting::Dmem => asked.ancestors().find(|own| has_dmem(own)).ok_or(Fault::NotFound)?,
        };
        let Limits { soft, hard, used } = with_any(device, |any| match any {
            Any::Gpu(device) => Ok(device.gpu.memory_limits(&name(cgroup))),
            Any::Mig(..) => Err(Fault::NotSupported),
        })?;
        (limits.soft_limit, limits.hard_limit, limits.current_used) = (soft, hard, used);
        Ok(())
    }
}

/// The UUID of a GPU that takes limits, and who counts on its node.
fn gpu(device: nvmlDevice_t) -> Result<(String, Accounting), Fault> {
    let accounting = with_session(|session| {
        let node = session.node();
        let takes = node.takes_memory_limits();
        takes
            .then_some(node.memory_accounting)
            .ok_or(Fault::FunctionNotFound)
    })?;
    let uuid = with_any(device, |any| match any {
        Any::Gpu(device) if device.gpu.condition.mig.enabled => Err(Fault::NotSupported),
        Any::Gpu(device) => Ok(device.gpu.facts.uuid.clone()),
        Any::Mig(..) => Err(Fault::NotSupported),
    })?;
    Ok((uuid, accounting))
}

/// The directory of a cgroup. That it lies on a file system of cgroups is not looked at; that one which is
/// missing is `NVML_ERROR_NOT_FOUND` is assumed.
fn directory(name_space: *const c_char) -> Result<PathBuf, Fault> {
    let path = Path::new(text(name_space)?);
    if !path.is_absolute() {
        return Err(Fault::InvalidArgument);
    }
    if path.is_dir() {
        Ok(path.to_owned())
    } else {
        Err(Fault::NotFound)
    }
}

fn has_dmem(cgroup: &Path) -> bool {
    cgroup.join(DMEM_FILE).exists()
}

fn name(cgroup: &Path) -> String {
    cgroup.to_string_lossy().trim_end_matches('/').to_owned()
}
