//! What the program prints, and how it exits. Needs the right to make device nodes.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Command, Output},
    sync::LazyLock,
};

use tempfile::TempDir;
use tessera_hw::{
    Artifacts, ComputeMode, Effect, Injection, Node, Repeat, StateFile, TimeSlice, install,
    state::Presence,
};

const UUID: &str = "nvmlDeviceGetUUID";

static ARTIFACTS: LazyLock<Artifacts> = LazyLock::new(|| Artifacts::build().unwrap());

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
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.root.join("usr/bin/nvidia-smi"));
        command
            .args(arguments)
            .env("LD_LIBRARY_PATH", self.root.join("usr/lib64"));
        command
    }

    fn inject(&self, injection: Injection) {
        self.state.update(|node| node.inject(injection)).unwrap();
    }

    /// Lists the GPUs as in a container, where the driver's files cannot be written.
    fn list_read_only(&self) -> Output {
        // The mount lives in a namespace of its own and dies with its shell.
        let script = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && \
                      LD_LIBRARY_PATH=\"$1/usr/lib64\" exec \"$1/usr/bin/nvidia-smi\" -L";
        Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(&self.root)
            .output()
            .unwrap()
    }

    #[track_caller]
    fn check(&self, arguments: &[&str], code: i32, expected: &str) {
        let output = self.command(arguments).output().unwrap();
        assert_eq!(stdout(&output), expected);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Four GPUs of a node named `node-1`. The format is that of the real program; the UUIDs stay the
/// same as long as their derivation does.
const T4_LIST: &str = "\
GPU 0: Tesla T4 (UUID: GPU-13e15019-896d-27d5-399c-7e7e6ae585d8)
GPU 1: Tesla T4 (UUID: GPU-9d85bf86-0e39-adcd-484c-d8e595b13415)
GPU 2: Tesla T4 (UUID: GPU-6a99f39f-c4df-29ef-2dcc-574ac8c83a8c)
GPU 3: Tesla T4 (UUID: GPU-bf260167-4f1d-84ce-acbd-9ac234029110)
";

#[test]
fn the_list_has_the_format_of_the_real_one() {
    machine("t4").check(&["-L"], 0, T4_LIST);
    machine("t4").check(&["--list-gpus"], 0, T4_LIST);
}

#[test]
fn a_container_with_one_gpu_lists_one_gpu_as_number_zero() {
    let machine = machine("t4");
    for minor in [0, 1, 3] {
        fs::remove_file(machine.root.join(format!("dev/nvidia{minor}"))).unwrap();
    }
    let third = T4_LIST.lines().nth(2).unwrap().replace("GPU 2", "GPU 0");
    machine.check(&["-L"], 0, &format!("{third}\n"));
}

#[test]
fn without_gpus_it_says_so() {
    let machine = machine("t4");
    for minor in 0..4 {
        fs::remove_file(machine.root.join(format!("dev/nvidia{minor}"))).unwrap();
    }
    machine.check(&["-L"], 6, "No devices were found\n");
}

#[test]
fn a_lost_gpu_is_named_and_does_not_hide_the_others() {
    let machine = machine("t4");
    machine
        .state
        .update(|node| node.gpus[1].condition.presence = Presence::Lost)
        .unwrap();
    let second = T4_LIST.lines().nth(1).unwrap();
    let expected = T4_LIST.replace(second, "GPU 1: does not answer: GPU is lost");
    machine.check(&["-L"], 15, &expected);
}

#[test]
fn without_a_driver_it_exits_as_the_real_one() {
    let machine = machine("t4");
    fs::remove_file(machine.root.join("dev/nvidiactl")).unwrap();
    let output = machine.command(&["-L"]).output().unwrap();
    assert_eq!(output.status.code(), Some(9), "{output:?}");
    assert!(
        stdout(&output).contains("no driver to talk to"),
        "{output:?}"
    );

    let output = machine
        .command(&["-L"])
        .env("LD_LIBRARY_PATH", "/nonexistent")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(12), "{output:?}");
}

#[test]
fn table_and_versions_say_that_they_are_simulated() {
    let machine = machine("h100");
    for arguments in [&[][..], &["--version"]] {
        let output = machine.command(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = stdout(&output);
        assert!(
            text.contains("simulated") && text.contains("580.95.05"),
            "{text}"
        );
    }
    let table = stdout(&machine.command(&[]).output().unwrap());
    assert!(
        table.contains("NVIDIA H100 80GB HBM3    00000000:18:00.0   30C"),
        "{table}"
    );
    assert_eq!(table.lines().count(), 2 + 8);
}

#[test]
fn an_injected_death_takes_the_caller_and_spares_the_next() {
    let machine = machine("t4");
    machine.inject(Injection::new(UUID, 3, Repeat::Times(1), Effect::Die));
    let output = machine.command(&["-L"]).output().unwrap();
    assert_eq!(output.status.signal(), Some(6), "SIGABRT: {output:?}");
    assert_eq!(machine.state.read().unwrap().1.injections, []);
    machine.check(&["-L"], 0, T4_LIST);
}

#[test]
fn on_a_read_only_mount_gpus_are_listed_and_injections_leave_it_alone() {
    let machine = machine("t4");
    let everywhere = Injection::new(UUID, 1, Repeat::Always, Effect::Die);
    let elsewhere = everywhere.clone().in_each("another-program");
    machine.inject(everywhere);
    machine.inject(elsewhere);
    let output = machine.list_read_only();
    assert_eq!(stdout(&output), T4_LIST, "{output:?}");
    let injections = machine.state.read().unwrap().1.injections;
    assert!(injections.iter().all(|i| i.seen == 0), "{injections:?}");
}

#[test]
fn on_a_read_only_mount_each_process_of_the_named_program_dies_at_its_nth_call() {
    let machine = machine("t4");
    let third = Injection::new(UUID, 3, Repeat::Times(1), Effect::Die);
    machine.inject(third.in_each("nvidia-smi"));
    for _ in 0..2 {
        let output = machine.list_read_only();
        assert_eq!(output.status.signal(), Some(6), "SIGABRT: {output:?}");
    }
    machine.state.update(Node::reset).unwrap();
    // One call more than the program makes leaves it alone.
    let fifth = Injection::new(UUID, 5, Repeat::Times(1), Effect::Die);
    machine.inject(fifth.in_each("nvidia-smi"));
    let output = machine.list_read_only();
    assert_eq!(stdout(&output), T4_LIST, "{output:?}");
}

#[test]
fn the_mig_mode_is_switched_as_the_real_one_does() {
    let machine = machine("h100");
    let switch = |mode: &str| {
        let output = machine
            .command(&["-i", "3", "-mig", mode])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        stdout(&output)
    };
    let enabled = || {
        machine.state.read().unwrap().1.gpus[3]
            .condition
            .mig
            .enabled
    };
    let on = "Enabled MIG Mode for GPU 00000000:5D:00.0\nAll done.\n";
    assert_eq!((switch("1").as_str(), enabled()), (on, true));
    machine
        .state
        .update(|node| node.gpus[3].condition.held = true)
        .unwrap();
    let pending = switch("0");
    assert!(pending.contains("in pending disable state"), "{pending}");
    assert!(enabled());
    machine
        .state
        .update(|node| node.gpus[3].condition.held = false)
        .unwrap();
    let off = switch("0");
    assert!(off.starts_with("Disabled MIG Mode") && !enabled(), "{off}");
}

#[test]
fn mig_devices_stand_below_their_gpu_in_the_format_of_the_real_one() {
    let machine = machine("h100");
    let uuids = tessera_hw::install::change(&machine.root, |node: &mut Node| {
        node.gpus[1].cut(&["3g.40gb", "1g.10gb+me"])?;
        let gpu = &node.gpus[1];
        let mig = gpu.condition.mig.instances.iter();
        let mig: Vec<_> = mig.map(|instance| instance.uuid.clone()).collect();
        Ok::<_, tessera_hw::InstallError>((gpu.facts.uuid.clone(), mig))
    });
    let (gpu, mig) = uuids.unwrap();
    let output = stdout(&machine.command(&["-L"]).output().unwrap());
    let lines: Vec<_> = output.lines().skip(1).take(4).collect();
    assert_eq!(
        lines[..3],
        [
            format!("GPU 1: NVIDIA H100 80GB HBM3 (UUID: {gpu})"),
            format!("  MIG 3g.40gb     Device  0: (UUID: {})", mig[0]),
            format!("  MIG 1g.10gb+me  Device  1: (UUID: {})", mig[1]),
        ]
    );
    assert!(lines[3].starts_with("GPU 2: "), "{}", lines[3]);
}

#[test]
fn time_slice_and_compute_mode_are_set_on_the_named_gpu_alone() {
    let machine = machine("h100");
    let node = || machine.state.read().unwrap().1;
    let uuid = node().gpus[3].facts.uuid.clone();
    let run = |arguments: &[&str]| {
        let output = machine.command(arguments).output().unwrap();
        (output.status.code(), stdout(&output))
    };
    let mode = ["-i", &uuid, "-c", "EXCLUSIVE_PROCESS"];
    let expected = "Set compute mode to EXCLUSIVE_PROCESS for GPU 00000000:5D:00.0.\nAll done.\n";
    assert_eq!(run(&mode), (Some(0), expected.to_owned()));
    let slice = ["compute-policy", "-i", &uuid, "--set-timeslice", "3"];
    assert_eq!(run(&slice).0, Some(0));
    let list = run(&["compute-policy", "--list"]).1;
    let long: Vec<_> = list
        .lines()
        .map(|line| line.contains("is LONG (simulated)"))
        .collect();
    assert_eq!(
        long,
        [false, false, false, true, false, false, false, false]
    );
    let set: Vec<_> = node()
        .gpus
        .iter()
        .map(|gpu| (gpu.condition.time_slice, gpu.condition.compute_mode))
        .collect();
    assert_eq!(set[3], (TimeSlice::Long, ComputeMode::ExclusiveProcess));
    assert_eq!(set[2], Default::default());
}

#[test]
fn what_cannot_be_set_exits_as_the_real_one_does() {
    let machine = machine("h100");
    let code = |arguments: &[&str]| {
        let output = machine.command(arguments).output().unwrap();
        output.status.code()
    };
    let set = |gpu: &str| code(&["compute-policy", "-i", gpu, "--set-timeslice", "1"]);
    assert_eq!(set("GPU-00000000-0000-0000-0000-000000000000"), Some(6));
    machine
        .state
        .update(|node| {
            node.gpus[0].condition.mig.enabled = true;
            node.gpus[1].condition.presence = Presence::Lost;
        })
        .unwrap();
    assert_eq!(set("0"), Some(3));
    assert_eq!(set("1"), Some(15));
    assert_eq!(
        code(&["compute-policy", "-i", "2", "--set-timeslice", "4"]),
        Some(2)
    );
    machine.inject(Injection::new(
        "simulatedDeviceSetTimeSlice",
        1,
        Repeat::Times(1),
        Effect::Fail(4),
    ));
    assert_eq!(set("2"), Some(4));
    assert_eq!(set("2"), Some(0));
}
