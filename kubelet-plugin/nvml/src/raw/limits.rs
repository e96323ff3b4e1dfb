//! Memory limits of cgroups: two calls that drivers have from R615 on, and the bindings not yet.
//!
//! Structures and names are those of `nvml.h` of CUDA 13.4.

use std::ffi::{CStr, c_char, c_ulonglong};

use nvml_wrapper::Device;
use nvml_wrapper::error::{NvmlError as Code, nvml_try};
use nvml_wrapper_sys::bindings::{NvmlLib, nvmlDevice_t, nvmlReturn_t};

/// A hard limit that is none (`NVML_DEVICE_MEMORY_LIMIT_MAX`).
const UNLIMITED: c_ulonglong = c_ulonglong::MAX;

const SET: &str = "nvmlDeviceSetMemoryLimits_v1";
const GET: &str = "nvmlDeviceGetMemoryLimits_v1";

/// `nvmlSetMemoryLimits_v1_t`.
#[repr(C)]
struct NewLimits {
    name_space: *const c_char,
    soft_limit: c_ulonglong,
    hard_limit: c_ulonglong,
}

/// `nvmlGetMemoryLimits_v1_t`.
#[repr(C)]
struct PresentLimits {
    name_space: *const c_char,
    soft_limit: c_ulonglong,
    hard_limit: c_ulonglong,
    current_used: c_ulonglong,
}

type SetCall = unsafe extern "C" fn(nvmlDevice_t, *mut NewLimits) -> nvmlReturn_t;
type GetCall = unsafe extern "C" fn(nvmlDevice_t, *mut PresentLimits) -> nvmlReturn_t;

/// What the driver says of a cgroup.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes that are reserved for it.
    pub(crate) soft: u64,
    /// The most bytes that it may have. `None`: any.
    pub(crate) hard: Option<u64>,
    /// Bytes that it has.
    pub(crate) used: u64,
}

/// `nvmlDeviceGetMemoryLimits_v1`.
pub(crate) fn memory_limits(
    library: &NvmlLib,
    device: &Device<'_>,
    cgroup: &CStr,
) -> Result<Limits, Code> {
    let call: GetCall = symbol(library, GET)?;
    let mut limits = PresentLimits {
        name_space: cgroup.as_ptr(),
        soft_limit: 0,
        hard_limit: 0,
        current_used: 0,
    };
    // SAFETY: the handle comes from the same initialized library and `device` keeps that alive; `limits` is a live,
    // writable struct of the call's type, whose text outlives the call.
    nvml_try(unsafe { call(device.handle(), &raw mut limits) })?;
    Ok(Limits {
        soft: limits.soft_limit,
        hard: (limits.hard_limit != UNLIMITED).then_some(limits.hard_limit),
        used: limits.current_used,
    })
}

/// `nvmlDeviceSetMemoryLimits_v1`, with nothing reserved.
pub(crate) fn set_memory_limit(
    library: &NvmlLib,
    device: &Device<'_>,
    cgroup: &CStr,
    hard: Option<u64>,
) -> Result<(), Code> {
    let call: SetCall = symbol(library, SET)?;
    let mut limits = NewLimits {
        name_space: cgroup.as_ptr(),
        soft_limit: 0,
        hard_limit: hard.unwrap_or(UNLIMITED),
    };
    // SAFETY: as above.
    nvml_try(unsafe { call(device.handle(), &raw mut limits) })
}

/// Whether the library has both calls.
pub(crate) fn has_memory_limits(library: &NvmlLib) -> bool {
    symbol::<SetCall>(library, SET).is_ok() && symbol::<GetCall>(library, GET).is_ok()
}

fn symbol<T: Copy>(library: &NvmlLib, name: &str) -> Result<T, Code> {
    // SAFETY: `T` is the type that `nvml.h` gives the function of this name, at both callers.
    let found = unsafe { library.__library.get::<T>(name.as_bytes()) };
    found
        .map(|found| *found)
        .map_err(|missing| Code::FailedToLoadSymbol(missing.to_string()))
}
