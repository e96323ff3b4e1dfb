//! The adapter against the simulated driver, loaded from an installed root as on a node.
//!
//! Needs the right to make device nodes.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::thread;

use tempfile::TempDir;
use tessera_device::fabric::{FabricHealth, GpuFabric, NodeFabric};
use tessera_device::mig::{MigMode, MigState};
use tessera_device::{AddressingMode, Architecture, Bytes, CudaVersion, Gpu};
use tessera_hw::state::Presence;
use tessera_hw::{
    Artifacts, Effect, Fabric, FabricChange, FabricState, Injection, Repeat, Replaced, StateFile,
    install, profile, upgrade,
};
use tessera_nvml::{KernelFiles, Nvml, NvmlError, Scan};

static ARTIFACTS: LazyLock<Artifacts> = LazyLock::new(|| Artifacts::build().unwrap());

/// `NVML_ERROR_DRIVER_NOT_LOADED`.
const DRIVER_NOT_LOADED: u32 = 9;
/// `NVML_ERROR_ARGUMENT_VERSION_MISMATCH`.
const VERSION_MISMATCH: u32 = 25;
/// `NVML_ERROR_UNKNOWN`.
const UNKNOWN: u32 = 999;

struct Machine {
    _directory: TempDir,
    root: PathBuf,
    state: StateFile,
}

fn machine(profile: &str) -> Machine {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("driver");
    let installed = install(&root, profile, "node-1", &ARTIFACTS)
        .unwrap_or_else(|error| panic!("these tests need root with CAP_MKNOD: {error:?}"));
    Machine {
        _directory: directory,
        root,
        state: installed.state,
    }
}

impl Machine {
    fn scan(&self) -> Result<Scan, NvmlError> {
        let library = fs::canonicalize(self.root.join("usr/lib64/libnvidia-ml.so.1")).unwrap();
        let kernel = KernelFiles {
            sysfs: self.root.join("sys"),
            proc: self.root.join("proc"),
        };
        Nvml::load(&library)?.inventory(&kernel)
    }

    fn fail(&self, function: &str, at: u64, code: u32) {
        let injection = Injection::new(function, at, Repeat::Times(1), Effect::Fail(code));
        self.state.update(|node| node.inject(injection)).unwrap();
    }
}

/// What the adapter should make of a simulated GPU.
fn expected(simulated: &tessera_hw::Gpu) -> Gpu {
    let facts = &simulated.facts;
    Gpu {
        uuid: facts.uuid.parse().unwrap(),
        minor: facts.minor,
        pci: facts.pci.to_string().parse().unwrap(),
        product_name: facts.name.clone(),
        brand: match facts.brand {
            tessera_hw::Brand::Tesla => "Tesla",
            tessera_hw::Brand::Nvidia => "Nvidia",
        }
        .to_owned(),
        architecture: match facts.architecture {
            tessera_hw::Architecture::Turing => Architecture::Turing,
            tessera_hw::Architecture::Ampere => Architecture::Ampere,
            tessera_hw::Architecture::Ada => Architecture::Ada,
            tessera_hw::Architecture::Hopper => Architecture::Hopper,
            tessera_hw::Architecture::Blackwell => Architecture::Blackwell,
        },
        compute_capability: cuda(facts.compute_capability),
        memory: Bytes::from_mib(facts.memory_total_mib),
        addressing_mode: facts.addressing_mode.map(|mode| match mode {
            tessera_hw::AddressingMode::None => AddressingMode::None,
            tessera_hw::AddressingMode::Hmm => AddressingMode::Hmm,
            tessera_hw::AddressingMode::Ats => AddressingMode::Ats,
        }),
        pcie_root: Some(facts.pcie_root.parse().unwrap()),
        numa_node: facts.numa_node,
        mig: (facts.max_mig_devices > 0).then(|| MigState::empty(MigMode::Off)),
        fabric: simulated
            .fabric
            .as_ref()
            .map_or(GpuFabric::None, expected_fabric),
    }
}

/// What it should make of a simulated fabric that has been joined.
fn expected_fabric(fabric: &Fabric) -> GpuFabric {
    let clique = format!("{}.{}", fabric.cluster_uuid, fabric.clique_id);
    // A UUID of zeros is no clique.
    clique
        .parse()
        .map_or(GpuFabric::None, |clique| GpuFabric::Member {
            clique,
            health: FabricHealth::Healthy,
        })
}

fn cuda(version: tessera_hw::Version) -> CudaVersion {
    CudaVersion {
        major: version.major,
        minor: version.minor,
    }
}

#[test]
fn the_inventory_of_every_profile_is_what_the_profile_says() {
    let mut gpus = 0;
    for profile in profile::names() {
        let machine = machine(profile);
        let (_, node) = machine.state.read().unwrap();
        let scan = machine.scan().unwrap();
        assert!(scan.problems.is_empty(), "{profile}: {:?}", scan.problems);
        let driver = scan.inventory.driver();
        assert_eq!(driver.version.as_str(), node.driver.version, "{profile}");
        assert_eq!(driver.cuda, cuda(node.driver.cuda), "{profile}");
        let mut wanted: Vec<_> = node.gpus.iter().map(expected).collect();
        wanted.sort_by_key(|gpu| gpu.minor);
        let mut found = scan.inventory.gpus().to_vec();
        // What they can be cut into is held against the tables where MIG is.
        for mig in found.iter_mut().filter_map(|gpu| gpu.mig.as_mut()) {
            assert!(!mig.profiles.is_empty(), "{profile}");
            mig.profiles.clear();
        }
        assert_eq!(found, wanted, "{profile}");
        gpus += wanted.len();
    }
    assert!(gpus > 0);
}

#[test]
fn an_h100_is_described_as_the_reference_driver_publishes_it() {
    let inventory = machine("h100").scan().unwrap().inventory;
    let driver = inventory.driver();
    assert_eq!(driver.version.as_str(), "580.95.05");
    assert_eq!(driver.version.semver().as_deref(), Some("580.95.5"));
    assert_eq!(driver.cuda.semver(), "13.0.0");
    let gpu = &inventory.gpus()[3];
    assert_eq!(gpu.device_name().as_str(), "gpu-3");
    assert_eq!(gpu.product_name, "NVIDIA H100 80GB HBM3");
    assert_eq!(gpu.brand, "Nvidia");
    assert_eq!(gpu.architecture.as_str(), "Hopper");
    assert_eq!(gpu.compute_capability.semver(), "9.0.0");
    assert_eq!(gpu.memory.to_string(), "81559Mi");
    assert_eq!(gpu.pci.to_string(), "0000:5d:00.0");
    assert_eq!(gpu.pcie_root.as_ref().unwrap().as_str(), "pci0000:59");
    assert_eq!(gpu.numa_node, Some(0));
}

#[test]
fn the_fabric_is_read_by_every_version_of_the_call_and_not_knowing_it_hides_no_gpu() {
    let machine = machine("gb200");
    let fabrics = || {
        let inventory = machine.scan().unwrap().inventory;
        let gpus = inventory.gpus();
        assert_eq!(gpus.len(), 4);
        (gpus[0].fabric.clone(), NodeFabric::of(gpus).state())
    };
    let (newest, state) = fabrics();
    assert_eq!(state, "Completed");
    // A library that does not know the newest structures is asked in the one before.
    machine.fail("nvmlDeviceGetGpuFabricInfoV", 1, VERSION_MISMATCH);
    assert_eq!(fabrics(), (newest.clone(), "Completed"));
    for at in [1, 2] {
        machine.fail("nvmlDeviceGetGpuFabricInfoV", at, VERSION_MISMATCH);
    }
    let (first, _) = fabrics();
    let GpuFabric::Member { health, .. } = first else {
        panic!("{first:?}")
    };
    assert_eq!(health, FabricHealth::Unknown);
    machine.fail("nvmlDeviceGetGpuFabricInfoV", 1, UNKNOWN);
    let (silent, state) = fabrics();
    assert!(matches!(silent, GpuFabric::Silent { .. }), "{silent:?}");
    assert_eq!(state, "Failed");
}

#[test]
fn a_fabric_that_falls_apart_is_a_fact() {
    let machine = machine("gb200");
    let state_after = |gpu: usize, change: FabricChange| {
        machine
            .state
            .update(|node| change.apply(node.gpus[gpu].fabric.as_mut().unwrap()))
            .unwrap();
        let inventory = machine.scan().unwrap().inventory;
        NodeFabric::of(inventory.gpus()).state()
    };
    let none = FabricChange::default();
    let other_clique = FabricChange {
        clique_id: Some(5),
        ..none
    };
    assert_eq!(state_after(1, other_clique), "Inconsistent");
    let joining = FabricChange {
        state: Some(FabricState::InProgress),
        ..none
    };
    assert_eq!(state_after(2, joining), "InProgress");
    let failed = FabricChange {
        status: Some(UNKNOWN),
        ..none
    };
    assert_eq!(state_after(3, failed), "Failed");
}

#[test]
fn a_lost_gpu_is_a_problem_of_its_own_and_hides_no_other() {
    let machine = machine("h100");
    machine
        .state
        .update(|node| node.gpus[2].condition.presence = Presence::Lost)
        .unwrap();
    let scan = machine.scan().unwrap();
    let minors: Vec<_> = scan.inventory.gpus().iter().map(|gpu| gpu.minor).collect();
    assert_eq!(minors, [0, 1, 3, 4, 5, 6, 7]);
    let [problem] = &scan.problems[..] else {
        panic!("{:?}", scan.problems);
    };
    assert!(problem.error.is_gpu_lost(), "{problem}");
    assert_eq!(problem.index, 2);
    assert!(problem.to_string().contains("index 2"), "{problem}");
}

#[test]
fn a_query_that_fails_costs_its_gpu_and_an_optional_one_only_the_fact() {
    let machine = machine("gb200");
    machine.fail("nvmlDeviceGetName", 2, UNKNOWN);
    machine.fail("nvmlDeviceGetAddressingMode", 1, UNKNOWN);
    let scan = machine.scan().unwrap();
    let [problem] = &scan.problems[..] else {
        panic!("{:?}", scan.problems);
    };
    assert_eq!(problem.error.call, "nvmlDeviceGetName");
    assert_eq!(problem.device_name().unwrap().as_str(), "gpu-1");
    let message = problem.to_string();
    assert!(message.contains("0009:01:00.0"), "{message}");
    let modes: Vec<_> = scan
        .inventory
        .gpus()
        .iter()
        .map(|gpu| (gpu.minor, gpu.addressing_mode))
        .collect();
    let ats = Some(AddressingMode::Ats);
    assert_eq!(modes, [(0, None), (2, ats), (3, ats)]);
}

#[test]
fn a_driver_that_is_not_loaded_or_of_another_version_is_an_error_with_a_remedy() {
    let machine = machine("t4");
    machine.fail("nvmlInitWithFlags", 1, DRIVER_NOT_LOADED);
    let error = machine.scan().unwrap_err();
    assert!(matches!(error, NvmlError::NotLoaded { .. }), "{error:?}");
    assert!(error.to_string().contains("load the nvidia"), "{error}");
    machine.fail("nvmlInitWithFlags", 1, UNKNOWN);
    let error = machine.scan().unwrap_err();
    assert!(matches!(error, NvmlError::Initialize { .. }), "{error:?}");
    assert!(error.to_string().contains("nvidia-smi"), "{error}");

    upgrade(&machine.root, "590.48.01", Replaced::Files).unwrap();
    let error = machine.scan().unwrap_err();
    let is_mismatch = matches!(error, NvmlError::VersionMismatch { .. });
    assert!(is_mismatch, "{error:?}");
    assert!(error.to_string().contains("reboot"), "{error}");
}

#[test]
fn after_a_look_nothing_of_the_library_is_left_and_the_next_look_sees_the_one_that_replaced_it() {
    let machine = machine("t4");
    // On a thread of its own, as the plugin looks: what a thread keeps for a library ends with it.
    let version = || {
        let looking = || machine.scan().unwrap().inventory.driver().version.clone();
        thread::scope(|scope| scope.spawn(looking).join().unwrap())
    };
    assert_eq!(version().as_str(), "535.183.01");
    upgrade(&machine.root, "590.48.01", Replaced::Everything).unwrap();
    assert_eq!(version().as_str(), "590.48.01");
    let mapped = fs::read_to_string("/proc/self/maps").unwrap();
    let root = machine.root.to_string_lossy();
    let left: Vec<_> = mapped
        .lines()
        .filter(|line| line.contains(&*root))
        .collect();
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn a_node_whose_gpus_are_all_elsewhere_has_an_empty_inventory() {
    let machine = machine("t4");
    for minor in 0..4 {
        fs::remove_file(machine.root.join(format!("dev/nvidia{minor}"))).unwrap();
    }
    let scan = machine.scan().unwrap();
    assert!(scan.inventory.gpus().is_empty());
    assert!(scan.problems.is_empty());
}
