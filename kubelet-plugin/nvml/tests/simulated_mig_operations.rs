//! Operations on the MIG side against the simulated driver.
//!
//! Needs the right to make device nodes.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::slice;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use tessera_device::mig::{MigInstance, MigMode, MigOption, MigState, Placement};
use tessera_device::{GpuUuid, MigUuid};
use tessera_hw::state::Presence;
use tessera_hw::{Artifacts, Effect, Injection, InstallError, Repeat, install, kernel};
use tessera_nvml::{Destroyed, KernelFiles, MigError, MigErrorReason, MigSwitch, Nvml};

static ARTIFACTS: LazyLock<Artifacts> = LazyLock::new(|| Artifacts::build().unwrap());

/// `NVML_ERROR_NO_PERMISSION`.
const NO_PERMISSION: u32 = 4;
/// `NVML_ERROR_UNKNOWN`.
const UNKNOWN: u32 = 999;

/// A driver root, wherever it is.
struct Machine {
    root: PathBuf,
}

struct Installed {
    _directory: TempDir,
    machine: Machine,
}

fn installed(profile: &str) -> Installed {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("driver");
    install(&root, profile, "node-1", &ARTIFACTS)
        .unwrap_or_else(|error| panic!("these tests need root with CAP_MKNOD: {error:?}"));
    Installed {
        _directory: directory,
        machine: Machine { root },
    }
}

impl std::ops::Deref for Installed {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.machine
    }
}

impl Machine {
    fn change<T>(&self, change: impl FnOnce(&mut tessera_hw::Node) -> T) -> T {
        let changed = |node: &mut tessera_hw::Node| Ok::<_, InstallError>(change(node));
        tessera_hw::install::change(&self.root, changed).unwrap()
    }

    fn inject(&self, function: &str, effect: Effect) {
        let injection = Injection::new(function, 1, Repeat::Times(1), effect);
        self.change(|node| node.inject(injection));
    }

    /// What a look finds and every operation is made with: the library is loaded anew for each.
    fn nvml(&self) -> (Nvml, KernelFiles) {
        let library = fs::canonicalize(self.root.join("usr/lib64/libnvidia-ml.so.1")).unwrap();
        let kernel = KernelFiles {
            sysfs: self.root.join("sys"),
            proc: self.root.join("proc"),
        };
        (Nvml::load(&library).unwrap(), kernel)
    }

    fn gpu(&self, minor: usize) -> GpuUuid {
        let (nvml, kernel) = self.nvml();
        let inventory = nvml.inventory(&kernel).unwrap().inventory;
        inventory.gpus()[minor].uuid.clone()
    }

    fn mig(&self, gpu: &GpuUuid) -> MigState {
        let (nvml, kernel) = self.nvml();
        nvml.mig_state(gpu, &kernel).unwrap().unwrap()
    }

    fn set(&self, gpu: &GpuUuid, mode: MigMode) -> Result<MigSwitch, MigError> {
        self.nvml().0.set_mig_mode(gpu, mode)
    }

    fn create(
        &self,
        gpu: &GpuUuid,
        option: &MigOption,
        placement: Placement,
    ) -> Result<MigInstance, MigError> {
        let (nvml, kernel) = self.nvml();
        nvml.create_mig_device(gpu, option.profile, option.profile_id, placement, &kernel)
    }

    /// An instance of the profile of this name at its first place.
    fn create_first(&self, gpu: &GpuUuid, name: &str) -> Result<MigInstance, MigError> {
        let option = option(&self.mig(gpu), name);
        self.create(gpu, &option, option.placements[0])
    }

    fn destroy(&self, gpu: &GpuUuid, made: &MigInstance) -> Result<Destroyed, MigError> {
        let nvml = self.nvml().0;
        nvml.destroy_mig_device(gpu, made.gpu_instance, made.compute_instance, &made.uuid)
    }

    /// The capabilities' folders of a GPU, and all nodes.
    fn capabilities(&self, minor: u32) -> (BTreeSet<String>, usize) {
        let folder = format!("proc/driver/nvidia/capabilities/gpu{minor}/mig");
        let names = |folder: &Path| -> BTreeSet<String> {
            let entries = fs::read_dir(folder).into_iter().flatten();
            let names = entries.map(|entry| entry.unwrap().file_name());
            names.map(|name| name.into_string().unwrap()).collect()
        };
        let nodes = names(&self.root.join("dev/nvidia-caps")).len();
        (names(&self.root.join(folder)), nodes)
    }
}

fn option(mig: &MigState, name: &str) -> MigOption {
    let profile = name.parse().unwrap();
    let mut options = mig.profiles.iter();
    options
        .find(|option| option.profile == profile)
        .unwrap()
        .clone()
}

fn reason<T: std::fmt::Debug>(outcome: Result<T, MigError>) -> (MigErrorReason, &'static str) {
    let error = outcome.unwrap_err();
    let message = error.to_string();
    assert!(message.contains(error.call), "{message}");
    assert!(message.contains(error.gpu.as_str()), "{message}");
    (error.reason, error.call)
}

#[test]
fn every_place_of_every_profile_can_be_made_and_destroyed() {
    for profile in ["a100-40g", "h100"] {
        let machine = installed(profile);
        let gpu = machine.gpu(1);
        machine.change(|node| node.gpus[1].cut(&[])).unwrap();
        let options = machine.mig(&gpu).profiles;
        assert_eq!(options.len(), 7, "{profile}");
        let mut uuids = BTreeSet::new();
        for option in &options {
            for placement in &option.placements {
                let made = machine.create(&gpu, option, *placement).unwrap();
                assert_eq!((made.profile, made.placement), (option.profile, *placement));
                assert_eq!(made.profile_id, option.profile_id);
                assert_eq!(made.memory, option.memory);
                assert_eq!(made.multiprocessors, option.multiprocessors);
                assert_eq!(made.engines, option.engines);
                assert!(uuids.insert(made.uuid.clone()));
                assert_eq!(machine.mig(&gpu).instances, slice::from_ref(&made));
                for number in [made.access.gpu_instance, made.access.compute_instance] {
                    let node = format!("dev/nvidia-caps/nvidia-cap{}", number.minor);
                    let node = fs::metadata(machine.root.join(node)).unwrap();
                    assert!(node.file_type().is_char_device());
                }
                assert_eq!(machine.destroy(&gpu, &made).unwrap(), Destroyed::Now);
                assert_eq!(machine.destroy(&gpu, &made).unwrap(), Destroyed::Absent);
                assert_eq!(machine.mig(&gpu).instances, []);
                assert_eq!(machine.capabilities(1), (BTreeSet::new(), 2));
            }
        }
    }
}

#[test]
fn instances_fill_a_gpu_and_no_more_than_that() {
    let machine = installed("h100");
    let gpu = machine.gpu(0);
    assert_eq!(machine.set(&gpu, MigMode::On).unwrap(), MigSwitch::Done);
    let small = option(&machine.mig(&gpu), "1g.10gb");
    let places = small.placements.iter();
    let made: Vec<_> = places
        .map(|placement| machine.create(&gpu, &small, *placement).unwrap())
        .collect();
    assert_eq!(made.len(), 7);
    let (folders, nodes) = machine.capabilities(0);
    assert_eq!((folders.len(), nodes), (7, 2 + 2 * 7));
    let full = (
        MigErrorReason::NoRoom,
        "nvmlDeviceCreateGpuInstanceWithPlacement",
    );
    for name in ["1g.10gb", "1g.10gb+me", "3g.40gb", "7g.80gb"] {
        assert_eq!(reason(machine.create_first(&gpu, name)), full, "{name}");
    }
    for instance in &made {
        assert_eq!(machine.destroy(&gpu, instance).unwrap(), Destroyed::Now);
    }
    machine.create_first(&gpu, "7g.80gb").unwrap();
    assert_eq!(reason(machine.create_first(&gpu, "1g.10gb")), full);
}

#[test]
fn a_device_is_destroyed_only_if_it_still_has_its_uuid() {
    let machine = installed("h100");
    let gpu = machine.gpu(0);
    machine.set(&gpu, MigMode::On).unwrap();
    let former = machine.create_first(&gpu, "1g.10gb").unwrap();
    machine.destroy(&gpu, &former).unwrap();
    let present = machine.create_first(&gpu, "1g.10gb").unwrap();
    assert_eq!(former.gpu_instance, present.gpu_instance);
    assert_eq!(machine.destroy(&gpu, &former).unwrap(), Destroyed::Absent);
    assert_eq!(machine.mig(&gpu).instances, slice::from_ref(&present));
    let stranger = MigInstance {
        uuid: "MIG-00000000-0000-0000-0000-000000000000"
            .parse::<MigUuid>()
            .unwrap(),
        ..present.clone()
    };
    assert_eq!(machine.destroy(&gpu, &stranger).unwrap(), Destroyed::Absent);
    assert_eq!(machine.destroy(&gpu, &present).unwrap(), Destroyed::Now);
    // There is nothing on a GPU that is not in MIG mode either.
    machine.set(&gpu, MigMode::Off).unwrap();
    assert_eq!(machine.destroy(&gpu, &present).unwrap(), Destroyed::Absent);
}

#[test]
fn a_device_that_somebody_holds_stays_until_it_is_let_go() {
    let machine = installed("h100");
    let gpu = machine.gpu(0);
    machine.set(&gpu, MigMode::On).unwrap();
    let made = machine.create_first(&gpu, "2g.20gb").unwrap();
    let number = u32::from(made.gpu_instance);
    machine.change(|node| node.gpus[0].condition.mig.held.insert(number));
    let held = (MigErrorReason::InUse, "nvmlComputeInstanceDestroy");
    assert_eq!(reason(machine.destroy(&gpu, &made)), held);
    assert_eq!(machine.mig(&gpu).instances, slice::from_ref(&made));
    machine.change(|node| node.gpus[0].condition.mig.held.clear());
    assert_eq!(machine.destroy(&gpu, &made).unwrap(), Destroyed::Now);
}

#[test]
fn a_gpu_instance_that_is_left_alone_is_found_and_destroyed() {
    let machine = installed("h100");
    let gpu = machine.gpu(0);
    machine.set(&gpu, MigMode::On).unwrap();
    let whole = machine.create_first(&gpu, "4g.40gb").unwrap();
    let option = option(&machine.mig(&gpu), "2g.20gb");
    let place = option.placements[2];
    // Somebody takes hold of the GPU instance in the middle of its end.
    let made = machine.create(&gpu, &option, place).unwrap();
    machine.inject("nvmlGpuInstanceDestroy", Effect::Fail(19));
    let held = (MigErrorReason::InUse, "nvmlGpuInstanceDestroy");
    assert_eq!(reason(machine.destroy(&gpu, &made)), held);
    let mig = machine.mig(&gpu);
    assert_eq!(mig.instances, slice::from_ref(&whole));
    let [left] = &mig.unfinished[..] else {
        panic!("{mig:?}")
    };
    assert_eq!((left.profile, left.placement), (option.profile, place));
    assert_eq!(left.gpu_instance, made.gpu_instance);
    assert!(mig.to_string().contains("2g.20gb at 4:2 has no compute"));
    assert_eq!(
        machine.destroy(&gpu, &made).unwrap(),
        Destroyed::Bare(place)
    );
    let again = |number, placement| {
        let nvml = machine.nvml().0;
        nvml.destroy_gpu_instance(&gpu, number, placement).unwrap()
    };
    // Another place, and one that holds a device.
    let other = option.placements[0];
    assert_eq!(again(left.gpu_instance, other), Destroyed::Absent);
    assert_eq!(
        again(whole.gpu_instance, whole.placement),
        Destroyed::Absent
    );
    assert_eq!(again(left.gpu_instance, place), Destroyed::Now);
    assert_eq!(again(left.gpu_instance, place), Destroyed::Absent);
    assert_eq!(machine.mig(&gpu).unfinished, []);
}

#[test]
fn a_device_that_cannot_be_finished_leaves_nothing() {
    let machine = installed("h100");
    let gpu = machine.gpu(0);
    machine.set(&gpu, MigMode::On).unwrap();
    for (function, code, wanted) in [
        (
            "nvmlDeviceCreateGpuInstanceWithPlacement",
            NO_PERMISSION,
            MigErrorReason::NoPermission,
        ),
        (
            "nvmlGpuInstanceCreateComputeInstance",
            UNKNOWN,
            MigErrorReason::Other,
        ),
        (
            "nvmlComputeInstanceGetInfo_v2",
            UNKNOWN,
            MigErrorReason::Other,
        ),
        ("nvmlDeviceGetAttributes_v2", 15, MigErrorReason::Lost),
    ] {
        machine.inject(function, Effect::Fail(code));
        let failed = reason(machine.create_first(&gpu, "3g.40gb"));
        assert_eq!(failed, (wanted, function));
        let mig = machine.mig(&gpu);
        assert_eq!((mig.instances.len(), mig.unfinished.len()), (0, 0));
        assert_eq!(machine.capabilities(0), (BTreeSet::new(), 2));
    }
}

#[test]
fn a_mode_is_switched_where_nothing_is_in_the_way() {
    let machine = installed("h100");
    let gpu = machine.gpu(0);
    let modes = || {
        let mig = machine.mig(&gpu);
        (mig.mode, mig.pending)
    };
    let (on, off) = ((MigMode::On, MigMode::On), (MigMode::Off, MigMode::Off));
    assert_eq!(machine.set(&gpu, MigMode::Off).unwrap(), MigSwitch::Done);
    let is_off = reason(machine.create_first(&gpu, "1g.10gb"));
    assert_eq!(is_off, (MigErrorReason::ModeOff, "nvmlDeviceGetMigMode"));
    assert_eq!(machine.set(&gpu, MigMode::On).unwrap(), MigSwitch::Done);
    assert_eq!(modes(), on);
    let made = machine.create_first(&gpu, "1g.10gb").unwrap();
    let in_use = (MigErrorReason::InUse, "nvmlDeviceSetMigMode");
    // Nothing waits for a reset after a refusal.
    assert_eq!(reason(machine.set(&gpu, MigMode::Off)), in_use);
    assert_eq!(modes(), on);
    machine.destroy(&gpu, &made).unwrap();
    machine.change(|node| node.gpus[0].condition.held = true);
    assert_eq!(reason(machine.set(&gpu, MigMode::Off)), in_use);
    machine.change(|node| node.gpus[0].condition.held = false);
    assert_eq!(machine.set(&gpu, MigMode::Off).unwrap(), MigSwitch::Done);
    assert_eq!(modes(), off);

    let ampere = installed("a100-40g");
    let gpu = ampere.gpu(0);
    let later = ampere.set(&gpu, MigMode::On).unwrap();
    assert_eq!(later, MigSwitch::AfterReset);
    let mig = ampere.mig(&gpu);
    assert_eq!((mig.mode, mig.waiting()), (MigMode::Off, Some(MigMode::On)));
    // Whoever asks for the mode that it is in takes that back.
    assert_eq!(ampere.set(&gpu, MigMode::Off).unwrap(), MigSwitch::Done);
    assert_eq!(ampere.mig(&gpu).waiting(), None);
}

#[test]
fn a_gpu_that_is_lost_gone_or_without_mig_is_told_apart() {
    let machine = installed("h100");
    let gpu = machine.gpu(0);
    machine.change(|node| node.gpus[0].condition.presence = Presence::Lost);
    let (lost, _) = reason(machine.set(&gpu, MigMode::On));
    assert_eq!(lost, MigErrorReason::Lost);
    machine.change(|node| node.gpus[0].condition.presence = Presence::Resetting);
    let (gone, _) = reason(machine.set(&gpu, MigMode::On));
    assert_eq!(gone, MigErrorReason::NoSuchGpu);
    let t4 = installed("t4");
    let gpu = t4.gpu(0);
    let (reason, _) = reason(t4.set(&gpu, MigMode::On));
    assert_eq!(reason, MigErrorReason::NotSupported);
    let (nvml, kernel) = t4.nvml();
    assert!(nvml.mig_state(&gpu, &kernel).unwrap().is_none());
}

/// Where the second process of the last test finds its driver.
const READ_ONLY_ROOT: &str = "TESSERA_TEST_READ_ONLY_ROOT";

/// The last test, which runs itself in a namespace of its own.
const BELOW_A_READ_ONLY_ROOT: &str =
    "below_a_read_only_root_the_simulated_kernel_does_what_is_asked_and_without_it_nobody";

/// Runs [`look_below_a_read_only_root`] in a mount namespace in which `root` cannot be written.
fn below_a_read_only_mount(root: &Path) {
    let script =
        "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && shift && exec \"$@\"";
    let outcome = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(root)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", BELOW_A_READ_ONLY_ROOT, "--nocapture"])
        .env(READ_ONLY_ROOT, root)
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&outcome.stdout);
    assert!(
        outcome.status.success() && output.contains("1 passed"),
        "{output}{}",
        String::from_utf8_lossy(&outcome.stderr)
    );
}

fn look_below_a_read_only_root(root: OsString) {
    let machine = Machine { root: root.into() };
    let refused = fs::write(machine.root.join("dev/x"), "").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    let gpu = machine.gpu(2);
    if !machine.root.join("dev/simulated-kernel").exists() {
        let (refused, _) = reason(machine.set(&gpu, MigMode::On));
        assert_eq!(refused, MigErrorReason::NoPermission);
        return;
    }
    // An injection that all processes count together counts here too.
    let failed = reason(machine.set(&gpu, MigMode::On));
    assert_eq!(failed, (MigErrorReason::Other, "nvmlDeviceSetMigMode"));
    assert_eq!(machine.set(&gpu, MigMode::On).unwrap(), MigSwitch::Done);
    let made = machine.create_first(&gpu, "1g.10gb").unwrap();
    assert_eq!(machine.capabilities(2).0.len(), 1);
    assert_eq!(machine.destroy(&gpu, &made).unwrap(), Destroyed::Now);
    machine.create_first(&gpu, "7g.80gb").unwrap();
}

#[test]
fn below_a_read_only_root_the_simulated_kernel_does_what_is_asked_and_without_it_nobody() {
    if let Some(root) = std::env::var_os(READ_ONLY_ROOT) {
        return look_below_a_read_only_root(root);
    }
    let machine = installed("h100");
    below_a_read_only_mount(&machine.root);
    machine.inject("nvmlDeviceSetMigMode", Effect::Fail(UNKNOWN));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let root = &machine.root;
        let serving = scope.spawn(|| kernel::serve(root, &stop));
        while !root.join("dev/simulated-kernel").exists() && !serving.is_finished() {
            thread::sleep(Duration::from_millis(5));
        }
        below_a_read_only_mount(root);
        stop.store(true, Ordering::Relaxed);
        serving.join().unwrap().unwrap();
    });
    let gpu = machine.gpu(2);
    let instances = machine.mig(&gpu).instances;
    let profiles: Vec<_> = instances.iter().map(|i| i.profile.to_string()).collect();
    assert_eq!(profiles, ["7g.80gb"]);
}
