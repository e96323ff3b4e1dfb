//! The library as a program sees it that uses it through safe bindings.
//!
//! Each test installs a driver root of its own and loads the library from there, so the tests do
//! not share GPUs. Needs the right to make device nodes.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    fs,
    path::PathBuf,
    sync::{LazyLock, mpsc},
    thread,
    time::Duration,
};

use nvml_wrapper::{
    Nvml,
    bitmasks::{InitFlags, event::EventTypes},
    enum_wrappers::device::{Brand, TemperatureSensor},
    enums::device::DeviceArchitecture,
    error::NvmlError,
};
use tempfile::TempDir;
use tessera_hw::{
    Artifacts, Effect, Injection, Node, Repeat, Replaced, StateFile, install, state::Presence,
    upgrade,
};

static ARTIFACTS: LazyLock<Artifacts> = LazyLock::new(|| Artifacts::build().unwrap());

/// What a call may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

struct Machine {
    _directory: TempDir,
    root: PathBuf,
    state: StateFile,
}

fn machine(profile: &str) -> Machine {
    let directory = TempDir::new().unwrap();
    let root = directory.path().join("driver");
    let installed = install(&root, profile, "node-1", &ARTIFACTS)
        .unwrap_or_else(|error| panic!("these tests need root with CAP_MKNOD: {error}: {error:?}"));
    Machine {
        _directory: directory,
        root,
        state: installed.state,
    }
}

impl Machine {
    fn open(&self, flags: InitFlags) -> Result<Nvml, NvmlError> {
        // By its real path: the loader takes a path that it has open already for the same library,
        // even if a link leads elsewhere by now.
        let library = fs::canonicalize(self.root.join("usr/lib64/libnvidia-ml.so.1")).unwrap();
        Nvml::builder()
            .lib_path(library.as_os_str())
            .flags(flags)
            .init()
    }

    fn nvml(&self) -> Nvml {
        self.open(InitFlags::empty()).unwrap()
    }

    fn node(&self) -> Node {
        self.state.read().unwrap().1
    }

    fn inject(&self, function: &str, at: u64, repeat: Repeat, effect: Effect) {
        let injection = Injection::new(function, at, repeat, effect);
        self.state.update(|node| node.inject(injection)).unwrap();
    }

    fn set_presence(&self, gpu: usize, presence: Presence) {
        self.state
            .update(|node| node.gpus[gpu].condition.presence = presence)
            .unwrap();
    }
}

#[test]
fn an_h100_reports_what_a_real_one_does() {
    let machine = machine("h100");
    let nvml = machine.nvml();
    assert_eq!(nvml.sys_driver_version().unwrap(), "580.95.05");
    assert_eq!(nvml.sys_nvml_version().unwrap(), "13.580.95.05");
    assert_eq!(nvml.sys_cuda_driver_version().unwrap(), 13000);
    assert_eq!(nvml.device_count().unwrap(), 8);

    let gpu = nvml.device_by_index(0).unwrap();
    assert_eq!(gpu.name().unwrap(), "NVIDIA H100 80GB HBM3");
    assert_eq!(gpu.brand().unwrap(), Brand::Nvidia);
    assert_eq!(gpu.architecture().unwrap(), DeviceArchitecture::Hopper);
    let capability = gpu.cuda_compute_capability().unwrap();
    assert_eq!((capability.major, capability.minor), (9, 0));
    let memory = gpu.memory_info().unwrap();
    assert_eq!(memory.total, 85_520_809_984);
    assert_eq!(memory.total, memory.free + memory.used + memory.reserved);
    let pci = gpu.pci_info().unwrap();
    assert_eq!(
        (pci.bus_id.as_str(), pci.domain, pci.bus),
        ("00000000:18:00.0", 0, 0x18)
    );
    assert_eq!(
        (pci.pci_device_id, pci.pci_sub_system_id),
        (0x2330_10de, Some(0x16c1_10de))
    );
    assert_eq!(gpu.enforced_power_limit().unwrap(), 700_000);
    assert!(gpu.is_ecc_enabled().unwrap().currently_enabled);
    assert!(gpu.running_compute_processes().unwrap().is_empty());
    let mode = gpu.mig_mode().unwrap();
    assert_eq!((mode.current, mode.pending), (0, 0));
    assert!(matches!(gpu.numa_node_id(), Err(NvmlError::NotSupported)));
}

#[test]
fn every_fact_of_the_state_comes_through_for_every_profile() {
    for profile in tessera_hw::profile::names() {
        let machine = machine(profile);
        let nvml = machine.nvml();
        let node = machine.node();
        assert_eq!(nvml.device_count().unwrap() as usize, node.gpus.len());
        for (index, gpu) in (0..).zip(&node.gpus) {
            let device = nvml.device_by_index(index).unwrap();
            let facts = &gpu.facts;
            assert_eq!(device.index().unwrap(), index);
            assert_eq!(device.minor_number().unwrap(), facts.minor);
            assert_eq!(device.uuid().unwrap(), facts.uuid);
            assert_eq!(device.serial().unwrap(), facts.serial);
            assert_eq!(device.vbios_version().unwrap(), facts.vbios);
            assert_eq!(device.board_part_number().unwrap(), facts.board_part_number);
            assert_eq!(device.numa_node_id().ok(), facts.memory_numa_node);
            assert_eq!(
                nvml.device_by_uuid(facts.uuid.as_str())
                    .unwrap()
                    .index()
                    .unwrap(),
                index
            );
            for address in [facts.pci.to_string(), facts.pci.nvml()] {
                assert_eq!(
                    nvml.device_by_pci_bus_id(address).unwrap().index().unwrap(),
                    index
                );
            }
        }
    }
}

#[test]
fn a_t4_has_no_mig_and_an_older_driver() {
    let machine = machine("t4");
    let nvml = machine.nvml();
    assert_eq!(nvml.sys_driver_version().unwrap(), "535.183.01");
    let gpu = nvml.device_by_index(0).unwrap();
    assert_eq!(gpu.architecture().unwrap(), DeviceArchitecture::Turing);
    assert!(matches!(gpu.mig_mode(), Err(NvmlError::NotSupported)));
}

#[test]
fn only_gpus_with_a_device_node_exist_and_they_are_numbered_anew() {
    let machine = machine("h100");
    let uuid = |gpu: usize| machine.node().gpus[gpu].facts.uuid.clone();
    fs::remove_file(machine.root.join("dev/nvidia0")).unwrap();
    // An ordinary file is no device.
    fs::remove_file(machine.root.join("dev/nvidia5")).unwrap();
    fs::write(machine.root.join("dev/nvidia5"), "").unwrap();

    let nvml = machine.nvml();
    assert_eq!(nvml.device_count().unwrap(), 6);
    let minors = (0..6).map(|index| nvml.device_by_index(index).unwrap().minor_number().unwrap());
    assert_eq!(minors.collect::<Vec<_>>(), [1, 2, 3, 4, 6, 7]);
    assert!(matches!(
        nvml.device_by_uuid(uuid(0)),
        Err(NvmlError::NotFound)
    ));
    assert!(matches!(
        nvml.device_by_index(6),
        Err(NvmlError::InvalidArg)
    ));
}

#[test]
fn without_any_gpu_only_a_caller_who_allows_for_it_gets_in() {
    let machine = machine("t4");
    for minor in 0..4 {
        fs::remove_file(machine.root.join(format!("dev/nvidia{minor}"))).unwrap();
    }
    assert!(matches!(
        machine.open(InitFlags::empty()),
        Err(NvmlError::NotFound)
    ));
    assert_eq!(
        machine
            .open(InitFlags::NO_GPUS)
            .unwrap()
            .device_count()
            .unwrap(),
        0
    );
}

#[test]
fn without_the_control_device_or_the_state_there_is_no_driver() {
    let machine = machine("t4");
    fs::remove_file(machine.root.join("dev/nvidiactl")).unwrap();
    assert!(matches!(
        machine.open(InitFlags::empty()),
        Err(NvmlError::DriverNotLoaded)
    ));
    let alone = Nvml::builder().lib_path(ARTIFACTS.nvml.as_os_str()).init();
    assert!(matches!(alone, Err(NvmlError::DriverNotLoaded)));
}

#[test]
fn a_lost_gpu_answers_nothing_and_the_others_go_on() {
    let machine = machine("h100");
    let nvml = machine.nvml();
    let (lost, well) = (
        nvml.device_by_index(3).unwrap(),
        nvml.device_by_index(4).unwrap(),
    );
    machine.set_presence(3, Presence::Lost);
    assert!(matches!(lost.name(), Err(NvmlError::GpuLost)));
    assert!(matches!(lost.memory_info(), Err(NvmlError::GpuLost)));
    assert!(matches!(nvml.device_by_index(3), Err(NvmlError::GpuLost)));
    let uuid = machine.node().gpus[3].facts.uuid.clone();
    assert!(matches!(nvml.device_by_uuid(uuid), Err(NvmlError::GpuLost)));
    assert_eq!(well.minor_number().unwrap(), 4);
    assert_eq!(nvml.device_count().unwrap(), 8);

    machine.set_presence(3, Presence::Present);
    assert_eq!(lost.minor_number().unwrap(), 3);
}

#[test]
fn a_gpu_that_is_being_reset_is_not_listed_and_is_back_afterwards() {
    let machine = machine("h100");
    let nvml = machine.nvml();
    let gpu = nvml.device_by_index(3).unwrap();
    machine.set_presence(3, Presence::Resetting);
    assert!(matches!(gpu.name(), Err(NvmlError::GpuLost)));
    drop(nvml);
    let during = machine.nvml();
    assert_eq!(during.device_count().unwrap(), 7);
    let minors = |nvml: &Nvml| -> Vec<u32> {
        let gpus = (0..nvml.device_count().unwrap()).map(|index| nvml.device_by_index(index));
        gpus.map(|gpu| gpu.unwrap().minor_number().unwrap())
            .collect()
    };
    assert_eq!(minors(&during), [0, 1, 2, 4, 5, 6, 7]);
    drop(during);
    machine.set_presence(3, Presence::Present);
    assert_eq!(minors(&machine.nvml()), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn a_library_of_another_version_than_the_kernels_driver_refuses_to_work() {
    let machine = machine("h100");
    let open = machine.nvml();
    let new = "590.48.01";
    upgrade(&machine.root, new, Replaced::Files).unwrap();
    // The old library still fits the modules; the new one does not yet.
    assert_eq!(open.device_count().unwrap(), 8);
    assert!(matches!(
        machine.open(InitFlags::empty()),
        Err(NvmlError::LibRmVersionMismatch)
    ));
    upgrade(&machine.root, new, Replaced::Everything).unwrap();
    assert_eq!(machine.nvml().sys_driver_version().unwrap(), new);
}

#[test]
fn a_library_that_is_open_while_the_driver_is_replaced_says_that_it_no_longer_fits() {
    let machine = machine("h100");
    let open = machine.nvml();
    upgrade(&machine.root, "590.48.01", Replaced::Everything).unwrap();
    assert!(matches!(
        open.device_count(),
        Err(NvmlError::LibRmVersionMismatch)
    ));
    assert_eq!(machine.nvml().device_count().unwrap(), 8);
}

#[test]
fn changes_of_the_state_show_in_the_next_call() {
    let machine = machine("h100");
    let nvml = machine.nvml();
    let gpu = nvml.device_by_index(1).unwrap();
    assert_eq!(gpu.temperature(TemperatureSensor::Gpu).unwrap(), 30);
    let before = gpu.memory_info().unwrap();
    let change = |node: &mut Node| {
        node.gpus[1].condition.temperature = 91;
        node.gpus[1].condition.memory_used_mib = 1024;
        node.gpus[1].condition.gpu_utilization = 77;
    };
    machine.state.update(change).unwrap();
    assert_eq!(gpu.temperature(TemperatureSensor::Gpu).unwrap(), 91);
    assert_eq!(gpu.utilization_rates().unwrap().gpu, 77);
    let after = gpu.memory_info().unwrap();
    assert_eq!(after.used - before.used, 1 << 30);
    assert_eq!(before.free - after.free, 1 << 30);
}

#[test]
fn an_injected_failure_hits_the_call_it_names_and_no_other() {
    let machine = machine("h100");
    let nvml = machine.nvml();
    let gpu = nvml.device_by_index(0).unwrap();
    machine.inject("nvmlDeviceGetName", 2, Repeat::Times(1), Effect::Fail(999));
    assert!(gpu.name().is_ok());
    assert!(gpu.uuid().is_ok());
    assert!(matches!(gpu.name(), Err(NvmlError::Unknown)));
    assert!(gpu.name().is_ok());
    assert_eq!(machine.node().injections, []);
}

#[test]
fn an_injection_counts_the_calls_of_all_processes_together() {
    let machine = machine("h100");
    // Two copies of the library know nothing of each other, like two processes.
    let nvml = machine.nvml();
    let library = machine.root.join("usr/lib64/libnvidia-ml.so.580.95.05");
    let copy = machine.root.join("usr/lib64/copy.so");
    fs::copy(library, &copy).unwrap();
    let other = Nvml::builder().lib_path(copy.as_os_str()).init().unwrap();
    machine.inject(
        "nvmlDeviceGetCount_v2",
        2,
        Repeat::Times(1),
        Effect::Fail(3),
    );
    assert!(nvml.device_count().is_ok());
    assert!(matches!(other.device_count(), Err(NvmlError::NotSupported)));
    assert!(nvml.device_count().is_ok());
}

#[test]
fn even_initialising_can_be_made_to_fail_until_it_is_allowed_again() {
    let machine = machine("h100");
    machine.inject("nvmlInit", 1, Repeat::Always, Effect::Fail(9));
    for _ in 0..2 {
        assert!(matches!(
            machine.open(InitFlags::empty()),
            Err(NvmlError::DriverNotLoaded)
        ));
    }
    machine.state.update(Node::reset).unwrap();
    assert_eq!(machine.nvml().device_count().unwrap(), 8);
}

#[test]
fn a_delayed_call_succeeds_and_uses_the_injection_up() {
    let machine = machine("h100");
    let nvml = machine.nvml();
    machine.inject("nvmlDeviceGetCount", 1, Repeat::Times(1), Effect::Delay(1));
    assert_eq!(nvml.device_count().unwrap(), 8);
    assert_eq!(machine.node().injections, []);
}

#[test]
fn a_process_goes_on_counting_when_it_loads_the_library_again() {
    let machine = machine("t4");
    let program = std::env::current_exe().unwrap();
    let program = program.file_name().unwrap().to_str().unwrap();
    // Each load makes three calls before it is closed: the first and the last are to initialise
    // and to shut down, and the bindings ask for the driver's version between them.
    let seventh = Injection::new("any", 7, Repeat::Times(1), Effect::Fail(9)).in_each(program);
    machine.state.update(|node| node.inject(seventh)).unwrap();
    for _ in 0..2 {
        machine.open(InitFlags::empty()).unwrap();
    }
    assert!(matches!(
        machine.open(InitFlags::empty()),
        Err(NvmlError::DriverNotLoaded)
    ));
    machine.open(InitFlags::empty()).unwrap();
}

#[test]
fn a_call_that_hangs_goes_on_when_it_is_released_and_others_are_left_alone() {
    let machine = machine("h100");
    let nvml = machine.nvml();
    machine.inject("nvmlDeviceGetCount", 1, Repeat::Times(1), Effect::Hang);
    let (done, outcome) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| done.send(nvml.device_count()).unwrap());
        while machine.node().injections[0].seen == 0 {
            thread::yield_now();
        }
        // It is the first call that hangs; the second and other functions do not.
        assert_eq!(nvml.device_count().unwrap(), 8);
        assert!(outcome.try_recv().is_err());
        machine.state.update(Node::reset).unwrap();
        assert_eq!(outcome.recv_timeout(LIMIT).unwrap().unwrap(), 8);
    });
}

#[test]
fn waiting_for_events_ends_at_the_time_limit_and_with_a_lost_gpu() {
    let machine = machine("h100");
    let nvml = machine.nvml();
    let gpu = nvml.device_by_index(2).unwrap();
    assert!(
        gpu.supported_event_types()
            .unwrap()
            .contains(EventTypes::CRITICAL_XID_ERROR)
    );
    let set = nvml.create_event_set().unwrap();
    let set = gpu
        .register_events(EventTypes::CRITICAL_XID_ERROR, set)
        .unwrap();
    assert!(matches!(set.wait(1), Err(NvmlError::Timeout)));
    // A GPU that nobody registered for does not end the waiting.
    machine.set_presence(3, Presence::Lost);
    assert!(matches!(set.wait(1), Err(NvmlError::Timeout)));
    machine.set_presence(2, Presence::Lost);
    assert!(matches!(set.wait(60_000), Err(NvmlError::GpuLost)));
}

#[test]
fn threads_that_come_and_go_do_not_end_the_library_for_one_another() {
    let machine = machine("t4");
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    machine.open(InitFlags::empty()).unwrap();
                }
            });
        }
    });
}
