//! Making and destroying MIG instances, as a C program does. Needs the right to make device nodes.
#![allow(unsafe_code, reason = "these tests call the C ABI as a C program does")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    ffi::{CStr, c_uint},
    path::PathBuf,
    ptr,
    sync::LazyLock,
};

use nvml_wrapper_sys::bindings::{
    NvmlLib, nvmlComputeInstance_t, nvmlComputeInstanceInfo_t, nvmlComputeInstanceProfileInfo_v2_t,
    nvmlDevice_t, nvmlGpuInstance_t, nvmlGpuInstanceInfo_t, nvmlGpuInstancePlacement_t,
    nvmlReturn_t,
};
use tempfile::TempDir;
use tessera_hw::{Artifacts, Effect, Injection, InstallError, Node, Repeat, install};

const SUCCESS: nvmlReturn_t = 0;
const INVALID_ARGUMENT: nvmlReturn_t = 2;
const NOT_SUPPORTED: nvmlReturn_t = 3;
const NOT_FOUND: nvmlReturn_t = 6;
const RESET_REQUIRED: nvmlReturn_t = 16;
const IN_USE: nvmlReturn_t = 19;
const INSUFFICIENT_RESOURCES: nvmlReturn_t = 23;

/// Numbers of an H100's profiles.
const ONE: c_uint = 19;
const THREE: c_uint = 9;
const SEVEN: c_uint = 0;

static ARTIFACTS: LazyLock<Artifacts> = LazyLock::new(|| Artifacts::build().unwrap());

struct Machine {
    directory: TempDir,
    lib: NvmlLib,
    device: nvmlDevice_t,
}

/// The third GPU of a machine, whose library is initialised.
fn machine(profile: &str) -> Machine {
    let directory = TempDir::new().unwrap();
    install(
        &directory.path().join("driver"),
        profile,
        "node-1",
        &ARTIFACTS,
    )
    .unwrap_or_else(|error| panic!("these tests need root with CAP_MKNOD: {error}: {error:?}"));
    let library = directory.path().join("driver/usr/lib64/libnvidia-ml.so.1");
    let mut device = ptr::null_mut();
    // SAFETY: the library's initialisers do nothing, and the pointer is good for the call.
    let lib = unsafe {
        let lib = NvmlLib::new(library).unwrap();
        assert_eq!(lib.nvmlInit_v2(), SUCCESS);
        let code = lib.nvmlDeviceGetHandleByIndex_v2(2, &raw mut device);
        assert_eq!(code, SUCCESS);
        lib
    };
    Machine {
        directory,
        lib,
        device,
    }
}

/// Calls an optional function of the library.
macro_rules! call {
    ($machine:expr, $function:ident($($argument:expr),*)) => {{
        let function = $machine.lib.$function.as_ref().unwrap();
        // SAFETY: pointers are null or good for the call; handles are checked by the library.
        unsafe { function($($argument),*) }
    }};
}

impl Machine {
    fn root(&self) -> PathBuf {
        self.directory.path().join("driver")
    }

    fn change<T>(&self, change: impl FnOnce(&mut Node) -> T) -> T {
        let changed = |node: &mut Node| Ok::<_, InstallError>(change(node));
        tessera_hw::install::change(&self.root(), changed).unwrap()
    }

    fn set_mode(&self, mode: c_uint) -> (nvmlReturn_t, nvmlReturn_t) {
        let mut activation = 77;
        let code = call!(
            self,
            nvmlDeviceSetMigMode(self.device, mode, &raw mut activation)
        );
        (code, activation)
    }

    fn remaining(&self, profile: c_uint) -> c_uint {
        let mut count = 0;
        let code = call!(
            self,
            nvmlDeviceGetGpuInstanceRemainingCapacity(self.device, profile, &raw mut count)
        );
        assert_eq!(code, SUCCESS);
        count
    }

    /// Makes a GPU instance wherever there is room.
    fn part(&self, profile: c_uint) -> Result<nvmlGpuInstance_t, nvmlReturn_t> {
        let mut part = ptr::null_mut();
        let code = call!(
            self,
            nvmlDeviceCreateGpuInstance(self.device, profile, &raw mut part)
        );
        if code == SUCCESS { Ok(part) } else { Err(code) }
    }

    fn compute(
        &self,
        part: nvmlGpuInstance_t,
        profile: c_uint,
    ) -> Result<nvmlComputeInstance_t, nvmlReturn_t> {
        let mut compute = ptr::null_mut();
        let code = call!(
            self,
            nvmlGpuInstanceCreateComputeInstance(part, profile, &raw mut compute)
        );
        if code == SUCCESS {
            Ok(compute)
        } else {
            Err(code)
        }
    }

    fn info(&self, part: nvmlGpuInstance_t) -> Result<nvmlGpuInstanceInfo_t, nvmlReturn_t> {
        let mut info = nvmlGpuInstanceInfo_t {
            device: ptr::null_mut(),
            id: 0,
            profileId: 0,
            placement: nvmlGpuInstancePlacement_t { start: 0, size: 0 },
        };
        let code = call!(self, nvmlGpuInstanceGetInfo(part, &raw mut info));
        if code == SUCCESS { Ok(info) } else { Err(code) }
    }
}

#[test]
fn a_mode_that_cannot_be_switched_says_so_beside_the_call_that_succeeds() {
    let h100 = machine("h100");
    assert_eq!(h100.part(ONE), Err(NOT_SUPPORTED));
    assert_eq!(h100.set_mode(2).0, INVALID_ARGUMENT);
    let null = ptr::null_mut();
    let code = call!(h100, nvmlDeviceSetMigMode(h100.device, 1, null));
    assert_eq!(code, INVALID_ARGUMENT);
    assert_eq!(h100.set_mode(1), (SUCCESS, SUCCESS));
    let part = h100.part(ONE).unwrap();
    assert_eq!(h100.set_mode(0), (SUCCESS, IN_USE));
    assert_eq!(call!(h100, nvmlGpuInstanceDestroy(part)), SUCCESS);
    assert_eq!(h100.set_mode(0), (SUCCESS, SUCCESS));
    assert_eq!(machine("a100-40g").set_mode(1), (SUCCESS, RESET_REQUIRED));
    assert_eq!(machine("t4").set_mode(1).0, NOT_SUPPORTED);
}

#[test]
fn instances_are_made_until_the_remaining_capacity_is_nothing() {
    let machine = machine("h100");
    machine.set_mode(1);
    assert_eq!((machine.remaining(ONE), machine.remaining(SEVEN)), (7, 1));
    let first = machine.part(THREE).unwrap();
    assert_eq!(machine.info(first).unwrap().placement.start, 0);
    assert_eq!((machine.remaining(ONE), machine.remaining(SEVEN)), (3, 0));
    for left in [2, 1, 0] {
        machine.part(ONE).unwrap();
        assert_eq!(machine.remaining(ONE), left);
    }
    assert_eq!(machine.part(ONE), Err(INSUFFICIENT_RESOURCES));
    assert_eq!(machine.part(1000), Err(INVALID_ARGUMENT));
    let place = |start, size| {
        let placement = nvmlGpuInstancePlacement_t { start, size };
        let mut part = ptr::null_mut();
        call!(
            machine,
            nvmlDeviceCreateGpuInstanceWithPlacement(
                machine.device,
                ONE,
                &raw const placement,
                &raw mut part
            )
        )
    };
    assert_eq!(place(0, 1), INSUFFICIENT_RESOURCES);
    // The eighth slice begins no instance, and none of this profile has two.
    assert_eq!(
        (place(7, 1), place(0, 2)),
        (INVALID_ARGUMENT, INVALID_ARGUMENT)
    );
    let mut count = 0;
    let mut parts = [ptr::null_mut(); 16];
    let code = call!(
        machine,
        nvmlDeviceGetGpuInstances(machine.device, ONE, parts.as_mut_ptr(), &raw mut count)
    );
    assert_eq!((code, count), (SUCCESS, 3));
    let id = machine.info(parts[1]).unwrap().id;
    let mut found = ptr::null_mut();
    let by_id = |id, found| {
        call!(
            machine,
            nvmlDeviceGetGpuInstanceById(machine.device, id, found)
        )
    };
    assert_eq!(by_id(id, &raw mut found), SUCCESS);
    assert_eq!(found, parts[1]);
    assert_eq!(by_id(14, &raw mut found), NOT_FOUND);
}

#[test]
fn a_gpu_instance_is_shared_by_compute_instances_and_ends_after_them() {
    let machine = machine("h100");
    machine.set_mode(1);
    let part = machine.part(THREE).unwrap();
    let mut info: nvmlComputeInstanceProfileInfo_v2_t =
        // SAFETY: the struct is made of numbers.
        unsafe { std::mem::zeroed() };
    info.version = c_uint::try_from(size_of_val(&info)).unwrap() | 2 << 24;
    let mut named = |index| {
        let code = call!(
            machine,
            nvmlGpuInstanceGetComputeInstanceProfileInfoV(part, index, 0, &raw mut info)
        );
        // SAFETY: the library has put a text with its end there, or nothing at all.
        let name = unsafe { CStr::from_ptr(info.name.as_ptr()) };
        (code, name.to_str().unwrap().to_owned(), info.instanceCount)
    };
    assert_eq!(named(0), (SUCCESS, "MIG 1c.3g.40gb".to_owned(), 3));
    assert_eq!(named(2), (SUCCESS, "MIG 3g.40gb".to_owned(), 1));
    assert_eq!((named(3).0, named(8).0), (NOT_SUPPORTED, INVALID_ARGUMENT));

    let (one, two) = (
        machine.compute(part, 0).unwrap(),
        machine.compute(part, 1).unwrap(),
    );
    assert_eq!(machine.compute(part, 0), Err(INSUFFICIENT_RESOURCES));
    let mut info: nvmlComputeInstanceInfo_t =
        // SAFETY: the struct is made of numbers and pointers that may be null.
        unsafe { std::mem::zeroed() };
    let code = call!(machine, nvmlComputeInstanceGetInfo_v2(two, &raw mut info));
    assert_eq!((code, info.id, info.profileId), (SUCCESS, 1, 1));
    assert_eq!((info.placement.start, info.placement.size), (1, 2));
    assert_eq!(info.gpuInstance, part);
    let mut count = 0;
    let null = ptr::null_mut();
    let code = call!(
        machine,
        nvmlGpuInstanceGetComputeInstances(part, 1, null, &raw mut count)
    );
    assert_eq!((code, count), (SUCCESS, 1));
    assert_eq!(call!(machine, nvmlGpuInstanceDestroy(part)), IN_USE);
    assert_eq!(call!(machine, nvmlComputeInstanceDestroy(one)), SUCCESS);
    assert_eq!(
        call!(machine, nvmlComputeInstanceDestroy(one)),
        INVALID_ARGUMENT
    );
    let mut found = ptr::null_mut();
    let code = call!(
        machine,
        nvmlGpuInstanceGetComputeInstanceById(part, 0, &raw mut found)
    );
    assert_eq!(code, NOT_FOUND);
    machine.change(|node| node.gpus[2].condition.mig.held.insert(1));
    assert_eq!(call!(machine, nvmlComputeInstanceDestroy(two)), IN_USE);
    machine.change(|node| node.gpus[2].condition.mig.held.clear());
    assert_eq!(call!(machine, nvmlComputeInstanceDestroy(two)), SUCCESS);
    assert_eq!(call!(machine, nvmlGpuInstanceDestroy(part)), SUCCESS);
    assert_eq!(machine.info(part).unwrap_err(), INVALID_ARGUMENT);
}

#[test]
fn a_call_that_is_to_fail_changes_nothing() {
    let machine = machine("h100");
    machine.set_mode(1);
    let fail = Injection::new(
        "nvmlDeviceCreateGpuInstance",
        2,
        Repeat::Times(1),
        Effect::Fail(IN_USE),
    );
    machine.change(|node| node.inject(fail));
    machine.part(ONE).unwrap();
    assert_eq!(machine.part(ONE), Err(IN_USE));
    assert_eq!(machine.remaining(ONE), 6);
    machine.part(ONE).unwrap();
    assert_eq!(machine.remaining(ONE), 5);
}
