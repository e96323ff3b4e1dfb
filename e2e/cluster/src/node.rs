//! A node: what its namespace holds, and how its container runtime and its kubelet are configured.

mod config;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::driver::HARDWARE;
use crate::gates::Gates;
use crate::names::NodeIndex;
use crate::paths::StateDir;
use crate::supervisor::{Endpoint, Mount, Part, Plan};

/// The container runtime's socket, where a real node has it.
pub(crate) const RUNTIME_SOCKET: &str = "/run/containerd/containerd.sock";
/// A driver container shows its driver to the node here; so does the simulated one.
pub(crate) const DRIVER_ROOT: &str = "/run/nvidia/driver";
/// Directories of the machine over which a node mounts its own.
pub(crate) const MOUNT_POINTS: [&str; 2] = ["/var/lib/kubelet", "/etc/cdi"];

/// Kernel settings that the kubelet insists on and would otherwise change for the whole machine.
const TUNABLES: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// The file of a node's boot id, in its directory.
const BOOT_ID: &str = "boot_id";

/// What the parts of a node or of the control plane find in their environment.
pub(crate) fn environment(dir: &StateDir) -> BTreeMap<String, String> {
    let path = format!(
        "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        dir.bin().display()
    );
    BTreeMap::from([
        ("PATH".to_owned(), path),
        ("HOME".to_owned(), "/root".to_owned()),
    ])
}

/// Writes a node's configuration files. Its certificate and kubeconfig are the cluster's to write.
pub(crate) fn write_configuration(
    dir: &StateDir,
    node: NodeIndex,
    gates: &Gates,
) -> io::Result<()> {
    let home = dir.of(&node.name());
    fs::create_dir_all(home.join("cni"))?;
    fs::write(
        home.join("containerd.toml"),
        config::containerd(&home, &dir.bin()),
    )?;
    fs::write(home.join("kubelet.json"), config::kubelet(dir, node, gates))?;
    fs::write(
        home.join("cni/10-tessera.conflist"),
        config::network(&home, node),
    )?;
    // The machine's own may point at a resolver that the node cannot reach.
    fs::write(home.join("resolv.conf"), "")?;
    write_boot_id(&home)?;
    for (name, value) in TUNABLES {
        let file = tunable(&home, name);
        fs::create_dir_all(file.parent().unwrap_or(&home))?;
        fs::write(file, format!("{value}\n"))?;
    }
    Ok(())
}

/// Gives the node the identity of a new boot, as its kubelet will see it.
pub(crate) fn write_boot_id(home: &Path) -> io::Result<()> {
    let id = fs::read("/proc/sys/kernel/random/uuid")?;
    fs::write(home.join(BOOT_ID), id)
}

fn tunable(home: &Path, name: &str) -> PathBuf {
    home.join("sysctl").join(name)
}

/// The plan of a node's first process. `kubelet` is where its program is among those of the cluster.
pub(crate) fn plan(dir: &StateDir, node: NodeIndex, kubelet: &str, has_driver: bool) -> Plan {
    let name = node.name();
    let home = dir.of(&name);
    let kernel = has_driver.then(|| kernel(dir, node));
    let runtime = containerd(dir, node, &home);
    let kubelet = kubelet_part(dir, node, kubelet, has_driver);
    Plan {
        host_name: name.clone(),
        mounts: mounts(&home, Path::new("/var/run").is_symlink()),
        cgroup: Some(node.cgroup()),
        parts: kernel.into_iter().chain([runtime, kubelet]).collect(),
        status: dir.status(&name),
    }
}

/// What stands for the kernel's driver: it changes the GPUs' state for containers, which see the driver
/// root read-only. Simulated, and a part of no real node.
fn kernel(dir: &StateDir, node: NodeIndex) -> Part {
    let argv = [
        dir.bin().join(HARDWARE).display().to_string(),
        "--root".to_owned(),
        DRIVER_ROOT.to_owned(),
        "kernel".to_owned(),
    ];
    Part {
        name: "simulated-kernel".to_owned(),
        argv: argv.into(),
        env: environment(dir),
        log: dir.log(&format!("{}-simulated-kernel", node.name())),
        after: None,
    }
}

fn mounts(home: &Path, var_run_is_run: bool) -> Vec<Mount> {
    let own = |dir: &str, at: &str| Mount::Bind {
        from: home.join(dir),
        at: at.into(),
    };
    let tmpfs = |at: &str| Mount::Tmpfs { at: at.into() };
    let mut mounts = vec![
        Mount::Proc { at: "/proc".into() },
        tmpfs("/run"),
        // A kubelet removes logs of pods that it does not know, so nodes must not share them.
        own("var-log", "/var/log"),
        own("kubelet", "/var/lib/kubelet"),
        own("etc-cdi", "/etc/cdi"),
        tmpfs("/run/cdi"),
        tmpfs("/run/tessera"),
        own("driver", DRIVER_ROOT),
    ];
    if !var_run_is_run {
        mounts.push(Mount::Bind {
            from: "/run".into(),
            at: "/var/run".into(),
        });
    }
    mounts.push(Mount::Bind {
        from: home.join(BOOT_ID),
        at: "/proc/sys/kernel/random/boot_id".into(),
    });
    let private =
        TUNABLES.map(|(name, _)| (tunable(home, name), Path::new("/proc/sys").join(name)));
    // A kernel built without a setting has nothing to protect.
    let present = private.into_iter().filter(|(_, at)| at.exists());
    mounts.extend(present.map(|(from, at)| Mount::Bind { from, at }));
    mounts
}

fn containerd(dir: &StateDir, node: NodeIndex, home: &Path) -> Part {
    let argv = [
        dir.bin().join("containerd").display().to_string(),
        "--config".to_owned(),
        home.join("containerd.toml").display().to_string(),
    ];
    Part {
        name: "containerd".to_owned(),
        argv: argv.into(),
        env: environment(dir),
        log: dir.log(&format!("{}-containerd", node.name())),
        after: None,
    }
}

fn kubelet_part(dir: &StateDir, node: NodeIndex, program: &str, has_driver: bool) -> Part {
    let name = node.name();
    let home = dir.of(&name);
    let mut argv = vec![
        dir.bin().join(program).display().to_string(),
        format!("--config={}", home.join("kubelet.json").display()),
        format!("--kubeconfig={}", dir.kubeconfig(&name).display()),
        format!("--hostname-override={name}"),
        format!("--node-ip={}", node.address()),
        "--root-dir=/var/lib/kubelet".to_owned(),
        "--v=3".to_owned(),
    ];
    if has_driver {
        argv.push("--node-labels=nvidia.com/gpu.present=true".to_owned());
    }
    Part {
        name: "kubelet".to_owned(),
        argv,
        env: environment(dir),
        log: dir.log(&format!("{name}-kubelet")),
        after: Some(Endpoint::Unix(RUNTIME_SOCKET.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_node_with_a_driver_says_that_it_has_gpus() {
        let dir = StateDir::at(Path::new("/state"));
        let node = NodeIndex::first(1).unwrap()[0];
        let label = "--node-labels=nvidia.com/gpu.present=true".to_owned();
        for has_driver in [true, false] {
            let mut parts = plan(&dir, node, "1.33/kubelet", has_driver).parts;
            let kubelet = parts.pop().unwrap();
            assert_eq!(kubelet.argv.contains(&label), has_driver);
            assert_eq!(kubelet.argv[0], "/state/bin/1.33/kubelet");
            let has_kernel = parts.iter().any(|part| part.name == "simulated-kernel");
            assert_eq!(has_kernel, has_driver);
        }
    }

    #[test]
    fn what_lies_in_run_is_mounted_after_run_itself() {
        let mounts = mounts(Path::new("/state/node0"), true);
        let run = mounts
            .iter()
            .position(|m| *m == Mount::Tmpfs { at: "/run".into() })
            .unwrap();
        let below = |m: &Mount| match m {
            Mount::Tmpfs { at } | Mount::Proc { at } | Mount::Bind { at, .. } => {
                at.starts_with("/run") && at != Path::new("/run")
            }
        };
        assert!(mounts.iter().take(run).all(|m| !below(m)));
        assert_eq!(mounts.iter().filter(|m| below(m)).count(), 3);
    }

    #[test]
    fn a_machine_with_two_run_directories_gets_one() {
        let both = Mount::Bind {
            from: "/run".into(),
            at: "/var/run".into(),
        };
        assert!(mounts(Path::new("/n"), false).contains(&both));
        assert!(!mounts(Path::new("/n"), true).contains(&both));
    }
}
