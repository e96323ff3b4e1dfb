//! The MIG side of the adapter against the simulated driver, and the product's table of profiles against
//! the simulator's, which is made from the same listings by itself.
//!
//! Needs the right to make device nodes.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use tempfile::TempDir;
use tessera_device::Gpu;
use tessera_device::mig::{MODELS, MigMode, MigOption, MigState, ModeSwitch, Model};
use tessera_hw::mig::{self, Instance};
use tessera_hw::{Artifacts, Effect, Injection, InstallError, Repeat, install};
use tessera_nvml::{KernelFiles, Nvml, Scan};

static ARTIFACTS: LazyLock<Artifacts> = LazyLock::new(|| Artifacts::build().unwrap());

/// `NVML_ERROR_NOT_FOUND`.
const NOT_FOUND: u32 = 6;
/// `NVML_ERROR_UNKNOWN`.
const UNKNOWN: u32 = 999;

/// The simulator's tables and the product's models.
const TABLES: [(&str, &str); 7] = [
    ("a100-40g", "A100 40GB"),
    ("a100-80g", "A100 80GB"),
    ("a30", "A30"),
    ("b200", "B200"),
    ("gb200", "GB200"),
    ("h100", "H100 80GB"),
    ("h200", "H200"),
];

/// A simulated machine for each table of which there is one, with its name, and the product's models.
const MACHINES: [(&str, &str); 4] = [
    ("a100-40g", "A100 40GB"),
    ("gb200", "GB200"),
    ("h100", "H100 80GB"),
    ("h200", "H200"),
];

struct Machine {
    _directory: TempDir,
    root: PathBuf,
}

fn machine(profile: &str) -> Machine {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("driver");
    install(&root, profile, "node-1", &ARTIFACTS)
        .unwrap_or_else(|error| panic!("these tests need root with CAP_MKNOD: {error:?}"));
    Machine {
        _directory: directory,
        root,
    }
}

impl Machine {
    fn change<T>(&self, change: impl FnOnce(&mut tessera_hw::Node) -> T) -> T {
        let changed = |node: &mut tessera_hw::Node| Ok::<_, InstallError>(change(node));
        tessera_hw::install::change(&self.root, changed).unwrap()
    }

    fn cut(&self, gpu: usize, profiles: &[&str]) {
        self.change(|node| node.gpus[gpu].cut(profiles)).unwrap();
    }

    fn fail(&self, function: &str, at: u64, code: u32) {
        let injection = Injection::new(function, at, Repeat::Times(1), Effect::Fail(code));
        self.change(|node| node.inject(injection));
    }

    fn scan(&self) -> Scan {
        let library = fs::canonicalize(self.root.join("usr/lib64/libnvidia-ml.so.1")).unwrap();
        let kernel = KernelFiles {
            sysfs: self.root.join("sys"),
            proc: self.root.join("proc"),
        };
        Nvml::load(&library).unwrap().inventory(&kernel).unwrap()
    }

    fn gpu(&self, minor: usize) -> Gpu {
        let scan = self.scan();
        assert!(scan.problems.is_empty(), "{:?}", scan.problems);
        scan.inventory.gpus()[minor].clone()
    }

    fn mig(&self, minor: usize) -> MigState {
        self.gpu(minor).mig.unwrap()
    }
}

fn model(name: &str) -> &'static Model {
    MODELS.iter().find(|model| model.name == name).unwrap()
}

#[test]
fn the_simulator_and_the_product_have_the_same_profiles_for_every_model() {
    let tables: BTreeSet<_> = TABLES.iter().map(|(table, _)| *table).collect();
    assert_eq!(tables, mig::tables().collect());
    assert_eq!(TABLES.len(), MODELS.len());
    for (table, name) in TABLES {
        let (table, model) = (mig::table(table).unwrap(), model(name));
        assert_eq!(table.profiles.len(), model.rows.len(), "{name}");
        for (theirs, ours) in table.profiles.iter().zip(model.rows) {
            let engines = ours.engines;
            assert_eq!(theirs.name, ours.profile.to_string(), "{name}");
            assert_eq!(
                (
                    theirs.id,
                    theirs.slices,
                    theirs.count(),
                    theirs.memory_mib << 20,
                    theirs.multiprocessors,
                ),
                (
                    ours.id.into(),
                    ours.profile.slices.into(),
                    ours.instances.into(),
                    ours.memory.0,
                    ours.multiprocessors,
                ),
                "{name} {}",
                theirs.name
            );
            assert_eq!(
                [
                    theirs.copy_engines,
                    theirs.decoders,
                    theirs.encoders,
                    theirs.jpeg,
                    theirs.ofa,
                ],
                [
                    engines.copy,
                    engines.decoders,
                    engines.encoders,
                    engines.jpeg,
                    engines.ofa,
                ],
                "{name} {}",
                theirs.name
            );
            let places: Vec<(u32, u32)> = ours
                .placements()
                .map(|place| (place.start.into(), place.size.into()))
                .collect();
            let theirs: Vec<_> = theirs
                .starts
                .iter()
                .map(|start| (*start, theirs.size))
                .collect();
            assert_eq!(theirs, places, "{name}");
        }
    }
}

#[test]
fn what_a_gpu_can_have_is_told_in_both_modes_as_the_table_has_it() {
    for (profile, name) in MACHINES {
        let machine = machine(profile);
        let rows = model(name).rows.iter();
        let wanted: Vec<_> = rows.map(MigOption::from).collect();
        let by_id = |mut options: Vec<MigOption>| {
            options.sort_by_key(|option| option.profile_id);
            options
        };
        let whole = machine.mig(0);
        assert_eq!(whole.mode, MigMode::Off);
        assert_eq!(by_id(whole.profiles), by_id(wanted.clone()), "{name}");
        machine.cut(0, &[]);
        let cut = machine.mig(0);
        assert_eq!(cut.mode, MigMode::On);
        assert_eq!(by_id(cut.profiles), by_id(wanted), "{name}");
    }
}

#[test]
fn every_profile_of_every_machine_is_found_as_the_table_has_it() {
    for (profile, name) in MACHINES {
        let machine = machine(profile);
        let architecture = machine.gpu(0).architecture;
        let at_once = mig::table(profile).unwrap().mode_switch == mig::ModeSwitch::AtOnce;
        assert_eq!(ModeSwitch::of(&architecture) == ModeSwitch::AtOnce, at_once);
        for row in model(name).rows {
            machine.cut(0, &[&row.profile.to_string()]);
            let MigState {
                mode, instances, ..
            } = machine.mig(0);
            let [found] = &instances[..] else {
                panic!("{instances:?}")
            };
            assert_eq!(mode, MigMode::On);
            assert_eq!(
                (found.profile, found.profile_id, found.memory),
                (row.profile, row.id, row.memory),
                "{name}"
            );
            assert_eq!(found.multiprocessors, row.multiprocessors);
            assert_eq!(found.engines, row.engines);
            assert!(row.placements().any(|place| place == found.placement));
        }
    }
}

#[test]
fn a_cut_gpu_is_described_by_its_instances_with_the_nodes_that_they_need() {
    let machine = machine("h100");
    machine.cut(2, &["3g.40gb", "2g.20gb", "1g.10gb+me"]);
    let gpu = machine.gpu(2);
    let names: Vec<_> = gpu.offered().map(|part| part.name().to_string()).collect();
    assert_eq!(
        names,
        [
            "gpu-2-mig-3g40gb-9-0",
            "gpu-2-mig-2g20gb-14-4",
            "gpu-2-mig-1g10gb-me-20-6"
        ]
    );
    let instances = gpu.mig.unwrap().instances;
    let uuids: BTreeSet<_> = instances.iter().map(|found| &found.uuid).collect();
    assert_eq!(uuids.len(), 3);
    for found in &instances {
        for number in [found.access.gpu_instance, found.access.compute_instance] {
            let node = format!("dev/nvidia-caps/nvidia-cap{}", number.minor);
            assert!(machine.root.join(&node).exists(), "{node}");
            assert_eq!(number.major, 508);
        }
    }
    let first = &instances[0];
    assert_eq!((first.gpu_instance, first.compute_instance), (1, 0));
    // GPU 2 has the capabilities from 3 + 2 * 135 on, its GPU instance 1 those from 9 further on.
    assert_eq!(first.access.gpu_instance.minor, 282);
    assert_eq!(first.access.compute_instance.minor, 283);
    assert!(machine.mig(3).is_cut_like(&MigState::empty(MigMode::Off)));
}

#[test]
fn compute_instances_that_share_a_gpu_instance_are_told_apart() {
    let machine = machine("a100-40g");
    machine.cut(0, &["3g.20gb"]);
    machine.change(|node| {
        let mig = &mut node.gpus[0].condition.mig;
        let share = |compute_instance, compute_slices| Instance {
            compute_instance,
            compute_slices,
            uuid: format!("MIG-00000000-0000-0000-0000-00000000000{compute_instance}"),
            ..mig.instances[0].clone()
        };
        mig.instances = vec![share(0, 1), share(1, 2)];
    });
    let gpu = machine.gpu(0);
    let parts: Vec<_> = gpu.offered().collect();
    let names: Vec<_> = parts.iter().map(|part| part.name().to_string()).collect();
    assert_eq!(
        names,
        ["gpu-0-mig-1c3g20gb-ci0-9-0", "gpu-0-mig-2c3g20gb-ci1-9-0"]
    );
    let [small, large] = &gpu.mig.as_ref().unwrap().instances[..] else {
        panic!("{gpu:?}")
    };
    assert_eq!((small.multiprocessors, large.multiprocessors), (14, 28));
    assert_eq!(small.memory, large.memory);
    assert!(!small.part().overlaps(large.part()));
}

#[test]
fn a_mode_that_waits_for_a_reset_is_seen_and_so_is_a_gpu_that_serves_nobody() {
    let machine = machine("a100-40g");
    machine
        .change(|node| node.gpus[1].await_mode(true))
        .unwrap();
    let mig = machine.mig(1);
    assert_eq!((mig.mode, mig.waiting()), (MigMode::Off, Some(MigMode::On)));
    machine.change(|node| node.gpus[1].end_reset());
    let mig = machine.mig(1);
    assert!(mig.is_stranded() && mig.waiting().is_none());
    machine.change(|node| node.gpus[1].uncut()).unwrap();
    assert!(machine.mig(1).is_cut_like(&MigState::empty(MigMode::Off)));
}

#[test]
fn an_instance_whose_nodes_are_not_known_is_named_and_hides_no_other() {
    let machine = machine("h100");
    machine.cut(0, &["1g.10gb", "1g.10gb", "1g.10gb"]);
    let mig = machine
        .root
        .join("proc/driver/nvidia/capabilities/gpu0/mig");
    fs::remove_file(mig.join("gi8/ci0/access")).unwrap();
    let mig = machine.mig(0);
    let places: Vec<_> = mig.instances.iter().map(|i| i.placement.start).collect();
    assert_eq!(places, [0, 2]);
    let [why] = &mig.unusable[..] else {
        panic!("{mig:?}")
    };
    assert!(
        why.contains("MIG device 1") && why.contains("gi8/ci0/access"),
        "{why}"
    );
}

#[test]
fn an_instance_that_is_destroyed_during_the_look_was_not_there() {
    let machine = machine("h100");
    machine.cut(0, &["1g.10gb", "1g.10gb"]);
    machine.fail("nvmlDeviceGetGpuInstanceId", 1, NOT_FOUND);
    let mig = machine.mig(0);
    assert_eq!((mig.instances.len(), mig.unusable.len()), (1, 0));
    machine.fail("nvmlDeviceGetComputeInstanceId", 2, UNKNOWN);
    let mig = machine.mig(0);
    assert_eq!((mig.instances.len(), mig.unusable.len()), (1, 1));
    assert_eq!(machine.mig(0).instances.len(), 2);
}

#[test]
fn a_gpu_whose_mode_is_not_known_is_not_offered_at_all() {
    let machine = machine("h100");
    machine.fail("nvmlDeviceGetMigMode", 3, UNKNOWN);
    let scan = machine.scan();
    assert_eq!(scan.inventory.gpus().len(), 7);
    let [problem] = &scan.problems[..] else {
        panic!("{:?}", scan.problems)
    };
    assert!(
        problem.to_string().contains("nvmlDeviceGetMigMode"),
        "{problem}"
    );
}
