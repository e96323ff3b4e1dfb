//! The time slices of GPUs against the simulated driver's `nvidia-smi`, and against programs that do not do
//! as they should.
//!
//! Needs the right to make device nodes.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use tempfile::TempDir;
use tessera_api::Interval;
use tessera_device::GpuUuid;
use tessera_hw::{
    Artifacts, ComputeMode, Effect, Injection, InstallError, Node, Policy, Repeat, TimeSlice,
    install,
};
use tessera_kubelet_plugin::deadline::Deadline;
use tessera_kubelet_plugin::driver_root::DriverRoot;
use tessera_kubelet_plugin::time_slice::{NvidiaSmi, TimeSliceError, TimeSliceOperations};

static ARTIFACTS: LazyLock<Artifacts> = LazyLock::new(|| Artifacts::build().unwrap());

struct Machine {
    directory: TempDir,
    smi: NvidiaSmi,
}

impl Machine {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        install(root, "h100", "node-1", &ARTIFACTS)
            .unwrap_or_else(|error| panic!("these tests need root with CAP_MKNOD: {error:?}"));
        let driver_root = DriverRoot::new(root, root);
        Self {
            directory,
            smi: NvidiaSmi { driver_root },
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Node) -> T) -> T {
        let changed = |node: &mut Node| Ok::<_, InstallError>(change(node));
        tessera_hw::install::change(self.directory.path(), changed).unwrap()
    }

    fn gpu(&self, minor: usize) -> GpuUuid {
        let uuid = self.change(|node| node.gpus[minor].facts.uuid.clone());
        uuid.parse().unwrap()
    }

    fn slices(&self) -> Vec<TimeSlice> {
        self.change(|node| node.gpus.iter().map(|g| g.condition.time_slice).collect())
    }

    /// Puts this script in the place of the program.
    fn with_program(&self, script: &str) {
        let program = self.directory.path().join("usr/bin/nvidia-smi");
        fs::remove_file(&program).unwrap();
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(30))
}

#[test]
fn every_interval_is_set_on_its_gpu_alone_and_set_back() {
    let machine = Machine::new();
    let gpu = machine.gpu(3);
    machine.change(|node| {
        let mode = Policy::ComputeMode(ComputeMode::ExclusiveProcess);
        node.gpus[3].set_policy(mode).unwrap();
    });
    machine.smi.admit_all(&gpu, soon()).unwrap();
    let mode = machine.change(|node| node.gpus[3].condition.compute_mode);
    assert_eq!(mode, ComputeMode::Default);
    for (interval, expected) in [
        (Interval::Short, TimeSlice::Short),
        (Interval::Medium, TimeSlice::Medium),
        (Interval::Long, TimeSlice::Long),
        (Interval::Default, TimeSlice::Default),
    ] {
        machine.smi.set(&gpu, interval, soon()).unwrap();
        let mut all = vec![TimeSlice::Default; 8];
        all[3] = expected;
        assert_eq!(machine.slices(), all);
    }
}

#[test]
fn what_the_program_refuses_is_told_with_its_code_and_its_words() {
    let machine = Machine::new();
    let gpu = machine.gpu(0);
    machine.change(|node| {
        let effect = Effect::Fail(999);
        let once = Repeat::Times(1);
        node.inject(Injection::new(
            "simulatedDeviceSetTimeSlice",
            1,
            once,
            effect,
        ));
    });
    let error = machine.smi.set(&gpu, Interval::Short, soon()).unwrap_err();
    let TimeSliceError::Refused { code, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(*code, Some(255));
    let text = error.to_string();
    assert!(
        text.contains("--set-timeslice 1 ended with code 255"),
        "{text}"
    );
    machine.smi.set(&gpu, Interval::Short, soon()).unwrap();
}

#[test]
fn a_driver_without_the_program_is_told_with_the_remedy() {
    let machine = Machine::new();
    fs::remove_file(machine.path("usr/bin/nvidia-smi")).unwrap();
    let gpu = machine.gpu(0);
    let error = machine.smi.set(&gpu, Interval::Short, soon()).unwrap_err();
    assert!(
        error.to_string().contains("install the driver's tools"),
        "{error}"
    );
}

#[test]
fn a_program_that_does_not_end_is_ended() {
    let machine = Machine::new();
    let trace = machine.path("pid");
    machine.with_program(&format!(
        "#!/bin/sh\necho $$ > {}\nexec /bin/sleep 1000\n",
        trace.display()
    ));
    let gpu = machine.gpu(0);
    let limit = Deadline::after(Duration::from_secs(2));
    let error = machine.smi.set(&gpu, Interval::Short, limit).unwrap_err();
    assert!(matches!(error, TimeSliceError::TimedOut { .. }), "{error}");
    let pid = fs::read_to_string(&trace).unwrap();
    assert!(!Path::new("/proc").join(pid.trim()).exists());
}

#[test]
fn the_program_inherits_nothing_and_what_it_prints_is_cut() {
    let machine = Machine::new();
    let seen = machine.path("seen");
    machine.with_program(&format!(
        "#!/bin/sh\n{{ /usr/bin/env; pwd; }} > {}\n/usr/bin/yes no | /usr/bin/head -c 1000000\nexit 4\n",
        seen.display()
    ));
    let gpu = machine.gpu(0);
    let error = machine.smi.set(&gpu, Interval::Short, soon()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("code 4"), "{text}");
    assert!(text.len() < 400, "{text}");
    let seen = fs::read_to_string(&seen).unwrap();
    let mut names: Vec<&str> = seen
        .lines()
        .filter_map(|line| Some(line.split_once('=')?.0))
        // The shell sets these for itself.
        .filter(|name| !["PWD", "_", "SHLVL", "OLDPWD"].contains(name))
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["LD_PRELOAD"], "{seen}");
    assert_eq!(seen.lines().last(), Some("/"));
}
