//! Several processes at one state: the command line is the process.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    path::Path,
    process::{Command, Output},
    thread,
};

use tempfile::TempDir;
use tessera_hw::{Profile, StateFile};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tessera-hw");

/// A root with a state and nothing else, which needs no rights to make.
fn root() -> (TempDir, StateFile) {
    let directory = TempDir::new().unwrap();
    let firmware = directory.path().join("lib/firmware/nvidia/580.95.05");
    std::fs::create_dir_all(&firmware).unwrap();
    let node = Profile::load("h100").unwrap().instantiate("node-1");
    let state = StateFile::create(firmware.join("gsp_ga10x.bin"), &node).unwrap();
    (directory, state)
}

fn run(root: &Path, arguments: &[&str]) -> Output {
    Command::new(PROGRAM)
        .arg("--root")
        .arg(root)
        .args(arguments)
        .output()
        .unwrap()
}

#[track_caller]
fn succeed(root: &Path, arguments: &[&str]) -> String {
    let output = run(root, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn changes_of_processes_at_the_same_time_are_all_kept() {
    const PROCESSES: usize = 4;
    const CHANGES: usize = 8;
    let (directory, state) = root();
    thread::scope(|scope| {
        for process in 0..PROCESSES {
            let root = directory.path();
            scope.spawn(move || {
                for change in 0..CHANGES {
                    succeed(
                        root,
                        &["die", &format!("f{process}x{change}"), "--at", "1000"],
                    );
                }
            });
        }
    });
    let (generation, node) = state.read().unwrap();
    assert_eq!(node.injections.len(), PROCESSES * CHANGES);
    assert_eq!(generation, 1 + (PROCESSES * CHANGES) as u64);
}

#[test]
fn threads_of_one_process_exclude_each_other_too() {
    const THREADS: usize = 8;
    const CHANGES: u64 = 50;
    let (_directory, state) = root();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..CHANGES {
                    state
                        .update(|node| node.gpus[0].condition.correctable_errors += 1)
                        .unwrap();
                    state.read().unwrap();
                }
            });
        }
    });
    let (_, node) = state.read().unwrap();
    assert_eq!(
        node.gpus[0].condition.correctable_errors,
        THREADS as u64 * CHANGES
    );
}

#[test]
fn each_command_does_to_the_node_what_it_says() {
    let (directory, state) = root();
    let root = directory.path();
    let shown = succeed(root, &["show"]);
    assert!(
        shown.starts_with("node-1: 8 simulated GPUs (profile h100), driver 580.95.05"),
        "{shown}"
    );

    assert!(succeed(root, &["lose", "3"]).contains("LOST"));
    assert!(!succeed(root, &["restore", "0000:5d:00.0"]).contains("LOST"));
    assert!(succeed(root, &["start-reset", "3"]).contains("BEING RESET"));
    assert!(!succeed(root, &["restore", "3"]).contains("BEING RESET"));
    let set = succeed(
        root,
        &["set", "1", "--temperature", "91", "--memory-used", "1024"],
    );
    assert!(set.contains("91C  100W  1024/81559MiB"), "{set}");
    let fail = succeed(
        root,
        &[
            "fail",
            "nvmlDeviceGetName",
            "--at",
            "2",
            "--code",
            "GPU_IS_LOST",
        ],
    );
    assert!(
        fail.contains("injected: nvmlDeviceGetName returns 15 at call 2 (0 seen)"),
        "{fail}"
    );
    let delay = succeed(root, &["delay", "nvmlInit", "--always", "--millis", "5"]);
    assert!(
        delay.contains("injected: nvmlInit takes 5 ms longer from call 1 on"),
        "{delay}"
    );
    succeed(root, &["die", "nvmlShutdown"]);
    let die = succeed(root, &["die", "any", "--at", "7", "--process", "program"]);
    assert!(
        die.contains("injected: any kills its caller at call 7 of each process of program"),
        "{die}"
    );
    let hang = succeed(root, &["hang", "nvmlInit"]);
    assert!(
        hang.contains("injected: nvmlInit hangs until it is released at call 1"),
        "{hang}"
    );

    let released = succeed(root, &["release"]);
    assert!(
        released.contains("91C") && !released.contains("injected"),
        "{released}"
    );
    succeed(root, &["reset"]);
    let (_, node) = state.read().unwrap();
    let fresh = Profile::load("h100").unwrap().instantiate("node-1");
    assert_eq!((node.gpus, node.injections), (fresh.gpus, vec![]));
}

#[test]
fn what_is_held_is_shown_until_it_is_let_go() {
    let (directory, state) = root();
    let root = directory.path();
    succeed(root, &["cut", "1", "3g.40gb"]);
    assert!(succeed(root, &["hold", "1"]).contains("held"));
    let held = succeed(root, &["hold", "1", "--gpu-instance", "1"]);
    assert!(held.contains("GPU instance 1 is held"), "{held}");
    let refused = run(root, &["hold", "1", "--gpu-instance", "9"]);
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(message.contains("has no GPU instance 9"), "{message}");
    succeed(root, &["let-go", "1", "--gpu-instance", "1"]);
    assert!(!succeed(root, &["let-go", "1"]).contains("held"));
    let (_, node) = state.read().unwrap();
    assert!(!node.gpus[1].condition.held && node.gpus[1].condition.mig.held.is_empty());
}

#[test]
fn what_is_not_there_is_an_error_with_a_remedy_and_changes_nothing() {
    let (directory, state) = root();
    for (arguments, remedy) in [
        (&["lose", "8"][..], "name a minor number from 0 to 7"),
        (
            &["fail", "nvmlInit", "--code", "LOST"],
            "a name such as GPU_IS_LOST",
        ),
        (&["fail", "nvmlInit"], "--code"),
    ] {
        let output = run(directory.path(), arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && message.contains(remedy),
            "{arguments:?}: {message}"
        );
    }
    let node = Profile::load("h100").unwrap().instantiate("node-1");
    assert_eq!(state.read().unwrap().1, node);
    let output = run(Path::new("/nonexistent"), &["show"]);
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("install one with"),
        "{output:?}"
    );
}

#[test]
fn on_a_read_only_mount_the_state_can_be_shown_and_not_changed() {
    let (directory, _state) = root();
    // The mount lives in a namespace of its own and dies with its shell.
    let script =
        "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && shift && exec \"$@\"";
    let in_namespace = |command: &str| {
        Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh"])
            .args([
                directory.path(),
                Path::new(PROGRAM),
                Path::new("--root"),
                directory.path(),
            ])
            .args(command.split(' '))
            .output()
            .unwrap()
    };
    let shown = in_namespace("show");
    assert!(shown.status.success(), "this test needs root: {shown:?}");
    let refused = in_namespace("lose 0");
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && message.contains("it is read-only here"),
        "{message}"
    );
}
