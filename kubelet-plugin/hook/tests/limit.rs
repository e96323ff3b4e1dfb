//! Runs the program as a container runtime does before a container's first process, against the plugin's socket and the
//! simulated driver, on real cgroups of version 2.
//!
//! It needs root, the right to make device nodes, and a hierarchy of version 2, which a host with the former ones has
//! beside them.

#![expect(
    clippy::unwrap_used,
    reason = "a step of a test that cannot be taken ends the test"
)]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tempfile::TempDir;
use tessera_hw::{Artifacts, InstallError, Replaced, install, upgrade};
use tessera_kubelet_plugin::driver_root::DriverRoot;
use tessera_kubelet_plugin::journal::Journal;
use tessera_kubelet_plugin::locks::GpuLocks;
use tessera_kubelet_plugin::memory_limits::{self, Cgroups, MemoryLimits, NvmlLimits, Written};
use tessera_prepare::cdi::CdiKind;
use tokio_util::sync::CancellationToken;

const HOOK: &str = env!("CARGO_BIN_EXE_tessera-cdi-hook");
const GIB: u64 = 1 << 30;

/// Where the hierarchy of version 2 is.
fn hierarchy() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut mounts = mounts.lines().map(|line| line.split(' '));
    let found = mounts.find_map(|mut words| {
        let path = words.nth(1)?;
        (words.next()? == "cgroup2").then(|| PathBuf::from(path))
    });
    found.expect("these tests need a cgroup2 file system")
}

/// The cgroup of a test, with those of its containers below.
struct Pod {
    path: PathBuf,
}

impl Pod {
    fn new(name: &str) -> Self {
        let path = hierarchy().join(format!("tessera-{name}-{}", std::process::id()));
        fs::create_dir(&path).expect("these tests need the right to make cgroups");
        Self { path }
    }

    /// A container whose process is made and runs nothing of it yet.
    fn container(&self, name: &str) -> Container {
        let cgroup = self.path.join(name);
        fs::create_dir(&cgroup).unwrap();
        let process = Command::new("sleep").arg("600").spawn().unwrap();
        fs::write(cgroup.join("cgroup.procs"), process.id().to_string()).unwrap();
        Container { cgroup, process }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

struct Container {
    cgroup: PathBuf,
    process: Child,
}

impl Container {
    fn end(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.end();
        let _ = fs::remove_dir(&self.cgroup);
    }
}

/// A node with a driver of this version and a plugin that serves hooks.
struct Node {
    directory: TempDir,
    stop: CancellationToken,
    serving: Option<JoinHandle<()>>,
}

impl Node {
    fn new(driver: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let root = directory.path().join("driver");
        install(&root, "h200", "node-1", &Artifacts::build().unwrap())
            .unwrap_or_else(|error| panic!("these tests need root with CAP_MKNOD: {error:?}"));
        upgrade(&root, driver, Replaced::Everything).unwrap();
        let operations = NvmlLimits {
            driver_root: DriverRoot::new(&root, &root),
            cgroups: hierarchy(),
        };
        let notes = directory.path().join("limits");
        let journal = Journal::reading(&directory.path().join("claims"), CdiKind::claim());
        let notes = Written::new(notes, Cgroups(hierarchy()));
        let locks = GpuLocks::at(&directory.path().join("locks"));
        let limits = MemoryLimits::new(operations, journal, notes, locks);
        let stop = CancellationToken::new();
        let (socket, stopped) = (directory.path().join("memory.sock"), stop.clone());
        let serving = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(memory_limits::serve(Arc::new(limits), socket, stopped));
        });
        Self {
            directory,
            stop,
            serving: Some(serving),
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut tessera_hw::Gpu) -> T) -> T {
        let changed =
            |node: &mut tessera_hw::Node| Ok::<_, InstallError>(change(&mut node.gpus[0]));
        tessera_hw::install::change(&self.directory.path().join("driver"), changed).unwrap()
    }

    /// What the simulated driver says of a cgroup's limit.
    fn hard(&self, cgroup: &Path) -> u64 {
        let path = cgroup.to_str().unwrap();
        self.change(|gpu| gpu.memory_limits(path).hard)
    }

    fn run(&self, share: &str, gib: u64, container: &Container) -> Output {
        let gpu = self.change(|gpu| gpu.facts.uuid.clone());
        let socket = self.directory.path().join("memory.sock");
        let mut hook = Command::new(HOOK)
            .arg("limit-memory")
            .arg(format!("--socket={}", socket.display()))
            .args(["--share", share, "--gpu", &gpu])
            .args(["--bytes", &(gib * GIB).to_string()])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = container.process.id();
        let state = format!(
            r#"{{"ociVersion":"1.2.0","id":"a","status":"creating","pid":{pid},"bundle":"/b"}}"#
        );
        hook.stdin
            .take()
            .unwrap()
            .write_all(state.as_bytes())
            .unwrap();
        hook.wait_with_output().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
        let _ = self.serving.take().map(JoinHandle::join);
    }
}

#[track_caller]
fn refusal(output: &Output) -> String {
    assert_eq!(
        output.status.code(),
        Some(1),
        "the container must not start"
    );
    let message = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

#[test]
fn a_container_is_limited_before_it_runs_and_its_share_is_free_when_it_is_gone() {
    let (node, pod) = (Node::new("615.71.09"), Pod::new("limited"));
    let mut first = pod.container("first");
    let second = pod.container("second");
    for _ in 0..2 {
        let done = node.run("a-gpu-0_s-1", 5, &first);
        assert!(done.status.success(), "{done:?}");
    }
    assert_eq!(node.hard(&first.cgroup), 5 * GIB);
    let path = first.cgroup.to_str().unwrap().to_owned();
    let allocate =
        |bytes| node.change(|gpu| gpu.allocate(&path, bytes, tessera_hw::memory::Accounting::Misc));
    allocate(5 * GIB).unwrap();
    allocate(1).unwrap_err();

    // A second container at the same time would have as much again.
    let message = refusal(&node.run("a-gpu-0_s-1", 5, &second));
    assert!(message.contains("another container"), "{message}");
    assert_eq!(node.hard(&second.cgroup), u64::MAX);
    first.end();
    let done = node.run("a-gpu-0_s-1", 5, &second);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(node.hard(&second.cgroup), 5 * GIB);
}

#[test]
fn where_the_driver_holds_nothing_no_container_starts() {
    let (node, pod) = (Node::new("580.95.05"), Pod::new("unlimited"));
    let container = pod.container("first");
    let message = refusal(&node.run("a-gpu-0_s-1", 5, &container));
    assert!(message.contains("R615"), "{message}");
}
