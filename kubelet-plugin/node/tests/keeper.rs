//! The plugin's program as its container runs it: a keeper and its worker, killed and told to stop.
//!
//! There is no API server and no driver here; the sockets are served without either.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tessera_proto::pluginregistration::InfoRequest;
use tessera_proto::pluginregistration::registration_client::RegistrationClient;
use tessera_proto::{SocketPaths, client};

/// Far more than a step needs.
const LIMIT: Duration = Duration::from_mins(1);

const POD: &str = "5dcdd1a3-5d1a-4b4a-9c4c-0b1a2c3d4e5f";

const KUBECONFIG: &str = r#"{"apiVersion":"v1","kind":"Config","current-context":"c",
"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],"users":[{"name":"u","user":{}}],
"clusters":[{"name":"c","cluster":{"server":"http://127.0.0.1:1"}}]}"#;

/// A running plugin with directories of its own.
struct Plugin {
    root: tempfile::TempDir,
    keeper: Child,
}

impl Plugin {
    fn start(options: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::write(at("kubeconfig"), KUBECONFIG).unwrap();
        fs::write(at("hook"), "").unwrap();
        fs::create_dir(at("driver")).unwrap();
        let path = |flag: &str, name: &str| format!("--{flag}={}", at(name).display());
        let keeper = Command::new(env!("CARGO_BIN_EXE_tessera-kubelet-plugin"))
            .env_clear()
            .args(["--node-name=node-a", &format!("--pod-uid={POD}")])
            .args([path("kubeconfig", "kubeconfig"), path("cdi-root", "cdi")])
            .args([
                path("container-driver-root", "driver"),
                path("bundled-cdi-hook", "hook"),
            ])
            .arg(path("state-directory-path", "state"))
            .arg(path("kubelet-registrar-directory-path", "r"))
            .arg(path("kubelet-plugins-directory-path", "p"))
            .args(options)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { root, keeper }
    }

    fn sockets(&self) -> SocketPaths {
        let (registrar, plugins) = (self.root.path().join("r"), self.root.path().join("p"));
        SocketPaths::new(&registrar, &plugins, "gpu.nvidia.com", Some(POD)).unwrap()
    }

    /// Asks who the driver is, as the kubelet does.
    fn answers(&self) {
        let sockets = self.sockets();
        let path = sockets.registration.as_socket_path();
        // The file is there a moment before it takes connections.
        until("the socket to take connections", || {
            UnixStream::connect(path.as_path()).ok()
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            let channel = client::connect(path, LIMIT).await.unwrap();
            let asked = RegistrationClient::new(channel)
                .get_info(InfoRequest {})
                .await;
            assert_eq!(asked.unwrap().into_inner().name, "gpu.nvidia.com");
        });
    }

    fn worker(&self) -> Pid {
        until("a worker", || child_of(self.keeper.id()))
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.keeper), signal).unwrap();
    }

    fn ended(&mut self) -> ExitStatus {
        until("the keeper to end", || self.keeper.try_wait().unwrap())
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        // Its worker dies with it.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

#[track_caller]
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A child of this process that is not dead already.
fn child_of(parent: u32) -> Option<Pid> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let found = pids.find(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let says = |line: &str| status.lines().any(|found| found == line);
        says(&format!("PPid:\t{parent}")) && !says("State:\tZ (zombie)")
    });
    found.and_then(Pid::from_raw)
}

fn runs(pid: Pid) -> bool {
    Path::new("/proc")
        .join(pid.as_raw_nonzero().to_string())
        .exists()
}

#[test]
fn a_killed_worker_is_replaced_on_the_same_sockets_and_a_stop_takes_them_away() {
    let mut plugin = Plugin::start(&[]);
    plugin.answers();
    let sockets = plugin.sockets();
    let inode = || fs::metadata(sockets.dra.as_path()).unwrap().ino();
    let (first, bound) = (plugin.worker(), inode());
    kill_process(first, Signal::KILL).unwrap();
    plugin.answers();
    let second = until("another worker", || {
        child_of(plugin.keeper.id()).filter(|pid| *pid != first)
    });
    assert_eq!(inode(), bound);

    plugin.signal(Signal::TERM);
    assert_eq!(plugin.ended().code(), Some(0));
    assert!(!runs(second));
    assert!(!sockets.dra.as_path().exists());
    assert!(!sockets.registration.as_socket_path().as_path().exists());
    for left in ["state", "p/gpu.nvidia.com"] {
        assert!(!plugin.root.path().join(left).exists(), "{left} is left");
    }
}

#[test]
fn a_worker_that_was_told_to_stop_past_its_keeper_is_replaced_on_new_sockets() {
    let plugin = Plugin::start(&[]);
    plugin.answers();
    let worker = plugin.worker();
    kill_process(worker, Signal::TERM).unwrap();
    until("another worker", || {
        child_of(plugin.keeper.id()).filter(|pid| *pid != worker)
    });
    plugin.answers();
}

#[test]
fn a_worker_that_cannot_come_up_ends_the_keeper_with_its_code() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("--http-endpoint={}", taken.local_addr().unwrap());
    let mut plugin = Plugin::start(&[&endpoint]);
    assert_eq!(plugin.ended().code(), Some(1));
    assert!(!plugin.sockets().dra.as_path().exists());
}

#[test]
fn a_worker_dies_with_its_keeper() {
    let mut plugin = Plugin::start(&[]);
    plugin.answers();
    let worker = plugin.worker();
    plugin.signal(Signal::KILL);
    plugin.ended();
    until("the worker to die", || (!runs(worker)).then_some(()));
}

#[test]
fn without_a_keeper_one_process_does_all() {
    let mut plugin = Plugin::start(&["--keeper=false"]);
    plugin.answers();
    assert_eq!(child_of(plugin.keeper.id()), None);
    plugin.signal(Signal::TERM);
    assert_eq!(plugin.ended().code(), Some(0));
    assert!(!plugin.sockets().dra.as_path().exists());
}
