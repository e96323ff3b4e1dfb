//! What an installation looks like from outside. Needs the right to make device nodes.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;
use tessera_hw::{
    Artifacts, InstallError, Installed,
    install::{Replaced, find_state, install, uninstall, upgrade},
    profile,
};

/// Files that stand for the built programs: their contents do not matter here.
fn artifacts(directory: &Path) -> Artifacts {
    let write = |name: &str| {
        let path = directory.join(name);
        fs::write(&path, name).unwrap();
        path
    };
    Artifacts {
        nvml: write("nvml"),
        nvidia_smi: write("smi"),
    }
}

struct Node {
    directory: TempDir,
    root: PathBuf,
    installed: Installed,
}

fn node(profile: &str) -> Node {
    let directory = TempDir::new().unwrap();
    let root = directory.path().join("driver");
    let installed = install(&root, profile, "node-1", &artifacts(directory.path()))
        .unwrap_or_else(|error| panic!("these tests need root with CAP_MKNOD: {error}: {error:?}"));
    Node {
        directory,
        root,
        installed,
    }
}

#[test]
fn every_profile_can_be_installed_and_its_state_is_found_from_the_root() {
    for profile in profile::names() {
        let node = node(profile);
        let (_, state) = find_state(&node.root).unwrap().read().unwrap();
        assert_eq!(
            (state.name.as_str(), state.profile.as_str()),
            ("node-1", profile)
        );
        assert_eq!(state.driver.version, node.installed.driver_version);
        let nodes = state.gpus.iter().filter(|gpu| {
            let path = node.root.join(format!("dev/nvidia{}", gpu.facts.minor));
            path.metadata().unwrap().file_type().is_char_device()
        });
        assert_eq!(nodes.count(), state.gpus.len(), "{profile}");
    }
}

#[test]
fn device_nodes_have_the_drivers_numbers_and_everybody_may_use_them() {
    let node = node("h100");
    for (name, major, minor) in [
        ("nvidia0", 195, 0),
        ("nvidia7", 195, 7),
        ("nvidiactl", 195, 255),
        ("nvidia-modeset", 195, 254),
        ("nvidia-uvm", 511, 0),
        ("nvidia-uvm-tools", 511, 1),
    ] {
        let metadata = fs::metadata(node.root.join("dev").join(name)).unwrap();
        let device = metadata.rdev();
        assert_eq!(
            (rustix::fs::major(device), rustix::fs::minor(device)),
            (major, minor),
            "{name}"
        );
        assert_eq!(metadata.permissions().mode() & 0o777, 0o666, "{name}");
    }
}

#[test]
fn the_kernels_files_lead_from_an_address_to_the_numa_node_and_the_host_bridge() {
    let node = node("h100");
    let device = node
        .root
        .join("sys/bus/pci/devices/0000:9a:00.0")
        .canonicalize()
        .unwrap();
    let devices = node.root.canonicalize().unwrap().join("sys/devices");
    assert_eq!(
        device.strip_prefix(devices).unwrap(),
        Path::new("pci0000:97/0000:97:01.0/0000:98:00.0/0000:99:00.0/0000:9a:00.0")
    );
    let read = |name: &str| fs::read_to_string(device.join(name)).unwrap();
    assert_eq!(read("numa_node"), "1\n");
    assert_eq!(
        (read("vendor").as_str(), read("device").as_str()),
        ("0x10de\n", "0x2330\n")
    );
    let information = "proc/driver/nvidia/gpus/0000:9a:00.0/information";
    let information = fs::read_to_string(node.root.join(information)).unwrap();
    assert!(
        information.contains("Device Minor: \t 4\n"),
        "{information}"
    );
}

#[test]
fn the_kernel_lists_the_major_number_of_imex_channels_and_how_many_there_are() {
    let node = node("gb200");
    let devices = fs::read_to_string(node.root.join("proc/devices")).unwrap();
    let (characters, _) = devices.split_once("\n\nBlock devices:\n").unwrap();
    assert!(
        characters.contains("\n234 nvidia-caps-imex-channels\n"),
        "{devices}"
    );
    let params = fs::read_to_string(node.root.join("proc/driver/nvidia/params")).unwrap();
    assert!(params.contains("\nImexChannelCount: 2048\n"), "{params}");
}

#[test]
fn a_machine_whose_firmware_names_no_numa_node_says_minus_one() {
    let node = node("t4");
    let path = node.root.join("sys/bus/pci/devices/0000:00:1b.0/numa_node");
    assert_eq!(fs::read_to_string(path).unwrap(), "-1\n");
}

#[test]
fn the_loaders_cache_takes_every_library_up() {
    let node = node("h100");
    fs::write(
        node.root.join("usr/lib64/libnvidia-ml.so.580.95.05"),
        "not an object here",
    )
    .unwrap();
    let root = node.root.to_str().unwrap();
    fs::create_dir_all(node.root.join("etc")).unwrap();
    fs::write(node.root.join("etc/ld.so.conf"), "/usr/lib64\n").unwrap();
    let made = Command::new("ldconfig")
        .args(["-r", root])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let listed = Command::new("ldconfig")
        .args(["-r", root, "-p"])
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for name in [
        "libcuda.so.1",
        "libnvidia-ptxjitcompiler.so.1",
        "libnvidia-nvvm.so.4",
    ] {
        assert!(
            listed.contains(&format!("{name} (libc6")),
            "{name} in {listed}"
        );
    }
}

#[test]
fn the_loader_opens_the_stand_in_libraries() {
    let node = node("h100");
    let library = node.root.join("usr/lib64/libcuda.so.1");
    let output = Command::new("/bin/true")
        .env("LD_PRELOAD", &library)
        .output()
        .unwrap();
    // The loader complains on standard error about what it cannot load, and goes on.
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success());
    let refused = Command::new("/bin/true")
        .env("LD_PRELOAD", node.root.join("x"))
        .output()
        .unwrap();
    assert!(
        !refused.stderr.is_empty(),
        "the loader would have said nothing anyhow"
    );
}

#[test]
fn programs_can_be_run_and_say_that_they_are_simulated() {
    let node = node("h100");
    let output = Command::new(node.root.join("usr/bin/nvidia-persistenced"))
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("simulated"),
        "{output:?}"
    );
    let smi = node.root.join("usr/bin/nvidia-smi").metadata().unwrap();
    assert_eq!(smi.permissions().mode() & 0o777, 0o755);
}

#[test]
fn another_installation_takes_the_place_of_the_first() {
    let node = node("h100");
    install(
        &node.root,
        "t4",
        "node-1",
        &artifacts(node.directory.path()),
    )
    .unwrap();
    let (_, state) = find_state(&node.root).unwrap().read().unwrap();
    assert_eq!(state.profile, "t4");
    assert!(!node.root.join("dev/nvidia7").exists());
}

#[test]
fn uninstalling_leaves_an_empty_root_and_can_be_repeated() {
    let node = node("h100");
    for _ in 0..2 {
        uninstall(&node.root).unwrap();
        assert_eq!(fs::read_dir(&node.root).unwrap().count(), 0);
    }
    assert!(matches!(
        find_state(&node.root),
        Err(InstallError::Absent { .. })
    ));
}

#[test]
fn a_directory_with_other_contents_is_left_alone() {
    let directory = TempDir::new().unwrap();
    fs::create_dir(directory.path().join("usr")).unwrap();
    let artifacts = artifacts(directory.path());
    for outcome in [
        install(directory.path(), "h100", "node-1", &artifacts).map(drop),
        uninstall(directory.path()),
    ] {
        assert!(
            matches!(outcome, Err(InstallError::Foreign { .. })),
            "{outcome:?}"
        );
    }
    assert!(directory.path().join("usr").exists());
}

#[test]
fn another_version_replaces_files_and_modules_and_keeps_the_gpus() {
    let node = node("h100");
    let heat = |node: &mut tessera_hw::Node| node.gpus[1].condition.temperature = 91;
    node.installed.state.update(heat).unwrap();
    let before = node.installed.state.read().unwrap().1;
    let open = node.installed.state.watch().unwrap();

    let upgraded = upgrade(&node.root, "590.48.01", Replaced::Everything).unwrap();
    let (_, after) = find_state(&node.root).unwrap().read().unwrap();
    assert_eq!(after.driver.version, "590.48.01");
    assert_eq!(after.gpus, before.gpus);
    assert_eq!(upgraded.driver_version, "590.48.01");
    let said = |path: &str| fs::read_to_string(node.root.join(path)).unwrap();
    assert!(said("proc/driver/nvidia/version").contains("590.48.01"));
    assert_eq!(said("sys/module/nvidia/version"), "590.48.01\n");
    assert_eq!(said("usr/lib64/libnvidia-ml.so.1"), "nvml");
    assert!(node.root.join("usr/lib64/libcuda.so.590.48.01").exists());
    assert!(!node.root.join("usr/lib64/libcuda.so.580.95.05").exists());
    assert!(node.root.join("dev/nvidia0").exists());
    let mut names: Vec<_> = fs::read_dir(&node.root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["SIMULATED-DRIVER", "dev", "lib", "proc", "sys", "usr"]
    );
    // Whoever has the former state open sees that the kernel's driver is another one.
    assert_eq!(open.generation().unwrap(), 3);
}

#[test]
fn files_alone_are_replaced_while_the_modules_stay() {
    let node = node("h100");
    upgrade(&node.root, "590.48.01", Replaced::Files).unwrap();
    let (_, state) = find_state(&node.root).unwrap().read().unwrap();
    assert_eq!(state.driver.version, "580.95.05");
    assert!(node.root.join("usr/lib64/libcuda.so.590.48.01").exists());
    let module = fs::read_to_string(node.root.join("sys/module/nvidia/version")).unwrap();
    assert_eq!(module, "580.95.05\n");
}
