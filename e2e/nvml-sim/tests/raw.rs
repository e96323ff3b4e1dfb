//! The C ABI itself: what callers get who hold it wrongly.
#![allow(unsafe_code, reason = "these tests call the C ABI as a C program does")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    ffi::{CStr, c_char, c_uint},
    ptr,
    sync::LazyLock,
};

use nvml_wrapper_sys::bindings::{
    NvmlLib, nvmlDevice_t, nvmlDeviceAddressingMode_t, nvmlMemory_t, nvmlMemory_v2_t, nvmlReturn_t,
};
use tempfile::TempDir;
use tessera_hw::{Artifacts, install};

const SUCCESS: nvmlReturn_t = 0;
const UNINITIALIZED: nvmlReturn_t = 1;
const INVALID_ARGUMENT: nvmlReturn_t = 2;
const INSUFFICIENT_SIZE: nvmlReturn_t = 7;
const FUNCTION_NOT_FOUND: nvmlReturn_t = 13;
const VERSION_MISMATCH: nvmlReturn_t = 25;

static ARTIFACTS: LazyLock<Artifacts> = LazyLock::new(|| Artifacts::build().unwrap());

struct Machine {
    _directory: TempDir,
    lib: NvmlLib,
}

/// Loads the library; nothing is initialised yet.
fn machine(profile: &str) -> Machine {
    let directory = TempDir::new().unwrap();
    install(directory.path(), profile, "node-1", &ARTIFACTS)
        .unwrap_or_else(|error| panic!("these tests need root with CAP_MKNOD: {error}: {error:?}"));
    let library = directory.path().join("usr/lib64/libnvidia-ml.so.1");
    // SAFETY: the library's initialisers do nothing.
    let lib = unsafe { NvmlLib::new(library) }.unwrap();
    Machine {
        _directory: directory,
        lib,
    }
}

impl Machine {
    fn init(&self) {
        // SAFETY: the call takes nothing.
        assert_eq!(unsafe { self.lib.nvmlInit_v2() }, SUCCESS);
    }

    fn shutdown(&self) -> nvmlReturn_t {
        // SAFETY: the call takes nothing.
        unsafe { self.lib.nvmlShutdown() }
    }

    fn count(&self) -> nvmlReturn_t {
        let mut count = 0;
        // SAFETY: the pointer is good for the call.
        unsafe { self.lib.nvmlDeviceGetCount_v2(&raw mut count) }
    }

    fn device(&self) -> nvmlDevice_t {
        let mut device = ptr::null_mut();
        // SAFETY: the pointer is good for the call.
        let code = unsafe { self.lib.nvmlDeviceGetHandleByIndex_v2(0, &raw mut device) };
        assert_eq!(code, SUCCESS);
        device
    }

    fn name(&self, device: nvmlDevice_t, buffer: &mut [c_char]) -> nvmlReturn_t {
        let length = c_uint::try_from(buffer.len()).unwrap();
        // SAFETY: the buffer has the length that goes with it.
        unsafe {
            self.lib
                .nvmlDeviceGetName(device, buffer.as_mut_ptr(), length)
        }
    }
}

/// `NVML_STRUCT_VERSION` of `nvml.h`: the size of the structure, and the version above it.
fn version(size: c_uint, version: c_uint) -> c_uint {
    size | version << 24
}

#[test]
fn nothing_works_before_the_first_initialisation_and_after_the_last_shutdown() {
    let machine = machine("h100");
    assert_eq!(
        (machine.count(), machine.shutdown()),
        (UNINITIALIZED, UNINITIALIZED)
    );
    machine.init();
    machine.init();
    let device = machine.device();
    assert_eq!(machine.shutdown(), SUCCESS);
    assert_eq!(machine.count(), SUCCESS, "one user is left");
    assert_eq!(machine.shutdown(), SUCCESS);
    assert_eq!(machine.name(device, &mut [0; 96]), UNINITIALIZED);
    assert_eq!(machine.shutdown(), UNINITIALIZED);
}

#[test]
fn a_handle_is_the_same_every_time_and_others_are_refused() {
    let machine = machine("h100");
    machine.init();
    let device = machine.device();
    assert_eq!(device, machine.device());
    for wrong in [
        ptr::null_mut(),
        ptr::without_provenance_mut(0x1000),
        device.wrapping_byte_add(8),
    ] {
        assert_eq!(
            machine.name(wrong, &mut [0; 96]),
            INVALID_ARGUMENT,
            "{wrong:?}"
        );
    }
}

#[test]
fn a_text_needs_room_for_its_terminating_zero() {
    let machine = machine("h100");
    machine.init();
    let device = machine.device();
    let needed = "NVIDIA H100 80GB HBM3".len() + 1;
    let mut buffer = [1; 96];
    assert_eq!(machine.name(device, &mut buffer[..0]), INSUFFICIENT_SIZE);
    assert_eq!(
        machine.name(device, &mut buffer[..needed - 1]),
        INSUFFICIENT_SIZE
    );
    assert_eq!(buffer, [1; 96], "a failed call writes nothing");
    assert_eq!(machine.name(device, &mut buffer[..needed]), SUCCESS);
    assert_eq!((buffer[needed - 1], buffer[needed]), (0, 1));
    // SAFETY: the call above has put a zero there.
    let name = unsafe { CStr::from_ptr(buffer.as_ptr()) };
    assert_eq!(name.to_str().unwrap(), "NVIDIA H100 80GB HBM3");
}

#[test]
fn null_pointers_are_refused() {
    let machine = machine("h100");
    machine.init();
    let (lib, device) = (&machine.lib, machine.device());
    let mut other: nvmlDevice_t = ptr::null_mut();
    // SAFETY: the library promises to refuse null pointers; all others are good for the call.
    let codes = unsafe {
        [
            lib.nvmlDeviceGetCount_v2(ptr::null_mut()),
            lib.nvmlDeviceGetHandleByIndex_v2(0, ptr::null_mut()),
            lib.nvmlDeviceGetHandleByUUID(ptr::null(), &raw mut other),
            lib.nvmlDeviceGetName(device, ptr::null_mut(), 96),
            lib.nvmlDeviceGetMemoryInfo(device, ptr::null_mut()),
            lib.nvmlDeviceGetMemoryInfo_v2(device, ptr::null_mut()),
            lib.nvmlDeviceGetPciInfo_v3(device, ptr::null_mut()),
            lib.nvmlEventSetCreate(ptr::null_mut()),
            lib.nvmlEventSetFree(ptr::null_mut()),
        ]
    };
    assert_eq!(codes, [INVALID_ARGUMENT; 9]);
}

#[test]
fn a_structure_of_another_version_is_refused() {
    let machine = machine("h100");
    machine.init();
    let device = machine.device();
    let ask = |version: c_uint| {
        let mut memory = nvmlMemory_v2_t {
            version,
            total: 0,
            reserved: 0,
            free: 0,
            used: 0,
        };
        // SAFETY: the pointer is good for the call.
        unsafe {
            machine
                .lib
                .nvmlDeviceGetMemoryInfo_v2(device, &raw mut memory)
        }
    };
    assert_eq!(ask(version(40, 2)), SUCCESS);
    for wrong in [0, 40, version(40, 1), version(40, 3), version(48, 2)] {
        assert_eq!(ask(wrong), VERSION_MISMATCH, "{wrong:#x}");
    }
}

#[test]
fn the_first_memory_structure_counts_reserved_memory_as_used() {
    let machine = machine("h100");
    machine.init();
    let mut memory = nvmlMemory_t {
        total: 0,
        free: 0,
        used: 0,
    };
    // SAFETY: the pointer is good for the call.
    let code = unsafe {
        machine
            .lib
            .nvmlDeviceGetMemoryInfo(machine.device(), &raw mut memory)
    };
    assert_eq!((code, memory.used > 0), (SUCCESS, true));
    assert_eq!(memory.total, memory.free + memory.used);
}

#[track_caller]
fn check_addressing_mode(profile: &str, expected: (nvmlReturn_t, c_uint)) {
    let machine = machine(profile);
    machine.init();
    let mut mode = nvmlDeviceAddressingMode_t {
        version: version(8, 1),
        value: 77,
    };
    // SAFETY: the pointer is good for the call.
    let code = unsafe {
        machine
            .lib
            .nvmlDeviceGetAddressingMode(machine.device(), &raw mut mode)
    };
    assert_eq!((code, mode.value), expected, "{profile}");
}

#[test]
fn the_addressing_mode_is_told_where_the_driver_knows_it() {
    check_addressing_mode("h100", (SUCCESS, 0));
    check_addressing_mode("h200", (SUCCESS, 1));
    check_addressing_mode("gb200", (SUCCESS, 2));
    check_addressing_mode("t4", (FUNCTION_NOT_FOUND, 77));
}

#[test]
fn every_code_has_a_text_and_so_have_codes_that_do_not_exist() {
    let machine = machine("h100");
    let text = |code| {
        // SAFETY: the library promises a static C string for every code.
        unsafe { CStr::from_ptr(machine.lib.nvmlErrorString(code)) }
            .to_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(text(SUCCESS), "Success");
    assert_eq!(text(15), "GPU is lost");
    assert_eq!(
        (text(999), text(12345)),
        ("Unknown Error".to_owned(), "Unknown Error".to_owned())
    );
}

#[test]
fn a_gpu_says_that_no_hypervisor_is_between() {
    let machine = machine("h100");
    machine.init();
    let mut mode = c_uint::MAX;
    // SAFETY: the pointer is good for the call.
    let code = unsafe {
        machine
            .lib
            .nvmlDeviceGetVirtualizationMode(machine.device(), &raw mut mode)
    };
    assert_eq!(
        (code, mode),
        (SUCCESS, 0),
        "NVML_GPU_VIRTUALIZATION_MODE_NONE"
    );
}
