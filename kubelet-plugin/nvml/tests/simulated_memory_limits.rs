//! Memory limits of cgroups against the simulated driver.
//!
//! Directories stand for cgroups. Needs the right to make device nodes.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use tempfile::TempDir;
use tessera_device::{Bytes, GpuUuid, MemoryLimiting};
use tessera_hw::memory::Accounting;
use tessera_hw::{Artifacts, Effect, Injection, InstallError, Repeat, install};
use tessera_nvml::{KernelFiles, LimitError, LimitErrorReason, MemoryLimits, Nvml};

static ARTIFACTS: LazyLock<Artifacts> = LazyLock::new(|| Artifacts::build().unwrap());

/// A driver that takes limits.
const NEW: &str = "615.71.09";
const GIB: u64 = 1 << 30;

struct Machine {
    directory: TempDir,
}

fn machine(driver: &str) -> Machine {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("driver");
    install(&root, "h200", "node-1", &ARTIFACTS)
        .unwrap_or_else(|error| panic!("these tests need root with CAP_MKNOD: {error:?}"));
    tessera_hw::upgrade(&root, driver, tessera_hw::Replaced::Everything).unwrap();
    Machine { directory }
}

impl Machine {
    fn root(&self) -> PathBuf {
        self.directory.path().join("driver")
    }

    /// A directory that stands for a cgroup.
    fn cgroup(&self, name: &str) -> PathBuf {
        let cgroup = self.directory.path().join("cgroup").join(name);
        fs::create_dir_all(&cgroup).unwrap();
        cgroup
    }

    fn change<T>(&self, change: impl FnOnce(&mut tessera_hw::Node) -> T) -> T {
        let changed = |node: &mut tessera_hw::Node| Ok::<_, InstallError>(change(node));
        tessera_hw::install::change(&self.root(), changed).unwrap()
    }

    fn allocate(&self, cgroup: &Path, bytes: u64) -> bool {
        let path = cgroup.to_str().unwrap();
        self.change(|node| {
            let accounting = node.memory_accounting;
            node.gpus[0].allocate(path, bytes, accounting).is_ok()
        })
    }

    fn nvml(&self) -> Nvml {
        let library = self.root().join("usr/lib64/libnvidia-ml.so.1");
        Nvml::load(&fs::canonicalize(library).unwrap()).unwrap()
    }

    fn kernel(&self) -> KernelFiles {
        KernelFiles {
            sysfs: self.root().join("sys"),
            proc: self.root().join("proc"),
        }
    }

    fn gpu(&self) -> GpuUuid {
        let scan = self.nvml().inventory(&self.kernel()).unwrap();
        scan.inventory.gpus()[0].uuid.clone()
    }

    fn set(&self, cgroup: &Path, hard: Option<u64>) -> Result<(), LimitError> {
        let gpu = self.gpu();
        self.nvml().set_memory_limit(&gpu, cgroup, hard.map(Bytes))
    }

    fn limits(&self, cgroup: &Path) -> MemoryLimits {
        self.nvml().memory_limits(&self.gpu(), cgroup).unwrap()
    }
}

fn reason(outcome: Result<(), LimitError>) -> LimitErrorReason {
    let error = outcome.unwrap_err();
    let message = error.to_string();
    assert!(message.contains(error.gpu.as_str()), "{message}");
    assert!(
        message.contains(error.cgroup.to_str().unwrap()),
        "{message}"
    );
    error.reason
}

#[test]
fn a_limit_holds_until_it_is_taken_away_and_reserves_nothing() {
    let machine = machine(NEW);
    let cgroup = machine.cgroup("pod/container");
    machine.set(&cgroup, Some(5 * GIB)).unwrap();
    machine.set(&cgroup, Some(5 * GIB)).unwrap();
    assert!(machine.allocate(&cgroup, 5 * GIB));
    assert!(!machine.allocate(&cgroup, 1));
    assert_eq!(
        machine.limits(&cgroup),
        MemoryLimits {
            hard: Some(Bytes(5 * GIB)),
            soft: Bytes(0),
            used: Bytes(5 * GIB),
        }
    );
    machine.set(&cgroup, None).unwrap();
    assert_eq!(machine.limits(&cgroup).hard, None);
    assert!(machine.allocate(&cgroup, GIB));
}

#[test]
fn a_limit_below_the_use_is_refused_and_the_former_one_stays() {
    let machine = machine(NEW);
    let cgroup = machine.cgroup("container");
    machine.set(&cgroup, Some(4 * GIB)).unwrap();
    assert!(machine.allocate(&cgroup, 3 * GIB));
    let (used, wanted) = (Bytes(3 * GIB), Bytes(2 * GIB));
    assert_eq!(
        reason(machine.set(&cgroup, Some(2 * GIB))),
        LimitErrorReason::BelowUse { used, wanted }
    );
    assert_eq!(machine.limits(&cgroup).hard, Some(Bytes(4 * GIB)));
}

#[test]
fn where_the_kernel_counts_a_cgroup_needs_its_controller() {
    let machine = machine(NEW);
    machine.change(|node| node.memory_accounting = Accounting::Dmem);
    let cgroup = machine.cgroup("container");
    assert_eq!(
        reason(machine.set(&cgroup, Some(GIB))),
        LimitErrorReason::NoSuchCgroup
    );
    fs::write(cgroup.join("dmem.max"), "").unwrap();
    machine.set(&cgroup, Some(GIB)).unwrap();
    assert!(!machine.allocate(&cgroup, GIB + 1));
}

#[test]
fn what_the_driver_does_not_do_has_its_reason() {
    let machine = machine(NEW);
    let gone = machine.directory.path().join("gone");
    assert_eq!(
        reason(machine.set(&gone, Some(GIB))),
        LimitErrorReason::NoSuchCgroup
    );
    let cgroup = machine.cgroup("container");
    machine.change(|node| node.gpus[0].condition.mig.enabled = true);
    assert_eq!(
        reason(machine.set(&cgroup, Some(GIB))),
        LimitErrorReason::NotSupported
    );
    machine.change(|node| node.gpus[0].condition.mig.enabled = false);
    let fail = |code| {
        let function = "nvmlDeviceSetMemoryLimits_v1";
        let injection = Injection::new(function, 1, Repeat::Times(1), Effect::Fail(code));
        machine.change(|node| node.inject(injection));
        reason(machine.set(&cgroup, Some(GIB)))
    };
    assert_eq!(fail(4), LimitErrorReason::NoPermission);
    assert_eq!(fail(15), LimitErrorReason::Lost);
    assert_eq!(fail(999), LimitErrorReason::Other);
}

#[test]
fn limits_are_there_with_the_driver_and_the_cgroups_that_it_takes() {
    for (driver, unified, expected) in [
        (NEW, true, MemoryLimiting::PerCgroup),
        (NEW, false, MemoryLimiting::CgroupV1),
        ("580.95.05", true, MemoryLimiting::NoCall),
        ("580.95.05", false, MemoryLimiting::NoCall),
    ] {
        let machine = machine(driver);
        if unified {
            let folder = machine.root().join("sys/fs/cgroup");
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("cgroup.controllers"), "").unwrap();
        }
        let scan = machine.nvml().inventory(&machine.kernel()).unwrap();
        let found = scan.inventory.driver().memory_limiting;
        assert_eq!(found, expected, "{driver} {unified}");
    }
    let machine = machine("580.95.05");
    let cgroup = machine.cgroup("container");
    assert_eq!(
        reason(machine.set(&cgroup, Some(GIB))),
        LimitErrorReason::NoSuchCall
    );
}
