//! Runs the program on the simulated driver, with records and notes as the plugin writes them. Directories stand for
//! cgroups.
//!
//! It needs root and the right to make device nodes.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tessera_device::{Bytes, GpuUuid};
use tessera_hw::{Artifacts, InstallError, Replaced, install, upgrade};
use tessera_kubelet_plugin::driver_root::DriverRoot;
use tessera_kubelet_plugin::journal::{Journal, Records as _};
use tessera_kubelet_plugin::locks::GpuLocks;
use tessera_kubelet_plugin::memory_limits::{Cgroups, MemoryLimits, NvmlLimits, Written};
use tessera_prepare::cdi::CdiKind;
use tessera_prepare::testing::share_record;

/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_mins(1);
const GIB: u64 = 1 << 30;

struct Node {
    directory: TempDir,
    gpu: GpuUuid,
}

/// The program, ended with this.
struct Agent {
    process: Child,
    pages: SocketAddr,
}

/// Where an agent of this process serves its pages. The address is nobody else's: a free port of 127.0.0.1 may be the end of
/// somebody's connection in the next moment.
fn pages() -> SocketAddr {
    static LAST: AtomicU16 = AtomicU16::new(9400);
    let [.., high, low] = std::process::id().to_be_bytes();
    let port = LAST.fetch_add(1, Ordering::Relaxed);
    (Ipv4Addr::new(127, 77, high, low), port).into()
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Node {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("driver");
        install(&root, "h200", "node-1", &Artifacts::build().unwrap())
            .unwrap_or_else(|error| panic!("these tests need root with CAP_MKNOD: {error:?}"));
        upgrade(&root, "615.71.09", Replaced::Everything).unwrap();
        let mut node = Self {
            directory,
            gpu: "GPU-00000000-0000-0000-0000-000000000000".parse().unwrap(),
        };
        node.gpu = node.change(|gpu| gpu.facts.uuid.clone()).parse().unwrap();
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn state(&self) -> PathBuf {
        self.path("state/gpu.nvidia.com")
    }

    fn change<T>(&self, change: impl FnOnce(&mut tessera_hw::Gpu) -> T) -> T {
        let changed =
            |node: &mut tessera_hw::Node| Ok::<_, InstallError>(change(&mut node.gpus[0]));
        tessera_hw::install::change(&self.path("driver"), changed).unwrap()
    }

    fn cgroup(&self, name: &str) -> String {
        let path = self.path("cgroup").join(name);
        path.to_str().unwrap().to_owned()
    }

    fn limit_of(&self, name: &str) -> u64 {
        let cgroup = self.cgroup(name);
        self.change(|gpu| gpu.memory_limits(&cgroup).hard)
    }

    fn allocate(&self, name: &str, bytes: u64) -> bool {
        let cgroup = self.cgroup(name);
        self.change(|gpu| {
            let accounting = tessera_hw::memory::Accounting::Misc;
            gpu.allocate(&cgroup, bytes, accounting).is_ok()
        })
    }

    /// Prepares a claim and starts its container, as the plugin does.
    fn start(&self, name: &str, guarantee: u64) {
        let journal = Journal::open(&self.state().join("claims"), CdiKind::claim()).unwrap();
        let mut record = share_record(name, 0, &[("s", guarantee / GIB)]);
        let device = &mut record.devices[0];
        device.gpu = self.gpu.clone();
        device.memory_limit = Some(Bytes(guarantee));
        device.memory_ceiling = Some(Bytes(141 * GIB));
        let (_, share) = device.cdi_id.split_once('=').unwrap();
        let share = share.to_owned();
        journal.write(&record).unwrap();
        let cgroup = PathBuf::from(self.cgroup(name));
        fs::create_dir_all(&cgroup).unwrap();
        fs::write(cgroup.join("cgroup.events"), "populated 1\n").unwrap();
        let operations = NvmlLimits {
            driver_root: DriverRoot::new(self.path("driver"), self.path("driver")),
            cgroups: self.path("cgroup"),
        };
        let notes = Written::new(self.state().join("limits"), Cgroups(self.path("cgroup")));
        let locks = GpuLocks::at(&self.state().join("limit-locks"));
        let limits = MemoryLimits::new(operations, journal, notes, locks);
        let gpu = &self.gpu;
        let line = format!(
            r#"{{"share":"{share}","gpu":"{gpu}","bytes":{guarantee},"cgroup":"/{name}"}}"#
        );
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let held = limits.hold_within(&line, PATIENCE);
        runtime.block_on(held).unwrap();
    }

    fn agent(&self) -> Agent {
        let pages = pages();
        let process = Command::new(env!("CARGO_BIN_EXE_tessera-agent"))
            .arg("--interval=100ms")
            .arg(format!("--http-endpoint={pages}"))
            .arg(format!(
                "--state-directory-path={}",
                self.path("state").display()
            ))
            .arg(format!(
                "--container-driver-root={}",
                self.path("driver").display()
            ))
            .arg(format!("--cgroup-root={}", self.path("cgroup").display()))
            .spawn()
            .unwrap();
        Agent { process, pages }
    }
}

impl Agent {
    fn page(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.pages).ok()?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
        .ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).ok()?;
        Some(page)
    }

    fn status(&self, field: &str) -> u64 {
        let status = Path::new("/proc")
            .join(self.process.id().to_string())
            .join("status");
        let status = fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let number = line.unwrap().trim_start_matches(':').trim();
        number.split(' ').next().unwrap().parse().unwrap()
    }
}

#[track_caller]
fn within_patience(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_share_grows_while_the_agent_runs_and_keeps_its_limit_while_it_does_not() {
    let node = Node::new();
    for name in ["a", "b"] {
        node.start(name, 5 * GIB);
    }
    let first = node.limit_of("a");
    assert!(node.allocate("a", first));
    let agent = node.agent();
    within_patience("the share grows", || node.limit_of("a") > first + GIB);
    within_patience("metrics tell of it", || {
        let page = agent.page("/metrics").unwrap_or_default();
        page.contains("tessera_share_memory_used_bytes{") && page.contains("claim=\"a\"")
    });
    assert!(agent.page("/healthz").unwrap().starts_with("HTTP/1.1 200"));
    drop(agent);
    let kept = node.limit_of("a");
    assert!(node.allocate("a", kept - first));
    assert!(!node.allocate("a", GIB));
    let _next = node.agent();
    within_patience("it grows again", || node.limit_of("a") > kept);
    assert!(node.limit_of("b") >= 5 * GIB);
}

/// The budget is of the shipped program; this one is larger.
#[test]
fn sixty_four_shares_need_few_mebibytes() {
    let node = Node::new();
    for number in 0..64 {
        node.start(&format!("claim-{number}"), GIB);
    }
    let agent = node.agent();
    within_patience("all are seen", || {
        let page = agent.page("/metrics").unwrap_or_default();
        page.matches("tessera_share_memory_used_bytes{").count() == 64
    });
    let resident = agent.status("VmRSS");
    println!("resident: {resident} KiB");
    assert!(resident < 24 * 1024, "{resident} KiB");
}
