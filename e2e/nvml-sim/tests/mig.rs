//! MIG as a program sees it. Needs the right to make device nodes.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{fs, path::PathBuf, sync::LazyLock};

use nvml_wrapper::{Device, Nvml, bitmasks::InitFlags, error::NvmlError};
use tempfile::TempDir;
use tessera_hw::{Artifacts, InstallError, Node, install, mig::table};

static ARTIFACTS: LazyLock<Artifacts> = LazyLock::new(|| Artifacts::build().unwrap());

struct Machine {
    _directory: TempDir,
    root: PathBuf,
}

fn machine(profile: &str) -> Machine {
    let directory = TempDir::new().unwrap();
    let root = directory.path().join("driver");
    install(&root, profile, "node-1", &ARTIFACTS)
        .unwrap_or_else(|error| panic!("these tests need root with CAP_MKNOD: {error}: {error:?}"));
    Machine {
        _directory: directory,
        root,
    }
}

impl Machine {
    fn change<T>(&self, change: impl FnOnce(&mut Node) -> T) -> T {
        let changed = |node: &mut Node| Ok::<_, InstallError>(change(node));
        tessera_hw::install::change(&self.root, changed).unwrap()
    }

    fn cut(&self, gpu: usize, profiles: &[&str]) {
        self.change(|node| node.gpus[gpu].cut(profiles)).unwrap();
    }

    fn nvml(&self) -> Nvml {
        let library = fs::canonicalize(self.root.join("usr/lib64/libnvidia-ml.so.1")).unwrap();
        Nvml::builder()
            .lib_path(library.as_os_str())
            .flags(InitFlags::empty())
            .init()
            .unwrap()
    }
}

fn devices<'n>(gpu: &Device<'n>) -> Vec<Device<'n>> {
    (0..gpu.mig_device_count().unwrap())
        .map_while(|index| gpu.mig_device_by_index(index).ok())
        .collect()
}

fn names(gpu: &Device<'_>) -> Vec<String> {
    let name = |device: &Device<'_>| device.name().unwrap();
    devices(gpu).iter().map(name).collect()
}

#[test]
fn a_gpu_without_mig_says_so_and_one_that_is_whole_has_no_devices() {
    let t4 = machine("t4");
    let nvml = t4.nvml();
    let gpu = nvml.device_by_index(0).unwrap();
    assert!(matches!(gpu.mig_mode(), Err(NvmlError::NotSupported)));
    assert!(matches!(gpu.profile_info(0), Err(NvmlError::NotSupported)));
    drop(nvml);
    let h100 = machine("h100");
    let nvml = h100.nvml();
    let gpu = nvml.device_by_index(0).unwrap();
    assert_eq!(gpu.mig_mode().unwrap().current, 0);
    assert_eq!(gpu.mig_device_count().unwrap(), 0);
    assert!(matches!(
        gpu.mig_device_by_index(0),
        Err(NvmlError::NotFound)
    ));
    assert!(!gpu.mig_is_mig_device_handle().unwrap());
}

#[test]
fn a_layout_shows_at_once_and_every_device_is_found_by_index_and_by_uuid() {
    let machine = machine("h100");
    let nvml = machine.nvml();
    let gpu = nvml.device_by_index(3).unwrap();
    machine.cut(3, &["3g.40gb", "2g.20gb", "1g.10gb"]);
    assert_eq!(gpu.mig_mode().unwrap().current, 1);
    assert_eq!(
        names(&gpu),
        ["3g.40gb", "2g.20gb", "1g.10gb"].map(|size| format!("NVIDIA H100 80GB HBM3 MIG {size}"))
    );
    for device in devices(&gpu) {
        assert!(device.mig_is_mig_device_handle().unwrap());
        let uuid = device.uuid().unwrap();
        assert!(uuid.starts_with("MIG-"), "{uuid}");
        let again = nvml.device_by_uuid(uuid.as_str()).unwrap();
        assert_eq!(again.name().unwrap(), device.name().unwrap());
        let parent = device.mig_parent_device().unwrap();
        assert_eq!(parent.uuid().unwrap(), gpu.uuid().unwrap());
        // It has no minor number of its own here; what is asked of GPUs alone is refused.
        assert!(matches!(device.minor_number(), Err(NvmlError::InvalidArg)));
    }
    let attributes = devices(&gpu)[1].attributes().unwrap();
    assert_eq!(attributes.multiprocessor_count, 32);
    assert_eq!(attributes.gpu_instance_slice_count, 2);
    assert_eq!(attributes.memory_size_mb, 20_096);
    assert_eq!(devices(&gpu)[1].memory_info().unwrap().total, 20_096 << 20);

    let handle = devices(&gpu).remove(0);
    machine.cut(3, &["1g.10gb"]);
    assert_eq!(names(&gpu).len(), 1);
    assert!(matches!(handle.uuid(), Err(NvmlError::InvalidArg)));
}

#[test]
fn profiles_are_told_by_their_index_and_others_are_not_supported() {
    let machine = machine("a100-40g");
    let nvml = machine.nvml();
    let gpu = nvml.device_by_index(0).unwrap();
    for profile in &table("a100-40g").unwrap().profiles {
        let info = gpu.profile_info(profile.index).unwrap();
        assert_eq!((info.id, info.slice_count), (profile.id, profile.slices));
        assert_eq!(info.memory_size_mb, profile.memory_mib);
        assert_eq!(info.instance_count, profile.count());
    }
    assert!(matches!(gpu.profile_info(5), Err(NvmlError::NotSupported)));
    assert!(matches!(gpu.profile_info(17), Err(NvmlError::InvalidArg)));
}

#[test]
fn a_device_whose_capabilities_have_no_nodes_here_is_not_seen() {
    let machine = machine("h100");
    machine.cut(0, &["1g.10gb", "1g.10gb", "1g.10gb"]);
    let nodes = machine.root.join("dev/nvidia-caps");
    // GPU instances 7, 8 and 9, from 3 + 9 * 7 on.
    for (lost, left) in [("nvidia-cap76", 2), ("nvidia-cap66", 1)] {
        fs::remove_file(nodes.join(lost)).unwrap();
        let nvml = machine.nvml();
        let gpu = nvml.device_by_index(0).unwrap();
        assert_eq!(names(&gpu).len(), left, "{lost}");
    }
}

#[test]
fn files_and_nodes_are_those_of_the_instances_and_of_no_others() {
    let machine = machine("h100");
    let listed = |folder: &str| -> Vec<String> {
        let entries = fs::read_dir(machine.root.join(folder))
            .into_iter()
            .flatten();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let mig = "proc/driver/nvidia/capabilities/gpu1/mig";
    let always = ["nvidia-cap1", "nvidia-cap2"];
    assert_eq!(listed("dev/nvidia-caps"), always);
    machine.cut(1, &["4g.40gb", "3g.40gb"]);
    assert_eq!(listed(mig), ["gi1", "gi2"]);
    assert_eq!(listed(&format!("{mig}/gi1")), ["access", "ci0"]);
    // GPU 1 has those from 138 on.
    let nodes = ["147", "148", "156", "157"].map(|minor| format!("nvidia-cap{minor}"));
    assert_eq!(listed("dev/nvidia-caps")[1..5], nodes);
    let text = fs::read_to_string(machine.root.join(format!("{mig}/gi1/access"))).unwrap();
    assert_eq!(
        text,
        "DeviceFileMinor: 147\nDeviceFileMode: 292\nDeviceFileModify: 1\n"
    );
    machine.cut(1, &["7g.80gb"]);
    assert_eq!(listed(mig), ["gi0"]);
    machine.cut(1, &[]);
    assert_eq!(listed(mig), [""; 0]);
    assert!(machine.root.join(mig).exists());
    machine.change(|node| node.gpus[1].uncut()).unwrap();
    assert!(!machine.root.join(mig).exists());
    assert_eq!(listed("dev/nvidia-caps"), always);
}
