use std::collections::BTreeSet;

use tessera_device::testing::{cut, gpu};

use super::*;
use crate::cdi::{DriverLink, LimitHook, limit_in};

const VERSION: &str = "580.95.05";

fn file(root: &str, path: &str) -> DriverFile {
    DriverFile {
        host: format!("{root}{path}"),
        container: path.to_owned(),
    }
}

/// A driver container's root.
fn install() -> DriverInstall {
    let root = "/run/nvidia/driver";
    let at = |path: &str| file(root, path);
    DriverInstall {
        libraries: vec![
            at(&format!("/usr/lib64/libcuda.so.{VERSION}")),
            at(&format!("/usr/lib64/libnvidia-ml.so.{VERSION}")),
        ],
        links: vec![
            DriverLink {
                target: "libcuda.so.1".to_owned(),
                link: "/usr/lib64/libcuda.so".to_owned(),
            },
            DriverLink {
                target: format!("libcuda.so.{VERSION}"),
                link: "/usr/lib64/libcuda.so.1".to_owned(),
            },
        ],
        binaries: vec![at("/usr/bin/nvidia-smi")],
        firmware: vec![at(&format!(
            "/usr/lib/firmware/nvidia/{VERSION}/gsp_ga10x.bin"
        ))],
        sockets: vec![at("/run/nvidia-persistenced/socket")],
        control_nodes: vec![at("/dev/nvidiactl"), at("/dev/nvidia-uvm")],
        gpu_nodes: format!("{root}/dev"),
        drm_nodes: BTreeMap::from([(
            gpu(0).pci,
            vec![at("/dev/dri/card1"), at("/dev/dri/renderD128")],
        )]),
        hook: Some("/var/lib/kubelet/plugins/gpu.nvidia.com/tessera-cdi-hook".to_owned()),
        ldconfig: Some("/run/nvidia/driver/sbin/ldconfig".to_owned()),
        limit_hook: LimitHook {
            program: "/var/lib/kubelet/plugins/gpu.nvidia.com/tessera-cdi-hook".to_owned(),
            socket: "/var/lib/kubelet/plugins/gpu.nvidia.com/memory.sock".to_owned(),
        },
    }
}

fn render(claim: &str, gpus: &[Gpu], install: &DriverInstall) -> Spec {
    let parts = gpus.iter().flat_map(Gpu::offered);
    let edits: Vec<GpuEdits<'_>> = parts
        .map(|part| GpuEdits {
            name: format!("{claim}-{}", part.name()),
            gpu: part.gpu,
            instance: part.instance,
            variable: None,
            memory_limit: None,
        })
        .collect();
    claim_spec(&CdiKind::claim(), &edits, install)
}

fn json(spec: &Spec) -> String {
    String::from_utf8(spec.to_json()).unwrap()
}

const CLAIM: &str = "0f2d6a3e-9a55-4f0c-8c8e-0a9be8a1c001";
const OTHER_CLAIM: &str = "7b1c0000-9a55-4f0c-8c8e-0a9be8a1c002";

#[test]
fn a_claim_of_one_gpu_out_of_a_driver_container() {
    insta::assert_snapshot!(json(&render(CLAIM, &[gpu(0)], &install())));
}

#[test]
fn a_claim_of_three_gpus_of_a_driver_on_the_host() {
    let root_free = |files: &mut Vec<DriverFile>| {
        for file in files {
            file.host.clone_from(&file.container);
        }
    };
    let mut install = install();
    root_free(&mut install.libraries);
    root_free(&mut install.binaries);
    root_free(&mut install.firmware);
    root_free(&mut install.sockets);
    root_free(&mut install.control_nodes);
    install.drm_nodes.values_mut().for_each(root_free);
    "/dev".clone_into(&mut install.gpu_nodes);
    install.ldconfig = Some("/sbin/ldconfig".to_owned());
    insta::assert_snapshot!(json(&render(CLAIM, &[gpu(0), gpu(1), gpu(2)], &install)));
}

#[test]
fn a_claim_of_two_mig_devices_of_one_gpu() {
    let cut = cut(gpu(0), &["3g.40gb", "1g.10gb"]);
    insta::assert_snapshot!(json(&render(CLAIM, &[cut], &install())));
}

#[test]
fn without_a_hook_program_there_are_no_hooks() {
    let install = DriverInstall {
        hook: None,
        ..install()
    };
    let spec = render(CLAIM, &[gpu(0)], &install);
    assert!(spec.container_edits().hooks.is_empty());
}

#[test]
fn without_an_ldconfig_of_the_driver_the_hook_is_left_to_find_the_hosts() {
    let install = DriverInstall {
        ldconfig: None,
        ..install()
    };
    let spec = render(CLAIM, &[gpu(0)], &install);
    let update = &spec.container_edits().hooks[1];
    assert_eq!(
        update.args,
        [
            "tessera-cdi-hook",
            "update-ldcache",
            "--folder",
            "/usr/lib64"
        ]
    );
}

#[test]
fn a_gpus_nodes_go_to_its_own_device_only() {
    let spec = render(CLAIM, &[gpu(0), gpu(1)], &install());
    let paths = |edits: &ContainerEdits| -> Vec<String> {
        edits
            .device_nodes
            .iter()
            .map(|node| node.path.clone())
            .collect()
    };
    assert_eq!(
        paths(&spec.devices()[0].container_edits),
        ["/dev/nvidia0", "/dev/dri/card1", "/dev/dri/renderD128"]
    );
    assert_eq!(paths(&spec.devices()[1].container_edits), ["/dev/nvidia1"]);
    assert_eq!(
        paths(spec.container_edits()),
        ["/dev/nvidiactl", "/dev/nvidia-uvm"]
    );
}

/// What runtimes make of the specs of two claims in one container: device nodes and mounts by
/// their path, the later in place of the earlier, and hooks one after the other.
#[test]
fn two_claims_in_one_container_agree_on_everything_they_have_in_common() {
    let first = render(CLAIM, &[gpu(0)], &install());
    let second = render(OTHER_CLAIM, &[gpu(1)], &install());
    assert_eq!(first.container_edits(), second.container_edits());

    let nodes: BTreeSet<&str> = [&first, &second]
        .into_iter()
        .flat_map(Spec::devices)
        .flat_map(|device| &device.container_edits.device_nodes)
        .map(|node| node.path.as_str())
        .collect();
    assert_eq!(
        nodes.into_iter().collect::<Vec<_>>(),
        [
            "/dev/dri/card1",
            "/dev/dri/renderD128",
            "/dev/nvidia0",
            "/dev/nvidia1"
        ]
    );
    let names: BTreeSet<&str> = [&first, &second]
        .into_iter()
        .flat_map(Spec::devices)
        .map(|device| device.name.as_str())
        .collect();
    assert_eq!(names.len(), 2, "device names are global on a node");
}

#[test]
fn every_spec_keeps_the_nvidia_runtime_from_adding_gpus() {
    let spec = render(CLAIM, &[gpu(0)], &DriverInstall::default());
    assert_eq!(spec.container_edits().env, ["NVIDIA_VISIBLE_DEVICES=void"]);
}

/// The rules by which loaders refuse a whole spec (CDI `SPEC.md`, "Container edits"; the Go
/// library's `validate`).
#[test]
fn a_spec_breaks_no_rule_of_the_format() {
    let spec = render(CLAIM, &[gpu(0), gpu(1)], &install());
    let name_byte = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
    for device in spec.devices() {
        assert!(device.name.bytes().all(name_byte), "{}", device.name);
        assert!(!device.container_edits.is_empty(), "{}", device.name);
    }
    let edits = spec.container_edits();
    for env in &edits.env {
        assert!(env.find('=').is_some_and(|at| at > 0), "{env}");
    }
    let nodes = spec.devices().iter().map(|device| &device.container_edits);
    for node in nodes.chain([edits]).flat_map(|edits| &edits.device_nodes) {
        assert!(node.path.starts_with("/dev/"), "{node:?}");
    }
    for mount in &edits.mounts {
        assert!(mount.host_path.starts_with('/'), "{mount:?}");
        assert!(mount.container_path.starts_with('/'), "{mount:?}");
    }
    for hook in &edits.hooks {
        assert_eq!(hook.hook_name, "createContainer");
        assert!(hook.path.starts_with('/'), "{hook:?}");
        assert!(hook.timeout.is_none_or(|seconds| seconds > 0), "{hook:?}");
    }
}

#[test]
fn a_gpu_that_a_claim_has_twice_is_in_its_spec_once() {
    let once = render(CLAIM, &[gpu(0)], &install());
    let twice = render(CLAIM, &[gpu(0), gpu(0)], &install());
    assert_eq!(json(&twice), json(&once));
}

#[test]
fn a_share_that_is_held_has_its_container_limited_before_it_runs_and_others_do_not() {
    let gpu = gpu(0);
    let edits = |name: &str, memory_limit| GpuEdits {
        name: name.to_owned(),
        gpu: &gpu,
        instance: None,
        variable: None,
        memory_limit,
    };
    let gpus = [
        edits("a-gpu-0_s-1", Some(Bytes::from_mib(5 << 10))),
        edits("a-gpu-0_s-2", None),
    ];
    let spec = claim_spec(&CdiKind::claim(), &gpus, &install());
    let [held, free] = spec.devices() else {
        panic!("two devices");
    };
    assert!(free.container_edits.hooks.is_empty());
    let [hook] = held.container_edits.hooks.as_slice() else {
        panic!("one hook");
    };
    // In this phase a runtime has made the cgroup, and gives up on the container if a hook fails.
    assert_eq!(hook.hook_name, "createRuntime");
    let uuid = gpu.uuid.as_str();
    let expected = [
        "tessera-cdi-hook",
        "limit-memory",
        "--socket",
        "/var/lib/kubelet/plugins/gpu.nvidia.com/memory.sock",
        "--share",
        "a-gpu-0_s-1",
        "--gpu",
        uuid,
        "--bytes",
        "5368709120",
    ];
    assert_eq!(hook.args, expected);
    let limit_of = |name| limit_in(&spec.to_json(), name);
    assert_eq!(limit_of("a-gpu-0_s-1"), Some(Bytes::from_mib(5 << 10)));
    assert_eq!(limit_of("a-gpu-0_s-2"), None);
    assert_eq!(limit_in(b"devices:", "a-gpu-0_s-1"), None);
    assert!(held.container_edits.env.is_empty());
}
