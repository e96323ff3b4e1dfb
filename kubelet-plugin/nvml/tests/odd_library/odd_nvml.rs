//! A library with NVML's names that answers oddly. Each GPU of it is odd in one way.
//!
//! It is no crate of the workspace: the test compiles it with rustc alone.

use std::ffi::{c_char, c_int, c_uint};

type Return = c_uint;
type Device = usize;

const SUCCESS: Return = 0;
const UNKNOWN: Return = 999;

/// Handles are indices plus one.
const PLAIN: Device = 1;
const UUID_IS_NO_TEXT: Device = 2;
const UUID_IS_NO_UUID: Device = 3;
const NEWER_THAN_THE_BINDINGS: Device = 4;
const NEGATIVE_CAPABILITY: Device = 5;
const NO_HANDLE: Device = 6;
const ADDRESSING_MODE_FAILS: Device = 7;
const COUNT: c_uint = 7;

unsafe fn text(buffer: *mut c_char, capacity: c_uint, bytes: &[u8]) -> Return {
    assert!(bytes.len() < capacity as usize);
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), buffer, bytes.len());
        buffer.add(bytes.len()).write(0);
    }
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn nvmlInitWithFlags(_: c_uint) -> Return {
    SUCCESS
}

#[cfg(not(without_shutdown))]
#[unsafe(no_mangle)]
extern "C" fn nvmlShutdown() -> Return {
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlSystemGetDriverVersion(buffer: *mut c_char, capacity: c_uint) -> Return {
    let version: &[u8] = if cfg!(driver_version_is_no_text) {
        b"580.\xff"
    } else {
        b"580.95.05"
    };
    unsafe { text(buffer, capacity, version) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) -> Return {
    unsafe { version.write(13000) };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> Return {
    unsafe { count.write(COUNT) };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut Device) -> Return {
    let handle = index as usize + 1;
    if handle == NO_HANDLE {
        // A code that no version of NVML has given out.
        return 4711;
    }
    unsafe { device.write(handle) };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetUUID(
    device: Device,
    buffer: *mut c_char,
    capacity: c_uint,
) -> Return {
    let plain = format!("GPU-0000000{device}-0000-0000-0000-000000000000");
    let uuid = match device {
        UUID_IS_NO_TEXT => b"GPU-\xff\xfe",
        UUID_IS_NO_UUID => &b"GPU-12"[..],
        _ => plain.as_bytes(),
    };
    unsafe { text(buffer, capacity, uuid) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMinorNumber(device: Device, minor: *mut c_uint) -> Return {
    unsafe { minor.write(device as c_uint - 1) };
    SUCCESS
}

/// `nvmlPciInfo_t`.
#[repr(C)]
struct PciInfo {
    bus_id_legacy: [c_char; 16],
    numbers: [c_uint; 5],
    bus_id: [c_char; 32],
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(device: Device, info: *mut PciInfo) -> Return {
    let address = format!("00000000:0{device}:00.0");
    unsafe { text((*info).bus_id.as_mut_ptr(), 32, address.as_bytes()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetName(_: Device, buffer: *mut c_char, capacity: c_uint) -> Return {
    unsafe { text(buffer, capacity, b"NVIDIA Odd") }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetBrand(device: Device, brand: *mut c_uint) -> Return {
    let newer = device == NEWER_THAN_THE_BINDINGS;
    unsafe { brand.write(if newer { 99 } else { 14 }) };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetArchitecture(
    device: Device,
    architecture: *mut c_uint,
) -> Return {
    let newer = device == NEWER_THAN_THE_BINDINGS;
    unsafe { architecture.write(if newer { 99 } else { 9 }) };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetCudaComputeCapability(
    device: Device,
    major: *mut c_int,
    minor: *mut c_int,
) -> Return {
    let negative = device == NEGATIVE_CAPABILITY;
    unsafe {
        major.write(if negative { -9 } else { 9 });
        minor.write(0);
    }
    SUCCESS
}

/// `nvmlMemory_v2_t`.
#[repr(C)]
struct Memory {
    version: c_uint,
    total: u64,
    reserved: u64,
    free: u64,
    used: u64,
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(_: Device, memory: *mut Memory) -> Return {
    unsafe { (*memory).total = u64::MAX };
    SUCCESS
}

#[cfg(not(without_addressing_mode))]
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetAddressingMode(device: Device, mode: *mut [c_uint; 2]) -> Return {
    match device {
        ADDRESSING_MODE_FAILS => return UNKNOWN,
        PLAIN => unsafe { (*mode)[1] = 2 },
        NEWER_THAN_THE_BINDINGS => unsafe { (*mode)[1] = 99 },
        _ => unsafe { (*mode)[1] = 0 },
    }
    SUCCESS
}
