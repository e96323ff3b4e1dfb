//! The MIG operations of the plugin against the simulated driver.
//!
//! Needs the right to make device nodes.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;
use tessera_device::mig::{Choices, MigInstance, MigMode, MigState};
use tessera_device::{Gpu, Inventory};
use tessera_hw::state::Presence;
use tessera_hw::{Artifacts, Effect, Injection, InstallError, Repeat, install};
use tessera_kubelet_plugin::driver_root::{self, DriverRoot};
use tessera_kubelet_plugin::mig::{MigError, MigOperations, NvmlMig};
use tessera_nvml::{KernelFiles, MigErrorReason, Nvml};
use tessera_prepare::step::{MigDevice, MigIdentity};

static ARTIFACTS: LazyLock<Artifacts> = LazyLock::new(|| Artifacts::build().unwrap());

/// `NVML_ERROR_UNKNOWN`.
const UNKNOWN: u32 = 999;

struct Machine {
    directory: TempDir,
    mig: NvmlMig,
    gpu: Gpu,
}

impl Machine {
    /// A node with GPUs of this hardware, the first of which is looked at.
    fn with(profile: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        install(root, profile, "node-1", &ARTIFACTS)
            .unwrap_or_else(|error| panic!("these tests need root with CAP_MKNOD: {error:?}"));
        let mig = NvmlMig {
            driver_root: DriverRoot::new(root, root),
            kernel: KernelFiles {
                sysfs: root.join("sys"),
                proc: root.join("proc"),
            },
        };
        let gpu = inventory(&mig).gpus()[0].clone();
        Self {
            directory,
            mig,
            gpu,
        }
    }

    fn change(&self, change: impl FnOnce(&mut tessera_hw::Node)) {
        let changed = |node: &mut tessera_hw::Node| {
            change(node);
            Ok::<_, InstallError>(())
        };
        tessera_hw::install::change(self.directory.path(), changed).unwrap();
    }

    /// Lets the next call of this function fail.
    fn fail(&self, function: &str) {
        let effect = Effect::Fail(UNKNOWN);
        let injection = Injection::new(function, 1, Repeat::Times(1), effect);
        self.change(|node| {
            node.inject(injection);
        });
    }

    fn state(&self) -> MigState {
        let gpus = BTreeSet::from([self.gpu.uuid.clone()]);
        self.mig.states(&gpus).unwrap().remove(0).1
    }

    /// What is there: instances, and halves of some.
    fn there(&self) -> (usize, usize) {
        let state = self.state();
        (state.instances.len(), state.unfinished.len())
    }

    /// The device of this name, as it is recorded before it is made.
    fn planned(&self, name: &str) -> MigDevice {
        let choices = Choices::of(&self.gpu, |_, _| true).unwrap();
        let slot = choices.slot(&name.parse().unwrap()).unwrap();
        MigDevice::planned(&self.gpu, slot)
    }

    /// Makes a device, the mode switched on first, and returns it as it is recorded then.
    fn made(&self, name: &str) -> (MigDevice, MigInstance) {
        self.mig.switch(&self.gpu.uuid, MigMode::On).unwrap();
        let planned = self.planned(name);
        let instance = self.mig.create(&planned).unwrap();
        let identity = Some(MigIdentity::of(&instance));
        (
            MigDevice {
                identity,
                ..planned
            },
            instance,
        )
    }
}

fn inventory(mig: &NvmlMig) -> Inventory {
    let library = driver_root::find_nvml(&mig.driver_root).unwrap();
    let nvml = Nvml::load(&library).unwrap();
    nvml.inventory(&mig.kernel).unwrap().inventory
}

const HALF: &str = "gpu-0-mig-3g40gb-9-4";
const SMALL: &str = "gpu-0-mig-1g10gb-19-2";

#[test]
fn devices_are_made_beside_each_other_and_destroyed_and_the_gpu_is_whole_again() {
    let machine = Machine::with("h100");
    let (half, instance) = machine.made(HALF);
    assert_eq!(instance.device_name(0).as_str(), HALF);
    let (small, _) = machine.made(SMALL);
    assert_eq!(machine.there(), (2, 0));
    machine.mig.destroy(&half).unwrap();
    machine.mig.destroy(&half).unwrap();
    assert_eq!(machine.there(), (1, 0));
    machine.mig.destroy(&small).unwrap();
    machine.mig.switch(&machine.gpu.uuid, MigMode::Off).unwrap();
    assert_eq!(machine.state().mode, MigMode::Off);
    // With the mode its instances are gone too, whatever a record says.
    machine.mig.destroy(&half).unwrap();
}

#[test]
fn a_device_whose_maker_died_before_it_wrote_down_which_it_is_is_found_by_its_place() {
    let machine = Machine::with("h100");
    machine.made(HALF);
    let (beside, _) = machine.made(SMALL);
    machine.mig.destroy(&machine.planned(HALF)).unwrap();
    assert_eq!(machine.there(), (1, 0));
    machine.mig.destroy(&machine.planned(HALF)).unwrap();
    machine.mig.destroy(&beside).unwrap();
    assert_eq!(machine.there(), (0, 0));
}

#[test]
fn what_is_half_made_or_half_destroyed_is_destroyed_by_the_next_attempt() {
    let machine = Machine::with("h100");
    machine.mig.switch(&machine.gpu.uuid, MigMode::On).unwrap();
    machine.fail("nvmlGpuInstanceCreateComputeInstance");
    machine.fail("nvmlGpuInstanceDestroy");
    machine.mig.create(&machine.planned(HALF)).unwrap_err();
    assert_eq!(machine.there(), (0, 1));
    machine.mig.destroy(&machine.planned(HALF)).unwrap();
    assert_eq!(machine.there(), (0, 0));

    let (half, _) = machine.made(HALF);
    machine.fail("nvmlGpuInstanceDestroy");
    machine.mig.destroy(&half).unwrap_err();
    assert_eq!(machine.there(), (0, 1));
    machine.mig.destroy(&half).unwrap();
    assert_eq!(machine.there(), (0, 0));
}

#[test]
fn another_device_under_the_recorded_numbers_is_left_alone() {
    let machine = Machine::with("h100");
    let (former, _) = machine.made(HALF);
    machine.mig.destroy(&former).unwrap();
    let (_, next) = machine.made(HALF);
    let identity = former.identity.as_ref().unwrap();
    assert_eq!(identity.gpu_instance, next.gpu_instance);
    machine.mig.destroy(&former).unwrap();
    assert_eq!(machine.there(), (1, 0));
}

#[test]
fn with_a_lost_gpu_its_devices_are_gone() {
    let machine = Machine::with("h100");
    let (half, _) = machine.made(HALF);
    machine.change(|node| node.gpus[0].condition.presence = Presence::Lost);
    machine.mig.destroy(&half).unwrap();
    machine.mig.destroy(&machine.planned(SMALL)).unwrap();
}

#[test]
fn no_mode_is_switched_under_a_device() {
    let machine = Machine::with("h100");
    machine.made(HALF);
    let error = machine
        .mig
        .switch(&machine.gpu.uuid, MigMode::Off)
        .unwrap_err();
    let is_refused = matches!(
        &error,
        MigError::Refused(error) if error.reason == MigErrorReason::InUse
    );
    assert!(is_refused && error.is_busy(), "{error}");
}

#[test]
fn an_a100_is_cut_in_the_mode_that_it_was_put_into_and_keeps_it() {
    let machine = Machine::with("a100-40g");
    let whole = Choices::of(&machine.gpu, |_, _| true).unwrap();
    assert!(whole.whole && whole.slots.is_empty());
    machine.change(|node| {
        node.gpus[0].await_mode(true).unwrap();
        node.gpus[0].end_reset();
    });
    let machine = Machine {
        gpu: inventory(&machine.mig).gpus()[0].clone(),
        ..machine
    };
    let cut = Choices::of(&machine.gpu, |_, _| true).unwrap();
    assert!(!cut.whole && !cut.slots.is_empty());
    for slot in cut.slots.iter().filter(|slot| slot.option.profile_id == 19) {
        machine.made(slot.device_name(machine.gpu.minor).as_str());
    }
    assert_eq!(machine.there(), (7, 0));
    for slot in cut.slots.iter().filter(|slot| slot.option.profile_id == 19) {
        machine
            .mig
            .destroy(&MigDevice::planned(&machine.gpu, *slot))
            .unwrap();
    }
    assert_eq!(machine.there(), (0, 0));
    assert_eq!(machine.state().mode, MigMode::On);
}

#[test]
fn no_look_and_no_operation_fails_while_all_gpus_are_cut_at_once() {
    let machine = Machine::with("h100");
    let gpus = inventory(&machine.mig).gpus().to_vec();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let cutters: Vec<_> = gpus
            .iter()
            .map(|gpu| scope.spawn(|| cut_again_and_again(&machine.mig, gpu)))
            .collect();
        let look = scope.spawn(|| {
            let mut looks = 0;
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(inventory(&machine.mig).gpus().len(), gpus.len());
                looks += 1;
            }
            looks
        });
        for cutter in cutters {
            cutter.join().unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(look.join().unwrap() > 0);
    });
    assert_eq!(machine.there(), (0, 0));
}

fn cut_again_and_again(mig: &NvmlMig, gpu: &Gpu) {
    let choices = Choices::of(gpu, |_, _| true).unwrap();
    let small: Vec<_> = choices
        .slots
        .iter()
        .filter(|slot| slot.option.profile_id == choices.slots[0].option.profile_id)
        .collect();
    for _ in 0..3 {
        mig.switch(&gpu.uuid, MigMode::On).unwrap();
        let made: Vec<MigDevice> = small
            .iter()
            .map(|slot| {
                let planned = MigDevice::planned(gpu, **slot);
                let instance = mig.create(&planned).unwrap();
                let identity = Some(MigIdentity::of(&instance));
                MigDevice {
                    identity,
                    ..planned
                }
            })
            .collect();
        for device in &made {
            mig.destroy(device).unwrap();
        }
        mig.switch(&gpu.uuid, MigMode::Off).unwrap();
    }
}
