//! NVML calls that `nvml-wrapper` does not have: one function each, owned values out.

#![allow(
    unsafe_code,
    reason = "calls into NVML's C interface; no other module of the product needs unsafe"
)]

mod fabric;

use nvml_wrapper::Device;
use nvml_wrapper::error::{NvmlError as Code, nvml_sym, nvml_try};
use nvml_wrapper_sys::bindings::{NvmlLib, nvmlDeviceAddressingMode_t};

pub(crate) use fabric::{FabricInfo, fabric_info};

/// `nvmlDeviceGetAddressingMode`: the number of the mode. Drivers before R535 lack the function.
pub(crate) fn addressing_mode(library: &NvmlLib, device: &Device<'_>) -> Result<u32, Code> {
    let call = nvml_sym(library.nvmlDeviceGetAddressingMode.as_ref())?;
    let mut mode = nvmlDeviceAddressingMode_t {
        version: struct_version::<nvmlDeviceAddressingMode_t>(1),
        value: 0,
    };
    // SAFETY: the handle comes from the same initialized library and `device` keeps that alive;
    // `mode` is a live, writable struct of the version that its first field declares.
    nvml_try(unsafe { call(device.handle(), &raw mut mode) })?;
    Ok(mode.value)
}

/// NVML's `NVML_STRUCT_VERSION`: the size of a struct, and its version in the top byte.
const fn struct_version<T>(version: u32) -> u32 {
    let size = size_of::<T>();
    assert!(size < 1 << 24, "the size has three bytes");
    #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
    let size = size as u32;
    size | version << 24
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_struct_version_has_the_version_above_the_size() {
        assert_eq!(struct_version::<nvmlDeviceAddressingMode_t>(1), 0x0100_0008);
    }
}
